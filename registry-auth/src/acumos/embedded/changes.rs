//! What changes in the tables, within a transaction

use std::collections::{HashMap, HashSet};
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, params};

use super::super::facts::{RevisionId, UserId};
use super::super::names::{SolutionId, SolutionIdError};
use super::super::records::{
    AccountRecord, CatalogRecord, Records, RecordsError, RevisionRecord, SolutionRecord,
};
use super::{EmbeddedError, RightHolder, failed, queries};

/// The tables, for writing
pub(super) struct Changes<'c> {
    connection: &'c Connection,
}

impl<'c> Changes<'c> {
    /// Works within the transaction of the connection
    pub(super) fn new(connection: &'c Connection) -> Self {
        Self { connection }
    }

    /// Puts these records, which were checked, in the place of everything
    ///
    /// Whose password stays the same stays logged in.
    pub(super) fn replace_all(&self, records: &Records) -> Result<(), EmbeddedError> {
        let mut before = HashMap::new();
        for account in &records.accounts {
            before.insert(
                account.login.as_str(),
                queries::account(self.connection, &account.login)?,
            );
        }
        self.connection
            .execute_batch("DELETE FROM solutions; DELETE FROM catalogs; DELETE FROM accounts;")?;
        for account in &records.accounts {
            let changed = match before.remove(account.login.as_str()).flatten() {
                Some((old, changed))
                    if old.password == account.password && old.user() == account.user() =>
                {
                    changed
                }
                Some(_) => changed_now()?,
                None => now()?,
            };
            self.write_account(account, changed)?;
        }
        for catalog in &records.catalogs {
            self.put_catalog(catalog)?;
        }
        for solution in &records.solutions {
            self.put_solution(solution)?;
        }
        Ok(())
    }

    pub(super) fn add_account(&self, account: &AccountRecord) -> Result<(), EmbeddedError> {
        if queries::account(self.connection, &account.login)?.is_some() {
            return refuse(format!(
                "there is an account `{}` already",
                account.login.escape_debug()
            ));
        }
        self.put_account(account)
    }

    pub(super) fn put_account(&self, account: &AccountRecord) -> Result<(), EmbeddedError> {
        let (login, user) = (account.login.as_str(), account.user());
        if login.is_empty() || user.0.is_empty() {
            return refuse("an account has an empty `login` or `id`");
        }
        let shown = login.escape_debug();
        let taken = queries::login_of(self.connection, &user.0)?;
        if taken.is_some_and(|other| other != login) {
            let id = user.0.escape_debug();
            return refuse(format!(
                "account `{shown}`: the id `{id}` is another account's"
            ));
        }
        let changed = match queries::account(self.connection, login)? {
            Some((before, _)) if before.user() != user => {
                let id = before.user();
                return refuse(format!(
                    "account `{shown}` has the id `{}`, which its rights are under; give it that \
                     id, or remove it first",
                    id.0.escape_debug()
                ));
            }
            Some((before, changed)) if before.password == account.password => changed,
            Some(_) => changed_now()?,
            None => now()?,
        };
        self.write_account(account, changed)
    }

    pub(super) fn change_account<T>(
        &self,
        login: &str,
        change: impl FnOnce(&mut AccountRecord) -> T,
    ) -> Result<T, EmbeddedError> {
        let Some((mut account, _)) = queries::account(self.connection, login)? else {
            return Err(no_account(login));
        };
        let given = change(&mut account);
        if account.login != login {
            return refuse(format!(
                "the login name of account `{}` cannot be changed",
                login.escape_debug()
            ));
        }
        self.put_account(&account)?;
        Ok(given)
    }

    pub(super) fn remove_account(&self, login: &str) -> Result<bool, EmbeddedError> {
        let Some((account, _)) = queries::account(self.connection, login)? else {
            return Ok(false);
        };
        if let Some(solution) = queries::owned_by(self.connection, &account.user().0)? {
            return refuse(format!(
                "`{}` owns solution {solution}; give it another owner first, or make the account \
                 inactive",
                login.escape_debug(),
            ));
        }
        self.execute("DELETE FROM accounts WHERE login = ?1", [login])?;
        Ok(true)
    }

    pub(super) fn add_catalog(&self, catalog: &CatalogRecord) -> Result<(), EmbeddedError> {
        if queries::has_catalog(self.connection, &catalog.name)? {
            return refuse(format!(
                "there is a catalogue `{}` already",
                catalog.name.escape_debug()
            ));
        }
        self.put_catalog(catalog)
    }

    pub(super) fn put_catalog(&self, catalog: &CatalogRecord) -> Result<(), EmbeddedError> {
        let roles = catalog.roles.as_deref().map(json).transpose()?;
        self.execute(
            "INSERT INTO catalogs (name, roles) VALUES (?1, ?2) \
             ON CONFLICT (name) DO UPDATE SET roles = excluded.roles",
            params![catalog.name, roles],
        )?;
        Ok(())
    }

    pub(super) fn remove_catalog(&self, name: &str) -> Result<bool, EmbeddedError> {
        let removed = self.execute("DELETE FROM catalogs WHERE name = ?1", [name])?;
        Ok(removed > 0)
    }

    pub(super) fn add_solution(&self, solution: &SolutionRecord) -> Result<(), EmbeddedError> {
        if queries::has_solution(self.connection, &solution.id)? {
            return refuse(format!("there is a solution {} already", solution.id));
        }
        self.put_solution(solution)
    }

    pub(super) fn put_solution(&self, solution: &SolutionRecord) -> Result<(), EmbeddedError> {
        let id: SolutionId = solution
            .id
            .parse()
            .map_err(|error: SolutionIdError| RecordsError::one(error.to_string()))?;
        self.remove_solution(&id)?;
        let owner = self.expect_user(&solution.owner)?;
        self.execute(
            "INSERT INTO solutions (id, name, owner, active) VALUES (?1, ?2, ?3, ?4)",
            params![id.as_str(), solution.name, &*owner.0, solution.active],
        )?;
        self.set_solution_owners(&id, &solution.owner, &solution.co_owners)?;
        for catalog in &solution.catalogs {
            self.publish(&id, catalog)?;
        }
        let mut given = HashSet::new();
        for revision in &solution.revisions {
            let revision_id = revision.revision_id(&id);
            if !given.insert(revision_id.clone()) {
                return refuse(format!(
                    "solution {id}: the id `{}` is another revision's too; give each an `id` of \
                     its own",
                    revision_id.0.escape_debug()
                ));
            }
            self.put_revision(&id, revision)?;
        }
        Ok(())
    }

    pub(super) fn set_solution_owners(
        &self,
        id: &SolutionId,
        owner: &str,
        co_owners: &[String],
    ) -> Result<(), EmbeddedError> {
        let owner = self.expect_user(owner)?;
        self.execute(
            "UPDATE solutions SET owner = ?2 WHERE id = ?1",
            [id.as_str(), &*owner.0],
        )?;
        self.execute("DELETE FROM co_owners WHERE solution = ?1", [id.as_str()])?;
        for (position, login) in (0_i64..).zip(co_owners) {
            let user = self.expect_user(login)?;
            self.execute(
                "INSERT INTO co_owners (solution, position, user) VALUES (?1, ?2, ?3)",
                params![id.as_str(), position, &*user.0],
            )?;
        }
        Ok(())
    }

    pub(super) fn set_solution_active(
        &self,
        id: &SolutionId,
        active: bool,
    ) -> Result<bool, EmbeddedError> {
        self.expect_solution(id)?;
        let changed = self.execute(
            "UPDATE solutions SET active = ?2 WHERE id = ?1 AND active <> ?2",
            params![id.as_str(), active],
        )?;
        Ok(active != (changed > 0))
    }

    pub(super) fn remove_solution(&self, id: &SolutionId) -> Result<bool, EmbeddedError> {
        let removed = self.execute("DELETE FROM solutions WHERE id = ?1", [id.as_str()])?;
        Ok(removed > 0)
    }

    pub(super) fn add_revision(
        &self,
        id: &SolutionId,
        record: &RevisionRecord,
    ) -> Result<(), EmbeddedError> {
        self.expect_solution(id)?;
        let revision = record.revision_id(id);
        if let Some(other) = queries::solution_of(self.connection, &revision.0)? {
            return refuse(format!(
                "there is a revision `{}` already, of solution {other}",
                revision.0.escape_debug()
            ));
        }
        let same = self
            .connection
            .prepare_cached("SELECT 1 FROM revisions WHERE solution = ?1 AND version = ?2")?
            .exists([id.as_str(), &record.version])?;
        if same {
            return refuse(format!(
                "solution {id} has a revision of version `{}` already",
                record.version.escape_debug()
            ));
        }
        self.put_revision(id, record)
    }

    pub(super) fn put_revision(
        &self,
        id: &SolutionId,
        record: &RevisionRecord,
    ) -> Result<(), EmbeddedError> {
        let revision = record.revision(id)?;
        let key = &*revision.id.0;
        let taken = queries::solution_of(self.connection, key)?;
        if taken.is_some_and(|other| other != id.as_str()) {
            return refuse(format!(
                "solution {id}: the id `{}` is a revision's of another solution",
                key.escape_debug()
            ));
        }
        self.remove_revision(&revision.id)?;
        self.execute(
            "INSERT INTO revisions (id, has_own_id, solution, version, license, right_of_all) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                key,
                record.id.is_some(),
                id.as_str(),
                record.version,
                record.license.name(),
                record.right_of_all
            ],
        )?;
        for (position, image) in (0_i64..).zip(&revision.images) {
            self.execute(
                "INSERT INTO images (revision, position, repository, tag) VALUES (?1, ?2, ?3, ?4)",
                params![key, position, image.repository.as_str(), image.tag.as_str()],
            )?;
        }
        for login in &record.rights {
            self.put_right(&revision.id, &RightHolder::User(login.clone()))?;
        }
        Ok(())
    }

    pub(super) fn remove_revision(&self, id: &RevisionId) -> Result<bool, EmbeddedError> {
        let removed = self.execute("DELETE FROM revisions WHERE id = ?1", [&*id.0])?;
        Ok(removed > 0)
    }

    pub(super) fn publish(&self, id: &SolutionId, catalog: &str) -> Result<(), EmbeddedError> {
        if !queries::has_catalog(self.connection, catalog)? {
            let name = catalog.escape_debug();
            return refuse(format!("solution {id}: `{name}` is no catalogue here"));
        }
        self.execute(
            "INSERT OR IGNORE INTO members (solution, catalog) VALUES (?1, ?2)",
            [id.as_str(), catalog],
        )?;
        Ok(())
    }

    pub(super) fn withdraw(&self, id: &SolutionId, catalog: &str) -> Result<bool, EmbeddedError> {
        let removed = self.execute(
            "DELETE FROM members WHERE solution = ?1 AND catalog = ?2",
            [id.as_str(), catalog],
        )?;
        Ok(removed > 0)
    }

    pub(super) fn put_right(
        &self,
        id: &RevisionId,
        holder: &RightHolder,
    ) -> Result<(), EmbeddedError> {
        match holder {
            RightHolder::Everyone => self.set_right_of_all(id, true)?,
            RightHolder::User(login) => {
                let user = self.expect_user(login)?;
                self.execute(
                    "INSERT OR IGNORE INTO rights (revision, user) VALUES (?1, ?2)",
                    [&*id.0, &*user.0],
                )?
            }
        };
        Ok(())
    }

    pub(super) fn remove_right(
        &self,
        id: &RevisionId,
        holder: &RightHolder,
    ) -> Result<bool, EmbeddedError> {
        let removed = match holder {
            RightHolder::Everyone => self.set_right_of_all(id, false)?,
            RightHolder::User(login) => {
                let user = self.expect_user(login)?;
                self.execute(
                    "DELETE FROM rights WHERE revision = ?1 AND user = ?2",
                    [&*id.0, &*user.0],
                )?
            }
        };
        Ok(removed > 0)
    }

    pub(super) fn expect_solution(&self, id: &SolutionId) -> Result<(), EmbeddedError> {
        if queries::has_solution(self.connection, id.as_str())? {
            Ok(())
        } else {
            refuse(format!("there is no solution {id}"))
        }
    }

    pub(super) fn expect_revision(&self, id: &RevisionId) -> Result<(), EmbeddedError> {
        match queries::solution_of(self.connection, &id.0)? {
            Some(_) => Ok(()),
            None => refuse(format!("there is no revision `{}`", id.0.escape_debug())),
        }
    }

    fn expect_user(&self, login: &str) -> Result<UserId, EmbeddedError> {
        match queries::account(self.connection, login)? {
            Some((account, _)) => Ok(account.user()),
            None => Err(no_account(login)),
        }
    }

    fn write_account(&self, account: &AccountRecord, changed: i64) -> Result<(), EmbeddedError> {
        let password = account.password.as_ref();
        self.execute(
            "INSERT INTO accounts \
             (login, id, user, email, active, roles, password, password_cost, password_changed) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) \
             ON CONFLICT (login) DO UPDATE SET id = excluded.id, email = excluded.email, \
             active = excluded.active, roles = excluded.roles, password = excluded.password, \
             password_cost = excluded.password_cost, \
             password_changed = excluded.password_changed",
            params![
                account.login,
                account.id,
                &*account.user().0,
                account.email,
                account.active,
                json(&account.roles)?,
                password.map(|hash| hash.as_str()),
                password.map(|hash| hash.cost()),
                changed
            ],
        )?;
        Ok(())
    }

    fn set_right_of_all(&self, id: &RevisionId, right: bool) -> Result<usize, EmbeddedError> {
        self.execute(
            "UPDATE revisions SET right_of_all = ?2 WHERE id = ?1 AND right_of_all <> ?2",
            params![&*id.0, right],
        )
    }

    /// How many rows changed
    fn execute(&self, sql: &str, values: impl rusqlite::Params) -> Result<usize, EmbeddedError> {
        Ok(self.connection.prepare_cached(sql)?.execute(values)?)
    }
}

fn refuse<T>(problem: impl Into<String>) -> Result<T, EmbeddedError> {
    Err(RecordsError::one(problem).into())
}

fn no_account(login: &str) -> EmbeddedError {
    RecordsError::one(format!(
        "`{}` is the login name of no account here",
        login.escape_debug()
    ))
    .into()
}

fn json(roles: &[String]) -> Result<String, EmbeddedError> {
    serde_json::to_string(roles).map_err(|error| failed(error.to_string()))
}

/// This second, since 1970
fn now() -> Result<i64, EmbeddedError> {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_err(|_| failed("the clock is before 1970; set it right".to_owned()))?;
    i64::try_from(since.as_secs()).map_err(|error| failed(error.to_string()))
}

/// The first second in which nobody can have logged in with the password of before
fn changed_now() -> Result<i64, EmbeddedError> {
    Ok(now()? + 1)
}
