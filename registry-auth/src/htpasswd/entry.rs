//! One user of a file, with the hash of the password

use std::fmt;

use super::hash::{Hash, MAX_COST, MAX_PASSWORD, MIN_COST};
use crate::authenticator::Password;

/// As many bytes as a user name may have, which is also Apache's limit
pub const MAX_USER: usize = 255;

/// A user and the bcrypt hash of the password
///
/// `Display` is the line of the file, without its end; `Debug` hides the hash.
///
/// # Examples
///
/// ```
/// use registry_auth::Password;
/// use registry_auth::htpasswd::Entry;
///
/// let entry = Entry::new("ada", &Password::new("correct horse"), 4)?;
/// assert!(entry.to_string().starts_with("ada:$2y$04$"));
/// # Ok::<(), registry_auth::htpasswd::EntryError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    user: String,
    pub(super) hash: Hash,
}

impl Entry {
    /// A cost that takes some 50 ms on a processor of today, as Go's default does
    pub const DEFAULT_COST: u32 = 10;

    /// Hashes a password, which takes `2^cost` rounds of work on this thread
    ///
    /// # Errors
    ///
    /// [`EntryError`] for what a client could not send or bcrypt would not take whole. Longer
    /// passwords than [`MAX_PASSWORD`] bytes are refused because bcrypt ignores the rest: the
    /// user would believe in characters that protect nothing.
    pub fn new(user: &str, password: &Password, cost: u32) -> Result<Self, EntryError> {
        check_user(user)?;
        let password = password.expose();
        if password.is_empty() {
            return Err(EntryError::PasswordEmpty);
        }
        if password.len() > MAX_PASSWORD {
            return Err(EntryError::PasswordTooLong(password.len()));
        }
        if password.contains(char::is_control) {
            return Err(EntryError::PasswordControl);
        }
        if !(MIN_COST..=MAX_COST).contains(&cost) {
            return Err(EntryError::Cost(cost));
        }
        Ok(Self {
            user: user.to_owned(),
            hash: Hash::of(password, cost)?,
        })
    }

    /// What a file has, already checked
    pub(super) fn from_parts(user: &str, hash: Hash) -> Self {
        Self {
            user: user.to_owned(),
            hash,
        }
    }

    pub(crate) fn into_hash(self) -> Hash {
        self.hash
    }

    /// The name of the user
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The binary logarithm of the rounds that a check takes
    pub fn cost(&self) -> u32 {
        self.hash.cost()
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.user, self.hash.as_str())
    }
}

/// Why there is no entry for a user and a password
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// The cost is out of bounds
    #[error("expected a bcrypt cost from {MIN_COST} to {MAX_COST}, got {0}")]
    Cost(u32),
    /// The system gave no random bytes
    #[error("the system gave no random bytes for a salt; try again")]
    NoSalt,
    /// The password has a character that HTTP cannot carry (RFC 7617, section 2)
    #[error(
        "the password has a control character, such as the end of a line, which no client can send; leave it out"
    )]
    PasswordControl,
    /// There is no password
    #[error("the password is empty; expected 1 to {MAX_PASSWORD} bytes")]
    PasswordEmpty,
    /// bcrypt would take only the beginning of the password
    #[error(
        "the password has {0} bytes, and bcrypt ignores all after the first {MAX_PASSWORD}; choose a shorter one"
    )]
    PasswordTooLong(usize),
    /// The user name has a colon, at which the line and the credentials are split
    #[error("the user name `{}` has a colon, at which a line and a client's credentials are split; leave it out", .0.escape_debug())]
    UserColon(String),
    /// The user name would make the line a comment
    #[error("the user name `{}` begins with `#`, and such a line is a comment; choose another", .0.escape_debug())]
    UserComment(String),
    /// The user name has a control character or a byte order mark
    #[error("the user name `{}` has a character that cannot be seen; leave it out", .0.escape_debug())]
    UserControl(String),
    /// There is no user name
    #[error("the user name is empty; expected 1 to {MAX_USER} bytes before the colon")]
    UserEmpty,
    /// The user name begins or ends with a space
    #[error("the user name `{}` begins or ends with a space; leave it out", .0.escape_debug())]
    UserSpace(String),
    /// The user name is too long
    #[error("the user name has {0} bytes; expected 1 to {MAX_USER}")]
    UserTooLong(usize),
}

/// What a name must be for a line and a client's credentials (RFC 7617, section 2) to carry it
pub(crate) fn check_user(user: &str) -> Result<(), EntryError> {
    if user.is_empty() {
        return Err(EntryError::UserEmpty);
    }
    if user.len() > MAX_USER {
        return Err(EntryError::UserTooLong(user.len()));
    }
    if user.contains(':') {
        return Err(EntryError::UserColon(user.to_owned()));
    }
    // Editors put a byte order mark where nobody sees it.
    if user.contains(|character: char| character.is_control() || character == '\u{feff}') {
        return Err(EntryError::UserControl(user.to_owned()));
    }
    if user.trim() != user {
        return Err(EntryError::UserSpace(user.to_owned()));
    }
    if user.starts_with('#') {
        return Err(EntryError::UserComment(user.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::htpasswd::hash::Meter;

    #[test]
    fn an_entry_is_checked_with_its_password() {
        let longest = "p".repeat(MAX_PASSWORD);
        for password in ["correct horse", "pässwörd: \"x\"", "x", &longest] {
            let entry = Entry::new("ada", &Password::new(password), 4).unwrap();
            let meter = Meter::default();
            assert!(entry.hash.check(password.as_bytes(), 4, &meter));
            assert!(!entry.hash.check(b"correct horsf", 4, &meter));
            assert!(!format!("{entry:?}").contains("$2y$"));
        }
    }

    #[test]
    fn two_entries_have_two_salts() {
        let entry = || Entry::new("ada", &Password::new("p"), 4).unwrap();
        assert_ne!(entry().to_string(), entry().to_string());
    }

    #[test]
    fn what_would_not_work_is_refused() {
        let long = "p".repeat(73);
        let name = "n".repeat(256);
        for (user, password, cost, text) in [
            ("ada", "p", 3, "expected a bcrypt cost from 4 to 17, got 3"),
            (
                "ada",
                "p",
                18,
                "expected a bcrypt cost from 4 to 17, got 18",
            ),
            (
                "ada",
                "",
                4,
                "the password is empty; expected 1 to 72 bytes",
            ),
            (
                "ada",
                &long,
                4,
                "the password has 73 bytes, and bcrypt ignores all after the first 72; choose a shorter one",
            ),
            (
                "ada",
                "hunter2\n",
                4,
                "the password has a control character, such as the end of a line, which no client can send; leave it out",
            ),
            (
                "",
                "p",
                4,
                "the user name is empty; expected 1 to 255 bytes before the colon",
            ),
            (
                &name,
                "p",
                4,
                "the user name has 256 bytes; expected 1 to 255",
            ),
            (
                "a:b",
                "p",
                4,
                "the user name `a:b` has a colon, at which a line and a client's credentials are split; leave it out",
            ),
            (
                "a\nb",
                "p",
                4,
                "the user name `a\\nb` has a character that cannot be seen; leave it out",
            ),
            (
                " ada",
                "p",
                4,
                "the user name ` ada` begins or ends with a space; leave it out",
            ),
            (
                "#ada",
                "p",
                4,
                "the user name `#ada` begins with `#`, and such a line is a comment; choose another",
            ),
        ] {
            let error = Entry::new(user, &Password::new(password), cost).unwrap_err();
            assert_eq!(error.to_string(), text);
        }
    }
}
