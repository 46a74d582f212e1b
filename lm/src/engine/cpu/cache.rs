//! Keys and values of sequences already computed.

use super::attention::Prefix;
use crate::decoder::layer::Heads;

/// Keys and values of one sequence, layer by layer, each `[len, key_value_width]`.
#[derive(Debug, Clone)]
pub(crate) struct Sequence {
    layers: Vec<(Vec<f32>, Vec<f32>)>,
    len: usize,
}

impl Sequence {
    pub(super) fn empty(layers: usize) -> Self {
        Self { layers: vec![(vec![], vec![]); layers], len: 0 }
    }

    /// One sequence of consecutive parts; there is at least one.
    pub(super) fn joined<'a>(mut parts: impl Iterator<Item = &'a Self>) -> Self {
        let mut out = parts.next().expect("invariant: a sequence has parts").clone();
        for part in parts {
            out.len += part.len;
            for ((keys, values), (more_keys, more_values)) in out.layers.iter_mut().zip(&part.layers) {
                keys.extend_from_slice(more_keys);
                values.extend_from_slice(more_values);
            }
        }
        out
    }

    /// Tokens held.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn prefix(&self, layer: usize) -> Prefix<'_> {
        let (keys, values) = &self.layers[layer];
        Prefix { keys, values }
    }

    /// Takes the new tokens' fused `[q | k | v]` rows.
    pub(super) fn append(&mut self, layer: usize, heads: Heads, fused: &[f32]) {
        let (q, kv) = (heads.query_width(), heads.key_value_width());
        let (keys, values) = &mut self.layers[layer];
        for row in fused.chunks_exact(heads.fused_width()) {
            keys.extend_from_slice(&row[q..q + kv]);
            values.extend_from_slice(&row[q + kv..]);
        }
        self.len = keys.len() / kv;
    }
}
