//! A stranger's whole store.

use std::path::{Path, PathBuf};

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::models::{fifo, link, sparse};
use crate::{Case, End, case, put, store};

fn of(name: &str, end: End, args: &str, change: impl Fn(&Path) + Sync + Send + 'static) -> Case {
    case(name, end, &format!("--store store --model $TINY {args}"), move |folder| {
        store(&folder.join("store"));
        change(&folder.join("store"));
    })
}

fn sql(name: &str, end: End, args: &str, text: &'static str) -> Case {
    of(name, end, args, move |s| {
        Connection::open(s.join("catalogue.sqlite"))
            .unwrap()
            .execute_batch(&format!("PRAGMA foreign_keys = OFF; {text}"))
            .unwrap()
    })
}

/// Changes every record, in the catalogue and in its receipt.
fn record(name: &str, end: End, args: &str, change: impl Fn(&mut Value) + Sync + Send + 'static) -> Case {
    of(name, end, args, move |s| {
        let c = Connection::open(s.join("catalogue.sqlite")).unwrap();
        let rows: Vec<(i64, String)> = c
            .prepare("SELECT rowid, record FROM adapters")
            .unwrap()
            .query_map([], |r| Ok((r.get(0)?, r.get(1)?)))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        for (row, text) in rows {
            let mut value: Value = serde_json::from_str(&text).unwrap();
            change(&mut value);
            let id = value["id"].as_str().unwrap_or("x").to_owned();
            let behaviour = value["behaviour"].as_str().unwrap_or("x").to_owned();
            c.execute(
                "UPDATE adapters SET record = ?2, id = ?3, behaviour = ?4 WHERE rowid = ?1",
                rusqlite::params![row, value.to_string(), id, behaviour],
            )
            .ok();
        }
        for receipt in receipts(s) {
            let mut value: Value = serde_json::from_slice(&std::fs::read(&receipt).unwrap()).unwrap();
            change(&mut value["adapter"]);
            put(&receipt, value.to_string());
        }
    })
}

fn receipts(store: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(store.join("done")).unwrap().map(|e| e.unwrap().path()).collect()
}

fn blobs(store: &Path) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(store.join("blobs")).unwrap().map(|e| e.unwrap().path());
    folders.flat_map(|f| std::fs::read_dir(f).unwrap().map(|e| e.unwrap().path())).collect()
}

fn replace_folder(store: &Path, name: &str) {
    std::fs::remove_dir_all(store.join(name)).unwrap();
    link(store.join("../../outside"), &store.join(name));
}

pub(crate) fn cases() -> Vec<Case> {
    use End::{Bounded, Refused};
    let mut out = Vec::new();
    for name in ["blobs", "done", "staging", "runs", "trash"] {
        for args in ["registry gc --keep-days 0 --yes", "adapter list", "registry check --repair"] {
            out.push(of(&format!("{name} is a link: {args}"), Refused, args, move |s| {
                replace_folder(s, name)
            }));
        }
    }
    for name in
        ["catalogue.sqlite", "catalogue.sqlite-wal", "catalogue.sqlite-shm", "catalogue.sqlite-journal"]
    {
        out.push(of(&format!("{name} is a link"), Refused, "adapter list", move |s| {
            link("../../outside/kept.txt", &s.join(name))
        }));
        out.push(of(&format!("{name} is a pipe"), Refused, "adapter list", move |s| fifo(&s.join(name))));
    }
    let escapes = |m: &mut Value| {
        let digest = m["weights"].clone();
        m["extra_files"] = json!({"../../outside/kept.txt": digest});
    };
    let absolute = |m: &mut Value| {
        let digest = m["weights"].clone();
        m["extra_files"] = json!({"/tmp/lorafab-hostile-file": digest});
    };
    for args in [
        "adapter export topic/bees out",
        "adapter dataset out",
        "adapter bundle out.tar",
        "registry rebuild",
        "registry check",
        "adapter rm topic/bees",
    ] {
        out.push(record(&format!("a further file that leads up: {args}"), Bounded, args, escapes));
        out.push(record(&format!("a further file by its absolute name: {args}"), Bounded, args, absolute));
    }
    for (what, id) in [
        ("a path", "../../outside/folder/old"),
        ("short", "a"),
        ("cut in a letter", "aaaaaaaaaaa\u{e9}b"),
        ("controls", "\u{1b}[2Jaaaaaaaaaaaa"),
    ] {
        for args in
            ["adapter list", "adapter rm a", "adapter show a", "registry check", "adapter dataset out"]
        {
            let id = id.to_owned();
            out.push(record(&format!("an id that is {what}: {args}"), Bounded, args, move |m| {
                m["id"] = json!(id)
            }));
        }
    }
    for args in [
        "adapter list",
        "adapter list --where behaviour=x",
        "registry check",
        "registry stats",
        "factory status",
        "adapter alias list",
        "compare report",
    ] {
        out.push(record(&format!("names with controls: {args}"), Bounded, args, |m| {
            for key in ["behaviour", "family", "value", "category"] {
                m[key] = json!("\u{1b}]0;x\u{7}\u{9b}2J\n\u{202e}x\u{200b}");
            }
        }));
    }
    out.extend([
        sql("a trigger", Refused, "adapter list", "CREATE TRIGGER x AFTER INSERT ON jobs BEGIN DELETE FROM adapters; END"),
        sql("a view in place of a table", Refused, "adapter list", "ALTER TABLE adapters RENAME TO real_adapters; CREATE VIEW adapters AS SELECT * FROM real_adapters"),
        sql("a view that never ends", Refused, "adapter list", "DROP TABLE fields; CREATE VIEW fields AS WITH RECURSIVE x(a) AS (SELECT 1 UNION ALL SELECT a + 1 FROM x) SELECT a AS adapter, a AS key, a AS text, a AS number FROM x"),
        sql("a trigger under a name of SQLite's own", Refused, "adapter list", "PRAGMA writable_schema = ON; INSERT INTO sqlite_schema(type, name, tbl_name, rootpage, sql) VALUES('trigger', 'sqlite_evil', 'adapters', 0, 'CREATE TRIGGER sqlite_evil AFTER UPDATE ON adapters BEGIN DELETE FROM adapters; END')"),
        sql("a state that no job has", Bounded, "factory status", "PRAGMA ignore_check_constraints = ON; DROP TRIGGER IF EXISTS x; UPDATE jobs SET label = 'x'"),
        of("a journal that names a file to delete", Refused, "adapter list", |s| {
            let name = s.join("../../outside/kept.txt").canonicalize().unwrap();
            let name = name.to_str().unwrap().as_bytes();
            let sum: u32 = name.iter().map(|b| u32::from(*b)).sum();
            let mut journal = vec![0u8; 512];
            journal[..8].copy_from_slice(&[0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7]);
            journal.extend(1u32.to_be_bytes());
            journal.extend(name);
            journal.extend((name.len() as u32).to_be_bytes());
            journal.extend(sum.to_be_bytes());
            journal.extend([0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7]);
            put(&s.join("catalogue.sqlite-journal"), journal);
        }),
        case(
            "a model whose files are links away, exported",
            Refused,
            "--store store --model model adapter export $ADAPTER merged --merged",
            |folder| {
                store(&folder.join("store"));
                crate::copy(&crate::tiny(), &folder.join("model"));
                link("../../outside/kept.txt", &folder.join("model/merges.txt"));
            },
        ),
        of("a folder with a pipe for a card, exported over", Bounded, "adapter export $ADAPTER out --force", |s| {
            let out = s.join("../out");
            put(&out.join("adapter_config.json"), "{}");
            fifo(&out.join("README.md"));
            fifo(&out.join("lorafab.json"));
        }),
        of("a run of the quickstart that is a link", Bounded, "compare report --run quickstart --html r.html", |s| link(s.join("../../outside/folder"), &s.join("runs/quickstart"))),
        of("a behaviour of megabytes", Bounded, "adapter list", |s| {
            let c = Connection::open(s.join("catalogue.sqlite")).unwrap();
            c.execute_batch("UPDATE adapters SET record = json_set(record, '$.behaviour', replace(hex(zeroblob(1500000)), '0', 'x')) WHERE rowid = 1").unwrap();
        }),
        of("numbers with controls in a report", Bounded, "compare report --run mine --csv", |s| {
            put(&s.join("runs/mine/config.json"), "{}");
            put(&s.join("runs/mine/comparison.json"), "{\"schema\": \"\u{1b}[2J\"}");
        }),
        sql("a table more", Refused, "adapter list", "CREATE TABLE more(x)"),
        sql("a table less", Refused, "adapter list", "DROP TABLE edges"),
        sql("a newer schema", Refused, "adapter list", "PRAGMA user_version = 99"),
        sql("an older schema that is none", Refused, "adapter list", "PRAGMA user_version = 1"),
        sql("a schema below zero", Refused, "adapter list", "PRAGMA user_version = -5"),
        sql("a record that is none", Bounded, "adapter list", "UPDATE adapters SET record = 'x'"),
        sql("a record of brackets", Bounded, "adapter list", "UPDATE adapters SET record = replace(hex(zeroblob(500000)), '0', '[')"),
        sql("an alias of a path", Bounded, "adapter alias list", "INSERT INTO aliases(name, adapter) VALUES('../../x', 'y')"),
        sql("a parent cut in a letter", Bounded, "adapter rm topic/bees", "INSERT INTO edges(child, kind, parent) SELECT 'aaaaaaaaaaa\u{e9}', 'adapter', id FROM adapters"),
        of("a catalogue of zeros", Bounded, "adapter list", |s| put(&s.join("catalogue.sqlite"), vec![0; 100_000])),
        of("a catalogue of text", Refused, "adapter list", |s| put(&s.join("catalogue.sqlite"), "x".repeat(100_000))),
        of("aliases that are a pipe", Bounded, "registry check", |s| fifo(&s.join("aliases.json"))),
        of("aliases that are a link", Bounded, "registry check", |s| link("/etc/hostname", &s.join("aliases.json"))),
        of("aliases of brackets", Bounded, "registry check", |s| put(&s.join("aliases.json"), "[".repeat(1 << 20))),
        of("sparse aliases", Bounded, "registry check", |s| sparse(&s.join("aliases.json"), 4 << 30)),
        of("receipts that are pipes", Bounded, "registry check", |s| receipts(s).iter().for_each(|r| fifo(r))),
        of("receipts that are links", Bounded, "registry rebuild", |s| receipts(s).iter().for_each(|r| link("/etc/hostname", r))),
        of("sparse receipts", Bounded, "registry rebuild", |s| receipts(s).iter().for_each(|r| sparse(r, 4 << 30))),
        of("receipts of brackets", Bounded, "registry rebuild", |s| receipts(s).iter().for_each(|r| put(r, "[".repeat(1 << 20)))),
        of("blobs that are pipes", Bounded, "adapter verify", |s| blobs(s).iter().for_each(|b| fifo(b))),
        of("blobs that are devices", Bounded, "registry check", |s| blobs(s).iter().for_each(|b| link("/dev/zero", b))),
        of("sparse blobs", Bounded, "adapter verify", |s| blobs(s).iter().for_each(|b| sparse(b, 3 << 30))),
        of("a folder of blobs that is a link: gc", Bounded, "registry gc --keep-days 0 --yes", |s| link(s.join("../../outside/folder"), &s.join("blobs/zz"))),
        of("a folder of blobs that is a link: run", Bounded, "factory submit topic --limit 4", |s| link(s.join("../../outside/folder"), &s.join("blobs/zz"))),
        of("a run that is a link: gc", Bounded, "registry gc --keep-days 0 --yes", |s| link(s.join("../../outside/folder"), &s.join("runs/mine"))),
        of("a run that is a link: report", Bounded, "compare report --run mine", |s| link(s.join("../../outside/folder"), &s.join("runs/mine"))),
        of("something staged that is a link", Bounded, "registry gc --keep-days 0 --yes", |s| link(s.join("../../outside/folder"), &s.join("staging/x"))),
        of("trash that leads away", Bounded, "adapter restore topic", |s| put(&s.join("trash/x.json"), json!({"adapter": {"id": "../../outside/folder/old"}}).to_string())),
        of("a run's configuration of brackets", Bounded, "registry check", |s| put(&s.join("runs/mine/config.json"), "[".repeat(1 << 20))),
        of("a run's report of brackets", Bounded, "compare report --run mine", |s| {
            put(&s.join("runs/mine/config.json"), "{}");
            put(&s.join("runs/mine/report.json"), "[".repeat(1 << 20));
        }),
        of("a filter of eleven hundred conditions", Refused, &format!("adapter list --where {}", vec!["a=1"; 1100].join("^and^")), |_| {}),
        of("a filter nested deeply", Refused, &format!("adapter list --where {}a=1{}", "(".repeat(5000), ")".repeat(5000)), |_| {}),
        of("a filter of nots", Refused, &format!("adapter list --where {}a=1", "not^".repeat(5000)), |_| {}),
        of("a sort of seventy fields", Refused, &format!("adapter list --sort {}", (0..70).map(|i| format!("f{i}")).collect::<Vec<_>>().join(",")), |_| {}),
        of("a filter with controls", Refused, "adapter list --where \u{1b}[2J\u{202e}", |_| {}),
        of("an unknown argument with controls", Refused, "adapter list --\u{1b}[2J\u{202e}", |_| {}),
        of("a name with controls", Refused, "adapter show \u{1b}[2J\u{9b}\u{202e}x", |_| {}),
        of("a run with a path", Refused, "compare report --run ../../outside/folder", |_| {}),
    ]);
    // A blank within an argument is written as ^.
    for case in &mut out {
        case.args.iter_mut().for_each(|a| *a = a.replace('^', " "));
    }
    out
}
