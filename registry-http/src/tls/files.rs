//! Certificates and keys from PEM files, and what may be wrong with them

use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use jiff::Timestamp;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject, SectionKind};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

/// What a file of TLS is for
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsFile {
    /// The server's certificate, and the intermediate ones behind it
    Certificate,
    /// Certificates of authorities that sign those of clients
    ClientCa,
    /// The private key of the server's certificate
    Key,
}

impl TlsFile {
    fn expected(self) -> &'static str {
        match self {
            Self::Certificate | Self::ClientCa => "-----BEGIN CERTIFICATE-----",
            Self::Key => "-----BEGIN PRIVATE KEY-----",
        }
    }
}

impl fmt::Display for TlsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Certificate => "certificate file",
            Self::ClientCa => "client CA file",
            Self::Key => "key file",
        })
    }
}

/// Why certificates or keys cannot be used
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// What is marked as a certificate is none
    #[error("certificate {number} in the {file} `{}` is damaged: {reason}", path.display())]
    BadCertificate {
        /// What the file is for
        file: TlsFile,
        /// Which file
        path: PathBuf,
        /// Which certificate of the file, from 1
        number: usize,
        /// What is wrong with it
        reason: String,
    },
    /// A file is PEM, but a broken one
    #[error("the {file} `{}` is not valid PEM: {reason}", path.display())]
    BadPem {
        /// What the file is for
        file: TlsFile,
        /// Which file
        path: PathBuf,
        /// What is wrong with it
        reason: String,
    },
    /// A key is of a kind that is not supported, or damaged
    #[error(
        "the key in `{}` cannot be used; expected an undamaged RSA (at least 2048 bits), ECDSA (P-256, P-384, P-521) or Ed25519 key",
        path.display()
    )]
    BadKey {
        /// Which file
        path: PathBuf,
        /// What is wrong with it
        source: rustls::Error,
    },
    /// A file has nothing in it
    #[error("the {file} `{}` is empty", path.display())]
    Empty {
        /// What the file is for
        file: TlsFile,
        /// Which file
        path: PathBuf,
    },
    /// A key needs a passphrase, and there is nobody to ask for it
    #[error(
        "the key in `{}` is encrypted, and a server cannot ask for a passphrase; decrypt it with `openssl pkey -in {} -out …`, and let only the registry read the result",
        path.display(),
        path.display()
    )]
    EncryptedKey {
        /// Which file
        path: PathBuf,
    },
    /// The key is another certificate's
    #[error(
        "the key in `{}` does not belong to the first certificate in `{}`{}",
        key.display(),
        certificate.display(),
        match belongs_to {
            Some(number) => format!("; it belongs to certificate {number} there: the server's own comes first, then the one that signed it"),
            None => String::new(),
        }
    )]
    Mismatch {
        /// The certificate's file
        certificate: PathBuf,
        /// The key's file
        key: PathBuf,
        /// To which certificate of the file the key does belong, from 1
        belongs_to: Option<usize>,
    },
    /// Client certificates are asked for, and nothing to verify them with is there
    #[error("client certificates are to be verified, but no file with client CAs is named")]
    NoClientCa,
    /// A file has something else in it than it should
    #[error("expected `{}` in the {file} `{}`, found {found}", file.expected(), path.display())]
    NothingUseful {
        /// What the file is for
        file: TlsFile,
        /// Which file
        path: PathBuf,
        /// What is there instead
        found: &'static str,
    },
    /// rustls refuses what was chosen
    #[error("these TLS settings do not go together: {0}")]
    Settings(rustls::Error),
    /// A file cannot be read
    #[error(
        "cannot read the {file} `{}`: {source}{}",
        path.display(),
        match source.kind() {
            io::ErrorKind::PermissionDenied => "; let the user that this process runs as read it",
            _ => "",
        }
    )]
    Unreadable {
        /// What the file is for
        file: TlsFile,
        /// Which file
        path: PathBuf,
        /// What the system said
        source: io::Error,
    },
}

/// What is not right with a certificate or a key, but does not keep anybody from serving
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsWarning {
    /// The certificate is not valid any more
    Expired {
        /// The certificate's file
        path: PathBuf,
        /// When it expired
        at: Timestamp,
    },
    /// The certificate is not valid yet
    NotYetValid {
        /// The certificate's file
        path: PathBuf,
        /// From when on it is
        from: Timestamp,
    },
    /// Every user of this machine can read the key
    ReadableKey {
        /// The key's file
        path: PathBuf,
        /// Its mode
        mode: u32,
    },
}

impl fmt::Display for TlsWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired { path, at } => write!(
                f,
                "the certificate in `{}` expired at {at}; clients refuse it",
                path.display()
            ),
            Self::NotYetValid { path, from } => write!(
                f,
                "the certificate in `{}` is not valid before {from}; clients refuse it until then, or the clock of this machine is wrong",
                path.display()
            ),
            Self::ReadableKey { path, mode } => write!(
                f,
                "every user of this machine can read the key in `{}` (mode {mode:03o}); `chmod o= {}` takes that away",
                path.display(),
                path.display()
            ),
        }
    }
}

/// A certificate with its key, from two files
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) key: Arc<CertifiedKey>,
    pub(crate) certificate_path: PathBuf,
    pub(crate) key_path: PathBuf,
    not_before: Timestamp,
    not_after: Timestamp,
    key_mode: u32,
}

impl Identity {
    pub(crate) fn load(
        certificate_path: &Path,
        key_path: &Path,
        provider: &CryptoProvider,
    ) -> Result<Self, TlsError> {
        let chain = certificates(TlsFile::Certificate, certificate_path)?;
        let mut validity = None;
        for (index, certificate) in chain.iter().enumerate() {
            let parsed = parse(certificate).map_err(|reason| TlsError::BadCertificate {
                file: TlsFile::Certificate,
                path: certificate_path.to_owned(),
                number: index + 1,
                reason,
            })?;
            validity.get_or_insert(parsed);
        }
        let (not_before, not_after) = validity.unwrap_or((Timestamp::MIN, Timestamp::MAX));
        let (key, key_mode) = private_key(key_path)?;
        let key = provider
            .key_provider
            .load_private_key(key)
            .map_err(|source| TlsError::BadKey {
                path: key_path.to_owned(),
                source,
            })?;
        // Where rustls cannot tell, clients will.
        let matches = |chain| {
            let result = CertifiedKey::new(chain, key.clone()).keys_match();
            let mismatch = rustls::InconsistentKeys::KeyMismatch;
            result != Err(rustls::Error::InconsistentKeys(mismatch))
        };
        if !matches(chain.clone()) {
            let belongs_to = chain.iter().position(|other| matches(vec![other.clone()]));
            return Err(TlsError::Mismatch {
                certificate: certificate_path.to_owned(),
                key: key_path.to_owned(),
                belongs_to: belongs_to.map(|index| index + 1),
            });
        }
        Ok(Self {
            key: CertifiedKey::new(chain, key).into(),
            certificate_path: certificate_path.to_owned(),
            key_path: key_path.to_owned(),
            not_before,
            not_after,
            key_mode,
        })
    }

    pub(crate) fn warnings(&self, now: SystemTime) -> Vec<TlsWarning> {
        let mut warnings = Vec::new();
        if let Ok(now) = Timestamp::try_from(now) {
            if now > self.not_after {
                warnings.push(TlsWarning::Expired {
                    path: self.certificate_path.clone(),
                    at: self.not_after,
                });
            }
            if now < self.not_before {
                warnings.push(TlsWarning::NotYetValid {
                    path: self.certificate_path.clone(),
                    from: self.not_before,
                });
            }
        }
        if self.key_mode & 0o004 != 0 {
            warnings.push(TlsWarning::ReadableKey {
                path: self.key_path.clone(),
                mode: self.key_mode,
            });
        }
        warnings
    }
}

/// The authorities that sign the certificates of clients
pub(crate) fn client_roots(paths: &[PathBuf]) -> Result<RootCertStore, TlsError> {
    if paths.is_empty() {
        return Err(TlsError::NoClientCa);
    }
    let mut roots = RootCertStore::empty();
    for path in paths {
        for (index, certificate) in certificates(TlsFile::ClientCa, path)?
            .into_iter()
            .enumerate()
        {
            roots
                .add(certificate)
                .map_err(|error| TlsError::BadCertificate {
                    file: TlsFile::ClientCa,
                    path: path.clone(),
                    number: index + 1,
                    reason: error.to_string(),
                })?;
        }
    }
    Ok(roots)
}

/// From when and until when a certificate is valid
fn parse(certificate: &CertificateDer<'_>) -> Result<(Timestamp, Timestamp), String> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| match error {
        x509_parser::nom::Err::Error(error) | x509_parser::nom::Err::Failure(error) => {
            error.to_string()
        }
        x509_parser::nom::Err::Incomplete(_) => "it ends too early".to_owned(),
    })?;
    let time = |time: x509_parser::time::ASN1Time| {
        Timestamp::from_second(time.timestamp()).map_err(|error| error.to_string())
    };
    let validity = parsed.validity();
    Ok((time(validity.not_before)?, time(validity.not_after)?))
}

fn certificates(file: TlsFile, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(file, path)?;
    let certificates: Vec<_> = sections(file, path, &text)?
        .into_iter()
        .filter(|(kind, _)| *kind == SectionKind::Certificate)
        .map(|(_, der)| CertificateDer::from(der))
        .collect();
    if certificates.is_empty() {
        return Err(nothing_useful(file, path, &text));
    }
    Ok(certificates)
}

/// The first key of a file, and the mode of the file
fn private_key(path: &Path) -> Result<(PrivateKeyDer<'static>, u32), TlsError> {
    let text = read(TlsFile::Key, path)?;
    // Both ways to encrypt one: PKCS #8, and the older header inside of the section.
    let encrypted = contains(&text, "-----BEGIN ENCRYPTED PRIVATE KEY-----")
        || contains(&text, "Proc-Type: 4,ENCRYPTED");
    if encrypted {
        return Err(TlsError::EncryptedKey {
            path: path.to_owned(),
        });
    }
    let key = sections(TlsFile::Key, path, &text)?
        .into_iter()
        .find_map(|(kind, der)| PrivateKeyDer::from_pem(kind, der))
        .ok_or_else(|| nothing_useful(TlsFile::Key, path, &text))?;
    let mode = std::fs::metadata(path).map_err(|source| TlsError::Unreadable {
        file: TlsFile::Key,
        path: path.to_owned(),
        source,
    })?;
    Ok((key, mode.permissions().mode() & 0o777))
}

fn read(file: TlsFile, path: &Path) -> Result<Vec<u8>, TlsError> {
    let text = std::fs::read(path).map_err(|source| TlsError::Unreadable {
        file,
        path: path.to_owned(),
        source,
    })?;
    if text.iter().all(u8::is_ascii_whitespace) {
        return Err(TlsError::Empty {
            file,
            path: path.to_owned(),
        });
    }
    Ok(text)
}

fn sections(
    file: TlsFile,
    path: &Path,
    text: &[u8],
) -> Result<Vec<(SectionKind, Vec<u8>)>, TlsError> {
    <(SectionKind, Vec<u8>)>::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::BadPem {
            file,
            path: path.to_owned(),
            // Its own text quotes lines of the file, which may be those of a key.
            reason: match error {
                pem::Error::MissingSectionEnd { .. } => "a section has no `-----END …-----` line",
                pem::Error::IllegalSectionStart { .. } => "a `-----BEGIN …-----` line is malformed",
                pem::Error::Base64Decode(_) => "what is between the markers is not base64",
                _ => "it cannot be read",
            }
            .to_owned(),
        })
}

fn nothing_useful(file: TlsFile, path: &Path, text: &[u8]) -> TlsError {
    let found = if contains(text, "PRIVATE KEY-----") {
        "a private key; are certificate and key swapped?"
    } else if contains(text, "-----BEGIN CERTIFICATE-----") {
        "a certificate; are certificate and key swapped?"
    } else if contains(text, "-----BEGIN CERTIFICATE REQUEST-----") {
        "a request for a certificate; an authority makes the certificate of it"
    } else if contains(text, "-----BEGIN ") {
        "another kind of PEM"
    } else if text.first() == Some(&0x30) {
        "binary DER; convert it with `openssl x509 -inform der` (a key: `openssl pkey -inform der`)"
    } else {
        "no PEM"
    };
    TlsError::NothingUseful {
        file,
        path: path.to_owned(),
        found,
    }
}

fn contains(text: &[u8], part: &str) -> bool {
    text.windows(part.len())
        .any(|window| window == part.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_may_not_be_read_comes_with_advice() {
        // Tests may run as a user who may read everything.
        let error = TlsError::Unreadable {
            file: TlsFile::Key,
            path: "tls.key".into(),
            source: io::ErrorKind::PermissionDenied.into(),
        };
        assert_eq!(
            error.to_string(),
            "cannot read the key file `tls.key`: permission denied; let the user that this process runs as read it"
        );
    }
}
