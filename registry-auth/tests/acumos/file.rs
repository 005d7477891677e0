//! A directory in a file

use std::fs;

use registry_auth::acumos::{
    Answer, Directory, FileDirectory, License, Query, Records, RevisionId, Right, SolutionId,
    UserId, Visibility,
};

/// A platform with one of everything
pub(crate) const PLATFORM: &str = "
accounts:
  - login: ada
    id: u-1
    roles: [Publisher]
  - login: bob
  - { login: dan, active: false }
catalogs:
  - name: Public Models
  - name: For partners
    roles: [Partner]
solutions:
  - id: 00000000-0000-4000-8000-000000000001
    name: Iris
    owner: ada
    co_owners: [bob]
    catalogs: [Public Models, For partners]
    revisions:
      - version: 1.0
        id: r-1
        images: [iris_00000000-0000-4000-8000-000000000001:1.0]
        license: free
      - version: 2.0.0
        images: [shared/churn:2, churn:2.0.0]
        license: right-required
        right_of_all: true
        rights: [bob]
  - id: 00000000-0000-4000-8000-000000000002
    name: Gone
    owner: bob
    active: false
    revisions:
      - version: 1.0.0
        images: ['churn:1']
";

pub(crate) fn id(number: u32) -> SolutionId {
    format!("00000000-0000-4000-8000-{number:012}")
        .parse()
        .unwrap()
}

/// Asks a directory of [`PLATFORM`] everything
pub(crate) async fn check(directory: &dyn Directory) {
    let ask = async |query: Query| directory.answer(&query).await.unwrap();
    let Answer::Account(Some(ada)) = ask(Query::Account("ada".to_owned())).await else {
        panic!("ada has an account");
    };
    assert_eq!(
        (ada.user, ada.login.as_str(), ada.active),
        (UserId::new("u-1"), "ada", true)
    );
    assert_eq!(ada.roles, ["Publisher"]);
    let Answer::Account(Some(dan)) = ask(Query::Account("dan".to_owned())).await else {
        panic!("dan has an account");
    };
    assert_eq!((dan.user, dan.active), (UserId::new("dan"), false));
    assert_eq!(
        ask(Query::Account("ADA".to_owned())).await,
        Answer::Account(None)
    );
    let Answer::Solution(Some(iris)) = ask(Query::Solution(id(1))).await else {
        panic!("there is a solution 1");
    };
    assert_eq!(
        (iris.id, iris.name.as_str(), iris.active),
        (id(1), "Iris", true)
    );
    assert_eq!(iris.owner, UserId::new("u-1"));
    let Answer::Solution(Some(gone)) = ask(Query::Solution(id(2))).await else {
        panic!("there is a solution 2");
    };
    assert!(!gone.active);
    assert_eq!(ask(Query::Solution(id(3))).await, Answer::Solution(None));
    let bob = || UserId::new("bob");
    assert_eq!(
        ask(Query::CoOwners(id(1))).await,
        Answer::CoOwners(vec![bob()])
    );
    assert_eq!(
        ask(Query::CoOwners(id(2))).await,
        Answer::CoOwners(Vec::new())
    );
    let Answer::Catalogs(mut catalogs) = ask(Query::Catalogs(id(1))).await else {
        panic!("expected catalogues");
    };
    catalogs.sort_by(|a, b| b.name.cmp(&a.name));
    let [public, partners] = catalogs.as_slice() else {
        panic!("{catalogs:?}");
    };
    assert_eq!(
        (public.name.as_str(), &public.visibility),
        ("Public Models", &Visibility::Public)
    );
    let roles = vec!["Partner".to_owned()];
    assert_eq!(partners.visibility, Visibility::Restricted { roles });
    assert_eq!(
        ask(Query::Catalogs(id(2))).await,
        Answer::Catalogs(Vec::new())
    );
    for (name, expected) in [
        ("churn", vec![id(1), id(2)]),
        ("shared/churn", vec![id(1)]),
        ("nowhere", vec![]),
    ] {
        let claimants = ask(Query::Claimants(name.parse().unwrap())).await;
        assert_eq!(claimants, Answer::Claimants(expected), "{name}");
    }
    let Answer::Revisions(mut revisions) = ask(Query::Revisions(id(1))).await else {
        panic!("expected revisions");
    };
    revisions.sort_by(|a, b| a.version.cmp(&b.version));
    let [one, two] = revisions.as_slice() else {
        panic!("{revisions:?}");
    };
    assert_eq!(
        (one.version.as_str(), &one.id),
        ("1.0", &RevisionId::new("r-1"))
    );
    let second = RevisionId::new(format!("{}/2.0.0", id(1)));
    assert_eq!((two.version.as_str(), &two.id), ("2.0.0", &second));
    assert_eq!(two.images.len(), 2);
    assert_eq!(two.images[0].repository.as_str(), "shared/churn");
    assert_eq!(
        ask(Query::Revisions(id(3))).await,
        Answer::Revisions(Vec::new())
    );
    for (revision, license) in [
        (RevisionId::new("r-1"), License::Free),
        (second.clone(), License::RightRequired),
        (
            RevisionId::new(format!("{}/1.0.0", id(2))),
            License::Unknown,
        ),
        (RevisionId::new("unheard of"), License::Unknown),
    ] {
        assert_eq!(
            ask(Query::License(revision)).await,
            Answer::License(license)
        );
    }
    for (revision, user, expected) in [
        (second.clone(), bob(), Some(Right::Own)),
        (second, UserId::new("u-1"), Some(Right::Everyone)),
        (RevisionId::new("r-1"), bob(), None),
        (RevisionId::new("unheard of"), bob(), None),
    ] {
        let Answer::Right(right) = ask(Query::Right(revision.clone(), user)).await else {
            panic!("expected a right");
        };
        match expected {
            Some(expected) => assert_eq!(right, expected),
            None => assert!(
                matches!(right, Right::None { .. }),
                "{revision:?}: {right:?}"
            ),
        }
    }
    let digest = registry_core::Digest::sha256(b"x");
    let tags = Query::Tags("churn".parse().unwrap(), digest);
    assert!(directory.answer(&tags).await.is_err());
}

#[tokio::test]
async fn a_file_answers_what_it_says_and_keeps_it_when_a_new_one_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("platform.yml");
    fs::write(&path, PLATFORM).unwrap();
    let directory = FileDirectory::open(&path).unwrap();
    check(&directory).await;
    fs::write(&path, PLATFORM.replace("owner: ada", "owner: eve")).unwrap();
    let error = directory.reload().unwrap_err().to_string();
    assert!(
        error.contains("`eve`") && error.contains("platform.yml"),
        "{error}"
    );
    check(&directory).await;
    fs::remove_file(&path).unwrap();
    assert!(
        directory
            .reload()
            .unwrap_err()
            .to_string()
            .contains("cannot read")
    );
    check(&directory).await;
    fs::write(
        &path,
        PLATFORM.replace("- login: bob", "- { login: bob, active: false }"),
    )
    .unwrap();
    directory.reload().unwrap();
    let Answer::Account(Some(bob)) = directory
        .answer(&Query::Account("bob".into()))
        .await
        .unwrap()
    else {
        panic!("bob has an account");
    };
    assert!(!bob.active);
    fs::write(&path, "").unwrap();
    directory.reload().unwrap();
    let gone = directory.answer(&Query::Account("ada".into())).await;
    assert_eq!(gone, Ok(Answer::Account(None)));
    assert!(FileDirectory::open(folder.path()).is_err());
}

#[test]
fn what_is_wrong_is_named_with_where_it_is() {
    for (old, new, expected) in [
        ("login: bob", "login: ada", "account `ada` is there twice"),
        ("login: bob", "login: ''", "empty `login`"),
        (
            "id: u-1",
            "id: bob",
            "account `bob`: the id `bob` is another account's too",
        ),
        (
            "name: For partners",
            "name: Public Models",
            "catalogue `Public Models` is there twice",
        ),
        (
            "- id: 00000000-0000-4000-8000-000000000002",
            "- id: 00000000-0000-4000-8000-000000000001",
            "solution `00000000-0000-4000-8000-000000000001` is there twice",
        ),
        (
            "- id: 00000000-0000-4000-8000-000000000002",
            "- id: 2",
            "the solution named `Gone`: expected a solution id such as \
             `9d294c20-7b1f-4ab7-b8b3-03bc7f069ac1`, got `2`",
        ),
        (
            "owner: ada",
            "owner: eve",
            "the owner `eve` is the login name of no account here",
        ),
        (
            "co_owners: [bob]",
            "co_owners: [eve]",
            "the co-owner `eve` is",
        ),
        (
            "rights: [bob]",
            "rights: [eve]",
            "revision `2.0.0`: the holder of a right `eve` is",
        ),
        (
            "catalogs: [Public Models,",
            "catalogs: [Private,",
            "`Private` is no catalogue here",
        ),
        (
            "'churn:1'",
            "'churn'",
            "expected an image as `repository:tag`",
        ),
        ("churn:2.0.0", "CHURN:2.0.0", "got `CHURN:2.0.0`"),
        (
            "        id: r-1\n",
            "        id: 00000000-0000-4000-8000-000000000001/2.0.0\n",
            "give each an `id` of its own",
        ),
        ("license: free", "license: gratis", "gratis"),
        ("owner: ada", "onwer: ada", "onwer"),
        ("accounts:", "users:", "users"),
        ("active: false }", "active: perhaps }", "bool"),
    ] {
        assert!(PLATFORM.contains(old), "{old}");
        let text = PLATFORM.replacen(old, new, 1);
        let error = text
            .parse::<Records>()
            .and_then(|records| records.check())
            .expect_err(new)
            .to_string();
        assert!(error.contains(expected), "{new}: {error}");
    }
    let many: String = (0..20)
        .map(|number| format!("  - {{ id: {number}, name: x, owner: y }}\n"))
        .collect();
    let records: Records = format!("solutions:\n{many}").parse().unwrap();
    let error = records.check().unwrap_err();
    assert_eq!(error.problems().len(), 20);
    assert!(error.to_string().ends_with("; and 12 more"), "{error}");
}
