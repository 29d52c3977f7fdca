//! Showing the holders of each key, and how keys stand. Decides nothing; makers and removers of
//! keys wait for a piece at the most.

use crate::error::{Result, show_key};
use crate::os::clock;
use crate::slab::Tenant;
use crate::slab::value_cells::Content;
use crate::store::Store;
use crate::store::expiry::left_until;
use crate::store::key_entry::KeyEntry;
use crate::store::values::average;
use crate::types::{KeyInfo, KeyState};

impl Store {
    /// Everything about a key.
    fn info(&self, found: KeyEntry, key: Vec<u8>, tag: Vec<u8>) -> Result<KeyInfo> {
        let process = self.process()?;
        let state = match found.kind {
            Tenant::Averager => KeyState::Averager {
                summary: average::read(self, found.id, &show_key(&key))?.summary(clock::wall_us),
            },
            Tenant::Semaphore => {
                let standing = self.standing(found)?;
                KeyState::Semaphore {
                    value: standing.value,
                    available: standing.available,
                    holders: standing.holders,
                }
            }
            Tenant::Value => {
                let content = self.content_of(found).unwrap_or(Content::ABSENT);
                KeyState::Value {
                    bytes: content.len(),
                    expires_in: left_until(content.expires_ms),
                }
            }
            Tenant::Lock | Tenant::RLock | Tenant::Turn => KeyState::Lock {
                holder: self.standing(found)?.holders.pop(),
            },
        };
        Ok(KeyInfo {
            key,
            kind: found.kind.kind(),
            tag: (!tag.is_empty()).then_some(tag),
            state,
            waiters: self.waiters(process, found.id),
        })
    }

    /// How one key stands.
    pub(crate) fn key_info(&self, key: &[u8]) -> Result<Option<KeyInfo>> {
        let hash = self.hash(key);
        let guard = self.lock_stripe(self.stripe_of(hash))?;
        let found = guard.find(key, hash)?;
        let Some(found) = found.filter(|found| self.is_listed(*found)) else {
            return Ok(None);
        };
        self.info(found, key.to_vec(), guard.tag_of(found)?)
            .map(Some)
    }

    /// How all keys stand, each as it was at some moment of the call.
    pub(crate) fn key_infos(&self) -> Result<Vec<KeyInfo>> {
        let mut infos = Vec::new();
        self.each_chain(|guard, _, ids| {
            let found = ids.into_iter().filter_map(|id| guard.found(id));
            for found in found.filter(|found| self.is_listed(*found)) {
                if let Some(key) = self.key_of(found) {
                    infos.push(self.info(found, key, guard.tag_of(found)?)?);
                }
            }
            Ok(())
        })?;
        Ok(infos)
    }

    /// How many keys there are.
    pub(crate) fn len(&self) -> Result<usize> {
        let mut len = 0;
        self.each_chain(|guard, _, ids| {
            let found = ids.into_iter().filter_map(|id| guard.found(id));
            len += found.filter(|found| self.is_listed(*found)).count();
            Ok(())
        })?;
        Ok(len)
    }
}
