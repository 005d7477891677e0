//! The upload session as a state machine without I/O
//!
//! A [`Session`] says what may come next and what the caller has to do: write these bytes at
//! that offset, save the hash, commit the blob, discard it. A chunk borrows its session, and
//! completing or cancelling consumes it, so that a sequence out of order does not compile, or
//! is an error of its own kind.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use uuid::{Builder, Uuid};

use crate::digest::{Algorithm, Digest, shortened};
use crate::hasher::Hasher;
use crate::range::ChunkRange;

/// The id of an upload session, a UUID (distribution specification, "POST then PUT")
///
/// # Examples
///
/// ```
/// use registry_core::UploadId;
///
/// let id = UploadId::from_random_bytes([7; 16]);
/// assert_eq!(id.to_string(), "07070707-0707-4707-8707-070707070707");
/// assert_eq!(id.to_string().parse(), Ok(id));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UploadId(Uuid);

impl UploadId {
    /// An id of random bytes, which the caller provides
    pub fn from_random_bytes(bytes: [u8; 16]) -> Self {
        Self(Builder::from_random_bytes(bytes).into_uuid())
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.as_hyphenated(), f)
    }
}

impl FromStr for UploadId {
    type Err = UploadIdError;

    /// Only the form that [`fmt::Display`] writes: an id becomes part of a path, and one
    /// session must not have two
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let id = Uuid::try_parse(text).ok().map(Self);
        id.filter(|id| id.to_string() == text)
            .ok_or_else(|| UploadIdError {
                text: shortened(text),
            })
    }
}

impl TryFrom<&str> for UploadId {
    type Error = UploadIdError;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// A text that is no upload session's id
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a lower-case UUID, got `{text}`")]
pub struct UploadIdError {
    text: String,
}

/// An upload between two requests
///
/// # Examples
///
/// ```
/// use registry_core::upload::{ChunkHeader, Completion, Session};
/// use registry_core::{Algorithm, Digest, UploadId};
///
/// let mut session = Session::begin(UploadId::from_random_bytes([0; 16]), Algorithm::Sha256);
/// let mut chunk = session.chunk(ChunkHeader::default())?;
/// assert_eq!(chunk.append(b"hello ")?.offset, 0);
/// assert_eq!(chunk.append(b"world")?.offset, 6);
/// assert_eq!(chunk.finish()?.offset, 11);
/// match session.complete(Digest::sha256(b"hello world")) {
///     Ok(Completion::Commit(commit)) => assert_eq!(commit.size, 11),
///     _ => panic!("the digest is right"),
/// }
/// # Ok::<(), registry_core::upload::ChunkError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Session {
    id: UploadId,
    /// Covers exactly the bytes before the offset
    hasher: Hasher,
}

impl Session {
    /// A session without bytes
    pub fn begin(id: UploadId, algorithm: Algorithm) -> Self {
        Self {
            id,
            hasher: Hasher::new(algorithm),
        }
    }

    /// A session that already has the bytes that `hasher` covers
    pub fn resume(id: UploadId, hasher: Hasher) -> Self {
        Self { id, hasher }
    }

    /// Its id
    pub fn id(&self) -> UploadId {
        self.id
    }

    /// The algorithm that its bytes are hashed with along the way
    pub fn algorithm(&self) -> Algorithm {
        self.hasher.algorithm()
    }

    /// How many bytes it has, which is where the next chunk starts
    pub fn offset(&self) -> u64 {
        self.hasher.written()
    }

    /// The running hash, to be saved
    pub fn hasher(&self) -> &Hasher {
        &self.hasher
    }

    /// Changes the algorithm of a session that has no bytes yet; returns whether it now is
    /// `algorithm`
    pub fn set_algorithm(&mut self, algorithm: Algorithm) -> bool {
        if self.offset() == 0 {
            self.hasher = Hasher::new(algorithm);
        }
        self.algorithm() == algorithm
    }

    /// Begins to receive a chunk
    ///
    /// # Errors
    ///
    /// [`ChunkError::OutOfOrder`] when it does not start where the session is; nothing has
    /// changed then (distribution specification, "Pushing a blob in chunks").
    pub fn chunk(&mut self, header: ChunkHeader) -> Result<Chunk<'_>, ChunkError> {
        let expected = self.offset();
        if let Some(range) = header.range
            && range.start() != expected
        {
            return Err(ChunkError::OutOfOrder {
                expected,
                got: range.start(),
            });
        }
        Ok(Chunk {
            session: self,
            remaining: header.length,
        })
    }

    /// Ends the session with the digest that the client gives for the whole
    ///
    /// # Errors
    ///
    /// The session and [`CompleteError`] when the bytes have another digest.
    #[allow(clippy::result_large_err)] // the session is handed back, not copied
    pub fn complete(self, digest: Digest) -> Result<Completion, (Self, CompleteError)> {
        if digest.algorithm() != self.algorithm() {
            return Ok(Completion::Rehash(Rehash {
                hasher: Hasher::new(digest.algorithm()),
                session: self,
                digest,
            }));
        }
        let computed = self.hasher.digest();
        if computed != digest {
            return Err((
                self,
                CompleteError::DigestMismatch {
                    expected: digest,
                    computed,
                },
            ));
        }
        Ok(Completion::Commit(Commit {
            digest,
            size: self.offset(),
        }))
    }

    /// Ends the session without a blob
    pub fn cancel(self) -> Discard {
        Discard { id: self.id }
    }

    /// Whether a session of this age has had its time; then it is to be discarded
    ///
    /// (distribution specification, "Cancel a blob upload": unfinished uploads time out)
    pub fn expired(&self, age: Duration, limit: Duration) -> Option<Discard> {
        (age > limit).then_some(Discard { id: self.id })
    }
}

/// What a request says of its chunk
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChunkHeader {
    /// `Content-Range`
    ///
    /// Only its start counts: some clients are off by one at the end.
    pub range: Option<ChunkRange>,
    /// `Content-Length`
    pub length: Option<u64>,
}

/// A chunk that is being received
#[derive(Debug)]
pub struct Chunk<'session> {
    session: &'session mut Session,
    remaining: Option<u64>,
}

impl Chunk<'_> {
    /// The session's id
    pub fn id(&self) -> UploadId {
        self.session.id
    }

    /// The session's running hash
    pub fn hasher(&self) -> &Hasher {
        &self.session.hasher
    }

    /// How many bytes the session has by now
    pub fn offset(&self) -> u64 {
        self.session.offset()
    }

    /// Takes bytes of the body
    ///
    /// # Errors
    ///
    /// [`ChunkError::TooLong`] when the body is longer than announced; these bytes are not
    /// taken then.
    pub fn append(&mut self, bytes: &[u8]) -> Result<Append, ChunkError> {
        self.count(bytes.len() as u64)?;
        let offset = self.session.offset();
        self.session.hasher.update(bytes);
        Ok(Append { offset })
    }

    /// Takes bytes of the body that were hashed elsewhere: `hasher` is a clone of
    /// [`Chunk::hasher`] that was given them
    ///
    /// # Errors
    ///
    /// As [`Chunk::append`].
    ///
    /// # Panics
    ///
    /// If it is another hasher, or the chunk was given something meanwhile.
    pub fn append_hashed(&mut self, hasher: Hasher) -> Result<Append, ChunkError> {
        let offset = self.session.offset();
        assert_eq!(hasher.algorithm(), self.session.algorithm());
        let length = hasher.written().checked_sub(offset);
        self.count(length.expect("a hasher that went on from that of this chunk"))?;
        self.session.hasher = hasher;
        Ok(Append { offset })
    }

    fn count(&mut self, length: u64) -> Result<(), ChunkError> {
        if let Some(remaining) = &mut self.remaining {
            let rest = remaining.checked_sub(length);
            *remaining = rest.ok_or(ChunkError::TooLong)?;
        }
        Ok(())
    }

    /// The body has ended
    ///
    /// # Errors
    ///
    /// [`ChunkError::TooShort`] when less came than was announced. What came is the session's.
    pub fn finish(self) -> Result<Checkpoint, ChunkError> {
        match self.remaining {
            None | Some(0) => Ok(self.interrupt()),
            Some(missing) => Err(ChunkError::TooShort { missing }),
        }
    }

    /// The body broke off: what came is the session's, and the session goes on from there
    pub fn interrupt(self) -> Checkpoint {
        Checkpoint {
            offset: self.session.offset(),
        }
    }
}

/// To do: write the bytes at this offset
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Append {
    /// Where the bytes go
    pub offset: u64,
}

/// To do: make the bytes before this offset durable, then save the hash
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Checkpoint {
    /// How many bytes the session has
    pub offset: u64,
}

/// To do: make the bytes the blob of this digest
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Commit {
    /// What the bytes hash to
    pub digest: Digest,
    /// How many there are
    pub size: u64,
}

/// To do: drop the bytes and the session
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Discard {
    /// The session
    pub id: UploadId,
}

/// What completing a session leads to
#[derive(Debug)]
#[must_use]
#[allow(clippy::large_enum_variant)] // short-lived, one per push
pub enum Completion {
    /// The digest is right
    Commit(Commit),
    /// The digest is of another algorithm than the one hashed along the way
    Rehash(Rehash),
}

/// To do: read all stored bytes once more, through this hash
#[derive(Debug)]
pub struct Rehash {
    session: Session,
    hasher: Hasher,
    digest: Digest,
}

impl Rehash {
    /// Takes stored bytes, in order
    pub fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// All bytes were read
    ///
    /// # Errors
    ///
    /// The session and [`CompleteError`] when they have another digest, or were not all of
    /// the session's bytes.
    #[allow(clippy::result_large_err)] // the session is handed back, not copied
    pub fn finish(self) -> Result<Commit, (Session, CompleteError)> {
        let computed = self.hasher.digest();
        if computed != self.digest || self.hasher.written() != self.session.offset() {
            return Err((
                self.session,
                CompleteError::DigestMismatch {
                    expected: self.digest,
                    computed,
                },
            ));
        }
        Ok(Commit {
            digest: self.digest,
            size: self.hasher.written(),
        })
    }
}

/// Why a chunk does not fit
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChunkError {
    /// It does not start where the session is (416)
    #[error(
        "expected a chunk that starts at byte {expected}, got one that starts at {got}; go on from {expected}"
    )]
    OutOfOrder {
        /// How many bytes the session has
        expected: u64,
        /// Where the chunk says it starts
        got: u64,
    },
    /// The body is longer than its length says
    #[error("the body is longer than its Content-Length says")]
    TooLong,
    /// The body is shorter than its length says
    #[error("the body ended {missing} bytes before its Content-Length; send the rest")]
    TooShort {
        /// How many bytes are missing
        missing: u64,
    },
}

/// Why an upload is not the blob that its client says it is
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompleteError {
    /// The bytes have another digest
    #[error("expected content with digest `{expected}`, the uploaded bytes have `{computed}`")]
    DigestMismatch {
        /// What the client gave
        expected: Digest,
        /// What the bytes have
        computed: Digest,
    },
}

/// The `Range` header of an upload's answers: `0-<last byte>`
///
/// `0-0` for an upload without bytes: docker's client fails on anything that is not two
/// numbers in order.
pub fn range_header(offset: u64) -> String {
    format!("0-{}", offset.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn session() -> Session {
        Session::begin(UploadId::from_random_bytes([1; 16]), Algorithm::Sha256)
    }

    fn header(range: Option<&str>, length: Option<u64>) -> ChunkHeader {
        ChunkHeader {
            range: range.map(|range| ChunkRange::parse(range).unwrap()),
            length,
        }
    }

    #[test]
    fn ids_have_one_form() {
        let id = "8cd5b4e7-9b0f-4d3a-8f6c-2f5f6f0f0a11";
        assert_eq!(UploadId::try_from(id).unwrap().to_string(), id);
        for bad in [
            "",
            "..",
            "x",
            "8CD5B4E7-9B0F-4D3A-8F6C-2F5F6F0F0A11",
            "8cd5b4e79b0f4d3a8f6c2f5f6f0f0a11",
            "{8cd5b4e7-9b0f-4d3a-8f6c-2f5f6f0f0a11}",
            "urn:uuid:8cd5b4e7-9b0f-4d3a-8f6c-2f5f6f0f0a11",
        ] {
            assert!(UploadId::try_from(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_chunk_out_of_order_changes_nothing() {
        let mut session = session();
        let _ = session
            .chunk(header(Some("0-2"), None))
            .unwrap()
            .append(b"abc")
            .unwrap();
        for start in ["0-1", "2-5", "4-8"] {
            assert!(matches!(
                session.chunk(header(Some(start), None)),
                Err(ChunkError::OutOfOrder { expected: 3, .. })
            ));
        }
        assert_eq!(session.offset(), 3);
        assert!(session.complete(Digest::sha256(b"abc")).is_ok());
    }

    #[test]
    fn bytes_that_were_hashed_elsewhere_are_as_good() {
        let mut session = session();
        let mut chunk = session.chunk(header(None, Some(6))).unwrap();
        assert_eq!(chunk.append(b"abc"), Ok(Append { offset: 0 }));
        let mut hasher = chunk.hasher().clone();
        hasher.update(b"de");
        let mut longer = hasher.clone();
        assert_eq!(chunk.append_hashed(hasher), Ok(Append { offset: 3 }));
        longer.update(b"fg");
        assert_eq!(chunk.append_hashed(longer), Err(ChunkError::TooLong));
        assert_eq!(chunk.append(b"f"), Ok(Append { offset: 5 }));
        assert_eq!(chunk.finish(), Ok(Checkpoint { offset: 6 }));
        assert!(session.complete(Digest::sha256(b"abcdef")).is_ok());
    }

    #[test]
    fn lengths_are_held_to() {
        let mut session = session();
        let mut chunk = session.chunk(header(None, Some(4))).unwrap();
        let _ = chunk.append(b"abc").unwrap();
        assert_eq!(chunk.append(b"de"), Err(ChunkError::TooLong));
        assert_eq!(chunk.finish(), Err(ChunkError::TooShort { missing: 1 }));
        assert_eq!(session.offset(), 3);
    }

    #[test]
    fn a_wrong_digest_hands_the_session_back() {
        let mut session = session();
        let _ = session
            .chunk(ChunkHeader::default())
            .unwrap()
            .append(b"abc")
            .unwrap();
        let (session, _) = session.complete(Digest::sha256(b"x")).unwrap_err();
        assert!(session.complete(Digest::sha256(b"abc")).is_ok());
    }

    #[test]
    fn another_algorithm_needs_another_reading() {
        let mut session = session();
        assert!(session.set_algorithm(Algorithm::Sha512));
        assert!(session.set_algorithm(Algorithm::Sha256));
        let _ = session
            .chunk(ChunkHeader::default())
            .unwrap()
            .append(b"abc")
            .unwrap();
        assert!(!session.set_algorithm(Algorithm::Sha512));
        let digest = Digest::of(Algorithm::Sha512, b"abc");
        for (stored, right) in [(&b"abc"[..], true), (b"abd", false), (b"ab", false)] {
            let Ok(Completion::Rehash(mut rehash)) = session.clone().complete(digest) else {
                panic!()
            };
            rehash.update(stored);
            assert_eq!(rehash.finish().is_ok(), right);
        }
    }

    #[test]
    fn sessions_have_their_time() {
        let day = Duration::from_secs(86_400);
        assert!(session().expired(day, day).is_none());
        assert!(session().expired(day * 2, day).is_some());
    }

    #[test]
    fn ranges_are_two_numbers() {
        assert_eq!([0, 1, 10].map(range_header), ["0-0", "0-0", "0-9"]);
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_digest_of_the_whole(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..8),
            save in any::<bool>(),
        ) {
            let whole = parts.concat();
            let mut session = session();
            for part in &parts {
                let start = session.offset();
                let range = ChunkRange::parse(&format!("{start}-{}", start + part.len() as u64)).unwrap();
                let mut chunk = session.chunk(ChunkHeader { range: Some(range), length: Some(part.len() as u64) }).unwrap();
                for piece in part.chunks(7) {
                    let expected = chunk.offset();
                    prop_assert_eq!(chunk.append(piece).unwrap().offset, expected);
                }
                let _ = chunk.finish().unwrap();
                if save {
                    let saved = session.hasher().save();
                    session = Session::resume(session.id(), Hasher::restore(Algorithm::Sha256, &saved).unwrap());
                }
            }
            match session.complete(Digest::sha256(&whole)) {
                Ok(Completion::Commit(commit)) => prop_assert_eq!(commit.size, whole.len() as u64),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
