//! One decoder layer, forward and backward, with the LoRA terms of every adapter in the chunk.
//!
//! `y = x W^T + s (x A^T) B^T` everywhere; the backward forms input gradients and adapter gradients and never a gradient
//! of a frozen weight. Norms and SwiGLU are recomputed in the backward instead of kept.

use super::attention::{self, Attended, Prefix};
use super::chunk::Chunk;
use super::inject::{inject, inject_backward};
use super::lora::{self, Columns, Grads, Inner};
use super::{Decoder, LayerWeights};
use crate::adapter::Projection::{DownProj, GateProj, KProj, OProj, QProj, UpProj, VProj};
use crate::kernels::buffer::Buffer;
use crate::kernels::elementwise::{
    add, rms_norm, rms_norm_backward, rope, swiglu, swiglu_chain, swiglu_derivatives,
};

/// What the backward of one layer needs.
#[derive(Debug, Default)]
pub(crate) struct Tape {
    input: Buffer,
    qkv: Buffer,
    attended: Buffer,
    lse: Buffer,
    middle: Buffer,
    gate_up: Buffer,
    inner: Inner,
}

/// Where a sequence's earlier keys and values come from, and where its new ones go.
pub(crate) trait KeyValues {
    /// Keys and values before this chunk's tokens of span `span` at `layer`.
    fn prefix(&self, span: usize, layer: usize) -> Prefix<'_>;
    /// Receives the new tokens' fused `[q | k | v]` rows of span `span`.
    fn append(&mut self, span: usize, layer: usize, fused: &[f32]);
}

/// No earlier tokens, nothing kept.
#[derive(Debug)]
pub(crate) struct NoKeyValues;

impl KeyValues for NoKeyValues {
    fn prefix(&self, _: usize, _: usize) -> Prefix<'_> {
        Prefix::default()
    }
    fn append(&mut self, _: usize, _: usize, _: &[f32]) {}
}

/// Keys and values of the tokens that a span's parents hold, gathered from the chunk.
#[derive(Debug, Default)]
struct Above {
    tokens: Vec<usize>,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Above {
    fn prefix(&self) -> Prefix<'_> {
        Prefix { keys: &self.keys, values: &self.values }
    }
}

impl Decoder {
    /// What span `i` sees of its parents, if it has any.
    fn above(&self, chunk: &Chunk<'_>, i: usize, qkv: &[f32]) -> Option<Above> {
        chunk.spans[i].parent?;
        let (q, kv, width) =
            (self.heads.query_width(), self.heads.key_value_width(), self.heads.fused_width());
        let mut out = Above::default();
        for span in chunk.ancestors(i).into_iter().map(|a| &chunk.spans[a]) {
            for token in span.start..span.start + span.len {
                let row = &qkv[token * width + q..][..2 * kv];
                out.tokens.push(token);
                out.keys.extend_from_slice(&row[..kv]);
                out.values.extend_from_slice(&row[kv..]);
            }
        }
        Some(out)
    }

    /// Runs one layer over `hidden: [t, d]` in place, then the chunk's injections at this layer's output.
    pub(crate) fn layer_forward(
        &self,
        layer: usize,
        chunk: &Chunk<'_>,
        hidden: &mut [f32],
        kv: &mut impl KeyValues,
        mut tape: Option<&mut Tape>,
    ) {
        let w: &LayerWeights = &self.layers[layer];
        let (t, d, f) = (chunk.len(), self.config().hidden_size, self.config().intermediate_size);
        let (q_width, kv_width, width) =
            (self.heads.query_width(), self.heads.key_value_width(), self.heads.fused_width());
        let buffer = if tape.is_some() { Buffer::stale } else { Buffer::fresh };
        if let Some(tape) = tape.as_deref_mut() {
            tape.input = Buffer::of(hidden);
        }
        let mut normed = buffer(t * d);
        rms_norm(hidden, &w.input_norm, self.eps(), &mut normed);
        let mut qkv = buffer(t * width);
        w.qkv.forward.product(&normed, &mut qkv, false);
        for (projection, at) in [(QProj, 0), (KProj, q_width), (VProj, q_width + kv_width)] {
            let (columns, keep) = (Columns { stride: width, at }, tape.as_deref_mut().map(|t| &mut t.inner));
            lora::forward(chunk, layer, projection, &normed, &mut qkv, columns, keep);
        }
        let rotated = self.heads.query + self.heads.key_value;
        rope(&mut qkv, width, rotated, self.heads.dim / 2, &self.cos, &self.sin, &chunk.positions, 1.0);
        let mut attended = buffer(t * q_width);
        let mut lse = buffer(t * self.heads.query);
        for (i, span) in chunk.spans.iter().enumerate() {
            let fused = &qkv[span.start * width..(span.start + span.len) * width];
            let above = self.above(chunk, i, &qkv);
            let out = &mut attended[span.start * q_width..(span.start + span.len) * q_width];
            let lse = &mut lse[span.start * self.heads.query..(span.start + span.len) * self.heads.query];
            // How a row is cut into spans depends on its neighbours, what is cached does not.
            match (above, kv.prefix(i, layer)) {
                (None, cache) if !cache.keys.is_empty() => {
                    attention::forward_cached(self.heads, fused, cache, out, lse);
                }
                (above, _) => {
                    attention::forward(self.heads, fused, above.unwrap_or_default().prefix(), out, lse);
                }
            }
            kv.append(i, layer, fused);
        }
        w.o.forward.product(&attended, hidden, true);
        let (dense, keep) = (Columns { stride: d, at: 0 }, tape.as_deref_mut().map(|t| &mut t.inner));
        lora::forward(chunk, layer, OProj, &attended, hidden, dense, keep);
        if let Some(tape) = tape.as_deref_mut() {
            tape.middle = Buffer::of(hidden);
        }
        rms_norm(hidden, &w.post_norm, self.eps(), &mut normed);
        let mut gate_up = buffer(t * 2 * f);
        w.gate_up.forward.product(&normed, &mut gate_up, false);
        for (projection, at) in [(GateProj, 0), (UpProj, f)] {
            let (columns, keep) = (Columns { stride: 2 * f, at }, tape.as_deref_mut().map(|t| &mut t.inner));
            lora::forward(chunk, layer, projection, &normed, &mut gate_up, columns, keep);
        }
        let mut activated = buffer(t * f);
        swiglu(&gate_up, f, &mut activated);
        w.down.forward.product(&activated, hidden, true);
        let keep = tape.as_deref_mut().map(|t| &mut t.inner);
        lora::forward(chunk, layer, DownProj, &activated, hidden, dense, keep);
        if let Some(tape) = tape {
            tape.qkv = qkv;
            tape.attended = attended;
            tape.lse = lse;
            tape.gate_up = gate_up;
        }
        for (at, injection) in chunk.injections.iter().filter(|(_, j)| j.layer == layer) {
            inject(injection, &mut hidden[at * d..(at + 1) * d]);
        }
    }

    /// Backward of [`Decoder::layer_forward`] (without a prefix): turns the gradient of the output, `d_hidden: [t, d]`,
    /// into the gradient of the input, and adds adapter gradients. Consumes the tape. The input gradient of layer 0 is
    /// not formed: nothing below it is trainable.
    pub(crate) fn layer_backward(
        &self,
        layer: usize,
        chunk: &Chunk<'_>,
        tape: Tape,
        d_hidden: &mut [f32],
        grads: &mut Grads,
    ) {
        let w = &self.layers[layer];
        let (t, d, f) = (chunk.len(), self.config().hidden_size, self.config().intermediate_size);
        let (q_width, kv_width, width) =
            (self.heads.query_width(), self.heads.key_value_width(), self.heads.fused_width());
        let (dense, inner) = (Columns { stride: d, at: 0 }, &tape.inner);
        for (at, injection) in chunk.injections.iter().filter(|(_, j)| j.layer == layer).rev() {
            inject_backward(injection, &mut d_hidden[at * d..(at + 1) * d]);
        }

        // Feed-forward: hidden = middle + down(swiglu(gate_up(norm(middle)))).
        let mut d_gate_up = tape.gate_up;
        let mut activated = Buffer::stale(t * f);
        swiglu_derivatives(&mut d_gate_up, f, &mut activated);
        let mut d_activated = Buffer::stale(t * f);
        w.down.backward.product(d_hidden, &mut d_activated, false);
        lora::backward(
            chunk,
            layer,
            DownProj,
            &activated,
            d_hidden,
            dense,
            Some(&mut d_activated),
            inner,
            grads,
        );
        swiglu_chain(&mut d_gate_up, f, &d_activated);
        let mut normed = Buffer::stale(t * d);
        rms_norm(&tape.middle, &w.post_norm, self.eps(), &mut normed);
        let mut d_normed = Buffer::stale(t * d);
        w.gate_up.backward.product(&d_gate_up, &mut d_normed, false);
        for (projection, at) in [(GateProj, 0), (UpProj, f)] {
            let columns = Columns { stride: 2 * f, at };
            lora::backward(
                chunk,
                layer,
                projection,
                &normed,
                &d_gate_up,
                columns,
                Some(&mut d_normed),
                inner,
                grads,
            );
        }
        rms_norm_backward(&tape.middle, &w.post_norm, self.eps(), &d_normed, d_hidden);

        // Attention: middle = input + o(attend(rope(qkv(norm(input))))).
        let mut d_attended = Buffer::stale(t * q_width);
        w.o.backward.product(d_hidden, &mut d_attended, false);
        lora::backward(
            chunk,
            layer,
            OProj,
            &tape.attended,
            d_hidden,
            dense,
            Some(&mut d_attended),
            inner,
            grads,
        );
        let mut d_qkv = Buffer::zeros(t * width);
        for (i, span) in chunk.spans.iter().enumerate() {
            let rows = span.start..span.start + span.len;
            let above = self.above(chunk, i, &tape.qkv).unwrap_or_default();
            let (mut d_keys, mut d_values) = (vec![0f32; above.keys.len()], vec![0f32; above.values.len()]);
            attention::backward(
                self.heads,
                Attended {
                    fused: &tape.qkv[rows.start * width..rows.end * width],
                    out: &tape.attended[rows.start * q_width..rows.end * q_width],
                    lse: &tape.lse[rows.start * self.heads.query..rows.end * self.heads.query],
                    d_out: &d_attended[rows.start * q_width..rows.end * q_width],
                },
                above.prefix(),
                &mut d_qkv[rows.start * width..rows.end * width],
                (&mut d_keys, &mut d_values),
            );
            let gained = d_keys.chunks_exact(kv_width).zip(d_values.chunks_exact(kv_width));
            for (&token, (d_key, d_value)) in above.tokens.iter().zip(gained) {
                let (key, value) = d_qkv[token * width + q_width..][..2 * kv_width].split_at_mut(kv_width);
                add(d_key, key);
                add(d_value, value);
            }
        }
        let rotated = self.heads.query + self.heads.key_value;
        rope(&mut d_qkv, width, rotated, self.heads.dim / 2, &self.cos, &self.sin, &chunk.positions, -1.0);
        rms_norm(&tape.input, &w.input_norm, self.eps(), &mut normed);
        let needs_input = layer > 0;
        if needs_input {
            w.qkv.backward.product(&d_qkv, &mut d_normed, false);
        }
        for (projection, at) in [(QProj, 0), (KProj, q_width), (VProj, q_width + kv_width)] {
            let dx = needs_input.then_some(&mut d_normed[..]);
            lora::backward(
                chunk,
                layer,
                projection,
                &normed,
                &d_qkv,
                Columns { stride: width, at },
                dx,
                inner,
                grads,
            );
        }
        if needs_input {
            rms_norm_backward(&tape.input, &w.input_norm, self.eps(), &d_normed, d_hidden);
        }
    }
}
