//! The store and the model side by side: every operation is done in both, and the results compared.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use slablock::{Cache, Error, Holder, KeyInfo, KeyState, Kind, Result, Token, fuzzing};

use super::Sort;
use super::model::{Before, Grant, Lease, Model, Refusal, Setting, Stand};
use super::setting::{Acquire, Guard, Handle, assert_refused, key, setting, tag, with_guard};
use crate::fuzz::input::Input;

/// Who takes part, from being opened to being closed or dying.
struct Participant {
    life: u64,
    cache: Cache,
    handles: BTreeMap<Setting, Known>,
    held: Vec<Held>,
}

/// A handle, and the life of the key in which it knows it.
struct Known {
    handle: Handle,
    met: Option<u64>,
}

struct Held {
    guard: Guard,
    of: Setting,
    id: u64,
}

pub struct World {
    dir: PathBuf,
    sort: Sort,
    model: Model,
    seats: [Option<Participant>; 4],
    /// Beacons that were handed on, and whose.
    lifelines: Vec<(u64, OwnedFd)>,
    /// The last tokens that were given, for releases by who does not hold.
    tokens: Vec<Token>,
}

/// Compares a result with what the model says.
fn agree<T>(
    result: Result<T>,
    expected: std::result::Result<(), Refusal>,
    of: &Setting,
) -> Option<T> {
    match (result, expected) {
        (Ok(value), Ok(())) => Some(value),
        (Err(error), Err(refusal)) => {
            assert_refused(&error, refusal, of);
            None
        }
        (Ok(_), Err(refusal)) => panic!("{of:?} was accepted in spite of {refusal:?}"),
        (Err(error), Ok(())) => panic!("{of:?} was refused: {error:?}"),
    }
}

impl World {
    pub fn new(dir: PathBuf, sort: Sort, boot_us: u64, wall_us: u64) -> World {
        World {
            dir,
            sort,
            model: Model::new(sort.capacity(), boot_us, wall_us),
            seats: Default::default(),
            lifelines: Vec::new(),
            tokens: vec![Token::new(1)],
        }
    }

    pub fn step(&mut self, input: &mut Input) {
        let what = input.byte();
        let seat = usize::from(what >> 6);
        match what & 31 {
            0..=7 => self.acquire(seat, input, Acquire::Try),
            8 => self.acquire(seat, input, Acquire::Timeout),
            9 => self.acquire(seat, input, Acquire::Wait),
            10..=12 => self.release(seat, input, true),
            13 => self.release(seat, input, false),
            14 => self.renew(seat, input),
            15 => self.check_guard(seat, input),
            16 => self.release_token(seat, input),
            17 => self.look(seat, input),
            18 | 19 => self.average(seat, input),
            20 | 21 => self.pass(input),
            22 => self.die(seat),
            23 => self.close(seat),
            24 => self.remove(seat, input),
            25 => self.evict(seat, input),
            26 => self.key(seat, input),
            27 => self.look_at_all(seat),
            28 => self.lifeline(seat, input),
            29 => self.set_wall_clock(input),
            30 => self.repair(),
            _ => self.clear(seat, input),
        }
    }

    /// Everything as it should be at the end, and everybody gone.
    pub fn finish(&mut self) {
        self.look_at_all(0);
        (0..4).for_each(|seat| self.close(seat));
        self.lifelines.clear();
    }

    /// Who sits there; opens the store if nobody does. `None`: there is no number left.
    fn take_seat(&mut self, seat: usize) -> Option<&mut Participant> {
        if self.seats[seat].is_none() {
            let life = self.model.new_id();
            let full = self.model.alive.len() >= self.sort.participants();
            match fuzzing::open_apart(&self.dir, &Cache::options()) {
                Ok(cache) => {
                    assert!(!full, "there was a number for one more");
                    self.model.alive.insert(life);
                    self.seats[seat] = Some(Participant {
                        life,
                        cache,
                        handles: BTreeMap::new(),
                        held: Vec::new(),
                    });
                }
                Err(Error::TooManyParticipants { .. }) if full => {}
                Err(error) => panic!("cannot open: {error:?}"),
            }
            if self.sort == Sort::Few {
                self.model.sweep();
            }
        }
        self.seats[seat].as_mut()
    }

    /// The participant in a seat, its handle for what the input asks for, and the model.
    fn handle(
        &mut self,
        seat: usize,
        input: &mut Input,
    ) -> Option<(Setting, Handle, Option<u64>, u64)> {
        let (key_byte, how) = (input.byte(), input.byte());
        let sort = self.sort;
        let here = self.take_seat(seat)?;
        // Every other time one that is there: what it remembers of its key is half of the story.
        let known = here.handles.keys().nth(
            usize::from(key_byte)
                .checked_rem(here.handles.len())
                .unwrap_or(0),
        );
        let of = match known {
            Some(known) if how >= 128 => known.clone(),
            _ => setting(sort, key_byte, how),
        };
        let known = here.handles.entry(of.clone()).or_insert_with(|| Known {
            handle: Handle::new(&here.cache, &of),
            met: None,
        });
        Some((of, known.handle.clone(), known.met, here.life))
    }

    /// What the model says to a handle's way to its key, and notes for the next time.
    fn meet(
        &mut self,
        seat: usize,
        of: &Setting,
        mut met: Option<u64>,
        make: bool,
    ) -> std::result::Result<bool, Refusal> {
        let found = self.model.meet(of, &mut met, make).map(|key| key.is_some());
        let here = self.seats[seat].as_mut().expect("it was taken");
        here.handles.get_mut(of).expect("it was made").met = met;
        found
    }

    fn acquire(&mut self, seat: usize, input: &mut Input, how: Acquire) {
        let Some((of, handle, met, me)) = self.handle(seat, input) else {
            return;
        };
        if of.kind == Kind::Averager {
            return self.add(seat, input, of, handle, met);
        }
        let met = self.meet(seat, &of, met, true);
        let deeper = met.is_ok() && self.model.goes_deeper(&of, me);
        let to_be_had = met.is_ok() && (deeper || self.model.can_be_had(&of.key));
        let how = match how {
            Acquire::Wait if met.is_ok() && !to_be_had => Acquire::Try,
            other => other,
        };
        let result = handle.acquire(how);
        let Some(guard) = agree(result, met.map(drop), &of) else {
            return;
        };
        assert_eq!(
            guard.is_some(),
            to_be_had,
            "{of:?} acquired: {:?}",
            self.model.keys[&of.key]
        );
        let Some(guard) = guard else {
            return;
        };
        let (token, recovered, overran) =
            with_guard!(&guard, g => (g.token(), g.recovered(), g.overran()));
        let (before, grant) = match deeper {
            true => (Before::Nobody, self.model.deeper(&of)),
            false => self.model.grant(&of, guard.at(), me, token.get()),
        };
        assert_eq!(token.get(), grant.token, "{of:?}");
        let told = match (recovered, overran) {
            (None, None) => Before::Nobody,
            (Some(dead), None) if !dead.alive => Before::Died(dead.token.get()),
            (None, Some(late)) if late.alive => Before::Overran(late.token.get()),
            other => panic!("{of:?} came from {other:?}"),
        };
        assert_eq!(told, before, "{of:?}");
        let known = recovered
            .or(overran)
            .is_none_or(|holder| holder.pid == std::process::id());
        assert!(known, "{of:?} came from {recovered:?} or {overran:?}");
        self.tokens.push(token);
        let id = grant.id;
        let here = self.seats[seat].as_mut().expect("it was taken");
        here.held.push(Held { guard, of, id });
    }

    /// One of the guards in a seat.
    fn held(&mut self, seat: usize, input: &mut Input) -> Option<(&mut Vec<Held>, usize)> {
        let held = &mut self.seats[seat].as_mut()?.held;
        let at = usize::from(input.byte()).checked_rem(held.len())?;
        Some((held, at))
    }

    fn release(&mut self, seat: usize, input: &mut Input, told: bool) {
        let Some((held, at)) = self.held(seat, input) else {
            return;
        };
        let Held { guard, of, id } = held.swap_remove(at);
        let given_back = self.model.give_back(&of.key, id).is_some();
        if told {
            let result = with_guard!(guard, g => g.release());
            assert_stands(result, given_back, &of);
        } else {
            drop(guard);
        }
    }

    fn renew(&mut self, seat: usize, input: &mut Input) {
        let now_us = self.model.now_us;
        let Some((held, at)) = self.held(seat, input) else {
            return;
        };
        let Held { guard, of, id } = &held[at];
        let (of, id) = (of.clone(), *id);
        let result = with_guard!(guard, g => g.renew());
        let over = |grant: &Grant| grant.lease.is_some_and(|l| now_us >= l.most_us);
        let grant = self.model.standing(&of.key, id).and_then(Option::as_mut);
        let stands = grant.is_some_and(|grant| match of.lease_us {
            Some(us) => {
                grant.lease = Some(Lease::from(now_us, us));
                true
            }
            None => !over(grant),
        });
        assert_stands(result, stands, &of);
    }

    fn check_guard(&mut self, seat: usize, input: &mut Input) {
        let Some((held, at)) = self.held(seat, input) else {
            return;
        };
        let Held { guard, of, id } = &held[at];
        let (of, id) = (of.clone(), *id);
        let result = with_guard!(guard, g => g.check());
        let grant = self.model.standing(&of.key, id).cloned().flatten();
        let stands = grant.is_some_and(|grant| !self.model.is_over(&grant));
        assert_stands(result, stands, &of);
    }

    fn release_token(&mut self, seat: usize, input: &mut Input) {
        let Some((of, handle, met, me)) = self.handle(seat, input) else {
            return;
        };
        let which = usize::from(input.byte()) % self.tokens.len();
        let token = self.tokens[self.tokens.len() - 1 - which];
        let found = match of.kind {
            Kind::Averager => return,
            _ => self.meet(seat, &of, met, false),
        };
        let holds = match found {
            Ok(true) => self.model.keys[&of.key].holds.iter().flatten(),
            _ => [].iter().flatten(),
        };
        let mut with_token = holds.filter(|grant| grant.token == token.get());
        let grant = with_token.next().cloned();
        let dead = grant
            .as_ref()
            .is_some_and(|g| !self.model.alive.contains(&g.by));
        // Of a dead one's it depends on whether somebody has tidied up before.
        let either = dead && grant.as_ref().is_some_and(|grant| grant.swept);
        let released = match (&handle, found) {
            (Handle::Lock(lock), found) => agree(lock.release(token), found.map(drop), &of),
            (Handle::Semaphore(semaphore), found) => match semaphore.release(token) {
                Err(Error::NotHolder { .. }) if found.is_ok() => Some(false),
                result => agree(result.map(|()| true), found.map(drop), &of),
            },
            (Handle::RLock(rlock), found) => {
                let mine = grant.as_ref().is_some_and(|grant| grant.by == me);
                return match rlock.release(token) {
                    Ok(last) if mine => {
                        let id = grant.map_or(0, |grant| grant.id);
                        assert_eq!(self.model.give_back(&of.key, id), Some(last), "{of:?}");
                    }
                    Err(Error::NotHolder { .. } | Error::Lost { .. }) if found.is_ok() && !mine => {
                    }
                    result => {
                        let nothing = agree(result, found.map(drop), &of);
                        assert_eq!(nothing, None, "{of:?}, token {token}");
                    }
                };
            }
            (Handle::Averager(_), _) => return,
        };
        let Some(released) = released else {
            return;
        };
        assert!(
            either || released == grant.is_some(),
            "{of:?}, token {token}: {released}"
        );
        if let Some(grant) = grant.filter(|_| released) {
            self.model.give_back(&of.key, grant.id);
        }
    }

    fn look(&mut self, seat: usize, input: &mut Input) {
        let Some((of, handle, met, me)) = self.handle(seat, input) else {
            return;
        };
        if of.kind == Kind::Averager {
            return;
        }
        let found = self.meet(seat, &of, met, false);
        let holds = match found {
            Ok(true) => self.model.keys[&of.key].holds.clone(),
            _ => vec![None; of.value as usize],
        };
        let stands = holds.iter().map(|hold| self.model.stand(hold));
        let available = stands.filter(|stand| *stand != Stand::Held).count();
        let expected = found.map(drop);
        let (waiters, holders) = match &handle {
            Handle::Lock(lock) => {
                let locked = agree(lock.locked(), expected, &of);
                assert!(
                    locked.is_none_or(|locked| locked == (available == 0)),
                    "{of:?}"
                );
                let holder = lock.holder().map(|holder| holder.into_iter().collect());
                (lock.waiters(), holder)
            }
            Handle::RLock(lock) => {
                let locked = agree(lock.locked(), expected, &of);
                assert!(
                    locked.is_none_or(|locked| locked == (available == 0)),
                    "{of:?}"
                );
                let mine = holds[0].as_ref().filter(|grant| grant.by == me);
                let depth = mine.map_or(0, |grant| grant.depth);
                assert!(
                    agree(lock.depth(), expected, &of).is_none_or(|d| d == depth),
                    "{of:?}"
                );
                let holder = lock.holder().map(|holder| holder.into_iter().collect());
                (lock.waiters(), holder)
            }
            Handle::Semaphore(semaphore) => {
                let told = agree(semaphore.available(), expected, &of);
                assert!(
                    told.is_none_or(|told| told as usize == available),
                    "{of:?}: {told:?}"
                );
                (semaphore.waiters(), semaphore.holders())
            }
            Handle::Averager(_) => return,
        };
        assert!(agree(waiters, expected, &of).is_none_or(|waiters| waiters == 0));
        if let Some(holders) = agree(holders, expected, &of) {
            self.compare_holders(&holders, &holds);
        }
    }

    fn compare_holders(&self, holders: &[Holder], holds: &[Option<Grant>]) {
        let expected: Vec<_> = holds.iter().flatten().collect();
        assert_eq!(
            holders.len(),
            expected.len(),
            "{holders:?} instead of {expected:?}"
        );
        for (holder, grant) in holders.iter().zip(expected) {
            let alive = self.model.alive.contains(&grant.by);
            let told = (holder.token.get(), holder.alive, holder.pid);
            assert_eq!(told, (grant.token, alive, std::process::id()), "{holder:?}");
            let left = holder.lease_left;
            let fits = match grant.lease {
                None => left.is_none(),
                Some(_) if self.model.is_over(grant) => left == Some(Duration::ZERO),
                Some(lease) => left.is_some_and(|left| {
                    let end_us = self.model.now_us + left.as_micros() as u64;
                    (lease.least_us..=lease.most_us).contains(&end_us)
                }),
            };
            assert!(
                fits,
                "{holder:?} instead of {grant:?} at {}",
                self.model.now_us
            );
        }
    }

    /// Another look at an average, or the end of it.
    fn average(&mut self, seat: usize, input: &mut Input) {
        let Some((mut of, handle, met, _)) = self.handle(seat, input) else {
            return;
        };
        let Handle::Averager(average) = handle else {
            of.kind = Kind::Averager;
            return;
        };
        let what = input.byte() % 4;
        if what == 0 {
            return self.add(seat, input, of, Handle::Averager(average), met);
        }
        let found = self.meet(seat, &of, met, false);
        let wall_us = self.model.wall_us;
        let key = self
            .model
            .keys
            .get_mut(&of.key)
            .filter(|_| found == Ok(true));
        let now = key
            .as_ref()
            .map(|key| key.average.at(wall_us))
            .unwrap_or_default();
        match what {
            1 => {
                let mean = agree(average.get(), found.map(drop), &of);
                assert!(
                    mean.is_none_or(|mean| mean == now.mean()),
                    "{of:?}: {mean:?}, {now:?}"
                );
            }
            2 => {
                let summary = agree(average.summary(), found.map(drop), &of);
                let told = summary.map(|s| s.map(|s| (s.count, s.total, s.mean, s.min, s.max)));
                let mean = now.mean();
                let due = mean.map(|mean| (now.count, now.total, mean, now.min, now.max));
                assert!(
                    told.is_none_or(|told| told == due),
                    "{of:?}: {told:?}, {due:?}"
                );
            }
            _ => {
                if let Some(key) = key {
                    key.average = Default::default();
                }
                let mean = agree(average.pop(), found.map(drop), &of);
                assert!(
                    mean.is_none_or(|mean| mean == now.mean()),
                    "{of:?}: {mean:?}, {now:?}"
                );
            }
        }
    }

    fn add(
        &mut self,
        seat: usize,
        input: &mut Input,
        of: Setting,
        handle: Handle,
        met: Option<u64>,
    ) {
        let Handle::Averager(average) = handle else {
            return;
        };
        let values = [
            1.0,
            -2.5,
            0.125,
            1e6,
            0.0,
            f64::NAN,
            f64::INFINITY,
            -1048576.0,
        ];
        let value = input.of(&values);
        let result = average.add(value);
        if !value.is_finite() {
            assert!(matches!(result, Err(Error::Invalid { .. })), "{result:?}");
            return;
        }
        let met = self.meet(seat, &of, met, true);
        agree(result, met.map(drop), &of);
        let wall_us = self.model.wall_us;
        if let Some(key) = self.model.keys.get_mut(&of.key).filter(|_| met.is_ok()) {
            key.average = key.average.at(wall_us);
            key.average.add(value);
            key.average.expires_us = of.lease_us.map(|us| wall_us + us);
        }
    }

    fn pass(&mut self, input: &mut Input) {
        let now = self.model.now_us;
        let by = input.byte();
        let lease = self.model.leases().nth(usize::from(by >> 4));
        let to = match (by % 8, lease) {
            (0, Some(lease)) => lease.least_us - 1,
            (1, Some(lease)) => lease.most_us,
            (n, _) => {
                now + [
                    1,
                    100,
                    4_000,
                    300_000,
                    1_000_000,
                    3_000_000,
                    60_000_000,
                    1 << 42,
                ][usize::from(n)]
            }
        };
        // Not past what a lease can say: 35 years after boot.
        if to < 1 << 49 {
            self.model.pass(to);
        }
        self.set_clocks();
    }

    fn set_clocks(&self) {
        fuzzing::time(Some(fuzzing::Moment {
            boot_us: self.model.now_us,
            wall_us: self.model.wall_us,
        }));
    }

    /// Leases do not mind.
    fn set_wall_clock(&mut self, input: &mut Input) {
        let by = [1, 1_000_000, 60_000_000, 3_600_000_000][usize::from(input.byte() % 4)];
        match input.byte() % 2 {
            0 => self.model.wall_us += by,
            _ => self.model.wall_us -= by,
        }
        self.set_clocks();
    }

    /// What is held stays as it is, for the next to take over.
    fn die(&mut self, seat: usize) {
        if let Some(here) = self.seats[seat].take() {
            fuzzing::die(&here.cache);
            self.leave(here.life);
        }
    }

    /// What is held is given back.
    fn close(&mut self, seat: usize) {
        if let Some(here) = self.seats[seat].take() {
            for held in &here.held {
                self.model.give_back(&held.of.key, held.id);
            }
            drop(here.held);
            self.leave(here.life);
        }
    }

    fn leave(&mut self, life: u64) {
        if !self.lifelines.iter().any(|(of, _)| *of == life) {
            self.model.alive.remove(&life);
        }
    }

    /// Hands a beacon on, or lets one go.
    fn lifeline(&mut self, seat: usize, input: &mut Input) {
        if input.byte().is_multiple_of(2) && !self.lifelines.is_empty() {
            let at = usize::from(input.byte()) % self.lifelines.len();
            let (life, line) = self.lifelines.swap_remove(at);
            drop(line);
            if !self.seats.iter().flatten().any(|here| here.life == life) {
                self.leave(life);
            }
        } else if let Some(here) = self.take_seat(seat) {
            let line = here.cache.lifeline().expect("a lifeline");
            let life = here.life;
            self.lifelines.push((life, line));
        }
    }

    fn remove(&mut self, seat: usize, input: &mut Input) {
        let key = key(self.sort, input.byte());
        if let Some(here) = self.take_seat(seat) {
            let removed = here.cache.remove(&key).expect("remove");
            assert_eq!(removed, self.model.keys.remove(&key).is_some(), "{key:?}");
        }
    }

    fn evict(&mut self, seat: usize, input: &mut Input) {
        let tag = tag(self.sort, input.byte());
        if let Some(here) = self.take_seat(seat) {
            let evicted = here.cache.evict(&tag).expect("evict");
            let before = self.model.keys.len();
            self.model
                .keys
                .retain(|_, key| tag.is_empty() || key.tag != tag);
            assert_eq!(evicted, before - self.model.keys.len(), "{tag:?}");
        }
    }

    fn clear(&mut self, seat: usize, input: &mut Input) {
        // Seldom: what an input has built up is worth something.
        if !input.byte().is_multiple_of(4) {
            return;
        }
        if let Some(here) = self.take_seat(seat) {
            let removed = here.cache.clear().expect("clear");
            assert_eq!(removed, self.model.keys.len());
            self.model.keys.clear();
        }
    }

    fn key(&mut self, seat: usize, input: &mut Input) {
        let key = key(self.sort, input.byte());
        if let Some(here) = self.take_seat(seat) {
            let info = here.cache.key(&key).expect("look at a key");
            self.compare(&key, info.as_ref());
        }
    }

    fn compare(&self, key: &[u8], info: Option<&KeyInfo>) {
        let (Some(info), Some(due)) = (info, self.model.keys.get(key)) else {
            let there = self.model.keys.contains_key(key);
            assert_eq!(info.is_some(), there, "{key:?}: {info:?}");
            return;
        };
        let tag = (!due.tag.is_empty()).then_some(&due.tag);
        assert_eq!((info.kind, info.tag.as_ref()), (due.kind, tag), "{info:?}");
        assert_eq!((&info.key[..], info.waiters), (key, 0));
        match &info.state {
            KeyState::Lock { holder } => self.compare_holders(holder.as_slice(), &due.holds),
            KeyState::Semaphore {
                value,
                available,
                holders,
            } => {
                let stands = due.holds.iter().map(|hold| self.model.stand(hold));
                let had = stands.filter(|stand| *stand != Stand::Held).count();
                let told = (*value as usize, *available as usize);
                assert_eq!(told, (due.holds.len(), had), "{info:?}");
                self.compare_holders(holders, &due.holds);
            }
            KeyState::Averager { summary } => {
                let now = due.average.at(self.model.wall_us);
                assert_eq!(summary.map(|s| s.mean), now.mean(), "{info:?}");
                assert_eq!(summary.map_or(0, |s| s.count), now.count, "{info:?}");
            }
            // There may be more kinds one day, for who is not in the crate.
            #[allow(unreachable_patterns)]
            other => panic!("{other:?}"),
        }
    }

    /// All there is, and whether it is sound.
    fn look_at_all(&mut self, seat: usize) {
        let Some(here) = self.take_seat(seat) else {
            return;
        };
        let infos = here.cache.keys().expect("list");
        let (len, report) = (here.cache.len(), here.cache.check());
        let (len, report) = (len.expect("count"), report.expect("check"));
        assert_eq!(infos.len(), self.model.keys.len(), "{infos:?}");
        assert_eq!((len, report.keys), (infos.len(), infos.len()));
        assert!(report.is_sound(), "{report:?}");
        assert_eq!(report.dead_holds, self.model.dead_holds(), "{report:?}");
        for info in &infos {
            self.compare(&info.key, Some(info));
        }
    }

    /// Only when nobody is in.
    fn repair(&mut self) {
        let repaired = Cache::repair(&self.dir);
        if self.seats.iter().flatten().next().is_some() || self.sort == Sort::Few {
            // The few others are alive, too.
            assert!(matches!(repaired, Err(Error::Busy { .. })), "{repaired:?}");
            return;
        }
        let report = repaired.expect("repair");
        let told = (report.keys_kept, report.keys_lost, report.slots_freed);
        assert_eq!(told, (self.model.keys.len(), 0, 0), "{report:?}");
        assert!(report.actions.is_empty(), "{report:?}");
        self.model.sweep();
    }
}

fn assert_stands(result: Result<()>, stands: bool, of: &Setting) {
    match (result, stands) {
        (Ok(()), true) | (Err(Error::Lost { .. }), false) => {}
        (result, _) => panic!("{of:?}: {result:?}, and the hold stands: {stands}"),
    }
}
