//! Rounds: every peer in turn, again and again, so that what slows the machine down slows all.

use crate::Answer;
use crate::locks::{ALL, Entry};

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
        for (who, answers) in self.answers.iter_mut().enumerate() {
            let Ok(so_far) = answers else { continue };
            match one(who) {
                Ok(answer) => so_far.push(answer),
                Err(failure) => *answers = Err(failure),
            }
        }
    }

    /// Of each peer, in their order.
    pub fn finish(self) -> Vec<Answer<Vec<T>>> {
        self.answers
    }
}

/// Those of the locks that `wanted` says.
pub fn locks(wanted: impl Fn(&Entry) -> bool) -> Vec<&'static Entry> {
    ALL.iter().filter(|entry| wanted(entry)).collect()
}
