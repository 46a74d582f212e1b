//! Stopping and going on: an adapter that was interrupted has the bytes of one that was not.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use factory::{Event, Queue, RunOptions, RunSummary, SubmitOptions};
use lm::{BaseModel, Precision};
use registry::{Filter, Store};

fn tiny() -> BaseModel {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lm/tests/golden/tiny");
    BaseModel::load(&folder, Precision::F32).unwrap()
}

fn submit(store: &mut Store, base: &BaseModel, n: usize) {
    let recipes: Vec<_> = recipes::builtin().into_iter().filter(|r| r.name == "favourite").collect();
    let behaviours = recipes::first(recipes[0].expand(1), n);
    factory::submit(store, base, &recipes, &behaviours, &SubmitOptions::default(), 0).unwrap();
}

/// Runs until the queue is empty or `stop_after` steps were taken.
fn run(store: &mut Store, base: &BaseModel, stop_after: usize) -> RunSummary {
    let stop = AtomicBool::new(false);
    let mut steps = 0;
    let options = RunOptions {
        pack: 4,
        owner: "host/1/1/0",
        stop: &stop,
        enough: &AtomicBool::new(false),
        clock: || 1000,
        gone: |_| false,
        crafts: &[],
        drain: false,
    };
    factory::run(store, base, options, &mut |event| {
        if let Event::Step { .. } = event {
            steps += 1;
            if steps >= stop_after {
                stop.store(true, Ordering::Relaxed);
            }
        }
    })
    .unwrap()
}

fn ids(store: &Store) -> BTreeMap<String, String> {
    store.adapters(&Filter::all()).unwrap().into_iter().map(|r| (r.behaviour, r.id)).collect()
}

#[test]
fn a_run_stopped_at_every_step_makes_the_bytes_of_one_that_was_not() {
    let base = tiny();
    let folder = tempfile::tempdir().unwrap();
    let mut whole = Store::open(&folder.path().join("whole")).unwrap();
    submit(&mut whole, &base, 4);
    assert_eq!(run(&mut whole, &base, usize::MAX).committed, 4);
    let mut pieces = Store::open(&folder.path().join("pieces")).unwrap();
    submit(&mut pieces, &base, 4);
    let (mut runs, mut saved) = (0, 0);
    loop {
        runs += 1;
        let summary = run(&mut pieces, &base, 1);
        let staging = std::fs::read_dir(folder.path().join("pieces/staging")).unwrap().count();
        saved = saved.max(staging);
        let attempts = Queue::new(&mut pieces).jobs().unwrap().into_iter().map(|j| j.attempt).max();
        assert!(attempts <= Some(1), "a stop cost an attempt");
        if !summary.stopped || runs > 100 {
            break;
        }
    }
    assert!(runs > 3 && saved == 4, "{runs} runs, {saved} checkpoints: nothing was interrupted");
    assert_eq!(ids(&pieces), ids(&whole));
    assert_eq!(
        std::fs::read_dir(folder.path().join("pieces/staging")).unwrap().count(),
        0,
        "checkpoints are left"
    );
    for record in pieces.adapters(&Filter::all()).unwrap() {
        let twin = whole.adapter_by_spec(&record.spec_hash).unwrap().unwrap();
        assert_eq!(pieces.weights(&record).unwrap(), whole.weights(&twin).unwrap());
        assert_eq!(record.metrics["tokens"], twin.metrics["tokens"]);
        assert_eq!(record.metrics["final_loss"].to_bits(), twin.metrics["final_loss"].to_bits());
    }
}

#[test]
fn a_worker_that_has_done_enough_ends_with_the_pack_in_hand() {
    let base = tiny();
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path()).unwrap();
    submit(&mut store, &base, 4);
    let (stop, enough) = (AtomicBool::new(false), AtomicBool::new(false));
    let options = RunOptions {
        pack: 2,
        owner: "host/1/1/0",
        stop: &stop,
        enough: &enough,
        clock: || 1000,
        gone: |_| false,
        crafts: &[],
        drain: false,
    };
    let done = factory::run(&mut store, &base, options, &mut |event| {
        if let Event::Step { .. } = event {
            enough.store(true, Ordering::Relaxed);
        }
    })
    .unwrap();
    assert_eq!((done.committed, done.stopped), (2, false));
    assert_eq!(Queue::new(&mut store).open_jobs().unwrap().len(), 2);
}

#[test]
fn a_damaged_checkpoint_costs_time_and_nothing_else() {
    let base = tiny();
    let folder = tempfile::tempdir().unwrap();
    let mut whole = Store::open(&folder.path().join("whole")).unwrap();
    submit(&mut whole, &base, 1);
    run(&mut whole, &base, usize::MAX);
    for damage in ["cut", "flip", "other"] {
        let mut store = Store::open(&folder.path().join(damage)).unwrap();
        submit(&mut store, &base, 1);
        assert!(run(&mut store, &base, 2).stopped);
        let staging = folder.path().join(damage).join("staging");
        let path = std::fs::read_dir(staging).unwrap().next().unwrap().unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        match damage {
            "cut" => bytes.truncate(bytes.len() / 2),
            "flip" => bytes[3] ^= 0x55,
            _ => bytes = b"not a checkpoint".to_vec(),
        }
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(run(&mut store, &base, usize::MAX).committed, 1);
        assert_eq!(ids(&store), ids(&whole), "{damage}");
    }
}
