//! Who a request comes from

use std::fmt;

use crate::token::Grants;

/// The identified origin of a request
///
/// # Examples
///
/// ```
/// use registry_auth::Principal;
///
/// assert_eq!(Principal::Anonymous.name(), None);
/// assert_eq!(Principal::User { name: "ada".into() }.to_string(), "ada");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Principal {
    /// Nobody in particular
    Anonymous,
    /// The bearer of a token, which says itself what it grants
    Token {
        /// Whom the token is about, if anyone in particular
        subject: Option<String>,
        /// What it grants
        grants: Grants,
    },
    /// A user whose name an authenticator vouches for
    User {
        /// The name that the user logged in with
        name: String,
    },
}

impl Principal {
    /// The name, if there is one
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Anonymous => None,
            Self::Token { subject, .. } => subject.as_deref(),
            Self::User { name } => Some(name),
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name().unwrap_or("anonymous"))
    }
}
