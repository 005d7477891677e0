//! The decision itself

use registry_core::{Action, Digest, RepositoryName, Tag, TagOrDigest};

use super::facts::{
    Account, Catalog, Facts, License, Query, Revision, Right, Solution, Visibility,
};
use super::names::{is_tag_of, model_name, split};
use crate::policy::Decision;

/// What someone wants to do
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// The login name; `None` for nobody in particular
    pub user: Option<&'a str>,
    /// What is done
    pub action: Action,
    /// To which repository; `None` is the catalogue of all
    pub repository: Option<&'a RepositoryName>,
    /// To which of its images; `None` when it is about the repository, or not known yet
    pub reference: Option<&'a TagOrDigest>,
}

/// What an operator can choose
///
/// # Examples
///
/// ```
/// use registry_auth::acumos::Rules;
///
/// let rules = Rules::default().with_co_owner_push(false);
/// assert_eq!(rules.admin_role, "Admin");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rules {
    /// The role that may delete images and list all repositories; by default `Admin`, which
    /// every platform has
    pub admin_role: String,
    /// Whether co-owners may push; by default they may, as the platform lets them write
    pub co_owner_push: bool,
}

impl Rules {
    /// Sets [`Rules::admin_role`]
    #[must_use]
    pub fn with_admin_role(mut self, role: impl Into<String>) -> Self {
        self.admin_role = role.into();
        self
    }

    /// Sets [`Rules::co_owner_push`]
    #[must_use]
    pub fn with_co_owner_push(mut self, may: bool) -> Self {
        self.co_owner_push = may;
        self
    }

    /// Decides, or says which fact is missing
    ///
    /// Pure and total: the answer depends on the arguments alone. Whoever calls it answers the
    /// question and calls again; each question is asked at most once, so that ends.
    ///
    /// The reason of a denial does not tell an image that does not exist from one that the
    /// user may not know of. The rule, which is for operators, does.
    ///
    /// # Errors
    ///
    /// The fact that is needed next.
    pub fn decide(&self, request: &Request<'_>, facts: &Facts) -> Result<Decision, Query> {
        let Some(login) = request.user else {
            return Ok(Decision::deny(
                "anonymous",
                "log in with your account of the platform",
            ));
        };
        let account = match facts.account(login)? {
            Some(account) if account.active => account,
            // Not told apart: who may log in is nobody else's business.
            Some(_) => return Ok(Decision::deny("inactive-account", NO_ACCOUNT)),
            None => return Ok(Decision::deny("unknown-account", NO_ACCOUNT)),
        };
        let Some(repository) = request.repository else {
            return Ok(self.administer(account, "only administrators may list all repositories"));
        };
        match (request.action, request.reference) {
            (Action::Pull, None) => list(account, repository, facts),
            (Action::Pull, Some(TagOrDigest::Tag(tag))) => {
                pull_tag(account, repository, tag, facts).and_then(Pull::settle)
            }
            (Action::Pull, Some(TagOrDigest::Digest(digest))) => {
                pull_digest(account, repository, digest, facts)
            }
            (Action::Push, reference) => {
                let tag = match reference {
                    Some(TagOrDigest::Tag(tag)) => Some(tag),
                    // The children of an index are pushed by digest, before its tag.
                    Some(TagOrDigest::Digest(_)) | None => None,
                };
                self.push(account, repository, tag, facts)
            }
            _ => Ok(self.administer(account, "only administrators may delete images")),
        }
    }

    fn administer(&self, account: &Account, otherwise: &'static str) -> Decision {
        match account.roles.contains(&self.admin_role) {
            true => Decision::allow("administrator", "you are an administrator"),
            false => Decision::deny("not-administrator", otherwise),
        }
    }

    fn push(
        &self,
        account: &Account,
        repository: &RepositoryName,
        tag: Option<&Tag>,
        facts: &Facts,
    ) -> Result<Decision, Query> {
        let claims = Claims::of(repository, facts)?;
        let mut owned = Vec::new();
        let mut others = Vec::new();
        for solution in claims.solutions {
            let owns = solution.owner == account.user
                || (self.co_owner_push && facts.co_owners(&solution.id)?.contains(&account.user));
            match owns {
                true => owned.push(solution),
                false => others.push(solution),
            }
        }
        if owned.is_empty() {
            return Ok(Decision::deny(
                if others.is_empty() {
                    "unknown-solution"
                } else {
                    "not-owner"
                },
                format!(
                    "you own no solution with an image `{repository}`; push to \
                     `<model name>_<solution id>` of a solution of yours"
                ),
            ));
        }
        // By its id a solution is found under any name; it may be pushed under its own only.
        if let (Some(model), [solution]) = (claims.model, owned.as_slice())
            && model != model_name(&solution.name)
            && !facts
                .revisions(&solution.id)?
                .iter()
                .any(|revision| has_repository(revision, repository))
        {
            return Ok(Decision::deny(
                "wrong-name",
                format!(
                    "solution {} is named `{}`; push to `{}_{}`",
                    solution.id,
                    solution.name,
                    model_name(&solution.name),
                    solution.id,
                ),
            ));
        }
        let Some(tag) = tag else {
            return Ok(Decision::allow(
                "owner",
                format!("you own a solution with the image `{repository}`"),
            ));
        };
        for solution in others {
            if facts
                .revisions(&solution.id)?
                .iter()
                .any(|revision| has_image(revision, repository, tag))
            {
                return Ok(Decision::deny(
                    "ambiguous",
                    format!(
                        "`{repository}:{tag}` is also the image of a solution that you do not own; \
                         push to `<model name>_<solution id>`"
                    ),
                ));
            }
        }
        let mut versions = Vec::new();
        for solution in owned {
            for revision in facts.revisions(&solution.id)? {
                let by_version = claims.model.is_some() && is_tag_of(tag, &revision.version);
                if by_version || has_image(revision, repository, tag) {
                    return Ok(Decision::allow(
                        "owner-of-revision",
                        format!(
                            "you own solution {}, and `{tag}` is its revision {}",
                            solution.id, revision.version
                        ),
                    ));
                }
                versions.push(revision.version.to_lowercase());
            }
        }
        Ok(Decision::deny(
            "no-such-revision",
            match versions.is_empty() {
                true => format!("the solution has no revision yet; `{tag}` must be one"),
                false => format!(
                    "`{tag}` is no revision of the solution; expected one of {}",
                    shortened(versions)
                ),
            },
        ))
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            admin_role: "Admin".to_owned(),
            co_owner_push: true,
        }
    }
}

/// The solutions that a repository may belong to
struct Claims<'f, 'r> {
    /// The model name, where the repository's name has the solution's id
    model: Option<&'r str>,
    /// Those that exist for the portal
    solutions: Vec<&'f Solution>,
}

impl<'f, 'r> Claims<'f, 'r> {
    fn of(repository: &'r RepositoryName, facts: &'f Facts) -> Result<Self, Query> {
        if let Some((model, id)) = split(repository) {
            let solution = facts.solution(&id)?.filter(|solution| solution.active);
            return Ok(Self {
                model: Some(model),
                solutions: solution.into_iter().collect(),
            });
        }
        let mut solutions = Vec::new();
        for id in facts.claimants(repository)? {
            solutions.extend(facts.solution(id)?.filter(|solution| solution.active));
        }
        Ok(Self {
            model: None,
            solutions,
        })
    }
}

/// What is known of a pull before anything is asked that counts as a use
enum Pull {
    Decided(Decision),
    /// Everything but the right to use, which must be asked for first
    AskRight(Query),
}

impl Pull {
    fn settle(self) -> Result<Decision, Query> {
        match self {
            Self::Decided(decision) => Ok(decision),
            Self::AskRight(query) => Err(query),
        }
    }
}

/// Whether a user may know which tags there are
fn list(account: &Account, repository: &RepositoryName, facts: &Facts) -> Result<Decision, Query> {
    let claims = Claims::of(repository, facts)?;
    for solution in &claims.solutions {
        if owns(account, solution, facts)? {
            return Ok(owner(solution));
        }
    }
    for solution in &claims.solutions {
        if let Some(catalog) = visible(account, facts.catalogs(&solution.id)?) {
            return Ok(Decision::allow(
                "published",
                format!(
                    "solution {} is in the catalogue `{}`",
                    solution.id, catalog.name
                ),
            ));
        }
    }
    Ok(hidden(
        if claims.solutions.is_empty() {
            "unknown-solution"
        } else {
            "not-published"
        },
        repository,
    ))
}

/// Whether a user may pull what lies under a digest: what a tag leads to that may be pulled
fn pull_digest(
    account: &Account,
    repository: &RepositoryName,
    digest: &Digest,
    facts: &Facts,
) -> Result<Decision, Query> {
    let claims = Claims::of(repository, facts)?;
    if let (Some(_), [solution]) = (claims.model, claims.solutions.as_slice())
        && owns(account, solution, facts)?
    {
        return Ok(owner(solution));
    }
    if claims.solutions.is_empty() {
        return Ok(hidden("unknown-solution", repository));
    }
    let mut denied = None;
    let mut ask = None;
    for tag in facts.tags(repository, digest)? {
        match pull_tag(account, repository, tag, facts)? {
            Pull::Decided(decision) if decision.is_allow() => return Ok(decision),
            Pull::Decided(decision) => denied = Some(decision),
            Pull::AskRight(query) => ask = ask.or(Some(query)),
        }
    }
    match (ask, denied) {
        (Some(query), _) => Err(query),
        (None, Some(decision)) => Ok(decision),
        (None, None) => Ok(hidden("untagged", repository)),
    }
}

fn pull_tag(
    account: &Account,
    repository: &RepositoryName,
    tag: &Tag,
    facts: &Facts,
) -> Result<Pull, Query> {
    let claims = Claims::of(repository, facts)?;
    let mut solutions = claims.solutions;
    if claims.model.is_none() {
        let mut claiming = Vec::new();
        for solution in solutions {
            let revisions = facts.revisions(&solution.id)?;
            if revisions
                .iter()
                .any(|revision| has_image(revision, repository, tag))
            {
                claiming.push(solution);
            }
        }
        solutions = claiming;
    }
    let mut owned = Vec::new();
    for solution in &solutions {
        if owns(account, solution, facts)? {
            owned.push(*solution);
        }
    }
    if let [solution] = owned.as_slice() {
        return Ok(Pull::Decided(owner(solution)));
    }
    let solution = match solutions.as_slice() {
        [] => return Ok(Pull::Decided(hidden("unknown-solution", repository))),
        [solution] => *solution,
        _ => return Ok(Pull::Decided(hidden("ambiguous", repository))),
    };
    let Some(catalog) = visible(account, facts.catalogs(&solution.id)?) else {
        return Ok(Pull::Decided(hidden("not-published", repository)));
    };
    let revisions = facts.revisions(&solution.id)?;
    let by_image = |revision: &&Revision| has_image(revision, repository, tag);
    let mut meant: Vec<&Revision> = revisions.iter().filter(by_image).collect();
    if meant.is_empty() {
        meant.extend(
            revisions
                .iter()
                .filter(|revision| is_tag_of(tag, &revision.version)),
        );
    }
    // The platform may have a version twice. Then the user must be allowed each of them, since
    // nothing tells which one the image is.
    let mut decision = None;
    for revision in meant {
        match pull_revision(account, solution, catalog, revision, facts)? {
            Pull::Decided(allowed) if allowed.is_allow() => decision = Some(allowed),
            other => return Ok(other),
        }
    }
    Ok(Pull::Decided(
        decision.unwrap_or_else(|| hidden("no-such-revision", repository)),
    ))
}

/// Whether a revision of a published solution may be used
fn pull_revision(
    account: &Account,
    solution: &Solution,
    catalog: &Catalog,
    revision: &Revision,
    facts: &Facts,
) -> Result<Pull, Query> {
    let version = &revision.version;
    let published = format!(
        "solution {} is in the catalogue `{}`",
        solution.id, catalog.name
    );
    match facts.license(&revision.id)? {
        License::Free => {
            return Ok(Pull::Decided(Decision::allow(
                "open-source",
                format!("{published}, and revision {version} is open source"),
            )));
        }
        License::Revoked => {
            return Ok(Pull::Decided(Decision::deny(
                "license-revoked",
                format!("the licence of revision {version} was withdrawn"),
            )));
        }
        License::RightRequired | License::Unknown => {}
    }
    Ok(match facts.right(&revision.id, &account.user) {
        Err(query) => Pull::AskRight(query),
        Ok(Right::Own) => Pull::Decided(Decision::allow(
            "right-to-use",
            format!("{published}, and you have a right to use revision {version}"),
        )),
        Ok(Right::Everyone) => Pull::Decided(Decision::allow(
            "right-to-use-for-all",
            format!("{published}, and every user has a right to use revision {version}"),
        )),
        Ok(Right::None { reason }) => Pull::Decided(Decision::deny(
            "no-right-to-use",
            format!(
                "revision {version} is not open source and you have no right to use it ({reason}); \
                 ask its licensor for one"
            ),
        )),
    })
}

fn owns(account: &Account, solution: &Solution, facts: &Facts) -> Result<bool, Query> {
    Ok(solution.owner == account.user || facts.co_owners(&solution.id)?.contains(&account.user))
}

fn owner(solution: &Solution) -> Decision {
    Decision::allow("owner", format!("you own solution {}", solution.id))
}

/// The first catalogue in which the user sees a solution
fn visible<'c>(account: &Account, catalogs: &'c [Catalog]) -> Option<&'c Catalog> {
    catalogs.iter().find(|catalog| match &catalog.visibility {
        Visibility::Public => true,
        Visibility::Restricted { roles } => roles.iter().any(|role| account.roles.contains(role)),
    })
}

fn has_repository(revision: &Revision, repository: &RepositoryName) -> bool {
    revision
        .images
        .iter()
        .any(|image| image.repository == *repository)
}

fn has_image(revision: &Revision, repository: &RepositoryName, tag: &Tag) -> bool {
    let is_it = |image: &super::ImageName| image.repository == *repository && image.tag == *tag;
    revision.images.iter().any(is_it)
}

/// A denial that tells the user nothing about what exists
fn hidden(rule: &'static str, repository: &RepositoryName) -> Decision {
    Decision::deny(
        rule,
        format!(
            "there is no image in `{repository}` that you may pull: it must be yours, or be \
             published in a catalogue that you see"
        ),
    )
    .with_hidden()
}

/// The first of the versions, for an error message
fn shortened(mut versions: Vec<String>) -> String {
    let more = versions.len().saturating_sub(SHOWN);
    versions.truncate(SHOWN);
    let list = versions.join("`, `");
    match more {
        0 => format!("`{list}`"),
        more => format!("`{list}` and {more} more"),
    }
}

/// How many versions an error message lists
const SHOWN: usize = 8;

/// One text for every account that is not let in
const NO_ACCOUNT: &str = "the platform has no active account of yours";
