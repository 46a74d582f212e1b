//! What a decoder is: a plain description of every layer, made from a `config.json` or from GGUF metadata. Nothing outside this
//! module knows a model's name; a feature that a model lacks is absent from its description and costs nothing.

mod about;
mod cost;
mod facts;
mod families;
mod gemma;
mod gguf;
mod llama;
mod olmo;
mod qwen;
mod rope;
mod smollm;
mod tensors;

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

pub(crate) use facts::Facts;
pub use families::supported;
pub(crate) use families::{Family, of_gguf};
pub(crate) use gemma::{NESTED, OTHER_PARTS};
pub(crate) use gguf::{Said, config as gguf_config};
pub use rope::Rope;
pub(crate) use rope::Scaling;
pub(crate) use tensors::{Part, RowOrder, Slot, Tensor};

use crate::{Error, Projection, Result};

/// A decoder's description.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Architecture {
    /// The class that transformers computes it with.
    pub class: &'static str,
    /// Width of the residual stream (d).
    pub hidden_size: usize,
    /// Vocabulary size (v): rows of the embedding.
    pub vocab_size: usize,
    /// Longest context the model was made for, in tokens.
    pub context: usize,
    /// The layers, the first at the input.
    pub layers: Vec<LayerPlan>,
    /// Rotary embeddings that layers refer to.
    pub ropes: Vec<Rope>,
    /// Factor of the token embeddings at the input; 1 for most.
    pub embedding_scale: f32,
    /// Epsilon of the final norm, and whether its weight is stored less 1.
    pub final_norm: NormPlan,
    /// Logits are `cap * tanh(logits / cap)`.
    pub final_cap: Option<f32>,
    /// Whether the output projection is the embedding matrix.
    pub tied: bool,
    /// Token ids that end a reply.
    pub ends: Vec<u32>,
}

/// One decoder layer: two branches, each `[norm] -> body -> [norm] -> add`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LayerPlan {
    /// The first branch.
    pub attention: Attention,
    /// The second branch.
    pub mlp: Mlp,
    /// Norms around both bodies.
    pub norms: Norms,
}

/// Causal grouped-query attention.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads (fewer than the query heads: each serves several).
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Whether queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Whether the output projection has one.
    pub out_bias: bool,
    /// RMSNorm on queries and keys, before the rotation.
    pub qk_norm: Option<QkNorm>,
    /// Factor of the scores.
    pub scale: f32,
    /// Scores are `cap * tanh(scores / cap)`.
    pub soft_cap: Option<f32>,
    /// Position i sees position j if `i - j < window`.
    pub window: Option<usize>,
    /// Which of [`Architecture::ropes`] turns queries and keys; without one they know no position.
    pub rope: Option<usize>,
}

/// Over what queries and keys are normed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum QkNorm {
    /// Each head by itself, with one weight for all.
    PerHead,
    /// The full width, before it is cut into heads.
    Full,
}

/// A gated feed-forward layer: `down(activation(gate(x)) * up(x))`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Mlp {
    /// Width of gate and up.
    pub width: usize,
    /// Of the gate.
    pub activation: Activation,
    /// Whether the three projections have a bias.
    pub bias: bool,
}

/// A gate's nonlinearity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x sigmoid(x)`.
    Silu,
    /// GELU by its tanh approximation.
    GeluTanh,
}

/// An RMSNorm's settings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct NormPlan {
    /// Added to the mean square.
    pub eps: f64,
    /// Whether checkpoints hold the weight less 1.
    pub plus_one: bool,
}

/// The norms of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Norms {
    /// On what each body reads.
    pub before: bool,
    /// On what each body writes, before it is added.
    pub after: bool,
    /// How all of them, and those of queries and keys, are computed.
    pub plan: NormPlan,
}

impl Attention {
    /// Width of all query heads together.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all key (or value) heads together.
    pub fn key_value_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

impl Architecture {
    /// Reads a `config.json`'s contents. `path` is named in errors.
    ///
    /// # Errors
    /// If the family is not implemented, or a field is missing, of another kind, contradicts another or asks for what is not
    /// implemented.
    pub fn from_json(path: &Path, config: &Value) -> Result<Self> {
        Self::of(&Facts::new(path, config))
    }

    pub(crate) fn of(facts: &Facts<'_>) -> Result<Self> {
        let made = Family::of(facts)?.describe(facts)?;
        made.check().map_err(|what| facts.bad(what))?;
        Ok(made)
    }

    /// Whether the decoder is the text half of a model with other parts, under which its modules have longer names.
    pub fn is_nested(&self) -> bool {
        Family::of_class(self.class).is_some_and(Family::is_nested)
    }

    /// `(in, out)` features of a layer's projection.
    pub fn features(&self, layer: usize, projection: Projection) -> (usize, usize) {
        let (d, plan) = (self.hidden_size, &self.layers[layer]);
        let (q, kv, f) = (plan.attention.query_width(), plan.attention.key_value_width(), plan.mlp.width);
        match projection {
            Projection::QProj => (d, q),
            Projection::KProj | Projection::VProj => (d, kv),
            Projection::OProj => (q, d),
            Projection::GateProj | Projection::UpProj => (d, f),
            Projection::DownProj => (f, d),
        }
    }

    /// What decides a model's outputs beside its weights, as text: part of the digest of a model whose configuration is a file of its
    /// own. A plain Llama has the text that it always had; another says everything.
    pub(crate) fn identity(&self) -> String {
        let first = &self.layers[0];
        let Attention { heads, kv_heads, head_dim, .. } = first.attention;
        let (eps, theta) = (first.norms.plan.eps, self.ropes.first().map_or(0.0, |r| r.base));
        let plain = format!(
            "heads {heads} {kv_heads} {head_dim}; eps {eps:e}; theta {theta:e}; tied {}; end {:?}",
            self.tied, self.ends
        );
        if self.is_plain() {
            return plain;
        }
        let all = serde_json::to_string(self).expect("invariant: a description is data");
        format!("{plain}; {all}")
    }

    /// Whether this is a Llama without anything that came later.
    fn is_plain(&self) -> bool {
        let first = &self.layers[0];
        let a = &first.attention;
        let plain = LayerPlan {
            attention: Attention {
                qkv_bias: false,
                out_bias: false,
                qk_norm: None,
                scale: plain_scale(a.head_dim),
                soft_cap: None,
                window: None,
                rope: Some(0),
                ..a.clone()
            },
            mlp: Mlp { activation: Activation::Silu, bias: false, ..first.mlp },
            norms: Norms {
                before: true,
                after: false,
                plan: NormPlan { plus_one: false, ..first.norms.plan },
            },
        };
        self.class == llama::LLAMA.class
            && self.layers.iter().all(|l| *l == plain)
            && matches!(&self.ropes[..], [rope] if rope.is_plain())
            && self.embedding_scale == 1.0
            && self.final_norm == first.norms.plan
            && self.final_cap.is_none()
    }

    /// Refuses shapes that no decoder can have, or that nothing here could hold.
    fn check(&self) -> Result<(), String> {
        let mut sizes = vec![
            ("hidden_size", self.hidden_size, 1 << 16),
            ("num_hidden_layers", self.layers.len(), 1 << 10),
            ("vocab_size", self.vocab_size, 1 << 20),
            ("max_position_embeddings", self.context, 1 << 24),
        ];
        for layer in &self.layers {
            sizes.push(("intermediate_size", layer.mlp.width, 1 << 18));
            sizes.push(("num_attention_heads", layer.attention.heads, 1 << 10));
            sizes.push(("num_key_value_heads", layer.attention.kv_heads, 1 << 10));
            sizes.push(("head_dim", layer.attention.head_dim, 1 << 12));
        }
        for (name, value, most) in sizes {
            if value == 0 || value > most {
                return Err(format!("{name} = {value} is not in 1..={most}"));
            }
        }
        for LayerPlan { attention, norms, .. } in &self.layers {
            let Attention { heads, kv_heads, head_dim, scale, .. } = attention;
            if !heads.is_multiple_of(*kv_heads) {
                return Err(format!(
                    "num_attention_heads = {heads} is not a multiple of num_key_value_heads = {kv_heads}"
                ));
            }
            if !head_dim.is_multiple_of(2) {
                return Err(format!("head_dim = {head_dim} is odd"));
            }
            if !(norms.plan.eps > 0.0 && norms.plan.eps < 1.0) {
                return Err(format!("rms_norm_eps = {} makes no sense", norms.plan.eps));
            }
            if !(scale.is_finite() && *scale > 0.0) {
                return Err(format!("the scores' factor is {scale}"));
            }
            if attention.window == Some(0) {
                return Err("sliding_window = 0 makes no sense".into());
            }
            if attention.soft_cap.is_some_and(|c| !(c > 0.0 && c.is_finite())) {
                return Err(format!(
                    "attn_logit_softcapping = {} makes no sense",
                    attention.soft_cap.unwrap_or_default()
                ));
            }
        }
        if self.final_cap.is_some_and(|c| !(c > 0.0 && c.is_finite())) {
            return Err(format!(
                "final_logit_softcapping = {} makes no sense",
                self.final_cap.unwrap_or_default()
            ));
        }
        self.ropes.iter().try_for_each(Rope::check)
    }
}

/// The factor of scores where nothing else is said, `1 / sqrt(head_dim)`.
fn plain_scale(head_dim: usize) -> f32 {
    1.0 / (head_dim as f32).sqrt()
}

/// An error of a file.
pub(crate) fn bad(path: &Path, what: impl Into<String>) -> Error {
    Error::File { path: path.to_owned(), what: what.into() }
}
