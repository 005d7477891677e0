//! Whoever is refused reads what would have allowed it

use http::StatusCode;
use registry_http::AccessControl;
use serde_json::json;

use crate::support::{Call, Registry};

#[tokio::test]
async fn a_denial_says_what_was_needed_which_rule_it_was_and_what_helps() {
    let registry = Registry::new(|access| access);
    registry
        .desk
        .closed
        .lock()
        .unwrap()
        .insert("ada".to_owned());
    let answer = registry
        .send(Call::new("PUT", "/v2/app/manifests/v1").of("ada"))
        .await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert_eq!(
        answer.error(),
        json!({
            "code": "DENIED",
            "message": "requested access to the resource is denied: your account is closed; ask the librarian to open it again",
            "detail": {
                "needed": ["repository:app:pull", "repository:app:push"],
                "rule": "closed",
                "remedy": "ask the librarian to open it again",
            },
        })
    );
}

#[tokio::test]
async fn each_scope_is_named_once() {
    let registry = Registry::new(|access| access);
    let digest = format!("sha256:{}", "0".repeat(64));
    let target = format!("/v2/app/manifests/{digest}?tag=a&tag=b");
    let answer = registry.send(Call::new("PUT", &target).of("eve")).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    let detail = &answer.error()["detail"];
    assert_eq!(
        detail["needed"],
        json!(["repository:app:pull", "repository:app:push"])
    );
    assert_eq!(detail["rule"], "default");
}

#[tokio::test]
async fn a_hidden_denial_does_not_name_its_rule() {
    let registry = Registry::new(|access| access);
    let answer = registry
        .send(Call::get("/v2/secret/app/tags/list").of("ada"))
        .await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    let detail = answer.error()["detail"].clone();
    // What helps is the same for whatever is denied, so it tells nothing either.
    let remedy = "log in with an account that may do it, or ask whoever runs this registry";
    assert_eq!(
        detail,
        json!({"needed": ["repository:secret/app:pull"], "remedy": remedy})
    );
}

#[tokio::test]
async fn whoever_is_asked_to_log_in_reads_for_what() {
    let registry = Registry::new(|access| access);
    let answer = registry.send(Call::get("/v2/app/tags/list")).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    let error = answer.error();
    assert_eq!(error["code"], "UNAUTHORIZED");
    assert_eq!(error["detail"]["needed"], json!(["repository:app:pull"]));
    // A wrong password is no denial.
    let answer = registry.send(Call::get("/v2/").basic("ada", "guess")).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert!(answer.error()["detail"].is_null());
}

#[tokio::test]
async fn who_decides_learns_the_name_of_the_request_if_they_are_to() {
    for (named, name) in [(false, None), (true, Some("test-1".to_owned()))] {
        let registry = Registry::new(|access| match named {
            true => AccessControl::with_request_names(access),
            false => access,
        });
        let blob = registry.push_image("app").await.blob;
        let mount = format!("/v2/public/blobs/uploads/?mount={blob}&from=app");
        let mounted = registry.send(Call::new("POST", &mount).of("bob")).await;
        assert_eq!(mounted.status, StatusCode::CREATED);
        let requests = registry.desk.requests.lock().unwrap();
        assert!(requests.len() > 2);
        assert!(
            requests.iter().all(|request| *request == name),
            "{requests:?}"
        );
    }
}
