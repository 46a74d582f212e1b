//! What people change about adapters after they are made: tags, aliases, removal. Bytes never change; what does is kept in
//! files beside the catalogue too, so that a rebuilt catalogue knows it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rusqlite::params;
use serde::Serialize;

use crate::commit::{insert, receipt_text, row_text};
use crate::store::check_name;
use crate::{AdapterRecord, Error, Result, Store, index, write_atomic};

/// A moving name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Alias {
    /// Name.
    pub name: String,
    /// Id of the adapter that it stands for.
    pub adapter: String,
}

/// One change to the catalogue that a person made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Milliseconds since the epoch.
    pub at_ms: i64,
    /// `tag`, `alias`, `remove`, `restore`.
    pub what: String,
    /// Alias name or adapter id.
    pub subject: String,
    /// What it is now.
    pub detail: String,
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

impl Store {
    /// In one transaction: a change to the rows, the line about it, and the file that keeps it.
    fn change<T>(
        &mut self,
        (what, subject, detail): (&str, &str, &str),
        run: impl FnOnce(&rusqlite::Transaction<'_>) -> rusqlite::Result<T>,
        file: impl FnOnce(&rusqlite::Transaction<'_>) -> rusqlite::Result<Result<()>>,
    ) -> Result<T> {
        let mut failed = None;
        let done = self.transaction(|t| {
            let value = run(t)?;
            t.execute(
                "INSERT INTO catalogue_events(at_ms, what, subject, detail) VALUES(?1,?2,?3,?4)",
                params![now_ms(), what, subject, detail],
            )?;
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
        let mut record = self.adapter(id)?;
        for (key, value) in tags {
            check_name(key)?;
            let taken = AdapterRecord::COLUMNS.contains(key) || record.metrics.contains_key(*key);
            if taken || value.is_some_and(|v| v.len() > 1000 || v.chars().any(char::is_control)) {
                return Err(Error::BadTag { key: (*key).into(), taken });
            }
            match value {
                Some(v) => record.tags.insert((*key).into(), (*v).into()),
                None => record.tags.remove(*key),
            };
        }
        let receipt = self.receipt_path(&record.spec_hash);
        let detail = serde_json::to_string(&record.tags).expect("invariant: plain data");
        self.change(
            ("tag", &record.id, &detail),
            |t| {
                t.execute(
                    "UPDATE adapters SET record = ?2 WHERE id = ?1",
                    params![record.id, row_text(&record)],
                )?;
                index::put(t, &record)
            },
            |_| Ok(write_atomic(&receipt, receipt_text(&record).as_bytes())),
        )?;
        Ok(record)
    }

    /// All aliases by name.
    pub fn aliases(&self) -> Result<Vec<Alias>> {
        self.query(read_aliases)
    }

    /// Makes or moves an alias; returns the adapter that it now stands for.
    ///
    /// # Errors
    /// If the name could be taken for an id or is not usable, or there is no such adapter.
    pub fn set_alias(&mut self, name: &str, id: &str) -> Result<AdapterRecord> {
        check_name(name)?;
        if name.len() >= 4 && name.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Error::BadName(name.into()));
        }
        let record = self.adapter(id)?;
        let path = self.alias_path();
        self.change(
            ("alias", name, &record.id),
            |t| {
                t.execute(
                    "INSERT INTO aliases(name, adapter) VALUES(?1, ?2) ON CONFLICT(name) DO UPDATE SET adapter = ?2",
                    params![name, record.id],
                )
            },
            |t| Ok(write_aliases(&path, &read_aliases(t)?)),
        )?;
        Ok(record)
    }

    /// Removes an alias; the adapter stays. Returns whether there was one.
    pub fn remove_alias(&mut self, name: &str) -> Result<bool> {
        let path = self.alias_path();
        let n = self.change(
            ("alias", name, ""),
            |t| t.execute("DELETE FROM aliases WHERE name = ?1", [name]),
            |t| Ok(write_aliases(&path, &read_aliases(t)?)),
        )?;
        Ok(n > 0)
    }

    fn alias_path(&self) -> PathBuf {
        self.root.join("aliases.json")
    }

    /// Puts the aliases back that the file knows and the catalogue does not.
    pub(crate) fn restore_aliases(&mut self) -> Result<()> {
        let path = self.alias_path();
        if !path.exists() {
            return Ok(());
        }
        let text = fs_err::read_to_string(&path)?;
        let aliases: BTreeMap<String, String> = serde_json::from_str(&text)
            .map_err(|source| Error::Json { what: path.display().to_string(), source })?;
        self.transaction(|t| {
            for (name, adapter) in &aliases {
                t.execute(
                    "INSERT OR IGNORE INTO aliases(name, adapter) VALUES(?1, ?2)",
                    params![name, adapter],
                )?;
            }
            Ok(())
        })
    }

    /// Takes an adapter out of the catalogue. Its receipt goes to the trash, its bytes stay until `gc`.
    ///
    /// # Errors
    /// If an alias stands for it or another adapter was made from it.
    pub fn remove(&mut self, id: &str) -> Result<AdapterRecord> {
        let record = self.adapter(id)?;
        let alias = self.aliases()?.into_iter().find(|a| a.adapter == record.id);
        let child: Option<String> = self.lineage(&record.id)?.1.into_iter().next().map(|e| e.child);
        if let Some(held) =
            alias.map(|a| format!("alias {:?}", a.name)).or(child.map(|c| format!("adapter {}", &c[..12])))
        {
            return Err(Error::InUse { id: record.behaviour.clone(), held });
        }
        let (receipt, trash) = (self.receipt_path(&record.spec_hash), self.trash_path(&record.id));
        self.change(
            ("remove", &record.id, &record.behaviour),
            |t| {
                t.execute("UPDATE jobs SET adapter = NULL WHERE spec_hash = ?1", [&record.spec_hash])?;
                t.execute("DELETE FROM adapters WHERE id = ?1", [&record.id])
            },
            // The trash is written before the receipt goes: a kill in between leaves both, and the next removal is clean.
            |_| {
                Ok(write_atomic(&trash, receipt_text(&record).as_bytes()).and_then(|()| {
                    if receipt.exists() { Ok(fs_err::remove_file(&receipt)?) } else { Ok(()) }
                }))
            },
        )?;
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
        self.get_blob(&record.weights)?;
        let (receipt, trash) = (self.receipt_path(&record.spec_hash), self.trash_path(&record.id));
        self.change(
            ("restore", &record.id, &record.behaviour),
            |t| insert(t, record),
            |_| {
                Ok(write_atomic(&receipt, receipt_text(record).as_bytes())
                    .and_then(|()| Ok(fs_err::remove_file(&trash)?)))
            },
        )?;
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
                out.push((path.clone(), crate::commit::read_receipt(&path)?));
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

fn read_aliases(c: &rusqlite::Connection) -> rusqlite::Result<Vec<Alias>> {
    c.prepare("SELECT name, adapter FROM aliases ORDER BY name")?
        .query_map([], |r| Ok(Alias { name: r.get(0)?, adapter: r.get(1)? }))?
        .collect()
}

fn write_aliases(path: &Path, aliases: &[Alias]) -> Result<()> {
    let map: BTreeMap<&str, &str> = aliases.iter().map(|a| (a.name.as_str(), a.adapter.as_str())).collect();
    write_atomic(path, serde_json::to_string_pretty(&map).expect("invariant: plain data").as_bytes())
}

#[cfg(test)]
mod tests {
    use crate::store::tests::new_adapter;
    use crate::{Filter, Store};

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
}
