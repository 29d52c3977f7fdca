//! What the slots of a value hold: when it was used, the key, and two cells.
//!
//! ```text
//! word 0     use: when, and how often
//! words 1..  the key
//! then       cell 0, cell 1: each as long as the room allows, 5 to 34 words
//!
//! cell       +------+------+---------------------------+
//!            | head | seal |  payload                  |
//!            +------+------+---------------------------+
//! ```
//!
//! What head and payload say is [`content`](crate::slab::content)'s. The seal is that of an
//! average's cell, over head and as much payload as is used. Here is where the cells lie in the
//! slots, how they are read and how they are put in force.

use crate::record::{
    CellSum, Damaged, SEALED_WORDS_MAX, cells_first_version, cells_flip, cells_prepare,
    cells_read_once, cells_read_prepared, cells_version_of, cells_write,
};
pub(crate) use crate::slab::content::{Content, Form, VALUE_BYTES_MAX, tag_hash};
use crate::slab::content::{FORM_LOGGED, LOGGED_WORDS};
use crate::slab::{BODY_WORDS, Slab, SlotId, pack};
use crate::sync::{AtomicU64, Ordering};

/// Room for a place in the log, and for the digits of any integer.
pub(crate) const CELL_WORDS_MIN: usize = 5;
/// Head and seal.
const CELL_FRAME: usize = 2;
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

/// What was read from a cell; its payload is wherever the reader wanted it.
#[derive(Clone, Copy)]
pub(crate) struct Reading {
    pub(crate) content: Content,
    pub(crate) version: u64,
}

/// Where a reader wants the payload.
pub(crate) trait Payload {
    /// There will be so many words, to be put in place of what is there.
    fn begin(&mut self, words: usize);
    /// Takes the next ones, which begin at word `at`.
    fn take(&mut self, at: usize, words: impl Iterator<Item = u64>);
}

/// Tag and value, one after the other, and up to seven zeros.
impl Payload for Vec<u8> {
    #[inline(always)]
    fn begin(&mut self, words: usize) {
        self.resize(8 * words, 0);
    }

    #[inline(always)]
    fn take(&mut self, at: usize, words: impl Iterator<Item = u64>) {
        let room = self.get_mut(8 * at..).unwrap_or_default();
        for (room, word) in room.as_chunks_mut().0.iter_mut().zip(words) {
            *room = word.to_le_bytes();
        }
    }
}

/// Drops the payload, which the reader does not need.
impl Payload for () {
    #[inline(always)]
    fn begin(&mut self, _words: usize) {}

    #[inline(always)]
    fn take(&mut self, _at: usize, words: impl Iterator<Item = u64>) {
        words.for_each(drop);
    }
}

/// The cells of a value, wherever they lie.
pub(crate) struct ValueCells<'a> {
    slab: &'a Slab,
    id: SlotId,
    span: u32,
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
            slab,
            id,
            span,
            at,
            words,
        };
        (words >= CELL_WORDS_MIN).then_some(cells)
    }

    /// Whether a tag and a value of so many bytes fit a cell.
    pub(crate) fn fits(&self, bytes: usize) -> bool {
        bytes <= 8 * (self.words - CELL_FRAME)
    }

    fn selector(&self) -> &AtomicU64 {
        &self.slab.slot(self.id).aux
    }

    /// Visits so many words of a cell, from its first, in as many parts as the slots make of it:
    /// the number of the first word of each, and the words.
    #[inline(always)]
    fn parts(
        &self,
        cell: usize,
        count: usize,
        mut visit: impl FnMut(usize, &[AtomicU64]),
    ) -> Option<()> {
        let at = self.at + (cell & 1) * self.words;
        let (mut slot, mut from, mut done) = (at / BODY_WORDS, at % BODY_WORDS, 0);
        while done < count {
            let body = self.slab.body(self.id, self.span, slot as u32)?;
            let part = body.get(from..BODY_WORDS.min(from + count - done))?;
            visit(done, part);
            done += part.len();
            (slot, from) = (slot + 1, 0);
        }
        Some(())
    }

    /// Word `at` of a cell.
    #[inline(always)]
    fn word(&self, cell: usize, at: usize) -> Option<&AtomicU64> {
        let at = self.at + (cell & 1) * self.words + at;
        let body = self
            .slab
            .body(self.id, self.span, (at / BODY_WORDS) as u32)?;
        Some(&body[at % BODY_WORDS])
    }

    /// Reads a cell as it is. What comes out means something if no writer filled it meanwhile.
    #[inline(always)]
    fn load(&self, cell: usize, payload: &mut impl Payload) -> Option<Loaded> {
        let head = self.word(cell, 0)?.load(Ordering::Relaxed);
        let seal = self.word(cell, 1)?.load(Ordering::Relaxed);
        let used = Content::payload_words(head).min(self.words - CELL_FRAME);
        payload.begin(used);
        let mut sum = CellSum::of(head);
        let mut first = [0; LOGGED_WORDS];
        self.parts(cell, CELL_FRAME + used, |done, words| {
            let skipped = CELL_FRAME.saturating_sub(done).min(words.len());
            let from = done + skipped - CELL_FRAME;
            let words = words[skipped..].iter().map(|w| w.load(Ordering::Relaxed));
            if head >> 17 & 0x1f != FORM_LOGGED {
                return payload.take(from, sum.adding(1 + from, words));
            }
            let mut at = from;
            let kept = sum.adding(1 + from, words).inspect(|word| {
                if let Some(first) = first.get_mut(at) {
                    *first = *word;
                }
                at += 1;
            });
            payload.take(from, kept);
        })?;
        Some(Loaded {
            head,
            seal,
            sum,
            first,
            used,
        })
    }

    /// What is in force. Never blocks; tries again while writers flip the selector.
    #[inline(always)]
    pub(crate) fn read(&self, payload: &mut impl Payload) -> Result<Reading, Damaged> {
        loop {
            let read = cells_read_once(self.selector(), |cell| self.load(cell, payload));
            if let Some((loaded, version)) = read {
                return loaded.ok_or(Damaged)?.checked(version);
            }
            std::hint::spin_loop();
        }
    }

    /// What counts where a transaction has decided what was prepared after version `decided`: the
    /// prepared cell, also before any process has put it in force (T1). For readers that may not do
    /// so themselves.
    pub(crate) fn read_decided(
        &self,
        decided: u64,
        payload: &mut impl Payload,
    ) -> Result<Reading, Damaged> {
        let prepared =
            cells_read_prepared(self.selector(), decided, |cell| self.load(cell, payload));
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
        let cell = (version & 1) as usize;
        let head = self.word(cell, 0)?.load(Ordering::Relaxed);
        if head >> 17 & 0x1f != FORM_LOGGED {
            return None;
        }
        let reading = self.load(cell, &mut ())?.checked(version).ok()?;
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
            let _ = self.store(cell, content, tag, value, version);
        });
    }

    /// Fills the idle cell without putting it in force, and returns the version in force. Only for
    /// the holder of the latch.
    pub(crate) fn prepare(&self, content: Content, tag: &[u8], value: &[u8]) -> u64 {
        cells_prepare(self.selector(), |cell, version| {
            let _ = self.store(cell, content, tag, value, version);
        })
    }

    /// Puts in force what was prepared after `version`, unless that was done, or is not whole:
    /// damage.
    pub(crate) fn flip(&self, version: u64) {
        if self.version() == version && self.idle().is_some() {
            cells_flip(self.selector(), version);
        }
    }

    /// What is prepared, if it is whole.
    pub(crate) fn idle(&self) -> Option<Content> {
        let next = self.version().wrapping_add(1);
        let loaded = self.load((next & 1) as usize, &mut ())?;
        loaded.checked(next).ok().map(|reading| reading.content)
    }

    /// What was in force before what is now. Only for the holder of the latch, just after its flip.
    pub(crate) fn before(&self) -> Option<Content> {
        let before = self.version().wrapping_sub(1);
        let loaded = self.load((before & 1) as usize, &mut ())?;
        loaded.checked(before).ok().map(|reading| reading.content)
    }

    #[inline(always)]
    fn store(
        &self,
        cell: usize,
        content: Content,
        tag: &[u8],
        value: &[u8],
        version: u64,
    ) -> Option<()> {
        let head = content.head();
        let mut sum = CellSum::of(head);
        match content.form {
            Form::Absent => {}
            Form::Logged {
                place,
                len,
                tag_hash,
            } => {
                let payload = [place.bits(), pack(tag_hash, len as u32)].into_iter();
                self.store_words(cell, LOGGED_WORDS, payload, &mut sum)?;
            }
            Form::Inline { .. } if tag.is_empty() => {
                self.store_bytes(cell, value, &mut sum)?;
            }
            Form::Inline { .. } => self.store_bytes(cell, &[tag, value].concat(), &mut sum)?,
        }
        self.word(cell, 0)?.store(head, Ordering::Relaxed);
        let seal = sum.seal(version);
        self.word(cell, 1)?.store(seal, Ordering::Relaxed);
        Some(())
    }

    #[inline(always)]
    fn store_bytes(&self, cell: usize, bytes: &[u8], sum: &mut CellSum) -> Option<()> {
        let words = bytes.chunks(8).map(word_of);
        self.store_words(cell, bytes.len().div_ceil(8), words, sum)
    }

    #[inline(always)]
    fn store_words(
        &self,
        cell: usize,
        count: usize,
        mut payload: impl Iterator<Item = u64>,
        sum: &mut CellSum,
    ) -> Option<()> {
        self.parts(cell, CELL_FRAME + count, |done, words| {
            let skipped = CELL_FRAME.saturating_sub(done).min(words.len());
            let from = done + skipped - CELL_FRAME;
            let room = words[skipped..].iter();
            for (to, word) in room.zip(sum.adding(1 + from, &mut payload)) {
                to.store(word, Ordering::Relaxed);
            }
        })
    }

    /// Starts without a value, whatever was there. Only while the caller alone can see the cells.
    pub(crate) fn reset(&self, life: u32) {
        let first = cells_first_version(life);
        // The slots are there, or the key could not be made.
        let _ = self.store(0, Content::ABSENT, &[], &[], first);
        let _ = self.store(1, Content::ABSENT, &[], &[], first + 1);
        self.use_word()
            .inspect(|word| word.store(0, Ordering::Relaxed));
        self.selector().store(first, Ordering::Release);
    }

    /// After damage: puts the newest whole cell in force. `false` when neither is whole. Only for a
    /// process that is alone with the slab.
    pub(crate) fn restore(&self) -> bool {
        let selector = self.selector().load(Ordering::Relaxed);
        let whole = |cell: usize| {
            let loaded = self.load(cell, &mut ())?;
            let version = cells_version_of(loaded.seal, selector);
            let whole = loaded.checked(version).is_ok();
            (whole && (version & 1) as usize == cell).then_some(version)
        };
        let newest = whole(0).max(whole(1));
        newest.inspect(|version| self.selector().store(*version, Ordering::Release));
        newest.is_some()
    }

    /// When the value was used, and how often: the word that eviction goes by.
    #[inline]
    pub(crate) fn use_word(&self) -> Option<&AtomicU64> {
        self.slab.body_word(self.id, self.span, 0)
    }
}

/// A cell as it was.
struct Loaded {
    head: u64,
    seal: u64,
    sum: CellSum,
    /// The first words of the payload.
    first: [u64; LOGGED_WORDS],
    used: usize,
}

impl Loaded {
    #[inline(always)]
    fn checked(&self, version: u64) -> Result<Reading, Damaged> {
        if self.sum.seal(version) != self.seal {
            return Err(Damaged);
        }
        let content = Content::decode(self.head, self.first, self.used).ok_or(Damaged)?;
        Ok(Reading { content, version })
    }
}

/// Up to eight bytes as a word, filled up with zeros.
#[inline(always)]
pub(crate) fn word_of(bytes: &[u8]) -> u64 {
    match bytes.try_into() {
        Ok(whole) => u64::from_le_bytes(whole),
        // Not by copying: a call for a few bytes costs more than shifting them.
        Err(_) => bytes
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u64::from(*byte)),
    }
}

/// The word `use`: how often in the upper 20 bits, when in milliseconds below.
pub(crate) const USE_SHIFT: u32 = 44;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_filled_up_with_zeros() {
        assert_eq!(word_of(b"abcdefgh"), u64::from_le_bytes(*b"abcdefgh"));
        assert_eq!(word_of(b"abc"), u64::from_le_bytes(*b"abc\0\0\0\0\0"));
        assert_eq!(word_of(b""), 0);
    }
}
