//! What stays of a value that is replaced.

use crate::store::space::set::New;

/// What to keep of a value that is replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Keep {
    pub(crate) expiry: bool,
    pub(crate) tag: bool,
}

impl Keep {
    pub(crate) fn anything(self) -> bool {
        self != Keep::default()
    }

    /// What is to be set, where a value with that expiry and that tag is.
    pub(crate) fn applied<'a>(self, new: New<'a>, expires_ms: u64, tag: &'a [u8]) -> New<'a> {
        New {
            expires_ms: if self.expiry {
                expires_ms
            } else {
                new.expires_ms
            },
            tag: if self.tag { tag } else { new.tag },
            ..new
        }
    }
}
