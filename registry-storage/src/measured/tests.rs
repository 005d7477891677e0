//! What is reported of which call

use std::sync::Mutex;

use futures::TryStreamExt;

use super::*;
use crate::memory::Memory;

#[derive(Debug, Default)]
struct Reports {
    reports: Mutex<Vec<StorageReport>>,
    open: Mutex<i64>,
}

impl Reports {
    /// What was reported since the last look
    fn take(&self) -> Vec<(StorageCall, StorageOutcome, u64)> {
        self.reports
            .lock()
            .unwrap()
            .drain(..)
            .map(|report| (report.call, report.outcome, report.bytes))
            .collect()
    }

    fn open(&self) -> i64 {
        *self.open.lock().unwrap()
    }
}

impl StorageObserver for Reports {
    fn called(&self, report: &StorageReport) {
        self.reports.lock().unwrap().push(*report);
    }

    fn upload_opened(&self) {
        *self.open.lock().unwrap() += 1;
    }

    fn upload_closed(&self) {
        *self.open.lock().unwrap() -= 1;
    }
}

fn measured_memory() -> (Measured<Memory>, Arc<Reports>) {
    let reports = Arc::new(Reports::default());
    (
        Measured::new(Memory::new(), reports.clone()),
        reports.clone(),
    )
}

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

#[test]
fn numbers_are_places_in_the_tables_and_names_are_different() {
    for (index, call) in StorageCall::ALL.into_iter().enumerate() {
        assert_eq!(call as usize, index);
    }
    for (index, outcome) in StorageOutcome::ALL.into_iter().enumerate() {
        assert_eq!(outcome as usize, index);
    }
    let names = StorageCall::ALL.map(StorageCall::as_str);
    let different: std::collections::BTreeSet<_> = names.into_iter().collect();
    assert_eq!(different.len(), names.len());
}

#[tokio::test]
async fn calls_are_reported_with_their_bytes_and_outcomes() {
    use StorageCall as Call;
    use StorageOutcome as Outcome;

    let (driver, reports) = measured_memory();
    let a = key("f/a");
    driver
        .write(&a, Bytes::from_static(b"hello"))
        .await
        .unwrap();
    driver.read(&a, 100).await.unwrap();
    driver.read(&a, 2).await.unwrap_err();
    driver.stat(&key("b")).await.unwrap_err();
    driver.list(None, None, 10).await.unwrap();
    driver.rename(&a, &key("f/b")).await.unwrap();
    driver.delete(&a).await.unwrap_err();
    driver.delete_tree(&key("f")).await.unwrap();
    assert_eq!(
        reports.take(),
        [
            (Call::Write, Outcome::Ok, 5),
            (Call::Read, Outcome::Ok, 5),
            (Call::Read, Outcome::Corrupt, 0),
            (Call::Stat, Outcome::NotFound, 0),
            (Call::List, Outcome::Ok, 0),
            (Call::Rename, Outcome::Ok, 0),
            (Call::Delete, Outcome::NotFound, 0),
            (Call::DeleteTree, Outcome::Ok, 0),
        ]
    );
}

#[tokio::test]
async fn an_upload_is_open_until_it_is_dropped() {
    use StorageCall as Call;
    use StorageOutcome as Outcome;

    let (driver, reports) = measured_memory();
    let upload = key("u/data");
    let mut append = driver.append(&upload).await.unwrap();
    assert_eq!(reports.open(), 1);
    append.write(Bytes::from_static(b"abc")).await.unwrap();
    append.sync().await.unwrap();
    append.truncate(9).await.unwrap_err();
    driver.reopen(&upload).await.unwrap_err();
    assert_eq!((append.size(), reports.open()), (3, 1));
    assert_eq!(driver.progress(&upload).await.unwrap().size, 3);
    append.publish(&key("blob")).await.unwrap();
    drop(append);
    assert_eq!(reports.open(), 0);
    assert_eq!(
        reports.take(),
        [
            (Call::UploadOpen, Outcome::Ok, 0),
            (Call::UploadWrite, Outcome::Ok, 3),
            (Call::UploadSync, Outcome::Ok, 0),
            (Call::UploadTruncate, Outcome::Corrupt, 0),
            (Call::UploadOpen, Outcome::Busy, 0),
            (Call::Stat, Outcome::Ok, 0),
            (Call::UploadPublish, Outcome::Ok, 0),
        ]
    );
}

#[tokio::test]
async fn a_stream_is_reported_by_what_was_read_of_it() {
    use StorageCall as Call;
    use StorageOutcome as Outcome;

    let (driver, reports) = measured_memory();
    let a = key("a");
    let size = 3_000_000;
    driver.write(&a, vec![1; size].into()).await.unwrap();
    let (_, stream) = driver.stream(&a, None).await.unwrap();
    stream.try_collect::<Vec<_>>().await.unwrap();
    // All bytes, without asking for the end.
    let (_, mut stream) = driver.stream(&a, None).await.unwrap();
    let mut read = 0;
    while read < size {
        read += stream.try_next().await.unwrap().unwrap().len();
    }
    drop(stream);
    drop(driver.stream(&a, None).await.unwrap());
    driver
        .stream(&key("b"), None)
        .await
        .map(|_| ())
        .unwrap_err();
    assert_eq!(
        reports.take(),
        [
            (Call::Write, Outcome::Ok, size as u64),
            (Call::Stream, Outcome::Ok, 0),
            (Call::StreamBytes, Outcome::Ok, size as u64),
            (Call::Stream, Outcome::Ok, 0),
            (Call::StreamBytes, Outcome::Ok, size as u64),
            (Call::Stream, Outcome::Ok, 0),
            (Call::StreamBytes, Outcome::Abandoned, 0),
            (Call::Stream, Outcome::NotFound, 0),
        ]
    );
}

#[tokio::test]
async fn a_call_that_is_not_waited_for_is_abandoned() {
    let reports = Reports::default();
    let call = report(
        &reports,
        StorageCall::Stat,
        std::future::pending::<Result<(), StorageError>>(),
        nothing,
    );
    let timeout = tokio::time::timeout(Duration::from_millis(5), call).await;
    assert!(timeout.is_err());
    let report = reports.reports.lock().unwrap()[0];
    assert_eq!(report.outcome, StorageOutcome::Abandoned);
    assert!(report.elapsed >= Duration::from_millis(5), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_measured_passes_the_suite_as_before() {
    let reports = Arc::new(Reports::default());
    let memory = Memory::new();
    let driver = Arc::new(Measured::new(memory.clone(), reports.clone()));
    crate::suite::run(driver.clone()).await;
    crate::suite::run_shared(driver, Arc::new(memory)).await;
    assert_eq!(reports.open(), 0);
    let called = reports.take();
    for call in StorageCall::ALL {
        assert!(called.iter().any(|report| report.0 == call), "{call:?}");
    }
}
