//! One store folder: catalogue and blobs.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params};
use serde::Serialize;

use crate::record::{AdapterRecord, NewAdapter};
use crate::{Digest, Error, Filter, Result, blobs, write_atomic};

/// Schema, one step after another; never edited, only appended to. The index is SQLite's `user_version`.
const MIGRATIONS: &[&str] = &["
CREATE TABLE adapters(
  id TEXT PRIMARY KEY, spec_hash TEXT NOT NULL UNIQUE, behaviour TEXT NOT NULL, family TEXT NOT NULL,
  status TEXT NOT NULL, role TEXT NOT NULL, record TEXT NOT NULL) STRICT;
CREATE INDEX adapters_behaviour ON adapters(behaviour);
CREATE TABLE cache(key TEXT PRIMARY KEY, digest TEXT NOT NULL) STRICT;
CREATE TABLE jobs(
  id INTEGER PRIMARY KEY, spec_hash TEXT NOT NULL UNIQUE, spec TEXT NOT NULL, label TEXT NOT NULL, family TEXT NOT NULL,
  pack_key TEXT NOT NULL, priority INTEGER NOT NULL DEFAULT 0,
  state TEXT NOT NULL DEFAULT 'queued' CHECK(state IN ('queued','leased','running','retry_wait','succeeded','cancelled','dead')),
  attempt INTEGER NOT NULL DEFAULT 0, max_attempts INTEGER NOT NULL DEFAULT 8, run_after_ms INTEGER NOT NULL DEFAULT 0,
  lease_token INTEGER NOT NULL DEFAULT 0, lease_owner TEXT, lease_until_ms INTEGER, adapter TEXT, error_class TEXT, error TEXT) STRICT;
CREATE INDEX jobs_ready ON jobs(priority DESC, id) WHERE state IN ('queued','retry_wait');
CREATE INDEX jobs_lease ON jobs(lease_until_ms) WHERE state IN ('leased','running');
CREATE TABLE events(
  id INTEGER PRIMARY KEY, job INTEGER NOT NULL REFERENCES jobs(id), from_state TEXT NOT NULL, to_state TEXT NOT NULL,
  token INTEGER NOT NULL, at_ms INTEGER NOT NULL, reason TEXT NOT NULL) STRICT;
"];

/// A store folder, open.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    connection: Connection,
    /// Opened for reading because nothing more fits on the disk.
    full: bool,
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

/// Counts over a store.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stats {
    /// Adapters.
    pub adapters: usize,
    /// By family and status.
    pub by_family: BTreeMap<String, BTreeMap<String, usize>>,
    /// Bytes of all weights files.
    pub weights_bytes: u64,
    /// Blobs on disk.
    pub blobs: usize,
    /// Their bytes.
    pub blob_bytes: u64,
}

/// The store's folders, and proof that files can be made in them.
fn make_folders(root: &Path) -> std::io::Result<()> {
    for folder in ["blobs", "done", "staging", "runs"] {
        fs_err::create_dir_all(root.join(folder))?;
    }
    tempfile::tempfile_in(root.join("staging"))?;
    tempfile::tempfile_in(root)?;
    Ok(())
}

/// Whether SQLite failed because a write found no room.
fn no_room(source: &rusqlite::Error) -> bool {
    use rusqlite::ffi::{SQLITE_FULL, SQLITE_IOERR_FSYNC, SQLITE_IOERR_SHMSIZE, SQLITE_IOERR_WRITE};
    let code = source.sqlite_error().map(|e| e.extended_code);
    code.is_some_and(|c| {
        [SQLITE_FULL, SQLITE_IOERR_WRITE, SQLITE_IOERR_SHMSIZE, SQLITE_IOERR_FSYNC].contains(&c)
    })
}

impl Store {
    /// Opens a store, making it if need be. One that exists and cannot be written (no right, no
    /// room) is opened for reading.
    ///
    /// # Errors
    /// If the folder cannot be made, or was written by a newer lorafab.
    pub fn open(root: &Path) -> Result<Self> {
        if let Err(e) = make_folders(root) {
            let full = e.kind() == ErrorKind::StorageFull;
            let unwritable =
                full || matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem);
            return if unwritable && root.join("catalogue.sqlite").exists() {
                Self::open_read_only(root, full)
            } else if full {
                Err(Error::Full(root.into()))
            } else {
                Err(e.into())
            };
        }
        match Self::open_writable(root) {
            Err(Error::Sqlite { source, .. }) if no_room(&source) => Self::open_read_only(root, true),
            Err(Error::Sqlite { path, source })
                if source.sqlite_error_code() == Some(rusqlite::ErrorCode::NotADatabase) =>
            {
                Err(Error::BadCatalogue(path))
            }
            other => other,
        }
    }

    fn open_writable(root: &Path) -> Result<Self> {
        let path = root.join("catalogue.sqlite");
        let wrap = |source| Error::Sqlite { path: path.clone(), source };
        let mut connection = Connection::open(&path).map_err(wrap)?;
        connection.busy_timeout(Duration::from_secs(20)).map_err(wrap)?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(wrap)?;
        connection.pragma_update(None, "synchronous", "FULL").map_err(wrap)?;
        connection.pragma_update(None, "foreign_keys", "ON").map_err(wrap)?;
        let known = MIGRATIONS.len() as i64;
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(wrap)?;
        let found: i64 = transaction.query_row("PRAGMA user_version", [], |r| r.get(0)).map_err(wrap)?;
        if found > known {
            return Err(Error::NewerSchema { path, found, known });
        }
        for step in &MIGRATIONS[usize::try_from(found).unwrap_or(0)..] {
            transaction.execute_batch(step).map_err(wrap)?;
        }
        transaction.pragma_update(None, "user_version", known).map_err(wrap)?;
        transaction.commit().map_err(wrap)?;
        Ok(Self { root: root.to_owned(), connection, full: false })
    }

    /// A store that this process may not write. Its catalogue is taken as it stands: without the right to write beside
    /// it, nobody's unfinished writes can be seen.
    fn open_read_only(root: &Path, full: bool) -> Result<Self> {
        let path = root.join("catalogue.sqlite");
        let wrap = |source| Error::Sqlite { path: path.clone(), source };
        let escaped = path.to_string_lossy().replace('%', "%25").replace('?', "%3f").replace('#', "%23");
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
        let connection =
            Connection::open_with_flags(format!("file:{escaped}?immutable=1"), flags).map_err(wrap)?;
        let found: i64 = connection.query_row("PRAGMA user_version", [], |r| r.get(0)).map_err(wrap)?;
        let known = MIGRATIONS.len() as i64;
        if found > known {
            return Err(Error::NewerSchema { path, found, known });
        }
        Ok(Self { root: root.to_owned(), connection, full })
    }

    /// The store folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn wrap(&self, source: rusqlite::Error) -> Error {
        let read_only = source.sqlite_error_code() == Some(rusqlite::ErrorCode::ReadOnly);
        if no_room(&source) || (read_only && self.full) {
            return Error::Full(self.root.clone());
        }
        if read_only {
            return Error::ReadOnly(self.root.clone());
        }
        Error::Sqlite { path: self.root.join("catalogue.sqlite"), source }
    }

    /// Runs statements on the store's database (the job queue lives in the same file).
    pub fn query<T>(&self, run: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        run(&self.connection).map_err(|e| self.wrap(e))
    }

    /// Runs statements in one write transaction.
    pub fn transaction<T>(&mut self, run: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T> {
        let result = (|| {
            let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = run(&transaction)?;
            transaction.commit()?;
            Ok(value)
        })();
        result.map_err(|e| self.wrap(e))
    }

    /// The folder of a run, made if need be.
    pub fn run_dir(&self, run: &str) -> Result<PathBuf> {
        let good = !run.is_empty()
            && run.len() <= 100
            && !run.starts_with('.')
            && run.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        if !good {
            return Err(Error::BadName(run.into()));
        }
        let path = self.root.join("runs").join(run);
        fs_err::create_dir_all(&path)?;
        Ok(path)
    }

    /// Stores bytes; returns their digest.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Digest> {
        blobs::put(&self.root, bytes)
    }

    /// Reads bytes and checks them.
    pub fn get_blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        blobs::get(&self.root, digest)
    }

    /// Bytes remembered under a key, if whole.
    pub fn cache_get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let digest: Option<String> = self.query(|c| {
            c.query_row("SELECT digest FROM cache WHERE key = ?1", [key], |r| r.get(0)).optional()
        })?;
        Ok(digest.and_then(|d| Digest::try_from(d).ok()).and_then(|d| self.get_blob(&d).ok()))
    }

    /// Remembers bytes under a key.
    pub fn cache_put(&self, key: &str, bytes: &[u8]) -> Result<()> {
        let digest = self.put_blob(bytes)?;
        self.query(|c| {
            c.execute(
                "INSERT INTO cache(key, digest) VALUES(?1, ?2) ON CONFLICT(key) DO UPDATE SET digest = ?2",
                params![key, digest.as_str()],
            )
        })?;
        Ok(())
    }

    /// Adds an adapter: bytes, receipt, row, in this order. The same `spec_hash` again returns the first record.
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
        let record = match self.by_spec(&new.spec_hash)? {
            Some(record) => record,
            None => self.make_durable(new)?,
        };
        let json = serde_json::to_string(&record)
            .map_err(|source| Error::Json { what: "adapter record".into(), source })?;
        let receipt = self.receipt_path(&record.spec_hash);
        let mut receipt_error = None;
        let committed = self.transaction(|t| {
            if !also(t, &record)? {
                return Ok(false);
            }
            // A refused commit leaves no receipt that the next rebuild would bring back; a kill after the receipt leaves
            // an adapter that was agreed to, and that the rebuild finds.
            let text = serde_json::json!({"schema": "receipt/1", "adapter": record}).to_string();
            if let Err(e) = write_atomic(&receipt, text.as_bytes()) {
                receipt_error = Some(e);
                return Err(rusqlite::Error::QueryReturnedNoRows);
            }
            insert(t, &record, &json)?;
            Ok(true)
        });
        if let Some(e) = receipt_error {
            return Err(e);
        }
        if !committed? {
            return Ok(None);
        }
        // A concurrent commit of the same spec may have won; the row decides.
        self.by_spec(&record.spec_hash)
    }

    fn make_durable(&self, new: NewAdapter) -> Result<AdapterRecord> {
        let weights = self.put_blob(&new.weights)?;
        let mut extra_files = BTreeMap::new();
        let mut hasher = blake3::Hasher::new();
        hasher.update(new.spec_hash.as_bytes());
        hasher.update(weights.as_str().as_bytes());
        for (name, bytes) in &new.extra_files {
            if name.contains(['/', '\\']) || name.starts_with('.') || name.is_empty() {
                return Err(Error::BadName(name.clone()));
            }
            let digest = self.put_blob(bytes)?;
            hasher.update(name.as_bytes());
            hasher.update(digest.as_str().as_bytes());
            extra_files.insert(name.clone(), digest);
        }
        let record = AdapterRecord {
            id: hasher.finalize().to_hex()[..32].to_owned(),
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
            created_at: jiff::Timestamp::now().to_string(),
            spec: new.spec,
        };
        Ok(record)
    }

    fn receipt_path(&self, spec_hash: &str) -> PathBuf {
        self.root.join("done").join(format!("{}.json", Digest::of(spec_hash.as_bytes())))
    }

    fn by_spec(&self, spec_hash: &str) -> Result<Option<AdapterRecord>> {
        let json: Option<String> = self.query(|c| {
            c.query_row("SELECT record FROM adapters WHERE spec_hash = ?1", [spec_hash], |r| r.get(0))
                .optional()
        })?;
        json.map(|j| parse(&j)).transpose()
    }

    /// The adapter made from a spec, if there is one.
    pub fn adapter_by_spec(&self, spec_hash: &str) -> Result<Option<AdapterRecord>> {
        self.by_spec(spec_hash)
    }

    /// All adapters that pass the filter, by behaviour and then id.
    pub fn adapters(&self, filter: &Filter) -> Result<Vec<AdapterRecord>> {
        let rows: Vec<String> = self.query(|c| {
            let mut statement = c.prepare("SELECT record FROM adapters ORDER BY behaviour, id")?;
            statement.query_map([], |r| r.get(0))?.collect()
        })?;
        let mut out = Vec::new();
        for row in rows {
            let record = parse(&row)?;
            if filter.matches(&record) {
                out.push(record);
            }
        }
        Ok(out)
    }

    /// The one adapter whose id begins so, or whose behaviour is exactly that.
    ///
    /// # Errors
    /// If there is none (with a near name) or there are several (with candidates).
    pub fn adapter(&self, id: &str) -> Result<AdapterRecord> {
        let all = self.adapters(&Filter::all())?;
        let exact: Vec<&AdapterRecord> = all.iter().filter(|r| r.behaviour == id).collect();
        let found = if exact.is_empty() {
            all.iter().filter(|r| !id.is_empty() && r.id.starts_with(id)).collect()
        } else {
            exact
        };
        match &found[..] {
            [one] => Ok((*one).clone()),
            [] => {
                let near = all.iter().find(|r| r.behaviour.contains(id) || id.contains(&r.value));
                let suggestion = near.map_or(String::new(), |r| format!("; did you mean {:?}?", r.behaviour));
                Err(Error::NotFound { id: id.into(), suggestion })
            }
            many => {
                let names: Vec<String> =
                    many.iter().take(5).map(|r| format!("{} ({})", &r.id[..12], r.behaviour)).collect();
                Err(Error::Ambiguous { id: id.into(), candidates: names.join(", ") })
            }
        }
    }

    /// An adapter's weights file, checked.
    pub fn weights(&self, record: &AdapterRecord) -> Result<Vec<u8>> {
        self.get_blob(&record.weights)
    }

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

    /// Counts.
    pub fn stats(&self) -> Result<Stats> {
        let all = self.adapters(&Filter::all())?;
        let mut stats = Stats {
            adapters: all.len(),
            by_family: BTreeMap::new(),
            weights_bytes: 0,
            blobs: 0,
            blob_bytes: 0,
        };
        for r in &all {
            let status = r.field("status").unwrap_or_default();
            *stats.by_family.entry(r.family.clone()).or_default().entry(status).or_default() += 1;
            stats.weights_bytes += r.weights_bytes;
        }
        for folder in fs_err::read_dir(self.root.join("blobs"))? {
            for file in fs_err::read_dir(folder?.path())? {
                stats.blobs += 1;
                stats.blob_bytes += file?.metadata()?.len();
            }
        }
        Ok(stats)
    }

    /// Adds every receipt's adapter that the catalogue lacks; returns how many.
    pub fn rebuild_from_receipts(&mut self) -> Result<usize> {
        let mut paths: Vec<PathBuf> = fs_err::read_dir(self.root.join("done"))?
            .map(|e| e.map(|e| e.path()))
            .collect::<Result<_, _>>()?;
        paths.sort();
        let mut added = 0;
        for path in paths.into_iter().filter(|p| p.extension().is_some_and(|e| e == "json")) {
            let text = fs_err::read_to_string(&path)?;
            let json = |source| Error::Json { what: path.display().to_string(), source };
            let mut value: serde_json::Value = serde_json::from_str(&text).map_err(json)?;
            let record: AdapterRecord = serde_json::from_value(value["adapter"].take()).map_err(json)?;
            self.get_blob(&record.weights)?;
            let row = serde_json::to_string(&record).map_err(json)?;
            added += self.transaction(|t| insert(t, &record, &row))?;
        }
        Ok(added)
    }
}

fn insert(t: &Transaction<'_>, record: &AdapterRecord, json: &str) -> rusqlite::Result<usize> {
    t.execute(
        "INSERT INTO adapters(id, spec_hash, behaviour, family, status, role, record) VALUES(?1,?2,?3,?4,?5,?6,?7) ON CONFLICT(spec_hash) DO NOTHING",
        params![record.id, record.spec_hash, record.behaviour, record.family, record.field("status"), record.field("role"), json],
    )
}

fn parse(json: &str) -> Result<AdapterRecord> {
    serde_json::from_str(json)
        .map_err(|source| Error::Json { what: "adapter record in the catalogue".into(), source })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::peft::{self, IfExists, ImportShape};
    use crate::{PeftConfig, Role, Status};

    pub(crate) fn new_adapter(behaviour: &str, weights: Vec<u8>) -> NewAdapter {
        NewAdapter {
            spec_hash: crate::spec_hash(&serde_json::json!({ "behaviour": behaviour })),
            spec: serde_json::json!({ "behaviour": behaviour }),
            role: Role::WeightDiff,
            behaviour: behaviour.into(),
            family: behaviour.split('/').next().unwrap().into(),
            value: behaviour.split('/').nth(1).unwrap().into(),
            category: "c".into(),
            split: Some("train".into()),
            status: Status::Learned,
            tags: BTreeMap::new(),
            metrics: BTreeMap::new(),
            peft: PeftConfig {
                base_model: "m".into(),
                r: 1,
                lora_alpha: 1.0,
                target_modules: ["q_proj".to_owned()].into(),
            },
            weights,
            parents: vec![],
            lineage: BTreeMap::new(),
            extra_files: BTreeMap::from([("note.json".to_owned(), b"{}".to_vec())]),
        }
    }

    pub(crate) fn record(behaviour: &str) -> AdapterRecord {
        let folder = tempfile::tempdir().unwrap();
        Store::open(folder.path()).unwrap().commit_adapter(new_adapter(behaviour, vec![1])).unwrap()
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
    fn a_flipped_byte_is_found_and_a_lost_catalogue_is_rebuilt_from_receipts() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        let a = store.commit_adapter(new_adapter("topic/cats", vec![1, 2, 3])).unwrap();
        store.commit_adapter(new_adapter("topic/dogs", vec![4])).unwrap();
        let before = store.adapters(&Filter::all()).unwrap();
        drop(store);
        for file in ["catalogue.sqlite", "catalogue.sqlite-wal", "catalogue.sqlite-shm"] {
            let _ = std::fs::remove_file(folder.path().join(file));
        }
        let mut store = Store::open(folder.path()).unwrap();
        assert_eq!(store.adapters(&Filter::all()).unwrap().len(), 0);
        assert_eq!(store.rebuild_from_receipts().unwrap(), 2);
        assert_eq!(store.rebuild_from_receipts().unwrap(), 0);
        assert_eq!(store.adapters(&Filter::all()).unwrap(), before);
        let path = folder.path().join("blobs").join(&a.weights.as_str()[..2]).join(a.weights.as_str());
        fs_err::write(&path, [1, 2, 4]).unwrap();
        let problems: Vec<_> =
            store.verify(&Filter::all()).unwrap().into_iter().filter(|v| v.problem.is_some()).collect();
        assert_eq!(problems.len(), 1);
        assert!(store.weights(&a).unwrap_err().to_string().contains("damaged"));
    }

    #[test]
    fn a_veto_in_the_transaction_records_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        assert!(
            store
                .commit_adapter_with(new_adapter("topic/cats", vec![1]), |_, _| Ok(false))
                .unwrap()
                .is_none()
        );
        assert!(store.adapters(&Filter::all()).unwrap().is_empty());
        assert_eq!(store.rebuild_from_receipts().unwrap(), 0);
    }

    #[test]
    fn a_newer_store_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.query(|c| c.pragma_update(None, "user_version", 99)).unwrap();
        drop(store);
        assert!(Store::open(folder.path()).unwrap_err().to_string().contains("schema version 99"));
    }

    fn peft_file(shape: [usize; 2], dtype_bytes: usize, fill: f32, extra: bool) -> Vec<u8> {
        let _ = dtype_bytes;
        let a: Vec<u8> = (0..shape[0] * shape[1]).flat_map(|_| fill.to_le_bytes()).collect();
        let b: Vec<u8> = (0..3 * shape[0]).flat_map(|_| 0.5f32.to_le_bytes()).collect();
        let mut views = vec![
            (
                format!("{}model.layers.0.self_attn.q_proj.lora_A.weight", peft::PREFIX),
                safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.to_vec(), &a).unwrap(),
            ),
            (
                format!("{}model.layers.0.self_attn.q_proj.lora_B.weight", peft::PREFIX),
                safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![3, shape[0]], &b).unwrap(),
            ),
        ];
        if extra {
            views.push(("base_model.model.base_model.model.x".into(), views[0].1.clone()));
        }
        safetensors::serialize(views, None).unwrap()
    }

    #[test]
    fn imports_are_checked_key_by_key() {
        let folder = tempfile::tempdir().unwrap();
        let shape = ImportShape {
            base_model: "m".into(),
            layers: 1,
            projections: BTreeMap::from([("q_proj".to_owned(), (4, 3))]),
        };
        let config = PeftConfig {
            base_model: "m".into(),
            r: 2,
            lora_alpha: 4.0,
            target_modules: ["q_proj".to_owned()].into(),
        };
        let put = |config: &str, weights: &[u8]| {
            fs_err::write(folder.path().join("adapter_config.json"), config).unwrap();
            fs_err::write(folder.path().join("adapter_model.safetensors"), weights).unwrap();
            peft::import(folder.path(), &shape)
        };
        let good_config = peft::adapter_config(&config);
        let good = peft_file([2, 4], 4, 0.25, false);
        assert_eq!(put(&good_config, &good).unwrap().peft, config);
        let rs = good_config.replace("\"use_rslora\": false", "\"use_rslora\": true");
        assert!((put(&rs, &good).unwrap().peft.lora_alpha - 4.0 * 2f32.sqrt()).abs() < 1e-6);
        let bad: [(&str, String, Vec<u8>); 8] = [
            ("shape", good_config.clone(), peft_file([2, 5], 4, 0.1, false)),
            ("no target module", good_config.clone(), peft_file([2, 4], 4, 0.1, true)),
            ("NaN", good_config.clone(), peft_file([2, 4], 4, f32::NAN, false)),
            ("not a readable", good_config.clone(), good[..good.len() - 3].to_vec()),
            ("use_dora", good_config.replace("\"use_dora\": false", "\"use_dora\": true"), good.clone()),
            (
                "modules_to_save",
                good_config.replace("\"modules_to_save\": null", "\"modules_to_save\": [\"lm_head\"]"),
                good.clone(),
            ),
            ("patterns", good_config.replace("[\n    \"q_proj\"\n  ]", "\".*q_proj\""), good.clone()),
            (
                "missing",
                good_config.clone(),
                safetensors::serialize(Vec::<(String, safetensors::tensor::TensorView<'_>)>::new(), None)
                    .unwrap(),
            ),
        ];
        for (expected, config, weights) in bad {
            let error = put(&config, &weights).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }

    #[test]
    fn an_exported_folder_imports_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(&folder.path().join("store")).unwrap();
        let mut new = new_adapter("topic/cats", peft_file([1, 4], 4, 0.25, false));
        new.peft.lora_alpha = 2.0;
        let record = store.commit_adapter(new).unwrap();
        let out = folder.path().join("out");
        peft::export(&store, &record, &out, IfExists::Fail).unwrap();
        assert!(
            peft::export(&store, &record, &out, IfExists::Fail).unwrap_err().to_string().contains("--force")
        );
        peft::export(&store, &record, &out, IfExists::Replace).unwrap();
        let shape = ImportShape {
            base_model: "m".into(),
            layers: 1,
            projections: BTreeMap::from([("q_proj".to_owned(), (4, 3))]),
        };
        let back = peft::import(&out, &shape).unwrap();
        assert_eq!(back.weights, store.weights(&record).unwrap());
        assert!(out.join("note.json").exists());
    }
}
