//! Activation Oracles (arXiv 2512.15674): a LoRA on the clean model that answers questions about residual-stream vectors
//! injected at placeholder tokens of its prompt.
//!
//! The vectors come from the fine-tuned model (with the oracle off); the oracle reads them with the fine-tune off. The
//! oracle can be *pretrained* without any LoRA (context prediction, and naming what a system prompt said) and
//! *post-trained* on the very episodes that a DIT adapter is trained on.

#![warn(missing_docs)]

pub mod collect;
pub mod intervention;
pub mod lens;
pub mod method;
pub mod pretrain;
pub mod prompt;
pub mod published;
pub mod shown;
mod texts;
pub mod train;
pub mod words;

pub use collect::{ActivationKind, Activations, Collector, Shown};
pub use lens::Lens;
pub use method::{OracleMethod, TextMethod, collector_of, lens_of_reader, pretrain_config};
pub use pretrain::{PretrainConfig, Pretrained, nouns, pretrain};
pub use prompt::{Form, Template, ao_config, prompt_row};
pub use published::{AoConfig, Choice};
pub use shown::{key, shown};
pub use train::{ask, pupil, question_row};
