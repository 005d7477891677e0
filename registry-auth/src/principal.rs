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
/// let ada = Principal::user("ada").with_roles(["Publisher"]);
/// assert_eq!(ada.to_string(), "ada");
/// assert!(ada.has_role("Publisher"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Principal {
    /// Nobody in particular
    Anonymous,
    /// A program with an account of its own, such as the platform's own builds
    Service {
        /// The account's name
        name: String,
        /// What it is, for policies to ask
        roles: Vec<String>,
    },
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
        /// What the user is, for policies to ask
        roles: Vec<String>,
    },
}

impl Principal {
    /// A user without roles
    pub fn user(name: impl Into<String>) -> Self {
        Self::User {
            name: name.into(),
            roles: Vec::new(),
        }
    }

    /// A program's account without roles
    pub fn service(name: impl Into<String>) -> Self {
        Self::Service {
            name: name.into(),
            roles: Vec::new(),
        }
    }

    /// Gives roles to a user or a service; nobody else can have any
    #[must_use]
    pub fn with_roles(mut self, given: impl IntoIterator<Item = impl Into<String>>) -> Self {
        if let Self::Service { roles, .. } | Self::User { roles, .. } = &mut self {
            roles.extend(given.into_iter().map(Into::into));
        }
        self
    }

    /// Whether it has the role of this name
    pub fn has_role(&self, role: &str) -> bool {
        match self {
            Self::Anonymous | Self::Token { .. } => false,
            Self::Service { roles, .. } | Self::User { roles, .. } => {
                roles.iter().any(|known| known == role)
            }
        }
    }

    /// The name, if there is one
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Anonymous => None,
            Self::Token { subject, .. } => subject.as_deref(),
            Self::Service { name, .. } | Self::User { name, .. } => Some(name),
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name().unwrap_or("anonymous"))
    }
}
