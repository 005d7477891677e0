//! What can go wrong between the proxy and its upstream, in words for the client

use std::error::Error;
use std::time::Duration;

use http::StatusCode;
use registry_core::ErrorCode;

/// What the log says of it and the client is not told
pub(crate) type Source = Box<dyn Error + Send + Sync>;

/// Why the upstream gave no answer that can be passed on
///
/// The text is for the client: it names neither the upstream nor anything of it. The source is for
/// the log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    #[error("the registry behind this proxy broke its answer off; try again")]
    Broken(#[source] Source),
    #[error("this proxy has as many requests under way as it takes; try again")]
    Busy,
    #[error(
        "the registry behind this proxy does not accept its credentials; tell the proxy's operator"
    )]
    Credentials(#[source] Source),
    #[error(
        "the registry behind this proxy does not let it do this; tell the proxy's operator, whose account there needs the right"
    )]
    Forbidden(#[source] Source),
    #[error("the registry behind this proxy gave no registry's answer; tell the proxy's operator")]
    NotARegistry(#[source] Source),
    #[error(
        "the registry behind this proxy sends to a place where this proxy does not go; tell the proxy's operator"
    )]
    Elsewhere(#[source] Source),
    /// The credentials were renewed, and the content cannot be sent again from here
    #[error("the proxy had to log in to the registry behind it anew; send the request again")]
    LoggedInAnew,
    #[error("the registry behind this proxy has a failure of its own; try again later")]
    Status {
        status: StatusCode,
        retry_after: Option<Duration>,
    },
    #[error("the registry behind this proxy does not answer in time; try again later")]
    TimedOut(#[source] Source),
    #[error("the registry behind this proxy cannot be reached; try again later")]
    Unreachable(#[source] Source),
}

impl UpstreamError {
    pub(crate) fn verdict(&self) -> (StatusCode, ErrorCode) {
        let status = match self {
            Self::Busy | Self::LoggedInAnew => StatusCode::SERVICE_UNAVAILABLE,
            Self::Status { status, .. } => match *status {
                StatusCode::TOO_MANY_REQUESTS => {
                    return (StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooManyRequests);
                }
                StatusCode::SERVICE_UNAVAILABLE => StatusCode::SERVICE_UNAVAILABLE,
                StatusCode::GATEWAY_TIMEOUT => StatusCode::GATEWAY_TIMEOUT,
                // What there is no room for stays so when it is sent again.
                StatusCode::INSUFFICIENT_STORAGE => StatusCode::INSUFFICIENT_STORAGE,
                _ => StatusCode::BAD_GATEWAY,
            },
            Self::TimedOut(_) => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::BAD_GATEWAY,
        };
        (status, ErrorCode::Unavailable)
    }

    /// When the upstream said to come back
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            Self::LoggedInAnew => Some(Duration::from_secs(1)),
            _ => None,
        }
    }
}

/// All that an error says, with its causes
pub(crate) fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let cause = error.to_string();
        // Some errors repeat their cause.
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        next = error.source();
    }
    text
}
