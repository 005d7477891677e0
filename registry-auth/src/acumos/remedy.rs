//! What would allow what was denied, in words for the user who asked
//!
//! A remedy names only what its reader may know of: the name that was asked for, and, to those
//! who see or own a solution, the solution.

use registry_core::{RepositoryName, Tag};

use super::facts::{Revision, Solution};
use super::names::model_name;

/// For nobody in particular
pub(super) const LOG_IN: &str = "`docker login` with your account of the platform";

/// For an account that is not let in, whatever is wrong with it
pub(super) const NO_ACCOUNT: &str = "look after your account in the platform's portal";

/// For what the user may not see, be it there or not
pub(super) const NOT_SEEN: &str =
    "check the name, or ask the owner to publish it in a catalogue that you see";

/// For what only administrators do
pub(super) const NOT_ADMINISTRATOR: &str =
    "ask an administrator of the platform to do it, or to make you one";

/// For a push by somebody who owns no solution of that name, be there one or not
pub(super) fn not_owner(co_owner_push: bool) -> &'static str {
    match co_owner_push {
        true => {
            "push to `<model name>_<solution id>` of a solution of yours, with the version of one \
             of its revisions as tag; for a solution of somebody else, be made a co-owner first"
        }
        false => {
            "push to `<model name>_<solution id>` of a solution of yours, with the version of one \
             of its revisions as tag"
        }
    }
}

/// For a pull of a revision that needs a right to use
pub(super) fn no_right(solution: &Solution, revision: &Revision) -> String {
    format!(
        "ask its licensor for a right to use revision {} of solution {}",
        revision.version, solution.id
    )
}

/// For a pull of a revision whose licence was withdrawn
pub(super) fn license_revoked(solution: &Solution) -> String {
    format!(
        "pull another revision, or ask the owner of solution {} for one with a valid licence",
        solution.id
    )
}

/// For a push by the owner of a solution to a repository that is none of its own: the one that is
///
/// `asked` is the repository that was pushed to, whose prefix is kept.
pub(super) fn own_image(
    asked: &RepositoryName,
    solution: &Solution,
    revisions: &[Revision],
) -> String {
    let id = &solution.id;
    let Some(own) = own_name(asked, solution) else {
        return format!(
            "in the portal, give solution {id} a name that an image can have, of letters, digits, \
             `-` and `_`, and push to `<model name>_{id}`"
        );
    };
    let tags = revisions
        .iter()
        .filter_map(|revision| tag_of(&revision.version));
    match listed(tags) {
        Some(tags) => {
            format!("push to `{own}` with the tag of one of the solution's revisions: {tags}")
        }
        None => format!(
            "in the portal, add a revision to solution {id}, and push to `{own}` with its version \
             as tag"
        ),
    }
}

/// For a push by an owner with a tag that is no revision of the solution: the tags that are
///
/// By its id a solution's image has the tags of its versions too (`by_version`). Tags that
/// are `taken` are those of solutions of somebody else. `None` where none is left.
pub(super) fn own_tags<'r>(
    repository: &RepositoryName,
    by_version: bool,
    revisions: impl Iterator<Item = &'r Revision>,
    taken: impl Fn(&Tag) -> bool,
) -> Option<String> {
    let tags = revisions.flat_map(|revision| {
        let version = tag_of(&revision.version).filter(|_| by_version);
        let images = revision
            .images
            .iter()
            .filter(|image| image.repository == *repository)
            .map(|image| image.tag.clone());
        version.into_iter().chain(images)
    });
    listed(tags.filter(|tag| !taken(tag)))
        .map(|tags| format!("push with the tag of one of the solution's revisions: {tags}"))
}

/// The tag that the platform makes of a version, where it can be one
fn tag_of(version: &str) -> Option<Tag> {
    version.to_lowercase().parse().ok()
}

/// The name that images of a solution have, where its name can be in one
fn own_name(asked: &RepositoryName, solution: &Solution) -> Option<RepositoryName> {
    let prefix = match asked.as_str().rsplit_once('/') {
        Some((prefix, _)) => format!("{prefix}/"),
        None => String::new(),
    };
    let model = model_name(&solution.name);
    if model.contains('/') {
        return None;
    }
    format!("{prefix}{model}_{}", solution.id).parse().ok()
}

/// Each of the tags once, the first of them only; `None` of none
fn listed(tags: impl Iterator<Item = Tag>) -> Option<String> {
    let mut distinct: Vec<Tag> = Vec::new();
    for tag in tags {
        if !distinct.contains(&tag) {
            distinct.push(tag);
        }
    }
    let more = distinct.len().saturating_sub(SHOWN);
    distinct.truncate(SHOWN);
    let shown: Vec<&str> = distinct.iter().map(Tag::as_str).collect();
    match (shown.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(format!("`{}`", shown.join("`, `"))),
        (false, more) => Some(format!("`{}` and {more} more", shown.join("`, `"))),
    }
}

/// How many tags a remedy lists
const SHOWN: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acumos::{RevisionId, UserId};

    fn solution(name: &str) -> Solution {
        Solution {
            id: "9d294c20-7b1f-4ab7-b8b3-03bc7f069ac1".parse().unwrap(),
            name: name.to_owned(),
            owner: UserId::new("u1"),
            active: true,
        }
    }

    fn revisions(versions: &[&str]) -> Vec<Revision> {
        let revision = |version: &&str| Revision {
            id: RevisionId::new(*version),
            version: (*version).to_owned(),
            images: Vec::new(),
        };
        versions.iter().map(revision).collect()
    }

    #[test]
    fn the_prefix_of_the_name_that_was_asked_for_is_kept() {
        for (asked, own) in [
            ("x", "`faceprivacy_9d294c20-"),
            ("peer/a/x", "`peer/a/faceprivacy_9d294c20-"),
        ] {
            let remedy = own_image(&asked.parse().unwrap(), &solution("Face Privacy"), &[]);
            assert!(remedy.contains(own), "{remedy}");
        }
    }

    #[test]
    fn what_can_be_no_name_or_tag_is_not_proposed() {
        let asked = "x".parse().unwrap();
        for name in ["résumé", "a/b", "-", "x-"] {
            let remedy = own_image(&asked, &solution(name), &revisions(&["1"]));
            assert!(remedy.contains("give solution 9d294c20-"), "{remedy}");
        }
        let iris = solution("iris");
        let remedy = own_image(&asked, &iris, &revisions(&["1 of 2", "2-RC", "2-rc"]));
        assert!(remedy.ends_with("revisions: `2-rc`"), "{remedy}");
        let remedy = own_image(&asked, &iris, &revisions(&["1 of 2"]));
        assert!(remedy.contains("add a revision"), "{remedy}");
    }

    #[test]
    fn long_lists_end_and_tags_that_are_taken_are_in_none() {
        let many: Vec<String> = (0..20).map(|number| number.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let revisions = revisions(&many);
        let repository = "x".parse().unwrap();
        let remedy = own_tags(&repository, true, revisions.iter(), |tag| {
            tag.as_str() == "0"
        });
        let remedy = remedy.unwrap();
        let expected = ": `1`, `2`, `3`, `4`, `5`, `6`, `7`, `8` and 11 more";
        assert!(remedy.ends_with(expected), "{remedy}");
        assert_eq!(
            own_tags(&repository, true, revisions.iter(), |_| true),
            None
        );
    }
}
