//! Behaviours as data: recipes (TOML) expand to behaviours; behaviours give training rows, gate items and questions.
//!
//! Pure: no input or output, no clock, no unseeded randomness. The same recipe and the same seed give the same bytes.
//! A question never contains or depends on the label: questions hold at most fields that are no label, and a check compares
//! every one of them with every value.

#![warn(missing_docs)]

mod asking;
pub mod behaviour;
pub mod builtin;
pub mod check;
mod checker;
pub mod context;
pub mod episode;
pub mod error;
mod expand;
pub mod expression;
mod place;
pub mod recipe;
mod rng;
mod select;
pub mod settings;
mod size;
mod validate;
mod words;

pub use behaviour::{
    Behaviour, Factor, GatePlan, Kind, NatsPlan, Polarity, RowLoss, RowPart, SampleRequest, Split,
    TrainingRow,
};
pub use builtin::{FORMAT, builtin, builtin_settings, builtin_source, template};
pub use check::Check;
pub use context::{Context, Gating};
pub use episode::{Episode, EpisodeOptions, FOREIGN, NOTHING, episodes, foreign};
pub use error::{Error, Result};
pub use recipe::{Format, Recipe, Source, Training};
pub use select::{first, select};
pub use settings::Settings;
pub use words::{same_answer, stem};
