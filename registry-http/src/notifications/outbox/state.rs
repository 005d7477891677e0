//! What waits for whom: segments, and one queue of places in them for each endpoint

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use registry_core::event::{Event, EventAction};
use tokio::sync::Notify;

use crate::notifications::WhenFull;
use crate::notifications::stats::Counters;

/// Reads and changes are kept apart, so that reads can make room for changes
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Changes,
    Pulls,
}

impl Lane {
    pub(super) const ALL: [Self; 2] = [Self::Changes, Self::Pulls];

    pub(super) fn of(action: EventAction) -> Self {
        match action {
            EventAction::Pull => Self::Pulls,
            _ => Self::Changes,
        }
    }
}

/// Which events an endpoint does not want
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) media_types: Vec<String>,
    pub(crate) actions: Vec<EventAction>,
}

/// What a [`Filter`] looks at
#[derive(Clone, Debug)]
pub(super) struct Kind {
    pub(super) action: EventAction,
    pub(super) media_type: Option<String>,
}

impl Kind {
    pub(super) fn of(event: &Event) -> Self {
        Self {
            action: event.action,
            media_type: event.target.media_type.as_ref().map(ToString::to_string),
        }
    }
}

impl Filter {
    pub(super) fn wants(&self, kind: &Kind) -> bool {
        let ignored = |media_type: &String| self.media_types.contains(media_type);
        !self.actions.contains(&kind.action) && !kind.media_type.as_ref().is_some_and(ignored)
    }
}

/// Where the bytes of a segment are
#[derive(Debug)]
pub(super) enum Body {
    File { file: Arc<File>, path: PathBuf },
    Memory(Vec<u8>),
}

#[derive(Debug)]
struct Segment {
    lane: Lane,
    body: Body,
    len: u64,
    /// How many places in queues point here
    waiting: usize,
    /// Nothing more is written to it
    sealed: bool,
}

/// Where an event is
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) seq: u64,
    pub(super) segment: u64,
    pub(super) offset: u64,
    pub(super) len: usize,
}

#[derive(Debug)]
pub(super) struct Queue {
    places: VecDeque<Place>,
    filter: Filter,
    /// All up to here was taken
    cursor: u64,
    pub(super) wake: Arc<Notify>,
    pub(super) counters: Arc<Counters>,
}

/// An event that is to be sent next, or where to read it
#[derive(Debug)]
pub(super) enum Content {
    At {
        file: Arc<File>,
        offset: u64,
        len: usize,
    },
    Bytes(Vec<u8>),
}

#[derive(Debug)]
pub(super) struct State {
    segments: BTreeMap<u64, Segment>,
    queues: BTreeMap<String, Queue>,
    /// The sequence number of the next event
    pub(super) next: u64,
    limit: u64,
    when_full: WhenFull,
    /// Files that nobody needs any more
    garbage: Vec<PathBuf>,
}

/// What was given up for lack of room, counted once for each endpoint that did not get it
#[derive(Debug, Default)]
pub(super) struct Dropped {
    pub(super) pulls: AtomicU64,
    pub(super) changes: AtomicU64,
}

impl Dropped {
    pub(super) fn count(&self, lane: Lane, events: u64) {
        let count = match lane {
            Lane::Changes => &self.changes,
            Lane::Pulls => &self.pulls,
        };
        count.fetch_add(events, Ordering::Relaxed);
    }
}

impl State {
    pub(super) fn new(limit: u64, when_full: WhenFull) -> Self {
        Self {
            segments: BTreeMap::new(),
            queues: BTreeMap::new(),
            next: 1,
            limit,
            when_full,
            garbage: Vec::new(),
        }
    }

    /// Makes these the endpoints, and returns how many events were given up with old ones
    ///
    /// One that is new gets the events from now on, unless `cursors` says where it was.
    pub(super) fn subscribe(
        &mut self,
        endpoints: &[(String, Filter)],
        cursors: impl Fn(&str) -> Option<u64>,
    ) -> Vec<(String, usize)> {
        let mut gone = Vec::new();
        let names: Vec<String> = self.queues.keys().cloned().collect();
        for name in names {
            if endpoints.iter().any(|(kept, _)| *kept == name) {
                continue;
            }
            if let Some(queue) = self.queues.remove(&name) {
                gone.push((name, queue.places.len()));
                for place in queue.places {
                    self.release(place.segment);
                }
            }
        }
        for (name, filter) in endpoints {
            if let Some(queue) = self.queues.get_mut(name) {
                queue.filter = filter.clone();
                continue;
            }
            self.queues.insert(
                name.clone(),
                Queue {
                    places: VecDeque::new(),
                    filter: filter.clone(),
                    cursor: cursors(name).unwrap_or(self.next - 1),
                    wake: Arc::default(),
                    counters: Arc::default(),
                },
            );
        }
        gone
    }

    pub(super) fn queue(&self, name: &str) -> Option<&Queue> {
        self.queues.get(name)
    }

    pub(super) fn cursors(&self) -> BTreeMap<String, u64> {
        self.queues
            .iter()
            .map(|(name, queue)| (name.clone(), queue.cursor))
            .collect()
    }

    /// Who is to get an event
    pub(super) fn takers<'a>(
        &'a self,
        kind: &'a Kind,
        only: Option<&'a [String]>,
    ) -> impl Iterator<Item = &'a str> {
        self.queues
            .iter()
            .filter(move |(name, queue)| {
                queue.filter.wants(kind) && only.is_none_or(|only| only.contains(name))
            })
            .map(|(name, _)| name.as_str())
    }

    pub(super) fn add_segment(&mut self, id: u64, lane: Lane, body: Body, len: u64) {
        let segment = Segment {
            lane,
            body,
            len,
            waiting: 0,
            sealed: false,
        };
        self.segments.insert(id, segment);
    }

    /// Says that nothing more is written to a segment; one that nobody needs goes
    pub(super) fn seal(&mut self, id: u64) {
        if let Some(segment) = self.segments.get_mut(&id) {
            segment.sealed = true;
        }
        self.collect(id);
    }

    /// Whether the segment can still be written to
    pub(super) fn is_open(&self, id: u64) -> bool {
        self.segments
            .get(&id)
            .is_some_and(|segment| !segment.sealed)
    }

    /// Adds bytes that were written to a segment
    pub(super) fn grow(&mut self, id: u64, bytes: &[u8]) {
        if let Some(segment) = self.segments.get_mut(&id) {
            segment.len += bytes.len() as u64;
            if let Body::Memory(memory) = &mut segment.body {
                memory.extend_from_slice(bytes);
            }
        }
    }

    /// Puts an event at the end of the queue of whoever is to get it
    pub(super) fn enqueue(&mut self, place: Place, kind: &Kind, only: Option<&[String]>) {
        let mut takers = 0;
        for (name, queue) in &mut self.queues {
            if queue.cursor < place.seq
                && queue.filter.wants(kind)
                && only.is_none_or(|only| only.contains(name))
            {
                queue.places.push_back(place);
                queue.counters.events.fetch_add(1, Ordering::Relaxed);
                queue.wake.notify_one();
                takers += 1;
            }
        }
        if let Some(segment) = self.segments.get_mut(&place.segment) {
            segment.waiting += takers;
        }
    }

    /// The next events of an endpoint, with the sequence number of the last
    pub(super) fn peek(&self, name: &str, events: usize, bytes: usize) -> (Vec<Content>, u64) {
        let mut contents = Vec::new();
        let (mut last, mut total) = (0, 0);
        let Some(queue) = self.queues.get(name) else {
            return (contents, last);
        };
        for place in queue.places.iter().take(events) {
            total += place.len;
            if !contents.is_empty() && total > bytes {
                break;
            }
            let Some(segment) = self.segments.get(&place.segment) else {
                break;
            };
            last = place.seq;
            contents.push(match &segment.body {
                Body::File { file, .. } => Content::At {
                    file: file.clone(),
                    offset: place.offset,
                    len: place.len,
                },
                Body::Memory(memory) => {
                    let start = usize::try_from(place.offset).unwrap_or(usize::MAX);
                    let event = memory.get(start..start.saturating_add(place.len));
                    Content::Bytes(event.unwrap_or_default().to_vec())
                }
            });
        }
        (contents, last)
    }

    /// An endpoint has taken all events up to this one
    pub(super) fn acknowledge(&mut self, name: &str, through: u64) {
        let Some(queue) = self.queues.get_mut(name) else {
            return;
        };
        queue.cursor = queue.cursor.max(through);
        let taken = queue.places.partition_point(|place| place.seq <= through);
        let places: Vec<Place> = queue.places.drain(..taken).collect();
        if queue.places.is_empty() {
            // A backlog that is gone gives its memory back.
            queue.places.shrink_to_fit();
        }
        for place in places {
            self.release(place.segment);
        }
    }

    fn release(&mut self, segment: u64) {
        if let Some(segment) = self.segments.get_mut(&segment) {
            segment.waiting = segment.waiting.saturating_sub(1);
        }
        self.collect(segment);
    }

    /// Takes a segment away when nobody needs it
    fn collect(&mut self, id: u64) {
        let done = |segment: &Segment| segment.sealed && segment.waiting == 0;
        if !self.segments.get(&id).is_some_and(done) {
            return;
        }
        if let Some(segment) = self.segments.remove(&id)
            && let Body::File { path, .. } = segment.body
        {
            self.garbage.push(path);
        }
    }

    pub(super) fn take_garbage(&mut self) -> Vec<PathBuf> {
        std::mem::take(&mut self.garbage)
    }

    /// The bytes of segments in which an event waits
    pub(super) fn used(&self, lane: Option<Lane>) -> u64 {
        self.segments
            .values()
            .filter(|segment| segment.waiting > 0 && lane.is_none_or(|lane| lane == segment.lane))
            .map(|segment| segment.len)
            .sum()
    }

    /// How many events wait, once for each endpoint that has not taken it
    pub(super) fn waiting(&self) -> usize {
        self.queues.values().map(|queue| queue.places.len()).sum()
    }

    pub(super) fn pending(&self, name: &str) -> usize {
        self.queues.get(name).map_or(0, |queue| queue.places.len())
    }

    /// Whether changes alone take all the room
    pub(super) fn is_full(&self) -> bool {
        self.used(Some(Lane::Changes)) >= self.limit
    }

    pub(super) fn refuses(&self) -> bool {
        self.when_full == WhenFull::Refuse && self.is_full()
    }

    /// Gives up the oldest events until the others fit: pulls first, and changes only where
    /// that is the policy
    pub(super) fn make_room(&mut self, dropped: &Dropped) {
        while self.used(None) > self.limit {
            let oldest = |lane: Lane| {
                self.segments
                    .iter()
                    .find(|(_, segment)| segment.lane == lane && segment.waiting > 0)
                    .map(|(id, _)| *id)
            };
            let (victim, lane) = match (oldest(Lane::Pulls), self.when_full) {
                (Some(id), _) => (id, Lane::Pulls),
                (None, WhenFull::DropOldest) => match oldest(Lane::Changes) {
                    Some(id) => (id, Lane::Changes),
                    None => return,
                },
                (None, WhenFull::Refuse) => return,
            };
            let mut lost = 0;
            for queue in self.queues.values_mut() {
                let before = queue.places.len();
                queue.places.retain(|place| place.segment != victim);
                let gone = (before - queue.places.len()) as u64;
                queue.counters.dropped.fetch_add(gone, Ordering::Relaxed);
                lost += gone;
            }
            dropped.count(lane, lost);
            tracing::error!(
                events = lost,
                kind = ?lane,
                limit = self.limit,
                "events were given up: notification endpoints do not take them and there is no room for more"
            );
            if let Some(segment) = self.segments.get_mut(&victim) {
                segment.waiting = 0;
            }
            self.seal(victim);
        }
    }
}
