//! Byte ranges: parts of a blob that a client asks for, and the place of a chunk in an upload

use std::fmt;
use std::str::FromStr;

use crate::digest::shortened;

/// How many parts one request gets; with more it gets the whole
///
/// podman asks for several hundred at once for `zstd:chunked` images.
pub const MAX_RANGES: usize = 1024;

/// A range of bytes, both ends included
///
/// # Examples
///
/// ```
/// use registry_core::ByteRange;
///
/// let range = ByteRange::new(0, 499).unwrap();
/// assert_eq!(range.len(), 500);
/// assert_eq!(range.to_string(), "0-499");
/// assert_eq!(ByteRange::new(500, 0), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ByteRange {
    start: u64,
    end: u64,
}

#[allow(clippy::len_without_is_empty)] // a range has one byte at least
impl ByteRange {
    /// From `start` to `end`, both included; `None` if that is backwards
    pub fn new(start: u64, end: u64) -> Option<Self> {
        // The whole of u64 has no length in u64.
        (start <= end && end < u64::MAX).then_some(Self { start, end })
    }

    /// The first byte
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The last byte
    pub fn end(&self) -> u64 {
        self.end
    }

    /// How many bytes
    pub fn len(&self) -> u64 {
        self.end - self.start + 1
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.start, self.end)
    }
}

/// A `Range` header (RFC 9110, section 14.2), not yet held against a size
///
/// # Examples
///
/// ```
/// use registry_core::range::{RangeHeader, Resolved};
///
/// let header = RangeHeader::parse("bytes=0-1,-2").unwrap();
/// let Resolved::Parts(parts) = header.resolve(10) else { panic!() };
/// assert_eq!(parts.iter().map(ToString::to_string).collect::<Vec<_>>(), ["0-1", "8-9"]);
/// assert_eq!(RangeHeader::parse("bytes=20-").unwrap().resolve(10), Resolved::Unsatisfiable);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeHeader {
    /// `None` when there are more than [`MAX_RANGES`]
    specs: Option<Vec<Spec>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spec {
    /// `a-b`, perhaps backwards
    Closed(u64, u64),
    /// `a-`
    From(u64),
    /// `-n`
    Last(u64),
}

/// What a `Range` header means for content of a certain size
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// These parts, in the order asked for; at least one
    Parts(Vec<ByteRange>),
    /// Nothing of what was asked for is there (416)
    Unsatisfiable,
    /// The whole: more parts, or more bytes in overlapping parts, than it is worth
    Whole,
}

impl RangeHeader {
    /// Reads a header; `None` when it must be ignored: another unit, or out of grammar
    pub fn parse(header: &str) -> Option<Self> {
        let (unit, list) = header.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        let mut specs = Vec::new();
        for part in list.split(',').map(str::trim) {
            // RFC 9110, section 5.6.1: empty list elements are to be ignored.
            if part.is_empty() {
                continue;
            }
            let (start, end) = part.split_once('-')?;
            let spec = match (start.trim(), end.trim()) {
                ("", last) => Spec::Last(number(last)?),
                (start, "") => Spec::From(number(start)?),
                (start, end) => Spec::Closed(number(start)?, number(end)?),
            };
            if specs.len() == MAX_RANGES {
                return Some(Self { specs: None });
            }
            specs.push(spec);
        }
        (!specs.is_empty()).then_some(Self { specs: Some(specs) })
    }

    /// What it means for content of `size` bytes
    ///
    /// Ends beyond the content are cut, parts that lie beyond it or are backwards are left out.
    pub fn resolve(&self, size: u64) -> Resolved {
        let Some(specs) = &self.specs else {
            return Resolved::Whole;
        };
        let parts: Vec<ByteRange> = specs
            .iter()
            .filter_map(|spec| {
                let last = size.checked_sub(1)?;
                match *spec {
                    Spec::Closed(start, end) => ByteRange::new(start, end.min(last)),
                    Spec::From(start) => ByteRange::new(start, last),
                    Spec::Last(0) => None,
                    Spec::Last(count) => ByteRange::new(size.saturating_sub(count), last),
                }
            })
            .collect();
        let total = parts
            .iter()
            .fold(0_u64, |total, part| total.saturating_add(part.len()));
        if parts.is_empty() {
            Resolved::Unsatisfiable
        } else if parts.len() > 1 && total > size.saturating_mul(2) {
            Resolved::Whole
        } else {
            Resolved::Parts(parts)
        }
    }
}

/// The `Content-Range` of a chunk: `<start>-<end>`, both included (distribution specification,
/// "Pushing a blob in chunks")
///
/// HTTP's own form, `bytes <start>-<end>/<total>`, is taken as well, where the total is a number
/// or `*` or left out. It counts for nothing: an upload's size is known when it is complete.
///
/// # Examples
///
/// ```
/// use registry_core::ChunkRange;
///
/// let range = ChunkRange::parse("100-199")?;
/// assert_eq!((range.start(), range.end()), (100, 199));
/// # Ok::<(), registry_core::range::ChunkRangeError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChunkRange {
    start: u64,
    end: u64,
}

impl ChunkRange {
    /// Reads a header
    ///
    /// # Errors
    ///
    /// [`ChunkRangeError`] when it is out of grammar.
    pub fn parse(header: &str) -> Result<Self, ChunkRangeError> {
        let refused = || ChunkRangeError {
            text: shortened(header),
        };
        let text = header.trim();
        let text = match text.strip_prefix("bytes") {
            Some(rest) => {
                let rest = rest.strip_prefix([' ', '=']).ok_or_else(refused)?.trim();
                match rest.split_once('/') {
                    Some((range, total)) if total == "*" || number(total).is_some() => range,
                    Some(_) => return Err(refused()),
                    None => rest,
                }
            }
            None => text,
        };
        let (start, end) = text.split_once('-').ok_or_else(refused)?;
        let (Some(start), Some(end)) = (number(start), number(end)) else {
            return Err(refused());
        };
        // `0--1` for an empty chunk does not parse; `N-N` with nothing behind it is left to
        // the length of the body.
        if end < start {
            return Err(refused());
        }
        Ok(Self { start, end })
    }

    /// Where the chunk begins
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Its last byte, as the client says; some are off by one, so the body's length counts
    pub fn end(&self) -> u64 {
        self.end
    }
}

impl FromStr for ChunkRange {
    type Err = ChunkRangeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// A `Content-Range` out of grammar
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected `Content-Range: <start>-<end>` with the chunk's first and last byte, got `{text}`"
)]
pub struct ChunkRangeError {
    text: String,
}

/// Digits alone: `u64`'s own parser takes a plus sign too
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // More than fits lies beyond any content all the same.
    Some(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn resolve(header: &str, size: u64) -> Option<Resolved> {
        RangeHeader::parse(header).map(|header| header.resolve(size))
    }

    fn part(start: u64, end: u64) -> ByteRange {
        ByteRange::new(start, end).unwrap()
    }

    #[test]
    fn single_ranges() {
        for (header, start, end) in [
            ("bytes=0-0", 0, 0),
            ("bytes=2-5", 2, 5),
            ("bytes=5-", 5, 9),
            ("bytes=-3", 7, 9),
            ("bytes=-100", 0, 9),
            ("bytes=5-100", 5, 9),
            ("BYTES=0-1", 0, 1),
            ("bytes=0-99999999999999999999999", 0, 9),
        ] {
            assert_eq!(
                resolve(header, 10),
                Some(Resolved::Parts(vec![part(start, end)])),
                "{header}"
            );
        }
    }

    #[test]
    fn what_is_not_there_is_unsatisfiable() {
        for header in [
            "bytes=10-",
            "bytes=10-20",
            "bytes=5-2",
            "bytes=500-0",
            "bytes=-0",
        ] {
            assert_eq!(
                resolve(header, 10),
                Some(Resolved::Unsatisfiable),
                "{header}"
            );
        }
        assert_eq!(resolve("bytes=0-", 0), Some(Resolved::Unsatisfiable));
    }

    #[test]
    fn what_is_out_of_grammar_is_ignored() {
        for header in [
            "",
            "bytes",
            "bytes=",
            "bytes=a-b",
            "bytes=1",
            "items=0-1",
            "bytes=0-1,x",
            "bytes=+1-2",
            "bytes=--1",
        ] {
            assert_eq!(resolve(header, 10), None, "{header}");
        }
    }

    #[test]
    fn too_many_parts_are_the_whole() {
        let many = format!("bytes={}", vec!["0-0"; MAX_RANGES + 1].join(","));
        assert_eq!(resolve(&many, 10_000), Some(Resolved::Whole));
        assert_eq!(resolve("bytes=0-,0-,0-", 10), Some(Resolved::Whole));
        let most = format!("bytes={}", vec!["0-0"; MAX_RANGES].join(","));
        assert!(
            matches!(resolve(&most, 10_000), Some(Resolved::Parts(parts)) if parts.len() == MAX_RANGES)
        );
    }

    #[test]
    fn chunk_ranges() {
        for (text, start, end) in [
            ("0-9", 0, 9),
            ("5-5", 5, 5),
            ("bytes 5-9/10", 5, 9),
            ("bytes 5-9/*", 5, 9),
            ("bytes 5-9", 5, 9),
            ("bytes=5-9", 5, 9),
            (" 1-2 ", 1, 2),
        ] {
            let range = ChunkRange::parse(text).unwrap();
            assert_eq!((range.start(), range.end()), (start, end), "{text}");
        }
        for bad in [
            "",
            "-",
            "5",
            "9-0",
            "a-b",
            "5-",
            "-5",
            "0--1",
            "+1-2",
            "bytes */10",
            "bytes5-9",
            "bytes==5-9",
            "bytes 5-9/",
            "bytes 5-9/x",
            "bytes 5-9/10/11",
            "5-9/10",
        ] {
            assert!(ChunkRange::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn parts_lie_within(size in 0_u64..50, specs in prop::collection::vec((0_u64..60, 0_u64..60, 0_u8..3), 1..5)) {
            let text: Vec<_> = specs.iter().map(|(a, b, kind)| match kind {
                0 => format!("{a}-{b}"),
                1 => format!("{a}-"),
                _ => format!("-{a}"),
            }).collect();
            let naive: Vec<Vec<u64>> = specs.iter().map(|(a, b, kind)| match kind {
                0 => (*a..=*b).filter(|byte| *byte < size).collect(),
                1 => (*a..size).collect(),
                _ => (size.saturating_sub(*a)..size).collect(),
            }).filter(|bytes: &Vec<u64>| !bytes.is_empty()).collect();
            match resolve(&format!("bytes={}", text.join(", ")), size).unwrap() {
                Resolved::Parts(parts) => {
                    let found: Vec<Vec<u64>> = parts.iter().map(|part| (part.start()..=part.end()).collect()).collect();
                    prop_assert_eq!(found, naive);
                }
                Resolved::Unsatisfiable => prop_assert!(naive.is_empty()),
                Resolved::Whole => prop_assert!(naive.len() > 1),
            }
        }
    }
}
