//! Rounds that take turns, and what they gave

use std::collections::BTreeMap;
use std::time::Duration;

use registry_benches::content::Blob;
use registry_benches::load::{Load, Outcome};
use registry_benches::process::Server;
use registry_benches::report::{Measure, Row, Section};
use registry_benches::s3::Program;
use registry_benches::site::{Kind, Site};
use registry_benches::{Result, median};

/// The repository that everything is in
pub(crate) const REPOSITORY: &str = "bench/app";

/// What is measured, and how
pub(crate) struct Runner {
    pub(crate) site: Site,
    pub(crate) rounds: usize,
    pub(crate) duration: Duration,
    pub(crate) sizes: Sizes,
    /// The S3 server to start, if one was asked for
    pub(crate) store: Option<Program>,
    pub(crate) only: String,
    pub(crate) sections: Vec<Section>,
    /// What went wrong
    pub(crate) notes: Vec<String>,
}

/// How much content there is
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) small: u64,
    pub(crate) medium: u64,
    pub(crate) large: u64,
    /// How many blobs of 4 KiB
    pub(crate) many: usize,
    /// How many clients pull while memory is looked at
    pub(crate) crowd: usize,
    /// Numbers of repositories and of tags, the larger one last
    pub(crate) lists: [u32; 2],
}

impl Sizes {
    /// What the goals are about
    pub(crate) const WHOLE: Self = Self {
        small: 1 << 20,
        medium: 64 << 20,
        large: 1 << 30,
        many: 1_000,
        crowd: 1_000,
        lists: [10_000, 100_000],
    };
    /// Enough to see that everything works
    pub(crate) const QUICK: Self = Self {
        small: 1 << 20,
        medium: 16 << 20,
        large: 64 << 20,
        many: 100,
        crowd: 100,
        lists: [1_000, 3_000],
    };
}

/// `64 MiB`, `1 GiB`
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        bytes if bytes >= 1 << 30 => format!("{} GiB", bytes >> 30),
        bytes if bytes >= 1 << 20 => format!("{} MiB", bytes >> 20),
        bytes => format!("{} KiB", bytes >> 10),
    }
}

/// `1 client`, `8 clients`
pub(crate) fn clients(count: usize) -> String {
    match count {
        1 => "1 client".to_owned(),
        count => format!("{count} clients"),
    }
}

impl Runner {
    /// Whether a case was asked for
    pub(crate) fn wants(&self, section: &str, what: &str) -> bool {
        format!("{section}: {what}")
            .to_lowercase()
            .contains(&self.only)
    }

    /// A table that cases are added to
    pub(crate) fn section(&mut self, id: &'static str, title: &'static str, measures: &[Measure]) {
        self.sections.push(Section::new(id, title, measures));
    }

    /// Measures a case on each server in turn, round after round, if it was asked for
    ///
    /// A server that fails is noted, and has no numbers.
    pub(crate) fn case(
        &mut self,
        id: &str,
        what: &str,
        servers: &[Kind],
        mut work: impl FnMut(&Site, Kind) -> Result<Vec<f64>>,
    ) {
        if !self.wants(id, what) {
            return;
        }
        let name = format!("{id}: {what}");
        eprintln!("{name}");
        let mut rounds: BTreeMap<Kind, Vec<Vec<f64>>> = BTreeMap::new();
        let mut failed = Vec::new();
        for _ in 0..self.rounds {
            for kind in servers {
                if failed.contains(kind) {
                    continue;
                }
                match work(&self.site, *kind) {
                    Ok(numbers) => rounds.entry(*kind).or_default().push(numbers),
                    Err(error) => {
                        failed.push(*kind);
                        let note = format!("{name}: {kind} failed: {error}");
                        eprintln!("{note}");
                        self.notes.push(note);
                    }
                }
            }
        }
        rounds.retain(|kind, _| !failed.contains(kind));
        let cells = rounds
            .into_iter()
            .map(|(kind, rounds)| (kind, medians(&rounds)));
        let row = Row {
            what: what.to_owned(),
            cells: cells.collect(),
        };
        self.row(id, row);
    }

    /// Adds a case that was measured in another way
    pub(crate) fn row(&mut self, id: &str, row: Row) {
        let mut sections = self.sections.iter_mut();
        if let Some(section) = sections.find(|section| section.id == id) {
            section.rows.push(row);
        }
    }

    /// Puts a load on each server in turn
    pub(crate) fn load(
        &mut self,
        id: &str,
        what: &str,
        servers: &[(Kind, Server)],
        load: &Load,
        numbers: fn(&Outcome) -> Vec<f64>,
    ) {
        let kinds: Vec<Kind> = servers.iter().map(|(kind, _)| *kind).collect();
        self.case(id, what, &kinds, |_, kind| {
            let server = servers.iter().find(|(known, _)| *known == kind);
            let (_, server) = server.ok_or("it was not started")?;
            Ok(numbers(&load.put_on(server)?))
        });
    }

    /// Something to know of a table
    pub(crate) fn note(&mut self, id: &str, text: impl Into<String>) {
        let mut sections = self.sections.iter_mut();
        if let Some(section) = sections.find(|section| section.id == id) {
            section.notes.push(text.into());
        }
    }

    /// Drops tables without rows: nothing of them was asked for
    pub(crate) fn finish(&mut self) {
        self.sections.retain(|section| !section.rows.is_empty());
    }

    /// A number that was measured
    pub(crate) fn value(&self, id: &str, what: &str, kind: Kind, measure: usize) -> Option<f64> {
        self.find(id)?.value(what, kind, measure)
    }

    /// How many times another's number ours is
    pub(crate) fn ratio(&self, id: &str, what: &str, other: Kind, measure: usize) -> Option<f64> {
        self.find(id)?.ratio(what, other, measure)
    }

    fn find(&self, id: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.id == id)
    }

    /// What a pull of each size asks for
    pub(crate) fn blobs(&self) -> [Blob; 3] {
        let Sizes {
            small,
            medium,
            large,
            ..
        } = self.sizes;
        [
            Blob::new(1, small),
            Blob::new(2, medium),
            Blob::new(3, large),
        ]
    }
}

/// Requests a second, and what one costs the server in microseconds
pub(crate) fn per_request(outcome: &Outcome) -> Vec<f64> {
    vec![outcome.rate(), outcome.cpu_per_request()]
}

/// GB a second, and what a GiB costs the server in milliseconds
pub(crate) fn per_gibibyte(outcome: &Outcome) -> Vec<f64> {
    vec![outcome.throughput(), outcome.cpu_per_gibibyte()]
}

fn medians(rounds: &[Vec<f64>]) -> Vec<f64> {
    let measures = rounds.first().map_or(0, Vec::len);
    (0..measures)
        .map(|measure| median(rounds.iter().map(|numbers| numbers[measure]).collect()))
        .collect()
}
