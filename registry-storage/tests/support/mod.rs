//! An S3 server for tests

// Not every test file needs all of it.
#![allow(dead_code, unreachable_pub)]

use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use registry_storage::bucket::{Bucket, BucketOptions, ConnectOptions, S3Options};

/// The smallest part that S3 takes
pub const PART: usize = 5 * 1024 * 1024;

/// Runs moto's server and says on which port
const SERVER: &str = "
import sys
from werkzeug.serving import make_server
from moto.server import DomainDispatcherApplication, create_backend_app
app = DomainDispatcherApplication(create_backend_app)
server = make_server('127.0.0.1', int(sys.argv[1]), app, threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
";

pub struct Moto {
    pub server: Child,
    pub port: u16,
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Moto {
    /// `None` where there is no moto
    pub fn start() -> Option<Self> {
        Self::start_at(0)
    }

    pub fn start_at(port: u16) -> Option<Self> {
        let python =
            env::var_os("REGISTRY_E2E_PYTHON").map_or_else(|| "python3".into(), PathBuf::from);
        let found = Command::new(&python)
            .args(["-c", "import moto.server"])
            .stderr(Stdio::null())
            .status();
        if !found.is_ok_and(|status| status.success()) {
            let text = "not tested: no S3 server; `pip install 'moto[server]'`, or set \
                        REGISTRY_E2E_PYTHON to a Python that has it";
            assert!(
                env::var_os("REGISTRY_E2E").is_none_or(|value| value != "required"),
                "{text}"
            );
            eprintln!("{text}");
            return None;
        }
        let mut server = Command::new(&python)
            .args(["-c", SERVER, &port.to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = server.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        let port = line.trim().parse().unwrap();
        Some(Self { server, port })
    }

    /// A bucket of this name, which is made if it is not there
    pub fn bucket(&self, name: &str, root: &str) -> Bucket {
        let answer = call(self.port, "PUT", &format!("/{name}"));
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        self.open(name, root)
    }

    pub fn open(&self, name: &str, root: &str) -> Bucket {
        open(self.port, name, root, Duration::from_secs(20))
    }
}

pub fn open(port: u16, name: &str, root: &str, read_timeout: Duration) -> Bucket {
    let s3 = S3Options {
        bucket: name.to_owned(),
        region: Some("us-east-1".to_owned()),
        region_endpoint: Some(format!("http://127.0.0.1:{port}")),
        access_key: Some("key".to_owned()),
        secret_key: Some("secret".to_owned()),
        ..S3Options::default()
    };
    let options = BucketOptions {
        root: root.to_owned(),
        part_size: PART as u64,
        copy_threshold: 2 * PART as u64,
        copy_piece: PART as u64,
        ..BucketOptions::default()
    };
    let connect = ConnectOptions {
        connect_timeout: Duration::from_secs(2),
        read_timeout,
        retries: 2,
        danger_skip_verify: true,
        ..ConnectOptions::default()
    };
    Bucket::s3(&s3, options, &connect).unwrap()
}

/// The whole answer to a request without a signature
pub fn call(port: u16, method: &str, path: &str) -> String {
    let mut server = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let head = "Host: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close";
    write!(server, "{method} {path} HTTP/1.1\r\n{head}\r\n\r\n").unwrap();
    let mut answer = String::new();
    server.read_to_string(&mut answer).unwrap();
    answer
}
