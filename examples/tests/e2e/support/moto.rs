//! An S3 server, moto's, and where else a registry under test keeps its content

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::check;
use super::clients::find_python;
use super::http;
use super::process::{Server, run};

/// Runs moto's server and says on which port
const SERVER: &str = "
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

/// Makes a bucket and users of these names, one that may do everything and one that may read
const USERS: &str = "
import json, sys, boto3
at = dict(endpoint_url='http://' + sys.argv[1], region_name='us-east-1',
          aws_access_key_id='x', aws_secret_access_key='x')
boto3.client('s3', **at).create_bucket(Bucket='images')
iam = boto3.client('iam', **at)
for name, actions in [('writer', ['s3:*']), ('reader', ['s3:GetObject', 's3:ListBucket'])]:
    iam.create_user(UserName=name)
    policy = {'Version': '2012-10-17',
              'Statement': [{'Effect': 'Allow', 'Action': actions, 'Resource': '*'}]}
    iam.put_user_policy(UserName=name, PolicyName='p', PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName=name)['AccessKey']
    print(key['AccessKeyId'], key['SecretAccessKey'])
";

/// How many calls that script makes, which nobody is asked for credentials for
const SETUP_CALLS: &str = "7";

/// Moto's S3, gone at the end of the test
pub(crate) struct Moto {
    server: Child,
    python: PathBuf,
    /// `127.0.0.1:<port>`
    pub(crate) address: String,
}

/// The two halves of a key
pub(crate) struct Credentials {
    pub(crate) id: String,
    pub(crate) secret: String,
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Moto {
    /// Which takes whatever credentials there are; or a visible skip
    #[track_caller]
    pub(crate) fn start() -> Option<Self> {
        let python = find_python("moto.server", "moto[server]")?;
        Some(Self::launch(python, |command| command))
    }

    /// Which has the bucket `images` and asks for the credentials of two users, of whom the
    /// first may do everything and the second only read; or a visible skip
    #[track_caller]
    pub(crate) fn with_users() -> Option<(Self, Credentials, Credentials)> {
        let python = find_python("moto.server", "moto[server]")?;
        let moto = Self::launch(python, |command| {
            command.env("INITIAL_NO_AUTH_ACTION_COUNT", SETUP_CALLS)
        });
        let mut command = Command::new(&moto.python);
        let said = run(command.args(["-c", USERS, &moto.address]));
        let mut users = said.lines().filter_map(|line| {
            let (id, secret) = line.split_once(' ')?;
            Some(Credentials {
                id: id.to_owned(),
                secret: secret.to_owned(),
            })
        });
        let (writer, reader) = (users.next(), users.next());
        Some((moto, writer.expect("two users"), reader.expect("two users")))
    }

    fn launch(python: PathBuf, with: impl Fn(&mut Command) -> &mut Command) -> Self {
        let mut command = Command::new(&python);
        command
            .args(["-c", SERVER])
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut server = with(&mut command).spawn().expect("moto starts");
        let mut line = String::new();
        let output = server.stdout.take().expect("piped");
        BufReader::new(output)
            .read_line(&mut line)
            .expect("it says its port");
        let address = format!("127.0.0.1:{}", line.trim());
        Self {
            server,
            python,
            address,
        }
    }

    /// Makes a bucket
    #[track_caller]
    pub(crate) fn make_bucket(&self, name: &str) {
        http::request(&self.address, "PUT", &format!("/{name}")).expect(&[200]);
    }

    /// The entry under `storage` for a bucket here, with `more` in it
    pub(crate) fn storage(&self, bucket: &str, more: &str) -> String {
        format!(
            "s3: {{bucket: {bucket}, regionendpoint: 'http://{}', accesskey: key, secretkey: \
             secret{more}}}",
            self.address
        )
    }

    /// The names of all objects of a bucket
    #[track_caller]
    pub(crate) fn keys(&self, bucket: &str) -> Vec<String> {
        let mut keys: Vec<String> = Vec::new();
        loop {
            // Names are in order, and have nothing that needs to be escaped.
            let after = keys.last().map(|key| format!("&start-after={key}"));
            let path = format!("/{bucket}?list-type=2{}", after.unwrap_or_default());
            let text = http::get(&self.address, &path).expect(&[200]).text();
            let parts = text.split("<Key>").skip(1);
            keys.extend(parts.filter_map(|part| Some(part.split_once("</Key>")?.0.to_owned())));
            if !text.contains("<IsTruncated>true</IsTruncated>") {
                return keys;
            }
        }
    }

    /// Writes all objects of a bucket into a folder, as files
    #[track_caller]
    pub(crate) fn download(&self, bucket: &str, folder: &Path) {
        for key in self.keys(bucket) {
            let object = format!("/{bucket}/{key}");
            let got = http::send(&self.address, "GET", &object, &[AUTHORIZATION], &[]);
            let got = got.expect("answered").expect(&[200]);
            let file = folder.join(&key);
            fs::create_dir_all(file.parent().expect("a folder")).expect("made");
            fs::write(file, got.body).expect("written");
        }
    }
}

/// Where a registry under test keeps its content
enum Place {
    /// In a bucket of an S3 server of its own
    Bucket(Box<Moto>),
    /// In a folder
    Folder,
}

/// A registry's content at one kind of place, gone at the end of the test
pub(crate) struct Content {
    folder: TempDir,
    place: Place,
}

impl Content {
    /// In a folder
    pub(crate) fn in_a_folder() -> Self {
        Self::at(Place::Folder)
    }

    /// In a bucket of S3; or a visible skip
    #[track_caller]
    pub(crate) fn in_a_bucket() -> Option<Self> {
        let moto = Moto::start()?;
        moto.make_bucket("images");
        Some(Self::at(Place::Bucket(Box::new(moto))))
    }

    fn at(place: Place) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        Self { folder, place }
    }

    /// Starts our binary on it, with deletes
    #[track_caller]
    pub(crate) fn serve(&self) -> Server {
        let Place::Bucket(moto) = &self.place else {
            return Server::ours(&self.folder.path().join("root"));
        };
        let config = self.folder.path().join("config.yml");
        let text = format!(
            "version: 0.1\nstorage: {{{}, delete: {{enabled: true}}}}\nhttp: {{addr: \
             \"127.0.0.1:0\"}}\n",
            moto.storage("images", "")
        );
        fs::write(&config, text).expect("written");
        Server::configured(&config)
    }

    /// Checks what no process has open
    #[track_caller]
    pub(crate) fn is_whole(&self) {
        let root = self.folder.path().join("root");
        if let Place::Bucket(moto) = &self.place {
            moto.download("images", &root);
        }
        check::store_is_whole(&root);
    }
}

/// Makes tests of functions that take a [`Content`]: one on a folder, and one on a bucket
macro_rules! everywhere {
    ($($name:ident),+ $(,)?) => {$(
        mod $name {
            use $crate::support::moto::Content;

            #[test]
            fn on_a_folder() {
                super::$name(&Content::in_a_folder());
            }

            #[test]
            fn on_s3() {
                Content::in_a_bucket().iter().for_each(super::$name);
            }
        }
    )+};
}

pub(crate) use everywhere;
