//! Method, path and query never panic, and what they make has only valid parts

#![no_main]

use libfuzzer_sys::fuzz_target;
use registry_core::{Operation, RepositoryName, Tag, TagOrDigest, route};

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
    if let Some(name) = operation.repository() {
        assert!(RepositoryName::try_from(name.as_str()).is_ok());
        assert!(
            name.components()
                .all(|part| !matches!(part, "" | "." | ".."))
        );
    }
    if let Operation::GetManifest {
        reference: TagOrDigest::Tag(tag),
        ..
    } = &operation
    {
        assert!(Tag::try_from(tag.as_str()).is_ok());
    }
    for access in operation.access() {
        assert!(access.to_string().contains(':'));
    }
});
