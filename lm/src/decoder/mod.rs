//! The frozen decoder: weights packed at load, and the passes over it.

pub(crate) mod attention;
pub(crate) mod chunk;
pub(crate) mod head;
pub(crate) mod inject;
pub(crate) mod layer;
pub(crate) mod lora;

use attention::Heads;
use rayon::prelude::*;

use crate::kernels::packed::{PackedMatrix, Precision};
use crate::{Checkpoint, Config, Error, Result};

/// A frozen linear map, packed for both directions: `y = x W^T` and its input gradient `dx = g W`.
#[derive(Debug)]
pub(crate) struct Linear {
    pub(crate) forward: PackedMatrix,
    pub(crate) backward: PackedMatrix,
}

impl Linear {
    /// Packs the rows of several `[out, in]` matrices, one below the other.
    fn pack(parts: &[&[f32]], input: usize, precision: Precision) -> Self {
        let rows: Vec<&[f32]> = parts.iter().flat_map(|p| p.chunks_exact(input)).collect();
        let output = rows.len();
        Self {
            forward: PackedMatrix::pack(input, output, precision, |k, n| rows[n][k]),
            backward: PackedMatrix::pack(output, input, precision, |k, n| rows[k][n]),
        }
    }
}

/// One decoder layer's frozen weights; q, k, v and gate, up are fused.
#[derive(Debug)]
pub(crate) struct LayerWeights {
    pub(crate) input_norm: Vec<f32>,
    pub(crate) post_norm: Vec<f32>,
    pub(crate) qkv: Linear,
    pub(crate) o: Linear,
    pub(crate) gate_up: Linear,
    pub(crate) down: Linear,
}

/// A Llama-family decoder with frozen weights, ready to compute. Shared by reference between threads.
#[derive(Debug)]
pub struct Decoder {
    config: Config,
    precision: Precision,
    digest: String,
    pub(crate) heads: Heads,
    pub(crate) layers: Vec<LayerWeights>,
    pub(crate) embedding: Vec<f32>,
    pub(crate) final_norm: Vec<f32>,
    pub(crate) head: Linear,
    pub(crate) cos: Vec<f32>,
    pub(crate) sin: Vec<f32>,
}

impl Decoder {
    /// Weight of the final norm, `[hidden_size]`.
    pub fn final_norm_weight(&self) -> &[f32] {
        &self.final_norm
    }

    /// Packs a checkpoint's weights.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape than the configuration says.
    pub fn new(checkpoint: &Checkpoint, precision: Precision) -> Result<Self> {
        let config = checkpoint.config.clone();
        let (d, f, v) = (config.hidden_size, config.intermediate_size, config.vocab_size);
        let (q, kv) = (config.query_size(), config.key_value_size());
        let get = |name: &str, shape: &[usize]| -> Result<&[f32]> {
            let tensor = checkpoint.tensors.get(name).ok_or_else(|| Error::Tensor {
                name: name.into(),
                what: "is missing from the checkpoint".into(),
            })?;
            if tensor.shape != shape {
                return Err(Error::Tensor {
                    name: name.into(),
                    what: format!("has shape {:?}, expected {shape:?}", tensor.shape),
                });
            }
            Ok(&tensor.data)
        };
        let layer = |i: usize| -> Result<LayerWeights> {
            let at = |part: &str| format!("model.layers.{i}.{part}.weight");
            Ok(LayerWeights {
                input_norm: get(&at("input_layernorm"), &[d])?.to_vec(),
                post_norm: get(&at("post_attention_layernorm"), &[d])?.to_vec(),
                qkv: Linear::pack(
                    &[
                        get(&at("self_attn.q_proj"), &[q, d])?,
                        get(&at("self_attn.k_proj"), &[kv, d])?,
                        get(&at("self_attn.v_proj"), &[kv, d])?,
                    ],
                    d,
                    precision,
                ),
                o: Linear::pack(&[get(&at("self_attn.o_proj"), &[d, q])?], q, precision),
                gate_up: Linear::pack(
                    &[get(&at("mlp.gate_proj"), &[f, d])?, get(&at("mlp.up_proj"), &[f, d])?],
                    d,
                    precision,
                ),
                down: Linear::pack(&[get(&at("mlp.down_proj"), &[d, f])?], f, precision),
            })
        };
        let embedding = get("model.embed_tokens.weight", &[v, d])?.to_vec();
        let head = if config.tie_word_embeddings { &embedding[..] } else { get("lm_head.weight", &[v, d])? };
        let head = Linear::pack(&[head], d, precision);
        let half = config.head_dim / 2;
        let angles = (0..config.max_position_embeddings).flat_map(|p| {
            let theta = config.rope_theta;
            (0..half).map(move |i| p as f64 / theta.powf(i as f64 / half as f64))
        });
        // The angles are rounded to f32 first, as the published implementations do.
        let (cos, sin) = angles.map(|a| ((a as f32).cos(), (a as f32).sin())).unzip();
        let layers = (0..config.num_hidden_layers).into_par_iter().map(layer).collect::<Result<Vec<_>>>()?;
        Ok(Self {
            heads: Heads {
                query: config.num_attention_heads,
                key_value: config.num_key_value_heads,
                dim: config.head_dim,
            },
            layers,
            final_norm: get("model.norm.weight", &[d])?.to_vec(),
            embedding,
            head,
            cos,
            sin,
            precision,
            digest: checkpoint.digest.clone(),
            config,
        })
    }

    /// The decoder's shape.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Precision of the frozen weights and of the products against them.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Digest of the weight files this decoder was made from.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    pub(crate) fn eps(&self) -> f32 {
        self.config.rms_norm_eps as f32
    }
}
