//! Clients that push and pull at the same time through whatever stands before the registries, and
//! go on after connections that broke

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::mem;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use registry_core::{Digest, MediaType};

use super::check;
use super::clients::{Home, Skopeo, find_for_root};
use super::http::{self, Response, basic, with_query};
use super::image::{Family, Noise, digest_of_file};
use super::process::{finish, run};
use crate::clients::podman_command;
use crate::engines::Docker;

/// Whoever pushes here
pub(crate) const USER: [&str; 2] = ["ci", "swordfish"];

/// How many kills there are at least
const KILLS: usize = 4;

/// How often a client may begin anew
const ATTEMPTS: usize = 8;

/// A request of [`USER`]; an error is a connection that broke
pub(crate) fn send(address: &str, method: &str, path: &str, body: &[u8]) -> io::Result<Response> {
    let authorization = basic(USER[0], USER[1]);
    let media_type = MediaType::OCI_MANIFEST;
    let headers = [
        ("Authorization", &*authorization),
        ("Accept", check::ACCEPT),
        ("Content-Type", media_type.as_str()),
    ];
    http::send(address, method, path, &headers, body)
}

/// One chunk of an upload, at its place
pub(crate) fn chunk(
    address: &str,
    location: &str,
    start: usize,
    bytes: &[u8],
) -> io::Result<Response> {
    let authorization = basic(USER[0], USER[1]);
    let range = format!("{start}-{}", start + bytes.len() - 1);
    let headers = [
        ("Authorization", &*authorization),
        ("Content-Range", &range),
        ("Content-Type", "application/octet-stream"),
    ];
    http::send(address, "PATCH", location, &headers, bytes)
}

/// What an upload through a load balancer met, while replicas are killed
#[derive(Debug, Default)]
pub(crate) struct Troubles(Mutex<BTreeMap<String, usize>>);

impl Troubles {
    fn note(&self, what: impl Into<String>) {
        *self
            .0
            .lock()
            .expect("whole")
            .entry(what.into())
            .or_default() += 1;
    }

    /// What there was since the last look, and how often
    pub(crate) fn take(&self) -> BTreeMap<String, usize> {
        mem::take(&mut *self.0.lock().expect("whole"))
    }
}

/// Uploads a blob in chunks as the specification has it: after whatever went wrong it asks where
/// the upload is, and goes on there
pub(crate) fn upload_in_chunks(
    address: &str,
    repository: &str,
    content: &[u8],
    troubles: &Troubles,
) {
    let digest = Digest::sha256(content);
    let blob = format!("/v2/{repository}/blobs/{digest}");
    let deadline = Instant::now() + Duration::from_secs(120);
    // An answer that a registry, or its load balancer, gives when a connection broke is none.
    let once = |what: &str, answer: io::Result<Response>| match answer {
        Ok(answer) if !matches!(answer.status, 502..=504) => Some(answer),
        other => {
            let why = other.map_or_else(|error| error.kind().to_string(), |a| a.status.to_string());
            troubles.note(format!("{what}: {why}"));
            thread::sleep(Duration::from_millis(100));
            None
        }
    };
    'upload: loop {
        assert!(Instant::now() < deadline, "{digest} does not get through");
        let path = format!("/v2/{repository}/blobs/uploads/");
        let Some(started) = once("POST", send(address, "POST", &path, &[])) else {
            continue;
        };
        let location = started.expect(&[202]).location();
        let mut start = 0;
        loop {
            assert!(Instant::now() < deadline, "{digest} does not get through");
            let rest = &content[start..];
            let last = rest.len() <= 60_000;
            let (what, answer) = if last {
                let target = with_query(&location, &format!("digest={digest}"));
                ("PUT", send(address, "PUT", &target, rest))
            } else {
                let piece = &rest[..60_000];
                ("PATCH", chunk(address, &location, start, piece))
            };
            match once(what, answer) {
                Some(answer) if answer.status == 201 && last => return,
                Some(answer) if answer.status == 202 => {
                    start = answer.offset() as usize;
                    continue;
                }
                // A request that was killed may have had its effect all the same.
                Some(answer) => {
                    answer.expect(&[404, 416]);
                }
                None => {}
            }
            let status = loop {
                assert!(Instant::now() < deadline, "{digest} does not get through");
                if let Some(status) = once("GET", send(address, "GET", &location, &[])) {
                    break status.expect(&[204, 404]);
                }
            };
            if status.status == 204 {
                start = status.offset() as usize;
                continue;
            }
            // The session has ended: with its blob, or with nothing.
            loop {
                assert!(Instant::now() < deadline, "{digest} does not get through");
                let Some(head) = once("HEAD", send(address, "HEAD", &blob, &[])) else {
                    continue;
                };
                match head.expect(&[200, 404]).status {
                    200 => return,
                    _ => {
                        troubles.note("an upload began anew");
                        continue 'upload;
                    }
                }
            }
        }
    }
}

/// docker, podman and skopeo with images of their own, which go to one registry and come back
pub(crate) struct Clients<'h> {
    home: &'h Home,
    skopeo: Skopeo<'h>,
    podman: PathBuf,
    docker: Docker<'h>,
    family: Family,
    pub(crate) troubles: Troubles,
    /// By `<repository>:<tag>`: the digest that whoever pushed it was told
    pub(crate) pushed: Mutex<BTreeMap<String, Digest>>,
}

impl<'h> Clients<'h> {
    /// Gives the clients their images; `None` if one of them is missing
    #[track_caller]
    pub(crate) fn prepare(home: &'h Home, count: usize) -> Option<Self> {
        let clients = Self {
            home,
            skopeo: home.skopeo()?,
            podman: find_for_root("podman", "podman")?,
            docker: Docker::start(home)?,
            family: Family::write(&home.path("family"), 5000, count),
            troubles: Troubles::default(),
            pushed: Mutex::default(),
        };
        for number in 0..count {
            let reference = clients.family.reference(number);
            match clients.who(number) {
                "docker" => {
                    let archive = home.path(format!("docker-{number}.tar"));
                    let to = format!("docker-archive:{}:own/i:{number}", archive.display());
                    clients.skopeo.copy(&[], &reference, &to);
                    let archive = archive.display().to_string();
                    clients
                        .docker
                        .run(&["load", "--quiet", "--input", &archive]);
                }
                "podman" => {
                    let id = run(&mut clients.podman(&["pull", "--quiet", &reference]));
                    run(&mut clients.podman(&["tag", id.trim(), &format!("own/i:{number}")]));
                }
                _ => {}
            }
        }
        Some(clients)
    }

    /// Which client has this image
    fn who(&self, number: usize) -> &'static str {
        ["skopeo", "docker", "skopeo", "podman"][number % 4]
    }

    fn podman(&self, arguments: &[&str]) -> Command {
        podman_command(self.home, &self.podman, arguments)
    }

    /// Runs a command until it succeeds; what it says otherwise must be that a connection broke
    #[track_caller]
    fn insist(&self, what: &str, mut command: impl FnMut() -> Command) -> String {
        for _ in 0..ATTEMPTS {
            let (status, stdout, stderr) = finish(&mut command());
            if status.success() {
                return stdout;
            }
            let line = stderr.lines().last().unwrap_or_default().to_owned();
            let broke = [
                "502",
                "503",
                "504",
                "Bad Gateway",
                "Gateway Time",
                "EOF",
                "reset by peer",
                "broken pipe",
                "closed network connection",
            ];
            assert!(
                broke.iter().any(|part| stderr.contains(part)),
                "{what} failed, and no connection had broken: {stderr}{stdout}"
            );
            self.troubles
                .note(format!("{what} failed: {}", cause(&line)));
            thread::sleep(Duration::from_millis(300));
        }
        panic!("{what} did not succeed in {ATTEMPTS} attempts")
    }

    /// Pushes an image, drops it where there is something to drop, and pulls it again
    fn there_and_back(&self, address: &str, number: usize) {
        let who = self.who(number);
        let name = format!("replicas/{who}{}", number % 3);
        let remote = format!("{address}/{name}:i{number}");
        let creds = USER.join(":");
        let own = &self.family.images[number];
        let digest = match who {
            "skopeo" => {
                self.insist("skopeo push", || {
                    let mut command = self.skopeo.command(&["copy", "--quiet"]);
                    command
                        .args(["--preserve-digests", "--retry-times=3"])
                        .args(["--dest-tls-verify=false", "--dest-creds", &creds])
                        .args([
                            &self.family.reference(number),
                            &format!("docker://{remote}"),
                        ]);
                    command
                });
                own.digest
            }
            "docker" => {
                let local = format!("own/i:{number}");
                self.docker.run(&["tag", &local, &remote]);
                let said = self.insist("docker push", || self.docker.command(&["push", &remote]));
                let (_, rest) = said.split_once("digest: ").expect("a digest");
                let digest = rest.split_whitespace().next().expect("a digest");
                digest.parse().expect("a digest")
            }
            _ => {
                let file = self.home.path(format!("digest-{number}"));
                self.insist("podman push", || {
                    let mut command = self.podman(&["push", "--quiet", "--tls-verify=false"]);
                    command.args(["--creds", &creds]);
                    command.arg("--digestfile").arg(&file);
                    command.args([&format!("own/i:{number}"), &remote]);
                    command
                });
                let digest = fs::read_to_string(&file).expect("a digest");
                digest.trim().parse().expect("a digest")
            }
        };
        let tag = format!("{name}:i{number}");
        self.pushed.lock().expect("whole").insert(tag, digest);
        match who {
            "skopeo" => {
                let folder = self.home.path(format!("pulled-{number}"));
                self.insist("skopeo pull", || {
                    let _ = fs::remove_dir_all(&folder);
                    let mut command = self.skopeo.command(&["copy", "--quiet"]);
                    command
                        .args(["--preserve-digests", "--retry-times=3"])
                        .args(["--src-tls-verify=false", "--src-creds", &creds])
                        .arg(format!("docker://{remote}"))
                        .arg(format!("dir:{}", folder.display()));
                    command
                });
                assert_eq!(digest_of_file(&folder.join("manifest.json")), digest);
                for file in check::files(&folder) {
                    let name = file.file_name().expect("a name").to_string_lossy();
                    if name.len() == 64 {
                        assert_eq!(digest_of_file(&file).hex(), name, "{file:?}");
                    }
                }
            }
            "docker" => {
                let local = format!("own/i:{number}");
                let id = ["image", "inspect", "--format={{.Id}}"];
                let before = self.docker.run(&[&id[..], &[&local]].concat());
                self.docker.run(&["rmi", &local, &remote]);
                let said = self.insist("docker pull", || self.docker.command(&["pull", &remote]));
                assert!(said.contains(&format!("Digest: {digest}")), "{said}");
                let after = self.docker.run(&[&id[..], &[&remote]].concat());
                assert_eq!(after, before);
            }
            _ => {
                let local = format!("own/i:{number}");
                let id = ["image", "inspect", "--format={{.Id}}"];
                let before = run(&mut self.podman(&[&id[..], &[&local]].concat()));
                run(&mut self.podman(&["rmi", "--force", &local]));
                let pulled = self.insist("podman pull", || {
                    let mut command = self.podman(&["pull", "--quiet", "--tls-verify=false"]);
                    command.args(["--creds", &creds]).arg(&remote);
                    command
                });
                assert_eq!(pulled.trim(), before.trim());
            }
        }
    }

    /// Pushes and pulls all images through `address`, several at a time, with a client of our own
    /// that sends chunks beside them
    ///
    /// Ours goes on until there were some kills.
    pub(crate) fn run_all(&self, address: &str, kills: &AtomicUsize) {
        let login = ["login", "-u", USER[0], "-p", USER[1], address];
        self.insist("docker login", || self.docker.command(&login));
        let next = AtomicUsize::new(0);
        let done = AtomicUsize::new(0);
        let total = self.family.images.len();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= total {
                            return;
                        }
                        self.there_and_back(address, number);
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            scope.spawn(|| {
                // As long as the others are at it; whoever fails ends the test, and this too.
                let deadline = Instant::now() + Duration::from_secs(30 * 60);
                for seed in 0.. {
                    let content = Noise::new(9000 + seed).bytes(400_000);
                    upload_in_chunks(address, "replicas/chunks", &content, &self.troubles);
                    let enough = kills.load(Ordering::Relaxed) >= KILLS;
                    if done.load(Ordering::Relaxed) == total && enough || Instant::now() > deadline
                    {
                        return;
                    }
                }
            });
        });
    }
}

/// The end of what a client says, without names that are different each time
fn cause(line: &str) -> String {
    let words: Vec<&str> = line.split(": ").collect();
    let last = &words[words.len().saturating_sub(2)..];
    let text = last.join(": ");
    text.split_whitespace()
        .filter(|word| !word.contains(|letter: char| letter.is_ascii_digit()) || word.len() == 3)
        .collect::<Vec<_>>()
        .join(" ")
}
