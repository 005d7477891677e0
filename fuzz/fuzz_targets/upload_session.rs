//! Any sequence of an upload's requests keeps every byte, once and in its place

#![no_main]

use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use registry_core::upload::{
    Chunk, ChunkError, ChunkHeader, CompleteError, Completion, Session, range_header,
};
use registry_core::{Algorithm, ChunkRange, Digest, Hasher, UploadId};

/// What happens to a session
#[derive(Arbitrary, Debug)]
enum Step {
    /// A request with a body, in pieces as they come from the network
    Chunk {
        start: Option<Start>,
        length: Option<Length>,
        pieces: Vec<Vec<u8>>,
        broken_off: bool,
    },
    /// A closing request with a digest that the bytes do not have
    CompleteWrongly { algorithm: Hash, digest_of: Vec<u8> },
    /// A closing request, then the session goes on as if the commit had failed
    Complete { algorithm: Hash },
    /// A closing request whose second reading does not see all bytes
    RehashShort { missing: u8 },
    /// Another process goes on
    SaveAndRestore,
    /// The closing digest is of this algorithm
    SetAlgorithm(Hash),
}

/// Where a chunk says that it starts
#[derive(Arbitrary, Debug)]
enum Start {
    AtOffset,
    At(u64),
}

/// How long a chunk says that it is
#[derive(Arbitrary, Debug)]
enum Length {
    Exact,
    Of(u16),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Hash {
    Sha256,
    Sha512,
}

impl From<Hash> for Algorithm {
    fn from(hash: Hash) -> Self {
        match hash {
            Hash::Sha256 => Self::Sha256,
            Hash::Sha512 => Self::Sha512,
        }
    }
}

fuzz_target!(|steps: Vec<Step>| {
    let id = UploadId::from_random_bytes([5; 16]);
    let mut session = Session::begin(id, Algorithm::Sha256);
    // What a caller that does as it is told has in its file.
    let mut file = Vec::new();

    for step in steps {
        match step {
            Step::Chunk {
                start,
                length,
                pieces,
                broken_off,
            } => chunk(&mut session, &mut file, start, length, &pieces, broken_off),
            Step::Complete { algorithm } => {
                let digest = Digest::of(algorithm.into(), &file);
                let commit = match session.clone().complete(digest) {
                    Ok(Completion::Commit(commit)) => {
                        assert_eq!(digest.algorithm(), session.algorithm());
                        commit
                    }
                    Ok(Completion::Rehash(mut rehash)) => {
                        assert_ne!(digest.algorithm(), session.algorithm());
                        file.chunks(3).for_each(|part| rehash.update(part));
                        rehash.finish().expect("all bytes were read")
                    }
                    Err((_, error)) => panic!("{error}"),
                };
                assert_eq!((commit.digest, commit.size), (digest, file.len() as u64));
            }
            Step::CompleteWrongly {
                algorithm,
                digest_of,
            } => {
                let digest = Digest::of(algorithm.into(), &digest_of);
                if digest_of == file {
                    continue;
                }
                session = match session.complete(digest) {
                    Ok(Completion::Commit(_)) => panic!("other bytes were committed"),
                    Ok(Completion::Rehash(mut rehash)) => {
                        rehash.update(&file);
                        refused(rehash.finish())
                    }
                    Err((session, error)) => refused(Err::<(), _>((session, error))),
                };
            }
            Step::RehashShort { missing } => {
                let short = file.len().saturating_sub(missing.into());
                let other = match session.algorithm() {
                    Algorithm::Sha256 => Algorithm::Sha512,
                    _ => Algorithm::Sha256,
                };
                if short == file.len() {
                    continue;
                }
                // Not even when the digest is that of what was read.
                for bytes in [&file[..], &file[..short]] {
                    let completion = session.complete(Digest::of(other, bytes));
                    let Ok(Completion::Rehash(mut rehash)) = completion else {
                        panic!("another algorithm needs another reading");
                    };
                    rehash.update(&file[..short]);
                    session = refused(rehash.finish());
                }
            }
            Step::SaveAndRestore => {
                let saved = session.hasher().save();
                let hasher = Hasher::restore(session.algorithm(), &saved).expect("just saved");
                session = Session::resume(session.id(), hasher);
            }
            Step::SetAlgorithm(hash) => {
                let (before, wanted) = (session.algorithm(), Algorithm::from(hash));
                let set = session.set_algorithm(wanted);
                assert_eq!(set, file.is_empty() || before == wanted);
                assert_eq!(session.algorithm(), if set { wanted } else { before });
            }
        }
        assert_eq!(session.id(), id);
        assert_eq!(session.offset(), file.len() as u64);
        let last = file.len().saturating_sub(1);
        assert_eq!(range_header(session.offset()), format!("0-{last}"));
    }

    assert_eq!(
        session.hasher().digest(),
        Digest::of(session.algorithm(), &file)
    );
    let hour = Duration::from_secs(3600);
    assert!(session.expired(hour, hour).is_none());
    assert_eq!(session.expired(hour * 2, hour), Some(session.cancel()));
});

fn chunk(
    session: &mut Session,
    file: &mut Vec<u8>,
    start: Option<Start>,
    length: Option<Length>,
    pieces: &[Vec<u8>],
    broken_off: bool,
) {
    let offset = file.len() as u64;
    let start = start.map(|start| match start {
        Start::AtOffset => offset,
        Start::At(at) => at,
    });
    let length = length.map(|length| match length {
        Length::Exact => pieces.iter().map(Vec::len).sum::<usize>() as u64,
        Length::Of(length) => length.into(),
    });
    // The end does not count, and some clients have it wrong.
    let range = start.map(|start| ChunkRange::parse(&format!("{start}-{start}")));
    let header = ChunkHeader {
        range: range.map(|range| range.expect("two numbers in order")),
        length,
    };

    let mut chunk: Chunk<'_> = match session.chunk(header) {
        Ok(chunk) => chunk,
        Err(error) => {
            let got = start.expect("without a start nothing is out of order");
            assert_ne!(got, offset);
            let expected = offset;
            assert_eq!(error, ChunkError::OutOfOrder { expected, got });
            return;
        }
    };
    assert!(start.is_none_or(|start| start == offset));
    let mut room = length;
    for piece in pieces {
        let fits = room.is_none_or(|room| piece.len() as u64 <= room);
        match chunk.append(piece) {
            Ok(append) => {
                assert!(fits);
                assert_eq!(append.offset, file.len() as u64);
                file.extend_from_slice(piece);
                room = room.map(|room| room - piece.len() as u64);
            }
            Err(error) => {
                assert!(!fits);
                assert_eq!(error, ChunkError::TooLong);
            }
        }
        assert_eq!(chunk.offset(), file.len() as u64);
    }
    if broken_off {
        assert_eq!(chunk.interrupt().offset, file.len() as u64);
        return;
    }
    match (chunk.finish(), room) {
        (Ok(checkpoint), None | Some(0)) => assert_eq!(checkpoint.offset, file.len() as u64),
        (Err(ChunkError::TooShort { missing }), Some(room)) => assert_eq!(missing, room),
        other => panic!("{other:?}"),
    }
}

/// The session that was handed back
fn refused<T>(result: Result<T, (Session, CompleteError)>) -> Session {
    match result {
        Ok(_) => panic!("other bytes were committed"),
        Err((session, _)) => session,
    }
}
