//! Values wider than a word: two cells and a selector.
//!
//! A writer, alone by its latch, fills the idle cell, seals it with a version and a checksum, and
//! flips the selector. A writer that dies in between leaves the old cell in force. Readers take no
//! latch: selector, cell, seal, selector again (C1, C2).
//!
//! An average has cells of a fixed size, which lie side by side; a value has wider ones, spread
//! over the slots of its key. What they have in common are the selector's steps, [`read_once`] and
//! [`write()`], and the seal, which is made of a [`CellSum`].

use crate::record::cell_sum::CellSum;
use crate::record::controls::{self, Rule, left_out, ordered};
use crate::sync::{AtomicU64, Ordering};

/// A version that no cell has: the selector does not count that far.
pub(crate) const NO_VERSION: u64 = u64::MAX;
/// Words of payload in a cell.
#[cfg(not(loom))]
pub(crate) const PAYLOAD_WORDS: usize = 6;
/// Two are enough to be torn apart, and few enough for every interleaving.
#[cfg(loom)]
pub(crate) const PAYLOAD_WORDS: usize = 2;

/// One cell. The seal is `version << 32 | checksum`, where the checksum is over version and
/// payload.
#[repr(C)]
pub(crate) struct Cell {
    payload: [AtomicU64; PAYLOAD_WORDS],
    seal: AtomicU64,
}

/// The active cell is not what its seal says: the file was damaged.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Damaged;

/// A selector and its two cells, wherever they lie. The active cell is the one of the selector's
/// lowest bit; the selector grows by one with each write, so a reader notices every change.
pub(crate) struct Cells<'a> {
    pub(crate) selector: &'a AtomicU64,
    pub(crate) cells: &'a [Cell; 2],
}

impl Cell {
    #[cfg(any(loom, test))]
    pub(crate) fn new() -> Cell {
        Cell {
            payload: std::array::from_fn(|_| AtomicU64::new(0)),
            seal: AtomicU64::new(0),
        }
    }

    #[inline(always)]
    fn store(&self, payload: &[u64; PAYLOAD_WORDS], version: u64) {
        for (to, from) in self.payload.iter().zip(payload) {
            to.store(*from, Ordering::Relaxed);
        }
        self.seal.store(seal(payload, version), Ordering::Relaxed);
    }

    #[inline(always)]
    fn load(&self) -> ([u64; PAYLOAD_WORDS], u64) {
        let payload = std::array::from_fn(|i| self.payload[i].load(Ordering::Relaxed));
        (payload, self.seal.load(Ordering::Relaxed))
    }

    /// The version under which this cell is whole, if it is; `upper` is the upper half of it.
    #[cfg(not(loom))]
    fn sealed_version(&self, upper: u64) -> Option<u64> {
        let (payload, found) = self.load();
        let version = upper | found >> 32;
        (found == seal(&payload, version)).then_some(version)
    }
}

impl Cells<'_> {
    /// The value in force, and its version. Never blocks; tries again while writers flip the
    /// selector.
    ///
    /// `known` is a version that the caller has read or written before: its seal need not be
    /// checked again.
    #[inline(always)]
    pub(crate) fn read(&self, known: u64) -> Result<([u64; PAYLOAD_WORDS], u64), Damaged> {
        loop {
            if let Some((payload, version, found)) = self.read_once() {
                return if version == known || found == seal(&payload, version) {
                    Ok((payload, version))
                } else {
                    Err(Damaged)
                };
            }
            std::hint::spin_loop();
        }
    }

    /// Payload, version and seal; `None` if a writer flipped the selector meanwhile.
    #[inline(always)]
    fn read_once(&self) -> Option<([u64; PAYLOAD_WORDS], u64, u64)> {
        let ((payload, found), version) = read_once(self.selector, |at| self.cells[at].load())?;
        Some((payload, version, found))
    }

    /// One attempt without a look at the seal, which would hide a mistake in the ordering.
    #[cfg(all(loom, test))]
    pub(crate) fn try_read(&self) -> Option<([u64; PAYLOAD_WORDS], u64)> {
        self.read_once()
            .map(|(payload, version, _)| (payload, version))
    }

    /// Puts `payload` in force after `version`, and returns its version. Only for the holder of the
    /// latch.
    #[inline(always)]
    pub(crate) fn write(&self, payload: &[u64; PAYLOAD_WORDS], version: u64) -> u64 {
        write(self.selector, version, |idle, version| {
            self.cells[idle].store(payload, version);
        })
    }

    /// Whether the value in force is whole.
    #[cfg(not(loom))]
    pub(crate) fn is_whole(&self) -> bool {
        self.read(NO_VERSION).is_ok()
    }

    /// Starts from `payload`, whatever was there, with versions of their own for each `life` of the
    /// slot: after a power loss the cells of one life may lie beside the selector and the key of
    /// another. Only while the caller alone can see the cells.
    pub(crate) fn reset(&self, payload: &[u64; PAYLOAD_WORDS], life: u32) {
        let first = first_version(life);
        self.cells[0].store(payload, first);
        self.cells[1].store(payload, first + 1);
        self.selector.store(first, Ordering::Release);
    }

    /// After damage: puts the newest whole cell in force. `false` when neither is whole. Only for a
    /// process that is alone with the slab.
    #[cfg(not(loom))]
    pub(crate) fn restore(&self) -> bool {
        if self.is_whole() {
            return true;
        }
        // The upper half of the version is in the selector alone.
        let upper = self.selector.load(Ordering::Relaxed) & !0xffff_ffff;
        let whole = |i: usize| {
            self.cells[i]
                .sealed_version(upper)
                .filter(|v| (*v & 1) as usize == i)
        };
        let Some(version) = whole(0).max(whole(1)) else {
            return false;
        };
        self.selector.store(version, Ordering::Release);
        true
    }
}

/// One attempt: what `load` makes of the cell in force, 0 or 1, and its version. `None` if a writer
/// flipped the selector meanwhile; then what was loaded means nothing.
#[inline(always)]
pub(crate) fn read_once<T>(
    selector: &AtomicU64,
    load: impl FnOnce(usize) -> T,
) -> Option<(T, u64)> {
    // Acquire: pairs with the flip, so the cell is at least what was sealed for this version.
    let version = selector.load(ordered(Rule::SelectorAcquired, Ordering::Acquire));
    let loaded = load((version & 1) as usize);
    // Pairs with the writer's fence: if any word above came from a later write, the selector read
    // below is later than `version`, too.
    controls::fence(Rule::ReaderFence, Ordering::Acquire);
    let again = selector.load(Ordering::Relaxed);
    (again == version || left_out(Rule::SelectorReread)).then_some((loaded, version))
}

/// Has `store` fill the idle cell, 0 or 1, under the version that follows on `version`, and puts it
/// in force. Only for the holder of the latch.
#[inline(always)]
pub(crate) fn write(selector: &AtomicU64, version: u64, store: impl FnOnce(usize, u64)) -> u64 {
    let version = version.wrapping_add(1);
    // Pairs with the reader's fence: a reader that sees a word of the cell filled below also sees
    // the selector that made this cell the idle one.
    controls::fence(Rule::WriterFence, Ordering::Release);
    let idle = version & 1 ^ u64::from(left_out(Rule::CellIdle));
    store(idle as usize, version);
    // Release: pairs with the Acquire at the head of `read_once`.
    selector.store(version, ordered(Rule::FlipReleases, Ordering::Release));
    version
}

/// The first half of [`write()`], before [`flip`], for a writer that decides in between, elsewhere,
/// that this and other cells are to be in force: has `store` fill the idle cell, and returns the
/// version in force.
#[inline(always)]
pub(crate) fn prepare(selector: &AtomicU64, store: impl FnOnce(usize, u64)) -> u64 {
    let version = selector.load(Ordering::Relaxed);
    let next = version.wrapping_add(1);
    // As in `write`.
    controls::fence(Rule::WriterFence, Ordering::Release);
    store((next & 1) as usize, next);
    version
}

/// What `load` makes of the cell, 0 or 1, that was prepared after version `decided`: for a reader
/// that knows that this cell counts, and may not put it in force. `None`: it is in force by now, or
/// something later is; then what was loaded means nothing.
pub(crate) fn read_prepared<T>(
    selector: &AtomicU64,
    decided: u64,
    load: impl FnOnce(usize) -> T,
) -> Option<T> {
    if selector.load(Ordering::Acquire) != decided {
        return None;
    }
    let next = decided.wrapping_add(1);
    let loaded = load((next & 1) as usize);
    // As in `read_once`: no writer fills that cell again before the selector is beyond `next`.
    controls::fence(Rule::PreparedFenced, Ordering::Acquire);
    let again = selector.load(Ordering::Relaxed);
    (again == decided || left_out(Rule::PreparedReread)).then_some(loaded)
}

/// Puts in force what was prepared after `version`, by whichever writer, unless that was done
/// already. A version is in force once in all of a slot's lives, so this does nothing however late
/// it comes.
pub(crate) fn flip(selector: &AtomicU64, version: u64) -> bool {
    let next = version.wrapping_add(1);
    // Release: pairs with the Acquire at the head of `read_once`.
    selector
        .compare_exchange(version, next, Ordering::AcqRel, Ordering::Relaxed)
        .is_ok()
}

/// The first version of a slot in that life, and with it both cells' before anything is written.
pub(crate) fn first_version(life: u32) -> u64 {
    u64::from(life) << 32
}

/// The version of which `sealed` is the seal, if `version` is in the same life and not far from it.
#[cfg(not(loom))]
pub(crate) fn version_of(sealed: u64, version: u64) -> u64 {
    version & !0xffff_ffff | sealed >> 32
}

#[inline(always)]
pub(super) fn seal(payload: &[u64; PAYLOAD_WORDS], version: u64) -> u64 {
    let mut sum = CellSum::of(payload[0]);
    for (at, word) in payload.iter().enumerate().skip(1) {
        sum.add(at, *word);
    }
    sum.seal(version)
}

/// The seal of a payload, for damage that is to pass for whole.
#[cfg(all(any(fuzzing, test), not(loom)))]
pub(crate) fn seal_of(payload: &[u64; PAYLOAD_WORDS], version: u64) -> u64 {
    seal(payload, version)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn with_cells(test: impl FnOnce(Cells)) {
        let selector = AtomicU64::new(0);
        let cells = [Cell::new(), Cell::new()];
        let cells = Cells {
            selector: &selector,
            cells: &cells,
        };
        cells.reset(&[0; PAYLOAD_WORDS], 0);
        test(cells);
    }

    const ONES: [u64; PAYLOAD_WORDS] = [1; PAYLOAD_WORDS];
    const TWOS: [u64; PAYLOAD_WORDS] = [2; PAYLOAD_WORDS];

    #[test]
    fn a_death_before_the_flip_leaves_the_old_value() {
        with_cells(|cells| {
            cells.write(&ONES, 0);
            cells.cells[0].store(&TWOS, 2);
            assert_eq!(cells.read(NO_VERSION), Ok((ONES, 1)));
        });
    }

    #[test]
    fn damage_is_noticed_and_the_other_cell_restored() {
        with_cells(|cells| {
            cells.write(&ONES, 0);
            cells.write(&TWOS, 1);
            cells.cells[0].payload[3].store(77, Ordering::Relaxed);
            assert_eq!(cells.read(NO_VERSION), Err(Damaged));
            assert!(cells.restore());
            assert_eq!(cells.read(NO_VERSION), Ok((ONES, 1)));
            cells.cells[1].payload[3].store(77, Ordering::Relaxed);
            assert!(!cells.restore());
        });
    }

    /// A power loss may leave the cells of a slot's former life beside the selector of the present
    /// one.
    #[test]
    fn cells_of_another_life_are_not_whole() {
        with_cells(|cells| {
            cells.reset(&ONES, 7);
            cells.write(&TWOS, 7 << 32);
            let selector = AtomicU64::new(8 << 32 | 1);
            let mixed = Cells {
                selector: &selector,
                cells: cells.cells,
            };
            assert_eq!(mixed.read(NO_VERSION), Err(Damaged));
            assert!(!mixed.restore());
            assert!(cells.is_whole());
        });
    }
}
