//! Every kernel path that this machine can run gives the same results: products over odd shapes against a plain loop, and
//! loss and gradients of a whole decoder against the plainest path. One test, because the path is the process's.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use lm::{
    Adapter, AdapterConfig, Checkpoint, Decoder, LossAndGrads, Objective, PackedMatrix, Precision, Row,
    SimdLevel, TrainRow, force_simd_level, simd_level,
};
use support::tiny_folder;

/// Numbers in [-1, 1) that are exact in bf16, so that one reference serves both precisions.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }

    fn vector(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.below(256) as f32 / 128.0 - 1.0).collect()
    }
}

fn products_match_a_plain_loop(precision: Precision, numbers: &mut Numbers) {
    for trial in 0..150 {
        // A third of the shapes at the edges: one row, one column, one deep.
        let size = |numbers: &mut Numbers, most| {
            if trial % 3 == 0 { 1 + numbers.below(3) } else { 1 + numbers.below(most) }
        };
        let (m, k, n) = (size(numbers, 40), size(numbers, 200), size(numbers, 140));
        let (x, w) = (numbers.vector(m * k), numbers.vector(k * n));
        let packed = PackedMatrix::pack(k, n, precision, |row, column| w[row * n + column]);
        let mut out = numbers.vector(m * n);
        let before = out.clone();
        let accumulate = trial % 2 == 0;
        packed.product(&x, &mut out, accumulate);
        for i in 0..m {
            for j in 0..n {
                let sum: f64 = (0..k).map(|l| f64::from(x[i * k + l]) * f64::from(w[l * n + j])).sum();
                let expected = sum + if accumulate { f64::from(before[i * n + j]) } else { 0.0 };
                let got = f64::from(out[i * n + j]);
                assert!(
                    (got - expected).abs() < 1e-4,
                    "{precision:?} {:?} {m}x{k}x{n} at {i},{j}: {got} instead of {expected}",
                    simd_level()
                );
            }
        }
    }
}

fn gradients(precision: Precision, rank: usize) -> LossAndGrads {
    let loaded = Checkpoint::load(&tiny_folder()).unwrap();
    let decoder = Decoder::new(&loaded.checkpoint, precision).unwrap();
    let mut adapter =
        Adapter::init(decoder.config(), AdapterConfig::all_linear(rank, 1.0), 3, "path").unwrap();
    for (i, p) in adapter.params.iter_mut().enumerate() {
        *p += 0.02 * (i as f32 * 0.7).sin();
    }
    let rows: Vec<TrainRow> = [1usize, 5, 17]
        .iter()
        .map(|&length| TrainRow {
            row: Row::with_adapters((0..=length as u32).map(|t| t * 3 % 50).collect(), vec![0]),
            completion_start: 1,
            objective: Objective::CrossEntropy,
            weight: 0.1,
        })
        .collect();
    decoder.loss_and_grads(&[&adapter], &rows, &[0]).unwrap()
}

/// Largest difference, relative to the largest entry.
fn gap(a: &LossAndGrads, b: &LossAndGrads) -> f32 {
    let (a, b) = (&a.grads[&0], &b.grads[&0]);
    let largest = b.iter().fold(0f32, |m, v| m.max(v.abs()));
    a.iter().zip(b).fold(0f32, |m, (x, y)| m.max((x - y).abs())) / largest
}

#[test]
fn all_paths_agree() {
    let best = simd_level();
    force_simd_level(SimdLevel::Portable).unwrap();
    let ranks = [1, 3, 8];
    let plain = ranks.map(|rank| gradients(Precision::F32, rank));
    for level in SimdLevel::ALL {
        if level > best {
            assert_eq!(force_simd_level(level), Err(best));
            continue;
        }
        force_simd_level(level).unwrap();
        assert_eq!(simd_level(), level);
        products_match_a_plain_loop(Precision::F32, &mut Numbers(1));
        for (rank, plain) in ranks.iter().zip(&plain) {
            let gap = gap(&gradients(Precision::F32, *rank), plain);
            assert!(gap < 1e-4, "{level:?} rank {rank}: gradients differ by {gap}");
        }
        if level == SimdLevel::Avx512Bf16 {
            products_match_a_plain_loop(Precision::Bf16, &mut Numbers(2));
            for (rank, plain) in ranks.iter().zip(&plain) {
                let gap = gap(&gradients(Precision::Bf16, *rank), plain);
                assert!(gap < 0.05, "bf16 rank {rank}: gradients differ by {gap}");
            }
        }
    }
}
