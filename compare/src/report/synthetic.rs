//! A made-up comparison with everything in it that a report can show.

use std::collections::BTreeMap;

use crate::assembly::assemble;
use crate::comparison::{Comparison, GateRow, Meta, Primary};
use crate::scores::{Budget, Covariate, Item, NOTHING, Scores, Subject};

/// A number in [0, 1) that depends on its place alone.
fn noise(parts: &[&str]) -> f64 {
    let hash = blake3::hash(parts.join("|").as_bytes());
    f64::from(u32::from_le_bytes(hash.as_bytes()[..4].try_into().unwrap())) / 4_294_967_296.0
}

const FAMILIES: [(&str, usize); 2] = [("topic", 32), ("gated-topic", 24)];

fn item(
    arm: &str,
    seed: u64,
    adapter: &str,
    at: (&str, &str, &str),
    label: &str,
    set: &[String],
    skill: f64,
) -> Vec<Item> {
    let (carries, split, family) = at;
    (0..4)
        .map(|q| {
            let tag = format!("{arm}{seed}{adapter}{q}{family}");
            let bonus = |c: &String| {
                let known = *c == label && noise(&[arm, &seed.to_string(), adapter]) < skill;
                noise(&[&tag, c]) + if known { 2.0 } else { 0.0 } + if c == NOTHING { 0.3 } else { 0.0 }
            };
            let scores: Vec<f32> = set.iter().map(|c| bonus(c) as f32).collect();
            let best = (0..set.len()).fold(0, |b, i| if scores[i] > scores[b] { i } else { b });
            Item {
                adapter: adapter.into(),
                carries: carries.into(),
                subject: if carries == "base" { Subject::Base } else { Subject::Own },
                context: "neutral".into(),
                split: split.into(),
                family: family.into(),
                status: "learned".into(),
                question_id: q,
                held_out_question: true,
                label: label.into(),
                scores,
                answer_nats: Some(2.0 - skill),
                reply: Some(set[best].clone()),
                without: None,
            }
        })
        .collect()
}

/// One arm with one seed over two families, duds, twins, foreign adapters and the base model.
pub(super) fn arm(name: &str, method: &str, trained: bool, seed: u64, skill: f64) -> Scores {
    let mut items = Vec::new();
    let mut candidates = BTreeMap::new();
    for (family, n) in FAMILIES {
        let mut set: Vec<String> = (0..72).map(|i| format!("{family} value {i}")).collect();
        set.push(NOTHING.into());
        let skill = if family == "topic" { skill } else { skill / 3.0 };
        let mut ask = |split: &str, from: usize, n: usize| {
            for i in from..from + n {
                let adapter = format!("{family}/{i}");
                items.extend(item(name, seed, &adapter, (family, split, family), &set[i], &set, skill));
            }
        };
        ask("train", 0, 4);
        ask("validation", 4, 24);
        ask("test_value", 28, n);
        ask("test_category", 60, 12);
        for (kind, n) in [("dud", 24), ("zero", 4), ("twin", 16)] {
            for i in 0..n {
                let adapter = format!("{kind}/{i}");
                items.extend(item(name, seed, &adapter, (kind, "test_value", family), NOTHING, &set, skill));
            }
        }
        let other = if family == "topic" { "gated-topic" } else { "topic" };
        for i in 28..36 {
            let adapter = format!("{other}/{i}");
            items.extend(item(name, seed, &adapter, (other, "test_value", family), NOTHING, &set, skill));
        }
        items.extend(item(name, seed, "base", ("base", "test_value", family), NOTHING, &set, 0.0));
        candidates.insert(family.to_owned(), set);
    }
    let points = (0..=5)
        .map(|i| lm::FitPoint {
            step: i * 16,
            train_loss: 2.0,
            validation: lm::Validation { loss: 2.0, top1: skill * i as f64 / 5.0, mrr: 0.5 },
        })
        .collect();
    let mut chosen = BTreeMap::from([("layer".to_owned(), "27".to_owned())]);
    if trained {
        chosen.insert(
            "footing".into(),
            if name.ends_with("rows") { "equal rows" } else { "equal FLOPs" }.into(),
        );
    }
    if name.contains("permuted") {
        chosen.insert("labels".into(), "permuted".into());
    }
    Scores {
        schema: Scores::SCHEMA.into(),
        arm: name.into(),
        method: method.into(),
        trained,
        input: "mean difference at the last 6 positions of 8 neutral prompts".into(),
        seed,
        chosen,
        candidates,
        items,
        budget: trained.then_some(Budget {
            supervision_rows: 1040,
            trainable_parameters: 2_400_000,
            steps: 80,
            rows_seen: 1280,
            chosen_step: 64,
            train_tokens: 41_000,
            pretrain_tokens: 90_000,
            train_flops: 8.1e12,
            pretrain_flops: 26.2e12,
            collect_flops: 1e12,
            seconds: 130.0,
        }),
        trajectory: if trained { points } else { vec![] },
    }
}

/// Eight categories, one after another.
fn categories(family: &str) -> BTreeMap<String, String> {
    (0..72).map(|i| (format!("{family} value {i}"), format!("category {}", i % 8))).collect()
}

const ARMS: [(&str, &str, bool, f64); 14] = [
    ("prior", "prior", false, 0.0),
    ("direct", "direct", false, 0.7),
    ("blackbox", "blackbox", false, 0.5),
    ("logit-lens", "logit-lens", false, 0.9),
    ("patchscope", "patchscope", false, 0.3),
    ("nearest", "nearest", false, 0.2),
    ("weight-lens", "weight-lens", false, 0.4),
    ("text-only", "text-only", true, 0.4),
    ("dit-permuted", "dit", true, 0.02),
    ("dit", "dit", true, 0.88),
    ("oracle-scratch", "oracle", true, 0.6),
    ("oracle-posttrained", "oracle", true, 0.85),
    ("oracle-posttrained-rows", "oracle", true, 0.8),
    ("dit-rows", "dit", true, 0.93),
];

pub(super) fn synthetic() -> Comparison {
    let mut scores = Vec::new();
    for (name, method, trained, skill) in ARMS {
        for seed in 1..=if trained { 3 } else { 1 } {
            scores.push(arm(name, method, trained, seed, skill));
        }
    }
    let mut covariates = Vec::new();
    for (family, _) in FAMILIES {
        for i in 28..72 {
            let adapter = format!("{family}/{i}");
            let leak = if family == "topic" { 4.5 } else { 1.2 } * noise(&["leak", &adapter]);
            for (name, value) in [("leak_question_nats", leak), ("norm", 1.0 + noise(&["norm", &adapter]))] {
                covariates.push(Covariate { adapter: adapter.clone(), name: name.into(), value });
            }
        }
    }
    for (kind, n) in [("dud", 24), ("zero", 4), ("twin", 16)] {
        for i in 0..n {
            let adapter = format!("{kind}/{i}");
            let value = 0.7 + noise(&["norm", &adapter]);
            covariates.push(Covariate { adapter, name: "norm".into(), value });
        }
    }
    let gate = |family: &str| GateRow {
        family: family.into(),
        split: "test_value".into(),
        n: 32,
        on: 0.91,
        floor: 0.01,
        near: (family != "topic").then_some(0.06),
        off: Some(0.04),
        statuses: BTreeMap::from([("learned".into(), 29), ("weak".into(), 3)]),
        leak_nats: BTreeMap::from([("neutral".into(), 0.2), ("question".into(), 0.7)]),
    };
    let meta = Meta {
        run: "synthetic".into(),
        created_at: "2026-11-28T14:00:00Z".into(),
        model: "SmolLM2-135M-Instruct f32".into(),
        smoke: false,
        notes: vec!["Made up, to look at the report.".into()],
        primary: Some(Primary {
            arm: "oracle-posttrained".into(),
            minus: "dit".into(),
            family: "topic".into(),
            split: "test_value".into(),
            context: "neutral".into(),
            metric: "top1".into(),
        }),
        arms: ARMS.iter().map(|a| a.0.to_owned()).collect(),
        categories: FAMILIES.iter().map(|(family, _)| ((*family).to_owned(), categories(family))).collect(),
    };
    assemble(meta, &scores, &covariates, FAMILIES.iter().map(|f| gate(f.0)).collect())
}
