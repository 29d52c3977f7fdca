//! What models have in place of a store and a kernel: which participants live, what time it is, a
//! futex.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::record::waiting::{self, Seen, Waiter, mark_all, nap};
use crate::sync::{AtomicU32, AtomicU64, Condvar, Mutex, Ordering};

/// Of a lock, of the first generation.
pub(super) const LIFE: u64 = 1 << 32;

/// A participant's beacon. What is seen after it was found dark includes all that the dead process
/// did.
pub(super) struct Beacon(AtomicU64);

impl Beacon {
    pub(super) fn new() -> Beacon {
        Beacon(AtomicU64::new(1))
    }

    /// The kernel's doing, when the process is gone.
    pub(super) fn put_out(&self) {
        self.0.store(0, Ordering::Release);
    }

    /// Locks the beacon, if it is free.
    pub(super) fn try_light(&self) -> bool {
        let lit = self
            .0
            .compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire);
        lit.is_ok()
    }

    pub(super) fn is_dark(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }
}

/// A futex: sleeping and waking as one step of the kernel's each, under its own lock.
pub(super) struct Futex {
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Raised on the way into the kernel, so that a waker can die there.
    entered: AtomicU64,
}

#[derive(Default)]
struct Queue {
    next: u32,
    asleep: Vec<u32>,
    /// The time is over for every sleep that ends by itself.
    ticking: bool,
}

impl Futex {
    pub(super) fn new() -> Futex {
        Futex {
            queue: Mutex::new(Queue::default()),
            changed: Condvar::new(),
            entered: AtomicU64::new(0),
        }
    }

    pub(super) fn wait(&self, word: &AtomicU32, expected: u32, timeout: Duration) {
        let mut queue = self.queue.lock().expect("no panic");
        let bounded = timeout != Duration::MAX;
        if word.load(Ordering::Relaxed) != expected || bounded && queue.ticking {
            return;
        }
        let me = queue.next;
        queue.next += 1;
        queue.asleep.push(me);
        while queue.asleep.contains(&me) {
            queue = self.changed.wait(queue).expect("no panic");
            if bounded && queue.ticking {
                queue.asleep.retain(|other| *other != me);
            }
        }
    }

    pub(super) fn wake(&self, count: usize) {
        self.entered.fetch_add(1, Ordering::Relaxed);
        let mut queue = self.queue.lock().expect("no panic");
        let count = count.min(queue.asleep.len());
        queue.asleep.drain(..count);
        self.changed.notify_all();
    }

    /// From now on time passes.
    pub(super) fn tick(&self) {
        self.queue.lock().expect("no panic").ticking = true;
        self.changed.notify_all();
    }
}

/// A key: its holds and wake word, the ticket of a semaphore, and what the holds protect.
pub(super) struct Key {
    pub(super) holds: Vec<Hold>,
    pub(super) ticket: AtomicU64,
    pub(super) wake: AtomicU32,
    pub(super) futex: Futex,
    /// 0, or 1 while a holder is in the middle of its work.
    pub(super) work: AtomicU64,
    /// Of participant 1, which dies.
    pub(super) beacon: Beacon,
    /// The slot's meta word.
    pub(super) life: AtomicU64,
}

impl Key {
    pub(super) fn new(holds: usize) -> Arc<Key> {
        Arc::new(Key {
            holds: (0..holds).map(|_| Hold::new()).collect(),
            ticket: AtomicU64::new(0),
            wake: AtomicU32::new(0),
            futex: Futex::new(),
            work: AtomicU64::new(0),
            beacon: Beacon::new(),
            life: AtomicU64::new(LIFE),
        })
    }

    /// Gives back as a guard does.
    pub(super) fn give_back(&self, number: u32, mine: Word) -> bool {
        let hold = &self.holds[number as usize];
        hold.try_give_back(mine)
            || waiting::give_back(hold, mine, &self.wake, || self.futex.wake(1))
    }

    /// The removal of this key, by the process that has the stripe.
    pub(super) fn removal(&self) -> Removal<'_, std::slice::Iter<'_, Hold>> {
        Removal {
            holds: self.holds.iter(),
            meta: &self.life,
            wake: &self.wake,
            untold: &[],
        }
    }

    pub(super) fn finish_removal(&self, marked: Marked) {
        let wake = || self.futex.wake(9);
        let Ok(()): Result<(), Never> = self.removal().finish(marked, || Ok(()), wake);
    }

    /// Takes the key away, for participant 9, if `force` may. The floor for what comes after it.
    pub(super) fn remove(&self, force: Force) -> Option<u64> {
        let mut floor = 0;
        let is_dead = |other| other == id(1) && self.beacon.is_dark();
        let agree = |highest| {
            floor = highest;
            true
        };
        let wake_all = || self.futex.wake(9);
        let begun = self.removal().begin(id(9), force, is_dead, agree, wake_all);
        begun.map(|marked| {
            self.finish_removal(marked);
            floor
        })
    }

    /// Gives the slot to another key.
    pub(super) fn begin_next_life(&self, floor: u64) {
        life::before_filling();
        self.holds
            .iter()
            .for_each(|hold| hold.raise_sequence(floor));
        let next = self.life.load(Ordering::Relaxed) | LIFE;
        self.life.store(next, Ordering::Release);
    }

    /// Works under the hold, and says whether a holder died in the middle of its work.
    pub(super) fn work(&self) -> bool {
        let found = self.work.load(Ordering::Relaxed);
        self.work.store(1, Ordering::Relaxed);
        self.work.store(0, Ordering::Relaxed);
        found != 0
    }
}

/// An acquirer of one of a key's holds.
pub(super) struct Somebody<'a> {
    pub(super) key: &'a Key,
    pub(super) number: u16,
    pub(super) now_us: u64,
    pub(super) lease: Lease,
    pub(super) leased: bool,
    /// How often to sleep before giving up.
    pub(super) patience: u32,
    pub(super) before: Option<Judgement>,
}

impl<'a> Somebody<'a> {
    pub(super) fn new(key: &'a Key, number: u16) -> Somebody<'a> {
        Somebody {
            key,
            number,
            now_us: 0,
            lease: Lease::None,
            leased: true,
            patience: u32::MAX,
            before: None,
        }
    }

    /// One look, as `try_acquire` does.
    pub(super) fn try_acquire(&mut self) -> Option<(u32, Word)> {
        match self.look_at_all(false) {
            Look::Taken(number, word) => Some((number, word)),
            _ => None,
        }
    }

    pub(super) fn acquire(&mut self) -> Option<(u32, Word)> {
        let Ok(granted) = waiting::wait(self);
        granted
    }

    pub(super) fn look_at_all(&mut self, slept: bool) -> Look {
        let key = self.key;
        let holds = (0..).zip(&key.holds).map(Ok);
        let Ok(look) = look_at_all(holds, slept, self);
        look
    }

    /// Whether the predecessor died holding it.
    pub(super) fn recovered(&self) -> bool {
        matches!(self.before, Some(Judgement::Dead | Judgement::Abandoned))
    }
}

pub(super) enum Never {}

impl Taker for Somebody<'_> {
    type Error = Never;

    fn me(&self) -> ParticipantId {
        id(self.number)
    }

    fn is_current(&self) -> bool {
        life::is_current(&self.key.life, LIFE)
    }

    fn is_dead(&self, other: ParticipantId) -> bool {
        other == id(1) && self.key.beacon.is_dark()
    }

    fn now_us(&self) -> u64 {
        self.now_us
    }

    fn is_leased(&self) -> bool {
        self.leased
    }

    fn sequence_after(&self, seen: Word) -> Result<u64, Never> {
        let sequence = match self.key.holds.len() {
            1 => next_sequence(seen),
            _ => ticket::draw_above(&self.key.ticket, seen),
        };
        Ok(sequence.expect("far from the end"))
    }

    fn note_predecessor(&mut self, _hold: &Hold, _seen: Word, judgement: Judgement) {
        self.before = Some(judgement);
    }

    fn note_held(&mut self, _lease: Lease) {}

    fn terms(&self) -> Option<(Lease, Stamp)> {
        (self.leased).then_some((self.lease, Stamp::precise(0, 0)))
    }
}

impl Waiter for Somebody<'_> {
    type Place = ();
    type Grant = (u32, Word);
    type Error = Never;

    fn find_key(&mut self) -> Result<Option<()>, Never> {
        Ok(self.is_current().then_some(()))
    }

    fn wake_word(&self, (): ()) -> &AtomicU32 {
        &self.key.wake
    }

    fn look(&mut self, (): (), slept: bool) -> Result<Seen<(u32, Word)>, Never> {
        Ok(match self.look_at_all(slept) {
            Look::Taken(number, word) => Seen::Granted((number, word)),
            Look::Held => Seen::Held,
            Look::Gone | Look::Retiring => {
                loom::thread::yield_now();
                Seen::Changed
            }
        })
    }

    fn is_patient(&self) -> bool {
        self.patience > 0
    }

    fn spin(&mut self, (): ()) -> bool {
        false
    }

    fn mark(&mut self, (): ()) -> Result<bool, Never> {
        mark_all(self.key.holds.iter().map(Ok), || self.is_current())
    }

    fn sleep(&mut self, (): (), wakes: u32) {
        self.patience -= 1;
        let tick = Duration::from_millis(6);
        let timeout = nap(Duration::MAX, Duration::MAX, tick);
        self.key.futex.wait(&self.key.wake, wakes, timeout);
    }

    fn wake_one(&self, (): ()) {
        waiting::wake(&self.key.wake, || self.key.futex.wake(1));
    }
}
