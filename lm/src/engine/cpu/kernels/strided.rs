//! Products of small f32 matrices where they lie, by register tiles.
#![expect(unsafe_code, reason = "hands raw extents to the register tiles after checking them")]

use super::elementwise::dot_long;
use super::tiles::{PANEL, Tile, f32_tiles};
use super::vectorised;

/// A matrix within a larger slice: element `(i, j)` is `data[i * row + j * column]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Strided<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) row: usize,
    pub(crate) column: usize,
}

/// `[m, depth] . [depth, n]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) m: usize,
    pub(crate) depth: usize,
    pub(crate) n: usize,
}

/// `out[i, j] += sum over k of x[i, k] * w[k, j]`, `k` ascending. Rows of `w` and of `out` are dense, `ldw` and `ldc` apart.
pub(crate) fn add_product(x: Strided<'_>, shape: Shape, w: &[f32], ldw: usize, out: &mut [f32], ldc: usize) {
    multiply(x, shape, w, ldw, out, ldc, true);
}

/// [`add_product`], overwriting.
pub(crate) fn product(x: Strided<'_>, shape: Shape, w: &[f32], ldw: usize, out: &mut [f32], ldc: usize) {
    multiply(x, shape, w, ldw, out, ldc, false);
}

fn multiply(
    x: Strided<'_>,
    Shape { m, depth, n }: Shape,
    w: &[f32],
    ldw: usize,
    out: &mut [f32],
    ldc: usize,
    accumulate: bool,
) {
    assert!(depth > 0, "a product without depth");
    if m == 0 || n == 0 {
        return;
    }
    assert!(x.data.len() > (m - 1) * x.row + (depth - 1) * x.column, "left operand is not [{m}, {depth}]");
    assert!(w.len() >= (depth - 1) * ldw + n, "right operand is not [{depth}, {n}]");
    assert!(out.len() >= (m - 1) * ldc + n, "output is not [{m}, {n}]");
    let run = f32_tiles();
    let tiles = m.div_ceil(run.len());
    // Tiles read whole panels: a narrower one is copied.
    let whole = n / PANEL * PANEL;
    let mut last = vec![0f32; if whole < n { depth * PANEL } else { 0 }];
    for (row, last) in last.chunks_exact_mut(PANEL).enumerate() {
        last[..n - whole].copy_from_slice(&w[row * ldw + whole..row * ldw + n]);
    }
    for at in (0..n).step_by(PANEL) {
        let (b, ldb) = if at < whole { (&w[at..], ldw) } else { (&last[..], PANEL) };
        for tile in 0..tiles {
            let (row, end) = (tile * m / tiles, (tile + 1) * m / tiles);
            let tile = Tile {
                a: x.data[row * x.row..].as_ptr(),
                lda: x.row,
                a_step: x.column,
                b: b.as_ptr(),
                ldb,
                k: depth,
                c: out[row * ldc + at..].as_mut_ptr(),
                ldc,
                columns: PANEL.min(n - at),
                accumulate,
                ahead: w[(at + PANEL).min(whole.max(1) - 1)..].as_ptr(),
            };
            // SAFETY: the extents were asserted above; the last panel was filled up.
            unsafe { run[end - row - 1](&tile) };
        }
    }
}

/// Rows `0..count` of `data`, `stride` apart, of which `width` columns from `at` are meant.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) stride: usize,
    pub(crate) at: usize,
    pub(crate) width: usize,
    pub(crate) count: usize,
}

impl Rows<'_> {
    fn row(&self, i: usize) -> &[f32] {
        &self.data[i * self.stride + self.at..][..self.width]
    }
}

/// `out[i, j] = x[i] . a[j]`, `out: [x.count, a.count]`. A result does not depend on the other rows.
pub(crate) fn dot_products(x: Rows<'_>, a: Rows<'_>, out: &mut [f32]) {
    assert_eq!((x.width, out.len()), (a.width, x.count * a.count), "dot products of other shapes");
    #[cfg(target_arch = "x86_64")]
    if super::simd_level() >= super::SimdLevel::Avx512 {
        return wide_dots(x, a, out);
    }
    plain_dots(x, a, out);
}

vectorised! {
    fn plain_dots(x: Rows<'_>, a: Rows<'_>, out: &mut [f32]) {
        for (i, out) in out.chunks_exact_mut(a.count.max(1)).enumerate() {
            for (j, out) in out.iter_mut().enumerate() {
                *out = dot_long(x.row(i), a.row(j));
            }
        }
    }
}

/// Four by four where there are as many, else eight rows by one, else one by one.
#[cfg(target_arch = "x86_64")]
fn wide_dots(x: Rows<'_>, a: Rows<'_>, out: &mut [f32]) {
    if x.count == 0 || a.count == 0 || x.width == 0 {
        return out.fill(0.0);
    }
    // Both last rows exist, so all do.
    let _ = (x.row(x.count - 1), a.row(a.count - 1));
    let mut block = |i: usize, j: usize, run: super::tiles::Run<f32, f32>| {
        let tile = Tile {
            a: x.data[i * x.stride + x.at..].as_ptr(),
            lda: x.stride,
            a_step: 1,
            b: a.data[j * a.stride + a.at..].as_ptr(),
            ldb: a.stride,
            k: x.width,
            c: out[i * a.count + j..].as_mut_ptr(),
            ldc: a.count,
            columns: 0,
            accumulate: false,
            ahead: std::ptr::null(),
        };
        // SAFETY: the last rows exist (checked above), so all do; callers name blocks of them; the CPU has AVX-512.
        unsafe { run(&tile) };
    };
    let fours = a.count / 4 * 4;
    let (tall, eights) = (x.count / 4 * 4, x.count / 8 * 8);
    for j in (0..fours).step_by(4) {
        (0..tall).step_by(4).for_each(|i| block(i, j, super::tiles::dots::<4, 4>));
        (tall..x.count).for_each(|i| block(i, j, super::tiles::dots::<1, 4>));
    }
    for j in fours..a.count {
        (0..eights).step_by(8).for_each(|i| block(i, j, super::tiles::dots::<8, 1>));
        (eights..x.count).for_each(|i| block(i, j, super::tiles::dots::<1, 1>));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(n: usize, pace: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * pace).sin()).collect()
    }

    #[test]
    fn products_match_plain_loops_over_odd_shapes_and_touch_nothing_else() {
        for m in [1, 2, 5, 12, 13, 25] {
            for (depth, n) in [(1, 1), (3, 31), (16, 32), (17, 33), (40, 64), (5, 100)] {
                // Both ways to lay the left operand out, in rows and in columns.
                for (row, column) in [(depth + 2, 1), (1, m + 3)] {
                    let (ldw, ldc) = (n + 5, n + 3);
                    let x = wave((m - 1) * row + (depth - 1) * column + 1, 0.37);
                    let w = wave((depth - 1) * ldw + n, 0.71);
                    let start = wave((m - 1) * ldc + n, 0.13);
                    let left = Strided { data: &x, row, column };
                    let (mut added, mut written) = (start.clone(), start.clone());
                    add_product(left, Shape { m, depth, n }, &w, ldw, &mut added, ldc);
                    product(left, Shape { m, depth, n }, &w, ldw, &mut written, ldc);
                    for (at, before) in start.iter().enumerate() {
                        let (i, j) = (at / ldc, at % ldc);
                        let term = |k: usize| f64::from(x[i * row + k * column] * w[k * ldw + j]);
                        let sum = if j < n { (0..depth).map(term).sum() } else { 0.0f64 };
                        assert!((f64::from(added[at] - before) - sum).abs() < 1e-4);
                        let expected = if j < n { sum } else { f64::from(*before) };
                        assert!((f64::from(written[at]) - expected).abs() < 1e-4);
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_of_a_product_does_not_depend_on_the_other_rows() {
        let (m, depth, n) = (25, 70, 100);
        let (x, w) = (wave(m * depth, 0.37), wave(depth * n, 0.71));
        let left = |i: usize| Strided { data: &x[i * depth..], row: depth, column: 1 };
        let mut all = vec![0.5f32; m * n];
        add_product(left(0), Shape { m, depth, n }, &w, n, &mut all, n);
        for i in 0..m {
            let mut one = vec![0.5f32; n];
            add_product(left(i), Shape { m: 1, depth, n }, &w, n, &mut one, n);
            assert_eq!(one, all[i * n..(i + 1) * n]);
        }
    }

    #[test]
    fn a_dot_product_does_not_depend_on_the_other_rows() {
        for (rows, ranks, width) in [(1, 1, 1), (4, 4, 16), (9, 1, 33), (13, 7, 100), (21, 17, 576)] {
            let (x, a) = (wave(rows * (width + 3), 0.3), wave(ranks * width, 0.7));
            let row = |i: usize, count: usize| Rows {
                data: &x[i * (width + 3)..],
                stride: width + 3,
                at: 2,
                width,
                count,
            };
            let column =
                |j: usize, count: usize| Rows { data: &a[j * width..], stride: width, at: 0, width, count };
            let mut all = vec![0f32; rows * ranks];
            dot_products(row(0, rows), column(0, ranks), &mut all);
            for i in 0..rows {
                for j in 0..ranks {
                    let mut one = [0f32];
                    dot_products(row(i, 1), column(j, 1), &mut one);
                    assert_eq!(one[0].to_bits(), all[i * ranks + j].to_bits());
                    let exact: f64 =
                        (0..width).map(|k| f64::from(row(i, 1).row(0)[k] * a[j * width + k])).sum();
                    assert!((f64::from(one[0]) - exact).abs() < 1e-4);
                }
            }
        }
    }
}
