//! Patterns of repository names and of tags

use std::fmt;
use std::str::FromStr;

use registry_core::name::{MAX_NAME, MAX_TAG, NameError, TagError};
use registry_core::{RepositoryName, Tag};

/// Which repositories a rule is about
///
/// - A name, such as `team/app`, is that repository.
/// - `*` stands for any characters within a component, also none: `team/*`, `team/app-*`.
/// - `**` as a whole component stands for any number of components, also none: `**/app` is `app`
///   as well as `a/b/app`. At the end there must be at least one: `team/**` is everything below
///   `team`, and not `team` itself. `**` alone is every repository.
///
/// At most [`MAX_NAME`] bytes, as a name.
///
/// # Examples
///
/// ```
/// use registry_auth::rules::RepositoryPattern;
///
/// let pattern: RepositoryPattern = "team/*-service/**".parse()?;
/// assert!(pattern.matches(&"team/mail-service/api/v2".parse()?));
/// assert!(!pattern.matches(&"team/mail-service".parse()?));
/// assert!("team/a**".parse::<RepositoryPattern>().is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositoryPattern {
    text: Box<str>,
    // The last one is never `Part::Several`.
    parts: Box<[Part]>,
}

impl RepositoryPattern {
    /// Whether the repository is one of these
    pub fn matches(&self, name: &RepositoryName) -> bool {
        self.matches_components(&name.components().collect::<Vec<_>>())
    }

    /// The pattern as it was written
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether every repository is one of these
    pub fn is_everything(&self) -> bool {
        *self.text == *EVERYTHING
    }

    /// The same as [`RepositoryPattern::matches`], of a name taken apart already
    ///
    /// After a mismatch only the last `**` has to take one component more: what an earlier one
    /// could take, the last one can. So this is never worse than quadratic.
    pub(super) fn matches_components(&self, name: &[&str]) -> bool {
        let (mut part, mut at) = (0, 0);
        let mut last_several = None;
        while let Some(component) = name.get(at) {
            match self.parts.get(part) {
                Some(Part::Several) => {
                    part += 1;
                    last_several = Some((part, at));
                }
                Some(Part::One(glob)) if glob.matches(component) => {
                    part += 1;
                    at += 1;
                }
                _ => {
                    let Some((after, from)) = last_several else {
                        return false;
                    };
                    last_several = Some((after, from + 1));
                    (part, at) = (after, from + 1);
                }
            }
        }
        part == self.parts.len()
    }

    /// The only name that it matches, if there is only one
    pub(super) fn exact(&self) -> Option<&str> {
        (!self.text.contains('*')).then_some(&self.text)
    }

    /// What every name that it matches begins with
    pub(super) fn head(&self) -> &str {
        self.text.split('*').next().unwrap_or_default()
    }

    /// A component that every name that it matches has
    pub(super) fn component(&self) -> Option<&str> {
        self.parts.iter().find_map(|part| match part {
            Part::One(glob) => glob.exact(),
            Part::Several => None,
        })
    }
}

impl fmt::Display for RepositoryPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for RepositoryPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if !text.contains('*') {
            text.parse::<RepositoryName>()?;
        }
        if text.len() > MAX_NAME {
            return Err(PatternError::TooLong {
                most: MAX_NAME,
                length: text.len(),
            });
        }
        let malformed = || PatternError::Malformed {
            pattern: text.to_owned(),
        };
        let mut parts = Vec::new();
        for component in text.split('/') {
            let known =
                |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b'*');
            if component == EVERYTHING {
                // Two in a row say no more than one.
                if parts.last() != Some(&Part::Several) {
                    parts.push(Part::Several);
                }
            } else if component.is_empty()
                || component.contains(EVERYTHING)
                || !component.bytes().all(known)
            {
                return Err(malformed());
            } else {
                parts.push(Part::One(Glob::new(component)));
            }
        }
        if parts.last() == Some(&Part::Several) {
            parts.push(Part::One(Glob::new("*")));
        }
        Ok(Self {
            text: text.into(),
            parts: parts.into(),
        })
    }
}

/// Which tags a rule is about
///
/// A tag, such as `latest`, or a pattern in which each `*` stands for any characters, also none:
/// `v*`, `*-rc.*`. At most [`MAX_TAG`] bytes, as a tag.
///
/// # Examples
///
/// ```
/// use registry_auth::rules::TagPattern;
///
/// let pattern: TagPattern = "v*-rc.*".parse()?;
/// assert!(pattern.matches(&"v1.2-rc.1".parse()?));
/// assert!(!pattern.matches(&"v1.2".parse()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagPattern {
    text: Box<str>,
    glob: Glob,
}

impl TagPattern {
    /// Whether the tag is one of these
    pub fn matches(&self, tag: &Tag) -> bool {
        self.glob.matches(tag.as_str())
    }

    /// The pattern as it was written
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for TagPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for TagPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if !text.contains('*') {
            text.parse::<Tag>()?;
        }
        if text.len() > MAX_TAG {
            return Err(PatternError::TooLong {
                most: MAX_TAG,
                length: text.len(),
            });
        }
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-*".contains(&byte);
        if !text.bytes().all(known) {
            return Err(PatternError::MalformedTag {
                pattern: text.to_owned(),
            });
        }
        Ok(Self {
            text: text.into(),
            glob: Glob::new(text),
        })
    }
}

/// Why a text is no pattern
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// It has wildcards and is out of grammar
    #[error(
        "expected components of lower-case letters, digits, `.`, `_`, `-` and `*`, separated by \
         `/`, with `**` only as a whole component, got `{}`",
        pattern.escape_debug()
    )]
    Malformed {
        /// What came
        pattern: String,
    },
    /// It has wildcards and is out of grammar for tags
    #[error(
        "expected letters, digits, `_`, `.`, `-` and `*`, got `{}`", pattern.escape_debug()
    )]
    MalformedTag {
        /// What came
        pattern: String,
    },
    /// It has no wildcards and is no repository name
    #[error(transparent)]
    Name(#[from] NameError),
    /// It has no wildcards and is no tag
    #[error(transparent)]
    Tag(#[from] TagError),
    /// It is longer than anything that it could match
    #[error("expected a pattern of at most {most} bytes, got {length}")]
    TooLong {
        /// The most bytes
        most: usize,
        /// How many came
        length: usize,
    },
}

/// One part of a repository pattern
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// One component
    One(Glob),
    /// Any number of components
    Several,
}

/// A text in which each `*` stands for any characters: what stands between the stars
#[derive(Clone, Debug, PartialEq, Eq)]
struct Glob(Box<[Box<str>]>);

impl Glob {
    fn new(text: &str) -> Self {
        Self(text.split('*').map(Into::into).collect())
    }

    fn matches(&self, text: &str) -> bool {
        match &*self.0 {
            [] => false,
            [only] => **only == *text,
            [first, between @ .., last] => {
                let inner = text
                    .strip_prefix(&**first)
                    .and_then(|rest| rest.strip_suffix(&**last));
                let Some(mut rest) = inner else {
                    return false;
                };
                // The leftmost place of each leaves the most for those after it.
                for piece in between {
                    let Some((_, after)) = rest.split_once(&**piece) else {
                        return false;
                    };
                    rest = after;
                }
                true
            }
        }
    }

    /// The only text that it matches, if there is only one
    fn exact(&self) -> Option<&str> {
        match &*self.0 {
            [only] => Some(only),
            _ => None,
        }
    }
}

/// The pattern of every repository, and the component for any number of them
const EVERYTHING: &str = "**";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_match_by_component() {
        for (pattern, matching, other) in [
            ("app", &["app"][..], &["app/x", "x/app", "apps"][..]),
            (
                "team/app",
                &["team/app"],
                &["team", "team/app/x", "team/ap"],
            ),
            (
                "team/*",
                &["team/a", "team/a-b"],
                &["team", "team/a/b", "teams/a"],
            ),
            (
                "team/**",
                &["team/a", "team/a/b"],
                &["team", "teams/a", "a/team/b"],
            ),
            ("**", &["a", "a/b", "a/b/c"], &[]),
            ("**/**", &["a", "a/b"], &[]),
            ("*", &["a", "a-b"], &["a/b"]),
            ("*/*", &["a/b"], &["a", "a/b/c"]),
            (
                "**/app",
                &["app", "a/app", "a/b/app", "app/app"],
                &["app/a", "an-app"],
            ),
            (
                "a/**/z",
                &["a/z", "a/b/z", "a/z/z", "a/b/c/z"],
                &["a", "z", "a/z/b"],
            ),
            (
                "**/b/**/d/**",
                &["b/d/x", "a/b/c/d/e", "b/b/d/d/d"],
                &["b/d", "d/b/x", "a/b"],
            ),
            ("*a*b*", &["ab", "xaxbx", "ba-ab"], &["ba", "a/b"]),
            ("a*a", &["aa", "aba"], &["a", "ab"]),
            ("ab*ba", &["abba", "abxba"], &["aba"]),
            (
                "team/*-x/**",
                &["team/a-x/b"],
                &["team/a-x", "team/a/b", "team/a-xy/b"],
            ),
        ] {
            let pattern: RepositoryPattern = pattern.parse().unwrap();
            for name in matching {
                assert!(pattern.matches(&name.parse().unwrap()), "{pattern} {name}");
            }
            for name in other {
                assert!(!pattern.matches(&name.parse().unwrap()), "{pattern} {name}");
            }
        }
    }

    #[test]
    fn tags_match_as_a_whole() {
        for (pattern, tag, expected) in [
            ("latest", "latest", true),
            ("latest", "latest-1", false),
            ("*", "v1", true),
            ("**", "v1", true),
            ("v*", "v", true),
            ("v*", "V1", false),
            ("*.*.*", "1.2.3", true),
            ("*.*.*", "1.2", false),
            ("1.*.1", "1.1", false),
        ] {
            let matches = pattern
                .parse::<TagPattern>()
                .unwrap()
                .matches(&tag.parse().unwrap());
            assert_eq!(matches, expected, "{pattern} {tag}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in [
            "", "/", "a/", "/a", "a//*", "Team/*", "a**", "**a/b", "a/***", "a b*", "é*", "a?*",
            "..",
        ] {
            assert!(text.parse::<RepositoryPattern>().is_err(), "{text}");
        }
        for text in ["", "a/*", "-x", "a b*", "é*", "[ab]*"] {
            assert!(text.parse::<TagPattern>().is_err(), "{text}");
        }
        let long = format!("{}*", "a".repeat(MAX_NAME));
        assert_eq!(
            long.parse::<RepositoryPattern>().unwrap_err().to_string(),
            "expected a pattern of at most 255 bytes, got 256"
        );
        assert!(long[1..].parse::<RepositoryPattern>().is_ok());
        let long = format!("{}*", "a".repeat(MAX_TAG));
        assert!(long.parse::<TagPattern>().is_err());
        assert!(long[1..].parse::<TagPattern>().is_ok());
    }
}
