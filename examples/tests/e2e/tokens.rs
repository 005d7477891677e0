//! The tokens that a registry issues itself: asked for, used, and taken by distribution too

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::clients::{Home, find};
use crate::support::http::{Response, basic, get, send};
use crate::support::image::Layout;
use crate::support::peer::Peer;
use crate::support::process::{Server, eventually, free_address, run, run_failing};
use crate::support::site::Site;

const CONFIG: &str = "\
version: 0.1
storage: {filesystem: {rootdirectory: $SITE/root}}
http: {addr: '$ADDRESS', host: 'http://$ADDRESS'}
auth: {htpasswd: {realm: registry, path: $SITE/htpasswd}}
registry:
  access: {rules: $SITE/rules.yml}
  tokens:
    services: [ours.example, theirs.example]
    issuer: issuer.example
    key: $SITE/token.key
    certificates: $SITE/token.crt
";

const RULES: &str = "\
rules:
  - {name: all-pull, effect: allow, subjects: [anyone], repositories: ['**'], actions: [pull]}
  - {name: ada-pushes, effect: allow, subjects: ['user:ada'], repositories: ['team/**'], actions: [push]}
  - {name: releases, effect: deny, subjects: [anyone], repositories: ['**'], actions: [push], tags: ['v*']}
";

/// A registry with users and rules, and the address that it is given
fn start() -> (Site, Server) {
    let site = Site::new();
    site.user("ada", "ada's", 4);
    site.user("bob", "bob's", 4);
    site.write("rules.yml", RULES);
    let server = site.serve_with(&CONFIG.replace("$ADDRESS", &free_address()));
    (site, server)
}

/// Asks for a token
fn ask(address: &str, scope: &str, login: Option<(&str, &str)>) -> Response {
    let header = login.map(|(user, password)| basic(user, password));
    let headers: Vec<(&str, &str)> = header
        .iter()
        .map(|header| ("Authorization", header.as_str()))
        .collect();
    let path = format!("/auth/token?service=ours.example&scope={scope}");
    send(address, "GET", &path, &headers, &[]).expect("an answer")
}

/// The token in an answer
#[track_caller]
fn token(answer: Response) -> String {
    let answer: Value = serde_json::from_slice(&answer.expect(&[200]).body).expect("JSON");
    answer["token"].as_str().expect("a token").to_owned()
}

fn with_token(address: &str, method: &str, path: &str, token: &str) -> Response {
    let header = format!("Bearer {token}");
    send(address, method, path, &[("Authorization", &header)], &[]).expect("an answer")
}

#[test]
fn tokens_are_asked_for_and_used() {
    let (site, server) = start();
    let address = &server.address;
    server.prints("issuing tokens at /auth/token as issuer.example");
    let mode = fs::metadata(site.path("token.key"))
        .expect("it was made")
        .permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    server.says(&["a key to sign tokens with was made"]);

    let challenge = get(address, "/v2/").expect(&[401]);
    assert_eq!(
        challenge.header("www-authenticate"),
        Some(&*format!(
            "Bearer realm=\"http://{address}/auth/token\",service=\"ours.example\""
        ))
    );
    // A name and a password alone still are a way in.
    Peer::plain(address)
        .user("ada", "ada's")
        .push_image("team/app", "latest", 1);

    let ada = token(ask(
        address,
        "repository:team/app:pull,push",
        Some(("ada", "ada's")),
    ));
    let nobody = token(ask(address, "repository:team/app:pull,push", None));
    let manifest = "/v2/team/app/manifests/latest";
    let uploads = "/v2/team/app/blobs/uploads/";
    for token in [&ada, &nobody] {
        with_token(address, "GET", manifest, token).expect(&[200]);
    }
    with_token(address, "POST", uploads, &ada).expect(&[202]);
    with_token(address, "POST", uploads, &nobody).expect(&[401]);
    with_token(address, "POST", "/v2/team/other/blobs/uploads/", &ada).expect(&[401]);
    ask(address, "repository:team/app:pull", Some(("ada", "wrong"))).expect(&[401]);
    let bob = token(ask(
        address,
        "repository:team/app:pull,push",
        Some(("bob", "bob's")),
    ));
    with_token(address, "POST", uploads, &bob).expect(&[401]);

    // A scope has no tags: the rules decide again, about whom the token is for.
    let pushed = with_token(address, "GET", manifest, &ada).expect(&[200]);
    let media_type = pushed.header("content-type").expect("a type").to_owned();
    let bearer = format!("Bearer {ada}");
    let headers = [("Authorization", &*bearer), ("Content-Type", &*media_type)];
    let put = |tag: &str| {
        let path = format!("/v2/team/app/manifests/{tag}");
        send(address, "PUT", &path, &headers, &pushed.body).expect("an answer")
    };
    put("next").expect(&[201]);
    put("v1").expect(&[403]);

    let keys = get(address, "/auth/keys").expect(&[200]);
    assert!(keys.text().contains("\"kty\""), "{}", keys.text());
    assert!(!keys.text().contains("\"d\""), "{}", keys.text());

    // The key is there from now on, and so tokens outlive the process.
    let key = fs::read_to_string(site.path("token.key")).expect("the key");
    let config = site.path("config.yml");
    let address = address.clone();
    server.stop();
    let server = Server::configured(&config);
    assert_eq!(server.address, address);
    assert_eq!(
        fs::read_to_string(site.path("token.key")).expect("the key"),
        key
    );
    with_token(&address, "POST", uploads, &ada).expect(&[202]);
}

#[test]
fn a_program_logs_in_and_each_decision_is_written_down() {
    let site = Site::new();
    site.user("ada", "ada's", 4);
    // `printf %s abc | sha256sum`
    site.write(
        "accounts.yml",
        "accounts: [{name: build, roles: [pusher], secret: \
         'sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'}]",
    );
    site.write(
        "rules.yml",
        "rules: [{name: pushers, effect: allow, subjects: ['role:pusher'], repositories: ['**'], \
         actions: [pull, push]}]",
    );
    let config = CONFIG
        .replace("$ADDRESS", &free_address())
        .replace(
            "$SITE/rules.yml}",
            "$SITE/rules.yml, audit: $SITE/decisions.jsonl}",
        )
        .replace(
            "registry:\n",
            "registry:\n  auth: {accounts: {path: $SITE/accounts.yml}}\n",
        );
    let server = site.serve_with(&config);
    let address = &server.address;
    // By its secret, and by a token, with its roles either way.
    Peer::plain(address)
        .user("build", "abc")
        .push_image("team/app", "latest", 1);
    let build = token(ask(
        address,
        "repository:team/app:pull,push",
        Some(("build", "abc")),
    ));
    let uploads = "/v2/team/app/blobs/uploads/";
    with_token(address, "POST", uploads, &build).expect(&[202]);
    let ada = Peer::plain(address).user("ada", "ada's");
    ada.request("POST", uploads).expect(&[403]);
    ask(address, "repository:team/app:pull", Some(("build", "abd"))).expect(&[401]);

    server.stop();
    let log = fs::read_to_string(site.path("decisions.jsonl")).expect("decisions");
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let last = lines.last().expect("a decision");
    assert_eq!(last["principal"]["name"], "ada", "{last}");
    assert_eq!(
        (&last["allow"], &last["rule"]),
        (&Value::from(false), &Value::from("default"))
    );
    assert!(last["request"].is_string(), "{last}");
    assert!(lines.iter().any(|line| line["rule"] == "pushers"), "{log}");
    assert!(!log.contains(&build) && !log.contains("abc"), "{log}");
}

#[test]
fn skopeo_logs_in_pushes_and_pulls() {
    let (site, server) = start();
    let home = Home::new();
    let Some(skopeo) = home.skopeo() else { return };
    let layout = Layout::write(&site.path("layout"), 7, &[1000, 2000]);
    let address = &server.address;
    let login = |user: &str, password: &str| {
        let mut command = skopeo.command(&["login", "--tls-verify=false"]);
        command.args(["--username", user, "--password", password, address]);
        command
    };
    assert!(run_failing(&mut login("ada", "wrong")).contains("invalid username/password"));
    run(&mut login("ada", "ada's"));
    let image = format!("docker://{address}/team/app:latest");
    skopeo.copy(&["--preserve-digests"], &layout.reference("v1"), &image);
    run(skopeo.command(&["logout"]).arg(address));
    // Everyone pulls.
    let pulled = format!("dir:{}", site.path("pulled").display());
    skopeo.copy(&[], &image, &pulled);
    let other = format!("docker://{address}/team/other:latest");
    let mut push = skopeo.command(&["copy", "--quiet", "--dest-tls-verify=false"]);
    let said = run_failing(push.args([layout.reference("v1"), other]));
    assert!(
        said.contains("authentication required") || said.contains("denied"),
        "{said}"
    );
}

#[test]
fn distribution_takes_the_tokens() {
    let Some(program) = find("docker-registry", "docker-registry") else {
        return;
    };
    let (site, server) = start();
    let theirs = free_address();
    let config = format!(
        "version: 0.1\nstorage: {{inmemory: {{}}}}\nhttp: {{addr: '{theirs}'}}\n\
         auth: {{token: {{realm: 'http://{}/auth/token', service: theirs.example, \
         issuer: issuer.example, rootcertbundle: '{}'}}}}\n",
        server.address,
        site.path("token.crt").display()
    );
    let path = site.write("theirs.yml", &config);
    let mut child = Command::new(program)
        .arg("serve")
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("docker-registry starts");
    eventually("docker-registry answers", || {
        let answer = send(&theirs, "GET", "/v2/", &[], &[]).ok()?;
        (answer.status == 401).then_some(())
    });
    let asked = |service: &str| {
        let header = basic("ada", "ada's");
        let path = format!("/auth/token?service={service}&scope=repository:team/app:pull,push");
        let headers = [("Authorization", &*header)];
        token(send(&server.address, "GET", &path, &headers, &[]).expect("an answer"))
    };
    let (good, other) = (asked("theirs.example"), asked("ours.example"));
    let uploads = "/v2/team/app/blobs/uploads/";
    let begun = with_token(&theirs, "POST", uploads, &good).status;
    let refused = with_token(&theirs, "POST", uploads, &other).status;
    let _ = child.kill();
    let _ = child.wait();
    assert_eq!((begun, refused), (202, 401));
}

#[test]
fn what_cannot_be_is_said_at_the_start() {
    let site = Site::new();
    site.user("ada", "ada's", 4);
    site.write("rules.yml", RULES);
    let config = CONFIG.replace("$ADDRESS", "127.0.0.1:0");
    for (from, to, expected) in [
        (
            ", host: 'http://127.0.0.1:0'",
            "",
            "expected `realm`, or the `host`",
        ),
        (
            "{htpasswd: {realm: registry, path: $SITE/htpasswd}}",
            "none",
            "expected users to issue tokens to",
        ),
        (
            "{htpasswd: {realm: registry, path: $SITE/htpasswd}}",
            "{token: {realm: 'http://h', service: s, issuer: i, rootcertbundle: $SITE/token.crt}}",
            "expected one issuer of tokens, got two",
        ),
        (
            "key: $SITE/token.key",
            "key: $SITE/rules.yml",
            "cannot sign tokens with",
        ),
    ] {
        if to.contains("token.crt") {
            let key = rcgen::generate_simple_self_signed(["x".to_owned()]).expect("a certificate");
            site.write("token.crt", &key.cert.pem());
        }
        let said = site.refusal(&config.replace(from, to));
        assert!(said.contains("`registry.tokens"), "{said}");
        assert!(said.contains(expected), "{said}");
    }
}
