//! What a pull costs the platform: a login and a use at most, however many requests docker makes

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use registry_auth::acumos::{
    AcumosAuthorizer, AcumosServices, AuthorizerOptions, CacheOptions, CachedDirectory,
    CdsAuthenticator, DirectoryError, LoginOptions, Rules, TagsOf,
};
use registry_auth::{Authenticator, Authorizer, Credentials, Password, Principal};
use registry_core::{Digest, RepositoryName, Tag, route};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::support::{Asked, Reply, SOLUTION, Server, page, user};

const LAYERS: usize = 20;

/// How many layers docker pulls at a time (`max-concurrent-downloads`)
const AT_A_TIME: usize = 3;

/// CDS of one of its generations, with ada, who owns nothing, and a solution in a public catalogue
///
/// Before 3.1 the rights to use are here.
fn cds(version: &'static str, asked: &Asked) -> Reply {
    let solution = format!("/solution/{SOLUTION}");
    let line = asked.line.split('?').next().unwrap_or_default();
    let json = match line {
        "POST /user/login" if asked.body.contains(r#""pass":"secret""#) => user("u1", "ada", ""),
        "GET /user/search" => page(&[&user("u1", "ada", "")], 0, true),
        "GET /user/u1" => user("u1", "ada", ""),
        "GET /user/u1/role" => r#"[{"roleId":"r1","name":"Publisher","active":true}]"#.to_owned(),
        "GET /version" => format!(r#"{{"status":200,"data":"{version}"}}"#),
        "GET /revision/a/artifact" => format!(
            r#"[{{"artifactId":"x","artifactTypeCode":"DI","uri":"nexus:8082/iris_{SOLUTION}:1.0.0"}}]"#
        ),
        "GET /artifact/x/revision" => {
            format!(r#"[{{"revisionId":"a","solutionId":"{SOLUTION}","version":"1.0.0"}}]"#)
        }
        line if line == format!("GET {solution}") => {
            format!(r#"{{"solutionId":"{SOLUTION}","name":"Iris","userId":"u9","active":true}}"#)
        }
        line if line == format!("GET {solution}/revision") => {
            format!(r#"[{{"revisionId":"a","solutionId":"{SOLUTION}","version":"1.0.0"}}]"#)
        }
        line if line == format!("GET /access{solution}/user") => "[]".to_owned(),
        line if line == format!("GET /catalog{solution}") => {
            r#"[{"catalogId":"c1","accessTypeCode":"PB","name":"Public Models"}]"#.to_owned()
        }
        line if line == format!("GET /rtu{solution}/user/u1") && version < "3.1" => {
            format!(r#"[{{"rtuId":1,"solutionId":"{SOLUTION}","site":false}}]"#)
        }
        _ => return Reply::Json(500, format!("no row for {}", asked.line)),
    };
    // So slow that those who come together wait together.
    Reply::Late(Duration::from_millis(20), 200, json)
}

/// LUM, by which the revision needs a right to use, which ada has
fn lum(asked: &Asked) -> Reply {
    let json = match asked.line.split('?').next().unwrap_or_default() {
        "GET /api/v1/swid-tag" => {
            r#"{"swidTag":{"swTagId":"a","swidTagActive":true},
            "licenseProfile":{"licenseProfileActive":true,"isRtuRequired":true}}"#
        }
        "PUT /api/v1/asset-usage" => r#"{"usageEntitled":true,"assetUsage":{"swTagId":"a"}}"#,
        _ => return Reply::Json(500, format!("no row for {}", asked.line)),
    };
    Reply::Late(Duration::from_millis(20), 200, json.to_owned())
}

/// A registry whose one tag leads to everything that an image has
#[derive(Debug)]
struct OneImage;

#[async_trait]
impl TagsOf for OneImage {
    async fn tags_of(&self, _: &RepositoryName, _: &Digest) -> Result<Vec<Tag>, DirectoryError> {
        Ok(vec!["1.0.0".parse().unwrap()])
    }
}

/// What a registry does with each request, with the servers behind it
struct Platform {
    cds: Server,
    lum: Server,
    users: CdsAuthenticator,
    authorizer: AcumosAuthorizer,
}

impl Platform {
    async fn new(version: &'static str, with_lum: bool) -> Arc<Self> {
        let cds = Server::new(move |asked, _| self::cds(version, asked)).await;
        let lum = Server::new(|asked, _| self::lum(asked)).await;
        let mut services = AcumosServices::new(cds.cds());
        if with_lum {
            services = services.with_lum(lum.lum());
        }
        let realm = "Acumos".parse().unwrap();
        let users = CdsAuthenticator::new(cds.cds(), realm, LoginOptions::default()).unwrap();
        // A busy machine must not make it ask again.
        let hour = Duration::from_secs(3600);
        let options = CacheOptions::default()
            .with_account(hour)
            .with_solution(hour)
            .with_revisions(hour);
        let authorizer = AcumosAuthorizer::new(
            Rules::default(),
            Arc::new(CachedDirectory::new(services, options)),
            Arc::new(OneImage),
            AuthorizerOptions::default().with_timeout(Duration::from_secs(60)),
        );
        Arc::new(Self {
            cds,
            lum,
            users,
            authorizer,
        })
    }

    /// Whether a request with these credentials is let through
    async fn lets(&self, method: &str, path: &str, credentials: &Credentials) -> bool {
        let principal = self.users.authenticate(credentials).await.unwrap();
        for access in route(method, path, None).unwrap().access() {
            let decision = self.authorizer.authorize(&principal, &access).await;
            let decision = decision.unwrap();
            if !decision.is_allow() {
                return false;
            }
            assert_eq!(decision.rule(), "right-to-use", "{method} {path}");
        }
        true
    }

    /// How many logins and uses there were, and whether anything was asked twice
    fn cost(&self) -> (usize, usize, bool) {
        let (cds, lum) = (self.cds.lines(), self.lum.lines());
        let count = |lines: &[String], with: &str| {
            lines.iter().filter(|line| line.starts_with(with)).count()
        };
        // The roles come with the login, and are a fact besides.
        let all: Vec<&String> = cds
            .iter()
            .chain(&lum)
            .filter(|line| *line != "GET /user/u1/role")
            .collect();
        let distinct: HashSet<&&String> = all.iter().collect();
        let logins = count(&cds, "POST ");
        (logins, count(&lum, "PUT "), distinct.len() < all.len())
    }
}

fn ada() -> Credentials {
    Credentials::Basic {
        user: "ada".to_owned(),
        password: Password::new("secret"),
    }
}

fn digest(content: usize) -> Digest {
    Digest::sha256(&content.to_le_bytes())
}

/// The requests of `docker pull`, in its order
async fn pull(platform: &Arc<Platform>) {
    let of = |kind: &str, reference: &str| format!("/v2/iris_{SOLUTION}/{kind}/{reference}");
    let manifest = of("manifests", &digest(usize::MAX).to_string());
    let tagged = of("manifests", "1.0.0");
    // First it asks whether to log in at all.
    assert!(platform.lets("GET", "/v2/", &Credentials::None).await);
    for (method, path) in [
        ("GET", "/v2/"),
        ("HEAD", tagged.as_str()),
        ("GET", tagged.as_str()),
        ("GET", manifest.as_str()),
    ] {
        assert!(platform.lets(method, path, &ada()).await, "{method} {path}");
    }
    let slots = Arc::new(Semaphore::new(AT_A_TIME));
    let mut blobs = JoinSet::new();
    // The config, and the layers.
    for content in 0..=LAYERS {
        let path = of("blobs", &digest(content).to_string());
        let (platform, slots) = (platform.clone(), slots.clone());
        blobs.spawn(async move {
            let _slot = slots.acquire().await.unwrap();
            platform.lets("GET", &path, &ada()).await
        });
    }
    while let Some(allowed) = blobs.join_next().await {
        assert!(allowed.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_of_20_layers_costs_one_login_and_one_use() {
    let platform = Platform::new("3.1.1", true).await;
    pull(&platform).await;
    assert_eq!(platform.cost(), (1, 1, false), "{:?}", platform.cds.lines());
    let before = (platform.cds.lines(), platform.lum.lines());
    // Another one soon after costs nothing.
    pull(&platform).await;
    assert_eq!((platform.cds.lines(), platform.lum.lines()), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_rights_are_in_cds_a_pull_costs_one_login_and_asks_for_the_right_once() {
    let platform = Platform::new("2.2.6", false).await;
    pull(&platform).await;
    pull(&platform).await;
    let lines = platform.cds.lines();
    let (logins, uses, _) = platform.cost();
    assert_eq!((logins, uses), (1, 0), "{lines:?}");
    let right = format!("GET /rtu/solution/{SOLUTION}/user/u1");
    assert_eq!(lines.iter().filter(|line| **line == right).count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_first_requests_of_one_user_cost_one_login_and_one_use() {
    let platform = Platform::new("3.1.1", true).await;
    let mut requests = JoinSet::new();
    for number in 0..1_000 {
        let platform = platform.clone();
        // By tag and by digest, as they come from many machines that start the same image.
        let path = match number % 2 {
            0 => format!("/v2/iris_{SOLUTION}/manifests/1.0.0"),
            _ => format!("/v2/iris_{SOLUTION}/blobs/{}", digest(number)),
        };
        requests.spawn(async move { platform.lets("GET", &path, &ada()).await });
    }
    while let Some(allowed) = requests.join_next().await {
        assert!(allowed.unwrap());
    }
    assert_eq!(platform.cost(), (1, 1, false), "{:?}", platform.cds.lines());
}

#[tokio::test]
async fn what_gives_no_content_is_no_use() {
    let platform = Platform::new("3.1.1", true).await;
    let of = |path: &str| route("GET", &format!("/v2/iris_{SOLUTION}/{path}"), None).unwrap();
    let ada = Principal::user("ada");
    for (principal, operation, rule) in [
        (&ada, of("tags/list"), "published"),
        (&ada, of("manifests/9"), "no-such-revision"),
        (&Principal::Anonymous, of("manifests/1.0.0"), "anonymous"),
    ] {
        for access in operation.access() {
            let decision = platform.authorizer.authorize(principal, &access).await;
            assert_eq!(decision.unwrap().rule(), rule);
        }
    }
    assert_eq!(platform.cost(), (0, 0, false));
}
