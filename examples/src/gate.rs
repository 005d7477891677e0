//! From a configuration to who is let in, and who may do what

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use registry_auth::acumos::TagsOf;
use registry_auth::htpasswd::{self, Htpasswd};
use registry_auth::token::{BySubject, IssuerOptions, SigningAlgorithm, TokenIssuer};
use registry_auth::{
    Access, AllowAll, Anyone, Authenticated, Authenticator, AuthorizeError, Authorizer, Both,
    Decision, Granted, Principal, Quoted, Silly, TokenAuthenticator, TokenOptions,
};
use registry_http::TokenService;

use crate::acumos;
use crate::compose::{ComposeError, whole};
use crate::config::{self, Auth, Config};
use crate::rules::RuleFile;
use crate::token_key;

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
    /// Issues tokens, if this registry does so itself
    pub tokens: Option<TokenService>,
    /// What is read from files that may change
    pub files: Vec<Reloadable>,
}

impl Gate {
    /// Makes what `config` asks for; `tags` knows which tags lead to content
    ///
    /// Without anything everyone is anonymous and may do everything. Without rules whoever is let
    /// in may do everything, and the bearer of a token what it grants. Where tokens are issued,
    /// the key is made if it is not there and `make_keys` says so.
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
        parts.log_in(&config.auth)?;
        let own = &config.registry;
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
                parts.basic.extend(gate.authenticator);
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
                let everyone: Arc<dyn Authorizer> =
                    match parts.basic.is_empty() && parts.bearer.is_none() {
                        true => Arc::new(AllowAll),
                        false => Arc::new(Authenticated),
                    };
                (everyone.clone(), everyone)
            }
        };
        parts.build(authorizer, explainer, has_rules)
    }
}

/// What a gate is made of
#[derive(Debug, Default)]
struct Parts {
    /// Know people by name and password
    basic: Vec<Arc<dyn Authenticator>>,
    /// Knows tokens
    bearer: Option<Arc<dyn Authenticator>>,
    tokens: Option<TokenService>,
    files: Vec<Reloadable>,
}

impl Parts {
    /// Adds what distribution's `auth` asks for
    fn log_in(&mut self, auth: &Auth) -> Result<(), ComposeError> {
        match auth {
            Auth::None => {}
            Auth::Silly { realm, service } => self.basic.push(Arc::new(Silly::new(
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
                self.basic.push(htpasswd);
            }
            Auth::Token(token) => {
                let authenticator = TokenAuthenticator::new(token_options(token)?)
                    .map_err(|error| ComposeError::new("auth.token", error))?;
                let authenticator = Arc::new(authenticator);
                let paths = [&token.root_cert_bundle, &token.jwks];
                let paths = paths.into_iter().flatten().cloned().collect();
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

    fn build(
        self,
        authorizer: Arc<dyn Authorizer>,
        explainer: Arc<dyn Authorizer>,
        has_rules: bool,
    ) -> Result<Gate, ComposeError> {
        let authorizer: Arc<dyn Authorizer> = match (&self.bearer, has_rules) {
            (None, _) => authorizer,
            (Some(_), true) => Arc::new(WithTokens::new(
                Arc::new(BySubject::new(authorizer.clone())),
                authorizer,
            )),
            (Some(_), false) => Arc::new(Granted),
        };
        let explainer = match (&self.bearer, has_rules) {
            (Some(_), false) => Arc::new(Granted),
            _ => explainer,
        };
        let mut all = self.basic;
        all.extend(self.bearer);
        let authenticator = match all.pop() {
            None => Arc::new(Anyone) as Arc<dyn Authenticator>,
            Some(only) if all.is_empty() => only,
            Some(_) => {
                return Err(ComposeError::new(
                    "registry.auth",
                    "expected one way to log in, got several",
                ));
            }
        };
        Ok(Gate {
            authenticator,
            authorizer,
            explainer,
            tokens: self.tokens,
            files: self.files,
        })
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
    fn new(subjects: Arc<dyn Authorizer>, others: Arc<dyn Authorizer>) -> Self {
        Self {
            tokens: Both::new(Arc::new(Granted), subjects),
            others,
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

fn quoted(key: &str, text: &str) -> Result<Quoted, ComposeError> {
    text.parse().map_err(|error| ComposeError::new(key, error))
}

fn token_options(token: &config::Token) -> Result<TokenOptions, ComposeError> {
    let mut options = TokenOptions::new(&token.realm, &token.service, &token.issuer);
    if let Some(path) = &token.root_cert_bundle {
        options = options.with_root_certificates(path);
    }
    if let Some(path) = &token.jwks {
        options = options.with_jwks(path);
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

/// Who is let in, for people, and by what is decided; a line each
pub fn describe(config: &Config) -> Vec<String> {
    let own = &config.registry;
    let mut lines = vec![match &config.auth {
        Auth::None
            if own
                .acumos
                .as_ref()
                .is_some_and(|acumos| acumos.login.is_some()) =>
        {
            "for the users of the platform".to_owned()
        }
        Auth::None => "open to everyone who reaches this address".to_owned(),
        Auth::Silly { .. } => {
            "open to everyone who sends an `Authorization` header, whatever is in it".to_owned()
        }
        Auth::Htpasswd { path, .. } => format!("for the users in {}", whole(path)),
        Auth::Token(token) => format!("for those with a token of {}", token.realm),
    }];
    if let Some(rules) = &own.access_rules {
        lines.push(format!("by the rules in {}", whole(rules)));
    }
    lines.extend(own.acumos.as_ref().map(acumos::describe));
    lines
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
