//! Finding real clients, and running them without touching the state of whoever runs the tests

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use std::{env, fs};

use tempfile::TempDir;

/// Says that a test is skipped and why; with `REGISTRY_E2E=required` fails it instead
#[track_caller]
pub(crate) fn skip(reason: &str) {
    if env::var_os("REGISTRY_E2E").is_some_and(|value| value == "required") {
        panic!("{reason}; REGISTRY_E2E=required does not allow skipping");
    }
    // Written past the test harness, which would keep it to itself.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {reason}");
}

/// The path of a client, or a visible skip
#[track_caller]
pub(crate) fn find(program: &str, package: &str) -> Option<PathBuf> {
    let folders = env::var_os("PATH").unwrap_or_default();
    // Debian keeps daemons where the search path of users does not go.
    let found = env::split_paths(&folders)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|path| path.is_file());
    if found.is_none() {
        skip(&format!(
            "{program} not found; install it, with Debian's package `{package}` for example"
        ));
    }
    found
}

/// The path of a client that needs to be run by root, or a visible skip
#[track_caller]
pub(crate) fn find_for_root(program: &str, package: &str) -> Option<PathBuf> {
    if !is_root() {
        skip(&format!("{program} needs root; run this test as root"));
        return None;
    }
    find(program, package)
}

/// Whether root runs the tests; where nothing tells, it is taken to be so
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").map_or(true, |own| own.uid() == 0)
}

/// A Python with the `oras` package, or a visible skip
#[track_caller]
pub(crate) fn find_oras() -> Option<PathBuf> {
    find_python("oras", "oras")
}

/// A Python with a module, which a package of this name has, or a visible skip
#[track_caller]
pub(crate) fn find_python(module: &str, package: &str) -> Option<PathBuf> {
    let python = match env::var_os("REGISTRY_E2E_PYTHON") {
        Some(python) => PathBuf::from(python),
        None => PathBuf::from("python3"),
    };
    let imports = Command::new(&python)
        .args(["-c", &format!("import {module}")])
        .output()
        .is_ok_and(|output| output.status.success());
    if !imports {
        skip(&format!(
            "{package} for Python not found; install it with `pip install {package}`, or set \
             REGISTRY_E2E_PYTHON to a Python that has it"
        ));
        return None;
    }
    Some(python)
}

/// A home of its own for the clients of one test
pub(crate) struct Home {
    folder: TempDir,
}

impl Home {
    /// Writes the configuration that lets clients work without the system's
    pub(crate) fn new() -> Self {
        // In lower case: podman makes an image's name of the path that it comes from. And short:
        // daemons have sockets here.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let prefix = format!(
            "reg{:x}-{:x}-{}",
            now.map_or(0, |now| now.as_secs()),
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let folder = tempfile::Builder::new()
            .prefix(&prefix)
            .rand_bytes(0)
            .tempdir()
            .expect("a temporary folder");
        let path = folder.path();
        for name in [
            "config/containers",
            "docker",
            "home/.config/containers",
            "run",
            "tmp",
        ] {
            fs::create_dir_all(path.join(name)).expect("a folder");
        }
        let policy = r#"{"default":[{"type":"insecureAcceptAnything"}]}"#;
        for name in [
            "config/containers/policy.json",
            "home/.config/containers/policy.json",
        ] {
            fs::write(path.join(name), policy).expect("written");
        }
        fs::write(
            path.join("registries.conf"),
            "unqualified-search-registries = []\n",
        )
        .expect("written");
        fs::write(path.join("docker/config.json"), "{}").expect("written");
        let storage = format!(
            "[storage]\ndriver = \"vfs\"\nrunroot = \"{0}/run/storage\"\ngraphroot = \"{0}/storage\"\n",
            path.display()
        );
        fs::write(path.join("storage.conf"), storage).expect("written");
        Self { folder }
    }

    /// A path in this home
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A command that sees this home only
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.folder.path())
            .env("HOME", self.path("home"))
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env("XDG_DATA_HOME", self.path("data"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("TMPDIR", self.path("tmp"))
            .env("DOCKER_CONFIG", self.path("docker"))
            .env("CONTAINERS_REGISTRIES_CONF", self.path("registries.conf"))
            .env("CONTAINERS_STORAGE_CONF", self.path("storage.conf"))
            .env("BUILDAH_ISOLATION", "chroot")
            .env("NO_PROXY", "127.0.0.1")
            .env("no_proxy", "127.0.0.1")
            .env_remove("DOCKER_HOST")
            .env_remove("CONTAINER_HOST")
            .env_remove("DOCKER_CONTEXT")
            .env_remove("REGISTRY_AUTH_FILE");
        command
    }

    /// `skopeo`, or a visible skip
    #[track_caller]
    pub(crate) fn skopeo(&self) -> Option<Skopeo<'_>> {
        find("skopeo", "skopeo").map(|program| Skopeo {
            home: self,
            program,
        })
    }
}

/// skopeo in a home of its own
pub(crate) struct Skopeo<'h> {
    home: &'h Home,
    program: PathBuf,
}

impl Skopeo<'_> {
    /// A command of skopeo
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.home.command(&self.program);
        command
            .arg("--policy")
            .arg(self.home.path("config/containers/policy.json"))
            .args(arguments);
        command
    }

    /// Copies from the layout or a registry to a registry or a folder
    #[track_caller]
    pub(crate) fn copy(&self, options: &[&str], from: &str, to: &str) {
        let mut command = self.command(&["copy", "--quiet"]);
        command
            .args(["--src-tls-verify=false", "--dest-tls-verify=false"])
            .args(options)
            .args([from, to]);
        super::process::run(&mut command);
    }
}
