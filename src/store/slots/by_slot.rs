//! A value, or whatever is in a slot, by its slot: no key is sought.

use crate::error::Result;
use crate::log::Wanted;
use crate::record::Damaged;
use crate::slab::value_cells::{Content, Form, Payload, Reading, tag_hash};
use crate::slab::{SlotId, Tenant};
use crate::store::Store;
use crate::store::expiry::is_over;
use crate::store::in_slab::{is_still, key_of, permits_of, wanted};
use crate::store::journal::decided::Journal;
use crate::store::key_entry::KeyEntry;
use crate::store::log::garbage::Garbage;
use crate::store::log::segments::Segments;

/// Everything about a value.
#[derive(Clone, Debug, Default)]
pub(crate) struct Whole {
    pub(crate) value: Vec<u8>,
    pub(crate) tag: Vec<u8>,
    pub(crate) expires_ms: u64,
}

/// What is in a slot, without seeking a key. Knows nothing of chains.
#[derive(Clone, Copy)]
pub(crate) struct Slots<'s>(pub(crate) &'s Store);

impl<'s> Slots<'s> {
    /// The bytes of a key.
    pub(crate) fn key_of(self, found: KeyEntry) -> Option<Vec<u8>> {
        key_of(&self.0.slab, found)
    }
}

impl<'s> Slots<'s> {
    /// The permits of a semaphore, checked: first block and number.
    pub(crate) fn permits_of(self, id: SlotId) -> Result<(u32, u32)> {
        permits_of(&self.0.slab, id)
    }

    /// The permits of a semaphore that others may be removing: first block and number. `None`: they
    /// did.
    pub(crate) fn permits_while(self, found: KeyEntry) -> Result<Option<(u32, u32)>> {
        let permits = self.permits_of(found.id);
        // What was read, or did not make sense, is of this key only if it is still there.
        match self.is_still(found) {
            true => permits.map(Some),
            false => Ok(None),
        }
    }

    /// Whether the slot is still in the life in which it was found.
    #[inline(always)]
    pub(crate) fn is_still(self, found: KeyEntry) -> bool {
        is_still(&self.0.slab, found)
    }
}

impl<'s> Slots<'s> {
    /// What the cells of a key say, if it is still there. `Err`: they are damaged.
    #[inline]
    pub(crate) fn read_value(
        self,
        found: KeyEntry,
        payload: &mut impl Payload,
    ) -> Option<std::result::Result<Reading, Damaged>> {
        let cells = found.cells(&self.0.slab).ok_or(Damaged);
        let read = cells.and_then(|cells| cells.read(payload));
        // What was read is of this key only if the slot still is.
        self.is_still(found).then_some(read)
    }

    /// What the cells of a key say; `None` also if they are damaged. What was decided and is not
    /// carried out is not in them: to judge by this whether a key may be removed, that is carried
    /// out before (T1).
    pub(crate) fn content_of(self, found: KeyEntry) -> Option<Content> {
        let reading = self.read_value(found, &mut ())?.ok()?;
        Some(reading.content)
    }

    /// The bytes of a value that lies in the log, checked. `false`: they are not there, or not
    /// whole.
    pub(crate) fn read_logged(
        self,
        key: &[u8],
        content: &Content,
        into: &mut Vec<u8>,
        tag: Option<&mut Vec<u8>>,
    ) -> Result<bool> {
        self.read_record(key, content, into, tag, None)
    }

    /// The bytes of a value in the log to which a cell points that was just read. Its sum need not
    /// be looked at each time.
    pub(in crate::store) fn read_in_force(
        self,
        key: &[u8],
        found: KeyEntry,
        reading: &Reading,
        into: &mut Vec<u8>,
        tag: Option<&mut Vec<u8>>,
    ) -> Result<bool> {
        let is_needed = || self.is_in_force(found, reading);
        self.read_record(key, &reading.content, into, tag, Some(&is_needed))
    }

    pub(in crate::store) fn read_record(
        self,
        key: &[u8],
        content: &Content,
        into: &mut Vec<u8>,
        tag: Option<&mut Vec<u8>>,
        trusting: Option<&dyn Fn() -> bool>,
    ) -> Result<bool> {
        let Some(wanted) = wanted(key, content) else {
            return Ok(false);
        };
        let log = &self.0.process()?.log;
        log.read(Wanted { trusting, ..wanted }, into, tag)
            .map_err(Segments(self.0).log_error("read", log, wanted.place.segment()))
    }

    /// Whether what was read is still what the key has.
    pub(crate) fn is_in_force(self, found: KeyEntry, reading: &Reading) -> bool {
        let cells = found.cells(&self.0.slab);
        let same = cells.is_some_and(|cells| cells.version() == reading.version);
        same && self.is_still(found)
    }

    /// Whether a key is a value's and has none, or one that is over, as its cells are now.
    pub(crate) fn is_vacant(self, found: KeyEntry) -> bool {
        if found.kind != Tenant::Value {
            return false;
        }
        let content = self.content_of(found);
        content.is_some_and(|c| c.is_absent() || is_over(c.expires_ms))
    }

    /// Whether a key is shown in lists of keys.
    pub(crate) fn is_listed(self, found: KeyEntry) -> bool {
        found.kind != Tenant::Turn && !self.is_vacant(found)
    }

    /// Whether a key is that of a value that is over.
    pub(crate) fn is_expired(self, found: KeyEntry) -> bool {
        let content = match found.kind {
            Tenant::Value => self.content_of(found),
            _ => None,
        };
        content.is_some_and(|c| !c.is_absent() && is_over(c.expires_ms))
    }

    /// The tag of a value; empty if it has none, or is damaged. An error if it cannot be read.
    pub(crate) fn tag_of_value(self, found: KeyEntry) -> Result<Vec<u8>> {
        let tag = self.tag_if(found, |content| !content.is_absent())?;
        Ok(tag.unwrap_or_default())
    }

    /// Whether a value carries this tag.
    pub(crate) fn value_has_tag(self, found: KeyEntry, tag: &[u8]) -> Result<bool> {
        let may_carry = |content: &Content| {
            let fits = match content.form {
                Form::Absent => false,
                Form::Inline { .. } => true,
                Form::Logged { tag_hash: of, .. } => of == tag_hash(tag),
            };
            fits && content.tag_len == tag.len() && !is_over(content.expires_ms)
        };
        Ok(self.tag_if(found, may_carry)?.as_deref() == Some(tag))
    }

    /// The tag of a value, if what is said of it is `wanted`.
    pub(in crate::store) fn tag_if(
        self,
        found: KeyEntry,
        wanted: impl Fn(&Content) -> bool,
    ) -> Result<Option<Vec<u8>>> {
        let mut payload = Vec::new();
        Journal(self.0).finish_decided()?;
        loop {
            let Some(Ok(reading)) = self.read_value(found, &mut payload) else {
                return Ok(None);
            };
            let content = reading.content;
            if !wanted(&content) {
                return Ok(None);
            }
            let tag = match content.form {
                Form::Logged { .. } if content.tag_len > 0 => self.logged_tag(found, &content)?,
                _ => Some(content.tag_in(&payload).to_vec()),
            };
            // Otherwise it was moved, or replaced, while it was read.
            if tag.is_some() || self.is_in_force(found, &reading) {
                return Ok(tag);
            }
        }
    }

    pub(in crate::store) fn logged_tag(
        self,
        found: KeyEntry,
        content: &Content,
    ) -> Result<Option<Vec<u8>>> {
        let Form::Logged { tag_hash: hash, .. } = content.form else {
            return Ok(None);
        };
        let Some(key) = self.key_of(found) else {
            return Ok(None);
        };
        let Some(wanted) = wanted(&key, content) else {
            return Ok(None);
        };
        let log = &self.0.process()?.log;
        let read = log.read_tag(wanted);
        let tag = read.map_err(Segments(self.0).log_error("read", log, wanted.place.segment()))?;
        Ok(tag.filter(|tag| tag_hash(tag) == hash))
    }

    /// What a key that is to be taken away has in the log, which nobody will need then.
    pub(in crate::store) fn left_by(self, found: KeyEntry) -> Option<Garbage> {
        let content = self
            .content_of(found)
            .filter(|_| found.kind == Tenant::Value)?;
        Garbage::of(&content, found.meta.key_len)
    }
}
