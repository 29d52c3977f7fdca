//! Rounds: every peer in turn, again and again, so that what slows the machine down slows all.

use super::Run;
use crate::locks::{ALL, Entry, Kind};
use crate::{Answer, interrupt};

/// What each peer of a list answered in each round. Who fails once is left out from then on.
pub struct Rounds<T> {
    answers: Vec<Answer<Vec<T>>>,
}

impl<T> Rounds<T> {
    /// Of `peers` peers.
    pub fn of(peers: usize) -> Rounds<T> {
        let answers = (0..peers).map(|_| Ok(Vec::new())).collect();
        Rounds { answers }
    }

    /// One round more.
    pub fn go(&mut self, mut one: impl FnMut(usize) -> Answer<T>) {
        self.go_some(|who| one(who).map(Some));
    }

    /// One round more, in which not all have something to say.
    pub fn go_some(&mut self, mut one: impl FnMut(usize) -> Answer<Option<T>>) {
        for (who, answers) in self.answers.iter_mut().enumerate() {
            let Ok(so_far) = answers else { continue };
            if let Err(failure) = interrupt::check() {
                *answers = Err(failure);
                continue;
            }
            match one(who) {
                Ok(answer) => so_far.extend(answer),
                Err(failure) => *answers = Err(failure),
            }
        }
    }

    /// Of each peer, in their order.
    pub fn finish(self) -> Vec<Answer<Vec<T>>> {
        self.answers
    }
}

/// All, those for one process among them. A quick run leaves out the slowest to start, which are like others.
pub fn all(run: &Run) -> Vec<&'static Entry> {
    let wanted = |entry: &&Entry| !(run.quick && is_like_another(entry.name));
    ALL.iter().filter(wanted).collect()
}

/// Those that several processes can meet at, as far as `wanted` says.
pub fn locks(run: &Run, wanted: impl Fn(&Entry) -> bool) -> Vec<&'static Entry> {
    let mut entries = all(run);
    entries.retain(|entry| entry.kind != Kind::Alone && wanted(entry));
    entries
}

/// Is it another one's variant, for which a quick run has no time?
pub fn is_like_another(name: &str) -> bool {
    name.ends_with("Fanout")
}
