//! A section of what was written, read key by key

use std::path::PathBuf;
use std::time::Duration;

use super::tree::Node;
use super::value::{self, Problem};
use super::{Headers, Origin, Url};

/// A mapping with its path, read key by key; one that is absent is empty
pub(super) struct Section<'a> {
    pub(super) node: Option<&'a Node>,
    pub(super) path: String,
}

impl<'a> Section<'a> {
    pub(super) fn new(node: &'a Node, path: &str) -> Self {
        Self {
            node: Some(node),
            path: path.to_owned(),
        }
    }

    pub(super) fn path(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    pub(super) fn node(&self, key: &str) -> Option<&'a Node> {
        self.node?.child(key)
    }

    /// A section below
    pub(super) fn section(&self, key: &str) -> Self {
        Self {
            node: self.node(key),
            path: self.path(key),
        }
    }

    /// The sections of a list
    pub(super) fn sections(&self, key: &str) -> Vec<Self> {
        let items = self.node(key).map(Node::items).unwrap_or_default();
        items
            .iter()
            .enumerate()
            .map(|(index, node)| {
                let path = self.path(&format!("{key}[{}]", node.label(index)));
                Self::new(node, &path)
            })
            .collect()
    }

    pub(super) fn read<T>(
        &self,
        key: &str,
        read: impl FnOnce(&Node) -> Result<T, Problem>,
    ) -> Result<Option<T>, Problem> {
        self.node(key)
            .map(|node| read(node).map_err(|problem| problem.of(&self.path(key))))
            .transpose()
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, Problem> {
        self.read(key, value::flag)
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<i64>, Problem> {
        self.read(key, value::number)
    }

    pub(super) fn duration(&self, key: &str) -> Result<Option<Duration>, Problem> {
        self.read(key, value::duration)
    }

    /// A duration that something happens once in; zero is what is not set, as in distribution
    pub(super) fn interval(&self, key: &str) -> Result<Option<Duration>, Problem> {
        Ok(self.duration(key)?.filter(|duration| !duration.is_zero()))
    }

    /// Text; an empty one is what is not set, as in distribution
    pub(super) fn text(&self, key: &str) -> Result<Option<String>, Problem> {
        Ok(self.read(key, value::text)?.filter(|text| !text.is_empty()))
    }

    pub(super) fn texts(&self, key: &str) -> Result<Vec<String>, Problem> {
        Ok(self.read(key, value::texts)?.unwrap_or_default())
    }

    pub(super) fn paths(&self, key: &str) -> Result<Vec<PathBuf>, Problem> {
        Ok(self.texts(key)?.into_iter().map(PathBuf::from).collect())
    }

    pub(super) fn headers(&self, key: &str) -> Result<Headers, Problem> {
        Ok(self.read(key, value::headers)?.unwrap_or_default())
    }

    pub(super) fn url(&self, key: &str) -> Result<Option<Url>, Problem> {
        self.text(key)?
            .map(|text| {
                text.parse().map_err(|error: String| {
                    self.problem(key, format!("expected a URL, but it is {error}"))
                })
            })
            .transpose()
    }

    /// A number of times, of which there is at least one; zero is what is not set
    pub(super) fn times(&self, key: &str) -> Result<Option<u32>, Problem> {
        self.number(key)?
            .filter(|number| *number != 0)
            .map(|number| {
                u32::try_from(number).map_err(|_| {
                    self.problem(key, format!("expected a number of times, got {number}"))
                })
            })
            .transpose()
    }

    /// What must be there
    pub(super) fn needed<T>(&self, key: &str, value: Option<T>) -> Result<T, Problem> {
        value.ok_or_else(|| Problem {
            origin: self.origin(key),
            text: format!("`{}` needs `{key}`, which is not set", self.path),
        })
    }

    pub(super) fn needed_text(&self, key: &str) -> Result<String, Problem> {
        let text = self.text(key)?;
        self.needed(key, text)
    }

    /// What is wrong with a value
    pub(super) fn problem(&self, key: &str, text: impl Into<String>) -> Problem {
        Problem {
            origin: self.origin(key),
            text: text.into(),
        }
        .of(&self.path(key))
    }

    /// The place of a key, or of the section where it is not
    pub(super) fn origin(&self, key: &str) -> Option<Origin> {
        self.node(key).or(self.node).map(|node| node.origin.clone())
    }
}
