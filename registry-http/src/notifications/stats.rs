//! Numbers: what `/debug/vars` shows, and what a metrics exporter reads

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use http::StatusCode;
use serde::Serialize;

/// What an endpoint did since the process started
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) events: AtomicU64,
    pub(crate) dropped: AtomicU64,
    successes: AtomicU64,
    failures: AtomicU64,
    errors: AtomicU64,
    statuses: Mutex<BTreeMap<u16, u64>>,
}

impl Counters {
    pub(crate) fn answered(&self, status: StatusCode, taken: bool, events: u64) {
        let count = if taken {
            &self.successes
        } else {
            &self.failures
        };
        count.fetch_add(events, Ordering::Relaxed);
        *self
            .statuses
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .entry(status.as_u16())
            .or_default() += events;
    }

    pub(crate) fn unanswered(&self, events: u64) {
        self.errors.fetch_add(events, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self, name: &str, pending: usize) -> EndpointStats {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        EndpointStats {
            name: name.to_owned(),
            pending: pending as u64,
            events: read(&self.events),
            successes: read(&self.successes),
            failures: read(&self.failures),
            errors: read(&self.errors),
            dropped: read(&self.dropped),
            statuses: self
                .statuses
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .clone(),
        }
    }
}

/// The numbers of a [`Notifier`](super::Notifier), for a metrics exporter
///
/// All but `pending`, `waiting` and the bytes only grow, from the start of the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NotifierStats {
    /// The outbox
    pub outbox: OutboxStats,
    /// The endpoints, by name
    pub endpoints: Vec<EndpointStats>,
}

/// The numbers of the outbox
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutboxStats {
    /// How many events wait, counted once for each endpoint that has not taken it
    pub waiting: u64,
    /// The bytes that they take
    pub bytes: u64,
    /// The bytes that they may take
    pub limit: u64,
    /// Events of reads that were given up for lack of room, counted once for each endpoint
    pub dropped_pulls: u64,
    /// Events of changes that were given up for lack of room, counted once for each endpoint
    pub dropped_changes: u64,
    /// Changes that were refused for lack of room, or because events could not be written
    pub refused: u64,
    /// Requests whose events were written
    pub recorded: u64,
    /// How often events were synced to disk, several requests at once
    pub syncs: u64,
    /// Events that came over from the folders of processes that are gone
    pub adopted: u64,
}

/// The numbers of one endpoint, counted in events
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointStats {
    /// Its name
    pub name: String,
    /// Events that it has still to take
    pub pending: u64,
    /// Events for it, those that were found at the start included
    pub events: u64,
    /// Events that it took
    pub successes: u64,
    /// Events that it answered with a status that says no, once for each time
    pub failures: u64,
    /// Events that were sent without an answer, once for each time
    pub errors: u64,
    /// Events that were given up for lack of room
    pub dropped: u64,
    /// Events by the status of the answer
    pub statuses: BTreeMap<u16, u64>,
}

/// What `/debug/vars` shows under `registry.notifications`, in distribution's shape
///
/// Durations are nanoseconds. Header values and what may be secret in a URL are replaced.
///
/// # Examples
///
/// ```
/// use registry_http::notifications::{Endpoint, Notifier, NotifierOptions};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let endpoint = Endpoint::new("alistener", "https://user:secret@listener.example/event")?;
/// let notifier = Notifier::open(NotifierOptions::default(), vec![endpoint]).await?;
/// let vars = serde_json::to_value(notifier.vars())?;
/// assert_eq!(vars["endpoints"][0]["url"], "https://listener.example/event");
/// assert_eq!(vars["endpoints"][0]["Metrics"]["Pending"], 0);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NotificationsVars {
    /// The endpoints, in the order of the configuration
    pub endpoints: Vec<EndpointVars>,
}

/// One endpoint in [`NotificationsVars`]
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub struct EndpointVars {
    /// Its name
    #[serde(rename = "name")]
    pub name: String,
    /// Its URL
    #[serde(rename = "url")]
    pub url: String,
    /// Names of the headers that are sent; values are hidden
    pub headers: Option<BTreeMap<String, Vec<String>>>,
    /// How long an attempt may take
    pub timeout: u64,
    /// After how many failures one after the other it is left alone for a while
    pub threshold: u32,
    /// For how long
    pub backoff: u64,
    /// Media types of which it is told nothing
    pub ignored_media_types: Option<Vec<String>>,
    /// What it is told nothing of
    pub ignore: IgnoreVars,
    /// Its numbers
    pub metrics: MetricsVars,
}

/// What an endpoint is not told of
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub struct IgnoreVars {
    /// Media types
    pub media_types: Option<Vec<String>>,
    /// Actions
    pub actions: Option<Vec<String>>,
}

/// The numbers of an endpoint, counted in events
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub struct MetricsVars {
    /// Still to be sent
    pub pending: u64,
    /// Came in
    pub events: u64,
    /// Taken
    pub successes: u64,
    /// Answered with a status that says no
    pub failures: u64,
    /// Not answered
    pub errors: u64,
    /// By status, such as `202 Accepted`
    pub statuses: BTreeMap<String, u64>,
}

impl From<EndpointStats> for MetricsVars {
    fn from(stats: EndpointStats) -> Self {
        let name = |status: u16| {
            let reason = StatusCode::from_u16(status)
                .ok()
                .and_then(|status| status.canonical_reason());
            format!("{status} {}", reason.unwrap_or_default())
        };
        Self {
            pending: stats.pending,
            events: stats.events,
            successes: stats.successes,
            failures: stats.failures,
            errors: stats.errors,
            statuses: stats
                .statuses
                .into_iter()
                .map(|(status, count)| (name(status), count))
                .collect(),
        }
    }
}
