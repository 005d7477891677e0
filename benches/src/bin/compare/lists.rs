//! Pages of long lists, and how long a start takes before them

use std::time::Instant;

use registry_benches::process::Server;
use registry_benches::report::Measure;
use registry_benches::site::{Kind, Storage};
use registry_benches::stock::{self, list_repositories, list_tags, make_repositories, make_tags};
use registry_benches::{Result, median};

use crate::runner::Runner;

pub(crate) const LISTS: &str = "lists";
pub(crate) const START: &str = "start";
const PAGE: u32 = 100;
/// The repository with many tags; the last of the catalogue
const TAGGED: &str = "tagged/many";

/// A case of the catalogue or of the tags; `later` pages or the first one
pub(crate) fn page(list: &str, entries: u32, later: bool) -> String {
    let which = if later {
        "a later page"
    } else {
        "the first page of a new process"
    };
    format!("{list} of {entries}, {which}")
}

/// The case that is no server's: what has to be read for such a list
pub(crate) fn listing(list: &str, entries: u32) -> String {
    format!("{list} of {entries}, the folders read once")
}

pub(crate) fn measure(runner: &mut Runner) -> Result<()> {
    for entries in runner.sizes.lists {
        let started = start(entries);
        let cases = ["catalog", "tags"].map(|list| {
            [
                page(list, entries, false),
                page(list, entries, true),
                listing(list, entries),
            ]
        });
        let mut names = cases.concat();
        let lists = names.iter().any(|what| runner.wants(LISTS, what));
        names.push(started.clone());
        if !lists && !runner.wants(START, &started) {
            continue;
        }
        eprintln!("{LISTS}: making {entries} repositories and tags");
        let root = runner.site.root()?;
        make_repositories(root.path(), entries)?;
        make_tags(root.path(), TAGGED, entries)?;
        let storage = Storage::Folder(root.path().to_owned());
        if runner.sections.iter().all(|section| section.id != LISTS) {
            let measures = [Measure::less("ms")];
            runner.section(LISTS, "Pages of 100 from long lists", &measures);
            runner.note(
                LISTS,
                "docker-registry 2.8 answers with all tags whatever is asked for. The folders read \
                 once: by this program, in the column of the registry, as what a first page may \
                 cost.",
            );
            runner.section(START, "From start to the first answer", &measures);
        }
        let kinds = runner.site.installed(&Kind::REGISTRIES);
        runner.case(START, &started, &kinds, |site, kind| {
            let started = Instant::now();
            let server = site.start(kind, &storage, false)?;
            ask(&server, "/v2/")?;
            Ok(vec![milliseconds(started)])
        });
        for (list, path, last) in [
            (
                "catalog",
                "/v2/_catalog".to_owned(),
                stock::name as fn(u32) -> String,
            ),
            ("tags", format!("/v2/{TAGGED}/tags/list"), stock::tag),
        ] {
            runner.case(LISTS, &page(list, entries, false), &kinds, |site, kind| {
                let server = site.start(kind, &storage, false)?;
                Ok(vec![ask(&server, &format!("{path}?n={PAGE}"))?])
            });
            runner.case(LISTS, &page(list, entries, true), &kinds, |site, kind| {
                let server = site.start(kind, &storage, false)?;
                ask(&server, &format!("{path}?n={PAGE}"))?;
                let pages = [1, 5, 9].map(|tenth| {
                    let last = last(entries / 10 * tenth);
                    ask(&server, &format!("{path}?n={PAGE}&last={last}"))
                });
                let times = pages.into_iter().collect::<Result<Vec<f64>>>()?;
                Ok(vec![median(times)])
            });
        }
        for list in ["catalog", "tags"] {
            runner.case(LISTS, &listing(list, entries), &[Kind::Ours], |_, _| {
                let time = match list {
                    "tags" => list_tags(root.path(), TAGGED)?,
                    _ => list_repositories(root.path())?,
                };
                Ok(vec![time.as_secs_f64() * 1e3])
            });
        }
    }
    runner.finish();
    Ok(())
}

/// The name of a case
pub(crate) fn start(entries: u32) -> String {
    format!("with {entries} repositories in the store")
}

/// Milliseconds from a request to the end of its answer, over a connection that was there
fn ask(server: &Server, path: &str) -> Result<f64> {
    let mut connection = server.connect()?;
    let started = Instant::now();
    connection.request("GET", path, "")?;
    connection.expect(200)?;
    Ok(milliseconds(started))
}

fn milliseconds(started: Instant) -> f64 {
    started.elapsed().as_secs_f64() * 1e3
}
