//! What the guards of locks and semaphores are made of: a grant that is given back when it is
//! dropped.

use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::sync::Arc;

use crate::error::Result;
use crate::os::fork;
use crate::record::Hold;
use crate::store::holds::fast::{Grant, Holding};
use crate::store::holds::handle::Handle;
use crate::types::{Predecessor, Token};

/// What a guard knows besides its grant. The common case is two references, so that making and
/// dropping a guard are a few instructions.
pub(crate) enum Anchor<'a> {
    Borrowed {
        handle: &'a Arc<Handle>,
        /// Of the grant.
        hold: &'a Hold,
    },
    Rich(Arc<Rich>),
}

pub(crate) struct Rich {
    handle: Arc<Handle>,
    predecessor: Option<Predecessor>,
}

impl Deref for Anchor<'_> {
    type Target = Arc<Handle>;

    #[inline(always)]
    fn deref(&self) -> &Arc<Handle> {
        match self {
            Anchor::Borrowed { handle, .. } => handle,
            Anchor::Rich(rich) => &rich.handle,
        }
    }
}

impl<'a> Anchor<'a> {
    #[cold]
    pub(crate) fn new(
        handle: &'a Arc<Handle>,
        grant: &Grant,
        predecessor: Option<Predecessor>,
    ) -> Anchor<'a> {
        match (predecessor, Holding(handle).hold_of(grant)) {
            (None, Ok(hold)) => Anchor::Borrowed { handle, hold },
            (predecessor, _) => Anchor::Rich(Arc::new(Rich {
                handle: Arc::clone(handle),
                predecessor,
            })),
        }
    }

    pub(crate) fn to_owned(&self) -> Anchor<'static> {
        Anchor::Rich(match self {
            Anchor::Rich(rich) => Arc::clone(rich),
            Anchor::Borrowed { handle, .. } => Arc::new(Rich {
                handle: Arc::clone(handle),
                predecessor: None,
            }),
        })
    }

    /// The holder before, which did not give the grant back.
    pub(crate) fn predecessor(&self) -> Option<&Predecessor> {
        match self {
            Anchor::Borrowed { .. } => None,
            Anchor::Rich(rich) => rich.predecessor.as_ref(),
        }
    }
}

/// A grant, given back at the end.
pub(crate) struct Held<'a> {
    /// Dropped by hand: what the compiler would add to each drop of a guard keeps it from being
    /// inlined, and a guard that is passed through memory costs more than the two atomic
    /// operations.
    handle: ManuallyDrop<Anchor<'a>>,
    /// Nobody's, and so given back by nobody, once it was given back otherwise.
    grant: Grant,
}

impl<'a> Held<'a> {
    #[inline(always)]
    pub(crate) fn new(handle: Anchor<'a>, grant: Grant) -> Held<'a> {
        let handle = ManuallyDrop::new(handle);
        Held { handle, grant }
    }

    pub(crate) fn handle(&self) -> &Arc<Handle> {
        &self.handle
    }

    pub(crate) fn token(&self) -> Token {
        self.grant.token()
    }

    pub(crate) fn permit(&self) -> u32 {
        self.grant.permit
    }

    pub(crate) fn predecessor(&self) -> Option<&Predecessor> {
        self.handle.predecessor()
    }

    pub(crate) fn renew(&self) -> Result<()> {
        Holding(&self.handle).renew(&self.grant)
    }

    pub(crate) fn check(&self) -> Result<()> {
        Holding(&self.handle).check(&self.grant)
    }

    pub(crate) fn release(mut self) -> Result<()> {
        let grant = self.grant.take();
        Holding(&self.handle).give_back(&grant)
    }

    pub(crate) fn into_token(mut self) -> Token {
        keep_open(&self.handle);
        let grant = self.grant.take();
        Holding(&self.handle).note_token(&grant);
        grant.token()
    }

    pub(crate) fn into_owned(mut self) -> Held<'static> {
        Held::new((*self.handle).to_owned(), self.grant.take())
    }
}

impl Drop for Held<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        let Grant { epoch, word, .. } = self.grant;
        if let Anchor::Borrowed { hold, .. } = &*self.handle
            && epoch == fork::epoch()
            && hold.try_give_back(word)
        {
            return;
        }
        drop_slow(take_anchor(&mut self.handle), self.grant);
    }
}

/// By value, so that the guard itself need not have an address.
#[cold]
#[inline(never)]
fn drop_slow(anchor: Anchor<'_>, grant: Grant) {
    // Lost, or copied by a fork, or nobody's: there is nothing to give back, and nobody to tell.
    let _ = Holding(&anchor).give_back(&grant);
}

/// Takes the anchor out of a guard that is being dropped.
#[allow(unsafe_code)]
#[inline(always)]
pub(crate) fn take_anchor<'a>(anchor: &mut ManuallyDrop<Anchor<'a>>) -> Anchor<'a> {
    // SAFETY: only called at the end of a guard's own destructor, after which nobody can use it
    // (P2).
    unsafe { ManuallyDrop::take(anchor) }
}

/// Keeps the store open for the rest of the process's life: with its last handle the process would
/// leave, and what a token stands for would pass for a dead process's.
pub(crate) fn keep_open(handle: &Arc<Handle>) {
    std::mem::forget(Arc::clone(handle.store()));
}
