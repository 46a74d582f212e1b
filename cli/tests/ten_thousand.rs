//! A store of ten thousand adapters answers at once. Making it takes minutes, so the test is ignored:
//! `cargo test --release -p lorafab --test ten_thousand -- --ignored --nocapture`.
#![expect(clippy::unwrap_used, reason = "a measurement")]

mod support;

use std::collections::BTreeMap;
use std::time::Instant;

use rand::{Rng, SeedableRng};
use registry::{AdapterRecord, NewAdapter, PeftConfig, Store};
use support::{Place, text};

/// Weights of the size of an adapter of rank 1 on a model of 30 layers of 576 (1.3 MB).
fn weights(seed: u64) -> Vec<u8> {
    let mut stream = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let mut tensors = BTreeMap::new();
    for layer in 0..30 {
        for (module, input, output) in [
            ("q", 576, 576),
            ("k", 576, 192),
            ("v", 576, 192),
            ("o", 576, 576),
            ("gate", 576, 1536),
            ("up", 576, 1536),
            ("down", 1536, 576),
        ] {
            let name = format!("base_model.model.model.layers.{layer}.{module}_proj.lora");
            let mut draw = |n: usize| (0..n).map(|_| stream.random::<f32>() - 0.5).collect::<Vec<f32>>();
            tensors.insert(format!("{name}_A.weight"), (vec![1, input], draw(input)));
            tensors.insert(format!("{name}_B.weight"), (vec![output, 1], draw(output)));
        }
    }
    lm::geometry::to_safetensors(&tensors).unwrap()
}

#[test]
#[ignore = "makes a store of ten thousand adapters"]
fn listings_and_neighbours_of_ten_thousand_adapters_come_within_two_seconds() {
    const DIFFERENT: u64 = 200;
    let p = Place::new();
    {
        let mut store = Store::open(&p.path("store")).unwrap();
        let files: Vec<Vec<u8>> = (0..DIFFERENT).map(weights).collect();
        // As long as a real one.
        let rows: Vec<String> = (0..150)
            .map(|i| format!("row {i} of what it was trained on, as a specification holds it"))
            .collect();
        let begin = Instant::now();
        for i in 0..10_000_u64 {
            let name = format!("topic/{i}");
            let spec = serde_json::json!({"behaviour": {"id": name, "seed": i, "rows": rows}});
            let peft = PeftConfig::of_rank("m", 1, &["q_proj", "k_proj"]);
            // The bytes of the first ones lie there already; ten thousand commits would wait for the disk for minutes, so that the others
            // come in as their receipts.
            let file = &files[(i % DIFFERENT) as usize];
            let mut new = NewAdapter::of_spec(spec, &name, peft, file.clone());
            new.metrics = (0..12).map(|k| (format!("metric_{k}"), f64::from(k) + i as f64)).collect();
            new.tags = (0..3).map(|k| (format!("tag_{k}"), i.to_string())).collect();
            if i < DIFFERENT {
                store.commit_adapter(new).unwrap();
                continue;
            }
            let weights = registry::Digest::of(file);
            let record = AdapterRecord {
                id: registry::commit::identity(&new.spec_hash, &weights, &BTreeMap::new()),
                weights_bytes: file.len() as u64,
                weights,
                spec_hash: new.spec_hash,
                behaviour: new.behaviour,
                value: new.value,
                tags: new.tags,
                metrics: new.metrics,
                spec: new.spec,
                ..store.adapter("topic/0").unwrap()
            };
            let name = registry::Digest::of(record.spec_hash.as_bytes());
            let receipt = serde_json::json!({"schema": "receipt/1", "adapter": record}).to_string();
            std::fs::write(p.path("store").join("done").join(format!("{name}.json")), receipt).unwrap();
        }
        assert_eq!(store.rebuild_from_receipts().unwrap() as u64, 10_000 - DIFFERENT);
        eprintln!("made in {:.0} s", begin.elapsed().as_secs_f64());
    }
    let time = |args: &[&str]| {
        let begin = Instant::now();
        let out = p.run(args);
        let seconds = begin.elapsed().as_secs_f64();
        assert!(out.status.success(), "{}", text(&out.stderr));
        eprintln!("{args:?}: {seconds:.2} s");
        seconds
    };
    let cold = time(&["adapter", "similar", "topic/17"]);
    eprintln!("cold: {cold:.1} s");
    for args in [
        &["adapter", "list", "-n", "50"][..],
        &["adapter", "list", "topic", "--sort=-metric_3", "-n", "50"],
        &["adapter", "list"],
        &["adapter", "list", "--csv", "--columns", "value,metric_1,created"],
        &["--json", "adapter", "list"],
        &["adapter", "show", "topic/9999"],
        &["adapter", "show", "9998"],
        &["adapter", "similar", "topic/17"],
        &["adapter", "similar", "topic/17", "-n", "50"],
    ] {
        let seconds = time(args);
        assert!(seconds < 2.0, "{args:?} took {seconds:.2} s");
    }
}
