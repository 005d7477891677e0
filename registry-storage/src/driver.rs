//! What a storage must be able to do
//!
//! A driver implements [`Objects`], small whole values under hierarchical keys, and
//! [`Uploads`], files that grow. It need not know what a registry is. Its tests are written
//! already: see the `suite` module (feature `suite`).

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use registry_core::range::ByteRange;

use crate::error::StorageError;
use crate::piece::{Piece, PieceStream};

/// The bytes of an object, in order; after an error there are no more
pub type ByteStream = BoxStream<'static, Result<Bytes, StorageError>>;

/// A place in a storage: components separated by `/`
///
/// - There is at least one component, and none is empty, `.` or `..`.
/// - No control characters.
/// - Not absolute, and no `/` at either end.
///
/// A key therefore names the same place in a folder and in a bucket, and never one outside.
///
/// # Examples
///
/// ```
/// use registry_storage::Key;
///
/// let folder = Key::parse("blobs/sha256")?;
/// assert_eq!(folder.child("ab")?.as_str(), "blobs/sha256/ab");
/// assert!(Key::parse("blobs/../secret").is_err());
/// # Ok::<(), registry_storage::driver::KeyError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

/// Why a text is not a key
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a key: expected components other than `.` and `..`, without control characters, separated by single `/`", .text.escape_debug())]
pub struct KeyError {
    text: String,
}

/// What is known of an object without reading it
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stat {
    /// How many bytes it has
    pub size: u64,
    /// When it was written last, if the storage says so
    pub modified: Option<SystemTime>,
}

/// One child of a folder
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Entry {
    /// The last component of its key
    pub name: String,
    /// Whether it is a folder
    pub is_dir: bool,
}

/// Whole values under keys
///
/// A folder is what holds objects: it comes with the first and may go with the last, or stay
/// empty. It is no object, and an object is no folder.
///
/// Every method is safe to call from several tasks and processes at once. A method that
/// returned `Ok` has made its effect durable, unless it says otherwise; one whose future is
/// dropped has either its whole effect or none. Whatever begins after that sees it, in every
/// process and on every machine that shares the storage: a driver that remembers answers, or
/// whose system does, looks whether they still hold.
///
/// # Errors
///
/// All methods: [`StorageError::NotFound`] only if what was asked for is certainly absent,
/// otherwise the kind that tells what to do about it.
#[async_trait]
pub trait Objects: fmt::Debug + Send + Sync + 'static {
    /// The whole of a small object; one of more than `limit` bytes is [`StorageError::Corrupt`]
    async fn read(&self, key: &Key, limit: usize) -> Result<Bytes, StorageError>;

    /// What is known of an object
    async fn stat(&self, key: &Key) -> Result<Stat, StorageError>;

    /// The size of an object, and its bytes or those in `range`, as they are when it is opened
    ///
    /// A range that ends beyond the object is [`StorageError::Corrupt`]: whoever asks has taken
    /// it from a size that the object should have. An object that is replaced or deleted under
    /// way goes on as it was, or ends with an error; versions are never mixed.
    async fn stream(
        &self,
        key: &Key,
        range: Option<ByteRange>,
    ) -> Result<(u64, ByteStream), StorageError>;

    /// As [`Objects::stream`], for whoever need not see the bytes to pass them on
    ///
    /// A driver whose objects are not files of this machine need not have this method. One that
    /// passes calls on to another must, or files are read although they need not be.
    async fn pieces(
        &self,
        key: &Key,
        range: Option<ByteRange>,
    ) -> Result<(u64, PieceStream), StorageError> {
        let (size, stream) = self.stream(key, range).await?;
        Ok((size, stream.map_ok(Piece::Bytes).boxed()))
    }

    /// Stores an object, replacing what is there: readers see the old or the new, whole
    async fn write(&self, key: &Key, bytes: Bytes) -> Result<(), StorageError>;

    /// Stores an object as [`Objects::write`] does, except that it need not be durable
    ///
    /// For what can be made again. After a power cut the object may be missing or empty, or
    /// again what it was before; it is never another mixture.
    async fn write_unsynced(&self, key: &Key, bytes: Bytes) -> Result<(), StorageError> {
        self.write(key, bytes).await
    }

    /// Removes an object
    async fn delete(&self, key: &Key) -> Result<(), StorageError>;

    /// Removes whatever is at `key` and everything below; `Ok` if there is nothing
    ///
    /// It is gone for readers, all at once where the storage can do that. After a power cut
    /// some of it may be back: use [`Objects::delete`] for what must never return.
    async fn delete_tree(&self, key: &Key) -> Result<(), StorageError>;

    /// Moves an object to another key, replacing what is there
    async fn rename(&self, from: &Key, to: &Key) -> Result<(), StorageError>;

    /// The first `limit` children of a folder strictly after the name `after`, in byte order
    ///
    /// `None` is the topmost folder, which always exists. A folder that does not exist is
    /// [`StorageError::NotFound`]. Names that no [`Key`] can have are left out.
    async fn list(
        &self,
        folder: Option<&Key>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Entry>, StorageError>;
}

/// Files that grow, and become objects when they are done
///
/// An upload is no object until it is published. Whether something is listed or found under its
/// key before, or beside it in the same folder, is the driver's affair. It goes with the folder
/// that it is in: see [`Objects::delete_tree`].
#[async_trait]
pub trait Uploads: fmt::Debug + Send + Sync + 'static {
    /// Opens an upload for writing at its end; one that does not exist begins empty
    ///
    /// Until the result is dropped, and a write that it still has under way is done, nobody
    /// else in this process can open it. In another process either nobody can, or whoever
    /// is the first to sync or publish goes on, and the others' calls fail.
    ///
    /// # Errors
    ///
    /// [`StorageError::Busy`] while someone else has it open.
    async fn append(&self, upload: &Key) -> Result<Box<dyn Append>, StorageError>;

    /// Opens an upload as [`Uploads::append`] does, but begins none
    ///
    /// So an upload that was published or deleted does not come back under its old key.
    ///
    /// # Errors
    ///
    /// [`StorageError::NotFound`] if there is no such upload.
    async fn reopen(&self, upload: &Key) -> Result<Box<dyn Append>, StorageError>;

    /// Begins an upload whose key nobody knows yet, empty, and stores an object that is new too
    ///
    /// Neither need be durable. `None`, and nothing is done, where that would cost no less than
    /// [`Uploads::append`] and [`Objects::write_unsynced`] one after the other.
    fn begin_with(
        &self,
        upload: &Key,
        object: &Key,
        bytes: Bytes,
    ) -> Option<BoxFuture<'_, Result<(), StorageError>>> {
        let _ = (upload, object, bytes);
        None
    }

    /// How many bytes of an upload are kept, and when the last of them came
    ///
    /// Does not need the upload to be free. Bytes that are not synced yet may be counted.
    ///
    /// # Errors
    ///
    /// [`StorageError::NotFound`] if there is no such upload.
    async fn progress(&self, upload: &Key) -> Result<Stat, StorageError>;

    /// The notes that this driver keeps with its uploads; `None` if it keeps none
    fn notes(&self) -> Option<&dyn Notes> {
        None
    }
}

/// Uploads that each have a note, which changes together with their bytes
///
/// What somebody has to know of an upload, and would else keep in objects beside it, is then had
/// with the upload itself, and never says more or less than its bytes. Where each call goes over a
/// network, that is most of what a small upload costs. An upload that [`Uploads::append`] began has
/// an empty note.
#[async_trait]
pub trait Notes: fmt::Debug + Send + Sync {
    /// Begins an upload under a key that had none, empty and with this note
    ///
    /// # Errors
    ///
    /// [`StorageError::Busy`] if there is one, where the storage can tell.
    async fn begin(&self, upload: &Key, note: Bytes) -> Result<(), StorageError>;

    /// An upload as it is, which need not be free
    ///
    /// # Errors
    ///
    /// [`StorageError::NotFound`] if there is no such upload.
    async fn look(&self, upload: &Key) -> Result<Box<dyn Look>, StorageError>;
}

/// An upload as it was when somebody looked, which can be opened as it was then
#[async_trait]
pub trait Look: fmt::Debug + Send + Sync + 'static {
    /// What [`Uploads::progress`] would have said
    fn stat(&self) -> Stat;

    /// The note
    fn note(&self) -> Bytes;

    /// Opens the upload for writing, as [`Uploads::reopen`] does
    ///
    /// If somebody in this process has gone on with it since, it is as that one left it. If
    /// somebody in another has, [`Append::sync`] says that it is [`StorageError::Busy`].
    ///
    /// # Errors
    ///
    /// As [`Uploads::reopen`].
    async fn open(self: Box<Self>) -> Result<Box<dyn Append>, StorageError>;
}

/// An upload that is open for writing
///
/// After an error of any method but [`Append::truncate`] on too short an upload, what the
/// upload holds past the last successful [`Append::sync`] is unknown, and all further calls
/// fail. Open it again and cut it to what is known. What was not synced when this is dropped may
/// be there or not.
///
/// # Errors
///
/// [`StorageError::Busy`] from [`Append::sync`] and [`Append::publish`] also if another process
/// has gone on with the upload meanwhile: see [`Uploads::append`].
#[async_trait]
pub trait Append: fmt::Debug + Send + 'static {
    /// How many bytes the upload had when it was opened or cut, and those added since
    fn size(&self) -> u64;

    /// Adds bytes at the end
    ///
    /// Returns as soon as the next write may come, which may be before this one is done, so
    /// that the caller's work and the storage's overlap. Its error then is that of the next
    /// call. At most one write is under way. If this is dropped, the write goes on.
    async fn write(&mut self, bytes: Bytes) -> Result<(), StorageError>;

    /// Adds bytes at the end that lie in several pieces, in order
    ///
    /// As [`Append::write`] does with each of them.
    async fn write_vectored(&mut self, pieces: Vec<Bytes>) -> Result<(), StorageError> {
        for piece in pieces {
            self.write(piece).await?;
        }
        Ok(())
    }

    /// Adds bytes at the end, after which there are no more until the upload is synced
    ///
    /// As [`Append::write_vectored`], which may be done only with what comes next, [`Append::sync`]
    /// or [`Append::publish`] most often.
    async fn write_last(&mut self, pieces: Vec<Bytes>) -> Result<(), StorageError> {
        self.write_vectored(pieces).await
    }

    /// Says how many bytes are to be added, as far as is known; there may be more or fewer
    ///
    /// A driver may make room for them ahead. Others do nothing.
    fn expect(&mut self, bytes: u64) {
        let _ = bytes;
    }

    /// Says what the upload is to become, before its bytes are written
    ///
    /// A driver may then put the bytes where they will stay, and save itself a copy. If the
    /// upload is synced instead of being published there, such a driver may have to give up what
    /// was written since it was opened: [`Append::size`] says so. Others do nothing.
    fn aim(&mut self, to: &Key) {
        let _ = to;
    }

    /// The note of the bytes that were synced last; `None` where the driver keeps none
    ///
    /// See [`Notes`].
    fn note(&self) -> Option<Bytes> {
        None
    }

    /// Replaces the note when the bytes are synced or published next
    ///
    /// Where these bytes are given up instead (see [`Append::aim`]), so is the note. A driver that
    /// keeps none does nothing.
    fn annotate(&mut self, note: Bytes) {
        let _ = note;
    }

    /// After how many bytes a sync is worth its cost while there are more to come
    ///
    /// See [`Append::sync_behind`].
    /// `None` where a sync costs so much that it is better to lose what one request brought.
    fn checkpoint(&self) -> Option<u64> {
        Some(32 * 1024 * 1024)
    }

    /// Makes durable all that was written
    async fn sync(&mut self) -> Result<(), StorageError>;

    /// Begins to make durable all that was written, while more is written
    ///
    /// When this returns, what was written before the previous call is durable. A driver that
    /// cannot do both at once makes it all durable. If this is dropped, the sync goes on as a
    /// write does.
    async fn sync_behind(&mut self) -> Result<(), StorageError> {
        self.sync().await
    }

    /// Cuts the upload to its first `size` bytes, after which writing goes on
    ///
    /// Every driver can cut it to nothing and to its size at the last sync. One that keeps no
    /// [`Notes`] can also cut it to its size at the sync before: what is known of the bytes may be
    /// older than they are.
    ///
    /// # Errors
    ///
    /// [`StorageError::Corrupt`] if it is shorter, or cannot be cut there; nothing is changed
    /// then.
    async fn truncate(&mut self, size: u64) -> Result<(), StorageError>;

    /// All that was written, to be read once more
    ///
    /// After this, nothing may be written any more: the upload can be synced, cut to nothing or
    /// published.
    async fn content(&mut self) -> Result<ByteStream, StorageError>;

    /// Says what object is to be there before the upload becomes one
    ///
    /// Returns whether [`Append::publish`] stores it, as [`Objects::write`] does, because that
    /// costs less than one after the other; if not, it is for the caller to store.
    fn accompany(&mut self, key: &Key, bytes: Bytes) -> bool {
        let _ = (key, bytes);
        false
    }

    /// Says that the folder which the upload is in is to go once it is an object
    ///
    /// Returns whether [`Append::publish`] removes it as [`Objects::delete_tree`] does, because
    /// that costs less than one after the other; if not, it is for the caller to remove. That it
    /// could not be removed is logged and no error: the upload is an object then.
    fn vacate(&mut self) -> bool {
        false
    }

    /// Makes all that was written the object `to`, replacing what is there
    ///
    /// It need not have been synced. Readers of `to` see the old object or the new, whole, and
    /// it is durable on return. The upload has ended then, and every further call fails. After
    /// an error, or when this is not waited for, the upload is there or `to` is, or both.
    ///
    /// # Errors
    ///
    /// [`StorageError::NotFound`] if the upload was deleted meanwhile and that is noticed.
    async fn publish(&mut self, to: &Key) -> Result<(), StorageError>;
}

/// Everything that a registry needs; implemented by whatever is both [`Objects`] and [`Uploads`]
pub trait Driver: Objects + Uploads {}

impl<D: Objects + Uploads + ?Sized> Driver for D {}

impl Key {
    /// Parses a key
    ///
    /// # Errors
    ///
    /// [`KeyError`] if the text is out of the grammar.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        if is_valid(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(KeyError {
                text: text.to_owned(),
            })
        }
    }

    /// The key of a text that is made of parts that were parsed
    ///
    /// To parse it once more for each request would cost more than to make it.
    pub(crate) fn of_valid(text: String) -> Self {
        debug_assert!(is_valid(&text), "{text:?} is not a key");
        Self(text)
    }

    /// The key of something directly or indirectly below
    ///
    /// # Errors
    ///
    /// [`KeyError`] if `path` is out of the grammar.
    pub fn child(&self, path: &str) -> Result<Self, KeyError> {
        Self::parse(&format!("{self}/{path}"))
    }

    /// The key as text
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// All but the last component; `None` directly below the topmost folder
    pub fn parent(&self) -> Option<&str> {
        self.0.rsplit_once('/').map(|(parent, _)| parent)
    }

    /// The last component
    pub fn name(&self) -> &str {
        self.0.rsplit_once('/').map_or(&*self.0, |(_, name)| name)
    }
}

fn is_valid(text: &str) -> bool {
    text.split('/').all(|component| {
        !matches!(component, "" | "." | "..") && !component.contains(char::is_control)
    })
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::parse(text)
    }
}

impl TryFrom<&str> for Key {
    type Error = KeyError;

    fn try_from(text: &str) -> Result<Self, KeyError> {
        Self::parse(text)
    }
}

impl Stat {
    /// What is known of an object of `size` bytes
    pub fn new(size: u64, modified: Option<SystemTime>) -> Self {
        Self { size, modified }
    }
}

impl Entry {
    /// A child that is an object
    pub fn object(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            is_dir: false,
        }
    }

    /// A child that is a folder
    pub fn folder(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            is_dir: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_relative_and_stay_inside() {
        for good in ["a", "a/b", "a.b", "..a", "a..", "_x/é", "a b", "-", "a\\b"] {
            assert_eq!(Key::parse(good).unwrap().as_str(), good);
        }
        for bad in [
            "", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/./b", "a\0b", "a\nb",
            "a\u{7f}", "a/\u{85}",
        ] {
            assert!(Key::parse(bad).is_err(), "{bad:?}");
        }
        let error = Key::parse("a/\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "`a/\\n` is not a key: expected components other than `.` and `..`, without control \
             characters, separated by single `/`"
        );
    }

    #[test]
    fn keys_know_their_parts() {
        let key = Key::parse("a/b").unwrap();
        assert_eq!((key.parent(), key.name()), (Some("a"), "b"));
        let child = key.child("c/d").unwrap();
        assert_eq!((child.parent(), child.name()), (Some("a/b/c"), "d"));
        let top = Key::parse("a").unwrap();
        assert_eq!((top.parent(), top.name()), (None, "a"));
        assert!(key.child("..").is_err());
        assert!(key.child("").is_err());
    }
}
