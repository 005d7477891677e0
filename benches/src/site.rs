//! The servers that are compared, each with the configuration that its makers recommend

use std::fmt::{self, Write};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::Result;
use crate::http::Tls;
use crate::process::{Server, free_address, ours, theirs};
use crate::tls::Certificate;

/// Who is measured
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The `registry` beside this program
    Ours,
    /// Debian's docker-registry, which is distribution
    Distribution,
    /// nginx, with the same bytes as files
    Nginx,
}

/// Where registries store
#[derive(Clone, Debug)]
pub enum Storage {
    /// A folder, which nginx serves as it is
    Folder(PathBuf),
    /// A bucket
    S3 {
        /// The URL of the store
        endpoint: String,
        /// The bucket's name
        bucket: String,
        /// The region that it is in
        region: String,
        /// Who asks, and the secret that shows it
        credentials: (String, String),
        /// The folder in the bucket
        root: String,
    },
}

/// The programs that are installed, and a folder for their files
#[derive(Debug)]
pub struct Site {
    folder: TempDir,
    programs: Vec<(Kind, PathBuf)>,
    /// What is missing, and what to do about it
    pub missing: Vec<String>,
    certificate: Certificate,
    client: Tls,
}

impl Kind {
    /// All of them, ours first
    pub const ALL: [Self; 3] = [Self::Ours, Self::Distribution, Self::Nginx];
    /// Those that are registries
    pub const REGISTRIES: [Self; 2] = [Self::Ours, Self::Distribution];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ours => "registry",
            Self::Distribution => "docker-registry",
            Self::Nginx => "nginx",
        })
    }
}

impl Site {
    /// Looks for the programs
    ///
    /// # Errors
    ///
    /// If ours was not built; what else is missing is in [`missing`](Self::missing).
    pub fn open() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("compare").tempdir()?;
        let mut programs = vec![(Kind::Ours, ours("registry")?)];
        let mut missing = Vec::new();
        for (kind, name, package) in [
            (Kind::Distribution, "docker-registry", "docker-registry"),
            (Kind::Nginx, "nginx", "nginx-light"),
        ] {
            match theirs(name) {
                Some(program) => programs.push((kind, program)),
                None => missing.push(format!(
                    "{name} is not installed (Debian's package {package}): there is nothing to \
                     compare with in its columns"
                )),
            }
        }
        let certificate = Certificate::make(folder.path())?;
        let client = certificate.client()?;
        Ok(Self {
            folder,
            programs,
            missing,
            certificate,
            client,
        })
    }

    /// The installed ones of these
    pub fn installed(&self, kinds: &[Kind]) -> Vec<Kind> {
        let known = |kind: &Kind| self.programs.iter().any(|(known, _)| known == kind);
        kinds.iter().copied().filter(known).collect()
    }

    /// An empty folder, which is removed with the site at the latest
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn root(&self) -> Result<TempDir> {
        Ok(tempfile::tempdir_in(self.folder.path())?)
    }

    /// What a program says of its version
    pub fn version(&self, kind: Kind) -> Option<String> {
        let (_, program) = self.programs.iter().find(|(known, _)| *known == kind)?;
        let argument = match kind {
            Kind::Nginx => "-v",
            Kind::Ours | Kind::Distribution => "--version",
        };
        let output = Command::new(program).arg(argument).output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        let line = String::from_utf8_lossy(&text).lines().next()?.to_owned();
        let version = line.rsplit([' ', '/']).next()?;
        Some(format!("{kind} {version}"))
    }

    /// Starts a server, which listens when this returns
    ///
    /// # Errors
    ///
    /// One that is not installed or does not listen.
    pub fn start(&self, kind: Kind, storage: &Storage, tls: bool) -> Result<Server> {
        let program = self.programs.iter().find(|(known, _)| *known == kind);
        let (_, program) = program.ok_or_else(|| format!("{kind} is not installed"))?;
        let address = free_address()?;
        let folder = tempfile::tempdir_in(self.folder.path())?.keep();
        let text = match (kind, storage) {
            (Kind::Nginx, Storage::Folder(root)) => self.nginx(&address, &folder, root, tls)?,
            (Kind::Nginx, Storage::S3 { .. }) => return Err("nginx serves folders".into()),
            (Kind::Ours | Kind::Distribution, _) => self.registry(&address, storage, tls)?,
        };
        let config = folder.join("config");
        fs::write(&config, text)?;
        let mut command = Command::new(program);
        // What the environment says of AWS or of a registry is not what is measured.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("AWS_") || text.starts_with("REGISTRY_") {
                command.env_remove(name);
            }
        }
        match kind {
            Kind::Ours | Kind::Distribution => command.arg("serve"),
            Kind::Nginx => command.arg("-p").arg(&folder).arg("-c"),
        };
        let server = Server::logging(&address, command.arg(config), &folder.join("log"))?;
        Ok(match tls {
            true => server.with_tls(self.client.clone()),
            false => server,
        })
    }

    /// The same text for both registries
    fn registry(&self, address: &str, storage: &Storage, tls: bool) -> Result<String> {
        let mut text = format!(
            "version: 0.1\nlog: {{level: info}}\nhttp:\n  addr: {address}\n  secret: measured\n"
        );
        if tls {
            let Certificate { certificate, key } = &self.certificate;
            let (certificate, key) = (certificate.display(), key.display());
            writeln!(text, "  tls: {{certificate: {certificate}, key: {key}}}")?;
        }
        // As in the file that docker-registry comes with.
        text.push_str("storage:\n  cache: {blobdescriptor: inmemory}\n  delete: {enabled: true}\n");
        match storage {
            Storage::Folder(root) => {
                writeln!(text, "  filesystem: {{rootdirectory: {}}}", root.display())?;
            }
            Storage::S3 {
                endpoint,
                bucket,
                region,
                credentials: (key, secret),
                root,
            } => writeln!(
                text,
                "  redirect: {{disable: true}}\n  s3:\n    regionendpoint: {endpoint}\n    \
                 bucket: {bucket}\n    region: {region}\n    accesskey: {key}\n    \
                 secretkey: {secret}\n    secure: false\n    v4auth: true\n    \
                 rootdirectory: {root}"
            )?,
        }
        Ok(text)
    }

    /// As Debian configures it: sendfile, a log, and as many workers as there are processors
    fn nginx(&self, address: &str, folder: &Path, root: &Path, tls: bool) -> Result<String> {
        let (at, root) = (folder.display(), root.display());
        let ssl = if tls { " ssl" } else { "" };
        let Certificate { certificate, key } = &self.certificate;
        let (certificate, key) = (certificate.display(), key.display());
        let mut text = format!(
            "daemon off; user root; worker_processes auto; pid {at}/pid; error_log {at}/error.log;\n\
             events {{ worker_connections 4096; }}\n\
             http {{\n  access_log {at}/access.log; sendfile on; tcp_nopush on;\n  \
             keepalive_requests 1000000000; default_type application/octet-stream;\n  \
             ssl_protocols TLSv1.3;\n"
        );
        for name in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
            writeln!(text, "  {name}_temp_path {at}/{name};")?;
        }
        if tls {
            writeln!(
                text,
                "  ssl_certificate {certificate}; ssl_certificate_key {key};"
            )?;
        }
        write!(
            text,
            "  server {{\n    listen {address}{ssl} backlog=4096; root {root};\n    \
             location = /v2/ {{ return 200; }}\n    \
             location ~ /manifests/ {{ default_type {}; }}\n    \
             location ~ /tags/list$ {{ default_type application/json; }}\n  }}\n}}\n",
            registry_core::MediaType::OCI_MANIFEST
        )?;
        Ok(text)
    }
}
