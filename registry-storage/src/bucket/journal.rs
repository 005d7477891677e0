//! What is known of an upload between two requests

use std::sync::atomic::Ordering;
use std::time::SystemTime;

use object_store::multipart::PartId;
use object_store::{Error as Answer, PutMode, PutOptions, UpdateVersion};
use serde::{Deserialize, Serialize};

use super::error::{RETRY_AFTER, failed};
use super::{Inner, modified};
use crate::driver::Key;
use crate::error::StorageError;

/// The only version so far
const VERSION: u32 = 1;

/// What a journal's key has after the upload's
const SUFFIX: &str = ".upload";

/// The most that a journal of ten thousand parts may have
const LIMIT: u64 = 16 * 1024 * 1024;

/// The object that says of what an upload consists
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Journal {
    version: u32,
    /// Different each time it is written, so that a writer knows its own again
    revision: String,
    /// The process that wrote it
    writer: String,
    /// Where the parts are, if there are any
    pub(super) multipart: Option<Multipart>,
    /// What was synced last
    pub(super) current: Point,
    /// What was synced before, to which an upload goes back if its hash was not saved since
    pub(super) previous: Option<Point>,
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

/// How far an upload had come at some time
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Point {
    pub(super) size: u64,
    /// How many of the parts it has
    pub(super) parts: usize,
    pub(super) tail: Option<Tail>,
    /// Whether its multipart upload is completed, or about to be
    #[serde(default)]
    pub(super) sealed: bool,
}

/// What comes after the parts
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Tail {
    pub(super) key: String,
    /// How many of its bytes count
    pub(super) size: u64,
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
    pub(super) fn new(
        inner: &Inner,
        multipart: Option<Multipart>,
        current: Point,
        previous: Option<Point>,
    ) -> Self {
        Self {
            version: VERSION,
            revision: uuid::Uuid::new_v4().to_string(),
            writer: inner.writer.clone(),
            multipart,
            current,
            previous,
        }
    }

    /// The upload whose journal has this key
    pub(super) fn upload_of(key: &str) -> Option<Key> {
        Key::parse(key.strip_suffix(SUFFIX)?).ok()
    }

    /// The keys of all tails that it names
    pub(super) fn tails(&self) -> impl Iterator<Item = &str> {
        let points = std::iter::once(&self.current).chain(&self.previous);
        points.filter_map(|point| Some(&*point.tail.as_ref()?.key))
    }

    /// Whether what it says of sizes agrees
    fn is_consistent(&self) -> bool {
        let fits = |point: &Point| {
            let parts = self.multipart.as_ref();
            point.parts <= parts.map_or(0, |multipart| multipart.parts.len())
                && point.size
                    == parts.map_or(0, |multipart| multipart.size(point.parts))
                        + point.tail.as_ref().map_or(0, |tail| tail.size)
        };
        fits(&self.current) && self.previous.as_ref().is_none_or(fits)
    }
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
    pub(super) async fn read_journal(
        &self,
        upload: &Key,
    ) -> Result<(Journal, Stored), StorageError> {
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
        if found.meta.size > LIMIT {
            let size = found.meta.size;
            return Err(corrupt(format!(
                "expected a journal of at most {LIMIT} bytes, found {size}"
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
        let journal: Journal = serde_json::from_slice(&bytes)
            .map_err(|error| corrupt(format!("expected the journal of an upload: {error}")))?;
        if journal.version != VERSION {
            let version = journal.version;
            return Err(corrupt(format!(
                "expected a journal of version {VERSION}, found {version}; a newer registry \
                 wrote it"
            )));
        }
        if !journal.is_consistent() {
            return Err(corrupt("its journal contradicts itself".to_owned()));
        }
        if !self.conditional.load(Ordering::Relaxed) && journal.writer != self.writer {
            return Err(StorageError::Transient {
                key: upload.to_string(),
                source: "this bucket ignores conditions of a write, so that an upload can go on \
                         only in the process where it began; send all requests of an upload to \
                         one process, or start the upload again"
                    .into(),
            });
        }
        Ok((journal, stored))
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
        journal: &Journal,
        read: Option<(&Journal, &Stored)>,
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
                    && self.read_journal(upload).await?.0.revision != expected.revision
                {
                    return Err(busy());
                }
                PutMode::Overwrite
            }
            Some((_, stored)) => PutMode::Update(stored.version.clone()),
            None => PutMode::Create,
        };
        let text = serde_json::to_vec(journal).map_err(|error| StorageError::Transient {
            key: upload.to_string(),
            source: error.into(),
        })?;
        let path = self.path(&key)?;
        let put = self
            .faces
            .objects
            .put_opts(&path, text.into(), PutOptions::from(mode))
            .await;
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
                if found.revision == journal.revision {
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
            Ok((journal, _)) => journal,
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

    #[test]
    fn a_journal_that_contradicts_itself_is_found_out() {
        let part = |size| Part {
            id: "x".to_owned(),
            size,
        };
        let tail = |size| {
            Some(Tail {
                key: "t".to_owned(),
                size,
            })
        };
        let point = |size, parts, tail| Point {
            size,
            parts,
            tail,
            sealed: false,
        };
        let journal = |current, previous| Journal {
            version: VERSION,
            revision: String::new(),
            writer: String::new(),
            multipart: Some(Multipart {
                key: "k".to_owned(),
                id: "i".to_owned(),
                parts: vec![part(10), part(20)],
            }),
            current,
            previous,
        };
        assert!(journal(point(33, 2, tail(3)), None).is_consistent());
        assert!(journal(point(30, 2, None), Some(point(10, 1, None))).is_consistent());
        assert!(!journal(point(33, 2, None), None).is_consistent());
        assert!(!journal(point(33, 3, tail(3)), None).is_consistent());
        assert!(!journal(point(30, 2, None), Some(point(11, 1, None))).is_consistent());
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
