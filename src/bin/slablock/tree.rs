//! `slablock run --tree`: a process between slablock and the command that guards all that the
//! command starts.
//!
//! The keeper adopts what is orphaned below it, so everything that descends from the command
//! descends from the keeper, whatever it closes and whichever sessions it makes. The keeper has the
//! lifeline as all others have, and ends when nothing is left. A line, a pair of sockets, ties it
//! to slablock: slablock's end is closed by its death, and then the keeper ends what it may; the
//! other way comes the news of the command: that it was started, and how it ended.
//!
//! The command is in slablock's process group, as without a keeper, so that the terminal and a
//! sender of signals to the group reach it. The keeper is in a session of its own, so that it
//! survives what kills the group. A key at the terminal does not reach it: while there is no
//! command that the key reaches, slablock passes that on, too.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{self, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::prctl::{set_child_subreaper, set_pdeathsig};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, setsid};
use slablock::Lifeline;

use crate::args::KeepArgs;
use crate::child::{self, Child, Reaped};
use crate::failure::Failure;
use crate::passed::Passed;
use crate::processes::descendants_of;
use crate::program::Program;
use crate::run::{SIGNALLED, not_started};
use crate::signals::{self, Arrived, Signals};
use crate::supervise::pass_on_early;
use crate::text;

/// How soon to look again for processes that the ones just killed have started.
const AFTER_A_BLOW: Duration = Duration::from_millis(10);
/// How soon to look again if there is no process that this one may kill.
const AFTER_A_MISS: Duration = Duration::from_millis(500);

/// The command, with or without a keeper.
pub enum Running {
    Alone(Child),
    Kept(Tree),
}

/// A command and its keeper.
pub struct Tree {
    keeper: Child,
    line: UnixStream,
    /// What has come by the line.
    news: Vec<u8>,
    /// The keeper has gone.
    is_told_all: bool,
}

/// The first byte of the news: the command is being started. What arrives from then on reaches it,
/// by its group or by the keeper, which has blocked all signals. The other bytes are how the
/// command ended.
const STARTED: u8 = 1;
const NEWS_BYTES: usize = 1 + size_of::<i32>();

impl Running {
    /// How the command ended, if it has; with a keeper, if nothing of it is left.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        match self {
            Running::Alone(child) => child.try_wait(),
            Running::Kept(tree) => tree.try_wait(),
        }
    }

    /// Passes on what is for the command and has not reached it.
    pub fn pass_on(&self, arrived: &Arrived) {
        let is_missed = match self {
            Running::Alone(_) => false,
            Running::Kept(tree) => arrived.asks_for_an_end() && !tree.is_running(),
        };
        if is_missed || arrived.is_to_be_passed_on() {
            self.pass_on_early(arrived);
        }
    }

    /// The line by which news comes, if there may be more.
    pub fn line(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Running::Kept(tree) if !tree.is_told_all => Some(tree.line.as_fd()),
            _ => None,
        }
    }

    /// Takes the news that has come.
    pub fn hear(&mut self) -> io::Result<()> {
        match self {
            Running::Alone(_) => Ok(()),
            Running::Kept(tree) => tree.hear(),
        }
    }

    /// Passes on what may have missed the command.
    pub fn pass_on_early(&self, arrived: &Arrived) {
        self.process().pass_on(arrived);
    }

    /// Asks it to end.
    pub fn terminate(&self) {
        self.process().send(Signal::SIGTERM);
    }

    /// Ends it, with a keeper all of it.
    pub fn kill(&self) {
        match self {
            Running::Alone(child) => child.send(Signal::SIGKILL),
            // Fails only if the keeper has gone.
            Running::Kept(tree) => drop(tree.line.shutdown(Shutdown::Write)),
        }
    }

    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        match self {
            Running::Alone(child) => child.wait(),
            Running::Kept(tree) => tree.keeper.wait(),
        }
    }

    fn process(&self) -> &Child {
        match self {
            Running::Alone(child) => child,
            Running::Kept(tree) => &tree.keeper,
        }
    }
}

impl Tree {
    /// Starts a keeper that starts the command.
    pub fn start(
        command: &[OsString],
        variables: &[(&str, &OsStr)],
        mask: &SigSet,
        lifeline: &Lifeline,
    ) -> io::Result<Tree> {
        let (line, of_keeper) = UnixStream::pair()?;
        line.set_nonblocking(true)?;
        // At high numbers, for the keeper is told them, and the command may have any of the others.
        let passed = std::iter::once(of_keeper.as_fd()).chain(lifeline.descriptors());
        let passed = passed
            .map(child::above)
            .collect::<io::Result<Vec<OwnedFd>>>()?;
        let numbers = passed.iter().map(|fd| fd.as_raw_fd().to_string().into());
        let words = ["slablock", "keep-tree"].map(OsString::from).into_iter();
        let words = words.chain(numbers).chain(["--".into()]);
        let words: Vec<OsString> = words.chain(command.iter().cloned()).collect();
        let keeper = Program::this_one(&words, variables)
            .and_then(|keeper| child::start(&keeper, mask, Passed::As(&passed), None))
            .map_err(|error| io::Error::other(format!("no keeper to be had: {error}")))?;
        Ok(Tree {
            keeper,
            line,
            news: Vec::new(),
            is_told_all: false,
        })
    }

    /// Whether the command has been started, or is just being, and is not known to have ended.
    fn is_running(&self) -> bool {
        (1..NEWS_BYTES).contains(&self.news.len())
    }

    fn hear(&mut self) -> io::Result<()> {
        match self.line.read_to_end(&mut self.news) {
            Ok(_) => self.is_told_all = true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        let Some(of_keeper) = self.keeper.try_wait()? else {
            return Ok(None);
        };
        self.hear()?;
        if !of_keeper.success() {
            if of_keeper.signal().is_some() && !self.news.is_empty() {
                text::complain("the keeper was killed; what the command started may still run");
            }
            // It has said why, or there was nothing to be said.
            return Ok(Some(of_keeper));
        }
        Ok(Some(match self.news[..] {
            [_, a, b, c, d] => ExitStatus::from_raw(i32::from_ne_bytes([a, b, c, d])),
            // It was told to end everything.
            _ => of_keeper,
        }))
    }
}

/// What a keeper lives for. Returns its exit status: 0 when nothing is left.
pub fn keep(args: KeepArgs) -> Result<u8, Failure> {
    // First of all, while no number can be that of a descriptor of this program's own.
    let [line, beacon, witness] = child::inherited([args.line, args.beacon, args.witness])?;
    let mut line = UnixStream::from(line);
    // Open as long as this process.
    let lifeline = [beacon, witness];
    let signals = Signals::block(signals::catchable())?;
    // In the background of a terminal it may write there as the others do.
    SigSet::from(Signal::SIGTTOU).thread_block()?;
    set_child_subreaper(true)?;
    // From here on the line tells. If slablock had died before, this process would have died with
    // it.
    set_pdeathsig(None)?;
    child::learn_of_ends()?;
    if let Some(number) = signals.end_requested()? {
        return Ok(SIGNALLED + number as u8);
    }
    // Before the start, so that slablock knows of whatever may be left when this process is killed.
    // If slablock has gone, no process needs to know.
    let _ = line.write_all(&[STARTED]);
    let child = start_apart(&args.command, &signals.mask_before(), &lifeline)
        .map_err(|error| not_started(&args.command[0], &error))?;
    pass_on_early(&signals, |arrived| child.pass_on(arrived))?;
    let keeper = Keeper {
        child,
        line,
        signals,
    };
    keeper.keep()
}

/// Starts the command in the process group that this process is in, and leaves the group and its
/// session.
///
/// Whatever kills the group then kills the command at the most, and what that has started has a
/// keeper. Killed in between, what is left has the lifeline. Never is this process in another group
/// of the same session: when its child ended, or was stopped, the kernel would take the group for
/// an orphaned one, and hang it up.
fn start_apart(command: &[OsString], mask: &SigSet, lifeline: &[OwnedFd]) -> io::Result<Child> {
    let program = Program::new(command, &[])?;
    let child = child::start(&program, mask, Passed::As(lifeline), None)?;
    setsid()?;
    Ok(child)
}

struct Keeper {
    child: Child,
    line: UnixStream,
    signals: Signals,
}

impl Keeper {
    fn keep(mut self) -> Result<u8, Failure> {
        // When to strike: slablock has gone, or wants an end.
        let mut blow: Option<Instant> = None;
        let mut arrived: Option<Arrived> = None;
        // A signal is passed on after the ends that came with it are known. The kernel hands out
        // SIGTERM before the news of a child, whichever was first, and a command that has ended
        // swallows what it is sent.
        while self.is_anything_left()? {
            if let Some(arrived) = arrived.take()
                && blow.is_none()
            {
                self.pass_on(&arrived);
            }
            let line = [self.line.as_fd()];
            let others = if blow.is_some() { &[][..] } else { &line };
            arrived = self.signals.next_beside(blow, others)?;
            if arrived.is_none() {
                let pause = match kill_all() {
                    true => AFTER_A_BLOW,
                    false => AFTER_A_MISS,
                };
                blow = Some(Instant::now() + pause);
            }
        }
        Ok(0)
    }

    /// Takes the news of all that has ended. Returns whether there is anything that has not.
    fn is_anything_left(&mut self) -> io::Result<bool> {
        loop {
            match child::reap()? {
                Reaped::Ended(pid, status) => self.note(pid, status),
                Reaped::Childless => return Ok(false),
                Reaped::Nobody => return Ok(true),
            }
        }
    }

    /// Tells slablock how the command ended. The end of an orphan is not told.
    fn note(&mut self, pid: Pid, status: ExitStatus) {
        if self.child.has_ended(pid, status) {
            // If slablock has gone, no process needs to know.
            let _ = self.line.write_all(&status.into_raw().to_ne_bytes());
        }
    }

    /// Passes a signal on to the command; when that has ended, to all that is left of it, for it is
    /// what keeps slablock from ending.
    fn pass_on(&self, arrived: &Arrived) {
        if !self.child.is_over() {
            if arrived.is_to_be_passed_on() {
                self.child.pass_on(arrived);
            }
        } else if arrived.asks_for_an_end() {
            for pid in descendants_of(process::id()) {
                // It has ended, or is none that this process may send anything.
                let _ = child::send(pid, arrived.number);
            }
        }
    }
}

/// Kills all that descends from this process, but for those that it may not. Returns whether there
/// was one.
fn kill_all() -> bool {
    let kill = |pid: &u32| child::send(*pid, Signal::SIGKILL as i32).is_ok();
    let killed = descendants_of(process::id())
        .iter()
        .filter(|pid| kill(pid))
        .count();
    killed > 0
}
