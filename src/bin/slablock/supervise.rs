//! Watching the command while it runs: signals are passed on to it, its lease is renewed, and it is
//! ended if the lease is lost.

use std::process::ExitStatus;
use std::time::{Duration, Instant};

use crate::failure::Failure;
use crate::hold::Held;
use crate::signals::{Arrived, Signals};
use crate::text;
use crate::tree::Running;

/// How long the command may take to end by itself after its lease was lost.
const GRACE: Duration = Duration::from_secs(2);
/// Two renewals may fail to come in time before the lease is over.
const RENEWALS_PER_LEASE: u32 = 3;

/// How the command ended.
pub struct Ended {
    pub status: ExitStatus,
    /// The lease was lost and the command was ended for that.
    pub lost: bool,
}

/// Waits for the command's end and keeps `held` alive meanwhile.
pub fn supervise(
    child: &mut Running,
    held: &Held,
    lease: Option<Duration>,
    signals: &Signals,
) -> Result<Ended, Failure> {
    pass_on_early(signals, |arrived| child.pass_on_early(arrived))?;
    let mut watch = Watch::new(lease);
    loop {
        // Asked each time: the news of its end may have been read among other signals.
        if let Some(status) = child.try_wait()? {
            let lost = watch.lost;
            return Ok(Ended { status, lost });
        }
        match signals.next_beside(watch.next, child.line().as_slice())? {
            Some(arrived) => child.pass_on(&arrived),
            None => {
                // Signals that came before the news are passed on before it is read: to the process
                // they were for.
                while let Some(arrived) = signals.next(Some(Instant::now()))? {
                    child.pass_on(&arrived);
                }
                child.hear()?;
            }
        }
        if watch.next.is_some_and(|next| Instant::now() >= next) {
            watch.act(child, held);
        }
    }
}

/// Passes on what came while the command was being started and may have missed it, whatever its
/// sender. Twice in this instant is better than not at all.
pub fn pass_on_early(signals: &Signals, pass_on: impl Fn(&Arrived)) -> Result<(), Failure> {
    while let Some(arrived) = signals.pending()? {
        pass_on(&arrived);
    }
    Ok(())
}

/// What is to be done about the lease, and when.
struct Watch {
    next: Option<Instant>,
    every: Duration,
    lost: bool,
}

impl Watch {
    fn new(lease: Option<Duration>) -> Watch {
        let every = lease.map(|lease| lease / RENEWALS_PER_LEASE);
        Watch {
            next: every.map(|every| Instant::now() + every),
            every: every.unwrap_or_default(),
            lost: false,
        }
    }

    fn act(&mut self, child: &Running, held: &Held) {
        if self.lost {
            child.kill();
            self.next = None;
            return;
        }
        let Err(error) = held.renew() else {
            self.next = Some(Instant::now() + self.every);
            return;
        };
        text::complain(format_args!("ending the command: {error}"));
        child.terminate();
        self.next = Some(Instant::now() + GRACE);
        self.lost = true;
    }
}
