//! The services of the platform as one source of facts

use async_trait::async_trait;

use super::cds::{Cds, Generation};
use super::client::ServiceError;
use super::directory::{Directory, DirectoryError};
use super::facts::{Answer, License, Query, RevisionId, Right, UserId};
use super::lum::Lum;

/// Answers questions by asking CDS and LUM
///
/// Every question is asked anew, and equal ones that come together are asked each: put it into a
/// [`CachedDirectory`](super::CachedDirectory). That matters most for [`Query::Right`], which
/// counts as a use at LUM.
///
/// Cheap to clone; clones share their connections.
///
/// # Examples
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use registry_auth::acumos::{AcumosServices, Cds, Endpoint, Lum, Query};
///
/// let services = AcumosServices::new(Cds::new(Endpoint::new("http://cds-service:8000/ccds")?)?)
///     .with_lum(Lum::new(Endpoint::new("http://lum-server:2080")?)?);
/// let ada = services.answer(&Query::Account("ada".to_owned())).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct AcumosServices {
    cds: Cds,
    lum: Option<Lum>,
}

impl AcumosServices {
    /// CDS alone
    ///
    /// Then no licence is known, so nothing is open source, and rights to use are those that
    /// releases before 3.1 have.
    pub fn new(cds: Cds) -> Self {
        Self { cds, lum: None }
    }

    /// Adds LUM, which then has the word on licences and rights to use
    #[must_use]
    pub fn with_lum(mut self, lum: Lum) -> Self {
        self.lum = Some(lum);
        self
    }

    /// The same, sending this request id (`X-ACUMOS-RequestID`, `X-ACUMOS-Request-Id`)
    #[must_use]
    pub fn for_request(&self, id: &str) -> Self {
        Self {
            cds: self.cds.for_request(id),
            lum: self.lum.as_ref().map(|lum| lum.for_request(id)),
        }
    }

    /// The answer to a question
    ///
    /// # Errors
    ///
    /// [`ServiceError`] when it cannot be known now, and
    /// [`ServiceError::NotOfThePlatform`] for [`Query::Tags`].
    pub async fn answer(&self, query: &Query) -> Result<Answer, ServiceError> {
        Ok(match query {
            Query::Account(login) => Answer::Account(self.cds.account(login).await?),
            Query::Catalogs(id) => Answer::Catalogs(self.cds.catalogs(id).await?),
            Query::CoOwners(id) => Answer::CoOwners(self.cds.co_owners(id).await?),
            Query::Claimants(name) => Answer::Claimants(self.cds.claimants(name).await?),
            Query::License(revision) => Answer::License(match &self.lum {
                Some(lum) => lum.license(revision).await?,
                None => License::Unknown,
            }),
            Query::Revisions(id) => Answer::Revisions(self.cds.revisions(id).await?),
            Query::Right(revision, user) => Answer::Right(match &self.lum {
                Some(lum) => match self.cds.login_name(user).await? {
                    Some(login) => lum.use_once(revision, &login).await?,
                    None => nobody(),
                },
                None => self.right_in_cds(revision, user).await?,
            }),
            Query::Solution(id) => Answer::Solution(self.cds.solution(id).await?),
            Query::Tags(..) => {
                return Err(ServiceError::NotOfThePlatform {
                    query: query.clone(),
                });
            }
        })
    }

    /// What [`Query::Right`] would most probably be answered, without counting as a use
    ///
    /// For what only looks: `HEAD` requests, and explanations.
    ///
    /// # Errors
    ///
    /// [`ServiceError`] when it cannot be known now.
    pub async fn foresee_right(
        &self,
        revision: &RevisionId,
        user: &UserId,
    ) -> Result<Right, ServiceError> {
        let Some(lum) = &self.lum else {
            return self.right_in_cds(revision, user).await;
        };
        let Some(login) = self.cds.login_name(user).await? else {
            return Ok(nobody());
        };
        Ok(match lum.usable(&login).await?.contains(revision) {
            true => Right::Own,
            false => Right::None {
                reason: "the license usage manager has none that you could use now".to_owned(),
            },
        })
    }

    async fn right_in_cds(
        &self,
        revision: &RevisionId,
        user: &UserId,
    ) -> Result<Right, ServiceError> {
        match self.cds.generation().await? {
            Generation::RightsInCds => self.cds.right(revision, user).await,
            Generation::RightsInLum => Ok(Right::None {
                reason: "this registry is not connected to the license usage manager".to_owned(),
            }),
        }
    }
}

/// Of a user who was removed meanwhile
fn nobody() -> Right {
    Right::None {
        reason: "the platform no longer has your account".to_owned(),
    }
}

#[async_trait]
impl Directory for AcumosServices {
    async fn answer(&self, query: &Query) -> Result<Answer, DirectoryError> {
        let answer = Self::answer(self, query).await;
        answer.map_err(|error| DirectoryError::Unavailable {
            retry_after: error.retry_after(),
            cause: error.to_string(),
        })
    }
}
