//! How an adapter enters the catalogue: its bytes, then its receipt, then its row; and how rows come back from receipts.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rusqlite::{OptionalExtension, Transaction, params};

use crate::blobs::{Staged, present, settle};
use crate::record::{AdapterRecord, NewAdapter};
use crate::store::check_name;
use crate::{Digest, Error, Result, Store, index};

impl Store {
    /// Adds an adapter: its bytes are durable first; then receipt and row appear together. The same `spec_hash` again returns the first record.
    pub fn commit_adapter(&mut self, new: NewAdapter) -> Result<AdapterRecord> {
        self.commit_adapter_with(new, |_, _| Ok(true)).map(|r| r.expect("invariant: the closure agrees"))
    }

    /// As [`Store::commit_adapter`], with further statements in the row's own transaction. If they return `false`, nothing
    /// is recorded and the result is `None`.
    pub fn commit_adapter_with(
        &mut self,
        new: NewAdapter,
        also: impl FnOnce(&Transaction<'_>, &AdapterRecord) -> rusqlite::Result<bool>,
    ) -> Result<Option<AdapterRecord>> {
        let spec_hash = new.spec_hash.clone();
        let mut record = match self.adapter_by_spec(&spec_hash)? {
            Some(record) => record,
            None => self.make_durable(new)?,
        };
        let path = self.receipt_path(&spec_hash);
        // Its bytes are written before the catalogue is locked: others wait for a rename only.
        let receipt = Staged::write(&path, receipt_text(&record).as_bytes())?;
        let root = self.root.clone();
        let mut failed = None;
        let committed = self.transaction(|t| {
            // A concurrent commit of the same spec may have won since: its row and receipt stand.
            let known: Option<String> = t
                .prepare_cached("SELECT record FROM adapters WHERE spec_hash = ?1")?
                .query_row([&spec_hash], |r| r.get(0))
                .optional()?;
            if let Some(json) = &known {
                match parse(json) {
                    Ok(first) => record = first,
                    Err(e) => {
                        failed = Some(e);
                        return Err(rusqlite::Error::QueryReturnedNoRows);
                    }
                }
            }
            if !also(t, &record)? {
                return Ok(false);
            }
            if known.is_some() {
                return Ok(true);
            }
            // Nothing removes a blob while the catalogue is locked.
            if let Some(missing) = files(&record).find(|d| !present(&root, d)) {
                failed = Some(Error::Vanished { digest: missing.to_string() });
                return Err(rusqlite::Error::QueryReturnedNoRows);
            }
            insert(t, &record)?;
            // A refused commit leaves no receipt that the next rebuild would bring back; a kill after the receipt leaves
            // an adapter that was agreed to, and that the rebuild finds.
            if let Err(e) = receipt.place() {
                failed = Some(e);
                return Err(rusqlite::Error::QueryReturnedNoRows);
            }
            Ok(true)
        });
        if let Some(e) = failed {
            return Err(e);
        }
        if !committed? {
            return Ok(None);
        }
        // Others need not wait for this. A power cut before it may leave a row without its receipt, which `check` finds and
        // `--repair` writes.
        settle(&path)?;
        Ok(Some(record))
    }

    /// Adds a record from elsewhere whose blobs are here: receipt and row. `false` if the catalogue has its specification.
    pub fn admit(&mut self, record: &AdapterRecord) -> Result<bool> {
        let path = self.receipt_path(&record.spec_hash);
        let receipt = Staged::write(&path, receipt_text(record).as_bytes())?;
        let mut failed = None;
        let added = self.transaction(|t| {
            if insert(t, record)? == 0 {
                return Ok(false);
            }
            if let Err(e) = receipt.publish() {
                failed = Some(e);
                return Err(rusqlite::Error::QueryReturnedNoRows);
            }
            Ok(true)
        });
        match failed {
            Some(e) => Err(e),
            None => added,
        }
    }

    fn make_durable(&self, new: NewAdapter) -> Result<AdapterRecord> {
        let weights = self.put_blob(&new.weights)?;
        let mut extra_files = BTreeMap::new();
        for (name, bytes) in &new.extra_files {
            check_name(name)?;
            extra_files.insert(name.clone(), self.put_blob(bytes)?);
        }
        Ok(AdapterRecord {
            id: identity(&new.spec_hash, &weights, &extra_files),
            spec_hash: new.spec_hash,
            role: new.role,
            behaviour: new.behaviour,
            family: new.family,
            value: new.value,
            category: new.category,
            split: new.split,
            status: new.status,
            tags: new.tags,
            metrics: new.metrics,
            peft: new.peft,
            weights,
            weights_bytes: new.weights.len() as u64,
            parents: new.parents,
            lineage: new.lineage,
            extra_files,
            evaluations: BTreeMap::new(),
            created_at: jiff::Timestamp::now().to_string(),
            spec: new.spec,
        })
    }

    /// Takes in the adapter of a specification if its receipt is there and its files are whole, and returns its id: what a
    /// kill between the receipt and the row leaves behind.
    pub fn adopt(&mut self, spec_hash: &str) -> Result<Option<String>> {
        if let Some(record) = self.adapter_by_spec(spec_hash)? {
            return Ok(Some(record.id));
        }
        let path = self.receipt_path(spec_hash);
        if !path.exists() {
            return Ok(None);
        }
        // One that cannot be read or whose bytes are damaged is made again, which writes both anew.
        let Ok(record) = read_receipt(&path) else { return Ok(None) };
        if record.spec_hash != spec_hash || !files(&record).all(|d| self.get_blob(d).is_ok()) {
            return Ok(None);
        }
        self.transaction(|t| insert(t, &record))?;
        Ok(Some(record.id))
    }

    /// Where the receipt of a specification lies.
    pub(crate) fn receipt_path(&self, spec_hash: &str) -> PathBuf {
        self.root.join("done").join(format!("{}.json", Digest::of(spec_hash.as_bytes())))
    }

    /// The adapter made from a spec, if there is one.
    pub fn adapter_by_spec(&self, spec_hash: &str) -> Result<Option<AdapterRecord>> {
        let json: Option<String> = self.query(|c| {
            c.prepare_cached("SELECT record FROM adapters WHERE spec_hash = ?1")?
                .query_row([spec_hash], |r| r.get(0))
                .optional()
        })?;
        json.map(|j| parse(&j)).transpose()
    }

    /// Every receipt: its path and its record, or why it cannot be read.
    pub(crate) fn receipts(&self) -> Result<Vec<(PathBuf, Result<AdapterRecord>)>> {
        let mut paths: Vec<PathBuf> = fs_err::read_dir(self.root.join("done"))?
            .map(|e| e.map(|e| e.path()))
            .collect::<Result<_, _>>()?;
        paths.retain(|p| p.extension().is_some_and(|e| e == "json"));
        paths.sort();
        // One that went to the trash since it was listed is none; a link that leads nowhere is one that cannot be read.
        let gone = |path: &PathBuf, read: &Result<AdapterRecord>| {
            let missing = matches!(read, Err(Error::Io(e)) if e.kind() == std::io::ErrorKind::NotFound);
            missing && !path.is_symlink()
        };
        let read = paths.into_iter().map(|p| (p.clone(), read_receipt(&p)));
        Ok(read.filter(|(path, read)| !gone(path, read)).collect())
    }

    /// Adds every receipt's adapter that the catalogue lacks, the aliases and the runs; returns how many adapters were added.
    ///
    /// # Errors
    /// If a receipt or a file that it names is damaged; all others have been taken in.
    pub fn rebuild_from_receipts(&mut self) -> Result<usize> {
        let mut missing = Vec::new();
        let mut bad = Vec::new();
        for (path, record) in self.receipts()? {
            let whole = record.and_then(|r| {
                files(&r).try_for_each(|d| self.get_blob(d).map(drop))?;
                Ok(r)
            });
            match whole {
                Ok(r) if self.adapter_by_spec(&r.spec_hash)?.is_none() => missing.push(r),
                Ok(_) => {}
                Err(e) => bad.push(format!("{}: {e}", path.display())),
            }
        }
        let mut added = 0;
        // Leases of jobs must not wait for ten thousand rows.
        for part in missing.chunks(1000) {
            added +=
                self.transaction(|t| part.iter().map(|r| insert(t, r)).sum::<rusqlite::Result<usize>>())?;
        }
        self.restore_aliases()?;
        self.refile_runs()?;
        match bad.len() {
            0 => Ok(added),
            n => Err(Error::Rebuilt { added, bad: n, first: bad.remove(0) }),
        }
    }
}

/// An adapter's id: digest of its specification and its files.
pub fn identity(spec_hash: &str, weights: &Digest, extra_files: &BTreeMap<String, Digest>) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(spec_hash.as_bytes());
    hasher.update(weights.as_str().as_bytes());
    for (name, digest) in extra_files {
        hasher.update(name.as_bytes());
        hasher.update(digest.as_str().as_bytes());
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

/// The beginning of an id, as it is shown.
pub fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// The blobs that a record names.
pub fn files(record: &AdapterRecord) -> impl Iterator<Item = &Digest> {
    std::iter::once(&record.weights).chain(record.extra_files.values())
}

/// The form of receipts.
const RECEIPT: &str = "receipt/1";

/// The text of a receipt.
pub(crate) fn receipt_text(record: &AdapterRecord) -> String {
    serde_json::json!({"schema": RECEIPT, "adapter": record}).to_string()
}

pub(crate) fn read_receipt(path: &std::path::Path) -> Result<AdapterRecord> {
    let text = fence::open::read_own_text(path, 2 * fence::open::SMALL)?;
    let json = |source| Error::Json { what: path.display().to_string(), source };
    let mut value: serde_json::Value = serde_json::from_str(&text).map_err(json)?;
    if value["schema"] != RECEIPT {
        let what = format!("schema is {}, not \"{RECEIPT}\": another lorafab wrote it", value["schema"]);
        return Err(json(serde::de::Error::custom(what)));
    }
    serde_json::from_value(value["adapter"].take()).map_err(json)
}

/// Adds a row and what is derived from it, unless the spec has one.
pub(crate) fn insert(t: &Transaction<'_>, record: &AdapterRecord) -> rusqlite::Result<usize> {
    let n = t
        .prepare_cached(
            "INSERT INTO adapters(id, spec_hash, behaviour, family, status, role, record) VALUES(?1,?2,?3,?4,?5,?6,?7) ON CONFLICT(spec_hash) DO NOTHING",
        )?
        .execute(params![
            record.id,
            record.spec_hash,
            record.behaviour,
            record.family,
            record.field("status"),
            record.field("role"),
            row_text(record)
        ])?;
    if n == 1 {
        index::put(t, record)?;
        // A job of this spec that was lost with an old catalogue, or made elsewhere, has what it wanted.
        t.prepare_cached("UPDATE jobs SET adapter = ?2 WHERE spec_hash = ?1 AND state = 'succeeded'")?
            .execute(params![record.spec_hash, record.id])?;
    }
    Ok(n)
}

/// A record as its row holds it.
pub(crate) fn row_text(record: &AdapterRecord) -> String {
    serde_json::to_string(record).expect("invariant: plain data")
}

pub(crate) fn parse(json: &str) -> Result<AdapterRecord> {
    serde_json::from_str(json)
        .map_err(|source| Error::Json { what: "adapter record in the catalogue".into(), source })
}

#[cfg(test)]
mod tests {
    use crate::store::tests::new_adapter;
    use crate::{Filter, Listing, Store};

    #[test]
    fn a_receipt_of_another_form_is_not_taken_for_one_of_ours() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        let a = store.commit_adapter(new_adapter("topic/cats", vec![1, 2])).unwrap();
        store.transaction(|t| t.execute("DELETE FROM adapters", [])).unwrap();
        let path = store.receipt_path(&a.spec_hash);
        let ours = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, ours.replace("receipt/1", "receipt/2")).unwrap();
        let said = store.rebuild_from_receipts().unwrap_err().to_string();
        assert!(said.contains("receipt/2"), "{said}");
        std::fs::write(&path, ours).unwrap();
        assert_eq!(store.rebuild_from_receipts().unwrap(), 1);
    }

    #[test]
    fn commit_is_idempotent_and_prefixes_find_adapters() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        let a = store.commit_adapter(new_adapter("topic/cats", vec![1, 2])).unwrap();
        let again = store.commit_adapter(new_adapter("topic/cats", vec![9])).unwrap();
        assert_eq!(a, again);
        store.commit_adapter(new_adapter("topic/dogs", vec![3])).unwrap();
        assert_eq!(store.adapter(&a.id[..10]).unwrap(), a);
        assert_eq!(store.adapter("topic/cats").unwrap(), a);
        assert!(store.adapter("").is_err());
        assert!(store.adapter("topic/cat").unwrap_err().to_string().contains("did you mean \"topic/cats\""));
        assert_eq!(store.weights(&a).unwrap(), [1, 2]);
        assert_eq!(store.stats().unwrap().adapters, 2);
        assert!(store.run_dir("../x").is_err());
    }

    #[test]
    fn a_lost_catalogue_is_rebuilt_from_receipts_with_tags_and_aliases() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        let a = store.commit_adapter(new_adapter("topic/cats", vec![1, 2, 3])).unwrap();
        store.commit_adapter(new_adapter("topic/dogs", vec![4])).unwrap();
        store.tag(&a.id, &[("note", Some("kept"))]).unwrap();
        store.set_alias("best", &a.id).unwrap();
        let query = |s: &Store| {
            let tagged = Filter::all().and("note = kept").unwrap();
            (
                s.list(&Filter::all(), &Listing::default()).unwrap(),
                s.list(&tagged, &Listing::default()).unwrap(),
                s.aliases().unwrap(),
            )
        };
        let before = query(&store);
        assert_eq!((before.0.len(), before.1.len(), before.2.len()), (2, 1, 1));
        drop(store);
        for file in ["catalogue.sqlite", "catalogue.sqlite-wal", "catalogue.sqlite-shm"] {
            let _ = std::fs::remove_file(folder.path().join(file));
        }
        let mut store = Store::open(folder.path()).unwrap();
        assert!(store.adapters(&Filter::all()).unwrap().is_empty());
        assert_eq!(store.rebuild_from_receipts().unwrap(), 2);
        assert_eq!(store.rebuild_from_receipts().unwrap(), 0);
        assert_eq!(query(&store), before);
    }

    #[test]
    fn a_veto_in_the_transaction_records_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        let vetoed = store.commit_adapter_with(new_adapter("topic/cats", vec![1]), |_, _| Ok(false));
        assert!(vetoed.unwrap().is_none());
        assert!(store.adapters(&Filter::all()).unwrap().is_empty());
        assert_eq!(store.rebuild_from_receipts().unwrap(), 0);
    }
}
