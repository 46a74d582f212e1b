//! Every family of models against transformers and PEFT, on a tiny random checkpoint as a Hugging Face folder and as a GGUF file
//! (`tests/golden/families.py`). Tolerances: logits and residual streams 1e-3, losses 1e-4, gradients 1e-4 relative to the tensor's
//! largest entry.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::collections::BTreeMap;

use lm::{
    AdamWConfig, Adapter, Batch, Checkpoint, Decoder, Objective, Precision, Request, ResidualAt, Row,
    Sampling, Schedule, TrainRow, Trainer, Want,
};
use support::{Golden, assert_close, assert_grad_close, formula_adapter, golden_folder};

/// Every family, from its folder and from its GGUF file.
fn every_model(check: impl Fn(&str, &Golden, &Decoder)) {
    let folder = golden_folder().join("families");
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.is_dir())
        .map(|p| p.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert!(names.len() >= 10, "{names:?}");
    for name in names {
        let golden = Golden::load(&format!("families/{name}"));
        for path in [folder.join(&name), folder.join(format!("{name}.gguf"))] {
            let loaded = Checkpoint::load(&path).unwrap();
            let decoder = Decoder::new(&loaded.checkpoint, Precision::F32).unwrap();
            check(&name, &golden, &decoder);
        }
    }
}

fn rows(golden: &Golden) -> Vec<(Vec<u32>, usize)> {
    let prompts = golden.meta["prompt_lens"].as_array().unwrap();
    let length = |i: usize| prompts[i].as_u64().unwrap() as usize;
    (0..prompts.len()).map(|i| (golden.ids(&format!("row.{i}")), length(i))).collect()
}

fn positions(golden: &Golden, row: usize) -> Vec<usize> {
    golden.ids(&format!("positions.{row}")).into_iter().map(|p| p as usize).collect()
}

fn lora(golden: &Golden, decoder: &Decoder) -> Adapter {
    let number = |key: &str| golden.meta["lora"][key].as_f64().unwrap();
    formula_adapter(
        decoder.architecture(),
        number("rank") as usize,
        number("alpha") as f32,
        number("phase"),
        number("size"),
    )
}

fn training(rows: &[(Vec<u32>, usize)], objective: impl Fn(usize) -> Objective) -> Vec<TrainRow> {
    let labels: usize = rows.iter().map(|(r, start)| r.len() - start).sum();
    rows.iter()
        .enumerate()
        .map(|(i, (tokens, start))| TrainRow {
            row: Row::with_adapters(tokens.clone(), vec![0]),
            completion_start: *start,
            objective: objective(i),
            weight: 1.0 / labels as f32,
        })
        .collect()
}

fn mean(rows: &[TrainRow], losses: &[f64]) -> f64 {
    losses.iter().sum::<f64>() / rows.iter().map(TrainRow::label_tokens).sum::<usize>() as f64
}

fn tensors(like: &Adapter, values: &[f32]) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let mut shaped = like.clone();
    shaped.params.copy_from_slice(values);
    shaped.tensors()
}

#[test]
fn logits_and_the_residual_stream_after_every_layer_are_transformers() {
    every_model(|_, golden, decoder| {
        let layers = decoder.architecture().layers.len();
        let adapter = lora(golden, decoder);
        for (i, (tokens, _)) in rows(golden).into_iter().enumerate() {
            let at = positions(golden, i);
            let last = vec![tokens.len() - 1];
            let batch = Batch {
                adapters: vec![&adapter],
                rows: vec![Row::plain(tokens.clone()), Row::with_adapters(tokens, vec![0])],
            };
            let residual = (0..layers).map(|layer| ResidualAt { layer, positions: at.clone() }).collect();
            let wants = [Want { logits: at, residual }, Want { logits: last, residual: vec![] }];
            let seen = decoder.forward(&batch, &wants).unwrap();
            assert_close(&seen[0].logits.concat(), &golden.floats(&format!("base.logits.{i}")), 1e-3);
            for layer in 0..layers {
                let expected = golden.floats(&format!("base.residual.{i}.{layer}"));
                assert_close(&seen[0].residual[layer].concat(), &expected, 1e-3);
            }
            assert_close(&seen[1].logits.concat(), &golden.floats(&format!("lora.logits.{i}")), 1e-3);
        }
    });
}

#[test]
fn losses_and_gradients_of_all_projections_are_autograds() {
    every_model(|_, golden, decoder| {
        let rows = rows(golden);
        let adapter = lora(golden, decoder);
        let teachers = decoder.teachers(&rows).unwrap();
        let cases: [(&str, Vec<TrainRow>); 2] = [
            ("ce", training(&rows, |_| Objective::CrossEntropy)),
            ("kl", training(&rows, |i| Objective::KlToBase(teachers[i].clone()))),
        ];
        for (case, train) in cases {
            let result = decoder.loss_and_grads(&[&adapter], &train, &[0]).unwrap();
            let expected = golden.meta[&format!("{case}_loss")].as_f64().unwrap();
            let found = mean(&train, &result.row_losses);
            assert!((found - expected).abs() < 1e-4 * expected.max(1.0), "{case}: {found} {expected}");
            for (i, (row, loss)) in train.iter().zip(&result.row_losses).enumerate() {
                let expected = golden.meta[&format!("row_{case}")][i].as_f64().unwrap();
                assert!((loss / row.label_tokens() as f64 - expected).abs() < 1e-4 * expected.max(1.0));
            }
            let layers = decoder.architecture().layers.len();
            let mut compared = 0;
            for (name, (_, grad)) in tensors(&adapter, &result.grads[&0]) {
                let norm = grad.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
                assert!(norm > 0.0, "{name} has no gradient");
                let layer: usize = name.split('.').nth(2).unwrap().parse().unwrap();
                if case == "kl" {
                    let expected = &golden.meta["kl_grad_norms"][&name];
                    let expected = expected.as_f64().unwrap_or_else(|| panic!("no norm of {name}"));
                    assert!((norm - expected).abs() < 1e-3 * expected, "{name}: {norm} {expected}");
                    if layer != 0 && layer + 1 != layers {
                        continue;
                    }
                }
                assert_grad_close(&name, &grad, &golden.floats(&format!("{case}.grad.{name}")), 1e-4);
                compared += 1;
            }
            assert_eq!(compared, if case == "ce" { layers * 14 } else { layers.min(2) * 14 });
        }
    });
}

#[test]
fn twenty_steps_of_adamw_are_torchs() {
    every_model(|_, golden, decoder| {
        let rows = rows(golden);
        let adapter = lora(golden, decoder);
        let said = &golden.meta["adamw"];
        let number = |key: &str| said[key].as_f64().unwrap();
        let config = AdamWConfig {
            weight_decay: number("weight_decay"),
            max_grad_norm: number("max_grad_norm"),
            ..AdamWConfig::default()
        };
        let schedule = Schedule {
            learning_rate: number("learning_rate"),
            warmup_steps: 0,
            total_steps: 20,
            final_share: 1.0,
        };
        let mut trainer = Trainer::new(adapter, config, schedule);
        let train = training(&rows, |_| Objective::CrossEntropy);
        for step in 0..20 {
            let result = decoder.loss_and_grads(&[&trainer.adapter], &train, &[0]).unwrap();
            let (loss, expected) = (mean(&train, &result.row_losses), said["loss"][step].as_f64().unwrap());
            assert!((loss - expected).abs() < 1e-3 * expected.max(1.0), "step {step}: {loss} {expected}");
            let (norm, expected) =
                (trainer.apply(&result.grads[&0]).unwrap(), said["grad_norm"][step].as_f64().unwrap());
            assert!((norm - expected).abs() < 5e-3 * expected, "step {step}: {norm} {expected}");
        }
        let layers = decoder.architecture().layers.len();
        for (name, (_, data)) in trainer.adapter.tensors() {
            // Files hold the first and the last layer's.
            let layer: usize = name.split('.').nth(2).unwrap().parse().unwrap();
            if layer != 0 && layer + 1 != layers {
                continue;
            }
            assert_close(&data, &golden.floats(&format!("adamw.{name}")), 2e-3);
        }
    });
}

#[test]
fn sixty_four_greedy_tokens_are_the_same_with_a_cache_and_without_alone_and_together() {
    every_model(|name, golden, decoder| {
        let ids = |v: &serde_json::Value| -> Vec<u32> {
            v.as_array().unwrap().iter().map(|i| i.as_u64().unwrap() as u32).collect()
        };
        let cases = golden.meta["greedy"].as_array().unwrap();
        let requests: Vec<Request> = cases
            .iter()
            .map(|case| Request {
                prompt: Row::plain(ids(&case["prompt"])),
                max_new_tokens: 64,
                sampling: Sampling::GREEDY,
                seed: 0,
            })
            .collect();
        assert!(!requests.is_empty());
        let together = decoder.generate(&[], &requests, &[]).unwrap();
        for ((case, request), reply) in cases.iter().zip(&requests).zip(&together) {
            let expected = ids(&case["ids"]);
            assert_eq!(expected.len(), 64);
            assert_eq!(reply.tokens, expected, "{name}");
            let alone = decoder.generate(&[], std::slice::from_ref(request), &[]).unwrap();
            assert_eq!(alone[0].tokens, expected);
            // Without a cache: each token is the best after all before it.
            let prompt = request.prompt.tokens.len();
            let row = [&request.prompt.tokens[..], &expected].concat();
            let want = Want { logits: (prompt - 1..row.len() - 1).collect(), residual: vec![] };
            let batch = Batch { adapters: vec![], rows: vec![Row::plain(row)] };
            let seen = decoder.forward(&batch, &[want]).unwrap();
            for (logits, token) in seen[0].logits.iter().zip(&expected) {
                let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
                assert_eq!(best as u32, *token);
            }
        }
    });
}
