//! `docker-proxy` between real clients and real registries, with a stand-in for the platform

use std::fs;
use std::path::Path;
use std::process::Command;

use registry_core::Digest;

use crate::clients::podman_command;
use crate::engines::{Containerd, Docker};
use crate::support::check;
use crate::support::clients::{Home, find_for_root, find_oras};
use crate::support::image::{Layout, digest_of_file};
use crate::support::peer::Peer;
use crate::support::platform::{CDS_PASSWORD, CDS_USER, License, Platform, Solution, User};
use crate::support::process::{Server, docker_proxy, eventually, finish_with, run, run_failing};
use crate::support::site::Site;
use crate::support::tls::{Authority, Client};

/// The account of the proxy at the registry behind it
const UPSTREAM: [&str; 2] = ["acumos_rw", "upstream's secret"];

const ADA: User = User {
    login: "ada",
    password: "P@ssw0rd: of ada",
};
const EVE: User = User {
    login: "eve",
    password: "P@ssw0rd of eve",
};

/// Ada's own, which nobody else may know of
const IRIS: Solution = Solution {
    id: "9d294c20-7b1f-4ab7-b8b3-03bc7f069ac1",
    model: "iris",
    owner: "ada",
    versions: &["1", "2"],
    published: false,
    license: License::Unknown,
};
/// Another's, free for everyone
const OPEN: Solution = Solution {
    id: "0a5ae3a4-4b5e-4b6f-9df0-6f2f6a1f7b11",
    model: "open_model",
    owner: "bob",
    versions: &["1.0.0"],
    published: true,
    license: License::Free,
};
/// Another's, for those who have a right to use it
const PAID: Solution = Solution {
    id: "5c3d9f7e-1a2b-4c3d-8e4f-0123456789ab",
    model: "paid",
    owner: "bob",
    versions: &["1.0.0"],
    published: true,
    license: License::For(&["eve"]),
};
/// Another's, which only he may know of
const SECRET: Solution = Solution {
    id: "77777777-1a2b-4c3d-8e4f-0123456789ab",
    model: "secret",
    owner: "bob",
    versions: &["1.0.0"],
    published: false,
    license: License::Unknown,
};

fn platform() -> Platform {
    Platform::start(&[ADA, EVE], &[IRIS, OPEN, PAID, SECRET])
}

/// A registry that only the proxy's account gets into: Debian's docker-registry, or ours
#[track_caller]
fn upstream(site: &Site, reference: bool) -> Option<Server> {
    let htpasswd = site.user(UPSTREAM[0], UPSTREAM[1], 5);
    if !reference {
        return Some(site.serve_with(
            "version: 0.1\nstorage: {filesystem: {rootdirectory: $SITE/root}}\n\
             http: {addr: 127.0.0.1:0}\n\
             auth: {htpasswd: {realm: upstream, path: $SITE/htpasswd}}\n",
        ));
    }
    let root = site.path("reference");
    fs::create_dir_all(&root).expect("a folder");
    let auth = format!(
        "auth: {{htpasswd: {{realm: upstream, path: '{}'}}}}",
        htpasswd.display()
    );
    Server::reference_with(&root, &auth)
}

/// What the proxy is told of the registry behind it and of the platform
fn configuration(upstream: &Server, platform: &Platform, more: &str) -> String {
    format!(
        "listen: 127.0.0.1:0\n\
         upstream: {{url: 'http://{}', user: {}, password: \"{}\"}}\n\
         acumos:\n  services:\n    \
         cds: {{url: '{}', user: {CDS_USER}, password: {CDS_PASSWORD}}}\n    \
         lum: {{url: '{}'}}\n{more}",
        upstream.address, UPSTREAM[0], UPSTREAM[1], platform.cds, platform.lum
    )
}

fn start(site: &Site, configuration: &str) -> Server {
    let folder = site.path("").display().to_string();
    let text = configuration.replace("$SITE", folder.trim_end_matches('/'));
    let path = site.write("proxy.yml", &text);
    Server::launch(docker_proxy(&["serve"]).arg(path))
}

fn login(docker: &Docker<'_>, registry: &str, user: &User, password: &str) -> (bool, String) {
    let mut command = docker.command(&["login", "-u", user.login, "--password-stdin", registry]);
    let (status, said, errors) = finish_with(&mut command, password);
    (status.success(), said + &errors)
}

/// The demo of the old proxy's guide, and what it never refused
fn demo(reference: bool) {
    let home = Home::new();
    let Some(skopeo) = home.skopeo() else { return };
    let Some(docker) = Docker::start(&home) else {
        return;
    };
    let site = Site::new();
    let Some(upstream) = upstream(&site, reference) else {
        return;
    };
    let platform = platform();
    let logs = "logs: {directory: $SITE/logs, level: debug}\n";
    let proxy = start(&site, &configuration(&upstream, &platform, logs));
    let address = &*proxy.address;

    // What the platform itself has put into the registry: twenty layers each.
    let credentials = format!("{}:{}", UPSTREAM[0], UPSTREAM[1]);
    for (seed, solution) in [(51, IRIS), (52, OPEN), (53, PAID), (54, SECRET)] {
        let layout = Layout::write(&home.path(solution.model), seed, &[2_000; 20]);
        skopeo.copy(
            &["--dest-creds", &credentials],
            &layout.reference("v1"),
            &format!(
                "docker://{}/{}:{}",
                upstream.address,
                solution.repository(),
                solution.versions[0]
            ),
        );
    }
    let image =
        |solution: &Solution, tag: &str| format!("{address}/{}:{tag}", solution.repository());
    let pull =
        |solution: &Solution| docker.command(&["pull", &image(solution, solution.versions[0])]);

    // Not logged in.
    let said = run_failing(&mut pull(&IRIS));
    assert!(said.contains("no basic auth credentials"), "{said}");
    let (success, said) = login(&docker, address, &ADA, "wrong");
    assert!(!success && said.contains("401 Unauthorized"), "{said}");

    // Logged in: one's own, and what is free.
    let (success, said) = login(&docker, address, &ADA, ADA.password);
    assert!(success && said.contains("Login Succeeded"), "{said}");
    platform.forget();
    let said = run(&mut pull(&IRIS));
    assert!(said.contains("Status: Downloaded newer image"), "{said}");
    assert_eq!(platform.logins(), 0, "the login before is remembered");
    assert_eq!(platform.uses(), 0, "an owner needs no right");
    run(&mut pull(&OPEN));

    // Without a right, and another's, which might as well not exist.
    let said = run_failing(&mut pull(&PAID));
    assert!(said.contains("denied") && said.contains("right"), "{said}");
    let hidden = run_failing(&mut pull(&SECRET));
    let absent = Solution {
        id: "00000000-1a2b-4c3d-8e4f-0123456789ab",
        ..SECRET
    };
    let missing = run_failing(&mut pull(&absent));
    assert_eq!(hidden.replace(SECRET.id, absent.id), missing);

    // One's own image, changed and under the next revision.
    let next = image(&IRIS, "2");
    docker.run(&["tag", &image(&OPEN, "1.0.0"), &next]);
    let said = docker.run(&["push", &next]);
    assert!(said.contains("2: digest: sha256:"), "{said}");
    docker.run(&["rmi", &next]);
    docker.run(&["pull", &next]);

    // A tag that is no revision; and another's model, with the tag of its revision.
    for (solution, tag, why) in [(&IRIS, "3", "revision"), (&OPEN, "1.0.0", "own")] {
        let name = image(solution, tag);
        docker.run(&["tag", &next, &name]);
        let said = run_failing(&mut docker.command(&["push", &name]));
        assert!(said.contains("denied") && said.contains(why), "{said}");
    }

    // A whole pull of twenty layers by someone with a right: one login and one use.
    docker.run(&["logout", address]);
    platform.forget();
    let (success, said) = login(&docker, address, &EVE, EVE.password);
    assert!(success, "{said}");
    let said = run(&mut pull(&PAID));
    assert!(said.contains("Status: Downloaded newer image"), "{said}");
    assert_eq!(platform.logins(), 1, "{:#?}", platform.asked());
    assert_eq!(platform.uses(), 1, "{:#?}", platform.asked());
    // What the platform is asked carries the name of the request that it is for.
    for asked in platform.asked() {
        assert!(
            asked.headers.contains_key("x-acumos-requestid"),
            "{asked:?}"
        );
        assert!(
            asked.headers.contains_key("x-acumos-request-id"),
            "{asked:?}"
        );
    }

    assert!(proxy.stop().success());
    check_log(&site.path("logs/docker-proxy/docker-proxy.log"));
}

#[test]
fn the_demo_in_front_of_the_reference_registry() {
    demo(true);
}

#[test]
fn the_demo_in_front_of_our_registry() {
    demo(false);
}

/// The log of a login, a pull and a push: of the platform's form, complete, and without secrets
#[track_caller]
fn check_log(path: &Path) {
    let text = fs::read_to_string(path).expect("a log");
    for secret in secrets() {
        assert!(!text.contains(&secret), "`{secret}` is in the log");
    }
    for marker in ["ENTRY", "EXIT", "INVOKE", "INVOKE_RETURN"] {
        let marked = text.lines().filter(|line| {
            let column = line.split('\t').nth(4);
            column.is_some_and(|column| column.trim() == marker)
        });
        assert!(marked.count() > 0, "no {marker} in\n{text}");
    }
    let exits = text.lines().filter(|line| line.contains("\tEXIT\t"));
    for line in exits {
        for field in [
            "RequestID=",
            "InvocationID=",
            "InstanceUUID=",
            "ServiceName=",
            "PartnerName=",
            "StatusCode=",
            "ResponseCode=",
            "ResponseDescription=",
            "Severity=",
            "ServerFQDN=",
            "ClientIPAddress=",
        ] {
            let (_, value) = line
                .split_once(field)
                .unwrap_or_else(|| panic!("no {field}: {line}"));
            assert!(
                !value.starts_with([',', '\t', ' ']),
                "{field} is empty: {line}"
            );
        }
    }
}

/// What must be in no log
fn secrets() -> Vec<String> {
    let mut secrets: Vec<String> = [ADA.password, EVE.password, UPSTREAM[1], CDS_PASSWORD]
        .map(str::to_owned)
        .into();
    for [user, password] in [
        [ADA.login, ADA.password],
        [EVE.login, EVE.password],
        UPSTREAM,
        [CDS_USER, CDS_PASSWORD],
    ] {
        let header = crate::support::http::basic(user, password);
        secrets.push(header.trim_start_matches("Basic ").to_owned());
    }
    secrets
}

/// Each kind of client, over TLS, with a layer of a gibibyte, in little memory
#[test]
fn a_layer_of_a_gibibyte_through_the_proxy() {
    let home = Home::new();
    let Some(skopeo) = home.skopeo() else { return };
    let site = Site::new();
    let Some(upstream) = upstream(&site, false) else {
        return;
    };
    let platform = platform();
    let authority = Authority::new();
    let identity = authority.server();
    site.write("server.crt", &identity.certificate);
    site.write_secret("server.key", &identity.key);
    fs::create_dir_all(site.path("certs")).expect("a folder");
    site.write("certs/ca.crt", &authority.pem);
    let certs = site.path("certs").display().to_string();
    let proxy = start(
        &site,
        &configuration(
            &upstream,
            &platform,
            "tls: {certificate: $SITE/server.crt, key: $SITE/server.key}\n",
        ),
    );
    let address = &*proxy.address;
    let layout = Layout::write(&home.path("layout"), 55, &[1 << 30]);
    let layer = &layout.layers[0];
    let user = format!("{}:{}", ADA.login, ADA.password);
    let repository = IRIS.repository();
    let [first, second] = ["1", "2"].map(|tag| format!("{address}/{repository}:{tag}"));
    let served = |tag: &str| {
        let peer = Peer::over(&Client::trusting(&authority), address).user(ADA.login, ADA.password);
        let path = format!("/v2/{repository}/manifests/{tag}");
        let answer = peer.send("GET", &path, &[("Accept", check::ACCEPT)], &[]);
        Digest::sha256(&answer.expect("answered").expect(&[200]).body)
    };

    let mut push = skopeo.command(&["copy", "--quiet", "--preserve-digests"]);
    push.args(["--dest-cert-dir", &certs, "--dest-creds", &user])
        .args([layout.reference("v1"), format!("docker://{first}")]);
    run(&mut push);
    assert_eq!(served("1"), layout.amd64.digest);
    let pulled = home.path("pulled");
    let mut pull = skopeo.command(&["copy", "--quiet", "--preserve-digests"]);
    pull.args(["--src-cert-dir", &certs, "--src-creds", &user])
        .args([
            format!("docker://{first}"),
            format!("dir:{}", pulled.display()),
        ]);
    run(&mut pull);
    assert_eq!(
        digest_of_file(&pulled.join(layer.digest.hex())),
        layer.digest
    );
    fs::remove_dir_all(&pulled).expect("removed");

    if let Some(program) = find_for_root("podman", "podman") {
        let podman = |arguments: &[&str]| podman_command(&home, &program, arguments);
        let secure = ["--quiet", "--cert-dir", &certs, "--creds", &user];
        let with = |command: &str| podman(&[&[command][..], &secure].concat());
        let id = run(with("pull").arg(&first));
        // It packs what it pushes, so it makes a layer of its own.
        let digest = home.path("digest");
        run(with("push")
            .arg("--digestfile")
            .arg(&digest)
            .args([id.trim(), &second]));
        let digest = fs::read_to_string(digest).expect("a digest");
        assert_eq!(digest.trim(), served("2").to_string());
        run(&mut podman(&["rmi", "--all", "--force"]));
    }
    if let Some(containerd) = Containerd::start(&home) {
        // Of its own accord it speaks no TLS to this machine.
        let hosts = site.path("hosts");
        fs::create_dir_all(hosts.join(address)).expect("a folder");
        let config = format!(
            "server = \"https://{address}\"\n[host.\"https://{address}\"]\nca = \"{certs}/ca.crt\"\n"
        );
        fs::write(hosts.join(address).join("hosts.toml"), config).expect("written");
        let hosts = hosts.display().to_string();
        let secure = ["--hosts-dir", &hosts, "--user", &user];
        let ctr = |arguments: &[&str], names: &[&str]| {
            run(&mut containerd.command(&[arguments, &secure, names].concat()))
        };
        ctr(&["content", "fetch"], &[&first]);
        ctr(&["images", "push"], &[&second, &first]);
        assert_eq!(served("2"), layout.amd64.digest);
    }
    if let Some(docker) = Docker::start(&home) {
        let (success, said) = login(&docker, address, &ADA, ADA.password);
        assert!(success, "{said}");
        docker.run(&["pull", "--quiet", &first]);
        docker.run(&["tag", &first, &second]);
        let said = docker.run(&["push", &second]);
        let digest = served("2");
        assert!(said.contains(&format!("digest: {digest}")), "{said}");
    }
    if let Some(python) = find_oras() {
        let script = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/e2e/support/oras_client.py"
        );
        let oras = |arguments: &[&str]| {
            let mut command: Command = home.command(&python);
            command
                .env("ORAS_TLS", "1")
                .env("ORAS_USER", ADA.login)
                .env("ORAS_PASSWORD", ADA.password)
                .arg(script)
                .args(arguments);
            run(&mut command)
        };
        let blob = layout.blob(&layer.digest).display().to_string();
        let digest = oras(&["push", &second, &blob, "67108864"]);
        assert_eq!(digest.trim(), served("2").to_string());
        oras(&["pull", &second, "oras"]);
        let pulled = home.path("oras").join(layer.digest.hex());
        assert_eq!(digest_of_file(&pulled), layer.digest);
    }
    let peak = proxy.resident_peak();
    assert!(peak < 40 << 20, "{} MiB were resident", peak >> 20);
    assert!(proxy.stop().success());
}

/// At the level that says most, of everything, and on the console
#[test]
fn no_secret_is_in_any_log_at_any_level() {
    let site = Site::new();
    let Some(upstream) = upstream(&site, false) else {
        return;
    };
    let platform = platform();
    let logs = "logs: {directory: $SITE/logs, level: debug, console: debug}\n";
    let path = {
        let text = configuration(&upstream, &platform, logs);
        let folder = site.path("").display().to_string();
        site.write(
            "proxy.yml",
            &text.replace("$SITE", folder.trim_end_matches('/')),
        )
    };
    let mut command = docker_proxy(&["serve"]);
    let proxy = Server::launch(command.env("RUST_LOG", "trace").arg(path));
    let ada = Peer::plain(&proxy.address).user(ADA.login, ADA.password);
    let digest = ada.push_image(&IRIS.repository(), "1", 56);
    assert_eq!(ada.pull_image(&IRIS.repository(), "1"), digest);
    let wrong = Peer::plain(&proxy.address).user(EVE.login, ADA.password);
    wrong.get("/v2/").expect(&[401]);
    let log = site.path("logs/docker-proxy/docker-proxy.log");
    eventually("the log has it all", || {
        let text = fs::read_to_string(&log).ok()?;
        text.contains("eve").then_some(())
    });
    let console = proxy.log();
    assert!(proxy.stop().success());
    let file = fs::read_to_string(&log).expect("a log");
    for secret in secrets() {
        assert!(!console.contains(&secret), "`{secret}` is on the console");
        assert!(!file.contains(&secret), "`{secret}` is in the file");
    }
}
