//! An upload that was allowed goes on until it ends

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::StatusCode;
use registry_auth::{AllowAll, Anyone};
use registry_core::Digest;
use registry_http::{AccessControl, AccessRecord, Observer, RegistryService, SessionSecret};
use registry_storage::{Memory, Store};

use crate::support::{Answer, Call, Registry, access, rules};

const SECRET: &str = "a secret of the replicas";
const HOUR: Duration = Duration::from_secs(3600);

fn sessions(access: AccessControl) -> AccessControl {
    access.with_session_secret(SessionSecret::new(SECRET).unwrap(), HOUR)
}

async fn start(registry: &Registry, token: &str) -> String {
    let start = Call::new("POST", "/v2/app/blobs/uploads/").bearer(token);
    let answer = registry.send(start).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.body);
    answer.location().to_owned()
}

async fn chunk(registry: &Registry, location: &str, token: &str, body: &str) -> Answer {
    let chunk = Call::new("PATCH", location).bearer(token).body(body);
    registry.send(chunk).await
}

/// The closing request, as docker, containerd and oras make it of a location
fn complete(location: &str, content: &str) -> String {
    let digest = Digest::sha256(content.as_bytes()).to_string();
    let between = if location.contains('?') { '&' } else { '?' };
    format!("{location}{between}digest={}", digest.replace(':', "%3A"))
}

#[tokio::test]
async fn a_push_outlives_its_token() {
    let registry = Registry::new(sessions);
    let location = start(&registry, "ada").await;
    let first = chunk(&registry, &location, "ada", "one").await;
    assert_eq!(first.status, StatusCode::ACCEPTED);
    registry.door.expired.store(true, Ordering::Relaxed);

    let second = chunk(&registry, first.location(), "ada", "two").await;
    assert_eq!(second.status, StatusCode::ACCEPTED, "{}", second.body);
    let status = registry
        .send(Call::get(second.location()).bearer("ada"))
        .await;
    assert_eq!(status.status, StatusCode::NO_CONTENT);
    assert_eq!(status.header("range"), "0-5");
    // Out of order, which leads back to the session.
    let wrong = Call::new("PATCH", status.location())
        .bearer("ada")
        .header("content-range", "50-52")
        .body("xxx");
    let wrong = registry.send(wrong).await;
    assert_eq!(wrong.status, StatusCode::RANGE_NOT_SATISFIABLE);
    let put = Call::new("PUT", &complete(wrong.location(), "onetwothree"));
    let done = registry.send(put.bearer("ada").body("three")).await;
    assert_eq!(done.status, StatusCode::CREATED, "{}", done.body);
    assert!(!done.location().contains('?'));

    // It was good for the upload and is good for nothing else.
    let get = Call::get(done.location()).bearer("ada");
    assert_eq!(registry.send(get).await.status, StatusCode::UNAUTHORIZED);
    let (_, seal) = location.split_once('?').unwrap();
    for (method, target) in [
        (
            "GET",
            format!("/v2/app/blobs/{}?{seal}", Digest::sha256(b"onetwothree")),
        ),
        ("PUT", format!("/v2/app/manifests/v1?{seal}")),
        ("POST", format!("/v2/app/blobs/uploads/?{seal}")),
        ("GET", format!("/v2/?{seal}")),
    ] {
        let answer = registry
            .send(Call::new(method, &target).bearer("ada"))
            .await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{method} {target}");
    }
}

#[tokio::test]
async fn who_has_begun_is_not_asked_about_again() {
    let registry = Registry::new(sessions);
    let location = start(&registry, "ada").await;
    let asked = registry.desk.asked.load(Ordering::Relaxed);
    assert_eq!(asked, 2, "pull and push");
    registry
        .desk
        .closed
        .lock()
        .unwrap()
        .insert("ada".to_owned());

    let answer = chunk(&registry, &location, "ada", "one").await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.body);
    assert_eq!(registry.desk.asked.load(Ordering::Relaxed), asked);
    let cancel = Call::new("DELETE", answer.location()).bearer("ada");
    assert_eq!(registry.send(cancel).await.status, StatusCode::NO_CONTENT);
    let manifest = Call::new("PUT", "/v2/app/manifests/v1").of("ada");
    assert_eq!(registry.send(manifest).await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_session_is_its_principals_alone() {
    let registry = Registry::new(sessions);
    let location = start(&registry, "ada").await;
    // Eve may pull, Bob may push too: to them it is as if there were no seal.
    let eve = registry
        .send(Call::new("PATCH", &location).of("eve").body("x"))
        .await;
    assert_eq!(eve.status, StatusCode::FORBIDDEN);
    let nobody = registry.send(Call::new("PATCH", &location).body("x")).await;
    assert_eq!(nobody.status, StatusCode::UNAUTHORIZED);
    let asked = registry.desk.asked.load(Ordering::Relaxed);
    let bob = registry.send(Call::get(&location).of("bob")).await;
    assert_eq!(bob.status, StatusCode::NO_CONTENT);
    assert_eq!(registry.desk.asked.load(Ordering::Relaxed), asked + 2);
    // A user of that name is not the bearer of a token about that name.
    registry
        .desk
        .closed
        .lock()
        .unwrap()
        .insert("ada".to_owned());
    let user = registry.send(Call::get(&location).of("ada")).await;
    assert_eq!(user.status, StatusCode::FORBIDDEN);

    let wrong = Call::get(&location).basic("ada", "guessed");
    assert_eq!(registry.send(wrong).await.status, StatusCode::UNAUTHORIZED);
    let forged = chunk(&registry, &location, "forged", "x").await;
    assert_eq!(forged.status, StatusCode::UNAUTHORIZED);
    registry.door.expired.store(true, Ordering::Relaxed);
    let eve = chunk(&registry, &location, "eve", "x").await;
    assert_eq!(eve.status, StatusCode::UNAUTHORIZED);
    let challenge = eve.header("www-authenticate");
    assert!(challenge.contains("InvalidToken"), "{challenge}");
    assert_eq!(
        chunk(&registry, &location, "ada", "x").await.status,
        StatusCode::ACCEPTED
    );
}

#[tokio::test]
async fn only_the_seal_of_this_upload_is_one() {
    let registry = Registry::new(sessions);
    let location = start(&registry, "ada").await;
    let other = start(&registry, "ada").await;
    let (path, seal) = location.split_once('?').unwrap();
    let (_, others_seal) = other.split_once('?').unwrap();
    registry.door.expired.store(true, Ordering::Relaxed);
    let elsewhere = path.replace("/app/", "/else/");
    for target in [
        path.to_owned(),
        format!("{path}?{others_seal}"),
        format!("{path}?_session="),
        format!("{path}?_session=x.y"),
        format!("{path}?x{seal}"),
        format!("{path}?{}", &seal[..seal.len() - 2]),
        format!("{path}?{}", seal.replacen("=", "=f", 1)),
        format!("{elsewhere}?{seal}"),
    ] {
        let answer = chunk(&registry, &target, "ada", "x").await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{target}");
    }
    let among_others = format!("{path}?a=b&{seal}&_state=c");
    let answer = chunk(&registry, &among_others, "ada", "x").await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn replicas_share_a_secret_and_sessions_have_an_age() {
    let store = Store::new(Arc::new(Memory::new()));
    let one = Registry::on(&store, sessions);
    let replica = Registry::on(&store, sessions);
    let stranger = Registry::on(&store, |access| {
        access.with_session_secret(SessionSecret::random(), HOUR)
    });
    let impatient = Registry::on(&store, |access| {
        access.with_session_secret(SessionSecret::new(SECRET).unwrap(), Duration::ZERO)
    });
    let location = start(&one, "ada").await;
    for (registry, status) in [
        (&replica, StatusCode::ACCEPTED),
        (&stranger, StatusCode::UNAUTHORIZED),
        (&impatient, StatusCode::UNAUTHORIZED),
    ] {
        registry.door.expired.store(true, Ordering::Relaxed);
        let answer = chunk(registry, &location, "ada", "x").await;
        assert_eq!(answer.status, status);
        registry.door.expired.store(false, Ordering::Relaxed);
        // With a good token it goes on everywhere.
        let answer = registry.send(Call::get(&location).bearer("ada")).await;
        assert_eq!(answer.status, StatusCode::NO_CONTENT);
    }
}

#[tokio::test]
async fn nobody_without_a_name_has_a_session_and_none_has_without_a_secret() {
    let store = Store::new(Arc::new(Memory::new()));
    let access = sessions(AccessControl::new(Arc::new(Anyone), Arc::new(AllowAll)));
    let (_, door, desk) = super::support::access(rules());
    let open = Registry {
        service: RegistryService::with_access(store, access).build(),
        door,
        desk,
    };
    assert!(!start(&open, "ada").await.contains('?'));

    let registry = Registry::new(|access| access);
    let location = start(&registry, "ada").await;
    assert!(!location.contains('?'));
    registry.door.expired.store(true, Ordering::Relaxed);
    let answer = chunk(&registry, &location, "ada", "x").await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
}

#[derive(Default)]
struct Lines(Mutex<Vec<AccessRecord>>);

impl Observer for Lines {
    fn finished(&self, record: &AccessRecord) {
        self.0.lock().unwrap().push(record.clone());
    }
}

#[tokio::test]
async fn no_log_line_has_the_seal() {
    let lines = Arc::new(Lines::default());
    let store = Store::new(Arc::new(Memory::new()));
    let (access, door, desk) = access(rules());
    let registry = Registry {
        service: RegistryService::with_access(store, sessions(access))
            .observer(lines.clone())
            .build(),
        door,
        desk,
    };
    let location = start(&registry, "ada").await;
    chunk(&registry, &location, "ada", "x").await;
    let line = lines.0.lock().unwrap().last().unwrap().to_string();
    assert!(line.contains("?_session=*** HTTP/1.1\" 202"), "{line}");
}

#[tokio::test]
async fn a_secret_in_the_storage_is_shared_without_configuration() {
    let store = Store::new(Arc::new(Memory::new()));
    let shared = |access: AccessControl| {
        access.with_session_secret(SessionSecret::in_storage(store.clone()), HOUR)
    };
    let replicas = [(); 3].map(|()| Registry::on(&store, shared));
    let mut location = start(&replicas[0], "ada").await;
    assert!(location.contains("_session="), "{location}");
    for number in 1..6 {
        let replica = &replicas[number % 3];
        replica.door.expired.store(true, Ordering::Relaxed);
        let answer = chunk(replica, &location, "ada", "xy").await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.body);
        location = answer.location().to_owned();
    }
    // And after all of them have been started again.
    let restarted = Registry::on(&store, shared);
    restarted.door.expired.store(true, Ordering::Relaxed);
    let end = Call::new("PUT", &complete(&location, "xyxyxyxyxy")).bearer("ada");
    let answer = restarted.send(end).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
}

#[tokio::test]
async fn a_replica_with_another_secret_says_so() {
    let store = Store::new(Arc::new(Memory::new()));
    let one = Registry::on(&store, sessions);
    let other = Registry::on(&store, |access| {
        let secret = SessionSecret::new("a secret of that replica alone").unwrap();
        access.with_session_secret(secret, HOUR)
    });
    let location = start(&one, "ada").await;
    // While the token is good, nobody needs the seal.
    let answer = chunk(&other, &location, "ada", "x").await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);

    other.door.expired.store(true, Ordering::Relaxed);
    let answer = chunk(&other, &location, "ada", "x").await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert!(answer.body.contains("the same secret"), "{}", answer.body);
    // What is simply expired is not blamed on the operator.
    let plain = location.split('?').next().unwrap();
    let answer = chunk(&other, plain, "ada", "x").await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert!(!answer.body.contains("the same secret"), "{}", answer.body);
}
