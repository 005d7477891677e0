//! A platform as large as one gets: thousands of users and solutions, hundreds of catalogues
//!
//! Names collide, are renamed, come from peers, have no id, or are no names at all, as section 2.2 of
//! the notes about the platform has it. A world and its questions come from one seed, which a
//! failure names; `REGISTRY_AUTH_SEED` in the environment repeats it.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::RngExt;
use proptest::test_runner::{RngAlgorithm, TestRng};
use registry_auth::Decision;
use registry_auth::acumos::{
    Account, Answer, Catalog, ImageName, License, Query, Request, Revision, RevisionId, Right,
    Rules, Solution, SolutionId, UserId, Visibility,
};
use registry_core::{Action, Digest, RepositoryName, Tag, TagOrDigest};

use crate::world::{Model, Release, Told, World, decide};

const USERS: usize = 3_000;
const SOLUTIONS: usize = 3_000;
const CATALOGS: usize = 200;
const ROLES: usize = 40;
const QUESTIONS: usize = 20_000;

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

    fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn of_these<'t, T>(&mut self, these: &'t [T]) -> &'t T {
        &these[self.below(these.len())]
    }

    /// Fewer than `end` of what `make` makes
    fn some<T>(&mut self, end: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let count = self.below(end);
        (0..count).map(|_| make(self)).collect()
    }
}

fn user(number: usize) -> UserId {
    UserId::new(format!("u{number}"))
}

fn login(number: usize) -> String {
    format!("user{number}")
}

fn role(chance: &mut Chance) -> String {
    format!("role {}", chance.below(ROLES))
}

/// As the portal takes it: of any case and length, with blanks, and hardly ever unique
fn solution_name(chance: &mut Chance) -> String {
    let word = [
        "Iris",
        "face privacy",
        "My_Model_",
        "x--y",
        "CHURN",
        "sent.iment",
    ];
    let number = chance.below(300);
    match chance.below(20) {
        0 => "Modèle à tester".to_owned(),
        1 => format!("a/b{number}"),
        2 => "Long ".repeat(30),
        3 => "-".to_owned(),
        4..=9 => (*chance.of_these(&word)).to_owned(),
        _ => format!("{} {number}", chance.of_these(&word)),
    }
}

/// The model name that on-boarding makes of it
fn on_boarded(name: &str) -> String {
    let name: String = name.split_whitespace().collect();
    name.to_lowercase().chars().take(100).collect()
}

/// The URI of an image artifact of a solution
fn uri(chance: &mut Chance, name: &str, id: &str, version: &str) -> String {
    let host = *chance.of_these(&["nexus:8082", "acumos-proxy.ns:3128", "registry"]);
    let (name, tag) = (on_boarded(name), version.to_lowercase());
    let number = chance.below(400);
    match chance.below(20) {
        // Renamed in the portal since.
        0 | 1 => format!("{host}/old{number}_{id}:{tag}"),
        // From a peer, with a prefix, under the peer's name.
        2 | 3 => format!("{host}/peer/{name}_{id}:{tag}"),
        4 => format!("{host}/remote-{number}_{id}:{version}"),
        // Brought as an image: without an id, so that many have the same name.
        5..=8 => format!("{host}/brought{number}:{tag}"),
        // Elsewhere, by address.
        9 => "https://docker.io/library/httpd:2".to_owned(),
        10 => "docker.io/library/httpd".to_owned(),
        // Under the id of another.
        11 => {
            let other = id_of(chance.below(SOLUTIONS));
            format!("{host}/{name}_{other}:{tag}")
        }
        12 => String::new(),
        _ => format!("{host}/{name}_{id}:{tag}"),
    }
}

fn id_of(number: usize) -> String {
    format!("{:08x}-0000-4000-8000-{number:012}", number * 7_919)
}

const VERSIONS: [&str; 8] = [
    "1",
    "1.0.0",
    "2.0.0",
    "2.0.0-RC",
    "3",
    "v4",
    "free text",
    "Ünicode",
];

fn model(chance: &mut Chance, number: usize, catalogs: &[Catalog]) -> Model {
    let (id, name) = (id_of(number), solution_name(chance));
    let count = chance.below(6);
    let releases = (0..count).map(|revision| {
        let version = (*chance.of_these(&VERSIONS)).to_owned();
        let images = chance.some(3, |chance| uri(chance, &name, &id, &version));
        Release {
            revision: Revision {
                id: RevisionId::new(format!("{number}.{revision}")),
                images: images
                    .iter()
                    .filter_map(|uri| ImageName::from_uri(uri))
                    .collect(),
                version,
            },
            license: *chance.of_these(&[
                License::Free,
                License::Free,
                License::RightRequired,
                License::RightRequired,
                License::Revoked,
                License::Unknown,
            ]),
            right_of_all: chance.percent(20),
            rights: chance.some(4, |chance| user(chance.below(USERS))),
        }
    });
    let releases = releases.collect();
    Model {
        solution: Solution {
            id: id.parse().unwrap(),
            name,
            owner: user(chance.below(USERS)),
            active: chance.percent(90),
        },
        co_owners: chance.some(4, |chance| user(chance.below(USERS))),
        catalogs: chance.some(4, |chance| chance.of_these(catalogs).clone()),
        releases,
    }
}

fn world(chance: &mut Chance) -> World {
    let accounts = (0..USERS).map(|number| Account {
        user: user(number),
        login: login(number),
        active: chance.percent(93),
        roles: match chance.percent(3) {
            true => vec!["Admin".to_owned(), role(chance)],
            false => chance.some(4, role),
        },
    });
    let accounts = accounts.collect();
    let catalogs: Vec<Catalog> = (0..CATALOGS)
        .map(|number| Catalog {
            name: format!("catalogue {number}"),
            visibility: match chance.percent(25) {
                true => Visibility::Public,
                false => Visibility::Restricted {
                    roles: chance.some(4, role),
                },
            },
        })
        .collect();
    let models: Vec<Model> = (0..SOLUTIONS)
        .map(|number| model(chance, number, &catalogs))
        .collect();
    let mut tags = Vec::new();
    for image in models.iter().flat_map(Model::images) {
        for content in chance.some(3, |chance| chance.below(CONTENTS)) {
            tags.push((image.repository.clone(), digest(content), image.tag.clone()));
        }
    }
    World {
        accounts,
        models,
        tags,
    }
}

/// Few, so that an image shares its content with others, also of the same repository
const CONTENTS: usize = 4;

fn digest(content: usize) -> Digest {
    Digest::sha256(&content.to_le_bytes())
}

/// A world in which everything is found at once
struct Large {
    world: World,
    by_login: HashMap<String, usize>,
    by_id: HashMap<SolutionId, usize>,
    by_image: HashMap<RepositoryName, Vec<usize>>,
    by_revision: HashMap<RevisionId, (usize, usize)>,
    by_content: HashMap<(RepositoryName, Digest), Vec<Tag>>,
}

impl Large {
    fn new(world: World) -> Self {
        let mut by_image = HashMap::<_, Vec<usize>>::new();
        let mut by_revision = HashMap::new();
        for (number, model) in world.models.iter().enumerate() {
            for image in model.images() {
                let claimants = by_image.entry(image.repository.clone()).or_default();
                if claimants.last() != Some(&number) {
                    claimants.push(number);
                }
            }
            for (at, release) in model.releases.iter().enumerate() {
                by_revision.insert(release.revision.id.clone(), (number, at));
            }
        }
        let mut by_content = HashMap::<_, Vec<Tag>>::new();
        for (repository, digest, tag) in &world.tags {
            let tags = by_content.entry((repository.clone(), *digest)).or_default();
            tags.push(tag.clone());
        }
        let accounts = world.accounts.iter().enumerate();
        let solutions = world.models.iter().enumerate();
        Self {
            by_login: accounts.map(|(at, one)| (one.login.clone(), at)).collect(),
            by_id: solutions
                .map(|(at, one)| (one.solution.id.clone(), at))
                .collect(),
            by_image,
            by_revision,
            by_content,
            world,
        }
    }

    fn model(&self, id: &SolutionId) -> &Model {
        &self.world.models[self.by_id[id]]
    }

    fn release(&self, id: &RevisionId) -> &Release {
        let (model, at) = self.by_revision[id];
        &self.world.models[model].releases[at]
    }

    fn answer(&self, query: &Query) -> Answer {
        match query {
            Query::Account(login) => {
                let found = self.by_login.get(login);
                Answer::Account(found.map(|at| self.world.accounts[*at].clone()))
            }
            Query::Catalogs(id) => Answer::Catalogs(self.model(id).catalogs.clone()),
            Query::CoOwners(id) => Answer::CoOwners(self.model(id).co_owners.clone()),
            Query::Claimants(name) => {
                let found = self.by_image.get(name).into_iter().flatten();
                let id = |at: &usize| self.world.models[*at].solution.id.clone();
                Answer::Claimants(found.map(id).collect())
            }
            Query::License(id) => Answer::License(self.release(id).license),
            Query::Revisions(id) => {
                let releases = self.model(id).releases.iter();
                Answer::Revisions(releases.map(|release| release.revision.clone()).collect())
            }
            Query::Right(id, user) => {
                let release = self.release(id);
                Answer::Right(
                    match (release.rights.contains(user), release.right_of_all) {
                        (true, _) => Right::Own,
                        (false, true) => Right::Everyone,
                        (false, false) => Right::None {
                            reason: "no agreement".to_owned(),
                        },
                    },
                )
            }
            Query::Solution(id) => {
                let found = self.by_id.get(id);
                Answer::Solution(found.map(|at| self.world.models[*at].solution.clone()))
            }
            Query::Tags(name, digest) => {
                let found = self.by_content.get(&(name.clone(), *digest));
                Answer::Tags(found.cloned().unwrap_or_default())
            }
        }
    }

    /// The part of the world that a question can be about: the model of the rules looks at
    /// everything there is, each time
    fn around(&self, login: Option<&str>, repository: Option<&RepositoryName>) -> World {
        let account = login.and_then(|login| self.by_login.get(login));
        let mut models = Vec::new();
        let mut tags = Vec::new();
        if let Some(repository) = repository {
            let name = repository.as_str();
            let by_id = name
                .get(name.len().saturating_sub(36)..)
                .and_then(|id| self.by_id.get(&id.parse::<SolutionId>().ok()?));
            models.extend(self.by_image.get(repository).into_iter().flatten().copied());
            models.extend(by_id);
            models.sort_unstable();
            models.dedup();
            for content in 0..CONTENTS {
                let key = (repository.clone(), digest(content));
                for tag in self.by_content.get(&key).into_iter().flatten() {
                    tags.push((key.0.clone(), key.1, tag.clone()));
                }
            }
        }
        World {
            accounts: account
                .map(|at| self.world.accounts[*at].clone())
                .into_iter()
                .collect(),
            models: models
                .into_iter()
                .map(|at| self.world.models[at].clone())
                .collect(),
            tags,
        }
    }

    fn question(&self, chance: &mut Chance) -> Question {
        let model = chance.of_these(&self.world.models);
        let id = &model.solution.id;
        let images: Vec<&ImageName> = model.images().collect();
        let image = (!images.is_empty()).then(|| *chance.of_these(&images));
        let holders: Vec<&UserId> = model
            .releases
            .iter()
            .flat_map(|release| &release.rights)
            .collect();
        let login = match (chance.below(20), model.co_owners.first(), holders.first()) {
            (0..5, ..) => Some(&model.solution.owner),
            (5..9, Some(user), _) => Some(user),
            (9..13, _, Some(user)) => Some(*user),
            _ => None,
        }
        .map(|user| user.0.replace('u', "user"));
        let login = match (login, chance.below(50)) {
            (_, 0) => None,
            (_, 1) => Some("stranger".to_owned()),
            (Some(login), _) => Some(login),
            (None, _) => Some(login_of_any(chance)),
        };
        let usual = format!("{}_{id}", on_boarded(&model.solution.name));
        let nowhere = id_of(SOLUTIONS + chance.below(SOLUTIONS));
        let name = match (chance.below(20), image) {
            (0..11, Some(image)) => image.repository.to_string(),
            (11, _) => format!("wrong_{id}"),
            (12, _) => format!("peer/{usual}"),
            (13, _) => format!("iris_{nowhere}"),
            (14, _) => format!("brought{}", chance.below(500)),
            (15, _) => "library/httpd".to_owned(),
            _ => usual,
        };
        let repository = name.parse::<RepositoryName>().ok();
        let tag = match (chance.below(8), image, model.releases.first()) {
            (0..4, Some(image), _) => image.tag.to_string(),
            (4, _, Some(release)) => release.revision.version.clone(),
            (5, _, Some(release)) => release.revision.version.to_lowercase(),
            _ => (*chance.of_these(&["1", "1.0.0", "latest", "v4"])).to_owned(),
        };
        let reference = match chance.below(10) {
            0 => None,
            1..3 => Some(TagOrDigest::Digest(digest(chance.below(CONTENTS + 1)))),
            _ => tag.parse().ok().map(TagOrDigest::Tag),
        };
        Question {
            login,
            action: *chance.of_these(&[
                Action::Pull,
                Action::Pull,
                Action::Pull,
                Action::Pull,
                Action::Push,
                Action::Push,
                Action::Push,
                Action::Delete,
            ]),
            repository,
            reference,
        }
    }

    fn decide(&self, rules: &Rules, request: &Request<'_>) -> Decision {
        decide(rules, request, |query| self.answer(query)).0
    }
}

fn login_of_any(chance: &mut Chance) -> String {
    login(chance.below(USERS))
}

#[derive(Debug)]
struct Question {
    login: Option<String>,
    action: Action,
    /// `None` is the list of all
    repository: Option<RepositoryName>,
    reference: Option<TagOrDigest>,
}

impl Question {
    fn request(&self) -> Request<'_> {
        Request {
            user: self.login.as_deref(),
            action: self.action,
            repository: self.repository.as_ref(),
            reference: self.reference.as_ref(),
        }
    }
}

/// A question with its decision
struct Asked<'l> {
    large: &'l Large,
    rules: Rules,
    question: Question,
    decision: Decision,
    seed: u64,
    number: usize,
}

impl Asked<'_> {
    /// What a failure says, with the seed that repeats it
    fn about(&self) -> String {
        format!(
            "{SEED}={}, question {}: {:?}: allow is {} by {}: {}",
            self.seed,
            self.number,
            self.question,
            self.decision.is_allow(),
            self.decision.rule(),
            self.decision.reason()
        )
    }
}

/// Asks a large world many questions and hands each on; how often each rule decided
fn ask(mut check: impl FnMut(&Asked<'_>)) -> BTreeMap<String, usize> {
    let seed = seed();
    let mut chance = Chance::of(seed);
    let large = Large::new(world(&mut chance));
    let mut decided = BTreeMap::new();
    for number in 0..QUESTIONS {
        let question = large.question(&mut chance);
        let rules = Rules::default().with_co_owner_push(chance.percent(70));
        let decision = large.decide(&rules, &question.request());
        let verdict = if decision.is_allow() { "allow" } else { "deny" };
        *decided
            .entry(format!("{verdict} {}", decision.rule()))
            .or_default() += 1;
        check(&Asked {
            large: &large,
            rules,
            question,
            decision,
            seed,
            number,
        });
    }
    decided
}

#[test]
fn the_rules_agree_with_their_model_of_a_large_platform() {
    let decided = ask(|asked| {
        let request = asked.question.request();
        let co_owner_push = asked.rules.co_owner_push;
        let around = asked.large.around(request.user, request.repository);
        let may = around.may(co_owner_push, &request);
        assert_eq!(asked.decision.is_allow(), may, "{}", asked.about());
        // The part is taken for the whole, which takes long to look through.
        if asked.number % 400 == 0 {
            let whole = asked.large.world.may(co_owner_push, &request);
            assert_eq!(may, whole, "{}", asked.about());
        }
    });
    // A world in which some rule never decides would prove little.
    for rule in [
        "allow administrator",
        "allow open-source",
        "allow owner",
        "allow owner-of-revision",
        "allow published",
        "allow right-to-use",
        "allow right-to-use-for-all",
        "deny ambiguous",
        "deny anonymous",
        "deny license-revoked",
        "deny no-account",
        "deny no-right-to-use",
        "deny no-such-revision",
        "deny not-administrator",
        "deny not-owner",
        "deny not-published",
        "deny unknown-solution",
        "deny untagged",
        "deny wrong-name",
    ] {
        let count = decided.get(rule).copied().unwrap_or_default();
        assert!(count >= 10, "{rule}: {count} of {decided:?}");
    }
}

#[test]
fn whoever_may_not_know_of_it_is_told_what_is_told_of_nothing() {
    let mut unknown = 0;
    ask(|asked| {
        let (question, decision) = (&asked.question, &asked.decision);
        let (Some(login), Some(repository)) = (&question.login, &question.repository) else {
            return;
        };
        let nothing: RepositoryName = format!("nothing_{}", id_of(SOLUTIONS)).parse().unwrap();
        let of_nothing = asked.large.decide(
            &asked.rules,
            &Request {
                repository: Some(&nothing),
                ..question.request()
            },
        );
        let told = Told::of(decision, repository);
        let around = asked.large.around(Some(login), Some(repository));
        if !around.knows(login, repository) {
            unknown += 1;
            assert_eq!(told, Told::of(&of_nothing, &nothing), "{}", asked.about());
        } else if decision.is_hidden() {
            // What is hidden from someone who knows of the solution, such as an image that may be
            // of several, is hidden in the same way.
            assert_eq!(told, Told::of(&of_nothing, &nothing), "{}", asked.about());
        }
        let pulls = question.action == Action::Pull && asked.decision.rule() != "no-account";
        if pulls && of_nothing.is_allow() {
            panic!("nothing may be pulled: {}", asked.about());
        }
        assert!(!pulls || of_nothing.is_hidden(), "{}", asked.about());
    });
    assert!(unknown > QUESTIONS / 10, "{unknown}");
}

#[test]
fn whoever_does_as_the_remedy_says_may() {
    let mut followed = 0;
    ask(|asked| {
        let (question, decision) = (&asked.question, &asked.decision);
        assert_eq!(
            decision.remedy().is_none(),
            decision.is_allow(),
            "{}",
            asked.about()
        );
        let Some((advice, tags)) = decision
            .remedy()
            .filter(|remedy| remedy.starts_with("push "))
            .and_then(|remedy| remedy.split_once("revisions: "))
        else {
            return;
        };
        let repository = match advice.split('`').nth(1) {
            Some(name) => name.parse().unwrap(),
            None => question.repository.clone().unwrap(),
        };
        for tag in tags.split('`').skip(1).step_by(2) {
            let reference = TagOrDigest::Tag(tag.parse().unwrap());
            let request = Request {
                repository: Some(&repository),
                reference: Some(&reference),
                ..question.request()
            };
            let around = asked.large.around(request.user, Some(&repository));
            let may = around.may(asked.rules.co_owner_push, &request);
            assert!(may, "{}; {:?}", asked.about(), decision.remedy());
            assert!(asked.large.decide(&asked.rules, &request).is_allow());
            followed += 1;
        }
    });
    assert!(followed > 100, "{followed}");
}
