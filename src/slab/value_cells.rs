//! What the slots of a value hold: when it was used, the key, and two cells.
//!
//! ```text
//! word 0     use: when, and how often
//! words 1..  the key
//! then       cell 0, cell 1: each as long as the room allows, 5 to 34 words
//! ```
//!
//! Here is which cell is in force, how that is read and how another is put in force. What is in one
//! of them is [`value_cell`](crate::slab::value_cell)'s.

use crate::record::{
    Damaged, SEALED_WORDS_MAX, cells_first_version, cells_flip, cells_prepare, cells_read_once,
    cells_read_prepared, cells_version_of, cells_write,
};
use crate::slab::bodies::Bodies;
pub(crate) use crate::slab::content::{Content, Form, VALUE_BYTES_MAX, tag_hash};
use crate::slab::value_cell::{CELL_FRAME, ValueCell};
pub(crate) use crate::slab::value_cell::{Payload, Reading};
use crate::slab::{BODY_WORDS, Slab, Slot, SlotId};
use crate::sync::{AtomicU64, Ordering};

/// Room for a place in the log, and for the digits of any integer.
pub(crate) const CELL_WORDS_MIN: usize = 5;
const CELL_WORDS_MAX: usize = SEALED_WORDS_MAX + 1;
/// Tags and values up to so many bytes together lie in the slots, when a key is made for them.
pub(crate) const INLINE_BYTES_MAX: usize = 8 * (CELL_WORDS_MAX - CELL_FRAME);

/// How many words a cell needs for a tag and a value of that many bytes.
pub(crate) fn cell_words(bytes: usize) -> usize {
    match bytes {
        0..=INLINE_BYTES_MAX => (CELL_FRAME + bytes.div_ceil(8)).max(CELL_WORDS_MIN),
        _ => CELL_WORDS_MIN,
    }
}

/// The cells of a value, wherever they lie.
pub(crate) struct ValueCells<'a> {
    slot: &'a Slot,
    bodies: Bodies<'a>,
    /// The word, counted through the bodies, at which the first one begins.
    at: usize,
    /// Of each.
    words: usize,
}

impl<'a> ValueCells<'a> {
    /// `None`: the slots have no room for any.
    #[inline]
    pub(crate) fn within(
        slab: &'a Slab,
        id: SlotId,
        span: u32,
        key_len: usize,
    ) -> Option<ValueCells<'a>> {
        let at = 1 + key_len.div_ceil(8);
        let words = (span as usize * BODY_WORDS).checked_sub(at)? / 2;
        let words = words.min(CELL_WORDS_MAX);
        let cells = ValueCells {
            slot: slab.slot(id),
            bodies: slab.bodies(id, span)?,
            at,
            words,
        };
        (words >= CELL_WORDS_MIN).then_some(cells)
    }

    /// Whether a tag and a value of so many bytes fit a cell.
    pub(crate) fn fits(&self, bytes: usize) -> bool {
        bytes <= 8 * (self.words - CELL_FRAME)
    }

    /// Cell 0 or 1; of other numbers the lowest bit counts.
    #[inline(always)]
    fn cell(&self, number: usize) -> ValueCell<'a> {
        ValueCell {
            bodies: self.bodies,
            at: self.at + (number & 1) * self.words,
            words: self.words,
        }
    }

    fn selector(&self) -> &AtomicU64 {
        &self.slot.aux
    }

    /// What is in force. Never blocks; tries again while writers flip the selector.
    #[inline(always)]
    pub(crate) fn read(&self, payload: &mut impl Payload) -> Result<Reading, Damaged> {
        loop {
            let read = cells_read_once(self.selector(), |cell| self.cell(cell).load(payload));
            if let Some((loaded, version)) = read {
                return loaded.ok_or(Damaged)?.checked(version);
            }
            std::hint::spin_loop();
        }
    }

    /// What is in force, whether or not it is whole. For a judgement that is followed by a better
    /// look.
    #[inline]
    pub(crate) fn glance(&self) -> Option<Reading> {
        let (content, version) = cells_read_once(self.selector(), |cell| self.cell(cell).glance())?;
        let content = content?;
        Some(Reading { content, version })
    }

    /// What counts where a transaction has decided what was prepared after version `decided`: the
    /// prepared cell, also before any process has put it in force (T1). For readers that may not do
    /// so themselves.
    pub(crate) fn read_decided(
        &self,
        decided: u64,
        payload: &mut impl Payload,
    ) -> Result<Reading, Damaged> {
        let prepared = cells_read_prepared(self.selector(), decided, |cell| {
            self.cell(cell).load(payload)
        });
        // If it is damaged no process flips the selector to it.
        if let Some(loaded) = prepared
            && let Ok(reading) = loaded.ok_or(Damaged)?.checked(decided.wrapping_add(1))
        {
            return Ok(reading);
        }
        self.read(payload)
    }

    /// What a value has in the log, to be given back when the holder of the latch puts something
    /// else there. Only for that holder: what a damaged cell says may be another key's.
    #[inline]
    pub(crate) fn logged_now(&self) -> Option<Content> {
        let version = self.version();
        let cell = self.cell((version & 1) as usize);
        let head = cell.head()?;
        if !Content::is_in_log(head) {
            return None;
        }
        let reading = cell.load(&mut ())?.checked(version).ok()?;
        Some(reading.content)
    }

    /// The version in force. Only for the holder of the latch.
    pub(crate) fn version(&self) -> u64 {
        self.selector().load(Ordering::Relaxed)
    }

    /// Puts a value in force. `tag` and `value` are those of a value that lies in the slots,
    /// otherwise empty. Only for the holder of the latch.
    #[inline(always)]
    pub(crate) fn write(&self, content: Content, tag: &[u8], value: &[u8]) {
        cells_write(self.selector(), self.version(), |cell, version| {
            // The slots are there: the cell was found.
            let _ = self.cell(cell).store(content, tag, value, version);
        });
    }

    /// Fills the idle cell without putting it in force, and returns the version in force. Only for
    /// the holder of the latch.
    pub(crate) fn prepare(&self, content: Content, tag: &[u8], value: &[u8]) -> u64 {
        cells_prepare(self.selector(), |cell, version| {
            let _ = self.cell(cell).store(content, tag, value, version);
        })
    }

    /// Puts in force what was prepared after `version`, unless that was done, or is not whole:
    /// damage.
    pub(crate) fn flip(&self, version: u64) {
        if self.version() == version && self.idle().is_some() {
            cells_flip(self.selector(), version);
        }
    }

    /// What is prepared, if it lies in the log, and is whole.
    pub(crate) fn idle_in_log(&self) -> Option<Content> {
        let next = self.version().wrapping_add(1);
        let content = self.cell((next & 1) as usize).glance()?;
        matches!(content.form, Form::Logged { .. }).then(|| self.idle())?
    }

    /// What is prepared, if it is whole.
    pub(crate) fn idle(&self) -> Option<Content> {
        let next = self.version().wrapping_add(1);
        let loaded = self.cell((next & 1) as usize).load(&mut ())?;
        loaded.checked(next).ok().map(|reading| reading.content)
    }

    /// What was in force before what is now. Only for the holder of the latch, just after its flip.
    pub(crate) fn before(&self) -> Option<Content> {
        let before = self.version().wrapping_sub(1);
        let loaded = self.cell((before & 1) as usize).load(&mut ())?;
        loaded.checked(before).ok().map(|reading| reading.content)
    }

    /// Starts without a value, whatever was there. Only while the caller alone can see the cells.
    pub(crate) fn reset(&self, life: u32) {
        let first = cells_first_version(life);
        // The slots are there, or the key could not be made.
        let _ = self.cell(0).store(Content::ABSENT, &[], &[], first);
        let _ = self.cell(1).store(Content::ABSENT, &[], &[], first + 1);
        self.use_word()
            .inspect(|word| word.store(0, Ordering::Relaxed));
        self.selector().store(first, Ordering::Release);
    }

    /// After damage: puts the newest whole cell in force. `false` when neither is whole. Only for a
    /// process that is alone with the slab.
    pub(crate) fn restore(&self) -> bool {
        let selector = self.selector().load(Ordering::Relaxed);
        let whole = |cell: usize| {
            let loaded = self.cell(cell).load(&mut ())?;
            let version = cells_version_of(loaded.seal, selector);
            let whole = loaded.checked(version).is_ok();
            (whole && (version & 1) as usize == cell).then_some(version)
        };
        let newest = whole(0).max(whole(1));
        newest.inspect(|version| self.selector().store(*version, Ordering::Release));
        newest.is_some()
    }

    /// When the value was used, and how often: the word that eviction goes by, see `store::era`.
    #[inline]
    pub(crate) fn use_word(&self) -> Option<&'a AtomicU64> {
        self.bodies.word(0)
    }
}
