//! What one process has open of a store.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::log::Log;
use crate::os::clock;
use crate::os::process::Identity;
use crate::record::ParticipantId;
use crate::slab::Slab;
use crate::store::RANGE_LOCKS;
use crate::store::candidate::Candidates;
use crate::store::members::device::Device;
use crate::store::members::lock_files::Locks;
use crate::store::members::recount::Recount;
use crate::store::members::room_seen::RoomSeen;
use crate::store::members::watch::Watches;
use crate::sync::{AtomicBool, AtomicU64, Ordering};

/// What one process has open of a store. In the child of a fork, the parent's is leaked and a new
/// one made.
pub(in crate::store) struct Process {
    pub(in crate::store) id: ParticipantId,
    pub(in crate::store) identity: Identity,
    pub(in crate::store) locks: Locks,
    /// Byte-range locks do not exclude the threads of one process: each is paired with a mutex.
    pub(in crate::store) mutexes: [Mutex<()>; RANGE_LOCKS],
    /// About which participants `/proc` was asked, and in which second: `second << 12 | number`,
    /// at the number modulo the length.
    pub(in crate::store) asked: [AtomicU64; 64],
    pub(in crate::store) watches: Arc<Watches>,
    /// The beacon was handed to others, and must not be unlocked.
    pub(in crate::store) shared: AtomicBool,
    pub(in crate::store) recount: Mutex<Option<Recount>>,
    pub(in crate::store) candidates: Mutex<Candidates>,
    pub(in crate::store) room_seen: RoomSeen,
    /// In which second the device was last asked how much room it has.
    pub(in crate::store) device_asked: AtomicU64,
    /// Segments that could not be emptied, for a writer was stopped, and in which second that was.
    passed_over: Mutex<BTreeMap<u32, u64>>,
    pub(in crate::store) log: Log,
    pub(in crate::store) device: Device,
}

impl Process {
    pub(in crate::store) fn new(
        id: ParticipantId,
        identity: Identity,
        locks: Locks,
        log: Log,
        device: Device,
    ) -> Process {
        Process {
            id,
            identity,
            locks,
            shared: AtomicBool::new(false),
            mutexes: std::array::from_fn(|_| Mutex::new(())),
            asked: std::array::from_fn(|_| AtomicU64::new(0)),
            watches: Arc::default(),
            recount: Mutex::default(),
            candidates: Mutex::default(),
            room_seen: RoomSeen::default(),
            device_asked: AtomicU64::new(0),
            passed_over: Mutex::default(),
            log,
            device,
        }
    }

    /// Leaves a segment alone for a second or two.
    pub(in crate::store) fn pass_over(&self, segment: u32) {
        self.passed_over().insert(segment, second());
    }

    pub(in crate::store) fn is_passed_over(&self, segment: u32) -> bool {
        self.passed_over().contains_key(&segment)
    }

    /// Those that are left alone still.
    fn passed_over(&self) -> MutexGuard<'_, BTreeMap<u32, u64>> {
        let all = self.passed_over.lock();
        let mut all = all.unwrap_or_else(PoisonError::into_inner);
        if !all.is_empty() {
            let now = second();
            all.retain(|_, since| now <= *since + 1);
        }
        all
    }

    /// Says that the participant is gone.
    pub(in crate::store) fn leave(&self, slab: &Slab) {
        // Explicitly, because a child between fork and exec may have the descriptors for a while,
        // and one that lives on the map; but not when they were handed to others on
        // purpose. A failure leaves it to the closing. The witness first: beside a free
        // beacon it would be in doubt whether this process lives.
        if !self.shared.load(Ordering::Relaxed) {
            slab.witnesses().unlock(self.id.get());
            self.locks.unlock_beacon(self.id.get());
        }
    }
}

/// In which second it is now, wherever clocks begin here.
fn second() -> u64 {
    clock::coarse_ns() / 1_000_000_000
}
