//! The decision table

use std::collections::HashSet;

use registry_auth::acumos::{
    Account, Catalog, ImageName, License, Query, Request, Revision, RevisionId, Rules, Solution,
    UserId, Visibility,
};
use registry_core::{Action, Digest, RepositoryName, TagOrDigest};

use crate::world::{Model, Release, Told, World};

/// The id of the solution with this number
fn id(number: u32) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

fn account(login: &str, active: bool, roles: &[&str]) -> Account {
    Account {
        user: UserId::new(format!("id of {login}")),
        login: login.to_owned(),
        active,
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
    }
}

fn user(login: &str) -> UserId {
    UserId::new(format!("id of {login}"))
}

fn model(number: u32, name: &str, owner: &str) -> Model {
    Model {
        solution: Solution {
            id: id(number).parse().unwrap(),
            name: name.to_owned(),
            owner: user(owner),
            active: true,
        },
        co_owners: Vec::new(),
        catalogs: Vec::new(),
        releases: Vec::new(),
    }
}

impl Model {
    fn public(mut self) -> Self {
        self.catalogs.push(Catalog {
            name: "Public Models".to_owned(),
            visibility: Visibility::Public,
        });
        self
    }

    fn restricted(mut self, role: &str) -> Self {
        self.catalogs.push(Catalog {
            name: format!("For {role}"),
            visibility: Visibility::Restricted {
                roles: vec![role.to_owned()],
            },
        });
        self
    }

    fn co_owner(mut self, login: &str) -> Self {
        self.co_owners.push(user(login));
        self
    }

    fn inactive(mut self) -> Self {
        self.solution.active = false;
        self
    }

    /// Adds a revision; its image is the repository and tag in `uri`, if that is one
    fn release(mut self, version: &str, uri: &str, license: License) -> Self {
        let number = self.releases.len();
        let uri = uri.replace('#', self.solution.id.as_str());
        self.releases.push(Release {
            revision: Revision {
                id: RevisionId::new(format!("{} {number}", self.solution.id)),
                version: version.to_owned(),
                images: ImageName::from_uri(&uri).into_iter().collect(),
            },
            license,
            right_of_all: false,
            rights: Vec::new(),
        });
        self
    }

    /// Gives a right to use the revision that was added last
    fn right(mut self, login: &str) -> Self {
        self.releases.last_mut().unwrap().rights.push(user(login));
        self
    }

    /// Gives everyone a right to use the revision that was added last
    fn right_of_all(mut self) -> Self {
        self.releases.last_mut().unwrap().right_of_all = true;
        self
    }
}

pub(crate) fn world() -> World {
    use License::{Free, Revoked, RightRequired, Unknown};

    let nexus = |name: &str| format!("nexus:8082/{name}_#:");
    let models = vec![
        // 1: published, with a revision of each licence; the platform's usual names.
        model(1, "Iris", "ada")
            .co_owner("bob")
            .public()
            .release("1.0.0", &(nexus("iris") + "1.0.0"), Free)
            .release("2.0.0", &(nexus("iris") + "2.0.0"), RightRequired)
            .right("cyd")
            .release("2.1.0", &(nexus("iris") + "2.1.0"), RightRequired)
            .right_of_all()
            .release("3.0.0", &(nexus("iris") + "3.0.0"), Revoked)
            .right("cyd")
            .release("4.0.0-RC", &(nexus("iris") + "4.0.0-rc"), Unknown),
        // 2: in a restricted catalogue.
        model(2, "Face Privacy", "bob")
            .restricted("Partner")
            .release("1.0.0", &(nexus("faceprivacy") + "1.0.0"), Free)
            .release("2.0.0", &(nexus("faceprivacy") + "2.0.0"), RightRequired)
            .right("cyd")
            .right("pam"),
        // 3: in no catalogue.
        model(3, "private", "cyd").release("1", &(nexus("private") + "1"), Free),
        // 4: deleted in the portal.
        model(4, "gone", "ada")
            .inactive()
            .public()
            .release("1", &(nexus("gone") + "1"), Free),
        // 5: renamed in the portal after it was built.
        model(5, "New Name", "ada")
            .public()
            .release("1", &(nexus("old") + "1"), Free)
            .release("2", &(nexus("newname") + "2"), Free),
        // 6 and 7: brought as images, whose names have no solution id; both the same.
        model(6, "churn", "ada")
            .public()
            .release("1", "proxy:3128/churn:1", Free)
            .release("3", "proxy:3128/churn:3", Free),
        model(7, "churn", "bob")
            .public()
            .release("1", "proxy:3128/churn:1", Free)
            .release("2", "proxy:3128/churn:2", Free),
        // 8: without a solution id too, but nobody else has that name.
        model(8, "solo", "ada")
            .public()
            .release("V1", "proxy:3128/solo:v1", Free)
            .release("V2", "proxy:3128/solo:v2", RightRequired)
            .right("cyd"),
        // 9: from a peer, with the prefix and the name that the peer gave it.
        model(9, "Remote Model", "ada").public().release(
            "1.0",
            "registry:5000/peer/remote-model_#:1.0",
            Free,
        ),
        // 10: one version twice, of which one is not free.
        model(10, "twice", "ada")
            .public()
            .release("1", "-", Free)
            .release("1", "-", RightRequired)
            .right("cyd"),
        // 11: an image elsewhere, named by its address.
        model(11, "elsewhere", "ada").public().release(
            "1",
            "https://docker.io/library/httpd",
            Free,
        ),
        // 12: no revision yet.
        model(12, "empty", "ada").public(),
        // 13 and 14: a name that one of them gave up by being deleted.
        model(13, "heir", "ada")
            .inactive()
            .public()
            .release("1", "proxy:3128/heir:1", Free),
        model(14, "heir", "bob")
            .public()
            .release("1", "proxy:3128/heir:1", Free),
        // 15: underscores in the model's name, also at its end.
        model(15, "my_model_", "ada")
            .public()
            .release("1", &(nexus("my_model_") + "1"), Free),
    ];
    let mut tags = Vec::new();
    for (name, content, tag) in [
        (format!("iris_{}", id(1)), "iris 1", "1.0.0"),
        (format!("iris_{}", id(1)), "iris 2", "2.0.0"),
        (format!("iris_{}", id(1)), "base", "1.0.0"),
        (format!("iris_{}", id(1)), "base", "2.0.0"),
        (format!("iris_{}", id(1)), "base of 2 and 2.1", "2.0.0"),
        (format!("iris_{}", id(1)), "base of 2 and 2.1", "2.1.0"),
        (format!("private_{}", id(3)), "private", "1"),
        ("churn".to_owned(), "churn 1", "1"),
        ("churn".to_owned(), "churn 2", "2"),
        ("solo".to_owned(), "solo 1", "v1"),
    ] {
        let digest = Digest::sha256(content.as_bytes());
        tags.push((name.parse().unwrap(), digest, tag.parse().unwrap()));
    }
    World {
        accounts: vec![
            account("ada", true, &["MLP System User"]),
            account("bob", true, &["Publisher"]),
            account("cyd", true, &["MLP System User"]),
            account("eve", true, &[]),
            account("pam", true, &["Partner"]),
            account("root", true, &["Admin"]),
            account("dan", false, &["Admin", "Partner"]),
        ],
        models,
        tags,
    }
}

/// Puts the ids of solutions for `#1` and so on
fn with_ids(text: &str) -> String {
    (1..=99).rev().fold(text.to_owned(), |text, number| {
        text.replace(&format!("#{number}"), &id(number))
    })
}

/// One line of the table
pub(crate) struct Case {
    pub(crate) line: String,
    pub(crate) user: Option<String>,
    pub(crate) action: Action,
    pub(crate) repository: Option<RepositoryName>,
    pub(crate) reference: Option<TagOrDigest>,
    allow: bool,
    rule: String,
}

impl Case {
    /// Reads `user action image allow|deny rule`; see the head of `cases.txt`
    pub(crate) fn parse(line: &str) -> Self {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [user, action, image, verdict, rule] = fields.as_slice() else {
            panic!("not a case: {line}");
        };
        let image = with_ids(image);
        let (repository, reference) = if let Some((name, content)) = image.split_once('@') {
            let digest = Digest::sha256(content.replace('-', " ").as_bytes());
            (name, Some(TagOrDigest::Digest(digest)))
        } else if let Some((name, tag)) = image.rsplit_once(':') {
            (name, Some(TagOrDigest::Tag(tag.parse().unwrap())))
        } else {
            (image.as_str(), None)
        };
        Self {
            line: line.to_owned(),
            user: (*user != "-").then(|| (*user).to_owned()),
            action: match *action {
                "pull" => Action::Pull,
                "push" => Action::Push,
                "delete" => Action::Delete,
                "all" => Action::All,
                other => panic!("no action: {other}"),
            },
            repository: (repository != "*").then(|| repository.parse().unwrap()),
            reference,
            allow: match *verdict {
                "allow" => true,
                "deny" => false,
                other => panic!("no verdict: {other}"),
            },
            rule: (*rule).to_owned(),
        }
    }

    pub(crate) fn request(&self) -> Request<'_> {
        Request {
            user: self.user.as_deref(),
            action: self.action,
            repository: self.repository.as_ref(),
            reference: self.reference.as_ref(),
        }
    }
}

pub(crate) fn cases() -> Vec<Case> {
    include_str!("cases.txt")
        .lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        .map(Case::parse)
        .collect()
}

#[test]
fn every_case_is_decided_by_its_rule() {
    let world = world();
    let cases = cases();
    assert!(cases.len() >= 120, "{} cases", cases.len());
    for case in &cases {
        let (decision, _) = world.decide(&Rules::default(), &case.request());
        let got = (decision.is_allow(), decision.rule());
        assert_eq!(got, (case.allow, case.rule.as_str()), "{}", case.line);
        assert!(!decision.reason().is_empty(), "{}", case.line);
        let anonymous = decision.rule() == "anonymous";
        assert_eq!(decision.facts().is_empty(), anonymous, "{}", case.line);
        assert_eq!(decision.missing().is_none(), case.allow, "{}", case.line);
        assert_eq!(decision.remedy().is_none(), case.allow, "{}", case.line);
        let model = world.may(true, &case.request());
        assert_eq!(model, case.allow, "the model: {}", case.line);
    }
}

#[test]
fn co_owners_push_only_where_the_operator_lets_them() {
    let world = world();
    let rules = Rules::default().with_co_owner_push(false);
    let case = Case::parse("bob push iris_#1:1.0.0 deny not-owner");
    let (decision, _) = world.decide(&rules, &case.request());
    assert_eq!((decision.is_allow(), decision.rule()), (false, "not-owner"));
    assert!(!world.may(false, &case.request()));
    // They pull all the same.
    let case = Case::parse("bob pull iris_#1:3.0.0 allow owner");
    assert!(world.decide(&rules, &case.request()).0.is_allow());
}

#[test]
fn what_does_not_exist_and_what_is_hidden_are_told_alike() {
    let world = world();
    let told = |line: &str| {
        let case = Case::parse(line);
        let (decision, _) = world.decide(&Rules::default(), &case.request());
        assert!(!decision.is_allow(), "{line}");
        Told::of(&decision, &case.repository.unwrap())
    };
    let unknown = told("eve pull nothing_#99:1 deny unknown-solution");
    for line in [
        "eve pull private_#3:1 deny not-published",
        "eve pull gone_#4:1 deny unknown-solution",
        "eve pull faceprivacy_#2:1.0.0 deny not-published",
        "eve pull private_#3@private deny not-published",
        "eve pull nowhere:1 deny unknown-solution",
    ] {
        assert_eq!(told(line), unknown, "{line}");
    }
    let unknown = told("eve push nothing_#99:1 deny not-owner");
    assert_eq!(told("eve push private_#3:1 deny not-owner"), unknown);
    // Nor accounts that are locked from those that are none.
    assert_eq!(
        told("dan pull iris_#1:1.0.0 deny no-account"),
        told("zoe pull iris_#1:1.0.0 deny no-account")
    );
}

#[test]
fn only_what_is_needed_is_asked_and_a_use_is_counted_last() {
    let world = world();
    let asked = |line: &str| {
        let case = Case::parse(line);
        world.decide(&Rules::default(), &case.request()).1
    };
    // An owner needs neither catalogues nor the licence manager.
    for line in [
        "ada pull iris_#1:2.0.0 allow owner",
        "ada pull iris_#1@iris-2 allow owner",
    ] {
        let asked = asked(line);
        assert!(
            matches!(asked.as_slice(), [Query::Account(_), Query::Solution(_)]),
            "{asked:?}"
        );
    }
    let is_use = |query: &Query| matches!(query, Query::Right(..));
    for line in cases().iter().map(|case| case.line.clone()) {
        let asked = asked(&line);
        let uses = asked.iter().filter(|query| is_use(query)).count();
        // Where one digest is reached by two tags that need a right each, two may be asked.
        assert!(
            uses <= 1 || line.contains("base-of-2-and-2.1") || line.contains("twice"),
            "{line}"
        );
        if let Some(at) = asked.iter().position(is_use) {
            assert!(asked[at..].iter().all(is_use), "{line}: {asked:?}");
        }
    }
    // What open source decides is never counted as a use.
    assert!(
        !asked("cyd pull iris_#1@base allow open-source")
            .iter()
            .any(is_use)
    );
}

#[test]
fn the_reason_of_a_denial_says_what_is_wrong() {
    let world = world();
    for (line, part) in [
        (
            "ada push iris_#1:9 deny no-such-revision",
            ":9` is no revision",
        ),
        ("ada push flower_#1:1.0.0 deny wrong-name", "named `Iris`"),
        (
            "ada push empty_#12:1 deny no-such-revision",
            "no revision yet",
        ),
        ("ada push churn:1 deny ambiguous", "do not own"),
        (
            "eve pull iris_#1:2.0.0 deny no-right-to-use",
            "(no agreement)",
        ),
        (
            "eve push iris_#1:1.0.0 deny not-owner",
            "you own no solution",
        ),
        ("- pull iris_#1:1.0.0 deny anonymous", "log in"),
    ] {
        let case = Case::parse(line);
        let (decision, _) = world.decide(&Rules::default(), &case.request());
        assert_eq!(decision.rule(), case.rule, "{line}");
        assert!(decision.reason().contains(part), "{}", decision.reason());
    }
}

#[test]
fn each_rule_that_denies_says_the_user_what_would_allow_it() {
    const NOT_SEEN: &str =
        "check the name, or ask the owner to publish it in a catalogue that you see";
    const PORTAL: &str = "look after your account in the platform's portal";
    const NOT_OWNER: &str = "push to `<model name>_<solution id>` of a solution of yours, with the \
                             version of one of its revisions as tag; for a solution of somebody \
                             else, be made a co-owner first";
    let world = world();
    let mut rules = HashSet::new();
    for (line, remedy) in [
        (
            "- pull iris_#1:1.0.0 deny anonymous",
            "`docker login` with your account of the platform",
        ),
        ("zoe pull iris_#1:1.0.0 deny no-account", PORTAL),
        ("dan push iris_#1:1.0.0 deny no-account", PORTAL),
        (
            "ada all * deny not-administrator",
            "ask an administrator of the platform to do it, or to make you one",
        ),
        (
            "ada delete iris_#1:1.0.0 deny not-administrator",
            "ask an administrator of the platform to do it, or to make you one",
        ),
        ("eve pull nothing_#99:1 deny unknown-solution", NOT_SEEN),
        ("eve pull faceprivacy_#2:1.0.0 deny not-published", NOT_SEEN),
        ("eve pull iris_#1:9 deny no-such-revision", NOT_SEEN),
        ("eve pull iris_#1@unheard-of deny untagged", NOT_SEEN),
        ("eve pull churn:1 deny ambiguous", NOT_SEEN),
        (
            "eve pull iris_#1:2.0.0 deny no-right-to-use",
            "ask its licensor for a right to use revision 2.0.0 of solution #1",
        ),
        (
            "eve pull iris_#1:3.0.0 deny license-revoked",
            "pull another revision, or ask the owner of solution #1 for one with a valid licence",
        ),
        ("eve push iris_#1:1.0.0 deny not-owner", NOT_OWNER),
        ("eve push nothing_#99:1 deny not-owner", NOT_OWNER),
        (
            "ada push iris_#1:9 deny no-such-revision",
            "push with the tag of one of the solution's revisions: `1.0.0`, `2.0.0`, `2.1.0`, \
             `3.0.0`, `4.0.0-rc`",
        ),
        (
            "ada push churn:9 deny no-such-revision",
            "push with the tag of one of the solution's revisions: `3`",
        ),
        (
            "ada push empty_#12:1 deny no-such-revision",
            "in the portal, add a revision to solution #12, and push to `empty_#12` with its \
             version as tag",
        ),
        (
            "ada push prefix/flower_#5:1 deny wrong-name",
            "push to `prefix/newname_#5` with the tag of one of the solution's revisions: `1`, `2`",
        ),
        (
            "ada push churn:1 deny ambiguous",
            "push to `churn_#6` with the tag of one of the solution's revisions: `1`, `3`",
        ),
    ] {
        let case = Case::parse(line);
        let (decision, _) = world.decide(&Rules::default(), &case.request());
        assert_eq!(decision.rule(), case.rule, "{line}");
        let remedy = with_ids(remedy);
        assert_eq!(decision.remedy(), Some(remedy.as_str()), "{line}");
        rules.insert(case.rule);
    }
    for case in cases().iter().filter(|case| !case.allow) {
        assert!(rules.contains(&case.rule), "no remedy of {}", case.rule);
    }
    // Where co-owners may not push, it is no use to become one.
    let rules = Rules::default().with_co_owner_push(false);
    let case = Case::parse("eve push iris_#1:1.0.0 deny not-owner");
    let (decision, _) = world.decide(&rules, &case.request());
    assert_eq!(
        decision.remedy(),
        NOT_OWNER.split_once(';').map(|(first, _)| first)
    );
}

#[test]
fn a_decision_says_operators_on_what_it_rests_and_what_is_missing() {
    let world = world();
    let solution = |number: u32, name: &str| format!("solution {} ({name})", id(number));
    let iris = solution(1, "Iris");
    let iris_name = format!("iris_{}", id(1));
    let face = solution(2, "Face Privacy");
    let eve = "`eve` (user id of eve)";
    let public = "in the catalogue `Public Models`, which is public".to_owned();
    let revision = |version: &str, number: u32| {
        format!(
            "`{iris_name}:{version}` is revision {version} ({} {number}) of {iris}",
            id(1)
        )
    };
    let cases: Vec<(&str, Vec<String>, Option<String>)> = vec![
        (
            "dan pull iris_#1:1.0.0 deny no-account",
            vec!["the account of `dan` (user id of dan) is not active".to_owned()],
            Some("the account to be active".to_owned()),
        ),
        (
            "ada pull iris_#1:2.0.0 allow owner",
            vec![
                format!("`{iris_name}` is an image of {iris}"),
                format!("{iris} is owned by `ada` (user id of ada)"),
            ],
            None,
        ),
        (
            "bob pull iris_#1:2.0.0 allow owner",
            vec![
                format!("`{iris_name}` is an image of {iris}"),
                format!("`bob` (user id of bob) is a co-owner of {iris}"),
            ],
            None,
        ),
        (
            "eve pull iris_#1:1.0.0 allow open-source",
            vec![
                "licence: open source".to_owned(),
                revision("1.0.0", 0),
                public.clone(),
            ],
            None,
        ),
        (
            "cyd pull iris_#1@iris-2 allow right-to-use",
            vec![
                "right to use: of `cyd` (user id of cyd)".to_owned(),
                "licence: right required".to_owned(),
                revision("2.0.0", 1),
                public.clone(),
                format!("tag `2.0.0` leads to {}", Digest::sha256(b"iris 2")),
            ],
            None,
        ),
        (
            "eve pull iris_#1:2.0.0 deny no-right-to-use",
            vec![
                "right to use: none (no agreement)".to_owned(),
                "licence: right required".to_owned(),
                revision("2.0.0", 1),
                public.clone(),
            ],
            Some(format!(
                "a right of {eve}, or of everyone, to use revision 2.0.0 ({} 1), or to own {iris}",
                id(1)
            )),
        ),
        (
            "eve pull faceprivacy_#2:1.0.0 deny not-published",
            vec![
                format!("{face} is owned by user id of bob, not by {eve}"),
                "in the catalogue `For Partner`, which is for the roles `Partner`".to_owned(),
                format!("{eve} has no roles"),
            ],
            Some(format!(
                "a catalogue that {eve} sees with one of these solutions in it, or to own or \
                 co-own it"
            )),
        ),
        (
            "ada pull gone_#4:1 deny unknown-solution",
            vec![format!("{} is deleted in the portal", solution(4, "gone"))],
            Some(format!(
                "a solution with the id that `gone_{}` ends in",
                id(4)
            )),
        ),
        (
            "eve pull churn:1 deny ambiguous",
            vec![
                format!(
                    "`churn:1` is an image of {}, owned by id of ada",
                    solution(6, "churn")
                ),
                format!(
                    "`churn:1` is an image of {}, owned by id of bob",
                    solution(7, "churn")
                ),
            ],
            Some(format!(
                "`churn:1` to be an image of one solution only, or {eve} to own exactly one of them"
            )),
        ),
        (
            "ada push iris_#1:9 deny no-such-revision",
            vec![format!("{iris} is owned by `ada` (user id of ada)")],
            Some(format!(
                "a revision of {iris} with the version `9` or the image `{iris_name}:9`"
            )),
        ),
        (
            "eve push iris_#1 deny not-owner",
            vec![format!("{iris} is owned by user id of ada, not by {eve}")],
            Some(format!(
                "{eve} to own a solution with the image `{iris_name}`, or to be a co-owner"
            )),
        ),
        (
            "ada all * deny not-administrator",
            vec!["`ada` (user id of ada) has the roles `MLP System User`".to_owned()],
            Some("the role `Admin`".to_owned()),
        ),
    ];
    for (line, facts, missing) in cases {
        let case = Case::parse(line);
        let (decision, _) = world.decide(&Rules::default(), &case.request());
        assert_eq!(decision.rule(), case.rule, "{line}");
        assert_eq!(decision.facts(), facts, "{line}");
        assert_eq!(decision.missing(), missing.as_deref(), "{line}");
    }
}

#[test]
fn what_only_operators_may_know_is_in_no_reason() {
    let world = world();
    for case in cases().iter().filter(|case| !case.allow) {
        let (decision, _) = world.decide(&Rules::default(), &case.request());
        let reason = [decision.reason(), decision.remedy().unwrap()].concat();
        assert!(!reason.contains("id of "), "{}: {reason}", case.line);
        if decision.is_hidden() {
            for secret in ["catalogue `", "solution 0", "deleted", "(Iris)"] {
                assert!(!reason.contains(secret), "{}: {reason}", case.line);
            }
        }
    }
}
