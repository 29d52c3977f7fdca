//! Whether stripes count rightly what their keys take.

use crate::slab::layout::STRIPES;
use crate::slab::{Slab, Tally};
use crate::store::index::stripe::StripeGuard;

/// What was seen of each stripe, once it was looked at.
pub(super) struct Tallies(Vec<Option<OfStripe>>);

#[derive(Clone, Copy)]
struct OfStripe {
    /// At first.
    changes: (Tally, u64),
    /// What its keys take, as far as they were seen.
    seen: Tally,
}

impl Tallies {
    pub(super) fn new() -> Tallies {
        Tallies(vec![None; STRIPES as usize])
    }

    /// A stripe is looked at, for the first time or once more. What is wrong with it by itself.
    pub(super) fn begin(&mut self, guard: &StripeGuard<'_>) -> Option<String> {
        let of_stripe = &mut self.0[guard.number as usize];
        if of_stripe.is_some() {
            return None;
        }
        *of_stripe = Some(OfStripe {
            changes: guard.stripe().changes(),
            seen: Tally::default(),
        });
        let what = || {
            format!(
                "stripe {} says that it has more buckets than there are",
                guard.number
            )
        };
        guard.has_too_many_rows().then(what)
    }

    /// A key was seen.
    pub(super) fn add(&mut self, guard: &StripeGuard<'_>, key: Tally) {
        if let Some(of_stripe) = &mut self.0[guard.number as usize] {
            of_stripe.seen = of_stripe.seen.and(key);
        }
    }

    /// Where stripes say something else than what was seen, of those in which no key was made or
    /// taken away since.
    pub(super) fn compare(&self, slab: &Slab) -> Vec<String> {
        let all = (0..).zip(&self.0);
        let differing = all.filter_map(|(number, of_stripe)| {
            let unchanged = |of: &OfStripe| slab.stripe(number).changes() == of.changes;
            let of_stripe = of_stripe.filter(unchanged)?;
            let (said, seen) = (of_stripe.changes.0, of_stripe.seen);
            (said != seen).then(|| {
                format!(
                    "stripe {number} says that its keys take {} slots, {} of them for values, and they take {} and {}",
                    said.slots, said.of_values, seen.slots, seen.of_values
                )
            })
        });
        differing.collect()
    }
}
