//! What an operator sees of a copy: a bar or lines under way, a summary at the end

use std::collections::VecDeque;
use std::fmt::Write;
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, HumanDuration, ProgressBar, ProgressStyle};
use registry_storage::copy::{Counts, Problem, Progress};
use serde_json::json;

/// How often a bar is drawn
const FRAME: Duration = Duration::from_millis(100);

/// How often a line is written where there is no terminal
const LINE: Duration = Duration::from_secs(10);

/// The time of which the rate is the mean
const WINDOW: Duration = Duration::from_secs(10);

/// What is copied, or verified
pub(super) struct Summary {
    /// `None` if nothing is copied
    pub(super) from: Option<String>,
    pub(super) to: String,
    pub(super) dry_run: bool,
}

impl Summary {
    /// What was done, in lines for people
    pub(super) fn text(&self, counts: &Counts, took: Duration) -> String {
        let count = HumanCount;
        let mut text = match (&self.from, self.dry_run) {
            (Some(from), false) => format!("copied from {from}\n         to {}\n", self.to),
            (Some(from), true) => {
                format!(
                    "would be copied from {from}\n                  to {}\n",
                    self.to
                )
            }
            (None, _) => format!("verified {}\n", self.to),
        };
        let mut line = |name: &str, words: String| {
            // A `String` takes everything.
            let _ = writeln!(text, "{name:<13} {words}");
        };
        line("repositories", count(counts.repositories).to_string());
        let bytes = HumanBytes(counts.bytes);
        if self.from.is_none() {
            line("manifests", count(counts.manifests).to_string());
            line("tags", count(counts.tags).to_string());
            line("blobs", format!("{} ({bytes})", count(counts.blobs)));
        } else {
            line(
                "manifests",
                format!(
                    "{} copied, {} there already",
                    count(counts.manifests),
                    count(counts.manifests_present)
                ),
            );
            line(
                "tags",
                format!(
                    "{} new, {} moved, {} there already, {} left as the target has them",
                    count(counts.tags),
                    count(counts.tags_moved),
                    count(counts.tags_present),
                    count(counts.tags_kept)
                ),
            );
            line(
                "blobs",
                format!(
                    "{} copied ({bytes}), {} there already ({})",
                    count(counts.blobs),
                    count(counts.blobs_present),
                    HumanBytes(counts.bytes_present)
                ),
            );
        }
        if counts.dangling > 0 {
            line(
                "left out",
                format!(
                    "{} layers that are listed, gone, and needed by no manifest",
                    count(counts.dangling)
                ),
            );
        }
        line("problems", count(counts.problems).to_string());
        let rate = match self.dry_run {
            true => String::new(),
            false => format!(", {}/s", HumanBytes(per_second(counts.bytes, took))),
        };
        line("time", format!("{:.1} s{rate}", took.as_secs_f64()));
        text
    }

    /// The same for programs; `complete` says whether all is well
    pub(super) fn json(
        &self,
        counts: &Counts,
        problems: &[Arc<Problem>],
        took: Duration,
        complete: bool,
    ) -> String {
        let problems: Vec<_> = problems
            .iter()
            .map(|problem| json!({ "kind": problem.kind(), "message": problem.to_string() }))
            .collect();
        let mut value = json!({
            "complete": complete,
            "repositories": counts.repositories,
            "danglingLayers": counts.dangling,
            "problemCount": counts.problems,
            "problems": problems,
            "seconds": took.as_secs_f64(),
            "bytesPerSecond": per_second(counts.bytes, took),
        });
        match &self.from {
            Some(from) => {
                value["from"] = json!(from);
                value["to"] = json!(self.to);
                value["dryRun"] = json!(self.dry_run);
                value["manifests"] = json!({
                    "copied": counts.manifests,
                    "present": counts.manifests_present,
                });
                value["tags"] = json!({
                    "new": counts.tags,
                    "moved": counts.tags_moved,
                    "present": counts.tags_present,
                    "kept": counts.tags_kept,
                });
                value["blobs"] = json!({
                    "copied": counts.blobs,
                    "copiedBytes": counts.bytes,
                    "present": counts.blobs_present,
                    "presentBytes": counts.bytes_present,
                });
            }
            None => {
                value["storage"] = json!(self.to);
                value["manifests"] = json!(counts.manifests);
                value["tags"] = json!(counts.tags);
                value["blobs"] = json!({ "count": counts.blobs, "bytes": counts.bytes });
            }
        }
        format!("{value:#}\n")
    }

    /// Why the status is 1
    pub(super) fn problems(&self, counts: &Counts) -> String {
        let what = match counts.problems {
            1 => "1 problem, which is".to_owned(),
            count => format!("{} problems, which are", HumanCount(count)),
        };
        match self.from {
            Some(_) => format!("{what} above; everything else is at the target"),
            None => format!("{what} above; everything else is whole"),
        }
    }
}

/// Shows on standard error how far it has got, and each problem as it comes
pub(super) struct Display {
    progress: Arc<Progress>,
    /// `None` where there is no terminal
    bar: Option<ProgressBar>,
    /// What is being done, in one word
    word: &'static str,
    said: usize,
    /// When how many bytes had been moved
    samples: VecDeque<(Instant, u64)>,
    begun: bool,
}

impl Display {
    pub(super) fn new(summary: &Summary, progress: Arc<Progress>) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(1);
            // Checked by a test; a bar without its style would still say all.
            if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar
        });
        Self {
            progress,
            bar,
            word: match (&summary.from, summary.dry_run) {
                (Some(_), false) => "copied",
                (Some(_), true) => "looked at",
                (None, _) => "verified",
            },
            said: 0,
            samples: VecDeque::new(),
            begun: false,
        }
    }

    /// How often to draw
    pub(super) fn period(&self) -> Duration {
        match self.bar {
            Some(_) => FRAME,
            None => LINE,
        }
    }

    pub(super) fn draw(&mut self) {
        self.say_problems();
        let counts = self.progress.counts();
        let rate = self.rate(&counts);
        match &self.bar {
            Some(bar) => {
                let (done, total) = fraction(&counts);
                bar.set_length(total);
                bar.set_position(done);
                bar.set_message(line(&counts, rate));
                bar.tick();
            }
            // Nothing to tell at the first moment.
            None if self.begun => eprintln!("{} {}", self.word, line(&counts, rate)),
            None => self.begun = true,
        }
    }

    pub(super) fn end(&mut self) {
        self.say_problems();
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn say_problems(&mut self) {
        for problem in self.progress.problems(self.said) {
            self.said += 1;
            match &self.bar {
                Some(bar) => bar.suspend(|| eprintln!("problem: {problem}")),
                None => eprintln!("problem: {problem}"),
            }
        }
    }

    /// Bytes per second of late
    fn rate(&mut self, counts: &Counts) -> u64 {
        let now = Instant::now();
        self.samples.push_back((now, counts.bytes));
        while self.samples.len() > 2
            && let Some((then, _)) = self.samples.front()
            && now - *then > WINDOW
        {
            self.samples.pop_front();
        }
        match self.samples.front() {
            Some((then, bytes)) if now > *then => {
                per_second(counts.bytes.saturating_sub(*bytes), now - *then)
            }
            _ => 0,
        }
    }
}

const TEMPLATE: &str = "[{bar:24}] {percent:>3} % {wide_msg}";

/// How much of how much is done, in bytes; a blob without any counts too, and so do manifests
fn fraction(counts: &Counts) -> (u64, u64) {
    let Some(total) = counts.total else {
        return (0, 1);
    };
    let weigh = |bytes: u64, things: u64| bytes + things * 1024;
    let done = weigh(
        counts.bytes + counts.bytes_present,
        counts.blobs + counts.blobs_present + counts.manifests + counts.manifests_present,
    );
    let total = weigh(total.bytes, total.blobs + total.manifests).max(1);
    (done.min(total), total)
}

/// `1.20 GiB of 4.00 GiB, 812 of 2,301 blobs, 14 of 52 repositories, 182.30 MiB/s, 15 s left`
fn line(counts: &Counts, rate: u64) -> String {
    let bytes = counts.bytes + counts.bytes_present;
    let blobs = counts.blobs + counts.blobs_present;
    let mut line = String::new();
    // A `String` takes everything.
    let _ = match counts.total {
        Some(total) => write!(
            line,
            "{} of {}, {} of {} blobs, {} of {} repositories",
            HumanBytes(bytes),
            HumanBytes(total.bytes),
            HumanCount(blobs),
            HumanCount(total.blobs),
            HumanCount(counts.repositories),
            HumanCount(total.repositories),
        ),
        None => write!(
            line,
            "{}, {} blobs, {} repositories, still counting",
            HumanBytes(bytes),
            HumanCount(blobs),
            HumanCount(counts.repositories)
        ),
    };
    let _ = write!(line, ", {}/s", HumanBytes(rate));
    if let Some(total) = counts.total
        && let Some(seconds) = total.bytes.saturating_sub(bytes).checked_div(rate)
    {
        let _ = write!(
            line,
            ", {} left",
            HumanDuration(Duration::from_secs(seconds))
        );
    }
    if counts.problems > 0 {
        let _ = write!(line, ", {} problems", HumanCount(counts.problems));
    }
    line
}

fn per_second(bytes: u64, time: Duration) -> u64 {
    (bytes as f64 / time.as_secs_f64()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_has_its_style() {
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
    }
}
