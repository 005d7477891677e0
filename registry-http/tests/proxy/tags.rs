//! Which tags lead to a digest: learnt from what passes, and found at the upstream

use std::time::Duration;

use registry_auth::acumos::TagsOf;
use registry_core::{Digest, RepositoryName};
use registry_http::{Upstream, UpstreamTags};

use crate::content::{Blob, INDEX, MANIFEST, index, pretty};
use crate::support::{Proxy, options, registry};

async fn tags(of: &UpstreamTags, name: &str, digest: &str) -> Vec<String> {
    let name = RepositoryName::try_from(name).unwrap();
    let digest: Digest = digest.parse().unwrap();
    let tags = of.tags_of(&name, &digest).await.unwrap();
    tags.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn the_tags_of_content_are_found_at_the_upstream() {
    let (upstream, seen) = registry().await;
    let proxy = Proxy::start(options(upstream)).await;
    let (shared, alone) = (Blob::new("shared"), Blob::new("alone"));
    let (one, bytes) = proxy.push_image("app", "one", &shared).await;
    let (two, _) = proxy.push_image("app", "two", &shared).await;
    proxy.push_image("app", "three", &alone).await;
    let child = crate::content::descriptor(MANIFEST, &one, bytes.len());
    proxy
        .ask("PUT", "/v2/app/manifests/many")
        .header("Content-Type", INDEX)
        .body(pretty(&index(&[child])))
        .send()
        .await
        .expect(201);

    let of = UpstreamTags::new(Upstream::new(options(upstream)).unwrap());
    seen.take();
    let sorted = |mut tags: Vec<String>| {
        tags.sort();
        tags
    };
    let lookups = (0..8).map(|_| tags(&of, "app", &shared.digest));
    for found in futures::future::join_all(lookups).await {
        assert_eq!(sorted(found), ["many", "one", "two"]);
    }
    assert_eq!(sorted(tags(&of, "app", &one).await), ["many", "one"]);
    assert_eq!(tags(&of, "app", &two).await, ["two"]);
    assert_eq!(tags(&of, "app", &alone.digest).await, ["three"]);
    assert_eq!(
        tags(&of, "app", &Blob::new("nobody's").digest).await,
        [""; 0]
    );
    // One look for all of that: how to log in, the list, four tags, and the child of the index.
    let asked = seen.take();
    assert!(asked.len() <= 7, "{asked:?}");
    assert_eq!(tags(&of, "nowhere", &two).await, [""; 0]);
}

#[tokio::test]
async fn what_passes_is_learnt() {
    let (upstream, _) = registry().await;
    let of = UpstreamTags::new(Upstream::new(options(upstream)).unwrap());
    let learner = of.clone();
    let proxy = Proxy::with(
        options(upstream),
        |_, _| true,
        |builder| builder.tags(learner),
    )
    .await;
    let (first, second) = (Blob::new("first"), Blob::new("second"));
    proxy.push_image("app", "v1", &first).await;
    assert_eq!(tags(&of, "app", &first.digest).await, ["v1"]);
    // All of the repository is known by now, and what is pushed since too.
    proxy.push_image("app", "v2", &first).await;
    assert_eq!(tags(&of, "app", &first.digest).await, ["v2", "v1"]);
    // A tag that moves leads to what it had no longer.
    proxy.push_image("app", "v2", &second).await;
    assert_eq!(tags(&of, "app", &first.digest).await, ["v1"]);
    assert_eq!(tags(&of, "app", &second.digest).await, ["v2"]);
    // The one that was pulled last comes first.
    proxy.push_image("app", "v3", &first).await;
    proxy
        .ask("GET", "/v2/app/manifests/v1")
        .send()
        .await
        .expect(200);
    assert_eq!(tags(&of, "app", &first.digest).await, ["v1", "v3"]);
    proxy
        .ask("DELETE", "/v2/app/manifests/v1")
        .send()
        .await
        .expect(202);
    assert_eq!(tags(&of, "app", &first.digest).await, ["v3"]);
}

#[tokio::test]
async fn an_upstream_that_does_not_say_is_no_answer() {
    let silent = crate::support::Scripted::start(|_| Vec::new()).await;
    let of = UpstreamTags::new(Upstream::new(options(silent.address)).unwrap());
    let name = RepositoryName::try_from("app").unwrap();
    let error = of.tags_of(&name, &Digest::sha256(b"")).await.unwrap_err();
    assert!(error.to_string().contains("not answer in time"), "{error}");
}

#[tokio::test]
async fn what_a_digest_leads_to_is_asked_for_once() {
    let (upstream, seen) = registry().await;
    let proxy = Proxy::start(options(upstream)).await;
    let (first, second) = (Blob::new("first"), Blob::new("second"));
    let (digest, bytes) = proxy.push_image("app", "v1", &first).await;
    proxy.push_image("app", "v2", &second).await;
    let child = crate::content::descriptor(MANIFEST, &digest, bytes.len());
    proxy
        .ask("PUT", "/v2/app/manifests/many")
        .header("Content-Type", INDEX)
        .body(pretty(&index(&[child])))
        .send()
        .await
        .expect(201);
    let of = UpstreamTags::builder(Upstream::new(options(upstream)).unwrap())
        .fresh(Duration::ZERO)
        .parallel(1)
        .build();
    let name = RepositoryName::try_from("app").unwrap();
    let look = async |blob: &Blob| {
        seen.take();
        // Nothing is fresh, so that each question is a look; and its answer is what that found.
        let found = of.tags_of(&name, &blob.digest.parse().unwrap()).await;
        assert_eq!(found.unwrap(), []);
        let asked = seen.take().into_iter();
        let asked = asked.filter(|line| line.contains("/manifests/"));
        let mut asked: Vec<_> = asked
            .map(|line| line.replace("/v2/app/manifests/", ""))
            .collect();
        asked.sort();
        asked
    };
    let child = format!("GET {digest}");
    assert_eq!(
        look(&first).await,
        ["GET many", &child, "GET v1", "GET v2"].map(str::to_owned)
    );
    assert_eq!(look(&first).await, ["HEAD many", "HEAD v1", "HEAD v2"]);
    // A tag that moved to what another one leads to, a new one, and one that is gone.
    let target = "/v2/app/manifests/v2";
    let pull = proxy.ask("GET", "/v2/app/manifests/v1").send().await;
    let moved = proxy.ask("PUT", target).header("Content-Type", MANIFEST);
    moved.body(&pull.body).send().await.expect(201);
    proxy.push_image("app", "v3", &second).await;
    let gone = proxy.ask("DELETE", "/v2/app/manifests/many");
    gone.send().await.expect(202);
    assert_eq!(look(&first).await, ["GET v3", "HEAD v1", "HEAD v2"]);
}

#[tokio::test]
async fn there_are_no_more_looks_than_there_may_be() {
    let silent = crate::support::Scripted::start(|_| Vec::new()).await;
    let of = UpstreamTags::builder(Upstream::new(options(silent.address)).unwrap())
        .max_looks(2)
        .build();
    let ask = async |name: &str| {
        let name = RepositoryName::try_from(name).unwrap();
        let found = of.tags_of(&name, &Digest::sha256(b"")).await;
        found.unwrap_err().to_string()
    };
    let (one, two, three) = tokio::join!(ask("a"), ask("b"), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        ask("c").await
    });
    assert!(one.contains("in time") && two.contains("in time"), "{one}");
    assert!(three.contains("as many repositories"), "{three}");
    // There is room again.
    assert!(ask("c").await.contains("in time"));
}

#[tokio::test]
async fn a_repository_with_too_many_tags_is_not_looked_at() {
    let (upstream, _) = registry().await;
    let proxy = Proxy::start(options(upstream)).await;
    let layer = Blob::new("layer");
    for tag in ["one", "two"] {
        proxy.push_image("app", tag, &layer).await;
    }
    let of = |max| {
        UpstreamTags::builder(Upstream::new(options(upstream)).unwrap())
            .max_tags(max)
            .build()
    };
    assert_eq!(tags(&of(2), "app", &layer.digest).await.len(), 2);
    let name = RepositoryName::try_from("app").unwrap();
    let digest = layer.digest.parse().unwrap();
    let error = of(1).tags_of(&name, &digest).await.unwrap_err();
    assert!(error.to_string().contains("more than 1 tags"), "{error}");
}
