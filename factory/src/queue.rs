//! The batch job queue, in the store's own database: a job is its specification, a lease carries a token that grows with
//! every claim, and only the holder of the current token can commit.
//!
//! `queued -> leased -> running -> succeeded`, with `retry_wait` after a lost lease or a retryable error, `dead` after a
//! permanent one or too many attempts, and `cancelled`. Every transition appends one row to `events`.

use std::collections::BTreeMap;

use registry::{AdapterRecord, NewAdapter, Store};
use rusqlite::{OptionalExtension, Transaction, params};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A job's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the field's")]
pub enum State {
    Queued,
    Leased,
    Running,
    RetryWait,
    Succeeded,
    Cancelled,
    Dead,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Leased => "leased",
            Self::Running => "running",
            Self::RetryWait => "retry_wait",
            Self::Succeeded => "succeeded",
            Self::Cancelled => "cancelled",
            Self::Dead => "dead",
        }
    }

    fn parse(name: &str) -> Self {
        [Self::Queued, Self::Leased, Self::Running, Self::RetryWait, Self::Succeeded, Self::Cancelled]
            .into_iter()
            .find(|s| s.name() == name)
            .unwrap_or(Self::Dead)
    }
}

/// How an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Worth trying again (disk full, killed).
    Retryable,
    /// The same again whatever is done (bad data, NaN under a fixed seed).
    Permanent,
}

/// What a submission carries.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// `registry::spec_hash` of `spec`.
    pub spec_hash: String,
    /// Canonical JSON of the work.
    pub spec: serde_json::Value,
    /// For people.
    pub label: String,
    /// Family, for counts.
    pub family: String,
    /// Jobs with equal keys may be trained in one batch.
    pub pack_key: String,
    /// Higher first.
    pub priority: i64,
}

/// A job as stored.
#[derive(Debug, Clone, Serialize)]
pub struct Job {
    /// Row id.
    pub id: i64,
    /// Identity.
    pub spec_hash: String,
    /// The work.
    #[serde(skip)]
    pub spec: serde_json::Value,
    /// For people.
    pub label: String,
    /// Family.
    pub family: String,
    /// State.
    pub state: State,
    /// Attempts so far.
    pub attempt: i64,
    /// Current lease token.
    pub token: i64,
    /// Id of the adapter made, once it succeeded.
    pub adapter: Option<String>,
    /// Why it failed last.
    pub error: Option<String>,
}

/// Counts of a queue.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct QueueStatus {
    /// By state.
    pub states: BTreeMap<String, usize>,
    /// By family and state.
    pub families: BTreeMap<String, BTreeMap<String, usize>>,
    /// Dead jobs and why.
    pub dead: Vec<(String, String)>,
}

/// The queue of a store. Times are milliseconds of the caller's clock.
#[derive(Debug)]
pub struct Queue<'a> {
    store: &'a mut Store,
}

const COLUMNS: &str = "id, spec_hash, spec, label, family, state, attempt, lease_token, adapter, error";

fn row(r: &rusqlite::Row<'_>) -> rusqlite::Result<Job> {
    let spec: String = r.get(2)?;
    let state: String = r.get(5)?;
    Ok(Job {
        id: r.get(0)?,
        spec_hash: r.get(1)?,
        spec: serde_json::from_str(&spec).unwrap_or_default(),
        label: r.get(3)?,
        family: r.get(4)?,
        state: State::parse(&state),
        attempt: r.get(6)?,
        token: r.get(7)?,
        adapter: r.get(8)?,
        error: r.get(9)?,
    })
}

fn event(
    t: &Transaction<'_>,
    job: i64,
    from: &str,
    to: &str,
    token: i64,
    at_ms: i64,
    reason: &str,
) -> rusqlite::Result<()> {
    t.execute(
        "INSERT INTO events(job, from_state, to_state, token, at_ms, reason) VALUES(?1,?2,?3,?4,?5,?6)",
        params![job, from, to, token, at_ms, reason],
    )?;
    Ok(())
}

impl<'a> Queue<'a> {
    /// The queue in a store.
    pub fn new(store: &'a mut Store) -> Self {
        Self { store }
    }

    /// Adds jobs; those already known (by `spec_hash`) are left as they are. Returns how many are new.
    pub fn submit(&mut self, jobs: &[NewJob], now_ms: i64) -> Result<usize> {
        Ok(self.store.transaction(|t| {
            let mut added = 0;
            for job in jobs {
                let n = t.execute(
                    "INSERT INTO jobs(spec_hash, spec, label, family, pack_key, priority) VALUES(?1,?2,?3,?4,?5,?6) ON CONFLICT(spec_hash) DO NOTHING",
                    params![job.spec_hash, job.spec.to_string(), job.label, job.family, job.pack_key, job.priority],
                )?;
                if n == 1 {
                    let id = t.last_insert_rowid();
                    event(t, id, "", "queued", 0, now_ms, "submitted")?;
                    // A spec already made is done at once.
                    let known: Option<String> =
                        t.query_row("SELECT id FROM adapters WHERE spec_hash = ?1", [&job.spec_hash], |r| r.get(0)).optional()?;
                    if let Some(adapter) = known {
                        t.execute("UPDATE jobs SET state = 'succeeded', adapter = ?2 WHERE id = ?1", params![id, adapter])?;
                        event(t, id, "queued", "succeeded", 0, now_ms, "already in the catalogue")?;
                    }
                    added += 1;
                }
            }
            Ok(added)
        })?)
    }

    /// Leases up to `k` ready jobs of the base model `base` (a digest, with which pack keys begin) that can be trained
    /// together (those that share the first one's pack key).
    pub fn claim(
        &mut self,
        base: &str,
        owner: &str,
        k: usize,
        now_ms: i64,
        lease_ms: i64,
    ) -> Result<Vec<Job>> {
        Ok(self.store.transaction(|t| {
            let ready = "state IN ('queued','retry_wait') AND run_after_ms <= ?1 AND substr(pack_key, 1, length(?3)) = ?3";
            let sql = format!(
                "SELECT {COLUMNS} FROM jobs WHERE {ready} AND pack_key = (SELECT pack_key FROM jobs WHERE {ready} ORDER BY priority DESC, id LIMIT 1)
                 ORDER BY priority DESC, id LIMIT ?2"
            );
            let mut jobs: Vec<Job> = t.prepare(&sql)?.query_map(params![now_ms, k as i64, base], row)?.collect::<Result<_, _>>()?;
            for job in &mut jobs {
                t.execute(
                    "UPDATE jobs SET state='leased', attempt=attempt+1, lease_token=lease_token+1, lease_owner=?2, lease_until_ms=?3 WHERE id=?1",
                    params![job.id, owner, now_ms + lease_ms],
                )?;
                job.token += 1;
                job.attempt += 1;
                event(t, job.id, job.state.name(), "leased", job.token, now_ms, owner)?;
                job.state = State::Leased;
            }
            Ok(jobs)
        })?)
    }

    /// `leased -> running`.
    pub fn start(&mut self, job: &Job, now_ms: i64) -> Result<()> {
        let n = self.store.transaction(|t| {
            let n = t.execute(
                "UPDATE jobs SET state='running' WHERE id=?1 AND lease_token=?2 AND state='leased'",
                params![job.id, job.token],
            )?;
            if n == 1 {
                event(t, job.id, "leased", "running", job.token, now_ms, "")?;
            }
            Ok(n)
        })?;
        if n == 1 { Ok(()) } else { Err(Error::LeaseLost(job.id)) }
    }

    /// Extends a lease. `false` when it is lost or the job was cancelled: stop at once.
    pub fn heartbeat(&mut self, job: &Job, now_ms: i64, lease_ms: i64) -> Result<bool> {
        let n = self.store.query(|c| {
            c.execute(
                "UPDATE jobs SET lease_until_ms=?3 WHERE id=?1 AND lease_token=?2 AND state IN ('leased','running')",
                params![job.id, job.token, now_ms + lease_ms],
            )
        })?;
        Ok(n == 1)
    }

    /// Records the adapter and ends the job in one transaction. A stale token records nothing.
    pub fn commit(&mut self, job: &Job, adapter: NewAdapter, now_ms: i64) -> Result<AdapterRecord> {
        let record = self.store.commit_adapter_with(adapter, |t, record| {
            let n = t.execute(
                "UPDATE jobs SET state='succeeded', adapter=?3, error=NULL, lease_owner=NULL, lease_until_ms=NULL
                 WHERE id=?1 AND lease_token=?2 AND state='running'",
                params![job.id, job.token, record.id],
            )?;
            if n == 1 {
                event(t, job.id, "running", "succeeded", job.token, now_ms, &record.id)?;
            }
            Ok(n == 1)
        })?;
        record.ok_or(Error::LeaseLost(job.id))
    }

    /// Ends an attempt that failed: back to waiting with backoff, or dead. Returns whether it is dead.
    pub fn fail(&mut self, job: &Job, failure: Failure, reason: &str, now_ms: i64) -> Result<bool> {
        Ok(self.store.transaction(|t| {
            let held: Option<(String, i64, i64)> = t
                .query_row(
                    "SELECT state, attempt, max_attempts FROM jobs WHERE id=?1 AND lease_token=?2 AND state IN ('leased','running')",
                    params![job.id, job.token],
                    |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)),
                )
                .optional()?;
            if let Some((from, attempt, most)) = held {
                let again = failure == Failure::Retryable && attempt < most;
                let to = if again { "retry_wait" } else { "dead" };
                let wait = 2_000 * (1 << attempt.clamp(0, 8));
                t.execute(
                    "UPDATE jobs SET state=?2, error=?3, run_after_ms=?4, lease_owner=NULL, lease_until_ms=NULL WHERE id=?1",
                    params![job.id, to, reason, now_ms + wait],
                )?;
                event(t, job.id, &from, to, job.token, now_ms, reason)?;
                return Ok(!again);
            }
            Ok(false)
        })?)
    }

    /// Gives leases back without spending an attempt (a worker that is told to stop).
    pub fn release(&mut self, jobs: &[Job], now_ms: i64) -> Result<()> {
        self.store.transaction(|t| {
            for job in jobs {
                let n = t.execute(
                    "UPDATE jobs SET state='queued', attempt=attempt-1, lease_owner=NULL, lease_until_ms=NULL
                     WHERE id=?1 AND lease_token=?2 AND state IN ('leased','running')",
                    params![job.id, job.token],
                )?;
                if n == 1 {
                    event(t, job.id, "leased", "queued", job.token, now_ms, "released")?;
                }
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Takes back leases that ran out, and those whose owner `gone` says is dead. Returns how many.
    pub fn reap(&mut self, now_ms: i64, gone: impl Fn(&str) -> bool) -> Result<usize> {
        Ok(self.store.transaction(|t| {
            let held: Vec<(i64, String, i64, i64, i64, String, i64)> = t
                .prepare("SELECT id, state, attempt, max_attempts, lease_token, COALESCE(lease_owner,''), COALESCE(lease_until_ms,0) FROM jobs WHERE state IN ('leased','running')")?
                .query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?, r.get(5)?, r.get(6)?)))?
                .collect::<Result<_, _>>()?;
            let mut n = 0;
            for (id, from, attempt, most, token, owner, until) in held {
                if until >= now_ms && !gone(&owner) {
                    continue;
                }
                let to = if attempt >= most { "dead" } else { "retry_wait" };
                let reason = "the worker died or lost its lease";
                t.execute(
                    "UPDATE jobs SET state=?2, error=?3, run_after_ms=?4, lease_owner=NULL, lease_until_ms=NULL WHERE id=?1",
                    params![id, to, reason, now_ms],
                )?;
                event(t, id, &from, to, token, now_ms, reason)?;
                n += 1;
            }
            Ok(n)
        })?)
    }

    /// Cancels every job that has not ended and whose label begins so. Returns how many.
    pub fn cancel(&mut self, prefix: &str, now_ms: i64) -> Result<usize> {
        self.end(prefix, "cancelled", "state IN ('queued','retry_wait','leased','running')", now_ms)
    }

    /// Queues dead and cancelled jobs again, with fresh attempts.
    pub fn retry(&mut self, prefix: &str, now_ms: i64) -> Result<usize> {
        self.end(prefix, "queued", "state IN ('dead','cancelled')", now_ms)
    }

    fn end(&mut self, prefix: &str, to: &str, which: &str, now_ms: i64) -> Result<usize> {
        Ok(self.store.transaction(|t| {
            let found: Vec<(i64, String, i64)> = t
                .prepare(&format!("SELECT id, state, lease_token FROM jobs WHERE {which} AND substr(label, 1, length(?1)) = ?1"))?
                .query_map([prefix], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?
                .collect::<Result<_, _>>()?;
            for (id, from, token) in &found {
                t.execute(
                    "UPDATE jobs SET state=?2, attempt=0, run_after_ms=0, lease_token=lease_token+1, lease_owner=NULL, lease_until_ms=NULL WHERE id=?1",
                    params![id, to],
                )?;
                event(t, *id, from, to, *token, now_ms, "asked by the user")?;
            }
            Ok(found.len())
        })?)
    }

    /// Jobs in order of submission.
    pub fn jobs(&self) -> Result<Vec<Job>> {
        Ok(self.store.query(|c| {
            c.prepare(&format!("SELECT {COLUMNS} FROM jobs ORDER BY id"))?.query_map([], row)?.collect()
        })?)
    }

    /// Jobs not yet ended: of the base model `base`, and of others.
    pub fn open(&self, base: &str) -> Result<(usize, usize)> {
        Ok(self.store.query(|c| {
            c.query_row(
                "SELECT COALESCE(SUM(ours), 0), COUNT(*) - COALESCE(SUM(ours), 0) FROM
                 (SELECT substr(pack_key, 1, length(?1)) = ?1 AS ours FROM jobs WHERE state IN ('queued','leased','running','retry_wait'))",
                [base],
                |r| Ok((r.get::<_, i64>(0)? as usize, r.get::<_, i64>(1)? as usize)),
            )
        })?)
    }

    /// Counts.
    pub fn status(&self) -> Result<QueueStatus> {
        let mut status = QueueStatus::default();
        for job in self.jobs()? {
            let state = job.state.name().to_owned();
            *status.states.entry(state.clone()).or_default() += 1;
            *status.families.entry(job.family).or_default().entry(state).or_default() += 1;
            if job.state == State::Dead {
                status.dead.push((job.label, job.error.unwrap_or_default()));
            }
        }
        Ok(status)
    }
}
