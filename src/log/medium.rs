//! What is on the medium: segments, their names, and the name of the directory that they are in.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::{MutexGuard, PoisonError};

use crate::log::open::OPEN_MAX;
use crate::log::{LOG, Log};
use crate::os::dir::Access;
use crate::os::kept::Kept;
use crate::sync::{Ordering, crash_point};

impl Log {
    /// Waits until a segment, and its name, are on the medium: it may have been begun when nobody asked for that.
    pub(crate) fn sync(&self, number: u32) -> io::Result<()> {
        self.sync_bytes(number)?;
        let is_named = self.named().contains(&number);
        match is_named {
            true => Ok(()),
            false => self.sync_name(number),
        }
    }

    /// The same without its name.
    pub(crate) fn sync_bytes(&self, number: u32) -> io::Result<()> {
        // Reading is enough for that, of a segment that this process may not write.
        let sync = |file: &Kept| {
            let file = file.proven()?;
            crash_point();
            file.sync_data().map(|()| true)
        };
        self.with_segment(number, Access::Read, sync).map(drop)
    }

    /// Waits until the name of a segment is on the medium.
    pub(crate) fn sync_name(&self, number: u32) -> io::Result<()> {
        self.sync_names()?;
        let mut named = self.named();
        if named.len() >= OPEN_MAX {
            named.clear();
        }
        named.insert(number);
        Ok(())
    }

    fn named(&self) -> MutexGuard<'_, HashSet<u32>> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the names of all segments are on the medium; with the first, that of their directory, which somebody
    /// may have made who died before it was there.
    pub(crate) fn sync_names(&self) -> io::Result<()> {
        let home = self.home()?;
        home.sync(Path::new(LOG))?;
        if !self.is_named.load(Ordering::Relaxed) {
            home.sync_own()?;
            self.is_named.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}
