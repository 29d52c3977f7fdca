//! A holder, described from its word and its participant.

use std::time::Duration;

use crate::os::clock;
use crate::record::{Hold, Lease, Word};
use crate::slab::Slab;
use crate::store::members::participants::{Members, describe};
use crate::store::members::process::Process;
use crate::{Holder, Token};

/// The holder that has, or had, the hold `of`, told to a process in that PID namespace.
pub(in crate::store) fn holder(
    slab: &Slab,
    pid_namespace: u64,
    hold: &Hold,
    of: Word,
    alive: bool,
) -> Holder {
    let stamp = hold.stamp_of(of);
    let tid = stamp.map_or(0, |s| s.tid);
    let record = of.participant().and_then(|p| slab.participant(p.get()));
    let described = record.and_then(|record| describe(record, pid_namespace));
    let lease_left = match hold.lease_of(of) {
        Lease::None => None,
        Lease::Over => Some(Duration::ZERO),
        Lease::Until(until) => {
            let left = until.saturating_sub(clock::uptime_us());
            Some(Duration::from_micros(left))
        }
    };
    Holder {
        // Of an abandoned hold, the process id was put where the thread id had been.
        pid: described.as_ref().map_or(tid, |d| d.pid),
        tid,
        same_pid_namespace: described.as_ref().is_some_and(|d| d.same_pid_namespace),
        program: described.map(|d| d.program).unwrap_or_default(),
        held_for: stamp.map(|s| s.age(clock::coarse_ns(), clock::wall_s())),
        lease_left,
        token: Token::new(of.sequence()),
        alive,
    }
}

impl<'s> Members<'s> {
    /// The holder that has, or had, the hold `of`.
    pub(in crate::store) fn holder(
        self,
        process: &Process,
        hold: &Hold,
        of: Word,
        alive: bool,
    ) -> Holder {
        holder(
            &self.0.slab,
            process.identity.pid_namespace,
            hold,
            of,
            alive,
        )
    }
}
