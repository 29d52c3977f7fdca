//! Where the store is, and the two shapes that it can have.

use std::{
    env, fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf, absolute},
};

use nix::unistd::getuid;
use slablock::{
    Cache, CheckReport, FanoutCache, KeyInfo, Keyspace, RepairReport, Stats, Transaction,
};

use crate::failure::Failure;

/// A store, whichever of the two it is.
pub enum Place {
    Single(Cache),
    Fanout(FanoutCache),
}

impl Place {
    /// Opens the store in `dir` and makes one if there is none.
    pub fn open_or_create(dir: &Path) -> Result<Place, Failure> {
        Place::open_with(dir, true)
    }

    /// Opens the store in `dir`; that there is none is an error.
    pub fn open(dir: &Path) -> Result<Place, Failure> {
        Place::open_with(dir, false)
    }

    fn open_with(dir: &Path, create: bool) -> Result<Place, Failure> {
        let options = Cache::options().create(create);
        Ok(match FanoutCache::is_at(dir) {
            true => Place::Fanout(options.open_fanout(dir, None)?),
            false => Place::Single(options.open(dir)?),
        })
    }

    pub fn repair(dir: &Path) -> Result<RepairReport, Failure> {
        Ok(match FanoutCache::is_at(dir) {
            true => FanoutCache::repair(dir)?,
            false => Cache::repair(dir)?,
        })
    }

    /// The part of the store in which `key` lives.
    pub fn shard(&self, key: &[u8]) -> &Cache {
        match self {
            Place::Single(cache) => cache.cache_for(key),
            Place::Fanout(cache) => cache.cache_for(key),
        }
    }

    /// Changes several values all or not at all.
    pub fn transact<T>(
        &self,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        match self {
            Place::Single(cache) => cache.transact(work),
            Place::Fanout(cache) => cache.transact(work),
        }
    }

    pub fn keys(&self) -> Result<Vec<KeyInfo>, Failure> {
        Ok(match self {
            Place::Single(cache) => cache.keys()?,
            Place::Fanout(cache) => cache.keys()?,
        })
    }

    pub fn evict(&self, tag: &[u8]) -> Result<usize, Failure> {
        Ok(match self {
            Place::Single(cache) => cache.evict(tag)?,
            Place::Fanout(cache) => cache.evict(tag)?,
        })
    }

    pub fn stats(&self) -> Result<Stats, Failure> {
        Ok(match self {
            Place::Single(cache) => cache.stats()?,
            Place::Fanout(cache) => cache.stats()?,
        })
    }

    /// All parts of the store.
    pub fn shards(&self) -> &[Cache] {
        match self {
            Place::Single(cache) => cache.caches(),
            Place::Fanout(cache) => cache.caches(),
        }
    }

    pub fn check(&self) -> Result<CheckReport, Failure> {
        Ok(match self {
            Place::Single(cache) => cache.check()?,
            Place::Fanout(cache) => cache.check()?,
        })
    }
}

/// The directory that was named, or else by the environment, or else this user's own.
pub fn chosen_dir(named: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let from_environment = || env::var_os("SLABLOCK_DIR").filter(|dir| !dir.is_empty());
    let dir = match named.or_else(|| from_environment().map(PathBuf::from)) {
        Some(dir) => dir,
        None => dir_of_user()?,
    };
    absolute(&dir).map_err(|error| Failure::new(format!("cannot use {}: {error}", dir.display())))
}

/// The session's runtime directory if it is really this user's, else one below `/tmp`.
///
/// `TMPDIR` is deliberately not asked: two programs with different ones would exclude nothing.
fn dir_of_user() -> Result<PathBuf, Failure> {
    let user = getuid().as_raw();
    let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let is_ours = |dir: &PathBuf| {
        dir.is_absolute() && fs::metadata(dir).is_ok_and(|meta| meta.is_dir() && meta.uid() == user)
    };
    match runtime.filter(is_ours) {
        Some(runtime) => Ok(runtime.join("slablock")),
        None => private_dir(PathBuf::from(format!("/tmp/slablock-{user}")), user),
    }
}

/// Makes `dir`, or refuses one that somebody else could have prepared or could write to.
fn private_dir(dir: PathBuf, user: u32) -> Result<PathBuf, Failure> {
    let refuse = |why: String| {
        Failure::new(format!(
            "cannot use {}: {why}; name another directory with --dir or SLABLOCK_DIR",
            dir.display()
        ))
    };
    match fs::DirBuilder::new().mode(0o700).create(&dir) {
        Ok(()) => return Ok(dir),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(refuse(error.to_string())),
    }
    let meta = fs::symlink_metadata(&dir).map_err(|error| refuse(error.to_string()))?;
    if !meta.is_dir() {
        return Err(refuse("it is not a directory".to_owned()));
    }
    if meta.uid() != user {
        return Err(refuse(format!("it belongs to user {}", meta.uid())));
    }
    if meta.mode() & 0o022 != 0 {
        return Err(refuse("others may write to it".to_owned()));
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_directory_that_others_could_have_prepared_is_refused() {
        let base = env::temp_dir().join(format!("slablock-place-{}", std::process::id()));
        fs::create_dir_all(&base).unwrap();
        let user = getuid().as_raw();

        let ours = private_dir(base.join("ours"), user).unwrap();
        assert_eq!(fs::metadata(&ours).unwrap().mode() & 0o777, 0o700);
        assert!(private_dir(ours.clone(), user).is_ok());
        assert!(private_dir(ours.clone(), user + 1).is_err());

        symlink(&ours, base.join("link")).unwrap();
        assert!(private_dir(base.join("link"), user).is_err());

        fs::set_permissions(&ours, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(private_dir(ours, user).is_err());
        fs::remove_dir_all(base).unwrap();
    }
}
