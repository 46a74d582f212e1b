//! Fitting a reader: interrupted at any step and taken up again, it ends with the same bytes.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use lm::{
    Adapter, Checkpoint, Decoder, Error, FitConfig, FitEvent, Fitted, Keeping, Objective, Precision, Row,
    Step, TrainRow, Validation, epoch_order, fit,
};
use support::{Golden, tiny_folder};

fn run(state: Option<&Path>, stop_after: usize) -> lm::Result<Fitted> {
    told(state, stop_after, &mut Vec::new())
}

/// Also says what the fit told, steps aside.
fn told(state: Option<&Path>, stop_after: usize, said: &mut Vec<String>) -> lm::Result<Fitted> {
    let loaded = Checkpoint::load(&tiny_folder()).unwrap();
    let decoder = Decoder::new(&loaded.checkpoint, Precision::F32).unwrap();
    let golden = Golden::load("tiny_golden");
    let rows: Vec<TrainRow> = (0..3)
        .map(|i| TrainRow {
            row: Row::with_adapters(golden.ids(&format!("row.{i}")), vec![0]),
            completion_start: 3,
            objective: Objective::CrossEntropy,
            weight: 1.0,
        })
        .collect();
    let config =
        FitConfig { batch: 2, evaluate_every: 4, patience: 2, warmup_steps: 3, ..FitConfig::reader(30, 5) };
    let start = Adapter::init(decoder.architecture(), config.adapter.clone(), 5, "fit").unwrap();
    let stop = AtomicBool::new(false);
    let mut next = |step: usize| {
        let order = epoch_order(rows.len(), config.batch, step, config.seed, "test");
        Ok(Step { frozen: vec![], rows: order.into_iter().map(|i| rows[i].clone()).collect() })
    };
    // Rises for three evaluations and falls then, so that the best is neither the first nor the last.
    let mut evaluate = |adapter: &Adapter| {
        let size = adapter.params.iter().map(|p| f64::from(*p).abs()).sum::<f64>();
        Ok(Validation { loss: size, top1: 0.0, mrr: -(size - 263.0).abs() })
    };
    let mut report = |event: FitEvent| match event {
        FitEvent::Step { step, .. } => stop.store(step == stop_after, Ordering::Relaxed),
        FitEvent::Anew { why } => said.push(why),
    };
    fit(&decoder, start, &config, Keeping { state, stop: &stop }, &mut next, &mut evaluate, &mut report)
}

#[test]
fn a_fit_stopped_at_any_step_goes_on_bit_for_bit() {
    let whole = run(None, 0).unwrap();
    assert!(whole.points.len() >= 3 && whole.best_step > 0, "{:?}", whole.points);
    let folder = tempfile::tempdir().unwrap();
    for first in [1, 4, 6, whole.steps - 1] {
        let state = folder.path().join(format!("{first}.fit"));
        assert!(matches!(run(Some(&state), first), Err(Error::Interrupted)));
        let resumed = run(Some(&state), 0).unwrap();
        assert_eq!(resumed.adapter.params, whole.adapter.params, "stopped after step {first}");
        assert_eq!(resumed.points, whole.points);
        assert_eq!(
            (resumed.best_step, resumed.steps, resumed.tokens),
            (whole.best_step, whole.steps, whole.tokens)
        );
    }
}

#[test]
fn a_damaged_state_costs_time_and_nothing_else_and_is_said() {
    let whole = run(None, 0).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("x.fit");
    run(Some(&state), 5).unwrap_err();
    let bytes = std::fs::read(&state).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    // Cut in the middle, at the end, in the header; other files; another version.
    let mut damages = vec![
        bytes[..bytes.len() / 2].to_vec(),
        bytes[..bytes.len() - 1].to_vec(),
        bytes[..header / 2].to_vec(),
        b"not a state".to_vec(),
        Vec::new(),
    ];
    let format = b"lorafab-fit/1";
    let at = bytes.windows(format.len()).position(|w| w == format).unwrap();
    let mut other = bytes.clone();
    other[at + format.len() - 1] = b'9';
    damages.push(other);
    for damaged in damages {
        std::fs::write(&state, &damaged).unwrap();
        let mut said = Vec::new();
        let fitted = told(Some(&state), 0, &mut said).unwrap();
        assert_eq!((&fitted.adapter.params, fitted.steps), (&whole.adapter.params, whole.steps));
        assert_eq!(fitted.points, whole.points);
        assert!(said.len() == 1 && said[0].contains("x.fit"), "{said:?}");
    }
    // A good one is gone on from, silently.
    std::fs::write(&state, &bytes).unwrap();
    let mut said = Vec::new();
    assert_eq!(told(Some(&state), 0, &mut said).unwrap().adapter.params, whole.adapter.params);
    assert!(said.is_empty(), "{said:?}");
}
