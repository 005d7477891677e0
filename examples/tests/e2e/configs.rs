//! Configurations of distribution, unchanged but for paths, ports and certificates; and the
//! command line that checks them

use std::net::TcpListener;
use std::process::Command;

use crate::support::clients;
use crate::support::peer::Peer;
use crate::support::process::{Server, finish, registry, run};
use crate::support::site::Site;
use crate::support::tls::{Authority, Client};

/// The white paper's, of a registry on NFS with a certificate
const WHITE_PAPER: &str = "\
version: 0.1
log:
  fields:
    service: registry
storage:
    cache:
        blobdescriptor: inmemory
    filesystem:
        rootdirectory: $SITE/root
http:
    addr: 127.0.0.1:0
    tls:
      certificate: $SITE/ca.crt
      key: $SITE/ca.key
    headers:
      X-Content-Type-Options: [nosniff]
";

/// What Debian's package `docker-registry` installs as `/etc/docker/registry/config.yml`
const DEBIAN: &str = "\
version: 0.1
log:
  fields:
    service: registry
storage:
  cache:
    blobdescriptor: inmemory
  filesystem:
    rootdirectory: $SITE/root
  delete:
    enabled: true
http:
  addr: 127.0.0.1:0
  headers:
    X-Content-Type-Options: [nosniff]
auth:
  htpasswd:
    realm: basic-realm
    path: $SITE/htpasswd
health:
  storagedriver:
    enabled: true
    interval: 10s
    threshold: 3
";

/// That of distribution's recipe for OS X
const OS_X: &str = "\
version: 0.1
log:
  level: info
  fields:
    service: registry
    environment: macbook-air
storage:
  cache:
    blobdescriptor: inmemory
  filesystem:
    rootdirectory: $SITE/root
http:
  addr: 127.0.0.1:0
  secret: mytokensecret
  debug:
    addr: localhost:0
";

/// Pushes and pulls, and checks what every answer has
#[track_caller]
fn serves(peer: &Peer) {
    let digest = peer.push_image("team/app", "v1", 1);
    assert_eq!(peer.pull_image("team/app", "v1"), digest);
}

/// The warnings about keys, which name what is not honoured and nothing else
#[track_caller]
fn warns_about(server: &Server, keys: &[&str]) {
    for key in keys {
        server.says(&["WARN", &format!("`{key}`")]);
    }
    let log = server.errors();
    let warnings = log.lines().filter(|line| line.contains("WARN")).count();
    assert_eq!(warnings, keys.len(), "{log}");
}

#[test]
fn the_white_papers() {
    let site = Site::new();
    let authority = Authority::new();
    let identity = authority.server();
    site.write("ca.crt", &identity.certificate);
    site.write_secret("ca.key", &identity.key);
    let server = site.serve_with(WHITE_PAPER);
    let peer = Peer::over(&Client::trusting(&authority), &server.address);
    serves(&peer);
    let answer = peer.get("/v2/").expect(&[200]);
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    warns_about(&server, &["storage.cache.blobdescriptor"]);
    server.prints(" listening on https://127.0.0.1:");
    assert!(
        site.path("root/docker/registry/v2/repositories/team/app")
            .is_dir()
    );

    // Deletes are off unless a file turns them on, as ever.
    peer.request("DELETE", "/v2/team/app/manifests/v1")
        .expect(&[405]);
    assert!(server.stop().success());
}

#[test]
fn debians() {
    let site = Site::new();
    site.user("tester", "secret-of-tester", 4);
    let server = site.serve_with(DEBIAN);
    let anyone = Peer::plain(&server.address);
    let refused = anyone.get("/v2/").expect(&[401]);
    let challenge = refused.header("www-authenticate");
    assert_eq!(challenge, Some("Basic realm=\"basic-realm\""));
    assert_eq!(refused.header("x-content-type-options"), Some("nosniff"));
    let tester = anyone.clone().user("tester", "secret-of-tester");
    tester.get("/v2/").expect(&[200]);
    anyone.user("tester", "wrong").get("/v2/").expect(&[401]);
    serves(&tester);
    tester
        .request("DELETE", "/v2/team/app/manifests/v1")
        .expect(&[202]);
    warns_about(&server, &["storage.cache.blobdescriptor"]);
    assert!(server.stop().success());

    // As the package leaves it, the path is that of a folder: no registry that is open to all.
    std::fs::create_dir(site.path("folder")).expect("a folder");
    let said = site.refusal(&DEBIAN.replace("$SITE/htpasswd", "$SITE/folder"));
    let folder = site.path("folder").display().to_string();
    assert!(said.contains(&folder), "{said}");
}

#[test]
fn the_os_x_recipes() {
    let site = Site::new();
    let server = site.serve_with(OS_X);
    serves(&Peer::plain(&server.address));
    warns_about(&server, &["storage.cache.blobdescriptor", "http.secret"]);
    let debug = Peer::plain(&server.debug_address());
    debug.get("/debug/vars").expect(&[200]);
    // `http.debug.prometheus` is off in it.
    debug.get("/metrics").expect(&[404]);
    for line in server.errors().lines() {
        assert!(
            line.contains("macbook-air"),
            "a line without the fields: {line}"
        );
    }
    assert!(!server.log().contains("mytokensecret"), "{}", server.log());
    assert!(server.stop().success());
}

#[test]
fn what_cannot_be_is_one_clear_line() {
    let site = Site::new();
    let config = site.path("config.yml").display().to_string();
    let storage = "version: 0.1\nstorage: {filesystem: {rootdirectory: $SITE/root}}\n";
    site.write("file", "no folder\n");
    site.write("md5", "ann:$apr1$e0rnUXTL$/cHpBRJsvB6SdfIRRbjvs0\n");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("an address").to_string();
    for (more, parts) in [
        // With the line, and the key that was probably meant.
        (
            "htpt: {addr: \"127.0.0.1:0\"}\n",
            vec![&*format!("{config}:3"), "htpt", "http"],
        ),
        (
            "http: {addr: \"127.0.0.1:0\", draintimeout: soon}\n",
            vec![&*format!("{config}:3"), "http.draintimeout", "soon"],
        ),
        ("http: {addr: nowhere}\n", vec!["nowhere", "127.0.0.1:5000"]),
        ("http: [\n", vec![&*config]),
        (
            "http: {addr: \"127.0.0.1:0\"}\nauth: {htpasswd: {realm: r, path: $SITE/missing}}\n",
            vec![&*site.path("missing").display().to_string()],
        ),
        (
            "http: {addr: \"127.0.0.1:0\"}\nauth: {htpasswd: {realm: r, path: $SITE/md5}}\n",
            vec![&*site.path("md5").display().to_string(), "bcrypt", "line 1"],
        ),
        (
            &*format!("http: {{addr: \"{taken}\"}}\n"),
            vec![&*taken, "in use"],
        ),
        (
            "http: {addr: \"127.0.0.1:0\", tls: {certificate: $SITE/none.crt, key: $SITE/file}}\n",
            vec![&*site.path("none.crt").display().to_string()],
        ),
        (
            "http: {addr: \"127.0.0.1:0\", tls: {certificate: $SITE/file, key: $SITE/file}}\n",
            vec![&*site.path("file").display().to_string()],
        ),
    ] {
        let said = site.refusal(&format!("{storage}{more}"));
        for part in parts {
            assert!(said.contains(part), "`{part}` is not in: {said}");
        }
    }
    // Root may write everywhere, but not below a file.
    let said = site.refusal(
        "version: 0.1\nstorage: {filesystem: {rootdirectory: $SITE/file/root}}\n\
         http: {addr: \"127.0.0.1:0\"}\n",
    );
    let root = site.path("file/root").display().to_string();
    assert!(said.contains(&root), "{said}");
    let missing = site.path("missing.yml");
    let (status, _, stderr) = finish(registry(&["serve"]).arg(&missing));
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(&missing.display().to_string()), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[test]
fn wrong_usage_is_status_2() {
    for arguments in [
        &["serve", "--nope"][..],
        &["nonsense"],
        &["htpasswd"],
        &["config"],
        &["config", "nonsense"],
        &["completions", "nonsense"],
    ] {
        let (status, stdout, stderr) = finish(&mut registry(arguments));
        assert_eq!(status.code(), Some(2), "{arguments:?}: {stdout}{stderr}");
        assert_eq!(stdout, "", "{arguments:?}");
        assert!(stderr.contains("--help"), "{arguments:?}: {stderr}");
    }
}

#[test]
fn help_fits_a_screen() {
    for arguments in [
        &["--help"][..],
        &["serve", "--help"],
        &["config", "check", "--help"],
        &["htpasswd", "--help"],
        &["completions", "--help"],
    ] {
        let help = run(&mut registry(arguments));
        assert!(help.lines().count() <= 24, "{arguments:?}:\n{help}");
        for line in help.lines() {
            assert!(line.chars().count() <= 100, "{arguments:?}: {line}");
        }
    }
    let version = format!("registry {}", env!("CARGO_PKG_VERSION"));
    for arguments in [["version"], ["--version"]] {
        assert_eq!(run(&mut registry(&arguments)).trim(), version);
    }
}

#[test]
fn completions() {
    let Some(bash) = clients::find("bash", "bash") else {
        return;
    };
    let script = run(&mut registry(&["completions", "bash"]));
    let ask = "COMP_WORDS=(registry '') COMP_CWORD=1; \"$(complete -p registry | \
        sed 's/.*-F \\([^ ]*\\).*/\\1/')\" registry '' registry; echo \"${COMPREPLY[*]}\"";
    let offered = run(Command::new(bash).arg("-c").arg(format!("{script}\n{ask}")));
    for command in ["serve", "config", "htpasswd", "version", "completions"] {
        let mut words = offered.split_whitespace();
        assert!(words.any(|word| word == command), "{offered}");
    }
}

#[test]
fn config_check_says_what_would_be_in_force() {
    let site = Site::new();
    let check = |text: &str| finish(registry(&["config", "check"]).arg(site.configure(text)));
    let (status, stdout, stderr) = check(OS_X);
    assert!(status.success(), "{stderr}");
    let root = site.path("root").display().to_string();
    for part in [&*root, "macbook-air", "127.0.0.1:0"] {
        assert!(stdout.contains(part), "{part}: {stdout}");
    }
    // The defaults too: what a file leaves out is in force as well.
    assert!(stdout.contains("draintimeout"), "{stdout}");
    let all = stdout + &stderr;
    assert!(all.contains("storage.cache.blobdescriptor"), "{all}");
    assert!(!all.contains("mytokensecret"), "{all}");
    assert!(!site.path("root").exists(), "a check changes nothing");

    let (status, stdout, stderr) = check(&OS_X.replace("secret:", "secrte:"));
    assert_eq!(status.code(), Some(1), "{stdout}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    for part in ["config.yml:14", "secrte", "`http.secret`"] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
    assert!(!stderr.contains("mytokensecret"), "{stderr}");
}

#[test]
fn the_environment_overrides_the_file() {
    let site = Site::new();
    site.user("env", "ironment", 4);
    let config = site.configure(
        "version: 0.1\nstorage: {filesystem: {rootdirectory: $SITE/other}}\n\
         http: {addr: nowhere}\nlog: {level: error}\n",
    );
    let root = site.path("root");
    let mut command = registry(&["serve"]);
    command
        .arg(&config)
        .env("REGISTRY_HTTP_ADDR", "127.0.0.1:0")
        .env("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", &root)
        .env("REGISTRY_AUTH_HTPASSWD_PATH", site.path("htpasswd"))
        .env("REGISTRY_AUTH_HTPASSWD_REALM", "of the environment")
        .env("REGISTRY_HTTP_HEADERS_X-Own", "[yes, no]")
        .env("REGISTRY_LOG_LEVEL", "info")
        .env("REGISTRY_HTTP_ADR", "unknown");
    let server = Server::launch(&mut command);
    let anyone = Peer::plain(&server.address);
    let refused = anyone.get("/v2/").expect(&[401]);
    let challenge = refused.header("www-authenticate");
    assert_eq!(challenge, Some("Basic realm=\"of the environment\""));
    let user = anyone.user("env", "ironment");
    let answer = user.get("/v2/").expect(&[200]);
    assert_eq!(answer.header("x-own"), Some("yes"));
    serves(&user);
    assert!(
        root.join("docker/registry/v2/repositories/team/app")
            .is_dir()
    );
    assert!(!site.path("other").exists());
    server.says(&["WARN", "REGISTRY_HTTP_ADR"]);
    assert!(server.stop().success());

    // Without a file too, as in a container.
    let mut command = registry(&["serve"]);
    command
        .env("REGISTRY_HTTP_ADDR", "127.0.0.1:0")
        .env("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", &root);
    let server = Server::launch(&mut command);
    Peer::plain(&server.address).pull_image("team/app", "v1");
    assert!(server.stop().success());

    // What it says is checked like the file.
    let mut command = registry(&["serve"]);
    command
        .arg(&config)
        .env("REGISTRY_HTTP_DRAINTIMEOUT", "soon");
    let (status, _, stderr) = finish(&mut command);
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("REGISTRY_HTTP_DRAINTIMEOUT"), "{stderr}");
}
