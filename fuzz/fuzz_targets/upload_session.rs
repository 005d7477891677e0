//! An upload session under any sequence of operations: bytes in are bytes out

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use registry_core::upload::{ChunkError, ChunkHeader, Completion, Session};
use registry_core::{Algorithm, ChunkRange, Digest, Hasher, UploadId};

#[derive(Arbitrary, Debug)]
enum Step {
    /// A chunk that says where it starts and how long it is, or does not
    Chunk {
        start: Option<u8>,
        length: Option<u8>,
        pieces: Vec<Vec<u8>>,
        broken: bool,
    },
    /// The state is saved and taken up by another process
    Restart,
    /// The algorithm is announced
    Announce { long: bool },
    /// The session is closed with a digest of the right or of other bytes
    Complete { long: bool, right: bool },
}

fuzz_target!(|steps: Vec<Step>| {
    let id = UploadId::from_random_bytes([5; 16]);
    let mut session = Session::begin(id, Algorithm::Sha256);
    let mut stored: Vec<u8> = Vec::new();
    for step in steps {
        assert_eq!(session.offset(), stored.len() as u64);
        match step {
            Step::Chunk {
                start,
                length,
                pieces,
                broken,
            } => {
                let range = start.map(|start| {
                    ChunkRange::parse(&format!("{start}-{}", u16::from(start) + 1)).unwrap()
                });
                let header = ChunkHeader {
                    range,
                    length: length.map(u64::from),
                };
                let mut chunk = match session.chunk(header) {
                    Ok(chunk) => chunk,
                    Err(ChunkError::OutOfOrder { expected, got }) => {
                        assert_eq!(expected, stored.len() as u64);
                        assert_ne!(expected, got);
                        continue;
                    }
                    Err(other) => panic!("{other}"),
                };
                let begin = stored.len();
                for piece in &pieces {
                    match chunk.append(piece) {
                        Ok(append) => {
                            assert_eq!(append.offset, stored.len() as u64);
                            stored.extend_from_slice(piece);
                        }
                        Err(error) => {
                            assert_eq!(error, ChunkError::TooLong);
                            break;
                        }
                    }
                }
                let received = (stored.len() - begin) as u64;
                if broken {
                    assert_eq!(chunk.interrupt().offset, stored.len() as u64);
                } else {
                    match chunk.finish() {
                        Ok(checkpoint) => assert_eq!(checkpoint.offset, stored.len() as u64),
                        Err(ChunkError::TooShort { missing }) => {
                            assert_eq!(Some(received + missing), length.map(u64::from));
                        }
                        Err(other) => panic!("{other}"),
                    }
                }
            }
            Step::Restart => {
                let saved = session.hasher().save();
                let hasher = Hasher::restore(session.algorithm(), &saved).unwrap();
                session = Session::resume(id, hasher);
            }
            Step::Announce { long } => {
                let algorithm = if long {
                    Algorithm::Sha512
                } else {
                    Algorithm::Sha256
                };
                let changed = session.set_algorithm(algorithm);
                assert!(changed || !stored.is_empty());
            }
            Step::Complete { long, right } => {
                let algorithm = if long {
                    Algorithm::Sha512
                } else {
                    Algorithm::Sha256
                };
                let mut content = stored.clone();
                if !right {
                    content.push(0);
                }
                let digest = Digest::of(algorithm, &content);
                let ended = match session.complete(digest) {
                    Ok(Completion::Commit(commit)) => Ok(commit),
                    Ok(Completion::Rehash(mut rehash)) => {
                        rehash.update(&stored);
                        rehash.finish()
                    }
                    Err(refused) => Err(refused),
                };
                match ended {
                    Ok(commit) => {
                        assert!(right);
                        assert_eq!(commit.digest, digest);
                        assert_eq!(commit.size, stored.len() as u64);
                        return;
                    }
                    Err((back, _)) => {
                        assert!(!right);
                        session = back;
                    }
                }
            }
        }
    }
});
