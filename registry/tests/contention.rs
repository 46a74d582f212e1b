//! Several processes on one catalogue: whoever waits, waits, and loses nothing.

use std::time::{Duration, Instant};

use registry::Store;

/// Somebody else holds the write lock for ten seconds.
#[test]
fn a_catalogue_that_is_busy_for_ten_seconds_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let mut mine = Store::open(&path).unwrap();
    let (locked, wait) = std::sync::mpsc::channel();
    let other = std::thread::spawn(move || {
        let mut other = Store::open(&path).unwrap();
        other
            .transaction(|t| {
                t.execute("INSERT INTO settings(key, value) VALUES('other', '1')", [])?;
                locked.send(()).unwrap();
                std::thread::sleep(Duration::from_secs(10));
                Ok(())
            })
            .unwrap();
    });
    wait.recv().unwrap();
    let begin = Instant::now();
    // Reading goes on meanwhile.
    assert_eq!(mine.stats().unwrap().adapters, 0);
    assert!(begin.elapsed() < Duration::from_secs(5), "a reader waited for a writer");
    mine.transaction(|t| t.execute("INSERT INTO settings(key, value) VALUES('mine', '1')", [])).unwrap();
    assert!(begin.elapsed() >= Duration::from_secs(9), "{:?}: it was not busy", begin.elapsed());
    other.join().unwrap();
    let n: i64 = mine.query(|c| c.query_row("SELECT COUNT(*) FROM settings", [], |r| r.get(0))).unwrap();
    assert_eq!(n, 2);
}

/// Tags that are set at once by many are all there.
#[test]
fn nobodys_tags_are_lost() {
    let folder = tempfile::tempdir().unwrap();
    let id = Store::open(folder.path()).unwrap().commit_adapter(adapter()).unwrap().id;
    std::thread::scope(|scope| {
        for w in 0..12 {
            let (path, id) = (folder.path(), &id);
            scope.spawn(move || {
                Store::open(path).unwrap().tag(id, &[(&format!("k{w}"), Some("1"))]).unwrap();
            });
        }
    });
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(store.adapter(&id).unwrap().tags.len(), 12);
    assert!(store.check(&|_, _| {}).unwrap().problems.is_empty());
}

/// A check beside people who tag and remove reports nothing that is not so.
#[test]
fn a_check_beside_changes_reports_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path()).unwrap();
    let id = store.commit_adapter(adapter()).unwrap().id;
    std::thread::scope(|scope| {
        let path = folder.path();
        let id = &id;
        let changes = scope.spawn(move || {
            let mut store = Store::open(path).unwrap();
            for i in 0..60 {
                store.tag(id, &[("n", Some(&i.to_string()))]).unwrap();
                store.remove(id).unwrap();
                store.restore(id).unwrap();
            }
        });
        while !changes.is_finished() {
            let report = store.check(&|_, _| {}).unwrap();
            assert_eq!(report.problems, []);
            store.repair().unwrap();
        }
        changes.join().unwrap();
    });
    assert_eq!(store.adapter(&id).unwrap().tags["n"], "59");
}

fn adapter() -> registry::NewAdapter {
    let peft = registry::PeftConfig::of_rank("m", 1, &["q_proj"]);
    registry::NewAdapter::bare("h", "t/a", peft, vec![1, 2, 3])
}

/// Many writers at once, each sees all of its own and of the others' in the end.
#[test]
fn eight_writers_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for w in 0..8 {
            let path = folder.path();
            scope.spawn(move || {
                let mut store = Store::open(path).unwrap();
                for i in 0..50 {
                    let key = format!("{w}/{i}");
                    store
                        .transaction(|t| {
                            t.execute("INSERT INTO settings(key, value) VALUES(?1, 'x')", [&key])
                        })
                        .unwrap();
                }
            });
        }
    });
    let store = Store::open(folder.path()).unwrap();
    let n: i64 = store.query(|c| c.query_row("SELECT COUNT(*) FROM settings", [], |r| r.get(0))).unwrap();
    assert_eq!(n, 400);
}
