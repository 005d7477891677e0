//! Environment variables that override the file
//!
//! `REGISTRY_HTTP_ADDR` sets `http.addr`: the path in capitals, its parts joined by `_`. Values are
//! YAML. Variables are applied in the order of their names, so that `REGISTRY_STORAGE`, which
//! replaces the section, comes before what sets a part of it. Parts of a path are always separated
//! at `_`: a key with one in its name cannot be reached, as in distribution.

use super::keys::Kind;
use super::schema::{Schema, name_sections};
use super::tree::{Entry, Node, Value};
use super::value::Problem;
use super::{Origin, Warning};

pub(crate) const PREFIX: &str = "REGISTRY_";

/// The project's own tests are told where things are by variables of this name
const TESTS: &str = "REGISTRY_E2E";

/// What the environment has set: the path and the variable
pub(crate) type Applied = Vec<(String, String)>;

/// Applies the variables that begin with `REGISTRY_`
///
/// # Errors
///
/// A value that is not YAML; the message has no part of the value.
pub(crate) fn apply(
    root: &mut Node,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<(Applied, Vec<Warning>), Problem> {
    let mut variables: Vec<(String, String)> = variables
        .into_iter()
        .filter(|(name, _)| name.starts_with(PREFIX) && !name.starts_with(TESTS))
        .collect();
    variables.sort();

    let (mut applied, mut warnings) = (Applied::new(), Vec::new());
    name_sections(root);
    for (name, text) in variables {
        let origin = Origin::Variable(name.clone());
        let value = match Node::parse(&text) {
            Ok(Some(mut node)) => {
                node.move_to(&origin);
                node
            }
            Ok(None) => Node {
                value: Value::Null,
                origin: origin.clone(),
            },
            Err(_) => {
                return Err(Problem::at(
                    &origin,
                    "the value is not YAML; put it in quotes if it has one of `:#@&*{}[]`",
                ));
            }
        };
        let parts: Vec<&str> = name[PREFIX.len()..].split('_').collect();
        let mut path = Vec::new();
        // What leads nowhere must leave nothing behind.
        let mut changed = root.clone();
        if parts != ["VERSION"] && set(&mut changed, Schema::root(), &parts, value, &mut path) {
            *root = changed;
            let path = path.join(".");
            applied.retain(|(earlier, _)| {
                *earlier != path && !earlier.starts_with(&format!("{path}."))
            });
            applied.push((path, name));
        } else {
            warnings.push(Warning {
                keys: vec![name.clone()],
                origin: Some(origin),
                what: "no key of the configuration has this name".to_owned(),
            });
        }
        name_sections(root);
    }
    Ok((applied, warnings))
}

/// Sets what the parts of a name lead to; whether they lead anywhere
fn set(
    node: &mut Node,
    schema: &Schema,
    parts: &[&str],
    value: Node,
    path: &mut Vec<String>,
) -> bool {
    let Some((part, rest)) = parts.split_first() else {
        *node = value;
        return true;
    };
    if let Some(key) = schema.key {
        return match key.kind {
            Kind::Names if !rest.is_empty() => false,
            Kind::Names | Kind::Headers | Kind::Anything => set_free(node, part, rest, value, path),
            Kind::Texts => set_item(node, None, part, rest, value, path),
            _ => false,
        };
    }
    if let Some(item) = schema.item() {
        return set_item(node, Some(item), part, rest, value, path);
    }
    if part.chars().any(char::is_lowercase) {
        return false;
    }
    let Some((name, child)) = schema.child(&part.to_lowercase()) else {
        return false;
    };
    path.push(name.to_owned());
    match entry(node, name, &value.origin) {
        Some(entry) => set(entry, child, rest, value, path),
        None => false,
    }
}

/// Sets an entry whose name is free: of fields, of headers
fn set_free(
    node: &mut Node,
    part: &str,
    rest: &[&str],
    value: Node,
    path: &mut Vec<String>,
) -> bool {
    if part.is_empty() {
        return false;
    }
    // A key of the file keeps the case that it has there.
    let name = node
        .entries()
        .iter()
        .map(|entry| &entry.key)
        .find(|key| key.to_uppercase() == part.to_uppercase())
        .cloned()
        .unwrap_or_else(|| part.to_lowercase());
    path.push(name.clone());
    let Some(entry) = entry(node, &name, &value.origin) else {
        return false;
    };
    match rest {
        [] => {
            *entry = value;
            true
        }
        [part, rest @ ..] => {
            if part.parse::<usize>().is_ok() && !matches!(entry.value, Value::Map(_)) {
                set_item(entry, None, part, rest, value, path)
            } else {
                set_free(entry, part, rest, value, path)
            }
        }
    }
}

/// Sets an item of a list, or adds one at its end
fn set_item(
    node: &mut Node,
    item: Option<&Schema>,
    part: &str,
    rest: &[&str],
    value: Node,
    path: &mut Vec<String>,
) -> bool {
    let Ok(index) = part.parse::<usize>() else {
        return false;
    };
    if matches!(node.value, Value::Null) {
        node.value = Value::List(Vec::new());
    }
    let Value::List(items) = &mut node.value else {
        return false;
    };
    if index > items.len() {
        return false;
    }
    if index == items.len() {
        items.push(Node::empty(value.origin.clone()));
    }
    path.push(index.to_string());
    match item {
        Some(item) => set(&mut items[index], item, rest, value, path),
        None if rest.is_empty() => {
            items[index] = value;
            true
        }
        None => false,
    }
}

/// The entry of a mapping, made if need be; nothing where there is no mapping
pub(super) fn entry<'a>(node: &'a mut Node, name: &str, origin: &Origin) -> Option<&'a mut Node> {
    if matches!(node.value, Value::Null) {
        node.value = Value::Map(Vec::new());
    }
    let Value::Map(entries) = &mut node.value else {
        return None;
    };
    let index = match entries.iter().position(|entry| entry.key == name) {
        Some(index) => index,
        None => {
            entries.push(Entry {
                key: name.to_owned(),
                origin: origin.clone(),
                node: Node {
                    value: Value::Null,
                    origin: origin.clone(),
                },
            });
            entries.len() - 1
        }
    };
    Some(&mut entries[index].node)
}
