//! Blobs and manifests

use registry_core::{Algorithm, Digest};
use serde_json::{Value, json};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
pub(crate) const DOCKER_FOREIGN_LAYER: &str =
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";

/// Bytes and their digest
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: String,
}

impl Blob {
    pub(crate) fn new(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self {
            digest: sha256(&bytes),
            bytes,
        }
    }

    /// The content of the empty descriptor
    pub(crate) fn empty() -> Self {
        let blob = Self::new("{}");
        // From the image specification, not from our own hash.
        assert_eq!(
            blob.digest,
            "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
        );
        blob
    }

    pub(crate) fn descriptor(&self, media_type: &str) -> Value {
        descriptor(media_type, &self.digest, self.bytes.len())
    }
}

pub(crate) fn descriptor(media_type: &str, digest: &str, size: usize) -> Value {
    json!({ "mediaType": media_type, "digest": digest, "size": size })
}

pub(crate) fn image(config: &Blob, layers: &[&Blob]) -> Value {
    let layers: Vec<Value> = layers.iter().map(|blob| blob.descriptor(LAYER)).collect();
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config.descriptor(CONFIG),
        "layers": layers,
    })
}

pub(crate) fn index(manifests: &[Value]) -> Value {
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests })
}

pub(crate) fn docker_image(config: &Blob, layers: &[&Blob]) -> Value {
    let layers: Vec<Value> = layers
        .iter()
        .map(|blob| blob.descriptor(DOCKER_LAYER))
        .collect();
    json!({
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": config.descriptor(DOCKER_CONFIG),
        "layers": layers,
    })
}

pub(crate) fn docker_list(manifests: &[Value]) -> Value {
    json!({ "schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": manifests })
}

/// JSON that no serializer writes by itself, so that bytes changed on the way show
pub(crate) fn pretty(value: &Value) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).unwrap();
    bytes.extend_from_slice(b" \n");
    bytes
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Digest::sha256(bytes).to_string()
}

pub(crate) fn sha512(bytes: &[u8]) -> String {
    Digest::of(Algorithm::Sha512, bytes).to_string()
}

/// Bytes without a pattern, always the same for one seed
pub(crate) fn noise(seed: &str, length: usize) -> Vec<u8> {
    let mut state = seed
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |state, byte| {
            (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
        .max(1);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
