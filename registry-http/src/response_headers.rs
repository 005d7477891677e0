//! Headers that an operator adds to every response

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Headers for every response, besides those that the registry sets itself
///
/// For policies that browsers and scanners ask for, such as `X-Content-Type-Options`,
/// `Strict-Transport-Security` or `Access-Control-Allow-Origin`. A header that a response has by
/// itself is left as it is (except `Vary`, which gets longer): what a response says of its own
/// content is never changed. Those without which a message means something else are refused:
/// `Connection`, `Content-Encoding`, `-Length`, `-Range` and `-Type`, `Date`, `Keep-Alive`,
/// `Location`, `Proxy-Connection`, `TE`, `Trailer`, `Transfer-Encoding` and `Upgrade`.
///
/// # Examples
///
/// ```
/// use registry_http::ResponseHeaders;
///
/// let headers = ResponseHeaders::new([("X-Content-Type-Options", ["nosniff"])])?;
/// assert!(ResponseHeaders::new([("Content-Length", ["1"])]).is_err());
/// # let _ = headers;
/// # Ok::<(), registry_http::response_headers::ResponseHeaderError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct ResponseHeaders(HeaderMap);

/// Why a header cannot be added to every response
///
/// No value is in the text: it may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResponseHeaderError {
    /// It is no header's name
    #[error("expected the name of a header, such as `X-Content-Type-Options`, got `{}`", .name.escape_debug())]
    Name {
        /// What came
        name: String,
    },
    /// The registry or its HTTP library writes it, and a second one breaks the message
    #[error("expected a header that is free, `{name}` is the registry's own to send; leave it out")]
    Reserved {
        /// The header
        name: HeaderName,
    },
    /// Its value cannot stand in a header
    #[error(
        "expected a value without control characters for the header `{name}`, got one with them"
    )]
    Value {
        /// The header
        name: HeaderName,
    },
}

impl ResponseHeaders {
    /// Reads names and their values
    ///
    /// # Errors
    ///
    /// [`ResponseHeaderError`] for the first that cannot be added.
    pub fn new<N, V>(headers: impl IntoIterator<Item = (N, V)>) -> Result<Self, ResponseHeaderError>
    where
        N: AsRef<str>,
        V: IntoIterator<Item: AsRef<str>>,
    {
        let mut map = HeaderMap::new();
        for (name, values) in headers {
            let name: HeaderName =
                name.as_ref()
                    .parse()
                    .map_err(|_| ResponseHeaderError::Name {
                        name: name.as_ref().to_owned(),
                    })?;
            if is_reserved(&name) {
                return Err(ResponseHeaderError::Reserved { name });
            }
            for value in values {
                let value = HeaderValue::from_str(value.as_ref())
                    .map_err(|_| ResponseHeaderError::Value { name: name.clone() })?;
                map.append(&name, value);
            }
        }
        Ok(Self(map))
    }

    pub(crate) fn add_to(&self, headers: &mut HeaderMap) {
        for name in self.0.keys() {
            if name != header::VARY && headers.contains_key(name) {
                continue;
            }
            for value in self.0.get_all(name) {
                headers.append(name, value.clone());
            }
        }
    }
}

fn is_reserved(name: &HeaderName) -> bool {
    [
        header::CONNECTION,
        header::CONTENT_ENCODING,
        header::CONTENT_LENGTH,
        header::CONTENT_RANGE,
        header::CONTENT_TYPE,
        header::DATE,
        header::LOCATION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ]
    .contains(name)
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_added_and_none_is_changed() {
        let extra = ResponseHeaders::new([
            ("X-Content-Type-Options", vec!["nosniff"]),
            ("x-many", vec!["a", "b"]),
            ("ETag", vec!["mine"]),
            ("Vary", vec!["Origin"]),
        ])
        .unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(header::ETAG, HeaderValue::from_static("theirs"));
        headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        extra.add_to(&mut headers);
        let values = |name: &str| -> Vec<_> {
            let values = headers.get_all(name).iter();
            values.map(|value| value.to_str().unwrap()).collect()
        };
        assert_eq!(values("x-content-type-options"), ["nosniff"]);
        assert_eq!(values("x-many"), ["a", "b"]);
        assert_eq!(values("etag"), ["theirs"]);
        assert_eq!(values("vary"), ["Accept-Encoding", "Origin"]);
    }

    #[test]
    fn what_cannot_be_added_is_named() {
        let refused = |name: &str, value: &str| {
            ResponseHeaders::new([(name, [value])])
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            refused("X Y\n", "v"),
            "expected the name of a header, such as `X-Content-Type-Options`, got `X Y\\n`"
        );
        assert_eq!(
            refused("Content-length", "1"),
            "expected a header that is free, `content-length` is the registry's own to send; leave it out"
        );
        let text = refused("X-Token", "secret\r\n");
        assert_eq!(
            text,
            "expected a value without control characters for the header `x-token`, got one with them"
        );
    }
}
