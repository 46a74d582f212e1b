//! Gemma 3 270M against transformers, weights dequantised from the same GGUF file (`tests/golden/gemma_270m.py`). Its logits reach
//! +-40; tolerance 2e-2 in f32.
//!
//! Ignored unless asked for: `cargo test --release -p lm --test golden_gemma -- --ignored` fetches the file (253 MB) if it is not in
//! `$LORAFAB_CACHE`.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::path::PathBuf;

use lm::{BaseModel, Batch, Objective, Precision, Request, Row, Sampling, TrainRow, Want};
use support::{Golden, assert_close, assert_grad_close, formula_adapter, model_file};

fn model() -> PathBuf {
    model_file("gemma-3-270m")
}

fn prompts(golden: &Golden) -> Vec<Vec<u32>> {
    (0..golden.meta["prompts"].as_array().unwrap().len())
        .map(|i| golden.ids(&format!("prompt.{i}")))
        .collect()
}

#[test]
#[ignore = "needs Gemma 3 270M, 253 MB"]
fn gemma_3_270m_is_transformers() {
    let golden = Golden::load("gemma_270m");
    let base = BaseModel::load(&model(), Precision::F32).unwrap();
    let decoder = &base.decoder;
    let prompts = prompts(&golden);
    let number = |key: &str| golden.meta["lora"][key].as_f64().unwrap();
    let adapter = formula_adapter(
        decoder.architecture(),
        number("rank") as usize,
        number("alpha") as f32,
        number("phase"),
        number("size"),
    );

    // Logits: the best fifty at every position, every sixteenth at the last.
    for (i, tokens) in prompts.iter().enumerate() {
        let at: Vec<usize> = golden.ids(&format!("positions.{i}")).into_iter().map(|p| p as usize).collect();
        let last = tokens.len() - 1;
        let batch = Batch {
            adapters: vec![&adapter],
            rows: vec![Row::plain(tokens.clone()), Row::with_adapters(tokens.clone(), vec![0])],
        };
        let wants = [
            Want { logits: [&at[..], &[last]].concat(), residual: vec![] },
            Want { logits: vec![last], residual: vec![] },
        ];
        let seen = decoder.forward(&batch, &wants).unwrap();
        let ids = golden.ids(&format!("top.ids.{i}"));
        let best: Vec<f32> = ids
            .chunks(50)
            .zip(&seen[0].logits)
            .flat_map(|(ids, logits)| ids.iter().map(|&id| logits[id as usize]))
            .collect();
        assert_close(&best, &golden.floats(&format!("top.logits.{i}")), 2e-2);
        let every = |n: usize, logits: &[f32]| logits.iter().step_by(n).copied().collect::<Vec<f32>>();
        let plain = every(16, &seen[0].logits[at.len()]);
        assert_close(&plain, &golden.floats(&format!("last.{i}")), 2e-2);
        let adapted = every(64, &seen[1].logits[0]);
        assert_close(&adapted, &golden.floats(&format!("lora.last.{i}")), 2e-2);
    }

    // 64 greedy tokens of each short prompt.
    let requests: Vec<Request> = prompts[..4]
        .iter()
        .map(|tokens| Request {
            prompt: Row::plain(tokens.clone()),
            max_new_tokens: 64,
            sampling: Sampling::GREEDY,
            seed: 0,
        })
        .collect();
    let replies = decoder.generate(&[], &requests, &[]).unwrap();
    for (i, reply) in replies.iter().enumerate() {
        assert_eq!(reply.tokens, golden.ids(&format!("greedy.{i}")), "prompt {i}");
    }

    // Losses and gradients.
    let start = golden.meta["ce_start"].as_u64().unwrap() as usize;
    let labels: usize = prompts[..4].iter().map(|t| t.len() - start).sum();
    let teachers =
        decoder.teachers(&prompts[..4].iter().map(|t| (t.clone(), start)).collect::<Vec<_>>()).unwrap();
    for case in ["ce", "kl"] {
        let rows: Vec<TrainRow> = prompts[..4]
            .iter()
            .zip(&teachers)
            .map(|(tokens, teacher)| TrainRow {
                row: Row::with_adapters(tokens.clone(), vec![0]),
                completion_start: start,
                objective: if case == "ce" {
                    Objective::CrossEntropy
                } else {
                    Objective::KlToBase(teacher.clone())
                },
                weight: 1.0 / labels as f32,
            })
            .collect();
        let found = decoder.loss_and_grads(&[&adapter], &rows, &[0]).unwrap();
        let loss = found.row_losses.iter().sum::<f64>() / labels as f64;
        let expected = golden.meta[&format!("{case}_loss")].as_f64().unwrap();
        assert!((loss - expected).abs() < 1e-3 * expected.max(1.0), "{case}: {loss} {expected}");
        if case == "kl" {
            continue;
        }
        let mut shaped = adapter.clone();
        shaped.params.copy_from_slice(&found.grads[&0]);
        let mut compared = 0;
        for (name, (_, grad)) in shaped.tensors() {
            let norm = grad.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            let expected = golden.meta["grad_norms"][&name].as_f64().unwrap();
            assert!((norm - expected).abs() < 2e-3 * expected, "{name}: {norm} {expected}");
            if golden.has(&format!("grad.{name}")) {
                assert_grad_close(&name, &grad, &golden.floats(&format!("grad.{name}")), 1e-3);
                compared += 1;
            }
        }
        assert_eq!(compared, 3);
    }
}

#[test]
#[ignore = "needs Gemma 3 270M, 253 MB"]
fn its_tokens_are_transformers() {
    let golden = Golden::load("gemma_270m");
    let base = BaseModel::load(&model(), Precision::F32).unwrap();
    let cases = golden.meta["tokenised"].as_array().unwrap();
    assert!(cases.len() > 5);
    for case in cases {
        let text = case[0].as_str().unwrap();
        let ids: Vec<u32> = case[1].as_array().unwrap().iter().map(|i| i.as_u64().unwrap() as u32).collect();
        assert_eq!(base.tokenizer.encode(text).unwrap(), ids, "{text:?}");
    }
}
