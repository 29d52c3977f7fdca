//! A round: workers play, the driver kills and stops some in the middle of it, newcomers join. It
//! ends when all living workers rest; then the driver looks at every key.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::kit::{Child, Random};
use crate::operation::{Call, What};
use crate::store::{PAIRS, Store, Ways};
use crate::tape::{RECORDS, Record, STRIPS, Tape};

const WORKERS: usize = 5;
/// The checker has to try everything that a killed worker may have done: a few in a round.
const KILLS_MAX: usize = 3;
const STOPS_MAX: usize = 3;
/// How long a worker is stopped at the most: the others may be waiting for it.
const PAUSE: Duration = Duration::from_millis(10);
const DRIVERS_STRIP: usize = 0;

/// What was done so far.
#[derive(Clone, Debug, Default)]
pub struct Count {
    pub rounds: u64,
    pub histories: u64,
    pub operations: u64,
    /// Those in the middle of which somebody was killed.
    pub without_end: u64,
    /// Those that began before an earlier one of the pair had ended.
    pub overlapping: u64,
    pub transactions: u64,
    pub without_room: u64,
    pub longest_history: usize,
    pub kills: u64,
    pub stops: u64,
    pub judging: Duration,
}

/// A store and the processes that use it.
pub struct Stage<'d> {
    dir: &'d Path,
    arguments: [String; 2],
    tape: Tape,
    pub store: Store,
    players: Vec<Player>,
    random: Random,
}

struct Player {
    child: Child,
    strip: usize,
    has_begun: bool,
    rests: bool,
    /// Stopped, until that ticket is drawn or for a while.
    stopped: Option<(u64, Instant)>,
}

#[derive(Clone, Copy)]
enum Trouble {
    Kill,
    Stop,
}

impl Stage<'_> {
    pub fn new(dir: &Path, shards: Option<usize>, ways: Ways, random: Random) -> Stage<'_> {
        Stage {
            dir,
            arguments: [shards.unwrap_or(0).to_string(), (ways as usize).to_string()],
            tape: Tape::open(dir),
            store: Store::open(&dir.join("store"), shards, ways),
            players: Vec::new(),
            random,
        }
    }

    /// All that was done in a round; the last of each key is a look by the driver.
    pub fn round(&mut self, count: &mut Count) -> Vec<Record> {
        self.tape.clear();
        let kills = self.random.below(KILLS_MAX as u64 + 1) as usize;
        self.gather(WORKERS + kills);
        let mut troubles = self.troubles(kills);
        for player in &mut self.players[..WORKERS] {
            player.begin(&self.tape);
        }
        loop {
            let all_rest = self.players.iter_mut().all(Player::rests);
            let at = self.tape.tickets();
            self.players.iter_mut().for_each(|player| player.go_on(at));
            match troubles.last() {
                None if all_rest => break,
                Some((due, trouble)) if at >= *due || all_rest => {
                    self.make(*trouble, count);
                    troubles.pop();
                }
                _ => std::thread::sleep(Duration::from_micros(50)),
            }
        }
        self.look();
        count.rounds += 1;
        self.tape.records()
    }

    /// Has so many players ready. New ones have not opened the store yet.
    fn gather(&mut self, wanted: usize) {
        assert!(wanted < STRIPS);
        let [shards, ways] = &self.arguments;
        while self.players.len() < wanted {
            self.players.push(Player {
                child: Child::start("work", self.dir, &[shards, ways]),
                strip: 0,
                has_begun: false,
                rests: false,
                stopped: None,
            });
        }
        for (player, strip) in self.players.iter_mut().zip(DRIVERS_STRIP + 1..) {
            (player.strip, player.has_begun, player.rests) = (strip, false, false);
            player
                .child
                .tell(&format!("{strip} {}", self.random.next()));
        }
        for player in &self.players {
            player.child.expect("ready");
        }
    }

    /// What is to happen at which ticket, the first last.
    fn troubles(&mut self, kills: usize) -> Vec<(u64, Trouble)> {
        let stops = self.random.below(STOPS_MAX as u64 + 1) as usize;
        let kinds = [vec![Trouble::Kill; kills], vec![Trouble::Stop; stops]].concat();
        let tickets = 2 * (WORKERS * RECORDS) as u64;
        let now = self.tape.tickets();
        let mut troubles: Vec<_> = kinds
            .into_iter()
            .map(|trouble| (now + self.random.below(tickets), trouble))
            .collect();
        troubles.sort_by_key(|(due, _)| std::cmp::Reverse(*due));
        troubles
    }

    fn make(&mut self, trouble: Trouble, count: &mut Count) {
        let begun = self.players.iter().filter(|p| p.has_begun).count();
        let chosen = self.random.below(begun as u64) as usize;
        match trouble {
            Trouble::Kill => {
                self.players.remove(chosen).child.kill();
                count.kills += 1;
                // Newcomers stand behind all others, so this one is the first of them.
                self.players[begun - 1].begin(&self.tape);
            }
            Trouble::Stop => {
                let until = self.tape.tickets() + self.random.below(200);
                self.players[chosen].stop(until);
                count.stops += 1;
            }
        }
    }

    fn look(&self) {
        let mut strip = self.tape.strip(DRIVERS_STRIP);
        for (pair, key) in (0..PAIRS).flat_map(|pair| [(pair, 0), (pair, 1)]) {
            let get = |_| Call::of(What::Get, key);
            strip.record(pair, get, |call| self.store.carry_out(pair, call));
        }
    }
}

impl Player {
    fn begin(&mut self, tape: &Tape) {
        self.has_begun = true;
        tape.let_begin(self.strip);
    }

    /// True of a player that has not begun, too; false of a stopped one, which would not hear what
    /// is next.
    fn rests(&mut self) -> bool {
        if self.has_begun && !self.rests {
            let said = self.child.line_within(Duration::ZERO);
            self.rests = said.is_some_and(|line| line == "rests");
        }
        (self.rests || !self.has_begun) && self.stopped.is_none()
    }

    fn stop(&mut self, until: u64) {
        self.child.stop();
        self.stopped = Some((until, Instant::now()));
    }

    fn go_on(&mut self, ticket: u64) {
        let is_enough = |(until, since): (u64, Instant)| ticket >= until || since.elapsed() > PAUSE;
        if self.stopped.is_some_and(is_enough) {
            self.child.signal(Signal::SIGCONT);
            self.stopped = None;
        }
    }
}
