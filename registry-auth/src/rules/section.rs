//! A rule list as a section of a configuration

use std::fmt;
use std::str::FromStr;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::rule::{Rule, RuleError, WordError};
use super::{MAX_RULES, PatternError, RuleList, RuleListError};

impl<'de> Deserialize<'de> for RuleList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let section = Section::deserialize(deserializer)?;
        let list = Self::new(section.rules.0).map_err(D::Error::custom)?;
        Ok(list.with_hidden(section.hidden))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    rules: Rules,
    #[serde(default)]
    hidden: bool,
}

/// The rules, read one by one, so that an error says which one it is in
struct Rules(Vec<Rule>);

impl<'de> Deserialize<'de> for Rules {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(RulesVisitor)
    }
}

struct RulesVisitor;

impl<'de> Visitor<'de> for RulesVisitor {
    type Value = Rules;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of rules")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Rules, A::Error> {
        let mut rules = Vec::new();
        loop {
            let number = rules.len() + 1;
            let entry = entries
                .next_element::<Entry>()
                .map_err(|error| A::Error::custom(format_args!("rule {number}: {error}")))?;
            let Some(entry) = entry else {
                return Ok(Rules(rules));
            };
            // Before what is too long is all read.
            if number > MAX_RULES {
                return Err(A::Error::custom(RuleListError::TooMany { count: number }));
            }
            let name = entry.name.clone();
            rules.push(entry.read().map_err(|error| {
                A::Error::custom(RuleListError::Rule {
                    number,
                    name,
                    error,
                })
            })?);
        }
    }
}

/// A rule as it is written
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    effect: String,
    subjects: Vec<String>,
    #[serde(default)]
    repositories: Vec<String>,
    actions: Vec<String>,
    #[serde(default)]
    tags: Option<Vec<String>>,
    #[serde(default)]
    hidden: bool,
}

impl Entry {
    fn read(self) -> Result<Rule, RuleError> {
        // An empty list would mean all content, the opposite of what it looks like.
        if self.tags.as_ref().is_some_and(Vec::is_empty) {
            return Err(RuleError::Tagless);
        }
        Ok(Rule {
            name: self.name,
            effect: word("effect", &self.effect)?,
            subjects: words("subjects", &self.subjects)?,
            repositories: patterns("repositories", &self.repositories)?,
            actions: words("actions", &self.actions)?,
            tags: patterns("tags", &self.tags.unwrap_or_default())?,
            hidden: self.hidden,
        })
    }
}

fn word<T: FromStr<Err = WordError>>(field: &'static str, text: &str) -> Result<T, RuleError> {
    text.parse()
        .map_err(|error| RuleError::Word { field, error })
}

fn words<T: FromStr<Err = WordError>>(
    field: &'static str,
    texts: &[String],
) -> Result<Vec<T>, RuleError> {
    texts.iter().map(|text| word(field, text)).collect()
}

fn patterns<T: FromStr<Err = PatternError>>(
    field: &'static str,
    texts: &[String],
) -> Result<Vec<T>, RuleError> {
    let read = |text: &String| {
        text.parse()
            .map_err(|error| RuleError::Pattern { field, error })
    };
    texts.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(rules: &str) -> String {
        serde_json::from_str::<RuleList>(&format!(r#"{{"rules": [{rules}]}}"#))
            .unwrap_err()
            .to_string()
    }

    const GOOD: &str = r#"{"name": "all", "effect": "allow", "subjects": ["anyone"], "repositories": ["**"], "actions": ["pull"]}"#;

    #[test]
    fn a_mistake_is_named_with_its_rule_and_field() {
        for (from, to, expected) in [
            (
                r#""actions": "#,
                r#""action": "#,
                "rule 2: unknown field `action`",
            ),
            (
                r#""subjects": ["anyone"], "#,
                "",
                "rule 2: missing field `subjects`",
            ),
            (
                r#"["anyone"]"#,
                r#"["ada"]"#,
                "rule 2 (`new`): `subjects`: expected `anyone`, `anonymous`",
            ),
            (
                r#"["anyone"]"#,
                r#"["user:"]"#,
                "rule 2 (`new`): `subjects`: expected `anyone`",
            ),
            (
                r#"["anyone"]"#,
                "[]",
                "rule 2 (`new`): expected at least one of `subjects`",
            ),
            (
                r#""allow""#,
                r#""permit""#,
                "rule 2 (`new`): `effect`: expected `allow` or `deny`, got `permit`",
            ),
            (
                r#"["pull"]"#,
                r#"["read"]"#,
                "rule 2 (`new`): `actions`: expected `pull`",
            ),
            (
                r#"["pull"]"#,
                "[]",
                "rule 2 (`new`): expected at least one of `actions`",
            ),
            (
                r#"["**"]"#,
                r#"["Team/*"]"#,
                "rule 2 (`new`): `repositories`: expected components",
            ),
            (
                r#"["**"]"#,
                "[]",
                "rule 2 (`new`): expected at least one of `repositories`",
            ),
            (
                r#""actions": ["#,
                r#""tags": [], "actions": ["#,
                "rule 2 (`new`): expected at least one of `tags`",
            ),
            (
                r#""actions": ["#,
                r#""tags": ["a/b"], "actions": ["#,
                "rule 2 (`new`): `tags`: expected a letter",
            ),
            (
                r#""actions": ["#,
                r#""hidden": true, "actions": ["#,
                "rule 2 (`new`): `hidden` is for rules that deny",
            ),
            (
                r#"["**"], "actions": ["#,
                r#"["team/*"], "actions": ["catalog", "#,
                "rule 2 (`new`): `catalog` lists all",
            ),
            (
                r#""actions": ["#,
                r#""tags": ["v*"], "actions": ["catalog", "#,
                "rule 2 (`new`): `catalog` lists all",
            ),
            (
                r#""new""#,
                r#""all""#,
                "rule 2 (`all`): rule 1 has this name too",
            ),
            (
                r#""new""#,
                r#""default""#,
                "rule 2 (`default`): expected a name of 1 to 128 bytes",
            ),
            (r#""new""#, r#""""#, "rule 2 (``): expected a name"),
            (r#""new""#, r#""a\nb""#, "rule 2 (`a\\nb`): expected a name"),
        ] {
            let new = GOOD.replace(r#""all""#, r#""new""#);
            let changed = new.replace(from, to);
            assert_ne!(new, changed, "{from}");
            let error = error(&format!("{GOOD}, {changed}"));
            assert!(error.starts_with(expected), "{error}\n{expected}");
        }
        let unknown = serde_json::from_str::<RuleList>(r#"{"rules": [], "default": "allow"}"#);
        assert!(
            unknown
                .unwrap_err()
                .to_string()
                .starts_with("unknown field `default`")
        );
    }

    #[test]
    fn there_is_a_limit_to_the_rules() {
        let rules = |count: usize| {
            let rule = |number: usize| GOOD.replace(r#""all""#, &format!("\"{number}\""));
            let rules: Vec<_> = (0..count).map(rule).collect();
            serde_json::from_str::<RuleList>(&format!(r#"{{"rules": [{}]}}"#, rules.join(",")))
        };
        assert_eq!(rules(MAX_RULES).unwrap().rules().len(), MAX_RULES);
        let many = rules(MAX_RULES + 1).unwrap_err().to_string();
        assert!(
            many.starts_with("expected at most 10000 rules, got 10001"),
            "{many}"
        );
        let users = vec!["\"user:a\""; 1_001].join(",");
        let error = error(&GOOD.replace("\"anyone\"", &users));
        assert!(
            error.contains("at most 1000 `subjects`, got 1001"),
            "{error}"
        );
    }
}
