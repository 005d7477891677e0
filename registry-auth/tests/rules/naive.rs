//! The rules as they are written for people, applied to one rule after the other

use registry_auth::rules::{Effect, Rule, RuleAction, Subject};
use registry_auth::{Access, Action, Principal, Resource};
use registry_core::TagOrDigest;

/// Whether it is allowed, by which rule
pub(crate) fn decide<'r>(
    rules: &'r [Rule],
    principal: &Principal,
    access: &Access,
) -> (bool, &'r str) {
    decide_among(&of(rules, principal), access)
}

/// The rules that are about a principal, in their order
pub(crate) fn of<'r>(rules: &'r [Rule], principal: &Principal) -> Vec<&'r Rule> {
    let is_about = |rule: &&Rule| rule.subjects.iter().any(|subject| is(principal, subject));
    rules.iter().filter(is_about).collect()
}

/// Whether it is allowed by rules that are all about whoever asks, and by which
pub(crate) fn decide_among<'r>(rules: &[&'r Rule], access: &Access) -> (bool, &'r str) {
    for (effect, verdict) in [(Effect::Deny, false), (Effect::Allow, true)] {
        for rule in rules.iter().filter(|rule| rule.effect == effect) {
            if covers(rule, access) {
                return (verdict, &rule.name);
            }
        }
    }
    (false, "default")
}

fn covers(rule: &Rule, access: &Access) -> bool {
    match &access.resource {
        Resource::Repository(name) => {
            let name: Vec<&str> = name.as_str().split('/').collect();
            rule.repositories
                .iter()
                .any(|pattern| path(&pattern.as_str().split('/').collect::<Vec<_>>(), &name))
                && does(rule, access.action)
                && (rule.tags.is_empty() || tagged(rule, access))
        }
        _ => {
            let everything = rule.repositories.iter().any(|one| one.as_str() == "**");
            let all = rule.actions.contains(&RuleAction::All) && everything;
            rule.tags.is_empty() && (all || rule.actions.contains(&RuleAction::Catalog))
        }
    }
}

fn is(principal: &Principal, subject: &Subject) -> bool {
    let (kind, name, roles) = match principal {
        Principal::Anonymous => ("anonymous", "", &[][..]),
        Principal::Service { name, roles } => ("service", name.as_str(), &roles[..]),
        Principal::User { name, roles } => ("user", name.as_str(), &roles[..]),
        _ => ("token", "", &[][..]),
    };
    match subject.to_string().split_once(':') {
        Some(("role", role)) => roles.iter().any(|one| one == role),
        Some((expected, named)) => kind == expected && name == named,
        None => match subject.to_string().as_str() {
            "anyone" => true,
            "authenticated" => ["user", "service"].contains(&kind),
            word => word == kind,
        },
    }
}

fn does(rule: &Rule, action: Action) -> bool {
    let has = |action: RuleAction| {
        rule.actions.contains(&action) || rule.actions.contains(&RuleAction::All)
    };
    let each = [RuleAction::Pull, RuleAction::Push, RuleAction::Delete].map(has);
    match (action, rule.effect) {
        (Action::Pull, _) => each[0],
        (Action::Push, _) => each[1],
        (Action::Delete, _) => each[2],
        (_, Effect::Allow) => each == [true; 3],
        (_, Effect::Deny) => each != [false; 3],
    }
}

fn tagged(rule: &Rule, access: &Access) -> bool {
    match &access.reference {
        Some(TagOrDigest::Tag(tag)) => rule
            .tags
            .iter()
            .any(|pattern| text(pattern.as_str().as_bytes(), tag.as_str().as_bytes())),
        _ if rule.effect == Effect::Deny => false,
        Some(TagOrDigest::Digest(_)) => access.action == Action::Push,
        None => [Action::Pull, Action::Push].contains(&access.action),
    }
}

fn path(pattern: &[&str], name: &[&str]) -> bool {
    match (pattern, name) {
        ([], name) => name.is_empty(),
        (["**"], name) => !name.is_empty(),
        (["**", rest @ ..], name) => {
            // A row of them says what one says.
            path(rest, name) || (!name.is_empty() && path(pattern, &name[1..]))
        }
        ([one, rest @ ..], [first, others @ ..]) => {
            text(one.as_bytes(), first.as_bytes()) && path(rest, others)
        }
        (_, []) => false,
    }
}

fn text(pattern: &[u8], other: &[u8]) -> bool {
    match (pattern, other) {
        ([], rest) => rest.is_empty(),
        ([b'*', rest @ ..], _) => {
            text(rest, other) || (!other.is_empty() && text(pattern, &other[1..]))
        }
        ([one, rest @ ..], [first, others @ ..]) => one == first && text(rest, others),
        (_, []) => false,
    }
}
