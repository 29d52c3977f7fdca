//! The meta word of a slot: which life it is in, and what it is in that life.
//!
//! ```text
//!  63     55 54      47 46       36 35    32 31                        0
//! +---------+----------+-----------+--------+---------------------------+
//! |    0    | tag len  |  key len  |  kind  |        generation         |
//! +---------+----------+-----------+--------+---------------------------+
//! ```
//!
//! The generation grows by one when a key is taken away, in the same store that makes the kind
//! "none": a handle that remembers a slot compares generation and kind, and is sent to look again.

use crate::types::Kind;

/// The most bytes a key has.
pub(crate) const KEY_BYTES_MAX: usize = 1024;
/// The most bytes a tag has.
pub(crate) const TAG_BYTES_MAX: usize = 255;

/// What is in a slot: a key of some kind, or the turn to compute a value, which is shown to no
/// caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Tenant {
    Lock,
    RLock,
    Semaphore,
    Averager,
    Value,
    /// In a namespace of its own beside the values.
    Turn,
}

impl Tenant {
    /// Whether its hold has no lease (L5), and no caller asks since when it is held: a latch, which
    /// is held for the moment of a change only, or a turn.
    #[inline(always)]
    pub(crate) fn is_latched(self) -> bool {
        matches!(self, Tenant::Averager | Tenant::Value | Tenant::Turn)
    }

    /// The kind that callers are told. A turn is found as a key by damage only.
    pub(crate) fn kind(self) -> Kind {
        match self {
            Tenant::Lock => Kind::Lock,
            Tenant::RLock => Kind::RLock,
            Tenant::Semaphore => Kind::Semaphore,
            Tenant::Averager => Kind::Averager,
            Tenant::Value | Tenant::Turn => Kind::Value,
        }
    }
}

/// A decoded meta word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) generation: u32,
    /// `None`: no key is here.
    pub(crate) kind: Option<Tenant>,
    pub(crate) key_len: usize,
    pub(crate) tag_len: usize,
}

impl Meta {
    /// `None`: no slot of this format has such a word.
    #[inline]
    pub(crate) fn decode(bits: u64) -> Option<Meta> {
        let kind = match bits >> 32 & 0xf {
            0 => None,
            1 => Some(Tenant::Lock),
            2 => Some(Tenant::RLock),
            3 => Some(Tenant::Semaphore),
            4 => Some(Tenant::Averager),
            5 => Some(Tenant::Value),
            6 => Some(Tenant::Turn),
            _ => return None,
        };
        let meta = Meta {
            generation: bits as u32,
            kind,
            key_len: (bits >> 36 & 0x7ff) as usize,
            tag_len: (bits >> 47 & 0xff) as usize,
        };
        let in_range = match kind {
            None => meta.key_len == 0 && meta.tag_len == 0,
            Some(_) => (1..=KEY_BYTES_MAX).contains(&meta.key_len),
        };
        (in_range && bits >> 55 == 0).then_some(meta)
    }

    pub(crate) fn encode(self) -> u64 {
        u64::from(self.generation)
            | kind_bits(self.kind) << 32
            | (self.key_len as u64) << 36
            | (self.tag_len as u64) << 47
    }

    /// The life of that generation and kind.
    #[inline]
    pub(crate) fn life_of(generation: u32, kind: Tenant) -> u64 {
        u64::from(generation) | kind_bits(Some(kind)) << 32
    }
}

#[inline]
fn kind_bits(kind: Option<Tenant>) -> u64 {
    match kind {
        None => 0,
        Some(Tenant::Lock) => 1,
        Some(Tenant::RLock) => 2,
        Some(Tenant::Semaphore) => 3,
        Some(Tenant::Averager) => 4,
        Some(Tenant::Value) => 5,
        Some(Tenant::Turn) => 6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::life;
    use crate::sync::{AtomicU64, Ordering};

    #[test]
    fn metas_come_back_and_nonsense_does_not() {
        let meta = Meta {
            generation: u32::MAX,
            kind: Some(Tenant::Averager),
            key_len: KEY_BYTES_MAX,
            tag_len: TAG_BYTES_MAX,
        };
        assert_eq!(Meta::decode(meta.encode()), Some(meta));
        let word = AtomicU64::new(meta.encode());
        assert!(life::is_current(
            &word,
            Meta::life_of(u32::MAX, Tenant::Averager)
        ));
        life::end(&word);
        let retired = Meta::decode(word.load(Ordering::Relaxed)).unwrap();
        assert!(life::is_over(&word) && retired.kind.is_none());
        assert_eq!(retired.generation, 0);
        for bad in [
            7 << 32 | 1 << 36,
            1 << 32,
            1 << 32 | 1025 << 36,
            1 << 36,
            meta.encode() | 1 << 55,
        ] {
            assert_eq!(Meta::decode(bad), None);
        }
    }
}
