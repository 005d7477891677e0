//! The authorizer, asking the world of the decision table

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use registry_auth::acumos::{
    AcumosAuthorizer, Answer, AuthorizerOptions, CacheOptions, CachedDirectory, Directory,
    DirectoryError, Query, Rules, TagsOf,
};
use registry_auth::token::{AccessEntry, Grants, ResourceActions};
use registry_auth::{Access, Action, Authorizer, Principal, Resource};
use registry_core::{Digest, RepositoryName, Tag};

use crate::table::{Case, cases, world};
use crate::world::World;

#[async_trait]
impl Directory for World {
    async fn answer(&self, query: &Query) -> Result<Answer, DirectoryError> {
        Ok(self.answer(query))
    }
}

#[async_trait]
impl TagsOf for World {
    async fn tags_of(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Vec<Tag>, DirectoryError> {
        match self.answer(&Query::Tags(repository.clone(), *digest)) {
            Answer::Tags(tags) => Ok(tags),
            other => panic!("{other:?}"),
        }
    }
}

/// A world whose directory does not answer everything
#[derive(Debug)]
struct Failing {
    world: World,
    left: AtomicUsize,
    then: Then,
}

#[derive(Debug)]
enum Then {
    Fail(DirectoryError),
    Lie(Answer),
    Wait,
}

#[async_trait]
impl Directory for Failing {
    async fn answer(&self, query: &Query) -> Result<Answer, DirectoryError> {
        let take_one = |left: usize| left.checked_sub(1);
        let (set, fetch) = (Ordering::SeqCst, Ordering::SeqCst);
        if self.left.fetch_update(set, fetch, take_one).is_ok() {
            return Ok(self.world.answer(query));
        }
        match &self.then {
            Then::Fail(error) => Err(error.clone()),
            Then::Lie(answer) => Ok(answer.clone()),
            Then::Wait => std::future::pending().await,
        }
    }
}

fn authorizer(directory: Arc<dyn Directory>, options: AuthorizerOptions) -> AcumosAuthorizer {
    AcumosAuthorizer::new(Rules::default(), directory, Arc::new(world()), options)
}

fn over_the_world() -> AcumosAuthorizer {
    authorizer(Arc::new(world()), AuthorizerOptions::default())
}

fn failing(left: usize, then: Then) -> AcumosAuthorizer {
    let directory = Failing {
        world: world(),
        left: left.into(),
        then,
    };
    authorizer(Arc::new(directory), AuthorizerOptions::default())
}

fn principal(case: &Case) -> Principal {
    case.user
        .as_ref()
        .map_or(Principal::Anonymous, Principal::user)
}

fn access(case: &Case) -> Access {
    Access {
        resource: case
            .repository
            .clone()
            .map_or(Resource::Catalog, Resource::Repository),
        action: case.action,
        reference: case.reference.clone(),
    }
}

#[tokio::test]
async fn every_case_is_decided_as_by_the_rules() {
    let cached = CachedDirectory::new(world(), CacheOptions::default());
    for authorizer in [
        over_the_world(),
        authorizer(Arc::new(cached), AuthorizerOptions::default()),
    ] {
        for case in cases() {
            let (expected, _) = world().decide(&Rules::default(), &case.request());
            let decision = authorizer
                .authorize(&principal(&case), &access(&case))
                .await;
            assert_eq!(decision, Ok(expected), "{}", case.line);
        }
    }
}

#[tokio::test]
async fn what_cannot_be_asked_is_never_allowed() {
    let unavailable = DirectoryError::Unavailable {
        retry_after: Duration::from_secs(7),
        cause: "connection refused".to_owned(),
    };
    for case in cases() {
        let (expected, asked) = world().decide(&Rules::default(), &case.request());
        let of_directory = |query: &&Query| !matches!(query, Query::Tags(..));
        let asked = asked.iter().filter(of_directory).count();
        for left in 0..asked {
            let authorizer = failing(left, Then::Fail(unavailable.clone()));
            let error = authorizer
                .authorize(&principal(&case), &access(&case))
                .await
                .unwrap_err();
            assert_eq!(error.retry_after, Duration::from_secs(7), "{}", case.line);
            assert!(
                error.cause.contains("connection refused"),
                "{}",
                error.cause
            );
            assert!(!error.to_string().contains("connection"), "{error}");
        }
        let authorizer = failing(asked, Then::Fail(unavailable.clone()));
        let decision = authorizer
            .authorize(&principal(&case), &access(&case))
            .await;
        assert_eq!(decision, Ok(expected), "{}", case.line);
    }
}

#[tokio::test]
async fn an_answer_about_somebody_else_is_never_used() {
    let Answer::Account(Some(root)) = world().answer(&Query::Account("root".to_owned())) else {
        panic!("root has an account");
    };
    for lie in [Answer::Account(Some(root)), Answer::Solution(None)] {
        let case = Case::parse("eve delete iris_#1:1.0.0 deny not-administrator");
        let error = failing(0, Then::Lie(lie))
            .authorize(&principal(&case), &access(&case))
            .await
            .unwrap_err();
        assert!(
            error.cause.contains("expected the account `eve`"),
            "{}",
            error.cause
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_does_not_answer_is_waited_for_5_seconds() {
    let case = Case::parse("ada pull iris_#1:1.0.0 allow owner");
    let start = tokio::time::Instant::now();
    let error = failing(1, Then::Wait)
        .authorize(&principal(&case), &access(&case))
        .await
        .unwrap_err();
    assert_eq!(start.elapsed(), Duration::from_secs(5));
    assert_eq!(error.retry_after, Duration::from_secs(5));
    assert!(error.cause.contains("5 s"), "{}", error.cause);
}

#[tokio::test]
async fn the_questions_of_a_decision_are_bounded() {
    let case = Case::parse("eve pull iris_#1@base allow open-source");
    let asked = world().decide(&Rules::default(), &case.request()).1.len();
    for (questions, decided) in [(asked, true), (asked - 1, false), (0, false)] {
        let options = AuthorizerOptions::default().with_max_questions(questions);
        let decision = authorizer(Arc::new(world()), options)
            .authorize(&principal(&case), &access(&case))
            .await;
        assert_eq!(
            decision.is_ok(),
            decided,
            "{questions} of {asked}: {decision:?}"
        );
    }
}

#[tokio::test]
async fn service_accounts_need_no_right_of_their_own() {
    let options = AuthorizerOptions::default().with_service_names(["onboarding"]);
    let authorizer = authorizer(Arc::new(world()), options);
    let listed = Principal::service("onboarding");
    let by_role = Principal::service("ci").with_roles(["admin"]);
    let other = Principal::service("ada").with_roles(["Admin"]);
    // A user is none, whatever the name.
    let user = Principal::user("onboarding").with_roles(["admin"]);
    for (line, bypasses) in [
        ("x push private_#3:77 allow service-account", true),
        ("x pull gone_#4@unheard-of allow service-account", true),
        ("x delete iris_#1:1.0.0 deny service-account", false),
        ("x all * deny service-account", false),
    ] {
        let access = access(&Case::parse(line));
        for (principal, rule, allow) in [
            (&listed, "service-account", bypasses),
            (&by_role, "service-account", bypasses),
            (&other, "service-account", false),
            (&user, "no-account", false),
        ] {
            let decision = authorizer.authorize(principal, &access).await.unwrap();
            assert_eq!(
                (decision.rule(), decision.is_allow()),
                (rule, allow),
                "{line}"
            );
        }
    }
    let options = AuthorizerOptions::default()
        .with_service_role("pusher")
        .with_service_actions([Action::All]);
    let authorizer = self::authorizer(Arc::new(world()), options);
    let access = access(&Case::parse("x all * allow service-account"));
    let pusher = Principal::service("ci").with_roles(["pusher"]);
    assert!(
        authorizer
            .authorize(&pusher, &access)
            .await
            .unwrap()
            .is_allow()
    );
    assert!(
        !authorizer
            .authorize(&by_role, &access)
            .await
            .unwrap()
            .is_allow()
    );
}

#[tokio::test]
async fn a_token_narrows_what_its_subject_may_do() {
    let case = |line| access(&Case::parse(line));
    let pull = case("ada pull iris_#1:2.0.0 allow owner");
    let push = case("ada push iris_#1:2.0.0 allow owner-of-revision");
    let entry = AccessEntry::from(&pull.to_string().parse::<ResourceActions>().unwrap());
    let grants: Grants = [&entry].into_iter().collect();
    let token = |subject: Option<&str>| Principal::Token {
        subject: subject.map(str::to_owned),
        grants: grants.clone(),
    };
    for (subject, access, rule) in [
        (Some("ada"), &pull, "owner"),
        (Some("ada"), &push, "granted"),
        (Some("eve"), &pull, "no-right-to-use"),
        (Some("dan"), &pull, "no-account"),
        (None, &pull, "anonymous"),
    ] {
        let decision = over_the_world().authorize(&token(subject), access).await;
        let decision = decision.unwrap();
        assert_eq!(decision.rule(), rule, "{subject:?} {access}");
        assert_eq!(decision.is_allow(), rule == "owner");
    }
}
