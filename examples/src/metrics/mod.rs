//! What Prometheus scrapes: requests, storage calls, notifications and the process
//!
//! Metrics that distribution 2.8 has keep their names and labels, so that dashboards made for
//! it go on working; `handler` is the name of its route.
//!
//! | metric | kind | labels | as distribution |
//! |---|---|---|---|
//! | `registry_http_requests_total` | counter | `handler`, `method`, `code` | yes |
//! | `registry_http_request_duration_seconds` | histogram | `handler`, `method` | yes |
//! | `registry_http_in_flight_requests` | gauge | `handler` | yes |
//! | `registry_http_request_size_bytes` | histogram | `handler` | yes; bytes of the body that were read |
//! | `registry_http_response_size_bytes` | histogram | `handler` | yes |
//! | `registry_http_operations_total` | counter | `operation`, `code` | |
//! | `registry_http_operation_duration_seconds` | histogram | `operation` | |
//! | `registry_http_incomplete_responses_total` | counter | | |
//! | `registry_storage_action_seconds` | histogram | `driver`, `action` | yes |
//! | `registry_storage_calls_total` | counter | `driver`, `action`, `outcome` | |
//! | `registry_storage_bytes_total` | counter | `driver`, `action` | |
//! | `registry_storage_uploads_open` | gauge | `driver` | |
//! | `registry_storage_cache_total` | counter | `type` (`Request`, `Hit`, `Miss`) | yes; what is cached differs |
//! | `registry_access_decisions_total` | counter | `rule`, `outcome` (`allow`, `deny`, `unknown`) | |
//! | `registry_htpasswd_hashes_total`, `_rounds_total`, `_unavailable_total` | counter | | |
//! | `registry_htpasswd_waiting`, `_users` | gauge | | |
//! | `registry_notifications_events_total` | counter | `type`, `endpoint` | yes |
//! | `registry_notifications_pending_total` | gauge | `endpoint` | yes |
//! | `registry_notifications_status_total` | counter | `code`, `endpoint` | yes |
//! | `registry_notifications_outbox_events`, `_bytes`, `_limit_bytes` | gauge | | no |
//! | `registry_notifications_outbox_dropped_total`, `_refused_total` | counter | | no |
//! | `registry_build_info` | gauge, always 1 | `version` | |
//! | `process_cpu_seconds_total`, `process_open_fds`, `process_max_fds`, `process_resident_memory_bytes`, `process_virtual_memory_bytes`, `process_start_time_seconds` | as every Prometheus client (Linux) | | yes |
//!
//! - `handler`: `base`, `blob`, `blob_upload` (where uploads begin), `blob_upload_chunk` (a
//!   session), `catalog`, `manifest`, `tags`; `referrers`, which distribution does not have,
//!   and `none` for requests that are none of the registry's.
//! - `operation`: the names of [`Operation::label`](registry_core::Operation::label), or `none`.
//! - `method`: `get`, `head`, `post`, `put`, `patch`, `delete`, `options`, or `other`, whatever
//!   clients make up. `code` is a status that the registry sent, or 499 when the client went
//!   away before there was one; 429 is what was over a limit. So the number of series has a bound
//!   that no client moves.
//! - `action`: of distribution, `GetContent`, `PutContent`, `Reader`, `Writer`, `Stat`, `List`,
//!   `Move` and `Delete`, by what the call amounts to; and ours where it has no name: `ReaderBytes`
//!   (the time that a stream waited for storage), `Append`, `Sync`, `Truncate` (of an upload).
//!   `outcome`: the names of [`StorageOutcome`]. `not_found` is often the expected answer.
//! - `registry_storage_uploads_open` counts upload sessions that are open for writing at this
//!   moment: those that begin or take bytes, not those that wait for a client to come back. The
//!   latter are folders, and to count them is to walk through the whole storage.
//! - `registry_storage_cache_total`: the one cache there is remembers where blobs were seen, for
//!   mounts without a source.

mod format;
mod notifications;
mod passwords;
mod process;
mod requests;

use std::fmt;
use std::sync::{Arc, OnceLock};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use registry_auth::htpasswd::Counts;
use registry_auth::{Audit, AuditRecord};
use registry_http::notifications::NotifierStats;
use registry_http::{AccessRecord, Observer};
use registry_storage::{HintCounts, StorageCall, StorageObserver, StorageOutcome, StorageReport};

pub use self::format::TextFormat;
pub use self::process::ProcessNumbers;

use self::notifications::Notifications;
use self::passwords::Passwords;
use self::requests::Requests;

/// The upper bounds of durations in seconds: those of distribution, and two below them
///
/// What the registry answers from memory takes microseconds, which distribution's first bound
/// of 5 ms would hide.
const SECONDS: [f64; 13] = [
    0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// The label of what is none of the registry's
const NONE: &str = "none";

/// The numbers of a registry, as the service and the storage report them
///
/// It is an [`Observer`] of requests and a [`StorageObserver`] of storage calls. In both it only
/// counts; locks are held for no longer than that.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
///
/// use registry_examples::metrics::{Metrics, TextFormat};
/// use registry_storage::{Measured, Memory, Store};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let metrics = Arc::new(Metrics::new("inmemory"));
/// let store = Store::new(Arc::new(Measured::new(Memory::new(), metrics.clone())));
/// store.ready().await.unwrap();
/// let text = metrics.encode(TextFormat::Prometheus);
/// assert!(text.contains(
///     "registry_storage_action_seconds_count{driver=\"inmemory\",action=\"List\"} 1\n"
/// ));
/// # }
/// ```
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Requests,
    decisions: Family<DecisionLabels, Counter>,
    /// By [`StorageCall`], so that a call is counted without looking for its labels
    storage: Vec<CallMetrics>,
    uploads_open: Gauge,
    hints: Arc<Hints>,
    notifications: Arc<Notifications>,
    passwords: Arc<Passwords>,
}

/// The metrics of one kind of storage call
#[derive(Debug)]
struct CallMetrics {
    durations: Histogram,
    bytes: Counter,
    /// By [`StorageOutcome`]
    outcomes: Vec<Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabels {
    rule: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DriverLabel {
    driver: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ActionLabels {
    driver: String,
    action: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    driver: String,
    action: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VersionLabel {
    version: String,
}

impl Metrics {
    /// The metrics of a registry on the storage driver of this name, such as `filesystem`
    pub fn new(driver: &str) -> Self {
        let mut registry = Registry::default();
        let requests = Requests::new(&mut registry);

        let decisions = Family::default();
        registry.register(
            "registry_access_decisions",
            "Decisions about who may do what",
            decisions.clone(),
        );

        let calls = Family::<OutcomeLabels, Counter>::default();
        let bytes = Family::<ActionLabels, Counter>::default();
        let actions = Family::<ActionLabels, Histogram, _>::new_with_constructor(
            seconds as fn() -> Histogram,
        );
        let uploads_open = Family::<DriverLabel, Gauge>::default();
        registry.register(
            "registry_storage_action_seconds",
            "The number of seconds that the storage action takes",
            actions.clone(),
        );
        registry.register(
            "registry_storage_calls",
            "Storage calls by how they ended",
            calls.clone(),
        );
        registry.register(
            "registry_storage_bytes",
            "Bytes of content that storage calls moved",
            bytes.clone(),
        );
        registry.register(
            "registry_storage_uploads_open",
            "Upload sessions that are open for writing",
            uploads_open.clone(),
        );
        let storage = StorageCall::ALL
            .into_iter()
            .map(|call| {
                let labels = ActionLabels {
                    driver: driver.to_owned(),
                    action: action(call),
                };
                let outcome = |outcome: StorageOutcome| {
                    calls.get_or_create_owned(&OutcomeLabels {
                        driver: driver.to_owned(),
                        action: labels.action,
                        outcome: outcome.as_str(),
                    })
                };
                CallMetrics {
                    durations: actions.get_or_create_owned(&labels),
                    bytes: bytes.get_or_create_owned(&labels),
                    outcomes: StorageOutcome::ALL.map(outcome).into(),
                }
            })
            .collect();

        let build = Family::<VersionLabel, Gauge>::default();
        build
            .get_or_create(&VersionLabel {
                version: env!("CARGO_PKG_VERSION").to_owned(),
            })
            .set(1);
        registry.register("registry_build_info", "The version that runs", build);
        registry.register_collector(Box::new(process::Process));
        let hints = Arc::<Hints>::default();
        registry.register_collector(Box::new(hints.clone()));
        let notifications = Arc::<Notifications>::default();
        registry.register_collector(Box::new(notifications.clone()));
        let passwords = Arc::<Passwords>::default();
        registry.register_collector(Box::new(passwords.clone()));

        Self {
            registry,
            requests,
            decisions,
            storage,
            uploads_open: uploads_open.get_or_create_owned(&DriverLabel {
                driver: driver.to_owned(),
            }),
            hints,
            notifications,
            passwords,
        }
    }

    /// Adds the numbers of a store's hints; the first store given counts
    ///
    /// Not part of [`Metrics::new`], for a store is made after the metrics that its driver
    /// reports to.
    pub fn watch_hints(&self, counts: Arc<HintCounts>) {
        let _ = self.hints.0.set(counts);
    }

    /// Adds the numbers of the notification endpoints, asked for at each scrape; the first
    /// callback given counts
    pub fn watch_notifications(&self, numbers: impl Fn() -> NotifierStats + Send + Sync + 'static) {
        self.notifications.set(numbers);
    }

    /// Adds the numbers of the checks of passwords, asked for at each scrape; the first callback
    /// given counts
    pub fn watch_htpasswd(&self, counts: impl Fn() -> Counts + Send + Sync + 'static) {
        self.passwords.set(counts);
    }

    /// All metrics as text
    ///
    /// Reads `/proc` and asks the callbacks: not for threads that serve requests.
    pub fn encode(&self, format: TextFormat) -> String {
        format::encode(&self.registry, format)
    }
}

impl Observer for Metrics {
    fn started(&self, operation: &'static str) {
        self.requests.started(operation);
    }

    fn finished(&self, record: &AccessRecord) {
        self.requests.finished(record);
    }
}

impl Audit for Metrics {
    fn decided(&self, record: &AuditRecord<'_>) {
        // Rules have names that the operator chose: there are as many as rules.
        let (rule, outcome) = match record.outcome {
            Ok(decision) if decision.is_allow() => (decision.rule(), "allow"),
            Ok(decision) => (decision.rule(), "deny"),
            Err(_) => (NONE, "unknown"),
        };
        let rule = rule.to_owned();
        let labels = DecisionLabels { rule, outcome };
        self.decisions.get_or_create(&labels).inc();
    }
}

impl StorageObserver for Metrics {
    fn called(&self, report: &StorageReport) {
        // The tables have a place for every call and outcome: they were made of all of them.
        let Some(call) = self.storage.get(report.call as usize) else {
            return;
        };
        call.durations.observe(report.elapsed.as_secs_f64());
        call.bytes.inc_by(report.bytes);
        if let Some(outcome) = call.outcomes.get(report.outcome as usize) {
            outcome.inc();
        }
    }

    fn upload_opened(&self) {
        self.uploads_open.inc();
    }

    fn upload_closed(&self) {
        self.uploads_open.dec();
    }
}

/// The hints of a store, once there is one
#[derive(Debug, Default)]
struct Hints(OnceLock<Arc<HintCounts>>);

impl Collector for Hints {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(counts) = self.0.get() else {
            return Ok(());
        };
        let (hits, misses) = (counts.hits(), counts.misses());
        let mut metric = encoder.encode_descriptor(
            "registry_storage_cache",
            "The number of cache requests received",
            None,
            MetricType::Counter,
        )?;
        for (kind, count) in [("Request", hits + misses), ("Hit", hits), ("Miss", misses)] {
            let labels = [("type", kind)];
            ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

/// What distribution calls a storage call
fn action(call: StorageCall) -> &'static str {
    match call {
        StorageCall::Read => "GetContent",
        StorageCall::Stat => "Stat",
        StorageCall::Stream => "Reader",
        StorageCall::StreamBytes => "ReaderBytes",
        StorageCall::Write => "PutContent",
        StorageCall::Delete | StorageCall::DeleteTree => "Delete",
        StorageCall::Rename | StorageCall::UploadPublish => "Move",
        StorageCall::List => "List",
        StorageCall::UploadOpen => "Writer",
        StorageCall::UploadWrite => "Append",
        StorageCall::UploadSync => "Sync",
        StorageCall::UploadTruncate => "Truncate",
        other => other.as_str(),
    }
}

#[cfg(test)]
mod tests;
