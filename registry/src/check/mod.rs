//! Is everything as it is claimed? Every blob against its digest, every row against its blobs and its receipt, every job's state
//! against the log; and what of it can be mended.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use rusqlite::OptionalExtension;
use serde::Serialize;

use crate::commit::{files, identity, parse, read_receipt};
use crate::{AdapterRecord, Digest, Filter, Result, Store, index};

mod jobs;
mod repair;

pub use repair::Repair;
use repair::wrong_column;

/// What is wrong with one thing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// Which thing: a blob's digest, an adapter, a receipt's file, a job, an alias.
    pub subject: String,
    /// One sentence.
    pub what: String,
    /// Whether `--repair` mends it.
    pub repairable: bool,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CheckReport {
    /// Adapters in the catalogue.
    pub adapters: usize,
    /// Receipts read.
    pub receipts: usize,
    /// Jobs compared with their log.
    pub jobs: usize,
    /// Blobs hashed.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Seconds that the hashing took.
    pub seconds: f64,
    /// What is wrong, in order.
    pub problems: Vec<Problem>,
}

/// Result of checking one adapter's bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerifyOutcome {
    /// Adapter id.
    pub id: String,
    /// Behaviour.
    pub behaviour: String,
    /// What is wrong; `None` when all is well.
    pub problem: Option<String>,
}

/// How often something is looked at that others may be changing, and the time between: a commit's write takes less than all of it.
const LOOKS: usize = 12;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;

fn hash_file(path: &Path, buffer: &mut [u8]) -> std::io::Result<String> {
    let (mut file, _) = fence::open::open_own(path, u64::MAX)?;
    let mut hasher = blake3::Hasher::new();
    loop {
        match file.read(buffer)? {
            0 => return Ok(hasher.finalize().to_hex().to_string()),
            n => hasher.update(&buffer[..n]),
        };
    }
}

/// Columns of an adapter's row that its record has too.
const COLUMNS: [&str; 6] = ["id", "spec_hash", "behaviour", "family", "status", "role"];

/// [`COLUMNS`] of a row that begins with them.
fn columns_of(r: &rusqlite::Row<'_>) -> rusqlite::Result<[String; 6]> {
    Ok([r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?, r.get(5)?])
}

/// What the catalogue held at one moment.
#[derive(Default)]
struct Catalogue {
    records: Vec<AdapterRecord>,
    jobs: usize,
    problems: Vec<Problem>,
}

impl Catalogue {
    fn say(&mut self, subject: String, what: String, repairable: bool) {
        self.problems.push(Problem { subject, what, repairable });
    }
}

impl Store {
    /// Re-hashes the files of the adapters that pass the filter.
    pub fn verify(
        &self,
        filter: &Filter,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Vec<VerifyOutcome>> {
        let check = |r: &AdapterRecord| -> Result<()> {
            self.get_blob(&r.weights)?;
            r.extra_files.values().try_for_each(|d| self.get_blob(d).map(drop))
        };
        let records = self.adapters(filter)?;
        let all = records.len();
        let outcome = |(i, r): (usize, AdapterRecord)| {
            let problem = check(&r).err().map(|e| e.to_string());
            progress(i + 1, all);
            VerifyOutcome { problem, id: r.id, behaviour: r.behaviour }
        };
        Ok(records.into_iter().enumerate().map(outcome).collect())
    }

    /// The catalogue as it stands at one moment, and what of it contradicts itself.
    fn catalogue(&self) -> Result<Catalogue> {
        self.query(|c| {
            let c = c.unchecked_transaction()?;
            let rows: Vec<([String; 6], String)> = c
                .prepare(&format!(
                    "SELECT {}, record FROM adapters ORDER BY behaviour, id",
                    COLUMNS.join(", ")
                ))?
                .query_map([], |r| Ok((columns_of(r)?, r.get(6)?)))?
                .collect::<rusqlite::Result<_>>()?;
            let mut out = Catalogue::default();
            for (columns, json) in rows {
                let record: AdapterRecord = match serde_json::from_str(&json) {
                    Ok(record) => record,
                    Err(e) => {
                        let [id, spec_hash, ..] = columns;
                        let receipt = self.receipt_path(&spec_hash).exists();
                        out.say(format!("adapter {id}"), format!("its row cannot be read: {e}"), receipt);
                        continue;
                    }
                };
                if let Some((name, text)) = wrong_column(&columns, &record) {
                    let said = record.field(name).unwrap_or_default();
                    out.say(
                        record.behaviour.clone(),
                        format!("its column {name} is {text:?}, its record says {said:?}"),
                        true,
                    );
                } else if let Some(what) = index::wrong(&c, &record)? {
                    out.say(record.behaviour.clone(), what, true);
                }
                out.records.push(record);
            }
            let loose = index::loose(&c)?;
            if loose > 0 {
                out.say(
                    "index".into(),
                    format!("fields of {loose} adapters that are not there are filed"),
                    true,
                );
            }
            out.problems.extend(jobs::problems(&c)?);
            out.jobs = c.query_row("SELECT COUNT(*) FROM jobs", [], |r| r.get::<_, i64>(0))? as usize;
            Ok(out)
        })
    }

    /// Whether an adapter's row and receipt are at odds, read under one lock: others write both under it.
    fn at_odds(&self, spec_hash: &str) -> Result<bool> {
        // What lies in a log that cannot be read is not known.
        if self.may_be_old() {
            return Ok(false);
        }
        let path = self.receipt_path(spec_hash);
        let look = || {
            self.locked(|c| {
                let row: Option<String> = c
                    .query_row("SELECT record FROM adapters WHERE spec_hash = ?1", [spec_hash], |r| r.get(0))
                    .optional()?;
                let row = row.and_then(|j| parse(&j).ok());
                let receipt = read_receipt(&path).ok();
                Ok(if row == receipt { vec![] } else { vec![()] })
            })
        };
        Ok(!self.lasting(look)?.is_empty())
    }

    /// What is found at one moment. Without the right to lock others out, what is found again and again: others write a row and a
    /// file one after the other.
    pub(crate) fn lasting<T: PartialEq>(&self, look: impl Fn() -> Result<Vec<T>>) -> Result<Vec<T>> {
        let mut found = look()?;
        let mut looks = 1;
        while self.read_only() && !found.is_empty() && looks < LOOKS {
            std::thread::sleep(PAUSE);
            let again = look()?;
            found.retain(|p| again.contains(p));
            looks += 1;
        }
        Ok(found)
    }

    /// Checks everything. Changes nothing; other processes may go on working.
    pub fn check(&self, progress: &(dyn Fn(usize, usize) + Sync)) -> Result<CheckReport> {
        // Rows before blobs: what is committed meanwhile has its blobs, and is looked at the next time.
        let Catalogue { records: rows, jobs, mut problems } = self.catalogue()?;
        let begin = Instant::now();
        let blobs = self.blobs()?;
        let bytes = blobs.iter().map(|b| b.2).sum();
        let damaged = damaged(&blobs, progress)?;
        let seconds = begin.elapsed().as_secs_f64();
        let present: BTreeMap<&Digest, u64> = blobs.iter().map(|b| (&b.0, b.2)).collect();
        let mut say = |subject: String, what: String, repairable: bool| {
            problems.push(Problem { subject, what, repairable });
        };
        let mut named: BTreeMap<&Digest, &AdapterRecord> = BTreeMap::new();
        for row in &rows {
            if identity(&row.spec_hash, &row.weights, &row.extra_files) != row.id {
                say(row.behaviour.clone(), "its id is not that of its files".into(), false);
            }
            let found = present.get(&row.weights).copied();
            if let Some(found) = found.filter(|n| *n != row.weights_bytes) {
                let said = row.weights_bytes;
                say(
                    row.behaviour.clone(),
                    format!("says that its weights have {said} bytes; they have {found}"),
                    false,
                );
            }
            for digest in files(row) {
                named.insert(digest, row);
                if !present.contains_key(digest) && self.get_blob(digest).is_err() {
                    say(
                        row.behaviour.clone(),
                        format!("its blob {digest} is missing; make or import the adapter again"),
                        false,
                    );
                }
            }
        }
        for (digest, found) in &damaged {
            match named.get(digest) {
                Some(row) => say(
                    row.behaviour.clone(),
                    format!(
                        "its blob {digest} is damaged (it hashes to {found}); make or import the adapter again"
                    ),
                    false,
                ),
                None => say(
                    digest.to_string(),
                    format!("the blob is damaged (it hashes to {found}); no adapter names it"),
                    true,
                ),
            }
        }
        let receipts = self.receipts()?;
        let by_spec: BTreeMap<&str, &AdapterRecord> =
            rows.iter().map(|r| (r.spec_hash.as_str(), r)).collect();
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        for (path, receipt) in &receipts {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match receipt {
                Err(e) => say(name, format!("the receipt cannot be read: {e}"), false),
                Ok(r) if *path != self.receipt_path(&r.spec_hash) => {
                    say(
                        name,
                        format!("lies where another's receipt would; it is that of {}", r.behaviour),
                        false,
                    );
                }
                Ok(r) => {
                    seen.insert(&r.spec_hash);
                    match by_spec.get(r.spec_hash.as_str()) {
                        // One committed since the rows were read is no problem.
                        None if self.at_odds(&r.spec_hash)? => {
                            say(
                                r.behaviour.clone(),
                                "has a receipt but no row in the catalogue".into(),
                                true,
                            );
                        }
                        Some(row) if *row != r && self.at_odds(&r.spec_hash)? => {
                            say(r.behaviour.clone(), "its row is not what its receipt says".into(), true);
                        }
                        _ => {}
                    }
                }
            }
        }
        for row in &rows {
            if !seen.contains(row.spec_hash.as_str()) && self.at_odds(&row.spec_hash)? {
                say(
                    row.behaviour.clone(),
                    "has a row but no receipt: a lost catalogue would lose it".into(),
                    true,
                );
            }
        }
        if !self.may_be_old() {
            problems.extend(self.lasting(|| self.alias_problems())?);
            problems.extend(self.lasting(|| self.run_problems())?);
        }
        problems.sort();
        Ok(CheckReport {
            adapters: rows.len(),
            receipts: receipts.len(),
            jobs,
            blobs: blobs.len(),
            bytes,
            seconds,
            problems,
        })
    }
}

type Blob = (Digest, std::path::PathBuf, u64);

/// The blobs whose bytes are not what their name says, with what they hash to; hashed on all cores.
fn damaged(blobs: &[Blob], progress: &(dyn Fn(usize, usize) + Sync)) -> Result<Vec<(Digest, String)>> {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || -> Result<Vec<(Digest, String)>> {
        let mut buffer = vec![0; CHUNK];
        let mut bad = Vec::new();
        while let Some((digest, path, _)) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            match hash_file(path, &mut buffer) {
                Ok(found) if found == digest.as_str() => {}
                Ok(found) => bad.push((digest.clone(), found)),
                // Removed by a collection meanwhile.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                // Whatever hides its bytes.
                Err(e) => bad.push((digest.clone(), format!("nothing, it cannot be read: {}", e.kind()))),
            }
            progress(next.load(Ordering::Relaxed).min(blobs.len()), blobs.len());
        }
        Ok(bad)
    };
    let mut all = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        handles
            .into_iter()
            .map(|h| h.join().expect("invariant: hashing does not panic"))
            .collect::<Result<Vec<_>>>()
    })?
    .concat();
    all.sort();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::{insert, receipt_text};
    use crate::store::tests::new_adapter;

    fn problems(store: &Store) -> Vec<String> {
        let report = store.check(&|_, _| {}).unwrap();
        report.problems.into_iter().map(|p| format!("{}: {}", p.subject, p.what)).collect()
    }

    #[test]
    fn every_kind_of_damage_is_found_and_what_can_be_is_mended() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        let a = store.commit_adapter(new_adapter("topic/cats", vec![1, 2, 3])).unwrap();
        let b = store.commit_adapter(new_adapter("topic/dogs", vec![4])).unwrap();
        let c = store.commit_adapter(new_adapter("topic/owls", vec![5])).unwrap();
        store.set_alias("best", &a.id).unwrap();
        let insert =
            "INSERT INTO jobs(spec_hash, spec, label, family, pack_key) VALUES('h','{}','l','f','p')";
        store.transaction(|t| t.execute(insert, [])).unwrap();
        assert_eq!(problems(&store), Vec::<String>::new());

        // A lost receipt, a changed row, a lost row, an unnamed damaged blob.
        fs_err::remove_file(store.receipt_path(&a.spec_hash)).unwrap();
        store.transaction(|t| t.execute("UPDATE adapters SET record = replace(record, '\"value\":\"dogs\"', '\"value\":\"cows\"') WHERE id = ?1", [&b.id])).unwrap();
        store.transaction(|t| t.execute("DELETE FROM adapters WHERE id = ?1", [&c.id])).unwrap();
        let loose = store.put_blob(b"loose").unwrap();
        let path = |d: &Digest| folder.path().join("blobs").join(&d.as_str()[..2]).join(d.as_str());
        fs_err::write(path(&loose), b"lost").unwrap();
        let found = problems(&store);
        assert_eq!(found.len(), 5, "{found:?}");
        for part in [
            "has a row but no receipt",
            "not what its receipt says",
            "field \"value\" is not filed",
            "no row",
            "no adapter names it",
        ] {
            assert!(found.iter().any(|p| p.contains(part)), "{part}: {found:?}");
        }
        let done = store.repair().unwrap();
        assert_eq!((done.rows, done.receipts, done.replaced, done.blobs), (1, 1, 1, 1));
        assert_eq!(problems(&store), Vec::<String>::new());
        assert_eq!(store.repair().unwrap(), Repair::default());
        assert_eq!(store.adapter(&b.id).unwrap(), b);
        assert_eq!(store.adapters(&Filter::all().equals("value", "owls")).unwrap(), [c]);

        // Damaged bytes of an adapter are said and not mended; a job's state that its log does not bear out too.
        fs_err::write(path(&a.weights), [1, 2, 4]).unwrap();
        store
            .query(|c| {
                c.execute_batch(
                    "DROP TRIGGER jobs_legal; DROP TRIGGER jobs_logged; UPDATE jobs SET state = 'succeeded'",
                )
            })
            .unwrap();
        let found = problems(&store);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[1].contains("topic/cats") && found[1].contains("damaged"), "{found:?}");
        assert!(found[0].contains("its log ends with queued"), "{found:?}");
        assert!(store.weights(&a).unwrap_err().to_string().contains("damaged"));
        assert_eq!(
            store
                .verify(&Filter::all(), &mut |_, _| {})
                .unwrap()
                .iter()
                .filter(|v| v.problem.is_some())
                .count(),
            1
        );
    }

    /// A value of the same shape that is another one.
    fn other(key: &str, value: &serde_json::Value) -> serde_json::Value {
        use serde_json::{Value, json};
        match (key, value) {
            ("role", _) => json!("oracle"),
            ("status", _) => json!("weak"),
            ("weights", _) => json!(Digest::of(b"other")),
            ("extra_files", _) => json!({"other.json": Digest::of(b"other")}),
            ("tags" | "lineage", _) => json!({"k": "v"}),
            ("metrics", _) => json!({"k": 0.5}),
            ("peft", _) => {
                let mut peft = value.clone();
                peft["r"] = json!(7);
                peft
            }
            ("id", _) => json!("0".repeat(32)),
            (_, Value::Array(_)) => json!(["x"]),
            (_, Value::Number(n)) => json!(n.as_u64().unwrap() + 1),
            (_, Value::String(s)) => json!(format!("{s}x")),
            _ => json!({"x": 1}),
        }
    }

    /// A store with one adapter that has everything an adapter can have, and its record.
    fn full(folder: &Path) -> (Store, AdapterRecord) {
        let mut store = Store::open(folder).unwrap();
        let mut new = new_adapter("topic/cats", vec![1, 2, 3]);
        new.metrics = BTreeMap::from([("gate_on".to_owned(), 0.5), ("k0".to_owned(), 1.0)]);
        new.tags = BTreeMap::from([("note".to_owned(), "x".to_owned())]);
        new.lineage = BTreeMap::from([("base".to_owned(), "b".to_owned())]);
        new.parents = vec!["p".into()];
        let record = store.commit_adapter(new).unwrap();
        (store, record)
    }

    #[test]
    fn every_field_of_a_row_is_held_against_its_receipt() {
        let folder = tempfile::tempdir().unwrap();
        let (mut store, record) = full(folder.path());
        let whole = serde_json::to_value(&record).unwrap();
        for (key, value) in whole.as_object().unwrap() {
            let mut changed = whole.clone();
            changed[key] = other(key, value);
            serde_json::from_value::<AdapterRecord>(changed.clone()).unwrap();
            store
                .transaction(|t| t.execute("UPDATE adapters SET record = ?1", [changed.to_string()]))
                .unwrap();
            assert!(!problems(&store).is_empty(), "{key}");
            assert_eq!(store.repair().unwrap().replaced, 1, "{key}");
            assert_eq!(problems(&store), Vec::<String>::new(), "{key}");
            assert_eq!(store.adapters(&Filter::all()).unwrap(), std::slice::from_ref(&record), "{key}");
        }
    }

    #[test]
    fn what_is_derived_from_a_record_is_compared_and_recomputed() {
        let folder = tempfile::tempdir().unwrap();
        let (mut store, record) = full(folder.path());
        store.query(|c| c.pragma_update(None, "foreign_keys", "OFF")).unwrap();
        let mut damages: Vec<String> =
            COLUMNS.iter().map(|c| format!("UPDATE adapters SET {c} = 'x'")).collect();
        for key in record.keys().filter(|k| record.field(k).is_some()) {
            damages.push(format!("DELETE FROM fields WHERE key = '{key}'"));
            damages.push(format!("UPDATE fields SET text = text || 'x' WHERE key = '{key}'"));
            damages.push(format!("UPDATE fields SET number = COALESCE(number, 0) + 1 WHERE key = '{key}'"));
        }
        damages.extend(
            [
                "INSERT INTO fields(adapter, key, text) SELECT id, 'more', 'x' FROM adapters",
                "INSERT INTO fields(adapter, key, text) VALUES('nobody', 'value', 'x')",
                "DELETE FROM edges WHERE kind = 'base'",
                "DELETE FROM edges WHERE kind = 'adapter'",
                "INSERT INTO edges(child, kind, parent) SELECT id, 'adapter', 'q' FROM adapters",
                "UPDATE edges SET parent = 'q' WHERE kind = 'adapter'",
            ]
            .map(str::to_owned),
        );
        for damage in &damages {
            store.transaction(|t| t.execute(damage, [])).unwrap();
            assert!(!problems(&store).is_empty(), "{damage}");
            assert_ne!(store.repair().unwrap(), Repair::default(), "{damage}");
            assert_eq!(problems(&store), Vec::<String>::new(), "{damage}");
            assert_eq!(store.repair().unwrap(), Repair::default(), "{damage}");
            let found =
                Filter::all().and("value = cats and note = x and gate_on = 0.5 and family = topic").unwrap();
            assert_eq!(store.adapters(&found).unwrap(), std::slice::from_ref(&record), "{damage}");
            assert_eq!(store.lineage(&record.id).unwrap().0.len(), 2, "{damage}");
        }
        // Columns are derived from the record also where there is no receipt.
        fs_err::remove_file(store.receipt_path(&record.spec_hash)).unwrap();
        store.transaction(|t| t.execute("UPDATE adapters SET spec_hash = 'x', family = 'y'", [])).unwrap();
        let done = store.repair().unwrap();
        assert_eq!((done.replaced, done.receipts), (1, 1));
        assert_eq!(problems(&store), Vec::<String>::new());
    }

    #[test]
    fn a_record_that_its_files_contradict_is_said_and_not_guessed_at() {
        let folder = tempfile::tempdir().unwrap();
        let (mut store, record) = full(folder.path());
        let put = |store: &mut Store, r: &AdapterRecord| {
            store.transaction(|t| t.execute("DELETE FROM adapters", []).and_then(|_| insert(t, r))).unwrap();
            fs_err::write(store.receipt_path(&record.spec_hash), receipt_text(r)).unwrap();
        };
        for (wrong, part) in [
            (AdapterRecord { weights_bytes: 4, ..record.clone() }, "have 4 bytes; they have 3"),
            (AdapterRecord { id: "0".repeat(32), ..record.clone() }, "its id is not that of its files"),
        ] {
            put(&mut store, &wrong);
            assert_eq!(store.repair().unwrap(), Repair::default());
            let found = problems(&store);
            assert!(found.len() == 1 && found[0].contains(part), "{found:?}");
        }
        // A receipt in another's place is nobody's.
        put(&mut store, &record);
        let misplaced = store.receipt_path("another");
        fs_err::write(misplaced, receipt_text(&AdapterRecord { value: "dogs".into(), ..record.clone() }))
            .unwrap();
        assert_eq!(store.repair().unwrap(), Repair::default());
        let found = problems(&store);
        assert!(found.len() == 1 && found[0].contains("another's receipt"), "{found:?}");
    }

    #[test]
    fn what_is_derived_in_the_queue_is_compared_and_recomputed() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        store.query(|c| c.pragma_update(None, "foreign_keys", "OFF")).unwrap();
        let jobs = "INSERT INTO jobs(id, spec_hash, spec, label, family, pack_key) VALUES(1,'h1','{}','t/a','f','p'), (2,'h2','{}','t/b','f','p');
            INSERT INTO job_needs(job, needs, only_ok) VALUES(2, 1, 1); UPDATE jobs SET deps_left = 1 WHERE id = 2";
        store.transaction(|t| t.execute_batch(jobs)).unwrap();
        assert_eq!(problems(&store), Vec::<String>::new());
        let queue = |store: &Store| -> Vec<(String, i64)> {
            store
                .query(|c| {
                    c.prepare("SELECT state, deps_left FROM jobs ORDER BY id")?
                        .query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?
                        .collect()
                })
                .unwrap()
        };
        let before = queue(&store);
        let unguarded = |sql: &str| format!("DROP TRIGGER jobs_legal; DROP TRIGGER jobs_logged; {sql}");
        for (damage, part) in [
            (
                "UPDATE jobs SET deps_left = 0 WHERE id = 2".to_owned(),
                "job t/b: waits for 0 jobs by its row, for 1 by its needs",
            ),
            (
                "INSERT INTO job_needs(job, needs, only_ok) VALUES(2, 9, 1)".to_owned(),
                "job t/b: job 2 needs job 9; one of them does not exist",
            ),
            (
                "INSERT INTO job_needs(job, needs, only_ok) VALUES(9, 1, 1)".to_owned(),
                "job 9: job 9 needs job 1",
            ),
            // Not a change that a job makes, and it ends what another one waits for.
            (
                unguarded("UPDATE jobs SET state = 'running' WHERE id = 1"),
                "job t/a: is running, but its log ends with queued",
            ),
            (
                "UPDATE jobs SET state = 'dead' WHERE id = 1".to_owned(),
                "job t/a: is dead, but its log ends with queued",
            ),
        ] {
            store.query(|c| c.execute_batch(&damage)).unwrap();
            let found = problems(&store);
            assert!(found.iter().any(|p| p.starts_with(part)), "{damage}: {found:?}");
            let done = store.repair().unwrap();
            assert!(done.jobs + done.needs > 0, "{damage}");
            assert_eq!((problems(&store), queue(&store)), (Vec::new(), before.clone()), "{damage}");
            assert_eq!(store.repair().unwrap(), Repair::default(), "{damage}");
        }
    }

    #[test]
    fn a_repair_leaves_the_queue_guarded() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        let insert =
            "INSERT INTO jobs(spec_hash, spec, label, family, pack_key) VALUES('h','{}','l','f','p')";
        store.transaction(|t| t.execute(insert, [])).unwrap();
        store.repair().unwrap();
        let error = store.transaction(|t| t.execute("UPDATE jobs SET state = 'running'", [])).unwrap_err();
        assert!(format!("{error:?}").contains("illegal transition"), "{error:?}");
        store.transaction(|t| t.execute("UPDATE jobs SET state = 'cancelled'", [])).unwrap();
        let events: i64 =
            store.query(|c| c.query_row("SELECT COUNT(*) FROM events", [], |r| r.get(0))).unwrap();
        assert_eq!(events, 2);
    }
}
