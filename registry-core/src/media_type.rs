//! Media types of manifests and of what they refer to

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::shortened;

/// A media type without parameters, such as `application/vnd.oci.image.manifest.v1+json`
///
/// Grammar: RFC 6838, section 4.2. Compared to the letter: clients do so too.
///
/// # Examples
///
/// ```
/// use registry_core::MediaType;
///
/// let found = MediaType::from_content_type("application/vnd.oci.image.index.v1+json; charset=utf-8")?;
/// assert_eq!(found, MediaType::OCI_INDEX);
/// # Ok::<(), registry_core::media_type::MediaTypeError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MediaType(Cow<'static, str>);

impl MediaType {
    /// Docker image configuration
    pub const DOCKER_CONFIG: Self = Self::known("application/vnd.docker.container.image.v1+json");
    /// Docker layer that is fetched from elsewhere and never pushed
    pub const DOCKER_FOREIGN_LAYER: Self =
        Self::known("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
    /// Docker layer
    pub const DOCKER_LAYER: Self = Self::known("application/vnd.docker.image.rootfs.diff.tar.gzip");
    /// Docker image manifest, version 2, schema 2
    pub const DOCKER_MANIFEST: Self =
        Self::known("application/vnd.docker.distribution.manifest.v2+json");
    /// Docker manifest list
    pub const DOCKER_MANIFEST_LIST: Self =
        Self::known("application/vnd.docker.distribution.manifest.list.v2+json");
    /// Docker image manifest, schema 1, which is dead
    pub const DOCKER_SCHEMA1: Self =
        Self::known("application/vnd.docker.distribution.manifest.v1+json");
    /// Signed Docker image manifest, schema 1, which is dead
    pub const DOCKER_SCHEMA1_SIGNED: Self =
        Self::known("application/vnd.docker.distribution.manifest.v1+prettyjws");
    /// OCI image configuration
    pub const OCI_CONFIG: Self = Self::known("application/vnd.oci.image.config.v1+json");
    /// OCI empty descriptor
    pub const OCI_EMPTY: Self = Self::known("application/vnd.oci.empty.v1+json");
    /// OCI image index
    pub const OCI_INDEX: Self = Self::known("application/vnd.oci.image.index.v1+json");
    /// OCI layer
    pub const OCI_LAYER_TAR: Self = Self::known("application/vnd.oci.image.layer.v1.tar");
    /// OCI layer, compressed with gzip
    pub const OCI_LAYER_TAR_GZIP: Self = Self::known("application/vnd.oci.image.layer.v1.tar+gzip");
    /// OCI image manifest
    pub const OCI_MANIFEST: Self = Self::known("application/vnd.oci.image.manifest.v1+json");

    /// Bytes of which nothing is known, as blobs are served
    pub const OCTET_STREAM: Self = Self::known("application/octet-stream");

    const fn known(text: &'static str) -> Self {
        Self(Cow::Borrowed(text))
    }

    /// Reads a `Content-Type` header; its parameters are dropped (distribution specification,
    /// "Pushing Manifests")
    ///
    /// # Errors
    ///
    /// [`MediaTypeError`] when what stands before the parameters is no media type.
    pub fn from_content_type(header: &str) -> Result<Self, MediaTypeError> {
        header.split(';').next().unwrap_or_default().trim().parse()
    }

    /// The media type as text
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether content of this type is fetched from elsewhere and need not be in the registry
    pub fn is_nondistributable(&self) -> bool {
        self.0
            .starts_with("application/vnd.oci.image.layer.nondistributable.")
            || *self == Self::DOCKER_FOREIGN_LAYER
    }
}

/// What most manifests, and what they refer to, have
static COMMON: [MediaType; 8] = [
    MediaType::OCI_MANIFEST,
    MediaType::OCI_INDEX,
    MediaType::OCI_LAYER_TAR_GZIP,
    MediaType::OCI_CONFIG,
    MediaType::DOCKER_MANIFEST,
    MediaType::DOCKER_MANIFEST_LIST,
    MediaType::DOCKER_LAYER,
    MediaType::DOCKER_CONFIG,
];

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for MediaType {
    type Err = MediaTypeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((kind, subtype)) if is_restricted_name(kind) && is_restricted_name(subtype) => {
                // Of those that most are, all share one text.
                let common = COMMON.iter().find(|common| common.as_str() == text);
                Ok(common
                    .cloned()
                    .unwrap_or_else(|| Self(Cow::Owned(text.to_owned()))))
            }
            _ => Err(MediaTypeError {
                text: shortened(text),
            }),
        }
    }
}

impl TryFrom<&str> for MediaType {
    type Error = MediaTypeError;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl Serialize for MediaType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for MediaType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A text that is no media type
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a media type such as `application/vnd.oci.image.manifest.v1+json`, got `{text}`")]
pub struct MediaTypeError {
    text: String,
}

/// `restricted-name` of RFC 6838, section 4.2
fn is_restricted_name(text: &str) -> bool {
    text.len() <= 127
        && text
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric())
        && text.bytes().all(|byte| {
            byte.is_ascii_alphanumeric()
                || matches!(
                    byte,
                    b'!' | b'#' | b'$' | b'&' | b'-' | b'^' | b'_' | b'.' | b'+'
                )
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn media_types_follow_the_grammar() {
        assert_eq!(
            MediaType::from_content_type(" application/json;charset=utf-8")
                .unwrap()
                .as_str(),
            "application/json"
        );
        for bad in [
            "", "/", "a", "a/", "/b", "a/b/c", "a /b", "a/b c", "*/*", "é/b",
        ] {
            assert!(MediaType::try_from(bad).is_err(), "{bad}");
        }
        assert!(MediaType::try_from(format!("a/{}", "b".repeat(128)).as_str()).is_err());
    }

    #[test]
    fn foreign_layers_need_not_be_here() {
        for text in [
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        ] {
            assert!(MediaType::try_from(text).unwrap().is_nondistributable());
        }
        assert!(!MediaType::OCI_LAYER_TAR_GZIP.is_nondistributable());
    }
    proptest! {
        #[test]
        fn parameters_are_dropped(
            kind in "[a-zA-Z0-9][a-z0-9!#$&^_.+-]{0,126}",
            subtype in "[a-zA-Z0-9][a-z0-9!#$&^_.+-]{0,126}",
            parameters in "( *;\\PC*)?",
        ) {
            let text = format!("{kind}/{subtype}");
            let found = MediaType::from_content_type(&format!(" {text}{parameters}")).unwrap();
            prop_assert_eq!(found.as_str(), &text);
            prop_assert_eq!(text.parse(), Ok(found));
        }

        #[test]
        fn what_parses_is_printed_as_written(text in "[a*/;. ]{0,6}|\\PC*") {
            if let Ok(found) = text.parse::<MediaType>() {
                prop_assert_eq!(found.to_string(), text);
            }
        }
    }
}
