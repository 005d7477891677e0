//! A container registry as an HTTP service for [`hyper`] and for tower
//!
//! [`RegistryService`] answers the OCI distribution API and what docker clients expect beyond
//! it. It is cheap to clone and is both a `hyper::service::Service` and a
//! `tower_service::Service`, over any body type; it needs a tokio runtime with timers. A
//! request goes one way through it: `route` makes an [`Operation`](registry_core::Operation),
//! the authenticator identifies who asks, the policy decides, the store performs, one table
//! turns the outcome into status and headers, and the [`Observer`] learns of it. What was pulled,
//! pushed, mounted or deleted is told to an [`EventSink`], such as the [`Notifier`] of
//! [`notifications`].
//!
//! There is no default for who may do what: whoever builds a service names an authenticator
//! and a policy.
//!
//! ```
//! use std::sync::Arc;
//!
//! use http::{Request, StatusCode};
//! use http_body_util::Empty;
//! use registry_auth::{AllowAll, Anyone};
//! use registry_http::RegistryService;
//! use registry_storage::{Memory, Store};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let store = Store::new(Arc::new(Memory::new()));
//! let service = RegistryService::builder(store, Arc::new(Anyone), Arc::new(AllowAll)).build();
//!
//! let request = Request::get("/v2/").body(Empty::<bytes::Bytes>::new()).unwrap();
//! let response = hyper::service::Service::call(&service, request).await.unwrap();
//! assert_eq!(response.status(), StatusCode::OK);
//! assert_eq!(response.headers()["docker-distribution-api-version"], "registry/2.0");
//! # }
//! ```
//!
//! [`serve`] is an accept loop over TCP, Unix sockets and TLS, for any service like this one:
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use registry_auth::{AllowAll, Anyone};
//! use registry_http::{RegistryService, ServeOptions, serve};
//! use registry_storage::{FileSystem, Store};
//! use tokio::net::TcpListener;
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let driver = FileSystem::open(std::path::Path::new("registry-data"))?;
//! let store = Store::new(Arc::new(driver));
//! let service = RegistryService::builder(store, Arc::new(Anyone), Arc::new(AllowAll)).build();
//! let listener = TcpListener::bind("127.0.0.1:5000").await?;
//! serve(listener, service, ServeOptions::default(), std::future::pending()).await;
//! # Ok(())
//! # }
//! ```
//!
//! [`ProxyService`] is another registry, seen through this crate's access control.
//! [`TokenService`] is the token service to which such a registry can send its clients.
//!
//! [`AuthRequestService`] lets a web server such as nginx ask about each of its requests.
//!
//! With a [`BlobRedirect`] clients get blobs from where they are kept.
//!
//! What of the specification does not apply to this crate, and why, is in [`rows`].

pub mod access;
pub mod access_log;
pub mod auth_request;
mod blobs;
pub mod body;
mod compress;
mod conditional;
mod credentials;
pub mod events;
pub mod forwarded;
mod http_service;
pub mod listener;
mod lists;
pub mod location;
pub mod manifest_urls;
mod manifests;
pub mod notifications;
mod patience;
pub mod proxy;
mod ranges;
pub mod readiness;
pub mod redirect;
mod reply;
mod request_body;
pub mod request_id;
mod respond;
pub mod response_headers;
pub mod rows;
mod sendfile;
pub mod server;
pub mod service;
pub mod tls;
pub mod token_service;
mod uploads;

pub use crate::access::{AccessControl, Rate, RateLimits, SessionSecret};
pub use crate::access_log::{AccessRecord, Observer};
pub use crate::auth_request::{AuthRequestService, AuthRequestServiceBuilder};
pub use crate::body::{BodyError, ResponseBody};
pub use crate::events::{EventSink, EventSinkError, Events};
pub use crate::listener::{Listener, RemoteAddr, UnixPeer};
pub use crate::location::{BaseUrl, Locations, Prefix};
pub use crate::manifest_urls::ManifestUrls;
pub use crate::notifications::{Endpoint, Notifier, NotifierOptions};
pub use crate::proxy::{
    ProxyService, ProxyServiceBuilder, Redirects, Upstream, UpstreamOptions, UpstreamTags,
    UpstreamTagsBuilder,
};
pub use crate::readiness::Readiness;
pub use crate::redirect::{BlobRedirect, BlobRedirectError, WantedBlob};
pub use crate::request_id::RequestId;
pub use crate::response_headers::ResponseHeaders;
pub use crate::server::{Http2, ServeOptions, Stopped, serve};
pub use crate::service::{Builder, RegistryService};
pub use crate::tls::{ClientCertificate, OverTls, Tls, TlsOptions};
pub use crate::token_service::{TokenService, TokenServiceBuilder};
