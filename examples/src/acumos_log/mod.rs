//! The log of the docker-proxy, by the logging standard of Acumos
//!
//! One line per event in `<logs>/docker-proxy/docker-proxy.log`, where the platform's collector
//! looks, in the form that it parses ([`Format::Boreas`]); important ones on standard error too,
//! for people. The access log, in the combined format, is apart in
//! `<logs>/docker-proxy/access/docker-proxy-access.log`: the collector takes `<logs>/*/*.log` for
//! lines of the standard, which these are not, and does not look deeper.
//!
//! The files begin anew each day and are limited in days and bytes. A thread of its own writes
//! each, so no request waits for a disk, and what goes wrong with a file is said on standard
//! error.

mod archive;
mod event;
mod legacy;
mod line;
mod logger;
mod redact;
mod rolling;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use registry_http::{AccessRecord, Observer};
use tracing::{Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Registry, reload};
use uuid::Uuid;

use crate::lines::Lines;

pub use event::AcumosLog;
pub use legacy::{LegacyLogError, legacy_directory, legacy_level};
pub use line::Format;

use event::{COMPONENT, Instance};
use rolling::{Limits, RollingFile};

/// How long a file that is over stays uncompressed
///
/// Filebeat follows a renamed file until nothing came for five minutes, its `close_inactive`.
const GRACE: Duration = Duration::from_secs(5 * 60);

/// The name of the access log
const ACCESS: &str = "docker-proxy-access";

/// What is logged, and where to
#[derive(Clone, Debug)]
pub struct AcumosLogOptions {
    /// The folder of the platform's logs, in which each component has one of its own; without it
    /// there are no files
    pub directory: Option<PathBuf>,
    /// The least important lines that are written
    pub level: LevelFilter,
    /// The same for targets that begin so, instead of `level`
    ///
    /// Of libraries nothing below INFO is ever written: what they say there may hold headers.
    pub targets: BTreeMap<String, LevelFilter>,
    /// What the lines in the file look like
    pub format: Format,
    /// How many days are kept besides the present one, for each of the two logs: 30, as the
    /// standard says
    pub keep_days: u32,
    /// How many bytes each of the two logs may have in all: 3 GB, as the standard says
    ///
    /// A file that has an eighth of that is put aside before the day is over.
    pub max_bytes: u64,
    /// Whether there is an access log
    pub access_log: bool,
    /// The least important lines on standard error: WARN, as the standard says; nothing for none
    pub console: Option<LevelFilter>,
    /// The full name of this host, if what the system says is none that others know
    pub server_name: Option<String>,
}

impl Default for AcumosLogOptions {
    fn default() -> Self {
        Self {
            directory: None,
            level: LevelFilter::INFO,
            targets: BTreeMap::new(),
            format: Format::Boreas,
            keep_days: 30,
            max_bytes: 3_000_000_000,
            access_log: true,
            console: Some(LevelFilter::WARN),
            server_name: None,
        }
    }
}

/// Changes what is logged while the proxy runs, and ends it well
pub struct AcumosLogHandle {
    filter: reload::Handle<Targets, Registry>,
    targets: BTreeMap<String, LevelFilter>,
    lines: Vec<Lines>,
    reopen: Vec<Arc<AtomicBool>>,
    access: Option<Arc<dyn Observer>>,
}

impl AcumosLogHandle {
    /// Sets the level of all that has none of its own by its target
    pub fn set_level(&self, level: LevelFilter) {
        // It fails only when the subscriber is gone, and then nothing is logged.
        let _ = self.filter.reload(targets(level, &self.targets));
    }

    /// Opens the files again by their names, before the next line
    ///
    /// For whoever renames them from outside, such as logrotate, and sends SIGHUP then. It works
    /// without too, a second later.
    pub fn reopen(&self) {
        for reopen in &self.reopen {
            reopen.store(true, Ordering::Relaxed);
        }
    }

    /// Waits until all that was logged is written
    ///
    /// Before the process ends: the lines are written by threads of their own.
    pub fn flush(&self) {
        for lines in &self.lines {
            lines.flush();
        }
    }

    /// Writes the access log; nothing if there is none
    pub fn access_log(&self) -> Option<Arc<dyn Observer>> {
        self.access.clone()
    }

    /// Lines for a file that this handle looks after
    fn file(
        &mut self,
        folder: PathBuf,
        name: &'static str,
        limits: Limits,
        missing: impl Fn(u64) -> String + Clone + Send + 'static,
    ) -> Lines {
        let reopen = Arc::<AtomicBool>::default();
        self.reopen.push(reopen.clone());
        let file = RollingFile::new(folder, name, limits, reopen, Box::new(missing.clone()));
        // The thread ends with the process, which flushes through the handle.
        let (lines, _) = Lines::never_waiting(file, Box::new(missing));
        self.lines.push(lines.clone());
        lines
    }
}

impl std::fmt::Debug for AcumosLogHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AcumosLogHandle")
            .field("targets", &self.targets)
            .field("access_log", &self.access.is_some())
            .finish_non_exhaustive()
    }
}

/// Logs by these options from now on, for the whole process
///
/// A folder that cannot be made or written is no error: that is said on standard error, and tried
/// again for as long as the process runs.
///
/// # Errors
///
/// If the process logs already.
///
/// # Examples
///
/// ```
/// use registry_examples::acumos_log::{self, AcumosLogOptions};
///
/// let logs = tempfile::tempdir()?;
/// let handle = acumos_log::init(&AcumosLogOptions {
///     directory: Some(logs.path().to_owned()),
///     ..AcumosLogOptions::default()
/// })?;
/// tracing::info!("the proxy starts");
/// handle.flush();
///
/// let file = logs.path().join("docker-proxy/docker-proxy.log");
/// assert!(std::fs::read_to_string(file)?.contains("\tthe proxy starts\t"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn init(
    options: &AcumosLogOptions,
) -> Result<AcumosLogHandle, tracing::subscriber::SetGlobalDefaultError> {
    let (subscriber, handle) = subscriber(options, io::stderr());
    tracing::subscriber::set_global_default(subscriber)?;
    Ok(handle)
}

/// A subscriber whose console is `console`
fn subscriber(
    options: &AcumosLogOptions,
    console: impl io::Write + Send + 'static,
) -> (impl Subscriber + Send + Sync + 'static, AcumosLogHandle) {
    let AcumosLogOptions {
        directory,
        level,
        targets: by_target,
        format,
        keep_days,
        max_bytes,
        access_log,
        console: console_level,
        server_name,
    } = options;
    let (filter, handle) = reload::Layer::new(targets(*level, by_target));
    let instance = Arc::new(instance(server_name.clone(), *format));
    let limits = Limits {
        days: *keep_days,
        bytes: *max_bytes,
        grace: GRACE,
    };
    let mut handle = AcumosLogHandle {
        filter: handle,
        targets: by_target.clone(),
        lines: Vec::new(),
        reopen: Vec::new(),
        access: None,
    };
    let mut file = None;
    if let Some(directory) = directory {
        let folder = directory.join(COMPONENT);
        if *access_log {
            let of_access = |count| format!("# {count} lines are missing before this one\n");
            let lines = handle.file(folder.join("access"), ACCESS, limits, of_access);
            handle.access = Some(Arc::new(AccessLog(lines)));
        }
        let missing = {
            let (instance, format) = (instance.clone(), *format);
            move |count| {
                let message = format!(
                    "{count} lines are missing before this one: the disk was too slow or failed"
                );
                AcumosLog::notice(&instance, Level::WARN, message).format(format)
            }
        };
        file = Some(handle.file(folder, COMPONENT, limits, missing));
    }
    let console = console_level.map(|level| {
        // The thread ends with the process, which flushes through the handle.
        let (lines, _) = Lines::never_waiting(
            console,
            Box::new(|count| format!("{count} lines are missing before this one\n")),
        );
        handle.lines.push(lines.clone());
        (level, lines)
    });
    let layer = AcumosLog {
        instance,
        format: *format,
        file,
        console,
    };
    let subscriber = tracing_subscriber::registry().with(filter).with(layer);
    (subscriber, handle)
}

/// What is written of which targets
fn targets(level: LevelFilter, by_target: &BTreeMap<String, LevelFilter>) -> Targets {
    let of_libraries = |level: LevelFilter| level.min(LevelFilter::INFO);
    Targets::new()
        .with_default(of_libraries(level))
        // All crates of this workspace begin so.
        .with_target("registry", level)
        .with_target("docker_proxy", level)
        .with_targets(by_target.iter().map(|(target, level)| {
            let level = match logger::is_own(target) {
                true => *level,
                false => of_libraries(*level),
            };
            (target.clone(), level)
        }))
}

fn instance(server_name: Option<String>, format: Format) -> Instance {
    let fqdn = server_name.unwrap_or_else(|| {
        let name = rustix::system::uname();
        name.nodename().to_string_lossy().into_owned()
    });
    // Only this form has it, and asking may take a while where the name is not known.
    let address = match format {
        Format::Boreas => None,
        Format::Athena => (fqdn.as_str(), 0)
            .to_socket_addrs()
            .ok()
            .and_then(|mut addresses| addresses.next()),
    };
    Instance {
        id: Uuid::new_v4().to_string(),
        fqdn,
        address: address.map_or_else(String::new, |address| address.ip().to_string()),
    }
}

/// A line per request, in the combined format
struct AccessLog(Lines);

impl Observer for AccessLog {
    fn finished(&self, record: &AccessRecord) {
        let line = record.to_string();
        self.0.send(format!("{}\n", redact::redact(&line)));
    }
}
