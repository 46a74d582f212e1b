//! The language model: weights, tokenizer and chat template, decoder, LoRA, taps, loss, optimiser, generation, scoring.
//!
//! This crate knows nothing of behaviours, of what an adapter means, or of any registry. It never prints, never reads
//! the environment (callers pass folders and tokens in), and every random draw comes from a named, seeded stream.
//!
//! ```text
//! architecture   what a model is: one description, read from config.json or GGUF metadata
//! weights        where its numbers come from, a few rows at a time
//! decoder        what a layer does, forward and backward, over an engine
//! engine         how it is computed: packed matrices and SIMD kernels on a processor
//! verbs          what can be asked: forward, loss_and_grads, generate, score; and merge
//! ```
//!
//! Other crates use what [`Verbs`] offers, on a [`Decoder`], and [`merge`].

#![warn(missing_docs)]

pub mod adapter;
mod adapter_file;
pub mod architecture;
pub mod base;
pub mod batch;
pub mod builtin;
pub mod chat;
pub mod checkpoint;
mod decoder;
pub mod difference;
mod engine;
pub mod error;
pub mod export;
pub mod fit;
mod fit_state;
pub mod footprint;
pub mod geometry;
mod gguf;
mod hf;
mod hub;
mod jinja;
pub mod merge;
pub mod optim;
pub mod pickled;
pub mod rng;
mod roots;
pub mod source;
pub mod tokenizer;
mod tokenizer_check;
pub mod verbs;
pub mod web;
mod weights;

pub use adapter::{Adapter, AdapterConfig, Projection};
pub use architecture::{Architecture, Rope};
pub use base::{BaseModel, Outline, SYSTEM_PROMPT, language};
pub use batch::{Batch, Injection, InjectionMode, Row};
pub use builtin::{BUILT_IN, BuiltIn, builtin_names};
pub use chat::{ChatTemplate, Message, Origin, Role};
pub use checkpoint::{Checkpoint, HostTensor, Loaded};
pub use difference::{Difference, Keep, Outside, difference, same_shape};
pub use engine::cpu::kernels::packed::{PackedMatrix, Precision, product_rate};
pub use engine::cpu::kernels::{SimdLevel, executed_flops, force_simd_level, simd_level};
pub use error::{Error, Result};
pub use export::{ExportDtype, Exported, SHARD_BYTES, export};
pub use fit::{
    Choice, FitConfig, FitEvent, FitPoint, Fitted, Keeping, Step, Validation, answer_row, answer_tokens,
    epoch_order, fit, validate,
};
pub use geometry::LowRank;
pub use merge::merge;
pub use optim::{AdamWConfig, Schedule, Trainer};
pub use tokenizer::Tokenizer;
pub use verbs::forward::{ResidualAt, Seen, Want};
pub use verbs::generate::{Reply, Request, Stop, Watched};
pub use verbs::sampler::{self, Sampling};
pub use verbs::score::ScoreRequest;
pub use verbs::training::{Cut, LossAndGrads, Objective, Teacher, TrainRow};
pub use verbs::{Decoder, Verbs};
