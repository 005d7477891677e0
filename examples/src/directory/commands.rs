//! What each command does

use std::fs;
use std::mem;
use std::path::Path;

use registry_auth::Password;
use registry_auth::acumos::{
    AccountRecord, CatalogRecord, EmbeddedDirectory, Records, RevisionId, RevisionRecord,
    RightHolder, SolutionRecord,
};
use uuid::Uuid;

use super::{
    CatalogCommand, Command, DirectoryArguments, DirectoryCommandError, RevisionCommand,
    RightArguments, RightCommand, SolutionCommand, UserCommand, Visibility,
};
use crate::password;

type Outcome = Result<String, DirectoryCommandError>;

impl DirectoryArguments {
    /// Does what is asked, on this thread, and gives the text to print
    ///
    /// Passwords are read from standard input.
    ///
    /// # Errors
    ///
    /// [`DirectoryCommandError`]; the database is then as it was.
    pub fn run(self) -> Outcome {
        if !self.command.may_be_first() && !self.database.exists() {
            return Err(DirectoryCommandError::Missing {
                path: self.database,
            });
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| DirectoryCommandError::System {
                what: "start the runtime".to_owned(),
                reason: error.to_string(),
            })?;
        runtime.block_on(self.command.perform(&self.database))
    }
}

impl Command {
    /// Whether it makes sense where nothing is
    fn may_be_first(&self) -> bool {
        matches!(
            self,
            Self::Import { .. }
                | Self::User(UserCommand::Add { .. })
                | Self::Catalog(CatalogCommand::Add { .. })
        )
    }

    async fn perform(self, database: &Path) -> Outcome {
        // What cannot be read, or makes no sense, makes no database either.
        match self {
            Self::Import { records: path } => import(database, &path).await,
            Self::Export => export(&open(database)?).await,
            Self::Check => {
                let records = open(database)?.check().await?;
                said(format!("nothing is wrong: {}", amount(&records)))
            }
            Self::User(command) => command.perform(database).await,
            Self::Solution(command) => command.perform(&open(database)?).await,
            Self::Revision(command) => command.perform(&open(database)?).await,
            Self::Catalog(command) => command.perform(database).await,
            Self::Publish { solution, catalog } => {
                open(database)?.publish(&solution, &catalog).await?;
                said(format!(
                    "solution {solution} published in catalog `{catalog}`"
                ))
            }
            Self::Withdraw { solution, catalog } => {
                if open(database)?.withdraw(&solution, &catalog).await? {
                    said(format!(
                        "solution {solution} withdrawn from catalog `{catalog}`"
                    ))
                } else {
                    nothing(format!(
                        "there is no solution {solution} in a catalog `{catalog}`"
                    ))
                }
            }
            Self::Right(command) => command.perform(&open(database)?).await,
        }
    }
}

impl UserCommand {
    async fn perform(self, database: &Path) -> Outcome {
        match self {
            Self::Add {
                login,
                role,
                email,
                no_password,
                cost,
            } => {
                let mut account = AccountRecord::new(login.as_str());
                account.roles = role;
                account.email = email;
                if !no_password {
                    account.set_password(&read_password(&login)?, cost.cost)?;
                }
                open(database)?.add_account(account).await?;
                said(format!("user {login} added"))
            }
            Self::Disable { login } => set_active(database, login, false).await,
            Self::Enable { login } => set_active(database, login, true).await,
            Self::Passwd { login, cost } => {
                // Hashed before the account is looked at: nobody waits for that.
                let mut new = AccountRecord::new(login.as_str());
                new.set_password(&read_password(&login)?, cost.cost)?;
                let change = |account: &mut AccountRecord| account.password = new.password;
                open(database)?.change_account(&login, change).await?;
                said(format!("password of user {login} changed"))
            }
            Self::Remove { login } => {
                if open(database)?.remove_account(&login).await? {
                    said(format!("user {login} removed"))
                } else {
                    nothing(format!("there is no user `{}`", login.escape_debug()))
                }
            }
            Self::Roles { login, roles } => {
                let line = match roles.as_slice() {
                    [] => format!("user {login} has no roles now"),
                    roles => format!("user {login} has these roles now: {}", roles.join(", ")),
                };
                let change = |account: &mut AccountRecord| account.roles = roles;
                open(database)?.change_account(&login, change).await?;
                said(line)
            }
        }
    }
}

impl SolutionCommand {
    async fn perform(self, directory: &EmbeddedDirectory) -> Outcome {
        match self {
            Self::Add {
                name,
                owner,
                id,
                co_owner,
            } => {
                let id = id.map_or_else(|| Uuid::new_v4().to_string(), |id| id.to_string());
                let line = format!("solution {id} added: {name}, of {owner}");
                let solution = SolutionRecord {
                    id,
                    name,
                    owner,
                    co_owners: co_owner,
                    active: true,
                    catalogs: Vec::new(),
                    revisions: Vec::new(),
                };
                directory.add_solution(solution).await?;
                said(line)
            }
            Self::Activate { id } => {
                let was = directory.set_solution_active(&id, true).await?;
                said(became(&format!("solution {id}"), "active", was))
            }
            Self::Deactivate { id } => {
                let was = directory.set_solution_active(&id, false).await?;
                said(became(&format!("solution {id}"), "inactive", !was))
            }
            Self::Give {
                id,
                owner,
                co_owner,
            } => {
                directory.set_solution_owners(&id, &owner, co_owner).await?;
                said(format!("solution {id} belongs to {owner} now"))
            }
            Self::Remove { id } => {
                if directory.remove_solution(&id).await? {
                    said(format!("solution {id} removed"))
                } else {
                    nothing(format!("there is no solution {id}"))
                }
            }
        }
    }
}

impl RevisionCommand {
    async fn perform(self, directory: &EmbeddedDirectory) -> Outcome {
        match self {
            Self::Add {
                solution,
                version,
                id,
                image,
                license,
            } => {
                let id = id.unwrap_or_else(|| Uuid::new_v4().to_string());
                let line = format!("revision {id} added: {version}, of solution {solution}");
                let revision = RevisionRecord {
                    version,
                    id: Some(id),
                    images: image,
                    license: license.into(),
                    right_of_all: false,
                    rights: Vec::new(),
                };
                directory.add_revision(&solution, revision).await?;
                said(line)
            }
            Self::Remove { id } => {
                if directory
                    .remove_revision(&RevisionId::new(id.as_str()))
                    .await?
                {
                    said(format!("revision {id} removed"))
                } else {
                    nothing(format!("there is no revision `{}`", id.escape_debug()))
                }
            }
        }
    }
}

impl CatalogCommand {
    async fn perform(self, database: &Path) -> Outcome {
        match self {
            Self::Add {
                name,
                visibility,
                role,
            } => {
                let (roles, seen) = match (visibility, role.is_empty()) {
                    (Visibility::Public, true) => (None, "public".to_owned()),
                    (Visibility::Restricted, false) => {
                        let seen = format!("restricted to {}", role.join(", "));
                        (Some(role), seen)
                    }
                    (Visibility::Public, false) => {
                        return nothing(
                            "a public catalogue is seen whatever one's role; leave `--role` out, \
                             or say `--visibility restricted`",
                        );
                    }
                    (Visibility::Restricted, true) => {
                        return nothing(
                            "nobody would see a restricted catalogue without roles; expected at \
                             least one `--role ROLE`",
                        );
                    }
                };
                let line = format!("catalog `{name}` added: {seen}");
                let catalog = CatalogRecord { name, roles };
                open(database)?.add_catalog(catalog).await?;
                said(line)
            }
            Self::Remove { name } => {
                if open(database)?.remove_catalog(&name).await? {
                    said(format!("catalog `{name}` removed"))
                } else {
                    nothing(format!("there is no catalog `{}`", name.escape_debug()))
                }
            }
        }
    }
}

impl RightCommand {
    async fn perform(self, directory: &EmbeddedDirectory) -> Outcome {
        match self {
            Self::Grant(right) => {
                let (revision, holder, whose) = right.parts();
                directory.put_right(&revision, holder).await?;
                said(format!("{whose} may use revision {}", revision.0))
            }
            Self::Revoke(right) => {
                let (revision, holder, whose) = right.parts();
                if directory.remove_right(&revision, holder).await? {
                    said(format!(
                        "the right of {whose} to use revision {} is revoked",
                        revision.0
                    ))
                } else {
                    nothing(format!(
                        "there is no right of {whose} to use a revision `{}`",
                        revision.0.escape_debug()
                    ))
                }
            }
        }
    }
}

impl RightArguments {
    fn parts(self) -> (RevisionId, RightHolder, String) {
        let revision = RevisionId::new(self.revision);
        match self.user {
            Some(login) => {
                let whose = format!("user {login}");
                (revision, RightHolder::User(login), whose)
            }
            // The arguments have one of the two.
            None => (revision, RightHolder::Everyone, "everyone".to_owned()),
        }
    }
}

fn open(database: &Path) -> Result<EmbeddedDirectory, DirectoryCommandError> {
    Ok(EmbeddedDirectory::open(database)?)
}

async fn import(database: &Path, path: &Path) -> Outcome {
    let shown = path.display();
    let text = fs::read_to_string(path).map_err(|error| DirectoryCommandError::System {
        what: format!("read `{shown}`"),
        reason: error.to_string(),
    })?;
    let records = text.parse::<Records>().and_then(|records| {
        records.check()?;
        Ok(records)
    });
    let records = match records {
        Ok(records) => records,
        Err(error) => return nothing(format!("`{shown}`: {error}")),
    };
    let line = format!(
        "{} imported from {shown}, in the place of all that was there",
        amount(&records)
    );
    open(database)?.import(records).await?;
    said(line)
}

async fn export(directory: &EmbeddedDirectory) -> Outcome {
    let records = directory.records().await?;
    serde_saphyr::to_string(&records).map_err(|error| DirectoryCommandError::System {
        what: "write the records as YAML".to_owned(),
        reason: error.to_string(),
    })
}

async fn set_active(database: &Path, login: String, active: bool) -> Outcome {
    let change = move |account: &mut AccountRecord| mem::replace(&mut account.active, active);
    let was = open(database)?.change_account(&login, change).await?;
    let state = if active { "enabled" } else { "disabled" };
    said(became(&format!("user {login}"), state, was == active))
}

fn read_password(user: &str) -> Result<Password, DirectoryCommandError> {
    password::read(user).map_err(|problem| DirectoryCommandError::Refused { problem })
}

/// What happened to something that is in a state now
fn became(what: &str, state: &str, before: bool) -> String {
    if before {
        format!("{what} was {state} already")
    } else {
        format!("{what} is {state} now")
    }
}

/// How much there is
fn amount(records: &Records) -> String {
    let revisions = records
        .solutions
        .iter()
        .map(|one| one.revisions.len())
        .sum();
    let [users, catalogs, solutions, revisions] = [
        ("user", records.accounts.len()),
        ("catalog", records.catalogs.len()),
        ("solution", records.solutions.len()),
        ("revision", revisions),
    ]
    .map(|(what, count)| match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    });
    format!("{users}, {catalogs}, {solutions} and {revisions}")
}

fn said(line: String) -> Outcome {
    Ok(line + "\n")
}

fn nothing(problem: impl Into<String>) -> Outcome {
    Err(DirectoryCommandError::Refused {
        problem: problem.into(),
    })
}
