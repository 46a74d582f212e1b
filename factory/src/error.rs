//! One error type for the crate.

/// What can go wrong in the factory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model refused.
    #[error(transparent)]
    Model(#[from] lm::Error),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] registry::Error),
    /// A recipe or behaviour is not usable.
    #[error(transparent)]
    Recipe(#[from] recipes::Error),
    /// A stored specification cannot be read.
    #[error("job {job}: its specification cannot be read: {source}")]
    Spec {
        /// Job label.
        job: String,
        /// The parser's message.
        #[source]
        source: serde_json::Error,
    },
    /// A job was made for another base model, precision or trainer.
    #[error("job {job} is for base model {expected}, the loaded one is {found}")]
    OtherBase {
        /// Job label.
        job: String,
        /// Digest in the job.
        expected: String,
        /// Digest of the loaded model.
        found: String,
    },
    /// A norm-matched random adapter needs a trained one.
    #[error("{0}")]
    NoReference(String),
    /// The lease was lost: another worker may have the job.
    #[error("the lease of job {0} was lost")]
    LeaseLost(i64),
    /// A transition that the state machine does not have.
    #[error("job {job} is {state}, so it cannot be {wanted}")]
    Illegal {
        /// Job label.
        job: String,
        /// Its state.
        state: String,
        /// What was asked.
        wanted: &'static str,
    },
    /// Training went wrong for good.
    #[error("{0}")]
    Training(String),
}

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
