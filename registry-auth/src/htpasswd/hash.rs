//! A bcrypt hash, and the work that it takes

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use bcrypt::{HashParts, Version};

use super::entry::EntryError;

/// The least work that bcrypt knows
pub const MIN_COST: u32 = 4;

/// The most work that an entry may ask for
///
/// A check takes `2^cost` rounds, some seconds of a processor at 17 and more than a day at
/// bcrypt's own limit of 31. Every wrong password takes it, so one entry of a high cost would
/// keep everyone else waiting. It is also the most that Apache's `htpasswd` makes.
pub const MAX_COST: u32 = 17;

/// As many bytes of a password as bcrypt takes in
pub const MAX_PASSWORD: usize = 72;

/// The digits of bcrypt's base64
const DIGITS: &[u8; 64] = b"./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// Where the salt ends: after `$2y$10$` and 22 digits
const SALT_END: usize = 29;

/// A bcrypt hash that can be checked
///
/// `Debug` does not show it: who reads it can try passwords on it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Hash {
    text: String,
    cost: u32,
}

/// Why a text is no hash that is accepted
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HashError {
    Cost(u32),
    Malformed(&'static str),
    Scheme(&'static str),
}

impl Hash {
    /// Reads the part of a line after the colon
    pub(crate) fn parse(text: &str) -> Result<Self, HashError> {
        if !["$2a$", "$2b$", "$2y$"]
            .iter()
            .any(|prefix| text.starts_with(prefix))
        {
            return Err(HashError::Scheme(scheme(text)));
        }
        if text.len() != 60 || !text.is_ascii() {
            return Err(HashError::Malformed("it is not 60 ASCII characters long"));
        }
        let bytes = text.as_bytes();
        if bytes[6] != b'$' || !bytes[4..6].iter().all(u8::is_ascii_digit) {
            return Err(HashError::Malformed("its cost is not two digits and a `$`"));
        }
        let cost = u32::from(bytes[4] - b'0') * 10 + u32::from(bytes[5] - b'0');
        if !(MIN_COST..=MAX_COST).contains(&cost) {
            return Err(HashError::Cost(cost));
        }
        // Some old programs set bits of the salt's last digit that stand for nothing. Go does
        // not look at them, so such a file was accepted where distribution ran.
        let Some(last) = DIGITS
            .iter()
            .position(|digit| *digit == bytes[SALT_END - 1])
        else {
            return Err(HashError::Malformed("its salt is not bcrypt's base64"));
        };
        let text = format!(
            "{}{}{}",
            &text[..SALT_END - 1],
            char::from(DIGITS[last & 0b11_0000]),
            &text[SALT_END..]
        );
        text.parse::<HashParts>()
            .map_err(|_| HashError::Malformed("it is not bcrypt's base64"))?;
        Ok(Self { text, cost })
    }

    /// Makes a hash, with a salt from the system
    pub(crate) fn of(password: &str, cost: u32) -> Result<Self, EntryError> {
        let parts = bcrypt::hash_with_result(password, cost).map_err(|_| EntryError::NoSalt)?;
        Ok(Self {
            // As Apache's tool writes it; everyone reads it.
            text: parts.format_for_version(Version::TwoY),
            cost,
        })
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn cost(&self) -> u32 {
        self.cost
    }

    /// Whether the password is the one that was hashed
    ///
    /// A wrong one takes the work of a hash of cost `highest`, whatever the cost of this one:
    /// `2^c + 2^c + 2^(c+1) + … + 2^(h-1)` is `2^h`. So the time that a refusal takes says
    /// nothing about the entry, not even whether there is one.
    pub(super) fn check(&self, password: &[u8], highest: u32, meter: &Meter) -> bool {
        meter.count(self.cost);
        // An error is a malformed hash, and this one was parsed.
        let right = bcrypt::verify(password, &self.text).unwrap_or(false);
        if !right {
            for cost in self.cost..highest {
                waste(cost, meter);
            }
        }
        right
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash(*** of cost {})", self.cost)
    }
}

/// Does the work of a check for nothing but the time that it takes
pub(super) fn waste(cost: u32, meter: &Meter) {
    meter.count(cost);
    // The work is the same whatever is hashed; an optimizer must not see that it is unused.
    let _ = std::hint::black_box(bcrypt::hash_with_salt_bytes(b"nobody", cost, [0x5a; 16]));
}

/// What was hashed so far
#[derive(Debug, Default)]
pub(super) struct Meter {
    hashes: AtomicU64,
    rounds: AtomicU64,
}

impl Meter {
    fn count(&self, cost: u32) {
        self.hashes.fetch_add(1, Ordering::Relaxed);
        self.rounds.fetch_add(1 << cost, Ordering::Relaxed);
    }

    pub(super) fn hashes(&self) -> u64 {
        self.hashes.load(Ordering::Relaxed)
    }

    pub(super) fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }
}

/// What a hash that is not accepted was made with, as far as its form tells
fn scheme(text: &str) -> &'static str {
    const SCHEMES: [(&str, &str); 11] = [
        ("$2x$", "the broken bcrypt variant `$2x$`"),
        ("$2$", "the first bcrypt variant `$2$`"),
        ("$apr1$", "MD5"),
        ("$1$", "MD5"),
        ("{SHA}", "SHA-1"),
        ("{SSHA}", "SHA-1"),
        ("$5$", "SHA-256"),
        ("$6$", "SHA-512"),
        ("$y$", "yescrypt"),
        ("$7$", "scrypt"),
        ("$argon2", "argon2"),
    ];
    SCHEMES
        .iter()
        .find(|(prefix, _)| text.starts_with(prefix))
        .map_or("crypt or not at all", |(_, scheme)| scheme)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by Debian's `htpasswd -nbB -C 4 ada 'correct horse'`
    const HASH: &str = "$2y$04$1OPuzxJJhXT5NoTnCgjGeu/f/Nf3FH214vJZnGn0oOaD4pYB4pnQa";

    #[test]
    fn every_refusal_takes_the_same_work() {
        let meter = Meter::default();
        let hash = Hash::parse(HASH).unwrap();
        for highest in [4, 5, 8] {
            let before = meter.rounds();
            assert!(!hash.check(b"wrong", highest, &meter));
            assert_eq!(meter.rounds() - before, 1 << highest);
            let before = meter.rounds();
            waste(highest, &meter);
            assert_eq!(meter.rounds() - before, 1 << highest);
        }
        let before = meter.rounds();
        assert!(hash.check(b"correct horse", 8, &meter));
        assert_eq!(meter.rounds() - before, 1 << 4);
    }

    #[test]
    fn bits_of_the_salt_that_stand_for_nothing_do_not_matter() {
        let meter = Meter::default();
        assert_eq!(&HASH[28..29], "u");
        for digit in ["v", "w", "9"] {
            let text = format!("{}{digit}{}", &HASH[..28], &HASH[29..]);
            let hash = Hash::parse(&text).unwrap();
            assert!(hash.check(b"correct horse", 4, &meter), "{digit}");
        }
    }

    #[test]
    fn the_three_variants_are_one() {
        let meter = Meter::default();
        for variant in ["$2a$", "$2b$", "$2y$"] {
            let hash = Hash::parse(&HASH.replace("$2y$", variant)).unwrap();
            assert!(hash.check(b"correct horse", 4, &meter), "{variant}");
            assert!(!hash.check(b"correct horsf", 4, &meter), "{variant}");
        }
    }

    #[test]
    fn a_hash_stays_out_of_debug_output() {
        let hash = Hash::parse(HASH).unwrap();
        assert_eq!(format!("{hash:?}"), "Hash(*** of cost 4)");
    }
}
