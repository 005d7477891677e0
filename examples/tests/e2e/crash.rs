//! kill -9 in the middle of pushes: uploads go on, and nothing half-written is served

use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use registry_core::{Digest, MediaType};
use tempfile::TempDir;

use crate::support::check;
use crate::support::http::{self, Streaming, push_blob, push_manifest, start_upload, with_query};
use crate::support::image::{Noise, Stored, descriptor};
use crate::support::process::Server;

const MIB: usize = 1 << 20;

/// A streamed request is checkpointed at least this often, and goes on as far before it is done
const CHECKPOINT: u64 = 32 * MIB as u64;

/// When to kill is different in every run; a failure prints how to repeat it
fn moments(test: &str) -> Noise {
    let seed = match std::env::var("REGISTRY_E2E_SEED") {
        Ok(seed) => seed.parse().expect("REGISTRY_E2E_SEED is a number"),
        Err(_) => SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |now| now.as_nanos() as u64),
    };
    eprintln!("{test}: moments from REGISTRY_E2E_SEED={seed}");
    Noise::new(seed)
}

fn pause(moments: &mut Noise, limit: Duration) {
    let limit = limit.as_micros() as u64;
    thread::sleep(Duration::from_micros(moments.below(limit)));
}

/// Where a session is, by its status
#[track_caller]
fn offset(address: &str, location: &str) -> u64 {
    http::get(address, location).expect(&[204]).offset()
}

/// Streams `content` in one PATCH until it is through or the connection breaks
fn stream(address: &str, location: &str, content: &[u8], pace: Duration) -> io::Result<()> {
    let mut body = Streaming::begin(address, "PATCH", location)?;
    for piece in content.chunks(64 * 1024) {
        body.write(piece)?;
        thread::sleep(pace);
    }
    body.finish().map(|response| {
        response.expect(&[202]);
    })
}

/// One chunk with its `Content-Range`
fn chunk(address: &str, location: &str, start: u64, content: &[u8]) -> io::Result<http::Response> {
    let range = format!("{start}-{}", start + content.len() as u64 - 1);
    http::send(
        address,
        "PATCH",
        location,
        &[("Content-Range", &range)],
        content,
    )
}

/// How many bytes a process has read so far, from files and by `read` from anything else
fn bytes_read(server: &Server) -> u64 {
    let counters = std::fs::read_to_string(format!("/proc/{}/io", server.id())).expect("readable");
    counters
        .lines()
        .find_map(|line| line.strip_prefix("rchar: "))
        .and_then(|count| count.parse().ok())
        .expect("a counter")
}

fn blob_path(repository: &str, digest: &Digest) -> String {
    format!("/v2/{repository}/blobs/{digest}")
}

/// Not there, to either question
#[track_caller]
fn not_served(address: &str, repository: &str, digest: &Digest) {
    let path = blob_path(repository, digest);
    http::get(address, &path).expect(&[404]);
    http::request(address, "HEAD", &path).expect(&[404]);
}

#[track_caller]
fn served(address: &str, repository: &str, content: &[u8]) {
    let digest = Digest::sha256(content);
    let got = http::get(address, &blob_path(repository, &digest)).expect(&[200]);
    assert!(got.body == content, "other bytes under {digest}");
}

#[test]
fn a_killed_stream_goes_on_from_its_checkpoint_without_reading_back() {
    let root = TempDir::new().expect("a folder");
    let content = Noise::new(1).bytes(100 * MIB);
    let digest = Digest::sha256(&content);

    let mut server = Server::ours(root.path());
    let location = start_upload(&server.address, "crash/stream");
    let mut body = Streaming::begin(&server.address, "PATCH", &location).expect("connected");
    for piece in content[..88 * MIB].chunks(MIB) {
        body.write(piece).expect("sent");
    }
    server.kill();
    drop(body);
    check::store_is_whole(root.path());

    let server = Server::ours(root.path());
    not_served(&server.address, "crash/stream", &digest);
    let offset = offset(&server.address, &location);
    assert!(
        (CHECKPOINT..=88 * MIB as u64).contains(&offset),
        "of 88 MiB only {offset} bytes are left"
    );
    let rest = &content[offset as usize..];
    // What goes through `read` while it goes on is no more than what is sent, if the registry
    // takes it by `read` at all; the bytes that are there would come on top.
    let before = bytes_read(&server);
    assert!(before < 4 * MIB as u64, "{before} bytes read at start");
    chunk(&server.address, &location, offset, rest)
        .expect("answered")
        .expect(&[202]);
    let target = with_query(&location, &format!("digest={digest}"));
    http::request(&server.address, "PUT", &target).expect(&[201]);
    let read = bytes_read(&server);
    let allowed = rest.len() as u64 + 4 * MIB as u64;
    // Where little is left to send, this is sharp.
    assert!(
        read < allowed,
        "{read} bytes read to go on from {offset} with {} bytes",
        rest.len()
    );
    served(&server.address, "crash/stream", &content);
    assert!(server.stop().success());
    check::store_is_whole(root.path());
}

#[test]
fn acknowledged_chunks_survive_and_are_not_read_again() {
    let root = TempDir::new().expect("a folder");
    let content = Noise::new(2).bytes(49 * MIB);
    let digest = Digest::sha256(&content);

    let mut server = Server::ours(root.path());
    let location = start_upload(&server.address, "crash/chunks");
    for (number, piece) in content[..48 * MIB].chunks(16 * MIB).enumerate() {
        let start = (number * 16 * MIB) as u64;
        let response = chunk(&server.address, &location, start, piece)
            .expect("answered")
            .expect(&[202]);
        assert_eq!(response.offset(), start + piece.len() as u64);
    }
    server.kill();

    let server = Server::ours(root.path());
    assert_eq!(offset(&server.address, &location), 48 * MIB as u64);
    let target = with_query(&location, &format!("digest={digest}"));
    http::send(&server.address, "PUT", &target, &[], &content[48 * MIB..])
        .expect("answered")
        .expect(&[201]);
    let read = bytes_read(&server);
    assert!(
        read < 6 * MIB as u64,
        "{read} bytes read to add 1 MiB to 48"
    );
    served(&server.address, "crash/chunks", &content);
    // The counter does see the bytes of a blob when they are read.
    let after = bytes_read(&server);
    assert!(after >= 49 * MIB as u64, "only {after} bytes counted");
}

#[test]
fn one_upload_survives_many_kills() {
    let mut moments = moments("one_upload_survives_many_kills");
    let root = TempDir::new().expect("a folder");
    let content = Noise::new(3).bytes(24 * MIB);
    let digest = Digest::sha256(&content);
    let repository = "crash/many";

    let mut server = Server::ours(root.path());
    let location = start_upload(&server.address, repository);
    let mut acknowledged = 0;
    for round in 0..8 {
        let address = server.address.clone();
        let at = offset(&address, &location);
        assert!(
            at >= acknowledged && at <= content.len() as u64,
            "{acknowledged} bytes were acknowledged, {at} are there"
        );
        let streamed = round % 2 == 1;
        acknowledged = thread::scope(|scope| {
            let client = scope.spawn(|| {
                let rest = &content[at as usize..];
                if streamed {
                    // Never through before the kill, so nothing of it is acknowledged.
                    let _ = stream(&address, &location, rest, Duration::from_millis(2));
                    return at;
                }
                let mut done = at;
                for piece in rest.chunks(256 * 1024) {
                    match chunk(&address, &location, done, piece) {
                        Ok(response) => done = response.expect(&[202]).offset(),
                        Err(_) => break,
                    }
                }
                done
            });
            pause(&mut moments, Duration::from_millis(120));
            server.kill();
            client.join().expect("no panic")
        });
        check::store_is_whole(root.path());
        server = Server::ours(root.path());
        if acknowledged < content.len() as u64 {
            not_served(&server.address, repository, &digest);
        }
    }

    let at = offset(&server.address, &location);
    assert!(at >= acknowledged);
    if at < content.len() as u64 {
        chunk(&server.address, &location, at, &content[at as usize..])
            .expect("answered")
            .expect(&[202]);
    }
    let target = with_query(&location, &format!("digest={digest}"));
    http::request(&server.address, "PUT", &target).expect(&[201]);
    served(&server.address, repository, &content);
    http::get(&server.address, &location).expect(&[404]);
}

#[test]
fn a_kill_while_an_upload_is_closed_leaves_the_blob_or_the_session() {
    let mut moments = moments("a_kill_while_an_upload_is_closed_leaves_the_blob_or_the_session");
    let root = TempDir::new().expect("a folder");
    let repository = "crash/closing";
    for round in 0..12 {
        let content = Noise::new(100 + round).bytes(MIB);
        let digest = Digest::sha256(&content);
        let mut server = Server::ours(root.path());
        let address = server.address.clone();
        let location = start_upload(&address, repository);
        let half = content.len() / 2;
        chunk(&address, &location, 0, &content[..half])
            .expect("answered")
            .expect(&[202]);
        let target = with_query(&location, &format!("digest={digest}"));
        let acknowledged = thread::scope(|scope| {
            let client = scope.spawn(|| {
                http::send(&address, "PUT", &target, &[], &content[half..])
                    .map(|response| response.expect(&[201]))
                    .is_ok()
            });
            pause(&mut moments, Duration::from_millis(30));
            server.kill();
            client.join().expect("no panic")
        });
        check::store_is_whole(root.path());

        let server = Server::ours(root.path());
        let path = blob_path(repository, &digest);
        let got = http::get(&server.address, &path).expect(&[200, 404]);
        if got.status == 200 {
            assert!(got.body == content, "other bytes under {digest}");
            continue;
        }
        assert!(!acknowledged, "{digest} was acknowledged and is gone");
        let at = offset(&server.address, &location) as usize;
        http::send(&server.address, "PUT", &target, &[], &content[at..])
            .expect("answered")
            .expect(&[201]);
        served(&server.address, repository, &content);
    }
}

#[test]
fn a_kill_among_whole_pushes_loses_nothing_acknowledged() {
    let mut moments = moments("a_kill_among_whole_pushes_loses_nothing_acknowledged");
    let root = TempDir::new().expect("a folder");
    // Tag and manifest of each push that was acknowledged, over all kills.
    let acknowledged = Mutex::new(Vec::new());
    for round in 0..8 {
        let mut server = Server::ours(root.path());
        let address = server.address.clone();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for pusher in 0..3 {
                let (address, acknowledged, stop) = (&address, &acknowledged, &stop);
                scope.spawn(move || {
                    for number in 0.. {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        let seed = round * 1_000_000 + pusher * 10_000 + number;
                        match push_image(address, "crash/whole", seed) {
                            Ok(pushed) => acknowledged.lock().expect("whole").push(pushed),
                            Err(_) => return,
                        }
                    }
                });
            }
            thread::sleep(Duration::from_millis(40));
            pause(&mut moments, Duration::from_millis(250));
            server.kill();
            stop.store(true, Ordering::Relaxed);
        });
        check::store_is_whole(root.path());
    }

    let server = Server::ours(root.path());
    let acknowledged = acknowledged.into_inner().expect("whole");
    assert!(
        !acknowledged.is_empty(),
        "every kill came before the first push"
    );
    let served = check::inventory(&server.address);
    for (tag, digest) in &acknowledged {
        let path = format!("/v2/crash/whole/manifests/{tag}");
        let entry = served.get(&path).map(|(_, digest)| digest);
        assert_eq!(entry, Some(digest), "{path} was acknowledged");
    }
    read_again_after_stop(server, root.path(), &served);
}

/// A graceful stop and a new start change nothing
fn read_again_after_stop(
    server: Server,
    root: &Path,
    served: &std::collections::BTreeMap<String, (String, Digest)>,
) {
    assert!(server.stop().success());
    let server = Server::ours(root);
    assert_eq!(check::inventory(&server.address), *served);
}

/// Pushes an image of two small blobs and gives its tag and digest
fn push_image(address: &str, repository: &str, seed: u64) -> io::Result<(String, Digest)> {
    let layer = Noise::new(seed).bytes(20_000 + (seed % 7) as usize * 11_000);
    let config = format!(r#"{{"architecture":"amd64","os":"linux","seed":{seed}}}"#);
    let mut blobs = Vec::new();
    for content in [config.as_bytes(), &layer] {
        push_blob(address, repository, content)?.expect(&[201]);
        blobs.push(Stored {
            digest: Digest::sha256(content),
            size: content.len() as u64,
        });
    }
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{}]}}"#,
        MediaType::OCI_MANIFEST,
        descriptor(&MediaType::OCI_CONFIG, &blobs[0], ""),
        descriptor(&MediaType::OCI_LAYER_TAR, &blobs[1], "")
    );
    let tag = format!("t{seed}");
    push_manifest(
        address,
        repository,
        &tag,
        MediaType::OCI_MANIFEST.as_str(),
        manifest.as_bytes(),
    )?
    .expect(&[201]);
    Ok((tag, Digest::sha256(manifest.as_bytes())))
}

#[test]
fn a_second_writer_does_not_disturb_the_first() {
    let root = TempDir::new().expect("a folder");
    let server = Server::ours(root.path());
    let content = Noise::new(4).bytes(3 * MIB);
    let location = start_upload(&server.address, "crash/two");

    let mut first = Streaming::begin(&server.address, "PATCH", &location).expect("connected");
    for piece in content[..2 * MIB].chunks(64 * 1024) {
        first.write(piece).expect("sent");
    }
    // Until the first has arrived; its half megabytes are then being written.
    thread::sleep(Duration::from_millis(300));
    let second = chunk(&server.address, &location, 0, b"something else")
        .expect("answered")
        .expect(&[416, 503]);
    if second.status == 503 {
        assert!(second.header("retry-after").is_some(), "503 without a time");
    }
    for piece in content[2 * MIB..].chunks(64 * 1024) {
        first.write(piece).expect("sent");
    }
    let response = first.finish().expect("answered").expect(&[202]);
    assert_eq!(response.offset(), content.len() as u64);
    let digest = Digest::sha256(&content);
    let target = with_query(&location, &format!("digest={digest}"));
    http::request(&server.address, "PUT", &target).expect(&[201]);
    served(&server.address, "crash/two", &content);
}

#[test]
fn many_writers_of_one_session_and_kills_make_one_blob() {
    let mut moments = moments("many_writers_of_one_session_and_kills_make_one_blob");
    let root = TempDir::new().expect("a folder");
    let content = Noise::new(5).bytes(4 * MIB);
    let repository = "crash/writers";
    let mut server = Server::ours(root.path());
    let location = start_upload(&server.address, repository);
    for round in 0..4 {
        let address = server.address.clone();
        thread::scope(|scope| {
            for _ in 0..4 {
                // Each asks where the session is and sends the next piece; most come too late.
                scope.spawn(|| -> io::Result<()> {
                    loop {
                        let status = http::send(&address, "GET", &location, &[], &[])?;
                        let at = status.expect(&[204]).offset();
                        // The last round only brings it to its end.
                        let rest = &content[at as usize..];
                        if rest.is_empty() {
                            return Ok(());
                        }
                        let piece = &rest[..rest.len().min(100_000)];
                        let response = chunk(&address, &location, at, piece)?;
                        response.expect(&[202, 416, 503]);
                    }
                });
            }
            if round < 3 {
                pause(&mut moments, Duration::from_millis(100));
                server.kill();
                server = Server::ours(root.path());
            }
        });
    }
    let digest = Digest::sha256(&content);
    let target = with_query(&location, &format!("digest={digest}"));
    http::request(&server.address, "PUT", &target).expect(&[201]);
    served(&server.address, repository, &content);
    check::store_is_whole(root.path());
}
