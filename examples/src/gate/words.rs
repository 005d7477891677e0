//! Who is let in, for people

use crate::acumos;
use crate::compose::whole;
use crate::config::{Auth, ClientAuth, Config, Programs};

/// Who is let in, for people, and by what is decided; a line each
pub fn describe(config: &Config) -> Vec<String> {
    let own = &config.registry;
    let mut lines = vec![let_in(config)];
    let tls = config.http.tls.as_ref();
    if let Some(tls) = tls.filter(|tls| matches!(tls.client_auth, ClientAuth::Required)) {
        let authorities = paths(&tls.client_cas);
        lines.push(format!(
            "only over connections with a certificate signed by {authorities}"
        ));
    }
    if let Some(rules) = &own.access_rules {
        lines.push(format!("by the rules in {}", whole(rules)));
    }
    lines.extend(own.acumos.as_ref().map(acumos::describe));
    lines.extend(
        own.tokens
            .as_ref()
            .map(|tokens| format!("issuing tokens at {} as {}", tokens.path, tokens.issuer)),
    );
    lines
}

fn let_in(config: &Config) -> String {
    let own = &config.registry;
    let mut who = Vec::new();
    match &config.auth {
        Auth::None => {}
        // Whatever else there is, this lets everyone in.
        Auth::Silly { .. } => {
            return "open to everyone who sends an `Authorization` header, whatever is in it"
                .to_owned();
        }
        Auth::Htpasswd { path, .. } => who.push(format!("the users in {}", whole(path))),
        Auth::Token(token) => who.push(format!("those with a token of {}", token.realm)),
    }
    if own
        .acumos
        .as_ref()
        .is_some_and(|acumos| acumos.login.is_some())
    {
        who.push("the users of the platform".to_owned());
    }
    match &own.accounts {
        None => {}
        Some(Programs::File { path, .. }) => {
            who.push(format!("the programs in {}", whole(path)));
        }
        Some(Programs::Listed { accounts, .. }) => {
            let names: Vec<&str> = accounts
                .iter()
                .map(|account| account.user.as_str())
                .collect();
            who.push(match &names[..] {
                [name] => format!("the program {name}"),
                names => format!("the programs {}", names.join(", ")),
            });
        }
    }
    if let (Some(_), Some(tls)) = (&own.certificates, &config.http.tls) {
        let authorities = paths(&tls.client_cas);
        who.push(format!("those with a certificate signed by {authorities}"));
    }
    match (&who[..], own.access_rules.is_some() || own.acumos.is_some()) {
        ([], false) => "open to everyone who reaches this address".to_owned(),
        ([], true) => "for everyone who reaches this address, without a login".to_owned(),
        ([only], _) => format!("for {only}"),
        ([some @ .., last], _) => format!("for {} and {last}", some.join(", ")),
    }
}

fn paths(paths: &[std::path::PathBuf]) -> String {
    let paths: Vec<String> = paths.iter().map(|path| whole(path)).collect();
    paths.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::proxy::ProxyConfig;

    const OPEN: &str = "open to everyone who reaches this address";

    fn registry(text: &str) -> Vec<String> {
        let text = format!("version: 0.1\nstorage: inmemory\n{text}\n");
        let (config, _) = Config::from_yaml(&text).unwrap();
        describe(&config)
    }

    fn proxy(text: &str) -> Vec<String> {
        let (config, _) = ProxyConfig::from_yaml(text).unwrap();
        describe(&config.as_registry())
    }

    #[test]
    fn who_is_let_in_is_said_as_it_is() {
        let tls = "http: {tls: {certificate: /c, key: /k, clientcas: [/ca], clientauth";
        for (text, expected) in [
            ("", &[OPEN][..]),
            (
                "auth: {htpasswd: {realm: r, path: /h}}",
                &["for the users in /h"],
            ),
            (
                "auth: {silly: {realm: r, service: s}}\nregistry: {auth: {accounts: {path: /a}}}",
                &["open to everyone who sends an `Authorization` header, whatever is in it"],
            ),
            (
                "auth: {token: {realm: 'https://a/t', service: s, issuer: i, rootcertbundle: /r}}",
                &["for those with a token of https://a/t"],
            ),
            (
                "registry: {auth: {accounts: {path: /a}}}",
                &["for the programs in /a"],
            ),
            (
                "auth: {htpasswd: {realm: r, path: /h}}\nregistry: {auth: {accounts: {path: /a}}}",
                &["for the users in /h and the programs in /a"],
            ),
            (
                "registry: {access: {rules: /r}}",
                &[
                    "for everyone who reaches this address, without a login",
                    "by the rules in /r",
                ],
            ),
            (
                &format!(
                    "{tls}: verify-client-cert-if-given}}}}\nauth: {{htpasswd: {{realm: r, path: /h}}}}\n\
                     registry: {{auth: {{accounts: {{path: /a}}, certificates: {{kind: user}}}}}}"
                ),
                &[
                    "for the users in /h, the programs in /a and those with a certificate signed by /ca",
                ],
            ),
            (
                &format!("{tls}: require-and-verify-client-cert}}}}"),
                &[
                    OPEN,
                    "only over connections with a certificate signed by /ca",
                ],
            ),
        ] {
            assert_eq!(registry(text), expected, "{text}");
        }
    }

    #[test]
    fn a_proxy_is_never_open_to_everyone() {
        let upstream = "upstream: {url: 'http://nexus'}\nacumos: {file: /facts}\n";
        let facts = "by the Acumos rules with facts in /facts";
        for (text, expected) in [
            (
                "embedded: /try\n".to_owned(),
                [
                    "for the users of the platform",
                    "by the Acumos rules with facts in /try/directory.db",
                ],
            ),
            (
                upstream.to_owned(),
                ["for the users of the platform", facts],
            ),
            (
                format!("{upstream}htpasswd: {{path: /h}}\n"),
                ["for the users in /h", facts],
            ),
            (
                format!("{upstream}serviceaccounts: [{{name: a, passwordfile: /a}}]\n"),
                ["for the users of the platform and the program a", facts],
            ),
            (
                format!(
                    "{upstream}serviceaccounts: [{{name: a, passwordfile: /a}}, {{name: b, passwordfile: /b}}]\n\
                     tls: {{certificate: /c, key: /k, clientcas: [/ca], clientauth: verify-client-cert-if-given}}\n\
                     certificates: {{kind: user}}\n"
                ),
                [
                    "for the users of the platform, the programs a, b and those with a certificate signed by /ca",
                    facts,
                ],
            ),
        ] {
            assert_eq!(proxy(&text), expected, "{text}");
        }
    }
}
