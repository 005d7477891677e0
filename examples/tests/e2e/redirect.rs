//! Blobs that clients fetch from where they are: a store that verifies signatures, nginx on the
//! same folder, and what CloudFront would verify

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use registry_core::Digest;

use crate::clients::podman_command;
use crate::engines::Docker;
use crate::support::clients::{Home, find, find_for_root, is_root};
use crate::support::garage::Garage;
use crate::support::http::{self, ask};
use crate::support::image::{Layout, digest_of_file};
use crate::support::process::{Daemon, Server, free_address, run};
use crate::support::site::Site;

/// A blob that is in the registry now
fn pushed(server: &Server) -> (Digest, String, Vec<u8>) {
    let content: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let answer = http::push_blob(&server.address, "a", &content).expect("pushed");
    answer.expect(&[201]);
    let digest = Digest::sha256(&content);
    (digest, format!("/v2/a/blobs/{digest}"), content)
}

/// Where the registry sends a client
#[track_caller]
fn location(server: &Server, path: &str) -> String {
    let answer = http::get(&server.address, path).expect(&[307]);
    assert_eq!(answer.body, b"");
    answer.header("location").expect("a Location").to_owned()
}

/// How many answers sent a client elsewhere
fn redirects(server: &Server) -> usize {
    let log = server.log();
    let lines = log.lines().filter(|line| line.contains("/blobs/sha256:"));
    lines.filter(|line| line.contains("\" 307 0 ")).count()
}

#[test]
fn skopeo_and_podman_follow_signed_urls() {
    let Some(garage) = Garage::start() else {
        return;
    };
    let home = Home::new();
    let Some(skopeo) = home.skopeo() else { return };
    let server = garage.serve("", "");
    let layout = Layout::write(&home.path("layout"), 41, &[30_000, 9_000_000]);
    let name = format!("{}/redirect/multi:v1", server.address);
    let at = format!("docker://{name}");
    skopeo.copy(
        &["--all", "--preserve-digests"],
        &layout.reference("multi"),
        &at,
    );
    assert_eq!(redirects(&server), 0, "{}", server.log());

    let folder = home.path("pulled");
    let to = format!("oci:{}:x", folder.display());
    skopeo.copy(&["--all", "--preserve-digests"], &at, &to);
    for stored in [&layout.index, &layout.amd64, &layout.arm64]
        .into_iter()
        .chain(&layout.layers)
    {
        let blob = folder.join("blobs/sha256").join(stored.digest.hex());
        assert_eq!(digest_of_file(&blob), stored.digest);
    }
    // Two images, each with a configuration and two layers.
    let by_skopeo = redirects(&server);
    assert_eq!(by_skopeo, 6, "{}", server.log());

    let Some(podman) = find_for_root("podman", "podman") else {
        return;
    };
    let pull = ["pull", "--quiet", "--tls-verify=false", &name];
    run(&mut podman_command(&home, &podman, &pull));
    assert!(redirects(&server) > by_skopeo, "{}", server.log());
}

#[test]
fn docker_follows_signed_urls() {
    let Some(garage) = Garage::start() else {
        return;
    };
    let home = Home::new();
    let Some(skopeo) = home.skopeo() else { return };
    let server = garage.serve("", "");
    let layout = Layout::write(&home.path("layout"), 43, &[30_000, 500_000]);
    let name = format!("{}/redirect/one:v1", server.address);
    let at = format!("docker://{name}");
    skopeo.copy(&["--preserve-digests"], &layout.reference("v1"), &at);

    let Some(docker) = Docker::start(&home) else {
        return;
    };
    let said = docker.run(&["pull", &name]);
    assert!(said.contains(&layout.amd64.digest.to_string()), "{said}");
    assert!(redirects(&server) >= 3, "{}", server.log());
}

#[test]
fn a_signed_url_is_good_for_one_blob_one_method_and_some_time() {
    let Some(garage) = Garage::start() else {
        return;
    };
    let server = garage.serve("  redirect: {expirydelay: 3s}", "");
    server.prints("blobs are fetched from elsewhere: signed URLs of the bucket");
    let (digest, path, content) = pushed(&server);
    let url = location(&server, &path);
    let start = format!(
        "http://{}/images/some/where/docker/registry/v2/blobs/",
        garage.address
    );
    assert!(url.starts_with(&start), "{url}");

    // What a client asks of the registry first it asks of the store then.
    assert_eq!(ask("GET", &url, &[]).expect(&[200]).body, content);
    let part = [("Range", "bytes=1000-1999")];
    let answer = http::send(&server.address, "GET", &path, &part, &[]).expect("answered");
    let elsewhere = answer.expect(&[307]).header("location").map(str::to_owned);
    let answer = ask("GET", &elsewhere.expect("a Location"), &part).expect(&[206]);
    assert_eq!(answer.body, content[1000..2000]);

    // Each signature is for a GET: the registry answers a HEAD itself.
    let answer = http::request(&server.address, "HEAD", &path).expect(&[200]);
    assert_eq!(answer.header("content-length"), Some("400000"));
    assert_eq!(answer.header("location"), None);
    ask("HEAD", &url, &[]).expect(&[403]);
    ask("DELETE", &url, &[]).expect(&[403]);

    let hex = digest.hex();
    let (last, other) = match url.ends_with('0') {
        true => ("0", "1"),
        false => (&url[url.len() - 1..], "0"),
    };
    let tampered = [
        url.replace(&hex, &"0".repeat(64)),
        url.replace("X-Amz-Expires=3&", "X-Amz-Expires=3000&"),
        format!("{}{other}", url.strip_suffix(last).expect("it ends so")),
    ];
    for other in tampered {
        assert_ne!(other, url);
        ask("GET", &other, &[]).expect(&[400, 403]);
    }
    thread::sleep(Duration::from_secs(5));
    ask("GET", &url, &[]).expect(&[400, 403]);
    // Another is at hand.
    assert_eq!(ask("GET", &location(&server, &path), &[]).body, content);
    server.stop();
}

#[test]
fn clients_are_sent_where_they_reach_the_store_or_nowhere() {
    let Some(garage) = Garage::start() else {
        return;
    };
    let server = garage.serve("  redirect: {disable: true}", "");
    let (_, path, content) = pushed(&server);
    let answer = http::get(&server.address, &path).expect(&[200]);
    assert_eq!(answer.body, content);
    server.stop();

    // By another name of this machine, which the signature is for.
    let (_, port) = garage.address.rsplit_once(':').expect("a port");
    let config = fs::read_to_string(garage.site.path("config.yml")).expect("readable");
    let config = config.replace("  redirect: {disable: true}", "").replace(
        "bucket:",
        &format!("redirectendpoint: 'http://localhost:{port}', bucket:"),
    );
    let server = garage.site.serve_with(&config);
    let url = location(&server, &path);
    assert!(
        url.starts_with(&format!("http://localhost:{port}/images/")),
        "{url}"
    );
    assert_eq!(ask("GET", &url, &[]).expect(&[200]).body, content);
    ask("GET", &url.replace("localhost", "127.0.0.1"), &[]).expect(&[403]);
    server.stop();
}

#[test]
fn openssl_verifies_what_is_signed_for_cloudfront() {
    let Some(openssl) = find("openssl", "openssl") else {
        return;
    };
    let Some(garage) = Garage::start() else {
        return;
    };
    let site = &garage.site;
    let (key, public) = (site.path("key.pem"), site.path("public.pem"));
    // As Amazon hands it out: PKCS #1.
    run(Command::new(&openssl)
        .args(["genrsa", "-traditional", "-out"])
        .arg(&key)
        .arg("2048"));
    run(Command::new(&openssl)
        .args(["rsa", "-pubout", "-in"])
        .arg(&key)
        .arg("-out")
        .arg(&public));
    let server = garage.serve(
        "",
        "middleware: {storage: [{name: cloudfront, options: {baseurl: d1.cloudfront.net, \
         privatekey: $SITE/key.pem, keypairid: K2JCJMDEHXQW5F}}]}",
    );
    server.prints("blobs are fetched from elsewhere: CloudFront at https://d1.cloudfront.net");
    let (digest, path, _) = pushed(&server);
    let url = location(&server, &path);
    let (resource, query) = url.split_once('?').expect("a query");
    let hex = digest.hex();
    assert_eq!(
        resource,
        format!(
            "https://d1.cloudfront.net/some/where/docker/registry/v2/blobs/sha256/{}/{hex}/data",
            &hex[..2]
        )
    );
    let value = |name: &str| {
        let part = query.split('&').find_map(|part| part.strip_prefix(name));
        part.expect("a parameter").to_owned()
    };
    let signature = value("Signature=").replace('-', "+").replace('_', "=");
    let signature = BASE64_STANDARD.decode(signature.replace('~', "/"));
    fs::write(site.path("signature"), signature.expect("base64")).expect("written");
    site.write(
        "policy",
        &format!(
            r#"{{"Statement":[{{"Resource":"{resource}","Condition":{{"DateLessThan":{{"AWS:EpochTime":{}}}}}}}]}}"#,
            value("Expires=")
        ),
    );
    let said = run(Command::new(&openssl)
        .args(["dgst", "-sha256", "-verify"])
        .arg(&public)
        .arg("-signature")
        .arg(site.path("signature"))
        .arg(site.path("policy")));
    assert_eq!(said.trim(), "Verified OK");
    server.stop();
}

#[test]
fn a_mirror_sends_what_the_registry_has_stored() {
    let Some(nginx) = find("nginx", "nginx-light") else {
        return;
    };
    let home = Home::new();
    let Some(skopeo) = home.skopeo() else { return };
    let site = Site::new();
    fs::create_dir_all(site.path("nginx")).expect("a folder");
    fs::create_dir_all(site.path("root")).expect("a folder");
    let address = free_address();
    // Without this the workers of a master that root runs could not read the folder.
    let user = if is_root() { "user root;" } else { "" };
    let config = format!(
        "daemon off; pid {0}/nginx/pid; error_log stderr; {user}\nevents {{}}\nhttp {{\n\
         access_log off; client_body_temp_path {0}/nginx/a; proxy_temp_path {0}/nginx/b;\n\
         fastcgi_temp_path {0}/nginx/c; uwsgi_temp_path {0}/nginx/d; scgi_temp_path {0}/nginx/e;\n\
         server {{ listen {address}; location /mirror/ {{ alias {0}/root/; }} }}\n}}\n",
        site.path("").display()
    );
    let config = site.write("nginx.conf", &config);
    let mut command = Command::new(nginx);
    command
        .arg("-p")
        .arg(site.path("nginx"))
        .arg("-c")
        .arg(config);
    let (host, port) = address.rsplit_once(':').expect("a port");
    let _nginx = Daemon::start(command, &site.path("nginx.log"), || {
        let mut probe = Command::new("bash");
        probe
            .arg("-c")
            .arg(format!("exec 3<>/dev/tcp/{host}/{port}"));
        probe
    });
    let server = site.serve_with(&format!(
        "version: 0.1\nhttp: {{addr: '127.0.0.1:0'}}\n\
         storage: {{filesystem: {{rootdirectory: $SITE/root}}}}\n\
         middleware: {{storage: [{{name: redirect, options: {{baseurl: 'http://{address}/mirror/'}}}}]}}\n"
    ));
    let (_, path, content) = pushed(&server);
    let url = location(&server, &path);
    assert!(
        url.starts_with(&format!("http://{address}/mirror/docker/registry/v2/")),
        "{url}"
    );
    assert_eq!(ask("GET", &url, &[]).expect(&[200]).body, content);
    let part = ask("GET", &url, &[("Range", "bytes=5-9")]).expect(&[206]);
    assert_eq!(part.body, content[5..10]);

    let layout = Layout::write(&home.path("layout"), 47, &[30_000, 500_000]);
    let at = format!("docker://{}/mirrored:v1", server.address);
    skopeo.copy(&["--preserve-digests"], &layout.reference("v1"), &at);
    let before = redirects(&server);
    let folder = home.path("pulled");
    let to = format!("oci:{}:x", folder.display());
    skopeo.copy(&["--preserve-digests"], &at, &to);
    for stored in [&layout.amd64].into_iter().chain(&layout.layers) {
        let blob = folder.join("blobs/sha256").join(stored.digest.hex());
        assert_eq!(digest_of_file(&blob), stored.digest);
    }
    assert_eq!(redirects(&server), before + 3, "{}", server.log());
    server.stop();
}
