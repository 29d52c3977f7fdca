//! Between a thread and the kernel: each of its system calls, whoever makes it, comes here first
//! (syscall user dispatch, Linux 5.11), and is made, or fails, as [`decide`](crate::faults::decide)
//! says.
//!
//! One thread of a process at a time is armed. A child of a fork starts disarmed. What starts a
//! thread is made as it is, and from there on the rest of what was armed.

use std::arch::global_asm;
use std::cell::UnsafeCell;
use std::ffi::{c_int, c_long, c_void};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::libc;

use crate::faults::{self, Verdict};

const SET_DISPATCH: c_int = 59;
const ON: libc::c_ulong = 1;
const OFF: libc::c_ulong = 0;
const BLOCK: u8 = 1;
const ALLOW: u8 = 0;
/// The kernel calls no handler without it, and the C library has its own code for that.
const SA_RESTORER: libc::c_ulong = 0x0400_0000;

// Calls made here are not dispatched again: its arguments are moved to where the kernel wants them.
global_asm!(
    ".pushsection .text",
    ".global io_errors_begin",
    "io_errors_begin:",
    ".global io_errors_call",
    "io_errors_call:",
    "mov rax, rdi",
    "mov rdi, rsi",
    "mov rsi, rdx",
    "mov rdx, rcx",
    "mov r10, r8",
    "mov r8, r9",
    "mov r9, [rsp + 8]",
    "syscall",
    "ret",
    ".global io_errors_return",
    "io_errors_return:",
    // These very bytes tell an unwinder what it is.
    "mov rax, 15",
    "syscall",
    "ud2",
    ".global io_errors_end",
    "io_errors_end:",
    "ud2",
    ".popsection",
);

unsafe extern "C" {
    fn io_errors_begin();
    fn io_errors_call(number: c_long, a: u64, b: u64, c: u64, d: u64, e: u64, f: u64) -> i64;
    fn io_errors_return();
    fn io_errors_end();
}

/// One system call.
#[derive(Clone, Copy)]
pub struct Call {
    pub number: c_long,
    pub arguments: [u64; 6],
}

impl Call {
    /// Makes it, and returns what the kernel does: an error is negative.
    fn make(&self) -> i64 {
        let [a, b, c, d, e, f] = self.arguments;
        // SAFETY: the program wanted this very call.
        unsafe { io_errors_call(self.number, a, b, c, d, e, f) }
    }
}

struct Selector(UnsafeCell<u8>);

// SAFETY: written by the armed thread only, and read by the kernel on its behalf.
unsafe impl Sync for Selector {}

static SELECTOR: Selector = Selector(UnsafeCell::new(ALLOW));
static IS_ARMED: AtomicBool = AtomicBool::new(false);

fn select(what: u8) {
    // SAFETY: see the type; volatile, for the kernel reads it.
    unsafe { SELECTOR.0.get().write_volatile(what) };
}

/// What `rt_sigaction` of the kernel takes.
#[repr(C)]
struct Action {
    handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void),
    flags: libc::c_ulong,
    restorer: unsafe extern "C" fn(),
    mask: u64,
}

/// Whether the kernel can do it. Once in a process, before anything is armed.
pub fn prepare() -> bool {
    let action = Action {
        handler: on_call,
        flags: libc::SA_SIGINFO as libc::c_ulong | SA_RESTORER,
        restorer: io_errors_return,
        mask: 0,
    };
    // SAFETY: the structure is the kernel's, the mask has 8 bytes, and the handler lives as long as
    // the program.
    let set = unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            libc::SIGSYS,
            &raw const action,
            0,
            8,
        )
    };
    let is_there = set == 0 && dispatch(ON);
    is_there && dispatch(OFF)
}

fn dispatch(mode: libc::c_ulong) -> bool {
    let begin = io_errors_begin as *const () as usize;
    let end = io_errors_end as *const () as usize;
    let (at, len, selector) = match mode {
        ON => (begin, end - begin + 1, SELECTOR.0.get()),
        _ => (0, 0, std::ptr::null_mut()),
    };
    // SAFETY: the selector and the code live as long as the program.
    unsafe { libc::prctl(SET_DISPATCH, mode, at, len, selector) == 0 }
}

/// Does something with its calls dispatched.
pub fn armed<T>(work: impl FnOnce() -> T) -> T {
    assert!(dispatch(ON), "dispatching, which went before");
    IS_ARMED.store(true, Ordering::SeqCst);
    select(BLOCK);
    let disarm = Disarm;
    let result = work();
    drop(disarm);
    result
}

struct Disarm;

impl Drop for Disarm {
    fn drop(&mut self) {
        select(ALLOW);
        IS_ARMED.store(false, Ordering::SeqCst);
        assert!(dispatch(OFF));
    }
}

const SIGSYS_BIT: u64 = 1 << (libc::SIGSYS - 1);

extern "C" fn on_call(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel hands over the context of the thread that is interrupted, for this handler
    // alone.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let registers = &mut context.uc_mcontext.gregs;
    let at = |register: c_int| registers[register as usize] as u64;
    let call = Call {
        number: at(libc::REG_RAX) as c_long,
        arguments: [
            at(libc::REG_RDI),
            at(libc::REG_RSI),
            at(libc::REG_RDX),
            at(libc::REG_R10),
            at(libc::REG_R8),
            at(libc::REG_R9),
        ],
    };
    let result = match faults::decide(&call) {
        Verdict::Fail(errno) => -i64::from(errno),
        Verdict::Shorter => {
            let mut less = call;
            less.arguments[2] = less.arguments[2].div_ceil(2);
            less.make()
        }
        Verdict::MakeAndFail(errno) => match call.make() {
            0.. => -i64::from(errno),
            failed => failed,
        },
        Verdict::Make if call.number == libc::SYS_rt_sigprocmask => {
            // The mask is set when this handler returns, and a blocked SIGSYS would end the
            // process.
            //
            // SAFETY: the mask is the first 8 bytes of the set.
            let now = unsafe { &mut *(&raw mut context.uc_sigmask).cast::<u64>() };
            change_mask(&call, now)
        }
        Verdict::Make if starts_a_thread(&call) => {
            // A thread has a stack of its own, on which there is nothing to return to here: once
            // more, outside.
            select(ALLOW);
            registers[libc::REG_RIP as usize] -= 2;
            return;
        }
        Verdict::Make => call.make(),
    };
    registers[libc::REG_RAX as usize] = result;
}

fn starts_a_thread(call: &Call) -> bool {
    let has_a_stack = call.number == libc::SYS_clone && call.arguments[1] != 0;
    has_a_stack || [libc::SYS_clone3, libc::SYS_vfork].contains(&call.number)
}

/// What `rt_sigprocmask` does, to the mask that will be in force.
fn change_mask(call: &Call, now: &mut u64) -> i64 {
    let [how, set, old, ..] = call.arguments;
    let before = *now;
    if set != 0 {
        // SAFETY: the program gave it to the kernel to read.
        let set = unsafe { *(set as *const u64) } & !SIGSYS_BIT;
        *now = match how as c_int {
            libc::SIG_BLOCK => before | set,
            libc::SIG_UNBLOCK => before & !set,
            _ => set,
        };
    }
    if old != 0 {
        // SAFETY: the program gave it to the kernel to write.
        unsafe { *(old as *mut u64) = before };
    }
    0
}

/// Disarms for what the handler itself prints.
pub fn paused(work: impl FnOnce()) {
    select(ALLOW);
    work();
    select(BLOCK);
}
