//! Users of a directory by their passwords

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use registry_auth::acumos::{
    AccountRecord, DirectoryAuthenticator, EmbeddedDirectory, FileDirectory, Passwords, Records,
};
use registry_auth::htpasswd::Options;
use registry_auth::token::Accounts;
use registry_auth::{
    AuthenticateError, Authenticator, ChallengeReason, Credentials, Password, Principal,
};

/// Made by Debian's `htpasswd -nbB -C 4 ada 'correct horse'`
const HASH: &str = "$2y$04$1OPuzxJJhXT5NoTnCgjGeu/f/Nf3FH214vJZnGn0oOaD4pYB4pnQa";

const REJECTED: Result<Principal, AuthenticateError> = Err(AuthenticateError::Rejected);

fn users(directory: impl Passwords) -> DirectoryAuthenticator {
    DirectoryAuthenticator::new(directory, "Acumos".parse().unwrap(), Options::default()).unwrap()
}

async fn log_in(
    users: &DirectoryAuthenticator,
    user: &str,
    password: &str,
) -> Result<Principal, AuthenticateError> {
    let credentials = Credentials::Basic {
        user: user.to_owned(),
        password: Password::new(password),
    };
    users.authenticate(&credentials).await
}

fn text() -> String {
    format!(
        "accounts:\n\
         - {{ login: ada, roles: [Publisher], password: '{HASH}' }}\n\
         - {{ login: dan, active: false, password: '{HASH}' }}\n\
         - {{ login: bob }}\n"
    )
}

fn ada() -> Result<Principal, AuthenticateError> {
    Ok(Principal::user("ada").with_roles(["Publisher"]))
}

/// What holds of any directory of [`text`]
async fn check(users: &DirectoryAuthenticator) {
    assert_eq!(log_in(users, "ada", "correct horse").await, ada());
    for (user, password) in [
        ("ada", "correct horsf"),
        ("ada", ""),
        ("ada", "correct horse\0correct horse"),
        ("ADA", "correct horse"),
        // Not active, without a password, and not there.
        ("dan", "correct horse"),
        ("bob", "correct horse"),
        ("bob", ""),
        ("eve", "correct horse"),
        ("", "correct horse"),
        (&"a".repeat(10_000), "correct horse"),
    ] {
        assert_eq!(log_in(users, user, password).await, REJECTED, "{user}");
    }
    let anonymous = users.authenticate(&Credentials::None).await;
    assert_eq!(anonymous, Ok(Principal::Anonymous));
    let bearer = Credentials::Bearer(Password::new("ada"));
    assert_eq!(users.authenticate(&bearer).await, REJECTED);
    assert_eq!(
        users
            .challenge(&[], ChallengeReason::LoginRequired)
            .as_deref(),
        Some("Basic realm=\"Acumos\"")
    );
    let since = SystemTime::now() + Duration::from_secs(1);
    assert_eq!(users.account("ada", since).await, ada());
    assert_eq!(users.account("ada", SystemTime::UNIX_EPOCH).await, REJECTED);
    for name in ["dan", "bob", "eve", ""] {
        assert_eq!(users.account(name, since).await, REJECTED, "{name}");
    }
    assert!(!format!("{users:?}").contains("$2y$"));
}

#[tokio::test]
async fn users_of_a_file_log_in() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("platform.yml");
    fs::write(&path, text()).unwrap();
    let directory = Arc::new(FileDirectory::open(&path).unwrap());
    let users = users(directory.clone());
    check(&users).await;

    // A login from before a change of the password counts no more; others are not touched.
    let mut other = AccountRecord::new("ada");
    other.set_password(&Password::new("battery"), 4).unwrap();
    let other = other.password.unwrap();
    let more = format!("- {{ login: eve, password: '{HASH}' }}\n");
    fs::write(&path, text() + &more).unwrap();
    directory.reload().unwrap();
    let since = SystemTime::now();
    assert_eq!(users.account("ada", since).await, ada());
    fs::write(&path, text().replacen(HASH, other.as_str(), 1) + &more).unwrap();
    directory.reload().unwrap();
    assert_eq!(users.account("ada", since).await, REJECTED);
    assert_eq!(
        users.account("eve", since).await,
        Ok(Principal::user("eve"))
    );
    assert_eq!(log_in(&users, "ada", "correct horse").await, REJECTED);
    assert_eq!(log_in(&users, "ada", "battery").await, ada());
    assert_eq!(
        log_in(&users, "eve", "correct horse").await,
        Ok(Principal::user("eve"))
    );
}

#[tokio::test]
async fn users_of_a_database_log_in_and_what_an_operator_changes_counts_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("platform.db");
    let directory = EmbeddedDirectory::open(&path).unwrap();
    directory.import(text().parse().unwrap()).await.unwrap();
    let users = users(directory);
    check(&users).await;

    let operator = EmbeddedDirectory::open(&path).unwrap();
    let set_active = async |active| {
        operator
            .change_account("ada", move |ada| ada.active = active)
            .await
            .unwrap();
    };
    let since = SystemTime::now() + Duration::from_secs(1);
    set_active(false).await;
    assert_eq!(log_in(&users, "ada", "correct horse").await, REJECTED);
    assert_eq!(users.account("ada", since).await, REJECTED);
    set_active(true).await;
    assert_eq!(log_in(&users, "ada", "correct horse").await, ada());
    assert_eq!(users.account("ada", since).await, ada());

    // The same records again change nothing, and another password calls logins off.
    let records = operator.records().await.unwrap();
    operator.import(records).await.unwrap();
    let now = SystemTime::now();
    assert_eq!(users.account("ada", now).await, ada());
    operator
        .change_account("ada", |ada| {
            ada.set_password(&Password::new("battery"), 5).unwrap();
        })
        .await
        .unwrap();
    assert_eq!(users.account("ada", now).await, REJECTED);
    let later = SystemTime::now() + Duration::from_secs(2);
    assert_eq!(users.account("ada", later).await, ada());
    assert_eq!(log_in(&users, "ada", "correct horse").await, REJECTED);
    assert_eq!(log_in(&users, "ada", "battery").await, ada());
    operator.remove_account("ada").await.unwrap();
    assert_eq!(log_in(&users, "ada", "battery").await, REJECTED);
}

#[tokio::test]
async fn a_password_is_checked_once_and_every_refusal_takes_the_same_work() {
    let folder = tempfile::tempdir().unwrap();
    let directory = EmbeddedDirectory::open(&folder.path().join("platform.db")).unwrap();
    directory.import(text().parse().unwrap()).await.unwrap();
    let mut dear = AccountRecord::new("eve");
    dear.set_password(&Password::new("battery"), 6).unwrap();
    directory.add_account(dear).await.unwrap();
    let users = Arc::new(users(directory));
    let logins: Vec<_> = (0..200)
        .map(|_| {
            let users = users.clone();
            tokio::spawn(async move { log_in(&users, "ada", "correct horse").await })
        })
        .collect();
    for login in logins {
        assert_eq!(login.await.unwrap(), ada());
    }
    assert_eq!(log_in(&users, "ada", "correct horse").await, ada());
    assert_eq!(users.counts().hashes, 1);
    for user in ["ada", "bob", "dan", "nobody", "eve"] {
        let before = users.counts().rounds;
        assert_eq!(log_in(&users, user, "wrong").await, REJECTED);
        assert_eq!(users.counts().rounds - before, 1 << 6, "{user}");
        assert_eq!(log_in(&users, user, "wrong").await, REJECTED);
        assert_eq!(users.counts().rounds - before, 1 << 6, "{user}");
    }
}

#[test]
fn what_is_no_bcrypt_hash_is_refused_and_not_repeated() {
    for (password, part) in [
        ("correct horse", "crypt or not at all"),
        ("{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "SHA-1"),
        ("$apr1$x$y", "MD5"),
        ("$2y$04$short", "60 ASCII characters"),
        (&HASH.replace("$04$", "$31$"), "its cost is 31"),
    ] {
        let text = format!("accounts: [{{ login: ada, password: '{password}' }}]");
        let error = text.parse::<Records>().unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
        assert!(!error.contains(password), "{error}");
    }
    let records: Records = text().parse().unwrap();
    assert!(!format!("{records:?}").contains("$2y$"));
}
