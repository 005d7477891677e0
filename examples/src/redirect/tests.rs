use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256};
use registry_core::Digest;
use registry_storage::bucket::{BucketOptions, ConnectOptions, S3Options};
use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs;

use super::*;

/// Where the blob of these tests is
const KEY: &str = "docker/registry/v2/blobs/sha256/ca/\
                   ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb/data";

fn config(middleware: &str) -> Config {
    let text = format!(
        "version: 0.1\nstorage: {{filesystem: {{rootdirectory: /r}}}}\n\
         middleware: {{storage: [{middleware}]}}\n"
    );
    let (config, warnings) = Config::from_yaml(&text).unwrap();
    assert_eq!(warnings, []);
    config
}

fn bucket(root: &str, redirect_endpoint: Option<&str>) -> Bucket {
    let s3 = S3Options {
        bucket: "images".to_owned(),
        region_endpoint: Some("http://10.0.0.1:9000".to_owned()),
        redirect_endpoint: redirect_endpoint.map(str::to_owned),
        access_key: Some("key".to_owned()),
        secret_key: Some("hunter2".to_owned()),
        ..S3Options::default()
    };
    let options = BucketOptions {
        root: root.to_owned(),
        ..BucketOptions::default()
    };
    Bucket::s3(&s3, options, &ConnectOptions::default()).unwrap()
}

/// Where a client at this address is sent
async fn location_for(to: &dyn BlobRedirect, client: Option<&str>) -> Option<String> {
    let blob = WantedBlob {
        name: &"a".parse().unwrap(),
        digest: &Digest::sha256(b"a"),
        size: 1,
        client: client.map(|client| client.parse().unwrap()),
    };
    to.location(&blob).await.unwrap().map(|uri| uri.to_string())
}

async fn location(config: &Config, bucket: Option<&Bucket>) -> Option<String> {
    let redirects = Redirects::open(config, bucket).unwrap()?;
    location_for(&*redirects.to(), None).await
}

#[tokio::test]
async fn a_folder_alone_sends_nobody_away() {
    assert_eq!(location(&config(""), None).await, None);
}

#[tokio::test]
async fn a_mirror_has_the_same_paths() {
    for base in [
        "https://mirror.example:8443",
        "https://mirror.example:8443/",
    ] {
        let config = config(&format!(
            "{{name: redirect, options: {{baseurl: '{base}'}}}}"
        ));
        let expected = Some(format!("https://mirror.example:8443/{KEY}"));
        // Whatever is behind it, and without the root of a bucket, as in distribution.
        assert_eq!(location(&config, None).await, expected);
        assert_eq!(location(&config, Some(&bucket("r", None))).await, expected);
    }
    let config = config("{name: redirect, options: {baseurl: 'http://m/pub/registry'}}");
    let expected = Some(format!("http://m/pub/registry/{KEY}"));
    assert_eq!(location(&config, None).await, expected);
}

#[tokio::test]
async fn a_bucket_signs_for_where_clients_reach_it() {
    let mut config = config("");
    config.storage.redirect.expiry = Duration::from_secs(90);
    for (root, elsewhere, start) in [
        ("", None, "http://10.0.0.1:9000/images/"),
        ("a/b", None, "http://10.0.0.1:9000/images/a/b/"),
        (
            "",
            Some("https://s3.example.com/"),
            "https://s3.example.com/images/",
        ),
        (
            "r",
            Some("s3.example.com"),
            "https://s3.example.com/images/r/",
        ),
    ] {
        let bucket = bucket(root, elsewhere);
        let url = location(&config, Some(&bucket)).await.unwrap();
        assert!(url.starts_with(&format!("{start}{KEY}?")), "{url}");
        for part in [
            "X-Amz-Expires=90&",
            "X-Amz-Credential=key%2F",
            "X-Amz-Signature=",
        ] {
            assert!(url.contains(part), "{part}: {url}");
        }
        assert!(!url.contains("hunter2"), "{url}");
    }
}

#[tokio::test]
async fn disabled_is_disabled() {
    let mut config = config("{name: redirect, options: {baseurl: 'https://m'}}");
    config.storage.redirect.disable = true;
    assert_eq!(location(&config, Some(&bucket("", None))).await, None);
    let off = "{name: redirect, disabled: true, options: {baseurl: 'https://m'}}";
    assert_eq!(location(&self::config(off), None).await, None);
}

/// A configuration of CloudFront with a key of the kind
fn cloudfront(folder: &Path, key: &KeyPair, more: &str) -> Config {
    let path = folder.join("key.pem");
    std::fs::write(&path, key.serialize_pem()).unwrap();
    config(&format!(
        "{{name: redirect, options: {{baseurl: 'https://m'}}}}, {{name: cloudfront, options: \
         {{baseurl: 'https://d111111abcdef8.cloudfront.net', privatekey: '{}', keypairid: \
         K2JCJMDEHXQW5F{more}}}}}",
        path.display()
    ))
}

#[test]
fn what_is_signed_is_amazons_canned_policy() {
    // The example of Amazon's guide, "Create a signed URL using a canned policy".
    let policy = cloudfront::policy(
        "https://d111111abcdef8.cloudfront.net/horizon.jpg",
        1767290400,
    );
    assert_eq!(
        policy,
        "{\"Statement\":[{\"Resource\":\"https://d111111abcdef8.cloudfront.net/horizon.jpg\",\
         \"Condition\":{\"DateLessThan\":{\"AWS:EpochTime\":1767290400}}}]}"
    );
}

#[tokio::test]
async fn cloudfront_can_verify_what_is_signed() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = bucket("a b/\u{e9}", None);
    let resource = format!("https://d111111abcdef8.cloudfront.net/a%20b/%C3%A9/{KEY}");
    for (algorithm, scheme) in [
        (&PKCS_RSA_SHA256, SignatureScheme::RSA_PKCS1_SHA256),
        (
            &PKCS_ECDSA_P256_SHA256,
            SignatureScheme::ECDSA_NISTP256_SHA256,
        ),
    ] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let config = cloudfront(folder.path(), &key, ", duration: 30m");
        let before = jiff::Timestamp::now().as_second();
        let url = location(&config, Some(&bucket)).await.unwrap();

        let (found, query) = url.split_once('?').unwrap();
        assert_eq!(found, resource);
        let parts: Vec<_> = query
            .split('&')
            .map(|part| part.split_once('=').unwrap())
            .collect();
        let [
            ("Expires", expires),
            ("Signature", signature),
            ("Key-Pair-Id", "K2JCJMDEHXQW5F"),
            ("Hash-Algorithm", "SHA256"),
        ] = parts[..]
        else {
            panic!("{query}");
        };
        let expires: i64 = expires.parse().unwrap();
        assert!(
            (before + 1800..before + 1860).contains(&expires),
            "{expires}"
        );
        let signature = signature
            .replace('-', "+")
            .replace('_', "=")
            .replace('~', "/");
        let signature = STANDARD.decode(signature).unwrap();
        let policy = cloudfront::policy(&resource, expires as u64);
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        let verify = |message: &str| {
            let (_, algorithms) = algorithms
                .mapping
                .iter()
                .find(|(other, _)| *other == scheme)
                .unwrap();
            algorithms.iter().any(|one| {
                one.verify_signature(key.public_key_raw(), message.as_bytes(), &signature)
                    .is_ok()
            })
        };
        assert!(verify(&policy), "{scheme:?}");
        assert!(!verify(&policy.replace("ca97", "ca98")), "{scheme:?}");
    }
}

#[tokio::test]
async fn cloudfront_needs_a_key_and_an_s3_bucket() {
    let folder = tempfile::tempdir().unwrap();
    let other = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let config = cloudfront(folder.path(), &other, "");
    // A folder is no origin of CloudFront: what stands before it holds.
    assert_eq!(
        location(&config, None).await,
        Some(format!("https://m/{KEY}"))
    );

    let bucket = bucket("", None);
    let error = |config: &Config| {
        let error = Redirects::open(config, Some(&bucket)).unwrap_err();
        error.to_string()
    };
    let start = "`middleware.storage[cloudfront].options.privatekey`: ";
    for (text, expected) in [
        (other.serialize_pem(), "expected a key of RSA or P-256 in `"),
        ("hunter2".to_owned(), "cannot read a key (PEM) in `"),
    ] {
        std::fs::write(folder.path().join("key.pem"), text).unwrap();
        let error = error(&config);
        assert!(error.starts_with(&format!("{start}{expected}")), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    std::fs::remove_file(folder.path().join("key.pem")).unwrap();
    assert!(error(&config).contains("cannot read a key (PEM) in `"));
}

/// Answers each connection with what is next, and says where
fn server(answers: Vec<(u16, String)>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for (status, body) in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let read = stream.read(&mut request).unwrap();
            assert!(request[..read].starts_with(b"GET /ip-ranges.json HTTP/1.1\r\n"));
            let length = body.len();
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n");
            stream
                .write_all(format!("{head}{body}").as_bytes())
                .unwrap();
        }
    });
    format!("http://{address}/ip-ranges.json")
}

const RANGES: &str = r#"{"syncToken": "1", "createDate": "x", "prefixes": [
    {"ip_prefix": "198.51.100.0/25", "region": "eu-central-1", "service": "AMAZON"},
    {"ip_prefix": "198.51.100.0/28", "region": "eu-central-1", "service": "EC2"},
    {"ip_prefix": "203.0.113.64/26", "region": "us-east-1", "service": "AMAZON"},
    {"ip_prefix": "not a network", "region": "us-east-1", "service": "AMAZON"},
    {"ip_prefix": "192.0.2.7/32", "region": "GLOBAL", "service": "AMAZON"}], "ipv6_prefixes": [
    {"ipv6_prefix": "2001:db8:7::/48", "region": "us-east-1", "service": "S3"}]}"#;

fn networks(regions: &[&str], url: &str) -> Networks {
    let direct = config::Direct {
        regions: regions.iter().map(|region| (*region).to_owned()).collect(),
        ranges: url.parse().unwrap(),
        update: Duration::from_secs(3600),
    };
    Networks::new(&direct).unwrap()
}

#[tokio::test]
async fn the_networks_are_those_of_the_regions() {
    let addresses = [
        "198.51.100.0",
        "198.51.100.127",
        "198.51.100.128",
        "203.0.113.63",
        "203.0.113.127",
        "192.0.2.7",
        "2001:db8:7:ffff::1",
        "2001:db8:8::1",
        "::ffff:198.51.100.1",
    ];
    for (regions, expected) in [
        (&[][..], "yynnyyyny"),
        (&["us-east-1"], "nnnnynynn"),
        (&["EU-Central-1", "global"], "yynnnynny"),
    ] {
        let networks = networks(regions, &server(vec![(200, RANGES.to_owned())]));
        let is_in = |address: &str| networks.contain(address.parse::<IpAddr>().unwrap());
        // None before they were read.
        assert!(!addresses.into_iter().any(is_in));
        networks.read().await.unwrap();
        let found: String = addresses
            .into_iter()
            .map(|address| if is_in(address) { 'y' } else { 'n' })
            .collect();
        assert_eq!(found, expected, "{regions:?}");
    }
}

#[tokio::test]
async fn networks_stay_until_they_can_be_read_again() {
    let url = server(vec![
        (200, RANGES.to_owned()),
        (503, "hunter2".to_owned()),
        (200, "<html>".to_owned()),
        (200, "{}".to_owned()),
    ]);
    let networks = networks(&[], &url);
    assert_eq!(networks.read().await, Ok(4));
    for expected in [
        "expected status 200, got 503",
        "expected Amazon's `ip-ranges.json`",
        "no network of the regions",
    ] {
        let error = networks.read().await.unwrap_err();
        assert!(error.contains(expected), "{error}");
        assert!(networks.contain("198.51.100.1".parse().unwrap()));
    }
}

#[tokio::test]
async fn clients_in_amazons_networks_are_sent_to_what_is_behind_cloudfront() {
    let folder = tempfile::tempdir().unwrap();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let url = server(vec![(200, RANGES.to_owned())]);
    let more =
        format!(", ipfilteredby: awsregion, awsregion: 'us-east-1, x', iprangesurl: '{url}'");
    let config = cloudfront(folder.path(), &key, &more);
    let redirects = Redirects::open(&config, Some(&bucket("", None)))
        .unwrap()
        .unwrap();
    let to = redirects.to();
    let running = tokio::spawn(redirects.run());
    let inside = Some("203.0.113.65");
    let begin = std::time::Instant::now();
    while location_for(&*to, inside)
        .await
        .unwrap()
        .contains("cloudfront")
    {
        assert!(
            begin.elapsed() < Duration::from_secs(30),
            "the networks are not read"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(
        location_for(&*to, inside).await,
        Some(format!("https://m/{KEY}"))
    );
    for outside in [Some("198.51.100.1"), None] {
        let url = location_for(&*to, outside).await.unwrap();
        assert!(
            url.starts_with("https://d111111abcdef8.cloudfront.net/"),
            "{url}"
        );
    }
    running.abort();
}
