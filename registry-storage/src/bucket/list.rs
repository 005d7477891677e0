//! Folders of a bucket, in the order of names

use std::collections::BTreeMap;

use object_store::list::{PaginatedListOptions, PaginatedListStore};

/// The most that stores give at a time
const PAGE: usize = 1000;

/// The first `limit` names below `prefix` after `after`, and whether each is a folder
///
/// `prefix` is empty or ends with `/`. A store lists keys, in the order of keys: there a folder
/// is `a/` and comes after `a-b`, while its name `a` comes before. A folder that is still to
/// come, and whose name would be before one that was seen, has a name that the last key seen
/// begins with. Those are few, and looked for one by one.
pub(super) async fn list(
    store: &dyn PaginatedListStore,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> object_store::Result<BTreeMap<String, bool>> {
    let mut found = BTreeMap::new();
    let mut token = None;
    loop {
        let options = PaginatedListOptions {
            offset: after
                .filter(|after| !after.is_empty())
                .map(|after| format!("{prefix}{after}")),
            delimiter: Some("/".into()),
            max_keys: Some(limit.saturating_add(1).clamp(2, PAGE)),
            page_token: token,
            ..PaginatedListOptions::default()
        };
        let page = store.list_paginated(some(prefix), options).await?;
        let objects = page
            .result
            .objects
            .iter()
            .map(|meta| (&meta.location, false));
        let folders = page.result.common_prefixes.iter().map(|path| (path, true));
        // The last key of the page, as the store orders them.
        let mut last: Option<String> = None;
        for (path, is_dir) in objects.chain(folders) {
            let Some(name) = path.as_ref().strip_prefix(prefix) else {
                // A marker of the folder itself.
                continue;
            };
            if name.is_empty() || name.contains('/') {
                continue;
            }
            let key = if is_dir {
                format!("{name}/")
            } else {
                name.to_owned()
            };
            last = last.max(Some(key));
            if after.is_none_or(|after| name > after) {
                found.insert(name.to_owned(), is_dir);
            }
        }
        token = page.page_token;
        if token.is_none() {
            break;
        }
        if found.len() >= limit {
            let last = last.unwrap_or_default();
            for pending in pending(&last) {
                if after.is_none_or(|after| pending > after)
                    && !found.contains_key(pending)
                    && exists(store, &format!("{prefix}{pending}/")).await?
                {
                    found.insert(pending.to_owned(), true);
                }
            }
            break;
        }
    }
    while found.len() > limit {
        found.pop_last();
    }
    Ok(found)
}

/// Whether there is anything below a prefix
pub(super) async fn exists(
    store: &dyn PaginatedListStore,
    prefix: &str,
) -> object_store::Result<bool> {
    let options = PaginatedListOptions {
        max_keys: Some(1),
        ..PaginatedListOptions::default()
    };
    let page = store.list_paginated(some(prefix), options).await?;
    Ok(!page.result.objects.is_empty())
}

/// The names of folders that come after the key `last`, and before it as names
fn pending(last: &str) -> impl Iterator<Item = &str> {
    let name = last.strip_suffix('/').unwrap_or(last);
    name.char_indices()
        .filter(|(index, character)| *index > 0 && *character < '/')
        .map(|(index, _)| &name[..index])
}

fn some(prefix: &str) -> Option<&str> {
    (!prefix.is_empty()).then_some(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_name_begins_with_can_still_come_before_it() {
        let pending = |last| pending(last).collect::<Vec<_>>();
        assert_eq!(pending("a"), [""; 0]);
        assert_eq!(pending("a/"), [""; 0]);
        assert_eq!(pending("a-b/"), ["a"]);
        assert_eq!(pending("a-b.c"), ["a", "a-b"]);
        assert_eq!(pending("-a"), [""; 0]);
        assert_eq!(pending("a0b"), [""; 0]);
    }
}
