//! One error type for the crate: each variant carries what is needed to act on it.

use std::path::PathBuf;

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written; the message of `fs-err` names the path.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A checkpoint, tokenizer or template file is not what it should be.
    #[error("{path}: {what}")]
    File {
        /// The offending file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A tensor is missing, has an unexpected shape, or holds values that are not finite.
    #[error("tensor {name}: {what}")]
    Tensor {
        /// The tensor's name in the file.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// The caller asked for something the model cannot do (a position past the end, a layer that does not exist, ...).
    #[error("{0}")]
    Request(String),
    /// The model could not be found or fetched from any source.
    #[error("{what}")]
    Source {
        /// Which model, and each place that was tried with the reason it failed.
        what: String,
        /// What the user can do about it.
        hint: String,
    },
    /// Somebody asked to stop.
    #[error("stopped")]
    Interrupted,
    /// An error from candle (reading GGUF or safetensors).
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
