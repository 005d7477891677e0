//! What the platform knows, as far as the rules ask for it

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use registry_core::{Digest, RepositoryName, Tag};

use super::names::{ImageName, SolutionId};

/// A user account (CDS: `MLPUser`)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The id that owners and co-owners are named by
    pub user: UserId,
    /// The name that the user logs in with
    pub login: String,
    /// Whether the account may be used: active, verified, with a password that has not expired
    pub active: bool,
    /// The names of its active roles
    pub roles: Vec<String>,
}

/// The id of a user (CDS: `userId`)
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(pub Arc<str>);

impl UserId {
    /// Wraps an id
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self(id.into())
    }
}

/// A model (CDS: `MLPSolution`)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Solution {
    /// Its id
    pub id: SolutionId,
    /// Its name as the portal shows it, which its owner can change
    pub name: String,
    /// Who owns it
    pub owner: UserId,
    /// Whether it exists for the portal; a deleted solution is inactive, and its images stay
    pub active: bool,
}

/// A version of a solution (CDS: `MLPSolutionRevision`)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// Its id
    pub id: RevisionId,
    /// Its version as the portal shows it
    pub version: String,
    /// The images that are artifacts of it, by the end of their URI
    pub images: Vec<ImageName>,
}

/// The id of a revision (CDS: `revisionId`, LUM: `swTagId`)
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RevisionId(pub Arc<str>);

impl RevisionId {
    /// Wraps an id
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self(id.into())
    }
}

/// Where a solution is published (CDS: `MLPCatalog`)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalog {
    /// Its name
    pub name: String,
    /// Who sees what is in it
    pub visibility: Visibility,
}

/// Who sees a catalogue
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// Everyone (`PB`)
    Public,
    /// Users with one of these roles (`RS`)
    Restricted {
        /// The names of the roles
        roles: Vec<String>,
    },
}

/// What the licence of a revision demands (LUM: the software id tag and its licence profile)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum License {
    /// No right to use: what the platform means by open source
    Free,
    /// The licence was withdrawn
    Revoked,
    /// A right to use
    RightRequired,
    /// Nobody has said
    Unknown,
}

/// Whether a user has a right to use a revision
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Right {
    /// A right of all users of the platform
    Everyone,
    /// No right
    None {
        /// What the licence manager says, in words for the user
        reason: String,
    },
    /// A right of the user's own
    Own,
}

/// A fact that the rules need and nobody has told them yet
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Query {
    /// The account with this login name
    Account(String),
    /// The catalogues that a solution is in
    Catalogs(SolutionId),
    /// Who besides the owner may change a solution
    CoOwners(SolutionId),
    /// The solutions with an image of this name among their artifacts
    Claimants(RepositoryName),
    /// What the licence of a revision demands
    License(RevisionId),
    /// The revisions of a solution
    Revisions(SolutionId),
    /// Whether a user has a right to use a revision
    ///
    /// The only question that may count as a use: it is asked last, and not again for a while.
    Right(RevisionId, UserId),
    /// A solution
    Solution(SolutionId),
    /// The tags of a repository from which a manifest or blob is reached; asked of the
    /// registry, not of the platform
    Tags(RepositoryName, Digest),
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Account(login) => write!(f, "the account `{}`", login.escape_debug()),
            Self::Catalogs(id) => write!(f, "the catalogues of solution {id}"),
            Self::CoOwners(id) => write!(f, "the co-owners of solution {id}"),
            Self::Claimants(name) => write!(f, "the solutions with an image `{name}`"),
            Self::License(id) => write!(f, "the licence of revision {}", id.0),
            Self::Revisions(id) => write!(f, "the revisions of solution {id}"),
            Self::Right(id, user) => {
                write!(f, "the right of user {} to use revision {}", user.0, id.0)
            }
            Self::Solution(id) => write!(f, "solution {id}"),
            Self::Tags(name, digest) => write!(f, "the tags of `{name}` that lead to {digest}"),
        }
    }
}

/// The facts that have been gathered for a decision
///
/// Empty at first. A decision asks for what it lacks ([`decide`](super::Rules::decide)), one fact at a
/// time and the cheap ones first; whoever drives it tells the answer. What was told twice is
/// what was told last.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    accounts: HashMap<String, Option<Account>>,
    catalogs: HashMap<SolutionId, Vec<Catalog>>,
    co_owners: HashMap<SolutionId, Vec<UserId>>,
    claimants: HashMap<RepositoryName, Vec<SolutionId>>,
    licenses: HashMap<RevisionId, License>,
    revisions: HashMap<SolutionId, Vec<Revision>>,
    rights: HashMap<(RevisionId, UserId), Right>,
    solutions: HashMap<SolutionId, Option<Solution>>,
    tags: HashMap<(RepositoryName, Digest), Vec<Tag>>,
}

/// The answer to a [`Query`]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Query::Account`]; `None` when there is no such account
    Account(Option<Account>),
    /// To [`Query::Catalogs`]
    Catalogs(Vec<Catalog>),
    /// To [`Query::Claimants`]
    Claimants(Vec<SolutionId>),
    /// To [`Query::CoOwners`]
    CoOwners(Vec<UserId>),
    /// To [`Query::License`]
    License(License),
    /// To [`Query::Revisions`]
    Revisions(Vec<Revision>),
    /// To [`Query::Right`]
    Right(Right),
    /// To [`Query::Solution`]; `None` when there is no such solution
    Solution(Option<Solution>),
    /// To [`Query::Tags`]
    Tags(Vec<Tag>),
}

/// An answer that is none to the question
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected an answer about {query}, got one of another kind")]
pub struct MismatchedAnswer {
    query: Query,
}

impl Facts {
    /// Adds the answer to a question
    ///
    /// # Errors
    ///
    /// [`MismatchedAnswer`] when it is of another kind; nothing is added.
    pub fn tell(&mut self, query: Query, answer: Answer) -> Result<(), MismatchedAnswer> {
        match (query, answer) {
            (Query::Account(login), Answer::Account(account)) => {
                self.accounts.insert(login, account);
            }
            (Query::Catalogs(id), Answer::Catalogs(catalogs)) => {
                self.catalogs.insert(id, catalogs);
            }
            (Query::Claimants(name), Answer::Claimants(ids)) => {
                self.claimants.insert(name, ids);
            }
            (Query::CoOwners(id), Answer::CoOwners(users)) => {
                self.co_owners.insert(id, users);
            }
            (Query::License(id), Answer::License(license)) => {
                self.licenses.insert(id, license);
            }
            (Query::Revisions(id), Answer::Revisions(revisions)) => {
                self.revisions.insert(id, revisions);
            }
            (Query::Right(id, user), Answer::Right(right)) => {
                self.rights.insert((id, user), right);
            }
            (Query::Solution(id), Answer::Solution(solution)) => {
                self.solutions.insert(id, solution);
            }
            (Query::Tags(name, digest), Answer::Tags(tags)) => {
                self.tags.insert((name, digest), tags);
            }
            (query, _) => return Err(MismatchedAnswer { query }),
        }
        Ok(())
    }

    pub(super) fn account(&self, login: &str) -> Result<Option<&Account>, Query> {
        self.accounts
            .get(login)
            .map(Option::as_ref)
            .ok_or_else(|| Query::Account(login.to_owned()))
    }

    pub(super) fn catalogs(&self, id: &SolutionId) -> Result<&[Catalog], Query> {
        self.catalogs
            .get(id)
            .map(Vec::as_slice)
            .ok_or_else(|| Query::Catalogs(id.clone()))
    }

    pub(super) fn claimants(&self, name: &RepositoryName) -> Result<&[SolutionId], Query> {
        self.claimants
            .get(name)
            .map(Vec::as_slice)
            .ok_or_else(|| Query::Claimants(name.clone()))
    }

    pub(super) fn co_owners(&self, id: &SolutionId) -> Result<&[UserId], Query> {
        self.co_owners
            .get(id)
            .map(Vec::as_slice)
            .ok_or_else(|| Query::CoOwners(id.clone()))
    }

    pub(super) fn license(&self, id: &RevisionId) -> Result<License, Query> {
        self.licenses
            .get(id)
            .copied()
            .ok_or_else(|| Query::License(id.clone()))
    }

    pub(super) fn revisions(&self, id: &SolutionId) -> Result<&[Revision], Query> {
        self.revisions
            .get(id)
            .map(Vec::as_slice)
            .ok_or_else(|| Query::Revisions(id.clone()))
    }

    pub(super) fn right(&self, id: &RevisionId, user: &UserId) -> Result<&Right, Query> {
        let key = (id.clone(), user.clone());
        self.rights.get(&key).ok_or(Query::Right(key.0, key.1))
    }

    pub(super) fn solution(&self, id: &SolutionId) -> Result<Option<&Solution>, Query> {
        self.solutions
            .get(id)
            .map(Option::as_ref)
            .ok_or_else(|| Query::Solution(id.clone()))
    }

    pub(super) fn tags(&self, name: &RepositoryName, digest: &Digest) -> Result<&[Tag], Query> {
        let key = (name.clone(), *digest);
        self.tags
            .get(&key)
            .map(Vec::as_slice)
            .ok_or(Query::Tags(key.0, key.1))
    }
}
