//! Each rule has a test or a reason to have none, and not both

use std::collections::BTreeSet;
use std::path::Path;

/// The rules that there are
fn rules() -> BTreeSet<String> {
    let numbered =
        |prefix: &'static str, last: u32| (1..=last).map(move |number| format!("{prefix}{number}"));
    numbered("", 101)
        .chain(numbered("D", 13))
        .chain(numbered("A", 14))
        .chain(numbered("Q", 21))
        .collect()
}

/// The rules that tests are named after: `row_005_…` is 5, `row_d01_…` is D1
fn tested() -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rows");
    let mut rules = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let source = std::fs::read_to_string(&path).unwrap();
        let mut before = "";
        for line in source.lines() {
            if let Some(name) = line.strip_prefix("async fn row_") {
                assert!(before.starts_with("#[tokio::test"), "no test: {line}");
                rules.insert(rule_of(name));
            }
            before = line;
        }
    }
    rules
}

fn rule_of(name: &str) -> String {
    let number = name.split('_').next().unwrap();
    let prefix = number.trim_end_matches(|digit: char| digit.is_ascii_digit());
    let digits = &number[prefix.len()..];
    let width = if prefix.is_empty() { 3 } else { 2 };
    assert_eq!(digits.len(), width, "row_{name}");
    format!(
        "{}{}",
        prefix.to_uppercase(),
        digits.parse::<u32>().unwrap()
    )
}

/// The rules in the table, each with a reason
fn not_applicable() -> BTreeSet<String> {
    let mut rules = BTreeSet::new();
    for line in include_str!("../../src/rows.md").lines() {
        let Some(row) = line.strip_prefix("| ") else {
            continue;
        };
        let (rule, reason) = row.split_once(" | ").unwrap();
        if rule == "rule" {
            continue;
        }
        assert!(reason.len() > 20, "{line}");
        assert!(rules.insert(rule.to_owned()), "{rule} is there twice");
    }
    rules
}

#[test]
fn every_rule_has_a_test_or_a_reason() {
    let (rules, tested, excused) = (rules(), tested(), not_applicable());
    let both: Vec<_> = tested.intersection(&excused).collect();
    assert!(both.is_empty(), "with a test and in the table: {both:?}");
    let covered: BTreeSet<String> = tested.union(&excused).cloned().collect();
    let missing: Vec<_> = rules.difference(&covered).collect();
    assert!(
        missing.is_empty(),
        "without a test and not in the table: {missing:?}"
    );
    let unknown: Vec<_> = covered.difference(&rules).collect();
    assert!(unknown.is_empty(), "no such rule: {unknown:?}");
}
