//! Who asks, and may they: what every service of this crate does before anything else

mod limits;
mod refusal;
mod session;

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use http::request::Parts;
use registry_auth::{
    Access, AuthenticateError, Authenticator, Authorizer, ChallengeReason, Credentials, Principal,
    request,
};
use registry_core::upload::UploadId;
use registry_core::{Operation, RepositoryName};

pub(crate) use self::limits::{Limits, TooMany};
pub use self::limits::{Rate, RateLimits};
pub(crate) use self::refusal::{Refusal, absence};
pub use self::session::{SessionSecret, SessionSecretError};
use self::session::{Sessions, Unsealed, Upload};
use crate::credentials::credentials;
use crate::forwarded::Client;
use crate::request_id::RequestId;
use crate::respond::{Cause, Failure};
use crate::tls::ClientCertificate;

/// Says who asks and who may
///
/// Cheap to clone. The services of this crate share one: a registry, a proxy in front of
/// another registry, and what answers for a web server that asks about each of its requests.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
///
/// use registry_auth::{AllowAll, Anyone};
/// use registry_http::{AccessControl, RegistryService};
/// use registry_storage::{Memory, Store};
///
/// let access = AccessControl::new(Arc::new(Anyone), Arc::new(AllowAll));
/// let store = Store::new(Arc::new(Memory::new()));
/// let service = RegistryService::with_access(store, access).build();
/// ```
#[derive(Clone)]
pub struct AccessControl {
    authenticator: Arc<dyn Authenticator>,
    authorizer: Arc<dyn Authorizer>,
    hidden_as_absent: bool,
    limits: Option<Arc<Limits>>,
    request_names: bool,
    sessions: Option<Arc<Sessions>>,
}

impl AccessControl {
    /// `authenticator` says who asks and `authorizer` who may
    pub fn new(authenticator: Arc<dyn Authenticator>, authorizer: Arc<dyn Authorizer>) -> Self {
        Self {
            authenticator,
            authorizer,
            hidden_as_absent: false,
            limits: None,
            request_names: false,
            sessions: None,
        }
    }

    /// Answers as if there were nothing where the denial is
    /// [hidden](registry_auth::Decision::is_hidden); by default it says that it is a denial
    ///
    /// To read a manifest, a blob, tags or referrers then gets the very answer of a repository
    /// that does not exist. To push, to delete, or to go on with an upload is refused with
    /// `DENIED`, in words that are the same whatever there is. Whoever may get further with other
    /// credentials is still asked for them, with 401: who has not logged in, and whose token does
    /// not grant it. Whoever may list all repositories is told their names.
    ///
    /// Who may is decided before the store is asked for anything, so what is hidden takes the
    /// same time whether it is there or not. As nobody asks the disk, it can take less time than
    /// what is not there and may be seen, and it goes on being not there when the storage fails.
    /// So a rule that hides should be about names, not about what has been pushed.
    #[must_use]
    pub fn with_hidden_as_absent(mut self) -> Self {
        self.hidden_as_absent = true;
        self
    }

    /// Limits how often one principal, or one address, may ask; by default nobody is limited
    #[must_use]
    pub fn with_limits(mut self, limits: RateLimits) -> Self {
        self.limits = Some(Arc::new(Limits::new(limits)));
        self
    }

    /// Tells whoever decides the name of the request ([`request::name`]); by default they do
    /// not learn it
    ///
    /// For authenticators and authorizers that ask other services, which are to have it in
    /// their logs, or that write down what they decide. It costs an allocation per request.
    #[must_use]
    pub fn with_request_names(mut self) -> Self {
        self.request_names = true;
        self
    }

    /// What was allowed when an upload began holds until it ends, for at most `lifetime`; by
    /// default it is decided anew for each of its requests
    ///
    /// A push of many gigabytes takes longer than a token is good for. The `Location` of an upload
    /// then has a parameter `_session`: a seal (HMAC-SHA256) that whoever comes back with it got
    /// when it was decided that they may push. It is about this upload in this repository and
    /// about this principal, and good only together with their own credentials. Those may be a
    /// token that has expired meanwhile ([`AuthenticateError::Expired`]), but nothing else may be
    /// wrong with it. Without a seal, or with one that is forged, too old or for something else,
    /// all is as if there were no sessions. Nobody without a name gets one.
    ///
    /// Whoever is no longer allowed to push can so end uploads that they began, but not push the
    /// manifest that makes something of them. Whose account is closed can do neither.
    #[must_use]
    pub fn with_session_secret(mut self, secret: SessionSecret, lifetime: Duration) -> Self {
        self.sessions = Some(Arc::new(Sessions { secret, lifetime }));
        self
    }

    /// What counts those who ask, for who else answers them
    pub(crate) fn limits(&self) -> Option<&Arc<Limits>> {
        self.limits.as_ref()
    }

    /// Who asks; [`AccessControl::authorize`] says whether they may
    ///
    /// In two steps, so that whoever is refused in the second can be named in logs.
    pub(crate) async fn identify(&self, asked: &Asked<'_>) -> Result<Caller, Failure> {
        if let Some(limits) = &self.limits {
            limits.admit_address(asked.client.address, asked.is_pull())?;
        }
        let request = self.request_names.then(|| asked.id.0.clone());
        let found = pin!(self.find(asked));
        let (principal, session) = named(request.clone(), found).await?;
        if let Some(limits) = &self.limits {
            limits.admit_principal(&principal, asked.is_pull())?;
        }
        Ok(Caller {
            principal,
            request,
            session,
        })
    }

    /// Refuses what the operation needs and the caller may not do
    pub(crate) async fn authorize(
        &self,
        asked: &Asked<'_>,
        caller: &Caller,
    ) -> Result<(), Failure> {
        if caller.session.is_some() {
            return Ok(());
        }
        let decided = pin!(self.decide(asked, &caller.principal));
        named(caller.request.clone(), decided).await?;
        if let Some(sessions) = &self.sessions
            && matches!(
                asked.operation,
                Operation::StartUpload { .. }
                    | Operation::UploadChunk { .. }
                    | Operation::UploadStatus { .. }
            )
            && session::identity(&caller.principal).is_some()
            && let Err(error) = Box::pin(sessions.prepare()).await
        {
            // It does not need to outlive a token before there is none that it outlives.
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "this upload session ends with its client's credentials: no secret to seal it with"
            );
        }
        Ok(())
    }

    /// Whether the caller may do something besides what the operation needs
    ///
    /// What cannot be known now is a no: nothing asked here is needed.
    pub(crate) async fn allows(&self, caller: &Caller, access: &Access) -> bool {
        let decision = self.authorizer.authorize(&caller.principal, access);
        let decision = named(caller.request.clone(), decision).await;
        decision.is_ok_and(|decision| decision.is_allow())
    }

    /// The query parameter with which the caller can go on with an upload whatever becomes of
    /// their token; none without sessions, and for nobody without a name
    ///
    /// Only after [`AccessControl::authorize`] has let the caller at this upload, or begin it.
    pub(crate) fn seal(
        &self,
        caller: &Caller,
        name: &RepositoryName,
        id: &UploadId,
    ) -> Option<String> {
        // Its age is that of the decision, however often the caller comes.
        caller.session.clone().or_else(|| {
            let sessions = self.sessions.as_ref()?;
            sessions.seal(Upload { name, id }, &caller.principal)
        })
    }

    /// The principal, and the session in which they are if they are in one
    async fn find(&self, asked: &Asked<'_>) -> Result<(Principal, Option<String>), Failure> {
        let challenge = |reason| {
            self.authenticator
                .challenge(&asked.operation.access(), reason)
        };
        let credentials = match credentials(&asked.parts.headers) {
            Ok(credentials) => credentials,
            Err(_) => match challenge(ChallengeReason::LoginRequired) {
                Some(challenge) => {
                    self.failed(asked, None);
                    return Err(Cause::Unauthenticated {
                        reason: "expected `Authorization: Basic` or `Bearer` with credentials, something else came".to_owned(),
                        challenge,
                    }
                    .into());
                }
                // Where no credentials are ever asked for, it does not matter which came.
                None => Credentials::None,
            },
        };
        let principal = match self.authenticate(asked, &credentials).await {
            Ok(principal) => principal,
            Err(error @ AuthenticateError::Unavailable { retry_after }) => {
                return Err(Cause::Unidentified { error, retry_after }.into());
            }
            Err(error) => {
                // Seldom, and not to be carried along by every request.
                let known = credentials != Credentials::None;
                return Box::pin(self.unauthenticated(asked, known, error)).await;
            }
        };
        // docker and podman learn here, and nowhere else, that there is something to log in
        // to. Whoever brought credentials has learnt it, be they those of an anonymous token.
        if *asked.operation == Operation::Ping
            && principal == Principal::Anonymous
            && credentials == Credentials::None
            && let Some(challenge) = challenge(ChallengeReason::LoginRequired)
        {
            return Err(Cause::Unauthenticated {
                reason: "log in to use this registry".to_owned(),
                challenge,
            }
            .into());
        }
        // Otherwise it is decided as for any request.
        let session = match self.sealable(asked) {
            Some(_) => Box::pin(self.session(asked, &principal)).await.ok(),
            None => None,
        };
        Ok((principal, session))
    }

    /// What follows from credentials that were not taken; `known` if there were any
    async fn unauthenticated(
        &self,
        asked: &Asked<'_>,
        known: bool,
        error: AuthenticateError,
    ) -> Result<(Principal, Option<String>), Failure> {
        let mut reason = error.to_string();
        let why = match &error {
            AuthenticateError::Expired { principal } => {
                match self.session(asked, principal).await {
                    Ok(session) => return Ok((principal.clone(), Some(session))),
                    Err(Unsealed::Not) => {}
                    Err(Unsealed::OtherSecret) => {
                        tracing::warn!(
                            %principal,
                            "an upload was sealed under another secret, so it ended with \
                             its token: all replicas need the same secret for sessions, \
                             or none, which is the one in the storage"
                        );
                        reason.push_str(
                            ", and this replica of the registry does not know the seal of \
                             the upload; its operator gives all replicas the same secret",
                        );
                    }
                    // With it the client may go on as it is.
                    Err(Unsealed::Storage(error)) => return Err(error.into()),
                }
                ChallengeReason::InvalidToken
            }
            AuthenticateError::InvalidToken { .. } => ChallengeReason::InvalidToken,
            _ => ChallengeReason::LoginRequired,
        };
        // A token that was good is no guess.
        if known && !matches!(error, AuthenticateError::Expired { .. }) {
            self.failed(asked, None);
        }
        let challenge = self.authenticator.challenge(&asked.operation.access(), why);
        Err(match challenge {
            Some(challenge) => Cause::Unauthenticated { reason, challenge },
            None => Cause::Denied { reason },
        }
        .into())
    }

    async fn authenticate(
        &self,
        asked: &Asked<'_>,
        credentials: &Credentials,
    ) -> Result<Principal, AuthenticateError> {
        let certificate = asked.parts.extensions.get::<ClientCertificate>();
        match certificate.and_then(|certificate| certificate.chain().next()) {
            None => self.authenticator.authenticate(credentials).await,
            certificate => {
                let found = self
                    .authenticator
                    .authenticate_with(credentials, certificate);
                found.await
            }
        }
    }

    /// The upload that the request goes on with, and who knows its seal, if anybody seals
    fn sealable<'a>(&'a self, asked: &Asked<'a>) -> Option<(&'a Sessions, Upload<'a>)> {
        let sessions = self.sessions.as_deref()?;
        match asked.operation {
            Operation::CancelUpload { name, id }
            | Operation::CompleteUpload { name, id, .. }
            | Operation::UploadChunk { name, id }
            | Operation::UploadStatus { name, id } => Some((sessions, Upload { name, id })),
            _ => None,
        }
    }

    /// The seal that the request brings, if the principal may go on with this upload by it
    async fn session(&self, asked: &Asked<'_>, principal: &Principal) -> Result<String, Unsealed> {
        let (sessions, upload) = self.sealable(asked).ok_or(Unsealed::Not)?;
        let seal = sessions.find(asked.parts.uri.query(), upload, principal);
        seal.await.map(str::to_owned)
    }

    async fn decide(&self, asked: &Asked<'_>, principal: &Principal) -> Result<(), Failure> {
        let needed = asked.operation.access();
        for access in &needed {
            let decision = self.authorizer.authorize(principal, access).await;
            let decision = decision.inspect_err(|error| {
                tracing::warn!(%principal, %access, cause = error.cause, "undecided");
            })?;
            if decision.is_allow() {
                continue;
            }
            tracing::debug!(%principal, %access, rule = decision.rule(), "denied");
            let why = match principal {
                Principal::Anonymous => Some(ChallengeReason::LoginRequired),
                // Clients push with the token of a pull until they are told to get a better one.
                Principal::Token { grants, .. } if !grants.allow_all(&needed) => {
                    Some(ChallengeReason::InsufficientScope)
                }
                _ => None,
            };
            let challenge = why.and_then(|why| self.authenticator.challenge(&needed, why));
            let hides = self.hidden_as_absent && decision.is_hidden();
            if challenge.is_none() {
                if hides && let Some(absence) = absence(asked.operation) {
                    return Err(Failure::hidden(absence));
                }
                self.failed(asked, Some(principal));
            }
            return Err(Cause::Refused(match hides {
                true => Refusal::mute(&needed, challenge),
                false => Refusal::new(&decision, &needed, challenge),
            })
            .into());
        }
        Ok(())
    }

    fn failed(&self, asked: &Asked<'_>, principal: Option<&Principal>) {
        if let Some(limits) = &self.limits {
            limits.failed(asked.client.address, principal);
        }
    }
}

impl fmt::Debug for AccessControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessControl")
            .field("authenticator", &self.authenticator)
            .field("authorizer", &self.authorizer)
            .field("hidden_as_absent", &self.hidden_as_absent)
            .field("limits", &self.limits)
            .field("sessions", &self.sessions)
            .finish_non_exhaustive()
    }
}

/// A request, and what is known of it before it is known who sent it
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    /// The request as its client sent it, to whichever server that was: its headers have the
    /// credentials, and the query has the seal of an upload's session
    pub(crate) parts: &'a Parts,
    pub(crate) client: &'a Client,
    pub(crate) id: &'a RequestId,
    pub(crate) operation: &'a Operation,
}

impl Asked<'_> {
    /// `HEAD` is none: with it clients ask whether they have the image already
    fn is_pull(&self) -> bool {
        self.parts.method == Method::GET && matches!(self.operation, Operation::GetManifest { .. })
    }
}

/// Who sent a request
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) principal: Principal,
    /// The name of the request, where deciders want it
    request: Option<Arc<str>>,
    /// The seal of the upload with which they go on, as a query parameter
    session: Option<String>,
}

/// Runs what decides, with the name of the request if there is one to be told
///
/// `future` is best a pinned reference: this one has room for it three times.
async fn named<F: Future>(name: Option<Arc<str>>, future: F) -> F::Output {
    match name {
        Some(name) => request::on_behalf_of(name, future).await,
        None => future.await,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use bytes::Bytes;
    use http::Request;
    use http_body_util::Empty;
    use registry_auth::AllowAll;

    use super::*;

    /// Knows clients by their certificates, and says which it was shown
    #[derive(Debug, Default)]
    struct Guard(Mutex<Vec<Option<Vec<u8>>>>);

    #[async_trait]
    impl Authenticator for Guard {
        async fn authenticate(&self, _: &Credentials) -> Result<Principal, AuthenticateError> {
            self.0.lock().unwrap().push(None);
            Ok(Principal::Anonymous)
        }

        async fn authenticate_with(
            &self,
            _: &Credentials,
            certificate: Option<&[u8]>,
        ) -> Result<Principal, AuthenticateError> {
            let shown = certificate.map(<[u8]>::to_vec);
            self.0.lock().unwrap().push(shown);
            Ok(Principal::service("builder"))
        }

        fn challenge(&self, _: &[Access], _: ChallengeReason) -> Option<String> {
            Some("Basic realm=\"r\"".to_owned())
        }
    }

    #[tokio::test]
    async fn the_certificate_of_the_connection_reaches_who_says_who_asks() {
        let guard = Arc::new(Guard::default());
        let access = AccessControl::new(guard.clone(), Arc::new(AllowAll));
        let names = ["builder.example".to_owned()];
        let leaf = rcgen::generate_simple_self_signed(names).unwrap();
        let issuer = rcgen::generate_simple_self_signed(["ca.example".to_owned()]).unwrap();
        let der = leaf.cert.der().clone();
        let shown = ClientCertificate::new(vec![der.clone(), issuer.cert.der().clone()]).unwrap();

        let request = Request::get("/v2/").body(Empty::<Bytes>::new()).unwrap();
        let (mut parts, _) = request.into_parts();
        let identify = async |parts: &Parts| {
            let asked = Asked {
                parts,
                client: &Client::default(),
                id: &RequestId("r".into()),
                operation: &Operation::Ping,
            };
            access.identify(&asked).await.map(|caller| caller.principal)
        };
        assert!(identify(&parts).await.is_err());
        parts.extensions.insert(shown);
        let principal = identify(&parts).await.unwrap();
        assert_eq!(principal, Principal::service("builder"));
        assert_eq!(*guard.0.lock().unwrap(), [None, Some(der.to_vec())]);
    }
}
