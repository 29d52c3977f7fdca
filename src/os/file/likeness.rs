//! Owner, group and mode of what is made: those of a file that is there, as far as this process may
//! give them.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sys::stat::{FileStat, Mode, fchmod, fstat};
use nix::unistd::{Gid, Uid, fchown};

use crate::sync::crash_point;

/// Owner, group and mode of a file that is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Likeness {
    mode: u32,
    /// `None`: the maker's, and the group that the directory gives it.
    owner: Option<(u32, u32)>,
}

impl Likeness {
    pub(crate) fn of_mode(mode: u32) -> Likeness {
        Likeness { mode, owner: None }
    }

    pub(in crate::os) fn of_stat(stat: &FileStat) -> Likeness {
        Likeness {
            mode: stat.st_mode & 0o777,
            owner: Some((stat.st_uid, stat.st_gid)),
        }
    }

    /// Those of a file that only writers may open.
    pub(crate) fn for_writers(self) -> Likeness {
        let writers = self.mode & 0o222;
        Likeness {
            mode: writers | writers << 1,
            ..self
        }
    }

    /// Gives a file that is there its mode, if it is this process's to give: `false`, if it is not.
    pub(crate) fn give_mode(self, to: &File) -> io::Result<bool> {
        crash_point();
        match fchmod(to, self.mode()) {
            Ok(()) => Ok(true),
            Err(Errno::EPERM) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Those of a directory: search permission goes with read permission.
    pub(crate) fn of_dir(self) -> Likeness {
        Likeness {
            mode: self.mode | (self.mode & 0o444) >> 2,
            ..self
        }
    }

    pub(in crate::os) fn mode(self) -> Mode {
        Mode::from_bits_truncate(self.mode)
    }

    /// Gives them to what was just made, as far as this process may: only root gives files away,
    /// and groups only their members. A group that it cannot be given to has no more rights
    /// than everybody, for the rights were not meant for the group that it has instead. What a
    /// directory says of groups in it (the bit setgid) stays.
    pub(in crate::os) fn apply(self, to: impl AsFd) -> io::Result<()> {
        let to = to.as_fd();
        crash_point();
        let now = fstat(to)?;
        let mut mode = self.mode | now.st_mode & Mode::S_ISGID.bits();
        if let Some((uid, gid)) = self.owner {
            let is_given = |given: nix::Result<()>| match given {
                Ok(()) => Ok(true),
                // Also ids that this user namespace does not know.
                Err(Errno::EPERM | Errno::EINVAL) => Ok(false),
                Err(e) => Err(e),
            };
            if now.st_gid != gid {
                crash_point();
                if !is_given(fchown(to, None, Some(Gid::from_raw(gid))))? {
                    mode = mode & !0o070 | (mode & 0o007) << 3;
                }
            }
            if now.st_uid != uid {
                crash_point();
                is_given(fchown(to, Some(Uid::from_raw(uid)), None))?;
            }
        }
        crash_point();
        Ok(fchmod(to, Mode::from_bits_truncate(mode))?)
    }
}

/// Whether a user that may not write a file of that mode may read it.
pub(crate) fn has_mere_readers(mode: u32) -> bool {
    mode & 0o444 & !((mode & 0o222) << 1) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_for_writers_has_no_mere_readers() {
        for mode in 0..=0o777 {
            let for_writers = Likeness::of_mode(mode).for_writers();
            assert!(!has_mere_readers(for_writers.mode), "{mode:o}");
        }
        for mode in [0o644, 0o640, 0o604, 0o664, 0o400] {
            assert!(has_mere_readers(mode), "{mode:o}");
        }
    }
}
