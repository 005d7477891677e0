//! What is asked for each question, and what is made of the answers

use registry_auth::acumos::{
    Account, AcumosServices, Answer, Catalog, Generation, ImageName, License, Query, Revision,
    RevisionId, Right, ServiceError, Solution, UserId, Visibility,
};

use crate::support::{OTHER, Reply, SOLUTION, Server, ok, page, user};

/// Asks one question of servers with these tables, and wants exactly these requests
async fn check(
    cds: &[(&str, Reply)],
    lum: Option<&[(&str, Reply)]>,
    generation: Option<Generation>,
    query: Query,
    answer: Answer,
) {
    let cds_server = Server::table(cds).await;
    let mut cds_client = cds_server.cds();
    if let Some(generation) = generation {
        cds_client = cds_client.with_generation(generation);
    }
    let mut services = AcumosServices::new(cds_client);
    let lum_server = Server::table(lum.unwrap_or_default()).await;
    if lum.is_some() {
        services = services.with_lum(lum_server.lum());
    }
    assert_eq!(services.answer(&query).await.unwrap(), answer, "{query}");
    let expected = |rows: &[(&str, Reply)]| -> Vec<String> {
        rows.iter().map(|(line, _)| (*line).to_owned()).collect()
    };
    let sorted = |mut lines: Vec<String>| {
        lines.sort();
        lines
    };
    // Each row is asked for, once.
    assert_eq!(sorted(cds_server.lines()), sorted(expected(cds)), "{query}");
    assert_eq!(
        lum_server.lines(),
        expected(lum.unwrap_or_default()),
        "{query}"
    );
}

const NEW: Option<Generation> = Some(Generation::RightsInLum);
const OLD: Option<Generation> = Some(Generation::RightsInCds);

const SEARCH: &str = "GET /user/search?loginName=ada&size=100&sort=userId%2Casc";
const ROLES: &str = r#"[{"roleId":"r1","name":"Publisher","active":true},
    {"roleId":"r2","name":"Admin","active":false}]"#;

fn ada(active: bool) -> Answer {
    Answer::Account(Some(Account {
        user: UserId::new("u1"),
        login: "ada".to_owned(),
        active,
        roles: vec!["Publisher".to_owned()],
    }))
}

#[tokio::test]
async fn an_account_is_the_one_with_exactly_this_name() {
    let query = || Query::Account("ada".to_owned());
    let found = page(&[&user("u0", "Ada", ""), &user("u1", "ada", "")], 0, true);
    let rows = [(SEARCH, ok(found)), ("GET /user/u1/role", ok(ROLES))];
    check(&rows, None, NEW, query(), ada(true)).await;
    for none in [page(&[], 0, true), page(&[&user("u0", "ADA", "")], 0, true)] {
        check(
            &[(SEARCH, ok(none))],
            None,
            NEW,
            query(),
            Answer::Account(None),
        )
        .await;
    }
}

#[tokio::test]
async fn who_may_not_log_in_to_the_portal_is_not_active() {
    for (change, active) in [
        (("\"active\":true", "\"active\":false"), false),
        (("\"active\":true,", ""), false),
        (
            (
                "\"loginPassExpire\":null",
                "\"loginPassExpire\":\"2018-12-16T12:34:56Z\"",
            ),
            false,
        ),
        (
            (
                "\"loginPassExpire\":null",
                "\"loginPassExpire\":\"2999-12-16T12:34:56.7Z\"",
            ),
            true,
        ),
        (
            (
                "\"loginPassExpire\":null",
                "\"loginPassExpire\":\"tomorrow\"",
            ),
            false,
        ),
        (
            (
                "\"verifyExpiration\":null",
                "\"verifyExpiration\":\"2999-12-16T12:34:56Z\"",
            ),
            false,
        ),
        (("\"loginPassExpire\":null,", ""), true),
        (("\"verifyExpiration\":null,", ""), true),
    ] {
        let found = page(
            &[&user("u1", "ada", "").replace(change.0, change.1)],
            0,
            true,
        );
        let rows = [(SEARCH, ok(found)), ("GET /user/u1/role", ok(ROLES))];
        let query = Query::Account("ada".to_owned());
        check(&rows, None, NEW, query, ada(active)).await;
    }
}

#[tokio::test]
async fn a_solution_that_is_not_there_may_be_said_so_in_four_ways() {
    let query = || Query::Solution(SOLUTION.parse().unwrap());
    let line = format!("GET /solution/{SOLUTION}");
    for reply in [
        ok(""),
        ok("null"),
        Reply::Json(404, String::new()),
        Reply::Json(400, r#"{"status":400,"error":"No solution"}"#.to_owned()),
    ] {
        check(
            &[(&line, reply)],
            None,
            NEW,
            query(),
            Answer::Solution(None),
        )
        .await;
    }
    for (active, more) in [
        (true, r#","active":true"#),
        (false, r#","active":false"#),
        (false, ""),
    ] {
        let found = format!(
            r#"{{"solutionId":"{SOLUTION}","name":"My Iris","userId":"u1","modelTypeCode":"CL"{more}}}"#
        );
        let answer = Answer::Solution(Some(Solution {
            id: SOLUTION.parse().unwrap(),
            name: "My Iris".to_owned(),
            owner: UserId::new("u1"),
            active,
        }));
        check(&[(&line, ok(found))], None, NEW, query(), answer).await;
    }
}

#[tokio::test]
async fn revisions_come_with_the_images_among_their_artifacts() {
    let query = || Query::Revisions(SOLUTION.parse().unwrap());
    let line = format!("GET /solution/{SOLUTION}/revision");
    for reply in [ok("[]"), ok(""), Reply::Json(404, String::new())] {
        check(
            &[(&line, reply)],
            None,
            NEW,
            query(),
            Answer::Revisions(vec![]),
        )
        .await;
    }
    let revisions = format!(
        r#"[{{"revisionId":"a","solutionId":"{SOLUTION}","version":"1.0.0","userId":"u1"}},
        {{"revisionId":"b","solutionId":"{SOLUTION}","version":"2.0.0-RC","userId":"u1"}}]"#
    );
    let image = format!("iris_{SOLUTION}:1.0.0");
    let artifacts = format!(
        r#"[{{"artifactId":"x","artifactTypeCode":"DI","name":"iris","uri":"nexus:8082/{image}","size":-1}},
        {{"artifactId":"y","artifactTypeCode":"DP","name":"iris","uri":"acumos-proxy.ns:3128/iris:2"}},
        {{"artifactId":"z","artifactTypeCode":"MI","name":"iris","uri":"nexus/org/acumos:3"}},
        {{"artifactId":"w","artifactTypeCode":"DI","name":"iris","uri":null}},
        {{"artifactId":"v","artifactTypeCode":"DI","name":"iris","uri":"h/Not a name:1"}}]"#
    );
    let answer = Answer::Revisions(vec![
        Revision {
            id: RevisionId::new("a"),
            version: "1.0.0".to_owned(),
            images: [format!("h/{image}"), "h/iris:2".to_owned()]
                .iter()
                .map(|uri| ImageName::from_uri(uri).unwrap())
                .collect(),
        },
        Revision {
            id: RevisionId::new("b"),
            version: "2.0.0-RC".to_owned(),
            images: vec![],
        },
    ]);
    let rows = [
        (line.as_str(), ok(revisions)),
        ("GET /revision/a/artifact", ok(artifacts)),
        ("GET /revision/b/artifact", ok("[]")),
    ];
    check(&rows, None, NEW, query(), answer).await;
}

#[tokio::test]
async fn co_owners_are_named_by_their_ids() {
    let line = format!("GET /access/solution/{SOLUTION}/user");
    let query = || Query::CoOwners(SOLUTION.parse().unwrap());
    let found = format!("[{}]", user("u7", "bob", r#","picture":"AAAA""#));
    let answer = Answer::CoOwners(vec![UserId::new("u7")]);
    check(&[(&line, ok(found))], None, NEW, query(), answer).await;
    check(
        &[(&line, ok("[]"))],
        None,
        NEW,
        query(),
        Answer::CoOwners(vec![]),
    )
    .await;
}

#[tokio::test]
async fn restricted_catalogues_are_seen_by_their_roles_where_they_have_any() {
    let line = format!("GET /catalog/solution/{SOLUTION}");
    let query = || Query::Catalogs(SOLUTION.parse().unwrap());
    let found = r#"[{"catalogId":"c1","accessTypeCode":"PB","name":"Public Models"},
        {"catalogId":"c2","accessTypeCode":"RS","name":"Company Models","selfPublish":false},
        {"catalogId":"c3","accessTypeCode":"OR","name":"Old"},
        {"catalogId":"c4","accessTypeCode":null,"name":"Odd"}]"#;
    let roles = ("GET /catalog/c2/role", ok(ROLES));
    let version = |version| {
        (
            "GET /version",
            ok(format!(r#"{{"status":200,"data":"{version}"}}"#)),
        )
    };
    let answer = |roles: &[&str]| {
        let restricted = |name: &str, roles: &[&str]| Catalog {
            name: name.to_owned(),
            visibility: Visibility::Restricted {
                roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            },
        };
        Answer::Catalogs(vec![
            Catalog {
                name: "Public Models".to_owned(),
                visibility: Visibility::Public,
            },
            restricted("Company Models", roles),
            restricted("Old", &[]),
            restricted("Odd", &[]),
        ])
    };
    let list = (line.as_str(), ok(found));
    let rows = [list.clone(), roles.clone()];
    check(&rows, None, NEW, query(), answer(&["Publisher"])).await;
    let rows = [list.clone(), version("3.1.1"), roles];
    check(&rows, None, None, query(), answer(&["Publisher"])).await;
    let rows = [list.clone(), version("3.0.1")];
    check(&rows, None, None, query(), answer(&[])).await;
    check(&[list], None, OLD, query(), answer(&[])).await;
    // Of public ones alone the version need not be known.
    let one = r#"[{"catalogId":"c1","accessTypeCode":"PB","name":"P"}]"#;
    let answer = Answer::Catalogs(vec![Catalog {
        name: "P".to_owned(),
        visibility: Visibility::Public,
    }]);
    check(&[(&line, ok(one))], None, None, query(), answer).await;
}

#[tokio::test]
async fn claimants_are_found_by_the_name_and_compared_by_the_uri() {
    let artifact = |id: &str, kind: &str, uri: &str| {
        format!(
            r#"{{"artifactId":"{id}","artifactTypeCode":"{kind}","name":"Iris","uri":"{uri}"}}"#
        )
    };
    let search = "GET /artifact/search?name=iris&size=100&sort=artifactId%2Casc";
    let revision = |solution| {
        ok(format!(
            r#"[{{"revisionId":"r","solutionId":"{solution}","version":"1"}}]"#
        ))
    };
    let second = format!("{search}&page=1");
    // Two pages; a prefix, another kind and a longer name are none of it.
    let rows = [
        (
            search,
            ok(page(
                &[
                    &artifact("x", "DP", "nexus:8082/iris:1"),
                    &artifact("p", "DP", "nexus:8082/prefix/iris:1"),
                    &artifact("m", "MI", "nexus:8082/iris:1"),
                ],
                0,
                false,
            )),
        ),
        (
            second.as_str(),
            ok(page(
                &[
                    &artifact("y", "DI", "other/iris:2"),
                    &artifact("z", "DI", "other/iris:3"),
                    &artifact("l", "DI", "other/iris2:2"),
                ],
                1,
                true,
            )),
        ),
        ("GET /artifact/x/revision", revision(SOLUTION)),
        ("GET /artifact/y/revision", revision(OTHER)),
        ("GET /artifact/z/revision", revision(OTHER)),
    ];
    let query = |name: &str| Query::Claimants(name.parse().unwrap());
    let answer = Answer::Claimants(vec![OTHER.parse().unwrap(), SOLUTION.parse().unwrap()]);
    check(&rows, None, NEW, query("iris"), answer).await;
    let rows = [
        (
            search,
            ok(page(&[&artifact("p", "DP", "h/prefix/iris:1")], 0, true)),
        ),
        ("GET /artifact/p/revision", revision(SOLUTION)),
    ];
    let answer = Answer::Claimants(vec![SOLUTION.parse().unwrap()]);
    check(&rows, None, NEW, query("prefix/iris"), answer).await;
}

#[tokio::test]
async fn pages_may_leave_out_what_they_are() {
    let search = "GET /artifact/search?name=iris&size=100&sort=artifactId%2Casc";
    let second = format!("{search}&page=1");
    let item = r#"{"artifactId":"x","artifactTypeCode":"LG"}"#;
    for rows in [
        // A list instead of a page
        vec![(search, ok(format!("[{item}]")))],
        // Only how many pages there are
        vec![
            (
                search,
                ok(format!(r#"{{"content":[{item}],"totalPages":2}}"#)),
            ),
            (
                &second,
                ok(format!(r#"{{"content":[{item}],"totalPages":2}}"#)),
            ),
        ],
        // Nothing but content
        vec![
            (search, ok(format!(r#"{{"content":[{item}]}}"#))),
            (&second, ok(r#"{"content":[]}"#)),
        ],
    ] {
        let query = Query::Claimants("iris".parse().unwrap());
        check(&rows, None, NEW, query, Answer::Claimants(vec![])).await;
    }
}

#[tokio::test]
async fn pages_that_never_end_are_an_error() {
    let name = "iris".parse().unwrap();
    let empty = Server::new(|_, _| ok(page(&[], 0, false))).await;
    let error = empty.cds().claimants(&name).await.unwrap_err();
    assert!(matches!(error, ServiceError::Malformed { .. }), "{error:?}");
    assert_eq!(empty.lines().len(), 1);
    let item = r#"{"artifactId":"x","artifactTypeCode":"LG"}"#;
    let endless = Server::new(move |_, number| ok(page(&[item], number, false))).await;
    let error = endless.cds().claimants(&name).await.unwrap_err();
    assert!(matches!(error, ServiceError::TooLarge { .. }), "{error:?}");
}

const TAG: &str = "GET /api/v1/swid-tag?swTagId=a";

fn swid(tag: &str, profile: &str) -> Reply {
    ok(format!(
        r#"{{"requestId":"1","requested":"2020-05-14T17:34:58.123Z","swidTag":{{"swTagId":"a",
        "swPersistentId":"{SOLUTION}","swCatalogs":[],"swCreators":["bob"],"swidTagActive":{tag}}},
        "licenseProfile":{profile}}}"#
    ))
}

#[tokio::test]
async fn a_licence_is_free_only_if_everything_says_so() {
    let profile = |active, required| {
        format!(
            r#"{{"licenseProfileId":"p","licenseProfileActive":{active},"isRtuRequired":{required}}}"#
        )
    };
    for (reply, license) in [
        (swid("true", &profile("true", "false")), License::Free),
        (
            swid("true", &profile("true", "true")),
            License::RightRequired,
        ),
        (swid("false", &profile("true", "false")), License::Revoked),
        (swid("true", &profile("false", "false")), License::Revoked),
        (swid("null", &profile("true", "false")), License::Unknown),
        (swid("true", &profile("true", "null")), License::Unknown),
        (swid("true", "null"), License::Unknown),
        (Reply::Json(204, String::new()), License::Unknown),
        (
            Reply::Json(224, r#"{"swidTag":{}}"#.to_owned()),
            License::Revoked,
        ),
    ] {
        let query = Query::License(RevisionId::new("a"));
        check(
            &[],
            Some(&[(TAG, reply)]),
            NEW,
            query,
            Answer::License(license),
        )
        .await;
    }
    // Without LUM nobody says.
    let query = Query::License(RevisionId::new("a"));
    check(&[], None, NEW, query, Answer::License(License::Unknown)).await;
}

const USE: &str = "PUT /api/v1/asset-usage?assetUsageId=docker-proxy%2Fa%2Fada";

fn usage(status: u16, entitled: bool, more: &str) -> Reply {
    Reply::Json(
        status,
        format!(
            r#"{{"requestId":"1","usageEntitled":{entitled},"assetUsage":{{"swTagId":"a",
            "assetUsageId":"i","action":"acumos:download","usageEntitled":{entitled}{more}}}}}"#
        ),
    )
}

#[tokio::test]
async fn a_right_is_asked_for_once_and_a_denial_is_said_on_one_line() {
    let none = |reason: &str| Right::None {
        reason: reason.to_owned(),
    };
    let summary = |text: &str| format!(r#","assetUsageDenialSummary":"{text}""#);
    for (reply, right) in [
        (usage(200, true, r#","assetUsageSeq":3"#), Right::Own),
        (
            usage(200, false, ""),
            none("the license usage manager denied it"),
        ),
        (
            usage(402, true, ""),
            none("the license usage manager denied it"),
        ),
        (
            usage(402, false, &summary(r"used \n up\u001b[31m")),
            none("used up [31m"),
        ),
        (
            usage(402, false, &summary(" ")),
            none("the license usage manager denied it"),
        ),
    ] {
        let query = Query::Right(RevisionId::new("a"), UserId::new("u1"));
        let cds = [("GET /user/u1", ok(user("u1", "ada", "")))];
        check(
            &cds,
            Some(&[(USE, reply)]),
            NEW,
            query,
            Answer::Right(right),
        )
        .await;
    }
    let query = Query::Right(RevisionId::new("a"), UserId::new("u1"));
    let gone = Answer::Right(none("the platform no longer has your account"));
    check(&[("GET /user/u1", ok(""))], Some(&[]), NEW, query, gone).await;
}

#[tokio::test]
async fn a_use_is_recorded_as_the_platform_records_downloads() {
    let server = Server::table(&[(USE, usage(200, true, ""))]).await;
    let lum = server.lum().with_instance("site-1").for_request("4711");
    assert_eq!(
        lum.use_once(&RevisionId::new("a"), "ada").await,
        Ok(Right::Own)
    );
    let asked = server.asked().remove(0);
    let body: serde_json::Value = serde_json::from_str(&asked.body).unwrap();
    for (field, value) in [
        ("/userId", "ada"),
        ("/swMgtSystemId", "Acumos"),
        ("/swMgtSystemInstanceId", "site-1"),
        ("/swMgtSystemComponent", "docker-proxy"),
        ("/assetUsageReq/swTagId", "a"),
        ("/assetUsageReq/assetUsageId", "docker-proxy/a/ada"),
        ("/assetUsageReq/action", "acumos:download"),
    ] {
        assert_eq!(body.pointer(field).unwrap(), value, "{field}");
    }
    assert_eq!(
        body.pointer("/assetUsageReq/isIncludedAsset").unwrap(),
        false
    );
    let requested = body["requested"].as_str().unwrap();
    assert_eq!(
        requested.len(),
        "2020-05-14T17:34:58.123Z".len(),
        "{requested}"
    );
    let head = asked.head.to_lowercase();
    for header in [
        "content-type: application/json; charset=utf-8",
        "x-acumos-requestid: 4711",
        "x-acumos-request-id: 4711",
        "authorization: basic y2nkc19jbgllbnq6c2vydmljzs1zzwnyzxq=",
    ] {
        assert!(head.contains(header), "{header}: {head}");
    }
}

#[tokio::test]
async fn a_right_can_be_foreseen_without_counting() {
    let line = "GET /api/v1/swid-tags/available-entitlement?userId=ada&action=acumos%3Adownload";
    let reply = r#"{"userId":"ada","action":"acumos:download","swidTagsWithAvailableEntitlement":[
        {"swTagId":"a","isUsedBySwCreator":false,"isRtuRequired":true,"availableEntitlement":{"rightToUseId":"r"}},
        {"swTagId":"b","isUsedBySwCreator":true,"isRtuRequired":true,"availableEntitlement":null}]}"#;
    let cds = Server::table(&[("GET /user/u1", ok(user("u1", "ada", "")))]).await;
    let lum = Server::table(&[(line, ok(reply))]).await;
    let services = AcumosServices::new(cds.cds()).with_lum(lum.lum());
    let user = UserId::new("u1");
    for (revision, usable) in [("a", true), ("b", true), ("c", false)] {
        let right = services
            .foresee_right(&RevisionId::new(revision), &user)
            .await;
        assert_eq!(right.unwrap() == Right::Own, usable, "{revision}");
    }
    assert!(lum.lines().iter().all(|asked| asked == line));
}

#[tokio::test]
async fn before_3_1_the_rights_are_in_cds() {
    let right = |site: bool| format!(r#"{{"rtuId":1,"solutionId":"{SOLUTION}","site":{site}}}"#);
    let own = format!("GET /rtu/solution/{SOLUTION}/user/u1");
    let site = format!("GET /rtu/search?solutionId={SOLUTION}&site=true&size=100&sort=rtuId%2Casc");
    let artifact = (
        "GET /revision/a/artifact",
        ok(r#"[{"artifactId":"x","artifactTypeCode":"LG","uri":null}]"#),
    );
    let revision = (
        "GET /artifact/x/revision",
        ok(format!(
            r#"[{{"revisionId":"other","solutionId":"{OTHER}"}},{{"revisionId":"a","solutionId":"{SOLUTION}"}}]"#
        )),
    );
    let none = || Right::None {
        reason: "the platform has none of yours, and none for all users".to_owned(),
    };
    let query = || Query::Right(RevisionId::new("a"), UserId::new("u1"));
    for (mine, all, expected) in [
        (format!("[{}]", right(false)), None, Right::Own),
        (
            "[]".to_owned(),
            Some(page(&[&right(true)], 0, true)),
            Right::Everyone,
        ),
        (
            "[]".to_owned(),
            Some(page(&[&right(false)], 0, true)),
            none(),
        ),
        ("[]".to_owned(), Some(page(&[], 0, true)), none()),
    ] {
        let mut rows = vec![artifact.clone(), revision.clone(), (own.as_str(), ok(mine))];
        rows.extend(all.map(|all| (site.as_str(), ok(all))));
        check(&rows, None, OLD, query(), Answer::Right(expected)).await;
    }
    // A revision of nothing gives no right.
    let rows = [("GET /revision/a/artifact", ok("[]"))];
    check(&rows, None, OLD, query(), Answer::Right(none())).await;
    // From 3.1 on they are not there, and a registry without LUM knows none.
    let reason = "this registry is not connected to the license usage manager".to_owned();
    check(
        &[],
        None,
        NEW,
        query(),
        Answer::Right(Right::None { reason }),
    )
    .await;
}

#[tokio::test]
async fn what_is_the_registrys_own_is_not_asked_of_the_platform() {
    let server = Server::table(&[]).await;
    let query = Query::Tags("iris".parse().unwrap(), registry_core::Digest::sha256(b""));
    let error = AcumosServices::new(server.cds())
        .answer(&query)
        .await
        .unwrap_err();
    assert_eq!(error, ServiceError::NotOfThePlatform { query });
    assert!(server.lines().is_empty());
}
