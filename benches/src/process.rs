//! Servers that a program starts, looks at from outside, and stops

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::Result;
use crate::http::{Connection, Tls};

/// How long a server may take to listen
const PATIENCE: Duration = Duration::from_secs(20);

/// How long it may take to end when it is asked to
const LEAVE: Duration = Duration::from_secs(5);

/// A server, stopped when this goes
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// `<host>:<port>`
    pub address: String,
    tls: Tls,
}

impl Server {
    /// Starts one of our binaries, which say where they listen
    ///
    /// # Errors
    ///
    /// A program that cannot be started, or ends without listening.
    pub fn announced(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{command:?}: {error}"))?;
        let stdout = child.stdout.take();
        // From here on it is stopped, whatever happens.
        let mut server = Self {
            child,
            address: String::new(),
            tls: None,
        };
        let mut lines = BufReader::new(stdout.ok_or("standard output is not a pipe")?).lines();
        for line in lines.by_ref() {
            if let Some((_, rest)) = line?.split_once("listening on http://") {
                let address = rest.split_whitespace().next().unwrap_or_default();
                server.address = address.trim_end_matches('/').to_owned();
                break;
            }
        }
        if server.address.is_empty() {
            return Err(format!("{command:?} ended without saying where it listens").into());
        }
        // The access log: read on, so that the pipe never fills.
        thread::spawn(move || lines.for_each(drop));
        Ok(server)
    }

    /// Starts another server, which was told to listen at `address`
    ///
    /// # Errors
    ///
    /// A program that cannot be started, or does not listen.
    pub fn at(address: &str, command: &mut Command) -> Result<Self> {
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Self::listening(address, command)
    }

    /// Starts a server, which was told to listen at `address` and prints to `log`
    ///
    /// # Errors
    ///
    /// A program that cannot be started, or does not listen; the error says what it printed first.
    pub fn logging(address: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        command.stdout(file.try_clone()?).stderr(file);
        Self::listening(address, command).map_err(|error| {
            let text = fs::read_to_string(log).unwrap_or_default();
            let first: Vec<&str> = text.lines().take(3).collect();
            format!("{error}; it says: {}", first.join(" ")).into()
        })
    }

    fn listening(address: &str, command: &mut Command) -> Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .spawn()
            .map_err(|error| format!("{command:?}: {error}"))?;
        let mut server = Self {
            child,
            address: address.to_owned(),
            tls: None,
        };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            if server.child.try_wait()?.is_some() || Instant::now() > deadline {
                return Err(format!("{command:?} does not listen at {address}").into());
            }
            // Short: how long a server takes to start is measured too.
            thread::sleep(Duration::from_micros(500));
        }
        Ok(server)
    }

    /// Connections are made with TLS from now on
    #[must_use]
    pub fn with_tls(mut self, tls: Tls) -> Self {
        self.tls = tls;
        self
    }

    /// A new connection
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn connect(&self) -> Result<Connection> {
        Connection::open_over(&self.address, &self.tls)
    }

    /// Kills it, as a power cut would, and waits until it is gone
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Resident memory in bytes, of the process and its children
    ///
    /// # Errors
    ///
    /// A process that has ended.
    pub fn resident(&self) -> Result<u64> {
        self.status("VmRSS:")
    }

    /// As [`resident`](Self::resident), without the files that are in the page cache anyway
    ///
    /// # Errors
    ///
    /// A process that has ended.
    pub fn anonymous(&self) -> Result<u64> {
        self.status("RssAnon:")
    }

    /// The most that was ever resident, as the kernel knows it, in bytes
    ///
    /// # Errors
    ///
    /// A process that has ended.
    pub fn resident_peak(&self) -> Result<u64> {
        self.status("VmHWM:")
    }

    /// The processor time that it and its children have used until now
    ///
    /// # Errors
    ///
    /// A process that has ended.
    pub fn cpu(&self) -> Result<Duration> {
        let processes = self.tree().into_iter();
        processes.map(|process| cpu_of(&process.to_string())).sum()
    }

    /// The process, and what its main thread has started
    fn tree(&self) -> Vec<u32> {
        let mut tree = vec![self.child.id()];
        let mut next = 0;
        while let Some(process) = tree.get(next) {
            let path = format!("/proc/{process}/task/{process}/children");
            let children = fs::read_to_string(path).unwrap_or_default();
            tree.extend(
                children
                    .split_whitespace()
                    .filter_map(|id| id.parse::<u32>().ok()),
            );
            next += 1;
        }
        tree
    }

    /// The most that was resident, and the most of it that was anonymous, looked at every ten
    /// milliseconds, while `work` ran
    ///
    /// # Errors
    ///
    /// Those of `work`.
    pub fn peak_while(&self, work: impl FnOnce() -> Result<()>) -> Result<(u64, u64)> {
        let done = AtomicBool::new(false);
        let peaks = (AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let (resident, anonymous) = (self.resident(), self.anonymous());
                    peaks.0.fetch_max(resident.unwrap_or(0), Ordering::Relaxed);
                    peaks.1.fetch_max(anonymous.unwrap_or(0), Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(10));
                }
            });
            let result = work();
            done.store(true, Ordering::Relaxed);
            result
        })?;
        Ok((peaks.0.into_inner(), peaks.1.into_inner()))
    }

    /// A number of kibibytes in the status of each process, as bytes together
    fn status(&self, field: &str) -> Result<u64> {
        let mut kibibytes = 0;
        for process in self.tree() {
            let text = fs::read_to_string(format!("/proc/{process}/status"))?;
            kibibytes += text
                .lines()
                .find_map(|line| line.strip_prefix(field))
                .and_then(|rest| rest.split_whitespace().next())
                .ok_or_else(|| format!("no {field} in the status"))?
                .parse::<u64>()?;
        }
        Ok(kibibytes * 1024)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Asked first: a master process takes its workers with it only if it is asked.
        let asked = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .map(|process| rustix::process::kill_process(process, Signal::TERM));
        let deadline = Instant::now() + LEAVE;
        while asked == Some(Ok(())) && Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The processor time that this program has used until now
///
/// # Errors
///
/// What the operating system says.
pub fn own_cpu() -> Result<Duration> {
    cpu_of("self")
}

fn cpu_of(process: &str) -> Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name of the program may hold anything but `)` at its end.
    let (_, fields) = text.rsplit_once(')').ok_or("no name in stat")?;
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().unwrap_or_default())
        .sum();
    // The unit of user space is fixed at a hundredth of a second on Linux.
    Ok(Duration::from_millis(ticks * 10))
}

/// One of our binaries, which lies beside the program that asks
///
/// # Errors
///
/// If it was not built.
pub fn ours(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    if !path.is_file() {
        let path = path.display();
        return Err(format!("there is no {path}; build it first: cargo build --release").into());
    }
    if cfg!(debug_assertions) {
        println!("(built without optimization: these numbers say little)");
    }
    Ok(path)
}

/// A program of others', if it is installed
pub fn theirs(name: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps daemons where the search path of users does not go.
    std::env::split_paths(&folders)
        .chain([PathBuf::from("/usr/sbin")])
        // And cargo where only its own does.
        .chain(std::env::home_dir().map(|home| home.join(".cargo/bin")))
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// An address that nobody listens on at this moment
///
/// # Errors
///
/// What the operating system says.
pub fn free_address() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}
