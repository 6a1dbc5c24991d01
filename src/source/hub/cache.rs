//! The layout of the Hugging Face cache on disk, as pure paths.
