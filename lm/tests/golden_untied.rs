//! A second tiny checkpoint: untied head, head width other than hidden / heads, two shards, a plain tokenizer
//! (`tests/golden/golden_tiny.py`). Logits, LoRA gradients of both losses, injected gradients, two stacked
//! adapters, twenty steps of AdamW, greedy replies.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::collections::BTreeMap;

use lm::{
    AdamWConfig, Adapter, AdapterConfig, Architecture, Batch, Checkpoint, Decoder, Injection, InjectionMode,
    Objective, Precision, Request, ResidualAt, Row, Sampling, Schedule, TrainRow, Trainer, Want,
};
use support::{Golden, assert_close, assert_grad_close, golden_folder};

const PREFIX: &str = "base_model.model.";

fn adapter(golden: &Golden, config: &Architecture, which: &str, rank: usize, alpha: f32) -> Adapter {
    let shape = AdapterConfig::all_linear(rank, alpha);
    let tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)> = Adapter::zeros(config, shape.clone())
        .unwrap()
        .tensors()
        .into_iter()
        .map(|(name, (dims, _))| {
            let data = golden.floats(&format!("{which}/{PREFIX}{name}"));
            (name, (dims, data))
        })
        .collect();
    Adapter::from_tensors(config, shape, tensors).unwrap()
}

#[test]
fn an_untied_sharded_checkpoint_matches_transformers_and_peft() {
    let golden = Golden::load("tiny_untied");
    let loaded = Checkpoint::load(&golden_folder().join("tiny_untied")).unwrap();
    assert!(!loaded.checkpoint.architecture.tied && loaded.checkpoint.architecture.ends.len() == 2);
    let decoder = Decoder::new(&loaded.checkpoint, Precision::F32).unwrap();
    let config = decoder.architecture();
    assert_ne!(config.layers[0].attention.query_width(), config.hidden_size);
    let lora = adapter(&golden, config, "lora", 2, 3.0);
    let lora2 = adapter(&golden, config, "lora2", 3, 6.0);
    for (r, row) in golden.meta["rows"].as_array().unwrap().iter().enumerate() {
        let ids = ids(&row["ids"]);
        let start = row["prompt_len"].as_u64().unwrap() as usize;
        let all: Vec<usize> = (0..ids.len()).collect();
        let want = Want {
            logits: all.clone(),
            residual: (0..config.layers.len())
                .map(|layer| ResidualAt { layer, positions: all.clone() })
                .collect(),
        };
        let batch = Batch {
            adapters: vec![&lora],
            rows: vec![Row::plain(ids.clone()), Row::with_adapters(ids.clone(), vec![0])],
        };
        let seen = decoder.forward(&batch, &[want.clone(), want.clone()]).unwrap();
        assert_close(&seen[0].logits.concat(), &golden.floats(&format!("base/logits/{r}")), 1e-4);
        assert_close(&seen[1].logits.concat(), &golden.floats(&format!("lora/logits/{r}")), 1e-4);
        for (layer, residual) in seen[0].residual.iter().enumerate() {
            assert_close(&residual.concat(), &golden.floats(&format!("base/hidden/{r}/{layer}")), 1e-4);
        }
        // Gradients of the row's mean loss, without and with injected vectors.
        let vectors = golden.floats(&format!("inject/vectors/{r}"));
        let injections: Vec<Injection> = golden.meta["inject"]["positions"][r]
            .as_array()
            .unwrap()
            .iter()
            .zip(vectors.chunks_exact(config.hidden_size))
            .map(|(p, v)| Injection {
                layer: 1,
                position: p.as_u64().unwrap() as usize,
                vector: v.to_vec(),
                coefficient: 1.0,
                mode: InjectionMode::AddNormMatched,
            })
            .collect();
        for (case, injections) in [("ce", vec![]), ("inject", injections)] {
            let train = TrainRow {
                row: Row { injections, ..Row::with_adapters(ids.clone(), vec![0]) },
                completion_start: start,
                objective: Objective::CrossEntropy,
                weight: 1.0 / (ids.len() - start) as f32,
            };
            let result = decoder.loss_and_grads(&[&lora], &[train], &[0]).unwrap();
            let mut shaped = lora.clone();
            shaped.params.copy_from_slice(&result.grads[&0]);
            for (name, (_, grad)) in shaped.tensors() {
                assert_grad_close(
                    &name,
                    &grad,
                    &golden.floats(&format!("{case}/grad/{r}/{PREFIX}{name}")),
                    1e-4,
                );
            }
            let loss = result.row_losses[0] / (ids.len() - start) as f64;
            let expected = if case == "ce" { &golden.meta["ce"][r] } else { &golden.meta["inject"]["ce"][r] };
            assert!((loss - expected.as_f64().unwrap()).abs() < 1e-4, "{case}: {loss} {expected}");
        }
        let stacked = TrainRow {
            row: Row::with_adapters(ids.clone(), vec![0, 1]),
            completion_start: start,
            objective: Objective::CrossEntropy,
            weight: 1.0,
        };
        let loss = decoder.loss_and_grads(&[&lora, &lora2], &[stacked], &[]).unwrap().row_losses[0]
            / (ids.len() - start) as f64;
        assert!((loss - golden.meta["stack"]["ce"][r].as_f64().unwrap()).abs() < 1e-4);
    }
}

fn ids(value: &serde_json::Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

#[test]
fn kl_gradients_twenty_adamw_steps_and_greedy_replies_match() {
    let golden = Golden::load("tiny_untied");
    let loaded = Checkpoint::load(&golden_folder().join("tiny_untied")).unwrap();
    let decoder = Decoder::new(&loaded.checkpoint, Precision::F32).unwrap();
    let config = decoder.architecture();
    let lora = adapter(&golden, config, "lora", 2, 3.0);
    let rows: Vec<(Vec<u32>, usize)> = golden.meta["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (ids(&row["ids"]), row["prompt_len"].as_u64().unwrap() as usize))
        .collect();
    let train = |r: usize, objective, labels: usize| TrainRow {
        row: Row::with_adapters(rows[r].0.clone(), vec![0]),
        completion_start: rows[r].1,
        objective,
        weight: 1.0 / labels as f32,
    };
    let labels = |r: usize| rows[r].0.len() - rows[r].1;

    for (r, teacher) in decoder.teachers(&rows).unwrap().into_iter().enumerate() {
        let row = train(r, Objective::KlToBase(teacher), labels(r));
        let result = decoder.loss_and_grads(&[&lora], &[row], &[0]).unwrap();
        let (loss, expected) =
            (result.row_losses[0] / labels(r) as f64, golden.meta["kl"][r].as_f64().unwrap());
        assert!((loss / expected - 1.0).abs() < 1e-4, "{loss} {expected}");
        let mut shaped = lora.clone();
        shaped.params.copy_from_slice(&result.grads[&0]);
        for (name, (_, grad)) in shaped.tensors() {
            assert_grad_close(&name, &grad, &golden.floats(&format!("kl/grad/{r}/{PREFIX}{name}")), 1e-4);
        }
    }

    let all: usize = (0..rows.len()).map(labels).sum();
    let batch: Vec<TrainRow> = (0..rows.len()).map(|r| train(r, Objective::CrossEntropy, all)).collect();
    let of = |key: &str| golden.meta["adamw"][key].as_f64().unwrap();
    let optimiser = AdamWConfig {
        weight_decay: of("weight_decay"),
        max_grad_norm: of("max_grad_norm"),
        ..AdamWConfig::default()
    };
    let schedule =
        Schedule { learning_rate: of("learning_rate"), warmup_steps: 0, total_steps: 20, final_share: 1.0 };
    let mut trainer = Trainer::new(lora, optimiser, schedule);
    let losses = golden.meta["adamw"]["loss"].as_array().unwrap();
    assert_eq!(losses.len(), 20);
    for expected in losses.iter().map(|v| v.as_f64().unwrap()) {
        let result = decoder.loss_and_grads(&[&trainer.adapter], &batch, &[0]).unwrap();
        let loss = result.row_losses.iter().sum::<f64>() / all as f64;
        // The loss falls a thousandfold on the way; late steps are compared on the scale of the first.
        assert!((loss - expected).abs() < 1e-4 * expected.max(1.0), "{loss} {expected}");
        trainer.apply(&result.grads[&0]).unwrap();
    }
    for (name, (_, data)) in trainer.adapter.tensors() {
        assert_close(&data, &golden.floats(&format!("adamw/final/{PREFIX}{name}")), 1e-3);
    }

    for greedy in golden.meta["greedy"].as_array().unwrap() {
        let request = Request {
            prompt: Row::plain(ids(&greedy["prompt"])),
            max_new_tokens: 24,
            sampling: Sampling::GREEDY,
            seed: 0,
        };
        let reply = decoder.generate(&[], &[request], &config.ends).unwrap().remove(0);
        let ours: Vec<u32> = reply.tokens.iter().copied().chain(reply.stopped_by).collect();
        assert_eq!(ours, ids(&greedy["ids"]));
    }
}

#[test]
fn bf16_stays_close_to_f32_where_the_cpu_has_it() {
    if !Precision::Bf16.runs_here() {
        return;
    }
    let golden = Golden::load("tiny_untied");
    let loaded = Checkpoint::load(&golden_folder().join("tiny_untied")).unwrap();
    let ids = ids(&golden.meta["rows"][0]["ids"]);
    let want = Want { logits: (0..ids.len()).collect(), residual: vec![] };
    let logits = |precision| {
        let decoder = Decoder::new(&loaded.checkpoint, precision).unwrap();
        let batch = Batch { adapters: vec![], rows: vec![Row::plain(ids.clone())] };
        decoder.forward(&batch, std::slice::from_ref(&want)).unwrap().remove(0).logits.concat()
    };
    let (exact, fast) = (logits(Precision::F32), logits(Precision::Bf16));
    let spread = exact.iter().fold(0f32, |m, v| m.max(v.abs()));
    // Eight bits of mantissa over a handful of layers.
    assert_close(&fast, &exact, 0.05 * spread);
    assert_ne!(fast, exact);
}
