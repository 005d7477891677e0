//! `registry copy` and `registry verify`: killed, beside a registry that serves, and damaged

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use registry_core::Digest;
use tempfile::TempDir;

use crate::distribution::{pull_back, push_everything};
use crate::support::check::{self, inventory};
use crate::support::clients::Home;
use crate::support::http::push_blob;
use crate::support::image::{Layout, Noise};
use crate::support::moto::Moto;
use crate::support::peer::Peer;
use crate::support::process::{Server, finish, registry, run, run_failing};

/// Configurations of storages, in a folder of their own
struct Configs {
    folder: TempDir,
}

impl Configs {
    fn new() -> Self {
        Self {
            folder: TempDir::new().expect("a folder"),
        }
    }

    fn write(&self, name: &str, storage: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        let text =
            format!("version: 0.1\nstorage: {{{storage}}}\nhttp: {{addr: \"127.0.0.1:0\"}}\n");
        fs::write(&path, text).expect("written");
        path
    }

    fn folder(&self, name: &str, root: &Path) -> PathBuf {
        let storage = format!("filesystem: {{rootdirectory: '{}'}}", root.display());
        self.write(name, &storage)
    }
}

fn copy(from: &Path, to: &Path, more: &[&str]) -> std::process::Command {
    let mut command = registry(&["copy", "--from"]);
    command.arg(from).arg("--to").arg(to).args(more);
    command
}

fn verify(config: &Path) -> String {
    run(registry(&["verify"]).arg(config))
}

/// Copies and is killed, each time a little later, until a copy is done before that; gives how
/// often it was killed
fn copy_among_kills(from: &Path, to: &Path, check: impl Fn()) -> u32 {
    let mut moments = Noise::new(7);
    let mut kills = 0;
    for round in 0u64.. {
        let mut child = copy(from, to, &["--concurrency", "2"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let deadline = Instant::now() + Duration::from_millis(30 + round * 40 + moments.below(40));
        let ended = loop {
            if let Some(status) = child.try_wait().expect("a status") {
                break Some(status);
            }
            if Instant::now() > deadline {
                break None;
            }
            thread::sleep(Duration::from_millis(2));
        };
        match ended {
            Some(status) => {
                assert!(status.success(), "{status}");
                check();
                break;
            }
            None => {
                child.kill().expect("it runs");
                child.wait().expect("it ends");
                kills += 1;
                check();
            }
        }
    }
    kills
}

/// Fills a registry by skopeo, and with a layer that takes a while
fn fill(home: &Home, address: &str, prefix: &str) -> Option<Layout> {
    let skopeo = home.skopeo()?;
    let layout = Layout::write(&home.path("layout"), 50, &[40_000, 3_000, 30_000_000]);
    let compressed = Layout::write(&home.path("compressed"), 55, &[60_000]);
    push_everything(&skopeo, &layout, &compressed, address, prefix);
    Some(layout)
}

#[test]
fn a_folder_copied_among_kills_is_whole_all_the_time() {
    let home = Home::new();
    let (source, target) = (
        TempDir::new().expect("a folder"),
        TempDir::new().expect("a folder"),
    );
    let server = Server::ours(source.path());
    let Some(layout) = fill(&home, &server.address, "ours") else {
        return;
    };
    push_blob(&server.address, "layers/only", b"not yet in an image")
        .expect("answered")
        .expect(&[201]);
    let written = inventory(&server.address);
    assert!(server.stop().success());

    let configs = Configs::new();
    let from = configs.folder("from.yml", source.path());
    let to = configs.folder("to.yml", target.path());
    let kills = copy_among_kills(&from, &to, || check::store_is_whole(target.path()));
    assert!(kills >= 2, "only {kills} kills before it was done");
    let said = verify(&to);
    assert!(said.contains("problems      0"), "{said}");
    let again = run(&mut copy(&from, &to, &[]));
    assert!(again.contains("0 copied (0 B)"), "{again}");

    let server = Server::configured(&to);
    assert_eq!(inventory(&server.address), written);
    let skopeo = home.skopeo().expect("found before");
    pull_back(&skopeo, &home, &layout, &server.address, "ours");
}

#[test]
fn what_the_reference_wrote_is_copied_to_a_bucket_and_back() {
    let home = Home::new();
    let source = TempDir::new().expect("a folder");
    let Some(server) = Server::reference(source.path()) else {
        return;
    };
    let Some(layout) = fill(&home, &server.address, "theirs") else {
        return;
    };
    let written = inventory(&server.address);
    drop(server);
    let Some(moto) = Moto::start() else { return };
    moto.make_bucket("moved");

    let configs = Configs::new();
    let from = configs.folder("from.yml", source.path());
    let bucket = configs.write(
        "bucket.yml",
        &moto.storage("moved", ", rootdirectory: /below"),
    );
    copy_among_kills(&from, &bucket, || {
        // Nothing yet is whole too, and said to be nothing.
        let (_, _, errors) = finish(registry(&["verify"]).arg(&bucket));
        assert!(!errors.contains("problem: "), "{errors}");
    });
    verify(&bucket);
    let server = Server::configured(&bucket);
    assert_eq!(inventory(&server.address), written);
    let skopeo = home.skopeo().expect("found before");
    pull_back(&skopeo, &home, &layout, &server.address, "theirs");
    drop(server);

    let back = TempDir::new().expect("a folder");
    let to = configs.folder("back.yml", back.path());
    run(&mut copy(&bucket, &to, &[]));
    check::store_is_whole(back.path());
    let reference = Server::reference(back.path()).expect("found before");
    assert_eq!(inventory(&reference.address), written);
}

#[test]
fn pushes_go_on_at_the_source() {
    let (source, target) = (
        TempDir::new().expect("a folder"),
        TempDir::new().expect("a folder"),
    );
    let configs = Configs::new();
    let from = configs.folder("from.yml", source.path());
    let to = configs.folder("to.yml", target.path());
    let server = Server::ours(source.path());
    let served = Server::configured(&to);
    let peer = Peer::plain(&server.address);
    peer.push_image("team/app", "v0", 1);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let (stop, address) = (&stop, &server.address);
        scope.spawn(move || {
            let peer = Peer::plain(address);
            for number in 1u64.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let repository = format!("team/app{}", number % 3);
                peer.push_image(&repository, "latest", number);
                peer.push_image(&repository, &format!("v{number}"), number);
            }
        });
        for _ in 0..3 {
            let said = run(&mut copy(&from, &to, &[]));
            assert!(said.contains("problems      0"), "{said}");
            verify(&to);
            // Everything that the target lists can be pulled from it.
            assert!(!inventory(&served.address).is_empty());
        }
        stop.store(true, Ordering::Relaxed);
    });
    run(&mut copy(&from, &to, &[]));
    assert_eq!(inventory(&served.address), inventory(&server.address));
}

#[test]
fn damage_is_listed_and_the_rest_is_copied() {
    let (source, target) = (
        TempDir::new().expect("a folder"),
        TempDir::new().expect("a folder"),
    );
    let server = Server::ours(source.path());
    let peer = Peer::plain(&server.address);
    peer.push_image("good", "v1", 1);
    let layer = Noise::new(9).bytes(5_000_000);
    push_blob(&server.address, "bad", &layer)
        .expect("answered")
        .expect(&[201]);
    assert!(server.stop().success());
    let digest = Digest::sha256(&layer);
    let hex = digest.hex();
    let data = format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]);
    let mut bytes = layer.clone();
    bytes[4_999_999] ^= 1;
    fs::write(source.path().join(&data), bytes).expect("written");

    let configs = Configs::new();
    let from = configs.folder("from.yml", source.path());
    let to = configs.folder("to.yml", target.path());
    let (status, output, errors) = finish(&mut copy(&from, &to, &["--json"]));
    assert_eq!(status.code(), Some(1));
    assert!(errors.contains(&digest.to_string()), "{errors}");
    let report: serde_json::Value = serde_json::from_str(&output).expect("JSON");
    assert_eq!(report["complete"], false);
    assert_eq!(report["problems"][0]["kind"], "damaged-blob");
    assert_eq!(report["tags"]["new"], 1);
    assert!(!target.path().join(&data).exists());
    check::store_is_whole(target.path());
    verify(&to);
    let errors = run_failing(registry(&["verify"]).arg(&from));
    assert!(errors.contains("is damaged"), "{errors}");

    fs::write(source.path().join(&data), layer).expect("written");
    run(&mut copy(&from, &to, &[]));
    assert!(target.path().join(&data).exists());
}

#[test]
fn what_makes_no_sense_is_refused() {
    let (source, target) = (
        TempDir::new().expect("a folder"),
        TempDir::new().expect("a folder"),
    );
    let configs = Configs::new();
    let from = configs.folder("from.yml", source.path());
    let to = configs.folder("to.yml", target.path());
    let link = configs.folder.path().join("link");
    std::os::unix::fs::symlink(source.path(), &link).expect("a link");
    let linked = configs.folder("linked.yml", &link);
    let mistyped = configs.folder("mistyped.yml", &configs.folder.path().join("nothing"));
    let memory = configs.write("memory.yml", "inmemory: {}");
    for (from, to, words) in [
        (&from, &from, "the same storage"),
        (&from, &linked, "the same storage"),
        (&mistyped, &to, "there is no folder"),
        (&memory, &to, "nothing stays"),
        (&from, &to, "there is no repository"),
    ] {
        let errors = run_failing(&mut copy(from, to, &[]));
        assert!(errors.contains(words), "{errors}");
    }
    assert!(!configs.folder.path().join("nothing").exists());
}
