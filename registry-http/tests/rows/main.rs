//! Every rule of the requirements over a real socket, one test per rule and named after it
//!
//! `row_005_…` is rule 5 of the distribution specification, `row_d01_…` one of Docker's API,
//! `row_a01_…` one of authentication, `row_q01_…` a quirk of clients. Rules without a test are
//! in `NOT_APPLICABLE.md`, and [`coverage`] sees to it that each rule is in one of the two.
//!
//! The registry runs in this process, on memory. `REGISTRY_TEST_DRIVER=filesystem` runs the same
//! tests on folders.

mod bad_input;
mod behind_a_proxy;
mod concurrency;
mod coverage;
mod operators_rules;
mod rows_auth;
mod rows_delete_errors;
mod rows_docker;
mod rows_http;
mod rows_lists;
mod rows_manifests;
mod rows_pull;
mod rows_push;
mod rows_scope;
mod rows_uploads;
mod support;
