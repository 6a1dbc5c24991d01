//! Model families as rows.

pub mod parallel;
