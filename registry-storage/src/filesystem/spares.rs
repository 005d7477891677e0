//! The folders of uploads, used again and again
//!
//! An upload begins with a folder and two files in it, of which one becomes the blob. The folder
//! and the other file wait here for the next upload, which then has two inodes less to make. That
//! is more than it seems: ext4 without a journal passes over each inode that was freed in the
//! last seconds whenever it looks for one.

use std::fs::File;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{self, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::publish::{FILE_MODE, Unsynced, remove_folder, temporary_name, write_all};
use super::{Root, failed};
use crate::driver::Key;
use crate::error::StorageError;

/// How many wait at most: about as many uploads as end before as many begin
const MOST: usize = 16;

/// Folders that wait for an upload, in the folder of temporary files
///
/// Those that a process leaves behind are removed as abandoned on another day.
#[derive(Debug, Default)]
pub(super) struct Spares(Mutex<Vec<Spare>>);

#[derive(Debug)]
struct Spare {
    path: String,
    /// The one file in it
    file: String,
}

impl Spares {
    /// The folder that was used last and has a file of that name
    fn take(&self, file: &str) -> Option<Spare> {
        let mut spares = self.lock();
        let place = spares.iter().rposition(|spare| spare.file == file)?;
        Some(spares.remove(place))
    }

    fn is_full(&self) -> bool {
        self.lock().len() >= MOST
    }

    /// Keeps a folder, unless there are enough
    fn keep(&self, spare: Spare) -> Result<(), Spare> {
        let mut spares = self.lock();
        if spares.len() >= MOST {
            return Err(spare);
        }
        spares.push(spare);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Spare>> {
        // What is guarded is nothing that a panic could leave half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Root {
    /// Makes an empty file that nobody knows of yet, in a new folder, and another beside it with
    /// these bytes; nothing is synced
    pub(super) fn begin(
        &self,
        upload: &Key,
        beside: &Key,
        bytes: &[u8],
    ) -> Result<(), StorageError> {
        if upload.parent() == beside.parent()
            && let Some(folder) = upload.parent()
            && let Some(spare) = self.spares.take(beside.name())
        {
            match self.furnish(&spare, folder, upload.name(), bytes) {
                Ok(()) => return Ok(()),
                // Made anew it may be without whatever is in the way.
                Err(_) => self.throw_away(&spare.path),
            }
        }
        let create = |key: &Key, bytes| {
            self.place(key, &mut Unsynced::new(), |folder, name| {
                write_all(&create_new(folder, name)?, bytes, 0)?;
                Ok(true)
            })
        };
        create(upload, &[])?;
        create(beside, bytes)?;
        Ok(())
    }

    /// Makes a spare folder that of an upload, which is seen only when it is whole
    fn furnish(
        &self,
        spare: &Spare,
        folder: &str,
        upload: &str,
        bytes: &[u8],
    ) -> Result<(), Errno> {
        let opened = self.open_folder(&spare.path)?;
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(fs::openat(&opened, &spare.file, flags, Mode::empty())?);
        write_all(&file, bytes, 0)?;
        // To cut it first would have ext4 write it to the disk when it is closed.
        if fs::fstat(&file)?.st_size != i64::try_from(bytes.len()).unwrap_or(i64::MAX) {
            fs::ftruncate(&file, bytes.len() as u64)?;
        }
        create_new(&opened, upload)?;
        fs::renameat(&self.fd, &spare.path, &self.fd, folder)
    }

    /// Removes the folder in which an upload was that has become an object, or keeps it for the
    /// next
    ///
    /// For everybody else it has ended with that, so nothing depends on it.
    pub(super) fn vacate(&self, upload: &Key) {
        let Some(folder) = upload.parent() else {
            return;
        };
        if self.mount.is_remote() {
            let removed = Key::parse(folder).map(|key| self.delete_tree(&key));
            if let Ok(Err(error)) = removed {
                left_behind(folder, &error);
            }
            return;
        }
        let path = temporary_name();
        if self.spares.is_full() || fs::renameat(&self.fd, folder, &self.fd, &path).is_err() {
            return self.throw_away(folder);
        }
        let kept = match self.only_file(&path) {
            Ok(Some(file)) => self
                .spares
                .keep(Spare {
                    path: path.clone(),
                    file,
                })
                .is_ok(),
            _ => false,
        };
        if !kept {
            self.throw_away(&path);
        }
    }

    /// The name of the file that is all there is in a folder
    fn only_file(&self, path: &str) -> Result<Option<String>, Errno> {
        let mut found = None;
        for entry in Dir::read_from(&self.open_folder(path)?)? {
            let entry = entry?;
            match entry.file_name().to_str() {
                Ok("." | "..") => {}
                Ok(name) if found.is_none() && entry.file_type() == FileType::RegularFile => {
                    found = Some(name.to_owned());
                }
                _ => return Ok(None),
            }
        }
        Ok(found)
    }

    fn throw_away(&self, folder: &str) {
        if let Err(errno) = remove_folder(&self.fd, folder) {
            left_behind(folder, &failed(folder, errno));
        }
    }
}

fn left_behind(folder: &str, error: &StorageError) {
    let error = error as &dyn std::error::Error;
    tracing::warn!(%folder, error, "an upload that has ended was left behind; a purge removes it");
}

fn create_new(folder: &File, name: &str) -> Result<File, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    fs::openat(folder, name, flags, FILE_MODE).map(File::from)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use super::super::FileSystem;
    use super::*;

    fn keys(id: &str) -> (Key, Key) {
        let key = |name| Key::parse(&format!("u/{id}/{name}")).unwrap();
        (key("data"), key("startedat"))
    }

    /// An upload that begins, and ends as its bytes become an object
    fn pass(folder: &FileSystem, path: &Path, id: &str, date: &str, more: Option<&str>) {
        let (data, started) = keys(id);
        folder.root.begin(&data, &started, date.as_bytes()).unwrap();
        let read = |name| std::fs::read_to_string(path.join("u").join(id).join(name)).unwrap();
        assert_eq!((&*read("data"), &*read("startedat")), ("", date));
        std::fs::remove_file(path.join("u").join(id).join("data")).unwrap();
        if let Some(more) = more {
            std::fs::create_dir(path.join("u").join(id).join(more)).unwrap();
        }
        folder.root.vacate(&data);
        assert!(!path.join("u").join(id).exists());
    }

    fn waiting(path: &Path) -> Vec<u64> {
        let entries = std::fs::read_dir(path.join("_tmp")).unwrap();
        entries
            .map(|entry| entry.unwrap().metadata().unwrap().ino())
            .collect()
    }

    #[test]
    fn the_next_upload_has_the_folder_of_the_last() {
        let root = tempfile::tempdir().unwrap();
        let folder = FileSystem::open(root.path()).unwrap();
        pass(&folder, root.path(), "1", "2026-11-21T16:00:00Z", None);
        let first = waiting(root.path());
        assert_eq!(first.len(), 1);
        for (id, date) in [("2", "shorter"), ("3", "2026-11-21T16:00:01Z and longer")] {
            pass(&folder, root.path(), id, date, None);
            assert_eq!(waiting(root.path()), first);
        }
        // What has more in it is not kept.
        pass(&folder, root.path(), "4", "", Some("hashstates"));
        assert!(waiting(root.path()).is_empty());
    }

    #[test]
    fn a_folder_that_somebody_removed_is_made_anew() {
        let root = tempfile::tempdir().unwrap();
        let folder = FileSystem::open(root.path()).unwrap();
        pass(&folder, root.path(), "1", "one", None);
        std::fs::remove_dir_all(root.path().join("_tmp")).unwrap();
        pass(&folder, root.path(), "2", "two", None);
        // And one that has no place yet is no reason to fail.
        std::fs::remove_dir_all(root.path().join("u")).unwrap();
        pass(&folder, root.path(), "3", "three", None);
    }

    #[test]
    fn only_some_folders_are_kept() {
        let root = tempfile::tempdir().unwrap();
        let folder = FileSystem::open(root.path()).unwrap();
        let ids: Vec<String> = (0..2 * MOST).map(|id| id.to_string()).collect();
        for id in &ids {
            let (data, started) = keys(id);
            folder.root.begin(&data, &started, b"date").unwrap();
        }
        for id in &ids {
            let (data, _) = keys(id);
            std::fs::remove_file(root.path().join(data.as_str())).unwrap();
            folder.root.vacate(&data);
        }
        assert_eq!(waiting(root.path()).len(), MOST);
        let left = std::fs::read_dir(root.path().join("u")).unwrap();
        assert_eq!(left.count(), 0);
    }
}
