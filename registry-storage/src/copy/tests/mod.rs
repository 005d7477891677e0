//! Copies under all circumstances

mod registries;
mod trouble;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use registry_core::TagOrDigest;

use self::registries::{Dice, blob, dump, filled, image, index, name, store, tag};
use self::trouble::Trouble;
use super::*;
use crate::driver::{Key, Objects};
use crate::memory::Memory;
use crate::store::Store;

/// Copies with failures that are not waited for
async fn copy(
    from: impl Driver,
    to: impl Driver,
    options: CopyOptions,
) -> (Result<Counts, CopyError>, Vec<Arc<Problem>>) {
    let copy = Copy::new(Arc::new(from), Arc::new(to), options);
    let progress = copy.progress();
    (copy.run().await, progress.problems(0))
}

/// Copies, which must succeed without a problem
#[track_caller]
fn copied(
    from: impl Driver,
    to: impl Driver,
    options: CopyOptions,
) -> impl Future<Output = Counts> {
    let caller = std::panic::Location::caller();
    async move {
        let (counts, problems) = copy(from, to, options).await;
        assert!(problems.is_empty(), "{problems:#?} at {caller}");
        counts.unwrap()
    }
}

async fn kinds(memory: &Memory) -> Vec<&'static str> {
    let verify = Verify::new(Arc::new(memory.clone()), NonZeroUsize::MIN);
    let progress = verify.progress();
    let counts = verify.run().await.unwrap();
    let mut kinds: Vec<_> = progress.problems(0).iter().map(|one| one.kind()).collect();
    assert_eq!(kinds.len() as u64, counts.problems);
    kinds.sort_unstable();
    kinds
}

fn once() -> CopyOptions {
    CopyOptions::default().with_retries(0)
}

fn denied(key: String) -> StorageError {
    StorageError::Denied {
        key,
        source: "killed".into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_target_is_the_source_and_a_second_run_finds_nothing_to_do() {
    for seed in 0..8 {
        let (from, to) = (filled(seed).await, Memory::new());
        let plain = Trouble::before(&from, |_, _, _| Box::pin(async { Ok(()) }));
        let first = copied(plain, to.clone(), once()).await;
        assert_eq!(dump(&to).await, dump(&from).await, "seed {seed}");
        assert_eq!(kinds(&to).await, [""; 0]);
        assert_eq!(first.repositories, 5);
        assert!(first.blobs > 0 && first.blobs_present == 0);
        let second = copied(from, to.clone(), once()).await;
        let (blobs, bytes) = (second.blobs_present, second.bytes_present);
        assert_eq!((blobs, bytes), (first.blobs, first.bytes));
        assert_eq!(second.manifests_present, first.manifests);
        assert_eq!(second.tags_present, first.tags);
        assert_eq!((second.blobs, second.manifests, second.tags), (0, 0, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_total_is_what_is_copied_in_the_end() {
    let from = filled(3).await;
    let copy = Copy::new(Arc::new(from), Arc::new(Memory::new()), once());
    let inner = copy.inner.clone();
    let counts = copy.run().await.unwrap();
    let progress = Arc::new(Progress::default());
    list(inner.from.clone(), None, progress.clone()).await;
    let total = progress.counts().total.unwrap();
    assert_eq!(total.repositories, counts.repositories);
    assert_eq!((total.blobs, total.bytes), (counts.blobs, counts.bytes));
    assert_eq!(total.manifests, counts.manifests);
    assert_eq!(total.tags, counts.tags);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_target_is_whole_after_every_change() {
    for seed in 10..13 {
        let (from, to) = (filled(seed).await, Memory::new());
        let looked = Arc::new(AtomicU64::new(0));
        let watched = {
            let (to, looked) = (to.clone(), looked.clone());
            Trouble::after_changes(&to.clone(), move || {
                let (to, looked) = (to.clone(), looked.clone());
                Box::pin(async move {
                    assert_eq!(kinds(&to).await, [""; 0]);
                    looked.fetch_add(1, Ordering::Relaxed);
                })
            })
        };
        copied(from.clone(), watched, once()).await;
        assert!(looked.load(Ordering::Relaxed) > 50);
        assert_eq!(dump(&to).await, dump(&from).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_cut_off_at_any_call_is_finished_by_another() {
    let from = filled(20).await;
    let whole = dump(&from).await;
    for at_the_source in [false, true] {
        let mut cut = 0;
        loop {
            let to = Memory::new();
            let dead =
                move |call: u64, _: bool, key: String| -> futures::future::BoxFuture<'static, _> {
                    Box::pin(async move {
                        match call < cut {
                            true => Ok(()),
                            false => Err(denied(key)),
                        }
                    })
                };
            let calls = match at_the_source {
                true => {
                    let source = Trouble::before(&from, dead);
                    let _ = copy(source.clone(), to.clone(), once()).await;
                    source.calls()
                }
                false => {
                    let target = Trouble::before(&to, dead);
                    let _ = copy(from.clone(), target.clone(), once()).await;
                    target.calls()
                }
            };
            assert_eq!(kinds(&to).await, [""; 0], "cut at {cut}");
            copied(from.clone(), to.clone(), once()).await;
            let mut found = dump(&to).await;
            // What a killed upload left, if its blob came by another repository afterwards.
            found.retain(|key, _| !key.contains("/_uploads/"));
            assert_eq!(found, whole, "cut at {cut}");
            if calls < cut {
                break;
            }
            cut += 11;
        }
        assert!(cut > 150, "{cut} calls");
    }
}

#[tokio::test(start_paused = true)]
async fn failures_that_pass_are_waited_out() {
    for seed in 30..34 {
        let (from, to) = (filled(seed).await, Memory::new());
        let flaky = |memory: &Memory, seed: u64| {
            let dice = std::sync::Mutex::new(Dice(seed));
            Trouble::before(memory, move |_, _, key| {
                let failure = match dice.lock().unwrap().below(8) {
                    0 => Err(StorageError::Transient {
                        key,
                        source: "slow down".into(),
                    }),
                    1 => Err(StorageError::Busy {
                        key,
                        retry_after: std::time::Duration::from_secs(1),
                    }),
                    _ => Ok(()),
                };
                Box::pin(async { failure })
            })
        };
        let (source, target) = (flaky(&from, seed), flaky(&to, seed + 100));
        let options = CopyOptions::default().with_retries(30);
        let counts = copied(source, target, options).await;
        assert_eq!(dump(&to).await, dump(&from).await);
        // What had to be sent again counts once.
        let again = copied(from, to, once()).await;
        assert_eq!(again.bytes_present, counts.bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_that_fails_at_everything_is_given_up() {
    let (from, to) = (filled(40).await, Memory::new());
    let dead = Trouble::before(&to, |call, _, key| {
        Box::pin(async move { if call < 40 { Ok(()) } else { Err(denied(key)) } })
    });
    let options = once().with_concurrency(NonZeroUsize::MIN);
    let (ended, _) = copy(from.clone(), dead.clone(), options).await;
    assert!(matches!(ended, Err(CopyError::Storage(_))));
    assert!(dead.calls() < 60, "{} calls", dead.calls());

    let full = Trouble::before(&to, |call, change, key| {
        Box::pin(async move {
            match change && call > 30 {
                true => Err(StorageError::Full { key }),
                false => Ok(()),
            }
        })
    });
    let (ended, _) = copy(from, full, once()).await;
    let ended = ended.unwrap_err().to_string();
    assert!(ended.contains("make room"), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_vanishes_or_comes_meanwhile_is_no_problem() {
    for moment in (0..).step_by(13) {
        let (from, to) = (filled(80).await, Memory::new());
        let memory = from.clone();
        let at_work = Arc::new(tokio::sync::Mutex::new(()));
        let works = at_work.clone();
        let source = Trouble::before(&from, move |call, _, _| {
            let (store, works) = (store(&memory), works.clone());
            Box::pin(async move {
                if call != moment {
                    return Ok(());
                }
                // The copy may not wait for this call, if another finds what it began gone.
                let works = works.lock_owned().await;
                let others = tokio::spawn(async move {
                    let app = name("team/app");
                    let multi = digest_of(&store, &app, "multi").await;
                    store.delete_manifest(&app, &multi).await.unwrap();
                    let first = digest_of(&store, &app, "v0").await;
                    store.delete_manifest(&app, &first).await.unwrap();
                    store.delete_tag(&name("a"), &tag("v0")).await.unwrap();
                    image(&store, "a", &[b"new"], None, &["moving", "new"]).await;
                    image(&store, "another", &[b"newer"], None, &["new"]).await;
                    drop(works);
                });
                others.await.unwrap();
                Ok(())
            })
        });
        copied(source.clone(), to.clone(), once()).await;
        drop(at_work.lock().await);
        if source.calls() <= moment {
            assert!(moment > 100, "{moment} calls");
            break;
        }
        assert_eq!(kinds(&to).await, [""; 0], "at {moment}");
        copied(from.clone(), to.clone(), once()).await;
        let found = dump(&to).await;
        for (key, bytes) in dump(&from).await {
            if !key.contains("/blobs/") {
                assert_eq!(found.get(&key), Some(&bytes), "{key} at {moment}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_blob_is_reported_and_the_rest_is_copied() {
    for size in [100, 10_000] {
        let (from, to) = (Memory::new(), Memory::new());
        let source = store(&from);
        let good = vec![1; size];
        let bad = vec![2; size];
        image(&source, "a", &[&good], None, &["good"]).await;
        let (manifest, _) = image(&source, "a", &[&good, &bad], None, &["bad"]).await;
        let digest = Digest::sha256(&bad);
        let data = layout::blob(&digest);
        from.write(&data, vec![3; size].into()).await.unwrap();

        let (counts, problems) = copy(from.clone(), to.clone(), once()).await;
        let kinds: Vec<_> = problems.iter().map(|problem| problem.kind()).collect();
        assert_eq!(kinds, ["damaged-blob", "incomplete-manifest", "tag-left"]);
        assert!(problems[0].to_string().contains(&digest.to_string()));
        assert!(problems[1].to_string().contains(&manifest.to_string()));
        let counts = counts.unwrap();
        assert_eq!((counts.problems, counts.tags), (3, 1));
        assert!(to.stat(&data).await.unwrap_err().is_not_found());
        assert_eq!(self::kinds(&to).await, [""; 0]);
        assert!(!dump(&to).await.keys().any(|key| key.contains("_uploads")));
        assert!(self::kinds(&from).await.contains(&"damaged-blob"));

        from.write(&data, bad.into()).await.unwrap();
        copied(from.clone(), to.clone(), once()).await;
        assert_eq!(dump(&to).await, dump(&from).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_target_is_found_and_healed() {
    let (from, to) = (Memory::new(), Memory::new());
    let source = store(&from);
    let layer = vec![1; 9000];
    let (manifest, _) = image(&source, "a", &[&layer], None, &["v1"]).await;
    copied(from.clone(), to.clone(), once()).await;
    let data = layout::blob(&Digest::sha256(&layer));
    let verify = once().with_verify(true);

    // The size has to do, unless it is read.
    to.write(&data, vec![9; 9000].into()).await.unwrap();
    assert_eq!(kinds(&to).await, ["damaged-blob", "incomplete-manifest"]);
    copied(from.clone(), to.clone(), once()).await;
    assert_eq!(kinds(&to).await, ["damaged-blob", "incomplete-manifest"]);
    let counts = copied(from.clone(), to.clone(), verify.clone()).await;
    assert_eq!((counts.blobs, counts.blobs_present), (1, 1));
    assert_eq!(kinds(&to).await, [""; 0]);

    to.write(&data, vec![1; 8999].into()).await.unwrap();
    copied(from.clone(), to.clone(), once()).await;
    assert_eq!(kinds(&to).await, [""; 0]);
    to.delete(&data).await.unwrap();
    assert_eq!(kinds(&to).await, ["incomplete-manifest"]);
    copied(from.clone(), to.clone(), once()).await;
    assert_eq!(kinds(&to).await, [""; 0]);

    to.write(&layout::blob(&manifest), "{}".into())
        .await
        .unwrap();
    assert_eq!(kinds(&to).await, ["damaged-manifest"]);
    copied(from.clone(), to.clone(), verify).await;
    assert_eq!(kinds(&to).await, [""; 0]);
    to.delete(&layout::blob(&manifest)).await.unwrap();
    assert_eq!(kinds(&to).await, ["missing-manifest"]);
    copied(from.clone(), to.clone(), once()).await;
    let link = layout::revision_link(&name("a"), &manifest);
    to.delete(&link).await.unwrap();
    assert_eq!(kinds(&to).await, ["dangling-tag"]);
    copied(from.clone(), to.clone(), once()).await;
    assert_eq!(dump(&to).await, dump(&from).await);
}

async fn digest_of(store: &Store, name: &RepositoryName, text: &str) -> Digest {
    let reference = TagOrDigest::Tag(tag(text));
    store.manifest(name, &reference).await.unwrap().digest
}

async fn points_to(memory: &Memory) -> Digest {
    digest_of(&store(memory), &name("a"), "latest").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_goes_forward_and_never_over_what_was_pushed_to_the_target() {
    let (from, to) = (Memory::new(), Memory::new());
    let (source, target) = (store(&from), store(&to));
    let latest = ["latest"];
    let (first, _) = image(&source, "a", &[b"1"], None, &latest).await;
    copied(from.clone(), to.clone(), once()).await;

    // The source has moved on: so does the target.
    let (second, _) = image(&source, "a", &[b"2"], None, &latest).await;
    let keep = once().with_tags(TagRule::Keep);
    assert_eq!(copied(from.clone(), to.clone(), keep).await.tags_kept, 1);
    assert_eq!(points_to(&to).await, first);
    assert_eq!(copied(from.clone(), to.clone(), once()).await.tags_moved, 1);
    assert_eq!(points_to(&to).await, second);

    // The source goes back to what both have seen.
    image(&source, "a", &[b"1"], None, &latest).await;
    assert_eq!(copied(from.clone(), to.clone(), once()).await.tags_moved, 1);
    assert_eq!(points_to(&to).await, first);

    // The target goes back.
    image(&target, "a", &[b"2"], None, &latest).await;
    assert_eq!(copied(from.clone(), to.clone(), once()).await.tags_kept, 1);
    assert_eq!(points_to(&to).await, second);

    // The target is ahead.
    let (third, _) = image(&target, "a", &[b"3"], None, &latest).await;
    assert_eq!(copied(from.clone(), to.clone(), once()).await.tags_kept, 1);
    assert_eq!(points_to(&to).await, third);

    // Both have moved on.
    let (fourth, _) = image(&source, "a", &[b"4"], None, &latest).await;
    let (counts, problems) = copy(from.clone(), to.clone(), once()).await;
    assert_eq!(
        (counts.unwrap().problems, problems[0].kind()),
        (1, "tag-conflict")
    );
    assert_eq!(points_to(&to).await, third);
    let text = problems[0].to_string();
    assert!(text.contains(&third.to_string()) && text.contains(&fourth.to_string()));
    let overwrite = once().with_tags(TagRule::Overwrite);
    assert_eq!(copied(from, to.clone(), overwrite).await.tags_moved, 1);
    assert_eq!(points_to(&to).await, fourth);
    assert_eq!(kinds(&to).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_what_a_run_does_and_writes_nothing() {
    let (from, to) = (filled(50).await, Memory::new());
    let dry = copied(from.clone(), to.clone(), once().with_dry_run(true)).await;
    assert!(dump(&to).await.is_empty());
    let wet = copied(from.clone(), to.clone(), once()).await;
    let without_total = |counts: Counts| Counts {
        total: None,
        ..counts
    };
    assert_eq!(without_total(dry), without_total(wet));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_storage_is_not_copied_to_itself() {
    let memory = filled(60).await;
    let before = dump(&memory).await;
    let (ended, _) = copy(memory.clone(), memory.clone(), once()).await;
    assert!(matches!(ended, Err(CopyError::Same)));
    assert_eq!(dump(&memory).await, before);
    let top = Key::parse("docker/registry/v2").unwrap();
    let children = memory.list(Some(&top), None, 100).await.unwrap();
    assert_eq!(children.len(), 2, "blobs and repositories alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_wanted_repositories_are_copied_and_nothing_that_none_has() {
    let (from, to) = (filled(70).await, Memory::new());
    let source = store(&from);
    // Sessions, what is in no repository, and layers without bytes stay behind.
    source
        .start_upload(&name("a"), Algorithm::Sha256)
        .await
        .unwrap();
    let orphan = Digest::sha256(b"orphan");
    let bytes = Bytes::from_static(b"orphan");
    from.write(&layout::blob(&orphan), bytes).await.unwrap();
    let gone = blob(&source, "a", b"gone").await;
    from.delete(&layout::blob(&gone)).await.unwrap();

    let copy = Copy::new(Arc::new(from.clone()), Arc::new(to.clone()), once())
        .with_repositories(|name| name.as_str() == "a");
    let progress = copy.progress();
    let counts = copy.run().await.unwrap();
    assert_eq!((counts.repositories, counts.dangling), (1, 1));
    assert!(progress.problems(0).is_empty());
    let found = dump(&to).await;
    assert!(
        found
            .keys()
            .any(|key| key.contains("repositories/a/_manifests"))
    );
    for part in ["a/b", "a-b", "_uploads", &orphan.hex(), &gone.hex()] {
        assert!(!found.keys().any(|key| key.contains(part)), "{part}");
    }
    assert_eq!(kinds(&to).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_broken_at_the_source_is_said_and_left_out() {
    let (from, to) = (Memory::new(), Memory::new());
    let source = store(&from);
    let one = image(&source, "a", &[b"1"], None, &["one"]).await;
    let two = image(&source, "a", &[b"2"], None, &["two"]).await;
    index(&source, "a", &[one, two], &["both"]).await;
    from.delete(&layout::blob(&one.0)).await.unwrap();
    let link = layout::revision_link(&name("b"), &two.0);
    let nowhere = layout::tag_current(&name("b"), &tag("nowhere"));
    let text = Bytes::from(two.0.to_string());
    from.write(&nowhere, text.clone()).await.unwrap();
    assert!(from.stat(&link).await.is_err());

    let (_, problems) = copy(from, to.clone(), once()).await;
    let mut found: Vec<_> = problems.iter().map(|problem| problem.kind()).collect();
    found.sort_unstable();
    let expected = [
        "dangling-tag",
        "incomplete-manifest",
        "missing-manifest",
        "tag-left",
        "tag-left",
    ];
    assert_eq!(found, expected);
    assert_eq!(kinds(&to).await, [""; 0]);
    let tags = store(&to).tags(&name("a"), None, None).await.unwrap();
    assert_eq!(tags.items, [tag("two")]);
}
