//! An endpoint: who is told, how, and of what

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Scheme, Uri};
use percent_encoding::percent_decode_str;
use registry_core::event::EventAction;

use super::outbox::Filter;
use super::stats::{EndpointStats, EndpointVars, IgnoreVars};

/// What stands in place of a secret
const HIDDEN: &str = "<hidden>";

/// Somebody who is told of events, by `POST` to a URL
///
/// Times that are zero stand for the defaults, as in distribution. Neither header values nor
/// credentials in the URL, nor its query, are ever in `Debug`, logs, or `/debug/vars`.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use registry_core::event::EventAction;
/// use registry_http::Endpoint;
///
/// let endpoint = Endpoint::new("alistener", "https://mylistener.example.com/event")?
///     .with_header("Authorization", "Bearer token")?
///     .with_timeout(Duration::from_millis(500))
///     .with_threshold(5)
///     .with_ignored_media_types(vec!["application/octet-stream".to_owned()])
///     .with_ignored_actions(vec![EventAction::Pull]);
/// assert_eq!(endpoint.name(), "alistener");
/// assert!(!format!("{endpoint:?}").contains("token"));
/// # Ok::<(), registry_http::notifications::EndpointError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    name: String,
    url: Uri,
    headers: HeaderMap,
    timeout: Duration,
    threshold: u32,
    backoff: Duration,
    ignored_media_types: Vec<String>,
    ignored_actions: Vec<EventAction>,
    disabled: bool,
}

/// Why something is no endpoint
///
/// What was given is not repeated where it may hold a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// A header cannot be sent
    #[error(
        "header `{header}` of endpoint `{name}`: expected a header's name and a value of printable characters"
    )]
    Header {
        /// The endpoint
        name: String,
        /// The header
        header: String,
    },
    /// It has no name
    #[error(
        "expected a name for every notification endpoint, by which its place in the outbox is known; got none"
    )]
    Name,
    /// It has the name of another
    #[error("expected a different name for every notification endpoint, got `{name}` twice")]
    Twice {
        /// The name
        name: String,
    },
    /// The URL is none, or not of a kind that can be sent to
    #[error(
        "url of endpoint `{name}`: expected `http://` or `https://` with a host; got something else"
    )]
    Url {
        /// The endpoint
        name: String,
    },
}

impl Endpoint {
    /// How long an attempt may take unless something else is set, as in distribution
    pub const TIMEOUT: Duration = Duration::from_secs(1);
    /// After how many failures it is left alone unless something else is set, as in distribution
    pub const THRESHOLD: u32 = 10;
    /// For how long it is left alone unless something else is set, as in distribution
    pub const BACKOFF: Duration = Duration::from_secs(1);

    /// An endpoint that is told of everything
    ///
    /// `name` is what it is known by: when anything else about it changes, it gets the events
    /// that it has not taken. A user and password in `url` are sent as Basic credentials.
    ///
    /// # Errors
    ///
    /// [`EndpointError`] when the name is empty or the URL is not `http` or `https`.
    pub fn new(name: &str, url: &str) -> Result<Self, EndpointError> {
        if name.is_empty() {
            return Err(EndpointError::Name);
        }
        let refused = || EndpointError::Url {
            name: name.to_owned(),
        };
        let url: Uri = url.parse().map_err(|_| refused())?;
        let mut parts = url.into_parts();
        if !matches!(&parts.scheme, Some(scheme) if *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS)
        {
            return Err(refused());
        }
        let authority = parts.authority.take().ok_or_else(refused)?;
        let mut headers = HeaderMap::new();
        let host = match authority.as_str().rsplit_once('@') {
            Some((user, host)) => {
                headers.insert(header::AUTHORIZATION, basic(user).ok_or_else(refused)?);
                host
            }
            None => authority.as_str(),
        };
        if host.is_empty() || host.starts_with(':') {
            return Err(refused());
        }
        parts.authority = Some(host.parse().map_err(|_| refused())?);
        Ok(Self {
            name: name.to_owned(),
            url: Uri::from_parts(parts).map_err(|_| refused())?,
            headers,
            timeout: Self::TIMEOUT,
            threshold: Self::THRESHOLD,
            backoff: Self::BACKOFF,
            ignored_media_types: Vec::new(),
            ignored_actions: Vec::new(),
            disabled: false,
        })
    }

    /// Adds a header to every request; one that is there with another value stays
    ///
    /// An `Authorization` takes the place of credentials in the URL.
    ///
    /// # Errors
    ///
    /// [`EndpointError::Header`] when it cannot stand in a request.
    pub fn with_header(mut self, name: &str, value: &str) -> Result<Self, EndpointError> {
        let refused = || EndpointError::Header {
            name: self.name.clone(),
            header: name.to_owned(),
        };
        let header = HeaderName::try_from(name).map_err(|_| refused())?;
        let mut value = HeaderValue::try_from(value).map_err(|_| refused())?;
        value.set_sensitive(true);
        if header == header::AUTHORIZATION {
            self.headers.insert(header, value);
        } else {
            self.headers.append(header, value);
        }
        Ok(self)
    }

    /// How long an attempt may take, from the connection to the status
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = if timeout.is_zero() {
            Self::TIMEOUT
        } else {
            timeout
        };
        self
    }

    /// After how many failures one after the other it is left alone for [`Self::with_backoff`]
    pub fn with_threshold(mut self, threshold: u32) -> Self {
        self.threshold = if threshold == 0 {
            Self::THRESHOLD
        } else {
            threshold
        };
        self
    }

    /// For how long it is left alone
    pub fn with_backoff(mut self, backoff: Duration) -> Self {
        self.backoff = if backoff.is_zero() {
            Self::BACKOFF
        } else {
            backoff
        };
        self
    }

    /// The media types of the content of which it is told nothing
    pub fn with_ignored_media_types(mut self, media_types: Vec<String>) -> Self {
        self.ignored_media_types = media_types;
        self
    }

    /// What it is told nothing of
    pub fn with_ignored_actions(mut self, actions: Vec<EventAction>) -> Self {
        self.ignored_actions = actions;
        self
    }

    /// Whether it is told nothing at all; the same as if it were not there
    pub fn with_disabled(mut self, disabled: bool) -> Self {
        self.disabled = disabled;
        self
    }

    /// What it is known by
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn url(&self) -> &Uri {
        &self.url
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(crate) fn threshold(&self) -> u32 {
        self.threshold
    }

    pub(crate) fn backoff(&self) -> Duration {
        self.backoff
    }

    pub(crate) fn is_disabled(&self) -> bool {
        self.disabled
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.url.scheme() == Some(&Scheme::HTTPS)
    }

    pub(crate) fn filter(&self) -> Filter {
        Filter {
            media_types: self.ignored_media_types.clone(),
            actions: self.ignored_actions.clone(),
        }
    }

    /// The URL without what may be secret: the query often has a token
    pub(crate) fn shown_url(&self) -> String {
        let url = self.url.to_string();
        match url.split_once('?') {
            Some((url, _)) => format!("{url}?{HIDDEN}"),
            None => url,
        }
    }

    pub(crate) fn vars(&self, stats: EndpointStats) -> EndpointVars {
        let mut headers = BTreeMap::<String, Vec<String>>::new();
        for name in self.headers.keys() {
            let values = self.headers.get_all(name).iter().count();
            headers.insert(go_name(name), vec![HIDDEN.to_owned(); values]);
        }
        let actions = || self.ignored_actions.iter().map(ToString::to_string);
        let listed = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
        EndpointVars {
            name: self.name.clone(),
            url: self.shown_url(),
            headers: (!headers.is_empty()).then_some(headers),
            timeout: nanoseconds(self.timeout),
            threshold: self.threshold,
            backoff: nanoseconds(self.backoff),
            ignored_media_types: listed(&self.ignored_media_types),
            ignore: IgnoreVars {
                media_types: listed(&self.ignored_media_types),
                actions: listed(&actions().collect::<Vec<_>>()),
            },
            metrics: stats.into(),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("name", &self.name)
            .field("url", &self.shown_url())
            .field("headers", &self.headers.keys().collect::<Vec<_>>())
            .field("timeout", &self.timeout)
            .field("threshold", &self.threshold)
            .field("backoff", &self.backoff)
            .field("ignored_media_types", &self.ignored_media_types)
            .field("ignored_actions", &self.ignored_actions)
            .field("disabled", &self.disabled)
            .finish()
    }
}

/// The `Authorization` for the user part of a URL (RFC 3986, section 3.2.1)
fn basic(user: &str) -> Option<HeaderValue> {
    let (user, password) = user.split_once(':').unwrap_or((user, ""));
    let mut pair = Vec::new();
    pair.extend(percent_decode_str(user));
    pair.push(b':');
    pair.extend(percent_decode_str(password));
    let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// A header's name as Go writes it, which is how distribution shows it
fn go_name(name: &HeaderName) -> String {
    let mut start = true;
    name.as_str()
        .chars()
        .map(|c| {
            let shown = if start { c.to_ascii_uppercase() } else { c };
            start = c == '-';
            shown
        })
        .collect()
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_urls_that_can_be_sent_to() {
        for bad in [
            "",
            "listener",
            "/event",
            "ftp://a/",
            "http://",
            "http://:80/",
            "http://u:p@/x",
            "https//a",
            "unix:///run/x",
        ] {
            let error = Endpoint::new("a", bad).unwrap_err();
            assert!(matches!(error, EndpointError::Url { .. }), "{bad}");
        }
        assert_eq!(Endpoint::new("", "http://a/"), Err(EndpointError::Name));
        let endpoint = Endpoint::new("a", "http://[::1]:8080/callback?x=1").unwrap();
        assert_eq!(endpoint.url(), "http://[::1]:8080/callback?x=1");
    }

    #[test]
    fn credentials_of_the_url_become_a_header() {
        let endpoint = Endpoint::new("a", "https://ada:p%40ss%3Aword@a.example/x").unwrap();
        assert_eq!(endpoint.url(), "https://a.example/x");
        let expected = format!("Basic {}", STANDARD.encode("ada:p@ss:word"));
        assert_eq!(endpoint.headers()[header::AUTHORIZATION], expected);
        let endpoint = endpoint.with_header("authorization", "Bearer t").unwrap();
        let values: Vec<_> = endpoint.headers().get_all("authorization").iter().collect();
        assert_eq!(values, ["Bearer t"]);
    }

    #[test]
    fn no_secret_is_shown() {
        let endpoint = Endpoint::new("a", "https://ada:s3cret@a.example/x?token=s3cret")
            .unwrap()
            .with_header("X-Key", "s3cret")
            .unwrap();
        let vars = serde_json::to_string(&endpoint.vars(EndpointStats::default())).unwrap();
        assert!(vars.contains("\"X-Key\":[\"<hidden>\"]"), "{vars}");
        for text in [vars, format!("{endpoint:?}")] {
            assert!(
                !text.contains("s3cret") && text.contains("a.example"),
                "{text}"
            );
        }
        for error in [
            Endpoint::new("a", "s3cret://x").unwrap_err(),
            endpoint.with_header("x", "s3cret\n").unwrap_err(),
        ] {
            assert!(!format!("{error} {error:?}").contains("s3cret"));
        }
    }

    #[test]
    fn vars_have_the_documented_shape() {
        let mut stats = EndpointStats {
            events: 76,
            successes: 76,
            errors: 28,
            ..EndpointStats::default()
        };
        stats.statuses.insert(202, 76);
        let endpoint = Endpoint::new("local-8083", "http://localhost:8083/callback").unwrap();
        assert_eq!(
            serde_json::to_value(endpoint.vars(stats)).unwrap(),
            serde_json::json!({
                "name": "local-8083",
                "url": "http://localhost:8083/callback",
                "Headers": null,
                "Timeout": 1_000_000_000,
                "Threshold": 10,
                "Backoff": 1_000_000_000,
                "IgnoredMediaTypes": null,
                "Ignore": {"MediaTypes": null, "Actions": null},
                "Metrics": {
                    "Pending": 0, "Events": 76, "Successes": 76, "Failures": 0, "Errors": 28,
                    "Statuses": {"202 Accepted": 76}
                }
            })
        );
    }

    #[test]
    fn zero_stands_for_the_default() {
        let endpoint = Endpoint::new("a", "http://a/").unwrap();
        let zero = endpoint
            .clone()
            .with_timeout(Duration::ZERO)
            .with_threshold(0)
            .with_backoff(Duration::ZERO);
        assert_eq!(zero, endpoint);
    }
}
