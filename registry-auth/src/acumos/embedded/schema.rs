//! The tables, and how a file comes to have them

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::EmbeddedError;

/// How long a process waits for another that writes
///
/// The largest import takes seconds, and everything else milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// What says that a database is a directory of ours: `RgDi`
const APPLICATION: i32 = 0x5267_4469;

/// The version of the tables
pub(super) const VERSION: i32 = 1;

/// As many statements as stay prepared: more than there are
const STATEMENTS: usize = 64;

/// The tables of [`VERSION`]
///
/// Users are known by their ids, under which ownership and rights go; names of roles are JSON
/// lists, since they are only ever read and written together.
const TABLES: &str = "
CREATE TABLE accounts (
    login TEXT NOT NULL PRIMARY KEY CHECK (login <> ''),
    id TEXT,
    user TEXT NOT NULL UNIQUE CHECK (user <> ''),
    email TEXT,
    active INTEGER NOT NULL,
    roles TEXT NOT NULL,
    password TEXT,
    password_cost INTEGER,
    password_changed INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX accounts_by_cost ON accounts (password_cost);

CREATE TABLE catalogs (
    name TEXT NOT NULL PRIMARY KEY,
    roles TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE solutions (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    owner TEXT NOT NULL REFERENCES accounts (user),
    active INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX solutions_by_owner ON solutions (owner);

CREATE TABLE co_owners (
    solution TEXT NOT NULL REFERENCES solutions (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    user TEXT NOT NULL REFERENCES accounts (user),
    PRIMARY KEY (solution, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX co_owners_by_user ON co_owners (user);

CREATE TABLE members (
    solution TEXT NOT NULL REFERENCES solutions (id) ON DELETE CASCADE,
    catalog TEXT NOT NULL REFERENCES catalogs (name) ON DELETE CASCADE,
    PRIMARY KEY (solution, catalog)
) STRICT, WITHOUT ROWID;
CREATE INDEX members_by_catalog ON members (catalog);

CREATE TABLE revisions (
    id TEXT NOT NULL PRIMARY KEY,
    has_own_id INTEGER NOT NULL,
    solution TEXT NOT NULL REFERENCES solutions (id) ON DELETE CASCADE,
    version TEXT NOT NULL,
    license TEXT NOT NULL,
    right_of_all INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX revisions_by_solution ON revisions (solution, id);

CREATE TABLE images (
    revision TEXT NOT NULL REFERENCES revisions (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    repository TEXT NOT NULL,
    tag TEXT NOT NULL,
    PRIMARY KEY (revision, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX images_by_repository ON images (repository);

CREATE TABLE rights (
    revision TEXT NOT NULL REFERENCES revisions (id) ON DELETE CASCADE,
    user TEXT NOT NULL REFERENCES accounts (user) ON DELETE CASCADE,
    PRIMARY KEY (revision, user)
) STRICT, WITHOUT ROWID;
CREATE INDEX rights_by_user ON rights (user);
";

/// Opens the file, which is made with its tables where there is none
pub(super) fn open(path: &Path) -> Result<Connection, EmbeddedError> {
    refuse_network(path)?;
    create(path).map_err(|source| EmbeddedError::File {
        path: path.to_owned(),
        source,
    })?;
    // No URIs: a name that begins with `file:` is a name.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.busy_timeout(PATIENCE)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    check(&connection, path)?;
    write_ahead(&connection)?;
    // A change that was acknowledged is there after a loss of power, too.
    connection.pragma_update(None, "synchronous", "FULL")?;
    migrate(&mut connection, path)?;
    Ok(connection)
}

/// Makes an empty file that only its owner can read: there are hashes of passwords in it
///
/// What the database puts beside it gets the same mode.
fn create(path: &Path) -> io::Result<()> {
    // Closing a file lets go of the locks that this process has on it, those of a database that
    // another thread opens at this moment included. So nobody gets that far meanwhile.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match made {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Err(_) if !path.is_file() => Err(io::Error::other("expected a regular file")),
        _ => Ok(()),
    }
}

/// Looks whether it is a directory of ours, of a version that is known here; `false` if it is
/// empty
fn check(connection: &Connection, path: &Path) -> Result<bool, EmbeddedError> {
    // One look at it all: between two of them another process may make the tables.
    let _at_once = connection
        .is_autocommit()
        .then(|| connection.unchecked_transaction())
        .transpose()?;
    let number = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0));
    let (application, version) = (number("application_id")?, number("user_version")?);
    if application == APPLICATION {
        return match version {
            VERSION => Ok(true),
            _ => Err(EmbeddedError::Version {
                path: path.to_owned(),
                found: version,
            }),
        };
    }
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if (application, version, tables) == (0, 0, 0) {
        Ok(false)
    } else {
        Err(EmbeddedError::Foreign {
            path: path.to_owned(),
        })
    }
}

/// Turns the write-ahead log on, in which readers and a writer do not wait for each other
fn write_ahead(connection: &Connection) -> Result<(), EmbeddedError> {
    let end = Instant::now() + PATIENCE;
    loop {
        // The first one needs the file for itself, and is not made to wait for it.
        let mode = connection
            .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0));
        match mode {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(mode) => {
                return Err(super::failed(format!(
                    "its file system has no shared memory for a write-ahead log (journal mode is \
                     `{mode}`); keep it on a local disk"
                )));
            }
            Err(error) if is_busy(&error) && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Makes the tables, unless another process was faster
fn migrate(connection: &mut Connection, path: &Path) -> Result<(), EmbeddedError> {
    if check(connection, path)? {
        return Ok(());
    }
    let writing = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if !check(&writing, path)? {
        writing.execute_batch(TABLES)?;
        writing.pragma_update(None, "application_id", APPLICATION)?;
        writing.pragma_update(None, "user_version", VERSION)?;
    }
    writing.commit()?;
    Ok(())
}

pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
}

/// Refuses file systems that other machines write to
///
/// The processes of a database share memory and locks, which reach no further than one machine.
#[cfg(target_os = "linux")]
fn refuse_network(path: &Path) -> Result<(), EmbeddedError> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    // What is not there is said when it is opened.
    let found = [path, folder]
        .into_iter()
        .find_map(|at| rustix::fs::statfs(at).ok());
    match found.and_then(|about| network(about.f_type as u64)) {
        Some(kind) => Err(EmbeddedError::Network {
            path: path.to_owned(),
            kind,
        }),
        None => Ok(()),
    }
}

#[cfg(not(target_os = "linux"))]
fn refuse_network(_: &Path) -> Result<(), EmbeddedError> {
    Ok(())
}

/// The name of a network file system by its number in Linux (`statfs(2)`)
#[cfg(target_os = "linux")]
fn network(kind: u64) -> Option<&'static str> {
    // Some platforms give the number with its sign.
    Some(match kind as u32 {
        0x6969 => "NFS",
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => "SMB",
        0x00c3_6400 => "Ceph",
        0x0102_1997 => "9P",
        0x5346_414f | 0x6b41_4653 => "AFS",
        0x7375_7245 => "Coda",
        0x0bd0_0bd0 => "Lustre",
        0x4750_4653 => "GPFS",
        0x0116_1970 => "GFS2",
        0x7461_636f => "OCFS2",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn network_file_systems_are_known_by_their_numbers() {
        assert_eq!(network(rustix::fs::NFS_SUPER_MAGIC as u64), Some("NFS"));
        // As a number with a sign gives it.
        assert_eq!(
            network(i64::from(0xff53_4d42_u32 as i32) as u64),
            Some("SMB")
        );
        let local = rustix::fs::statfs("/proc").unwrap().f_type as u64;
        assert_eq!(network(local), None);
    }

    #[test]
    fn a_newer_version_and_a_database_of_something_else_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let newer = folder.path().join("newer");
        let connection = open(&newer).unwrap();
        connection
            .pragma_update(None, "user_version", VERSION + 1)
            .unwrap();
        drop(connection);
        let error = open(&newer).unwrap_err().to_string();
        assert!(
            error.ends_with(
                "is of version 2, and this program knows version 1; use a newer program"
            ),
            "{error}"
        );

        let other = folder.path().join("other");
        Connection::open(&other)
            .unwrap()
            .execute_batch("CREATE TABLE recipes (name TEXT)")
            .unwrap();
        let error = open(&other).unwrap_err().to_string();
        assert!(error.contains("of something else"), "{error}");

        let text = folder.path().join("text");
        std::fs::write(&text, "accounts: [{ login: ada }]\n".repeat(100)).unwrap();
        let error = open(&text).unwrap_err().to_string();
        assert!(error.contains("not a database"), "{error}");
        assert!(open(folder.path()).is_err());
        assert!(open(&folder.path().join("no/such")).is_err());
    }
}
