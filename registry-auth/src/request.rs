//! The name of the request on whose behalf something is asked

use std::sync::Arc;

tokio::task_local! {
    static NAME: Arc<str>;
}

/// Runs `future` on behalf of the request of this name
///
/// Whatever it asks of other services carries the name, so that a person finds the request in their logs.
/// A task that it spawns is on nobody's behalf unless it is wrapped in turn.
///
/// # Examples
///
/// ```
/// use registry_auth::request;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let name = request::on_behalf_of("3f2c".into(), async { request::name() }).await;
/// assert_eq!(name.as_deref(), Some("3f2c"));
/// assert_eq!(request::name(), None);
/// # }
/// ```
pub async fn on_behalf_of<F: Future>(name: Arc<str>, future: F) -> F::Output {
    NAME.scope(name, future).await
}

/// As [`on_behalf_of`], where there may be no request: for tasks that go on with what one began
pub(crate) async fn maybe_on_behalf_of<F: Future>(name: Option<Arc<str>>, future: F) -> F::Output {
    match name {
        Some(name) => on_behalf_of(name, future).await,
        None => future.await,
    }
}

/// The name of the request on whose behalf this runs, if there is one
pub fn name() -> Option<Arc<str>> {
    NAME.try_with(Arc::clone).ok()
}
