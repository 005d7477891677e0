//! The configuration of `docker-proxy`: a small YAML of its own, and the variables of the old proxy
//!
//! The command line goes before the file, and the file before the environment: what the file does
//! not say is taken from the variables that the platform's scripts set for the old proxy. With
//! those alone, and no file, it does what the old one did.

mod environment;
mod keys;
mod read;
mod render;
mod sections;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

pub use self::render::check;
pub use self::sections::{
    AuthRequest, Content, HtpasswdFile, LogFormat, Logs, ProxyConfig, ProxyLimits, Redirects,
    Timeouts, Upstream,
};

use self::environment::Filled;
use super::environment::entry;
use super::schema::{self, Schema};
use super::tree::{Node, Scalar, Value};
use super::value::Problem;
use super::{ConfigError, Origin, Warning, read_file};

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::of(keys::KEYS));

/// What the command line says, which goes before everything else
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Goes before `listen`
    pub listen: Option<String>,
    /// Goes before `upstream` and `embedded`
    pub embedded: Option<PathBuf>,
}

impl ProxyConfig {
    /// Reads a file, if there is one, under what the command line says and over what the
    /// environment does
    ///
    /// `environment` is what [`variables`] gives; only names that begin with `ACUMOS_` count.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], which names the file and the line, or the variable.
    ///
    /// # Examples
    ///
    /// ```
    /// use registry_examples::config::proxy::{Overrides, ProxyConfig};
    ///
    /// let variables = [
    ///     ("ACUMOS_DOCKER_REGISTRY_HOST", "nexus"),
    ///     ("ACUMOS_DOCKER_PROXY_AUTH", "YWN1bW9zX3J3OmZvb2w="),
    ///     ("ACUMOS_CDS_URL", "http://cds-service:8000/ccds"),
    ///     ("ACUMOS_CERT", "/certs/acumos.crt"),
    ///     ("ACUMOS_CERT_KEY", "/certs/acumos.key"),
    /// ];
    /// let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    /// let (config, _) = ProxyConfig::load(None, &Overrides::default(), variables)?;
    /// assert_eq!(config.listen, ":30883");
    /// # Ok::<(), registry_examples::config::ConfigError>(())
    /// ```
    pub fn load(
        path: Option<&Path>,
        overrides: &Overrides,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(Self, Vec<Warning>), ConfigError> {
        Loaded::load(path, overrides, environment).map(|loaded| (loaded.config, loaded.warnings))
    }

    /// Reads the text of a file, without the environment
    ///
    /// # Errors
    ///
    /// [`ConfigError`], which names the line.
    pub fn from_yaml(text: &str) -> Result<(Self, Vec<Warning>), ConfigError> {
        Loaded::read(None, Some(text), &Overrides::default(), [])
            .map(|loaded| (loaded.config, loaded.warnings))
    }
}

/// The variables of this process that may concern the configuration
pub fn variables() -> impl Iterator<Item = (String, String)> {
    super::variables_of(environment::PREFIX)
}

/// A configuration with where it came from
struct Loaded {
    config: ProxyConfig,
    warnings: Vec<Warning>,
    filled: Filled,
}

impl Loaded {
    fn load(
        path: Option<&Path>,
        overrides: &Overrides,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let text = path.map(read_file).transpose()?;
        Self::read(path, text.as_deref(), overrides, environment)
    }

    fn read(
        path: Option<&Path>,
        text: Option<&str>,
        overrides: &Overrides,
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
        // What is wrong in the file is said with its line, before anything is changed in it.
        schema::check_by(&root, &SCHEMA, keys::KEYS).map_err(invalid)?;
        let mut warnings = override_with(&mut root, overrides);
        let mut filled = environment::fill(&mut root, environment).map_err(invalid)?;
        warnings.append(&mut filled.warnings);
        warnings.extend(schema::check_by(&root, &SCHEMA, keys::KEYS).map_err(invalid)?);
        let (config, more) = read::config(&root).map_err(invalid)?;
        warnings.extend(more);
        Ok(Self {
            config,
            warnings,
            filled,
        })
    }
}

/// Puts what the command line says in place of what the file says
fn override_with(root: &mut Node, overrides: &Overrides) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let embedded = overrides.embedded.as_ref();
    let embedded = embedded.map(|folder| folder.to_string_lossy().into_owned());
    if embedded.is_some()
        && let Value::Map(entries) = &mut root.value
        && let Some(at) = entries.iter().position(|entry| entry.key == "upstream")
    {
        warnings.push(Warning {
            keys: vec!["upstream".to_owned()],
            origin: Some(entries[at].origin.clone()),
            what: "it is not used: images are in the folder that `--embedded` names".to_owned(),
        });
        entries.remove(at);
    }
    let listen = overrides.listen.clone();
    for (option, key, value) in [
        ("--listen", "listen", listen),
        ("--embedded", "embedded", embedded),
    ] {
        let origin = Origin::Variable(option.to_owned());
        if let Some(text) = value
            && let Some(node) = entry(root, key, &origin)
        {
            node.origin = origin;
            node.value = Value::Scalar(Scalar {
                text,
                only_text: true,
            });
        }
    }
    warnings
}
