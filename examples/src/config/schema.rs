//! Whether what was written is known, and what is told about it

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::keys::{Fate, KEYS, Key, Kind, expand};
use super::tree::{Node, Scalar, Value};
use super::value::{self, Problem};
use super::{Origin, Warning};

/// The keys of the table as a tree
#[derive(Default)]
pub(crate) struct Schema {
    children: BTreeMap<String, Self>,
    /// What the items are, where this is a list of sections
    item: Option<Box<Self>>,
    /// What the value is, where this is not a section
    pub(crate) key: Option<&'static Key>,
}

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::of(&KEYS));

/// Sections of which distribution takes the name of one child as the whole value
const NAMED: [&str; 2] = ["storage", "auth"];

impl Schema {
    /// The table
    pub(crate) fn root() -> &'static Self {
        &SCHEMA
    }

    /// Another table
    pub(crate) fn of(keys: &'static [Key]) -> Self {
        let mut root = Self::default();
        for key in keys {
            for path in expand(key.path) {
                let mut schema = &mut root;
                for part in path.split('.') {
                    let name = part.strip_suffix("[]").unwrap_or(part);
                    schema = schema.children.entry(name.to_owned()).or_default();
                    if part.ends_with("[]") {
                        schema = schema.item.get_or_insert_default();
                    }
                }
                schema.key = Some(key);
            }
        }
        root
    }

    /// What is known under a name
    pub(crate) fn child(&self, name: &str) -> Option<(&str, &Self)> {
        self.children
            .get_key_value(name)
            .map(|(name, schema)| (name.as_str(), schema))
    }

    /// What the items are, where this is a list of sections
    pub(crate) fn item(&self) -> Option<&Self> {
        self.item.as_deref()
    }

    /// Why a section whose name is known cannot be, where every key below shares that
    fn refusal(&self) -> Option<&'static str> {
        match self.key {
            Some(key) => match key.fate {
                Fate::Refused(why) => Some(why),
                _ => None,
            },
            None => {
                let mut refusals = self.children.values().map(Self::refusal);
                let first = refusals.next()??;
                refusals.all(|other| other == Some(first)).then_some(first)
            }
        }
    }
}

/// Writes `storage: inmemory` as `storage: {inmemory: {}}`, and the same for `auth`
pub(crate) fn name_sections(root: &mut Node) {
    let Value::Map(entries) = &mut root.value else {
        return;
    };
    for entry in entries {
        if !NAMED.contains(&entry.key.as_str()) {
            continue;
        }
        if let Value::Scalar(Scalar { text, .. }) = &entry.node.value {
            let origin = entry.node.origin.clone();
            entry.node.value = Value::Map(vec![super::tree::Entry {
                key: text.clone(),
                origin: origin.clone(),
                node: Node::empty(origin),
            }]);
        }
    }
}

/// Looks at everything that was written
///
/// # Errors
///
/// The first key that is unknown or cannot be ignored, or the first value of a wrong type.
pub(crate) fn check(root: &Node) -> Result<Vec<Warning>, Problem> {
    check_by(root, Schema::root(), &KEYS)
}

/// The same by another table, of which `schema` is made
///
/// # Errors
///
/// As of [`check`].
pub(crate) fn check_by(
    root: &Node,
    schema: &Schema,
    keys: &'static [Key],
) -> Result<Vec<Warning>, Problem> {
    let mut found = Found {
        keys,
        list: Vec::new(),
    };
    walk(root, schema, "", None, &mut found)?;
    // What is said of several keys of a section, or of an item of a list, is said once.
    let mut warnings: Vec<(Option<String>, Warning)> = Vec::new();
    for finding in found.list {
        let same = warnings
            .iter_mut()
            .find(|(group, warning)| *group == finding.group && warning.what == finding.what);
        match same {
            Some((_, warning)) => warning.keys.push(finding.path),
            None => warnings.push((
                finding.group,
                Warning {
                    keys: vec![finding.path],
                    origin: Some(finding.origin),
                    what: finding.what,
                },
            )),
        }
    }
    Ok(warnings.into_iter().map(|(_, warning)| warning).collect())
}

/// What a walk has found so far
struct Found {
    /// The table
    keys: &'static [Key],
    list: Vec<Finding>,
}

struct Finding {
    path: String,
    /// Findings of one item of a list make one warning
    group: Option<String>,
    origin: Origin,
    what: String,
}

fn walk(
    node: &Node,
    schema: &Schema,
    path: &str,
    group: Option<&str>,
    found: &mut Found,
) -> Result<(), Problem> {
    if matches!(node.value, Value::Null) {
        return Ok(());
    }
    if let Some(key) = schema.key {
        return leaf(node, key, path, group, found);
    }
    if let Some(item) = schema.item() {
        let Value::List(items) = &node.value else {
            return Err(wrong(node, path, "a list of sections"));
        };
        for (index, node) in items.iter().enumerate() {
            let path = format!("{path}[{}]", node.label(index));
            walk_section(node, item, &path, Some(&format!("{path}{index}")), found)?;
        }
        return Ok(());
    }
    walk_section(node, schema, path, group, found)
}

fn walk_section(
    node: &Node,
    schema: &Schema,
    path: &str,
    group: Option<&str>,
    found: &mut Found,
) -> Result<(), Problem> {
    let Value::Map(entries) = &node.value else {
        return match node.value {
            Value::Null => Ok(()),
            _ => Err(wrong(node, path, "a section")),
        };
    };
    let before = found.list.len();
    for entry in entries {
        let below = join(path, &entry.key);
        let Some((_, child)) = schema.child(&entry.key) else {
            return Err(Problem::at(
                &entry.origin,
                unknown(path, &entry.key, schema, found.keys),
            ));
        };
        // A driver is chosen by its name alone, whatever stands under it.
        if NAMED.contains(&path)
            && let Some(why) = child.refusal()
        {
            return Err(refused(&entry.origin, &below, why));
        }
        walk(&entry.node, child, &below, group, found)?;
    }
    // What is switched off does nothing in distribution either.
    let is = |key: &str, expected: bool| {
        node.child(key)
            .is_some_and(|node| value::flag(node) == Ok(expected))
    };
    // Only `validation` does not end with its `enabled`, which is older than its `disabled`.
    if is("disabled", true) || (is("enabled", false) && path != "validation") {
        found.list.truncate(before);
    }
    Ok(())
}

fn leaf(
    node: &Node,
    key: &Key,
    path: &str,
    group: Option<&str>,
    found: &mut Found,
) -> Result<(), Problem> {
    value::check(node, key.kind).map_err(|problem| problem.of(path))?;
    // An empty value is what is not set, as in distribution.
    if node.is_empty() {
        return Ok(());
    }
    let what = match key.fate {
        Fate::Honoured | Fate::Differently(_) => return Ok(()),
        Fate::Refused(why) => {
            return Err(refused(&node.origin, path, why));
        }
        Fate::Only(only, instead) => {
            let as_only = match key.kind {
                Kind::Flag => value::flag(node)?.to_string() == only,
                _ => value::text(node)?.eq_ignore_ascii_case(only),
            };
            if as_only {
                return Ok(());
            }
            instead
        }
        Fate::Ignored(instead) => instead,
    };
    found.list.push(Finding {
        path: path.to_owned(),
        group: group.map(ToOwned::to_owned),
        origin: node.origin.clone(),
        what: what.to_owned(),
    });
    Ok(())
}

fn refused(origin: &Origin, path: &str, why: &str) -> Problem {
    Problem::at(origin, format!("`{path}` cannot be: {why}"))
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

fn wrong(node: &Node, path: &str, expected: &str) -> Problem {
    Problem::at(
        &node.origin,
        format!("expected {expected}, got {}", node.kind()),
    )
    .of(if path.is_empty() {
        "configuration"
    } else {
        path
    })
}

/// What to say of a key that is not known: the nearest one that is
fn unknown(path: &str, key: &str, schema: &Schema, keys: &[Key]) -> String {
    let near = |name: &str| strsim::damerau_levenshtein(&key.to_lowercase(), name);
    let shown = join(path, &key.escape_debug().to_string());
    let mut text = format!("`{shown}` is not known");
    let nearest = schema.children.keys().min_by_key(|name| near(name));
    if let Some(name) = nearest.filter(|name| near(name) <= (name.len() / 3).max(1)) {
        text.push_str(&format!("; did you mean `{}`?", join(path, name)));
        return text;
    }
    // A key that is right elsewhere was indented wrongly, most often.
    let elsewhere = keys
        .iter()
        .flat_map(|known| expand(known.path))
        .find_map(|known| {
            known
                .split('.')
                .position(|part| part.trim_end_matches("[]") == key)
                .map(|at| known.split('.').take(at + 1).collect::<Vec<_>>().join("."))
        });
    if let Some(known) = elsewhere {
        text.push_str(&format!("; did you mean `{known}`?"));
    } else {
        let known: Vec<String> = schema
            .children
            .keys()
            .map(|name| format!("`{name}`"))
            .collect();
        text.push_str(&format!("; known here: {}", known.join(", ")));
    }
    text
}
