//! Several ranges in one response (RFC 9110, section 14.6)

use bytes::Bytes;
use registry_core::ByteRange;
use uuid::Uuid;

/// A `multipart/byteranges` body, all but the content
#[derive(Debug)]
pub(crate) struct Multipart {
    boundary: String,
    parts: Vec<(Bytes, ByteRange)>,
    end: Bytes,
}

impl Multipart {
    pub(crate) fn new(parts: Vec<ByteRange>, size: u64, boundary: Uuid) -> Self {
        let boundary = boundary.simple().to_string();
        let parts = parts
            .into_iter()
            .map(|range| {
                let head = format!(
                    "\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: {}\r\n\r\n",
                    content_range(range, size),
                );
                (Bytes::from(head), range)
            })
            .collect();
        Self {
            end: Bytes::from(format!("\r\n--{boundary}--\r\n")),
            boundary,
            parts,
        }
    }

    pub(crate) fn content_type(&self) -> String {
        format!("multipart/byteranges; boundary={}", self.boundary)
    }

    /// The exact length of the body
    pub(crate) fn length(&self) -> u64 {
        let parts = self
            .parts
            .iter()
            .map(|(head, range)| head.len() as u64 + range.len())
            .sum::<u64>();
        parts + self.end.len() as u64
    }

    /// What precedes each range, the ranges, and what follows the last
    pub(crate) fn into_parts(self) -> (Vec<(Bytes, ByteRange)>, Bytes) {
        (self.parts, self.end)
    }
}

/// The `Content-Range` of a part
pub(crate) fn content_range(range: ByteRange, size: u64) -> String {
    format!("bytes {}-{}/{size}", range.start(), range.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_is_that_of_what_is_written() {
        let content = b"0123456789";
        let ranges = vec![ByteRange::new(0, 0).unwrap(), ByteRange::new(7, 9).unwrap()];
        let multipart = Multipart::new(ranges, 10, Uuid::nil());
        let length = multipart.length();
        assert_eq!(
            multipart.content_type(),
            "multipart/byteranges; boundary=00000000000000000000000000000000"
        );
        let (parts, end) = multipart.into_parts();
        let mut body = Vec::new();
        for (head, range) in parts {
            body.extend_from_slice(&head);
            body.extend_from_slice(&content[range.start() as usize..=range.end() as usize]);
        }
        body.extend_from_slice(&end);
        assert_eq!(body.len() as u64, length);
        assert_eq!(
            String::from_utf8(body).unwrap(),
            "\r\n--00000000000000000000000000000000\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes 0-0/10\r\n\r\n0\
             \r\n--00000000000000000000000000000000\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes 7-9/10\r\n\r\n789\
             \r\n--00000000000000000000000000000000--\r\n"
        );
    }
}
