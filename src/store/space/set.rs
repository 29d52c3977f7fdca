//! Changing values: the writer with the latch of a key writes the idle cell, and flips the
//! selector. A value that does not fit a cell is written to the log before, and the cell says
//! where. A key of which the value was deleted or is over keeps its slots, without a value, until
//! they are needed.

use std::sync::Arc;

use crate::error::Result;
use crate::log::{Location, record_bytes};
use crate::slab::value_cells::{Content, Form, INLINE_BYTES_MAX, cell_words, tag_hash};
use crate::store::Store;
use crate::store::index::chains::{Index, VALUE_SLOTS};
use crate::store::key_entry::{KeyEntry, check_lengths};
use crate::store::log::garbage::{Collector, Garbage};
use crate::store::log::segments::Segments;
use crate::store::log::writing::Placed;
use crate::store::patience::Patience;
use crate::store::slots::by_slot::Slots;
use crate::store::space::keep::Keep;
use crate::store::space::latch::{Instance, Latched, Latches};
use crate::store::space::make_room::Space;
use crate::store::values::compute_once::{Turn, Turns};
use crate::store::values::get::Values;

/// A value that is to be set.
#[derive(Clone, Copy)]
pub(crate) struct New<'a> {
    pub(crate) value: &'a [u8],
    pub(crate) tag: &'a [u8],
    /// As in [`Content`].
    pub(crate) expires_ms: u64,
}

/// When to set a value.
#[derive(Clone, Copy)]
pub(crate) enum When<'a> {
    Always,
    /// If there is none.
    Absent,
    /// If there is one.
    Present,
    /// If it is this one.
    Equal(&'a [u8]),
    /// If nothing at all was changed since this was seen.
    Unchanged(Instance),
    /// If it was computed, and nobody has changed or deleted it since that began.
    Computed(&'a Turn),
}

/// What came of an attempt.
enum Attempt {
    Done(bool),
    /// The value does not fit there, or not any more: it has to go to the log.
    Elsewhere,
}

/// Values that are written.
#[derive(Clone, Copy)]
pub(crate) struct Writer<'s>(pub(crate) &'s Arc<Store>);

impl<'s> Writer<'s> {
    /// Sets a value. `false`: it was not to be, by `when`.
    pub(crate) fn put(self, key: &[u8], new: &New<'_>, when: When<'_>) -> Result<bool> {
        check_lengths(key, new.tag)?;
        Space(self.0).check_length(new.value.len())?;
        let hash = Index(self.0).hash(key);
        let mut found = match when {
            When::Computed(_) => Index(self.0).find_unlocked(key, hash, VALUE_SLOTS),
            _ => Turns(self.0).void_turn_beside(key, hash),
        };
        // Whether it fits the cells of this very key is seen with its latch.
        let mut fits = new.tag.len() + new.value.len() <= INLINE_BYTES_MAX;
        // What is made room for is not to take the one away that has to be there.
        let needs_old = matches!(when, When::Present | When::Equal(_));
        loop {
            if !fits && needs_old {
                return self.put_keeping(key, new, Keep::default(), when);
            }
            let place = match fits {
                true => None,
                false => match self.is_wanted(key, when)? {
                    true => Some(Space(self.0).append_for(key, new, &[])?),
                    false => return Ok(false),
                },
            };
            let at = place.as_ref().map(|there| there.place);
            match self.put_once(key, hash, found, new, at, when)? {
                Attempt::Done(done) => return Ok(done),
                Attempt::Elsewhere => fits = false,
            }
            found = Index(self.0).find_unlocked(key, hash, VALUE_SLOTS);
        }
    }

    /// Sets a value where there is one, by `when`, with what is to be kept of that; with the latch
    /// all the while, so that neither another writer nor the room that is made for the new value
    /// takes the old one away.
    pub(crate) fn put_keeping(
        self,
        key: &[u8],
        new: &New<'_>,
        keep: Keep,
        when: When<'_>,
    ) -> Result<bool> {
        check_lengths(key, new.tag)?;
        Space(self.0).check_length(new.value.len())?;
        let hash = Index(self.0).hash(key);
        loop {
            let found = Turns(self.0).void_turn_beside(key, hash);
            let latched = Latches(self.0).latch_found(found, key, hash, None, Patience::Forever)?;
            if let Some(latched) = latched {
                let (mut value, mut tag) = (Vec::new(), Vec::new());
                if let Some(old) = latched.current(&mut value) {
                    let is_whole = self.read_whole(key, &old, &mut value, &mut tag)?;
                    let is_so = match when {
                        When::Absent => false,
                        When::Equal(old) => is_whole && value == old,
                        _ => true,
                    };
                    let new = keep.applied(*new, old.expires_ms, &tag);
                    return Ok(is_so && self.write_latched(key, &new, latched).map(|()| true)?);
                }
            }
            if matches!(when, When::Present | When::Equal(_)) {
                return Ok(false);
            }
            // Otherwise somebody has just set one.
            if self.put(key, new, When::Absent)? {
                return Ok(true);
            }
            if matches!(when, When::Absent) {
                return Ok(false);
            }
        }
    }

    /// The rest of a value of which a cell was read, with its tag. `false`: it is damaged.
    fn read_whole(
        self,
        key: &[u8],
        content: &Content,
        value: &mut Vec<u8>,
        tag: &mut Vec<u8>,
    ) -> Result<bool> {
        match content.form {
            Form::Inline { .. } => {
                *tag = content.tag_in(value).to_vec();
                content.keep_value(value);
                Ok(true)
            }
            _ => Slots(self.0).read_logged(key, content, value, Some(tag)),
        }
    }

    /// Puts a value in force with the latch, which is kept while room is made for it.
    fn write_latched(self, key: &[u8], new: &New<'_>, latched: Latched<'_>) -> Result<()> {
        let len = new.value.len();
        let fits = latched.cells.fits(new.tag.len() + len);
        let placed = match fits {
            true => None,
            false => Some(self.place_for(key, new, &latched)?),
        };
        let logged = placed.as_ref().map(|there| Form::Logged {
            place: there.place,
            len,
            tag_hash: tag_hash(new.tag),
        });
        let content = Content {
            expires_ms: new.expires_ms,
            tag_len: new.tag.len(),
            flags: 0,
            form: logged.unwrap_or(Form::Inline { len }),
        };
        let known = latched.sync_before_change().inspect_err(|_| {
            placed
                .iter()
                .for_each(|there| self.waste(key, new, there.place));
        })?;
        let garbage = match fits {
            true => latched.write(content, new.tag, new.value),
            false => latched.write(content, &[], &[]),
        };
        latched.note_stored();
        drop(placed);
        latched.end(garbage, known)
    }

    /// Writes a value to the log, where its cell may lead to.
    fn place_for(self, key: &[u8], new: &New<'_>, latched: &Latched<'_>) -> Result<Placed<'s>> {
        loop {
            let placed = Space(self.0).append_for(key, new, &[latched])?;
            if Segments(self.0).may_lead_to(placed.place) {
                return Ok(placed);
            }
            self.waste(key, new, placed.place);
        }
    }

    /// What was written for a value is not needed after all.
    fn waste(self, key: &[u8], new: &New<'_>, place: Location) {
        let bytes = record_bytes(key.len(), new.tag.len(), new.value.len());
        Collector(self.0).punch(Garbage { place, bytes });
    }

    /// Before anything is written to the log: whether it will be wanted, as things stand.
    fn is_wanted(self, key: &[u8], when: When<'_>) -> Result<bool> {
        Ok(match when {
            When::Computed(turn) => turn.may_be_kept(),
            // One that is damaged is none.
            When::Absent => !Values(self.0).value_at_hand(key, &mut Vec::new())?,
            _ => true,
        })
    }

    #[inline]
    fn put_once(
        self,
        key: &[u8],
        hash: u64,
        found: Option<KeyEntry>,
        new: &New<'_>,
        place: Option<Location>,
        when: When<'_>,
    ) -> Result<Attempt> {
        let len = new.value.len();
        let make = cell_words(new.tag.len() + len);
        // `None`: try the inline cells; `Elsewhere` is returned if the value does not fit.
        let wasted = |place: Option<Location>| {
            place.inspect(|place| self.waste(key, new, *place));
        };
        let latched = Latches(self.0).latch_found(found, key, hash, Some(make), Patience::Forever);
        let Some(latched) = latched.inspect_err(|_| wasted(place))? else {
            wasted(place);
            return Ok(Attempt::Elsewhere);
        };
        let is_so = self.is_so(key, when, &latched);
        if !is_so.inspect_err(|_| wasted(place))? {
            wasted(place);
            return Ok(Attempt::Done(false));
        }
        let form = match place {
            None if latched.cells.fits(new.tag.len() + len) => Form::Inline { len },
            Some(place) if Segments(self.0).may_lead_to(place) => Form::Logged {
                place,
                len,
                tag_hash: tag_hash(new.tag),
            },
            _ => {
                // Closed, and may be opened again.
                wasted(place);
                return Ok(Attempt::Elsewhere);
            }
        };
        let content = Content {
            expires_ms: new.expires_ms,
            tag_len: new.tag.len(),
            flags: 0,
            form,
        };
        let (tag, value) = match form {
            Form::Inline { .. } => (new.tag, new.value),
            _ => (&[][..], &[][..]),
        };
        let known = latched
            .sync_before_change()
            .inspect_err(|_| wasted(place))?;
        let garbage = latched.write(content, tag, value);
        latched.note_stored();
        latched.end(garbage, known)?;
        Ok(Attempt::Done(true))
    }

    /// Whether `when` is so, under the latch.
    #[inline]
    fn is_so(self, key: &[u8], when: When<'_>, latched: &Latched<'_>) -> Result<bool> {
        Ok(match when {
            When::Always => true,
            When::Unchanged(seen) => latched.seen() == seen,
            When::Computed(turn) => turn.may_be_kept(),
            When::Absent => match latched.current(&mut ()) {
                Some(content) if content.logged(key.len()).is_some() => {
                    let value = self.value_under_latch(key, latched, &mut Vec::new())?;
                    value.is_none()
                }
                current => current.is_none(),
            },
            When::Present => latched.current(&mut ()).is_some(),
            When::Equal(old) => {
                let mut value = Vec::new();
                latched
                    .current(&mut value)
                    .is_some_and(|content| content.len() == old.len())
                    && self.value_under_latch(key, latched, &mut value)?.is_some()
                    && value == old
            }
        })
    }

    /// The value, where nobody moves it. `None`: there is none, or it is damaged.
    pub(in crate::store) fn value_under_latch(
        self,
        key: &[u8],
        latched: &Latched<'_>,
        value: &mut Vec<u8>,
    ) -> Result<Option<Content>> {
        let Some(content) = latched.current(value) else {
            return Ok(None);
        };
        let whole = match content.form {
            Form::Inline { .. } => {
                content.keep_value(value);
                true
            }
            _ => Slots(self.0).read_logged(key, &content, value, None)?,
        };
        Ok(whole.then_some(content))
    }

    /// Deletes a value, and says what it was. With `read` it is there still after an error: nobody
    /// else has it.
    pub(crate) fn take_value(self, key: &[u8], read: bool) -> Result<Option<Vec<u8>>> {
        check_lengths(key, &[])?;
        let hash = Index(self.0).hash(key);
        let found = Turns(self.0).void_turn_beside(key, hash);
        let latched = Latches(self.0).latch_found(found, key, hash, None, Patience::Forever)?;
        let Some(latched) = latched else {
            return Ok(None);
        };
        let mut payload = Vec::new();
        let current = match read {
            true => latched.current(&mut payload),
            false => latched.current(&mut ()),
        };
        let Some(content) = current else {
            return Ok(None);
        };
        let mut value = Vec::new();
        let whole = !read || self.value_under_latch(key, &latched, &mut value)?.is_some();
        let known = latched.sync_before_change()?;
        let garbage = latched.write(Content::ABSENT, &[], &[]);
        if !whole {
            self.0.count_damaged();
        }
        match known.filter(|_| read && whole) {
            Some(known) => latched.end_deletion(garbage, known, content, &payload)?,
            None => latched.end(garbage, known)?,
        }
        Ok(whole.then_some(value))
    }

    /// Gives a value another expiry. `false`: there is none.
    pub(crate) fn touch_value(self, key: &[u8], expires_ms: u64) -> Result<bool> {
        check_lengths(key, &[])?;
        let Some(latched) = Latches(self.0).latch(key, Index(self.0).hash(key), None)? else {
            return Ok(false);
        };
        let mut payload = Vec::new();
        let Some(old) = latched.current(&mut payload) else {
            return Ok(false);
        };
        let content = Content { expires_ms, ..old };
        let known = latched.sync_before_change()?;
        let garbage = match content.form {
            Form::Inline { .. } => {
                let value = content.value_in(&payload);
                latched.write(content, content.tag_in(&payload), value)
            }
            _ => latched.write(content, &[], &[]),
        };
        Values(self.0).note_use(latched.found);
        latched.end(garbage, known)?;
        Ok(true)
    }
}
