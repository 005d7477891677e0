//! References, names and tags are taken as they are written, or not at all

#![no_main]

use libfuzzer_sys::fuzz_target;
use registry_core::{Reference, RepositoryName, Tag, TagOrDigest};

fuzz_target!(|text: &str| {
    let reference = text.parse::<Reference>();
    if let Ok(reference) = &reference {
        assert_eq!(reference.to_string(), text);
        assert!(harmless(reference.name()));
    }
    match Reference::docker_normalized(text) {
        Ok(normalized) => {
            assert!(reference.is_ok());
            assert!(normalized.domain().is_some());
            assert!(normalized.tag().is_some() || normalized.digest().is_some());
            let again = Reference::docker_normalized(&normalized.to_string());
            assert_eq!(again, Ok(normalized));
        }
        // What is in grammar can still be too long with `library/` before it.
        Err(error) => assert!(reference.is_err() || text.len() > 200, "{error}"),
    }

    if let Ok(name) = text.parse::<RepositoryName>() {
        assert_eq!(name.as_str(), text);
        assert!(harmless(&name));
    }
    if let Ok(tag) = text.parse::<Tag>() {
        assert_eq!(tag.as_str(), text);
        assert!(!text.starts_with('.') && !text.contains(['/', ':', '\0']));
    }
    if let Ok(either) = text.parse::<TagOrDigest>() {
        assert_eq!(either.to_string(), text);
        assert_eq!(matches!(either, TagOrDigest::Digest(_)), text.contains(':'));
    }
});

/// Whether the name stays below the folder that it is put in
fn harmless(name: &RepositoryName) -> bool {
    let word = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.components().all(|component| {
        component.as_bytes().first().is_some_and(word)
            && component.as_bytes().last().is_some_and(word)
            && !component.contains("..")
            && component.bytes().all(|byte| byte.is_ascii_graphic())
    })
}
