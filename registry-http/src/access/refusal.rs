//! Refusals: what whoever may not do something is told

use std::fmt;

use registry_auth::{Access, Action, Decision, Resource};
use registry_core::Operation;
use registry_storage::{BlobError, ManifestReadError};
use serde_json::{Value, json};

use crate::respond::Cause;

/// What whoever may not do something is told, and how they are asked for other credentials
#[derive(Debug)]
pub(crate) struct Refusal {
    reason: String,
    remedy: Option<String>,
    /// As scopes of tokens
    needed: Vec<String>,
    /// None of a denial that is to say nothing
    rule: Option<String>,
    challenge: Option<String>,
}

impl Refusal {
    /// A denial in its own words; with a challenge where other credentials may help
    pub(super) fn new(decision: &Decision, needed: &[Access], challenge: Option<String>) -> Self {
        let rule = (!decision.is_hidden()).then(|| decision.rule().to_owned());
        Self {
            reason: decision.reason().to_owned(),
            remedy: decision.remedy().map(str::to_owned),
            needed: scopes(needed),
            rule,
            challenge,
        }
    }

    /// The same words for everything, so that they say nothing about what it is
    pub(super) fn mute(needed: &[Access], challenge: Option<String>) -> Self {
        let reason = match needed.last() {
            Some(Access {
                resource: Resource::Repository(name),
                action,
                ..
            }) => match action {
                Action::Pull => format!("you may not pull from `{name}`"),
                Action::Push => format!("you may not push to `{name}`"),
                Action::Delete => format!("you may not delete from `{name}`"),
                _ => format!("you may not do this to `{name}`"),
            },
            _ => "you may not do this".to_owned(),
        };
        Self {
            reason,
            remedy: None,
            needed: scopes(needed),
            rule: None,
            challenge,
        }
    }

    /// What asks for other credentials, if they may help
    pub(crate) fn challenge(&self) -> Option<&str> {
        self.challenge.as_deref()
    }

    /// The facts, for programs
    pub(crate) fn detail(&self) -> Value {
        let mut detail = json!({ "needed": self.needed });
        for (key, value) in [("rule", &self.rule), ("remedy", &self.remedy)] {
            if let Some(value) = value {
                detail[key] = value.as_str().into();
            }
        }
        detail
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        // docker and podman print this and no detail.
        match &self.remedy {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

/// Each once: two tags that are pushed at once need the same scope
fn scopes(needed: &[Access]) -> Vec<String> {
    let mut scopes: Vec<_> = needed.iter().map(Access::to_string).collect();
    scopes.dedup();
    scopes
}

/// What is said where nothing is, to an operation that reads what a repository has
pub(crate) fn absence(operation: &Operation) -> Option<Cause> {
    match operation {
        Operation::GetBlob { name, digest } => Some(Cause::Blob(BlobError::Unknown {
            name: name.clone(),
            digest: *digest,
        })),
        Operation::GetManifest { name, reference } => {
            Some(Cause::ManifestRead(ManifestReadError::Unknown {
                name: name.clone(),
                reference: reference.clone(),
            }))
        }
        Operation::ListReferrers { name, .. } | Operation::ListTags { name, .. } => {
            let name = name.clone();
            Some(Cause::ManifestRead(ManifestReadError::RepositoryUnknown {
                name,
            }))
        }
        _ => None,
    }
}
