//! The integration tests, one binary.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::single_range_in_vec_init,
    clippy::type_complexity
)]

mod cli;
mod cuda;
mod doctor;
mod gguf;
mod hash;
mod hostile;
mod inspect;
mod layering;
mod load;
mod naive;
mod open;
mod parallel;
mod plan;
mod safetensors;
mod synth;
mod torch;
mod vocab;
