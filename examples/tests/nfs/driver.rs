//! Three registries on one NFS share, and what their clients must not notice of it
//!
//! Runs in the guest of a virtual machine, see `README.md`: there `on NODE COMMAND` runs a command on
//! a machine of its own, with its own mount of the share at `/data`. It starts the command that it
//! is given on each node, drives the registries over HTTP, and prints a line for each check: how
//! many of its rounds were as they should be, and what was wrong first. So other registries can be
//! compared.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use registry_core::Digest;

/// How long a registry may take to start, and to answer one request, in a slow guest
const PATIENCE: Duration = Duration::from_secs(240);

const PORT: u16 = 5000;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// What went wrong in a round
type Wrong = String;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let rounds = arguments.next().and_then(|rounds| rounds.parse().ok());
    let command: Vec<String> = arguments.collect();
    let (Some(rounds), false) = (rounds, command.is_empty()) else {
        eprintln!("usage: nfs-driver ROUNDS COMMAND [ARGUMENT]...");
        return ExitCode::FAILURE;
    };
    let mut nodes = Nodes::start(command);
    let mut report = Report { rounds, wrong: 0 };
    report.check("pushed to one, pulled from all", pull_at_once);
    report.check("each request of an upload elsewhere", upload_around);
    report.check("a tag moved", tag_moved);
    report.check("a tag moved while it is read", tag_moved_under_readers);
    report.check("three push one tag at once", racing_pushes);
    report.check("a blob pushed again while it is read", pushed_again);
    report.check("a manifest deleted", manifest_deleted);
    report.check("a blob deleted and pushed elsewhere", blob_deleted);
    report.check("killed in an upload, gone on elsewhere", |round| {
        killed(round, &mut nodes)
    });
    drop(nodes);
    if report.wrong == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

struct Report {
    rounds: usize,
    wrong: usize,
}

impl Report {
    fn check(&mut self, name: &str, mut round: impl FnMut(usize) -> Result<(), Wrong>) {
        let start = Instant::now();
        let wrong: Vec<Wrong> = (0..self.rounds).filter_map(|at| round(at).err()).collect();
        self.wrong += wrong.len();
        let right = self.rounds - wrong.len();
        let seconds = start.elapsed().as_secs_f32();
        print!("{name}: {right}/{} in {seconds:.1} s", self.rounds);
        match wrong.first() {
            Some(first) => println!("; first: {first}"),
            None => println!(),
        }
    }
}

/// A registry on each node
struct Nodes {
    command: Vec<String>,
    running: Vec<Child>,
}

impl Nodes {
    fn start(command: Vec<String>) -> Self {
        let running = (0..3).map(|node| spawn(node, &command)).collect();
        for node in 0..3 {
            wait_for(node);
        }
        Self { command, running }
    }

    fn kill(&mut self, node: usize) {
        self.running[node].kill().expect("the child is ours");
        self.running[node].wait().expect("the child is ours");
    }

    fn restart(&mut self, node: usize) {
        self.running[node] = spawn(node, &self.command);
        wait_for(node);
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for node in 0..self.running.len() {
            self.kill(node);
        }
    }
}

fn spawn(node: usize, command: &[String]) -> Child {
    Command::new("on")
        .arg(format!("node{}", node + 1))
        .args(command)
        // Its access log.
        .stdout(Stdio::null())
        .spawn()
        .expect("`on` is a program of the guest")
}

fn wait_for(node: usize) {
    let start = Instant::now();
    while !get(node, "/v2/").is_ok_and(|answer| answer.status == 200) {
        assert!(start.elapsed() < PATIENCE, "node {node} does not answer");
        thread::sleep(Duration::from_millis(100));
    }
}

/// An answer to a request
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(have, _)| have == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The path and query of `Location`
    fn location(&self) -> Result<String, Wrong> {
        let location = self
            .header("location")
            .ok_or("an answer without Location")?;
        Ok(match location.split_once("://") {
            Some((_, rest)) => rest[rest.find('/').unwrap_or(rest.len())..].to_owned(),
            None => location.to_owned(),
        })
    }
}

/// Opens a connection and sends a request whose body may be shorter than it says
fn send(
    node: usize,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    length: usize,
    body: &[u8],
) -> Result<TcpStream, Wrong> {
    let fail = |error: std::io::Error| format!("{method} {path} on node {}: {error}", node + 1);
    let mut server = TcpStream::connect((format!("node{}", node + 1), PORT)).map_err(fail)?;
    server.set_read_timeout(Some(PATIENCE)).map_err(fail)?;
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nHost: registry\r\nConnection: close\r\nContent-Length: {length}\r\n"
    );
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    server
        .write_all(format!("{head}\r\n").as_bytes())
        .map_err(fail)?;
    server.write_all(body).map_err(fail)?;
    Ok(server)
}

/// Reads the head of an answer; the rest is the body's
fn head(server: &mut BufReader<TcpStream>) -> Result<Answer, Wrong> {
    let mut line = String::new();
    let mut next = || -> Result<String, Wrong> {
        line.clear();
        let read = server.read_line(&mut line);
        read.map_err(|error| format!("no answer: {error}"))?;
        Ok(line.trim_end().to_owned())
    };
    let first = next()?;
    let status = first
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| format!("no answer but `{first}`"))?;
    let mut headers = Vec::new();
    loop {
        let line = next()?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    Ok(Answer {
        status,
        headers,
        body: Vec::new(),
    })
}

fn call(
    node: usize,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Answer, Wrong> {
    let server = send(node, method, path, headers, body.len(), body)?;
    let mut server = BufReader::new(server);
    let mut answer = head(&mut server)?;
    let mut rest = Vec::new();
    // With `Connection: close` the body ends with the connection.
    let read = server.read_to_end(&mut rest);
    read.map_err(|error| format!("{method} {path}: the answer broke off: {error}"))?;
    answer.body = rest;
    Ok(answer)
}

fn get(node: usize, path: &str) -> Result<Answer, Wrong> {
    call(node, "GET", path, &[("Accept", MANIFEST)], b"")
}

fn expect(node: usize, what: &str, answer: &Answer, status: u16) -> Result<(), Wrong> {
    if answer.status == status {
        return Ok(());
    }
    let body = String::from_utf8_lossy(&answer.body);
    let got = answer.status;
    let node = node + 1;
    Err(format!(
        "{what} on node {node}: expected {status}, got {got} {}",
        body.trim()
    ))
}

/// Bytes that nobody else pushes
fn content(length: usize, seed: &str) -> Vec<u8> {
    let rest = (seed.len()..length).map(|at| (at * 31 + at / 251) as u8);
    seed.bytes().chain(rest).collect()
}

fn digest(bytes: &[u8]) -> String {
    Digest::sha256(bytes).to_string()
}

fn push_blob(node: usize, name: &str, bytes: &[u8]) -> Result<(), Wrong> {
    let path = format!("/v2/{name}/blobs/uploads/");
    let started = call(node, "POST", &path, &[], b"")?;
    expect(node, "POST", &started, 202)?;
    close(node, &started.location()?, bytes, bytes)
}

/// Ends an upload with its last bytes
fn close(node: usize, location: &str, last: &[u8], whole: &[u8]) -> Result<(), Wrong> {
    let mark = if location.contains('?') { '&' } else { '?' };
    let path = format!("{location}{mark}digest={}", digest(whole));
    let kind = [("Content-Type", "application/octet-stream")];
    expect(
        node,
        "PUT of a blob",
        &call(node, "PUT", &path, &kind, last)?,
        201,
    )
}

/// Pushes an image of two blobs, and returns its manifest
fn push_image(node: usize, name: &str, tag: &str, seed: &str) -> Result<Vec<u8>, Wrong> {
    let config = content(100, &format!("{{\"config\":\"{name} {seed}\"}}"));
    let layer = content(40_000, &format!("layer {name} {seed}"));
    push_blob(node, name, &config)?;
    push_blob(node, name, &layer)?;
    let part = |kind: &str, bytes: &[u8]| {
        format!(
            r#"{{"mediaType":"{kind}","digest":"{}","size":{}}}"#,
            digest(bytes),
            bytes.len()
        )
    };
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{},"layers":[{}]}}"#,
        part("application/vnd.oci.image.config.v1+json", &config),
        part("application/vnd.oci.image.layer.v1.tar", &layer),
    );
    put_manifest(node, name, tag, manifest.as_bytes())?;
    Ok(manifest.into_bytes())
}

fn put_manifest(node: usize, name: &str, tag: &str, manifest: &[u8]) -> Result<(), Wrong> {
    let path = format!("/v2/{name}/manifests/{tag}");
    let answer = call(node, "PUT", &path, &[("Content-Type", MANIFEST)], manifest)?;
    expect(node, "PUT of a manifest", &answer, 201)
}

fn has(node: usize, path: &str, bytes: &[u8]) -> Result<(), Wrong> {
    let head = call(node, "HEAD", path, &[("Accept", MANIFEST)], b"")?;
    expect(node, &format!("HEAD {path}"), &head, 200)?;
    let answer = get(node, path)?;
    expect(node, &format!("GET {path}"), &answer, 200)?;
    if answer.body == bytes {
        return Ok(());
    }
    let got = answer.body.len();
    Err(format!(
        "{path} on node {}: other content, of {got} bytes",
        node + 1
    ))
}

fn lacks(node: usize, path: &str) -> Result<(), Wrong> {
    for method in ["HEAD", "GET"] {
        let answer = call(node, method, path, &[("Accept", MANIFEST)], b"")?;
        expect(node, &format!("{method} {path}"), &answer, 404)?;
    }
    Ok(())
}

/// The other two
fn others(node: usize) -> [usize; 2] {
    [(node + 1) % 3, (node + 2) % 3]
}

fn pull_at_once(round: usize) -> Result<(), Wrong> {
    let node = round % 3;
    // In a repository that is new now, and again in one that is known.
    for (name, tag) in [
        (format!("new/image-{round}"), "v1"),
        ("known/image".to_owned(), "TAG"),
    ] {
        let tag = &tag.replace("TAG", &format!("v{round}"));
        let layer = content(40_000, &format!("layer {name} {round}"));
        let blob = format!("/v2/{name}/blobs/{}", digest(&layer));
        let tagged = format!("/v2/{name}/manifests/{tag}");
        // What breaks others: that the nodes have looked before, as every client makes them do.
        for node in 0..3 {
            lacks(node, &blob)?;
            lacks(node, &tagged)?;
        }
        let manifest = push_image(node, &name, tag, &round.to_string())?;
        for node in others(node) {
            has(node, &tagged, &manifest)?;
            has(node, &blob, &layer)?;
            has(
                node,
                &format!("/v2/{name}/manifests/{}", digest(&manifest)),
                &manifest,
            )?;
            let tags = get(node, &format!("/v2/{name}/tags/list"))?;
            expect(node, "tags", &tags, 200)?;
            let list = String::from_utf8_lossy(&tags.body);
            if !list.contains(&format!("\"{tag}\"")) {
                return Err(format!(
                    "tags on node {}: `{tag}` is not in {list}",
                    node + 1
                ));
            }
        }
    }
    Ok(())
}

fn upload_around(round: usize) -> Result<(), Wrong> {
    let name = "around/image";
    let whole = content(150_000, &format!("around {round}"));
    let node = round % 3;
    lacks(
        (node + 2) % 3,
        &format!("/v2/{name}/blobs/{}", digest(&whole)),
    )?;
    let started = call(
        node,
        "POST",
        &format!("/v2/{name}/blobs/uploads/"),
        &[],
        b"",
    )?;
    expect(node, "POST", &started, 202)?;
    let mut location = started.location()?;
    let mut offset = 0;
    for step in 1..=4 {
        let node = (node + step) % 3;
        let asked = get(others(node)[0], &location)?;
        expect(others(node)[0], "GET of an upload", &asked, 204)?;
        let end = offset + 30_001;
        let range = format!("{offset}-{}", end - 1);
        let headers = [
            ("Content-Range", range.as_str()),
            ("Content-Type", "application/octet-stream"),
        ];
        let answer = call(node, "PATCH", &location, &headers, &whole[offset..end])?;
        expect(node, &format!("PATCH {step}"), &answer, 202)?;
        location = answer.location()?;
        offset = end;
    }
    close((node + 5) % 3, &location, &whole[offset..], &whole)?;
    for node in 0..3 {
        has(
            node,
            &format!("/v2/{name}/blobs/{}", digest(&whole)),
            &whole,
        )?;
        lacks(node, &location)?;
    }
    Ok(())
}

fn tag_moved(round: usize) -> Result<(), Wrong> {
    let (name, node) = ("moved/image", round % 3);
    let manifests = [
        push_image(node, name, "a", "a")?,
        push_image(node, name, "b", "b")?,
    ];
    for step in 0..4 {
        let manifest = &manifests[step % 2];
        let node = (node + step) % 3;
        put_manifest(node, name, "latest", manifest)?;
        for node in others(node) {
            has(node, &format!("/v2/{name}/manifests/latest"), manifest)?;
        }
    }
    Ok(())
}

fn tag_moved_under_readers(round: usize) -> Result<(), Wrong> {
    let (name, node) = (format!("hot/image-{round}"), round % 3);
    let path = format!("/v2/{name}/manifests/latest");
    let manifests = [
        push_image(node, &name, "latest", "a")?,
        push_image(node, &name, "latest", "b")?,
    ];
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        // On the node that moves it too, which has it open when it is replaced.
        let readers: Vec<_> = (0..3)
            .map(|node| {
                let (path, manifests, done) = (&path, &manifests, &done);
                scope.spawn(move || {
                    while !done.load(Ordering::SeqCst) {
                        let answer = get(node, path)?;
                        expect(node, "GET of a tag that is moved", &answer, 200)?;
                        if !manifests.contains(&answer.body) {
                            return Err("something that was never pushed".to_owned());
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        let moved = (0..8).try_for_each(|step| {
            put_manifest((node + step / 4) % 3, &name, "latest", &manifests[step % 2])
        });
        done.store(true, Ordering::SeqCst);
        let read = readers
            .into_iter()
            .map(|reader| reader.join().expect("no panic"));
        read.chain([moved]).collect::<Result<Vec<()>, Wrong>>()
    })?;
    Ok(())
}

fn racing_pushes(round: usize) -> Result<(), Wrong> {
    let name = format!("race/image-{round}");
    let manifests = thread::scope(|scope| {
        let pushes: Vec<_> = (0..3)
            .map(|node| {
                let name = &name;
                scope.spawn(move || push_image(node, name, "latest", &format!("by {node}")))
            })
            .collect();
        let pushed = pushes
            .into_iter()
            .map(|push| push.join().expect("no panic"));
        pushed.collect::<Result<Vec<_>, Wrong>>()
    })?;
    let path = format!("/v2/{name}/manifests/latest");
    let first = get(0, &path)?;
    if !manifests.contains(&first.body) {
        return Err(format!(
            "{path}: none of the three, status {}",
            first.status
        ));
    }
    for node in 0..3 {
        has(node, &path, &first.body)?;
        for manifest in &manifests {
            has(
                node,
                &format!("/v2/{name}/manifests/{}", digest(manifest)),
                manifest,
            )?;
        }
    }
    Ok(())
}

fn pushed_again(round: usize) -> Result<(), Wrong> {
    let (name, node) = ("again/image", round % 3);
    // More than what the sockets take at once.
    let bytes = content(5 * 1024 * 1024, &format!("again {round}"));
    push_blob(node, name, &bytes)?;
    let path = format!("/v2/{name}/blobs/{}", digest(&bytes));
    let reader = others(node)[0];
    let mut server = BufReader::new(send(reader, "GET", &path, &[], 0, b"")?);
    let answer = head(&mut server)?;
    expect(reader, "GET of a blob", &answer, 200)?;
    let mut read = vec![0; 1000];
    server
        .read_exact(&mut read)
        .map_err(|error| error.to_string())?;
    for node in [node, others(node)[1]] {
        push_blob(node, name, &bytes)?;
    }
    let end = server.read_to_end(&mut read);
    end.map_err(|error| format!("the blob broke off after {} bytes: {error}", read.len()))?;
    if read == bytes {
        return Ok(());
    }
    Err(format!(
        "expected {} bytes as pushed, got {}",
        bytes.len(),
        read.len()
    ))
}

fn manifest_deleted(round: usize) -> Result<(), Wrong> {
    let (name, node) = (format!("deleted/image-{round}"), round % 3);
    let manifest = push_image(node, &name, "v1", "x")?;
    let by_digest = format!("/v2/{name}/manifests/{}", digest(&manifest));
    let by_tag = format!("/v2/{name}/manifests/v1");
    for node in 0..3 {
        has(node, &by_digest, &manifest)?;
        has(node, &by_tag, &manifest)?;
    }
    let deleter = others(node)[0];
    let deleted = call(deleter, "DELETE", &by_digest, &[], b"")?;
    expect(deleter, "DELETE of a manifest", &deleted, 202)?;
    for node in 0..3 {
        lacks(node, &by_digest)?;
        lacks(node, &by_tag)?;
    }
    // And it can come back, through another one.
    let third = others(node)[1];
    put_manifest(third, &name, "v1", &manifest)?;
    for node in 0..3 {
        has(node, &by_tag, &manifest)?;
    }
    Ok(())
}

fn blob_deleted(round: usize) -> Result<(), Wrong> {
    let (name, node) = (format!("blobs/image-{round}"), round % 3);
    let bytes = content(3000, &format!("deleted {round}"));
    let path = format!("/v2/{name}/blobs/{}", digest(&bytes));
    push_blob(node, &name, &bytes)?;
    for node in 0..3 {
        has(node, &path, &bytes)?;
    }
    let [deleter, third] = others(node);
    expect(
        deleter,
        "DELETE of a blob",
        &call(deleter, "DELETE", &path, &[], b"")?,
        202,
    )?;
    for node in 0..3 {
        lacks(node, &path)?;
    }
    push_blob(third, &name, &bytes)?;
    for node in 0..3 {
        has(node, &path, &bytes)?;
    }
    Ok(())
}

fn killed(round: usize, nodes: &mut Nodes) -> Result<(), Wrong> {
    let (name, node) = ("killed/image", round % 3);
    let whole = content(3_000_000, &format!("killed {round}"));
    let [next, last] = others(node);
    let started = call(
        node,
        "POST",
        &format!("/v2/{name}/blobs/uploads/"),
        &[],
        b"",
    )?;
    expect(node, "POST", &started, 202)?;
    let kind = ("Content-Type", "application/octet-stream");
    let range = ("Content-Range", "0-999999");
    let answer = call(
        node,
        "PATCH",
        &started.location()?,
        &[kind, range],
        &whole[..1_000_000],
    )?;
    expect(node, "PATCH", &answer, 202)?;
    let location = answer.location()?;
    // Half of the second request arrives, and its node dies with it.
    let range = ("Content-Range", "1000000-1999999");
    let half = &whole[1_000_000..1_500_000];
    let broken = send(node, "PATCH", &location, &[kind, range], 1_000_000, half)?;
    thread::sleep(Duration::from_millis(500));
    nodes.kill(node);
    drop(broken);
    let gone_on = go_on(next, last, &location, &whole);
    nodes.restart(node);
    gone_on?;
    for node in 0..3 {
        has(
            node,
            &format!("/v2/{name}/blobs/{}", digest(&whole)),
            &whole,
        )?;
    }
    Ok(())
}

/// Goes on with an upload of which a million bytes were acknowledged, from where it is
fn go_on(next: usize, last: usize, location: &str, whole: &[u8]) -> Result<(), Wrong> {
    let asked = get(next, location)?;
    expect(next, "GET of an upload", &asked, 204)?;
    let location = asked.location()?;
    let kept = asked
        .header("range")
        .and_then(|range| range.split_once('-')?.1.parse::<usize>().ok())
        .map(|end| end + 1)
        .ok_or("an upload without Range")?;
    if kept < 1_000_000 {
        return Err(format!(
            "only {kept} of the acknowledged 1000000 bytes are kept"
        ));
    }
    let range = format!("{kept}-2499999");
    let headers = [
        ("Content-Type", "application/octet-stream"),
        ("Content-Range", &range),
    ];
    let answer = call(next, "PATCH", &location, &headers, &whole[kept..2_500_000])?;
    expect(next, "PATCH that goes on", &answer, 202)?;
    close(last, &answer.location()?, &whole[2_500_000..], whole)
}
