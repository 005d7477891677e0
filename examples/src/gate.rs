//! From a configuration to who is let in, and who may do what

#[cfg(test)]
mod tests;
mod words;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use registry_auth::acumos::TagsOf;
use registry_auth::htpasswd::{self, Htpasswd};
use registry_auth::token::{
    Accounts, BySubject, ChainAccounts, IssuerOptions, JwksUrl, SigningAlgorithm, TokenIssuer,
};
use registry_auth::{
    Access, AllowAll, Anyone, Audit, Audited, AuthenticateError, Authenticated, Authenticator,
    AuthorizeError, Authorizer, Both, CertificateAuthenticator, Chain, Decision, Granted,
    Principal, Quoted, Silly, TokenAuthenticator, TokenOptions,
};
use registry_http::{TokenService, TokenServiceBuilder};

use crate::acumos;
use crate::audit::AuditLog;
use crate::compose::ComposeError;
use crate::config::{self, Auth, Config, Programs, TokenKeys, Url};
use crate::metrics::Metrics;
use crate::rules::RuleFile;
use crate::service_accounts::{AccountFile, AccountList};
use crate::token_key;

pub use self::words::describe;

/// Who is let in, and who may do what
#[derive(Debug)]
pub struct Gate {
    /// Says who asks
    pub authenticator: Arc<dyn Authenticator>,
    /// Says who may
    pub authorizer: Arc<dyn Authorizer>,
    /// Says the same to those who only want to know: nothing counts as a use of a licence, and
    /// principals need no token
    pub explainer: Arc<dyn Authorizer>,
    /// Issues tokens, if this registry does so itself, once it knows whom the registry counts
    pub tokens: Option<TokenServiceBuilder>,
    /// Checks passwords, if they are in a file of `auth.htpasswd`
    pub htpasswd: Option<Arc<Htpasswd>>,
    /// What is read from files that may change
    pub files: Vec<Reloadable>,
}

impl Gate {
    /// Makes what `config` asks for; `tags` knows which tags lead to content
    ///
    /// Without anything everyone is anonymous and may do everything. Without rules whoever is let
    /// in may do everything, and the bearer of a token what it grants. Where tokens are issued,
    /// the key is made if it is not there.
    ///
    /// # Errors
    ///
    /// [`ComposeError`] when a value or a file is not as it should be. A gate that cannot be
    /// made is never an open one.
    ///
    /// # Panics
    ///
    /// What it makes has to be used within a tokio runtime.
    pub fn open(config: &Config, tags: Arc<dyn TagsOf>) -> Result<Self, ComposeError> {
        let mut parts = Parts::default();
        let own = &config.registry;
        if let Some(accounts) = &own.accounts {
            parts.programs(accounts)?;
        }
        parts.log_in(&config.auth, own.token_ca_file.as_deref())?;
        if let Some(options) = own.certificates {
            let asks = config.http.tls.as_ref().is_some_and(|tls| {
                !matches!(tls.client_auth, config::ClientAuth::None) && !tls.client_cas.is_empty()
            });
            if !asks {
                return Err(ComposeError::new(
                    "registry.auth.certificates",
                    "expected `clientcas` and `clientauth` in the section `tls`, which say who signs \
                     the certificates of clients",
                ));
            }
            parts.certificates = Some(Arc::new(CertificateAuthenticator::new(options)));
        }
        let acumos = match &own.acumos {
            Some(section) => {
                let gate =
                    acumos::open(section, tags).map_err(|error| error.under("registry.access"))?;
                parts.files.extend(gate.file.map(|file| {
                    let paths = vec![file.path().to_owned()];
                    Reloadable::new("facts about the platform", paths, move || {
                        file.reload().map(|()| None)
                    })
                }));
                parts.people.extend(gate.authenticator);
                parts.accounts.extend(gate.accounts);
                Some((gate.authorizer, gate.explainer))
            }
            None => None,
        };
        let rules: Option<Arc<dyn Authorizer>> = match &own.access_rules {
            Some(path) => {
                let rules = RuleFile::open(path)
                    .map_err(|error| ComposeError::new("registry.access.rules", error))?;
                let rules = Arc::new(rules);
                let read = rules.clone();
                parts
                    .files
                    .push(Reloadable::new("rules", vec![path.clone()], move || {
                        read.reload().map(Some)
                    }));
                Some(rules)
            }
            None => None,
        };
        let has_rules = rules.is_some() || acumos.is_some();
        let (authorizer, explainer) = match (rules, acumos) {
            // The rules of a file first: asking about a right may count as a use of it.
            (Some(rules), Some((acumos, explainer))) => (
                Arc::new(Both::new(rules.clone(), acumos)) as Arc<dyn Authorizer>,
                Arc::new(Both::new(rules, explainer)) as Arc<dyn Authorizer>,
            ),
            (None, Some(acumos)) => acumos,
            (Some(rules), None) => (rules.clone(), rules),
            (None, None) => {
                let everyone: Arc<dyn Authorizer> = match parts.is_empty() {
                    true => Arc::new(AllowAll),
                    false => Arc::new(Authenticated),
                };
                (everyone.clone(), everyone)
            }
        };
        if let Some(tokens) = &own.tokens {
            parts.issue(tokens, config.http.host.as_ref(), authorizer.clone())?;
        }
        Ok(parts.build(authorizer, explainer, has_rules))
    }

    /// Counts decisions and checks of passwords in `metrics`, and writes the decisions to `audit`
    pub fn watch(&mut self, metrics: &Arc<Metrics>, audit: Option<Arc<AuditLog>>) {
        if let Some(htpasswd) = self.htpasswd.clone() {
            metrics.watch_htpasswd(move || htpasswd.counts());
        }
        let counted: Arc<dyn Audit> = metrics.clone();
        let audits = [Some(counted), audit.map(|audit| audit as Arc<dyn Audit>)];
        for audit in audits.into_iter().flatten() {
            self.authorizer = Arc::new(Audited::new(self.authorizer.clone(), audit));
        }
    }
}

/// What a gate is made of
#[derive(Debug, Default)]
struct Parts {
    /// Know people by name and password
    people: Vec<Arc<dyn Authenticator>>,
    /// Those of them that say of someone, without a password, whether they still may log in
    accounts: Vec<Arc<dyn Accounts>>,
    /// Knows who has a certificate, which a token service is not shown
    certificates: Option<Arc<dyn Authenticator>>,
    /// Knows tokens
    bearer: Option<Arc<dyn Authenticator>>,
    tokens: Option<TokenServiceBuilder>,
    htpasswd: Option<Arc<Htpasswd>>,
    files: Vec<Reloadable>,
}

impl Parts {
    /// Whether nobody is known
    fn is_empty(&self) -> bool {
        self.people.is_empty() && self.certificates.is_none() && self.bearer.is_none()
    }

    /// Adds programs with secrets of their own, whose names nobody else can have
    fn programs(&mut self, config: &Programs) -> Result<(), ComposeError> {
        let (accounts, files) = match config {
            Programs::File { realm, path } => {
                let realm = quoted("registry.auth.accounts.realm", realm)?;
                let file = AccountFile::open(path, realm)
                    .map_err(|error| ComposeError::new("registry.auth.accounts.path", error))?;
                let accounts = file.accounts();
                let files =
                    Reloadable::new("accounts of programs", vec![path.clone()], move || {
                        file.reload().map(Some)
                    });
                (accounts, files)
            }
            Programs::Listed { realm, accounts } => {
                let wrong = |error: &dyn fmt::Display| ComposeError::new("serviceaccounts", error);
                let realm = realm.parse().map_err(|error| wrong(&error))?;
                let list =
                    AccountList::open(accounts.clone(), realm).map_err(|error| wrong(&error))?;
                let accounts = list.accounts();
                let paths = list.paths().map(ToOwned::to_owned).collect();
                let files = Reloadable::new("secrets of programs", paths, move || {
                    list.reload().map(Some)
                });
                (accounts, files)
            }
        };
        self.people.push(accounts.clone());
        self.accounts.push(accounts);
        self.files.push(files);
        Ok(())
    }

    /// Adds what distribution's `auth` asks for
    fn log_in(&mut self, auth: &Auth, ca_file: Option<&Path>) -> Result<(), ComposeError> {
        match auth {
            Auth::None => {}
            Auth::Silly { realm, service } => self.people.push(Arc::new(Silly::new(
                quoted("auth.silly.realm", realm)?,
                quoted("auth.silly.service", service)?,
            ))),
            Auth::Htpasswd { realm, path } => {
                let realm = quoted("auth.htpasswd.realm", realm)?;
                let htpasswd = Htpasswd::open(path, realm, htpasswd::Options::default())
                    .map_err(|error| ComposeError::new("auth.htpasswd.path", error))?;
                let htpasswd = Arc::new(htpasswd);
                let read = htpasswd.clone();
                self.files
                    .push(Reloadable::new("users", vec![path.clone()], move || {
                        read.reload().map(Some)
                    }));
                self.people.push(htpasswd.clone());
                self.accounts.push(htpasswd.clone());
                self.htpasswd = Some(htpasswd);
            }
            Auth::Token(token) => {
                let options = token_options(token, ca_file)?;
                let authenticator = TokenAuthenticator::new(options)
                    .map_err(|error| ComposeError::new("auth.token", error))?;
                let authenticator = Arc::new(authenticator);
                let jwks = match &token.jwks {
                    Some(TokenKeys::File(path)) => Some(path),
                    Some(TokenKeys::Url(_)) | None => None,
                };
                let paths = token.root_cert_bundle.iter().chain(jwks);
                let paths = paths.cloned().collect();
                let read = authenticator.clone();
                self.files
                    .push(Reloadable::new("keys of tokens", paths, move || {
                        read.reload().map(|()| None)
                    }));
                self.bearer = Some(authenticator);
            }
        }
        Ok(())
    }

    /// Adds the tokens of this registry: they are issued to people who log in by the ways there
    /// are so far, as far as `authorizer` allows, and are a way to log in themselves
    fn issue(
        &mut self,
        config: &config::Tokens,
        host: Option<&Url>,
        authorizer: Arc<dyn Authorizer>,
    ) -> Result<(), ComposeError> {
        let wrong = |problem: &dyn fmt::Display| ComposeError::new("registry.tokens", problem);
        if self.bearer.is_some() {
            return Err(wrong(
                &"expected one issuer of tokens, got two: take this or `auth.token` away",
            ));
        }
        if self.people.is_empty() {
            return Err(wrong(
                &"expected users to issue tokens to, such as those of `auth.htpasswd`, got none",
            ));
        }
        let people = Arc::new(Chain::new(self.people.clone()));
        let realm = match (&config.realm, host) {
            (Some(realm), _) => realm.expose().to_owned(),
            (None, Some(host)) => {
                format!("{}{}", host.expose().trim_end_matches('/'), config.path)
            }
            (None, None) => {
                return Err(wrong(
                    &"expected `realm`, or the `host` that clients reach, so that they can be told \
                      where to get tokens",
                ));
            }
        };
        let [service, others @ ..] = &config.services[..] else {
            return Err(wrong(&"expected one of `services` at least"));
        };
        let made = token_key::ensure(&config.key, config.certificates.as_deref(), &config.issuer)
            .map_err(|error| ComposeError::new("registry.tokens.key", error))?;
        if made {
            tracing::info!(key = %config.key.display(), "a key to sign tokens with was made");
        }
        let mut options = IssuerOptions::new(&config.issuer, service, &config.key)
            .with_lifetime(config.lifetime)
            .with_refresh_lifetime(config.refresh_lifetime);
        let mut paths = vec![config.key.clone()];
        for other in others {
            options = options.with_service(other);
        }
        if let Some(path) = &config.certificates {
            options = options.with_certificates(path);
            paths.push(path.clone());
        }
        if let Some(path) = &config.former_keys {
            options = options.with_former_keys(path);
            paths.push(path.clone());
        }
        let issuer = Arc::new(TokenIssuer::new(options).map_err(|error| wrong(&error))?);
        // It has the keys that the issuer has, whichever these are by then.
        let own = TokenAuthenticator::of_issuer(issuer.clone(), &realm, service)
            .map_err(|error| wrong(&error))?;
        let mut service = TokenService::builder(issuer.clone(), people, authorizer)
            .path(&config.path)
            .keys_path(&config.keys_path);
        // A refresh token that is given to some and later taken from none is worse than none.
        if self.accounts.len() == self.people.len() {
            // Where there is one for each, they came in the same order.
            let pairs = self.people.iter().cloned().zip(self.accounts.clone());
            let chain = pairs.fold(ChainAccounts::default(), |chain, (people, accounts)| {
                chain.with(people, accounts)
            });
            service = service.accounts(Arc::new(chain));
        }
        self.tokens = Some(service);
        self.bearer = Some(Arc::new(own));
        self.files
            .push(Reloadable::new("keys of tokens", paths, move || {
                issuer.reload().map(|()| None)
            }));
        Ok(())
    }

    fn build(
        self,
        authorizer: Arc<dyn Authorizer>,
        explainer: Arc<dyn Authorizer>,
        has_rules: bool,
    ) -> Gate {
        // A token of another issuer is all that is known of its bearer. With users or rules of
        // one's own, it also matters what these say of whom it is about.
        let knows_people = !self.people.is_empty() || self.certificates.is_some() || has_rules;
        let (authorizer, explainer): (Arc<dyn Authorizer>, Arc<dyn Authorizer>) =
            match (&self.bearer, knows_people) {
                (None, _) => (authorizer, explainer),
                (Some(_), true) => {
                    let accounts = Arc::new(AnyAccounts(self.accounts));
                    (Arc::new(WithTokens::new(authorizer, accounts)), explainer)
                }
                (Some(_), false) => (Arc::new(Granted), Arc::new(Granted)),
            };
        // Tokens first: where they are taken, clients are asked for them.
        let ways = self.bearer.into_iter().chain(self.people);
        let ways: Vec<Arc<dyn Authenticator>> = ways.chain(self.certificates).collect();
        let authenticator: Arc<dyn Authenticator> = match &ways[..] {
            [] => Arc::new(Anyone),
            [only] => only.clone(),
            _ => Arc::new(Chain::new(ways)),
        };
        Gate {
            authenticator,
            authorizer,
            explainer,
            tokens: self.tokens,
            htpasswd: self.htpasswd,
            files: self.files,
        }
    }
}

/// Decides about bearers of tokens by what the tokens grant and what rules say, and about
/// everybody else by the rules
#[derive(Debug)]
struct WithTokens {
    tokens: Both,
    others: Arc<dyn Authorizer>,
}

impl WithTokens {
    fn new(rules: Arc<dyn Authorizer>, accounts: Arc<AnyAccounts>) -> Self {
        // A token cannot add to what its subject may do, and has no tags.
        let subjects = Arc::new(ByAccount {
            accounts,
            known: rules.clone(),
            others: BySubject::new(rules.clone()),
        });
        Self {
            tokens: Both::new(Arc::new(Granted), subjects),
            others: rules,
        }
    }
}

#[async_trait]
impl Authorizer for WithTokens {
    async fn authorize(
        &self,
        principal: &Principal,
        access: &Access,
    ) -> Result<Decision, AuthorizeError> {
        match principal {
            Principal::Token { .. } => self.tokens.authorize(principal, access).await,
            other => self.others.authorize(other, access).await,
        }
    }
}

/// Decides about the subject of a token as about the account of that name, with its kind and
/// roles, where there is one
#[derive(Debug)]
struct ByAccount {
    accounts: Arc<AnyAccounts>,
    known: Arc<dyn Authorizer>,
    others: BySubject,
}

#[async_trait]
impl Authorizer for ByAccount {
    async fn authorize(
        &self,
        principal: &Principal,
        access: &Access,
    ) -> Result<Decision, AuthorizeError> {
        if let Principal::Token {
            subject: Some(name),
            ..
        } = principal
        {
            match self.accounts.account(name, SystemTime::now()).await {
                Ok(account) => return self.known.authorize(&account, access).await,
                Err(AuthenticateError::Unavailable { retry_after }) => {
                    return Err(AuthorizeError {
                        retry_after,
                        cause: "the accounts of those who have tokens cannot be asked".to_owned(),
                    });
                }
                Err(_) => {}
            }
        }
        self.others.authorize(principal, access).await
    }
}

/// The accounts of several ways to log in, to know what the subject of a token is now
///
/// An account is that of the first that has one of this name, which is asked first at a login too.
#[derive(Debug)]
struct AnyAccounts(Vec<Arc<dyn Accounts>>);

#[async_trait]
impl Accounts for AnyAccounts {
    async fn account(&self, name: &str, since: SystemTime) -> Result<Principal, AuthenticateError> {
        let mut answer = Err(AuthenticateError::Rejected);
        for accounts in &self.0 {
            match accounts.account(name, since).await {
                Ok(principal) => return Ok(principal),
                Err(AuthenticateError::Rejected) => {}
                Err(error) => answer = Err(error),
            }
        }
        answer
    }
}

fn quoted(key: &str, text: &str) -> Result<Quoted, ComposeError> {
    text.parse().map_err(|error| ComposeError::new(key, error))
}

fn token_options(
    token: &config::Token,
    ca_file: Option<&Path>,
) -> Result<TokenOptions, ComposeError> {
    let mut options = TokenOptions::new(&token.realm, &token.service, &token.issuer);
    if let Some(path) = &token.root_cert_bundle {
        options = options.with_root_certificates(path);
    }
    match (&token.jwks, ca_file) {
        (Some(TokenKeys::Url(url)), ca_file) => {
            let mut url = JwksUrl::new(url.expose())
                .map_err(|error| ComposeError::new("auth.token.jwks", error))?;
            if let Some(path) = ca_file {
                let tls = acumos::trusted_by(path)
                    .map_err(|error| ComposeError::new("registry.auth.token.cafile", error))?;
                url = url.with_tls(tls);
            }
            options = options.with_jwks_url(url);
        }
        (_, Some(_)) => {
            return Err(ComposeError::new(
                "registry.auth.token.cafile",
                "expected an `https://` URL as `auth.token.jwks`, whose authorities these are",
            ));
        }
        (Some(TokenKeys::File(path)), None) => options = options.with_jwks(path),
        (None, None) => {}
    }
    if !token.signing_algorithms.is_empty() {
        let algorithms: Result<Vec<SigningAlgorithm>, _> = token
            .signing_algorithms
            .iter()
            .map(|name| name.parse())
            .collect();
        options = options.with_algorithms(
            algorithms.map_err(|error| ComposeError::new("auth.token.signingalgorithms", error))?,
        );
    }
    Ok(options)
}

/// Something that is read from files, and can be read again
#[derive(Clone)]
pub struct Reloadable {
    what: &'static str,
    paths: Vec<PathBuf>,
    read: Arc<dyn Fn() -> Result<Option<usize>, String> + Send + Sync>,
}

impl Reloadable {
    /// The files
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Reads them again, where that may block, and logs what came of it
    ///
    /// What was in force stays so when something is wrong with them.
    pub fn reload(&self) {
        let what = self.what;
        match (self.read)() {
            Ok(Some(count)) => tracing::info!(count, "{what} read again"),
            Ok(None) => tracing::info!("{what} read again"),
            Err(error) => tracing::error!("{error}; the {what} that were in force stay so"),
        }
    }

    fn new<E: fmt::Display>(
        what: &'static str,
        paths: Vec<PathBuf>,
        read: impl Fn() -> Result<Option<usize>, E> + Send + Sync + 'static,
    ) -> Self {
        Self {
            what,
            paths,
            read: Arc::new(move || read().map_err(|error| error.to_string())),
        }
    }
}

impl fmt::Debug for Reloadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloadable")
            .field("what", &self.what)
            .field("paths", &self.paths)
            .finish_non_exhaustive()
    }
}
