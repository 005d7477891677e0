//! Where content is kept, and what may be done to it

use super::buckets;
use super::redirects;
use super::section::Section;
use super::tree::Node;
use super::value::Problem;
use super::{Config, Driver, Storage, UploadPurge, Warning};

/// The names of what content can be kept in
pub(super) const DRIVERS: [&str; 8] = [
    "filesystem",
    "inmemory",
    "s3",
    "azure",
    "gcs",
    "oss",
    "s3aws",
    "s3goamz",
];

/// Reads `storage` and `registry.storage`
pub(super) fn read(root: &Section<'_>, storage: &mut Storage) -> Result<(), Problem> {
    let section = &root.section("storage");
    let own = root.section("registry").section("storage");
    storage.connection = buckets::connection(&own)?;
    // A driver is chosen by its name, whatever stands under it.
    let entries = section.node.map(Node::entries).unwrap_or_default();
    let mut named = entries
        .iter()
        .filter(|entry| DRIVERS.contains(&entry.key.as_str()));
    if let Some(first) = named.next() {
        if let Some(second) = named.next() {
            return Err(Problem::at(
                &second.origin,
                format!(
                    "expected one place for content under `storage`, got `{}` and `{}`; \
                     `REGISTRY_STORAGE` replaces the whole section",
                    first.key, second.key
                ),
            ));
        }
        storage.driver = match first.key.as_str() {
            "filesystem" => {
                let root = section.section("filesystem").text("rootdirectory")?;
                // Distribution's own default.
                let root = root.unwrap_or_else(|| "/var/lib/registry".to_owned());
                Driver::Folder(root.into())
            }
            "inmemory" => Driver::Memory,
            name => buckets::read(name, section, &own, &mut storage.connection)?,
        };
    }
    if let Some(enabled) = section.section("delete").flag("enabled")? {
        storage.delete = enabled;
    }
    let maintenance = section.section("maintenance");
    if let Some(enabled) = maintenance.section("readonly").flag("enabled")? {
        storage.read_only = enabled;
    }
    let purging = maintenance.section("uploadpurging");
    let mut purge = UploadPurge::default();
    if let Some(age) = purging.interval("age")? {
        purge.age = age;
    }
    if let Some(interval) = purging.interval("interval")? {
        purge.interval = interval;
    }
    if let Some(dry_run) = purging.flag("dryrun")? {
        purge.dry_run = dry_run;
    }
    storage.redirect = redirects::redirect(&section.section("redirect"))?;
    storage.purge = purging.flag("enabled")?.unwrap_or(true).then_some(purge);
    Ok(())
}

/// The warning that events are gone with the process, where that is so and not wanted
pub(super) fn lost_events(root: &Section<'_>, config: &Config) -> Option<Warning> {
    // Whoever keeps everything in memory knows.
    let durable = !matches!(config.storage.driver, Driver::Memory);
    let lost = durable
        && !config.notifications.endpoints.is_empty()
        && config.outbox_directory().is_none();
    lost.then(|| Warning {
        keys: vec!["notifications.endpoints".to_owned()],
        origin: root.origin("notifications"),
        what: "events that are not delivered yet wait in memory, and are lost when the registry \
               ends; set `registry.notifications.outbox.directory` to a folder"
            .to_owned(),
    })
}
