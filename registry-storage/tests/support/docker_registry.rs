//! Debian's docker-registry on a bucket

use std::env;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use registry_core::Digest;
use tempfile::TempDir;

use super::servers::{ACCESS_KEY, SECRET_KEY};

/// A docker-registry that keeps everything in a bucket, and is stopped with the test
pub struct DockerRegistry {
    child: Child,
    pub port: u16,
    _folder: TempDir,
}

/// An answer over HTTP
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl DockerRegistry {
    /// `None`, and a word about it, where it is not installed
    pub fn start(s3: u16, bucket: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: info}}\nhttp: {{addr: '127.0.0.1:0'}}\nstorage:\n  s3:\n    \
             region: us-east-1\n    regionendpoint: http://127.0.0.1:{s3}\n    bucket: {bucket}\n    \
             accesskey: {ACCESS_KEY}\n    secretkey: {SECRET_KEY}\n    secure: false\n    \
             v4auth: true\n  delete: {{enabled: true}}\n  redirect: {{disable: true}}\n"
        );
        std::fs::write(&path, text).unwrap();
        let started = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            // With which its own transport of HTTP does not work.
            .env_remove("AWS_CA_BUNDLE")
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        let Ok(mut child) = started else {
            let text = "not tested: no docker-registry; install Debian's package docker-registry";
            let required = env::var_os("REGISTRY_E2E").is_some_and(|value| value == "required");
            assert!(!required, "{text}");
            eprintln!("{text}");
            return None;
        };
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = String::new();
        let port = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let _ = writeln!(said, "{line}");
            let (_, rest) = line.split_once("listening on 127.0.0.1:")?;
            let end = rest.find(|c: char| !c.is_ascii_digit());
            rest[..end.unwrap_or(rest.len())].parse().ok()
        });
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Some(Self {
            child,
            port: port.unwrap_or_else(|| panic!("it does not start: {said}")),
            _folder: folder,
        })
    }

    /// A request and its answer, which must have this status
    #[track_caller]
    pub fn send(
        &self,
        (method, path): (&str, &str),
        headers: &str,
        body: &[u8],
        status: u16,
    ) -> Answer {
        let mut server = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let path = match path.split_once("://") {
            Some((_, rest)) => &rest[rest.find('/').unwrap()..],
            None => path,
        };
        // Without chunks in the answer.
        write!(
            server,
            "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1:{}\r\nContent-Length: {}\r\n{headers}\r\n",
            self.port,
            body.len()
        )
        .unwrap();
        server.write_all(body).unwrap();
        let mut all = Vec::new();
        server.read_to_end(&mut all).unwrap();
        let end = all
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .unwrap();
        let head = String::from_utf8(all[..end].to_vec()).unwrap();
        let answer = Answer {
            status: head[9..12].parse().unwrap(),
            head,
            body: all.split_off(end + 4),
        };
        let text = String::from_utf8_lossy(&answer.body);
        assert_eq!(
            answer.status, status,
            "{method} {path}: {} {text}",
            answer.head
        );
        answer
    }

    /// Pushes a blob as docker does
    #[track_caller]
    pub fn push_blob(&self, name: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::sha256(bytes);
        self.send(
            ("HEAD", &format!("/v2/{name}/blobs/{digest}")),
            "",
            b"",
            404,
        );
        let begun = self.send(
            ("POST", &format!("/v2/{name}/blobs/uploads/")),
            "",
            b"",
            202,
        );
        let sent = self.send(("PATCH", &begun.header("location")), "", bytes, 202);
        let separator = "&digest=";
        let close = format!("{}{separator}{digest}", sent.header("location"));
        self.send(("PUT", &close), "", b"", 201);
        digest
    }

    #[track_caller]
    pub fn push_manifest(&self, name: &str, reference: &str, media_type: &str, text: &str) {
        let path = format!("/v2/{name}/manifests/{reference}");
        let headers = format!("Content-Type: {media_type}\r\n");
        self.send(("PUT", &path), &headers, text.as_bytes(), 201);
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Vec<u8> {
        let accept = "Accept: application/vnd.oci.image.manifest.v1+json\r\n\
                      Accept: application/vnd.oci.image.index.v1+json\r\n\
                      Accept: application/vnd.docker.distribution.manifest.v2+json\r\n\
                      Accept: application/vnd.docker.distribution.manifest.list.v2+json\r\n";
        self.send(("GET", path), accept, b"", 200).body
    }
}

impl Answer {
    #[track_caller]
    pub fn header(&self, name: &str) -> String {
        let found = self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name)
                .then(|| value.trim().to_owned())
        });
        found.unwrap_or_else(|| panic!("no `{name}` in {}", self.head))
    }
}
