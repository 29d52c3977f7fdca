//! Values: what was seen was announced before, and counters have what was counted.

use std::collections::HashSet;

use super::Violation;
use crate::torture::journal::{Event, Line};
use crate::torture::site::{COUNTERS, VALUES};

/// What is known of values when a round begins.
#[derive(Clone, Debug, Default)]
pub struct CarriedValues {
    /// Which numbers were announced under which names, ever.
    announced: HashSet<(u64, u64)>,
    counts: [u64; COUNTERS.len()],
}

impl CarriedValues {
    /// Judges the values of a round. `ends`: the counters, when no worker was left.
    pub fn judge(
        &mut self,
        lines: &[Line],
        ends: [u64; COUNTERS.len()],
        violations: &mut Vec<Violation>,
    ) {
        self.judge_reads(lines, violations);
        for (counter, end) in ends.into_iter().enumerate() {
            let (sure, most) = counted(lines, counter as u64);
            let before = self.counts[counter];
            let range = before + sure..=before + most;
            if !range.contains(&end) {
                let what = format!("counter {counter} is {end} at the end, and not in {range:?}");
                violations.push(about(what, Vec::new()));
            }
            self.counts[counter] = end;
        }
    }

    /// Judges what was read, in the order of the journal: each worker announces a value before it
    /// sets it.
    fn judge_reads(&mut self, lines: &[Line], violations: &mut Vec<Violation>) {
        for line in lines {
            match line.event {
                Event::Announce { value, number } => {
                    self.announced.insert((value, number));
                }
                Event::Saw { value, number } if !self.announced.contains(&(value, number)) => {
                    let name = VALUES.get(value as usize).unwrap_or(&"?");
                    let what = format!("{name}: {number} was seen before anybody set it");
                    violations.push(about(what, vec![line.id]));
                }
                _ => {}
            }
        }
    }
}

/// How much was certainly added to a counter, and how much at the most.
fn counted(lines: &[Line], wanted: u64) -> (u64, u64) {
    let (mut sure, mut most) = (0, 0);
    for line in lines {
        match line.event {
            Event::Count { counter, times } if counter == wanted => most += times,
            Event::Counted { counter, times } if counter == wanted => sure += times,
            _ => {}
        }
    }
    (sure, most)
}

fn about(what: String, ids: Vec<u64>) -> Violation {
    Violation {
        what,
        key: None,
        tokens: Vec::new(),
        ids,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(events: &[Event]) -> Vec<Line> {
        let line = |event: &Event| Line {
            at: 1,
            id: 1,
            pid: 1,
            event: *event,
        };
        events.iter().map(line).collect()
    }

    fn judged(carried: &mut CarriedValues, events: &[Event], end: u64) -> usize {
        let mut violations = Vec::new();
        carried.judge(&lines(events), [end, 0, 0, 0], &mut violations);
        violations.len()
    }

    #[test]
    fn a_value_is_announced_before_it_is_seen() {
        let mut carried = CarriedValues::default();
        let (announce, saw) = (
            Event::Announce {
                value: 1,
                number: 7,
            },
            Event::Saw {
                value: 1,
                number: 7,
            },
        );
        assert_eq!(judged(&mut carried, &[saw], 0), 1);
        assert_eq!(judged(&mut carried, &[announce, saw], 0), 0);
        // In the next round, too; not under another name.
        assert_eq!(judged(&mut carried, &[saw], 0), 0);
        assert_eq!(
            judged(
                &mut carried,
                &[Event::Saw {
                    value: 0,
                    number: 7
                }],
                0
            ),
            1
        );
    }

    #[test]
    fn a_counter_has_what_was_counted_and_some_of_what_the_dead_began() {
        let mut carried = CarriedValues::default();
        let (begun, done) = (
            Event::Count {
                counter: 0,
                times: 5,
            },
            Event::Counted {
                counter: 0,
                times: 5,
            },
        );
        assert_eq!(judged(&mut carried, &[begun, done], 5), 0);
        assert_eq!(judged(&mut carried, &[begun, begun, done], 12), 0);
        assert_eq!(judged(&mut carried, &[begun, done], 16), 1);
        assert_eq!(judged(&mut carried, &[begun], 22), 1);
    }
}
