//! The decoder's configuration, with the keys of a Hugging Face `config.json`.

use serde::{Deserialize, Serialize};

/// A Llama-family decoder's shape. Field names are the Hugging Face keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Width of the residual stream (d).
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key/value heads (grouped-query attention when fewer than the query heads).
    pub num_key_value_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Vocabulary size (v).
    pub vocab_size: usize,
    /// Longest context the model was made for, in tokens.
    pub max_position_embeddings: usize,
    /// Epsilon of RMSNorm.
    pub rms_norm_eps: f64,
    /// Base of the rotary embedding.
    pub rope_theta: f64,
    /// Whether the output projection is the embedding matrix.
    pub tie_word_embeddings: bool,
    /// Token ids that end a reply.
    pub eos_token_ids: Vec<u32>,
}

impl Config {
    /// Width of all query heads together.
    pub fn query_size(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all key (or value) heads together.
    pub fn key_value_size(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }
}

impl Config {
    /// What decides a model's outputs beside its weights, as text: part of the digest of a model whose configuration is a file of its
    /// own. A field that is added later is added here where it is not its default only, so that known digests stay.
    pub(crate) fn identity(&self) -> String {
        let Self { num_attention_heads, num_key_value_heads, head_dim, rms_norm_eps, rope_theta, .. } = self;
        format!(
            "heads {num_attention_heads} {num_key_value_heads} {head_dim}; eps {rms_norm_eps:e}; theta {rope_theta:e}; tied {}; end {:?}",
            self.tie_word_embeddings, self.eos_token_ids
        )
    }

    /// Refuses shapes that no decoder can have, or that nothing here could hold.
    pub(crate) fn check(&self) -> Result<(), String> {
        let sizes = [
            ("hidden_size", self.hidden_size, 1 << 16),
            ("intermediate_size", self.intermediate_size, 1 << 18),
            ("num_hidden_layers", self.num_hidden_layers, 1 << 10),
            ("num_attention_heads", self.num_attention_heads, 1 << 10),
            ("num_key_value_heads", self.num_key_value_heads, 1 << 10),
            ("head_dim", self.head_dim, 1 << 12),
            ("vocab_size", self.vocab_size, 1 << 20),
            ("max_position_embeddings", self.max_position_embeddings, 1 << 20),
        ];
        for (name, value, most) in sizes {
            if value == 0 || value > most {
                return Err(format!("{name} = {value} is not in 1..={most}"));
            }
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            return Err(format!(
                "num_attention_heads = {} is not a multiple of num_key_value_heads = {}",
                self.num_attention_heads, self.num_key_value_heads
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(format!("head_dim = {} is odd", self.head_dim));
        }
        if !(self.rms_norm_eps > 0.0 && self.rms_norm_eps < 1.0 && self.rope_theta >= 1.0) {
            return Err(format!(
                "rms_norm_eps = {} or rope_theta = {} makes no sense",
                self.rms_norm_eps, self.rope_theta
            ));
        }
        Ok(())
    }
}
