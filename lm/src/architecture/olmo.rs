//! OLMo 2: norms on what the bodies write, and over all queries and all keys.

use super::families::{Family, activation};
use super::{Activation, QkNorm};

pub(super) const OLMO2: Family = Family {
    class: "Olmo2ForCausalLM",
    model_type: "olmo2",
    gguf: Some("olmo2"),
    paired: false,
    alone: None,
    defaults: &[("eos_token_id", 50_279)],
    tied: false,
    eps: 1e-5,
    change: |facts, made| {
        activation(facts, Activation::Silu)?;
        made.each_layer(|_, layer| {
            layer.attention.qk_norm = Some(QkNorm::Full);
            (layer.norms.before, layer.norms.after) = (false, true);
        });
        made.set_rope(facts, 10_000.0)
    },
};
