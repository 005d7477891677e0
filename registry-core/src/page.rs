//! Pages of a list: which part is asked for, and the link to the next

use crate::digest::shortened;

/// Which part of a list is asked for (distribution specification, "Listing Tags")
///
/// # Examples
///
/// ```
/// use registry_core::Page;
///
/// let page = Page::new(Some("100"), Some("v1.9"))?;
/// assert_eq!(page.limit, Some(100));
/// assert_eq!(page.last.as_deref(), Some("v1.9"));
/// assert!(Page::new(Some("-1"), None).is_err());
/// # Ok::<(), registry_core::page::PageError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// At most so many entries (`n`)
    pub limit: Option<usize>,
    /// Entries strictly after this one (`last`), which need not exist
    pub last: Option<String>,
}

impl Page {
    /// From the values of `n` and `last`
    ///
    /// # Errors
    ///
    /// [`PageError`] when `n` is not a non-negative integer. One that is larger than any list
    /// is taken as it is meant.
    pub fn new(n: Option<&str>, last: Option<&str>) -> Result<Self, PageError> {
        let limit = match n {
            None => None,
            Some(text) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(text.parse().unwrap_or(usize::MAX))
            }
            Some(text) => {
                return Err(PageError {
                    text: shortened(text),
                });
            }
        };
        Ok(Self {
            limit,
            last: last.map(str::to_owned),
        })
    }
}

/// A page size that is no number
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected `n` to be a number of entries, 0 or more, got `{text}`")]
pub struct PageError {
    text: String,
}

/// The value of a `Link` header that leads to the next page (RFC 8288)
///
/// Relative, and with every value percent-encoded: podman takes the text before the first
/// semicolon, and crane refuses another host.
///
/// # Examples
///
/// ```
/// use registry_core::page::next_link;
///
/// assert_eq!(
///     next_link("/v2/a/tags/list", &[("n", "2"), ("last", "v;1")]),
///     r#"</v2/a/tags/list?n=2&last=v%3B1>; rel="next""#,
/// );
/// ```
pub fn next_link(path: &str, query: &[(&str, &str)]) -> String {
    let mut link = format!("<{path}");
    for (index, (name, value)) in query.iter().enumerate() {
        link.push(if index == 0 { '?' } else { '&' });
        link.push_str(name);
        link.push('=');
        link.push_str(&percent_encode(value));
    }
    link.push_str(">; rel=\"next\"");
    link
}

/// Encodes everything but the unreserved characters of RFC 3986, section 2.3
pub fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// Decodes once; `None` when an escape is broken or the result is not UTF-8
///
/// A plus sign stays one.
pub fn percent_decode(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let high = digit(bytes.next())?;
            let low = digit(bytes.next())?;
            decoded.push((high << 4 | low) as u8);
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn page_sizes_are_numbers() {
        for (text, limit) in [("0", 0), ("7", 7), ("99999999999999999999999", usize::MAX)] {
            assert_eq!(Page::new(Some(text), None).unwrap().limit, Some(limit));
        }
        for bad in ["", "-1", "+1", "1.5", "x", " 1"] {
            assert!(Page::new(Some(bad), None).is_err(), "{bad}");
        }
    }

    #[test]
    fn broken_escapes_are_none() {
        for bad in ["%", "%4", "%zz", "%ff", "a%"] {
            assert_eq!(percent_decode(bad), None, "{bad}");
        }
        assert_eq!(percent_decode("a%2Fb%3a+").as_deref(), Some("a/b:+"));
    }

    proptest! {
        #[test]
        fn encode_and_decode(text: String) {
            let encoded = percent_encode(&text);
            prop_assert!(encoded.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'&' && byte != b';'));
            prop_assert_eq!(percent_decode(&encoded), Some(text));
        }
    }
}
