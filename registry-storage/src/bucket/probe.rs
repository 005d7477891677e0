//! What a bucket can do, found out by trying

use std::fmt;
use std::sync::atomic::Ordering;

use object_store::path::Path;
use object_store::{
    Error as Answer, GetOptions, GetRange, ObjectStoreExt, PutMode, PutOptions, PutPayload,
    UpdateVersion,
};

use super::error::failed;
use super::{Bucket, Inner, list};
use crate::driver::Key;
use crate::error::StorageError;

/// What [`Bucket::probe`] found
///
/// Its text is for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Whether an object is created only if there is none, when that is asked for
    pub conditional_create: bool,
    /// Whether an object is replaced only if it is still the same, when that is asked for
    pub conditional_update: bool,
}

impl Capabilities {
    /// Whether an upload can go on in another process than where it began
    pub fn shares_uploads(&self) -> bool {
        self.conditional_create && self.conditional_update
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let able = |able| if able { "yes" } else { "no" };
        write!(
            f,
            "the bucket reads, writes, lists, takes parts and deletes; conditional create: {}, \
             conditional update: {}",
            able(self.conditional_create),
            able(self.conditional_update)
        )?;
        if !self.shares_uploads() {
            f.write_str(
                "; an upload can go on only in the process where it began: run one registry, or \
                 send all requests of an upload to the same",
            )?;
        }
        Ok(())
    }
}

impl Bucket {
    /// Tries all that a registry needs of a bucket, on objects of its own that it removes
    ///
    /// Meant for the start, before the first request: from then on uploads are kept to what the
    /// bucket was found to be able to.
    ///
    /// # Errors
    ///
    /// What the store says, if the registry cannot do without: that there is no such bucket,
    /// that something is denied or the store cannot be reached. [`StorageError::Corrupt`] if it
    /// answers, but with something else than was written.
    pub async fn probe(&self) -> Result<Capabilities, StorageError> {
        let inner = &self.inner;
        let name = format!("_probe/{}", uuid::Uuid::new_v4());
        // Written above.
        let folder = Key::parse(&name).expect("a name and a UUID are a key");
        let tried = inner.try_all(&folder).await;
        let objects = ["object", "parts", "create"];
        let mut gone = Vec::new();
        for name in objects {
            gone.extend(
                folder
                    .child(name)
                    .ok()
                    .and_then(|key| inner.path(&key).ok()),
            );
        }
        let removed = inner.remove(gone.clone(), folder.as_str()).await;
        let capabilities = tried?;
        removed?;
        for path in gone {
            match inner.faces.objects.head(&path).await {
                Err(Answer::NotFound { .. }) => {}
                Err(error) => return Err(failed(folder.as_str(), error)),
                Ok(_) => {
                    return Err(differs(
                        &folder,
                        "an object that was deleted is still there",
                    ));
                }
            }
        }
        inner
            .conditional
            .store(capabilities.shares_uploads(), Ordering::Relaxed);
        inner.saw();
        Ok(capabilities)
    }
}

fn differs(folder: &Key, detail: &str) -> StorageError {
    StorageError::Corrupt {
        key: folder.to_string(),
        detail: format!("the bucket does not do what a registry needs: {detail}"),
    }
}

impl Inner {
    async fn try_all(&self, folder: &Key) -> Result<Capabilities, StorageError> {
        let path = |name: &str| -> Result<Path, StorageError> {
            let key = folder.child(name).map_err(|error| StorageError::Corrupt {
                key: folder.to_string(),
                detail: error.to_string(),
            })?;
            self.path(&key)
        };
        let fail = |error| failed(folder.as_str(), error);
        let (object, parts, create) = (path("object")?, path("parts")?, path("create")?);
        let store = &*self.faces.objects;
        store
            .put(&object, "0123456789".into())
            .await
            .map_err(fail)?;

        let range = GetOptions {
            range: Some(GetRange::Bounded(2..5)),
            ..GetOptions::default()
        };
        let found = store.get_opts(&object, range).await.map_err(fail)?;
        if found.meta.size != 10 || found.bytes().await.map_err(fail)? != "234" {
            return Err(differs(folder, "a range of an object is something else"));
        }
        let prefix = self.prefix(Some(folder));
        let listed = list::list(&*self.faces.lists, &prefix, None, 10).await;
        if !listed.map_err(fail)?.contains_key("object") {
            return Err(differs(folder, "an object that was written is not listed"));
        }

        let multipart = &self.faces.multipart;
        let id = multipart.create_multipart(&parts).await.map_err(fail)?;
        let part = multipart.put_part(&parts, &id, 0, PutPayload::from_static(b"part"));
        let completed = match part.await {
            Ok(part) => multipart.complete_multipart(&parts, &id, vec![part]).await,
            Err(error) => Err(error),
        };
        if let Err(error) = completed {
            let _ = multipart.abort_multipart(&parts, &id).await;
            return Err(fail(error));
        }
        let found = store.get(&parts).await.map_err(fail)?;
        if found.bytes().await.map_err(fail)? != "part" {
            return Err(differs(folder, "an object of parts is something else"));
        }

        let put = |mode| store.put_opts(&create, "x".into(), PutOptions::from(mode));
        let conditional_create = match put(PutMode::Create).await {
            Ok(_) => refused(put(PutMode::Create).await).map_err(fail)?,
            // What refuses a condition that holds knows none.
            Err(error) => {
                refused(Err(error)).map_err(fail)?;
                false
            }
        };
        let first = store.put(&create, "first".into()).await.map_err(fail)?;
        let version = |e_tag| UpdateVersion {
            e_tag,
            version: None,
        };
        let update = |put: object_store::PutResult| {
            let version = UpdateVersion {
                version: put.version,
                ..version(put.e_tag)
            };
            store.put_opts(&create, "second".into(), PutMode::Update(version).into())
        };
        let conditional_update = match update(first.clone()).await {
            // The first is not there any more.
            Ok(_) => refused(update(first).await).map_err(fail)?,
            // What refuses a condition that holds knows none.
            Err(error) => {
                refused(Err(error)).map_err(fail)?;
                false
            }
        };
        Ok(Capabilities {
            conditional_create,
            conditional_update,
        })
    }
}

/// Whether a write was refused for its condition; other errors are passed on
fn refused(put: object_store::Result<object_store::PutResult>) -> object_store::Result<bool> {
    match put {
        Ok(_) => Ok(false),
        Err(
            Answer::AlreadyExists { .. }
            | Answer::Precondition { .. }
            | Answer::NotImplemented { .. }
            | Answer::NotSupported { .. },
        ) => Ok(true),
        // A store that knows no conditions may say so in its own way.
        Err(error) if error.to_string().contains("501 Not Implemented") => Ok(true),
        Err(error) => Err(error),
    }
}
