//! In which order values were stored and used, for eviction: by eras, and not by a clock, which may
//! be set.
//!
//! A slab counts its eras. A value is stamped with the era in which it was stored or used last, and
//! with how often it was used. An era begins when this process sees the coarse clock in another
//! tick than before: what the clock says does not matter. Under policies that count uses one
//! begins, too, when a value is evicted, and is nearer to what this value was worth: what is stored
//! or used from then on is worth more than all that went, however often that was used, and what is
//! never used again is outlived in the end. (Dynamic aging; Cherkasova, "Improving WWW proxies
//! performance with greedy-dual-size-frequency caching policy", HP Laboratories, 1998.)
//!
//! Two that stamp a value at once may lose a use of it. Killed in between, nothing is amiss.

use crate::os::clock;
use crate::slab::Slab;
use crate::store::Store;
use crate::store::settings::{Eviction, eviction_of};
use crate::sync::{AtomicU64, Ordering};

/// The word `use` of a value.
///
/// ```text
///  63     52 51                                  0
/// +---------+-------------------------------------+
/// |  count  |                 era                 |
/// +---------+-------------------------------------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Use {
    /// How often it was stored anew or used, up to what fits.
    count: u64,
    era: u64,
}

const ERA_BITS: u32 = 52;
const ERA_MAX: u64 = (1 << ERA_BITS) - 1;
const COUNT_MAX: u64 = u64::MAX >> ERA_BITS;
/// Uses beyond these are not counted where size counts, too: more would not raise the share of
/// hits, and what everybody reads need not be written each time.
const COUNT_MAX_BY_SIZE: u64 = 15;
/// What a use is worth, in eras: some eighteen hours of ticks.
const USE: u64 = 1 << 24;
/// And of a byte, where size counts: of a value of 500 bytes a use is worth some two hours.
const USE_OF_A_BYTE: u64 = 1 << 30;
/// How far the era comes nearer to what a value was worth that is evicted: one part in so many.
const NEARER: u64 = 8;
/// After a power failure the device may have stamps that are so much younger than the count of
/// eras. What is younger still is damage.
const LAG_MAX: u64 = 1 << 40;

impl Use {
    fn of(bits: u64) -> Use {
        Use {
            count: bits >> ERA_BITS,
            era: bits & ERA_MAX,
        }
    }

    fn bits(self) -> u64 {
        self.count << ERA_BITS | self.era
    }

    fn once_more(self, eviction: Eviction, now: u64) -> Use {
        let most = match eviction {
            Eviction::LeastFrequentlyUsed => COUNT_MAX,
            Eviction::GreedyDual => COUNT_MAX_BY_SIZE,
            _ => self.count,
        };
        let count = match self.count < most {
            true => self.count + 1,
            false => self.count,
        };
        Use { count, era: now }
    }
}

/// What a process remembers of the eras of a store.
#[derive(Default)]
pub(in crate::store) struct Ticks {
    /// The coarse clock when it last looked.
    seen: AtomicU64,
}

/// The eras of a store.
#[derive(Clone, Copy)]
pub(in crate::store) struct Eras<'s>(pub(in crate::store) &'s Store);

impl Eras<'_> {
    /// Notes that a value was read, where the policy goes by that, if it `is_still` there after a
    /// look at its word. A reader has no latch: stopped here, it comes when the word is another
    /// key's, and changes nothing.
    #[inline]
    pub(in crate::store) fn note_use(self, word: &AtomicU64, is_still: impl FnOnce() -> bool) {
        let eviction = eviction_of(&self.0.slab);
        if matches!(eviction, Eviction::None | Eviction::LeastRecentlyStored) {
            return;
        }
        let seen = word.load(Ordering::Acquire);
        let next = Use::of(seen).once_more(eviction, self.now()).bits();
        if next != seen && is_still() {
            let _ = word.compare_exchange(seen, next, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Notes that a value was changed to another by what it was: it counts as stored and as used.
    /// Only for the holder of the latch.
    #[inline]
    pub(in crate::store) fn note_change(self, word: &AtomicU64) {
        let eviction = eviction_of(&self.0.slab);
        let seen = word.load(Ordering::Relaxed);
        let next = Use::of(seen).once_more(eviction, self.now()).bits();
        if next != seen {
            word.store(next, Ordering::Relaxed);
        }
    }

    /// Notes that a value was stored. What was counted for the key before stays counted. Only for
    /// the holder of the latch.
    #[inline]
    pub(in crate::store) fn note_stored(self, word: &AtomicU64) {
        let before = Use::of(word.load(Ordering::Relaxed));
        let stored = Use {
            count: before.count.max(1),
            era: self.now(),
        };
        word.store(stored.bits(), Ordering::Relaxed);
    }

    #[inline]
    fn now(self) -> u64 {
        let tick = clock::coarse_ns();
        if self.0.ticks.seen.load(Ordering::Relaxed) != tick {
            self.0.ticks.seen.store(tick, Ordering::Relaxed);
            self.begin_next();
        }
        era_of(&self.0.slab)
    }

    #[cold]
    fn begin_next(self) {
        let era = &self.0.slab.header().era;
        let seen = era.load(Ordering::Relaxed);
        let now = seen & ERA_MAX;
        if now < ERA_MAX {
            // Otherwise another process has begun one meanwhile.
            let _ = era.compare_exchange(seen, now + 1, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// What a value is worth that takes so many bytes: those that are worth least go first.
    pub(in crate::store) fn worth(self, word: &AtomicU64, eviction: Eviction, bytes: u64) -> u64 {
        let Use { count, era } = Use::of(word.load(Ordering::Relaxed));
        // One that has not come yet is damage.
        let era = if era > era_of(&self.0.slab) { 0 } else { era };
        match eviction {
            Eviction::LeastFrequentlyUsed => era + count * USE,
            Eviction::GreedyDual => {
                era + (count.clamp(1, COUNT_MAX_BY_SIZE) * USE_OF_A_BYTE / bytes.max(1)).max(1)
            }
            _ => era,
        }
    }

    /// Notes what a value was worth that was evicted.
    pub(in crate::store) fn note_evicted(self, worth: u64) {
        let counts = matches!(
            eviction_of(&self.0.slab),
            Eviction::LeastFrequentlyUsed | Eviction::GreedyDual
        );
        let now = era_of(&self.0.slab);
        if counts && worth > now {
            // Not all the way: of a part of the values the least worthy may be worth much.
            let next = now + (worth - now).div_ceil(NEARER);
            let era = &self.0.slab.header().era;
            era.fetch_max(next.min(ERA_MAX), Ordering::Relaxed);
        }
    }
}

#[inline]
fn era_of(slab: &Slab) -> u64 {
    slab.header().era.load(Ordering::Relaxed) & ERA_MAX
}

/// After a power failure, alone with a slab: no stamp is younger than the era, and the era is not
/// far above all stamps, but by damage.
pub(in crate::store) fn restore<'s>(slab: &'s Slab, words: impl Iterator<Item = &'s AtomicU64>) {
    let now = era_of(slab);
    let stamps = words.map(|word| Use::of(word.load(Ordering::Relaxed)).era);
    let latest = stamps.filter(|era| *era <= now + LAG_MAX).max();
    let latest = latest.unwrap_or(0);
    let era = match now > latest + LAG_MAX {
        true => latest,
        false => latest.max(now).min(ERA_MAX),
    };
    slab.header().era.store(era, Ordering::Relaxed);
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn uses_are_counted_up_to_what_fits_and_come_back() {
        let mut often = Use { count: 1, era: 7 };
        for _ in 0..5_000 {
            often = often.once_more(Eviction::LeastFrequentlyUsed, ERA_MAX);
        }
        assert_eq!((often.count, often.era), (COUNT_MAX, ERA_MAX));
        assert_eq!(Use::of(often.bits()), often);
        let by_size = often.once_more(Eviction::GreedyDual, 9);
        assert_eq!((by_size.count, by_size.era), (COUNT_MAX, 9));
        let once = Use { count: 1, era: 7 };
        assert_eq!(once.once_more(Eviction::GreedyDual, 8).count, 2);
        assert_eq!(once.once_more(Eviction::LeastRecentlyUsed, 8).count, 1);
    }

    /// It was stopped for so long that its word was another key's.
    #[test]
    fn a_reader_that_comes_late_writes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let cache = crate::Cache::open(dir.path()).unwrap();
        let word = AtomicU64::new(7);
        Eras(&cache.store).note_use(&word, || false);
        assert_eq!(word.load(Ordering::Relaxed), 7);
        let becomes_anothers = || {
            word.store(u64::from_le_bytes(*b"a key of"), Ordering::Relaxed);
            true
        };
        Eras(&cache.store).note_use(&word, becomes_anothers);
        assert_eq!(word.load(Ordering::Relaxed).to_le_bytes(), *b"a key of");
        Eras(&cache.store).note_use(&word, || true);
        assert_ne!(word.load(Ordering::Relaxed).to_le_bytes(), *b"a key of");
    }

    #[test]
    fn the_era_is_no_older_than_what_the_device_has_and_damage_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let cache = crate::Cache::open(dir.path()).unwrap();
        let slab = cache.store.slab();
        slab.header().era.store(100, Ordering::Relaxed);
        let words = [50, 130, 100 + LAG_MAX + 1, u64::MAX].map(AtomicU64::new);
        restore(slab, words.iter());
        assert_eq!(era_of(slab), 130);
        restore(slab, words[..1].iter());
        assert_eq!(era_of(slab), 130);
        slab.header().era.store(u64::MAX, Ordering::Relaxed);
        restore(slab, words[..2].iter());
        assert_eq!(era_of(slab), 130);
    }
}
