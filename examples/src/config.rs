//! The configuration file: the keys of distribution's `config.yml` that are honoured today

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// What a registry serves, and where
///
/// Without a file it is the embedded default: a folder beside the working directory, on
/// loopback only, deletes allowed. A file follows distribution's defaults, where deletes are
/// off until `storage.delete.enabled` turns them on.
///
/// # Examples
///
/// ```
/// use registry_examples::config::{Config, Storage};
///
/// let config = Config::from_yaml(
///     "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: /var/lib/registry\nhttp:\n  addr: :5000\n",
/// )?;
/// assert_eq!(config.listen, ":5000");
/// assert_eq!(config.storage, Storage::Folder("/var/lib/registry".into()));
/// assert!(!config.allow_delete);
/// # Ok::<(), registry_examples::config::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The address to listen on, as `host:port` or `:port`
    pub listen: String,
    /// Where content is kept
    pub storage: Storage,
    /// Whether clients may delete
    pub allow_delete: bool,
    /// The largest manifest taken, in bytes; the specification asks for 4 MiB at least
    pub manifest_limit: usize,
}

/// Where content is kept
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// In a folder, in distribution's layout
    Folder(PathBuf),
    /// In memory, gone with the process
    Memory,
}

/// The smallest manifest limit: what the specification lets every client rely on
const LEAST_MANIFEST_LIMIT: usize = 4 * 1024 * 1024;

impl Default for Config {
    fn default() -> Self {
        Self {
            // Loopback: an open registry must not be on the network by accident.
            listen: "127.0.0.1:5000".to_owned(),
            storage: Storage::Folder("registry-data".into()),
            allow_delete: true,
            manifest_limit: LEAST_MANIFEST_LIMIT,
        }
    }
}

/// Why a configuration is not in force
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The address is none
    #[error("expected an address such as `127.0.0.1:5000` or `:5000`, got `{0}`")]
    Address(String),
    /// A value cannot be
    #[error("{0}")]
    Invalid(String),
    /// The file cannot be read
    #[error("cannot read the configuration `{}`: {source}", path.display())]
    Read {
        /// The file
        path: PathBuf,
        /// Why
        source: std::io::Error,
    },
    /// The text is not YAML, or has a key that is not known
    #[error("{0}")]
    Yaml(String),
}

impl Config {
    /// Reads a configuration file
    ///
    /// # Errors
    ///
    /// [`ConfigError`], which names the file and, where there is one, the line.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::from_yaml(&text).map_err(|error| match error {
            ConfigError::Yaml(text) | ConfigError::Invalid(text) => {
                ConfigError::Invalid(format!("`{}`: {text}", path.display()))
            }
            other => other,
        })
    }

    /// Reads the text of a configuration file
    ///
    /// # Errors
    ///
    /// [`ConfigError`]. A key that is not known is one: nothing is silently ignored.
    pub fn from_yaml(text: &str) -> Result<Self, ConfigError> {
        let file: File = serde_saphyr::from_str(text)
            .map_err(|error| ConfigError::Yaml(one_line(&error.to_string())))?;
        let File {
            version,
            storage,
            http,
            registry,
        } = file;
        if version != "0.1" {
            return Err(ConfigError::Invalid(format!(
                "expected `version: 0.1`, got `{version}`"
            )));
        }
        let StorageKeys {
            filesystem,
            inmemory,
            delete,
        } = storage;
        let storage = match (filesystem, inmemory) {
            (Some(folder), None) => Storage::Folder(folder.rootdirectory),
            (None, Some(_)) => Storage::Memory,
            (None, None) => {
                return Err(ConfigError::Invalid(
                    "expected `filesystem` or `inmemory` under `storage`, found neither".to_owned(),
                ));
            }
            (Some(_), Some(_)) => {
                return Err(ConfigError::Invalid(
                    "expected one of `filesystem` and `inmemory` under `storage`, found both"
                        .to_owned(),
                ));
            }
        };
        let default = Self::default();
        let manifest_limit = registry.manifestlimit.unwrap_or(default.manifest_limit);
        if manifest_limit < LEAST_MANIFEST_LIMIT {
            return Err(ConfigError::Invalid(format!(
                "expected `registry.manifestlimit` of at least {LEAST_MANIFEST_LIMIT} bytes, which \
                 the specification lets clients rely on, got {manifest_limit}"
            )));
        }
        Ok(Self {
            listen: http.addr.unwrap_or(default.listen),
            storage,
            allow_delete: delete.enabled,
            manifest_limit,
        })
    }
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

fn one_line(text: &str) -> String {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .take(1)
        .collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: String,
    storage: StorageKeys,
    #[serde(default)]
    http: HttpKeys,
    /// Keys that distribution does not have
    #[serde(default)]
    registry: OwnKeys,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StorageKeys {
    filesystem: Option<FilesystemKeys>,
    inmemory: Option<NoKeys>,
    #[serde(default)]
    delete: DeleteKeys,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FilesystemKeys {
    rootdirectory: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoKeys {}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeleteKeys {
    #[serde(default)]
    enabled: bool,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct HttpKeys {
    addr: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct OwnKeys {
    manifestlimit: Option<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        let error = Config::from_yaml("version: 0.1\nstorage:\n  inmemory: {}\nhtpt: {}\n")
            .unwrap_err()
            .to_string();
        assert!(error.contains("htpt"), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }

    #[test]
    fn values_that_cannot_be_are_refused() {
        for (text, part) in [
            ("version: 0.2\nstorage: {inmemory: {}}", "version"),
            ("version: 0.1\nstorage: {}", "storage"),
            (
                "version: 0.1\nstorage: {inmemory: {}, filesystem: {rootdirectory: /x}}",
                "both",
            ),
            (
                "version: 0.1\nstorage: {inmemory: {}}\nregistry: {manifestlimit: 5}",
                "manifestlimit",
            ),
        ] {
            let error = Config::from_yaml(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn deletes_are_off_until_the_file_turns_them_on() {
        let text = "version: 0.1\nstorage: {inmemory: {}, delete: {enabled: true}}";
        assert!(Config::from_yaml(text).unwrap().allow_delete);
        let text = "version: 0.1\nstorage: {inmemory: {}}";
        assert!(!Config::from_yaml(text).unwrap().allow_delete);
    }

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
