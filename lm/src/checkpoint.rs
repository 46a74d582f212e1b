//! A base model's weights in host memory, by their Hugging Face names, whatever file they came from.

use std::collections::BTreeMap;

use crate::Config;

/// A dense f32 tensor in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// `shape.iter().product()` values.
    pub data: Vec<f32>,
}

/// Plain weights of one model: `model.embed_tokens.weight`, `model.layers.0.self_attn.q_proj.weight`, ...,
/// `model.norm.weight`, and `lm_head.weight` unless tied.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// Shape of the decoder.
    pub config: Config,
    /// Every tensor by its Hugging Face name, `[out, in]` for projections.
    pub tensors: BTreeMap<String, HostTensor>,
    /// blake3 of the weight files' bytes (in name order), lower-case hex.
    pub digest: String,
}
