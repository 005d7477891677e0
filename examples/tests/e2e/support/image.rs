//! Image content that is the same in every run

use std::fs;
use std::path::{Path, PathBuf};

use registry_core::{Digest, Hasher, MediaType};

/// A small generator of bytes that no compression shortens (splitmix64)
pub(crate) struct Noise(u64);

impl Noise {
    /// The bytes of a seed
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// The next `length` bytes
    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}

/// Digest and size of something in a layout
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// A folder in OCI image layout
///
/// `v1` is an image for linux/amd64, `multi` an index of it and one for linux/arm64.
pub(crate) struct Layout {
    pub(crate) path: PathBuf,
    pub(crate) amd64: Stored,
    pub(crate) arm64: Stored,
    pub(crate) index: Stored,
    /// The uncompressed layers of `v1`
    pub(crate) layers: Vec<Stored>,
}

impl Layout {
    /// Writes a layout; each image has a layer of about each size of `layers`
    pub(crate) fn write(path: &Path, seed: u64, layers: &[u64]) -> Self {
        fs::create_dir_all(path.join("blobs/sha256")).expect("a folder");
        let (amd64, amd64_layers) = write_image(path, seed, "amd64", layers);
        // The second platform is always small: a large layer is needed once.
        let (arm64, _) = write_image(path, seed + 1, "arm64", &[4_000, 12_000]);
        let index = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{},{}]}}"#,
            MediaType::OCI_INDEX,
            descriptor(
                &MediaType::OCI_MANIFEST,
                &amd64,
                r#","platform":{"architecture":"amd64","os":"linux"}"#
            ),
            descriptor(
                &MediaType::OCI_MANIFEST,
                &arm64,
                r#","platform":{"architecture":"arm64","os":"linux"}"#
            ),
        );
        let index = write_blob(path, index.as_bytes());
        let named = |name: &str| {
            format!(r#","annotations":{{"org.opencontainers.image.ref.name":"{name}"}}"#)
        };
        let entry = format!(
            r#"{{"schemaVersion":2,"manifests":[{},{}]}}"#,
            descriptor(&MediaType::OCI_MANIFEST, &amd64, &named("v1")),
            descriptor(&MediaType::OCI_INDEX, &index, &named("multi")),
        );
        fs::write(path.join("index.json"), entry).expect("written");
        fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("written");
        Self {
            path: path.to_owned(),
            amd64,
            arm64,
            index,
            layers: amd64_layers,
        }
    }

    /// What skopeo calls an image in this layout
    pub(crate) fn reference(&self, name: &str) -> String {
        format!("oci:{}:{name}", self.path.display())
    }

    /// The file of a blob
    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.path.join("blobs/sha256").join(digest.hex())
    }
}

/// Many small images in one folder in OCI image layout, each with the tag `i<number>`
pub(crate) struct Family {
    path: PathBuf,
    /// The manifest of each
    pub(crate) images: Vec<Stored>,
}

impl Family {
    /// Writes `count` images: a base that a third of them share, and a layer of their own
    pub(crate) fn write(path: &Path, seed: u64, count: usize) -> Self {
        fs::create_dir_all(path.join("blobs/sha256")).expect("a folder");
        let bases: Vec<Stored> = (0..3)
            .map(|base| write_layer(path, seed + base, "base", 150_000))
            .collect();
        let images: Vec<Stored> = (0..count)
            .map(|number| {
                let own = seed + 3 + number as u64;
                let own = write_layer(path, own, &format!("own-{number}"), 20_000);
                write_manifest(path, "amd64", &[bases[number % 3].clone(), own])
            })
            .collect();
        let entries: Vec<String> = images
            .iter()
            .enumerate()
            .map(|(number, image)| {
                let named = format!(
                    r#","annotations":{{"org.opencontainers.image.ref.name":"i{number}"}}"#
                );
                descriptor(&MediaType::OCI_MANIFEST, image, &named)
            })
            .collect();
        let entry = format!(
            r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
            entries.join(",")
        );
        fs::write(path.join("index.json"), entry).expect("written");
        fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("written");
        Self {
            path: path.to_owned(),
            images,
        }
    }

    /// What skopeo and podman call an image of it
    pub(crate) fn reference(&self, number: usize) -> String {
        format!("oci:{}:i{number}", self.path.display())
    }
}

/// A descriptor in JSON, with `more` before its end
pub(crate) fn descriptor(media_type: &MediaType, stored: &Stored, more: &str) -> String {
    format!(
        r#"{{"mediaType":"{media_type}","digest":"{}","size":{}{more}}}"#,
        stored.digest, stored.size
    )
}

/// The digest of a file, read in pieces
pub(crate) fn digest_of_file(path: &Path) -> Digest {
    use std::io::Read;

    let mut file = fs::File::open(path)
        .unwrap_or_else(|error| panic!("cannot open {}: {error}", path.display()));
    let mut hasher = Hasher::new(registry_core::Algorithm::Sha256);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).expect("readable") {
            0 => return hasher.finish(),
            count => hasher.update(&buffer[..count]),
        }
    }
}

fn write_image(
    path: &Path,
    seed: u64,
    architecture: &str,
    layers: &[u64],
) -> (Stored, Vec<Stored>) {
    let layers: Vec<Stored> = (0u64..)
        .zip(layers)
        .map(|(number, size)| {
            write_layer(path, seed * 100 + number, &format!("file-{number}"), *size)
        })
        .collect();
    let manifest = write_manifest(path, architecture, &layers);
    (manifest, layers)
}

fn write_manifest(path: &Path, architecture: &str, layers: &[Stored]) -> Stored {
    let diff_ids: Vec<String> = layers
        .iter()
        .map(|layer| format!(r#""{}""#, layer.digest))
        .collect();
    let config = format!(
        r#"{{"created":"2026-01-01T00:00:00Z","architecture":"{architecture}","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        diff_ids.join(",")
    );
    let config = write_blob(path, config.as_bytes());
    let descriptors: Vec<String> = layers
        .iter()
        .map(|layer| descriptor(&MediaType::OCI_LAYER_TAR, layer, ""))
        .collect();
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{}]}}"#,
        MediaType::OCI_MANIFEST,
        descriptor(&MediaType::OCI_CONFIG, &config, ""),
        descriptors.join(",")
    );
    write_blob(path, manifest.as_bytes())
}

fn write_blob(path: &Path, content: &[u8]) -> Stored {
    let digest = Digest::sha256(content);
    fs::write(path.join("blobs/sha256").join(digest.hex()), content).expect("written");
    Stored {
        digest,
        size: content.len() as u64,
    }
}

/// A tar archive with one file of noise, written and hashed in pieces
fn write_layer(path: &Path, seed: u64, name: &str, size: u64) -> Stored {
    use std::io::Write;

    let blobs = path.join("blobs/sha256");
    let part = blobs.join(format!("part-{seed}"));
    let mut file = fs::File::create(&part).expect("a file");
    let mut hasher = Hasher::new(registry_core::Algorithm::Sha256);
    let mut total = 0;
    let mut put = |bytes: &[u8]| {
        hasher.update(bytes);
        file.write_all(bytes).expect("written");
        total += bytes.len() as u64;
    };
    put(&tar_header(name, size));
    // One mebibyte of noise over and over, each time with another number at its start: quick
    // to make, and still not to be compressed by a window of 32 KiB.
    let mut noise = Noise::new(seed).bytes(1 << 20);
    let mut rest = size;
    while rest > 0 {
        noise[..8].copy_from_slice(&rest.to_le_bytes());
        let count = rest.min(noise.len() as u64) as usize;
        put(&noise[..count]);
        rest -= count as u64;
    }
    let padding = (512 - size % 512) % 512;
    put(&vec![0; padding as usize + 1024]);
    let digest = hasher.finish();
    fs::rename(&part, blobs.join(digest.hex())).expect("renamed");
    Stored {
        digest,
        size: total,
    }
}

fn tar_header(name: &str, size: u64) -> [u8; 512] {
    let mut header = [0; 512];
    let mut put = |offset: usize, bytes: &[u8]| {
        header[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}
