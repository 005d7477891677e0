//! The variables of the old proxy, which fill what the file does not say

use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tracing::level_filters::LevelFilter;

use super::super::environment::{Applied, entry};
use super::super::tree::{Node, Scalar, Value};
use super::super::value::Problem;
use super::super::{Origin, Warning};
use crate::acumos_log::{LegacyLogError, legacy_directory, legacy_level};

pub(super) const PREFIX: &str = "ACUMOS_";

/// Those that did something for the old proxy and do nothing here, and why
const IGNORED: [(&str, &str); 5] = [
    (
        "ACUMOS_AUTH_URL",
        "users are checked by asking CDS (`ACUMOS_CDS_URL`) and not by way of on-boarding, which \
         answers a wrong password as if it were down",
    ),
    (
        "ACUMOS_DOCKER_PROXY_AUTH_API_PORT",
        "nothing is asked of a second service in the same container",
    ),
    (
        "ACUMOS_DOCKER_PROXY_AUTH_API_PATH",
        "nothing is asked of a second service in the same container",
    ),
    (
        "ACUMOS_DOCKER_PROXY_USERNAME",
        "no user of this name is let in, as the old proxy let none in; name it under \
         `serviceaccounts` if it is to push and pull everything",
    ),
    (
        "ACUMOS_DOCKER_PROXY_PASSWORD",
        "no user of this name is let in, as the old proxy let none in; name it under \
         `serviceaccounts` if it is to push and pull everything",
    ),
];

/// Those that do something here
const KNOWN: [&str; 14] = [
    "ACUMOS_CDS_PASSWORD",
    "ACUMOS_CDS_URL",
    "ACUMOS_CDS_USER",
    "ACUMOS_CERT",
    "ACUMOS_CERT_KEY",
    "ACUMOS_DOCKER_MODEL_PORT",
    "ACUMOS_DOCKER_PROXY_AUTH",
    "ACUMOS_DOCKER_PROXY_HOST",
    "ACUMOS_DOCKER_PROXY_LOG_FILE",
    "ACUMOS_DOCKER_PROXY_LOG_LEVEL",
    "ACUMOS_DOCKER_PROXY_PORT",
    "ACUMOS_DOCKER_REGISTRY_HOST",
    "ACUMOS_LUM_URL",
    "ACUMOS_LUM_INSTANCE",
];

/// What the variables have done
#[derive(Debug, Default)]
pub(super) struct Filled {
    /// Path and variable of what they set
    pub(super) applied: Applied,
    /// Path and variable of what was set already
    pub(super) unused: Applied,
    pub(super) warnings: Vec<Warning>,
}

/// Fills what `root` does not say
///
/// # Errors
///
/// A value that is not as it should be, without a part of it.
pub(super) fn fill(
    root: &mut Node,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<Filled, Problem> {
    let mut variables: Vec<(String, String)> = variables
        .into_iter()
        .filter(|(name, value)| name.starts_with(PREFIX) && !value.is_empty())
        .collect();
    variables.sort();
    let mut filler = Filler {
        root,
        variables: &variables,
        filled: Filled::default(),
    };
    filler.warn();
    filler.upstream()?;
    filler.directory();
    filler.tls();
    filler.listen()?;
    filler.logs()?;
    Ok(filler.filled)
}

struct Filler<'a> {
    root: &'a mut Node,
    variables: &'a [(String, String)],
    filled: Filled,
}

impl Filler<'_> {
    fn variable(&self, name: &str) -> Option<&str> {
        let mut variables = self.variables.iter();
        variables.find_map(|(known, value)| (known == name).then_some(value.as_str()))
    }

    /// Says which variables do nothing
    fn warn(&mut self) {
        for (name, _) in self.variables {
            let ignored = IGNORED.iter().find(|(ignored, _)| ignored == name);
            let what = match ignored {
                Some((_, why)) => format!("it is not used: {why}"),
                // The platform has hundreds of variables; only these are meant for this program.
                None if name.starts_with("ACUMOS_DOCKER_PROXY_")
                    && name != "ACUMOS_DOCKER_PROXY_SERVICE_LABEL"
                    && !KNOWN.contains(&name.as_str()) =>
                {
                    "no key of the configuration is set by it".to_owned()
                }
                None => continue,
            };
            self.filled.warnings.push(Warning {
                keys: vec![name.clone()],
                origin: Some(Origin::Variable(name.clone())),
                what,
            });
        }
    }

    /// Whether anything is said at a path
    fn says(&self, path: &str) -> bool {
        path.split('.')
            .try_fold(&*self.root, |node, key| node.child(key))
            .is_some_and(|node| !node.is_empty())
    }

    /// Sets a text at a path, unless one of `instead`, or the path itself, is there
    fn set(&mut self, variable: &str, path: &str, value: Option<String>, instead: &[&str]) {
        let Some(value) = value else {
            return;
        };
        let pair = (path.to_owned(), variable.to_owned());
        if self.says(path) || instead.iter().any(|path| self.says(path)) {
            self.filled.unused.push(pair);
            return;
        }
        let origin = Origin::Variable(variable.to_owned());
        let mut node = &mut *self.root;
        for key in path.split('.') {
            node = match entry(node, key, &origin) {
                Some(node) => node,
                // What is no section where one should be is refused by whoever reads it.
                None => return,
            };
        }
        node.value = Value::Scalar(Scalar {
            text: value,
            only_text: true,
        });
        node.origin = origin;
        self.filled.applied.push(pair);
    }

    fn upstream(&mut self) -> Result<(), Problem> {
        const HOST: &str = "ACUMOS_DOCKER_REGISTRY_HOST";
        const AUTH: &str = "ACUMOS_DOCKER_PROXY_AUTH";
        let port = self.variable("ACUMOS_DOCKER_MODEL_PORT").unwrap_or("8082");
        let url = self.variable(HOST).map(|host| {
            // An address of IPv6 has its brackets in a URL.
            if host.contains(':') && !host.starts_with('[') {
                format!("http://[{host}]:{port}")
            } else {
                format!("http://{host}:{port}")
            }
        });
        self.set(HOST, "upstream.url", url, &["embedded"]);
        let Some(text) = self.variable(AUTH) else {
            return Ok(());
        };
        let account = BASE64_STANDARD
            .decode(text.trim())
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok());
        let account = account.as_deref().and_then(|text| {
            // `echo` without `-n` put its newline into what was encoded.
            text.trim_end_matches(['\r', '\n']).split_once(':')
        });
        let Some((user, password)) = account else {
            return Err(Problem {
                origin: Some(Origin::Variable(AUTH.to_owned())),
                text: "expected `user:password` in base64, as the platform's templates make it"
                    .to_owned(),
            });
        };
        let (user, password) = (user.to_owned(), password.to_owned());
        let said = [
            "embedded",
            "upstream.user",
            "upstream.password",
            "upstream.passwordfile",
        ];
        // The name last: it would be in the way of the password.
        self.set(AUTH, "upstream.password", Some(password), &said);
        let ours = self
            .filled
            .applied
            .iter()
            .any(|(path, _)| path == "upstream.password");
        if ours {
            self.set(AUTH, "upstream.user", Some(user), &[]);
        }
        Ok(())
    }

    fn directory(&mut self) {
        let elsewhere = ["embedded", "acumos.file", "acumos.database"];
        let mut set = |variable: &str, path: &str, instead: &[&str]| {
            let value = self.variable(variable).map(ToOwned::to_owned);
            self.set(variable, path, value, &[&elsewhere, instead].concat());
        };
        let cds = "acumos.services.cds";
        let password = [format!("{cds}.password"), format!("{cds}.passwordfile")];
        let password: Vec<&str> = password.iter().map(String::as_str).collect();
        set("ACUMOS_CDS_URL", &format!("{cds}.url"), &[]);
        set("ACUMOS_CDS_USER", &format!("{cds}.user"), &password);
        set("ACUMOS_CDS_PASSWORD", &format!("{cds}.password"), &password);
        set("ACUMOS_LUM_URL", "acumos.services.lum.url", &[]);
        set("ACUMOS_LUM_INSTANCE", "acumos.services.lum.instance", &[]);
    }

    fn tls(&mut self) {
        if self.says("tls") {
            for (variable, path) in [
                ("ACUMOS_CERT", "tls.certificate"),
                ("ACUMOS_CERT_KEY", "tls.key"),
            ] {
                if self.variable(variable).is_some() {
                    let pair = (path.to_owned(), variable.to_owned());
                    self.filled.unused.push(pair);
                }
            }
            return;
        }
        for (variable, path) in [
            ("ACUMOS_CERT", "tls.certificate"),
            ("ACUMOS_CERT_KEY", "tls.key"),
        ] {
            // The platform gives names of files, which its scripts take from this folder.
            let value = self
                .variable(variable)
                .map(|name| match name.contains('/') {
                    true => name.to_owned(),
                    false => format!("../certs/{name}"),
                });
            self.set(variable, path, value, &[]);
        }
    }

    fn listen(&mut self) -> Result<(), Problem> {
        const PORT: &str = "ACUMOS_DOCKER_PROXY_PORT";
        let host = self
            .variable("ACUMOS_DOCKER_PROXY_HOST")
            .map(ToOwned::to_owned);
        let port = self.variable(PORT).map(ToOwned::to_owned);
        if let Some(port) = &port
            && port.parse::<u16>().is_err()
        {
            return Err(Problem {
                origin: Some(Origin::Variable(PORT.to_owned())),
                text: format!("expected a port, got `{}`", port.escape_debug()),
            });
        }
        let listen = port.as_ref().map(|port| {
            let host = if self.says("tls") { "" } else { "127.0.0.1" };
            format!("{host}:{port}")
        });
        self.set(PORT, "listen", listen, &[]);
        let host = host.map(|host| match &port {
            Some(port) => format!("{host}:{port}"),
            None => host,
        });
        self.set("ACUMOS_DOCKER_PROXY_HOST", "host", host, &[]);
        Ok(())
    }

    fn logs(&mut self) -> Result<(), Problem> {
        const FILE: &str = "ACUMOS_DOCKER_PROXY_LOG_FILE";
        const LEVEL: &str = "ACUMOS_DOCKER_PROXY_LOG_LEVEL";
        let wrong = |variable: &str, error: LegacyLogError| Problem {
            origin: Some(Origin::Variable(variable.to_owned())),
            text: error.to_string(),
        };
        let directory = self
            .variable(FILE)
            .map(|file| legacy_directory(Path::new(file)).map_err(|error| wrong(FILE, error)))
            .transpose()?;
        let directory = directory.map(|folder| folder.to_string_lossy().into_owned());
        self.set(FILE, "logs.directory", directory, &[]);
        let Some(text) = self.variable(LEVEL) else {
            return Ok(());
        };
        let level = match legacy_level(text).map_err(|error| wrong(LEVEL, error))? {
            LevelFilter::ERROR => "error",
            LevelFilter::WARN => "warn",
            LevelFilter::INFO => "info",
            // There are no finer details than these.
            LevelFilter::DEBUG | LevelFilter::TRACE => "debug",
            // A proxy that logs nothing cannot be told from one that is broken.
            LevelFilter::OFF => {
                let error = LegacyLogError::Level(text.to_owned());
                return Err(wrong(LEVEL, error));
            }
        };
        self.set(LEVEL, "logs.level", Some(level.to_owned()), &[]);
        Ok(())
    }
}
