//! Keys and values of sequences already computed.

use crate::Decoder;
use crate::decoder::attention::{Heads, Prefix};
use crate::decoder::layer::KeyValues;

/// Keys and values of one sequence, layer by layer, each `[len, key_value_width]`.
#[derive(Debug, Clone)]
pub(crate) struct Sequence {
    layers: Vec<(Vec<f32>, Vec<f32>)>,
    len: usize,
}

impl Sequence {
    pub(crate) fn empty(decoder: &Decoder) -> Self {
        Self { layers: vec![(vec![], vec![]); decoder.config().num_hidden_layers], len: 0 }
    }

    /// One sequence of consecutive parts; there is at least one.
    pub(crate) fn joined<'a>(mut parts: impl Iterator<Item = &'a Self>) -> Self {
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
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

/// Each span of a chunk extends its own sequence.
pub(crate) struct Growing<'a> {
    pub(crate) heads: Heads,
    pub(crate) sequences: Vec<&'a mut Sequence>,
}

impl KeyValues for Growing<'_> {
    fn prefix(&self, span: usize, layer: usize) -> Prefix<'_> {
        let (keys, values) = &self.sequences[span].layers[layer];
        Prefix { keys, values }
    }

    fn append(&mut self, span: usize, layer: usize, fused: &[f32]) {
        let (q, kv) = (self.heads.query_width(), self.heads.key_value_width());
        let sequence = &mut *self.sequences[span];
        let (keys, values) = &mut sequence.layers[layer];
        for row in fused.chunks_exact(self.heads.fused_width()) {
            keys.extend_from_slice(&row[q..q + kv]);
            values.extend_from_slice(&row[q + kv..]);
        }
        sequence.len = keys.len() / kv;
    }
}

/// Spans read sequences that others share, and keep nothing.
pub(crate) struct Shared<'a> {
    /// The sequence that precedes each span.
    pub(crate) sequences: Vec<&'a Sequence>,
}

impl KeyValues for Shared<'_> {
    fn prefix(&self, span: usize, layer: usize) -> Prefix<'_> {
        let (keys, values) = &self.sequences[span].layers[layer];
        Prefix { keys, values }
    }
    fn append(&mut self, _: usize, _: usize, _: &[f32]) {}
}
