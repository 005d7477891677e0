//! Writing so that a crash at any instant leaves the old or the new, and nothing half

use std::fs::File;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rustix::fs::{self, AtFlags, Dir, Mode, OFlags};
use rustix::io::{self, Errno};

use super::errand::Errand;
use super::share::{identity, is_silly};
use super::{Root, TEMPORARY, failed};
use crate::driver::Key;
use crate::error::StorageError;

/// As distribution makes its folders; the process's umask narrows it
const FOLDER_MODE: Mode = Mode::from_raw_mode(0o777);

/// As distribution makes its files
pub(super) const FILE_MODE: Mode = Mode::from_raw_mode(0o666);

/// After which time a temporary file belongs to no living process
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// How often something is tried again because its folder is deleted under it
pub(super) const ATTEMPTS: usize = 16;

/// When to come back after so many attempts
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How long to wait, as often, for what this machine has open on a share
const HELD: Duration = Duration::from_millis(20);

/// How many pieces are written in one call; Linux takes this many, and all systems some
const VECTOR: usize = 1024;

/// The largest content that is compared before it is written again
const COMPARED: usize = 4096;

/// Folders in which something was put or made, and that are still to be synced
pub(super) type Unsynced = Vec<String>;

/// A file that is written and has not its place yet
struct Temporary {
    path: String,
    /// Which file it is
    identity: (u64, u64),
}

impl Root {
    /// Temporary file, sync, rename, sync of the folder
    pub(super) fn write(&self, key: &Key, bytes: &[u8]) -> Result<(), StorageError> {
        let mut unsynced = Unsynced::new();
        if let Some(temporary) = self.stage(key, bytes)? {
            self.put(key, &temporary, &mut unsynced)?;
        }
        self.sync_folders(&unsynced)
            .map_err(|errno| failed(key.as_str(), errno))
    }

    /// As [`Root::write`], without the syncs
    pub(super) fn write_unsynced(&self, key: &Key, bytes: &[u8]) -> Result<(), StorageError> {
        // An NFS client sends what was written when the file is closed. Only a sync tells whether
        // there was room for it, and it costs no more.
        let temporary = self.write_temporary(key, bytes, self.mount.is_nfs())?;
        self.put(key, &temporary, &mut Unsynced::new())
    }

    pub(super) fn rename(&self, from: &Key, to: &Key) -> Result<(), StorageError> {
        let mut unsynced = Unsynced::new();
        self.move_object(from, to, &mut unsynced)?;
        self.sync_folders(&unsynced)
            .map_err(|errno| failed(to.as_str(), errno))
    }

    /// Makes an upload the object `to`, and durable, after what is to be there before it
    ///
    /// `beside` is written as [`Root::write`] does. What the disk is asked to do for the two is
    /// asked for at once: it takes about as long as for one.
    pub(super) fn publish(
        &self,
        upload: &Arc<File>,
        from: &Key,
        to: &Key,
        beside: Option<&(Key, Bytes)>,
    ) -> Result<(), StorageError> {
        let (synced, staged) = match beside {
            Some((key, bytes)) => {
                let file = upload.clone();
                let syncing = self.errands.send(move || fs::fdatasync(&file));
                let staged = self.stage(key, bytes);
                (syncing.wait(), staged)
            }
            None => (fs::fdatasync(upload), Ok(None)),
        };
        let temporary = staged?;
        // Its folder need not be synced: it is moved out of there.
        if let Err(errno) = synced {
            if let Some(temporary) = temporary {
                self.discard(&temporary);
            }
            return Err(failed(from.as_str(), errno));
        }
        let mut unsynced = Unsynced::new();
        if let (Some((key, _)), Some(temporary)) = (beside, temporary) {
            self.put(key, &temporary, &mut unsynced)?;
        }
        self.move_object(from, to, &mut unsynced)?;
        self.sync_folders(&unsynced)
            .map_err(|errno| failed(to.as_str(), errno))
    }

    /// A synced temporary file to be put at `key`; `None` if what is there is the same
    fn stage(&self, key: &Key, bytes: &[u8]) -> Result<Option<Temporary>, StorageError> {
        if bytes.len() <= COMPARED && self.confirm(key, bytes) {
            return Ok(None);
        }
        self.write_temporary(key, bytes, true).map(Some)
    }

    /// Puts a temporary file in its place; if that fails, it is gone
    fn put(
        &self,
        key: &Key,
        temporary: &Temporary,
        unsynced: &mut Unsynced,
    ) -> Result<(), StorageError> {
        let put = self.place(key, unsynced, |folder, name| {
            let replacing = self.replacing(key);
            let moved = fs::renameat(&self.fd, &temporary.path, folder, name);
            drop(replacing);
            match moved {
                Err(Errno::NOENT) if self.has_arrived(key, temporary.identity) => Ok(true),
                moved => moved.map(|()| true),
            }
        });
        if put.is_err() {
            self.discard(temporary);
        }
        put.map(|_| ())
    }

    fn discard(&self, temporary: &Temporary) {
        // It may not be there at all, and the error that led here is the one that counts.
        let _ = fs::unlinkat(&self.fd, &temporary.path, AtFlags::empty());
    }

    fn move_object(
        &self,
        from: &Key,
        to: &Key,
        unsynced: &mut Unsynced,
    ) -> Result<(), StorageError> {
        // Also says that it is no folder, and keeps folders from being made for nothing.
        let file = self.open_object(from)?.identity();
        let moved = self.place(to, unsynced, |folder, name| {
            let replacing = self.replacing(to);
            let moved = fs::renameat(&self.fd, from.as_str(), folder, name);
            drop(replacing);
            match moved {
                Ok(()) => Ok(true),
                Err(Errno::NOENT) if self.has_arrived(to, file) => Ok(true),
                // Either the folder was deleted or what was to be moved is gone.
                Err(Errno::NOENT) => match fs::statat(&self.fd, from.as_str(), AtFlags::empty()) {
                    Ok(_) => Err(Errno::NOENT),
                    Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
                    Err(errno) => Err(errno),
                },
                Err(errno) => Err(errno),
            }
        })?;
        if moved {
            Ok(())
        } else {
            Err(self.absent(from.as_str()))
        }
    }

    pub(super) fn delete(&self, key: &Key) -> Result<(), StorageError> {
        let deleted = self.believing(key.as_str(), || {
            let folder = self.open_folder(key.parent().unwrap_or("."))?;
            let _replacing = self.replacing(key);
            fs::unlinkat(&folder, key.name(), AtFlags::empty())?;
            Ok(folder)
        });
        match deleted {
            Ok(folder) => sync_folder(&folder).map_err(|errno| failed(key.as_str(), errno)),
            // A folder is no object.
            Err(Errno::ISDIR) => Err(self.absent(key.as_str())),
            Err(errno) => Err(self.missed(key.as_str(), errno)),
        }
    }

    /// Moves a folder away, at once, and then removes what is in it
    pub(super) fn delete_tree(&self, key: &Key) -> Result<(), StorageError> {
        let away = temporary_name();
        let rename = || fs::renameat(&self.fd, key.as_str(), &self.fd, &away);
        let moved = match rename() {
            // Perhaps it is our own folder that is not there, or another machine made what is to
            // be deleted.
            Err(Errno::NOENT) => match fs::mkdirat(&self.fd, TEMPORARY, FOLDER_MODE) {
                Ok(()) | Err(Errno::EXIST) => self.believing(key.as_str(), rename),
                Err(errno) => Err(errno),
            },
            moved => moved,
        };
        let moved = match moved {
            // Done, and the answer was lost.
            Err(Errno::NOENT)
                if self.mount.is_nfs()
                    && fs::statat(&self.fd, &away, AtFlags::SYMLINK_NOFOLLOW).is_ok() =>
            {
                Ok(())
            }
            moved => moved,
        };
        match moved.map_err(|errno| self.missed(key.as_str(), errno)) {
            Ok(()) => {}
            Err(StorageError::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        }
        if let Err(errno) = remove_all(&self.fd, &away) {
            // It is out of everyone's sight, and goes as abandoned on another day.
            tracing::warn!(%key, %errno, "what was deleted still takes room");
        }
        Ok(())
    }

    /// Puts something at `key`, in folders that are made if need be
    ///
    /// `put` is given the open folder and the name in it. It says whether what it should put
    /// there exists; if it does not, nothing was done. What is to be synced for it is added to
    /// `unsynced`.
    pub(super) fn place(
        &self,
        key: &Key,
        unsynced: &mut Unsynced,
        put: impl Fn(&File, &str) -> Result<bool, Errno>,
    ) -> Result<bool, StorageError> {
        for _ in 0..ATTEMPTS {
            let Some(folder) = self.make_parent(key, unsynced)? else {
                continue;
            };
            match put(&folder, key.name()) {
                Ok(done) => {
                    if done {
                        unsynced.push(key.parent().unwrap_or(".").to_owned());
                    }
                    return Ok(done);
                }
                // Someone deleted the folder since it was opened.
                Err(Errno::NOENT | Errno::STALE) => {}
                Err(errno) => return Err(failed(key.as_str(), errno)),
            }
        }
        Err(self.restless(key))
    }

    /// Opens the folder that `key` is in, and makes it if it is not there
    ///
    /// `None` if someone deletes it at the same time.
    pub(super) fn make_parent(
        &self,
        key: &Key,
        unsynced: &mut Unsynced,
    ) -> Result<Option<File>, StorageError> {
        let path = key.parent().unwrap_or(".");
        let opened = match self.open_folder(path) {
            Err(Errno::NOENT | Errno::STALE) => self
                .make_folder(path, unsynced)
                .and_then(|()| self.open_folder(path)),
            opened => opened,
        };
        match opened {
            Ok(folder) => Ok(Some(folder)),
            Err(Errno::NOENT | Errno::STALE) => Ok(None),
            Err(errno) => Err(failed(key.as_str(), errno)),
        }
    }

    /// Makes a folder and those above it; it is no error if it is there
    fn make_folder(&self, path: &str, unsynced: &mut Unsynced) -> Result<(), Errno> {
        let parent = path.rsplit_once('/').map(|(parent, _)| parent);
        let make = || match fs::mkdirat(&self.fd, path, FOLDER_MODE) {
            // It was not there a moment ago: its maker may not have synced it yet.
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(errno),
        };
        match (make(), parent) {
            (Err(Errno::NOENT), Some(parent)) => {
                self.make_folder(parent, unsynced)?;
                make()?;
            }
            (made, _) => made?,
        }
        unsynced.push(parent.unwrap_or(".").to_owned());
        Ok(())
    }

    /// Makes durable what was done in these folders
    ///
    /// All at once: a journalling file system then writes its journal once, and the disk empties
    /// its cache once, where one after the other each of them would wait for that.
    pub(super) fn sync_folders(&self, unsynced: &Unsynced) -> Result<(), Errno> {
        let mut folders = Vec::with_capacity(unsynced.len());
        for (place, path) in unsynced.iter().enumerate() {
            if unsynced[..place].contains(path) {
                continue;
            }
            match self.open_folder(path) {
                Ok(folder) => folders.push(folder),
                // Gone again with everything in it: there is nothing to keep.
                Err(Errno::NOENT | Errno::STALE) => {}
                Err(errno) => return Err(errno),
            }
        }
        if self.mount.is_nfs() {
            // What a server has answered it has stored: nothing is waited for.
            return folders.iter().try_for_each(sync_folder);
        }
        let Some(last) = folders.pop() else {
            return Ok(());
        };
        let syncing: Vec<_> = folders
            .into_iter()
            .map(|folder| self.errands.send(move || sync_folder(&folder)))
            .collect();
        let synced = sync_folder(&last);
        // The last ones first: they are the likeliest not to have been begun.
        let others = syncing.into_iter().rev().map(Errand::wait);
        others.fold(synced, Result::and)
    }

    /// What is said when a folder is deleted as often as it is made
    pub(super) fn restless(&self, key: &Key) -> StorageError {
        match self.absent(key.as_str()) {
            StorageError::NotFound { key } => StorageError::Busy {
                key,
                retry_after: RETRY_AFTER,
            },
            gone => gone,
        }
    }

    /// Whether exactly this is stored already, and durable
    ///
    /// Most links that a push writes are there from the last one. Whoever wrote it may not have
    /// synced it yet, so it is synced here. Whatever goes wrong is met again by the writing.
    fn confirm(&self, key: &Key, bytes: &[u8]) -> bool {
        let _opening = self.opening(key);
        let Ok(object) = self.open_object(key) else {
            return false;
        };
        object.stat().size == bytes.len() as u64
            && object
                .read(key, 0, bytes.len())
                .is_ok_and(|found| found == bytes)
            && fs::fsync(&object.file).is_ok()
            && self
                .open_folder(key.parent().unwrap_or("."))
                .and_then(fs::fsync)
                .is_ok()
    }

    /// Writes what is to be put at `key`; if that fails, nothing is left of it
    fn write_temporary(
        &self,
        key: &Key,
        bytes: &[u8],
        sync: bool,
    ) -> Result<Temporary, StorageError> {
        let path = temporary_name();
        let write = || {
            let file = self.create_temporary(&path)?;
            write_all(&file, bytes, 0)?;
            if sync {
                fs::fsync(&file)?;
            }
            Ok(identity(&fs::fstat(&file)?))
        };
        match write() {
            Ok(identity) => Ok(Temporary { path, identity }),
            Err(errno) => {
                // It may not be there at all, and the first error is the one that counts.
                let _ = fs::unlinkat(&self.fd, &path, AtFlags::empty());
                Err(failed(key.as_str(), errno))
            }
        }
    }

    /// Creates a temporary file, and the folder of such files if it is not there
    pub(super) fn create_temporary(&self, path: &str) -> Result<File, Errno> {
        let create = || {
            fs::openat(
                &self.fd,
                path,
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC,
                FILE_MODE,
            )
        };
        let created = match create() {
            Err(Errno::NOENT) => {
                match fs::mkdirat(&self.fd, TEMPORARY, FOLDER_MODE) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno),
                }
                create()
            }
            created => created,
        };
        created.map(File::from)
    }

    /// Removes what processes left behind that were killed long ago
    ///
    /// A failure is no reason not to start: what is left is only room.
    pub(super) fn remove_abandoned(&self, now: SystemTime) {
        let Ok(folder) = self.open_folder(TEMPORARY) else {
            return;
        };
        let Ok(entries) = Dir::read_from(&folder) else {
            return;
        };
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            if matches!(name, "." | "..") {
                continue;
            }
            let old = fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)
                .ok()
                .and_then(|stat| u64::try_from(stat.st_mtime).ok())
                .and_then(|seconds| {
                    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
                })
                .and_then(|modified| now.duration_since(modified).ok())
                .is_some_and(|age| age > ABANDONED);
            if old && let Err(errno) = remove_all(&folder, name) {
                tracing::warn!(file = name, %errno, "an abandoned temporary file cannot be removed");
            }
        }
    }
}

/// Makes durable what was done in a folder
///
/// One that was deleted on another machine meanwhile, with all that was in it, has nothing to keep.
fn sync_folder(folder: &File) -> Result<(), Errno> {
    match fs::fsync(folder) {
        Err(Errno::STALE) => Ok(()),
        synced => synced,
    }
}

/// A path for a temporary file that no other process has
pub(super) fn temporary_name() -> String {
    format!("{TEMPORARY}/{}", uuid::Uuid::new_v4())
}

pub(super) fn write_all(file: &File, mut bytes: &[u8], mut offset: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match io::pwrite(file, bytes, offset) {
            // Not to get on without an error would be to try for ever.
            Ok(0) => return Err(Errno::IO),
            Ok(count) => {
                bytes = &bytes[count..];
                offset += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Writes pieces one behind the other, as many at a time as the system takes
pub(super) fn write_all_vectored(
    file: &File,
    pieces: &[Bytes],
    mut offset: u64,
) -> Result<(), Errno> {
    let mut slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    let mut rest = &mut slices[..];
    // None that are empty may come first, for nothing can be written of them.
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        let count = rest.len().min(VECTOR);
        match io::pwritev(file, &rest[..count], offset) {
            // Not to get on without an error would be to try for ever.
            Ok(0) => return Err(Errno::IO),
            Ok(written) => {
                IoSlice::advance_slices(&mut rest, written);
                offset += written as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Removes a file, or a folder with everything in it; others may do so at the same time
fn remove_all(folder: &File, path: &str) -> Result<(), Errno> {
    match fs::unlinkat(folder, path, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => remove_folder(folder, path),
        Err(errno) => Err(errno),
    }
}

/// Removes a folder with everything in it; others may do so at the same time
pub(super) fn remove_folder(folder: &File, path: &str) -> Result<(), Errno> {
    // Writers that had the folder open when it was moved away may still put something in.
    for _ in 0..ATTEMPTS {
        let opened = match fs::openat(
            folder,
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Ok(opened) => File::from(opened),
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(errno),
        };
        // Others may be removed although one cannot.
        let (mut removed, mut held) = (Ok(()), false);
        for entry in Dir::read_from(&opened)? {
            let entry = entry?;
            let done = match entry.file_name().to_str() {
                Ok("." | "..") => Ok(()),
                Ok(name) => match remove_all(&opened, name) {
                    // Goes when this machine closes it.
                    Err(Errno::BUSY) if is_silly(name) => {
                        held = true;
                        Ok(())
                    }
                    done => done,
                },
                // No key can have made it, but it is in the way.
                Err(_) => fs::unlinkat(&opened, entry.file_name(), AtFlags::empty()),
            };
            removed = removed.and(done);
        }
        removed?;
        match fs::unlinkat(folder, path, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            // A file that was open when it was removed just now has become one of those.
            Err(Errno::NOTEMPTY | Errno::EXIST) if held => std::thread::sleep(HELD),
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::NOTEMPTY)
}
