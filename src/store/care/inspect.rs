//! Showing the holders of each key, and how keys stand. Decides nothing; makers and removers of
//! keys wait for a piece at the most.

use crate::error::{Result, show_key};
use crate::os::clock;
use crate::slab::Tenant;
use crate::slab::value_cells::Content;
use crate::store::care::check::Inspector;
use crate::store::expiry::left_until;
use crate::store::holds::standing::standing;
use crate::store::index::chains::Index;
use crate::store::index::pieces::Pieces;
use crate::store::journal::decided::Journal;
use crate::store::key_entry::KeyEntry;
use crate::store::members::participants::Members;
use crate::store::slots::by_slot::Slots;
use crate::store::values::average;
use crate::types::{KeyInfo, KeyState};

impl<'s> Inspector<'s> {
    /// Everything about a key.
    fn info(self, found: KeyEntry, key: Vec<u8>, tag: Vec<u8>) -> Result<KeyInfo> {
        let process = self.0.process()?;
        let state = match found.kind {
            Tenant::Averager => KeyState::Averager {
                summary: average::read(self.0, found.id, &show_key(&key))?.summary(clock::wall_us),
            },
            Tenant::Semaphore => {
                let standing = standing(self.0, found)?;
                KeyState::Semaphore {
                    value: standing.value,
                    available: standing.available,
                    holders: standing.holders,
                }
            }
            Tenant::Value => {
                let content = Slots(self.0).content_of(found).unwrap_or(Content::ABSENT);
                KeyState::Value {
                    bytes: content.len(),
                    expires_in: left_until(content.expires_ms),
                }
            }
            Tenant::Lock | Tenant::RLock | Tenant::Turn => KeyState::Lock {
                holder: standing(self.0, found)?.holders.pop(),
            },
        };
        Ok(KeyInfo {
            key,
            kind: found.kind.kind(),
            tag: (!tag.is_empty()).then_some(tag),
            state,
            waiters: Members(self.0).waiters(process, found.id),
        })
    }

    /// How one key stands.
    pub(crate) fn key_info(self, key: &[u8]) -> Result<Option<KeyInfo>> {
        let hash = Index(self.0).hash(key);
        let guard = Index(self.0).lock_stripe(Index(self.0).stripe_of(hash))?;
        let found = guard.find(key, hash)?;
        if let Some(found) = found {
            Journal(self.0).finish_decided_of(found)?;
        }
        let Some(found) = found.filter(|found| Slots(self.0).is_listed(*found)) else {
            return Ok(None);
        };
        self.info(found, key.to_vec(), guard.tag_of(found)?)
            .map(Some)
    }

    /// How all keys stand, each as it was at some moment of the call.
    pub(crate) fn key_infos(self) -> Result<Vec<KeyInfo>> {
        let mut infos = Vec::new();
        Pieces(self.0).each_chain(|guard, _, ids| {
            for found in ids.into_iter().filter_map(|id| guard.found(id)) {
                Journal(self.0).finish_decided_of(found)?;
                if !Slots(self.0).is_listed(found) {
                    continue;
                }
                if let Some(key) = Slots(self.0).key_of(found) {
                    infos.push(self.info(found, key, guard.tag_of(found)?)?);
                }
            }
            Ok(())
        })?;
        Ok(infos)
    }

    /// How many keys there are.
    pub(crate) fn len(self) -> Result<usize> {
        let mut len = 0;
        Pieces(self.0).each_chain(|guard, _, ids| {
            for found in ids.into_iter().filter_map(|id| guard.found(id)) {
                Journal(self.0).finish_decided_of(found)?;
                len += usize::from(Slots(self.0).is_listed(found));
            }
            Ok(())
        })?;
        Ok(len)
    }
}
