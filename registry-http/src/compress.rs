//! Compression of JSON lists
//!
//! Only of lists: blobs and manifests are served byte for byte, because their length, ranges
//! and digest are those of the stored bytes.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, header};

/// Below this a list fits into one packet anyway
const WORTHWHILE: usize = 1024;

/// The list in gzip, if the client takes it and it gets shorter
pub(crate) fn gzip(headers: &HeaderMap, list: &[u8]) -> Option<Bytes> {
    if list.len() < WORTHWHILE || !accepts_gzip(headers) {
        return None;
    }
    // Lists of names shrink to a fifth at the fastest level already.
    let mut encoder = GzEncoder::new(Vec::with_capacity(list.len() / 4), Compression::fast());
    encoder.write_all(list).ok()?;
    let short = encoder.finish().ok()?;
    (short.len() < list.len()).then(|| short.into())
}

/// Whether `Accept-Encoding` lists gzip, or everything, with a weight above zero (RFC 9110,
/// section 12.5.3)
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let mut any = false;
    let mut named = None;
    for item in headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
    {
        let mut parts = item.split(';').map(str::trim);
        let coding = parts.next().unwrap_or_default();
        let wanted = parts
            .filter_map(|parameter| parameter.split_once('='))
            .find(|(name, _)| name.trim().eq_ignore_ascii_case("q"))
            .is_none_or(|(_, weight)| {
                weight
                    .trim()
                    .parse::<f32>()
                    .is_ok_and(|weight| weight > 0.0)
            });
        if coding == "*" {
            any = wanted;
        } else if coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip") {
            named = Some(wanted);
        }
    }
    named.unwrap_or(any)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use http::HeaderValue;

    use super::*;

    fn accept(value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(value));
        headers
    }

    #[test]
    fn weights_are_respected() {
        for (value, expected) in [
            ("gzip", true),
            ("zstd, GZIP;q=0.5, deflate", true),
            ("gzip ; q=0.001", true),
            ("x-gzip", true),
            ("*", true),
            ("*;q=0", false),
            ("gzip;q=0", false),
            ("gzip;Q=0.0, *", false),
            ("gzip;q=high", false),
            ("*;q=0, gzip", true),
            ("identity", false),
            ("gzipped", false),
            ("", false),
        ] {
            assert_eq!(accepts_gzip(&accept(value)), expected, "{value}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }

    #[test]
    fn only_what_gets_shorter_is_compressed() {
        let list = vec![b'a'; 5000];
        let short = gzip(&accept("gzip"), &list).unwrap();
        let mut back = Vec::new();
        flate2::read::GzDecoder::new(&short[..])
            .read_to_end(&mut back)
            .unwrap();
        assert_eq!(back, list);
        assert!(gzip(&accept("gzip"), &list[..WORTHWHILE - 1]).is_none());
        assert!(gzip(&HeaderMap::new(), &list).is_none());
    }
}
