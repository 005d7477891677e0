//! A service of one's own, with a registry beside its own route
//!
//! `cargo run -p registry-examples --example embed [ADDRESS]`, then `curl` its `/hello`, and
//! push to it. What is pushed is in memory and gone when it ends.

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use registry_auth::{AllowAll, Anyone};
use registry_http::{RegistryService, RemoteAddr, ResponseBody};
use registry_storage::{Memory, Store};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let store = Store::new(Arc::new(Memory::new()));
    // Everyone may do everything; put an `Authenticator` and a `Policy` of your own here.
    let registry = RegistryService::builder(store, Arc::new(Anyone), Arc::new(AllowAll)).build();

    let address = std::env::args().nth(1);
    let listener = TcpListener::bind(address.as_deref().unwrap_or("127.0.0.1:8080")).await?;
    println!("listening on http://{}", listener.local_addr()?);
    loop {
        let (stream, address) = listener.accept().await?;
        let registry = registry.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(RemoteAddr(address));
            answer(registry.clone(), request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service);
        // A connection that breaks is the client's affair.
        tokio::spawn(async { drop(connection.await) });
    }
}

/// The one place where it is decided who answers
async fn answer(
    registry: RegistryService,
    request: Request<Incoming>,
) -> Result<Response<Either<Full<Bytes>, ResponseBody>>, Infallible> {
    if request.uri().path() == "/hello" {
        let hello = Full::from("hello from beside the registry\n");
        return Ok(Response::new(Either::Left(hello)));
    }
    Ok(registry.call(request).await?.map(Either::Right))
}
