//! nginx as `examples/deploy/nginx.conf` configures it, which asks about every request

use std::convert::Infallible;
use std::fs;
use std::future::pending;
use std::io::Write;
use std::process::Command;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use ::http::{Request, Response as HttpResponse, StatusCode, header};
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use registry_auth::htpasswd::Options;
use registry_auth::{Access, AllowAll, Anyone, Decision, Htpasswd, Policy, Principal};
use registry_core::{Action, Resource};
use registry_http::{
    AccessControl, AuthRequestService, RegistryService, ResponseBody, ServeOptions, serve,
};
use registry_storage::{Memory, Store};
use tokio::net::TcpListener;

use crate::support::clients::{Home, find, is_root};
use crate::support::http::{self, Response, basic};
use crate::support::image::{Layout, digest_of_file};
use crate::support::process::{Daemon, free_address, run, run_failing};
use crate::support::site::Site;
use crate::support::tls::{Authority, Client};

const CONFIG: &str = include_str!("../../deploy/nginx.conf");
const UPSTREAM: [&str; 2] = ["acumos_rw", "upstream:secret"];
const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// What is under `ada/` is ada's; whoever has logged in may pull `shared`
#[derive(Debug)]
struct Rules;

impl Policy for Rules {
    fn decide(&self, principal: &Principal, access: &Access) -> Decision {
        let Resource::Repository(name) = &access.resource else {
            return Decision::deny("catalog", "nobody may list what there is");
        };
        let user = principal.name().unwrap_or_default();
        if name.as_str().split('/').next() == Some(user) && access.action != Action::Delete {
            return Decision::allow("owner", "it is theirs");
        }
        if name.as_str() == "shared" && !user.is_empty() && access.action == Action::Pull {
            return Decision::allow("shared", "everyone who has logged in may");
        }
        Decision::deny("rest", "this is \"somebody else's\"")
    }
}

/// What came to the registry behind nginx: method, target and headers of each request
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    fn count(&self) -> usize {
        self.all().len()
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().expect("nobody panicked").clone()
    }
}

/// nginx, what it asks, and the registry behind it, until the end of the test
struct Guarded {
    client: Client,
    authority: Authority,
    address: String,
    seen: Seen,
    site: Site,
    _nginx: Daemon,
}

impl Guarded {
    #[track_caller]
    fn start() -> Option<Self> {
        Self::start_with(UPSTREAM, true)
    }

    /// nginx that brings these credentials to the registry behind, and has somebody to ask or not
    #[track_caller]
    fn start_with(credentials: [&str; 2], can_ask: bool) -> Option<Self> {
        let nginx = find("nginx", "nginx-light")?;
        let site = Site::new();
        let authority = Authority::new();
        let identity = authority.server();
        site.write("domain.crt", &identity.certificate);
        site.write_secret("domain.key", &identity.key);
        let htpasswd = site.user("ada", "secret", 4);
        site.user("bob", "secret", 4);
        let authorization = basic(credentials[0], credentials[1]);
        site.write_secret(
            "upstream-credentials.conf",
            &format!("proxy_set_header Authorization \"{authorization}\";\n"),
        );
        let users = Htpasswd::open(
            &htpasswd,
            "Acumos".parse().expect("quotable"),
            Options::default(),
        )
        .expect("users");
        let access = AccessControl::new(Arc::new(users), Arc::new(Rules));
        let asked = AuthRequestService::builder(access).build();
        let seen = Seen::default();
        let asked = match can_ask {
            true => listen(asked),
            false => free_address(),
        };
        let upstream = listen(upstream(seen.clone()));
        let address = free_address();
        fs::create_dir(site.path("nginx")).expect("a folder");
        let config = configured(&site, &address, &asked, &upstream);
        let config = site.write("nginx.conf", &config);
        let mut command = Command::new(nginx);
        command
            .arg("-p")
            .arg(site.path("nginx"))
            .arg("-c")
            .arg(config);
        let (_, port) = address.rsplit_once(':').expect("a port");
        let ready = || {
            let mut probe = Command::new("bash");
            probe
                .arg("-c")
                .arg(format!("exec 3<>/dev/tcp/127.0.0.1/{port}"));
            probe
        };
        let nginx = Daemon::start(command, &site.path("nginx.log"), ready);
        Some(Self {
            client: Client::trusting(&authority),
            authority,
            address,
            seen,
            site,
            _nginx: nginx,
        })
    }

    /// A request as one of the users, or as nobody
    #[track_caller]
    fn send(
        &self,
        user: Option<&str>,
        method: &str,
        target: &str,
        more: &[(&str, &str)],
    ) -> Response {
        let authorization = user.map(|user| basic(user, "secret"));
        let mut headers = more.to_vec();
        if let Some(authorization) = &authorization {
            headers.push(("Authorization", authorization));
        }
        let answer = self
            .client
            .send(&self.address, method, target, &headers, &[]);
        answer.unwrap_or_else(|error| panic!("{method} {target} got no answer: {error}"))
    }

    /// What is answered to these very bytes, in which `$HOST` is where nginx listens
    #[track_caller]
    fn raw(&self, request: &str) -> Response {
        let mut connection = self.client.connect(&self.address).expect("a connection");
        let request = request.replace("$HOST", &self.address);
        connection.write_all(request.as_bytes()).expect("sent");
        http::read_response(connection, "GET").expect("answered")
    }
}

/// The shipped file with the addresses and files of this test, and what a process of its own needs
#[track_caller]
fn configured(site: &Site, address: &str, asked: &str, upstream: &str) -> String {
    let path = |name: &str| site.path(name).display().to_string();
    // Without this the workers of a master that root runs could not read the folder.
    let user = if is_root() { "user root;" } else { "" };
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("  {kind}_temp_path {};\n", path(&format!("nginx/{kind}"))))
        .collect();
    let mut config = CONFIG.to_owned();
    for (shipped, here) in [
        (
            "worker_processes auto;",
            format!("worker_processes 2; daemon off; {user}"),
        ),
        ("/run/nginx.pid", path("nginx/pid")),
        ("/var/log/nginx/error.log", path("nginx/error.log")),
        (
            "/var/log/nginx/docker-proxy-access.log",
            path("nginx/access.log"),
        ),
        (
            "  server_tokens off;\n",
            format!("  server_tokens off;\n{temporary}"),
        ),
        ("127.0.0.1:30880", asked.to_owned()),
        ("127.0.0.1:8082", upstream.to_owned()),
        ("acumos.example:30883", address.to_owned()),
        (
            "    listen 8443 ssl http2;\n",
            format!("    listen {address} ssl http2;\n"),
        ),
        ("    listen [::]:8443 ssl http2;\n", String::new()),
        ("/etc/nginx/certs/domain.crt", path("domain.crt")),
        ("/etc/nginx/certs/domain.key", path("domain.key")),
        (
            "/etc/nginx/upstream-credentials.conf",
            path("upstream-credentials.conf"),
        ),
    ] {
        assert_eq!(config.matches(shipped).count(), 1, "{shipped}");
        config = config.replace(shipped, &here);
    }
    config
}

/// Serves until the end of the process, and says where
fn listen<S>(service: S) -> String
where
    S: Service<Request<Incoming>, Response = HttpResponse<ResponseBody>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            sender.send(address.to_string()).expect("the test waits");
            serve(listener, service, ServeOptions::default(), pending()).await;
        });
    });
    receiver.recv().expect("it listens")
}

/// A registry that knows nginx only, and remembers what came
fn upstream(
    seen: Seen,
) -> impl Service<
    Request<Incoming>,
    Response = HttpResponse<ResponseBody>,
    Error = Infallible,
    Future: Send,
> + Clone
+ Send
+ 'static {
    let store = Store::new(Arc::new(Memory::new()));
    let registry = RegistryService::builder(store, Arc::new(Anyone), Arc::new(AllowAll)).build();
    let expected = basic(UPSTREAM[0], UPSTREAM[1]);
    service_fn(move |request: Request<Incoming>| {
        let headers: Vec<_> = request.headers().iter().collect();
        let line = format!("{} {} {headers:?}", request.method(), request.uri());
        seen.0.lock().expect("nobody panicked").push(line);
        let known = request.headers().get(header::AUTHORIZATION);
        let known = known.is_some_and(|value| value.as_bytes() == expected.as_bytes());
        let registry = registry.clone();
        async move {
            if !known {
                let mut refusal = HttpResponse::new(ResponseBody::from("wrong credentials"));
                *refusal.status_mut() = StatusCode::UNAUTHORIZED;
                let realm = header::HeaderValue::from_static("Basic realm=\"behind\"");
                refusal
                    .headers_mut()
                    .insert(header::WWW_AUTHENTICATE, realm);
                return Ok(refusal);
            }
            registry.call(request).await
        }
    })
}

#[test]
fn what_is_allowed_goes_through() {
    let home = Home::new();
    let Some(skopeo) = home.skopeo() else { return };
    let Some(guarded) = Guarded::start() else {
        return;
    };
    let layout = Layout::write(&home.path("layout"), 61, &[30_000, 20_000_000]);
    fs::create_dir(home.path("certs")).expect("a folder");
    fs::write(home.path("certs/ca.crt"), &guarded.authority.pem).expect("written");
    let certs = home.path("certs").display().to_string();
    let copy = |direction: &str, user: &str, from: &str, to: &str| {
        let mut command = skopeo.command(&["copy", "--quiet", "--all", "--preserve-digests"]);
        command
            .arg(format!("--{direction}-cert-dir={certs}"))
            .arg(format!("--{direction}-creds={user}:secret"))
            .args([from, to]);
        command
    };
    let remote = |name: &str| format!("docker://{}/{name}:v1", guarded.address);
    let local = layout.reference("multi");
    run(&mut copy("dest", "ada", &local, &remote("ada/app")));
    let folder = home.path("pulled");
    let target = format!("oci:{}:x", folder.display());
    run(&mut copy("src", "ada", &remote("ada/app"), &target));
    for stored in [&layout.index, &layout.amd64]
        .into_iter()
        .chain(&layout.layers)
    {
        let blob = folder.join("blobs/sha256").join(stored.digest.hex());
        assert_eq!(digest_of_file(&blob), stored.digest);
    }

    let before = guarded.seen.count();
    // It begins with a HEAD, whose answer can give no reason.
    let said = run_failing(&mut copy("dest", "bob", &local, &remote("ada/app")));
    assert!(said.contains("403 (Forbidden)"), "{said}");
    let said = run_failing(&mut copy("src", "bob", &remote("ada/app"), &target));
    assert!(said.contains("somebody else's"), "{said}");
    let mut anonymous = skopeo.command(&["inspect", "--no-creds", "--cert-dir", &certs]);
    let said = run_failing(anonymous.arg(remote("ada/app")));
    assert!(
        said.contains("log in") || said.contains("unauthorized"),
        "{said}"
    );
    assert_eq!(guarded.seen.count(), before);

    // The registry behind sees nginx's credentials only, and who it is for.
    let own = basic("ada", "secret");
    for request in guarded.seen.all() {
        assert!(!request.contains(&own), "{request}");
        assert!(
            request.contains("\"x-registry-user\", \"ada\""),
            "{request}"
        );
    }
    let log = fs::read_to_string(guarded.site.path("nginx/access.log")).expect("a log");
    assert!(log.contains(" - ada ["), "{log}");
    assert!(log.contains("somebody else's"), "{log}");
    let logs = log + &fs::read_to_string(guarded.site.path("nginx/error.log")).expect("a log");
    for secret in [own, basic(UPSTREAM[0], UPSTREAM[1])] {
        assert!(!logs.contains(&secret), "{logs}");
    }
}

#[test]
fn what_is_refused_never_gets_to_the_registry_behind() {
    let Some(guarded) = Guarded::start() else {
        return;
    };
    let manifest = "/v2/ada/app/manifests/v1";
    let blob = format!("/v2/ada/app/blobs/{DIGEST}");
    let mount = format!("/v2/bob/app/blobs/uploads/?mount={DIGEST}&from=ada/app");
    let trick = ("X-Original-URI", "/v2/shared/manifests/v1");
    for user in [None, Some("bob")] {
        for (method, target, headers) in [
            // What the old proxy let everybody do.
            ("GET", "/authok/v2/ada/app/manifests/v1", &[][..]),
            ("PUT", "/authok/v2/ada/app/manifests/v1", &[]),
            ("DELETE", "/authok/v2/ada/app/manifests/v1", &[]),
            ("GET", "/authok/v2/_catalog", &[]),
            ("GET", "/authok/service/rest/v1/repositories", &[]),
            ("GET", &blob, &[]),
            ("POST", "/v2/ada/app/blobs/uploads/", &[]),
            ("GET", "/foo/v2/x/blobs/y", &[]),
            // Ways around a comparison of paths.
            ("GET", "//v2/ada/app/manifests/v1", &[]),
            ("GET", "/v2//ada/app/manifests/v1", &[]),
            ("GET", "/V2/ada/app/manifests/v1", &[]),
            ("GET", "/foo/../v2/ada/app/manifests/v1", &[]),
            ("GET", "/v2/bob/../ada/app/manifests/v1", &[]),
            ("GET", "/v2/bob%2F..%2Fada/app/manifests/v1", &[]),
            ("GET", "/v2/bob/%2e%2e/ada/app/manifests/v1", &[]),
            ("GET", "/v2%2Fada/app/manifests/v1", &[]),
            ("GET", "/%76%32/ada/app/manifests/v1", &[]),
            ("GET", "/v2/%61da/app/manifests/v1", &[]),
            ("GET", "/v2/ada/app/manifests/v1#x", &[]),
            ("GET", "/v2/ada/app/manifests/v1?from=shared", &[]),
            ("GET", "/v2/_catalog", &[]),
            ("GET", "/service/rest/v1/repositories", &[]),
            // To be asked about is nginx's right.
            (
                "GET",
                "/.docker-proxy",
                &[trick, ("X-Original-Method", "GET")],
            ),
            ("GET", "/auth", &[trick, ("X-Original-Method", "GET")]),
            ("GET", manifest, &[trick]),
            ("GET", manifest, &[trick, ("X-Original-Method", "GET")]),
            (
                "GET",
                manifest,
                &[("X-Forwarded-Uri", "/v2/shared/manifests/v1")],
            ),
            ("PUT", manifest, &[("X-Original-Method", "GET")]),
            ("PUT", manifest, &[("X-HTTP-Method-Override", "GET")]),
            ("GET", manifest, &[("X-Registry-User", "ada")]),
            ("GET", manifest, &[("X-Registry-Status", "200")]),
            ("PUT", manifest, &[]),
            ("DELETE", manifest, &[]),
            ("POST", &mount, &[]),
        ] {
            let answer = guarded.send(user, method, target, headers);
            let expected = match user {
                None => &[400, 401, 403, 404, 405][..],
                Some(_) => &[400, 403, 404, 405],
            };
            let answer = answer.expect(expected);
            // Registry clients read JSON only; what nginx itself refuses is no request of theirs.
            if answer.status != 400 {
                let errors: serde_json::Value = serde_json::from_slice(&answer.body)
                    .unwrap_or_else(|error| {
                        panic!("{method} {target}: {error} in {}", answer.text())
                    });
                assert!(errors["errors"][0]["code"].is_string(), "{errors}");
            }
            assert_eq!(guarded.seen.all(), [""; 0], "{method} {target}");
        }
    }
    let ada = basic("ada", "secret");
    for (request, expected) in [
        // What its owner may do, asked for in another way than clients do.
        (
            "GET https://$HOST/v2/ada/app/manifests/v1 HTTP/1.1\r\nHost: $HOST",
            400,
        ),
        (
            "GET http://127.0.0.1:1/v2/ada/app/manifests/v1 HTTP/1.1\r\nHost: $HOST",
            400,
        ),
        (
            "GET /v2/ada/app/manifests/v1 HTTP/1.1\r\nHost: behind.example",
            421,
        ),
        (
            "GET /v2/ada/app/manifests/v1 HTTP/1.1\r\nHost: $HOST\r\nHost: behind.example",
            400,
        ),
        ("GET /v2/ada/app/manifests/v1 HTTP/1.0", 421),
        (
            "POST /v2/ada/app/blobs/uploads/ HTTP/1.1\r\nHost: $HOST\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
            400,
        ),
        (
            "POST /v2/ada/app/blobs/uploads/ HTTP/1.1\r\nHost: $HOST\r\nContent-Length: 5\r\nContent-Length: 6",
            400,
        ),
        (
            "POST /v2/ada/app/blobs/uploads/ HTTP/1.1\r\nHost: $HOST\r\nTransfer-Encoding: chunked, identity",
            501,
        ),
        ("CONNECT 127.0.0.1:80 HTTP/1.1\r\nHost: $HOST", 400),
    ] {
        let request = format!("{request}\r\nAuthorization: {ada}\r\nConnection: close\r\n\r\n");
        let answer = guarded.raw(&request);
        assert_eq!(answer.status, expected, "{request}{}", answer.text());
        assert_eq!(guarded.seen.all(), [""; 0], "{request}");
    }
    // All of that was refused for what it is: this is what a request that is allowed looks like.
    guarded
        .send(Some("ada"), "GET", manifest, &[])
        .expect(&[404]);
    assert_eq!(guarded.seen.count(), 1);
}

#[test]
fn clients_are_told_what_a_registry_tells_them() {
    let Some(guarded) = Guarded::start() else {
        return;
    };
    let ping = guarded.send(None, "GET", "/v2/", &[]).expect(&[401]);
    assert_eq!(
        ping.header("www-authenticate"),
        Some("Basic realm=\"Acumos\"")
    );
    let version = "docker-distribution-api-version";
    assert_eq!(ping.header(version), Some("registry/2.0"));
    assert_eq!(ping.header("content-type"), Some("application/json"));
    assert!(ping.text().contains("UNAUTHORIZED"), "{}", ping.text());

    let ping = guarded.send(Some("ada"), "GET", "/v2/", &[]).expect(&[200]);
    assert_eq!(ping.header(version), Some("registry/2.0"));
    let manifest = "/v2/ada/app/manifests/v1";
    let denied = guarded
        .send(Some("bob"), "PUT", manifest, &[])
        .expect(&[403]);
    let errors: serde_json::Value = serde_json::from_slice(&denied.body).expect("JSON");
    assert_eq!(errors["errors"][0]["code"], "DENIED");
    let message = errors["errors"][0]["message"].as_str().expect("a message");
    assert!(message.contains("this is \"somebody else's\""), "{message}");
    assert_eq!(denied.header("www-authenticate"), None);

    let wrong = guarded.send(Some("ada"), "GET", "/v2/ada/UP/manifests/v1", &[]);
    assert!(wrong.expect(&[400]).text().contains("NAME_INVALID"));
    let unknown = guarded
        .send(Some("ada"), "GET", manifest, &[])
        .expect(&[404]);
    assert!(unknown.text().contains("NAME_UNKNOWN"));
    // An upload goes on through nginx.
    let started = guarded.send(Some("ada"), "POST", "/v2/ada/app/blobs/uploads/", &[]);
    let location = started.expect(&[202]).header("location").map(str::to_owned);
    let location = location.expect("a Location");
    let own = format!("https://{}/v2/", guarded.address);
    assert!(
        location.starts_with("/v2/") || location.starts_with(&own),
        "{location}"
    );
}

#[test]
fn what_fails_behind_nginx_is_no_refusal() {
    let Some(guarded) = Guarded::start_with(["acumos_rw", "old"], true) else {
        return;
    };
    // That nginx's own credentials are wrong is nothing to log in again for.
    let answer = guarded.send(Some("ada"), "GET", "/v2/", &[]).expect(&[502]);
    assert!(answer.text().contains("UNAVAILABLE"), "{}", answer.text());
    assert_eq!(guarded.seen.count(), 1);

    let Some(alone) = Guarded::start_with(UPSTREAM, false) else {
        return;
    };
    let answer = alone.send(Some("ada"), "GET", "/v2/", &[]).expect(&[503]);
    assert!(answer.text().contains("UNAVAILABLE"), "{}", answer.text());
    assert_eq!(alone.seen.count(), 0);
}
