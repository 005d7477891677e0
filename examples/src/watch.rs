//! Files that are looked at from time to time, for those who read them again when they change
//!
//! It is here and not in a library: the crates below know how to read their files again, and
//! which files are looked at, how often, and what a person is told is for whoever composes them.
//!
//! Looking works everywhere. The system's notices of changes do not come over NFS, and follow
//! the file that a symbolic link led to, not the one to which it leads now, which is how
//! Kubernetes replaces secrets.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Files, and what they looked like
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use registry_examples::watch::Watch;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let folder = tempfile::tempdir().unwrap();
/// let path = folder.path().join("htpasswd");
/// std::fs::write(&path, "").unwrap();
///
/// // First, so that no change falls between the reading and the watching.
/// let mut watch = Watch::new([&path], Duration::from_millis(10));
/// std::fs::read(&path).unwrap();
///
/// std::fs::write(&path, "anna:$2y$05$…").unwrap();
/// assert_eq!(watch.changed().await, [path]);
/// # }
/// ```
#[derive(Debug)]
pub struct Watch {
    files: Vec<File>,
    interval: Duration,
}

#[derive(Clone, Debug)]
struct File {
    path: PathBuf,
    /// As it was when somebody was last told of it
    told: Option<Stamp>,
    /// As it was at the last look
    seen: Option<Stamp>,
}

/// What of a file differs when it was written or replaced; a missing file has none
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Watch {
    /// Notes how `paths` look now; `interval` is the time between two looks
    ///
    /// A path may be missing, or lead through symbolic links.
    pub fn new(paths: impl IntoIterator<Item = impl Into<PathBuf>>, interval: Duration) -> Self {
        let files = paths.into_iter().map(|path| {
            let path = path.into();
            let now = stamp(&path);
            File {
                path,
                told: now,
                seen: now,
            }
        });
        Self {
            files: files.collect(),
            interval,
        }
    }

    /// Waits until files have changed, and stayed as they are from one look to the next
    ///
    /// Whoever writes slowly, or one file after the other, is waited for. Never ready while
    /// nothing changes; when it is dropped before, nothing is lost.
    pub async fn changed(&mut self) -> Vec<PathBuf> {
        loop {
            tokio::time::sleep(self.interval).await;
            let paths: Vec<_> = self.files.iter().map(|file| file.path.clone()).collect();
            // A look takes long when the server of a network folder does not answer.
            let look = || paths.into_iter().map(|path| stamp(&path)).collect();
            let Ok(now) = tokio::task::spawn_blocking(look).await else {
                continue;
            };
            let changed = self.look(now);
            if !changed.is_empty() {
                return changed;
            }
        }
    }

    /// Compares; says what has changed once nothing changes any more
    fn look(&mut self, now: Vec<Option<Stamp>>) -> Vec<PathBuf> {
        let mut settled = true;
        for (file, now) in self.files.iter_mut().zip(now) {
            settled &= file.seen == now;
            file.seen = now;
        }
        if !settled {
            return Vec::new();
        }
        let changed = self.files.iter_mut().filter(|file| file.told != file.seen);
        changed
            .map(|file| {
                file.told = file.seen;
                file.path.clone()
            })
            .collect()
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some(Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    fn look(watch: &mut Watch) -> Vec<PathBuf> {
        let now = watch.files.iter().map(|file| stamp(&file.path)).collect();
        watch.look(now)
    }

    fn watch(paths: &[&PathBuf]) -> Watch {
        Watch::new(paths.iter().copied(), Duration::from_millis(1))
    }

    #[test]
    fn a_change_is_told_once_when_it_has_settled() {
        let folder = TempDir::new().unwrap();
        let (first, second) = (folder.path().join("first"), folder.path().join("second"));
        fs::write(&first, "1").unwrap();
        fs::write(&second, "2").unwrap();
        let mut watch = watch(&[&first, &second]);
        assert!(look(&mut watch).is_empty());

        fs::write(&first, "one").unwrap();
        assert!(look(&mut watch).is_empty());
        // The other one is still to come: they are told together.
        fs::write(&second, "two, and more").unwrap();
        assert!(look(&mut watch).is_empty());
        assert_eq!(look(&mut watch), [first, second]);
        assert!(look(&mut watch).is_empty());
    }

    #[test]
    fn files_come_and_go() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("file");
        let only = std::slice::from_ref(&path);
        let mut watch = watch(&[&path]);
        assert!(look(&mut watch).is_empty());
        fs::write(&path, "").unwrap();
        look(&mut watch);
        assert_eq!(look(&mut watch), only);
        fs::remove_file(&path).unwrap();
        look(&mut watch);
        assert_eq!(look(&mut watch), only);
        // What comes back before anybody looks twice was never away.
        fs::write(&path, "").unwrap();
        look(&mut watch);
        fs::remove_file(&path).unwrap();
        look(&mut watch);
        assert!(look(&mut watch).is_empty());
    }

    #[test]
    fn a_link_that_leads_elsewhere_is_a_change() {
        let folder = TempDir::new().unwrap();
        let path = |name: &str| folder.path().join(name);
        for version in ["one", "two"] {
            fs::create_dir(path(version)).unwrap();
            fs::write(path(version).join("tls.crt"), "same size").unwrap();
        }
        // As Kubernetes mounts a secret: the file by a link through a link to the folder.
        symlink("one", path("data")).unwrap();
        symlink("data/tls.crt", path("tls.crt")).unwrap();
        let mut watch = watch(&[&path("tls.crt")]);
        symlink("two", path("new")).unwrap();
        fs::rename(path("new"), path("data")).unwrap();
        look(&mut watch);
        assert_eq!(look(&mut watch), [path("tls.crt")]);
    }

    #[tokio::test]
    async fn waiting_ends_with_a_change() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("file");
        let mut watch = watch(&[&path]);
        let waited = tokio::time::timeout(Duration::from_millis(50), watch.changed()).await;
        assert!(waited.is_err());
        fs::write(&path, "").unwrap();
        let waited = tokio::time::timeout(Duration::from_secs(30), watch.changed()).await;
        assert_eq!(waited.unwrap(), [path]);
    }
}
