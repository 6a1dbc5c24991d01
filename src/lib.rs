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
//!
//! # The house
//!
//! Each room stands on a line and imports lower lines only; `tests/it/layering.rs` holds the rules as tables and reads the
//! source for them.
//!
//! | line | rooms |
//! |---|---|
//! | 1 | [error], [text], [dtype], [machine]: what everything speaks |
//! | 2 | [buf]: memory that many threads fill; [checkpoint]: the table |
//! | 3 | [source], [format](mod@format), [transform]: bytes, headers, facts about families; none knows the others |
//! | 4 | [open]: the only place that joins a source to a format; [plan] |
//! | 5 | [sink]: host memory, GPU memory, files |
//! | 6 | [run]: threads, jobs, events; [lock]: the lock file |
//! | 7 | [load], [convert], [quantize], [diff], [inspect], [doctor], [synth], `fetch`: what the library offers, one call each |
//! | 8 | `verify` (a cargo feature): the forward pass, and what is measured on it |
//! | 9 | `cli`, in the binary: arguments, output, signals |
//!
//! # Choices that are not obvious
//!
//! - **Slots are owned values.** A slot passes from lane to kernel ring to device and back by move, so that memory which
//!   the kernel or the device still uses cannot be written, without a lock and without unsafe code outside the named
//!   rooms.
//! - **Units are made when a worker asks.** The plan holds a few numbers for each tensor and none for each chunk, so it is
//!   as small for a terabyte as for a gigabyte.
//! - **A slice is a view.** Cutting for a rank changes sizes, strides and offsets in the table's terms; the planner sees
//!   rows with a pitch, or else a gather. There is no code for ranks behind the plan.
//! - **Host units end where huge pages do** and GPU units where file blocks do: what is dear differs (fresh pages; aligned
//!   direct reads).
//! - **A chunk is hot only if what follows it is hot too.** Reading a cached page at the edge of a cold stretch makes the
//!   kernel read ahead, and the next chunk would look hot in its turn, all the way through a cold file.
//! - **A load is planned by what is read, a conversion by what is written.** There the bus decides; here a file is written
//!   front to back, each byte once, and what a family rearranges is a view ([transform::view]): sizes and strides that compose,
//!   invert, and are carried out when bytes move ([plan::weave]).
//! - **Far reads are ahead of themselves without a thread.** Many workers each ask a server for just what they need, in
//!   large requests; small reads share blocks ([source::ahead]). A thread knows which job it works for ([source::stop]), so
//!   that a read which waits for a server ends when the job does.
//! - **A finished file is hashed by reading it back.** What the kernel copies never passes through here; the journal that lets
//!   a cut-off run go on needs its hash all the same, and the page cache still holds it.
//! - **cudarc gives types, not calls.** The driver's functions are looked up by hand (`sink::cuda::driver`), so that a
//!   missing library or symbol is an error and not a panic.

pub mod buf;
pub mod checkpoint;
pub mod convert;
pub mod diff;
pub mod doctor;
pub mod dtype;
pub mod error;
#[cfg(feature = "http")]
pub mod fetch;
pub mod format;
pub mod inspect;
pub mod load;
pub mod lock;
pub mod machine;
pub mod open;
pub mod plan;
pub mod quantize;
pub mod run;
pub mod sink;
pub mod source;
pub mod synth;
pub mod text;
pub mod transform;
#[cfg(feature = "verify")]
pub mod verify;

pub use error::{Error, ErrorKind, Result};
