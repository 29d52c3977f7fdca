//! Round after round, in one store after the other, each judged pair by pair.

use std::time::{Duration, Instant};

use crate::judge::{Story, Violation};
use crate::kit::{Place, Random, Watchdog};
use crate::operation::State;
use crate::round::{Count, Stage};
use crate::store::{PAIRS, Ways};
use crate::tape::Record;

const ROUNDS_OF_A_STORE: u64 = 40;
/// So many have to be killed in the middle of something, however long that takes.
const WITHOUT_END: u64 = 5;

/// Plays until the time is over, and panics with the history if one is not linearizable.
pub fn run(name: &'static str, shards: Option<usize>) {
    let (begun, time) = (Instant::now(), time());
    let mut random = Random::announced(name);
    let mut count = Count::default();
    while begun.elapsed() < time || count.without_end < WITHOUT_END {
        let is_over = |count: &Count| begun.elapsed() >= time && count.without_end >= WITHOUT_END;
        let seed = random.next();
        if let Err(found) = play_store(name, shards, Ways::Sound, seed, &mut count, is_over) {
            panic!("{name}: in the store of seed {seed}, {count:?}: {found}");
        }
    }
    println!("{name}: {count:?}");
}

/// A negative control: plays until the judge objects, and returns what it says.
pub fn run_broken(name: &'static str, shards: Option<usize>, ways: Ways) -> String {
    let mut random = Random::announced(name);
    let mut count = Count::default();
    loop {
        let seed = random.next();
        if let Err(found) = play_store(name, shards, ways, seed, &mut count, |_| false) {
            println!("{name}: {count:?}: {found}");
            return found;
        }
        assert!(
            count.rounds < 100 * ROUNDS_OF_A_STORE,
            "not noticed: {count:?}"
        );
    }
}

/// How long a campaign is to take.
fn time() -> Duration {
    let given = std::env::var("SLABLOCK_HISTORIES").ok();
    let seconds = given.map_or(3, |text| text.parse().expect("a number of seconds"));
    Duration::from_secs(seconds)
}

/// A new store for some rounds. What a round leaves is what the next one begins with.
fn play_store(
    name: &'static str,
    shards: Option<usize>,
    ways: Ways,
    seed: u64,
    count: &mut Count,
    is_over: impl Fn(&Count) -> bool,
) -> Result<(), String> {
    let _watchdog = Watchdog::new(name);
    let dir = Place::new();
    let mut stage = Stage::new(dir.root(), shards, ways, Random::new(seed));
    let mut states = [[None; 2]; PAIRS];
    for round in 0..ROUNDS_OF_A_STORE {
        let records = stage.round(count);
        states = judge(records, states, count)
            .map_err(|(pair, found)| format!("round {round}, pair {pair}:\n{}", found.shown()))?;
        if is_over(count) {
            break;
        }
    }
    let report = stage.store.check();
    assert!(report.is_sound(), "{name}, seed {seed}: {report:?}");
    Ok(())
}

/// Returns what each pair has at the end; otherwise the shortest violation, and of which pair it
/// is.
fn judge(
    records: Vec<Record>,
    states: [State; PAIRS],
    count: &mut Count,
) -> Result<[State; PAIRS], (usize, Box<Violation>)> {
    let begun = Instant::now();
    let mut next = states;
    let mut found: Vec<(usize, Box<Violation>)> = Vec::new();
    for (pair, begins_with) in states.into_iter().enumerate() {
        let of_pair = records.iter().filter(|record| record.pair == pair);
        let story = Story {
            begins_with,
            records: of_pair.cloned().collect(),
        };
        add_up(&story, count);
        next[pair] = story.ends_with();
        found.extend(story.judge().err().map(|violation| (pair, violation)));
    }
    count.judging += begun.elapsed();
    let length = |(_, violation): &(usize, Box<Violation>)| violation.shortest.records.len();
    match found.into_iter().min_by_key(length) {
        None => Ok(next),
        Some(shortest) => Err(shortest),
    }
}

fn add_up(story: &Story, count: &mut Count) {
    use crate::operation::End;
    let records = &story.records;
    let so_many = |is_so: fn(&&Record) -> bool| records.iter().filter(is_so).count() as u64;
    count.histories += 1;
    count.operations += records.len() as u64;
    count.longest_history = count.longest_history.max(records.len());
    count.without_end += so_many(|record| record.end.is_none());
    let mut latest_end = 0;
    for record in records {
        count.overlapping += u64::from(record.begin < latest_end);
        latest_end = latest_end.max(record.end.unwrap_or(0));
    }
    count.transactions += so_many(|record| record.call.what.is_transaction());
    count.without_room += so_many(|record| record.outcome.end == End::NoRoom);
}
