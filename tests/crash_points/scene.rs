//! The stage of one death: a place for a store, processes that are forked, and a board that outlives them.

use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use memmap2::{MmapOptions, MmapRaw};
use nix::libc;
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};
use slablock::Token;

use crate::patience::HANGS;

/// Whoever lives that long hangs: the kernel ends it, and that is a finding.
const LIFETIME_S: u32 = 2 * HANGS.as_secs() as u32;

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

/// Numbers that all processes see.
pub struct Board {
    map: MmapRaw,
}

impl Board {
    pub fn new(words: usize) -> Board {
        // Of a file that has no name any more: an anonymous map would be each process's own.
        let file = tempfile::tempfile_in(fast_dir()).expect("a file");
        file.set_len(words as u64 * 8).expect("room");
        let map = MmapOptions::new().map_raw(&file);
        Board {
            map: map.expect("memory to share"),
        }
    }

    #[allow(unsafe_code)]
    pub fn at(&self, word: usize) -> &AtomicU64 {
        assert!(word < self.map.len() / 8);
        // SAFETY: within the map, aligned as pages are, never unmapped, and seen as atomics only.
        unsafe { &*self.map.as_ptr().cast::<AtomicU64>().add(word) }
    }

    pub fn get(&self, entry: Entry) -> u64 {
        self.at(entry as usize).load(Ordering::SeqCst)
    }

    pub fn set(&self, entry: Entry, value: u64) {
        self.at(entry as usize).store(value, Ordering::SeqCst);
    }

    pub fn add(&self, entry: Entry, value: u64) {
        self.at(entry as usize).fetch_add(value, Ordering::SeqCst);
    }

    /// Where the last process to die was killed.
    #[allow(unsafe_code)]
    pub fn place(&self) -> Option<&'static Location<'static>> {
        let place = self.get(Entry::Place) as *const Location<'static>;
        // SAFETY: null, or of this program's text: who wrote it was forked and executed nothing else.
        unsafe { place.as_ref() }
    }
}

/// In memory if possible: deaths are many.
pub fn fast_dir() -> PathBuf {
    let memory = Path::new("/dev/shm");
    match memory.is_dir() {
        true => memory.to_path_buf(),
        false => std::env::temp_dir(),
    }
}

/// One death and what belongs to it.
pub struct Scene {
    pub board: &'static Board,
    dir: PathBuf,
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
            board.at(word).store(0, Ordering::SeqCst);
        }
        Scene { board, dir }
    }

    pub fn store(&self) -> PathBuf {
        self.dir.join("store")
    }

    fn slab(&self) -> std::fs::File {
        let mut options = std::fs::OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .open(self.store().join("slab"));
        file.expect("the slab")
    }

    /// Writes into the slab, past the library.
    pub fn poke(&self, at: u64, bytes: &[u8]) {
        self.slab().write_all_at(bytes, at).expect("write");
    }

    pub fn peek<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.slab().read_exact_at(&mut bytes, at).expect("read");
        bytes
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

    pub fn until(&self, what: &str, happened: impl Fn() -> bool) {
        let start = Instant::now();
        while !happened() {
            assert!(start.elapsed() < HANGS, "waited in vain until {what}");
            std::thread::sleep(Duration::from_micros(20));
        }
    }

    /// For the companion: says that it is ready, and answers whether it `has_lost` what it has whenever it
    /// is asked, until the scene is over.
    pub fn accompany(&self, has_lost: impl Fn() -> bool) {
        self.board.set(Entry::Ready, 1);
        self.until_over(|| {
            let asked = self.board.get(Entry::Asked);
            if asked > self.board.get(Entry::Answered) {
                self.board.set(Entry::Lost, u64::from(has_lost()));
                self.board.set(Entry::Answered, asked);
            }
        });
    }

    fn until_over(&self, meanwhile: impl Fn()) {
        while self.board.get(Entry::Over) == 0 {
            meanwhile();
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// Asks the companion whether it has lost what it had.
    pub fn companion_has_lost(&self) -> bool {
        self.board.add(Entry::Asked, 1);
        let asked = self.board.get(Entry::Asked);
        self.until("the companion answers", || {
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

    /// The same, but the process is stopped there, not killed.
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
    let passed = board.at(Entry::Passed as usize);
    let point = passed.fetch_add(1, Ordering::SeqCst) + 1;
    let place = std::ptr::from_ref(place) as u64;
    let trace = TRACE.load(Ordering::SeqCst);
    if trace > 0 {
        let word = trace + point - 1;
        board.at(word as usize).store(place, Ordering::SeqCst);
    }
    if point == FATAL.load(Ordering::SeqCst) {
        board.set(Entry::Place, place);
        let signal = SIGNAL.load(Ordering::SeqCst) as i32;
        let _ = raise(Signal::try_from(signal).expect("a signal"));
    }
}

/// Runs `body` in a child. A panic there is told, and ends it with status 101.
pub fn fork(body: impl FnOnce()) -> Pid {
    fork_for(Some(LIFETIME_S), body)
}

/// The same for a child that may live for so many seconds.
#[allow(unsafe_code)]
pub fn fork_for(seconds: Option<u32>, body: impl FnOnce()) -> Pid {
    // SAFETY: this process has one thread, so the child may do whatever its parent may.
    match unsafe { nix::unistd::fork() }.expect("a child") {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            if let Some(seconds) = seconds {
                nix::unistd::alarm::set(seconds);
            }
            let done = catch_unwind(AssertUnwindSafe(body)).is_ok();
            // SAFETY: ends the process; nothing of the parent's is run again or written out twice.
            unsafe { libc::_exit(if done { 0 } else { 101 }) }
        }
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

/// Runs `body` in a child of a process that takes part itself; dies as the child did.
pub fn in_a_fork(body: impl FnOnce()) {
    match reap(fork(body)) {
        End::Done => {}
        End::Killed => drop(raise(Signal::SIGKILL)),
        End::Failed(status) => panic!("the child ended with {status:?}"),
    }
}
