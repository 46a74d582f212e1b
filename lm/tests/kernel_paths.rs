//! Every kernel path that this machine can run gives the same results: products over odd shapes against a plain loop, and
//! loss and gradients of a whole decoder against the plainest path. One test, because the path is the process's.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::collections::BTreeMap;

use lm::{
    Adapter, AdapterConfig, Checkpoint, Decoder, HostTensor, LossAndGrads, Objective, PackedMatrix,
    Precision, Projection, Row, ScoreRequest, SimdLevel, TrainRow, force_simd_level, simd_level,
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

/// Random weights with heads of 64 dimensions, as real models have (the fixture's have 8).
fn wide() -> Checkpoint {
    let model = support::llama(&serde_json::json!({
        "hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "vocab_size": 70, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
    }));
    let mut numbers = Numbers(9);
    let mut tensors = BTreeMap::new();
    let mut random = |name: String, shape: Vec<usize>| {
        let data = numbers.vector(shape.iter().product()).into_iter().map(|x| x * 0.15).collect();
        tensors.insert(name, HostTensor { shape, data });
    };
    random("model.embed_tokens.weight".into(), vec![70, 128]);
    for layer in 0..2 {
        for projection in Projection::ALL {
            let (input, output) = model.features(layer, projection);
            random(format!("{}.weight", projection.module_path(layer)), vec![output, input]);
        }
    }
    let norms = (0..2).flat_map(|i| {
        ["input_layernorm", "post_attention_layernorm"].map(|n| format!("model.layers.{i}.{n}.weight"))
    });
    for name in norms.chain(["model.norm.weight".to_owned()]) {
        tensors.insert(name, HostTensor { shape: vec![128], data: vec![1.0; 128] });
    }
    Checkpoint::from_tensors(model, tensors, "wide").unwrap()
}

/// Log-probabilities of candidates of one to three tokens after a cached prompt.
fn scores(precision: Precision) -> Vec<f64> {
    let decoder = Decoder::new(&wide(), precision).unwrap();
    let prompt = Row::plain((0..21).map(|t| t * 5 % 60).collect());
    let candidates = vec![vec![3], vec![4, 5], vec![6, 7, 8], vec![9, 10, 11, 12, 13]];
    decoder.score(&[], &[ScoreRequest { prompt, candidates }]).unwrap().remove(0)
}

fn gradients(checkpoint: &Checkpoint, precision: Precision, rank: usize) -> LossAndGrads {
    let decoder = Decoder::new(checkpoint, precision).unwrap();
    let mut adapter =
        Adapter::init(decoder.architecture(), AdapterConfig::all_linear(rank, 1.0), 3, "path").unwrap();
    for (i, p) in adapter.params.iter_mut().enumerate() {
        *p += 0.02 * (i as f32 * 0.7).sin();
    }
    let rows: Vec<TrainRow> = [1usize, 5, 17, 45]
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
    let tiny = Checkpoint::load(&tiny_folder()).unwrap().checkpoint;
    let wide = wide();
    let cases = [(&tiny, 1), (&tiny, 3), (&tiny, 8), (&wide, 1), (&wide, 5)];
    let plain = cases.map(|(model, rank)| gradients(model, Precision::F32, rank));
    let plain_scores = scores(Precision::F32);
    for level in SimdLevel::ALL {
        if level > best {
            assert_eq!(force_simd_level(level), Err(best));
            continue;
        }
        force_simd_level(level).unwrap();
        assert_eq!(simd_level(), level);
        let mut precisions = vec![(Precision::F32, 1e-4, 1e-3)];
        if level >= SimdLevel::Avx512Bf16 {
            precisions.push((Precision::Bf16, 0.05, 0.2));
        }
        for (precision, tolerance, nats) in precisions {
            products_match_a_plain_loop(precision, &mut Numbers(1));
            for ((model, rank), plain) in cases.iter().zip(&plain) {
                let gap = gap(&gradients(model, precision, *rank), plain);
                assert!(
                    gap < tolerance,
                    "{level:?} {precision:?} {} rank {rank}: gradients differ by {gap}",
                    model.digest
                );
            }
            for (a, b) in scores(precision).iter().zip(&plain_scores) {
                assert!((a - b).abs() < nats, "{level:?} {precision:?}: scores {a} and {b}");
            }
        }
    }
}
