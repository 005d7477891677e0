//! What is pushed and pulled: blobs and images made from a number, without keeping their bytes

use std::io::{self, Write};

use registry_core::{Algorithm, Digest, Hasher, MediaType};

use crate::Result;
use crate::http::{Connection, with_query};
use crate::load::at_once;
use crate::process::Server;
use crate::random::Random;

const PIECE: u64 = 1 << 20;

/// How many layers of an image are moved at once; docker pulls three and pushes five
const LAYERS_AT_ONCE: usize = 3;

/// Content of a size that differs from that of every other seed, and compresses badly enough
#[derive(Clone, Copy, Debug)]
pub struct Blob {
    seed: u64,
    /// In bytes
    pub size: u64,
    /// Its name
    pub digest: Digest,
}

/// How a blob is pushed
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// POST, then PUT with everything
    Monolithic,
    /// POST, one PATCH without a length, then PUT, as docker and podman do
    Streamed,
    /// POST, PATCHes of so many bytes each, then PUT
    Chunks(u64),
}

/// An image of layers that may be shared with others
#[derive(Clone, Debug)]
pub struct Image {
    /// Its layers, the lowest first
    pub layers: Vec<Blob>,
    /// Its configuration
    pub config: Blob,
    /// The manifest's bytes
    pub manifest: Vec<u8>,
    /// The manifest's digest
    pub digest: Digest,
}

impl Blob {
    /// The content of that seed and size; the digest is computed here, not while it is pushed
    pub fn new(seed: u64, size: u64) -> Self {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let mut blob = Self {
            seed,
            size,
            digest: Digest::sha256(b""),
        };
        let hashed = blob.each_piece(0, size, |piece| {
            hasher.update(piece);
            Ok(())
        });
        debug_assert!(hashed.is_ok());
        blob.digest = hasher.finish();
        blob
    }

    /// Hands on the content from `start` to `end`
    ///
    /// # Errors
    ///
    /// Those of `each`.
    pub fn each_piece(
        &self,
        start: u64,
        end: u64,
        mut each: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let size = usize::try_from(PIECE.min(self.size)).unwrap_or(usize::MAX);
        let mut piece = noise(self.seed, size);
        let mut at = start;
        while at < end {
            let number = at / PIECE;
            if let Some(name) = piece.get_mut(..16) {
                name[..8].copy_from_slice(&self.seed.to_le_bytes());
                name[8..].copy_from_slice(&number.to_le_bytes());
            }
            let piece_end = ((number + 1) * PIECE).min(end);
            let within = |at: u64| usize::try_from(at - number * PIECE).unwrap_or(usize::MAX);
            each(&piece[within(at)..within(piece_end)])?;
            at = piece_end;
        }
        Ok(())
    }

    /// Pushes it
    ///
    /// # Errors
    ///
    /// An answer that says no, and a connection that breaks.
    pub fn push(&self, connection: &mut Connection, repository: &str, way: Way) -> Result<()> {
        let path = format!("/v2/{repository}/blobs/uploads/");
        connection.request("POST", &path, "Content-Length: 0\r\n")?;
        let mut location = connection.expect(202)?.location;
        let digest = format!("digest={}", self.digest);
        match way {
            Way::Monolithic => {
                let headers = format!("Content-Length: {}\r\n", self.size);
                let target = with_query(&location, &digest);
                self.send(connection, "PUT", &target, &headers, 0, self.size)?;
                connection.expect(201)?;
                return Ok(());
            }
            Way::Streamed => {
                let headers = "Transfer-Encoding: chunked\r\n";
                connection.request("PATCH", &location, headers)?;
                let body = connection.body();
                self.each_piece(0, self.size, |piece| {
                    write!(body, "{:x}\r\n", piece.len())?;
                    body.write_all(piece)?;
                    body.write_all(b"\r\n")
                })?;
                body.write_all(b"0\r\n\r\n")?;
                location = connection.expect(202)?.location;
            }
            Way::Chunks(length) => {
                let mut at = 0;
                while at < self.size {
                    let end = (at + length).min(self.size);
                    let headers = format!(
                        "Content-Length: {}\r\nContent-Range: {at}-{}\r\n",
                        end - at,
                        end - 1
                    );
                    self.send(connection, "PATCH", &location, &headers, at, end)?;
                    location = connection.expect(202)?.location;
                    at = end;
                }
            }
        }
        let target = with_query(&location, &digest);
        connection.request("PUT", &target, "Content-Length: 0\r\n")?;
        connection.expect(201)?;
        Ok(())
    }

    /// The head and the first piece go together: a small blob is one packet
    fn send(
        &self,
        connection: &mut Connection,
        method: &str,
        path: &str,
        headers: &str,
        start: u64,
        end: u64,
    ) -> Result<()> {
        let mut head = connection.head(method, path, headers);
        self.each_piece(start, end, |piece| {
            if head.is_empty() {
                return connection.body().write_all(piece);
            }
            head.extend_from_slice(piece);
            connection.body().write_all(&head)?;
            head.clear();
            Ok(())
        })?;
        Ok(())
    }

    /// Pulls it and looks at its length alone
    ///
    /// # Errors
    ///
    /// An answer that says no, another length, and a connection that breaks.
    pub fn pull(&self, connection: &mut Connection, repository: &str) -> Result<()> {
        let path = format!("/v2/{repository}/blobs/{}", self.digest);
        connection.request("GET", &path, "")?;
        let answer = connection.skip(false)?;
        match (answer.status, answer.bytes) {
            (200, bytes) if bytes == self.size => Ok(()),
            _ => Err(format!("GET {path}: expected {} bytes, got {answer:?}", self.size).into()),
        }
    }

    /// Pulls it and compares its digest
    ///
    /// # Errors
    ///
    /// An answer that says no, other content, and a connection that breaks.
    pub fn verify(&self, connection: &mut Connection, repository: &str) -> Result<()> {
        let path = format!("/v2/{repository}/blobs/{}", self.digest);
        verify(connection, &path, &self.digest)
    }
}

impl Image {
    /// The image of these layers, with a configuration of its own
    pub fn new(seed: u64, layers: Vec<Blob>) -> Self {
        let config = Blob::new(seed, 2_000);
        let descriptor = |kind: &MediaType, blob: &Blob| {
            let Blob { size, digest, .. } = blob;
            format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":{size}}}"#)
        };
        let list: Vec<String> = layers
            .iter()
            .map(|layer| descriptor(&MediaType::OCI_LAYER_TAR, layer))
            .collect();
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{}]}}"#,
            MediaType::OCI_MANIFEST,
            descriptor(&MediaType::OCI_CONFIG, &config),
            list.join(",")
        )
        .into_bytes();
        Self {
            digest: Digest::sha256(&manifest),
            layers,
            config,
            manifest,
        }
    }

    /// The header that asks for such manifests
    pub fn accept() -> String {
        format!("Accept: {}\r\n", MediaType::OCI_MANIFEST)
    }

    /// Bytes of layers, configuration and manifest
    pub fn size(&self) -> u64 {
        let blobs = self.layers.iter().chain([&self.config]);
        blobs.map(|blob| blob.size).sum::<u64>() + self.manifest.len() as u64
    }

    /// Pushes it as a client does: looks for each blob, pushes what is not there, then the manifest
    ///
    /// # Errors
    ///
    /// An answer that says no, and a connection that breaks.
    pub fn push(&self, server: &Server, repository: &str, tag: &str) -> Result<()> {
        self.each_blob(server, |connection, blob| {
            let path = format!("/v2/{repository}/blobs/{}", blob.digest);
            connection.request("HEAD", &path, "")?;
            match connection.skip(true)?.status {
                200 => Ok(()),
                404 => blob.push(connection, repository, Way::Streamed),
                status => Err(format!("HEAD {path} got {status}").into()),
            }
        })?;
        self.push_manifest(&mut server.connect()?, repository, tag)
    }

    /// Pushes the manifest alone
    ///
    /// # Errors
    ///
    /// An answer that says no, and a connection that breaks.
    pub fn push_manifest(
        &self,
        connection: &mut Connection,
        repository: &str,
        reference: &str,
    ) -> Result<()> {
        let path = format!("/v2/{repository}/manifests/{reference}");
        let headers = format!("Content-Type: {}\r\n", MediaType::OCI_MANIFEST);
        connection.send("PUT", &path, &headers, &self.manifest)?;
        connection.expect(201)?;
        Ok(())
    }

    /// Pulls the manifest by its tag and then everything that it names
    ///
    /// # Errors
    ///
    /// An answer that says no, other content, and a connection that breaks.
    pub fn pull(&self, server: &Server, repository: &str, tag: &str) -> Result<()> {
        let path = format!("/v2/{repository}/manifests/{tag}");
        let mut connection = server.connect()?.with_headers(Self::accept());
        verify(&mut connection, &path, &self.digest)?;
        self.each_blob(server, |connection, blob| blob.pull(connection, repository))
    }

    fn each_blob(
        &self,
        server: &Server,
        work: impl Fn(&mut Connection, &Blob) -> Result<()> + Sync,
    ) -> Result<()> {
        let blobs: Vec<&Blob> = self.layers.iter().chain([&self.config]).collect();
        at_once(LAYERS_AT_ONCE, |client| {
            let mut connection = server.connect()?;
            let own = blobs.iter().skip(client).step_by(LAYERS_AT_ONCE);
            own.copied()
                .try_for_each(|blob| work(&mut connection, blob))
        })?;
        Ok(())
    }
}

/// Bytes that look like any others
fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut piece = Vec::with_capacity(size + 8);
    let mut random = Random::new(seed);
    while piece.len() < size {
        piece.extend_from_slice(&random.next().to_le_bytes());
    }
    piece.truncate(size);
    piece
}

/// Reads what is there, and compares its digest
///
/// # Errors
///
/// Another status than 200, and other content.
pub fn verify(connection: &mut Connection, path: &str, digest: &Digest) -> Result<()> {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    connection.request("GET", path, "")?;
    let answer = connection.read(false, |piece| hasher.update(piece))?;
    let found = hasher.finish();
    match answer.status {
        200 if found == *digest => Ok(()),
        200 => Err(format!("GET {path} got {found} instead of {digest}").into()),
        status => Err(format!("GET {path} got {status}").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_the_same_whole_and_in_parts() {
        let blob = Blob::new(7, 2 * PIECE + 5);
        let mut whole = Vec::new();
        let mut parts = Vec::new();
        let size = blob.size;
        let all = [(0, size)];
        let cut = [(0, 3), (3, PIECE + 1), (PIECE + 1, size)];
        for (content, ranges) in [(&mut whole, &all[..]), (&mut parts, &cut[..])] {
            for (start, end) in ranges {
                blob.each_piece(*start, *end, |piece| {
                    content.extend_from_slice(piece);
                    Ok(())
                })
                .unwrap();
            }
        }
        assert_eq!(whole.len() as u64, size);
        assert!(whole == parts);
        assert_eq!(Digest::sha256(&whole), blob.digest);
        assert_ne!(Blob::new(8, size).digest, blob.digest);
        assert_ne!(Blob::new(8, 10).digest, Blob::new(7, 10).digest);
    }

    #[test]
    fn the_manifest_of_an_image_is_one() {
        let image = Image::new(1, vec![Blob::new(2, 100), Blob::new(3, 0)]);
        let raw = image.manifest.clone().into();
        let limits = registry_core::manifest::Limits::default();
        let manifest = registry_core::Manifest::parse(raw, None, &limits).unwrap();
        assert_eq!(manifest.dependencies().len(), 3);
        assert_eq!(image.size(), 2_100 + image.manifest.len() as u64);
    }
}
