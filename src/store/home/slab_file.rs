//! The file of the slab, up to the map: whether it is one, mapping it, making it; and what the
//! header says of it as a whole, in its two static copies.
//!
//! `open` and `rebuild` decide which process may do which of that, and when.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::{Error, Result};
use crate::os::clock::wall_us;
use crate::os::dir::{sync_above, sync_dir};
use crate::os::file;
use crate::os::file::retry;
use crate::os::identity::FileIdentity;
use crate::os::kept::Kept;
use crate::slab::header::{
    COPY_OFFSET, FORMAT_VERSION, Refusal, STATE_READY, STATIC_BYTES, Static,
};
use crate::slab::layout::{CAPACITY_MAX, PAGE};
use crate::slab::{Layout, Slab};
use crate::store::home::open::refuse_strangers;
use crate::store::home::{rebuild, rebuild_log, rebuild_tokens};
use crate::store::log::sync;
use crate::store::members::lock_files::Locks;
use crate::store::names::{SLAB, Site, not_a_store, random};
use crate::store::settings::{DEFAULT_CAPACITY, Settings};
use crate::sync::{Ordering, crash_point};

/// Maps the slab of `dir`, or says why it cannot be one. `None`: it is not made yet.
pub(in crate::store) fn map(dir: &Path) -> Result<Option<Box<Slab>>> {
    map_unchecked(dir)?.map(whole).transpose()
}

/// Maps the slab of `dir` for reading alone: so that nothing of it can be written.
pub(in crate::store) fn map_to_read(dir: &Path) -> Result<Option<Box<Slab>>> {
    let slab = map_by(dir, file::open_to_read_with_names, Slab::map_to_read)?;
    slab.map(whole).transpose()
}

/// Refuses a slab that was cut off.
fn whole(slab: Box<Slab>) -> Result<Box<Slab>> {
    match slab.extent().cover_all()? {
        None => Ok(slab),
        Some((len, need)) => Err(slab.corrupt(format!("it is cut off at {len} of {need} bytes"))),
    }
}

/// Maps the slab of `dir` without a look at the file's length, for repair.
pub(in crate::store) fn map_unchecked(dir: &Path) -> Result<Option<Box<Slab>>> {
    map_by(dir, file::open_with_names, Slab::map)
}

fn map_by(
    dir: &Path,
    open: impl FnOnce(&Path) -> io::Result<(Kept, FileIdentity)>,
    map: impl FnOnce((Kept, FileIdentity), &Path, Static, Layout) -> Result<Box<Slab>>,
) -> Result<Option<Box<Slab>>> {
    let path = dir.join(SLAB);
    let (slab, identity) = match open(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|e| Error::io("open", &path, e))?,
    };
    let damaged = |what: String| Error::Corrupt {
        path: path.clone(),
        what,
    };
    let Some(part) = read_static(slab.unproven(), &path)? else {
        return match is_blank(slab.unproven()).map_err(|e| Error::io("read", &path, e))? {
            true => Ok(None),
            false => Err(damaged("its header is gone".to_string())),
        };
    };
    let layout = Layout::new(part.capacity)
        .ok_or_else(|| damaged(format!("its header has capacity {}", part.capacity)))?;
    if identity.len < PAGE {
        // Asked again: a maker may have made it longer, and written the header that was just read.
        crash_point();
        let meta = slab.unproven().metadata();
        let len = meta.map_err(|e| Error::io("read", &path, e))?.len();
        if len < PAGE {
            return Err(damaged(format!("it is cut off at {len} bytes")));
        }
    }
    let slab = map((slab, identity), &path, part, layout)?;
    match slab.header().kinds.load(Ordering::Relaxed) {
        0 => Ok(Some(slab)),
        // Kinds of keys that this build does not know: it would take them for damage.
        kinds => Err(Error::Version {
            path,
            found: kinds as u32,
            supported: FORMAT_VERSION,
        }),
    }
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

/// What is wrong with one of the copies of the header's static part, while the other one serves.
pub(in crate::store) fn damaged_copy(slab: &Slab) -> Result<Option<String>> {
    let file = slab.file()?;
    for (which, offset) in [("first", 0), ("second", COPY_OFFSET)] {
        let copy = Static::decode(&read_up_to(file, slab.path(), offset)?);
        if copy.as_ref() != Ok(slab.part()) {
            return Ok(Some(format!(
                "the {which} copy of the slab's header is damaged; the other one serves until `slablock repair` writes it again"
            )));
        }
    }
    Ok(None)
}

/// Whether there is nothing but zeros in it, as in a slab of which the making was interrupted.
fn is_blank(slab: &File) -> io::Result<bool> {
    // Not in a frame: the thread may have a small stack.
    let mut bytes = vec![0; 1 << 16];
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

/// Makes the slab. Only alone. A maker that dies in here leaves a slab that is not ready, and the
/// next first opener starts over.
pub(in crate::store) fn initialise(
    site: &Site,
    locks: &Locks,
    settings: &Settings,
) -> Result<Box<Slab>> {
    let dir = &site.dir;
    // The maker of a cache of several shards has the same file locked.
    refuse_strangers(dir, settings)?;
    let layout = layout_of(settings.new_capacity().unwrap_or(DEFAULT_CAPACITY))?;
    let path = dir.join(SLAB);
    let io = |action| {
        let path = path.clone();
        move |e| Error::io(action, &path, e)
    };
    let like = site.likeness(settings.new_mode())?;
    let slab = file::open_like(&path, true, like).map_err(io("create"))?;
    let allocate = |(from, len)| file::allocate(&slab, from, len);
    if let Err(e) = Layout::fixed().into_iter().try_for_each(allocate) {
        // What was allocated is given back, as far as that works: there is nothing in it, and
        // nobody has mapped it.
        let _ = slab.set_len(0);
        return Err(io("create")(e));
    }
    let part = Static {
        capacity: layout.capacity,
        seed: [random(&path)?, random(&path)?],
        id: u128::from(random(&path)?) << 64 | u128::from(random(&path)?),
    };
    write_static(&slab, &path, &part)?;
    let slab = file::keep(slab).map_err(io("look at"))?;
    let slab = Slab::map(slab, &path, part, layout)?;
    let limits = settings.new_limits();
    if limits.value_limit.is_some() {
        // It lies in another sector than what says that this is a slab, which the device has to
        // have before: see below.
        slab.sync()?;
    }
    limits.write(&slab);
    // What a store had that was here before is nobody's.
    rebuild_log::adopt_log(&slab, false)?;
    rebuild::name(&slab, locks)?;
    // A maker before this one may have failed to sync it.
    sync::sync_alone(&slab)?;
    // The name, too: a store that is gone after a power failure would begin its tokens again.
    let io = |e| Error::io("sync", dir, e);
    sync_dir(dir).map_err(io)?;
    // The maker of the directory may have died before that.
    sync_above(dir).map_err(io)?;
    // Another store in this place may have granted tokens before. After the header is on the
    // device: a slab without one that is not blank would be taken for damaged. Should the power
    // fail here, a rebuild does the same.
    rebuild_tokens::begin_floors(&slab);
    let now_ms = wall_us() / 1_000;
    slab.header().made_ms.store(now_ms, Ordering::Relaxed);
    slab.header().state.store(STATE_READY, Ordering::Release);
    slab.sync()?;
    Ok(slab)
}

pub(in crate::store) fn layout_of(capacity: usize) -> Result<Layout> {
    let layout = u32::try_from(capacity).ok().and_then(Layout::new);
    layout.ok_or_else(|| Error::Invalid {
        what: format!("a store has a capacity of 1 to {CAPACITY_MAX} keys, not {capacity}"),
    })
}

/// Writes both copies of the static part of the header.
pub(in crate::store) fn write_static(slab: &File, path: &Path, part: &Static) -> Result<()> {
    for offset in [0, COPY_OFFSET] {
        crash_point();
        file::write_all_at(slab, &part.encode(), offset)
            .map_err(|e| Error::io("write", path, e))?;
    }
    Ok(())
}
