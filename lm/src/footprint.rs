//! How much memory work will take, from a model's outline: estimates for planning, held against measured peaks in PERFORMANCE.md.

use crate::architecture::LayerPlan;
use crate::{AdapterConfig, Outline, Precision};

/// Tokens that one thread trains on at once ([`crate::Verbs::loss_and_grads`]).
pub const TRAIN_TOKENS: usize = 512;
/// Weights between a file and their packed form, on each thread: a block in f32 in up to three copies.
const LOADING: f64 = 64e6;

impl Outline {
    /// Bytes of the base model ready for work: every product's weights packed for both directions, and the embedding.
    pub fn base_bytes(&self) -> f64 {
        let each = match self.precision {
            Precision::F32 => 4,
            Precision::Bf16 => 2,
        };
        let a = &self.architecture;
        (2 * each * a.product_parameters() + 4 * a.embedding_parameters()) as f64
    }

    /// Bytes while it is loaded: what is being packed comes from its file a few megabytes at a time, on every thread.
    pub fn loading_bytes(&self) -> f64 {
        self.base_bytes() + LOADING * rayon::current_num_threads() as f64
    }

    /// Bytes while the model is written with adapters merged in: its largest tensor, as it is stored, twice in f32 and as it is written.
    pub fn exporting_bytes(&self) -> f64 {
        let largest = self.architecture.tensors().iter().map(|t| t.shape.iter().product::<usize>()).max();
        14.0 * largest.unwrap_or(0) as f64 + LOADING
    }

    /// Bytes of an adapter in training: parameters, gradient, both moments of the optimiser.
    pub fn training_adapter_bytes(&self, config: &AdapterConfig) -> f64 {
        16.0 * self.architecture.adapter_parameters(config) as f64
    }

    /// Bytes that a training pass over `tokens` keeps for its backward, on `threads` threads.
    pub fn activation_bytes(&self, tokens: usize, threads: usize) -> f64 {
        let a = &self.architecture;
        // Input, middle, attended output and gate and up projections are kept; queries, keys and values too, and what norms after or
        // between them read.
        let of_layer = |l: &LayerPlan| {
            let (q, kv) = (l.attention.query_width(), l.attention.key_value_width());
            let branches = if l.norms.after { 4 } else { 2 };
            let fused = (q + 2 * kv) * if l.attention.qk_norm.is_some() { 2 } else { 1 };
            branches * a.hidden_size + q + fused + 2 * l.mlp.width + l.attention.heads
        };
        let token: usize = a.layers.iter().map(of_layer).sum();
        let kept = tokens.min(TRAIN_TOKENS.saturating_mul(threads)) * token;
        // Logits of 64 labels and, for KL, the teacher's.
        let logits = 2 * 64 * a.vocab_size * threads;
        4.0 * (kept + logits) as f64
    }

    /// Bytes of keys and values of `tokens` tokens.
    pub fn cache_bytes(&self, tokens: usize) -> f64 {
        let width: usize = self.architecture.layers.iter().map(|l| l.attention.key_value_width()).sum();
        (4 * 2 * tokens * width) as f64
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::Projection;

    fn tiny() -> Outline {
        Outline::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny"), Precision::F32)
            .unwrap()
    }

    #[test]
    fn an_adapters_parameters_are_those_that_it_has() {
        let tiny = tiny().architecture;
        for rank in [1, 3] {
            let config = AdapterConfig::all_linear(rank, 1.0);
            let made = crate::Adapter::zeros(&tiny, config.clone()).unwrap();
            assert_eq!(tiny.adapter_parameters(&config), made.params.len());
        }
        // SmolLM2-135M's shape, counted by hand: ranks 1, 8 and 16 on all projections, rank 8 on two.
        let smol = serde_json::json!({
            "architectures": ["LlamaForCausalLM"], "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
            "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 8192,
            "tie_word_embeddings": true,
        });
        let smol = crate::Architecture::from_json(Path::new("config.json"), &smol).unwrap();
        assert_eq!(smol.parameters(), 134_515_008);
        for (rank, expected) in [(1, 305_280), (8, 2_442_240), (16, 4_884_480)] {
            assert_eq!(smol.adapter_parameters(&AdapterConfig::all_linear(rank, 1.0)), expected);
        }
        let two = [Projection::QProj, Projection::VProj].into_iter().collect();
        let config = AdapterConfig { target_modules: two, ..AdapterConfig::all_linear(8, 1.0) };
        assert_eq!(smol.adapter_parameters(&config), 460_800);
    }

    #[test]
    fn more_work_never_takes_less_memory() {
        let outline = tiny();
        assert!(outline.loading_bytes() > outline.base_bytes());
        assert!(outline.activation_bytes(100, 1) < outline.activation_bytes(200, 1));
        assert_eq!(outline.activation_bytes(1 << 20, 1), outline.activation_bytes(1 << 21, 1));
        assert!(outline.cache_bytes(10) > 0.0);
    }
}
