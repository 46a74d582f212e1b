//! DIT adapters (Diff Interpretation Tuning, arXiv 2510.05092): one LoRA that, stacked on a fine-tuned model, makes the
//! model describe its own weight difference.
//!
//! `L(A) = mean CE(M + delta_i + A; question -> answer)`, loss on the answer's tokens only. The base and every diff are
//! frozen. The question never contains the answer (see `recipes`), so nothing but the diff can tell it.

#![warn(missing_docs)]

pub mod ask;
pub mod method;

pub use ask::{ask, prompt_row};
pub use method::{DitMethod, diff_scale};
