//! How adapters get made: the batch job queue, the training of packs of adapters, the acquisition gate, the commit.

#![warn(missing_docs)]

pub mod error;
pub mod gate;
pub mod load;
pub mod queue;
pub mod samples;
pub mod spec;
pub mod train;
pub mod worker;

pub use error::{Error, Result};
pub use gate::GateResult;
pub use load::{load_adapter, peft_config};
pub use queue::{Job, Queue, QueueStatus, State};
pub use spec::{AdapterSpec, recipes_of, specs, submit};
pub use worker::{Event, RunOptions, RunSummary, run};
