//! What grows, and which pages that takes.

use crate::slab::layout::{
    BLOCK_STATE_TABLE, BLOCK_TABLE, BUCKET_TABLE, CAPACITY_MAX, Half, PAGE, PARTICIPANT_BYTES,
    PARTICIPANTS, PARTICIPANTS_OFFSET, SLOT_STATE_TABLE, SLOT_TABLE, Section, SectionTable,
};

/// What grows: participants, slots or blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    /// Where they lie; participants, which lie in one piece, in none.
    table: Option<SectionTable>,
    /// What else there is for each of them.
    beside: &'static [SectionTable],
    pub(crate) count: u32,
    /// How many are allocated at a time: a whole number of pages, about 4 to 48 KiB.
    chunk: u32,
}

impl Region {
    pub(super) fn participants() -> Region {
        Region {
            table: None,
            beside: &[],
            count: PARTICIPANTS,
            chunk: 32,
        }
    }

    pub(super) fn slots(count: u32) -> Region {
        Region {
            table: Some(SLOT_TABLE),
            beside: &[BUCKET_TABLE, SLOT_STATE_TABLE],
            count,
            chunk: 256,
        }
    }

    pub(super) fn blocks(count: u32) -> Region {
        Region {
            table: Some(BLOCK_TABLE),
            beside: &[BLOCK_STATE_TABLE],
            count,
            chunk: 32,
        }
    }

    pub(crate) fn stride(&self) -> u64 {
        self.table.map_or(PARTICIPANT_BYTES, |table| table.stride)
    }

    pub(crate) fn offset_of(&self, number: u32) -> u64 {
        match self.table {
            Some(table) => table.offset_of(number),
            None => PARTICIPANTS_OFFSET + u64::from(number) * PARTICIPANT_BYTES,
        }
    }

    /// How long the file is at least if there are so many; 0: none of them is needed.
    pub(crate) fn end_of(&self, count: u32) -> u64 {
        match count.checked_sub(1) {
            None => 0,
            Some(last) => (self.offset_of(last) + self.stride()).next_multiple_of(PAGE),
        }
    }

    /// How many of them are in a file of that length, whole.
    pub(crate) fn inside(&self, len: u64) -> u32 {
        let last = |first, count| first + count - 1;
        let pieces = match self.table {
            Some(_) => Section::below(self.count)
                .map(|section| (section.first, last(section.first, section.count)))
                .collect(),
            None => vec![(0, last(0, self.count))],
        };
        let inside = pieces.into_iter().map(|(first, last)| {
            let from = self.offset_of(first);
            let fit = len.saturating_sub(from) / self.stride();
            fit.min(u64::from(last - first + 1)) as u32
        });
        inside.sum::<u32>().min(self.count)
    }

    /// How many there are once there are more than `have`.
    pub(crate) fn next(&self, have: u32) -> u32 {
        (have + 1)
            .next_multiple_of(self.chunk)
            .clamp(have, self.count)
    }

    /// Offset and length of the pages that have to be allocated for there to be `want` and not only
    /// `have`: first what else there is for each, then they themselves.
    pub(crate) fn pages(&self, have: u32, want: u32) -> Vec<(u64, u64)> {
        let Some(table) = self.table else {
            return pages(PARTICIPANTS_OFFSET, PARTICIPANT_BYTES, have, want);
        };
        let of = |section: Section| {
            let within = |number: u32| number.clamp(section.first, section.first + section.count);
            let (have, want) = (within(have) - section.first, within(want) - section.first);
            // Those of the first slots are allocated when the store is made.
            let beside = match (table.half, section.index) {
                (Half::Slots, 0) => &[],
                _ => self.beside,
            };
            let tables = beside.iter().copied().chain([table]);
            let pages = tables.flat_map(move |table| {
                let from = table.offset_of(section.first);
                pages(from, table.stride, have, want)
            });
            pages.collect::<Vec<_>>()
        };
        Section::below(want).flat_map(of).collect()
    }
}

impl Region {
    /// From where to where its tables go on behind the first `count`, in a file of that length.
    pub(crate) fn behind(&self, count: u32, len: u64) -> Vec<(u64, u64)> {
        let pieces = match self.table {
            None => vec![(PARTICIPANTS_OFFSET, PARTICIPANT_BYTES, 0, self.count)],
            Some(table) => {
                let of = |section: Section| {
                    let tables = self.beside.iter().copied().chain([table]);
                    tables.map(move |table| {
                        let from = table.offset_of(section.first);
                        (from, table.stride, section.first, section.count)
                    })
                };
                Section::below(CAPACITY_MAX).flat_map(of).collect()
            }
        };
        let behind = pieces.into_iter().map(|(from, stride, first, all)| {
            let some = u64::from(count.saturating_sub(first).min(all));
            (
                from + some * stride,
                (from + u64::from(all) * stride).min(len),
            )
        });
        behind.filter(|(from, to)| from < to).collect()
    }
}

/// The pages in which `have` entries of a table have none yet, and `want` of them some.
fn pages(from: u64, stride: u64, have: u32, want: u32) -> Vec<(u64, u64)> {
    let end = |count: u32| (u64::from(count) * stride).next_multiple_of(PAGE);
    match (end(have), end(want)) {
        (have, want) if have < want => vec![(from + have, want - have)],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use crate::slab::Layout;

    /// Page by page, whatever the steps, it comes to what is needed at once; nothing twice.
    #[test]
    fn what_is_allocated_adds_up() {
        let layout = Layout::new(100_000).unwrap();
        for region in [layout.participants, layout.slots, layout.blocks] {
            let (mut have, mut steps) = (0, Vec::new());
            while region.next(have) > have {
                let want = region.next(have);
                let step = region.pages(have, want);
                assert_eq!(
                    region.end_of(want),
                    step.iter().map(|(at, len)| at + len).max().unwrap()
                );
                assert_eq!(region.inside(region.end_of(want)), want);
                steps.extend(step);
                have = want;
            }
            assert_eq!(have, region.count);
            let bytes = |pages: &[(u64, u64)]| pages.iter().map(|(_, len)| len).sum::<u64>();
            assert_eq!(bytes(&steps), bytes(&region.pages(0, region.count)));
            steps.sort_unstable();
            assert!(steps.windows(2).all(|two| two[0].0 + two[0].1 <= two[1].0));
        }
    }
}
