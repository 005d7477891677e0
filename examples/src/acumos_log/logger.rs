//! The name of a logger, as the platform's collector wants it

/// What the names of all loggers of this component begin with
const COMPONENT: &str = "org.acumos.dockerproxy";

/// The same for libraries
const LIBRARIES: &str = "rust";

/// Whether a target is one of this workspace's
pub(super) fn is_own(target: &str) -> bool {
    let first = target.split("::").next().unwrap_or_default();
    first == "registry" || first.starts_with("registry_") || first == "docker_proxy"
}

/// The name of the logger for a target, in the manner of a Java class
///
/// `registry_http::proxy` becomes `org.acumos.dockerproxy.http.Proxy`, and `hyper::client`
/// `rust.hyper.Client`. The platform parses it as a Java class, and takes the whole line for
/// garbage if it is none; so there is a name for any target. There are nothing but letters, digits
/// and at least one dot in it, for logstash of old knew no `_` there, nor a class without package.
pub(super) fn logger(target: &str) -> String {
    let mut parts: Vec<&str> = target
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|part| part.bytes().any(|byte| byte != b'_'))
        .collect();
    let mut name = LIBRARIES.to_owned();
    if is_own(target) {
        COMPONENT.clone_into(&mut name);
        // The crates are this component's; so the word they share says nothing.
        match parts
            .first()
            .and_then(|first| first.strip_prefix("registry_"))
        {
            Some(rest) if rest != "examples" && !rest.is_empty() => parts[0] = rest,
            _ => drop(parts.remove(0)),
        }
    }
    let class = parts.pop().unwrap_or("main");
    for part in parts {
        name.push('.');
        push(&mut name, &part.to_ascii_lowercase());
    }
    name.push('.');
    let class: String = class.split('_').map(capital).collect();
    push(&mut name, &class);
    name
}

/// Adds a part of a name, which must not begin with a digit
fn push(name: &mut String, part: &str) {
    let mut letters = part.chars().filter(|c| *c != '_').peekable();
    if letters.peek().is_none_or(char::is_ascii_digit) {
        name.push('x');
    }
    name.extend(letters);
}

/// `word` as `Word`
fn capital(word: &str) -> String {
    let mut letters = word.chars();
    let first = letters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex::Regex;

    use super::*;

    #[test]
    fn targets_become_classes() {
        for (target, expected) in [
            ("registry::invoke", "org.acumos.dockerproxy.Invoke"),
            ("registry::request", "org.acumos.dockerproxy.Request"),
            ("registry_http::proxy", "org.acumos.dockerproxy.http.Proxy"),
            (
                "registry_http::auth_request::request_id",
                "org.acumos.dockerproxy.http.authrequest.RequestId",
            ),
            ("registry_http", "org.acumos.dockerproxy.Http"),
            ("registry_examples::serve", "org.acumos.dockerproxy.Serve"),
            ("registry_examples", "org.acumos.dockerproxy.Main"),
            ("docker_proxy", "org.acumos.dockerproxy.Main"),
            ("docker_proxy::serve", "org.acumos.dockerproxy.Serve"),
            ("registry", "org.acumos.dockerproxy.Main"),
            ("registry_", "org.acumos.dockerproxy.Main"),
            ("registry__::a", "org.acumos.dockerproxy.x.A"),
            ("hyper::client", "rust.hyper.Client"),
            ("hyper-util", "rust.hyper.Util"),
            ("hyper_util::client::legacy", "rust.hyperutil.client.Legacy"),
            ("registrar", "rust.Registrar"),
            ("9p::2x", "rust.x9p.x2x"),
            ("", "rust.Main"),
            ("::", "rust.Main"),
            ("_", "rust.Main"),
            ("\u{e4}\u{f6}", "rust.Main"),
        ] {
            assert_eq!(logger(target), expected, "{target:?}");
        }
    }

    proptest! {
        #[test]
        fn any_target_has_a_name_that_a_java_class_may_have(target in "(registry(_|::))?.{0,40}") {
            let name = logger(&target);
            for class in [
                r"^(?:[a-zA-Z$_][a-zA-Z$_0-9]*\.)*[a-zA-Z$_][a-zA-Z$_0-9]*$",
                // Of logstash 1 and of pygrok.
                r"^(?:[a-zA-Z0-9-]+\.)+[A-Za-z0-9$]+$",
            ] {
                prop_assert!(Regex::new(class).unwrap().is_match(&name), "{target:?}: {name:?}");
            }
        }
    }
}
