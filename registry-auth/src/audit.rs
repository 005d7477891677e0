//! Telling every decision to somebody who keeps account of them

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use registry_core::Access;

use crate::policy::{AuthorizeError, Authorizer, Decision};
use crate::principal::Principal;
use crate::request;

/// Is told what was decided
///
/// It is called in the middle of a request, which goes on when it returns: one that writes to a
/// disk or a network hands the record to a task of its own.
pub trait Audit: fmt::Debug + Send + Sync + 'static {
    /// Takes note of a decision
    fn decided(&self, record: &AuditRecord<'_>);
}

/// A decision, or that there is none, and what it was about
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AuditRecord<'a> {
    /// Who asked
    pub principal: &'a Principal,
    /// For what
    pub access: &'a Access,
    /// What was decided; an error where it could not be
    pub outcome: Result<&'a Decision, &'a AuthorizeError>,
    /// How long it took
    pub elapsed: Duration,
    /// The name of the request ([`request::name`]), if it has one
    pub request: Option<Arc<str>>,
}

/// Decides as another authorizer does, and tells each decision
///
/// Only decisions that were reached are told: of a request that its client gave up in between
/// there is none.
///
/// # Examples
///
/// ```
/// use std::sync::{Arc, Mutex};
///
/// use registry_auth::{Audit, AuditRecord, Audited, Authorizer, Principal, PullOnly};
/// use registry_core::route;
///
/// #[derive(Debug, Default)]
/// struct Denials(Mutex<Vec<String>>);
///
/// impl Audit for Denials {
///     fn decided(&self, record: &AuditRecord<'_>) {
///         if let Ok(decision) = record.outcome
///             && !decision.is_allow()
///         {
///             let line = format!("{} {}", record.principal, decision.rule());
///             self.0.lock().unwrap().push(line);
///         }
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let denials = Arc::new(Denials::default());
/// let audited = Audited::new(Arc::new(PullOnly), denials.clone());
/// for access in &route("POST", "/v2/app/blobs/uploads/", None)?.access() {
///     let decision = audited.authorize(&Principal::user("ada"), access).await?;
/// }
/// assert_eq!(*denials.0.lock().unwrap(), ["ada pull-only"]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Audited {
    authorizer: Arc<dyn Authorizer>,
    audit: Arc<dyn Audit>,
}

impl Audited {
    /// Tells `audit` what `authorizer` decides
    pub fn new(authorizer: Arc<dyn Authorizer>, audit: Arc<dyn Audit>) -> Self {
        Self { authorizer, audit }
    }
}

#[async_trait]
impl Authorizer for Audited {
    async fn authorize(
        &self,
        principal: &Principal,
        access: &Access,
    ) -> Result<Decision, AuthorizeError> {
        let began = Instant::now();
        let outcome = self.authorizer.authorize(principal, access).await;
        self.audit.decided(&AuditRecord {
            principal,
            access,
            outcome: outcome.as_ref(),
            elapsed: began.elapsed(),
            request: request::name(),
        });
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use registry_core::route;

    use super::*;
    use crate::policy::PullOnly;

    /// Takes its time, and knows nothing of anonymous requests
    #[derive(Debug)]
    struct Slow;

    const WAIT: Duration = Duration::from_millis(20);

    #[async_trait]
    impl Authorizer for Slow {
        async fn authorize(
            &self,
            principal: &Principal,
            access: &Access,
        ) -> Result<Decision, AuthorizeError> {
            tokio::time::sleep(WAIT).await;
            match principal {
                Principal::Anonymous => Err(AuthorizeError {
                    retry_after: Duration::from_secs(3),
                    cause: "nobody answered".to_owned(),
                }),
                _ => PullOnly.authorize(principal, access).await,
            }
        }
    }

    #[derive(Debug, Default)]
    struct Lines(Mutex<Vec<(String, Duration)>>);

    impl Audit for Lines {
        fn decided(&self, record: &AuditRecord<'_>) {
            let outcome = match record.outcome {
                Ok(decision) => format!("{} {}", decision.is_allow(), decision.rule()),
                Err(error) => error.cause.clone(),
            };
            let AuditRecord {
                principal, access, ..
            } = record;
            let line = format!("{:?} {principal} {access} {outcome}", record.request);
            self.0.lock().unwrap().push((line, record.elapsed));
        }
    }

    #[tokio::test]
    async fn what_is_decided_is_told_and_stays_what_it_is() {
        let lines = Arc::new(Lines::default());
        let audited = Audited::new(Arc::new(Slow), lines.clone());
        let needed = route("POST", "/v2/app/blobs/uploads/", None)
            .unwrap()
            .access();
        let ada = Principal::user("ada");
        let asked = async {
            for access in &needed {
                let told = audited.authorize(&ada, access).await;
                assert_eq!(told, PullOnly.authorize(&ada, access).await);
            }
        };
        request::on_behalf_of("3f2c".into(), asked).await;
        let error = audited.authorize(&Principal::Anonymous, &needed[0]).await;
        assert_eq!(error.unwrap_err().cause, "nobody answered");

        let lines = lines.0.lock().unwrap();
        let texts: Vec<_> = lines.iter().map(|(line, _)| line.as_str()).collect();
        assert_eq!(
            texts,
            [
                r#"Some("3f2c") ada repository:app:pull true pull-only"#,
                r#"Some("3f2c") ada repository:app:push false pull-only"#,
                "None anonymous repository:app:pull nobody answered",
            ]
        );
        assert!(lines.iter().all(|(_, elapsed)| *elapsed >= WAIT));
    }
}
