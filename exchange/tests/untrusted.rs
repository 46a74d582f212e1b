//! Parsers of what comes from elsewhere, fed with damaged input: no panic, no half-written store.
//!
//! A few thousand inputs by default; a million and more with `LORAFAB_FUZZ=1000000 cargo test --release -p exchange --test untrusted`.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::path::Path;

use exchange::peft::read;
use exchange::{ImportShape, bundle};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use registry::{Filter, NewAdapter, PeftConfig, Store};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

fn rounds() -> usize {
    std::env::var("LORAFAB_FUZZ").ok().and_then(|v| v.parse().ok()).unwrap_or(4000)
}

/// Changes some bytes, lengths or words of an input.
fn mutate(input: &[u8], rng: &mut impl Rng, words: &[&str]) -> Vec<u8> {
    let mut out = input.to_vec();
    for _ in 0..rng.random_range(1..=4) {
        let at = rng.random_range(0..=out.len());
        match rng.random_range(0..7) {
            0 if at < out.len() => out[at] ^= 1 << rng.random_range(0..8),
            1 if at < out.len() => out[at] = rng.random(),
            2 => out.truncate(at),
            3 => drop(out.splice(
                at..at,
                (0..rng.random_range(1..20)).map(|_| rng.random::<u8>()).collect::<Vec<_>>(),
            )),
            4 => drop(out.splice(at..at, words.choose(rng).unwrap().bytes())),
            5 => drop(out.drain(at..(at + rng.random_range(0..40)).min(out.len()))),
            // A long integer somewhere: lengths and offsets.
            _ if at + 8 <= out.len() => {
                let value = [0, 1, u64::MAX, u64::MAX / 2, 1 << 32, out.len() as u64][rng.random_range(0..6)];
                out[at..at + 8].copy_from_slice(&value.to_le_bytes());
            }
            _ => {}
        }
    }
    out
}

const WORDS: [&str; 16] = [
    "null",
    "true",
    "-1",
    "1e308",
    "NaN",
    "\"\\u0000\"",
    "[[[[",
    "{\"a\":",
    "../",
    "q_proj",
    "(.*)*",
    "[a-z]{1000}",
    "\u{1b}[2J",
    " and ",
    " not (",
    "9999999999999999999999",
];

#[test]
fn adapters_from_elsewhere_never_panic() {
    let shape = ImportShape {
        base_model: "m".into(),
        revision: None,
        layers: 2,
        projections: BTreeMap::from([("q_proj".to_owned(), (4, 3)), ("down_proj".to_owned(), (3, 4))]),
    };
    let config = r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "use_rslora": false, "rank_pattern": {"layers.1.self_attn.q_proj": 2}, "alpha_pattern": {}, "bias": "none", "modules_to_save": null}"#;
    let data = vec![0x3eu8; 2 * 4 * 4];
    let short = vec![0x3eu8; 3 * 2 * 4];
    let views: Vec<(String, TensorView<'_>)> = (0..2)
        .flat_map(|l| {
            let name = format!("base_model.model.model.layers.{l}.self_attn.q_proj");
            [
                (format!("{name}.lora_A.weight"), TensorView::new(Dtype::F32, vec![2, 4], &data).unwrap()),
                (format!("{name}.lora_B.weight"), TensorView::new(Dtype::F32, vec![3, 2], &short).unwrap()),
            ]
        })
        .collect();
    let file = safetensors::serialize(views, None).unwrap();
    let path = Path::new("x");
    read(path, config.as_bytes(), path, &file, &shape).unwrap();
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let (mut accepted, mut refused) = (0, 0);
    for i in 0..rounds() {
        let result = if i % 2 == 0 {
            read(path, config.as_bytes(), path, &mutate(&file, &mut rng, &WORDS), &shape)
        } else {
            read(path, &mutate(config.as_bytes(), &mut rng, &WORDS), path, &file, &shape)
        };
        match result {
            Ok(_) => accepted += 1,
            Err(e) => {
                refused += 1;
                assert!(!e.to_string().contains('\u{1b}'), "{e}");
            }
        }
    }
    assert!(refused > accepted / 10 && accepted > 0, "{accepted} {refused}: the inputs test nothing");
}

#[test]
fn bundles_from_elsewhere_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(&folder.path().join("a")).unwrap();
    let record = store
        .commit_adapter(NewAdapter::of_spec(
            serde_json::json!(1),
            "t/a",
            PeftConfig::of_rank("m", 1, &["q_proj"]),
            vec![1, 2, 3],
        ))
        .unwrap();
    let path = folder.path().join("b.tar");
    bundle::export(&store, &[record], &path, exchange::IfExists::Fail).unwrap();
    let good = std::fs::read(&path).unwrap();
    assert!(bundle::readable(&good));
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(2);
    let mut accepted = 0;
    for _ in 0..rounds() {
        accepted += usize::from(bundle::readable(&mutate(&good, &mut rng, &WORDS)));
    }
    // Most changes fall into padding or the manifest's prose; what names or holds bytes must be refused.
    assert!(accepted < rounds(), "nothing was refused");
}

#[test]
fn filters_from_elsewhere_never_panic() {
    let good = "family = topic and (gate_on >= 0.5 or value in (cats, 'two words')) and not has note";
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
    for _ in 0..rounds() {
        let text = String::from_utf8_lossy(&mutate(good.as_bytes(), &mut rng, &WORDS)).into_owned();
        let _ = Filter::all().and(&text);
    }
}
