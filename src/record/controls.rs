//! Negative controls: each rule of the protocol can be left out, one at a time, by a loom test
//! alone, which then has to see its model refuted. A model that holds without the rule proves
//! nothing about it.
//!
//! Outside of loom all of this is constant and compiles to nothing.

#[cfg(loom)]
use std::cell::Cell;

use crate::sync::Ordering;

/// What can be left out. The names say the rule, the comments the invariant of docs/protocol.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// H1: loading and taking a word acquire.
    TakeAcquires,
    /// H1: giving back releases.
    GiveBackReleases,
    /// H2: giving back is an exchange of the exact word.
    GiveBackExchanges,
    /// H2: taking is an exchange of the exact word that was judged.
    TakeExact,
    /// H3: each grant has a higher sequence.
    SequenceGrows,
    /// L1: a deadline belongs to the hold that has its tag.
    DeadlineTagged,
    /// L2: a deadline is published by exchange.
    DeadlineExchanged,
    /// L2: a holder that finds the deadline changed looks whether the hold is still its own.
    DeadlineLooksAgain,
    /// L3: a thief marks the deadline first.
    ThiefMarks,
    /// L3: a holder does not renew over the mark.
    RenewalHeedsMark,
    /// L5: what is in the deadline of a latch means nothing.
    LatchUnleased,
    /// H4: the life is checked after the word was loaded.
    LifeAfterWord,
    /// H4: a process that gives back by token checks the life after the word.
    TokenLifeChecked,
    /// H4: exchanges release what was done before them.
    ExchangeReleases,
    /// H4: retiring raises the sequence.
    RetiringRaises,
    /// H4: the words are taken before the life ends.
    WordsBeforeLife,
    /// H5: dead is judged before expired.
    DeadFirst,
    /// H5: a dead holder's word that is freed says so.
    AbandonedSaysSo,
    /// H6: a remover of idle keys takes only words that are plainly free.
    IdleTakesNobodys,
    /// H6: the remaker of a semaphore takes no permit that is held.
    UnheldTakesNobodys,
    /// H5: what a dead holder left is handed on only if no acquirer was told of it meanwhile.
    HandedOnOnce,
    /// H5: what a dead holder left is left again by a removal that is undone.
    UndoneIsTold,
    /// H6: an average is not taken from a live writer in the middle of an `add`.
    LivingUndisturbed,
    /// H6: a dead process's removal is undone unless it had all words.
    UndoneUnlessAll,
    /// H6: a key that is wanted after all is not taken away.
    VetoHeeded,
    /// H6, W1: a waiter for a word that was taken and given back is woken.
    VetoWakes,
    /// H7: a token is drawn by one addition.
    TokenDrawnOnce,
    /// H7: a token is above the permit's sequence.
    TokenAboveWord,
    /// S2: a life ends with a higher generation.
    GenerationGrows,
    /// S4: the words of a new key start at the floor.
    FloorHeeded,
    /// I6: a fence comes before a slot is filled again.
    FillFenced,
    /// I8: a slot that leaves its chain is unlinked before it is counted.
    UnlinkedFirst,
    /// I8: a slot that leaves its chain is counted.
    DepartureCounted,
    /// I8: the count releases the unlinking.
    CountReleases,
    /// I8: the fence after the walk.
    WalkFenced,
    /// I8: the count is read again after the walk.
    CountReread,
    /// I10: a new bucket shows the chain of its parent before readers look there.
    SharedFirst,
    /// I10: that there is a bucket more releases the chain that it shows.
    RowsRelease,
    /// I10: each step that parts two chains is counted.
    StepCounted,
    /// I10: before the link is changed.
    StepCountedFirst,
    /// I10: the count releases the steps before.
    StepReleases,
    /// I10: the link releases the count.
    LinkReleases,
    /// G2: a writer that sets a value looks at the segment behind a fence.
    SetterFenced,
    /// G2: nothing is put into a closed segment.
    ClosingHeeded,
    /// G2: a compactor that closes a segment looks at latches behind a fence.
    CloserFenced,
    /// G2: so does a successor that continues with the segment.
    SuccessorFenced,
    /// G2: the compactor waits for the holder of the latch.
    LatchAwaited,
    /// P3: a participant is described, and read, behind fences.
    RecordFenced,
    /// P3: the state is read again after the description.
    RecordReread,
    /// P4: a number is taken only with its beacon.
    BeaconLocked,
    /// P4: a sweep frees the words of the dead.
    WordsSwept,
    /// P4: numbers are freed after all words.
    NumbersLast,
    /// P4: a number that a retiring word names stays taken.
    RetiringKeepsNumber,
    /// W1: the wake word is read before the look.
    WakeReadFirst,
    /// W1: a waiter that is about to sleep marks the word.
    WaiterMarks,
    /// W1: the word is freed before the wake-up.
    FreedBeforeWake,
    /// W1: the wake word is raised.
    WakeRaised,
    /// W1: raising releases, reading acquires.
    WakeOrders,
    /// W1: a removal wakes all waiters.
    RemovalWakes,
    /// W2: no sleep is for ever.
    SleepBounded,
    /// W3: a waiter that has slept takes with the mark.
    SleeperMarks,
    /// W3: a mark that is there stays.
    MarkStays,
    /// W4: a waiter that was woken judges again.
    WokenJudge,
    /// W5: a waiter that gives up passes a wake-up on.
    WakePassedOn,
    /// C1: the cell that is filled is the idle one.
    CellIdle,
    /// C2: the flip releases the cell.
    FlipReleases,
    /// C2: the reader acquires the selector.
    SelectorAcquired,
    /// C2: the fence before a cell is filled.
    WriterFence,
    /// C2: the fence after a cell was read.
    ReaderFence,
    /// C2: the selector is read again.
    SelectorReread,
    /// T1: the decision releases what was prepared.
    DecisionReleases,
    /// T1: the end releases what was carried out.
    EndReleases,
    /// T1: a reader acquires the journal.
    JournalAcquired,
    /// T1: the fence after a list was read.
    ListFenced,
    /// T1: the journal is read again after the list.
    JournalReread,
    /// T1: the fence after a prepared cell was read.
    PreparedFenced,
    /// T1: the selector is read again after a prepared cell.
    PreparedReread,
    /// G1: no place is given twice. Places are an argument, so models alone leave it out.
    #[cfg(loom)]
    PlaceGivenOnce,
}

#[cfg(loom)]
thread_local! {
    static BROKEN: Cell<Option<Rule>> = const { Cell::new(None) };
}

/// Leaves `rule` out in everything that this thread models from now on.
#[cfg(loom)]
pub(crate) fn leave_out(rule: Rule) {
    BROKEN.set(Some(rule));
}

/// Whether a test has left `rule` out.
#[cfg(not(loom))]
#[inline(always)]
pub(crate) const fn left_out(_rule: Rule) -> bool {
    false
}

#[cfg(loom)]
pub(crate) fn left_out(rule: Rule) -> bool {
    BROKEN.get() == Some(rule)
}

/// `ordering`, unless `rule` is left out: then none at all.
#[cfg(not(loom))]
#[inline(always)]
pub(crate) const fn ordered(_rule: Rule, ordering: Ordering) -> Ordering {
    ordering
}

#[cfg(loom)]
pub(crate) fn ordered(rule: Rule, ordering: Ordering) -> Ordering {
    match left_out(rule) {
        true => Ordering::Relaxed,
        false => ordering,
    }
}

/// A fence, unless `rule` is left out.
#[inline(always)]
pub(crate) fn fence(rule: Rule, ordering: Ordering) {
    if !left_out(rule) {
        crate::sync::fence(ordering);
    }
}
