//! What can be wrong with a study: one sentence with its place.

use readers::Wrong;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file that does not say what it has to.
    #[error("{0}")]
    Wrong(#[from] Wrong),
    /// A file cannot be read or written.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The store refuses.
    #[error("{0}")]
    Store(#[from] registry::Error),
    /// The queue refuses.
    #[error("{0}")]
    Factory(#[from] factory::Error),
    /// A registration that may not be, or is not there.
    #[error("{0}")]
    Registration(String),
    /// A study that would not be decided more often than not.
    #[error("{0}")]
    Underpowered(String),
    /// A study whose test was looked at, or made, before.
    #[error("{0}")]
    Seen(String),
    /// A committed folder whose parts do not fit together.
    #[error("{0}")]
    Verify(String),
}

impl Error {
    /// A sentence about a place.
    pub fn at(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Wrong(Wrong::at(place, what))
    }
}
