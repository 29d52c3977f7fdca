//! From a directory to an open store: what it may be, who goes first, and what a first one has to do.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rand::TryRng;
use rand::rngs::SysRng;

use crate::error::{Error, Result};
use crate::log::LOG;
use crate::os::dir::Dir;
use crate::os::fork::{Inherited, Registry};
use crate::os::{file, process};
use crate::slab::header::{
    COPY_OFFSET, FORMAT_VERSION, Refusal, STATE_READY, STATIC_BYTES, Static,
};
use crate::slab::layout::{CAPACITY_MAX, PAGE};
use crate::slab::{Layout, Slab};
use crate::store::config::Config;
use crate::store::lock_files::{ATTACH, BEACONS, LockFiles, STRIPES_FILE};
use crate::store::shards::ShardsOf;
use crate::store::{Store, rebuild, salvage};
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

pub(crate) const DEFAULT_CAPACITY: usize = 65_536;

pub(crate) fn retry<T>(mut action: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match action() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
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
fn refuse_strangers(dir: &Path, settings: &Settings) -> Result<()> {
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

fn is_ready(slab: &Slab) -> bool {
    slab.header().state.load(Ordering::Acquire) == STATE_READY
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
            slab.sync()?;
        }
    }
    Ok(slab)
}

/// Maps the slab of `dir`, or says why it cannot be one. `None`: it is not made yet.
pub(crate) fn map(dir: &Path, mode: u32) -> Result<Option<Slab>> {
    let Some(slab) = map_unchecked(dir, mode)? else {
        return Ok(None);
    };
    // In this order: the file grows before the header says so.
    let need = slab.bytes_needed();
    let len = slab.file_len()?;
    if len < need {
        return Err(slab.corrupt(format!("it is cut off at {len} of {need} bytes")));
    }
    Ok(Some(slab))
}

/// The same without a look at the file's length, for repair.
pub(crate) fn map_unchecked(dir: &Path, mode: u32) -> Result<Option<Slab>> {
    let path = dir.join(SLAB);
    let slab = match file::open(&path, false, mode) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|e| Error::io("open", &path, e))?,
    };
    let damaged = |what: String| Error::Corrupt {
        path: path.clone(),
        what,
    };
    let Some(part) = read_static(&slab, &path)? else {
        return match is_blank(&slab).map_err(|e| Error::io("read", &path, e))? {
            true => Ok(None),
            false => Err(damaged("its header is gone".to_string())),
        };
    };
    let layout = Layout::new(part.capacity)
        .ok_or_else(|| damaged(format!("its header has capacity {}", part.capacity)))?;
    crash_point();
    let len = slab
        .metadata()
        .map_err(|e| Error::io("read", &path, e))?
        .len();
    if len < PAGE {
        return Err(damaged(format!("it is cut off at {len} bytes")));
    }
    Slab::map(slab, &path, part, layout).map(Some)
}

/// The static part of the header, from its copy if the first is damaged. `None`: never finished.
fn read_static(slab: &File, path: &Path) -> Result<Option<Static>> {
    let mut refusal = Refusal::Empty;
    for offset in [0, COPY_OFFSET] {
        match Static::decode(&read_up_to(slab, path, offset)?) {
            Ok(part) => return Ok(Some(part)),
            // The first one's reason is the one to tell, unless it is that nothing is there.
            Err(why) if refusal == Refusal::Empty => refusal = why,
            Err(_) => {}
        }
    }
    let path = path.to_path_buf();
    match refusal {
        Refusal::Empty => Ok(None),
        Refusal::NoMagic => Err(not_a_store(
            &path,
            "its slab does not begin as one; name another directory",
        )),
        Refusal::Version(found) => Err(Error::Version {
            path,
            found,
            supported: FORMAT_VERSION,
        }),
        Refusal::Damaged => Err(Error::Corrupt {
            path,
            what: "both copies of its header fail their checksum".to_string(),
        }),
    }
}

/// Whether there is nothing but zeros in it, as in a slab whose making was interrupted.
// Its buffer has no place in the frame of every opening.
#[inline(never)]
fn is_blank(slab: &File) -> io::Result<bool> {
    let mut bytes = [0; 1 << 16];
    let mut at = 0;
    loop {
        crash_point();
        match retry(|| slab.read_at(&mut bytes, at))? {
            0 => return Ok(true),
            n if bytes[..n].iter().any(|b| *b != 0) => return Ok(false),
            n => at += n as u64,
        }
    }
}

/// As many bytes as the file has there; zeros behind its end.
fn read_up_to(slab: &File, path: &Path, offset: u64) -> Result<[u8; STATIC_BYTES]> {
    let mut bytes = [0; STATIC_BYTES];
    let mut filled = 0;
    while filled < bytes.len() {
        crash_point();
        let read = retry(|| slab.read_at(&mut bytes[filled..], offset + filled as u64));
        match read.map_err(|e| Error::io("read", path, e))? {
            0 => break,
            n => filled += n,
        }
    }
    Ok(bytes)
}

/// Makes the slab. Only alone. Whoever dies in here leaves a slab that is not ready, and the next first
/// one starts over.
fn initialise(dir: &Path, files: &LockFiles, settings: &Settings) -> Result<Slab> {
    // Whoever makes a FanoutCache has the same file locked.
    refuse_strangers(dir, settings)?;
    let layout = layout_of(settings.capacity.unwrap_or(DEFAULT_CAPACITY))?;
    let path = dir.join(SLAB);
    let io = |action| {
        let path = path.clone();
        move |e| Error::io(action, &path, e)
    };
    let slab = file::open(&path, true, settings.mode).map_err(io("create"))?;
    if let Err(e) = file::allocate(&slab, 0, layout.fixed_bytes()) {
        // What was allocated is given back, as far as that works: there is nothing in it, and nobody has
        // mapped it.
        let _ = slab.set_len(0);
        return Err(io("create")(e));
    }
    let part = Static {
        capacity: layout.capacity,
        seed: [random(&path)?, random(&path)?],
        id: u128::from(random(&path)?) << 64 | u128::from(random(&path)?),
    };
    write_static(&slab, &path, &part)?;
    let slab = Slab::map(slab, &path, part, layout)?;
    settings.config.write(&slab);
    // What a store had that was here before is nobody's.
    salvage::adopt_log(&slab, false)?;
    write_boot_id(&slab)?;
    files.adopt(&slab)?;
    slab.sync()?;
    // The name, too: a store that is gone after a power failure would begin its tokens anew.
    file::sync_dir(dir).map_err(|e| Error::io("sync", dir, e))?;
    slab.header().state.store(STATE_READY, Ordering::Release);
    slab.sync()?;
    Ok(slab)
}

fn layout_of(capacity: usize) -> Result<Layout> {
    let layout = u32::try_from(capacity).ok().and_then(Layout::new);
    layout.ok_or_else(|| Error::Invalid {
        what: format!("a store has a capacity of 1 to {CAPACITY_MAX} keys, not {capacity}"),
    })
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

/// Writes both copies of the static part of the header.
pub(crate) fn write_static(slab: &File, path: &Path, part: &Static) -> Result<()> {
    for offset in [0, COPY_OFFSET] {
        crash_point();
        slab.write_all_at(&part.encode(), offset)
            .map_err(|e| Error::io("write", path, e))?;
    }
    Ok(())
}

/// Whether the machine was not rebooted since the slab was made or rebuilt.
pub(crate) fn is_same_boot(slab: &Slab) -> Result<bool> {
    let [low, high] = &slab.header().boot_id;
    let stored =
        u128::from(low.load(Ordering::Acquire)) | u128::from(high.load(Ordering::Acquire)) << 64;
    // Where /proc does not say, in doubt nobody is declared dead.
    let now = boot_id()?;
    Ok(stored == now || now == 0)
}

fn boot_id() -> Result<u128> {
    process::boot_id().map_err(|e| Error::io("read", Path::new(process::BOOT_ID), e))
}

pub(crate) fn write_boot_id(slab: &Slab) -> Result<()> {
    let id = boot_id()?;
    let [low, high] = &slab.header().boot_id;
    low.store(id as u64, Ordering::Release);
    high.store((id >> 64) as u64, Ordering::Release);
    Ok(())
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
