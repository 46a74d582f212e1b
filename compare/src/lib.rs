//! Training readers on equal supervision, and arms x controls x splits: per-item scores, metrics with intervals, and the report.

#![warn(missing_docs)]

pub mod bootstrap;
pub mod correct;
pub mod items;
pub mod measures;
pub mod method;
pub mod metrics;
pub mod negatives;
pub mod permutation;
pub mod report;
pub mod scores;
pub mod stats;
pub mod strata;
mod svg;
