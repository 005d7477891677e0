//! The decision table, and what a decision says besides

use registry_auth::rules::RuleList;
use registry_auth::token::Grants;
use registry_auth::{Access, Action, Authorizer, Decision, Policy, Principal, Resource};
use registry_core::{Digest, TagOrDigest};
use serde_json::json;

use crate::naive;

fn list() -> RuleList {
    serde_json::from_value(json!({"rules": [
        {"name": "everyone-reads-public", "effect": "allow", "subjects": ["anyone"],
         "repositories": ["public/*"], "actions": ["pull"]},
        {"name": "exact", "effect": "allow", "subjects": ["anyone"],
         "repositories": ["exact"], "actions": ["pull"]},
        {"name": "guests", "effect": "allow", "subjects": ["anonymous"],
         "repositories": ["guest/*"], "actions": ["pull"]},
        {"name": "members-read-shared", "effect": "allow", "subjects": ["authenticated"],
         "repositories": ["shared/**"], "actions": ["pull"]},
        {"name": "publishers", "effect": "allow", "subjects": ["role:Publisher"],
         "repositories": ["shared/**"], "actions": ["push"]},
        {"name": "ada-at-home", "effect": "allow", "subjects": ["user:ada"],
         "repositories": ["home/ada/**"], "actions": ["all"]},
        {"name": "docs-anywhere", "effect": "allow", "subjects": ["authenticated"],
         "repositories": ["**/docs"], "actions": ["pull"]},
        {"name": "builds", "effect": "allow", "subjects": ["user:robot", "service:ci"],
         "repositories": ["build/*"], "actions": ["pull", "push", "delete"],
         "tags": ["b*", "nightly"]},
        {"name": "puller", "effect": "allow", "subjects": ["user:puller"],
         "repositories": ["build/*"], "actions": ["pull"]},
        {"name": "administrators", "effect": "allow", "subjects": ["role:Admin"],
         "repositories": ["**"], "actions": ["all"]},
        {"name": "lister", "effect": "allow", "subjects": ["user:lister"], "actions": ["catalog"]},
        {"name": "immutable", "effect": "deny", "subjects": ["anyone"],
         "repositories": ["release/**"], "actions": ["push", "delete"], "tags": ["v*"]},
        {"name": "frozen", "effect": "deny", "subjects": ["anyone"],
         "repositories": ["*/frozen/**"], "actions": ["push", "delete"]},
        {"name": "banned", "effect": "deny", "subjects": ["user:mallory"],
         "repositories": ["**"], "actions": ["all"], "hidden": true},
    ]}))
    .unwrap()
}

fn principal(text: &str) -> Principal {
    let (name, role) = text
        .split_once('+')
        .map_or((text, None), |(name, role)| (name, Some(role)));
    let principal = match name.split_once('/') {
        Some(("service", name)) => Principal::service(name),
        _ if name == "-" => Principal::Anonymous,
        _ if name == "token" => Principal::Token {
            subject: Some("ada".to_owned()),
            grants: Grants::default(),
        },
        _ => Principal::user(name),
    };
    principal.with_roles(role)
}

fn access(action: &str, what: &str) -> Access {
    let action = match action {
        "pull" => Action::Pull,
        "push" => Action::Push,
        "delete" => Action::Delete,
        "all" => Action::All,
        other => panic!("no action: {other}"),
    };
    let (name, reference) = if let Some(name) = what.strip_suffix('@') {
        (name, Some(Digest::sha256(b"content").into()))
    } else if let Some((name, tag)) = what.split_once(':') {
        (name, Some(TagOrDigest::Tag(tag.parse().unwrap())))
    } else {
        (what, None)
    };
    Access {
        resource: match name {
            "*" => Resource::Catalog,
            _ => Resource::Repository(name.parse().unwrap()),
        },
        action,
        reference,
    }
}

fn decide(who: &str, action: &str, what: &str) -> Decision {
    list().decide(&principal(who), &access(action, what))
}

#[test]
fn every_case_is_decided_by_its_rule() {
    let list = list();
    let mut cases = 0;
    for line in include_str!("cases.txt").lines() {
        if line.starts_with('#') || line.trim().is_empty() {
            continue;
        }
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [who, action, what, verdict, rule] = fields.as_slice() else {
            panic!("not a case: {line}");
        };
        assert!(["allow", "deny"].contains(verdict), "{line}");
        let (principal, access) = (principal(who), access(action, what));
        let decision = list.decide(&principal, &access);
        let expected = (*verdict == "allow", *rule);
        assert_eq!((decision.is_allow(), decision.rule()), expected, "{line}");
        assert_eq!(
            naive::decide(list.rules(), &principal, &access),
            expected,
            "{line}"
        );
        cases += 1;
    }
    assert!(cases >= 80, "{cases} cases");
}

#[test]
fn without_rules_everything_is_denied() {
    let list = RuleList::new(Vec::new()).unwrap();
    for what in ["app", "app:v1", "*"] {
        for action in ["pull", "push", "delete", "all"] {
            let decision = list.decide(&principal("root+Admin"), &access(action, what));
            assert_eq!((decision.is_allow(), decision.rule()), (false, "default"));
        }
    }
}

#[test]
fn a_reason_tells_neither_which_rule_there_is_nor_what_exists() {
    for (one, other) in [
        // By a rule, hidden or not, and by none.
        (
            ("eve", "push", "shared/frozen/x"),
            ("eve", "push", "nowhere/frozen"),
        ),
        (
            ("mallory", "pull", "public/x"),
            ("eve", "pull", "nowhere/x"),
        ),
        (("-", "pull", "shared/x"), ("-", "pull", "nowhere")),
        (
            ("eve", "push", "release/x:v1"),
            ("eve", "push", "nowhere:v1"),
        ),
    ] {
        let reason = |(who, action, what): (&str, &str, &str)| {
            let decision = decide(who, action, what);
            assert!(!decision.is_allow(), "{who} {action} {what}");
            let name = what.split(':').next().unwrap();
            decision.reason().replace(name, "NAME")
        };
        assert_eq!(reason(one), reason(other), "{one:?}");
    }
    for (case, expected) in [
        (
            ("eve", "push", "release/x:v1"),
            "you may not push `release/x:v1`",
        ),
        (("eve", "pull", "x"), "you may not pull from `x`"),
        (("eve", "push", "x"), "you may not push to `x`"),
        (("eve", "delete", "x"), "you may not delete `x`"),
        (("eve", "all", "x"), "you may not do everything with `x`"),
        (("eve", "all", "*"), "you may not list all repositories"),
        (
            ("-", "pull", "x:1"),
            "log in: without an account you may not pull `x:1`",
        ),
        (("ada", "pull", "public/x:1"), "you may pull `public/x:1`"),
    ] {
        let (who, action, what) = case;
        assert_eq!(decide(who, action, what).reason(), expected);
    }
}

#[test]
fn who_may_use_some_tags_learns_which() {
    let decision = decide("service/ci", "push", "build/app:v1");
    assert_eq!(
        decision.reason(),
        "of `build/app` you may push only tags that match `b*`, `nightly`"
    );
    let digest = decide("service/ci", "pull", "build/app@");
    assert_eq!(
        digest.reason(),
        "of `build/app` you may pull only tags that match `b*`, `nightly`, and only by tag"
    );
    // Nor when the list hides: then there is nothing of which there could be tags.
    let decision = list()
        .with_hidden(true)
        .decide(&principal("service/ci"), &access("push", "build/app:v1"));
    assert!(decision.is_hidden());
    assert_eq!(decision.reason(), "you may not push `build/app:v1`");
    let decision = decide("eve", "push", "build/app:v1");
    assert_eq!(decision.reason(), "you may not push `build/app:v1`");
}

#[test]
fn a_decision_says_on_what_it_rests() {
    let facts = |decision: &Decision| decision.facts().join("; ");
    let allowed = decide("service/ci", "push", "build/app:b1");
    assert_eq!(
        facts(&allowed),
        "rule 8 of 14, `builds`, is to allow; ci is `service:ci`; `build/app` matches `build/*`; \
         tag `b1` matches `b*`"
    );
    assert_eq!(allowed.missing(), None);
    let denied = decide("mallory", "pull", "public/app");
    assert_eq!(
        facts(&denied),
        "rule 14 of 14, `banned`, is to deny; mallory is `user:mallory`; `public/app` matches `**`"
    );
    assert_eq!(
        denied.missing(),
        Some("rule `banned` not to be about it, and a rule that allows it")
    );
    assert!(denied.is_hidden());
    let tag = decide("service/ci", "push", "build/app:v1");
    assert!(
        facts(&tag).ends_with("tag `v1` matches none of `b*`, `nightly`"),
        "{tag:?}"
    );
    assert_eq!(
        tag.missing(),
        Some("tag `v1` in rule `builds`, or a rule without tags")
    );
    let digest = decide("service/ci", "pull", "build/app@");
    assert!(facts(&digest).contains("about tags only"), "{digest:?}");
    assert_eq!(digest.missing(), Some("a rule without tags that allows it"));
    let nothing = decide("eve", "pull", "nowhere");
    assert_eq!(
        facts(&nothing),
        "none of 14 rules is about eve and `repository:nowhere:pull`"
    );
    assert_eq!(
        nothing.missing(),
        Some("a rule that allows eve `repository:nowhere:pull`")
    );
    assert!(!nothing.is_hidden());
}

#[tokio::test]
async fn a_list_is_what_a_service_asks() {
    let authorizer: &dyn Authorizer = &list();
    let decision = authorizer
        .authorize(&Principal::Anonymous, &access("pull", "public/app"))
        .await;
    assert!(decision.unwrap().is_allow());
}
