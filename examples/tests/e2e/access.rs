//! Rules of who may do what: in force, explained, and read again

use crate::support::peer::Peer;
use crate::support::process::{eventually, finish, registry, run};
use crate::support::site::Site;

const CONFIG: &str = "\
version: 0.1
storage: {filesystem: {rootdirectory: $SITE/root}}
http: {addr: 127.0.0.1:0}
auth: {htpasswd: {realm: registry, path: $SITE/htpasswd}}
registry: {access: {rules: $SITE/rules.yml}, reload: {interval: 100ms}}
";

const RULES: &str = "\
rules:
  - name: team-pushes
    effect: allow
    subjects: ['user:ada']
    repositories: ['team/**']
    actions: [pull, push]
  - name: everyone-pulls
    effect: allow
    subjects: [authenticated]
    repositories: ['**']
    actions: [pull]
  - name: releases-stay
    effect: deny
    subjects: [anyone]
    repositories: ['**']
    actions: [push]
    tags: ['v*']
";

fn site() -> Site {
    let site = Site::new();
    site.user("ada", "ada's", 4);
    site.user("bob", "bob's", 4);
    site.write("rules.yml", RULES);
    site.configure(CONFIG);
    site
}

#[test]
fn rules_decide_and_are_read_again() {
    let site = site();
    let server = site.serve();
    let ada = Peer::plain(&server.address).user("ada", "ada's");
    let bob = Peer::plain(&server.address).user("bob", "bob's");
    let nobody = Peer::plain(&server.address);
    server.prints("by the rules in ");

    let digest = ada.push_image("team/app", "latest", 1);
    assert_eq!(bob.pull_image("team/app", "latest"), digest);
    let refused = bob
        .request("POST", "/v2/team/app/blobs/uploads/")
        .expect(&[403]);
    assert!(
        refused.text().contains("you may not push to `team/app`"),
        "{}",
        refused.text()
    );
    ada.request("POST", "/v2/other/blobs/uploads/")
        .expect(&[403]);
    nobody.get("/v2/team/app/tags/list").expect(&[401]);
    ada.get("/v2/_catalog").expect(&[403]);

    // The manifest alone says for which tag a push is.
    let manifest = ada.get("/v2/team/app/manifests/latest").expect(&[200]);
    let media_type = manifest.header("content-type").expect("a type").to_owned();
    let put = |peer: &Peer, tag: &str| {
        let path = format!("/v2/team/app/manifests/{tag}");
        let headers = [("Content-Type", media_type.as_str())];
        peer.send("PUT", &path, &headers, &manifest.body)
            .expect("an answer")
    };
    put(&ada, "v1").expect(&[403]);
    put(&ada, "next").expect(&[201]);
    ada.get("/v2/team/app/manifests/v1").expect(&[404]);

    // A broken file changes nothing; a good one does.
    let errors = server.errors().len();
    site.write("rules.yml", "rules: [{name: x}]");
    server.says_after(errors, &["ERROR", "rules.yml", "stay so"]);
    put(&ada, "v1").expect(&[403]);
    bob.get("/v2/team/app/tags/list").expect(&[200]);
    site.write("rules.yml", &RULES.replace("user:ada", "user:bob"));
    eventually("bob may push", || {
        let answer = bob.request("POST", "/v2/team/app/blobs/uploads/");
        (answer.status == 202).then_some(())
    });
    ada.request("POST", "/v2/team/app/blobs/uploads/")
        .expect(&[403]);
}

#[test]
fn a_decision_is_explained() {
    let site = site();
    let config = site.path("config.yml").display().to_string();
    let explain = |arguments: &[&str]| {
        let all = [&["policy", "explain", "--config", &config][..], arguments].concat();
        let (status, output, _) = finish(&mut registry(&all));
        (status.code(), output)
    };
    let (status, said) = explain(&[
        "--user=ada",
        "--action=push",
        "--repo=team/app",
        "--tag=latest",
    ]);
    assert_eq!(status, Some(0), "{said}");
    for part in [
        "verdict: allow",
        "rule:    team-pushes",
        "`team/app` matches `team/**`",
    ] {
        assert!(said.contains(part), "{said}");
    }
    for (arguments, rule) in [
        (
            &["--user=ada", "--action=push", "--repo=team/app", "--tag=v1"][..],
            "releases-stay",
        ),
        (
            &["--user=bob", "--action=push", "--repo=team/app"],
            "default",
        ),
        (&["--repo=team/app"], "default"),
        (&["--user=ada"], "default"),
    ] {
        let (status, said) = explain(arguments);
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains("verdict: deny"), "{said}");
        assert!(said.contains(&format!("rule:    {rule}")), "{said}");
        assert!(said.contains("missing: "), "{said}");
    }
    let arguments = [
        "policy",
        "explain",
        "--config",
        &config,
        "--user=bob",
        "--repo=a",
        "--json",
    ];
    let json: serde_json::Value =
        serde_json::from_str(&run(&mut registry(&arguments))).expect("JSON");
    assert_eq!(json["allow"], true);
    assert_eq!(json["rule"], "everyone-pulls");

    // Rules that cannot be read are no open door.
    site.write("rules.yml", "rules: oops");
    let (status, said) = explain(&["--user=ada", "--repo=team/app"]);
    assert_eq!((status, said.as_str()), (Some(1), ""));
    assert!(site.refusal(CONFIG).contains("registry.access.rules"));
}

#[test]
fn whoever_asks_too_often_is_told_when_to_come_again() {
    let site = site();
    let config = CONFIG.replace(
        "registry: {",
        "registry: {limits: {users: {pulls: 2/h}, addresses: {failures: 3/h}}, ",
    );
    let server = site.serve_with(&config);
    let ada = Peer::plain(&server.address).user("ada", "ada's");
    ada.push_image("team/app", "latest", 1);
    let bob = Peer::plain(&server.address).user("bob", "bob's");
    for _ in 0..2 {
        bob.get("/v2/team/app/manifests/latest").expect(&[200]);
    }
    let refused = bob.get("/v2/team/app/manifests/latest").expect(&[429]);
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    assert!(
        refused.text().contains("TOOMANYREQUESTS"),
        "{}",
        refused.text()
    );
    // The limit is bob's, not everybody's.
    ada.get("/v2/team/app/manifests/latest").expect(&[200]);

    let guesser = Peer::plain(&server.address).user("ada", "wrong");
    for _ in 0..3 {
        guesser.get("/v2/").expect(&[401]);
    }
    guesser.get("/v2/").expect(&[429]);
}

#[test]
fn what_may_not_be_seen_can_look_as_if_it_were_not_there() {
    let site = site();
    site.write(
        "rules.yml",
        "\
hidden: true
rules:
  - {name: ada, effect: allow, subjects: ['user:ada'], repositories: ['**'], actions: [pull, push]}
",
    );
    let hidden = |hide: bool| {
        let server = site.serve_with(&CONFIG.replace(
            "{rules: $SITE/rules.yml}",
            &format!("{{rules: $SITE/rules.yml, hide: {hide}}}"),
        ));
        let ada = Peer::plain(&server.address).user("ada", "ada's");
        ada.push_image("team/app", "latest", 1);
        let bob = Peer::plain(&server.address).user("bob", "bob's");
        let [there, not_there] = ["team/app", "team/other"].map(|name| {
            let answer = bob.get(&format!("/v2/{name}/manifests/latest"));
            (answer.status, answer.text().replace(name, "NAME"))
        });
        assert_eq!(there, not_there);
        there.0
    };
    assert_eq!(hidden(false), 403);
    assert_eq!(hidden(true), 404);
}

#[test]
fn an_upload_that_began_goes_on_at_another_replica() {
    let site = site();
    let config = CONFIG.replace("http: {", "http: {secret: correct horse battery staple, ");
    let (first, second) = (site.serve_with(&config), site.serve_with(&config));
    let ada = Peer::plain(&first.address).user("ada", "ada's");
    let begun = ada
        .request("POST", "/v2/team/app/blobs/uploads/")
        .expect(&[202]);
    assert!(
        begun.location().contains("_session="),
        "{}",
        begun.location()
    );
    // ada may not begin one any more, but may end this one, wherever it goes on.
    let errors = second.errors().len();
    site.write("rules.yml", "rules: []");
    second.says_after(errors, &["rules read again"]);
    let ada = Peer::plain(&second.address).user("ada", "ada's");
    eventually("ada may not begin", || {
        let answer = ada.request("POST", "/v2/team/app/blobs/uploads/");
        (answer.status == 403).then_some(())
    });
    ada.send("PATCH", &begun.location(), &[], b"content")
        .expect("an answer")
        .expect(&[202]);
    let unsealed = begun.location().replace("_session=", "_other=");
    ada.send("PATCH", &unsealed, &[], b"content")
        .expect("an answer")
        .expect(&[403]);
}
