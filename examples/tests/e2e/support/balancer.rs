//! Load balancers, with the configurations of `examples/deploy/replicas/`

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::clients::{find, is_root};
use super::process::{Daemon, free_address};

/// The configurations that operators get
pub(crate) fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy/replicas")
        .join(name)
}

/// A load balancer in front of three replicas
pub(crate) struct Balancer {
    /// `127.0.0.1:<port>`, where clients connect
    pub(crate) address: String,
    _daemon: Daemon,
}

impl Balancer {
    /// haproxy with `haproxy.cfg`, or a visible skip; its files are in `folder`
    #[track_caller]
    pub(crate) fn haproxy(folder: &Path, replicas: &[String]) -> Option<Self> {
        let program = find("haproxy", "haproxy")?;
        let (address, text) = configured("haproxy.cfg", "bind :5000", "bind $ADDRESS", replicas);
        let config = folder.join("haproxy.cfg");
        fs::write(&config, text).expect("written");
        let mut command = Command::new(program);
        // In the foreground.
        command.arg("-db").arg("-f").arg(config);
        Some(Self::start(command, &folder.join("haproxy.log"), address))
    }

    /// nginx with `nginx.conf`, or a visible skip; its files are in `folder`
    #[track_caller]
    pub(crate) fn nginx(folder: &Path, replicas: &[String]) -> Option<Self> {
        let program = find("nginx", "nginx-light")?;
        let (address, text) =
            configured("nginx.conf", "listen 5000;", "listen $ADDRESS;", replicas);
        // What is nobody's matter but the test's: where a process of its own keeps its files.
        let user = if is_root() { "user root;" } else { "" };
        let own = folder.display();
        let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {own}/nginx-{kind};\n"))
            .concat();
        let text = replaced(
            &text,
            "http {\n",
            &format!("http {{\naccess_log off;\n{paths}"),
        );
        let head = format!("daemon off; pid {own}/nginx.pid; error_log stderr; {user}\n");
        let config = folder.join("nginx.conf");
        fs::write(&config, head + &text).expect("written");
        let mut command = Command::new(program);
        command.arg("-p").arg(folder).arg("-c").arg(config);
        Some(Self::start(command, &folder.join("nginx.log"), address))
    }

    #[track_caller]
    fn start(command: Command, log: &Path, address: String) -> Self {
        let (_, port) = address.rsplit_once(':').expect("a port");
        let daemon = Daemon::start(command, log, || {
            let mut probe = Command::new("bash");
            probe
                .arg("-c")
                .arg(format!("exec 3<>/dev/tcp/127.0.0.1/{port}"));
            probe
        });
        Self {
            address,
            _daemon: daemon,
        }
    }
}

/// A configuration of `examples/deploy/replicas/` with addresses of this machine in it, and where
/// it listens
#[track_caller]
fn configured(file: &str, listen: &str, with: &str, replicas: &[String]) -> (String, String) {
    let text = fs::read_to_string(deploy(file)).expect("readable");
    let address = free_address();
    let mut text = replaced(&text, listen, &with.replace("$ADDRESS", &address));
    for (number, replica) in (1..).zip(replicas) {
        text = replaced(&text, &format!("registry-{number}.example:5000"), replica);
    }
    assert!(!text.contains(".example"), "a replica is left: {text}");
    (address, text)
}

/// The text with this part, which is there, replaced
#[track_caller]
pub(crate) fn replaced(text: &str, part: &str, with: &str) -> String {
    assert!(text.contains(part), "no {part:?} in {text}");
    text.replace(part, with)
}
