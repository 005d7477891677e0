//! A bucket on an S3 server that a test starts

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::clients::find_python;
use super::http;

/// Runs moto's server and says on which port
const SERVER: &str = "
import sys
from werkzeug.serving import make_server
from moto.server import DomainDispatcherApplication, create_backend_app
app = DomainDispatcherApplication(create_backend_app)
server = make_server('127.0.0.1', 0, app, threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
";

/// moto asks that there is a signature, not what it says
const AUTHORIZATION: (&str, &str) = (
    "Authorization",
    "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, \
     Signature=none",
);

/// moto, with one bucket
pub(crate) struct S3 {
    server: Child,
    /// `127.0.0.1:<port>`
    pub(crate) address: String,
}

impl S3 {
    /// The name of the bucket
    pub(crate) const BUCKET: &str = "content";

    /// Starts one, or says what is missing
    #[track_caller]
    pub(crate) fn start() -> Option<Self> {
        let python = find_python("moto.server", "moto[server]")?;
        let mut server = Command::new(python)
            .args(["-c", SERVER])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the S3 server starts");
        let mut line = String::new();
        let output = server.stdout.take().expect("piped");
        // From here on, dropping it ends the server.
        let mut started = Self {
            server,
            address: String::new(),
        };
        BufReader::new(output).read_line(&mut line).expect("a port");
        started.address = format!("127.0.0.1:{}", line.trim());
        http::request(&started.address, "PUT", &format!("/{}", Self::BUCKET)).expect(&[200]);
        Some(started)
    }

    /// The section `s3` of `storage` in a configuration, in one line
    pub(crate) fn section(&self) -> String {
        format!(
            "s3: {{bucket: {}, region: us-east-1, regionendpoint: 'http://{}', accesskey: key, \
             secretkey: secret}}",
            Self::BUCKET,
            self.address
        )
    }

    /// The names of all objects
    #[track_caller]
    pub(crate) fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = Vec::new();
        loop {
            // Names are in order, and have nothing that needs to be escaped.
            let after = keys.last().map(|key| format!("&start-after={key}"));
            let path = format!("/{}?list-type=2{}", Self::BUCKET, after.unwrap_or_default());
            let text = http::get(&self.address, &path).expect(&[200]).text();
            let parts = text.split("<Key>").skip(1);
            keys.extend(parts.filter_map(|part| Some(part.split_once("</Key>")?.0.to_owned())));
            if !text.contains("<IsTruncated>true</IsTruncated>") {
                return keys;
            }
        }
    }

    /// Writes all objects into a folder, as files
    #[track_caller]
    pub(crate) fn download(&self, folder: &Path) {
        for key in self.keys() {
            let object = format!("/{}/{key}", Self::BUCKET);
            let got = http::send(&self.address, "GET", &object, &[AUTHORIZATION], &[]);
            let got = got.expect("answered").expect(&[200]);
            let file = folder.join(&key);
            fs::create_dir_all(file.parent().expect("a folder")).expect("made");
            fs::write(file, got.body).expect("written");
        }
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
