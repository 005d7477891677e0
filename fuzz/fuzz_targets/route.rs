//! Method, path and query never panic, and what they make has only valid parts

#![no_main]

use libfuzzer_sys::fuzz_target;
use registry_core::{Operation, RepositoryName, StartUpload, Tag, TagOrDigest, UploadId, route};

fuzz_target!(|input: &str| {
    let Some((method, target)) = input.split_once(' ') else {
        return;
    };
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let operation = match route(method, path, query) {
        Ok(operation) => operation,
        Err(error) => {
            assert!(matches!(error.status(), 400..=499));
            assert!(!error.detail().code().as_str().is_empty());
            return;
        }
    };
    assert!(path.starts_with("/v2"));
    if let Some(name) = operation.repository() {
        check_name(name);
        // `/v2`, the name and two more at the least; an encoded slash separates nothing.
        assert!(path.matches('/').count() >= name.components().count() + 3);
    }
    for access in operation.access() {
        assert!(access.to_string().contains(':'));
    }

    // Written from its parts, without any encoding, the request is the same one.
    let (method, path) = match &operation {
        Operation::CancelUpload { name, id } => ("DELETE", upload(name, id)),
        Operation::CompleteUpload { name, id, .. } => ("PUT", upload(name, id)),
        Operation::UploadChunk { name, id } => ("PATCH", upload(name, id)),
        Operation::UploadStatus { name, id } => ("GET", upload(name, id)),
        Operation::DeleteBlob { name, digest } => ("DELETE", format!("/v2/{name}/blobs/{digest}")),
        Operation::GetBlob { name, digest } => ("GET", format!("/v2/{name}/blobs/{digest}")),
        Operation::DeleteManifest { name, reference } => ("DELETE", manifest(name, reference)),
        Operation::GetManifest { name, reference } => ("GET", manifest(name, reference)),
        Operation::PutManifest {
            name,
            reference,
            tags,
        } => {
            tags.iter().for_each(check_tag);
            ("PUT", manifest(name, reference))
        }
        Operation::ListReferrers { name, digest, .. } => {
            ("GET", format!("/v2/{name}/referrers/{digest}"))
        }
        Operation::ListTags { name, .. } => ("GET", format!("/v2/{name}/tags/list")),
        Operation::StartUpload { name, start } => {
            if let StartUpload::Mount {
                from: Some(from), ..
            } = start
            {
                check_name(from);
            }
            ("POST", format!("/v2/{name}/blobs/uploads/"))
        }
        _ => return,
    };
    assert_eq!(route(method, &path, query), Ok(operation));
});

fn upload(name: &RepositoryName, id: &UploadId) -> String {
    format!("/v2/{name}/blobs/uploads/{id}")
}

fn manifest(name: &RepositoryName, reference: &TagOrDigest) -> String {
    if let TagOrDigest::Tag(tag) = reference {
        check_tag(tag);
    }
    format!("/v2/{name}/manifests/{reference}")
}

fn check_name(name: &RepositoryName) {
    assert_eq!(RepositoryName::try_from(name.as_str()).as_ref(), Ok(name));
    let word = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    for component in name.components() {
        assert!(component.as_bytes().first().is_some_and(word));
        assert!(component.as_bytes().last().is_some_and(word));
        assert!(!component.contains(".."));
    }
}

fn check_tag(tag: &Tag) {
    assert_eq!(Tag::try_from(tag.as_str()).as_ref(), Ok(tag));
    assert!(!tag.as_str().contains(['/', ':']) && !tag.as_str().starts_with('.'));
}
