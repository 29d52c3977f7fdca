//! From a key to its slot, and changing the structure under a stripe.

pub(in crate::store) mod allocate;
pub(in crate::store) mod busy;
pub(crate) mod chains;
pub(crate) mod pieces;
pub(crate) mod remove;
pub(in crate::store) mod retire;
mod split;
pub(in crate::store) mod stripe;
