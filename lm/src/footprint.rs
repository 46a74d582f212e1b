//! How much memory work will take, from a model's outline: estimates for planning, held against measured peaks in PERFORMANCE.md.

use crate::{AdapterConfig, Outline, Precision, Projection};

/// Tokens that one thread trains on at once ([`crate::Decoder::loss_and_grads`]).
pub const TRAIN_TOKENS: usize = 512;

impl Outline {
    /// Parameters of an adapter of this shape.
    pub fn adapter_parameters(&self, config: &AdapterConfig) -> usize {
        let one = |p: &Projection| {
            let (input, output) = p.features(&self.config);
            config.rank * (input + output)
        };
        config.target_modules.iter().map(one).sum::<usize>() * self.config.num_hidden_layers
    }

    fn embedding_parameters(&self) -> usize {
        self.config.vocab_size * self.config.hidden_size
    }

    /// Weights of projections and head, which products are taken with.
    fn product_parameters(&self) -> usize {
        (self.layer_flops(self.config.num_hidden_layers) / 2.0) as usize + self.embedding_parameters()
    }

    /// Bytes of the base model ready for work: every product's weights packed for both directions, the embedding in f32.
    pub fn base_bytes(&self) -> f64 {
        let each = match self.precision {
            Precision::F32 => 4,
            Precision::Bf16 => 2,
        };
        let angles = self.config.max_position_embeddings * self.config.head_dim;
        (2 * each * self.product_parameters() + 4 * (self.embedding_parameters() + angles)) as f64
    }

    /// Bytes while it is loaded: the plain weights in f32, once more.
    pub fn loading_bytes(&self) -> f64 {
        let head = if self.config.tie_word_embeddings { 0 } else { self.embedding_parameters() };
        self.base_bytes() + 4.0 * (self.product_parameters() + head) as f64
    }

    /// Bytes of an adapter in training: parameters, gradient, both moments of the optimiser.
    pub fn training_adapter_bytes(&self, config: &AdapterConfig) -> f64 {
        16.0 * self.adapter_parameters(config) as f64
    }

    /// Bytes that a training pass over `tokens` keeps for its backward, on `threads` threads.
    pub fn activation_bytes(&self, tokens: usize, threads: usize) -> f64 {
        let c = &self.config;
        // Input, middle, attended output and gate and up projections are kept; queries, keys and values too.
        let token = 2 * c.hidden_size
            + 2 * c.query_size()
            + 2 * c.key_value_size()
            + 2 * c.intermediate_size
            + c.num_attention_heads;
        let kept = tokens.min(TRAIN_TOKENS.saturating_mul(threads)) * token * c.num_hidden_layers;
        // Logits of 64 labels and, for KL, the teacher's.
        let logits = 2 * 64 * c.vocab_size * threads;
        4.0 * (kept + logits) as f64
    }

    /// Bytes of keys and values of `tokens` tokens.
    pub fn cache_bytes(&self, tokens: usize) -> f64 {
        (4 * 2 * tokens * self.config.key_value_size() * self.config.num_hidden_layers) as f64
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn tiny() -> Outline {
        Outline::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny"), Precision::F32)
            .unwrap()
    }

    #[test]
    fn an_adapters_parameters_are_those_that_it_has() {
        let mut outline = tiny();
        for rank in [1, 3] {
            let config = AdapterConfig::all_linear(rank, 1.0);
            let made = crate::Adapter::zeros(&outline.config, config.clone()).unwrap();
            assert_eq!(outline.adapter_parameters(&config), made.params.len());
        }
        // SmolLM2-135M's shape, counted by hand: ranks 1, 8 and 16 on all projections, rank 8 on two.
        let c = &mut outline.config;
        (c.hidden_size, c.intermediate_size, c.num_hidden_layers) = (576, 1536, 30);
        (c.num_attention_heads, c.num_key_value_heads, c.head_dim) = (9, 3, 64);
        for (rank, expected) in [(1, 305_280), (8, 2_442_240), (16, 4_884_480)] {
            assert_eq!(outline.adapter_parameters(&AdapterConfig::all_linear(rank, 1.0)), expected);
        }
        let two = [Projection::QProj, Projection::VProj].into_iter().collect();
        let config = AdapterConfig { target_modules: two, ..AdapterConfig::all_linear(8, 1.0) };
        assert_eq!(outline.adapter_parameters(&config), 460_800);
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
