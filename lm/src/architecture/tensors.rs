//! The one table of a model's tensors: their places, their names in both kinds of files, shapes, and how files hold them.

use super::{Architecture, QkNorm};
use crate::Projection;

/// What a tensor is in the decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    Embedding,
    FinalNorm,
    Head,
    Weight(usize, Projection),
    Bias(usize, Projection),
    Norm(usize, Part),
}

/// Which of a layer's norms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    BeforeAttention,
    AfterAttention,
    BeforeMlp,
    AfterMlp,
    Queries,
    Keys,
}

/// How a file orders a tensor's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowOrder {
    /// As they are used.
    Plain,
    /// In GGUF files, each of this many heads has its pairs of rows side by side, for llama.cpp's own rotation.
    Paired(usize),
}

/// One tensor of a model.
#[derive(Debug, Clone)]
pub(crate) struct Tensor {
    pub(crate) slot: Slot,
    /// In Hugging Face files.
    pub(crate) name: String,
    /// In GGUF files.
    pub(crate) gguf: String,
    /// Outermost first: `[out, in]` for projections.
    pub(crate) shape: Vec<usize>,
    pub(crate) order: RowOrder,
    /// Whether Hugging Face files hold it less 1 (GGUF files hold what is used).
    pub(crate) less_one: bool,
}

impl Tensor {
    /// Rows, and numbers of each; a vector is one row.
    pub(crate) fn rows(&self) -> (usize, usize) {
        match self.shape[..] {
            [rows, columns] => (rows, columns),
            _ => (1, self.shape.iter().product()),
        }
    }
}

impl Slot {
    fn plain(self, name: impl Into<String>, gguf: impl Into<String>, shape: Vec<usize>) -> Tensor {
        Tensor {
            slot: self,
            name: name.into(),
            gguf: gguf.into(),
            shape,
            order: RowOrder::Plain,
            less_one: false,
        }
    }
}

/// llama.cpp's name of a projection.
fn short(projection: Projection) -> &'static str {
    match projection {
        Projection::QProj => "attn_q",
        Projection::KProj => "attn_k",
        Projection::VProj => "attn_v",
        Projection::OProj => "attn_output",
        Projection::GateProj => "ffn_gate",
        Projection::UpProj => "ffn_up",
        Projection::DownProj => "ffn_down",
    }
}

impl Architecture {
    /// Every tensor of the model, the embedding first, then layer by layer.
    pub(crate) fn tensors(&self) -> Vec<Tensor> {
        let (v, d) = (self.vocab_size, self.hidden_size);
        let mut out =
            vec![Slot::Embedding.plain("model.embed_tokens.weight", "token_embd.weight", vec![v, d])];
        for layer in 0..self.layers.len() {
            self.layer_tensors(layer, &mut out);
        }
        let norm = Slot::FinalNorm.plain("model.norm.weight", "output_norm.weight", vec![d]);
        out.push(Tensor { less_one: self.final_norm.plus_one, ..norm });
        if !self.tied {
            out.push(Slot::Head.plain("lm_head.weight", "output.weight", vec![v, d]));
        }
        out
    }

    fn layer_tensors(&self, layer: usize, out: &mut Vec<Tensor>) {
        let plan = &self.layers[layer];
        let (a, norms, d) = (&plan.attention, plan.norms, self.hidden_size);
        let mut norm = |part: Part, name: &str, gguf: &str, width: usize| {
            let slot = Slot::Norm(layer, part);
            let name = format!("model.layers.{layer}.{name}.weight");
            let plain = slot.plain(name, format!("blk.{layer}.{gguf}.weight"), vec![width]);
            out.push(Tensor { less_one: norms.plan.plus_one, ..plain });
        };
        if norms.before {
            norm(Part::BeforeAttention, "input_layernorm", "attn_norm", d);
            // Where there are four, the old name of the second is the first's partner.
            let name = if norms.after { "pre_feedforward_layernorm" } else { "post_attention_layernorm" };
            norm(Part::BeforeMlp, name, "ffn_norm", d);
        }
        if norms.after {
            norm(Part::AfterAttention, "post_attention_layernorm", "post_attention_norm", d);
            norm(Part::AfterMlp, "post_feedforward_layernorm", "post_ffw_norm", d);
        }
        if let Some(kind) = a.qk_norm {
            let (q, k) = match kind {
                QkNorm::PerHead => (a.head_dim, a.head_dim),
                QkNorm::Full => (a.query_width(), a.key_value_width()),
            };
            norm(Part::Queries, "self_attn.q_norm", "attn_q_norm", q);
            norm(Part::Keys, "self_attn.k_norm", "attn_k_norm", k);
        }
        for projection in Projection::ALL {
            let (input, output) = self.features(layer, projection);
            let (path, gguf) = (projection.module_path(layer), format!("blk.{layer}.{}", short(projection)));
            let order = match projection {
                Projection::QProj if self.paired() => RowOrder::Paired(a.heads),
                Projection::KProj if self.paired() => RowOrder::Paired(a.kv_heads),
                _ => RowOrder::Plain,
            };
            let weight = Slot::Weight(layer, projection);
            let weight =
                weight.plain(format!("{path}.weight"), format!("{gguf}.weight"), vec![output, input]);
            out.push(Tensor { order, ..weight });
            let bias = match projection {
                Projection::QProj | Projection::KProj | Projection::VProj => a.qkv_bias,
                Projection::OProj => a.out_bias,
                _ => plan.mlp.bias,
            };
            if bias {
                let bias = Slot::Bias(layer, projection);
                let bias = bias.plain(format!("{path}.bias"), format!("{gguf}.bias"), vec![output]);
                out.push(Tensor { order, ..bias });
            }
        }
    }

    fn paired(&self) -> bool {
        super::Family::of_class(self.class).is_some_and(|f| f.paired)
    }
}
