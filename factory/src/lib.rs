//! How adapters get made: the batch job queue, the training of packs of adapters, the acquisition gate, the commit.

#![warn(missing_docs)]

pub mod acquired;
pub(crate) mod checkpoint;
pub mod cluster;
pub mod cost;
pub mod error;
pub mod gate;
pub(crate) mod keeper;
pub mod load;
pub mod nats;
pub mod pack;
pub mod plan;
pub mod queue;
pub(crate) mod redraw;
pub mod samples;
pub mod settings;
pub mod spec;
pub mod train;
pub mod tune;
pub mod worker;

pub use cost::{StaticCost, static_cost};
pub use error::{Error, Result};
pub use gate::GateResult;
pub use load::{load_adapter, peft_config};
pub use nats::Nats;
pub use queue::{Failure, Job, Queue, QueueStatus, State, Submitted};
pub use spec::{
    ADAPTER_JOB, AdapterSpec, SubmitOptions, hold_to_cap, jobs, recipes_of, references_in, remember, specs,
    submit,
};
pub use worker::{Craft, Event, Failed, RunOptions, RunSummary, run};
