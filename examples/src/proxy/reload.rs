//! What an operator changes while `docker-proxy` runs

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use registry_http::Tls;
use tokio::signal::unix::Signal;

use super::serve::{self, ProxySource};
use crate::acumos_log::AcumosLogHandle;
use crate::config::proxy::ProxyConfig;
use crate::gate::Reloadable;
use crate::reload::{blocking, reload_tls};
use crate::watch::Watch;

/// Takes up what changed in the files that `docker-proxy` was started with
///
/// Certificates, facts, users, the keys of tokens, and of the configuration the level of the log.
/// What is wrong with a new file is logged, and what was in force stays so.
#[derive(Debug)]
pub struct ProxyReloader {
    /// Where the configuration comes from
    pub source: ProxySource,
    /// What is in force
    pub config: ProxyConfig,
    /// The certificates of the listener
    pub tls: Option<Tls>,
    /// Who is let in, and who may do what
    pub gate: Vec<Reloadable>,
    /// The log
    pub logs: Arc<AcumosLogHandle>,
}

impl ProxyReloader {
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
                    self.logs.reopen();
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
            self.reload_config();
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

    fn reload_config(&mut self) {
        let (new, warnings) = match self.source.load() {
            Ok(loaded) => loaded,
            Err(error) => {
                tracing::error!("{error}; the configuration that was in force stays so");
                return;
            }
        };
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        let level = new.logs.level;
        if level != self.config.logs.level {
            self.logs.set_level(serve::level(level));
            tracing::info!(?level, "another level is logged");
            self.config.logs.level = level;
        }
        if new != self.config {
            tracing::warn!(
                "the configuration has changed; the rest of it takes effect at the next start"
            );
        }
    }
}
