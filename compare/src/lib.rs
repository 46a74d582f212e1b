//! Comparisons: arms as data, methods (one file each), their jobs, and from item scores to corrected, controlled numbers and
//! the report.

#![warn(missing_docs)]

pub mod arms;
pub mod assembly;
pub mod bootstrap;
pub mod comparison;
pub mod correct;
mod covariates;
pub mod items;
pub mod jobs;
pub mod measures;
pub mod method;
pub mod metrics;
pub mod negatives;
pub mod old;
pub mod permutation;
pub mod progress;
pub mod report;
pub mod scores;
pub mod stats;
pub mod strata;
mod svg;
pub mod verdict;
pub mod warnings;
pub mod work;

pub use arms::{Arms, DEFAULT, Known};
pub use comparison::Comparison;
pub use jobs::{Plan, Work, jobs};
pub use progress::Progress;
pub use work::{Comparing, crafts};
pub fn read(t: &str) -> Result<Comparison, serde_json::Error> { serde_json::from_str(t) }
pub fn to_terminal(c: &Comparison) -> String { serde_json::to_string_pretty(c).unwrap_or_default() }
pub fn to_html(c: &Comparison) -> String { to_terminal(c) }
pub fn to_csv(c: &Comparison) -> String { to_terminal(c) }
