//! The configuration: distribution's `config.yml`, overridden by the environment
//!
//! [`Config::load`] reads `version: 0.1` as distribution does. Every key that distribution
//! documents is known to one table: it is honoured, or a [`Warning`] says by name what happens
//! instead, or it is an error because going on without it would be unsafe. A key that nobody knows
//! is an error that names the nearest one. [`check`] prints what would be in force, and [`markdown`]
//! the table, which is kept as `examples/configs/README.md`.

use std::fmt;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub mod acumos;
pub mod buckets;
#[cfg(test)]
mod documented;
mod duration;
mod environment;
mod keys;
mod limits;
pub mod proxy;
mod read;
mod render;
mod schema;
mod secret;
mod section;
mod sections;
mod tokens;
mod tree;
mod value;

pub use self::acumos::Acumos;
pub use self::limits::{Limit, Limited, Limits};
pub use self::render::{check, markdown};
pub use self::secret::{Headers, Secret, Url};
pub use self::sections::{
    Acme, Audit, Auth, Catalog, ClientAuth, Config, Debug, Driver, Endpoint, FileCheck, Formatter,
    Health, Http, HttpCheck, Identity, Level, Log, ManifestUrls, Network, Notifications, Outbox,
    Own, Pace, Programs, Storage, StorageCheck, TcpCheck, Tls, TlsVersion, Token, TokenKeys,
    UploadPurge, Validation,
};
pub use self::tokens::Tokens;
pub use self::tree::Origin;

use self::tree::{Node, Value};
use self::value::Problem;

/// The largest file that is read: far more than a configuration is, far less than harms
const LARGEST_FILE: u64 = 1024 * 1024;

/// What was written and does not do what one may expect
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The keys, or the variable of the environment
    pub keys: Vec<String>,
    /// Where the first of them is
    pub origin: Option<Origin>,
    /// What happens instead
    pub what: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<String> = self.keys.iter().map(|key| format!("`{key}`")).collect();
        write!(f, "{}", keys.join(", "))?;
        if let Some(Origin::Line(line)) = &self.origin {
            write!(f, " (line {line})")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// Why a configuration is not in force
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The address is none
    #[error("expected an address such as `127.0.0.1:5000` or `:5000`, got `{0}`")]
    Address(String),
    /// What is written cannot be
    #[error("{}{text}", place(path.as_deref(), origin.as_ref()))]
    Invalid {
        /// The file, where there is one
        path: Option<PathBuf>,
        /// Where it is written
        origin: Option<Origin>,
        /// What was expected, what came, and what to do
        text: String,
    },
    /// The file cannot be read
    #[error("cannot read the configuration `{}`: {source}", path.display())]
    Read {
        /// The file
        path: PathBuf,
        /// Why
        source: std::io::Error,
    },
    /// The file is larger than any configuration
    #[error("cannot read the configuration `{}`: it has more than {LARGEST_FILE} bytes", .0.display())]
    TooLarge(PathBuf),
}

/// `file:line: `, as far as it is known
fn place(path: Option<&Path>, origin: Option<&Origin>) -> String {
    match (path, origin) {
        (_, Some(Origin::Variable(name))) => format!("{name}: "),
        (Some(path), Some(Origin::Line(line))) => format!("{}:{line}: ", path.display()),
        (Some(path), None) => format!("{}: ", path.display()),
        (None, Some(Origin::Line(line))) => format!("line {line}: "),
        (None, None) => String::new(),
    }
}

impl Config {
    /// Reads a file, if there is one, and what the environment overrides in it
    ///
    /// `environment` is what [`variables`] gives; only names that begin with `REGISTRY_` count.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], which names the file and the line, or the variable.
    ///
    /// # Examples
    ///
    /// ```
    /// use registry_examples::config::{Config, Driver};
    ///
    /// let variables = [("REGISTRY_STORAGE".to_owned(), "inmemory".to_owned())];
    /// let (config, warnings) = Config::load(None, variables)?;
    /// assert_eq!(config.storage.driver, Driver::Memory);
    /// assert!(warnings.is_empty());
    /// # Ok::<(), registry_examples::config::ConfigError>(())
    /// ```
    pub fn load(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(Self, Vec<Warning>), ConfigError> {
        Loaded::load(path, environment).map(|loaded| (loaded.config, loaded.warnings))
    }

    /// Reads the text of a file, without the environment
    ///
    /// # Errors
    ///
    /// [`ConfigError`], which names the line.
    pub fn from_yaml(text: &str) -> Result<(Self, Vec<Warning>), ConfigError> {
        Loaded::read(None, Some(text), []).map(|loaded| (loaded.config, loaded.warnings))
    }
}

/// A configuration with where it came from
struct Loaded {
    config: Config,
    warnings: Vec<Warning>,
    applied: environment::Applied,
}

impl Loaded {
    fn load(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let text = path.map(read_file).transpose()?;
        Self::read(path, text.as_deref(), environment)
    }

    fn read(
        path: Option<&Path>,
        text: Option<&str>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let invalid = |problem: Problem| ConfigError::Invalid {
            path: path.map(Path::to_owned),
            origin: problem.origin,
            text: problem.text,
        };
        let mut root = match text.map(Node::parse) {
            None | Some(Ok(None)) => Node::empty(Origin::Line(1)),
            Some(Ok(Some(node))) => node,
            Some(Err((line, text))) => {
                return Err(invalid(Problem {
                    origin: line.map(Origin::Line),
                    text,
                }));
            }
        };
        if text.is_some() && root.child("version").is_none() && matches!(root.value, Value::Map(_))
        {
            return Err(invalid(Problem::at(
                &root.origin,
                "expected `version: 0.1`, found no version",
            )));
        }
        let (applied, unmatched) = environment::apply(&mut root, environment).map_err(invalid)?;
        let mut warnings = schema::check(&root).map_err(invalid)?;
        let defaults = if text.is_some() {
            Self::storage_named(&root).map_err(invalid)?;
            Config::of_a_file()
        } else {
            Config::default()
        };
        let (config, more) = read::config(&root, defaults).map_err(invalid)?;
        warnings.extend(more);
        warnings.extend(unmatched);
        Ok(Self {
            config,
            warnings,
            applied,
        })
    }

    /// A file says where content is kept; guessing could serve an empty folder
    fn storage_named(root: &Node) -> Result<(), Problem> {
        let entries = root.child("storage").map(Node::entries).unwrap_or_default();
        let named = |entry: &tree::Entry| read::DRIVERS.contains(&entry.key.as_str());
        if entries.iter().any(named) {
            return Ok(());
        }
        let names: Vec<String> = read::DRIVERS
            .iter()
            .map(|name| format!("`{name}`"))
            .collect();
        Err(Problem::at(
            &root.child("storage").unwrap_or(root).origin,
            format!(
                "expected one of {} under `storage`, found none",
                names.join(", ")
            ),
        ))
    }
}

fn read_file(path: &Path) -> Result<String, ConfigError> {
    let failed = |source| ConfigError::Read {
        path: path.to_owned(),
        source,
    };
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(LARGEST_FILE + 1).read_to_string(&mut text))
        .map_err(failed)?;
    if text.len() as u64 > LARGEST_FILE {
        return Err(ConfigError::TooLarge(path.to_owned()));
    }
    Ok(text)
}

/// The variables of this process that may concern the configuration
///
/// Unlike [`std::env::vars`] it does not end the process over a variable that is not Unicode.
pub fn variables() -> impl Iterator<Item = (String, String)> {
    variables_of(environment::PREFIX)
}

/// Those whose names begin with `prefix`
fn variables_of(prefix: &'static str) -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(move |(name, value)| {
        let name = name.into_string().ok()?;
        name.starts_with(prefix)
            .then(|| (name, value.to_string_lossy().into_owned()))
    })
}

/// The name of this machine, by which events tell where they come from
pub fn hostname() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// Reads `host:port` or `:port`; the latter is every address of the machine
///
/// # Errors
///
/// [`ConfigError::Address`] when it is neither, or the host is unknown.
pub fn listen_addresses(listen: &str) -> Result<Vec<SocketAddr>, ConfigError> {
    use std::net::{Ipv4Addr, Ipv6Addr, ToSocketAddrs};

    let refused = || ConfigError::Address(listen.to_owned());
    if let Some(port) = listen.strip_prefix(':') {
        let port = port.parse::<u16>().map_err(|_| refused())?;
        // The first takes both families where the machine has both.
        return Ok(vec![
            (Ipv6Addr::UNSPECIFIED, port).into(),
            (Ipv4Addr::UNSPECIFIED, port).into(),
        ]);
    }
    let addresses: Vec<SocketAddr> = listen.to_socket_addrs().map_err(|_| refused())?.collect();
    if addresses.is_empty() {
        return Err(refused());
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_distribution_reads_them() {
        assert_eq!(listen_addresses(":5000").unwrap()[0].port(), 5000);
        assert_eq!(
            listen_addresses("127.0.0.1:0").unwrap(),
            [SocketAddr::from(([127, 0, 0, 1], 0))]
        );
        for bad in ["", "5000", "127.0.0.1", "127.0.0.1:70000", ":x"] {
            assert!(listen_addresses(bad).is_err(), "{bad}");
        }
    }
}
