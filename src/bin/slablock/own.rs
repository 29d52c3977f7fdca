//! Where a user's own store is, if none was named.
//!
//! The rule has to give one answer to a login shell, a job of cron and `sudo -u`, today and next
//! week: two answers are two stores, and a holder in one excludes no process in the other. So it
//! asks nothing that differs between them (no variable of the environment, no session) and nothing
//! that passes by itself: a home that is not mounted, full or read-only is an error, never another
//! place. Where it cannot tell whether a home is away or was never meant to be there, it is an
//! error, too.

use std::fs::{self, DirBuilder, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::failure::Failure;
use crate::users;

/// Homes of users that are to have none, by the habits of systems. They are not there, or are
/// empty, for good.
const NO_HOMES: [&str; 5] = [
    "/nonexistent",
    "/var/empty",
    "/var/lib/empty",
    "/run/empty",
    "/usr/share/empty",
];
/// In a home: where programs keep what is to last and no user edits.
const IN_HOME: [&str; 3] = [".local", "state", "slablock"];
/// For users without a home. Survives a reboot, which `/tmp` does not.
const SPARE: &str = "/var/tmp";
/// Written by the group or by others.
const BY_OTHERS: u32 = 0o022;

/// Where a user's own store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Own {
    InHome(PathBuf),
    Spare(PathBuf),
}

/// What is found at the path of a home.
#[derive(Clone, Debug)]
pub enum Home {
    Dir {
        owner: u32,
        mode: u32,
        /// `false`: a network file system, on which a store would be refused.
        is_local: bool,
        /// `None`: it cannot be read. Not asked of the user's own.
        is_empty: Option<bool>,
    },
    Missing,
    /// A file, a device, or below one.
    NoDir,
    /// It could not be looked at, for that reason.
    Unseen(String),
}

impl Own {
    /// By the user's line in `passwd`, and what is found at the home that it names. The error says
    /// why there is no answer.
    pub fn of(user: u32, passwd: &[u8], look: impl FnOnce(&Path) -> Home) -> Result<Own, String> {
        let spare = || Own::Spare(Path::new(SPARE).join(format!("slablock-{user}")));
        let Some(home) = users::home_of(passwd, user) else {
            return Ok(spare());
        };
        if !home.is_absolute() || NO_HOMES.iter().any(|none| home.starts_with(none)) {
            return Ok(spare());
        }
        let (owner, mode, is_empty) = match look(&home) {
            Home::NoDir => return Ok(spare()),
            // A home on a network file system gives the same answer each time that it is mounted.
            Home::Dir {
                is_local: false, ..
            } => return Ok(spare()),
            Home::Dir {
                owner,
                mode,
                is_empty,
                ..
            } => (owner, mode, is_empty),
            Home::Missing => {
                return Err(format!(
                    "your home {} is not there, perhaps not mounted",
                    home.display()
                ));
            }
            Home::Unseen(why) => {
                return Err(format!(
                    "your home {} cannot be used: {why}",
                    home.display()
                ));
            }
        };
        match (owner == user, is_empty) {
            (true, _) if mode & BY_OTHERS == 0 => {
                Ok(Own::InHome(home.join(IN_HOME.iter().collect::<PathBuf>())))
            }
            (true, _) => Ok(spare()),
            // A directory of the system's, named for want of a home.
            (false, Some(false)) => Ok(spare()),
            (false, _) => Err(format!(
                "your home {} is another user's empty directory, perhaps not mounted",
                home.display()
            )),
        }
    }

    /// Where the store of `user` is, the user that this process runs as.
    pub fn of_this_user(user: u32) -> Result<Own, Failure> {
        let passwd = users::passwd()
            .map_err(|error| no_place(format!("cannot read /etc/passwd: {error}")))?;
        Own::of(user, &passwd, |home| look_at(home, user)).map_err(no_place)
    }

    pub fn dir(&self) -> &Path {
        match self {
            Own::InHome(dir) | Own::Spare(dir) => dir,
        }
    }

    /// Makes the directory for the store, if it is missing, and refuses one that another user owns
    /// or may write to.
    pub fn prepare(&self, user: u32) -> Result<(), Failure> {
        let dir = self.dir();
        let above = match self {
            Own::InHome(_) => IN_HOME.len() - 1,
            Own::Spare(_) => 0,
        };
        let mut missing: Vec<&Path> = dir.ancestors().take(above + 1).collect();
        missing.reverse();
        if !fs::exists(dir).unwrap_or(false) {
            for part in missing {
                make(part)?;
            }
        }
        self.examine(user)
    }

    /// Refuses a directory that another user owns or may write to. A missing one is accepted.
    pub fn examine(&self, user: u32) -> Result<(), Failure> {
        let dir = self.dir();
        let refuse = |why: String| Err(no_place(format!("cannot use {}: {why}", dir.display())));
        let meta = match self {
            // What is in the user's home is the user's, links, too.
            Own::InHome(_) => fs::metadata(dir),
            Own::Spare(_) => fs::symlink_metadata(dir),
        };
        let meta = match meta {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return refuse(error.to_string()),
            Ok(meta) => meta,
        };
        if !meta.is_dir() {
            return refuse("it is not a directory".to_owned());
        }
        if meta.uid() != user {
            return refuse(format!("it belongs to user {}", users::named(meta.uid())));
        }
        if meta.mode() & BY_OTHERS != 0 {
            return refuse("others may write to it".to_owned());
        }
        Ok(())
    }
}

fn make(dir: &Path) -> Result<(), Failure> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            let dir = dir.display();
            Err(no_place(format!("cannot create {dir}: {error}")))
        }
        _ => Ok(()),
    }
}

fn no_place(why: String) -> Failure {
    Failure::new(format!(
        "{why}; name another directory with --dir or SLABLOCK_DIR, the same one for all who are to exclude each other"
    ))
}

fn look_at(home: &Path, user: u32) -> Home {
    let found = fs::metadata(home).and_then(|meta| match meta.is_dir() {
        true => dir_at(home, &meta, user),
        false => Ok(Home::NoDir),
    });
    match found {
        Ok(home) => home,
        Err(error) => match error.kind() {
            ErrorKind::NotFound => Home::Missing,
            ErrorKind::NotADirectory => Home::NoDir,
            _ => Home::Unseen(error.to_string()),
        },
    }
}

fn dir_at(home: &Path, meta: &Metadata, user: u32) -> io::Result<Home> {
    let is_empty = || fs::read_dir(home).ok().map(|mut all| all.next().is_none());
    Ok(Home::Dir {
        owner: meta.uid(),
        mode: meta.mode(),
        is_local: slablock::Cache::refused_fs(home)?.is_none(),
        is_empty: match meta.uid() == user {
            true => None,
            false => is_empty(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"alice:x:5:5::/home/alice:/bin/sh\n\
        nobody:x:6:6::/nonexistent:/bin/false\n\
        sshd:x:7:7::/var/empty/sshd:/bin/false\n\
        none:x:8:8:::\n\
        relative:x:9:9::home:";

    fn dir(owner: u32, mode: u32) -> Home {
        Home::Dir {
            owner,
            mode: 0o040_000 | mode,
            is_local: true,
            is_empty: Some(false),
        }
    }

    #[test]
    fn a_home_serves_if_it_is_local_and_its_users_alone() {
        let own = |home: Home| Own::of(5, PASSWD, |_| home);
        let in_home = Ok(Own::InHome("/home/alice/.local/state/slablock".into()));
        let spare = Ok(Own::Spare("/var/tmp/slablock-5".into()));
        for mode in [0o700, 0o755, 0o555, 0o1700] {
            assert_eq!(own(dir(5, mode)), in_home);
        }
        for mode in [0o777, 0o775, 0o702, 0o1777] {
            assert_eq!(own(dir(5, mode)), spare);
        }
        for (is_local, is_empty, owner, answer) in [
            (true, Some(true), 5, &in_home),
            (true, None, 5, &in_home),
            (false, Some(false), 5, &spare),
            (false, None, 0, &spare),
            (true, Some(false), 0, &spare),
        ] {
            let home = Home::Dir {
                owner,
                mode: 0o755,
                is_local,
                is_empty,
            };
            assert_eq!(&own(home.clone()), answer, "{home:?}");
        }
        assert_eq!(own(Home::NoDir), spare);
    }

    #[test]
    fn a_home_that_may_be_away_is_an_error() {
        let away = |is_empty| Home::Dir {
            owner: 0,
            mode: 0o755,
            is_local: true,
            is_empty,
        };
        let unseen = Home::Unseen("Input/output error".to_owned());
        for home in [Home::Missing, unseen, away(Some(true)), away(None)] {
            let why = Own::of(5, PASSWD, |_| home.clone()).unwrap_err();
            assert!(why.contains("/home/alice"), "{why}");
        }
    }

    #[test]
    fn users_who_are_to_have_no_home_are_not_asked_for_one() {
        let look = |_: &Path| panic!("looked for a home");
        for user in [6, 7, 8, 9, 10] {
            let spare = Own::Spare(format!("/var/tmp/slablock-{user}").into());
            assert_eq!(Own::of(user, PASSWD, look), Ok(spare));
        }
    }
}
