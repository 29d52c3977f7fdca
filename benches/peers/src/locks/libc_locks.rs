//! What the C library offers between processes, in mapped memory: a robust mutex and a semaphore.

use std::mem::MaybeUninit;
use std::path::Path;

use super::words::BYTES;
use super::{Guard, Lock, Place, Words};
use crate::Answer;

/// Maps the file; if it is new, `make` puts there what it is for. Only one process at a time opens.
fn once(path: &Path, make: impl FnOnce(&Words) -> i32) -> Answer<Words> {
    let new = !path.exists();
    let words = Words::with_bytes(path, BYTES)?;
    match if new { make(&words) } else { 0 } {
        0 => Ok(words),
        error => Err(std::io::Error::from_raw_os_error(error).into()),
    }
}

/// Robust: who takes it from a dead holder is told so, and says that all is well.
struct Mutex(Words);

pub fn open_mutex(place: &Place) -> Answer<Box<dyn Lock>> {
    let words = once(&place.file("mutex"), |words| {
        // SAFETY: nobody uses the new file yet.
        unsafe { make_mutex(mutex(words, 0)) }
    })?;
    Ok(Box::new(Mutex(words)))
}

/// The mutex that lies there.
pub fn mutex(words: &Words, offset: usize) -> *mut libc::pthread_mutex_t {
    words.ptr(offset, size_of::<libc::pthread_mutex_t>()).cast()
}

/// # Safety
/// Room for a mutex that nobody uses.
pub unsafe fn make_mutex(at: *mut libc::pthread_mutex_t) -> i32 {
    let mut attributes = MaybeUninit::<libc::pthread_mutexattr_t>::uninit();
    let attributes = attributes.as_mut_ptr();
    // SAFETY: `attributes` is room for them, and initialised by the first call; `at` is by the contract.
    unsafe {
        libc::pthread_mutexattr_init(attributes)
            | libc::pthread_mutexattr_setpshared(attributes, libc::PTHREAD_PROCESS_SHARED)
            | libc::pthread_mutexattr_setrobust(attributes, libc::PTHREAD_MUTEX_ROBUST)
            | libc::pthread_mutex_init(at, attributes)
    }
}

/// # Safety
/// An initialised mutex.
pub unsafe fn lock_mutex(at: *mut libc::pthread_mutex_t) -> Answer<()> {
    // SAFETY: by the contract.
    let mut error = unsafe { libc::pthread_mutex_lock(at) };
    if error == libc::EOWNERDEAD {
        // SAFETY: the same. It is held now, and has to be declared consistent.
        error = unsafe { libc::pthread_mutex_consistent(at) };
    }
    match error {
        0 => Ok(()),
        error => Err(std::io::Error::from_raw_os_error(error).into()),
    }
}

impl Guard for Mutex {
    fn with(&mut self, inside: impl FnOnce()) -> Answer<()> {
        let at = mutex(&self.0, 0);
        // SAFETY: made by `open_mutex`.
        unsafe { lock_mutex(at)? };
        inside();
        // SAFETY: the same, and held by this thread.
        unsafe { libc::pthread_mutex_unlock(at) };
        Ok(())
    }

    fn give_back_late(&mut self) -> Answer<bool> {
        // SAFETY: made by `open_mutex`; a robust mutex refuses who does not hold it.
        unsafe { libc::pthread_mutex_unlock(mutex(&self.0, 0)) };
        Ok(true)
    }
}

struct Semaphore(Words);

pub fn open_semaphore(place: &Place) -> Answer<Box<dyn Lock>> {
    let words = once(&place.file("posix"), |words| {
        // SAFETY: nobody uses the new file yet, and there is room for a semaphore.
        let made = unsafe { libc::sem_init(semaphore(words), 1, place.permits) };
        if made == 0 { 0 } else { libc::EINVAL }
    })?;
    Ok(Box::new(Semaphore(words)))
}

fn semaphore(words: &Words) -> *mut libc::sem_t {
    words.ptr(0, size_of::<libc::sem_t>()).cast()
}

impl Guard for Semaphore {
    fn with(&mut self, inside: impl FnOnce()) -> Answer<()> {
        let at = semaphore(&self.0);
        // SAFETY: made by `open_semaphore`. No handler of a signal interrupts it here.
        if unsafe { libc::sem_wait(at) } != 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        inside();
        // SAFETY: the same.
        unsafe { libc::sem_post(at) };
        Ok(())
    }

    fn give_back_late(&mut self) -> Answer<bool> {
        // SAFETY: made by `open_semaphore`.
        unsafe { libc::sem_post(semaphore(&self.0)) };
        Ok(true)
    }
}
