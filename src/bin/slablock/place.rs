//! Where the store is, and whether there is one.

use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf, absolute};
use std::{env, fs};

use nix::unistd::geteuid;
use slablock::{Cache, RepairReport};

use crate::failure::{Failure, LOST, denied};
use crate::own::Own;

/// The file that a store has, and the one that a store with shards has.
const SLAB: &str = "slab";
const FANOUT: &str = "fanout";
/// What there may be in a directory in which there is no store yet: files that are only ever
/// locked, of one that is being made, and what a new volume or a repository begins with.
const NO_STORE: [&str; 8] = [
    "attach",
    "beacons",
    "stripes",
    "fanout.new",
    "lost+found",
    ".gitkeep",
    ".gitignore",
    ".keep",
];

/// The file in which a key is, and which one that was when it was first looked at.
pub struct Spot {
    slab: PathBuf,
    identity: Identity,
    store: PathBuf,
}

type Identity = (u64, u64);

/// Opens the store in `dir` and makes one if there is none.
pub fn open_or_create(dir: &Path) -> Result<Cache, Failure> {
    // If the store cannot be looked for, the error says so.
    is_nowhere(dir)?;
    Ok(Cache::open(dir)?)
}

/// Opens the store in `dir`; `None`: there is none yet.
pub fn open(dir: &Path) -> Result<Option<Cache>, Failure> {
    Ok(try_open(dir)?.transpose()?)
}

/// Opens the store in `dir`; `None`: there is none yet. The inner error: there is one, and it was
/// not opened.
pub fn try_open(dir: &Path) -> Result<Option<slablock::Result<Cache>>, Failure> {
    Ok(match is_nowhere(dir)? {
        true => None,
        false => Some(Cache::options().create(false).open(dir)),
    })
}

pub fn repair(dir: &Path) -> Result<RepairReport, Failure> {
    has_one_to(dir, "repair")?;
    Ok(Cache::repair(dir)?)
}

pub fn adopt(dir: &Path) -> Result<(), Failure> {
    has_one_to(dir, "adopt")?;
    Ok(Cache::adopt(dir)?)
}

impl Spot {
    /// Where `key` is. To be asked before the key is taken, which fails if the store is not in its
    /// place any more.
    pub fn of(cache: &Cache, key: &[u8]) -> Result<Spot, Failure> {
        let slab = cache.slab_of(key);
        let identity = identity(&slab).map_err(|error| cannot_look(&slab, &error))?;
        Ok(Spot {
            slab,
            identity,
            store: cache.path().to_path_buf(),
        })
    }

    /// Fails unless the store that was opened is the one that other processes find. If it is not,
    /// the hold has excluded none of them since.
    pub fn check_in_place(&self) -> Result<(), Failure> {
        let what = match identity(&self.slab) {
            Ok(now) if now == self.identity => return Ok(()),
            Ok(_) => "replaced by another one",
            Err(error) if error.kind() == ErrorKind::NotFound => "removed",
            Err(error) => return Err(cannot_look(&self.slab, &error)),
        };
        let store = self.store.display();
        Err(Failure::with_status(
            LOST,
            format!("the store {store} was {what} meanwhile: the command may not have run alone"),
        ))
    }
}

/// Whether there is no store in `dir`, and nothing else either.
fn is_nowhere(dir: &Path) -> Result<bool, Failure> {
    let is_there = is_file(&dir.join(SLAB))? || is_file(&dir.join(FANOUT))?;
    Ok(!is_there && has_no_store(dir)?)
}

/// Fails if there is no store `to` do something with.
fn has_one_to(dir: &Path, to: &str) -> Result<(), Failure> {
    match is_nowhere(dir)? {
        true => {
            let dir = dir.display();
            Err(Failure::new(format!("there is no store in {dir} to {to}")))
        }
        false => Ok(()),
    }
}

fn identity(path: &Path) -> io::Result<Identity> {
    fs::metadata(path).map(|meta| (meta.dev(), meta.ino()))
}

/// Whether `path` is a file. It is an error if that cannot be seen.
fn is_file(path: &Path) -> Result<bool, Failure> {
    match fs::metadata(path) {
        Ok(meta) => Ok(meta.is_file()),
        Err(error) => match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => Ok(false),
            // Names the directory, for it is unknown whether it has that file.
            ErrorKind::PermissionDenied => Err(cannot_look(path.parent().unwrap_or(path), &error)),
            _ => Err(cannot_look(path, &error)),
        },
    }
}

/// Whether there is nothing in `dir`, or no such directory. Not asked of what has a slab.
fn has_no_store(dir: &Path) -> Result<bool, Failure> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => match error.kind() {
            ErrorKind::NotFound => return Ok(true),
            // Opening it says what is wrong.
            ErrorKind::NotADirectory => return Ok(false),
            _ => return Err(cannot_look(dir, &error)),
        },
    };
    for entry in entries {
        let name = entry.map_err(|error| cannot_look(dir, &error))?.file_name();
        if !NO_STORE.iter().any(|known| name == OsStr::new(known)) && !is_emptied_shard(dir, &name)
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether it is what a cleaner leaves of a shard: a directory with a number for a name, and
/// nothing but `log` in it.
fn is_emptied_shard(dir: &Path, name: &OsStr) -> bool {
    let is_number = |name: &str| name.len() == 3 && name.bytes().all(|b| b.is_ascii_digit());
    let names = fs::read_dir(dir.join(name)).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    name.to_str().is_some_and(is_number)
        && names.is_ok_and(|inside| inside.iter().all(|entry| entry.file_name() == "log"))
}

fn cannot_look(path: &Path, error: &io::Error) -> Failure {
    let shown = path.display();
    match error.kind() {
        ErrorKind::PermissionDenied => {
            Failure::new(format!("cannot open {shown}: {error}; {}", denied(path)))
        }
        _ => Failure::new(format!("cannot open {shown}: {error}")),
    }
}

/// The directory of the store, and whether the user named it.
pub struct Chosen {
    dir: PathBuf,
    /// `Some` if neither the command line nor the environment named one.
    own: Option<Own>,
}

impl Chosen {
    /// The directory that was named, or else by the environment, or else this user's own.
    pub fn new(named: Option<PathBuf>) -> Result<Chosen, Failure> {
        let from_environment = || env::var_os("SLABLOCK_DIR").filter(|dir| !dir.is_empty());
        let Some(dir) = named.or_else(|| from_environment().map(PathBuf::from)) else {
            let own = Own::of_this_user(geteuid().as_raw())?;
            return Ok(Chosen {
                dir: own.dir().to_owned(),
                own: Some(own),
            });
        };
        let dir = absolute(&dir)
            .map_err(|error| Failure::new(format!("cannot use {}: {error}", dir.display())))?;
        Ok(Chosen { dir, own: None })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Prepares for opening the store: checks that no other user owns or may write to the user's
    /// own directory, and with `make` makes that directory first if it is missing.
    pub fn get_ready(&self, make: bool) -> Result<(), Failure> {
        let user = geteuid().as_raw();
        match (&self.own, make) {
            (None, _) => Ok(()),
            (Some(own), true) => own.prepare(user),
            (Some(own), false) => own.examine(user),
        }
    }
}
