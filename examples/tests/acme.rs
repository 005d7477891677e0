//! Certificates from an ACME server: what a cache gives, what is refused, and a real server
//!
//! The last needs Pebble, the test server of Let's Encrypt (Debian's package `pebble`), and says
//! `SKIPPED` where it is missing; with `REGISTRY_E2E=required` that is a failure.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use registry_auth::{AllowAll, Anyone};
use registry_examples::acme::{Acme, AcmeError, AcmeOptions};
use registry_http::{Listener, RegistryService, ServeOptions, Stopped, Tls, serve};
use registry_storage::{Memory, Store};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

const HOST: &str = "registry.example.test";
const DIRECTORY: &str = "https://acme.example.test/dir";

/// A certificate for the host that expires in some seconds
fn expiring_in(seconds: u64) -> CertificateParams {
    let mut params = CertificateParams::new([HOST.to_owned()]).unwrap();
    let now = SystemTime::now();
    params.not_before = (now - Duration::from_secs(60)).into();
    params.not_after = (now + Duration::from_secs(seconds)).into();
    params
}

/// Writes what another process with the same options would have left in the cache
fn fill(cache: &Path, directory: &str, host: &str, seconds: u64) {
    let key = KeyPair::generate().unwrap();
    let chain = expiring_in(seconds).self_signed(&key).unwrap().pem();
    let content = serde_json::json!({
        "directory": directory,
        "hosts": [host],
        "key": key.serialize_pem(),
        "chain": chain,
    });
    fs::write(cache.join("certificate.json"), content.to_string()).unwrap();
}

fn open(cache: &Path) -> Acme {
    Acme::open(AcmeOptions::new(cache, [HOST]).with_directory(DIRECTORY)).unwrap()
}

#[test]
fn a_cached_certificate_is_used_if_it_is_ours() {
    let cache = TempDir::new().unwrap();
    assert!(open(cache.path()).expires().is_none());

    fill(cache.path(), DIRECTORY, HOST, 3600);
    let left = open(cache.path())
        .expires()
        .unwrap()
        .duration_since(SystemTime::now())
        .unwrap();
    assert!(left > Duration::from_secs(3500) && left <= Duration::from_secs(3600));

    fill(cache.path(), DIRECTORY, "other.example.test", 3600);
    assert!(open(cache.path()).expires().is_none());
    fill(cache.path(), "https://other.example.test/", HOST, 3600);
    assert!(open(cache.path()).expires().is_none());
    fs::write(cache.path().join("certificate.json"), "{").unwrap();
    assert!(open(cache.path()).expires().is_none());
}

#[test]
fn what_cannot_lead_to_a_certificate_is_refused_at_once() {
    let cache = TempDir::new().unwrap();
    let refused = |options: AcmeOptions| Acme::open(options).unwrap_err();
    let options = |host: &str| AcmeOptions::new(cache.path(), [host]);
    for host in [
        "",
        "*.example.test",
        "127.0.0.1",
        "two words",
        "a..b",
        "https://example.test",
    ] {
        let error = refused(options(host));
        assert!(matches!(error, AcmeError::Host(_)), "{error}");
        assert!(error.to_string().contains(host), "{error}");
    }
    let nobody: [&str; 0] = [];
    let error = refused(AcmeOptions::new(cache.path(), nobody));
    assert!(matches!(error, AcmeError::NoHosts), "{error}");
    for directory in ["http://example.test/dir", "example.test", ""] {
        let error = refused(options(HOST).with_directory(directory));
        assert!(matches!(error, AcmeError::Directory(_)), "{error}");
    }
    let file = cache.path().join("file");
    fs::write(&file, "no certificate").unwrap();
    let error = refused(AcmeOptions::new(&file, [HOST]));
    assert!(matches!(error, AcmeError::Cache { .. }), "{error}");
    for path in [file, cache.path().join("missing")] {
        let error = refused(options(HOST).with_authorities(&path)).to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    }
}

/// Processes of Pebble, which end with the test
struct Pebble {
    programs: (PathBuf, PathBuf),
    children: Vec<Child>,
    names: SocketAddr,
    folder: TempDir,
    address: SocketAddr,
    management: SocketAddr,
}

impl Drop for Pebble {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Pebble {
    fn stop(&mut self) {
        for mut child in self.children.drain(..) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file());
    if found.is_none() {
        let reason = format!("{program} not found; install Debian's package `pebble`");
        if std::env::var_os("REGISTRY_E2E").is_some_and(|value| value == "required") {
            panic!("{reason}; REGISTRY_E2E=required does not allow skipping");
        }
        // Written past the test harness, which would keep it to itself.
        let _ = writeln!(std::io::stderr(), "SKIPPED: {reason}");
    }
    found
}

/// An address that nobody listens on; Pebble does not choose one itself
fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

impl Pebble {
    /// Pebble that validates on `validated`, and gives certificates for `seconds`
    async fn start(validated: SocketAddr, seconds: u64) -> Option<Self> {
        let programs = (find("pebble")?, find("pebble-challtestsrv")?);
        let folder = TempDir::new().unwrap();
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        params.is_ca = IsCa::ExplicitNoCa;
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority =
            CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        let file = |name: &str, content: String| {
            let path = folder.path().join(name);
            fs::write(&path, content).unwrap();
            path
        };
        file("authority.pem", authority.pem());
        let (address, management, names) = (free_address(), free_address(), free_address());
        let config = serde_json::json!({ "pebble": {
            "listenAddress": address,
            "managementListenAddress": management,
            "certificate": file("cert.pem", certificate.pem()),
            "privateKey": file("key.pem", key.serialize_pem()),
            "httpPort": 1,
            "tlsPort": validated.port(),
            "certificateValidityPeriod": seconds,
        }});
        file("config.json", config.to_string());
        let mut pebble = Self {
            programs,
            children: Vec::new(),
            names,
            folder,
            address,
            management,
        };
        pebble.run().await;
        Some(pebble)
    }

    /// Starts the processes; they know nothing of what was before
    async fn run(&mut self) {
        let quiet = |command: &mut Command| {
            let command = command.stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().unwrap()
        };
        let (pebble, dns) = &self.programs;
        let names = self.names.to_string();
        self.children.push(quiet(
            Command::new(dns)
                .args(["-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""])
                .args(["-dns01", &names])
                .args(["-management", &free_address().to_string()])
                .args(["-http01", "", "-https01", "", "-tlsalpn01", ""]),
        ));
        self.children.push(quiet(
            Command::new(pebble)
                .env("PEBBLE_VA_NOSLEEP", "1")
                .arg("-config")
                .arg(self.folder.path().join("config.json"))
                .args(["-dnsserver", &names]),
        ));
        within(async {
            for address in [self.names, self.management] {
                while TcpStream::connect(address).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        })
        .await;
    }

    fn options(&self, cache: &Path) -> AcmeOptions {
        AcmeOptions::new(cache, [HOST])
            .with_email("admin@example.test")
            .with_directory(format!("https://{}/dir", self.address))
            .with_authorities(self.folder.path().join("authority.pem"))
    }

    /// The authority that signs what Pebble issues
    async fn root(&self) -> String {
        let authority = fs::read_to_string(self.folder.path().join("authority.pem")).unwrap();
        let (_, response) = get(self.management, "127.0.0.1", &authority, "/roots/0")
            .await
            .unwrap();
        let (_, pem) = response.split_once("\r\n\r\n").unwrap();
        pem.to_owned()
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future)
        .await
        .expect("it does not take that long")
}

/// The certificate of a server and its response
async fn get(
    address: SocketAddr,
    name: &str,
    authority: &str,
    path: &str,
) -> std::io::Result<(Vec<u8>, String)> {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(authority.as_bytes()).unwrap();
    roots.add(authority).unwrap();
    let config = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await?;
    let chain = stream.get_ref().1.peer_certificates().unwrap();
    let certificate = chain[0].to_vec();
    stream
        .write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())
        .await?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    Ok((certificate, response))
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn spawn(listener: TcpListener, acme: &Acme) -> JoinHandle<Stopped> {
    let store = Store::new(Arc::new(Memory::new()));
    let service = RegistryService::builder(store, Arc::new(Anyone), Arc::new(AllowAll)).build();
    let listener = Listener::from(listener).with_tls(Tls::open(acme.tls_options()).unwrap());
    let options = ServeOptions::default();
    tokio::spawn(serve(listener, service, options, std::future::pending()))
}

/// When the first certificate expires, once there is one
async fn ordered(acme: &Acme) -> SystemTime {
    within(async {
        loop {
            match acme.expires() {
                Some(at) => break at,
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    })
    .await
}

#[tokio::test]
async fn an_account_that_the_server_lost_is_made_again() {
    let (listener, address) = listener().await;
    let Some(mut pebble) = Pebble::start(address, 3600).await else {
        return;
    };
    let cache = TempDir::new().unwrap();
    let acme = Acme::open(pebble.options(cache.path())).unwrap();
    let serving = spawn(listener, &acme);
    let running = tokio::spawn(acme.clone().run());
    ordered(&acme).await;
    running.abort();
    serving.abort();
    let _ = serving.await;
    let account = || fs::read(cache.path().join("account.json")).unwrap();
    let before = account();

    // Pebble keeps nothing.
    pebble.stop();
    pebble.run().await;
    fs::remove_file(cache.path().join("certificate.json")).unwrap();
    let acme = Acme::open(pebble.options(cache.path())).unwrap();
    spawn(TcpListener::bind(address).await.unwrap(), &acme);
    let running = tokio::spawn(acme.clone().run());
    ordered(&acme).await;
    running.abort();
    assert_ne!(account(), before);
}

#[tokio::test]
async fn a_certificate_is_ordered_served_kept_and_renewed() {
    let (listener, address) = listener().await;
    let Some(mut pebble) = Pebble::start(address, 12).await else {
        return;
    };
    let cache = TempDir::new().unwrap();
    let folder = cache.path().join("made");
    let acme = Acme::open(pebble.options(&folder)).unwrap();
    spawn(listener, &acme);
    let running = tokio::spawn(acme.clone().run());
    let ordered = ordered(&acme).await;
    let root = pebble.root().await;
    let (first, response) = get(address, HOST, &root, "/v2/").await.unwrap();
    assert!(response.starts_with("HTTP/1.0 200 OK"), "{response}");

    // Renewed while it is still valid
    let (second, seen) = within(async {
        loop {
            let (certificate, _) = get(address, HOST, &root, "/v2/").await.unwrap();
            if certificate != first {
                break (certificate, SystemTime::now());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_ne!(first, second);
    assert!(seen < ordered, "the old one was still valid");

    running.abort();
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).unwrap() {
        let entry = entry.unwrap();
        names.push(entry.file_name().into_string().unwrap());
        assert_eq!(
            entry.metadata().unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
    names.sort();
    assert_eq!(names, ["account.json", "certificate.json"]);
    assert_eq!(
        fs::metadata(&folder).unwrap().permissions().mode() & 0o777,
        0o700
    );

    // The next process needs no server to begin with.
    let options = pebble.options(&folder);
    pebble.stop();
    assert_eq!(Acme::open(options).unwrap().expires(), acme.expires());
}

/// Log lines, kept for a look
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_log_says_why_there_is_no_certificate() {
    let lines = Lines::default();
    let writer = lines.clone();
    let _guard = tracing::subscriber::set_default(
        tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish(),
    );
    let logged = async || {
        within(async {
            loop {
                let text =
                    String::from_utf8(std::mem::take(&mut *lines.0.lock().unwrap())).unwrap();
                if let Some(line) = text
                    .lines()
                    .find(|line| line.contains("no certificate could"))
                {
                    break line.to_owned();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
    };

    let cache = TempDir::new().unwrap();
    let nobody = free_address();
    let options =
        AcmeOptions::new(cache.path(), [HOST]).with_directory(format!("https://{nobody}/dir"));
    let running = tokio::spawn(Acme::open(options).unwrap().run());
    let line = logged().await;
    assert!(line.contains("Connection refused"), "{line}");
    running.abort();

    // Nothing of ours answers where Pebble validates.
    let Some(pebble) = Pebble::start(nobody, 3600).await else {
        return;
    };
    let acme = Acme::open(pebble.options(cache.path())).unwrap();
    let running = tokio::spawn(acme.clone().run());
    let line = logged().await;
    assert!(line.contains("did not accept that we are"), "{line}");
    assert!(line.contains(HOST), "{line}");
    assert!(acme.expires().is_none());
    running.abort();
}
