//! A directory in a database of its own

use std::collections::HashSet;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, Table, TableDefinition,
    WriteTransaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::directory::{Directory, DirectoryError};
use super::facts::{Answer, License, Query, RevisionId, Right, Solution, UserId};
use super::file::not_asked_here;
use super::names::SolutionId;
use super::records::{
    AccountRecord, CatalogRecord, Records, RecordsError, RevisionRecord, SolutionRecord, no_right,
};

/// A directory in a database that is a single file
///
/// It is written by one at a time and read by any number meanwhile, who see all of a change or
/// nothing. A crash loses nothing that was acknowledged. The file belongs to one process at a
/// time and must be on a local disk: locks and memory maps of network file systems such as NFS
/// do not hold what it relies on.
///
/// Cheap to clone; all clones are one database. Its methods need a tokio runtime, and do their
/// work on threads where they may block.
///
/// # Examples
///
/// ```
/// use registry_auth::acumos::{Answer, Directory, EmbeddedDirectory, Query, Records};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let folder = tempfile::tempdir()?;
/// let directory = EmbeddedDirectory::open(&folder.path().join("platform.redb"))?;
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
    database: Arc<Database>,
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
    /// What it was given does not go with what it has
    #[error(transparent)]
    Records(#[from] RecordsError),
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
    /// [`EmbeddedError::Database`], also when another process has it open.
    pub fn open(path: &Path) -> Result<Self, EmbeddedError> {
        let database = Database::create(path)?;
        let writing = database.begin_write()?;
        Tables::open(&writing)?;
        writing.commit()?;
        Ok(Self {
            database: Arc::new(database),
        })
    }

    /// Everything that is in it, in order of names and ids
    ///
    /// # Errors
    ///
    /// [`EmbeddedError::Database`].
    pub async fn records(&self) -> Result<Records, EmbeddedError> {
        self.read(|reading| export(&reading)).await
    }

    /// Puts these records in the place of everything that is in it
    ///
    /// # Errors
    ///
    /// [`EmbeddedError::Records`] with everything that is wrong in them.
    pub async fn import(&self, records: Records) -> Result<(), EmbeddedError> {
        self.write(move |tables| {
            records.check()?;
            tables.clear()?;
            for account in &records.accounts {
                tables.put_account(account)?;
            }
            for catalog in &records.catalogs {
                put(&mut tables.catalogs, &catalog.name, catalog)?;
            }
            for solution in &records.solutions {
                tables.put_solution(solution)?;
            }
            Ok(())
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
        self.write(move |tables| tables.put_account(&account)).await
    }

    /// Removes an account and its rights; `false` when there is none
    ///
    /// # Errors
    ///
    /// [`EmbeddedError::Records`] when it owns a solution, alone or with others.
    pub async fn remove_account(&self, login: &str) -> Result<bool, EmbeddedError> {
        let login = login.to_owned();
        self.write(move |tables| tables.remove_account(&login))
            .await
    }

    /// Puts a catalogue, in the place of the one with its name if there is one
    ///
    /// # Errors
    ///
    /// [`EmbeddedError::Database`].
    pub async fn put_catalog(&self, catalog: CatalogRecord) -> Result<(), EmbeddedError> {
        self.write(move |tables| put(&mut tables.catalogs, &catalog.name, &catalog))
            .await
    }

    /// Removes a catalogue and takes all solutions out of it; `false` when there is none
    ///
    /// # Errors
    ///
    /// [`EmbeddedError::Database`].
    pub async fn remove_catalog(&self, name: &str) -> Result<bool, EmbeddedError> {
        let name = name.to_owned();
        self.write(move |tables| {
            tables.members.retain(|(_, catalog), ()| catalog != name)?;
            Ok(tables.catalogs.remove(name.as_str())?.is_some())
        })
        .await
    }

    /// Puts a solution with all that belongs to it, in the place of the one with its id if
    /// there is one
    ///
    /// # Errors
    ///
    /// [`EmbeddedError::Records`] when it names what is not there, or an id that is taken.
    pub async fn put_solution(&self, solution: SolutionRecord) -> Result<(), EmbeddedError> {
        self.write(move |tables| tables.put_solution(&solution))
            .await
    }

    /// Removes a solution with all that belongs to it; `false` when there is none
    ///
    /// # Errors
    ///
    /// [`EmbeddedError::Database`].
    pub async fn remove_solution(&self, id: &SolutionId) -> Result<bool, EmbeddedError> {
        let id = id.clone();
        self.write(move |tables| tables.remove_solution(&id)).await
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
        self.write(move |tables| {
            tables.expect_solution(&id)?;
            tables.put_revision(&id, &revision)
        })
        .await
    }

    /// Removes a revision and the rights to use it; `false` when there is none
    ///
    /// # Errors
    ///
    /// [`EmbeddedError::Database`].
    pub async fn remove_revision(&self, id: &RevisionId) -> Result<bool, EmbeddedError> {
        let id = id.clone();
        self.write(move |tables| tables.remove_revision(&id)).await
    }

    /// Puts a solution into a catalogue
    ///
    /// # Errors
    ///
    /// [`EmbeddedError::Records`] when there is no such solution or catalogue.
    pub async fn publish(&self, solution: &SolutionId, catalog: &str) -> Result<(), EmbeddedError> {
        let (id, catalog) = (solution.clone(), catalog.to_owned());
        self.write(move |tables| {
            tables.expect_solution(&id)?;
            tables.publish(&id, &catalog)
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
        self.write(move |tables| {
            let removed = tables.members.remove((id.as_str(), catalog.as_str()))?;
            Ok(removed.is_some())
        })
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
        self.write(move |tables| {
            if tables.solution_of.get(&*id.0)?.is_none() {
                let id = id.0.escape_debug();
                return Err(RecordsError::one(format!("there is no revision `{id}`")).into());
            }
            tables.put_right(&id, &holder)
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
        self.write(move |tables| {
            let user = tables.holder(&holder)?;
            Ok(tables.rights.remove((&*id.0, user.as_str()))?.is_some())
        })
        .await
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(ReadTransaction) -> Result<T, EmbeddedError> + Send + 'static,
    ) -> Result<T, EmbeddedError> {
        let database = self.database.clone();
        blocking(move || work(database.begin_read()?)).await
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Tables<'_>) -> Result<T, EmbeddedError> + Send + 'static,
    ) -> Result<T, EmbeddedError> {
        let database = self.database.clone();
        blocking(move || {
            // Waits for whoever writes now; dropped before it is committed, it changes nothing.
            let writing = database.begin_write()?;
            let done = work(&mut Tables::open(&writing)?)?;
            writing.commit()?;
            Ok(done)
        })
        .await
    }
}

#[async_trait]
impl Directory for EmbeddedDirectory {
    async fn answer(&self, query: &Query) -> Result<Answer, DirectoryError> {
        if matches!(query, Query::Tags(..)) {
            return Err(not_asked_here(query));
        }
        let asked = query.clone();
        let answer = self.read(move |reading| answer(&reading, &asked)).await;
        answer.map_err(|error| DirectoryError::Invalid {
            cause: error.to_string(),
        })
    }
}

/// Documents are JSON, so that a record may get more fields
type Documents = TableDefinition<'static, &'static str, &'static [u8]>;
type Names = TableDefinition<'static, &'static str, &'static str>;
type Pairs = TableDefinition<'static, (&'static str, &'static str), ()>;

/// Accounts by login name
const ACCOUNTS: Documents = TableDefinition::new("accounts");
/// Login names by user id
const USERS: Names = TableDefinition::new("users");
/// Catalogues by name
const CATALOGS: Documents = TableDefinition::new("catalogs");
/// Solutions by id, without what has tables of its own
const SOLUTIONS: Documents = TableDefinition::new("solutions");
/// Solution and catalogue
const MEMBERS: Pairs = TableDefinition::new("members");
/// Revisions by solution and revision, without rights
const REVISIONS: TableDefinition<'static, (&str, &str), &[u8]> = TableDefinition::new("revisions");
/// Solutions by revision
const SOLUTION_OF: Names = TableDefinition::new("solution_of");
/// Revision and user id
const RIGHTS: Pairs = TableDefinition::new("rights");
/// Repository, solution and revision of an image
const IMAGES: TableDefinition<'static, (&str, &str, &str), ()> = TableDefinition::new("images");

/// In the place of a user id: no account has an empty one
const EVERYONE: &str = "";

/// The tables, for writing
struct Tables<'t> {
    accounts: Table<'t, &'static str, &'static [u8]>,
    users: Table<'t, &'static str, &'static str>,
    catalogs: Table<'t, &'static str, &'static [u8]>,
    solutions: Table<'t, &'static str, &'static [u8]>,
    members: Table<'t, (&'static str, &'static str), ()>,
    revisions: Table<'t, (&'static str, &'static str), &'static [u8]>,
    solution_of: Table<'t, &'static str, &'static str>,
    rights: Table<'t, (&'static str, &'static str), ()>,
    images: Table<'t, (&'static str, &'static str, &'static str), ()>,
}

impl<'t> Tables<'t> {
    fn open(writing: &'t WriteTransaction) -> Result<Self, EmbeddedError> {
        Ok(Self {
            accounts: writing.open_table(ACCOUNTS)?,
            users: writing.open_table(USERS)?,
            catalogs: writing.open_table(CATALOGS)?,
            solutions: writing.open_table(SOLUTIONS)?,
            members: writing.open_table(MEMBERS)?,
            revisions: writing.open_table(REVISIONS)?,
            solution_of: writing.open_table(SOLUTION_OF)?,
            rights: writing.open_table(RIGHTS)?,
            images: writing.open_table(IMAGES)?,
        })
    }

    fn clear(&mut self) -> Result<(), EmbeddedError> {
        self.accounts.retain(|_, _| false)?;
        self.users.retain(|_, _| false)?;
        self.catalogs.retain(|_, _| false)?;
        self.solutions.retain(|_, _| false)?;
        self.members.retain(|_, ()| false)?;
        self.revisions.retain(|_, _| false)?;
        self.solution_of.retain(|_, _| false)?;
        self.rights.retain(|_, ()| false)?;
        self.images.retain(|_, ()| false)?;
        Ok(())
    }

    fn put_account(&mut self, account: &AccountRecord) -> Result<(), EmbeddedError> {
        let (login, user) = (account.login.as_str(), account.user());
        if login.is_empty() || user.0.is_empty() {
            return Err(RecordsError::one("an account has an empty `login` or `id`").into());
        }
        let shown = login.escape_debug();
        let taken = self.users.get(&*user.0)?;
        if taken.is_some_and(|other| other.value() != login) {
            let id = user.0.escape_debug();
            let problem = format!("account `{shown}`: the id `{id}` is another account's");
            return Err(RecordsError::one(problem).into());
        }
        let before: Option<AccountRecord> = find(&self.accounts, login)?;
        if let Some(before) = before.filter(|before| before.user() != user) {
            let id = before.user();
            return Err(RecordsError::one(format!(
                "account `{shown}` has the id `{}`, which its rights are under; give it that id, \
                 or remove it first",
                id.0.escape_debug()
            ))
            .into());
        }
        self.users.insert(&*user.0, login)?;
        put(&mut self.accounts, login, account)
    }

    fn remove_account(&mut self, login: &str) -> Result<bool, EmbeddedError> {
        let Some(account) = find::<AccountRecord>(&self.accounts, login)? else {
            return Ok(false);
        };
        for entry in self.solutions.iter()? {
            let solution: SolutionRecord = parse(entry?.1.value())?;
            if solution.owner == login || solution.co_owners.iter().any(|other| other == login) {
                return Err(RecordsError::one(format!(
                    "`{}` owns solution {}; give it another owner first, or make the account \
                     inactive",
                    login.escape_debug(),
                    solution.id
                ))
                .into());
            }
        }
        let user = account.user();
        self.rights.retain(|(_, holder), ()| holder != &*user.0)?;
        self.users.remove(&*user.0)?;
        self.accounts.remove(login)?;
        Ok(true)
    }

    fn put_solution(&mut self, solution: &SolutionRecord) -> Result<(), EmbeddedError> {
        let id: SolutionId = solution
            .id
            .parse()
            .map_err(|error: super::SolutionIdError| RecordsError::one(error.to_string()))?;
        self.remove_solution(&id)?;
        for login in [&solution.owner].into_iter().chain(&solution.co_owners) {
            self.expect_user(login)?;
        }
        let alone = SolutionRecord {
            catalogs: Vec::new(),
            revisions: Vec::new(),
            ..solution.clone()
        };
        put(&mut self.solutions, id.as_str(), &alone)?;
        for catalog in &solution.catalogs {
            self.publish(&id, catalog)?;
        }
        let mut given = HashSet::new();
        for revision in &solution.revisions {
            let revision_id = revision.revision_id(&id);
            if !given.insert(revision_id.clone()) {
                return Err(RecordsError::one(format!(
                    "solution {id}: the id `{}` is another revision's too; give each an `id` of \
                     its own",
                    revision_id.0.escape_debug()
                ))
                .into());
            }
            self.put_revision(&id, revision)?;
        }
        Ok(())
    }

    fn remove_solution(&mut self, id: &SolutionId) -> Result<bool, EmbeddedError> {
        let mut revisions = Vec::new();
        let (first, last) = (id.as_str(), after(id.as_str()));
        for entry in self.revisions.range((first, "")..(last.as_str(), ""))? {
            revisions.push(RevisionId::new(entry?.0.value().1));
        }
        for revision in revisions {
            self.remove_revision(&revision)?;
        }
        self.members
            .retain_in((first, "")..(last.as_str(), ""), |_, ()| false)?;
        Ok(self.solutions.remove(id.as_str())?.is_some())
    }

    fn put_revision(
        &mut self,
        id: &SolutionId,
        record: &RevisionRecord,
    ) -> Result<(), EmbeddedError> {
        let revision = record.revision(id)?;
        let key = &*revision.id.0;
        let taken = self.solution_of.get(key)?;
        if taken.is_some_and(|other| other.value() != id.as_str()) {
            return Err(RecordsError::one(format!(
                "solution {id}: the id `{}` is a revision's of another solution",
                key.escape_debug()
            ))
            .into());
        }
        self.remove_revision(&revision.id)?;
        let alone = RevisionRecord {
            right_of_all: false,
            rights: Vec::new(),
            ..record.clone()
        };
        let bytes = bytes(&alone)?;
        self.revisions
            .insert((id.as_str(), key), bytes.as_slice())?;
        self.solution_of.insert(key, id.as_str())?;
        for image in &revision.images {
            let repository = image.repository.as_str();
            self.images.insert((repository, id.as_str(), key), ())?;
        }
        if record.right_of_all {
            self.put_right(&revision.id, &RightHolder::Everyone)?;
        }
        for login in &record.rights {
            self.put_right(&revision.id, &RightHolder::User(login.clone()))?;
        }
        Ok(())
    }

    fn remove_revision(&mut self, id: &RevisionId) -> Result<bool, EmbeddedError> {
        let key = &*id.0;
        let Some(solution) = self
            .solution_of
            .remove(key)?
            .map(|found| found.value().to_owned())
        else {
            return Ok(false);
        };
        let stored = self.revisions.remove((solution.as_str(), key))?;
        if let Some(stored) = stored {
            let record: RevisionRecord = parse(stored.value())?;
            for image in record.revision(&solution_id(&solution)?)?.images {
                let repository = image.repository.as_str();
                self.images.remove((repository, solution.as_str(), key))?;
            }
        }
        let last = after(key);
        self.rights
            .retain_in((key, "")..(last.as_str(), ""), |_, ()| false)?;
        Ok(true)
    }

    fn publish(&mut self, id: &SolutionId, catalog: &str) -> Result<(), EmbeddedError> {
        if self.catalogs.get(catalog)?.is_none() {
            let name = catalog.escape_debug();
            let problem = format!("solution {id}: `{name}` is no catalogue here");
            return Err(RecordsError::one(problem).into());
        }
        self.members.insert((id.as_str(), catalog), ())?;
        Ok(())
    }

    fn put_right(&mut self, id: &RevisionId, holder: &RightHolder) -> Result<(), EmbeddedError> {
        let user = self.holder(holder)?;
        self.rights.insert((&*id.0, user.as_str()), ())?;
        Ok(())
    }

    /// What a holder's rights are under
    fn holder(&self, holder: &RightHolder) -> Result<String, EmbeddedError> {
        match holder {
            RightHolder::Everyone => Ok(EVERYONE.to_owned()),
            RightHolder::User(login) => Ok(self.expect_user(login)?.0.as_ref().to_owned()),
        }
    }

    fn expect_user(&self, login: &str) -> Result<UserId, EmbeddedError> {
        let account: Option<AccountRecord> = find(&self.accounts, login)?;
        match account {
            Some(account) => Ok(account.user()),
            None => Err(RecordsError::one(format!(
                "`{}` is the login name of no account here",
                login.escape_debug()
            ))
            .into()),
        }
    }

    fn expect_solution(&self, id: &SolutionId) -> Result<(), EmbeddedError> {
        match self.solutions.get(id.as_str())? {
            Some(_) => Ok(()),
            None => Err(RecordsError::one(format!("there is no solution {id}")).into()),
        }
    }
}

fn answer(reading: &ReadTransaction, query: &Query) -> Result<Answer, EmbeddedError> {
    let solution = |id: &SolutionId| -> Result<Option<SolutionRecord>, EmbeddedError> {
        find(&reading.open_table(SOLUTIONS)?, id.as_str())
    };
    let user = |login: &str| -> Result<UserId, EmbeddedError> {
        let account = find::<AccountRecord>(&reading.open_table(ACCOUNTS)?, login)?;
        account
            .map(|account| account.user())
            .ok_or_else(|| damaged(format!("the account `{}` is missing", login.escape_debug())))
    };
    Ok(match query {
        Query::Account(login) => {
            let found = find::<AccountRecord>(&reading.open_table(ACCOUNTS)?, login)?;
            Answer::Account(found.map(|record| record.account()))
        }
        Query::Catalogs(id) => {
            let catalogs = reading.open_table(CATALOGS)?;
            let mut found = Vec::new();
            for name in catalogs_of(reading, id.as_str())? {
                let record = find::<CatalogRecord>(&catalogs, &name)?;
                found.extend(record.map(|record| record.catalog()));
            }
            Answer::Catalogs(found)
        }
        Query::Claimants(name) => {
            let images = reading.open_table(IMAGES)?;
            let mut found: Vec<SolutionId> = Vec::new();
            let (first, last) = (name.as_str(), after(name.as_str()));
            for entry in images.range((first, "", "")..(last.as_str(), "", ""))? {
                let id = solution_id(entry?.0.value().1)?;
                // They come in order.
                if found.last() != Some(&id) {
                    found.push(id);
                }
            }
            Answer::Claimants(found)
        }
        Query::CoOwners(id) => {
            let logins = solution(id)?.map_or_else(Vec::new, |record| record.co_owners);
            let users = logins.iter().map(|login| user(login));
            Answer::CoOwners(users.collect::<Result<_, _>>()?)
        }
        Query::License(id) => {
            let solution_of = reading.open_table(SOLUTION_OF)?;
            let record: Option<RevisionRecord> = match solution_of.get(&*id.0)? {
                Some(solution) => reading
                    .open_table(REVISIONS)?
                    .get((solution.value(), &*id.0))?
                    .map(|found| parse(found.value()))
                    .transpose()?,
                None => None,
            };
            Answer::License(record.map_or(License::Unknown, |record| record.license.into()))
        }
        Query::Revisions(id) => {
            let records = revisions_of(reading, id.as_str())?;
            let revisions = records.iter().map(|record| record.revision(id));
            Answer::Revisions(revisions.collect::<Result<_, _>>()?)
        }
        Query::Right(id, user) => {
            let rights = reading.open_table(RIGHTS)?;
            Answer::Right(if rights.get((&*id.0, &*user.0))?.is_some() {
                Right::Own
            } else if rights.get((&*id.0, EVERYONE))?.is_some() {
                Right::Everyone
            } else {
                no_right()
            })
        }
        Query::Solution(id) => Answer::Solution(match solution(id)? {
            Some(record) => Some(Solution {
                id: id.clone(),
                owner: user(&record.owner)?,
                name: record.name,
                active: record.active,
            }),
            None => None,
        }),
        Query::Tags(..) => return Err(damaged(not_asked_here(query).to_string())),
    })
}

fn export(reading: &ReadTransaction) -> Result<Records, EmbeddedError> {
    let mut records = Records::default();
    for entry in reading.open_table(ACCOUNTS)?.iter()? {
        records.accounts.push(parse(entry?.1.value())?);
    }
    for entry in reading.open_table(CATALOGS)?.iter()? {
        records.catalogs.push(parse(entry?.1.value())?);
    }
    let rights = reading.open_table(RIGHTS)?;
    let users = reading.open_table(USERS)?;
    for entry in reading.open_table(SOLUTIONS)?.iter()? {
        let mut solution: SolutionRecord = parse(entry?.1.value())?;
        let id = solution_id(&solution.id)?;
        solution.catalogs = catalogs_of(reading, id.as_str())?;
        solution.revisions = revisions_of(reading, id.as_str())?;
        for revision in &mut solution.revisions {
            let first = revision.revision_id(&id);
            let last = after(&first.0);
            for entry in rights.range((&*first.0, "")..(last.as_str(), ""))? {
                match entry?.0.value().1 {
                    EVERYONE => revision.right_of_all = true,
                    user => {
                        let login = users.get(user)?;
                        revision
                            .rights
                            .extend(login.map(|login| login.value().to_owned()));
                    }
                }
            }
        }
        records.solutions.push(solution);
    }
    Ok(records)
}

fn catalogs_of(reading: &ReadTransaction, id: &str) -> Result<Vec<String>, EmbeddedError> {
    let members = reading.open_table(MEMBERS)?;
    let names = members.range((id, "")..(after(id).as_str(), ""))?;
    let names = names.map(|entry| Ok(entry?.0.value().1.to_owned()));
    names.collect()
}

fn revisions_of(reading: &ReadTransaction, id: &str) -> Result<Vec<RevisionRecord>, EmbeddedError> {
    let revisions = reading.open_table(REVISIONS)?;
    let records = revisions.range((id, "")..(after(id).as_str(), ""))?;
    records.map(|entry| parse(entry?.1.value())).collect()
}

/// The first text that is greater
fn after(text: &str) -> String {
    format!("{text}\0")
}

fn solution_id(text: &str) -> Result<SolutionId, EmbeddedError> {
    text.parse()
        .map_err(|error: super::SolutionIdError| damaged(error.to_string()))
}

fn find<T: DeserializeOwned>(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &str,
) -> Result<Option<T>, EmbeddedError> {
    table
        .get(key)?
        .map(|found| parse(found.value()))
        .transpose()
}

fn put<T: Serialize>(
    table: &mut Table<'_, &'static str, &'static [u8]>,
    key: &str,
    record: &T,
) -> Result<(), EmbeddedError> {
    table.insert(key, bytes(record)?.as_slice())?;
    Ok(())
}

fn bytes<T: Serialize>(record: &T) -> Result<Vec<u8>, EmbeddedError> {
    serde_json::to_vec(record).map_err(|error| damaged(error.to_string()))
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, EmbeddedError> {
    serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))
}

fn damaged(detail: String) -> EmbeddedError {
    EmbeddedError::Database {
        source: format!("it holds what it should not: {detail}").into(),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EmbeddedError> + Send + 'static,
) -> Result<T, EmbeddedError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(damaged(error.to_string())))
}

/// The database's errors, which are of a type for each call
macro_rules! from_database {
    ($($kind:ident),+) => {
        $(impl From<redb::$kind> for EmbeddedError {
            fn from(error: redb::$kind) -> Self {
                Self::Database { source: error.into() }
            }
        })+
    };
}

from_database!(
    CommitError,
    DatabaseError,
    StorageError,
    TableError,
    TransactionError
);
