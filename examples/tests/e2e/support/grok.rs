//! What the platform's logstash makes of a log, by an implementation of grok that is not ours

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::clients::find_python;

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

/// The fields of each line, or nothing where the test is skipped; a line that does not match is
/// `null`
#[track_caller]
pub(crate) fn read(log: &Path) -> Option<Vec<Value>> {
    let python = find_python("pygrok", "pygrok")?;
    let output = Command::new(python)
        .args(["-c", READER, PLATFORM])
        .stdin(Stdio::from(File::open(log).expect("a log")))
        .output()
        .expect("python runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let text = String::from_utf8(output.stdout).expect("text");
    let lines = text.lines();
    Some(
        lines
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect(),
    )
}
