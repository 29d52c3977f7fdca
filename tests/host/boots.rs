//! Other boot ids, reboots, and what tokens do over them.
