//! The plain counters under locks, and the sums under averages.

use super::history::{Addition, History, Hold, KeyHistory};
use super::{Carried, Violation};
use crate::torture::site::{KeySpec, What};
use crate::torture::worker::{POPPED_VALUE, VALUE_REMAINDER, VALUE_STEP};

/// Judges a counter, which grows by one with each hold, in the order of the tokens. A holder that
/// died before giving back has written or not, so one more value is possible until the next holder
/// tells. Returns what the counter can be at the end.
pub fn judge_counter(
    key: usize,
    spec: &KeySpec,
    holds: &[Hold],
    carried: &Carried,
    violations: &mut Vec<Violation>,
) -> Vec<u64> {
    let mut holds: Vec<&Hold> = holds.iter().collect();
    holds.sort_by_key(|hold| hold.token);
    let mut possible = carried.counts.clone();
    let mut unsure: Vec<&Hold> = Vec::new();
    for hold in holds {
        let Some((_, count)) = hold.give else {
            // It may have written one more than whatever there was.
            let more = possible.last().map_or(1, |most| most + 1);
            possible.push(more);
            unsure.push(hold);
            continue;
        };
        if !possible.contains(&count.wrapping_sub(1)) {
            let involved: Vec<_> = unsure.iter().chain([&hold]).collect();
            violations.push(Violation {
                what: format!(
                    "{}: the counter was set to {count}, and could be {possible:?} before",
                    spec.name
                ),
                key: Some(key),
                tokens: involved.iter().map(|hold| hold.token).collect(),
                ids: involved.iter().map(|hold| hold.id).collect(),
            });
        }
        possible = vec![count];
        unsure = vec![hold];
    }
    possible
}

/// Compares an average, as it is when no worker is left, with what was added. `seen`: count and
/// total.
pub fn judge_sum(
    spec: &KeySpec,
    of_key: &KeyHistory,
    history: &History,
    carried: &Carried,
    seen: (u64, f64),
) -> Option<String> {
    let (count, total) = seen;
    // Integers this small are exact in a double, and so are their sums.
    if total.fract() != 0.0 || !(0.0..9e15).contains(&total) {
        return Some(format!("{}: the total is {total}", spec.name));
    }
    let sum = total as u64;
    let fits_count = match spec.what {
        What::PoppedAverage => sum == count * POPPED_VALUE,
        _ => sum >= count && (sum - count * VALUE_REMAINDER).is_multiple_of(VALUE_STEP),
    };
    if !fits_count {
        let name = &spec.name;
        return Some(format!("{name}: a total of {sum} is not of {count} values"));
    }
    if spec.what != What::Average || !spec.is_plain() || history.keys.is_empty() {
        return None;
    }
    judge_exact_sum(spec, &of_key.additions, carried, count, sum)
}

/// Judges a sum: it has every value that was told as added, and any number of those that a worker
/// was adding when it died.
fn judge_exact_sum(
    spec: &KeySpec,
    additions: &[Addition],
    carried: &Carried,
    count: u64,
    sum: u64,
) -> Option<String> {
    let done = additions.iter().filter(|addition| addition.is_done);
    let (mut sure_count, mut sure_sum) = carried.sum;
    for addition in done {
        sure_count += addition.times;
        sure_sum += addition.times * addition.value;
    }
    let mut open: Vec<_> = additions.iter().filter(|a| !a.is_done).collect();
    open.sort_by_key(|addition| addition.value);
    let most = sure_count + open.iter().map(|addition| addition.times).sum::<u64>();
    if !(sure_count..=most).contains(&count) {
        let name = &spec.name;
        return Some(format!(
            "{name}: it has {count} values, not {sure_count} to {most}"
        ));
    }
    // So many of the unsure ones are in it: at the least the smallest of them, at the most the
    // largest.
    let unsure = count - sure_count;
    let least = sure_sum + sum_of_first(open.iter().copied(), unsure);
    let most = sure_sum + sum_of_first(open.iter().rev().copied(), unsure);
    (!(least..=most).contains(&sum))
        .then(|| format!("{}: the total is {sum}, not {least} to {most}", spec.name))
}

fn sum_of_first<'a>(additions: impl Iterator<Item = &'a Addition>, mut count: u64) -> u64 {
    let mut sum = 0;
    for addition in additions {
        let times = addition.times.min(count);
        sum += times * addition.value;
        count -= times;
    }
    sum
}
