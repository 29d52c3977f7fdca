//! Averages.

use slablock::{Error, Kind};

use super::{World, agree};
use crate::fuzz::input::Input;
use crate::fuzz::operations::model::Setting;
use crate::fuzz::operations::setting::Handle;

impl World {
    /// Another look at an average, or the end of it.
    pub(super) fn average(&mut self, seat: usize, input: &mut Input) {
        let Some((mut of, handle, met, _)) = self.handle(seat, input) else {
            return;
        };
        let Handle::Averager(average) = handle else {
            of.kind = Kind::Averager;
            return;
        };
        let what = input.byte() % 4;
        if what == 0 {
            return self.add(seat, input, of, Handle::Averager(average), met);
        }
        let found = self.meet(seat, &of, met, false);
        let wall_us = self.model.wall_us;
        let key = self
            .model
            .keys
            .get_mut(&of.key)
            .filter(|_| found == Ok(true));
        let now = key
            .as_ref()
            .map(|key| key.average.at(wall_us))
            .unwrap_or_default();
        match what {
            1 => {
                let mean = agree(average.get(), found.map(drop), &of);
                assert!(
                    mean.is_none_or(|mean| mean == now.mean()),
                    "{of:?}: {mean:?}, {now:?}"
                );
            }
            2 => {
                let summary = agree(average.summary(), found.map(drop), &of);
                let told = summary.map(|s| s.map(|s| (s.count, s.total, s.mean, s.min, s.max)));
                let mean = now.mean();
                let due = mean.map(|mean| (now.count, now.total, mean, now.min, now.max));
                assert!(
                    told.is_none_or(|told| told == due),
                    "{of:?}: {told:?}, {due:?}"
                );
            }
            _ => {
                if let Some(key) = key {
                    key.average = Default::default();
                }
                let mean = agree(average.pop(), found.map(drop), &of);
                assert!(
                    mean.is_none_or(|mean| mean == now.mean()),
                    "{of:?}: {mean:?}, {now:?}"
                );
            }
        }
    }

    pub(super) fn add(
        &mut self,
        seat: usize,
        input: &mut Input,
        of: Setting,
        handle: Handle,
        met: Option<u64>,
    ) {
        let Handle::Averager(average) = handle else {
            return;
        };
        let values = [
            1.0,
            -2.5,
            0.125,
            1e6,
            0.0,
            f64::NAN,
            f64::INFINITY,
            -1048576.0,
        ];
        let value = input.of(&values);
        let result = average.add(value);
        if !value.is_finite() {
            assert!(matches!(result, Err(Error::Invalid { .. })), "{result:?}");
            return;
        }
        let met = self.meet(seat, &of, met, true);
        agree(result, met.map(drop), &of);
        let wall_us = self.model.wall_us;
        if let Some(key) = self.model.keys.get_mut(&of.key).filter(|_| met.is_ok()) {
            key.average = key.average.at(wall_us);
            key.average.add(value);
            key.average.expires_us = of.lease_us.map(|us| wall_us + us);
        }
    }
}
