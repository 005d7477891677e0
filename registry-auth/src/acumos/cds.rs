//! The common data service: accounts, solutions, revisions, catalogues

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use registry_core::RepositoryName;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;

use super::client::{Client, Endpoint, EndpointError, Path, Reply, ServiceError};
use super::facts::{Account, Catalog, Revision, RevisionId, Right, Solution, UserId, Visibility};
use super::names::{ImageName, SolutionId};

/// What changed between the releases of CDS
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Generation {
    /// 2.2 to 3.0 (Boreas, first Clio): CDS has the rights to use; nobody can be given a role
    /// in a restricted catalogue
    RightsInCds,
    /// From 3.1 (Clio to Elpis): LUM has the rights to use; restricted catalogues have roles
    RightsInLum,
}

impl Generation {
    /// The one of a version such as `3.1.1` or `2.2.6-SNAPSHOT`
    ///
    /// `None` for other texts and for versions before 2, which had no catalogues.
    ///
    /// # Examples
    ///
    /// ```
    /// use registry_auth::acumos::Generation;
    ///
    /// assert_eq!(Generation::of_version("3.0.1"), Some(Generation::RightsInCds));
    /// assert_eq!(Generation::of_version("3.1.1"), Some(Generation::RightsInLum));
    /// assert_eq!(Generation::of_version("unknown"), None);
    /// ```
    pub fn of_version(version: &str) -> Option<Self> {
        let mut parts = version.split(['.', '-']);
        let major: u32 = parts.next()?.trim().parse().ok()?;
        let minor: u32 = parts.next()?.trim().parse().ok()?;
        match (major, minor) {
            (0 | 1, _) => None,
            (2, _) | (3, 0) => Some(Self::RightsInCds),
            _ => Some(Self::RightsInLum),
        }
    }
}

/// Asks CDS
///
/// Cheap to clone; clones share their connections.
///
/// An object that does not exist is `200` with nothing in it, or `400`, or `404`, depending on the
/// release. A search always has an answer, be it an empty page: there, `400` and `404` are errors,
/// which tells a wrong URL from an unknown user.
///
/// # Examples
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use registry_auth::Password;
/// use registry_auth::acumos::{Cds, Endpoint};
///
/// let endpoint = Endpoint::new("http://cds-service:8000/ccds")?
///     .with_credentials("ccds_client", Password::new("correct horse"))?;
/// let ada = Cds::new(endpoint)?.account("ada").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Cds {
    client: Client,
    generation: Arc<OnceCell<Generation>>,
}

impl Cds {
    /// The service at this endpoint
    ///
    /// # Errors
    ///
    /// [`EndpointError`] when TLS cannot be set up.
    pub fn new(endpoint: Endpoint) -> Result<Self, EndpointError> {
        Ok(Self {
            client: Client::new("CDS", endpoint)?,
            generation: Arc::default(),
        })
    }

    /// Says which generation it is, instead of asking for its version when that first matters
    #[must_use]
    pub fn with_generation(mut self, generation: Generation) -> Self {
        self.generation = Arc::new(OnceCell::new_with(Some(generation)));
        self
    }

    /// The same, sending this request id (`X-ACUMOS-RequestID`, `X-ACUMOS-Request-Id`)
    #[must_use]
    pub fn for_request(&self, id: &str) -> Self {
        Self {
            client: self.client.for_request(id),
            generation: self.generation.clone(),
        }
    }

    /// Which generation it is: what was said, else what `GET /version` says, asked once
    ///
    /// # Errors
    ///
    /// [`ServiceError`]; a version that says nothing is [`ServiceError::Malformed`], and is helped
    /// by [`with_generation`](Self::with_generation).
    pub async fn generation(&self) -> Result<Generation, ServiceError> {
        let ask = || async {
            #[derive(Deserialize)]
            struct Version {
                data: String,
            }
            let reply = self.client.get(&Path::new(&["version"])).await?;
            let version: Version = reply.ok()?;
            Generation::of_version(&version.data).ok_or_else(|| {
                reply.malformed("expected a version from 2.0 on; configure the generation instead")
            })
        };
        self.generation.get_or_try_init(ask).await.copied()
    }

    /// The account with exactly this login name, with its active roles
    ///
    /// It is active only if it also may log in to the portal: verified, with a password that
    /// has not expired. CDS itself does not look at these.
    ///
    /// # Errors
    ///
    /// [`ServiceError`] when that cannot be known now.
    pub async fn account(&self, login: &str) -> Result<Option<Account>, ServiceError> {
        let path = Path::new(&["user", "search"])
            .with("loginName", login)
            .with("size", PAGE)
            .with("sort", "userId,asc");
        // The search ignores case, and what else the database's collation ignores.
        let found = self.list::<User>(path, Absence::IsError).await?;
        let Some(user) = found.into_iter().find(|user| user.login_name == login) else {
            return Ok(None);
        };
        self.with_roles(user).await.map(Some)
    }

    /// The solution with this id
    ///
    /// # Errors
    ///
    /// [`ServiceError`] when that cannot be known now.
    pub async fn solution(&self, id: &SolutionId) -> Result<Option<Solution>, ServiceError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Found {
            solution_id: String,
            name: String,
            user_id: String,
            #[serde(default)]
            active: bool,
        }
        let path = Path::new(&["solution", id.as_str()]);
        let Some((found, reply)) = self.object::<Found>(&path).await? else {
            return Ok(None);
        };
        if found.solution_id != id.as_str() {
            return Err(reply.malformed("it is about another solution"));
        }
        Ok(Some(Solution {
            id: id.clone(),
            name: found.name,
            owner: UserId::new(found.user_id),
            active: found.active,
        }))
    }

    /// The revisions of a solution with their docker images
    ///
    /// # Errors
    ///
    /// [`ServiceError`] when that cannot be known now.
    pub async fn revisions(&self, id: &SolutionId) -> Result<Vec<Revision>, ServiceError> {
        let path = Path::new(&["solution", id.as_str(), "revision"]);
        let found = self.list::<FoundRevision>(path, Absence::IsEmpty).await?;
        stream::iter(found)
            .map(async |revision| {
                let artifacts = self.artifacts(&revision.revision_id).await?;
                Ok(Revision {
                    id: RevisionId::new(revision.revision_id),
                    version: revision.version.unwrap_or_default(),
                    images: artifacts.iter().filter_map(Artifact::image).collect(),
                })
            })
            .buffered(AT_A_TIME)
            .try_collect()
            .await
    }

    /// Who besides the owner may change a solution
    ///
    /// # Errors
    ///
    /// [`ServiceError`] when that cannot be known now.
    pub async fn co_owners(&self, id: &SolutionId) -> Result<Vec<UserId>, ServiceError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Found {
            user_id: String,
        }
        let path = Path::new(&["access", "solution", id.as_str(), "user"]);
        let found = self.list::<Found>(path, Absence::IsEmpty).await?;
        Ok(found
            .into_iter()
            .map(|user| UserId::new(user.user_id))
            .collect())
    }

    /// The catalogues that a solution is in
    ///
    /// A restricted one is seen by its roles, which releases before 3.1 do not have: there,
    /// nobody sees it. The same goes for kinds of catalogue that are not known here.
    ///
    /// # Errors
    ///
    /// [`ServiceError`] when that cannot be known now.
    pub async fn catalogs(&self, id: &SolutionId) -> Result<Vec<Catalog>, ServiceError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Found {
            catalog_id: String,
            access_type_code: Option<String>,
            name: String,
        }
        let path = Path::new(&["catalog", "solution", id.as_str()]);
        let mut catalogs = Vec::new();
        for found in self.list::<Found>(path, Absence::IsEmpty).await? {
            let visibility = match found.access_type_code.as_deref() {
                Some("PB") => Visibility::Public,
                Some("RS") if self.generation().await? == Generation::RightsInLum => {
                    let path = Path::new(&["catalog", &found.catalog_id, "role"]);
                    let roles = self.list::<Role>(path, Absence::IsEmpty).await?;
                    Visibility::Restricted {
                        roles: active(roles),
                    }
                }
                _ => Visibility::Restricted { roles: Vec::new() },
            };
            catalogs.push(Catalog {
                name: found.name,
                visibility,
            });
        }
        Ok(catalogs)
    }

    /// The solutions with an image of this name, for names without a solution's id
    ///
    /// Artifacts are found by the last component of the name, then compared by their URI.
    ///
    /// # Errors
    ///
    /// [`ServiceError`] when that cannot be known now.
    pub async fn claimants(&self, name: &RepositoryName) -> Result<Vec<SolutionId>, ServiceError> {
        let model = name.as_str().rsplit('/').next().unwrap_or(name.as_str());
        let path = Path::new(&["artifact", "search"])
            .with("name", model)
            .with("size", PAGE)
            .with("sort", "artifactId,asc");
        let artifacts = self.list::<Artifact>(path, Absence::IsError).await?;
        let claiming = artifacts.into_iter().filter(|artifact| {
            artifact
                .image()
                .is_some_and(|image| image.repository == *name)
        });
        let found: Vec<BTreeSet<SolutionId>> = stream::iter(claiming)
            .map(async |artifact| self.solutions_of(&artifact.artifact_id).await)
            .buffered(AT_A_TIME)
            .try_collect()
            .await?;
        let unique: BTreeSet<SolutionId> = found.into_iter().flatten().collect();
        Ok(unique.into_iter().collect())
    }

    /// The login name of a user; `None` when there is no such user
    ///
    /// # Errors
    ///
    /// [`ServiceError`] when that cannot be known now.
    pub async fn login_name(&self, user: &UserId) -> Result<Option<String>, ServiceError> {
        let path = Path::new(&["user", &user.0]);
        let Some((found, reply)) = self.object::<User>(&path).await? else {
            return Ok(None);
        };
        match found.user_id == *user.0 {
            true => Ok(Some(found.login_name)),
            false => Err(reply.malformed("it is about another user")),
        }
    }

    /// Whether a user has a right to use a revision, where CDS has the rights
    ///
    /// They are for all revisions of a solution.
    ///
    /// # Errors
    ///
    /// [`ServiceError`] when that cannot be known now.
    pub async fn right(&self, revision: &RevisionId, user: &UserId) -> Result<Right, ServiceError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Found {
            solution_id: String,
            #[serde(default)]
            site: bool,
        }
        let mut solutions = BTreeSet::new();
        // A revision alone says no solution in this API; its artifacts do.
        for artifact in self.artifacts(&revision.0).await? {
            let path = Path::new(&["artifact", &artifact.artifact_id, "revision"]);
            let owners = self.list::<FoundRevision>(path, Absence::IsEmpty).await?;
            solutions.extend(
                owners
                    .into_iter()
                    .filter(|owner| owner.revision_id == *revision.0)
                    .filter_map(|owner| owner.solution_id),
            );
            if !solutions.is_empty() {
                break;
            }
        }
        for solution in &solutions {
            let path = Path::new(&["rtu", "solution", solution, "user", &user.0]);
            let own = self.list::<Found>(path, Absence::IsEmpty).await?;
            if own.iter().any(|right| right.solution_id == *solution) {
                return Ok(Right::Own);
            }
            let path = Path::new(&["rtu", "search"])
                .with("solutionId", solution)
                .with("site", "true")
                .with("size", PAGE)
                .with("sort", "rtuId,asc");
            let site = self.list::<Found>(path, Absence::IsError).await?;
            if site
                .iter()
                .any(|right| right.site && right.solution_id == *solution)
            {
                return Ok(Right::Everyone);
            }
        }
        Ok(Right::None {
            reason: "the platform has none of yours, and none for all users".to_owned(),
        })
    }

    /// Tries a user's secret, which counts towards the platform's lockout when it is wrong
    pub(super) async fn login(
        &self,
        how: Login,
        name: &str,
        secret: &str,
    ) -> Result<Attempt, ServiceError> {
        let path = match how {
            Login::Password => Path::new(&["user", "login"]),
            Login::Token => Path::new(&["user", "loginapi"]),
        };
        let body = serde_json::json!({ "name": name, "pass": secret });
        let reply = self
            .client
            .send_json(http::Method::POST, &path, &body)
            .await?;
        match reply.status.as_u16() {
            200 => {
                let user: User = reply.json()?;
                let is_same = |known: &str| known.to_lowercase() == name.to_lowercase();
                if !is_same(&user.login_name) && !user.email.as_deref().is_some_and(is_same) {
                    return Err(reply.malformed("it is about another user"));
                }
                self.with_roles(user).await.map(Attempt::Right)
            }
            400 => {
                #[derive(Deserialize)]
                struct Refusal {
                    error: String,
                }
                let refusal: Refusal = reply.json()?;
                Ok(match blocked_for(&refusal.error) {
                    Some(seconds) => Attempt::Blocked { seconds },
                    None => Attempt::Wrong,
                })
            }
            // Not the user's: 401 is about the account of this registry there.
            _ => Err(reply.unexpected_about_secrets()),
        }
    }

    async fn with_roles(&self, user: User) -> Result<Account, ServiceError> {
        let path = Path::new(&["user", &user.user_id, "role"]);
        let roles = self.list::<Role>(path, Absence::IsEmpty).await?;
        Ok(Account {
            active: user.may_log_in(Timestamp::now()),
            user: UserId::new(user.user_id),
            login: user.login_name,
            roles: active(roles),
        })
    }

    async fn artifacts(&self, revision: &str) -> Result<Vec<Artifact>, ServiceError> {
        let path = Path::new(&["revision", revision, "artifact"]);
        self.list(path, Absence::IsEmpty).await
    }

    async fn solutions_of(&self, artifact: &str) -> Result<BTreeSet<SolutionId>, ServiceError> {
        let path = Path::new(&["artifact", artifact, "revision"]);
        let mut ids = BTreeSet::new();
        for revision in self
            .list::<FoundRevision>(path.clone(), Absence::IsEmpty)
            .await?
        {
            // One that is left out could make a name of two solutions that of one.
            let id = revision.solution_id.as_deref().unwrap_or_default();
            ids.insert(id.parse().map_err(|_| ServiceError::Malformed {
                service: self.client.service(),
                path: path.name().to_owned(),
                detail: "a revision has no solution id".to_owned(),
            })?);
        }
        Ok(ids)
    }

    async fn object<T: DeserializeOwned>(
        &self,
        path: &Path,
    ) -> Result<Option<(T, Reply)>, ServiceError> {
        let reply = self.client.get(path).await?;
        match reply.is_absence() {
            true => Ok(None),
            false => reply.ok().map(|object| Some((object, reply))),
        }
    }

    /// Everything that a list has, be it a list or the first of its pages
    async fn list<T: DeserializeOwned>(
        &self,
        path: Path,
        absence: Absence,
    ) -> Result<Vec<T>, ServiceError> {
        let mut all = Vec::new();
        let mut next = path.clone();
        for number in 1..=PAGES {
            let reply = self.client.get(&next).await?;
            if absence == Absence::IsEmpty && reply.is_absence() {
                return Ok(all);
            }
            match reply.ok()? {
                Listing::Whole(items) => {
                    all.extend(items);
                    return Ok(all);
                }
                Listing::Page {
                    content,
                    last,
                    total_pages,
                } => {
                    // A page that does not say whether it is the last one is by its number.
                    let is_last = match (last, total_pages) {
                        (Some(last), _) => last,
                        (None, Some(pages)) => number >= pages,
                        (None, None) => content.is_empty(),
                    };
                    let is_empty = content.is_empty();
                    all.extend(content);
                    if is_last {
                        return Ok(all);
                    }
                    if is_empty {
                        return Err(reply.malformed("an empty page says that more follow"));
                    }
                }
            }
            next = path.clone().with("page", &number.to_string());
        }
        Err(ServiceError::TooLarge {
            service: self.client.service(),
            path: path.name().to_owned(),
            limit: PAGES,
            unit: "pages",
        })
    }
}

/// What a user brought to log in
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Login {
    Password,
    Token,
}

/// What became of an attempt to log in
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    /// There were too many wrong ones; for now every one is
    Blocked {
        /// For how long, if that was said
        seconds: Option<u64>,
    },
    /// It is that user
    Right(Account),
    /// It proves nothing
    Wrong,
}

/// What it means when there is nothing under a path
#[derive(Clone, Copy, PartialEq, Eq)]
enum Absence {
    /// Nothing is in the list
    IsEmpty,
    /// Something is wrong: a search has a result, be it an empty one
    IsError,
}

/// Lists come whole or by pages, depending on endpoint and release
#[derive(Deserialize)]
#[serde(untagged)]
enum Listing<T> {
    Whole(Vec<T>),
    #[serde(rename_all = "camelCase")]
    Page {
        content: Vec<T>,
        last: Option<bool>,
        total_pages: Option<usize>,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct User {
    user_id: String,
    login_name: String,
    email: Option<String>,
    #[serde(default)]
    active: bool,
    login_pass_expire: Option<Instant>,
    verify_expiration: Option<serde::de::IgnoredAny>,
}

impl User {
    fn may_log_in(&self, now: Timestamp) -> bool {
        let has_expired = self
            .login_pass_expire
            .as_ref()
            .is_some_and(|expiry| expiry.is_before(now));
        self.active && !has_expired && self.verify_expiration.is_none()
    }
}

/// A point in time: text as ISO 8601, or, in the oldest releases, milliseconds
#[derive(Deserialize)]
#[serde(untagged)]
enum Instant {
    Millis(i64),
    Text(String),
}

impl Instant {
    /// Whether it has passed; one that cannot be read has
    fn is_before(&self, now: Timestamp) -> bool {
        let instant = match self {
            Self::Millis(millis) => Timestamp::from_millisecond(*millis),
            Self::Text(text) => text.parse(),
        };
        instant.map_or(true, |instant| instant < now)
    }
}

#[derive(Deserialize)]
struct Role {
    name: String,
    #[serde(default)]
    active: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FoundRevision {
    revision_id: String,
    solution_id: Option<String>,
    version: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Artifact {
    artifact_id: String,
    artifact_type_code: String,
    uri: Option<String>,
}

impl Artifact {
    /// The image, if it is one: `DI`, or `DP` for one that the user brought
    fn image(&self) -> Option<ImageName> {
        match self.artifact_type_code.as_str() {
            "DI" | "DP" => ImageName::from_uri(self.uri.as_deref()?),
            _ => None,
        }
    }
}

fn active(roles: Vec<Role>) -> Vec<String> {
    roles
        .into_iter()
        .filter(|role| role.active)
        .map(|role| role.name)
        .collect()
}

/// For how long CDS blocks a user, by its text: there is no code for it
fn blocked_for(error: &str) -> Option<Option<u64>> {
    let (_, rest) = error.split_once("user blocked for ")?;
    Some(rest.split(' ').next().and_then(|word| word.parse().ok()))
}

/// How much of what belongs together is asked at a time
const AT_A_TIME: usize = 4;

/// How many items a page has
const PAGE: &str = "100";

/// How many pages are read
const PAGES: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_tell_generations() {
        for (version, generation) in [
            ("2.2.6", Some(Generation::RightsInCds)),
            ("3.0.1-SNAPSHOT", Some(Generation::RightsInCds)),
            ("3.1.0", Some(Generation::RightsInLum)),
            ("3.1-rev2", Some(Generation::RightsInLum)),
            ("4.0.0", Some(Generation::RightsInLum)),
            ("1.18.4", None),
            ("", None),
            ("3", None),
            ("no version available", None),
        ] {
            assert_eq!(Generation::of_version(version), generation, "{version}");
        }
    }

    #[test]
    fn a_block_is_told_from_a_wrong_password() {
        assert_eq!(
            blocked_for("Repeated login failures, user blocked for 873 sec"),
            Some(Some(873))
        );
        assert_eq!(blocked_for("user blocked for long"), Some(None));
        assert_eq!(blocked_for("Failed to authenticate user"), None);
    }

    #[test]
    fn times_come_in_two_forms_and_garbage_has_passed() {
        let now: Timestamp = "2020-01-01T00:00:00Z".parse().unwrap();
        for (json, passed) in [
            (r#""2018-12-16T12:34:56.789Z""#, true),
            (r#""2020-12-16T12:34:56.789Z""#, false),
            ("1500000000000", true),
            ("1600000000000", false),
            (r#""soon""#, true),
        ] {
            let instant: Instant = serde_json::from_str(json).unwrap();
            assert_eq!(instant.is_before(now), passed, "{json}");
        }
    }
}
