//! Causal grouped-query attention of one sequence, forward and backward, without a mask and without padding.
//!
//! A sequence's new tokens may follow a *prefix* whose keys and values are already known (a KV cache, or a prompt shared
//! by many candidates). Position `t` of the new tokens sees the whole prefix and the new tokens up to itself.

use crate::kernels::elementwise::{dot, exp_scores, scale};
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

/// Columns of one register block of scores; score rows are padded to a multiple of it.
const BLOCK: usize = 32;
/// Head dimensions accumulated in registers at a time.
const WIDE: usize = 64;

vectorised! {
    /// Copies one head's `[n, dim]` columns (prefix first, then new rows) into `out: [dim, padded]`.
    fn gather_transposed(prefix: &[f32], prefix_width: usize, prefix_at: usize, fused: &[f32], fused_width: usize, at: usize, dim: usize, out: &mut [f32]) {
        let n = out.len() / dim;
        let p = prefix.len() / prefix_width;
        for (j, row) in prefix.chunks_exact(prefix_width).enumerate() {
            for (i, x) in row[prefix_at..prefix_at + dim].iter().enumerate() {
                out[i * n + j] = *x;
            }
        }
        for (j, row) in fused.chunks_exact(fused_width).enumerate() {
            for (i, x) in row[at..at + dim].iter().enumerate() {
                out[i * n + p + j] = *x;
            }
        }
    }
}

vectorised! {
    /// `out[r, j] = c * sum over i of x[r, i] * columns[i, j]` for the columns that row `r` sees (`before + r + 1` of them)
    /// and, up to the end of a block, for some that it does not see. `columns: [dim, n]`, `out: [rows, n]`.
    fn scores_of(x: &[f32], stride: usize, at: usize, columns: &[f32], dim: usize, before: usize, c: f32, out: &mut [f32]) {
        const HEIGHT: usize = 4;
        let n = columns.len() / dim;
        for (block, out) in out.chunks_mut(HEIGHT * n).enumerate() {
            let (first, height) = (block * HEIGHT, out.len() / n);
            // A block that is not full computes its last row again.
            let rows: [&[f32]; HEIGHT] = std::array::from_fn(|r| &x[(first + r.min(height - 1)) * stride + at..][..dim]);
            for from in (0..before + first + height).step_by(BLOCK) {
                let mut acc = [[0f32; BLOCK]; HEIGHT];
                for (i, columns) in columns.chunks_exact(n).enumerate() {
                    let columns: &[f32; BLOCK] = columns[from..from + BLOCK].try_into().expect("invariant: a full block");
                    for (acc, row) in acc.iter_mut().zip(&rows) {
                        for j in 0..BLOCK {
                            acc[j] = row[i].mul_add(columns[j], acc[j]);
                        }
                    }
                }
                for (acc, out) in acc.iter().zip(out.chunks_exact_mut(n)) {
                    for j in 0..BLOCK {
                        out[from + j] = c * acc[j];
                    }
                }
            }
        }
    }
}

/// Rows of one head's columns, with a weight each.
#[derive(Clone, Copy)]
struct Weighted<'a> {
    /// Weight of row `j` at `j * step`.
    weights: &'a [f32],
    step: usize,
    rows: &'a [f32],
    width: usize,
    at: usize,
}

vectorised! {
    /// `out += sum of weighted rows`, part after part, in the order of the rows.
    fn weighted_sum(parts: [Weighted<'_>; 2], out: &mut [f32]) {
        for (block, out) in out.chunks_mut(WIDE).enumerate() {
            let mut acc = [0f32; WIDE];
            for Weighted { weights, step, rows, width, at } in parts {
                let at = at + block * WIDE;
                let weighted = weights.iter().step_by(step).zip(rows.chunks_exact(width));
                if let Ok(acc) = <&mut [f32; WIDE]>::try_from(&mut acc[..out.len()]) {
                    for (w, row) in weighted {
                        let row: &[f32; WIDE] = row[at..at + WIDE].try_into().expect("invariant: a full block");
                        for i in 0..WIDE {
                            acc[i] = w.mul_add(row[i], acc[i]);
                        }
                    }
                } else {
                    for (w, row) in weighted {
                        for (acc, x) in acc[..out.len()].iter_mut().zip(&row[at..]) {
                            *acc = w.mul_add(*x, *acc);
                        }
                    }
                }
            }
            for (out, acc) in out.iter_mut().zip(&acc) {
                *out += acc;
            }
        }
    }
}

/// Attention of one sequence. `fused: [t, fused_width]` (rotated), `out: [t, query_width]`, and `lse: [t, query]`
/// receives each row's log-sum-exp for the backward.
pub(crate) fn forward(heads: Heads, fused: &[f32], prefix: Prefix<'_>, out: &mut [f32], lse: &mut [f32]) {
    let (width, kv_width, dim) = (heads.fused_width(), heads.key_value_width(), heads.dim);
    let t = fused.len() / width;
    let before = prefix.keys.len() / kv_width;
    let n = (before + t).next_multiple_of(BLOCK);
    let group = heads.query / heads.key_value;
    let mut keys = vec![0f32; dim * n];
    let mut scores = vec![0f32; t * n];
    out.fill(0.0);
    for kv in 0..heads.key_value {
        let prefix_at = kv * dim;
        let key_at = heads.query_width() + prefix_at;
        let value_at = key_at + kv_width;
        gather_transposed(prefix.keys, kv_width, prefix_at, fused, width, key_at, dim, &mut keys);
        for head in kv * group..(kv + 1) * group {
            scores_of(fused, width, head * dim, &keys, dim, before, heads.scale(), &mut scores);
            for (row, scores) in scores.chunks_exact_mut(n).enumerate() {
                let scores = &mut scores[..=before + row];
                let (max, sum) = exp_scores(scores);
                lse[row * heads.query + head] = max + sum.ln();
                scale(1.0 / sum, scores);
                let (early, late) = scores.split_at(before);
                let parts = [
                    Weighted { weights: early, step: 1, rows: prefix.values, width: kv_width, at: prefix_at },
                    Weighted { weights: late, step: 1, rows: fused, width, at: value_at },
                ];
                weighted_sum(parts, &mut out[row * heads.query_width() + head * dim..][..dim]);
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
    let n = (before + t).next_multiple_of(BLOCK);
    let group = heads.query / heads.key_value;
    let (mut keys, mut values) = (vec![0f32; dim * n], vec![0f32; dim * n]);
    let (mut p, mut ds) = (vec![0f32; t * n], vec![0f32; t * n]);
    let nothing = Weighted { weights: &[], step: 1, rows: &[], width: 1, at: 0 };
    for kv in 0..heads.key_value {
        let prefix_at = kv * dim;
        let key_at = q_width + prefix_at;
        let value_at = key_at + kv_width;
        gather_transposed(prefix.keys, kv_width, prefix_at, fused, width, key_at, dim, &mut keys);
        gather_transposed(prefix.values, kv_width, prefix_at, fused, width, value_at, dim, &mut values);
        for head in kv * group..(kv + 1) * group {
            let at = head * dim;
            scores_of(fused, width, at, &keys, dim, before, heads.scale(), &mut p);
            scores_of(d_out, q_width, at, &values, dim, before, 1.0, &mut ds);
            for (row, (p, ds)) in p.chunks_exact_mut(n).zip(ds.chunks_exact_mut(n)).enumerate() {
                let seen = before + row + 1;
                let delta = dot_of(&d_out[row * q_width + at..][..dim], &out[row * q_width + at..][..dim]);
                let lse = lse[row * heads.query + head];
                softmax_backward(&mut p[..seen], lse, delta, heads.scale(), &mut ds[..seen]);
                let (early, late) = ds[..seen].split_at(before);
                let parts = [
                    Weighted { weights: early, step: 1, rows: prefix.keys, width: kv_width, at: prefix_at },
                    Weighted { weights: late, step: 1, rows: fused, width, at: key_at },
                ];
                weighted_sum(parts, &mut d_fused[row * width + at..][..dim]);
            }
            for column in 0..before + t {
                // Rows that see this column.
                let first = column.saturating_sub(before);
                let from = |weights| Weighted { weights, step: n, rows: &[], width: 1, at };
                let of_values = Weighted {
                    rows: &d_out[first * q_width..],
                    width: q_width,
                    ..from(&p[first * n + column..])
                };
                let of_keys =
                    Weighted { rows: &fused[first * width..], width, ..from(&ds[first * n + column..]) };
                let (d_value, d_key) = if column < before {
                    let place = column * kv_width + prefix_at;
                    (&mut d_values[place..place + dim], &mut d_keys[place..place + dim])
                } else {
                    let row = &mut d_fused[first * width..][..width];
                    let (low, high) = row.split_at_mut(value_at);
                    (&mut high[..dim], &mut low[key_at..key_at + dim])
                };
                weighted_sum([of_values, nothing], d_value);
                weighted_sum([of_keys, nothing], d_key);
            }
        }
    }
}

vectorised! {
    /// Sum of products.
    fn dot_of(a: &[f32], b: &[f32]) -> f32 {
        dot(a, b)
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
