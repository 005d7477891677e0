//! What each access of a request costs to decide

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use registry_auth::acumos::{
    Account, Answer, Catalog, Facts, ImageName, License, Query, Request, Revision, RevisionId,
    Right, Rules, Solution, UserId, Visibility,
};
use registry_auth::rules::{Effect, Rule, RuleAction, RuleList};
use registry_auth::{Access, Action, Policy, Principal, Resource};
use registry_core::{RepositoryName, TagOrDigest};

const RULES: usize = 1_000;

/// A list in which each rule has its own subject and its own pattern
fn list(subject: impl Fn(usize) -> String, pattern: impl Fn(usize) -> String) -> RuleList {
    let rule = |number| Rule {
        name: format!("rule {number}"),
        effect: match number % 10 {
            0 => Effect::Deny,
            _ => Effect::Allow,
        },
        subjects: vec![subject(number).parse().unwrap()],
        repositories: vec![pattern(number).parse().unwrap()],
        actions: vec![RuleAction::Pull, RuleAction::Push],
        tags: match number % 3 {
            0 => vec!["v*".parse().unwrap()],
            _ => Vec::new(),
        },
        hidden: false,
    };
    RuleList::new((0..RULES).map(rule).collect()).unwrap()
}

fn rule_lists(c: &mut Criterion) {
    let ada = Principal::user("ada").with_roles(["Publisher", "Partner"]);
    let access = |name: &str| Access {
        resource: Resource::Repository(name.parse().unwrap()),
        action: Action::Push,
        reference: Some(TagOrDigest::Tag("v1".parse().unwrap())),
    };
    let anyone = |_| "anyone".to_owned();
    for (name, rules, repository) in [
        (
            "a team each",
            list(anyone, |number| format!("team{number}/**")),
            "team501/app",
        ),
        (
            "one repository each",
            list(anyone, |number| format!("team/app{number}")),
            "team/app501",
        ),
        (
            "a user each, every repository",
            list(|number| format!("user:u{number}"), |_| "**".to_owned()),
            "team/app",
        ),
        (
            "one team, a pattern each, none matches",
            list(anyone, |number| format!("team/app{number}-*")),
            "team/other",
        ),
        (
            "wildcards first, none matches",
            list(anyone, |number| format!("**/app{number}/*")),
            "some/team/with/an/app/image",
        ),
    ] {
        let access = access(repository);
        c.bench_function(&format!("rule list of 1,000/{name}"), |b| {
            b.iter(|| rules.decide(black_box(&ada), black_box(&access)));
        });
    }
}

fn acumos(c: &mut Criterion) {
    let name: RepositoryName = "iris_9d294c20-7b1f-4ab7-b8b3-03bc7f069ac1".parse().unwrap();
    let tag: TagOrDigest = "1.0.0".parse().unwrap();
    let answer = |query: &Query| match query {
        Query::Account(login) => Answer::Account(Some(Account {
            user: UserId::new(format!("id of {login}")),
            login: login.clone(),
            active: true,
            roles: vec!["MLP System User".to_owned()],
        })),
        Query::Solution(id) => Answer::Solution(Some(Solution {
            id: id.clone(),
            name: "Iris".to_owned(),
            owner: UserId::new("id of ada"),
            active: true,
        })),
        Query::CoOwners(_) => Answer::CoOwners(vec![UserId::new("id of bob")]),
        Query::Catalogs(_) => Answer::Catalogs(vec![Catalog {
            name: "Public Models".to_owned(),
            visibility: Visibility::Public,
        }]),
        Query::Revisions(_) => Answer::Revisions(vec![Revision {
            id: RevisionId::new("r1"),
            version: "1.0.0".to_owned(),
            images: vec![ImageName {
                repository: name.clone(),
                tag: "1.0.0".parse().unwrap(),
            }],
        }]),
        Query::License(_) => Answer::License(License::RightRequired),
        Query::Right(_, user) if user.0.ends_with("cyd") => Answer::Right(Right::Own),
        Query::Right(..) => Answer::Right(Right::None {
            reason: "no agreement".to_owned(),
        }),
        Query::Claimants(_) | Query::Tags(..) => unreachable!("the name has an id, and a tag came"),
    };
    let rules = Rules::default();
    for (case, user, action) in [
        ("pull by its owner", "ada", Action::Pull),
        ("pull by right", "cyd", Action::Pull),
        ("denied pull", "eve", Action::Pull),
        ("push by its owner", "ada", Action::Push),
        ("denied push", "eve", Action::Push),
    ] {
        let request = Request {
            user: Some(user),
            action,
            repository: Some(&name),
            reference: Some(&tag),
        };
        let mut facts = Facts::default();
        while let Err(query) = rules.decide(&request, &facts) {
            let told = answer(&query);
            facts.tell(query, told).unwrap();
        }
        c.bench_function(&format!("acumos/{case}, facts at hand"), |b| {
            b.iter(|| {
                rules
                    .decide(black_box(&request), black_box(&facts))
                    .unwrap()
            });
        });
    }
}

criterion_group!(benches, rule_lists, acumos);
criterion_main!(benches);
