//! The rules of the Acumos platform, put together as a configuration says

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use registry_auth::acumos::{
    AcumosAuthorizer, AcumosServices, Answer, CachedDirectory, Cds, CdsAuthenticator, Directory,
    DirectoryAccounts, DirectoryAuthenticator, DirectoryError, EmbeddedDirectory, Endpoint,
    FileDirectory, Lum, Passwords, Query, TagsOf,
};
use registry_auth::htpasswd;
use registry_auth::token::Accounts;
use registry_auth::{Authenticator, Authorizer, Password, Quoted};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::compose::ComposeError;
use crate::config::acumos::{Acumos, Login, Services, Source};

/// Who may do what on an Acumos platform
#[derive(Debug)]
pub struct AcumosGate {
    /// Decides
    pub authorizer: Arc<dyn Authorizer>,
    /// Decides the same, for those who only want to know: nothing counts as a use of a licence
    pub explainer: Arc<dyn Authorizer>,
    /// Knows the users of the platform, where they log in here
    pub authenticator: Option<Arc<dyn Authenticator>>,
    /// Says of these users, without their password, whether they still may log in
    pub accounts: Option<Arc<dyn Accounts>>,
    /// The file of facts, if that is where they are, to be read again when it changes
    pub file: Option<Arc<FileDirectory>>,
}

/// Makes what `config` asks for; `tags` knows which tags lead to content
///
/// The keys in errors begin with `acumos`; [`ComposeError::under`] says what that is under.
///
/// # Errors
///
/// [`ComposeError`] when a value or a file is not as it should be.
///
/// # Panics
///
/// What it makes has to be used within a tokio runtime.
pub fn open(config: &Acumos, tags: Arc<dyn TagsOf>) -> Result<AcumosGate, ComposeError> {
    let decide = |directory: Arc<dyn Directory>| -> Arc<dyn Authorizer> {
        Arc::new(AcumosAuthorizer::new(
            config.rules.clone(),
            directory,
            tags.clone(),
            config.options.clone(),
        ))
    };
    match &config.source {
        // What is in memory or in a file of this machine is asked at once: there is nothing to
        // spare, and what an operator changes is in force.
        Source::Database(path) => {
            let directory = EmbeddedDirectory::open(path)
                .map_err(|error| ComposeError::new("acumos.database", error))?;
            let directory = Arc::new(directory);
            let authorizer = decide(directory.clone());
            let users = users(config.login.as_ref(), directory)?;
            Ok(AcumosGate {
                explainer: authorizer.clone(),
                authorizer,
                authenticator: users.clone().map(|users| users as Arc<dyn Authenticator>),
                accounts: users.map(|users| users as Arc<dyn Accounts>),
                file: None,
            })
        }
        Source::File(path) => {
            let directory = FileDirectory::open(path)
                .map_err(|error| ComposeError::new("acumos.file", error))?;
            let directory = Arc::new(directory);
            let authorizer = decide(directory.clone());
            let users = users(config.login.as_ref(), directory.clone())?;
            Ok(AcumosGate {
                explainer: authorizer.clone(),
                authorizer,
                authenticator: users.clone().map(|users| users as Arc<dyn Authenticator>),
                accounts: users.map(|users| users as Arc<dyn Accounts>),
                file: Some(directory),
            })
        }
        Source::Services(services) => {
            let cds = cds(services)?;
            let asked = directory(services, cds.clone())?;
            let authenticator = match &config.login {
                Some(login) => {
                    let users = CdsAuthenticator::new(cds, realm(login)?, login.options)
                        .map_err(|error| ComposeError::new("acumos", error))?;
                    Some(Arc::new(users) as Arc<dyn Authenticator>)
                }
                None => None,
            };
            let foreseen = Foreseen(asked.clone());
            let cached: Arc<dyn Directory> =
                Arc::new(CachedDirectory::new(asked, config.cache.clone()));
            let accounts = DirectoryAccounts::new(cached.clone());
            Ok(AcumosGate {
                authorizer: decide(cached),
                explainer: decide(Arc::new(foreseen)),
                accounts: authenticator
                    .is_some()
                    .then(|| Arc::new(accounts) as Arc<dyn Accounts>),
                authenticator,
                file: None,
            })
        }
    }
}

/// The users of a directory that is here, where they log in
fn users(
    login: Option<&Login>,
    directory: Arc<impl Passwords>,
) -> Result<Option<Arc<DirectoryAuthenticator>>, ComposeError> {
    let Some(login) = login else {
        return Ok(None);
    };
    DirectoryAuthenticator::new(directory, realm(login)?, htpasswd::Options::default())
        .map(|users| Some(Arc::new(users)))
        .map_err(|error| ComposeError::new("acumos", error))
}

fn realm(login: &Login) -> Result<Quoted, ComposeError> {
    login
        .realm
        .parse()
        .map_err(|error| ComposeError::new("acumos", format!("the realm of logins: {error}")))
}

/// Where the facts are, for people
pub fn describe(config: &Acumos) -> String {
    use crate::compose::whole;

    match &config.source {
        Source::Database(path) => format!("by the Acumos rules with facts in {}", whole(path)),
        Source::File(path) => format!("by the Acumos rules with facts in {}", whole(path)),
        Source::Services(services) => {
            let lum = match &services.lum {
                Some(lum) => format!(" and {}", lum.url),
                None => String::new(),
            };
            format!(
                "by the Acumos rules with facts from {}{lum}",
                services.cds.url
            )
        }
    }
}

fn cds(services: &Services) -> Result<Cds, ComposeError> {
    let wrong = |key: &str, error: &dyn Display| {
        ComposeError::new(format!("acumos.services.cds.{key}"), error)
    };
    let config = &services.cds;
    let mut endpoint = Endpoint::new(config.url.expose())
        .map_err(|error| wrong("url", &error))?
        .with_timeout(services.timeout);
    if let Some(credentials) = &config.credentials {
        let password = credentials
            .password
            .read()
            .map_err(|error| wrong("passwordfile", &error))?;
        endpoint = endpoint
            .with_credentials(&credentials.user, Password::new(password))
            .map_err(|error| wrong("user", &error))?;
    }
    if let Some(path) = &config.ca_file {
        let tls = trusted_by(path).map_err(|error| wrong("cafile", &error))?;
        endpoint = endpoint.with_tls(tls);
    }
    let cds = Cds::new(endpoint).map_err(|error| wrong("url", &error))?;
    Ok(match config.generation {
        Some(generation) => cds.with_generation(generation),
        None => cds,
    })
}

fn directory(services: &Services, cds: Cds) -> Result<AcumosServices, ComposeError> {
    let wrong = |key: &str, error: &dyn Display| {
        ComposeError::new(format!("acumos.services.lum.{key}"), error)
    };
    let asked = AcumosServices::new(cds);
    let Some(config) = &services.lum else {
        return Ok(asked);
    };
    let mut endpoint = Endpoint::new(config.url.expose())
        .map_err(|error| wrong("url", &error))?
        .with_timeout(services.timeout);
    if let Some(path) = &config.ca_file {
        let tls = trusted_by(path).map_err(|error| wrong("cafile", &error))?;
        endpoint = endpoint.with_tls(tls);
    }
    let mut lum = Lum::new(endpoint).map_err(|error| wrong("url", &error))?;
    if let Some(instance) = &config.instance {
        lum = lum.with_instance(instance);
    }
    Ok(asked.with_lum(lum))
}

/// Trusts the authorities in a file and no other
///
/// # Errors
///
/// What is wrong with the file, for the operator.
pub fn trusted_by(path: &Path) -> Result<ClientConfig, String> {
    let shown = path.display();
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(path)
        .map_err(|error| format!("cannot read the authorities `{shown}`: {error}"))?;
    for certificate in certificates {
        certificate
            .map_err(|error| error.to_string())
            .and_then(|certificate| roots.add(certificate).map_err(|error| error.to_string()))
            .map_err(|error| format!("expected certificates in PEM in `{shown}`: {error}"))?;
    }
    if roots.is_empty() {
        return Err(format!(
            "expected certificates in PEM in `{shown}`, found none"
        ));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// Answers as the services do, but does not count a right to use as used
#[derive(Clone, Debug)]
struct Foreseen(AcumosServices);

#[async_trait]
impl Directory for Foreseen {
    async fn answer(&self, query: &Query) -> Result<Answer, DirectoryError> {
        let Query::Right(revision, user) = query else {
            return Directory::answer(&self.0, query).await;
        };
        self.0
            .foresee_right(revision, user)
            .await
            .map(Answer::Right)
            .map_err(|error| DirectoryError::Unavailable {
                retry_after: error.retry_after(),
                cause: error.to_string(),
            })
    }
}
