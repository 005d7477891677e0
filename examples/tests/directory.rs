//! `registry directory`: what is typed, what is said, and what is in the database then

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use registry_auth::acumos::{Answer, Directory, DirectoryAuthenticator, EmbeddedDirectory, Query};
use registry_auth::{AuthenticateError, Authenticator, Credentials, Password, Principal};
use tempfile::TempDir;

const IRIS: &str = "9d294c20-7b1f-4ab7-b8b3-03bc7f069ac1";
const NOBODY: &str = "00000000-0000-4000-8000-000000000000";

/// A database in a folder of its own, and the command for it
struct Site {
    folder: TempDir,
}

/// What a command said, and whether it succeeded
#[derive(Debug, PartialEq, Eq)]
struct Said {
    success: bool,
    text: String,
}

impl Site {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn database(&self) -> PathBuf {
        self.folder.path().join("platform.db")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_registry"));
        command
            .args(["directory", "--database"])
            .arg(self.database())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Said {
        said(self.command(arguments).output().unwrap())
    }

    fn with_password(&self, arguments: &[&str], password: &str) -> Said {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(password.as_bytes()).unwrap();
        drop(stdin);
        said(child.wait_with_output().unwrap())
    }

    #[track_caller]
    fn succeeds(&self, arguments: &[&str], line: &str) {
        let expected = Said {
            success: true,
            text: format!("{line}\n"),
        };
        assert_eq!(self.run(arguments), expected, "{arguments:?}");
    }

    #[track_caller]
    fn fails(&self, arguments: &[&str], part: &str) {
        let before = fs::exists(self.database())
            .unwrap()
            .then(|| self.run(&["export"]));
        let said = self.run(arguments);
        assert!(!said.success, "{arguments:?}: {said:?}");
        assert!(said.text.starts_with("error: "), "{arguments:?}: {said:?}");
        assert!(said.text.contains(part), "{arguments:?}: {said:?}");
        assert_eq!(said.text.lines().count(), 1, "{said:?}");
        if let Some(before) = before {
            assert_eq!(self.run(&["export"]), before, "{arguments:?}");
        }
    }

    fn directory(&self) -> EmbeddedDirectory {
        EmbeddedDirectory::open(&self.database()).unwrap()
    }
}

fn said(output: Output) -> Said {
    let success = output.status.success();
    assert!(success || output.status.code() == Some(1), "{output:?}");
    let (text, other) = match success {
        true => (output.stdout, output.stderr),
        false => (output.stderr, output.stdout),
    };
    assert_eq!(String::from_utf8(other).unwrap(), "");
    Said {
        success,
        text: String::from_utf8(text).unwrap(),
    }
}

fn basic(user: &str, password: &str) -> Credentials {
    Credentials::Basic {
        user: user.to_owned(),
        password: Password::new(password),
    }
}

/// A platform with one of everything, made by commands
fn platform(site: &Site) {
    let added = site.with_password(
        &["user", "add", "ada", "--role", "Publisher", "--cost", "4"],
        "correct horse\n",
    );
    assert_eq!(
        (added.success, added.text.as_str()),
        (true, "user ada added\n")
    );
    site.succeeds(
        &[
            "user",
            "add",
            "bob",
            "--no-password",
            "--email",
            "bob@example.test",
        ],
        "user bob added",
    );
    site.succeeds(
        &["catalog", "add", "Public Models", "--visibility", "public"],
        "catalog `Public Models` added: public",
    );
    site.succeeds(
        &[
            "catalog",
            "add",
            "For partners",
            "--visibility",
            "restricted",
            "--role",
            "Partner",
            "--role",
            "Admin",
        ],
        "catalog `For partners` added: restricted to Partner, Admin",
    );
    site.succeeds(
        &[
            "solution",
            "add",
            "--id",
            IRIS,
            "--name",
            "Iris",
            "--owner",
            "ada",
            "--co-owner",
            "bob",
        ],
        &format!("solution {IRIS} added: Iris, of ada"),
    );
    site.succeeds(
        &[
            "revision",
            "add",
            "--solution",
            IRIS,
            "--id",
            "r-1",
            "--version",
            "1.0.0",
            "--image",
            "iris:1.0.0",
            "--license",
            "rtu",
        ],
        &format!("revision r-1 added: 1.0.0, of solution {IRIS}"),
    );
    site.succeeds(
        &["publish", IRIS, "Public Models"],
        &format!("solution {IRIS} published in catalog `Public Models`"),
    );
    site.succeeds(
        &["right", "grant", "--revision", "r-1", "--user", "bob"],
        "user bob may use revision r-1",
    );
}

#[test]
fn a_platform_is_made_changed_and_taken_apart_by_commands() {
    let site = Site::new();
    platform(&site);
    let mode = fs::metadata(site.database()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    site.succeeds(
        &["check"],
        "nothing is wrong: 2 users, 2 catalogs, 1 solution and 1 revision",
    );
    for (arguments, line) in [
        (&["user", "disable", "bob"][..], "user bob is disabled now"),
        (&["user", "disable", "bob"], "user bob was disabled already"),
        (&["user", "enable", "bob"], "user bob is enabled now"),
        (
            &["solution", "deactivate", IRIS],
            &format!("solution {IRIS} is inactive now"),
        ),
        (
            &["solution", "deactivate", IRIS],
            &format!("solution {IRIS} was inactive already"),
        ),
        (
            &["solution", "activate", IRIS],
            &format!("solution {IRIS} is active now"),
        ),
        (
            &["user", "roles", "ada", "Publisher", "Admin"],
            "user ada has these roles now: Publisher, Admin",
        ),
        (&["user", "roles", "ada"], "user ada has no roles now"),
        (
            &["solution", "give", IRIS, "bob", "--co-owner", "ada"],
            &format!("solution {IRIS} belongs to bob now"),
        ),
        (
            &["solution", "give", IRIS, "ada"],
            &format!("solution {IRIS} belongs to ada now"),
        ),
        (
            &["right", "grant", "--revision", "r-1", "--everyone"],
            "everyone may use revision r-1",
        ),
        (
            &["right", "revoke", "--revision", "r-1", "--everyone"],
            "the right of everyone to use revision r-1 is revoked",
        ),
        (
            &["right", "revoke", "--revision", "r-1", "--user", "bob"],
            "the right of user bob to use revision r-1 is revoked",
        ),
        (
            &["withdraw", IRIS, "Public Models"],
            &format!("solution {IRIS} withdrawn from catalog `Public Models`"),
        ),
        (
            &["catalog", "remove", "For partners"],
            "catalog `For partners` removed",
        ),
        (&["revision", "remove", "r-1"], "revision r-1 removed"),
        (
            &["solution", "remove", IRIS],
            &format!("solution {IRIS} removed"),
        ),
        (&["user", "remove", "bob"], "user bob removed"),
        (
            &["check"],
            "nothing is wrong: 1 user, 1 catalog, 0 solutions and 0 revisions",
        ),
    ] {
        site.succeeds(arguments, line);
    }
}

#[test]
fn what_is_exported_can_be_imported() {
    let (site, other) = (Site::new(), Site::new());
    platform(&site);
    let exported = site.run(&["export"]);
    assert!(exported.success, "{exported:?}");
    let path = other.folder.path().join("records.yml");
    fs::write(&path, &exported.text).unwrap();
    let path = path.to_str().unwrap();
    other.succeeds(
        &["import", path],
        &format!(
            "2 users, 2 catalogs, 1 solution and 1 revision imported from {path}, in the place of \
             all that was there"
        ),
    );
    assert_eq!(other.run(&["export"]), exported);
    // It says what was meant, and the password is there as a hash only.
    for part in [
        "login: ada",
        "Publisher",
        "bob@example.test",
        "license: right-required",
        "iris:1.0.0",
        "$2y$04$",
    ] {
        assert!(exported.text.contains(part), "{part}: {}", exported.text);
    }
    assert!(!exported.text.contains("correct horse"));

    fs::write(path, exported.text.replace("owner: ada", "owner: eve")).unwrap();
    other.fails(&["import", path], "`eve` is the login name of no account");
    fs::write(path, exported.text.replace("$2y$04$", "hunter2")).unwrap();
    other.fails(&["import", path], "expected the bcrypt hash of a password");
    other.fails(&["import", "no/such/file"], "cannot read `no/such/file`");
}

#[test]
fn ids_are_made_where_none_are_given() {
    let site = Site::new();
    site.succeeds(&["user", "add", "ada", "--no-password"], "user ada added");
    let added = site.run(&["solution", "add", "--name", "Iris", "--owner", "ada"]);
    let id = added.text.split(' ').nth(1).unwrap();
    assert_eq!(added.text, format!("solution {id} added: Iris, of ada\n"));
    let added = site.run(&["revision", "add", "--solution", id, "--version", "1"]);
    let revision = added.text.split(' ').nth(1).unwrap();
    assert_eq!((id.len(), revision.len()), (36, 36), "{added:?}");
    site.succeeds(
        &["right", "grant", "--revision", revision, "--everyone"],
        &format!("everyone may use revision {revision}"),
    );
}

#[test]
fn what_is_not_there_or_does_not_fit_is_said_and_changes_nothing() {
    let site = Site::new();
    for arguments in [
        &["export"][..],
        &["check"],
        &["user", "disable", "ada"],
        &["publish", IRIS, "x"],
    ] {
        site.fails(arguments, "there is no database");
        assert!(!site.database().exists(), "{arguments:?}");
    }
    platform(&site);
    for (arguments, part) in [
        (
            &["user", "add", "ada", "--no-password"][..],
            "there is an account `ada` already",
        ),
        (&["user", "add", "eve"], "the password is empty"),
        (
            &["user", "disable", "eve"],
            "`eve` is the login name of no account",
        ),
        (
            &["user", "enable", "eve"],
            "`eve` is the login name of no account",
        ),
        (&["user", "remove", "eve"], "there is no user `eve`"),
        (&["user", "roles", "eve", "Admin"], "`eve`"),
        (&["solution", "give", NOBODY, "ada"], "there is no solution"),
        (
            &["solution", "give", IRIS, "ada", "--co-owner", "eve"],
            "`eve`",
        ),
        (&["user", "remove", "ada"], "`ada` owns solution"),
        (&["user", "remove", "bob"], "`bob` owns solution"),
        (
            &["solution", "add", "--name", "x", "--owner", "eve"],
            "`eve`",
        ),
        (
            &[
                "solution", "add", "--id", IRIS, "--name", "x", "--owner", "ada",
            ],
            "already",
        ),
        (&["solution", "remove", NOBODY], "there is no solution"),
        (&["solution", "activate", NOBODY], "there is no solution"),
        (
            &["revision", "add", "--solution", NOBODY, "--version", "1"],
            "there is no solution",
        ),
        (
            &["revision", "add", "--solution", IRIS, "--version", "1.0.0"],
            "has a revision of version `1.0.0` already",
        ),
        (
            &[
                "revision",
                "add",
                "--solution",
                IRIS,
                "--version",
                "2",
                "--image",
                "Iris",
            ],
            "expected an image as `repository:tag`",
        ),
        (&["revision", "remove", "r-9"], "there is no revision `r-9`"),
        (&["catalog", "add", "Public Models"], "already"),
        (
            &["catalog", "add", "x", "--visibility", "restricted"],
            "expected at least one `--role ROLE`",
        ),
        (
            &["catalog", "add", "x", "--role", "y"],
            "leave `--role` out",
        ),
        (&["catalog", "remove", "x"], "there is no catalog `x`"),
        (&["publish", IRIS, "x"], "`x` is no catalogue"),
        (
            &["publish", NOBODY, "Public Models"],
            "there is no solution",
        ),
        (&["withdraw", IRIS, "For partners"], "there is no solution"),
        (
            &["right", "grant", "--revision", "r-9", "--everyone"],
            "there is no revision `r-9`",
        ),
        (
            &["right", "grant", "--revision", "r-1", "--user", "eve"],
            "`eve`",
        ),
        (
            &["right", "revoke", "--revision", "r-1", "--everyone"],
            "there is no right of everyone",
        ),
    ] {
        site.fails(arguments, part);
    }
    // What cannot be read at all is a mistake in the typing.
    for arguments in [
        &["solution", "remove", "1"][..],
        &["right", "grant", "--revision", "r-1"],
        &[
            "right",
            "grant",
            "--revision",
            "r-1",
            "--everyone",
            "--user",
            "bob",
        ],
        &["user"],
    ] {
        let output = site.command(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}

#[tokio::test]
async fn who_serves_sees_with_the_next_request_what_the_command_changed() {
    let site = Site::new();
    platform(&site);
    let realm = "Acumos".parse().unwrap();
    let users = DirectoryAuthenticator::new(site.directory(), realm, Default::default()).unwrap();
    let ada = || Ok(Principal::user("ada").with_roles(["Publisher"]));
    let refused = Err(AuthenticateError::Rejected);
    let log_in = async |password| users.authenticate(&basic("ada", password)).await;
    assert_eq!(log_in("correct horse").await, ada());

    let changed = site.with_password(&["user", "passwd", "ada", "--cost", "4"], "battery\r\n");
    assert_eq!(changed.text, "password of user ada changed\n");
    assert_eq!(log_in("correct horse").await, refused);
    assert_eq!(log_in("battery").await, ada());
    site.succeeds(&["user", "disable", "ada"], "user ada is disabled now");
    assert_eq!(log_in("battery").await, refused);
    site.succeeds(&["user", "enable", "ada"], "user ada is enabled now");
    assert_eq!(log_in("battery").await, ada());
    let unknown = site.with_password(&["user", "passwd", "eve"], "x\n");
    assert!(!unknown.success, "{unknown:?}");
}

#[test]
fn many_who_write_at_a_time_lose_nothing() {
    let site = Site::new();
    site.succeeds(&["user", "add", "ada", "--no-password"], "user ada added");
    thread::scope(|scope| {
        for writer in 0..4 {
            let site = &site;
            scope.spawn(move || {
                for number in 0..5 {
                    let login = format!("user-{writer}-{number}");
                    let arguments = ["user", "add", &login, "--no-password"];
                    site.succeeds(&arguments, &format!("user {login} added"));
                }
            });
        }
    });
    site.succeeds(
        &["check"],
        "nothing is wrong: 21 users, 0 catalogs, 0 solutions and 0 revisions",
    );
}

#[tokio::test]
async fn who_is_killed_while_writing_leaves_all_of_before_or_all_of_after() {
    let site = Site::new();
    // Two states, told apart by how many accounts there are.
    let path = |count: usize| {
        let path = site.folder.path().join(format!("{count}.yml"));
        let accounts: String = (0..count)
            .map(|number| format!("- {{ login: user-{number} }}\n"))
            .collect();
        fs::write(&path, format!("accounts:\n{accounts}")).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let states = [4000, 4001];
    let paths = states.map(path);
    assert!(site.run(&["import", &paths[0]]).success);
    // Someone has it open all the time, as a registry does.
    let serving = site.directory();
    let mut killed = 0;
    for round in 0..20_u64 {
        let mut child = site
            .command(&["import", &paths[round as usize % 2]])
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_millis(10 * round));
        child.kill().unwrap();
        killed += usize::from(child.wait().unwrap().code().is_none());
        let records = serving.check().await.unwrap();
        assert!(states.contains(&records.accounts.len()));
        let answer = serving.answer(&Query::Account("user-1".to_owned())).await;
        assert!(matches!(answer, Ok(Answer::Account(Some(_)))), "{answer:?}");
    }
    assert!(killed > 0, "none was killed in time");
    // Nor does it keep others from writing.
    site.succeeds(
        &["user", "disable", "user-1"],
        "user user-1 is disabled now",
    );
}
