//! Training readers on equal supervision, and arms x controls x splits: per-item scores, metrics with intervals, and the report.

#![warn(missing_docs)]

pub mod assemble;
pub mod items;
pub mod metrics;
pub mod readers;
pub mod report;
pub mod run;
pub mod settings;
pub mod stats;
mod svg;

pub use assemble::{assemble, same_supervision};
pub use items::{
    Arm, Budget, Comparison, Control, Diagnostics, GateRow, ItemScore, Paired, ResultRow, Trajectory,
};
pub use metrics::{diagnostics, paired, results};
pub use readers::{Reader, Supervision};
pub use report::{to_csv, to_html, to_json, to_terminal};
pub use run::{Oracle, Readers, RunInputs, score_items};
