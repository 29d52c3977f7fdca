//! A System V semaphore with `SEM_UNDO`, by which the kernel gives back what a dead process held.

use std::fs;
use std::path::Path;

use super::{Guard, Lock, Place};
use crate::Answer;

/// The name of a file that holds the number of a semaphore begins so.
const PREFIX: &str = "systemv-";

struct Semaphore(i32);

pub fn open(place: &Place) -> Answer<Box<dyn Lock>> {
    let file = place.dir.join(format!("{PREFIX}{}", place.key));
    if let Ok(id) = fs::read_to_string(&file) {
        return Ok(Box::new(Semaphore(id.parse()?)));
    }
    // SAFETY: only numbers go in and out, here and below.
    let id = checked(unsafe { libc::semget(libc::IPC_PRIVATE, 1, 0o600) })?;
    fs::write(file, id.to_string())?;
    checked(unsafe { libc::semctl(id, 0, libc::SETVAL, place.permits) })?;
    Ok(Box::new(Semaphore(id)))
}

/// Takes away all whose numbers lie in `dir`: they belong to no process, and would outlive the directory.
pub fn remove(dir: &Path) {
    for entry in dir.read_dir().into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX)
            && let Ok(Ok(id)) = fs::read_to_string(entry.path()).map(|id| id.parse::<i32>())
        {
            // SAFETY: only numbers.
            unsafe { libc::semctl(id, 0, libc::IPC_RMID) };
        }
    }
}

fn checked(returned: i32) -> Answer<i32> {
    match returned {
        -1 => Err(std::io::Error::last_os_error().into()),
        other => Ok(other),
    }
}

impl Semaphore {
    fn change(&self, by: i16) -> Answer<()> {
        let mut change = libc::sembuf {
            sem_num: 0,
            sem_op: by,
            sem_flg: libc::SEM_UNDO as i16,
        };
        // SAFETY: one valid structure, and their number.
        checked(unsafe { libc::semop(self.0, &mut change, 1) })?;
        Ok(())
    }
}

impl Guard for Semaphore {
    fn with(&mut self, inside: impl FnOnce()) -> Answer<()> {
        self.change(-1)?;
        inside();
        self.change(1)
    }

    fn give_back_late(&mut self) -> Answer<bool> {
        self.change(1)?;
        Ok(true)
    }
}
