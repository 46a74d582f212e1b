//! Putting jobs into the queue.

use std::collections::BTreeSet;

use rusqlite::{OptionalExtension, Transaction, params};

use super::{Queue, State, end, recount};
use crate::{Error, Result};

/// A job that another one waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs {
    /// Specification of the other job; it is in the queue already or comes earlier in the same submission.
    pub spec_hash: String,
    /// Whether it has to succeed (`afterok`), or only to end (`afterany`).
    pub only_ok: bool,
}

/// What a submission carries.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// `registry::spec_hash` of `spec`.
    pub spec_hash: String,
    /// Canonical JSON of the work.
    pub spec: serde_json::Value,
    /// What kind of work it is; workers claim the kinds they know.
    pub kind: String,
    /// For people.
    pub label: String,
    /// Family, for counts; also a tag.
    pub family: String,
    /// Further tags, for limits.
    pub tags: Vec<String>,
    /// Digest of the base model that it needs.
    pub base: String,
    /// Jobs with equal keys may be done in one batch.
    pub pack_key: String,
    /// Higher first, then first come.
    pub priority: i64,
    /// Attempts before it is dead.
    pub max_attempts: i64,
    /// What must end before.
    pub needs: Vec<Needs>,
}

/// What became of a submission.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Submitted {
    /// New jobs.
    pub new: usize,
    /// Of these, done at once because the catalogue has their adapter.
    pub already_made: usize,
    /// Known before, whatever their state.
    pub known: usize,
    /// Of these, queued again because their adapter was removed since.
    pub again: usize,
    /// Of those known, dead: they do not run again unless somebody says so.
    pub dead: usize,
    /// Of those known, cancelled: likewise.
    pub cancelled: usize,
}

impl Submitted {
    /// Counts a job that is known, by its state and adapter; returns whether it is to be queued again.
    fn know(&mut self, state: State, adapter: Option<&str>) -> bool {
        self.known += 1;
        self.dead += usize::from(state == State::Dead);
        self.cancelled += usize::from(state == State::Cancelled);
        let removed = state == State::Succeeded && adapter == Some("");
        self.again += usize::from(removed);
        removed
    }
}

impl Queue<'_> {
    /// Adds jobs, all or none. Those already known (by `spec_hash`) are left as they are, also if they are dead.
    ///
    /// # Errors
    /// If a job needs one that is neither in the queue, nor earlier in the list, nor made already.
    pub fn submit(&mut self, jobs: &[NewJob], now_ms: i64) -> Result<Submitted> {
        let mut unknown = None;
        let done = self.store.transaction(|t| {
            let mut out = Submitted::default();
            for job in jobs {
                match submit_one(t, job, now_ms, &mut out)? {
                    Ok(()) => {}
                    Err(missing) => {
                        unknown = Some(Error::UnknownNeed { job: job.label.clone(), missing });
                        return Err(rusqlite::Error::QueryReturnedNoRows);
                    }
                }
            }
            Ok(out)
        });
        match unknown {
            Some(e) => Err(e),
            None => Ok(done?),
        }
    }

    /// What [`Queue::submit`] would say of these jobs. Changes nothing.
    ///
    /// # Errors
    /// If the store refuses.
    pub fn preview(&self, jobs: &[NewJob]) -> Result<Submitted> {
        let mut out = Submitted::default();
        let mut earlier: BTreeSet<&str> = BTreeSet::new();
        for job in jobs {
            if let Some(known) = self.by_spec(&job.spec_hash)? {
                // A second one in the list finds the first queued again.
                let first = earlier.insert(&job.spec_hash);
                out.know(known.state, known.adapter.as_deref().filter(|a| first || !a.is_empty()));
            } else if earlier.insert(&job.spec_hash) {
                out.new += 1;
                out.already_made += usize::from(self.store.adapter_by_spec(&job.spec_hash)?.is_some());
            } else {
                out.known += 1;
            }
        }
        Ok(out)
    }
}

fn submit_one(
    t: &Transaction<'_>,
    job: &NewJob,
    now_ms: i64,
    out: &mut Submitted,
) -> rusqlite::Result<Result<(), String>> {
    let mut tags = vec![&job.family];
    tags.extend(job.tags.iter().filter(|t| **t != job.family));
    let n = t
        .prepare_cached(
            "INSERT INTO jobs(spec_hash, spec, kind, label, family, tags, base, pack_key, priority, max_attempts, changed_ms, why)
             VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,'submitted') ON CONFLICT(spec_hash) DO NOTHING",
        )?
        .execute(params![
            job.spec_hash,
            job.spec.to_string(),
            job.kind,
            job.label,
            job.family,
            serde_json::json!(tags).to_string(),
            job.base,
            job.pack_key,
            job.priority,
            job.max_attempts,
            now_ms
        ])?;
    if n == 0 {
        let (id, state, adapter): (i64, String, Option<String>) = t
            .prepare_cached("SELECT id, state, adapter FROM jobs WHERE spec_hash = ?1")?
            .query_row([&job.spec_hash], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?;
        if out.know(State::parse(&state), adapter.as_deref()) {
            t.execute(
                "UPDATE jobs SET state='queued', attempt=0, deaths=0, run_after_ms=0, adapter=NULL, changed_ms=?2,
                   why='submitted again: its adapter was removed' WHERE id=?1",
                params![id, now_ms],
            )?;
            recount(t, id)?;
        }
        return Ok(Ok(()));
    }
    out.new += 1;
    let id = t.last_insert_rowid();
    let made: Option<String> = t
        .prepare_cached("SELECT id FROM adapters WHERE spec_hash = ?1")?
        .query_row([&job.spec_hash], |r| r.get(0))
        .optional()?;
    if let Some(adapter) = made {
        end(t, (id, 0), State::Succeeded, (now_ms, "already in the catalogue"), (None, Some(&adapter)))?;
        out.already_made += 1;
        return Ok(Ok(()));
    }
    let mut doomed = None;
    let mut left = 0;
    for need in &job.needs {
        let found: Option<(i64, String, String)> = t
            .prepare_cached("SELECT id, state, label FROM jobs WHERE spec_hash = ?1")?
            .query_row([&need.spec_hash], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))
            .optional()?;
        let Some((needs, state, label)) = found else {
            // It came from elsewhere: no job of this queue made it.
            let there: bool = t
                .prepare_cached("SELECT EXISTS (SELECT 1 FROM adapters WHERE spec_hash = ?1)")?
                .query_row([&need.spec_hash], |r| r.get(0))?;
            if there {
                continue;
            }
            return Ok(Err(need.spec_hash.clone()));
        };
        t.prepare_cached("INSERT OR IGNORE INTO job_needs(job, needs, only_ok) VALUES(?1,?2,?3)")?
            .execute(params![id, needs, need.only_ok])?;
        match State::parse(&state) {
            State::Succeeded => {}
            state if state.ended() && need.only_ok => {
                doomed = Some(format!("it needs {label}, which is {}", state.name()));
            }
            state if state.ended() => {}
            _ => left += 1,
        }
    }
    if left > 0 {
        t.prepare_cached("UPDATE jobs SET deps_left = ?2 WHERE id = ?1")?.execute([id, left])?;
    }
    if let Some(why) = doomed {
        end(t, (id, 0), State::Dead, (now_ms, &why), (Some("permanent"), None))?;
    }
    Ok(Ok(()))
}
