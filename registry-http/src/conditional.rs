//! Entity tags and the conditions on them (RFC 9110, sections 8.8.3 and 13)
//!
//! The tag of content is its digest. It is strong: equal digests are equal bytes.

use http::{HeaderMap, HeaderValue, header};
use registry_core::{Digest, DigestText};

/// The `ETag` of content
pub(crate) fn etag(digest: &DigestText) -> HeaderValue {
    let tag = ["\"", digest.as_str(), "\""].concat();
    HeaderValue::try_from(tag).expect("quotes and a digest are visible ASCII")
}

/// Whether `If-None-Match` says that the client has this content (the answer is 304)
///
/// Clients of the reference registry send the digest without quotes too.
pub(crate) fn client_has(headers: &HeaderMap, digest: &Digest) -> bool {
    if !headers.contains_key(header::IF_NONE_MATCH) {
        return false;
    }
    let digest = digest.to_string();
    headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|tag| {
            // Weak comparison (section 13.1.2): the mark of weakness is passed over.
            tag == "*" || unquote(tag.strip_prefix("W/").unwrap_or(tag)) == digest
        })
}

/// Whether `If-Range` lets `Range` apply
///
/// It does when it is absent or names this very content. A weak tag never does, and neither
/// does a date, since no `Last-Modified` is ever sent (section 13.1.5).
pub(crate) fn range_applies(headers: &HeaderMap, digest: &Digest) -> bool {
    match headers.get(header::IF_RANGE) {
        None => true,
        Some(value) => value
            .to_str()
            .is_ok_and(|tag| unquote(tag.trim()) == digest.to_string()),
    }
}

fn unquote(tag: &str) -> &str {
    tag.strip_prefix('"')
        .and_then(|tag| tag.strip_suffix('"'))
        .unwrap_or(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_meet_the_digest_however_it_is_written() {
        let digest = Digest::sha256(b"a");
        let other = Digest::sha256(b"b");
        let table = [
            (format!("\"{digest}\""), true, true),
            (format!("{digest}"), true, true),
            (format!("W/\"{digest}\""), true, false),
            (format!("\"{other}\", \"{digest}\""), true, false),
            (format!("{other} ,W/{digest}"), true, false),
            ("*".to_owned(), true, false),
            (format!("\"{other}\""), false, false),
            (format!("\"{digest}"), false, false),
            (String::new(), false, false),
            ("Wed, 21 Oct 2015 07:28:00 GMT".to_owned(), false, false),
        ];
        for (text, none_match, range) in table {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, HeaderValue::from_str(&text).unwrap());
            headers.insert(header::IF_RANGE, HeaderValue::from_str(&text).unwrap());
            assert_eq!(client_has(&headers, &digest), none_match, "{text}");
            assert_eq!(range_applies(&headers, &digest), range, "{text}");
        }
        assert!(!client_has(&HeaderMap::new(), &digest));
        assert!(range_applies(&HeaderMap::new(), &digest));
        assert_eq!(etag(&digest.text()), format!("\"{digest}\""));
    }

    #[test]
    fn repeated_lines_are_one_list() {
        let digest = Digest::sha256(b"a");
        let mut headers = HeaderMap::new();
        headers.append(header::IF_NONE_MATCH, HeaderValue::from_static("\"x\""));
        headers.append(
            header::IF_NONE_MATCH,
            HeaderValue::from_bytes(b"\xff").unwrap(),
        );
        assert!(!client_has(&headers, &digest));
        headers.append(header::IF_NONE_MATCH, etag(&digest.text()));
        assert!(client_has(&headers, &digest));
    }
}
