//! The rules of the Acumos platform in force: facts in a file, read again, and explained

use crate::support::peer::Peer;
use crate::support::process::{eventually, finish, registry};
use crate::support::site::Site;

const CONFIG: &str = "\
version: 0.1
storage: {filesystem: {rootdirectory: $SITE/root}}
http: {addr: 127.0.0.1:0}
auth: {htpasswd: {realm: registry, path: $SITE/htpasswd}}
registry: {access: {acumos: {file: $SITE/platform.yml}}, reload: {interval: 100ms}}
";

const IRIS: &str = "iris_9d294c20-7b1f-4ab7-b8b3-03bc7f069ac1";

/// ada's model: its first release is free, for the second one needs a right
const PLATFORM: &str = "\
accounts: [{login: ada}, {login: bob}, {login: eve, roles: [Admin]}]
catalogs: [{name: Public}]
solutions:
  - id: 9d294c20-7b1f-4ab7-b8b3-03bc7f069ac1
    name: Iris
    owner: ada
    catalogs: [Public]
    revisions:
      - version: 1.0.0
        images: ['iris_9d294c20-7b1f-4ab7-b8b3-03bc7f069ac1:1.0.0']
        license: free
      - version: 2.0.0
        images: ['iris_9d294c20-7b1f-4ab7-b8b3-03bc7f069ac1:2.0.0']
        license: right-required
";

fn site() -> Site {
    let site = Site::new();
    for user in ["ada", "bob", "eve"] {
        site.user(user, "secret", 4);
    }
    site.write("platform.yml", PLATFORM);
    site.configure(CONFIG);
    site
}

#[test]
fn the_rules_of_the_platform_decide() {
    let site = site();
    let server = site.serve();
    server.prints("by the Acumos rules with facts in ");
    let [ada, bob, eve] =
        ["ada", "bob", "eve"].map(|user| Peer::plain(&server.address).user(user, "secret"));
    let nobody = Peer::plain(&server.address);
    let manifest = |tag: &str| format!("/v2/{IRIS}/manifests/{tag}");

    // Only the owner pushes, only to the name of the solution, only the tags of its revisions.
    let free = ada.push_image(IRIS, "1.0.0", 1);
    let licensed = ada.push_image(IRIS, "2.0.0", 2);
    let pushed = ada.get(&manifest("1.0.0")).expect(&[200]);
    let media_type = pushed.header("content-type").expect("a type").to_owned();
    let put = |peer: &Peer, tag: &str| {
        let headers = [("Content-Type", media_type.as_str())];
        peer.send("PUT", &manifest(tag), &headers, &pushed.body)
            .expect("an answer")
    };
    put(&ada, "3.0.0").expect(&[403]);
    put(&bob, "1.0.0").expect(&[403]);
    ada.request("POST", "/v2/other/blobs/uploads/")
        .expect(&[403]);
    bob.request("POST", &format!("/v2/{IRIS}/blobs/uploads/"))
        .expect(&[403]);

    // What is free is for everyone with an account, what needs a right for those who have one:
    // by tag and by digest, and for layers too.
    assert_eq!(bob.pull_image(IRIS, "1.0.0"), free);
    bob.get(&manifest(&free.to_string())).expect(&[200]);
    bob.get(&manifest("2.0.0")).expect(&[403]);
    bob.get(&manifest(&licensed.to_string())).expect(&[403]);
    assert_eq!(ada.pull_image(IRIS, "2.0.0"), licensed);
    nobody.get(&manifest("1.0.0")).expect(&[401]);
    bob.get("/v2/_catalog").expect(&[403]);
    eve.get("/v2/_catalog").expect(&[200]);

    // A broken file changes nothing; a right in a good one does.
    let errors = server.errors().len();
    site.write("platform.yml", "accounts: ada");
    server.says_after(errors, &["ERROR", "platform.yml", "stay so"]);
    assert_eq!(bob.pull_image(IRIS, "1.0.0"), free);
    site.write(
        "platform.yml",
        &PLATFORM.replace("right-required", "right-required\n        rights: [bob]"),
    );
    eventually("bob has a right", || {
        (bob.get(&manifest("2.0.0")).status == 200).then_some(())
    });
    assert_eq!(bob.pull_image(IRIS, "2.0.0"), licensed);
}

#[test]
fn a_file_of_rules_narrows_what_the_platform_allows() {
    let site = site();
    site.write(
        "rules.yml",
        "rules: [{name: pull-only, effect: allow, subjects: [anyone], repositories: ['**'], actions: [pull]}]",
    );
    let server = site.serve_with(&CONFIG.replace("{acumos:", "{rules: $SITE/rules.yml, acumos:"));
    let ada = Peer::plain(&server.address).user("ada", "secret");
    ada.request("POST", &format!("/v2/{IRIS}/blobs/uploads/"))
        .expect(&[403]);
    // Both allow it, and there is nothing.
    ada.get(&format!("/v2/{IRIS}/manifests/1.0.0"))
        .expect(&[404]);
    ada.get("/v2/other/manifests/1.0.0").expect(&[403]);
}

#[test]
fn users_log_in_by_the_directory() {
    let site = Site::new();
    // A hash is a hash, wherever it was made.
    let made = std::fs::read_to_string(site.user("ada", "secret", 4)).expect("a hash");
    let hash = made.trim().strip_prefix("ada:").expect("ada's");
    let platform = |hash: &str| {
        let with = format!("{{login: ada, password: '{hash}'}}");
        PLATFORM.replace("{login: ada}", &with)
    };
    site.write("platform.yml", &platform(hash));
    let config = CONFIG
        .replace(
            "auth: {htpasswd: {realm: registry, path: $SITE/htpasswd}}\n",
            "",
        )
        .replace(
            "registry: {",
            "registry: {auth: {acumos: {realm: Platform}}, ",
        );
    let server = site.serve_with(&config);
    let ada = Peer::plain(&server.address).user("ada", "secret");
    ada.push_image(IRIS, "1.0.0", 1);
    let wrong = Peer::plain(&server.address).user("ada", "wrong");
    let refused = wrong.get("/v2/").expect(&[401]);
    let challenge = refused.header("www-authenticate");
    assert_eq!(challenge, Some("Basic realm=\"Platform\""));
    // bob has an account, and no password.
    Peer::plain(&server.address)
        .user("bob", "")
        .get("/v2/")
        .expect(&[401]);
    // Who changes the password is asked for the new one.
    site.user("ada", "other", 4);
    let made = std::fs::read_to_string(site.path("htpasswd")).expect("a hash");
    let hash = made.trim().strip_prefix("ada:").expect("ada's");
    site.write("platform.yml", &platform(hash));
    let ada = Peer::plain(&server.address).user("ada", "other");
    eventually("the new password is known", || {
        (ada.get("/v2/").status == 200).then_some(())
    });
    Peer::plain(&server.address)
        .user("ada", "secret")
        .get("/v2/")
        .expect(&[401]);
}

#[test]
fn a_decision_by_the_platform_is_explained() {
    let site = site();
    let explain = |arguments: &[&str]| {
        let config = site.path("config.yml").display().to_string();
        let all = [&["policy", "explain", "--config", &config][..], arguments].concat();
        let (status, output, errors) = finish(&mut registry(&all));
        (status.code(), format!("{output}{errors}"))
    };
    let repository = format!("--repo={IRIS}");
    let allowed = explain(&["--user=bob", &repository, "--tag=1.0.0"]);
    assert_eq!(allowed.0, Some(0), "{}", allowed.1);
    assert!(allowed.1.contains("rule:    open-source"), "{}", allowed.1);
    for (arguments, part) in [
        (&["--user=bob", "--tag=2.0.0"][..], "verdict: deny"),
        (&["--user=bob", "--action=push"], "verdict: deny"),
        (&["--user=nobody", "--tag=1.0.0"], "verdict: deny"),
        (&["--tag=1.0.0"], "verdict: deny"),
    ] {
        let (status, said) = explain(&[arguments, &[&repository]].concat());
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains(part), "{said}");
    }
    let (_, json) = explain(&["--user=ada", &repository, "--action=push", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["rule"], "owner", "{json}");

    // By digest the storage says which tags lead there.
    let digest = {
        let server = site.serve();
        let ada = Peer::plain(&server.address).user("ada", "secret");
        ada.push_image(IRIS, "1.0.0", 1)
    };
    let digest = format!("--digest={digest}");
    let (status, said) = explain(&["--user=bob", &repository, &digest]);
    assert_eq!(status, Some(0), "{said}");
}
