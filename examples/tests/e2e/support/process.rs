//! Processes that a test starts, and stops by their id whatever becomes of the test

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::clients;
use super::http;

/// How long a client may take for one command
const PATIENCE: Duration = Duration::from_secs(600);

/// How long something may take that a process does by itself, on a machine that is busy
const SOON: Duration = Duration::from_secs(60);

/// A registry that serves a folder: ours, or the reference
pub(crate) struct Server {
    child: Child,
    /// `127.0.0.1:<port>`, or the path of a socket
    pub(crate) address: String,
    output: Arc<Mutex<String>>,
    errors: Arc<Mutex<String>>,
}

/// A command of our binary, which sees nothing of the environment that would change what it does
pub(crate) fn registry(arguments: &[&str]) -> Command {
    let mut command = untold(env!("CARGO_BIN_EXE_registry"));
    command.args(arguments);
    command
}

/// A command of `docker-proxy`, which sees nothing of the environment that would change what it
/// does
pub(crate) fn docker_proxy(arguments: &[&str]) -> Command {
    let mut command = untold(env!("CARGO_BIN_EXE_docker-proxy"));
    command.args(arguments);
    command
}

/// As [`registry`], started by another program, whose own arguments these are
pub(crate) fn registry_by(program: impl AsRef<OsStr>, arguments: &[&str]) -> Command {
    let mut command = untold(program);
    command.args(arguments).arg(env!("CARGO_BIN_EXE_registry"));
    command
}

fn untold(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_remove("RUST_LOG");
    for (name, _) in std::env::vars_os() {
        let bytes = name.as_encoded_bytes();
        if ["REGISTRY_", "ACUMOS_", "AWS_"]
            .iter()
            .any(|start| bytes.starts_with(start.as_bytes()))
        {
            command.env_remove(name);
        }
    }
    command
}

impl Server {
    /// Starts our binary on a free port
    #[track_caller]
    pub(crate) fn ours(root: &Path) -> Self {
        Self::launch(registry(&["serve", "--listen", "127.0.0.1:0", "--root"]).arg(root))
    }

    /// Starts our binary with a configuration whose `http.addr` leaves the port open
    #[track_caller]
    pub(crate) fn configured(config: &Path) -> Self {
        Self::launch(registry(&["serve"]).arg(config))
    }

    /// Starts our binary by this command, and waits until it listens
    #[track_caller]
    pub(crate) fn launch(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the registry starts");
        let output = Arc::new(Mutex::new(String::new()));
        let errors = Arc::new(Mutex::new(String::new()));
        let (sender, receiver) = mpsc::channel();
        // Drained for as long as it runs: a full pipe must not stop it.
        let stdout = child.stdout.take().expect("piped");
        keep(stdout, &output, move |line| {
            if let Some(address) = address_after("listening on ", line) {
                let _ = sender.send(address);
            }
        });
        keep(child.stderr.take().expect("piped"), &errors, |_| {});
        let mut server = Self {
            child,
            address: String::new(),
            output,
            errors,
        };
        match receiver.recv_timeout(SOON) {
            Ok(address) => server.address = address,
            Err(_) => panic!(
                "the registry does not say where it listens: {}",
                server.log()
            ),
        }
        server
    }

    /// Starts Debian's `docker-registry` on a free port, or says that it is missing
    #[track_caller]
    pub(crate) fn reference(root: &Path) -> Option<Self> {
        Self::reference_with(root, "")
    }

    /// As [`Server::reference`], with this section `auth`
    #[track_caller]
    pub(crate) fn reference_with(root: &Path, auth: &str) -> Option<Self> {
        let storage = format!("filesystem: {{rootdirectory: '{}'}}", root.display());
        Self::reference_on(&storage, auth)
    }

    /// As [`Server::reference_with`], with these entries under `storage`
    #[track_caller]
    pub(crate) fn reference_on(storage: &str, auth: &str) -> Option<Self> {
        let program = clients::find("docker-registry", "docker-registry")?;
        let config = tempfile::NamedTempFile::new().expect("a temporary file");
        // A port that was free a moment ago may be taken by now; then another one is.
        for _ in 0..5 {
            let address = free_address();
            let text = format!(
                "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
                 storage: {{{storage}, delete: {{enabled: true}}}}\n\
                 http: {{addr: '{address}'}}\n{auth}\n"
            );
            fs::write(config.path(), text).expect("the configuration is written");
            // With `AWS_CA_BUNDLE` it panics.
            let mut child = untold(&program)
                .arg("serve")
                .arg(config.path())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .expect("docker-registry starts");
            let errors = Arc::new(Mutex::new(String::new()));
            keep(child.stderr.take().expect("piped"), &errors, |_| {});
            let mut server = Self {
                child,
                address,
                output: Arc::default(),
                errors,
            };
            if server.answers() {
                return Some(server);
            }
        }
        panic!("docker-registry does not start")
    }

    /// The process id
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it printed
    pub(crate) fn log(&self) -> String {
        self.output() + &self.errors()
    }

    /// What it printed on standard output: where it listens, and a line per request
    pub(crate) fn output(&self) -> String {
        self.output.lock().expect("no reader panicked").clone()
    }

    /// What it printed on standard error: its logs
    pub(crate) fn errors(&self) -> String {
        self.errors.lock().expect("no reader panicked").clone()
    }

    /// Waits until standard output has this, and gives all of it
    #[track_caller]
    pub(crate) fn prints(&self, part: &str) -> String {
        eventually(&format!("standard output has {part:?}"), || {
            Some(self.output()).filter(|output| output.contains(part))
        })
    }

    /// Waits until standard error has a line with all of these parts, and gives the last of them
    #[track_caller]
    pub(crate) fn says(&self, parts: &[&str]) -> String {
        self.says_after(0, parts)
    }

    /// As [`Server::says`], of what came after so many bytes of standard error
    #[track_caller]
    pub(crate) fn says_after(&self, start: usize, parts: &[&str]) -> String {
        eventually(&format!("standard error says {parts:?}"), || {
            self.errors()[start..]
                .lines()
                .rfind(|line| parts.iter().all(|part| line.contains(part)))
                .map(str::to_owned)
        })
    }

    /// `127.0.0.1:<port>` of the debug server
    #[track_caller]
    pub(crate) fn debug_address(&self) -> String {
        eventually("it says where the debug server listens", || {
            self.output()
                .lines()
                .find_map(|line| address_after("debug on ", line))
        })
    }

    /// SIGHUP: reads again what it can
    pub(crate) fn reload(&self) {
        signal(self.id(), "HUP");
    }

    /// SIGTERM, without waiting for the end
    pub(crate) fn begin_to_stop(&self) {
        terminate(self.id());
    }

    /// How it ended, after [`Server::begin_to_stop`] or by itself
    #[track_caller]
    pub(crate) fn ends(mut self) -> ExitStatus {
        wait(&mut self.child, SOON).expect("it ends")
    }

    /// Whether it still runs
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().expect("a status").is_none()
    }

    /// Its resident memory in bytes
    pub(crate) fn resident(&self) -> u64 {
        self.memory("VmRSS:")
    }

    fn memory(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()));
        let status = status.expect("it runs");
        let line = status.lines().find(|line| line.starts_with(field));
        let kibibytes = line.and_then(|line| line.split_whitespace().nth(1));
        kibibytes
            .and_then(|text| text.parse::<u64>().ok())
            .expect("a number")
            * 1024
    }

    /// The most that was ever resident, in bytes, without the program itself
    ///
    /// Which is many times as large without optimization, as tests have it.
    pub(crate) fn resident_peak(&self) -> u64 {
        self.memory("VmHWM:") - self.memory("RssFile:")
    }

    /// kill -9
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// SIGTERM, and how it ended
    #[track_caller]
    pub(crate) fn stop(mut self) -> ExitStatus {
        self.begin_to_stop();
        wait(&mut self.child, SOON).expect("it stops when it is told")
    }

    fn answers(&mut self) -> bool {
        for _ in 0..200 {
            if self.child.try_wait().expect("a status").is_some() {
                return false;
            }
            if let Ok(response) = http::send(&self.address, "GET", "/v2/", &[], &[]) {
                return matches!(response.status, 200 | 401);
            }
            thread::sleep(Duration::from_millis(50));
        }
        false
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(40)..];
            eprintln!("end of the log of {}:\n{}", self.address, last.join("\n"));
        }
    }
}

/// A daemon of a client, with its log in a file
pub(crate) struct Daemon {
    child: Child,
}

impl Daemon {
    /// Starts `command` and waits until `ready` succeeds
    #[track_caller]
    pub(crate) fn start(mut command: Command, log: &Path, ready: impl Fn() -> Command) -> Self {
        let output = fs::File::create(log).expect("a log file");
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle"))
            .stderr(output)
            .spawn()
            .expect("the daemon starts");
        let mut daemon = Self { child };
        for _ in 0..300 {
            let ended = daemon.child.try_wait().expect("a status");
            let probe = ready().output().expect("the probe runs");
            if probe.status.success() {
                return daemon;
            }
            if ended.is_some() {
                break;
            }
            thread::sleep(Duration::from_millis(100));
        }
        let log = fs::read_to_string(log).unwrap_or_default();
        panic!("{command:?} does not become ready:\n{log}")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Told, not killed: it has processes and mounts of its own to end.
        terminate(self.child.id());
        if wait(&mut self.child, Duration::from_secs(30)).is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Runs a command that must succeed and gives its standard output
#[track_caller]
pub(crate) fn run(command: &mut Command) -> String {
    let (status, stdout, stderr) = finish(command);
    assert!(
        status.success(),
        "{command:?} failed with {status}:\n{stdout}\n{stderr}"
    );
    stdout
}

/// Runs a command that must fail and gives its standard error
#[track_caller]
pub(crate) fn run_failing(command: &mut Command) -> String {
    let (status, stdout, stderr) = finish(command);
    assert!(
        !status.success(),
        "{command:?} should have failed:\n{stdout}\n{stderr}"
    );
    stderr
}

/// Runs a command to its end, whatever that is, with its exit status and both outputs
#[track_caller]
pub(crate) fn finish(command: &mut Command) -> (ExitStatus, String, String) {
    finish_with(command, "")
}

/// As [`finish`], with this on standard input
#[track_caller]
pub(crate) fn finish_with(command: &mut Command, input: &str) -> (ExitStatus, String, String) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    // It may end without reading; inputs are shorter than a pipe is wide.
    let _ = child
        .stdin
        .take()
        .expect("piped")
        .write_all(input.as_bytes());
    let stdout = collect(child.stdout.take().expect("piped"));
    let stderr = collect(child.stderr.take().expect("piped"));
    let Some(status) = wait(&mut child, PATIENCE) else {
        let _ = child.kill();
        let _ = child.wait();
        panic!("{command:?} did not end within {PATIENCE:?}");
    };
    (
        status,
        stdout.join().expect("no panic"),
        stderr.join().expect("no panic"),
    )
}

fn collect(mut output: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = output.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn keep(
    output: impl Read + Send + 'static,
    log: &Arc<Mutex<String>>,
    each: impl Fn(&str) + Send + 'static,
) {
    let log = Arc::clone(log);
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            each(&line);
            let mut log = log.lock().expect("no reader panicked");
            log.push_str(&line);
            log.push('\n');
        }
    });
}

fn wait(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait().expect("a status") {
            return Some(status);
        }
        if Instant::now() > deadline {
            return None;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Asks again and again until there is an answer; `what` says what does not happen if none comes
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: not so within {SOON:?}");
        thread::sleep(Duration::from_millis(25));
    }
}

fn terminate(id: u32) {
    signal(id, "TERM");
}

fn signal(id: u32, name: &str) {
    let _ = Command::new("kill")
        .args([format!("-{name}"), id.to_string()])
        .status();
}

/// `<host>:<port>` of the URL that follows `words` in a line, if they are in it, or the path
fn address_after(words: &str, line: &str) -> Option<String> {
    let (_, rest) = line.split_once(words)?;
    let last = rest.split_whitespace().last()?;
    let address = last.split_once("://").map_or(last, |(_, address)| address);
    Some(address.trim_end_matches('/').to_owned())
}

/// An address that nobody listens on at this moment
pub(crate) fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .to_string()
}
