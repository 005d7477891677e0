//! Notifications that may begin while the registry runs

use std::sync::Arc;

use async_trait::async_trait;
use registry_core::event::Event;
use registry_http::notifications::{Notifier, NotifierError, NotifierOptions};
use registry_http::{Endpoint, EventSink, EventSinkError};
use tokio::sync::OnceCell;

/// Makes a [`Notifier`] when there is somebody to notify
///
/// Until then there is no outbox, and requests make no events: an operator who names the first
/// endpoint while the registry runs need not restart it, and one who never does pays nothing.
#[derive(Debug)]
pub struct LateNotifier {
    options: NotifierOptions,
    notifier: OnceCell<Arc<Notifier>>,
}

impl LateNotifier {
    /// With the options for when there is somebody to notify
    pub fn new(options: NotifierOptions) -> Self {
        Self {
            options,
            notifier: OnceCell::new(),
        }
    }

    /// Makes these the endpoints
    ///
    /// # Errors
    ///
    /// [`NotifierError`]; the endpoints before them, if any, stay.
    pub async fn set_endpoints(&self, endpoints: Vec<Endpoint>) -> Result<(), NotifierError> {
        match self.notifier.get() {
            Some(notifier) => notifier.set_endpoints(endpoints).await,
            None if endpoints.is_empty() => Ok(()),
            None => {
                let open = || async {
                    let notifier = Notifier::open(self.options.clone(), endpoints).await?;
                    Ok(Arc::new(notifier))
                };
                self.notifier.get_or_try_init(open).await.map(|_| ())
            }
        }
    }

    /// The notifier, once there is one
    pub fn get(&self) -> Option<&Arc<Notifier>> {
        self.notifier.get()
    }
}

#[async_trait]
impl EventSink for LateNotifier {
    fn is_listening(&self) -> bool {
        self.notifier.initialized()
    }

    async fn admit(&self) -> Result<(), EventSinkError> {
        match self.get() {
            Some(notifier) => notifier.admit().await,
            None => Ok(()),
        }
    }

    async fn record(&self, events: Vec<Event>) -> Result<(), EventSinkError> {
        match self.get() {
            Some(notifier) => notifier.record(events).await,
            None => Ok(()),
        }
    }

    fn notice(&self, event: Event) {
        if let Some(notifier) = self.get() {
            notifier.notice(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_is_told_until_there_is_somebody() {
        let notifier = LateNotifier::new(NotifierOptions::default());
        notifier.set_endpoints(Vec::new()).await.unwrap();
        assert!(!notifier.is_listening());
        assert!(notifier.get().is_none());

        let endpoint = Endpoint::new("hooks", "http://127.0.0.1:9/").unwrap();
        notifier.set_endpoints(vec![endpoint]).await.unwrap();
        assert!(notifier.is_listening());
        notifier.set_endpoints(Vec::new()).await.unwrap();
        assert!(notifier.get().unwrap().vars().endpoints.is_empty());
    }
}
