//! What is remembered of credentials instead of them

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::hash::{Hash, MAX_PASSWORD};

/// A keyed hash (HMAC-SHA256) of a name, or of a name, a password and the hash of the entry
///
/// The key is this process's own and random, so what is remembered can be tried on passwords
/// only by who reads the memory in which the key is, and two fingerprints can be compared in
/// any way: nobody outside can bring about one that shares a beginning with another.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// A part of it, for where a mistake once in a very long time does no harm
    pub(super) fn short(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

/// Makes fingerprints
#[derive(Clone)]
pub(super) struct Fingerprints(Hmac<Sha256>);

impl Fingerprints {
    /// With a random key
    pub(super) fn new() -> Result<Self, getrandom::Error> {
        let mut key = [0; 32];
        getrandom::fill(&mut key)?;
        Ok(Self::with_key(&key))
    }

    fn with_key(key: &[u8; 32]) -> Self {
        Self(Hmac::new_from_slice(key).expect("HMAC takes a key of any length"))
    }

    pub(super) fn name(&self, user: &str) -> Fingerprint {
        let mut mac = self.0.clone();
        mac.update(&[0]);
        mac.update(user.as_bytes());
        Fingerprint(mac.finalize().into_bytes().into())
    }

    /// Changes with the entry, so that nothing remembered outlives it
    pub(super) fn credentials(
        &self,
        user: &str,
        password: &[u8],
        hash: Option<&Hash>,
    ) -> Fingerprint {
        let mut mac = self.0.clone();
        // Each part is followed by the next where no other split could be meant: the length
        // of the name stands before it, and a hash has 60 bytes.
        mac.update(&[1 + u8::from(hash.is_some())]);
        mac.update(&(user.len() as u64).to_le_bytes());
        mac.update(user.as_bytes());
        if let Some(hash) = hash {
            mac.update(hash.as_str().as_bytes());
        }
        mac.update(taken_in(password));
        Fingerprint(mac.finalize().into_bytes().into())
    }
}

/// The part of a password that bcrypt takes in
pub(super) fn taken_in(password: &[u8]) -> &[u8] {
    &password[..password.len().min(MAX_PASSWORD)]
}

#[cfg(test)]
impl Fingerprint {
    /// One of its own for each number
    pub(super) fn of(number: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        Self(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_counts_and_so_does_the_key() {
        let keyed = Fingerprints::with_key(&[7; 32]);
        let a =
            Hash::parse("$2y$04$1OPuzxJJhXT5NoTnCgjGeu/f/Nf3FH214vJZnGn0oOaD4pYB4pnQa").unwrap();
        let b =
            Hash::parse("$2y$05$4yICJyTHZZsFI9G2XbjiBO8618I5qTZolv4tPli/c.os/xqwXnIWm").unwrap();
        let longest = "p".repeat(72);
        let mut all = vec![
            keyed.name("ada"),
            keyed.name("adap"),
            keyed.credentials("ada", b"p", None),
            keyed.credentials("adap", b"", None),
            keyed.credentials("ada", b"p", Some(&a)),
            keyed.credentials("ada", b"p", Some(&b)),
            keyed.credentials("ada", b"q", Some(&a)),
            keyed.credentials("eve", b"p", Some(&a)),
            keyed.credentials(
                "ada",
                [a.as_str().as_bytes(), b"p"].concat().as_slice(),
                None,
            ),
            Fingerprints::with_key(&[8; 32]).credentials("ada", b"p", Some(&a)),
            keyed.credentials("ada", &longest.as_bytes()[..71], Some(&a)),
            keyed.credentials("ada", longest.as_bytes(), Some(&a)),
        ];
        let count = all.len();
        all.sort_by_key(|fingerprint| fingerprint.0);
        all.dedup();
        assert_eq!(all.len(), count);
        // What bcrypt ignores is ignored here.
        assert!(
            keyed.credentials("ada", longest.as_bytes(), Some(&a))
                == keyed.credentials("ada", format!("{longest}x").as_bytes(), Some(&a))
        );
    }
}
