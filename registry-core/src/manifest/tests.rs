use proptest::prelude::*;

use super::*;

const HEX: &str = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

fn parse(json: &str) -> Result<Manifest, ManifestError> {
    Manifest::parse(json.to_owned().into(), None, &Limits::default())
}

fn descriptor(media_type: &str) -> String {
    format!(r#"{{"mediaType":"{media_type}","digest":"sha256:{HEX}","size":2}}"#)
}

fn image(extra: &str) -> String {
    format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[{}]{extra}}}"#,
        descriptor("application/vnd.oci.image.config.v1+json"),
        descriptor("application/vnd.oci.image.layer.v1.tar+gzip")
    )
}

fn index(extra: &str) -> String {
    format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{}]{extra}}}"#,
        descriptor("application/vnd.oci.image.manifest.v1+json")
    )
}

#[test]
fn all_four_kinds_are_told_apart() {
    for (json, kind) in [
        (image(""), ManifestKind::OciManifest),
        (index(""), ManifestKind::OciIndex),
        (
            image("").replace(
                "vnd.oci.image.manifest.v1",
                "vnd.docker.distribution.manifest.v2",
            ),
            ManifestKind::DockerManifest,
        ),
        (
            index("").replace(
                "vnd.oci.image.index.v1",
                "vnd.docker.distribution.manifest.list.v2",
            ),
            ManifestKind::DockerManifestList,
        ),
        // OCI may leave the type out; then the shape tells.
        (
            image("").replace(
                r#""mediaType":"application/vnd.oci.image.manifest.v1+json","#,
                "",
            ),
            ManifestKind::OciManifest,
        ),
        (
            index("").replacen(
                r#""mediaType":"application/vnd.oci.image.index.v1+json","#,
                "",
                1,
            ),
            ManifestKind::OciIndex,
        ),
    ] {
        let manifest = parse(&json).unwrap_or_else(|error| panic!("{json}: {error}"));
        assert_eq!(manifest.kind(), kind, "{json}");
        assert_eq!(
            Manifest::detect_media_type(json.as_bytes()),
            Some(kind.media_type())
        );
        manifest
            .view()
            .unwrap_or_else(|error| panic!("{json}: {error}"));
    }
}

#[test]
fn dependencies_stand_as_written() {
    let manifest = parse(&image("")).unwrap();
    let roles: Vec<_> = manifest.dependencies().iter().map(|one| one.role).collect();
    assert_eq!(roles, [Role::Config, Role::Layer]);
    let index = parse(&index("")).unwrap();
    assert_eq!(index.dependencies()[0].role, Role::Manifest);
    for foreign in [
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    ] {
        let json = image("").replace("application/vnd.oci.image.layer.v1.tar+gzip", foreign);
        assert!(!parse(&json).unwrap().dependencies()[1].must_exist());
    }
    assert!(manifest.dependencies()[1].must_exist());
}

#[test]
fn lenient_where_the_specification_is() {
    for json in [
        image(r#","unknown":{"a":[1,2]},"annotations":{"a":""}"#),
        image(r#","annotations":null,"subject":null,"artifactType":"application/x.y""#),
        image("").replace(
            &format!(
                "[{}]",
                descriptor("application/vnd.oci.image.layer.v1.tar+gzip")
            ),
            "[]",
        ),
        image("").replace(
            &format!(
                "[{}]",
                descriptor("application/vnd.oci.image.layer.v1.tar+gzip")
            ),
            "null",
        ),
        image("").replace(
            "application/vnd.oci.image.config.v1+json",
            "text/x-whatever",
        ),
        image("").replace(r#""size":2"#, r#""size":2,"data":"e30=","x":1,"urls":null"#),
        index("").replace(
            "application/vnd.oci.image.manifest.v1+json",
            "application/vnd.oci.image.index.v1+json",
        ),
        index("").replace(
            &format!(
                "[{}]",
                descriptor("application/vnd.oci.image.manifest.v1+json")
            ),
            "[]",
        ),
    ] {
        parse(&json).unwrap_or_else(|error| panic!("{json}: {error}"));
    }
}

#[test]
fn refused_with_the_reason() {
    let table = [
        ("".to_owned(), "JSON"),
        ("not json".to_owned(), "JSON"),
        ("[]".to_owned(), "JSON"),
        ("{}".to_owned(), "schemaVersion"),
        (image("") + "x", "JSON"),
        (image(r#","manifests":[]"#), "both"),
        (index(r#","layers":[]"#), "both"),
        (
            index(&format!(r#","config":{}"#, descriptor("a/b"))),
            "both",
        ),
        (
            image("").replace(r#""schemaVersion":2"#, r#""schemaVersion":1"#),
            "schema 1",
        ),
        (
            image("").replace(r#""schemaVersion":2"#, r#""schemaVersion":"2""#),
            "schemaVersion",
        ),
        (
            image("").replace(r#""schemaVersion":2,"#, ""),
            "schemaVersion",
        ),
        (
            image("").replace("manifest.v1+json", "manifest.v9+json"),
            "v9",
        ),
        (image("").replace(r#""config":"#, r#""konfig":"#), "config"),
        (
            index("").replace(r#""manifests":"#, r#""manifestz":"#),
            "manifests",
        ),
        (image("").replace("\"layers\"", "\"Layers\""), "Layers"),
        (image(r#","LAYERS":[]"#), "LAYERS"),
        (image("").replace("\"digest\"", "\"Digest\""), "Digest"),
        (
            image("").replace("\"schemaVersion\"", "\"\u{17f}chemaVersion\""),
            "schemaVersion",
        ),
        (image(r#","\u004cayers":[]"#), "Layers"),
        (image(r#","\u006cayers":[]"#), "duplicate"),
        (
            image("").replace(r#""schemaVersion":2"#, r#""schemaVersion":[2]"#),
            "schemaVersion",
        ),
        (image(r#","layers":[]"#), "duplicate"),
        (image(r#","mediaType":"a/b""#), "duplicate"),
        (image("").replace(r#""size":2"#, r#""size":-2"#), "-2"),
        (image("").replace(r#""size":2"#, r#""size":2.5"#), "2.5"),
        (
            image("").replace(r#""size":2"#, r#""size":9223372036854775808"#),
            "63 bits",
        ),
        (image("").replace(r#","size":2"#, ""), "size"),
        (image("").replace(HEX, "../../etc/passwd"), "digest"),
        (image("").replace("sha256:", "sha256:A"), "digest"),
        (image(r#","annotations":{"a":1}"#), "string"),
    ];
    for (json, part) in table {
        let error = parse(&json).expect_err(&json).to_string();
        assert!(error.contains(part), "{json}\n{error}");
    }
}

#[test]
fn all_of_it_is_utf_8() {
    let mut raw = image(r#","unknown":"?""#).into_bytes();
    let position = raw.iter().position(|byte| *byte == b'?').unwrap();
    raw[position] = 0xff;
    let result = Manifest::parse(raw.into(), None, &Limits::default());
    assert!(matches!(result, Err(ManifestError::Json(_))));
}

#[test]
fn error_messages_are_short() {
    let long = "é".repeat(100_000);
    for json in [
        image(&format!(r#","annotations":"{long}""#)),
        image(&format!(r#","annotations":{{"a":["{long}"]}}"#)),
        image("").replace(
            r#""schemaVersion":2"#,
            &format!(r#""schemaVersion":"{long}""#),
        ),
        image("").replace("manifest.v1+json", &long),
        image("").replace(HEX, &long),
    ] {
        let error = parse(&json).unwrap_err().to_string();
        assert!(error.len() < 1000, "{error}");
    }
}

#[test]
fn the_announced_type_must_be_the_documents() {
    let sent = |json: String, media_type: &MediaType| {
        Manifest::parse(json.into(), Some(media_type), &Limits::default())
    };
    assert!(sent(image(""), &MediaType::OCI_MANIFEST).is_ok());
    for wrong in [
        MediaType::OCI_INDEX,
        MediaType::DOCKER_MANIFEST,
        "application/json".parse().unwrap(),
    ] {
        assert!(matches!(
            sent(image(""), &wrong),
            Err(ManifestError::MediaTypeMismatch { .. })
        ));
    }
    assert_eq!(
        sent(image(""), &MediaType::DOCKER_SCHEMA1_SIGNED).unwrap_err(),
        ManifestError::Schema1
    );
    let untyped = image("").replace(
        r#""mediaType":"application/vnd.oci.image.manifest.v1+json","#,
        "",
    );
    assert!(sent(untyped.clone(), &MediaType::OCI_MANIFEST).is_ok());
    assert!(matches!(
        sent(untyped.clone(), &MediaType::DOCKER_MANIFEST),
        Err(ManifestError::Missing {
            property: "mediaType",
            ..
        })
    ));
    assert!(sent(untyped, &MediaType::OCI_INDEX).is_err());
}

#[test]
fn limits_are_held() {
    let large = image(&format!(
        r#","annotations":{{"a":"{}"}}"#,
        "x".repeat(4 << 20)
    ));
    assert!(matches!(parse(&large), Err(ManifestError::TooLarge { .. })));
    let within = image(&format!(
        r#","annotations":{{"a":"{}"}}"#,
        "x".repeat(3_900_000)
    ));
    parse(&within).unwrap();
    let deep = image(&format!(r#","x":{}{}"#, "[".repeat(100), "]".repeat(100)));
    assert!(matches!(
        parse(&deep),
        Err(ManifestError::TooDeep { limit: 64 })
    ));
    let brackets_in_text = image(&format!(r#","x":"\"{}""#, "[".repeat(100)));
    parse(&brackets_in_text).unwrap();
    let one = descriptor("application/vnd.oci.image.layer.v1.tar+gzip");
    let many = image("").replace(
        &format!("[{one}]"),
        &format!("[{}]", vec![one.as_str(); 10_001].join(",")),
    );
    assert!(matches!(parse(&many), Err(ManifestError::TooMany { .. })));
}

#[test]
fn referrers_facts() {
    let subject = format!(
        r#","subject":{}"#,
        descriptor("application/vnd.oci.image.manifest.v1+json")
    );
    let manifest = parse(&image(&subject)).unwrap();
    assert_eq!(
        manifest.subject().unwrap().digest.to_string(),
        format!("sha256:{HEX}")
    );
    assert_eq!(
        manifest.artifact_type(),
        Some("application/vnd.oci.image.config.v1+json")
    );
    let typed = parse(&image(
        r#","artifactType":"application/x.y","annotations":{"k":"v"}"#,
    ))
    .unwrap();
    assert_eq!(typed.artifact_type(), Some("application/x.y"));
    assert_eq!(typed.annotations()["k"], "v");
    assert_eq!(parse(&index(&subject)).unwrap().artifact_type(), None);
    let other = image(&subject.replace(&format!("sha256:{HEX}"), "blake3:abc"));
    assert_eq!(
        parse(&other).unwrap().subject().unwrap().digest,
        DescriptorDigest::Other("blake3:abc".to_owned())
    );
}

#[test]
fn stored_schema_1_is_recognised() {
    assert_eq!(
        Manifest::detect_media_type(br#"{"schemaVersion":1,"name":"x"}"#),
        Some(MediaType::DOCKER_SCHEMA1_SIGNED)
    );
    assert_eq!(Manifest::detect_media_type(b"no json"), None);
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_or_refused(bytes: Vec<u8>) {
        let _ = Manifest::parse(bytes.clone().into(), None, &Limits::default());
        let _ = Manifest::detect_media_type(&bytes);
    }

    #[test]
    fn cutting_a_manifest_never_gives_another(cut in 0_usize..400) {
        let whole = image("");
        prop_assume!(cut < whole.len());
        prop_assert!(parse(&whole[..cut]).is_err());
    }
}
