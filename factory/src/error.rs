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
    /// A stored specification asks for what no recipe may.
    #[error("job {job}: {what}")]
    Absurd {
        /// Job label.
        job: String,
        /// What is out of bounds.
        what: String,
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
    /// A job was made for another version of the trainer.
    #[error("job {job} is for trainer version {expected}, this lorafab has {found}: submit its recipe again")]
    OtherTrainer {
        /// Job label.
        job: String,
        /// Version in the job.
        expected: u32,
        /// Version here.
        found: u32,
    },
    /// A norm-matched random adapter needs a trained one.
    #[error("{0}")]
    NoReference(String),
    /// A job could cost more than its cap.
    #[error("{what} could cost {flops:.1e} FLOPs, more than the cap of {cap:.1e}")]
    TooCostly {
        /// The job.
        what: String,
        /// Its static cost.
        flops: f64,
        /// What is allowed.
        cap: f64,
    },
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
    /// There is no such job.
    #[error("no job {0:?}")]
    NoJob(String),
    /// Several jobs have that name.
    #[error("{n} jobs are called {name:?}; the newest is {first}")]
    ManyJobs {
        /// What was asked for.
        name: String,
        /// How many.
        n: usize,
        /// Beginning of the newest one's specification hash.
        first: String,
    },
    /// A job needs another one that is nowhere.
    #[error("job {job} needs {missing}, which is not in the queue")]
    UnknownNeed {
        /// Job label.
        job: String,
        /// Specification hash.
        missing: String,
    },
    /// A checkpoint cannot be written.
    #[error("checkpoint {path}: {what}")]
    Checkpoint {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        what: String,
    },
    /// A manifest cannot be used.
    #[error("manifest {path}: {what}")]
    Manifest {
        /// The file or folder.
        path: std::path::PathBuf,
        /// Why.
        what: String,
    },
    /// A settings file cannot be used.
    #[error("{place}: {what}")]
    Settings {
        /// The file or folder.
        place: String,
        /// Why.
        what: String,
    },
    /// A recipe cannot be tuned.
    #[error("recipe {recipe:?}: {what}")]
    Untunable {
        /// Its name.
        recipe: String,
        /// Why.
        what: String,
    },
    /// A folder or file of the shared folder is not what it should be.
    #[error("{path}: {what}")]
    Parcel {
        /// The file or folder.
        path: std::path::PathBuf,
        /// Why.
        what: String,
    },
    /// Training went wrong for good.
    #[error("{0}")]
    Training(String),
}

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
