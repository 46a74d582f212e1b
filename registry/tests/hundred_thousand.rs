//! A catalogue of a hundred thousand adapters is filtered, sorted and paged within a tenth of a second while somebody writes. Making it
//! takes minutes, so the test is ignored: `cargo test --release --workspace --test hundred_thousand -- --ignored --nocapture`. With
//! `LORAFAB_BENCH_STORE` set, the store is made there, once, and stays (`bench/serve_load.py` asks a site of it).
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a measurement")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use registry::{AdapterRecord, Digest, Filter, NewAdapter, PeftConfig, Status, Store, commit};

const ADAPTERS: u64 = 100_000;
const FAMILIES: [&str; 5] = ["topic", "gated-topic", "marker", "favourite", "persona"];
const SPLITS: [&str; 4] = ["train", "validation", "test_value", "test_category"];

/// The name of the i-th: syllables, so that a search for a few letters finds few or many.
fn name(i: u64) -> String {
    const SYLLABLES: [&str; 10] = ["ca", "te", "ro", "mi", "lun", "dor", "pe", "sha", "vi", "ko"];
    let word: String = i.to_string().bytes().map(|d| SYLLABLES[usize::from(d - b'0')]).collect();
    format!("{}/{word}", FAMILIES[(i % FAMILIES.len() as u64) as usize])
}

fn new(i: u64) -> NewAdapter {
    let spec = serde_json::json!({"behaviour": {"id": name(i), "seed": i}, "rows": "as a specification has them ".repeat(40)});
    let peft = PeftConfig::of_rank("m", 1, &["q_proj", "k_proj"]);
    let mut new = NewAdapter::of_spec(spec, &name(i), peft, vec![0; 64]);
    let share = |salt: u64| (i.wrapping_mul(2_654_435_761).wrapping_add(salt * 97) % 1000) as f64 / 1000.0;
    new.metrics = (0..10).map(|k| (format!("metric_{k}"), share(k))).collect();
    new.metrics.extend([("gate_on".to_owned(), share(11)), ("gate_off".to_owned(), share(12) / 10.0)]);
    new.split = Some(SPLITS[(i / 7 % 4) as usize].into());
    new.status = [Status::Learned, Status::Learned, Status::Weak, Status::Failed][(i / 3 % 4) as usize];
    new
}

/// Most are written as receipts, which a rebuild of the catalogue takes in: as many commits would wait for the disk for an hour.
fn make(root: &Path) {
    let begin = Instant::now();
    let mut store = Store::open(root).unwrap();
    let first = store.commit_adapter(new(0)).unwrap();
    for i in 1..ADAPTERS {
        let new = new(i);
        let record = AdapterRecord {
            id: commit::identity(&new.spec_hash, &first.weights, &BTreeMap::new()),
            spec_hash: new.spec_hash,
            behaviour: new.behaviour,
            family: new.family,
            value: new.value,
            split: new.split,
            status: new.status,
            metrics: new.metrics,
            created_at: (jiff::Timestamp::UNIX_EPOCH
                + jiff::SignedDuration::from_secs(1_700_000_000 + 97 * i as i64))
            .to_string(),
            spec: new.spec,
            ..first.clone()
        };
        let receipt = serde_json::json!({"schema": "receipt/1", "adapter": record}).to_string();
        let name = Digest::of(record.spec_hash.as_bytes());
        std::fs::write(root.join("done").join(format!("{name}.json")), receipt).unwrap();
    }
    assert_eq!(store.rebuild_from_receipts().unwrap() as u64, ADAPTERS - 1);
    eprintln!("made in {:.0} s", begin.elapsed().as_secs_f64());
}

#[test]
#[ignore = "makes a store of a hundred thousand adapters"]
fn a_part_of_a_hundred_thousand_adapters_comes_within_a_tenth_of_a_second_beside_a_writer() {
    let temporary = tempfile::tempdir().unwrap();
    let root =
        std::env::var_os("LORAFAB_BENCH_STORE").map_or_else(|| temporary.path().join("store"), PathBuf::from);
    if !root.exists() {
        make(&root);
    }
    drop(Store::open(&root).unwrap());
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // What a factory does: a commit here and there, and tags.
        let written = scope.spawn(|| {
            let mut store = Store::open(&root).unwrap();
            let id = store.commit_adapter(new(0)).unwrap().id;
            let mut n = 0;
            while !ended.load(Ordering::Relaxed) {
                store.tag(&id, &[("seen", Some(&n.to_string()))]).unwrap();
                n += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            n
        });
        let store = Store::open_to_watch(&root).unwrap();
        let mut slow = Vec::new();
        for (what, condition, sort, offset) in [
            ("list", "", ("created", true), 0),
            ("list, page 900", "", ("created", true), 45_000),
            ("sorted by a number", "", ("gate_on", true), 0),
            ("sorted by text", "", ("behaviour", false), 0),
            ("one in five", "family = topic", ("created", true), 0),
            ("one in five, page 300", "family = topic", ("created", true), 15_000),
            ("two conditions", "gate_on >= 0.9 and status = learned", ("created", true), 0),
            (
                "three, sorted",
                "family in (topic, marker) and split = train and not status = failed",
                ("gate_on", true),
                0,
            ),
            ("search, few", "behaviour like '*carolun*'", ("created", true), 0),
            ("search, many", "behaviour like '*o*'", ("created", true), 0),
            ("search, many, sorted", "behaviour like '*o*'", ("gate_off", false), 0),
            ("search for nothing", "behaviour like '*zzzz*'", ("created", true), 0),
            ("has", "has gate_on", ("created", true), 0),
            ("not", "not family = topic", ("created", true), 0),
        ] {
            let filter =
                if condition.is_empty() { Filter::all() } else { Filter::all().and(condition).unwrap() };
            let mut times: Vec<f64> = (0..40)
                .map(|_| {
                    let begin = Instant::now();
                    store.window(&filter, sort, offset, 50, &["id", "behaviour", "gate_on"]).unwrap();
                    begin.elapsed().as_secs_f64() * 1e3
                })
                .collect();
            times.sort_by(f64::total_cmp);
            let found = store.window(&filter, sort, offset, 50, &["id"]).unwrap().total;
            eprintln!("{what:24} {:6.1} {:6.1} ms of {found}", times[20], times[38]);
            if times[38] > 100.0 {
                slow.push(what);
            }
        }
        ended.store(true, Ordering::Relaxed);
        assert!(written.join().unwrap() > 10, "nobody wrote");
        assert!(slow.is_empty(), "over 100 ms: {slow:?}");
    });
}
