//! What of a record can be given back to the file system while its segment stays.

use crate::log::record::{HEAD_BYTES, Location};

/// So many garbage bytes of a record are worth a system call to give them back at once; fewer stay
/// until its segment is removed.
const PUNCH_BYTES_MIN: u64 = 64 * 1024;
/// A record that long is worth it, wherever it lies.
pub(crate) const LARGE_BYTES: u64 = PUNCH_BYTES_MIN + 2 * PAGE;
/// What is given back is made of these.
pub(crate) const PAGE: u64 = 4096;

/// The whole pages of a record behind its head, if they are worth giving back.
pub(crate) fn interior(place: Location, bytes: u64) -> Option<(u64, u64)> {
    let from = (place.offset() + HEAD_BYTES as u64).next_multiple_of(PAGE);
    let to = (place.offset() + bytes) / PAGE * PAGE;
    (from + PUNCH_BYTES_MIN <= to).then_some((from, to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{RECORD_ALIGN, SEGMENT_HEADER_BYTES};

    /// Wherever it lies. Its head stays, and what is before and behind it.
    #[test]
    fn whole_pages_of_a_record_are_given_back_and_nothing_else() {
        let most = LARGE_BYTES + PAGE;
        for offset in (SEGMENT_HEADER_BYTES..3 * PAGE).step_by(RECORD_ALIGN as usize) {
            for bytes in (PUNCH_BYTES_MIN..most).step_by(7 * RECORD_ALIGN as usize) {
                let (first, end) = (offset + HEAD_BYTES as u64, offset + bytes);
                let whole = (first / PAGE..=end / PAGE).map(|page| page * PAGE);
                let whole: Vec<u64> = whole.filter(|at| (first..=end).contains(at)).collect();
                let all = (whole[0], whole[whole.len() - 1]);
                let is_worth_it = all.1 - all.0 >= PUNCH_BYTES_MIN;
                let given = interior(Location::new(1, offset), bytes);
                assert_eq!(given, is_worth_it.then_some(all), "{bytes} at {offset}");
                assert!(given.is_some() || bytes < LARGE_BYTES);
            }
        }
    }
}
