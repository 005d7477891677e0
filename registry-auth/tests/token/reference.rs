//! The same tokens, shown to Debian's `docker-registry`

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use registry_auth::token::Scope;
use registry_auth::{Authenticator, ChallengeReason, TokenAuthenticator};
use registry_core::route;
use serde_json::json;

use crate::support::{ISSUER, REALM, SERVICE, World, claims_with};
use crate::table::{good, hostile};

/// The reference registry with `auth: token`, until it is dropped
pub(crate) struct Reference {
    child: Child,
    address: String,
}

impl Reference {
    /// Starts it, or says that it is missing
    pub(crate) fn start(world: &World) -> Option<Self> {
        let program = find()?;
        let config = world.folder.path().join("config.yml");
        let log = world.folder.path().join("log");
        // A port that was free a moment ago may be taken by now; then another one is.
        for _ in 0..5 {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap().to_string();
            drop(listener);
            let text = json!({
                "version": 0.1,
                "log": { "level": "error", "accesslog": { "disabled": true } },
                "storage": { "inmemory": {}, "delete": { "enabled": true } },
                "http": { "addr": address },
                "auth": { "token": {
                    "realm": REALM, "service": SERVICE, "issuer": ISSUER,
                    "rootcertbundle": world.bundle(),
                }},
            });
            // JSON is YAML too.
            fs::write(&config, text.to_string()).unwrap();
            let child = Command::new(&program)
                .arg("serve")
                .arg(&config)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(fs::File::create(&log).unwrap())
                .spawn()
                .unwrap();
            let mut reference = Self { child, address };
            let end = Instant::now() + Duration::from_secs(20);
            while Instant::now() < end && reference.child.try_wait().unwrap().is_none() {
                if reference.send("GET", "/v2/", None).is_some() {
                    return Some(reference);
                }
                thread::sleep(Duration::from_millis(50));
            }
        }
        let log = fs::read_to_string(log).unwrap();
        panic!("docker-registry does not start: {log}")
    }

    /// Status and challenge of the answer
    pub(crate) fn send(
        &self,
        method: &str,
        target: &str,
        token: Option<&str>,
    ) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n"));
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: x\r\n{}Content-Length: 0\r\nConnection: close\r\n\r\n",
            authorization.unwrap_or_default()
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = Vec::new();
        // It may close the connection on what it does not read to the end.
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        let challenge = answer
            .lines()
            .find_map(|line| line.strip_prefix("Www-Authenticate: "))
            .unwrap_or_default();
        Some((status, challenge.to_owned()))
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The path of the reference registry, or a visible skip
fn find() -> Option<PathBuf> {
    let folders = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&folders)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|folder| folder.join("docker-registry"))
        .find(|path| path.is_file());
    if found.is_none() {
        let reason = "docker-registry not found; install it, with Debian's package of that name";
        if env::var_os("REGISTRY_E2E").is_some_and(|value| value == "required") {
            panic!("{reason}; REGISTRY_E2E=required does not allow skipping");
        }
        // Written past the test harness, which would keep it to itself.
        let _ = writeln!(std::io::stderr(), "SKIPPED: {reason}");
    }
    found
}

#[test]
fn the_reference_accepts_and_refuses_the_same() {
    let world = World::new();
    let Some(reference) = Reference::start(&world) else {
        return;
    };
    let mut different = Vec::new();
    let cases = good(&world).into_iter().chain(hostile(&world));
    for case in cases.filter(|case| !case.differs) {
        let expected = if case.refused.is_none() { 200 } else { 401 };
        let answer = reference.send("GET", "/v2/", Some(&case.token));
        if answer
            .as_ref()
            .is_none_or(|(status, _)| *status != expected)
        {
            different.push((case.what, expected, answer));
        }
    }
    assert!(different.is_empty(), "{different:#?}");
}

/// A challenge with what has no order in order
fn parts(challenge: &str) -> BTreeSet<String> {
    let mut parts = BTreeSet::new();
    let mut rest = challenge.strip_prefix("Bearer ").unwrap();
    while let Some((name, value)) = rest.split_once("=\"") {
        let (value, next) = value.split_once('"').unwrap();
        rest = next.trim_start_matches(',');
        if name == "scope" {
            for resource in value.parse::<Scope>().unwrap().resources() {
                let mut actions = resource.actions().to_vec();
                actions.sort();
                parts.insert(format!(
                    "{}:{}:{actions:?}",
                    resource.kind(),
                    resource.name()
                ));
            }
        } else {
            parts.insert(format!("{name}={value}"));
        }
    }
    parts
}

#[test]
fn the_reference_grants_the_same_and_challenges_with_the_same_words() {
    let world = World::new();
    let Some(reference) = Reference::start(&world) else {
        return;
    };
    let ours = TokenAuthenticator::new(world.options()).unwrap();
    let token = |access: serde_json::Value| {
        let claims = claims_with(json!({ "access": access }));
        world.root.token(&claims)
    };
    let on = |name: &str, actions: &[&str]| json!([{ "type": "repository", "name": name, "actions": actions }]);
    let tokens = [
        ("none", None),
        ("broken", Some("a.b.c".to_owned())),
        ("nothing", Some(token(json!([])))),
        ("pull", Some(token(on("a/b", &["pull"])))),
        ("push", Some(token(on("a/b", &["push"])))),
        ("pull,push", Some(token(on("a/b", &["pull", "push"])))),
        ("delete", Some(token(on("a/b", &["delete"])))),
        ("*", Some(token(on("a/b", &["*"])))),
        ("elsewhere", Some(token(on("a", &["*"])))),
        (
            "catalog",
            Some(token(
                json!([{ "type": "registry", "name": "catalog", "actions": ["*"] }]),
            )),
        ),
        (
            "class",
            Some(token(json!([
                { "type": "repository", "class": "plugin", "name": "a/b", "actions": ["pull"] }
            ]))),
        ),
    ];
    let digest = format!("sha256:{}", "0".repeat(64));
    let targets = [
        ("GET", "/v2/a/b/tags/list".to_owned()),
        ("HEAD", format!("/v2/a/b/blobs/{digest}")),
        ("POST", "/v2/a/b/blobs/uploads/".to_owned()),
        ("DELETE", format!("/v2/a/b/manifests/{digest}")),
        ("GET", "/v2/_catalog".to_owned()),
    ];
    for (name, token) in &tokens {
        for (method, target) in &targets {
            let (status, challenge) = reference.send(method, target, token.as_deref()).unwrap();
            let needed = route(method, target, None).unwrap().access();
            let (allowed, reason) = match token {
                None => (false, ChallengeReason::LoginRequired),
                Some(token) => {
                    let credentials = registry_auth::Credentials::Bearer(
                        registry_auth::Password::new(token.as_str()),
                    );
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .build()
                        .unwrap();
                    match runtime.block_on(ours.authenticate(&credentials)) {
                        Err(_) => (false, ChallengeReason::InvalidToken),
                        Ok(registry_auth::Principal::Token { grants, .. }) => (
                            grants.allow_all(&needed),
                            ChallengeReason::InsufficientScope,
                        ),
                        Ok(other) => panic!("{other:?}"),
                    }
                }
            };
            assert_eq!(
                status != 401,
                allowed,
                "{name}: {method} {target} gave {status}"
            );
            if !allowed {
                let our = ours.challenge(&needed, reason).unwrap();
                assert_eq!(parts(&our), parts(&challenge), "{name}: {method} {target}");
            }
        }
    }
}
