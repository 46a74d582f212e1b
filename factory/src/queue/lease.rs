//! A worker's side of a job: claim, start, heartbeat, and one of commit, finish, fail, release.

use registry::{AdapterRecord, NEEDS_LEFT, NewAdapter};
use rusqlite::types::Value as Sql;
use rusqlite::{OptionalExtension, Transaction, params};

use super::{COLUMNS, Job, Queue, State, end, row, typed};
use crate::{Error, Result};

/// How an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Worth trying again (disk full, a file that could not be read).
    Retryable,
    /// The same again whatever is done (bad data, NaN under a fixed seed).
    Permanent,
}

/// What a heartbeat says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    /// Go on.
    Held,
    /// Somebody asked for the job to end: stop at the next step and acknowledge with [`Queue::cancelled`].
    CancelRequested,
    /// The lease is lost: stop at once, nothing can be committed.
    Lost,
}

/// Who claims what.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// Digest of the base model that the worker has loaded.
    pub base: &'a str,
    /// Kinds of work that it can do.
    pub kinds: &'a [&'a str],
    /// Its name.
    pub owner: &'a str,
    /// At most so many jobs that can be done in one batch.
    pub most: usize,
    /// Now.
    pub now_ms: i64,
    /// For how long without a heartbeat.
    pub lease_ms: i64,
}

/// Deaths of a worker while it did one job alone, after which the job is taken to be what kills it.
pub(crate) const POISON_AFTER: i64 = 3;

/// Milliseconds to wait before attempt `attempt + 1`: 10 s doubling up to ten times, with a fifth of jitter that depends on
/// the job, so that what failed together does not come back together.
pub(crate) fn backoff_ms(job: i64, attempt: i64) -> i64 {
    let base = 10_000i64 << attempt.clamp(1, 11) >> 1;
    let hash = blake3::hash(format!("{job}/{attempt}").as_bytes());
    let share = f64::from(u32::from_le_bytes(hash.as_bytes()[..4].try_into().expect("invariant: 32 bytes")))
        / f64::from(u32::MAX);
    (base as f64 * (0.8 + 0.4 * share)) as i64
}

impl Queue<'_> {
    /// Leases up to `most` ready jobs that can be done together: those that share the pack key of the first. A job that
    /// a worker died on is claimed alone. Nothing is claimed while the queue is paused.
    pub fn claim(&mut self, claim: Claim<'_>) -> Result<Vec<Job>> {
        let Claim { base, kinds, owner, most, now_ms, lease_ms } = claim;
        Ok(self.store.light_transaction(|t| {
            if paused(t)? {
                return Ok(Vec::new());
            }
            let mut room = Room::of(t)?;
            let kinds = serde_json::json!(kinds).to_string();
            // The ready index has the order; a limit that is reached, a wait or another kind of work passes jobs over.
            let full = room.full();
            let first: Option<Job> = t
                .prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM jobs WHERE base = ?1 AND state IN ('queued','retry_wait') AND deps_left = 0 AND run_after_ms <= ?2
                       AND kind IN (SELECT value FROM json_each(?3)) AND {NOT_FULL} ORDER BY priority DESC, id LIMIT 1"
                ))?
                .query_row(params![base, now_ms, kinds, full], row)
                .optional()?;
            let Some(first) = first else { return Ok(Vec::new()) };
            let mut jobs = Vec::new();
            if first.deaths > 0 || most == 1 {
                jobs.push(first);
            } else {
                let pack_key: String =
                    t.prepare_cached("SELECT pack_key FROM jobs WHERE id = ?1")?.query_row([first.id], |r| r.get(0))?;
                let ready: Vec<(Job, String)> = t
                    .prepare_cached(&format!(
                        "SELECT {COLUMNS}, tags FROM jobs WHERE pack_key = ?1 AND state IN ('queued','retry_wait') AND deps_left = 0
                           AND run_after_ms <= ?2 AND deaths = 0 AND kind = ?3 AND base = ?6 AND {NOT_FULL} ORDER BY priority DESC, id LIMIT ?5"
                    ))?
                    .query_map(
                        params![pack_key, now_ms, first.kind, full, most as i64, base],
                        |r| Ok((row(r)?, r.get("tags")?)),
                    )?
                    .collect::<Result<_, _>>()?;
                jobs.extend(ready.into_iter().filter(|(_, tags)| room.take(tags)).map(|(job, _)| job));
            }
            let mut lease = t.prepare_cached(
                "UPDATE jobs SET state='leased', attempt=attempt+1, lease_token=lease_token+1, lease_owner=?2, lease_until_ms=?3,
                   changed_ms=?4, why=?2 WHERE id=?1",
            )?;
            for job in &mut jobs {
                lease.execute(params![job.id, owner, now_ms + lease_ms, now_ms])?;
                job.token += 1;
                job.attempt += 1;
                job.state = State::Leased;
                job.owner = Some(owner.into());
            }
            Ok(jobs)
        })?)
    }

    /// `leased -> running`.
    ///
    /// # Errors
    /// If the lease was lost or the job is not leased.
    pub fn start(&mut self, job: &Job, now_ms: i64) -> Result<()> {
        let n = self.store.light_transaction(|t| {
            t.prepare_cached(
                "UPDATE jobs SET state='running', changed_ms=?3, why='' WHERE id=?1 AND lease_token=?2 AND cancel_requested=0",
            )?
            .execute(params![job.id, job.token, now_ms])
        });
        match n {
            Ok(1) => Ok(()),
            Ok(_) => Err(Error::LeaseLost(job.id)),
            Err(e) => Err(typed(e, &self.job(job.id)?, "started")),
        }
    }

    /// Extends the leases of these jobs; says of each how it stands.
    pub fn heartbeat(&mut self, jobs: &[(i64, i64)], now_ms: i64, lease_ms: i64) -> Result<Vec<Beat>> {
        Ok(self.store.light_transaction(|t| {
            let mut beat = t.prepare_cached(
                "UPDATE jobs SET lease_until_ms=MAX(lease_until_ms, ?3) WHERE id=?1 AND lease_token=?2 AND state IN ('leased','running') RETURNING cancel_requested",
            )?;
            jobs.iter()
                .map(|(id, token)| {
                    let found: Option<bool> =
                        beat.query_row(params![id, token, now_ms + lease_ms], |r| r.get(0)).optional()?;
                    Ok(match found {
                        Some(false) => Beat::Held,
                        Some(true) => Beat::CancelRequested,
                        None => Beat::Lost,
                    })
                })
                .collect()
        })?)
    }

    /// Records the adapter and ends the job in one transaction. A stale token records nothing.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] under a stale token.
    pub fn commit(&mut self, job: &Job, adapter: NewAdapter, now_ms: i64) -> Result<AdapterRecord> {
        let record = self.store.commit_adapter_with(adapter, |t, record| {
            if !holds(t, job)? {
                return Ok(false);
            }
            end(t, (job.id, job.token), State::Succeeded, (now_ms, &record.id), (None, Some(&record.id)))
        })?;
        record.ok_or(Error::LeaseLost(job.id))
    }

    /// Records an adapter that a job has made, before the job ends. A stale token records nothing.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] under a stale token.
    pub fn file(&mut self, job: &Job, adapter: NewAdapter) -> Result<AdapterRecord> {
        let record = self.store.commit_adapter_with(adapter, |t, _| holds(t, job))?;
        record.ok_or(Error::LeaseLost(job.id))
    }

    /// Files a run that a job has made, before the job ends. A stale token files nothing.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] under a stale token.
    pub fn file_run(
        &mut self,
        job: &Job,
        run: &str,
        config: &serde_json::Value,
        files: &[(&str, Vec<u8>)],
    ) -> Result<()> {
        let filed = self.store.file_run(run, config, files, |t| holds(t, job))?;
        if filed { Ok(()) } else { Err(Error::LeaseLost(job.id)) }
    }

    /// Ends a job whose adapter the catalogue has already, or that makes none.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] under a stale token.
    pub fn finish(&mut self, job: &Job, adapter: Option<&str>, why: &str, now_ms: i64) -> Result<()> {
        let done = self.store.transaction(|t| {
            Ok(holds(t, job)?
                && end(t, (job.id, job.token), State::Succeeded, (now_ms, why), (None, adapter))?)
        })?;
        if done { Ok(()) } else { Err(Error::LeaseLost(job.id)) }
    }

    /// Acknowledges a request to cancel. Returns whether the lease was still held.
    pub fn cancelled(&mut self, job: &Job, now_ms: i64) -> Result<bool> {
        Ok(self.store.transaction(|t| {
            Ok(holds_any(t, job)?
                && end(
                    t,
                    (job.id, job.token),
                    State::Cancelled,
                    (now_ms, "asked by the user"),
                    (None, None),
                )?)
        })?)
    }

    /// Ends an attempt that failed: back to waiting with backoff, or dead. Returns whether it is dead.
    pub fn fail(&mut self, job: &Job, failure: Failure, reason: &str, now_ms: i64) -> Result<bool> {
        Ok(self.store.transaction(|t| {
            if !holds_any(t, job)? {
                return Ok(false);
            }
            let (attempt, most, cancel): (i64, i64, bool) = t.query_row(
                "SELECT attempt, max_attempts, cancel_requested FROM jobs WHERE id=?1",
                [job.id],
                |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)),
            )?;
            // Nobody wants it tried again.
            if failure == Failure::Retryable && cancel {
                end(t, (job.id, job.token), State::Cancelled, (now_ms, "asked by the user"), (None, None))?;
                return Ok(false);
            }
            if failure == Failure::Retryable && attempt < most {
                wait(t, job.id, now_ms + backoff_ms(job.id, attempt), (now_ms, reason))?;
                return Ok(false);
            }
            let class = if failure == Failure::Retryable { "retryable" } else { "permanent" };
            end(t, (job.id, job.token), State::Dead, (now_ms, reason), (Some(class), None))
        })?)
    }

    /// Gives leases back without spending an attempt (a worker that is told to stop).
    pub fn release(&mut self, jobs: &[Job], now_ms: i64) -> Result<()> {
        Ok(self.store.transaction(|t| {
            // What it needs may have been queued again since its claim.
            let mut back = t.prepare_cached(&format!(
                "UPDATE jobs SET state='queued', attempt=attempt-1, lease_owner=NULL, lease_until_ms=NULL, changed_ms=?3, why='released',
                   deps_left={NEEDS_LEFT}
                 WHERE id=?1 AND lease_token=?2 AND state IN ('leased','running') AND cancel_requested=0",
            ))?;
            for job in jobs {
                if back.execute(params![job.id, job.token, now_ms])? == 0 && holds_any(t, job)? {
                    end(t, (job.id, job.token), State::Cancelled, (now_ms, "asked by the user"), (None, None))?;
                }
            }
            Ok(())
        })?)
    }

    /// Takes back leases that ran out, and those whose owner `gone` says is dead. Returns how many.
    pub fn reap(&mut self, now_ms: i64, gone: impl Fn(&str) -> bool) -> Result<usize> {
        // Most often nothing is to be taken back: looked at without a write lock.
        let held = |c: &rusqlite::Connection| -> rusqlite::Result<Vec<Held>> {
            c.prepare_cached(
                "SELECT id, attempt, max_attempts, lease_token, COALESCE(lease_owner,''), COALESCE(lease_until_ms,0), cancel_requested, deaths,
                   (SELECT COUNT(*) FROM jobs o WHERE o.lease_owner = j.lease_owner AND o.state IN ('leased','running'))
                 FROM jobs j WHERE state IN ('leased','running')",
            )?
            .query_map([], |r| {
                Ok(Held { id: r.get(0)?, attempt: r.get(1)?, most: r.get(2)?, token: r.get(3)?, owner: r.get(4)?, until: r.get(5)?, cancel: r.get(6)?, deaths: r.get(7)?, company: r.get(8)? })
            })?
            .collect()
        };
        let lost = |h: &Held| h.until < now_ms || gone(&h.owner);
        if !self.store.query(held)?.iter().any(lost) {
            return Ok(0);
        }
        Ok(self.store.transaction(|t| {
            let mut n = 0;
            for h in held(t)?.into_iter().filter(lost) {
                take_back(t, &h, gone(&h.owner), now_ms)?;
                n += 1;
            }
            Ok(n)
        })?)
    }
}

struct Held {
    id: i64,
    attempt: i64,
    most: i64,
    token: i64,
    owner: String,
    until: i64,
    cancel: bool,
    deaths: i64,
    /// Jobs that the same owner held, this one included.
    company: i64,
}

fn take_back(t: &Transaction<'_>, h: &Held, died: bool, now_ms: i64) -> rusqlite::Result<()> {
    let why = if died { "its worker died" } else { "its lease ran out" };
    if h.cancel {
        end(
            t,
            (h.id, h.token),
            State::Cancelled,
            (now_ms, "asked by the user; its worker is gone"),
            (None, None),
        )?;
        return Ok(());
    }
    // In company nobody knows whose fault a death was; alone it counts fully.
    let deaths = h.deaths + i64::from(died && (h.deaths == 0 || h.company == 1));
    t.prepare_cached("UPDATE jobs SET deaths = ?2 WHERE id = ?1")?.execute([h.id, deaths])?;
    if deaths > POISON_AFTER {
        let why =
            format!("its workers died {deaths} times, the last {POISON_AFTER} while they did nothing else");
        end(t, (h.id, h.token), State::Dead, (now_ms, &why), (Some("poison"), None))?;
    } else if h.attempt >= h.most {
        end(
            t,
            (h.id, h.token),
            State::Dead,
            (now_ms, &format!("{why}, and its attempts are used up")),
            (Some("retryable"), None),
        )?;
    } else {
        // A worker that is certainly gone keeps nobody waiting; a lease that ran out may hide one that is only slow.
        let after = if died { now_ms } else { now_ms + backoff_ms(h.id, 1) };
        wait(t, h.id, after, (now_ms, why))?;
    }
    Ok(())
}

fn wait(t: &Transaction<'_>, id: i64, run_after_ms: i64, (now_ms, why): (i64, &str)) -> rusqlite::Result<()> {
    t.prepare_cached(&format!(
        "UPDATE jobs SET state='retry_wait', error_class='retryable', error=?4, run_after_ms=?2, lease_owner=NULL, lease_until_ms=NULL,
           changed_ms=?3, why=?4, deps_left={NEEDS_LEFT} WHERE id=?1",
    ))?
    .execute(params![id, run_after_ms, now_ms, why])?;
    Ok(())
}

/// Whether the job runs under this token.
fn holds(t: &Transaction<'_>, job: &Job) -> rusqlite::Result<bool> {
    t.prepare_cached("SELECT EXISTS(SELECT 1 FROM jobs WHERE id=?1 AND lease_token=?2 AND state='running')")?
        .query_row([job.id, job.token], |r| r.get(0))
}

/// Whether the job is leased or runs under this token.
fn holds_any(t: &Transaction<'_>, job: &Job) -> rusqlite::Result<bool> {
    t.prepare_cached(
        "SELECT EXISTS(SELECT 1 FROM jobs WHERE id=?1 AND lease_token=?2 AND state IN ('leased','running'))",
    )?
    .query_row([job.id, job.token], |r| r.get(0))
}

fn paused(t: &Transaction<'_>) -> rusqlite::Result<bool> {
    t.prepare_cached("SELECT EXISTS(SELECT 1 FROM settings WHERE key='paused')")?.query_row([], |r| r.get(0))
}

/// Tags that have no room (parameter 4: a JSON list of them) keep a job from being claimed.
const NOT_FULL: &str = "(?4 = '[]' OR NOT EXISTS (SELECT 1 FROM json_each(jobs.tags) j WHERE j.value IN (SELECT value FROM json_each(?4))))";

/// How many more jobs of each limited tag may run.
struct Room(Vec<(String, i64)>);

impl Room {
    fn of(t: &Transaction<'_>) -> rusqlite::Result<Self> {
        let limits: Vec<(String, i64)> = t
            .prepare_cached("SELECT tag, most FROM tag_limits")?
            .query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?
            .collect::<Result<_, _>>()?;
        let mut running = t.prepare_cached(
            "SELECT COUNT(*) FROM jobs, json_each(jobs.tags) WHERE state IN ('leased','running') AND json_each.value = ?1",
        )?;
        limits
            .into_iter()
            .map(|(tag, most)| {
                let busy: i64 = running.query_row([&tag], |r| r.get(0))?;
                Ok((tag, most - busy))
            })
            .collect::<Result<Vec<_>, _>>()
            .map(Self)
    }

    fn full(&self) -> Sql {
        let full: Vec<&String> = self.0.iter().filter(|(_, left)| *left <= 0).map(|(tag, _)| tag).collect();
        Sql::Text(serde_json::json!(full).to_string())
    }

    /// Whether a job with these tags (a JSON list) fits; if so it takes its room.
    fn take(&mut self, tags: &str) -> bool {
        let tags: Vec<String> = serde_json::from_str(tags).unwrap_or_default();
        let fits = self.0.iter().all(|(tag, left)| *left > 0 || !tags.contains(tag));
        for (_, left) in self.0.iter_mut().filter(|(tag, _)| fits && tags.contains(tag)) {
            *left -= 1;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_with_a_fifth_of_jitter() {
        for (attempt, seconds) in
            [(1, 10.0), (2, 20.0), (5, 160.0), (10, 5120.0), (11, 10240.0), (50, 10240.0)]
        {
            for job in 0..20 {
                let found = backoff_ms(job, attempt) as f64 / 1000.0 / seconds;
                assert!((0.8..=1.2).contains(&found), "{attempt}: {found}");
            }
        }
        assert_ne!(backoff_ms(1, 1), backoff_ms(2, 1));
    }
}
