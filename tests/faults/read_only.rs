//! Directories and file systems that may not be written to.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use slablock::{Averager, Cache, Error, FanoutCache, Lock};

use crate::kit::layout::LOCKED;
use crate::kit::{Place, bind_read_only, bounded, child, in_a_namespace, remount, role, succeeds};

fn furnish(store: &Path, mode: u32) -> Vec<u8> {
    let cache = Cache::options()
        .capacity(64)
        .mode(mode)
        .open(store)
        .unwrap();
    Averager::new(&cache, "average").add(2.0).unwrap();
    drop(Lock::new(&cache, "lock").acquire().unwrap());
    drop(cache);
    fs::read(store.join("slab")).unwrap()
}

#[test]
fn a_store_behind_a_read_only_mount_is_refused_and_unchanged() {
    const NAME: &str = "read_only::a_store_behind_a_read_only_mount_is_refused_and_unchanged";
    let Some(dir) = role(NAME) else {
        return bounded(|| in_a_namespace(NAME, Place::new().root()));
    };
    let dir = Path::new(&dir);
    let (store, fanout) = (dir.join("store"), dir.join("fanout"));
    let before = furnish(&store, 0o600);
    drop(FanoutCache::open(&fanout, 2).unwrap());
    if !bind_read_only(dir, dir) {
        return println!("skipped: nothing can be mounted here");
    }
    let words = ["cannot open", "writable file system"];
    assert_error!(Cache::open(&store), Error::Io { .. }, words);
    assert_error!(FanoutCache::open(&fanout, 2), Error::Io { .. }, words);
    assert_error!(Cache::repair(&store), Error::Io { .. }, words);
    let words = ["cannot create", "writable file system"];
    assert_error!(Cache::open(dir.join("new")), Error::Io { .. }, words);
    assert_eq!(fs::read(store.join("slab")).unwrap(), before);
    assert!(remount("bind,rw", dir));
    let cache = Cache::open(&store).unwrap();
    assert_eq!(Averager::new(&cache, "average").get().unwrap(), Some(2.0));
    println!("all told");
}

/// A process without privileges in a directory where it may make nothing. What is there can be
/// used; what is missing cannot be made.
fn as_nobody(store: &Path) {
    if nix::unistd::geteuid().is_root() {
        let nobody = 65_534;
        nix::unistd::setgid(nix::unistd::Gid::from_raw(nobody)).unwrap();
        nix::unistd::setuid(nix::unistd::Uid::from_raw(nobody)).unwrap();
    }
    let words = [store.to_str().unwrap(), "may write"];
    if store.join("stripes").exists() {
        let cache = Cache::open(store).unwrap();
        drop(Lock::new(&cache, "lock").acquire().unwrap());
        drop(Lock::new(&cache, "another").acquire().unwrap());
        assert_error!(Cache::open(store.join("new")), Error::Io { .. }, words);
        drop(cache);
        assert_eq!(Cache::repair(store).unwrap().keys_kept, 3);
    } else {
        assert_error!(Cache::open(store), Error::Io { .. }, words);
        assert_error!(Cache::repair(store), Error::Io { .. }, words);
        assert_eq!(fs::read_dir(store).unwrap().count(), 3);
    }
    println!("all told");
}

#[test]
fn a_directory_that_is_not_writable_is_enough_for_a_store_that_is_whole() {
    const NAME: &str =
        "read_only::a_directory_that_is_not_writable_is_enough_for_a_store_that_is_whole";
    if let Some(store) = role(NAME) {
        return as_nobody(Path::new(&store));
    }
    bounded(|| {
        let place = Place::new();
        furnish(&place.store(), 0o666);
        let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode));
        mode(place.root(), 0o755).unwrap();
        mode(&place.store(), 0o555).unwrap();
        let nobody = || {
            succeeds(child(NAME, place.store().to_str().unwrap()), "all told");
        };
        nobody();
        // One of the files is missing, and only its owner can have it made.
        mode(&place.store(), 0o755).unwrap();
        fs::remove_file(place.store().join(LOCKED[2])).unwrap();
        mode(&place.store(), 0o555).unwrap();
        nobody();
        mode(&place.store(), 0o755).unwrap();
        assert_eq!(Cache::repair(place.store()).unwrap().keys_kept, 3);
        let cache = place.open();
        assert!(cache.check().unwrap().is_sound());
        assert_eq!(Averager::new(&cache, "average").get().unwrap(), Some(2.0));
    });
}
