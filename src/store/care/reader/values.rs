//! Reading values without the lock of their stripe: what was decided counts, and what was moved in
//! the log meanwhile is read again.

use crate::error::{Error, Result};
use crate::record::Damaged;
use crate::slab::Tenant;
use crate::slab::value_cells::{Content, Form, Payload, Reading, tag_hash};
use crate::store::care::reader::ReadStore;
use crate::store::care::reader::decided::DecidedThere;
use crate::store::care::reader::finder::ReadFinder;
use crate::store::expiry::is_over;
use crate::store::in_slab::wanted;
use crate::store::key_entry::KeyEntry;
use crate::store::slots::by_slot::Whole;

/// Reads values, with what was decided.
pub(crate) struct ValueReader<'r, 'h> {
    pub(super) store: &'r ReadStore,
    pub(super) decided: &'r mut DecidedThere<'h>,
}

impl ValueReader<'_, '_> {
    /// The value under a key; `None`: there is none, or it is over, or damaged.
    pub(crate) fn value(&mut self, key: &[u8]) -> Result<Option<Whole>> {
        let mut whole = Whole::default();
        while let Some(found) = ReadFinder(self.store).find_as(key, Tenant::Value)? {
            let Some(read) = self.read(found, &mut whole.value)? else {
                continue;
            };
            let Ok(reading) = read else {
                return Ok(None);
            };
            let content = reading.content;
            if content.is_absent() || is_over(content.expires_ms) {
                return Ok(None);
            }
            whole.expires_ms = content.expires_ms;
            if let Form::Logged { .. } = content.form {
                let Whole { value, tag, .. } = &mut whole;
                if self.read_logged(key, &content, value, Some(tag))? {
                    return Ok(Some(whole));
                }
                if self.is_in_force(found, &reading)? {
                    return Ok(None);
                }
                // It was moved, or replaced.
                continue;
            }
            whole.tag = content.tag_in(&whole.value).to_vec();
            content.keep_value(&mut whole.value);
            return Ok(Some(whole));
        }
        Ok(None)
    }

    /// What the cells of a value say, with what was decided. `None`: it is not there any more.
    pub(super) fn read(
        &mut self,
        found: KeyEntry,
        payload: &mut impl Payload,
    ) -> Result<Option<std::result::Result<Reading, Damaged>>> {
        let after = self.decided.after(self.store.site.lane.into(), found)?;
        let cells = found.cells(&self.store.slab).ok_or(Damaged);
        let read = cells.and_then(|cells| match after {
            Some(version) => cells.read_decided(version, payload),
            None => cells.read(payload),
        });
        Ok(self.store.is_still(found).then_some(read))
    }

    /// Whether what was read is still what the key has.
    pub(super) fn is_in_force(&mut self, found: KeyEntry, reading: &Reading) -> Result<bool> {
        let now = self.read(found, &mut ())?;
        Ok(now.is_some_and(|now| now.is_ok_and(|now| now.version == reading.version)))
    }

    /// The bytes of a value that lies in the log, checked. `false`: they are not there, or not
    /// whole.
    pub(super) fn read_logged(
        &self,
        key: &[u8],
        content: &Content,
        into: &mut Vec<u8>,
        tag: Option<&mut Vec<u8>>,
    ) -> Result<bool> {
        let Some(wanted) = wanted(key, content) else {
            return Ok(false);
        };
        let path = self.store.log.path(wanted.place.segment());
        let read = self.store.log.read(wanted, into, tag);
        read.map_err(|e| Error::io("read", &path, e))
    }

    /// What is said of a value, and its tag. `None`: there is none. One that is damaged is listed,
    /// as of no bytes.
    pub(super) fn content_with_tag(
        &mut self,
        found: KeyEntry,
        key: &[u8],
        tag: &mut Vec<u8>,
    ) -> Result<Option<Content>> {
        let mut payload = Vec::new();
        loop {
            let reading = match self.read(found, &mut payload)? {
                None => return Ok(None),
                Some(Err(Damaged)) => return Ok(Some(Content::ABSENT)),
                Some(Ok(reading)) => reading,
            };
            let content = reading.content;
            if !is_there(&content) {
                return Ok(None);
            }
            *tag = match content.form {
                Form::Logged { tag_hash: of, .. } if content.tag_len > 0 => {
                    let read = wanted(key, &content).map(|wanted| self.store.log.read_tag(wanted));
                    // Where it cannot be read the value is listed without it.
                    let read = read.and_then(|read| read.ok().flatten());
                    let read = read.filter(|tag| tag_hash(tag) == of);
                    if read.is_none() && !self.is_in_force(found, &reading)? {
                        // It was moved, or replaced.
                        continue;
                    }
                    read.unwrap_or_default()
                }
                Form::Logged { .. } => Vec::new(),
                _ => content.tag_in(&payload).to_vec(),
            };
            return Ok(Some(content));
        }
    }

    /// Whether a key is shown in lists of keys.
    pub(super) fn is_listed(&mut self, found: KeyEntry) -> Result<bool> {
        Ok(match found.kind {
            Tenant::Turn => false,
            Tenant::Value => match self.read(found, &mut ())? {
                Some(Ok(reading)) => is_there(&reading.content),
                Some(Err(Damaged)) => true,
                None => false,
            },
            _ => self.store.is_still(found),
        })
    }
}

fn is_there(content: &Content) -> bool {
    !content.is_absent() && !is_over(content.expires_ms)
}
