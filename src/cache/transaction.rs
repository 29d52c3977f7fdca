//! Several values changed all or not at all.

use std::fmt;
use std::sync::Arc;

use crate::cache::Cache;
use crate::cache::set_options::SetOptions;
use crate::error::{BoxError, Error, Result};
use crate::key::AsKey;
use crate::store::Store;
use crate::store::space::integer::integer_after;
use crate::store::space::set::New;
use crate::store::txn::transaction::Ongoing;

/// What a function given to `transact` reads and changes values through.
///
/// It sees its own changes; nobody else does before it has ended.
pub struct Transaction<'a> {
    cache: &'a Cache,
    ongoing: Ongoing<'a>,
}

impl fmt::Debug for Transaction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("cache", self.cache)
            .finish_non_exhaustive()
    }
}

impl<'a> Transaction<'a> {
    fn of_key(&self, key: &[u8]) -> (usize, &'a Arc<Store>) {
        let shard = self.cache.shard_number(key);
        (shard, &self.cache.stores()[shard])
    }

    /// The value; `None` if there is none. Nobody else changes it, or makes one, until the
    /// transaction has ended. Reading makes no key and evicts nothing. (But of more than 2,047 keys
    /// that are not there, all in one shard, the rest is made, without a value.)
    pub fn get(&mut self, key: impl AsKey) -> Result<Option<&[u8]>> {
        let key = key.as_key();
        let (shard, store) = self.of_key(key);
        let whole = self.ongoing.get(shard, store, key)?;
        Ok(whole.map(|whole| &whole.value[..]))
    }

    /// Sets a value, for ever and without a tag.
    pub fn set(&mut self, key: impl AsKey, value: impl AsRef<[u8]>) -> Result<()> {
        self.set_with(key, value, &SetOptions::default())
    }

    /// Sets a value with an expiry or a tag, or with those of the value before.
    pub fn set_with(
        &mut self,
        key: impl AsKey,
        value: impl AsRef<[u8]>,
        options: &SetOptions,
    ) -> Result<()> {
        let key = key.as_key();
        let (shard, store) = self.of_key(key);
        let new = options.new_value(value.as_ref())?;
        if !options.keep().anything() {
            return self.ongoing.set(shard, store, key, &new);
        }
        let before = self.ongoing.get(shard, store, key)?;
        let before = before.map(|whole| (whole.expires_ms, whole.tag.clone()));
        let new = match &before {
            Some((expires_ms, tag)) => options.keep().applied(new, *expires_ms, tag),
            None => new,
        };
        self.ongoing.set(shard, store, key, &new)
    }

    /// Deletes a value. `false`: there is none.
    pub fn delete(&mut self, key: impl AsKey) -> Result<bool> {
        let key = key.as_key();
        let (shard, store) = self.of_key(key);
        self.ongoing.delete(shard, store, key)
    }

    /// Adds to an integer, and returns the sum; what is not there counts as 0. See [`Cache::incr`].
    pub fn incr(&mut self, key: impl AsKey, by: i64) -> Result<i64> {
        let key = key.as_key();
        let (shard, store) = self.of_key(key);
        let old = self.ongoing.get(shard, store, key)?;
        let number = integer_after(key, old.map(|w| &w.value[..]), by.into(), 0)?;
        // Not the value, which was one of a few digits, but may have had room for more.
        let (tag, expires_ms) =
            old.map_or_else(Default::default, |w| (w.tag.clone(), w.expires_ms));
        let digits = number.to_string();
        let new = New {
            value: digits.as_bytes(),
            tag: &tag,
            expires_ms,
        };
        self.ongoing.set(shard, store, key, &new)?;
        Ok(number)
    }
}

impl Cache {
    /// Reads and changes several values in one step: all changes happen or none does, and nobody
    /// else changes what was read or set before it has ended. When `work` returns an error,
    /// panics, or its process dies, nothing has happened.
    ///
    /// # Blocking
    ///
    /// One transaction at a time in a cache; others wait for it, and so does a writer of a value
    /// that it has touched, or has looked for in vain. A reader of one does not wait, and sees it
    /// as it was until all is changed. Inside `work`, use the transaction: what is changed
    /// through the cache itself is no part of it, and stays whatever becomes of it. Changing
    /// one of its values through the cache itself, or beginning another transaction there, is
    /// [`Error::Deadlock`], for it would wait for the end of this one. (Not if another thread
    /// does it for which `work` waits: that waits for ever.)
    ///
    /// # Errors
    ///
    /// Inside `work`, `?` takes errors of all types that are `Send` and `Sync`; one that is not the
    /// cache's own comes back as [`Error::Caller`]. For an error type of your own there is
    /// [`transact_as`](Self::transact_as). After any error nothing has happened, but after
    /// `NotDurable`, with [`Durability::PowerLoss`](crate::Durability), all has: the device has
    /// failed to write it, and until [`sync`](Self::sync) has made that good a power failure
    /// may undo it, or a part of it.
    ///
    /// # If the process dies
    ///
    /// All of it has happened or nothing; others go on at once. A power failure may leave a part,
    /// unless [`Durability::PowerLoss`](crate::Durability) was chosen. The child of a fork
    /// inside `work` has no part in it: its `transact` ends with `NotHolder`.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> slablock::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let dir = dir.path().join("store");
    /// # let cache = slablock::Cache::open(&dir)?;
    /// cache.set("here", "30")?;
    /// cache.transact(|t| {
    ///     t.incr("here", -10)?;
    ///     t.incr("there", 10)?;
    ///     Ok(())
    /// })?;
    /// assert_eq!(cache.get("there")?.as_deref(), Some(&b"10"[..]));
    /// # Ok(())
    /// # }
    /// ```
    pub fn transact<T>(
        &self,
        work: impl FnOnce(&mut Transaction<'_>) -> std::result::Result<T, BoxError>,
    ) -> Result<T> {
        self.transact_as(|transaction| work(transaction).map_err(Error::from))
    }

    /// Reads and changes several values in one step, as [`transact`](Self::transact) does, with an
    /// error type of the caller's own. An error of `work` comes back as it is; the cache's own
    /// errors are turned into that type.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> slablock::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let dir = dir.path().join("store");
    /// # let cache = slablock::Cache::open(&dir)?;
    /// #[derive(Debug)]
    /// enum Refused {
    ///     Overdrawn(i64),
    ///     Cache(slablock::Error),
    /// }
    ///
    /// impl From<slablock::Error> for Refused {
    ///     fn from(error: slablock::Error) -> Refused {
    ///         Refused::Cache(error)
    ///     }
    /// }
    ///
    /// let paid = cache.transact_as(|t| match t.incr("balance", -5)? {
    ///     left if left < 0 => Err(Refused::Overdrawn(left)),
    ///     left => Ok(left),
    /// });
    /// assert!(matches!(paid, Err(Refused::Overdrawn(-5))));
    /// assert_eq!(cache.get("balance")?, None);
    /// # Ok(())
    /// # }
    /// ```
    pub fn transact_as<T, E: From<Error>>(
        &self,
        work: impl FnOnce(&mut Transaction<'_>) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let mut transaction = Transaction {
            cache: self,
            ongoing: Ongoing::begin(&self.stores()[0])?,
        };
        let result = work(&mut transaction)?;
        transaction.ongoing.commit()?;
        Ok(result)
    }
}
