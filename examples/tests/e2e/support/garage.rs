//! An S3 server that stores on disk, and believes nobody: garage

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::clients::skip;
use super::process::{Daemon, Server, free_address};
use super::site::Site;

/// The key by which garage is spoken to
const KEY: [&str; 2] = [
    "GK000000000000000000000001",
    "0000000000000000000000000000000000000000000000000000000000000002",
];

/// A store that speaks S3 and believes no signature that it has not verified
pub(crate) struct Garage {
    /// `127.0.0.1:<port>`
    pub(crate) address: String,
    /// The folder with what it stores, and with the configuration of a registry
    pub(crate) site: Site,
    _daemon: Daemon,
}

impl Garage {
    /// One with the bucket `images`, or a visible skip
    #[track_caller]
    pub(crate) fn start() -> Option<Self> {
        let there = Self::start_if_there();
        if there.is_none() {
            skip("garage not found; install it, with `cargo install garage` for example");
        }
        there
    }

    /// As [`Garage::start`], for those who have something else to take
    #[track_caller]
    pub(crate) fn start_if_there() -> Option<Self> {
        Self::installed().map(|program| Self::launch(&program))
    }

    /// Where cargo puts it, or where one looks for programs
    fn installed() -> Option<PathBuf> {
        let cargo = env::var_os("CARGO_HOME").map(|home| Path::new(&home).join("bin"));
        let path = env::var_os("PATH").unwrap_or_default();
        let folders = cargo.into_iter().chain(env::split_paths(&path));
        let mut programs = folders.map(|folder| folder.join("garage"));
        programs.find(|program| program.is_file())
    }

    #[track_caller]
    fn launch(program: &Path) -> Self {
        let site = Site::new();
        let (address, rpc) = (free_address(), free_address());
        let folder = site.path("");
        let config = site.write(
            "garage.toml",
            &format!(
                "metadata_dir = '{0}/meta'\ndata_dir = '{0}/data'\ndb_engine = 'sqlite'\n\
                 replication_factor = 1\nrpc_bind_addr = '{rpc}'\nrpc_public_addr = '{rpc}'\n\
                 rpc_secret = '{1:064}'\n[s3_api]\ns3_region = 'garage'\n\
                 api_bind_addr = '{address}'\nroot_domain = '.s3.invalid'\n",
                folder.display(),
                1
            ),
        );
        let garage = |arguments: &[&str]| {
            let mut command = Command::new(program);
            command.arg("-c").arg(&config).args(arguments);
            command
        };
        let mut server = garage(&["server", "--single-node", "--default-bucket"]);
        server
            .env("GARAGE_DEFAULT_ACCESS_KEY", KEY[0])
            .env("GARAGE_DEFAULT_SECRET_KEY", KEY[1])
            .env("GARAGE_DEFAULT_BUCKET", "images");
        let daemon = Daemon::start(server, &site.path("garage.log"), || {
            garage(&["bucket", "info", "images"])
        });
        Self {
            address,
            site,
            _daemon: daemon,
        }
    }

    /// The entry under `storage` for the bucket
    pub(crate) fn storage(&self) -> String {
        format!(
            "s3: {{regionendpoint: 'http://{}', region: garage, bucket: images, rootdirectory: \
             some/where, accesskey: {}, secretkey: '{}'}}",
            self.address, KEY[0], KEY[1]
        )
    }

    /// A registry on the bucket, with more in the section of its storage and after it
    #[track_caller]
    pub(crate) fn serve(&self, storage: &str, more: &str) -> Server {
        self.site.serve_with(&format!(
            "version: 0.1\nhttp: {{addr: '127.0.0.1:0'}}\nstorage:\n  {}\n{storage}\n{more}",
            self.storage()
        ))
    }
}
