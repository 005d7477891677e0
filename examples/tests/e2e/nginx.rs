//! nginx in front, configured as distribution's recipe for an authenticating proxy has it

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use registry_core::Digest;
use tokio::net::TcpSocket;

use crate::engines::Docker;
use crate::support::check;
use crate::support::clients::{Home, find, is_root};
use crate::support::http::{self, Response, basic};
use crate::support::image::{Layout, digest_of_file};
use crate::support::process::{Daemon, Server, eventually, free_address, run, run_failing};
use crate::support::site::Site;
use crate::support::tls::{Authority, Client};

/// The recipe, with paths and ports, and with what a process of its own needs
const RECIPE: &str = r#"
daemon off;
pid $SITE/nginx/pid;
error_log stderr;
$USER
events {
    worker_connections  1024;
}

http {
  access_log off;
  client_body_temp_path $SITE/nginx/body;
  proxy_temp_path $SITE/nginx/proxy;
  fastcgi_temp_path $SITE/nginx/fastcgi;
  uwsgi_temp_path $SITE/nginx/uwsgi;
  scgi_temp_path $SITE/nginx/scgi;

  upstream docker-registry {
    server $UPSTREAM;
  }

  ## Set a variable to help us decide if we need to add the
  ## 'Docker-Distribution-Api-Version' header.
  ## The registry always sets this header.
  ## In the case of nginx performing auth, the header will be unset
  ## since nginx is auth-ing before proxying.
  map $upstream_http_docker_distribution_api_version $docker_distribution_api_version {
    'registry/2.0' '';
    default registry/2.0;
  }

  server {
    $LISTEN
    server_name registry.test;

    # SSL
    ssl_certificate $SITE/domain.crt;
    ssl_certificate_key $SITE/domain.key;

    # Recommendations from https://raymii.org/s/tutorials/Strong_SSL_Security_On_nginx.html
    ssl_protocols TLSv1.1 TLSv1.2;
    ssl_ciphers 'EECDH+AESGCM:EDH+AESGCM:AES256+EECDH:AES256+EDH';
    ssl_prefer_server_ciphers on;
    ssl_session_cache shared:SSL:10m;

    # disable any limits to avoid HTTP 413 for large image uploads
    client_max_body_size 0;

    # required to avoid HTTP 411: see Issue #1486 (https://github.com/docker/docker/issues/1486)
    chunked_transfer_encoding on;

    location /v2/ {
      # Do not allow connections from docker 1.5 and earlier
      # docker pre-1.6.0 did not properly set the user agent on ping, catch "Go *" user agents
      if ($http_user_agent ~ "^(docker\/1\.(3|4|5(?!\.[0-9]-dev))|Go ).*$" ) {
        return 404;
      }

      # To add basic authentication to v2 use auth_basic setting.
      auth_basic "Registry realm";
      auth_basic_user_file $SITE/htpasswd;

      ## If $docker_distribution_api_version is empty, the header will not be added.
      ## See the map directive above where this variable is defined.
      add_header 'Docker-Distribution-Api-Version' $docker_distribution_api_version always;

      proxy_pass                          http://docker-registry;
      proxy_set_header  Host              $http_host;   # required for docker client's sake
      proxy_set_header  X-Real-IP         $remote_addr; # pass on real client's IP
      proxy_set_header  X-Forwarded-For   $proxy_add_x_forwarded_for;
      proxy_set_header  X-Forwarded-Proto $scheme;
      proxy_read_timeout                  900;
    }
  }
}
"#;

const USER: [&str; 2] = ["testuser", "testpassword"];

/// nginx, and a registry behind it
struct Proxied {
    authority: Authority,
    client: Client,
    server: Server,
    /// The port of nginx, on 127.0.0.1 and, where there is one, on `[::1]`
    address: String,
    _nginx: Daemon,
    _site: Site,
}

impl Proxied {
    /// A registry with these sections in its configuration, behind nginx; nothing if that is
    /// not installed
    #[track_caller]
    fn start(more: &str) -> Option<Self> {
        let nginx = find("nginx", "nginx-light")?;
        let site = Site::new();
        let authority = Authority::new();
        let identity = authority.server();
        site.write("domain.crt", &identity.certificate);
        site.write_secret("domain.key", &identity.key);
        // What our command writes, nginx can read.
        site.user(USER[0], USER[1], 5);
        let server = site.serve_with(&format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: $SITE/root}}}}\n{more}"
        ));
        let address = free_address();
        let (_, port) = address.rsplit_once(':').expect("a port");
        let mut listen = format!("listen {address} ssl;");
        if TcpListener::bind(("::1", 0)).is_ok() {
            listen.push_str(&format!(" listen [::1]:{port} ssl;"));
        }
        // Without this the workers of a master that root runs could not read the folder.
        let user = if is_root() { "user root;" } else { "" };
        fs::create_dir(site.path("nginx")).expect("a folder");
        let config = RECIPE
            .replace("$SITE", &site.path("").display().to_string())
            .replace("$USER", user)
            .replace("$UPSTREAM", &server.address)
            .replace("$LISTEN", &listen);
        let config = site.write("nginx.conf", &config);
        let mut command = Command::new(nginx);
        command
            .arg("-p")
            .arg(site.path("nginx"))
            .arg("-c")
            .arg(config);
        let ready = || {
            let mut probe = Command::new("bash");
            probe
                .arg("-c")
                .arg(format!("exec 3<>/dev/tcp/127.0.0.1/{port}"));
            probe
        };
        let nginx = Daemon::start(command, &site.path("nginx.log"), ready);
        Some(Self {
            client: Client::trusting(&authority),
            authority,
            server,
            address,
            _nginx: nginx,
            _site: site,
        })
    }

    /// A request from one of this machine's loopback addresses
    #[track_caller]
    fn get_from(&self, source: &str, path: &str, headers: &[(&str, &str)]) -> Response {
        let stream = connect_from(source, &self.address);
        let connection = self.client.over(stream).expect("a handshake");
        let authorization = basic(USER[0], USER[1]);
        let mut all = vec![("Authorization", &*authorization)];
        all.extend_from_slice(headers);
        http::send_over(connection, &self.address, "GET", path, &all, &[]).expect("answered")
    }
}

/// Connects from an address of the caller's choice
fn connect_from(source: &str, address: &str) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .expect("a runtime");
    let stream = runtime.block_on(async {
        let socket = TcpSocket::new_v4().expect("a socket");
        let source = SocketAddr::new(source.parse().expect("an address"), 0);
        socket.bind(source).expect("bound");
        socket.connect(address.parse().expect("an address")).await
    });
    let stream = stream.expect("connected").into_std().expect("a stream");
    stream.set_nonblocking(false).expect("blocking");
    http::prepare(stream).expect("prepared")
}

/// The part of `http` that leaves the port open
const HTTP: &str = "http: {addr: \"127.0.0.1:0\"}\n";

#[test]
fn docker_and_skopeo_through_nginx() {
    let home = Home::new();
    let apart = TcpListener::bind("[::1]:0").is_ok();
    let docker = match apart {
        true => Docker::start_apart(&home),
        false => Docker::start(&home),
    };
    let Some(docker) = docker else { return };
    let Some(skopeo) = home.skopeo() else { return };
    let Some(proxied) = Proxied::start(HTTP) else {
        return;
    };
    let (_, port) = proxied.address.rsplit_once(':').expect("a port");
    let host = &*match apart {
        true => format!("registry.test:{port}"),
        false => proxied.address.clone(),
    };
    if apart {
        docker.trust(host, &proxied.authority.pem);
    }
    let layout = Layout::write(&home.path("layout"), 51, &[30_000, 3_000_000]);

    let login = |password: &str| docker.command(&["login", "-u", USER[0], "-p", password, host]);
    let said = run_failing(&mut login("wrong"));
    assert!(
        said.contains("401") || said.contains("unauthorized"),
        "{said}"
    );
    let said = run(&mut login(USER[1]));
    assert!(said.contains("Login Succeeded"), "{said}");
    let archive = layout.blob(&layout.layers[1].digest).display().to_string();
    let name = &*format!("{host}/nginx/docker:v1");
    let id = docker.run(&["import", &archive, name]);
    let said = docker.run(&["push", name]);
    let (digest, ..) = check::manifest(&proxied.server.address, "nginx/docker", "v1");
    assert!(said.contains(&format!("digest: {digest}")), "{said}");
    docker.run(&["rmi", name]);
    let by_digest = format!("{host}/nginx/docker@{digest}");
    docker.run(&["pull", &by_digest]);
    let pulled = docker.run(&["image", "inspect", "--format={{.Id}}", &by_digest]);
    assert_eq!(pulled, id);

    fs::create_dir(home.path("certs")).expect("a folder");
    fs::write(home.path("certs/ca.crt"), &proxied.authority.pem).expect("written");
    let certs = home.path("certs").display().to_string();
    let credentials = USER.join(":");
    let remote = format!("docker://{}/nginx/skopeo:v1", proxied.address);
    let mut push = skopeo.command(&["copy", "--quiet", "--all", "--preserve-digests"]);
    push.args(["--dest-cert-dir", &certs, "--dest-creds", &credentials]);
    run(push.arg(layout.reference("multi")).arg(&remote));
    let folder = home.path("pulled");
    let mut pull = skopeo.command(&["copy", "--quiet", "--all", "--preserve-digests"]);
    pull.args(["--src-cert-dir", &certs, "--src-creds", &credentials]);
    run(pull.arg(&remote).arg(format!("oci:{}:x", folder.display())));
    for stored in [&layout.index, &layout.amd64]
        .into_iter()
        .chain(&layout.layers)
    {
        let blob = folder.join("blobs/sha256").join(stored.digest.hex());
        assert_eq!(digest_of_file(&blob), stored.digest);
    }
    let mut anonymous = skopeo.command(&["inspect", "--cert-dir", &certs]);
    let said = run_failing(anonymous.args(["--no-creds", &remote]));
    assert!(
        said.contains("unauthorized") || said.contains("authentication"),
        "{said}"
    );
    assert!(proxied.server.stop().success());
}

#[test]
fn the_log_has_the_clients_address_if_nginx_is_trusted() {
    let trusting = format!("{HTTP}registry: {{trustedproxies: [127.0.0.1/32]}}\n");
    let strict = format!("{HTTP}registry: {{trustedproxies: [192.0.2.0/24]}}\n");
    for (config, expected) in [(trusting, "127.0.0.2 "), (strict, "127.0.0.1 ")] {
        let Some(proxied) = Proxied::start(&config) else {
            return;
        };
        proxied
            .get_from("127.0.0.2", "/v2/_catalog?n=7", &[])
            .expect(&[200]);
        // What the client says of itself is what nginx passes on and nobody believes.
        let invented = [("X-Forwarded-For", "203.0.113.9")];
        proxied
            .get_from("127.0.0.2", "/v2/_catalog?n=8", &invented)
            .expect(&[200]);
        for request in ["GET /v2/_catalog?n=7 ", "GET /v2/_catalog?n=8 "] {
            let line = eventually("the request is logged", || {
                let log = proxied.server.output();
                log.lines()
                    .find(|line| line.contains(request))
                    .map(str::to_owned)
            });
            assert!(line.starts_with(expected), "{config}{line}");
        }
        assert!(proxied.server.stop().success());
    }
}

#[test]
fn locations_lead_back_to_nginx() {
    let absolute = "http: {addr: \"127.0.0.1:0\", host: \"https://$HOST\"}\n";
    for config in [HTTP, absolute] {
        // The address of nginx is not known when the registry starts: any name will do.
        let config = config.replace("$HOST", "registry.test:8443");
        let Some(proxied) = Proxied::start(&config) else {
            return;
        };
        let authorization = basic(USER[0], USER[1]);
        let headers = [("Authorization", &*authorization)];
        let send = |method: &str, path: &str, body: &[u8]| {
            let answer = proxied
                .client
                .send(&proxied.address, method, path, &headers, body);
            answer.expect("answered")
        };
        let started = send("POST", "/v2/nginx/located/blobs/uploads/", &[]).expect(&[202]);
        let location = started.header("location").expect("a Location").to_owned();
        if config == HTTP {
            // By its path, or by what nginx said of scheme and host: never by its own.
            let own = format!("https://{}/v2/", proxied.address);
            assert!(
                location.starts_with("/v2/") || location.starts_with(&own),
                "{location}"
            );
        } else {
            assert!(
                location.starts_with("https://registry.test:8443/v2/"),
                "{location}"
            );
        }
        let digest = Digest::sha256(b"located");
        let target = http::with_query(&started.location(), &format!("digest={digest}"));
        send("PUT", &target, b"located").expect(&[201]);
        assert!(proxied.server.stop().success());
    }
}
