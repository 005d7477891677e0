//! What a running registry takes: memory under load, and time from start to first answer
//!
//! `cargo build --release && cargo run --release -p registry-benches --bin footprint`
//!
//! Starts the `registry` that lies beside this program, on a free port and temporary folders, and
//! prints two tables: resident memory while four clients push and then pull a gibibyte each, and
//! the time from start to the first answers with 100,000 repositories on disk.

use std::io::{self, Write};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Instant;

use registry_benches::http::{Connection, with_query};
use registry_benches::process::{Server, ours};
use registry_benches::stock::{make_repositories, name};
use registry_benches::{Result, mebibytes};
use registry_core::{Algorithm, Digest, Hasher};

const CLIENTS: u64 = 4;
const BLOB: u64 = 1 << 30;
const PIECE: usize = 1 << 20;
const REPOSITORIES: u32 = 100_000;
/// Odd, so that there is a median
const STARTS: usize = 9;

fn main() -> Result<()> {
    let registry = ours("registry")?;
    memory(&registry)?;
    start(&registry)
}

/// Resident memory while blobs go in and out
fn memory(registry: &Path) -> Result<()> {
    let root = tempfile::tempdir()?;
    let server = serve(registry, root.path())?;
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
    let (peak, _) = server.peak_while(|| {
        at_once(|client| push(&server.address, client, &digests[client as usize]))
    })?;
    row("push", started, peak);
    let started = Instant::now();
    let (peak, _) = server.peak_while(|| {
        at_once(|client| pull(&server.address, client, &digests[client as usize]))
    })?;
    row("pull", started, peak);
    println!(
        "{:<24}{:>10}{:>12}{:>12.1}",
        "whole life (kernel)",
        "",
        "",
        mebibytes(server.resident_peak()?)
    );
    Ok(())
}

/// Time from start to the first answers of a large store
fn start(registry: &Path) -> Result<()> {
    let root = tempfile::tempdir()?;
    println!("\nmaking {REPOSITORIES} repositories");
    make_repositories(root.path(), REPOSITORIES)?;

    let some = name(REPOSITORIES / 2);
    let paths = [
        "/v2/",
        &format!("/v2/{some}/manifests/latest"),
        &format!("/v2/{some}/tags/list"),
        "/v2/_catalog?n=100",
    ];
    let mut times = vec![Vec::new(); paths.len()];
    for _ in 0..STARTS {
        for (path, times) in paths.iter().zip(&mut times) {
            // Each a start of its own: from the spawn of the process to the end of the answer.
            let started = Instant::now();
            let server = serve(registry, root.path())?;
            let mut connection = Connection::open(&server.address)?;
            connection.request("GET", path, "")?;
            connection.expect(200)?;
            times.push(started.elapsed());
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

fn serve(registry: &Path, root: &Path) -> Result<Server> {
    let mut command = Command::new(registry);
    Server::announced(
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--root"])
            .arg(root),
    )
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
    let started = connection.expect(202)?;
    connection.request("PATCH", &started.location, "Transfer-Encoding: chunked\r\n")?;
    each_piece(client, |piece| {
        let body = connection.body();
        write!(body, "{:x}\r\n", piece.len())?;
        body.write_all(piece)?;
        body.write_all(b"\r\n")
    })?;
    connection.body().write_all(b"0\r\n\r\n")?;
    let patched = connection.expect(202)?;
    let target = with_query(&patched.location, &format!("digest={digest}"));
    connection.request("PUT", &target, "Content-Length: 0\r\n")?;
    connection.expect(201)?;
    Ok(())
}

fn pull(address: &str, client: u64, digest: &Digest) -> Result<()> {
    let path = format!("/v2/bench/client-{client}/blobs/{digest}");
    let mut connection = Connection::open(address)?;
    connection.request("GET", &path, "")?;
    let answer = connection.expect(200)?;
    match answer.bytes {
        BLOB => Ok(()),
        length => Err(format!("GET {path} got {length} bytes").into()),
    }
}
