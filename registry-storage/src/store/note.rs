//! What a driver notes with the bytes of an upload session

use std::time::SystemTime;

use bytes::Bytes;
use jiff::Timestamp;
use registry_core::{Algorithm, Hasher};

use super::purge::date;

/// A session's beginning and running hash
///
/// A line of text, such as `2026-11-21T16:00:00Z sha256`, and after it the hash as it was saved.
pub(super) struct Note {
    /// `None` if it cannot be read
    pub(super) started: Option<SystemTime>,
    pub(super) hasher: Hasher,
}

impl Note {
    pub(super) fn encode(started: SystemTime, hasher: &Hasher) -> Bytes {
        // A time that no calendar has is as old as can be.
        let started = Timestamp::try_from(started).unwrap_or(Timestamp::UNIX_EPOCH);
        let mut note = format!("{started:.0} {}\n", hasher.algorithm()).into_bytes();
        note.extend(hasher.save());
        note.into()
    }

    /// `None` if it is no note of a session
    pub(super) fn parse(note: &[u8]) -> Option<Self> {
        let end = note.iter().position(|byte| *byte == b'\n')?;
        let (started, algorithm) = std::str::from_utf8(&note[..end]).ok()?.split_once(' ')?;
        let algorithms = [Algorithm::Sha256, Algorithm::Sha512];
        let algorithm = algorithms
            .into_iter()
            .find(|known| known.as_str() == algorithm)?;
        Some(Self {
            started: date(started.as_bytes()),
            hasher: Hasher::restore(algorithm, &note[end + 1..]).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written() {
        let started = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let mut hasher = Hasher::new(algorithm);
            for bytes in [&b""[..], b"some bytes"] {
                hasher.update(bytes);
                let note = Note::encode(started, &hasher);
                let found = Note::parse(&note).unwrap();
                assert_eq!(found.started, Some(started));
                assert_eq!(found.hasher.written(), hasher.written());
                assert_eq!(found.hasher.digest(), hasher.digest());
                assert!(note.starts_with(b"2001-09-09T01:46:40Z sha"), "{note:?}");
                assert!(Note::parse(&note[..note.len() - 1]).is_none());
            }
        }
        for note in [&b""[..], b"\n", b"2001-09-09T01:46:40Z md5\n"] {
            assert!(Note::parse(note).is_none());
        }
    }
}
