//! Values wider than a word: two cells and a selector.
//!
//! A writer, alone by its latch, fills the idle cell, seals it with a version and a CRC-32, and flips the
//! selector. Whoever dies in between leaves the old cell in force. Readers take no latch: selector, cell,
//! seal, selector again (C1, C2).

use crate::sync::{AtomicU64, Ordering, fence};

/// A version that no cell has: the selector does not count that far.
pub(crate) const NO_VERSION: u64 = u64::MAX;
/// Words of payload in a cell.
#[cfg(not(loom))]
pub(crate) const PAYLOAD_WORDS: usize = 6;
/// Two are enough to be torn apart, and few enough for every interleaving.
#[cfg(loom)]
pub(crate) const PAYLOAD_WORDS: usize = 2;

/// One cell. The seal is `version << 32 | crc`, the CRC-32 over the payload, begun from the version.
#[repr(C)]
pub(crate) struct Cell {
    payload: [AtomicU64; PAYLOAD_WORDS],
    seal: AtomicU64,
}

/// The active cell is not what its seal says: the file was damaged.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Damaged;

/// A selector and its two cells, wherever they lie. The active cell is the one of the selector's lowest
/// bit; the selector grows by one with each write, so a reader notices every change.
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

    /// The version under which this cell is whole, if it is.
    #[cfg(not(loom))]
    fn sealed_version(&self) -> Option<u64> {
        let (payload, found) = self.load();
        let version = found >> 32;
        (found == seal(&payload, version)).then_some(version)
    }
}

impl Cells<'_> {
    /// The value in force, and its version. Never blocks; tries again while writers flip the selector.
    ///
    /// `known` is a version that the caller has read or written before: its seal need not be checked
    /// again.
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
        // Acquire: pairs with the flip, so the cell is at least what was sealed for this version.
        let version = self.selector.load(Ordering::Acquire);
        let (payload, found) = self.cells[(version & 1) as usize].load();
        // Pairs with the writer's fence: if any word above came from a later write, the selector read
        // below is later than `version`, too.
        fence(Ordering::Acquire);
        (self.selector.load(Ordering::Relaxed) == version).then_some((payload, version, found))
    }

    /// One attempt without a look at the seal, which would hide a mistake in the ordering.
    #[cfg(all(loom, test))]
    pub(crate) fn try_read(&self) -> Option<([u64; PAYLOAD_WORDS], u64)> {
        self.read_once()
            .map(|(payload, version, _)| (payload, version))
    }

    /// Puts `payload` in force after `version`, and returns its version. Only for the holder of the latch.
    #[inline(always)]
    pub(crate) fn write(&self, payload: &[u64; PAYLOAD_WORDS], version: u64) -> u64 {
        let version = version.wrapping_add(1);
        // Pairs with the reader's fence: who sees a word of the cell filled below also sees the
        // selector that made this cell the idle one.
        fence(Ordering::Release);
        self.cells[(version & 1) as usize].store(payload, version);
        // Release: pairs with the Acquire at the head of `read`.
        self.selector.store(version, Ordering::Release);
        version
    }

    /// Whether the value in force is whole.
    #[cfg(not(loom))]
    pub(crate) fn is_whole(&self) -> bool {
        self.read(NO_VERSION).is_ok()
    }

    /// Starts from `payload`, whatever was there. Only while nobody else can see the cells.
    #[cfg(not(loom))]
    pub(crate) fn reset(&self, payload: &[u64; PAYLOAD_WORDS]) {
        self.cells[0].store(payload, 0);
        self.cells[1].store(payload, 1);
        self.selector.store(0, Ordering::Release);
    }

    /// After damage: puts the newest whole cell in force. `false` when neither is whole. Only for who is
    /// alone with the slab.
    #[cfg(not(loom))]
    pub(crate) fn restore(&self) -> bool {
        if self.is_whole() {
            return true;
        }
        let whole = |i: usize| {
            self.cells[i]
                .sealed_version()
                .filter(|v| (*v & 1) as usize == i)
        };
        let Some(version) = whole(0).max(whole(1)) else {
            return false;
        };
        // The upper half of the selector is not in the seal; no average is written 2^32 times between
        // two looks at it, so what the selector has there can stay.
        let upper = self.selector.load(Ordering::Relaxed) & !0xffff_ffff;
        self.selector.store(upper | version, Ordering::Release);
        true
    }
}

#[inline(always)]
fn seal(payload: &[u64; PAYLOAD_WORDS], version: u64) -> u64 {
    let version = version as u32;
    let mut bytes = [0; 8 * PAYLOAD_WORDS];
    for (to, from) in bytes.chunks_exact_mut(8).zip(payload) {
        to.copy_from_slice(&from.to_le_bytes());
    }
    let mut crc = crc32fast::Hasher::new_with_initial(version);
    crc.update(&bytes);
    u64::from(version) << 32 | u64::from(crc.finalize())
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
        cells.reset(&[0; PAYLOAD_WORDS]);
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

    #[test]
    fn the_seal_of_another_version_does_not_fit() {
        assert_ne!(seal(&ONES, 1) as u32, seal(&ONES, 2) as u32);
    }
}
