//! What a cell of a value says: which value, or where it lies, under which tag and until when.
//!
//! ```text
//! head        63        22 21  20   19   18  17 16       8 7        0
//!            +------------+------+-------+------+----------+----------+
//!            | expires ms |  0   | flags | form |  length  | tag len  |
//!            +------------+------+-------+------+----------+----------+
//! ```
//!
//! Form 0: no value. Form 1: `length` bytes of value, which follow on the tag in the payload. Form
//! 2: the value lies in the log; the payload is its place, and `hash of its tag << 32 | its
//! length`. Where bit 19 is set the value has flags, two bytes of the caller's own: of form 1
//! before the tag, of form 2 in a third word.

use crate::log::{Location, record_bytes};
use crate::slab::hash::hash;
use crate::slab::{pack, unpack};

/// The longest value.
pub(crate) const VALUE_BYTES_MAX: usize = 1 << 30;
/// The last moment that an expiry can name, in the year 2109.
pub(crate) const EXPIRES_MS_MAX: u64 = (1 << 42) - 1;

const FORM_INLINE: u64 = 1;
const FORM_LOGGED: u64 = 2;
/// Beside a form: the value has flags.
const FLAGGED: u64 = 4;
const FLAG_BYTES: usize = 2;

/// A short number for a tag, to pass most values over that carry another.
pub(crate) fn tag_hash(tag: &[u8]) -> u32 {
    hash([0, 0], tag) as u32
}

/// The most words of a payload that say something themselves.
pub(crate) const TELLING_WORDS: usize = 3;

const FLAGGED_INLINE: u64 = FLAGGED | FORM_INLINE;

/// Form, flags and what must be zero, of a head.
#[inline(always)]
fn form_of(head: u64) -> u64 {
    head >> 17 & 0x1f
}

/// The words of the payload of a value in the log.
fn logged_words(is_flagged: bool) -> usize {
    TELLING_WORDS - usize::from(!is_flagged)
}

/// What a cell says, without the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    /// Wall-clock milliseconds since 1970; 0: never.
    pub(crate) expires_ms: u64,
    pub(crate) tag_len: usize,
    /// The caller's own.
    pub(crate) flags: u16,
    pub(crate) form: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Absent,
    Inline {
        len: usize,
    },
    Logged {
        place: Location,
        len: usize,
        tag_hash: u32,
    },
}

impl Content {
    /// Where in the log the value is, and how much room it takes there.
    pub(crate) fn logged(&self, key_len: usize) -> Option<(Location, u64)> {
        match self.form {
            Form::Logged { place, len, .. } => {
                Some((place, record_bytes(key_len, self.tag_len, len)))
            }
            _ => None,
        }
    }

    pub(crate) const ABSENT: Content = Content {
        expires_ms: 0,
        tag_len: 0,
        flags: 0,
        form: Form::Absent,
    };

    pub(crate) fn head(self) -> u64 {
        let (form, len) = match self.form {
            Form::Absent => return 0,
            Form::Inline { len } => (FORM_INLINE, len),
            Form::Logged { .. } => (FORM_LOGGED, 0),
        };
        let flagged = if self.flags == 0 { 0 } else { FLAGGED };
        self.expires_ms.min(EXPIRES_MS_MAX) << 22
            | (flagged | form) << 17
            | (len as u64) << 8
            | self.tag_len as u64
    }

    /// `payload` is its first words, `words` how many there are. `None`: no cell has such a head.
    #[inline]
    pub(crate) fn decode(
        head: u64,
        payload: [u64; TELLING_WORDS],
        words: usize,
    ) -> Option<Content> {
        let (tag_len, len) = ((head & 0xff) as usize, (head >> 8 & 0x1ff) as usize);
        let is_flagged = form_of(head) & FLAGGED != 0;
        let (mut flags, before) = match is_flagged {
            true => (payload[0] as u16, FLAG_BYTES),
            false => (0, 0),
        };
        let form = match form_of(head) & !FLAGGED {
            0 if head == 0 => Form::Absent,
            FORM_INLINE if before + tag_len + len <= 8 * words => Form::Inline { len },
            FORM_LOGGED if len == 0 && words == logged_words(is_flagged) => {
                flags = payload[2] as u16;
                let (tag_hash, len) = unpack(payload[1]);
                let len = len as usize;
                let place = Location::from_bits(payload[0])?;
                (len <= VALUE_BYTES_MAX).then_some(Form::Logged {
                    place,
                    len,
                    tag_hash,
                })?
            }
            _ => return None,
        };
        (is_flagged == (flags != 0)).then_some(Content {
            expires_ms: head >> 22,
            tag_len,
            flags,
            form,
        })
    }

    /// How many words of payload a head announces; of a head that makes no sense, as many as there
    /// are.
    #[inline]
    pub(crate) fn payload_words(head: u64) -> usize {
        let bytes = (head & 0xff) as usize + (head >> 8 & 0x1ff) as usize;
        match form_of(head) {
            0 => 0,
            FORM_INLINE => bytes.div_ceil(8),
            FLAGGED_INLINE => (FLAG_BYTES + bytes).div_ceil(8),
            form => logged_words(form & FLAGGED != 0),
        }
    }

    /// Whether the first words of the payload of such a head say something themselves.
    #[inline(always)]
    pub(crate) fn tells(head: u64) -> bool {
        form_of(head) > FORM_INLINE
    }

    /// Whether a head says that the value lies in the log.
    #[inline]
    pub(crate) fn is_in_log(head: u64) -> bool {
        form_of(head) & !FLAGGED == FORM_LOGGED
    }

    /// The words of the payload of a value in the log.
    pub(crate) fn logged_payload(
        self,
        place: Location,
        len: usize,
        tag_hash: u32,
    ) -> impl Iterator<Item = u64> {
        let words = [place.bits(), pack(tag_hash, len as u32), self.flags.into()];
        words.into_iter().take(logged_words(self.flags != 0))
    }

    /// What comes before the tag of a value that lies in the slots.
    pub(crate) fn flag_bytes(self) -> Vec<u8> {
        match self.flags {
            0 => Vec::new(),
            flags => flags.to_le_bytes().to_vec(),
        }
    }

    /// How many bytes that is.
    fn before_tag(&self) -> usize {
        if self.flags == 0 { 0 } else { FLAG_BYTES }
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

impl Content {
    /// The tag in the payload of a value that lies in the slots.
    pub(crate) fn tag_in<'a>(&self, payload: &'a [u8]) -> &'a [u8] {
        let from = self.before_tag();
        payload.get(from..from + self.tag_len).unwrap_or_default()
    }

    /// The value in such a payload.
    pub(crate) fn value_in<'a>(&self, payload: &'a [u8]) -> &'a [u8] {
        let from = self.before_tag() + self.tag_len;
        payload.get(from..from + self.len()).unwrap_or_default()
    }

    /// Leaves of such a payload the value.
    #[inline]
    pub(crate) fn keep_value(&self, payload: &mut Vec<u8>) {
        let before = self.before_tag() + self.tag_len;
        if before > 0 {
            payload.drain(..before.min(payload.len()));
        }
        payload.truncate(self.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_come_back_and_nonsense_does_not() {
        let place = Location::from_bits(7 << 32 | 9).unwrap();
        let logged = Form::Logged {
            place,
            len: VALUE_BYTES_MAX,
            tag_hash: 77,
        };
        for (tag_len, flags, form, words) in [
            (0, 0, Form::Inline { len: 0 }, 0),
            (0, 0, Form::Inline { len: 12 }, 2),
            (3, 0, Form::Inline { len: 256 - 3 }, 32),
            (3, 0xabcd, Form::Inline { len: 256 - 5 }, 32),
            (0, 1, Form::Inline { len: 0 }, 1),
            (255, 0, logged, 2),
            (255, 0xabcd, logged, 3),
        ] {
            let content = Content {
                expires_ms: EXPIRES_MS_MAX,
                tag_len,
                flags,
                form,
            };
            let head = content.head();
            assert_eq!(Content::payload_words(head), words);
            let mut payload = [flags.into(), 0, 0];
            if form == logged {
                let words = content.logged_payload(place, VALUE_BYTES_MAX, 77);
                payload = [0; TELLING_WORDS];
                payload
                    .iter_mut()
                    .zip(words)
                    .for_each(|(to, word)| *to = word);
            }
            assert_eq!(Content::decode(head, payload, words), Some(content));
            if words > 0 {
                assert_eq!(Content::decode(head, payload, words - 1), None);
            }
            assert_eq!(Content::is_in_log(head), form == logged);
        }
        assert_eq!(Content::ABSENT.head(), 0);
        assert_eq!(Content::decode(0, [0; 3], 0), Some(Content::ABSENT));
        for bad in [
            3 << 17,
            1 << 17 | 1 << 8,
            2 << 17,
            1 << 19,
            1 << 20,
            1 << 21,
            1,
            1 << 22,
        ] {
            assert_eq!(Content::decode(bad, [0; 3], 0), None);
        }
        let too_long = pack(0, VALUE_BYTES_MAX as u32 + 1);
        let too_long = [place.bits(), too_long, 0];
        assert_eq!(Content::decode(2 << 17, too_long, 2), None);
        // Flagged, and all flags are zero.
        assert_eq!(Content::decode(5 << 17, [0; 3], 1), None);
    }
}
