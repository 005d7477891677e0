//! How each server is started

use std::env;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::s3s;
use super::servers::{ACCESS_KEY, GARAGE_BUCKET, Kind, SECRET_KEY, call};

/// Runs moto's server and says on which port
const MOTO: &str = "
import sys
from werkzeug.serving import make_server
from moto.server import DomainDispatcherApplication, create_backend_app
app = DomainDispatcherApplication(create_backend_app)
server = make_server('127.0.0.1', int(sys.argv[1]), app, threaded=True)
print('port', server.server_port, flush=True)
server.serve_forever()
";

/// Runs LocalStack's S3 and says on which port
///
/// Whatever it is told, it listens everywhere; here it listens on this machine alone.
const LOCALSTACK: &str = "
import os, runpy, socket, sys
bind = socket.socket.bind
def bind_here(self, address):
    if isinstance(address, tuple) and address[1] == 4566:
        bind(self, ('127.0.0.1', int(sys.argv[1])))
        print('the tests find it at', self.getsockname()[1], file=sys.stderr, flush=True)
    elif isinstance(address, tuple):
        bind(self, ('127.0.0.1', address[1]))
    else:
        bind(self, address)
socket.socket.bind = bind_here
runpy.run_module('localstack.runtime.main', run_name='__main__')
";

/// Makes a container: the client that the registry uses cannot
pub(super) const AZURE_CONTAINER: &str = "
const [port, account, key, name] = process.argv.slice(1);
const date = new Date().toUTCString(), version = '2021-08-06';
const text = 'PUT' + '\\n'.repeat(12) + `x-ms-date:${date}\\nx-ms-version:${version}\\n`
  + `/${account}/${account}/${name}\\nrestype:container`;
const signature = require('crypto').createHmac('sha256', Buffer.from(key, 'base64'))
  .update(text, 'utf8').digest('base64');
const headers = {'x-ms-date': date, 'x-ms-version': version,
  Authorization: `SharedKey ${account}:${signature}`, 'Content-Length': 0};
const path = `/${account}/${name}?restype=container`;
require('http').request({host: '127.0.0.1', port, method: 'PUT', path, headers}, answer =>
  process.exit([201, 409].includes(answer.statusCode) ? 0 : 1)).end();
";

/// How to get a server
pub(super) fn advice(kind: Kind) -> &'static str {
    match kind {
        Kind::Azurite => "`npm install azurite`, and set REGISTRY_E2E_AZURITE to its azurite-blob",
        Kind::Garage => {
            "`cargo install garage --version 2.5.0 --locked --no-default-features --features \
             sqlite,bundled-libs`, or set REGISTRY_E2E_GARAGE to a garage"
        }
        Kind::LocalStack => {
            "set REGISTRY_E2E_LOCALSTACK to a Python with the packages that `.ci/run` names"
        }
        Kind::Moto => {
            "`pip install 'moto[server]'`, or set REGISTRY_E2E_PYTHON to a Python that has it"
        }
        Kind::S3s => "it is a part of these tests",
    }
}

/// Starts a server that keeps its things in a folder; `None` if it is not installed
pub(super) fn start(kind: Kind, port: u16, folder: &Path) -> Option<(Option<Child>, u16)> {
    let program = |variable, name: &str| env::var_os(variable).unwrap_or_else(|| name.into());
    match kind {
        Kind::S3s => Some((None, s3s::serve(port, folder))),
        Kind::Moto => {
            let python = program("REGISTRY_E2E_PYTHON", "python3");
            installed(&python, &["-c", "import moto.server"])?;
            let mut server = Command::new(&python);
            server.args(["-c", MOTO, &port.to_string()]);
            let (child, port) = spawn(server.stderr(Stdio::null()), false, "port ");
            Some((Some(child), port))
        }
        Kind::LocalStack => {
            let python = program("REGISTRY_E2E_LOCALSTACK", "python3");
            installed(&python, &["-c", "import localstack.runtime.main"])?;
            let mut server = Command::new(&python);
            server
                .args(["-c", LOCALSTACK, &port.to_string()])
                .stdout(Stdio::null())
                .envs([
                    ("SERVICES", "s3"),
                    ("EAGER_SERVICE_LOADING", "1"),
                    ("GATEWAY_LISTEN", "127.0.0.1:4566"),
                    ("DISABLE_EVENTS", "1"),
                    ("DNS_ADDRESS", "0"),
                    ("SKIP_SSL_CERT_DOWNLOAD", "1"),
                ])
                .env("LOCALSTACK_VOLUME_DIR", folder)
                .env("TMPDIR", folder);
            let (child, port) = spawn(&mut server, true, "the tests find it at ");
            wait(port, "/_localstack/health");
            Some((Some(child), port))
        }
        Kind::Azurite => {
            let azurite = program("REGISTRY_E2E_AZURITE", "azurite-blob");
            installed(&azurite, &["--version"])?;
            let mut server = Command::new(&azurite);
            server
                .args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()])
                .args(["--silent", "--skipApiVersionCheck", "--disableTelemetry"])
                .arg("--inMemoryPersistence")
                .current_dir(folder)
                .stderr(Stdio::null());
            let (child, port) = spawn(&mut server, false, "listens on http://127.0.0.1:");
            Some((Some(child), port))
        }
        Kind::Garage => {
            let garage = program("REGISTRY_E2E_GARAGE", "garage");
            installed(&garage, &["--version"])?;
            // It does not say which port it was given.
            let free = || {
                TcpListener::bind("127.0.0.1:0")
                    .unwrap()
                    .local_addr()
                    .unwrap()
                    .port()
            };
            let port = if port == 0 { free() } else { port };
            let config = folder.join("garage.toml");
            let text = format!(
                "metadata_dir = '{0}/meta'\ndata_dir = '{0}/data'\ndb_engine = 'sqlite'\n\
                 replication_factor = 1\nrpc_bind_addr = '127.0.0.1:{1}'\n\
                 rpc_public_addr = '127.0.0.1:{1}'\nrpc_secret = '{SECRET_KEY}'\n\
                 [s3_api]\ns3_region = 'us-east-1'\napi_bind_addr = '127.0.0.1:{port}'\n",
                folder.display(),
                free(),
            );
            std::fs::write(&config, text).unwrap();
            let child = Command::new(&garage)
                .arg("-c")
                .arg(&config)
                .args(["server", "--single-node", "--default-bucket"])
                .envs([
                    ("GARAGE_DEFAULT_ACCESS_KEY", ACCESS_KEY),
                    ("GARAGE_DEFAULT_SECRET_KEY", SECRET_KEY),
                    ("GARAGE_DEFAULT_BUCKET", GARAGE_BUCKET),
                ])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            wait(port, "/");
            Some((Some(child), port))
        }
    }
}

fn installed(program: &OsString, arguments: &[&str]) -> Option<()> {
    let status = Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success()).then_some(())
}

/// Starts a server that says its port after `word`, there where its errors are or its output is
fn spawn(server: &mut Command, in_errors: bool, word: &str) -> (Child, u16) {
    let mut child = match in_errors {
        true => server.stderr(Stdio::piped()),
        false => server.stdout(Stdio::piped()),
    }
    .spawn()
    .unwrap();
    let output: Box<dyn std::io::Read + Send> = match in_errors {
        true => Box::new(child.stderr.take().unwrap()),
        false => Box::new(child.stdout.take().unwrap()),
    };
    let mut lines = BufReader::new(output).lines();
    let port = lines
        .by_ref()
        .map_while(Result::ok)
        .find_map(|line| Some(line.split_once(word)?.1.trim().parse().unwrap()));
    // It goes on to say things, and must not wait for a reader.
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
    (
        child,
        port.expect("the server ended before it said its port"),
    )
}

/// Waits until a server answers
fn wait(port: u16, path: &str) {
    let deadline = Instant::now() + Duration::from_secs(90);
    loop {
        if TcpStream::connect(("127.0.0.1", port)).is_ok()
            && call(port, "GET", path).starts_with("HTTP/1.1 ")
        {
            return;
        }
        assert!(Instant::now() < deadline, "no answer on port {port}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
