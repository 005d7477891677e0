//! Writing so that a crash at any instant leaves the old or the new, and nothing half

use std::os::fd::OwnedFd;
use std::time::SystemTime;

use rustix::fs::{self, AtFlags, Dir, Mode, OFlags};
use rustix::io::{self, Errno};

use super::{ABANDONED, Root, TEMPORARY, failed, modified};
use crate::driver::Key;
use crate::error::StorageError;

/// As distribution makes its folders; the process's umask narrows it
pub(super) const FOLDER_MODE: Mode = Mode::from_raw_mode(0o777);

/// As distribution makes its files
pub(super) const FILE_MODE: Mode = Mode::from_raw_mode(0o666);

/// How often a rename is tried again when its folder is deleted under it
const ATTEMPTS: usize = 16;

/// The largest content that is compared before it is written again
const COMPARED: usize = 4096;

impl Root {
    /// Temporary file, sync, rename, sync of the folder
    pub(super) fn write(&self, key: &Key, bytes: &[u8]) -> Result<(), StorageError> {
        // A link that says so already is only made sure of: whoever wrote it may not have
        // synced it yet.
        if bytes.len() <= COMPARED
            && let Ok((file, size)) = self.open_file(key)
            && size == bytes.len() as u64
            && self.read(key, COMPARED).is_ok_and(|found| found == bytes)
        {
            fs::fsync(&file).map_err(|errno| failed(key.as_str(), errno))?;
            return self.sync_parents(key);
        }
        let temporary = temporary_name();
        let result = self
            .write_temporary(&temporary, bytes)
            .map_err(|errno| failed(key.as_str(), errno))
            .and_then(|()| self.rename(&temporary, key));
        if result.is_err() {
            // It may not be there at all, and the first error is the one that counts.
            let _ = fs::unlinkat(&self.fd, &temporary, AtFlags::empty());
        }
        result
    }

    fn write_temporary(&self, path: &str, bytes: &[u8]) -> Result<(), Errno> {
        let create = || {
            fs::openat(
                &self.fd,
                path,
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC,
                FILE_MODE,
            )
        };
        let file = match create() {
            Err(Errno::NOENT) => {
                make_folder(&self.fd, TEMPORARY)?;
                create()?
            }
            other => other?,
        };
        let mut rest = bytes;
        while !rest.is_empty() {
            match io::write(&file, rest) {
                Ok(count) => rest = &rest[count..],
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        fs::fsync(&file)
    }

    /// Renames a file into place, makes the folders on the way, and syncs what changed
    pub(super) fn rename(&self, from: &str, to: &Key) -> Result<(), StorageError> {
        for _ in 0..ATTEMPTS {
            match fs::renameat(&self.fd, from, &self.fd, to.as_str()) {
                Ok(()) => return self.sync_parents(to),
                Err(Errno::NOENT) => {
                    // Either the source is gone or the folder is not there (any more).
                    fs::statat(&self.fd, from, AtFlags::empty())
                        .map_err(|errno| failed(from, errno))?;
                    self.make_parents(to)?;
                }
                Err(errno) => return Err(failed(to.as_str(), errno)),
            }
        }
        Err(StorageError::Busy {
            key: to.to_string(),
            retry_after: std::time::Duration::from_secs(1),
        })
    }

    /// Makes the folders that a key is in; each is synced into its own folder
    pub(super) fn make_parents(&self, key: &Key) -> Result<(), StorageError> {
        let Some(parent) = key.parent() else {
            return Ok(());
        };
        // From the deepest that exists: the usual case is one or two new folders.
        let mut missing = Vec::new();
        let mut folder = parent;
        loop {
            match make_folder(&self.fd, folder) {
                Ok(()) => break,
                Err(Errno::NOENT) => {
                    let Some((above, _)) = folder.rsplit_once('/') else {
                        return Err(failed(folder, Errno::NOENT));
                    };
                    missing.push(folder);
                    folder = above;
                }
                Err(errno) => return Err(failed(folder, errno)),
            }
        }
        for folder in missing.into_iter().rev() {
            match make_folder(&self.fd, folder) {
                // Someone deletes the tree at the same time: the caller tries again.
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(failed(folder, errno)),
            }
        }
        Ok(())
    }

    /// Makes a change in the folder of `key` durable
    pub(super) fn sync_parents(&self, key: &Key) -> Result<(), StorageError> {
        match sync_folder(&self.fd, key.parent().unwrap_or(".")) {
            // Gone again with everything in it: there is nothing to keep.
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(failed(key.as_str(), errno)),
        }
    }

    pub(super) fn delete(&self, key: &Key) -> Result<(), StorageError> {
        match fs::unlinkat(&self.fd, key.as_str(), AtFlags::empty()) {
            Ok(()) => self.sync_parents(key),
            // A folder is no object.
            Err(Errno::ISDIR) => Err(failed(key.as_str(), Errno::NOENT)),
            Err(errno) => Err(failed(key.as_str(), errno)),
        }
    }

    /// Moves a folder away, at once, and then removes what is in it
    pub(super) fn delete_tree(&self, folder: &Key) -> Result<(), StorageError> {
        let fail = |errno| failed(folder.as_str(), errno);
        let away = temporary_name();
        let moved = match fs::renameat(&self.fd, folder.as_str(), &self.fd, &away) {
            Err(Errno::NOENT) => {
                make_folder(&self.fd, TEMPORARY).map_err(fail)?;
                fs::renameat(&self.fd, folder.as_str(), &self.fd, &away)
            }
            other => other,
        };
        match moved {
            Ok(()) => {}
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(errno) => return Err(fail(errno)),
        }
        self.sync_parents(folder)?;
        // What is left if this fails is removed as abandoned, later.
        remove_all(&self.fd, &away).map_err(fail)
    }

    /// Removes what processes left behind that were killed long ago
    pub(super) fn remove_abandoned(&self) {
        let Ok(folder) = open_folder(&self.fd, TEMPORARY) else {
            return;
        };
        let Ok(entries) = Dir::read_from(&folder) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Ok(text) = name.to_str() else { continue };
            if matches!(text, "." | "..") {
                continue;
            }
            let old = fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)
                .ok()
                .and_then(|stat| modified(&stat))
                .and_then(|modified| SystemTime::now().duration_since(modified).ok())
                .is_some_and(|age| age > ABANDONED);
            if old && let Err(errno) = remove_all(&folder, text) {
                tracing::warn!(file = text, %errno, "an abandoned temporary file cannot be removed");
            }
        }
    }
}

/// A name that no other process has
pub(super) fn temporary_name() -> String {
    format!("{TEMPORARY}/{}", uuid::Uuid::new_v4())
}

/// Makes a folder durably; it is no error if it is there
fn make_folder(root: &OwnedFd, path: &str) -> Result<(), Errno> {
    match fs::mkdirat(root, path, FOLDER_MODE) {
        Ok(()) => {}
        // Its maker may not have synced it yet.
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    sync_folder(
        root,
        path.rsplit_once('/').map_or(".", |(parent, _)| parent),
    )
}

fn sync_folder(root: &OwnedFd, path: &str) -> Result<(), Errno> {
    fs::fsync(open_folder(root, path)?)
}

fn open_folder(root: &OwnedFd, path: &str) -> Result<OwnedFd, Errno> {
    fs::openat(
        root,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// Removes a file, or a folder with everything in it
fn remove_all(root: &OwnedFd, path: &str) -> Result<(), Errno> {
    match fs::unlinkat(root, path, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    let folder = open_folder(root, path)?;
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else {
            continue;
        };
        if !matches!(name, "." | "..") {
            remove_all(&folder, name)?;
        }
    }
    match fs::unlinkat(root, path, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}
