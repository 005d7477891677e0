//! The table of keys of `docker-proxy`

use super::super::keys::{Fate, Key, Kind};

use Fate::{Differently, Honoured};
use Kind::{Choice, Duration, Flag, Headers, Number, Text, Texts};

const fn key(path: &'static str, kind: Kind) -> Key {
    Key {
        path,
        kind,
        fate: Honoured,
    }
}

/// Every key that is known
pub(super) const KEYS: &[Key] = &[
    Key {
        path: "listen",
        kind: Text,
        fate: Differently("`:30883` without it, and without `tls` `127.0.0.1:30883`"),
    },
    key("host", Text),
    key("tls.{certificate,key}", Text),
    key("tls.letsencrypt.{cachefile,email,directoryurl}", Text),
    key("tls.letsencrypt.hosts", Texts),
    key("tls.{clientcas,ciphersuites}", Texts),
    key(
        "tls.clientauth",
        Choice(&[
            "verify-client-cert-if-given",
            "require-and-verify-client-cert",
        ]),
    ),
    key("tls.minimumtls", Choice(&["tls1.2", "tls1.3"])),
    key("upstream.{url,user,password,passwordfile,cafile}", Text),
    key("upstream.redirects", Choice(&["pass", "follow"])),
    key("upstream.{realms,storage}", Texts),
    key("upstream.timeouts.{connect,answer,commit,idle}", Duration),
    key("embedded", Text),
    key("htpasswd.{path,realm}", Text),
    key("serviceaccounts[].{name,password,passwordfile}", Text),
    key(
        "certificates.name",
        Choice(&["commonname", "dns", "email", "uri"]),
    ),
    key("certificates.kind", Choice(&["user", "service"])),
    key("certificates.rolesfromunits", Flag),
    key("audit", Text),
    key("acumos.{file,database,adminrole}", Text),
    key("acumos.coownerpush", Flag),
    key("acumos.timeout", Duration),
    key(
        "acumos.services.cds.{url,user,password,passwordfile,cafile,version}",
        Text,
    ),
    key("acumos.services.lum.{url,cafile,instance}", Text),
    key("acumos.services.timeout", Duration),
    key(
        "acumos.cache.{account,solution,revisions,right,negative,honour}",
        Duration,
    ),
    key("acumos.login.realm", Text),
    key(
        "acumos.login.secrets",
        Choice(&["both", "password", "token"]),
    ),
    key("acumos.login.attempts", Number),
    key("acumos.login.{remember,block}", Duration),
    key("acumos.serviceaccounts.role", Text),
    key("acumos.serviceaccounts.{names,actions}", Texts),
    key("hide", Flag),
    key("limits.{requests,connections}", Number),
    key("limits.{users,addresses}.{requests,failures,pulls}", Text),
    key("sessions.{secret,secretfile}", Text),
    key("trustedproxies", Texts),
    key("tokens.services", Texts),
    key(
        "tokens.{realm,key,issuer,certificates,formerkeys,path,keyspath}",
        Text,
    ),
    key("tokens.{lifetime,refreshlifetime}", Duration),
    key("authrequest.path", Text),
    key("authrequest.peers", Texts),
    key("logs.directory", Text),
    key("logs.level", LEVELS),
    key("logs.format", Choice(&["boreas", "athena"])),
    key("logs.access", Flag),
    key(
        "logs.console",
        Choice(&["off", "error", "warn", "info", "debug"]),
    ),
    key("logs.{keep,maxbytes}", Number),
    key("debug.addr", Text),
    key("debug.prometheus.enabled", Flag),
    key("debug.prometheus.path", Text),
    key("health.file[].file", Text),
    key("health.http[].uri", Text),
    key("health.http[].headers", Headers),
    key("health.http[].statuscode", Number),
    key("health.tcp[].addr", Text),
    key("health.{file,http,tcp}[].interval", Duration),
    key("health.{file,http,tcp}[].threshold", Number),
    key("health.{http,tcp}[].timeout", Duration),
    key("reload.interval", Duration),
    key("{draindelay,draintimeout}", Duration),
];

const LEVELS: Kind = Choice(&["error", "warn", "info", "debug"]);
