//! Rules 70 to 88: lists of tags and of referrers

use serde_json::{Value, json};

use super::support::*;

/// A repository with these tags, all of one manifest
async fn with_tags(tags: &[&str]) -> Registry {
    let registry = Registry::start().await;
    for tag in tags {
        registry.push_manifest("team/app", tag, &index(&[])).await;
    }
    registry
}

/// The target of a `Link` to the next page
fn next(response: &Response) -> Option<String> {
    let link = response.find("Link")?;
    let target = link
        .strip_prefix('<')
        .and_then(|link| link.strip_suffix(">; rel=\"next\""))
        .unwrap_or_else(|| panic!("{link}"));
    assert!(target.starts_with("/v2/"), "{link}");
    assert!(!target.contains([';', '<', '>', ' ']), "{link}");
    Some(target.to_owned())
}

/// The digests of a list of referrers
fn digests(response: &Response) -> Vec<String> {
    let json = response.json();
    let manifests = json["manifests"].as_array().unwrap();
    manifests
        .iter()
        .map(|entry| entry["digest"].as_str().unwrap().to_owned())
        .collect()
}

/// Asks for referrers, checks what is true of each such list, and returns it
async fn referrers(registry: &Registry, target: &str) -> Response {
    let response = registry.get(target).send().await.expect(200);
    assert_eq!(response.header("Content-Type"), INDEX);
    let json = response.json();
    assert_eq!(json["schemaVersion"], 2);
    assert_eq!(json["mediaType"], INDEX);
    assert!(json["manifests"].is_array(), "{json}");
    response
}

fn sorted(mut list: Vec<String>) -> Vec<String> {
    list.sort_unstable();
    list
}

#[tokio::test]
async fn row_070_the_tags_of_a_repository_are_listed() {
    let registry = with_tags(&["v1", "latest"]).await;
    let response = registry
        .get("/v2/team/app/tags/list")
        .send()
        .await
        .expect(200);
    assert_eq!(response.header("Content-Type"), "application/json");
    let expected = json!({"name": "team/app", "tags": ["latest", "v1"]});
    assert_eq!(response.json(), expected);
    assert_eq!(response.find("Link"), None);
    registry
        .head("/v2/team/app/tags/list")
        .send()
        .await
        .expect(200);

    for tag in ["v1", "latest"] {
        let target = format!("/v2/team/app/manifests/{tag}");
        registry.delete(target).send().await.expect(202);
    }
    let response = registry
        .get("/v2/team/app/tags/list")
        .send()
        .await
        .expect(200);
    assert_eq!(response.text(), r#"{"name":"team/app","tags":[]}"#);

    for name in ["nobody", "team", "team/app/x"] {
        let target = format!("/v2/{name}/tags/list");
        let message = registry
            .get(target)
            .send()
            .await
            .refused(404, "NAME_UNKNOWN");
        assert!(message.contains(&format!("`{name}`")), "{message}");
    }
    // A manifest without a tag makes a repository, too.
    let bytes = pretty(&index(&[]));
    registry
        .put_manifest("untagged", sha256(&bytes), INDEX, &bytes)
        .send()
        .await
        .expect(201);
    assert!(registry.tags("untagged").await.is_empty());
}

#[tokio::test]
async fn row_071_tags_are_in_byte_order() {
    let registry = with_tags(&[
        "b", "a", "B", "_x", "Z", "0", "a.b", "a-b", "a_b", "a0", "10", "9",
    ])
    .await;
    assert_eq!(
        registry.tags("team/app").await,
        [
            "0", "10", "9", "B", "Z", "_x", "a", "a-b", "a.b", "a0", "a_b", "b"
        ]
    );
}

#[tokio::test]
async fn row_072_a_page_has_as_many_tags_as_asked_for() {
    let registry = with_tags(&["a", "b", "c", "d", "e"]).await;
    for (n, tags, more) in [
        ("1", vec!["a"], true),
        ("4", vec!["a", "b", "c", "d"], true),
        ("5", vec!["a", "b", "c", "d", "e"], false),
        ("6", vec!["a", "b", "c", "d", "e"], false),
        ("007", vec!["a", "b", "c", "d", "e"], false),
        (
            "99999999999999999999999",
            vec!["a", "b", "c", "d", "e"],
            false,
        ),
    ] {
        let target = format!("/v2/team/app/tags/list?n={n}");
        let response = registry.get(target).send().await.expect(200);
        assert_eq!(strings(&response.json()["tags"]), tags, "{n}");
        assert_eq!(next(&response).is_some(), more, "{n}");
    }
}

#[tokio::test]
async fn row_073_a_link_leads_to_the_next_page() {
    let tags = ["a", "b.c", "d_e", "f-g", "h", "i", "j"];
    let registry = with_tags(&tags).await;
    for n in 1..=8 {
        let mut target = Some(format!("/v2/team/app/tags/list?n={n}"));
        let mut seen = Vec::new();
        let mut pages = 0;
        while let Some(page) = target {
            let response = registry.get(page).send().await.expect(200);
            assert_eq!(response.json()["name"], "team/app");
            seen.extend(strings(&response.json()["tags"]));
            target = next(&response);
            pages += 1;
        }
        assert_eq!(seen, tags);
        assert_eq!(pages, tags.len().div_ceil(n));
    }
}

#[tokio::test]
async fn row_074_a_page_of_nothing_is_empty_and_the_last() {
    let registry = with_tags(&["a", "b"]).await;
    for query in ["n=0", "n=0&last=a"] {
        let target = format!("/v2/team/app/tags/list?{query}");
        let response = registry.get(target).send().await.expect(200);
        assert_eq!(response.json(), json!({"name": "team/app", "tags": []}));
        assert_eq!(response.find("Link"), None);
    }
    let target = "/v2/nobody/tags/list?n=0";
    registry
        .get(target)
        .send()
        .await
        .refused(404, "NAME_UNKNOWN");
}

#[tokio::test]
async fn row_075_a_list_can_begin_behind_any_tag() {
    let registry = with_tags(&["1", "2", "Z", "a", "a.b", "c"]).await;
    for (query, tags) in [
        ("last=a", vec!["a.b", "c"]),
        // It need not be there.
        ("last=a.a", vec!["a.b", "c"]),
        ("last=A", vec!["Z", "a", "a.b", "c"]),
        ("last=zzz", vec![]),
        ("last=0", vec!["1", "2", "Z", "a", "a.b", "c"]),
        // It is no number of a tag.
        ("last=1", vec!["2", "Z", "a", "a.b", "c"]),
        ("n=2&last=2", vec!["Z", "a"]),
        ("last=2&n=2", vec!["Z", "a"]),
        ("n=10&last=a.b", vec!["c"]),
        ("n=10&last=c", vec![]),
        // It need not even be a tag.
        ("last=%2F%2E%2E", vec!["1", "2", "Z", "a", "a.b", "c"]),
        ("last=a%20", vec!["a.b", "c"]),
        ("last=", vec!["1", "2", "Z", "a", "a.b", "c"]),
    ] {
        let target = format!("/v2/team/app/tags/list?{query}");
        let response = registry.get(target).send().await.expect(200);
        assert_eq!(strings(&response.json()["tags"]), tags, "{query}");
    }
}

#[tokio::test]
async fn row_076_a_page_size_that_is_no_number_is_400() {
    let registry = with_tags(&["a"]).await;
    for n in ["-1", "x", "1.5", "+1", "0x1", "1e3", "%31x", "1%20"] {
        for path in ["/v2/team/app/tags/list", "/v2/_catalog"] {
            let target = format!("{path}?n={n}");
            let response = registry.get(target).send().await;
            let message = response.refused(400, "PAGINATION_NUMBER_INVALID");
            assert!(message.contains("`n`"), "{message}");
        }
    }
}

#[tokio::test]
async fn row_077_referrers_of_anything_are_a_list() {
    let registry = Registry::start().await;
    let expected = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []});
    for target in [
        format!("/v2/nobody/referrers/{NOBODY}"),
        format!("/v2/nobody/referrers/{}", sha512(b"x")),
    ] {
        assert_eq!(referrers(&registry, &target).await.json(), expected);
        registry.head(&target).send().await.expect(200);
    }
    let image = registry.push_image("a", "v1", "x").await;
    for digest in [NOBODY, &image.digest, &image.layer.digest] {
        let target = format!("/v2/a/referrers/{digest}");
        assert_eq!(referrers(&registry, &target).await.json(), expected);
    }
}

#[tokio::test]
async fn row_078_referrers_of_what_is_no_digest_are_400() {
    let registry = Registry::start().await;
    registry.push_image("a", "v1", "x").await;
    for digest in [
        "v1",
        "sha256:x",
        "sha256",
        &NOBODY[..70],
        &NOBODY.to_uppercase(),
    ] {
        for name in ["a", "nobody"] {
            let target = format!("/v2/{name}/referrers/{digest}");
            registry
                .get(target)
                .send()
                .await
                .refused(400, "DIGEST_INVALID");
        }
    }
}

#[tokio::test]
async fn row_079_a_list_of_referrers_is_an_image_index() {
    let registry = Registry::start().await;
    let image = registry.push_image("a", "v1", "x").await;
    let subject = descriptor(MANIFEST, &image.digest, image.bytes.len());
    registry.push_referrer("a", &subject, "a/b").await;
    let target = format!("/v2/a/referrers/{}", image.digest);
    let list = referrers(&registry, &target).await;
    assert_eq!(list.json()["manifests"].as_array().unwrap().len(), 1);
    // It is one to the registry itself, too.
    let request = registry.put_manifest("a", "list", INDEX, &list.body);
    request.send().await.expect(201);
}

#[tokio::test]
async fn row_080_every_manifest_with_the_subject_is_listed() {
    let registry = Registry::start().await;
    registry.push_blob("a", &Blob::empty()).await;
    for subject in [NOBODY.to_owned(), sha512(b"nobody")] {
        let mut expected = Vec::new();
        for number in 0..3 {
            for mut manifest in [
                image(&Blob::empty(), &[]),
                index(&[]),
                docker_image(&Blob::empty(), &[]),
            ] {
                let media_type = manifest["mediaType"].as_str().unwrap().to_owned();
                manifest["subject"] = descriptor(MANIFEST, &subject, 7);
                manifest["annotations"] = json!({"number": number.to_string()});
                let bytes = pretty(&manifest);
                // By tag, by digest, and under its longer digest.
                let reference = match number {
                    0 => "v1".to_owned(),
                    1 => sha256(&bytes),
                    _ => sha512(&bytes),
                };
                let request = registry.put_manifest("a", &reference, &media_type, &bytes);
                let response = request.send().await.expect(201);
                let digest = response.header("Docker-Content-Digest").to_owned();
                expected.push((digest, media_type, bytes.len() as u64));
            }
        }
        expected.sort();
        let list = referrers(&registry, &format!("/v2/a/referrers/{subject}")).await;
        let list = list.json();
        let mut found: Vec<(String, String, u64)> = list["manifests"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| {
                let text = |key: &str| entry[key].as_str().unwrap().to_owned();
                (
                    text("digest"),
                    text("mediaType"),
                    entry["size"].as_u64().unwrap(),
                )
            })
            .collect();
        found.sort();
        assert_eq!(found, expected);
        // Of this repository alone.
        let other = referrers(&registry, &format!("/v2/b/referrers/{subject}")).await;
        assert!(digests(&other).is_empty());
    }
}

#[tokio::test]
async fn row_081_the_artifact_type_of_a_referrer() {
    let registry = Registry::start().await;
    registry.push_blob("a", &Blob::empty()).await;
    let of = |mut manifest: Value, artifact_type: Option<&str>| {
        manifest["subject"] = descriptor(MANIFEST, NOBODY, 7);
        if let Some(artifact_type) = artifact_type {
            manifest["artifactType"] = artifact_type.into();
        }
        manifest
    };
    let plain = || image(&Blob::empty(), &[]);
    let mut by_config = plain();
    by_config["config"]["mediaType"] = "application/vnd.example.config".into();
    for (manifest, expected) in [
        (
            of(plain(), Some("application/vnd.example.a")),
            json!("application/vnd.example.a"),
        ),
        (
            of(index(&[]), Some("application/vnd.example.b")),
            json!("application/vnd.example.b"),
        ),
        (of(plain(), None), json!(CONFIG)),
        (
            of(by_config.clone(), None),
            json!("application/vnd.example.config"),
        ),
        (
            of(by_config, Some("application/vnd.example.c")),
            json!("application/vnd.example.c"),
        ),
        (of(index(&[]), None), Value::Null),
    ] {
        let (digest, _) = registry.push_manifest("a", "v1", &manifest).await;
        let list = referrers(&registry, &format!("/v2/a/referrers/{NOBODY}"))
            .await
            .json();
        let entries = list["manifests"].as_array().unwrap();
        let entry = entries
            .iter()
            .find(|entry| entry["digest"] == *digest)
            .unwrap();
        assert_eq!(entry["artifactType"], expected);
        let has = entry.as_object().unwrap().contains_key("artifactType");
        assert_eq!(has, expected != Value::Null, "{entry}");
    }
}

#[tokio::test]
async fn row_082_the_annotations_of_a_referrer() {
    let registry = Registry::start().await;
    registry.push_blob("a", &Blob::empty()).await;
    let annotations = json!({"org.example.one": "1", "": "empty", "é": "\"\\\n", "last": ""});
    for mut manifest in [image(&Blob::empty(), &[]), index(&[])] {
        manifest["subject"] = descriptor(MANIFEST, NOBODY, 7);
        manifest["annotations"] = annotations.clone();
        registry.push_manifest("a", "v1", &manifest).await;
    }
    let list = referrers(&registry, &format!("/v2/a/referrers/{NOBODY}"))
        .await
        .json();
    let entries = list["manifests"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    for entry in entries {
        assert_eq!(entry["annotations"], annotations);
    }
}

#[tokio::test]
async fn row_083_referrers_are_filtered_by_artifact_type() {
    let registry = Registry::start().await;
    let subject = descriptor(MANIFEST, NOBODY, 7);
    let (json, _) = registry
        .push_referrer("a", &subject, "application/vnd.example+json")
        .await;
    let (short, _) = registry
        .push_referrer("a", &subject, "application/vnd.example")
        .await;
    for (filter, expected) in [
        ("application/vnd.example", vec![&short]),
        ("application%2Fvnd.example", vec![&short]),
        ("application/vnd.example%2Bjson", vec![&json]),
        ("application%2fvnd.example%2bjson", vec![&json]),
        // Decoded as a form, a plus sign is a space.
        ("application/vnd.example+json", vec![&json]),
        ("application/vnd.example%20json", vec![&json]),
        ("application/vnd.exampl", vec![]),
        ("application/vnd.EXAMPLE", vec![]),
        ("application/*", vec![]),
    ] {
        let target = format!("/v2/a/referrers/{NOBODY}?artifactType={filter}");
        let list = referrers(&registry, &target).await;
        assert_eq!(
            digests(&list).iter().collect::<Vec<_>>(),
            expected,
            "{filter}"
        );
    }
    let target = format!("/v2/a/referrers/{NOBODY}?artifactType=");
    assert_eq!(digests(&referrers(&registry, &target).await).len(), 2);
}

#[tokio::test]
async fn row_084_a_filter_that_was_applied_is_named() {
    let registry = Registry::start().await;
    let subject = descriptor(MANIFEST, NOBODY, 7);
    registry.push_referrer("a", &subject, "a/b").await;
    for name in ["a", "nobody"] {
        let target = format!("/v2/{name}/referrers/{NOBODY}");
        for (query, applied) in [
            ("", None),
            ("?x=1", None),
            ("?artifactType=", None),
            ("?artifactType=a/b", Some("artifactType")),
            ("?n=1&artifactType=nothing/like-it", Some("artifactType")),
        ] {
            let list = referrers(&registry, &format!("{target}{query}")).await;
            assert_eq!(list.find("OCI-Filters-Applied"), applied, "{query}");
        }
    }
}

#[tokio::test]
async fn row_085_a_long_list_of_referrers_comes_in_pages() {
    let registry = Registry::start().await;
    registry.push_blob("a", &Blob::empty()).await;
    // Few that are large, and more that are small. A response may have 4 MiB.
    for (subject, count, padding, queries) in [
        (
            NOBODY.to_owned(),
            5,
            1_500_000,
            ["", "?artifactType=a%2Fb%2Bx"],
        ),
        (
            sha512(b"nobody"),
            20,
            10,
            ["?n=3", "?n=2&artifactType=a/b%2Bx"],
        ),
    ] {
        let mut all = Vec::new();
        let mut filtered = Vec::new();
        for number in 0..count {
            let artifact_type = if number % 2 == 0 { "a/b+x" } else { "a/b" };
            let mut manifest = image(&Blob::empty(), &[]);
            manifest["subject"] = descriptor(MANIFEST, &subject, 7);
            manifest["artifactType"] = artifact_type.into();
            manifest["annotations"] =
                json!({"number": number.to_string(), "x": "x".repeat(padding)});
            let (digest, _) = registry.push_manifest("a", "v1", &manifest).await;
            if number % 2 == 0 {
                filtered.push(digest.clone());
            }
            all.push(digest);
        }
        for (query, expected) in queries.into_iter().zip([all, filtered]) {
            let mut target = Some(format!("/v2/a/referrers/{subject}{query}"));
            let mut seen = Vec::new();
            let mut pages = 0;
            while let Some(page) = target {
                let list = referrers(&registry, &page).await;
                assert!(list.body.len() < 4 << 20, "{} bytes", list.body.len());
                assert!(!digests(&list).is_empty(), "a page of nothing");
                let applied = list.find("OCI-Filters-Applied").is_some();
                assert_eq!(applied, query.contains("artifactType"), "{page}");
                seen.extend(digests(&list));
                target = next(&list);
                pages += 1;
            }
            assert!(pages > 1, "{query}");
            // None twice, none left out.
            assert_eq!(sorted(seen), sorted(expected), "{query}");
        }
    }
}

#[tokio::test]
async fn row_086_referrers_under_a_fallback_tag_are_found() {
    let registry = Registry::start().await;
    let image = registry.push_image("a", "v1", "x").await;
    let subject = descriptor(MANIFEST, &image.digest, image.bytes.len());
    let (known, known_bytes) = registry.push_referrer("a", &subject, "a/known").await;
    let (stranger, stranger_bytes) = registry
        .push_referrer("a", &descriptor(MANIFEST, NOBODY, 7), "a/stranger")
        .await;
    // As a client leaves it at a registry without the API. One of the two names another
    // subject than the tag says.
    let fallback = image.digest.replace(':', "-");
    let list = index(&[
        descriptor(MANIFEST, &known, known_bytes.len()),
        descriptor(MANIFEST, &stranger, stranger_bytes.len()),
    ]);
    registry.push_manifest("a", &fallback, &list).await;
    // That registry kept no list of its own.
    registry
        .uproot("docker/registry/v2/repositories/a/_referrers")
        .await;
    let target = format!("/v2/a/referrers/{}", image.digest);
    assert_eq!(
        digests(&referrers(&registry, &target).await),
        std::slice::from_ref(&known)
    );

    // Together with what is pushed from now on, each once.
    let (new, _) = registry.push_referrer("a", &subject, "a/new").await;
    registry.push_referrer("a", &subject, "a/known").await;
    let found = digests(&referrers(&registry, &target).await);
    assert_eq!(sorted(found), sorted(vec![known, new]));
}

#[tokio::test]
async fn row_087_a_fallback_tag_is_a_tag_as_others() {
    let registry = Registry::start().await;
    let tags = [
        NOBODY.replace(':', "-"),
        // sha512, cut to 64 characters.
        sha512(b"x").replace(':', "-")[..71].to_owned(),
        "sha256-abc.sig".to_owned(),
    ];
    for tag in &tags {
        registry.push_manifest("a", tag, &index(&[])).await;
    }
    let listed = registry.tags("a").await;
    assert_eq!(listed, sorted(tags.to_vec()));
    for tag in &tags {
        let target = format!("/v2/a/manifests/{tag}");
        registry.get(&target).send().await.expect(200);
        registry.delete(&target).send().await.expect(202);
        registry.get(&target).send().await.expect(404);
    }
}

#[tokio::test]
async fn row_088_a_deleted_referrer_is_listed_no_more() {
    let registry = Registry::start().await;
    let image = registry.push_image("a", "v1", "x").await;
    let subject = descriptor(MANIFEST, &image.digest, image.bytes.len());
    let (one, _) = registry.push_referrer("a", &subject, "a/one").await;
    let (two, _) = registry.push_referrer("a", &subject, "a/two").await;
    let target = format!("/v2/a/referrers/{}", image.digest);
    let found = digests(&referrers(&registry, &target).await);
    assert_eq!(sorted(found), sorted(vec![one.clone(), two.clone()]));

    registry
        .delete(format!("/v2/a/manifests/{one}"))
        .send()
        .await
        .expect(202);
    assert_eq!(
        digests(&referrers(&registry, &target).await),
        std::slice::from_ref(&two)
    );
    // The subject goes, its referrers stay.
    let subject = format!("/v2/a/manifests/{}", image.digest);
    registry.delete(subject).send().await.expect(202);
    assert_eq!(
        digests(&referrers(&registry, &target).await),
        std::slice::from_ref(&two)
    );
    registry
        .delete(format!("/v2/a/manifests/{two}"))
        .send()
        .await
        .expect(202);
    assert!(digests(&referrers(&registry, &target).await).is_empty());
}
