//! What a running registry takes: memory under load, and time from start to first answer
//!
//! `cargo build --release && cargo run --release -p registry-benches --bin footprint`
//!
//! Starts the `registry` that lies beside this program, on a free port and temporary folders, and
//! prints two tables: resident memory while four clients push and then pull a gibibyte each, and
//! the time from start to the first answers with 100,000 repositories on disk.

use std::error::Error;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use registry_core::{Algorithm, Digest, Hasher};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const CLIENTS: u64 = 4;
const BLOB: u64 = 1 << 30;
const PIECE: usize = 1 << 20;
const REPOSITORIES: u32 = 100_000;
/// Odd, so that there is a median
const STARTS: usize = 9;

fn main() -> Result<()> {
    let registry = std::env::current_exe()?.with_file_name("registry");
    if !registry.is_file() {
        return Err(format!(
            "there is no {}; build it first: cargo build --release",
            registry.display()
        )
        .into());
    }
    if cfg!(debug_assertions) {
        println!("(built without optimization: these numbers say little)");
    }
    memory(&registry)?;
    start(&registry)
}

/// Resident memory while blobs go in and out
fn memory(registry: &Path) -> Result<()> {
    let root = tempfile::tempdir()?;
    let server = Server::start(registry, root.path())?;
    let digests: Vec<Digest> = (0..CLIENTS).map(digest_of).collect();

    println!("resident memory, {CLIENTS} clients with 1 GiB each");
    println!(
        "{:<24}{:>10}{:>12}{:>12}",
        "", "seconds", "MiB/s", "peak MiB"
    );
    let row = |what: &str, started: Instant, peak: u64| {
        let seconds = started.elapsed().as_secs_f64();
        let rate = (CLIENTS * BLOB) as f64 / f64::from(1 << 20) / seconds;
        println!(
            "{what:<24}{seconds:>10.2}{rate:>12.0}{:>12.1}",
            mebibytes(peak)
        );
    };
    let idle = server.resident()?;
    println!(
        "{:<24}{:>10}{:>12}{:>12.1}",
        "idle",
        "",
        "",
        mebibytes(idle)
    );
    let started = Instant::now();
    let peak = server.peak_while(|| {
        at_once(|client| push(&server.address, client, &digests[client as usize]))
    })?;
    row("push", started, peak);
    let started = Instant::now();
    let peak = server.peak_while(|| {
        at_once(|client| pull(&server.address, client, &digests[client as usize]))
    })?;
    row("pull", started, peak);
    println!(
        "{:<24}{:>10}{:>12}{:>12.1}",
        "whole life (kernel)",
        "",
        "",
        mebibytes(server.status("VmHWM:")?)
    );
    Ok(())
}

/// Time from start to the first answers of a large store
fn start(registry: &Path) -> Result<()> {
    let root = tempfile::tempdir()?;
    println!("\nmaking {REPOSITORIES} repositories");
    make_repositories(root.path())?;

    let paths = [
        "/v2/",
        "/v2/group-50/name-50500/manifests/latest",
        "/v2/group-50/name-50500/tags/list",
        "/v2/_catalog?n=100",
    ];
    let mut times = vec![Vec::new(); paths.len()];
    for _ in 0..STARTS {
        for (path, times) in paths.iter().zip(&mut times) {
            // Each a start of its own: from the spawn of the process to the end of the answer.
            let started = Instant::now();
            let server = Server::start(registry, root.path())?;
            let status = get(&server.address, path, |_| {})?;
            times.push(started.elapsed());
            if status != 200 {
                return Err(format!("GET {path} got {status}").into());
            }
        }
    }
    println!("start to first answer, median and worst of {STARTS}");
    for (path, times) in paths.iter().zip(&mut times) {
        times.sort();
        println!(
            "{path:<46}{:>8.1} ms{:>8.1} ms",
            times[STARTS / 2].as_secs_f64() * 1e3,
            times[STARTS - 1].as_secs_f64() * 1e3
        );
    }
    Ok(())
}

/// Repositories with one tagged manifest each, in the layout that distribution writes
fn make_repositories(root: &Path) -> Result<()> {
    let top = root.join("docker/registry/v2");
    let manifest = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
    let digest = Digest::sha256(manifest);
    let hex = digest.hex();
    let blob = top.join("blobs/sha256").join(&hex[..2]).join(&hex);
    fs::create_dir_all(&blob)?;
    fs::write(blob.join("data"), manifest)?;
    for number in 0..REPOSITORIES {
        let repository = top.join(format!(
            "repositories/group-{}/name-{number}",
            number / 1_000
        ));
        for folder in [
            repository.join("_manifests/revisions/sha256").join(&hex),
            repository.join("_manifests/tags/latest/current"),
        ] {
            fs::create_dir_all(&folder)?;
            fs::write(folder.join("link"), digest.to_string())?;
        }
    }
    Ok(())
}

/// A registry that is stopped when this goes
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(registry: &Path, root: &Path) -> Result<Self> {
        let mut child = Command::new(registry)
            .args(["serve", "--listen", "127.0.0.1:0", "--root"])
            .arg(root)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
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
            return Err("the registry ended without saying where it listens".into());
        }
        // The access log: read on, so that the pipe never fills.
        thread::spawn(move || lines.for_each(drop));
        Ok(server)
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

    fn resident(&self) -> Result<u64> {
        self.status("VmRSS:")
    }

    /// The most that was resident, looked at every ten milliseconds, while `work` ran
    fn peak_while(&self, work: impl FnOnce() -> Result<()>) -> Result<u64> {
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
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Runs `work` for each client in a thread of its own
fn at_once(work: impl Fn(u64) -> Result<()> + Sync) -> Result<()> {
    let work = &work;
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| scope.spawn(move || work(client)))
            .collect();
        for client in clients {
            client.join().map_err(|_| "a client panicked")??;
        }
        Ok(())
    })
}

/// The pieces of a client's blob: each differs from every other in its first bytes
fn each_piece(client: u64, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut piece = vec![client as u8; PIECE];
    for number in 0..BLOB / PIECE as u64 {
        piece[..8].copy_from_slice(&number.to_le_bytes());
        each(&piece)?;
    }
    Ok(())
}

fn digest_of(client: u64) -> Digest {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let hashed = each_piece(client, |piece| {
        hasher.update(piece);
        Ok(())
    });
    debug_assert!(hashed.is_ok());
    hasher.finish()
}

/// As docker pushes: POST, PATCH with the bytes, PUT with the digest
fn push(address: &str, client: u64, digest: &Digest) -> Result<()> {
    let mut connection = Connection::open(address)?;
    let path = format!("/v2/bench/client-{client}/blobs/uploads/");
    connection.request("POST", &path, "Content-Length: 0\r\n")?;
    let location = connection.answer(202, |_| {})?;
    connection.request("PATCH", &location, "Transfer-Encoding: chunked\r\n")?;
    each_piece(client, |piece| {
        write!(connection.0.get_mut(), "{:x}\r\n", piece.len())?;
        connection.0.get_mut().write_all(piece)?;
        connection.0.get_mut().write_all(b"\r\n")
    })?;
    connection.0.get_mut().write_all(b"0\r\n\r\n")?;
    let location = connection.answer(202, |_| {})?;
    let separator = if location.contains('?') { '&' } else { '?' };
    let target = format!("{location}{separator}digest={digest}");
    connection.request("PUT", &target, "Content-Length: 0\r\n")?;
    connection.answer(201, |_| {})?;
    Ok(())
}

fn pull(address: &str, client: u64, digest: &Digest) -> Result<()> {
    let mut length = 0;
    let path = format!("/v2/bench/client-{client}/blobs/{digest}");
    let status = get(address, &path, |piece| length += piece.len() as u64)?;
    if status != 200 || length != BLOB {
        return Err(format!("GET {path} got {status} with {length} bytes").into());
    }
    Ok(())
}

fn get(address: &str, path: &str, each: impl FnMut(&[u8])) -> Result<u16> {
    let mut connection = Connection::open(address)?;
    connection.request("GET", path, "Connection: close\r\n")?;
    Ok(connection.read(each)?.0)
}

/// A connection to the registry, with no more HTTP than these requests need
struct Connection(BufReader<TcpStream>);

impl Connection {
    fn open(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::with_capacity(256 * 1024, stream)))
    }

    fn request(&mut self, method: &str, path: &str, headers: &str) -> io::Result<()> {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: registry\r\n{headers}\r\n");
        self.0.get_mut().write_all(head.as_bytes())
    }

    /// The path of `Location` in an answer of that status
    fn answer(&mut self, expected: u16, each: impl FnMut(&[u8])) -> Result<String> {
        let (status, location) = self.read(each)?;
        if status != expected {
            return Err(format!("expected {expected}, got {status}").into());
        }
        let path = match location.split_once("://") {
            Some((_, rest)) => &rest[rest.find('/').unwrap_or(rest.len())..],
            None => &location,
        };
        Ok(path.to_owned())
    }

    fn read(&mut self, mut each: impl FnMut(&[u8])) -> Result<(u16, String)> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        let status = line.split(' ').nth(1).ok_or("no answer")?.parse()?;
        let (mut location, mut length) = (String::new(), None);
        loop {
            line.clear();
            self.0.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            if name.eq_ignore_ascii_case("location") {
                location = value.trim().to_owned();
            } else if name.eq_ignore_ascii_case("content-length") {
                length = Some(value.trim().parse()?);
            }
        }
        // Without a length the answer ends with the connection; such are asked with `close`.
        let mut rest = length.unwrap_or(if status == 200 { u64::MAX } else { 0 });
        while rest > 0 {
            let piece = self.0.fill_buf()?;
            let count = piece.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
            if count == 0 {
                break;
            }
            each(&piece[..count]);
            self.0.consume(count);
            rest -= count as u64;
        }
        Ok((status, location))
    }
}
