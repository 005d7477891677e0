//! What an operator writes down about a platform, where no service of it is asked

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::SystemTime;

use registry_core::RepositoryName;
use serde::{Deserialize, Serialize};

use super::facts::{
    Account, Answer, Catalog, License, Query, Revision, RevisionId, Right, Solution, UserId,
    Visibility,
};
use super::names::{ImageName, SolutionId};
use super::passwords::{Login, PasswordHash};
use crate::authenticator::Password;
use crate::htpasswd::EntryError;

/// Accounts, catalogues and solutions
///
/// What a [`FileDirectory`](super::FileDirectory) reads and an
/// [`EmbeddedDirectory`](super::EmbeddedDirectory) takes in and gives out. Users are named by
/// their login names.
///
/// # Examples
///
/// ```
/// use registry_auth::acumos::Records;
///
/// let records: Records = "
/// accounts:
///   - login: ada
///   - { login: bob, roles: [Partner] }
/// catalogs:
///   - name: Public Models
///   - { name: For partners, roles: [Partner] }
/// solutions:
///   - id: 9d294c20-7b1f-4ab7-b8b3-03bc7f069ac1
///     name: Iris
///     owner: ada
///     catalogs: [Public Models]
///     revisions:
///       - version: 1.0.0
///         images: [iris_9d294c20-7b1f-4ab7-b8b3-03bc7f069ac1:1.0.0]
///         license: free
///       - version: 2.0.0
///         license: right-required
///         rights: [bob]
/// "
/// .parse()?;
/// assert_eq!(records.solutions[0].revisions.len(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Records {
    /// Who has an account
    pub accounts: Vec<AccountRecord>,
    /// Where solutions are published
    pub catalogs: Vec<CatalogRecord>,
    /// The solutions
    pub solutions: Vec<SolutionRecord>,
}

/// An account
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountRecord {
    /// The name that the user logs in with
    pub login: String,
    /// The user's id; the login name if there is no other
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Whether it may be used
    #[serde(default = "yes")]
    pub active: bool,
    /// The names of its roles
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// Where mail reaches the user, for operators; nothing is decided by it
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// The bcrypt hash of the password, as `htpasswd -B` makes it; without one, nobody logs in
    /// with this account's password
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<PasswordHash>,
}

/// A catalogue
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogRecord {
    /// Its name
    pub name: String,
    /// The roles that see it; `None` is everyone
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<Vec<String>>,
}

/// A solution with everything that belongs to it
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SolutionRecord {
    /// Its id, a UUID in lower case
    pub id: String,
    /// Its name
    pub name: String,
    /// The login name of its owner
    pub owner: String,
    /// The login names of those who may change it too
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub co_owners: Vec<String>,
    /// Whether it is not deleted
    #[serde(default = "yes")]
    pub active: bool,
    /// The names of the catalogues that it is published in
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub catalogs: Vec<String>,
    /// Its revisions
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revisions: Vec<RevisionRecord>,
}

/// A revision, with its licence and who has a right to use it
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevisionRecord {
    /// Its version
    pub version: String,
    /// Its id; `<solution id>/<version>` if there is no other
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Its images as `repository:tag`, without the registry's address
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<String>,
    /// What its licence demands
    #[serde(default)]
    pub license: LicenseRecord,
    /// Whether every user has a right to use it
    #[serde(default, skip_serializing_if = "is_no")]
    pub right_of_all: bool,
    /// The login names of those who have a right to use it
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rights: Vec<String>,
}

/// What a licence demands
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LicenseRecord {
    /// Nothing: open source
    Free,
    /// It was withdrawn
    Revoked,
    /// A right to use
    RightRequired,
    /// Nobody has said; a right to use is asked for
    #[default]
    Unknown,
}

/// Why records make no platform
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordsError {
    problems: Vec<String>,
}

impl RecordsError {
    /// Everything that is wrong, each with where it is
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    pub(super) fn one(problem: impl Into<String>) -> Self {
        Self {
            problems: vec![problem.into()],
        }
    }
}

impl fmt::Display for RecordsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.problems.len().min(SHOWN);
        f.write_str(&self.problems[..shown].join("; "))?;
        match self.problems.len() - shown {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

impl std::error::Error for RecordsError {}

impl std::str::FromStr for Records {
    type Err = RecordsError;

    /// Reads YAML; whether it makes a platform is for [`Records::check`]
    fn from_str(text: &str) -> Result<Self, RecordsError> {
        // Nothing at all is a platform without anything, which an operator may begin with.
        let options = serde_saphyr::options! {
            with_snippet: false,
            budget: serde_saphyr::budget! {
                max_depth: 16,
                max_nodes: MAX_NODES,
                max_events: 3 * MAX_NODES,
            },
        };
        let records: Option<Self> = serde_saphyr::from_str_with_options(text, options)
            .map_err(|error| RecordsError::one(error.to_string()))?;
        Ok(records.unwrap_or_default())
    }
}

impl Records {
    /// Whether they make a platform
    ///
    /// # Errors
    ///
    /// [`RecordsError`] with everything that is wrong: what is there twice, what is named and
    /// not there, what is no id and no image.
    pub fn check(&self) -> Result<(), RecordsError> {
        Platform::new(self).map(drop)
    }
}

impl AccountRecord {
    /// An account with this login name, active and without anything else
    ///
    /// # Examples
    ///
    /// ```
    /// use registry_auth::Password;
    /// use registry_auth::acumos::AccountRecord;
    ///
    /// let mut ada = AccountRecord::new("ada");
    /// ada.set_password(&Password::new("correct horse"), 4)?;
    /// assert!(ada.password.is_some());
    /// # Ok::<(), registry_auth::htpasswd::EntryError>(())
    /// ```
    pub fn new(login: impl Into<String>) -> Self {
        Self {
            login: login.into(),
            id: None,
            active: true,
            roles: Vec::new(),
            email: None,
            password: None,
        }
    }

    /// Hashes a password, which takes `2^cost` rounds of work on this thread, and keeps the hash
    ///
    /// # Errors
    ///
    /// [`EntryError`] for what a client could not send as login name and password, or bcrypt
    /// would not take whole.
    pub fn set_password(&mut self, password: &Password, cost: u32) -> Result<(), EntryError> {
        self.password = Some(PasswordHash::of(&self.login, password, cost)?);
        Ok(())
    }

    pub(super) fn user(&self) -> UserId {
        UserId::new(self.id.as_deref().unwrap_or(&self.login))
    }

    pub(super) fn account(&self) -> Account {
        Account {
            user: self.user(),
            login: self.login.clone(),
            active: self.active,
            roles: self.roles.clone(),
        }
    }
}

impl CatalogRecord {
    pub(super) fn catalog(&self) -> Catalog {
        Catalog {
            name: self.name.clone(),
            visibility: match &self.roles {
                None => Visibility::Public,
                Some(roles) => Visibility::Restricted {
                    roles: roles.clone(),
                },
            },
        }
    }
}

impl RevisionRecord {
    pub(super) fn revision_id(&self, solution: &SolutionId) -> RevisionId {
        match &self.id {
            Some(id) => RevisionId::new(id.as_str()),
            None => RevisionId::new(format!("{solution}/{}", self.version)),
        }
    }

    /// The revision, or the image that is none
    pub(super) fn revision(&self, solution: &SolutionId) -> Result<Revision, RecordsError> {
        let images = self.images.iter().map(|text| {
            // The address, before the first slash, is left out.
            ImageName::from_uri(&format!("/{text}")).ok_or_else(|| {
                RecordsError::one(format!(
                    "expected an image as `repository:tag`, without the registry's address, got \
                     `{}`",
                    text.escape_debug()
                ))
            })
        });
        Ok(Revision {
            id: self.revision_id(solution),
            version: self.version.clone(),
            images: images.collect::<Result<_, _>>()?,
        })
    }
}

impl LicenseRecord {
    /// Its name, as records have it
    pub fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Revoked => "revoked",
            Self::RightRequired => "right-required",
            Self::Unknown => "unknown",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        [
            Self::Free,
            Self::Revoked,
            Self::RightRequired,
            Self::Unknown,
        ]
        .into_iter()
        .find(|license| license.name() == name)
    }
}

impl From<LicenseRecord> for License {
    fn from(record: LicenseRecord) -> Self {
        match record {
            LicenseRecord::Free => Self::Free,
            LicenseRecord::Revoked => Self::Revoked,
            LicenseRecord::RightRequired => Self::RightRequired,
            LicenseRecord::Unknown => Self::Unknown,
        }
    }
}

/// Records that were checked, by what is asked
#[derive(Clone, Debug, Default)]
pub(super) struct Platform {
    accounts: HashMap<String, Account>,
    models: HashMap<SolutionId, Model>,
    claimants: HashMap<RepositoryName, Vec<SolutionId>>,
    terms: HashMap<RevisionId, Terms>,
    passwords: HashMap<String, DatedHash>,
    highest_cost: Option<u32>,
}

/// A password, and from when on logins with it count
type DatedHash = (PasswordHash, SystemTime);

#[derive(Clone, Debug)]
struct Model {
    solution: Solution,
    co_owners: Vec<UserId>,
    catalogs: Vec<Catalog>,
    revisions: Vec<Revision>,
}

/// On which terms a revision may be used
#[derive(Clone, Debug)]
struct Terms {
    license: License,
    right_of_all: bool,
    rights: HashSet<UserId>,
}

impl Platform {
    pub(super) fn new(records: &Records) -> Result<Self, RecordsError> {
        let mut problems = Vec::new();
        let mut platform = Self::default();
        let mut users = HashSet::new();
        for record in &records.accounts {
            let login = record.login.escape_debug();
            if record.login.is_empty() || record.user().0.is_empty() {
                problems.push("an account has an empty `login` or `id`".to_owned());
            }
            if !users.insert(record.user()) {
                let id = record.user();
                problems.push(format!(
                    "account `{login}`: the id `{}` is another account's too",
                    id.0.escape_debug()
                ));
            }
            if let Some(password) = &record.password {
                platform.highest_cost = platform.highest_cost.max(Some(password.cost()));
                platform.passwords.insert(
                    record.login.clone(),
                    (password.clone(), SystemTime::UNIX_EPOCH),
                );
            }
            let account = record.account();
            if platform
                .accounts
                .insert(record.login.clone(), account)
                .is_some()
            {
                problems.push(format!("account `{login}` is there twice"));
            }
        }
        let mut catalogs = HashMap::new();
        for record in &records.catalogs {
            if catalogs
                .insert(record.name.as_str(), record.catalog())
                .is_some()
            {
                let name = record.name.escape_debug();
                problems.push(format!("catalogue `{name}` is there twice"));
            }
        }
        for record in &records.solutions {
            platform.add(record, &catalogs, &mut problems);
        }
        match problems.is_empty() {
            true => Ok(platform),
            false => Err(RecordsError { problems }),
        }
    }

    fn add(
        &mut self,
        record: &SolutionRecord,
        catalogs: &HashMap<&str, Catalog>,
        problems: &mut Vec<String>,
    ) {
        let at = format!("solution `{}`", record.id.escape_debug());
        let id: SolutionId = match record.id.parse() {
            Ok(id) => id,
            Err(error) => {
                let name = record.name.escape_debug();
                problems.push(format!("the solution named `{name}`: {error}"));
                return;
            }
        };
        let user = |login: &String, what: &str, problems: &mut Vec<String>| {
            let account = self.accounts.get(login);
            if account.is_none() {
                problems.push(format!(
                    "{what} `{}` is the login name of no account here",
                    login.escape_debug()
                ));
            }
            account.map(|account| account.user.clone())
        };
        let owner = user(&record.owner, &format!("{at}: the owner"), problems);
        let co_owners = record
            .co_owners
            .iter()
            .filter_map(|login| user(login, &format!("{at}: the co-owner"), problems))
            .collect();
        let mut revisions = Vec::new();
        let mut terms = Vec::new();
        for record in &record.revisions {
            let at = format!("{at}, revision `{}`", record.version.escape_debug());
            match record.revision(&id) {
                Ok(revision) => revisions.push(revision),
                Err(error) => problems.push(format!("{at}: {error}")),
            }
            let rights = record
                .rights
                .iter()
                .filter_map(|login| user(login, &format!("{at}: the holder of a right"), problems))
                .collect();
            terms.push((
                at,
                record.revision_id(&id),
                Terms {
                    license: record.license.into(),
                    right_of_all: record.right_of_all,
                    rights,
                },
            ));
        }
        for (at, id, of_it) in terms {
            match self.terms.entry(id) {
                Entry::Vacant(free) => {
                    free.insert(of_it);
                }
                Entry::Occupied(taken) => problems.push(format!(
                    "{at}: the id `{}` is another revision's too; give each an `id` of its own",
                    taken.key().0.escape_debug()
                )),
            }
        }
        let mut published = Vec::new();
        for name in &record.catalogs {
            match catalogs.get(name.as_str()) {
                Some(catalog) => published.push(catalog.clone()),
                None => problems.push(format!(
                    "{at}: `{}` is no catalogue here",
                    name.escape_debug()
                )),
            }
        }
        for image in revisions.iter().flat_map(|revision| &revision.images) {
            let claimants = self.claimants.entry(image.repository.clone()).or_default();
            if !claimants.contains(&id) {
                claimants.push(id.clone());
            }
        }
        // Without an owner there is a problem, and so no platform.
        let Some(owner) = owner else { return };
        let model = Model {
            solution: Solution {
                id: id.clone(),
                name: record.name.clone(),
                owner,
                active: record.active,
            },
            co_owners,
            catalogs: published,
            revisions,
        };
        if self.models.insert(id, model).is_some() {
            problems.push(format!("{at} is there twice"));
        }
    }

    /// Says when passwords were set: as before where they are as before, and now where not
    pub(super) fn date(mut self, before: Option<&Self>, now: SystemTime) -> Self {
        for (login, (hash, date)) in &mut self.passwords {
            *date = before
                .and_then(|before| before.passwords.get(login))
                .filter(|(old, _)| old == hash)
                .map_or(now, |(_, date)| *date);
        }
        self
    }

    /// What a login is checked against
    pub(super) fn login(&self, login: &str) -> Login {
        let account = self.accounts.get(login).cloned();
        match account.zip(self.passwords.get(login)) {
            Some((account, (hash, date))) => {
                Login::from_parts(Some((account, hash.clone())), *date, self.highest_cost)
            }
            None => Login::from_parts(None, SystemTime::UNIX_EPOCH, self.highest_cost),
        }
    }

    /// The answer to everything but [`Query::Tags`]
    pub(super) fn answer(&self, query: &Query) -> Option<Answer> {
        Some(match query {
            Query::Account(login) => Answer::Account(self.accounts.get(login).cloned()),
            Query::Catalogs(id) => Answer::Catalogs(
                self.models
                    .get(id)
                    .map_or_else(Vec::new, |m| m.catalogs.clone()),
            ),
            Query::CoOwners(id) => Answer::CoOwners(
                self.models
                    .get(id)
                    .map_or_else(Vec::new, |m| m.co_owners.clone()),
            ),
            Query::Claimants(name) => {
                Answer::Claimants(self.claimants.get(name).cloned().unwrap_or_default())
            }
            Query::License(id) => {
                Answer::License(self.terms.get(id).map_or(License::Unknown, |t| t.license))
            }
            Query::Revisions(id) => Answer::Revisions(
                self.models
                    .get(id)
                    .map_or_else(Vec::new, |m| m.revisions.clone()),
            ),
            Query::Right(id, user) => Answer::Right(match self.terms.get(id) {
                Some(terms) if terms.rights.contains(user) => Right::Own,
                Some(terms) if terms.right_of_all => Right::Everyone,
                _ => no_right(),
            }),
            Query::Solution(id) => {
                Answer::Solution(self.models.get(id).map(|model| model.solution.clone()))
            }
            Query::Tags(..) => return None,
        })
    }
}

/// That nobody has written down a right
pub(super) fn no_right() -> Right {
    Right::None {
        reason: "none is on record".to_owned(),
    }
}

fn yes() -> bool {
    true
}

fn is_no(value: &bool) -> bool {
    !value
}

/// How many problems an error's text lists
const SHOWN: usize = 8;

/// The most YAML values that are read: some hundred thousand revisions
const MAX_NODES: usize = 2_000_000;
