//! A worker that lost its lease files nothing: no reader, no receipt, no run folder; the next holder files all.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::sync::atomic::AtomicBool;

use compare::{Arms, Plan};
use factory::queue::Claim;
use factory::{Craft, Job, Queue, RunOptions, SubmitOptions};
use lm::{BaseModel, Precision};
use registry::{Filter, Store};

const ARMS: &str = r#"
schema = "arms/1"
[[arm]]
name = "dit"
method = "dit"
train = { steps = 2, rank = 2, batch = 4, evaluate_every = 2 }
seeds = [1]
"#;

fn claim(store: &mut Store, base: &BaseModel, kind: &str, now_ms: i64) -> Job {
    let kinds = [kind];
    let claim = Claim { base: &base.digest(), kinds: &kinds, owner: "w", most: 1, now_ms, lease_ms: 10 };
    let job = Queue::new(store).claim(claim).unwrap().remove(0);
    Queue::new(store).start(&job, now_ms).unwrap();
    job
}

/// Does a job under a lease that is lost meanwhile, then under a fresh one; what it says the first time, what it makes the second.
fn twice(store: &mut Store, base: &BaseModel, kind: &str, now_ms: i64) -> (String, Option<String>) {
    let crafts = compare::crafts();
    let craft = crafts.iter().find(|c| c.kind() == kind).unwrap();
    let stop = AtomicBool::new(false);
    let stale = claim(store, base, kind, now_ms);
    assert_eq!(Queue::new(store).reap(now_ms + 11, |_| false).unwrap(), 1);
    let before = (store.adapters(&Filter::all()).unwrap(), store.root().join("runs/r").exists());
    let failed = craft.work(store, base, &stale, &stop, &mut |_| {}).unwrap_err();
    assert!(!failed.interrupted, "{failed:?}");
    let after = (store.adapters(&Filter::all()).unwrap(), store.root().join("runs/r").exists());
    assert_eq!(before, after, "a stale worker filed something");
    assert_eq!(store.rebuild_from_receipts().unwrap(), 0, "a refused reader left a receipt");
    let later = now_ms + 1_000_000;
    let fresh = claim(store, base, kind, later);
    let made = craft.work(store, base, &fresh, &stop, &mut |_| {}).unwrap();
    Queue::new(store).finish(&fresh, made.as_deref(), "", later + 1).unwrap();
    (failed.reason, made)
}

#[test]
fn a_stale_worker_files_neither_a_reader_nor_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lm/tests/golden/tiny");
    let base = BaseModel::load(&tiny, Precision::F32).unwrap();
    let mut store = Store::open(folder.path()).unwrap();
    let topic = recipes::builtin().into_iter().find(|r| r.name == "topic").unwrap();
    let behaviours = recipes::select(topic.expand(1), [3, 1, 1, 0]);
    let options = SubmitOptions::default();
    factory::submit(&mut store, &base, &[topic], &behaviours, &options, 0).unwrap();
    let adapters = factory::specs(&behaviours, &base.digest(), &[])
        .unwrap()
        .iter()
        .map(factory::AdapterSpec::hash)
        .collect();
    let arms = Arms::parse("arms", ARMS).unwrap();
    let plan = Plan { run: "r", smoke: true, seed: 1, made: false };
    let jobs = compare::jobs(&base, adapters, &arms, plan, &options);
    assert_eq!(jobs.iter().map(|j| j.kind.as_str()).collect::<Vec<_>>(), ["fit", "score", "report"]);
    Queue::new(&mut store).submit(&jobs, 0).unwrap();
    let run = RunOptions {
        pack: 8,
        owner: "w",
        stop: &AtomicBool::new(false),
        enough: &AtomicBool::new(false),
        clock: || 0,
        gone: |_| false,
        crafts: &[],
        drain: true,
    };
    factory::run(&mut store, &base, run, &mut |_| {}).unwrap();

    let (reason, reader) = twice(&mut store, &base, "fit", 10_000_000);
    assert!(reason.contains("lease") && reader.is_some(), "{reason}");
    let crafts = compare::crafts();
    let craft = crafts.iter().find(|c| c.kind() == "score").unwrap();
    let job = claim(&mut store, &base, "score", 20_000_000);
    craft.work(&mut store, &base, &job, &AtomicBool::new(false), &mut |_| {}).unwrap();
    Queue::new(&mut store).finish(&job, None, "", 20_000_001).unwrap();
    let (reason, _) = twice(&mut store, &base, "report", 30_000_000);
    assert!(reason.contains("lease"), "{reason}");
    let report = std::fs::read_to_string(folder.path().join("runs/r/comparison.json")).unwrap();
    assert_eq!(compare::read(&report).unwrap().run, "r");
}
