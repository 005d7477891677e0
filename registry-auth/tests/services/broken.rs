//! Services that answer garbage, slowly, too much, or never

use std::time::{Duration, Instant};

use registry_auth::acumos::{
    AcumosServices, Cds, Generation, License, Query, RevisionId, Right, ServiceError, UserId,
};

use crate::support::{Reply, SOLUTION, Server, ok, user};

fn queries() -> Vec<Query> {
    let id = || SOLUTION.parse().unwrap();
    vec![
        Query::Account("ada".to_owned()),
        Query::Catalogs(id()),
        Query::CoOwners(id()),
        Query::Claimants("iris".parse().unwrap()),
        Query::License(RevisionId::new("a")),
        Query::Revisions(id()),
        Query::Right(RevisionId::new("a"), UserId::new("u1")),
        Query::Solution(id()),
    ]
}

fn services(server: &Server) -> AcumosServices {
    AcumosServices::new(server.cds()).with_lum(server.lum())
}

#[tokio::test]
async fn what_is_no_answer_is_an_error_for_every_question() {
    let message = r#"{"status":500,"error":"no such user: ada-the-secret"}"#;
    for reply in [
        ok("<html>ada-the-secret</html>"),
        ok("\"ada-the-secret\""),
        ok("{}"),
        ok(r#"[{"ada-the-secret":1}]"#),
        ok("[".repeat(100_000)),
        Reply::Json(201, message.to_owned()),
        Reply::Json(302, message.to_owned()),
        Reply::Json(401, message.to_owned()),
        Reply::Json(403, message.to_owned()),
        Reply::Json(429, message.to_owned()),
        Reply::Json(500, message.to_owned()),
        Reply::Json(502, message.to_owned()),
        Reply::Json(503, message.to_owned()),
        Reply::Break,
        Reply::Raw(b"SSH-2.0-ada-the-secret\r\n".to_vec()),
        Reply::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n[".to_vec()),
    ] {
        for query in queries() {
            let given = reply.clone();
            let server = Server::new(move |_, _| given.clone()).await;
            let error = services(&server).answer(&query).await.unwrap_err();
            let text = format!("{error}");
            assert!(!text.contains("secret"), "{query}: {text}");
            assert!(!text.contains('\n'), "{query}: {text}");
            let seconds = error.retry_after().as_secs();
            assert!((1..=300).contains(&seconds), "{query}: {error:?}");
        }
    }
}

#[tokio::test]
async fn a_search_that_is_not_there_is_a_wrong_url_not_an_unknown_user() {
    for status in [400, 404] {
        for query in [
            Query::Account("ada".to_owned()),
            Query::Claimants("iris".parse().unwrap()),
        ] {
            let server = Server::new(move |_, _| Reply::Json(status, String::new())).await;
            let error = services(&server).answer(&query).await.unwrap_err();
            assert!(matches!(error, ServiceError::Status { .. }), "{error:?}");
        }
    }
}

#[tokio::test]
async fn answers_about_something_else_are_errors() {
    let id = "11111111-2222-4333-8444-555555555555";
    let server = Server::new(move |asked, _| match asked.line.split(['?', '/']).nth(1) {
        Some("solution") => ok(format!(
            r#"{{"solutionId":"{id}","name":"x","userId":"u1","active":true}}"#
        )),
        Some("user") => ok(user("u9", "ada", "")),
        _ => ok(r#"{"usageEntitled":true,"assetUsage":{"swTagId":"other"},
            "swidTag":{"swTagId":"other","swidTagActive":true},
            "licenseProfile":{"licenseProfileActive":true,"isRtuRequired":false}}"#),
    })
    .await;
    for query in [
        Query::Solution(SOLUTION.parse().unwrap()),
        Query::Right(RevisionId::new("a"), UserId::new("u1")),
        Query::License(RevisionId::new("a")),
    ] {
        let error = services(&server).answer(&query).await.unwrap_err();
        assert!(matches!(error, ServiceError::Malformed { .. }), "{error:?}");
    }
    let used = server.lum().use_once(&RevisionId::new("a"), "ada").await;
    assert!(
        matches!(used, Err(ServiceError::Malformed { .. })),
        "{used:?}"
    );
}

#[tokio::test]
async fn a_version_that_says_nothing_is_an_error_that_says_what_to_do() {
    for data in ["\"no version available\"", "null", "\"1.18.4\""] {
        let server =
            Server::new(move |_, _| ok(format!(r#"{{"status":200,"data":{data}}}"#))).await;
        let error = server.cds().generation().await.unwrap_err();
        assert!(matches!(error, ServiceError::Malformed { .. }), "{error:?}");
    }
    // One that cannot be had is asked for again, one that came is not.
    let server = Server::new(|_, number| match number {
        1 => Reply::Json(503, String::new()),
        _ => ok(r#"{"status":200,"data":"2.2.6"}"#),
    })
    .await;
    let cds = server.cds();
    assert!(cds.generation().await.is_err());
    for _ in 0..3 {
        assert_eq!(cds.generation().await, Ok(Generation::RightsInCds));
    }
    assert_eq!(server.lines(), ["GET /version"; 2]);
}

#[tokio::test]
async fn silence_and_slowness_end_with_the_timeout() {
    let timeout = Duration::from_millis(100);
    let slow = Reply::Late(Duration::from_secs(30), 200, "[]".to_owned());
    for reply in [Reply::Silence, slow] {
        let server = Server::new(move |_, _| reply.clone()).await;
        let cds = Cds::new(server.endpoint().with_timeout(timeout)).unwrap();
        let began = Instant::now();
        let error = cds.account("ada").await.unwrap_err();
        assert!(matches!(error, ServiceError::TimedOut { after, .. } if after == timeout));
        assert!(began.elapsed() < Duration::from_secs(10));
        // Silence is not a connection that broke.
        assert_eq!(server.lines().len(), 1);
    }
}

#[tokio::test]
async fn no_more_is_read_than_allowed() {
    let server = Server::new(|_, _| ok(format!("[{}]", " ".repeat(2000)))).await;
    let id = SOLUTION.parse().unwrap();
    for (limit, fits) in [(2002, true), (2001, false)] {
        let cds = Cds::new(server.endpoint().with_limit(limit)).unwrap();
        let found = cds.co_owners(&id).await;
        assert_eq!(found.is_ok(), fits, "{found:?}");
        if let Err(error) = found {
            assert!(matches!(error, ServiceError::TooLarge { .. }), "{error:?}");
        }
    }
}

#[tokio::test]
async fn what_only_reads_is_asked_again_once_and_what_counts_is_not() {
    let server = Server::new(|_, number| match number {
        1 => Reply::Break,
        _ => Reply::Json(204, String::new()),
    })
    .await;
    let license = server.lum().license(&RevisionId::new("a")).await;
    assert_eq!(license, Ok(License::Unknown));
    assert_eq!(server.lines().len(), 2);

    let server = Server::new(|_, _| Reply::Break).await;
    assert!(server.lum().license(&RevisionId::new("a")).await.is_err());
    assert_eq!(server.lines().len(), 2);

    let server = Server::new(|_, number| match number {
        1 => Reply::Break,
        _ => ok(r#"{"usageEntitled":true,"assetUsage":{"swTagId":"a"}}"#),
    })
    .await;
    let lum = server.lum();
    let lost = lum.use_once(&RevisionId::new("a"), "ada").await;
    assert!(
        matches!(lost, Err(ServiceError::Unreachable { .. })),
        "{lost:?}"
    );
    assert_eq!(server.lines().len(), 1);
    assert_eq!(
        lum.use_once(&RevisionId::new("a"), "ada").await,
        Ok(Right::Own)
    );
}

#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_does_not_matter() {
    let body = r#"{"usageEntitled":true,"assetUsage":{"swTagId":"a"}}"#;
    let length = body.len();
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
    // It closes after each answer, without having said so.
    let server = Server::new(move |_, _| Reply::Raw(answer.clone().into_bytes())).await;
    let lum = server.lum();
    for _ in 0..20 {
        let right = lum.use_once(&RevisionId::new("a"), "ada").await;
        assert_eq!(right, Ok(Right::Own));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(server.lines().len(), 20);
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let other = Server::new(|_, _| ok("[]")).await;
    let answer = format!(
        "HTTP/1.1 302 Found\r\nLocation: {}/x\r\nContent-Length: 0\r\n\r\n",
        other.url
    );
    let server = Server::new(move |_, _| Reply::Raw(answer.clone().into_bytes())).await;
    let error = server
        .cds()
        .co_owners(&SOLUTION.parse().unwrap())
        .await
        .unwrap_err();
    assert!(
        matches!(error, ServiceError::Status { status: 302, .. }),
        "{error:?}"
    );
    assert!(other.lines().is_empty());
}

#[tokio::test]
async fn nobody_listening_is_said_without_the_credentials() {
    let gone = Server::table(&[]).await;
    let cds = gone.cds();
    drop(gone);
    // The server stops when its task is next polled.
    tokio::task::yield_now().await;
    let error = cds.account("ada").await.unwrap_err();
    assert!(
        matches!(error, ServiceError::Unreachable { .. }),
        "{error:?}"
    );
    assert!(
        error.to_string().starts_with("CDS cannot be reached: "),
        "{error}"
    );
    assert!(!format!("{error:?} {cds:?}").contains("service-secret"));
}

#[tokio::test]
async fn a_service_that_is_put_off_says_for_how_long() {
    let answer = b"HTTP/1.1 503 X\r\nRetry-After: 42\r\nContent-Length: 0\r\n\r\n".to_vec();
    let server = Server::new(move |_, _| Reply::Raw(answer.clone())).await;
    let error = server.cds().account("ada").await.unwrap_err();
    assert_eq!(error.retry_after(), Duration::from_secs(42));
}
