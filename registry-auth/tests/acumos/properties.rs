//! Random worlds: the rules and the model of them always agree

use proptest::prelude::*;
use registry_auth::acumos::{
    Account, Catalog, ImageName, License, Request, Revision, RevisionId, Rules, Solution, UserId,
    Visibility,
};
use registry_core::{Action, Digest, TagOrDigest};

use crate::world::{Model, Release, World};

const USERS: usize = 4;
const ROLES: [&str; 3] = ["Admin", "Partner", "Publisher"];
/// Few names and versions, so that they collide often
const NAMES: [&str; 3] = ["iris", "Face Privacy", "my_"];
const VERSIONS: [&str; 3] = ["1", "2.0", "3-RC"];
const CONTENTS: [&str; 3] = ["a", "b", "c"];

fn user(number: usize) -> UserId {
    UserId::new(format!("u{number}"))
}

fn id(number: usize) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

fn roles() -> impl Strategy<Value = Vec<String>> {
    proptest::sample::subsequence(ROLES.map(str::to_owned).to_vec(), 0..=2)
}

fn accounts() -> impl Strategy<Value = Vec<Account>> {
    let account = (proptest::bool::weighted(0.9), roles());
    proptest::collection::vec(account, USERS).prop_map(|accounts| {
        accounts
            .into_iter()
            .enumerate()
            .map(|(number, (active, roles))| Account {
                user: user(number),
                login: format!("user{number}"),
                active,
                roles,
            })
            .collect()
    })
}

fn users() -> impl Strategy<Value = Vec<UserId>> {
    proptest::collection::vec((0..USERS).prop_map(user), 0..2)
}

/// A repository name of the platform's, without an id, or with a prefix
fn repository(solutions: usize) -> impl Strategy<Value = String> {
    let model = prop_oneof![Just("iris"), Just("faceprivacy"), Just("my_"), Just("old")];
    prop_oneof![
        4 => (model.clone(), 0..solutions + 1).prop_map(|(model, of)| format!("{model}_{}", id(of))),
        1 => (model, 0..solutions + 1).prop_map(|(model, of)| format!("peer/{model}_{}", id(of))),
        5 => prop_oneof![Just("churn".to_owned()), Just("solo".to_owned())],
    ]
}

fn tag() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("1"),
        Just("2.0"),
        Just("3-rc"),
        Just("3-RC"),
        Just("latest")
    ]
    .prop_map(str::to_owned)
}

fn license() -> impl Strategy<Value = License> {
    prop_oneof![
        4 => Just(License::Free),
        1 => Just(License::Revoked),
        3 => Just(License::RightRequired),
        1 => Just(License::Unknown),
    ]
}

fn release(solutions: usize) -> impl Strategy<Value = Release> {
    let image = proptest::option::of((repository(solutions), tag()));
    let version = proptest::sample::select(VERSIONS.to_vec());
    (version, image, license(), any::<bool>(), users()).prop_map(
        |(version, image, license, right_of_all, rights)| Release {
            revision: Revision {
                id: RevisionId::new(""),
                version: version.to_owned(),
                images: image
                    .map(|(repository, tag)| ImageName {
                        repository: repository.parse().unwrap(),
                        tag: tag.parse().unwrap(),
                    })
                    .into_iter()
                    .collect(),
            },
            license,
            right_of_all,
            rights,
        },
    )
}

fn model(solutions: usize) -> impl Strategy<Value = Model> {
    let catalog = prop_oneof![
        2 => Just(Visibility::Public),
        1 => roles().prop_map(|roles| Visibility::Restricted { roles }),
    ];
    (
        proptest::sample::select(NAMES.to_vec()),
        0..USERS,
        proptest::bool::weighted(0.85),
        users(),
        proptest::collection::vec(catalog, 0..3),
        proptest::collection::vec(release(solutions), 0..4),
    )
        .prop_map(
            |(name, owner, active, co_owners, catalogs, releases)| Model {
                solution: Solution {
                    id: id(0).parse().unwrap(),
                    name: name.to_owned(),
                    owner: user(owner),
                    active,
                },
                co_owners,
                catalogs: catalogs
                    .into_iter()
                    .map(|visibility| Catalog {
                        name: "c".to_owned(),
                        visibility,
                    })
                    .collect(),
                releases,
            },
        )
}

fn world() -> impl Strategy<Value = World> {
    (1..6_usize).prop_flat_map(|solutions| {
        let tags = (
            repository(solutions),
            proptest::sample::select(CONTENTS.to_vec()),
            tag(),
        );
        (
            accounts(),
            proptest::collection::vec(model(solutions), solutions),
            proptest::collection::vec(tags, 0..12),
        )
            .prop_map(|(accounts, mut models, tags)| {
                for (number, model) in models.iter_mut().enumerate() {
                    model.solution.id = id(number).parse().unwrap();
                    for (revision, release) in model.releases.iter_mut().enumerate() {
                        release.revision.id = RevisionId::new(format!("{number}.{revision}"));
                    }
                }
                World {
                    accounts,
                    models,
                    tags: tags
                        .into_iter()
                        .map(|(name, content, tag)| {
                            let digest = Digest::sha256(content.as_bytes());
                            (name.parse().unwrap(), digest, tag.parse().unwrap())
                        })
                        .collect(),
                }
            })
    })
}

fn reference() -> impl Strategy<Value = Option<TagOrDigest>> {
    prop_oneof![
        1 => Just(None),
        4 => tag().prop_map(|tag| Some(TagOrDigest::Tag(tag.parse().unwrap()))),
        2 => proptest::sample::select(CONTENTS.to_vec())
            .prop_map(|content| Some(TagOrDigest::Digest(Digest::sha256(content.as_bytes())))),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        5 => Just(Action::Pull),
        4 => Just(Action::Push),
        1 => Just(Action::Delete),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn the_rules_agree_with_their_model(
        world in world(),
        user in 0..USERS + 1,
        action in action(),
        repository in repository(5),
        reference in reference(),
        // Half of the requests are for an image that somebody has: the others rarely meet one.
        image in proptest::option::of(any::<prop::sample::Index>()),
        co_owner_push in any::<bool>(),
    ) {
        let login = format!("user{user}");
        let mut repository = repository.parse().unwrap();
        let mut reference = reference;
        let images: Vec<_> = world.models.iter().flat_map(Model::images).collect();
        if let Some(image) = image && !images.is_empty() {
            let image = image.get(&images);
            repository = image.repository.clone();
            reference = Some(TagOrDigest::Tag(image.tag.clone()));
        }
        let request = Request {
            user: Some(&login),
            action,
            repository: Some(&repository),
            reference: reference.as_ref(),
        };
        let rules = Rules::default().with_co_owner_push(co_owner_push);
        let (decision, _) = world.decide(&rules, &request);
        prop_assert_eq!(
            decision.is_allow(),
            world.may(co_owner_push, &request),
            "{:?} by {}: {}", request, decision.rule(), decision.reason()
        );
    }
}
