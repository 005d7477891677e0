//! A server that speaks S3, with a bucket

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::Result;
use crate::http::Connection;
use crate::process::{Server, free_address, theirs};
use crate::site::Storage;

const BUCKET: &str = "registry";
/// How long garage may take to make its bucket
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs moto's server at an address; its log would be a line a request on the same processors
const MOTO: &str = "
import logging, sys
from werkzeug.serving import make_server, WSGIRequestHandler
from moto.server import DomainDispatcherApplication, create_backend_app
logging.getLogger('werkzeug').disabled = True
class Handler(WSGIRequestHandler):
    protocol_version = 'HTTP/1.1'
app = DomainDispatcherApplication(create_backend_app)
host, port = sys.argv[1].rsplit(':', 1)
make_server(host, int(port), app, threaded=True, request_handler=Handler).serve_forever()
";

/// A program that speaks S3
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// A real store, in Rust, on a folder
    Garage,
    /// A model of S3, in Python and in memory: right, but slow
    Moto,
}

/// A running server with an empty bucket
#[derive(Debug)]
pub struct Store {
    /// Which program it is, with its version
    pub name: String,
    /// Itself
    pub server: Server,
    region: &'static str,
    credentials: (String, String),
    // Removed when the server is gone.
    _folder: TempDir,
}

impl Program {
    /// Those that are installed, the fastest first
    pub fn installed() -> Vec<Self> {
        let mut found = Vec::new();
        if theirs("garage").is_some() {
            found.push(Self::Garage);
        }
        let moto = Command::new(python())
            .args(["-c", "import moto.server"])
            .output();
        if moto.is_ok_and(|output| output.status.success()) {
            found.push(Self::Moto);
        }
        found
    }

    /// Starts it with an empty bucket
    ///
    /// # Errors
    ///
    /// A server that is not installed or does not come up.
    pub fn start(self) -> Result<Store> {
        let folder = tempfile::Builder::new().prefix("compare").tempdir()?;
        match self {
            Self::Garage => garage(folder),
            Self::Moto => moto(folder),
        }
    }
}

impl Store {
    /// The bucket as a registry knows it, by way of `address`, in a folder of its own
    pub fn storage(&self, address: &str, root: &str) -> Storage {
        Storage::S3 {
            endpoint: format!("http://{address}"),
            bucket: BUCKET.to_owned(),
            region: self.region.to_owned(),
            credentials: self.credentials.clone(),
            root: root.to_owned(),
        }
    }
}

fn garage(folder: TempDir) -> Result<Store> {
    let program = theirs("garage").ok_or("garage is not installed")?;
    let (address, rpc) = (free_address()?, free_address()?);
    let at = folder.path().display();
    let config = folder.path().join("garage.toml");
    let rpc_secret = random_hex(32)?;
    fs::write(
        &config,
        format!(
            "metadata_dir = \"{at}/meta\"\ndata_dir = \"{at}/data\"\ndb_engine = \"sqlite\"\n\
             replication_factor = 1\nrpc_bind_addr = \"{rpc}\"\nrpc_public_addr = \"{rpc}\"\n\
             rpc_secret = \"{rpc_secret}\"\n[s3_api]\ns3_region = \"garage\"\n\
             api_bind_addr = \"{address}\"\nroot_domain = \".s3.garage\"\n"
        ),
    )?;
    let credentials = (format!("GK{}", random_hex(12)?), random_hex(32)?);
    let server = Server::logging(
        &address,
        Command::new(&program)
            .arg("-c")
            .arg(&config)
            .args(["server", "--single-node", "--default-bucket"])
            .env("GARAGE_DEFAULT_ACCESS_KEY", &credentials.0)
            .env("GARAGE_DEFAULT_SECRET_KEY", &credentials.1)
            .env("GARAGE_DEFAULT_BUCKET", BUCKET),
        &folder.path().join("log"),
    )?;
    // It listens before it has made its layout and the bucket.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let buckets = Command::new(&program)
            .arg("-c")
            .arg(&config)
            .args(["bucket", "list"])
            .output()?;
        if String::from_utf8_lossy(&buckets.stdout).contains(BUCKET) {
            break;
        }
        if Instant::now() > deadline {
            let log = fs::read_to_string(folder.path().join("log")).unwrap_or_default();
            return Err(format!("garage made no bucket: {log}").into());
        }
        thread::sleep(Duration::from_millis(100));
    }
    let version = Command::new(&program).arg("--version").output()?;
    let version = String::from_utf8_lossy(&version.stdout);
    // `garage cargo:2.5.0 [features: …]`
    let version = version.split('[').next().unwrap_or_default();
    Ok(Store {
        name: version.trim().replace("cargo:", ""),
        server,
        region: "garage",
        credentials,
        _folder: folder,
    })
}

fn moto(folder: TempDir) -> Result<Store> {
    let address = free_address()?;
    let server = Server::logging(
        &address,
        Command::new(python()).args(["-c", MOTO, &address]),
        &folder.path().join("log"),
    )?;
    let mut connection = Connection::open(&address)?;
    let path = format!("/{BUCKET}");
    connection.request("PUT", &path, "Content-Length: 0\r\n")?;
    connection.expect(200)?;
    Ok(Store {
        name: "moto".to_owned(),
        server,
        region: "us-east-1",
        credentials: ("key".to_owned(), "secret".to_owned()),
        _folder: folder,
    })
}

/// The Python that has moto, as the end-to-end tests find it
fn python() -> PathBuf {
    std::env::var_os("REGISTRY_E2E_PYTHON").map_or_else(|| "python3".into(), PathBuf::from)
}

fn random_hex(bytes: usize) -> Result<String> {
    let mut random = vec![0; bytes];
    fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}
