//! Transforms: recipes over the table, and what is known of model families. Facts live in rows.

pub mod arch;
pub mod block;
pub mod cast;
pub mod companions;
pub mod config;
pub mod gather;
pub mod importance;
pub mod method;
pub mod mixture;
pub mod packing;
pub mod recipe;
pub mod scheme;
pub mod select;
pub mod simd;
pub mod task;
pub mod values;
pub mod view;
pub mod vocab;
