//! The segments that a process has open, and what becomes of their descriptors: other code in the
//! process may close or replace them at any time, and a forked child has copies.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, Weak};

use nix::errno::Errno;

use crate::os::dir::Access;
use crate::os::fork::{Inherited, Registry};
use crate::os::kept::Kept;
use crate::sync::{AtomicBool, Ordering};

/// How many segments a process keeps open. More are opened and closed as they are needed.
pub(super) const OPEN_MAX: usize = 64;

/// One segment's file, open.
pub(super) struct SegmentFile {
    pub(super) file: Kept,
    access: Access,
}

type Table = HashMap<u32, Arc<SegmentFile>>;

/// All of them, by their numbers.
///
/// The table changes only while the registry of what is inherited is locked, which a fork waits
/// for: the child finds the table whole, and closes its copies. A reader that looks up a segment
/// locks nothing but the table.
#[derive(Default)]
pub(super) struct OpenSegments {
    table: RwLock<Table>,
    is_registered: AtomicBool,
}

impl OpenSegments {
    fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Table)) {
        change(&mut self.table.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// The segment, if it is open for that.
    pub(super) fn get(&self, number: u32, access: Access) -> Option<Arc<SegmentFile>> {
        let table = self.table();
        let found = table.get(&number)?;
        let is_enough = access == Access::Read || found.access == Access::Write;
        is_enough.then(|| Arc::clone(found))
    }

    /// Opens a segment, by what the caller says, in one step as far as a fork is concerned.
    pub(super) fn open(
        self: &Arc<OpenSegments>,
        number: u32,
        open: impl Fn() -> io::Result<(File, Access)>,
    ) -> io::Result<Arc<SegmentFile>> {
        let mut registry = Registry::lock();
        if !self.is_registered.swap(true, Ordering::Relaxed) {
            let member: Weak<dyn Inherited> = Arc::<OpenSegments>::downgrade(self);
            registry.add(member);
        }
        let (file, access) = match open() {
            // Those that are open can be opened again when they are needed.
            Err(e) if lacks_descriptors(&e) && !self.table().is_empty() => {
                self.change(Table::clear);
                open()?
            }
            opened => opened?,
        };
        let file = Kept::new(file)?;
        let segment = Arc::new(SegmentFile { file, access });
        self.change(|table| {
            if table.len() >= OPEN_MAX {
                table.clear();
            }
            table.insert(number, Arc::clone(&segment));
        });
        drop(registry);
        Ok(segment)
    }

    /// Forgets the descriptors of segments that are not `wanted` any more.
    pub(super) fn close(&self, wanted: impl Fn(u32) -> bool) {
        if self.table().keys().all(|number| wanted(*number)) {
            return;
        }
        let _registry = Registry::lock();
        self.change(|table| table.retain(|number, _| wanted(*number)));
    }

    /// Forgets a segment that has lost its descriptor, unless it was opened again meanwhile.
    #[cold]
    pub(super) fn forget_lost(&self, number: u32, lost: &Arc<SegmentFile>) {
        let _registry = Registry::lock();
        let is_it = |found: &Arc<SegmentFile>| Arc::ptr_eq(found, lost);
        self.change(|table| {
            if table.get(&number).is_some_and(is_it) {
                table.remove(&number);
            }
        });
    }
}

/// Whether this process, or the system, has as many files open as it may have.
fn lacks_descriptors(error: &io::Error) -> bool {
    let errno = error.raw_os_error();
    [Errno::EMFILE, Errno::ENFILE]
        .into_iter()
        .any(|full| errno == Some(full as i32))
}

impl Inherited for OpenSegments {
    fn disown(&self) {
        // No thread changes it during a fork. Nothing is taken out of it, for that would free
        // memory.
        if let Ok(table) = self.table.try_read() {
            table.values().for_each(|segment| segment.file.close());
        }
    }
}
