//! The program itself, with a registry of its own and with one behind it

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use registry_core::Digest;

const PROXY: &str = env!("CARGO_BIN_EXE_docker-proxy");
const REGISTRY: &str = env!("CARGO_BIN_EXE_registry");

/// A program that sees nothing of the environment that would change what it does
fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_remove("RUST_LOG");
    for (name, _) in std::env::vars_os() {
        let name_bytes = name.as_encoded_bytes();
        if name_bytes.starts_with(b"ACUMOS_") || name_bytes.starts_with(b"REGISTRY_") {
            command.env_remove(name);
        }
    }
    command
}

/// A program that serves, ended by its id
struct Server {
    child: Child,
    address: String,
    said: Vec<String>,
}

impl Server {
    #[track_caller]
    fn start(command: &mut Command, last: &str) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let (mut said, mut address) = (Vec::new(), None);
        loop {
            let mut line = String::new();
            if output.read_line(&mut line).unwrap() == 0 {
                panic!("it ended: {:?}, {said:?}", child.wait());
            }
            if let Some((_, rest)) = line.split_once("listening on http://") {
                address = Some(rest.trim().to_owned());
            }
            let ended = line.starts_with(last);
            said.push(line);
            if ended {
                break;
            }
        }
        // A full pipe must not stop it.
        thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        Self {
            child,
            address: address.expect("it says where it listens"),
            said,
        }
    }

    /// Asks it to end, and waits; whether it ended well
    fn end(&mut self) -> bool {
        let id = self.child.id().to_string();
        let asked = Command::new("kill").arg(&id).status().unwrap();
        asked.success() && self.child.wait().unwrap().success()
    }

    fn send(&self, request: &Call<'_>) -> Answer {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let login = request.user.map(|user| {
            let password = match request.password {
                Some(password) => password.to_owned(),
                None => format!("hunter2-{user}"),
            };
            let login = BASE64_STANDARD.encode(format!("{user}:{password}"));
            format!("Authorization: Basic {login}\r\n")
        });
        let head = format!(
            "{} {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: {}\r\nContent-Length: {}\r\n{}\r\n",
            request.method,
            request.path,
            self.address,
            request.media_type,
            request.body.len(),
            login.unwrap_or_default(),
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(request.body).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let status = text
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        Answer {
            status: status.unwrap_or_else(|| panic!("{text}")),
            text,
        }
    }

    fn get(&self, path: &str, user: Option<&str>) -> Answer {
        self.send(&Call {
            user,
            ..Call::new("GET", path)
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Call<'a> {
    method: &'a str,
    path: &'a str,
    user: Option<&'a str>,
    /// Another than that of [`platform`]
    password: Option<&'a str>,
    media_type: &'a str,
    body: &'a [u8],
}

impl<'a> Call<'a> {
    fn new(method: &'a str, path: &'a str) -> Self {
        Self {
            method,
            path,
            user: None,
            password: None,
            media_type: "application/octet-stream",
            body: b"",
        }
    }
}

struct Answer {
    status: u16,
    text: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.text.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

fn run(arguments: &[&str], input: &str) -> Output {
    let mut child = command(PROXY)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

/// Makes the users and a solution of ada's with one revision; its image, without the tag
fn platform(database: &Path) -> String {
    const ID: &str = "9d294c20-7b1f-4ab7-b8b3-03bc7f069ac1";
    let database = database.to_str().unwrap();
    let directory = |arguments: &[&str], input: &str| {
        let all = [&["directory", "--database", database], arguments].concat();
        let output = run(&all, input);
        assert!(output.status.success(), "{output:?}");
    };
    directory(&["user", "add", "ada"], "hunter2-ada\n");
    directory(&["user", "add", "bob"], "hunter2-bob\n");
    directory(
        &[
            "solution", "add", "--name", "Iris", "--owner", "ada", "--id", ID,
        ],
        "",
    );
    directory(&["revision", "add", "--solution", ID, "--version", "1"], "");
    format!("iris_{ID}")
}

/// Pushes an image without layers, as far as it is let; the status that ended it
fn push(server: &Server, image: &str, tag: &str, user: Option<&str>) -> u16 {
    let config = b"{}";
    let digest = Digest::sha256(config);
    let began = server.send(&Call {
        user,
        ..Call::new("POST", &format!("/v2/{image}/blobs/uploads/"))
    });
    if began.status != 202 {
        return began.status;
    }
    let location = began.header("location").unwrap();
    let path = location.split_once("/v2/").unwrap().1;
    let joint = if path.contains('?') { '&' } else { '?' };
    let put = server.send(&Call {
        user,
        body: config,
        ..Call::new("PUT", &format!("/v2/{path}{joint}digest={digest}"))
    });
    if put.status != 201 {
        return put.status;
    }
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = format!(
        "{{\"schemaVersion\":2,\"mediaType\":\"{media_type}\",\"config\":{{\"mediaType\":\
         \"application/vnd.oci.image.config.v1+json\",\"digest\":\"{digest}\",\"size\":2}},\
         \"layers\":[]}}"
    );
    server
        .send(&Call {
            user,
            media_type,
            body: manifest.as_bytes(),
            ..Call::new("PUT", &format!("/v2/{image}/manifests/{tag}"))
        })
        .status
}

/// What must hold whatever is guarded
fn is_guarded(server: &Server, image: &str) {
    let nobody = server.get("/v2/", None);
    assert_eq!(nobody.status, 401);
    assert_eq!(
        nobody.header("www-authenticate"),
        Some("Basic realm=\"Acumos\"")
    );
    assert_eq!(server.get("/v2/", Some("eve")).status, 401);
    assert_eq!(server.get("/v2/", Some("ada")).status, 200);

    assert_eq!(push(server, image, "1", Some("ada")), 201);
    assert_eq!(push(server, image, "1", None), 401);
    // Another's, the tag of no revision, and no model at all.
    assert!([403, 404].contains(&push(server, image, "1", Some("bob"))));
    assert!([403, 404].contains(&push(server, image, "2", Some("ada"))));
    assert!([403, 404].contains(&push(server, "alpine", "1", Some("ada"))));

    let manifest = format!("/v2/{image}/manifests/1");
    let pulled = server.get(&manifest, Some("ada"));
    assert_eq!(pulled.status, 200, "{}", pulled.text);
    let blob = format!("/v2/{image}/blobs/{}", Digest::sha256(b"{}"));
    assert_eq!(server.get(&blob, Some("ada")).status, 200);
    for path in [&manifest, &blob] {
        assert_eq!(server.get(path, None).status, 401);
        let hidden = server.get(path, Some("bob"));
        assert_eq!(hidden.status, 404, "{}", hidden.text);
        // What let everyone in before.
        for path in [
            format!("/authok{path}"),
            format!("/foo{path}"),
            format!("/{path}"),
        ] {
            assert_eq!(server.get(&path, None).status, 404, "{path}");
        }
    }
    for path in ["/livez", "/readyz"] {
        assert_eq!(server.get(path, None).status, 200, "{path}");
    }
}

#[test]
fn embedded_it_guards_a_registry_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("try");
    let embedded = path.to_str().unwrap();
    let mut command = command(PROXY);
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--embedded", embedded])
        .env(
            "ACUMOS_DOCKER_PROXY_LOG_FILE",
            folder.path().join("docker-proxy.log"),
        );
    let mut server = Server::start(&mut command, "try: ");
    let said = server.said.concat();
    let database = path.join("directory.db");
    for part in [
        format!("guarding a registry of its own in {embedded}/images"),
        "for the users of the platform".to_owned(),
        format!("directory --database {} user add ada", database.display()),
        format!("try: docker login {}", server.address),
        format!("logging to {}/docker-proxy", folder.path().display()),
    ] {
        assert!(said.contains(&part), "{part}: {said}");
    }
    let image = platform(&database);
    is_guarded(&server, &image);

    let explain = |user: &str, json: &[&str]| {
        let question = [
            "explain",
            "--embedded",
            embedded,
            "--user",
            user,
            "--action",
            "push",
        ];
        let what = ["--repo", &image, "--tag", "1"];
        run(&[&question[..], &what, json].concat(), "")
    };
    let allowed = explain("ada", &[]);
    assert!(allowed.status.success(), "{allowed:?}");
    assert!(String::from_utf8_lossy(&allowed.stdout).contains("verdict: allow"));
    let denied = explain("bob", &["--json"]);
    assert_eq!(denied.status.code(), Some(1), "{denied:?}");
    let json: serde_json::Value = serde_json::from_slice(&denied.stdout).unwrap();
    assert_eq!(json["allow"], false);

    assert!(server.end());
    let log = std::fs::read_to_string(folder.path().join("docker-proxy/docker-proxy.log"));
    assert!(!log.unwrap().contains("hunter2"));
}

#[test]
fn it_guards_a_registry_behind_it() {
    let folder = tempfile::tempdir().unwrap();
    let images = folder.path().join("images");
    let upstream = Server::start(
        command(REGISTRY)
            .args(["serve", "--listen", "127.0.0.1:0", "--root"])
            .arg(images),
        "try: ",
    );
    let database = folder.path().join("directory.db");
    let image = platform(&database);
    let config = folder.path().join("proxy.yaml");
    let text = format!(
        "listen: 127.0.0.1:0\nupstream: {{url: 'http://{}'}}\nacumos: {{database: '{}'}}\n\
         logs: {{directory: '{}'}}\n",
        upstream.address,
        database.display(),
        folder.path().display(),
    );
    std::fs::write(&config, text).unwrap();
    let mut server = Server::start(command(PROXY).arg("serve").arg(&config), "try: ");
    let said = server.said.concat();
    assert!(
        said.contains(&format!("guarding http://{}", upstream.address)),
        "{said}"
    );
    is_guarded(&server, &image);
    assert_eq!(
        upstream
            .get(&format!("/v2/{image}/manifests/1"), None)
            .status,
        200
    );
    assert!(server.end());
    let log = std::fs::read_to_string(folder.path().join("docker-proxy/docker-proxy.log")).unwrap();
    assert!(
        log.contains("INVOKE_RETURN") && !log.contains("hunter2"),
        "{log}"
    );
    // Neither has a secret that another replica could have too.
    assert!(
        log.contains("no other replica can go on with them"),
        "{log}"
    );
}

#[test]
fn what_it_says_at_first_is_how_to_begin() {
    let folder = tempfile::tempdir().unwrap();
    // A shell must be told that it is one word.
    let path = folder.path().join("ada's try");
    let start = || {
        let mut command = command(PROXY);
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--embedded"])
            .arg(&path);
        Server::start(&mut command, "try: ")
    };
    let server = start();
    let said = server.said.concat();
    assert!(said.contains("nobody can log in yet"), "{said}");
    let commands: Vec<&str> = server
        .said
        .iter()
        .filter_map(|line| line.strip_prefix("  docker-proxy "))
        .collect();
    assert_eq!(commands.len(), 3, "{said}");
    for arguments in commands {
        let mut shell = Command::new("sh")
            .args(["-c", &format!("\"$PROXY\" {arguments}")])
            .env("PROXY", PROXY)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // Who wants no password does not read it.
        let _ = shell.stdin.take().unwrap().write_all(b"hunter2-ada\n");
        assert!(shell.wait().unwrap().success(), "{arguments}");
    }
    let pushed = server
        .said
        .iter()
        .find_map(|line| line.trim().strip_prefix("docker push "))
        .unwrap();
    let (host, image) = pushed.split_once('/').unwrap();
    assert_eq!(host, server.address);
    let (name, tag) = image.split_once(':').unwrap();
    assert_eq!(push(&server, name, tag, Some("ada")), 201);
    drop(server);

    let said = start().said.concat();
    assert!(!said.contains("nobody can log in yet"), "{said}");
    assert!(said.contains("user add NAME"), "{said}");
}

#[test]
fn programs_log_in_with_secrets_that_can_be_changed() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let database = folder.path().join("try/directory.db");
    std::fs::create_dir(folder.path().join("try")).unwrap();
    let image = platform(&database);
    // A user of the name of a program is not let in by it.
    let all = [
        "directory",
        "--database",
        database.to_str().unwrap(),
        "user",
        "add",
        "robot",
    ];
    assert!(run(&all, "hunter2-robot\n").status.success());
    let [first, second] = ["hunter2-0123456789", "hunter2-9876543210"];
    std::fs::write(folder.path().join("robot"), format!("{first}\n")).unwrap();
    let config = folder.path().join("proxy.yaml");
    let text = format!(
        "listen: 127.0.0.1:0\nembedded: '{}'\nserviceaccounts: [{{name: robot, passwordfile: '{}'}}]\n\
         audit: '{}'\nreload: {{interval: 50ms}}\nlogs: {{directory: '{}'}}\n",
        at("try"),
        at("robot"),
        at("audit.json"),
        at("logs"),
    );
    std::fs::write(&config, text).unwrap();
    let mut server = Server::start(command(PROXY).arg("serve").arg(&config), "try: ");
    let said = server.said.concat();
    assert!(
        said.contains("for the users of the platform and the program robot"),
        "{said}"
    );
    let login = |password| {
        let call = Call {
            user: Some("robot"),
            password,
            ..Call::new("GET", "/v2/")
        };
        server.send(&call).status
    };
    assert_eq!(
        [login(Some(first)), login(Some(second)), login(None)],
        [200, 401, 401]
    );
    // It has no right of its own, and pulls and pushes every image.
    assert_eq!(push(&server, &image, "1", Some("ada")), 201);
    let manifest = format!("/v2/{image}/manifests/1");
    let call = Call {
        user: Some("robot"),
        password: Some(first),
        ..Call::new("GET", &manifest)
    };
    assert_eq!(server.send(&call).status, 200);

    let soon = |what: &str, so: &dyn Fn() -> bool| {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !so() {
            assert!(Instant::now() < deadline, "{what}");
            thread::sleep(Duration::from_millis(25));
        }
    };
    std::fs::write(folder.path().join("robot"), second).unwrap();
    soon("the new secret is in force", &|| login(Some(second)) == 200);
    assert_eq!(login(Some(first)), 401);
    // What is no secret changes nothing.
    std::fs::write(folder.path().join("robot"), "").unwrap();
    let log = || {
        std::fs::read_to_string(folder.path().join("logs/docker-proxy/docker-proxy.log"))
            .unwrap_or_default()
    };
    soon("it says that it is none", &|| {
        log().contains("the secret of `robot`")
    });
    assert_eq!(login(Some(second)), 200);
    assert!(server.end());
    let audit = std::fs::read_to_string(folder.path().join("audit.json")).unwrap();
    let line: serde_json::Value = serde_json::from_str(audit.lines().last().unwrap()).unwrap();
    assert_eq!(line["principal"]["name"], "robot", "{line}");
    assert_eq!(line["allow"], true, "{line}");
    assert!(!(log() + &audit).contains("hunter2"));
}

#[test]
fn errors_name_its_own_keys() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let config = folder.path().join("proxy.yaml");
    for (text, expected) in [
        (
            "tls: {certificate: /nowhere.crt, key: /nowhere.key}",
            "error: `tls`: ",
        ),
        (
            "tls: {certificate: /c, key: /k, ciphersuites: [TLS_NONE]}",
            ": `tls.ciphersuites`: ",
        ),
        (
            &format!("listen: '{taken}'"),
            "choose an address with `--listen` or `listen`",
        ),
        ("certificates: {kind: user}", "error: `certificates`: "),
        (
            "serviceaccounts: [{name: robot, password: hunter2}]",
            "error: `serviceaccounts`: the secret of `robot` has 7 bytes",
        ),
        ("sessions: {secretfile: /nowhere}", "error: `sessions`: "),
        ("audit: /nowhere/audit.json", "error: `audit`: "),
        ("htpasswd: {path: /nowhere}", "error: `htpasswd.path`: "),
        (
            "tokens: {services: [a], key: /nowhere/key, realm: 'https://a/t'}",
            "error: `tokens.key`: ",
        ),
        (
            "tokens: {services: [a], key: k}",
            "error: `tokens`: expected `realm`",
        ),
    ] {
        let listen = match text.contains("listen") {
            true => "",
            false => "listen: 127.0.0.1:0\n",
        };
        let embedded = folder.path().join("try");
        let text = format!("{listen}embedded: '{}'\n{text}\n", embedded.display());
        std::fs::write(&config, &text).unwrap();
        let output = run(&["serve", config.to_str().unwrap()], "");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}{error}");
        assert!(error.contains(expected), "{text}{error}");
        for part in ["http.", "registry.", "auth.", "hunter2"] {
            assert!(!error.contains(part), "{part}: {text}{error}");
        }
    }
}

#[test]
fn it_ends_with_one_line_that_says_what_to_do() {
    let output = run(&["serve"], "");
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.starts_with("error: expected `upstream.url`"),
        "{error}"
    );
    assert!(error.contains("--embedded"), "{error}");
    let output = run(&["serv"], "");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("docker-proxy --help"));
}
