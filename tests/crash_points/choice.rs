//! Which points, when there are too many for all of them.

use std::collections::HashMap;

use crate::kit::Random;

/// At most `limit` of the points whose places are given, counted from 1: the first and the last two
/// of each place in the source, then any.
pub fn choose(places: &[u64], limit: u64, random: &mut Random) -> Vec<u64> {
    let all = 1..=places.len() as u64;
    if places.len() as u64 <= limit {
        return all.collect();
    }
    let mut of_place: HashMap<u64, Vec<u64>> = HashMap::new();
    for (point, place) in all.zip(places) {
        of_place.entry(*place).or_default().push(point);
    }
    let mut chosen: Vec<u64> = of_place
        .into_values()
        .flat_map(|points| {
            let last = points.len().saturating_sub(2);
            let ends = |at: &usize| *at < 2 || *at >= last;
            (0..points.len())
                .filter(ends)
                .map(|at| points[at])
                .collect::<Vec<_>>()
        })
        .collect();
    while chosen.len() > limit as usize {
        chosen.swap_remove(random.below(chosen.len() as u64) as usize);
    }
    while chosen.len() < limit as usize {
        let point = 1 + random.below(places.len() as u64);
        if !chosen.contains(&point) {
            chosen.push(point);
        }
    }
    chosen.sort_unstable();
    chosen
}
