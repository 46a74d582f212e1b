//! Records from elsewhere, changed at random: whatever is read as one has an id and names that are safe as names of files.
//!
//! A few thousand inputs by default; a million with `LORAFAB_FUZZ=1000000 cargo test --release -p registry --test untrusted`.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use registry::{AdapterRecord, NewAdapter, PeftConfig, Store, file_name};

const WORDS: [&str; 14] = [
    "../",
    "..",
    "/",
    "\\u0000",
    "\\u202e",
    "\"",
    "null",
    "[[",
    "-1",
    "e300",
    ".",
    "a",
    "00000000000000000000000000000000",
    "{\"x\":\"",
];

#[test]
fn what_is_read_as_a_record_names_no_place_outside() {
    let rounds = std::env::var("LORAFAB_FUZZ").ok().and_then(|v| v.parse().ok()).unwrap_or(20_000);
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path()).unwrap();
    let new = NewAdapter {
        extra_files: BTreeMap::from([("note.json".to_owned(), b"{}".to_vec()), ("b".to_owned(), vec![1])]),
        ..NewAdapter::of_spec(
            serde_json::json!({"a": 1}),
            "topic/cats",
            PeftConfig::of_rank("m", 1, &["q_proj"]),
            vec![1],
        )
    };
    let good = serde_json::to_string(&store.commit_adapter(new).unwrap()).unwrap();
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(5);
    let (mut read, mut refused) = (0, 0);
    for _ in 0..rounds {
        let mut text: Vec<char> = good.chars().collect();
        for _ in 0..rng.random_range(1..=3) {
            let at = rng.random_range(0..=text.len());
            match rng.random_range(0..3) {
                0 => drop(text.splice(at..at, WORDS.choose(&mut rng).unwrap().chars())),
                1 if at < text.len() => text[at] = char::from(rng.random_range(32u8..127)),
                _ => drop(text.drain(at..(at + rng.random_range(0..9)).min(text.len()))),
            }
        }
        let text: String = text.into_iter().collect();
        let Ok(record) = serde_json::from_str::<AdapterRecord>(&text) else {
            refused += 1;
            continue;
        };
        read += 1;
        let hash = file_name(&record.spec_hash);
        for name in record.extra_files.keys().map(String::as_str).chain([record.id.as_str(), &hash]) {
            let path = Path::new("/root").join(name);
            assert!(path.parent() == Some(Path::new("/root")), "{name:?}");
            assert!(path.components().all(|c| !matches!(c, Component::ParentDir)), "{name:?}");
            assert!(name.bytes().all(|b| b.is_ascii_graphic()), "{name:?}");
        }
    }
    assert!(read > rounds / 100 && refused > rounds / 100, "{read} {refused}: the inputs test nothing");
}
