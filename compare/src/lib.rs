//! Training readers on equal supervision, and arms x controls x splits: per-item scores, metrics with intervals, and the report.

#![warn(missing_docs)]

pub mod assemble;
pub mod assembly;
pub mod bootstrap;
pub mod comparison;
pub mod correct;
pub mod items;
pub mod measures;
pub mod metrics;
pub mod negatives;
mod old;
pub mod permutation;
pub mod readers;
pub mod report;
pub mod reporting;
pub mod run;
pub mod scores;
pub mod settings;
pub mod stats;
pub mod strata;
mod svg;
pub mod verdict;
pub mod warnings;

pub use assemble::{assemble, same_supervision};
pub use items::{
    Arm, Budget, Comparison, Control, Diagnostics, GateRow, ItemScore, Paired, ResultRow, Trajectory,
};
pub use metrics::{diagnostics, paired, results};
pub use readers::{Reader, Supervision};
pub use report::{to_csv, to_html, to_json, to_terminal};
pub use run::{Oracle, Readers, RunInputs, score_items};
