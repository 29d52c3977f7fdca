//! Stopped for very long: who is stopped at any point of beginning a segment, until 512 more were
//! begun, and goes on when its place in the table of segments is another one's, changes nothing of
//! that one. A length that was noted too late would have it count for more, or less, than it takes
//! of the device.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use slablock::{Cache, Eviction};

use crate::kit::{Board, fork, layout};
use crate::scene::{End, Scene, Trap, place_of_death, reap, stopped_at_point};
use crate::stage::{KEY, open};

/// Has a segment of its own, with this limit and every length from a quarter of a MiB on.
const OTHERS: usize = 300_000;
const LIMIT: u64 = 32 << 20;

/// What somebody is stopped at, and how long the value of `KEY` is then.
const VALUES: [(&str, usize); 2] = [
    ("setting a value with a segment of its own", 1_000_000),
    ("setting a value for which a segment is begun", 200_000),
];

/// Runs all of it, and says for how many points.
pub fn run(root: &Path, board: &'static Board) {
    for (name, len) in VALUES {
        let mut at = 1;
        while one_stop(root, board, len, at) {
            at += 1;
        }
        println!(
            "stopped at {} points of {name}, until 512 segments more were begun",
            at - 1
        );
        assert!(at > 15, "there is more to it");
    }
}

/// `false`: there is no such point.
fn one_stop(root: &Path, board: &'static Board, len: usize, at: u64) -> bool {
    let scene = Scene::new(root, board);
    let prepared = fork(|| {
        let options = Cache::options().capacity(256).size_limit(LIMIT);
        let cache = options.eviction(Eviction::None).open(scene.store());
        // The next one does not fit the first segment any more.
        for key in 0..5 {
            let set = cache.as_ref().unwrap().set(first(key), vec![key; 200_000]);
            set.unwrap();
        }
        cache.unwrap().set(KEY, "before").unwrap();
    });
    assert_eq!(reap(prepared), End::Done);
    let stopped = fork(|| {
        let cache = open(&scene);
        let trap = Trap::stopping(board, at);
        trap.armed(|| cache.set(KEY, vec![2; len])).unwrap();
    });
    let Some(stopped) = stopped_at_point(stopped) else {
        return false;
    };
    let others = reap(fork(|| begin_many_segments(&scene, len)));
    kill(stopped, Signal::SIGCONT).expect("to wake a child");
    let ends = (others, reap(stopped));
    let place = place_of_death(board);
    assert_eq!(ends, (End::Done, End::Done), "stopped at {at}, {place:?}");
    let last = fork(|| {
        let cache = open(&scene);
        assert!(cache.get(KEY).unwrap() == Some(vec![2; len]));
        (0..8).for_each(|key| has_other(&cache, key));
        counts_what_there_is(&cache, 0);
        assert_eq!(cache.cull().unwrap(), 0);
        counts_what_there_is(&cache, 0);
        (0..8).for_each(|key| has_other(&cache, key));
        assert!(cache.check().unwrap().is_sound());
        assert_eq!(cache.stats().unwrap().damaged, 0);
    });
    assert_eq!(reap(last), End::Done, "stopped at {at}, {place:?}");
    true
}

fn first(key: u8) -> String {
    format!("first {key}")
}

fn has_other(cache: &Cache, key: u8) {
    let got = cache.get(format!("{key}")).unwrap();
    assert!(got.is_some_and(|got| got.len() == OTHERS && got.iter().all(|byte| *byte == key)));
}

/// Until all of the last eight are those that have the places of the numbers that there were.
fn begin_many_segments(scene: &Scene, len: usize) {
    let cache = open(scene);
    let last = || u64::from_le_bytes(scene.peek(layout::LAST_SEGMENT));
    let until = last() + layout::SEGMENT_COUNT + 4;
    // Nothing is in the first one any more, so that its place can be another's.
    for key in 0..5 {
        assert!(cache.delete(first(key)).unwrap());
    }
    cache.set("tail", vec![9; 200_000]).unwrap();
    for key in (0..8).cycle() {
        cache.set(format!("{key}"), vec![key; OTHERS]).unwrap();
        if last() % 100 == 0 {
            // Also what the stopped one has begun, when it has taken long enough.
            assert_eq!(cache.cull().unwrap(), 0);
        }
        if last() >= until {
            break;
        }
    }
    counts_what_there_is(&cache, len);
}

/// What is said of the log is what the device has, but for two pages of each file, and for what
/// somebody may be about to write.
fn counts_what_there_is(cache: &Cache, to_come: usize) {
    let stats = cache.stats().unwrap();
    let files = std::fs::read_dir(cache.path().join("log")).unwrap();
    let blocks: Vec<u64> = files
        .map(|file| file.unwrap().metadata().unwrap().blocks() * 512)
        .collect();
    let said = stats.bytes_live + stats.bytes_garbage;
    let is: u64 = blocks.iter().sum();
    let slack = 2 * layout::PAGE * blocks.len() as u64;
    let most = is + slack + to_come as u64;
    let what = format!("{stats:?}, {blocks:?}");
    assert!((is.saturating_sub(slack)..=most).contains(&said), "{what}");
}
