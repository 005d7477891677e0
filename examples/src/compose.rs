//! From a configuration to a service

use std::path::PathBuf;
use std::sync::Arc;

use registry_auth::{Anyone, Authenticator, Policy};
use registry_core::manifest::Limits;
use registry_http::{Observer, RegistryService};
use registry_storage::{FileSystem, Memory, OpenError, Store};

use crate::config::{Config, Driver};

/// Opens the storage that the configuration names
///
/// # Errors
///
/// [`OpenError`] when the folder cannot be made or written.
pub fn open_store(driver: &Driver) -> Result<Store, OpenError> {
    Ok(match driver {
        Driver::Folder(root) => Store::new(Arc::new(FileSystem::open(root)?)),
        Driver::Memory => Store::new(Arc::new(Memory::new())),
    })
}

/// Where the content is, for people
pub fn describe_storage(driver: &Driver) -> String {
    match driver {
        Driver::Folder(root) => std::path::absolute(root)
            .unwrap_or_else(|_| PathBuf::from(root))
            .display()
            .to_string(),
        Driver::Memory => "memory (gone when this process ends)".to_owned(),
    }
}

/// Makes the service; who may do what is the caller's explicit choice
pub fn service(
    config: &Config,
    store: Store,
    policy: Arc<dyn Policy>,
    observer: Arc<dyn Observer>,
) -> RegistryService {
    let authenticator: Arc<dyn Authenticator> = Arc::new(Anyone);
    RegistryService::builder(store, authenticator, policy)
        .manifest_limits(Limits {
            max_bytes: config.registry.manifest_limit,
            ..Limits::default()
        })
        .allow_delete(config.storage.delete)
        .observer(observer)
        .build()
}
