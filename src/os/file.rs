//! Files and directories: opening them in a way that no trap of Unix spoils.
//!
//! A directory that several users write to may hold anything by the time a name in it is opened: a
//! link to a file of another user, a FIFO, a device. So nothing is opened for being where it is
//! expected: it is a regular file with one name, found without following a link, or it is refused
//! ([`Unfit`]).

use std::ffi::OsStr;
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::{fmt, io};

use nix::errno::Errno;
use nix::fcntl::{
    AT_FDCWD, AtFlags, FallocateFlags, FcntlArg, OFlag, fallocate, fcntl, openat, posix_fallocate,
};
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat};
use nix::sys::statfs::statfs;
use nix::unistd::{Gid, Uid, Whence, fchown, lseek};

use crate::os::dir::{self, Dir};
use crate::os::identity::FileIdentity;
use crate::os::kept::Kept;
use crate::os::memory;
use crate::sync::crash_point;

/// Opens `path` for reading and writing, close-on-exec, never as one of the descriptors 0 to 2: a
/// program that closed its standard error would otherwise print into the store. Created if missing
/// and `create`, with mode, owner and group of `like`, whatever the umask says.
pub(crate) fn open_like(path: &Path, create: bool, like: Likeness) -> io::Result<File> {
    match create {
        true => open_or_create_at(AT_FDCWD, path, like, Names::One),
        false => open_at(AT_FDCWD, path, OFlag::O_RDWR, Names::One),
    }
}

/// Opens `path` as [`open_like`] does, to be kept, and says which file it is.
pub(crate) fn open_to_keep(path: &Path, like: Likeness) -> io::Result<(Kept, FileIdentity)> {
    match open_and_look(AT_FDCWD, path, OFlag::O_RDWR, Names::One) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => keep(open_like(path, true, like)?),
        found => found.map(kept_as),
    }
}

/// Keeps a file of which nothing is known yet.
pub(crate) fn keep(file: File) -> io::Result<(Kept, FileIdentity)> {
    let identity = FileIdentity::of(&file)?;
    Ok(kept_as((file, identity)))
}

fn kept_as((file, identity): (File, FileIdentity)) -> (Kept, FileIdentity) {
    (Kept::known(file, identity.number()), identity)
}

/// Opens a file that is there, however many names it has: the slab, of which its opener says more
/// about that.
pub(crate) fn open_with_names(path: &Path) -> io::Result<(Kept, FileIdentity)> {
    open_and_look(AT_FDCWD, path, OFlag::O_RDWR, Names::Any).map(kept_as)
}

/// Opens a file of one name for reading, if it is there.
pub(crate) fn open_to_read(path: &Path) -> io::Result<File> {
    open_at(AT_FDCWD, path, OFlag::O_RDONLY, Names::One)
}

/// The slab, for reading what is there.
pub(crate) fn open_to_read_with_names(path: &Path) -> io::Result<(Kept, FileIdentity)> {
    open_and_look(AT_FDCWD, path, OFlag::O_RDONLY, Names::Any).map(kept_as)
}

/// How many names a file may have.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Names {
    One,
    Any,
}

/// Something that is no file of one name, where one was expected: nothing was opened, and nothing
/// done to it.
#[derive(Debug)]
pub(crate) struct Unfit {
    name: String,
    what: String,
}

impl Unfit {
    fn error(name: &Path, what: impl Into<String>) -> io::Error {
        let name = name.file_name().unwrap_or(name.as_os_str());
        io::Error::other(Unfit {
            name: name.to_string_lossy().into_owned(),
            what: what.into(),
        })
    }

    pub(crate) fn is(error: &io::Error) -> bool {
        let inner = error.get_ref();
        inner.is_some_and(|inner| inner.is::<Unfit>())
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}", self.name, self.what)
    }
}

impl std::error::Error for Unfit {}

/// What a file is that is none, in words.
fn kind_of(mode: u32) -> &'static str {
    match SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFREG => "a file",
        SFlag::S_IFDIR => "a directory",
        SFlag::S_IFLNK => "a symbolic link",
        SFlag::S_IFIFO => "a FIFO",
        SFlag::S_IFSOCK => "a socket",
        SFlag::S_IFBLK | SFlag::S_IFCHR => "a device",
        _ => "something unknown",
    }
}

/// Says that `name` is no directory.
pub(super) fn no_directory(name: &Path, stat: &FileStat) -> io::Error {
    let what = format!(
        "{}, not a directory of the store's; look who has put it there, and remove it",
        kind_of(stat.st_mode)
    );
    Unfit::error(name, what)
}

pub(super) fn is_directory(stat: &FileStat) -> bool {
    stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits()
}

/// Refuses what is no regular file, or has other names than may be.
// Types of the fields differ between machines.
#[allow(clippy::unnecessary_cast)]
pub(super) fn refuse_unfit(name: &Path, stat: &FileStat, names: Names) -> io::Result<()> {
    refuse_unfit_as(name, stat.st_mode, stat.st_nlink as u64, names)
}

fn refuse_unfit_as(name: &Path, mode: u32, links: u64, names: Names) -> io::Result<()> {
    if mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() {
        let what = format!(
            "{}, not a file; look who has put it there, and remove it",
            kind_of(mode)
        );
        return Err(Unfit::error(name, what));
    }
    // None at all: it was removed a moment ago, which is for the caller to notice.
    if names == Names::One && links > 1 {
        let what = format!(
            "a file of {} names (hard links), and those of a store have one; remove the others, and copy a store \
             without links",
            links
        );
        return Err(Unfit::error(name, what));
    }
    Ok(())
}

/// Opens the file `name` in `dir`, which has to be one. A device is not opened at all, unless it is
/// put there between two system calls; what was opened is looked at again.
pub(super) fn open_at(
    dir: BorrowedFd<'_>,
    name: &Path,
    how: OFlag,
    names: Names,
) -> io::Result<File> {
    open_and_look(dir, name, how, names).map(|(file, _)| file)
}

/// Opens a file as [`open_at`] does, and says which file it is.
fn open_and_look(
    dir: BorrowedFd<'_>,
    name: &Path,
    how: OFlag,
    names: Names,
) -> io::Result<(File, FileIdentity)> {
    crash_point();
    refuse_unfit(
        name,
        &fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?,
        names,
    )?;
    let file = match open_once(dir, name, how | OFlag::O_NONBLOCK, Mode::empty()) {
        // Another program has a lease on it: then opening waits until it has given that up. Should
        // a FIFO be there by now, opening it for reading and writing does not wait.
        Err(Errno::EAGAIN) if how == OFlag::O_RDWR => open_once(dir, name, how, Mode::empty())?,
        Err(Errno::ELOOP) => return Err(Unfit::error(name, "a symbolic link, not a file")),
        other => other?,
    };
    // The flag that has kept it from waiting means nothing for a regular file.
    let identity = FileIdentity::of(&file)?;
    refuse_unfit_as(name, identity.mode, identity.links, names)?;
    Ok((file, identity))
}

/// Opens the file `name` in `dir`, or makes it.
pub(super) fn open_or_create_at(
    dir: BorrowedFd<'_>,
    name: &Path,
    like: Likeness,
    names: Names,
) -> io::Result<File> {
    let mut rounds = 0;
    loop {
        match open_at(dir, name, OFlag::O_RDWR, names) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        match create_at(dir, name, like) {
            // Another process created it in the meantime.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && rounds < ROUNDS => rounds += 1,
            other => return other,
        }
    }
}

/// How often an opener may find a file there and not there by turns; beyond that, another program
/// causes it.
const ROUNDS: u32 = 16;

/// Creates a file where nothing is.
pub(super) fn create_at(dir: BorrowedFd<'_>, name: &Path, like: Likeness) -> io::Result<File> {
    let how = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL;
    let file = open_once(dir, name, how, Mode::from_bits_truncate(like.mode))?;
    like.apply(&file)?;
    Ok(file)
}

fn open_once(dir: BorrowedFd<'_>, name: &Path, how: OFlag, mode: Mode) -> nix::Result<File> {
    let always = OFlag::O_CLOEXEC | OFlag::O_LARGEFILE | OFlag::O_NOFOLLOW | OFlag::O_NOCTTY;
    open_anything(dir, name, how | always, mode).map(File::from)
}

/// Opens whatever is there, above the standard descriptors.
pub(super) fn open_anything(
    dir: BorrowedFd<'_>,
    name: &Path,
    how: OFlag,
    mode: Mode,
) -> nix::Result<OwnedFd> {
    loop {
        crash_point();
        match openat(dir, name, how, mode) {
            Err(Errno::EINTR) => {}
            other => return above_standard_descriptors(other?),
        }
    }
}

/// Moves a descriptor of ours away from 0 to 2, which the program may open, print to, and close.
#[allow(unsafe_code)]
pub(crate) fn above_standard_descriptors(fd: OwnedFd) -> nix::Result<OwnedFd> {
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    crash_point();
    let moved = fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(3))?;
    // SAFETY: `moved` was just made by the kernel for us, and nothing else owns it.
    let moved = unsafe { OwnedFd::from_raw_fd(moved) };
    // Another thread of the program may have opened its own there by `dup2` meanwhile.
    if let Ok(low) = Kept::new(File::from(fd)) {
        low.close();
    }
    Ok(moved)
}

/// What is at a path. No link is followed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NameSeen {
    pub(crate) like: Likeness,
    /// How many names it has, if it is a file; else one.
    pub(crate) links: u64,
    /// Device and inode.
    pub(crate) number: (u64, u64),
}

impl NameSeen {
    // Types of the fields differ between machines.
    #[allow(clippy::unnecessary_cast)]
    pub(crate) fn at(path: &Path) -> io::Result<NameSeen> {
        crash_point();
        let stat = fstatat(AT_FDCWD, path, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let links = match refuse_unfit(path, &stat, Names::Any) {
            Ok(()) => stat.st_nlink as u64,
            Err(_) => 1,
        };
        Ok(NameSeen {
            like: Likeness::of_stat(&stat),
            links,
            number: (stat.st_dev as u64, stat.st_ino as u64),
        })
    }
}

/// Owner, group and mode of a file that is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Likeness {
    mode: u32,
    /// `None`: the maker's, and the group that the directory gives it.
    owner: Option<(u32, u32)>,
}

impl Likeness {
    pub(crate) fn of_mode(mode: u32) -> Likeness {
        Likeness { mode, owner: None }
    }

    pub(super) fn of_stat(stat: &FileStat) -> Likeness {
        Likeness {
            mode: stat.st_mode & 0o777,
            owner: Some((stat.st_uid, stat.st_gid)),
        }
    }

    /// Those of a file that only writers may open.
    pub(crate) fn for_writers(self) -> Likeness {
        let writers = self.mode & 0o222;
        Likeness {
            mode: writers | writers << 1,
            ..self
        }
    }

    /// Gives a file that is there its mode, if it is this process's to give: `false`, if it is not.
    pub(crate) fn give_mode(self, to: &File) -> io::Result<bool> {
        crash_point();
        match fchmod(to, self.mode()) {
            Ok(()) => Ok(true),
            Err(Errno::EPERM) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Those of a directory: search permission goes with read permission.
    pub(crate) fn of_dir(self) -> Likeness {
        Likeness {
            mode: self.mode | (self.mode & 0o444) >> 2,
            ..self
        }
    }

    pub(super) fn mode(self) -> Mode {
        Mode::from_bits_truncate(self.mode)
    }

    /// Gives them to what was just made, as far as this process may: only root gives files away,
    /// and groups only their members. A group that it cannot be given to has no more rights
    /// than everybody, for the rights were not meant for the group that it has instead. What a
    /// directory says of groups in it (the bit setgid) stays.
    pub(super) fn apply(self, to: impl AsFd) -> io::Result<()> {
        let to = to.as_fd();
        crash_point();
        let now = fstat(to)?;
        let mut mode = self.mode | now.st_mode & Mode::S_ISGID.bits();
        if let Some((uid, gid)) = self.owner {
            let is_given = |given: nix::Result<()>| match given {
                Ok(()) => Ok(true),
                // Also ids that this user namespace does not know.
                Err(Errno::EPERM | Errno::EINVAL) => Ok(false),
                Err(e) => Err(e),
            };
            if now.st_gid != gid {
                crash_point();
                if !is_given(fchown(to, None, Some(Gid::from_raw(gid))))? {
                    mode = mode & !0o070 | (mode & 0o007) << 3;
                }
            }
            if now.st_uid != uid {
                crash_point();
                is_given(fchown(to, Some(Uid::from_raw(uid)), None))?;
            }
        }
        crash_point();
        Ok(fchmod(to, Mode::from_bits_truncate(mode))?)
    }
}

/// Whether a user that may not write a file of that mode may read it.
pub(crate) fn has_mere_readers(mode: u32) -> bool {
    mode & 0o444 & !((mode & 0o222) << 1) != 0
}

/// Makes `path` and what is missing above it. Only the last one gets `mode`, whatever the umask
/// says; those above are made as any program would make them. Their names are on the device
/// afterwards, that of the last one once [`sync_above`] says so.
pub(crate) fn create_dir(path: &Path, mode: u32) -> io::Result<()> {
    crash_point();
    if path.is_dir() {
        return Ok(());
    }
    let above = path.parent().filter(|p| !p.as_os_str().is_empty());
    if let Some(parent) = above {
        // Above the first part of a relative one there is the empty path, which names nothing.
        let is_missing = |one: &&Path| !one.as_os_str().is_empty() && !one.is_dir();
        let missing: Vec<_> = parent.ancestors().take_while(is_missing).collect();
        crash_point();
        std::fs::create_dir_all(parent)?;
        missing.into_iter().try_for_each(sync_above)?;
    }
    let Some(name) = path.file_name().map(OsStr::as_ref) else {
        // It ends in `..`: what that points to is made by now, if anything could make it.
        return match path.is_dir() {
            true => Ok(()),
            false => Err(Errno::ENOENT.into()),
        };
    };
    let above = Dir::open(above.unwrap_or(Path::new(".")))?;
    match above.make_dir(name, Likeness::of_mode(mode)) {
        // Made in the meantime, or a link to one: the directory of a store may be one.
        Err(_) if path.is_dir() => Ok(()),
        other => other,
    }
}

/// Waits until the name of `path` is on the device. A directory that may be written and not be read
/// cannot be opened for that: then the name is there when the kernel gets to it. Nor can all file
/// systems do that in which `path` may be mounted.
pub(crate) fn sync_above(path: &Path) -> io::Result<()> {
    let above = || {
        let whole = path.canonicalize()?;
        sync_dir(whole.parent().unwrap_or(&whole))
    };
    match above() {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        Err(e) if e.raw_os_error() == Some(Errno::EINVAL as i32) => Ok(()),
        other => other,
    }
}

/// Waits until the names in a directory are on the device.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    let dir = File::from(dir::open_readable(AT_FDCWD, dir, OFlag::empty())?);
    crash_point();
    dir.sync_all()
}

/// Allocates the blocks of `len` bytes from `offset`, growing the file if it ends before.
/// Afterwards a write to them through a mapping cannot fail for lack of room.
pub(crate) fn allocate(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let (mut at, end) = (to_offset(offset)?, to_offset(offset.saturating_add(len))?);
    // In pieces: a signal may undo one, and where signals are frequent a large one would never be
    // done.
    while at < end {
        let len = ALLOCATE_BYTES.min(end - at);
        crash_point();
        match growing(|| Ok(posix_fallocate(file, at, len)?)) {
            Ok(()) => at += ALLOCATE_BYTES,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Writes all of it. A limit of the process for the length of files (`ulimit -f`) is an error.
pub(crate) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    growing(|| {
        crash_point();
        file.write_all_at(bytes, offset)
    })
}

/// Runs system calls that may make a file longer. Where a limit of the process forbids that, the
/// kernel sends `SIGXFSZ` to the calling thread besides saying `EFBIG`, and a program that does not
/// know of it is ended by that. So the signal is blocked meanwhile, and taken away if these calls
/// caused it: the limit is looked at where it is applied, and may be changed by others, or other
/// processes, at any time before. One that was pending already is the program's.
pub(crate) fn growing<T>(grow: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let signal = SigSet::from(Signal::SIGXFSZ);
    crash_point();
    let before = signal.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let is_blocked = before.contains(Signal::SIGXFSZ);
    // Only what is blocked can be pending for this thread.
    let was_pending = is_blocked && is_pending(Signal::SIGXFSZ);
    let result = grow();
    let said = result.as_ref().err().and_then(io::Error::raw_os_error);
    if said == Some(Errno::EFBIG as i32) && !was_pending {
        take_pending(signal);
    }
    if !is_blocked {
        crash_point();
        // It was in the mask that was set above, so it can be set again.
        let _ = before.thread_set_mask();
    }
    result
}

#[allow(unsafe_code)]
fn is_pending(signal: Signal) -> bool {
    let mut pending = MaybeUninit::<libc::sigset_t>::uninit();
    crash_point();
    // SAFETY: the kernel fills in a set, for which there is room.
    let asked = unsafe { libc::sigpending(pending.as_mut_ptr()) };
    // SAFETY: it was filled in, or is not looked at.
    asked == 0 && unsafe { libc::sigismember(pending.as_ptr(), signal as i32) } == 1
}

/// Takes away a signal of the set that is pending, if one is; that of the thread before that of the
/// process.
#[allow(unsafe_code)]
fn take_pending(signals: SigSet) {
    let at_once = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    loop {
        crash_point();
        // SAFETY: set and time are valid for the length of the call; nothing is to be told of the
        // signal.
        let taken = unsafe { libc::sigtimedwait(signals.as_ref(), std::ptr::null_mut(), &at_once) };
        // Another signal came first; or there is none, as where the file system's own limit was
        // meant.
        if taken >= 0 || Errno::last() != Errno::EINTR {
            return;
        }
    }
}

/// Gives the blocks of the bytes from `from` to `to` back to the file system; they are zeros from
/// then on, and the file is as long as before. `false`: the file system, or the kernel, cannot do
/// that.
pub(crate) fn punch(file: &File, from: u64, to: u64) -> io::Result<bool> {
    let (at, len) = (to_offset(from)?, to_offset(to.saturating_sub(from))?);
    let how = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    loop {
        crash_point();
        match fallocate(file, how, at, len) {
            Ok(()) => return Ok(true),
            Err(Errno::EINTR) => {}
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => return Ok(false),
            Err(e) => return Err(e.into()),
        }
    }
}

/// Takes the kernel less than the shortest interval at which signals can be expected.
const ALLOCATE_BYTES: i64 = 256 * 1024;

/// Reads `len` bytes at `offset` behind what is in `into`, without making zeros there first.
/// `false`: the file ends before.
#[allow(unsafe_code)]
pub(crate) fn read_behind(
    file: &File,
    into: &mut Vec<u8>,
    len: usize,
    offset: u64,
) -> io::Result<bool> {
    memory::reserve_exact(into, len)?;
    let mut left = len;
    while left > 0 {
        let at = to_offset(offset + (len - left) as u64)?;
        let room = into.spare_capacity_mut();
        let count = left.min(room.len());
        crash_point();
        // SAFETY: the kernel writes at most `count` bytes, which `room` has.
        let read = unsafe { libc::pread(file.as_raw_fd(), room.as_mut_ptr().cast(), count, at) };
        match read {
            0 => return Ok(false),
            1.. => {
                left -= read as usize;
                let filled = into.len() + read as usize;
                // SAFETY: so many bytes more were written just now.
                unsafe { into.set_len(filled) };
            }
            _ => match Errno::last() {
                Errno::EINTR => {}
                e => return Err(e.into()),
            },
        }
    }
    Ok(true)
}

/// Makes zeros of all bytes from `from` to `to`, as far as the file has any there. Holes stay
/// holes.
pub(crate) fn clear(file: &File, from: u64, to: u64) -> io::Result<()> {
    let to = to.min(file.metadata()?.len());
    let mut at = from;
    // Not in a frame: the thread may have a small stack.
    let mut bytes = memory::filled(0, 1 << 14)?;
    while at < to {
        at = match lseek(file, to_offset(at)?, Whence::SeekData) {
            Ok(data) => data as u64,
            Err(Errno::ENXIO) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let len = bytes.len().min(to.saturating_sub(at) as usize);
        file.read_exact_at(&mut bytes[..len], at)?;
        if bytes.iter().any(|byte| *byte != 0) {
            bytes.fill(0);
            write_all_at(file, &bytes[..len], at)?;
        }
        at += len as u64;
    }
    Ok(())
}

fn to_offset(at: u64) -> io::Result<i64> {
    i64::try_from(at).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

/// Whether `path` is still the file of that device and inode: a lock on a file that was unlinked or
/// renamed excludes no process that opens the path.
pub(crate) fn is_still(path: &Path, number: (u64, u64)) -> io::Result<bool> {
    crash_point();
    match std::fs::symlink_metadata(path) {
        Ok(meta) => Ok((meta.dev(), meta.ino()) == number),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// The file-system type of `path`, as the magic number that the kernel gives.
pub(crate) fn fs_magic(path: &Path) -> io::Result<i64> {
    crash_point();
    // A 32-bit number on some machines.
    #[allow(clippy::useless_conversion)]
    Ok(i64::from(statfs(path)?.filesystem_type().0))
}

/// The name of a file system on which mappings are not coherent between machines, or not at all.
pub(crate) fn incoherent_fs(magic: i64) -> Option<&'static str> {
    // Numbers of linux/magic.h and of the file systems' own headers.
    Some(match magic & 0xffff_ffff {
        0x6969 => "NFS",
        0x517b => "SMB",
        0xff53_4d42 => "CIFS",
        0xfe53_4d42 => "SMB2",
        0x0102_1997 => "9p",
        0x6573_5546 => "FUSE",
        0x00c3_6400 => "Ceph",
        0x5346_414f | 0x6b41_4653 => "AFS",
        0x7375_7245 => "Coda",
        0x0116_1970 => "GFS2",
        0x7461_636f => "OCFS2",
        0x0bd0_0bd0 => "Lustre",
        0xaad7_aaea => "PanFS",
        0x4750_4653 => "GPFS",
        0x7372_6562 => "VirtualBox shared folder",
        0xbacb_acbc => "VMware shared folder",
        0x786f_4256 => "VirtualBox shared folder",
        _ => return None,
    })
}

pub(crate) fn retry<T>(mut action: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match action() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_known_and_local_ones_are_not() {
        assert_eq!(incoherent_fs(0x6969), Some("NFS"));
        assert_eq!(incoherent_fs(0x6573_5546), Some("FUSE"));
        // The kernel's long is signed on some machines.
        assert_eq!(
            incoherent_fs(i64::from(0xff53_4d42_u32 as i32)),
            Some("CIFS")
        );
        for local in [
            0xef53,
            0x0102_1994,
            0x5846_5342,
            0x9123_683e_u32 as i64,
            0x794c_7630,
        ] {
            assert_eq!(incoherent_fs(local), None);
        }
    }

    /// Of /proc no name can be waited for, as of the file system of an image, in which another one
    /// may be mounted.
    #[test]
    fn where_directories_are_never_synced_nobody_waits_for_it() {
        let error = sync_dir(Path::new("/proc")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::EINVAL as i32));
        sync_above(Path::new("/proc/self")).unwrap();
        let gone = tempfile::tempdir().unwrap().path().join("gone");
        assert!(sync_above(&gone).is_err());
    }

    #[test]
    fn a_file_for_writers_has_no_mere_readers() {
        for mode in 0..=0o777 {
            let for_writers = Likeness::of_mode(mode).for_writers();
            assert!(!has_mere_readers(for_writers.mode), "{mode:o}");
        }
        for mode in [0o644, 0o640, 0o604, 0o664, 0o400] {
            assert!(has_mere_readers(mode), "{mode:o}");
        }
    }

    #[test]
    fn modes_do_not_depend_on_the_umask_and_a_replaced_file_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let file = open_like(&path, true, Likeness::of_mode(0o666)).unwrap();
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o666);
        let number = FileIdentity::of(&file).unwrap().number();
        assert!(is_still(&path, number).unwrap());
        std::fs::remove_file(&path).unwrap();
        assert!(!is_still(&path, number).unwrap());
        let _other = open_like(&path, true, Likeness::of_mode(0o600)).unwrap();
        assert!(!is_still(&path, number).unwrap());
    }
}
