//! What the guards of locks and semaphores are made of: a grant that is given back when it is dropped.

use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;

use crate::error::Result;
use crate::record::Word;
use crate::store::acquire::{Grant, Predecessor};
use crate::store::binding::{Binding, Spot};
use crate::types::{Holder, Token};

/// What a guard knows besides its grant: the handle's binding and, seldom, more. The common case is a mere
/// reference, so that making and dropping a guard are a few instructions.
pub(crate) enum Anchor<'a> {
    Borrowed(&'a Arc<Binding>),
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
            Anchor::Borrowed(binding) => binding,
            Anchor::Rich(rich) => &rich.binding,
        }
    }
}

impl<'a> Anchor<'a> {
    #[cold]
    pub(crate) fn new(binding: &'a Arc<Binding>, predecessor: Option<Predecessor>) -> Anchor<'a> {
        match predecessor {
            None => Anchor::Borrowed(binding),
            Some(_) => Anchor::Rich(Arc::new(Rich {
                binding: Arc::clone(binding),
                predecessor,
            })),
        }
    }

    pub(crate) fn to_owned(&self) -> Anchor<'static> {
        Anchor::Rich(match self {
            Anchor::Rich(rich) => Arc::clone(rich),
            Anchor::Borrowed(binding) => Arc::new(Rich {
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

/// Where the hold of a grant is: known when a guard is compiled, so that dropping one is short enough to be
/// inlined everywhere.
pub(crate) trait Form {
    fn give_back_fast(binding: &Binding, grant: &Grant) -> bool;
}

/// In the slot.
pub(crate) struct Single;
/// Among the permits.
pub(crate) struct Permit;

impl Form for Single {
    #[inline(always)]
    fn give_back_fast(binding: &Binding, grant: &Grant) -> bool {
        binding.give_back_fast(grant.spot, grant.word)
    }
}

impl Form for Permit {
    #[inline(always)]
    fn give_back_fast(binding: &Binding, grant: &Grant) -> bool {
        binding.give_back_permit_fast(grant)
    }
}

/// A grant, given back at the end.
pub(crate) struct Held<'a, F: Form> {
    binding: Anchor<'a>,
    /// Nobody's, and so given back by nobody, once it was given back otherwise.
    grant: Grant,
    form: PhantomData<F>,
}

impl<'a, F: Form> Held<'a, F> {
    #[inline(always)]
    pub(crate) fn new(binding: Anchor<'a>, grant: Grant) -> Held<'a, F> {
        Held {
            binding,
            grant,
            form: PhantomData,
        }
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
        self.grant.take().token()
    }

    pub(crate) fn into_owned(mut self) -> Held<'static, F> {
        Held::new(self.binding.to_owned(), self.grant.take())
    }
}

impl<F: Form> Drop for Held<'_, F> {
    #[inline(always)]
    fn drop(&mut self) {
        let grant = self.grant;
        if !F::give_back_fast(&self.binding, &grant) {
            give_back_slow(
                &self.binding,
                grant.spot,
                (grant.first_block, grant.permit),
                grant.word,
            );
        }
    }
}

/// Takes the grant apart, so that the fast path need not have it in memory.
#[cold]
#[inline(never)]
fn give_back_slow(binding: &Binding, spot: Spot, permit: (u32, u32), word: Word) {
    // Lost, or copied by a fork, or nobody's: there is nothing to give back, and nobody to tell.
    let (first_block, permit) = permit;
    let _ = binding.give_back(&Grant {
        spot,
        permit,
        first_block,
        word,
    });
}

/// Keeps the store open for the rest of the process's life: with its last handle the process would leave,
/// and what a token stands for would pass for a dead one's.
pub(crate) fn keep_open(binding: &Arc<Binding>) {
    std::mem::forget(Arc::clone(binding.store()));
}
