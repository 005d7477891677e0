//! One event in a segment: its checksum, its place in the order, and its JSON

use flate2::Crc;

/// What a segment starts with; the number is the version of its format
pub(super) const MAGIC: &[u8; 8] = b"events1\n";

/// Checksum (4 bytes), length of the rest (4), sequence number (8), length of the names (4),
/// all little-endian
const HEADER: usize = 20;

/// An event as it stands in a segment
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    /// Its place in the order of all events of the outbox
    pub(super) seq: u64,
    /// The endpoints that it is for, if not for all: those that had not taken it when it came
    /// over from the folder of another process
    pub(super) only: Option<Vec<String>>,
    pub(super) event: &'a [u8],
    /// Where `event` starts, from the start of the record
    pub(super) event_at: usize,
    /// The length of the whole record
    pub(super) len: usize,
}

/// Adds a record to `buffer` and returns where in it the event starts
pub(super) fn encode(
    buffer: &mut Vec<u8>,
    seq: u64,
    only: Option<&[String]>,
    event: &[u8],
) -> usize {
    let names = only.map_or_else(String::new, |names| {
        serde_json::Value::from(names.to_vec()).to_string()
    });
    let start = buffer.len();
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&length(names.len() + event.len()));
    buffer.extend_from_slice(&seq.to_le_bytes());
    buffer.extend_from_slice(&length(names.len()));
    buffer.extend_from_slice(names.as_bytes());
    let event_at = buffer.len();
    buffer.extend_from_slice(event);
    let sum = checksum(&buffer[start + 4..]);
    buffer[start..start + 4].copy_from_slice(&sum);
    event_at
}

/// Reads the record that `bytes` start with; `None` when there is no whole and sound one
pub(super) fn decode(bytes: &[u8]) -> Option<Record<'_>> {
    let word = |at: usize| -> Option<[u8; 4]> { bytes.get(at..at + 4)?.try_into().ok() };
    let body = u32::from_le_bytes(word(4)?) as usize;
    let names = u32::from_le_bytes(word(16)?) as usize;
    let record = bytes.get(..HEADER.checked_add(body)?)?;
    if names > body || checksum(&record[4..]) != word(0)? {
        return None;
    }
    let seq = u64::from_le_bytes(record[8..16].try_into().ok()?);
    let event_at = HEADER + names;
    let only = match names {
        0 => None,
        _ => Some(serde_json::from_slice(&record[HEADER..event_at]).ok()?),
    };
    Some(Record {
        seq,
        only,
        event: &record[event_at..],
        event_at,
        len: record.len(),
    })
}

/// An event has a few kilobytes; its manifest, from which it comes, a few megabytes at most
fn length(len: usize) -> [u8; 4] {
    u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes()
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum().to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut buffer = Vec::new();
        let first = encode(&mut buffer, 7, None, b"{}");
        let second = buffer.len();
        let only = ["a".to_owned(), "b \" c".to_owned()];
        encode(&mut buffer, u64::MAX, Some(&only), b"{\"id\":1}");

        let record = decode(&buffer).unwrap();
        assert_eq!(
            (record.seq, record.only, record.event),
            (7, None, &b"{}"[..])
        );
        assert_eq!((record.event_at, record.len), (first, second));
        let record = decode(&buffer[second..]).unwrap();
        assert_eq!((record.seq, record.event), (u64::MAX, &b"{\"id\":1}"[..]));
        assert_eq!(record.only.unwrap(), only);
        assert_eq!(second + record.len, buffer.len());
        assert_eq!(decode(&[]), None);
    }

    #[test]
    fn nothing_torn_or_changed_is_taken_for_a_record() {
        let mut whole = Vec::new();
        encode(&mut whole, 3, Some(&["a".to_owned()]), b"{\"id\":\"x\"}");
        for len in 0..whole.len() {
            assert_eq!(decode(&whole[..len]), None, "cut to {len}");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0x10;
            assert_eq!(decode(&changed), None, "changed at {at}");
        }
        assert_eq!(decode(&[0; 64]), None, "zeros, which a crash can leave");
        assert_eq!(decode(&[0xff; 64]), None);
    }
}
