//! What the guards of locks and semaphores are made of: a grant that is given back when it is dropped.

use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::sync::Arc;

use crate::error::Result;
use crate::os::fork;
use crate::record::Hold;
use crate::store::holds::fast::{Grant, Predecessor};
use crate::store::holds::handle::Binding;
use crate::types::{Holder, Token};

/// What a guard knows besides its grant. The common case is two references, so that making and dropping a
/// guard are a few instructions.
pub(crate) enum Anchor<'a> {
    Borrowed {
        binding: &'a Arc<Binding>,
        /// Of the grant.
        hold: &'a Hold,
    },
    Rich(Arc<Rich>),
}

pub(crate) struct Rich {
    binding: Arc<Binding>,
    predecessor: Option<Predecessor>,
}

impl Deref for Anchor<'_> {
    type Target = Arc<Binding>;

    #[inline(always)]
    fn deref(&self) -> &Arc<Binding> {
        match self {
            Anchor::Borrowed { binding, .. } => binding,
            Anchor::Rich(rich) => &rich.binding,
        }
    }
}

impl<'a> Anchor<'a> {
    #[cold]
    pub(crate) fn new(
        binding: &'a Arc<Binding>,
        grant: &Grant,
        predecessor: Option<Predecessor>,
    ) -> Anchor<'a> {
        match (predecessor, binding.hold_of(grant)) {
            (None, Ok(hold)) => Anchor::Borrowed { binding, hold },
            (predecessor, _) => Anchor::Rich(Arc::new(Rich {
                binding: Arc::clone(binding),
                predecessor,
            })),
        }
    }

    pub(crate) fn to_owned(&self) -> Anchor<'static> {
        Anchor::Rich(match self {
            Anchor::Rich(rich) => Arc::clone(rich),
            Anchor::Borrowed { binding, .. } => Arc::new(Rich {
                binding: Arc::clone(binding),
                predecessor: None,
            }),
        })
    }

    /// Who had the grant before and died, or was late.
    pub(crate) fn predecessor(&self, died: bool) -> Option<&Holder> {
        let Anchor::Rich(rich) = self else {
            return None;
        };
        let before = rich.predecessor.as_ref().filter(|p| p.died == died);
        before.map(|p| &p.holder)
    }
}

/// A grant, given back at the end.
pub(crate) struct Held<'a> {
    /// Dropped by hand: what the compiler would add to each drop of a guard keeps it from being inlined, and
    /// a guard that is passed through memory costs more than the two atomic operations.
    binding: ManuallyDrop<Anchor<'a>>,
    /// Nobody's, and so given back by nobody, once it was given back otherwise.
    grant: Grant,
}

impl<'a> Held<'a> {
    #[inline(always)]
    pub(crate) fn new(binding: Anchor<'a>, grant: Grant) -> Held<'a> {
        let binding = ManuallyDrop::new(binding);
        Held { binding, grant }
    }

    pub(crate) fn binding(&self) -> &Arc<Binding> {
        &self.binding
    }

    pub(crate) fn token(&self) -> Token {
        self.grant.token()
    }

    pub(crate) fn permit(&self) -> u32 {
        self.grant.permit
    }

    pub(crate) fn predecessor(&self, died: bool) -> Option<&Holder> {
        self.binding.predecessor(died)
    }

    pub(crate) fn renew(&self) -> Result<()> {
        self.binding.renew(&self.grant)
    }

    pub(crate) fn check(&self) -> Result<()> {
        self.binding.check(&self.grant)
    }

    pub(crate) fn release(mut self) -> Result<()> {
        let grant = self.grant.take();
        self.binding.give_back(&grant)
    }

    pub(crate) fn into_token(mut self) -> Token {
        keep_open(&self.binding);
        let grant = self.grant.take();
        self.binding.note_token(&grant);
        grant.token()
    }

    pub(crate) fn into_owned(mut self) -> Held<'static> {
        Held::new((*self.binding).to_owned(), self.grant.take())
    }
}

impl Drop for Held<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        let Grant { epoch, word, .. } = self.grant;
        if let Anchor::Borrowed { hold, .. } = &*self.binding
            && epoch == fork::epoch()
            && hold.try_give_back(word)
        {
            return;
        }
        drop_slow(take_anchor(&mut self.binding), self.grant);
    }
}

/// By value, so that the guard itself need not have an address.
#[cold]
#[inline(never)]
fn drop_slow(anchor: Anchor<'_>, grant: Grant) {
    // Lost, or copied by a fork, or nobody's: there is nothing to give back, and nobody to tell.
    let _ = anchor.give_back(&grant);
}

/// Takes the anchor out of a guard that is being dropped.
#[allow(unsafe_code)]
#[inline(always)]
pub(crate) fn take_anchor<'a>(anchor: &mut ManuallyDrop<Anchor<'a>>) -> Anchor<'a> {
    // SAFETY: only called at the end of a guard's own destructor, after which nobody can use it (P2).
    unsafe { ManuallyDrop::take(anchor) }
}

/// Keeps the store open for the rest of the process's life: with its last handle the process would leave,
/// and what a token stands for would pass for a dead one's.
pub(crate) fn keep_open(binding: &Arc<Binding>) {
    std::mem::forget(Arc::clone(binding.store()));
}
