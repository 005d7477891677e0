//! Scopes are printed as they were read, and a token grants nothing that it does not say

#![no_main]

use libfuzzer_sys::fuzz_target;
use registry_auth::Access;
use registry_auth::token::{Claims, Grants, Scope};

fuzz_target!(|text: &str| {
    if let Ok(scope) = text.parse::<Scope>() {
        assert_eq!(scope.to_string().parse(), Ok(scope));
    }
    let Ok(claims) = serde_json::from_str::<Claims>(text) else {
        return;
    };
    let written = serde_json::to_string(&claims).expect("it was JSON before");
    assert_eq!(
        serde_json::from_str::<Claims>(&written).ok(),
        Some(claims.clone())
    );
    let said: Vec<String> = claims
        .access
        .iter()
        .flat_map(|entry| {
            let actions = entry.actions.iter();
            actions.map(|action| format!("{}:{}:{action}", entry.kind, entry.name))
        })
        .collect();
    let grants: Grants = claims.access.iter().collect();
    for grant in grants.iter() {
        for action in &grant.actions {
            let access = Access {
                resource: grant.resource.clone(),
                action: *action,
                reference: None,
            };
            assert!(grants.allow(&access));
            assert!(said.contains(&access.to_string()), "{access}");
        }
    }
});
