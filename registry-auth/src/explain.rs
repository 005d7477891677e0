//! A decision in full, for people who run a registry

use std::borrow::Cow;
use std::fmt::{self, Write};

use registry_core::{Access, Action, Resource, TagOrDigest};
use serde::Serialize;

use crate::policy::Decision;
use crate::principal::Principal;

/// Who asked for what, what was decided, and on what that rests
///
/// For operators: it may say what the one who asked may not know. Of any [`Decision`], whichever
/// policy gave it. `Display` writes lines for people; the serialized form has these fields, always
/// all of them: `principal` (`kind`, `name`, `roles`, `grants`), `access` (`action`, `repository`,
/// `tag`, `digest`, `scope`), `allow`, `hidden`, `rule`, `reason`, `remedy`, `facts`, `missing`.
/// What does not apply is null or empty. The reason and the remedy are what the one who asked is
/// told.
///
/// # Examples
///
/// An allow:
///
/// ```
/// # use registry_auth::{Access, Explanation, Policy, Principal, RuleList};
/// # use registry_core::route;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let rules: RuleList = serde_json::from_str(r#"{"rules": [
///     {"name": "release", "effect": "allow", "subjects": ["role:Publisher"],
///      "repositories": ["team/**"], "actions": ["push"], "tags": ["v*"]},
///     {"name": "secret", "effect": "deny", "subjects": ["anyone"],
///      "repositories": ["team/secret"], "actions": ["all"], "hidden": true}
/// ]}"#)?;
/// let ada = Principal::user("ada").with_roles(["Publisher"]);
/// let push = |path| route("PUT", path, None).map(|operation| operation.access().remove(1));
/// let explain = |access: &Access| {
///     Explanation::new(&ada, access, &rules.decide(&ada, access)).to_string()
/// };
/// assert_eq!(explain(&push("/v2/team/app/manifests/v1")?), "\
/// who:     user ada (Publisher)
/// what:    push team/app:v1
/// verdict: allow
/// rule:    release
/// reason:  you may push `team/app:v1`
/// because: rule 1 of 2, `release`, is to allow
///          ada is `role:Publisher`
///          `team/app` matches `team/**`
///          tag `v1` matches `v*`
/// ");
/// # Ok(())
/// # }
/// ```
///
/// A denial because of the tag, by a rule that hides, and because no rule allows it:
///
/// ```
/// # use registry_auth::{Access, Explanation, Policy, Principal, RuleList};
/// # use registry_core::route;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let rules: RuleList = serde_json::from_str(r#"{"rules": [
/// #     {"name": "release", "effect": "allow", "subjects": ["role:Publisher"],
/// #      "repositories": ["team/**"], "actions": ["push"], "tags": ["v*"]},
/// #     {"name": "secret", "effect": "deny", "subjects": ["anyone"],
/// #      "repositories": ["team/secret"], "actions": ["all"], "hidden": true}
/// # ]}"#)?;
/// # let ada = Principal::user("ada").with_roles(["Publisher"]);
/// # let push = |path| route("PUT", path, None).map(|operation| operation.access().remove(1));
/// # let explain = |access: &Access| {
/// #     Explanation::new(&ada, access, &rules.decide(&ada, access)).to_string()
/// # };
/// assert_eq!(explain(&push("/v2/team/app/manifests/latest")?), "\
/// who:     user ada (Publisher)
/// what:    push team/app:latest
/// verdict: deny
/// rule:    default
/// reason:  of `team/app` you may push only tags that match `v*`
/// remedy:  log in with an account that may do it, or ask whoever runs this registry
/// because: rule 1 of 2, `release`, is to allow
///          ada is `role:Publisher`
///          `team/app` matches `team/**`
///          tag `latest` matches none of `v*`
/// missing: tag `latest` in rule `release`, or a rule without tags
/// ");
/// assert_eq!(explain(&push("/v2/team/secret/manifests/v1")?), "\
/// who:     user ada (Publisher)
/// what:    push team/secret:v1
/// verdict: deny, as if it did not exist
/// rule:    secret
/// reason:  you may not push `team/secret:v1`
/// remedy:  log in with an account that may do it, or ask whoever runs this registry
/// because: rule 2 of 2, `secret`, is to deny
///          ada is `anyone`
///          `team/secret` matches `team/secret`
/// missing: rule `secret` not to be about it, and a rule that allows it
/// ");
/// assert_eq!(explain(&push("/v2/elsewhere/manifests/v1")?), "\
/// who:     user ada (Publisher)
/// what:    push elsewhere:v1
/// verdict: deny
/// rule:    default
/// reason:  you may not push `elsewhere:v1`
/// remedy:  log in with an account that may do it, or ask whoever runs this registry
/// because: none of 2 rules is about ada and `repository:elsewhere:push`
/// missing: a rule that allows ada `repository:elsewhere:push`
/// ");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation<'a> {
    principal: Who<'a>,
    access: What<'a>,
    allow: bool,
    hidden: bool,
    rule: &'a str,
    reason: &'a str,
    remedy: Option<&'a str>,
    facts: &'a [Cow<'static, str>],
    missing: Option<&'a str>,
}

impl<'a> Explanation<'a> {
    /// Of what was decided when this principal asked for this access
    pub fn new(principal: &'a Principal, access: &'a Access, decision: &'a Decision) -> Self {
        Self {
            principal: Who::of(principal),
            access: What::of(access),
            allow: decision.is_allow(),
            hidden: decision.is_hidden(),
            rule: decision.rule(),
            reason: decision.reason(),
            remedy: decision.remedy(),
            facts: decision.facts(),
            missing: decision.missing(),
        }
    }
}

impl fmt::Display for Explanation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        line(f, "who:", &self.principal)?;
        line(f, "what:", &self.access)?;
        let verdict = match (self.allow, self.hidden) {
            (true, _) => "allow",
            (false, false) => "deny",
            (false, true) => "deny, as if it did not exist",
        };
        line(f, "verdict:", verdict)?;
        line(f, "rule:", self.rule)?;
        line(f, "reason:", self.reason)?;
        if let Some(remedy) = self.remedy {
            line(f, "remedy:", remedy)?;
        }
        for (number, fact) in self.facts.iter().enumerate() {
            line(f, if number == 0 { "because:" } else { "" }, fact)?;
        }
        match self.missing {
            Some(missing) => line(f, "missing:", missing),
            None => Ok(()),
        }
    }
}

/// One line, whatever the value holds
///
/// Names come from requests and from the platform; none may write a line of its own, or to the
/// terminal.
fn line(f: &mut fmt::Formatter<'_>, title: &str, value: impl fmt::Display) -> fmt::Result {
    write!(f, "{title:<9}")?;
    write!(Printable(f), "{value}")?;
    f.write_char('\n')
}

struct Printable<'a, 'f>(&'a mut fmt::Formatter<'f>);

impl fmt::Write for Printable<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if character.is_control() {
                write!(self.0, "{}", character.escape_debug())?;
            } else {
                self.0.write_char(character)?;
            }
        }
        Ok(())
    }
}

/// A principal in stable words
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Who<'a> {
    kind: &'static str,
    name: Option<&'a str>,
    roles: &'a [String],
    /// What a token grants, as scopes
    grants: Vec<String>,
}

impl<'a> Who<'a> {
    fn of(principal: &'a Principal) -> Self {
        let mut roles_of = &[][..];
        let mut granted = Vec::new();
        let kind = match principal {
            Principal::Anonymous => "anonymous",
            Principal::Service { roles, .. } => {
                roles_of = roles;
                "service"
            }
            Principal::Token { grants, .. } => {
                for grant in grants.iter() {
                    let scope = |action: &Action| Access {
                        resource: grant.resource.clone(),
                        action: *action,
                        reference: None,
                    };
                    granted.extend(grant.actions.iter().map(|one| scope(one).to_string()));
                }
                "token"
            }
            Principal::User { roles, .. } => {
                roles_of = roles;
                "user"
            }
        };
        Self {
            kind,
            name: principal.name(),
            roles: roles_of,
            grants: granted,
        }
    }
}

impl fmt::Display for Who<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind)?;
        match (self.kind, self.name) {
            ("token", Some(subject)) => write!(f, " about {subject}")?,
            (_, Some(name)) => write!(f, " {name}")?,
            (_, None) => {}
        }
        let known = match self.kind {
            "token" => self.grants.join(", "),
            _ => self.roles.join(", "),
        };
        match known.is_empty() {
            true => Ok(()),
            false => write!(f, " ({known})"),
        }
    }
}

/// An access in stable words
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct What<'a> {
    action: &'static str,
    /// Null for the list of all repositories
    repository: Option<&'a str>,
    tag: Option<&'a str>,
    digest: Option<String>,
    /// As a token would have it
    scope: String,
}

impl<'a> What<'a> {
    fn of(access: &'a Access) -> Self {
        let (tag, digest) = match &access.reference {
            Some(TagOrDigest::Tag(tag)) => (Some(tag.as_str()), None),
            Some(TagOrDigest::Digest(digest)) => (None, Some(digest.to_string())),
            None => (None, None),
        };
        Self {
            action: access.action.as_str(),
            repository: match &access.resource {
                Resource::Repository(name) => Some(name.as_str()),
                _ => None,
            },
            tag,
            digest,
            scope: access.to_string(),
        }
    }
}

impl fmt::Display for What<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(repository) = self.repository else {
            return f.write_str("list all repositories");
        };
        let action = match self.action {
            "*" => "everything with",
            action => action,
        };
        write!(f, "{action} {repository}")?;
        match (self.tag, &self.digest) {
            (Some(tag), _) => write!(f, ":{tag}"),
            (None, Some(digest)) => write!(f, "@{digest}"),
            (None, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use registry_core::route;
    use serde_json::json;

    use super::*;
    use crate::token::{AccessEntry, ResourceActions};
    use crate::{AllowAll, Granted, Policy};

    fn access(method: &str, path: &str) -> Access {
        route(method, path, None).unwrap().access().remove(0)
    }

    #[test]
    fn as_json_every_field_is_always_there() {
        let ada = Principal::user("ada").with_roles(["Publisher"]);
        let tag = access("DELETE", "/v2/team/app/manifests/v1");
        let decision = Decision::deny("a-rule", "no")
            .with_fact("one")
            .with_fact("two")
            .with_missing("three")
            .with_remedy("four")
            .with_hidden();
        assert_eq!(
            serde_json::to_value(Explanation::new(&ada, &tag, &decision)).unwrap(),
            json!({
                "principal": {"kind": "user", "name": "ada", "roles": ["Publisher"], "grants": []},
                "access": {"action": "delete", "repository": "team/app", "tag": "v1",
                    "digest": null, "scope": "repository:team/app:delete"},
                "allow": false,
                "hidden": true,
                "rule": "a-rule",
                "reason": "no",
                "remedy": "four",
                "facts": ["one", "two"],
                "missing": "three",
            })
        );
        let catalog = access("GET", "/v2/_catalog");
        let decision = AllowAll.decide(&Principal::Anonymous, &catalog);
        assert_eq!(
            serde_json::to_value(Explanation::new(&Principal::Anonymous, &catalog, &decision))
                .unwrap(),
            json!({
                "principal": {"kind": "anonymous", "name": null, "roles": [], "grants": []},
                "access": {"action": "*", "repository": null, "tag": null, "digest": null,
                    "scope": "registry:catalog:*"},
                "allow": true,
                "hidden": false,
                "rule": "allow-all",
                "reason": "this registry is open to everyone",
                "remedy": null,
                "facts": [],
                "missing": null,
            })
        );
    }

    #[test]
    fn a_token_is_told_with_its_grants() {
        let entry = AccessEntry::from(
            &"repository:team/app:pull,push"
                .parse::<ResourceActions>()
                .unwrap(),
        );
        let token = Principal::Token {
            subject: Some("ada".to_owned()),
            grants: [&entry].into_iter().collect(),
        };
        let digest = format!("sha256:{}", "0".repeat(64));
        let blob = access("GET", &format!("/v2/team/app/blobs/{digest}"));
        let decision = Granted.decide(&token, &blob);
        let explanation = Explanation::new(&token, &blob, &decision);
        let text = explanation.to_string();
        let expected = "who:     token about ada (repository:team/app:pull, \
                        repository:team/app:push)\nwhat:    pull team/app@sha256:000";
        assert!(text.starts_with(expected), "{text}");
        let json = serde_json::to_value(&explanation).unwrap();
        assert_eq!(json["access"]["digest"], digest);
        assert_eq!(json["principal"]["grants"][1], "repository:team/app:push");
    }

    #[test]
    fn no_name_writes_a_line_of_its_own() {
        let user = Principal::user("eve\nverdict: allow\u{1b}[2J").with_roles(["a\rb"]);
        let decision = Decision::deny("r", "no").with_fact("named `\u{9b}x`");
        let catalog = access("GET", "/v2/_catalog");
        assert_eq!(
            Explanation::new(&user, &catalog, &decision).to_string(),
            "who:     user eve\\nverdict: allow\\u{1b}[2J (a\\rb)\nwhat:    list all repositories\n\
             verdict: deny\nrule:    r\nreason:  no\nbecause: named `\\u{9b}x`\n"
        );
    }
}
