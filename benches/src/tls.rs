//! A certificate for servers on this machine, and clients that trust it

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::Result;
use crate::http::Tls;

/// A certificate for 127.0.0.1 in files
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate, as PEM
    pub certificate: PathBuf,
    /// Its key, as PEM
    pub key: PathBuf,
}

impl Certificate {
    /// Makes one in a folder
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn make(folder: &Path) -> Result<Self> {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()])?;
        let files = Self {
            certificate: folder.join("certificate.pem"),
            key: folder.join("key.pem"),
        };
        fs::write(&files.certificate, made.cert.pem())?;
        fs::write(&files.key, made.signing_key.serialize_pem())?;
        Ok(files)
    }

    /// What a client speaks to a server that has it
    ///
    /// One cipher suite of TLS 1.3, so that all servers do the same work: each would choose another.
    ///
    /// # Errors
    ///
    /// A file that is no certificate.
    pub fn client(&self) -> Result<Tls> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.certificate)?)?;
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Some(Arc::new(config)))
    }
}
