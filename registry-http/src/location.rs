//! Where the registry is for its clients: under which prefix, and by which URL

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::{Scheme, Uri};

use crate::forwarded::Client;
use crate::reply::set;

/// How a `Location` or a `Link` names its target
///
/// # Examples
///
/// ```
/// use registry_http::Locations;
///
/// let locations = Locations::Absolute { base: Some("https://registry.example:8443".parse()?) };
/// # let _ = locations;
/// # Ok::<(), registry_http::location::BaseUrlError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Locations {
    /// By its path, such as `/v2/app/blobs/uploads/…`, which is right whatever scheme, host and
    /// port the client used, through whatever proxies; the default
    #[default]
    Relative,
    /// By a whole URL, for clients that cannot read a path
    Absolute {
        /// What the URL begins with; without one, what the client used: scheme and host as
        /// trusted proxies tell them, else as the request has them
        base: Option<BaseUrl>,
    },
}

/// The URL under which clients find the registry: scheme, host, and a port if need be
///
/// A path is kept if it ends with a slash, for proxies that take it away; it stands before the
/// [`Prefix`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl(String);

/// Why a text is no [`BaseUrl`]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected the URL of the registry, such as `https://registry.example:5000`, without user, query, or a path that does not end with `/`; got `{}`", .text.escape_debug()
)]
pub struct BaseUrlError {
    text: String,
}

impl FromStr for BaseUrl {
    type Err = BaseUrlError;

    fn from_str(text: &str) -> Result<Self, BaseUrlError> {
        let refused = || BaseUrlError {
            text: text.to_owned(),
        };
        let uri: Uri = text.parse().map_err(|_| refused())?;
        let known = matches!(uri.scheme(), Some(scheme) if *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS);
        let authority = uri
            .authority()
            .filter(|authority| !authority.host().is_empty() && !authority.as_str().contains('@'));
        let (true, Some(authority), None, false, Some(path)) = (
            known,
            authority,
            uri.query(),
            text.contains('#'),
            uri.path().strip_suffix('/'),
        ) else {
            return Err(refused());
        };
        let scheme = uri.scheme_str().unwrap_or("http");
        Ok(Self(format!("{scheme}://{authority}{path}")))
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The path under which the API is, instead of directly under `/`
///
/// It begins with a slash, and has letters, digits, `-`, `.`, `_`, `~` and single slashes in
/// it, no `.` or `..` between them; a slash at the end makes no difference. `/` is none.
///
/// # Examples
///
/// ```
/// use registry_http::Prefix;
///
/// assert_eq!("/docker/".parse::<Prefix>()?.to_string(), "/docker");
/// assert!("docker".parse::<Prefix>().is_err());
/// # Ok::<(), registry_http::location::PrefixError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefix(String);

/// Why a text is no [`Prefix`]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a path such as `/docker/`, of letters, digits, `-`, `.`, `_`, `~` and single `/`, got `{}`", .text.escape_debug()
)]
pub struct PrefixError {
    text: String,
}

impl Prefix {
    /// What follows the prefix in a path; `None` if the path is not under it
    pub(crate) fn strip<'a>(&self, path: &'a str) -> Option<&'a str> {
        path.strip_prefix(self.0.as_str())
            .filter(|rest| self.0.is_empty() || rest.is_empty() || rest.starts_with('/'))
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let path = text.strip_suffix('/').unwrap_or(text);
        let component = |component: &str| {
            !matches!(component, "" | "." | "..")
                && component
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
        };
        let valid = match path.strip_prefix('/') {
            Some(components) => components.split('/').all(component),
            None => text == "/",
        };
        if valid {
            Ok(Self(path.to_owned()))
        } else {
            Err(PrefixError {
                text: text.to_owned(),
            })
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What stands before the path in every `Location` and `Link`
#[derive(Clone, Debug)]
pub(crate) enum Root {
    /// The same for everyone, often nothing
    Fixed(String),
    /// What the client used, and then this
    OfClient(Prefix),
}

impl Root {
    pub(crate) fn new(locations: &Locations, prefix: &Prefix) -> Self {
        match locations {
            Locations::Relative => Self::Fixed(prefix.0.clone()),
            Locations::Absolute { base: Some(base) } => Self::Fixed(format!("{base}{prefix}")),
            Locations::Absolute { base: None } => Self::OfClient(prefix.clone()),
        }
    }

    /// For one request
    pub(crate) fn of(&self, client: &Client, parts: &Parts) -> Cow<'_, str> {
        match self {
            Self::Fixed(root) => root.into(),
            Self::OfClient(prefix) => {
                // Without a host, a path is all that there is to say.
                let origin = client.origin(parts).unwrap_or_default();
                format!("{origin}{prefix}").into()
            }
        }
    }

    /// For one request, with the host that the client used where [`Root::of`] is but a path
    pub(crate) fn absolute(&self, client: &Client, parts: &Parts) -> String {
        let root = self.of(client, parts);
        if root.is_empty() || root.starts_with('/') {
            let origin = client.origin(parts).unwrap_or_default();
            format!("{origin}{root}")
        } else {
            root.into_owned()
        }
    }
}

/// Puts `root` before the path in `Location` and `Link`
///
/// The rest of this crate writes paths from `/v2/` on and need not know where that is.
pub(crate) fn place(headers: &mut HeaderMap, root: &str) {
    if root.is_empty() {
        return;
    }
    let text = |headers: &HeaderMap, name: HeaderName| {
        let value: Option<&HeaderValue> = headers.get(name);
        Some(value?.to_str().ok()?.to_owned())
    };
    if let Some(path) = text(headers, header::LOCATION).filter(|text| text.starts_with('/')) {
        set(headers, header::LOCATION, format_args!("{root}{path}"));
    }
    if let Some(path) = text(headers, header::LINK)
        .as_deref()
        .and_then(|text| text.strip_prefix('<'))
        .filter(|rest| rest.starts_with('/'))
    {
        set(headers, header::LINK, format_args!("<{root}{path}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_is_scheme_host_and_port() {
        for (text, base) in [
            ("https://registry.example", "https://registry.example"),
            ("https://registry.example/", "https://registry.example"),
            ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
            ("http://[::1]:5000/", "http://[::1]:5000"),
            ("https://host/sub/", "https://host/sub"),
        ] {
            assert_eq!(text.parse::<BaseUrl>().unwrap().to_string(), base);
        }
        for bad in [
            "",
            "registry.example",
            "/v2/",
            "ftp://registry.example",
            "https://user:secret@registry.example",
            "https://registry.example/?x",
            "https://registry.example/#x",
            "https://registry.example/sub",
        ] {
            assert!(bad.parse::<BaseUrl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_prefix_is_a_path() {
        for (text, prefix) in [
            ("/", ""),
            ("/docker", "/docker"),
            ("/docker/", "/docker"),
            ("/a/b.c~_-9/", "/a/b.c~_-9"),
        ] {
            assert_eq!(text.parse::<Prefix>().unwrap().to_string(), prefix);
        }
        for bad in [
            "", "docker", "docker/", "//", "/a//b", "/a//", "/../a", "/a/.", "/a%2fb", "/a b", "/é",
        ] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_whole_components_are_a_prefix() {
        let prefix: Prefix = "/docker/".parse().unwrap();
        assert_eq!(prefix.strip("/docker/v2/"), Some("/v2/"));
        assert_eq!(prefix.strip("/docker"), Some(""));
        for other in ["/v2/", "/dockers/v2/", "/docke", "/x/docker/v2/"] {
            assert_eq!(prefix.strip(other), None, "{other}");
        }
        assert_eq!(Prefix::default().strip("/v2/"), Some("/v2/"));
    }

    #[test]
    fn paths_are_placed_and_nothing_else() {
        let mut headers = HeaderMap::new();
        set(&mut headers, header::LOCATION, "/v2/a");
        set(&mut headers, header::LINK, "</v2/b?n=1>; rel=\"next\"");
        set(&mut headers, header::ETAG, "/v2/c");
        place(&mut headers, "");
        assert_eq!(headers[header::LOCATION], "/v2/a");
        place(&mut headers, "https://r.example/x");
        assert_eq!(headers[header::LOCATION], "https://r.example/x/v2/a");
        assert_eq!(
            headers[header::LINK],
            "<https://r.example/x/v2/b?n=1>; rel=\"next\""
        );
        assert_eq!(headers[header::ETAG], "/v2/c");
        place(&mut headers, "https://r.example/x");
        assert_eq!(headers[header::LOCATION], "https://r.example/x/v2/a");
    }
}
