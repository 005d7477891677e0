//! What of TLS can be chosen: versions, cipher suites, client certificates

use std::fmt;
use std::str::FromStr;

use rustls::crypto::aws_lc_rs;
use rustls::{SupportedCipherSuite, SupportedProtocolVersion, version};

/// A version of TLS that is safe to speak
///
/// Parsed from `tls1.2` and `tls1.3`. Older versions are not implemented, on purpose: a
/// configuration that asks for them as the minimum gets 1.2 from whoever reads it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum TlsVersion {
    /// TLS 1.2, which all clients of the last ten years speak
    #[default]
    Tls12,
    /// TLS 1.3
    Tls13,
}

impl TlsVersion {
    /// This version and all later ones
    pub(crate) fn and_later(self) -> &'static [&'static SupportedProtocolVersion] {
        static ALL: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
        match self {
            Self::Tls12 => &ALL,
            Self::Tls13 => &ALL[..1],
        }
    }
}

impl FromStr for TlsVersion {
    type Err = TlsParameterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "tls1.2" => Ok(Self::Tls12),
            "tls1.3" => Ok(Self::Tls13),
            _ => Err(TlsParameterError::Version(text.to_owned())),
        }
    }
}

impl fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls12 => "tls1.2",
            Self::Tls13 => "tls1.3",
        })
    }
}

/// A cipher suite
///
/// Parsed from its name in the registry of IANA, which is also Go's, and from Go's two older
/// names that lack the hash. Suites without forward secrecy or with CBC are not implemented.
///
/// # Examples
///
/// ```
/// use registry_http::tls::CipherSuite;
///
/// let suite: CipherSuite = "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305".parse().unwrap();
/// assert_eq!(suite.to_string(), "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256");
/// assert!("TLS_RSA_WITH_AES_128_CBC_SHA".parse::<CipherSuite>().is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CipherSuite(pub(crate) SupportedCipherSuite);

impl CipherSuite {
    /// All there are, best first
    pub fn all() -> impl Iterator<Item = Self> {
        aws_lc_rs::ALL_CIPHER_SUITES.iter().copied().map(Self)
    }

    /// Whether it is one of TLS 1.3
    pub fn is_tls13(self) -> bool {
        self.0.tls13().is_some()
    }
}

impl FromStr for CipherSuite {
    type Err = TlsParameterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = match text {
            "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305" | "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305" => {
                format!("{text}_SHA256")
            }
            _ => text.to_owned(),
        };
        Self::all()
            .find(|suite| suite.to_string() == name)
            .ok_or_else(|| TlsParameterError::CipherSuite(text.to_owned()))
    }
}

impl fmt::Display for CipherSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // rustls sets those of TLS 1.3 apart by a prefix that IANA's names do not have.
        match self.0.suite().as_str() {
            Some(name) => f.write_str(&name.replacen("TLS13_", "TLS_", 1)),
            None => write!(f, "{:?}", self.0.suite()),
        }
    }
}

/// Whether clients show certificates
///
/// Parsed from Go's names: `verify-client-cert-if-given` and `require-and-verify-client-cert`.
/// Those of its modes that take a certificate without verifying it, `request-client-cert` and
/// `require-any-client-cert`, are refused: such a certificate proves nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientAuth {
    /// They are not asked to
    #[default]
    None,
    /// They may; one that does not verify ends the handshake
    VerifyIfGiven,
    /// They must, and it must verify
    Require,
}

impl FromStr for ClientAuth {
    type Err = TlsParameterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "verify-client-cert-if-given" => Ok(Self::VerifyIfGiven),
            "require-and-verify-client-cert" => Ok(Self::Require),
            "request-client-cert" | "require-any-client-cert" => {
                Err(TlsParameterError::Unverified(text.to_owned()))
            }
            _ => Err(TlsParameterError::ClientAuth(text.to_owned())),
        }
    }
}

impl fmt::Display for ClientAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::VerifyIfGiven => "verify-client-cert-if-given",
            Self::Require => "require-and-verify-client-cert",
        })
    }
}

/// Why a text is not a parameter of TLS
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsParameterError {
    /// No cipher suite of this name, or one that is not safe
    #[error(
        "no cipher suite `{}`; expected one of {}",
        .0.escape_debug(),
        CipherSuite::all().map(|suite| suite.to_string()).collect::<Vec<_>>().join(", ")
    )]
    CipherSuite(String),
    /// No way to treat client certificates
    #[error(
        "expected `verify-client-cert-if-given` or `require-and-verify-client-cert`, got `{}`",
        .0.escape_debug()
    )]
    ClientAuth(String),
    /// Client certificates are not to be verified
    #[error(
        "`{0}` takes client certificates without verifying them, which proves nothing; use `verify-client-cert-if-given` or `require-and-verify-client-cert`"
    )]
    Unverified(String),
    /// No version of TLS, or one that is not safe
    #[error("expected `tls1.2` or `tls1.3`, got `{}`", .0.escape_debug())]
    Version(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_read_as_they_are_written() {
        for version in [TlsVersion::Tls12, TlsVersion::Tls13] {
            assert_eq!(version.to_string().parse(), Ok(version));
        }
        for text in ["tls1.0", "tls1.1", "TLS1.2", "1.2", ""] {
            assert!(text.parse::<TlsVersion>().is_err(), "{text}");
        }
    }

    #[test]
    fn suites_have_the_names_of_iana_and_go() {
        for suite in CipherSuite::all() {
            let name = suite.to_string();
            assert!(name.starts_with("TLS_"), "{name}");
            assert_eq!(name.parse(), Ok(suite));
        }
        for (name, tls13) in [
            ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", false),
            ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", false),
            ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", false),
            ("TLS_AES_256_GCM_SHA384", true),
        ] {
            assert_eq!(name.parse::<CipherSuite>().unwrap().is_tls13(), tls13);
        }
        let error = "TLS_RSA_WITH_AES_128_CBC_SHA"
            .parse::<CipherSuite>()
            .unwrap_err()
            .to_string();
        assert!(error.contains("`TLS_RSA_WITH_AES_128_CBC_SHA`"), "{error}");
        assert!(
            error.contains("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
            "{error}"
        );
    }

    #[test]
    fn certificates_are_verified_or_not_taken() {
        for auth in [ClientAuth::VerifyIfGiven, ClientAuth::Require] {
            assert_eq!(auth.to_string().parse(), Ok(auth));
        }
        for text in ["request-client-cert", "require-any-client-cert"] {
            let error = text.parse::<ClientAuth>().unwrap_err().to_string();
            assert!(error.contains("without verifying"), "{error}");
        }
        assert!("no".parse::<ClientAuth>().is_err());
    }
}
