//! No descriptors left, no room to map.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::libc;
use slablock::{Averager, Cache, Error, FanoutCache, Lock, Result};

use crate::kit::layout::BOOT_ID;
use crate::kit::{self, Place, Role, Watchdog, fork, open_below, reap_well, say};

/// Descriptors that nothing needs: more than any open takes.
const SPARE: u64 = 40;

pub fn limit(resource: libc::__rlimit_resource_t, to: u64) {
    let limit = libc::rlimit {
        rlim_cur: to,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: the limit is valid for the length of the call.
    let mut set = unsafe { libc::setrlimit(resource, &limit) };
    if set != 0 {
        // Not root: the hard limit stays as it is.
        let mut now = limit;
        // SAFETY: as above.
        unsafe { libc::getrlimit(resource, &mut now) };
        now.rlim_cur = to.min(now.rlim_max);
        // SAFETY: as above.
        set = unsafe { libc::setrlimit(resource, &now) };
    }
    assert_eq!(set, 0);
}

fn open_now() -> usize {
    kit::descriptors().len()
}

/// Runs `attempt` with 0, 1, 2, ... free descriptors until it succeeds. Each failure has to say
/// what is short, and leave nothing behind. Returns how many it needs.
pub fn with_ever_more(what: &str, mut attempt: impl FnMut() -> Result<()>) -> u64 {
    // The lowest number that is free, below which there are no gaps.
    let mut gaps = Vec::new();
    let first = loop {
        let file = File::open("/dev/null").unwrap();
        let number = file.as_raw_fd() as u64;
        if number as usize == open_now() - 1 {
            break number;
        }
        gaps.push(file);
    };
    let before = open_now();
    for free in 0..SPARE {
        limit(libc::RLIMIT_NOFILE, first + free);
        let result = attempt();
        limit(libc::RLIMIT_NOFILE, first + 10 * SPARE);
        assert_eq!(open_now(), before, "{what} with {free} descriptors leaks");
        match result {
            Ok(()) => return free,
            Err(error) => {
                let Error::Io { source, .. } = &error else {
                    panic!("{what} with {free} descriptors: {error}");
                };
                assert_eq!(source.raw_os_error(), Some(libc::EMFILE), "{error}");
                assert!(error.to_string().contains("ulimit -n"), "{error}");
            }
        }
    }
    panic!("{what} needs more than {SPARE} descriptors");
}

fn boot_id() -> [u8; 16] {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).unwrap().to_le_bytes()
}

/// That the store knows the boot it was made or rebuilt in: who did not find out would make the
/// next one take this boot for another, and void what is held by lifelines.
fn knows_its_boot(store: &Path) {
    let mut bytes = [0; 16];
    let slab = File::open(store.join("slab")).unwrap();
    slab.read_exact_at(&mut bytes, BOOT_ID).unwrap();
    assert_eq!(bytes, boot_id());
}

pub fn run(role: &Role) {
    let store = role.dir.join("new");
    let open = |store: &Path| {
        let cache = Cache::options().capacity(64).open(store)?;
        let lock = Lock::new(&cache, "lock");
        let guard = lock.acquire()?;
        let holder = lock.holder()?.expect("held");
        // Found out when it joined.
        assert!(!holder.program.is_empty() && holder.same_pid_namespace);
        assert!(guard.recovered().is_none());
        Averager::new(&cache, "average").add(1.0)
    };
    // The very first of this process, which reads what is read once.
    say(format!(
        "new {}",
        with_ever_more("making a store", || open(&store))
    ));
    knows_its_boot(&store);
    let cache = Cache::open(&store).unwrap();
    assert_eq!(
        Averager::new(&cache, "average")
            .summary()
            .unwrap()
            .unwrap()
            .count,
        1
    );
    drop(cache);
    say(format!(
        "there {}",
        with_ever_more("opening a store", || open(&store))
    ));
    knows_its_boot(&store);
    let slab = fs::OpenOptions::new()
        .write(true)
        .open(store.join("slab"))
        .unwrap();
    slab.write_all_at(&[7; 16], BOOT_ID).unwrap();
    drop(slab);
    say(format!(
        "rebooted {}",
        with_ever_more("opening after a reboot", || open(&store))
    ));
    knows_its_boot(&store);
    say(format!(
        "repair {}",
        with_ever_more("repairing", || Cache::repair(&store).map(drop))
    ));
    let fanout = role.dir.join("fanout");
    say(format!(
        "fanout {}",
        with_ever_more("making a fanout", || FanoutCache::open(&fanout, 3)
            .map(drop))
    ));
    (0..3).for_each(|n| knows_its_boot(&fanout.join(format!("{n:03}"))));
    // A child has to open its lock files anew.
    let cache = Cache::open(&store).unwrap();
    let lock = Lock::new(&cache, "lock");
    let guard = lock.acquire().unwrap();
    reap_well(fork(|| {
        let needed = with_ever_more("joining in a child", || {
            // Not joined yet, or it would stay so.
            let taken = lock.try_acquire()?;
            limit(libc::RLIMIT_NOFILE, 400);
            assert!(taken.is_none());
            // Joined: its three lock files stay open.
            kit::exit_now(0);
        });
        panic!("joined with {needed} descriptors and left none open");
    }));
    guard.release().unwrap();
    assert!(cache.check().unwrap().is_sound());
    say("done");
}

#[test]
fn without_descriptors_opening_fails_clearly_leaks_none_and_harms_nothing() {
    let _watchdog = Watchdog::new("descriptors");
    let place = Place::new();
    let child = kit::Child::start("descriptors", place.root(), &[]);
    let needed = ["new", "there", "rebooted", "repair", "fanout"].map(|word| {
        let count: u64 = child.expect(word).parse().unwrap();
        // The slab, three lock files, and one more to read something at times.
        assert!((4..=40).contains(&count), "{word} {count}");
        count
    });
    println!("descriptors needed: {needed:?}");
    child.expect("done");
    child.finish();
}

pub fn run_without_addresses(role: &Role) {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
    // Enough for everything but the mapping of a store.
    let little = pages * 4_096 + (1 << 20);
    let large = Cache::options();
    for attempt in 0..3 {
        limit(libc::RLIMIT_AS, little);
        let refused = large.open(role.store());
        limit(libc::RLIMIT_AS, libc::RLIM_INFINITY);
        let words = [role.dir.to_str().unwrap(), "slab", "ulimit -v"];
        assert_error!(refused, Error::Io { action: "map", .. }, words);
        assert_eq!(open_now_in(&role.store()), 0, "attempt {attempt}");
    }
    let cache = large.open(role.store()).unwrap();
    drop(Lock::new(&cache, "lock").acquire().unwrap());
    assert!(cache.check().unwrap().is_sound());
    // Nor does another one do any harm to the one that is there.
    limit(libc::RLIMIT_AS, little);
    assert!(large.open(role.dir.join("second")).is_err());
    drop(Lock::new(&cache, "another").acquire().unwrap());
    limit(libc::RLIMIT_AS, libc::RLIM_INFINITY);
    say("done");
}

fn open_now_in(dir: &Path) -> usize {
    open_below(dir).len()
}

#[test]
fn without_room_to_map_opening_fails_clearly_and_works_later() {
    let _watchdog = Watchdog::new("addresses");
    let place = Place::new();
    let child = kit::Child::start("addresses", place.root(), &[]);
    child.expect("done");
    child.finish();
}
