//! The authorization of tokens by whom they are about

use std::sync::Arc;

use async_trait::async_trait;
use registry_core::Access;

use crate::policy::{AuthorizeError, Authorizer, Decision};
use crate::principal::Principal;

/// Asks an authorizer about the user whom a token is about, as if the user had logged in
///
/// A scope has no tag, so a token for a repository says nothing of the tags in it. A registry that
/// decides by tag checks both: what the token grants, and what its subject may do.
///
/// The user has no roles: a token carries none, nor does it say whether its subject is a user or a
/// program's account, so no two of them may have the same name. A token without a subject is anonymous. Who comes
/// without a token stays who they are.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
///
/// use registry_auth::token::BySubject;
/// use registry_auth::{Authenticated, Both, Granted};
///
/// let authorizer = Both::new(Arc::new(Granted), Arc::new(BySubject::new(Arc::new(Authenticated))));
/// ```
#[derive(Clone, Debug)]
pub struct BySubject {
    authorizer: Arc<dyn Authorizer>,
}

impl BySubject {
    /// By what this authorizer says of the subject
    pub fn new(authorizer: Arc<dyn Authorizer>) -> Self {
        Self { authorizer }
    }
}

#[async_trait]
impl Authorizer for BySubject {
    async fn authorize(
        &self,
        principal: &Principal,
        access: &Access,
    ) -> Result<Decision, AuthorizeError> {
        let user = match principal {
            Principal::Token {
                subject: Some(name),
                ..
            } => &Principal::user(name),
            Principal::Token { subject: None, .. } => &Principal::Anonymous,
            other => other,
        };
        self.authorizer.authorize(user, access).await
    }
}

#[cfg(test)]
mod tests {
    use registry_core::route;

    use super::*;
    use crate::policy::Policy;
    use crate::token::Grants;

    #[derive(Debug)]
    struct Echo;

    impl Policy for Echo {
        fn decide(&self, principal: &Principal, _: &Access) -> Decision {
            Decision::allow("echo", format!("{principal:?}"))
        }
    }

    #[tokio::test]
    async fn the_subject_is_who_is_asked_about() {
        let access = &route("GET", "/v2/app/tags/list", None).unwrap().access()[0];
        let token = |subject: Option<&str>| Principal::Token {
            subject: subject.map(ToOwned::to_owned),
            grants: Grants::default(),
        };
        let publisher = Principal::user("bob").with_roles(["Publisher"]);
        for (principal, asked) in [
            (token(Some("ada")), Principal::user("ada")),
            (token(None), Principal::Anonymous),
            (publisher.clone(), publisher),
            (Principal::Anonymous, Principal::Anonymous),
        ] {
            let by_subject = BySubject::new(Arc::new(Echo));
            let decision = by_subject.authorize(&principal, access).await.unwrap();
            assert_eq!(decision.reason(), format!("{asked:?}"));
        }
    }
}
