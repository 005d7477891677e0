//! References to images, as people write them

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::{Digest, DigestError, shortened};
use crate::name::{NameError, RepositoryName, Tag, TagError};

/// A reference such as `localhost:5000/team/app:v1@sha256:…`
///
/// Grammar: `[domain "/"] name [":" tag] ["@" digest]`. The first component is a domain when a
/// slash follows it and it has a dot or a colon or is `localhost`. Parsing takes the text as it
/// is written; [`Reference::docker_normalized`] reads it as docker's command line does.
///
/// # Examples
///
/// ```
/// use registry_core::Reference;
///
/// let reference: Reference = "localhost:5000/team/app:v1".parse()?;
/// assert_eq!(reference.domain(), Some("localhost:5000"));
/// assert_eq!(reference.name().as_str(), "team/app");
/// assert_eq!(reference.tag().unwrap().as_str(), "v1");
///
/// let reference = Reference::docker_normalized("alpine")?;
/// assert_eq!(reference.to_string(), "docker.io/library/alpine:latest");
/// # Ok::<(), registry_core::reference::ReferenceError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    domain: Option<String>,
    name: RepositoryName,
    tag: Option<Tag>,
    digest: Option<Digest>,
}

impl Reference {
    /// Reads a reference as docker's command line does: without a domain it is `docker.io`, a
    /// single component there is in `library`, and without tag and digest the tag is `latest`
    ///
    /// # Errors
    ///
    /// [`ReferenceError`] as for parsing.
    pub fn docker_normalized(text: &str) -> Result<Self, ReferenceError> {
        let mut reference: Self = text.parse()?;
        let domain = match reference.domain.as_deref() {
            None | Some("index.docker.io") => "docker.io",
            Some(domain) => domain,
        };
        if domain == "docker.io" && reference.name.components().count() == 1 {
            reference.name = format!("library/{}", reference.name).parse()?;
        }
        reference.domain = Some(domain.to_owned());
        if reference.tag.is_none() && reference.digest.is_none() {
            reference.tag = Some("latest".parse()?);
        }
        Ok(reference)
    }

    /// The host, with its port if there is one
    pub fn domain(&self) -> Option<&str> {
        self.domain.as_deref()
    }

    /// The repository
    pub fn name(&self) -> &RepositoryName {
        &self.name
    }

    /// The tag
    pub fn tag(&self) -> Option<&Tag> {
        self.tag.as_ref()
    }

    /// The digest
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(domain) = &self.domain {
            write!(f, "{domain}/")?;
        }
        write!(f, "{}", self.name)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse()?)),
            None => (text, None),
        };
        let (domain, rest) = match rest.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
                if !is_domain(first) {
                    return Err(ReferenceError::Domain {
                        domain: shortened(first),
                    });
                }
                (Some(first.to_owned()), rest)
            }
            _ => (None, rest),
        };
        let (name, tag) = match rest.split_once(':') {
            Some((name, tag)) => (name, Some(tag.parse()?)),
            None => (rest, None),
        };
        Ok(Self {
            domain,
            name: name.parse()?,
            tag,
            digest,
        })
    }
}

impl TryFrom<&str> for Reference {
    type Error = ReferenceError;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// Why a text is no reference
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// What follows the `@` is no digest
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// What precedes the first slash is no host
    #[error("expected a host such as `localhost:5000` or `[::1]:5000`, got `{domain}`")]
    Domain {
        /// What came
        domain: String,
    },
    /// The repository is out of grammar
    #[error(transparent)]
    Name(#[from] NameError),
    /// The tag is out of grammar
    #[error(transparent)]
    Tag(#[from] TagError),
}

/// `host [":" port]`, where the host is a DNS name, an IPv4 or a bracketed IPv6 address
fn is_domain(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((address, rest)) = rest.split_once(']') else {
                return false;
            };
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            match rest.strip_prefix(':') {
                Some(port) => ("ipv6", Some(port)),
                None if rest.is_empty() => ("ipv6", None),
                None => return false,
            }
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    host.split('.').all(label)
        && port.is_none_or(|port| {
            port.bytes().all(|byte| byte.is_ascii_digit())
                && port.parse::<u16>().is_ok_and(|port| port > 0)
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

    #[test]
    fn references_are_printed_as_written() {
        for text in [
            "a",
            "a:b",
            "a/b:c",
            "localhost/a",
            "localhost:5000/a/b:c",
            "example.com/a",
            "127.0.0.1:5000/a",
            "[::1]:5000/a:b",
            "[2001:db8::1]/a",
            "EXAMPLE.com/a",
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), text);
            let text = format!("{text}@{DIGEST}");
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_out_of_grammar_is_refused() {
        for text in [
            "",
            ":a",
            "a:",
            "a@",
            "@",
            "a@sha256:x",
            "A",
            "a//b",
            "a/../b",
            "localhost:/a",
            "localhost:0/a",
            "localhost:70000/a",
            "localhost:+5/a",
            "-a.b/c",
            "a..b/c",
            "[::1/a",
            "[::x]/a",
            "[::1]x/a",
            "a:b:c",
            "example.com/",
            "example.com:5000",
        ] {
            // The last is a repository with a tag, as it is for docker, and only that one.
            assert_eq!(
                text.parse::<Reference>().is_ok(),
                text == "example.com:5000",
                "{text}"
            );
        }
    }

    #[test]
    fn docker_reads_short_names_as_its_own() {
        for (text, full) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("alpine:3", "docker.io/library/alpine:3"),
            ("me/app", "docker.io/me/app:latest"),
            ("index.docker.io/alpine", "docker.io/library/alpine:latest"),
            ("localhost:5000/app", "localhost:5000/app:latest"),
        ] {
            assert_eq!(
                Reference::docker_normalized(text).unwrap().to_string(),
                full
            );
        }
        let pinned = format!("alpine@{DIGEST}");
        assert_eq!(
            Reference::docker_normalized(&pinned).unwrap().to_string(),
            format!("docker.io/library/alpine@{DIGEST}")
        );
    }
    #[test]
    fn deserializing_validates() {
        let reference: Reference = serde_json::from_str("\"localhost:5000/a:b\"").unwrap();
        assert_eq!(
            serde_json::to_string(&reference).unwrap(),
            "\"localhost:5000/a:b\""
        );
        assert!(serde_json::from_str::<Reference>("\"localhost:5000/../a\"").is_err());
    }

    proptest! {
        #[test]
        fn what_parses_is_printed_as_written(text in "[a-b.:/@0-9A-]{0,16}|\\PC*") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string(), text);
            }
        }

        #[test]
        fn what_docker_reads_stays_as_it_is(
            domain in "((localhost|[a-z]{1,3}\\.[a-z]{2}|\\[::1\\])(:[1-9][0-9]{0,3})?/)?",
            name in "[a-z]{1,5}(/[a-z]{1,5}){0,2}",
            tag in "(:[a-z0-9]{1,5})?",
        ) {
            let reference = Reference::docker_normalized(&format!("{domain}{name}{tag}")).unwrap();
            prop_assert_eq!(
                Reference::docker_normalized(&reference.to_string()),
                Ok(reference)
            );
        }
    }
}
