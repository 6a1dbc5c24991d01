#![allow(missing_docs)]
pub mod buf;
pub mod checkpoint;
pub mod dtype;
pub mod error;
pub mod fetch;
pub mod format;
pub mod lock;
pub mod machine;
pub mod open {
    #[allow(dead_code)]
    pub(crate) mod choose;
}
pub mod sink {
    #[allow(dead_code)]
    pub mod file;
}
pub mod source;
pub mod text;
pub mod run {
    pub mod job;
    mod threads;
    pub use threads::parallel;
}
pub use error::{Error, ErrorKind, Result};
