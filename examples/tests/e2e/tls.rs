//! TLS with a certificate of our own authority and users from a file, by real clients; and
//! certificates and users that change while transfers run

use std::fs;
use std::io::{BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use registry_core::{Algorithm, Digest, Hasher};
use rustls::pki_types::CertificateDer;

use crate::clients::podman_command;
use crate::engines::Docker;
use crate::support::check;
use crate::support::clients::{Home, find, find_for_root};
use crate::support::http::{self, basic, with_query};
use crate::support::image::{Layout, Noise, digest_of_file};
use crate::support::peer::Peer;
use crate::support::process::{Server, eventually, run, run_failing};
use crate::support::site::Site;
use crate::support::tls::{Authority, Client, Identity};

const CONFIG: &str = "\
version: 0.1
storage: {filesystem: {rootdirectory: $SITE/root}, delete: {enabled: true}}
http:
  addr: \"$ADDRESS\"
  tls: {certificate: $SITE/server.crt, key: $SITE/server.key}
auth: {htpasswd: {realm: team, path: $SITE/htpasswd}}
registry: {reload: {interval: 200ms}}
";

const OURS: [&str; 2] = ["ours", "made by our command"];
const THEIRS: [&str; 2] = ["theirs", "made by Apache's"];

/// A registry over TLS that knows two users
struct Secure {
    site: Site,
    authority: Authority,
    identity: Identity,
    client: Client,
    server: Server,
}

impl Secure {
    /// On `address`; nothing if Apache's `htpasswd` is not there
    #[track_caller]
    fn start(address: &str) -> Option<Self> {
        Self::start_with(&CONFIG.replace("$ADDRESS", address))
    }

    #[track_caller]
    fn start_with(config: &str) -> Option<Self> {
        let htpasswd = find("htpasswd", "apache2-utils")?;
        let site = Site::new();
        let authority = Authority::new();
        let identity = authority.server();
        site.write("server.crt", &identity.certificate);
        site.write_secret("server.key", &identity.key);
        fs::create_dir(site.path("certs")).expect("a folder");
        site.write("certs/ca.crt", &authority.pem);
        // Each of the two commands takes the file that the other made.
        let path = site.user("removed", "soon", 4);
        run(std::process::Command::new(htpasswd)
            .arg("-bB")
            .arg(path)
            .args(THEIRS));
        site.user(OURS[0], OURS[1], 4);
        let server = site.serve_with(config);
        Some(Self {
            client: Client::trusting(&authority),
            site,
            authority,
            identity,
            server,
        })
    }

    /// The folder that tools are given as `--cert-dir`
    fn certs(&self) -> String {
        self.site.path("certs").display().to_string()
    }

    fn peer(&self, [name, password]: [&str; 2]) -> Peer {
        Peer::over(&self.client, &self.server.address).user(name, password)
    }

    /// Installs another certificate of the same authority, of another key
    fn install(&self, identity: &Identity) {
        // Two files cannot change at once: in between they do not belong together, which must
        // do no harm.
        self.site.write_secret("server.key", &identity.key);
        self.site.write("server.crt", &identity.certificate);
    }

    fn shown(&self) -> CertificateDer<'static> {
        self.client
            .shown(&self.server.address)
            .expect("a handshake")
    }

    #[track_caller]
    fn shows(&self, identity: &Identity) {
        eventually("new connections see the new certificate", || {
            (self.shown() == identity.sent()).then_some(())
        });
    }
}

#[test]
fn skopeo() {
    let home = Home::new();
    let Some(skopeo) = home.skopeo() else { return };
    let Some(secure) = Secure::start("127.0.0.1:0") else {
        return;
    };
    let address = &*secure.server.address;
    let certs = &*secure.certs();
    let layout = Layout::write(&home.path("layout"), 31, &[30_000, 500_000]);
    let login = |arguments: &[&str]| {
        let mut command = skopeo.command(&["login"]);
        command.args(arguments).arg(address);
        command
    };

    // Who does not know the authority does not get as far as the password.
    let said = run_failing(&mut login(&["-u", OURS[0], "-p", OURS[1]]));
    assert!(
        said.contains("certificate signed by unknown authority"),
        "{said}"
    );
    for name in [OURS[0], "nobody"] {
        let wrong = ["--cert-dir", certs, "-u", name, "-p", "wrong"];
        let said = run_failing(&mut login(&wrong));
        assert!(said.contains("invalid username/password"), "{said}");
    }
    let push = |option: &[&str], to: &str| {
        let mut command = skopeo.command(&["copy", "--quiet", "--all", "--preserve-digests"]);
        command
            .args(["--dest-cert-dir", certs])
            .args(option)
            .arg(layout.reference("multi"))
            .arg(format!("docker://{address}/{to}"));
        command
    };
    let said = run_failing(&mut push(&[], "skopeo/none:v1"));
    assert!(
        said.contains("authentication required") || said.contains("unauthorized"),
        "{said}"
    );

    for (user, repository) in [(OURS, "skopeo/ours"), (THEIRS, "skopeo/theirs")] {
        let said = run(&mut login(&[
            "--cert-dir",
            certs,
            "-u",
            user[0],
            "-p",
            user[1],
        ]));
        assert!(said.contains("Login Succeeded"), "{said}");
        run(&mut push(&[], &format!("{repository}:v1")));
        let folder = home.path(format!("pulled-{}", user[0]));
        let mut pull = skopeo.command(&["copy", "--quiet", "--all", "--preserve-digests"]);
        pull.args(["--src-cert-dir", certs])
            .arg(format!("docker://{address}/{repository}:v1"))
            .arg(format!("oci:{}:x", folder.display()));
        run(&mut pull);
        for stored in [&layout.index, &layout.amd64, &layout.arm64]
            .into_iter()
            .chain(&layout.layers)
        {
            let blob = folder.join("blobs/sha256").join(stored.digest.hex());
            assert_eq!(digest_of_file(&blob), stored.digest);
        }
        run(skopeo.command(&["logout"]).arg(address));
    }
    for user in [" - ours [", " - theirs ["] {
        secure.server.prints(user);
    }
    assert!(secure.server.stop().success());
}

#[test]
fn podman() {
    let Some(program) = find_for_root("podman", "podman") else {
        return;
    };
    let Some(secure) = Secure::start("127.0.0.1:0") else {
        return;
    };
    let home = Home::new();
    let podman = |arguments: &[&str]| podman_command(&home, &program, arguments);
    let address = &*secure.server.address;
    let certs = &*secure.certs();
    let layout = Layout::write(&home.path("layout"), 32, &[30_000, 500_000]);
    let id = run(&mut podman(&["pull", "--quiet", &layout.reference("v1")]));
    let id = id.trim();
    let name = &*format!("{address}/podman/own:v1");

    let said = run_failing(&mut podman(&[
        "login", "-u", OURS[0], "-p", OURS[1], address,
    ]));
    assert!(
        said.contains("certificate signed by unknown authority"),
        "{said}"
    );
    let login = |password: &str| {
        let user = ["login", "--cert-dir", certs, "-u", OURS[0], "-p", password];
        let mut command = podman(&user);
        command.arg(address);
        command
    };
    let said = run_failing(&mut login("wrong"));
    assert!(said.contains("invalid username/password"), "{said}");
    let push = ["push", "--quiet", "--cert-dir", certs, id, name];
    let said = run_failing(&mut podman(&push));
    assert!(
        said.contains("authentication required") || said.contains("unauthorized"),
        "{said}"
    );
    let said = run(&mut login(OURS[1]));
    assert!(said.contains("Login Succeeded"), "{said}");
    let pushed = home.path("digest");
    run(podman(&push[..4])
        .arg("--digestfile")
        .arg(&pushed)
        .args([id, name]));
    let digest = fs::read_to_string(&pushed).expect("a digest");
    let served = secure.peer(THEIRS).send(
        "GET",
        "/v2/podman/own/manifests/v1",
        &[("Accept", check::ACCEPT)],
        &[],
    );
    let served = served.expect("answered").expect(&[200]);
    assert_eq!(digest.trim(), Digest::sha256(&served.body).to_string());
    run(&mut podman(&["rmi", "--all", "--force"]));
    let by_digest = format!("{address}/podman/own@{}", digest.trim());
    let pulled = run(&mut podman(&[
        "pull",
        "--quiet",
        "--cert-dir",
        certs,
        &by_digest,
    ]));
    assert_eq!(pulled.trim(), id);
    let said = run_failing(&mut podman(&["pull", "--quiet", name]));
    assert!(
        said.contains("certificate signed by unknown authority"),
        "{said}"
    );
}

#[test]
fn docker() {
    let home = Home::new();
    // What docker does not do on 127.0.0.0/8, where every registry is an insecure one to it, it
    // does on the other loopback.
    let verifies = TcpListener::bind("[::1]:0").is_ok();
    let docker = match verifies {
        true => Docker::start_apart(&home),
        false => Docker::start(&home),
    };
    let Some(docker) = docker else { return };
    let listen = if verifies { "[::1]:0" } else { "127.0.0.1:0" };
    let Some(secure) = Secure::start(listen) else {
        return;
    };
    let (_, port) = secure.server.address.rsplit_once(':').expect("a port");
    let host = &*match verifies {
        true => format!("registry.test:{port}"),
        false => format!("127.0.0.1:{port}"),
    };
    let layout = Layout::write(&home.path("layout"), 33, &[900_000]);
    let archive = layout.blob(&layout.layers[0].digest).display().to_string();
    let name = &*format!("{host}/docker/own:v1");
    let id = docker.run(&["import", &archive, name]);

    let login = |password: &str| docker.command(&["login", "-u", OURS[0], "-p", password, host]);
    if verifies {
        for refused in [&mut login(OURS[1]), &mut docker.command(&["push", name])] {
            let said = run_failing(refused);
            assert!(
                said.contains("certificate signed by unknown authority"),
                "{said}"
            );
        }
        docker.trust(host, &secure.authority.pem);
    } else {
        eprintln!("there is no [::1] here: docker uses TLS on 127.0.0.1, and verifies nothing");
    }
    let said = run_failing(&mut login("wrong"));
    assert!(
        said.contains("unauthorized") || said.contains("401"),
        "{said}"
    );
    let said = run_failing(&mut docker.command(&["push", name]));
    assert!(said.contains("no basic auth credentials"), "{said}");

    let said = run(&mut login(OURS[1]));
    assert!(said.contains("Login Succeeded"), "{said}");
    let said = docker.run(&["push", name]);
    let served = secure.peer(OURS).send(
        "GET",
        "/v2/docker/own/manifests/v1",
        &[("Accept", check::ACCEPT)],
        &[],
    );
    let digest = Digest::sha256(&served.expect("answered").expect(&[200]).body);
    assert!(said.contains(&format!("digest: {digest}")), "{said}");
    docker.run(&["rmi", name]);
    let by_digest = format!("{host}/docker/own@{digest}");
    docker.run(&["pull", &by_digest]);
    let pulled = docker.run(&["image", "inspect", "--format={{.Id}}", &by_digest]);
    assert_eq!(pulled, id);
    docker.run(&["logout", host]);
    docker.run(&["rmi", &by_digest]);
    let said = run_failing(&mut docker.command(&["pull", &by_digest]));
    assert!(said.contains("no basic auth credentials"), "{said}");
}

const PIECES: u64 = 256;

/// One of the mebibytes of a blob of 256
fn piece(noise: &[u8], number: u64) -> Vec<u8> {
    let mut piece = noise.to_vec();
    piece[..8].copy_from_slice(&number.to_le_bytes());
    piece
}

/// A transfer that stops midway until it is told to go on
struct Transfer {
    midway: mpsc::Receiver<()>,
    go_on: mpsc::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Transfer {
    fn start(transfer: impl FnOnce(&mut dyn FnMut()) + Send + 'static) -> Self {
        let (reached, midway) = mpsc::channel();
        let (go_on, told) = mpsc::channel();
        let thread = thread::spawn(move || {
            transfer(&mut || {
                reached.send(()).expect("the test waits");
                told.recv().expect("the test tells");
            });
        });
        Self {
            midway,
            go_on,
            thread,
        }
    }

    fn is_midway(&self) {
        let patience = Duration::from_secs(120);
        self.midway.recv_timeout(patience).expect("it gets there");
    }

    fn goes_on(&self) {
        self.go_on.send(()).expect("it waits");
    }

    fn ends(self) {
        self.thread.join().expect("the transfer is whole");
    }
}

/// Pushes in one request, stopping in the middle
fn push(client: &Client, address: &str, noise: Vec<u8>, digest: Digest) -> Transfer {
    let (client, address) = (client.clone(), address.to_owned());
    let authorization = basic(OURS[0], OURS[1]);
    Transfer::start(move |stop| {
        let headers = [("Authorization", &*authorization)];
        let started = client.send(&address, "POST", "/v2/large/blobs/uploads/", &headers, &[]);
        let location = started.expect("answered").expect(&[202]).location();
        let target = with_query(&location, &format!("digest={digest}"));
        let mut connection = client.connect(&address).expect("connected");
        let mut head = http::head(&address, "PUT", &target, &headers);
        head.push_str(&format!("Content-Length: {}\r\n\r\n", PIECES << 20));
        connection.write_all(head.as_bytes()).expect("sent");
        for number in 0..PIECES {
            if number == PIECES / 4 {
                stop();
            }
            let piece = piece(&noise, number);
            connection.write_all(&piece).expect("the connection holds");
        }
        let answer = http::read_response(connection, "PUT");
        answer.expect("answered").expect(&[201]);
    })
}

/// Pulls, stopping in the middle
fn pull(client: &Client, address: &str, digest: Digest) -> Transfer {
    let (client, address) = (client.clone(), address.to_owned());
    let authorization = basic(OURS[0], OURS[1]);
    Transfer::start(move |stop| {
        let mut connection = client.connect(&address).expect("connected");
        let headers = [("Authorization", &*authorization)];
        let mut head = http::head(
            &address,
            "GET",
            &format!("/v2/large/blobs/{digest}"),
            &headers,
        );
        head.push_str("\r\n");
        connection.write_all(head.as_bytes()).expect("sent");
        let mut reader = BufReader::new(connection);
        let (status, _) = http::read_head(&mut reader).expect("answered");
        assert_eq!(status, 200);
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let mut piece = vec![0; 1 << 20];
        for number in 0..PIECES {
            if number == PIECES / 4 {
                stop();
            }
            reader.read_exact(&mut piece).expect("the connection holds");
            hasher.update(&piece);
        }
        assert_eq!(hasher.finish(), digest);
    })
}

#[test]
fn a_certificate_replaced_while_transfers_run() {
    let Some(secure) = Secure::start("127.0.0.1:0") else {
        return;
    };
    let (client, address) = (&secure.client, &*secure.server.address);
    let noise = Noise::new(34).bytes(1 << 20);
    let mut hasher = Hasher::new(Algorithm::Sha256);
    for number in 0..PIECES {
        hasher.update(&piece(&noise, number));
    }
    let digest = hasher.finish();
    // There must be something to pull while the same is pushed again.
    let first = push(client, address, noise.clone(), digest);
    first.is_midway();
    first.goes_on();
    first.ends();

    assert_eq!(secure.shown(), secure.identity.sent());
    let transfers = [
        pull(client, address, digest),
        push(client, address, noise, digest),
    ];
    transfers.iter().for_each(Transfer::is_midway);
    let second = secure.authority.server();
    secure.install(&second);
    secure.shows(&second);
    transfers.iter().for_each(Transfer::goes_on);
    transfers.into_iter().for_each(Transfer::ends);

    // What cannot be used changes nothing, and is said.
    let said_before = secure.server.errors().len();
    let path = secure.site.write("server.crt", "no certificate\n");
    let path = path.display().to_string();
    secure.server.says_after(said_before, &[&path]);
    assert_eq!(secure.shown(), second.sent());
    secure.peer(OURS).get("/v2/").expect(&[200]);
    // Nor does a certificate of another key.
    let said_before = secure.server.errors().len();
    secure
        .site
        .write("server.crt", &secure.authority.server().certificate);
    secure.server.says_after(said_before, &[&path]);
    assert_eq!(secure.shown(), second.sent());

    let third = secure.authority.server();
    secure.install(&third);
    secure.shows(&third);
    assert!(secure.server.stop().success());
}

#[test]
fn sighup_reloads_what_is_not_looked_at_often() {
    let config = CONFIG
        .replace("$ADDRESS", "127.0.0.1:0")
        .replace("200ms", "1h");
    let Some(secure) = Secure::start_with(&config) else {
        return;
    };
    let second = secure.authority.server();
    secure.install(&second);
    secure.site.user("late", "comer", 4);
    secure.peer(["late", "comer"]).get("/v2/").expect(&[401]);
    assert_eq!(secure.shown(), secure.identity.sent());
    secure.server.reload();
    secure.shows(&second);
    eventually("the new user gets in", || {
        let answer = secure.peer(["late", "comer"]).get("/v2/");
        (answer.status == 200).then_some(())
    });
    assert!(secure.server.stop().success());
}

#[test]
fn users_who_come_and_go() {
    let Some(secure) = Secure::start("127.0.0.1:0") else {
        return;
    };
    let status = |user: [&str; 2]| secure.peer(user).get("/v2/").status;
    let removed = ["removed", "soon"];
    assert_eq!([status(removed), status(["late", "comer"])], [200, 401]);

    let htpasswd = secure.site.user("late", "comer", 4);
    eventually("the new user gets in", || {
        (status(["late", "comer"]) == 200).then_some(())
    });
    let text = fs::read_to_string(&htpasswd).expect("readable");
    let without: String = text
        .lines()
        .filter(|line| !line.starts_with("removed:"))
        .map(|line| format!("{line}\n"))
        .collect();
    assert!(without.len() < text.len());
    secure.site.write("htpasswd", &without);
    // Although the password was right a moment ago.
    eventually("the removed user is out", || {
        (status(removed) == 401).then_some(())
    });
    assert_eq!(status(OURS), 200);

    // A password that changes is another password.
    secure.site.user("late", "changed", 4);
    eventually("the old password is out", || {
        (status(["late", "comer"]) == 401).then_some(())
    });
    assert_eq!(status(["late", "changed"]), 200);

    // Broken: said once with file and line, and the old one stays in force.
    let before = fs::read_to_string(&htpasswd).expect("readable");
    let said_before = secure.server.errors().len();
    secure.site.write(
        "htpasswd",
        &format!("{before}eve:{{SHA}}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n"),
    );
    let path = htpasswd.display().to_string();
    let lines = before.lines().count() + 1;
    let line = format!("line {lines}");
    secure
        .server
        .says_after(said_before, &[&path, &line, "bcrypt"]);
    assert_eq!([status(OURS), status(["late", "changed"])], [200; 2]);
    assert_eq!(status(["eve", "password"]), 401);
    // Gone: no open door.
    let said_before = secure.server.errors().len();
    fs::remove_file(&htpasswd).expect("removed");
    secure.server.says_after(said_before, &[&path]);
    assert_eq!([status(OURS), status(["nobody", ""])], [200, 401]);
    let anyone = Peer::over(&secure.client, &secure.server.address);
    anyone.get("/v2/").expect(&[401]);

    secure.site.write("htpasswd", &without);
    eventually("the file that is back is in force", || {
        (status(["late", "changed"]) == 401).then_some(())
    });
    assert!(secure.server.stop().success());
}

#[test]
fn client_certificates_versions_and_protocols() {
    let site = Site::new();
    let (authority, clients) = (Authority::new(), Authority::new());
    let identity = authority.server();
    site.write("server.crt", &identity.certificate);
    site.write_secret("server.key", &identity.key);
    site.write("clients.crt", &clients.pem);
    let config = "\
version: 0.1
storage: {filesystem: {rootdirectory: $SITE/root}}
http:
  addr: 127.0.0.1:0
  http2: {disabled: true}
  tls:
    certificate: $SITE/server.crt
    key: $SITE/server.key
    minimumtls: tls1.3
    clientcas: [$SITE/clients.crt]
";
    let server = site.serve_with(config);
    let get = |client: &Client| client.send(&server.address, "GET", "/v2/", &[], &[]);
    let known = Client::showing(&authority, &clients.client("known"));
    get(&known).expect("answered").expect(&[200]);
    let digest = Peer::over(&known, &server.address).push_image("app", "v1", 35);
    let unknown = Client::showing(&authority, &authority.client("unknown"));
    for refused in [Client::trusting(&authority), unknown] {
        let answer = get(&refused);
        assert!(answer.is_err(), "served without a certificate: {answer:?}");
    }
    let offering = known.offering(&["h2", "http/1.1"]);
    let connection = offering.connect(&server.address).expect("a handshake");
    assert_eq!(connection.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert!(server.stop().success());

    let lenient = config
        .replace("    minimumtls: tls1.3\n", "")
        .replace("  http2: {disabled: true}\n", "")
        .replace("    clientcas: [$SITE/clients.crt]\n", "");
    let old = Client::speaking(&authority, &[&rustls::version::TLS12]);
    for (config, serves) in [
        (&*lenient, true),
        (
            &*lenient.replace("tls:\n", "tls:\n    minimumtls: tls1.3\n"),
            false,
        ),
    ] {
        let server = site.serve_with(config);
        assert_eq!(old.connect(&server.address).is_ok(), serves, "{config}");
        let new = Client::trusting(&authority).offering(&["h2", "http/1.1"]);
        let connection = new.connect(&server.address).expect("a handshake");
        assert_eq!(connection.conn.alpn_protocol(), Some(&b"h2"[..]));
        let peer = Peer::over(&Client::trusting(&authority), &server.address);
        assert_eq!(peer.pull_image("app", "v1"), digest);
        assert!(server.stop().success());
    }
}

#[test]
fn plain_http_to_a_tls_port_is_told_so() {
    let Some(secure) = Secure::start("127.0.0.1:0") else {
        return;
    };
    // Whatever it says, it serves nothing, and goes on serving others.
    if let Ok(answer) = http::send(&secure.server.address, "GET", "/v2/", &[], &[]) {
        assert_eq!(answer.status, 400);
    }
    secure.peer(OURS).get("/v2/").expect(&[200]);
}
