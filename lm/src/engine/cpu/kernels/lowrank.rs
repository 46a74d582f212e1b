//! The four small products of a LoRA module. `A: [r, in]`, `Bt: [r, out]` (B transposed), rows of activations may be
//! slices of wider rows (`stride`, starting at column `at`).

use super::elementwise::{axpy, multiply_add};
use super::strided::{Rows, Shape, Strided, add_product, dot_products};
use super::vectorised;

/// From this rank on register tiles pay.
const TALL: usize = 4;

/// `h[t, r] = x[t, at..at + width] . a[r, width]`.
pub(crate) fn down(x: &[f32], stride: usize, at: usize, a: &[f32], width: usize, h: &mut [f32]) {
    let rank = a.len() / width;
    let x = Rows { data: x, stride, at, width, count: h.len() / rank };
    dot_products(x, Rows { data: a, stride: width, at: 0, width, count: rank }, h);
}

/// `y[t, at..at + width] += c * h[t, r] . b[r, width]`.
pub(crate) fn up(h: &[f32], b: &[f32], width: usize, c: f32, y: &mut [f32], stride: usize, at: usize) {
    if h.is_empty() {
        return;
    }
    let depth = b.len() / width;
    let scaled: Vec<f32> = h.iter().map(|h| c * h).collect();
    if depth < TALL {
        return up_by_rows(&scaled, b, width, y, stride, at);
    }
    let h = Strided { data: &scaled, row: depth, column: 1 };
    add_product(h, Shape { m: scaled.len() / depth, depth, n: width }, b, width, &mut y[at..], stride);
}

vectorised! {
    /// [`up`] for a few ranks.
    fn up_by_rows(h: &[f32], b: &[f32], width: usize, y: &mut [f32], stride: usize, at: usize) {
        for (y, h) in y.chunks_exact_mut(stride).zip(h.chunks_exact(b.len() / width)) {
            for (h, b) in h.iter().zip(b.chunks_exact(width)) {
                axpy(*h, b, &mut y[at..at + width]);
            }
        }
    }
}

/// `out[r, width] += c * sum over t of u[t, r] * x[t, at..at + width]`, in ascending `t`.
pub(crate) fn outer(
    u: &[f32],
    rank: usize,
    x: &[f32],
    stride: usize,
    at: usize,
    width: usize,
    c: f32,
    out: &mut [f32],
) {
    let scaled: Vec<f32> = u.iter().map(|u| c * u).collect();
    if rank < TALL || u.is_empty() {
        return outer_by_ranks(&scaled, rank, x, stride, at, width, out);
    }
    let u = Strided { data: &scaled, row: 1, column: rank };
    add_product(u, Shape { m: rank, depth: scaled.len() / rank, n: width }, &x[at..], stride, out, width);
}

vectorised! {
    /// [`outer`] for a few ranks.
    fn outer_by_ranks(u: &[f32], rank: usize, x: &[f32], stride: usize, at: usize, width: usize, out: &mut [f32]) {
        const BLOCK: usize = 64;
        for from in (0..width).step_by(BLOCK) {
            let columns = BLOCK.min(width - from);
            for r in 0..rank {
                let mut acc = [0f32; BLOCK];
                let rows = x.chunks_exact(stride).map(|x| &x[at + from..at + from + columns]).zip(u.chunks_exact(rank));
                if columns == BLOCK {
                    for (x, u) in rows {
                        let x: &[f32; BLOCK] = x.try_into().expect("invariant: a full block");
                        for i in 0..BLOCK {
                            acc[i] = multiply_add::<FUSED>(u[r], x[i], acc[i]);
                        }
                    }
                } else {
                    for (x, u) in rows {
                        axpy(u[r], x, &mut acc[..columns]);
                    }
                }
                axpy(1.0, &acc[..columns], &mut out[r * width + from..][..columns]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_products_match_plain_loops_for_every_rank_and_odd_widths() {
        for (rank, t) in [(1, 1), (1, 5), (2, 9), (3, 13), (4, 1), (5, 5), (8, 3), (17, 8), (33, 2), (64, 21)]
        {
            for width in [1, 7, 32, 64, 100, 130] {
                let (stride, at) = (width + 9, 4);
                let x: Vec<f32> = (0..t * stride).map(|i| (i as f32 * 0.37).sin()).collect();
                let w: Vec<f32> = (0..rank * width).map(|i| (i as f32 * 0.71).cos()).collect();
                let mut h = vec![0f32; t * rank];
                down(&x, stride, at, &w, width, &mut h);
                let mut y = x.clone();
                up(&h, &w, width, 0.5, &mut y, stride, at);
                let mut o = vec![1f32; rank * width];
                outer(&h, rank, &x, stride, at, width, 2.0, &mut o);
                for row in 0..t {
                    for r in 0..rank {
                        let e: f32 = (0..width).map(|i| x[row * stride + at + i] * w[r * width + i]).sum();
                        assert!((h[row * rank + r] - e).abs() < 1e-4);
                    }
                    for i in 0..stride {
                        let inside = (at..at + width).contains(&i);
                        let e: f32 = if inside {
                            (0..rank).map(|r| 0.5 * h[row * rank + r] * w[r * width + i - at]).sum()
                        } else {
                            0.0
                        };
                        assert!((y[row * stride + i] - x[row * stride + i] - e).abs() < 1e-3);
                    }
                }
                for r in 0..rank {
                    for i in 0..width {
                        let e: f32 = (0..t).map(|row| h[row * rank + r] * x[row * stride + at + i]).sum();
                        assert!((o[r * width + i] - 1.0 - 2.0 * e).abs() < 1e-3);
                    }
                }
            }
        }
    }
}
