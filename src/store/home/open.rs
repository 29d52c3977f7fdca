//! From a directory to an open store: what it may be, which opener is the first, and what a first
//! one has to do.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::log::LOG;
use crate::os::dir::{create_dir, names};
use crate::os::file::NameSeen;
use crate::os::file_system::{fs_magic, incoherent_fs};
use crate::os::fork::{Inherited, Registry};
use crate::os::{futex, range_lock};
use crate::slab::Slab;
use crate::store::home::alone::{self, Alone};
use crate::store::home::boots::{self, BootSeen};
use crate::store::home::rebuild_tokens::{self, Leap};
use crate::store::home::slab_file::{initialise, layout_of, map};
use crate::store::home::{original, rebuild, slab_file};
use crate::store::members::deadlock::Tokens;
use crate::store::members::living;
use crate::store::members::living::is_ready;
use crate::store::members::lock_files::{ATTACH, BEACONS, Locks, STRIPES_FILE};
use crate::store::members::shards::ShardsOf;
use crate::store::names::{FANOUT, NEW_FANOUT, OTHERS_FILES, SLAB, is_there, not_a_store, see};
use crate::store::settings::{Settings, mismatch, mode_of};
use crate::store::{Site, Store, day};
use crate::sync::{AtomicBool, AtomicPtr, AtomicU64, Ordering, crash_point};

/// What a directory may hold and still be, or become, a store.
const OUR_FILES: [&str; 6] = [SLAB, ATTACH, BEACONS, STRIPES_FILE, LOG, NEW_FANOUT];

/// The stores that this process has open. Opening one again gives the same one, so that a thread is
/// the same owner through every handle.
static OPEN: Mutex<OpenStores> = Mutex::new(Vec::new());

/// Opens the store in `dir`, making what is missing.
pub(crate) fn open(dir: &Path, settings: &Settings) -> Result<Arc<Store>> {
    prepare_dir(dir, settings)?;
    let slab = see_slab(dir, settings)?;
    // An opening that fails because locks are forbidden says so, whatever it was doing.
    open_prepared(dir, slab, settings).map_err(|e| refuse_without_locks(dir).err().unwrap_or(e))
}

fn open_prepared(dir: &Path, slab: Option<NameSeen>, settings: &Settings) -> Result<Arc<Store>> {
    let site = Site::of(dir)?;
    if let Some(store) = slab.and_then(|slab| already_open(slab.number)) {
        check_settings(&store.slab, settings, &site)?;
        return Ok(store);
    }
    let (locks, slab) = attach(&site, slab, settings)?;
    see_that_locks_work(&locks)?;
    check_settings(&slab, settings, &site)?;
    let (dev, ino) = slab.identity().number();
    let mut registry = Registry::lock();
    let mut open = open_stores(&mut registry);
    open.retain(|(_, _, store)| store.strong_count() > 0);
    if let Some(store) = find_open(&open, dev, ino) {
        return Ok(store);
    }
    let store = new_store(site, slab, (dev, ino), settings);
    open.push((dev, ino, Arc::downgrade(&store)));
    drop(open);
    let member: Weak<dyn Inherited> = Arc::<Store>::downgrade(&store);
    registry.add(member);
    drop(registry);
    store.join(Some(locks))?;
    Ok(store)
}

fn new_store(
    site: Site,
    slab: Box<Slab>,
    slab_identity: (u64, u64),
    settings: &Settings,
) -> Arc<Store> {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    Arc::new(Store {
        serial: SERIAL.fetch_add(1, Ordering::Relaxed),
        me: AtomicU64::new(0),
        slab: *slab,
        slab_identity,
        site,
        mode: settings.new_mode(),
        process: AtomicPtr::new(std::ptr::null_mut()),
        looked_in: AtomicU64::new(u64::MAX),
        renewed_in: AtomicU64::new(day()),
        ticks: Default::default(),
        shards: ShardsOf::new(),
        tokens: Tokens::default(),
    })
}

/// Opens as [`open`] does, but for the table of open stores: a participant of its own each time.
#[cfg(any(fuzzing, test))]
pub(crate) fn open_apart(dir: &Path, settings: &Settings) -> Result<Arc<Store>> {
    prepare_dir(dir, settings)?;
    let slab = see_slab(dir, settings)?;
    let site = Site::of(dir)?;
    let (locks, slab) = attach(&site, slab, settings)?;
    check_settings(&slab, settings, &site)?;
    let identity = slab.identity().number();
    let store = new_store(site, slab, identity, settings);
    let member: Weak<dyn Inherited> = Arc::<Store>::downgrade(&store);
    Registry::lock().add(member);
    store.join(Some(locks))?;
    Ok(store)
}

fn already_open((dev, ino): (u64, u64)) -> Option<Arc<Store>> {
    find_open(&open_stores(&mut Registry::lock()), dev, ino)
}

type OpenStores = Vec<(u64, u64, Weak<Store>)>;

/// The table of open stores. Only with the registry locked: then no fork finds it locked.
fn open_stores(_registry: &mut Registry) -> MutexGuard<'static, OpenStores> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn find_open(open: &[(u64, u64, Weak<Store>)], dev: u64, ino: u64) -> Option<Arc<Store>> {
    let same = open.iter().filter(|(d, i, _)| (*d, *i) == (dev, ino));
    let mut stores = same.filter_map(|(_, _, store)| store.upgrade());
    // One with descriptors that other code has closed is of no use any more; opened again, it joins
    // again.
    stores.find(|store| store.is_attached())
}

/// Refuses a process that may not call `futex`: its waits would burn a processor. Asked once in a
/// process that may: what is forbidden later is not noticed.
fn refuse_without_futex(dir: &Path) -> Result<()> {
    static MAY: AtomicBool = AtomicBool::new(false);
    if !MAY.load(Ordering::Relaxed) {
        futex::probe().map_err(unsupported(dir, "futex"))?;
        MAY.store(true, Ordering::Relaxed);
    }
    Ok(())
}

/// Refuses a process that may not lock bytes of files. Takes as long as a quarter of an opening, so
/// it is asked before something is made, and when an opening fails; otherwise the opening's own
/// locks are the proof.
fn refuse_without_locks(dir: &Path) -> Result<()> {
    range_lock::probe().map_err(unsupported(dir, "fcntl (F_OFD_SETLK)"))
}

/// Tries the lock calls that waiting and judging the dead need, and opening does without when
/// nothing is in its way. Once in a process.
fn see_that_locks_work(locks: &Locks) -> Result<()> {
    static WORK: AtomicBool = AtomicBool::new(false);
    if !WORK.load(Ordering::Relaxed) {
        locks.try_calls()?;
        WORK.store(true, Ordering::Relaxed);
    }
    Ok(())
}

/// Refuses a process that may not call what every store needs.
pub(in crate::store) fn refuse_sandbox(dir: &Path) -> Result<()> {
    refuse_without_futex(dir)?;
    refuse_without_locks(dir)
}

fn unsupported(dir: &Path, call: &'static str) -> impl FnOnce(io::Error) -> Error {
    let path = dir.to_path_buf();
    move |source| Error::Unsupported { path, call, source }
}

/// Makes the directory if it may, and says clearly when it is none or cannot be used.
pub(crate) fn prepare_dir(dir: &Path, settings: &Settings) -> Result<()> {
    if let Some(capacity) = settings.capacity {
        layout_of(capacity)?;
    }
    settings.limits.check()?;
    refuse_without_futex(dir)?;
    crash_point();
    match std::fs::metadata(dir) {
        Ok(meta) if !meta.is_dir() => Err(not_a_store(dir, "it is not a directory; name one")),
        Ok(_) => refuse_network_fs(dir, dir, settings),
        Err(e) if e.kind() == io::ErrorKind::NotFound && settings.create => {
            refuse_without_locks(dir)?;
            crash_point();
            // Before anything is made there.
            let above = std::path::absolute(dir).map_err(|e| Error::io("find", dir, e))?;
            if let Some(above) = above.ancestors().find(|above| above.exists()) {
                refuse_network_fs(dir, above, settings)?;
            }
            // Search permission comes with read permission.
            let mode = settings.new_mode();
            let mode = mode | (mode & 0o444) >> 2;
            create_dir(dir, mode).map_err(|e| Error::io("create", dir, e))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(not_a_store(
            dir,
            "there is no such directory; the first program that uses a store makes it",
        )),
        Err(e) => Err(Error::io("open", dir, e)),
    }
}

/// Looks at the file system of `above`, on which `dir` is or will be.
fn refuse_network_fs(dir: &Path, above: &Path, settings: &Settings) -> Result<()> {
    if settings.allow_network_fs {
        return Ok(());
    }
    let magic = match settings.fs_magic {
        Some(injected) => injected,
        None => fs_magic(above).map_err(|e| Error::io("find the file system of", dir, e))?,
    };
    match incoherent_fs(magic) {
        Some(fs) => Err(Error::UnsupportedFs {
            path: dir.to_path_buf(),
            fs: fs.to_string(),
        }),
        None => Ok(()),
    }
}

/// Looks at the slab, once for all that an opening asks of it by its name. Without one the
/// directory has to be fit for a store.
fn see_slab(dir: &Path, settings: &Settings) -> Result<Option<NameSeen>> {
    let slab = see(&dir.join(SLAB))?;
    if slab.is_none() {
        refuse_unfit_dir(dir, settings)?;
    }
    Ok(slab)
}

/// A directory that holds something else does not become a store by a slip in its name.
pub(in crate::store) fn refuse_strangers(dir: &Path, settings: &Settings) -> Result<()> {
    see_slab(dir, settings).map(drop)
}

fn refuse_unfit_dir(dir: &Path, settings: &Settings) -> Result<()> {
    refuse_several(dir)?;
    if !settings.create {
        return Err(not_a_store(
            dir,
            "it has no slab; name the directory of a store",
        ));
    }
    refuse_without_locks(dir)?;
    crash_point();
    for name in names(dir).map_err(|e| Error::io("read", dir, e))? {
        let harmless = OUR_FILES.iter().chain(&OTHERS_FILES);
        if !harmless.into_iter().any(|known| name == OsStr::new(known)) {
            let why = format!(
                "it has {} in it, and no slab; name a new or empty directory",
                name.to_string_lossy()
            );
            return Err(not_a_store(dir, &why));
        }
    }
    Ok(())
}

/// Refuses the directory of a cache of several shards, which its opener looks for then.
fn refuse_several(dir: &Path) -> Result<()> {
    match is_there(&dir.join(FANOUT))? {
        false => Ok(()),
        true => Err(not_a_store(
            dir,
            "it has a fanout file, as a cache of several shards, which was never finished",
        )),
    }
}

/// Attaches, as the first (which makes the slab whole) or beside others.
fn attach(
    site: &Site,
    slab_seen: Option<NameSeen>,
    settings: &Settings,
) -> Result<(Locks, Box<Slab>)> {
    let mut like = site.likeness_as_seen(slab_seen, settings.new_mode())?;
    for round in 0..ATTACH_ROUNDS {
        if round > 0 {
            // A process died over making or rebuilding the slab, and others are looking at it as we
            // are: out of each other's way, so that one of us is alone with it.
            crash_point();
            std::thread::sleep(Duration::from_millis(u64::from(round) % 7 + 1));
            like = site.likeness(settings.new_mode())?;
        }
        let locks = Locks::open(site, like)?;
        let first = match locks.try_attach_alone()? {
            true => Some(go_first(site, &locks, settings)?),
            false => None,
        };
        // From alone to shared is one step for the kernel; an opener that was not alone waits for
        // the one that is.
        locks.attach_shared()?;
        if !locks.are_in_place() {
            continue;
        }
        if let Some(slab) = first {
            return Ok((locks, slab));
        }
        let slab = map(&site.dir)?;
        // Not ready: the first opener died over it. Then another has to be the first.
        let Some(slab) = slab.filter(|slab| is_ready(slab)) else {
            // Or another opener, as the first, has made a cache of several shards meanwhile.
            refuse_several(&site.dir)?;
            continue;
        };
        original::check(&slab)?;
        let strangers = locks.strangers(&slab);
        if strangers.is_empty() {
            return Ok((locks, slab));
        }
        // Lock files were removed, and made again by an opener like this one. Alone it would adopt
        // them.
        let living = living::living(&slab, &locks)?;
        if !living.is_empty() {
            return Err(living::lock_files_lost(&slab, &strangers, living));
        }
    }
    if !is_there(&site.dir.join(SLAB))? {
        return Err(not_a_store(
            &site.dir,
            "its slab was removed, and a process that has it open lives; it begins again once that has ended",
        ));
    }
    Err(Error::Corrupt {
        path: site.dir.join(SLAB),
        what: "it is not ready for use, and others who use it prevent mending it".to_string(),
    })
}

/// How often to look for a slab that is ready. Some four seconds.
const ATTACH_ROUNDS: u32 = 1_000;

/// What the first to attach does: make the slab, or finish making it, or make a copy a store of its
/// own, or give it lock files again, or void what is left of the time before a reboot.
fn go_first(site: &Site, locks: &Locks, settings: &Settings) -> Result<Box<Slab>> {
    let Some(slab) = map(&site.dir)? else {
        return initialise(site, locks, settings);
    };
    if !original::names_itself(&slab) {
        // Never finished: what is all zeros is quickly rebuilt. The process that began it may not
        // have come to the second copy of the header, nor to the limits that it was to have.
        slab.extent().fill_holes()?;
        slab_file::write_static(slab.file()?, slab.path(), slab.part())?;
        settings.new_limits().write(&slab);
        rebuild_tokens::begin_floors(&slab);
        rebuild::rebuild(&slab, locks, Leap::None, false)?;
        return Ok(slab);
    }
    match original::check(&slab) {
        Err(Error::Copied { .. }) if settings.adopt => {
            rebuild::adopt(&slab, locks)?;
            return Ok(slab);
        }
        other => other?,
    }
    let strangers = locks.strangers(&slab);
    if !strangers.is_empty() {
        let _alone = Alone::with(&slab, locks, &strangers)?;
        locks.adopt(&slab);
    }
    slab.extent().fill_holes()?;
    let boot = BootSeen::now()?;
    let rebooted = !boots::is_known(&slab, boot) && !alone::has_beacons(&slab, locks)?;
    if rebooted || !is_ready(&slab) {
        let leap = if rebooted { Leap::Reboot } else { Leap::None };
        rebuild::rebuild(&slab, locks, leap, false)?;
    } else {
        // Processes that share a boot may see it under different names, as in containers.
        boots::remember(&slab, boot);
    }
    Ok(slab)
}

/// Refuses what was asked for and is not in force: of two programs that ask for different things
/// none is to lose its own without a word. For the mode, too: of a wider one than asked for, others
/// may hold locks for ever; of a narrower one, others are shut out.
fn check_settings(slab: &Slab, settings: &Settings, site: &Site) -> Result<()> {
    let (of, shards) = (&site.locks, settings.shards);
    let found = slab.layout().capacity as usize;
    let asked = settings
        .capacity
        .filter(|_| settings.capacity_of_shard() != Some(found));
    if let Some(asked) = asked {
        return Err(mismatch("capacity", of, found * shards, asked));
    }
    settings.limits.check_in_force(slab, shards, of)?;
    let Some(asked) = settings.mode else {
        return Ok(());
    };
    match mode_of(slab)? {
        found if found == asked => Ok(()),
        found => Err(mismatch(
            "mode",
            of,
            format_args!("{found:04o}"),
            format_args!("{asked:04o}"),
        )),
    }
}
