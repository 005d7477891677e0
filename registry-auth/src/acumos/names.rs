//! How the platform names images

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use registry_core::{RepositoryName, Tag};

/// The id of a solution: a UUID in lower-case hexadecimal
///
/// Grammar: `[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`.
///
/// # Examples
///
/// ```
/// use registry_auth::acumos::SolutionId;
///
/// assert!("9d294c20-7b1f-4ab7-b8b3-03bc7f069ac1".parse::<SolutionId>().is_ok());
/// assert!("9d294c20".parse::<SolutionId>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SolutionId(Arc<str>);

/// Why a text is no solution id
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a solution id such as `9d294c20-7b1f-4ab7-b8b3-03bc7f069ac1`, got `{}`",
    text.escape_debug()
)]
pub struct SolutionIdError {
    text: String,
}

impl SolutionId {
    /// The id as text
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SolutionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SolutionId {
    type Err = SolutionIdError;

    fn from_str(text: &str) -> Result<Self, SolutionIdError> {
        let is_uuid = text.len() == UUID
            && text.bytes().enumerate().all(|(at, byte)| match at {
                8 | 13 | 18 | 23 => byte == b'-',
                _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            });
        if is_uuid {
            Ok(Self(text.into()))
        } else {
            Err(SolutionIdError {
                text: text.chars().take(64).collect(),
            })
        }
    }
}

/// An image by repository and tag, without the registry's address
///
/// The platform stores URIs with the address of whichever registry or proxy was configured at
/// that time, so the address says nothing.
///
/// # Examples
///
/// ```
/// use registry_auth::acumos::ImageName;
///
/// let uri = "nexus:8082/iris_9d294c20-7b1f-4ab7-b8b3-03bc7f069ac1:1.0.0";
/// let image = ImageName::from_uri(uri).unwrap();
/// assert_eq!(image.tag.as_str(), "1.0.0");
/// assert_eq!(image, ImageName::from_uri(&uri.replace("nexus:8082", "proxy:3128")).unwrap());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageName {
    /// The repository
    pub repository: RepositoryName,
    /// The tag
    pub tag: Tag,
}

impl ImageName {
    /// Reads the URI of a docker image artifact: everything after the first `/`
    ///
    /// `None` when that is no repository and tag; such an artifact is in no registry of ours.
    pub fn from_uri(uri: &str) -> Option<Self> {
        let (_, path) = uri.split_once('/')?;
        let (repository, tag) = path.rsplit_once(':')?;
        Some(Self {
            repository: repository.parse().ok()?,
            tag: tag.parse().ok()?,
        })
    }
}

/// The model name and solution id in a repository name, `<model>_<solution id>`
///
/// Only the last component counts; what stands before it is a prefix of the platform's choice.
/// The id is what follows the last underscore, since model names have underscores of their own.
pub(super) fn split(repository: &RepositoryName) -> Option<(&str, SolutionId)> {
    let last = repository.as_str().rsplit('/').next()?;
    let (model, id) = last.rsplit_once('_')?;
    let id = id.parse().ok()?;
    // Two underscores are a separator too, of a model whose name ends with one.
    (!model.is_empty()).then_some((model, id))
}

/// The model name that the platform makes of a solution's: lower case, without white space, cut
/// to 100 characters
pub(super) fn model_name(solution: &str) -> String {
    solution
        .chars()
        .filter(|character| !character.is_whitespace())
        .flat_map(char::to_lowercase)
        .take(MODEL_NAME)
        .collect()
}

/// Whether a tag is the one that the platform makes of a version
pub(super) fn is_tag_of(tag: &Tag, version: &str) -> bool {
    tag.as_str() == version || tag.as_str() == version.to_lowercase()
}

/// The characters of a UUID
const UUID: usize = 36;

/// The longest model name in an image name
const MODEL_NAME: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "9d294c20-7b1f-4ab7-b8b3-03bc7f069ac1";

    #[test]
    fn the_id_is_behind_the_last_underscore() {
        for (name, model) in [
            ("iris", "iris"),
            ("my_model", "my_model"),
            ("my__model", "my__model"),
            ("face_privacy_filter_detect", "face_privacy_filter_detect"),
            ("prefix/iris", "iris"),
            ("my_", "my_"),
            ("a-b.c", "a-b.c"),
        ] {
            let name: RepositoryName = format!("{name}_{ID}").parse().unwrap();
            let (found, id) = split(&name).unwrap();
            assert_eq!((found, id.as_str()), (model, ID), "{name}");
        }
        for name in [
            "iris",
            "iris_1",
            "a_b/c",
            &format!("iris-{ID}"),
            &format!("iris_{}", &ID[1..]),
        ] {
            assert!(split(&name.parse().unwrap()).is_none(), "{name}");
        }
        // Without a model name it is no name of the platform's.
        assert!(
            format!("x/{ID}")
                .parse()
                .is_ok_and(|name| split(&name).is_none())
        );
    }

    #[test]
    fn only_uuids_are_solution_ids() {
        for bad in [
            "",
            "x",
            &ID.to_uppercase(),
            &ID.replace('-', "_"),
            &format!("{ID}0"),
            &ID.replace('9', "é"),
        ] {
            assert!(bad.parse::<SolutionId>().is_err(), "{bad}");
        }
        let error = "a\n".parse::<SolutionId>().unwrap_err().to_string();
        assert!(error.ends_with("got `a\\n`"), "{error}");
    }

    #[test]
    fn the_address_of_an_artifact_does_not_matter() {
        for uri in ["h/a_b:1", "h:1/a_b:1", "acumos-proxy.ns:3128/a_b:1"] {
            let image = ImageName::from_uri(uri).unwrap();
            assert_eq!(
                (image.repository.as_str(), image.tag.as_str()),
                ("a_b", "1")
            );
        }
        for uri in [
            "",
            "a_b:1",
            "h/a_b",
            "h/A:1",
            "h/a:",
            "h/../a:1",
            "h/a:1 2",
            "h/a@sha256:00",
        ] {
            assert!(ImageName::from_uri(uri).is_none(), "{uri}");
        }
    }

    #[test]
    fn names_and_versions_are_made_lower_case() {
        assert_eq!(model_name("Face Privacy\tFilter"), "faceprivacyfilter");
        assert_eq!(model_name(&"x".repeat(120)).len(), 100);
        let tag: Tag = "1.0-rc".parse().unwrap();
        assert!(is_tag_of(&tag, "1.0-RC"));
        assert!(!is_tag_of(&tag, "1.0"));
    }
}
