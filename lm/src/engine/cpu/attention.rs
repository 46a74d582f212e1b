//! Causal grouped-query attention of one sequence, forward and backward, without a mask and without padding.
//!
//! Scores may be capped, `cap * tanh(score / cap)`, and a position may see a window of those before it only.
//!
//! A sequence's new tokens may follow a *prefix* whose keys and values are already known (a KV cache, or a prompt shared
//! by many candidates). Position `t` of the new tokens sees the whole prefix and the new tokens up to itself.

use std::ops::Range;

use super::kernels::elementwise::{LANES, add, axpy, dot, exp, exp_in_place, tanh};
use super::kernels::strided::{Shape, Strided, add_product, product};
use super::kernels::{executed, vectorised};
use crate::decoder::layer::Heads;

impl Heads {
    /// Query heads that share key-value head `kv`.
    fn sharing(self, kv: usize) -> Range<usize> {
        let group = self.query / self.key_value;
        kv * group..(kv + 1) * group
    }

    /// The first position that position `at` sees.
    fn first_seen(self, at: usize) -> usize {
        self.window.map_or(0, |w| (at + 1).saturating_sub(w))
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
/// Rows taken together; what they see ends at the same key.
const HEIGHT: usize = 12;
/// Up to so many new tokens, transposing the keys would cost more than it saves.
const FEW: usize = 2;

vectorised! {
    /// Copies one head's columns (prefix first, then new rows) into `out: [n, dim]`.
    fn gather(prefix: &[f32], prefix_width: usize, prefix_at: usize, fused: &[f32], fused_width: usize, at: usize, dim: usize, out: &mut [f32]) {
        let early = prefix.chunks_exact(prefix_width).map(|row| &row[prefix_at..]);
        let late = fused.chunks_exact(fused_width).map(|row| &row[at..]);
        for (out, row) in out.chunks_exact_mut(dim).zip(early.chain(late)) {
            out.copy_from_slice(&row[..dim]);
        }
    }
}

vectorised! {
    /// Transposes `rows: [m, dim]` into the first `m` columns of `out: [dim, n]`.
    fn transpose(rows: &[f32], dim: usize, out: &mut [f32]) {
        let n = out.len() / dim;
        for (j, row) in rows.chunks_exact(dim).enumerate() {
            for (i, x) in row.iter().enumerate() {
                out[i * n + j] = *x;
            }
        }
    }
}

/// `out[r, j] = c * sum over i of x[r, i] * columns[i, j]` for the columns that row `r` sees (`before + r + 1` of them)
/// and, up to the end of a block, for some that it does not see. `columns: [dim, n]`, `out: [rows, n]`.
fn scores_of(x: Rows<'_>, columns: &[f32], dim: usize, before: usize, c: f32, out: &mut [f32]) {
    let n = columns.len() / dim;
    let mut scaled = vec![0f32; out.len() / n * dim];
    for (r, scaled) in scaled.chunks_exact_mut(dim).enumerate() {
        axpy(c, x.row(r, dim), scaled);
    }
    for (block, out) in out.chunks_mut(HEIGHT * n).enumerate() {
        let (first, m) = (block * HEIGHT, out.len() / n);
        let seen = (before + first + m).next_multiple_of(BLOCK);
        let x = Strided { data: &scaled[first * dim..], row: dim, column: 1 };
        product(x, Shape { m, depth: dim, n: seen }, columns, n, out, n);
        executed(2 * m * dim * seen);
    }
}

/// Rows of weights or of sums: `rows[i * stride + at..][..dim]` is the i-th.
#[derive(Clone, Copy)]
struct Rows<'a> {
    rows: &'a [f32],
    stride: usize,
    at: usize,
}

impl Rows<'_> {
    fn row(&self, i: usize, dim: usize) -> &[f32] {
        &self.rows[i * self.stride + self.at..][..dim]
    }
}

/// Whose sums are formed from an attention matrix `[t, n]`.
#[derive(Clone, Copy, PartialEq)]
enum Sums {
    /// For each new token, over the keys that it sees.
    OfQueries,
    /// For each key, over the new tokens that see it.
    OfKeys,
}

/// `out[i] += sum over k of w[i, k] * x[k]`, `k` ascending, where `w: [t, n]` is zero for keys not seen: for every new
/// token `i` over keys, or (transposed) for every key over new tokens. `out` holds `count` rows, `stride` apart.
fn blend(
    w: &[f32],
    n: usize,
    before: usize,
    sums: Sums,
    x: Rows<'_>,
    dim: usize,
    count: usize,
    out: &mut [f32],
    stride: usize,
) {
    let t = w.len() / n;
    for first in (0..count).step_by(HEIGHT) {
        let m = HEIGHT.min(count - first);
        let (from, to) = match sums {
            Sums::OfQueries => (0, before + first + m),
            Sums::OfKeys => (first.saturating_sub(before), t),
        };
        let (row, column) = if sums == Sums::OfQueries { (n, 1) } else { (1, n) };
        let w = Strided { data: &w[first * row + from * column..], row, column };
        let (x, x_stride) = (&x.rows[from * x.stride + x.at..], x.stride);
        add_product(
            w,
            Shape { m, depth: to - from, n: dim },
            x,
            x_stride,
            &mut out[first * stride..],
            stride,
        );
        executed(2 * m * (to - from) * dim);
    }
}

vectorised! {
    /// Turns the scores of each row's seen columns into probabilities, the others into 0; `lse` (one for each row, `step`
    /// apart) receives the log-sum-exp.
    fn softmax_rows(scores: &mut [f32], n: usize, before: usize, heads: Heads, lse: &mut [f32], step: usize) {
        for (row, scores) in scores.chunks_exact_mut(n).enumerate() {
            let seen = before + row + 1;
            let first = heads.first_seen(before + row);
            // Whole vectors: what is not seen adds nothing.
            let (start, whole) = (first / LANES * LANES, seen.next_multiple_of(LANES));
            if let Some(cap) = heads.soft_cap {
                cap_scores(&mut scores[start..whole], cap);
            }
            scores[start..first].fill(f32::NEG_INFINITY);
            scores[seen..whole].fill(f32::NEG_INFINITY);
            let (max, sum) = exp_in_place(&mut scores[start..whole]);
            lse[row * step] = max + sum.ln();
            let inverse = 1.0 / sum;
            for p in &mut scores[start..whole] {
                *p *= inverse;
            }
            scores[..first].fill(0.0);
            scores[seen..].fill(0.0);
        }
    }
}

/// `cap * tanh(score / cap)`.
#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled for the caller's instructions")]
fn cap_scores(scores: &mut [f32], cap: f32) {
    for s in scores {
        *s = cap * tanh(*s / cap);
    }
}

vectorised! {
    /// From scores, their log-sum-exp and the gradient of probabilities `ds`, makes probabilities (in `scores`) and the
    /// gradient of scores (in `ds`), 0 for columns not seen. `out` and `d_out` are the head's output and its gradient.
    fn softmax_backward_rows(scores: &mut [f32], ds: &mut [f32], n: usize, before: usize, heads: Heads, lse: &[f32], step: usize, out: Rows<'_>, d_out: Rows<'_>) {
        let (dim, c) = (heads.dim, heads.scale);
        for (row, (scores, ds)) in scores.chunks_exact_mut(n).zip(ds.chunks_exact_mut(n)).enumerate() {
            let seen = before + row + 1;
            let delta = dot(&d_out.rows[row * d_out.stride + d_out.at..][..dim], &out.rows[row * out.stride + out.at..][..dim]);
            let lse = lse[row * step];
            let first = heads.first_seen(before + row);
            let (start, whole) = (first / LANES * LANES, seen.next_multiple_of(LANES));
            let both = scores[start..whole].iter_mut().zip(&mut ds[start..whole]);
            if let Some(cap) = heads.soft_cap {
                for (s, d) in both {
                    let t = tanh(*s / cap);
                    let p = exp(cap * t - lse);
                    *s = p;
                    *d = p * (*d - delta) * c * (1.0 - t * t);
                }
            } else {
                for (s, d) in both {
                    let p = exp(*s - lse);
                    *s = p;
                    *d = p * (*d - delta) * c;
                }
            }
            for unseen in [0..first, seen..n] {
                scores[unseen.clone()].fill(0.0);
                ds[unseen].fill(0.0);
            }
        }
    }
}

vectorised! {
    /// [`forward`] where keys and values are read where they lie.
    fn few(heads: Heads, fused: &[f32], prefix: Prefix<'_>, out: &mut [f32], lse: &mut [f32]) {
        let (width, kv_width, q_width, dim) = (heads.fused_width(), heads.key_value_width(), heads.query_width(), heads.dim);
        let before = prefix.keys.len() / kv_width;
        let mut scores = vec![0f32; before + fused.len() / width];
        for (row, (query, out)) in fused.chunks_exact(width).zip(out.chunks_exact_mut(q_width)).enumerate() {
            let first = heads.first_seen(before + row);
            let seen = before + row + 1 - first;
            // A window may begin within the new tokens.
            let old = first.min(before);
            let new = &fused[(first - old) * width..(row + 1) * width];
            for head in 0..heads.query {
                let at = head / (heads.query / heads.key_value) * dim;
                let query = &query[head * dim..][..dim];
                let keys = prefix.keys[old * kv_width..].chunks_exact(kv_width).map(|k| &k[at..]);
                let keys = keys.chain(new.chunks_exact(width).map(|k| &k[q_width + at..]));
                let scores = &mut scores[..seen];
                for (score, key) in scores.iter_mut().zip(keys) {
                    *score = heads.scale * dot(query, &key[..dim]);
                }
                if let Some(cap) = heads.soft_cap {
                    cap_scores(scores, cap);
                }
                let (max, sum) = exp_in_place(scores);
                lse[row * heads.query + head] = max + sum.ln();
                let values = prefix.values[old * kv_width..].chunks_exact(kv_width).map(|v| &v[at..]);
                let values = values.chain(new.chunks_exact(width).map(|v| &v[q_width + kv_width + at..]));
                let out = &mut out[head * dim..][..dim];
                for (score, value) in scores.iter().zip(values) {
                    axpy(score / sum, &value[..dim], out);
                }
            }
        }
    }
}

/// [`forward`] after a cache: a few new tokens (decoding, short candidates) do not pay for the transposed keys. Scores are
/// summed in another order than there, so whoever needs equal bits must take the same way every time.
pub(crate) fn forward_cached(
    heads: Heads,
    fused: &[f32],
    prefix: Prefix<'_>,
    out: &mut [f32],
    lse: &mut [f32],
) {
    let t = fused.len() / heads.fused_width();
    if t > FEW {
        return forward(heads, fused, prefix, out, lse);
    }
    let before = prefix.keys.len() / heads.key_value_width();
    executed(4 * heads.query * heads.dim * (t * before + t * (t + 1) / 2));
    out.fill(0.0);
    few(heads, fused, prefix, out, lse);
}

/// Attention of one sequence. `fused: [t, fused_width]` (rotated), `out: [t, query_width]`, and `lse: [t, query]`
/// receives each row's log-sum-exp for the backward.
pub(crate) fn forward(heads: Heads, fused: &[f32], prefix: Prefix<'_>, out: &mut [f32], lse: &mut [f32]) {
    let (width, kv_width, dim) = (heads.fused_width(), heads.key_value_width(), heads.dim);
    let t = fused.len() / width;
    let before = prefix.keys.len() / kv_width;
    out.fill(0.0);
    let n = (before + t).next_multiple_of(BLOCK);
    let mut rows = vec![0f32; (before + t) * dim];
    let mut keys = vec![0f32; dim * n];
    let mut scores = vec![0f32; t * n];
    for kv in 0..heads.key_value {
        let prefix_at = kv * dim;
        let key_at = heads.query_width() + prefix_at;
        gather(prefix.keys, kv_width, prefix_at, fused, width, key_at, dim, &mut rows);
        transpose(&rows, dim, &mut keys);
        gather(prefix.values, kv_width, prefix_at, fused, width, key_at + kv_width, dim, &mut rows);
        let values = Rows { rows: &rows, stride: dim, at: 0 };
        for head in heads.sharing(kv) {
            let queries = Rows { rows: fused, stride: width, at: head * dim };
            scores_of(queries, &keys, dim, before, heads.scale, &mut scores);
            softmax_rows(&mut scores, n, before, heads, &mut lse[head..], heads.query);
            let out = &mut out[head * dim..];
            blend(&scores, n, before, Sums::OfQueries, values, dim, t, out, heads.query_width());
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
    let total = before + t;
    let n = total.next_multiple_of(BLOCK);
    let (mut keys, mut values) = (vec![0f32; total * dim], vec![0f32; total * dim]);
    let (mut key_columns, mut value_columns) = (vec![0f32; dim * n], vec![0f32; dim * n]);
    let (mut p, mut ds) = (vec![0f32; t * n], vec![0f32; t * n]);
    let (mut d_key, mut d_value) = (vec![0f32; total * dim], vec![0f32; total * dim]);
    for kv in 0..heads.key_value {
        let prefix_at = kv * dim;
        let key_at = q_width + prefix_at;
        let value_at = key_at + kv_width;
        gather(prefix.keys, kv_width, prefix_at, fused, width, key_at, dim, &mut keys);
        gather(prefix.values, kv_width, prefix_at, fused, width, value_at, dim, &mut values);
        transpose(&keys, dim, &mut key_columns);
        transpose(&values, dim, &mut value_columns);
        d_key.fill(0.0);
        d_value.fill(0.0);
        for head in heads.sharing(kv) {
            let at = head * dim;
            let of_out = |rows| Rows { rows, stride: q_width, at };
            let queries = Rows { rows: fused, stride: width, at };
            scores_of(queries, &key_columns, dim, before, heads.scale, &mut p);
            scores_of(of_out(d_out), &value_columns, dim, before, 1.0, &mut ds);
            let (lse, step) = (&lse[head..], heads.query);
            softmax_backward_rows(&mut p, &mut ds, n, before, heads, lse, step, of_out(out), of_out(d_out));
            let key_rows = Rows { rows: &keys, stride: dim, at: 0 };
            blend(&ds, n, before, Sums::OfQueries, key_rows, dim, t, &mut d_fused[at..], width);
            blend(&p, n, before, Sums::OfKeys, of_out(d_out), dim, total, &mut d_value, dim);
            blend(&ds, n, before, Sums::OfKeys, queries, dim, total, &mut d_key, dim);
        }
        for (gained, d_prefix, at) in [(&d_key, &mut *d_keys, key_at), (&d_value, &mut *d_values, value_at)] {
            for (j, gained) in gained.chunks_exact(dim).enumerate() {
                let place = if j < before {
                    &mut d_prefix[j * kv_width + prefix_at..]
                } else {
                    &mut d_fused[(j - before) * width + at..]
                };
                add(gained, &mut place[..dim]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Attention as the formula has it, in f64.
    fn plain(heads: Heads, fused: &[f32], before: usize) -> Vec<f32> {
        let w = heads.fused_width();
        let (q_width, kv_width, dim) = (heads.query_width(), heads.key_value_width(), heads.dim);
        let mut out = Vec::new();
        for row in before..fused.len() / w {
            for head in 0..heads.query {
                let at = head / (heads.query / heads.key_value) * dim;
                let part = |j: usize, at: usize| &fused[j * w + at..][..dim];
                let score = |j: usize| -> f64 {
                    let products = part(row, head * dim).iter().zip(part(j, q_width + at));
                    let score = products.map(|(a, b)| f64::from(a * b)).sum::<f64>() * f64::from(heads.scale);
                    let Some(cap) = heads.soft_cap.map(f64::from) else { return score };
                    cap * (score / cap).tanh()
                };
                let seen = |j: usize| heads.window.is_none_or(|w| row - j < w);
                let weights: Vec<f64> =
                    (0..=row).map(|j| if seen(j) { score(j).exp() } else { 0.0 }).collect();
                let sum: f64 = weights.iter().sum();
                for i in 0..dim {
                    let value = |j: usize| f64::from(part(j, q_width + kv_width + at)[i]);
                    out.push(
                        (weights.iter().enumerate().map(|(j, p)| p * value(j)).sum::<f64>() / sum) as f32,
                    );
                }
            }
        }
        out
    }

    #[test]
    fn every_length_matches_the_formula() {
        let shapes = [(3, 1, 64), (4, 2, 6), (2, 2, 80)].map(|(query, kv, dim)| Heads::plain(query, kv, dim));
        let capped = shapes.map(|h| Heads { soft_cap: Some(0.7), scale: 0.4, ..h });
        let windows = [1, 5, 17, 200].map(|w| Heads { window: Some(w), ..capped[1] });
        for heads in shapes.into_iter().chain(capped).chain(windows) {
            let Heads { query, key_value, dim, .. } = heads;
            let w = heads.fused_width();
            for (t, before) in [(1, 0), (1, 40), (2, 3), (3, 0), (5, 31), (37, 0), (33, 7), (70, 1)] {
                let fused: Vec<f32> = (0..(before + t) * w).map(|i| (i as f32 * 0.61).sin()).collect();
                let columns = |at: usize| -> Vec<f32> {
                    let rows = fused[..before * w].chunks_exact(w);
                    rows.flat_map(|r| r[at..at + heads.key_value_width()].to_vec()).collect()
                };
                let keys = columns(heads.query_width());
                let values = columns(heads.query_width() + heads.key_value_width());
                let mut out = vec![7f32; t * heads.query_width()];
                let mut lse = vec![0f32; t * query];
                let prefix = Prefix { keys: &keys, values: &values };
                forward(heads, &fused[before * w..], prefix, &mut out, &mut lse);
                let (mut cached, mut cached_lse) = (vec![7f32; out.len()], vec![0f32; lse.len()]);
                forward_cached(heads, &fused[before * w..], prefix, &mut cached, &mut cached_lse);
                for ((a, c), b) in out.iter().zip(&cached).zip(plain(heads, &fused, before)) {
                    assert!((a - b).abs() < 1e-5, "{query}/{key_value}x{dim}, {t} after {before}: {a} {b}");
                    assert!(
                        (c - b).abs() < 1e-5,
                        "cached {query}/{key_value}x{dim}, {t} after {before}: {c} {b}"
                    );
                }
                for (a, c) in lse.iter().zip(&cached_lse) {
                    assert!((a - c).abs() < 1e-5);
                }
            }
        }
    }

    #[test]
    fn how_a_sequence_is_cut_changes_no_bit() {
        for (dim, t, window) in [(64, 70, None), (6, 41, None), (6, 41, Some(9)), (64, 70, Some(33))] {
            let heads = Heads { window, ..Heads::plain(4, 2, dim) };
            let (w, q, kv) = (heads.fused_width(), heads.query_width(), heads.key_value_width());
            let fused: Vec<f32> = (0..t * w).map(|i| (i as f32 * 0.61).sin()).collect();
            let (mut out, mut lse) = (vec![0f32; t * q], vec![0f32; t * 4]);
            forward(heads, &fused, Prefix::default(), &mut out, &mut lse);
            for cut in [1, 11, 12, 31, 33, 40] {
                let columns = |at: usize| -> Vec<f32> {
                    fused[..cut * w].chunks_exact(w).flat_map(|r| r[at..at + kv].to_vec()).collect()
                };
                let (keys, values) = (columns(q), columns(q + kv));
                let (mut tail, mut tail_lse) = (vec![0f32; (t - cut) * q], vec![0f32; (t - cut) * 4]);
                let prefix = Prefix { keys: &keys, values: &values };
                forward(heads, &fused[cut * w..], prefix, &mut tail, &mut tail_lse);
                assert!(tail == out[cut * q..] && tail_lse == lse[cut * 4..], "{dim} {cut}");
            }
        }
    }

    #[test]
    fn a_prefix_equals_the_whole_sequence_and_gradients_match_finite_differences() {
        let plain = Heads::plain(4, 2, 6);
        gradients_match(plain);
        gradients_match(Heads { soft_cap: Some(0.8), window: Some(3), scale: 0.9, ..plain });
    }

    fn gradients_match(heads: Heads) {
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
