//! Making processes: the only room with unsafe code.
//!
//! A command is started so that it cannot outlive its guard. Two things tie it to the hold. The kernel
//! kills it when this process dies; and it inherits a lifeline, so that the hold lasts while any process
//! of its tree lives, also those that the kernel did not kill (grandchildren, or a program with privileges
//! of its own).
//!
//! The child borrows this process's memory until it becomes the command, as in `posix_spawn`, which
//! itself cannot set a death signal. A forked child would copy each page that it touches, and this one
//! again each page that it writes: a third of the time that it takes to run a small command.

#![allow(unsafe_code)]

use std::{
    cell::Cell,
    convert::Infallible,
    env,
    ffi::{CString, OsStr, OsString, c_char, c_int},
    io,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStringExt, process::ExitStatusExt},
    },
    process::ExitStatus,
    ptr,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, fcntl},
    libc,
    sched::{CloneFlags, clone},
    sys::{
        prctl::set_pdeathsig,
        signal::{SigHandler, SigSet, Signal, kill, signal},
    },
    unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, getpid, getppid},
};

use slablock::Lifeline;

/// Shells hand out the small numbers to scripts (`exec 3>file`), which would close the lifeline.
const LIFELINE_MIN: i32 = 64;
/// Room for the search along PATH, whose entries may be of 4,096 bytes. Only what is used costs.
const STACK_BYTES: usize = 256 << 10;

/// A program with its arguments and its environment, in the form in which the kernel takes them.
pub struct Program {
    arguments: Strings,
    environment: Strings,
}

/// What `execve` reads: pointers with a null behind them, and what they point to.
struct Strings {
    pointers: Vec<*const c_char>,
    _strings: Vec<CString>,
}

/// What a command is to have as its standard streams.
pub struct Streams {
    pub input: OwnedFd,
    pub output: OwnedFd,
    pub errors: OwnedFd,
}

impl Program {
    /// `command` is not empty. `variables` come on top of this process's environment.
    pub fn new(command: &[OsString], variables: &[(&str, &OsStr)]) -> io::Result<Program> {
        let inherited =
            env::vars_os().filter(|(name, _)| variables.iter().all(|(own, _)| name != own));
        let own = variables
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let assignments = inherited.chain(own).map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            name
        });
        Ok(Program {
            arguments: Strings::new(command.iter().cloned())?,
            environment: Strings::new(assignments)?,
        })
    }

    /// Starts it with `mask` as its signal mask, the lifeline open in it, and this process's standard streams
    /// or others.
    ///
    /// The kernel's promise to kill the command is tied to the calling *thread*: call it from the one
    /// that lives as long as the process.
    pub fn start(
        &self,
        mask: &SigSet,
        lifeline: &Lifeline,
        streams: Option<&Streams>,
    ) -> io::Result<Child> {
        let guardian = getpid();
        let failure = Cell::new(None);
        let become_command = || {
            let Err(error) =
                prepare(guardian, mask, lifeline, streams).and_then(|()| self.execute());
            failure.set(Some(error));
            0
        };
        let mut stack = vec![0; STACK_BYTES];
        let flags = CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK;
        // SAFETY: until the child has become the command or has ended, this thread stands still
        // (CLONE_VFORK); so the stack and all that is borrowed stay, and nothing is used by two. The child
        // makes system calls and searches PATH, no more: no allocation, no lock, no panic. No signal
        // handler of this process can run in it: it has none but the standard library's for faults.
        let pid = unsafe {
            clone(
                Box::new(become_command),
                &mut stack,
                flags,
                Some(Signal::SIGCHLD as c_int),
            )
        }?;
        let mut child = Child { pid, status: None };
        match failure.get() {
            None => Ok(child),
            Some(error) => {
                child.wait()?;
                Err(error.into())
            }
        }
    }

    /// Becomes the program. Only ever returns to say why not.
    fn execute(&self) -> nix::Result<Infallible> {
        let arguments = self.arguments.pointers.as_ptr();
        // SAFETY: both arrays end with a null, point to strings that end with one, and outlive the call;
        // the first of the arguments is there.
        unsafe { libc::execvpe(*arguments, arguments, self.environment.pointers.as_ptr()) };
        Err(Errno::last())
    }
}

impl Strings {
    fn new(strings: impl Iterator<Item = OsString>) -> io::Result<Strings> {
        let strings = strings
            .map(|string| CString::new(string.into_vec()))
            .collect::<Result<Vec<_>, _>>()?;
        let pointers = strings.iter().map(|string| string.as_ptr());
        Ok(Strings {
            pointers: pointers.chain([ptr::null()]).collect(),
            _strings: strings,
        })
    }
}

/// Runs in the child, before it becomes the command.
fn prepare(
    guardian: Pid,
    mask: &SigSet,
    lifeline: &Lifeline,
    streams: Option<&Streams>,
) -> nix::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    // The guardian may have died before the kernel was told. 0: it is in another PID namespace.
    let parent = getppid();
    if parent != guardian && parent.as_raw() != 0 {
        return Err(Errno::ESRCH);
    }
    pass_on(lifeline)?;
    if let Some(streams) = streams {
        // The descriptors are not among the first three, which every Rust program has open.
        dup2_stdin(&streams.input)?;
        dup2_stdout(&streams.output)?;
        dup2_stderr(&streams.errors)?;
    }
    // Rust programs ignore it; others expect to be ended by it.
    // SAFETY: installs no handler, only the default.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }?;
    crate::start::large_files_as_before()?;
    // Last, for from here on a pending signal strikes.
    mask.thread_set_mask()
}

/// Lets the lifeline live through the exec.
fn pass_on(lifeline: &Lifeline) -> nix::Result<()> {
    for descriptor in lifeline.descriptors() {
        if fcntl(descriptor, FcntlArg::F_DUPFD(LIFELINE_MIN)).is_err() {
            // Few descriptors are allowed here: the number that it has must do.
            fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
    }
    Ok(())
}

/// The running command.
pub struct Child {
    pid: Pid,
    status: Option<ExitStatus>,
}

impl Child {
    /// How it ended, if it has.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.wait_with(libc::WNOHANG)
    }

    /// How it ended, once it has.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.wait_with(0)? {
                return Ok(status);
            }
        }
    }

    /// Does nothing if its end is known. Until then its process id is its own, so nobody else is hit.
    pub fn send(&self, signal: Signal) {
        if self.status.is_none() {
            let _ = kill(self.pid, signal);
        }
    }

    fn wait_with(&mut self, flags: c_int) -> io::Result<Option<ExitStatus>> {
        if self.status.is_some() {
            return Ok(self.status);
        }
        let mut status = 0;
        // SAFETY: writes the status and nothing else. (The safe form does not know real-time signals.)
        let ended = unsafe { libc::waitpid(self.pid.as_raw(), &mut status, flags) };
        match Errno::result(ended) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => self.status = Some(ExitStatus::from_raw(status)),
            Err(error) => return Err(error.into()),
        }
        Ok(self.status)
    }
}

/// Makes sure that the command's end can be learnt.
///
/// A parent that ignores SIGCHLD hands that on, and children then vanish without a status.
pub fn learn_of_ends() -> nix::Result<()> {
    // SAFETY: installs no handler, only the default.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }.map(drop)
}

/// Which of the two that `fork` returns to this is.
pub enum Forked {
    Parent(Pid),
    Child,
}

/// Divides this process in two.
///
/// For `slablock torture`, which has to do what programs do that use the library: the child goes on
/// with whatever its parent had open.
pub fn fork() -> nix::Result<Forked> {
    // SAFETY: the thread that the child is left with holds none of this program's locks: the one
    // other thread that there may be is the library's, whose hook makes forking sound at any moment,
    // and the allocator's own hook does the same.
    Ok(match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Forked::Parent(child),
        ForkResult::Child => Forked::Child,
    })
}
