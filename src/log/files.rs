//! The files of the segments: found in the directory of the store, wherever that is moved to,
//! opened once, and opened again where other code has closed or replaced a descriptor. Files of
//! other stores are refused.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use nix::errno::Errno;

use crate::log::LOG;
use crate::log::header::{SEGMENT_HEADER_BYTES, store_id_in};
use crate::log::open::{OpenSegments, SegmentFile};
use crate::log::read::read_whole;
use crate::os::dir::{Access, Dir};
use crate::os::kept::Kept;
use crate::sync::crash_point;

/// How often a segment is opened again because its descriptor was closed or replaced; beyond that,
/// other code is doing so all the time.
const ATTEMPTS: u32 = 8;

/// The segments of a store as files, which one process opens.
pub(super) struct SegmentFiles {
    /// For messages; the store may have been moved since.
    dir: PathBuf,
    /// That of the store, found wherever it is moved.
    home: Mutex<Arc<Dir>>,
    pub(super) store_id: u128,
    open: Arc<OpenSegments>,
    /// How segments are opened, even if more is allowed.
    access: Access,
}

impl SegmentFiles {
    /// Those of the store in `home`, which is or was at the path `store`.
    pub(super) fn new(store: &Path, home: Arc<Dir>, store_id: u128) -> SegmentFiles {
        SegmentFiles {
            dir: store.join(LOG),
            home: Mutex::new(home),
            store_id,
            open: Arc::default(),
            access: Access::Write,
        }
    }

    /// Those of a process that opens nothing for writing.
    pub(super) fn reading_only(self) -> SegmentFiles {
        SegmentFiles {
            access: Access::Read,
            ..self
        }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Closes what the child of a fork has inherited, and its parent continues to use. The segments
    /// are closed by [`OpenSegments`].
    pub(super) fn disown(&self) {
        // A thread of the parent may just have had the lock, which no thread unlocks here: then it
        // stays open.
        match self.home.try_lock() {
            Ok(home) => home.close(),
            Err(TryLockError::Poisoned(home)) => home.into_inner().close(),
            Err(TryLockError::WouldBlock) => {}
        }
    }

    /// The store's directory. Opened again if its descriptor was closed or replaced, as in the
    /// child of a fork: then by its path, where it has to be that very directory.
    pub(super) fn home(&self) -> io::Result<Arc<Dir>> {
        let mut home = self.home.lock().unwrap_or_else(PoisonError::into_inner);
        if !home.is_attached() {
            let again = Dir::open(self.dir.parent().unwrap_or(&self.dir))?;
            if again.identity() != home.identity() {
                return Err(Errno::EBADF.into());
            }
            *home = Arc::new(again);
        }
        Ok(Arc::clone(&home))
    }

    /// The directory of the segments. Opened each time: any process that may write to the store's
    /// can put another one, or a link, there.
    pub(super) fn directory(&self) -> io::Result<Dir> {
        self.home()?.dir(Path::new(LOG))
    }

    /// The segment, opened once.
    pub(super) fn segment(&self, number: u32, access: Access) -> io::Result<Arc<SegmentFile>> {
        if let Some(segment) = self.open.get(number, access) {
            return Ok(segment);
        }
        self.open.open(number, || {
            let (dir, name) = (self.directory()?, name_of(number));
            let opened = match dir.file(&name, self.access) {
                Err(e) if access == Access::Read && may_not_write(&e) => {
                    (dir.file(&name, Access::Read)?, Access::Read)
                }
                other => (other?, self.access),
            };
            self.refuse_anothers(&opened.0)?;
            Ok(opened)
        })
    }

    /// Does something with a segment, and believes no failure, and no "no", of a descriptor that is
    /// not that of the segment any more: then it is opened again.
    pub(super) fn with_segment(
        &self,
        number: u32,
        access: Access,
        mut action: impl FnMut(&Kept) -> io::Result<bool>,
    ) -> io::Result<bool> {
        for _ in 0..ATTEMPTS {
            let segment = self.segment(number, access)?;
            let done = action(&segment.file);
            if matches!(done, Ok(true)) || segment.file.proven().is_ok() {
                return done;
            }
            self.open.forget_lost(number, &segment);
        }
        Err(Errno::EBADF.into())
    }

    /// Refuses segments of another store: one that was put in the place of ours has segments of the
    /// same names.
    pub(super) fn refuse_anothers(&self, file: &File) -> io::Result<()> {
        let mut header = [0; SEGMENT_HEADER_BYTES as usize];
        crash_point();
        // Without a whole header it may be any store's, also ours after a power failure.
        let store_id = match read_whole(file, &mut header, 0)? {
            true => store_id_in(&header),
            false => None,
        };
        match store_id.is_none_or(|id| id == self.store_id) {
            true => Ok(()),
            false => Err(io::Error::other("it is a segment of another store")),
        }
    }

    /// Forgets the descriptors of segments that are not `wanted` any more.
    pub(super) fn close(&self, wanted: impl Fn(u32) -> bool) {
        self.open.close(wanted);
    }

    /// Forgets a segment that has no name any more.
    pub(super) fn forget_lost(&self, number: u32, lost: &Arc<SegmentFile>) {
        self.open.forget_lost(number, lost);
    }
}

/// In its directory.
pub(super) fn name_of(number: u32) -> PathBuf {
    format!("{number:08x}").into()
}

/// Whether a segment cannot be appended to, and another one perhaps can: this process may not write
/// to it, or it was removed.
pub(crate) fn needs_another(error: &io::Error) -> bool {
    may_not_write(error) || error.kind() == io::ErrorKind::NotFound
}

/// Whether the error says that this process may not write one file; it may still write others.
pub(super) fn may_not_write(error: &io::Error) -> bool {
    let refusals = [Errno::EACCES, Errno::EPERM, Errno::EROFS, Errno::ETXTBSY];
    let said = error.raw_os_error();
    refusals.iter().any(|e| said == Some(*e as i32))
}
