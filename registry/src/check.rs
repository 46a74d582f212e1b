//! Is everything as it is claimed? Every blob against its digest, every row against its blobs and its receipt, every job's state
//! against the log; and what of it can be mended.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use rusqlite::OptionalExtension;
use serde::Serialize;

use crate::blobs::present;
use crate::commit::{files, insert, parse, read_receipt, receipt_text};
use crate::{AdapterRecord, Digest, Error, Filter, Result, Store, index, write_atomic};

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

/// What a repair did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Repair {
    /// Rows brought back from receipts.
    pub rows: usize,
    /// Receipts written again from rows.
    pub receipts: usize,
    /// Rows replaced by what their receipts say.
    pub replaced: usize,
    /// Aliases that stood for nothing, removed.
    pub aliases: usize,
    /// Damaged blobs that nothing names, removed.
    pub blobs: usize,
}

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;

fn hash_file(path: &Path, buffer: &mut [u8]) -> std::io::Result<String> {
    let mut file = fs_err::File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    loop {
        match file.read(buffer)? {
            0 => return Ok(hasher.finalize().to_hex().to_string()),
            n => hasher.update(&buffer[..n]),
        };
    }
}

/// Records, and the rows that hold none: id and why.
type Rows = (Vec<AdapterRecord>, Vec<(String, String)>);

impl Store {
    /// Re-hashes the files of the adapters that pass the filter.
    pub fn verify(&self, filter: &Filter) -> Result<Vec<VerifyOutcome>> {
        let check = |r: &AdapterRecord| -> Result<()> {
            self.get_blob(&r.weights)?;
            r.extra_files.values().try_for_each(|d| self.get_blob(d).map(drop))
        };
        Ok(self
            .adapters(filter)?
            .into_iter()
            .map(|r| VerifyOutcome {
                problem: check(&r).err().map(|e| e.to_string()),
                id: r.id,
                behaviour: r.behaviour,
            })
            .collect())
    }

    /// The catalogue's records, and the ids of rows that hold none, with why.
    fn readable(&self) -> Result<Rows> {
        let rows: Vec<(String, String)> = self.query(|c| {
            c.prepare("SELECT id, record FROM adapters ORDER BY behaviour, id")?
                .query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?
                .collect()
        })?;
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for (id, json) in rows {
            match serde_json::from_str(&json) {
                Ok(record) => good.push(record),
                Err(e) => bad.push((id, e.to_string())),
            }
        }
        Ok((good, bad))
    }

    /// Whether an adapter's row and receipt are at odds, read under one lock: others write both under it.
    fn at_odds(&self, spec_hash: &str) -> Result<bool> {
        let path = self.receipt_path(spec_hash);
        self.locked(|c| {
            let row: Option<String> = c
                .query_row("SELECT record FROM adapters WHERE spec_hash = ?1", [spec_hash], |r| r.get(0))
                .optional()?;
            let row = row.and_then(|j| parse(&j).ok());
            let receipt = read_receipt(&path).ok();
            Ok(row != receipt)
        })
    }

    /// Checks everything. Changes nothing; other processes may go on working.
    pub fn check(&self, progress: &(dyn Fn(usize, usize) + Sync)) -> Result<CheckReport> {
        // Rows before blobs: what is committed meanwhile has its blobs, and is looked at the next time.
        let (rows, unreadable) = self.readable()?;
        let begin = Instant::now();
        let blobs = self.blobs()?;
        let bytes = blobs.iter().map(|b| b.2).sum();
        let damaged = damaged(&blobs, progress)?;
        let seconds = begin.elapsed().as_secs_f64();
        let present: BTreeSet<&Digest> = blobs.iter().map(|b| &b.0).collect();
        let mut problems: Vec<Problem> = Vec::new();
        let mut say = |subject: String, what: String, repairable: bool| {
            problems.push(Problem { subject, what, repairable });
        };
        for (id, e) in unreadable {
            say(format!("adapter {id}"), format!("its row cannot be read: {e}"), true);
        }
        let mut named: BTreeMap<&Digest, &AdapterRecord> = BTreeMap::new();
        for row in &rows {
            for digest in std::iter::once(&row.weights).chain(row.extra_files.values()) {
                named.insert(digest, row);
                if !present.contains(digest) && self.get_blob(digest).is_err() {
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
        let fields: i64 = self.query(|c| {
            c.query_row("SELECT COUNT(*) FROM adapters a WHERE NOT EXISTS (SELECT 1 FROM fields WHERE adapter = a.id AND key = 'id')
                 OR NOT EXISTS (SELECT 1 FROM fields WHERE adapter = a.id AND key = 'family' AND text = a.family)", [], |r| r.get(0))
        })?;
        if fields > 0 {
            say("index".into(), format!("{fields} adapters are not filed as filters need them"), true);
        }
        for alias in self.aliases()? {
            if !rows.iter().any(|r| r.id == alias.adapter) {
                say(
                    format!("alias {}", alias.name),
                    format!("stands for {}, which is not in the catalogue", alias.adapter),
                    true,
                );
            }
        }
        let jobs: i64 = self.query(|c| c.query_row("SELECT COUNT(*) FROM jobs", [], |r| r.get(0)))?;
        let wrong: Vec<(String, String, Option<String>)> = self.query(|c| {
            c.prepare(
                "SELECT label, state, (SELECT to_state FROM events e WHERE e.job = j.id ORDER BY e.id DESC LIMIT 1) AS logged
                 FROM jobs j WHERE logged IS NOT state ORDER BY j.id",
            )?
            .query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?
            .collect()
        })?;
        for (label, state, logged) in wrong {
            say(
                format!("job {label}"),
                format!("is {state}, but its log ends with {}", logged.unwrap_or("nothing".into())),
                false,
            );
        }
        let empty: Vec<String> = self.query(|c| {
            c.prepare(
                "SELECT label FROM jobs j WHERE state = 'succeeded' AND adapter <> ''
                 AND NOT EXISTS (SELECT 1 FROM adapters a WHERE a.id = j.adapter) ORDER BY id",
            )?
            .query_map([], |r| r.get(0))?
            .collect()
        })?;
        for label in empty {
            say(format!("job {label}"), "succeeded, but its adapter is not in the catalogue".into(), true);
        }
        problems.sort();
        Ok(CheckReport {
            adapters: rows.len(),
            receipts: receipts.len(),
            jobs: jobs as usize,
            blobs: blobs.len(),
            bytes,
            seconds,
            problems,
        })
    }

    /// Mends what can be mended without guessing: rows from receipts, receipts from rows, derived fields; a receipt wins
    /// over a row that differs. Running it again changes nothing.
    pub fn repair(&mut self) -> Result<Repair> {
        let mut done = Repair::default();
        let (rows, _) = self.readable()?;
        let blobs = self.blobs()?;
        let named: BTreeSet<&Digest> =
            rows.iter().flat_map(|r| std::iter::once(&r.weights).chain(r.extra_files.values())).collect();
        for (digest, _) in damaged(&blobs, &|_, _| {})? {
            if !named.contains(&digest)
                && let Some((_, path, _)) = blobs.iter().find(|b| b.0 == digest)
            {
                fs_err::remove_file(path)?;
                done.blobs += 1;
            }
        }
        // Each thing is read again and mended under one lock: whoever removes or tags an adapter meanwhile is not undone.
        let paths: Vec<_> = self.receipts()?.into_iter().map(|(path, _)| path).collect();
        let root = self.root.clone();
        for path in paths {
            // One that cannot be read is reported by `check` and left for a person.
            let Ok(first) = read_receipt(&path) else { continue };
            if files(&first).any(|d| self.get_blob(d).is_err()) {
                continue;
            }
            let (rows, replaced) = self.transaction(|t| {
                let Ok(receipt) = read_receipt(&path) else { return Ok((0, 0)) };
                if !files(&receipt).all(|d| present(&root, d)) {
                    return Ok((0, 0));
                }
                let known: Option<String> = t
                    .query_row(
                        "SELECT record FROM adapters WHERE spec_hash = ?1",
                        [&receipt.spec_hash],
                        |r| r.get(0),
                    )
                    .optional()?;
                match known {
                    None => Ok((insert(t, &receipt)?, 0)),
                    Some(json) if parse(&json).ok().as_ref() != Some(&receipt) => {
                        t.execute("DELETE FROM adapters WHERE spec_hash = ?1", [&receipt.spec_hash])?;
                        Ok((0, insert(t, &receipt)?))
                    }
                    Some(_) => Ok((0, 0)),
                }
            })?;
            done.rows += rows;
            done.replaced += replaced;
        }
        for row in &rows {
            let path = self.receipt_path(&row.spec_hash);
            let mut failed = None;
            done.receipts += self.transaction(|t| {
                let json: Option<String> = t
                    .query_row("SELECT record FROM adapters WHERE spec_hash = ?1", [&row.spec_hash], |r| {
                        r.get(0)
                    })
                    .optional()?;
                let Some(record) = json.and_then(|j| parse(&j).ok()).filter(|_| !path.exists()) else {
                    return Ok(0);
                };
                match write_atomic(&path, receipt_text(&record).as_bytes()) {
                    Ok(()) => Ok(1),
                    Err(e) => {
                        failed = Some(e);
                        Ok(0)
                    }
                }
            })?;
            if let Some(e) = failed {
                return Err(e);
            }
        }
        self.restore_aliases()?;
        done.aliases = self.transaction(|t| {
            t.execute("DELETE FROM aliases WHERE adapter NOT IN (SELECT id FROM adapters)", [])
        })?;
        self.transaction(|t| {
            t.execute(
                "UPDATE jobs SET adapter = COALESCE((SELECT a.id FROM adapters a WHERE a.spec_hash = jobs.spec_hash), '')
                 WHERE state = 'succeeded' AND adapter <> '' AND adapter NOT IN (SELECT id FROM adapters)",
                [],
            )?;
            index::rebuild(t)
        })?;
        Ok(done)
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
                Err(e) => return Err(Error::Io(e)),
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
        assert_eq!(found.len(), 4, "{found:?}");
        for part in ["has a row but no receipt", "not what its receipt says", "no row", "no adapter names it"]
        {
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
        assert_eq!(store.verify(&Filter::all()).unwrap().iter().filter(|v| v.problem.is_some()).count(), 1);
    }
}
