//! The stage of one death: a place for a store, processes that are forked, and a board that
//! outlives them.

use std::panic::Location;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use slablock::Token;

use crate::kit::{Board, Cell, Place, fork, until};

/// What is where on the board. The first half is wiped for each death.
#[derive(Clone, Copy)]
pub enum Entry {
    /// Points that were passed while armed, and where the process was killed.
    Passed,
    Place,
    /// The highest token that anybody got for the key.
    Token,
    /// The process that certainly has the key; 0: none, or not certainly.
    Holder,
    /// How often the operation was begun, and how often it was done.
    Begun,
    Done,
    /// What the companion says, and what it is asked.
    Ready,
    Asked,
    Answered,
    Lost,
    /// The scene is over: the companion goes.
    Over,
    /// For the operations' own purposes.
    Own,
    /// Which slot the average of the crowd is in, and whether its last value was damaged.
    Slot,
    Damaged,
    /// Which names the neighbours of the key have.
    Elder,
    Younger,
    /// The highest token that the original of a copy has granted.
    Latest,
    /// How often somebody was told of a death.
    Told,
    Wiped = 32,
}

impl Cell for Entry {
    fn index(self) -> usize {
        self as usize
    }
}

/// Where the last process to die was killed.
#[allow(unsafe_code)]
pub fn place_of_death(board: &Board) -> Option<&'static Location<'static>> {
    let place = board.get(Entry::Place) as *const Location<'static>;
    // SAFETY: null, or of this program's text: its writer was forked and executed nothing else.
    unsafe { place.as_ref() }
}

/// One death and what belongs to it.
pub struct Scene {
    pub board: &'static Board,
    place: Place,
}

impl Scene {
    /// An empty stage below `root`.
    pub fn new(root: &Path, board: &'static Board) -> Scene {
        let dir = root.join("scene");
        if dir.exists() {
            std::fs::remove_dir_all(&dir).expect("tidy up");
        }
        std::fs::create_dir(&dir).expect("make a directory");
        for word in 0..Entry::Wiped as usize {
            board.set(word, 0);
        }
        let place = Place::at(dir);
        Scene { board, place }
    }

    pub fn store(&self) -> PathBuf {
        self.place.store()
    }

    /// Writes into the slab, past the library.
    pub fn poke(&self, at: u64, bytes: &[u8]) {
        self.place.poke(at, bytes);
    }

    pub fn peek<const N: usize>(&self, at: u64) -> [u8; N] {
        self.place.peek(at)
    }

    /// Notes a token of the key: they only grow.
    pub fn saw(&self, token: Token) {
        let before = self.board.get(Entry::Token);
        assert!(
            token.get() > before,
            "token {token} does not grow: it was {before}"
        );
        self.board.set(Entry::Token, token.get());
    }

    /// For the companion: says that it is ready, and answers whether it `has_lost` what it has
    /// whenever it is asked, until the scene is over.
    pub fn accompany(&self, has_lost: impl Fn() -> bool) {
        self.board.set(Entry::Ready, 1);
        until("the scene is over", || {
            let asked = self.board.get(Entry::Asked);
            if asked > self.board.get(Entry::Answered) {
                self.board.set(Entry::Lost, u64::from(has_lost()));
                self.board.set(Entry::Answered, asked);
            }
            self.board.get(Entry::Over) == 1
        });
    }

    /// Asks the companion whether it has lost what it had.
    pub fn companion_has_lost(&self) -> bool {
        self.board.add(Entry::Asked, 1);
        let asked = self.board.get(Entry::Asked);
        until("the companion answers", || {
            self.board.get(Entry::Answered) == asked
        });
        self.board.get(Entry::Lost) == 1
    }
}

/// Counts points while it is armed, and kills this process at one of them.
pub struct Trap;

/// Never, for who lives through it all.
pub const NEVER: u64 = u64::MAX;

static ARMED: AtomicU64 = AtomicU64::new(0);
static FATAL: AtomicU64 = AtomicU64::new(NEVER);
static SIGNAL: AtomicU64 = AtomicU64::new(Signal::SIGKILL as u64);
/// Where to note the places that were passed, from this word on; 0: nowhere.
static TRACE: AtomicU64 = AtomicU64::new(0);
static BOARD: std::sync::OnceLock<&'static Board> = std::sync::OnceLock::new();

impl Trap {
    /// Sets the trap for point `fatal` of what is done between `arm` and `disarm`.
    pub fn set(board: &'static Board, fatal: u64, trace: usize) -> Trap {
        BOARD.get_or_init(|| board);
        board.set(Entry::Passed, 0);
        FATAL.store(fatal, Ordering::SeqCst);
        TRACE.store(trace as u64, Ordering::SeqCst);
        slablock::crash::observe(pass);
        Trap
    }

    /// Like [`Trap::set`], but the process is stopped there, not killed.
    pub fn stopping(board: &'static Board, at: u64) -> Trap {
        SIGNAL.store(Signal::SIGSTOP as u64, Ordering::SeqCst);
        Trap::set(board, at, 0)
    }

    /// Does what somebody is to die over.
    pub fn armed<T>(&self, work: impl FnOnce() -> T) -> T {
        self.arm();
        let done = work();
        self.disarm();
        done
    }

    pub fn arm(&self) {
        ARMED.store(1, Ordering::SeqCst);
    }

    pub fn disarm(&self) {
        ARMED.store(0, Ordering::SeqCst);
    }
}

fn pass(place: &'static Location<'static>) {
    let Some(board) = BOARD.get().filter(|_| ARMED.load(Ordering::SeqCst) == 1) else {
        return;
    };
    let point = board.add(Entry::Passed, 1) + 1;
    let place = std::ptr::from_ref(place) as u64;
    let trace = TRACE.load(Ordering::SeqCst);
    if trace > 0 {
        let word = trace + point - 1;
        board.set(word as usize, place);
    }
    if point == FATAL.load(Ordering::SeqCst) {
        board.set(Entry::Place, place);
        let signal = SIGNAL.load(Ordering::SeqCst) as i32;
        let _ = raise(Signal::try_from(signal).expect("a signal"));
    }
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Done,
    Killed,
    /// A panic, a hang, or another crash.
    Failed(WaitStatus),
}

pub fn reap(child: Pid) -> End {
    match waitpid(child, None).expect("a child to wait for") {
        WaitStatus::Exited(_, 0) => End::Done,
        WaitStatus::Signaled(_, Signal::SIGKILL, _) => End::Killed,
        other => End::Failed(other),
    }
}

/// A child that is stopped at a point. `None`: it had no such point, and has done all of it.
pub fn stopped_at_point(child: Pid) -> Option<Pid> {
    match waitpid(child, Some(WaitPidFlag::WUNTRACED)).expect("a child") {
        WaitStatus::Exited(_, 0) => None,
        state => {
            assert_eq!(state, WaitStatus::Stopped(child, Signal::SIGSTOP));
            Some(child)
        }
    }
}

/// Runs `body` in a child of a process that takes part itself; dies as the child did.
pub fn in_a_fork(body: impl FnOnce()) {
    match reap(fork(body)) {
        End::Done => {}
        End::Killed => drop(raise(Signal::SIGKILL)),
        End::Failed(status) => panic!("the child ended with {status:?}"),
    }
}
