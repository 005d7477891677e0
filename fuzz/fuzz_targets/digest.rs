//! Digests have one form, and a saved hash is itself again or refused

#![no_main]

use libfuzzer_sys::fuzz_target;
use registry_core::{Algorithm, Digest, DigestError, Hasher};

fuzz_target!(|input: &[u8]| {
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let digest = Digest::of(algorithm, input);
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!(
            Digest::from_bytes(algorithm, digest.as_bytes()),
            Some(digest)
        );

        let (first, second) = input.split_at(input.len() / 2);
        let mut hasher = Hasher::new(algorithm);
        hasher.update(first);
        let mut hasher = Hasher::restore(algorithm, &hasher.save()).expect("just saved");
        hasher.update(second);
        assert_eq!(hasher.written(), input.len() as u64);
        assert_eq!(hasher.finish(), digest);

        if let Ok(restored) = Hasher::restore(algorithm, input) {
            // Beyond the pending bytes a block may hold anything, which is not kept.
            let saved = restored.save();
            assert_eq!(saved.len(), input.len());
            let again = Hasher::restore(algorithm, &saved).expect("just saved");
            assert_eq!(again.save(), saved);
            assert_eq!(again.digest(), restored.digest());
        }
    }

    let Ok(text) = str::from_utf8(input) else {
        return;
    };
    match text.parse::<Digest>() {
        Ok(digest) => {
            assert_eq!(digest.to_string(), text);
            assert_eq!(format!("{}:{}", digest.algorithm(), digest.hex()), text);
            assert!(in_grammar(text));
        }
        Err(DigestError::UnsupportedAlgorithm { algorithm }) => {
            assert!(in_grammar(text));
            assert!(algorithm.parse::<Algorithm>().is_err());
        }
        Err(error) => {
            let message = error.to_string();
            assert!(message.len() < 2000 && !message.contains(char::is_control));
            let known = text.starts_with("sha256:") || text.starts_with("sha512:");
            assert!(known || !in_grammar(text), "{error}");
        }
    }
});

/// The grammar once more, a character at a time: `comp (sep comp)* ":" encoded`
fn in_grammar(text: &str) -> bool {
    #[derive(PartialEq)]
    enum At {
        Start,
        Component,
        Colon,
        Encoded,
    }
    let mut at = At::Start;
    for character in text.chars() {
        at = match (at, character) {
            (At::Start | At::Component, 'a'..='z' | '0'..='9') => At::Component,
            (At::Component, '+' | '.' | '_' | '-') => At::Start,
            (At::Component, ':') => At::Colon,
            (At::Colon | At::Encoded, 'a'..='z' | 'A'..='Z' | '0'..='9' | '=' | '_' | '-') => {
                At::Encoded
            }
            _ => return false,
        };
    }
    at == At::Encoded
}
