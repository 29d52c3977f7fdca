//! Which system calls can fail, and how; and which one is to fail now.

use std::backtrace::Backtrace;
use std::ffi::c_int;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use nix::libc::{self, c_long};

use crate::dispatch::{self, Call};

/// One way to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done.
    Errno(c_int),
    /// Interrupted, twice; the third attempt is made.
    Interrupted,
    /// Half of the bytes are read or written.
    Short,
    /// It is done, and an error is returned all the same: what the kernel does when it closes, and
    /// what must not matter of what only gives back.
    Done(c_int),
}

pub enum Verdict {
    Make,
    Fail(c_int),
    Shorter,
    MakeAndFail(c_int),
}

use Fault::{Done, Errno, Interrupted, Short};

/// How a call can fail; in no way: it is not counted.
fn faults_of(call: &Call) -> &'static [Fault] {
    let [_, second, third, fourth, fifth, ..] = call.arguments;
    match call.number {
        libc::SYS_openat | libc::SYS_open => {
            let flags = match call.number {
                libc::SYS_openat => third,
                _ => second,
            } as c_int;
            match flags & (libc::O_CREAT | libc::O_ACCMODE) {
                libc::O_RDONLY => &[
                    Errno(libc::EMFILE),
                    Errno(libc::EIO),
                    Errno(libc::ENOMEM),
                    Interrupted,
                    Errno(libc::ENFILE),
                ],
                _ => &[
                    Errno(libc::EMFILE),
                    Errno(libc::ENOSPC),
                    Errno(libc::EROFS),
                    Errno(libc::EIO),
                    Errno(libc::EDQUOT),
                    Errno(libc::ENOMEM),
                    Interrupted,
                    Errno(libc::ENFILE),
                ],
            }
        }
        libc::SYS_pwrite64 | libc::SYS_write | libc::SYS_pwritev => &[
            Errno(libc::ENOSPC),
            Errno(libc::EIO),
            Short,
            Errno(libc::EDQUOT),
            Interrupted,
        ],
        libc::SYS_pread64 | libc::SYS_read => &[Errno(libc::EIO), Short, Interrupted],
        libc::SYS_fallocate => &[
            Errno(libc::ENOSPC),
            Errno(libc::EIO),
            Interrupted,
            Errno(libc::EDQUOT),
            Errno(libc::EOPNOTSUPP),
        ],
        libc::SYS_ftruncate => &[
            Errno(libc::EIO),
            Errno(libc::ENOSPC),
            Errno(libc::EROFS),
            Interrupted,
        ],
        libc::SYS_fstat
        | libc::SYS_newfstatat
        | libc::SYS_statx
        | libc::SYS_stat
        | libc::SYS_lstat
        | libc::SYS_fstatfs
        | libc::SYS_statfs
        | libc::SYS_getdents64
        | libc::SYS_readlink
        | libc::SYS_readlinkat => &[Errno(libc::EIO), Errno(libc::ENOMEM), Interrupted],
        libc::SYS_lseek | libc::SYS_ioctl | libc::SYS_utimensat => &[Errno(libc::EIO)],
        libc::SYS_fcntl => match second as c_int {
            libc::F_OFD_SETLK | libc::F_OFD_SETLKW if is_unlock(third) => {
                &[Done(libc::ENOLCK), Done(libc::EIO)]
            }
            libc::F_OFD_SETLK => &[Errno(libc::ENOLCK), Errno(libc::ENOMEM), Errno(libc::EIO)],
            libc::F_OFD_SETLKW => &[
                Errno(libc::ENOLCK),
                Interrupted,
                Errno(libc::ENOMEM),
                Errno(libc::EIO),
            ],
            libc::F_OFD_GETLK => &[Errno(libc::ENOLCK), Errno(libc::EIO)],
            libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => &[Errno(libc::EMFILE), Errno(libc::ENOMEM)],
            _ => &[Errno(libc::EIO)],
        },
        // What the allocator asks for is for other tests.
        libc::SYS_mmap if fifth as c_int >= 0 || fourth as c_int & libc::MAP_STACK != 0 => {
            &[Errno(libc::ENOMEM), Errno(libc::EAGAIN)]
        }
        libc::SYS_unlinkat
        | libc::SYS_unlink
        | libc::SYS_rename
        | libc::SYS_renameat
        | libc::SYS_renameat2
        | libc::SYS_mkdir
        | libc::SYS_mkdirat
        | libc::SYS_rmdir => &[
            Errno(libc::EIO),
            Errno(libc::ENOSPC),
            Errno(libc::EROFS),
            Errno(libc::ENOMEM),
            Errno(libc::EDQUOT),
        ],
        libc::SYS_fchmod | libc::SYS_fchown | libc::SYS_chmod | libc::SYS_fchmodat => &[
            Errno(libc::EIO),
            Errno(libc::EROFS),
            Errno(libc::ENOSPC),
            Errno(libc::EDQUOT),
        ],
        libc::SYS_flock if second as c_int & libc::LOCK_UN != 0 => &[Done(libc::EIO)],
        libc::SYS_flock => &[Errno(libc::ENOLCK), Interrupted, Errno(libc::EIO)],
        libc::SYS_fsync | libc::SYS_fdatasync | libc::SYS_syncfs => &[
            Errno(libc::EIO),
            Errno(libc::ENOSPC),
            Errno(libc::EDQUOT),
            Interrupted,
        ],
        libc::SYS_msync => &[Errno(libc::EIO), Errno(libc::ENOMEM)],
        libc::SYS_poll | libc::SYS_ppoll => &[Interrupted, Errno(libc::ENOMEM)],
        libc::SYS_socketpair | libc::SYS_pidfd_open => &[
            Errno(libc::EMFILE),
            Errno(libc::ENOMEM),
            Errno(libc::ENFILE),
        ],
        libc::SYS_clone3 | libc::SYS_clone => &[Errno(libc::EAGAIN), Errno(libc::ENOMEM)],
        libc::SYS_dup | libc::SYS_dup2 | libc::SYS_dup3 => &[Errno(libc::EMFILE)],
        libc::SYS_close => &[Done(libc::EIO), Done(libc::EINTR)],
        libc::SYS_futex if second as c_int & 0x7f == libc::FUTEX_WAIT => &[Interrupted],
        libc::SYS_getrandom
        | libc::SYS_nanosleep
        | libc::SYS_clock_nanosleep
        | libc::SYS_sendto
        | libc::SYS_recvfrom => &[Interrupted],
        _ => &[],
    }
}

fn is_unlock(lock: u64) -> bool {
    // SAFETY: the program gave it to the kernel to read.
    let lock = unsafe { &*(lock as *const libc::flock) };
    c_int::from(lock.l_type) == libc::F_UNLCK
}

/// How many calls that can fail there were.
static SEEN: AtomicUsize = AtomicUsize::new(0);
/// Which of them is to fail, and in which of its ways.
static NTH: AtomicUsize = AtomicUsize::new(usize::MAX);
static WAY: AtomicUsize = AtomicUsize::new(0);
/// The number of the call that failed; -1: none.
static FAILED: AtomicI64 = AtomicI64::new(-1);
/// Left to be interrupted: the call, and how often.
static AGAIN: AtomicI64 = AtomicI64::new(-1);
static TRACE: AtomicUsize = AtomicUsize::new(0);

/// The calls of an operation, and in how many ways each can fail.
static CALLS: [AtomicI64; MOST] = [const { AtomicI64::new(0) }; MOST];
/// More calls than any operation makes.
pub const MOST: usize = 4_096;

/// In place of a call.
pub fn decide(call: &Call) -> Verdict {
    let faults = faults_of(call);
    if faults.is_empty() {
        return Verdict::Make;
    }
    let at = SEEN.fetch_add(1, Ordering::Relaxed);
    if let Some(noted) = CALLS.get(at) {
        let ways = (faults.len() as i64) << 32;
        noted.store(call.number | ways, Ordering::Relaxed);
    }
    if AGAIN.swap(-1, Ordering::Relaxed) == call.number {
        return Verdict::Fail(libc::EINTR);
    }
    if at != NTH.load(Ordering::Relaxed) {
        return Verdict::Make;
    }
    let Some(fault) = faults.get(WAY.load(Ordering::Relaxed)) else {
        return Verdict::Make;
    };
    FAILED.store(call.number, Ordering::Relaxed);
    if TRACE.load(Ordering::Relaxed) != 0 {
        dispatch::paused(|| println!("{fault:?}\n{}", Backtrace::force_capture()));
    }
    match *fault {
        Errno(errno) => Verdict::Fail(errno),
        Interrupted => {
            AGAIN.store(call.number, Ordering::Relaxed);
            Verdict::Fail(libc::EINTR)
        }
        Short => Verdict::Shorter,
        Done(errno) => Verdict::MakeAndFail(errno),
    }
}

/// One call of an operation, and one way in which it fails.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub nth: usize,
    pub way: usize,
}

/// How an attempt went.
pub struct Seen {
    pub calls: usize,
    /// The number of the call that failed.
    pub failed: Option<c_long>,
}

/// Does something while one of its calls fails, or none.
pub fn with<T>(plan: Option<Plan>, work: impl FnOnce() -> T) -> (T, Seen) {
    let (nth, way) = plan.map_or((usize::MAX, 0), |plan| (plan.nth, plan.way));
    SEEN.store(0, Ordering::Relaxed);
    NTH.store(nth, Ordering::Relaxed);
    WAY.store(way, Ordering::Relaxed);
    FAILED.store(-1, Ordering::Relaxed);
    AGAIN.store(-1, Ordering::Relaxed);
    let result = dispatch::armed(work);
    let failed = FAILED.load(Ordering::Relaxed);
    let seen = Seen {
        calls: SEEN.load(Ordering::Relaxed),
        failed: (failed >= 0).then_some(failed),
    };
    (result, seen)
}

/// The calls of what was done last: number, and in how many ways it can fail.
pub fn the_last(calls: usize) -> Vec<(c_long, usize)> {
    let noted = CALLS.iter().take(calls);
    let noted = noted.map(|call| call.load(Ordering::Relaxed));
    noted
        .map(|call| (call & 0xffff_ffff, (call >> 32) as usize))
        .collect()
}

/// Shows where calls fail.
pub fn trace() {
    TRACE.store(1, Ordering::Relaxed);
}
