//! What each kind of health check asks

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Uri};
use http_body_util::Empty;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::rt::TokioExecutor;
use registry_storage::Store;
use tokio::net::TcpStream;

use super::{HealthError, HttpCheck, Probe, TcpCheck, non_zero};

pub(super) fn storage(store: Store) -> Probe {
    Box::new(move || {
        let store = store.clone();
        Box::pin(async move { store.ready().await.map_err(|error| error.to_string()) })
    })
}

pub(super) fn file(file: PathBuf) -> Probe {
    let file = Arc::new(file);
    Box::new(move || {
        let file = file.clone();
        Box::pin(async move {
            // Folders hang too, when they are those of another machine.
            let found = tokio::task::spawn_blocking(move || file.try_exists());
            match found.await {
                Ok(Ok(false)) => Ok(()),
                Ok(Ok(true)) => Err("the file exists".to_owned()),
                // As in distribution, a place that cannot be looked at has no file.
                Ok(Err(_)) => Ok(()),
                Err(error) => Err(format!("the check broke: {error}")),
            }
        })
    })
}

pub(super) fn tcp(check: TcpCheck) -> Probe {
    let TcpCheck {
        addr,
        timeout,
        schedule,
    } = check;
    let timeout = non_zero(timeout, schedule.interval());
    let addr: Arc<str> = addr.into();
    Box::new(move || {
        let addr = addr.clone();
        Box::pin(in_time(timeout, async move {
            match TcpStream::connect(&*addr).await {
                Ok(_) => Ok(()),
                Err(error) => Err(format!("connection to {addr} failed: {error}")),
            }
        }))
    })
}

pub(super) fn http(
    check: HttpCheck,
    tls: Option<&rustls::ClientConfig>,
) -> Result<Probe, HealthError> {
    let uri = &check.uri;
    let host = match (uri.scheme_str(), uri.authority()) {
        (Some("http" | "https"), Some(authority)) if !authority.host().is_empty() => authority,
        _ => return Err(HealthError::Uri { uri: name(uri) }),
    };
    if host.as_str().contains('@') {
        return Err(HealthError::Credentials {
            host: host.host().to_owned(),
        });
    }
    if uri.scheme_str() == Some("http") {
        return Ok(http_through(HttpConnector::new(), check));
    }
    let tls = tls.ok_or_else(|| HealthError::Untrusting { uri: name(uri) })?;
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls.clone())
        .https_only()
        .enable_http1()
        .build();
    Ok(http_through(connector, check))
}

fn http_through<C>(connector: C, check: HttpCheck) -> Probe
where
    C: Connect + Clone + Send + Sync + 'static,
{
    let client = Client::builder(TokioExecutor::new())
        // Whether a new connection can be made is part of what is asked.
        .pool_max_idle_per_host(0)
        .build::<_, Empty<Bytes>>(connector);
    let timeout = non_zero(check.timeout, check.schedule.interval());
    let expected = if check.status == 0 { 200 } else { check.status };
    Box::new(move || {
        let client = client.clone();
        let mut request = Request::new(Empty::new());
        *request.method_mut() = Method::HEAD;
        *request.uri_mut() = check.uri.clone();
        *request.headers_mut() = check.headers.clone();
        Box::pin(in_time(timeout, async move {
            let response = client
                .request(request)
                .await
                .map_err(|error| format!("error while checking: {}", with_causes(&error)))?;
            let status = response.status().as_u16();
            if status != expected {
                return Err(format!(
                    "downstream service returned unexpected status: {status} instead of {expected}"
                ));
            }
            Ok(())
        }))
    })
}

/// A URI as the name of its check: without credentials and without a query, which may be one
pub(super) fn name(uri: &Uri) -> String {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let address = authority
        .rsplit_once('@')
        .map_or(authority, |(_, address)| address);
    let scheme = uri.scheme_str().map_or("", |scheme| scheme);
    let separator = if scheme.is_empty() { "" } else { "://" };
    format!("{scheme}{separator}{address}{}", uri.path())
}

async fn in_time(
    timeout: Duration,
    probe: impl Future<Output = Result<(), String>>,
) -> Result<(), String> {
    tokio::time::timeout(timeout, probe)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {timeout:?}")))
}

/// An error and what it came from, each said once
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
