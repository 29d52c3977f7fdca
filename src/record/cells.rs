//! Values wider than a word: two cells and a selector.
//!
//! A writer, alone by its latch, fills the idle cell, seals it with a version and a checksum, and
//! flips the selector. A writer that dies in between leaves the old cell in force. Readers take no
//! latch: selector, cell, seal, selector again (C1, C2).
//!
//! An average has cells of a fixed size, which lie side by side; a value has wider ones, spread
//! over the slots of its key. What they have in common are the selector's steps, [`read_once`] and
//! [`write()`], and the seal.

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

/// The checksum is MULTILINEAR (Lemire and Kaser, "Strongly Universal String Hashing Is Fast", The
/// Computer Journal 57, 2014): the upper half of the sum of keys times 32-bit halves. Against a CRC
/// it is one multiplication for every four bytes and no call, a third of the time of an `add`; it
/// misses one random change in 2^32, as a CRC-32 does, and none of one or two bits.
#[derive(Clone, Copy)]
pub(crate) struct CellSum(u64);

impl CellSum {
    /// Begins with the first word.
    #[inline(always)]
    pub(crate) fn of(first: u64) -> CellSum {
        let mut sum = CellSum(KEYS.first);
        sum.add(0, first);
        sum
    }

    /// Adds word number `at`. The order does not matter.
    #[inline(always)]
    fn add(&mut self, at: usize, word: u64) {
        // Of more words there is no cell.
        if let Some(keys) = KEYS.pairs.get(1 + at) {
            self.0 = self.0.wrapping_add(weigh(word, keys));
        }
    }

    /// Passes words on, from number `at` on, and adds each. It ends after the last one that a cell
    /// can have.
    #[cfg(not(loom))]
    #[inline(always)]
    pub(crate) fn adding(
        &mut self,
        at: usize,
        words: impl Iterator<Item = u64>,
    ) -> impl Iterator<Item = u64> {
        let keys = KEYS.pairs.get(1 + at..).unwrap_or_default();
        words.zip(keys).map(|(word, keys)| {
            self.0 = self.0.wrapping_add(weigh(word, keys));
            word
        })
    }

    #[inline(always)]
    pub(crate) fn seal(self, version: u64) -> u64 {
        let sum = self.0.wrapping_add(weigh(version, &KEYS.pairs[0]));
        version << 32 | sum >> 32
    }
}

#[inline(always)]
fn weigh(word: u64, keys: &[u64; 2]) -> u64 {
    let low = keys[0].wrapping_mul(word & 0xffff_ffff);
    low.wrapping_add(keys[1].wrapping_mul(word >> 32))
}

#[inline(always)]
fn seal(payload: &[u64; PAYLOAD_WORDS], version: u64) -> u64 {
    let mut sum = CellSum::of(payload[0]);
    for (at, word) in payload.iter().enumerate().skip(1) {
        sum.add(at, *word);
    }
    sum.seal(version)
}

/// The first outputs of SplitMix64 from state 0: random enough, and nobody's choice. (Steele, Lea
/// and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014.)
struct Keys {
    first: u64,
    pairs: [[u64; 2]; 1 + SEALED_WORDS_MAX],
}

/// The most words that a cell has under its seal. With 46 or more, some pairs of flips would pass.
pub(crate) const SEALED_WORDS_MAX: usize = 33;

static KEYS: Keys = {
    let mut pairs = [[0; 2]; 1 + SEALED_WORDS_MAX];
    let mut i = 0;
    while i < pairs.len() {
        pairs[i] = [split_mix(2 * i as u64 + 2), split_mix(2 * i as u64 + 3)];
        i += 1;
    }
    let first = split_mix(1);
    Keys { first, pairs }
};

/// The `n`th output of the generator, from 1.
const fn split_mix(n: u64) -> u64 {
    let state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(n);
    let z = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
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

    fn all_keys() -> Vec<u64> {
        let rest = KEYS.pairs.iter().flatten().copied();
        std::iter::once(KEYS.first).chain(rest).collect()
    }

    /// As another implementation would compute it, with the generator's published first outputs.
    #[test]
    fn the_checksum_is_the_published_one() {
        assert_eq!(
            all_keys()[..3],
            [
                0xe220_a839_7b1d_cdaf,
                0x6e78_9e6a_a1b9_65f4,
                0x06c4_5d18_8009_454f
            ]
        );
        let payload = [u64::MAX, 2, 3 << 32, 0, 5, 0x1234_5678_9abc_def0];
        let version = 9 << 32 | 7;
        let mut halves = Vec::new();
        for word in [&version].into_iter().chain(&payload) {
            halves.extend([u128::from(*word as u32), u128::from(word >> 32)]);
        }
        let keys = all_keys();
        let products = halves.iter().zip(&keys[1..]);
        let sum = products.fold(u128::from(keys[0]), |sum, (half, key)| {
            sum + half * u128::from(*key)
        });
        assert_eq!(seal(&payload, version), 7 << 32 | sum as u64 >> 32);
    }

    /// A bit that flips adds or takes away a key shifted; whatever the payload, the upper half of
    /// the sum shows it when that lies 2^32 or more from zero. So this is all
    /// payloads of all lengths, not a sample.
    #[test]
    fn every_flip_of_one_or_two_bits_is_noticed() {
        let shows = |change: u64| (1 << 32..=0_u64.wrapping_sub(1 << 32)).contains(&change);
        let keys = all_keys();
        let flips: Vec<u64> = keys[1..]
            .iter()
            .flat_map(|key| (0..32).map(move |bit| key << bit))
            .collect();
        for (i, one) in flips.iter().enumerate() {
            assert!(shows(*one), "{i}");
            for (j, other) in flips[..i].iter().enumerate() {
                assert!(shows(one.wrapping_add(*other)), "{i} and {j}");
                assert!(shows(one.wrapping_sub(*other)), "{i} against {j}");
            }
        }
    }
}
