//! The name of a request, by which a person finds it in every log on its way

use std::fmt;
use std::sync::Arc;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

/// The header that brings a request's name, and takes it back
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// How long a name may be that a client brings
///
/// It stands in every log line of the request, and in events.
const MAX_LENGTH: usize = 128;

/// The name of one request
///
/// Taken from the header `X-Request-ID` if that is 1 to 128 visible ASCII characters, else a
/// random UUID. It is in the response (`X-Request-ID`), in the extensions of the request, in
/// [`AccessRecord::request_id`](crate::AccessRecord::request_id), in the `tracing` span
/// `request` around everything that the request does, and in the message of every error with a
/// status of 500 and above, so that a user can quote it.
///
/// A name that a client brings need not be unique. It is cheap to clone: there are several places
/// to which each request's goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(pub Arc<str>);

impl RequestId {
    /// The name that the request brings, or a new one
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        Self::in_any(headers, &[X_REQUEST_ID])
    }

    /// The name that the first of these headers brings that brings one, or a new one
    pub(crate) fn in_any(headers: &HeaderMap, names: &[HeaderName]) -> Self {
        let brought = names
            .iter()
            .filter_map(|name| headers.get(name))
            .filter_map(|value| std::str::from_utf8(value.as_bytes()).ok())
            .find(|text| is_name(text));
        Self(match brought {
            Some(text) => text.into(),
            None => {
                let mut room = Uuid::encode_buffer();
                Arc::from(&*Uuid::new_v4().hyphenated().encode_lower(&mut room))
            }
        })
    }

    /// The name as a header's value
    pub(crate) fn value(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&self.0).ok()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_name(text: &str) -> bool {
    (1..=MAX_LENGTH).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: &[u8]) -> RequestId {
        let mut headers = HeaderMap::new();
        headers.insert(X_REQUEST_ID, HeaderValue::from_bytes(value).unwrap());
        RequestId::of(&headers)
    }

    #[test]
    fn a_name_that_can_stand_in_a_log_is_kept() {
        for good in ["a", "!~", "req-1/2:3", &"x".repeat(128)] {
            assert_eq!(*of(good.as_bytes()).0, *good);
        }
    }

    #[test]
    fn any_other_is_replaced_by_a_new_one() {
        let long = "x".repeat(129);
        for bad in [
            &b""[..],
            b"a b",
            b"a\tb",
            b"\xff",
            "é".as_bytes(),
            long.as_bytes(),
        ] {
            let id = of(bad);
            assert!(Uuid::parse_str(&id.0).is_ok(), "{bad:?} became {id}");
        }
        let none = HeaderMap::new();
        assert_ne!(RequestId::of(&none), RequestId::of(&none));
    }
}
