//! Copies, restored backups, and files with two names.

use std::fs;
use std::path::Path;
use std::process::Command;

use slablock::{Averager, Cache, Error, FanoutCache, Lock, Reader, Token};

use crate::kit::{Place, Watchdog, child, in_a_namespace, mount, role, succeeds};

const LEAP: u64 = 1 << 36;

fn cp(arguments: &[&str], from: &Path, to: &Path) {
    let mut cp = Command::new("cp");
    let output = cp.args(arguments).arg(from).arg(to).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn grant(cache: &Cache) -> Token {
    let lock = Lock::new(cache, "k");
    let guard = lock.try_acquire().unwrap().expect("free");
    guard.token()
}

#[test]
fn a_backup_that_is_put_back_gives_no_token_twice() {
    let _watchdog = Watchdog::new("backup");
    let place = Place::new();
    let (store, backup) = (place.store(), place.root().join("backup"));
    let cache = place.open();
    grant(&cache);
    cache.set("small", "1").unwrap();
    cache.set("large", vec![7; 100_000]).unwrap();
    Averager::new(&cache, "average").add(2.0).unwrap();
    drop(cache);
    cp(&["-a"], &store, &backup);
    let cache = place.open();
    let last = [(); 5].map(|()| grant(&cache))[4];
    drop(cache);
    // File systems give out the numbers of what is removed again at once.
    fs::remove_dir_all(&store).unwrap();
    cp(&["-a"], &backup, &store);
    for _ in 0..2 {
        let words = [
            store.to_str().unwrap(),
            "copied or restored",
            "slablock adopt",
        ];
        assert_error!(Cache::open(&store), Error::Copied { .. }, words);
        assert_error!(Cache::repair(&store), Error::Copied { .. }, words);
    }
    let cache = Cache::options().adopt(true).open(&store).unwrap();
    let next = grant(&cache);
    assert!(
        next > last && next.get() > last.get() + LEAP - 1_000,
        "{next} {last}"
    );
    assert_eq!(cache.get("small").unwrap(), Some(b"1".to_vec()));
    assert_eq!(cache.get("large").unwrap(), Some(vec![7; 100_000]));
    assert_eq!(Averager::new(&cache, "average").get().unwrap(), Some(2.0));
    assert!(cache.check().unwrap().is_sound());
    drop(cache);
    // It is no copy any more, and the option means nothing then.
    let again = grant(&Cache::options().adopt(true).open(&store).unwrap());
    assert!(again.get() - next.get() < 1_000);
    // The backup is one, whenever it is used.
    assert_error!(Cache::open(&backup), Error::Copied { .. }, ["adopt"]);
}

/// The clock is what an old copy has in common with the store that it was made of.
#[test]
fn an_old_copy_that_is_adopted_is_above_what_the_original_leapt_to() {
    let _watchdog = Watchdog::new("old copy");
    let place = Place::new();
    drop(place.open());
    let backup = place.root().join("backup");
    cp(&["-a"], &place.store(), &backup);
    let made = grant(&place.open());
    Cache::adopt(&backup).unwrap();
    let adopted = grant(&Cache::open(&backup).unwrap());
    assert!(adopted.get() > made.get() + LEAP / 2);
    // A store that is made in the place of one that is gone begins above it, too.
    fs::remove_dir_all(place.store()).unwrap();
    assert!(grant(&place.open()) > made);
}

#[test]
fn a_copied_cache_of_shards_is_adopted_as_a_whole() {
    let _watchdog = Watchdog::new("copied shards");
    let place = Place::new();
    let cache = FanoutCache::open(place.store(), 3).unwrap();
    for key in 0..20 {
        cache.set(format!("{key}"), vec![key; 1_000]).unwrap();
    }
    let copy = place.root().join("copy");
    cp(&["-a"], &place.store(), &copy);
    let refused = FanoutCache::open(&copy, 3);
    assert_error!(refused, Error::Copied { .. }, ["copied", "adopt"]);
    Cache::adopt(&copy).unwrap();
    let copied = FanoutCache::open(&copy, 3).unwrap();
    for key in 0..20 {
        assert_eq!(
            copied.get(format!("{key}")).unwrap(),
            Some(vec![key; 1_000])
        );
    }
    copied
        .transact_as(|t| t.set("0", "1").and_then(|_| t.set("1", "2")))
        .unwrap();
    assert_eq!(cache.get("0").unwrap(), Some(vec![0; 1_000]));
}

/// What is said is to be done as it is said.
#[test]
fn what_is_told_of_a_shard_names_the_cache() {
    let _watchdog = Watchdog::new("messages of shards");
    let place = Place::new();
    let store = place.store();
    let is_told = |error: Error, words: &str| {
        let said = error.to_string();
        assert!(said.contains(words) && !said.contains("/00"), "{said}");
    };
    let cache = FanoutCache::open(&store, 3).unwrap();
    let in_use = format!("{} is in use", store.display());
    is_told(Cache::repair(&store).map(drop).unwrap_err(), &in_use);
    is_told(Cache::adopt(&store).unwrap_err(), &in_use);
    is_told(
        Cache::repair(store.join("001")).map(drop).unwrap_err(),
        &in_use,
    );
    drop(cache);
    let copy = place.root().join("copy");
    cp(&["-a"], &store, &copy);
    let adopt = format!("`slablock adopt {}`", copy.display());
    is_told(FanoutCache::open(&copy, 3).map(drop).unwrap_err(), &adopt);
    is_told(Cache::repair(&copy).map(drop).unwrap_err(), &adopt);
    is_told(Cache::open(copy.join("002")).map(drop).unwrap_err(), &adopt);
    let link = place.root().join("link");
    std::os::unix::fs::symlink(copy.join("002"), &link).unwrap();
    is_told(Cache::open(&link).map(drop).unwrap_err(), &adopt);
    Cache::adopt(&copy).unwrap();
    drop(FanoutCache::open(&copy, 3).unwrap());
    let cache = FanoutCache::open(&copy, 3).unwrap();
    let reader = Reader::open(&copy).unwrap();
    fs::remove_file(copy.join("001/slab")).unwrap();
    let replaced = format!("{} was removed or replaced", copy.display());
    is_told(cache.keys().unwrap_err(), &replaced);
    is_told(reader.keys().unwrap_err(), &replaced);
    drop((cache, reader));
    fs::hard_link(copy.join("002/slab"), place.root().join("slab")).unwrap();
    let slab = format!("slab of {} has 2", copy.display());
    is_told(FanoutCache::open(&copy, 3).map(drop).unwrap_err(), &slab);
}

#[test]
fn a_copy_made_of_hard_links_is_refused_and_the_original_goes_on() {
    let _watchdog = Watchdog::new("hard links");
    let place = Place::new();
    let cache = place.open();
    cache.set("large", vec![7; 100_000]).unwrap();
    let copy = place.root().join("copy");
    cp(&["-al"], &place.store(), &copy);
    // In a process of its own, which has nothing open.
    for dir in [place.store(), copy.clone()] {
        succeeds(child(OPENS, dir.to_str().unwrap()), "all told");
    }
    cache.set("another", vec![8; 100_000]).unwrap();
    grant(&cache);
    drop(cache);
    fs::remove_dir_all(&copy).unwrap();
    let cache = place.open();
    assert_eq!(cache.get("large").unwrap(), Some(vec![7; 100_000]));
    assert_eq!(cache.get("another").unwrap(), Some(vec![8; 100_000]));
    assert!(cache.check().unwrap().is_sound());
}

const OPENS: &str = "copies::who_opens_a_slab_with_two_names_is_told";

#[test]
fn who_opens_a_slab_with_two_names_is_told() {
    if let Some(dir) = role(OPENS) {
        let words = ["2 names", "hard links", "cp --no-preserve=links"];
        assert_error!(Cache::open(&dir), Error::Linked { links: 2, .. }, words);
        assert_error!(Cache::repair(&dir), Error::Linked { .. }, words);
        println!("all told");
    }
}

/// One number for two files: the layer below and what is seen of it above.
#[test]
fn an_overlay_does_not_pass_for_the_store_below_it() {
    const NAME: &str = "copies::an_overlay_does_not_pass_for_the_store_below_it";
    let Some(dir) = role(NAME) else {
        let place = Place::new();
        return in_a_namespace(NAME, place.root());
    };
    let dir = Path::new(&dir);
    let [lower, upper, work, merged] = ["lower", "upper", "work", "merged"].map(|n| dir.join(n));
    for made in [&lower, &upper, &work, &merged] {
        fs::create_dir(made).unwrap();
    }
    let below = Cache::open(lower.join("store")).unwrap();
    let guard = Lock::new(&below, "k").acquire().unwrap().into_owned();
    let show = |path: &Path| path.display().to_string();
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        show(&lower),
        show(&upper),
        show(&work)
    );
    if !mount("overlay", &options, &merged) {
        println!("skipped: no overlay can be mounted here");
        return;
    }
    let above = merged.join("store");
    assert_error!(
        Cache::open(&above),
        Error::Copied { .. },
        ["copied", "adopt"]
    );
    Cache::adopt(&above).unwrap();
    let cache = Cache::open(&above).unwrap();
    let taken = Lock::new(&cache, "k")
        .try_acquire()
        .unwrap()
        .unwrap()
        .into_owned();
    assert!(taken.token() > guard.token());
    guard.check().unwrap();
    drop(taken);
    drop(cache);
    // Mounted again, as when a container starts again, it is on another device and the same.
    let umount = Command::new("umount").arg(&merged).status().unwrap();
    assert!(umount.success() && mount("overlay", &options, &merged));
    drop(Cache::open(&above).unwrap());
    println!("all told");
}
