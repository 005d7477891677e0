//! A running hash that can be put away and taken up again

use sha2::digest::common::hazmat::SerializableState;
use sha2::{Digest as _, Sha256, Sha512};

use crate::digest::{Algorithm, Digest};

/// A running hash over the bytes so far
///
/// Its state can be saved and restored, so that an upload goes on in another process without
/// reading its bytes again. The saved form is that of Go's `crypto/sha256` and
/// `crypto/sha512` (`MarshalBinary`), which distribution writes below
/// `_uploads/<id>/hashstates`.
///
/// # Examples
///
/// ```
/// use registry_core::{Algorithm, Digest, Hasher};
///
/// let mut hasher = Hasher::new(Algorithm::Sha256);
/// hasher.update(b"hello ");
/// let saved = hasher.save();
///
/// let mut hasher = Hasher::restore(Algorithm::Sha256, &saved)?;
/// assert_eq!(hasher.written(), 6);
/// hasher.update(b"world");
/// assert_eq!(hasher.finish(), Digest::sha256(b"hello world"));
/// # Ok::<(), registry_core::HasherStateError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Hasher {
    state: State,
    written: u64,
}

#[derive(Clone, Debug)]
enum State {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    /// A hash over no bytes yet
    pub fn new(algorithm: Algorithm) -> Self {
        Self {
            state: match algorithm {
                Algorithm::Sha256 => State::Sha256(Sha256::new()),
                Algorithm::Sha512 => State::Sha512(Sha512::new()),
            },
            written: 0,
        }
    }

    /// Takes up a hash where [`Hasher::save`] put it away
    ///
    /// # Errors
    ///
    /// [`HasherStateError`] when `saved` is not the state of such a hash: another magic number
    /// or length, or a count of bytes beyond what SHA-256 can hash.
    pub fn restore(algorithm: Algorithm, saved: &[u8]) -> Result<Self, HasherStateError> {
        let invalid = || HasherStateError { algorithm };
        let layout = Layout::of(algorithm);
        if saved.len() != layout.saved_len() || !saved.starts_with(layout.magic) {
            return Err(invalid());
        }
        let (words, rest) = saved[layout.magic.len()..].split_at(8 * layout.word);
        let (block, length) = rest.split_at(layout.block);
        let written = u64::from_be_bytes(length.try_into().map_err(|_| invalid())?);
        if written > MAX_WRITTEN {
            return Err(invalid());
        }
        let pending = (written % layout.block as u64) as usize;

        // Of sha2: the words in little endian, how many blocks are done, and the pending bytes
        // behind their count.
        let mut state = Vec::with_capacity(208);
        for word in words.chunks_exact(layout.word) {
            state.extend(word.iter().rev());
        }
        let blocks = written / layout.block as u64;
        state.extend_from_slice(&u128::from(blocks).to_le_bytes()[..layout.count]);
        state.push(pending as u8);
        state.extend_from_slice(&block[..pending]);
        state.resize(state.len() + layout.block - 1 - pending, 0);
        let state = match algorithm {
            Algorithm::Sha256 => State::Sha256(
                Sha256::deserialize(state.as_slice().try_into().map_err(|_| invalid())?)
                    .map_err(|_| invalid())?,
            ),
            Algorithm::Sha512 => State::Sha512(
                Sha512::deserialize(state.as_slice().try_into().map_err(|_| invalid())?)
                    .map_err(|_| invalid())?,
            ),
        };
        Ok(Self { state, written })
    }

    /// The algorithm
    pub fn algorithm(&self) -> Algorithm {
        match self.state {
            State::Sha256(_) => Algorithm::Sha256,
            State::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// How many bytes have been hashed
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Hashes more bytes
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
        self.written += bytes.len() as u64;
    }

    /// The digest of the bytes so far
    pub fn digest(&self) -> Digest {
        self.clone().finish()
    }

    /// The digest of all bytes
    pub fn finish(self) -> Digest {
        let digest = match self.state {
            State::Sha256(state) => {
                Digest::from_bytes(Algorithm::Sha256, state.finalize().as_slice())
            }
            State::Sha512(state) => {
                Digest::from_bytes(Algorithm::Sha512, state.finalize().as_slice())
            }
        };
        // The hash functions yield as many bytes as their digests have.
        digest.expect("a hash has the length of its digest")
    }

    /// The state, to be restored later, in Go's form
    pub fn save(&self) -> Vec<u8> {
        let layout = Layout::of(self.algorithm());
        let serialized = match &self.state {
            State::Sha256(state) => state.serialize().to_vec(),
            State::Sha512(state) => state.serialize().to_vec(),
        };
        let (words, rest) = serialized.split_at(8 * layout.word);
        let pending = &rest[layout.count + 1..];
        let count = (self.written % layout.block as u64) as usize;

        let mut saved = Vec::with_capacity(layout.saved_len());
        saved.extend_from_slice(layout.magic);
        for word in words.chunks_exact(layout.word) {
            saved.extend(word.iter().rev());
        }
        saved.extend_from_slice(&pending[..count]);
        saved.resize(saved.len() + layout.block - count, 0);
        saved.extend_from_slice(&self.written.to_be_bytes());
        saved
    }
}

/// A saved hash that is none
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a saved {algorithm} state as Go's crypto library writes it, got something else")]
pub struct HasherStateError {
    algorithm: Algorithm,
}

/// The most bytes that SHA-256 hashes: it counts bits in 64 bits
///
/// No upload is that large, so a saved count beyond it is damage; it holds for SHA-512 too, whose
/// saved count has no more bits.
const MAX_WRITTEN: u64 = u64::MAX / 8;

/// The sizes of the two forms, in bytes
struct Layout {
    magic: &'static [u8],
    word: usize,
    block: usize,
    /// The width of sha2's count of blocks
    count: usize,
}

impl Layout {
    fn of(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self {
                magic: b"sha\x03",
                word: 4,
                block: 64,
                count: 8,
            },
            Algorithm::Sha512 => Self {
                magic: b"sha\x07",
                word: 8,
                block: 128,
                count: 16,
            },
        }
    }

    fn saved_len(&self) -> usize {
        self.magic.len() + 8 * self.word + self.block + 8
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_split_gives_the_same_digest() {
        let content: Vec<u8> = (0..400_u32).map(|i| (i * 7) as u8).collect();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            for split in 0..=content.len() {
                let mut hasher = Hasher::new(algorithm);
                hasher.update(&content[..split]);
                let saved = hasher.save();
                let mut hasher = Hasher::restore(algorithm, &saved).unwrap();
                assert_eq!(hasher.written(), split as u64);
                assert_eq!(hasher.save(), saved);
                hasher.update(&content[split..]);
                assert_eq!(hasher.digest(), Digest::of(algorithm, &content));
            }
        }
    }

    #[test]
    fn the_form_is_gos() {
        // Go's sha256 before any byte: magic, the initial words big-endian, an empty block, 0.
        let mut expected = b"sha\x03".to_vec();
        for word in [
            0x6a09_e667_u32,
            0xbb67_ae85,
            0x3c6e_f372,
            0xa54f_f53a,
            0x510e_527f,
            0x9b05_688c,
            0x1f83_d9ab,
            0x5be0_cd19,
        ] {
            expected.extend(word.to_be_bytes());
        }
        expected.extend([0; 64]);
        expected.extend([0; 8]);
        assert_eq!(Hasher::new(Algorithm::Sha256).save(), expected);

        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(b"abc");
        expected[36..39].copy_from_slice(b"abc");
        expected[107] = 3;
        assert_eq!(hasher.save(), expected);
        assert_eq!(Hasher::new(Algorithm::Sha512).save().len(), 204);
    }

    #[test]
    fn a_filled_block_is_in_the_words() {
        // After the last padded block the words are the digest, whoever computes them: an answer
        // known from the standard (FIPS 180-4, "abc").
        for (algorithm, block) in [(Algorithm::Sha256, 64), (Algorithm::Sha512, 128)] {
            let mut padded = b"abc\x80".to_vec();
            padded.resize(block - 1, 0);
            padded.push(24);
            let mut hasher = Hasher::new(algorithm);
            hasher.update(&padded);

            let digest = Digest::of(algorithm, b"abc");
            let magic: &[u8] = match algorithm {
                Algorithm::Sha256 => b"sha\x03",
                Algorithm::Sha512 => b"sha\x07",
            };
            let mut expected = [magic, digest.as_bytes()].concat();
            expected.resize(expected.len() + block, 0);
            expected.extend((block as u64).to_be_bytes());
            assert_eq!(hasher.save(), expected, "{algorithm}");
        }
    }

    #[test]
    fn what_is_no_state_is_refused() {
        let good = Hasher::new(Algorithm::Sha256).save();
        assert!(Hasher::restore(Algorithm::Sha512, &good).is_err());
        for bad in [
            &good[..107],
            &[],
            &[0; 108],
            &[good.as_slice(), &[0]].concat(),
        ] {
            assert!(Hasher::restore(Algorithm::Sha256, bad).is_err());
        }
    }

    #[test]
    fn a_count_beyond_any_hash_is_refused() {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let mut state = Hasher::new(algorithm).save();
            let count = state.len() - 8;
            state[count..].copy_from_slice(&(MAX_WRITTEN + 1).to_be_bytes());
            assert!(Hasher::restore(algorithm, &state).is_err());

            state[count..].copy_from_slice(&MAX_WRITTEN.to_be_bytes());
            let mut hasher = Hasher::restore(algorithm, &state).unwrap();
            hasher.update(&[0; 300]);
            assert_eq!(hasher.written(), MAX_WRITTEN + 300);
        }
    }

    proptest! {
        #[test]
        fn restoring_never_panics(bytes: Vec<u8>, length: u64) {
            let mut state = Hasher::new(Algorithm::Sha256).save();
            state[100..].copy_from_slice(&length.to_be_bytes());
            if let Ok(mut hasher) = Hasher::restore(Algorithm::Sha256, &state) {
                hasher.update(&bytes);
                prop_assert_eq!(hasher.written(), length + bytes.len() as u64);
            }
            let _ = Hasher::restore(Algorithm::Sha512, &bytes);
        }
    }
}
