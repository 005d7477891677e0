//! A platform in memory, which answers what the rules ask

use std::collections::HashSet;

use registry_auth::Decision;
use registry_auth::acumos::{
    Account, Answer, Catalog, Facts, ImageName, License, Query, Request, Revision, RevisionId,
    Right, Rules, Solution, SolutionId, UserId, Visibility,
};
use registry_core::{Action, Digest, RepositoryName, Tag, TagOrDigest};

/// Everything that is true, in the simplest form
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    pub(crate) accounts: Vec<Account>,
    pub(crate) models: Vec<Model>,
    /// Which tags of which repositories lead to a digest
    pub(crate) tags: Vec<(RepositoryName, Digest, Tag)>,
}

/// The decision with these answers, and what was asked on the way
pub(crate) fn decide(
    rules: &Rules,
    request: &Request<'_>,
    answer: impl Fn(&Query) -> Answer,
) -> (Decision, Vec<Query>) {
    let mut facts = Facts::default();
    let mut asked = Vec::new();
    loop {
        match rules.decide(request, &facts) {
            Ok(decision) => {
                let distinct: HashSet<&Query> = asked.iter().collect();
                assert_eq!(distinct.len(), asked.len(), "asked twice: {asked:?}");
                return (decision, asked);
            }
            Err(query) => {
                facts.tell(query.clone(), answer(&query)).unwrap();
                asked.push(query);
            }
        }
    }
}

/// What a user is told of a decision, without the name that the user gave
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Told {
    reason: String,
    remedy: Option<String>,
    hidden: bool,
    /// None of what is hidden: only operators are shown it
    rule: Option<String>,
}

impl Told {
    pub(crate) fn of(decision: &Decision, repository: &RepositoryName) -> Self {
        let nameless = |text: &str| text.replace(repository.as_str(), "<name>");
        Self {
            reason: nameless(decision.reason()),
            remedy: decision.remedy().map(nameless),
            hidden: decision.is_hidden(),
            rule: (!decision.is_hidden()).then(|| decision.rule().to_owned()),
        }
    }
}

/// A solution with everything that belongs to it
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) solution: Solution,
    pub(crate) co_owners: Vec<UserId>,
    pub(crate) catalogs: Vec<Catalog>,
    pub(crate) releases: Vec<Release>,
}

/// A revision with its licence and who has a right to use it
#[derive(Clone, Debug)]
pub(crate) struct Release {
    pub(crate) revision: Revision,
    pub(crate) license: License,
    pub(crate) right_of_all: bool,
    pub(crate) rights: Vec<UserId>,
}

impl World {
    /// The decision, and what was asked on the way
    pub(crate) fn decide(&self, rules: &Rules, request: &Request<'_>) -> (Decision, Vec<Query>) {
        decide(rules, request, |query| self.answer(query))
    }

    pub(crate) fn answer(&self, query: &Query) -> Answer {
        let model = |id: &SolutionId| self.models.iter().find(|model| model.solution.id == *id);
        match query {
            Query::Account(login) => Answer::Account(
                self.accounts
                    .iter()
                    .find(|account| account.login == *login)
                    .cloned(),
            ),
            Query::Catalogs(id) => Answer::Catalogs(model(id).unwrap().catalogs.clone()),
            Query::CoOwners(id) => Answer::CoOwners(model(id).unwrap().co_owners.clone()),
            Query::Claimants(name) => Answer::Claimants(
                self.models
                    .iter()
                    .filter(|model| model.images().any(|image| image.repository == *name))
                    .map(|model| model.solution.id.clone())
                    .collect(),
            ),
            Query::License(id) => Answer::License(self.release(id).license),
            Query::Revisions(id) => Answer::Revisions(
                model(id)
                    .unwrap()
                    .releases
                    .iter()
                    .map(|release| release.revision.clone())
                    .collect(),
            ),
            Query::Right(id, user) => {
                let release = self.release(id);
                Answer::Right(if release.rights.contains(user) {
                    Right::Own
                } else if release.right_of_all {
                    Right::Everyone
                } else {
                    Right::None {
                        reason: "no agreement".to_owned(),
                    }
                })
            }
            Query::Solution(id) => Answer::Solution(model(id).map(|model| model.solution.clone())),
            Query::Tags(name, digest) => Answer::Tags(
                self.tags
                    .iter()
                    .filter(|(of, to, _)| of == name && to == digest)
                    .map(|(.., tag)| tag.clone())
                    .collect(),
            ),
        }
    }

    fn release(&self, id: &RevisionId) -> &Release {
        self.models
            .iter()
            .flat_map(|model| &model.releases)
            .find(|release| release.revision.id == *id)
            .unwrap()
    }

    /// The answer by the rules as they are written for people, decided from everything that is
    /// true and nothing else: it shares no code with what it is compared to
    pub(crate) fn may(&self, co_owner_push: bool, request: &Request<'_>) -> bool {
        let Some(me) = self
            .accounts
            .iter()
            .find(|account| Some(account.login.as_str()) == request.user && account.active)
        else {
            return false;
        };
        let admin = me.roles.iter().any(|role| role == "Admin");
        let Some(repository) = request.repository else {
            return admin;
        };
        let models: Vec<&Model> = self
            .models
            .iter()
            .filter(|model| model.solution.active && model.is_named(repository))
            .collect();
        match request.action {
            Action::Pull => match request.reference {
                None => models
                    .iter()
                    .any(|model| model.is_writable(me) || model.is_seen(me)),
                Some(TagOrDigest::Tag(tag)) => self.may_pull(me, repository, tag),
                Some(TagOrDigest::Digest(digest)) => {
                    let by_id = has_id(repository);
                    (by_id && models.iter().any(|model| model.is_writable(me)))
                        || self.tags.iter().any(|(of, to, tag)| {
                            of == repository && to == digest && self.may_pull(me, repository, tag)
                        })
                }
            },
            Action::Push => {
                let mine = |model: &&&Model| {
                    model.solution.owner == me.user
                        || (co_owner_push && model.co_owners.contains(&me.user))
                };
                let (own, others): (Vec<_>, Vec<_>) = models.iter().partition(|model| mine(model));
                let well_named = |model: &&&&Model| {
                    !has_id(repository)
                        || model.default_repository() == last(repository)
                        || model.images().any(|image| image.repository == *repository)
                };
                let own: Vec<_> = own.iter().filter(well_named).collect();
                match request.reference {
                    Some(TagOrDigest::Tag(tag)) => {
                        let image = |model: &Model| {
                            model
                                .images()
                                .any(|image| image.repository == *repository && image.tag == *tag)
                        };
                        own.iter().any(|model| {
                            image(model) || (has_id(repository) && model.has_version(tag))
                        }) && !others.iter().any(|model| image(model))
                    }
                    _ => !own.is_empty(),
                }
            }
            _ => admin,
        }
    }

    /// Whether a user may know that there is something under this name: what one may write, or
    /// sees in a catalogue
    pub(crate) fn knows(&self, login: &str, repository: &RepositoryName) -> bool {
        self.accounts
            .iter()
            .filter(|account| account.login == login && account.active)
            .any(|me| {
                self.models
                    .iter()
                    .filter(|model| model.solution.active && model.is_named(repository))
                    .any(|model| model.is_writable(me) || model.is_seen(me))
            })
    }

    fn may_pull(&self, me: &Account, repository: &RepositoryName, tag: &Tag) -> bool {
        let is_image = |image: &ImageName| image.repository == *repository && image.tag == *tag;
        let models: Vec<&Model> = self
            .models
            .iter()
            .filter(|model| model.solution.active && model.is_named(repository))
            .filter(|model| has_id(repository) || model.images().any(is_image))
            .collect();
        if models.iter().filter(|model| model.is_writable(me)).count() == 1 {
            return true;
        }
        let [model] = models.as_slice() else {
            return false;
        };
        let with_image: Vec<_> = model
            .releases
            .iter()
            .filter(|release| release.revision.images.iter().any(is_image))
            .collect();
        let with_version: Vec<_> = model
            .releases
            .iter()
            .filter(|release| version_is(&release.revision, tag))
            .collect();
        let meant = if with_image.is_empty() {
            with_version
        } else {
            with_image
        };
        model.is_seen(me)
            && !meant.is_empty()
            && meant.iter().all(|release| match release.license {
                License::Free => true,
                License::Revoked => false,
                License::RightRequired | License::Unknown => {
                    release.right_of_all || release.rights.contains(&me.user)
                }
            })
    }
}

impl Model {
    /// The images of all its revisions
    pub(crate) fn images(&self) -> impl Iterator<Item = &ImageName> {
        self.releases
            .iter()
            .flat_map(|release| &release.revision.images)
    }

    fn is_named(&self, repository: &RepositoryName) -> bool {
        if has_id(repository) {
            last(repository).ends_with(&format!("_{}", self.solution.id))
        } else {
            self.images().any(|image| image.repository == *repository)
        }
    }

    fn default_repository(&self) -> String {
        // On-boarding cuts it.
        let name: String = self.solution.name.split_whitespace().collect();
        let name: String = name.to_lowercase().chars().take(100).collect();
        format!("{name}_{}", self.solution.id)
    }

    fn is_writable(&self, me: &Account) -> bool {
        self.solution.owner == me.user || self.co_owners.contains(&me.user)
    }

    fn is_seen(&self, me: &Account) -> bool {
        self.catalogs
            .iter()
            .any(|catalog| match &catalog.visibility {
                Visibility::Public => true,
                Visibility::Restricted { roles } => {
                    me.roles.iter().any(|role| roles.contains(role))
                }
            })
    }

    fn has_version(&self, tag: &Tag) -> bool {
        self.releases
            .iter()
            .any(|release| version_is(&release.revision, tag))
    }
}

fn version_is(revision: &Revision, tag: &Tag) -> bool {
    [revision.version.clone(), revision.version.to_lowercase()].contains(&tag.to_string())
}

fn last(repository: &RepositoryName) -> &str {
    repository.components().last().unwrap()
}

/// Whether a name ends in `_` and a UUID, with a model name before it
fn has_id(repository: &RepositoryName) -> bool {
    let name = last(repository);
    name.len() > 37
        && name.as_bytes()[name.len() - 37] == b'_'
        && uuid::Uuid::parse_str(&name[name.len() - 36..]).is_ok()
}
