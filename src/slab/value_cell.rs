//! One of the two cells of a value: where its words lie in the slots, how they are read and filled.
//!
//! ```text
//! cell       +------+------+---------------------------+
//!            | head | seal |  payload                  |
//!            +------+------+---------------------------+
//! ```
//!
//! What head and payload say is [`content`](crate::slab::content)'s. The seal is that of an
//! average's cell, over head and as much payload as is used.

use crate::record::{CellSum, Damaged};
use crate::slab::BODY_WORDS;
use crate::slab::bodies::Bodies;
use crate::slab::content::{Content, Form, TELLING_WORDS};
use crate::sync::{AtomicU64, Ordering};

/// Head and seal.
pub(super) const CELL_FRAME: usize = 2;

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

/// One cell of a value, wherever it lies.
#[derive(Clone, Copy)]
pub(super) struct ValueCell<'a> {
    pub(super) bodies: Bodies<'a>,
    /// The word, counted through the bodies, at which it begins.
    pub(super) at: usize,
    pub(super) words: usize,
}

impl<'a> ValueCell<'a> {
    /// Visits so many words, from the first, in as many parts as the slots make of it: the number
    /// of the first word of each, and the words.
    #[inline(always)]
    fn parts(self, count: usize, mut visit: impl FnMut(usize, &[AtomicU64])) -> Option<()> {
        let (mut slot, mut from, mut done) = (self.at / BODY_WORDS, self.at % BODY_WORDS, 0);
        while done < count {
            let body = self.bodies.get(slot)?;
            let part = body.get(from..BODY_WORDS.min(from + count - done))?;
            visit(done, part);
            done += part.len();
            (slot, from) = (slot + 1, 0);
        }
        Some(())
    }

    /// Word `at` of the cell.
    #[inline(always)]
    fn word(self, at: usize) -> Option<&'a AtomicU64> {
        self.bodies.word(self.at + at)
    }

    /// The head, which says what there is.
    #[inline(always)]
    pub(super) fn head(self) -> Option<u64> {
        Some(self.word(0)?.load(Ordering::Relaxed))
    }

    /// What the cell says, without its seal.
    #[inline]
    pub(super) fn glance(self) -> Option<Content> {
        let head = self.head()?;
        let used = Content::payload_words(head).min(self.words - CELL_FRAME);
        let mut first = [0; TELLING_WORDS];
        if Content::tells(head) {
            for (at, word) in first.iter_mut().enumerate().take(used) {
                *word = self.word(CELL_FRAME + at)?.load(Ordering::Relaxed);
            }
        }
        Content::decode(head, first, used)
    }

    /// Reads the cell as it is. What comes out means something if no writer filled it meanwhile.
    #[inline(always)]
    pub(super) fn load(self, payload: &mut impl Payload) -> Option<Loaded> {
        let head = self.head()?;
        let seal = self.word(1)?.load(Ordering::Relaxed);
        let used = Content::payload_words(head).min(self.words - CELL_FRAME);
        payload.begin(used);
        let mut sum = CellSum::of(head);
        let mut first = [0; TELLING_WORDS];
        self.parts(CELL_FRAME + used, |done, words| {
            let skipped = CELL_FRAME.saturating_sub(done).min(words.len());
            let from = (done + skipped).saturating_sub(CELL_FRAME);
            let words = words[skipped..].iter().map(|w| w.load(Ordering::Relaxed));
            if !Content::tells(head) {
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

    /// Fills the cell. `tag` and `value` are those of a value that lies in the slots, otherwise
    /// empty.
    #[inline(always)]
    pub(super) fn store(
        self,
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
                let payload = content.logged_payload(place, len, tag_hash);
                self.store_words(Content::payload_words(head), payload, &mut sum)?;
            }
            Form::Inline { .. } if tag.is_empty() && content.flags == 0 => {
                self.store_bytes(value, &mut sum)?;
            }
            Form::Inline { .. } => {
                let all = [&content.flag_bytes(), tag, value].concat();
                self.store_bytes(&all, &mut sum)?;
            }
        }
        self.word(0)?.store(head, Ordering::Relaxed);
        let seal = sum.seal(version);
        self.word(1)?.store(seal, Ordering::Relaxed);
        Some(())
    }

    #[inline(always)]
    fn store_bytes(self, bytes: &[u8], sum: &mut CellSum) -> Option<()> {
        let words = bytes.chunks(8).map(word_of);
        self.store_words(bytes.len().div_ceil(8), words, sum)
    }

    #[inline(always)]
    fn store_words(
        self,
        count: usize,
        mut payload: impl Iterator<Item = u64>,
        sum: &mut CellSum,
    ) -> Option<()> {
        self.parts(CELL_FRAME + count, |done, words| {
            let skipped = CELL_FRAME.saturating_sub(done).min(words.len());
            let from = (done + skipped).saturating_sub(CELL_FRAME);
            let room = words[skipped..].iter();
            for (to, word) in room.zip(sum.adding(1 + from, &mut payload)) {
                to.store(word, Ordering::Relaxed);
            }
        })
    }
}

/// A cell as it was.
pub(super) struct Loaded {
    head: u64,
    pub(super) seal: u64,
    sum: CellSum,
    /// The first words of the payload.
    first: [u64; TELLING_WORDS],
    used: usize,
}

impl Loaded {
    /// What it says, if the seal is that of this version.
    #[inline(always)]
    pub(super) fn checked(&self, version: u64) -> Result<Reading, Damaged> {
        if self.sum.seal(version) != self.seal {
            return Err(Damaged);
        }
        let content = Content::decode(self.head, self.first, self.used).ok_or(Damaged)?;
        Ok(Reading { content, version })
    }
}

/// What was read from a cell; its payload is wherever the reader wanted it.
#[derive(Clone, Copy)]
pub(crate) struct Reading {
    pub(crate) content: Content,
    pub(crate) version: u64,
}

/// Up to eight bytes as a word, filled up with zeros.
#[inline(always)]
pub(super) fn word_of(bytes: &[u8]) -> u64 {
    match bytes.try_into() {
        Ok(whole) => u64::from_le_bytes(whole),
        // Not by copying: a call for a few bytes costs more than shifting them.
        Err(_) => bytes
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u64::from(*byte)),
    }
}

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
