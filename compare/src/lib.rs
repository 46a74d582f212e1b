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
pub mod negatives;
mod old;
pub mod permutation;
pub mod progress;
pub mod report;
pub mod runs;
pub mod scores;
pub mod strata;
pub mod verdict;
pub mod warnings;
pub mod work;

pub use arms::{Arms, DEFAULT, Known};
pub use comparison::{Comparison, read};
pub use jobs::{Plan, Work, jobs};
pub use progress::Progress;
pub use report::{to_csv, to_html, to_json, to_terminal};
pub use work::{Comparing, crafts};
