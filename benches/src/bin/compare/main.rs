//! The registry beside Debian's docker-registry and nginx: the same load on each, round after round
//!
//! ```text
//! cargo build --release
//! cargo run --release -p registry-benches --bin compare -- [--quick] [--only PATTERN] [--check]
//! ```
//!
//! Starts the `registry` that lies beside this program, docker-registry and nginx on free ports and
//! temporary folders, each with the configuration that its makers recommend and a log of its
//! requests in a file. Measures each case on one server after the other, several rounds long, and
//! writes medians, ratios, what was aimed at and a plot. A peer that is not installed is said.
//!
//! What the numbers of one machine are worth: the ratios, and only on a machine that does nothing
//! else meanwhile.

mod goals;
mod images;
mod lists;
mod memory;
mod pulls;
mod pushes;
mod requests;
mod runner;
mod s3;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use registry_benches::Result;
use registry_benches::machine;
use registry_benches::plot::svg;
use registry_benches::report::Goal;
use registry_benches::s3::Program;
use registry_benches::site::{Kind, Site};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::runner::{Runner, Sizes};

/// The registry beside docker-registry and nginx, under the same load
#[derive(Parser)]
struct Arguments {
    /// How many rounds a case has
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long a round of requests or pulls is, in seconds
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Three short rounds and less content: to see that everything works, not how fast it is
    #[arg(long)]
    quick: bool,
    /// Only the cases whose `section: case` contains this; without capitals
    #[arg(long, value_name = "PATTERN", default_value = "")]
    only: String,
    /// The folder to write `compare.md` and `compare.svg` to
    #[arg(long, value_name = "DIR", default_value = "target/compare")]
    output: PathBuf,
    /// The S3 server to start [default: the fastest that is installed]
    #[arg(long, value_name = "PROGRAM")]
    store: Option<Store>,
    /// End with status 1 if a goal was missed
    #[arg(long)]
    check: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Store {
    Garage,
    Moto,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    // A thousand clients are a thousand files, here and in each server.
    let files = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: files.maximum,
        ..files
    };
    setrlimit(Resource::Nofile, raised)?;
    let site = Site::open()?;
    for missing in &site.missing {
        println!("note: {missing}");
    }
    let mut facts = machine::describe(&std::env::temp_dir());
    let versions = Kind::ALL.into_iter().filter_map(|kind| site.version(kind));
    facts.push(versions.collect::<Vec<_>>().join(", "));
    if cfg!(debug_assertions) {
        facts.push("**built without optimization: these numbers say nothing**".to_owned());
    }
    let (rounds, seconds, sizes) = match arguments.quick {
        true => (3, 0.3, Sizes::QUICK),
        false => (arguments.rounds.max(1), arguments.seconds, Sizes::WHOLE),
    };
    facts.push(format!(
        "medians of {rounds} rounds; requests and pulls for {seconds} s a round{}",
        if arguments.quick {
            " (quick: too short to judge by)"
        } else {
            ""
        }
    ));
    let mut runner = Runner {
        site,
        rounds,
        duration: Duration::from_secs_f64(seconds),
        sizes,
        store: arguments.store.map(|store| match store {
            Store::Garage => Program::Garage,
            Store::Moto => Program::Moto,
        }),
        only: arguments.only.to_lowercase(),
        sections: Vec::new(),
        notes: Vec::new(),
    };
    requests::measure(&mut runner)?;
    pulls::measure(&mut runner)?;
    pushes::measure(&mut runner)?;
    images::measure(&mut runner)?;
    memory::measure(&mut runner)?;
    lists::measure(&mut runner)?;
    s3::measure(&mut runner)?;

    let mut goals = goals::goals(&runner);
    // Who asked for some cases knows that the others were not measured.
    goals.retain(|goal| goal.measured.is_some() || runner.only.is_empty());
    let mut text = "## Side by side\n\n".to_owned();
    for fact in facts {
        text.push_str(&format!("- {fact}\n"));
    }
    for note in runner.site.missing.iter().chain(&runner.notes) {
        text.push_str(&format!("- note: {note}\n"));
    }
    text.push_str("\n![The registry beside its peers](compare.svg)\n\n");
    if !goals.is_empty() {
        text.push_str(&Goal::markdown(&goals));
    }
    for section in &runner.sections {
        text.push('\n');
        text.push_str(&section.markdown());
    }
    fs::create_dir_all(&arguments.output)?;
    let (tables, plot) = ("compare.md", "compare.svg");
    fs::write(arguments.output.join(tables), &text)?;
    let picture = svg("The registry beside its peers", &goals::panels(&runner));
    fs::write(arguments.output.join(plot), picture)?;
    println!("\n{text}");
    println!(
        "written to {}: {tables}, {plot}",
        arguments.output.display()
    );
    let missed = goals.iter().any(|goal| goal.met() == Some(false));
    Ok(match arguments.check && missed {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}
