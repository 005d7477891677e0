//! `docker-proxy`: the door to the images of an Acumos platform, with a lock on it

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use registry_examples::config::proxy::{self as config, Overrides, variables};
use registry_examples::directory::DirectoryArguments;
use registry_examples::explain::Question;
use registry_examples::proxy::serve::{self, ProxySource};

/// Guards a registry by the rules of the Acumos platform
#[derive(Parser)]
#[command(name = "docker-proxy", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve: guard the registry that the configuration names
    Serve(SourceArguments),
    /// Look at a configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Say whether someone may do something, and why; the status is 0 if so, and 1 if not
    Explain(ExplainArguments),
    /// Fill and change a database of accounts, solutions, catalogues and rights
    Directory(DirectoryArguments),
    /// Print the version
    Version,
    /// Print a script that completes commands in a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
}

#[derive(clap::Args)]
struct SourceArguments {
    /// The configuration file; what it does not say is what the old proxy's variables say
    config: Option<PathBuf>,
    #[command(flatten)]
    overrides: OverrideArguments,
}

#[derive(clap::Args)]
struct OverrideArguments {
    /// The address to listen on [default: :30883 with TLS, else 127.0.0.1:30883]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// To try it out: guard a registry of its own in this folder, with facts and users in
    /// `directory.db` there
    #[arg(long, value_name = "DIR")]
    embedded: Option<PathBuf>,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Print what would be in force, with secrets hidden, and what to know of it
    Check(SourceArguments),
}

#[derive(clap::Args)]
struct ExplainArguments {
    /// The configuration file; what it does not say is what the old proxy's variables say
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The folder of a proxy that is tried out
    #[arg(long, value_name = "DIR")]
    embedded: Option<PathBuf>,
    #[command(flatten)]
    question: Question,
}

impl From<OverrideArguments> for Overrides {
    fn from(arguments: OverrideArguments) -> Self {
        let OverrideArguments { listen, embedded } = arguments;
        Self { listen, embedded }
    }
}

impl From<SourceArguments> for ProxySource {
    fn from(arguments: SourceArguments) -> Self {
        Self {
            path: arguments.config,
            overrides: arguments.overrides.into(),
        }
    }
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
            eprintln!("{line}; see `docker-proxy --help`");
            return ExitCode::from(2);
        }
    };
    let result = match arguments.command {
        Command::Serve(arguments) => run(serve::run(arguments.into())),
        Command::Config(ConfigCommand::Check(arguments)) => check(arguments),
        Command::Explain(arguments) => match explain(arguments) {
            Ok(true) => Ok(()),
            Ok(false) => return ExitCode::FAILURE,
            Err(error) => Err(error),
        },
        Command::Directory(arguments) => arguments
            .run()
            .map(|text| print(&text))
            .map_err(|error| error.to_string()),
        Command::Version => {
            print(&format!("docker-proxy {}\n", env!("CARGO_PKG_VERSION")));
            Ok(())
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(
                shell,
                &mut Arguments::command(),
                "docker-proxy",
                &mut script,
            );
            print(&String::from_utf8_lossy(&script));
            Ok(())
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

fn check(arguments: SourceArguments) -> Result<(), String> {
    let SourceArguments { config, overrides } = arguments;
    let text = config::check(config.as_deref(), &overrides.into(), variables());
    print(&text.map_err(|error| error.to_string())?);
    Ok(())
}

/// Prints a decision, and gives whether it is an allow
fn explain(arguments: ExplainArguments) -> Result<bool, String> {
    let ExplainArguments {
        config,
        embedded,
        question,
    } = arguments;
    let source = ProxySource {
        path: config,
        overrides: Overrides {
            embedded,
            listen: None,
        },
    };
    let answer = run(serve::explain(&source, &question))?;
    print(&answer.text);
    Ok(answer.allow)
}

/// Runs to its end
fn run<T, E: ToString>(future: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the runtime: {error}"))?
        .block_on(future)
        .map_err(|error| error.to_string())
}

/// Prints; a reader that has gone is no error
fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}
