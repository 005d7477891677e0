//! A folder with a configuration, and with all that it names

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::process::{Server, finish, finish_with, registry};

/// A registry's configuration, storage, certificates and users, gone at the end of the test
pub(crate) struct Site {
    folder: TempDir,
}

impl Site {
    /// An empty folder
    pub(crate) fn new() -> Self {
        Self {
            folder: TempDir::new().expect("a temporary folder"),
        }
    }

    /// A path in the folder
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces a file at once, as operators' tools do
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        let new = self.path(format!("{name}.new"));
        fs::write(&new, text).expect("written");
        fs::rename(&new, &path).expect("renamed");
        path
    }

    /// Writes `config.yml`; `$SITE` in it is this folder
    pub(crate) fn configure(&self, text: &str) -> PathBuf {
        let folder = self.folder.path().display().to_string();
        self.write("config.yml", &text.replace("$SITE", &folder))
    }

    /// Starts our binary with `config.yml`
    #[track_caller]
    pub(crate) fn serve(&self) -> Server {
        Server::configured(&self.path("config.yml"))
    }

    /// Writes `config.yml` and starts our binary with it
    #[track_caller]
    pub(crate) fn serve_with(&self, text: &str) -> Server {
        Server::configured(&self.configure(text))
    }

    /// Adds a user to the file `htpasswd`, or changes the password, with our own command
    #[track_caller]
    pub(crate) fn user(&self, name: &str, password: &str, cost: u32) -> PathBuf {
        let path = self.path("htpasswd");
        let mut command = registry(&["htpasswd", "--cost", &cost.to_string()]);
        command.arg(&path).arg(name);
        let (status, stdout, stderr) = finish_with(&mut command, &format!("{password}\n"));
        assert!(status.success(), "{command:?}: {stdout}\n{stderr}");
        path
    }

    /// What our binary says of a configuration with which it must not start: one line, status 1
    #[track_caller]
    pub(crate) fn refusal(&self, text: &str) -> String {
        let config = self.configure(text);
        let mut command = registry(&["serve"]);
        command.arg(config);
        let (status, stdout, stderr) = finish(&mut command);
        assert_eq!(status.code(), Some(1), "{text}\n{stdout}\n{stderr}");
        assert_eq!(stderr.trim_end().lines().count(), 1, "{stderr}");
        assert_eq!(stdout, "", "what is refused never said that it serves");
        stderr.trim_end().to_owned()
    }
}
