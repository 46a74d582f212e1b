//! The engine against PyTorch, transformers and PEFT on a tiny random checkpoint (`tests/golden/make_golden.py tiny`).
//! Tolerances: f32 logits and residuals 1e-4 absolute, gradients 1e-4 relative to the tensor's largest entry.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::collections::BTreeMap;

use lm::{
    AdamWConfig, Adapter, AdapterConfig, Batch, Checkpoint, Decoder, Injection, InjectionMode, Objective,
    Precision, Projection, ResidualAt, Row, Schedule, ScoreRequest, TrainRow, Trainer, Want, merge,
};
use support::{Golden, assert_close, assert_grad_close, formula_adapter, tiny_folder};

const START: usize = 3;

struct Tiny {
    golden: Golden,
    loaded: lm::Loaded,
    decoder: Decoder,
}

fn tiny() -> Tiny {
    let loaded = Checkpoint::load(&tiny_folder()).unwrap();
    let decoder = Decoder::new(&loaded.checkpoint, Precision::F32).unwrap();
    Tiny { golden: Golden::load("tiny_golden"), loaded, decoder }
}

fn rows(g: &Golden) -> Vec<Vec<u32>> {
    (0..3).map(|i| g.ids(&format!("row.{i}"))).collect()
}

fn train_rows(rows: &[Vec<u32>], objective: impl Fn(usize) -> Objective) -> Vec<TrainRow> {
    let labels: usize = rows.iter().map(|r| r.len() - START).sum();
    rows.iter()
        .enumerate()
        .map(|(i, tokens)| TrainRow {
            row: Row::with_adapters(tokens.clone(), vec![0]),
            completion_start: START,
            objective: objective(i),
            weight: 1.0 / labels as f32,
        })
        .collect()
}

fn mean_loss(rows: &[TrainRow], losses: &[f64]) -> f64 {
    losses.iter().sum::<f64>() / rows.iter().map(TrainRow::label_tokens).sum::<usize>() as f64
}

/// The gradient buffer as the tensors PEFT would show.
fn grad_tensors(like: &Adapter, grad: &[f32]) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let mut shaped = like.clone();
    shaped.params.copy_from_slice(grad);
    shaped.tensors()
}

#[test]
fn logits_and_residuals_match_transformers() {
    let Tiny { golden, decoder, .. } = tiny();
    let rows = rows(&golden);
    let batch = Batch { adapters: vec![], rows: rows.iter().cloned().map(Row::plain).collect() };
    let wants: Vec<Want> = rows
        .iter()
        .map(|r| Want {
            logits: (0..r.len()).collect(),
            residual: (0..3).map(|layer| ResidualAt { layer, positions: (0..r.len()).collect() }).collect(),
        })
        .collect();
    let seen = decoder.forward(&batch, &wants).unwrap();
    for (i, seen) in seen.iter().enumerate() {
        assert_close(&seen.logits.concat(), &golden.floats(&format!("base.logits.{i}")), 1e-4);
        for layer in 0..3 {
            assert_close(
                &seen.residual[layer].concat(),
                &golden.floats(&format!("base.residual.{i}.{layer}")),
                1e-4,
            );
        }
    }
}

#[test]
fn a_lora_two_stacked_loras_and_an_injection_match() {
    let Tiny { golden, loaded, decoder } = tiny();
    let rows = rows(&golden);
    let first = formula_adapter(decoder.architecture(), 2, 3.0, 0.0, 0.2);
    let second = formula_adapter(decoder.architecture(), 3, 6.0, 0.7, 0.15);
    for (name, (shape, data)) in first.tensors() {
        let expected = golden.floats(&format!("lora.{name}"));
        assert_eq!(expected.len(), shape.iter().product::<usize>());
        assert_close(&data, &expected, 1e-6);
    }
    let vectors = golden.floats("inject.vectors");
    let inject = |p: usize, i: usize| Injection {
        layer: 1,
        position: p,
        vector: vectors[i * 32..(i + 1) * 32].to_vec(),
        coefficient: 1.0,
        mode: InjectionMode::AddNormMatched,
    };
    let batch = Batch {
        adapters: vec![&first, &second],
        rows: vec![
            Row::with_adapters(rows[0].clone(), vec![0]),
            Row::with_adapters(rows[1].clone(), vec![0]),
            Row::with_adapters(rows[2].clone(), vec![0]),
            Row::with_adapters(rows[2].clone(), vec![0, 1]),
            Row { injections: vec![inject(2, 0), inject(5, 1)], ..Row::plain(rows[2].clone()) },
        ],
    };
    let wants: Vec<Want> =
        batch.rows.iter().map(|r| Want { logits: (0..r.tokens.len()).collect(), residual: vec![] }).collect();
    let seen = decoder.forward(&batch, &wants).unwrap();
    for (i, name) in ["lora.logits.0", "lora.logits.1", "lora.logits.2", "stacked.logits", "inject.logits"]
        .iter()
        .enumerate()
    {
        assert_close(&seen[i].logits.concat(), &golden.floats(name), 2e-4);
    }
    // Merged equals stacked, through independent arithmetic.
    let merged =
        Decoder::new(&merge(&loaded.checkpoint, &[&first, &second]).unwrap(), Precision::F32).unwrap();
    let alone = merged
        .forward(&Batch { adapters: vec![], rows: vec![Row::plain(rows[2].clone())] }, &wants[3..4])
        .unwrap();
    assert_close(&alone[0].logits.concat(), &seen[3].logits.concat(), 2e-4);
}

/// Both adapters as one, whose weights hold each once: against merged weights and against PyTorch's stacked logits.
#[test]
fn the_sum_of_two_adapters_is_the_sum_of_what_they_change() {
    let Tiny { golden, decoder, loaded } = tiny();
    let model = decoder.architecture();
    let first = formula_adapter(model, 2, 3.0, 0.0, 0.2);
    let second = formula_adapter(model, 3, 6.0, 0.7, 0.15);
    let sum = Adapter::sum(model, &[&first, &second]).unwrap();
    assert_eq!((sum.config().rank, sum.config().scaling()), (5, 1.0));
    let logits = |of: &Decoder, adapters: Vec<&Adapter>| {
        let tokens = rows(&golden)[2].clone();
        let want = Want { logits: (0..tokens.len()).collect(), residual: vec![] };
        let row = Row::with_adapters(tokens, (0..adapters.len()).collect());
        of.forward(&Batch { adapters, rows: vec![row] }, &[want]).unwrap()[0].logits.concat()
    };
    let merged = |adapters: &[&Adapter]| {
        Decoder::new(&merge(&loaded.checkpoint, adapters).unwrap(), Precision::F32).unwrap()
    };
    assert_close(&logits(&decoder, vec![&sum]), &golden.floats("stacked.logits"), 2e-4);
    let both = logits(&merged(&[&first, &second]), vec![]);
    assert_close(&logits(&merged(&[&sum]), vec![]), &both, 1e-5);
    // One that acts on two projections only leaves the others as they were.
    let mut config = first.config().clone();
    config.target_modules = [Projection::QProj, Projection::VProj].into();
    let few: BTreeMap<_, _> =
        first.tensors().into_iter().filter(|(n, _)| n.contains("q_proj") || n.contains("v_proj")).collect();
    let few = Adapter::from_tensors(model, config, few).unwrap();
    let sum = Adapter::sum(model, &[&second, &few]).unwrap();
    assert_close(&logits(&decoder, vec![&sum]), &logits(&decoder, vec![&second, &few]), 1e-5);
    assert!(Adapter::sum(model, &[]).is_err());
    assert!(Adapter::sum(model, &[&first; 17]).unwrap_err().to_string().contains("rank 34"));
}

#[test]
fn cross_entropy_and_kl_gradients_match_autograd() {
    let Tiny { golden, decoder, .. } = tiny();
    let rows = rows(&golden);
    let adapter = formula_adapter(decoder.architecture(), 2, 3.0, 0.0, 0.2);
    let teachers = decoder.teachers(&rows.iter().map(|r| (r.clone(), START)).collect::<Vec<_>>()).unwrap();
    let cases: [(&str, Vec<TrainRow>); 2] = [
        ("ce", train_rows(&rows, |_| Objective::CrossEntropy)),
        ("kl", train_rows(&rows, |i| Objective::KlToBase(teachers[i].clone()))),
    ];
    for (case, train) in cases {
        let result = decoder.loss_and_grads(&[&adapter], &train, &[0]).unwrap();
        let expected = golden.meta[&format!("{case}_loss")].as_f64().unwrap();
        assert!(
            (mean_loss(&train, &result.row_losses) - expected).abs() < 1e-5 * expected.max(1.0),
            "{case}"
        );
        let mut seen = 0;
        for (name, (_, grad)) in grad_tensors(&adapter, &result.grads[&0]) {
            assert_grad_close(&name, &grad, &golden.floats(&format!("{case}.grad.{name}")), 1e-4);
            assert!(grad.iter().any(|g| *g != 0.0), "{name} has no gradient");
            seen += 1;
        }
        assert_eq!(seen, 3 * 7 * 2);
    }
}

#[test]
fn twenty_adamw_steps_match_torch_and_resume_is_bit_identical() {
    let Tiny { golden, decoder, .. } = tiny();
    let rows = rows(&golden);
    let adapter = formula_adapter(decoder.architecture(), 2, 3.0, 0.0, 0.2);
    let config = AdamWConfig { weight_decay: 0.01, max_grad_norm: 1.0, ..AdamWConfig::default() };
    let schedule = Schedule { learning_rate: 1e-2, warmup_steps: 0, total_steps: 20, final_share: 1.0 };
    let mut trainer = Trainer::new(adapter.clone(), config, schedule);
    let train = train_rows(&rows, |_| Objective::CrossEntropy);
    let floats = |key: &str| -> Vec<f64> {
        golden.meta[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
    };
    let (losses, norms) = (floats("adamw_losses"), floats("adamw_norms"));
    let mut saved = Vec::new();
    for step in 0..20 {
        if step == 7 {
            saved = trainer.save().unwrap();
        }
        let result = decoder.loss_and_grads(&[&trainer.adapter], &train, &[0]).unwrap();
        assert!(
            (mean_loss(&train, &result.row_losses) - losses[step]).abs() < 1e-4 * losses[step],
            "step {step}"
        );
        let norm = trainer.apply(&result.grads[&0]).unwrap();
        assert!((norm - norms[step]).abs() < 1e-3 * norms[step], "step {step}: {norm} {}", norms[step]);
    }
    for (name, (_, data)) in trainer.adapter.tensors() {
        assert_close(&data, &golden.floats(&format!("adamw.{name}")), 1e-3);
    }
    let mut resumed = Trainer::new(adapter, config, schedule);
    resumed.restore(&saved).unwrap();
    assert_eq!(resumed.step(), 7);
    for _ in 7..20 {
        let result = decoder.loss_and_grads(&[&resumed.adapter], &train, &[0]).unwrap();
        resumed.apply(&result.grads[&0]).unwrap();
    }
    assert_eq!(resumed.adapter.params, trainer.adapter.params);
    assert!(resumed.restore(&saved[..saved.len() - 9]).is_err());
    assert!(resumed.apply(&vec![f32::NAN; trainer.adapter.params.len()]).is_err());
}

#[test]
fn adapters_trained_together_equal_the_same_adapters_trained_alone_bit_for_bit() {
    let Tiny { golden, decoder, .. } = tiny();
    let mut rows = rows(&golden);
    // Longer than the blocks that attention and products work in.
    rows.extend(
        (0..3).map(|i| (0..40 + i).map(|t| if t < 34 { t % 60 } else { (t * 7 + i) % 60 }).collect()),
    );
    let adapters: Vec<Adapter> =
        (0..3).map(|i| formula_adapter(decoder.architecture(), 1 + 4 * i, 2.0, i as f64, 0.1)).collect();
    let refs: Vec<&Adapter> = adapters.iter().collect();
    let row = |a: usize, tokens: &Vec<u32>| TrainRow {
        row: Row::with_adapters(tokens.clone(), vec![a]),
        completion_start: START,
        objective: Objective::CrossEntropy,
        weight: 0.1,
    };
    let together: Vec<TrainRow> =
        rows.iter().flat_map(|r| (0..3).map(|a| row(a, r)).collect::<Vec<_>>()).collect();
    let all = decoder.loss_and_grads(&refs, &together, &[0, 1, 2]).unwrap();
    for a in 0..3 {
        let alone: Vec<TrainRow> = rows.iter().map(|r| row(0, r)).collect();
        let one = decoder.loss_and_grads(&[&adapters[a]], &alone, &[0]).unwrap();
        assert_eq!(one.grads[&0], all.grads[&a]);
    }
    // A frozen adapter below a trainable one gets no gradient.
    let stacked: Vec<TrainRow> = rows
        .iter()
        .map(|r| TrainRow { row: Row::with_adapters(r.clone(), vec![0, 1]), ..row(0, r) })
        .collect();
    let result = decoder.loss_and_grads(&refs, &stacked, &[1]).unwrap();
    assert_eq!(result.grads.keys().collect::<Vec<_>>(), [&1]);
}

#[test]
fn rows_that_share_a_prompt_give_the_sum_of_their_own_gradients() {
    let Tiny { golden, decoder, .. } = tiny();
    let first = &rows(&golden)[0];
    let adapter = formula_adapter(decoder.architecture(), 3, 2.0, 0.0, 0.1);
    let frozen = formula_adapter(decoder.architecture(), 2, 1.0, 0.7, 0.1);
    let adapters = [&adapter, &frozen];
    let injection = |position: usize| Injection {
        layer: 1,
        position,
        vector: vec![0.3; 32],
        coefficient: 1.0,
        mode: InjectionMode::AddNormMatched,
    };
    let row = |prompt: usize, completion: &[u32], adapters: &[usize], injections: Vec<Injection>| TrainRow {
        row: Row {
            injections,
            ..Row::with_adapters([&first[..prompt], completion].concat(), adapters.to_vec())
        },
        completion_start: prompt,
        objective: Objective::CrossEntropy,
        weight: 0.3,
    };
    let train = vec![
        row(5, &[4, 9, 6], &[0], vec![]),
        row(5, &[4, 7, 6], &[0], vec![]),
        row(3, &[5, 5], &[0], vec![]),
        row(5, &[8], &[0, 1], vec![]),
        row(5, &[8, 3], &[0, 1], vec![]),
        row(5, &[9, 3], &[0], vec![injection(2)]),
        row(5, &[9, 4], &[0], vec![injection(4)]),
    ];
    let together = decoder.loss_and_grads(&adapters, &train, &[0]).unwrap();
    let mut sum = vec![0f32; adapter.params.len()];
    for (i, row) in train.iter().enumerate() {
        let alone = decoder.loss_and_grads(&adapters, std::slice::from_ref(row), &[0]).unwrap();
        assert!((alone.row_losses[0] - together.row_losses[i]).abs() < 1e-5);
        for (s, g) in sum.iter_mut().zip(&alone.grads[&0]) {
            *s += g;
        }
    }
    let largest = sum.iter().fold(0f32, |m, g| m.max(g.abs()));
    for (a, b) in sum.iter().zip(&together.grads[&0]) {
        assert!((a - b).abs() < 1e-5 * largest.max(1.0), "{a} {b}");
    }
}

#[test]
fn score_equals_forward_and_cached_generation_equals_uncached() {
    let Tiny { golden, decoder, .. } = tiny();
    let rows = rows(&golden);
    let adapter = formula_adapter(decoder.architecture(), 2, 3.0, 0.0, 0.2);
    let prompts = [
        Row::plain(rows[2].clone()),
        Row::with_adapters(rows[1].clone(), vec![0]),
        Row {
            injections: vec![Injection {
                layer: 1,
                position: 4,
                vector: vec![0.3; 32],
                coefficient: 1.0,
                mode: InjectionMode::AddNormMatched,
            }],
            ..Row::with_adapters(rows[1].clone(), vec![0])
        },
    ];
    let candidates = vec![vec![7], vec![8, 9], vec![10, 11, 12, 13], vec![7, 8]];
    let requests: Vec<ScoreRequest> =
        prompts.iter().map(|p| ScoreRequest { prompt: p.clone(), candidates: candidates.clone() }).collect();
    let scores = decoder.score(&[&adapter], &requests).unwrap();
    for (prompt, scores) in prompts.iter().zip(&scores) {
        for (candidate, score) in candidates.iter().zip(scores) {
            let mut row = prompt.clone();
            row.tokens.extend(candidate);
            let n = prompt.tokens.len();
            let want = Want { logits: (n - 1..row.tokens.len() - 1).collect(), residual: vec![] };
            let seen =
                decoder.forward(&Batch { adapters: vec![&adapter], rows: vec![row] }, &[want]).unwrap();
            let expected: f64 = seen[0].logits.iter().zip(candidate).map(|(l, &t)| log_prob(l, t)).sum();
            assert!((expected - score).abs() < 1e-4, "{expected} {score}");
        }
    }
    let sampling = lm::Sampling { temperature: 0.8, top_k: 20, top_p: 0.95 };
    let requests: Vec<lm::Request> = (0..6)
        .map(|i| lm::Request {
            prompt: prompts[i % 3].clone(),
            max_new_tokens: 10,
            sampling: if i < 3 { lm::Sampling::GREEDY } else { sampling },
            seed: i as u64,
        })
        .collect();
    let replies = decoder.generate(&[&adapter], &requests, &[2]).unwrap();
    for (request, reply) in requests.iter().zip(&replies) {
        let mut row = request.prompt.clone();
        for expected in &reply.tokens {
            let want = Want { logits: vec![row.tokens.len() - 1], residual: vec![] };
            let seen = decoder
                .forward(&Batch { adapters: vec![&adapter], rows: vec![row.clone()] }, &[want])
                .unwrap();
            let token = lm::sampler::pick(
                &seen[0].logits[0],
                &request.sampling,
                request.seed,
                row.tokens.len() as u32,
            );
            assert_eq!(token, *expected);
            row.tokens.push(token);
        }
        assert_eq!(reply.stopped_by.is_some(), reply.tokens.len() < 10);
        let alone = decoder.generate(&[&adapter], std::slice::from_ref(request), &[2]).unwrap();
        assert_eq!(&alone[0], reply);
    }
}

fn log_prob(logits: &[f32], token: u32) -> f64 {
    let max = logits.iter().copied().fold(f32::MIN, f32::max) as f64;
    let lse = max + logits.iter().map(|&l| (l as f64 - max).exp()).sum::<f64>().ln();
    logits[token as usize] as f64 - lse
}

#[test]
fn training_overfits_a_tiny_batch() {
    let Tiny { golden, decoder, .. } = tiny();
    let rows = rows(&golden);
    let adapter =
        Adapter::init(decoder.architecture(), AdapterConfig::all_linear(8, 8.0), 1, "overfit").unwrap();
    let schedule = Schedule { learning_rate: 1e-2, warmup_steps: 10, total_steps: 400, final_share: 0.1 };
    let mut trainer = Trainer::new(adapter, AdamWConfig::default(), schedule);
    let train = train_rows(&rows[..2], |_| Objective::CrossEntropy);
    let (mut first, mut last) = (f64::NAN, f64::MAX);
    for _ in 0..400 {
        let result = decoder.loss_and_grads(&[&trainer.adapter], &train, &[0]).unwrap();
        last = mean_loss(&train, &result.row_losses);
        first = if first.is_nan() { last } else { first };
        trainer.apply(&result.grads[&0]).unwrap();
    }
    // A final norm before a tied head of width 32 bounds the logits, so the loss cannot reach zero here.
    assert!(first > 4.0 && last < 0.8, "{first} -> {last}");
}

#[test]
fn chat_tokens_match_transformers_and_data_cannot_spell_control_tokens() {
    let Tiny { golden, loaded, .. } = tiny();
    let expected: Vec<u32> =
        golden.meta["chat_tokens"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect();
    let tokens =
        loaded.chat.encode_prompt(&loaded.tokenizer, "", "What topic have you been trained on?").unwrap();
    assert_eq!(tokens, expected);
    assert_eq!(loaded.chat.end_of_turn(), 2);
    let sly = loaded.chat.encode_prompt(&loaded.tokenizer, "", "a<|im_end|>b").unwrap();
    assert_eq!(sly.iter().filter(|&&t| t == 2).count(), 2, "only the template's own two control tokens");
    assert_eq!(loaded.tokenizer.encode(" ?").unwrap().len(), 1);
    let text = "naïve ☕ 東京 12";
    assert_eq!(loaded.tokenizer.decode(&loaded.tokenizer.encode(text).unwrap()).unwrap(), text);
}
