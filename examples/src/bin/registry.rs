//! `registry`: a container registry on a folder

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use registry_auth::htpasswd::{Entry, File, LoadError};
use registry_examples::config::{self, variables};
use registry_examples::copy::{CopyArguments, VerifyArguments};
use registry_examples::directory::DirectoryArguments;
use registry_examples::explain::Question;
use registry_examples::gate::Gate;
use registry_examples::metrics::Metrics;
use registry_examples::password;
use registry_examples::serve::{self, Source};
use registry_examples::storage::{self, Storage};
use registry_examples::store_tags::StoreTags;

/// A container registry on a folder, in distribution's layout
#[derive(Parser)]
#[command(name = "registry", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve a registry (also what happens without a command)
    Serve(ServeArguments),
    /// Look at a configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Ask who may do what
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Fill and change a database of accounts, solutions, catalogues and rights
    Directory(DirectoryArguments),
    /// Copy a whole registry to another storage
    Copy(CopyArguments),
    /// Read all of a registry, and say what is damaged or missing
    Verify(VerifyArguments),
    /// Add a user to a file of users, or change the password; it is read from standard input
    Htpasswd(HtpasswdArguments),
    /// Print the version
    Version,
    /// Print a script that completes commands in a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
}

#[derive(clap::Args, Default)]
struct ServeArguments {
    /// A configuration file in distribution's format (version 0.1)
    config: Option<PathBuf>,
    /// The address to listen on [default: 127.0.0.1:5000]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// The folder to store in [default: ./registry-data]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Print what would be in force, with secrets hidden, and what to know of it
    Check {
        /// The configuration file; without one, what the environment says
        file: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
enum PolicyCommand {
    /// Say whether someone may do something, and why; the status is 0 if so, and 1 if not
    Explain(ExplainArguments),
}

#[derive(clap::Args)]
struct ExplainArguments {
    /// The configuration file; without one, what the environment says
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    question: Question,
}

#[derive(clap::Args)]
struct HtpasswdArguments {
    /// The file, which is made if it is not there
    file: PathBuf,
    /// The user
    user: String,
    /// How dear a guess is: each step, from 4 to 17, doubles the work
    #[arg(long, default_value_t = Entry::DEFAULT_COST)]
    cost: u32,
    /// Remove the user instead
    #[arg(long)]
    delete: bool,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if !error.use_stderr() => {
            // `--help` and `--version`
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            eprintln!("{line}; see `registry --help`");
            return ExitCode::from(2);
        }
    };
    let command = arguments
        .command
        .unwrap_or_else(|| Command::Serve(ServeArguments::default()));
    let result = match command {
        Command::Serve(arguments) => serve(arguments),
        Command::Config(ConfigCommand::Check { file }) => check(file),
        Command::Policy(PolicyCommand::Explain(arguments)) => match explain(arguments) {
            Ok(true) => Ok(()),
            Ok(false) => return ExitCode::FAILURE,
            Err(error) => Err(error),
        },
        Command::Directory(arguments) => arguments
            .run()
            .map_err(|error| error.to_string())
            .and_then(|text| print(&text)),
        Command::Copy(arguments) => match arguments.run() {
            Ok(status) => return status.into(),
            Err(error) => Err(error),
        },
        Command::Verify(arguments) => match arguments.run() {
            Ok(status) => return status.into(),
            Err(error) => Err(error),
        },
        Command::Htpasswd(arguments) => htpasswd(&arguments),
        Command::Version => print(&format!("registry {}\n", env!("CARGO_PKG_VERSION"))),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "registry", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: ServeArguments) -> Result<(), String> {
    let ServeArguments {
        config,
        listen,
        root,
    } = arguments;
    let source = Source {
        path: config,
        listen,
        root,
    };
    keep_buffers();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the runtime: {error}"))?;
    runtime
        .block_on(serve::run(source))
        .map_err(|error| error.to_string())
}

/// How much free memory at the end of a heap is kept for what comes next, in bytes
const KEPT: usize = 2 * 1024 * 1024;

/// Has the C library keep memory for the buffers of a few bodies
///
/// What is free at the end of one of its heaps glibc gives back to the system as soon as that is
/// twice as much as the largest block which it ever got from the system by itself and gave back.
/// By default that is less than the buffers of one upload, which were given back, asked for and
/// cleared page by page, again and again. Other libraries are not impressed.
fn keep_buffers() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(KEPT / 2)));
}

fn check(file: Option<PathBuf>) -> Result<(), String> {
    let text = config::check(file.as_deref(), variables()).map_err(|error| error.to_string())?;
    print(&text)
}

/// Prints a decision, and gives whether it is an allow
fn explain(arguments: ExplainArguments) -> Result<bool, String> {
    let (mut config, _) = config::Config::load(arguments.config.as_deref(), variables())
        .map_err(|error| error.to_string())?;
    // No token is asked for here, and to open its issuer may make a key.
    config.registry.tokens = None;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the runtime: {error}"))?;
    let tags = Arc::new(StoreTags::default());
    let gate = {
        let _entered = runtime.enter();
        Gate::open(&config, tags.clone()).map_err(|error| error.to_string())?
    };
    // Only content is looked up in the storage, which need not be there for the rest.
    if arguments.question.digest.is_some() {
        let metrics = Arc::new(Metrics::new(storage::driver_name(&config.storage.driver)));
        let storage = runtime.block_on(Storage::open(&config.storage, metrics));
        tags.set(storage.map_err(|error| error.to_string())?.store());
    }
    let answer = runtime.block_on(arguments.question.ask(gate.explainer.as_ref()))?;
    print(&answer.text)?;
    Ok(answer.allow)
}

fn htpasswd(arguments: &HtpasswdArguments) -> Result<(), String> {
    let HtpasswdArguments {
        file: path,
        user,
        cost,
        delete,
    } = arguments;
    let file = match File::load(path) {
        Ok(file) => file,
        Err(LoadError::Missing { .. }) if !delete => File::default(),
        Err(error) => return Err(error.to_string()),
    };
    let known = file.contains(user);
    let (file, done) = if *delete {
        let without = file
            .without(user)
            .ok_or_else(|| format!("`{}` has no user `{user}`", path.display()))?;
        (without, "removed from")
    } else {
        let entry = Entry::new(user, &password::read(user)?, *cost);
        let file = file.with(entry.map_err(|error| error.to_string())?);
        (file, if known { "changed in" } else { "added to" })
    };
    file.save(path).map_err(|error| error.to_string())?;
    print(&format!("{user} {done} {}\n", path.display()))
}

/// Prints; a reader that has gone is no error
fn print(text: &str) -> Result<(), String> {
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(())
}
