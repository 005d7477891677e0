//! The commands that copy a registry to another storage, and that verify one

mod show;

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use registry_auth::rules::RepositoryPattern;
use registry_core::RepositoryName;
use registry_storage::copy::{Copy, CopyError, CopyOptions, Counts, Progress, TagRule, Verify};

use self::show::{Display, Summary};
use crate::config::{self, Config, Driver};
use crate::metrics::Metrics;
use crate::storage::{self, Storage};

/// `registry copy`
#[derive(Clone, Debug, clap::Args)]
#[command(after_long_help = COPY_HELP)]
pub struct CopyArguments {
    /// The configuration of the registry to copy from
    #[arg(long, value_name = "CONFIG")]
    pub from: PathBuf,
    /// The configuration of the registry to copy to
    #[arg(long, value_name = "CONFIG")]
    pub to: PathBuf,
    /// What happens to a tag that points elsewhere at the target
    #[arg(long, value_enum, default_value_t)]
    pub tags: TagsArgument,
    /// Read and hash what is at the target already, and copy again what is damaged there
    #[arg(long)]
    pub verify: bool,
    /// Write nothing, and say what would be copied
    #[arg(long)]
    pub dry_run: bool,
    /// What the copy has in common with `registry verify`
    #[command(flatten)]
    pub scope: Scope,
}

/// `registry verify`
#[derive(Clone, Debug, clap::Args)]
#[command(after_long_help = VERIFY_HELP)]
pub struct VerifyArguments {
    /// The configuration of the registry
    pub config: PathBuf,
    /// What it has in common with `registry copy`
    #[command(flatten)]
    pub scope: Scope,
}

/// What is read, and how
#[derive(Clone, Debug, clap::Args)]
pub struct Scope {
    /// Only these repositories, such as `team/app`, `team/*` or `team/**`; may be given several
    /// times
    #[arg(long, value_name = "PATTERN")]
    pub repository: Vec<RepositoryPattern>,
    /// How many blobs at once
    #[arg(long, value_name = "COUNT", default_value_t = CopyOptions::default().concurrency)]
    pub concurrency: NonZeroUsize,
    /// Print the summary as JSON
    #[arg(long)]
    pub json: bool,
}

/// What happens to a tag that points elsewhere at the target
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum TagsArgument {
    /// It moves if the target is merely behind; what was pushed to the target stays, and is a
    /// problem if the source has moved too
    #[default]
    Forward,
    /// It stays
    Keep,
    /// It moves, whatever was pushed to the target
    Overwrite,
}

const COPY_HELP: &str = "\
Both registries may serve meanwhile. The target is a whole registry at every moment: blobs come
first, then the manifests that need them, then the tags. Every blob is hashed on the way, and one
that is damaged is reported and not copied. If it is interrupted, even by SIGKILL, run it again:
what is there already is not copied again. Nothing is ever deleted, at either side. Do not collect
garbage on either side meanwhile.

Not copied: upload sessions, and content that no repository has.

Only the files say what is copied; variables such as REGISTRY_STORAGE_... would say the same of
both, and are not looked at. Of the files only the storage matters.

To move a registry with hardly a pause:
  registry copy --from old.yml --to new.yml     while the old one serves, for as long as it takes
  set `storage.maintenance.readonly.enabled` of the old one, and restart it
  registry copy --from old.yml --to new.yml     only what has changed
  registry verify new.yml
  serve new.yml

Examples:
  registry copy --from folder.yml --to bucket.yml --dry-run
  registry copy --from folder.yml --to bucket.yml --repository 'team/**' --concurrency 32

The exit status is 0 if all was copied, and 1 if there was any problem; problems are on standard
error, the summary is on standard output.";

const VERIFY_HELP: &str = "\
Reads and hashes every blob and manifest that a repository has, and looks that each manifest has
what it is made of and that each tag points to a manifest. Nothing is written; the registry may
serve meanwhile. Variables such as REGISTRY_STORAGE_... are not looked at.

Examples:
  registry verify registry.yml
  registry verify registry.yml --repository team/app --json

The exit status is 0 if nothing is wrong, and 1 otherwise.";

/// The status of a program that was interrupted from the keyboard, by custom
const INTERRUPTED: u8 = 130;

impl From<TagsArgument> for TagRule {
    fn from(argument: TagsArgument) -> Self {
        match argument {
            TagsArgument::Forward => Self::Forward,
            TagsArgument::Keep => Self::Keep,
            TagsArgument::Overwrite => Self::Overwrite,
        }
    }
}

impl CopyArguments {
    /// Copies, shows how far it has got on standard error, and prints a summary; gives the exit
    /// status
    ///
    /// # Errors
    ///
    /// Why it could not begin or go on, for the operator.
    pub fn run(self) -> Result<u8, String> {
        runtime()?.block_on(async {
            let source = load(&self.from)?;
            let target = load(&self.to)?;
            if source.driver == target.driver {
                return Err(same(&self.from, &self.to));
            }
            must_exist(&source.driver, &self.from)?;
            let from = open(&source, &self.from).await?;
            let to = open(&target, &self.to).await?;
            let options = CopyOptions::default()
                .with_concurrency(self.scope.concurrency)
                .with_tags(self.tags.into())
                .with_verify(self.verify)
                .with_dry_run(self.dry_run);
            let copy = Copy::new(from.driver(), to.driver(), options);
            let copy = match self.scope.filter() {
                Some(filter) => copy.with_repositories(filter),
                None => copy,
            };
            let summary = Summary {
                from: Some(from.description()),
                to: to.description(),
                dry_run: self.dry_run,
            };
            let progress = copy.progress();
            let run = async {
                copy.run().await.map_err(|error| match error {
                    CopyError::Same => same(&self.from, &self.to),
                    error => error.to_string(),
                })
            };
            finish(run, progress, &summary, &self.scope).await
        })
    }
}

impl VerifyArguments {
    /// Reads all of a registry, shows how far it has got on standard error, and prints a summary;
    /// gives the exit status
    ///
    /// # Errors
    ///
    /// Why it could not begin or go on, for the operator.
    pub fn run(self) -> Result<u8, String> {
        runtime()?.block_on(async {
            let config = load(&self.config)?;
            must_exist(&config.driver, &self.config)?;
            let storage = open(&config, &self.config).await?;
            let verify = Verify::new(storage.driver(), self.scope.concurrency);
            let verify = match self.scope.filter() {
                Some(filter) => verify.with_repositories(filter),
                None => verify,
            };
            let summary = Summary {
                from: None,
                to: storage.description(),
                dry_run: false,
            };
            let progress = verify.progress();
            let run = async { verify.run().await.map_err(|error| error.to_string()) };
            finish(run, progress, &summary, &self.scope).await
        })
    }
}

impl Scope {
    fn filter(&self) -> Option<impl Fn(&RepositoryName) -> bool + Send + Sync + 'static> {
        let patterns = self.repository.clone();
        (!patterns.is_empty())
            .then_some(move |name: &RepositoryName| patterns.iter().any(|one| one.matches(name)))
    }
}

/// Runs to the end or to an interruption, shows the progress meanwhile and the summary then
async fn finish(
    run: impl Future<Output = Result<Counts, String>>,
    progress: Arc<Progress>,
    summary: &Summary,
    scope: &Scope,
) -> Result<u8, String> {
    let started = Instant::now();
    let mut display = Display::new(summary, progress.clone());
    let mut run = std::pin::pin!(run);
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    let mut ticks = tokio::time::interval(display.period());
    let ended = loop {
        tokio::select! {
            ended = &mut run => break Some(ended),
            Ok(()) = &mut interrupted => break None,
            _ = ticks.tick() => display.draw(),
        }
    };
    display.end();
    let counts = progress.counts();
    // A rate needs some time.
    let took = started.elapsed().max(Duration::from_millis(1));
    let complete = matches!(ended, Some(Ok(_))) && counts.problems == 0;
    let text = match scope.json {
        true => summary.json(&counts, &progress.problems(0), took, complete),
        false => summary.text(&counts, took),
    };
    // A reader that has gone is no error.
    let _ = io::stdout().write_all(text.as_bytes());
    match ended {
        None => {
            eprintln!("interrupted; run it again to go on");
            Ok(INTERRUPTED)
        }
        Some(Err(error)) => Err(error),
        Some(Ok(_)) if counts.repositories == 0 => Err(match scope.repository.is_empty() {
            true => "there is no repository in this storage; is it the right one?".to_owned(),
            false => "no repository matches the patterns".to_owned(),
        }),
        Some(Ok(_)) if counts.problems > 0 => Err(summary.problems(&counts)),
        Some(Ok(_)) => Ok(0),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the runtime: {error}"))
}

/// What a file says of the storage
fn load(path: &Path) -> Result<config::Storage, String> {
    let (config, _) = Config::load(Some(path), []).map_err(|error| error.to_string())?;
    if config.storage.driver == Driver::Memory {
        return Err(format!(
            "{}: the storage is memory, where nothing stays; name a folder or a bucket",
            path.display()
        ));
    }
    Ok(config.storage)
}

/// A folder that is to be read is not made because its name is mistyped
fn must_exist(driver: &Driver, path: &Path) -> Result<(), String> {
    match driver {
        Driver::Folder(root) if !root.is_dir() => Err(format!(
            "{}: there is no folder `{}` to read",
            path.display(),
            root.display()
        )),
        _ => Ok(()),
    }
}

async fn open(config: &config::Storage, path: &Path) -> Result<Storage, String> {
    let metrics = Arc::new(Metrics::new(storage::driver_name(&config.driver)));
    Storage::open(config, metrics)
        .await
        .map_err(|error| format!("{}: {error}", path.display()))
}

fn same(from: &Path, to: &Path) -> String {
    format!(
        "{} and {} name the same storage; nothing was copied",
        from.display(),
        to.display()
    )
}
