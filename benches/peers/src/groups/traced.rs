//! A trace, dealt to the processes that have a cache open, and what came of it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::Run;
use crate::process::{Peer, number};
use crate::trace::worker::{Keeper, Place, Taken, command};
use crate::trace::{Hits, Step, keep, kept};
use crate::{Answer, temporary, values};

/// Each has every second step.
const PROCESSES: usize = 2;
/// After each part of the steps all wait for each other, so that they stay in the order of the trace.
const PARTS: usize = 40;

/// What is done.
pub struct Traced<'a> {
    pub trace: &'a [Step],
    /// In bytes.
    pub limit: u64,
}

/// What came of it; of times those of the second half.
pub struct Outcome {
    pub hits: Hits,
    /// In nanoseconds, the shortest first.
    pub gets: Vec<u64>,
    pub sets: Vec<u64>,
    pub steps_a_second: f64,
    /// Nanoseconds of a processor for each step.
    pub processor_ns: f64,
    pub disk_bytes: u64,
    /// Bytes of keys and values in the end, where that can be known.
    pub held: Option<u64>,
}

/// What the second half took.
struct Spent {
    time: Duration,
    processor_ns: f64,
}

impl Traced<'_> {
    pub fn by(&self, run: &Run, name: &str, keeper: Keeper) -> Answer<Outcome> {
        let dir = temporary::directory(&run.dir)?;
        let (places, mut peers) = self.start(run, &dir, name)?;
        let spent = self.work(&mut peers)?;
        let disk_bytes = disk_bytes(&store(&dir))?;
        for peer in &mut peers {
            peer.ask("keep")?;
        }
        drop(peers);
        let taken = self.gather(&places)?;
        let late = &taken[self.trace.len() / 2..];
        let steps = late.len() as f64;
        Ok(Outcome {
            hits: Hits::of(self.trace, &hits(&taken)),
            gets: times(late, 0),
            sets: times(late, 1),
            steps_a_second: steps / spent.time.as_secs_f64(),
            processor_ns: spent.processor_ns / steps,
            disk_bytes,
            held: match keeper {
                Keeper::Slablock(_) => Some(values::held(&store(&dir))?),
                Keeper::Lmdb(_) | Keeper::Diskcache => None,
            },
        })
    }

    /// Deals the steps, and starts those who do them.
    fn start(&self, run: &Run, dir: &TempDir, name: &str) -> Answer<(Vec<Place>, Vec<Peer>)> {
        fs::create_dir(store(dir))?;
        let (mut places, mut peers) = (Vec::new(), Vec::new());
        for who in 0..PROCESSES {
            let place = Place {
                store: store(dir),
                steps: dir.path().join(format!("steps-{who}")),
                taken: dir.path().join(format!("taken-{who}")),
            };
            let steps = self.trace.iter().skip(who).step_by(PROCESSES);
            keep(&place.steps, steps.map(|step| u64::from(*step)))?;
            // The first one makes the store.
            peers.push(Peer::start(command(
                name,
                &place,
                self.limit,
                &run.python,
            )?)?);
            places.push(place);
        }
        Ok((places, peers))
    }

    fn work(&self, peers: &mut [Peer]) -> Answer<Spent> {
        let mut spent = Spent {
            time: Duration::ZERO,
            processor_ns: 0.0,
        };
        for part in 1..=PARTS {
            let start = Instant::now();
            let end = self.trace.len() / PROCESSES * part / PARTS;
            for peer in peers.iter_mut() {
                peer.say(&format!("until {end}"))?;
            }
            let mut processor_ns = 0.0;
            for peer in peers.iter_mut() {
                processor_ns += number(&peer.hear()?)?;
            }
            if part > PARTS / 2 {
                spent.time += start.elapsed();
                spent.processor_ns += processor_ns;
            }
        }
        Ok(spent)
    }

    /// What each step of the trace took.
    fn gather(&self, places: &[Place]) -> Answer<Vec<Taken>> {
        let mut taken = vec![[0; 2]; self.trace.len()];
        for (who, place) in places.iter().enumerate() {
            let words = kept(&place.taken)?;
            let (told, _) = words.as_chunks();
            let mine = taken.iter_mut().skip(who).step_by(PROCESSES);
            if told.len() != mine.len() {
                return Err("not all steps were done".into());
            }
            mine.zip(told).for_each(|(mine, told)| *mine = *told);
        }
        Ok(taken)
    }
}

fn store(dir: &TempDir) -> PathBuf {
    dir.path().join("store")
}

fn hits(taken: &[Taken]) -> Vec<bool> {
    taken.iter().map(|[_, set]| *set == 0).collect()
}

/// Of all gets, or of all sets, those that were.
fn times(taken: &[Taken], which: usize) -> Vec<u64> {
    let times = taken.iter().map(|taken| taken[which]);
    let mut times: Vec<u64> = times.filter(|nanos| *nanos > 0).collect();
    times.sort_unstable();
    times
}

/// What the files below a directory take, holes left out.
fn disk_bytes(dir: &Path) -> Answer<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let found = entry.metadata()?;
        bytes += found.blocks() * 512;
        if found.is_dir() {
            bytes += disk_bytes(&entry.path())?;
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_get_without_a_set_is_a_hit() {
        let taken = [[5, 0], [7, 90], [0, 80], [3, 0]];
        assert_eq!(hits(&taken), [true, false, false, true]);
        assert_eq!(times(&taken, 0), [3, 5, 7]);
        assert_eq!(times(&taken, 1), [80, 90]);
    }

    #[test]
    fn holes_take_nothing() {
        let dir = tempfile::tempdir().expect("there is room");
        let below = dir.path().join("below");
        fs::create_dir(&below).expect("there is room");
        let before = disk_bytes(dir.path()).expect("it can be read");
        let file = fs::File::create(below.join("file")).expect("there is room");
        file.set_len(1 << 30).expect("it can be sparse");
        assert_eq!(disk_bytes(dir.path()).expect("it can be read"), before);
    }
}
