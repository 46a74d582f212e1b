//! Looking at a queue.

use std::collections::BTreeMap;

use rusqlite::params;
use serde::Serialize;

use super::{COLUMNS, Job, Limit, Queue, State, row};
use crate::{Error, Result};

/// Counts of a queue.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct QueueStatus {
    /// By state.
    pub states: BTreeMap<String, usize>,
    /// By family and state.
    pub families: BTreeMap<String, BTreeMap<String, usize>>,
    /// Dead jobs and why: at most [`QueueStatus::SHOWN`] of them.
    pub dead: Vec<(String, String)>,
    /// What open jobs wait for.
    pub waiting: Waiting,
    /// Whether claims are stopped.
    pub paused: bool,
    /// Limits in force.
    pub limits: Vec<Limit>,
    /// Workers seen lately.
    pub workers: Vec<WorkerLine>,
}

impl QueueStatus {
    /// Dead jobs listed.
    pub const SHOWN: usize = 20;
}

/// A worker that was not heard of for so long is not shown.
const SEEN_MS: i64 = 60_000;
/// The rate is that of the jobs that ended in this time.
const RATE_MS: i64 = 300_000;

/// A look at the queue.
#[derive(Debug, Clone, PartialEq)]
pub struct Look {
    /// Counts.
    pub status: QueueStatus,
    /// Jobs that have not ended.
    pub open: usize,
    /// Jobs that ended well in the last five minutes, as a rate.
    pub per_hour: f64,
    /// Until all have ended, at that rate; none while there is none.
    pub minutes_left: Option<f64>,
}

/// Why open jobs are not ready.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Waiting {
    /// For other jobs.
    pub for_needs: usize,
    /// For the end of a backoff.
    pub for_backoff: usize,
}

/// What a worker last said.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WorkerLine {
    /// Name.
    pub owner: String,
    /// What it does.
    pub doing: String,
    /// Training tokens a second.
    pub tokens_per_sec: f64,
    /// Jobs that it ended.
    pub done: usize,
    /// When it began, in milliseconds since the epoch.
    pub started_ms: i64,
    /// When it was last heard of.
    pub seen_ms: i64,
}

/// A line of a job's history: a change of state, or what a worker said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Logged {
    /// Milliseconds since the epoch.
    pub at_ms: i64,
    /// State before; empty for the first and for what a worker said.
    pub from: String,
    /// State after; empty for what a worker said.
    pub to: String,
    /// Token of the lease.
    pub token: i64,
    /// Reason, or the line.
    pub text: String,
}

impl Queue<'_> {
    /// Jobs in order of submission.
    pub fn jobs(&self) -> Result<Vec<Job>> {
        Ok(self.store.query(|c| {
            c.prepare(&format!("SELECT {COLUMNS} FROM jobs ORDER BY id"))?.query_map([], row)?.collect()
        })?)
    }

    /// Jobs that have not ended, in order of submission.
    pub fn open_jobs(&self) -> Result<Vec<Job>> {
        Ok(self.store.query(|c| {
            c.prepare(&format!(
                "SELECT {COLUMNS} FROM jobs WHERE state IN ('queued','leased','running','retry_wait') ORDER BY id"
            ))?
            .query_map([], row)?
            .collect()
        })?)
    }

    /// The one job with this label, or whose id or specification's beginning it is.
    ///
    /// # Errors
    /// If there is none, or there are several.
    pub fn find(&self, name: &str) -> Result<Job> {
        let found: Vec<Job> = self.store.query(|c| {
            c.prepare(&format!(
                "SELECT {COLUMNS} FROM jobs WHERE label = ?1 OR CAST(id AS TEXT) = ?1
                 OR (length(?1) >= 6 AND spec_hash >= ?1 AND spec_hash < ?1 || 'g') ORDER BY id DESC"
            ))?
            .query_map([name], row)?
            .collect()
        })?;
        match found.len() {
            0 => Err(Error::NoJob(name.into())),
            1 => Ok(found.into_iter().next().expect("invariant: there is one")),
            n => Err(Error::ManyJobs {
                name: name.into(),
                n,
                first: registry::commit::short(&found[0].spec_hash).into(),
            }),
        }
    }

    /// Jobs not yet ended: of the base model `base` and one of `kinds`, and others.
    pub fn open(&self, base: &str, kinds: &[&str]) -> Result<(usize, usize)> {
        let kinds = serde_json::json!(kinds).to_string();
        Ok(self.store.query(|c| {
            c.prepare_cached(
                "SELECT COALESCE(SUM(ours), 0), COUNT(*) - COALESCE(SUM(ours), 0) FROM
                 (SELECT base = ?1 AND kind IN (SELECT value FROM json_each(?2)) AS ours FROM jobs WHERE state IN ('queued','leased','running','retry_wait'))",
            )?
            .query_row(params![base, kinds], |r| {
                Ok((r.get::<_, i64>(0)? as usize, r.get::<_, i64>(1)? as usize))
            })
        })?)
    }

    /// Counts. Workers are those seen since `since_ms`.
    pub fn status(&self, now_ms: i64, since_ms: i64) -> Result<QueueStatus> {
        let mut status =
            QueueStatus { paused: self.paused()?, limits: self.limits()?, ..QueueStatus::default() };
        let counts: Vec<(String, String, i64)> = self.store.query(|c| {
            c.prepare("SELECT family, state, COUNT(*) FROM jobs GROUP BY state, family")?
                .query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?
                .collect()
        })?;
        for (family, state, n) in counts {
            *status.states.entry(state.clone()).or_default() += n as usize;
            *status.families.entry(family).or_default().entry(state).or_default() += n as usize;
        }
        status.dead = self.store.query(|c| {
            c.prepare(
                "SELECT label, COALESCE(error, '') FROM jobs WHERE state = 'dead' ORDER BY id LIMIT ?1",
            )?
            .query_map([QueueStatus::SHOWN as i64], |r| Ok((r.get(0)?, r.get(1)?)))?
            .collect()
        })?;
        status.waiting = self.store.query(|c| {
            c.query_row(
                "SELECT COALESCE(SUM(deps_left > 0), 0), COALESCE(SUM(deps_left = 0 AND run_after_ms > ?1), 0)
                 FROM jobs WHERE state IN ('queued','retry_wait')",
                [now_ms],
                |r| {
                    Ok(Waiting {
                        for_needs: r.get::<_, i64>(0)? as usize,
                        for_backoff: r.get::<_, i64>(1)? as usize,
                    })
                },
            )
        })?;
        status.workers = self.store.query(|c| {
            c.prepare("SELECT owner, doing, tokens_per_sec, done, started_ms, seen_ms FROM workers WHERE seen_ms >= ?1 ORDER BY started_ms, owner")?
                .query_map([since_ms], |r| {
                    Ok(WorkerLine {
                        owner: r.get(0)?,
                        doing: r.get(1)?,
                        tokens_per_sec: r.get(2)?,
                        done: r.get::<_, i64>(3)? as usize,
                        started_ms: r.get(4)?,
                        seen_ms: r.get(5)?,
                    })
                })?
                .collect()
        })?;
        Ok(status)
    }

    /// Jobs that ended well in each of the last minutes: how many since `since_ms`.
    pub fn succeeded_since(&self, since_ms: i64) -> Result<usize> {
        Ok(self.store.query(|c| {
            c.query_row(
                "SELECT COUNT(*) FROM events WHERE at_ms >= ?1 AND from_state = 'running' AND to_state = 'succeeded'",
                [since_ms],
                |r| r.get::<_, i64>(0),
            )
        })? as usize)
    }

    /// How it goes now: counts, workers that were heard of lately, and how fast jobs end.
    pub fn look(&self, now_ms: i64) -> Result<Look> {
        let status = self.status(now_ms, now_ms - SEEN_MS)?;
        let ended = self.succeeded_since(now_ms - RATE_MS)?;
        let open =
            State::ALL.into_iter().filter(|s| !s.ended()).filter_map(|s| status.states.get(s.name())).sum();
        let per_hour = ended as f64 * 3_600_000.0 / RATE_MS as f64;
        let minutes_left = (per_hour > 0.0).then(|| open as f64 / per_hour * 60.0);
        Ok(Look { status, open, per_hour, minutes_left })
    }

    /// Says what a worker does.
    pub fn tell(&mut self, line: &WorkerLine) -> Result<()> {
        Ok(self.store.light_transaction(|t| {
            t.prepare_cached(
                "INSERT INTO workers(owner, doing, tokens_per_sec, done, started_ms, seen_ms) VALUES(?1,?2,?3,?4,?5,?6)
                 ON CONFLICT(owner) DO UPDATE SET doing=?2, tokens_per_sec=?3, done=?4, seen_ms=?6",
            )?
            .execute(params![
                line.owner,
                line.doing,
                line.tokens_per_sec,
                line.done as i64,
                line.started_ms,
                line.seen_ms
            ])?;
            Ok(())
        })?)
    }

    /// A worker that ends takes its line away.
    pub fn leave(&mut self, owner: &str) -> Result<()> {
        Ok(self
            .store
            .light_transaction(|t| t.execute("DELETE FROM workers WHERE owner = ?1", [owner]).map(drop))?)
    }

    /// Adds a line to the history of jobs.
    pub fn note(&mut self, jobs: &[(i64, String)], now_ms: i64) -> Result<()> {
        Ok(self.store.light_transaction(|t| {
            let mut add = t.prepare_cached(
                "INSERT INTO job_lines(job, after_event, at_ms, line) VALUES(?1, (SELECT MAX(id) FROM events WHERE job = ?1), ?2, ?3)",
            )?;
            for (job, line) in jobs {
                add.execute(params![job, now_ms, line])?;
            }
            Ok(())
        })?)
    }

    /// A job's history in the order in which it happened, whatever the clock did.
    pub fn log(&self, job: i64) -> Result<Vec<Logged>> {
        Ok(self.store.query(|c| {
            c.prepare(
                "SELECT at_ms, from_state, to_state, token, reason, id AS event, 0 AS line FROM events WHERE job = ?1
                 UNION ALL SELECT at_ms, '', '', 0, line, after_event, id FROM job_lines WHERE job = ?1 ORDER BY 6, 7",
            )?
            .query_map([job], |r| {
                Ok(Logged { at_ms: r.get(0)?, from: r.get(1)?, to: r.get(2)?, token: r.get(3)?, text: r.get(4)? })
            })?
            .collect()
        })?)
    }

    /// The state that a job's log ends with.
    pub fn state_by_log(&self, job: i64) -> Result<Option<State>> {
        Ok(self.log(job)?.iter().rev().find(|l| !l.to.is_empty()).map(|l| State::parse(&l.to)))
    }
}
