//! When a process was stopped: time for which no other process is blamed.
//!
//! A stopped process may hold, or be in the middle of anything; a waiter for it waits legitimately.
//! So bounds apply to the time in which no process at all was stopped. Nor is a process blamed
//! while the machine stands still, which the torturer notices by being late itself.

/// Spans of time in which at least one process was stopped, apart from one another and ascending.
#[derive(Default)]
pub struct Pauses {
    spans: Vec<(u64, u64)>,
    /// How much of all spans before the one of the same index.
    before: Vec<u64>,
}

impl Pauses {
    pub fn of(mut spans: Vec<(u64, u64)>) -> Pauses {
        spans.sort_unstable();
        let mut pauses = Pauses::default();
        let mut sum = 0;
        for (from, to) in spans {
            match pauses.spans.last_mut() {
                Some(last) if from <= last.1 => {
                    sum += to.saturating_sub(last.1);
                    last.1 = last.1.max(to);
                }
                _ => {
                    pauses.spans.push((from, to));
                    pauses.before.push(sum);
                    sum += to - from;
                }
            }
        }
        pauses
    }

    /// How much of the time from `from` to `to` no process was stopped.
    pub fn free_between(&self, from: u64, to: u64) -> u64 {
        let whole = to.saturating_sub(from);
        whole.saturating_sub(
            self.stopped_until(to)
                .saturating_sub(self.stopped_until(from)),
        )
    }

    fn stopped_until(&self, at: u64) -> u64 {
        match self.spans.partition_point(|span| span.0 <= at) {
            0 => 0,
            next => {
                let (from, to) = self.spans[next - 1];
                self.before[next - 1] + at.min(to) - from
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_stops_count_once() {
        let pauses = Pauses::of(vec![(50, 60), (10, 30), (20, 40), (35, 36)]);
        assert_eq!(pauses.free_between(0, 10), 10);
        assert_eq!(pauses.free_between(0, 100), 60);
        assert_eq!(pauses.free_between(15, 55), 10);
        assert_eq!(pauses.free_between(40, 50), 10);
        assert_eq!(pauses.free_between(30, 20), 0);
    }
}
