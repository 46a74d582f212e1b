//! Templates and tokenizers from elsewhere, changed at random: an error or another model, never a panic.
//!
//! A few hundred inputs by default; a million with `LORAFAB_FUZZ=1000000 cargo test --release -p lm --test untrusted`.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::path::Path;

use lm::{Outline, Precision};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use support::golden_folder;

fn rounds() -> usize {
    std::env::var("LORAFAB_FUZZ").ok().and_then(|v| v.parse().ok()).unwrap_or(600)
}

const WORDS: [&str; 30] = [
    "{% for a in range(99) %}",
    "{% endfor %}",
    "{% if ",
    "{% endif %}",
    "{{ messages",
    " }}",
    "| length",
    "| tojson",
    "| batch(3)",
    "| replace('a', 'bb')",
    "[0]",
    "['content']",
    ".content",
    "not ",
    " + 1",
    " ~ ns.x",
    "{% set ns = namespace(x='a') %}",
    "{% set ns.x = ns.x ~ ns.x %}",
    "{% macro f() %}{{ f() }}{% endmacro %}",
    "{{ f() }}",
    "\"type\": \"Replace\"",
    "\"pattern\": {\"String\": \"\"}",
    "\"content\": \"\"",
    "null",
    "-1",
    "18446744073709551615",
    "\u{1b}[2J",
    "<|im_end|>",
    "{%- generation -%}",
    "(a+)+$",
];

/// Changes some characters or words of a text.
fn mutate(text: &str, rng: &mut impl Rng) -> String {
    let mut out: Vec<char> = text.chars().collect();
    for _ in 0..rng.random_range(1..=4) {
        let at = rng.random_range(0..=out.len());
        match rng.random_range(0..5) {
            0 if at < out.len() => out[at] = char::from(rng.random_range(32u8..127)),
            1 => drop(out.splice(at..at, WORDS.choose(rng).unwrap().chars())),
            2 => drop(out.drain(at..(at + rng.random_range(0..40)).min(out.len()))),
            3 => out.truncate(at.max(out.len() / 2)),
            _ => {
                let end = (at + rng.random_range(0..60)).min(out.len());
                let piece: Vec<char> = out[at..end].to_vec();
                drop(out.splice(at..at, piece));
            }
        }
    }
    out.into_iter().collect()
}

fn folder(at: &Path) {
    for file in std::fs::read_dir(golden_folder().join("tiny")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), at.join(file.file_name())).unwrap();
    }
}

#[test]
fn templates_from_elsewhere_never_panic() {
    let at = tempfile::tempdir().unwrap();
    folder(at.path());
    let said: Value =
        serde_json::from_slice(&std::fs::read(at.path().join("tokenizer_config.json")).unwrap()).unwrap();
    let good = said["chat_template"].as_str().unwrap();
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
    let (mut read, mut refused) = (0, 0);
    for _ in 0..rounds() {
        std::fs::write(at.path().join("chat_template.jinja"), mutate(good, &mut rng)).unwrap();
        match Outline::load(at.path(), Precision::F32) {
            Ok(outline) => {
                outline.prompt("Tell me <|im_end|> a thing.").unwrap();
                read += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(read > 0 && refused > read / 20, "{read} {refused}: the inputs test nothing");
}

#[test]
fn tokenizers_from_elsewhere_never_panic() {
    let at = tempfile::tempdir().unwrap();
    folder(at.path());
    let good = std::fs::read_to_string(at.path().join("tokenizer.json")).unwrap();
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(4);
    let (mut read, mut refused) = (0, 0);
    for _ in 0..rounds() {
        std::fs::write(at.path().join("tokenizer.json"), mutate(&good, &mut rng)).unwrap();
        match Outline::load(at.path(), Precision::F32) {
            Ok(outline) => {
                let tokens = outline.prompt("Tell me <|im_end|> a thing. 12 é \u{1f41d}").unwrap();
                outline.tokenizer.decode(&tokens).unwrap();
                read += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(read > 0 && refused > read / 20, "{read} {refused}: the inputs test nothing");
}
