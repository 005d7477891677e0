//! Notifications: events to endpoints, at least once and in order, beyond restarts
//!
//! A [`Notifier`] is the [`EventSink`] that distribution's `notifications` section asks for. It
//! keeps events in an outbox, on disk if it has a folder, and sends them to each
//! [`Endpoint`] in the order in which they happened, until the endpoint takes them (status 2xx
//! or 3xx, except a redirect). Endpoints do not wait for one another, and no request waits for
//! an endpoint.
//!
//! - An acknowledged push, mount or deletion is told of, whatever happens in between: its
//!   event was on disk before the client had its answer. What may come twice has the same id.
//! - A read is told of if nothing gets in the way: nobody waits until its event is on disk, and
//!   when the outbox is full it is the first to go.
//! - Without a folder, or when the folder is lost, what was not delivered when the process ends
//!   is lost.
//!
//! An envelope has one event, or several while there is a backlog; receivers take both.

mod delivery;
mod endpoint;
mod outbox;
mod stats;

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hyper_rustls::ConfigBuilderExt;
use registry_core::event::Event;
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;
use tokio::task::JoinHandle;

use self::delivery::Delivery;
use self::outbox::{Outbox, OutboxOptions};
use crate::events::{EventSink, EventSinkError};

pub use self::endpoint::{Endpoint, EndpointError};
pub use self::stats::{
    EndpointStats, EndpointVars, IgnoreVars, MetricsVars, NotificationsVars, NotifierStats,
    OutboxStats,
};

/// How many bytes of events are kept on disk by default: some 80,000 events
const DISK_LIMIT: u64 = 64 * 1024 * 1024;

/// How many bytes of events are kept in memory by default: some 10,000 events
const MEMORY_LIMIT: u64 = 8 * 1024 * 1024;

/// Less than this is no outbox: every second change would be refused
const MIN_LIMIT: u64 = 16 * 1024;

/// How often the folders of processes that are gone are looked for
const ADOPT_INTERVAL: Duration = Duration::from_secs(30);

/// How often it is looked whether the outbox is empty before it closes
const CLOSE_POLL: Duration = Duration::from_millis(10);

/// What happens to changes when their events fill the outbox
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenFull {
    /// The oldest events are given up, counted and logged, and changes go on
    DropOldest,
    /// Changes are refused (503) before anything is changed, until endpoints take events again
    #[default]
    Refuse,
}

/// How a [`Notifier`] keeps events
///
/// # Examples
///
/// ```
/// use registry_http::NotifierOptions;
/// use registry_http::notifications::WhenFull;
///
/// let options = NotifierOptions::default()
///     .with_folder("/var/lib/registry/outbox".into())
///     .with_limit(256 * 1024 * 1024)
///     .with_when_full(WhenFull::DropOldest);
/// assert_eq!(options.when_full, WhenFull::DropOldest);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NotifierOptions {
    /// Where events are kept; in memory by default
    ///
    /// Several processes may have the same folder, on one machine or on a share with working
    /// `flock`: each makes a folder of its own in it, and takes over those of processes that
    /// are gone. They should have the same endpoints.
    pub folder: Option<PathBuf>,
    /// How many bytes of events are kept; by default 64 MiB on disk, 8 MiB in memory
    ///
    /// At least 16 KiB. It can be exceeded by the events of changes that are under way when it is reached.
    pub limit: Option<u64>,
    /// What happens when the events of changes reach the limit; by default changes are refused
    pub when_full: WhenFull,
    /// How often the folders of processes that are gone are looked for; by default every 30 s
    pub adopt_interval: Duration,
    /// Whom to trust as an `https` endpoint; by default whom the operating system trusts
    pub tls: Option<ClientConfig>,
}

impl Default for NotifierOptions {
    fn default() -> Self {
        Self {
            folder: None,
            limit: None,
            when_full: WhenFull::default(),
            adopt_interval: ADOPT_INTERVAL,
            tls: None,
        }
    }
}

impl NotifierOptions {
    /// Where events are kept
    pub fn with_folder(mut self, folder: PathBuf) -> Self {
        self.folder = Some(folder);
        self
    }

    /// How many bytes of events are kept
    pub fn with_limit(mut self, bytes: u64) -> Self {
        self.limit = Some(bytes);
        self
    }

    /// What happens when the events of changes reach the limit
    pub fn with_when_full(mut self, when_full: WhenFull) -> Self {
        self.when_full = when_full;
        self
    }

    /// How often the folders of processes that are gone are looked for
    pub fn with_adopt_interval(mut self, interval: Duration) -> Self {
        self.adopt_interval = interval;
        self
    }

    /// Whom to trust as an `https` endpoint
    pub fn with_tls(mut self, tls: ClientConfig) -> Self {
        self.tls = Some(tls);
        self
    }
}

/// Why a [`Notifier`] cannot work as it is told to
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotifierError {
    /// An endpoint is not one
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The outbox cannot be read or written
    #[error(
        "the folder of the notifications' outbox, `{folder}`, must be one that the registry can write and lock"
    )]
    Outbox {
        /// The folder
        folder: String,
        /// Why not
        source: io::Error,
    },
    /// The operating system's certificates cannot be had
    #[error(
        "an `https` endpoint needs to know whom to trust: install the system's CA certificates"
    )]
    Trust(#[source] io::Error),
    /// What endpoints are there cannot be written down
    #[error("the notification endpoints could not be changed, the old ones stay")]
    Unchanged(#[from] EventSinkError),
}

/// Sends events to endpoints
///
/// Needs a tokio runtime with timers and I/O. When it is dropped it stops; [`Notifier::close`]
/// does so in order.
///
/// # Examples
///
/// ```no_run
/// use std::sync::Arc;
///
/// use registry_auth::{AllowAll, Anyone};
/// use registry_core::event::SourceRecord;
/// use registry_http::{Endpoint, Events, Notifier, NotifierOptions, RegistryService};
/// use registry_storage::{FileSystem, Store};
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let options = NotifierOptions::default().with_folder("registry-data/outbox".into());
/// let endpoint = Endpoint::new("ci", "https://ci.example.com/pushed")?;
/// let notifier = Arc::new(Notifier::open(options, vec![endpoint]).await?);
///
/// let store = Store::new(Arc::new(FileSystem::open("registry-data".as_ref())?));
/// let service = RegistryService::builder(store, Arc::new(Anyone), Arc::new(AllowAll))
///     .events(Events::new(notifier, SourceRecord::default()))
///     .build();
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Notifier {
    outbox: Arc<Outbox>,
    /// In the order of the configuration; changed by one at a time
    endpoints: tokio::sync::Mutex<Vec<Running>>,
    /// The same for those who only look
    shown: Mutex<Vec<Arc<Endpoint>>>,
    tls: tokio::sync::OnceCell<ClientConfig>,
    adopter: Option<JoinHandle<()>>,
    durable: bool,
}

/// An endpoint and the task that sends to it
#[derive(Debug)]
struct Running {
    endpoint: Arc<Endpoint>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Notifier {
    /// Opens the outbox and starts to send
    ///
    /// # Errors
    ///
    /// [`NotifierError`] when the folder cannot be used, two endpoints have one name, or there
    /// is nothing by which to trust an `https` endpoint.
    pub async fn open(
        options: NotifierOptions,
        endpoints: Vec<Endpoint>,
    ) -> Result<Self, NotifierError> {
        let NotifierOptions {
            folder,
            limit,
            when_full,
            adopt_interval,
            tls,
        } = options;
        let endpoints = enabled(endpoints)?;
        let durable = folder.is_some();
        let limit = limit.unwrap_or(if durable { DISK_LIMIT } else { MEMORY_LIMIT });
        let limit = limit.max(MIN_LIMIT);
        let shown = folder.clone().unwrap_or_default();
        let outbox_options = OutboxOptions {
            folder,
            limit,
            when_full,
        };
        let filters = filters(&endpoints);
        let opened =
            tokio::task::spawn_blocking(move || Outbox::open(&outbox_options, &filters)).await;
        let outbox = opened
            .map_err(io::Error::other)
            .flatten()
            .map_err(|source| NotifierError::Outbox {
                folder: shown.display().to_string(),
                source,
            })?;
        let outbox = Arc::new(outbox);
        let adopter = durable.then(|| tokio::spawn(adopt(outbox.clone(), adopt_interval)));
        let notifier = Self {
            outbox,
            endpoints: tokio::sync::Mutex::default(),
            shown: Mutex::default(),
            tls: tokio::sync::OnceCell::new_with(tls),
            adopter,
            durable,
        };
        let tls = notifier.tls_for(&endpoints).await?;
        let mut running = notifier.endpoints.lock().await;
        notifier.start(&mut running, endpoints, &tls).await;
        drop(running);
        Ok(notifier)
    }

    /// Makes these the endpoints, while events come in
    ///
    /// An endpoint that has the name of one before gets what that has not taken. What others
    /// have not taken is given up. A new one gets the events from now on.
    ///
    /// # Errors
    ///
    /// [`NotifierError`]; the old endpoints stay.
    pub async fn set_endpoints(&self, endpoints: Vec<Endpoint>) -> Result<(), NotifierError> {
        let endpoints = enabled(endpoints)?;
        let tls = self.tls_for(&endpoints).await?;
        let mut running = self.endpoints.lock().await;
        self.outbox.subscribe(filters(&endpoints)).await?;
        self.start(&mut running, endpoints, &tls).await;
        Ok(())
    }

    /// What `/debug/vars` shows of it, below `registry` and `notifications`
    pub fn vars(&self) -> NotificationsVars {
        let endpoints = self.shown();
        NotificationsVars {
            endpoints: endpoints
                .iter()
                .map(|endpoint| endpoint.vars(self.outbox.endpoint_stats(endpoint.name())))
                .collect(),
        }
    }

    /// Its numbers
    pub fn stats(&self) -> NotifierStats {
        NotifierStats {
            outbox: self.outbox.stats(),
            endpoints: self
                .shown()
                .iter()
                .map(|endpoint| self.outbox.endpoint_stats(endpoint.name()))
                .collect(),
        }
    }

    /// Sends what is left for at most `patience`, then stops
    ///
    /// What was not sent stays on disk, for whoever opens the folder next; in memory it is
    /// lost. Changes that come later are refused, so this is for after the last request.
    pub async fn close(&self, patience: Duration) {
        let sent = async {
            while self.outbox.stats().waiting > 0 {
                tokio::time::sleep(CLOSE_POLL).await;
            }
        };
        let _ = tokio::time::timeout(patience, sent).await;
        if let Some(adopter) = &self.adopter {
            adopter.abort();
        }
        for mut running in self.endpoints.lock().await.drain(..) {
            stop(&mut running).await;
        }
        let left = self.outbox.stats().waiting;
        if left > 0 && self.durable {
            tracing::info!(
                events = left,
                "events that endpoints have not taken are kept for the next start"
            );
        } else if left > 0 {
            tracing::error!(
                events = left,
                "events that endpoints have not taken are lost: without a folder for the outbox they are in memory alone"
            );
        }
        self.outbox.close().await;
    }

    fn shown(&self) -> Vec<Arc<Endpoint>> {
        self.shown
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Lets those endpoints that did not change go on, and stops and starts the others
    async fn start(
        &self,
        running: &mut Vec<Running>,
        endpoints: Vec<Endpoint>,
        tls: &ClientConfig,
    ) {
        let mut old = std::mem::take(running);
        for endpoint in endpoints {
            let before = old
                .iter()
                .position(|running| running.endpoint.name() == endpoint.name())
                .map(|index| old.swap_remove(index));
            if let Some(mut before) = before {
                if *before.endpoint == endpoint && !before.task.is_finished() {
                    running.push(before);
                    continue;
                }
                stop(&mut before).await;
            }
            let endpoint = Arc::new(endpoint);
            tracing::info!(
                endpoint = endpoint.name(),
                url = endpoint.shown_url(),
                "configuring endpoint"
            );
            let delivery = Delivery::new(endpoint.clone(), self.outbox.clone(), tls.clone());
            let task = tokio::spawn(delivery.run());
            running.push(Running { endpoint, task });
        }
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = running
            .iter()
            .map(|running| running.endpoint.clone())
            .collect();
    }

    /// The certificates are read when the first endpoint needs them: most have none that does
    async fn tls_for(&self, endpoints: &[Endpoint]) -> Result<ClientConfig, NotifierError> {
        if !endpoints.iter().any(Endpoint::is_tls) {
            return trusting(|builder| {
                Ok(builder.with_root_certificates(rustls::RootCertStore::empty()))
            })
            .map_err(NotifierError::Trust);
        }
        let system = || async {
            tokio::task::spawn_blocking(|| trusting(ConfigBuilderExt::with_native_roots))
                .await
                .map_err(io::Error::other)?
        };
        let config = self.tls.get_or_try_init(system).await;
        Ok(config.map_err(NotifierError::Trust)?.clone())
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        if let Some(adopter) = &self.adopter {
            adopter.abort();
        }
    }
}

#[async_trait]
impl EventSink for Notifier {
    async fn admit(&self) -> Result<(), EventSinkError> {
        self.outbox.admit().await
    }

    async fn record(&self, events: Vec<Event>) -> Result<(), EventSinkError> {
        self.outbox.append(&events).await
    }

    fn notice(&self, event: Event) {
        self.outbox.notice(&event);
    }
}

type Untrusting = rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>;
type Trusting = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

fn trusting(roots: impl FnOnce(Untrusting) -> io::Result<Trusting>) -> io::Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    Ok(roots(builder)?.with_no_client_auth())
}

/// Stops sending, and waits until it has stopped: two at once would mix up the order
async fn stop(running: &mut Running) {
    running.task.abort();
    let _ = (&mut running.task).await;
}

async fn adopt(outbox: Arc<Outbox>, interval: Duration) {
    let mut ticks = tokio::time::interval(interval.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let outbox = outbox.clone();
        let result = tokio::task::spawn_blocking(move || outbox.adopt()).await;
        if let Err(error) = result.map_err(io::Error::other).flatten() {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the events that other processes left cannot be taken over yet"
            );
        }
    }
}

/// The endpoints that are told anything
fn enabled(endpoints: Vec<Endpoint>) -> Result<Vec<Endpoint>, EndpointError> {
    let mut names = HashSet::new();
    for endpoint in &endpoints {
        if !names.insert(endpoint.name()) {
            return Err(EndpointError::Twice {
                name: endpoint.name().to_owned(),
            });
        }
    }
    Ok(endpoints
        .into_iter()
        .filter(|endpoint| !endpoint.is_disabled())
        .collect())
}

fn filters(endpoints: &[Endpoint]) -> Vec<(String, outbox::Filter)> {
    endpoints
        .iter()
        .map(|endpoint| (endpoint.name().to_owned(), endpoint.filter()))
        .collect()
}
