//! Health checks: is what the registry needs there, asked again and again

mod probes;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use http::{HeaderMap, Uri};
use registry_http::Readiness;
use registry_storage::Store;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::MissedTickBehavior;

/// How often a check is made whose interval is zero, as distribution has it
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);

/// The name of the check that an operator fails and passes by hand
const MANUAL: &str = "manual_http_status";

/// What is checked; by default nothing
#[derive(Clone, Debug, Default)]
pub struct HealthOptions {
    /// That the storage answers
    pub storage: Option<Schedule>,
    /// That files are absent: to make one takes the registry out of service
    pub files: Vec<FileCheck>,
    /// That HTTP servers answer
    pub http: Vec<HttpCheck>,
    /// That TCP ports are open
    pub tcp: Vec<TcpCheck>,
}

/// When a check is made, and when it counts
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// The time between two checks; zero is [`DEFAULT_INTERVAL`]
    ///
    /// A check that takes longer than this has failed, unless it has a timeout of its own.
    pub interval: Duration,
    /// How many failures in a row it takes; zero is one
    pub threshold: u32,
}

/// Passes while a file does not exist
#[derive(Clone, Debug)]
pub struct FileCheck {
    /// The file
    pub file: PathBuf,
    /// When
    pub schedule: Schedule,
}

/// Passes while a `HEAD` request is answered with the right status
///
/// Redirects are answers like others: they are not followed.
#[derive(Clone)]
pub struct HttpCheck {
    /// What to ask for, without credentials: those belong into `headers`
    pub uri: Uri,
    /// Headers to send
    pub headers: HeaderMap,
    /// How long it may take; zero is the interval
    pub timeout: Duration,
    /// The right status; zero is 200
    pub status: u16,
    /// When
    pub schedule: Schedule,
}

/// Passes while a TCP connection can be made
#[derive(Clone, Debug)]
pub struct TcpCheck {
    /// Where, as `host:port`
    pub addr: String,
    /// How long it may take; zero is the interval
    pub timeout: Duration,
    /// When
    pub schedule: Schedule,
}

/// Why health checks cannot be made as asked for
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HealthError {
    /// The URI of a check has credentials in it
    #[error(
        "expected the URI of a health check without credentials, got one for `{host}` that has some; \
         put them into an `Authorization` header"
    )]
    Credentials {
        /// The host in the URI
        host: String,
    },
    /// The URI of a check is not one
    #[error("expected an `http` or `https` URI with a host for a health check, got `{uri}`")]
    Uri {
        /// What was given
        uri: String,
    },
    /// TLS is needed, but is not set up
    #[error("the health check of `{uri}` needs trusted certificates, and there are none")]
    Untrusting {
        /// What was to be checked
        uri: String,
    },
}

impl HealthOptions {
    /// Whether a check needs TLS, so that trusted certificates are worth loading
    pub fn needs_tls(&self) -> bool {
        self.http
            .iter()
            .any(|check| check.uri.scheme_str() == Some("https"))
    }
}

impl Schedule {
    fn interval(&self) -> Duration {
        non_zero(self.interval, DEFAULT_INTERVAL)
    }
}

impl fmt::Debug for HttpCheck {
    /// Without the values of the headers, which may be secrets
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpCheck")
            .field("uri", &probes::name(&self.uri))
            .field("headers", &self.headers.keys().collect::<Vec<_>>())
            .field("timeout", &self.timeout)
            .field("status", &self.status)
            .field("schedule", &self.schedule)
            .finish()
    }
}

fn non_zero(duration: Duration, otherwise: Duration) -> Duration {
    if duration.is_zero() {
        otherwise
    } else {
        duration
    }
}

/// Health checks under way, and what they found
///
/// Cheap to clone; the checks end when the last clone is dropped. They are made at once when
/// they start and then at their intervals, each by a task of its own, one at a time: a storage
/// that hangs is asked once, counts as failing, and is asked again when it has answered. While
/// a check fails, its [`Readiness`] says so; changes are logged, once each.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
///
/// use registry_examples::health::{Health, HealthOptions, Schedule};
/// use registry_http::Readiness;
/// use registry_storage::{Memory, Store};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let store = Store::new(Arc::new(Memory::new()));
/// let options = HealthOptions {
///     storage: Some(Schedule::default()),
///     ..HealthOptions::default()
/// };
/// let health = Health::start(options, &store, "inmemory", Readiness::default(), None).unwrap();
/// health.down();
/// assert!(health.failures().contains_key("manual_http_status"));
/// assert!(!health.readiness().is_ready());
/// # }
/// ```
#[derive(Clone)]
pub struct Health {
    state: Arc<State>,
    _tasks: Arc<Tasks>,
}

struct State {
    readiness: Readiness,
    /// By the name of the check, why it fails
    failures: Mutex<BTreeMap<String, String>>,
}

struct Tasks(Vec<AbortHandle>);

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

impl Health {
    /// Starts the checks on the current runtime
    ///
    /// `driver` is the name of the storage's driver, such as `filesystem`: the check of the
    /// storage is called after it. `tls` says whom to trust ([`HealthOptions::needs_tls`]).
    ///
    /// # Errors
    ///
    /// [`HealthError`] if a check cannot be made as asked for.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn start(
        options: HealthOptions,
        store: &Store,
        driver: &str,
        readiness: Readiness,
        tls: Option<rustls::ClientConfig>,
    ) -> Result<Self, HealthError> {
        let storage = options.storage.map(|schedule| {
            let name = format!("storagedriver_{driver}");
            Check::new(name, schedule, probes::storage(store.clone()))
        });
        Self::start_with(storage.into_iter().collect(), options, readiness, tls)
    }

    /// The same for what has no storage of its own; [`HealthOptions::storage`] checks nothing
    ///
    /// # Errors
    ///
    /// As of [`Health::start`].
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn start_without_storage(
        options: HealthOptions,
        readiness: Readiness,
        tls: Option<rustls::ClientConfig>,
    ) -> Result<Self, HealthError> {
        Self::start_with(Vec::new(), options, readiness, tls)
    }

    fn start_with(
        mut checks: Vec<Check>,
        options: HealthOptions,
        readiness: Readiness,
        tls: Option<rustls::ClientConfig>,
    ) -> Result<Self, HealthError> {
        let HealthOptions {
            storage: _,
            files,
            http,
            tcp,
        } = options;
        for FileCheck { file, schedule } in files {
            let name = file.display().to_string();
            checks.push(Check::new(name, schedule, probes::file(file)));
        }
        for check in http {
            let (name, schedule) = (probes::name(&check.uri), check.schedule);
            let probe = probes::http(check, tls.as_ref())?;
            checks.push(Check::new(name, schedule, probe));
        }
        for check in tcp {
            let (name, schedule) = (check.addr.clone(), check.schedule);
            checks.push(Check::new(name, schedule, probes::tcp(check)));
        }
        let state = Arc::new(State {
            readiness,
            failures: Mutex::default(),
        });
        let tasks = checks
            .into_iter()
            .map(|check| tokio::spawn(check.run(state.clone())).abort_handle())
            .collect();
        Ok(Self {
            state,
            _tasks: Arc::new(Tasks(tasks)),
        })
    }

    /// The checks that fail, by name, and why
    pub fn failures(&self) -> BTreeMap<String, String> {
        self.state.failures().clone()
    }

    /// What the checks tell
    pub fn readiness(&self) -> &Readiness {
        &self.state.readiness
    }

    /// Takes the registry out of service by hand
    pub fn down(&self) {
        let reason = Some("taken out of service by hand".to_owned());
        self.state.update(MANUAL, reason);
    }

    /// Puts the registry back into service, after [`Health::down`]
    pub fn up(&self) {
        self.state.update(MANUAL, None);
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health")
            .field("failures", &self.failures())
            .field("readiness", self.readiness())
            .finish_non_exhaustive()
    }
}

impl State {
    fn failures(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        // The map is whole whenever the lock is free: it is changed by one call each time.
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how a check stands: why it fails, or that it passes
    fn update(&self, name: &str, failure: Option<String>) {
        let mut failures = self.failures();
        match failure {
            Some(reason) => {
                if !failures.contains_key(name) {
                    tracing::error!(
                        check = name,
                        reason,
                        "a health check fails; requests are refused until it passes"
                    );
                }
                failures.insert(name.to_owned(), reason);
            }
            None => {
                if failures.remove(name).is_some() {
                    tracing::info!(check = name, "a health check passes again");
                }
            }
        }
        // Under the lock, so that the last change is what it says.
        self.readiness.set_failing(!failures.is_empty());
    }
}

/// Asks once; an error is for the operator
type Probe = Box<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

struct Check {
    name: String,
    schedule: Schedule,
    probe: Probe,
}

impl Check {
    fn new(name: String, schedule: Schedule, probe: Probe) -> Self {
        Self {
            name,
            schedule,
            probe,
        }
    }

    async fn run(self, state: Arc<State>) {
        let interval = self.schedule.interval();
        let threshold = self.schedule.threshold.max(1);
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failed = 0;
        let mut running: Option<(Instant, JoinHandle<Result<(), String>>)> = None;
        loop {
            ticks.tick().await;
            let (since, task) =
                running.get_or_insert_with(|| (Instant::now(), tokio::spawn((self.probe)())));
            let result = match tokio::time::timeout(interval, task).await {
                Ok(answer) => {
                    running = None;
                    answer.unwrap_or_else(|error| Err(format!("the check broke: {error}")))
                }
                // What hangs in the storage cannot be ended. It is waited for further, so that
                // there is never more than one such call.
                Err(_) => Err(format!("no answer for {} s", since.elapsed().as_secs())),
            };
            match result {
                Ok(()) => {
                    failed = 0;
                    state.update(&self.name, None);
                }
                Err(reason) => {
                    failed = (failed + 1).min(threshold);
                    if failed == threshold {
                        state.update(&self.name, Some(reason));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
