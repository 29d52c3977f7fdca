//! The files of a store by their names, and a store by its own.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::os::file::{Likeness, NameSeen};
use crate::os::random;
use crate::sync::crash_point;

pub(crate) const SLAB: &str = "slab";

pub(crate) const FANOUT: &str = "fanout";
/// Where that is written before it gets its name; with a random number behind, if several may write
/// it.
pub(crate) const NEW_FANOUT: &str = "fanout.new";

/// What systems and tools put into directories that are otherwise empty.
pub(crate) const OTHERS_FILES: [&str; 4] = ["lost+found", ".gitkeep", ".gitignore", ".keep"];

/// Whether there is a file, of whatever type. That it cannot be looked for is an error, and not an
/// answer.
pub(crate) fn is_there(path: &Path) -> Result<bool> {
    see(path).map(|seen| seen.is_some())
}

/// What there is under a name. That it cannot be looked for is an error, and not an answer.
pub(crate) fn see(path: &Path) -> Result<Option<NameSeen>> {
    match NameSeen::at(path) {
        Ok(seen) => Ok(Some(seen)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("look for", path, e)),
    }
}

pub(crate) fn not_a_store(path: &Path, why: &str) -> Error {
    Error::NotAStore {
        path: path.to_path_buf(),
        why: why.to_string(),
    }
}

pub(crate) fn parent(slab: &Path) -> PathBuf {
    slab.parent().unwrap_or(slab).to_path_buf()
}

/// The directory by which its users know the store that has this slab, for what they are told to
/// do: of a shard, that of its cache.
pub(in crate::store) fn known_as(slab: &Path) -> PathBuf {
    let dir = parent(slab);
    match Shard::at(&dir) {
        Ok(Some(shard)) => shard.top(),
        _ => dir,
    }
}

/// A store that lies where shards lie.
pub(in crate::store) struct Shard {
    dir: PathBuf,
    pub(in crate::store) number: u8,
}

impl Shard {
    /// The shard in `dir`, if it is one. A link from another place may point there: an opener that
    /// took it for a store by itself would not look at the journal. A shard that is a link to
    /// another place is refused, as every link inside a store.
    pub(in crate::store) fn at(dir: &Path) -> Result<Option<Shard>> {
        if let Some(shard) = Shard::named(dir) {
            crash_point();
            // The name again, for with a slash behind it it would be that of what the link leads
            // to.
            let name = shard.sibling(shard.number.into());
            return match name.is_symlink() {
                true => Err(not_a_store(
                    dir,
                    "it is a link inside a cache of several shards; put the directory itself there",
                )),
                false => Ok(Some(shard)),
            };
        }
        // Asked first, at each opening: to resolve a path takes a system call for each of its
        // parts.
        crash_point();
        let is_link = |name| dir.with_file_name(name).is_symlink();
        if !dir.file_name().is_none_or(is_link) {
            return Ok(None);
        }
        crash_point();
        let whole = std::fs::canonicalize(dir).ok();
        Ok(whole.and_then(|dir| Shard::named(&dir)))
    }

    fn named(dir: &Path) -> Option<Shard> {
        let name = dir.file_name()?.to_str()?;
        let is_number = name.len() == 3 && name.bytes().all(|b| b.is_ascii_digit());
        let number = name.parse().ok().filter(|_| is_number)?;
        crash_point();
        let is_shard = dir.with_file_name(FANOUT).is_file();
        let dir = dir.to_path_buf();
        is_shard.then_some(Shard { dir, number })
    }

    /// The directory of another one.
    pub(in crate::store) fn sibling(&self, number: u32) -> PathBuf {
        self.dir.with_file_name(format!("{number:03}"))
    }

    /// The directory of the cache, with the lock files of all.
    pub(in crate::store) fn top(&self) -> PathBuf {
        parent(&self.dir)
    }
}

/// Where a store is, and where its lock files are: the shards of a cache have theirs together, at
/// its top.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    /// Absolute, because a program may change its working directory.
    pub(crate) dir: PathBuf,
    pub(crate) locks: PathBuf,
    /// Which bytes of the lock files are this store's.
    pub(crate) lane: u8,
}

impl Site {
    pub(crate) fn of(dir: &Path) -> Result<Site> {
        crash_point();
        let dir = std::path::absolute(dir).map_err(|e| Error::io("find", dir, e))?;
        Ok(match Shard::at(&dir)? {
            Some(shard) => Site {
                locks: shard.top(),
                lane: shard.number,
                dir,
            },
            None => Site {
                locks: dir.clone(),
                lane: 0,
                dir,
            },
        })
    }
}

impl Site {
    /// Owner, group and mode of what is made: those of the slab; of a cache of shards, where the
    /// slab is not there yet, those of its record; of a new store, what its maker asks for.
    /// `Linked` if the slab has other names: told before its lock files, which have them, too.
    pub(crate) fn likeness(&self, mode: u32) -> Result<Likeness> {
        self.likeness_as_seen(see(&self.dir.join(SLAB))?, mode)
    }

    /// What [`likeness`](Site::likeness) says, of a slab that was looked at a moment ago.
    pub(crate) fn likeness_as_seen(&self, slab: Option<NameSeen>, mode: u32) -> Result<Likeness> {
        match slab {
            Some(slab) if slab.links > 1 => Err(Error::Linked {
                path: self.locks.clone(),
                links: slab.links,
            }),
            Some(slab) => Ok(slab.like),
            None => {
                let record = see(&self.locks.join(FANOUT))?;
                Ok(record.map_or(Likeness::of_mode(mode), |record| record.like))
            }
        }
    }
}

/// For what is made at `path`.
pub(crate) fn random(path: &Path) -> Result<u64> {
    random::random().map_err(|e| Error::io("find random numbers for", path, e))
}
