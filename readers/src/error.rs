//! One error type for the crate.

/// What can go wrong with readers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model refused, or the work was stopped.
    #[error(transparent)]
    Model(#[from] lm::Error),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] registry::Error),
    /// The factory refused.
    #[error(transparent)]
    Factory(#[from] factory::Error),
    /// Behaviours or recipes do not fit.
    #[error(transparent)]
    Recipe(#[from] recipes::Error),
    /// An arm asks for what cannot be.
    #[error(transparent)]
    Arm(#[from] Wrong),
    /// There is nothing to train or to test on.
    #[error("{0}")]
    Empty(String),
}

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What is wrong with an arm, and where: found before any weight is loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}")]
pub struct Wrong {
    /// The field, as the file spells it: `arm[2].input.layers[0]`.
    pub place: String,
    /// One fragment.
    pub what: String,
}

impl Wrong {
    /// At a field of an arm; the file's index is put before it by whoever knows it.
    pub fn at(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self { place: place.into(), what: what.into() }
    }

    /// The same, further out.
    pub fn within(self, outer: &str) -> Self {
        Self { place: format!("{outer}.{}", self.place), ..self }
    }
}
