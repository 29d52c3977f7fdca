//! Hearing of the deaths of holders.
//!
//! The kernel wakes nobody from a futex because somebody else died, so a waiter has to look now and
//! then, and each look costs some 30 microseconds of CPU, mostly the kernel's. That is well spent
//! for a short wait. For a long one, a thread of this process waits for the deaths of the holders
//! that its waiters wait for (`poll` on their pidfds) and wakes them; they look seldom themselves.
//! The thread is there only while somebody waits for long.
//!
//! Nothing is decided here: a waiter that is woken judges again. What cannot be watched (another
//! PID namespace, no pidfds, no thread) is looked at often, as before.

use std::os::fd::AsFd;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, Weak};

use nix::sys::signal::{SigSet, SigmaskHow};

use crate::os::bell::{Bell, Heard};
use crate::os::fork::{Inherited, Registry};
use crate::os::futex;
use crate::os::pidfd::{self, Pidfd};
use crate::record::ParticipantId;
use crate::slab::SlotId;
use crate::store::Store;
use crate::store::members::participants::Members;
use crate::store::members::process::Process;
use crate::sync::{AtomicBool, Ordering, crash_point};

/// More holders than that are not worth a descriptor each.
const HOLDERS_MAX: usize = 16;
/// The thread needs next to nothing.
const STACK_BYTES: usize = 64 * 1024;

/// The watches of one process, and the bell of the thread that keeps them. They change only while
/// the registry of what is inherited is locked, which a fork waits for: the child finds them whole,
/// and closes its copies of the descriptors.
#[derive(Default)]
pub(in crate::store) struct Watches {
    state: RwLock<State>,
    is_registered: AtomicBool,
}

#[derive(Default)]
struct State {
    /// Rung when there is something new. `None`: no thread is there.
    bell: Option<Arc<Bell>>,
    watched: Vec<Watched>,
    next_id: u64,
}

/// A holder's process, and the slot with the waiters that are to be woken when it ends.
struct Watched {
    id: u64,
    holder: ParticipantId,
    /// Shared by all waiters for that holder.
    pidfd: Arc<Pidfd>,
    slot: SlotId,
}

/// One waiter's watch over all holders of a key, until it is dropped.
pub(in crate::store) struct Watch<'a> {
    watches: &'a Watches,
    id: u64,
    /// How many of the holders are other processes.
    watched: usize,
    holders: Vec<ParticipantId>,
}

impl Watch<'_> {
    /// Whether it is these holders that are watched, and all of them still: what has fired, or was
    /// given up, is watched no more.
    pub(in crate::store) fn is_over(&self, holders: &[ParticipantId]) -> bool {
        let state = self.watches.look();
        let ours = state.watched.iter().filter(|w| w.id == self.id);
        self.holders == holders && ours.count() == self.watched
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.watches.change(|state| {
            state.watched.retain(|w| w.id != self.id);
            state.ring();
        });
    }
}

impl Process {
    /// Before there is anything to be inherited by a fork.
    fn register_watches(&self) {
        if !self.watches.is_registered.swap(true, Ordering::Relaxed) {
            let member: Weak<dyn Inherited> = Arc::<Watches>::downgrade(&self.watches);
            Registry::lock().add(member);
        }
    }
}

impl Watches {
    fn look(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let _registry = Registry::lock();
        change(&mut self.state.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    /// Lets the thread look at the list again.
    fn ring(&self) {
        if let Some(bell) = &self.bell {
            bell.ring();
        }
    }
}

impl Inherited for Watches {
    fn disown(&self) {
        // Nobody changes it during a fork. Nothing is taken out of it, for that would free memory.
        if let Ok(state) = self.state.try_read() {
            state.bell.iter().for_each(|bell| bell.close());
            state.watched.iter().for_each(|w| w.pidfd.close());
        }
    }
}

/// The deaths that this process watches for, to wake its waiters.
#[derive(Clone, Copy)]
pub(in crate::store) struct Watching<'s>(pub(in crate::store) &'s Arc<Store>);

impl<'s> Watching<'s> {
    /// Has the waiters of `slot` woken when one of its holders dies. `None`: that cannot be
    /// promised.
    pub(in crate::store) fn watch<'a>(
        self,
        process: &'a Process,
        holders: &[ParticipantId],
        slot: SlotId,
    ) -> Option<Watch<'a>> {
        if holders.is_empty() || holders.len() > HOLDERS_MAX {
            return None;
        }
        // Of our own process, no thread outlives it to wait for its death.
        let others = holders.iter().filter(|holder| **holder != process.id);
        let pidfds: Option<Vec<_>> = others
            .map(|holder| Some((*holder, self.pidfd_of(process, *holder)?)))
            .collect();
        let pidfds = pidfds?;
        process.register_watches();
        let watched = pidfds.len();
        let id = process.watches.change(|state| {
            state.next_id += 1;
            let id = state.next_id;
            if !pidfds.is_empty() && state.bell.is_none() {
                state.bell = Some(self.start_watching(process)?);
            }
            let new = pidfds.into_iter().map(|(holder, pidfd)| Watched {
                id,
                holder,
                pidfd,
                slot,
            });
            state.watched.extend(new);
            state.ring();
            Some(id)
        })?;
        Some(Watch {
            watches: &process.watches,
            id,
            watched,
            holders: holders.to_vec(),
        })
    }

    fn pidfd_of(self, process: &Process, holder: ParticipantId) -> Option<Arc<Pidfd>> {
        // One for each holder, however many threads wait. Should it be that of an earlier user of
        // the number, it fires at once, and is watched no more.
        let state = process.watches.look();
        if let Some(known) = state.watched.iter().find(|w| w.holder == holder) {
            return Some(Arc::clone(&known.pidfd));
        }
        drop(state);
        let described = Members(self.0).describe(process, holder)?;
        if !described.same_pid_namespace {
            return None;
        }
        let pidfd = Pidfd::open(described.pid).ok()?;
        // Asked after opening: if the holder lives now, the number was its own.
        if Members(self.0).is_dead(process, holder) {
            return None;
        }
        // Ended, and yet not dead: its beacon is another's. There is nothing more to hear of it.
        let ended = pidfd.has_ended().unwrap_or(true);
        (!ended).then(|| Arc::new(pidfd))
    }

    /// Starts the thread; answers its bell.
    fn start_watching(self, process: &Process) -> Option<Arc<Bell>> {
        let bell = Arc::new(Bell::new().ok()?);
        let heard = Arc::clone(&bell);
        let (store, watches) = (Arc::clone(self.0), Arc::clone(&process.watches));
        crash_point();
        // No signal of the program's is for this thread: it starts with all of them blocked.
        let before = SigSet::all()
            .thread_swap_mask(SigmaskHow::SIG_SETMASK)
            .ok()?;
        crash_point();
        let started = std::thread::Builder::new()
            .name("slablock-watch".to_string())
            .stack_size(STACK_BYTES)
            .spawn(move || keep_watch(&store, &watches, &heard));
        crash_point();
        // It was the mask a moment ago, so it can be set.
        let _ = before.thread_set_mask();
        started.ok().map(|_| bell)
    }
}

/// The thread: waits for the bell and for deaths, and ends when there is nothing to watch.
fn keep_watch(store: &Store, watches: &Watches, bell: &Arc<Bell>) {
    loop {
        let Some(pidfds) = watched_by(watches, bell) else {
            return;
        };
        let mut fds = vec![bell.as_fd()];
        fds.extend(pidfds.iter().map(|fd| fd.as_fd()));
        let Ok(readable) = pidfd::wait_readable(&fds) else {
            // Out of memory, say. Waiters notice that they are watched no more when they look next.
            watches.change(|state| state.watched.clear());
            continue;
        };
        if bell.hear() == Heard::Nothing {
            // Other code in the process has closed or replaced it. Waiters have another watch begun
            // when they look next.
            watches.change(|state| {
                state.watched.clear();
                state.bell = None;
            });
            return;
        }
        let ended = pidfds.iter().zip(&readable[1..]).filter(|(_, gone)| **gone);
        for (pidfd, _) in ended {
            watches.change(|state| {
                state.watched.retain(|watched| {
                    let gone = Arc::ptr_eq(&watched.pidfd, pidfd);
                    if gone {
                        wake_waiters(store, watched.slot);
                    }
                    !gone
                });
            });
        }
    }
}

/// What the thread with that bell waits for. `None`: nothing, or another thread does.
fn watched_by(watches: &Watches, bell: &Arc<Bell>) -> Option<Vec<Arc<Pidfd>>> {
    watches.change(|state| {
        if !state.bell.as_ref().is_some_and(|b| Arc::ptr_eq(b, bell)) {
            return None;
        }
        if state.watched.is_empty() {
            state.bell = None;
            return None;
        }
        let mut pidfds: Vec<Arc<Pidfd>> = Vec::new();
        for watched in &state.watched {
            if !pidfds.iter().any(|fd| Arc::ptr_eq(fd, &watched.pidfd)) {
                pidfds.push(Arc::clone(&watched.pidfd));
            }
        }
        Some(pidfds)
    })
}

/// All of them, also other processes': one of them takes over, the others sleep on.
fn wake_waiters(store: &Store, slot: SlotId) {
    let wake = &store.slab().slot(slot).wake;
    wake.fetch_add(1, Ordering::Release);
    futex::wake(wake, i32::MAX);
}
