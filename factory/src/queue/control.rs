//! What people do to a queue: cancel, retry, pause, limit.

use rusqlite::{OptionalExtension, Transaction, params};
use serde::Serialize;

use super::{Queue, State, end, end_silently, recount, tell_dependants};
use crate::Result;

/// How many jobs of a tag may be leased or running at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Limit {
    /// Tag; every job has its family as one.
    pub tag: String,
    /// Most.
    pub most: i64,
}

impl Queue<'_> {
    /// Cancels every job that has not ended and whose label begins so: waiting ones at once, running ones at their next
    /// step. Returns `(cancelled, asked to stop)`.
    pub fn cancel(&mut self, prefix: &str, now_ms: i64) -> Result<(usize, usize)> {
        Ok(self.store.transaction(|t| {
            // A cluster's workers are not told; the token keeps their results out.
            let mut waiting = labelled(t, prefix, "'queued','retry_wait'", "")?;
            waiting.extend(labelled(t, prefix, "'leased','running'", "AND lease_owner LIKE 'cluster:%'")?);
            // All of them first: what also needs one of the others is cancelled, not dead.
            for &job in &waiting {
                end_silently(t, job, State::Cancelled, (now_ms, "asked by the user"), (None, None))?;
            }
            for &(id, _) in &waiting {
                tell_dependants(t, id, State::Cancelled, now_ms)?;
            }
            let held = labelled(t, prefix, "'leased','running'", "")?;
            for (id, _) in &held {
                t.execute("UPDATE jobs SET cancel_requested = 1 WHERE id = ?1", [id])?;
            }
            Ok((waiting.len(), held.len()))
        })?)
    }

    /// Queues dead and cancelled jobs again, with fresh attempts. They wait for what they need anew. Returns how many are queued: one that
    /// needs something that is dead or cancelled itself stays dead.
    pub fn retry(&mut self, prefix: &str, now_ms: i64) -> Result<usize> {
        Ok(self.store.transaction(|t| {
            let ended = labelled(t, prefix, "'dead','cancelled'", "")?;
            queue_again(t, &ended, now_ms)
        })?)
    }

    /// Queues those of some jobs (by specification) again that were given up because their workers died or their leases ran out, with fresh
    /// attempts, and those that died because they need one of these: what an interruption costs is not the job's fault. Those that failed by themselves stay dead, cancelled ones cancelled.
    /// Returns how many are queued.
    pub fn go_on(&mut self, spec_hashes: &[&str], now_ms: i64) -> Result<usize> {
        let hashes = serde_json::json!(spec_hashes).to_string();
        Ok(self.store.transaction(|t| {
            let given_up: Vec<(i64, i64)> = t
                .prepare_cached(
                    "WITH RECURSIVE given_up(id) AS (
                       SELECT id FROM jobs WHERE state = 'dead' AND error_class IN ('poison','retryable')
                         AND spec_hash IN (SELECT value FROM json_each(?1))
                       UNION
                       SELECT j.id FROM given_up g JOIN job_needs n ON n.needs = g.id AND n.only_ok JOIN jobs j ON j.id = n.job
                         WHERE j.state = 'dead' AND j.spec_hash IN (SELECT value FROM json_each(?1)))
                     SELECT id, lease_token FROM jobs WHERE id IN (SELECT id FROM given_up)",
                )?
                .query_map([hashes], |r| Ok((r.get(0)?, r.get(1)?)))?
                .collect::<rusqlite::Result<_>>()?;
            queue_again(t, &given_up, now_ms)
        })?)
    }

    /// Queues a job again that succeeded, because what it made is gone.
    ///
    /// # Errors
    /// [`crate::Error::Illegal`] if it has not ended.
    pub fn again(&mut self, job: &super::Job, now_ms: i64) -> Result<()> {
        let sql = "UPDATE jobs SET state='queued', attempt=0, deaths=0, run_after_ms=0, adapter=NULL, changed_ms=?2, why='what it made is gone' WHERE id=?1";
        let done = self.store.transaction(|t| {
            t.execute(sql, [job.id, now_ms])?;
            recount(t, job.id)
        });
        done.map(drop).map_err(|e| super::typed(e, job, "queued again"))
    }

    /// Stops (or allows again) claims; what runs goes on. Returns whether that changed anything.
    pub fn pause(&mut self, paused: bool) -> Result<bool> {
        let sql = if paused {
            "INSERT OR IGNORE INTO settings(key, value) VALUES('paused', '1')"
        } else {
            "DELETE FROM settings WHERE key = 'paused'"
        };
        Ok(self.store.transaction(|t| t.execute(sql, []))? > 0)
    }

    /// Whether claims are stopped.
    pub fn paused(&self) -> Result<bool> {
        Ok(self.store.query(|c| {
            c.query_row("SELECT EXISTS(SELECT 1 FROM settings WHERE key='paused')", [], |r| r.get(0))
        })?)
    }

    /// Keeps a text under a key.
    pub fn remember(&mut self, key: &str, text: &str) -> Result<()> {
        let sql = "INSERT INTO settings(key, value) VALUES(?1, ?2) ON CONFLICT(key) DO UPDATE SET value = ?2";
        Ok(self.store.transaction(|t| t.execute(sql, [key, text]).map(drop))?)
    }

    /// The text kept under a key.
    pub fn remembered(&self, key: &str) -> Result<Option<String>> {
        let sql = "SELECT value FROM settings WHERE key = ?1";
        Ok(self.store.query(|c| c.query_row(sql, [key], |r| r.get(0)).optional())?)
    }

    /// Sets (`Some`) or lifts (`None`) the limit of a tag.
    pub fn limit(&mut self, tag: &str, most: Option<i64>) -> Result<()> {
        Ok(self.store.transaction(|t| {
            match most {
                Some(most) => t.execute(
                    "INSERT INTO tag_limits(tag, most) VALUES(?1, ?2) ON CONFLICT(tag) DO UPDATE SET most = ?2",
                    params![tag, most],
                )?,
                None => t.execute("DELETE FROM tag_limits WHERE tag = ?1", [tag])?,
            };
            Ok(())
        })?)
    }

    /// The limits in force.
    pub fn limits(&self) -> Result<Vec<Limit>> {
        Ok(self.store.query(|c| {
            c.prepare("SELECT tag, most FROM tag_limits ORDER BY tag")?
                .query_map([], |r| Ok(Limit { tag: r.get(0)?, most: r.get(1)? }))?
                .collect()
        })?)
    }
}

/// Jobs in these states whose label begins so: id and token.
fn labelled(t: &Transaction<'_>, prefix: &str, states: &str, and: &str) -> rusqlite::Result<Vec<(i64, i64)>> {
    t.prepare(&format!(
        "SELECT id, lease_token FROM jobs WHERE state IN ({states}) AND substr(label, 1, length(?1)) = ?1 {and} ORDER BY id"
    ))?
    .query_map([prefix], |r| Ok((r.get(0)?, r.get(1)?)))?
    .collect()
}

/// Ended jobs, back into the queue with fresh attempts. They wait for what they need anew. Returns how many are queued: one that needs
/// something that is dead or cancelled itself stays dead.
fn queue_again(t: &Transaction<'_>, ended: &[(i64, i64)], now_ms: i64) -> rusqlite::Result<usize> {
    for (id, _) in ended {
        t.execute(
            "UPDATE jobs SET state='queued', attempt=0, deaths=0, run_after_ms=0, cancel_requested=0, error=NULL, error_class=NULL,
               changed_ms=?2, why='asked by the user' WHERE id=?1",
            params![id, now_ms],
        )?;
    }
    // Only now is it known which of them will run again.
    let mut again = 0;
    for &(id, token) in ended {
        recount(t, id)?;
        let doomed: bool = t.query_row(
            "SELECT EXISTS(SELECT 1 FROM job_needs n JOIN jobs p ON p.id = n.needs
               WHERE n.job = ?1 AND n.only_ok AND p.state IN ('cancelled','dead'))",
            [id],
            |r| r.get(0),
        )?;
        if doomed {
            let why = "what it needs is dead or cancelled: retry that as well";
            end(t, (id, token), State::Dead, (now_ms, why), (Some("permanent"), None))?;
        }
    }
    for (id, _) in ended {
        again += t
            .query_row("SELECT state = 'queued' FROM jobs WHERE id = ?1", [id], |r| r.get::<_, i64>(0))?
            as usize;
    }
    Ok(again)
}
