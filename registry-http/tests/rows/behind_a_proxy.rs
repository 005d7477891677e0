//! What a proxy in front, and the operator of both, can count on

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use registry_http::{AccessRecord, Locations, Observer, Prefix, ResponseHeaders};

use crate::support::{Blob, Registry, eventually, image};

#[derive(Default)]
struct Records(Mutex<Vec<AccessRecord>>);

impl Observer for Records {
    fn finished(&self, record: &AccessRecord) {
        self.0.lock().unwrap().push(record.clone());
    }
}

impl Records {
    /// The name and the client of each request so far
    fn seen(&self) -> Vec<(String, Option<IpAddr>)> {
        let records = self.0.lock().unwrap();
        let seen = records
            .iter()
            .map(|record| (record.request_id.to_string(), record.remote));
        seen.collect()
    }
}

fn absolute(base: Option<&str>) -> Locations {
    Locations::Absolute {
        base: base.map(|base| base.parse().unwrap()),
    }
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_request_keeps_its_name_or_gets_one() {
    let records = Arc::new(Records::default());
    let registry = Registry::setup().observer(records.clone()).start().await;
    let long = "x".repeat(129);
    let mut names = Vec::new();
    for (sent, kept) in [
        (Some("from-the-proxy/1"), true),
        (Some("two words"), false),
        (Some(&*long), false),
        (None, false),
    ] {
        for target in ["/v2/", "/", "/nowhere", "/v2/a/tags/list"] {
            let mut request = registry.get(target);
            if let Some(sent) = sent {
                request = request.header("X-Request-Id", sent);
            }
            let response = request.send().await;
            let name = response.header("X-Request-ID").to_owned();
            assert_eq!(Some(&*name) == sent, kept, "{target}: {name}");
            assert!(kept || name.len() == 36, "{name}");
            names.push(name);
        }
    }
    // What was made up is different each time.
    let made: std::collections::BTreeSet<_> = names[4..].iter().collect();
    assert_eq!(made.len(), 12);
    let logged = || async {
        let seen = records.seen();
        seen.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
    };
    eventually(logged, names.clone()).await;
}

#[tokio::test]
async fn an_error_of_the_registry_names_the_request() {
    let registry = Registry::start().await;
    let link = "docker/registry/v2/repositories/a/_manifests/tags/v1/current/link";
    registry.plant(link, "no digest").await;
    let response = registry
        .get("/v2/a/manifests/v1")
        .header("X-Request-ID", "quote-me")
        .send()
        .await;
    let message = response.refused(500, "UNKNOWN");
    assert!(message.ends_with(" (request `quote-me`)"), "{message}");
    // What the client can mend itself has no such thing.
    let response = registry.get("/v2/A/tags/list").send().await;
    let message = response.refused(400, "NAME_INVALID");
    assert!(!message.contains("request `"), "{message}");
}

#[tokio::test]
async fn the_client_of_a_trusted_proxy_is_recorded() {
    let all = [
        ("X-Forwarded-For", "1.1.1.1, 192.0.2.7"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "r.example"),
    ];
    for (trusted, remote) in [
        (None, "192.0.2.7"),
        (Some(vec!["127.0.0.1/32", "192.0.2.0/24"]), "1.1.1.1"),
        (Some(vec!["10.0.0.0/8"]), "127.0.0.1"),
        (Some(vec![]), "127.0.0.1"),
    ] {
        let records = Arc::new(Records::default());
        let mut setup = Registry::setup()
            .observer(records.clone())
            .with(|builder| builder.locations(absolute(None)));
        if let Some(trusted) = &trusted {
            let networks = trusted.iter().map(|text| text.parse().unwrap()).collect();
            setup = setup.with(|builder| builder.trusted_proxies(networks));
        }
        let registry = setup.start().await;
        let mut request = registry.post("/v2/a/blobs/uploads/");
        for (name, value) in all {
            request = request.header(name, value);
        }
        let response = request.send_unchecked().await.expect(202);
        let origin = match remote {
            "127.0.0.1" => "http://registry.test/v2/a/",
            _ => "https://r.example/v2/a/",
        };
        let location = response.header("Location");
        assert!(location.starts_with(origin), "{trusted:?}: {location}");
        let address: IpAddr = remote.parse().unwrap();
        let clients = || async {
            let seen = records.seen();
            seen.into_iter()
                .map(|(_, remote)| remote)
                .collect::<Vec<_>>()
        };
        eventually(clients, vec![Some(address)]).await;
    }
}

#[tokio::test]
async fn locations_are_paths_whatever_proxies_say() {
    let registry = Registry::start().await;
    let response = registry
        .post("/v2/a/blobs/uploads/")
        .header("X-Forwarded-Proto", "https")
        .header("X-Forwarded-Host", "r.example")
        .header("Forwarded", "proto=https;host=r.example")
        .send()
        .await;
    assert!(response.expect(202).location().starts_with("/v2/a/"));
}

/// Pushes an image below `root` by the locations that the registry gives, and lists it
async fn push_and_list(registry: &Registry, root: &str, path: &str) {
    let at = |location: &str| {
        let rest = location.strip_prefix(root);
        let rest = rest.unwrap_or_else(|| panic!("{location} is not below {root}"));
        assert!(rest.starts_with("/v2/"), "{location}");
        format!("{path}{rest}")
    };
    let blob = Blob::empty();
    for name in ["a", "b"] {
        let start = registry.post(format!("{path}/v2/{name}/blobs/uploads/"));
        let response = start.send_unchecked().await.expect(202);
        let upload = at(response.header("Location"));
        let response = registry.patch(&upload).body(&blob.bytes);
        let response = response.send_unchecked().await.expect(202);
        let upload = at(response.header("Location"));
        // Where the session stands comes with a refusal too.
        let refused = registry.patch(&upload).header("Content-Range", "99-99");
        let refused = refused.body("x").send_unchecked().await.expect(416);
        let upload = at(refused.header("Location"));
        let close = registry.put(format!("{upload}?digest={}", blob.digest));
        let response = close.send_unchecked().await.expect(201);
        let stored = registry.get(at(response.header("Location")));
        let stored = stored.send_unchecked().await.expect(200);
        assert_eq!(stored.body, blob.bytes);
        for tag in ["v1", "v2"] {
            let manifest = serde_json::to_vec(&image(&blob, &[])).unwrap();
            let put = registry.put(format!("{path}/v2/{name}/manifests/{tag}"));
            let put = put.body(&manifest).send_unchecked().await.expect(201);
            let stored = registry.get(at(put.header("Location")));
            assert_eq!(stored.send_unchecked().await.expect(200).body, manifest);
        }
    }
    for (list, next) in [
        ("/v2/_catalog?n=1", "/v2/_catalog?n=1&last=a"),
        ("/v2/a/tags/list?n=1", "/v2/a/tags/list?n=1&last=v1"),
    ] {
        let response = registry.get(format!("{path}{list}"));
        let response = response.send_unchecked().await.expect(200);
        let link = format!("<{root}{next}>; rel=\"next\"");
        assert_eq!(response.header("Link"), link);
    }
}

#[tokio::test]
async fn locations_are_urls_when_that_is_asked_for() {
    for (base, root) in [
        (None, "http://registry.test"),
        (Some("https://r.example:8443/"), "https://r.example:8443"),
        (Some("https://r.example/sub/"), "https://r.example/sub"),
    ] {
        let setup = Registry::setup();
        let setup = setup.with(move |builder| builder.locations(absolute(base)));
        push_and_list(&setup.start().await, root, "").await;
    }
    // Without any host there is nothing to make a URL of.
    let setup = Registry::setup().with(|builder| builder.locations(absolute(None)));
    let registry = setup.start().await;
    let response = registry.post("/v2/a/blobs/uploads/").http10().send().await;
    assert!(response.expect(202).location().starts_with("/v2/a/"));
}

#[tokio::test]
async fn the_registry_is_under_its_prefix_and_nowhere_else() {
    let setup = Registry::setup().with(|builder| builder.prefix(prefix("/docker/sub/")));
    let registry = setup.start().await;
    push_and_list(&registry, "/docker/sub", "/docker/sub").await;

    for target in ["/", "/docker/sub", "/docker/sub/"] {
        let response = registry.get(target).send().await.expect(200);
        assert_eq!(response.body, b"", "{target}");
        registry.head(target).send().await.expect(200);
    }
    for target in ["/docker/sub/v2", "/docker/sub/v2/"] {
        let response = registry.get(target).send().await.expect(200);
        assert_eq!(response.body, b"{}", "{target}");
    }
    for target in [
        "/v2/",
        "/v2/a/tags/list",
        "/docker/v2/",
        "/docker/subs/v2/",
        "/docker/sub/sub/v2/",
        "/docker/sub//v2/",
        "/docker%2fsub/v2/",
        "//docker/sub/v2/",
    ] {
        let response = registry.get(target).send().await;
        response.refused(404, "UNSUPPORTED");
    }
    let response = registry.get("/v2/").send().await;
    let message = response.refused(404, "UNSUPPORTED");
    assert!(message.ends_with("under `/docker/sub/v2/`"), "{message}");

    let both = Registry::setup().with(|builder| {
        builder
            .locations(absolute(Some("https://r.example")))
            .prefix(prefix("/docker/"))
    });
    push_and_list(&both.start().await, "https://r.example/docker", "/docker").await;
}

#[tokio::test]
async fn headers_are_added_to_every_response() {
    let setup = Registry::setup().with(|builder| {
        let headers = [
            ("X-Content-Type-Options", vec!["nosniff"]),
            ("X-Many", vec!["a", "b"]),
            ("Docker-Distribution-Api-Version", vec!["mine/1"]),
            ("Cache-Control", vec!["no-store"]),
        ];
        builder.response_headers(ResponseHeaders::new(headers).unwrap())
    });
    let registry = setup.start().await;
    let image = registry.push_image("a", "v1", "x").await;
    let blob = format!("/v2/a/blobs/{}", image.layer.digest);
    for (target, status) in [
        ("/", 200),
        ("/v2/", 200),
        ("/nowhere", 404),
        ("/v2/A/tags/list", 400),
        (&blob, 200),
    ] {
        for request in [registry.get(target), registry.head(target)] {
            // Its own checks see to it that the registry's headers are as always.
            let response = request.send().await.expect(status);
            assert_eq!(response.header("X-Content-Type-Options"), "nosniff");
            assert_eq!(response.all("X-Many"), ["a", "b"]);
            let cached = match target == blob {
                true => "max-age=31536000",
                false => "no-store",
            };
            assert_eq!(response.header("Cache-Control"), cached, "{target}");
        }
    }
}

#[tokio::test]
async fn a_name_is_the_same_on_every_line_of_a_connection() {
    let registry = Registry::start().await;
    let mut connection = registry.connect().await;
    for name in ["first", "second"] {
        let request =
            format!("GET /v2/ HTTP/1.1\r\nHost: registry.test\r\nX-Request-ID: {name}\r\n\r\n");
        connection.send(request).await;
        let response = connection.receive("GET").await.expect(200);
        assert_eq!(response.header("X-Request-ID"), name);
    }
}
