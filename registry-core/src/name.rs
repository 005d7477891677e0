//! Repository names and tags

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::{Digest, DigestError, shortened};

/// The most bytes of a repository name
///
/// Clients cap host and name together at 255 characters (distribution specification, "Pulling
/// manifests"), and Docker's registry API wants fewer than 256.
pub const MAX_NAME: usize = 255;

/// The most characters of a tag
pub const MAX_TAG: usize = 128;

/// The name of a repository, such as `library/alpine`
///
/// Grammar (distribution specification, "Pulling manifests"):
/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*`, at most
/// [`MAX_NAME`] bytes. Hence no component is empty, `.` or `..`, or begins with an underscore.
///
/// Names are ordered by component, as distribution lists them: `a/b` comes before `a-b`.
///
/// # Examples
///
/// ```
/// use registry_core::RepositoryName;
///
/// let name: RepositoryName = "library/alpine".parse()?;
/// assert_eq!(name.components().collect::<Vec<_>>(), ["library", "alpine"]);
/// assert!("library/../etc".parse::<RepositoryName>().is_err());
/// # Ok::<(), registry_core::name::NameError>(())
/// ```
#[derive(Clone)]
pub struct RepositoryName(Arc<str>);

impl RepositoryName {
    /// The name as text
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The parts between the slashes
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }
}

/// A tag, such as `latest`
///
/// Grammar (distribution specification, "Pulling manifests"):
/// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`. Tags are ordered by byte.
///
/// # Examples
///
/// ```
/// use registry_core::Tag;
///
/// let tag: Tag = "v1.2.3-rc.1".parse()?;
/// assert_eq!(tag.as_str(), "v1.2.3-rc.1");
/// assert!("..".parse::<Tag>().is_err());
/// # Ok::<(), registry_core::name::TagError>(())
/// ```
#[derive(Clone)]
pub struct Tag(Arc<str>);

impl Tag {
    /// The tag as text
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Which manifest of a repository is meant: a tag's, or the one of a digest
///
/// # Examples
///
/// ```
/// use registry_core::TagOrDigest;
///
/// let digest = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
/// assert!(matches!(digest.parse(), Ok(TagOrDigest::Digest(_))));
/// assert!(matches!("latest".parse(), Ok(TagOrDigest::Tag(_))));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TagOrDigest {
    /// By digest
    Digest(Digest),
    /// By tag
    Tag(Tag),
}

impl From<Digest> for TagOrDigest {
    fn from(digest: Digest) -> Self {
        Self::Digest(digest)
    }
}

impl From<Tag> for TagOrDigest {
    fn from(tag: Tag) -> Self {
        Self::Tag(tag)
    }
}

impl fmt::Display for TagOrDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digest(digest) => digest.fmt(f),
            Self::Tag(tag) => tag.fmt(f),
        }
    }
}

impl FromStr for TagOrDigest {
    type Err = TagOrDigestError;

    /// A text with a colon is a digest, never a tag
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(if text.contains(':') {
            Self::Digest(text.parse()?)
        } else {
            Self::Tag(text.parse()?)
        })
    }
}

impl TryFrom<&str> for TagOrDigest {
    type Error = TagOrDigestError;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// Why a text is no repository name
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// The text is out of grammar
    #[error(
        "expected components of lower-case letters and digits, joined by `.`, `_`, `__` or `-` \
         and separated by `/`, got `{name}`"
    )]
    Malformed {
        /// What came
        name: String,
    },
    /// The name is too long
    #[error("expected at most {MAX_NAME} bytes, got {length}")]
    TooLong {
        /// How many bytes came
        length: usize,
    },
}

/// Why a text is no tag
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TagError {
    /// The text is out of grammar
    #[error("expected a letter, digit or `_`, then letters, digits, `_`, `.` or `-`, got `{tag}`")]
    Malformed {
        /// What came
        tag: String,
    },
    /// The tag is too long
    #[error("expected at most {MAX_TAG} characters, got {length}")]
    TooLong {
        /// How many bytes came
        length: usize,
    },
}

/// Why a text is neither tag nor digest
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TagOrDigestError {
    /// It has a colon and is no digest
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// It has no colon and is no tag
    #[error(transparent)]
    Tag(#[from] TagError),
}

impl FromStr for RepositoryName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_NAME {
            return Err(NameError::TooLong { length: text.len() });
        }
        if !text.split('/').all(is_component) {
            return Err(NameError::Malformed {
                name: shortened(text),
            });
        }
        Ok(Self(text.into()))
    }
}

impl FromStr for Tag {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_TAG {
            return Err(TagError::TooLong { length: text.len() });
        }
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let mut bytes = text.bytes();
        if !bytes.next().is_some_and(word)
            || !bytes.all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
        {
            return Err(TagError::Malformed {
                tag: shortened(text),
            });
        }
        Ok(Self(text.into()))
    }
}

impl Ord for RepositoryName {
    fn cmp(&self, other: &Self) -> Ordering {
        // A slash sorts before every other character of a name.
        self.components().cmp(other.components())
    }
}

impl Ord for Tag {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}

/// What both kinds of text have in common
macro_rules! validated_text {
    ($type:ident, $error:ident) => {
        impl TryFrom<&str> for $type {
            type Error = $error;

            fn try_from(text: &str) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl PartialEq for $type {
            fn eq(&self, other: &Self) -> bool {
                self.0 == other.0
            }
        }

        impl Eq for $type {}

        impl Hash for $type {
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.0.hash(state);
            }
        }

        impl PartialOrd for $type {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?
                    .parse()
                    .map_err(serde::de::Error::custom)
            }
        }
    };
}

validated_text!(RepositoryName, NameError);
validated_text!(Tag, TagError);

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !word(*first) || !word(*last) {
        return false;
    }
    // Every run of other characters stands between words now, and must be a separator.
    bytes
        .split(|byte| word(*byte))
        .all(|run| matches!(run, b"" | b"." | b"_" | b"__") || run.iter().all(|byte| *byte == b'-'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_follow_the_grammar() {
        for good in [
            "a",
            "0",
            "a/b",
            "a/b/c/d",
            "a.b",
            "a_b",
            "a__b",
            "a-b",
            "a--b",
            "a---b",
            "a-b.c_d__e",
            "library/alpine",
            "blobs/uploads",
            "127.0.0.1",
        ] {
            assert!(RepositoryName::try_from(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            ".",
            "..",
            "a/..",
            "../a",
            "a/../b",
            "a..b",
            "a___b",
            "A",
            "a/B",
            "-a",
            "a-",
            ".a",
            "a.",
            "_a",
            "a_",
            "a._b",
            "a-.b",
            "a b",
            "a%2fb",
            "a\0",
            "é",
            "a:b",
            "a@b",
            "_layers",
            "a/_manifests",
            "a\\b",
            "a\n",
        ] {
            assert!(RepositoryName::try_from(bad).is_err(), "{bad:?}");
        }
        assert!(RepositoryName::try_from("a".repeat(255).as_str()).is_ok());
        assert_eq!(
            RepositoryName::try_from("a".repeat(256).as_str()),
            Err(NameError::TooLong { length: 256 })
        );
    }

    #[test]
    fn tags_follow_the_grammar() {
        for good in ["a", "_", "latest", "V1.2.3", "a.b-c_d", "0", "sha256-abc"] {
            assert!(Tag::try_from(good).is_ok(), "{good}");
        }
        for bad in [
            "", ".", "..", "-a", ".a", "a/b", "a:b", "a b", "é", "a\0", "a+b",
        ] {
            assert!(Tag::try_from(bad).is_err(), "{bad:?}");
        }
        assert!(Tag::try_from("a".repeat(128).as_str()).is_ok());
        assert!(Tag::try_from("a".repeat(129).as_str()).is_err());
    }

    #[test]
    fn names_are_ordered_by_component() {
        let mut names: Vec<RepositoryName> = ["a-b", "ab", "a/b", "a", "a.b", "a/b/c", "a/b-c"]
            .iter()
            .map(|name| name.parse().unwrap())
            .collect();
        names.sort();
        let names: Vec<_> = names.iter().map(RepositoryName::as_str).collect();
        assert_eq!(names, ["a", "a/b", "a/b/c", "a/b-c", "a-b", "a.b", "ab"]);
    }

    #[test]
    fn deserializing_validates() {
        assert!(serde_json::from_str::<RepositoryName>("\"../../etc\"").is_err());
        assert!(serde_json::from_str::<Tag>("\"../../etc\"").is_err());
        assert_eq!(
            serde_json::to_string(&Tag::try_from("v1").unwrap()).unwrap(),
            "\"v1\""
        );
    }

    /// The grammar once more, as a machine that reads a character at a time
    fn naive(text: &str) -> bool {
        #[derive(PartialEq)]
        enum At {
            Start,
            Word,
            Dot,
            One,
            Two,
            Dash,
        }
        let mut at = At::Start;
        for character in text.chars() {
            at = match (at, character) {
                (_, 'a'..='z' | '0'..='9') => At::Word,
                (At::Word, '.') => At::Dot,
                (At::Word, '_') => At::One,
                (At::One, '_') => At::Two,
                (At::Word | At::Dash, '-') => At::Dash,
                (At::Word, '/') => At::Start,
                _ => return false,
            };
        }
        at == At::Word
    }

    proptest! {
        #[test]
        fn names_agree_with_a_machine(text in "[ab._/A-]{0,12}") {
            prop_assert_eq!(RepositoryName::try_from(text.as_str()).is_ok(), naive(&text));
        }
    }
}
