//! `registry.tokens`: the tokens that this registry issues

use std::path::PathBuf;
use std::time::Duration;

use super::Url;
use super::render::Out;
use super::section::Section;
use super::value::Problem;

/// `registry.tokens`: the registry is its own token service
///
/// # Examples
///
/// ```
/// use registry_examples::config::Config;
///
/// let (config, _) = Config::from_yaml("
/// version: 0.1
/// storage: inmemory
/// auth: {htpasswd: {realm: registry, path: /etc/registry/htpasswd}}
/// registry:
///   tokens:
///     realm: https://registry.example.com/auth/token
///     services: [registry.example.com]
///     key: /etc/registry/token.key
/// ")?;
/// let tokens = config.registry.tokens.unwrap();
/// assert_eq!(tokens.issuer, "registry.example.com");
/// assert_eq!(tokens.path, "/auth/token");
/// # Ok::<(), registry_examples::config::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// The name of the issuer; that of the first service unless it is said
    pub issuer: String,
    /// The registries that tokens are issued for, of which the first is this one
    pub services: Vec<String>,
    /// The URL of the token service as clients reach it; [`path`](Self::path) at `http.host`
    /// without it
    pub realm: Option<Url>,
    /// The private key (PEM), which is made if it is not there
    pub key: PathBuf,
    /// The certificate of the key (PEM), which is made with the key; without it tokens bring none
    /// along
    pub certificates: Option<PathBuf>,
    /// Former public keys (PEM)
    pub former_keys: Option<PathBuf>,
    /// How long a token is good; five minutes, for what it grants is not taken back before
    pub lifetime: Duration,
    /// How long a refresh token is good; 90 days, after which the user logs in again
    pub refresh_lifetime: Duration,
    /// Where tokens are issued
    pub path: String,
    /// Where the public keys are
    pub keys_path: String,
}

/// Reads `tokens`
pub(super) fn read(section: &Section<'_>) -> Result<Option<Tokens>, Problem> {
    if section.node.is_none() {
        return Ok(None);
    }
    let services = section.texts("services")?;
    let Some(first) = services.first().cloned() else {
        return section.needed("services", None);
    };
    let path = |key: &str, default: &str| match section.text(key)? {
        None => Ok(default.to_owned()),
        Some(path) if usable(&path) => Ok(path),
        Some(path) => Err(section.problem(
            key,
            format!(
                "expected a path such as `{default}`, outside of `/v2/`, got `{}`",
                path.escape_debug()
            ),
        )),
    };
    let tokens = Tokens {
        issuer: section.text("issuer")?.unwrap_or(first),
        services,
        realm: section.url("realm")?,
        key: section.needed_text("key")?.into(),
        certificates: section.text("certificates")?.map(PathBuf::from),
        former_keys: section.text("formerkeys")?.map(PathBuf::from),
        lifetime: section
            .interval("lifetime")?
            .unwrap_or(Duration::from_secs(5 * 60)),
        refresh_lifetime: section
            .interval("refreshlifetime")?
            .unwrap_or(Duration::from_secs(90 * 24 * 3600)),
        path: path("path", "/auth/token")?,
        keys_path: path("keyspath", "/auth/keys")?,
    };
    if tokens.path == tokens.keys_path {
        return Err(section.problem("keyspath", "expected another path than that of the tokens"));
    }
    Ok(Some(tokens))
}

/// Whether it is a path, and no other service's
fn usable(path: &str) -> bool {
    path.len() > 1
        && path.starts_with('/')
        && path != "/v2"
        && !path.starts_with("/v2/")
        && path
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte))
}

/// What stands under `tokens`
pub(super) fn out(tokens: &Tokens) -> Out {
    let Tokens {
        issuer,
        services,
        realm,
        key,
        certificates,
        former_keys,
        lifetime,
        refresh_lifetime,
        path,
        keys_path,
    } = tokens;
    Out::some([
        ("issuer", Some(Out::text(issuer))),
        ("services", Some(Out::texts(services))),
        (
            "realm",
            realm.as_ref().map(|realm| Out::text(realm.to_string())),
        ),
        ("key", Some(Out::path(key))),
        ("certificates", certificates.as_deref().map(Out::path)),
        ("formerkeys", former_keys.as_deref().map(Out::path)),
        ("lifetime", Some(Out::duration(*lifetime))),
        ("refreshlifetime", Some(Out::duration(*refresh_lifetime))),
        ("path", Some(Out::text(path))),
        ("keyspath", Some(Out::text(keys_path))),
    ])
}
