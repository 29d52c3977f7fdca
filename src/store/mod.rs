//! A store: one open slab, and this process's part in it: joining, and whether it still is where
//! others find it.
//!
//! Its rooms, each of which is to use those below it only:
//!
//! | room | what is in it |
//! |---|---|
//! | `care` | looking at a store and verifying it |
//! | `txn` | several changes at once |
//! | `space` | writing values, where room has to be made first |
//! | `values` | a value by its key, averages, computing a value once |
//! | `holds` | having, waiting and giving back |
//! | `reclaim` | slots when there are none left |
//! | `index` | from a key to its slot; changing the structure under a stripe |
//! | `slots` | what is in a slot, without seeking a key |
//! | `journal` | what was decided is carried out, in all shards |
//! | `home` | from a directory to a whole slab |
//! | `log` | which bytes of the log belong to which value |
//! | `members` | which processes take part, which live, and what each has open |

pub(crate) mod candidate;
pub(crate) mod care;
pub(crate) mod era;
pub(crate) mod expiry;
pub(crate) mod holds;
pub(crate) mod home;
pub(crate) mod in_slab;
pub(crate) mod index;
pub(crate) mod journal;
pub(crate) mod key_entry;
pub(crate) mod log;
pub(crate) mod members;
pub(crate) mod names;
pub(crate) mod patience;
pub(crate) mod reclaim;
pub(crate) mod settings;
pub(crate) mod slots;
pub(crate) mod space;
pub(crate) mod txn;
pub(crate) mod values;

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::log::{LOG, Log};
use crate::os::dir::Dir;
use crate::os::fork::{Inherited, Registry};
use crate::os::process::Identity;
use crate::os::{cleaner, clock};
use crate::record::ParticipantId;
use crate::slab::layout::STRIPES;
use crate::slab::{PARTICIPANT_SHARED, Slab};
use crate::store::era::Ticks;
use crate::store::members::deadlock::Tokens;
use crate::store::members::device::Device;
use crate::store::members::join::try_join;
use crate::store::members::lock_files::Locks;
use crate::store::members::process::Process;
use crate::store::members::recount::Recount;
use crate::store::members::shards::ShardsOf;
use crate::store::members::{living, participants};
use crate::store::names::Site;
use crate::sync::{AtomicPtr, AtomicU64, Ordering, crash_point};

/// The bytes of the file `stripes`: one for each stripe, then these five.
const JOIN_BYTE: u64 = STRIPES as u64;
const GROW_BYTE: u64 = STRIPES as u64 + 1;
const COMPACT_BYTE: u64 = STRIPES as u64 + 2;
const TRANSACT_BYTE: u64 = STRIPES as u64 + 3;
const LARGE_BYTE: u64 = STRIPES as u64 + 4;
const RANGE_LOCKS: usize = STRIPES as usize + 5;
/// How long to leave another joiner, which takes microseconds, before looking again; and at the
/// most, when that takes longer. Thousands that start together would otherwise look so often that
/// none gets a processor to join with.
const JOIN_PAUSE: Duration = Duration::from_micros(500);
const JOIN_PAUSE_MAX: Duration = Duration::from_millis(50);

/// An open store. One for each process and slab, however often it is opened.
pub(crate) struct Store {
    /// This process's participant number, or 0: not joined, or not joined *again* after a fork.
    /// All that the hot path needs to know of the process is this word.
    me: AtomicU64,
    /// Tells the stores that this process ever opened apart.
    serial: u64,
    slab: Slab,
    /// Device and inode of the slab.
    slab_identity: (u64, u64),
    site: Site,
    mode: u32,
    /// What belongs to this process and not to its parent. Null when `me` is 0.
    process: AtomicPtr<Process>,
    /// In which period of the clock it was last seen to be in its place.
    looked_in: AtomicU64,
    /// On which day the times of its files were renewed.
    renewed_in: AtomicU64,
    ticks: Ticks,
    /// What cache it is a shard of, if it was opened as one.
    shards: ShardsOf,
    tokens: Tokens,
}

impl Store {
    pub(crate) fn slab(&self) -> &Slab {
        &self.slab
    }

    pub(crate) fn serial(&self) -> u64 {
        self.serial
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.site.dir
    }

    /// The directory by which its users know it, for what they are told to do: of a shard, that of
    /// its cache.
    pub(crate) fn known_as(&self) -> &Path {
        &self.site.locks
    }

    /// Notices that the store was removed, or another put in its place: then processes that open it
    /// now exclude nothing that is done here. A system call, so not for the fast path; for
    /// everything that waits, looks for keys or changes the structure.
    ///
    /// A path that is gone while the slab still has a name says nothing: the store was moved, or
    /// this process sees another root by now. So does a path that cannot be looked at.
    pub(crate) fn check_in_place(&self) -> Result<()> {
        crash_point();
        match std::fs::metadata(self.slab.path()) {
            Ok(there) if (there.dev(), there.ino()) != self.slab_identity => self.replaced(),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                self.check_named()
            }
            _ => Ok(()),
        }
    }

    /// Notices that the store was removed, each time that a key is made; and once in some
    /// milliseconds also that another one was put in its place, for to ask that each time would
    /// take half as long again.
    pub(crate) fn check_in_place_often(&self) -> Result<()> {
        match self.looked_lately() {
            true => self.check_named(),
            false => self.check_in_place_seldom(),
        }
    }

    /// Notices once in some milliseconds that the store was removed or replaced: for what cannot
    /// afford a system call each time.
    #[inline]
    pub(crate) fn check_in_place_seldom(&self) -> Result<()> {
        if self.looked_lately() {
            return Ok(());
        }
        self.check_in_place()?;
        self.looked_in.store(clock::period(), Ordering::Relaxed);
        if self.renewed_in.swap(day(), Ordering::Relaxed) != day() {
            self.renew_times();
        }
        Ok(())
    }

    /// Keeps cleaners of temporary files away from those that are seldom written.
    #[cold]
    pub(crate) fn renew_times(&self) {
        if let Some(process) = self.joined() {
            process.locks.renew_times();
        }
        cleaner::renew(self.dir(), [names::SLAB]);
        cleaner::renew(&self.site.locks, [names::FANOUT]);
        cleaner::renew_all(&self.dir().join(LOG));
    }

    fn looked_lately(&self) -> bool {
        self.looked_in.load(Ordering::Relaxed) == clock::period()
    }

    fn check_named(&self) -> Result<()> {
        match self.slab.stat() {
            Ok(slab) if slab.st_nlink == 0 => self.replaced(),
            Err(error @ (Error::Detached { .. } | Error::Replaced { .. })) => Err(error),
            _ => Ok(()),
        }
    }

    fn replaced(&self) -> Result<()> {
        let path = self.known_as().to_path_buf();
        Err(Error::Replaced { path })
    }

    /// This process's participant, if it has joined.
    #[inline]
    pub(crate) fn me(&self) -> Option<ParticipantId> {
        ParticipantId::new(self.me.load(Ordering::Relaxed) as u16)
    }

    /// This process's part; joins first if need be, as after a fork.
    pub(in crate::store) fn process(&self) -> Result<&Process> {
        match self.joined() {
            Some(process) => Ok(process),
            None => self.join(None),
        }
    }

    #[allow(unsafe_code)]
    fn joined(&self) -> Option<&Process> {
        // SAFETY: the pointer is null or came from `Box::into_raw` in `become_participant`, and
        // is only freed when the store is dropped (P1).
        unsafe { self.process.load(Ordering::Acquire).as_ref() }
    }

    /// Whether this process still has the descriptors with which it joined. True also before it
    /// has.
    pub(crate) fn is_attached(&self) -> bool {
        let process = self.joined();
        process.is_none_or(|process| process.locks.prove().is_ok() && self.slab.file().is_ok())
    }

    /// Joins, with lock files that are attached already or with new ones.
    #[cold]
    fn join(&self, locks: Option<Locks>) -> Result<&Process> {
        let locks = match locks {
            Some(locks) => locks,
            None => {
                self.check_in_place()?;
                let locks = Locks::open(&self.site, self.site.likeness(self.mode)?)?;
                living::attach_again(&locks, &self.slab)?;
                locks
            }
        };
        if locks.were_old() {
            self.renew_times();
            locks.renew_times();
        }
        let home = match locks.open_dir(self.dir()) {
            Some(home) => home,
            None => {
                let home = Dir::open(self.dir()).map_err(|e| Error::io("open", self.dir(), e))?;
                Arc::new(home)
            }
        };
        let log = Log::new(self.dir(), home, names::SLAB, self.slab.part().id);
        let identity = Identity::of_this_process()
            .map_err(|e| Error::io("read", Path::new("/proc/self/stat"), e))?;
        let mut pause = JOIN_PAUSE;
        loop {
            // The registry's lock is the one that a fork in another thread cannot leave locked. For
            // the same reason nobody waits for other processes with it: every fork would wait, too.
            let registry = Registry::lock();
            if let Some(process) = self.joined() {
                return Ok(process);
            }
            let joined = try_join(&self.slab, &locks, &identity)?;
            if let Some(id) = joined {
                self.become_participant(id, identity, locks, log);
                break;
            }
            drop(registry);
            // Somebody else is joining, which takes microseconds; there is no wait for the byte
            // that could be had without the registry, and given up with it.
            crash_point();
            std::thread::sleep(pause);
            pause = (pause * 3 / 2).min(JOIN_PAUSE_MAX);
        }
        self.joined()
            .ok_or_else(|| self.slab.corrupt("this process left while it was joining"))
    }

    fn become_participant(&self, id: ParticipantId, identity: Identity, locks: Locks, log: Log) {
        let device = Device::new(&self.slab);
        let process = Box::new(Process::new(id, identity, locks, log, device));
        // Release: pairs with the Acquire in `joined`.
        self.process
            .store(Box::into_raw(process), Ordering::Release);
        self.me.store(id.get().into(), Ordering::Release);
    }

    /// What keeps this process's holds alive for as long as any process has it open.
    pub(crate) fn lifeline(&self) -> Result<[OwnedFd; 2]> {
        let process = self.process()?;
        let beacon = process.locks.clone_beacons()?;
        let slab = self.slab.file()?;
        crash_point();
        let io = |e| Error::io("duplicate", self.slab.path(), e);
        let witness = slab.try_clone().map_err(io)?;
        process.shared.store(true, Ordering::Relaxed);
        if let Some(record) = self.slab.participant(process.id.get()) {
            record.state.fetch_or(PARTICIPANT_SHARED, Ordering::AcqRel);
        }
        Ok([beacon.into(), witness.into()])
    }
}

/// Which day it is, on a clock that does not jump.
fn day() -> u64 {
    clock::coarse_ns() / cleaner::RENEW_AFTER.as_nanos() as u64
}

#[cfg(any(fuzzing, test))]
impl Store {
    /// What is seen of this process's death: nobody here is the participant any more, and its
    /// beacon is free.
    pub(crate) fn die(&self) {
        self.me.store(0, Ordering::Release);
        if let Some(process) = self.joined() {
            process.leave(&self.slab);
        }
    }
}

impl Inherited for Store {
    fn disown(&self) {
        if let Some(process) = self.joined() {
            process.device.disown();
            process.log.disown();
        }
        // The parent's process is leaked: threads that do not exist here may have borrowed it. Its
        // files are members of the registry themselves.
        self.me.store(0, Ordering::Release);
        self.process.store(std::ptr::null_mut(), Ordering::Release);
        self.slab.disown();
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let process = self.process.swap(std::ptr::null_mut(), Ordering::AcqRel);
        if !process.is_null() {
            #[allow(unsafe_code)]
            // SAFETY: it came from `Box::into_raw`, and with the store its last user is gone.
            let process = unsafe { Box::from_raw(process) };
            process.leave(&self.slab);
        }
    }
}

impl Store {
    #[cold]
    pub(crate) fn count_damaged(&self) {
        let damaged = &self.slab.header().damaged;
        damaged.fetch_add(1, Ordering::Relaxed);
    }

    #[cold]
    pub(crate) fn count_unkept(&self) {
        let unkept = &self.slab.header().unkept;
        unkept.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};

    use crate::store::home::open;
    use crate::store::settings;

    /// What keeps a `Process` alive can be seen from its lock files, of which it has a share (P1).
    #[test]
    #[allow(unsafe_code)]
    fn a_process_goes_with_its_store_and_is_leaked_in_a_forked_child() {
        let dir = tempfile::tempdir().unwrap();
        let store = open::open_apart(dir.path(), &settings::Settings::default()).unwrap();
        let borrowed = store.process().unwrap();
        let (files, number) = borrowed.locks.opened();
        // SAFETY: the child looks at its memory and ends; it takes no lock and allocates nothing.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let leaked = store.me().is_none() && files.strong_count() > 0;
                let whole = number > 2 && borrowed.locks.opened().1 == number;
                // SAFETY: ends the child, without the destructors of what it shares with its
                // parent.
                unsafe { nix::libc::_exit(if leaked && whole { 0 } else { 1 }) }
            }
            ForkResult::Parent { child } => {
                assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
            }
        }
        assert!(files.strong_count() > 0);
        drop(store);
        assert_eq!(files.strong_count(), 0);
    }
}
