//! The three files that are only ever locked, and what has to be thought of when a process forks, dies or
//! finds them replaced.

use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::path::Path;
use std::sync::{Arc, Weak};

use crate::error::{Error, Result};
use crate::os::fork::{Inherited, Registry};
use crate::os::{clock, file};
use crate::slab::Slab;
use crate::store::open::{parent, retry};
use crate::sync::{AtomicBool, Ordering, crash_point};

pub(super) const ATTACH: &str = "attach";
pub(super) const BEACONS: &str = "beacons";
pub(super) const STRIPES_FILE: &str = "stripes";

/// The files that are only ever locked: never mapped, read, truncated, renamed or unlinked.
///
/// A forked child closes its copies at once, whatever the parent was doing with them, and whoever is done
/// with them unlocks before closing: a child between fork and exec has copies, too.
pub(crate) struct LockFiles {
    pub(crate) attach: ManuallyDrop<File>,
    pub(crate) beacons: ManuallyDrop<File>,
    pub(crate) stripes: ManuallyDrop<File>,
    /// The beacon was handed to others and must not be unlocked.
    pub(crate) shared: AtomicBool,
    disowned: AtomicBool,
}

impl LockFiles {
    pub(crate) fn open(dir: &Path, mode: u32) -> Result<Arc<LockFiles>> {
        let open = |name| {
            let path = dir.join(name);
            file::open(&path, true, mode).map_err(|e| Error::io("open", &path, e))
        };
        // Opened and registered in one step, as far as a fork is concerned. So is what is read once in a
        // process and then kept.
        let mut registry = Registry::lock();
        clock::prepare().map_err(|e| Error::io("read", Path::new(clock::OFFSETS_PATH), e))?;
        // All of them before any is ours to close: what was opened before a failure is closed by itself.
        let (attach, beacons, stripes) = (open(ATTACH)?, open(BEACONS)?, open(STRIPES_FILE)?);
        let files = Arc::new(LockFiles {
            attach: ManuallyDrop::new(attach),
            beacons: ManuallyDrop::new(beacons),
            stripes: ManuallyDrop::new(stripes),
            shared: AtomicBool::new(false),
            disowned: AtomicBool::new(false),
        });
        let member: Weak<dyn Inherited> = Arc::<LockFiles>::downgrade(&files);
        registry.add(member);
        Ok(files)
    }

    fn named(&self) -> [(&'static str, &ManuallyDrop<File>); 3] {
        [
            (ATTACH, &self.attach),
            (BEACONS, &self.beacons),
            (STRIPES_FILE, &self.stripes),
        ]
    }

    /// Makes these the lock files of the slab. Only alone.
    pub(crate) fn adopt(&self, slab: &Slab) -> Result<()> {
        for ((name, file), inode) in self.named().into_iter().zip(&slab.header().lock_files) {
            inode.store(inode_of(slab, name, file)?, Ordering::Release);
        }
        Ok(())
    }

    /// Refuses lock files that are not those of the slab. A file that was removed, by a cleaner of
    /// temporary files, say, is made anew by the next one to open it, and then the two exclude nothing.
    pub(crate) fn check(&self, slab: &Slab) -> Result<()> {
        for ((name, file), inode) in self.named().into_iter().zip(&slab.header().lock_files) {
            if inode.load(Ordering::Acquire) != inode_of(slab, name, file)? {
                let what = format!("its file {name} was removed, replaced or copied");
                return Err(slab.corrupt(what));
            }
        }
        Ok(())
    }

    /// Attaches beside others; waits while somebody initialises or repairs.
    pub(crate) fn attach_shared(&self, dir: &Path) -> Result<()> {
        crash_point();
        retry(|| fs2::FileExt::lock_shared(&*self.attach))
            .map_err(|e| Error::io("attach to", &dir.join(ATTACH), e))
    }

    /// Attaches alone, if nobody else is attached.
    pub(crate) fn try_attach_alone(&self, dir: &Path) -> Result<bool> {
        crash_point();
        match retry(|| fs2::FileExt::try_lock_exclusive(&*self.attach)) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(e) => Err(Error::io("attach to", &dir.join(ATTACH), e)),
        }
    }
}

impl Inherited for LockFiles {
    fn disown(&self) {
        // Once: a grandchild inherits what its parent has disowned, and the numbers may be others' by then.
        if self.disowned.swap(true, Ordering::AcqRel) {
            return;
        }
        for (_, file) in self.named() {
            file::close_once(file);
        }
    }
}

impl Drop for LockFiles {
    fn drop(&mut self) {
        if self.disowned.load(Ordering::Acquire) {
            return;
        }
        crash_point();
        // Explicitly, for copies in children; what fails here is left to the closing. The beacon, of which
        // there is one byte for each participant and all else is others', is unlocked by who locked it.
        let _ = fs2::FileExt::unlock(&*self.attach);
        for (_, file) in self.named() {
            file::close_once(file);
        }
    }
}

fn inode_of(slab: &Slab, name: &str, file: &File) -> Result<u64> {
    let path = parent(slab.path()).join(name);
    file::identity(file)
        .map(|(_, inode)| inode)
        .map_err(|e| Error::io("look at", &path, e))
}
