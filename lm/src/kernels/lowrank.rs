//! The four small products of a LoRA module. `A: [r, in]`, `Bt: [r, out]` (B transposed), rows of activations may be
//! slices of wider rows (`stride`, starting at column `at`).

use super::{
    elementwise::{axpy, dot_long},
    vectorised,
};

vectorised! {
    /// `h[t, r] = x[t, at..at + width] . a[r, width]`.
    pub(crate) fn down(x: &[f32], stride: usize, at: usize, a: &[f32], width: usize, h: &mut [f32]) {
        let rank = a.len() / width;
        for (x, h) in x.chunks_exact(stride).zip(h.chunks_exact_mut(rank)) {
            let x = &x[at..at + width];
            for (h, a) in h.iter_mut().zip(a.chunks_exact(width)) {
                *h = dot_long(x, a);
            }
        }
    }
}

vectorised! {
    /// `y[t, at..at + width] += c * h[t, r] . b[r, width]`.
    pub(crate) fn up(h: &[f32], b: &[f32], width: usize, c: f32, y: &mut [f32], stride: usize, at: usize) {
        let rank = b.len() / width;
        for (y, h) in y.chunks_exact_mut(stride).zip(h.chunks_exact(rank)) {
            let y = &mut y[at..at + width];
            for (h, b) in h.iter().zip(b.chunks_exact(width)) {
                axpy(c * h, b, y);
            }
        }
    }
}

vectorised! {
    /// `out[r, width] += c * sum over t of u[t, r] * x[t, at..at + width]`, in ascending `t`.
    pub(crate) fn outer(u: &[f32], rank: usize, x: &[f32], stride: usize, at: usize, width: usize, c: f32, out: &mut [f32]) {
        const BLOCK: usize = 64;
        const RANKS: usize = 4;
        for from in (0..width).step_by(BLOCK) {
            let columns = BLOCK.min(width - from);
            for first in (0..rank).step_by(RANKS) {
                let ranks = RANKS.min(rank - first);
                if columns == BLOCK && ranks == RANKS {
                    let mut acc = [[0f32; BLOCK]; RANKS];
                    for (x, u) in x.chunks_exact(stride).zip(u.chunks_exact(rank)) {
                        let x: &[f32; BLOCK] = x[at + from..at + from + BLOCK].try_into().expect("invariant: a full block");
                        for (acc, u) in acc.iter_mut().zip(&u[first..first + RANKS]) {
                            for i in 0..BLOCK {
                                acc[i] += u * x[i];
                            }
                        }
                    }
                    for (r, acc) in acc.iter().enumerate() {
                        axpy(c, acc, &mut out[(first + r) * width + from..][..BLOCK]);
                    }
                } else if columns == BLOCK {
                    for r in first..first + ranks {
                        let mut acc = [0f32; BLOCK];
                        for (x, u) in x.chunks_exact(stride).zip(u.chunks_exact(rank)) {
                            let x: &[f32; BLOCK] = x[at + from..at + from + BLOCK].try_into().expect("invariant: a full block");
                            for i in 0..BLOCK {
                                acc[i] += u[r] * x[i];
                            }
                        }
                        axpy(c, &acc, &mut out[r * width + from..][..BLOCK]);
                    }
                } else {
                    for r in first..first + ranks {
                        let mut acc = [0f32; BLOCK];
                        for (x, u) in x.chunks_exact(stride).zip(u.chunks_exact(rank)) {
                            axpy(u[r], &x[at + from..at + from + columns], &mut acc[..columns]);
                        }
                        axpy(c, &acc[..columns], &mut out[r * width + from..][..columns]);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_products_match_plain_loops_for_every_rank_and_odd_widths() {
        for rank in [1, 2, 3, 4, 5, 8, 17] {
            for width in [1, 7, 64, 100, 130] {
                let (t, stride, at) = (5, width + 9, 4);
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
