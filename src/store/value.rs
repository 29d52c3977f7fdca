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
//!
//! head        63        22 21  19 18  17 16       8 7        0
//!            +------------+------+------+----------+----------+
//!            | expires ms |  0   | form |  length  | tag len  |
//!            +------------+------+------+----------+----------+
//! ```
//!
//! Form 0: no value. Form 1: `length` bytes of value, which follow on the tag in the payload. Form 2: the
//! value lies in the log; the payload is its place, and `hash of its tag << 32 | its length`. The seal is
//! that of an average's cell, over head and as much payload as is used.

use crate::log::Place;
use crate::record::{
    Damaged, SEALED_WORDS_MAX, cells_first_version, cells_read_once, cells_seal, cells_version_of,
    cells_write,
};
use crate::slab::{BODY_WORDS, Slab, SlotId, pack, unpack};
use crate::store::hash::hash;
use crate::store::index::{Found, span_of};
use crate::sync::{AtomicU64, Ordering};

/// Room for a place in the log, and for the digits of any integer.
pub(crate) const CELL_WORDS_MIN: usize = 5;
/// Head and seal.
const CELL_FRAME: usize = 2;
const CELL_WORDS_MAX: usize = SEALED_WORDS_MAX + 1;
/// Tags and values up to so many bytes together lie in the slots, when a key is made for them.
pub(crate) const INLINE_BYTES_MAX: usize = 8 * (CELL_WORDS_MAX - CELL_FRAME);
/// The longest value.
pub(crate) const VALUE_BYTES_MAX: usize = 1 << 30;
/// The last moment that an expiry can name, in the year 2109.
pub(crate) const EXPIRES_MS_MAX: u64 = (1 << 42) - 1;

const FORM_INLINE: u64 = 1;
const FORM_LOGGED: u64 = 2;

/// How many words a cell needs for a tag and a value of that many bytes.
pub(crate) fn cell_words(bytes: usize) -> usize {
    match bytes {
        0..=INLINE_BYTES_MAX => (CELL_FRAME + bytes.div_ceil(8)).max(CELL_WORDS_MIN),
        _ => CELL_WORDS_MIN,
    }
}

/// A short number for a tag, to pass most values over that carry another.
pub(crate) fn tag_hash(tag: &[u8]) -> u32 {
    hash([0, 0], tag) as u32
}

/// What a cell says, without the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    /// Wall-clock milliseconds since 1970; 0: never.
    pub(crate) expires_ms: u64,
    pub(crate) tag_len: usize,
    pub(crate) form: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Absent,
    Inline {
        len: usize,
    },
    Logged {
        place: Place,
        len: usize,
        tag_hash: u32,
    },
}

impl Content {
    pub(crate) const ABSENT: Content = Content {
        expires_ms: 0,
        tag_len: 0,
        form: Form::Absent,
    };

    fn head(self) -> u64 {
        let (form, len) = match self.form {
            Form::Absent => return 0,
            Form::Inline { len } => (FORM_INLINE, len),
            Form::Logged { .. } => (FORM_LOGGED, 0),
        };
        self.expires_ms.min(EXPIRES_MS_MAX) << 22
            | form << 17
            | (len as u64) << 8
            | self.tag_len as u64
    }

    /// `None`: no cell has such a head.
    fn decode(head: u64, payload: &[u64]) -> Option<Content> {
        let (tag_len, len) = ((head & 0xff) as usize, (head >> 8 & 0x1ff) as usize);
        let form = match head >> 17 & 0x1f {
            0 if head == 0 => Form::Absent,
            FORM_INLINE if tag_len + len <= 8 * payload.len() => Form::Inline { len },
            FORM_LOGGED if len == 0 && payload.len() == LOGGED_WORDS => {
                let (tag_hash, len) = unpack(payload[1]);
                let len = len as usize;
                let place = Place::from_bits(payload[0])?;
                (len <= VALUE_BYTES_MAX).then_some(Form::Logged {
                    place,
                    len,
                    tag_hash,
                })?
            }
            _ => return None,
        };
        Some(Content {
            expires_ms: head >> 22,
            tag_len,
            form,
        })
    }

    /// How many words of payload a head announces; of a head that makes no sense, as many as there are.
    fn payload_words(head: u64) -> usize {
        match head >> 17 & 0x1f {
            0 => 0,
            FORM_INLINE => ((head & 0xff) as usize + (head >> 8 & 0x1ff) as usize).div_ceil(8),
            _ => LOGGED_WORDS,
        }
    }

    pub(crate) fn is_absent(&self) -> bool {
        self.form == Form::Absent
    }

    /// Of the value.
    pub(crate) fn len(&self) -> usize {
        match self.form {
            Form::Absent => 0,
            Form::Inline { len } | Form::Logged { len, .. } => len,
        }
    }
}

const LOGGED_WORDS: usize = 2;

/// What was read from a cell.
pub(crate) struct Reading {
    pub(crate) content: Content,
    pub(crate) version: u64,
    sealed: [u64; SEALED_WORDS_MAX],
}

impl Reading {
    fn payload(&self) -> impl Iterator<Item = u8> {
        self.sealed[1..].iter().flat_map(|word| word.to_le_bytes())
    }

    /// The tag, of a value that lies in the slots.
    pub(crate) fn inline_tag(&self) -> Vec<u8> {
        self.payload().take(self.content.tag_len).collect()
    }

    /// Puts the bytes of a value that lies in the slots into `into`.
    #[inline]
    pub(crate) fn inline_value(&self, len: usize, into: &mut Vec<u8>) {
        into.clear();
        let from = self.content.tag_len;
        if from == 0 {
            into.reserve(len.next_multiple_of(8));
            for word in &self.sealed[1..1 + len.div_ceil(8)] {
                into.extend_from_slice(&word.to_le_bytes());
            }
            into.truncate(len);
        } else {
            into.extend(self.payload().skip(from).take(len));
        }
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
    /// Of a key that was found.
    #[inline]
    pub(crate) fn of(slab: &'a Slab, found: Found) -> Option<ValueCells<'a>> {
        ValueCells::within(slab, found.id, span_of(slab, found.id), found.meta.key_len)
    }

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

    /// Visits so many words of a cell, from its first.
    #[inline]
    fn each(
        &self,
        cell: usize,
        count: usize,
        mut visit: impl FnMut(usize, &AtomicU64),
    ) -> Option<()> {
        let at = self.at + (cell & 1) * self.words;
        let (mut slot, mut from, mut done) = (at / BODY_WORDS, at % BODY_WORDS, 0);
        while done < count {
            let body = self.slab.body(self.id, self.span, slot as u32)?;
            for word in body[from..].iter().take(count - done) {
                visit(done, word);
                done += 1;
            }
            (slot, from) = (slot + 1, 0);
        }
        Some(())
    }

    /// Head, used payload, and seal of a cell; how many words are under the seal.
    #[inline]
    fn load(&self, cell: usize, into: &mut [u64; SEALED_WORDS_MAX]) -> Option<(usize, u64)> {
        let mut head = [0; CELL_FRAME];
        self.each(cell, CELL_FRAME, |i, word| {
            head[i] = word.load(Ordering::Relaxed)
        })?;
        let [head, seal] = head;
        let used = Content::payload_words(head).min(self.words - CELL_FRAME);
        self.each(cell, CELL_FRAME + used, |i, word| {
            if let Some(to) = into.get_mut(i.wrapping_sub(1)).filter(|_| i >= CELL_FRAME) {
                *to = word.load(Ordering::Relaxed);
            }
        })?;
        into[0] = head;
        Some((1 + used, seal))
    }

    /// What is in force. Never blocks; tries again while writers flip the selector.
    #[inline]
    pub(crate) fn read(&self) -> Result<Reading, Damaged> {
        let mut sealed = [0; SEALED_WORDS_MAX];
        loop {
            let read = cells_read_once(self.selector(), |cell| self.load(cell, &mut sealed));
            if let Some((loaded, version)) = read {
                let (words, seal) = loaded.ok_or(Damaged)?;
                return Reading::checked(sealed, words, seal, version);
            }
            std::hint::spin_loop();
        }
    }

    /// The version in force. Only for the holder of the latch.
    pub(crate) fn version(&self) -> u64 {
        self.selector().load(Ordering::Relaxed)
    }

    /// Puts a value in force after `version`. `tag` and `value` are those of a value that lies in the slots,
    /// otherwise empty. Only for the holder of the latch.
    #[inline]
    pub(crate) fn write(&self, content: Content, tag: &[u8], value: &[u8], version: u64) {
        let (sealed, words) = encode(content, tag, value);
        cells_write(self.selector(), version, |cell, version| {
            self.store(cell, &sealed[..words], version);
        });
    }

    fn store(&self, cell: usize, sealed: &[u64], version: u64) {
        let seal = cells_seal(sealed, version);
        // The slots are there: the cell was read before.
        let _ = self.each(cell, 1 + sealed.len(), |i, word| {
            let bits = match i {
                0 => sealed[0],
                1 => seal,
                _ => sealed[i - 1],
            };
            word.store(bits, Ordering::Relaxed);
        });
    }

    /// Starts without a value, whatever was there. Only while nobody else can see the cells.
    pub(crate) fn reset(&self, life: u32) {
        let first = cells_first_version(life);
        self.store(0, &[0], first);
        self.store(1, &[0], first + 1);
        self.use_word()
            .inspect(|word| word.store(0, Ordering::Relaxed));
        self.selector().store(first, Ordering::Release);
    }

    /// After damage: puts the newest whole cell in force. `false` when neither is whole. Only for who is
    /// alone with the slab.
    pub(crate) fn restore(&self) -> bool {
        let selector = self.selector().load(Ordering::Relaxed);
        let whole = |cell: usize| {
            let mut sealed = [0; SEALED_WORDS_MAX];
            let (words, seal) = self.load(cell, &mut sealed)?;
            let version = cells_version_of(seal, selector);
            let whole = Reading::checked(sealed, words, seal, version).is_ok();
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

impl Reading {
    #[inline]
    fn checked(
        sealed: [u64; SEALED_WORDS_MAX],
        words: usize,
        seal: u64,
        version: u64,
    ) -> Result<Reading, Damaged> {
        let used = sealed.get(..words).ok_or(Damaged)?;
        if cells_seal(used, version) != seal {
            return Err(Damaged);
        }
        let content = Content::decode(used[0], &used[1..]).ok_or(Damaged)?;
        Ok(Reading {
            content,
            version,
            sealed,
        })
    }
}

/// The words under the seal, and how many.
#[inline]
fn encode(content: Content, tag: &[u8], value: &[u8]) -> ([u64; SEALED_WORDS_MAX], usize) {
    let mut sealed = [0; SEALED_WORDS_MAX];
    sealed[0] = content.head();
    let words = match content.form {
        Form::Absent => 0,
        Form::Logged {
            place,
            len,
            tag_hash,
        } => {
            (sealed[1], sealed[2]) = (place.bits(), pack(tag_hash, len as u32));
            LOGGED_WORDS
        }
        Form::Inline { .. } if tag.is_empty() => {
            for (to, from) in sealed[1..].iter_mut().zip(value.chunks(8)) {
                *to = word_of(from);
            }
            value.len().div_ceil(8)
        }
        Form::Inline { .. } => {
            let both = [tag, value].concat();
            for (to, from) in sealed[1..].iter_mut().zip(both.chunks(8)) {
                *to = word_of(from);
            }
            both.len().div_ceil(8)
        }
    };
    (sealed, 1 + words)
}

#[inline]
fn word_of(bytes: &[u8]) -> u64 {
    match bytes.try_into() {
        Ok(whole) => u64::from_le_bytes(whole),
        Err(_) => {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            u64::from_le_bytes(word)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_come_back_and_nonsense_does_not() {
        let place = Place::from_bits(7 << 32 | 9).unwrap();
        let logged = Form::Logged {
            place,
            len: VALUE_BYTES_MAX,
            tag_hash: 77,
        };
        for (tag, value, form) in [
            (&b""[..], &b""[..], Form::Inline { len: 0 }),
            (b"", b"twelve bytes", Form::Inline { len: 12 }),
            (b"tag", b"value", Form::Inline { len: 5 }),
            (b"", b"", logged),
            (b"", b"", Form::Absent),
        ] {
            let tag_len = tag.len();
            let expires_ms = if form == Form::Absent {
                0
            } else {
                EXPIRES_MS_MAX
            };
            let content = Content {
                expires_ms,
                tag_len,
                form,
            };
            let (sealed, words) = encode(content, tag, value);
            assert_eq!(words, 1 + Content::payload_words(sealed[0]));
            let read = Reading::checked(sealed, words, cells_seal(&sealed[..words], 5), 5);
            let read = read.unwrap_or_else(|_| panic!("{form:?}"));
            assert_eq!((read.content, read.inline_tag()), (content, tag.to_vec()));
            let mut bytes = Vec::new();
            if let Form::Inline { len } = form {
                read.inline_value(len, &mut bytes);
                assert_eq!(bytes, value);
            }
            assert!(Reading::checked(sealed, words, cells_seal(&sealed[..words], 5), 7).is_err());
        }
        for bad in [3 << 17, 1 << 17 | 1 << 8, 1 << 20, 1, 1 << 22] {
            assert_eq!(Content::decode(bad, &[]), None);
        }
    }
}
