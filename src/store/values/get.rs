//! Values: what is under a key, and looking at it. Readers take no latch; `space::set` has what
//! does.

use crate::error::{Error, Result};
use crate::slab::layout::STRIPES;
use crate::slab::value_cells::{Content, Form, ValueCells};
use crate::slab::{Growing, Meta, Slab, Tenant};
use crate::store::Store;
use crate::store::era::Eras;
use crate::store::expiry::is_over;
use crate::store::index::chains::{Index, VALUE_SLOTS};
use crate::store::index::pieces::Pieces;
use crate::store::journal::decided::Journal;
use crate::store::key_entry::{KeyEntry, check_lengths};
use crate::store::log::segments::Segments;
use crate::store::members::recount::Usage;
use crate::store::patience::Patience;
use crate::store::settings::in_slots_of;
use crate::store::slots::by_slot::{Slots, Whole};
use crate::sync::{AtomicU64, Ordering};
use crate::types::Stats;

/// Whether a look at a value is a use, by which it is evicted later.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Uses {
    Counts,
    CountsNot,
}

/// Values by their keys.
#[derive(Clone, Copy)]
pub(crate) struct Values<'s>(pub(crate) &'s Store);

impl<'s> Values<'s> {
    /// The slots of a value, if the key has any.
    #[inline(always)]
    pub(in crate::store) fn find_value(self, key: &[u8], hash: u64) -> Result<Option<KeyEntry>> {
        match Index(self.0).find_unlocked(key, hash, VALUE_SLOTS) {
            Some(found) if found.kind == Tenant::Value => Ok(Some(found)),
            Some(found) => Err(self.not_a_value(key, found.kind)),
            // Field by field, not as it lies in memory: then what is found at once stays in
            // registers.
            None => Ok(self.find_value_slowly(key, hash)?.map(|found| KeyEntry {
                id: found.id,
                meta: Meta {
                    generation: found.meta.generation,
                    kind: found.meta.kind,
                    key_len: found.meta.key_len,
                    tag_len: found.meta.tag_len,
                },
                kind: found.kind,
            })),
        }
    }

    /// The key of a value, looked for under its stripe, where a walk without it found none.
    #[inline(never)]
    fn find_value_slowly(self, key: &[u8], hash: u64) -> Result<Option<KeyEntry>> {
        if Index(self.0).is_miss(key, hash) {
            self.0.check_in_place_seldom()?;
            return Ok(None);
        }
        match Index(self.0).find(key, hash, Patience::Forever)? {
            Some(found) if found.kind != Tenant::Value => Err(self.not_a_value(key, found.kind)),
            found => Ok(found),
        }
    }

    #[cold]
    fn not_a_value(self, key: &[u8], found: Tenant) -> Error {
        Error::KindMismatch {
            key: key.to_vec(),
            found: found.kind(),
            expected: Tenant::Value.kind(),
        }
    }

    /// The value under a key, into `into`, and when it is over, as in [`Content::expires_ms`].
    /// `None`: there is none, or it is over, or damaged.
    #[inline]
    pub(crate) fn get_value(self, key: &[u8], into: &mut Vec<u8>) -> Result<Option<u64>> {
        let got = self.look_up(key, into, None, Uses::Counts)?;
        self.count_look(got.is_some());
        Ok(got)
    }

    /// The value under a key, with its tag and its expiry.
    pub(crate) fn whole_value(self, key: &[u8]) -> Result<Option<Whole>> {
        let whole = self.whole(key, Uses::Counts)?;
        self.count_look(whole.is_some());
        Ok(whole)
    }

    /// The value under a key, with its tag and its expiry, for a list of all: it is neither counted
    /// nor used by that.
    pub(crate) fn whole_at_hand(self, key: &[u8]) -> Result<Option<Whole>> {
        self.whole(key, Uses::CountsNot)
    }

    fn whole(self, key: &[u8], uses: Uses) -> Result<Option<Whole>> {
        let mut whole = Whole::default();
        let got = self.look_up(key, &mut whole.value, Some(&mut whole.tag), uses)?;
        whole.expires_ms = got.unwrap_or(0);
        Ok(got.map(|_| whole))
    }

    /// The value under a key, into `into`, without counting that somebody looked. `false`: there is
    /// none.
    pub(crate) fn value_at_hand(self, key: &[u8], into: &mut Vec<u8>) -> Result<bool> {
        Ok(self.look_up(key, into, None, Uses::Counts)?.is_some())
    }

    /// Whether there is a value, and what is said of it without its bytes.
    pub(crate) fn peek_value(self, key: &[u8]) -> Result<Option<Content>> {
        check_lengths(key, &[])?;
        Journal(self.0).finish_decided()?;
        let hash = Index(self.0).hash(key);
        while let Some(found) = self.find_value(key, hash)? {
            if let Some(read) = Slots(self.0).read_value(found, &mut ()) {
                let content = read.ok().map(|r| r.content);
                return Ok(content.filter(|c| !c.is_absent() && !is_over(c.expires_ms)));
            }
        }
        Ok(None)
    }

    /// The value under a key, with its tag where that is wanted, and when it is over: no more of
    /// what its cells say, for that stays in a register.
    #[inline(always)]
    pub(in crate::store) fn look_up(
        self,
        key: &[u8],
        into: &mut Vec<u8>,
        mut tag: Option<&mut Vec<u8>>,
        uses: Uses,
    ) -> Result<Option<u64>> {
        check_lengths(key, &[])?;
        Journal(self.0).finish_decided()?;
        let hash = Index(self.0).hash(key);
        while let Some(found) = self.find_value(key, hash)? {
            let Some(read) = Slots(self.0).read_value(found, into) else {
                continue;
            };
            let Ok(reading) = read else {
                self.0.count_damaged();
                return Ok(None);
            };
            let content = reading.content;
            if content.is_absent() || is_over(content.expires_ms) {
                return Ok(None);
            }
            match content.form {
                Form::Inline { .. } => {
                    if let Some(tag) = tag.as_deref_mut() {
                        *tag = content.tag_in(into).to_vec();
                    }
                    content.keep_value(into);
                }
                _ if !Slots(self.0).read_in_force(
                    key,
                    found,
                    &reading,
                    into,
                    tag.as_deref_mut(),
                )? =>
                {
                    if Slots(self.0).is_in_force(found, &reading) {
                        self.0.count_damaged();
                        return Ok(None);
                    }
                    // It was moved, or replaced.
                    continue;
                }
                _ => {}
            }
            if uses == Uses::Counts {
                self.note_use(found);
            }
            return Ok(Some(content.expires_ms));
        }
        Ok(None)
    }

    #[inline]
    fn count_look(self, hit: bool) {
        let Some(record) = self.0.me().and_then(|me| self.0.slab.participant(me.get())) else {
            return;
        };
        let counter = if hit { &record.hits } else { &record.misses };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    #[inline]
    pub(in crate::store) fn note_use(self, found: KeyEntry) {
        if let Some(word) = found
            .cells(&self.0.slab)
            .as_ref()
            .and_then(ValueCells::use_word)
        {
            Eras(self.0).note_use(word, || Slots(self.0).is_still(found));
        }
    }
}

/// What a slab says of the values in it, where its log has that much.
pub(in crate::store) fn stats_of(slab: &Slab, usage: Usage) -> Stats {
    let header = slab.header();
    let mut stats = Stats {
        evictions: header.evictions.load(Ordering::Relaxed),
        evictions_for_keys: header.evicted_for_slots.load(Ordering::Relaxed),
        evictions_for_device: header.evicted_for_device.load(Ordering::Relaxed),
        bytes_in_slots: in_slots_of(slab),
        slots_used: (0..STRIPES)
            .map(|stripe| u64::from(slab.stripe(stripe).taken().slots))
            .sum(),
        made_ms: header.made_ms.load(Ordering::Relaxed),
        damaged: header.damaged.load(Ordering::Relaxed),
        unkept: header.unkept.load(Ordering::Relaxed),
        bytes_live: usage.bytes - usage.garbage,
        bytes_garbage: usage.garbage,
        ..Stats::default()
    };
    for number in 0..slab.allocated(Growing::Participants) {
        if let Some(record) = slab.participant(number as u16) {
            let add = |sum: &mut u64, count: &AtomicU64| {
                *sum = sum.saturating_add(count.load(Ordering::Relaxed));
            };
            add(&mut stats.hits, &record.hits);
            add(&mut stats.misses, &record.misses);
        }
    }
    stats
}

/// All of them.
impl<'s> Values<'s> {
    pub(crate) fn stats(self) -> Result<Stats> {
        Ok(stats_of(&self.0.slab, Segments(self.0).usage()?))
    }

    /// The keys of all values of a stripe.
    pub(crate) fn keys_of_values(self, stripe: u32) -> Result<Vec<Vec<u8>>> {
        Journal(self.0).finish_decided()?;
        Pieces(self.0).list_stripe(stripe, |_, found| {
            found.kind == Tenant::Value && !Slots(self.0).is_vacant(found)
        })
    }
}
