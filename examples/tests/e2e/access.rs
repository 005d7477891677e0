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
    assert!(
        server.output().contains("by the rules in "),
        "{}",
        server.output()
    );

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
