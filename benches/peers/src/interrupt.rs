//! Signals that ask this program to end. They are only noted: whoever waits for another process is then told
//! so, and everything that was made is put away on the way out, as after any failure.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

use crate::Answer;

/// The number of the signal that came; 0: none.
static CAME: OnceLock<Arc<AtomicUsize>> = OnceLock::new();

/// From now on they are noted. A second one ends this program at once.
pub fn listen() -> Answer<()> {
    let (came, again) = (
        CAME.get_or_init(Arc::default),
        Arc::new(AtomicBool::new(false)),
    );
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&again))?;
        flag::register(signal, Arc::clone(&again))?;
        flag::register_usize(signal, Arc::clone(came), signal as usize)?;
    }
    Ok(())
}

/// The signal that came, if any has.
pub fn signal() -> Option<u8> {
    let came = CAME.get()?.load(Ordering::Relaxed);
    u8::try_from(came).ok().filter(|signal| *signal != 0)
}

/// Fails once one has come.
pub fn check() -> Answer<()> {
    match signal() {
        Some(signal) => Err(format!("interrupted by signal {signal}").into()),
        None => Ok(()),
    }
}
