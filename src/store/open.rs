//! From a directory to an open store: what it may be, who goes first, and what a first one has to do.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rand::TryRng;
use rand::rngs::SysRng;

use crate::error::{Error, Result};
use crate::log::LOG;
use crate::os::dir::Dir;
use crate::os::file;
use crate::os::fork::{Inherited, Registry};
use crate::slab::Slab;
use crate::slab::header::STATE_READY;
use crate::store::config::Config;
use crate::store::device;
use crate::store::lock_files::{ATTACH, BEACONS, LockFiles, STRIPES_FILE};
use crate::store::shards::ShardsOf;
use crate::store::slab_file::{initialise, is_ready, is_same_boot, layout_of, map};
use crate::store::{Store, rebuild};
use crate::sync::{AtomicPtr, AtomicU64, Ordering, crash_point};

pub(crate) const SLAB: &str = "slab";
pub(crate) const FANOUT: &str = "fanout";
/// What a directory may hold and still be, or become, a store.
const OUR_FILES: [&str; 5] = [SLAB, ATTACH, BEACONS, STRIPES_FILE, LOG];

/// How a store is opened.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// In slots; `None`: as it is, or the default for a new store.
    pub(crate) capacity: Option<usize>,
    pub(crate) mode: u32,
    pub(crate) allow_network_fs: bool,
    pub(crate) create: bool,
    pub(crate) config: Config,
    /// Stands in for what the kernel says about the file system, in tests.
    pub(crate) fs_magic: Option<i64>,
}

pub(crate) fn retry<T>(mut action: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match action() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// From the operating system, not from a generator that a fork would duplicate.
pub(crate) fn random(path: &Path) -> Result<u64> {
    #[cfg(any(fuzzing, test))]
    if let Some(number) = crate::os::pretend::number() {
        return Ok(number);
    }
    crash_point();
    SysRng
        .try_next_u64()
        .map_err(|e| Error::io("find random numbers for", path, io::Error::other(e)))
}

/// The stores that this process has open. Opening one again gives the same one, so that a thread is the
/// same owner through every handle.
static OPEN: Mutex<OpenStores> = Mutex::new(Vec::new());

/// Opens the store in `dir`, making what is missing.
pub(crate) fn open(dir: &Path, settings: &Settings) -> Result<Arc<Store>> {
    prepare_dir(dir, settings)?;
    refuse_strangers(dir, settings)?;
    crash_point();
    // Absolute, because a program may change its working directory before it forks.
    let dir = std::path::absolute(dir).map_err(|e| Error::io("find", dir, e))?;
    if let Some(store) = already_open(&dir) {
        check_capacity(&store.slab, settings)?;
        return Ok(store);
    }
    let (files, slab) = attach(&dir, settings)?;
    check_capacity(&slab, settings)?;
    let (dev, ino) = file::identity(slab.file()).map_err(|e| Error::io("open", slab.path(), e))?;
    let mut registry = Registry::lock();
    let mut open = open_stores(&mut registry);
    open.retain(|(_, _, store)| store.strong_count() > 0);
    if let Some(store) = find_open(&open, dev, ino) {
        return Ok(store);
    }
    let store = new_store(dir, slab, (dev, ino), settings)?;
    open.push((dev, ino, Arc::downgrade(&store)));
    drop(open);
    let member: Weak<dyn Inherited> = Arc::<Store>::downgrade(&store);
    registry.add(member);
    drop(registry);
    store.join(Some(files))?;
    Ok(store)
}

fn new_store(
    dir: PathBuf,
    slab: Slab,
    slab_identity: (u64, u64),
    settings: &Settings,
) -> Result<Arc<Store>> {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let home = Dir::open(&dir).map_err(|e| Error::io("open", &dir, e))?;
    Ok(Arc::new(Store {
        serial: SERIAL.fetch_add(1, Ordering::Relaxed),
        me: AtomicU64::new(0),
        slab,
        slab_identity,
        dir,
        home: Arc::new(home),
        mode: settings.mode,
        process: AtomicPtr::new(std::ptr::null_mut()),
        looked_in: AtomicU64::new(u64::MAX),
        shards: ShardsOf::new(),
    }))
}

/// The same as [`open`], but for the table of open stores: a participant of its own each time.
#[cfg(any(fuzzing, test))]
pub(crate) fn open_apart(dir: &Path, settings: &Settings) -> Result<Arc<Store>> {
    prepare_dir(dir, settings)?;
    refuse_strangers(dir, settings)?;
    let dir = std::path::absolute(dir).map_err(|e| Error::io("find", dir, e))?;
    let (files, slab) = attach(&dir, settings)?;
    check_capacity(&slab, settings)?;
    let identity = file::identity(slab.file()).map_err(|e| Error::io("open", slab.path(), e))?;
    let store = new_store(dir, slab, identity, settings)?;
    let member: Weak<dyn Inherited> = Arc::<Store>::downgrade(&store);
    Registry::lock().add(member);
    store.join(Some(files))?;
    Ok(store)
}

fn already_open(dir: &Path) -> Option<Arc<Store>> {
    use std::os::unix::fs::MetadataExt;
    crash_point();
    let meta = std::fs::metadata(dir.join(SLAB)).ok()?;
    find_open(&open_stores(&mut Registry::lock()), meta.dev(), meta.ino())
}

type OpenStores = Vec<(u64, u64, Weak<Store>)>;

/// The table of open stores. Only with the registry locked: then no fork finds it locked.
fn open_stores(_registry: &mut Registry) -> MutexGuard<'static, OpenStores> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn find_open(open: &[(u64, u64, Weak<Store>)], dev: u64, ino: u64) -> Option<Arc<Store>> {
    let mut same = open.iter().filter(|(d, i, _)| (*d, *i) == (dev, ino));
    same.find_map(|(_, _, store)| store.upgrade())
}

/// Makes the directory if it may, and says clearly when it is none or cannot be used.
pub(crate) fn prepare_dir(dir: &Path, settings: &Settings) -> Result<()> {
    if let Some(capacity) = settings.capacity {
        layout_of(capacity)?;
    }
    settings.config.check()?;
    crash_point();
    match std::fs::metadata(dir) {
        Ok(meta) if !meta.is_dir() => Err(not_a_store(dir, "it is not a directory; name one")),
        Ok(_) => refuse_network_fs(dir, dir, settings),
        Err(e) if e.kind() == io::ErrorKind::NotFound && settings.create => {
            crash_point();
            // Before anything is made there.
            let above = std::path::absolute(dir).map_err(|e| Error::io("find", dir, e))?;
            if let Some(above) = above.ancestors().find(|above| above.exists()) {
                refuse_network_fs(dir, above, settings)?;
            }
            // Search permission goes with read permission.
            let mode = settings.mode | (settings.mode & 0o444) >> 2;
            file::create_dir(dir, mode).map_err(|e| Error::io("create", dir, e))
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
        None => file::fs_magic(above).map_err(|e| Error::io("find the file system of", dir, e))?,
    };
    match file::incoherent_fs(magic) {
        Some(fs) => Err(Error::UnsupportedFs {
            path: dir.to_path_buf(),
            fs: fs.to_string(),
        }),
        None => Ok(()),
    }
}

/// A directory that holds something else does not become a store by a slip in its name.
pub(super) fn refuse_strangers(dir: &Path, settings: &Settings) -> Result<()> {
    crash_point();
    if dir.join(SLAB).exists() {
        return Ok(());
    }
    crash_point();
    if dir.join(FANOUT).exists() {
        return Err(not_a_store(
            dir,
            "it holds a FanoutCache, to be opened as one",
        ));
    }
    if !settings.create {
        return Err(not_a_store(
            dir,
            "it has no slab; name the directory of a store",
        ));
    }
    crash_point();
    let entries = std::fs::read_dir(dir).map_err(|e| Error::io("read", dir, e))?;
    for entry in entries {
        let name = entry.map_err(|e| Error::io("read", dir, e))?.file_name();
        if !OUR_FILES.iter().any(|ours| name == OsStr::new(ours)) {
            let why = format!(
                "it has {} in it, and no slab; name a new or empty directory",
                name.to_string_lossy()
            );
            return Err(not_a_store(dir, &why));
        }
    }
    Ok(())
}

pub(crate) fn not_a_store(path: &Path, why: &str) -> Error {
    Error::NotAStore {
        path: path.to_path_buf(),
        why: why.to_string(),
    }
}

/// Attaches, as the first (who sees to it that the slab is whole) or beside others.
fn attach(dir: &Path, settings: &Settings) -> Result<(Arc<LockFiles>, Slab)> {
    for round in 0..ATTACH_ROUNDS {
        if round > 0 {
            // Somebody died over making or rebuilding the slab, and others are looking at it as we are:
            // out of each other's way, so that one of us is alone with it.
            crash_point();
            std::thread::sleep(Duration::from_millis(u64::from(round) % 7 + 1));
        }
        let files = LockFiles::open(dir, settings.mode)?;
        let first = match files.try_attach_alone(dir)? {
            true => Some(go_first(dir, &files, settings)?),
            false => None,
        };
        // From alone to shared is not one step: for a moment another may be first. It will find the slab
        // whole, and we have not looked at it yet.
        files.attach_shared(dir)?;
        let attach_path = dir.join(ATTACH);
        let still = file::is_still(&attach_path, &files.attach)
            .map_err(|e| Error::io("open", &attach_path, e))?;
        if !still {
            continue;
        }
        let slab = match first {
            Some(slab) => Some(slab),
            None => map(dir, settings.mode)?,
        };
        // Not ready: the one who was first died over it. Then another has to be.
        if let Some(slab) = slab.filter(is_ready) {
            files.check(&slab)?;
            return Ok((files, slab));
        }
    }
    Err(Error::Corrupt {
        path: dir.join(SLAB),
        what: "it is not ready for use, and others who use it prevent mending it".to_string(),
    })
}

/// How often to look for a slab that is ready. Some four seconds.
const ATTACH_ROUNDS: u32 = 1_000;

/// Attaches a forked child to the slab that it has mapped, with lock files of its own.
pub(crate) fn attach_again(files: &LockFiles, slab: &Slab) -> Result<()> {
    let dir = parent(slab.path());
    files.attach_shared(&dir)?;
    if !is_ready(slab) {
        return Err(slab.corrupt("it is being repaired"));
    }
    files.check(slab)
}

/// What the first to attach does: make the slab, or finish making it, or void what is left of the time
/// before a reboot.
fn go_first(dir: &Path, files: &LockFiles, settings: &Settings) -> Result<Slab> {
    let Some(slab) = map(dir, settings.mode)? else {
        return initialise(dir, files, settings);
    };
    match slab.header().state.load(Ordering::Acquire) {
        STATE_READY if is_same_boot(&slab)? => slab.fill_holes()?,
        // Also when it was never ready: what is all zeros is quickly rebuilt.
        _ => {
            slab.fill_holes()?;
            rebuild::rebuild(&slab, files, !is_same_boot(&slab)?, false)?;
            // Before anybody is given a token: should the power fail again while what the sequences leapt to
            // is not on the medium, they would leap from and to the same numbers once more.
            device::sync_alone(&slab)?;
        }
    }
    Ok(slab)
}

fn check_capacity(slab: &Slab, settings: &Settings) -> Result<()> {
    let found = slab.layout().capacity as u64;
    match settings.capacity {
        Some(expected) if expected as u64 != found => Err(Error::ConfigMismatch {
            what: "capacity",
            of: parent(slab.path()).display().to_string(),
            found,
            expected: expected as u64,
        }),
        _ => Ok(()),
    }
}

pub(crate) fn parent(slab: &Path) -> PathBuf {
    slab.parent().unwrap_or(slab).to_path_buf()
}
