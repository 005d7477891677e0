//! Who asks a registry: where it is, over which connection, and as whom

use std::io;

use registry_core::{Digest, MediaType};

use super::http::{self, Response, basic, with_query};
use super::image::{Noise, Stored, descriptor};
use super::tls;

/// A client of one registry
#[derive(Clone)]
pub(crate) struct Peer {
    address: String,
    tls: Option<tls::Client>,
    headers: Vec<(String, String)>,
}

impl Peer {
    /// Over plain HTTP, without credentials
    pub(crate) fn plain(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            tls: None,
            headers: Vec::new(),
        }
    }

    /// Over TLS, without credentials
    pub(crate) fn over(tls: &tls::Client, address: &str) -> Self {
        Self {
            tls: Some(tls.clone()),
            ..Self::plain(address)
        }
    }

    /// The same as this user
    pub(crate) fn user(mut self, name: &str, password: &str) -> Self {
        let header = ("Authorization".to_owned(), basic(name, password));
        self.headers.push(header);
        self
    }

    /// Sends a request; an error is a connection that broke
    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Response> {
        let own = self.headers.iter();
        let mut all: Vec<(&str, &str)> = own.map(|(name, value)| (&**name, &**value)).collect();
        all.extend_from_slice(headers);
        match &self.tls {
            None => http::send(&self.address, method, path, &all, body),
            Some(tls) => tls.send(&self.address, method, path, &all, body),
        }
    }

    /// A request without a body that reaches the registry
    #[track_caller]
    pub(crate) fn request(&self, method: &str, path: &str) -> Response {
        self.send(method, path, &[], &[])
            .unwrap_or_else(|error| panic!("{method} {path} got no answer: {error}"))
    }

    /// GET
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Response {
        self.request("GET", path)
    }

    /// Pushes a blob; an error is a connection that broke
    pub(crate) fn push_blob(&self, repository: &str, content: &[u8]) -> io::Result<Stored> {
        let path = format!("/v2/{repository}/blobs/uploads/");
        let started = self.send("POST", &path, &[], &[])?.expect(&[202]);
        let digest = Digest::sha256(content);
        let target = with_query(&started.location(), &format!("digest={digest}"));
        self.send("PUT", &target, &[], content)?.expect(&[201]);
        Ok(Stored {
            digest,
            size: content.len() as u64,
        })
    }

    /// Pushes a small image of its own for each seed, and gives its digest
    #[track_caller]
    pub(crate) fn push_image(&self, repository: &str, tag: &str, seed: u64) -> Digest {
        let push = |content: &[u8]| self.push_blob(repository, content).expect("answered");
        let config = push(format!("{{\"seed\":{seed}}}").as_bytes());
        let layer = push(&Noise::new(seed).bytes(20_000));
        let manifest = manifest(&config, &layer);
        let path = format!("/v2/{repository}/manifests/{tag}");
        let media_type = MediaType::OCI_MANIFEST;
        let headers = [("Content-Type", media_type.as_str())];
        let answer = self.send("PUT", &path, &headers, manifest.as_bytes());
        answer.expect("answered").expect(&[201]);
        Digest::sha256(manifest.as_bytes())
    }

    /// Pulls an image with all its blobs, checks every digest, and gives the manifest's
    #[track_caller]
    pub(crate) fn pull_image(&self, repository: &str, tag: &str) -> Digest {
        let path = format!("/v2/{repository}/manifests/{tag}");
        let media_type = MediaType::OCI_MANIFEST;
        let headers = [("Accept", media_type.as_str())];
        let answer = self.send("GET", &path, &headers, &[]);
        let answer = answer.expect("answered").expect(&[200]);
        let text = answer.text();
        let mut blobs = 0;
        for part in text.split("sha256:").skip(1) {
            let digest: Digest = format!("sha256:{}", &part[..64]).parse().expect("a digest");
            let path = format!("/v2/{repository}/blobs/{digest}");
            let blob = self.get(&path).followed().expect(&[200]);
            assert_eq!(Digest::sha256(&blob.body), digest, "GET {path}");
            blobs += 1;
        }
        assert_eq!(blobs, 2, "{text}");
        Digest::sha256(&answer.body)
    }
}

/// A manifest of one layer
pub(crate) fn manifest(config: &Stored, layer: &Stored) -> String {
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{}]}}"#,
        MediaType::OCI_MANIFEST,
        descriptor(&MediaType::OCI_CONFIG, config, ""),
        descriptor(&MediaType::OCI_LAYER_TAR, layer, ""),
    )
}
