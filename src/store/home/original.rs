//! Whether a slab is the file that was made as it, or a copy.
//!
//! A copy has the words of the store that it was made of, and falls behind as soon as that one
//! grants a token. Two holders, one in each, would hold the same, and a backup that is put back
//! would give tokens again. So the slab names itself, by inode and birth, and one that is another
//! file is refused until it is adopted: see `rebuild`.

use crate::error::{Error, Result};
use crate::slab::Slab;
use crate::slab::header::{STATE_READY, STATE_REBUILDING};
use crate::store::names::known_as;
use crate::sync::Ordering;

/// Refuses a copy, and a slab with more than one name: an opener by the other one would have
/// another log.
pub(in crate::store) fn check(slab: &Slab) -> Result<()> {
    if !names_itself(slab) {
        return Ok(());
    }
    let file = slab.identity();
    let copied = |what: String| {
        let path = known_as(slab.path());
        Err(Error::Copied { path, what })
    };
    if file.links > 1 {
        let path = known_as(slab.path());
        let links = file.links;
        return Err(Error::Linked { path, links });
    }
    let (device, inode, born) = slab.header().slab.load();
    match file.is(device, inode, born) {
        true => Ok(()),
        false if file.inode == inode => copied(format!(
            "its slab has inode {inode} like the one it was made as, but was made later"
        )),
        false => copied(format!(
            "its slab was made as inode {inode} and is inode {}",
            file.inode
        )),
    }
}

/// Whether the slab has come so far that it names itself. Otherwise it was never finished.
pub(in crate::store) fn names_itself(slab: &Slab) -> bool {
    let state = slab.header().state.load(Ordering::Acquire);
    matches!(state, STATE_READY | STATE_REBUILDING)
}

/// Lets the slab name the file that it is. Only alone.
pub(in crate::store) fn name(slab: &Slab) {
    let (file, named) = (slab.identity(), &slab.header().slab);
    named.store(file.device, file.inode, file.born);
}
