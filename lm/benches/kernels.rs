//! Rates of the packed products at the shapes that training uses: `cargo bench -p lm --bench kernels`. Items are
//! floating-point operations (2 m k n a product), on one thread.

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use lm::{PackedMatrix, Precision, SimdLevel, force_simd_level};

/// `(k, n)` of SmolLM2-135M's frozen products, forward and backward.
const SHAPES: [(usize, usize); 9] = [
    (576, 960),
    (576, 576),
    (576, 3072),
    (1536, 576),
    (960, 576),
    (3072, 576),
    (576, 1536),
    (576, 49_152),
    (49_152, 576),
];

fn main() {
    divan::main();
}

#[divan::bench(args = SHAPES, consts = [12, 64, 220], sample_count = 15)]
fn bf16<const M: usize>(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    at(SimdLevel::Avx512Bf16, bencher, M, shape, Precision::Bf16);
}

#[divan::bench(args = SHAPES, consts = [12, 64, 220], sample_count = 15)]
fn bf16_amx<const M: usize>(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    at(SimdLevel::Amx, bencher, M, shape, Precision::Bf16);
}

#[divan::bench(args = SHAPES, consts = [12, 64, 220], sample_count = 15)]
fn f32<const M: usize>(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    product(bencher, M, shape, Precision::F32);
}

/// With the instructions of a level; nothing where the machine lacks them.
fn at(level: SimdLevel, bencher: Bencher<'_, '_>, m: usize, shape: (usize, usize), precision: Precision) {
    if force_simd_level(level).is_ok() {
        product(bencher, m, shape, precision);
    }
}

fn product(bencher: Bencher<'_, '_>, m: usize, (k, n): (usize, usize), precision: Precision) {
    let packed = PackedMatrix::pack(k, n, precision, |r, c| ((r * 31 + c * 17) % 101) as f32 * 0.01 - 0.5);
    let x: Vec<f32> = (0..m * k).map(|i| (i % 97) as f32 * 0.02 - 1.0).collect();
    let mut out = vec![0f32; m * n];
    bencher
        .counter(ItemsCount::new(2 * m * k * n))
        .bench_local(|| packed.product(black_box(&x), black_box(&mut out), false));
}
