//! References, names, tags: what is read is written the same, and never leads out of a folder

#![no_main]

use libfuzzer_sys::fuzz_target;
use registry_core::{Reference, RepositoryName, Tag, TagOrDigest};

fuzz_target!(|text: &str| {
    if let Ok(reference) = text.parse::<Reference>() {
        assert_eq!(reference.to_string(), text);
    }
    if let Ok(reference) = Reference::docker_normalized(text) {
        // Normalizing what is normal changes nothing.
        let normal = reference.to_string();
        assert_eq!(
            Reference::docker_normalized(&normal).map(|again| again.to_string()),
            Ok(normal)
        );
    }
    if let Ok(name) = text.parse::<RepositoryName>() {
        assert_eq!(name.as_str(), text);
        assert!(
            name.components()
                .all(|part| !matches!(part, "" | "." | ".."))
        );
    }
    if let Ok(tag) = text.parse::<Tag>() {
        assert_eq!(tag.as_str(), text);
        assert!(!text.contains('/') && !matches!(text, "." | ".."));
    }
    if let Ok(either) = text.parse::<TagOrDigest>() {
        assert_eq!(either.to_string(), text);
    }
});
