//! What the guards of locks and semaphores are made of: a grant that is given back when it is dropped.

use std::ops::Deref;
use std::sync::Arc;

use crate::error::Result;
use crate::record::Word;
use crate::store::acquire::{Grant, Predecessor};
use crate::store::binding::{Binding, Spot};
use crate::types::{Holder, Kind, Token};

/// A handle's binding, lent or shared.
pub(crate) enum Anchor<'a> {
    Borrowed(&'a Arc<Binding>),
    Owned(Arc<Binding>),
}

impl Deref for Anchor<'_> {
    type Target = Arc<Binding>;

    #[inline(always)]
    fn deref(&self) -> &Arc<Binding> {
        match self {
            Anchor::Borrowed(binding) => binding,
            Anchor::Owned(binding) => binding,
        }
    }
}

/// A grant, given back at the end. Taken out when it was given back otherwise.
pub(crate) struct Held<'a> {
    binding: Anchor<'a>,
    /// `None` only inside the methods that consume it.
    grant: Option<Grant>,
}

impl<'a> Held<'a> {
    #[inline(always)]
    pub(crate) fn new(binding: &'a Arc<Binding>, grant: Grant) -> Held<'a> {
        Held {
            binding: Anchor::Borrowed(binding),
            grant: Some(grant),
        }
    }

    pub(crate) fn binding(&self) -> &Arc<Binding> {
        &self.binding
    }

    pub(crate) fn token(&self) -> Token {
        self.grant.as_ref().map_or(Token::new(0), Grant::token)
    }

    pub(crate) fn permit(&self) -> u32 {
        self.grant.as_ref().map_or(0, |grant| grant.permit)
    }

    pub(crate) fn predecessor(&self, died: bool) -> Option<&Holder> {
        predecessor(self.grant.as_ref()?, died)
    }

    pub(crate) fn renew(&self) -> Result<()> {
        self.with(|grant| self.binding.renew(grant))
    }

    pub(crate) fn check(&self) -> Result<()> {
        self.with(|grant| self.binding.check(grant))
    }

    fn with(&self, action: impl FnOnce(&Grant) -> Result<()>) -> Result<()> {
        match &self.grant {
            Some(grant) => action(grant),
            None => Err(self.binding.not_holder()),
        }
    }

    pub(crate) fn release(mut self) -> Result<()> {
        match self.grant.take() {
            Some(grant) => self.binding.give_back(&grant),
            None => Ok(()),
        }
    }

    pub(crate) fn into_token(mut self) -> Token {
        let token = self.token();
        self.grant = None;
        keep_open(&self.binding);
        token
    }

    pub(crate) fn into_owned(mut self) -> Held<'static> {
        Held {
            binding: Anchor::Owned(Arc::clone(&self.binding)),
            grant: self.grant.take(),
        }
    }
}

impl Drop for Held<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(grant) = &self.grant {
            give_back(&self.binding, grant);
        }
    }
}

#[inline(always)]
fn give_back(binding: &Binding, grant: &Grant) {
    let given = match binding.kind() {
        Kind::Semaphore => binding.give_back_permit_fast(grant.spot(), grant.permit, grant.word),
        _ => binding.give_back_fast(grant.spot(), grant.word),
    };
    if !given {
        give_back_slow(binding, grant.spot(), grant.permit, grant.word);
    }
}

/// Takes the grant apart, so that the fast path need not have it in memory.
#[cold]
#[inline(never)]
fn give_back_slow(binding: &Binding, spot: Spot, permit: u32, word: Word) {
    // Lost, or copied by a fork: there is nothing to give back, and nobody to tell.
    let _ = binding.give_back(&Grant::new(spot, permit, word));
}

/// Who had a grant before and died, or was late.
pub(crate) fn predecessor(grant: &Grant, died: bool) -> Option<&Holder> {
    let Predecessor { holder, died: how } = grant.predecessor.as_deref()?;
    (*how == died).then_some(holder)
}

/// Keeps the store open for the rest of the process's life: with its last handle the process would leave,
/// and what a token stands for would pass for a dead one's.
pub(crate) fn keep_open(binding: &Arc<Binding>) {
    std::mem::forget(Arc::clone(binding.store()));
}
