//! Syncing files for several threads at once.
//!
//! The kernel reports a write that failed once for each open description, and the threads of a
//! process share theirs: of two that sync at the same time one is told, and the other one is not.
//! So one thread at a time syncs a file, for all that wait by then, and all of them are told what
//! came of it.

use std::collections::HashMap;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The syncs of some files, each under a number of the caller's choice.
#[derive(Default)]
pub(crate) struct Syncs {
    files: Mutex<HashMap<u32, Progress>>,
    ended: Condvar,
}

/// How far the syncs of a file are, counted from 1. It is forgotten when no caller waits.
#[derive(Default)]
struct Progress {
    begun: u64,
    ended: u64,
    /// The last one that failed, and how.
    failed: Option<(u64, Failure)>,
    callers: usize,
}

/// An error of which there can be several.
#[derive(Clone, Copy)]
enum Failure {
    Os(i32),
    Other(io::ErrorKind),
}

impl Failure {
    fn of(error: &io::Error) -> Failure {
        let other = || Failure::Other(error.kind());
        error.raw_os_error().map_or_else(other, Failure::Os)
    }

    fn error(self) -> io::Error {
        match self {
            Failure::Os(errno) => io::Error::from_raw_os_error(errno),
            Failure::Other(kind) => kind.into(),
        }
    }
}

impl Progress {
    /// What came of the sync of that number, or of a later one.
    fn outcome(&self, wanted: u64) -> Option<io::Result<()>> {
        let failed = self.failed.filter(|(number, _)| *number >= wanted);
        let outcome = failed.map_or(Ok(()), |(_, failure)| Err(failure.error()));
        (self.ended >= wanted).then_some(outcome)
    }
}

impl Syncs {
    /// Waits for a sync of a file that begins after now: `sync`, in this thread or in another one.
    /// Whatever `sync` does about a failure is done before any caller is told of it.
    pub(crate) fn sync(&self, file: u32, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut files = self.lock();
        let progress = files.entry(file).or_default();
        progress.callers += 1;
        let wanted = progress.begun + 1;
        loop {
            let progress = files.entry(file).or_default();
            if let Some(outcome) = progress.outcome(wanted) {
                Syncs::leave(&mut files, file);
                return outcome;
            }
            if progress.begun == progress.ended {
                progress.begun += 1;
                break;
            }
            files = self
                .ended
                .wait(files)
                .unwrap_or_else(PoisonError::into_inner);
        }
        drop(files);
        let outcome = sync();
        let mut files = self.lock();
        let progress = files.entry(file).or_default();
        progress.ended = progress.begun;
        if let Err(error) = &outcome {
            progress.failed = Some((progress.ended, Failure::of(error)));
        }
        Syncs::leave(&mut files, file);
        self.ended.notify_all();
        outcome
    }

    fn leave(files: &mut HashMap<u32, Progress>, file: u32) {
        if let Some(progress) = files.get_mut(&file) {
            progress.callers -= 1;
            if progress.callers == 0 {
                files.remove(&file);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Progress>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    /// Callers that come while a sync is running share the next one, and its failure.
    #[test]
    fn all_who_wait_for_a_sync_are_told_that_it_failed() {
        let syncs = Syncs::default();
        let (go_on, wait) = channel::<()>();
        let (begun, has_begun) = channel::<()>();
        std::thread::scope(|scope| {
            let first = scope.spawn(|| {
                syncs.sync(1, move || {
                    begun.send(()).unwrap();
                    wait.recv().unwrap();
                    Ok(())
                })
            });
            has_begun.recv().unwrap();
            // Another file waits for nothing.
            syncs.sync(2, || Ok(())).unwrap();
            let failing = || syncs.sync(1, || Err(io::Error::from_raw_os_error(5)));
            let others: Vec<_> = (0..3).map(|_| scope.spawn(failing)).collect();
            while syncs.lock()[&1].callers < 4 {
                std::thread::yield_now();
            }
            go_on.send(()).unwrap();
            first.join().unwrap().unwrap();
            for other in others {
                let error = other.join().unwrap().unwrap_err();
                assert_eq!(error.raw_os_error(), Some(5));
            }
        });
        assert!(syncs.lock().is_empty());
        syncs.sync(1, || Ok(())).unwrap();
    }
}
