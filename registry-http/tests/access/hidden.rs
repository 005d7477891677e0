//! What may not be seen looks like what does not exist

use std::sync::Arc;

use http::StatusCode;
use registry_http::{AccessControl, RegistryService};
use registry_storage::{Memory, Store};
use serde_json::json;

use crate::support::{Call, Registry, access};

/// Every way to read what a repository has, of what it has and of what it has not
async fn reads(registry: &Registry) -> Vec<(String, Vec<(&'static str, &'static str)>)> {
    let image = registry.push_image("secret/app").await;
    let (blob, manifest) = (image.blob, image.manifest);
    let nowhere = format!("sha256:{}", "0".repeat(64));
    let mut targets: Vec<String> = [
        "tags/list",
        "tags/list?n=1",
        "tags/list?n=0",
        "tags/list?last=a&n=5",
        "manifests/v1",
        "manifests/note",
        "manifests/v2",
    ]
    .map(str::to_owned)
    .into();
    for digest in [blob.to_string(), manifest.to_string(), nowhere] {
        targets.push(format!("blobs/{digest}"));
        targets.push(format!("manifests/{digest}"));
        targets.push(format!("referrers/{digest}"));
        targets.push(format!(
            "referrers/{digest}?artifactType=application/x-note"
        ));
    }
    let tag = format!("\"{manifest}\"");
    let tag: &'static str = tag.leak();
    let headers = [
        vec![],
        vec![("range", "bytes=0-3")],
        vec![("range", "bytes=900-")],
        vec![("if-none-match", tag)],
        vec![("if-none-match", "*")],
        vec![("accept-encoding", "gzip")],
        vec![("accept", "application/vnd.oci.image.index.v1+json")],
    ];
    targets
        .iter()
        .flat_map(|target| {
            let target = format!("/v2/secret/app/{target}");
            headers
                .iter()
                .map(move |headers| (target.clone(), headers.clone()))
        })
        .collect()
}

fn call(method: &str, target: &str, headers: &[(&'static str, &'static str)], who: &str) -> Call {
    let call = Call::new(method, target).of(who);
    headers
        .iter()
        .fold(call, |call, (name, value)| call.header(name, value))
}

#[tokio::test]
async fn what_may_not_be_read_answers_exactly_as_what_does_not_exist() {
    let registry = Registry::new(AccessControl::with_hidden_as_absent);
    let reads = reads(&registry).await;
    // Ada may see it all here, and there is nothing.
    let (everything, ..) = access(json!({"rules": [
        {"name": "all", "effect": "allow", "subjects": ["user:ada"],
         "repositories": ["**"], "actions": ["all"]},
    ]}));
    let nothing = Store::new(Arc::new(Memory::new()));
    let nothing = Registry {
        service: RegistryService::with_access(nothing, everything).build(),
        door: registry.door.clone(),
        desk: registry.desk.clone(),
    };
    let mut seen = 0;
    for (target, headers) in &reads {
        for method in ["GET", "HEAD"] {
            let hidden = registry.send(call(method, target, headers, "ada")).await;
            let absent = nothing.send(call(method, target, headers, "ada")).await;
            assert_eq!(hidden, absent, "{method} {target} {headers:?}");
            let there = registry.send(call(method, target, headers, "bob")).await;
            seen += usize::from(there != absent);
        }
    }
    // The comparison is one of answers that differ for those who may see it.
    assert!(seen > reads.len(), "{seen} of {}", 2 * reads.len());

    for (target, code) in [
        (
            "blobs/sha256:4bfdd6f3c1cd1ea0a4e5cd5fed1c3e8bd3d9e4f1f8b8f8b1a1e3a3d8b1b1a1e3",
            "BLOB_UNKNOWN",
        ),
        ("manifests/v1", "NAME_UNKNOWN"),
        ("tags/list", "NAME_UNKNOWN"),
    ] {
        let target = format!("/v2/secret/app/{target}");
        let answer = registry.send(Call::get(&target).of("ada")).await;
        assert_eq!(
            (answer.status, answer.code()),
            (StatusCode::NOT_FOUND, code.to_owned())
        );
    }
}

#[tokio::test]
async fn to_change_it_is_refused_in_the_same_words_whether_it_is_there_or_not() {
    let registry = Registry::new(AccessControl::with_hidden_as_absent);
    let image = registry.push_image("secret/app").await;
    let (blob, manifest) = (image.blob, image.manifest);
    let started = registry
        .send(Call::new("POST", "/v2/secret/app/blobs/uploads/").of("bob"))
        .await;
    let upload = started.location().strip_prefix("/v2/secret/app/").unwrap();
    let none = "00000000-0000-4000-8000-000000000000";
    for (method, target, words) in [
        ("POST", "blobs/uploads/".to_owned(), "push to"),
        ("POST", format!("blobs/uploads/?digest={blob}"), "push to"),
        (
            "POST",
            format!("blobs/uploads/?mount={blob}&from=public"),
            "push to",
        ),
        ("GET", upload.to_owned(), "push to"),
        ("PATCH", upload.to_owned(), "push to"),
        ("PUT", format!("{upload}?digest={blob}"), "push to"),
        ("DELETE", upload.to_owned(), "push to"),
        ("PATCH", format!("blobs/uploads/{none}"), "push to"),
        ("PUT", "manifests/v1".to_owned(), "push to"),
        (
            "PUT",
            format!("manifests/{manifest}?tag=v1&tag=v2"),
            "push to",
        ),
        ("DELETE", "manifests/v1".to_owned(), "delete from"),
        ("DELETE", format!("manifests/{manifest}"), "delete from"),
        ("DELETE", format!("blobs/{blob}"), "delete from"),
    ] {
        let ask = async |name: &str| {
            let target = format!("/v2/{name}/{target}");
            let mut answer = registry.send(Call::new(method, &target).of("ada")).await;
            answer.body = answer.body.replace(name, "NAME");
            answer.headers.remove("content-length");
            answer
        };
        let there = ask("secret/app").await;
        let nowhere = ask("secret/nothing").await;
        assert_eq!(there, nowhere, "{method} {target}");
        assert_eq!(there.status, StatusCode::FORBIDDEN);
        let error = there.error();
        assert_eq!(error["code"], "DENIED");
        let message = error["message"].as_str().unwrap();
        assert!(
            message.ends_with(&format!("you may not {words} `NAME`")),
            "{message}"
        );
        let detail = error["detail"].as_object().unwrap();
        assert_eq!(detail.keys().collect::<Vec<_>>(), ["needed"]);
    }
    // Nothing has happened to it.
    let answer = registry
        .send(Call::get("/v2/secret/app/manifests/v1").of("bob"))
        .await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn what_is_hidden_cannot_be_mounted_and_is_no_source_of_a_mount() {
    let registry = Registry::new(AccessControl::with_hidden_as_absent);
    let blob = registry.push_image("secret/app").await.blob;
    let mount = |from: &str| {
        let target = format!("/v2/app/blobs/uploads/?mount={blob}&from={from}");
        Call::new("POST", &target).of("ada")
    };
    let mut hidden = registry.send(mount("secret/app")).await;
    let mut absent = registry.send(mount("secret/nothing")).await;
    for answer in [&mut hidden, &mut absent] {
        assert_eq!(answer.status, StatusCode::ACCEPTED);
        answer.headers.remove("location");
        answer.headers.remove("docker-upload-uuid");
    }
    assert_eq!(hidden, absent);
}

#[tokio::test]
async fn whoever_may_get_further_by_logging_in_is_asked_to() {
    let registry = Registry::new(AccessControl::with_hidden_as_absent);
    registry.push_image("secret/app").await;
    for name in ["secret/app", "secret/nothing"] {
        let target = format!("/v2/{name}/manifests/v1");
        let answer = registry.send(Call::get(&target)).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        let challenge = answer.header("www-authenticate");
        assert!(challenge.contains("LoginRequired"), "{challenge}");
        let answer = registry.send(Call::get(&target).bearer("ada")).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        let challenge = answer.header("www-authenticate");
        assert!(challenge.contains("InsufficientScope"), "{challenge}");
    }
}

#[tokio::test]
async fn without_the_option_a_denial_says_that_it_is_one() {
    let registry = Registry::new(|access| access);
    registry.push_image("secret/app").await;
    let target = "/v2/secret/app/manifests/v1";
    let answer = registry.send(Call::get(target).of("ada")).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert_eq!(answer.code(), "DENIED");
    // With it, a denial that is not hidden does so too.
    let registry = Registry::new(AccessControl::with_hidden_as_absent);
    let answer = registry
        .send(Call::new("PUT", "/v2/app/manifests/v1").of("eve"))
        .await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
}
