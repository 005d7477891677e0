//! What is asked of the tables: a statement for each question, whatever there is

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::super::facts::{Answer, Query, Revision, RevisionId, Right, Solution, UserId};
use super::super::file::not_asked_here;
use super::super::names::{ImageName, SolutionId, SolutionIdError};
use super::super::passwords::{Login, PasswordHash};
use super::super::records::{
    AccountRecord, CatalogRecord, LicenseRecord, Records, RevisionRecord, SolutionRecord, no_right,
};
use super::{EmbeddedError, failed};

/// One account, with all that a record of it has
const ACCOUNT: &str = "SELECT login, id, email, active, roles, password, password_changed \
     FROM accounts WHERE login = ?1";
const CATALOGS: &str = "SELECT c.name, c.roles FROM members m \
     JOIN catalogs c ON c.name = m.catalog WHERE m.solution = ?1 ORDER BY m.catalog";
const CLAIMANTS: &str = "SELECT DISTINCT r.solution FROM images i \
     JOIN revisions r ON r.id = i.revision WHERE i.repository = ?1 ORDER BY r.solution";
const CO_OWNERS: &str = "SELECT user FROM co_owners WHERE solution = ?1 ORDER BY position";
const LICENSE: &str = "SELECT license FROM revisions WHERE id = ?1";
const REVISIONS: &str = "SELECT r.id, r.version, i.repository, i.tag FROM revisions r \
     LEFT JOIN images i ON i.revision = r.id WHERE r.solution = ?1 ORDER BY r.id, i.position";
const RIGHT: &str = "SELECT r.right_of_all, \
     EXISTS (SELECT 1 FROM rights WHERE revision = r.id AND user = ?2) \
     FROM revisions r WHERE r.id = ?1";
const SOLUTION: &str = "SELECT name, owner, active FROM solutions WHERE id = ?1";
const HIGHEST_COST: &str = "SELECT max(password_cost) FROM accounts";

pub(super) fn answer(connection: &Connection, query: &Query) -> Result<Answer, EmbeddedError> {
    Ok(match query {
        Query::Account(login) => {
            Answer::Account(account(connection, login)?.map(|(record, _)| record.account()))
        }
        Query::Catalogs(id) => {
            let mut statement = connection.prepare_cached(CATALOGS)?;
            let mut rows = statement.query([id.as_str()])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push(catalog(row)?.catalog());
            }
            Answer::Catalogs(found)
        }
        Query::Claimants(name) => {
            let mut statement = connection.prepare_cached(CLAIMANTS)?;
            let mut rows = statement.query([name.as_str()])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                found.push(solution_id(text(row, 0)?)?);
            }
            Answer::Claimants(found)
        }
        Query::CoOwners(id) => {
            let mut statement = connection.prepare_cached(CO_OWNERS)?;
            let users = statement.query_map([id.as_str()], |row| row.get::<_, String>(0))?;
            Answer::CoOwners(
                users
                    .map(|user| user.map(UserId::new))
                    .collect::<Result<_, _>>()?,
            )
        }
        Query::License(id) => {
            let mut statement = connection.prepare_cached(LICENSE)?;
            let name: Option<String> =
                statement.query_row([&*id.0], |row| row.get(0)).optional()?;
            let license = name.map_or(Ok(LicenseRecord::Unknown), |name| license(&name));
            Answer::License(license?.into())
        }
        Query::Revisions(id) => {
            let mut statement = connection.prepare_cached(REVISIONS)?;
            let mut rows = statement.query([id.as_str()])?;
            let mut found: Vec<Revision> = Vec::new();
            while let Some(row) = rows.next()? {
                let revision = text(row, 0)?;
                // They come in order.
                if found.last().is_none_or(|last| &*last.id.0 != revision) {
                    found.push(Revision {
                        id: RevisionId::new(revision),
                        version: row.get(1)?,
                        images: Vec::new(),
                    });
                }
                if let (Some(image), Some(last)) = (image(row, 2)?, found.last_mut()) {
                    last.images.push(image);
                }
            }
            Answer::Revisions(found)
        }
        Query::Right(id, user) => {
            let mut statement = connection.prepare_cached(RIGHT)?;
            let found: Option<(bool, bool)> = statement
                .query_row([&*id.0, &*user.0], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            Answer::Right(match found {
                Some((_, true)) => Right::Own,
                Some((true, false)) => Right::Everyone,
                Some((false, false)) | None => no_right(),
            })
        }
        Query::Solution(id) => {
            let mut statement = connection.prepare_cached(SOLUTION)?;
            let found = statement
                .query_row([id.as_str()], |row| {
                    Ok(Solution {
                        id: id.clone(),
                        name: row.get(0)?,
                        owner: UserId::new(row.get::<_, String>(1)?),
                        active: row.get(2)?,
                    })
                })
                .optional()?;
            Answer::Solution(found)
        }
        Query::Tags(..) => return Err(failed(not_asked_here(query).to_string())),
    })
}

/// What a login is checked against
pub(super) fn login(connection: &Connection, login: &str) -> Result<Login, EmbeddedError> {
    let found = account(connection, login)?;
    let highest_cost: Option<u32> = connection
        .prepare_cached(HIGHEST_COST)?
        .query_row([], |row| row.get(0))?;
    Ok(Login::new(found, highest_cost))
}

/// An account, and when its password was set
pub(super) fn account(
    connection: &Connection,
    login: &str,
) -> Result<Option<(AccountRecord, i64)>, EmbeddedError> {
    let mut statement = connection.prepare_cached(ACCOUNT)?;
    let mut rows = statement.query([login])?;
    rows.next()?.map(account_of).transpose()
}

/// Looks through the file for damage
pub(super) fn integrity(connection: &Connection) -> Result<(), EmbeddedError> {
    let found: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if found != "ok" {
        return Err(failed(format!("it is damaged: {found}")));
    }
    let orphan: Option<String> = connection
        .query_row("PRAGMA foreign_key_check", [], |row| row.get(0))
        .optional()?;
    match orphan {
        None => Ok(()),
        Some(table) => Err(failed(format!(
            "it is damaged: something in `{table}` belongs to what is not there"
        ))),
    }
}

pub(super) fn has_catalog(connection: &Connection, name: &str) -> Result<bool, EmbeddedError> {
    exists(connection, "SELECT 1 FROM catalogs WHERE name = ?1", name)
}

pub(super) fn has_solution(connection: &Connection, id: &str) -> Result<bool, EmbeddedError> {
    exists(connection, "SELECT 1 FROM solutions WHERE id = ?1", id)
}

/// The solution that a revision is of
pub(super) fn solution_of(
    connection: &Connection,
    revision: &str,
) -> Result<Option<String>, EmbeddedError> {
    let mut statement =
        connection.prepare_cached("SELECT solution FROM revisions WHERE id = ?1")?;
    Ok(statement
        .query_row([revision], |row| row.get(0))
        .optional()?)
}

/// The login name of the account with this id
pub(super) fn login_of(
    connection: &Connection,
    user: &str,
) -> Result<Option<String>, EmbeddedError> {
    let mut statement = connection.prepare_cached("SELECT login FROM accounts WHERE user = ?1")?;
    Ok(statement.query_row([user], |row| row.get(0)).optional()?)
}

/// A solution that the user owns, alone or with others
pub(super) fn owned_by(
    connection: &Connection,
    user: &str,
) -> Result<Option<String>, EmbeddedError> {
    let mut statement = connection.prepare_cached(
        "SELECT id FROM solutions WHERE owner = ?1 \
         UNION ALL SELECT solution FROM co_owners WHERE user = ?1 LIMIT 1",
    )?;
    Ok(statement.query_row([user], |row| row.get(0)).optional()?)
}

fn exists(connection: &Connection, sql: &str, key: &str) -> Result<bool, EmbeddedError> {
    Ok(connection.prepare_cached(sql)?.exists([key])?)
}

/// Everything, in order of names and ids
pub(super) fn export(connection: &Connection) -> Result<Records, EmbeddedError> {
    let mut records = Records::default();
    let mut statement = connection.prepare(
        "SELECT login, id, email, active, roles, password, password_changed \
         FROM accounts ORDER BY login",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        records.accounts.push(account_of(row)?.0);
    }
    let mut statement = connection.prepare("SELECT name, roles FROM catalogs ORDER BY name")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        records.catalogs.push(catalog(row)?);
    }
    let mut statement = connection.prepare(
        "SELECT s.id, s.name, a.login, s.active FROM solutions s \
         JOIN accounts a ON a.user = s.owner ORDER BY s.id",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let id: String = row.get(0)?;
        records.solutions.push(SolutionRecord {
            name: row.get(1)?,
            owner: row.get(2)?,
            co_owners: names(
                connection,
                "SELECT a.login FROM co_owners c JOIN accounts a ON a.user = c.user \
                 WHERE c.solution = ?1 ORDER BY c.position",
                &id,
            )?,
            active: row.get(3)?,
            catalogs: names(
                connection,
                "SELECT catalog FROM members WHERE solution = ?1 ORDER BY catalog",
                &id,
            )?,
            revisions: revisions(connection, &id)?,
            id,
        });
    }
    Ok(records)
}

fn revisions(
    connection: &Connection,
    solution: &str,
) -> Result<Vec<RevisionRecord>, EmbeddedError> {
    let mut statement = connection.prepare_cached(
        "SELECT id, has_own_id, version, license, right_of_all FROM revisions \
         WHERE solution = ?1 ORDER BY id",
    )?;
    let mut rows = statement.query([solution])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let id: String = row.get(0)?;
        let has_own_id: bool = row.get(1)?;
        found.push(RevisionRecord {
            version: row.get(2)?,
            images: names(
                connection,
                "SELECT repository || ':' || tag FROM images WHERE revision = ?1 ORDER BY position",
                &id,
            )?,
            license: license(text(row, 3)?)?,
            right_of_all: row.get(4)?,
            rights: names(
                connection,
                "SELECT a.login FROM rights r JOIN accounts a ON a.user = r.user \
                 WHERE r.revision = ?1 ORDER BY r.user",
                &id,
            )?,
            id: has_own_id.then_some(id),
        });
    }
    Ok(found)
}

/// The texts that a statement gives for a key
fn names(connection: &Connection, sql: &str, key: &str) -> Result<Vec<String>, EmbeddedError> {
    let mut statement = connection.prepare_cached(sql)?;
    let found = statement.query_map(params![key], |row| row.get(0))?;
    Ok(found.collect::<Result<_, _>>()?)
}

fn account_of(row: &Row<'_>) -> Result<(AccountRecord, i64), EmbeddedError> {
    let password: Option<String> = row.get(5)?;
    let record = AccountRecord {
        login: row.get(0)?,
        id: row.get(1)?,
        email: row.get(2)?,
        active: row.get(3)?,
        roles: roles(text(row, 4)?)?,
        password: password
            .map(|text| text.parse::<PasswordHash>())
            .transpose()
            .map_err(damaged)?,
    };
    Ok((record, row.get(6)?))
}

fn catalog(row: &Row<'_>) -> Result<CatalogRecord, EmbeddedError> {
    let seen_by: Option<String> = row.get(1)?;
    Ok(CatalogRecord {
        name: row.get(0)?,
        roles: seen_by.map(|text| roles(&text)).transpose()?,
    })
}

/// An image in two columns, if there is one
fn image(row: &Row<'_>, at: usize) -> Result<Option<ImageName>, EmbeddedError> {
    let Some(repository) = row.get_ref(at)?.as_str_or_null().map_err(damaged)? else {
        return Ok(None);
    };
    Ok(Some(ImageName {
        repository: repository.parse().map_err(damaged)?,
        tag: text(row, at + 1)?.parse().map_err(damaged)?,
    }))
}

fn text<'r>(row: &'r Row<'_>, at: usize) -> Result<&'r str, EmbeddedError> {
    row.get_ref(at)?.as_str().map_err(damaged)
}

fn roles(json: &str) -> Result<Vec<String>, EmbeddedError> {
    serde_json::from_str(json).map_err(damaged)
}

fn license(name: &str) -> Result<LicenseRecord, EmbeddedError> {
    LicenseRecord::named(name)
        .ok_or_else(|| damaged(format!("`{}` is no licence", name.escape_debug())))
}

fn solution_id(text: &str) -> Result<SolutionId, EmbeddedError> {
    text.parse()
        .map_err(|error: SolutionIdError| damaged(error))
}

fn damaged(detail: impl std::fmt::Display) -> EmbeddedError {
    failed(format!("it holds what it should not: {detail}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acumos::embedded::schema;

    #[test]
    fn no_question_looks_through_a_table() {
        let folder = tempfile::tempdir().unwrap();
        let connection = schema::open(&folder.path().join("platform.db")).unwrap();
        for sql in [
            ACCOUNT,
            CATALOGS,
            CLAIMANTS,
            CO_OWNERS,
            LICENSE,
            REVISIONS,
            RIGHT,
            SOLUTION,
            HIGHEST_COST,
        ] {
            let mut statement = connection
                .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
                .unwrap();
            let nothing = vec!["x"; statement.parameter_count()];
            let steps: Vec<String> = statement
                .query_map(rusqlite::params_from_iter(nothing), |row| row.get(3))
                .unwrap()
                .collect::<Result<_, _>>()
                .unwrap();
            assert!(
                steps.iter().any(|step| step.starts_with("SEARCH")),
                "{sql}: {steps:?}"
            );
            assert!(
                !steps.iter().any(|step| step.starts_with("SCAN ")),
                "{sql}: {steps:?}"
            );
        }
    }

    #[test]
    fn damage_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let connection = schema::open(&folder.path().join("platform.db")).unwrap();
        integrity(&connection).unwrap();
        connection
            .execute_batch(
                "PRAGMA foreign_keys = off; INSERT INTO rights VALUES ('revision', 'user');",
            )
            .unwrap();
        let error = integrity(&connection).unwrap_err().to_string();
        assert!(error.contains("something in `rights` belongs"), "{error}");
        connection
            .execute_batch(
                "INSERT INTO accounts VALUES ('ada', null, 'ada', null, 1, 'x', null, null, 0);",
            )
            .unwrap();
        let error = account(&connection, "ada").unwrap_err().to_string();
        assert!(error.contains("holds what it should not"), "{error}");
    }
}
