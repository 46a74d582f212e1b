//! Garbage: blobs that nothing names, trash that is old enough, staging that nobody works on. First the plan, then, if asked, the same
//! plan carried out.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::{Digest, Result, Store};

/// What would be, or was, removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GcPlan {
    /// Blobs that no adapter, cached value or kept trash names.
    pub blobs: Vec<PathBuf>,
    /// Receipts of removed adapters, older than the grace period.
    pub trash: Vec<PathBuf>,
    /// Leftovers of writes that were cut short.
    pub staging: Vec<PathBuf>,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// A file younger than this may belong to a commit in progress.
const IN_PROGRESS: Duration = Duration::from_hours(1);

/// Age of a file; a clock set back makes it young, never old.
fn age(path: &std::path::Path) -> Result<Duration> {
    match fs_err::symlink_metadata(path) {
        Ok(meta) => Ok(meta.modified()?.elapsed().unwrap_or_default()),
        // Gone meanwhile: nobody's garbage.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Duration::ZERO),
        Err(e) => Err(e.into()),
    }
}

impl Store {
    /// What `gc` would remove: trash older than `grace`, and whatever nothing names.
    pub fn gc_plan(&self, grace: Duration) -> Result<GcPlan> {
        self.plan(grace, IN_PROGRESS)
    }

    fn plan(&self, grace: Duration, in_progress: Duration) -> Result<GcPlan> {
        let mut plan = GcPlan::default();
        let mut named: BTreeSet<Digest> = BTreeSet::new();
        // Files first: a blob that is put after this listing is not in it, and one put before is young.
        let blobs = self.blobs()?;
        for record in self.adapters(&crate::Filter::all())? {
            named.insert(record.weights);
            named.extend(record.extra_files.into_values());
        }
        let cached: Vec<String> =
            self.query(|c| c.prepare("SELECT digest FROM cache")?.query_map([], |r| r.get(0))?.collect())?;
        named.extend(cached.into_iter().filter_map(|d| Digest::try_from(d).ok()));
        // What a receipt names is kept, also while the catalogue is lost.
        for (_, record) in self.receipts()? {
            // What an unreadable receipt names is not known: then nothing is garbage.
            let record = record?;
            named.insert(record.weights);
            named.extend(record.extra_files.into_values());
        }
        for (path, record) in self.trashed()? {
            if age(&path)? >= grace {
                plan.trash.push(path);
            } else {
                named.insert(record.weights);
                named.extend(record.extra_files.into_values());
            }
        }
        for (digest, path, _) in blobs {
            if !named.contains(&digest) && age(&path)? >= in_progress {
                plan.blobs.push(path);
            }
        }
        for folder in ["staging", "blobs", "done"] {
            self.leftovers(
                &self.root.join(folder),
                (in_progress, grace),
                folder == "staging",
                &mut plan.staging,
            )?;
        }
        for path in plan.blobs.iter().chain(&plan.trash).chain(&plan.staging) {
            plan.bytes += size(path)?;
        }
        Ok(plan)
    }

    /// Temporary files of interrupted writes; in `staging`, everything. Training that was interrupted may go on for as long as
    /// trash may come back.
    fn leftovers(
        &self,
        folder: &std::path::Path,
        (in_progress, grace): (Duration, Duration),
        all: bool,
        out: &mut Vec<PathBuf>,
    ) -> Result<()> {
        for entry in fs_err::read_dir(folder)? {
            let entry = entry?;
            // A link is a leftover itself, never a way to another place.
            let entry_is_folder = entry.file_type()?.is_dir();
            let path = entry.path();
            let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
            let state = path.extension().is_some_and(|e| e == "fit" || e == "checkpoint");
            let least = if state { in_progress.max(grace) } else { in_progress };
            if (all || hidden) && age(&path)? >= least {
                if !self.is_checkpoint_of_open_job(&path)? {
                    out.push(path);
                }
            } else if entry_is_folder && !all {
                self.leftovers(&path, (in_progress, grace), all, out)?;
            }
        }
        Ok(())
    }

    fn is_checkpoint_of_open_job(&self, path: &std::path::Path) -> Result<bool> {
        let Some(stem) = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.split('.').next()) else {
            return Ok(false);
        };
        self.query(|c| {
            c.query_row(
                "SELECT EXISTS(SELECT 1 FROM jobs WHERE spec_hash = ?1 AND state NOT IN ('succeeded','cancelled'))",
                [stem],
                |r| r.get(0),
            )
        })
    }

    /// Carries a plan out. Each file is looked at once more, while nobody can commit: what was named or used since the plan was made
    /// stays.
    pub fn gc(&mut self, plan: &GcPlan) -> Result<()> {
        self.carry_out(plan, IN_PROGRESS)
    }

    fn carry_out(&mut self, plan: &GcPlan, in_progress: Duration) -> Result<()> {
        // The receipt goes first: a kill in between leaves blobs that the next run finds unnamed.
        // While nobody can restore.
        let mut failed = None;
        self.transaction(|_| {
            failed = plan.trash.iter().chain(&plan.staging).find_map(|path| remove(path).err());
            Ok(())
        })?;
        if let Some(e) = failed {
            return Err(e);
        }
        // Whoever puts a blob that is there makes it young, and a commit looks for its blobs while it holds the lock.
        for part in plan.blobs.chunks(500) {
            let mut failed = None;
            self.transaction(|_| {
                for path in part {
                    let young = age(path).map(|a| a < in_progress);
                    if let Err(e) = young.and_then(|young| if young { Ok(()) } else { remove(path) }) {
                        failed = Some(e);
                    }
                }
                Ok(())
            })?;
            if let Some(e) = failed {
                return Err(e);
            }
        }
        Ok(())
    }
}

/// Removes a file or folder; one that is gone is no error.
fn remove(path: &std::path::Path) -> Result<()> {
    let folder = std::fs::symlink_metadata(path).is_ok_and(|m| m.is_dir());
    let removed = if folder { fs_err::remove_dir_all(path) } else { fs_err::remove_file(path) };
    match removed {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
        _ => Ok(()),
    }
}

fn size(path: &std::path::Path) -> Result<u64> {
    let size = || -> std::io::Result<u64> {
        let found = fs_err::symlink_metadata(path)?;
        if !found.is_dir() {
            return Ok(found.len());
        }
        fs_err::read_dir(path)?.map(|e| e?.metadata().map(|m| m.len())).sum()
    };
    match size() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(0),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::store::tests::new_adapter;
    use crate::{Filter, Store};

    #[test]
    fn only_what_nothing_names_goes_and_the_plan_is_what_happens() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        let a = store.commit_adapter(new_adapter("topic/cats", vec![1; 100])).unwrap();
        store.commit_adapter(new_adapter("topic/dogs", vec![2; 100])).unwrap();
        store.cache_put("key", b"cached").unwrap();
        store.put_blob(&[7; 10]).unwrap();
        fs_err::write(folder.path().join("staging/half"), "x").unwrap();
        // Everything is young: nothing goes.
        assert_eq!(store.gc_plan(Duration::ZERO).unwrap().blobs.len(), 0);
        let plan = store.plan(Duration::from_hours(24), Duration::ZERO).unwrap();
        assert_eq!((plan.blobs.len(), plan.trash.len(), plan.staging.len(), plan.bytes), (1, 0, 1, 11));
        store.remove(&a.id).unwrap();
        assert_eq!(
            store.plan(Duration::from_hours(24), Duration::ZERO).unwrap(),
            plan,
            "trash is kept for its grace period"
        );
        let plan = store.plan(Duration::ZERO, Duration::ZERO).unwrap();
        assert_eq!((plan.blobs.len(), plan.trash.len()), (2, 1));
        assert_eq!(store.adapters(&Filter::all()).unwrap().len(), 1, "a plan changes nothing");
        // A blob that is used again after the plan was made stays.
        store.gc(&plan).unwrap();
        assert_eq!(
            store.plan(Duration::ZERO, Duration::ZERO).unwrap().blobs.len(),
            2,
            "young files were removed"
        );
        store.carry_out(&plan, Duration::ZERO).unwrap();
        assert_eq!(store.plan(Duration::ZERO, Duration::ZERO).unwrap().bytes, 0);
        assert!(store.restore(&a.id).is_err());
        assert_eq!(store.cache_get("key").unwrap().unwrap(), b"cached");
        let left = store.adapters(&Filter::all()).unwrap();
        assert_eq!(store.weights(&left[0]).unwrap(), [2; 100]);
    }
}
