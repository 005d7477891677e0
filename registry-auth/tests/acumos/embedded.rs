//! A directory in a database

use std::os::unix::fs::PermissionsExt;

use registry_auth::acumos::{
    AccountRecord, Answer, Directory, EmbeddedDirectory, EmbeddedError, License, LicenseRecord,
    Query, Records, RevisionId, Right, RightHolder, UserId,
};

use crate::file::{PLATFORM, check, id};

fn platform() -> Records {
    PLATFORM.parse().unwrap()
}

/// The records in the order in which a database gives them out
fn in_order(mut records: Records) -> Records {
    records.accounts.sort_by(|a, b| a.login.cmp(&b.login));
    records.catalogs.sort_by(|a, b| a.name.cmp(&b.name));
    for solution in &mut records.solutions {
        solution.catalogs.sort();
        let of = solution.id.clone();
        let default = |version: &str| format!("{of}/{version}");
        solution
            .revisions
            .sort_by_key(|one| one.id.clone().unwrap_or_else(|| default(&one.version)));
    }
    records
}

fn open(folder: &tempfile::TempDir) -> EmbeddedDirectory {
    EmbeddedDirectory::open(&folder.path().join("platform.db")).unwrap()
}

#[tokio::test]
async fn what_is_imported_is_answered_given_out_and_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let directory = open(&folder);
    directory.import(platform()).await.unwrap();
    check(&directory).await;
    assert_eq!(directory.records().await.unwrap(), in_order(platform()));
    drop(directory);
    let directory = open(&folder);
    check(&directory).await;
    // Again, in the place of all that was there, or not at all.
    directory.import(platform()).await.unwrap();
    assert_eq!(directory.records().await.unwrap(), in_order(platform()));
    let wrong: Records = PLATFORM
        .replace("owner: ada", "owner: eve")
        .parse()
        .unwrap();
    let error = directory.import(wrong).await.unwrap_err().to_string();
    assert!(error.contains("`eve`"), "{error}");
    check(&directory).await;
    directory.import(Records::default()).await.unwrap();
    assert_eq!(directory.records().await.unwrap(), Records::default());
}

#[tokio::test]
async fn what_is_put_piece_by_piece_is_the_same_and_can_be_removed() {
    let folder = tempfile::tempdir().unwrap();
    let directory = open(&folder);
    let records = platform();
    for account in records.accounts.clone() {
        directory.put_account(account).await.unwrap();
    }
    for catalog in records.catalogs.clone() {
        directory.put_catalog(catalog).await.unwrap();
    }
    for mut solution in records.solutions.clone() {
        let of = solution.id.parse().unwrap();
        let catalogs = std::mem::take(&mut solution.catalogs);
        let revisions = std::mem::take(&mut solution.revisions);
        directory.put_solution(solution).await.unwrap();
        for catalog in catalogs {
            directory.publish(&of, &catalog).await.unwrap();
        }
        for mut revision in revisions {
            let rights = std::mem::take(&mut revision.rights);
            let everyone = std::mem::take(&mut revision.right_of_all);
            let revision_id = match &revision.id {
                Some(id) => RevisionId::new(id.as_str()),
                None => RevisionId::new(format!("{of}/{}", revision.version)),
            };
            directory.put_revision(&of, revision).await.unwrap();
            for login in rights {
                let holder = RightHolder::User(login);
                directory.put_right(&revision_id, holder).await.unwrap();
            }
            if everyone {
                let holder = RightHolder::Everyone;
                directory.put_right(&revision_id, holder).await.unwrap();
            }
        }
    }
    check(&directory).await;
    assert_eq!(directory.records().await.unwrap(), in_order(records));

    let ask = async |query: Query| directory.answer(&query).await.unwrap();
    let second = RevisionId::new(format!("{}/2.0.0", id(1)));
    let bob = || RightHolder::User("bob".to_owned());
    let right = || Query::Right(second.clone(), UserId::new("bob"));
    assert!(directory.remove_right(&second, bob()).await.unwrap());
    assert!(!directory.remove_right(&second, bob()).await.unwrap());
    assert_eq!(ask(right()).await, Answer::Right(Right::Everyone));
    directory.put_right(&second, bob()).await.unwrap();
    assert!(
        directory
            .remove_right(&second, RightHolder::Everyone)
            .await
            .unwrap()
    );
    assert_eq!(ask(right()).await, Answer::Right(Right::Own));

    assert!(directory.withdraw(&id(1), "Public Models").await.unwrap());
    assert!(!directory.withdraw(&id(1), "Public Models").await.unwrap());
    assert!(directory.remove_catalog("For partners").await.unwrap());
    assert_eq!(
        ask(Query::Catalogs(id(1))).await,
        Answer::Catalogs(Vec::new())
    );

    assert!(directory.remove_revision(&second).await.unwrap());
    assert!(!directory.remove_revision(&second).await.unwrap());
    assert!(matches!(
        ask(right()).await,
        Answer::Right(Right::None { .. })
    ));
    let churn = Query::Claimants("churn".parse().unwrap());
    assert_eq!(ask(churn.clone()).await, Answer::Claimants(vec![id(2)]));

    assert!(directory.remove_account("ada").await.is_err());
    assert!(directory.remove_account("bob").await.is_err());
    assert!(directory.remove_solution(&id(1)).await.unwrap());
    assert!(!directory.remove_solution(&id(1)).await.unwrap());
    let license = Query::License(RevisionId::new("r-1"));
    assert_eq!(ask(license).await, Answer::License(License::Unknown));
    assert!(directory.remove_account("ada").await.unwrap());
    assert!(!directory.remove_account("ada").await.unwrap());
    assert!(directory.remove_solution(&id(2)).await.unwrap());
    assert_eq!(ask(churn).await, Answer::Claimants(Vec::new()));
}

#[tokio::test]
async fn what_does_not_go_with_the_rest_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let directory = open(&folder);
    directory.import(platform()).await.unwrap();
    let before = directory.records().await.unwrap();
    let records = platform();
    let (ada, iris) = (&records.accounts[0], &records.solutions[0]);

    let mut taken = records.accounts[1].clone();
    taken.id = ada.id.clone();
    let mut moved = ada.clone();
    moved.id = Some("u-2".to_owned());
    let mut nobody = ada.clone();
    nobody.login = String::new();
    for (account, part) in [
        (taken, "another account's"),
        (moved, "has the id `u-1`"),
        (nobody, "empty"),
    ] {
        let error = directory
            .put_account(account)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(part), "{error}");
    }
    let changed = |change: &dyn Fn(&mut registry_auth::acumos::SolutionRecord)| {
        let mut solution = iris.clone();
        change(&mut solution);
        solution
    };
    for (solution, part) in [
        (
            changed(&|one| one.id = "1".to_owned()),
            "expected a solution id",
        ),
        (
            changed(&|one| one.owner = "eve".to_owned()),
            "`eve` is the login name of no account",
        ),
        (
            changed(&|one| one.catalogs = vec!["x".to_owned()]),
            "`x` is no catalogue",
        ),
        (
            changed(&|one| one.id = id(9).to_string()),
            "`r-1` is a revision's of another solution",
        ),
        (
            changed(&|one| one.revisions[1].id = Some("r-1".to_owned())),
            "another revision's too",
        ),
        (
            changed(&|one| one.revisions[0].images = vec!["x".to_owned()]),
            "`repository:tag`",
        ),
        (
            changed(&|one| one.revisions[0].rights = vec!["eve".to_owned()]),
            "`eve`",
        ),
    ] {
        let error = directory
            .put_solution(solution)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(part), "{error}");
    }
    let revision = iris.revisions[0].clone();
    assert!(directory.put_revision(&id(9), revision).await.is_err());
    assert!(directory.publish(&id(9), "Public Models").await.is_err());
    assert!(directory.publish(&id(1), "Private").await.is_err());
    let unknown = RevisionId::new("unheard of");
    assert!(
        directory
            .put_right(&unknown, RightHolder::Everyone)
            .await
            .is_err()
    );
    let eve = RightHolder::User("eve".to_owned());
    assert!(
        directory
            .put_right(&RevisionId::new("r-1"), eve)
            .await
            .is_err()
    );
    assert_eq!(directory.records().await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_see_all_of_a_change_or_nothing_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let directory = open(&folder);
    directory.import(platform()).await.unwrap();
    // A solution has none or both of two revisions, whoever writes.
    let full = platform().solutions.remove(0);
    let mut empty = full.clone();
    empty.revisions.clear();
    let writers: Vec<_> = [full, empty]
        .into_iter()
        .map(|solution| {
            let directory = directory.clone();
            tokio::spawn(async move {
                for _ in 0..20 {
                    directory.put_solution(solution.clone()).await.unwrap();
                }
            })
        })
        .collect();
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let directory = directory.clone();
            tokio::spawn(async move {
                for _ in 0..50 {
                    let answer = directory.answer(&Query::Revisions(id(1))).await;
                    let Ok(Answer::Revisions(revisions)) = answer else {
                        panic!("{answer:?}");
                    };
                    assert!([0, 2].contains(&revisions.len()), "{revisions:?}");
                }
            })
        })
        .collect();
    for task in writers.into_iter().chain(readers) {
        task.await.unwrap();
    }
    // And the last change is there for everyone.
    let mut last = platform().solutions.remove(0);
    last.revisions[0].license = LicenseRecord::Revoked;
    directory.put_solution(last).await.unwrap();
    let license = directory
        .answer(&Query::License(RevisionId::new("r-1")))
        .await;
    assert_eq!(license, Ok(Answer::License(License::Revoked)));
}

#[tokio::test]
async fn what_one_changes_the_other_sees_with_its_next_question() {
    let folder = tempfile::tempdir().unwrap();
    let (serving, operator) = (open(&folder), open(&folder));
    serving.import(platform()).await.unwrap();
    check(&operator).await;
    let query = Query::Account("bob".to_owned());
    let is_active = async || match serving.answer(&query).await {
        Ok(Answer::Account(Some(bob))) => bob.active,
        other => panic!("{other:?}"),
    };
    for active in [false, true, false] {
        let before = operator
            .change_account("bob", move |bob| std::mem::replace(&mut bob.active, active))
            .await
            .unwrap();
        assert_eq!(before, !active);
        assert_eq!(is_active().await, active);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_write_lose_nothing_of_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let one = open(&folder);
    one.put_account(AccountRecord::new("ada")).await.unwrap();
    let tasks: Vec<_> = [one.clone(), open(&folder), open(&folder)]
        .into_iter()
        .enumerate()
        .map(|(number, directory)| {
            tokio::spawn(async move {
                for count in 0..20 {
                    let role = format!("{number}-{count}");
                    let add = move |ada: &mut AccountRecord| ada.roles.push(role);
                    directory.change_account("ada", add).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(one.records().await.unwrap().accounts[0].roles.len(), 60);
    assert_eq!(one.check().await.unwrap(), one.records().await.unwrap());
}

#[tokio::test]
async fn many_at_once_may_make_the_database() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..20 {
        let path = folder.path().join(format!("platform-{round}.db"));
        let openers: Vec<_> = (0..8)
            .map(|_| {
                let path = path.clone();
                std::thread::spawn(move || EmbeddedDirectory::open(&path).unwrap())
            })
            .collect();
        for opener in openers {
            let directory = opener.join().unwrap();
            assert_eq!(directory.records().await.unwrap(), Records::default());
        }
    }
}

#[tokio::test]
async fn only_the_owner_can_read_the_file_and_what_is_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let directory = open(&folder);
    directory.import(platform()).await.unwrap();
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{entry:?}");
        names.push(entry.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(names, ["platform.db", "platform.db-shm", "platform.db-wal"]);
}

#[tokio::test]
async fn what_is_there_is_not_added_and_what_is_not_is_not_changed() {
    let folder = tempfile::tempdir().unwrap();
    let directory = open(&folder);
    directory.import(platform()).await.unwrap();
    let before = directory.records().await.unwrap();
    let records = platform();
    let iris = &records.solutions[0];
    let mut same_version = iris.revisions[0].clone();
    same_version.id = Some("r-9".to_owned());
    for (result, part) in [
        (
            directory.add_account(records.accounts[0].clone()).await,
            "there is an account `ada` already",
        ),
        (
            directory.add_catalog(records.catalogs[0].clone()).await,
            "there is a catalogue `Public Models` already",
        ),
        (
            directory.add_solution(iris.clone()).await,
            "there is a solution 00000000-0000-4000-8000-000000000001 already",
        ),
        (
            directory
                .add_revision(&id(1), iris.revisions[0].clone())
                .await,
            "there is a revision `r-1` already",
        ),
        (
            directory.add_revision(&id(1), same_version).await,
            "has a revision of version `1.0` already",
        ),
        (
            directory.change_account("eve", |_| ()).await.map(drop),
            "`eve` is the login name of no account here",
        ),
        (
            directory.set_solution_active(&id(9), true).await.map(drop),
            "there is no solution",
        ),
    ] {
        let error = result.unwrap_err();
        assert!(matches!(error, EmbeddedError::Records(_)), "{error:?}");
        assert!(error.to_string().contains(part), "{error}");
    }
    assert_eq!(directory.records().await.unwrap(), before);
    assert!(directory.set_solution_active(&id(1), false).await.unwrap());
    assert!(!directory.set_solution_active(&id(1), false).await.unwrap());
    assert!(!directory.set_solution_active(&id(1), true).await.unwrap());
}

#[tokio::test]
async fn a_revision_keeps_the_order_of_its_images() {
    let folder = tempfile::tempdir().unwrap();
    let directory = open(&folder);
    let mut records = platform();
    let images = ["z:1", "a:2", "m/n:3", "a:1"].map(str::to_owned).to_vec();
    records.solutions[0].revisions[0].images = images.clone();
    directory.import(records).await.unwrap();
    let kept = directory.records().await.unwrap();
    let revision = kept.solutions[0]
        .revisions
        .iter()
        .find(|one| one.id.is_some());
    assert_eq!(revision.unwrap().images, images);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_does_not_wait_for_who_writes() {
    let folder = tempfile::tempdir().unwrap();
    let (serving, operator) = (open(&folder), open(&folder));
    serving.import(platform()).await.unwrap();
    let is_active = async |directory: &EmbeddedDirectory| {
        let answer = directory.answer(&Query::Account("bob".to_owned())).await;
        let Ok(Answer::Account(Some(bob))) = answer else {
            panic!("{answer:?}");
        };
        bob.active
    };
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let (release, released) = std::sync::mpsc::channel();
    let writing = tokio::spawn({
        let operator = operator.clone();
        async move {
            let change = move |bob: &mut AccountRecord| {
                bob.active = false;
                begun.send(()).unwrap();
                released.recv().unwrap();
            };
            operator.change_account("bob", change).await
        }
    });
    has_begun.await.unwrap();
    assert!(is_active(&serving).await && is_active(&operator).await);
    release.send(()).unwrap();
    writing.await.unwrap().unwrap();
    assert!(!is_active(&serving).await && !is_active(&operator).await);
}
