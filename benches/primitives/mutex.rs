//! What the C library offers: a robust, process-shared mutex. Survives the death of its holder, as
//! a `Lock` does, and nothing more.

#![allow(unsafe_code)]

use nix::libc;

use crate::shared::Words;

/// A mutex in mapped memory.
pub struct RobustMutex<'a> {
    at: *mut libc::pthread_mutex_t,
    _words: &'a Words,
}

impl<'a> RobustMutex<'a> {
    /// The mutex that lies there, made by [`create`](RobustMutex::create) in some process.
    pub fn attach(words: &'a Words, offset: usize) -> RobustMutex<'a> {
        let end = offset + size_of::<libc::pthread_mutex_t>();
        assert!(offset.is_multiple_of(64) && words.ptr(end) > words.ptr(offset));
        RobustMutex {
            at: words.ptr(offset).cast(),
            _words: words,
        }
    }

    /// Makes one there.
    pub fn create(words: &'a Words, offset: usize) -> RobustMutex<'a> {
        let new = RobustMutex::attach(words, offset);
        let mut attributes = std::mem::MaybeUninit::<libc::pthread_mutexattr_t>::uninit();
        let attributes = attributes.as_mut_ptr();
        // SAFETY: `attributes` is room for them, and initialised by the first call.
        let made = unsafe {
            libc::pthread_mutexattr_init(attributes)
                | libc::pthread_mutexattr_setpshared(attributes, libc::PTHREAD_PROCESS_SHARED)
                | libc::pthread_mutexattr_setrobust(attributes, libc::PTHREAD_MUTEX_ROBUST)
        };
        // SAFETY: `at` is aligned room for a mutex in a mapping, by `attach`, and nobody uses it
        // yet.
        let made = made | unsafe { libc::pthread_mutex_init(new.at, attributes) };
        assert_eq!(made, 0, "the C library has robust mutexes");
        new
    }

    #[inline]
    pub fn lock(&self) {
        // SAFETY: an initialised mutex, by the contract of `attach`.
        let locked = unsafe { libc::pthread_mutex_lock(self.at) };
        assert_eq!(locked, 0, "nobody dies holding it");
    }

    #[inline]
    pub fn unlock(&self) {
        // SAFETY: as in `lock`; this thread locked it.
        unsafe { libc::pthread_mutex_unlock(self.at) };
    }
}
