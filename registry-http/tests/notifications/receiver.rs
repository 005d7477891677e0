//! A receiver of notifications that does as it is told

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use registry_core::event::{Envelope, Event};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

/// What it does with a request that it has read
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    Status(u16),
    /// Never answers
    Hang,
    /// Closes the connection
    Close,
}

/// A request as it came
#[derive(Clone, Debug)]
pub(crate) struct Post {
    pub(crate) headers: HeaderMap,
    pub(crate) events: Vec<Event>,
    /// Whether it was answered with 200
    pub(crate) taken: bool,
}

#[derive(Debug, Default)]
struct Script {
    answers: VecDeque<Answer>,
    otherwise: Option<Answer>,
    posts: Vec<Post>,
}

/// Listens until it is dropped
#[derive(Debug)]
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    script: Arc<Mutex<Script>>,
    task: JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Receiver {
    pub(crate) async fn start() -> Self {
        Self::on("127.0.0.1:0".parse().unwrap()).await
    }

    pub(crate) async fn on(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let script = Arc::<Mutex<Script>>::default();
        let task = tokio::spawn({
            let script = script.clone();
            async move {
                // Ends with the listener, and its connections with it.
                let mut connections = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    connections.spawn(serve(stream, script.clone()));
                }
            }
        });
        Self {
            address,
            script,
            task,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/callback", self.address)
    }

    /// The next requests are answered so, and later ones with 200
    pub(crate) fn answer(&self, answers: &[Answer]) {
        self.script.lock().unwrap().answers.extend(answers);
    }

    /// Every request is answered so from now on
    pub(crate) fn always(&self, answer: Option<Answer>) {
        self.script.lock().unwrap().otherwise = answer;
    }

    pub(crate) fn posts(&self) -> Vec<Post> {
        self.script.lock().unwrap().posts.clone()
    }

    /// The events of all requests that it took
    pub(crate) fn taken(&self) -> Vec<Event> {
        self.posts()
            .into_iter()
            .filter(|post| post.taken)
            .flat_map(|post| post.events)
            .collect()
    }

    pub(crate) fn taken_ids(&self) -> Vec<String> {
        self.taken().into_iter().map(|event| event.id).collect()
    }
}

/// Receives over a connection that is there already
pub(crate) async fn serve_on(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Vec<Post> {
    let script = Arc::<Mutex<Script>>::default();
    serve(stream, script.clone()).await;
    let script = script.lock().unwrap();
    script.posts.clone()
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    script: Arc<Mutex<Script>>,
) {
    let service = service_fn(move |request| receive(request, script.clone()));
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn receive(
    request: Request<Incoming>,
    script: Arc<Mutex<Script>>,
) -> Result<Response<Full<Bytes>>, std::io::Error> {
    assert_eq!(request.method(), "POST");
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?;
    let envelope: Envelope = serde_json::from_slice(&body.to_bytes()).unwrap();
    let answer = {
        let mut script = script.lock().unwrap();
        let answer = script.answers.pop_front().or(script.otherwise);
        let answer = answer.unwrap_or(Answer::Status(200));
        script.posts.push(Post {
            headers: parts.headers,
            events: envelope.events,
            taken: matches!(answer, Answer::Status(200)),
        });
        answer
    };
    match answer {
        Answer::Status(status) => {
            let mut response = Response::new(Full::from("thank you"));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            Ok(response)
        }
        Answer::Hang => Ok(std::future::pending::<Result<_, Infallible>>()
            .await
            .unwrap()),
        Answer::Close => Err(std::io::ErrorKind::ConnectionReset.into()),
    }
}
