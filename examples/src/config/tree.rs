//! What was written, with the place of each part

use std::fmt;

use serde::Deserialize;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde_saphyr::{MessageFormatter, Spanned, UserMessageFormatter};

/// Where a value was written
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In the file, at this line
    Line(u64),
    /// In this environment variable
    Variable(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::Variable(name) => f.write_str(name),
        }
    }
}

/// A value and its place
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) origin: Origin,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Null,
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// Text, as it was written
#[derive(Clone, Debug)]
pub(crate) struct Scalar {
    pub(crate) text: String,
    /// Whether YAML takes it for text only: it was in quotes, or is neither number nor boolean
    pub(crate) only_text: bool,
}

/// A key, its place and its value
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) origin: Origin,
    pub(crate) node: Node,
}

impl Node {
    /// A mapping without entries
    pub(crate) fn empty(origin: Origin) -> Self {
        Self {
            value: Value::Map(Vec::new()),
            origin,
        }
    }

    /// Reads YAML
    ///
    /// Nothing comes of a text that has no value. Anchors, merge keys and the scalars of YAML 1.1 work; a key that is there twice is an error,
    /// and budgets end a text that grows without bound.
    ///
    /// # Errors
    ///
    /// The line, if it is known, and what is wrong there; never a part of the text.
    pub(crate) fn parse(text: &str) -> Result<Option<Self>, (Option<u64>, String)> {
        let options = serde_saphyr::options! {
            // A snippet would show what stands around, and that may be a password.
            with_snippet: false,
            non_finite_float_policy: serde_saphyr::options::NonFiniteFloatPolicy::PassThrough,
            budget: serde_saphyr::budget! {
                // The deepest key is at 7; a frame of the reader is large where it is not optimized.
                max_depth: 24,
                max_nodes: 50_000,
                max_events: 150_000,
            },
        };
        let read: Option<Spanned<Read>> = serde_saphyr::from_str_with_options(text, options)
            .map_err(|error| {
                let line = error.location().map(|location| location.line());
                (line, describe(&error))
            })?;
        Ok(read.map(|read| Self::from_read(read, text)))
    }

    fn from_read(read: Spanned<Read>, text: &str) -> Self {
        let origin = Origin::Line(read.referenced.line());
        let scalar = |text: &str, only_text| {
            Value::Scalar(Scalar {
                text: text.to_owned(),
                only_text,
            })
        };
        let value = match read.value {
            Read::Null => Value::Null,
            Read::Text(content) => scalar(&content, true),
            // Numbers as they were written: `0.10` is a version, `007` may be a password.
            Read::Typed(shown) => {
                let span = read.defined.span();
                let written = span
                    .byte_offset()
                    .zip(span.byte_len())
                    .and_then(|(at, len)| {
                        let at = usize::try_from(at).ok()?;
                        let end = at.checked_add(usize::try_from(len).ok()?)?;
                        text.get(at..end)
                    });
                scalar(written.map_or(shown.as_str(), str::trim), false)
            }
            Read::List(items) => Value::List(
                items
                    .into_iter()
                    .map(|item| Self::from_read(item, text))
                    .collect(),
            ),
            Read::Map(entries) => Value::Map(
                entries
                    .into_iter()
                    .map(|(key, value)| Entry {
                        origin: Origin::Line(key.referenced.line()),
                        key: key.value,
                        node: Self::from_read(value, text),
                    })
                    .collect(),
            ),
        };
        Self { value, origin }
    }

    /// Puts another place to everything in it
    pub(crate) fn move_to(&mut self, origin: &Origin) {
        self.origin = origin.clone();
        match &mut self.value {
            Value::Null | Value::Scalar(_) => {}
            Value::List(items) => {
                for item in items {
                    item.move_to(origin);
                }
            }
            Value::Map(entries) => {
                for entry in entries {
                    entry.origin = origin.clone();
                    entry.node.move_to(origin);
                }
            }
        }
    }

    /// The value of a key of a mapping; nothing where it is absent or null
    pub(crate) fn child(&self, key: &str) -> Option<&Self> {
        self.entries()
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| &entry.node)
            .filter(|node| !matches!(node.value, Value::Null))
    }

    /// The entries of a mapping
    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a list
    pub(crate) fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// Whether nothing is set in it, however deep
    pub(crate) fn is_empty(&self) -> bool {
        match &self.value {
            Value::Null => true,
            Value::Scalar(scalar) => scalar.text.is_empty(),
            Value::List(items) => items.iter().all(Self::is_empty),
            Value::Map(entries) => entries.iter().all(|entry| entry.node.is_empty()),
        }
    }

    /// What an item of a list is called: its name, or where it stands
    pub(crate) fn label(&self, index: usize) -> String {
        ["name", "type"]
            .iter()
            .find_map(|key| match &self.child(key)?.value {
                Value::Scalar(scalar) => Some(scalar.text.escape_debug().to_string()),
                _ => None,
            })
            .unwrap_or_else(|| index.to_string())
    }

    /// What kind of value it is, for a message; values themselves may be secret
    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Scalar(_) => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a section",
        }
    }
}

/// What the YAML reader said, in one line and without the place
fn describe(error: &serde_saphyr::Error) -> String {
    let text = UserMessageFormatter.format_message(error);
    let text = text.lines().map(str::trim).find(|line| !line.is_empty());
    text.unwrap_or("it cannot be read as YAML").to_owned()
}

/// A value as YAML types it
enum Read {
    Null,
    Typed(String),
    Text(String),
    List(Vec<Spanned<Self>>),
    Map(Vec<(Spanned<String>, Spanned<Self>)>),
}

impl<'de> Deserialize<'de> for Read {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyVisitor;

        impl<'de> Visitor<'de> for AnyVisitor {
            type Value = Read;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_unit<E>(self) -> Result<Read, E> {
                Ok(Read::Null)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Read, E> {
                Ok(Read::Typed(value.to_string()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Read, E> {
                Ok(Read::Typed(value.to_string()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Read, E> {
                Ok(Read::Typed(value.to_string()))
            }

            fn visit_i128<E>(self, value: i128) -> Result<Read, E> {
                Ok(Read::Typed(value.to_string()))
            }

            fn visit_u128<E>(self, value: u128) -> Result<Read, E> {
                Ok(Read::Typed(value.to_string()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Read, E> {
                Ok(Read::Typed(value.to_string()))
            }

            fn visit_str<E>(self, value: &str) -> Result<Read, E> {
                Ok(Read::Text(value.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Read, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = access.next_element()? {
                    items.push(item);
                }
                Ok(Read::List(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Read, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = access.next_entry()? {
                    entries.push(entry);
                }
                Ok(Read::Map(entries))
            }
        }

        deserializer.deserialize_any(AnyVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(node: &Node, path: &str) -> String {
        let node = path
            .split('.')
            .fold(node, |node, key| node.child(key).expect(key));
        match &node.value {
            Value::Scalar(scalar) => scalar.text.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn scalars_are_kept_as_they_were_written() {
        let node = Node::parse(
            "a: 0.10\nb: 007\nc: yes\nd: \"true\"\ne: 1e999\nf: 123456789012345678901234567890123456789012\n\
             g: |\n  two\n  lines\nh: 'it''s'\ni: ~\nj:\n",
        )
        .unwrap()
        .unwrap();
        for (key, expected) in [
            ("a", "0.10"),
            ("b", "007"),
            ("c", "yes"),
            ("d", "true"),
            ("e", "1e999"),
            ("f", "123456789012345678901234567890123456789012"),
            ("g", "two\nlines\n"),
            ("h", "it's"),
        ] {
            assert_eq!(text(&node, key), expected);
        }
        assert!(node.child("i").is_none() && node.child("j").is_none());
        let quoted = |key| match &node.child(key).unwrap().value {
            Value::Scalar(scalar) => scalar.only_text,
            other => panic!("{other:?}"),
        };
        assert!(!quoted("c") && quoted("d"));
    }

    #[test]
    fn anchors_and_merge_keys_are_followed_and_lines_are_those_of_the_use() {
        let node = Node::parse(
            "base: &base\n  realm: 0.50\n  path: /p\nuse:\n  <<: *base\n  path: /q\nsame: *base\n",
        )
        .unwrap()
        .unwrap();
        assert_eq!(text(&node, "use.realm"), "0.50");
        assert_eq!(text(&node, "use.path"), "/q");
        assert_eq!(text(&node, "same.path"), "/p");
        assert_eq!(
            node.child("use").unwrap().child("path").unwrap().origin,
            Origin::Line(6)
        );
        assert_eq!(node.entries()[1].origin, Origin::Line(4));
        assert_eq!(node.child("same").unwrap().origin, Origin::Line(7));
    }

    #[test]
    fn what_is_no_yaml_is_refused_with_its_line_and_without_its_text() {
        for (text, line) in [
            ("a: 1\nb: [hunter2\n", None),
            ("a: 1\npassword: x\npassword: hunter2\n", Some(3)),
            ("a: hunter2\n b: c\n", Some(2)),
            ("a: *hunter\n", Some(1)),
        ] {
            let (at, error) = Node::parse(text).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
            assert!(!error.contains('\n'), "{error}");
            if line.is_some() {
                assert_eq!(at, line, "{text}: {error}");
            }
        }
    }

    #[test]
    fn hostile_texts_end_early() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..12 {
            let many = format!("*a{}, ", i - 1).repeat(10);
            bomb.push_str(&format!("a{i}: &a{i} [{}]\n", many.trim_end_matches(", ")));
        }
        assert!(Node::parse(&bomb).is_err());
        let mut chain = "a0: &a0 [x]\n".to_owned();
        for i in 1..2000 {
            chain.push_str(&format!("a{i}: &a{i} [*a{}]\n", i - 1));
        }
        assert!(Node::parse(&chain).is_err());
        assert!(Node::parse(&"[".repeat(100_000)).is_err());
        assert!(Node::parse(&format!("a: {}1{}", "[".repeat(30), "]".repeat(30))).is_err());
    }

    #[test]
    fn nothing_comes_of_an_empty_text() {
        for text in ["", "# nothing\n", "---\n", "~"] {
            assert!(Node::parse(text).unwrap().is_none(), "{text:?}");
        }
    }
}
