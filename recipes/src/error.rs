//! What can be wrong with a recipe.

/// An error that names the recipe file, the field and the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file is not TOML of the documented shape.
    #[error("{source_name}: {what}")]
    Syntax {
        /// The recipe file.
        source_name: String,
        /// Line, field and problem.
        what: String,
    },
    /// A field holds something that cannot be used.
    #[error("{source_name}: {field}: {what}")]
    Field {
        /// The recipe file.
        source_name: String,
        /// The field.
        field: String,
        /// The value and what to do.
        what: String,
    },
    /// A completion that a row needs was not sampled.
    #[error("{behaviour}: no sampled reply for the prompt {prompt:?} (number {index})")]
    MissingSample {
        /// The behaviour.
        behaviour: String,
        /// The prompt.
        prompt: String,
        /// Which of its replies.
        index: u32,
    },
    /// A behaviour whose recipe is not at hand: nobody knows what to ask about it.
    #[error("{behaviour}: its recipe is not at hand, so its questions are unknown")]
    UnknownRecipe {
        /// The behaviour.
        behaviour: String,
    },
}

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
