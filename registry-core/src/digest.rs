//! Digests: the names that content has by itself

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256, Sha512};

/// A digest algorithm that the registry can compute (image specification, "Registered
/// algorithms")
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Algorithm {
    /// SHA-256, which every client and registry supports
    #[default]
    Sha256,
    /// SHA-512
    Sha512,
}

impl Algorithm {
    /// The name in front of the colon
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// How many bytes a digest has
    fn len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Algorithm {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "sha256" => Ok(Self::Sha256),
            "sha512" => Ok(Self::Sha512),
            _ => Err(DigestError::UnsupportedAlgorithm {
                algorithm: shortened(text),
            }),
        }
    }
}

impl TryFrom<&str> for Algorithm {
    type Error = DigestError;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// The digest of some content, such as `sha256:44136fa3…`
///
/// Grammar (image specification, "Digests"): `algorithm ":" encoded`, where this type takes
/// `sha256:` with 64 and `sha512:` with 128 lower-case hexadecimal digits. It is 65 bytes large
/// and `Copy`: a pointer to the bytes would cost an allocation for each of the many digests of a
/// manifest.
///
/// # Examples
///
/// ```
/// use registry_core::{Algorithm, Digest};
///
/// let digest: Digest = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a".parse()?;
/// assert_eq!(digest, Digest::sha256(b"{}"));
/// assert_eq!(digest.algorithm(), Algorithm::Sha256);
/// # Ok::<(), registry_core::DigestError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(Bytes);

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Bytes {
    Sha256([u8; 32]),
    Sha512([u8; 64]),
}

impl Digest {
    /// The digest of `content`
    pub fn of(algorithm: Algorithm, content: &[u8]) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self(Bytes::Sha256(Sha256::digest(content).into())),
            Algorithm::Sha512 => Self(Bytes::Sha512(Sha512::digest(content).into())),
        }
    }

    /// The SHA-256 digest of `content`
    pub fn sha256(content: &[u8]) -> Self {
        Self::of(Algorithm::Sha256, content)
    }

    /// A digest of raw bytes; `None` if they are not as many as the algorithm yields
    pub fn from_bytes(algorithm: Algorithm, bytes: &[u8]) -> Option<Self> {
        match algorithm {
            Algorithm::Sha256 => bytes
                .try_into()
                .ok()
                .map(|bytes| Self(Bytes::Sha256(bytes))),
            Algorithm::Sha512 => bytes
                .try_into()
                .ok()
                .map(|bytes| Self(Bytes::Sha512(bytes))),
        }
    }

    /// The algorithm
    pub fn algorithm(&self) -> Algorithm {
        match self.0 {
            Bytes::Sha256(_) => Algorithm::Sha256,
            Bytes::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// The raw bytes
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Bytes::Sha256(bytes) => bytes,
            Bytes::Sha512(bytes) => bytes,
        }
    }

    /// The hexadecimal digits behind the colon
    pub fn hex(&self) -> String {
        self.text().hex().to_owned()
    }

    /// The digest as text, on the stack
    ///
    /// For paths and headers, of which each request has several: [`Display`](fmt::Display) goes
    /// through a formatter, and [`ToString`] through the allocator too.
    pub fn text(&self) -> DigestText {
        let algorithm = self.algorithm().as_str();
        let mut text = [0; DigestText::MAX];
        let (before, digits) = text.split_at_mut(algorithm.len() + 1);
        before[..algorithm.len()].copy_from_slice(algorithm.as_bytes());
        before[algorithm.len()] = b':';
        let (pairs, _) = digits.as_chunks_mut::<2>();
        for (pair, byte) in pairs.iter_mut().zip(self.as_bytes()) {
            *pair = PAIRS[usize::from(*byte)];
        }
        DigestText {
            text,
            algorithm: self.algorithm(),
        }
    }
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// The two digits of each byte
static PAIRS: [[u8; 2]; 256] = {
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < pairs.len() {
        pairs[byte] = [DIGITS[byte >> 4], DIGITS[byte & 15]];
        byte += 1;
    }
    pairs
};

/// The text of a [`Digest`], such as `sha256:44136fa3…`
///
/// # Examples
///
/// ```
/// use registry_core::Digest;
///
/// let text = Digest::sha256(b"{}").text();
/// assert!(text.as_str().starts_with("sha256:44136fa3"));
/// assert!(text.hex().starts_with("44136fa3"));
/// ```
#[derive(Clone, Copy)]
pub struct DigestText {
    text: [u8; Self::MAX],
    algorithm: Algorithm,
}

impl DigestText {
    /// `sha512:` and 128 digits
    const MAX: usize = 7 + 128;

    /// Algorithm, colon and digits
    pub fn as_str(&self) -> &str {
        let length = self.algorithm.as_str().len() + 1 + self.algorithm.len() * 2;
        std::str::from_utf8(&self.text[..length]).expect("it was made of ASCII")
    }

    /// The digits
    pub fn hex(&self) -> &str {
        &self.as_str()[self.algorithm.as_str().len() + 1..]
    }
}

impl fmt::Debug for DigestText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text().as_str())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Ord for Digest {
    fn cmp(&self, other: &Self) -> Ordering {
        self.algorithm()
            .cmp(&other.algorithm())
            .then_with(|| self.as_bytes().cmp(other.as_bytes()))
    }
}

impl PartialOrd for Digest {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = match text.split_at_checked(7) {
            Some(("sha256:", hex)) => bytes_of(hex).map(Bytes::Sha256),
            Some(("sha512:", hex)) => bytes_of(hex).map(Bytes::Sha512),
            _ => None,
        };
        parsed.map(Self).ok_or_else(|| refused(text))
    }
}

impl TryFrom<&str> for Digest {
    type Error = DigestError;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// Why a text is no digest that the registry can use
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DigestError {
    /// The text is out of grammar
    #[error(
        "expected a digest such as `sha256:` and 64 lower-case hexadecimal digits, got `{text}`"
    )]
    Malformed {
        /// What came
        text: String,
    },
    /// The algorithm is not one that the registry can compute
    #[error("expected the algorithm sha256 or sha512, got `{algorithm}`")]
    UnsupportedAlgorithm {
        /// What came
        algorithm: String,
    },
}

/// `comp (sep comp)*`, where comp is `[a-z0-9]+` and sep one of `+._-`
pub(crate) fn is_algorithm(text: &str) -> bool {
    text.split(['+', '.', '_', '-']).all(|component| {
        !component.is_empty()
            && component
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    })
}

/// `[a-zA-Z0-9=_-]+`
pub(crate) fn is_encoded(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'=' | b'_' | b'-'))
}

/// What a client sent, short enough for an error message and on one line
///
/// Error messages reach logs, where a line break or a terminal's escape would pass for ours.
pub(crate) fn shortened(text: &str) -> String {
    const MAX: usize = 160;
    let mut short = String::with_capacity(text.len().min(MAX));
    for (count, character) in text.chars().enumerate() {
        if count == MAX {
            short.push('…');
            break;
        }
        if character.is_control() {
            short.extend(character.escape_default());
        } else {
            short.push(character);
        }
    }
    short
}

/// The bytes that exactly `N` pairs of digits stand for
fn bytes_of<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; N];
    let mut seen = 0;
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        let (high, low) = (VALUES[usize::from(*high)], VALUES[usize::from(*low)]);
        seen |= high | low;
        *byte = high << 4 | low;
    }
    // Asked once, behind the loop: no branch for each of the digits.
    (seen < 16).then_some(bytes)
}

/// What each byte is worth as a digit; more than 15 if it is none
static VALUES: [u8; 256] = {
    let mut values = [0xff; 256];
    let mut value = 0;
    while value < DIGITS.len() {
        values[DIGITS[value] as usize] = value as u8;
        value += 1;
    }
    values
};

/// Why a text is not taken
fn refused(text: &str) -> DigestError {
    if let Some((algorithm, encoded)) = text.split_once(':')
        && is_algorithm(algorithm)
        && is_encoded(encoded)
        && let Err(unsupported) = Algorithm::from_str(algorithm)
    {
        return unsupported;
    }
    DigestError::Malformed {
        text: shortened(text),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EMPTY_JSON: &str =
        "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

    #[test]
    fn known_digests() {
        assert_eq!(Digest::sha256(b"{}").to_string(), EMPTY_JSON);
        assert!(
            Digest::of(Algorithm::Sha512, b"abc")
                .to_string()
                .starts_with("sha512:ddaf35a193617abacc417349ae204131")
        );
    }

    #[test]
    fn what_is_out_of_grammar_is_malformed() {
        for text in [
            "",
            ":",
            "sha256",
            "sha256:",
            ":abc",
            "sha256:xyz",
            "sha256:ABCD",
            "sha256:../../x",
            "sha256:baddigeststring",
            "SHA256:00",
            "sha256::00",
            "sha256:00:00",
            "sha256:é",
            "+sha256:00",
            "sha256+:00",
            "sha256:44136FA355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
            "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a0",
            "sha512:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        ] {
            assert!(
                matches!(Digest::try_from(text), Err(DigestError::Malformed { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn another_algorithm_is_in_grammar_and_unsupported() {
        for text in ["blake3:00", "multihash+base58:QmRZxt2b1F", "md5:d41d8cd9"] {
            assert!(
                matches!(
                    Digest::try_from(text),
                    Err(DigestError::UnsupportedAlgorithm { .. })
                ),
                "{text}"
            );
        }
    }

    #[test]
    fn error_messages_are_short() {
        let error = Digest::try_from("é".repeat(10_000).as_str()).unwrap_err();
        assert!(error.to_string().len() < 600);
    }

    #[test]
    fn error_messages_are_one_line() {
        assert_eq!(shortened("a\r\nb\u{1b}[2Jé`\""), "a\\r\\nb\\u{1b}[2Jé`\"");
        let error = Digest::try_from("a\nb").unwrap_err();
        assert!(!error.to_string().contains('\n'));
    }

    proptest! {
        #[test]
        fn text_and_back(content: Vec<u8>, long: bool) {
            let algorithm = if long { Algorithm::Sha512 } else { Algorithm::Sha256 };
            let digest = Digest::of(algorithm, &content);
            prop_assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
            let json = serde_json::to_string(&digest).unwrap();
            prop_assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
        }

        #[test]
        fn order_is_that_of_the_text(a: Vec<u8>, b: Vec<u8>) {
            let (a, b) = (Digest::sha256(&a), Digest::sha256(&b));
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }
    }
}
