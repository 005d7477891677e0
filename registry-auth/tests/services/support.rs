//! A server that answers from a table and remembers what it was asked

use std::sync::{Arc, Mutex};
use std::time::Duration;

use registry_auth::Password;
use registry_auth::acumos::{Cds, Endpoint, Lum};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What the server does with a request
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// Closes the connection
    Break,
    /// Sends status and body
    Json(u16, String),
    /// The same, after a while
    Late(Duration, u16, String),
    /// Sends these bytes, and closes
    Raw(Vec<u8>),
    /// Keeps silent
    Silence,
}

pub(crate) fn ok(json: impl Into<String>) -> Reply {
    Reply::Json(200, json.into())
}

/// A request as it came
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// `GET /user/u1/role`, with the query
    pub(crate) line: String,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// A server on a port of its own
pub(crate) struct Server {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Answers by a function of `GET /path?query` and the number of the request
    pub(crate) async fn new(
        answer: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let answer = Arc::new(answer);
        let log = asked.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (answer, log) = (answer.clone(), log.clone());
                tokio::spawn(async move {
                    // A client that hangs up is part of some tests.
                    drop(serve(stream, &*answer, &log).await);
                });
            }
        });
        Self { url, asked, task }
    }

    /// Answers from a table of `GET /path?query` and what is then answered; the rest is 500
    pub(crate) async fn table(rows: &[(&str, Reply)]) -> Self {
        let rows: Vec<(String, Reply)> = rows
            .iter()
            .map(|(line, reply)| ((*line).to_owned(), reply.clone()))
            .collect();
        Self::new(move |asked, _| {
            let row = rows.iter().find(|(line, _)| *line == asked.line);
            row.map_or_else(
                || Reply::Json(500, format!("no row for {}", asked.line)),
                |(_, reply)| reply.clone(),
            )
        })
        .await
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.line).collect()
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::new(&self.url)
            .unwrap()
            .with_credentials("ccds_client", Password::new("service-secret"))
            .unwrap()
            .with_timeout(Duration::from_secs(20))
    }

    pub(crate) fn cds(&self) -> Cds {
        Cds::new(self.endpoint()).unwrap()
    }

    pub(crate) fn lum(&self) -> Lum {
        Lum::new(self.endpoint()).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    mut stream: TcpStream,
    answer: &(dyn Fn(&Asked, usize) -> Reply + Send + Sync),
    log: &Mutex<Vec<Asked>>,
) -> std::io::Result<()> {
    let mut seen = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut seen).await? == 0 {
                return Ok(());
            }
        };
        let head = String::from_utf8_lossy(&seen[..end]).into_owned();
        let length = head
            .lines()
            .find_map(|line| {
                line.to_lowercase()
                    .strip_prefix("content-length: ")?
                    .parse()
                    .ok()
            })
            .unwrap_or(0);
        while seen.len() < end + length {
            if stream.read_buf(&mut seen).await? == 0 {
                return Ok(());
            }
        }
        let body = String::from_utf8_lossy(&seen[end..end + length]).into_owned();
        seen.drain(..end + length);
        let line = head.lines().next().unwrap_or_default();
        let asked = Asked {
            line: line.trim_end_matches(" HTTP/1.1").to_owned(),
            head,
            body,
        };
        let number = {
            let mut log = log.lock().unwrap();
            log.push(asked.clone());
            log.len()
        };
        let (status, text) = match answer(&asked, number) {
            Reply::Break => return Ok(()),
            Reply::Json(status, text) => (status, text),
            Reply::Late(after, status, text) => {
                tokio::time::sleep(after).await;
                (status, text)
            }
            Reply::Raw(bytes) => return stream.write_all(&bytes).await,
            Reply::Silence => std::future::pending().await,
        };
        let length = match status {
            204 => String::new(),
            _ => format!("Content-Length: {}\r\n", text.len()),
        };
        let answer =
            format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{length}\r\n{text}");
        stream.write_all(answer.as_bytes()).await?;
    }
}

pub(crate) const SOLUTION: &str = "9d294c20-7b1f-4ab7-b8b3-03bc7f069ac1";
pub(crate) const OTHER: &str = "11111111-2222-4333-8444-555555555555";

/// A page as Spring writes it
pub(crate) fn page(items: &[&str], number: usize, last: bool) -> String {
    format!(
        r#"{{"content":[{}],"pageable":{{"pageNumber":{number}}},"last":{last},"totalPages":{},
        "totalElements":7,"size":100,"number":{number},"numberOfElements":{},"first":{},
        "sort":{{"sorted":true,"unsorted":false,"empty":false}},"empty":{}}}"#,
        items.join(","),
        number + 1 + usize::from(!last),
        items.len(),
        number == 0,
        items.is_empty(),
    )
}

pub(crate) fn user(id: &str, login: &str, more: &str) -> String {
    format!(
        r#"{{"created":"2018-12-16T12:34:56.789Z","userId":"{id}","loginName":"{login}",
        "email":"{login}@example.org","firstName":"A","active":true,"authToken":null,
        "apiToken":null,"loginPassExpire":null,"loginFailCount":null,"verifyExpiration":null,
        "tags":[]{more}}}"#
    )
}
