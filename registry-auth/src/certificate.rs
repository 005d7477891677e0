//! Clients that prove who they are by a certificate

use async_trait::async_trait;
use registry_core::Access;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::authenticator::{AuthenticateError, Authenticator, ChallengeReason, Credentials};
use crate::htpasswd::check_user;
use crate::principal::Principal;

/// Where in a certificate the name of its owner stands
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CertificateName {
    /// The common name (CN) of the subject
    #[default]
    CommonName,
    /// The first alternative name that is a host name, in lower case
    Dns,
    /// The first alternative name that is an e-mail address
    Email,
    /// The first alternative name that is a URI, such as a SPIFFE id
    Uri,
}

/// What the owner of a certificate is
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CertificateKind {
    /// A [`Principal::Service`]
    Service,
    /// A [`Principal::User`]
    #[default]
    User,
}

/// How a certificate is read
///
/// # Examples
///
/// ```
/// use registry_auth::{CertificateKind, CertificateName, CertificateOptions};
///
/// let options = CertificateOptions::default()
///     .with_name(CertificateName::Dns)
///     .with_kind(CertificateKind::Service)
///     .with_roles_from_units(true);
/// assert_eq!(options.name, CertificateName::Dns);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CertificateOptions {
    /// Where the name stands; by default in the common name
    pub name: CertificateName,
    /// What its owner is; by default a user
    pub kind: CertificateKind,
    /// Whether the organizational units (OU) of the subject are the roles of the owner
    ///
    /// By default not: whoever signs the certificates then gives out the roles too.
    pub roles_from_units: bool,
}

impl CertificateOptions {
    /// Sets where the name stands
    #[must_use]
    pub fn with_name(mut self, name: CertificateName) -> Self {
        self.name = name;
        self
    }

    /// Sets what the owner is
    #[must_use]
    pub fn with_kind(mut self, kind: CertificateKind) -> Self {
        self.kind = kind;
        self
    }

    /// Sets whether the organizational units are the roles
    #[must_use]
    pub fn with_roles_from_units(mut self, are_roles: bool) -> Self {
        self.roles_from_units = are_roles;
        self
    }
}

/// Knows clients by their certificates
///
/// What a certificate is worth was found out when the connection was made: the server trusts
/// who signed it, and the client has its key. Here it is only read. So every authority that the server trusts for its clients
/// can name anybody; let it trust none that signs for others.
///
/// A certificate that does not say who its owner is, in the place that the options name and so that it can be the
/// name of a user, proves nothing: the request is anonymous, as it is without one. Two common names are no name. A request that
/// brings credentials besides is rejected, so that in a [`Chain`](crate::Chain) others judge them.
///
/// There is no challenge, for HTTP has none that asks for certificates.
///
/// # Examples
///
/// ```
/// use registry_auth::{
///     Authenticator, CertificateAuthenticator, CertificateOptions, Credentials, Principal,
/// };
/// # let key = rcgen::KeyPair::generate()?;
/// # let mut params = rcgen::CertificateParams::default();
/// # params.distinguished_name = rcgen::DistinguishedName::new();
/// # params.distinguished_name.push(rcgen::DnType::CommonName, "ada");
/// # let leaf = params.self_signed(&key)?.der().to_vec();
///
/// # #[tokio::main(flavor = "current_thread")] async fn ask(leaf: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
/// let certificates = CertificateAuthenticator::new(CertificateOptions::default());
/// let principal = certificates.authenticate_with(&Credentials::None, Some(leaf)).await?;
/// assert_eq!(principal, Principal::user("ada"));
/// # Ok(())
/// # }
/// # ask(&leaf)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct CertificateAuthenticator {
    options: CertificateOptions,
}

impl CertificateAuthenticator {
    /// Reads certificates as the options say
    pub fn new(options: CertificateOptions) -> Self {
        Self { options }
    }

    /// Whose certificate it is; anonymous when it does not say so
    fn principal(&self, der: &[u8]) -> Principal {
        let Ok((_, certificate)) = X509Certificate::from_der(der) else {
            tracing::warn!("a client's certificate cannot be read; the client is anonymous");
            return Principal::Anonymous;
        };
        let Some(name) = self.name(&certificate) else {
            tracing::debug!(
                wanted = ?self.options.name,
                "a client's certificate names no user; the client is anonymous",
            );
            return Principal::Anonymous;
        };
        let principal = match self.options.kind {
            CertificateKind::Service => Principal::service(name),
            CertificateKind::User => Principal::user(name),
        };
        match self.options.roles_from_units {
            true => {
                let units = certificate.subject().iter_organizational_unit();
                principal.with_roles(units.filter_map(|unit| unit.as_str().ok()))
            }
            false => principal,
        }
    }

    fn name(&self, certificate: &X509Certificate<'_>) -> Option<String> {
        let name = match self.options.name {
            CertificateName::CommonName => {
                let mut names = certificate.subject().iter_common_name();
                let name = names.next()?.as_str().ok()?;
                match names.next() {
                    Some(_) => return None,
                    None => name.to_owned(),
                }
            }
            kind => {
                let names = certificate.subject_alternative_name().ok()??;
                let mut names = names.value.general_names.iter();
                names.find_map(|name| match (kind, name) {
                    (CertificateName::Dns, GeneralName::DNSName(name)) => {
                        Some(name.to_ascii_lowercase())
                    }
                    (CertificateName::Email, GeneralName::RFC822Name(name))
                    | (CertificateName::Uri, GeneralName::URI(name)) => Some((*name).to_owned()),
                    _ => None,
                })?
            }
        };
        // A URI has a colon, which only a password's name must not have.
        check_user(&name.replace(':', "-")).ok()?;
        Some(name)
    }
}

#[async_trait]
impl Authenticator for CertificateAuthenticator {
    async fn authenticate(
        &self,
        credentials: &Credentials,
    ) -> Result<Principal, AuthenticateError> {
        self.authenticate_with(credentials, None).await
    }

    async fn authenticate_with(
        &self,
        credentials: &Credentials,
        certificate: Option<&[u8]>,
    ) -> Result<Principal, AuthenticateError> {
        match credentials {
            Credentials::None => {
                Ok(certificate.map_or(Principal::Anonymous, |der| self.principal(der)))
            }
            _ => Err(AuthenticateError::Rejected),
        }
    }

    fn challenge(&self, _: &[Access], _: ChallengeReason) -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;
    use crate::Password;

    fn leaf(subject: &[(DnType, &str)], alternatives: Vec<SanType>) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.subject_alt_names = alternatives;
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    async fn read(options: CertificateOptions, der: &[u8]) -> Principal {
        CertificateAuthenticator::new(options)
            .authenticate_with(&Credentials::None, Some(der))
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn the_name_is_read_where_the_options_say() {
        let der = leaf(
            &[
                (DnType::OrganizationName, "Acumos"),
                (DnType::OrganizationalUnitName, "publisher"),
                (DnType::CommonName, "ada"),
            ],
            vec![
                SanType::URI("spiffe://acumos/build".try_into().unwrap()),
                SanType::DnsName("Build.Example".try_into().unwrap()),
                SanType::DnsName("other.example".try_into().unwrap()),
                SanType::Rfc822Name("ada@acumos.example".try_into().unwrap()),
            ],
        );
        let options = CertificateOptions::default();
        for (name, expected) in [
            (CertificateName::CommonName, "ada"),
            (CertificateName::Dns, "build.example"),
            (CertificateName::Email, "ada@acumos.example"),
            (CertificateName::Uri, "spiffe://acumos/build"),
        ] {
            let options = options.with_name(name);
            assert_eq!(read(options, &der).await, Principal::user(expected));
            let options = options
                .with_kind(CertificateKind::Service)
                .with_roles_from_units(true);
            assert_eq!(
                read(options, &der).await,
                Principal::service(expected).with_roles(["publisher"])
            );
        }
    }

    #[tokio::test]
    async fn what_names_nobody_is_nobody() {
        let options = CertificateOptions::default();
        for name in ["", " ada", "a\nda", &"n".repeat(256)] {
            let der = leaf(&[(DnType::CommonName, name)], vec![]);
            assert_eq!(read(options, &der).await, Principal::Anonymous, "{name:?}");
        }
        let der = leaf(&[(DnType::CommonName, "ada")], vec![]);
        let dns = options.with_name(CertificateName::Dns);
        assert_eq!(read(dns, &der).await, Principal::Anonymous);
        assert_eq!(read(options, b"").await, Principal::Anonymous);
        assert_eq!(read(options, &der[..40]).await, Principal::Anonymous);
    }

    #[tokio::test]
    async fn credentials_are_for_others() {
        let der = leaf(&[(DnType::CommonName, "ada")], vec![]);
        let certificates = CertificateAuthenticator::default();
        let basic = Credentials::Basic {
            user: "ada".to_owned(),
            password: Password::new("p"),
        };
        for credentials in [basic, Credentials::Bearer(Password::new("t"))] {
            let answer = certificates.authenticate_with(&credentials, Some(&der));
            assert_eq!(answer.await, Err(AuthenticateError::Rejected));
        }
        assert_eq!(
            certificates.authenticate(&Credentials::None).await,
            Ok(Principal::Anonymous)
        );
        let reason = ChallengeReason::LoginRequired;
        assert_eq!(certificates.challenge(&[], reason), None);
    }
}
