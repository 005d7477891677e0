//! From a configuration to who is let in, and who may do what

use std::fmt;
use std::fs;
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
use tempfile::NamedTempFile;

use crate::acumos;
use crate::compose::{ComposeError, whole};
use crate::config::{self, Auth, Config, Url};
use crate::rules::RuleFile;
use crate::token_key;
use crate::ways_in::WaysIn;

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
                parts.people.extend(gate.authenticator);
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
                    match parts.people.is_empty() && parts.bearer.is_none() {
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
}

/// What a gate is made of
#[derive(Debug, Default)]
struct Parts {
    /// Know people by name and password
    people: Vec<Arc<dyn Authenticator>>,
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
                self.people.push(htpasswd);
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
        let Some(people) = WaysIn::new(self.people.clone(), None) else {
            return Err(wrong(
                &"expected users to issue tokens to, such as those of `auth.htpasswd`, got none",
            ));
        };
        let realm = match (&config.realm, host) {
            (Some(realm), _) => realm.expose().to_owned(),
            (None, Some(host)) => {
                format!("{}{}", host.expose().trim_end_matches('/'), config.path)
            }
            (None, None) => {
                return Err(wrong(
                    &"expected `realm` or `http.host`, so that clients can be told where to get \
                      tokens",
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
        let own = OwnTokens::new(issuer.clone(), &realm, service, &config.issuer)
            .map_err(|error| wrong(&error))?;
        self.tokens = Some(
            TokenService::builder(issuer, people, authorizer)
                .path(&config.path)
                .keys_path(&config.keys_path)
                .build(),
        );
        self.bearer = Some(own.authenticator.clone());
        self.files
            .push(Reloadable::new("keys of tokens", paths, move || {
                own.reload().map(|()| None)
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
        let knows_people = !self.people.is_empty() || has_rules;
        let (authorizer, explainer): (Arc<dyn Authorizer>, Arc<dyn Authorizer>) =
            match (&self.bearer, knows_people) {
                (None, _) => (authorizer, explainer),
                (Some(_), true) => (Arc::new(WithTokens::new(authorizer)), explainer),
                (Some(_), false) => (Arc::new(Granted), Arc::new(Granted)),
            };
        Gate {
            authenticator: WaysIn::new(self.people, self.bearer)
                .unwrap_or_else(|| Arc::new(Anyone)),
            authorizer,
            explainer,
            tokens: self.tokens,
            files: self.files,
        }
    }
}

/// The tokens of this registry's own issuer, taken by this registry
#[derive(Debug)]
struct OwnTokens {
    issuer: Arc<TokenIssuer>,
    authenticator: Arc<TokenAuthenticator>,
    /// The issuer's public keys, as the authenticator reads them
    keys: NamedTempFile,
}

impl OwnTokens {
    fn new(
        issuer: Arc<TokenIssuer>,
        realm: &str,
        service: &str,
        name: &str,
    ) -> Result<Self, String> {
        let keys = NamedTempFile::new().map_err(|error| error.to_string())?;
        fs::write(keys.path(), issuer.jwks()).map_err(|error| error.to_string())?;
        let options = TokenOptions::new(realm, service, name).with_jwks(keys.path());
        let authenticator = TokenAuthenticator::new(options).map_err(|error| error.to_string())?;
        Ok(Self {
            issuer,
            authenticator: Arc::new(authenticator),
            keys,
        })
    }

    fn reload(&self) -> Result<(), String> {
        self.issuer.reload().map_err(|error| error.to_string())?;
        fs::write(self.keys.path(), self.issuer.jwks()).map_err(|error| error.to_string())?;
        self.authenticator
            .reload()
            .map_err(|error| error.to_string())
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
    fn new(rules: Arc<dyn Authorizer>) -> Self {
        // A token cannot add to what its subject may do, and has no tags.
        let subjects = Arc::new(BySubject::new(rules.clone()));
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
    lines.extend(
        own.tokens
            .as_ref()
            .map(|tokens| format!("issuing tokens at {} as {}", tokens.path, tokens.issuer)),
    );
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
