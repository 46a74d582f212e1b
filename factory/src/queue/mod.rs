//! The batch job queue, in the store's own database: a job is its specification, a lease carries a token that grows with
//! every claim, and only the holder of the current token can commit.
//!
//! ```text
//! queued --claim--> leased --start--> running --commit--> succeeded
//!    ^                |                  |---cancel seen--> cancelled
//!    |                v                  |---permanent or poison error, attempts used up--> dead
//!    |           retry_wait <------------'   retryable error, lease lost
//!    '--- release (a worker told to stop), retry of a dead or cancelled job
//! ```
//!
//! The database itself refuses any other change of a state and appends every change to a log (`registry`'s schema), so
//! that a job's state is the end of its log.

mod control;
mod lease;
mod status;
mod submit;

use registry::{NEEDS_LEFT, Store};
use rusqlite::Transaction;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

pub use control::Limit;
pub use lease::{Beat, Claim, Failure};
pub use status::{Logged, Look, QueueStatus, Waiting, WorkerLine};
pub use submit::{Needs, NewJob, Submitted};

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
    /// All states, in the order of a job's life.
    pub const ALL: [Self; 7] = [
        Self::Queued,
        Self::Leased,
        Self::Running,
        Self::RetryWait,
        Self::Succeeded,
        Self::Cancelled,
        Self::Dead,
    ];

    /// As stored and shown.
    pub fn name(self) -> &'static str {
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

    /// Whether nothing more happens by itself.
    pub fn ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Cancelled | Self::Dead)
    }

    /// The schema allows no other state; a catalogue that was written past it may hold one, which is taken for the end.
    fn parse(name: &str) -> Self {
        Self::ALL.into_iter().find(|s| s.name() == name).unwrap_or(Self::Dead)
    }
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
    /// What kind of work it is, e.g. `adapter`.
    pub kind: String,
    /// For people.
    pub label: String,
    /// Family.
    pub family: String,
    /// State.
    pub state: State,
    /// Attempts so far.
    pub attempt: i64,
    /// Times that a worker's process ended while it had this job.
    pub deaths: i64,
    /// Current lease token.
    pub token: i64,
    /// Who holds the lease.
    pub owner: Option<String>,
    /// Id of the adapter made, once it succeeded; empty once that was removed.
    pub adapter: Option<String>,
    /// `retryable`, `permanent` or `poison`, once it failed.
    pub error_class: Option<String>,
    /// Why it failed last.
    pub error: Option<String>,
}

/// The queue of a store. Times are milliseconds of the caller's clock; a clock that is set back makes leases last longer, never
/// shorter.
#[derive(Debug)]
pub struct Queue<'a> {
    store: &'a mut Store,
}

const COLUMNS: &str = "id, spec_hash, spec, kind, label, family, state, attempt, deaths, lease_token, lease_owner, adapter, error_class, error";

fn row(r: &rusqlite::Row<'_>) -> rusqlite::Result<Job> {
    let spec: String = r.get(2)?;
    let state: String = r.get(6)?;
    Ok(Job {
        id: r.get(0)?,
        spec_hash: r.get(1)?,
        spec: serde_json::from_str(&spec).unwrap_or_default(),
        kind: r.get(3)?,
        label: r.get(4)?,
        family: r.get(5)?,
        state: State::parse(&state),
        attempt: r.get(7)?,
        deaths: r.get(8)?,
        token: r.get(9)?,
        owner: r.get(10)?,
        adapter: r.get(11)?,
        error_class: r.get(12)?,
        error: r.get(13)?,
    })
}

impl<'a> Queue<'a> {
    /// The queue in a store.
    pub fn new(store: &'a mut Store) -> Self {
        Self { store }
    }

    /// The job of a specification, if there is one.
    ///
    /// # Errors
    /// If the store refuses.
    pub fn by_spec(&self, spec_hash: &str) -> Result<Option<Job>> {
        Ok(self.store.query(|c| {
            let mut statement =
                c.prepare_cached(&format!("SELECT {COLUMNS} FROM jobs WHERE spec_hash = ?1"))?;
            rusqlite::OptionalExtension::optional(statement.query_row([spec_hash], row))
        })?)
    }

    /// A job by its row id.
    ///
    /// # Errors
    /// If there is none.
    pub fn job(&self, id: i64) -> Result<Job> {
        let found = self.store.query(|c| {
            let mut statement = c.prepare_cached(&format!("SELECT {COLUMNS} FROM jobs WHERE id = ?1"))?;
            rusqlite::OptionalExtension::optional(statement.query_row([id], row))
        })?;
        found.ok_or_else(|| Error::NoJob(id.to_string()))
    }
}

/// Turns the database's refusal of a change into the typed error.
fn typed(e: registry::Error, job: &Job, wanted: &'static str) -> Error {
    if let registry::Error::Sqlite { source, .. } = &e
        && source.to_string().contains("illegal transition")
    {
        return Error::Illegal { job: job.label.clone(), state: job.state.name().into(), wanted };
    }
    e.into()
}

/// Counts what a job waits for, and what those wait for that need it. Counted anew, not counted down: what is needed may end
/// twice, with a retry in between.
fn recount(t: &Transaction<'_>, id: i64) -> rusqlite::Result<()> {
    // Two statements, and the plus: an OR, or the index on states, would look at every job.
    t.prepare_cached(&format!("UPDATE jobs SET deps_left = {NEEDS_LEFT} WHERE id = ?1"))?.execute([id])?;
    t.prepare_cached(&format!(
        "UPDATE jobs SET deps_left = {NEEDS_LEFT} WHERE id IN (SELECT job FROM job_needs WHERE needs = ?1) AND +state IN ('queued','retry_wait')"
    ))?
    .execute([id])?;
    Ok(())
}

/// Ends a job and tells those that wait for it: what needs any end may go on, what needs success goes on or dies with it.
/// Returns whether it ended now: under another token, or if it has ended already, nothing happens.
fn end(
    t: &Transaction<'_>,
    (id, token): (i64, i64),
    to: State,
    (now_ms, why): (i64, &str),
    (class, adapter): (Option<&str>, Option<&str>),
) -> rusqlite::Result<bool> {
    let ended = end_silently(t, (id, token), to, (now_ms, why), (class, adapter))?;
    if ended {
        tell_dependants(t, id, to, now_ms)?;
    }
    Ok(ended)
}

/// [`end`] without telling anyone.
fn end_silently(
    t: &Transaction<'_>,
    (id, token): (i64, i64),
    to: State,
    (now_ms, why): (i64, &str),
    (class, adapter): (Option<&str>, Option<&str>),
) -> rusqlite::Result<bool> {
    let n = t
        .prepare_cached(
            "UPDATE jobs SET state=?3, changed_ms=?4, why=?5, error_class=?6, error=CASE WHEN ?3='dead' THEN ?5 END, adapter=?7,
               lease_owner=NULL, lease_until_ms=NULL, cancel_requested=0
             WHERE id=?1 AND lease_token=?2 AND state NOT IN ('succeeded','cancelled','dead')",
        )?
        .execute(rusqlite::params![id, token, to.name(), now_ms, why, class, adapter])?;
    Ok(n == 1)
}

fn tell_dependants(t: &Transaction<'_>, id: i64, to: State, now_ms: i64) -> rusqlite::Result<()> {
    recount(t, id)?;
    if to == State::Succeeded {
        return Ok(());
    }
    let doomed: Vec<(i64, i64)> = t
        .prepare_cached(
            "SELECT j.id, j.lease_token FROM job_needs n JOIN jobs j ON j.id = n.job
             WHERE n.needs = ?1 AND n.only_ok AND +j.state IN ('queued','retry_wait')",
        )?
        .query_map([id], |r| Ok((r.get(0)?, r.get(1)?)))?
        .collect::<Result<_, _>>()?;
    if doomed.is_empty() {
        return Ok(());
    }
    let label: String =
        t.prepare_cached("SELECT label FROM jobs WHERE id = ?1")?.query_row([id], |r| r.get(0))?;
    let why = format!("it needs {label}, which is {}", to.name());
    for job in doomed {
        // One that another of them needed has ended with that one.
        end(t, job, State::Dead, (now_ms, &why), (Some("permanent"), None))?;
    }
    Ok(())
}
