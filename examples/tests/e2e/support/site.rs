//! A folder with a configuration, and with all that it names

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::clients::{find, is_root};
use super::process::{Server, finish, finish_with, registry, registry_by};

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

    /// Writes `config.yml` and starts our binary with it, so that permissions hold for it
    /// although root may run the tests; nothing if that cannot be had
    #[track_caller]
    pub(crate) fn serve_restrained(&self, text: &str) -> Option<Server> {
        let config = self.configure(text);
        if !is_root() {
            return Some(Server::configured(&config));
        }
        let setpriv = find("setpriv", "util-linux")?;
        let mut command = registry_by(setpriv, &["--bounding-set=-dac_override,-dac_read_search"]);
        Some(Server::launch(command.arg("serve").arg(config)))
    }

    /// Takes the folder `root` away from whoever is bound to permissions
    pub(crate) fn close_root(&self) {
        self.set_mode("root", 0);
    }

    /// Gives the folder `root` back
    pub(crate) fn open_root(&self) {
        self.set_mode("root", 0o700);
    }

    /// As [`Site::write`], for its owner's eyes only
    pub(crate) fn write_secret(&self, name: &str, text: &str) {
        let new = format!("{name}.secret");
        fs::write(self.path(&new), "").expect("written");
        self.set_mode(&new, 0o600);
        fs::write(self.path(&new), text).expect("written");
        fs::rename(self.path(&new), self.path(name)).expect("renamed");
    }

    fn set_mode(&self, name: &str, mode: u32) {
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(self.path(name), permissions).expect("the mode is set");
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

    /// What our binary says of a configuration with which it must not start
    ///
    /// One line, after what it warns about, and status 1.
    #[track_caller]
    pub(crate) fn refusal(&self, text: &str) -> String {
        let config = self.configure(text);
        let mut command = registry(&["serve"]);
        command.arg(config);
        let (status, stdout, stderr) = finish(&mut command);
        assert_eq!(status.code(), Some(1), "{text}\n{stdout}\n{stderr}");
        assert_eq!(stdout, "", "what is refused never said that it serves");
        let (errors, others): (Vec<&str>, Vec<&str>) =
            stderr.lines().partition(|line| line.starts_with("error: "));
        assert_eq!(errors.len(), 1, "{stderr}");
        assert!(others.iter().all(|line| line.contains("WARN")), "{stderr}");
        stderr
    }
}
