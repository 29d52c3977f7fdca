//! Values that are integers: their decimal digits, so that `set` and `get` have them, too.

use std::io;

use crate::error::{Error, Result};
use crate::slab::value_cells::{Content, Form, cell_words};
use crate::store::index::chains::Index;
use crate::store::key_entry::{KeyEntry, check_lengths};
use crate::store::patience::Patience;
use crate::store::space::latch::{Instance, Latched, Latches, Written};
use crate::store::space::set::{New, When, Writer};
use crate::store::values::compute_once::Turns;
use crate::store::values::get::Values;

/// The longest integer has so many.
const DIGITS: usize = 20;
/// Why an integer cannot be counted, and what to do.
const NO_INTEGER: &str = "its value is no integer; set it to one first";
const TOO_LARGE: &str = "the sum would not fit 64 bits; count by less, or set it anew";
/// Enough for them and a short tag.
const PAYLOAD_BYTES: usize = 64;

/// An integer that is made because there is none.
#[derive(Clone, Copy, Default)]
pub(crate) struct FirstNumber<'a> {
    pub(crate) number: i64,
    pub(crate) tag: &'a [u8],
    /// As in [`Content`].
    pub(crate) expires_ms: u64,
}

impl FirstNumber<'_> {
    /// How many words its cells are to have. All cells have room for digits, but not beside a tag.
    fn cell_words(&self) -> usize {
        match self.tag.len() {
            0 => cell_words(0),
            tag_len => cell_words(tag_len + DIGITS),
        }
    }
}

impl<'s> Writer<'s> {
    /// Adds to an integer. Where there is none, one is made, which counts from `start`.
    pub(crate) fn add_to(self, key: &[u8], delta: i128, start: &FirstNumber<'_>) -> Result<i64> {
        check_lengths(key, start.tag)?;
        let hash = Index(self.0).hash(key);
        let mut found = Turns(self.0).void_turn_beside(key, hash);
        let mut payload = Vec::with_capacity(PAYLOAD_BYTES);
        loop {
            let make = Some(start.cell_words());
            let Some(latched) = self.latch_number(found.take(), key, hash, make)? else {
                continue;
            };
            payload.clear();
            let Some(content) = latched.current(&mut payload) else {
                let new = integer_after(key, None, delta, start.number)?;
                let content = Content {
                    expires_ms: start.expires_ms,
                    ..Content::ABSENT
                };
                let known = latched.sync_before_change()?;
                // What was there may be over, and in the log.
                if let Some(written) = write_integer(&latched, content, start.tag, new) {
                    latched.end(written.garbage, known)?;
                    return Ok(new);
                }
                let seen = latched.seen();
                drop(latched);
                if self.put_integer(key, new, start.tag, start.expires_ms, seen)? {
                    return Ok(new);
                }
                continue;
            };
            let tag = content.tag_in(&payload).to_vec();
            let is_short = content.len() <= DIGITS;
            if !is_short
                || self
                    .value_under_latch(key, &latched, &mut payload)?
                    .is_none()
            {
                return Err(no_integer(key, NO_INTEGER));
            }
            let new = integer_after(key, Some(&payload), delta, start.number)?;
            if matches!(content.form, Form::Inline { .. }) {
                let known = latched.sync_before_change()?;
                if let Some(written) = write_integer(&latched, content, &tag, new) {
                    latched.end(written.garbage, known)?;
                    return Ok(new);
                }
            }
            let seen = latched.seen();
            drop(latched);
            // The tag takes the room.
            if let Some(whole) = Values(self.0).whole_value(key)?
                && self.put_integer(key, new, &whole.tag, whole.expires_ms, seen)?
            {
                return Ok(new);
            }
        }
    }

    /// The latch of an integer that was found there, or is looked for again.
    #[inline]
    fn latch_number(
        self,
        found: Option<KeyEntry>,
        key: &[u8],
        hash: u64,
        make: Option<usize>,
    ) -> Result<Option<Latched<'s>>> {
        match found {
            None => Latches(self.0).latch(key, hash, make),
            found => Latches(self.0).latch_found(found, key, hash, make, Patience::Forever),
        }
    }

    /// Sets an integer that does not fit the cells beside its tag. `false`: another
    /// writer was quicker.
    fn put_integer(
        self,
        key: &[u8],
        number: i64,
        tag: &[u8],
        expires_ms: u64,
        seen: Instance,
    ) -> Result<bool> {
        let digits = number.to_string();
        let new = New {
            value: digits.as_bytes(),
            tag,
            expires_ms,
        };
        self.put(key, &new, When::Unchanged(seen))
    }
}

/// The integer that a value is, or `default`, with `delta` added.
pub(crate) fn integer_after(
    key: &[u8],
    old: Option<&[u8]>,
    delta: i128,
    default: i64,
) -> Result<i64> {
    let number = match old {
        None => Some(default),
        Some(bytes) => std::str::from_utf8(bytes).ok().and_then(|s| s.parse().ok()),
    };
    let number = number.ok_or_else(|| no_integer(key, NO_INTEGER))?;
    let sum = i64::try_from(i128::from(number) + delta);
    sum.map_err(|_| no_integer(key, TOO_LARGE))
}

#[cold]
fn no_integer(key: &[u8], why: &'static str) -> Error {
    Error::NotInteger {
        key: key.to_vec(),
        why,
    }
}

/// Writes an integer. `None`: it does not fit beside the tag.
fn write_integer(latched: &Latched<'_>, old: Content, tag: &[u8], new: i64) -> Option<Written> {
    use std::io::Write;
    let mut digits = io::Cursor::new([0; DIGITS]);
    // All of them fit.
    let _ = write!(digits, "{new}");
    let len = digits.position() as usize;
    if !latched.cells.fits(tag.len() + len) {
        return None;
    }
    let content = Content {
        form: Form::Inline { len },
        tag_len: tag.len(),
        ..old
    };
    let garbage = latched.write(content, tag, &digits.get_ref()[..len]);
    match old.is_absent() {
        true => latched.note_stored(),
        false => latched.note_changed(),
    }
    Some(Written { garbage })
}
