//! Runs: which adapters a comparison asked, and through which readers. Filed so that lineage knows them; derived from
//! `runs/<id>/config.json`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, Transaction, params};
use serde::Deserialize;

use crate::check::Problem;
use crate::names::nearest;
use crate::store::check_name;
use crate::{Error, Result, Store, write_atomic};

/// What a run's configuration says of adapters, beside whatever else it says.
#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    asked: Vec<String>,
    #[serde(default)]
    readers: Vec<String>,
}

/// A run's adapters: kind (`asked`, `reader`) and id.
type Edges = BTreeSet<(String, String)>;

/// A run with a report.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    /// When its report was written: nanoseconds since 1970.
    pub made: i128,
    /// Its name.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
}

impl Run {
    /// The file of its comparison.
    pub fn report(&self) -> PathBuf {
        self.folder.join("comparison.json")
    }
}

impl Store {
    /// The runs that have a report, the newest last.
    ///
    /// # Errors
    /// If their folder cannot be read.
    pub fn runs(&self) -> Result<Vec<Run>> {
        use std::os::unix::fs::MetadataExt;
        let mut runs = Vec::new();
        for entry in fs_err::read_dir(self.root.join("runs"))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let run = Run { made: 0, name, folder: entry.path() };
            if let Ok(meta) = fs_err::metadata(run.report()) {
                let made = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
                runs.push(Run { made, ..run });
            }
        }
        runs.sort();
        Ok(runs)
    }

    /// The run of that name, or the newest.
    ///
    /// # Errors
    /// If there is none, with the names of those that there are.
    pub fn run(&self, name: Option<&str>) -> Result<Run> {
        let mut known = self.runs()?;
        let at = match name {
            Some(name) => known.iter().position(|k| k.name == name),
            None => known.len().checked_sub(1),
        };
        if let Some(at) = at {
            return Ok(known.swap_remove(at));
        }
        let runs: Vec<String> = known.into_iter().map(|run| run.name).collect();
        let near = name.and_then(|name| nearest(name, runs.iter().map(String::as_str), 1).first().copied());
        let (run, near) = (name.map(str::to_owned), near.map(str::to_owned));
        Err(Error::NoRun { run, store: self.root.clone(), near, runs })
    }

    /// Files a run: `config.json` and `files` in its folder, and what the configuration says of adapters (`asked` and `readers`,
    /// lists of ids) in the catalogue, all or nothing of it. `admit` is asked within the transaction; where it says no, nothing
    /// is written. Returns what it said.
    ///
    /// # Errors
    /// If the name is not usable, a file's name is not plain, or the lists are none of ids.
    pub fn file_run(
        &mut self,
        run: &str,
        config: &serde_json::Value,
        files: &[(&str, Vec<u8>)],
        admit: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<bool>,
    ) -> Result<bool> {
        for (name, _) in files {
            check_name(name)?;
        }
        check_name(run)?;
        let folder = self.root.join("runs").join(run);
        let path = folder.join("config.json");
        let edges = edges_of(config.clone(), &path)?;
        let mut failed = None;
        let done = self.transaction(|t| {
            if !admit(t)? {
                return Ok(false);
            }
            put(t, run, &edges)?;
            let write = || -> Result<()> {
                fence::place::make_folder(&folder)?;
                for (name, bytes) in files {
                    write_atomic(&folder.join(name), bytes)?;
                }
                write_atomic(&path, config.to_string().as_bytes())
            };
            write().map(|()| true).map_err(|e| {
                failed = Some(e);
                rusqlite::Error::QueryReturnedNoRows
            })
        });
        failed.map_or(done, Err)
    }

    /// Removes a run: its folder, and what the catalogue has of it. A kill in between leaves what the next `gc` takes away.
    ///
    /// # Errors
    /// If the name is not usable, there is no such run, or its folder is not the store's own.
    pub fn remove_run(&mut self, run: &str) -> Result<()> {
        check_name(run)?;
        let folder = self.root.join("runs").join(run);
        // A link would have another place emptied.
        if !std::fs::symlink_metadata(&folder).is_ok_and(|m| m.is_dir()) {
            let what = "is no folder of a run";
            return Err(fence::open::error(&folder, std::io::ErrorKind::NotFound, what).into());
        }
        let aside = tempfile::Builder::new().prefix("run-").tempdir_in(self.root.join("staging"))?;
        let mut failed = None;
        let done = self.transaction(|t| {
            t.execute("DELETE FROM run_edges WHERE run = ?1", [run])?;
            fs_err::rename(&folder, aside.path().join(run)).map_err(|e| {
                failed = Some(e);
                rusqlite::Error::QueryReturnedNoRows
            })
        });
        match failed {
            Some(e) => Err(e.into()),
            None => done.and_then(|()| Ok(aside.close()?)),
        }
    }

    /// Runs whose adapters are not filed as their files say.
    pub(crate) fn run_problems(&self) -> Result<Vec<Problem>> {
        let root = self.root.clone();
        self.locked(|c| {
            let (on_disk, unreadable) = on_disk(&root);
            let mut out: Vec<Problem> = unreadable
                .iter()
                .map(|(run, e)| Problem {
                    subject: format!("run {run}"),
                    what: format!("its configuration cannot be read: {e}"),
                    repairable: false,
                })
                .collect();
            let wrong = wrong(&on_disk, &filed(c)?, &unreadable);
            out.extend(wrong.into_iter().map(|run| Problem {
                subject: format!("run {run}"),
                what: "its adapters are not filed as its configuration says".into(),
                repairable: true,
            }));
            Ok(out)
        })
    }

    /// Files every run's adapters as its files say; returns for how many runs that changed anything.
    pub(crate) fn refile_runs(&mut self) -> Result<usize> {
        let root = self.root.clone();
        self.transaction(|t| refile(t, &root))
    }
}

/// See [`Store::refile_runs`].
pub(crate) fn refile(c: &Connection, root: &Path) -> rusqlite::Result<usize> {
    let (on_disk, unreadable) = on_disk(root);
    let wrong = wrong(&on_disk, &filed(c)?, &unreadable);
    for run in &wrong {
        put(c, run, on_disk.get(run).unwrap_or(&Edges::new()))?;
    }
    Ok(wrong.len())
}

fn put(c: &Connection, run: &str, edges: &Edges) -> rusqlite::Result<()> {
    c.execute("DELETE FROM run_edges WHERE run = ?1", [run])?;
    let mut edge = c.prepare_cached("INSERT INTO run_edges(run, kind, adapter) VALUES(?1,?2,?3)")?;
    for (kind, adapter) in edges {
        edge.execute(params![run, kind, adapter])?;
    }
    Ok(())
}

fn filed(c: &Connection) -> rusqlite::Result<BTreeMap<String, Edges>> {
    let rows: Vec<(String, String, String)> = c
        .prepare("SELECT run, kind, adapter FROM run_edges")?
        .query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let mut out: BTreeMap<String, Edges> = BTreeMap::new();
    for (run, kind, adapter) in rows {
        out.entry(run).or_default().insert((kind, adapter));
    }
    Ok(out)
}

/// Runs whose two sides differ. What a configuration that cannot be read says is not known.
fn wrong(
    on_disk: &BTreeMap<String, Edges>,
    filed: &BTreeMap<String, Edges>,
    unreadable: &BTreeMap<String, String>,
) -> Vec<String> {
    let names: BTreeSet<&String> = on_disk.keys().chain(filed.keys()).collect();
    let differs = |run: &&&String| on_disk.get(**run) != filed.get(**run) && !unreadable.contains_key(**run);
    names.iter().filter(differs).map(|run| (*run).clone()).collect()
}

/// What the runs' files say of adapters, and which of them cannot be read, and why.
fn on_disk(root: &Path) -> (BTreeMap<String, Edges>, BTreeMap<String, String>) {
    let (mut good, mut bad) = (BTreeMap::new(), BTreeMap::new());
    // A folder that is not there or cannot be listed holds no run.
    for entry in fs_err::read_dir(root.join("runs")).into_iter().flatten().flatten() {
        let path = entry.path().join("config.json");
        let Ok(run) = entry.file_name().into_string() else { continue };
        let own = entry.file_type().is_ok_and(|t| t.is_dir());
        if check_name(&run).is_err() || !own || !path.exists() {
            continue;
        }
        match read(&path) {
            Ok(edges) if edges.is_empty() => {}
            Ok(edges) => drop(good.insert(run, edges)),
            Err(e) => drop(bad.insert(run, e.to_string())),
        }
    }
    (good, bad)
}

fn read(path: &Path) -> Result<Edges> {
    let text = fence::open::read_own_text(path, fence::open::TABLE)?;
    let value = serde_json::from_str(&text)
        .map_err(|source| Error::Json { what: path.display().to_string(), source })?;
    edges_of(value, path)
}

fn edges_of(config: serde_json::Value, path: &Path) -> Result<Edges> {
    let Config { asked, readers } = serde_json::from_value(config)
        .map_err(|source| Error::Json { what: path.display().to_string(), source })?;
    let edge = |kind: &'static str| move |id| (kind.to_owned(), id);
    Ok(asked.into_iter().map(edge("asked")).chain(readers.into_iter().map(edge("reader"))).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::store::tests::new_adapter;
    use crate::{Edge, NewAdapter, Role, Store};

    fn edge(child: &str, kind: &str, parent: &str) -> Edge {
        Edge { child: child.into(), kind: kind.into(), parent: parent.into() }
    }

    #[test]
    fn lineage_knows_runs_and_readers_in_both_directions_and_after_a_lost_catalogue() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        let a = store.commit_adapter(new_adapter("topic/cats", vec![1])).unwrap();
        let b = store.commit_adapter(new_adapter("topic/dogs", vec![2])).unwrap();
        let reader = NewAdapter {
            role: Role::DitAdapter,
            parents: vec![a.id.clone()],
            ..new_adapter("reader/dit/1", vec![3])
        };
        let reader = store.commit_adapter(reader).unwrap();
        store
            .file_run("mine", &json!({"asked": [b.id], "readers": [reader.id], "more": 1}), &[], |_| Ok(true))
            .unwrap();
        let look = |store: &Store| {
            let down = |id: &str| store.lineage(id).unwrap().1;
            let made_from_cats = [edge(&reader.id, "adapter", &a.id), edge("run/mine", "reader", &reader.id)];
            let mut found = down(&a.id);
            found.sort_by(|x, y| x.kind.cmp(&y.kind));
            assert_eq!(found, made_from_cats);
            assert_eq!(down(&b.id), [edge("run/mine", "asked", &b.id)]);
            assert_eq!(down(&reader.id), [edge("run/mine", "reader", &reader.id)]);
            let up = store.lineage("run/mine").unwrap().0;
            assert!(up.contains(&edge("run/mine", "asked", &b.id)), "{up:?}");
            assert!(up.contains(&edge("run/mine", "reader", &reader.id)), "{up:?}");
            assert!(up.contains(&edge(&reader.id, "adapter", &a.id)), "{up:?}");
            assert!(store.check(&|_, _| {}).unwrap().problems.is_empty());
        };
        look(&store);
        // A reader needs its training adapters no more; a run holds nothing.
        store.remove(&a.id).unwrap();
        store.restore(&a.id).unwrap();
        look(&store);
        drop(store);
        for file in ["catalogue.sqlite", "catalogue.sqlite-wal", "catalogue.sqlite-shm"] {
            let _ = std::fs::remove_file(folder.path().join(file));
        }
        let mut store = Store::open(folder.path()).unwrap();
        store.rebuild_from_receipts().unwrap();
        look(&store);
        // A link and a name that leads elsewhere are no runs.
        std::os::unix::fs::symlink(folder.path().join("blobs"), folder.path().join("runs/link")).unwrap();
        assert!(store.remove_run("link").is_err() && store.remove_run("../blobs").is_err());
        assert!(store.remove_run("none").is_err() && folder.path().join("blobs").is_dir());
        std::fs::remove_file(folder.path().join("runs/link")).unwrap();
        store.remove_run("mine").unwrap();
        assert_eq!(store.lineage(&b.id).unwrap().1, []);
        assert!(
            !folder.path().join("runs/mine").exists() && store.check(&|_, _| {}).unwrap().problems.is_empty()
        );
        assert_eq!(std::fs::read_dir(folder.path().join("staging")).unwrap().count(), 0);
        // Filed again, it is what it says now.
        store.file_run("mine", &json!({"asked": [a.id], "readers": []}), &[], |_| Ok(true)).unwrap();
        assert_eq!(store.lineage(&b.id).unwrap().1, []);
        assert!(store.file_run("../x", &json!({}), &[], |_| Ok(true)).is_err());
        assert!(store.file_run("bad", &json!({"asked": 7}), &[], |_| Ok(true)).is_err());
    }

    #[test]
    fn a_check_holds_runs_against_their_files_and_a_repair_files_them_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        let a = store.commit_adapter(new_adapter("topic/cats", vec![1])).unwrap();
        store.file_run("mine", &json!({"asked": [a.id]}), &[], |_| Ok(true)).unwrap();
        let lineage = store.lineage(&a.id).unwrap();
        for damage in [
            "DELETE FROM run_edges",
            "INSERT INTO run_edges(run, kind, adapter) VALUES('mine', 'reader', 'x')",
            "INSERT INTO run_edges(run, kind, adapter) VALUES('other', 'asked', 'x')",
            "UPDATE run_edges SET adapter = 'x'",
        ] {
            store.transaction(|t| t.execute(damage, [])).unwrap();
            let found = store.check(&|_, _| {}).unwrap().problems;
            assert!(
                found.len() == 1 && found[0].what.contains("as its configuration says"),
                "{damage}: {found:?}"
            );
            assert_eq!(store.repair().unwrap().runs, 1, "{damage}");
            assert!(store.check(&|_, _| {}).unwrap().problems.is_empty(), "{damage}");
            assert_eq!(store.lineage(&a.id).unwrap(), lineage, "{damage}");
        }
        std::fs::write(folder.path().join("runs/mine/config.json"), "{").unwrap();
        assert_eq!(store.repair().unwrap().runs, 0);
        let found = store.check(&|_, _| {}).unwrap().problems;
        assert!(
            found.len() == 1 && !found[0].repairable && found[0].what.contains("cannot be read"),
            "{found:?}"
        );
        assert_eq!(store.lineage(&a.id).unwrap(), lineage);
    }
}
