//! loom models of the protocol: every interleaving, and every value that a load may see.
//!
//! Run by `RUSTFLAGS="--cfg loom" cargo test --release --lib`. Each model names the invariant of
//! docs/protocol.md that it is about. Its controls run it again with one rule left out ([`Rule`]),
//! and fail unless the model's own assertion says so: a rule that can go unnoticed was not proved.
//!
//! Death is a thread that stops for good before one of its stores; models of it are run once for
//! each.

mod cells;
mod changes;
mod closing;
mod deciding;
mod hold;
mod joining;
mod lease;
mod permits;
mod recovery;
mod removal;
mod reuse;
mod split;
mod waiting;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use super::controls::{Rule, leave_out};
use super::*;
use crate::sync::until_store;

/// Runs a model in every interleaving.
#[track_caller]
fn explore(model: impl Fn() + Sync + Send + 'static) {
    explore_with(None, model);
}

/// Runs a model in every interleaving with at most so many preemptions: switches away from a thread
/// that could have continued. For models that do not end within a minute otherwise. A thread that
/// sleeps is not preempted, so where sleep is what matters one preemption says a lot.
#[track_caller]
fn explore_with(preemptions: Option<usize>, model: impl Fn() + Sync + Send + 'static) {
    let runs = Arc::new(Mutex::new(0_u32));
    let counted = Arc::clone(&runs);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(move || {
        *counted.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        model();
    });
    let at = std::panic::Location::caller();
    let runs = *runs.lock().unwrap_or_else(PoisonError::into_inner);
    println!("{}:{}: {runs} executions", at.file(), at.line());
}

/// The step before which the victim of a model dies, and whether it did in any execution.
#[derive(Clone)]
struct Doom {
    step: u32,
    met: Arc<Mutex<bool>>,
}

impl Doom {
    /// The victim's life. `None`: it died.
    fn of<T>(&self, life: impl FnOnce() -> T) -> Option<T> {
        let lived = until_store(self.step, life);
        if lived.is_err() {
            *self.met.lock().expect("no panic") = true;
        }
        lived.ok()
    }
}

/// Runs `model` once for each store before which its victim can die, and once without a death.
fn for_each_death(model: impl Fn(Doom)) {
    for step in 1.. {
        let met = Arc::new(Mutex::new(false));
        model(Doom {
            step,
            met: Arc::clone(&met),
        });
        if !*met.lock().expect("no panic") {
            println!("{} deaths", step - 1);
            assert!(step > 1, "the victim stores nothing");
            return;
        }
    }
}

/// Runs `model` with `rule` left out. Fails unless it is refuted by an assertion that says
/// `expected`.
fn refute(rule: Rule, expected: &str, model: fn()) {
    // A thread of its own, so that what loom leaves behind after a panic concerns no other test.
    let refutation = std::thread::spawn(move || {
        leave_out(rule);
        catch_unwind(AssertUnwindSafe(model)).map_err(|cause| {
            let said = cause.downcast_ref::<String>().cloned();
            said.or_else(|| cause.downcast_ref::<&str>().map(|s| s.to_string()))
        })
    });
    match refutation.join().expect("the panic was caught") {
        Ok(()) => panic!("the model holds without {rule:?}: it proves nothing about it"),
        Err(said) => assert!(
            said.as_ref().is_some_and(|said| said.contains(expected)),
            "without {rule:?} the model fails for another reason: {said:?}"
        ),
    }
}

fn id(number: u16) -> ParticipantId {
    ParticipantId::new(number).expect("in range")
}

/// Takes the hold if it is plainly free.
fn try_take(hold: &Hold, me: u16) -> Option<Word> {
    let seen = hold.load();
    if !seen.is_plainly_free() {
        return None;
    }
    hold.take(seen, id(me), next_sequence(seen)?, false).ok()
}
