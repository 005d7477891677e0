//! What answers on the main listener: the registry, and its token service beside it

use std::convert::Infallible;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Body;
use hyper::service::Service;
use registry_http::{RegistryService, ResponseBody, TokenService};

/// A registry, with the token service that it sends clients to if it is its own
#[derive(Clone, Debug)]
pub struct Front {
    registry: RegistryService,
    tokens: Option<TokenService>,
}

impl Front {
    /// `registry`, and `tokens` at its own paths
    pub fn new(registry: RegistryService, tokens: Option<TokenService>) -> Self {
        Self { registry, tokens }
    }
}

impl<B> Service<Request<B>> for Front
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn call(&self, request: Request<B>) -> Self::Future {
        match &self.tokens {
            Some(tokens) if tokens.answers(request.uri().path()) => Service::call(tokens, request),
            _ => Service::call(&self.registry, request),
        }
    }
}
