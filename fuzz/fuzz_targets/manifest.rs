//! A manifest or index is refused, or says the same as a second parser does

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use registry_core::manifest::{Limits, Role, View};
use registry_core::{Algorithm, Digest, Manifest, ManifestKind, MediaType};
use serde_json::Value;

/// Small, so that inputs that break them are found
const LIMITS: Limits = Limits {
    max_bytes: 8 * 1024,
    max_depth: 12,
    max_descriptors: 12,
};

const TYPES: [MediaType; 4] = [
    MediaType::DOCKER_MANIFEST,
    MediaType::DOCKER_MANIFEST_LIST,
    MediaType::OCI_INDEX,
    MediaType::OCI_MANIFEST,
];

fuzz_target!(|input: &[u8]| {
    let detected = Manifest::detect_media_type(input);
    let raw = Bytes::copy_from_slice(input);
    let manifest = match Manifest::parse(raw.clone(), None, &LIMITS) {
        Ok(manifest) => manifest,
        Err(error) => {
            // An announced type can only be one more reason to refuse.
            for media_type in &TYPES {
                assert!(Manifest::parse(raw.clone(), Some(media_type), &LIMITS).is_err());
            }
            let text = error.to_string();
            assert!(text.len() < 2000 && !text.contains(char::is_control));
            return;
        }
    };

    assert!(input.len() <= LIMITS.max_bytes);
    assert_eq!(manifest.raw(), &raw);
    assert_eq!(manifest.digest(Algorithm::Sha256), Digest::sha256(input));
    assert_eq!(detected, Some(manifest.media_type()));

    for media_type in &TYPES {
        let again = Manifest::parse(raw.clone(), Some(media_type), &LIMITS);
        assert_eq!(again.is_ok(), *media_type == manifest.media_type());
        if let Ok(again) = again {
            same(&again, &manifest);
        }
    }
    let spaced = [b" \n", input, b"\n"].concat();
    if spaced.len() <= LIMITS.max_bytes {
        let spaced = Manifest::parse(spaced.into(), None, &LIMITS);
        same(&spaced.expect("only white space was added"), &manifest);
    }

    let dependencies = manifest.dependencies();
    assert!(dependencies.len() <= LIMITS.max_descriptors + 1);
    if manifest.kind().is_index() {
        assert!(dependencies.iter().all(|one| one.role == Role::Manifest));
    } else {
        assert_eq!(dependencies[0].role, Role::Config);
        assert!(dependencies[1..].iter().all(|one| one.role == Role::Layer));
        assert!(manifest.artifact_type().is_some());
    }
    match manifest.view() {
        Ok(View::Index(index)) => assert_eq!(index.manifests().len(), dependencies.len()),
        Ok(View::Manifest(image)) => assert_eq!(image.layers().len() + 1, dependencies.len()),
        // `oci-spec` is stricter, for one about null.
        _ => {}
    }
    // Numbers out of range are skipped where they do not count, but not by the second parser.
    if let Ok(value) = serde_json::from_slice(input) {
        second_opinion(&manifest, &value);
    }
});

fn same(one: &Manifest, other: &Manifest) {
    assert_eq!(one.kind(), other.kind());
    assert_eq!(one.dependencies(), other.dependencies());
    assert_eq!(one.subject(), other.subject());
    assert_eq!(one.artifact_type(), other.artifact_type());
    assert_eq!(one.annotations(), other.annotations());
}

/// What the same document says when it is read without types
fn second_opinion(manifest: &Manifest, value: &Value) {
    assert_eq!(value["schemaVersion"], 2);
    let list = |property: &str| value[property].as_array().cloned().unwrap_or_default();
    let expected = if manifest.kind().is_index() {
        assert!(value["config"].is_null() && value["layers"].is_null());
        list("manifests")
    } else {
        assert!(value["manifests"].is_null());
        let mut all = vec![value["config"].clone()];
        all.extend(list("layers"));
        all
    };
    assert_eq!(manifest.dependencies().len(), expected.len());
    for (dependency, expected) in manifest.dependencies().iter().zip(expected) {
        let found = &dependency.descriptor;
        assert_eq!(expected["digest"], found.digest.to_string());
        assert_eq!(expected["mediaType"], found.media_type);
        assert_eq!(expected["size"], found.size);
        assert!(found.size <= i64::MAX as u64);
    }
    match manifest.subject() {
        Some(subject) => assert_eq!(value["subject"]["digest"], subject.digest.to_string()),
        None => assert!(value["subject"].is_null()),
    }
    match value["mediaType"].as_str().filter(|text| !text.is_empty()) {
        Some(media_type) => assert_eq!(manifest.media_type().as_str(), media_type),
        None => assert!(matches!(
            manifest.kind(),
            ManifestKind::OciIndex | ManifestKind::OciManifest
        )),
    }
}
