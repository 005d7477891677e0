//! The rules of the Acumos platform: who may pull and push the image of a model
//!
//! - **Pull**: what one owns; what is open source in a catalogue that one sees; what one, or
//!   everyone, has a right to use.
//! - **Push**: to the image of a solution that one owns, `<model name>_<solution id>`, and only
//!   with the tag of one of its revisions.
//! - **Delete** and the catalogue of all repositories: administrators.
//!
//! [`Rules::decide`] does no I/O. It works on [`Facts`] and, where one is missing, gives the
//! [`Query`] for it. So it asks only for what it needs, and what counts as a use of a licence
//! last, when nothing else can decide any more.
//!
//! An [`AcumosAuthorizer`] drives it. The facts come from a [`Directory`]: a [`FileDirectory`],
//! an [`EmbeddedDirectory`], or another behind a [`CachedDirectory`]; and, which tags lead to a
//! digest, from whoever has the content ([`TagsOf`]). A [`DirectoryAuthenticator`] knows the users
//! of a file or an embedded database by their passwords.
//! With the feature `acumos-services`, `AcumosServices` answers by asking the services of the
//! platform, and `CdsAuthenticator` knows its users.
//!
//! # Examples
//!
//! ```
//! use registry_auth::acumos::{Account, Answer, Facts, Query, Request, Rules, Solution, UserId};
//! use registry_core::Action;
//!
//! let name = "iris_9d294c20-7b1f-4ab7-b8b3-03bc7f069ac1".parse()?;
//! let request = Request { user: Some("ada"), action: Action::Push, repository: Some(&name), reference: None };
//! let mut facts = Facts::default();
//! let decision = loop {
//!     match Rules::default().decide(&request, &facts) {
//!         Ok(decision) => break decision,
//!         // A directory answers here.
//!         Err(query) => {
//!             let answer = match &query {
//!                 Query::Account(login) => Answer::Account(Some(Account {
//!                     user: UserId::new("u1"),
//!                     login: login.clone(),
//!                     active: true,
//!                     roles: Vec::new(),
//!                 })),
//!                 Query::Solution(id) => Answer::Solution(Some(Solution {
//!                     id: id.clone(),
//!                     name: "Iris".to_owned(),
//!                     owner: UserId::new("u1"),
//!                     active: true,
//!                 })),
//!                 other => unreachable!("an owner's push to the right name needs no {other}"),
//!             };
//!             facts.tell(query, answer)?;
//!         }
//!     }
//! };
//! assert!(decision.is_allow());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod accounts;
mod authorizer;
#[cfg(feature = "acumos-services")]
mod cds;
#[cfg(feature = "acumos-services")]
mod client;
mod directory;
mod embedded;
mod facts;
mod file;
#[cfg(feature = "acumos-services")]
mod login;
#[cfg(feature = "acumos-services")]
mod lum;
mod names;
mod passwords;
mod records;
mod remedy;
mod rules;
#[cfg(feature = "acumos-services")]
mod services;
mod words;

#[cfg(feature = "acumos-services")]
pub use cds::{Cds, Generation};
#[cfg(feature = "acumos-services")]
pub use client::{Endpoint, EndpointError, ServiceError};

pub use accounts::DirectoryAccounts;
pub use authorizer::{AcumosAuthorizer, AuthorizerOptions, TagsOf};
pub use directory::{CacheOptions, CachedDirectory, Directory, DirectoryError};
pub use embedded::{EmbeddedDirectory, EmbeddedError, RightHolder};
pub use facts::{
    Account, Answer, Catalog, Facts, License, MismatchedAnswer, Query, Revision, RevisionId, Right,
    Solution, UserId, Visibility,
};
pub use file::{FileDirectory, FileDirectoryError};
#[cfg(feature = "acumos-services")]
pub use login::{CdsAuthenticator, LoginOptions, Secrets};
#[cfg(feature = "acumos-services")]
pub use lum::Lum;
pub use names::{ImageName, SolutionId, SolutionIdError};
pub use passwords::{
    DirectoryAuthenticator, Login, NoKey, PasswordHash, PasswordHashError, Passwords,
};
pub use records::{
    AccountRecord, CatalogRecord, LicenseRecord, Records, RecordsError, RevisionRecord,
    SolutionRecord,
};
pub use rules::{Request, Rules};
#[cfg(feature = "acumos-services")]
pub use services::AcumosServices;
