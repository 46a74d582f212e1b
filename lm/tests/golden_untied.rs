//! A second tiny checkpoint: untied head, head width other than hidden / heads, two shards, a plain tokenizer
//! (`tests/golden/golden_tiny.py`). Logits, LoRA gradients, injected gradients, two stacked adapters.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::collections::BTreeMap;

use lm::{
    Adapter, AdapterConfig, Batch, Checkpoint, Config, Decoder, Injection, Objective, Precision, ResidualAt,
    Row, TrainRow, Want,
};
use support::{Golden, assert_close, assert_grad_close, golden_folder};

const PREFIX: &str = "base_model.model.";

fn adapter(golden: &Golden, config: &Config, which: &str, rank: usize, alpha: f32) -> Adapter {
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
    assert!(
        !loaded.checkpoint.config.tie_word_embeddings && loaded.checkpoint.config.eos_token_ids.len() == 2
    );
    let decoder = Decoder::new(&loaded.checkpoint, Precision::F32).unwrap();
    let config = decoder.config();
    assert_ne!(config.head_dim * config.num_attention_heads, config.hidden_size);
    let lora = adapter(&golden, config, "lora", 2, 3.0);
    let lora2 = adapter(&golden, config, "lora2", 3, 6.0);
    for (r, row) in golden.meta["rows"].as_array().unwrap().iter().enumerate() {
        let ids: Vec<u32> =
            row["ids"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect();
        let start = row["prompt_len"].as_u64().unwrap() as usize;
        let all: Vec<usize> = (0..ids.len()).collect();
        let want = Want {
            logits: all.clone(),
            residual: (0..config.num_hidden_layers)
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

#[test]
fn bf16_stays_close_to_f32_where_the_cpu_has_it() {
    if Precision::fastest() != Precision::Bf16 {
        return;
    }
    let golden = Golden::load("tiny_untied");
    let loaded = Checkpoint::load(&golden_folder().join("tiny_untied")).unwrap();
    let ids: Vec<u32> = golden.meta["rows"][0]["ids"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_u64().unwrap() as u32)
        .collect();
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
