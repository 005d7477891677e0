//! From a configuration to a running `docker-proxy`, and to its end

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderName, Request, Response};
use hyper::body::Body;
use hyper::service::Service;
use registry_auth::Password;
use registry_auth::acumos::{EmbeddedDirectory, EmbeddedError, TagsOf};
use registry_http::proxy::{ProxyServiceBuilder, Redirects};
use registry_http::{
    AccessControl, AuthRequestService, Observer, ProxyService, Readiness, RegistryService,
    ResponseBody, ServeOptions, Upstream, UpstreamOptions, UpstreamTags, serve,
};
use registry_storage::Store;
use tracing::level_filters::LevelFilter;

use super::reload::ProxyReloader;
use crate::acumos;
use crate::acumos_log::{self, AcumosLogHandle, AcumosLogOptions, Format};
use crate::compose::{self, ComposeError, whole};
use crate::config::acumos::{Credentials, Source};
use crate::config::proxy::{self, Content, LogFormat, Logs, Overrides, ProxyConfig, variables};
use crate::config::{Config, ConfigError, Level, Warning};
use crate::debug::DebugService;
use crate::explain::{ExplainAnswer, Question};
use crate::front::Front;
use crate::gate::{self, Gate};
use crate::health::Health;
use crate::metrics::Metrics;
use crate::purge;
use crate::serve::{Address, ServeError, Tasks, bind, listen, reachable, signals, tls};
use crate::storage::{self, Storage};
use crate::store_tags::StoreTags;

/// Where a configuration comes from: a file, the command line, and the environment
#[derive(Clone, Debug, Default)]
pub struct ProxySource {
    /// The file
    pub path: Option<PathBuf>,
    /// What the command line says
    pub overrides: Overrides,
}

impl ProxySource {
    /// Reads it
    ///
    /// # Errors
    ///
    /// [`ConfigError`], which names the file and the line, or the variable.
    pub fn load(&self) -> Result<(ProxyConfig, Vec<Warning>), ConfigError> {
        ProxyConfig::load(self.path.as_deref(), &self.overrides, variables())
    }
}

/// Serves until SIGTERM or SIGINT, and then until running transfers are done
///
/// Prints on standard output where it listens, what it guards and by what, and where it logs.
///
/// # Errors
///
/// [`ServeError`] when it cannot begin; nothing is served then.
pub async fn run(source: ProxySource) -> Result<(), ServeError> {
    let (config, warnings) = source.load()?;
    let logs = acumos_log::init(&log_options(&config.logs))?;
    let logs = Arc::new(logs);
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let result = serve_with(source, config, logs.clone()).await;
    logs.flush();
    result
}

/// Says whether someone may do something, by the configuration of `source`
///
/// Nothing counts as a use of a licence.
///
/// # Errors
///
/// What to tell the operator.
pub async fn explain(source: &ProxySource, question: &Question) -> Result<ExplainAnswer, String> {
    let (config, _) = source.load().map_err(|error| error.to_string())?;
    let registry = config.as_registry();
    let tags = Tags::new(&config).map_err(|error| error.to_string())?;
    let gate = Gate::open(&registry, tags.asked()).map_err(|error| told(error).to_string())?;
    // Only content is looked up in the storage, which need not be there for the rest.
    if question.digest.is_some()
        && let Tags::Embedded(tags) = &tags
    {
        let driver = storage::driver_name(&registry.storage.driver);
        let storage = Storage::open(&registry.storage, Arc::new(Metrics::new(driver))).await;
        tags.set(storage.map_err(|error| told(error).to_string())?.store());
    }
    question.ask(gate.explainer.as_ref()).await
}

async fn serve_with(
    source: ProxySource,
    config: ProxyConfig,
    logs: Arc<AcumosLogHandle>,
) -> Result<(), ServeError> {
    let registry = config.as_registry();
    if let Content::Embedded(folder) = &config.content {
        fs::create_dir_all(folder).map_err(|error| {
            let shown = folder.display();
            ComposeError::new(
                "embedded",
                format!("cannot make the folder `{shown}`: {error}"),
            )
        })?;
    }
    // Everything that can be wrong in the configuration goes first, and the addresses before
    // the storage.
    let tags = Tags::new(&config)?;
    let mut gate = Gate::open(&registry, tags.asked()).map_err(told)?;
    let audit = compose::audit(config.audit.as_ref()).map_err(told)?;
    let metrics = Arc::new(Metrics::new(tags.name()));
    gate.watch(&metrics, audit.clone());
    let access = compose::access(&registry, &gate).map_err(told)?;
    let tokens = compose::token_service(&registry, gate.tokens, &access);
    let (tls, acme) = tls(registry.http.tls.as_ref(), "tls")?;
    let health_options = compose::health_options(&config.health)?;
    let (listener, address) = listen(&registry.http, "`--listen` or `listen`").await?;
    let debug = match &config.debug {
        Some(debug) => Some(bind(&debug.listen, "`debug.addr`").await?),
        None => None,
    };

    warn_of_replicas(&config);

    let readiness = Readiness::default();
    let trusted = health_options
        .needs_tls()
        .then(compose::trusted_by_the_system)
        .transpose()?;
    let health = Health::start_without_storage(health_options, readiness.clone(), trusted)?;
    let mut observers: Vec<Arc<dyn Observer>> = vec![metrics.clone()];
    observers.extend(logs.access_log());
    let observer: Arc<dyn Observer> = Arc::new(observers);

    let mut tasks = Tasks::default();
    let guarded = match &tags {
        Tags::Embedded(tags) => {
            let storage = Storage::open(&registry.storage, metrics.clone()).await;
            let store = storage.map_err(told)?.store();
            metrics.watch_hints(store.hint_counts());
            tags.set(store.clone());
            if let Some(schedule) = compose::purge_schedule(&registry.storage) {
                tasks.add(purge::run_periodically(store.clone(), schedule, |_| ()));
            }
            Guarded::Registry(embedded(
                &registry,
                store,
                access.clone(),
                observer.clone(),
                &readiness,
            )?)
        }
        Tags::Upstream(tags, upstream) => Guarded::Proxy(
            guard(&config, upstream.clone(), access.clone())
                .tags(tags.clone())
                .observer(observer.clone())
                .readiness(readiness.clone())
                .build(),
        ),
    };
    let auth_request = config.auth_request.as_ref().map(|options| {
        AuthRequestService::builder(access.clone())
            .path(&options.path)
            .trusted_peers(options.peers.clone())
            .request_id_headers(REQUEST_IDS)
            .observer(observer.clone())
            .build()
    });
    let service = Front::new(guarded, tokens).with_auth_request(auth_request);

    let (shutdown, hangup) = signals(readiness)?;
    announce(
        &config,
        &registry,
        &address,
        debug.as_ref().map(|(_, address)| *address),
        has_nobody(&config).await?,
    );
    if let Some((listener, _)) = debug {
        let mut service = DebugService::new(health);
        let path = config
            .debug
            .as_ref()
            .and_then(|debug| debug.prometheus.as_deref());
        if let Some(path) = path {
            service = service.with_metrics(path, metrics);
        }
        // Until the end: who asks whether this proxy is ready must be told that it is not.
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
    let mut serve_options = compose::serve_options(&registry);
    serve_options.max_connections = config.limits.connections;
    let interval = config.reload_interval;
    let reloader = ProxyReloader {
        source,
        config,
        tls: tls.clone(),
        gate: gate.files,
        logs,
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
    if let Some(audit) = audit {
        audit.flush();
    }
    Ok(())
}

/// Who knows which tags lead to content, which is who has the content
enum Tags {
    Embedded(Arc<StoreTags>),
    Upstream(UpstreamTags, Upstream),
}

impl Tags {
    fn new(config: &ProxyConfig) -> Result<Self, ComposeError> {
        match &config.content {
            Content::Embedded(_) => Ok(Self::Embedded(Arc::default())),
            Content::Upstream(upstream) => {
                let upstream = Upstream::new(upstream_options(upstream, config)?)
                    .map_err(|error| ComposeError::new("upstream", error))?;
                Ok(Self::Upstream(
                    UpstreamTags::new(upstream.clone()),
                    upstream,
                ))
            }
        }
    }

    fn asked(&self) -> Arc<dyn TagsOf> {
        match self {
            Self::Embedded(tags) => tags.clone(),
            Self::Upstream(tags, _) => Arc::new(tags.clone()),
        }
    }

    /// What metrics call the place of the content
    fn name(&self) -> &'static str {
        match self {
            Self::Embedded(_) => "filesystem",
            Self::Upstream(..) => "upstream",
        }
    }
}

/// How the upstream is asked
fn upstream_options(
    config: &proxy::Upstream,
    proxy: &ProxyConfig,
) -> Result<UpstreamOptions, ComposeError> {
    let proxy::Upstream {
        url,
        credentials,
        ca_file,
        redirects: _,
        realms,
        storage,
        timeouts,
    } = config;
    let mut options = UpstreamOptions::new(url.expose())
        .with_trusted_realms(realms)
        .with_trusted_storage(storage)
        .with_connect_timeout(timeouts.connect)
        .with_answer_timeout(timeouts.answer)
        .with_commit_timeout(timeouts.commit)
        .with_idle_timeout(timeouts.idle);
    if let Some(Credentials { user, password }) = credentials {
        let password = password
            .read()
            .map_err(|error| ComposeError::new("upstream.passwordfile", error))?;
        options = options.with_credentials(user, Password::new(password));
    }
    if let Some(secret) = &proxy.session_secret {
        let secret = secret
            .read()
            .map_err(|error| ComposeError::new("sessions", error))?;
        options = options.with_seal_secret(Password::new(secret));
    }
    if let Some(requests) = proxy.limits.requests {
        // As many as are let in go on to the upstream.
        options = options.with_max_connections(requests);
    }
    if let Some(path) = ca_file {
        let tls = acumos::trusted_by(path)
            .map_err(|error| ComposeError::new("upstream.cafile", error))?;
        options = options.with_tls(tls);
    }
    Ok(options)
}

/// Says what keeps this proxy from being one of several
///
/// Uploads that are allowed by one replica and go on at another need a secret that both have.
fn warn_of_replicas(config: &ProxyConfig) {
    if let Content::Upstream(upstream) = &config.content
        && config.session_secret.is_none()
        && upstream.credentials.is_none()
    {
        tracing::warn!(
            "neither `sessions` nor `upstream.user` is set: uploads that are under way are lost \
             when this proxy starts again, and no other replica can go on with them"
        );
    }
}

/// The spellings under which the platform's services send the name of a request
const REQUEST_IDS: [HeaderName; 4] = [
    HeaderName::from_static("x-acumos-requestid"),
    HeaderName::from_static("x-acumos-request-id"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-onap-requestid"),
];

/// What guards an upstream
fn guard(config: &ProxyConfig, upstream: Upstream, access: AccessControl) -> ProxyServiceBuilder {
    let mut builder = ProxyService::builder(upstream, access)
        .trusted_proxies(config.trusted_proxies.clone())
        .request_id_headers(REQUEST_IDS);
    if let Content::Upstream(upstream) = &config.content {
        builder = builder.redirects(match upstream.redirects {
            proxy::Redirects::Follow => Redirects::Follow,
            proxy::Redirects::Pass => Redirects::Pass,
        });
    }
    match config.limits.requests {
        Some(requests) => builder.max_requests(requests),
        None => builder,
    }
}

/// The registry in the folder itself
fn embedded(
    config: &Config,
    store: Store,
    access: AccessControl,
    observer: Arc<dyn Observer>,
    readiness: &Readiness,
) -> Result<RegistryService, ComposeError> {
    let builder = compose::service(config, store, access, observer).map_err(told)?;
    Ok(builder.readiness(readiness.clone()).build())
}

/// What is guarded
#[derive(Clone, Debug)]
enum Guarded {
    /// A registry elsewhere
    Proxy(ProxyService),
    /// A registry in this process
    Registry(RegistryService),
}

impl<B> Service<Request<B>> for Guarded
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<ResponseBody>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn call(&self, request: Request<B>) -> Self::Future {
        match self {
            Self::Proxy(service) => Service::call(service, request),
            Self::Registry(service) => Service::call(service, request),
        }
    }
}

/// The error with the key as it is in the configuration of the proxy
fn told(error: ComposeError) -> ComposeError {
    [
        "registry.access",
        "registry.auth",
        "registry",
        "auth",
        "http",
    ]
    .iter()
    .fold(error.moved("http.secret", "sessions"), |error, section| {
        error.outside(section)
    })
    .moved("storage.filesystem.rootdirectory", "embedded")
}

/// How it logs
fn log_options(logs: &Logs) -> AcumosLogOptions {
    AcumosLogOptions {
        directory: logs.directory.clone(),
        level: level(logs.level),
        format: match logs.format {
            LogFormat::Athena => Format::Athena,
            LogFormat::Boreas => Format::Boreas,
        },
        keep_days: logs.keep,
        max_bytes: logs.max_bytes,
        access_log: logs.access,
        console: logs.console.map(level),
        ..AcumosLogOptions::default()
    }
}

pub(super) fn level(level: Level) -> LevelFilter {
    match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
    }
}

/// Whether this is the directory of one's own in which there is no user yet
async fn has_nobody(config: &ProxyConfig) -> Result<bool, ComposeError> {
    let Content::Embedded(folder) = &config.content else {
        return Ok(false);
    };
    let path = Content::directory_in(folder);
    if config.acumos.source != Source::Database(path.clone()) {
        return Ok(false);
    }
    let wrong = |error: EmbeddedError| ComposeError::new("embedded", error);
    let directory = EmbeddedDirectory::open(&path).map_err(wrong)?;
    let records = directory.records().await.map_err(wrong)?;
    Ok(records.accounts.is_empty())
}

/// Tells people where the proxy is
fn announce(
    config: &ProxyConfig,
    registry: &Config,
    address: &Address,
    debug: Option<SocketAddr>,
    has_nobody: bool,
) {
    let scheme = if config.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let mut text = String::new();
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    let version = env!("CARGO_PKG_VERSION");
    let reached = match address {
        Address::Tcp(address) => {
            line(format!(
                "docker-proxy {version} listening on {scheme}://{address}"
            ));
            if config.tls.is_none() && !address.ip().is_loopback() {
                line("without TLS: whoever is on the way can read the passwords".to_owned());
            }
            config.host.clone().unwrap_or_else(|| reachable(*address))
        }
        // Its configuration has no sockets, so that this is never said.
        Address::Unix(path) => path.display().to_string(),
    };
    match &config.content {
        Content::Embedded(folder) => line(format!(
            "guarding a registry of its own in {}",
            whole(&Content::images_in(folder))
        )),
        Content::Upstream(upstream) => line(format!("guarding {}", upstream.url)),
    }
    gate::describe(registry).into_iter().for_each(&mut line);
    match &config.logs.directory {
        Some(folder) => line(format!("logging to {}/docker-proxy", whole(folder))),
        None => line("logging to standard error".to_owned()),
    }
    if let Some(auth_request) = &config.auth_request {
        line(format!("answering web servers at {}", auth_request.path));
    }
    if let Some(address) = debug {
        line(format!("debug on http://{address}"));
    }
    if let Content::Embedded(folder) = &config.content
        && config.acumos.source == Source::Database(Content::directory_in(folder))
    {
        let database = in_shell(&whole(&Content::directory_in(folder)));
        let directory = format!("docker-proxy directory --database {database}");
        if has_nobody {
            // One that is made up, so that the commands can be taken as they are.
            let id = uuid::Uuid::new_v4();
            line(
                "nobody can log in yet; a user, a model of theirs and its first image:".to_owned(),
            );
            line(format!("  {directory} user add ada"));
            line(format!(
                "  {directory} solution add --name Iris --owner ada --id {id}"
            ));
            line(format!(
                "  {directory} revision add --solution {id} --version 1"
            ));
            line(format!("  docker login --username ada {reached}"));
            line(format!("  docker tag alpine {reached}/iris_{id}:1"));
            line(format!("  docker push {reached}/iris_{id}:1"));
        } else {
            line(format!("add a user: {directory} user add NAME"));
        }
    }
    line(format!("try: docker login {reached}"));
    // Not `print!`: a reader that has gone must not stop the proxy.
    let _ = io::stdout().write_all(text.as_bytes());
}

/// As a shell takes it for one word
fn in_shell(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+:@".contains(&byte);
    match text.bytes().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word_in_a_shell() {
        for (text, word) in [
            ("/tmp/try-1/directory.db", "/tmp/try-1/directory.db"),
            ("/tmp/my try", "'/tmp/my try'"),
            ("/tmp/ada's", r"'/tmp/ada'\''s'"),
        ] {
            assert_eq!(in_shell(text), word);
        }
    }
}
