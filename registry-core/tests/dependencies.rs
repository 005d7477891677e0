//! What this crate depends on, pinned: no runtime, no I/O, no clock

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// Every crate that is linked into a program because of `registry-core`
///
/// `oci-spec` brings most of them: its builders, string enums and error types. A new line here
/// is a decision: whoever takes names and manifests alone pays for it.
const ALLOWED: &[&str] = &[
    "aho-corasick",
    "block-buffer",
    "bytes",
    "cfg-if",
    "const-oid",
    "const_format",
    "cpufeatures",
    "crypto-common",
    "derive_builder",
    "digest",
    "hybrid-array",
    "itoa",
    "konst",
    "konst_macro_rules",
    "memchr",
    "oci-spec",
    "registry-core",
    "regex",
    "regex-automata",
    "regex-syntax",
    "serde",
    "serde_core",
    "serde_json",
    "sha2",
    "strum",
    "thiserror",
    "typenum",
    "uuid",
    "zmij",
];

/// Crates that would bring a runtime, I/O, or a clock
const FORBIDDEN: &[&str] = &[
    "async-std",
    "chrono",
    "futures-executor",
    "getrandom",
    "http",
    "hyper",
    "jiff",
    "mio",
    "object_store",
    "rand",
    "rustix",
    "smol",
    "socket2",
    "tempfile",
    "time",
    "tokio",
    "walkdir",
    "windows-sys",
];

#[test]
fn the_dependency_tree_is_the_pinned_one() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    // No build dependencies and no procedural macros: what ends up in the program.
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--edges",
            "normal,no-proc-macro",
            "--prefix",
            "none",
        ])
        .args(["--format", "{p}", "--manifest-path"])
        .arg(&manifest)
        .output()
        .expect("cargo ran this test, so cargo can be run");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).expect("cargo prints UTF-8");
    let found: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    for name in FORBIDDEN {
        assert!(
            !found.contains(name),
            "`{name}` came into the tree:\n{text}"
        );
    }
    let allowed: BTreeSet<&str> = ALLOWED.iter().copied().collect();
    let new: Vec<_> = found.difference(&allowed).collect();
    assert!(new.is_empty(), "new in the tree: {new:?}");
}

#[test]
fn the_sources_use_no_file_network_or_clock() {
    let mut pending = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut read = 0;
    while let Some(folder) = pending.pop() {
        for entry in folder.read_dir().expect("the sources are readable") {
            let path = entry.expect("the sources are readable").path();
            if path.is_dir() {
                pending.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("sources are UTF-8");
            read += 1;
            for part in [
                "std::fs",
                "std::net::Tcp",
                "std::thread",
                "std::process",
                "SystemTime",
                "Instant::now",
            ] {
                assert!(!text.contains(part), "{} uses {part}", path.display());
            }
        }
    }
    assert!(read > 5, "only {read} sources were read");
}
