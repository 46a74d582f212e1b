//! Gemma 2 and 3: norms before and after both bodies, whose weights are stored less 1; embeddings scaled; windows on most layers.

use serde_json::Value;

use super::facts::{Facts, brief};
use super::families::{Family, activation};
use super::rope::{self, Rope};
use super::{Activation, Architecture, QkNorm};
use crate::Result;

pub(super) const GEMMA2: Family = Family {
    class: "Gemma2ForCausalLM",
    model_type: "gemma2",
    gguf: Some("gemma2"),
    paired: false,
    alone: None,
    defaults: &[
        ("eos_token_id", 1),
        ("vocab_size", 256_000),
        ("hidden_size", 2304),
        ("intermediate_size", 9216),
        ("num_hidden_layers", 26),
        ("num_attention_heads", 8),
        ("num_key_value_heads", 4),
        ("head_dim", 256),
        ("max_position_embeddings", 8192),
        ("query_pre_attn_scalar", 256),
        ("sliding_window", 4096),
        ("attn_logit_softcapping", 50),
        ("final_logit_softcapping", 30),
    ],
    tied: true,
    eps: 1e-6,
    change: |facts, made| {
        common(facts, made, 2)?;
        made.set_rope(facts, 10_000.0)
    },
};

/// Sizes that Gemma 3's class has where a file leaves them out, as the published text halves do.
const SIZES3: &[(&str, usize)] = &[
    ("eos_token_id", 1),
    ("vocab_size", 262_208),
    ("hidden_size", 2304),
    ("intermediate_size", 9216),
    ("num_hidden_layers", 26),
    ("num_attention_heads", 8),
    ("num_key_value_heads", 4),
    ("head_dim", 256),
    ("max_position_embeddings", 131_072),
    ("query_pre_attn_scalar", 256),
    ("sliding_window", 4096),
];

pub(super) const GEMMA3: Family = Family {
    class: "Gemma3ForCausalLM",
    model_type: "gemma3_text",
    gguf: Some("gemma3"),
    paired: false,
    alone: None,
    defaults: SIZES3,
    tied: true,
    eps: 1e-6,
    change: gemma3,
};

/// The text half of the multimodal ones; the vision tower is left where it is.
pub(super) const GEMMA3_NESTED: Family = Family {
    class: "Gemma3ForConditionalGeneration",
    model_type: "gemma3",
    gguf: None,
    alone: Some(&GEMMA3),
    ..GEMMA3
};

/// A place of the decoder's tensors in the names of a model with other parts.
pub(crate) const NESTED: [(&str, &str); 3] = [
    ("language_model.model.", "model."),
    ("model.language_model.", "model."),
    ("language_model.lm_head.", "lm_head."),
];
/// Beginnings of the names of its other parts.
pub(crate) const OTHER_PARTS: [&str; 4] =
    ["vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector."];

fn gemma3(facts: &Facts<'_>, made: &mut Architecture) -> Result<()> {
    // transformers writes the name with an underscore as well, and reads it without.
    common(facts, made, facts.number_or("sliding_window_pattern", 6)?)?;
    // Fields of transformers' configuration that its class does not read.
    let unread = [("attn_logit_softcapping", true), ("final_logit_softcapping", made.class != GEMMA3.class)];
    for (key, unread) in unread {
        let value = facts.of(key);
        if unread && !value.is_null() {
            return Err(facts.bad(format!(
                "{key} = {} is not implemented for {}; null is",
                brief(value),
                made.class
            )));
        }
    }
    made.each_layer(|_, layer| layer.attention.qk_norm = Some(QkNorm::PerHead));
    rope::partial(facts, "", facts.of("partial_rotary_factor"))?;
    let beside = facts.of("original_max_position_embeddings");
    if !beside.is_null() {
        return Err(facts.bad(format!(
            "original_max_position_embeddings = {} is not implemented for {}; within rope_parameters it is",
            brief(beside),
            made.class
        )));
    }
    // One rotary embedding for layers that see everything, one for those with a window.
    let dim = made.layers.first().map_or(0, |l| l.attention.head_dim);
    let kinds = facts.of("rope_parameters");
    let one = |kind: &str, key: &str, default: f64, older: bool| -> Result<Rope> {
        let own = &kinds[kind];
        if !(kinds.is_null() || kinds.is_object()) {
            return Err(
                facts.bad(format!("rope_parameters = {} is neither an object nor null", brief(kinds)))
            );
        }
        if !(own.is_null() || own.is_object()) {
            return Err(facts.bad(format!("rope_parameters: {kind} = {} is not an object", brief(own))));
        }
        let name = format!("rope_parameters: {kind}");
        let mut all = own.as_object().cloned().unwrap_or_default();
        let older = if older { facts.of("rope_scaling") } else { &Value::Null };
        if let Some(older) = older.as_object() {
            // Laid over the newer fields, where a kind is there already.
            if older.get("type").is_some_and(|t| t != "default") && !older.contains_key("rope_type") {
                return Err(facts.bad(format!(
                    "rope_scaling: type = {} is not read by {}; rope_type is",
                    brief(&older["type"]),
                    made.class
                )));
            }
            all.extend(older.clone());
        } else if !older.is_null() {
            return Err(facts.bad(format!("rope_scaling = {} is neither an object nor null", brief(older))));
        }
        let all = Value::Object(all);
        let scaling = rope::scaling(facts, if older.is_null() { &name } else { "rope_scaling" }, &all)?;
        // Not read where each kind of layers has an object of its own.
        if all.get("truncate").is_some_and(|t| *t != true) {
            return Err(facts
                .bad(format!("{name}: truncate = {} is not implemented; true is", brief(&all["truncate"]))));
        }
        let base = [&all["rope_theta"], facts.of(key)].into_iter().find(|v| !v.is_null());
        let base = match base {
            None => default,
            Some(value) => value
                .as_f64()
                .ok_or_else(|| facts.bad(format!("{key} = {} is not a number", brief(value))))?,
        };
        Ok(Rope { dim, base, scaling })
    };
    made.ropes = vec![
        one("full_attention", "rope_theta", 1_000_000.0, true)?,
        one("sliding_attention", "rope_local_base_freq", 10_000.0, false)?,
    ];
    made.each_layer(|_, layer| layer.attention.rope = Some(usize::from(layer.attention.window.is_some())));
    Ok(())
}

/// `every`: all but each of these layers have a window.
fn common(facts: &Facts<'_>, made: &mut Architecture, every: usize) -> Result<()> {
    facts.only("use_bidirectional_attention", &[false.into()])?;
    activation(facts, Activation::GeluTanh)?;
    facts.only("hidden_act", &["gelu_pytorch_tanh".into()])?;
    let n = made.layers.len();
    if every == 0 {
        return Err(facts.bad("sliding_window_pattern = 0 makes no sense"));
    }
    let sliding =
        facts.sliding(n)?.unwrap_or_else(|| (0..n).map(|i| !(i + 1).is_multiple_of(every)).collect());
    let window = facts.optional("sliding_window")?;
    if window.is_none() && sliding.contains(&true) {
        return Err(facts.bad("sliding_window = null, and layers are of the kind that has a window"));
    }
    made.set_windows(window, &sliding);
    let scalar = facts.optional_float("query_pre_attn_scalar")?.unwrap_or(256.0);
    if !(scalar > 0.0 && scalar.is_finite()) {
        return Err(facts.bad(format!("query_pre_attn_scalar = {scalar} makes no sense")));
    }
    let cap = facts.optional_float("attn_logit_softcapping")?.map(|c| c as f32);
    made.each_layer(|_, layer| {
        layer.attention.scale = scalar.powf(-0.5) as f32;
        layer.attention.soft_cap = cap;
        layer.mlp.activation = Activation::GeluTanh;
        (layer.norms.before, layer.norms.after) = (true, true);
        layer.norms.plan.plus_one = true;
    });
    made.final_cap = facts.optional_float("final_logit_softcapping")?.map(|c| c as f32);
    made.final_norm.plus_one = true;
    made.embedding_scale = (made.hidden_size as f64).sqrt() as f32;
    Ok(())
}
