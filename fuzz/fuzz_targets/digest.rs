//! Digests: what is read is written the same

#![no_main]

use libfuzzer_sys::fuzz_target;
use registry_core::{Digest, DigestError};

fuzz_target!(|text: &str| match text.parse::<Digest>() {
    Ok(digest) => {
        assert_eq!(digest.to_string(), text);
        assert_eq!(
            Digest::from_bytes(digest.algorithm(), digest.as_bytes()),
            Some(digest)
        );
        assert!(digest.hex().bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
    Err(DigestError::UnsupportedAlgorithm { algorithm }) => {
        assert!(text.starts_with(&algorithm) || algorithm.ends_with('…'));
    }
    Err(error) => assert!(!error.to_string().contains('\n') || text.contains('\n')),
});
