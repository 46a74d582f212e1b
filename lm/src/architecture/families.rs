//! The list of families, and what they have in common.

use serde_json::Value;

use super::facts::{Facts, brief};
use super::{
    Activation, Architecture, Attention, LayerPlan, Mlp, NormPlan, Norms, gemma, llama, olmo, plain_scale,
    qwen, rope, smollm,
};
use crate::Result;

/// A family of models.
#[derive(Debug)]
pub(crate) struct Family {
    /// Its class in transformers: `architectures` of a `config.json`.
    pub(super) class: &'static str,
    /// `model_type` of a `config.json`.
    pub(super) model_type: &'static str,
    /// `general.architecture` of a GGUF file; none where another family's stands for it.
    pub(super) gguf: Option<&'static str>,
    /// Whether llama.cpp's converter reorders the rows of queries and keys.
    pub(super) paired: bool,
    /// Where the decoder is the text half of a model with other parts: the family of the half alone.
    pub(super) alone: Option<&'static Self>,
    /// Values of fields that a file leaves out, where they are not what they are for all.
    pub(super) defaults: &'static [(&'static str, usize)],
    /// Whether the output projection is the embedding where a file does not say.
    pub(super) tied: bool,
    /// Epsilon of the norms where a file does not say.
    pub(super) eps: f64,
    /// What makes a plain decoder one of this family.
    pub(super) change: fn(&Facts<'_>, &mut Architecture) -> Result<()>,
}

/// All of them. Adding one: its line here, and a file for what it does that no other does.
const FAMILIES: [&Family; 9] = [
    &llama::LLAMA,
    &llama::MISTRAL,
    &qwen::QWEN2,
    &qwen::QWEN3,
    &gemma::GEMMA2,
    &gemma::GEMMA3,
    &gemma::GEMMA3_NESTED,
    &olmo::OLMO2,
    &smollm::SMOLLM3,
];

/// Names of the classes that are implemented.
pub fn supported() -> Vec<&'static str> {
    FAMILIES.iter().map(|f| f.class).collect()
}

/// The family that a GGUF file's `general.architecture` stands for, or what is to be said of another.
pub(crate) fn of_gguf(name: &str) -> Result<&'static Family, String> {
    FAMILIES.into_iter().find(|f| f.gguf == Some(name)).ok_or_else(|| {
        let known: Vec<&str> = FAMILIES.iter().filter_map(|f| f.gguf).collect();
        let name: String = name.chars().take(60).collect();
        format!("holds a {name:?} model, which is not implemented; {} are", known.join(", "))
    })
}

/// Why a configuration of another family cannot be computed, beside its name.
fn refused(config: &Value) -> Option<&'static str> {
    let has = |key: &str| {
        [config, &config["text_config"]].iter().any(|c| !c[key].is_null() && c[key] != 0 && c[key] != false)
    };
    let any = |keys: &[&str]| keys.iter().any(|k| has(k));
    if any(&[
        "num_local_experts",
        "num_experts",
        "n_routed_experts",
        "moe_intermediate_size",
        "num_experts_per_tok",
    ]) {
        Some("a mixture of experts")
    } else if any(&["kv_lora_rank", "q_lora_rank"]) {
        Some("multi-head latent attention")
    } else if any(&["vision_config", "audio_config", "mm_projector_type"]) {
        Some("a vision or audio tower")
    } else {
        None
    }
}

impl Family {
    /// The family of a configuration.
    pub(super) fn of(facts: &Facts<'_>) -> Result<&'static Self> {
        let classes = facts.outer("architectures");
        if classes.is_null() {
            return Err(
                facts.bad(format!("architectures is missing; {} are implemented", supported().join(", ")))
            );
        }
        let class = classes[0].as_str().unwrap_or("none");
        let Some(family) = FAMILIES.into_iter().find(|f| f.class == class) else {
            let why = refused(facts.whole()).map_or_else(String::new, |why| format!(" (it has {why})"));
            let class: String = class.chars().take(80).collect();
            return Err(facts.bad(format!(
                "architecture {class:?} is not implemented{why}; {} are",
                supported().join(", ")
            )));
        };
        // By this name transformers chooses the code.
        let kind = facts.outer("model_type");
        if !kind.is_null() && kind != family.model_type {
            return Err(facts.bad(format!(
                "model_type {} does not fit architecture {class:?}, whose model_type is {:?}",
                brief(kind),
                family.model_type
            )));
        }
        Ok(family)
    }

    /// Of a class.
    pub(crate) fn of_class(class: &str) -> Option<&'static Self> {
        FAMILIES.into_iter().find(|f| f.class == class)
    }

    /// Whether the decoder is the text half of a model with other parts.
    pub(crate) fn is_nested(&self) -> bool {
        self.alone.is_some()
    }

    /// The `config.json` of a decoder alone: what is not a text half already is left as it is.
    pub(crate) fn text_half(config: Value) -> Value {
        let family = Self::of_class(config["architectures"][0].as_str().unwrap_or_default());
        let alone = family.and_then(|f| f.alone);
        let (Some(alone), Some(text)) = (alone, config["text_config"].as_object()) else { return config };
        let mut out = text.clone();
        out.insert("tie_word_embeddings".to_owned(), alone.tied.into());
        for key in ["bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "torch_dtype"] {
            if let Some(value) = config.get(key).filter(|v| !v.is_null()) {
                out.insert(key.to_owned(), value.clone());
            }
        }
        out.insert("architectures".to_owned(), vec![alone.class].into());
        out.insert("model_type".to_owned(), alone.model_type.into());
        Value::Object(out)
    }

    pub(super) fn describe(&'static self, facts: &Facts<'_>) -> Result<Architecture> {
        let mut facts = *facts;
        if self.alone.is_some() {
            facts = facts.text()?;
        }
        let facts = facts.with_defaults(self.defaults);
        weights_are_plain(&facts)?;
        // Whatever its class: attention to what comes later, and layers that differ.
        facts.only("is_causal", &[true.into()])?;
        let own = facts.of("per_layer_config");
        if !own.is_null() {
            return Err(facts.bad(format!("per_layer_config = {} is not implemented", brief(own))));
        }
        let mut made = self.plain(&facts)?;
        (self.change)(&facts, &mut made)?;
        Ok(made)
    }

    /// What a Llama of these sizes is.
    fn plain(&self, facts: &Facts<'_>) -> Result<Architecture> {
        let heads = facts.number("num_attention_heads")?;
        let hidden_size = facts.number("hidden_size")?;
        let head_dim = facts.number_or("head_dim", hidden_size / heads.max(1))?;
        let plan = NormPlan { eps: facts.float("rms_norm_eps")?.unwrap_or(self.eps), plus_one: false };
        let layer = LayerPlan {
            attention: Attention {
                heads,
                kv_heads: facts.number_or("num_key_value_heads", heads)?,
                head_dim,
                qkv_bias: false,
                out_bias: false,
                qk_norm: None,
                scale: plain_scale(head_dim),
                soft_cap: None,
                window: None,
                rope: Some(0),
            },
            mlp: Mlp {
                width: facts.number("intermediate_size")?,
                activation: Activation::Silu,
                bias: facts.flag("mlp_bias", false)?,
            },
            norms: Norms { before: true, after: false, plan },
        };
        let layers = facts.number("num_hidden_layers")?;
        if layers > 1 << 10 {
            return Err(facts.bad(format!("num_hidden_layers = {layers} is not in 1..=1024")));
        }
        // Of a model with other parts transformers reads the whole's own field, not its text half's.
        let tied = match facts.outer("tie_word_embeddings") {
            Value::Null => self.tied,
            tied => tied.as_bool().ok_or_else(|| {
                facts.bad(format!("tie_word_embeddings = {} is neither true nor false", brief(tied)))
            })?,
        };
        let mut made = Architecture {
            class: self.class,
            hidden_size,
            vocab_size: facts.number("vocab_size")?,
            context: facts.number("max_position_embeddings")?,
            layers: vec![layer; layers],
            ropes: Vec::new(),
            embedding_scale: 1.0,
            final_norm: plan,
            final_cap: None,
            tied,
            ends: facts.ends()?,
        };
        made.set_bias(facts.flag("attention_bias", false)?);
        Ok(made)
    }
}

impl Architecture {
    /// Calls `change` with every layer and its number.
    pub(super) fn each_layer(&mut self, mut change: impl FnMut(usize, &mut LayerPlan)) {
        self.layers.iter_mut().enumerate().for_each(|(i, layer)| change(i, layer));
    }

    pub(super) fn set_bias(&mut self, bias: bool) {
        self.each_layer(|_, layer| {
            layer.attention.qkv_bias = bias;
            layer.attention.out_bias = bias;
        });
    }

    /// The one rotary embedding of all layers.
    pub(super) fn set_rope(&mut self, facts: &Facts<'_>, base: f64) -> Result<()> {
        let dim = self.layers.first().map_or(0, |l| l.attention.head_dim);
        self.ropes = vec![rope::one(facts, dim, base)?];
        Ok(())
    }

    /// A window on the layers that `sliding` names.
    pub(super) fn set_windows(&mut self, window: Option<usize>, sliding: &[bool]) {
        self.each_layer(|i, layer| layer.attention.window = window.filter(|_| sliding[i]));
    }
}

/// Windows as Qwen has them: off unless `use_sliding_window`, then by `layer_types`, or from layer `max_window_layers` on.
pub(super) fn optional_windows(
    facts: &Facts<'_>,
    made: &mut Architecture,
    from: Option<usize>,
) -> Result<()> {
    let n = made.layers.len();
    let listed = facts.sliding(n)?;
    let on = facts.flag("use_sliding_window", false)?;
    let window = if on { facts.optional("sliding_window")? } else { None };
    if window.is_none() {
        if listed.is_some_and(|l| l.contains(&true)) {
            return Err(facts.bad("layer_types has \"sliding_attention\", and no window is in use"));
        }
        return Ok(());
    }
    let from = match from {
        Some(from) => facts.number_or("max_window_layers", from)?,
        None => n,
    };
    let sliding = listed.unwrap_or_else(|| (0..n).map(|i| i >= from).collect());
    made.set_windows(window, &sliding);
    Ok(())
}

/// The gate's nonlinearity under either of its names.
pub(super) fn activation(facts: &Facts<'_>, expected: Activation) -> Result<()> {
    let (names, key): (&[&str], _) = match expected {
        Activation::Silu => (&["silu", "swish"], "hidden_act"),
        Activation::GeluTanh => (&["gelu_pytorch_tanh"], "hidden_activation"),
    };
    let names: Vec<Value> = names.iter().map(|n| Value::from(*n)).collect();
    facts.only(key, &names)
}

/// Refuses weights that are packed or scaled in ways of their own.
fn weights_are_plain(facts: &Facts<'_>) -> Result<()> {
    for key in ["quantization_config", "compression_config"] {
        let said = facts.outer(key);
        if said.is_null() {
            continue;
        }
        let method =
            [&said["quant_method"], &said["format"]].into_iter().find(|v| v.is_string()).unwrap_or(said);
        return Err(facts.bad(format!(
            "{key}: weights quantised with {} are not implemented; F32, F16 and BF16 weights are, and GGUF files",
            brief(method)
        )));
    }
    let other = facts.outer("transformers_weights");
    if !other.is_null() {
        return Err(facts.bad(format!("transformers_weights = {} is not implemented", brief(other))));
    }
    Ok(())
}
