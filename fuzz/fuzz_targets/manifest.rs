//! Manifests and indexes: bounded, and the same however often they are read

#![no_main]

use libfuzzer_sys::fuzz_target;
use registry_core::manifest::Limits;
use registry_core::{Algorithm, Digest, Manifest};

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits {
        max_bytes: 64 * 1024,
        max_depth: 16,
        max_descriptors: 100,
    };
    let detected = Manifest::detect_media_type(bytes);
    let Ok(manifest) = Manifest::parse(bytes.to_vec().into(), None, &limits) else {
        return;
    };
    assert_eq!(manifest.raw(), bytes);
    assert_eq!(manifest.digest(Algorithm::Sha256), Digest::sha256(bytes));
    assert!(bytes.len() <= limits.max_bytes);
    assert!(manifest.dependencies().len() <= limits.max_descriptors + 1);
    // What is served later is typed from the stored bytes alone.
    let media_type = manifest.media_type();
    assert_eq!(detected, Some(media_type.clone()));
    let again = Manifest::parse(manifest.raw().clone(), None, &limits).unwrap();
    assert_eq!(again.dependencies(), manifest.dependencies());
    assert_eq!(again.media_type(), media_type);
    let _ = manifest.view();
});
