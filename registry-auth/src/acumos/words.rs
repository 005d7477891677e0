//! What decisions say: to operators, of what they rest on, and to users who may not know that

use registry_core::{RepositoryName, Tag};

use super::facts::{Account, Catalog, License, Revision, Solution, Visibility};
use super::remedy;
use crate::policy::Decision;

/// A user as operators know one
pub(super) fn who(account: &Account) -> String {
    ["`", &account.login, "` (user ", &account.user.0, ")"].concat()
}

pub(super) fn roles_of(account: &Account) -> String {
    match account.roles.is_empty() {
        true => format!("{} has no roles", who(account)),
        false => format!(
            "{} has the roles `{}`",
            who(account),
            account.roles.join("`, `")
        ),
    }
}

/// A solution as operators know one
pub(super) fn named(solution: &Solution) -> String {
    ["solution ", solution.id.as_str(), " (", &solution.name, ")"].concat()
}

// The facts that most decisions have are concatenated: formatting them would take longer than
// the decision.

pub(super) fn image_of(repository: &RepositoryName, solution: &Solution) -> String {
    let id = solution.id.as_str();
    let name = &solution.name;
    [
        "`",
        repository.as_str(),
        "` is an image of solution ",
        id,
        " (",
        name,
        ")",
    ]
    .concat()
}

pub(super) fn ownership(account: &Account, solution: &Solution) -> String {
    let (id, name) = (solution.id.as_str(), &solution.name);
    let (login, user) = (&account.login, &account.user.0);
    if solution.owner == account.user {
        [
            "solution ",
            id,
            " (",
            name,
            ") is owned by `",
            login,
            "` (user ",
            user,
            ")",
        ]
        .concat()
    } else {
        [
            "`",
            login,
            "` (user ",
            user,
            ") is a co-owner of solution ",
            id,
            " (",
            name,
            ")",
        ]
        .concat()
    }
}

pub(super) fn other_owner(account: &Account, solution: &Solution) -> String {
    let owner = &solution.owner.0;
    [
        &named(solution),
        " is owned by user ",
        owner,
        ", not by ",
        &who(account),
    ]
    .concat()
}

pub(super) fn is_revision(
    repository: &RepositoryName,
    tag: &Tag,
    revision: &Revision,
    solution: &Solution,
) -> String {
    [
        "`",
        repository.as_str(),
        ":",
        tag.as_str(),
        "` is revision ",
        &revision.version,
        " (",
        &revision.id.0,
        ") of solution ",
        solution.id.as_str(),
        " (",
        &solution.name,
        ")",
    ]
    .concat()
}

pub(super) fn no_revision(repository: &RepositoryName, tag: &Tag, solution: &Solution) -> String {
    format!(
        "a revision of {} with the version `{tag}` or the image `{repository}:{tag}`",
        named(solution)
    )
}

pub(super) fn in_catalog(catalog: &Catalog) -> String {
    match &catalog.visibility {
        Visibility::Public => ["in the catalogue `", &catalog.name, "`, which is public"].concat(),
        Visibility::Restricted { roles } => format!(
            "in the catalogue `{}`, which is for the roles `{}`",
            catalog.name,
            roles.join("`, `")
        ),
    }
}

/// What a licence demands, in words
pub(super) fn demand(license: License) -> &'static str {
    match license {
        License::Free => "licence: open source",
        License::Revoked => "licence: withdrawn",
        License::RightRequired => "licence: right required",
        License::Unknown => "licence: unknown, so a right is required",
    }
}

/// A denial that tells the user nothing about what exists
///
/// The one way to hide something: whatever the rule, which operators only are shown, what the
/// user sees depends on the name that the user gave and on nothing else.
pub(super) fn hidden(rule: &'static str, repository: &RepositoryName) -> Decision {
    Decision::deny(
        rule,
        format!(
            "there is no image in `{repository}` that you may pull: it must be yours, or be \
             published in a catalogue that you see"
        ),
    )
    .with_remedy(remedy::NOT_SEEN)
    .with_hidden()
}

/// One denial for every account that is not let in: which there are is nobody else's business
pub(super) fn no_account() -> Decision {
    Decision::deny("no-account", "the platform has no active account of yours")
        .with_remedy(remedy::NO_ACCOUNT)
}
