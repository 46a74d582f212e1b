//! What a description costs: parameters and floating-point operations.

use super::Architecture;
use crate::{AdapterConfig, Projection};

impl Architecture {
    /// Weights of the first `layers` layers' projections.
    fn projection_parameters(&self, layers: usize) -> usize {
        let one = |layer: usize| -> usize {
            Projection::ALL.iter().map(|p| self.features(layer, *p)).map(|(i, o)| i * o).sum()
        };
        (0..layers.min(self.layers.len())).map(one).sum()
    }

    /// Weights of the embedding.
    pub(crate) fn embedding_parameters(&self) -> usize {
        self.vocab_size * self.hidden_size
    }

    /// Weights that products are taken with: projections and head.
    pub(crate) fn product_parameters(&self) -> usize {
        self.projection_parameters(self.layers.len()) + self.embedding_parameters()
    }

    /// All parameters of the model.
    pub fn parameters(&self) -> usize {
        self.tensors().iter().map(|t| t.shape.iter().product::<usize>()).sum()
    }

    /// Parameters of an adapter of this shape.
    pub fn adapter_parameters(&self, config: &AdapterConfig) -> usize {
        let one = |layer: usize, p: &Projection| {
            let (input, output) = self.features(layer, *p);
            config.rank * (input + output)
        };
        (0..self.layers.len()).map(|l| config.target_modules.iter().map(|p| one(l, p)).sum::<usize>()).sum()
    }

    /// FLOPs of one token's products with the weights of the first `layers` layers: two for each.
    pub fn layer_flops(&self, layers: usize) -> f64 {
        2.0 * self.projection_parameters(layers) as f64
    }

    /// FLOPs of a forward pass of one row through `layers` layers: products with weights, and causal attention. Adapters, a few
    /// percent at the ranks used here, are left out.
    pub fn pass_flops(&self, tokens: usize, layers: usize) -> f64 {
        let n = tokens as f64;
        let width: usize = self.layers.iter().take(layers).map(|l| l.attention.query_width()).sum();
        n * self.layer_flops(layers) + 2.0 * n * n * width as f64
    }

    /// FLOPs of the logits at one position.
    pub fn head_flops(&self) -> f64 {
        2.0 * self.embedding_parameters() as f64
    }
}
