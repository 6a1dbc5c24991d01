//! hoist takes model weights from where they are to where they run.
//!
//! ```text
//! sources ─▶ open ─▶ CHECKPOINT ─▶ transform ─▶ plan ─▶ run ─▶ sinks
//!              ▲ formats parse here           formats lay out ▲
//! ```
//!
//! A [source] gives bytes; a [format](mod@format) reads headers into a [checkpoint], which is a table of tensors and
//! holds no data; a [transform] is a recipe over that table; a [plan] is the list of reads, kernels and writes that
//! fulfils it; [run] carries it out; a [sink] receives. Up to the plan everything is small, pure and checked; after it
//! large blocks move and nothing is decided.

pub mod buf;
pub mod checkpoint;
pub mod doctor;
pub mod dtype;
pub mod error;
pub mod format;
pub mod inspect;
pub mod load;
pub mod machine;
pub mod open;
pub mod plan;
pub mod run;
pub mod sink;
pub mod source;
pub mod synth;
pub mod text;
pub mod transform;

pub use error::{Error, ErrorKind, Result};
