//! Key and tag in the bodies of a key's slots: where they lie, and reading, comparing and writing
//! them word by word.

use crate::slab::bodies::Bodies;
use crate::slab::value_cell::word_of;
use crate::slab::value_cells::CELL_WORDS_MIN;
use crate::slab::{BODY_WORDS, Slab, SlotId, Tenant};
use crate::sync::Ordering;

/// Words of an average's cells, before its key.
const CELLS_WORDS: usize = 14;

/// Words before the key of a value: when it was used.
const USE_WORDS: usize = 1;

/// Words before the key of what is waited for: the line of those who wait, and what is counted of
/// it.
const WAITING_WORDS: usize = 5;

/// Where key and tag lie in the words of a key's bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyPlace {
    pub(crate) key_at: usize,
    pub(crate) tag_at: usize,
    pub(crate) words: usize,
}

impl KeyPlace {
    pub(crate) fn of(kind: Tenant, key_len: usize, tag_len: usize) -> KeyPlace {
        let key_at = match kind {
            Tenant::Averager => CELLS_WORDS,
            Tenant::Value => USE_WORDS,
            Tenant::Lock | Tenant::RLock | Tenant::Semaphore => WAITING_WORDS,
            Tenant::Turn => 0,
        };
        let tag_at = key_at + key_len.div_ceil(8);
        KeyPlace {
            key_at,
            tag_at,
            words: tag_at + tag_len.div_ceil(8),
        }
        .with_cells(match kind {
            Tenant::Value => CELL_WORDS_MIN,
            _ => 0,
        })
    }

    /// With room for two cells of so many words behind.
    pub(crate) fn with_cells(self, cell_words: usize) -> KeyPlace {
        let words = self.words.max(self.tag_at + 2 * cell_words);
        KeyPlace { words, ..self }
    }

    /// How many slots that takes.
    pub(crate) fn span(self) -> u32 {
        self.words.div_ceil(BODY_WORDS).max(1) as u32
    }
}

/// Reads `len` bytes from word `at` on. `None`: the bodies end before.
pub(crate) fn read_bytes(slab: &Slab, id: SlotId, at: usize, len: usize) -> Option<Vec<u8>> {
    let bodies = slab.bodies(id, span_of(slab, id))?;
    let mut bytes = Vec::with_capacity(len.next_multiple_of(8));
    for word in 0..len.div_ceil(8) {
        let word = bodies.word(at + word)?;
        bytes.extend_from_slice(&word.load(Ordering::Acquire).to_le_bytes());
    }
    bytes.truncate(len);
    Some(bytes)
}

/// Whether the words from `at` on are these bytes.
#[inline(always)]
pub(crate) fn bytes_equal(bodies: Bodies<'_>, at: usize, bytes: &[u8]) -> bool {
    let mut chunks = bytes.chunks(8);
    let (mut slot, mut from) = (at / BODY_WORDS, at % BODY_WORDS);
    while chunks.len() > 0 {
        let Some(body) = bodies.get(slot) else {
            return false;
        };
        // The words first: of the other the zip would drop one that finds no partner.
        let mut here = body[from..].iter().zip(chunks.by_ref());
        if !here.all(|(word, chunk)| word.load(Ordering::Relaxed) == word_of(chunk)) {
            return false;
        }
        (slot, from) = (slot + 1, 0);
    }
    true
}

/// Zeros before the key of what is waited for: nobody waits yet.
pub(crate) fn clear_waiting(slab: &Slab, id: SlotId, span: u32) {
    let words = (0..WAITING_WORDS).filter_map(|at| slab.body_word(id, span, at));
    words.for_each(|word| word.store(0, Ordering::Relaxed));
}

/// `false` when the bodies are too short, which the caller has excluded.
pub(crate) fn write_bytes(slab: &Slab, id: SlotId, span: u32, at: usize, bytes: &[u8]) -> bool {
    bytes.chunks(8).enumerate().all(|(i, chunk)| {
        let word = slab.body_word(id, span, at + i);
        word.inspect(|word| word.store(word_of(chunk), Ordering::Relaxed))
            .is_some()
    })
}

/// The most slots that a key with its tag takes.
pub(crate) const SPAN_MAX: u32 = 16;

/// How many slots a key says it takes, never more than any can.
pub(crate) fn span_of(slab: &Slab, id: SlotId) -> u32 {
    let span = slab.slot(id).span.load(Ordering::Relaxed);
    u32::from(span).clamp(1, SPAN_MAX)
}
