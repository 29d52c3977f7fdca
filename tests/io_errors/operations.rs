//! What is tried: each public operation, in the situations in which it takes other ways.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use nix::sys::wait::{WaitStatus, waitpid};
use slablock::{
    Averager, BoundedSemaphore, Cache, Eviction, Limits, Lock, RLock, Result, SetOptions,
};

use crate::kit::{fork, layout, until};
use crate::stage::{CAPACITY, Stage};

/// What an error leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Law {
    /// All as it was, or, if it says so, all as it was to be.
    Whole,
    /// For several keys at once: each is as it was or as it was to be.
    Parts,
    /// Nothing was there before, or nobody could look at it.
    Opens,
}

pub struct Operation {
    pub name: String,
    pub is_durable: bool,
    pub law: Law,
    pub set_up: SetUp,
    pub act: Act,
    /// Another outcome that is right when something failed, and nothing has changed.
    pub bears: Bears,
    /// Done in a child that was forked after setting up.
    pub is_in_a_fork: bool,
}

type Act = fn(&mut Stage) -> Result<String>;
type SetUp = fn(&mut Stage);
type Bears = fn(&str) -> bool;

pub fn all() -> Vec<Operation> {
    let mut all = Vec::new();
    let new = |name: &str, law, set_up, act| Operation {
        name: name.to_string(),
        is_durable: false,
        law,
        set_up,
        act,
        bears: |_| false,
        is_in_a_fork: false,
    };
    let opening: [(&str, SetUp); 8] = [
        ("open: a new store", opens),
        ("open: an existing store", |s| there(s, |_| ())),
        ("open: an unfinished store", |s| there(s, unfinish)),
        ("open: after a reboot", |s| there(s, reboot)),
        ("open: without its lock files", |s| {
            there(s, |s| {
                layout::LOCKED
                    .iter()
                    .for_each(|name| fs::remove_file(s.store().join(name)).unwrap());
            })
        }),
        ("open: a fanout, new", |s| {
            opens(s);
            s.shards = Some(3);
        }),
        ("open: a fanout, existing", |s| {
            s.shards = Some(3);
            there(s, |_| ());
        }),
        ("open: when somebody died in it", |s| {
            there(s, |s| {
                dies(s, |cache| hold(cache, "dead"));
            })
        }),
    ];
    for (name, set_up) in opening {
        all.push(new(name, Law::Opens, set_up, open));
    }
    all.push(Operation {
        is_durable: true,
        ..new("open: a new store, durable", Law::Opens, opens, open)
    });
    all.push(new("open: adopt a copy", Law::Opens, copied, |s| {
        s.handle = Some(s.options().adopt(true).open(s.store())?);
        Ok(String::new())
    }));
    let repair: Act = |s| {
        match s.shards {
            None => Cache::repair(s.store())?,
            Some(_) => Cache::repair(s.store())?,
        };
        Ok(String::new())
    };
    all.push(new("repair", Law::Opens, |s| there(s, |_| ()), repair));
    all.push(new(
        "repair: after a reboot",
        Law::Opens,
        |s| there(s, reboot),
        repair,
    ));
    all.push(new(
        "repair: a fanout",
        Law::Opens,
        |s| {
            s.shards = Some(3);
            there(s, |_| ());
        },
        repair,
    ));

    let keys: &[(&str, SetUp, Act)] = &[
        ("lock: make, take, give back", furnish, |s| {
            take(&Lock::new(s.cache(), "new"))
        }),
        (
            "lock: take, give back",
            |s| with(s, |s| drop(take(&Lock::new(s.cache(), "lock")))),
            |s| take(&Lock::new(s.cache(), "lock")),
        ),
        ("lock: with a tag", furnish, |s| {
            take(&Lock::new(s.cache(), "new").tag("tag"))
        }),
        (
            "lock: from a dead one",
            |s| with(s, |s| dies(s, |c| hold(c, "dead"))),
            |s| take(&Lock::new(s.cache(), "dead")),
        ),
        (
            "lock: busy",
            |s| with(s, |s| keep(s, "kept")),
            |s| {
                let lock = Lock::new(s.cache(), "kept");
                Ok(format!(
                    "{:?}",
                    lock.acquire_timeout(Duration::from_millis(3))?.is_some()
                ))
            },
        ),
        (
            "lock: wait for one who dies",
            |s| with(s, dies_when_waited_for),
            wait_for_the_dead,
        ),
        (
            "lock: wait once more",
            |s| {
                furnish(s);
                dies_when_waited_for(s);
                assert_eq!(wait_for_the_dead(s).unwrap(), "true");
                dies_when_waited_for(s);
            },
            wait_for_the_dead,
        ),
        (
            "lock: look",
            |s| with(s, |s| dies(s, |c| hold(c, "dead"))),
            |s| {
                let lock = Lock::new(s.cache(), "dead");
                Ok(format!(
                    "{} {} {}",
                    lock.is_locked()?,
                    lock.holder()?.is_some(),
                    lock.waiters()?
                ))
            },
        ),
        ("rlock: make, take twice, give back", furnish, |s| {
            let lock = RLock::new(s.cache(), "re-entrant");
            let first = lock.acquire()?;
            lock.acquire()?.release()?;
            first.release()?;
            Ok(String::new())
        }),
        ("semaphore: make, take, give back", furnish, |s| {
            let pool = BoundedSemaphore::new(s.cache(), "pool", 9);
            let guard = pool.acquire()?;
            let told = format!("{:?}", guard.recovered().is_some());
            guard.release()?;
            Ok(told)
        }),
        (
            "semaphore: from a dead one",
            |s| {
                with(s, |s| {
                    dies(s, |cache| {
                        std::mem::forget(
                            BoundedSemaphore::new(cache, "pool", 1).acquire().unwrap(),
                        );
                    });
                })
            },
            |s| {
                let pool = BoundedSemaphore::new(s.cache(), "pool", 1);
                let guard = pool.acquire()?;
                let told = format!("{:?}", guard.recovered().is_some());
                guard.release()?;
                Ok(told)
            },
        ),
        ("averager: make, add", furnish, |s| {
            Averager::new(s.cache(), "new average").add(2.0)?;
            Ok(String::new())
        }),
        ("averager: pop", furnish, |s| {
            Ok(format!("{:?}", Averager::new(s.cache(), "average").pop()?))
        }),
        (
            "remove a lock",
            |s| with(s, |s| drop(take(&Lock::new(s.cache(), "lock")))),
            |s| Ok(format!("{}", s.cache().remove("lock")?)),
        ),
        ("lifeline", furnish, |s| {
            let lifeline = s.cache().lifeline()?;
            Ok(format!("{}", lifeline.descriptors().len()))
        }),
        ("fork, and first use in the child", furnish, |s| {
            let cache = s.cache();
            take(&Lock::new(cache, "lock"))?;
            cache.set("before", "1")?;
            Ok(String::new())
        }),
        ("look at all", furnish, |s| {
            let cache = s.cache();
            let stats = cache.stats()?;
            Ok(format!(
                "{} {} {}",
                cache.len()?,
                cache.keys()?.len(),
                stats.bytes_live
            ))
        }),
        ("check", furnish, |s| {
            let report = s.cache().check()?;
            Ok(format!("{} {:?}", report.keys, report.problems))
        }),
    ];
    for (name, set_up, act) in keys {
        all.push(new(name, Law::Whole, *set_up, *act));
    }

    let values: &[(&str, SetUp, Act)] = &[
        ("set: small, new", furnish, |s| {
            done(s.cache().set("new", "v"))
        }),
        ("set: small, existing", furnish, |s| {
            done(s.cache().set("small", "w"))
        }),
        (
            "set: large, the first",
            |s| s.open(),
            |s| done(s.cache().set("new", long(9))),
        ),
        ("set: large, new", furnish, |s| {
            done(s.cache().set("new", long(9)))
        }),
        ("set: large, existing", furnish, |s| {
            done(s.cache().set("large", long(8)))
        }),
        ("set: large in place of small", furnish, |s| {
            done(s.cache().set("small", long(8)))
        }),
        ("set: small in place of large", furnish, |s| {
            done(s.cache().set("large", "w"))
        }),
        ("set: with a tag and a time", furnish, |s| {
            let options = SetOptions::new()
                .tag("tag")
                .expire(Duration::from_secs(3_600));
            done(s.cache().set_with("new", "v", &options))
        }),
        ("set: a segment of its own", furnish, |s| {
            done(s.cache().set("new", vec![5; 5 << 20]))
        }),
        ("add", furnish, |s| {
            Ok(format!("{}", s.cache().add("new", long(3))?))
        }),
        ("replace", furnish, |s| {
            Ok(format!("{}", s.cache().replace("large", long(3))?))
        }),
        ("compare and swap", furnish, |s| {
            Ok(format!(
                "{}",
                s.cache().compare_and_swap("small", "v", long(3))?
            ))
        }),
        ("get: large", furnish, |s| {
            Ok(format!(
                "{:?}",
                s.cache().get("large")?.map(|v| v == long(1))
            ))
        }),
        ("pop: small", furnish, |s| {
            Ok(format!("{:?}", s.cache().pop("small")?))
        }),
        ("pop: large", furnish, |s| {
            Ok(format!(
                "{:?}",
                s.cache().pop("large")?.map(|v| v == long(1))
            ))
        }),
        ("delete: small", furnish, |s| {
            Ok(format!("{}", s.cache().delete("small")?))
        }),
        ("delete: large", furnish, |s| {
            Ok(format!("{}", s.cache().delete("large")?))
        }),
        ("touch", furnish, |s| {
            Ok(format!(
                "{}",
                s.cache().touch("large", Some(Duration::from_secs(3_600)))?
            ))
        }),
        ("incr: new", furnish, |s| {
            Ok(format!("{}", s.cache().incr("count", 5)?))
        }),
        ("incr: existing", furnish, |s| {
            Ok(format!("{}", s.cache().incr("number", 5)?))
        }),
        ("transact", furnish, |s| {
            s.cache().transact_as(|t| {
                t.set("small", long(4))?;
                t.set("new", "v")?;
                t.incr("number", 1)?;
                t.delete("large").map(|there| there.to_string())
            })
        }),
        (
            "transact: over shards",
            |s| {
                s.shards = Some(3);
                furnish(s);
            },
            |s| {
                s.cache().transact_as(|t| {
                    for key in ["a", "b", "c", "d", "e", "small"] {
                        t.set(key, long(2))?;
                    }
                    t.incr("number", 1)?;
                    t.delete("large").map(|there| there.to_string())
                })
            },
        ),
    ];
    for (name, set_up, act) in values {
        for is_durable in [false, true] {
            let name = match is_durable {
                true => format!("{name}, durable"),
                false => name.to_string(),
            };
            let law = Law::Whole;
            all.push(Operation {
                is_durable,
                ..new(&name, law, *set_up, *act)
            });
        }
    }
    for is_durable in [false, true] {
        let name = ["compute if missing", "compute if missing, durable"][usize::from(is_durable)];
        all.push(Operation {
            is_durable,
            bears: |outcome| outcome.ends_with("unkept: true"),
            ..new(name, Law::Whole, furnish, |s| {
                let options = SetOptions::new();
                let compute = || slablock::Result::Ok(long(6));
                let computed = s
                    .cache()
                    .compute_if_missing("computed", &options, compute)?;
                let is_whole = computed.value == long(6);
                Ok(format!("{is_whole}, unkept: {}", computed.unkept.is_some()))
            })
        });
    }

    let several: &[(&str, SetUp, Act)] = &[
        ("evict", tagged, |s| {
            Ok(format!("{}", s.cache().remove_tagged("tag")?))
        }),
        ("clear", furnish, |s| Ok(format!("{}", s.cache().clear()?))),
        (
            "clear: a fanout",
            |s| {
                s.shards = Some(3);
                furnish(s);
            },
            |s| Ok(format!("{}", s.cache().clear()?)),
        ),
        ("cull", wasteful, |s| Ok(format!("{}", s.cache().cull()?))),
        ("configure: a lower limit", abundant, |s| {
            let limit = Limits::new().size_limit(4 << 20);
            done(
                s.cache()
                    .configure(&limit.eviction(Eviction::LeastRecentlyStored)),
            )
        }),
        ("sync", furnish, |s| done(s.cache().sync())),
        (
            "sync: a fanout",
            |s| {
                s.shards = Some(3);
                furnish(s);
            },
            |s| done(s.cache().sync()),
        ),
    ];
    for (name, set_up, act) in several {
        all.push(new(name, Law::Parts, *set_up, *act));
    }
    let bears: [(&str, Bears); 2] = [
        // Doubt means alive.
        ("lock: look", |outcome| outcome == "true true 0"),
        // It says what it could not look at.
        ("check", |outcome| outcome.contains("[\"cannot ")),
    ];
    for (name, bears) in bears {
        let one = all.iter_mut().find(|operation| operation.name == name);
        one.expect("it is there").bears = bears;
    }
    let child = all.iter_mut().find(|o| o.name.starts_with("fork"));
    let child = child.expect("it is there");
    child.is_in_a_fork = true;
    child.law = Law::Parts;
    all
}

/// More than fits the slots.
fn long(seed: u8) -> Vec<u8> {
    (0..20_000_u32).map(|at| (at % 251) as u8 ^ seed).collect()
}

fn done(result: Result<()>) -> Result<String> {
    result.map(|()| String::new())
}

fn take(lock: &Lock) -> Result<String> {
    let guard = lock.acquire()?;
    let told = format!("{:?}", guard.recovered().is_some());
    guard.release()?;
    Ok(told)
}

fn hold(cache: &Cache, key: &str) {
    std::mem::forget(Lock::new(cache, key).acquire().unwrap());
}

fn open(stage: &mut Stage) -> Result<String> {
    stage.handle = Some(stage.open_handle()?);
    Ok(String::new())
}

fn opens(stage: &mut Stage) {
    stage.opens = true;
}

/// A store that nobody has open, after something has happened to it.
fn there(stage: &mut Stage, happens: fn(&mut Stage)) {
    furnish(stage);
    stage.leave();
    stage.opens = true;
    happens(stage);
}

/// A store that is open, after something has happened in it.
fn with(stage: &mut Stage, happens: fn(&mut Stage)) {
    furnish(stage);
    happens(stage);
}

/// Some of everything.
fn furnish(stage: &mut Stage) {
    stage.open();
    let cache = stage.cache();
    cache.set("small", "v").unwrap();
    cache.set("large", long(1)).unwrap();
    cache.set("number", "5").unwrap();
    furnish_keys(cache);
}

fn furnish_keys(place: &Cache) {
    Averager::new(place, "average").add(3.0).unwrap();
    drop(
        BoundedSemaphore::new(place, "permits", 3)
            .acquire()
            .unwrap(),
    );
}

fn tagged(stage: &mut Stage) {
    furnish(stage);
    let options = SetOptions::new().tag("tag");
    for n in 0..4 {
        let value = if n % 2 == 0 { long(n) } else { vec![n] };
        let cache = stage.cache();
        cache
            .set_with(format!("tagged {n}"), value, &options)
            .unwrap();
    }
}

/// Much of the log is garbage.
fn wasteful(stage: &mut Stage) {
    furnish(stage);
    let cache = stage.cache();
    for n in 0..3_u8 {
        cache.set("kept", vec![n; 700_000]).unwrap();
        cache.set(format!("kept {n}"), vec![n; 300_000]).unwrap();
    }
    cache.delete("kept").unwrap();
}

/// More than fits the lowest limit.
fn abundant(stage: &mut Stage) {
    furnish(stage);
    // So that a look at what there is changes nothing.
    let stored = Limits::new().eviction(Eviction::LeastRecentlyStored);
    stage.cache().configure(&stored).unwrap();
    for n in 0..14_u8 {
        stage
            .cache()
            .set(format!("much {n}"), vec![n; 700_000])
            .unwrap();
    }
}

fn reboot(stage: &mut Stage) {
    let stores = match stage.shards {
        None => vec![stage.store()],
        Some(shards) => (0..shards)
            .map(|n| stage.store().join(format!("{n:03}")))
            .collect(),
    };
    for store in stores {
        let slab = OpenOptions::new().write(true).open(store.join("slab"));
        slab.unwrap()
            .write_all_at(&[7; 16], layout::BOOT_ID)
            .unwrap();
    }
}

fn unfinish(stage: &mut Stage) {
    fs::remove_dir_all(stage.store()).unwrap();
    fs::create_dir(stage.store()).unwrap();
    fs::write(stage.store().join("slab"), vec![0; 5_000]).unwrap();
    fs::write(stage.store().join("attach"), b"").unwrap();
}

fn copied(stage: &mut Stage) {
    there(stage, |_| ());
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        let status = std::process::Command::new("cp")
            .arg("-a")
            .args([from, to])
            .status();
        assert!(status.unwrap().success());
    };
    copy(&stage.store(), &stage.beside());
    fs::remove_dir_all(stage.store()).unwrap();
    copy(&stage.beside(), &stage.store());
}

/// Another process does something and dies.
fn dies(stage: &mut Stage, does: fn(&Cache)) {
    let store = stage.store();
    let ended = in_another(|| {
        let cache = Cache::options().capacity(CAPACITY).open(store).unwrap();
        does(&cache);
        std::mem::forget(cache);
    });
    assert!(matches!(ended, WaitStatus::Exited(_, 0)), "{ended:?}");
}

/// Another process holds it until somebody waits for it, and dies then.
fn dies_when_waited_for(stage: &mut Stage) {
    use std::io::Read;
    let (mut holds, mut told) = std::io::pipe().unwrap();
    let store = stage.store();
    fork(|| {
        let cache = Cache::open(&store).unwrap();
        hold(&cache, "held");
        std::io::Write::write_all(&mut told, b"h").unwrap();
        let lock = Lock::new(&cache, "held");
        // Or all was over before anybody did.
        until("somebody waits", || {
            !store.exists() || lock.waiters().unwrap() > 0
        });
    });
    drop(told);
    holds.read_exact(&mut [0]).unwrap();
}

fn wait_for_the_dead(stage: &mut Stage) -> Result<String> {
    take(&Lock::new(stage.cache(), "held"))
}

/// This process holds it, by another handle.
fn keep(stage: &mut Stage, key: &'static str) {
    let other = Cache::open(stage.store()).unwrap();
    let guard = Lock::new(&other, key).acquire().unwrap().into_owned();
    stage.kept = Some((other, guard));
}

fn in_another(body: impl FnOnce()) -> WaitStatus {
    waitpid(fork(body), None).unwrap()
}
