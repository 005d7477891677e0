//! A list of thousands of rules, for hundreds of users: the index and the model always agree
//!
//! The list and its questions come from one seed, which a failure names; `REGISTRY_AUTH_SEED` in
//! the environment repeats it.

use proptest::prelude::RngExt;
use proptest::test_runner::{RngAlgorithm, TestRng};
use registry_auth::rules::{Effect, Rule, RuleAction, RuleList};
use registry_auth::{Access, Action, Policy, Principal, Resource};
use registry_core::{Digest, TagOrDigest};

use crate::naive;

const RULES: usize = 3_000;
const USERS: usize = 500;
const ROLES: usize = 60;
const QUESTIONS: usize = 20_000;
/// How many lists they are asked of
const LISTS: usize = 10;

/// Where a seed is taken from, if it is to be a certain one
const SEED: &str = "REGISTRY_AUTH_SEED";

fn seed() -> u64 {
    match std::env::var(SEED) {
        Ok(seed) => seed.parse().expect("a seed is a number"),
        // Each has keys of its own.
        Err(_) => {
            use std::hash::{BuildHasher, RandomState};
            RandomState::new().hash_one(SEED)
        }
    }
}

/// Everything random, from a seed
struct Chance(TestRng);

impl Chance {
    fn of(seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        Self(TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
    }

    fn below(&mut self, end: usize) -> usize {
        self.0.random_range(0..end)
    }

    fn of_these<T: Clone>(&mut self, these: &[T]) -> T {
        these[self.below(these.len())].clone()
    }

    /// One at least, and at most `most`, of what `make` makes
    fn some<T>(&mut self, most: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let count = 1 + self.below(most);
        (0..count).map(|_| make(self)).collect()
    }
}

fn component(chance: &mut Chance) -> String {
    let number = chance.below(25);
    let word = chance.of_these(&["team", "app", "base-image", "a.b", "x"]);
    format!("{word}{number}")
}

fn name(chance: &mut Chance) -> String {
    chance.some(4, component).join("/")
}

fn pattern(chance: &mut Chance) -> String {
    let mut parts = chance.some(3, |chance| match chance.below(8) {
        0 => "*".to_owned(),
        1 => "**".to_owned(),
        2 => format!("{}*", component(chance)),
        3 => format!("*{}", chance.below(10)),
        _ => component(chance),
    });
    // Few are about everything: those few would decide everything.
    parts.insert(chance.below(2) * parts.len(), component(chance));
    match chance.below(1_000) {
        0 => "**".to_owned(),
        _ => parts.join("/"),
    }
}

fn tag(chance: &mut Chance) -> String {
    let number = chance.below(20);
    let word = chance.of_these(&["v", "nightly-", "1."]);
    format!("{word}{number}")
}

fn subject(chance: &mut Chance) -> String {
    let (user, role) = (chance.below(USERS), chance.below(ROLES));
    match chance.below(200) {
        0 => "anyone".to_owned(),
        1..10 => "anonymous".to_owned(),
        10 => "authenticated".to_owned(),
        11..20 => format!("role:r{role}"),
        20..40 => format!("service:u{user}"),
        _ => format!("user:u{user}"),
    }
}

fn rule(chance: &mut Chance, number: usize) -> Rule {
    let catalog = chance.below(40) == 0;
    let actions = [
        RuleAction::Pull,
        RuleAction::Push,
        RuleAction::Delete,
        RuleAction::All,
    ];
    Rule {
        name: format!("rule {number}"),
        effect: match chance.below(6) {
            0 => Effect::Deny,
            _ => Effect::Allow,
        },
        subjects: chance
            .some(4, subject)
            .iter()
            .map(|text| text.parse().unwrap())
            .collect(),
        repositories: match catalog {
            true => Vec::new(),
            false => chance
                .some(4, pattern)
                .iter()
                .map(|text| text.parse().unwrap())
                .collect(),
        },
        actions: match catalog {
            true => vec![RuleAction::Catalog],
            false => {
                let mut some = chance.some(2, |chance| chance.of_these(&actions));
                some.dedup();
                some
            }
        },
        tags: match !catalog && chance.below(4) == 0 {
            true => chance
                .some(3, |chance| format!("{}*", tag(chance)))
                .iter()
                .map(|text| text.parse().unwrap())
                .collect(),
            false => Vec::new(),
        },
        hidden: false,
    }
}

fn principal(chance: &mut Chance) -> Principal {
    let name = format!("u{}", chance.below(USERS));
    let roles = chance.some(3, |chance| format!("r{}", chance.below(ROLES)));
    match chance.below(20) {
        0 => Principal::Anonymous,
        1..5 => Principal::service(name).with_roles(roles),
        _ => Principal::user(name).with_roles(roles),
    }
}

/// What a rule is about more often than not: of names at random hardly one meets a pattern
fn access(chance: &mut Chance, rules: &[&Rule]) -> Access {
    let patterns: Vec<&str> = rules
        .iter()
        .flat_map(|rule| &rule.repositories)
        .map(|pattern| pattern.as_str())
        .collect();
    let repository = match (chance.below(10), patterns.is_empty()) {
        (0, _) => None,
        (1..8, false) => {
            let parts: Vec<String> = chance
                .of_these(&patterns)
                .split('/')
                .flat_map(|part| match part {
                    "**" => chance.some(2, component),
                    part => vec![part.replace('*', &chance.below(30).to_string())],
                })
                .collect();
            Some(parts.join("/"))
        }
        _ => Some(name(chance)),
    };
    Access {
        resource: match repository {
            Some(name) => Resource::Repository(name.parse().unwrap()),
            None => Resource::Catalog,
        },
        action: chance.of_these(&[Action::Pull, Action::Push, Action::Delete, Action::All]),
        reference: match chance.below(4) {
            0 => None,
            1 => Some(TagOrDigest::Digest(Digest::sha256(b"content"))),
            _ => Some(TagOrDigest::Tag(tag(chance).parse().unwrap())),
        },
    }
}

#[test]
fn a_long_list_agrees_with_its_model() {
    let seed = seed();
    let mut chance = Chance::of(seed);
    let [mut allowed, mut denied, mut neither] = [0; 3];
    for _ in 0..LISTS {
        let rules = (0..RULES).map(|number| rule(&mut chance, number)).collect();
        let list = RuleList::new(rules).unwrap();
        let principals: Vec<Principal> = (0..20).map(|_| principal(&mut chance)).collect();
        let about: Vec<_> = principals
            .iter()
            .map(|principal| naive::of(list.rules(), principal))
            .collect();
        for number in 0..QUESTIONS / LISTS {
            let at = chance.below(principals.len());
            let (principal, rules) = (&principals[at], &about[at]);
            let access = access(&mut chance, rules);
            let decision = list.decide(principal, &access);
            let got = (decision.is_allow(), decision.rule());
            assert_eq!(
                got,
                naive::decide_among(rules, &access),
                "{SEED}={seed}, question {number}: {principal} {access} {:?}",
                access.reference
            );
            match got {
                (true, _) => allowed += 1,
                (false, "default") => neither += 1,
                (false, _) => denied += 1,
            }
        }
    }
    // Lists that hardly ever decide would prove little. One of them may well have a rule that
    // decides nearly everything, but not all.
    assert!(
        allowed.min(denied).min(neither) > QUESTIONS / 50,
        "{SEED}={seed}: {allowed} {denied} {neither}"
    );
}
