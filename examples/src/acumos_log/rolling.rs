//! A log file that begins anew each day and never fills the disk

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::archive;
use crate::lines::Missing;

/// How many bytes are gathered before they are written, if more lines wait
const BUFFER: usize = 64 << 10;

/// How often, in seconds, it is looked whether the file still is where it was, and how often a
/// disk that failed is tried again
const CHECK_SECONDS: i64 = 1;

/// Into how many parts the bytes are cut, so that there is always something old to remove
const PARTS: u64 = 8;

/// How much of a log is kept
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// The days that have passed, besides the present one
    pub(super) days: u32,
    /// The bytes of all files of the log
    pub(super) bytes: u64,
    /// How long a file that is over stays as it was
    pub(super) grace: Duration,
}

/// What time it is
pub(super) type Clock = Box<dyn Fn() -> Timestamp + Send>;

/// Tells an operator, apart from the log itself
pub(super) type Complain = Box<dyn FnMut(String) + Send>;

/// The file of a log, `<folder>/<name>.log`, and those that came before
///
/// At midnight UTC, or when the file has its part of the bytes, it is renamed to
/// `<name>.<date>.log.rolled` and, some minutes later, compressed to `<name>.<date>.log.zip`; more
/// than one of a day are numbered, `<name>.<date>.1.log.zip`. None of these names ends in `.log`,
/// so whoever collects `*.log` takes no line twice. The minutes are for collectors that follow a
/// renamed file to its end.
///
/// tracing-appender neither compresses nor counts bytes, and puts the date into the name of the
/// present file; file-rotate and logroller count no bytes of all files, and file-rotate panics
/// when a folder cannot be made.
pub(super) struct RollingFile {
    folder: PathBuf,
    name: &'static str,
    limits: Limits,
    /// The bytes that one file may have
    part: u64,
    clock: Clock,
    complain: Complain,
    missing: Missing,
    reopen: Arc<AtomicBool>,
    archive: Sender<()>,
    open: Option<Open>,
    buffer: Vec<u8>,
    checked: Timestamp,
    /// Whether the operator knows that nothing is written
    broken: bool,
    lost: u64,
}

struct Open {
    file: File,
    inode: u64,
    day: Date,
    bytes: u64,
}

impl RollingFile {
    /// A log in `folder`, which is made if it is missing
    ///
    /// It never fails: what stands in its way is complained of once, and tried again as long as
    /// there are lines.
    pub(super) fn new(
        folder: PathBuf,
        name: &'static str,
        limits: Limits,
        reopen: Arc<AtomicBool>,
        missing: Missing,
    ) -> Self {
        let clock = || Timestamp::try_from(SystemTime::now()).unwrap_or(Timestamp::MAX);
        let complain = |text: String| drop(writeln!(io::stderr(), "{text}"));
        Self::with(
            folder,
            name,
            limits,
            reopen,
            missing,
            Box::new(clock),
            Box::new(complain),
        )
    }

    fn with(
        folder: PathBuf,
        name: &'static str,
        limits: Limits,
        reopen: Arc<AtomicBool>,
        missing: Missing,
        clock: Clock,
        complain: Complain,
    ) -> Self {
        let (archive, wanted) = channel();
        let of = folder.clone();
        // It ends with this log, and at worst in the middle of a file that is compressed anew.
        std::thread::spawn(move || compress_when_wanted(&of, name, limits, &wanted));
        let mut log = Self {
            folder,
            name,
            limits,
            part: (limits.bytes / PARTS).max(1),
            clock,
            complain,
            missing,
            reopen,
            archive,
            open: None,
            buffer: Vec::new(),
            checked: Timestamp::MIN,
            broken: false,
            lost: 0,
        };
        log.ready();
        log.tidy();
        log
    }

    fn path(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.name))
    }

    fn now(&self) -> (Timestamp, Date) {
        let now = (self.clock)();
        (now, day(now))
    }

    /// Whether there is a file for the next line; finds one, or makes one
    fn ready(&mut self) -> bool {
        let (now, today) = self.now();
        if self.reopen.swap(false, Ordering::Relaxed) {
            self.write_out();
            self.open = None;
        }
        // A clock that was set back must not stop the checks.
        let since = now.as_second().abs_diff(self.checked.as_second());
        let check = since >= CHECK_SECONDS.unsigned_abs();
        if check {
            self.checked = now;
            self.look();
        }
        if self.open.is_none() && (check || !self.broken) {
            match self.find() {
                Ok(open) => self.open = Some(open),
                Err(error) => self.fail(&error),
            }
        }
        if self.open.as_ref().is_some_and(|open| open.day < today) {
            self.roll(today);
        }
        self.open.is_some()
    }

    /// Lets go of a file that others renamed or removed, and sees how long it is
    fn look(&mut self) {
        let same = |open: &Open, found: &fs::Metadata| found.ino() == open.inode;
        let found = fs::metadata(self.path());
        match (&mut self.open, found) {
            (Some(open), Ok(found)) if same(open, &found) => {
                // Also a file that logrotate emptied in place.
                open.bytes = found.len() + self.buffer.len() as u64;
            }
            (Some(_), _) => {
                self.write_out();
                self.open = None;
            }
            (None, _) => {}
        }
    }

    fn find(&self) -> io::Result<Open> {
        fs::create_dir_all(&self.folder)?;
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path())?;
        let found = file.metadata()?;
        let (_, today) = self.now();
        let last = found.modified().ok().and_then(|at| at.try_into().ok());
        Ok(Open {
            inode: found.ino(),
            // Of the last line, which may be of a day before this process.
            day: match last {
                Some(last) if found.len() > 0 => day(last).min(today),
                _ => today,
            },
            bytes: found.len(),
            file,
        })
    }

    /// Puts the file aside and begins a new one
    fn roll(&mut self, today: Date) {
        self.write_out();
        let Some(open) = self.open.take() else {
            return;
        };
        // Another process may share the folder, for a while at least when one version replaces
        // another. Where files cannot be locked, no two are expected.
        let _ = open.file.lock();
        // Not a file that the other one began meanwhile.
        let ours = fs::metadata(self.path()).is_ok_and(|found| found.ino() == open.inode);
        let renamed = if ours && open.bytes > 0 {
            archive::put_aside(&self.folder, self.name, open.day, &self.path())
        } else {
            Ok(())
        };
        match renamed.and_then(|()| self.find()) {
            Ok(new) => {
                // Where nothing can be renamed, the same file goes on.
                self.open = Some(Open { day: today, ..new });
                // Unlocked before it is compressed, for a lock says that somebody is at it.
                drop(open);
                self.tidy();
            }
            Err(error) => {
                self.fail(&error);
                self.open = Some(Open { day: today, ..open });
            }
        }
    }

    /// Removes what is too old or too much, and has the rest compressed
    fn tidy(&self) {
        let (_, today) = self.now();
        archive::prune(
            &self.folder,
            self.name,
            today,
            self.limits.days,
            self.archived(),
        );
        let _ = self.archive.send(());
    }

    /// The bytes that all files but the present one may have
    fn archived(&self) -> u64 {
        self.limits.bytes.saturating_sub(self.part)
    }

    /// Writes what was gathered
    fn write_out(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        let mut rest = self.buffer.as_slice();
        let result = match &mut self.open {
            None => Ok(()),
            Some(open) => loop {
                match open.file.write(rest) {
                    Ok(0) if !rest.is_empty() => break Err(io::ErrorKind::WriteZero.into()),
                    Ok(written) => rest = &rest[written..],
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => break Err(error),
                }
                if rest.is_empty() {
                    break Ok(());
                }
            },
        };
        let written = self.buffer.len() - rest.len();
        let whole = self.buffer[..written]
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        if let (Err(_), Some(open)) = (&result, &self.open) {
            // Half a line would spoil the next one.
            if let Ok(found) = open.file.metadata() {
                let torn = (written - whole) as u64;
                let _ = open.file.set_len(found.len().saturating_sub(torn));
            }
        }
        self.lost += count_lines(&self.buffer[whole..]);
        self.buffer.clear();
        match result {
            Ok(()) => {
                if self.open.is_some() {
                    self.recovered();
                }
            }
            Err(error) => {
                self.open = None;
                self.fail(&error);
            }
        }
    }

    /// Says once that nothing is written, and why
    fn fail(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.broken, true) {
            let path = self.path();
            (self.complain)(format!(
                "cannot write the log `{}`: {error}; it is tried again each second, and lines are \
                 lost until then",
                path.display()
            ));
        }
    }

    fn recovered(&mut self) {
        if std::mem::take(&mut self.broken) {
            let (path, lost) = (self.path(), std::mem::take(&mut self.lost));
            (self.complain)(format!(
                "the log `{}` is written again; {lost} lines are missing",
                path.display()
            ));
            if lost > 0 {
                let line = (self.missing)(lost);
                self.gather(line.as_bytes());
            }
        }
    }

    fn gather(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        if let Some(open) = &mut self.open {
            open.bytes += bytes.len() as u64;
        }
    }
}

/// Takes whole lines
impl Write for RollingFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.ready() {
            let part = self.part;
            let full = |open: &Open| open.bytes > 0 && open.bytes + line.len() as u64 > part;
            if self.open.as_ref().is_some_and(full) {
                let (_, today) = self.now();
                self.roll(today);
            }
            self.gather(line);
            if self.buffer.len() >= BUFFER {
                self.write_out();
            }
        } else {
            self.lost += count_lines(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        // The second time for the line that tells of a recovery.
        self.write_out();
        self.write_out();
        Ok(())
    }
}

impl Drop for RollingFile {
    fn drop(&mut self) {
        let _ = self.flush();
    }
}

impl fmt::Debug for RollingFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RollingFile")
            .field("path", &self.path())
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Compresses the files that are over, each a while after its last line
fn compress_when_wanted(folder: &Path, name: &str, limits: Limits, wanted: &Receiver<()>) {
    while wanted.recv().is_ok() {
        loop {
            let (waiting, error) = archive::compress(folder, name, limits.grace);
            if let Some(error) = error {
                // Tried again at the next roll; the file stays, and counts.
                let _ = writeln!(
                    io::stderr(),
                    "cannot compress the old logs in `{}`: {error}",
                    folder.display()
                );
                break;
            }
            if !waiting {
                break;
            }
            match wanted.recv_timeout(limits.grace) {
                Ok(()) | Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}

fn day(at: Timestamp) -> Date {
    at.to_zoned(TimeZone::UTC).date()
}

fn count_lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tempfile::TempDir;

    use super::*;

    const NAME: &str = "docker-proxy";

    /// A log whose time and whose operator the test has in hand
    struct Bench {
        logs: TempDir,
        now: Arc<Mutex<Timestamp>>,
        complaints: Arc<Mutex<Vec<String>>>,
        reopen: Arc<AtomicBool>,
        limits: Limits,
    }

    impl Bench {
        fn new() -> Self {
            let logs = tempfile::tempdir().unwrap();
            Self {
                logs,
                now: Arc::new(Mutex::new(Timestamp::now())),
                complaints: Arc::default(),
                reopen: Arc::default(),
                limits: Limits {
                    days: 30,
                    bytes: 1 << 30,
                    // Longer than the test, so that files stay as they were rolled.
                    grace: Duration::from_secs(3600),
                },
            }
        }

        fn log(&self) -> RollingFile {
            let (now, complaints) = (self.now.clone(), self.complaints.clone());
            RollingFile::with(
                self.folder(),
                NAME,
                self.limits,
                self.reopen.clone(),
                Box::new(|count| format!("{count} missing\n")),
                Box::new(move || *now.lock().unwrap()),
                Box::new(move |text| complaints.lock().unwrap().push(text)),
            )
        }

        fn folder(&self) -> PathBuf {
            self.logs.path().join(NAME)
        }

        fn set(&self, now: &str) {
            *self.now.lock().unwrap() = now.parse().unwrap();
        }

        fn pass(&self, time: Duration) {
            let mut now = self.now.lock().unwrap();
            *now = now.checked_add(time).unwrap();
        }

        fn today(&self) -> Date {
            day(*self.now.lock().unwrap())
        }

        fn read(&self, file: &str) -> String {
            fs::read_to_string(self.folder().join(file)).unwrap()
        }

        fn files(&self) -> Vec<String> {
            let mut files: Vec<String> = fs::read_dir(self.folder())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            files.sort();
            files
        }

        fn complaints(&self) -> Vec<String> {
            self.complaints.lock().unwrap().clone()
        }
    }

    fn write(log: &mut RollingFile, line: &str) {
        log.write_all(line.as_bytes()).unwrap();
        log.flush().unwrap();
    }

    #[test]
    fn at_midnight_the_file_begins_anew() {
        let bench = Bench::new();
        bench.set("2126-11-21T23:59:59.999Z");
        let mut log = bench.log();
        write(&mut log, "before\n");
        // Not yet written when the day ends: it stays with its day.
        log.write_all(b"last\n").unwrap();
        bench.set("2126-11-22T00:00:00Z");
        write(&mut log, "after\n");
        bench.set("2126-11-22T23:00:00Z");
        write(&mut log, "later\n");
        // A clock that is set back does not bring the old day back.
        bench.set("2126-11-21T12:00:00Z");
        write(&mut log, "back\n");
        assert_eq!(
            bench.files(),
            ["docker-proxy.2126-11-21.log.rolled", "docker-proxy.log"]
        );
        assert_eq!(
            bench.read("docker-proxy.2126-11-21.log.rolled"),
            "before\nlast\n"
        );
        assert_eq!(bench.read("docker-proxy.log"), "after\nlater\nback\n");
        assert!(bench.complaints().is_empty());
    }

    #[test]
    fn a_file_of_a_day_before_the_process_is_put_aside() {
        let bench = Bench::new();
        fs::create_dir(bench.folder()).unwrap();
        fs::write(bench.folder().join("docker-proxy.log"), "old\n").unwrap();
        let written = bench.today();
        bench.pass(Duration::from_secs(3 * 24 * 3600));
        let mut log = bench.log();
        write(&mut log, "new\n");
        assert_eq!(bench.read("docker-proxy.log"), "new\n");
        let rolled = format!("docker-proxy.{written}.log.rolled");
        assert_eq!(bench.read(&rolled), "old\n");

        // And one of today goes on.
        bench.set(&Timestamp::now().to_string());
        drop(log);
        write(&mut bench.log(), "more\n");
        assert_eq!(bench.read("docker-proxy.log"), "new\nmore\n");
    }

    #[test]
    fn all_files_together_keep_to_the_bytes() {
        let mut bench = Bench::new();
        bench.set("2126-11-21T00:00:00Z");
        bench.limits.bytes = 8 * 100;
        let mut log = bench.log();
        for number in 0..100 {
            write(&mut log, &format!("{number:049}\n"));
            let total: u64 = bench
                .files()
                .iter()
                .map(|file| fs::metadata(bench.folder().join(file)).unwrap().len())
                .sum();
            assert!(total <= bench.limits.bytes, "{total} after {number}");
        }
        let files = bench.files();
        // Two lines each, the youngest of 100.
        assert_eq!(files.len(), 8, "{files:?}");
        for number in 42..49 {
            let rolled = format!("docker-proxy.2126-11-21.{number}.log.rolled");
            assert_eq!(bench.read(&rolled).lines().count(), 2, "{files:?}");
        }
        assert!(bench.read("docker-proxy.log").ends_with("99\n"));
    }

    #[test]
    fn two_processes_lose_no_line_to_each_other() {
        // At the time it is: a file that seems to be a century old when the second process opens
        // it would be removed.
        let mut bench = Bench::new();
        bench.limits.bytes = PARTS << 30;
        let lines = 2000;
        let threads: Vec<_> = (0..2)
            .map(|process| {
                let mut log = bench.log();
                // Small parts of much, so that it is often rolled and nothing is removed.
                log.part = 200;
                std::thread::spawn(move || {
                    for line in 0..lines {
                        write(&mut log, &format!("{process} {line}\n"));
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        let files = bench.files();
        assert!(files.len() > 50, "{}", files.len());
        let total: usize = files
            .iter()
            .map(|file| bench.read(file).lines().count())
            .sum();
        assert_eq!(total, 2 * lines);
        assert!(bench.complaints().is_empty());
    }

    #[test]
    fn a_vanished_or_renamed_file_is_made_again() {
        let bench = Bench::new();
        let mut log = bench.log();
        write(&mut log, "first\n");
        fs::remove_dir_all(bench.folder()).unwrap();
        bench.pass(Duration::from_secs(1));
        write(&mut log, "second\n");
        assert_eq!(bench.read("docker-proxy.log"), "second\n");

        let path = bench.folder().join("docker-proxy.log");
        fs::rename(&path, bench.folder().join("elsewhere")).unwrap();
        // Told by SIGHUP, at once.
        bench.reopen.store(true, Ordering::Relaxed);
        write(&mut log, "third\n");
        assert_eq!(bench.read("docker-proxy.log"), "third\n");
        assert_eq!(bench.read("elsewhere"), "second\n");
        assert!(bench.complaints().is_empty());
    }

    #[test]
    fn what_stands_in_the_way_is_said_once_and_what_is_lost_is_counted() {
        let bench = Bench::new();
        // A file where the folder has to be.
        fs::write(bench.folder(), "").unwrap();
        let mut log = bench.log();
        for _ in 0..3 {
            write(&mut log, "lost\n");
            bench.pass(Duration::from_secs(1));
        }
        fs::remove_file(bench.folder()).unwrap();
        bench.pass(Duration::from_secs(1));
        write(&mut log, "found\n");
        write(&mut log, "more\n");
        assert_eq!(bench.read("docker-proxy.log"), "found\n3 missing\nmore\n");
        let complaints = bench.complaints();
        assert_eq!(complaints.len(), 2, "{complaints:?}");
        assert!(
            complaints[0].starts_with("cannot write the log `"),
            "{complaints:?}"
        );
        assert!(complaints[1].ends_with("is written again; 3 lines are missing"));
    }

    #[test]
    fn a_full_disk_loses_lines_and_not_the_log() {
        let bench = Bench::new();
        let mut log = bench.log();
        write(&mut log, "first\n");
        // The kernel's own full disk.
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let good = std::mem::replace(&mut log.open.as_mut().unwrap().file, full);
        write(&mut log, "lost\n");
        drop(good);
        bench.pass(Duration::from_secs(1));
        write(&mut log, "second\n");
        assert_eq!(bench.read("docker-proxy.log"), "first\nsecond\n1 missing\n");
        assert!(
            bench.complaints()[0].contains("No space left"),
            "{:?}",
            bench.complaints()
        );
        assert_eq!(bench.complaints().len(), 2);
    }

    #[test]
    fn a_file_that_is_over_is_compressed_by_a_thread_of_its_own() {
        let mut bench = Bench::new();
        bench.limits.grace = Duration::ZERO;
        bench.set("2126-11-21T12:00:00Z");
        let mut log = bench.log();
        write(&mut log, "line\n");
        bench.set("2126-11-22T12:00:00Z");
        write(&mut log, "next\n");
        let zip = bench.folder().join("docker-proxy.2126-11-21.log.zip");
        let began = std::time::Instant::now();
        while bench.files().len() > 2 || !zip.exists() {
            assert!(
                began.elapsed() < Duration::from_secs(20),
                "{:?}",
                bench.files()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut zip = zip::ZipArchive::new(File::open(zip).unwrap()).unwrap();
        let text = io::read_to_string(zip.by_index(0).unwrap()).unwrap();
        assert_eq!(text, "line\n");
    }
}
