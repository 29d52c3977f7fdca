//! Values that are computed when they are missing: once, however many ask.

use std::sync::Arc;
use std::time::Instant;

use crate::cache::{Cache, SetOptions};
use crate::error::{BoxError, Error};
use crate::key::AsKey;
use crate::store::Store;
use crate::store::key_entry::check_lengths;
use crate::store::space::set::{When, Writer};
use crate::store::values::compute_once::{Begun, Turn, Turns};
use crate::store::values::get::Values;

/// Values that are computed when they are missing.
impl Cache {
    /// The value under a key. If there is none, `compute` makes it, in one thread of one process,
    /// while all others that ask for it wait for what it makes. It is set with `options`.
    ///
    /// A value that is over, was deleted or evicted, or is damaged counts as missing. What was
    /// computed is returned also if it cannot be kept, because there is no room for it, say, or
    /// because the value was set or deleted meanwhile, by whatever operation, or the store cleared:
    /// then it may be out of date. [`stats`](Self::stats) counts that, and
    /// [`compute_if_missing`](Self::compute_if_missing) tells it. The next waiter computes then.
    ///
    /// # Errors
    ///
    /// Inside `compute`, `?` takes errors of all types that are `Send` and `Sync`; one that is not
    /// the cache's own comes back as [`Error::Caller`]. Those who have waited for it compute then,
    /// all at once and each for itself; what one of them computes is kept. For an error
    /// type of your own there is [`get_or_insert_as`](Self::get_or_insert_as). Otherwise an error
    /// is about a bad key or `options`, or a store that cannot ensure that one process
    /// computes: `compute` was not called then, but for `Deadlock` inside a transaction that
    /// has touched the key.
    ///
    /// # Panics
    ///
    /// If `compute` does. Those who have waited for it compute then, as after an error.
    ///
    /// # Blocking
    ///
    /// Waits while somebody else computes the same value, for as long as that takes: also while
    /// that process is stopped. Asking for the same key in `compute` is [`Error::Deadlock`];
    /// two threads or processes that ask for each other's wait for ever.
    ///
    /// # If the process dies
    ///
    /// If the process that computes dies, the next waiter computes, as soon as it notices, usually
    /// within 10 ms. In a process that `compute` forked off, the value is not set.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> slablock::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let dir = dir.path().join("store");
    /// use std::time::Duration;
    /// use slablock::SetOptions;
    ///
    /// let cache = slablock::Cache::open(&dir)?;
    /// let for_a_minute = SetOptions::new().expire(Duration::from_secs(60));
    /// let report = cache.get_or_insert_with("report", &for_a_minute, || {
    ///     Ok(b"what takes long to compute".to_vec())
    /// })?;
    /// assert_eq!(report, b"what takes long to compute");
    /// # Ok(())
    /// # }
    /// ```
    pub fn get_or_insert_with(
        &self,
        key: impl AsKey,
        options: &SetOptions,
        compute: impl FnOnce() -> Result<Vec<u8>, BoxError>,
    ) -> Result<Vec<u8>, Error> {
        self.get_or_insert_as(key, options, || compute().map_err(Error::from))
    }

    /// The value under a key, computed if there is none, with an error type of the caller's own.
    /// See [`get_or_insert_with`](Self::get_or_insert_with). An error of `compute` comes back
    /// as it is; the cache's own errors are turned into that type.
    pub fn get_or_insert_as<E: From<Error>>(
        &self,
        key: impl AsKey,
        options: &SetOptions,
        compute: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<Vec<u8>, E> {
        let key = key.as_key();
        let computed = memo(self.store_of(key), key, options, Asking::AtOnce, compute)?;
        Ok(computed.value)
    }

    /// The value under a key, computed if there is none, and whether it was there, was computed,
    /// and could be kept. As [`get_or_insert_as`](Self::get_or_insert_as), but that `compute` never
    /// runs beside itself: after an error the waiters compute one after the other.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> slablock::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let dir = dir.path().join("store");
    /// let cache = slablock::Cache::open(&dir)?;
    /// let options = slablock::SetOptions::new();
    /// let report = cache.compute_if_missing("report", &options, || {
    ///     slablock::Result::Ok(b"what takes long to compute".to_vec())
    /// })?;
    /// if let Some(why) = &report.unkept {
    ///     eprintln!("it will be computed again: {why}");
    /// }
    /// assert!(report.is_new && report.unkept.is_none());
    /// # Ok(())
    /// # }
    /// ```
    pub fn compute_if_missing<E: From<Error>>(
        &self,
        key: impl AsKey,
        options: &SetOptions,
        compute: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<Computed, E> {
        let key = key.as_key();
        let store = self.store_of(key);
        memo(store, key, options, Asking::InTurn, compute)
    }

    /// The value under a key, for one that many ask for all the time: it is computed again *before*
    /// it is over, by one of those that ask, while the others go on with the value that is
    /// there. So nobody has to wait when it is over.
    ///
    /// A caller is chosen with a probability that grows as the end comes near, in proportion to how
    /// long computing took the last time: about once in that time before the end, if `beta` is 1.0.
    /// With a larger `beta` it is done earlier, with 0.0 never. The time it took is known from when
    /// it was computed by this function, in whichever process; without it, as after a failure,
    /// and without an `expire`, nothing is done early. It is kept in a slot of its own beside
    /// the value's, and forgotten with it, or when the store has no room for keys at all.
    ///
    /// The method is that of Vattani, Chierichetti and Lowenstein, "Optimal Probabilistic Cache
    /// Stampede Prevention" (VLDB 2015).
    ///
    /// # Errors
    ///
    /// As for [`get_or_insert_with`](Self::get_or_insert_with): also a caller that computes early
    /// gets the result or the error of that, although the present value is not over yet.
    /// `Invalid` if `beta` is negative or not finite.
    pub fn get_or_refresh(
        &self,
        key: impl AsKey,
        options: &SetOptions,
        beta: f64,
        compute: impl FnOnce() -> Result<Vec<u8>, BoxError>,
    ) -> Result<Vec<u8>, Error> {
        self.get_or_refresh_as(key, options, beta, || compute().map_err(Error::from))
    }

    /// The value under a key, computed again before it is over, with an error type of the caller's
    /// own. See [`get_or_refresh`](Self::get_or_refresh).
    pub fn get_or_refresh_as<E: From<Error>>(
        &self,
        key: impl AsKey,
        options: &SetOptions,
        beta: f64,
        compute: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<Vec<u8>, E> {
        let key = key.as_key();
        let store = self.store_of(key);
        let computed = memo(store, key, options, Asking::Early(beta), compute)?;
        Ok(computed.value)
    }
}

/// A value, and how it was come by: see [`Cache::compute_if_missing`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Computed {
    /// The value.
    pub value: Vec<u8>,
    /// Whether this call computed it; otherwise it was there, or somebody else computed it.
    pub is_new: bool,
    /// Why it could not be kept. `None`: it is there. `NotDurable`: it is there, and may not
    /// survive a power failure.
    pub unkept: Option<Error>,
}

/// How somebody asks for a value.
#[derive(Clone, Copy)]
enum Asking {
    /// After a failure one computes at a time.
    InTurn,
    /// After a failure all its waiters compute.
    AtOnce,
    /// Also before it is over, with that factor.
    Early(f64),
}

/// What is to be done to have a value.
enum Course {
    /// Nothing: here it is.
    There(Vec<u8>),
    Compute(Turn),
    /// It, too, without keeping it: somebody else does, if it succeeds there.
    ComputeBeside,
}

fn memo<E: From<Error>>(
    store: &Arc<Store>,
    key: &[u8],
    options: &SetOptions,
    asking: Asking,
    compute: impl FnOnce() -> Result<Vec<u8>, E>,
) -> Result<Computed, E> {
    let turn = match course(store, key, options, asking)? {
        Course::There(value) => {
            return Ok(Computed {
                value,
                is_new: false,
                unkept: None,
            });
        }
        Course::ComputeBeside => {
            let value = compute()?;
            return Ok(Computed {
                value,
                is_new: true,
                unkept: Some(Error::NotHolder { key: key.to_vec() }),
            });
        }
        Course::Compute(turn) => turn,
    };
    let begun = Instant::now();
    let value = compute()?;
    let took = begun.elapsed();
    let finish = |turn: Turn| turn.finish(took, matches!(asking, Asking::Early(_)));
    let unkept = match keep(store, key, options, &value, turn, finish) {
        // A mistake of the caller's, which would be made again each time.
        Err(error @ Error::Deadlock { .. }) => return Err(error.into()),
        kept => kept.err(),
    };
    Ok(Computed {
        value,
        is_new: true,
        unkept,
    })
}

/// Sets what was computed, if that is still this caller's turn. A waiter computes if it is not
/// there.
fn keep(
    store: &Arc<Store>,
    key: &[u8],
    options: &SetOptions,
    value: &[u8],
    turn: Turn,
    finish: impl FnOnce(Turn),
) -> Result<(), Error> {
    let put = match turn.may_be_kept() {
        true => {
            let new = options.new_value(value);
            new.and_then(|new| Writer(store).put(key, &new, When::Computed(&turn)))
        }
        // Without making the key first.
        false => Ok(false),
    };
    let set = match put {
        Ok(false) => Err(turn.lost()),
        put => put,
    };
    match set {
        Ok(_) | Err(Error::NotDurable { .. }) => finish(turn),
        Err(_) => store.count_unkept(),
    }
    set.map(drop)
}

fn course(
    store: &Arc<Store>,
    key: &[u8],
    options: &SetOptions,
    asking: Asking,
) -> Result<Course, Error> {
    let early = match asking {
        Asking::Early(beta) => Some(beta),
        _ => None,
    };
    if let Some(beta) = early.filter(|beta| !(beta.is_finite() && *beta >= 0.0)) {
        let what = format!("a beta of {beta} says nothing; use 1.0, or more to compute earlier");
        return Err(Error::Invalid { what });
    }
    let mut value = Vec::new();
    let there = Values(store).get_value(key, &mut value)?;
    if let Some(expires_ms) = there {
        // Without random numbers there is no early, and the value is as good as before.
        let is_due = |beta| Turns(store).is_due(key, expires_ms, beta);
        if !early.is_some_and(|beta| is_due(beta).unwrap_or(false)) {
            return Ok(Course::There(value));
        }
    }
    // Refused before anything is computed.
    check_lengths(key, options.new_value(&[])?.tag)?;
    if let Some(expires_ms) = there {
        // Nor is it worse for want of a slot.
        let turn = early_turn(store, key, expires_ms).unwrap_or(None);
        return Ok(turn.map_or(Course::There(value), Course::Compute));
    }
    // An error is met again, and told, by the look after the wait.
    let is_there = || !matches!(Values(store).peek_value(key), Ok(None));
    loop {
        let begun = Turns(store).begin_turn(key, &is_there)?;
        // Again: the one before, which had the turn, may have set it.
        if Values(store).value_at_hand(key, &mut value)? {
            return Ok(Course::There(value));
        }
        match begun {
            Begun::Turn(turn) => return Ok(Course::Compute(*turn)),
            Begun::Beside if !matches!(asking, Asking::InTurn) => {
                return Ok(Course::ComputeBeside);
            }
            Begun::Beside | Begun::NotNeeded => {}
        }
    }
}

/// The turn of a value that is there, if nobody else has it and nobody has just been quicker.
fn early_turn(store: &Arc<Store>, key: &[u8], expires_ms: u64) -> Result<Option<Turn>, Error> {
    let Some(turn) = Turns(store).try_begin_turn(key)? else {
        return Ok(None);
    };
    let now = Values(store).peek_value(key)?;
    let is_the_same = now.is_none_or(|now| now.expires_ms == expires_ms);
    Ok(is_the_same.then_some(turn))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Between being chosen and having the turn, somebody else may have had it.
    #[test]
    fn who_is_chosen_and_too_late_goes_on_with_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path().join("store")).unwrap();
        let options = SetOptions::new().expire(std::time::Duration::from_secs(60));
        cache.set_with("k", "v", &options).unwrap();
        let store = &cache.store;
        let expires_ms = Values(store).peek_value(b"k").unwrap().unwrap().expires_ms;
        let early = |seen| early_turn(store, b"k", seen).unwrap();
        assert!(early(expires_ms - 1).is_none());
        let turn = early(expires_ms).unwrap();
        assert!(early(expires_ms).is_none());
        drop(turn);
        // Deleted meanwhile: then it is to be computed all the same.
        cache.delete("k").unwrap();
        assert!(early(expires_ms).is_some());
    }
}
