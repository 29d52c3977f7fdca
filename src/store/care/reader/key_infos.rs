//! Showing which keys there are, and how they stand.

use crate::error::Result;
use crate::slab::Tenant;
use crate::slab::bytes::{KeyPlace, read_bytes};
use crate::store::care::reader::finder::ReadFinder;
use crate::store::care::reader::values::ValueReader;
use crate::store::expiry::left_until;
use crate::store::holds::standing::Onlooker;
use crate::store::in_slab::key_of;
use crate::store::key_entry::KeyEntry;
use crate::store::members::participants::waiters;
use crate::types::{KeyInfo, KeyState};

/// Shows keys, and how they stand.
pub(crate) struct KeyLister<'r, 'h>(pub(super) ValueReader<'r, 'h>);

impl KeyLister<'_, '_> {
    /// How one key stands.
    pub(crate) fn key_info(&mut self, key: &[u8]) -> Result<Option<KeyInfo>> {
        let store = self.0.store;
        store.as_onlooker(|onlooker| {
            while let Some(found) = ReadFinder(store).find(key)? {
                let info = self.info(onlooker, found, key);
                if store.is_still(found) {
                    return info;
                }
            }
            Ok(None)
        })
    }

    /// How all keys stand.
    pub(crate) fn key_infos(&mut self) -> Result<Vec<KeyInfo>> {
        let store = self.0.store;
        let mut infos = Vec::new();
        store.as_onlooker(|onlooker| {
            ReadFinder(store).each(|found| {
                let Some(key) = key_of(&store.slab, found).filter(|_| store.is_still(found)) else {
                    return Ok(());
                };
                let info = self.info(onlooker, found, &key);
                // What did not make sense may be of another key by now.
                if store.is_still(found) {
                    infos.extend(info?);
                }
                Ok(())
            })
        })?;
        Ok(infos)
    }

    /// How many keys there are.
    pub(crate) fn len(&mut self) -> Result<usize> {
        let mut len = 0;
        ReadFinder(self.0.store).each(|found| {
            len += usize::from(self.0.is_listed(found)?);
            Ok(())
        })?;
        Ok(len)
    }

    /// Everything about a key. `None`: it is none of those that are listed.
    fn info(
        &mut self,
        onlooker: Onlooker<'_>,
        found: KeyEntry,
        key: &[u8],
    ) -> Result<Option<KeyInfo>> {
        let store = self.0.store;
        let mut tag = Vec::new();
        if found.kind != Tenant::Value {
            let place = KeyPlace::of(found.kind, found.meta.key_len, found.meta.tag_len);
            let read = read_bytes(&store.slab, found.id, place.tag_at, found.meta.tag_len);
            tag = read.unwrap_or_default();
        }
        let state = match found.kind {
            Tenant::Turn => return Ok(None),
            Tenant::Averager => KeyState::Averager {
                summary: store.summary_in(found, key)?,
            },
            Tenant::Semaphore => {
                let standing = onlooker.standing(found)?;
                KeyState::Semaphore {
                    value: standing.value,
                    available: standing.available,
                    holders: standing.holders,
                }
            }
            Tenant::Value => {
                let Some(content) = self.0.content_with_tag(found, key, &mut tag)? else {
                    return Ok(None);
                };
                KeyState::Value {
                    bytes: content.len(),
                    expires_in: left_until(content.expires_ms),
                }
            }
            Tenant::Lock | Tenant::RLock => KeyState::Lock {
                holder: onlooker.standing(found)?.holders.pop(),
            },
        };
        Ok(Some(KeyInfo {
            key: key.to_vec(),
            kind: found.kind.kind(),
            tag: (!tag.is_empty()).then_some(tag),
            state,
            waiters: waiters(&store.slab, found.id, onlooker.is_dead),
        }))
    }
}
