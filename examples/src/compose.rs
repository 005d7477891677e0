//! From a configuration to the parts of a registry

use std::fmt::Display;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_rustls::ConfigBuilderExt;
use registry_core::event::EventAction;
use registry_core::manifest::Limits;
use registry_http::service::Builder;
use registry_http::tls::{CipherSuite, ClientAuth, TlsVersion};
use registry_http::{
    AccessControl, Endpoint, Http2, Locations, ManifestUrls, Observer, Rate, RateLimits,
    RegistryService, ResponseHeaders, ServeOptions, SessionSecret, TlsOptions, TokenService,
    TokenServiceBuilder,
};
use registry_storage::{PurgeOptions, Store};
use rustls::ClientConfig;

use crate::acme::AcmeOptions;
use crate::audit::AuditLog;
use crate::config::{self, Config};
use crate::gate::Gate;
use crate::health::{FileCheck, HealthOptions, HttpCheck, Schedule, TcpCheck};
use crate::logging::{Formatter, Level, LogOptions};
use crate::purge;

/// A configuration that reads well and still cannot be put in force
#[derive(Debug, thiserror::Error)]
#[error("`{key}`: {problem}")]
pub struct ComposeError {
    key: String,
    problem: String,
}

impl ComposeError {
    /// What is wrong with the value of `key`, in words for the operator
    pub fn new(key: impl Into<String>, problem: impl Display) -> Self {
        Self {
            key: key.into(),
            problem: problem.to_string(),
        }
    }

    /// The same, where the key is one of the section `section`
    ///
    /// # Examples
    ///
    /// ```
    /// use registry_examples::compose::ComposeError;
    ///
    /// let error = ComposeError::new("acumos.file", "expected a file").under("registry.access");
    /// assert_eq!(error.to_string(), "`registry.access.acumos.file`: expected a file");
    /// ```
    #[must_use]
    pub fn under(self, section: &str) -> Self {
        Self {
            key: format!("{section}.{}", self.key),
            ..self
        }
    }

    /// The same, where what is under `from` here is under `to`
    ///
    /// # Examples
    ///
    /// ```
    /// use registry_examples::compose::ComposeError;
    ///
    /// let error = ComposeError::new("http.tls.ciphersuites", "expected more").moved("http.tls", "tls");
    /// assert_eq!(error.to_string(), "`tls.ciphersuites`: expected more");
    /// ```
    #[must_use]
    pub fn moved(self, from: &str, to: &str) -> Self {
        let key = self.key.strip_prefix(from);
        match key.filter(|rest| rest.is_empty() || rest.starts_with('.')) {
            Some(rest) => Self {
                key: format!("{to}{rest}"),
                ..self
            },
            None => self,
        }
    }

    /// The same, where the key is not under the section `section` after all
    ///
    /// # Examples
    ///
    /// ```
    /// use registry_examples::compose::ComposeError;
    ///
    /// let error = ComposeError::new("http.secret", "expected more").outside("http");
    /// assert_eq!(error.to_string(), "`secret`: expected more");
    /// ```
    #[must_use]
    pub fn outside(self, section: &str) -> Self {
        let key = self.key.strip_prefix(section);
        match key.and_then(|key| key.strip_prefix('.')) {
            Some(key) => Self {
                key: key.to_owned(),
                ..self
            },
            None => self,
        }
    }
}

/// A path as it is from anywhere
pub fn whole(path: &Path) -> String {
    std::path::absolute(path)
        .unwrap_or_else(|_| path.to_owned())
        .display()
        .to_string()
}

/// Makes the service, but for what runs beside it: events and readiness
///
/// # Errors
///
/// [`ComposeError`] when a value is not as it should be.
pub fn service(
    config: &Config,
    store: Store,
    access: AccessControl,
    observer: Arc<dyn Observer>,
) -> Result<Builder, ComposeError> {
    let http = &config.http;
    let builder = RegistryService::with_access(store, access);
    let mut builder = builder
        .manifest_limits(Limits {
            max_bytes: config.registry.manifest_limit,
            ..Limits::default()
        })
        .allow_delete(config.storage.delete)
        .read_only(config.storage.read_only)
        .trusted_proxies(config.registry.trusted_proxies.clone())
        .catalog_limit(NonZeroUsize::new(config.catalog.max_entries).unwrap_or(NonZeroUsize::MIN))
        .observer(observer);
    if http.prefix != "/" {
        let prefix = http.prefix.parse();
        builder = builder.prefix(prefix.map_err(|error| ComposeError::new("http.prefix", error))?);
    }
    if let Some(host) = &http.host
        && !http.relative_urls
    {
        let base = host.expose().parse();
        let base = base.map_err(|error| ComposeError::new("http.host", error))?;
        builder = builder.locations(Locations::Absolute { base: Some(base) });
    }
    let headers = http.headers.iter().map(|(name, value)| (name, [value]));
    let headers =
        ResponseHeaders::new(headers).map_err(|error| ComposeError::new("http.headers", error))?;
    builder = builder.response_headers(headers);
    if let config::ManifestUrls::Checked { allow, deny } = &config.validation.manifest_urls {
        let urls = ManifestUrls::new(allow, deny)
            .map_err(|error| ComposeError::new("validation.manifests.urls", error))?;
        builder = builder.manifest_urls(urls);
    }
    Ok(builder)
}

/// For how long an upload goes on that was allowed when it began; the largest layer over the
/// slowest line is done in a day
const SESSION: Duration = Duration::from_secs(24 * 3600);

/// Lets people to the service
///
/// # Errors
///
/// [`ComposeError`] when a value is not as it should be.
pub fn access(config: &Config, gate: &Gate) -> Result<AccessControl, ComposeError> {
    let own = &config.registry;
    let secret = match &config.http.secret {
        Some(secret) => secret
            .read()
            .map_err(|error| error.to_string())
            .and_then(|text| SessionSecret::new(text).map_err(|error| error.to_string()))
            .map_err(|error| ComposeError::new("http.secret", error))?,
        None => SessionSecret::random(),
    };
    let access = AccessControl::new(gate.authenticator.clone(), gate.authorizer.clone())
        .with_limits(limits(&own.limits))
        .with_session_secret(secret, SESSION)
        .with_request_names();
    Ok(match own.hide {
        true => access.with_hidden_as_absent(),
        false => access,
    })
}

/// The token service, which counts those who ask with those whom `access` counts
pub fn token_service(
    config: &Config,
    tokens: Option<TokenServiceBuilder>,
    access: &AccessControl,
) -> Option<TokenService> {
    tokens.map(|tokens| {
        tokens
            .limits_of(access)
            .trusted_proxies(config.registry.trusted_proxies.clone())
            .build()
    })
}

/// Opens what each decision is written to
///
/// # Errors
///
/// [`ComposeError`] when the file cannot be opened.
pub fn audit(at: Option<&config::Audit>) -> Result<Option<Arc<AuditLog>>, ComposeError> {
    at.map(|at| {
        AuditLog::open(at)
            .map(Arc::new)
            .map_err(|error| ComposeError::new("registry.access.audit", error))
    })
    .transpose()
}

fn limits(limits: &config::Limits) -> RateLimits {
    type With = fn(RateLimits, Rate) -> RateLimits;
    let config::Limits { addresses, users } = limits;
    let wanted: [(Option<config::Limit>, With); 6] = [
        (addresses.requests, RateLimits::requests_per_address),
        (addresses.failures, RateLimits::failures_per_address),
        (addresses.pulls, RateLimits::pulls_per_address),
        (users.requests, RateLimits::requests_per_principal),
        (users.failures, RateLimits::failures_per_principal),
        (users.pulls, RateLimits::pulls_per_principal),
    ];
    wanted
        .into_iter()
        .fold(RateLimits::default(), |limits, (limit, with)| match limit {
            Some(limit) => {
                let rate = Rate::new(limit.count, limit.per);
                with(
                    limits,
                    match limit.burst {
                        Some(burst) => rate.with_burst(burst),
                        None => rate,
                    },
                )
            }
            None => limits,
        })
}

/// How the main listener treats connections
pub fn serve_options(config: &Config) -> ServeOptions {
    let http = &config.http;
    // In clear text HTTP/2 is there for clients that know it beforehand, unless it is disabled:
    // nobody else notices.
    let on = http.http2 || (http.h2c && http.tls.is_none());
    ServeOptions::default()
        .with_drain_delay(config.registry.drain_delay)
        .with_drain_timeout(http.drain_timeout)
        .with_http2(if on { Http2::Everywhere } else { Http2::Off })
}

/// How TLS is spoken, with the certificate that `base` brings
///
/// # Errors
///
/// [`ComposeError`] for a cipher suite that is not there.
pub fn tls_options(tls: &config::Tls, base: TlsOptions) -> Result<TlsOptions, ComposeError> {
    let suites: Result<Vec<CipherSuite>, _> =
        tls.cipher_suites.iter().map(|name| name.parse()).collect();
    Ok(base
        .with_minimum_version(match tls.minimum {
            config::TlsVersion::Tls12 => TlsVersion::Tls12,
            config::TlsVersion::Tls13 => TlsVersion::Tls13,
        })
        .with_cipher_suites(
            suites.map_err(|error| ComposeError::new("http.tls.ciphersuites", error))?,
        )
        .with_client_auth(
            match tls.client_auth {
                config::ClientAuth::None => ClientAuth::None,
                config::ClientAuth::Given => ClientAuth::VerifyIfGiven,
                config::ClientAuth::Required => ClientAuth::Require,
            },
            &tls.client_cas,
        ))
}

/// Which certificate is ordered by ACME
pub fn acme_options(acme: &config::Acme) -> AcmeOptions {
    let mut options = AcmeOptions::new(&acme.cache_file, &acme.hosts);
    if let Some(email) = &acme.email {
        options = options.with_email(email);
    }
    if let Some(directory) = &acme.directory {
        options = options.with_directory(directory.expose());
    }
    options
}

/// Who is told of pushes, pulls and deletes
///
/// # Errors
///
/// [`ComposeError`] when an endpoint is not as it should be.
pub fn endpoints(notifications: &config::Notifications) -> Result<Vec<Endpoint>, ComposeError> {
    notifications
        .endpoints
        .iter()
        .map(|endpoint| {
            let key = || format!("notifications.endpoints ({})", endpoint.name);
            let wrong = |error| ComposeError::new(key(), error);
            let mut made = Endpoint::new(&endpoint.name, endpoint.url.expose())
                .map_err(wrong)?
                .with_timeout(endpoint.timeout)
                .with_threshold(endpoint.threshold)
                .with_backoff(endpoint.backoff)
                .with_ignored_media_types(endpoint.ignored_media_types.clone());
            for (name, value) in endpoint.headers.iter() {
                made = made.with_header(name, value).map_err(wrong)?;
            }
            let actions: Result<Vec<EventAction>, _> = endpoint
                .ignored_actions
                .iter()
                .map(|name| {
                    EventAction::from_name(name).ok_or_else(|| {
                        ComposeError::new(
                            key(),
                            format!(
                                "expected `pull`, `push`, `mount` or `delete` under \
                                 `ignore.actions`, got `{}`",
                                name.escape_debug()
                            ),
                        )
                    })
                })
                .collect();
            Ok(made.with_ignored_actions(actions?))
        })
        .collect()
}

/// What is looked at to say whether the registry is well
///
/// # Errors
///
/// [`ComposeError`] for a URL that cannot be asked.
pub fn health_options(health: &config::Health) -> Result<HealthOptions, ComposeError> {
    let schedule = |pace: &config::Pace| Schedule {
        interval: pace.interval,
        threshold: pace.threshold,
    };
    let http: Result<Vec<HttpCheck>, ComposeError> = health
        .http
        .iter()
        .map(|check| {
            Ok(HttpCheck {
                uri: check
                    .url
                    .expose()
                    .parse::<Uri>()
                    .map_err(|error| ComposeError::new("health.http.uri", error))?,
                headers: check.headers.to_map(),
                timeout: check.timeout,
                status: check.status,
                schedule: schedule(&check.pace),
            })
        })
        .collect();
    Ok(HealthOptions {
        storage: health.storage.as_ref().map(|check| schedule(&check.pace)),
        files: health
            .files
            .iter()
            .map(|check| FileCheck {
                file: check.path.clone(),
                schedule: schedule(&check.pace),
            })
            .collect(),
        http: http?,
        tcp: health
            .tcp
            .iter()
            .map(|check| TcpCheck {
                addr: check.address.clone(),
                timeout: check.timeout,
                schedule: schedule(&check.pace),
            })
            .collect(),
    })
}

/// When abandoned uploads go; `None` where they stay
///
/// Nothing is removed from a registry that is read-only: someone may be copying it.
pub fn purge_schedule(storage: &config::Storage) -> Option<purge::Schedule> {
    let purge = storage.purge.as_ref().filter(|_| !storage.read_only)?;
    let default = purge::Schedule::default();
    Some(purge::Schedule {
        options: PurgeOptions::default()
            .with_older_than(purge.age)
            .with_dry_run(purge.dry_run),
        interval: purge.interval,
        // Whoever wants a purge every minute does not want to wait for the first for an hour.
        delay: default.delay.min(purge.interval),
    })
}

/// What is logged, and how
pub fn log_options(log: &config::Log) -> LogOptions {
    LogOptions {
        level: log_level(log.level),
        formatter: match log.formatter {
            config::Formatter::Text => Formatter::Text,
            config::Formatter::Json => Formatter::Json,
            config::Formatter::Logstash => Formatter::Logstash,
        },
        fields: log
            .fields
            .iter()
            .map(|(name, value)| (name.clone(), value.clone().into()))
            .collect(),
    }
}

/// How important a line must be to be written
pub fn log_level(level: config::Level) -> Level {
    match level {
        config::Level::Error => Level::Error,
        config::Level::Warn => Level::Warn,
        config::Level::Info => Level::Info,
        config::Level::Debug => Level::Debug,
    }
}

/// How the operating system's certificate authorities are trusted
///
/// # Errors
///
/// [`ComposeError`] when there are none.
pub fn trusted_by_the_system() -> Result<ClientConfig, ComposeError> {
    let wrong = |error: &dyn Display| {
        ComposeError::new(
            "health.http",
            format!("no certificate authorities are there to check `https` with: {error}"),
        )
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(&error))?;
    Ok(builder
        .with_native_roots()
        .map_err(|error| wrong(&error))?
        .with_no_client_auth())
}
