//! Attention of a chunk's spans: each sees what its parents hold, or what a cache holds, and itself.

use super::attention::{self, Attended, Prefix};
use super::cache::Sequence;
use super::kernels::buffer::Buffer;
use super::kernels::elementwise::add;
use crate::decoder::chunk::Chunk;
use crate::decoder::layer::Heads;
use crate::engine::Caches;

/// Keys and values of the tokens that a span's parents hold, gathered from the chunk.
#[derive(Debug, Default)]
struct Above {
    tokens: Vec<usize>,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Above {
    /// What span `i` sees of its parents, if it has any.
    fn of(chunk: &Chunk<'_>, i: usize, heads: Heads, qkv: &[f32]) -> Option<Self> {
        chunk.spans[i].parent?;
        let (q, kv, width) = (heads.query_width(), heads.key_value_width(), heads.fused_width());
        let mut out = Self::default();
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

    fn prefix(&self) -> Prefix<'_> {
        Prefix { keys: &self.keys, values: &self.values }
    }
}

/// `qkv: [t, fused_width]` (rotated), `attended: [t, query_width]`, `lse: [t, query]`.
pub(super) fn forward(
    chunk: &Chunk<'_>,
    layer: usize,
    heads: Heads,
    qkv: &[f32],
    caches: &mut Caches<'_, Sequence>,
    attended: &mut [f32],
    lse: &mut [f32],
) {
    let (q_width, width) = (heads.query_width(), heads.fused_width());
    for (i, span) in chunk.spans.iter().enumerate() {
        let fused = &qkv[span.start * width..(span.start + span.len) * width];
        let above = Above::of(chunk, i, heads, qkv);
        let out = &mut attended[span.start * q_width..(span.start + span.len) * q_width];
        let lse = &mut lse[span.start * heads.query..(span.start + span.len) * heads.query];
        let cached = match caches {
            Caches::None => Prefix::default(),
            Caches::Growing(of) => of[i].prefix(layer),
            Caches::Shared(of) => of[i].prefix(layer),
        };
        // How a row is cut into spans depends on its neighbours, what is cached does not.
        match above {
            None if !cached.keys.is_empty() => attention::forward_cached(heads, fused, cached, out, lse),
            above => attention::forward(heads, fused, above.unwrap_or_default().prefix(), out, lse),
        }
        if let Caches::Growing(of) = caches {
            of[i].append(layer, heads, fused);
        }
    }
}

/// The gradient of `qkv`, given that of `attended`.
pub(super) fn backward(
    chunk: &Chunk<'_>,
    heads: Heads,
    qkv: &[f32],
    attended: &[f32],
    lse: &[f32],
    d_attended: &[f32],
) -> Buffer {
    let (q_width, kv_width, width) = (heads.query_width(), heads.key_value_width(), heads.fused_width());
    let mut d_qkv = Buffer::zeros(qkv.len());
    for (i, span) in chunk.spans.iter().enumerate() {
        let rows = span.start..span.start + span.len;
        let above = Above::of(chunk, i, heads, qkv).unwrap_or_default();
        let (mut d_keys, mut d_values) = (vec![0f32; above.keys.len()], vec![0f32; above.values.len()]);
        attention::backward(
            heads,
            Attended {
                fused: &qkv[rows.start * width..rows.end * width],
                out: &attended[rows.start * q_width..rows.end * q_width],
                lse: &lse[rows.start * heads.query..rows.end * heads.query],
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
    d_qkv
}
