//! What an operator changes while the registry runs

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use registry_http::Tls;
use registry_http::tls::Reloaded;
use tokio::signal::unix::Signal;

use crate::compose;
use crate::config::Config;
use crate::gate::Reloadable;
use crate::logging::LogHandle;
use crate::notifier::LateNotifier;
use crate::serve::Source;
use crate::watch::Watch;

/// Takes up what changed in the files that a registry was started with
///
/// Certificates, users, rules, facts, the keys of tokens, and of the configuration the level of the log and
/// the notification endpoints. What is wrong with a new file is logged, and what was in force
/// stays so.
#[derive(Debug)]
pub struct Reloader {
    /// Where the configuration comes from
    pub source: Source,
    /// What is in force
    pub config: Config,
    /// The certificates of the listener
    pub tls: Option<Tls>,
    /// Who is let in, and who may do what
    pub gate: Vec<Reloadable>,
    /// The log
    pub logs: LogHandle,
    /// Who is notified
    pub notifier: Arc<LateNotifier>,
}

impl Reloader {
    /// Reloads what changed, and everything whenever `hangup` (SIGHUP) comes; never ends
    ///
    /// `interval` is the time between two looks at the files.
    pub async fn run(mut self, mut hangup: Signal, interval: Duration) {
        let mut watch = Watch::new(self.files(), interval);
        loop {
            tokio::select! {
                changed = watch.changed() => self.reload(|path| changed.iter().any(|at| at == path)).await,
                _ = hangup.recv() => {
                    tracing::info!("reading everything again, as told by SIGHUP");
                    self.reload(|_| true).await;
                }
            }
        }
    }

    /// The files that may change
    fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = self.source.path.iter().cloned().collect();
        if let Some(tls) = &self.tls {
            files.extend(tls.files().map(Path::to_owned));
        }
        files.extend(self.gate.iter().flat_map(Reloadable::paths).cloned());
        files
    }

    async fn reload(&mut self, is_changed: impl Fn(&Path) -> bool) {
        if self.source.path.as_deref().is_some_and(&is_changed) {
            self.reload_config().await;
        }
        if let Some(tls) = &self.tls
            && tls.files().any(&is_changed)
        {
            let tls = tls.clone();
            blocking(move || reload_tls(&tls)).await;
        }
        for file in &self.gate {
            if file.paths().iter().any(|path| is_changed(path)) {
                let file = file.clone();
                blocking(move || file.reload()).await;
            }
        }
    }

    async fn reload_config(&mut self) {
        let (mut new, warnings) = match self.source.load() {
            Ok(loaded) => loaded,
            Err(error) => {
                tracing::error!("{error}; the configuration that was in force stays so");
                return;
            }
        };
        let endpoints = match compose::endpoints(&new.notifications) {
            Ok(endpoints) => endpoints,
            Err(error) => {
                tracing::error!("{error}; the configuration that was in force stays so");
                return;
            }
        };
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        if new.log.level != self.config.log.level {
            if self.logs.set_level(compose::log_level(new.log.level)) {
                tracing::info!(level = ?new.log.level, "another level is logged");
            } else {
                tracing::warn!("`log.level` has changed, but RUST_LOG decides what is logged");
            }
            self.config.log.level = new.log.level;
        }
        if new.notifications.endpoints != self.config.notifications.endpoints {
            let count = endpoints.len();
            match self.notifier.set_endpoints(endpoints).await {
                Ok(()) => {
                    tracing::info!(endpoints = count, "other endpoints are notified");
                    self.config.notifications.endpoints = new.notifications.endpoints.clone();
                }
                Err(error) => tracing::error!("{error}; the endpoints that were there stay"),
            }
        }
        // The rest is what it is until the next start, which is worth knowing.
        new.log.level = self.config.log.level;
        new.notifications.endpoints = self.config.notifications.endpoints.clone();
        for section in changed_sections(&self.config, &new) {
            tracing::warn!("`{section}` has changed; that takes effect at the next start");
        }
    }
}

/// The sections that differ
fn changed_sections(old: &Config, new: &Config) -> Vec<&'static str> {
    let Config {
        log,
        storage,
        middleware,
        auth,
        http,
        notifications,
        health,
        validation,
        catalog,
        registry,
    } = old;
    [
        ("log", *log != new.log),
        ("storage", *storage != new.storage),
        ("middleware", *middleware != new.middleware),
        ("auth", *auth != new.auth),
        ("http", *http != new.http),
        ("notifications", *notifications != new.notifications),
        ("health", *health != new.health),
        ("validation", *validation != new.validation),
        ("catalog", *catalog != new.catalog),
        ("registry", *registry != new.registry),
    ]
    .into_iter()
    .filter_map(|(section, changed)| changed.then_some(section))
    .collect()
}

/// Reads the certificates again, and says what came of it
pub(crate) fn reload_tls(tls: &Tls) {
    match tls.reload() {
        Ok(Reloaded::Changed) => tracing::info!("another certificate is in force"),
        Ok(Reloaded::Unchanged) => {}
        Err(error) => tracing::error!("{error}"),
    }
    for warning in tls.warnings(SystemTime::now()) {
        tracing::warn!("{warning}");
    }
}

/// Reads files where that holds nobody up
pub(crate) async fn blocking(read: impl FnOnce() + Send + 'static) {
    // It fails only when `read` panics, and then the panic hook has said where.
    let _ = tokio::task::spawn_blocking(read).await;
}
