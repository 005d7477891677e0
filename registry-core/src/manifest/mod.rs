//! Manifests and indexes, of OCI and of Docker, in their exact bytes

mod parse;

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use oci_spec::image::{ImageIndex, ImageManifest};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::digest::{Algorithm, Digest, DigestError};
use crate::media_type::MediaType;

/// A manifest or index: the bytes as they were pushed, and what a registry must know of them
///
/// The bytes are what is hashed, stored and served; they are never written anew, for that
/// would change the digest (image specification, "Extensibility"). [`Manifest::view`] reads
/// them into `oci-spec`'s types for whoever wants to see everything.
///
/// # Examples
///
/// ```
/// use registry_core::manifest::Limits;
/// use registry_core::{Manifest, ManifestKind};
///
/// let raw = br#"{
///     "schemaVersion": 2,
///     "mediaType": "application/vnd.oci.image.manifest.v1+json",
///     "config": {
///         "mediaType": "application/vnd.oci.empty.v1+json",
///         "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
///         "size": 2
///     },
///     "layers": []
/// }"#;
/// let manifest = Manifest::parse(raw.to_vec().into(), None, &Limits::default())?;
/// assert_eq!(manifest.kind(), ManifestKind::OciManifest);
/// assert_eq!(manifest.dependencies().len(), 1);
/// assert_eq!(manifest.raw().as_ref(), raw);
/// # Ok::<(), registry_core::ManifestError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Manifest {
    raw: Bytes,
    kind: ManifestKind,
    dependencies: Vec<Dependency>,
    subject: Option<Descriptor>,
    artifact_type: Option<String>,
    annotations: BTreeMap<String, String>,
}

/// The four kinds of manifest that are taken
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ManifestKind {
    /// Docker image manifest, version 2, schema 2
    DockerManifest,
    /// Docker manifest list
    DockerManifestList,
    /// OCI image index
    OciIndex,
    /// OCI image manifest, of images and artifacts
    OciManifest,
}

impl ManifestKind {
    /// Its media type
    pub fn media_type(self) -> MediaType {
        match self {
            Self::DockerManifest => MediaType::DOCKER_MANIFEST,
            Self::DockerManifestList => MediaType::DOCKER_MANIFEST_LIST,
            Self::OciIndex => MediaType::OCI_INDEX,
            Self::OciManifest => MediaType::OCI_MANIFEST,
        }
    }

    /// Whether it lists other manifests
    pub fn is_index(self) -> bool {
        matches!(self, Self::DockerManifestList | Self::OciIndex)
    }
}

/// How large a manifest may be
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// In bytes; 4 MiB by default, which the distribution specification lets clients rely on
    pub max_bytes: usize,
    /// How deep objects and lists may nest; 64 by default, of which no known manifest needs 10
    pub max_depth: usize,
    /// How many descriptors it may have; 10,000 by default, each costs a look into the storage
    pub max_descriptors: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_bytes: 4 * 1024 * 1024,
            max_depth: 64,
            max_descriptors: 10_000,
        }
    }
}

/// What a manifest says of other content (image specification, "Descriptor")
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The type of the content, as it is written
    pub media_type: String,
    /// Its digest
    pub digest: DescriptorDigest,
    /// Its size in bytes
    pub size: u64,
    /// Where else it can be had
    pub urls: Vec<String>,
}

/// The digest in a descriptor, which may be of an algorithm that the registry does not know
/// (image specification, "Digests")
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DescriptorDigest {
    /// One that the registry can compute
    Known(Digest),
    /// One in grammar, of another algorithm
    Other(String),
}

impl fmt::Display for DescriptorDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(digest) => digest.fmt(f),
            Self::Other(text) => f.write_str(text),
        }
    }
}

/// Content that a manifest is made of
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dependency {
    /// What it is to the manifest
    pub role: Role,
    /// What the manifest says of it
    pub descriptor: Descriptor,
}

impl Dependency {
    /// Whether it must be in the repository before the manifest is
    ///
    /// Not so for layers that are not distributed with the image, which clients fetch from
    /// elsewhere and never push.
    pub fn must_exist(&self) -> bool {
        self.role != Role::Layer
            || !MediaType::try_from(self.descriptor.media_type.as_str())
                .is_ok_and(|media_type| media_type.is_nondistributable())
    }
}

/// What content is to its manifest
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// The configuration
    Config,
    /// A layer
    Layer,
    /// An entry of an index
    Manifest,
}

/// A manifest in `oci-spec`'s types
///
/// Good for looking, not for writing: those types drop what they do not know.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum View {
    /// Of an index or manifest list
    Index(Box<ImageIndex>),
    /// Of an image manifest
    Manifest(Box<ImageManifest>),
}

/// Why bytes are no manifest that the registry takes
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Both an image's properties and an index's
    #[error(
        "expected either `config` and `layers` or `manifests`, found both; an image and an index are two documents"
    )]
    Ambiguous,
    /// A key that some parsers would take for a known one
    #[error(
        "expected the key `{expected}`, found `{found}`; some clients would take one for the other"
    )]
    CaseVariant {
        /// The key as the specification writes it
        expected: &'static str,
        /// The key that came
        found: String,
    },
    /// A descriptor's digest is out of grammar
    #[error("descriptor: {0}")]
    Digest(DigestError),
    /// It is not JSON, or not of the shape that its type has
    #[error("expected a manifest as JSON: {0}")]
    Json(String),
    /// The announced type is not that of the document
    #[error("sent as `{sent}`, but the document is `{found}`; send both the same")]
    MediaTypeMismatch {
        /// The `Content-Type`
        sent: String,
        /// What the document is
        found: String,
    },
    /// A required property is missing
    #[error("expected `{property}` in a document of type `{media_type}`, found none")]
    Missing {
        /// The property
        property: &'static str,
        /// The document's type
        media_type: String,
    },
    /// Docker schema 1
    #[error(
        "docker manifests of schema 1 are no longer taken; push with a client that writes schema 2 or OCI"
    )]
    Schema1,
    /// Neither 1 nor 2
    #[error("expected `schemaVersion` 2, found {found}")]
    SchemaVersion {
        /// What came
        found: String,
    },
    /// It nests too deep
    #[error("expected JSON that nests at most {limit} deep; this is deeper")]
    TooDeep {
        /// The limit
        limit: usize,
    },
    /// It is too large (413)
    #[error("expected at most {limit} bytes, got {got} or more")]
    TooLarge {
        /// The limit
        limit: usize,
        /// How many bytes there are
        got: usize,
    },
    /// It has too many descriptors
    #[error("expected at most {limit} descriptors, found {got}; split the document")]
    TooMany {
        /// The limit
        limit: usize,
        /// How many there are
        got: usize,
    },
    /// A type that is no manifest's
    #[error(
        "expected a manifest of a known type, such as `application/vnd.oci.image.manifest.v1+json`, got `{media_type}`"
    )]
    UnknownMediaType {
        /// What came
        media_type: String,
    },
}

impl Manifest {
    /// Reads a manifest, within limits
    ///
    /// `content_type` is what the client announced. The type is that of the document itself:
    /// its `mediaType`, or where OCI leaves that out, its shape, as distribution tells them
    /// apart when it reads them back.
    ///
    /// # Errors
    ///
    /// [`ManifestError`]. Properties that are not known are none (image specification,
    /// "Extensibility").
    pub fn parse(
        raw: Bytes,
        content_type: Option<&MediaType>,
        limits: &Limits,
    ) -> Result<Self, ManifestError> {
        parse::parse(raw, content_type, limits)
    }

    /// The media type of stored bytes, from their top level alone
    ///
    /// `None` when they are no manifest. Cheaper than parsing, and more lenient: what is
    /// stored was taken once, if only by distribution.
    pub fn detect_media_type(raw: &[u8]) -> Option<MediaType> {
        #[derive(Deserialize)]
        struct Head {
            #[serde(rename = "schemaVersion")]
            schema_version: Option<u64>,
            #[serde(rename = "mediaType")]
            media_type: Option<String>,
            manifests: Option<IgnoredAny>,
        }

        let head: Head = serde_json::from_slice(raw).ok()?;
        if let Some(media_type) = head.media_type.filter(|text| !text.is_empty()) {
            return media_type.parse().ok();
        }
        Some(match (head.schema_version, head.manifests) {
            (Some(1), _) => MediaType::DOCKER_SCHEMA1_SIGNED,
            (_, Some(_)) => MediaType::OCI_INDEX,
            (_, None) => MediaType::OCI_MANIFEST,
        })
    }

    /// The bytes as they came
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// Which kind it is
    pub fn kind(&self) -> ManifestKind {
        self.kind
    }

    /// Its media type
    pub fn media_type(&self) -> MediaType {
        self.kind.media_type()
    }

    /// The digest of its bytes
    pub fn digest(&self, algorithm: Algorithm) -> Digest {
        Digest::of(algorithm, &self.raw)
    }

    /// What it is made of: configuration and layers, or the entries of an index, as written
    pub fn dependencies(&self) -> &[Dependency] {
        &self.dependencies
    }

    /// The manifest that it is about; a weak link, for it need not exist
    pub fn subject(&self) -> Option<&Descriptor> {
        self.subject.as_ref()
    }

    /// Its artifact type as referrers lists give it: its own, or else for an image manifest
    /// the type of its configuration (distribution specification, "Listing Referrers")
    pub fn artifact_type(&self) -> Option<&str> {
        self.artifact_type.as_deref().or_else(|| {
            self.dependencies
                .first()
                .filter(|dependency| dependency.role == Role::Config)
                .map(|dependency| dependency.descriptor.media_type.as_str())
        })
    }

    /// Its annotations
    pub fn annotations(&self) -> &BTreeMap<String, String> {
        &self.annotations
    }

    /// Everything, in `oci-spec`'s types
    ///
    /// # Errors
    ///
    /// [`ManifestError::Json`] where those types are stricter than a registry may be.
    pub fn view(&self) -> Result<View, ManifestError> {
        let json = |error: serde_json::Error| ManifestError::Json(error.to_string());
        Ok(if self.kind.is_index() {
            View::Index(Box::new(serde_json::from_slice(&self.raw).map_err(json)?))
        } else {
            View::Manifest(Box::new(serde_json::from_slice(&self.raw).map_err(json)?))
        })
    }
}

#[cfg(test)]
mod tests;
