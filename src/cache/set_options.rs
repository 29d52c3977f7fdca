//! How a value is set, besides under which key.

use std::time::Duration;

use crate::error::Result;
use crate::store::expiry::expires_ms;
use crate::store::space::keep::Keep;
use crate::store::space::set::New;

/// How a value is set, besides under which key: for how long, and with which tag. Of a value that
/// is replaced nothing stays that is not to be kept: setting it anew without a tag takes its tag
/// away.
///
/// ```
/// # fn main() -> slablock::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let dir = dir.path().join("store");
/// # let cache = slablock::Cache::open(&dir)?;
/// use std::time::Duration;
///
/// use slablock::SetOptions;
///
/// let session = SetOptions::new().expire(Duration::from_secs(600)).tag("sessions");
/// cache.set_with("session 7", "new", &session)?;
/// // Its ten minutes go on.
/// cache.set_with("session 7", "in use", &session.clone().keep_expiry())?;
/// assert!(cache.entry("session 7")?.unwrap().expires_in < Some(Duration::from_secs(600)));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct SetOptions {
    expire: Option<Duration>,
    tag: Box<[u8]>,
    keep: Keep,
}

impl SetOptions {
    /// For ever, and without a tag.
    pub fn new() -> SetOptions {
        SetOptions::default()
    }

    /// Lets the value be forgotten after that time, in wall-clock time, rounded up to milliseconds,
    /// also across a reboot. When the clock is set back, the value lives that much longer; when
    /// it is set forward, that much shorter. Zero is refused. What would last beyond the year 2109
    /// is over then.
    pub fn expire(mut self, after: Duration) -> SetOptions {
        self.expire = Some(after);
        self
    }

    /// Stores a tag beside the value, at most 255 bytes, for `remove_tagged`. An empty one is none.
    pub fn tag(mut self, tag: impl AsRef<[u8]>) -> SetOptions {
        self.tag = tag.as_ref().into();
        self
    }

    /// Lets a value that is replaced be over when the one before would have been. Where there is
    /// none, [`expire`](Self::expire) counts.
    ///
    /// For `set_with`, `replace_with` and `compare_and_swap_with`, also in a transaction; what
    /// makes or computes a value that is not there has nothing to keep.
    pub fn keep_expiry(mut self) -> SetOptions {
        self.keep.expiry = true;
        self
    }

    /// Lets a value that is replaced have the tag of the one before. Where there is none,
    /// [`tag`](Self::tag) counts. As [`keep_expiry`](Self::keep_expiry).
    pub fn keep_tag(mut self) -> SetOptions {
        self.keep.tag = true;
        self
    }

    pub(crate) fn keep(&self) -> Keep {
        self.keep
    }

    pub(crate) fn new_value<'a>(&'a self, value: &'a [u8]) -> Result<New<'a>> {
        Ok(New {
            value,
            tag: &self.tag,
            expires_ms: expires_ms(self.expire)?,
        })
    }
}
