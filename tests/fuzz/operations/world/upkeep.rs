//! Keys taken away by force, and repair.

use slablock::{Cache, Error};

use super::World;
use crate::fuzz::input::Input;
use crate::fuzz::operations::Sort;
use crate::fuzz::operations::setting::{key, tag};

impl World {
    pub(super) fn remove(&mut self, seat: usize, input: &mut Input) {
        let key = key(self.sort, input.byte());
        if let Some(here) = self.take_seat(seat) {
            let removed = here.cache.remove(&key).expect("remove");
            assert_eq!(removed, self.model.keys.remove(&key).is_some(), "{key:?}");
        }
    }

    pub(super) fn evict(&mut self, seat: usize, input: &mut Input) {
        let tag = tag(self.sort, input.byte());
        if let Some(here) = self.take_seat(seat) {
            let evicted = here.cache.remove_tagged(&tag).expect("evict");
            let before = self.model.keys.len();
            self.model
                .keys
                .retain(|_, key| tag.is_empty() || key.tag != tag);
            assert_eq!(evicted, before - self.model.keys.len(), "{tag:?}");
        }
    }

    pub(super) fn clear(&mut self, seat: usize, input: &mut Input) {
        // Seldom: what an input has built up is worth something.
        if !input.byte().is_multiple_of(4) {
            return;
        }
        if let Some(here) = self.take_seat(seat) {
            let removed = here.cache.clear().expect("clear");
            assert_eq!(removed, self.model.keys.len());
            self.model.keys.clear();
        }
    }

    /// Only when nobody is in.
    pub(super) fn repair(&mut self) {
        let repaired = Cache::repair(&self.dir);
        if self.seats.iter().flatten().next().is_some() || self.sort == Sort::Few {
            // The few others are alive, too.
            assert!(matches!(repaired, Err(Error::Busy { .. })), "{repaired:?}");
            return;
        }
        let report = repaired.expect("repair");
        let told = (report.keys_kept, report.keys_lost, report.slots_freed);
        assert_eq!(told, (self.model.keys.len(), 0, 0), "{report:?}");
        assert!(report.actions.is_empty(), "{report:?}");
        self.model.sweep();
    }
}
