//! Elementwise passes of a decoder layer with their hand-derived backward, in f32.
//!
//! Sums run in sixteen lanes combined in a fixed order, so results do not depend on anything but the row itself.

use super::vectorised;

/// Lanes of a sum.
pub(crate) const LANES: usize = 16;

/// e^x to about 2e-7 relative, without branches so that it vectorises. Underflows to 0, saturates near f32's maximum.
#[inline(always)]
#[expect(
    clippy::excessive_precision,
    reason = "the constants are written as they are published (Cephes expf)"
)]
pub(crate) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer
    let x = x.clamp(-87.0, 88.0);
    let n = (x * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = x - n * 0.693_359_375 + n * 2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 5.000_000_1e-1;
    let e = p * r * r + r + 1.0;
    e * f32::from_bits((((n as i32) + 127) << 23) as u32)
}

/// tanh to about 3e-7, from [`exp`].
#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled for the caller's instructions")]
pub(crate) fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (1.0 + exp(2.0 * x))
}

/// `a * b + c`, in one instruction where there is one (elsewhere `mul_add` would call a function for every number).
#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled for the caller's instructions")]
pub(crate) fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// Sum of products in a fixed order, for a few vectors' worth of numbers (a head's dimensions).
#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled for the caller's instructions")]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    dot_after([0f32; LANES], a, b)
}

/// [`dot`] for long rows: four vectors at a time hide the latency of the sums.
#[inline(always)]
pub(crate) fn dot_long(a: &[f32], b: &[f32]) -> f32 {
    const WIDE: usize = 4 * LANES;
    let (a_wide, a) = a.as_chunks::<WIDE>();
    let (b_wide, b) = b.as_chunks::<WIDE>();
    let mut sums = [0f32; WIDE];
    for (a, b) in a_wide.iter().zip(b_wide) {
        for i in 0..WIDE {
            sums[i] += a[i] * b[i];
        }
    }
    let mut acc = [0f32; LANES];
    for i in 0..LANES {
        acc[i] = (sums[i] + sums[i + LANES]) + (sums[i + 2 * LANES] + sums[i + 3 * LANES]);
    }
    dot_after(acc, a, b)
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled for the caller's instructions")]
fn dot_after(mut acc: [f32; LANES], a: &[f32], b: &[f32]) -> f32 {
    let (a_lanes, a_tail) = a.as_chunks::<LANES>();
    let (b_lanes, b_tail) = b.as_chunks::<LANES>();
    for (a, b) in a_lanes.iter().zip(b_lanes) {
        for i in 0..LANES {
            acc[i] += a[i] * b[i];
        }
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            acc[i] += acc[i + width];
        }
        width /= 2;
    }
    acc[0] + a_tail.iter().zip(b_tail).map(|(a, b)| a * b).sum::<f32>()
}

/// `y += c * x`.
#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled for the caller's instructions")]
pub(crate) fn axpy(c: f32, x: &[f32], y: &mut [f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += c * x;
    }
}

vectorised! {
    /// RMSNorm of each row of `x: [t, d]`: `out = x * rho * gamma`, `rho = 1 / sqrt(mean(x^2) + eps)`.
    pub(crate) fn rms_norm(x: &[f32], gamma: &[f32], eps: f32, out: &mut [f32]) {
        let d = gamma.len();
        for (x, out) in x.chunks_exact(d).zip(out.chunks_exact_mut(d)) {
            let rho = 1.0 / (dot_long(x, x) / d as f32 + eps).sqrt();
            for i in 0..d {
                out[i] = x[i] * rho * gamma[i];
            }
        }
    }
}

vectorised! {
    /// Adds the input gradient of RMSNorm to `dx`: with `q = g * gamma`, `dx += rho * q - x * (rho^3 / d) * sum(q * x)`.
    pub(crate) fn rms_norm_backward(x: &[f32], gamma: &[f32], eps: f32, g: &[f32], dx: &mut [f32]) {
        let d = gamma.len();
        let mut q = vec![0f32; d];
        for ((x, g), dx) in x.chunks_exact(d).zip(g.chunks_exact(d)).zip(dx.chunks_exact_mut(d)) {
            let rho = 1.0 / (dot_long(x, x) / d as f32 + eps).sqrt();
            for i in 0..d {
                q[i] = g[i] * gamma[i];
            }
            let c = rho * rho * rho / d as f32 * dot_long(&q, x);
            for i in 0..d {
                dx[i] += rho * q[i] - x[i] * c;
            }
        }
    }
}

vectorised! {
    /// RMSNorm in place of the columns `at..at + width` of each row of `x` (rows `stride` apart), in groups as wide as `gamma`.
    pub(crate) fn rms_norm_columns(x: &mut [f32], stride: usize, at: usize, width: usize, gamma: &[f32], eps: f32) {
        let d = gamma.len();
        for row in x.chunks_exact_mut(stride) {
            for x in row[at..at + width].chunks_exact_mut(d) {
                let rho = 1.0 / (dot_long(x, x) / d as f32 + eps).sqrt();
                for i in 0..d {
                    x[i] *= rho * gamma[i];
                }
            }
        }
    }
}

vectorised! {
    /// Backward of [`rms_norm_columns`]: turns the gradient `g` of the normed columns into that of `x`, in place.
    pub(crate) fn rms_norm_columns_backward(x: &[f32], stride: usize, at: usize, width: usize, gamma: &[f32], eps: f32, g: &mut [f32]) {
        let d = gamma.len();
        for (x, g) in x.chunks_exact(stride).zip(g.chunks_exact_mut(stride)) {
            for (x, g) in x[at..at + width].chunks_exact(d).zip(g[at..at + width].chunks_exact_mut(d)) {
                let rho = 1.0 / (dot_long(x, x) / d as f32 + eps).sqrt();
                for i in 0..d {
                    g[i] *= gamma[i];
                }
                let c = rho * rho * rho / d as f32 * dot_long(g, x);
                for i in 0..d {
                    g[i] = rho * g[i] - x[i] * c;
                }
            }
        }
    }
}

vectorised! {
    /// Caps a row of logits in place, `cap * tanh(z / cap)`.
    pub(crate) fn soft_cap(z: &mut [f32], cap: f32) {
        for z in z {
            *z = cap * tanh(*z / cap);
        }
    }
}

vectorised! {
    /// The gradient `g` of capped logits as that of the logits: times `1 - (capped / cap)^2`.
    pub(crate) fn soft_cap_backward(capped: &[f32], cap: f32, g: &mut [f32]) {
        for (g, z) in g.iter_mut().zip(capped) {
            let t = z / cap;
            *g *= 1.0 - t * t;
        }
    }
}

vectorised! {
    /// Adds a vector to every row of `x`, rows as wide as it.
    pub(crate) fn add_to_rows(v: &[f32], x: &mut [f32]) {
        for row in x.chunks_exact_mut(v.len()) {
            axpy(1.0, v, row);
        }
    }
}

vectorised! {
    /// SwiGLU of rows `[gate | up]` of width `2 f`: `out = silu(gate) * up`.
    pub(crate) fn swiglu(gate_up: &[f32], f: usize, out: &mut [f32]) {
        for (gu, out) in gate_up.chunks_exact(2 * f).zip(out.chunks_exact_mut(f)) {
            let (gate, up) = gu.split_at(f);
            for i in 0..f {
                let sigma = 1.0 / (1.0 + exp(-gate[i]));
                out[i] = gate[i] * sigma * up[i];
            }
        }
    }
}

vectorised! {
    /// [`swiglu`] once more, for its backward: overwrites `gate_up` with the output's derivatives by gate and by up.
    pub(crate) fn swiglu_derivatives(gate_up: &mut [f32], f: usize, out: &mut [f32]) {
        for (gu, out) in gate_up.chunks_exact_mut(2 * f).zip(out.chunks_exact_mut(f)) {
            let (gate, up) = gu.split_at_mut(f);
            for i in 0..f {
                let sigma = 1.0 / (1.0 + exp(-gate[i]));
                let silu = gate[i] * sigma;
                out[i] = silu * up[i];
                gate[i] = up[i] * sigma * (1.0 + gate[i] * (1.0 - sigma));
                up[i] = silu;
            }
        }
    }
}

/// GELU by its tanh approximation (arXiv 1606.08415, section 2), and its derivative.
#[inline(always)]
fn gelu(x: f32) -> (f32, f32) {
    const C: f32 = 0.797_884_6; // sqrt(2 / pi)
    const K: f32 = 0.044_715;
    let square = x * x;
    let t = tanh(C * x * (1.0 + K * square));
    let half = 0.5 * (1.0 + t);
    (x * half, half + 0.5 * x * (1.0 - t * t) * C * (1.0 + 3.0 * K * square))
}

vectorised! {
    /// [`swiglu`] with GELU for the gate.
    pub(crate) fn geglu(gate_up: &[f32], f: usize, out: &mut [f32]) {
        for (gu, out) in gate_up.chunks_exact(2 * f).zip(out.chunks_exact_mut(f)) {
            let (gate, up) = gu.split_at(f);
            for i in 0..f {
                out[i] = gelu(gate[i]).0 * up[i];
            }
        }
    }
}

vectorised! {
    /// [`swiglu_derivatives`] with GELU for the gate.
    pub(crate) fn geglu_derivatives(gate_up: &mut [f32], f: usize, out: &mut [f32]) {
        for (gu, out) in gate_up.chunks_exact_mut(2 * f).zip(out.chunks_exact_mut(f)) {
            let (gate, up) = gu.split_at_mut(f);
            for i in 0..f {
                let (value, slope) = gelu(gate[i]);
                out[i] = value * up[i];
                gate[i] = up[i] * slope;
                up[i] = value;
            }
        }
    }
}

vectorised! {
    /// Turns [`swiglu_derivatives`] into gradients, given the output's gradient `g: [t, f]`.
    pub(crate) fn swiglu_chain(derivatives: &mut [f32], f: usize, g: &[f32]) {
        for (d, g) in derivatives.chunks_exact_mut(2 * f).zip(g.chunks_exact(f)) {
            let (gate, up) = d.split_at_mut(f);
            for i in 0..f {
                gate[i] *= g[i];
                up[i] *= g[i];
            }
        }
    }
}

vectorised! {
    /// Rotates each head of each row of `x` (rows `stride` apart, `heads` heads of width `2 * half`) by its row's
    /// angles (`cos` and `sin`: `[t, half]`), in half-split pairs as Hugging Face checkpoints expect. `sign = -1` is the backward.
    pub(crate) fn rope(x: &mut [f32], stride: usize, heads: usize, half: usize, cos: &[f32], sin: &[f32], sign: f32) {
        for (row, (cos, sin)) in x.chunks_exact_mut(stride).zip(cos.chunks_exact(half).zip(sin.chunks_exact(half))) {
            for head in row[..heads * 2 * half].chunks_exact_mut(2 * half) {
                let (first, second) = head.split_at_mut(half);
                for i in 0..half {
                    let (a, b, s) = (first[i], second[i], sign * sin[i]);
                    first[i] = a * cos[i] - b * s;
                    second[i] = b * cos[i] + a * s;
                }
            }
        }
    }
}

/// Turns scores into `exp(score - max)` in place and returns `(max, sum)`. Empty input gives `(-inf, 0)`.
#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled for the caller's instructions")]
pub(crate) fn exp_in_place(scores: &mut [f32]) -> (f32, f32) {
    let (lanes, tail) = scores.as_chunks::<LANES>();
    let mut top = [f32::NEG_INFINITY; LANES];
    for chunk in lanes {
        for i in 0..LANES {
            top[i] = if chunk[i] > top[i] { chunk[i] } else { top[i] };
        }
    }
    let max = top.iter().chain(tail).fold(f32::NEG_INFINITY, |m, &v| if v > m { v } else { m });
    let mut sums = [0f32; LANES];
    let (lanes, tail) = scores.as_chunks_mut::<LANES>();
    for chunk in lanes {
        for i in 0..LANES {
            let e = exp(chunk[i] - max);
            chunk[i] = e;
            sums[i] += e;
        }
    }
    let mut sum: f32 = sums.iter().sum();
    for v in tail {
        *v = exp(*v - max);
        sum += *v;
    }
    (max, sum)
}

vectorised! {
    /// [`exp_in_place`] of a whole row of logits.
    pub(crate) fn exp_scores(scores: &mut [f32]) -> (f32, f32) {
        exp_in_place(scores)
    }
}

vectorised! {
    /// `y += x`.
    pub(crate) fn add(x: &[f32], y: &mut [f32]) {
        axpy(1.0, x, y);
    }
}

vectorised! {
    /// `y *= c`.
    pub(crate) fn scale(c: f32, y: &mut [f32]) {
        for y in y {
            *y *= c;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate_over_its_range() {
        let mut worst = 0f64;
        for i in -8700..8800 {
            let x = i as f32 / 100.0;
            let e = (exp(x) as f64 / (x as f64).exp() - 1.0).abs();
            worst = worst.max(e);
        }
        assert!(worst < 4e-7, "{worst}");
    }

    #[test]
    fn rope_backward_undoes_rope() {
        let original: Vec<f32> = (0..32).map(|i| (i as f32 * 0.7).sin()).collect();
        let angles: Vec<f32> = (0..8).map(|i| i as f32 * 0.3).collect();
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|a| (a.cos(), a.sin())).unzip();
        let mut x = original.clone();
        rope(&mut x, 16, 2, 4, &cos, &sin, 1.0);
        assert_ne!(x, original);
        rope(&mut x, 16, 2, 4, &cos, &sin, -1.0);
        for (a, b) in x.iter().zip(&original) {
            assert!((a - b).abs() < 1e-6);
        }
    }

    #[test]
    fn norm_and_swiglu_gradients_match_finite_differences() {
        let d = 24;
        let x: Vec<f32> = (0..2 * d).map(|i| (i as f32 * 1.3).sin() + 0.2).collect();
        let gamma: Vec<f32> = (0..d).map(|i| 1.0 + 0.1 * (i as f32).cos()).collect();
        let g: Vec<f32> = (0..2 * d).map(|i| (i as f32 * 0.9).cos()).collect();
        let value = |x: &[f32]| {
            let mut out = vec![0f32; x.len()];
            rms_norm(x, &gamma, 1e-5, &mut out);
            out.iter().zip(&g).map(|(a, b)| (*a as f64) * (*b as f64)).sum::<f64>()
        };
        let mut dx = vec![0f32; 2 * d];
        rms_norm_backward(&x, &gamma, 1e-5, &g, &mut dx);
        for i in 0..2 * d {
            let (mut hi, mut lo) = (x.clone(), x.clone());
            hi[i] += 1e-2;
            lo[i] -= 1e-2;
            let numeric = (value(&hi) - value(&lo)) / 2e-2;
            assert!((numeric - dx[i] as f64).abs() < 2e-3, "{numeric} {}", dx[i]);
        }
        let (heads, stride, at) = (3, 20, 1);
        let wide: Vec<f32> = (0..2 * stride).map(|i| (i as f32 * 0.7).sin() + 0.1).collect();
        let small = &gamma[..6];
        let value = |x: &[f32]| {
            let mut out = x.to_vec();
            rms_norm_columns(&mut out, stride, at, heads * 6, small, 1e-5);
            out.iter().zip(&g).map(|(a, b)| (*a as f64) * (*b as f64)).sum::<f64>()
        };
        let mut d_wide = g[..2 * stride].to_vec();
        rms_norm_columns_backward(&wide, stride, at, heads * 6, small, 1e-5, &mut d_wide);
        for i in 0..2 * stride {
            let (mut hi, mut lo) = (wide.clone(), wide.clone());
            hi[i] += 1e-2;
            lo[i] -= 1e-2;
            let numeric = (value(&hi) - value(&lo)) / 2e-2;
            assert!((numeric - d_wide[i] as f64).abs() < 2e-3, "{i}: {numeric} {}", d_wide[i]);
        }
        for cap in [0.5f32, 30.0] {
            let capped = |z: &[f32]| {
                let mut z = z.to_vec();
                soft_cap(&mut z, cap);
                z
            };
            let value =
                |z: &[f32]| capped(z).iter().zip(&g).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
            let mut d = g[..stride].to_vec();
            soft_cap_backward(&capped(&wide[..stride]), cap, &mut d);
            for i in 0..stride {
                let (mut hi, mut lo) = (wide[..stride].to_vec(), wide[..stride].to_vec());
                hi[i] += 1e-2;
                lo[i] -= 1e-2;
                let numeric = (value(&hi) - value(&lo)) / 2e-2;
                assert!((numeric - d[i] as f64).abs() < 2e-3, "{i}: {numeric} {}", d[i]);
            }
        }
        gates(&g, swiglu, swiglu_derivatives);
        gates(&g, geglu, geglu_derivatives);
    }

    fn gates(g: &[f32], gate: fn(&[f32], usize, &mut [f32]), derivatives: fn(&mut [f32], usize, &mut [f32])) {
        let f = 16;
        let gu: Vec<f32> = (0..2 * f).map(|i| (i as f32 * 0.8).sin() * 2.0).collect();
        let value = |gu: &[f32]| {
            let mut out = vec![0f32; f];
            gate(gu, f, &mut out);
            out.iter().zip(g).map(|(a, b)| (*a as f64) * (*b as f64)).sum::<f64>()
        };
        let mut d_gu = gu.clone();
        let mut again = vec![0f32; f];
        derivatives(&mut d_gu, f, &mut again);
        swiglu_chain(&mut d_gu, f, &g[..f]);
        let mut out = vec![0f32; f];
        gate(&gu, f, &mut out);
        assert_eq!(out, again);
        for i in 0..2 * f {
            let (mut hi, mut lo) = (gu.clone(), gu.clone());
            hi[i] += 1e-2;
            lo[i] -= 1e-2;
            let numeric = (value(&hi) - value(&lo)) / 2e-2;
            assert!((numeric - d_gu[i] as f64).abs() < 2e-3, "{numeric} {}", d_gu[i]);
        }
    }
}
