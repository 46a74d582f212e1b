//! One error type for the crate.

use std::path::PathBuf;

/// What can go wrong between a store and what lies elsewhere.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] registry::Error),
    /// A file could not be read or written; the message names the path.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A file from outside is refused.
    #[error("{path}: {what}")]
    Refused {
        /// The file or folder.
        path: PathBuf,
        /// Why, and what to do.
        what: String,
    },
    /// The Hub refused, or could not be reached.
    #[error("{what}")]
    Hub {
        /// What kind of trouble.
        trouble: crate::hub::Trouble,
        /// One sentence, which never holds a token.
        what: String,
    },
}

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
