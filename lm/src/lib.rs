//! The language model: weights, tokenizer and chat template, decoder, LoRA, taps, loss, optimiser, generation, scoring.
//!
//! This crate knows nothing of behaviours, of what an adapter means, or of any registry. It never prints, never reads
//! the environment (callers pass folders and tokens in), and every random draw comes from a named, seeded stream.
//!
//! Other crates use five verbs, all on [`Decoder`]: [`Decoder::forward`], [`Decoder::loss_and_grads`],
//! [`Decoder::generate`], [`Decoder::score`], and [`merge`].

#![warn(missing_docs)]

pub mod adapter;
mod adapter_file;
pub mod base;
pub mod batch;
pub mod chat;
pub mod checkpoint;
pub mod config;
mod decoder;
pub mod error;
pub mod export;
pub mod fit;
mod fit_state;
pub mod footprint;
pub mod forward;
pub mod generate;
pub mod geometry;
mod gguf;
mod hf;
mod hub;
mod jinja;
mod kernels;
mod kv_cache;
pub mod loss;
pub mod merge;
pub mod optim;
pub mod pickled;
pub mod rng;
mod roots;
pub mod sampler;
pub mod score;
pub mod source;
pub mod tokenizer;
mod tokenizer_check;
pub mod web;

pub use adapter::{Adapter, AdapterConfig, Projection};
pub use base::{BaseModel, Outline, SYSTEM_PROMPT, language};
pub use batch::{Batch, Injection, InjectionMode, Row};
pub use chat::{ChatTemplate, Message, Origin, Role};
pub use checkpoint::{Checkpoint, HostTensor, Loaded};
pub use config::Config;
pub use decoder::Decoder;
pub use error::{Error, Result};
pub use export::{ExportDtype, Exported, SHARD_BYTES, export};
pub use fit::{
    Choice, FitConfig, FitEvent, FitPoint, Fitted, Keeping, Step, Validation, answer_row, answer_tokens,
    epoch_order, fit, validate,
};
pub use forward::{ResidualAt, Seen, Want};
pub use generate::{Reply, Request, Stop, Watched};
pub use geometry::LowRank;
pub use kernels::packed::{PackedMatrix, Precision, product_rate};
pub use kernels::{SimdLevel, executed_flops, force_simd_level, simd_level};
pub use loss::{Cut, LossAndGrads, Objective, Teacher, TrainRow};
pub use merge::merge;
pub use optim::{AdamWConfig, Schedule, Trainer};
pub use sampler::Sampling;
pub use score::ScoreRequest;
pub use tokenizer::Tokenizer;
