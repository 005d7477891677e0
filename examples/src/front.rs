//! What answers which request on the main listener

use std::convert::Infallible;
use std::error::Error;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Body;
use hyper::service::Service;
use registry_http::{AuthRequestService, ResponseBody, TokenService};

/// A registry, or what guards one, with the services beside it at their own paths
///
/// Everything else is handed to the registry, which knows its API and refuses the rest: nothing
/// exists besides.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
///
/// use http::Request;
/// use http_body_util::Empty;
/// use hyper::service::Service;
/// use registry_auth::{AllowAll, Anyone};
/// use registry_examples::front::Front;
/// use registry_http::RegistryService;
/// use registry_storage::{Memory, Store};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let store = Store::new(Arc::new(Memory::new()));
/// let registry = RegistryService::builder(store, Arc::new(Anyone), Arc::new(AllowAll)).build();
/// let front = Front::new(registry, None);
/// let request = Request::get("/authok/v2/").body(Empty::<bytes::Bytes>::new()).unwrap();
/// assert_eq!(front.call(request).await.unwrap().status(), 404);
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Front<S> {
    registry: S,
    tokens: Option<TokenService>,
    auth_request: Option<AuthRequestService>,
}

impl<S> Front<S> {
    /// `registry`, and `tokens` at its own paths
    pub fn new(registry: S, tokens: Option<TokenService>) -> Self {
        Self {
            registry,
            tokens,
            auth_request: None,
        }
    }

    /// Adds what answers a web server that asks about each of its requests
    #[must_use]
    pub fn with_auth_request(mut self, auth_request: Option<AuthRequestService>) -> Self {
        self.auth_request = auth_request;
        self
    }
}

impl<S, B> Service<Request<B>> for Front<S>
where
    S: Service<
            Request<B>,
            Response = Response<ResponseBody>,
            Error = Infallible,
            Future = BoxFuture<'static, Result<Response<ResponseBody>, Infallible>>,
        >,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn call(&self, request: Request<B>) -> Self::Future {
        let path = request.uri().path();
        if let Some(tokens) = self.tokens.as_ref().filter(|it| it.answers(path)) {
            return Service::call(tokens, request);
        }
        if let Some(auth_request) = self.auth_request.as_ref().filter(|it| it.answers(path)) {
            return Service::call(auth_request, request);
        }
        self.registry.call(request)
    }
}
