//! The files of `examples/deploy/`, read as the program reads them

use std::path::{Path, PathBuf};

use registry_examples::config::acumos::Source;
use registry_examples::config::proxy::{Overrides, ProxyConfig};
use registry_examples::config::{Level, Secret};
use serde_json::Value;

use crate::configuration::upstream;

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy")
        .join(name)
}

/// The documents of a file
fn documents(name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(deploy(name)).unwrap();
    text.split("\n---\n")
        .map(|document| serde_saphyr::from_str(document).unwrap())
        .collect()
}

/// The variables of a service of compose.yaml, where nobody sets any
fn variables(service: &Value) -> Vec<(String, String)> {
    let variables = service["environment"].as_object().unwrap();
    variables
        .iter()
        .map(|(name, value)| {
            let value = value.as_str().unwrap();
            let default = value
                .strip_prefix(&format!("${{{name}:-"))
                .and_then(|rest| rest.strip_suffix('}'));
            (name.clone(), default.unwrap_or(value).to_owned())
        })
        .collect()
}

/// What must hold in both places
fn is_as_it_was(config: &ProxyConfig, secrets: &Path) {
    assert!(config.tls.is_some() && config.hide);
    let upstream = upstream(config);
    assert_eq!(upstream.url.expose(), "http://nexus-service:8082");
    let credentials = upstream.credentials.as_ref().unwrap();
    assert_eq!(credentials.user, "acumos_rw");
    let password = Secret::File(secrets.join("upstream-password"));
    assert_eq!(credentials.password, password);
    let Source::Services(services) = &config.acumos.source else {
        panic!("{:?}", config.acumos.source);
    };
    let cds = &services.cds;
    assert_eq!(cds.url.expose(), "http://cds-service:8000/ccds");
    let credentials = cds.credentials.as_ref().unwrap();
    assert_eq!(credentials.user, "ccds_client");
    let password = Secret::File(secrets.join("cds-password"));
    assert_eq!(credentials.password, password);
    let lum = services.lum.as_ref().unwrap();
    assert_eq!(lum.url.expose(), "http://lum-server:2080");
    let secret = Secret::File(secrets.join("session-secret"));
    assert_eq!(config.session_secret, Some(secret));
    assert_eq!(
        config.logs.directory.as_deref(),
        Some(Path::new("/var/log/acumos"))
    );
}

#[test]
fn compose_runs_what_is_beside_it() {
    let compose = &documents("compose.yaml")[0];
    let service = &compose["services"]["docker-proxy"];
    let (config, warnings) = ProxyConfig::load(
        Some(&deploy("docker-proxy.yaml")),
        &Overrides::default(),
        variables(service),
    )
    .unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    is_as_it_was(&config, Path::new("/run/secrets"));
    assert_eq!(config.logs.level, Level::Info);

    // The port of the old proxy outside leads to where this one listens.
    assert_eq!(config.listen, ":8443");
    let ports = "${ACUMOS_DOCKER_PROXY_PORT:-30883}:8443";
    assert_eq!(service["ports"][0], ports);
    // What it reads is there.
    let secrets = service["secrets"].as_array().unwrap();
    for name in [
        "domain.crt",
        "domain.key",
        "upstream-password",
        "cds-password",
        "session-secret",
    ] {
        assert!(secrets.iter().any(|secret| secret == name), "{name}");
    }
}

#[test]
fn kubernetes_runs_what_is_in_its_map() {
    let map = &documents("kubernetes/configmap.yaml")[0];
    let text = map["data"]["docker-proxy.yaml"].as_str().unwrap();
    let (config, warnings) = ProxyConfig::from_yaml(text).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    is_as_it_was(&config, Path::new("/run/secrets/docker-proxy"));

    assert_eq!(config.listen, ":8443");
    let deployment = &documents("kubernetes/deployment.yaml")[0];
    let pod = &deployment["spec"]["template"]["spec"];
    let port = &pod["containers"][0]["ports"][0];
    assert_eq!(
        (&port["name"], &port["containerPort"]),
        (&"https".into(), &8443.into())
    );
    let service = &documents("kubernetes/service.yaml")[0]["spec"]["ports"][0];
    assert_eq!(service["targetPort"], "https");
    assert_eq!(service["nodePort"], 30883);
    // It has the time that it asks for, and what it reads is mounted.
    let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(grace > (config.drain_delay + config.drain_timeout).as_secs());
    let secrets = &documents("kubernetes/secrets.yaml")[0]["stringData"];
    for name in ["upstream-password", "cds-password", "session-secret"] {
        assert!(secrets[name].is_string(), "{name}");
    }
}
