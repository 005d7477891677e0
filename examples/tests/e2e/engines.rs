//! Clients that are daemons: docker's engine and containerd, started by the tests, on each kind of
//! storage

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use registry_core::MediaType;

use crate::support::check::{self, inventory, list, manifest};
use crate::support::clients::{Home, find_for_root};
use crate::support::http::{self, push_blob, push_manifest};
use crate::support::image::Layout;
use crate::support::moto::{Content, everywhere};
use crate::support::process::{Daemon, run, run_failing};

everywhere!(containerd, docker);

/// Docker's engine and its command line
pub(crate) struct Docker<'h> {
    home: &'h Home,
    program: PathBuf,
    _engine: Daemon,
}

impl<'h> Docker<'h> {
    /// Starts an engine of its own, or says what is missing
    #[track_caller]
    pub(crate) fn start(home: &'h Home) -> Option<Self> {
        let engine = find_for_root("dockerd", "docker.io")?;
        Self::run_engine(home, home.command(engine))
    }

    /// Starts an engine that knows this machine's IPv6 loopback by the name `registry.test`
    ///
    /// On 127.0.0.0/8 docker verifies no certificate; there it does. The engine has `/etc/hosts`
    /// and `/etc/docker` of its own, in a mount namespace that goes with it: [`Docker::trust`].
    #[track_caller]
    pub(crate) fn start_apart(home: &'h Home) -> Option<Self> {
        let engine = find_for_root("dockerd", "docker.io")?;
        let unshare = find_for_root("unshare", "util-linux")?;
        let (hosts, etc) = (home.path("hosts"), home.path("etc-docker"));
        fs::write(&hosts, "127.0.0.1 localhost\n::1 registry.test\n").expect("written");
        fs::create_dir_all(&etc).expect("a folder");
        let mut command = home.command(unshare);
        command
            .args(["--mount", "sh", "-c"])
            .arg(
                "mkdir -p /etc/docker && mount --bind \"$1\" /etc/hosts && \
                 mount --bind \"$2\" /etc/docker && shift 2 && exec \"$@\"",
            )
            .arg("sh")
            .args([hosts, etc, engine]);
        Self::run_engine(home, command)
    }

    /// Makes an engine that was started apart trust an authority for a registry
    pub(crate) fn trust(&self, registry: &str, authority: &str) {
        let folder = self.home.path("etc-docker/certs.d").join(registry);
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join("ca.crt"), authority).expect("written");
    }

    #[track_caller]
    fn run_engine(home: &'h Home, mut command: Command) -> Option<Self> {
        let program = find_for_root("docker", "docker.io")?;
        command
            .arg("--data-root")
            .arg(home.path("engine"))
            .arg("--exec-root")
            .arg(home.path("exec"))
            .arg("--pidfile")
            .arg(home.path("engine.pid"))
            .arg("--host")
            .arg(socket(home))
            .args(["--storage-driver=vfs", "--bridge=none"])
            .args(["--iptables=false", "--ip6tables=false"]);
        let log = home.path("engine.log");
        let engine = Daemon::start(command, &log, || {
            let mut probe = home.command(&program);
            probe.arg("--host").arg(socket(home)).arg("info");
            probe
        });
        Some(Self {
            home,
            program,
            _engine: engine,
        })
    }

    /// A docker command
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.home.command(&self.program);
        command.arg("--host").arg(socket(self.home)).args(arguments);
        command
    }

    /// Runs a docker command that must succeed
    #[track_caller]
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        run(&mut self.command(arguments)).trim().to_owned()
    }
}

fn socket(home: &Home) -> String {
    format!("unix://{}", home.path("engine.sock").display())
}

/// containerd and `ctr`
pub(crate) struct Containerd<'h> {
    home: &'h Home,
    program: PathBuf,
    _daemon: Daemon,
}

impl<'h> Containerd<'h> {
    /// Starts a containerd of its own, or says what is missing
    #[track_caller]
    pub(crate) fn start(home: &'h Home) -> Option<Self> {
        let daemon = find_for_root("containerd", "containerd")?;
        let program = find_for_root("ctr", "containerd")?;
        let config = home.path("containerd.toml");
        let text = format!(
            "version = 2\nroot = \"{0}/containerd\"\nstate = \"{0}/run/containerd\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
             [grpc]\naddress = \"{0}/containerd.sock\"\n",
            home.path("").display().to_string().trim_end_matches('/')
        );
        fs::write(&config, text).expect("written");
        let mut command = home.command(daemon);
        command.arg("--config").arg(config);
        let daemon = Daemon::start(command, &home.path("containerd.log"), || {
            let mut probe = home.command(&program);
            probe.arg("--address").arg(home.path("containerd.sock"));
            probe.arg("version");
            probe
        });
        Some(Self {
            home,
            program,
            _daemon: daemon,
        })
    }

    /// A `ctr` command
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.home.command(&self.program);
        command
            .arg("--address")
            .arg(self.home.path("containerd.sock"))
            .args(["--namespace", "test"])
            .args(arguments);
        command
    }
}

/// Pushes a layout without a client: its blobs, both manifests, and the index as a tag
pub(crate) fn push_layout(layout: &Layout, address: &str, repository: &str, tag: &str) {
    let read = |digest| fs::read(layout.blob(digest)).expect("readable");
    let manifests = [
        &layout.amd64.digest,
        &layout.arm64.digest,
        &layout.index.digest,
    ];
    for file in check::files(&layout.path.join("blobs")) {
        if manifests.iter().any(|digest| file == layout.blob(digest)) {
            continue;
        }
        let content = fs::read(&file).expect("readable");
        push_blob(address, repository, &content)
            .expect("answered")
            .expect(&[201]);
    }
    let oci = MediaType::OCI_MANIFEST;
    for (reference, media_type, digest) in [
        ("v1", &oci, &layout.amd64.digest),
        (&layout.arm64.digest.to_string(), &oci, &layout.arm64.digest),
        (tag, &MediaType::OCI_INDEX, &layout.index.digest),
    ] {
        push_manifest(
            address,
            repository,
            reference,
            media_type.as_str(),
            &read(digest),
        )
        .expect("answered")
        .expect(&[201]);
    }
}

fn docker(kept: &Content) {
    let home = Home::new();
    let Some(docker) = Docker::start(&home) else {
        return;
    };
    let server = kept.serve();
    let address = server.address.as_str();
    let layout = Layout::write(&home.path("layout"), 6, &[30_000, 900_000]);

    // An image of docker's own making, pushed, dropped, and pulled again by digest.
    let archive = layout.blob(&layout.layers[1].digest);
    let name = format!("{address}/docker/own:v1");
    let id = docker.run(&["import", &archive.display().to_string(), &name]);
    let said = docker.run(&["push", &name]);
    let (digest, media_type, _) = manifest(address, "docker/own", "v1");
    assert_eq!(media_type, MediaType::DOCKER_MANIFEST.as_str());
    assert!(said.contains(&format!("digest: {digest}")), "{said}");
    docker.run(&["rmi", &name]);
    let by_digest = format!("{address}/docker/own@{digest}");
    docker.run(&["pull", &by_digest]);
    let pulled = docker.run(&["image", "inspect", "--format={{.Id}}", &by_digest]);
    assert_eq!(pulled, id);

    // Into another repository: its layers are mounted, not sent.
    let other = format!("{address}/docker/other:v1");
    docker.run(&["tag", &by_digest, &other]);
    let said = docker.run(&["push", &other]);
    assert!(said.contains("Mounted from docker/own"), "{said}");
    assert_eq!(manifest(address, "docker/other", "v1").0, digest);

    // A multi-platform OCI index, pulled by each platform.
    push_layout(&layout, address, "docker/multi", "all");
    let multi = format!("{address}/docker/multi:all");
    for architecture in ["amd64", "arm64"] {
        let said = docker.run(&["pull", &format!("--platform=linux/{architecture}"), &multi]);
        let expected = format!("Digest: {}", layout.index.digest);
        assert!(said.contains(&expected), "{said}");
        let shown = docker.run(&["image", "inspect", "--format={{.Architecture}}", &multi]);
        assert_eq!(shown, architecture);
    }

    // A manifest list of docker's own making.
    let list_name = format!("{address}/docker/list:v1");
    docker.run(&[
        "manifest",
        "create",
        "--insecure",
        &list_name,
        &name,
        &other,
    ]);
    let said = docker.run(&["manifest", "push", "--insecure", &list_name]);
    let (digest, media_type, _) = manifest(address, "docker/list", "v1");
    assert_eq!(media_type, MediaType::DOCKER_MANIFEST_LIST.as_str());
    assert!(said.contains(&digest.to_string()), "{said}");

    let tags = list(address, "/v2/docker/multi/tags/list", "tags");
    assert_eq!(tags, ["all", "v1"]);
    http::request(address, "DELETE", "/v2/docker/other/manifests/v1").expect(&[202]);
    let said = run_failing(&mut docker.command(&["pull", &other]));
    assert!(
        said.contains("not found") || said.contains("manifest unknown"),
        "{said}"
    );
    inventory(address);
    assert!(server.stop().success());
    kept.is_whole();
}

fn containerd(kept: &Content) {
    let home = Home::new();
    let Some(containerd) = Containerd::start(&home) else {
        return;
    };
    let ctr = |arguments: &[&str]| run(&mut containerd.command(arguments));
    let server = kept.serve();
    let address = server.address.as_str();
    let layout = Layout::write(&home.path("layout"), 8, &[30_000, 900_000]);

    // Content of containerd's own, pushed as it is.
    let archive = home.path("layout.tar");
    run(home
        .command("tar")
        .arg("--directory")
        .arg(&layout.path)
        .arg("--create")
        .arg("--file")
        .arg(&archive)
        .arg("."));
    let archive = archive.display().to_string();
    ctr(&[
        "images",
        "import",
        "--no-unpack",
        "--all-platforms",
        "--base-name=local",
        &archive,
    ]);
    let name = format!("{address}/containerd/multi:v1");
    ctr(&["images", "push", "--plain-http", &name, "local:multi"]);
    let (digest, media_type, _) = manifest(address, "containerd/multi", "v1");
    assert_eq!(digest, layout.index.digest);
    assert_eq!(media_type, MediaType::OCI_INDEX.as_str());
    inventory(address);

    // Gone from containerd, and back by tag and by digest.
    ctr(&["images", "rm", "--sync", "local:multi", "local:v1"]);
    let by_digest = format!("{address}/containerd/multi@{digest}");
    for source in [&name, &by_digest] {
        ctr(&[
            "content",
            "fetch",
            "--plain-http",
            "--all-platforms",
            source,
        ]);
        let held = ctr(&["content", "ls", "--quiet"]);
        for stored in [&layout.index, &layout.amd64, &layout.arm64]
            .into_iter()
            .chain(&layout.layers)
        {
            assert!(held.contains(&stored.digest.to_string()), "{held}");
        }
        ctr(&["images", "rm", "--sync", source]);
    }
    ctr(&[
        "images",
        "pull",
        "--plain-http",
        "--snapshotter=native",
        &name,
    ]);

    // To another repository, where it mounts what it knows to be in the first.
    let other = format!("{address}/containerd/other:v1");
    ctr(&["content", "fetch", "--plain-http", "--all-platforms", &name]);
    ctr(&["images", "push", "--plain-http", &other, &name]);
    assert_eq!(manifest(address, "containerd/other", "v1").0, digest);

    let tags = list(address, "/v2/containerd/other/tags/list", "tags");
    assert_eq!(tags, ["v1"]);
    http::request(address, "DELETE", "/v2/containerd/other/manifests/v1").expect(&[202]);
    let fetch = ["content", "fetch", "--plain-http", &other];
    let said = run_failing(&mut containerd.command(&fetch));
    assert!(said.contains("not found"), "{said}");
    inventory(address);
}
