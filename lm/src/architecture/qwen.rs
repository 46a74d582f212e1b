//! Qwen 2, 2.5 and 3.

use super::families::{Family, activation, optional_windows};
use super::{Activation, QkNorm};

pub(super) const QWEN2: Family = Family {
    class: "Qwen2ForCausalLM",
    model_type: "qwen2",
    gguf: Some("qwen2"),
    paired: false,
    alone: None,
    defaults: &[("sliding_window", 4096)],
    tied: false,
    eps: 1e-6,
    change: |facts, made| {
        activation(facts, Activation::Silu)?;
        optional_windows(facts, made, Some(28))?;
        made.each_layer(|_, layer| {
            layer.attention.qkv_bias = true;
            layer.attention.out_bias = false;
        });
        made.set_rope(facts, 10_000.0)
    },
};

pub(super) const QWEN3: Family = Family {
    class: "Qwen3ForCausalLM",
    model_type: "qwen3",
    gguf: Some("qwen3"),
    paired: false,
    alone: None,
    defaults: &[("head_dim", 128), ("sliding_window", 4096)],
    tied: false,
    eps: 1e-6,
    change: |facts, made| {
        activation(facts, Activation::Silu)?;
        optional_windows(facts, made, Some(28))?;
        made.each_layer(|_, layer| layer.attention.qk_norm = Some(QkNorm::PerHead));
        made.set_rope(facts, 10_000.0)
    },
};
