//! The key that a registry signs its tokens with, made at the first start

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, DnType, KeyPair};

/// Why there is no key
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// There is a certificate already, which cannot be that of a new key
    #[error(
        "expected the key of `{}`; there is none at `{}`, and a new one would not be its key: \
         bring the key back, or take the certificate away",
        certificate.display(),
        key.display()
    )]
    Certificate {
        /// Where the key would be
        key: PathBuf,
        /// The certificate
        certificate: PathBuf,
    },
    /// It cannot be made
    #[error("cannot make a key: {0}")]
    Make(#[from] rcgen::Error),
    /// It cannot be written
    #[error("cannot write `{}`: {source}", path.display())]
    Write {
        /// The file
        path: PathBuf,
        /// Why
        source: io::Error,
    },
}

/// Makes a key (P-256, PKCS#8 in PEM) where there is none, and says whether it did
///
/// Only the user of this process may read it. With `certificate`, a certificate of the key that
/// is signed by itself is made too, for registries that know issuers by theirs; `name` is what it
/// is for.
///
/// # Errors
///
/// [`KeyFileError`]. A key that is there is left as it is, whatever is in it.
///
/// # Examples
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// let key = folder.path().join("token.key");
/// assert!(registry_examples::token_key::ensure(&key, None, "registry.example.com")?);
/// assert!(!registry_examples::token_key::ensure(&key, None, "registry.example.com")?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn ensure(key: &Path, certificate: Option<&Path>, name: &str) -> Result<bool, KeyFileError> {
    // Whatever else is wrong with it is for its reader to say.
    if key.try_exists().unwrap_or(true) {
        return Ok(false);
    }
    if let Some(certificate) = certificate
        && certificate.try_exists().unwrap_or(true)
    {
        return Err(KeyFileError::Certificate {
            key: key.to_owned(),
            certificate: certificate.to_owned(),
        });
    }
    let pair = KeyPair::generate()?;
    // The certificate goes first: a key without it would be used without it from then on.
    if let Some(path) = certificate {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        write_new(path, 0o644, &params.self_signed(&pair)?.pem())?;
    }
    write_new(key, 0o600, &pair.serialize_pem())?;
    Ok(true)
}

fn write_new(path: &Path, mode: u32, text: &str) -> Result<(), KeyFileError> {
    let write = || -> io::Result<()> {
        let mut file: File = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|source| KeyFileError::Write {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use registry_auth::token::{IssuerOptions, TokenIssuer};

    use super::*;

    #[test]
    fn a_key_is_made_once_and_tokens_can_be_signed_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let (key, certificate) = (folder.path().join("k.pem"), folder.path().join("c.pem"));
        assert!(ensure(&key, Some(&certificate), "registry.example").unwrap());
        let text = fs::read_to_string(&key).unwrap();
        assert_eq!(
            fs::metadata(&key).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(!ensure(&key, Some(&certificate), "registry.example").unwrap());
        assert_eq!(fs::read_to_string(&key).unwrap(), text);
        let options = IssuerOptions::new("i", "registry.example", &key);
        TokenIssuer::new(options.with_certificates(&certificate)).unwrap();

        // The certificate of a key that is gone is no reason to make another key.
        fs::remove_file(&key).unwrap();
        let error = ensure(&key, Some(&certificate), "x")
            .unwrap_err()
            .to_string();
        assert!(error.contains("bring the key back"), "{error}");
        assert!(!key.exists());

        let nowhere = folder.path().join("missing/k.pem");
        let error = ensure(&nowhere, None, "x").unwrap_err().to_string();
        assert!(error.contains("cannot write `"), "{error}");
    }
}
