//! What an injection does to the residual stream, and that its gradient is that of finite differences.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use lm::{
    Adapter, Batch, Decoder, Injection, InjectionMode, Objective, Precision, ResidualAt, Row, TrainRow, Want,
};
use support::{formula_adapter, tiny_folder};

const MODES: [InjectionMode; 5] = [
    InjectionMode::AddNormMatched,
    InjectionMode::AddRelative,
    InjectionMode::Add,
    InjectionMode::Replace,
    InjectionMode::ProjectOut,
];
const TOKENS: [u32; 6] = [5, 9, 3, 7, 4, 8];

fn decoder() -> Decoder {
    let loaded = lm::Checkpoint::load(&tiny_folder()).unwrap();
    Decoder::new(&loaded.checkpoint, Precision::F32).unwrap()
}

fn vector(width: usize) -> Vec<f32> {
    (0..width).map(|i| ((i * 7 % 11) as f32 - 4.0) / 5.0).collect()
}

fn injection(mode: InjectionMode, position: usize, vector: Vec<f32>) -> Injection {
    Injection { layer: 1, position, vector, coefficient: 0.7, mode }
}

fn residual(decoder: &Decoder, injections: Vec<Injection>) -> Vec<f32> {
    let row = Row { injections, ..Row::plain(TOKENS.to_vec()) };
    let want = Want { logits: vec![], residual: vec![ResidualAt { layer: 1, positions: vec![2] }] };
    decoder.forward(&Batch { adapters: vec![], rows: vec![row] }, &[want]).unwrap()[0].residual[0][0].clone()
}

#[test]
fn every_mode_changes_the_stream_as_it_says_and_a_zero_vector_only_replaces() {
    let decoder = decoder();
    let d = decoder.architecture().hidden_size;
    let (h, v) = (residual(&decoder, vec![]), vector(d));
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    for mode in MODES {
        let found = residual(&decoder, vec![injection(mode, 2, v.clone())]);
        let share = match mode {
            InjectionMode::AddNormMatched => 0.7 * dot(&h, &h).sqrt() / dot(&v, &v).sqrt(),
            InjectionMode::AddRelative => 0.7 * dot(&h, &h).sqrt(),
            InjectionMode::Add => 0.7,
            InjectionMode::ProjectOut => -dot(&h, &v) / dot(&v, &v),
            InjectionMode::Replace => 0.0,
        };
        let kept = if mode == InjectionMode::Replace { 0.0 } else { 1.0 };
        let share = if mode == InjectionMode::Replace { 1.0 } else { share };
        for ((f, h), v) in found.iter().zip(&h).zip(&v) {
            assert!((f - (kept * h + share * v)).abs() < 1e-4, "{mode:?}: {f} {h} {v}");
        }
        let zero = residual(&decoder, vec![injection(mode, 2, vec![0.0; d])]);
        let expected = if mode == InjectionMode::Replace { vec![0.0; d] } else { h.clone() };
        assert_eq!(zero, expected, "{mode:?}");
    }
}

fn loss(decoder: &Decoder, adapter: &Adapter, row: &TrainRow) -> f64 {
    decoder.loss_and_grads(&[adapter], std::slice::from_ref(row), &[]).unwrap().row_losses[0]
}

/// The modes that measure by the residual's norm take what they add for a constant, so finite differences, which do not, are
/// asked of the others.
#[test]
fn gradients_through_injections_match_finite_differences() {
    let decoder = decoder();
    let d = decoder.architecture().hidden_size;
    let adapter = formula_adapter(decoder.architecture(), 2, 2.0, 0.3, 0.2);
    for mode in [InjectionMode::Add, InjectionMode::Replace, InjectionMode::ProjectOut] {
        let injections = vec![injection(mode, 1, vector(d)), injection(mode, 2, vector(d))];
        let row = TrainRow {
            row: Row { injections, ..Row::with_adapters(TOKENS.to_vec(), vec![0]) },
            completion_start: 3,
            objective: Objective::CrossEntropy,
            weight: 1.0,
        };
        let grads = decoder.loss_and_grads(&[&adapter], std::slice::from_ref(&row), &[0]).unwrap();
        let grad = &grads.grads[&0];
        let mut checked = 0;
        // The parameters with the largest gradients, where a difference in f32 says something, of both layers below.
        let mut order: Vec<usize> = (0..grad.len()).collect();
        order.sort_by(|a, b| grad[*b].abs().total_cmp(&grad[*a].abs()));
        for &i in order.iter().take(40) {
            let at = |shift: f32| {
                let mut moved = adapter.clone();
                moved.params[i] += shift;
                loss(&decoder, &moved, &row)
            };
            let step = 2e-2f32;
            let numeric = (at(step) - at(-step)) / (2.0 * f64::from(step));
            let analytic = f64::from(grad[i]);
            assert!(
                (numeric - analytic).abs() < 2e-2 * analytic.abs().max(1e-2),
                "{mode:?} {i}: {numeric} {analytic}"
            );
            checked += 1;
        }
        assert_eq!(checked, 40);
    }
}

/// With every token but the last replaced at layer 1's output, nothing that an adapter of layers 0 and 1 does there is seen.
#[test]
fn replacing_cuts_the_gradient_to_what_lies_below() {
    let decoder = decoder();
    let d = decoder.architecture().hidden_size;
    let adapter = formula_adapter(decoder.architecture(), 2, 2.0, 0.3, 0.2);
    let last = TOKENS.len() - 1;
    let row = TrainRow {
        row: Row {
            injections: (0..last).map(|p| injection(InjectionMode::Replace, p, vector(d))).collect(),
            ..Row::with_adapters(TOKENS.to_vec(), vec![0])
        },
        completion_start: last,
        objective: Objective::CrossEntropy,
        weight: 1.0,
    };
    let grads = decoder.loss_and_grads(&[&adapter], &[row], &[0]).unwrap();
    for m in adapter.modules() {
        let part = &grads.grads[&0][m.a.start..m.b.end];
        let silent = part.iter().all(|g| *g == 0.0);
        assert_eq!(silent, m.layer <= 1, "layer {}", m.layer);
    }
}

#[test]
fn the_logit_lens_of_the_last_layer_is_the_models_own_prediction() {
    let decoder = decoder();
    let (last, p) = (decoder.architecture().layers.len() - 1, TOKENS.len() - 1);
    let want = Want { logits: vec![p], residual: vec![ResidualAt { layer: last, positions: vec![p] }] };
    let row = Row::plain(TOKENS.to_vec());
    let seen = decoder.forward(&Batch { adapters: vec![], rows: vec![row] }, &[want]).unwrap();
    let top = decoder.unembed_topk(&seen[0].residual[0], 5).unwrap();
    let logits = &seen[0].logits[0];
    for (id, logit) in &top[0] {
        assert_eq!(logits[*id as usize], *logit);
    }
    assert!(top[0].windows(2).all(|w| w[0].1 >= w[1].1));
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    assert_eq!(top[0][0].1, best);
    assert!(decoder.unembed_topk(&[vec![0.0; 3]], 5).is_err());
}
