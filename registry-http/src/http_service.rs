//! What makes a type a service for hyper and for tower at once

/// Implements both traits by the type's method `answer`, which takes a request of any body and
/// returns a boxed future of its response
macro_rules! http_service {
    ($service:ty) => {
        impl<B> hyper::service::Service<http::Request<B>> for $service
        where
            B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
            B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
        {
            type Response = http::Response<crate::body::ResponseBody>;
            type Error = std::convert::Infallible;
            type Future = futures::future::BoxFuture<'static, Result<Self::Response, Self::Error>>;

            fn call(&self, request: http::Request<B>) -> Self::Future {
                self.answer(request)
            }
        }

        impl<B> tower_service::Service<http::Request<B>> for $service
        where
            B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
            B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
        {
            type Response = http::Response<crate::body::ResponseBody>;
            type Error = std::convert::Infallible;
            type Future = futures::future::BoxFuture<'static, Result<Self::Response, Self::Error>>;

            fn poll_ready(
                &mut self,
                _: &mut std::task::Context<'_>,
            ) -> std::task::Poll<Result<(), Self::Error>> {
                std::task::Poll::Ready(Ok(()))
            }

            fn call(&mut self, request: http::Request<B>) -> Self::Future {
                self.answer(request)
            }
        }
    };
}

pub(crate) use http_service;
