//! Writing a value to the log, where room has to be made for it first.

use crate::error::{Error, Result};
use crate::log::{LOG, record_bytes};
use crate::slab::value_cells::INLINE_BYTES_MAX;
use crate::store::log::segments::Segments;
use crate::store::log::writing::Placed;
use crate::store::members::config::InForce;
use crate::store::members::device::OnDevice;
use crate::store::space::full_device::FullDevice;
use crate::store::space::make_room::Space;
use crate::store::space::precedence::Precedence;
use crate::store::space::set::New;
use crate::store::space::wait::Wait;
use crate::store::space::walk::Mine;

/// How often others may be quicker to take the room that there was.
const ATTEMPTS: u32 = 20;
/// How often to ask for precedence: what was written may have been compacted away by then.
const TURNS: u32 = 3;

impl<'s> Space<'s> {
    /// Refuses a value that is longer than any may be. Comes before anything is evicted for it.
    #[inline]
    pub(in crate::store) fn check_length(self, len: usize) -> Result<()> {
        match len > INLINE_BYTES_MAX && len as u64 > InForce(self.0).value_limit() {
            false => Ok(()),
            true => Err(Error::ValueLength {
                len,
                limit: InForce(self.0).value_limit(),
            }),
        }
    }

    /// Whether a value needs a segment of its own, for which there is no room as things stand.
    fn is_in_need(self, bytes: u64) -> Result<bool> {
        if !Segments(self.0).is_alone(bytes) {
            return Ok(false);
        }
        let (usage, segments) = Segments(self.0).usage_and_segments()?;
        Ok(usage.bytes + bytes > self.limit_of(segments))
    }

    /// Writes a value to the log, and waits for the device if it is to survive a power failure.
    pub(crate) fn append_for(
        self,
        key: &[u8],
        new: &New<'_>,
        mine: &Mine<'_>,
    ) -> Result<Placed<'s>> {
        let bytes = record_bytes(key.len(), new.tag.len(), new.value.len());
        // Before anything is evicted for it.
        OnDevice(self.0).known_if_durable()?;
        // For all turns together.
        let patience = Wait::for_large();
        let mut precedence = match self.is_in_need(bytes)? {
            true => Precedence::take(self.0, bytes, patience)?,
            false => None,
        };
        let mut turns = u32::from(precedence.is_some());
        let (wait, mut was_full) = (Wait::begin(), false);
        for _ in 0..ATTEMPTS {
            let room = self.make_room_as(bytes, precedence.as_ref(), &wait, mine);
            // The room is counted as taken then, and is not to be left free once more.
            let mut is_ours = || drop(precedence.take());
            let mut append = |room| {
                let (tag, value) = (new.tag, new.value);
                Segments(self.0).append_durably(key, tag, value, room, &mut is_ours)
            };
            match room.and_then(&mut append) {
                Ok(Some(placed)) => return Ok(placed),
                // Others were quicker.
                Ok(None) | Err(Error::OverLimit { .. })
                    if precedence.is_none()
                        && turns < TURNS
                        && Segments(self.0).is_alone(bytes) =>
                {
                    turns += 1;
                    precedence = Precedence::take(self.0, bytes, patience)?;
                }
                Ok(None) => {}
                // It may have been for a moment. A quota shows only in this.
                Err(Error::NoSpace { .. }) if !was_full && FullDevice(self.0).has(bytes) => {
                    was_full = true;
                }
                Err(full @ Error::NoSpace { .. }) => {
                    if !FullDevice(self.0).make_room(bytes, &wait, mine)? {
                        return Err(full);
                    }
                }
                Err(Error::OverLimit { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        if InForce(self.0).is_device_short() {
            return Err(Error::NoSpace {
                action: "write to",
                path: self.0.dir().join(LOG),
            });
        }
        Err(Segments(self.0).over_limit())
    }
}
