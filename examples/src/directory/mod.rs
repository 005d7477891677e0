//! The command line that fills an embedded directory
//!
//! ```text
//! $ registry directory --database platform.db user add ada --role Publisher
//! password of ada (it is shown; or send it by a pipe):
//! user ada added
//! $ registry directory --database platform.db solution add --name Iris --owner ada
//! solution 9d294c20-7b1f-4ab7-b8b3-03bc7f069ac1 added: Iris, of ada
//! ```
//!
//! Every command says in one line what changed. One that fails changed nothing.

mod commands;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use registry_auth::acumos::{EmbeddedError, LicenseRecord, SolutionId};
use registry_auth::htpasswd::{Entry, EntryError};

/// The arguments of `directory`, for any program that has one
///
/// # Examples
///
/// ```
/// use clap::Parser;
/// use registry_examples::directory::DirectoryArguments;
///
/// #[derive(Parser)]
/// struct Arguments {
///     #[command(flatten)]
///     directory: DirectoryArguments,
/// }
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("platform.db");
/// let database = path.to_str().expect("a path in UTF-8");
/// let catalog = ["directory", "--database", database, "catalog", "add", "Public Models"];
/// let arguments = Arguments::parse_from(catalog);
/// assert_eq!(arguments.directory.run()?, "catalog `Public Models` added: public\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Args, Debug)]
pub struct DirectoryArguments {
    /// The database, which `import` and `add` make if it is not there
    #[arg(long, value_name = "FILE")]
    database: PathBuf,
    #[command(subcommand)]
    command: Command,
}

/// Why a command did nothing
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryCommandError {
    /// The database refuses, or failed
    #[error(transparent)]
    Database(#[from] EmbeddedError),
    /// There is no such database
    #[error(
        "there is no database `{}`; `import` or `user add` makes one",
        path.display()
    )]
    Missing {
        /// Where it should be
        path: PathBuf,
    },
    /// What the command names is not there, or does not fit
    #[error("{problem}")]
    Refused {
        /// What was expected and what is there
        problem: String,
    },
    /// The password cannot be one
    #[error(transparent)]
    Password(#[from] EntryError),
    /// Something cannot be read, written or started
    #[error("cannot {what}: {reason}")]
    System {
        /// What was tried
        what: String,
        /// What the system says
        reason: String,
    },
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Put what a YAML file says in the place of everything
    Import {
        /// The file: accounts, catalogs and solutions
        records: PathBuf,
    },
    /// Print everything as such a file, with the hashes of passwords
    Export,
    /// Look through the database for damage
    Check,
    /// Accounts
    #[command(subcommand)]
    User(UserCommand),
    /// Solutions
    #[command(subcommand)]
    Solution(SolutionCommand),
    /// Revisions of solutions
    #[command(subcommand)]
    Revision(RevisionCommand),
    /// Catalogues
    #[command(subcommand)]
    Catalog(CatalogCommand),
    /// Put a solution into a catalogue
    Publish {
        /// Which solution
        solution: SolutionId,
        /// Into which catalogue
        catalog: String,
    },
    /// Take a solution out of a catalogue
    Withdraw {
        /// Which solution
        solution: SolutionId,
        /// Out of which catalogue
        catalog: String,
    },
    /// Rights to use a revision
    #[command(subcommand)]
    Right(RightCommand),
}

#[derive(Debug, Subcommand)]
enum UserCommand {
    /// Add an account; its password is read from standard input
    Add {
        /// The name to log in with
        login: String,
        /// A role; may be given several times
        #[arg(long, value_name = "ROLE")]
        role: Vec<String>,
        /// Where mail reaches the user
        #[arg(long, value_name = "ADDRESS")]
        email: Option<String>,
        /// Do not ask for a password: nobody can log in with this account's
        #[arg(long)]
        no_password: bool,
        #[command(flatten)]
        cost: Cost,
    },
    /// Let nobody use an account
    Disable {
        /// Whose
        login: String,
    },
    /// Let an account be used again
    Enable {
        /// Whose
        login: String,
    },
    /// Change a password, which is read from standard input
    Passwd {
        /// Whose
        login: String,
        #[command(flatten)]
        cost: Cost,
    },
    /// Remove an account and its rights
    Remove {
        /// Whose
        login: String,
    },
    /// Give an account these roles, in the place of those that it has
    Roles {
        /// Whose
        login: String,
        /// The roles; without any, none
        roles: Vec<String>,
    },
}

#[derive(Args, Debug)]
struct Cost {
    /// How dear a guess is: each step, from 4 to 17, doubles the work
    #[arg(long, default_value_t = Entry::DEFAULT_COST)]
    cost: u32,
}

#[derive(Debug, Subcommand)]
enum SolutionCommand {
    /// Add a solution
    Add {
        /// Its name
        #[arg(long)]
        name: String,
        /// Who owns it
        #[arg(long, value_name = "LOGIN")]
        owner: String,
        /// Its id [default: a new one]
        #[arg(long, value_name = "UUID")]
        id: Option<SolutionId>,
        /// Who may change it too; may be given several times
        #[arg(long, value_name = "LOGIN")]
        co_owner: Vec<String>,
    },
    /// Let a solution be used again
    Activate {
        /// Which
        id: SolutionId,
    },
    /// Treat a solution as deleted
    Deactivate {
        /// Which
        id: SolutionId,
    },
    /// Give a solution to others, in the place of those who own it
    Give {
        /// Which
        id: SolutionId,
        /// Who owns it from now on
        owner: String,
        /// Who may change it too; may be given several times
        #[arg(long, value_name = "LOGIN")]
        co_owner: Vec<String>,
    },
    /// Remove a solution with its revisions
    Remove {
        /// Which
        id: SolutionId,
    },
}

#[derive(Debug, Subcommand)]
enum RevisionCommand {
    /// Add a revision to a solution
    Add {
        /// Of which solution
        #[arg(long, value_name = "UUID")]
        solution: SolutionId,
        /// Its version
        #[arg(long)]
        version: String,
        /// Its id [default: a new one]
        #[arg(long)]
        id: Option<String>,
        /// An image of it; may be given several times
        #[arg(long, value_name = "NAME:TAG")]
        image: Vec<String>,
        /// What its licence demands
        #[arg(long, value_enum, default_value_t = License::Unknown)]
        license: License,
    },
    /// Remove a revision and the rights to use it
    Remove {
        /// Which
        id: String,
    },
}

#[derive(Debug, Subcommand)]
enum CatalogCommand {
    /// Add a catalogue
    Add {
        /// Its name
        name: String,
        /// Who sees what is in it
        #[arg(long, value_enum, default_value_t = Visibility::Public)]
        visibility: Visibility,
        /// A role that sees it, if it is restricted; may be given several times
        #[arg(long, value_name = "ROLE")]
        role: Vec<String>,
    },
    /// Remove a catalogue, not the solutions in it
    Remove {
        /// Its name
        name: String,
    },
}

#[derive(Debug, Subcommand)]
enum RightCommand {
    /// Give a right
    Grant(RightArguments),
    /// Take a right away
    Revoke(RightArguments),
}

#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("holder").required(true))]
struct RightArguments {
    /// To use which revision
    #[arg(long, value_name = "ID")]
    revision: String,
    /// Whose
    #[arg(long, value_name = "LOGIN", group = "holder")]
    user: Option<String>,
    /// That of everyone
    #[arg(long, group = "holder")]
    everyone: bool,
}

/// What a licence demands, by the names of [`LicenseRecord`]
#[derive(Clone, Copy, Debug, ValueEnum)]
enum License {
    /// Nothing: open source
    #[value(alias = "open")]
    Free,
    /// It was withdrawn
    Revoked,
    /// A right to use
    #[value(alias = "rtu")]
    RightRequired,
    /// Nobody has said; a right to use is asked for
    Unknown,
}

impl From<License> for LicenseRecord {
    fn from(license: License) -> Self {
        match license {
            License::Free => Self::Free,
            License::Revoked => Self::Revoked,
            License::RightRequired => Self::RightRequired,
            License::Unknown => Self::Unknown,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Visibility {
    /// Everyone
    Public,
    /// Users with one of its roles
    Restricted,
}
