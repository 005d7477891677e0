//! Which rules of a list can be about an access, without looking at all of them

use std::collections::{BTreeSet, HashMap};

use registry_core::{Access, Action, Resource, TagOrDigest};

use super::pattern::RepositoryPattern;
use super::rule::{Effect, Kinds, Rule, Subject};
use crate::principal::Principal;

/// The rules of a list by whom and what they are about
///
/// Rules are named by their place in the list. What can be compared as a number is one here.
#[derive(Clone, Debug)]
pub(super) struct Index {
    subjects: HashMap<Subject, u32>,
    denials: Shelf,
    allows: Shelf,
}

/// What the list says of an access
pub(super) enum Found {
    /// This rule decides
    Rule(usize),
    /// No rule does
    Nothing {
        /// The first allow that would, if it were not for its tags
        nearly: Option<usize>,
    },
}

impl Index {
    pub(super) fn new(rules: &[Rule]) -> Self {
        let mut subjects = HashMap::new();
        let mut denials = Shelf::default();
        let mut allows = Shelf::default();
        for (at, rule) in rules.iter().enumerate() {
            let mut ids = Vec::with_capacity(rule.subjects.len());
            for subject in &rule.subjects {
                let next = subjects.len() as u32;
                ids.push(*subjects.entry(subject.clone()).or_insert(next));
            }
            match rule.effect {
                Effect::Allow => allows.put(at, rule, &ids),
                Effect::Deny => denials.put(at, rule, &ids),
            }
        }
        Self {
            subjects,
            denials,
            allows,
        }
    }

    /// The rule that decides
    pub(super) fn find(&self, rules: &[Rule], principal: &Principal, access: &Access) -> Found {
        let subjects = self.subjects_of(principal);
        let search = |shelf: &Shelf, effect| {
            shelf.first(&Search {
                rules,
                subjects: &subjects,
                access,
                needed: Kinds::of(access.action),
                effect,
            })
        };
        if let Some(at) = search(&self.denials, Effect::Deny).exact {
            return Found::Rule(at);
        }
        match search(&self.allows, Effect::Allow) {
            Places {
                exact: Some(at), ..
            } => Found::Rule(at),
            Places { nearly, .. } => Found::Nothing { nearly },
        }
    }

    /// The numbers of the subjects that the principal is, as far as there are rules about them
    fn subjects_of(&self, principal: &Principal) -> Vec<u32> {
        let mut known = vec![Subject::Anyone];
        match principal {
            Principal::Anonymous => known.push(Subject::Anonymous),
            Principal::Token { .. } => {}
            Principal::Service { name, roles } => {
                known.extend([Subject::Authenticated, Subject::Service(name.clone())]);
                known.extend(roles.iter().cloned().map(Subject::Role));
            }
            Principal::User { name, roles } => {
                known.extend([Subject::Authenticated, Subject::User(name.clone())]);
                known.extend(roles.iter().cloned().map(Subject::Role));
            }
        }
        let number = |subject: &Subject| self.subjects.get(subject).copied();
        known.iter().filter_map(number).collect()
    }
}

/// The rules of one effect, each under every one of its repository patterns
///
/// A pattern is under what tells it from most others: the whole name, the text that the name
/// begins with, or a component that the name has. Each list is in the order of the rules.
#[derive(Clone, Debug, Default)]
struct Shelf {
    /// About the catalogue
    catalog: Vec<Entry>,
    /// About every repository, by each of the subjects
    everything: HashMap<u32, Vec<Entry>>,
    /// About exactly this repository
    exact: HashMap<Box<str>, Vec<Entry>>,
    /// About repositories whose names begin with this text
    heads: HashMap<Box<str>, Vec<(Entry, RepositoryPattern)>>,
    /// The lengths of those texts
    head_lengths: BTreeSet<usize>,
    /// About repositories whose names have this component
    components: HashMap<Box<str>, Vec<(Entry, RepositoryPattern)>>,
    /// About others
    others: Vec<(Entry, RepositoryPattern)>,
}

/// What is compared before a pattern is
#[derive(Clone, Debug)]
struct Entry {
    at: u32,
    kinds: Kinds,
    has_tags: bool,
    // Most rules have one subject only, which then is at hand.
    subject: u32,
    more_subjects: Box<[u32]>,
}

impl Shelf {
    fn put(&mut self, at: usize, rule: &Rule, subjects: &[u32]) {
        let [subject, more_subjects @ ..] = subjects else {
            // About nobody; `Rule::check` refuses it.
            return;
        };
        let entry = Entry {
            // There are at most `MAX_RULES`.
            at: at as u32,
            kinds: rule.kinds(),
            has_tags: !rule.tags.is_empty(),
            subject: *subject,
            more_subjects: more_subjects.into(),
        };
        if rule.has_catalog() {
            self.catalog.push(entry.clone());
        }
        for pattern in &rule.repositories {
            if pattern.is_everything() {
                for subject in subjects {
                    let everything = self.everything.entry(*subject).or_default();
                    everything.push(entry.clone());
                }
            } else if let Some(name) = pattern.exact() {
                let name = self.exact.entry(name.into()).or_default();
                name.push(entry.clone());
            } else if !pattern.head().is_empty() {
                self.head_lengths.insert(pattern.head().len());
                let head = self.heads.entry(pattern.head().into()).or_default();
                head.push((entry.clone(), pattern.clone()));
            } else if let Some(component) = pattern.component() {
                let component = self.components.entry(component.into()).or_default();
                component.push((entry.clone(), pattern.clone()));
            } else {
                self.others.push((entry.clone(), pattern.clone()));
            }
        }
    }

    fn first(&self, search: &Search<'_>) -> Places {
        let mut found = Places::default();
        let Resource::Repository(name) = &search.access.resource else {
            for entry in &self.catalog {
                found.add(entry.at, search.catalog(entry));
            }
            return found;
        };
        let exact = self.exact.get(name.as_str());
        let everything = search.subjects.iter();
        let everything = everything.filter_map(|subject| self.everything.get(subject));
        for entry in exact.into_iter().chain(everything).flatten() {
            found.add(entry.at, search.matches(entry));
        }
        let components: Vec<&str> = name.components().collect();
        let by_head = self.head_lengths.range(..=name.as_str().len());
        // Names are ASCII, so that every length is between two characters.
        let by_head = by_head.filter_map(|length| self.heads.get(&name.as_str()[..*length]));
        let by_component = components.iter().enumerate().filter_map(|(at, component)| {
            // A component that comes twice is looked up once.
            let is_new = !components[..at].contains(component);
            is_new.then(|| self.components.get(*component)).flatten()
        });
        let candidates = by_head.chain(by_component).chain([&self.others]);
        for (entry, pattern) in candidates.flatten() {
            if search.is_about(entry)
                && found.wants(entry.at)
                && pattern.matches_components(&components)
            {
                found.add(entry.at, search.matches(entry));
            }
        }
        found
    }
}

/// The first places at which something was found
#[derive(Clone, Copy, Default)]
struct Places {
    exact: Option<usize>,
    nearly: Option<usize>,
}

impl Places {
    fn add(&mut self, at: u32, fit: Fit) {
        let place = match fit {
            Fit::No => return,
            Fit::ButForTags => &mut self.nearly,
            Fit::Yes => &mut self.exact,
        };
        let at = at as usize;
        if place.is_none_or(|before| at < before) {
            *place = Some(at);
        }
    }

    /// Whether a rule at this place could still decide
    fn wants(&self, at: u32) -> bool {
        self.exact.is_none_or(|before| (at as usize) < before)
    }
}

/// How far a rule is about an access
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fit {
    No,
    ButForTags,
    Yes,
}

struct Search<'a> {
    rules: &'a [Rule],
    subjects: &'a [u32],
    access: &'a Access,
    needed: Kinds,
    effect: Effect,
}

impl Search<'_> {
    fn catalog(&self, entry: &Entry) -> Fit {
        match self.is_subject(entry) {
            true => Fit::Yes,
            false => Fit::No,
        }
    }

    /// All but the repository
    fn matches(&self, entry: &Entry) -> Fit {
        if !self.is_about(entry) {
            Fit::No
        } else if !entry.has_tags || self.has_tag(&self.rules[entry.at as usize]) {
            Fit::Yes
        } else {
            Fit::ButForTags
        }
    }

    /// All but the repository and the tag
    fn is_about(&self, entry: &Entry) -> bool {
        entry.kinds.decide(self.effect, self.needed) && self.is_subject(entry)
    }

    fn is_subject(&self, entry: &Entry) -> bool {
        self.subjects.contains(&entry.subject)
            || entry
                .more_subjects
                .iter()
                .any(|one| self.subjects.contains(one))
    }

    /// Whether a rule with tags is about the content; see the table of the module
    fn has_tag(&self, rule: &Rule) -> bool {
        match (&self.access.reference, self.access.action, self.effect) {
            (Some(TagOrDigest::Tag(tag)), ..) => rule.tag_pattern(tag).is_some(),
            (None, Action::Pull | Action::Push, Effect::Allow)
            | (Some(TagOrDigest::Digest(_)), Action::Push, Effect::Allow) => true,
            _ => false,
        }
    }
}
