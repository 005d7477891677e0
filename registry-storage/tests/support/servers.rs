//! Servers of object stores for tests, all handled alike

use std::env;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command};
use std::time::Duration;

use registry_storage::bucket::{AzureOptions, Bucket, BucketOptions, ConnectOptions, S3Options};
use tempfile::TempDir;

use super::start;

/// The smallest part that S3 takes
pub const PART: usize = 5 * 1024 * 1024;

/// The account that every Azurite has; its key is in Azurite's documentation
const AZURE_ACCOUNT: &str = "devstoreaccount1";
const AZURE_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// The one bucket of a Garage; those that tests ask for are folders of it
pub(super) const GARAGE_BUCKET: &str = "tests";

pub const ACCESS_KEY: &str = "GK0123456789abcdef01234567";
pub const SECRET_KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// A server that tests can start
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `azurite` from npm; `REGISTRY_E2E_AZURITE` says where its `azurite-blob` is
    Azurite,
    /// `garage`, which takes no notice of the conditions of a write; `REGISTRY_E2E_GARAGE` says
    /// where it is
    Garage,
    /// `localstack-core` and `moto-ext` from PyPI; `REGISTRY_E2E_LOCALSTACK` says which Python
    /// has them
    LocalStack,
    /// `moto[server]` from PyPI; `REGISTRY_E2E_PYTHON` says which Python has it
    Moto,
    /// `s3s-fs`, in this process: the only one that looks at signatures
    S3s,
}

/// A server that was started for a test, and is stopped with it
pub struct Server {
    pub kind: Kind,
    pub port: u16,
    pub child: Option<Child>,
    /// What it keeps
    folder: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Server {
    /// `None`, and a word about it, where there is none
    ///
    /// # Panics
    ///
    /// If `REGISTRY_E2E` is `required`, and it is a server that the gate installs.
    pub fn start(kind: Kind) -> Option<Self> {
        Self::start_at(kind, 0)
    }

    pub fn start_at(kind: Kind, port: u16) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let started = start::start(kind, port, folder.path());
        let Some((child, port)) = started else {
            let text = format!(
                "not tested: {kind:?} is not installed: {}",
                start::advice(kind)
            );
            // To compile Garage takes longer than all else that the gate does.
            let required = env::var_os("REGISTRY_E2E").is_some_and(|value| value == "required")
                && kind != Kind::Garage;
            assert!(!required, "{text}");
            eprintln!("{text}");
            return None;
        };
        Some(Self {
            kind,
            port,
            child,
            folder,
        })
    }

    /// Kills it
    pub fn stop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Whether it refuses a write whose condition does not hold
    pub fn minds_conditions(&self) -> bool {
        self.kind != Kind::Garage
    }

    /// A bucket of this name, which is made if it is not there
    pub fn bucket(&self, name: &str, root: &str) -> Bucket {
        match self.kind {
            Kind::Moto | Kind::LocalStack => {
                let answer = call(self.port, "PUT", &format!("/{name}"));
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            }
            Kind::S3s => std::fs::create_dir_all(self.folder.path().join(name)).unwrap(),
            Kind::Garage => {}
            Kind::Azurite => {
                let made = Command::new("node")
                    .args(["-e", start::AZURE_CONTAINER, &self.port.to_string()])
                    .args([AZURE_ACCOUNT, AZURE_KEY, name])
                    .status();
                assert!(made.unwrap().success(), "no container `{name}`");
            }
        }
        self.open(name, root)
    }

    /// A bucket that may not be there
    pub fn open(&self, name: &str, root: &str) -> Bucket {
        let patience = Duration::from_secs(20);
        match self.kind {
            Kind::Azurite => {
                let azure = AzureOptions {
                    container: name.to_owned(),
                    account: Some(AZURE_ACCOUNT.to_owned()),
                    key: Some(AZURE_KEY.to_owned()),
                    endpoint: Some(format!("http://127.0.0.1:{}/{AZURE_ACCOUNT}", self.port)),
                    ..AzureOptions::default()
                };
                Bucket::azure(&azure, options(root), &connect(patience)).unwrap()
            }
            Kind::Garage => {
                let mut folder = name.to_owned();
                if !root.is_empty() {
                    let _ = write!(folder, "/{root}");
                }
                open(self.port, GARAGE_BUCKET, &folder, patience)
            }
            _ => open(self.port, name, root, patience),
        }
    }
}

pub fn s3(port: u16, bucket: &str) -> S3Options {
    S3Options {
        bucket: bucket.to_owned(),
        region: Some("us-east-1".to_owned()),
        region_endpoint: Some(format!("http://127.0.0.1:{port}")),
        access_key: Some(ACCESS_KEY.to_owned()),
        secret_key: Some(SECRET_KEY.to_owned()),
        ..S3Options::default()
    }
}

pub fn options(root: &str) -> BucketOptions {
    BucketOptions {
        root: root.to_owned(),
        part_size: PART as u64,
        copy_threshold: 2 * PART as u64,
        copy_piece: PART as u64,
        ..BucketOptions::default()
    }
}

pub fn connect(read_timeout: Duration) -> ConnectOptions {
    ConnectOptions {
        connect_timeout: Duration::from_secs(2),
        read_timeout,
        retries: 2,
        danger_skip_verify: true,
        ..ConnectOptions::default()
    }
}

pub fn open(port: u16, name: &str, root: &str, read_timeout: Duration) -> Bucket {
    Bucket::s3(&s3(port, name), options(root), &connect(read_timeout)).unwrap()
}

/// The whole answer to a request without a signature
pub fn call(port: u16, method: &str, path: &str) -> String {
    let mut server = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let head = format!("Host: 127.0.0.1:{port}\r\nContent-Length: 0\r\nConnection: close");
    write!(server, "{method} {path} HTTP/1.1\r\n{head}\r\n\r\n").unwrap();
    let mut answer = String::new();
    server.read_to_string(&mut answer).unwrap();
    answer
}
