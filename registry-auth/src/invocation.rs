//! The events that tell what is asked of other services

use std::fmt;
use std::time::Instant;

use http::StatusCode;
use uuid::Uuid;

/// The target of the events
const INVOKE: &str = "registry::invoke";

/// A call to another service, from its beginning to its end
///
/// Each beginning has an end, also where nobody waits for the answer any more: what is dropped
/// halfway was given up.
#[derive(Debug)]
pub(crate) struct Invocation {
    entity: &'static str,
    /// Method and path; a query may have names of people in it
    service: String,
    id: Uuid,
    began: Instant,
    is_over: bool,
}

impl Invocation {
    pub(crate) fn begin(entity: &'static str, service: String) -> Self {
        let id = Uuid::new_v4();
        tracing::info!(
            target: INVOKE,
            marker = "INVOKE",
            entity,
            service,
            invocation = %id,
        );
        Self {
            entity,
            service,
            id,
            began: Instant::now(),
            is_over: false,
        }
    }

    pub(crate) fn answered(mut self, status: StatusCode) {
        self.is_over = true;
        tracing::info!(
            target: INVOKE,
            marker = "INVOKE_RETURN",
            entity = self.entity,
            service = self.service,
            invocation = %self.id,
            code = status.as_u16(),
            elapsed_ms = self.elapsed_ms(),
        );
    }

    pub(crate) fn failed(mut self, error: &dyn fmt::Display) {
        self.end(error);
    }

    fn end(&mut self, error: &dyn fmt::Display) {
        self.is_over = true;
        tracing::warn!(
            target: INVOKE,
            marker = "INVOKE_RETURN",
            entity = self.entity,
            service = self.service,
            invocation = %self.id,
            code = 0_u16,
            elapsed_ms = self.elapsed_ms(),
            error = %error,
        );
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Drop for Invocation {
    fn drop(&mut self) {
        if !self.is_over {
            self.end(&"given up");
        }
    }
}
