//! Where the keys of a token service are published

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use http::Uri;
use rustls::ClientConfig;

use crate::http_client::HttpSetupError;

/// A JSON Web Key Set (RFC 7517, section 5) at a URL, and how it is kept up to date
///
/// It is fetched when a [`TokenAuthenticator`](crate::TokenAuthenticator) is made of it, and again
/// and again after the time that the answer says (`Cache-Control: max-age`, between a minute and a
/// day) or else after [`with_refresh`](Self::with_refresh). A key that is no longer in it is not
/// trusted from then on. A token of a key that is not in it causes one fetch at once, at most every
/// ten seconds, before it is refused: it may be the first of a new key.
///
/// - Until the first fetch succeeds, no token is refused for good, nor accepted unless its key is
///   in one of the files: it is [`Unavailable`](crate::AuthenticateError::Unavailable).
/// - While the URL gives no key set, the keys that were there stay in force, and tokens of other
///   keys are `Unavailable`. This is logged when it begins and when it is over.
/// - Where a file of keys calls another key by the same id, it is the file's that counts.
/// - What is answered has at most 1 MiB, and no redirect is followed. Keys in it that cannot verify
///   tokens are passed over.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use registry_auth::TokenOptions;
/// use registry_auth::token::JwksUrl;
///
/// let keys = JwksUrl::new("https://auth.example/keys")?.with_refresh(Duration::from_secs(60));
/// let options = TokenOptions::new("https://auth.example/token", "registry.example", "auth.example")
///     .with_jwks_url(keys);
/// // Whoever is between could put in keys of their own.
/// assert!(JwksUrl::new("http://auth.example/keys").is_err());
/// # Ok::<(), registry_auth::token::JwksUrlError>(())
/// ```
#[derive(Clone)]
pub struct JwksUrl {
    pub(super) uri: Uri,
    pub(super) refresh: Duration,
    pub(super) timeout: Duration,
    pub(super) tls: Option<ClientConfig>,
}

impl JwksUrl {
    /// The key set at this URL: `https://`, or `http://` of this very machine
    ///
    /// # Errors
    ///
    /// [`JwksUrlError::Url`] unless it is a URL with a host and without user, password and
    /// fragment; [`JwksUrlError::ClearText`] for `http://` of another machine.
    pub fn new(url: &str) -> Result<Self, JwksUrlError> {
        let made = Self::allow_http(url)?;
        match made.is_tls() || made.is_loopback() {
            true => Ok(made),
            false => Err(JwksUrlError::ClearText),
        }
    }

    /// The same, where `http://` of another machine is allowed too
    ///
    /// Whoever can change what passes on that network can let themselves in.
    ///
    /// # Errors
    ///
    /// [`JwksUrlError::Url`] as [`JwksUrl::new`].
    pub fn allow_http(url: &str) -> Result<Self, JwksUrlError> {
        let uri: Uri = url.parse().map_err(|_| JwksUrlError::Url)?;
        let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
        let authority = uri.authority().ok_or(JwksUrlError::Url)?;
        if !is_http
            || authority.host().is_empty()
            || authority.as_str().contains('@')
            || url.contains('#')
        {
            return Err(JwksUrlError::Url);
        }
        Ok(Self {
            uri,
            refresh: REFRESH,
            timeout: TIMEOUT,
            tls: None,
        })
    }

    /// Sets after what time it is fetched again where the answer does not say; by default five
    /// minutes, and never less than a tenth of a second
    #[must_use]
    pub fn with_refresh(mut self, interval: Duration) -> Self {
        self.refresh = interval.max(Duration::from_millis(100));
        self
    }

    /// Sets how long a fetch may take with everything; by default five seconds
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets whom an `https` URL is trusted by; by default the authorities of the system
    #[must_use]
    pub fn with_tls(mut self, tls: ClientConfig) -> Self {
        self.tls = Some(tls);
        self
    }

    pub(super) fn is_tls(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }

    fn is_loopback(&self) -> bool {
        let host = self.uri.host().unwrap_or_default();
        let address = host.trim_start_matches('[').trim_end_matches(']');
        host.eq_ignore_ascii_case("localhost")
            || address.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    }
}

/// Without the query, in which some services want a secret
impl fmt::Display for JwksUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.uri.scheme_str().unwrap_or_default();
        let authority = self
            .uri
            .authority()
            .map_or("", |authority| authority.as_str());
        write!(f, "{scheme}://{authority}{}", self.uri.path())
    }
}

impl fmt::Debug for JwksUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwksUrl")
            .field("url", &format_args!("{self}"))
            .field("refresh", &self.refresh)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// Why keys cannot be had from a URL
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JwksUrlError {
    /// The authorities that the system trusts cannot be read
    #[error(
        "cannot read which certificate authorities the system trusts, with which the URL of the \
         keys would be checked: {0}"
    )]
    Authorities(std::io::Error),
    /// Others could change what is answered
    #[error(
        "expected `https://` as the URL of the keys of tokens, got `http://` of another machine, \
         where whoever is between could put in keys of their own"
    )]
    ClearText,
    /// rustls refuses what was chosen
    #[error("cannot set up TLS for the URL of the keys: {0}")]
    Tls(rustls::Error),
    /// It is no URL; the text may have a password in it and is not repeated
    #[error(
        "expected the URL of a JSON Web Key Set, such as `https://auth.example/keys`, without \
         user, password and fragment"
    )]
    Url,
}

impl From<HttpSetupError> for JwksUrlError {
    fn from(error: HttpSetupError) -> Self {
        match error {
            HttpSetupError::Authorities(error) => Self::Authorities(error),
            HttpSetupError::Tls(error) => Self::Tls(error),
        }
    }
}

/// When keys are fetched again, unless the answer says
const REFRESH: Duration = Duration::from_secs(5 * 60);

/// The time of an answer
const TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_over_tls_or_from_this_machine() {
        for good in [
            "https://h/keys?tenant=1",
            "https://h:8443",
            "http://localhost:80/k",
            "http://127.1.2.3/k",
            "http://[::1]:5000/k",
        ] {
            JwksUrl::new(good).unwrap();
        }
        for clear in [
            "http://h/keys",
            "http://127.0.0.1.example/k",
            "http://10.0.0.1/k",
        ] {
            assert!(
                matches!(JwksUrl::new(clear), Err(JwksUrlError::ClearText)),
                "{clear}"
            );
            JwksUrl::allow_http(clear).unwrap();
        }
        for bad in [
            "",
            "h",
            "/keys",
            "ftp://h/k",
            "https:///k",
            "https://u:hunter2@h/k",
            "https://h/k#hunter2",
        ] {
            let error = JwksUrl::new(bad).unwrap_err();
            assert!(matches!(error, JwksUrlError::Url), "{bad}: {error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_query_is_not_printed() {
        let url = JwksUrl::new("https://h:1/keys?code=hunter2").unwrap();
        assert_eq!(url.to_string(), "https://h:1/keys");
        assert!(!format!("{url:?}").contains("hunter2"));
    }
}
