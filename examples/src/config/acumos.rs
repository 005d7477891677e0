//! `registry.access.acumos`: the rules of the Acumos platform, and where their facts are

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use registry_auth::acumos::{
    AuthorizerOptions, CacheOptions, Generation, LoginOptions, Rules, Secrets,
};
use registry_core::Action;

use super::render::Out;
use super::secret::HIDDEN;
use super::section::Section;
use super::value::Problem;
use super::{Secret, Url};

/// `registry.access.acumos`: who may do what is decided by the rules of the platform
///
/// # Examples
///
/// ```
/// use registry_examples::config::acumos::Source;
/// use registry_examples::config::{Acumos, Config};
///
/// let (config, _) = Config::from_yaml(
///     "{version: 0.1, storage: inmemory, registry: {access: {acumos: {file: /etc/platform.yml}}}}",
/// )?;
/// assert_eq!(
///     config.registry.acumos,
///     Some(Acumos::new(Source::File("/etc/platform.yml".into()))),
/// );
/// # Ok::<(), registry_examples::config::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acumos {
    /// Where the facts are
    pub source: Source,
    /// What of the rules can be chosen
    pub rules: Rules,
    /// For how long facts are remembered
    pub cache: CacheOptions,
    /// How long a decision may take, and what service accounts may do
    pub options: AuthorizerOptions,
    /// How the platform's users log in, if they do so here
    pub login: Option<Login>,
}

impl Acumos {
    /// The rules with facts from `source` and everything else as it is by default; nobody logs
    /// in by it
    pub fn new(source: Source) -> Self {
        Self {
            source,
            rules: Rules::default(),
            cache: CacheOptions::default(),
            options: AuthorizerOptions::default(),
            login: None,
        }
    }
}

/// Where the facts about the platform are
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In an embedded database
    Database(PathBuf),
    /// In a YAML file
    File(PathBuf),
    /// In the services of the platform
    Services(Box<Services>),
}

/// The services of the platform
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Services {
    /// The common data service: accounts, solutions, catalogues
    pub cds: Cds,
    /// The license usage manager; without one nothing is open source, and the rights to use are
    /// those that CDS had before 3.1
    pub lum: Option<Lum>,
    /// How long a request to one of them may take; 5 s, for they answer in milliseconds and a
    /// client waits
    pub timeout: Duration,
}

impl Services {
    /// CDS at this URL, without credentials and without LUM
    pub fn new(cds: Url) -> Self {
        Self {
            cds: Cds {
                url: cds,
                credentials: None,
                ca_file: None,
                generation: None,
            },
            lum: None,
            timeout: Duration::from_secs(5),
        }
    }
}

/// The common data service
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cds {
    /// Where it is, such as `http://cds-service:8000/ccds`
    pub url: Url,
    /// The account of this service there
    pub credentials: Option<Credentials>,
    /// The authorities (PEM) that it is trusted by; the system's without it
    pub ca_file: Option<PathBuf>,
    /// What it is like; asked of it without this
    pub generation: Option<Generation>,
}

/// The name and password of this service at another
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The name
    pub user: String,
    /// The password
    pub password: Secret,
}

/// The license usage manager
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lum {
    /// Where it is, such as `http://lum-server:2080`
    pub url: Url,
    /// The authorities (PEM) that it is trusted by; the system's without it
    pub ca_file: Option<PathBuf>,
    /// Which installation of the platform uses are recorded for; LUM's default without it
    pub instance: Option<String>,
}

/// How the platform's users log in
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// What the challenge calls this registry
    pub realm: String,
    /// What is taken as a password, and for how long an answer is remembered
    pub options: LoginOptions,
}

/// The account that CDS is delivered with
const CDS_USER: &str = "ccds_client";

/// Reads `acumos` under `access`, and `acumos` under `auth`
pub(super) fn read(access: &Section<'_>, auth: &Section<'_>) -> Result<Option<Acumos>, Problem> {
    let section = access.section("acumos");
    let login = login(&auth.section("acumos"))?;
    if section.node.is_none() {
        return match login {
            Some(_) => Err(auth.problem(
                "acumos",
                format!(
                    "expected `{}`, which says where the platform's users are",
                    section.path
                ),
            )),
            None => Ok(None),
        };
    }
    let mut acumos = Acumos::new(source(&section)?);
    acumos.login = login;
    if let Some(role) = section.text("adminrole")? {
        acumos.rules = acumos.rules.with_admin_role(role);
    }
    if let Some(may) = section.flag("coownerpush")? {
        acumos.rules = acumos.rules.with_co_owner_push(may);
    }
    if let Some(timeout) = section.interval("timeout")? {
        acumos.options.timeout = timeout;
    }
    let cache = section.section("cache");
    let kept = &mut acumos.cache;
    for (key, time) in [
        ("account", &mut kept.account),
        ("solution", &mut kept.solution),
        ("revisions", &mut kept.revisions),
        ("right", &mut kept.right),
        ("negative", &mut kept.negative),
    ] {
        // Zero is a time here: nothing is remembered.
        if let Some(duration) = cache.duration(key)? {
            *time = duration;
        }
    }
    kept.honour_for = cache.interval("honour")?;
    let services = section.section("serviceaccounts");
    if let Some(role) = services.text("role")? {
        acumos.options.service_role = role;
    }
    acumos.options.service_names = services.texts("names")?;
    if services.node("actions").is_some() {
        acumos.options.service_actions = services
            .texts("actions")?
            .iter()
            .map(|name| {
                action(name).ok_or_else(|| {
                    services.problem(
                        "actions",
                        format!(
                            "expected `pull`, `push`, `delete` or `catalog`, got `{}`",
                            name.escape_debug()
                        ),
                    )
                })
            })
            .collect::<Result<_, _>>()?;
    }
    Ok(Some(acumos))
}

/// The actions of service accounts as they are written
pub(super) const ACTIONS: [(&str, Action); 4] = [
    ("pull", Action::Pull),
    ("push", Action::Push),
    ("delete", Action::Delete),
    ("catalog", Action::All),
];

fn action(name: &str) -> Option<Action> {
    let mut known = ACTIONS.into_iter();
    known.find_map(|(known, action)| (known == name).then_some(action))
}

fn source(section: &Section<'_>) -> Result<Source, Problem> {
    const WHERE: &str = "expected one of `file`, `database` and `services`, which says where the \
                         facts about the platform are";
    let file = section.text("file")?;
    let database = section.text("database")?;
    let services = section.section("services");
    match (file, database, services.node) {
        (Some(path), None, None) => Ok(Source::File(path.into())),
        (None, Some(path), None) => Ok(Source::Database(path.into())),
        (None, None, Some(_)) => self::services(&services)
            .map(Box::new)
            .map(Source::Services),
        (None, None, None) => Err(Problem {
            origin: section.origin("file"),
            text: format!("`{}`: {WHERE}, got none", section.path),
        }),
        _ => Err(Problem {
            origin: section.origin("file"),
            text: format!("`{}`: {WHERE}, got several", section.path),
        }),
    }
}

fn services(section: &Section<'_>) -> Result<Services, Problem> {
    let cds = section.section("cds");
    section.needed("cds", cds.node)?;
    let url = cds.url("url")?;
    let mut services = Services::new(cds.needed("url", url)?);
    services.cds.credentials = credentials(&cds)?;
    services.cds.ca_file = cds.text("cafile")?.map(PathBuf::from);
    services.cds.generation = cds
        .text("version")?
        .map(|version| {
            Generation::of_version(&version).ok_or_else(|| {
                cds.problem(
                    "version",
                    format!(
                        "expected the version of CDS, such as `2.2` or `3.1.1`, got `{}`",
                        version.escape_debug()
                    ),
                )
            })
        })
        .transpose()?;
    let lum = section.section("lum");
    if lum.node.is_some() {
        let url = lum.url("url")?;
        services.lum = Some(Lum {
            url: lum.needed("url", url)?,
            ca_file: lum.text("cafile")?.map(PathBuf::from),
            instance: lum.text("instance")?,
        });
    }
    if let Some(timeout) = section.interval("timeout")? {
        services.timeout = timeout;
    }
    Ok(services)
}

fn credentials(section: &Section<'_>) -> Result<Option<Credentials>, Problem> {
    let user = section.text("user")?;
    let password = match (section.text("password")?, section.text("passwordfile")?) {
        (Some(_), Some(_)) => {
            return Err(section.problem(
                "passwordfile",
                "expected one of `password` and `passwordfile`, got both",
            ));
        }
        (Some(text), None) => Some(Secret::Text(text)),
        (None, Some(path)) => Some(Secret::File(path.into())),
        (None, None) => None,
    };
    match (user, password) {
        (user, Some(password)) => Ok(Some(Credentials {
            user: user.unwrap_or_else(|| CDS_USER.to_owned()),
            password,
        })),
        (Some(_), None) => {
            Err(section.problem("user", "expected `password` or `passwordfile` too"))
        }
        (None, None) => Ok(None),
    }
}

pub(super) fn login(section: &Section<'_>) -> Result<Option<Login>, Problem> {
    if section.node.is_none() {
        return Ok(None);
    }
    let mut options = LoginOptions::default();
    if let Some(secrets) = section.text("secrets")? {
        options.secrets = match secrets.to_ascii_lowercase().as_str() {
            "password" => Secrets::Password,
            "token" => Secrets::Token,
            _ => Secrets::Both,
        };
    }
    if let Some(remember) = section.interval("remember")? {
        options.remember = remember;
    }
    if let Some(attempts) = section
        .times("attempts")?
        .and_then(|attempts| NonZeroUsize::new(usize::try_from(attempts).unwrap_or(usize::MAX)))
    {
        options.wrong_attempts = attempts;
    }
    if let Some(block) = section.interval("block")? {
        options.block = block;
    }
    Ok(Some(Login {
        realm: section
            .text("realm")?
            .unwrap_or_else(|| "Acumos".to_owned()),
        options,
    }))
}

/// What stands under `access.acumos`
pub(super) fn access(acumos: &Acumos) -> Out {
    let Acumos {
        source,
        rules,
        cache,
        options,
        login: _,
    } = acumos;
    let (file, database, services) = match source {
        Source::Database(path) => (None, Some(Out::path(path)), None),
        Source::File(path) => (Some(Out::path(path)), None, None),
        Source::Services(services) => (None, None, Some(services_out(services))),
    };
    let actions = ACTIONS
        .iter()
        .filter(|(_, action)| options.service_actions.contains(action))
        .map(|(name, _)| Out::text(*name));
    Out::some([
        ("file", file),
        ("database", database),
        ("services", services),
        (
            "cache",
            Some(Out::some([
                ("account", Some(Out::duration(cache.account))),
                ("solution", Some(Out::duration(cache.solution))),
                ("revisions", Some(Out::duration(cache.revisions))),
                ("right", Some(Out::duration(cache.right))),
                ("negative", Some(Out::duration(cache.negative))),
                ("honour", cache.honour_for.map(Out::duration)),
            ])),
        ),
        ("timeout", Some(Out::duration(options.timeout))),
        ("adminrole", Some(Out::text(&rules.admin_role))),
        ("coownerpush", Some(Out::Flag(rules.co_owner_push))),
        (
            "serviceaccounts",
            Some(Out::map([
                ("role", Out::text(&options.service_role)),
                ("names", Out::texts(&options.service_names)),
                ("actions", Out::List(actions.collect())),
            ])),
        ),
    ])
}

fn services_out(services: &Services) -> Out {
    let Services { cds, lum, timeout } = services;
    let credentials = cds.credentials.as_ref();
    let password = credentials.map(|credentials| match &credentials.password {
        Secret::File(path) => ("passwordfile", Out::path(path)),
        Secret::Text(_) => ("password", Out::text(HIDDEN)),
    });
    let (key, password) = match password {
        Some((key, password)) => (key, Some(password)),
        None => ("password", None),
    };
    let cds = Out::some([
        ("url", Some(Out::text(cds.url.to_string()))),
        (
            "user",
            credentials.map(|credentials| Out::text(&credentials.user)),
        ),
        (key, password),
        ("cafile", cds.ca_file.as_deref().map(Out::path)),
        (
            "version",
            cds.generation.map(|generation| match generation {
                Generation::RightsInCds => Out::text("2.2"),
                Generation::RightsInLum => Out::text("3.1"),
            }),
        ),
    ]);
    let lum = lum.as_ref().map(|lum| {
        Out::some([
            ("url", Some(Out::text(lum.url.to_string()))),
            ("cafile", lum.ca_file.as_deref().map(Out::path)),
            ("instance", lum.instance.as_ref().map(Out::text)),
        ])
    });
    Out::some([
        ("cds", Some(cds)),
        ("lum", lum),
        ("timeout", Some(Out::duration(*timeout))),
    ])
}

/// What stands under `auth.acumos`
pub(super) fn auth(acumos: &Acumos) -> Option<Out> {
    let Login { realm, options } = acumos.login.as_ref()?;
    Some(Out::map([
        ("realm", Out::text(realm)),
        (
            "secrets",
            Out::text(match options.secrets {
                Secrets::Both => "both",
                Secrets::Password => "password",
                Secrets::Token => "token",
            }),
        ),
        ("remember", Out::duration(options.remember)),
        ("block", Out::duration(options.block)),
        ("attempts", Out::number(options.wrong_attempts.get() as u64)),
    ]))
}
