//! What people change about adapters after they are made: tags, removal (and aliases: `aliases.rs`). Bytes never change; what does
//! is kept in files beside the catalogue too, so that a rebuilt catalogue knows it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rusqlite::{OptionalExtension, params};
use serde::Serialize;

use crate::commit::{files, insert, parse, receipt_text, row_text, short};
use crate::store::check_name;
use crate::{AdapterRecord, Error, Result, Role, Status, Store, index, write_atomic};

/// One change to the catalogue that a person made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Milliseconds since the epoch.
    pub at_ms: i64,
    /// `tag`, `evaluate`, `alias`, `remove`, `restore`.
    pub what: String,
    /// Alias name or adapter id.
    pub subject: String,
    /// What it is now.
    pub detail: String,
}

/// What was found out about an adapter.
#[derive(Debug, Clone)]
pub struct Evaluation<'a> {
    /// Name of the document.
    pub name: &'a str,
    /// What it says.
    pub document: &'a serde_json::Value,
    /// The adapter's status from now on.
    pub status: Status,
    /// Numbers, put beside those that it has.
    pub metrics: &'a BTreeMap<String, f64>,
    /// Tags, put beside those that it has (`None` takes one away).
    pub tags: &'a [(&'a str, Option<&'a str>)],
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

fn log(t: &rusqlite::Transaction<'_>, what: &str, subject: &str, detail: &str) -> rusqlite::Result<()> {
    t.execute(
        "INSERT INTO catalogue_events(at_ms, what, subject, detail) VALUES(?1,?2,?3,?4)",
        params![now_ms(), what, subject, detail],
    )?;
    Ok(())
}

fn with_tags(mut record: AdapterRecord, tags: &[(&str, Option<&str>)]) -> Result<AdapterRecord> {
    for (key, value) in tags {
        check_name(key)?;
        let column = AdapterRecord::COLUMNS.contains(key) || AdapterRecord::filed_as(key) != *key;
        let taken = column || record.metrics.contains_key(*key);
        if taken || value.is_some_and(|v| v.len() > 1000 || v.chars().any(char::is_control)) {
            return Err(Error::BadTag { key: (*key).into(), taken });
        }
        match value {
            Some(v) => record.tags.insert((*key).into(), (*v).into()),
            None => record.tags.remove(*key),
        };
    }
    Ok(record)
}

impl Store {
    /// In one transaction: a change to the rows, the line about it, and the file that keeps it.
    pub(crate) fn change<T>(
        &mut self,
        (what, subject, detail): (&str, &str, &str),
        run: impl FnOnce(&rusqlite::Transaction<'_>) -> rusqlite::Result<T>,
        file: impl FnOnce(&rusqlite::Transaction<'_>) -> rusqlite::Result<Result<()>>,
    ) -> Result<T> {
        let mut failed = None;
        let done = self.transaction(|t| {
            let value = run(t)?;
            log(t, what, subject, detail)?;
            if let Err(e) = file(t)? {
                failed = Some(e);
                return Err(rusqlite::Error::QueryReturnedNoRows);
            }
            Ok(value)
        });
        match failed {
            Some(e) => Err(e),
            None => done,
        }
    }

    /// Sets (`Some`) and removes (`None`) tags of an adapter; returns its new record.
    ///
    /// # Errors
    /// If a tag's name is not usable or is that of a column or metric.
    pub fn tag(&mut self, id: &str, tags: &[(&str, Option<&str>)]) -> Result<AdapterRecord> {
        let detail = |r: &AdapterRecord| serde_json::to_string(&r.tags).expect("invariant: plain data");
        self.rewrite(id, "tag", |record| with_tags(record, tags), detail)
    }

    /// Files what was found out about an adapter after it was made: its status, numbers, tags and the document that tells of it. Its
    /// files, and so its id, stay what they are. Returns its new record.
    ///
    /// # Errors
    /// If the document's name or a tag is not usable, or a metric has the name of a column.
    pub fn evaluate(&mut self, id: &str, found: &Evaluation<'_>) -> Result<AdapterRecord> {
        check_name(found.name)?;
        let change = |mut record: AdapterRecord| {
            record.status = found.status;
            for (key, value) in found.metrics {
                if AdapterRecord::COLUMNS.contains(&key.as_str()) || record.tags.contains_key(key) {
                    return Err(Error::BadTag { key: key.clone(), taken: true });
                }
                record.metrics.insert(key.clone(), *value);
            }
            record.evaluations.insert(found.name.into(), found.document.clone());
            with_tags(record, found.tags)
        };
        self.rewrite(id, "evaluate", change, |r| format!("{}: {:?}", found.name, r.status))
    }

    /// A document about an adapter, by name: what was found out later before what was filed when it was made.
    ///
    /// # Errors
    /// If its file is damaged or no JSON.
    pub fn document(&self, record: &AdapterRecord, name: &str) -> Result<Option<serde_json::Value>> {
        if let Some(value) = record.evaluations.get(name) {
            return Ok(Some(value.clone()));
        }
        let Some(digest) = record.extra_files.get(name) else { return Ok(None) };
        let json = |source| Error::Json { what: format!("{name} of {}", record.behaviour), source };
        serde_json::from_slice(&self.get_blob(digest)?).map(Some).map_err(json)
    }

    /// Changes an adapter's record, which is read and written under one lock: of two people who change it at once, neither loses.
    fn rewrite(
        &mut self,
        id: &str,
        what: &str,
        change: impl FnOnce(AdapterRecord) -> Result<AdapterRecord>,
        detail: impl FnOnce(&AdapterRecord) -> String,
    ) -> Result<AdapterRecord> {
        let id = self.adapter(id)?.id;
        let folder = self.root.join("done");
        let (mut failed, mut out) = (None, None);
        let result = self.transaction(|t| {
            let json: Option<String> =
                t.query_row("SELECT record FROM adapters WHERE id = ?1", [&id], |r| r.get(0)).optional()?;
            // Removed since it was found.
            let Some(json) = json else {
                failed = Some(Error::NotFound { id: id.clone(), suggestion: String::new() });
                return Err(rusqlite::Error::QueryReturnedNoRows);
            };
            let record = match parse(&json).and_then(change) {
                Ok(record) => record,
                Err(e) => {
                    failed = Some(e);
                    return Err(rusqlite::Error::QueryReturnedNoRows);
                }
            };
            t.execute(
                "UPDATE adapters SET record = ?2, status = ?3 WHERE id = ?1",
                params![id, row_text(&record), record.field("status")],
            )?;
            index::put(t, &record)?;
            log(t, what, &id, &detail(&record))?;
            let receipt = folder.join(format!("{}.json", crate::Digest::of(record.spec_hash.as_bytes())));
            if let Err(e) = write_atomic(&receipt, receipt_text(&record).as_bytes()) {
                failed = Some(e);
                return Err(rusqlite::Error::QueryReturnedNoRows);
            }
            out = Some(record);
            Ok(())
        });
        if let Some(e) = failed {
            return Err(e);
        }
        result?;
        Ok(out.expect("invariant: it was written"))
    }

    /// Takes an adapter out of the catalogue. Its receipt goes to the trash, its bytes stay until `gc`.
    ///
    /// # Errors
    /// If an alias stands for it or another adapter was made from it (a reader trained on it aside).
    pub fn remove(&mut self, id: &str) -> Result<AdapterRecord> {
        let record = self.adapter(id)?;
        let alias = self.aliases()?.into_iter().find(|a| a.adapter == record.id);
        // A reader carries what it learned from a weight diff, and a run's files say what was answered.
        let child: Option<String> = self.query(|c| {
            c.query_row(
                "SELECT e.child FROM edges e JOIN adapters a ON a.id = e.child
                 WHERE e.parent = ?1 AND NOT (?2 AND a.role <> 'weight_diff') ORDER BY e.child LIMIT 1",
                params![record.id, record.role == Role::WeightDiff],
                |r| r.get(0),
            )
            .optional()
        })?;
        if let Some(held) =
            alias.map(|a| format!("alias {:?}", a.name)).or(child.map(|c| format!("adapter {}", short(&c))))
        {
            return Err(Error::InUse { id: record.behaviour.clone(), held });
        }
        let (receipt, trash) = (self.receipt_path(&record.spec_hash), self.trash_path(&record.id));
        self.change(
            ("remove", &record.id, &record.behaviour),
            |t| {
                t.execute("UPDATE jobs SET adapter = '' WHERE adapter = ?1", [&record.id])?;
                match t.execute("DELETE FROM adapters WHERE id = ?1", [&record.id])? {
                    // Somebody else removed it since it was found.
                    0 => Err(rusqlite::Error::QueryReturnedNoRows),
                    n => Ok(n),
                }
            },
            // The trash is written before the receipt goes: a kill in between leaves both, and the next removal is clean.
            |_| {
                Ok(write_atomic(&trash, receipt_text(&record).as_bytes()).and_then(|()| {
                    if receipt.exists() { Ok(fs_err::remove_file(&receipt)?) } else { Ok(()) }
                }))
            },
        )
        .map_err(|e| match e {
            Error::Sqlite { source: rusqlite::Error::QueryReturnedNoRows, .. } => {
                Error::NotFound { id: record.id.clone(), suggestion: String::new() }
            }
            e => e,
        })?;
        Ok(record)
    }

    /// Brings an adapter back from the trash, by its id or the beginning of it.
    pub fn restore(&mut self, id: &str) -> Result<AdapterRecord> {
        let found: Vec<AdapterRecord> = self
            .trashed()?
            .into_iter()
            .map(|(_, r)| r)
            .filter(|r| r.id.starts_with(id) || r.behaviour == id)
            .collect();
        let [record] = &found[..] else {
            return Err(Error::NotInTrash { id: id.into(), found: found.len() });
        };
        // Put again: young, so that garbage collection leaves them alone.
        files(record)
            .try_for_each(|d| self.get_blob(d).and_then(|bytes| self.put_blob(&bytes)).map(drop))
            .map_err(|e| match e {
                Error::Io(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    Error::NotInTrash { id: id.into(), found: 0 }
                }
                e => e,
            })?;
        if self.adapter_by_spec(&record.spec_hash)?.is_some() {
            return Err(Error::MadeAgain { id: record.behaviour.clone() });
        }
        let (receipt, trash) = (self.receipt_path(&record.spec_hash), self.trash_path(&record.id));
        self.change(
            ("restore", &record.id, &record.behaviour),
            // One made again since the look above keeps its row, and the file below is not reached.
            |t| if insert(t, record)? == 1 { Ok(()) } else { Err(rusqlite::Error::QueryReturnedNoRows) },
            |_| {
                // Collected since it was looked at: then its blobs may be gone with it.
                if !trash.exists() {
                    return Ok(Err(Error::NotInTrash { id: id.into(), found: 0 }));
                }
                let written = write_atomic(&receipt, receipt_text(record).as_bytes());
                Ok(written.and_then(|()| match fs_err::remove_file(&trash) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
                    _ => Ok(()),
                }))
            },
        )
        .map_err(|e| match e {
            Error::Sqlite { source: rusqlite::Error::QueryReturnedNoRows, .. } => {
                Error::MadeAgain { id: record.behaviour.clone() }
            }
            e => e,
        })?;
        Ok(record.clone())
    }

    fn trash_path(&self, id: &str) -> PathBuf {
        self.root.join("trash").join(format!("{id}.json"))
    }

    /// What lies in the trash: path of the receipt, and the record.
    pub(crate) fn trashed(&self) -> Result<Vec<(PathBuf, AdapterRecord)>> {
        let mut out = Vec::new();
        for file in fs_err::read_dir(self.root.join("trash"))? {
            let path = file?.path();
            if path.extension().is_some_and(|e| e == "json") {
                // Restored or collected since it was listed, or no receipt: it brings nothing back, and keeps nobody else's from it.
                if let Ok(record) = crate::commit::read_receipt(&path) {
                    out.push((path, record));
                }
            }
        }
        out.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(out)
    }

    /// The changes that people made, oldest first.
    pub fn changes(&self) -> Result<Vec<Change>> {
        self.query(|c| {
            c.prepare("SELECT at_ms, what, subject, detail FROM catalogue_events ORDER BY id")?
                .query_map([], |r| {
                    Ok(Change { at_ms: r.get(0)?, what: r.get(1)?, subject: r.get(2)?, detail: r.get(3)? })
                })?
                .collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{BTreeMap, Evaluation};
    use crate::store::tests::new_adapter;
    use crate::{Filter, Status, Store};

    #[test]
    fn tags_change_what_filters_find_and_columns_cannot_be_tagged() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        let a = store.commit_adapter(new_adapter("topic/cats", vec![1])).unwrap();
        store.tag(&a.id, &[("note", Some("one")), ("other", Some("x"))]).unwrap();
        let b = store.tag(&a.id, &[("note", Some("two")), ("other", None)]).unwrap();
        assert_eq!((b.id.as_str(), b.tags.len()), (a.id.as_str(), 1));
        let n = |e: &str| store.adapters(&Filter::all().and(e).unwrap()).unwrap().len();
        assert_eq!((n("note = one"), n("note = two"), n("has other")), (0, 1, 0));
        for (key, value) in [("family", "x"), ("../x", "x"), ("note", "a\nb"), ("", "x")] {
            assert!(store.tag(&a.id, &[(key, Some(value))]).is_err(), "{key}");
        }
        assert_eq!(store.changes().unwrap().len(), 2);
    }

    #[test]
    fn an_evaluation_changes_what_is_said_of_an_adapter_and_not_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        let a = store.commit_adapter(new_adapter("imported/x", vec![1])).unwrap();
        let document = serde_json::json!({"schema": "gate/1", "on": 0.75});
        let metrics = BTreeMap::from([("gate_on".to_owned(), 0.75)]);
        let found = Evaluation {
            name: "gate.json",
            document: &document,
            status: Status::Weak,
            metrics: &metrics,
            tags: &[("gated_by", Some("topic"))],
        };
        let b = store.evaluate(&a.id, &found).unwrap();
        assert_eq!((&b.id, b.status, b.metrics["gate_on"]), (&a.id, Status::Weak, 0.75));
        let n = |s: &Store, e: &str| s.adapters(&Filter::all().and(e).unwrap()).unwrap().len();
        assert_eq!((n(&store, "status = weak and gate_on > 0.7"), n(&store, "gated_by = topic")), (1, 1));
        assert_eq!(store.document(&b, "gate.json").unwrap(), Some(document.clone()));
        assert_eq!(store.document(&a, "note.json").unwrap(), Some(serde_json::json!({})));
        assert!(store.check(&|_, _| {}).unwrap().problems.is_empty());
        assert!(store.evaluate(&a.id, &Evaluation { name: "../x", ..found.clone() }).is_err());
        let taken = BTreeMap::from([("rank".to_owned(), 1.0)]);
        assert!(store.evaluate(&a.id, &Evaluation { metrics: &taken, ..found }).is_err());
        // A catalogue that is lost comes back with it.
        store.transaction(|t| t.execute_batch("DELETE FROM adapters")).unwrap();
        store.rebuild_from_receipts().unwrap();
        assert_eq!(store.adapter(&a.id).unwrap(), b);
    }

    #[test]
    fn an_alias_moves_and_guards_and_a_removed_adapter_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        let a = store.commit_adapter(new_adapter("topic/cats", vec![1])).unwrap();
        let b = store.commit_adapter(new_adapter("topic/dogs", vec![2])).unwrap();
        store.set_alias("best", &a.id).unwrap();
        assert_eq!(store.adapter("best").unwrap(), a);
        assert!(store.remove(&a.id).unwrap_err().to_string().contains("alias \"best\""));
        store.set_alias("best", &b.id).unwrap();
        assert_eq!(store.adapter("best").unwrap(), b);
        assert!(store.set_alias("abcd", &a.id).is_err() && store.set_alias("a/b", &a.id).is_err());
        store.remove(&a.id).unwrap();
        assert!(store.adapter(&a.id).is_err());
        assert_eq!((store.rebuild_from_receipts().unwrap(), store.stats().unwrap().trashed), (0, 1));
        assert_eq!(store.restore(&a.id[..8]).unwrap(), a);
        assert_eq!(store.adapter(&a.id).unwrap(), a);
        assert!(store.restore(&a.id).is_err());
        assert!(store.remove_alias("best").unwrap() && !store.remove_alias("best").unwrap());
    }

    #[test]
    fn a_restored_adapter_never_replaces_one_that_was_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        let a = store.commit_adapter(new_adapter("topic/cats", vec![1])).unwrap();
        store.remove(&a.id).unwrap();
        let b = store.commit_adapter(new_adapter("topic/cats", vec![2])).unwrap();
        assert!(store.restore(&a.id).unwrap_err().to_string().contains("in the catalogue again"));
        assert_eq!(store.adapters(&Filter::all()).unwrap(), [b]);
        assert!(store.check(&|_, _| {}).unwrap().problems.is_empty());
    }
}
