//! Servers that a program starts, looks at from outside, and stops

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;

/// How long a server may take to listen
const PATIENCE: Duration = Duration::from_secs(20);

/// A server, stopped when this goes
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// `<host>:<port>`
    pub address: String,
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
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("{command:?}: {error}"))?;
        let mut server = Self {
            child,
            address: address.to_owned(),
        };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            if server.child.try_wait()?.is_some() || Instant::now() > deadline {
                return Err(format!("{command:?} does not listen at {address}").into());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// Resident memory in bytes
    ///
    /// # Errors
    ///
    /// A process that has ended.
    pub fn resident(&self) -> Result<u64> {
        self.status("VmRSS:")
    }

    /// The most that was ever resident, as the kernel knows it, in bytes
    ///
    /// # Errors
    ///
    /// A process that has ended.
    pub fn resident_peak(&self) -> Result<u64> {
        self.status("VmHWM:")
    }

    /// The processor time that it has used until now
    ///
    /// # Errors
    ///
    /// A process that has ended.
    pub fn cpu(&self) -> Result<Duration> {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
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

    /// The most that was resident, looked at every ten milliseconds, while `work` ran
    ///
    /// # Errors
    ///
    /// Those of `work`.
    pub fn peak_while(&self, work: impl FnOnce() -> Result<()>) -> Result<u64> {
        let done = AtomicBool::new(false);
        let peak = AtomicU64::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    peak.fetch_max(self.resident().unwrap_or(0), Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(10));
                }
            });
            let result = work();
            done.store(true, Ordering::Relaxed);
            result
        })?;
        Ok(peak.load(Ordering::Relaxed))
    }

    /// A number of kibibytes in the process's status, as bytes
    fn status(&self, field: &str) -> Result<u64> {
        let path = PathBuf::from(format!("/proc/{}/status", self.child.id()));
        let text = fs::read_to_string(path)?;
        let kibibytes: u64 = text
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .and_then(|rest| rest.split_whitespace().next())
            .ok_or_else(|| format!("no {field} in the status"))?
            .parse()?;
        Ok(kibibytes * 1024)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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
        .chain([Path::new("/usr/sbin").to_owned()])
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
