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

#[cfg(all(feature = "hub", feature = "object"))]
mod afar;
mod blocks;
mod cli;
mod companions;
mod convert_kill;
mod cuda;
mod diff;
mod doctor;
mod families;
#[cfg(feature = "hub")]
mod fetch_choose;
#[cfg(all(feature = "hub", unix))]
mod fetch_store;
mod forward;
mod ggml_blocks;
mod gguf;
mod hash;
mod hostile;
#[cfg(feature = "hub")]
mod http;
#[cfg(feature = "hub")]
mod hub;
mod importance;
mod inspect;
#[cfg(all(feature = "hub", unix))]
mod keep;
mod keys;
mod layering;
mod layout;
mod load;
mod load_quantize;
mod methods;
mod mixtures;
mod naive;
mod open;
mod output;
mod packings;
mod parallel;
mod plan;
mod quantize;
mod quantize_faults;
#[cfg(all(feature = "hub", feature = "object"))]
mod remote;
mod report;
#[cfg(feature = "hub")]
mod rig;
#[cfg(feature = "hub")]
mod rig_checks;
mod safetensors;
mod signals;
mod synth;
mod torch;
#[cfg(feature = "hub")]
mod transfer;
mod translate;
mod values;
#[cfg(feature = "verify")]
mod verify_answers;
#[cfg(feature = "verify")]
mod verify_chat;
#[cfg(feature = "verify")]
mod verify_cli;
#[cfg(feature = "verify")]
mod verify_encoder;
#[cfg(feature = "verify")]
mod verify_families;
#[cfg(feature = "verify")]
mod verify_faults;
#[cfg(feature = "verify")]
mod verify_memory;
#[cfg(feature = "verify")]
mod verify_metrics;
#[cfg(feature = "verify")]
mod verify_stack;
#[cfg(feature = "verify")]
mod verify_text;
#[cfg(feature = "verify")]
mod verify_trained;
#[cfg(feature = "verify")]
mod verify_weights;
mod vocab;
mod weave;
#[cfg(feature = "xet")]
mod xet;
