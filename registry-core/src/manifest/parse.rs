//! From bytes to a manifest, within limits

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

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

    // The parser skips unknown values without a look at their encoding.
    let text = str::from_utf8(&raw).map_err(|error| ManifestError::Json(error.to_string()))?;
    // What is wrong beyond JSON is kept beside the parser, whose errors are texts.
    let mut problem = None;
    let mut json = serde_json::Deserializer::from_str(text);
    let parsed = (&mut json)
        .deserialize_map(DocumentVisitor {
            problem: &mut problem,
            max_descriptors: limits.max_descriptors,
        })
        .and_then(|document| json.end().map(|()| document));
    if let Some(problem) = problem {
        return Err(problem);
    }
    let document = parsed.map_err(|error| {
        // The parser repeats what it stumbles over, be it a text of megabytes.
        ManifestError::Json(shortened(&error.to_string()))
    })?;
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
    schema_version: Option<u64>,
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
        match self.schema_version {
            Some(2) => {}
            Some(1) => return Err(ManifestError::Schema1),
            found => {
                return Err(ManifestError::SchemaVersion {
                    found: found.map_or_else(|| "none".to_owned(), |found| found.to_string()),
                });
            }
        }
        if self.manifests.is_some() && (self.config.is_some() || self.layers.is_some()) {
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
        while let Some(key) = map.next_key_seed(KeySeed {
            known: DOCUMENT_KEYS,
            seen: &mut seen,
            problem: self.problem,
        })? {
            let Some(known) = key else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let descriptor = DescriptorSeed {
                problem: self.problem,
            };
            match known {
                "schemaVersion" => {
                    let SchemaVersion(version) = map.next_value()?;
                    document.schema_version = Some(version);
                }
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

/// A key, as the known one that it is if it is one; each may come once
///
/// Go's parser ignores case and takes the last of several, so that two clients would see two
/// different manifests under one digest.
struct KeySeed<'a> {
    known: &'static [&'static str],
    seen: &'a mut Vec<&'static str>,
    problem: &'a mut Option<ManifestError>,
}

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = Option<&'static str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed<'_> {
    type Value = Option<&'static str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Self::Value, E> {
        let Some(known) = self.known.iter().find(|known| same_to_go(key, known)) else {
            return Ok(None);
        };
        if key != *known {
            *self.problem = Some(ManifestError::CaseVariant {
                expected: known,
                found: shortened(key),
            });
            return Err(E::custom("a key in another case"));
        }
        if self.seen.contains(known) {
            return Err(E::duplicate_field(known));
        }
        self.seen.push(known);
        Ok(Some(known))
    }
}

/// Whether Go's parser takes the one for the other; `known` is ASCII
fn same_to_go(key: &str, known: &str) -> bool {
    key.chars()
        .map(|character| match character {
            // The long s and the Kelvin sign are letters of the alphabet there.
            '\u{17f}' => 's',
            '\u{212a}' => 'k',
            other => other.to_ascii_lowercase(),
        })
        .eq(known
            .chars()
            .map(|character| character.to_ascii_lowercase()))
}

/// A number alone: of anything else not even a part is kept
struct SchemaVersion(u64);

impl<'de> Deserialize<'de> for SchemaVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;

        impl Visitor<'_> for Number {
            type Value = SchemaVersion;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the number 2 as `schemaVersion`")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
                Ok(SchemaVersion(number))
            }
        }

        deserializer.deserialize_u64(Number)
    }
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
        while let Some(key) = map.next_key_seed(KeySeed {
            known: DESCRIPTOR_KEYS,
            seen: &mut seen,
            problem: self.problem,
        })? {
            match key {
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
                Some("size") => {
                    let bytes = map.next_value::<u64>()?;
                    // Others read it into a signed number, and would refuse the whole document.
                    if i64::try_from(bytes).is_err() {
                        return Err(A::Error::invalid_value(
                            Unexpected::Unsigned(bytes),
                            &"a `size` that fits 63 bits",
                        ));
                    }
                    size = Some(bytes);
                }
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
