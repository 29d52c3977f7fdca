//! What a cell of a value says: which value, or where it lies, under which tag and until when.
//!
//! ```text
//! head        63        22 21  19 18  17 16       8 7        0
//!            +------------+------+------+----------+----------+
//!            | expires ms |  0   | form |  length  | tag len  |
//!            +------------+------+------+----------+----------+
//! ```
//!
//! Form 0: no value. Form 1: `length` bytes of value, which follow on the tag in the payload. Form
//! 2: the value lies in the log; the payload is its place, and `hash of its tag << 32 | its
//! length`.

use crate::log::{Location, record_bytes};
use crate::slab::hash::hash;
use crate::slab::unpack;

/// The longest value.
pub(crate) const VALUE_BYTES_MAX: usize = 1 << 30;
/// The last moment that an expiry can name, in the year 2109.
pub(crate) const EXPIRES_MS_MAX: u64 = (1 << 42) - 1;

const FORM_INLINE: u64 = 1;
pub(crate) const FORM_LOGGED: u64 = 2;

/// A short number for a tag, to pass most values over that carry another.
pub(crate) fn tag_hash(tag: &[u8]) -> u32 {
    hash([0, 0], tag) as u32
}

pub(crate) const LOGGED_WORDS: usize = 2;

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
        form: Form::Absent,
    };

    pub(crate) fn head(self) -> u64 {
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

    /// `payload` is its first two words, `words` how many there are. `None`: no cell has such a
    /// head.
    #[inline]
    pub(crate) fn decode(head: u64, payload: [u64; LOGGED_WORDS], words: usize) -> Option<Content> {
        let (tag_len, len) = ((head & 0xff) as usize, (head >> 8 & 0x1ff) as usize);
        let form = match head >> 17 & 0x1f {
            0 if head == 0 => Form::Absent,
            FORM_INLINE if tag_len + len <= 8 * words => Form::Inline { len },
            FORM_LOGGED if len == 0 && words == LOGGED_WORDS => {
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
        Some(Content {
            expires_ms: head >> 22,
            tag_len,
            form,
        })
    }

    /// How many words of payload a head announces; of a head that makes no sense, as many as there
    /// are.
    #[inline]
    pub(crate) fn payload_words(head: u64) -> usize {
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

impl Content {
    /// The tag in the payload of a value that lies in the slots.
    pub(crate) fn tag_in<'a>(&self, payload: &'a [u8]) -> &'a [u8] {
        payload.get(..self.tag_len).unwrap_or_default()
    }

    /// Leaves of such a payload the value.
    #[inline]
    pub(crate) fn keep_value(&self, payload: &mut Vec<u8>) {
        if self.tag_len > 0 {
            payload.drain(..self.tag_len.min(payload.len()));
        }
        payload.truncate(self.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slab::pack;

    #[test]
    fn contents_come_back_and_nonsense_does_not() {
        let place = Location::from_bits(7 << 32 | 9).unwrap();
        let logged = Form::Logged {
            place,
            len: VALUE_BYTES_MAX,
            tag_hash: 77,
        };
        for (tag_len, form, words) in [
            (0, Form::Inline { len: 0 }, 0),
            (0, Form::Inline { len: 12 }, 2),
            (3, Form::Inline { len: 256 - 3 }, 32),
            (255, logged, LOGGED_WORDS),
        ] {
            let content = Content {
                expires_ms: EXPIRES_MS_MAX,
                tag_len,
                form,
            };
            let head = content.head();
            assert_eq!(Content::payload_words(head), words);
            let payload = [place.bits(), pack(77, VALUE_BYTES_MAX as u32)];
            assert_eq!(Content::decode(head, payload, words), Some(content));
            if words > 0 {
                assert_eq!(Content::decode(head, payload, words - 1), None);
            }
        }
        assert_eq!(Content::ABSENT.head(), 0);
        assert_eq!(Content::decode(0, [0; 2], 0), Some(Content::ABSENT));
        for bad in [3 << 17, 1 << 17 | 1 << 8, 2 << 17, 1 << 20, 1, 1 << 22] {
            assert_eq!(Content::decode(bad, [0; 2], 0), None);
        }
        let too_long = pack(0, VALUE_BYTES_MAX as u32 + 1);
        assert_eq!(Content::decode(2 << 17, [place.bits(), too_long], 2), None);
    }
}
