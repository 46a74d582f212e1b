//! Upkeep by several people at once: an adapter is there or in the trash or gone, never half, and errors are in our own words.

use std::time::{Duration, Instant};

use registry::{Error, Filter, NewAdapter, PeftConfig, Store};

fn adapter(behaviour: &str) -> NewAdapter {
    NewAdapter::of_spec(
        serde_json::json!({ "behaviour": behaviour }),
        behaviour,
        PeftConfig::of_rank("m", 1, &["q_proj"]),
        behaviour.as_bytes().to_vec(),
    )
}

/// What one of them does to an adapter.
type Act<'a> = &'a (dyn Fn(&mut Store, &str) -> registry::Result<()> + Sync);

#[test]
fn removing_restoring_tagging_and_collecting_race_and_nothing_is_half_there() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    let mut store = Store::open(&root).unwrap();
    let ids: Vec<String> =
        (0..4).map(|i| store.commit_adapter(adapter(&format!("topic/v{i}"))).unwrap().id).collect();
    let end = Instant::now() + Duration::from_secs(3);
    let work = |act: Act<'_>| {
        let mut store = Store::open(&root).unwrap();
        let mut n = 0;
        while Instant::now() < end {
            for id in &ids {
                match act(&mut store, id) {
                    Ok(()) => n += 1,
                    Err(
                        Error::NotFound { .. }
                        | Error::NotInTrash { .. }
                        | Error::MadeAgain { .. }
                        | Error::Vanished { .. },
                    ) => {}
                    Err(e) => panic!("{e}: {e:?}"),
                }
            }
        }
        n
    };
    let counts: Vec<usize> = std::thread::scope(|scope| {
        let acts: [Act<'_>; 5] = [
            &|s, id| s.remove(id).map(drop),
            &|s, id| s.restore(id).map(drop),
            &|s, id| s.tag(id, &[("note", Some("x"))]).map(drop),
            &|s, _| {
                let plan = s.gc_plan(Duration::ZERO)?;
                s.gc(&plan)
            },
            &|s, id| {
                let which = s.adapter(id)?.behaviour;
                s.commit_adapter(adapter(&which)).map(drop)
            },
        ];
        let running: Vec<_> = acts.into_iter().map(|act| scope.spawn(move || work(act))).collect();
        running.into_iter().map(|r| r.join().unwrap()).collect()
    });
    assert!(counts[0] > 0 && counts[3] > 0, "{counts:?}");
    let report = store.check(&|_, _| {}).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    for record in store.adapters(&Filter::all()).unwrap() {
        assert_eq!(store.weights(&record).unwrap(), record.behaviour.as_bytes());
    }
}
