//! SmolLM3: every fourth layer knows no positions.

use super::Activation;
use super::facts::brief;
use super::families::{Family, activation, optional_windows};
use crate::Result;

pub(super) const SMOLLM3: Family = Family {
    class: "SmolLM3ForCausalLM",
    model_type: "smollm3",
    gguf: Some("smollm3"),
    paired: true,
    alone: None,
    defaults: &[("eos_token_id", 128_001), ("num_key_value_heads", 4)],
    tied: true,
    eps: 1e-6,
    change: |facts, made| {
        activation(facts, Activation::Silu)?;
        let n = made.layers.len();
        // An entry says whether the layer turns its queries and keys; the field's name says the opposite.
        let turned: Vec<bool> = if let Some(list) = facts.list("no_rope_layers", n)? {
            list.iter()
                .map(|v| v.as_u64().map(|v| v != 0).or(v.as_bool()))
                .map(|v| v.ok_or_else(|| facts.bad("no_rope_layers holds something that is neither 0 nor 1")))
                .collect::<Result<_>>()?
        } else {
            let every = facts.number_or("no_rope_layer_interval", 4)?;
            if every == 0 {
                let said = facts.of("no_rope_layer_interval");
                return Err(facts.bad(format!("no_rope_layer_interval = {} makes no sense", brief(said))));
            }
            (0..n).map(|i| !(i + 1).is_multiple_of(every)).collect()
        };
        let windows = facts.flag("use_sliding_window", false)? && facts.of("layer_types").is_null();
        if windows && let Some(window) = facts.optional("sliding_window")? {
            let unturned: Vec<bool> = turned.iter().map(|t| !t).collect();
            made.set_windows(Some(window), &unturned);
        } else {
            optional_windows(facts, made, None)?;
        }
        made.each_layer(|i, layer| layer.attention.rope = Some(0).filter(|_| turned[i]));
        made.set_rope(facts, 2_000_000.0)
    },
};
