//! GGUF metadata as the `config.json` that says the same. What llama.cpp's code knows of an architecture and its files do not say is
//! said here.

use serde_json::{Map, Value, json};

use super::{Family, families};
use crate::Result;
use crate::gguf::Metadata;

/// What a file says beside its metadata.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Said<'a> {
    pub(crate) meta: &'a Metadata<'a>,
    /// Rows of the embedding.
    pub(crate) vocab_size: usize,
    /// Whether there is no output projection.
    pub(crate) tied: bool,
    /// Whether queries and what attention writes have biases.
    pub(crate) biased: bool,
    /// Tokens that end a reply.
    pub(crate) ends: &'a [u32],
}

/// Layers of the largest Gemma 2 and 3, by which llama.cpp knows that their scores have another factor.
const LARGEST_GEMMA: [(&str, usize); 2] = [("gemma2", 46), ("gemma3", 62)];

/// The `config.json` of a file's model.
pub(crate) fn config(name: &str, said: Said<'_>) -> Result<Value> {
    let Said { meta, vocab_size, tied, biased, ends } = said;
    let bad = |what: String| super::bad(meta.path, what);
    let family = families::of_gguf(name).map_err(bad)?;
    let key = |k: &str| format!("{name}.{k}");
    let number = |k: &str| meta.number(&key(k));
    let has = |k: &str| meta.values.contains_key(&key(k));
    let maybe = |k: &str| if has(k) { number(k).map(Some) } else { Ok(None) };
    let float = |k: &str| if has(k) { meta.float(&key(k)).map(Some) } else { Ok(None) };
    let (heads, hidden, layers) =
        (number("attention.head_count")?, number("embedding_length")?, number("block_count")?);
    if heads == 0 || hidden == 0 {
        return Err(bad("has no attention heads or no width".into()));
    }
    let head_dim = maybe("attention.key_length")?.unwrap_or(hidden / heads);
    let window = maybe("attention.sliding_window")?.filter(|w| *w > 0);
    let family = match (name, window) {
        ("llama", Some(_)) => Family::of_class("MistralForCausalLM").unwrap_or(family),
        _ => family,
    };
    let theta = as_typed(float("rope.freq_base")?.unwrap_or(10_000.0));
    let scaling = scaling(said, name)?;
    let mut out = json!({
        "architectures": [family.class], "model_type": family.model_type,
        "hidden_size": hidden, "intermediate_size": number("feed_forward_length")?, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": maybe("attention.head_count_kv")?.unwrap_or(heads), "head_dim": head_dim,
        "vocab_size": vocab_size, "max_position_embeddings": number("context_length")?,
        "rms_norm_eps": as_typed(meta.float(&key("attention.layer_norm_rms_epsilon"))?),
        "rope_theta": theta, "rope_scaling": scaling,
        "tie_word_embeddings": tied, "attention_dropout": 0.0, "use_cache": true, "eos_token_id": ends,
    });
    let set = |out: &mut Value, fields: Value| {
        if let (Value::Object(out), Value::Object(fields)) = (out, fields) {
            out.extend(fields);
        }
    };
    match name {
        "gemma2" | "gemma3" => {
            let largest = LARGEST_GEMMA.contains(&(name, layers));
            let scalar = match float("attention.scale")? {
                Some(scale) if scale > 0.0 => whole(scale.powi(-2)),
                _ => (if largest { hidden / heads } else { head_dim }).into(),
            };
            set(
                &mut out,
                json!({
                    "hidden_activation": "gelu_pytorch_tanh", "attention_bias": false, "query_pre_attn_scalar": scalar,
                    "sliding_window": window,
                    "attn_logit_softcapping": typed(float("attn_logit_softcapping")?),
                    "final_logit_softcapping": typed(float("final_logit_softcapping")?),
                }),
            );
            if name == "gemma2" {
                // llama.cpp has these where a file has none.
                out["sliding_window"] = window.unwrap_or(4096).into();
                for (field, cap) in [("attn_logit_softcapping", 50.0), ("final_logit_softcapping", 30.0)] {
                    if out[field].is_null() {
                        out[field] = cap.into();
                    }
                }
            } else {
                if window.is_none() {
                    // All layers see everything; transformers wants a window all the same.
                    out["sliding_window"] = 4096.into();
                    out["layer_types"] = vec!["full_attention"; layers.min(1 << 10)].into();
                }
                out["rope_local_base_freq"] =
                    as_typed(float("rope.freq_base_swa")?.unwrap_or(10_000.0)).into();
                out["sliding_window_pattern"] = pattern(said, name, layers)?.into();
            }
        }
        "qwen2" | "qwen3" => set(&mut out, json!({"hidden_act": "silu", "use_sliding_window": false})),
        "smollm3" => set(
            &mut out,
            json!({
                "hidden_act": "silu", "no_rope_layer_interval": 4, "use_sliding_window": false, "attention_bias": biased, "mlp_bias": false,
            }),
        ),
        "llama" => set(
            &mut out,
            json!({
                "hidden_act": "silu", "attention_bias": biased, "mlp_bias": false,
            }),
        ),
        _ => set(&mut out, json!({"hidden_act": "silu", "attention_bias": false})),
    }
    if family.class == "MistralForCausalLM" {
        out["sliding_window"] = window.into();
    } else if window.is_some() && !name.starts_with("gemma") {
        return Err(bad(format!(
            "metadata key {} is not implemented for this architecture",
            key("attention.sliding_window")
        )));
    }
    Ok(out)
}

/// Every how many layers one sees everything.
fn pattern(said: Said<'_>, name: &str, layers: usize) -> Result<usize> {
    let key = format!("{name}.attention.sliding_window_pattern");
    if !said.meta.values.contains_key(&key) {
        return Ok(6);
    }
    let value = said.meta.get(&key)?;
    // A number, or for each layer whether it has a window.
    if let Ok(list) = value.to_vec() {
        let windows: Option<Vec<bool>> = list.iter().map(|v| v.to_bool().ok()).collect();
        let every = windows.as_deref().and_then(|w| w.iter().position(|w| !w)).map_or(layers + 1, |i| i + 1);
        if windows.is_some_and(|w| {
            w.len() == layers && w.iter().enumerate().all(|(i, w)| *w != (i + 1).is_multiple_of(every))
        }) {
            return Ok(every);
        }
        return Err(super::bad(
            said.meta.path,
            format!("metadata key {key} is no regular pattern of {layers} layers"),
        ));
    }
    said.meta.number(&key)
}

/// How rotary frequencies are scaled, as a `config.json` has it.
fn scaling(said: Said<'_>, name: &str) -> Result<Value> {
    let meta = said.meta;
    let key = |k: &str| format!("{name}.rope.{k}");
    let has = |k: &str| meta.values.contains_key(&key(k));
    let kind = if has("scaling.type") { meta.string(&key("scaling.type"))? } else { "" };
    let bad = |what: String| super::bad(meta.path, what);
    let factor = ["scaling.factor", "scale_linear"].into_iter().find(|k| has(k));
    let factor = factor.map(|k| meta.float(&key(k))).transpose()?.filter(|f| *f != 0.0).map(as_typed);
    let sharpened = if has("scaling.attn_factor") { meta.float(&key("scaling.attn_factor"))? } else { 1.0 };
    match kind {
        "none" => Ok(Value::Null),
        "" if factor.is_none_or(|f| f == 1.0) && sharpened == 1.0 => Ok(Value::Null),
        // Older files name a factor and no kind.
        "" | "linear" if sharpened == 1.0 => {
            let factor =
                factor.ok_or_else(|| bad(format!("has no metadata key {}", key("scaling.factor"))))?;
            if factor == 1.0 { Ok(Value::Null) } else { Ok(json!({"rope_type": "linear", "factor": factor})) }
        }
        "yarn" => {
            let factor =
                factor.ok_or_else(|| bad(format!("has no metadata key {}", key("scaling.factor"))))?;
            let mut out = Map::new();
            out.insert("rope_type".into(), "yarn".into());
            out.insert("factor".into(), factor.into());
            let original = meta.number(&key("scaling.original_context_length"))?;
            out.insert("original_max_position_embeddings".into(), original.into());
            for (field, k) in
                [("beta_fast", "scaling.yarn_beta_fast"), ("beta_slow", "scaling.yarn_beta_slow")]
            {
                if has(k) {
                    out.insert(field.into(), as_typed(meta.float(&key(k))?).into());
                }
            }
            if sharpened != 1.0 {
                // llama.cpp multiplies what YaRN's own rule gives.
                let own = if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 };
                out.insert("attention_factor".into(), (own * sharpened).into());
            }
            Ok(Value::Object(out))
        }
        _ => Err(bad(format!(
            "metadata key {} = {kind:?} is not implemented; none, linear and yarn are",
            key("scaling.type")
        ))),
    }
}

/// A whole number of which a file holds another power in f32: transformers takes no other kind.
fn whole(x: f64) -> Value {
    let near = x.round();
    if (x / near - 1.0).abs() < 1e-5 && near <= 1e9 { (near as u64).into() } else { as_typed(x).into() }
}

fn typed(x: Option<f64>) -> Option<f64> {
    x.filter(|x| *x != 0.0).map(as_typed)
}

/// A number that a GGUF file holds in f32, with the fewest digits that make the same f32: 1e-5, not 9.99999974e-6.
fn as_typed(x: f64) -> f64 {
    let short: f64 = (x as f32).to_string().parse().unwrap_or(x);
    if f64::from(short as f32) == x { short } else { x }
}
