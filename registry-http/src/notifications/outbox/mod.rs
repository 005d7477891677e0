//! The outbox: events that endpoints have still to take, kept beyond a crash
//!
//! Every process that serves has a folder of its own, locked as long as it lives. In it are
//! segments, files that only grow: changes in some, reads in others. One thread writes them,
//! the events of all requests that wait in one go, and syncs once for all of them. Every event
//! has a sequence number, and every endpoint a cursor, the number of the last event that it
//! took; a segment that all have passed is deleted.
//!
//! **After a crash** the next process takes the folder, cuts off what is half written, and
//! goes on at the cursors. They are written a little later than endpoints answer, so events may
//! come twice, with the same id.
//!
//! **Several processes** on one share take over the folders of those that are gone, at their
//! start and from time to time: they put what is left there at the end of their own outbox, for
//! those endpoints alone that have not taken it, and then remove the folder.
//!
//! **When it is full** events of reads are given up, the oldest first. When those of changes
//! alone fill it, changes are refused before they are made, or the oldest are given up:
//! [`WhenFull`] says which. All that is given up is counted and logged.

mod folder;
mod record;
mod state;
#[cfg(test)]
mod tests;
mod writer;

use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use registry_core::event::Event;
use tokio::sync::{Notify, oneshot};

use self::folder::{Contents, Folder};
use self::state::{Body, Content, Dropped, Kind, Place, State};
use self::writer::{Command, Draft, Writer};
use super::WhenFull;
use super::stats::{EndpointStats, OutboxStats};
use crate::events::EventSinkError;

pub(crate) use self::state::Filter;

/// How many reads may wait for the writer; more are given up
const QUEUED_PULLS: usize = 8192;

/// How many events are taken over from another folder at a time
const ADOPTED_AT_ONCE: usize = 256;

#[derive(Clone, Debug)]
pub(crate) struct OutboxOptions {
    /// The folder for the folders of all processes; `None` to keep events in memory
    pub(crate) folder: Option<PathBuf>,
    /// How many bytes of events are kept
    pub(crate) limit: u64,
    pub(crate) when_full: WhenFull,
}

/// Events that wait, and the thread that writes them
#[derive(Debug)]
pub(crate) struct Outbox {
    shared: Arc<Shared>,
    commands: Sender<Command>,
    folder: Option<PathBuf>,
}

/// What the writer's thread and all others know
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    dropped: Dropped,
    /// The last attempt to write failed
    broken: AtomicBool,
    /// The writer was told already that there is something to tidy
    tidying: AtomicBool,
    /// Reads that wait for the writer
    queued: AtomicUsize,
    limit: u64,
    recorded: AtomicU64,
    refused: AtomicU64,
    syncs: AtomicU64,
    adopted: AtomicU64,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // No change of the state panics half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outbox {
    /// Opens an outbox, with what a process before it left
    ///
    /// Blocks.
    pub(crate) fn open(
        options: &OutboxOptions,
        endpoints: &[(String, Filter)],
    ) -> io::Result<Self> {
        let folder = options.folder.as_deref().map(Folder::claim).transpose()?;
        let contents = match &folder {
            Some(folder) => folder.load()?,
            None => Contents {
                cursors: Some([].into()),
                ..Contents::default()
            },
        };
        let mut state = State::new(options.limit, options.when_full);
        let dropped = Dropped::default();
        restore(&mut state, contents, endpoints);
        state.make_room(&dropped);
        if let Some(folder) = &folder {
            folder.save_cursors(&state.cursors(), true)?;
        }
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            dropped,
            broken: AtomicBool::new(false),
            tidying: AtomicBool::new(false),
            queued: AtomicUsize::new(0),
            limit: options.limit,
            recorded: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            adopted: AtomicU64::new(0),
        });
        let path = folder.as_ref().map(|folder| folder.path().to_owned());
        // Small, so that what was delivered goes soon and little is given up at once.
        let segment_size = (options.limit / 16).clamp(4 * 1024, 1024 * 1024);
        let writer = Writer::new(shared.clone(), folder, segment_size);
        let (commands, receiver) = mpsc::channel();
        std::thread::Builder::new()
            .name("outbox".to_owned())
            .spawn(move || writer.run(&receiver))?;
        let outbox = Self {
            shared,
            commands,
            folder: path,
        };
        outbox.tidy();
        Ok(outbox)
    }

    /// Whether there is room for the events of a change, and they can be written
    pub(crate) async fn admit(&self) -> Result<(), EventSinkError> {
        let result = if self.shared.state().refuses() {
            Err(EventSinkError::Full {
                limit: self.shared.limit,
            })
        } else if self.shared.broken.load(Ordering::Relaxed) {
            self.ask(|done| Command::Probe { done }).await
        } else {
            Ok(())
        };
        self.count_refusal(result)
    }

    /// Writes events down; when this returns they are on disk
    pub(crate) async fn append(&self, events: &[Event]) -> Result<(), EventSinkError> {
        let drafts = events.iter().map(draft).collect::<Result<_, _>>()?;
        let result = self
            .ask(|done| Command::Append {
                drafts,
                done: Some(done),
            })
            .await;
        self.count_refusal(result)
    }

    /// Writes an event down, some time soon
    pub(crate) fn notice(&self, event: &Event) {
        let kind = Kind::of(event);
        let takers = self.shared.state().takers(&kind, None).count();
        if takers == 0 {
            return;
        }
        if self.shared.queued.fetch_add(1, Ordering::Relaxed) < QUEUED_PULLS
            && let Ok(draft) = draft(event)
        {
            let command = Command::Append {
                drafts: vec![draft],
                done: None,
            };
            if self.commands.send(command).is_ok() {
                return;
            }
        }
        self.shared.queued.fetch_sub(1, Ordering::Relaxed);
        self.shared
            .dropped
            .pulls
            .fetch_add(takers as u64, Ordering::Relaxed);
    }

    /// Makes these the endpoints
    pub(crate) async fn subscribe(
        &self,
        endpoints: Vec<(String, Filter)>,
    ) -> Result<(), EventSinkError> {
        self.ask(|done| Command::Subscribe { endpoints, done })
            .await
    }

    /// What tells that there may be more for this endpoint
    pub(crate) fn wake(&self, name: &str) -> Arc<Notify> {
        self.shared
            .state()
            .queue(name)
            .map(|queue| queue.wake.clone())
            .unwrap_or_default()
    }

    pub(crate) fn counters(&self, name: &str) -> Arc<super::stats::Counters> {
        self.shared
            .state()
            .queue(name)
            .map(|queue| queue.counters.clone())
            .unwrap_or_default()
    }

    /// The JSON of the next events of an endpoint, and the sequence number of the last
    pub(crate) async fn next(
        &self,
        name: &str,
        events: usize,
        bytes: usize,
    ) -> io::Result<(Vec<Vec<u8>>, u64)> {
        let (contents, last) = self.shared.state().peek(name, events, bytes);
        let read = move || {
            contents
                .into_iter()
                .map(|content| match content {
                    Content::At { file, offset, len } => {
                        let mut bytes = vec![0; len];
                        file.read_exact_at(&mut bytes, offset)?;
                        Ok(bytes)
                    }
                    Content::Bytes(bytes) => Ok(bytes),
                })
                .collect::<io::Result<Vec<_>>>()
        };
        let read = match self.folder {
            Some(_) => tokio::task::spawn_blocking(read)
                .await
                .map_err(io::Error::other)??,
            None => read()?,
        };
        Ok((read, last))
    }

    /// An endpoint has taken all up to this sequence number
    pub(crate) fn acknowledge(&self, name: &str, through: u64) {
        self.shared.state().acknowledge(name, through);
        self.tidy();
    }

    /// Takes over what processes that are gone have left, and returns how many events
    ///
    /// Blocks.
    pub(crate) fn adopt(&self) -> io::Result<u64> {
        let mut adopted = 0;
        let Some(own) = &self.folder else {
            return Ok(0);
        };
        for folder in Folder::abandoned(own)? {
            let path = folder.path().to_owned();
            match self.adopt_folder(folder) {
                Ok(events) => adopted += events,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, folder = %path.display(), "the events that another process left cannot be taken over yet");
                }
            }
        }
        Ok(adopted)
    }

    fn adopt_folder(&self, folder: Folder) -> io::Result<u64> {
        let contents = folder.load()?;
        let used = self.shared.state().used(None);
        if used > 0 && used + contents.bytes() > self.shared.limit {
            tracing::info!(folder = %folder.path().display(), "there is no room yet for the events that another process left");
            return Ok(0);
        }
        let mut adopted = 0;
        for chunk in contents.events.chunks(ADOPTED_AT_ONCE) {
            let mut drafts = Vec::new();
            for event in chunk {
                let only = event.only.as_deref();
                let names: Vec<String> = {
                    let state = self.shared.state();
                    state
                        .takers(&event.kind, only)
                        .filter(|name| contents.cursor(name).is_some_and(|at| at < event.seq))
                        .map(str::to_owned)
                        .collect()
                };
                if names.is_empty() {
                    continue;
                }
                let mut json = vec![0; event.len];
                contents.segments[event.segment]
                    .file
                    .read_exact_at(&mut json, event.offset)?;
                drafts.push(Draft {
                    json,
                    kind: event.kind.clone(),
                    only: Some(names),
                });
            }
            if drafts.is_empty() {
                continue;
            }
            adopted += drafts.len() as u64;
            let (done, result) = oneshot::channel();
            let command = Command::Append {
                drafts,
                done: Some(done),
            };
            let closed = || io::Error::other(EventSinkError::Closed);
            self.commands.send(command).map_err(|_| closed())?;
            result
                .blocking_recv()
                .map_err(|_| closed())?
                .map_err(io::Error::other)?;
        }
        if adopted > 0 {
            tracing::info!(folder = %folder.path().display(), events = adopted, "took over the events that another process left");
        }
        self.shared.adopted.fetch_add(adopted, Ordering::Relaxed);
        folder.remove()?;
        Ok(adopted)
    }

    /// How many events an endpoint has still to take
    pub(crate) fn pending(&self, name: &str) -> usize {
        self.shared.state().pending(name)
    }

    pub(crate) fn endpoint_stats(&self, name: &str) -> EndpointStats {
        let state = self.shared.state();
        match state.queue(name) {
            Some(queue) => queue.counters.snapshot(name, state.pending(name)),
            None => EndpointStats {
                name: name.to_owned(),
                ..EndpointStats::default()
            },
        }
    }

    pub(crate) fn stats(&self) -> OutboxStats {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let state = self.shared.state();
        OutboxStats {
            waiting: state.waiting() as u64,
            bytes: state.used(None),
            limit: self.shared.limit,
            dropped_pulls: read(&self.shared.dropped.pulls),
            dropped_changes: read(&self.shared.dropped.changes),
            refused: read(&self.shared.refused),
            recorded: read(&self.shared.recorded),
            syncs: read(&self.shared.syncs),
            adopted: read(&self.shared.adopted),
        }
    }

    /// Writes the cursors down and lets the folder go; what comes later is refused
    pub(crate) async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.commands.send(Command::Stop { done }).is_ok() {
            // Without an answer it was closed before.
            let _ = closed.await;
        }
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, EventSinkError>>) -> Command,
    ) -> Result<T, EventSinkError> {
        let (done, result) = oneshot::channel();
        self.commands
            .send(command(done))
            .map_err(|_| EventSinkError::Closed)?;
        result.await.map_err(|_| EventSinkError::Closed)?
    }

    fn count_refusal(&self, result: Result<(), EventSinkError>) -> Result<(), EventSinkError> {
        if result.is_err() {
            self.shared.refused.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    fn tidy(&self) {
        if !self.shared.tidying.swap(true, Ordering::Relaxed) {
            // A writer that has stopped has tidied.
            let _ = self.commands.send(Command::Tidy);
        }
    }
}

/// Puts what was found in a folder into the queues
fn restore(state: &mut State, contents: Contents, endpoints: &[(String, Filter)]) {
    state.next = contents.next();
    let _ = state.subscribe(endpoints, |name| contents.cursor(name));
    let known = contents.cursors.iter().flatten();
    for (name, cursor) in known.filter(|(name, _)| state.queue(name).is_none()) {
        let lost = contents
            .events
            .iter()
            .filter(|event| event.seq > *cursor)
            .count();
        if lost > 0 {
            tracing::warn!(
                endpoint = name,
                events = lost,
                "a notification endpoint is not in the configuration any more; the events that it has not taken are given up"
            );
        }
    }
    let mut ids = Vec::new();
    for segment in contents.segments {
        let body = Body::File {
            file: Arc::new(segment.file),
            path: segment.path,
        };
        state.add_segment(segment.id, segment.lane, body, segment.len);
        ids.push(segment.id);
    }
    for event in contents.events {
        let place = Place {
            seq: event.seq,
            segment: ids[event.segment],
            offset: event.offset,
            len: event.len,
        };
        state.enqueue(place, &event.kind, event.only.as_deref());
    }
    for id in ids {
        state.seal(id);
    }
}

fn draft(event: &Event) -> Result<Draft, EventSinkError> {
    Ok(Draft {
        json: serde_json::to_vec(event)
            .map_err(|error| EventSinkError::Failed(io::Error::other(error)))?,
        kind: Kind::of(event),
        only: None,
    })
}

/// The same failure, for one more who waited
fn failed(error: &io::Error) -> EventSinkError {
    EventSinkError::Failed(io::Error::new(error.kind(), error.to_string()))
}
