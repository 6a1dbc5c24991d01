//! The layouts there are: one row each.
