//! A stand-in for the Acumos platform: accounts and solutions (CDS), rights to use (LUM)
//!
//! The real services cannot be had. What is answered follows their published sources, as far as
//! the registry asks: pages as Spring writes them, 400 for a wrong password, 204 for a revision
//! that the license usage manager does not know, 402 for a use that it denies.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

/// What CDS asks of those who call it
pub(crate) const CDS_USER: &str = "ccds_client";
/// The secret that goes with it
pub(crate) const CDS_PASSWORD: &str = "ccds-client-secret";

/// A user of the platform
#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) login: &'static str,
    pub(crate) password: &'static str,
}

/// A solution with one image for each revision
#[derive(Clone, Debug)]
pub(crate) struct Solution {
    pub(crate) id: &'static str,
    /// The name of the model, as it stands in the image's name
    pub(crate) model: &'static str,
    pub(crate) owner: &'static str,
    pub(crate) versions: &'static [&'static str],
    /// Whether it is in the public catalogue
    pub(crate) published: bool,
    pub(crate) license: License,
}

/// What the license usage manager knows of all revisions of a solution
#[derive(Clone, Copy, Debug)]
pub(crate) enum License {
    /// Nothing
    Unknown,
    /// Free to use
    Free,
    /// For those who have a right
    For(&'static [&'static str]),
}

impl Solution {
    /// `<model>_<id>`
    pub(crate) fn repository(&self) -> String {
        format!("{}_{}", self.model, self.id)
    }

    fn revision(&self, version: &str) -> String {
        format!("rev-{}-{version}", self.id)
    }
}

/// The platform, on a port of its own
pub(crate) struct Platform {
    /// `http://127.0.0.1:<port>/ccds`
    pub(crate) cds: String,
    /// `http://127.0.0.1:<port>`
    pub(crate) lum: String,
    shared: Arc<Shared>,
}

struct Shared {
    users: Vec<User>,
    solutions: Vec<Solution>,
    asked: Mutex<Vec<Asked>>,
    stopped: Mutex<bool>,
}

/// A request that came
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// `GET /ccds/user/search?loginName=ada`
    pub(crate) line: String,
    /// By their names in lower case
    pub(crate) headers: BTreeMap<String, String>,
}

impl Platform {
    /// Starts to listen
    pub(crate) fn start(users: &[User], solutions: &[Solution]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            users: users.to_vec(),
            solutions: solutions.to_vec(),
            asked: Mutex::default(),
            stopped: Mutex::default(),
        });
        let accepting = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                if *accepting.stopped.lock().expect("no other thread panicked") {
                    return;
                }
                let shared = accepting.clone();
                thread::spawn(move || {
                    // A caller that hangs up is no matter.
                    let _ = stream.and_then(|stream| shared.serve(stream));
                });
            }
        });
        Self {
            cds: format!("http://{address}/ccds"),
            lum: format!("http://{address}"),
            shared,
        }
    }

    /// Everything that it was asked until now
    pub(crate) fn asked(&self) -> Vec<Asked> {
        let asked = self.shared.asked.lock().expect("no other thread panicked");
        asked.clone()
    }

    /// How many requests began with these words
    pub(crate) fn count(&self, start: &str) -> usize {
        let asked = self.asked();
        asked
            .iter()
            .filter(|asked| asked.line.starts_with(start))
            .count()
    }

    /// How often a password or token was tried
    pub(crate) fn logins(&self) -> usize {
        self.count("POST /ccds/user/login")
    }

    /// How many uses were counted
    pub(crate) fn uses(&self) -> usize {
        self.count("PUT /api/v1/asset-usage")
    }

    /// Forgets what it was asked
    pub(crate) fn forget(&self) {
        let asked = &self.shared.asked;
        asked.lock().expect("no other thread panicked").clear();
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        let stopped = &self.shared.stopped;
        *stopped.lock().expect("no other thread panicked") = true;
        // Wakes up who waits for a connection.
        let _ = TcpStream::connect(self.lum.trim_start_matches("http://"));
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
            let mut headers = BTreeMap::new();
            loop {
                let mut header = String::new();
                reader.read_line(&mut header)?;
                match header.trim_end().split_once(':') {
                    Some((name, value)) => {
                        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
                    }
                    None => break,
                }
            }
            let length = headers.get("content-length");
            let length = length.and_then(|text| text.parse().ok()).unwrap_or(0);
            let mut body = vec![0; length];
            reader.read_exact(&mut body)?;
            let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
            let (status, answer) = self.answer(&line, &headers, &body);
            let asked = Asked { line, headers };
            let mut all = self.asked.lock().expect("no other thread panicked");
            all.push(asked);
            drop(all);
            let text = match answer {
                // What Java makes of an object that is not there.
                Value::Null => String::new(),
                answer => answer.to_string(),
            };
            let length = match status {
                204 => String::new(),
                _ => format!("Content-Length: {}\r\n", text.len()),
            };
            write!(
                stream,
                "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{length}\r\n{text}"
            )?;
        }
    }

    fn answer(&self, line: &str, headers: &BTreeMap<String, String>, body: &Value) -> (u16, Value) {
        let (method, target) = line.split_once(' ').expect("a request line");
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let query: BTreeMap<String, String> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), decoded(value)))
            .collect();
        if let Some(path) = path.strip_prefix("/ccds/") {
            let expected = super::http::basic(CDS_USER, CDS_PASSWORD);
            if headers.get("authorization") != Some(&expected) && path != "version" {
                return (401, json!({ "status": 401, "error": "Unauthorized" }));
            }
            let path: Vec<&str> = path.split('/').collect();
            return self.cds(method, &path, &query, body);
        }
        self.lum(method, path, &query, body)
    }

    fn cds(
        &self,
        method: &str,
        path: &[&str],
        query: &BTreeMap<String, String>,
        body: &Value,
    ) -> (u16, Value) {
        let solution = |id: &str| self.solutions.iter().find(|solution| solution.id == id);
        let own = |id: &str| solution(id).map_or(json!([]), revisions);
        match (method, path) {
            ("GET", ["version"]) => (200, json!({ "status": 200, "data": "3.1.1" })),
            ("POST", ["user", "login" | "loginapi"]) => {
                let user = self
                    .users
                    .iter()
                    .find(|user| body["name"] == user.login && body["pass"] == user.password);
                match user {
                    Some(user) => (200, account(user)),
                    None => (
                        400,
                        json!({ "status": 400, "error": "Failed to authenticate user" }),
                    ),
                }
            }
            ("GET", ["user", "search"]) => {
                let wanted = query.get("loginName").cloned().unwrap_or_default();
                let found = self.users.iter().filter(|user| user.login == wanted);
                (200, page(found.map(account).collect()))
            }
            ("GET", ["user", id]) => {
                let user = self.users.iter().find(|user| user_id(user.login) == *id);
                (200, user.map_or(Value::Null, account))
            }
            ("GET", ["user", _, "role"]) => (
                200,
                json!([{ "roleId": "r1", "name": "MLP System User", "active": true }]),
            ),
            ("GET", ["solution", id]) => (
                200,
                solution(id).map_or(Value::Null, |solution| {
                    json!({
                        "solutionId": solution.id,
                        "name": solution.model,
                        "userId": user_id(solution.owner),
                        "active": true,
                    })
                }),
            ),
            ("GET", ["solution", id, "revision"]) => (200, own(id)),
            ("GET", ["access", "solution", _, "user"]) => (200, json!([])),
            ("GET", ["catalog", "solution", id]) => {
                let published = solution(id).is_some_and(|solution| solution.published);
                let public =
                    json!([{ "catalogId": "c1", "accessTypeCode": "PB", "name": "Public Models" }]);
                (200, if published { public } else { json!([]) })
            }
            ("GET", ["revision", id, "artifact"]) => {
                let artifacts = self.images().filter(|image| image.revision == **id);
                (200, artifacts.map(|image| image.artifact()).collect())
            }
            ("GET", ["artifact", "search"]) => {
                let wanted = query.get("name").cloned().unwrap_or_default();
                let found = self.images().filter(|image| image.solution.model == wanted);
                (200, page(found.map(|image| image.artifact()).collect()))
            }
            ("GET", ["artifact", id, "revision"]) => {
                let image = self.images().find(|image| image.id() == *id);
                (200, image.map_or(json!([]), |image| own(image.solution.id)))
            }
            _ => (404, json!({ "status": 404, "error": "Not Found" })),
        }
    }

    fn lum(
        &self,
        method: &str,
        path: &str,
        query: &BTreeMap<String, String>,
        body: &Value,
    ) -> (u16, Value) {
        let of = |revision: &str| self.images().find(|image| image.revision == revision);
        match (method, path) {
            ("GET", "/api/v1/swid-tag") => {
                let revision = query.get("swTagId").cloned().unwrap_or_default();
                let Some(image) = of(&revision) else {
                    return (204, Value::Null);
                };
                let required = match image.solution.license {
                    License::Unknown => return (204, Value::Null),
                    License::Free => false,
                    License::For(_) => true,
                };
                (
                    200,
                    json!({
                        "swidTag": { "swTagId": revision, "swidTagActive": true },
                        "licenseProfile": {
                            "isRtuRequired": required,
                            "licenseProfileActive": true,
                        },
                    }),
                )
            }
            ("GET", "/api/v1/swid-tags/available-entitlement") => {
                let user = query.get("userId").cloned().unwrap_or_default();
                let usable = self.images().filter(|image| image.is_for(&user));
                let usable: Vec<Value> = usable
                    .map(|image| json!({ "swTagId": image.revision }))
                    .collect();
                (
                    200,
                    json!({ "userId": user, "swidTagsWithAvailableEntitlement": usable }),
                )
            }
            ("PUT", "/api/v1/asset-usage") => {
                let revision = body["assetUsageReq"]["swTagId"].as_str().unwrap_or("");
                let user = body["userId"].as_str().unwrap_or("");
                let entitled = of(revision).is_some_and(|image| image.is_for(user));
                let mut usage = json!({ "swTagId": revision, "usageEntitled": entitled });
                if !entitled {
                    usage["assetUsageDenialSummary"] = json!("agreement not found");
                }
                (
                    if entitled { 200 } else { 402 },
                    json!({ "usageEntitled": entitled, "assetUsage": usage }),
                )
            }
            _ => (404, json!({ "error": "Not Found" })),
        }
    }

    fn images(&self) -> impl Iterator<Item = Image<'_>> {
        self.solutions.iter().flat_map(|solution| {
            solution.versions.iter().map(|version| Image {
                solution,
                version,
                revision: solution.revision(version),
            })
        })
    }
}

/// One revision's image
struct Image<'p> {
    solution: &'p Solution,
    version: &'p str,
    revision: String,
}

impl Image<'_> {
    fn id(&self) -> String {
        format!("artifact-{}", self.revision)
    }

    fn artifact(&self) -> Value {
        let Solution { model, .. } = self.solution;
        let (repository, version) = (self.solution.repository(), self.version);
        json!({
            "artifactId": self.id(),
            "version": version,
            "artifactTypeCode": "DI",
            "name": model,
            // The platform's own name of its registry, which no client ever sees.
            "uri": format!("nexus.internal:30882/{repository}:{version}"),
        })
    }

    fn is_for(&self, user: &str) -> bool {
        match self.solution.license {
            License::Unknown => false,
            License::Free => true,
            License::For(users) => users.contains(&user),
        }
    }
}

fn user_id(login: &str) -> String {
    format!("user-{login}")
}

fn account(user: &User) -> Value {
    json!({
        "userId": user_id(user.login),
        "loginName": user.login,
        "email": format!("{}@example.org", user.login),
        "active": true,
        "loginPassExpire": null,
        "verifyExpiration": null,
    })
}

fn revisions(solution: &Solution) -> Value {
    let revisions = solution.versions.iter().map(|version| {
        json!({
            "revisionId": solution.revision(version),
            "solutionId": solution.id,
            "version": version,
            "userId": user_id(solution.owner),
        })
    });
    revisions.collect()
}

fn page(items: Vec<Value>) -> Value {
    json!({
        "content": items,
        "last": true,
        "first": true,
        "totalPages": 1,
        "totalElements": items.len(),
        "size": 100,
        "number": 0,
        "numberOfElements": items.len(),
        "empty": items.is_empty(),
    })
}

/// Undoes the escapes of a query's value
fn decoded(value: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'%' => {
                let digits = [rest.next(), rest.next()].map(|digit| digit.unwrap_or(b'0'));
                let digits = std::str::from_utf8(&digits).expect("digits");
                u8::from_str_radix(digits, 16).expect("a hexadecimal number")
            }
            b'+' => b' ',
            byte => byte,
        };
        bytes.push(byte);
    }
    String::from_utf8(bytes).expect("text")
}
