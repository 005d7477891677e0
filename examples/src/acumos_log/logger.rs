//! The name of a logger, as the platform's collector wants it

/// What the names of all loggers of this component begin with
const COMPONENT: &str = "org.acumos.docker_proxy";

/// Whether a target is one of this workspace's
pub(super) fn is_own(target: &str) -> bool {
    let first = target.split("::").next().unwrap_or_default();
    first == "registry" || first.starts_with("registry_") || first == "docker_proxy"
}

/// The name of the logger for a target, in the manner of a Java class
///
/// `registry_http::proxy` becomes `org.acumos.docker_proxy.http.Proxy`. The platform parses it as
/// a Java class name, which knows neither `::` nor `-`, and takes the whole line for garbage if it
/// is none; so there is a name for any target.
pub(super) fn logger(target: &str) -> String {
    let mut parts: Vec<String> = target
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '$')
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect();
    let mut name = String::new();
    if is_own(target) {
        name.push_str(COMPONENT);
        // The crates are this component's; so the word they share says nothing.
        let first = parts.remove(0);
        match first.strip_prefix("registry_") {
            None | Some("" | "examples") => {}
            Some(rest) => parts.insert(0, rest.to_owned()),
        }
    }
    let class = parts.pop().unwrap_or_else(|| "Main".to_owned());
    for part in parts.iter().map(String::as_str).chain([&*camel(&class)]) {
        if !name.is_empty() {
            name.push('.');
        }
        if part.starts_with(|c: char| c.is_ascii_digit()) {
            name.push('_');
        }
        name.push_str(part);
    }
    name
}

/// `request_id` as `RequestId`
fn camel(name: &str) -> String {
    let mut camel = String::with_capacity(name.len());
    for word in name.split('_').filter(|word| !word.is_empty()) {
        let mut letters = word.chars();
        camel.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        camel.push_str(letters.as_str());
    }
    if camel.is_empty() {
        camel.push('_');
    }
    camel
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex::Regex;

    use super::*;

    #[test]
    fn targets_become_classes() {
        for (target, expected) in [
            ("registry::invoke", "org.acumos.docker_proxy.Invoke"),
            ("registry::request", "org.acumos.docker_proxy.Request"),
            ("registry_http::proxy", "org.acumos.docker_proxy.http.Proxy"),
            (
                "registry_http::proxy::request_id",
                "org.acumos.docker_proxy.http.proxy.RequestId",
            ),
            ("registry_http", "org.acumos.docker_proxy.Http"),
            ("registry_examples::serve", "org.acumos.docker_proxy.Serve"),
            ("registry_examples", "org.acumos.docker_proxy.Main"),
            ("docker_proxy", "org.acumos.docker_proxy.Main"),
            ("registry", "org.acumos.docker_proxy.Main"),
            ("hyper::client", "hyper.Client"),
            ("hyper-util", "hyper.Util"),
            ("registrar", "Registrar"),
            ("9p::2x", "_9p._2x"),
            ("", "Main"),
            ("::", "Main"),
            ("_", "_"),
            ("\u{e4}\u{f6}", "Main"),
        ] {
            assert_eq!(logger(target), expected, "{target:?}");
        }
    }

    proptest! {
        #[test]
        fn any_target_has_a_name_that_a_java_class_may_have(target in "(registry(_|::))?.{0,40}") {
            let class = Regex::new(r"^(?:[a-zA-Z$_][a-zA-Z$_0-9]*\.)*[a-zA-Z$_][a-zA-Z$_0-9]*$");
            let name = logger(&target);
            prop_assert!(class.unwrap().is_match(&name), "{target:?} became {name:?}");
        }
    }
}
