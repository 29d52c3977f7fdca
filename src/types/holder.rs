//! What can be said about the holder of a lock or a permit, and about the one before.

use std::fmt;
use std::time::Duration;

use crate::types::Token;

/// The holder of a lock or a permit, now or before.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// Its process id, in its own PID namespace; 0 if nobody can say any more.
    pub pid: u32,
    /// Its thread id; 0 while it is not known.
    pub tid: u32,
    /// The name of its program as the kernel has it (at most 15 bytes); empty if nobody can say
    /// any more.
    pub program: String,
    /// For how long it has it. A hold with a lease, or one that was waited for, to about 4 ms and
    /// not counting time the machine was suspended; one that was free for the taking in whole
    /// seconds of the wall clock. `None` in the instant before the holder has noted it.
    pub held_for: Option<Duration>,
    /// What is left of its lease; zero when it is over. `None`: no lease.
    pub lease_left: Option<Duration>,
    /// The token of its grant.
    pub token: Token,
    /// Whether its process lives, as far as the kernel can tell. In doubt, `true`.
    pub alive: bool,
    /// Whether `pid` means something in the PID namespace of the calling process.
    pub same_pid_namespace: bool,
}

/// As in `rsync (process 4711)`, with what is special about it: that it died, that its lease is
/// over, that its process id means nothing here.
impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.pid, self.program.is_empty()) {
            (0, true) => f.write_str("an unknown process")?,
            (_, true) => write!(f, "process {}", self.pid)?,
            _ => write!(f, "{} (process {})", self.program.escape_debug(), self.pid)?,
        }
        // Nothing is known of the process behind a number without a name: it may be of any
        // namespace.
        if !self.same_pid_namespace && !self.program.is_empty() {
            f.write_str(", in another PID namespace")?;
        }
        match (self.alive, self.lease_left) {
            (false, _) => f.write_str(", dead"),
            (true, Some(Duration::ZERO)) => f.write_str(", its lease over"),
            _ => Ok(()),
        }
    }
}

/// The holder before, which did not give its hold back: what it protects may be half-written.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Predecessor {
    /// Which holder it was.
    pub holder: Holder,
    /// How its hold ended.
    pub why: Ending,
}

/// How a hold ended that was not given back.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ending {
    /// Its process died.
    Died,
    /// Its lease was over. It may still run, and not know: what it writes later, its token tells.
    LeaseExpired,
}

impl Predecessor {
    pub(crate) fn of(holder: Holder, died: bool) -> Predecessor {
        let why = match died {
            true => Ending::Died,
            false => Ending::LeaseExpired,
        };
        Predecessor { holder, why }
    }

    pub(crate) fn has_died(&self) -> bool {
        self.why == Ending::Died
    }

    /// Its holder, if it died.
    pub(crate) fn dead(&self) -> Option<&Holder> {
        self.has_died().then_some(&self.holder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_is_told_in_one_line() {
        let holder = |alive, lease_left, same_pid_namespace| Holder {
            pid: 4_711,
            tid: 4_712,
            program: "rsync".to_string(),
            held_for: None,
            lease_left,
            token: Token::new(7),
            alive,
            same_pid_namespace,
        };
        let over = Some(Duration::ZERO);
        for (holder, told) in [
            (holder(true, None, true), "rsync (process 4711)"),
            (holder(false, over, true), "rsync (process 4711), dead"),
            (
                holder(true, over, true),
                "rsync (process 4711), its lease over",
            ),
            (
                holder(true, None, false),
                "rsync (process 4711), in another PID namespace",
            ),
        ] {
            assert_eq!(holder.to_string(), told);
        }
        // As of a hold that was freed after a death: the number is known, and no more.
        let mut unknown = Holder {
            program: String::new(),
            ..holder(false, None, false)
        };
        assert_eq!(unknown.to_string(), "process 4711, dead");
        unknown.pid = 0;
        assert_eq!(unknown.to_string(), "an unknown process, dead");
    }
}
