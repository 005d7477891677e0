//! Random lists and accesses: the index and the model always agree

use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use registry_auth::rules::{Effect, Rule, RuleAction, RuleList, Subject};
use registry_auth::{Access, Action, Policy, Principal, Resource};
use registry_core::{Digest, TagOrDigest};

use crate::naive;

/// Few letters, so that they meet often
fn component() -> impl Strategy<Value = String> {
    "[ab]{1,3}"
}

fn name() -> impl Strategy<Value = String> {
    proptest::collection::vec(component(), 1..5).prop_map(|parts| parts.join("/"))
}

fn pattern() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        3 => component(),
        2 => "[ab]?\\*[ab]{0,2}",
        1 => "\\*[ab]\\*",
        3 => Just("**".to_owned()),
    ];
    proptest::collection::vec(part, 1..5)
        .prop_map(|parts| parts.join("/"))
        // A component such as `a**` comes of two stars in a row.
        .prop_filter("grammar", |text| {
            text.parse::<registry_auth::rules::RepositoryPattern>()
                .is_ok()
        })
}

fn roles() -> impl Strategy<Value = Vec<&'static str>> {
    subsequence(vec!["r", "s"], 0..=2)
}

fn principal() -> impl Strategy<Value = Principal> {
    let name = select(vec!["u", "v"]);
    prop_oneof![
        1 => Just(Principal::Anonymous),
        2 => (name.clone(), roles()).prop_map(|(name, roles)| Principal::service(name).with_roles(roles)),
        3 => (name, roles()).prop_map(|(name, roles)| Principal::user(name).with_roles(roles)),
        1 => Just(Principal::Token { subject: Some("u".to_owned()), grants: Default::default() }),
    ]
}

fn subject() -> impl Strategy<Value = Subject> {
    select(vec![
        "anonymous",
        "anyone",
        "authenticated",
        "role:r",
        "role:s",
        "service:u",
        "user:u",
        "user:v",
    ])
    .prop_map(|text| text.parse().unwrap())
}

fn rule() -> impl Strategy<Value = Rule> {
    let actions = vec![
        RuleAction::Pull,
        RuleAction::Push,
        RuleAction::Delete,
        RuleAction::All,
    ];
    (
        prop_oneof![2 => Just(Effect::Allow), 1 => Just(Effect::Deny)],
        proptest::collection::vec(subject(), 1..3),
        proptest::collection::vec(prop_oneof![1 => name(), 4 => pattern()], 0..4),
        subsequence(actions, 1..=4),
        prop_oneof![2 => Just(vec![]), 1 => proptest::collection::vec("[ab*]{1,4}", 1..3)],
    )
        .prop_map(|(effect, subjects, repositories, actions, tags)| Rule {
            name: String::new(),
            effect,
            subjects,
            actions: match repositories.is_empty() {
                true => vec![RuleAction::Catalog],
                false => actions,
            },
            tags: match repositories.is_empty() {
                true => Vec::new(),
                false => tags.iter().map(|tag| tag.parse().unwrap()).collect(),
            },
            repositories: repositories
                .iter()
                .map(|text| text.parse().unwrap())
                .collect(),
            hidden: false,
        })
}

fn access() -> impl Strategy<Value = Access> {
    let reference = prop_oneof![
        2 => Just(None),
        3 => "[ab]{1,3}".prop_map(|tag| Some(TagOrDigest::Tag(tag.parse().unwrap()))),
        1 => Just(Some(TagOrDigest::Digest(Digest::sha256(b"a")))),
    ];
    let repository = prop_oneof![1 => Just(None), 9 => name().prop_map(Some)];
    let action = select(vec![
        Action::Pull,
        Action::Push,
        Action::Delete,
        Action::All,
    ]);
    (repository, action, reference).prop_map(|(repository, action, reference)| Access {
        resource: match repository {
            Some(name) => Resource::Repository(name.parse().unwrap()),
            None => Resource::Catalog,
        },
        action,
        reference,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn the_list_agrees_with_its_model(
        mut rules in proptest::collection::vec(rule(), 0..25),
        principals in proptest::collection::vec(principal(), 4),
        accesses in proptest::collection::vec(access(), 8),
        hidden in any::<bool>(),
    ) {
        for (number, rule) in rules.iter_mut().enumerate() {
            rule.name = format!("rule {number}");
            rule.hidden = hidden && rule.effect == Effect::Deny && number % 2 == 0;
        }
        let list = RuleList::new(rules).unwrap().with_hidden(hidden);
        for principal in &principals {
            for access in &accesses {
                let decision = list.decide(principal, access);
                let expected = naive::decide(list.rules(), principal, access);
                prop_assert_eq!(
                    (decision.is_allow(), decision.rule()), expected,
                    "{} {} {:?} {:?}", principal, access, access.reference, list.rules()
                );
                let hides = match list.rules().iter().find(|rule| rule.name == decision.rule()) {
                    Some(rule) => rule.hidden,
                    None => hidden,
                };
                prop_assert_eq!(decision.is_hidden(), hides);
                prop_assert!(!decision.facts().is_empty());
                prop_assert_eq!(decision.missing().is_some(), !decision.is_allow());
            }
        }
    }
}
