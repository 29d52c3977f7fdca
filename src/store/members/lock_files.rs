//! The three files that are only ever locked: never mapped, read, truncated, renamed or unlinked.
//! What has to be thought of when a process forks, dies or closes its descriptors, and when
//! somebody removes or replaces the files.
//!
//! The shards of one cache share the lock files of its directory. Each has a *lane* there, its
//! number: byte *b* of the store in lane *l* is byte `b << 8 | l` of the file. Neighbouring bytes
//! that one process locks are one lock for the kernel, so a process costs the others one look,
//! however many shards there are.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::error::{Error, Result};
use crate::os::dir::Dir;
use crate::os::file::Likeness;
use crate::os::fork::{Inherited, Registry};
use crate::os::identity::FileIdentity;
use crate::os::kept::Kept;
use crate::os::range_lock::Mode;
use crate::os::{cleaner, clock, fdinfo, file, range_lock};
use crate::slab::Slab;
use crate::store::names::Site;
use crate::sync::{AtomicBool, Ordering, crash_point};

pub(in crate::store) const ATTACH: &str = "attach";
pub(in crate::store) const BEACONS: &str = "beacons";
pub(in crate::store) const STRIPES_FILE: &str = "stripes";
pub(crate) const NAMES: [&str; 3] = [ATTACH, BEACONS, STRIPES_FILE];

/// A bit for each lane that is taken.
type Lanes = [u64; 4];

/// The lock files of one directory, as one process has opened them.
struct LockFiles {
    dir: PathBuf,
    files: [Kept; 3],
    identities: [FileIdentity; 3],
    /// The directory, locked for others to see that it is in use: cleaners of temporary files pass
    /// such ones over. `None`: it may not be read.
    home: Option<Arc<Dir>>,
    /// Nobody had touched them for a day.
    were_old: bool,
    lanes: Mutex<Lanes>,
    disowned: AtomicBool,
}

/// What is to be said of lock files that mere readers may open: such a reader could lock them, and
/// keep everybody waiting.
pub(in crate::store) fn opened_up(dir: &Path) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for path in NAMES.map(|name| dir.join(name)) {
        crash_point();
        let mode = match std::fs::symlink_metadata(&path) {
            Ok(meta) => meta.mode() & 0o7777,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(Error::io("look at", &path, e)),
        };
        if file::has_mere_readers(mode) {
            let allowed = mode & 0o222 | (mode & 0o222) << 1;
            problems.push(format!(
                "{0} has mode {mode:04o}: who may read it and not write it can keep everybody waiting; `chmod {allowed:04o} {0}`",
                path.display()
            ));
        }
    }
    Ok(problems)
}

/// The lock files, as the store in one lane of them uses them: attached until it is dropped.
pub(crate) struct Locks {
    files: Arc<LockFiles>,
    lane: u8,
}

/// What this process has open, for the other lanes of it.
static OPEN: Mutex<Vec<Weak<LockFiles>>> = Mutex::new(Vec::new());

impl Locks {
    /// Opens what the store at `site` locks, or shares what another shard of its cache has open in
    /// this process, proved to be open still. Files that are missing are made: whether they are
    /// those of the slab is asked later. They are `like` the slab.
    pub(crate) fn open(site: &Site, like: Likeness) -> Result<Locks> {
        // Opened and registered in one step, as far as a fork is concerned. So is what is read once
        // in a process and then kept.
        let mut registry = Registry::lock();
        clock::prepare().map_err(|e| Error::io("read", Path::new(clock::OFFSETS_PATH), e))?;
        let lane = site.lane;
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|files| files.strong_count() > 0);
        let shared = open.iter().filter_map(Weak::upgrade);
        let shared = shared
            .filter(|files| files.dir == site.locks && files.are_open() && files.are_in_place());
        for files in shared {
            // Another store in the lane already would be in no one's way: locks of one opening do
            // not exclude each other.
            if files.take_lane(lane) {
                return Ok(Locks { files, lane });
            }
        }
        let files = Arc::new(LockFiles::open(&site.locks, like)?);
        files.take_lane(lane);
        open.push(Arc::downgrade(&files));
        let member: Weak<dyn Inherited> = Arc::<LockFiles>::downgrade(&files);
        registry.add(member);
        Ok(Locks { files, lane })
    }

    /// Proves that no other code in this process has closed or replaced the descriptors: `Detached`
    /// otherwise. A process without its beacon judges nobody and takes nothing that has to be
    /// waited for.
    pub(crate) fn prove(&self) -> Result<()> {
        self.proven(BEACONS).map(drop)
    }

    fn proven(&self, name: &'static str) -> Result<&File> {
        let file = self.files.named(name);
        file.proven()
            .map_err(|e| Error::io("use", &self.files.dir.join(name), e))
    }

    fn byte(&self, at: u64) -> u64 {
        at << 8 | u64::from(self.lane)
    }

    fn error<'a>(
        &'a self,
        action: &'static str,
        name: &'a str,
    ) -> impl FnOnce(io::Error) -> Error + use<'a> {
        move |e| Error::io(action, &self.files.dir.join(name), e)
    }

    /// Attaches beside others; waits while somebody initialises or repairs. Comes a moment after
    /// the files were opened, so it proves nothing; afterwards
    /// [`are_in_place`](Locks::are_in_place) does.
    pub(crate) fn attach_shared(&self) -> Result<()> {
        let attach = self.files.named(ATTACH).unproven();
        range_lock::lock_as(attach, self.byte(0), Mode::Shared)
            .map_err(self.error("attach to", ATTACH))
    }

    /// Attaches alone, if nobody else is attached. Comes a moment after the files were opened, too.
    pub(crate) fn try_attach_alone(&self) -> Result<bool> {
        let attach = self.files.named(ATTACH).unproven();
        range_lock::try_lock(attach, self.byte(0)).map_err(self.error("attach to", ATTACH))
    }

    /// Whether another opener is attached alone: it makes something here, or mends it.
    pub(crate) fn is_another_alone(&self) -> Result<bool> {
        range_lock::is_locked_alone(self.proven(ATTACH)?, self.byte(0))
            .map_err(self.error("attach to", ATTACH))
    }

    /// Fails if a lock that is free is refused, or the kernel does not name the holder of one. Only
    /// while attached: what is tried is the lock that this process has.
    pub(crate) fn try_calls(&self) -> Result<()> {
        let (attach, byte) = (self.proven(ATTACH)?, self.byte(0));
        let tried = range_lock::try_lock_as(attach, byte..byte + 1, Mode::Shared);
        let tried = tried.and_then(|locked| match locked {
            true => range_lock::is_locked(attach, byte).map(drop),
            false => Err(io::ErrorKind::PermissionDenied.into()),
        });
        tried.map_err(self.error("attach to", ATTACH))
    }

    /// Their directory, open, if it is `dir` and may be read.
    pub(crate) fn open_dir(&self, dir: &Path) -> Option<Arc<Dir>> {
        let home = self.files.home.as_ref();
        home.filter(|_| self.files.dir == dir).cloned()
    }

    /// Whether an opener of the directory opens these files now.
    pub(crate) fn are_in_place(&self) -> bool {
        self.files.are_in_place()
    }

    pub(crate) fn try_lock_beacon(&self, number: u16) -> Result<bool> {
        range_lock::try_lock(self.proven(BEACONS)?, self.byte(number.into()))
            .map_err(self.error("lock", BEACONS))
    }

    /// What fails is left to the end of the process.
    pub(crate) fn unlock_beacon(&self, number: u16) {
        if let Ok(beacons) = self.proven(BEACONS) {
            let _ = range_lock::unlock(beacons, self.byte(number.into()));
        }
    }

    /// Whether anybody but this process's opening has the beacon of a participant locked.
    pub(crate) fn is_beacon_locked(&self, number: u16) -> Result<bool> {
        range_lock::is_locked(self.proven(BEACONS)?, self.byte(number.into()))
            .map_err(self.error("probe", BEACONS))
    }

    /// A copy of the descriptor that has the beacons locked.
    pub(crate) fn clone_beacons(&self) -> Result<File> {
        let beacons = self.proven(BEACONS)?;
        crash_point();
        beacons
            .try_clone()
            .map_err(self.error("duplicate", BEACONS))
    }

    /// Locks a part of the structure, waiting for the process that has it.
    pub(crate) fn lock_range(&self, at: u64) -> Result<()> {
        range_lock::lock(self.proven(STRIPES_FILE)?, self.byte(at))
            .map_err(self.error("lock", STRIPES_FILE))
    }

    pub(crate) fn try_lock_range(&self, at: u64) -> Result<bool> {
        range_lock::try_lock(self.proven(STRIPES_FILE)?, self.byte(at))
            .map_err(self.error("lock", STRIPES_FILE))
    }

    /// Those of the processes that have a part of the structure locked, as far as can be seen.
    pub(crate) fn lockers(&self, at: u64, pids: impl Iterator<Item = u32>) -> Result<Vec<u32>> {
        fdinfo::lockers(self.proven(STRIPES_FILE)?, self.byte(at), pids)
            .map_err(self.error("look at", STRIPES_FILE))
    }

    /// Unlocks a part of the structure. Unproved: the caller locked it a moment ago.
    pub(crate) fn unlock_range(&self, at: u64) {
        // Unlocking fails for no valid descriptor; should it, the lock ends with the process.
        let stripes = self.files.named(STRIPES_FILE).unproven();
        let _ = range_lock::unlock(stripes, self.byte(at));
    }

    /// Makes these the lock files of the slab. Only alone.
    pub(crate) fn adopt(&self, slab: &Slab) {
        for (file, named) in self.files.identities.iter().zip(&slab.header().lock_files) {
            named.store(file.device, file.inode, file.born);
        }
    }

    /// Which of them are not those that the slab names: they were removed, by a cleaner of
    /// temporary files, say, and made again by the next opener. Then two processes that lock them
    /// exclude nothing.
    pub(crate) fn strangers(&self, slab: &Slab) -> Vec<&'static str> {
        let files = self.files.identities.iter().zip(&slab.header().lock_files);
        let named = NAMES.into_iter().zip(files);
        let strangers = named.filter(|(_, (file, named))| {
            let (device, inode, born) = named.load();
            !file.is(device, inode, born)
        });
        strangers.map(|(name, _)| name).collect()
    }

    /// Whether the files had not been touched for a day when this process opened them.
    pub(crate) fn were_old(&self) -> bool {
        self.files.were_old
    }

    /// Sets the times of the files to now, so that no cleaner takes them for forgotten.
    pub(crate) fn renew_times(&self) {
        cleaner::renew(&self.files.dir, NAMES);
    }

    #[cfg(test)]
    pub(crate) fn opened(&self) -> (Weak<dyn Inherited>, i32) {
        use std::os::fd::AsRawFd;
        let number = self.files.named(BEACONS).unproven().as_raw_fd();
        (Arc::<LockFiles>::downgrade(&self.files), number)
    }
}

impl Drop for Locks {
    fn drop(&mut self) {
        if self.files.disowned.load(Ordering::Acquire) {
            return;
        }
        // Explicitly, for copies in children; what fails here is left to the closing. The beacon,
        // of which there is one byte for each participant and all else is others', is unlocked by
        // the participant that locked it.
        if let Ok(attach) = self.proven(ATTACH) {
            let _ = range_lock::unlock(attach, self.byte(0));
        }
        self.files.leave_lane(self.lane);
    }
}

impl LockFiles {
    fn open(dir: &Path, like: Likeness) -> Result<LockFiles> {
        // What may be waited for lies where only writers may open it.
        let like = like.for_writers();
        let open = |name| {
            let path = dir.join(name);
            let io = |e| Error::io("open", &path, e);
            let (file, identity) = file::open_to_keep(&path, like).map_err(io)?;
            if file::has_mere_readers(identity.mode) {
                // Somebody has let others read the whole directory. An opener that may not mend
                // that continues: `check` tells.
                let io = |e| Error::io("change the mode of", &path, e);
                like.give_mode(file.unproven()).map_err(io)?;
            }
            Ok::<_, Error>((file, identity))
        };
        let (attach, beacons, stripes) = (open(ATTACH)?, open(BEACONS)?, open(STRIPES_FILE)?);
        Ok(LockFiles {
            dir: dir.to_path_buf(),
            were_old: cleaner::is_long_ago(attach.1.written),
            home: cleaner::mark_in_use(dir).map(Arc::new),
            identities: [attach.1, beacons.1, stripes.1],
            files: [attach.0, beacons.0, stripes.0],
            lanes: Mutex::default(),
            disowned: AtomicBool::new(false),
        })
    }

    fn named(&self, name: &str) -> &Kept {
        let at = NAMES.iter().position(|other| *other == name);
        &self.files[at.unwrap_or(0)]
    }

    /// Whether no other code in this process has closed or replaced any of them.
    fn are_open(&self) -> bool {
        self.files.iter().all(|file| file.proven().is_ok())
    }

    fn are_in_place(&self) -> bool {
        let (attach, path) = (&self.files[0], self.dir.join(ATTACH));
        !self.disowned.load(Ordering::Acquire)
            && attach.proven().is_ok()
            && file::is_still(&path, attach.identity()).unwrap_or(false)
    }

    /// `false`: somebody in this process has it.
    fn take_lane(&self, lane: u8) -> bool {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let (word, bit) = (&mut lanes[usize::from(lane / 64)], 1 << (lane % 64));
        let was_free = *word & bit == 0;
        *word |= bit;
        was_free
    }

    fn leave_lane(&self, lane: u8) {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes[usize::from(lane / 64)] &= !(1 << (lane % 64));
    }
}

impl Inherited for LockFiles {
    fn disown(&self) {
        // Once: a grandchild inherits what its parent has disowned, and the numbers may be others'
        // by then.
        if self.disowned.swap(true, Ordering::AcqRel) {
            return;
        }
        self.files.iter().for_each(Kept::close);
        if let Some(home) = &self.home {
            home.close();
        }
    }
}

/// What is wrong with the modes of a store's lock files. Said once for all shards.
pub(in crate::store) fn opened_up_of(site: &Site) -> Result<Vec<String>> {
    match site.lane {
        0 => opened_up(&site.locks),
        _ => Ok(Vec::new()),
    }
}
