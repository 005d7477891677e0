//! From a configuration to a running registry, and to its end

use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use registry_core::event::SourceRecord;
use registry_http::listener::UnixSocketError;
use registry_http::notifications::{NotifierError, NotifierOptions, NotifierStats};
use registry_http::tls::TlsError;
use registry_http::{Events, Listener, Observer, Readiness, ServeOptions, Tls, TlsOptions, serve};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::AbortHandle;

use crate::access_log::AccessLog;
use crate::acme::{Acme, AcmeError};
use crate::compose::{self, ComposeError};
use crate::config::{
    self, Config, ConfigError, Driver, Identity, Network, Warning, hostname, listen_addresses,
    variables,
};
use crate::debug::DebugService;
use crate::front::Front;
use crate::gate::{self, Gate};
use crate::health::{Health, HealthError};
use crate::logging;
use crate::metrics::Metrics;
use crate::notifier::LateNotifier;
use crate::purge;
use crate::reload::Reloader;
use crate::storage::{self, Storage};
use crate::store_tags::StoreTags;

/// How long the events of the last requests may take to be delivered at the end
///
/// Those that take longer wait on disk for the next start.
const LAST_EVENTS: Duration = Duration::from_secs(5);

/// Where a configuration comes from: a file, the environment, and the command line
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// The file; what it does not say is distribution's default
    pub path: Option<PathBuf>,
    /// Goes before `http.addr`
    pub listen: Option<String>,
    /// Goes before `storage`: this folder
    pub root: Option<PathBuf>,
}

impl Source {
    /// Reads it
    ///
    /// # Errors
    ///
    /// [`ConfigError`], which names the file and the line.
    pub fn load(&self) -> Result<(Config, Vec<Warning>), ConfigError> {
        let (mut config, warnings) = Config::load(self.path.as_deref(), variables())?;
        if let Some(listen) = &self.listen {
            config.http.listen.clone_from(listen);
            config.http.net = Network::Tcp;
        }
        if let Some(root) = &self.root {
            config.storage.driver = Driver::Folder(root.clone());
        }
        Ok((config, warnings))
    }
}

/// Why a registry does not run
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// No certificate can be ordered
    #[error("`{section}.letsencrypt`: {source}")]
    Acme {
        /// The section of TLS
        section: &'static str,
        /// Why not
        source: AcmeError,
    },
    /// A value cannot be put in force
    #[error(transparent)]
    Compose(#[from] ComposeError),
    /// The configuration cannot be read
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A health check cannot be made
    #[error("`health`: {0}")]
    Health(#[from] HealthError),
    /// The address cannot be listened on
    #[error(
        "cannot listen on `{address}`: {source}; is another registry running? choose an address \
         with {key}"
    )]
    Listen {
        /// The address
        address: String,
        /// Where another can be chosen
        key: &'static str,
        /// Why not
        source: io::Error,
    },
    /// The process logs already
    #[error("this process logs already: {0}")]
    Log(#[from] tracing::subscriber::SetGlobalDefaultError),
    /// Endpoints cannot be notified
    #[error("`notifications`: {0}")]
    Notifier(#[from] NotifierError),
    /// Signals cannot be waited for
    #[error("cannot wait for signals: {0}")]
    Signal(#[source] io::Error),
    /// The certificate cannot be used
    #[error("`{section}`: {source}")]
    Tls {
        /// The section of TLS
        section: &'static str,
        /// Why not
        source: TlsError,
    },
    /// The socket cannot be listened on
    #[error(transparent)]
    Unix(#[from] UnixSocketError),
}

/// Serves until SIGTERM or SIGINT, and then until running transfers are done
///
/// Prints on standard output where it listens, where it stores and who is let in, and then the
/// access log; logs go to standard error.
///
/// # Errors
///
/// [`ServeError`] when it cannot begin; nothing is served then.
pub async fn run(source: Source) -> Result<(), ServeError> {
    let (config, warnings) = source.load()?;
    let log_options = compose::log_options(&config.log);
    let logs = logging::init(&log_options)?;
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let result = serve_with(source, config, &log_options, logs.clone()).await;
    logs.flush();
    result
}

async fn serve_with(
    source: Source,
    config: Config,
    log_options: &logging::LogOptions,
    logs: logging::LogHandle,
) -> Result<(), ServeError> {
    // Everything that can be wrong in the configuration goes first, and the addresses before
    // the storage: a second registry started by mistake leaves the folder alone.
    let tags = Arc::new(StoreTags::default());
    let mut gate = Gate::open(&config, tags.clone())?;
    let audit = compose::audit(config.registry.audit.as_ref())?;
    let (tls, acme) = tls(config.http.tls.as_ref(), "http.tls")?;
    let endpoints = compose::endpoints(&config.notifications)?;
    let health_options = compose::health_options(&config.health)?;
    let (listener, address) = listen(&config.http, "`--listen` or `http.addr`").await?;
    let debug = match &config.http.debug {
        Some(debug) => Some(bind(&debug.listen, "`http.debug.addr`").await?),
        None => None,
    };

    let driver = storage::driver_name(&config.storage.driver);
    let metrics = Arc::new(Metrics::new(driver));
    let storage = Storage::open(&config.storage, metrics.clone()).await?;
    let store = storage.store();
    tags.set(store.clone());
    metrics.watch_hints(store.hint_counts());
    let readiness = Readiness::default();
    let trusted = health_options
        .needs_tls()
        .then(compose::trusted_by_the_system)
        .transpose()?;
    let health = Health::start(health_options, &store, driver, readiness.clone(), trusted)?;
    let notifier = Arc::new(LateNotifier::new(notifier_options(&config)));
    notifier.set_endpoints(endpoints).await?;
    let numbers = notifier.clone();
    metrics.watch_notifications(move || match numbers.get() {
        Some(notifier) => notifier.stats(),
        None => NotifierStats::default(),
    });

    gate.watch(&metrics, audit.clone());
    let mut observers: Vec<Arc<dyn Observer>> = vec![metrics.clone()];
    let writer = config.log.access.then(|| {
        let (log, writer) = AccessLog::with_options(io::stdout(), log_options);
        observers.push(Arc::new(log));
        writer
    });
    let events = Events::new(notifier.clone(), event_source(&address))
        .with_references(config.notifications.include_references);
    let access = compose::access(&config, &gate)?;
    let tokens = compose::token_service(&config, gate.tokens, &access);
    let service = compose::service(&config, store.clone(), access, Arc::new(observers))?
        .readiness(readiness.clone())
        .events(events)
        .build();
    let service = Front::new(service, tokens);

    let mut tasks = Tasks::default();
    if let Some(schedule) = compose::purge_schedule(&config.storage) {
        tasks.add(purge::run_periodically(store, schedule, |_| ()));
    }
    let (shutdown, hangup) = signals(readiness)?;
    announce(&config, &storage, &address, tls.is_some(), debug.as_ref());
    if let Some((listener, _)) = debug {
        let numbers = notifier.clone();
        let mut service =
            DebugService::new(health).with_notifications(move || match numbers.get() {
                Some(notifier) => serde_json::to_value(notifier.vars()).unwrap_or_default(),
                None => serde_json::json!({ "endpoints": [] }),
            });
        if let Some(path) = config
            .http
            .debug
            .as_ref()
            .and_then(|debug| debug.prometheus.as_deref())
        {
            service = service.with_metrics(path, metrics);
        }
        // Until the end: who asks whether this registry is ready must be told that it is not.
        tasks.add(serve(
            listener,
            service,
            ServeOptions::default(),
            std::future::pending(),
        ));
    }
    if let Some(acme) = acme {
        tasks.add(acme.run());
    }
    let interval = config.registry.reload_interval;
    let serve_options = compose::serve_options(&config);
    let reloader = Reloader {
        source,
        config,
        tls: tls.clone(),
        gate: gate.files,
        logs,
        notifier: notifier.clone(),
    };
    tasks.add(reloader.run(hangup, interval));

    let listener = match tls {
        Some(tls) => listener.with_tls(tls),
        None => listener,
    };
    let stopped = serve(listener, service, serve_options, shutdown).await;
    if stopped.aborted > 0 {
        tracing::warn!(
            connections = stopped.aborted,
            "connections were cut off in the middle of a transfer"
        );
    }
    drop(tasks);
    if let Some(notifier) = notifier.get() {
        notifier.close(LAST_EVENTS).await;
    }
    if let Some(writer) = writer {
        writer.join();
    }
    if let Some(audit) = audit {
        audit.flush();
    }
    Ok(())
}

/// What runs beside the service, and ends with it
#[derive(Debug, Default)]
pub(crate) struct Tasks(Vec<AbortHandle>);

impl Tasks {
    pub(crate) fn add<T: Send + 'static>(
        &mut self,
        task: impl Future<Output = T> + Send + 'static,
    ) {
        self.0.push(tokio::spawn(task).abort_handle());
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// Where the service is reached
#[derive(Debug)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

pub(crate) async fn listen(
    http: &config::Http,
    key: &'static str,
) -> Result<(Listener, Address), ServeError> {
    match http.net {
        Network::Tcp => {
            let (listener, address) = bind(&http.listen, key).await?;
            Ok((listener.into(), Address::Tcp(address)))
        }
        Network::Unix => {
            let path = PathBuf::from(&http.listen);
            Ok((Listener::unix(&path)?, Address::Unix(path)))
        }
    }
}

pub(crate) async fn bind(
    listen: &str,
    key: &'static str,
) -> Result<(TcpListener, SocketAddr), ServeError> {
    let addresses = listen_addresses(listen)?;
    let bound = async {
        let listener = TcpListener::bind(&addresses[..]).await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bound.await.map_err(|source| ServeError::Listen {
        address: listen.to_owned(),
        key,
        source,
    })
}

/// What listens with TLS; `section` is where the configuration has it
pub(crate) fn tls(
    tls: Option<&config::Tls>,
    section: &'static str,
) -> Result<(Option<Tls>, Option<Acme>), ServeError> {
    let Some(tls) = tls else {
        return Ok((None, None));
    };
    let (base, acme) = match &tls.identity {
        Identity::Files { certificate, key } => (TlsOptions::files(certificate, key), None),
        Identity::Acme(acme) => {
            let acme = Acme::open(compose::acme_options(acme))
                .map_err(|source| ServeError::Acme { section, source })?;
            (acme.tls_options(), Some(acme))
        }
    };
    let options =
        compose::tls_options(tls, base).map_err(|error| error.moved("http.tls", section))?;
    let tls = Tls::open(options).map_err(|source| ServeError::Tls { section, source })?;
    for warning in tls.warnings(SystemTime::now()) {
        tracing::warn!("{warning}");
    }
    Ok((Some(tls), acme))
}

fn notifier_options(config: &Config) -> NotifierOptions {
    let options = NotifierOptions::default();
    match config.outbox_directory() {
        Some(folder) => options
            .with_folder(folder)
            .with_limit(config.registry.outbox.max_bytes),
        None => options,
    }
}

/// What events say of where they come from
fn event_source(address: &Address) -> SourceRecord {
    SourceRecord {
        addr: match address {
            Address::Tcp(address) => format!("{}:{}", hostname(), address.port()),
            Address::Unix(_) => hostname(),
        },
        instance_id: uuid::Uuid::new_v4().to_string(),
    }
}

/// Tells people where the registry is
fn announce(
    config: &Config,
    storage: &Storage,
    address: &Address,
    tls: bool,
    debug: Option<&(TcpListener, SocketAddr)>,
) {
    let scheme = if tls { "https" } else { "http" };
    let mut text = match address {
        Address::Tcp(address) => format!(
            "registry {} listening on {scheme}://{address}\n",
            env!("CARGO_PKG_VERSION")
        ),
        Address::Unix(path) => format!(
            "registry {} listening on the socket {}\n",
            env!("CARGO_PKG_VERSION"),
            path.display()
        ),
    };
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    line(format!("storing in {}", storage.description()));
    if let Some((_, address)) = debug {
        line(format!("debug on http://{address}"));
    }
    if config.storage.read_only {
        line("read-only: pushes and deletes are refused".to_owned());
    }
    gate::describe(config).into_iter().for_each(&mut line);
    if let (Address::Tcp(address), false) = (address, config.storage.read_only) {
        let host = reachable(*address);
        let prefix = config.http.prefix.trim_matches('/');
        // With a prefix, something in front of it knows the name that clients use.
        if prefix.is_empty() {
            line(format!(
                "try: docker pull alpine && docker tag alpine {host}/alpine && docker push \
                 {host}/alpine"
            ));
        }
    }
    // Not `print!`: a reader that has gone must not stop the registry.
    let _ = io::stdout().write_all(text.as_bytes());
}

/// The address under which a client on this machine reaches the registry
pub(crate) fn reachable(address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        format!("127.0.0.1:{}", address.port())
    } else {
        address.to_string()
    }
}

/// Resolves at the first SIGTERM or SIGINT, once `readiness` says so; at the second the process
/// ends at once
pub(crate) fn signals(
    readiness: Readiness,
) -> Result<(impl Future<Output = ()>, Signal), ServeError> {
    let install = |kind| signal(kind).map_err(ServeError::Signal);
    let mut terminate = install(SignalKind::terminate())?;
    let mut interrupt = install(SignalKind::interrupt())?;
    let hangup = install(SignalKind::hangup())?;
    let shutdown = async move {
        either(&mut terminate, &mut interrupt).await;
        readiness.drain();
        // For people at a terminal, whatever the level of the log.
        eprintln!(
            "stopping; running transfers are given time to finish, a second signal stops at once"
        );
        tokio::spawn(async move {
            either(&mut terminate, &mut interrupt).await;
            std::process::exit(1);
        });
    };
    Ok((shutdown, hangup))
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
