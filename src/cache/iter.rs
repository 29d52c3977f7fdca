//! All values of a cache, one after another, and what is kept beside each.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::slab::layout::STRIPES;
use crate::store::Store;
use crate::store::expiry::left_until;
use crate::store::slots::by_slot::Whole;
use crate::store::values::get::Values;

/// A value and what is kept beside it.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// The value.
    pub value: Vec<u8>,
    /// How long it will be there; `None`: until it is replaced, deleted or evicted.
    pub expires_in: Option<Duration>,
    /// Its tag.
    pub tag: Option<Vec<u8>>,
}

impl Entry {
    pub(super) fn of(whole: Whole) -> Entry {
        Entry {
            value: whole.value,
            expires_in: left_until(whole.expires_ms),
            tag: (!whole.tag.is_empty()).then_some(whole.tag),
        }
    }
}

/// All values of a cache with their keys, tags and expiries, in no particular order, while others
/// change it. A key that has a value throughout comes exactly once, with the value that it has
/// then; others come once or not at all.
///
/// Holds nothing between two values. Lists the keys of a 64th of a cache at a time.
pub struct Iter {
    stores: std::vec::IntoIter<Arc<Store>>,
    store: Option<Arc<Store>>,
    stripe: u32,
    keys: std::vec::IntoIter<Vec<u8>>,
}

impl Iter {
    pub(super) fn over(stores: Vec<Arc<Store>>) -> Iter {
        Iter {
            stores: stores.into_iter(),
            store: None,
            stripe: 0,
            keys: Vec::new().into_iter(),
        }
    }
}

impl fmt::Debug for Iter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iter").finish_non_exhaustive()
    }
}

impl Iterator for Iter {
    type Item = Result<(Vec<u8>, Entry)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some(store) = &self.store else {
                self.store = Some(self.stores.next()?);
                self.stripe = 0;
                continue;
            };
            for key in self.keys.by_ref() {
                match Values(store).whole_at_hand(&key) {
                    Ok(Some(whole)) => return Some(Ok((key, Entry::of(whole)))),
                    // Gone since it was listed, and a lock perhaps by now.
                    Ok(None) | Err(Error::KindMismatch { .. }) => {}
                    Err(error) => return Some(Err(error)),
                }
            }
            if self.stripe == STRIPES {
                self.store = None;
                continue;
            }
            let keys = Values(store).keys_of_values(self.stripe);
            self.stripe += 1;
            match keys {
                Ok(keys) => self.keys = keys.into_iter(),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

impl IntoIterator for &Cache {
    type Item = Result<(Vec<u8>, Entry)>;
    type IntoIter = Iter;

    fn into_iter(self) -> Iter {
        self.iter()
    }
}
