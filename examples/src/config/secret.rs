//! Values that are read from the configuration and never shown

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use hyper::http::{HeaderMap, HeaderName, HeaderValue};

/// What stands where a secret would
pub(crate) const HIDDEN: &str = "(hidden)";

/// An `http` or `https` URL, shown without what may be secret in it
///
/// User, password and query are hidden in `Debug` and `Display`: each of them is where tokens of
/// webhooks are found.
///
/// # Examples
///
/// ```
/// use registry_examples::config::Url;
///
/// let url: Url = "https://me:hunter2@hooks.example.com/push?token=x".parse()?;
/// assert_eq!(url.to_string(), "https://(hidden)@hooks.example.com/push?(hidden)");
/// assert_eq!(url.host(), "hooks.example.com");
/// assert_eq!(url.expose(), "https://me:hunter2@hooks.example.com/push?token=x");
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    text: String,
    shown: String,
    host: String,
}

impl Url {
    /// The whole URL, with what is hidden elsewhere
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// The host, without a port; an IPv6 address is in brackets
    pub fn host(&self) -> &str {
        &self.host
    }
}

impl std::str::FromStr for Url {
    type Err = String;

    /// # Errors
    ///
    /// What is wrong, without the text, in which there may be a password.
    fn from_str(text: &str) -> Result<Self, String> {
        let uri: hyper::Uri = text
            .parse()
            .map_err(|error| format!("not a URL: {error}"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err("not an `http://` or `https://` URL".to_owned());
        }
        let host = match uri.host() {
            Some(host) if !host.is_empty() => host.to_owned(),
            _ => return Err("without a host".to_owned()),
        };
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let (user, address) = authority
            .rsplit_once('@')
            .map_or(("", authority), |(_, address)| ("(hidden)@", address));
        let query = if uri.query().is_some() {
            "?(hidden)"
        } else {
            ""
        };
        // The path as it was written: a URL without one stays without one.
        let path = match uri.path() {
            "/" if !text.trim_end_matches(query).ends_with('/') && uri.query().is_none() => "",
            path => path,
        };
        let shown = format!(
            "{}://{user}{address}{path}{query}",
            uri.scheme_str().unwrap_or_default()
        );
        Ok(Self {
            text: text.to_owned(),
            shown,
            host,
        })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// A secret that stands in the configuration, or in a file of its own
///
/// # Examples
///
/// ```
/// use registry_examples::config::Secret;
///
/// let secret = Secret::Text("hunter2".to_owned());
/// assert_eq!(format!("{secret:?}"), "Text((hidden))");
/// assert_eq!(secret.read()?, "hunter2");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// The path of a file whose first line it is, as container platforms mount secrets
    File(PathBuf),
    /// The secret itself
    Text(String),
}

/// The longest file of a secret that is read
const LARGEST_SECRET: u64 = 64 * 1024;

impl Secret {
    /// The secret, without the end of its line
    ///
    /// # Errors
    ///
    /// What the system says of the file, or that it is no text, or empty.
    pub fn read(&self) -> io::Result<String> {
        let path = match self {
            Self::File(path) => path,
            Self::Text(text) => return Ok(text.clone()),
        };
        let mut text = String::new();
        File::open(path)?
            .take(LARGEST_SECRET)
            .read_to_string(&mut text)?;
        match text.lines().next() {
            Some(line) if !line.is_empty() => Ok(line.to_owned()),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "expected a secret in its first line, which is empty",
            )),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Text(_) => write!(f, "Text({HIDDEN})"),
        }
    }
}

/// Header fields, in the order and with the case in which they were written
///
/// `Debug` prints names only: among the values are `Authorization` and cookies.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// Adds a field
    ///
    /// # Errors
    ///
    /// What is wrong with the name or the value, without the value.
    pub fn add(&mut self, name: impl Into<String>, value: impl Into<String>) -> Result<(), String> {
        let (name, value) = (name.into(), value.into());
        HeaderName::try_from(&name).map_err(|_| format!("`{name}` is not a header name"))?;
        HeaderValue::try_from(&value)
            .map_err(|_| format!("the value of the header `{name}` has a control character"))?;
        self.0.push((name, value));
        Ok(())
    }

    /// Name and value of each field
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether there is none
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The fields as the HTTP crates take them
    pub fn to_map(&self) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in &self.0 {
            // `add` has let in only what both parse.
            if let (Ok(name), Ok(value)) =
                (HeaderName::try_from(name), HeaderValue::try_from(value))
            {
                map.append(name, value);
            }
        }
        map
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(name, _)| name))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_user_password_and_query() {
        for (text, shown) in [
            ("http://h/x", "http://h/x"),
            ("http://h", "http://h"),
            ("http://h/", "http://h/"),
            ("http://u:p@h:1/x", "http://(hidden)@h:1/x"),
            ("https://h?t=s", "https://h/?(hidden)"),
            ("http://[::1]:5003/callback", "http://[::1]:5003/callback"),
        ] {
            let url: Url = text.parse().unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), shown);
            assert_eq!(url.expose(), text);
        }
    }

    #[test]
    fn what_is_no_url_is_refused_without_showing_it() {
        for text in [
            "",
            "h/x",
            "ftp://u:hunter2@h",
            "http://",
            "http://a b:hunter2@h",
        ] {
            let error = text.parse::<Url>().unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_secret_is_the_first_line_of_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        let secret = Secret::File(path.clone());
        assert!(secret.read().is_err());
        for (text, expected) in [
            ("hunter2", Some("hunter2")),
            ("hunter2\n", Some("hunter2")),
            ("hunter2\r\nmore\n", Some("hunter2")),
            (" a b ", Some(" a b ")),
            ("", None),
            ("\nhunter2", None),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(secret.read().ok().as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn headers_keep_their_case_and_hide_their_values() {
        let mut headers = Headers::default();
        headers.add("X-Token", "hunter2").unwrap();
        headers.add("X-Token", "again").unwrap();
        assert_eq!(format!("{headers:?}"), "[\"X-Token\", \"X-Token\"]");
        assert_eq!(headers.iter().next(), Some(("X-Token", "hunter2")));
        assert_eq!(headers.to_map().get_all("x-token").iter().count(), 2);
        assert!(headers.add("X Y", "v").is_err());
        let error = headers.add("X", "hunter2\n").unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
    }
}
