//! What is issued is accepted, and is never more than was asked for or is allowed

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use proptest::prelude::*;
use registry_auth::token::{
    Accounts, IssueError, IssuedToken, IssuerOptions, ResourceActions, Scope, TokenIssuer,
    TokenVerifier,
};
use registry_auth::{
    Access, Action, AllowAll, AuthenticateError, Authenticator, AuthorizeError, Authorizer,
    Credentials, Decision, Granted, Password, Policy, Principal, PullOnly, Resource,
    TokenAuthenticator, TokenOptions,
};
use serde_json::Value;

use crate::reference::Reference;
use crate::support::{ISSUER, REALM, SERVICE, Signer, World, pem};

/// Files with the key and the certificate of a signer
fn files(world: &World, signer: &Signer, name: &str) -> (PathBuf, PathBuf) {
    let key = world.folder.path().join(format!("{name}.key"));
    let certificate = world.folder.path().join(format!("{name}.pem"));
    fs::write(&key, pem("PRIVATE KEY", signer.pair.serialized_der())).unwrap();
    fs::write(&certificate, signer.certificate_pem()).unwrap();
    (key, certificate)
}

fn options(world: &World, signer: &Signer) -> IssuerOptions {
    let (key, certificate) = files(world, signer, "signer");
    IssuerOptions::new(ISSUER, SERVICE, key).with_certificates(certificate)
}

async fn issue(
    issuer: &TokenIssuer,
    principal: &Principal,
    wanted: &str,
    authorizer: &dyn Authorizer,
) -> IssuedToken {
    let wanted: Scope = wanted.parse().unwrap();
    let now = SystemTime::now();
    let issued = issuer.issue(principal, SERVICE, &wanted, authorizer, now);
    issued.await.unwrap()
}

fn bearer(token: &Password) -> Credentials {
    Credentials::Bearer(token.clone())
}

#[tokio::test]
async fn tokens_of_every_kind_of_key_are_accepted() {
    let world = World::new();
    for signer in [&world.root, &world.p384, &world.rsa, &world.ed25519] {
        // By the certificate, and by the key set that the issuer publishes itself.
        let (key, certificate) = files(&world, signer, "any");
        let plain = IssuerOptions::new(ISSUER, SERVICE, &key);
        for options in [plain.clone(), plain.with_certificates(&certificate)] {
            let with_chain = options.certificates.is_some();
            let issuer = TokenIssuer::new(options).unwrap();
            let jwks = world.folder.path().join("issued.json");
            fs::write(&jwks, issuer.jwks()).unwrap();
            let accepting = TokenOptions::new(REALM, SERVICE, ISSUER);
            let accepting = match with_chain {
                true => accepting.with_root_certificates(&certificate),
                false => accepting.with_jwks(jwks),
            };
            let authenticator = TokenAuthenticator::new(accepting).unwrap();
            let ada = Principal::user("ada");
            let issued = issue(&issuer, &ada, "repository:a/b:pull,push", &PullOnly).await;
            assert_eq!(issued.scope.to_string(), "repository:a/b:pull");
            assert_eq!(issued.lifetime, Duration::from_secs(300));
            let principal = authenticator.authenticate(&bearer(&issued.token)).await;
            let Ok(Principal::Token { subject, grants }) = principal else {
                panic!("{:?}: {principal:?}", signer.algorithm);
            };
            assert_eq!(subject.as_deref(), Some("ada"));
            assert_eq!(grants.iter().count(), 1);
            assert!(!format!("{issued:?}").contains(issued.token.expose()));
        }
        let set: Value = {
            let issuer = TokenIssuer::new(options(&world, signer)).unwrap();
            serde_json::from_str(&issuer.jwks()).unwrap()
        };
        assert_eq!(set["keys"][0]["kid"], signer.thumbprint());
        assert_eq!(set["keys"][0]["use"], "sig");
        assert_eq!(set["keys"].as_array().unwrap().len(), 1);
        assert!(set["keys"][0].get("d").is_none());
    }
}

#[tokio::test]
async fn an_issuer_is_trusted_with_the_keys_that_it_has_at_the_moment() {
    let world = World::new();
    let key = world.folder.path().join("own.key");
    let certificates = world.folder.path().join("own.pem");
    let former = world.folder.path().join("former.pem");
    let sign_with = |signer: &Signer, before: &str| {
        fs::write(&key, pem("PRIVATE KEY", signer.pair.serialized_der())).unwrap();
        fs::write(&certificates, signer.certificate_pem()).unwrap();
        fs::write(&former, before).unwrap();
    };
    sign_with(&world.root, &world.ed25519.certificate_pem());
    let plain = IssuerOptions::new(ISSUER, SERVICE, &key).with_former_keys(&former);
    for options in [plain.clone(), plain.with_certificates(&certificates)] {
        sign_with(&world.root, &world.ed25519.certificate_pem());
        let issuer = Arc::new(TokenIssuer::new(options).unwrap());
        let authenticator = TokenAuthenticator::of_issuer(issuer.clone(), REALM, SERVICE).unwrap();
        let ada = Principal::user("ada");
        let token = async || {
            issue(&issuer, &ada, "repository:a/b:pull", &PullOnly)
                .await
                .token
        };
        let is_good = async |token: &Password| {
            let answer = authenticator.authenticate(&bearer(token)).await;
            answer.is_ok_and(|principal| principal.name() == Some("ada"))
        };
        let first = token().await;
        assert!(is_good(&first).await);
        // Another one signed by who is not this issuer, under its name.
        let other = Password::new(world.p384.token(&crate::support::claims()));
        assert!(!is_good(&other).await);

        // The key changes, and the old one is kept for a while.
        sign_with(&world.p384, &world.root.certificate_pem());
        issuer.reload().unwrap();
        let second = token().await;
        assert!(is_good(&second).await && is_good(&first).await);
        sign_with(&world.p384, &world.ed25519.certificate_pem());
        issuer.reload().unwrap();
        assert!(is_good(&second).await && !is_good(&first).await);
        // There is no file of its own to be read.
        authenticator.reload().unwrap();
        assert!(is_good(&second).await);

        // What refreshes is nothing to a registry.
        let now = SystemTime::now();
        let refresh = issuer.issue_refresh(&ada, SERVICE, now).unwrap().unwrap();
        assert!(!is_good(&refresh).await);
        let error = TokenAuthenticator::of_issuer(issuer, REALM, "other").unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("expected a service of the issuer, which are `{SERVICE}`, got `other`")
        );
    }
}

#[tokio::test]
async fn a_token_is_good_for_its_time_and_service_only() {
    let world = World::new();
    let options = options(&world, &world.root)
        .with_service("other.example")
        .with_lifetime(Duration::from_secs(90));
    let issuer = TokenIssuer::new(options).unwrap();
    let wanted = Scope::default();
    let now = SystemTime::now();
    let ada = Principal::user("ada");
    let token = |service| issuer.issue(&ada, service, &wanted, &AllowAll, now);
    let verifier = TokenVerifier::new(&world.options().with_leeway(Duration::ZERO)).unwrap();
    let good = token(SERVICE).await.unwrap();
    let verify = |at| verifier.verify(good.token.expose(), at);
    let claims = verify(now).unwrap();
    assert!(claims.access.is_empty());
    assert_eq!(claims.audience, [SERVICE]);
    assert!(claims.id.is_some_and(|id| id.len() >= 22));
    assert!(verify(now + Duration::from_secs(90)).is_ok());
    assert!(verify(now + Duration::from_secs(92)).is_err());
    assert!(verify(now - Duration::from_secs(2)).is_err());
    let other = token("other.example").await.unwrap();
    assert!(verifier.verify(other.token.expose(), now).is_err());
    assert_eq!(
        token("elsewhere").await,
        Err(IssueError::Service {
            got: "elsewhere".to_owned()
        })
    );
    let first = verifier.verify(token(SERVICE).await.unwrap().token.expose(), now);
    assert_ne!(first.unwrap().id, verify(now).unwrap().id);

    let bearer = Principal::Token {
        subject: Some("ada".to_owned()),
        grants: Default::default(),
    };
    let exchanged = issuer
        .issue(&bearer, SERVICE, &wanted, &AllowAll, now)
        .await;
    assert_eq!(exchanged, Err(IssueError::TokenForToken));
}

#[derive(Debug)]
struct Silent;

#[async_trait]
impl Authorizer for Silent {
    async fn authorize(&self, _: &Principal, _: &Access) -> Result<Decision, AuthorizeError> {
        Err(AuthorizeError {
            retry_after: Duration::from_secs(7),
            cause: "down".to_owned(),
        })
    }
}

#[tokio::test]
async fn what_cannot_be_decided_is_not_granted() {
    let world = World::new();
    let issuer = TokenIssuer::new(options(&world, &world.root)).unwrap();
    let wanted = "repository:a:pull".parse().unwrap();
    let now = SystemTime::now();
    let issued = issuer.issue(&Principal::Anonymous, SERVICE, &wanted, &Silent, now);
    assert!(matches!(issued.await, Err(IssueError::Undecided(error)) if error.cause == "down"));
}

/// Everything but deletions, though `*` too if it is asked for as such
#[derive(Debug)]
struct NoDelete;

impl Policy for NoDelete {
    fn decide(&self, _: &Principal, access: &Access) -> Decision {
        match access.action {
            Action::Delete => Decision::deny("no-delete", "no"),
            _ => Decision::allow("rest", "yes"),
        }
    }
}

#[tokio::test]
async fn everything_is_what_is_allowed_of_it() {
    let world = World::new();
    let issuer = TokenIssuer::new(options(&world, &world.root)).unwrap();
    let cases: [(&str, &dyn Authorizer, &str); 8] = [
        ("repository:a:*", &AllowAll, "repository:a:*"),
        ("repository:a:*", &NoDelete, "repository:a:pull,push"),
        ("repository:a:*,delete", &NoDelete, "repository:a:pull,push"),
        ("repository:a:*", &PullOnly, "repository:a:pull"),
        ("registry:catalog:*", &PullOnly, "registry:catalog:*"),
        ("repository:a:push repository:b:push,frob", &PullOnly, ""),
        (
            "repository(plugin):a:pull repository:a:push storage:a:pull repository:h:1/a:pull",
            &AllowAll,
            "repository:a:pull,push",
        ),
        ("", &AllowAll, ""),
    ];
    for (wanted, authorizer, expected) in cases {
        let issued = issue(&issuer, &Principal::Anonymous, wanted, authorizer).await;
        assert_eq!(issued.scope.to_string(), expected, "{wanted}");
    }
}

/// Allows exactly these
#[derive(Debug)]
struct Exactly(BTreeSet<(String, Action)>);

impl Policy for Exactly {
    fn decide(&self, _: &Principal, access: &Access) -> Decision {
        assert!(access.reference.is_none(), "a scope has no tag");
        let name = match &access.resource {
            Resource::Repository(name) => name.to_string(),
            _ => "catalog".to_owned(),
        };
        match self.0.contains(&(name, access.action)) {
            true => Decision::allow("listed", "yes"),
            false => Decision::deny("unlisted", "no"),
        }
    }
}

const ACTIONS: [Action; 4] = [Action::Pull, Action::Push, Action::Delete, Action::All];

fn listed() -> impl Strategy<Value = BTreeSet<(String, Action)>> {
    let entry = (
        prop::sample::select(vec!["a", "a/b", "c", "catalog"]).prop_map(str::to_owned),
        prop::sample::select(ACTIONS.to_vec()),
    );
    prop::collection::btree_set(entry, 0..12)
}

fn wanted() -> impl Strategy<Value = Vec<ResourceActions>> {
    let resource = prop::sample::select(vec![
        ("repository", "a"),
        ("repository", "a/b"),
        ("repository", "c"),
        ("registry", "catalog"),
        ("registry", "other"),
    ]);
    let actions = prop::collection::vec(
        prop::sample::select(vec!["pull", "push", "delete", "*", "frob"]),
        0..5,
    );
    let one = (resource, actions)
        .prop_map(|((kind, name), actions)| ResourceActions::new(kind, None, name, actions));
    prop::collection::vec(one.prop_map(Result::unwrap), 0..6)
}

/// An issuer and what accepts its tokens: keys take long to make
static PAIR: LazyLock<(TokenIssuer, TokenVerifier)> = LazyLock::new(|| {
    let world = World::new();
    let issuer = TokenIssuer::new(options(&world, &world.root)).unwrap();
    (issuer, TokenVerifier::new(&world.options()).unwrap())
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn never_more_than_asked_for_nor_than_allowed(allowed in listed(), wanted in wanted()) {
        let (issuer, verifier) = &*PAIR;
        let scope: Scope = wanted.iter().cloned().collect();
        let policy = Exactly(allowed);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let now = SystemTime::now();
        let user = Principal::user("ada");
        let issued = issuer.issue(&user, SERVICE, &scope, &policy, now);
        let token = runtime.block_on(issued).unwrap().token;
        // What counts is what the token says to a registry.
        let claims = verifier.verify(token.expose(), now).unwrap();
        let asked = |access: &Access| wanted.iter().flat_map(ResourceActions::accesses)
            .any(|asked| asked.resource == access.resource
                && [access.action, Action::All].contains(&asked.action));
        let principal = Principal::Token {
            subject: None,
            grants: claims.access.iter().collect(),
        };
        for name in ["a", "a/b", "c", "catalog"] {
            let resource = match name {
                "catalog" => Resource::Catalog,
                name => Resource::Repository(name.parse().unwrap()),
            };
            for action in ACTIONS {
                let access = Access { resource: resource.clone(), action, reference: None };
                let granted = Granted.decide(&principal, &access).is_allow();
                let listed = policy.decide(&user, &access).is_allow();
                // The only use of the catalog is `*`, which is never given piece by piece.
                if resource == Resource::Catalog && action != Action::All {
                    continue;
                }
                if granted {
                    prop_assert!(asked(&access) && listed, "{access} of {claims:?}");
                }
                // And no less, where it was named.
                let named = wanted.iter().flat_map(ResourceActions::accesses)
                    .any(|asked| asked == access);
                if named && listed && action != Action::All {
                    prop_assert!(granted, "{access} of {claims:?}");
                }
            }
        }
    }
}

/// `ada`, whose logins before a time do not count
#[derive(Debug)]
struct Ada(SystemTime);

#[async_trait]
impl Accounts for Ada {
    async fn account(&self, name: &str, since: SystemTime) -> Result<Principal, AuthenticateError> {
        match name {
            "ada" if since >= self.0 => Ok(Principal::user("ada").with_roles(["new"])),
            _ => Err(AuthenticateError::Rejected),
        }
    }
}

#[tokio::test]
async fn a_refresh_token_stands_for_its_owner_as_long_as_it_may() {
    let world = World::new();
    let issuer = TokenIssuer::new(options(&world, &world.root).with_service("b")).unwrap();
    let now = SystemTime::now();
    let refresh_of = |user| issuer.issue_refresh(&Principal::user(user), SERVICE, now);
    let token = refresh_of("ada").unwrap().unwrap();
    let always = Ada(SystemTime::UNIX_EPOCH);
    let used = issuer.refresh(&token, SERVICE, &always, now).await.unwrap();
    assert!(used.has_role("new"), "as the account is now");

    let days = |days: u64| now + Duration::from_secs(days * 24 * 60 * 60);
    assert!(
        issuer
            .refresh(&token, SERVICE, &always, days(89))
            .await
            .is_ok()
    );
    let invalid = |result| matches!(result, Err(AuthenticateError::InvalidToken { .. }));
    assert!(invalid(
        issuer.refresh(&token, SERVICE, &always, days(91)).await
    ));
    assert!(invalid(issuer.refresh(&token, "b", &always, now).await));
    assert!(invalid(issuer.refresh(&token, "c", &always, now).await));
    // A token for the registry is none to get others with, and the other way round.
    let access = issue(&issuer, &Principal::user("ada"), "", &AllowAll).await;
    assert!(invalid(
        issuer.refresh(&access.token, SERVICE, &always, now).await
    ));
    let registry = TokenAuthenticator::new(world.options()).unwrap();
    assert!(invalid(registry.authenticate(&bearer(&token)).await));

    // Called off: the account is gone, its password changed.
    let bob = refresh_of("bob").unwrap().unwrap();
    let rejected = Err(AuthenticateError::Rejected);
    assert_eq!(issuer.refresh(&bob, SERVICE, &always, now).await, rejected);
    let changed = Ada(now + Duration::from_secs(2));
    assert_eq!(
        issuer.refresh(&token, SERVICE, &changed, now).await,
        rejected
    );

    assert_eq!(
        issuer.issue_refresh(&Principal::Anonymous, SERVICE, now),
        Ok(None)
    );
    let service = Principal::service("builder");
    assert!(
        issuer
            .issue_refresh(&service, SERVICE, now)
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn a_key_is_rolled_and_taken_away() {
    let world = World::new();
    let first = options(&world, &world.root);
    let former = first.certificates.clone().unwrap();
    fs::copy(&former, world.folder.path().join("former.pem")).unwrap();
    let issuer = TokenIssuer::new(first.clone()).unwrap();
    let now = SystemTime::now();
    let ada = Principal::user("ada");
    let refresh = issuer.issue_refresh(&ada, SERVICE, now).unwrap().unwrap();
    let always = Ada(SystemTime::UNIX_EPOCH);

    // Both files are replaced, in place.
    files(&world, &world.p384, "signer");
    let rolled = first
        .clone()
        .with_former_keys(world.folder.path().join("former.pem"));
    let keeping = TokenIssuer::new(rolled).unwrap();
    let set: Value = serde_json::from_str(&keeping.jwks()).unwrap();
    let ids: Vec<_> = set["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| &key["kid"])
        .collect();
    assert_eq!(ids, [&world.p384.thumbprint(), &world.root.thumbprint()]);
    assert!(
        keeping
            .refresh(&refresh, SERVICE, &always, now)
            .await
            .is_ok()
    );

    assert!(
        issuer
            .refresh(&refresh, SERVICE, &always, now)
            .await
            .is_ok()
    );
    issuer.reload().unwrap();
    assert!(
        issuer
            .refresh(&refresh, SERVICE, &always, now)
            .await
            .is_err()
    );

    // What cannot be read leaves what was there in force.
    fs::write(&first.signing_key, "nothing").unwrap();
    let before = issuer.jwks();
    assert!(issuer.reload().is_err());
    assert_eq!(issuer.jwks(), before);
}

#[test]
fn what_cannot_sign_is_refused_with_its_reason() {
    let world = World::new();
    let good = options(&world, &world.root);
    let (other_key, other_certificate) = files(&world, &world.p384, "other");
    let write = |name: &str, content: &str| {
        let path = world.folder.path().join(name);
        fs::write(&path, content).unwrap();
        path
    };
    let key = |path: PathBuf| IssuerOptions::new(ISSUER, SERVICE, path);
    let secret = fs::read_to_string(&other_key).unwrap();
    let cut: String = secret.lines().take(2).collect::<Vec<_>>().join("\n");
    let garbage = pem("PRIVATE KEY", b"garbage");
    for (options, reason) in [
        (
            IssuerOptions::new("", SERVICE, &other_key),
            "expected the name of the issuer",
        ),
        (
            IssuerOptions::new(ISSUER, "", &other_key),
            "expected a service",
        ),
        (
            IssuerOptions::new(ISSUER, "refresh:a", &other_key),
            "got `refresh:a`",
        ),
        (
            IssuerOptions::new(ISSUER, "b\nc", &other_key),
            "got `b\\nc`",
        ),
        (
            good.clone().with_lifetime(Duration::from_secs(59)),
            "at least 60 seconds, got 59",
        ),
        (good.clone().with_refresh_lifetime(Duration::ZERO), "got 0"),
        (
            good.clone().with_certificates(&other_certificate),
            "not that of the signing key",
        ),
        (good.clone().with_certificates(&other_key), "found none"),
        (good.clone().with_former_keys(&other_key), "found none"),
        (key("/nowhere/key".into()), "/nowhere/key"),
        (
            key(other_certificate.clone()),
            "expected a private key in PEM",
        ),
        (key(write("cut", &cut)), "malformed"),
        (key(write("garbage", &garbage)), "malformed"),
        (
            key(write("sec1", &garbage.replace("PRIVATE", "EC PRIVATE"))),
            "openssl pkcs8",
        ),
        (
            key(write("pkcs1", &garbage.replace("PRIVATE", "RSA PRIVATE"))),
            "malformed",
        ),
    ] {
        let error = TokenIssuer::new(options).unwrap_err().to_string();
        assert!(error.contains(reason), "{reason}: {error}");
        let line = secret.lines().nth(1).unwrap();
        assert!(!error.contains(line), "{error}");
    }
    assert!(TokenIssuer::new(good).is_ok());
}

#[test]
fn the_reference_lets_in_with_what_is_issued() {
    let world = World::new();
    let Some(reference) = Reference::start(&world) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let send = |token: &IssuedToken, method, target| {
        let token = Some(token.token.expose());
        reference.send(method, target, token).unwrap().0
    };
    for signer in [&world.root, &world.p384, &world.rsa] {
        let issuer = TokenIssuer::new(options(&world, signer)).unwrap();
        let of = |principal: &Principal, authorizer: &dyn Authorizer| {
            let wanted = "repository:a/b:pull,push registry:catalog:*";
            runtime.block_on(issue(&issuer, principal, wanted, authorizer))
        };
        let (list, upload) = ("/v2/a/b/tags/list", "/v2/a/b/blobs/uploads/");
        let anonymous = of(&Principal::Anonymous, &PullOnly);
        assert_eq!(
            send(&anonymous, "GET", "/v2/"),
            200,
            "{:?}",
            signer.algorithm
        );
        assert_eq!(send(&anonymous, "GET", list), 404);
        assert_eq!(send(&anonymous, "POST", upload), 401);
        let ada = of(&Principal::user("ada"), &AllowAll);
        assert_eq!(send(&ada, "POST", upload), 202);
        assert_eq!(send(&ada, "GET", "/v2/_catalog"), 200);
        // Nor is a refresh token anything to it.
        let now = SystemTime::now();
        let refresh = issuer.issue_refresh(&Principal::user("ada"), SERVICE, now);
        let refresh = refresh.unwrap().unwrap();
        let answer = reference.send("GET", "/v2/", Some(refresh.expose()));
        assert_eq!(answer.unwrap().0, 401);
    }
}
