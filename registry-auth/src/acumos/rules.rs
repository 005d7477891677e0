//! The decision itself

use registry_core::{Action, Digest, RepositoryName, Tag, TagOrDigest};

use super::facts::{
    Account, Catalog, Facts, License, Query, Revision, Right, Solution, Visibility,
};
use super::names::{is_tag_of, model_name, split};
use super::remedy;
use super::words::{
    demand, hidden, image_of, in_catalog, is_revision, named, no_account, no_revision, other_owner,
    ownership, roles_of, who,
};
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
    /// What users are told of a denial, its reason and its remedy, does not tell an image that
    /// does not exist from one that the user may not know of. Neither does the rule, unless the
    /// denial is [hidden](Decision::is_hidden): then it is for operators, as the facts are.
    ///
    /// # Errors
    ///
    /// The fact that is needed next.
    pub fn decide(&self, request: &Request<'_>, facts: &Facts) -> Result<Decision, Query> {
        let Some(login) = request.user else {
            return Ok(
                Decision::deny("anonymous", "log in with your account of the platform")
                    .with_remedy(remedy::LOG_IN)
                    .with_missing("an account of the platform"),
            );
        };
        let account = match facts.account(login)? {
            Some(account) if account.active => account,
            Some(account) => {
                return Ok(no_account()
                    .with_fact(format!("the account of {} is not active", who(account)))
                    .with_missing("the account to be active"));
            }
            None => {
                return Ok(no_account()
                    .with_fact(format!("the platform has no account `{login}`"))
                    .with_missing(format!("an active account `{login}`")));
            }
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
            false => Decision::deny("not-administrator", otherwise)
                .with_remedy(remedy::NOT_ADMINISTRATOR)
                .with_missing(format!("the role `{}`", self.admin_role)),
        }
        .with_fact(roles_of(account))
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
        for &solution in &claims.solutions {
            let owns = solution.owner == account.user
                || (self.co_owner_push && facts.co_owners(&solution.id)?.contains(&account.user));
            match owns {
                true => owned.push(solution),
                false => others.push(solution),
            }
        }
        if owned.is_empty() {
            // By one rule, which users are shown, whether there is such a solution or not.
            let mut decision = Decision::deny(
                "not-owner",
                format!("you own no solution with an image `{repository}`"),
            )
            .with_remedy(remedy::not_owner(self.co_owner_push));
            if others.is_empty() {
                return Ok(claims.missing(decision, repository));
            }
            for solution in others {
                decision = decision.with_fact(other_owner(account, solution));
                if !self.co_owner_push {
                    decision = decision.with_fact("co-owners may not push here");
                }
            }
            return Ok(decision.with_missing(format!(
                "{} to own a solution with the image `{repository}`{}",
                who(account),
                if self.co_owner_push {
                    ", or to be a co-owner"
                } else {
                    ""
                }
            )));
        }
        // By its id a solution is found under any name; it may be pushed under its own only.
        if let (Some(model), [solution]) = (claims.model, owned.as_slice())
            && model != model_name(&solution.name)
            && let revisions = facts.revisions(&solution.id)?
            && !revisions
                .iter()
                .any(|revision| has_repository(revision, repository))
        {
            return Ok(Decision::deny(
                "wrong-name",
                format!("solution {} is named `{}`", solution.id, solution.name),
            )
            .with_remedy(remedy::own_image(repository, solution, revisions))
            .with_fact(ownership(account, solution))
            .with_fact(format!(
                "no revision of {} has an image `{repository}`",
                named(solution)
            ))
            .with_missing(format!(
                "`{repository}` to be the image of one of its revisions, or the solution to have \
                 the name that is in `{repository}`"
            )));
        }
        let Some(tag) = tag else {
            let decision = Decision::allow(
                "owner",
                format!("you own a solution with the image `{repository}`"),
            );
            return Ok(owned.iter().fold(decision, |decision, solution| {
                decision.with_fact(ownership(account, solution))
            }));
        };
        for solution in &others {
            if facts
                .revisions(&solution.id)?
                .iter()
                .any(|revision| has_image(revision, repository, tag))
            {
                let own = owned[0];
                let revisions = facts.revisions(&own.id)?;
                return Ok(Decision::deny(
                    "ambiguous",
                    format!(
                        "`{repository}:{tag}` is also the image of a solution that you do not own"
                    ),
                )
                .with_remedy(remedy::own_image(repository, own, revisions))
                .with_fact(format!(
                    "`{repository}:{tag}` is an image of {}",
                    named(solution)
                ))
                .with_fact(other_owner(account, solution))
                .with_missing(format!(
                    "`{repository}:{tag}` to be an image of no solution of somebody else"
                )));
            }
        }
        let mut revisions = Vec::new();
        for solution in &owned {
            for revision in facts.revisions(&solution.id)? {
                let by_version = claims.model.is_some() && is_tag_of(tag, &revision.version);
                if by_version || has_image(revision, repository, tag) {
                    return Ok(Decision::allow(
                        "owner-of-revision",
                        format!(
                            "you own solution {}, and `{tag}` is its revision {}",
                            solution.id, revision.version
                        ),
                    )
                    .with_fact(is_revision(repository, tag, revision, solution))
                    .with_fact(ownership(account, solution)));
                }
                revisions.push(revision);
            }
        }
        let mut taken = Vec::new();
        for solution in others {
            taken.extend(facts.revisions(&solution.id)?);
        }
        let is_taken = |tag: &Tag| {
            taken
                .iter()
                .any(|revision| has_image(revision, repository, tag))
        };
        let by_version = claims.model.is_some();
        let tags = remedy::own_tags(repository, by_version, revisions.iter().copied(), is_taken);
        let decision = Decision::deny(
            "no-such-revision",
            match revisions.is_empty() {
                true => format!("the solution has no revision yet; `{tag}` must be one"),
                false => format!("`{repository}:{tag}` is no revision of the solution"),
            },
        )
        .with_remedy(match tags {
            Some(tags) => tags,
            None => remedy::own_image(repository, owned[0], facts.revisions(&owned[0].id)?),
        });
        let decision = owned.iter().fold(decision, |decision, solution| {
            decision.with_fact(ownership(account, solution))
        });
        Ok(decision.with_missing(no_revision(repository, tag, owned[0])))
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
    /// Those that were deleted in the portal
    deleted: Vec<&'f Solution>,
}

impl<'f, 'r> Claims<'f, 'r> {
    fn of(repository: &'r RepositoryName, facts: &'f Facts) -> Result<Self, Query> {
        let mut claims = Self {
            model: None,
            solutions: Vec::new(),
            deleted: Vec::new(),
        };
        if let Some((model, id)) = split(repository) {
            claims.model = Some(model);
            claims.add(facts.solution(&id)?);
        } else {
            for id in facts.claimants(repository)? {
                claims.add(facts.solution(id)?);
            }
        }
        Ok(claims)
    }

    fn add(&mut self, solution: Option<&'f Solution>) {
        match solution {
            Some(solution) if solution.active => self.solutions.push(solution),
            Some(solution) => self.deleted.push(solution),
            None => {}
        }
    }

    /// Says of a denial that it is because there is no solution
    fn missing(&self, decision: Decision, repository: &RepositoryName) -> Decision {
        let mut decision = decision.with_missing(match self.model {
            Some(_) => format!("a solution with the id that `{repository}` ends in"),
            None => format!("a solution with an image `{repository}` among its artifacts"),
        });
        for solution in &self.deleted {
            decision = decision.with_fact(format!("{} is deleted in the portal", named(solution)));
        }
        match (self.model, self.deleted.is_empty()) {
            (_, false) => decision,
            (Some(_), true) => decision.with_fact(format!(
                "the platform has no solution with the id that `{repository}` ends in"
            )),
            (None, true) => decision.with_fact(format!("no solution has an image `{repository}`")),
        }
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
            return Ok(owner(account, repository, solution));
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
            )
            .with_fact(image_of(repository, solution))
            .with_fact(in_catalog(catalog)));
        }
    }
    if claims.solutions.is_empty() {
        let decision = hidden("unknown-solution", repository);
        return Ok(claims.missing(decision, repository));
    }
    unpublished(account, repository, &claims.solutions, facts)
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
        return Ok(owner(account, repository, solution));
    }
    if claims.solutions.is_empty() {
        let decision = hidden("unknown-solution", repository);
        return Ok(claims.missing(decision, repository));
    }
    let mut denied = None;
    let mut ask = None;
    for tag in facts.tags(repository, digest)? {
        match pull_tag(account, repository, tag, facts)? {
            Pull::Decided(decision) => {
                let decision = decision.with_fact(format!("tag `{tag}` leads to {digest}"));
                if decision.is_allow() {
                    return Ok(decision);
                }
                denied = Some(decision);
            }
            Pull::AskRight(query) => ask = ask.or(Some(query)),
        }
    }
    match (ask, denied) {
        (Some(query), _) => Err(query),
        (None, Some(decision)) => Ok(decision),
        (None, None) => Ok(hidden("untagged", repository)
            .with_fact(format!("no tag of `{repository}` leads to {digest}"))
            .with_missing(format!(
                "a tag that {} may pull and that leads to it, or to own the solution",
                who(account)
            ))),
    }
}

fn pull_tag(
    account: &Account,
    repository: &RepositoryName,
    tag: &Tag,
    facts: &Facts,
) -> Result<Pull, Query> {
    let claims = Claims::of(repository, facts)?;
    let mut solutions = claims.solutions.clone();
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
        return Ok(Pull::Decided(owner(account, repository, solution)));
    }
    let solution = match solutions.as_slice() {
        [] => {
            let decision = hidden("unknown-solution", repository);
            return Ok(Pull::Decided(if claims.solutions.is_empty() {
                claims.missing(decision, repository)
            } else {
                decision
                    .with_fact(format!("no revision has an image `{repository}:{tag}`"))
                    .with_missing(format!("a revision with an image `{repository}:{tag}`"))
            }));
        }
        [solution] => *solution,
        _ => {
            let mut decision = hidden("ambiguous", repository);
            for solution in &solutions {
                decision = decision.with_fact(format!(
                    "`{repository}:{tag}` is an image of {}, owned by {}",
                    named(solution),
                    solution.owner.0
                ));
            }
            return Ok(Pull::Decided(decision.with_missing(format!(
                "`{repository}:{tag}` to be an image of one solution only, or {} to own exactly one \
                 of them",
                who(account)
            ))));
        }
    };
    let Some(catalog) = visible(account, facts.catalogs(&solution.id)?) else {
        return unpublished(account, repository, &[solution], facts).map(Pull::Decided);
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
        let told = |decision: Decision| {
            decision
                .with_fact(is_revision(repository, tag, revision, solution))
                .with_fact(in_catalog(catalog))
        };
        match pull_revision(account, solution, catalog, revision, facts)? {
            Pull::Decided(allowed) if allowed.is_allow() => decision = Some(told(allowed)),
            Pull::Decided(denied) => return Ok(Pull::Decided(told(denied))),
            ask => return Ok(ask),
        }
    }
    Ok(Pull::Decided(decision.unwrap_or_else(|| {
        hidden("no-such-revision", repository)
            .with_fact(in_catalog(catalog))
            .with_missing(no_revision(repository, tag, solution))
    })))
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
    let license = facts.license(&revision.id)?;
    match license {
        License::Free => {
            return Ok(Pull::Decided(
                Decision::allow(
                    "open-source",
                    format!("{published}, and revision {version} is open source"),
                )
                .with_fact(demand(license)),
            ));
        }
        License::Revoked => {
            return Ok(Pull::Decided(
                Decision::deny(
                    "license-revoked",
                    format!("the licence of revision {version} was withdrawn"),
                )
                .with_remedy(remedy::license_revoked(solution))
                .with_fact(demand(license))
                .with_missing(format!(
                    "the licence of revision {version} to be valid again, or {} to own {}",
                    who(account),
                    named(solution)
                )),
            ));
        }
        License::RightRequired | License::Unknown => {}
    }
    let decision = match facts.right(&revision.id, &account.user) {
        Err(query) => return Ok(Pull::AskRight(query)),
        Ok(Right::Own) => Decision::allow(
            "right-to-use",
            format!("{published}, and you have a right to use revision {version}"),
        )
        .with_fact(format!("right to use: of {}", who(account))),
        Ok(Right::Everyone) => Decision::allow(
            "right-to-use-for-all",
            format!("{published}, and every user has a right to use revision {version}"),
        )
        .with_fact("right to use: of everyone"),
        Ok(Right::None { reason }) => Decision::deny(
            "no-right-to-use",
            format!(
                "revision {version} is not open source and you have no right to use it ({reason})"
            ),
        )
        .with_remedy(remedy::no_right(solution, revision))
        .with_fact(format!("right to use: none ({reason})"))
        .with_missing(format!(
            "a right of {}, or of everyone, to use revision {version} ({}), or to own {}",
            who(account),
            revision.id.0,
            named(solution)
        )),
    };
    Ok(Pull::Decided(decision.with_fact(demand(license))))
}

fn owns(account: &Account, solution: &Solution, facts: &Facts) -> Result<bool, Query> {
    Ok(solution.owner == account.user || facts.co_owners(&solution.id)?.contains(&account.user))
}

fn owner(account: &Account, repository: &RepositoryName, solution: &Solution) -> Decision {
    Decision::allow("owner", format!("you own solution {}", solution.id))
        .with_fact(image_of(repository, solution))
        .with_fact(ownership(account, solution))
}

/// The denial of solutions that are in no catalogue that the user sees
fn unpublished(
    account: &Account,
    repository: &RepositoryName,
    solutions: &[&Solution],
    facts: &Facts,
) -> Result<Decision, Query> {
    let mut decision = hidden("not-published", repository).with_missing(format!(
        "a catalogue that {} sees with one of these solutions in it, or to own or co-own it",
        who(account)
    ));
    for solution in solutions {
        let catalogs = facts.catalogs(&solution.id)?;
        decision = decision.with_fact(other_owner(account, solution));
        if catalogs.is_empty() {
            decision = decision.with_fact(format!("{} is in no catalogue", named(solution)));
        }
        for catalog in catalogs {
            decision = decision.with_fact(in_catalog(catalog));
        }
    }
    Ok(decision.with_fact(roles_of(account)))
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
