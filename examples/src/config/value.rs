//! From a node to a value of its type, or what is wrong with it

use std::time::Duration;

use super::keys::Kind;
use super::tree::{Node, Value};
use super::{Headers, Origin, duration};

/// What is wrong, and where
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) origin: Option<Origin>,
    pub(crate) text: String,
}

impl Problem {
    /// What is wrong at a place
    pub(crate) fn at(origin: &Origin, text: impl Into<String>) -> Self {
        Self {
            origin: Some(origin.clone()),
            text: text.into(),
        }
    }

    /// Puts the key before it
    pub(crate) fn of(self, path: &str) -> Self {
        Self {
            text: format!("`{path}`: {}", self.text),
            ..self
        }
    }
}

/// Text; a number or a boolean is the text that was written
pub(crate) fn text(node: &Node) -> Result<String, Problem> {
    match &node.value {
        Value::Scalar(scalar) => Ok(scalar.text.clone()),
        _ => Err(expected(node, Kind::Text)),
    }
}

/// `true` or `false`, with what YAML 1.1 takes for them
pub(crate) fn flag(node: &Node) -> Result<bool, Problem> {
    if let Value::Scalar(scalar) = &node.value
        && !scalar.only_text
    {
        match scalar.text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "y" => return Ok(true),
            "false" | "no" | "off" | "n" => return Ok(false),
            _ => {}
        }
    }
    Err(expected(node, Kind::Flag))
}

/// A whole number
pub(crate) fn number(node: &Node) -> Result<i64, Problem> {
    if let Value::Scalar(scalar) = &node.value
        && !scalar.only_text
        && let Ok(number) = scalar.text.replace('_', "").parse()
    {
        return Ok(number);
    }
    Err(expected(node, Kind::Number))
}

/// A number of bytes, as distribution reads one: in quotes too, and with `0x`
pub(crate) fn size(node: &Node) -> Result<u64, Problem> {
    let read = |scalar: &super::tree::Scalar| {
        let text = scalar.text.trim().replace('_', "");
        match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            Some(hexadecimal) => u64::from_str_radix(hexadecimal, 16).ok(),
            None => text.parse().ok(),
        }
    };
    match &node.value {
        Value::Scalar(scalar) => read(scalar),
        _ => None,
    }
    .ok_or_else(|| expected(node, Kind::Size))
}

/// A duration as Go writes it
pub(crate) fn duration(node: &Node) -> Result<Duration, Problem> {
    let Value::Scalar(scalar) = &node.value else {
        return Err(expected(node, Kind::Duration));
    };
    duration::parse(scalar.text.trim()).map_err(|wanted| {
        Problem::at(
            &node.origin,
            format!("expected {wanted}, got {}", shown(node)),
        )
    })
}

/// A list of texts
pub(crate) fn texts(node: &Node) -> Result<Vec<String>, Problem> {
    match &node.value {
        Value::List(items) => items.iter().map(text).collect(),
        _ => Err(expected(node, Kind::Texts)),
    }
}

/// Header fields; one value may stand without its brackets
pub(crate) fn headers(node: &Node) -> Result<Headers, Problem> {
    let Value::Map(entries) = &node.value else {
        return Err(expected(node, Kind::Headers));
    };
    let mut headers = Headers::default();
    for entry in entries {
        let values = match &entry.node.value {
            Value::List(items) => items.iter().map(text).collect::<Result<Vec<_>, _>>()?,
            Value::Null => Vec::new(),
            _ => vec![text(&entry.node)?],
        };
        for value in values {
            headers
                .add(entry.key.clone(), value)
                .map_err(|text| Problem::at(&entry.origin, text))?;
        }
    }
    Ok(headers)
}

/// Freely chosen names, each with a text
pub(crate) fn names(node: &Node) -> Result<Vec<(String, String)>, Problem> {
    let Value::Map(entries) = &node.value else {
        return Err(expected(node, Kind::Names));
    };
    entries
        .iter()
        .map(|entry| match &entry.node.value {
            Value::Null => Ok((entry.key.clone(), String::new())),
            _ => Ok((entry.key.clone(), text(&entry.node)?)),
        })
        .collect()
}

/// Whether a value is of its type
pub(crate) fn check(node: &Node, kind: Kind) -> Result<(), Problem> {
    match kind {
        Kind::Flag => flag(node).map(drop),
        Kind::Number => number(node).map(drop),
        Kind::Size => size(node).map(drop),
        Kind::Duration => duration(node).map(drop),
        Kind::Text => text(node).map(drop),
        Kind::Texts => texts(node).map(drop),
        Kind::Names => names(node).map(drop),
        Kind::Headers => headers(node).map(drop),
        Kind::Anything => Ok(()),
        Kind::Alone => match &node.value {
            Value::Map(entries) if entries.is_empty() => Ok(()),
            _ => Err(expected(node, kind)),
        },
        Kind::Choice(names) => {
            let written = text(node).map_err(|_| expected(node, kind))?;
            if names.iter().any(|name| name.eq_ignore_ascii_case(&written)) || written.is_empty() {
                Ok(())
            } else {
                Err(expected(node, kind))
            }
        }
    }
}

fn expected(node: &Node, kind: Kind) -> Problem {
    let got = match (&node.value, kind) {
        // Quoted: `"true"` is text, and that is what is wrong with it.
        (Value::Scalar(scalar), Kind::Flag | Kind::Number) if scalar.only_text => {
            format!("the text {}", shown(node))
        }
        (_, Kind::Flag | Kind::Number | Kind::Size | Kind::Choice(_)) => shown(node),
        // Elsewhere it may be a secret.
        _ => node.kind().to_owned(),
    };
    Problem::at(
        &node.origin,
        format!("expected {}, got {got}", kind.expected()),
    )
}

/// The value, for a message
fn shown(node: &Node) -> String {
    match &node.value {
        Value::Scalar(scalar) if scalar.text.chars().count() <= 40 => {
            format!("`{}`", scalar.text.escape_debug())
        }
        Value::Scalar(_) => "a long text".to_owned(),
        _ => node.kind().to_owned(),
    }
}
