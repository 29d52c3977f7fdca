//! Making processes: the only room with unsafe code.
//!
//! A command is started so that it cannot outlive its guard. Two things tie it to the hold. The
//! kernel kills it when this process dies; and it inherits a lifeline, so that the hold lasts while
//! any process of its tree lives, also those that the kernel did not kill (grandchildren, or a
//! program with privileges of its own).
//!
//! The child borrows this process's memory until it becomes the command, as in `posix_spawn`, which
//! itself cannot set a death signal. A forked child would copy each page that it touches, and this
//! one again each page that it writes: a third of the time that it takes to run a small command.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::{io, ptr};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigHandler, SigSet, Signal, kill, signal};
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, getpid, getppid};

use crate::passed::{LIFELINE_MIN, Passed};
use crate::program::Program;
use crate::signals::Arrived;

/// Far more than the few system calls need that the child makes on it.
const STACK_BYTES: usize = 64 << 10;
/// Below the stack, and never to be touched: a multiple of every page size.
const GUARD_BYTES: usize = 64 << 10;

/// What a command is to have as its standard streams.
pub struct Streams {
    pub input: OwnedFd,
    pub output: OwnedFd,
    pub errors: OwnedFd,
}

/// All that the child needs to become the command, and where it says why it could not.
struct Birth<'a> {
    program: &'a Program,
    guardian: Pid,
    mask: &'a SigSet,
    passed: Passed<'a>,
    streams: Option<&'a Streams>,
    failure: Cell<Option<Errno>>,
}

/// Starts a program with `mask` as its signal mask, what is passed to it, and this process's
/// standard streams or others.
///
/// The kernel's promise to kill the command is tied to the calling *thread*: call it from the one
/// that lives as long as the process.
pub fn start(
    program: &Program,
    mask: &SigSet,
    passed: Passed<'_>,
    streams: Option<&Streams>,
) -> io::Result<Child> {
    let birth = Birth {
        program,
        guardian: getpid(),
        mask,
        passed,
        streams,
        failure: Cell::new(None),
    };
    let stack = Stack::new()?;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: until the child has become the command or has ended, this thread stands still
    // (CLONE_VFORK); so the stack and all that is borrowed stay, and nothing is used by two. The
    // child makes system calls, no more: no allocation, no lock, no panic, and no function of the C
    // library that takes as much of the stack as its arguments ask for. No signal handler of this
    // process can run in it: it has none but the standard library's for faults.
    let pid = unsafe {
        libc::clone(
            be_born,
            stack.top(),
            flags,
            ptr::from_ref(&birth).cast_mut().cast(),
        )
    };
    let pid = Pid::from_raw(Errno::result(pid)?);
    let mut child = Child { pid, status: None };
    match birth.failure.get() {
        None => Ok(child),
        Some(error) => {
            child.wait()?;
            Err(error.into())
        }
    }
}

/// The child's whole life before it is the command. Only ever returns because it did not become
/// that.
extern "C" fn be_born(birth: *mut c_void) -> c_int {
    // SAFETY: `start` passed its own `Birth`, which stays until this has ended, and which nobody
    // changes meanwhile.
    let birth = unsafe { &*birth.cast::<Birth<'_>>() };
    let error = match birth.prepare() {
        Ok(()) => birth.execute(),
        Err(error) => error,
    };
    birth.failure.set(Some(error));
    0
}

impl Birth<'_> {
    /// What has to be done before it becomes the command.
    fn prepare(&self) -> nix::Result<()> {
        set_pdeathsig(Signal::SIGKILL)?;
        // The guardian may have died before the kernel was told. 0: it is in another PID namespace.
        let parent = getppid();
        if parent != self.guardian && parent.as_raw() != 0 {
            return Err(Errno::ESRCH);
        }
        self.passed.let_through_exec()?;
        if let Some(streams) = self.streams {
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
        self.mask.thread_set_mask()
    }

    /// Becomes the program, the first that can be, as `execvp` looks for it. Returns why not.
    fn execute(&self) -> Errno {
        let mut search = self.program.search();
        for path in self.program.candidates() {
            let error = self.execute_at(path);
            if search.is_ended_by(error) {
                return error;
            }
        }
        search.in_vain()
    }

    /// Becomes the program of that path, or the shell that runs it if it is a script without `#!`.
    fn execute_at(&self, path: &CStr) -> Errno {
        let error = execve(path, self.program.arguments().as_ptr().cast(), self.program);
        if error != Errno::ENOEXEC {
            return error;
        }
        let of_shell = self.program.arguments_of_shell(path);
        let error = execve(Program::SHELL, of_shell.as_ptr().cast(), self.program);
        self.program.forget_shell();
        error
    }
}

/// Becomes what is at `path`. Only ever returns to say why not.
fn execve(path: &CStr, arguments: *const *const c_char, program: &Program) -> Errno {
    // SAFETY: both arrays end with a null, point to strings that end with one, and outlive the
    // call.
    unsafe { libc::execve(path.as_ptr(), arguments, program.environment().as_ptr()) };
    Errno::last()
}

/// Memory for the child to run on. What would run over its end ends the child instead of the
/// parent's heap.
struct Stack {
    base: *mut c_void,
}

impl Stack {
    fn new() -> nix::Result<Stack> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
        let len = GUARD_BYTES + STACK_BYTES;
        // SAFETY: new pages, wherever the kernel has room for them.
        let base = unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        let stack = Stack { base };
        let usable = base.wrapping_byte_add(GUARD_BYTES);
        // SAFETY: the upper part of these pages, which nobody uses yet.
        let opened =
            unsafe { libc::mprotect(usable, STACK_BYTES, libc::PROT_READ | libc::PROT_WRITE) };
        Errno::result(opened)?;
        Ok(stack)
    }

    /// Where it begins, for it grows down.
    fn top(&self) -> *mut c_void {
        self.base.wrapping_byte_add(GUARD_BYTES + STACK_BYTES)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the pages of `new`; the child that ran on them has gone on to other memory, or
        // has ended.
        unsafe { libc::munmap(self.base, GUARD_BYTES + STACK_BYTES) };
    }
}

/// A copy at a number that is out of the way, or where few descriptors are allowed at any.
pub fn above(descriptor: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let number = fcntl(descriptor, FcntlArg::F_DUPFD_CLOEXEC(LIFELINE_MIN));
    let number = number.or_else(|_| fcntl(descriptor, FcntlArg::F_DUPFD_CLOEXEC(3)))?;
    // SAFETY: a new descriptor, of which nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Descriptors that this program was given under these numbers when it was executed, from now on
/// its own alone. To be called before it opens anything.
pub fn inherited<const N: usize>(numbers: [RawFd; N]) -> io::Result<[OwnedFd; N]> {
    for (at, number) in numbers.iter().enumerate() {
        // SAFETY: asks whether there is one, and keeps it from children.
        let marked = unsafe { libc::fcntl(*number, libc::F_SETFD, libc::FD_CLOEXEC) };
        let is_ours = *number > libc::STDERR_FILENO && !numbers[..at].contains(number);
        if !is_ours || Errno::result(marked).is_err() {
            return Err(Errno::EBADF.into());
        }
    }
    // SAFETY: they are open, each is named once, and nothing in this program owns any, for it has
    // opened none.
    Ok(numbers.map(|number| unsafe { OwnedFd::from_raw_fd(number) }))
}

/// What became of the children of this process.
pub enum Reaped {
    Ended(Pid, ExitStatus),
    /// None has ended that was not reported yet.
    Nobody,
    /// There are none.
    Childless,
}

/// Takes the news of one child that has ended, also of one that was adopted.
pub fn reap() -> io::Result<Reaped> {
    let mut status = 0;
    // SAFETY: writes the status and nothing else. (The safe form does not know real-time signals.)
    let ended = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG | libc::__WALL) };
    match Errno::result(ended) {
        Ok(0) | Err(Errno::EINTR) => Ok(Reaped::Nobody),
        Ok(pid) => Ok(Reaped::Ended(
            Pid::from_raw(pid),
            ExitStatus::from_raw(status),
        )),
        Err(Errno::ECHILD) => Ok(Reaped::Childless),
        Err(error) => Err(error.into()),
    }
}

/// Sends a signal of any number.
pub fn send(pid: u32, number: c_int) -> nix::Result<()> {
    // SAFETY: sends a signal and nothing else. (The safe form does not know real-time signals.)
    Errno::result(unsafe { libc::kill(pid as libc::pid_t, number) }).map(drop)
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

    /// Sends a signal, or does nothing if the command's end is known. Until then no other process
    /// has its id, so none is hit.
    pub fn send(&self, signal: Signal) {
        if self.status.is_none() {
            let _ = kill(self.pid, signal);
        }
    }

    /// Notes how the command ended, if `pid` is the command: for a caller that reaps all children.
    pub fn has_ended(&mut self, pid: Pid, status: ExitStatus) -> bool {
        let is_it = pid == self.pid && !self.is_over();
        if is_it {
            self.status = Some(status);
        }
        is_it
    }

    /// Whether its end is known.
    pub fn is_over(&self) -> bool {
        self.status.is_some()
    }

    /// Sends it what came to this process, with what came along with it. Does nothing if its end is
    /// known.
    pub fn pass_on(&self, arrived: &Arrived) {
        if self.status.is_some() {
            return;
        }
        let (pid, number) = (self.pid.as_raw(), arrived.number);
        match arrived.value {
            // Not to be told that it has ended: its end is not known, so it is there.
            None => drop(send(pid as u32, number)),
            Some(value) => {
                let value = libc::sigval {
                    sival_ptr: ptr::without_provenance_mut(value as usize),
                };
                // SAFETY: sends a signal and a number that nobody here takes for a pointer.
                unsafe { libc::sigqueue(pid, number, value) };
            }
        }
    }

    fn wait_with(&mut self, flags: c_int) -> io::Result<Option<ExitStatus>> {
        if self.status.is_some() {
            return Ok(self.status);
        }
        let mut status = 0;
        // SAFETY: writes the status and nothing else. (The safe form does not know real-time
        // signals.)
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

/// Forks this process.
///
/// For `slablock torture`, which has to do what programs do that use the library: the child
/// continues with everything that its parent had open.
pub fn fork() -> nix::Result<Forked> {
    // SAFETY: the thread that the child is left with holds none of this program's locks: the one
    // other thread that there may be is the library's, and the library's hook makes forking sound
    // at any moment, as does the allocator's own hook.
    Ok(match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Forked::Parent(child),
        ForkResult::Child => Forked::Child,
    })
}
