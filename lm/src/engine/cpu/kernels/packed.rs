//! Frozen matrices, packed once at load into the layout that the product wants, and the product itself.
//!
//! A matrix `W: [k, n]` is stored as panels of 32 columns, each panel `[k][32]` (f32) or `[k / 2][32]` pairs (bf16), so
//! the inner loop reads it in one forward stream and no call packs, transposes or copies it.
#![expect(unsafe_code, reason = "hands raw extents to the register tiles after checking them")]

use std::ops::Range;
use std::time::Instant;

use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::amx;
use super::{
    SimdLevel, executed, simd_level,
    tiles::{PANEL, Run, Tile, f32_tiles},
};

/// How frozen weights and the other operand of their products are held. Accumulation is f32 either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Reference precision.
    F32,
    /// bf16 operands. Needs a CPU with AVX512-BF16.
    Bf16,
}

impl Precision {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::F32, Self::Bf16];

    /// The name in `--precision`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// Whether this CPU, at the level in force, has the instructions for it.
    pub fn runs_here(self) -> bool {
        self == Self::F32 || simd_level() >= SimdLevel::Avx512Bf16
    }

    /// bf16 where its products are faster than f32's: by AMX tiles, and by dot products except on Intel's CPUs: the one that was
    /// measured, a Xeon of family 6, model 207, starts four f32 multiply-adds in the time of one of them (PERFORMANCE.md).
    pub fn fastest() -> Self {
        match simd_level() {
            SimdLevel::Amx => Self::Bf16,
            SimdLevel::Avx512Bf16 if !super::is_intel() => Self::Bf16,
            _ => Self::F32,
        }
    }
}

/// Depth of one pass over a panel: keeps a block of a panel within the second-level cache.
const DEPTH_BLOCK: usize = 2048;

#[derive(Debug)]
enum Panels {
    F32(Vec<f32>),
    /// Pairs of consecutive `k` in one word, the lower `k` in the low half.
    Bf16(Vec<u32>),
}

/// A frozen `[k, n]` matrix in panels.
#[derive(Debug)]
pub struct PackedMatrix {
    k: usize,
    n: usize,
    panels: Panels,
}

/// One panel that is being filled.
enum Put<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [u32]),
}

impl Put<'_> {
    #[inline]
    fn set(&mut self, row: usize, column: usize, x: f32) {
        match self {
            Self::F32(panel) => panel[row * PANEL + column] = x,
            Self::Bf16(panel) => panel[row / 2 * PANEL + column] |= bf16_bits(x) << (16 * (row % 2)),
        }
    }
}

/// Rounds to the nearest bf16, ties to even (NaN stays NaN).
#[inline]
pub(crate) fn bf16_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    if x.is_nan() { (bits >> 16) | 0x40 } else { rounded }
}

#[cfg(target_arch = "x86_64")]
super::vectorised! {
    /// Rounds `x: [m, k]` to bf16 pairs `[m, k.div_ceil(2)]`.
    fn to_pairs(x: &[f32], k: usize, out: &mut [u32]) {
        let pairs = k.div_ceil(2);
        for (x, out) in x.chunks_exact(k).zip(out.chunks_exact_mut(pairs)) {
            let (even, tail) = x.as_chunks::<2>();
            for ([a, b], out) in even.iter().zip(out.iter_mut()) {
                *out = bf16_bits(*a) | (bf16_bits(*b) << 16);
            }
            if let [last] = tail {
                out[pairs - 1] = bf16_bits(*last);
            }
        }
    }
}

impl PackedMatrix {
    /// Zeros, to be filled by [`PackedMatrix::set_columns`] or [`PackedMatrix::set_rows`], each element once.
    pub(crate) fn blank(k: usize, n: usize, precision: Precision) -> Self {
        let panels = n.div_ceil(PANEL);
        let panels = match precision {
            Precision::F32 => Panels::F32(vec![0f32; panels * k * PANEL]),
            Precision::Bf16 => Panels::Bf16(vec![0u32; panels * k.div_ceil(2) * PANEL]),
        };
        Self { k, n, panels }
    }

    /// Fills the columns from `at` on, each `k` numbers of `columns`.
    pub(crate) fn set_columns(&mut self, at: usize, columns: &[f32]) {
        let (k, end) = (self.k, at + columns.len() / self.k);
        assert!(end <= self.n && columns.len().is_multiple_of(k), "columns of another matrix");
        let put = |(p, mut set): (usize, Put<'_>)| {
            for n in (p * PANEL).max(at)..((p + 1) * PANEL).min(end) {
                for (row, x) in columns[(n - at) * k..][..k].iter().enumerate() {
                    set.set(row, n - p * PANEL, *x);
                }
            }
        };
        self.each_panel(at / PANEL..end.div_ceil(PANEL), put);
    }

    /// Fills the rows from `at` on, each `n` numbers of `rows`.
    pub(crate) fn set_rows(&mut self, at: usize, rows: &[f32]) {
        let n = self.n;
        assert!(at + rows.len() / n <= self.k && rows.len().is_multiple_of(n), "rows of another matrix");
        let put = |(p, mut set): (usize, Put<'_>)| {
            let columns = p * PANEL..((p + 1) * PANEL).min(n);
            for (row, values) in rows.chunks_exact(n).enumerate() {
                for (column, x) in values[columns.clone()].iter().enumerate() {
                    set.set(at + row, column, *x);
                }
            }
        };
        self.each_panel(0..n.div_ceil(PANEL), put);
    }

    fn each_panel(&mut self, range: Range<usize>, put: impl Fn((usize, Put<'_>)) + Sync) {
        let (first, k) = (range.start, self.k);
        match &mut self.panels {
            Panels::F32(data) => data[range.start * k * PANEL..range.end * k * PANEL]
                .par_chunks_exact_mut(k * PANEL)
                .enumerate()
                .for_each(|(p, panel)| put((first + p, Put::F32(panel)))),
            Panels::Bf16(data) => {
                let size = k.div_ceil(2) * PANEL;
                data[range.start * size..range.end * size]
                    .par_chunks_exact_mut(size)
                    .enumerate()
                    .for_each(|(p, panel)| put((first + p, Put::Bf16(panel))));
            }
        }
    }

    /// Packs the matrix whose element `(row, column)` is `at(row, column)`.
    pub fn pack(k: usize, n: usize, precision: Precision, at: impl Fn(usize, usize) -> f32) -> Self {
        let columns: Vec<f32> =
            (0..n).flat_map(|c| (0..k).map(move |r| (r, c))).map(|(r, c)| at(r, c)).collect();
        let mut out = Self::blank(k, n, precision);
        out.set_columns(0, &columns);
        out
    }

    /// Numbers of a left operand's row.
    pub(crate) fn depth(&self) -> usize {
        self.k
    }

    /// Numbers of a result's row.
    pub(crate) fn width(&self) -> usize {
        self.n
    }

    /// `out = x . W` (or `out += x . W`), `x: [m, k]`, `out: [m, n]`, both dense. Runs on the calling thread.
    ///
    /// # Panics
    /// If the operands do not have these sizes, or bf16 panels meet a CPU without AVX512-BF16.
    pub fn product(&self, x: &[f32], out: &mut [f32], accumulate: bool) {
        let m = x.len() / self.k;
        assert_eq!(x.len(), m * self.k, "left operand is not [m, {}]", self.k);
        assert_eq!(out.len(), m * self.n, "output is not [{m}, {}]", self.n);
        if m == 0 {
            return;
        }
        executed(2 * m * self.k * self.n);
        match &self.panels {
            Panels::F32(data) => {
                // SAFETY: the extents were asserted above and the panel length is fixed by `pack`.
                unsafe { sweep(x, m, self.k, data, self.n, out, accumulate, f32_tiles()) };
            }
            #[cfg(target_arch = "x86_64")]
            Panels::Bf16(data) => {
                let level = simd_level();
                assert!(level >= SimdLevel::Avx512Bf16, "bf16 weights need AVX512-BF16");
                let pairs = self.k.div_ceil(2);
                let tiled = level == SimdLevel::Amx && pairs.is_multiple_of(amx::PAIRS);
                let mut all = vec![0u32; if tiled { amx::padded(m) } else { m } * pairs];
                let left = &mut all[..m * pairs];
                if self.k.is_multiple_of(32) {
                    // SAFETY: the CPU feature was just asserted; both sides hold `m * k` values, a multiple of 32.
                    unsafe { super::tiles::to_bf16(x, left) };
                } else {
                    to_pairs(x, self.k, left);
                }
                if tiled {
                    return amx::product(&all, m, pairs, data, self.n, out, accumulate);
                }
                let run: &[Run<u32, u32>] = super::tiles::bf16_tiles();
                // SAFETY: as above, with pairs as the depth; the CPU feature was just asserted.
                unsafe { sweep(left, m, pairs, data, self.n, out, accumulate, run) };
            }
            #[cfg(not(target_arch = "x86_64"))]
            Panels::Bf16(_) => unreachable!("bf16 weights are packed only where the CPU multiplies them"),
        }
    }
}

/// Measures for about a tenth of a second how fast this machine multiplies a training step's activations (256 rows a core) by
/// frozen weights: the best over some shapes of a small decoder, in floating-point operations a second on all cores.
pub fn product_rate(precision: Precision) -> f64 {
    const ROWS: usize = 256;
    const ROUNDS: usize = 12;
    let threads = rayon::current_num_threads();
    let rate = |(k, n): (usize, usize)| {
        let packed = PackedMatrix::pack(k, n, precision, |r, c| ((r * 31 + c * 17) % 101) as f32 * 0.01);
        let round = || {
            (0..threads).into_par_iter().for_each(|_| {
                let (x, mut out) = (vec![0.5f32; ROWS * k], vec![0f32; ROWS * n]);
                for _ in 0..ROUNDS {
                    packed.product(&x, &mut out, false);
                }
            });
        };
        round();
        let begin = Instant::now();
        round();
        (2 * threads * ROUNDS * ROWS * k * n) as f64 / begin.elapsed().as_secs_f64()
    };
    [(576, 3072), (1536, 576), (576, 1536), (3072, 576)].map(rate).into_iter().fold(0.0, f64::max)
}

/// Runs the tiles over all panels, depth blocks and rows. `run[h - 1]` computes `h` rows.
///
/// # Safety
/// `x` is `[m, depth]`, `panels` is `n.div_ceil(32)` panels of `depth * 32`, `out` is `[m, n]`, and the CPU can run `run`.
unsafe fn sweep<A, B>(
    x: &[A],
    m: usize,
    depth: usize,
    panels: &[B],
    n: usize,
    out: &mut [f32],
    accumulate: bool,
    run: &[Run<A, B>],
) {
    let tiles = m.div_ceil(run.len());
    for from in (0..depth).step_by(DEPTH_BLOCK) {
        let k = DEPTH_BLOCK.min(depth - from);
        for (p, panel) in panels.chunks_exact(depth * PANEL).enumerate() {
            for tile in 0..tiles {
                // Rows are dealt evenly, so no tile is so low that it waits for its own sums.
                let (row, end) = (tile * m / tiles, (tile + 1) * m / tiles);
                let tile = Tile {
                    a: x[row * depth + from..].as_ptr(),
                    lda: depth,
                    a_step: 1,
                    b: panel[from * PANEL..].as_ptr(),
                    ldb: PANEL,
                    k,
                    c: out[row * n + p * PANEL..].as_mut_ptr(),
                    ldc: n,
                    columns: PANEL.min(n - p * PANEL),
                    accumulate: accumulate || from > 0,
                    // Each tile fetches an eighth of the next panel.
                    ahead: panel.as_ptr().wrapping_add((depth + from) * PANEL + tile % 8 * k * PANEL / 8),
                };
                // SAFETY: the rows exist, the panel has `depth` rows from `from`, the columns exist.
                unsafe { run[end - row - 1](&tile) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    }

    fn reference(x: &[f32], w: &[f32], m: usize, k: usize, n: usize, round: bool) -> Vec<f64> {
        let r = |v: f32| if round { f32::from_bits(bf16_bits(v) << 16) } else { v } as f64;
        let mut out = vec![0f64; m * n];
        for i in 0..m {
            for j in 0..n {
                out[i * n + j] = (0..k).map(|l| r(x[i * k + l]) * r(w[l * n + j])).sum();
            }
        }
        out
    }

    #[test]
    fn products_match_a_plain_loop_over_odd_shapes() {
        let mut precisions = vec![Precision::F32];
        if Precision::Bf16.runs_here() {
            precisions.push(Precision::Bf16);
        }
        for precision in precisions {
            for (m, k, n) in [(1, 1, 1), (2, 3, 5), (13, 64, 33), (25, 65, 96), (7, 4097, 31), (37, 576, 40)]
            {
                let (x, w) = (values(m * k, 1), values(k * n, 2));
                let packed = PackedMatrix::pack(k, n, precision, |r, c| w[r * n + c]);
                let mut out = vec![1f32; m * n];
                packed.product(&x, &mut out, false);
                let expected = reference(&x, &w, m, k, n, precision == Precision::Bf16);
                for (a, e) in out.iter().zip(&expected) {
                    assert!(
                        (*a as f64 - e).abs() < 1e-5 * (k as f64).sqrt().max(1.0) * 4.0,
                        "{m}x{k}x{n}: {a} {e}"
                    );
                }
                let once = out.clone();
                packed.product(&x, &mut out, true);
                for (a, b) in out.iter().zip(&once) {
                    assert!((a - 2.0 * b).abs() <= 1e-4 * b.abs().max(1.0));
                }
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_its_neighbours() {
        let (k, n) = (100, 70);
        let w = values(k * n, 3);
        let packed = PackedMatrix::pack(k, n, Precision::fastest(), |r, c| w[r * n + c]);
        let x = values(29 * k, 4);
        let mut together = vec![0f32; 29 * n];
        packed.product(&x, &mut together, false);
        for row in 0..29 {
            let mut alone = vec![0f32; n];
            packed.product(&x[row * k..(row + 1) * k], &mut alone, false);
            assert_eq!(alone, together[row * n..(row + 1) * n]);
        }
    }
}
