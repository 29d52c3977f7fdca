//! Waiting for a hold, and waking waiters. The futex is the caller's.
//!
//! A waiter reads the wake word, looks, asks to be woken, and sleeps only if the wake word is still
//! that. A holder that gives back what is waited for frees it, raises the wake word, and wakes one
//! (W1).

use std::time::Duration;

use crate::record::controls::{Rule, left_out, ordered};
use crate::record::{Hold, Returned, Word};
use crate::sync::{AtomicU32, Ordering};

/// A waiter for a key.
pub(crate) trait Waiter {
    /// Where a key lies, for the time being.
    type Place: Copy;
    type Grant;
    type Error;

    /// Finds out where the key is; `None`: it is not needed any more.
    fn find_key(&mut self) -> Result<Option<Self::Place>, Self::Error>;

    fn wake_word(&self, at: Self::Place) -> &AtomicU32;

    /// Looks at all holds, and takes what is available. `slept`: the waiter has slept before.
    fn look(&mut self, at: Self::Place, slept: bool) -> Result<Seen<Self::Grant>, Self::Error>;

    fn is_patient(&self) -> bool;

    /// Watches for a moment whether anything becomes free by itself.
    fn spin(&mut self, at: Self::Place) -> bool;

    /// Asks to be woken, see [`mark_all`].
    fn mark(&mut self, at: Self::Place) -> Result<bool, Self::Error>;

    /// Sleeps while the wake word is `wakes`, but not for ever (W2).
    fn sleep(&mut self, at: Self::Place, wakes: u32);

    /// Wakes one sleeper there.
    fn wake_one(&self, at: Self::Place);
}

/// What came of a look.
pub(crate) enum Seen<G> {
    Granted(G),
    Held,
    /// Something changed: look again.
    Changed,
}

/// Waits until the key is granted, or the patience is over: `None`.
pub(crate) fn wait<W: Waiter>(waiter: &mut W) -> Result<Option<W::Grant>, W::Error> {
    let mut slept = None;
    let granted = wait_where(waiter, &mut slept);
    if matches!(granted, Ok(Some(_))) || left_out(Rule::WakePassedOn) {
        return granted;
    }
    // The waiter may have been woken, and makes nothing of it: the wake-up was meant for any of the
    // sleepers (W5).
    match slept.map(|at| (at, waiter.mark(at))) {
        Some((_, Err(error))) => granted.and(Err(error)),
        Some((at, Ok(false))) => {
            waiter.wake_one(at);
            granted
        }
        _ => granted,
    }
}

/// Waits, and says where the waiter `slept` last.
fn wait_where<W: Waiter>(
    waiter: &mut W,
    slept: &mut Option<W::Place>,
) -> Result<Option<W::Grant>, W::Error> {
    while let Some(at) = waiter.find_key()? {
        // Before looking: a holder that frees a word after that look also changes this. Acquire:
        // pairs with the Release in `wake`, so a waiter that sees it raised sees the word that was
        // freed before.
        let ordering = ordered(Rule::WakeOrders, Ordering::Acquire);
        let mut wakes = waiter.wake_word(at).load(ordering);
        match waiter.look(at, slept.is_some())? {
            Seen::Granted(grant) => return Ok(Some(grant)),
            Seen::Held => {}
            Seen::Changed => continue,
        }
        if !waiter.is_patient() {
            break;
        }
        if waiter.spin(at) || !waiter.mark(at)? {
            continue;
        }
        if left_out(Rule::WakeReadFirst) {
            wakes = waiter.wake_word(at).load(Ordering::Acquire);
        }
        waiter.sleep(at, wakes);
        *slept = Some(at);
    }
    Ok(None)
}

/// Marks all of a key's holds as waited for, so that giving one back wakes a waiter. `false`: one
/// looks free, or the key is gone or being removed.
pub(crate) fn mark_all<'a, E>(
    holds: impl IntoIterator<Item = Result<&'a Hold, E>>,
    is_current: impl Fn() -> bool,
) -> Result<bool, E> {
    for hold in holds {
        let hold = hold?;
        let mut seen = hold.load();
        loop {
            if seen.is_free() || seen.is_retiring() || !is_current() {
                return Ok(false);
            }
            if left_out(Rule::WaiterMarks) {
                break;
            }
            match hold.mark_contended(seen) {
                Ok(_) => break,
                Err(now) => seen = now,
            }
        }
    }
    Ok(true)
}

/// Gives the hold `mine` back, and wakes one waiter for it. `false`: it was lost.
#[inline(always)]
pub(crate) fn give_back(
    hold: &Hold,
    mine: Word,
    wake_word: &AtomicU32,
    futex_wake: impl Fn(),
) -> bool {
    if left_out(Rule::FreedBeforeWake) {
        wake(wake_word, &futex_wake);
    }
    match hold.give_back(mine) {
        Returned::Free => {}
        Returned::Wake if left_out(Rule::FreedBeforeWake) => {}
        Returned::Wake => wake(wake_word, futex_wake),
        Returned::Lost => return false,
    }
    true
}

/// Makes sleepers look again.
pub(crate) fn wake(wake_word: &AtomicU32, futex_wake: impl FnOnce()) {
    if !left_out(Rule::WakeRaised) {
        // Release: pairs with the Acquire at the head of the waiting loop.
        let ordering = ordered(Rule::WakeOrders, Ordering::Release);
        wake_word.fetch_add(1, ordering);
    }
    futex_wake();
}

/// How long to sleep: until it is time to look for what wakes no waiter, at the latest.
pub(crate) fn nap(patience: Duration, until_lease: Duration, tick: Duration) -> Duration {
    let nap = patience.min(until_lease);
    match left_out(Rule::SleepBounded) {
        true => nap,
        false => nap.min(tick),
    }
}
