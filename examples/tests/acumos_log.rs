//! The log of the docker-proxy, read by an implementation of grok that is not ours
//!
//! With Python and its package `pygrok` (`REGISTRY_E2E_PYTHON` says which Python) the lines go
//! through the expression of the platform's logstash; without, the test says `SKIPPED`, or fails
//! with `REGISTRY_E2E=required`.

use std::env;
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use registry_examples::acumos_log::{self, AcumosLogOptions};
use serde_json::Value;

/// Prints what grok makes of each line of its input, as JSON
const READER: &str = r"
import json, sys
from pygrok import Grok
grok = Grok(sys.argv[1])
for line in sys.stdin.read().split('\n')[:-1]:
    print(json.dumps(grok.match(line)))
";

/// What the platform's logstash applies to each event
const PLATFORM: &str = r"%{TIMESTAMP_ISO8601:LogTimestamp}\t%{GREEDYDATA:Thread}\t%{LOGLEVEL:Level}\t%{JAVACLASS:Logger}\t%{GREEDYDATA:Marker}\t(?:[^\t]+\t)*(?<Mdc>.*)\t%{GREEDYDATA:Message}\t";

#[test]
fn another_grok_reads_the_lines() {
    let Some(python) = python() else { return };
    let logs = tempfile::tempdir().unwrap();
    let handle = acumos_log::init(&AcumosLogOptions {
        directory: Some(logs.path().to_owned()),
        ..AcumosLogOptions::default()
    })
    .unwrap();
    tracing::info!(target: "docker_proxy", "starting");
    {
        let span = tracing::error_span!(
            "request",
            id = "3f2c",
            service = "PUT /v2/iris_5968f2ae-e0d6-46e6-81c1-dc19db3c4965/manifests/1.0.0",
            client = "192.0.2.7",
            agent = "docker/28.0, (linux)",
            user = "ada"
        );
        let _entered = span.enter();
        tracing::info!(target: "registry::request", marker = "ENTRY", "request received");
        tracing::info!(target: "registry::invoke", marker = "INVOKE", entity = "CDS", service = "POST /ccds/user/login", invocation = "i-1", "asking");
        tracing::warn!(target: "registry::invoke", marker = "INVOKE_RETURN", entity = "CDS", service = "POST /ccds/user/login", invocation = "i-1", code = 0, elapsed_ms = 7_u64, error = "refused\tby\nall", "no answer");
        tracing::info!(target: "registry_http::auth_request", "with\ta tab and\na line end");
        tracing::info!(target: "registry::request", marker = "EXIT", code = 503, elapsed_ms = 9_u64, bytes = 80, "request answered");
    }
    tracing::info!(target: "hyper-util", "a library");
    handle.flush();

    let path = logs.path().join("docker-proxy/docker-proxy.log");
    let output = Command::new(python)
        .args(["-c", READER, PLATFORM])
        .stdin(Stdio::from(File::open(&path).unwrap()))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let lines = fs::read_to_string(&path).unwrap();
    let read = String::from_utf8(output.stdout).unwrap();
    assert_eq!((lines.lines().count(), read.lines().count()), (7, 7));
    for (line, read) in lines.lines().zip(read.lines()) {
        let read: Value = serde_json::from_str(read).unwrap();
        let columns: Vec<&str> = line.split('\t').collect();
        for (name, column) in [
            ("LogTimestamp", 0),
            ("Thread", 1),
            ("Level", 2),
            ("Logger", 3),
            ("Marker", 4),
            ("Mdc", 5),
            ("Message", 6),
        ] {
            assert_eq!(read[name], columns[column], "{name} of {line}");
        }
    }
}

/// A Python with the `pygrok` package, or a visible skip
fn python() -> Option<PathBuf> {
    let python = env::var_os("REGISTRY_E2E_PYTHON").map_or_else(|| "python3".into(), PathBuf::from);
    let imports = Command::new(&python)
        .args(["-c", "import pygrok"])
        .output()
        .is_ok_and(|output| output.status.success());
    if imports {
        return Some(python);
    }
    let reason = "pygrok for Python not found; install it with `pip install pygrok`, or set \
                  REGISTRY_E2E_PYTHON to a Python that has it";
    if env::var_os("REGISTRY_E2E").is_some_and(|value| value == "required") {
        panic!("{reason}; REGISTRY_E2E=required does not allow skipping");
    }
    // Written past the test harness, which would keep it to itself.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {reason}");
    None
}
