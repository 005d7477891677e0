//! What several test files need

// Not every test file needs all of it.
#![allow(dead_code, unreachable_pub, unused_imports)]

#[cfg(feature = "object-stores")]
pub mod docker_registry;
#[cfg(feature = "object-stores")]
pub mod proxy;
#[cfg(feature = "object-stores")]
mod s3s;
#[cfg(feature = "object-stores")]
mod servers;
#[cfg(feature = "object-stores")]
mod start;

use registry_storage::{Driver, Key, Notes, Uploads};

#[cfg(feature = "object-stores")]
pub use self::servers::{Kind, PART, SECRET_KEY, Server, call, connect, open, options, s3};

/// Makes an upload that a driver keeps with a note begin at another time
async fn begun_at(notes: &dyn Notes, upload: &Key, date: &str) {
    let mut append = notes.look(upload).await.unwrap().open().await.unwrap();
    let note = append.note().unwrap();
    let rest = note.iter().position(|byte| *byte == b' ').unwrap();
    append.annotate([date.as_bytes(), &note[rest..]].concat().into());
    append.sync().await.unwrap();
}

/// Writes when an upload began, wherever a driver keeps that
pub async fn set_began<D: Driver>(driver: &D, session: &Key, date: &str) {
    match Uploads::notes(driver) {
        Some(notes) => begun_at(notes, &session.child("data").unwrap(), date).await,
        None => {
            let started = session.child("startedat").unwrap();
            driver
                .write(&started, date.to_owned().into())
                .await
                .unwrap();
        }
    }
}
