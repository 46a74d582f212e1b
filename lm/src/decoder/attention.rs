//! Causal grouped-query attention of one sequence, forward and backward, without a mask and without padding.
//!
//! A sequence's new tokens may follow a *prefix* whose keys and values are already known (a KV cache, or a prompt shared
//! by many candidates). Position `t` of the new tokens sees the whole prefix and the new tokens up to itself.

use crate::kernels::elementwise::{axpy, exp_scores};
use crate::kernels::vectorised;

/// Widths of the attention heads and where they lie in a fused `[q | k | v]` row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heads {
    pub(crate) query: usize,
    pub(crate) key_value: usize,
    pub(crate) dim: usize,
}

impl Heads {
    pub(crate) fn query_width(self) -> usize {
        self.query * self.dim
    }
    pub(crate) fn key_value_width(self) -> usize {
        self.key_value * self.dim
    }
    /// Width of a fused row.
    pub(crate) fn fused_width(self) -> usize {
        self.query_width() + 2 * self.key_value_width()
    }
    fn scale(self) -> f32 {
        1.0 / (self.dim as f32).sqrt()
    }
}

/// Keys and values that precede the new tokens, each `[len, key_value_width]`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Prefix<'a> {
    pub(crate) keys: &'a [f32],
    pub(crate) values: &'a [f32],
}

vectorised! {
    /// Copies one head's `[n, dim]` columns (prefix first, then new rows) into `out: [dim, n]`.
    fn gather_transposed(prefix: &[f32], prefix_width: usize, prefix_at: usize, fused: &[f32], fused_width: usize, at: usize, dim: usize, out: &mut [f32]) {
        let n = out.len() / dim;
        let p = prefix.len() / prefix_width;
        for (j, row) in prefix.chunks_exact(prefix_width).enumerate() {
            for i in 0..dim {
                out[i * n + j] = row[prefix_at + i];
            }
        }
        for (j, row) in fused.chunks_exact(fused_width).enumerate() {
            for i in 0..dim {
                out[i * n + p + j] = row[at + i];
            }
        }
    }
}

vectorised! {
    /// `scores[j] = c * sum over i of q[i] * keys[i, j]` for the first `scores.len()` of `n` columns.
    fn scores_of(q: &[f32], keys: &[f32], n: usize, c: f32, scores: &mut [f32]) {
        scores.fill(0.0);
        let seen = scores.len();
        for (q, keys) in q.iter().zip(keys.chunks_exact(n)) {
            axpy(q * c, &keys[..seen], scores);
        }
    }
}

vectorised! {
    /// `out += sum over j of weights[j] * row j`, rows being head columns of the prefix and then of the fused rows.
    fn weighted_sum(weights: &[f32], prefix: &[f32], prefix_width: usize, prefix_at: usize, fused: &[f32], fused_width: usize, at: usize, out: &mut [f32]) {
        let p = prefix.len() / prefix_width;
        for (w, row) in weights.iter().zip(prefix.chunks_exact(prefix_width)) {
            axpy(*w, &row[prefix_at..prefix_at + out.len()], out);
        }
        for (w, row) in weights[p..].iter().zip(fused.chunks_exact(fused_width)) {
            axpy(*w, &row[at..at + out.len()], out);
        }
    }
}

/// Attention of one sequence. `fused: [t, fused_width]` (rotated), `out: [t, query_width]`, and `lse: [t, query]`
/// receives each row's log-sum-exp for the backward.
pub(crate) fn forward(heads: Heads, fused: &[f32], prefix: Prefix<'_>, out: &mut [f32], lse: &mut [f32]) {
    let (width, kv_width, dim) = (heads.fused_width(), heads.key_value_width(), heads.dim);
    let t = fused.len() / width;
    let p = prefix.keys.len() / kv_width;
    let n = p + t;
    let group = heads.query / heads.key_value;
    let mut keys = vec![0f32; dim * n];
    let mut scores = vec![0f32; n];
    out.fill(0.0);
    for kv in 0..heads.key_value {
        let key_at = heads.query_width() + kv * dim;
        let value_at = key_at + kv_width;
        gather_transposed(prefix.keys, kv_width, kv * dim, fused, width, key_at, dim, &mut keys);
        for head in kv * group..(kv + 1) * group {
            for row in 0..t {
                let q = &fused[row * width + head * dim..][..dim];
                let scores = &mut scores[..=p + row];
                scores_of(q, &keys, n, heads.scale(), scores);
                let (max, sum) = exp_scores(scores);
                lse[row * heads.query + head] = max + sum.ln();
                let inverse = 1.0 / sum;
                for s in scores.iter_mut() {
                    *s *= inverse;
                }
                let out = &mut out[row * heads.query_width() + head * dim..][..dim];
                weighted_sum(scores, prefix.values, kv_width, kv * dim, fused, width, value_at, out);
            }
        }
    }
}

vectorised! {
    /// From scores, probabilities' log-sum-exp and `dp`, makes probabilities (in `scores`) and score gradients (in `dp`).
    fn softmax_backward(scores: &mut [f32], lse: f32, delta: f32, c: f32, dp: &mut [f32]) {
        for (s, d) in scores.iter_mut().zip(dp) {
            let p = crate::kernels::elementwise::exp(*s - lse);
            *s = p;
            *d = p * (*d - delta) * c;
        }
    }
}

vectorised! {
    /// Row `j` of `out` (columns from `at`) gains `weights[j] * x`.
    fn scatter_add(weights: &[f32], x: &[f32], out: &mut [f32], width: usize, at: usize) {
        for (w, row) in weights.iter().zip(out.chunks_exact_mut(width)) {
            axpy(*w, x, &mut row[at..at + x.len()]);
        }
    }
}

/// What the backward needs of a sequence's forward.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attended<'a> {
    /// `[t, fused_width]`, rotated.
    pub(crate) fused: &'a [f32],
    /// `[t, query_width]`.
    pub(crate) out: &'a [f32],
    /// `[t, query]`.
    pub(crate) lse: &'a [f32],
    /// `[t, query_width]`, the gradient of `out`.
    pub(crate) d_out: &'a [f32],
}

/// Backward of [`forward`]: adds the gradient of the rotated q, k and v to `d_fused: [t, fused_width]` and that of the
/// prefix to `(d_keys, d_values)`. Probabilities are recomputed from the log-sum-exp.
pub(crate) fn backward(
    heads: Heads,
    seen: Attended<'_>,
    prefix: Prefix<'_>,
    d_fused: &mut [f32],
    (d_keys, d_values): (&mut [f32], &mut [f32]),
) {
    let Attended { fused, out, lse, d_out } = seen;
    let (width, kv_width, q_width, dim) =
        (heads.fused_width(), heads.key_value_width(), heads.query_width(), heads.dim);
    let t = fused.len() / width;
    let before = prefix.keys.len() / kv_width;
    let n = before + t;
    let group = heads.query / heads.key_value;
    let (mut keys, mut values) = (vec![0f32; dim * n], vec![0f32; dim * n]);
    let (mut p, mut dp) = (vec![0f32; n], vec![0f32; n]);
    for kv in 0..heads.key_value {
        let prefix_at = kv * dim;
        let key_at = q_width + prefix_at;
        let value_at = key_at + kv_width;
        gather_transposed(prefix.keys, kv_width, prefix_at, fused, width, key_at, dim, &mut keys);
        gather_transposed(prefix.values, kv_width, prefix_at, fused, width, value_at, dim, &mut values);
        for head in kv * group..(kv + 1) * group {
            for row in 0..t {
                let (p, dp) = (&mut p[..=before + row], &mut dp[..=before + row]);
                let q = &fused[row * width + head * dim..][..dim];
                let g = &d_out[row * q_width + head * dim..][..dim];
                let o = &out[row * q_width + head * dim..][..dim];
                let delta: f32 = g.iter().zip(o).map(|(a, b)| a * b).sum();
                scores_of(q, &keys, n, heads.scale(), p);
                scores_of(g, &values, n, 1.0, dp);
                softmax_backward(p, lse[row * heads.query + head], delta, heads.scale(), dp);
                scatter_add(&p[..before], g, d_values, kv_width, prefix_at);
                scatter_add(&p[before..], g, d_fused, width, value_at);
                scatter_add(&dp[..before], q, d_keys, kv_width, prefix_at);
                scatter_add(&dp[before..], q, d_fused, width, key_at);
                let dq = &mut d_fused[row * width + head * dim..][..dim];
                weighted_sum(dp, prefix.keys, kv_width, prefix_at, fused, width, key_at, dq);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_equals_the_whole_sequence_and_gradients_match_finite_differences() {
        let heads = Heads { query: 4, key_value: 2, dim: 6 };
        let (t, w) = (7, heads.fused_width());
        let fused: Vec<f32> = (0..t * w).map(|i| (i as f32 * 0.61).sin()).collect();
        let run = |fused: &[f32]| {
            let (mut out, mut lse) = (vec![0f32; t * 24], vec![0f32; t * 4]);
            forward(heads, fused, Prefix::default(), &mut out, &mut lse);
            (out, lse)
        };
        let (out, lse) = run(&fused);
        let p = 4;
        let columns = |at: usize| -> Vec<f32> {
            fused[..p * w].chunks_exact(w).flat_map(|r| r[at..at + 12].to_vec()).collect()
        };
        let (keys, values) = (columns(24), columns(36));
        let (mut tail, mut tail_lse) = (vec![0f32; 3 * 24], vec![0f32; 3 * 4]);
        forward(heads, &fused[p * w..], Prefix { keys: &keys, values: &values }, &mut tail, &mut tail_lse);
        for (a, b) in tail.iter().zip(&out[p * 24..]) {
            assert!((a - b).abs() < 1e-6);
        }
        let g: Vec<f32> = (0..t * 24).map(|i| (i as f32 * 0.23).cos()).collect();
        let value = |f: &[f32]| run(f).0.iter().zip(&g).map(|(a, b)| (a * b) as f64).sum::<f64>();
        let mut d = vec![0f32; t * w];
        let whole = Attended { fused: &fused, out: &out, lse: &lse, d_out: &g };
        backward(heads, whole, Prefix::default(), &mut d, (&mut [], &mut []));
        for i in (0..t * w).step_by(5) {
            let (mut hi, mut lo) = (fused.clone(), fused.clone());
            hi[i] += 1e-2;
            lo[i] -= 1e-2;
            let numeric = (value(&hi) - value(&lo)) / 2e-2;
            assert!((numeric - d[i] as f64).abs() < 3e-3, "{i}: {numeric} {}", d[i]);
        }
        // The same in two pieces: the second one's prefix is the first.
        let mut pieces = vec![0f32; t * w];
        let (mut d_keys, mut d_values) = (vec![0f32; p * 12], vec![0f32; p * 12]);
        for (rows, prefix) in [(p..t, Prefix { keys: &keys, values: &values }), (0..p, Prefix::default())] {
            let seen = Attended {
                fused: &fused[rows.start * w..rows.end * w],
                out: &out[rows.start * 24..rows.end * 24],
                lse: &lse[rows.start * 4..rows.end * 4],
                d_out: &g[rows.start * 24..rows.end * 24],
            };
            let d_prefix: (&mut [f32], &mut [f32]) =
                if rows.start > 0 { (&mut d_keys, &mut d_values) } else { (&mut [], &mut []) };
            backward(heads, seen, prefix, &mut pieces[rows.start * w..rows.end * w], d_prefix);
        }
        for row in 0..p {
            for i in 0..12 {
                pieces[row * w + 24 + i] += d_keys[row * 12 + i];
                pieces[row * w + 36 + i] += d_values[row * 12 + i];
            }
        }
        for (a, b) in pieces.iter().zip(&d) {
            assert!((a - b).abs() < 1e-5);
        }
    }
}
