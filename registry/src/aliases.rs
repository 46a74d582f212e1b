//! Names that can move. The table decides; `aliases.json` keeps them for a catalogue that is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rusqlite::params;
use serde::Serialize;

use crate::check::Problem;
use crate::store::check_name;
use crate::{AdapterRecord, Error, Result, Store, write_atomic};

/// A moving name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Alias {
    /// Name.
    pub name: String,
    /// Id of the adapter that it stands for.
    pub adapter: String,
}

impl Store {
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
            return Err(Error::LikeAnId(name.into()));
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
            |t| Ok(write_aliases(&path, &read_aliases(t)?, None)),
        )?;
        Ok(record)
    }

    /// Removes an alias; the adapter stays. Returns whether there was one.
    pub fn remove_alias(&mut self, name: &str) -> Result<bool> {
        if !self.aliases()?.iter().any(|a| a.name == name) {
            return Ok(false);
        }
        let path = self.alias_path();
        let n = self.change(
            ("alias", name, ""),
            |t| t.execute("DELETE FROM aliases WHERE name = ?1", [name]),
            |t| Ok(write_aliases(&path, &read_aliases(t)?, Some(name))),
        )?;
        Ok(n > 0)
    }

    fn alias_path(&self) -> PathBuf {
        self.root.join("aliases.json")
    }

    /// Puts the aliases back that the file knows and the catalogue does not.
    pub(crate) fn restore_aliases(&mut self) -> Result<()> {
        let aliases = read_file(&self.alias_path())?;
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

    /// Where the table, the file and the catalogue are at odds, as they are at one moment.
    pub(crate) fn alias_problems(&self) -> Result<Vec<Problem>> {
        let receipts = self.receipt_ids()?;
        let path = self.alias_path();
        self.locked(|c| {
            let file = match read_file(&path) {
                Ok(file) => file,
                Err(e) => {
                    let what = format!("cannot be read: {e}; move it away and it is written again");
                    return Ok(vec![Problem { subject: "aliases.json".into(), what, repairable: false }]);
                }
            };
            let known = ids(c)?;
            let names = Names { table: read_aliases(c)?, file };
            let problem = |name: &str, what: String, repairable| Problem {
                subject: format!("alias {name}"),
                what,
                repairable,
            };
            Ok(names
                .all()
                .into_iter()
                .filter_map(|(name, table, file)| {
                    let Some(adapter) = [table, file].into_iter().flatten().find(|a| known.contains(*a)) else {
                        let gone = table.or(file)?;
                        let what = format!("stands for {gone}, which is not in the catalogue");
                        return Some(problem(name, what, droppable(receipts.as_ref(), gone)));
                    };
                    let said = |a: Option<&str>| a.map_or("nothing".to_owned(), str::to_owned);
                    (table != file).then(|| {
                        let what = format!(
                            "stands for {} by the catalogue and for {} by aliases.json; {adapter} it is to be",
                            said(table),
                            said(file)
                        );
                        problem(name, what, true)
                    })
                })
                .collect())
        })
    }

    /// Makes the table and the file agree: the table's adapter if there is one, else the file's, and no name for an adapter that
    /// is gone. Returns how many names were put right, and those dropped.
    pub(crate) fn reconcile_aliases(&mut self) -> Result<(usize, Vec<Alias>)> {
        let receipts = self.receipt_ids()?;
        let path = self.alias_path();
        let mut failed = None;
        let done = self.transaction(|t| {
            // One that cannot be read is reported by `check` and left for a person.
            let Ok(file) = read_file(&path) else { return Ok((0, Vec::new())) };
            let known = ids(t)?;
            let names = Names { table: read_aliases(t)?, file };
            let (mut right, mut dropped) = (0, Vec::new());
            let mut wanted: BTreeMap<String, String> = BTreeMap::new();
            for (name, table, file) in names.all() {
                let Some(one) = table.or(file) else { continue };
                let there = [table, file].into_iter().flatten().find(|a| known.contains(*a));
                match there {
                    None if droppable(receipts.as_ref(), one) => {
                        dropped.push(Alias { name: name.into(), adapter: one.into() });
                        continue;
                    }
                    None => {}
                    Some(_) => right += usize::from(table != file),
                }
                wanted.insert(name.into(), there.unwrap_or(one).into());
            }
            t.execute("DELETE FROM aliases", [])?;
            for (name, adapter) in &wanted {
                t.execute("INSERT INTO aliases(name, adapter) VALUES(?1, ?2)", params![name, adapter])?;
            }
            if wanted != names.file
                && let Err(e) = write_file(&path, &wanted)
            {
                failed = Some(e);
                return Err(rusqlite::Error::QueryReturnedNoRows);
            }
            Ok((right, dropped))
        });
        match failed {
            Some(e) => Err(e),
            None => done,
        }
    }

    /// The adapters that receipts speak of; nothing if one of them cannot be read.
    fn receipt_ids(&self) -> Result<Option<BTreeSet<String>>> {
        Ok(self.receipts()?.into_iter().map(|(_, r)| r.ok().map(|r| r.id)).collect())
    }
}

/// Whether an adapter that is not in the catalogue is gone: no receipt speaks of it, nor can one that is damaged.
fn droppable(receipts: Option<&BTreeSet<String>>, adapter: &str) -> bool {
    receipts.is_some_and(|ids| !ids.contains(adapter))
}

/// The aliases of the table and of the file.
struct Names {
    table: Vec<Alias>,
    file: BTreeMap<String, String>,
}

impl Names {
    /// Every name with what it stands for in the table and in the file.
    fn all(&self) -> Vec<(&str, Option<&str>, Option<&str>)> {
        let table: BTreeMap<&str, &str> =
            self.table.iter().map(|a| (a.name.as_str(), a.adapter.as_str())).collect();
        let names: BTreeSet<&str> =
            table.keys().copied().chain(self.file.keys().map(String::as_str)).collect();
        names
            .into_iter()
            .map(|name| (name, table.get(name).copied(), self.file.get(name).map(String::as_str)))
            .collect()
    }
}

fn ids(c: &rusqlite::Connection) -> rusqlite::Result<BTreeSet<String>> {
    c.prepare("SELECT id FROM adapters")?.query_map([], |r| r.get(0))?.collect()
}

/// The file's aliases; none if there is no file.
fn read_file(path: &Path) -> Result<BTreeMap<String, String>> {
    match fence::open::read_own_text(path, fence::open::TABLE) {
        Ok(text) => serde_json::from_str(&text)
            .map_err(|source| Error::Json { what: path.display().to_string(), source }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(e) => Err(e.into()),
    }
}

fn write_file(path: &Path, aliases: &BTreeMap<String, String>) -> Result<()> {
    write_atomic(path, serde_json::to_string_pretty(aliases).expect("invariant: plain data").as_bytes())
}

fn read_aliases(c: &rusqlite::Connection) -> rusqlite::Result<Vec<Alias>> {
    c.prepare("SELECT name, adapter FROM aliases ORDER BY name")?
        .query_map([], |r| Ok(Alias { name: r.get(0)?, adapter: r.get(1)? }))?
        .collect()
}

/// Writes the table's aliases over those of the file. What only the file knows (a lost catalogue's) stays in it.
fn write_aliases(path: &Path, aliases: &[Alias], removed: Option<&str>) -> Result<()> {
    let mut map = read_file(path)?;
    map.extend(aliases.iter().map(|a| (a.name.clone(), a.adapter.clone())));
    if let Some(name) = removed {
        map.remove(name);
    }
    write_file(path, &map)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::store::tests::new_adapter;
    use crate::{Alias, Store};

    #[test]
    fn aliases_outlive_a_lost_catalogue_whatever_is_done_before_the_rebuild() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        let a = store.commit_adapter(new_adapter("topic/cats", vec![1])).unwrap();
        store.set_alias("best", &a.id).unwrap();
        store.transaction(|t| t.execute_batch("DELETE FROM aliases; DELETE FROM adapters")).unwrap();
        let b = store.commit_adapter(new_adapter("topic/dogs", vec![2])).unwrap();
        store.set_alias("other", &b.id).unwrap();
        assert!(!store.remove_alias("best").unwrap());
        store.rebuild_from_receipts().unwrap();
        assert_eq!(store.adapter("best").unwrap(), a);
        assert_eq!(store.adapter("other").unwrap(), b);
    }

    #[test]
    fn a_repair_makes_table_and_file_agree_and_drops_names_of_what_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        let a = store.commit_adapter(new_adapter("topic/cats", vec![1])).unwrap().id;
        let b = store.commit_adapter(new_adapter("topic/dogs", vec![2])).unwrap().id;
        let path = folder.path().join("aliases.json");
        let set = |store: &mut Store, table: &[(&str, &str)], file: &[(&str, &str)]| {
            store
                .transaction(|t| {
                    t.execute("DELETE FROM aliases", [])?;
                    for (name, adapter) in table {
                        t.execute("INSERT INTO aliases(name, adapter) VALUES(?1, ?2)", [name, adapter])?;
                    }
                    Ok(())
                })
                .unwrap();
            let map: BTreeMap<&str, &str> = file.iter().copied().collect();
            std::fs::write(&path, serde_json::to_string(&map).unwrap()).unwrap();
        };
        let problems = |store: &Store| -> Vec<String> {
            let found = store.check(&|_, _| {}).unwrap().problems;
            found.into_iter().map(|p| format!("{}: {}", p.subject, p.what)).collect()
        };
        let file = || -> BTreeMap<String, String> {
            serde_json::from_str(&std::fs::read_to_string(folder.path().join("aliases.json")).unwrap())
                .unwrap()
        };
        for (table, in_file, found, dropped, wanted) in [
            (vec![("x", &*a)], vec![], 1, vec![], vec![("x", &*a)]),
            (vec![], vec![("x", &*a)], 1, vec![], vec![("x", &*a)]),
            (vec![("x", &*a)], vec![("x", &*b)], 1, vec![], vec![("x", &*a)]),
            (vec![("x", "gone")], vec![("x", &*b)], 1, vec![], vec![("x", &*b)]),
            (vec![("x", "gone")], vec![("x", "gone"), ("y", &*b)], 2, vec![("x", "gone")], vec![("y", &*b)]),
            (vec![], vec![("x", "gone")], 1, vec![("x", "gone")], vec![]),
            (vec![("x", "gone")], vec![], 1, vec![("x", "gone")], vec![]),
            (vec![("x", &*a)], vec![("x", &*a)], 0, vec![], vec![("x", &*a)]),
        ] {
            set(&mut store, &table, &in_file);
            assert_eq!(problems(&store).len(), found, "{table:?} {in_file:?}");
            let done = store.repair().unwrap();
            let alias =
                |(name, adapter): &(&str, &str)| Alias { name: (*name).into(), adapter: (*adapter).into() };
            assert_eq!(
                done.dropped_aliases,
                dropped.iter().map(alias).collect::<Vec<_>>(),
                "{table:?} {in_file:?}"
            );
            assert_eq!(done.aliases + done.dropped_aliases.len(), found, "{table:?} {in_file:?}");
            let wanted: Vec<Alias> = wanted.iter().map(alias).collect();
            assert_eq!(store.aliases().unwrap(), wanted);
            assert_eq!(file(), wanted.into_iter().map(|a| (a.name, a.adapter)).collect());
            assert_eq!(problems(&store), Vec::<String>::new());
        }
        // An adapter that is only damaged is not gone: its name stays for the day that it is mended.
        set(&mut store, &[("x", &a)], &[("x", &a)]);
        let record = store.adapter(&a).unwrap();
        store.transaction(|t| t.execute("DELETE FROM adapters WHERE id = ?1", [&a])).unwrap();
        let blob =
            folder.path().join("blobs").join(&record.weights.as_str()[..2]).join(record.weights.as_str());
        std::fs::write(blob, b"damaged").unwrap();
        assert_eq!(store.repair().unwrap().dropped_aliases, []);
        assert_eq!(file().len(), 1);
        // A file that cannot be read is said, and not overwritten.
        std::fs::write(folder.path().join("aliases.json"), "{").unwrap();
        store.repair().unwrap();
        assert!(problems(&store).iter().any(|p| p.starts_with("aliases.json: cannot be read")));
        assert_eq!(std::fs::read_to_string(folder.path().join("aliases.json")).unwrap(), "{");
    }
}
