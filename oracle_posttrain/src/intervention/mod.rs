//! Interventions as data: which model sees which input, what is read off its residual stream, what is computed from that, and
//! where it is injected.
//!
//! A [`Spec`] is a straight-line list of steps with eight verbs (`forward` with nested `collect` and `inject`, `sub`, `mean`,
//! `scale`, `unembed_topk`, `generate`); a step may name earlier ids only. [`check()`] turns it into a [`Plan`] without any weight in
//! memory: ids, positions, shapes, limits and cost. [`run()`] computes plans, many at once. Nothing in a spec can name code,
//! a path or an address: adapters and stored vectors go by what the registry calls them.
//!
//! The oracle's own collecting and injecting are such specs (see [`crate::Collector`] and [`crate::Lens`]).

mod check;
mod error;
mod plan;
mod run;
mod spec;
mod stored;

pub use check::{Surroundings, check};
pub use error::SpecError;
pub(crate) use plan::Put;
pub use plan::{Cap, Cost, Plan};
pub(crate) use run::mean;
pub use run::{Outputs, run};
pub use spec::{
    Collect, Forward, Generate, Inject, Input, Mean, Model, Over, Positions, Sample, Scale, Site, Spec, Step,
    Stored, Sub, UnembedTopk,
};
pub use stored::stored;
