//! What `docker-proxy` adds to a registry, beside nginx with `proxy_pass` to the same one
//!
//! `cargo build --release && cargo run --release -p registry-benches --bin proxy`
//!
//! Starts the `registry` and the `docker-proxy` that lie beside this program and nginx, on free
//! ports and temporary folders, puts the same load on each in turn, and prints medians of several
//! rounds and their ratios. nginx passes everything on to anyone, and logs a line for each request;
//! `docker-proxy` identifies and authorizes each request, and logs that line and four of its own.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use registry_benches::http::{Connection, with_query};
use registry_benches::load::{Load, Outcome};
use registry_benches::process::{Server, free_address, ours, theirs};
use registry_benches::{Result, mebibytes, median};
use registry_core::{Digest, MediaType};

/// Odd, so that there is a median
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(2);
const REPOSITORY: &str = "model_9d294c20-7b1f-4ab7-b8b3-03bc7f069ac1";
/// `ada:password`
const LOGIN: &str = "Authorization: Basic YWRhOnBhc3N3b3Jk\r\n";
const SMALL: usize = 1 << 20;
const LARGE: usize = 64 << 20;
const PUSHED: usize = 256 << 20;

fn main() -> Result<()> {
    let site = tempfile::tempdir()?;
    let (registry, proxy) = (ours("registry")?, ours("docker-proxy")?);
    let root = site.path().join("registry");
    let upstream = Server::announced(
        Command::new(registry)
            .args(["serve", "--listen", "127.0.0.1:0", "--root"])
            .arg(root),
    )?;
    let small = push_blob(&upstream, &filled(SMALL, 1))?;
    let large = push_blob(&upstream, &filled(LARGE, 2))?;
    let manifest = push_manifest(&upstream, &[(&small, SMALL), (&large, LARGE)])?;

    let proxy = start_proxy(&proxy, site.path(), &upstream)?;
    let nginx = match theirs("nginx") {
        Some(program) => Some(start_nginx(&program, site.path(), &upstream)?),
        None => {
            println!("nginx is not installed: there is nothing to compare with");
            None
        }
    };
    let mut servers = vec![
        ("registry, asked directly", &upstream),
        ("docker-proxy", &proxy),
    ];
    servers.extend(nginx.as_ref().map(|nginx| ("nginx proxy_pass", nginx)));

    let accept = format!("{LOGIN}Accept: {}\r\n", MediaType::OCI_MANIFEST.as_str());
    let load = |method, path: String, connections| Load {
        method,
        path,
        headers: accept.clone(),
        connections,
        duration: ROUND,
        expected: 200,
    };
    let manifests = |reference: &str| format!("/v2/{REPOSITORY}/manifests/{reference}");
    let blobs = |digest: &Digest| format!("/v2/{REPOSITORY}/blobs/{digest}");
    println!("manifests and the like, requests a second (and CPU per request)");
    for (what, load) in [
        ("manifest by tag", load("GET", manifests("1"), 8)),
        (
            "manifest by digest",
            load("GET", manifests(&manifest.to_string()), 8),
        ),
        ("HEAD blob", load("HEAD", blobs(&small), 8)),
    ] {
        let rounds = compare(&servers, &load)?;
        row(
            what,
            &servers,
            &rounds,
            |outcome| (outcome.rate(), outcome.cpu_per_request()),
            "us",
        );
    }
    println!("\nblobs, GB a second (and CPU per GiB)");
    for (what, load) in [
        ("blob of 1 MiB, 8 clients", load("GET", blobs(&small), 8)),
        ("blob of 64 MiB, 1 client", load("GET", blobs(&large), 1)),
        ("blob of 64 MiB, 8 clients", load("GET", blobs(&large), 8)),
    ] {
        let rounds = compare(&servers, &load)?;
        row(
            what,
            &servers,
            &rounds,
            |outcome| (outcome.throughput(), outcome.cpu_per_gibibyte()),
            "ms",
        );
    }
    println!("\npush of 256 MiB, GB a second (and CPU per GiB)");
    let mut rounds = vec![Vec::new(); servers.len()];
    for round in 0..ROUNDS {
        for (index, (_, server)) in servers.iter().enumerate() {
            // Other content each time: what is there already need not be written.
            let content = filled(PUSHED, (3 + round * servers.len() + index) as u8);
            let (cpu, started) = (server.cpu()?, Instant::now());
            push_blob(server, &content)?;
            rounds[index].push(Outcome {
                requests: 1,
                bytes: PUSHED as u64,
                elapsed: started.elapsed(),
                cpu: server.cpu()?.saturating_sub(cpu),
            });
        }
    }
    row(
        "one client",
        &servers,
        &rounds,
        |outcome| (outcome.throughput(), outcome.cpu_per_gibibyte()),
        "ms",
    );
    println!(
        "\nresident: docker-proxy {:.1} MiB, at most {:.1} MiB",
        mebibytes(proxy.resident()?),
        mebibytes(proxy.resident_peak()?)
    );
    Ok(())
}

/// Puts the load on each server in turn, round after round
fn compare(servers: &[(&str, &Server)], load: &Load) -> Result<Vec<Vec<Outcome>>> {
    let mut rounds = vec![Vec::new(); servers.len()];
    for _ in 0..ROUNDS {
        for ((_, server), rounds) in servers.iter().zip(&mut rounds) {
            rounds.push(load.put_on(server)?);
        }
    }
    Ok(rounds)
}

/// Prints medians for each server, and how docker-proxy compares with the last of them
fn row(
    what: &str,
    servers: &[(&str, &Server)],
    rounds: &[Vec<Outcome>],
    numbers: impl Fn(&Outcome) -> (f64, f64),
    unit: &str,
) {
    println!("  {what}");
    let medians: Vec<(f64, f64)> = rounds
        .iter()
        .map(|rounds| {
            let (rates, costs) = rounds.iter().map(&numbers).unzip();
            (median(rates), median(costs))
        })
        .collect();
    for ((name, _), (rate, cost)) in servers.iter().zip(&medians) {
        println!("    {name:<28}{rate:>12.2}{cost:>12.1} {unit}");
    }
    if let [_, proxy, nginx] = medians[..] {
        println!(
            "    {:<28}{:>11.2}x{:>11.2}x",
            "docker-proxy / nginx",
            proxy.0 / nginx.0,
            proxy.1 / nginx.1
        );
    }
}

/// Content that differs with the seed
fn filled(size: usize, seed: u8) -> Vec<u8> {
    let mut content = vec![seed; size];
    content[..8].copy_from_slice(&u64::from(seed).to_le_bytes());
    content
}

fn push_blob(server: &Server, content: &[u8]) -> Result<Digest> {
    let digest = Digest::sha256(content);
    let mut connection = Connection::open(&server.address)?.with_headers(LOGIN);
    let path = format!("/v2/{REPOSITORY}/blobs/uploads/");
    connection.request("POST", &path, "Content-Length: 0\r\n")?;
    let started = connection.expect(202)?;
    let target = with_query(&started.location, &format!("digest={digest}"));
    let length = format!("Content-Length: {}\r\n", content.len());
    connection.request("PUT", &target, &length)?;
    connection.body().write_all(content)?;
    connection.expect(201)?;
    Ok(digest)
}

/// A manifest of these blobs, under the tag `1`
fn push_manifest(server: &Server, blobs: &[(&Digest, usize)]) -> Result<Digest> {
    let config = b"{}";
    let config_digest = push_blob(server, config)?;
    let descriptor = |media_type: &MediaType, digest: &Digest, size: usize| {
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}}}"#)
    };
    let layers: Vec<String> = blobs
        .iter()
        .map(|(digest, size)| descriptor(&MediaType::OCI_LAYER_TAR, digest, *size))
        .collect();
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{}]}}"#,
        MediaType::OCI_MANIFEST,
        descriptor(&MediaType::OCI_CONFIG, &config_digest, config.len()),
        layers.join(",")
    );
    let mut connection = Connection::open(&server.address)?.with_headers(LOGIN);
    let headers = format!(
        "Content-Type: {}\r\nContent-Length: {}\r\n",
        MediaType::OCI_MANIFEST,
        manifest.len()
    );
    connection.request("PUT", &format!("/v2/{REPOSITORY}/manifests/1"), &headers)?;
    connection.body().write_all(manifest.as_bytes())?;
    connection.expect(201)?;
    Ok(Digest::sha256(manifest.as_bytes()))
}

/// The proxy with facts and users in files, in front of `upstream`
fn start_proxy(program: &Path, site: &Path, upstream: &Server) -> Result<Server> {
    let write = |name: &str, text: &str| -> Result<String> {
        let path = site.join(name);
        fs::write(&path, text)?;
        Ok(path.display().to_string())
    };
    let facts = write(
        "platform.yml",
        "accounts: [{login: ada}]\n\
         solutions:\n  - id: 9d294c20-7b1f-4ab7-b8b3-03bc7f069ac1\n    name: model\n    \
         owner: ada\n    revisions: [{version: '1'}]\n",
    )?;
    // bcrypt at the cost that `htpasswd -B` takes, of `password`.
    let users = write(
        "htpasswd",
        "ada:$2y$05$a29Kzuvhde6mQ2bWwptmsuhClQtZ7477Fnl8itGkBHHIoWi127HWy\n",
    )?;
    let config = write(
        "proxy.yml",
        &format!(
            "listen: 127.0.0.1:0\nupstream: {{url: 'http://{}'}}\n\
             acumos: {{file: '{facts}'}}\nhtpasswd: {{path: '{users}'}}\n\
             logs: {{directory: '{}', console: error}}\n",
            upstream.address,
            site.display()
        ),
    )?;
    Server::announced(Command::new(program).arg("serve").arg(config))
}

/// nginx with what it needs for large images, and connections to the upstream kept open
fn start_nginx(program: &Path, site: &Path, upstream: &Server) -> Result<Server> {
    let address = free_address()?;
    let folder = site.join("nginx");
    fs::create_dir_all(&folder)?;
    let config = folder.join("nginx.conf");
    let at = folder.display();
    fs::write(
        &config,
        format!(
            "daemon off; master_process off; pid {at}/pid; error_log {at}/error.log;\n\
             events {{ worker_connections 1024; }}\n\
             http {{\n  access_log {at}/access.log; client_max_body_size 0; keepalive_requests 1000000000;\n  \
             client_body_temp_path {at}/body; proxy_temp_path {at}/proxy;\n  \
             fastcgi_temp_path {at}/f; uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;\n  \
             upstream registry {{ server {}; keepalive 32; keepalive_requests 1000000000; }}\n  \
             server {{\n    listen {address};\n    location /v2/ {{\n      \
             proxy_pass http://registry; proxy_http_version 1.1;\n      \
             proxy_set_header Connection ''; proxy_set_header Host $http_host;\n      \
             proxy_buffering off; proxy_request_buffering off; proxy_read_timeout 900;\n    \
             }}\n  }}\n}}\n",
            upstream.address
        ),
    )?;
    Server::at(
        &address,
        Command::new(program)
            .arg("-c")
            .arg(config)
            .arg("-p")
            .arg(folder),
    )
}
