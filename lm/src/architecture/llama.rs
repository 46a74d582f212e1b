//! Llama 1 to 3 and what copies them (SmolLM 1 and 2, TinyLlama, Yi), and Mistral.

use super::Architecture;
use super::facts::{Facts, brief};
use super::families::{Family, activation};
use crate::Result;
use crate::architecture::Activation;

pub(super) const LLAMA: Family = Family {
    class: "LlamaForCausalLM",
    model_type: "llama",
    gguf: Some("llama"),
    paired: true,
    alone: None,
    defaults: &[("eos_token_id", 2)],
    tied: false,
    eps: 1e-6,
    change: |facts, made| {
        let window = facts.of("sliding_window");
        // transformers' class does not read it; what was made with one is another model.
        if !window.is_null() && window.as_u64().is_none_or(|w| w < made.context as u64) {
            return Err(facts.bad(format!(
                "sliding_window = {} is not implemented for LlamaForCausalLM; MistralForCausalLM has one",
                brief(window)
            )));
        }
        common(facts, made)
    },
};

pub(super) const MISTRAL: Family = Family {
    class: "MistralForCausalLM",
    model_type: "mistral",
    gguf: None,
    paired: true,
    alone: None,
    defaults: &[("eos_token_id", 2), ("num_key_value_heads", 8), ("sliding_window", 4096)],
    tied: false,
    eps: 1e-6,
    change: |facts, made| {
        if facts.has("layer_types") && facts.sliding(made.layers.len())?.is_some_and(|s| s.contains(&false)) {
            return Err(facts.bad("layer_types of different kinds is not implemented for MistralForCausalLM"));
        }
        if let Some(window) = facts.optional("sliding_window")? {
            let all = vec![true; made.layers.len()];
            made.set_windows(Some(window), &all);
        }
        made.set_bias(false);
        common(facts, made)
    },
};

fn common(facts: &Facts<'_>, made: &mut Architecture) -> Result<()> {
    activation(facts, Activation::Silu)?;
    made.set_rope(facts, 10_000.0)
}
