//! Tokens of our own issuer, taken by us and by the reference registry, brought by real clients

use std::fs;
use std::process::Command;

use crate::clients::podman_command;
use crate::engines::{Containerd, Docker};
use crate::support::clients::{Home, Skopeo, find_for_root};
use crate::support::image::Layout;
use crate::support::process::{Server, finish_with, free_address, run, run_failing};
use crate::support::site::Site;

const ADA: [&str; 2] = ["ada", "password: of ada"];

/// Everyone may pull what is public, and ada may push
const RULES: &str = "\
rules:
  - name: ada-pushes
    effect: allow
    subjects: ['user:ada']
    repositories: ['**']
    actions: [pull, push]
  - name: public
    effect: allow
    subjects: [anyone]
    repositories: ['public/**']
    actions: [pull]
";

/// Our registry, which issues tokens for itself and for the other
struct Tokens {
    ours: Server,
    reference: Option<Server>,
    /// Gone with its files when the test ends
    _site: Site,
}

impl Tokens {
    fn start() -> Self {
        let site = Site::new();
        site.user(ADA[0], ADA[1], 5);
        site.write("rules.yml", RULES);
        // The registry of others is told where tokens are before ours is asked for one.
        let address = free_address();
        let ours = site.serve_with(&format!(
            "version: 0.1\n\
             storage: {{filesystem: {{rootdirectory: $SITE/root}}}}\n\
             http: {{addr: '{address}'}}\n\
             auth: {{htpasswd: {{realm: registry, path: $SITE/htpasswd}}}}\n\
             registry:\n  access: {{rules: $SITE/rules.yml}}\n  \
             tokens:\n    issuer: test-issuer\n    services: [ours, theirs]\n    \
             realm: 'http://{address}/auth/token'\n    \
             key: $SITE/token.key\n    certificates: $SITE/token.pem\n"
        ));
        let root = site.path("reference");
        fs::create_dir_all(&root).expect("a folder");
        let reference = Server::reference_with(
            &root,
            &format!(
                "auth: {{token: {{realm: 'http://{address}/auth/token', service: theirs, \
                 issuer: test-issuer, rootcertbundle: '{}'}}}}",
                site.path("token.pem").display()
            ),
        );
        Self {
            ours,
            reference,
            _site: site,
        }
    }

    /// Both registries, or ours alone where the other was skipped
    fn registries(&self) -> impl Iterator<Item = &Server> {
        [Some(&self.ours), self.reference.as_ref()]
            .into_iter()
            .flatten()
    }
}

/// A login that reads the password from its standard input
fn login(mut command: Command, password: &str) -> (bool, String) {
    let (status, said, errors) = finish_with(&mut command, password);
    (status.success(), said + &errors)
}

fn layout(home: &Home, seed: u64) -> Layout {
    Layout::write(&home.path("layout"), seed, &[30_000, 500_000])
}

fn skopeo_push(skopeo: &Skopeo<'_>, layout: &Layout, name: &str) -> Command {
    let mut command = skopeo.command(&["copy", "--quiet", "--dest-tls-verify=false"]);
    command.args([layout.reference("v1"), format!("docker://{name}")]);
    command
}

#[test]
fn skopeo() {
    let home = Home::new();
    let Some(skopeo) = home.skopeo() else { return };
    let tokens = Tokens::start();
    let layout = layout(&home, 61);
    for registry in tokens.registries() {
        let address = &*registry.address;
        let login = |password| {
            let mut command = skopeo.command(&["login", "--tls-verify=false", "--password-stdin"]);
            command.args(["-u", ADA[0], address]);
            login(command, password)
        };
        let public = format!("{address}/public/app:v1");
        let said = run_failing(&mut skopeo_push(&skopeo, &layout, &public));
        assert!(
            said.contains("denied") || said.contains("unauthorized"),
            "{said}"
        );
        let (success, said) = login("wrong");
        assert!(
            !success && said.contains("invalid username/password"),
            "{said}"
        );
        let (success, said) = login(ADA[1]);
        assert!(success && said.contains("Login Succeeded"), "{said}");
        for name in [&public, &format!("{address}/private/app:v1")] {
            run(&mut skopeo_push(&skopeo, &layout, name));
            let from = format!("docker://{name}");
            let to = format!("dir:{}", home.path("pulled").display());
            skopeo.copy(&[], &from, &to);
        }
        // Who is not logged in pulls what is public, with a token that says no name.
        run(skopeo.command(&["logout"]).arg(address));
        let to = format!("dir:{}", home.path("anonymous").display());
        skopeo.copy(&["--src-no-creds"], &format!("docker://{public}"), &to);
        let mut pull = skopeo.command(&["copy", "--quiet", "--src-tls-verify=false"]);
        pull.args([&format!("docker://{address}/private/app:v1"), &to]);
        let said = run_failing(&mut pull);
        assert!(
            said.contains("denied") || said.contains("unauthorized"),
            "{said}"
        );
    }
}

#[test]
fn podman() {
    let Some(program) = find_for_root("podman", "podman") else {
        return;
    };
    let home = Home::new();
    let podman = |arguments: &[&str]| podman_command(&home, &program, arguments);
    let tokens = Tokens::start();
    let layout = layout(&home, 62);
    let id = run(&mut podman(&["pull", "--quiet", &layout.reference("v1")]));
    for registry in tokens.registries() {
        let address = &*registry.address;
        let name = format!("{address}/private/podman:v1");
        let push = ["push", "--quiet", "--tls-verify=false", id.trim(), &name];
        let said = run_failing(&mut podman(&push));
        assert!(
            said.contains("denied") || said.contains("unauthorized"),
            "{said}"
        );
        let mut command = podman(&["login", "--tls-verify=false", "--password-stdin"]);
        command.args(["-u", ADA[0], address]);
        let (success, said) = login(command, ADA[1]);
        assert!(success && said.contains("Login Succeeded"), "{said}");
        run(&mut podman(&push));
        let pulled = run(&mut podman(&[
            "pull",
            "--quiet",
            "--tls-verify=false",
            &name,
        ]));
        assert_eq!(pulled.trim(), id.trim());
    }
}

#[test]
fn docker() {
    let home = Home::new();
    let Some(docker) = Docker::start(&home) else {
        return;
    };
    let tokens = Tokens::start();
    let layout = layout(&home, 63);
    let archive = layout.blob(&layout.layers[1].digest);
    for registry in tokens.registries() {
        let address = &*registry.address;
        let name = format!("{address}/public/docker:v1");
        let id = docker.run(&["import", &archive.display().to_string(), &name]);
        let said = run_failing(&mut docker.command(&["push", &name]));
        assert!(
            said.contains("denied") || said.contains("unauthorized"),
            "{said}"
        );
        let with = |password| {
            let arguments = ["login", "-u", ADA[0], "--password-stdin", address];
            login(docker.command(&arguments), password)
        };
        let (success, said) = with("wrong");
        assert!(!success && said.contains("unauthorized"), "{said}");
        let (success, said) = with(ADA[1]);
        assert!(success && said.contains("Login Succeeded"), "{said}");
        docker.run(&["push", &name]);
        // With another's layers at hand it mounts them, for which one token must do.
        let other = format!("{address}/private/docker:v1");
        docker.run(&["tag", &name, &other]);
        docker.run(&["push", &other]);
        docker.run(&["rmi", &name, &other]);
        docker.run(&["pull", &other]);
        docker.run(&["rmi", &other]);
        docker.run(&["logout", address]);
        docker.run(&["pull", &name]);
        let pulled = docker.run(&["image", "inspect", "--format={{.Id}}", &name]);
        assert_eq!(pulled, id);
        let said = run_failing(&mut docker.command(&["pull", &other]));
        assert!(
            said.contains("denied") || said.contains("unauthorized"),
            "{said}"
        );
    }
}

#[test]
fn containerd() {
    let home = Home::new();
    let Some(skopeo) = home.skopeo() else { return };
    let Some(containerd) = Containerd::start(&home) else {
        return;
    };
    let tokens = Tokens::start();
    let layout = layout(&home, 64);
    let user = format!("{}:{}", ADA[0], ADA[1]);
    for registry in tokens.registries() {
        let address = &*registry.address;
        let from = format!("{address}/private/first:v1");
        run(skopeo_push(&skopeo, &layout, &from).args(["--dest-creds", &user]));
        let to = format!("{address}/private/containerd:v1");
        let with = ["--plain-http", "--user", &user];
        let ctr = |command: &[&str], names: &[&str]| {
            containerd.command(&[command, &with, names].concat())
        };
        run(&mut ctr(&["content", "fetch"], &[&from]));
        run(&mut ctr(&["images", "push"], &[&to, &from]));
        let mut anonymous = containerd.command(&["content", "fetch", "--plain-http", &to]);
        run_failing(&mut anonymous);
        let wrong = ["--plain-http", "--user", "ada:wrong", &to];
        run_failing(&mut containerd.command(&[&["content", "fetch"], &wrong[..]].concat()));
    }
}
