//! What a measurement was made on

use std::fs;
use std::path::Path;

/// A line for each thing that a reader must know to judge the numbers
pub fn describe(folder: &Path) -> Vec<String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_once(':'));
        value.map_or_else(
            || "unknown".to_owned(),
            |(_, value)| value.trim().to_owned(),
        )
    };
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let memory: u64 = field(&read("/proc/meminfo"), "MemTotal")
        .trim_end_matches(" kB")
        .parse()
        .unwrap_or(0);
    let load = read("/proc/loadavg");
    let load: Vec<&str> = load.split_whitespace().take(3).collect();
    vec![
        format!(
            "{processors} processors ({}), shared with the load generator",
            field(&read("/proc/cpuinfo"), "model name")
        ),
        format!("{} GiB of memory", memory >> 20),
        format!("Linux {}", read("/proc/sys/kernel/osrelease").trim()),
        format!(
            "file system of the stores: {}",
            file_system(&read("/proc/self/mounts"), folder)
        ),
        format!("load average when it began: {}", load.join(" ")),
    ]
}

/// The type of the file system that a folder is on
fn file_system(mounts: &str, folder: &Path) -> String {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        Some((fields.next()?, fields.next()?))
    });
    mounts
        .filter(|(at, _)| folder.starts_with(at))
        // The last of equals: what is mounted over something hides it.
        .max_by_key(|(at, _)| at.len())
        .map_or("unknown", |(_, kind)| kind)
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_on_the_deepest_mount() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /proc tmpfs rw 0 0\n/dev/b /proc proc rw 0 0\n";
        assert_eq!(file_system(mounts, Path::new("/proc")), "proc");
        assert_eq!(file_system(mounts, Path::new("/")), "ext4");
        assert_eq!(file_system("", Path::new("/")), "unknown");
    }

    #[test]
    fn the_machine_has_processors_and_a_kernel() {
        let lines = describe(Path::new("/"));
        assert!(!lines[0].starts_with('0'), "{lines:?}");
        assert!(lines[2].len() > "Linux ".len(), "{lines:?}");
    }
}
