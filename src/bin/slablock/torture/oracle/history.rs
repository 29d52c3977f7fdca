//! The journal, sorted: lives of processes; holds, waits, removals and additions of each key.

use std::collections::HashMap;

use super::pauses::Pauses;
use crate::torture::journal::{Event, Line};
use crate::torture::site::KeySpec;

/// For how long an acquirer waits for a change of the structure at the least, also one that does
/// not wait for the key.
pub const GRACE_NS: u64 = 50_000_000;

/// A life of a process: from its birth to its end, or to its executing another program.
#[derive(Clone, Debug, Default)]
pub struct Life {
    pub pid: u32,
    /// When it wrote its last line.
    last: u64,
    pub killed: Option<u64>,
    /// It lived at least until then. `None`: it lives still.
    pub end: Option<u64>,
    /// It was certainly gone by then.
    pub gone: Option<u64>,
    /// It executed this program again.
    has_executed: bool,
    /// How often it forked, and when its children had begun to live.
    forks: usize,
    births: Vec<u64>,
}

impl Life {
    /// Whether it had executed itself while a child that it had forked may still have had what it
    /// inherited: it closes that before it begins to live. Of a process that goes on the kernel
    /// then says nothing else.
    pub fn may_look_alive(&self, at: u64) -> bool {
        let closed = self.births.iter().filter(|birth| **birth < at);
        self.has_executed && closed.count() < self.forks
    }
}

/// A hold of a key, as far as its holder could tell.
#[derive(Clone, Debug)]
pub struct Hold {
    pub id: u64,
    pub token: u64,
    pub permit: u64,
    pub asked: u64,
    pub take: u64,
    /// Process id of the dead predecessor that it was told of.
    pub told_of: Option<u32>,
    pub overran: bool,
    /// It certainly stood then, as the library said when asked again; 0 if it was not.
    pub stood: u64,
    /// When the last renewal that succeeded began, and when it was known to.
    pub renewed: Option<(u64, u64)>,
    /// When giving back began, and what the counter was set to.
    pub give: Option<(u64, u64)>,
    pub kept: bool,
    /// When the holder was told that it was lost, unless a renewal has succeeded since.
    pub lost: Option<u64>,
    /// Each time that its holder was told so.
    pub losses: Vec<Loss>,
}

/// The holder was told that its hold was lost.
#[derive(Clone, Copy, Debug)]
pub struct Loss {
    pub at: u64,
    /// When the last renewal before had begun. A late hold that no other process has taken can be
    /// renewed later.
    pub renewed: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct Wait {
    pub id: u64,
    pub from: u64,
    pub to: u64,
}

/// A removal by force, which took effect between these moments, if it did.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    pub from: u64,
    pub to: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct Addition {
    pub value: u64,
    pub times: u64,
    pub is_done: bool,
}

#[derive(Default)]
pub struct KeyHistory {
    pub holds: Vec<Hold>,
    pub waits: Vec<Wait>,
    pub cuts: Vec<Cut>,
    pub additions: Vec<Addition>,
}

/// Something that took from `from` to `to` and could have taken `patience`.
pub struct Task {
    pub id: u64,
    pub key: Option<usize>,
    pub what: &'static str,
    pub from: u64,
    pub to: u64,
    pub patience: u64,
}

pub struct History {
    pub lives: HashMap<u64, Life>,
    pub keys: Vec<KeyHistory>,
    pub tasks: Vec<Task>,
    /// Acquirers that were told that the structure is busy before it was busy for long.
    pub hasty: Vec<Wait>,
    pub pauses: Pauses,
    pub end: u64,
}

/// What has begun and not ended yet, by the life or process that began it.
#[derive(Default)]
struct Open {
    /// Lives of a process id that have not been seen to be gone.
    of_pid: HashMap<u32, Vec<u64>>,
    kills: HashMap<u32, u64>,
    stops: HashMap<u32, u64>,
    holds: HashMap<(u64, u64, u64), usize>,
    waits: HashMap<(u64, u64), u64>,
    cuts: HashMap<u64, (u64, Scope)>,
    additions: HashMap<u64, (u64, u64, Addition)>,
}

#[derive(Clone, Copy)]
enum Scope {
    Key(u64),
    Tag(u64),
}

struct Reader<'a> {
    specs: &'a [KeySpec],
    open: Open,
    stopped: Vec<(u64, u64)>,
    history: History,
}

impl History {
    pub fn of(lines: &[Line], specs: &[KeySpec]) -> History {
        let mut reader = Reader {
            specs,
            open: Open::default(),
            stopped: Vec::new(),
            history: History {
                lives: HashMap::new(),
                keys: specs.iter().map(|_| KeyHistory::default()).collect(),
                tasks: Vec::new(),
                hasty: Vec::new(),
                pauses: Pauses::default(),
                end: lines.iter().map(|line| line.at).max().unwrap_or(0),
            },
        };
        for line in lines {
            reader.line(line);
        }
        reader.finish()
    }

    /// Until when the life `id` certainly lasted; the end of everything if it lives.
    pub fn end_of(&self, id: u64) -> u64 {
        let end = self.lives.get(&id).and_then(|life| life.end);
        end.unwrap_or(self.end)
    }
}

impl Reader<'_> {
    fn line(&mut self, line: &Line) {
        let (at, id) = (line.at, line.id);
        if id != 0 {
            let life = self.history.lives.entry(id).or_insert_with(|| {
                self.open.of_pid.entry(line.pid).or_default().push(id);
                Life {
                    pid: line.pid,
                    ..Life::default()
                }
            });
            life.last = life.last.max(at);
        }
        match line.event {
            Event::Born { parent } => self.born(at, line.pid, parent),
            Event::Fork {} => self.life(id).forks += 1,
            Event::Exec {} => {
                let life = self.life(id);
                (life.end, life.has_executed) = (Some(at), true);
            }
            Event::Exit {} => self.life(id).end = Some(at),
            Event::Kill { pid } => self.kill(at, pid as u32),
            Event::Dead { pid } => self.dead(at, pid as u32),
            Event::Stop { pid } => drop(self.open.stops.insert(pid as u32, at)),
            Event::Cont { pid } => self.no_longer_stopped(at, pid as u32),
            Event::Stall { from } => self.stopped.push((from, at.max(from))),
            Event::Add { key, value, times } => {
                let addition = Addition {
                    value,
                    times,
                    is_done: false,
                };
                self.open.additions.insert(id, (at, key, addition));
            }
            Event::Added { .. } => self.added(at, id),
            Event::Remove { key } => self.cut_begins(at, id, Scope::Key(key)),
            Event::Evict { tag } => self.cut_begins(at, id, Scope::Tag(tag)),
            // Values are judged on their own.
            Event::Announce { .. }
            | Event::Saw { .. }
            | Event::Count { .. }
            | Event::Counted { .. } => {}
            Event::Cut {} => self.cut_ends(at, id, true),
            Event::Did { asked, .. } => self.task(id, None, "a task", asked, at, 0),
            Event::Want { key } => drop(self.open.waits.insert((id, key), at)),
            Event::Passed {
                key,
                asked,
                patience,
            } => {
                let what = "waiting in vain";
                self.task(id, Some(key as usize), what, asked, at, patience);
                self.wait_ends(at, id, key);
            }
            Event::Busy {
                key,
                asked,
                patience,
            } => {
                let (key_number, what) = (Some(key as usize), "finding the structure busy");
                self.task(id, key_number, what, asked, at, patience.max(GRACE_NS));
                if at.saturating_sub(asked) < GRACE_NS {
                    self.history.hasty.push(Wait {
                        id,
                        from: asked,
                        to: at,
                    });
                }
                self.wait_ends(at, id, key);
            }
            Event::Take { .. } => self.take(line),
            Event::Stands { .. }
            | Event::Renewed { .. }
            | Event::Give { .. }
            | Event::Kept { .. }
            | Event::Lost { .. } => self.of_hold(line),
        }
    }

    fn life(&mut self, id: u64) -> &mut Life {
        self.history.lives.entry(id).or_default()
    }

    fn born(&mut self, at: u64, pid: u32, parent: u64) {
        // Executed by itself: what it was before is gone. (A thread's parent has not ended.)
        if let Some(before) = self.history.lives.get_mut(&parent)
            && before.pid == pid
            && before.end.is_some()
        {
            before.gone = Some(at);
        }
        if let Some(parent) = self.history.lives.get_mut(&parent)
            && parent.pid != pid
        {
            parent.births.push(at);
        }
    }

    fn kill(&mut self, at: u64, pid: u32) {
        self.open.kills.insert(pid, at);
        self.no_longer_stopped(at, pid);
    }

    fn dead(&mut self, at: u64, pid: u32) {
        self.no_longer_stopped(at, pid);
        let killed = self.open.kills.remove(&pid);
        for id in self.open.of_pid.remove(&pid).unwrap_or_default() {
            let life = self.life(id);
            life.gone.get_or_insert(at);
            if life.end.is_none() {
                life.killed = killed;
                // Its lines prove that it lived when it wrote them.
                life.end = Some(killed.unwrap_or(0).max(life.last));
            }
        }
    }

    fn no_longer_stopped(&mut self, at: u64, pid: u32) {
        if let Some(from) = self.open.stops.remove(&pid) {
            self.stopped.push((from, at.max(from)));
        }
    }

    fn added(&mut self, at: u64, id: u64) {
        if let Some((from, key, addition)) = self.open.additions.remove(&id) {
            self.task(id, Some(key as usize), "adding", from, at, 0);
            self.add(
                key,
                Addition {
                    is_done: true,
                    ..addition
                },
            );
        }
    }

    fn add(&mut self, key: u64, addition: Addition) {
        if let Some(key) = self.history.keys.get_mut(key as usize) {
            key.additions.push(addition);
        }
    }

    fn cut_begins(&mut self, at: u64, id: u64, scope: Scope) {
        // A removal that failed ended without a line.
        self.cut_ends(at, id, false);
        self.open.cuts.insert(id, (at, scope));
    }

    fn cut_ends(&mut self, at: u64, id: u64, in_order: bool) {
        let Some((from, scope)) = self.open.cuts.remove(&id) else {
            return;
        };
        if in_order {
            self.task(id, None, "removing by force", from, at, 0);
        }
        let cut = Cut { from, to: at };
        let keys = self.specs.iter().zip(&mut self.history.keys).enumerate();
        for (number, (spec, key)) in keys {
            let concerned = match scope {
                Scope::Key(key) => key == number as u64,
                Scope::Tag(tag) => spec.tag == Some(tag as usize),
            };
            if concerned {
                key.cuts.push(cut);
            }
        }
    }

    fn task(
        &mut self,
        id: u64,
        key: Option<usize>,
        what: &'static str,
        from: u64,
        to: u64,
        patience: u64,
    ) {
        self.history.tasks.push(Task {
            id,
            key,
            what,
            from,
            to,
            patience,
        });
    }

    fn wait_ends(&mut self, to: u64, id: u64, key: u64) {
        if let Some(from) = self.open.waits.remove(&(id, key))
            && let Some(key) = self.history.keys.get_mut(key as usize)
        {
            key.waits.push(Wait { id, from, to });
        }
    }

    fn take(&mut self, line: &Line) {
        let Event::Take {
            key,
            token,
            asked,
            permit,
            died,
            overran,
        } = line.event
        else {
            return;
        };
        self.wait_ends(line.at, line.id, key);
        let Some(history) = self.history.keys.get_mut(key as usize) else {
            return;
        };
        let slot = (line.id, key, token);
        self.open.holds.insert(slot, history.holds.len());
        history.holds.push(Hold {
            id: line.id,
            token,
            permit,
            asked,
            take: line.at,
            told_of: died.checked_sub(1).map(|pid| pid as u32),
            overran: overran != 0,
            // Where it can be lost, it may have been before this was told.
            stood: 0,
            renewed: None,
            give: None,
            kept: false,
            lost: None,
            losses: Vec::new(),
        });
    }

    /// Something about a hold that was told of before.
    fn of_hold(&mut self, line: &Line) {
        let (Event::Stands { key, token, .. }
        | Event::Renewed { key, token, .. }
        | Event::Give { key, token, .. }
        | Event::Kept { key, token }
        | Event::Lost { key, token }) = line.event
        else {
            return;
        };
        let Some(&at) = self.open.holds.get(&(line.id, key, token)) else {
            return;
        };
        let hold = &mut self.history.keys[key as usize].holds[at];
        match line.event {
            Event::Stands { asked, .. } => hold.stood = hold.stood.max(asked),
            Event::Renewed { asked, .. } => {
                hold.stood = hold.stood.max(asked);
                hold.renewed = Some((asked, line.at));
                hold.lost = None;
            }
            Event::Give { count, .. } => hold.give = Some((line.at, count)),
            Event::Kept { .. } => hold.kept = true,
            _ => {
                if hold.lost.is_none() {
                    let renewed = hold.renewed.map(|(asked, _)| asked);
                    let at = line.at;
                    hold.losses.push(Loss { at, renewed });
                    hold.lost = Some(at);
                }
            }
        }
    }

    fn finish(mut self) -> History {
        let end = self.history.end;
        for (_, from) in std::mem::take(&mut self.open.stops) {
            self.stopped.push((from, end));
        }
        self.history.pauses = Pauses::of(std::mem::take(&mut self.stopped));
        for ((id, key), _) in self.open.waits.clone() {
            let to = self.history.end_of(id);
            self.wait_ends(to, id, key);
        }
        for id in self.open.cuts.keys().copied().collect::<Vec<_>>() {
            // A removal that a dead process began is undone, or affects only what was held when it
            // died.
            let gone = self.history.lives.get(&id).and_then(|life| life.gone);
            self.cut_ends(gone.unwrap_or(end), id, false);
        }
        for (_, (_, key, addition)) in std::mem::take(&mut self.open.additions) {
            self.add(key, addition);
        }
        self.history
    }
}
