//! The cache as a cache: keys to values.

use std::cell::RefCell;
use std::time::Duration;

use crate::cache::Cache;
use crate::cache::iter::{Entry, Iter};
use crate::cache::set_options::SetOptions;
use crate::error::Result;
use crate::key::AsKey;
use crate::store::expiry::expires_ms;
use crate::store::space::integer::FirstNumber;
use crate::store::space::set::{New, When, Writer};
use crate::store::values::get::Values;

thread_local! {
    /// For [`Cache::read`]: what is read is copied once, and nothing is allocated each time.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A buffer that is not kept beyond that many bytes.
const BUFFER_KEPT: usize = 1 << 20;

fn with_buffer<T>(work: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    // Taken out: the caller's function may get another value. In the last destructors of a thread
    // there is none any more: each one has its own then.
    let mut buffer = BUFFER.try_with(RefCell::take).unwrap_or_default();
    let result = work(&mut buffer);
    if buffer.capacity() <= BUFFER_KEPT {
        let _ = BUFFER.try_with(|kept| kept.replace(buffer));
    }
    result
}

/// Values.
///
/// Every operation is one step for all threads of all processes: it has happened or it has not,
/// whichever process is killed when. Reading waits for nobody; a writer waits for another writer of
/// the same value. A key that holds a lock or another primitive is the error `KindMismatch`; an
/// empty or too long one is `KeyLength`.
impl Cache {
    /// Sets a value, for ever and without a tag, whatever was there: of 0 bytes to the cache's
    /// [`value_limit`](crate::Options::value_limit), a quarter of what all may take unless another
    /// was chosen.
    ///
    /// # Errors
    ///
    /// `ValueLength`; `Full` or `OverLimit` when there is no room and nothing may be evicted,
    /// `NoSpace` when there is none on the device. What was there is there still. With
    /// [`Durability::PowerLoss`](crate::Durability) also `NotDurable`: the value *is* set, and the
    /// device has failed to write it; and then `Unsynced`, which changes nothing, until
    /// [`sync`](Self::sync) has made that good. The same holds for all that changes a value.
    ///
    /// # If the process dies
    ///
    /// The old value is there or the new one. Once `set` has returned, nobody's death undoes it; a
    /// power failure may, unless [`Durability::PowerLoss`](crate::Durability) was chosen.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> slablock::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let dir = dir.path().join("store");
    /// let cache = slablock::Cache::open(&dir)?;
    /// cache.set("greeting", "hello")?;
    /// assert_eq!(cache.get("greeting")?.as_deref(), Some(&b"hello"[..]));
    /// assert!(cache.delete("greeting")?);
    /// # Ok(())
    /// # }
    /// ```
    #[inline]
    pub fn set(&self, key: impl AsKey, value: impl AsRef<[u8]>) -> Result<()> {
        let new = New {
            value: value.as_ref(),
            tag: &[],
            expires_ms: 0,
        };
        let key = key.as_key();
        Writer(self.store_of(key))
            .put(key, &new, When::Always)
            .map(drop)
    }

    /// Sets a value with an expiry or a tag. See [`set`](Self::set).
    pub fn set_with(
        &self,
        key: impl AsKey,
        value: impl AsRef<[u8]>,
        options: &SetOptions,
    ) -> Result<()> {
        self.put(key.as_key(), value.as_ref(), options, When::Always)
            .map(drop)
    }

    fn put(&self, key: &[u8], value: &[u8], options: &SetOptions, when: When<'_>) -> Result<bool> {
        let new = options.new_value(value)?;
        let writer = Writer(self.store_of(key));
        match options.keep().anything() {
            false => writer.put(key, &new, when),
            true => writer.put_keeping(key, &new, options.keep(), when),
        }
    }

    /// Sets a value if there is none. `false`: there is one.
    pub fn add(&self, key: impl AsKey, value: impl AsRef<[u8]>) -> Result<bool> {
        self.add_with(key, value, &SetOptions::default())
    }

    /// Sets a value with an expiry or a tag, if there is none. See [`add`](Self::add).
    pub fn add_with(
        &self,
        key: impl AsKey,
        value: impl AsRef<[u8]>,
        options: &SetOptions,
    ) -> Result<bool> {
        self.put(key.as_key(), value.as_ref(), options, When::Absent)
    }

    /// Sets a value if there is one already. `false`: there is none.
    pub fn replace(&self, key: impl AsKey, value: impl AsRef<[u8]>) -> Result<bool> {
        self.replace_with(key, value, &SetOptions::default())
    }

    /// Sets a value with an expiry or a tag, if there is one already. See
    /// [`replace`](Self::replace).
    pub fn replace_with(
        &self,
        key: impl AsKey,
        value: impl AsRef<[u8]>,
        options: &SetOptions,
    ) -> Result<bool> {
        self.put(key.as_key(), value.as_ref(), options, When::Present)
    }

    /// Sets a value if what is there is `old`, byte by byte. `false`: it is another, or none.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> slablock::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let dir = dir.path().join("store");
    /// # let cache = slablock::Cache::open(&dir)?;
    /// cache.set("state", "queued")?;
    /// assert!(cache.compare_and_swap("state", "queued", "running")?);
    /// assert!(!cache.compare_and_swap("state", "queued", "running")?); // somebody was quicker
    /// # Ok(())
    /// # }
    /// ```
    pub fn compare_and_swap(
        &self,
        key: impl AsKey,
        old: impl AsRef<[u8]>,
        new: impl AsRef<[u8]>,
    ) -> Result<bool> {
        self.compare_and_swap_with(key, old, new, &SetOptions::default())
    }

    /// Sets a value with an expiry or a tag, if what is there is `old`. See
    /// [`compare_and_swap`](Self::compare_and_swap).
    pub fn compare_and_swap_with(
        &self,
        key: impl AsKey,
        old: impl AsRef<[u8]>,
        new: impl AsRef<[u8]>,
        options: &SetOptions,
    ) -> Result<bool> {
        let when = When::Equal(old.as_ref());
        self.put(key.as_key(), new.as_ref(), options, when)
    }

    /// The value; `None`: there is none, it is over, or it is damaged.
    ///
    /// Damage is found by a checksum. That of a value of more than 16 KiB is looked at when a
    /// process first gets it, and not each time: of its file what was sound is believed until
    /// this process has got or set a few hundred others, or [`check`](Self::check) has found it
    /// damaged.
    #[inline]
    pub fn get(&self, key: impl AsKey) -> Result<Option<Vec<u8>>> {
        let (key, mut value) = (key.as_key(), Vec::new());
        let got = Values(self.store_of(key)).get_value(key, &mut value)?;
        Ok(got.map(|_| value))
    }

    /// Puts the value in place of what is in `into`, and uses its memory again. `false`: there is
    /// none, and `into` means nothing.
    #[inline]
    pub fn get_into(&self, key: impl AsKey, into: &mut Vec<u8>) -> Result<bool> {
        let key = key.as_key();
        Ok(Values(self.store_of(key)).get_value(key, into)?.is_some())
    }

    /// Shows the value to `look`, without allocating memory each time: it is copied once, into a
    /// buffer of this thread, because other processes may replace it at any moment.
    pub fn read<T>(&self, key: impl AsKey, look: impl FnOnce(&[u8]) -> T) -> Result<Option<T>> {
        with_buffer(|buffer| Ok(self.get_into(key, buffer)?.then(|| look(buffer))))
    }

    /// The value, its tag, and how long it will be there, all of the same moment.
    pub fn entry(&self, key: impl AsKey) -> Result<Option<Entry>> {
        let key = key.as_key();
        let whole = Values(self.store_of(key)).whole_value(key)?;
        Ok(whole.map(Entry::of))
    }

    /// All values with their keys, tags and expiries. Not counted as hits, and no use that keeps
    /// them from being evicted.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> slablock::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let dir = dir.path().join("store");
    /// # let cache = slablock::Cache::open(&dir)?;
    /// cache.set_with("page", "<html>", &slablock::SetOptions::new().tag("pages"))?;
    /// for item in &cache {
    ///     let (key, entry) = item?;
    ///     assert_eq!((&key[..], &entry.value[..]), (&b"page"[..], &b"<html>"[..]));
    ///     assert_eq!(entry.tag.as_deref(), Some(&b"pages"[..]));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn iter(&self) -> Iter {
        Iter::over(self.stores().to_vec())
    }

    /// Whether there is a value. Not counted as a hit or a miss. The bytes of a value that does not
    /// lie in the slots are not looked at: one that is damaged there counts as a value here, as
    /// it does for `replace`, `touch` and `delete`, until it is set anew.
    pub fn contains(&self, key: impl AsKey) -> Result<bool> {
        let key = key.as_key();
        Ok(Values(self.store_of(key)).peek_value(key)?.is_some())
    }

    /// Deletes a value. `false`: there was none.
    pub fn delete(&self, key: impl AsKey) -> Result<bool> {
        let key = key.as_key();
        Ok(Writer(self.store_of(key)).take_value(key, false)?.is_some())
    }

    /// Deletes a value and returns it, in one step: of all that pop it, one gets it.
    ///
    /// # Errors
    ///
    /// After any error the value is there still. With [`Durability::PowerLoss`](crate::Durability)
    /// that may be one of the device, which has failed to write that the value is gone: then
    /// others may have missed the value for a moment, and a power failure before
    /// [`sync`](Self::sync) has made that good may take it away.
    pub fn pop(&self, key: impl AsKey) -> Result<Option<Vec<u8>>> {
        let key = key.as_key();
        Writer(self.store_of(key)).take_value(key, true)
    }

    /// Gives a value another expiry, from now; `None`: for ever. `false`: there is none.
    pub fn touch(&self, key: impl AsKey, expire: Option<Duration>) -> Result<bool> {
        let key = key.as_key();
        Writer(self.store_of(key)).touch_value(key, expires_ms(expire)?)
    }

    /// Adds to an integer of 64 bits, and returns the sum. The value is its decimal digits, so
    /// `set` and `get` have it, too; what is not there counts as 0, and stays for ever. An
    /// expiry and a tag that are there stay.
    ///
    /// # Errors
    ///
    /// `NotInteger` if the value is none, or if the sum would not be one; nothing is changed then.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> slablock::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let dir = dir.path().join("store");
    /// # let cache = slablock::Cache::open(&dir)?;
    /// assert_eq!(cache.incr("visits", 1)?, 1);
    /// assert_eq!(cache.incr("visits", 10)?, 11);
    /// assert_eq!(cache.get("visits")?.as_deref(), Some(&b"11"[..]));
    /// # Ok(())
    /// # }
    /// ```
    #[inline]
    pub fn incr(&self, key: impl AsKey, by: i64) -> Result<i64> {
        self.incr_or(key, by, 0)
    }

    /// Adds to an integer that counts as `start` where there is none. See [`incr`](Self::incr).
    #[inline]
    pub fn incr_or(&self, key: impl AsKey, by: i64, start: i64) -> Result<i64> {
        let key = key.as_key();
        let start = FirstNumber {
            number: start,
            ..FirstNumber::default()
        };
        Writer(self.store_of(key)).add_to(key, by.into(), &start)
    }

    /// Adds to an integer; where there is none, one is made that counts from `start`, with the
    /// expiry and the tag of `options`, in one step. Those of one that is there stay as they are.
    /// See [`incr`](Self::incr).
    ///
    /// # Examples
    ///
    /// At the most a hundred a minute: the count begins anew when its minute is over.
    ///
    /// ```
    /// # fn main() -> slablock::Result<()> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let dir = dir.path().join("store");
    /// # let cache = slablock::Cache::open(&dir)?;
    /// use slablock::SetOptions;
    /// use std::time::Duration;
    ///
    /// let minute = SetOptions::new().expire(Duration::from_secs(60));
    /// let is_allowed = cache.incr_with("requests of 192.0.2.7", 1, 0, &minute)? <= 100;
    /// # assert!(is_allowed);
    /// # Ok(())
    /// # }
    /// ```
    pub fn incr_with(
        &self,
        key: impl AsKey,
        by: i64,
        start: i64,
        options: &SetOptions,
    ) -> Result<i64> {
        let key = key.as_key();
        let new = options.new_value(&[])?;
        let start = FirstNumber {
            number: start,
            tag: new.tag,
            expires_ms: new.expires_ms,
        };
        Writer(self.store_of(key)).add_to(key, by.into(), &start)
    }

    /// Takes from an integer. See [`incr`](Self::incr).
    pub fn decr(&self, key: impl AsKey, by: i64) -> Result<i64> {
        self.decr_or(key, by, 0)
    }

    /// Takes from an integer that counts as `start` where there is none. See [`incr`](Self::incr).
    pub fn decr_or(&self, key: impl AsKey, by: i64, start: i64) -> Result<i64> {
        let key = key.as_key();
        let start = FirstNumber {
            number: start,
            ..FirstNumber::default()
        };
        Writer(self.store_of(key)).add_to(key, -i128::from(by), &start)
    }
}
