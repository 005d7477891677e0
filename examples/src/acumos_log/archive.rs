//! The files of a log that are over: their names, their compression, their end

use std::fs::{self, File, TryLockError};
use std::io::{self, BufReader};
use std::path::Path;
use std::time::{Duration, SystemTime};

use jiff::ToSpan as _;
use jiff::civil::Date;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

const WAITING: &str = "log.rolled";
const COMPRESSED: &str = "log.zip";
const PARTIAL: &str = "log.zip.part";

/// Which of the files of a log that are over
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rolled {
    day: Date,
    /// Which of its day, from 0
    number: u32,
}

impl Rolled {
    /// The first of a day that there seems to be no file of
    fn free(folder: &Path, name: &str, day: Date) -> Self {
        let number = files(folder, name)
            .into_iter()
            .filter(|file| file.rolled.day == day)
            .map(|file| file.rolled.number + 1)
            .max();
        Self {
            day,
            number: number.unwrap_or(0),
        }
    }

    fn file(self, name: &str, ending: &str) -> String {
        match self.number {
            0 => format!("{name}.{}.{ending}", self.day),
            number => format!("{name}.{}.{number}.{ending}", self.day),
        }
    }

    /// Reads a name, and how it ends
    fn parse(file: &str, name: &str) -> Option<(Self, &'static str)> {
        let rest = file.strip_prefix(name)?.strip_prefix('.')?;
        let (which, ending) = [WAITING, COMPRESSED, PARTIAL]
            .into_iter()
            .find_map(|ending| Some((rest.strip_suffix(ending)?.strip_suffix('.')?, ending)))?;
        let (day, number) = match which.split_once('.') {
            None => (which, 0),
            Some((day, number)) => (day, number.parse().ok()?),
        };
        let day = day.parse().ok()?;
        let rolled = Self { day, number };
        // Not what only looks like one.
        (rolled.file(name, ending) == file).then_some((rolled, ending))
    }
}

/// Gives a file that is over its name among those of its day, which no other file has
///
/// Who calls this holds the lock of the file, but another process may have a lock of another one, or there may be
/// no locks on this file system: what was put aside before is never replaced.
pub(super) fn put_aside(folder: &Path, name: &str, day: Date, from: &Path) -> io::Result<()> {
    let mut rolled = Rolled::free(folder, name, day);
    loop {
        match rename_new(from, &folder.join(rolled.file(name, WAITING))) {
            // Taken since the folder was read.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                rolled.number = rolled.number.checked_add(1).ok_or(error)?;
            }
            result => return result,
        }
    }
}

/// Renames a file, unless there is one of the new name already
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // NFS and others know no such renaming, and old kernels neither.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => link_new(from, to),
        result => Ok(result?),
    }
}

/// As [`rename_new`], where a rename replaces
fn link_new(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Ok(()) => fs::remove_file(from),
        // FAT and some network file systems have no links: what is left is to look, under the lock.
        Err(error) if has_no_links(&error) => match fs::symlink_metadata(to) {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(_) => fs::rename(from, to),
        },
        Err(error) => Err(error),
    }
}

fn has_no_links(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(
        errno,
        Some(Errno::PERM | Errno::NOSYS | Errno::NOTSUP | Errno::MLINK)
    )
}

#[derive(Debug)]
struct Found {
    rolled: Rolled,
    ending: &'static str,
    bytes: u64,
    modified: SystemTime,
}

/// All files of a log that are over, oldest first; none if the folder cannot be read
fn files(folder: &Path, name: &str) -> Vec<Found> {
    let mut files: Vec<Found> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let (rolled, ending) = Rolled::parse(entry.file_name().to_str()?, name)?;
            let found = entry.metadata().ok()?;
            Some(Found {
                rolled,
                ending,
                bytes: found.len(),
                modified: found.modified().ok()?,
            })
        })
        .collect();
    files.sort_by_key(|file| file.rolled);
    files
}

/// Removes what is more than so many days old, and the oldest of what is more than so many bytes
pub(super) fn prune(folder: &Path, name: &str, today: Date, days: u32, bytes: u64) {
    let oldest = today
        .checked_sub(i64::from(days).min(3_000_000).days())
        .unwrap_or(Date::MIN);
    let mut files = files(folder, name);
    let mut total: u64 = files.iter().map(|file| file.bytes).sum();
    files.retain(|file| {
        let over = file.rolled.day < oldest || total > bytes;
        if over {
            // One that cannot be removed stays in the way until it can.
            let _ = fs::remove_file(folder.join(file.rolled.file(name, file.ending)));
            total -= file.bytes;
        }
        !over
    });
}

/// Compresses the files whose last line is old enough, and says whether there are others
///
/// A file that was being compressed when a process ended is compressed again.
pub(super) fn compress(folder: &Path, name: &str, grace: Duration) -> (bool, Option<io::Error>) {
    let mut younger = false;
    for file in files(folder, name) {
        if file.ending != WAITING {
            continue;
        }
        let age = SystemTime::now().duration_since(file.modified);
        // One from the future, by a clock that was set back, is not waited for.
        if age.is_ok_and(|age| age < grace) {
            younger = true;
        } else if let Err(error) = compress_one(folder, name, file.rolled) {
            return (younger, Some(error));
        }
    }
    (younger, None)
}

fn compress_one(folder: &Path, name: &str, rolled: Rolled) -> io::Result<()> {
    let waiting = folder.join(rolled.file(name, WAITING));
    let partial = folder.join(rolled.file(name, PARTIAL));
    let mut from = BufReader::new(match File::open(&waiting) {
        // Too old or too much meanwhile, or compressed by another process.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file?,
    });
    // Another process may share the folder: then it is at work on this file, or it just was.
    let busy = matches!(from.get_ref().try_lock(), Err(TryLockError::WouldBlock));
    if busy || !waiting.exists() {
        return Ok(());
    }
    let result = (|| {
        let mut to = ZipWriter::new(File::create(&partial)?);
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .large_file(from.get_ref().metadata()?.len() >= u64::from(u32::MAX));
        to.start_file(rolled.file(name, "log"), options)?;
        io::copy(&mut from, &mut to)?;
        to.finish()?.sync_all()?;
        fs::rename(&partial, folder.join(rolled.file(name, COMPRESSED)))?;
        fs::remove_file(&waiting)
    })();
    if result.is_err() {
        let _ = fs::remove_file(&partial);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_the_log_are_its_files() {
        for file in [
            "docker-proxy.2126-11-21.log.zip",
            "docker-proxy.2126-11-21.log.rolled",
            "docker-proxy.2126-11-21.12.log.zip",
            "docker-proxy.2126-11-21.1.log.zip.part",
        ] {
            let (rolled, ending) = Rolled::parse(file, "docker-proxy").unwrap();
            assert_eq!(rolled.file("docker-proxy", ending), file);
        }
        for file in [
            "docker-proxy.log",
            "docker-proxy.2126-11-21.log",
            "docker-proxy.2126-11-21.log.gz",
            "docker-proxy.2126-13-21.log.zip",
            "docker-proxy.2126-11-21.0.log.zip",
            "docker-proxy.2126-11-21.01.log.zip",
            "docker-proxy.2126-11-21.x.log.zip",
            "docker-proxy-access.2126-11-21.log.zip",
            "other.2126-11-21.log.zip",
        ] {
            assert_eq!(Rolled::parse(file, "docker-proxy"), None, "{file}");
        }
    }

    #[test]
    fn what_was_put_aside_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let at = |file: &str| folder.path().join(file);
        let day = "2126-11-21".parse().unwrap();
        fs::write(at("p.2126-11-21.log.zip"), "zip").unwrap();
        fs::write(at("p.2126-11-21.1.log.rolled"), "first").unwrap();
        fs::write(at("p.log"), "second").unwrap();
        put_aside(folder.path(), "p", day, &at("p.log")).unwrap();
        assert_eq!(
            fs::read_to_string(at("p.2126-11-21.2.log.rolled")).unwrap(),
            "second"
        );
        assert!(!at("p.log").exists());

        // Each way to rename, where the name is taken and where it is not.
        for rename in [rename_new, link_new] {
            fs::write(at("p.log"), "third").unwrap();
            let error = rename(&at("p.log"), &at("p.2126-11-21.1.log.rolled")).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(
                fs::read_to_string(at("p.2126-11-21.1.log.rolled")).unwrap(),
                "first"
            );
            assert_eq!(fs::read_to_string(at("p.log")).unwrap(), "third");
            rename(&at("p.log"), &at("new")).unwrap();
            assert_eq!(fs::read_to_string(at("new")).unwrap(), "third");
            assert!(!at("p.log").exists());
            fs::remove_file(at("new")).unwrap();
        }

        // Many at once, without a lock: each has a name of its own.
        let threads: Vec<_> = (0..8)
            .map(|number| {
                let (folder, from) = (folder.path().to_owned(), at(&format!("from-{number}")));
                std::thread::spawn(move || {
                    for _ in 0..20 {
                        fs::write(&from, "x").unwrap();
                        put_aside(&folder, "q", day, &from).unwrap();
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(files(folder.path(), "q").len(), 160);
    }

    #[test]
    fn what_is_too_old_or_too_much_goes_oldest_first() {
        let folder = tempfile::tempdir().unwrap();
        let put = |file: &str| fs::write(folder.path().join(file), [0; 100]).unwrap();
        let left = || {
            let files = files(folder.path(), "p").into_iter();
            files
                .map(|file| file.rolled.file("p", file.ending))
                .collect::<Vec<_>>()
        };
        for file in [
            "p.2126-10-21.log.zip",
            "p.2126-10-22.log.zip",
            "p.2126-11-20.2.log.zip",
            "p.2126-11-20.10.log.zip",
            "p.2126-11-20.log.zip",
            "p.2126-11-21.log.rolled",
            "p.log",
            "mine.txt",
        ] {
            put(file);
        }
        let today = "2126-11-21".parse().unwrap();
        prune(folder.path(), "p", today, 30, 10_000);
        assert_eq!(
            left(),
            [
                "p.2126-10-22.log.zip",
                "p.2126-11-20.log.zip",
                "p.2126-11-20.2.log.zip",
                "p.2126-11-20.10.log.zip",
                "p.2126-11-21.log.rolled"
            ]
        );
        prune(folder.path(), "p", today, u32::MAX, 299);
        assert_eq!(
            left(),
            ["p.2126-11-20.10.log.zip", "p.2126-11-21.log.rolled"]
        );
        prune(folder.path(), "p", today, 0, 10_000);
        assert_eq!(left(), ["p.2126-11-21.log.rolled"]);
        assert!(folder.path().join("p.log").exists() && folder.path().join("mine.txt").exists());
    }

    #[test]
    fn younger_files_wait_and_what_fails_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let waiting = folder.path().join("p.2126-11-20.log.rolled");
        fs::write(&waiting, "x\n").unwrap();
        let (younger, error) = compress(folder.path(), "p", Duration::from_secs(3600));
        assert!(younger && error.is_none());
        assert!(waiting.exists());

        // Something stands where the file has to go.
        let zip = folder.path().join("p.2126-11-20.log.zip");
        fs::create_dir(&zip).unwrap();
        let (_, error) = compress(folder.path(), "p", Duration::ZERO);
        assert!(error.is_some() && waiting.exists());
        assert!(!folder.path().join("p.2126-11-20.log.zip.part").exists());
        fs::remove_dir(&zip).unwrap();
        // Another process is at it.
        let other = File::open(&waiting).unwrap();
        other.lock().unwrap();
        let (_, error) = compress(folder.path(), "p", Duration::ZERO);
        assert!(error.is_none() && waiting.exists() && !zip.exists());
        drop(other);
        let (younger, error) = compress(folder.path(), "p", Duration::ZERO);
        assert!(!younger && error.is_none());
        assert!(zip.is_file() && !waiting.exists());
    }
}
