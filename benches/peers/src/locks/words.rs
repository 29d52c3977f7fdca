//! A file mapped as words that several processes see; and the least that a lock on one costs.

use std::fs::OpenOptions;
use std::hint::{black_box, spin_loop};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use memmap2::MmapRaw;

use super::{Guard, Lock, Place};
use crate::Answer;

/// The length of a file of words.
pub const BYTES: u64 = 4096;
// Of the page that parent and children share; each in cache lines of its own. `python/locks.py` has them, too.
const STATE: usize = 0;
const READY: u64 = 1;
const GO: u64 = 2;
const COUNTER: usize = 256;
/// When the last holder gave back, and who it was.
const GIVEN_BACK: usize = 512;
const LAST_HOLDER: usize = 520;

/// A whole file.
pub struct Words(MmapRaw);

impl Words {
    /// Maps the file, and makes it if it is not there.
    pub fn open(path: &Path) -> Answer<Words> {
        Words::with_bytes(path, BYTES)
    }

    pub fn with_bytes(path: &Path, bytes: u64) -> Answer<Words> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path)?;
        if file.metadata()?.len() < bytes {
            file.set_len(bytes)?;
        }
        Ok(Words(MmapRaw::map_raw(&file)?))
    }

    /// The word at `offset`.
    pub fn at(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.0.len());
        // SAFETY: within the mapping, which lives as long as `self`, and aligned, by the assertion; an
        // atomic may be changed by other processes at any time.
        unsafe { &*self.0.as_ptr().add(offset).cast() }
    }

    /// Where `bytes` bytes lie at `offset`, for what is not a word.
    pub fn ptr(&self, offset: usize, bytes: usize) -> *mut u8 {
        assert!(offset + bytes <= self.0.len());
        self.0.as_mut_ptr().wrapping_add(offset)
    }

    /// Sets the counter to zero, and has all wait for `go`.
    pub fn get_ready(&self) {
        self.at(COUNTER).store(0, Ordering::SeqCst);
        self.at(STATE).store(READY, Ordering::SeqCst);
    }

    pub fn go(&self) {
        self.at(STATE).store(GO, Ordering::SeqCst);
    }

    pub fn stop(&self) {
        self.at(STATE).store(0, Ordering::SeqCst);
    }

    /// Waits until all start.
    pub fn wait_for_go(&self) {
        while self.at(STATE).load(Ordering::SeqCst) == READY {
            thread::sleep(Duration::from_micros(50));
        }
    }

    /// May one go on?
    pub fn running(&self) -> bool {
        self.at(STATE).load(Ordering::Relaxed) == GO
    }

    /// Adds one to the counter, not in one step, on purpose.
    pub fn add_one(&self) {
        let seen = self.counter();
        self.at(COUNTER).store(seen + 1, Ordering::Relaxed);
    }

    /// Adds one to the counter, and lets others run in between: without a lock nearly all is lost.
    pub fn add_one_slowly(&self) {
        let seen = self.counter();
        thread::yield_now();
        self.at(COUNTER).store(seen + 1, Ordering::Relaxed);
    }

    pub fn counter(&self) -> u64 {
        self.at(COUNTER).load(Ordering::Relaxed)
    }

    /// Says that `who` gives back, and when.
    pub fn give_back(&self, who: u64, now_ns: u64) {
        self.at(LAST_HOLDER).store(who, Ordering::Relaxed);
        self.at(GIVEN_BACK).store(now_ns, Ordering::Relaxed);
    }

    /// Who gave back, and when.
    pub fn given_back(&self) -> (u64, u64) {
        let load = |offset| self.at(offset).load(Ordering::Relaxed);
        (load(LAST_HOLDER), load(GIVEN_BACK))
    }
}

/// From free to taken, and back. It cannot wait but by trying again, and knows nobody's death.
struct Bare(Words);

pub fn open_bare(place: &Place) -> Answer<Box<dyn Lock>> {
    Ok(Box::new(Bare(Words::open(&place.file("bare"))?)))
}

impl Bare {
    #[cold]
    fn wait(word: &AtomicU64) {
        for tries in 0.. {
            let (taken, free) = (Ordering::Acquire, Ordering::Relaxed);
            if word.compare_exchange_weak(0, 1, taken, free).is_ok() {
                return;
            }
            match tries % 64 {
                63 => thread::yield_now(),
                _ => spin_loop(),
            }
        }
    }
}

impl Guard for Bare {
    fn with(&mut self, inside: impl FnOnce()) -> Answer<()> {
        let word = black_box(self.0.at(0));
        let (taken, free) = (Ordering::Acquire, Ordering::Release);
        if word
            .compare_exchange(0, 1, taken, Ordering::Relaxed)
            .is_err()
        {
            Bare::wait(word);
        }
        inside();
        let _ = black_box(word.compare_exchange(1, 0, free, Ordering::Relaxed));
        Ok(())
    }

    fn give_back_late(&mut self) -> Answer<bool> {
        self.0.at(0).store(0, Ordering::Release);
        Ok(true)
    }
}
