//! The question who may do what, from a command line, and its answer

use registry_auth::{Access, Action, Authorizer, Explanation, Principal, Resource};
use registry_core::{Digest, RepositoryName, Tag};

/// The arguments that say who wants to do what, for any program that explains decisions
///
/// # Examples
///
/// ```
/// use clap::Parser;
/// use registry_auth::AllowAll;
/// use registry_examples::explain::Question;
///
/// #[derive(Parser)]
/// struct Arguments {
///     #[command(flatten)]
///     question: Question,
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), String> {
/// let arguments = Arguments::parse_from(["explain", "--user", "ada", "--repo", "team/app"]);
/// let answer = arguments.question.ask(&AllowAll).await?;
/// assert!(answer.allow);
/// assert!(answer.text.starts_with("who:     user ada\n"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, clap::Args)]
pub struct Question {
    /// Who; without one, someone who is not logged in
    #[arg(long)]
    pub user: Option<String>,
    /// A role of the user; may be given several times
    #[arg(long, value_name = "ROLE", requires = "user")]
    pub role: Vec<String>,
    /// Does what: pull, push or delete; without a repository, list all of them
    #[arg(long, value_enum, default_value_t = ExplainAction::Pull)]
    pub action: ExplainAction,
    /// In which repository
    #[arg(long, value_name = "NAME")]
    pub repo: Option<RepositoryName>,
    /// Of which tag
    #[arg(long, requires = "repo", conflicts_with = "digest")]
    pub tag: Option<Tag>,
    /// Of which content
    #[arg(long, requires = "repo")]
    pub digest: Option<Digest>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What one may want to do in a repository
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ExplainAction {
    /// Delete from it
    Delete,
    /// Pull from it
    Pull,
    /// Push to it
    Push,
}

/// What is said of a [`Question`]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainAnswer {
    /// Whether it is allowed
    pub allow: bool,
    /// The derivation, for people or as JSON, with the end of its last line
    pub text: String,
}

impl Question {
    /// Asks, and writes down the answer
    ///
    /// # Errors
    ///
    /// Why it cannot be decided, for the operator.
    pub async fn ask(&self, authorizer: &dyn Authorizer) -> Result<ExplainAnswer, String> {
        let principal = match &self.user {
            Some(user) => Principal::user(user).with_roles(self.role.iter().cloned()),
            None => Principal::Anonymous,
        };
        let access = self.access();
        let decision = authorizer
            .authorize(&principal, &access)
            .await
            .map_err(|error| format!("{error} ({})", error.cause))?;
        let explanation = Explanation::new(&principal, &access, &decision);
        let text = match self.json {
            true => {
                serde_json::to_string_pretty(&explanation).map_err(|error| error.to_string())?
            }
            false => explanation.to_string(),
        };
        Ok(ExplainAnswer {
            allow: decision.is_allow(),
            text: format!("{}\n", text.trim_end()),
        })
    }

    fn access(&self) -> Access {
        let reference = match (&self.tag, &self.digest) {
            (Some(tag), _) => Some(tag.clone().into()),
            (None, digest) => (*digest).map(Into::into),
        };
        match &self.repo {
            Some(name) => Access {
                resource: Resource::Repository(name.clone()),
                action: match self.action {
                    ExplainAction::Delete => Action::Delete,
                    ExplainAction::Pull => Action::Pull,
                    ExplainAction::Push => Action::Push,
                },
                reference,
            },
            None => Access {
                resource: Resource::Catalog,
                action: Action::All,
                reference: None,
            },
        }
    }
}
