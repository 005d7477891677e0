//! What was measured, as tables, and what was aimed at

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::site::Kind;

/// What a table's numbers are
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measure {
    /// With its unit
    pub name: &'static str,
    /// Whether a higher number is a better one
    pub higher_is_better: bool,
}

/// A table: a row for each case, a column for each server
#[derive(Clone, Debug)]
pub struct Section {
    /// How cases are asked for
    pub id: &'static str,
    /// What a person reads
    pub title: &'static str,
    /// What each cell holds: the first as it is, the second in brackets
    pub measures: Vec<Measure>,
    /// In the order in which they were measured
    pub rows: Vec<Row>,
    /// What to know of it
    pub notes: Vec<String>,
}

/// A case: medians for each server that was measured
#[derive(Clone, Debug)]
pub struct Row {
    /// What a person reads
    pub what: String,
    /// A number for each measure
    pub cells: BTreeMap<Kind, Vec<f64>>,
}

/// Something that was aimed at
#[derive(Clone, Debug)]
pub struct Goal {
    /// What
    pub what: String,
    /// `None` if it was not measured
    pub measured: Option<f64>,
    /// How much it must be
    pub target: Target,
    /// What both numbers are in
    pub unit: &'static str,
}

/// How much something must be
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// This or more
    AtLeast(f64),
    /// This or less
    AtMost(f64),
    /// Less than this
    Under(f64),
}

impl Measure {
    /// More of it is better
    pub const fn more(name: &'static str) -> Self {
        Self {
            name,
            higher_is_better: true,
        }
    }

    /// Less of it is better
    pub const fn less(name: &'static str) -> Self {
        Self {
            name,
            higher_is_better: false,
        }
    }
}

impl Section {
    /// A table without rows
    pub fn new(id: &'static str, title: &'static str, measures: &[Measure]) -> Self {
        Self {
            id,
            title,
            measures: measures.to_vec(),
            rows: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// A number of a case
    pub fn value(&self, what: &str, kind: Kind, measure: usize) -> Option<f64> {
        let row = self.rows.iter().find(|row| row.what == what)?;
        row.cells.get(&kind)?.get(measure).copied()
    }

    /// How many times another's number ours is
    pub fn ratio(&self, what: &str, other: Kind, measure: usize) -> Option<f64> {
        let ours = self.value(what, Kind::Ours, measure)?;
        Some(ours / self.value(what, other, measure)?)
    }

    /// As Markdown, with ratios of ours to each other server
    pub fn markdown(&self) -> String {
        let mut kinds: Vec<Kind> = self
            .rows
            .iter()
            .flat_map(|row| row.cells.keys().copied())
            .collect();
        kinds.sort();
        kinds.dedup();
        let others: Vec<Kind> = match kinds.contains(&Kind::Ours) {
            true => kinds
                .iter()
                .copied()
                .filter(|kind| *kind != Kind::Ours)
                .collect(),
            false => Vec::new(),
        };
        let names: Vec<&str> = self.measures.iter().map(|measure| measure.name).collect();
        let mut text = format!("### {}\n\n", self.title);
        match names.as_slice() {
            [first, rest @ ..] if !rest.is_empty() => {
                let _ = writeln!(text, "In {first}; in brackets {}.\n", rest.join(", "));
            }
            names => {
                let _ = writeln!(text, "In {}.\n", names.concat());
            }
        }
        let mut line = |cells: Vec<String>| {
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        };
        let head = ["case".to_owned()].into_iter();
        let head = head.chain(kinds.iter().map(Kind::to_string));
        let head: Vec<String> = head
            .chain(others.iter().map(|other| format!("registry / {other}")))
            .collect();
        let rule = (0..head.len()).map(|column| if column == 0 { "---" } else { "---:" });
        let rule = rule.map(str::to_owned).collect();
        line(head);
        line(rule);
        for row in &self.rows {
            let mut cells = vec![row.what.clone()];
            for kind in &kinds {
                let numbers = row.cells.get(kind);
                cells.push(numbers.map_or_else(|| "-".to_owned(), |n| bracketed(n, "")));
            }
            for other in &others {
                let ratios: Option<Vec<f64>> = (0..self.measures.len())
                    .map(|measure| self.ratio(&row.what, *other, measure))
                    .collect();
                cells.push(ratios.map_or_else(|| "-".to_owned(), |n| bracketed(&n, "x")));
            }
            line(cells);
        }
        for note in &self.notes {
            let _ = write!(text, "\n{note}\n");
        }
        text
    }
}

impl Goal {
    /// Whether it was met; `None` if it was not measured
    pub fn met(&self) -> Option<bool> {
        let measured = self.measured?;
        Some(match self.target {
            Target::AtLeast(target) => measured >= target,
            Target::AtMost(target) => measured <= target,
            Target::Under(target) => measured < target,
        })
    }

    /// All of them as Markdown
    pub fn markdown(goals: &[Self]) -> String {
        let mut text =
            "### Goals\n\n| goal | measured | target | |\n|---|---:|---:|---|\n".to_owned();
        for goal in goals {
            let unit = goal.unit;
            let measured = match goal.measured {
                Some(number) => format!("{}{unit}", shown(number)),
                None => "-".to_owned(),
            };
            let target = match goal.target {
                Target::AtLeast(target) => format!("at least {target}{unit}"),
                Target::AtMost(target) => format!("at most {target}{unit}"),
                Target::Under(target) => format!("under {target}{unit}"),
            };
            let met = match goal.met() {
                Some(true) => "met",
                Some(false) => "**missed**",
                None => "not measured",
            };
            let _ = writeln!(text, "| {} | {measured} | {target} | {met} |", goal.what);
        }
        text
    }
}

fn bracketed(numbers: &[f64], unit: &str) -> String {
    let mut shown = numbers
        .iter()
        .map(|number| format!("{}{unit}", shown(*number)));
    let first = shown.next().unwrap_or_default();
    let rest: Vec<String> = shown.collect();
    match rest.is_empty() {
        true => first,
        false => format!("{first} ({})", rest.join(", ")),
    }
}

/// Three digits that count, and all before the point
pub fn shown(number: f64) -> String {
    if !number.is_finite() {
        return "-".to_owned();
    }
    match number.abs() {
        large if large >= 999.5 => {
            let digits = format!("{number:.0}");
            let mut text = String::new();
            for (index, digit) in digits.chars().enumerate() {
                let behind = digits.len() - index;
                if index > 0 && behind.is_multiple_of(3) && !text.ends_with('-') {
                    text.push(',');
                }
                text.push(digit);
            }
            text
        }
        // A count has no digits behind the point.
        whole if whole.fract() == 0.0 => format!("{number:.0}"),
        some if some >= 99.95 => format!("{number:.0}"),
        some if some >= 9.995 => format!("{number:.1}"),
        some if some >= 0.0995 => format!("{number:.2}"),
        _ => format!("{number:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section() -> Section {
        let measures = [
            Measure::more("requests a second"),
            Measure::less("us a request"),
        ];
        let mut section = Section::new("requests", "Requests", &measures);
        let cells = [
            (Kind::Ours, vec![60_000.0, 8.0]),
            (Kind::Nginx, vec![40_000.0, 10.0]),
        ];
        section.rows.push(Row {
            what: "a".to_owned(),
            cells: cells.into(),
        });
        section
    }

    #[test]
    fn a_table_has_a_ratio_for_each_other_server() {
        let text = section().markdown();
        assert!(
            text.contains("| case | registry | nginx | registry / nginx |"),
            "{text}"
        );
        assert!(
            text.contains("| a | 60,000 (8) | 40,000 (10) | 1.50x (0.80x) |"),
            "{text}"
        );
    }

    #[test]
    fn a_goal_is_met_missed_or_not_measured() {
        let section = section();
        let goal = |measured, target| Goal {
            what: String::new(),
            measured,
            target,
            unit: "x",
        };
        let ratio = section.ratio("a", Kind::Nginx, 1);
        assert_eq!(goal(ratio, Target::AtMost(1.0)).met(), Some(true));
        assert_eq!(goal(ratio, Target::AtLeast(1.0)).met(), Some(false));
        assert_eq!(goal(Some(2.0), Target::Under(2.0)).met(), Some(false));
        let absent = section.ratio("a", Kind::Distribution, 1);
        assert_eq!(goal(absent, Target::AtMost(1.0)).met(), None);
    }

    #[test]
    fn numbers_show_the_digits_that_count() {
        for (number, text) in [
            (1_234_567.8, "1,234,568"),
            (999.7, "1,000"),
            (123.4, "123"),
            (12.34, "12.3"),
            (1.234, "1.23"),
            (0.0123, "0.0123"),
            (0.0, "0"),
            (80.0, "80"),
            (-1234.0, "-1,234"),
        ] {
            assert_eq!(shown(number), text);
        }
    }
}
