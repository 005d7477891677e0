//! A directory in a database of its own

mod changes;
mod line;
mod queries;
mod schema;

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, TransactionBehavior};

use self::changes::Changes;
use self::line::Line;
use super::directory::{Directory, DirectoryError};
use super::facts::{Answer, Query, RevisionId};
use super::file::not_asked_here;
use super::names::SolutionId;
use super::passwords::{Login, Passwords};
use super::records::{
    AccountRecord, CatalogRecord, Records, RecordsError, RevisionRecord, SolutionRecord,
};

/// When to ask again after the database failed
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// A directory in a database that is a single file
///
/// The file is an SQLite database, which any number of processes of one machine may have open:
/// an operator changes it while a registry answers from it, which sees the change with the next
/// question. One writes at a time, and any number read meanwhile; they see all of a change or
/// nothing of it. A crash loses nothing that was acknowledged. The file must be on a local disk:
/// on a network file system its locks hold nobody back, and [`open`](Self::open) refuses those
/// that it knows. Beside it, while it is in use, are two more files whose names begin with its
/// own. To copy it, take [`records`](Self::records) or stop all who use it.
///
/// Cheap to clone; all clones are one database. Its methods need a tokio runtime, and do their
/// work on threads where they may block, on one connection that reads and one that writes, so that
/// a question never waits for a change. A question takes some microseconds.
///
/// # Examples
///
/// ```
/// use registry_auth::acumos::{Answer, Directory, EmbeddedDirectory, Query, Records};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let folder = tempfile::tempdir()?;
/// let directory = EmbeddedDirectory::open(&folder.path().join("platform.db"))?;
/// let records: Records = "accounts: [{ login: ada }]".parse()?;
/// directory.put_account(records.accounts[0].clone()).await?;
/// let Answer::Account(Some(ada)) = directory.answer(&Query::Account("ada".into())).await? else { panic!() };
/// assert!(ada.active);
/// assert_eq!(directory.records().await?, records);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct EmbeddedDirectory {
    path: Arc<Path>,
    reader: Arc<Line>,
    writer: Arc<Line>,
}

/// Why the database did not do what it was asked; then it is as it was before
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddedError {
    /// The database failed
    #[error("the database of the directory failed: {source}")]
    Database {
        /// What it says
        source: Box<dyn Error + Send + Sync>,
    },
    /// The file cannot be opened or made
    #[error("cannot open the database of the directory `{}`: {source}", .path.display())]
    File {
        /// The file
        path: PathBuf,
        /// What the system says
        source: io::Error,
    },
    /// The file is a database of another program
    #[error(
        "`{}` is a database of something else; expected that of a directory, or no file",
        .path.display()
    )]
    Foreign {
        /// The file
        path: PathBuf,
    },
    /// The file is where the locks of a database do not hold
    #[error(
        "`{}` is on a network file system ({kind}), where a database comes to harm; keep it on a \
         local disk",
        .path.display()
    )]
    Network {
        /// The file
        path: PathBuf,
        /// What file system it is
        kind: &'static str,
    },
    /// What it was given does not go with what it has
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// The database was made by another version of this program
    #[error(
        "the database of the directory `{}` is of version {found}, and this program knows version \
         {}; use a newer program",
        .path.display(), schema::VERSION
    )]
    Version {
        /// The file
        path: PathBuf,
        /// Its version
        found: i32,
    },
}

/// Who has a right to use a revision
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RightHolder {
    /// Every user of the platform
    Everyone,
    /// The user with this login name
    User(String),
}

impl EmbeddedDirectory {
    /// Opens the database, or makes an empty one where there is no file
    ///
    /// # Errors
    ///
    /// [`EmbeddedError`] for a file that is not such a database, of a version that is not known
    /// here, or on a network file system.
    pub fn open(path: &Path) -> Result<Self, EmbeddedError> {
        let writer = schema::open(path)?;
        let reader = schema::open(path)?;
        reader.pragma_update(None, "query_only", true)?;
        Ok(Self {
            path: path.into(),
            reader: Arc::new(Line::new(reader)),
            writer: Arc::new(Line::new(writer)),
        })
    }

    /// The file
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Looks through the whole file for damage, and gives what is in it
    ///
    /// # Errors
    ///
    /// [`EmbeddedError::Database`] with what is damaged, and [`EmbeddedError::Records`] where
    /// what is in it makes no platform.
    pub async fn check(&self) -> Result<Records, EmbeddedError> {
        self.read(|reading| {
            queries::integrity(reading)?;
            let records = queries::export(reading)?;
            records.check()?;
            Ok(records)
        })
        .await
    }

    /// Everything that is in it, in order of names and ids
    ///
    /// # Errors
    ///
    /// [`EmbeddedError::Database`].
    pub async fn records(&self) -> Result<Records, EmbeddedError> {
        self.read(queries::export).await
    }

    /// Puts these records in the place of everything that is in it
    ///
    /// # Errors
    ///
    /// [`EmbeddedError::Records`] with everything that is wrong in them.
    pub async fn import(&self, records: Records) -> Result<(), EmbeddedError> {
        self.write(move |changes| {
            records.check()?;
            changes.replace_all(&records)
        })
        .await
    }

    /// Puts an account, in the place of the one with its login name if there is one
    ///
    /// # Errors
    ///
    /// [`EmbeddedError::Records`] when its id is another account's, or not the one that the
    /// account had: rights and ownership go with the id.
    pub async fn put_account(&self, account: AccountRecord) -> Result<(), EmbeddedError> {
        self.write(move |changes| changes.put_account(&account))
            .await
    }

    /// Adds an account
    ///
    /// # Errors
    ///
    /// [`EmbeddedError::Records`] when there is one with its login name or its id.
    pub async fn add_account(&self, account: AccountRecord) -> Result<(), EmbeddedError> {
        self.write(move |changes| changes.add_account(&account))
            .await
    }

    /// Changes an account, and gives what the change gave
    ///
    /// Nobody else changes the database between what the change sees and what it makes of it.
    ///
    /// # Errors
    ///
    /// [`EmbeddedError::Records`] when there is no such account, or what it was changed to would
    /// not be put by [`put_account`](Self::put_account).
    pub async fn change_account<T: Send + 'static>(
        &self,
        login: &str,
        change: impl FnOnce(&mut AccountRecord) -> T + Send + 'static,
    ) -> Result<T, EmbeddedError> {
        let login = login.to_owned();
        self.write(move |changes| changes.change_account(&login, change))
            .await
    }

    /// Removes an account and its rights; `false` when there is none
    ///
    /// # Errors
    ///
    /// [`EmbeddedError::Records`] when it owns a solution, alone or with others.
    pub async fn remove_account(&self, login: &str) -> Result<bool, EmbeddedError> {
        let login = login.to_owned();
        self.write(move |changes| changes.remove_account(&login))
            .await
    }

    /// Puts a catalogue, in the place of the one with its name if there is one
    ///
    /// # Errors
    ///
    /// [`EmbeddedError::Database`].
    pub async fn put_catalog(&self, catalog: CatalogRecord) -> Result<(), EmbeddedError> {
        self.write(move |changes| changes.put_catalog(&catalog))
            .await
    }

    /// Adds a catalogue
    ///
    /// # Errors
    ///
    /// [`EmbeddedError::Records`] when there is one with its name.
    pub async fn add_catalog(&self, catalog: CatalogRecord) -> Result<(), EmbeddedError> {
        self.write(move |changes| changes.add_catalog(&catalog))
            .await
    }

    /// Removes a catalogue and takes all solutions out of it; `false` when there is none
    ///
    /// # Errors
    ///
    /// [`EmbeddedError::Database`].
    pub async fn remove_catalog(&self, name: &str) -> Result<bool, EmbeddedError> {
        let name = name.to_owned();
        self.write(move |changes| changes.remove_catalog(&name))
            .await
    }

    /// Puts a solution with all that belongs to it, in the place of the one with its id if
    /// there is one
    ///
    /// # Errors
    ///
    /// [`EmbeddedError::Records`] when it names what is not there, or an id that is taken.
    pub async fn put_solution(&self, solution: SolutionRecord) -> Result<(), EmbeddedError> {
        self.write(move |changes| changes.put_solution(&solution))
            .await
    }

    /// Adds a solution with all that belongs to it
    ///
    /// # Errors
    ///
    /// [`EmbeddedError::Records`] when there is one with its id, or it names what is not there, or
    /// an id that is taken.
    pub async fn add_solution(&self, solution: SolutionRecord) -> Result<(), EmbeddedError> {
        self.write(move |changes| changes.add_solution(&solution))
            .await
    }

    /// Makes a solution active or not, and gives whether it was
    ///
    /// # Errors
    ///
    /// [`EmbeddedError::Records`] when there is no such solution.
    pub async fn set_solution_active(
        &self,
        id: &SolutionId,
        active: bool,
    ) -> Result<bool, EmbeddedError> {
        let id = id.clone();
        self.write(move |changes| changes.set_solution_active(&id, active))
            .await
    }

    /// Gives a solution to these users, in the place of those who owned it
    ///
    /// # Errors
    ///
    /// [`EmbeddedError::Records`] when there is no such solution or account.
    pub async fn set_solution_owners(
        &self,
        id: &SolutionId,
        owner: &str,
        co_owners: Vec<String>,
    ) -> Result<(), EmbeddedError> {
        let (id, owner) = (id.clone(), owner.to_owned());
        self.write(move |changes| {
            changes.expect_solution(&id)?;
            changes.set_solution_owners(&id, &owner, &co_owners)
        })
        .await
    }

    /// Removes a solution with all that belongs to it; `false` when there is none
    ///
    /// # Errors
    ///
    /// [`EmbeddedError::Database`].
    pub async fn remove_solution(&self, id: &SolutionId) -> Result<bool, EmbeddedError> {
        let id = id.clone();
        self.write(move |changes| changes.remove_solution(&id))
            .await
    }

    /// Puts a revision with its rights, in the place of the one with its id if there is one
    ///
    /// # Errors
    ///
    /// [`EmbeddedError::Records`] when there is no such solution, or the revision names what is
    /// not there, or has the id of another solution's.
    pub async fn put_revision(
        &self,
        solution: &SolutionId,
        revision: RevisionRecord,
    ) -> Result<(), EmbeddedError> {
        let id = solution.clone();
        self.write(move |changes| {
            changes.expect_solution(&id)?;
            changes.put_revision(&id, &revision)
        })
        .await
    }

    /// Adds a revision with its rights
    ///
    /// # Errors
    ///
    /// [`EmbeddedError::Records`] when there is no such solution, it has a revision of this
    /// version, the revision's id is taken, or it names what is not there.
    pub async fn add_revision(
        &self,
        solution: &SolutionId,
        revision: RevisionRecord,
    ) -> Result<(), EmbeddedError> {
        let id = solution.clone();
        self.write(move |changes| changes.add_revision(&id, &revision))
            .await
    }

    /// Removes a revision and the rights to use it; `false` when there is none
    ///
    /// # Errors
    ///
    /// [`EmbeddedError::Database`].
    pub async fn remove_revision(&self, id: &RevisionId) -> Result<bool, EmbeddedError> {
        let id = id.clone();
        self.write(move |changes| changes.remove_revision(&id))
            .await
    }

    /// Puts a solution into a catalogue
    ///
    /// # Errors
    ///
    /// [`EmbeddedError::Records`] when there is no such solution or catalogue.
    pub async fn publish(&self, solution: &SolutionId, catalog: &str) -> Result<(), EmbeddedError> {
        let (id, catalog) = (solution.clone(), catalog.to_owned());
        self.write(move |changes| {
            changes.expect_solution(&id)?;
            changes.publish(&id, &catalog)
        })
        .await
    }

    /// Takes a solution out of a catalogue; `false` when it is not in it
    ///
    /// # Errors
    ///
    /// [`EmbeddedError::Database`].
    pub async fn withdraw(
        &self,
        solution: &SolutionId,
        catalog: &str,
    ) -> Result<bool, EmbeddedError> {
        let (id, catalog) = (solution.clone(), catalog.to_owned());
        self.write(move |changes| changes.withdraw(&id, &catalog))
            .await
    }

    /// Gives a right to use a revision
    ///
    /// # Errors
    ///
    /// [`EmbeddedError::Records`] when there is no such revision or account.
    pub async fn put_right(
        &self,
        revision: &RevisionId,
        holder: RightHolder,
    ) -> Result<(), EmbeddedError> {
        let id = revision.clone();
        self.write(move |changes| {
            changes.expect_revision(&id)?;
            changes.put_right(&id, &holder)
        })
        .await
    }

    /// Takes a right to use a revision away; `false` when there is none
    ///
    /// # Errors
    ///
    /// [`EmbeddedError::Records`] when there is no such account.
    pub async fn remove_right(
        &self,
        revision: &RevisionId,
        holder: RightHolder,
    ) -> Result<bool, EmbeddedError> {
        let id = revision.clone();
        self.write(move |changes| changes.remove_right(&id, &holder))
            .await
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, EmbeddedError> + Send + 'static,
    ) -> Result<T, EmbeddedError> {
        let read = |connection: &mut Connection| {
            // One state of the database, however many statements there are.
            let reading = connection.transaction()?;
            let found = work(&reading)?;
            reading.commit()?;
            Ok(found)
        };
        self.reader.run(read).await
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Changes<'_>) -> Result<T, EmbeddedError> + Send + 'static,
    ) -> Result<T, EmbeddedError> {
        let write = |connection: &mut Connection| {
            // Waits for whoever writes now; dropped before it is committed, it changes nothing.
            let writing = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let done = work(&Changes::new(&writing))?;
            writing.commit()?;
            Ok(done)
        };
        self.writer.run(write).await
    }
}

#[async_trait]
impl Directory for EmbeddedDirectory {
    async fn answer(&self, query: &Query) -> Result<Answer, DirectoryError> {
        if matches!(query, Query::Tags(..)) {
            return Err(not_asked_here(query));
        }
        let asked = query.clone();
        // One statement, which sees one state without a transaction around it.
        self.reader
            .run(move |reading| queries::answer(reading, &asked))
            .await
            .map_err(unavailable)
    }
}

#[async_trait]
impl Passwords for EmbeddedDirectory {
    async fn login(&self, login: &str) -> Result<Login, DirectoryError> {
        let login = login.to_owned();
        // Of its two statements, the second may see more: only how long a refusal takes.
        self.reader
            .run(move |reading| queries::login(reading, &login))
            .await
            .map_err(unavailable)
    }
}

/// What whoever asks is told of a database that failed
fn unavailable(error: EmbeddedError) -> DirectoryError {
    DirectoryError::Unavailable {
        retry_after: RETRY_AFTER,
        cause: error.to_string(),
    }
}

fn failed(detail: String) -> EmbeddedError {
    EmbeddedError::Database {
        source: detail.into(),
    }
}

impl From<rusqlite::Error> for EmbeddedError {
    fn from(error: rusqlite::Error) -> Self {
        if schema::is_busy(&error) {
            return failed("another process writes to it for too long; try again".to_owned());
        }
        Self::Database {
            source: error.into(),
        }
    }
}
