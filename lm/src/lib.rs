//! The language model: weights, tokenizer and chat template, decoder, LoRA, taps, loss, optimiser, generation, scoring.
//!
//! This crate knows nothing of behaviours, of what an adapter means, or of any registry. It never prints, never reads
//! the environment (callers pass folders and tokens in), and every random draw comes from a named, seeded stream.
//!
//! Other crates use five verbs, all on [`Decoder`]: [`Decoder::forward`], [`Decoder::loss_and_grads`],
//! [`Decoder::generate`], [`Decoder::score`], and [`merge`].

#![warn(missing_docs)]

pub mod adapter;
pub mod batch;
pub mod checkpoint;
pub mod config;
mod decoder;
pub mod error;
pub mod forward;
mod kernels;
pub mod loss;
pub mod rng;

pub use adapter::{Adapter, AdapterConfig, Projection};
pub use batch::{Batch, Injection, Row};
pub use checkpoint::{Checkpoint, HostTensor};
pub use config::Config;
pub use decoder::Decoder;
pub use error::{Error, Result};
pub use forward::{ResidualAt, Seen, Want};
pub use kernels::packed::Precision;
pub use kernels::{SimdLevel, simd_level};
pub use loss::{LossAndGrads, Objective, Teacher, TrainRow};
