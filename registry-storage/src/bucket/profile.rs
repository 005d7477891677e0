//! The files in which Amazon's own tools keep credentials and regions
//!
//! `~/.aws/credentials` and `~/.aws/config`, or where `AWS_SHARED_CREDENTIALS_FILE` and
//! `AWS_CONFIG_FILE` say, by the profile `AWS_PROFILE` or `default`. They are read again when
//! they change, so that credentials are rotated while a registry runs. Keys and a region are
//! taken; what else a profile may say (a role, a login of its own, a program) is not followed.

use std::collections::HashMap;
use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;

use super::BucketError;

/// How often it is looked whether a file has changed
const LOOK: Duration = Duration::from_secs(2);

/// More than such files have
const LARGEST: u64 = 1024 * 1024;

/// One profile and the files that may have it
#[derive(Clone, Debug)]
pub(super) struct Profile {
    name: String,
    /// Whether it was asked for by name
    named: bool,
    credentials: Option<PathBuf>,
    config: Option<PathBuf>,
}

impl Profile {
    /// The one that the environment of this process names
    pub(super) fn of_environment() -> Self {
        Self::of(|name| env::var_os(name).filter(|value| !value.is_empty()))
    }

    fn of(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let home = variable("HOME").map(PathBuf::from);
        let file = |name: &str, usual: &str| {
            let usual = home.as_ref().map(|home| home.join(".aws").join(usual));
            variable(name).map(PathBuf::from).or(usual)
        };
        let named = variable("AWS_PROFILE").or_else(|| variable("AWS_DEFAULT_PROFILE"));
        Self {
            named: named.is_some(),
            name: named.map_or_else(
                || "default".to_owned(),
                |name| name.to_string_lossy().into_owned(),
            ),
            credentials: file("AWS_SHARED_CREDENTIALS_FILE", "credentials"),
            config: file("AWS_CONFIG_FILE", "config"),
        }
    }

    /// What the files say of it, the credentials' before the configuration's
    fn read(&self) -> io::Result<HashMap<String, String>> {
        let mut found = HashMap::new();
        let sections = [self.name.clone(), format!("profile {}", self.name)];
        for path in [&self.config, &self.credentials].into_iter().flatten() {
            let mut text = String::new();
            match File::open(path) {
                Ok(file) => file.take(LARGEST).read_to_string(&mut text).map(drop),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => Err(error),
            }
            .map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", path.display()))
            })?;
            found.extend(section(&text, &sections));
        }
        Ok(found)
    }

    /// Its region, if the files say one
    pub(super) fn region(&self) -> Option<String> {
        self.read().ok()?.remove("region")
    }

    /// Its credentials, if the files have any
    ///
    /// # Errors
    ///
    /// If a profile was asked for by name that has none, or the files cannot be read.
    pub(super) fn credentials(self) -> Result<Option<Arc<ProfileCredentials>>, BucketError> {
        let wrong = |detail: String| BucketError::Option {
            name: "accesskey",
            detail,
        };
        let stamps = self.stamps();
        let found = self
            .read()
            .map_err(|error| wrong(format!("a file of credentials cannot be read: {error}")))?;
        let Some(credential) = credential(&found) else {
            if self.named {
                return Err(wrong(format!(
                    "expected `aws_access_key_id` and `aws_secret_access_key` in the profile `{}`, \
                     which the environment names; its roles, logins and programs are not followed",
                    self.name
                )));
            }
            return Ok(None);
        };
        Ok(Some(Arc::new(ProfileCredentials {
            profile: self,
            state: Mutex::new(State {
                credential: Arc::new(credential),
                stamps,
                looked: Instant::now(),
            }),
        })))
    }

    /// By which a change of the files is seen
    fn stamps(&self) -> Stamps {
        [&self.credentials, &self.config].map(|path| {
            let found = fs::metadata(path.as_ref()?).ok()?;
            Some((found.modified().ok()?, found.len()))
        })
    }
}

type Stamps = [Option<(SystemTime, u64)>; 2];

/// The credentials of a profile, as they are in its files now
pub(super) struct ProfileCredentials {
    profile: Profile,
    state: Mutex<State>,
}

struct State {
    credential: Arc<AwsCredential>,
    stamps: Stamps,
    looked: Instant,
}

impl fmt::Debug for ProfileCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProfileCredentials")
            .field("profile", &self.profile)
            .finish_non_exhaustive()
    }
}

impl ProfileCredentials {
    fn current(&self, look: Duration) -> Arc<AwsCredential> {
        // A state is never left half changed.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() < look {
            return state.credential.clone();
        }
        // Two calls of the system every now and then are not worth another thread.
        state.looked = Instant::now();
        let stamps = self.profile.stamps();
        if stamps == state.stamps {
            return state.credential.clone();
        }
        state.stamps = stamps;
        match self.profile.read().map(|found| credential(&found)) {
            Ok(Some(credential)) if credential != *state.credential => {
                tracing::info!(profile = self.profile.name, "new credentials are used");
                state.credential = Arc::new(credential);
            }
            Ok(Some(_)) => {}
            Ok(None) => tracing::warn!(
                profile = self.profile.name,
                "the files of credentials have none any more; the former ones are used"
            ),
            Err(error) => tracing::warn!(
                profile = self.profile.name,
                %error,
                "the files of credentials cannot be read; the former ones are used"
            ),
        }
        state.credential.clone()
    }
}

#[async_trait]
impl CredentialProvider for ProfileCredentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        Ok(self.current(LOOK))
    }
}

fn credential(found: &HashMap<String, String>) -> Option<AwsCredential> {
    let get = |name: &str| found.get(name).filter(|value| !value.is_empty()).cloned();
    Some(AwsCredential {
        key_id: get("aws_access_key_id")?,
        secret_key: get("aws_secret_access_key")?,
        token: get("aws_session_token"),
    })
}

/// The entries of sections with one of these names
fn section(text: &str, names: &[String]) -> HashMap<String, String> {
    let mut within = false;
    let mut found = HashMap::new();
    for line in text.lines() {
        // What is indented belongs to the entry above, and none that is needed has such.
        let nested = line.starts_with([' ', '\t']);
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            let name = name.split(']').next().unwrap_or_default();
            let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
            within = names.contains(&name);
        } else if within
            && !nested
            && let Some((key, value)) = line.split_once('=')
        {
            let value = value.split(" #").next().unwrap_or_default().trim();
            found.insert(key.trim().to_ascii_lowercase(), value.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREDENTIALS: &str = "\
# of the build
[default]
aws_access_key_id = first
aws_secret_access_key=hunter2   # comment

[build]
aws_access_key_id = second
aws_secret_access_key = a=b+c/
aws_session_token = token
[empty]
region = nowhere
";
    const CONFIG: &str = "\
[default]
region = eu-central-1
s3 =
  region = not-this
[profile build]
region=us-west-2
aws_access_key_id = not-this
";

    fn profile(folder: &tempfile::TempDir, name: Option<&str>) -> Profile {
        let home = folder.path().to_owned();
        let name = name.map(OsString::from);
        Profile::of(move |variable| match variable {
            "HOME" => Some(home.clone().into()),
            "AWS_PROFILE" => name.clone(),
            _ => None,
        })
    }

    fn home() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(".aws")).unwrap();
        fs::write(folder.path().join(".aws/credentials"), CREDENTIALS).unwrap();
        fs::write(folder.path().join(".aws/config"), CONFIG).unwrap();
        folder
    }

    #[test]
    fn a_profile_is_what_both_files_say_of_it() {
        let home = home();
        for (name, key, secret, token, region) in [
            (None, "first", "hunter2", None, "eu-central-1"),
            (
                Some("build"),
                "second",
                "a=b+c/",
                Some("token"),
                "us-west-2",
            ),
        ] {
            let profile = profile(&home, name);
            assert_eq!(profile.region().as_deref(), Some(region));
            let credentials = profile.credentials().unwrap().unwrap();
            assert!(!format!("{credentials:?}").contains(secret));
            let found = credentials.current(Duration::ZERO);
            assert_eq!((&*found.key_id, &*found.secret_key), (key, secret));
            assert_eq!(found.token.as_deref(), token);
        }
    }

    #[test]
    fn none_are_no_error_unless_they_were_asked_for() {
        let nowhere = tempfile::tempdir().unwrap();
        assert!(profile(&nowhere, None).credentials().unwrap().is_none());
        assert_eq!(profile(&nowhere, None).region(), None);
        let home = home();
        for name in ["empty", "unknown"] {
            let error = profile(&home, Some(name)).credentials().unwrap_err();
            let text = error.to_string();
            assert!(text.contains(name) && text.contains("accesskey"), "{text}");
        }
    }

    #[test]
    fn files_that_change_are_read_again_and_a_broken_one_changes_nothing() {
        let home = home();
        let path = home.path().join(".aws/credentials");
        let credentials = profile(&home, None).credentials().unwrap().unwrap();
        let key = || credentials.current(Duration::ZERO).key_id.clone();
        assert_eq!(key(), "first");
        fs::write(&path, CREDENTIALS.replace("first", "rotated")).unwrap();
        assert_eq!(key(), "rotated");
        assert_eq!(credentials.current(LOOK).key_id, "rotated");
        for broken in ["", "[default]\naws_access_key_id = half\n"] {
            fs::write(&path, broken).unwrap();
            assert_eq!(key(), "rotated");
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(key(), "rotated");
        fs::write(&path, CREDENTIALS.replace("first", "again-another")).unwrap();
        assert_eq!(key(), "again-another");
    }
}
