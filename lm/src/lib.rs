//! The language model: weights, tokenizer and chat template, decoder, LoRA, taps, loss, optimiser, generation, scoring.
//!
//! This crate knows nothing of behaviours, of what an adapter means, or of any registry. It never prints, never reads
//! the environment (callers pass folders and tokens in), and every random draw comes from a named, seeded stream.

#![warn(missing_docs)]

pub mod checkpoint;
pub mod config;
pub mod error;

pub use checkpoint::{Checkpoint, HostTensor};
pub use config::Config;
pub use error::{Error, Result};
