//! A file of users and bcrypt hashes, as Apache's `htpasswd` makes it

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tempfile::NamedTempFile;

use super::entry::{Entry, EntryError, check_user};
use super::hash::{Hash, HashError, MAX_COST, MIN_COST};

/// The largest file that is read, in bytes: room for some fifty thousand users
pub const MAX_SIZE: u64 = 4 * 1024 * 1024;

/// The lines of a file, comments and order included
///
/// Each line is `user:hash`, a comment that begins with `#`, or blank. `Display` is the file's
/// text, to the byte; `Debug` hides the hashes.
///
/// # Examples
///
/// ```
/// use registry_auth::Password;
/// use registry_auth::htpasswd::{Entry, File};
///
/// let file: File = "# the team\n".parse()?;
/// let file = file.with(Entry::new("ada", &Password::new("correct horse"), 4)?);
/// assert!(file.to_string().starts_with("# the team\nada:$2y$04$"));
/// assert!(file.contains("ada"));
///
/// let file = file.without("ada").expect("she is in it");
/// assert_eq!(file.to_string(), "# the team\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct File {
    lines: Vec<Line>,
}

#[derive(Clone, PartialEq, Eq)]
struct Line {
    /// As it stands, its end included
    text: String,
    entry: Option<Entry>,
}

impl File {
    /// Reads a file
    ///
    /// # Errors
    ///
    /// [`LoadError`], which names the file and, where there is one, the line.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => LoadError::Missing {
                path: path.to_owned(),
            },
            _ => LoadError::Read {
                path: path.to_owned(),
                source,
            },
        };
        // Before it is opened: opening a pipe would wait for someone to write to it.
        if !fs::metadata(path).map_err(failed)?.is_file() {
            return Err(LoadError::NotAFile {
                path: path.to_owned(),
            });
        }
        let mut bytes = Vec::new();
        fs::File::open(path)
            .and_then(|file| file.take(MAX_SIZE + 1).read_to_end(&mut bytes))
            .map_err(failed)?;
        if bytes.len() as u64 > MAX_SIZE {
            return Err(LoadError::TooLarge {
                path: path.to_owned(),
            });
        }
        let text = std::str::from_utf8(&bytes).map_err(|error| LoadError::NotUtf8 {
            path: path.to_owned(),
            line: 1 + bytes[..error.valid_up_to()]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count(),
        })?;
        text.parse().map_err(|source| LoadError::Parse {
            path: path.to_owned(),
            source,
        })
    }

    /// Writes the file so that a reader, or a crash, finds the old or the new and nothing half
    ///
    /// A file that is there keeps its permissions, its owner and, if it is reached by a
    /// symbolic link, its place. A new one is for its owner's eyes only.
    ///
    /// # Errors
    ///
    /// [`SaveError`]; the old file is then as it was, unless only the last sync failed.
    pub fn save(&self, path: &Path) -> Result<(), SaveError> {
        self.replace(path).map_err(|source| SaveError {
            path: path.to_owned(),
            source,
        })
    }

    fn replace(&self, path: &Path) -> io::Result<()> {
        let (target, old) = match fs::canonicalize(path) {
            Ok(target) => {
                let old = fs::metadata(&target)?;
                (target, Some(old))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => (path.to_owned(), None),
            Err(error) => return Err(error),
        };
        let folder = match target.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let mut new = NamedTempFile::new_in(folder)?;
        new.write_all(self.to_string().as_bytes())?;
        if let Some(old) = old {
            // Otherwise a registry that runs as another user could not read it any more.
            let ours = new.as_file().metadata()?;
            if (ours.uid(), ours.gid()) != (old.uid(), old.gid()) {
                chown(new.path(), Some(old.uid()), Some(old.gid()))?;
            }
            // After the owner: a change of that may take permissions away.
            new.as_file().set_permissions(old.permissions())?;
        }
        new.as_file().sync_all()?;
        new.persist(&target).map_err(|error| error.error)?;
        fs::File::open(folder)?.sync_all()
    }

    /// With this entry: in place of the one that its user has, or as a new last line
    #[must_use]
    pub fn with(mut self, entry: Entry) -> Self {
        let old = self
            .lines
            .iter_mut()
            .find(|line| line.user() == Some(entry.user()));
        match old {
            Some(line) => {
                let body = line.text.trim_end_matches(['\r', '\n']).len();
                line.text.replace_range(..body, &entry.to_string());
                line.entry = Some(entry);
            }
            None => {
                if let Some(last) = self.lines.last_mut()
                    && !last.text.ends_with('\n')
                {
                    last.text.push('\n');
                }
                self.lines.push(Line {
                    text: format!("{entry}\n"),
                    entry: Some(entry),
                });
            }
        }
        self
    }

    /// Without this user, or `None` where there is no such user
    pub fn without(mut self, user: &str) -> Option<Self> {
        let index = self
            .lines
            .iter()
            .position(|line| line.user() == Some(user))?;
        self.lines.remove(index);
        Some(self)
    }

    /// Whether there is an entry for this user
    pub fn contains(&self, user: &str) -> bool {
        self.entries().any(|entry| entry.user() == user)
    }

    /// The entries, in their order
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.lines.iter().filter_map(|line| line.entry.as_ref())
    }
}

impl FromStr for File {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut seen = HashMap::new();
        let mut lines = Vec::new();
        for (index, text) in text.split_inclusive('\n').enumerate() {
            let number = index + 1;
            let fail = |problem| ParseError {
                line: number,
                problem,
            };
            let entry = parse_line(text).map_err(fail)?;
            if let Some(entry) = &entry
                && let Some(first) = seen.insert(entry.user().to_owned(), number)
            {
                return Err(fail(Problem::Duplicate {
                    user: entry.user().to_owned(),
                    first,
                }));
            }
            lines.push(Line {
                text: text.to_owned(),
                entry,
            });
        }
        Ok(Self { lines })
    }
}

impl fmt::Display for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines
            .iter()
            .try_for_each(|line| f.write_str(&line.text))
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Comments are left out: a line that was commented out is still somebody's hash.
        f.debug_list().entries(self.entries()).finish()
    }
}

impl Line {
    fn user(&self) -> Option<&str> {
        self.entry.as_ref().map(Entry::user)
    }
}

fn parse_line(text: &str) -> Result<Option<Entry>, Problem> {
    // As distribution: spaces around a line do not count.
    let text = text.trim();
    if text.is_empty() || text.starts_with('#') {
        return Ok(None);
    }
    let (user, hash) = text.split_once(':').ok_or(Problem::NoColon)?;
    check_user(user).map_err(Problem::User)?;
    match Hash::parse(hash) {
        Ok(hash) => Ok(Some(Entry::from_parts(user, hash))),
        Err(error) => Err(Problem::Hash {
            user: user.to_owned(),
            error,
        }),
    }
}

/// A line that is neither an entry, nor a comment, nor blank
///
/// Its text names the line and the user. It never quotes the rest of the line, which may be a
/// password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct ParseError {
    line: usize,
    problem: Problem,
}

impl ParseError {
    /// The number of the line; the first is 1
    pub fn line(&self) -> usize {
        self.line
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Problem {
    Duplicate { user: String, first: usize },
    Hash { user: String, error: HashError },
    NoColon,
    User(EntryError),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Duplicate { user, first } => write!(
                f,
                "`{user}` has an entry in line {first} already; remove one of the two"
            ),
            Self::Hash { user, error } => match error {
                HashError::Cost(cost) => write!(
                    f,
                    "the bcrypt cost of `{user}` is {cost}, expected {MIN_COST} to {MAX_COST}; make the entry anew"
                ),
                HashError::Malformed(why) => write!(
                    f,
                    "the bcrypt hash of `{user}` is damaged, {why}; make the entry anew"
                ),
                HashError::Scheme(scheme) => write!(
                    f,
                    "the password of `{user}` is hashed with {scheme}, and only bcrypt is accepted (`$2a$`, `$2b$`, `$2y$`); make the entry anew with `registry htpasswd` or `htpasswd -B`"
                ),
            },
            Self::NoColon => f.write_str("expected `user:hash`, there is no colon"),
            Self::User(error) => error.fmt(f),
        }
    }
}

/// Why a file is not taken
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// There is nobody in it, so nobody could log in
    #[error("`{}` has no entry; add a user with `registry htpasswd` or `htpasswd -B`", .path.display())]
    Empty {
        /// The file
        path: PathBuf,
    },
    /// There is no such file
    #[error("`{}` does not exist; make it with `registry htpasswd` or `htpasswd -cB`", .path.display())]
    Missing {
        /// The file
        path: PathBuf,
    },
    /// The system gave no random bytes for the key under which passwords are remembered
    #[error("the system gave no random bytes for a key; start again")]
    NoKey,
    /// It is a folder, a pipe or a device
    #[error("`{}` is not a regular file; expected one with lines of `user:hash`", .path.display())]
    NotAFile {
        /// The path
        path: PathBuf,
    },
    /// It is not text
    #[error("`{}`, line {line}: expected UTF-8, other bytes came; save the file as UTF-8", .path.display())]
    NotUtf8 {
        /// The file
        path: PathBuf,
        /// The number of the first such line
        line: usize,
    },
    /// A line is wrong
    #[error("`{}`, {source}", .path.display())]
    Parse {
        /// The file
        path: PathBuf,
        /// Which line, and what is wrong with it
        source: ParseError,
    },
    /// The system does not give it
    #[error("`{}` cannot be read: {source}; expected a file that the registry may read", .path.display())]
    Read {
        /// The file
        path: PathBuf,
        /// What the system said
        source: io::Error,
    },
    /// It is larger than [`MAX_SIZE`]
    #[error("`{}` is too large, expected at most {MAX_SIZE} bytes; is it an htpasswd file?", .path.display())]
    TooLarge {
        /// The file
        path: PathBuf,
    },
}

/// Why a file was not written
#[derive(Debug, thiserror::Error)]
#[error("`{}` cannot be written: {source}; expected a folder in which you may replace the file and keep its owner", .path.display())]
pub struct SaveError {
    path: PathBuf,
    source: io::Error,
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;
    use crate::Password;
    use crate::htpasswd::hash::Meter;

    /// As Debian's `htpasswd -nbB` made them, of the password `correct horse`
    const ADA: &str = "ada:$2y$04$1OPuzxJJhXT5NoTnCgjGeu/f/Nf3FH214vJZnGn0oOaD4pYB4pnQa";
    const BOB: &str = "bob:$2y$05$4yICJyTHZZsFI9G2XbjiBO8618I5qTZolv4tPli/c.os/xqwXnIWm";

    fn right(file: &File, user: &str, password: &str) -> bool {
        let entry = file.entries().find(|entry| entry.user() == user).unwrap();
        entry.hash.check(password.as_bytes(), 4, &Meter::default())
    }

    #[test]
    fn comments_blank_lines_and_spaces_around_lines_do_not_count() {
        let text = format!("# team\r\n\r\n  {ADA}  \r\n\t# x:y\n\n{BOB}");
        let file: File = text.parse().unwrap();
        let users: Vec<_> = file.entries().map(Entry::user).collect();
        assert_eq!(users, ["ada", "bob"]);
        assert_eq!(file.to_string(), text);
        assert!(right(&file, "ada", "correct horse") && right(&file, "bob", "correct horse"));
        assert!(!format!("{file:?}").contains("$2y$"));
        assert_eq!("".parse(), Ok(File::default()));
    }

    #[test]
    fn entries_come_and_go_and_the_rest_stays() {
        let text = format!("# team\r\n{ADA}\r\n\n# ops\n{BOB}");
        let file: File = text.parse().unwrap();
        let new = |user| Entry::new(user, &Password::new("new"), 4).unwrap();

        let changed = file.clone().with(new("ada"));
        assert!(right(&changed, "ada", "new"));
        let line = changed.entries().next().unwrap().to_string();
        assert_eq!(changed.to_string(), text.replace(ADA, &line));
        assert_eq!(changed.to_string().parse(), Ok(changed));

        let more = file.clone().with(new("eve"));
        let line = more.entries().last().unwrap().to_string();
        assert_eq!(more.to_string(), format!("{text}\n{line}\n"));

        let less = file.clone().without("ada").unwrap();
        assert_eq!(less.to_string(), format!("# team\r\n\n# ops\n{BOB}"));
        assert_eq!(less.without("ada"), None);
        assert_eq!(file.without("# team"), None);
    }

    #[test]
    fn what_is_no_entry_is_refused_with_its_line() {
        let only = "and only bcrypt is accepted (`$2a$`, `$2b$`, `$2y$`); make the entry anew with `registry htpasswd` or `htpasswd -B`";
        let hash = &ADA[4..];
        let long = "n".repeat(256);
        // The entries of other schemes are of Debian's `htpasswd` with -m, -s, -d, -2 and -5.
        for (line, text) in [
            (
                "eve:$apr1$Z0QZlK7n$5DUQnQpICw8kB/vCPFxLV.".to_owned(),
                format!("the password of `eve` is hashed with MD5, {only}"),
            ),
            (
                "eve:$1$Z0QZlK7n$5DUQnQpICw8kB/vCPFxLV.".to_owned(),
                format!("the password of `eve` is hashed with MD5, {only}"),
            ),
            (
                "eve:{SHA}EfatjsUqKYSrqv18O1FlA3hcIHI=".to_owned(),
                format!("the password of `eve` is hashed with SHA-1, {only}"),
            ),
            (
                "eve:$5$AauxIbQUWxnqnnQe$GA7NOOhgyHvZwYMcN/LrHbd8eSQfNu2iEcVcV7KSvt/".to_owned(),
                format!("the password of `eve` is hashed with SHA-256, {only}"),
            ),
            (
                "eve:$6$/0nfqAuPll53Wzhg$A3TMe.54jVAU0PB0SkmlKwsF5D".to_owned(),
                format!("the password of `eve` is hashed with SHA-512, {only}"),
            ),
            (
                "eve:iy2LsmgyoQgK.".to_owned(),
                format!("the password of `eve` is hashed with crypt or not at all, {only}"),
            ),
            (
                "eve:hunter2".to_owned(),
                format!("the password of `eve` is hashed with crypt or not at all, {only}"),
            ),
            (
                "eve:".to_owned(),
                format!("the password of `eve` is hashed with crypt or not at all, {only}"),
            ),
            (
                format!("eve:{}", hash.replace("$2y$", "$2x$")),
                format!(
                    "the password of `eve` is hashed with the broken bcrypt variant `$2x$`, {only}"
                ),
            ),
            (
                format!("eve:{}", &hash[..59]),
                "the bcrypt hash of `eve` is damaged, it is not 60 ASCII characters long; make the entry anew".to_owned(),
            ),
            (
                format!("eve:{hash}:1000"),
                "the bcrypt hash of `eve` is damaged, it is not 60 ASCII characters long; make the entry anew".to_owned(),
            ),
            (
                format!("eve:{}é", &hash[..58]),
                "the bcrypt hash of `eve` is damaged, it is not 60 ASCII characters long; make the entry anew".to_owned(),
            ),
            (
                format!("eve:{}", hash.replace("$04$", "$+4$")),
                "the bcrypt hash of `eve` is damaged, its cost is not two digits and a `$`; make the entry anew".to_owned(),
            ),
            (
                format!("eve:{}!{}", &hash[..40], &hash[41..]),
                "the bcrypt hash of `eve` is damaged, it is not bcrypt's base64; make the entry anew".to_owned(),
            ),
            (
                format!("eve:{}!{}", &hash[..28], &hash[29..]),
                "the bcrypt hash of `eve` is damaged, its salt is not bcrypt's base64; make the entry anew".to_owned(),
            ),
            (
                format!("eve:{}", hash.replace("$04$", "$03$")),
                "the bcrypt cost of `eve` is 3, expected 4 to 17; make the entry anew".to_owned(),
            ),
            (
                format!("eve:{}", hash.replace("$04$", "$18$")),
                "the bcrypt cost of `eve` is 18, expected 4 to 17; make the entry anew".to_owned(),
            ),
            (
                "hunter2".to_owned(),
                "expected `user:hash`, there is no colon".to_owned(),
            ),
            (
                format!(":{hash}"),
                "the user name is empty; expected 1 to 255 bytes before the colon".to_owned(),
            ),
            (
                format!("a\u{7}b:{hash}"),
                "the user name `a\\u{7}b` has a character that cannot be seen; leave it out"
                    .to_owned(),
            ),
            (
                format!("\u{feff}eve:{hash}"),
                "the user name `\\u{feff}eve` has a character that cannot be seen; leave it out"
                    .to_owned(),
            ),
            (
                format!("eve :{hash}"),
                "the user name `eve ` begins or ends with a space; leave it out".to_owned(),
            ),
            (
                format!("{long}:{hash}"),
                "the user name has 256 bytes; expected 1 to 255".to_owned(),
            ),
            (
                format!("bob:{hash}"),
                "`bob` has an entry in line 2 already; remove one of the two".to_owned(),
            ),
        ] {
            let error = format!("# x\n{BOB}\n{line}\n").parse::<File>().unwrap_err();
            assert_eq!(error.to_string(), format!("line 3: {text}"));
            assert_eq!(error.line(), 3);
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("hunter2") && !shown.contains("pYB4pn"), "{shown}");
        }
    }

    #[test]
    fn what_is_no_file_is_refused_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        let shown = path.display();
        let error = || File::load(&path).unwrap_err().to_string();
        assert_eq!(
            error(),
            format!("`{shown}` does not exist; make it with `registry htpasswd` or `htpasswd -cB`")
        );
        fs::write(&path, b"# caf\xc3\xa9\n# caf\xe9\n").unwrap();
        assert_eq!(
            error(),
            format!("`{shown}`, line 2: expected UTF-8, other bytes came; save the file as UTF-8")
        );
        fs::write(&path, "#".repeat(MAX_SIZE as usize + 1)).unwrap();
        assert_eq!(
            error(),
            format!(
                "`{shown}` is too large, expected at most 4194304 bytes; is it an htpasswd file?"
            )
        );
        fs::write(&path, "#".repeat(MAX_SIZE as usize)).unwrap();
        assert_eq!(File::load(&path).unwrap().entries().count(), 0);
        fs::write(&path, format!("{ADA}\nbob\n")).unwrap();
        assert_eq!(
            error(),
            format!("`{shown}`, line 2: expected `user:hash`, there is no colon")
        );
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(
            error(),
            format!("`{shown}` is not a regular file; expected one with lines of `user:hash`")
        );
        // A file where a folder should be is the system's own refusal.
        let below = folder.path().join("file/users");
        fs::write(folder.path().join("file"), "").unwrap();
        let error = File::load(&below).unwrap_err();
        assert!(matches!(error, LoadError::Read { .. }), "{error}");
        assert!(
            error
                .to_string()
                .starts_with(&format!("`{}` cannot be read: ", below.display())),
            "{error}"
        );
    }

    #[test]
    fn saving_keeps_what_the_file_was() {
        let folder = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let path = folder.path().join("users");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("users", &link).unwrap();
        let file: File = format!("# team\n{ADA}\n").parse().unwrap();

        file.save(&path).unwrap();
        assert_eq!(File::load(&path).unwrap(), file);
        assert_eq!(mode(&path), 0o600);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let file = file.without("ada").unwrap();
        file.save(&link).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "# team\n");
        assert_eq!(mode(&path), 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);

        let nowhere = folder.path().join("none/users");
        let error = file.save(&nowhere).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("`{}` cannot be written: ", nowhere.display())),
            "{error}"
        );
    }

    #[test]
    fn saving_keeps_the_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        let file: File = format!("{ADA}\n").parse().unwrap();
        file.save(&path).unwrap();
        if chown(&path, Some(12345), Some(54321)).is_err() {
            println!("SKIPPED: only root may give a file away");
            return;
        }
        file.without("ada").unwrap().save(&path).unwrap();
        let saved = fs::metadata(&path).unwrap();
        assert_eq!((saved.uid(), saved.gid()), (12345, 54321));
        assert_eq!(saved.len(), 0);
    }

    #[test]
    fn what_apaches_tool_makes_is_read() {
        let Ok(output) = Command::new("htpasswd")
            .args(["-nbB", "-C", "4", "zoë", "pässword: \"x\""])
            .output()
        else {
            println!("SKIPPED: htpasswd is not installed (Debian: apache2-utils)");
            return;
        };
        assert!(output.status.success());
        let file: File = String::from_utf8(output.stdout).unwrap().parse().unwrap();
        assert!(right(&file, "zoë", "pässword: \"x\""));
        assert!(!right(&file, "zoë", "password"));
    }
}
