//! A body between its coming and its being written

use bytes::{Bytes, BytesMut};

/// From which size on a piece of a body is written from where it lies
///
/// A smaller one may keep a buffer alive that is many times as large, so it is copied.
const PIECE_SIZE: usize = 64 * 1024;

/// What has come of a body and is not yet written
#[derive(Default)]
pub(super) struct Gathered {
    pieces: Vec<Bytes>,
    /// The small ones at the end, in one
    end: BytesMut,
    length: usize,
}

impl Gathered {
    pub(super) fn push(&mut self, piece: Bytes) {
        self.length += piece.len();
        if piece.len() < PIECE_SIZE {
            self.end.extend_from_slice(&piece);
            return;
        }
        self.close();
        self.pieces.push(piece);
    }

    /// How many bytes it is
    pub(super) fn length(&self) -> usize {
        self.length
    }

    fn close(&mut self) {
        if !self.end.is_empty() {
            self.pieces.push(self.end.split().freeze());
        }
    }

    /// All of it, in order
    pub(super) fn take(&mut self) -> Vec<Bytes> {
        self.close();
        self.length = 0;
        std::mem::take(&mut self.pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_pieces_are_passed_on_and_small_ones_are_joined() {
        let large = |byte| Bytes::from(vec![byte; PIECE_SIZE]);
        let (first, second) = (large(b'1'), large(b'2'));
        let mut gathered = Gathered::default();
        for piece in [&b"a"[..], b"b"] {
            gathered.push(Bytes::from_static(piece));
        }
        gathered.push(first.clone());
        gathered.push(second.clone());
        gathered.push(Bytes::from_static(b"c"));
        assert_eq!(gathered.length(), 2 * PIECE_SIZE + 3);

        let pieces = gathered.take();
        assert_eq!(pieces.len(), 4);
        assert_eq!((&pieces[0][..], &pieces[3][..]), (&b"ab"[..], &b"c"[..]));
        assert!(pieces[1] == first && pieces[2] == second);
        assert_eq!(pieces[1].as_ptr(), first.as_ptr(), "copied");
        assert_eq!(gathered.length(), 0);
        assert!(gathered.take().is_empty());
    }
}
