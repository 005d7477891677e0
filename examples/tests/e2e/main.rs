//! The registry binary end to end: real clients, the reference registry, and kill -9
//!
//! Tests that need a client say `SKIPPED` where it is not installed, and what to do. With
//! `REGISTRY_E2E=required` in the environment, as in `.ci/run`, a missing client is a failure.

mod access;
mod acumos;
mod auth_request;
mod clients;
mod configs;
mod copy;
mod crash;
mod deploy;
mod distribution;
mod docker_proxy;
mod engines;
mod flood;
mod large;
mod large_s3;
mod nginx;
mod operations;
mod redirect;
mod replicas;
mod s3;
mod s3_distribution;
mod scrape;
mod secrets;
mod support;
mod tls;
mod token_clients;
mod tokens;
mod webhooks;
