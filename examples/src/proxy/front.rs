//! What answers which request on the listener of `docker-proxy`

use std::convert::Infallible;
use std::error::Error;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Body;
use hyper::service::Service;
use registry_http::{AuthRequestService, ResponseBody, TokenService};

/// Hands each request to the service whose path it has, and all others to what is guarded
///
/// So nothing exists besides: what is guarded knows the API of registries and refuses the rest.
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
/// use registry_examples::proxy::front::Front;
/// use registry_http::RegistryService;
/// use registry_storage::{Memory, Store};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let store = Store::new(Arc::new(Memory::new()));
/// let registry = RegistryService::builder(store, Arc::new(Anyone), Arc::new(AllowAll)).build();
/// let front = Front::new(registry, None, None);
/// let request = Request::get("/authok/v2/").body(Empty::<bytes::Bytes>::new()).unwrap();
/// assert_eq!(front.call(request).await.unwrap().status(), 404);
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Front<S> {
    guarded: S,
    tokens: Option<TokenService>,
    auth_request: Option<AuthRequestService>,
}

impl<S> Front<S> {
    /// What is guarded, and what there is beside it
    pub fn new(
        guarded: S,
        tokens: Option<TokenService>,
        auth_request: Option<AuthRequestService>,
    ) -> Self {
        Self {
            guarded,
            tokens,
            auth_request,
        }
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
    type Future = BoxFuture<'static, Result<Response<ResponseBody>, Infallible>>;

    fn call(&self, request: Request<B>) -> Self::Future {
        let path = request.uri().path();
        if let Some(tokens) = &self.tokens
            && tokens.answers(path)
        {
            return Service::call(tokens, request);
        }
        if let Some(auth_request) = &self.auth_request
            && auth_request.answers(path)
        {
            return Service::call(auth_request, request);
        }
        self.guarded.call(request)
    }
}
