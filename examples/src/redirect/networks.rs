//! The networks of Amazon, as Amazon tells them

use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use ipnet::{Ipv4Net, Ipv6Net};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;

use crate::compose::{self, ComposeError};
use crate::config;

/// How long the document may take
const TIMEOUT: Duration = Duration::from_secs(30);

/// The largest document that is read; Amazon's has some 2 MiB
const LARGEST: usize = 32 * 1024 * 1024;

/// How soon a document is asked for again that could not be had
const AGAIN: Duration = Duration::from_secs(60);

/// The networks of some regions, or of all; none until they were read
#[derive(Debug)]
pub(super) struct Networks {
    regions: Vec<String>,
    url: config::Url,
    uri: Uri,
    update: Duration,
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    read: ArcSwap<Sorted>,
}

/// Networks that do not overlap, in order
#[derive(Debug, Default)]
struct Sorted {
    v4: Vec<Ipv4Net>,
    v6: Vec<Ipv6Net>,
}

/// The document, as far as it matters here
#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    prefixes: Vec<Prefix>,
    #[serde(default)]
    ipv6_prefixes: Vec<Prefix6>,
}

#[derive(Deserialize)]
struct Prefix {
    ip_prefix: String,
    region: String,
}

#[derive(Deserialize)]
struct Prefix6 {
    ipv6_prefix: String,
    region: String,
}

impl Networks {
    /// Reads nothing yet: see [`Networks::run`]
    pub(super) fn new(direct: &config::Direct) -> Result<Self, ComposeError> {
        let config::Direct {
            regions,
            ranges,
            update,
        } = direct;
        let wrong = |problem: &dyn Display| ComposeError::new("iprangesurl", problem);
        let uri: Uri = ranges.expose().parse().map_err(|error| wrong(&error))?;
        let tls = match uri.scheme_str() {
            Some("https") => compose::trusted_by_the_system()
                .map_err(|error| error.moved("health.http", "iprangesurl"))?,
            _ => trusting_nobody().map_err(|error| wrong(&error))?,
        };
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new())
            // Half a day later no connection is there any more.
            .pool_max_idle_per_host(0)
            .build(connector);
        Ok(Self {
            regions: regions.clone(),
            url: ranges.clone(),
            uri,
            update: *update,
            client,
            read: ArcSwap::default(),
        })
    }

    /// Whether an address is in one of them
    pub(super) fn contain(&self, address: IpAddr) -> bool {
        let read = self.read.load();
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let after = read.v4.partition_point(|net| net.network() <= address);
                read.v4[..after]
                    .last()
                    .is_some_and(|net| net.contains(&address))
            }
            IpAddr::V6(address) => {
                let after = read.v6.partition_point(|net| net.network() <= address);
                read.v6[..after]
                    .last()
                    .is_some_and(|net| net.contains(&address))
            }
        }
    }

    /// Reads the document, again and again
    ///
    /// What was read stays in force until it can be read again.
    pub(super) async fn run(&self) {
        loop {
            let pause = match self.read().await {
                Ok(networks) => {
                    tracing::debug!(networks, "the networks of {} were read", self.url);
                    self.update
                }
                Err(error) => {
                    tracing::warn!(
                        "`iprangesurl`: the networks of {} cannot be read: {error}; what was \
                         read before is in force",
                        self.url
                    );
                    self.update.min(AGAIN)
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Reads the document once, and says how many networks it has
    pub(super) async fn read(&self) -> Result<usize, String> {
        let body = tokio::time::timeout(TIMEOUT, self.fetch())
            .await
            .map_err(|_| format!("no answer within {} s", TIMEOUT.as_secs()))??;
        let document: Document = serde_json::from_slice(&body)
            .map_err(|error| format!("expected Amazon's `ip-ranges.json`: {error}"))?;
        let sorted = self.sort(document);
        let networks = sorted.v4.len() + sorted.v6.len();
        if networks == 0 {
            return Err("it has no network of the regions".to_owned());
        }
        self.read.store(Arc::new(sorted));
        Ok(networks)
    }

    async fn fetch(&self) -> Result<Bytes, String> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = self.uri.clone();
        let response = self
            .client
            .request(request)
            .await
            .map_err(|error| error.to_string())?;
        if response.status() != StatusCode::OK {
            return Err(format!("expected status 200, got {}", response.status()));
        }
        let body = Limited::new(response.into_body(), LARGEST).collect().await;
        Ok(body.map_err(|error| error.to_string())?.to_bytes())
    }

    fn sort(&self, document: Document) -> Sorted {
        let is_meant = |region: &str| {
            let mut regions = self.regions.iter();
            self.regions.is_empty() || regions.any(|meant| meant.eq_ignore_ascii_case(region))
        };
        let v4: Vec<Ipv4Net> = document
            .prefixes
            .iter()
            .filter(|prefix| is_meant(&prefix.region))
            .filter_map(|prefix| prefix.ip_prefix.parse().ok())
            .collect();
        let v6: Vec<Ipv6Net> = document
            .ipv6_prefixes
            .iter()
            .filter(|prefix| is_meant(&prefix.region))
            .filter_map(|prefix| prefix.ipv6_prefix.parse().ok())
            .collect();
        let (mut v4, mut v6) = (Ipv4Net::aggregate(&v4), Ipv6Net::aggregate(&v6));
        v4.sort_unstable();
        v6.sort_unstable();
        Sorted { v4, v6 }
    }
}

/// For documents in clear text
fn trusting_nobody() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth())
}
