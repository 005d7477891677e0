//! What is known of an upload between two requests

use std::sync::atomic::Ordering;
use std::time::SystemTime;

use bytes::Bytes;
use object_store::multipart::PartId;
use object_store::{Error as Answer, PutMode, PutOptions, PutPayload, UpdateVersion};
use serde::{Deserialize, Serialize};

use super::error::{RETRY_AFTER, failed};
use super::{Inner, modified};
use crate::driver::Key;
use crate::error::StorageError;

/// The only version so far
const VERSION: u32 = 1;

/// What a journal's key has after the upload's
const SUFFIX: &str = ".upload";

/// The most that the line of ten thousand parts may have
const LIMIT: u64 = 16 * 1024 * 1024;

/// What says of what an upload consists
///
/// In its object a line of JSON is followed by the note and by what comes after the parts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Journal {
    version: u32,
    /// Different each time it is written, so that a writer knows its own again
    revision: String,
    /// The process that wrote it
    writer: String,
    /// Where the parts are, if there are any
    pub(super) multipart: Option<Multipart>,
    /// How many bytes the upload has in all
    pub(super) size: u64,
    /// Whether its multipart upload is completed, or about to be
    pub(super) sealed: bool,
    /// How long the note is
    note: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Multipart {
    /// What it becomes when it is completed
    pub(super) key: String,
    pub(super) id: String,
    pub(super) parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) id: String,
    pub(super) size: u64,
}

/// All that a journal's object has
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Kept {
    pub(super) journal: Journal,
    pub(super) note: Bytes,
    /// What comes after the parts
    pub(super) tail: Vec<Bytes>,
}

/// The version of a journal in the store
#[derive(Clone, Debug)]
pub(super) struct Stored {
    version: UpdateVersion,
    pub(super) modified: Option<SystemTime>,
}

impl Multipart {
    /// Whether it is the same multipart upload, with whatever parts
    pub(super) fn is(&self, other: &Self) -> bool {
        (&self.key, &self.id) == (&other.key, &other.id)
    }

    pub(super) fn size(&self, parts: usize) -> u64 {
        self.parts.iter().take(parts).map(|part| part.size).sum()
    }

    pub(super) fn ids(&self) -> Vec<PartId> {
        let ids = self.parts.iter().map(|part| PartId {
            content_id: part.id.clone(),
        });
        ids.collect()
    }
}

impl Journal {
    /// The upload whose journal has this key
    pub(super) fn upload_of(key: &str) -> Option<Key> {
        Key::parse(key.strip_suffix(SUFFIX)?).ok()
    }
}

impl Kept {
    pub(super) fn new(
        inner: &Inner,
        multipart: Option<Multipart>,
        sealed: bool,
        note: Bytes,
        tail: Vec<Bytes>,
    ) -> Self {
        let parts = multipart
            .as_ref()
            .map_or(0, |multipart| multipart.size(usize::MAX));
        Self {
            journal: Journal {
                version: VERSION,
                revision: uuid::Uuid::new_v4().to_string(),
                writer: inner.writer.clone(),
                size: parts + length(&tail),
                multipart,
                sealed,
                note: note.len(),
            },
            note,
            tail,
        }
    }

    /// The bytes of its object
    fn encode(&self) -> Result<PutPayload, serde_json::Error> {
        let mut line = serde_json::to_vec(&self.journal)?;
        line.push(b'\n');
        let head = [line.into(), self.note.clone()];
        Ok(PutPayload::from_iter(
            head.into_iter().chain(self.tail.iter().cloned()),
        ))
    }

    /// What the bytes of an object say, or why they are no journal
    fn decode(bytes: &Bytes) -> Result<Self, String> {
        // There is none in JSON that was written without spaces.
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let end = end.ok_or("expected the journal of an upload: there is no line")?;
        let journal: Journal = serde_json::from_slice(&bytes[..end])
            .map_err(|error| format!("expected the journal of an upload: {error}"))?;
        if journal.version != VERSION {
            return Err(format!(
                "expected a journal of version {VERSION}, found {}; a newer registry wrote it",
                journal.version
            ));
        }
        let rest = bytes.slice(end + 1..);
        let parts = journal
            .multipart
            .as_ref()
            .map_or(0, |multipart| multipart.size(usize::MAX));
        let expected = journal.size.checked_sub(parts);
        if rest.len().checked_sub(journal.note).map(|size| size as u64) != expected {
            return Err("its journal contradicts itself".to_owned());
        }
        let (note, tail) = (rest.slice(..journal.note), rest.slice(journal.note..));
        let tail = match tail.is_empty() {
            true => Vec::new(),
            false => vec![tail],
        };
        Ok(Self {
            journal,
            note,
            tail,
        })
    }
}

/// How many bytes there are in all
pub(super) fn length(pieces: &[Bytes]) -> u64 {
    pieces.iter().map(|piece| piece.len() as u64).sum()
}

/// The key of an object that belongs to an upload
pub(super) fn beside(upload: &Key, what: &str) -> Key {
    let name = format!("{upload}.{what}");
    // A key stays one with a few letters, digits or dashes more.
    Key::parse(&name).expect("a key with a longer name is a key")
}

fn journal_key(upload: &Key) -> Key {
    beside(upload, &SUFFIX[1..])
}

impl Inner {
    pub(super) async fn read_journal(&self, upload: &Key) -> Result<(Kept, Stored), StorageError> {
        let corrupt = |detail: String| StorageError::Corrupt {
            key: upload.to_string(),
            detail,
        };
        let found = match self.get(&journal_key(upload)).await {
            Ok(found) => found,
            Err(StorageError::NotFound { .. }) => {
                return Err(StorageError::NotFound {
                    key: upload.to_string(),
                });
            }
            Err(error) => return Err(error),
        };
        let limit = LIMIT + self.largest_tail();
        if found.meta.size > limit {
            let size = found.meta.size;
            return Err(corrupt(format!(
                "expected a journal of at most {limit} bytes, found {size}"
            )));
        }
        let stored = Stored {
            version: UpdateVersion {
                e_tag: found.meta.e_tag.clone(),
                version: found.meta.version.clone(),
            },
            modified: modified(&found.meta),
        };
        let bytes = found.bytes().await;
        let bytes = bytes.map_err(|error| failed(upload.as_str(), error))?;
        let kept = Kept::decode(&bytes).map_err(corrupt)?;
        if !self.conditional.load(Ordering::Relaxed) && kept.journal.writer != self.writer {
            return Err(StorageError::Transient {
                key: upload.to_string(),
                source: "this bucket ignores conditions of a write, so that an upload can go on \
                         only in the process where it began; send all requests of an upload to \
                         one process, or start the upload again"
                    .into(),
            });
        }
        Ok((kept, stored))
    }

    /// Writes a journal if there is still the one that was read, or none if none was
    ///
    /// # Errors
    ///
    /// [`StorageError::Busy`] if someone else wrote one, [`StorageError::NotFound`] if it is
    /// gone.
    pub(super) async fn write_journal(
        &self,
        upload: &Key,
        kept: &Kept,
        read: Option<(&Kept, &Stored)>,
    ) -> Result<Stored, StorageError> {
        let key = journal_key(upload);
        let busy = || StorageError::Busy {
            key: upload.to_string(),
            retry_after: RETRY_AFTER,
        };
        let mode = match read {
            _ if !self.conditional.load(Ordering::Relaxed) => {
                // Nobody else writes it, as far as reading can tell, but it may be deleted.
                if let Some((expected, _)) = read
                    && self.read_journal(upload).await?.0.journal.revision
                        != expected.journal.revision
                {
                    return Err(busy());
                }
                PutMode::Overwrite
            }
            Some((_, stored)) => PutMode::Update(stored.version.clone()),
            None => PutMode::Create,
        };
        let object = kept.encode().map_err(|error| StorageError::Transient {
            key: upload.to_string(),
            source: error.into(),
        })?;
        let path = self.path(&key)?;
        let options = PutOptions::from(mode);
        let put = self.faces.objects.put_opts(&path, object, options).await;
        match put {
            Ok(put) => {
                self.saw();
                Ok(Stored {
                    version: put.into(),
                    modified: None,
                })
            }
            Err(
                Answer::Precondition { .. }
                | Answer::AlreadyExists { .. }
                | Answer::NotFound { .. },
            ) => {
                // Perhaps it is our own, and the answer to the first attempt was lost.
                let (found, stored) = self.read_journal(upload).await?;
                if found.journal.revision == kept.journal.revision {
                    return Ok(stored);
                }
                Err(busy())
            }
            Err(error) => Err(failed(upload.as_str(), error)),
        }
    }

    /// Drops the parts of an upload that is about to be deleted
    pub(super) async fn abort_upload(&self, upload: &Key) -> Result<(), StorageError> {
        let journal = match self.read_journal(upload).await {
            Ok((kept, _)) => kept.journal,
            // What is no journal has no parts that could be found.
            Err(error) if error.is_not_found() || error.is_corrupt() => return Ok(()),
            // Another process's, which can still be deleted.
            Err(_) if !self.conditional.load(Ordering::Relaxed) => return Ok(()),
            Err(error) => return Err(error),
        };
        if let Some(multipart) = &journal.multipart {
            self.abort(multipart).await;
        }
        Ok(())
    }

    /// Aborts a multipart upload; if that fails, a rule of the bucket does it some day
    pub(super) async fn abort(&self, multipart: &Multipart) {
        let Ok(path) = Key::parse(&multipart.key).map(|key| self.path(&key)) else {
            return;
        };
        let Ok(path) = path else { return };
        match self
            .faces
            .multipart
            .abort_multipart(&path, &multipart.id)
            .await
        {
            Ok(()) | Err(Answer::NotFound { .. }) => {}
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(
                    key = multipart.key,
                    error,
                    "parts of an upload were left behind"
                );
            }
        }
    }

    pub(super) fn journal_path(
        &self,
        upload: &Key,
    ) -> Result<object_store::path::Path, StorageError> {
        self.path(&journal_key(upload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(note: &'static str, tail: &'static str) -> Kept {
        let part = |size| Part {
            id: "x".to_owned(),
            size,
        };
        Kept {
            journal: Journal {
                version: VERSION,
                revision: String::new(),
                writer: "a\nb".to_owned(),
                multipart: Some(Multipart {
                    key: "k".to_owned(),
                    id: "i".to_owned(),
                    parts: vec![part(10), part(20)],
                }),
                size: 30 + tail.len() as u64,
                sealed: false,
                note: note.len(),
            },
            note: note.into(),
            tail: match tail {
                "" => Vec::new(),
                tail => vec![tail.into()],
            },
        }
    }

    fn encoded(kept: &Kept) -> Bytes {
        kept.encode().unwrap().into()
    }

    #[test]
    fn a_journal_has_its_note_and_tail() {
        for kept in [kept("", ""), kept("a\nnote", ""), kept("note", "\ntail")] {
            assert_eq!(Kept::decode(&encoded(&kept)).unwrap(), kept);
        }
    }

    #[test]
    fn a_journal_that_contradicts_itself_is_found_out() {
        let whole = encoded(&kept("note", "tail"));
        for bytes in [
            whole.slice(..whole.len() - 1),
            [&whole[..], b"x"].concat().into(),
            whole.slice(..whole.len() - 6),
        ] {
            let error = Kept::decode(&bytes).unwrap_err();
            assert_eq!(error, "its journal contradicts itself");
        }
        let mut newer = kept("", "");
        newer.journal.version += 1;
        let error = Kept::decode(&encoded(&newer)).unwrap_err();
        assert!(error.contains("newer registry"), "{error}");
        for bytes in ["", "{}", "{}\n", "x\n"] {
            Kept::decode(&bytes.into()).unwrap_err();
        }
    }

    #[test]
    fn journals_are_known_by_their_names() {
        let upload = Key::parse("a/data").unwrap();
        let key = journal_key(&upload);
        assert_eq!(Journal::upload_of(key.as_str()), Some(upload));
        assert_eq!(Journal::upload_of("a/data"), None);
        assert_eq!(Journal::upload_of("a/.upload"), None);
    }
}
