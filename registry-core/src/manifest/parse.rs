//! From bytes to a manifest, within limits

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{
    Dependency, Descriptor, DescriptorDigest, Limits, Manifest, ManifestError, ManifestKind, Role,
};
use crate::digest::{Digest, DigestError, shortened};
use crate::media_type::MediaType;

pub(super) fn parse(
    raw: Bytes,
    content_type: Option<&MediaType>,
    limits: &Limits,
) -> Result<Manifest, ManifestError> {
    if raw.len() > limits.max_bytes {
        return Err(ManifestError::TooLarge {
            limit: limits.max_bytes,
            got: raw.len(),
        });
    }
    if content_type.is_some_and(|sent| {
        *sent == MediaType::DOCKER_SCHEMA1 || *sent == MediaType::DOCKER_SCHEMA1_SIGNED
    }) {
        return Err(ManifestError::Schema1);
    }
    if depth(&raw) > limits.max_depth {
        return Err(ManifestError::TooDeep {
            limit: limits.max_depth,
        });
    }

    // What is wrong beyond JSON is kept beside the parser, whose errors are texts.
    let mut problem = None;
    let mut json = serde_json::Deserializer::from_slice(&raw);
    let parsed = (&mut json)
        .deserialize_map(DocumentVisitor {
            problem: &mut problem,
            max_descriptors: limits.max_descriptors,
        })
        .and_then(|document| json.end().map(|()| document));
    if let Some(problem) = problem {
        return Err(problem);
    }
    let document = parsed.map_err(|error| ManifestError::Json(error.to_string()))?;
    let kind = document.kind(content_type)?;
    if let Some(sent) = content_type
        && *sent != kind.media_type()
    {
        return Err(ManifestError::MediaTypeMismatch {
            sent: sent.to_string(),
            found: kind.media_type().to_string(),
        });
    }

    let missing = |property| ManifestError::Missing {
        property,
        media_type: kind.media_type().to_string(),
    };
    let dependencies = if kind.is_index() {
        let entries = document.manifests.ok_or_else(|| missing("manifests"))?;
        entries
            .into_iter()
            .map(|descriptor| Dependency {
                role: Role::Manifest,
                descriptor,
            })
            .collect()
    } else {
        let config = document.config.ok_or_else(|| missing("config"))?;
        std::iter::once(Dependency {
            role: Role::Config,
            descriptor: config,
        })
        .chain(
            // Go writes an empty list as null, and leaves some out.
            document
                .layers
                .unwrap_or_default()
                .into_iter()
                .map(|descriptor| Dependency {
                    role: Role::Layer,
                    descriptor,
                }),
        )
        .collect()
    };
    Ok(Manifest {
        raw,
        kind,
        dependencies,
        subject: document.subject,
        artifact_type: document.artifact_type.filter(|text| !text.is_empty()),
        annotations: document.annotations,
    })
}

/// How deep objects and lists nest, whether or not it is JSON
fn depth(raw: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0_usize);
    let mut bytes = raw.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'\\' => {
                            bytes.next();
                        }
                        b'"' => break,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    deepest
}

/// The top level of a manifest or index
#[derive(Default)]
struct Document {
    schema_version: Option<serde_json::Value>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    annotations: BTreeMap<String, String>,
}

impl Document {
    fn kind(&self, content_type: Option<&MediaType>) -> Result<ManifestKind, ManifestError> {
        match &self.schema_version {
            Some(version) if version.as_u64() == Some(2) => {}
            Some(version) if version.as_u64() == Some(1) => return Err(ManifestError::Schema1),
            found => {
                return Err(ManifestError::SchemaVersion {
                    found: match found {
                        Some(found) => shortened(&found.to_string()),
                        None => "none".to_owned(),
                    },
                });
            }
        }
        if self.layers.is_some() && self.manifests.is_some() {
            return Err(ManifestError::Ambiguous);
        }
        let kinds = [
            ManifestKind::DockerManifest,
            ManifestKind::DockerManifestList,
            ManifestKind::OciIndex,
            ManifestKind::OciManifest,
        ];
        let of_type = |text: &str| {
            kinds
                .into_iter()
                .find(|kind| kind.media_type().as_str() == text)
        };
        if let Some(text) = self.media_type.as_deref().filter(|text| !text.is_empty()) {
            return of_type(text).ok_or_else(|| ManifestError::UnknownMediaType {
                media_type: shortened(text),
            });
        }
        // Docker's types must be in the document: they could not be told from OCI's later.
        match content_type.map(|sent| (sent, of_type(sent.as_str()))) {
            Some((sent, None)) => {
                return Err(ManifestError::UnknownMediaType {
                    media_type: sent.to_string(),
                });
            }
            Some((sent, Some(ManifestKind::DockerManifest | ManifestKind::DockerManifestList))) => {
                return Err(ManifestError::Missing {
                    property: "mediaType",
                    media_type: sent.to_string(),
                });
            }
            _ => {}
        }
        Ok(if self.manifests.is_some() {
            ManifestKind::OciIndex
        } else {
            ManifestKind::OciManifest
        })
    }
}

/// The keys of the top level
const DOCUMENT_KEYS: &[&str] = &[
    "annotations",
    "artifactType",
    "config",
    "layers",
    "manifests",
    "mediaType",
    "schemaVersion",
    "subject",
];

/// The keys of a descriptor that count here
const DESCRIPTOR_KEYS: &[&str] = &["digest", "mediaType", "size", "urls"];

struct DocumentVisitor<'p> {
    problem: &'p mut Option<ManifestError>,
    max_descriptors: usize,
}

impl<'de> Visitor<'de> for DocumentVisitor<'_> {
    type Value = Document;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with the properties of a manifest")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut document = Document::default();
        let mut seen = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            let Some(known) = known_key(&key, DOCUMENT_KEYS, &mut seen, self.problem)? else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let descriptor = DescriptorSeed {
                problem: self.problem,
            };
            match known {
                "schemaVersion" => document.schema_version = Some(map.next_value()?),
                "mediaType" => document.media_type = map.next_value()?,
                "artifactType" => document.artifact_type = map.next_value()?,
                "annotations" => {
                    document.annotations = map
                        .next_value::<Option<BTreeMap<String, String>>>()?
                        .unwrap_or_default();
                }
                "config" => document.config = map.next_value_seed(OptionSeed(descriptor))?,
                "subject" => document.subject = map.next_value_seed(OptionSeed(descriptor))?,
                list => {
                    let found = map.next_value_seed(OptionSeed(ListSeed {
                        descriptor,
                        limit: self.max_descriptors,
                    }))?;
                    if list == "layers" {
                        document.layers = found;
                    } else {
                        document.manifests = found;
                    }
                }
            }
        }
        Ok(document)
    }
}

/// The known key that this is, if it is one; each may come once
///
/// Go's parser ignores case and takes the last of several, so that two clients would see two
/// different manifests under one digest.
fn known_key<E: Error>(
    key: &str,
    known: &'static [&'static str],
    seen: &mut Vec<&'static str>,
    problem: &mut Option<ManifestError>,
) -> Result<Option<&'static str>, E> {
    if let Some(exact) = known.iter().find(|known| **known == key) {
        if seen.contains(exact) {
            return Err(E::duplicate_field(exact));
        }
        seen.push(exact);
        return Ok(Some(exact));
    }
    // As Go folds: the long s and the Kelvin sign are letters of the alphabet there.
    let fold = |text: &str| -> String {
        text.chars()
            .flat_map(char::to_uppercase)
            .flat_map(char::to_lowercase)
            .collect()
    };
    let folded = fold(key);
    if let Some(expected) = known.iter().find(|known| fold(known) == folded) {
        let found = shortened(key);
        let error = E::custom("a key in another case");
        *problem = Some(ManifestError::CaseVariant { expected, found });
        return Err(error);
    }
    Ok(None)
}

/// A value that may be null
struct OptionSeed<S>(S);

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for OptionSeed<S> {
    type Value = Option<S::Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de, S: DeserializeSeed<'de>> Visitor<'de> for OptionSeed<S> {
    type Value = Option<S::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value or null")
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        self.0.deserialize(deserializer).map(Some)
    }
}

/// A list of descriptors
struct ListSeed<'p> {
    descriptor: DescriptorSeed<'p>,
    limit: usize,
}

impl<'de> DeserializeSeed<'de> for ListSeed<'_> {
    type Value = Vec<Descriptor>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for ListSeed<'_> {
    type Value = Vec<Descriptor>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of descriptors")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let problem = self.descriptor.problem;
        let mut descriptors = Vec::new();
        while let Some(descriptor) = list.next_element_seed(DescriptorSeed {
            problem: &mut *problem,
        })? {
            descriptors.push(descriptor);
            if descriptors.len() > self.limit {
                *problem = Some(ManifestError::TooMany {
                    limit: self.limit,
                    got: descriptors.len(),
                });
                return Err(A::Error::custom("too many descriptors"));
            }
        }
        Ok(descriptors)
    }
}

/// One descriptor
struct DescriptorSeed<'p> {
    problem: &'p mut Option<ManifestError>,
}

impl<'de> DeserializeSeed<'de> for DescriptorSeed<'_> {
    type Value = Descriptor;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for DescriptorSeed<'_> {
    type Value = Descriptor;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a descriptor: an object with `mediaType`, `digest` and `size`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut media_type, mut digest, mut size) = (None, None, None);
        let mut urls = Vec::new();
        let mut seen = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            match known_key(&key, DESCRIPTOR_KEYS, &mut seen, self.problem)? {
                Some("mediaType") => media_type = Some(map.next_value::<String>()?),
                Some("digest") => {
                    let text: String = map.next_value()?;
                    digest = Some(match Digest::try_from(text.as_str()) {
                        Ok(digest) => DescriptorDigest::Known(digest),
                        Err(DigestError::UnsupportedAlgorithm { .. }) => {
                            DescriptorDigest::Other(text)
                        }
                        Err(error) => {
                            let custom = A::Error::custom(&error);
                            *self.problem = Some(ManifestError::Digest(error));
                            return Err(custom);
                        }
                    });
                }
                Some("size") => size = Some(map.next_value::<u64>()?),
                Some(_) => urls = map.next_value::<Option<_>>()?.unwrap_or_default(),
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Descriptor {
            media_type: media_type.ok_or_else(|| A::Error::missing_field("mediaType"))?,
            digest: digest.ok_or_else(|| A::Error::missing_field("digest"))?,
            size: size.ok_or_else(|| A::Error::missing_field("size"))?,
            urls,
        })
    }
}
