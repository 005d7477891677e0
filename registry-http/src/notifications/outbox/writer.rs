//! The one thread that writes: events of many requests at once, then one sync for all

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::folder::Folder;
use super::record::{MAGIC, encode};
use super::state::{Body, Filter, Kind, Lane, Place};
use super::{Shared, failed};
use crate::events::EventSinkError;

/// How many commands are carried out with one sync at most
const BATCH: usize = 512;

/// How long the cursors on disk may lag: what a kill in between lets be sent twice
const CURSORS_LAG: Duration = Duration::from_millis(100);

type Done<T> = oneshot::Sender<Result<T, EventSinkError>>;

/// An event on its way into a segment
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) json: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) only: Option<Vec<String>>,
}

pub(super) enum Command {
    Append {
        drafts: Vec<Draft>,
        /// `None` for reads, which nobody waits for
        done: Option<Done<()>>,
    },
    /// Look whether writing works again
    Probe {
        done: Done<()>,
    },
    Stop {
        done: oneshot::Sender<()>,
    },
    Subscribe {
        endpoints: Vec<(String, Filter)>,
        done: Done<()>,
    },
    /// Endpoints have taken events
    Tidy,
}

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    /// `None`: events are kept in memory alone
    pub(super) folder: Option<Folder>,
    pub(super) segment_size: u64,
    active: [Option<Active>; 2],
    tidied: Instant,
    untidy: bool,
}

/// The segment that a lane is written to
struct Active {
    id: u64,
    file: Option<Arc<File>>,
    len: u64,
}

/// What is written to a lane in one go
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    events: Vec<(Place, Kind, Option<Vec<String>>)>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, folder: Option<Folder>, segment_size: u64) -> Self {
        Self {
            shared,
            folder,
            segment_size,
            active: [None, None],
            tidied: Instant::now(),
            untidy: false,
        }
    }

    /// Carries out commands until it is told to stop, or everybody is gone who could tell
    pub(super) fn run(mut self, commands: &Receiver<Command>) {
        loop {
            let first = if self.untidy {
                let due = CURSORS_LAG.saturating_sub(self.tidied.elapsed());
                match commands.recv_timeout(due) {
                    Ok(command) => Some(command),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            } else {
                match commands.recv() {
                    Ok(command) => Some(command),
                    Err(_) => break,
                }
            };
            let batch = first
                .into_iter()
                .chain(std::iter::from_fn(|| commands.try_recv().ok()))
                .take(BATCH);
            let mut appends = Vec::new();
            let mut stop = None;
            for command in batch {
                match command {
                    Command::Append { drafts, done } => appends.push((drafts, done)),
                    Command::Probe { done } => {
                        self.append(std::mem::take(&mut appends));
                        let result = self.probe();
                        let _ = done.send(result.map_err(EventSinkError::Failed));
                    }
                    Command::Stop { done } => {
                        stop = Some(done);
                        break;
                    }
                    Command::Subscribe { endpoints, done } => {
                        self.append(std::mem::take(&mut appends));
                        let result = self.subscribe(&endpoints);
                        let _ = done.send(result.map_err(EventSinkError::Failed));
                    }
                    Command::Tidy => self.untidy = true,
                }
            }
            self.append(appends);
            if let Some(done) = stop {
                self.tidy(true);
                // The lock goes before anybody is told that it is gone.
                drop(self);
                let _ = done.send(());
                return;
            }
            if self.untidy && self.tidied.elapsed() >= CURSORS_LAG {
                self.tidy(false);
            }
        }
        self.tidy(true);
    }

    fn append(&mut self, appends: Vec<(Vec<Draft>, Option<Done<()>>)>) {
        if appends.is_empty() {
            return;
        }
        let mut batches = [Batch::default(), Batch::default()];
        let mut waiting = Vec::new();
        let mut pulls = 0;
        {
            let mut state = self.shared.state();
            for (drafts, done) in appends {
                if done.is_none() {
                    pulls += drafts.len();
                }
                for draft in drafts {
                    let lane = Lane::of(draft.kind.action);
                    let takers = state.takers(&draft.kind, draft.only.as_deref()).count();
                    if takers == 0 {
                        continue;
                    }
                    // It would be the first to be given up again.
                    if lane == Lane::Pulls && state.is_full() {
                        self.shared.dropped.count(lane, takers as u64);
                        continue;
                    }
                    let batch = &mut batches[lane as usize];
                    let seq = state.next;
                    state.next += 1;
                    let at = encode(&mut batch.bytes, seq, draft.only.as_deref(), &draft.json);
                    let place = Place {
                        seq,
                        segment: 0,
                        offset: at as u64,
                        len: draft.json.len(),
                    };
                    batch.events.push((place, draft.kind, draft.only));
                }
                waiting.extend(done);
            }
        }
        self.shared.queued.fetch_sub(pulls, Ordering::Relaxed);

        let mut written = Vec::new();
        let mut failure = None;
        for (lane, batch) in Lane::ALL.into_iter().zip(batches) {
            let Some((first, ..)) = batch.events.first() else {
                continue;
            };
            match self.write(lane, first.seq, &batch.bytes) {
                Ok((segment, base)) => {
                    written.extend(batch.events.into_iter().map(|(place, kind, only)| {
                        let offset = base + place.offset;
                        let place = Place {
                            segment,
                            offset,
                            ..place
                        };
                        (place, kind, only)
                    }))
                }
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        folder = ?self.folder.as_ref().map(Folder::path),
                        events = batch.events.len(),
                        kind = ?lane,
                        "events cannot be written to the outbox"
                    );
                    match lane {
                        Lane::Changes => failure = Some(error),
                        Lane::Pulls => {
                            let lost = batch.events.len() as u64;
                            self.shared.dropped.count(lane, lost);
                        }
                    }
                }
            }
        }
        written.sort_by_key(|(place, ..)| place.seq);
        {
            let mut state = self.shared.state();
            for (place, kind, only) in &written {
                state.enqueue(*place, kind, only.as_deref());
            }
            state.make_room(&self.shared.dropped);
        }
        self.shared
            .recorded
            .fetch_add(waiting.len() as u64, Ordering::Relaxed);
        for done in waiting {
            // Whoever waited may be gone, and does not care any more.
            let _ = done.send(match &failure {
                None => Ok(()),
                Some(error) => Err(failed(error)),
            });
        }
    }

    /// Writes to the end of a lane and returns the segment and where in it
    fn write(&mut self, lane: Lane, first: u64, bytes: &[u8]) -> io::Result<(u64, u64)> {
        let open = self.open_segment(lane, first, bytes.len() as u64);
        let result = open.and_then(|()| {
            let Some(active) = &mut self.active[lane as usize] else {
                return Err(io::ErrorKind::NotFound.into());
            };
            if let Some(file) = &active.file {
                file.write_all_at(bytes, active.len)?;
                if lane == Lane::Changes {
                    file.sync_data()?;
                    self.shared.syncs.fetch_add(1, Ordering::Relaxed);
                }
            }
            let base = active.len;
            active.len += bytes.len() as u64;
            self.shared.state().grow(active.id, bytes);
            Ok((active.id, base))
        });
        if lane == Lane::Changes {
            self.shared.broken.store(result.is_err(), Ordering::Relaxed);
        }
        if result.is_err()
            && let Some(active) = self.active[lane as usize].take()
        {
            // What follows half a record cannot be read, and what a failed sync left on disk is
            // not known: go on in another segment.
            if let Some(file) = &active.file {
                let _ = file.set_len(active.len);
            }
            self.shared.state().seal(active.id);
        }
        result
    }

    /// Makes sure that the lane has a segment with room, or makes one
    fn open_segment(&mut self, lane: Lane, first: u64, more: u64) -> io::Result<()> {
        if let Some(active) = &self.active[lane as usize] {
            let mut state = self.shared.state();
            let fits = active.len + more <= self.segment_size || active.len <= MAGIC.len() as u64;
            if fits && state.is_open(active.id) {
                return Ok(());
            }
            state.seal(active.id);
            drop(state);
            self.active[lane as usize] = None;
            self.untidy = true;
        }
        let (file, body, len) = match &self.folder {
            Some(folder) => {
                let (file, path) = folder.create_segment(first, lane)?;
                let file = Arc::new(file);
                let body = Body::File {
                    file: file.clone(),
                    path,
                };
                (Some(file), body, MAGIC.len() as u64)
            }
            None => (None, Body::Memory(Vec::new()), 0),
        };
        self.shared.state().add_segment(first, lane, body, len);
        self.active[lane as usize] = Some(Active {
            id: first,
            file,
            len,
        });
        Ok(())
    }

    /// Tries to write, after it has failed
    fn probe(&mut self) -> io::Result<()> {
        let first = {
            let mut state = self.shared.state();
            state.next += 1;
            state.next - 1
        };
        self.write(Lane::Changes, first, &[]).map(|_| ())
    }

    fn subscribe(&mut self, endpoints: &[(String, Filter)]) -> io::Result<()> {
        // On disk first: after a crash a new endpoint gets what came since, and if this fails
        // nothing has changed. Nobody else gives out sequence numbers in between.
        let mut cursors = BTreeMap::new();
        {
            let state = self.shared.state();
            let old = state.cursors();
            for (name, _) in endpoints {
                let cursor = old.get(name).copied().unwrap_or(state.next - 1);
                cursors.insert(name.clone(), cursor);
            }
        }
        self.save(&cursors, true)?;
        let gone = self.shared.state().subscribe(endpoints, |_| None);
        for (name, events) in gone {
            if events > 0 {
                tracing::warn!(
                    endpoint = name,
                    events,
                    "a notification endpoint was taken out of the configuration; the events that it has not taken are given up"
                );
            }
        }
        self.untidy = true;
        Ok(())
    }

    /// Writes the cursors down and removes what nobody needs
    fn tidy(&mut self, sync: bool) {
        self.untidy = false;
        self.tidied = Instant::now();
        self.shared.tidying.store(false, Ordering::Relaxed);
        let (cursors, garbage) = {
            let mut state = self.shared.state();
            (state.cursors(), state.take_garbage())
        };
        if let Err(error) = self.save(&cursors, sync) {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "what was delivered cannot be written down; after a restart it is sent again"
            );
        }
        for path in garbage {
            if let Err(error) = fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(error = &error as &dyn std::error::Error, path = %path.display(), "delivered events still take room");
            }
        }
    }

    fn save(&self, cursors: &BTreeMap<String, u64>, sync: bool) -> io::Result<()> {
        match &self.folder {
            Some(folder) => folder.save_cursors(cursors, sync),
            None => Ok(()),
        }
    }
}
