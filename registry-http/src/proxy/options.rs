//! What an operator says of the upstream

use std::fmt;
use std::time::Duration;

use registry_auth::Password;
use rustls::ClientConfig;

/// Where the registry behind a proxy is, and how it is asked
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use registry_auth::Password;
/// use registry_http::{Upstream, UpstreamOptions};
///
/// let options = UpstreamOptions::new("http://nexus-service:8082")
///     .with_credentials("acumos_rw", Password::new("correct horse"))
///     .with_connect_timeout(Duration::from_secs(3));
/// assert!(!format!("{options:?}").contains("horse"));
/// let upstream = Upstream::new(options)?;
/// # Ok::<(), registry_http::proxy::UpstreamSetupError>(())
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct UpstreamOptions {
    /// Its URL, such as `https://nexus.example:8082`, with a path if its `/v2/` is under one
    pub url: String,
    /// The account of the proxy there: a name and a password; by default none
    pub credentials: Option<(String, Password)>,
    /// The token services that the upstream may send the proxy to besides itself, as host and port, such as
    /// `auth.example` or `auth.example:5001`; by default none
    ///
    /// The account's password goes there, so that an upstream alone must not choose.
    pub trusted_realms: Vec<String>,
    /// The hosts that the upstream may redirect to though they are not on the open internet or do not speak
    /// TLS, such as a storage service next to it: `minio`, or `minio:9000` for that port only; by default none
    ///
    /// The upstream itself is trusted at its own port, whatever is named here.
    pub trusted_storage: Vec<String>,
    /// By whom an `https` upstream is trusted; by default the authorities of the system
    pub tls: Option<ClientConfig>,
    /// How long a connection may take to be made, TLS included; by default 10 seconds. It is also how long a
    /// request waits for one of [`UpstreamOptions::max_connections`].
    pub connect_timeout: Duration,
    /// How long the answer to what only reads may take to begin; by default 60 seconds
    pub answer_timeout: Duration,
    /// How long the answer to what writes may take to begin once all was sent; by default 15 minutes, in which
    /// a registry hashes and copies the largest of layers
    pub commit_timeout: Duration,
    /// How long the upstream may send nothing in the middle of an answer; by default 60 seconds
    pub idle_timeout: Duration,
    /// How many requests are under way at once; by default 512
    pub max_connections: usize,
    /// The secret with which what belongs to an upload session is sealed into the session's location; by
    /// default made of the URL and the credentials, so that all replicas of a proxy have the same, and
    /// random where there are no credentials
    pub seal_secret: Option<Password>,
}

impl UpstreamOptions {
    /// A registry at this URL
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            credentials: None,
            trusted_realms: Vec::new(),
            trusted_storage: Vec::new(),
            tls: None,
            connect_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(60),
            commit_timeout: Duration::from_secs(15 * 60),
            idle_timeout: Duration::from_secs(60),
            max_connections: 512,
            seal_secret: None,
        }
    }

    /// Sets [`UpstreamOptions::credentials`]
    #[must_use]
    pub fn with_credentials(mut self, user: impl Into<String>, password: Password) -> Self {
        self.credentials = Some((user.into(), password));
        self
    }

    /// Sets [`UpstreamOptions::trusted_realms`]
    #[must_use]
    pub fn with_trusted_realms(
        mut self,
        hosts: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        self.trusted_realms = hosts.into_iter().map(Into::into).collect();
        self
    }

    /// Sets [`UpstreamOptions::trusted_storage`]
    #[must_use]
    pub fn with_trusted_storage(
        mut self,
        hosts: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        self.trusted_storage = hosts.into_iter().map(Into::into).collect();
        self
    }

    /// Sets [`UpstreamOptions::tls`]
    #[must_use]
    pub fn with_tls(mut self, tls: ClientConfig) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Sets [`UpstreamOptions::connect_timeout`]
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets [`UpstreamOptions::answer_timeout`]
    #[must_use]
    pub fn with_answer_timeout(mut self, timeout: Duration) -> Self {
        self.answer_timeout = timeout;
        self
    }

    /// Sets [`UpstreamOptions::commit_timeout`]
    #[must_use]
    pub fn with_commit_timeout(mut self, timeout: Duration) -> Self {
        self.commit_timeout = timeout;
        self
    }

    /// Sets [`UpstreamOptions::idle_timeout`]
    #[must_use]
    pub fn with_idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// Sets [`UpstreamOptions::max_connections`]
    #[must_use]
    pub fn with_max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self
    }

    /// Sets [`UpstreamOptions::seal_secret`]
    #[must_use]
    pub fn with_seal_secret(mut self, secret: Password) -> Self {
        self.seal_secret = Some(secret);
        self
    }
}

impl fmt::Debug for UpstreamOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL is left out: before it was looked at, it may have a password in it.
        f.debug_struct("UpstreamOptions")
            .field("has_credentials", &self.credentials.is_some())
            .field("trusted_realms", &self.trusted_realms)
            .field("trusted_storage", &self.trusted_storage)
            .field("connect_timeout", &self.connect_timeout)
            .field("answer_timeout", &self.answer_timeout)
            .field("commit_timeout", &self.commit_timeout)
            .field("idle_timeout", &self.idle_timeout)
            .field("max_connections", &self.max_connections)
            .finish_non_exhaustive()
    }
}

/// Why something is no upstream
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamSetupError {
    /// The authorities that the system trusts cannot be read
    #[error(
        "cannot read which certificate authorities the system trusts: {0}; name a file of them"
    )]
    Authorities(std::io::Error),
    /// There is no room for any request
    #[error("expected room for at least one connection to the upstream, got 0")]
    Connections,
    /// What is trusted is no host
    #[error("expected a host, such as `auth.example` or `auth.example:5001`, got `{}`", .text.escape_debug())]
    Host {
        /// What came
        text: String,
    },
    /// rustls refuses what was chosen
    #[error("cannot set up TLS to the upstream: {0}")]
    Tls(rustls::Error),
    /// It is no URL of a registry; the text may have a password in it and is not repeated
    #[error(
        "expected the URL of the upstream, such as `http://nexus-service:8082`, without user, password and query"
    )]
    Url,
    /// The user name or the password cannot be sent
    #[error(
        "expected a user name without `:`, which separates it from the password, and without control characters"
    )]
    User,
}
