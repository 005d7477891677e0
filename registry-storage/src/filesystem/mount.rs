//! What a folder is mounted from, and whether that will do

use std::fmt;
use std::fs::{self, File};

use rustix::fs::{AtFlags, StatxFlags};

/// File systems (`f_type` of `statfs(2)`) whose answers come from elsewhere, but for NFS
///
/// What is not listed is taken for local. FUSE is here because nobody knows what is behind it.
const REMOTE: [u32; 11] = [
    0x0000_517b, // SMB
    0xff53_4d42, // CIFS
    0xfe53_4d42, // SMB 2
    0x6573_5546, // FUSE
    0x0102_1997, // 9P
    0x00c3_6400, // Ceph
    0x5346_414f, // AFS
    0x0bd0_0bd0, // Lustre
    0x0116_1970, // GFS2
    0x7461_636f, // OCFS2
    0x4750_4653, // GPFS
];

/// ext2 to ext4
const EXT: u32 = 0x0000_ef53;

/// NFS of any version
const NFS: u32 = 0x0000_6969;

/// File systems (`f_type` of `statfs(2)`) on which the kernel itself does all changes, one after another
///
/// Their folders tell by their times that they changed, and the kernel tells whoever watches
/// them.
const TELLING: [u32; 7] = [
    EXT,
    0x5846_5342, // XFS
    0x9123_683e, // Btrfs
    0x0102_1994, // tmpfs
    0x2fc1_2fc1, // ZFS
    0xf2f5_2010, // F2FS
    0xca45_1a4e, // bcachefs
];

/// The options of an NFS mount that its description names
const TOLD: [&str; 20] = [
    "vers",
    "minorversion",
    "proto",
    "hard",
    "soft",
    "softerr",
    "timeo",
    "retrans",
    "nocto",
    "noac",
    "sync",
    "acregmin",
    "acregmax",
    "acdirmin",
    "acdirmax",
    "actimeo",
    "lookupcache",
    "nolock",
    "local_lock",
    "fsc",
];

/// What care the file system needs
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Care {
    /// The kernel has the truth
    Local,
    /// Someone else has it: nothing is taken from this machine's memory
    Remote,
    /// Remote, with the ways of an NFS client: it remembers what it did not find, and names of
    /// what is gone
    Nfs,
}

/// What a storage folder is mounted from, and with which options
///
/// Made by [`FileSystem::open`](super::FileSystem::open) from `/proc/self/mountinfo`. Its
/// [`Display`](fmt::Display) is a line for the log.
///
/// # Examples
///
/// ```
/// use registry_storage::FileSystem;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let root = tempfile::tempdir()?;
/// let folder = FileSystem::open(root.path())?;
/// println!("the storage is on {}", folder.mount());
/// for warning in folder.mount().warnings() {
///     eprintln!("{warning}");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub(super) care: Care,
    /// Nothing where the system does not say
    entry: Option<Entry>,
}

/// A line of `/proc/self/mountinfo`
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    kind: String,
    source: String,
    /// Those of the mount and those of the file system
    options: Vec<String>,
}

/// What is not as it should be for a registry, though it can run
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MountWarning {
    /// Opening a file does not ask the server whether it has changed
    NoCloseToOpen,
    /// The mount waits on the server where it need not
    Slow {
        /// The option that makes it so
        option: String,
    },
    /// What the server does not answer in time fails, though it may be done yet
    Soft {
        /// `soft` or `softerr`
        option: String,
    },
    /// The mount's options could not be read, and so not be checked
    Unknown,
}

impl Mount {
    /// What is known of the mount that an open folder is on
    pub(super) fn of(folder: &File) -> Self {
        // Not to know is to be careful: the careful way is only a little slower.
        let care = rustix::fs::fstatfs(folder).map_or(Care::Remote, |stat| match kind(&stat) {
            NFS => Care::Nfs,
            kind if REMOTE.contains(&kind) => Care::Remote,
            _ => Care::Local,
        });
        let entry = rustix::fs::statx(folder, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)
            .ok()
            .filter(|stat| stat.stx_mask & StatxFlags::MNT_ID.bits() != 0)
            .and_then(|stat| {
                let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
                Entry::find(&table, stat.stx_mnt_id)
            });
        Self { care, entry }
    }

    /// Whether what is stored is on another machine, as far as we can tell
    pub fn is_remote(&self) -> bool {
        self.care != Care::Local
    }

    /// Whether it is a mount of NFS
    pub fn is_nfs(&self) -> bool {
        self.care == Care::Nfs
    }

    /// What is not as it should be; empty for a local disk and for NFS with its default options
    pub fn warnings(&self) -> Vec<MountWarning> {
        if !self.is_nfs() {
            return Vec::new();
        }
        let Some(entry) = &self.entry else {
            return vec![MountWarning::Unknown];
        };
        let mut warnings = Vec::new();
        for option in &entry.options {
            match option.as_str() {
                "soft" | "softerr" => warnings.push(MountWarning::Soft {
                    option: option.clone(),
                }),
                "nocto" => warnings.push(MountWarning::NoCloseToOpen),
                "noac" | "actimeo=0" | "lookupcache=none" | "sync" => {
                    warnings.push(MountWarning::Slow {
                        option: option.clone(),
                    });
                }
                _ => {}
            }
        }
        warnings
    }

    /// The option by which locks hold on this machine only, if there is one
    pub(super) fn local_locks(&self) -> Option<&str> {
        let entry = self.entry.as_ref().filter(|_| self.is_nfs())?;
        entry
            .options
            .iter()
            .map(String::as_str)
            .find(|option| matches!(*option, "nolock" | "local_lock=all" | "local_lock=flock"))
    }
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(entry) = &self.entry else {
            return f.write_str(match self.care {
                Care::Local => "a local file system",
                Care::Remote => "a file system on another machine",
                Care::Nfs => "NFS, with unknown options",
            });
        };
        write!(f, "{} from `{}`", entry.kind, entry.source)?;
        if self.is_nfs() {
            let told = entry.options.iter().filter(|option| {
                let name = option
                    .split_once('=')
                    .map_or(option.as_str(), |(name, _)| name);
                TOLD.contains(&name)
            });
            let told: Vec<&str> = told.map(String::as_str).collect();
            write!(f, " ({})", told.join(","))?;
        }
        Ok(())
    }
}

impl fmt::Display for MountWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCloseToOpen => f.write_str(
                "the share is mounted with `nocto`, so what another registry on it has changed \
                 may be seen a minute late; mount it with `cto`, the default",
            ),
            Self::Slow { option } => write!(
                f,
                "the share is mounted with `{option}`, which costs much and is not needed; \
                 mount it without"
            ),
            Self::Soft { option } => write!(
                f,
                "the share is mounted with `{option}`, so a pause of the server fails requests, \
                 and what failed may be done all the same; mount it with `hard`, the default"
            ),
            Self::Unknown => f.write_str(
                "the options of the share cannot be read from /proc/self/mountinfo; see that it \
                 is mounted with `hard`, and without `nolock`, `local_lock` and `nocto`",
            ),
        }
    }
}

impl Entry {
    /// The mount of this id
    fn find(table: &str, id: u64) -> Option<Self> {
        let id = id.to_string();
        table
            .lines()
            .find(|line| line.split(' ').next() == Some(id.as_str()))
            .and_then(Self::parse)
    }

    /// Parses a line of `/proc/self/mountinfo`, see proc(5)
    fn parse(line: &str) -> Option<Self> {
        // Between the two is a varying number of fields that say nothing here.
        let (mount, file_system) = line.split_once(" - ")?;
        let of_mount = mount.split(' ').nth(5)?;
        let mut fields = file_system.split(' ');
        let kind = fields.next()?.to_owned();
        let source = unescape(fields.next()?);
        let of_file_system = fields.next()?;
        Some(Self {
            kind,
            source,
            options: of_mount
                .split(',')
                .chain(of_file_system.split(','))
                .map(str::to_owned)
                .collect(),
        })
    }
}

/// Whether it pays to make room ahead on the file system of an open folder; measured on ext4 alone
pub(super) fn pays_to_make_room(folder: &File) -> bool {
    rustix::fs::fstatfs(folder).is_ok_and(|stat| kind(&stat) == EXT)
}

/// Whether of what is on the file system of an open folder changes are told
///
/// Where they are not, nothing is kept of it, which is only slower.
pub(super) fn tells_of_changes(folder: &File) -> bool {
    rustix::fs::fstatfs(folder).is_ok_and(|stat| TELLING.contains(&kind(&stat)))
}

/// The number of a file system
#[allow(clippy::unnecessary_cast)] // its type differs between targets
fn kind(stat: &rustix::fs::StatFs) -> u32 {
    stat.f_type as u32
}

/// Undoes how the kernel writes what would be taken for the end of a field, as in `\040`
fn unescape(field: &str) -> String {
    let mut text = String::new();
    let mut rest = field;
    while let Some((before, after)) = rest.split_once('\\') {
        text.push_str(before);
        match after
            .get(..3)
            .and_then(|code| u8::from_str_radix(code, 8).ok())
        {
            Some(code) if code.is_ascii() => {
                text.push(char::from(code));
                rest = &after[3..];
            }
            _ => {
                text.push('\\');
                rest = after;
            }
        }
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nfs(options: &str) -> Mount {
        let line = format!("41 25 0:37 / /data rw,relatime - nfs4 10.9.0.1:/a\\040b rw,{options}");
        Mount {
            care: Care::Nfs,
            entry: Entry::find(&format!("4 1 0:2 / / rw - ext4 /dev/sda rw\n{line}\n"), 41),
        }
    }

    const DEFAULTS: &str = "vers=4.2,rsize=131072,namlen=255,hard,proto=tcp,timeo=600,retrans=2,\
                            sec=sys,clientaddr=10.9.0.11,local_lock=none,addr=10.9.0.1";

    #[test]
    fn a_share_with_default_options_needs_no_warning() {
        let mount = nfs(DEFAULTS);
        assert!(mount.is_nfs() && mount.is_remote());
        assert_eq!(mount.warnings(), []);
        assert_eq!(mount.local_locks(), None);
        assert_eq!(
            mount.to_string(),
            "nfs4 from `10.9.0.1:/a b` \
             (vers=4.2,hard,proto=tcp,timeo=600,retrans=2,local_lock=none)"
        );
    }

    #[test]
    fn options_that_hurt_are_told() {
        let kinds = |options: &str| {
            let warnings = nfs(options).warnings();
            for warning in &warnings {
                let text = warning.to_string();
                assert!(text.contains("; mount it with"), "{text}");
            }
            warnings
        };
        assert_eq!(
            kinds("vers=3,softerr,nocto"),
            [
                MountWarning::Soft {
                    option: "softerr".to_owned()
                },
                MountWarning::NoCloseToOpen
            ]
        );
        for option in ["noac", "sync", "lookupcache=none"] {
            let option = option.to_owned();
            assert_eq!(kinds(&option), [MountWarning::Slow { option }]);
        }
        assert_eq!(kinds("lookupcache=pos,acregmin=1,acdirmax=90"), []);
        let unknown = Mount {
            care: Care::Nfs,
            entry: None,
        };
        assert_eq!(unknown.warnings(), [MountWarning::Unknown]);
    }

    #[test]
    fn locks_that_end_at_this_machine_are_found() {
        for (options, found) in [
            ("vers=3,nolock,local_lock=all", Some("nolock")),
            ("vers=3,local_lock=flock", Some("local_lock=flock")),
            ("vers=3,local_lock=posix", None),
            ("vers=3,local_lock=none", None),
        ] {
            assert_eq!(nfs(options).local_locks(), found, "{options}");
        }
    }

    #[test]
    fn what_is_not_nfs_is_described_and_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let mount = Mount::of(&File::open(root.path()).unwrap());
        let told = mount.to_string();
        assert!(
            told.contains(" from `") || told.contains("file system"),
            "{told}"
        );
        assert_eq!(mount.local_locks(), None);
        assert_eq!(mount.warnings(), []);
    }

    #[test]
    fn lines_of_the_kernel_are_read() {
        let line = r"36 35 98:0 /a\040b /mnt\134x rw,noatime master:1 shared:2 - fuse.sshfs a\040b:\134 rw,errors=continue";
        let entry = Entry::parse(line).unwrap();
        assert_eq!(
            (entry.kind.as_str(), entry.source.as_str()),
            ("fuse.sshfs", r"a b:\")
        );
        assert_eq!(entry.options, ["rw", "noatime", "rw", "errors=continue"]);
        for broken in ["", "1 2 3", "1 2 3 4 5 6 - ext4", "1 2 - ext4 a rw"] {
            assert_eq!(Entry::parse(broken), None, "{broken}");
        }
        assert_eq!(unescape(r"\0"), r"\0");
        assert_eq!(unescape(r"\999é"), r"\999é");
    }
}
