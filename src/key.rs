//! What can be a key.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

/// What can be a key: text, bytes and paths, borrowed or not. A key is a string of 1 to 1,024
/// bytes, and two types that have the same bytes are the same key.
///
/// ```
/// # fn main() -> slablock::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let cache = slablock::Cache::open(dir.path().join("store"))?;
/// use std::path::Path;
///
/// cache.set("report", "1")?;
/// cache.set(String::from("report"), "2")?;
/// cache.set(b"report", "3")?;
/// cache.set(Path::new("report"), "4")?;
/// assert_eq!(cache.len()?, 1);
/// # Ok(())
/// # }
/// ```
///
/// A type of yours that has bytes can be one, too.
pub trait AsKey {
    /// The bytes of the key.
    fn as_key(&self) -> &[u8];
}

macro_rules! as_keys {
    ($($of:ty: $key:ident => $bytes:expr;)*) => {
        $(impl AsKey for $of {
            #[inline]
            fn as_key(&self) -> &[u8] {
                let $key = self;
                $bytes
            }
        })*
    };
}

as_keys! {
    [u8]: key => key;
    str: key => key.as_bytes();
    Vec<u8>: key => key;
    String: key => key.as_bytes();
    OsStr: key => key.as_bytes();
    OsString: key => key.as_bytes();
    Path: key => key.as_os_str().as_bytes();
    PathBuf: key => key.as_os_str().as_bytes();
}

impl<const N: usize> AsKey for [u8; N] {
    #[inline]
    fn as_key(&self) -> &[u8] {
        self
    }
}

macro_rules! as_what_they_point_to {
    ($($of:ty),*) => {
        $(impl<K: AsKey + ?Sized> AsKey for $of {
            #[inline]
            fn as_key(&self) -> &[u8] {
                (**self).as_key()
            }
        })*
    };
}

as_what_they_point_to!(&K, &mut K, Box<K>, Arc<K>, Rc<K>);

impl<K: AsKey + ToOwned + ?Sized> AsKey for Cow<'_, K> {
    #[inline]
    fn as_key(&self) -> &[u8] {
        (**self).as_key()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_has_the_same_bytes_is_the_same_key() {
        fn bytes_of(key: impl AsKey) -> Vec<u8> {
            key.as_key().to_vec()
        }
        let text = "a key";
        let all = [
            bytes_of(text),
            bytes_of(text.to_string()),
            bytes_of(Box::new(text)),
            bytes_of(text.as_bytes()),
            bytes_of(b"a key"),
            bytes_of(*b"a key"),
            bytes_of(text.as_bytes().to_vec()),
            bytes_of(Box::<str>::from(text)),
            bytes_of(Arc::<str>::from(text)),
            bytes_of(Rc::<[u8]>::from(text.as_bytes())),
            bytes_of(Cow::Borrowed(text)),
            bytes_of(Cow::<[u8]>::Owned(text.as_bytes().to_vec())),
            bytes_of(Path::new(text)),
            bytes_of(PathBuf::from(text)),
            bytes_of(OsString::from(text)),
            bytes_of(OsStr::new(text)),
        ];
        assert!(all.iter().all(|key| key == text.as_bytes()), "{all:?}");
    }
}
