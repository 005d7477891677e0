//! The rules that do not apply here, and why
//!
//! The rules of the OCI distribution specification (numbers) and of what docker clients expect
//! beyond it (`D` for Docker's API, `A` for authentication, `Q` for quirks) are numbered. Each
//! has a test of this crate that is named after its number, except these:
//!
//! | rule | about | why there is no test of it here |
//! |---|---|---|
//! | 4 | any request may be redirected | a permission; this registry serves all content itself and never redirects |
//! | 7 | legacy codes | `MANIFEST_UNVERIFIED` is about signatures of schema 1 manifests, which are refused as a whole; `TAG_INVALID` is in use (rule 10) |
//! | 18 | what clients send with and check on a manifest | binds clients |
//! | 32 | form of the upload location | a permission; the location is a path on this server and needs no parameters (rule Q1) |
//! | 36 | single `POST` where it is not supported | it is supported (rule 35) |
//! | 39 | the `POST` that starts a chunked upload has no body | binds clients; a body that comes all the same is read and dropped |
//! | 40 | `OCI-Chunk-Min-Length` | chunks may have any size, so there is nothing to announce |
//! | 49 | unfinished uploads time out | the store ends a session after a week; its crate tests that with a clock of its own |
//! | 89 | deletion may be disabled | a permission; what a registry without deletion answers is tested with rules 90 to 92 |
//! | 95 | `OCI-Namespace` | `ns` is read over (rule 94), so it never scopes a response |
//! | 96 | upstream credentials | binds clients of a proxy |
//! | 100 | `Retry-After` on 429 | nothing here limits rates; 503 has the header |
//! | 101 | `Warning` | none is ever sent |
//! | D13 | redirects to storage | a permission, see rule 4 |
//! | A3 | Basic cannot mix anonymous pull and authenticated push for docker | a consequence of rule A2 in clients; which scheme to use is the authenticator's choice |
//! | A4 | `docker login` | the part of `/v2/` is rule A2; what a password is worth is the authenticator's to say |
//! | A5 to A9 | token service | requests and scopes of a token service, which is not part of this crate |
//! | A11 | JSON web tokens | checked by authenticators; this crate passes a bearer token on as it came |
//! | A12 | 401 or 403 for a bad token | the challenge is the authenticator's, with `error=` in it or not; known users are denied with 403 (rule A10) |
//! | A13 | realm | the authenticator's, which is set up with it |
//! | Q11 | which failures clients retry | binds clients; the statuses are in the table of errors |
//!
//! Rule Q15 applies but for its second half: this crate is no backend for nginx's
//! `auth_request`.
