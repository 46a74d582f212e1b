//! The queue's derived columns against what they are derived from: states against the log, counts of needs against the needs.

use rusqlite::config::DbConfig;
use rusqlite::{Connection, Transaction};

use super::Problem;
use crate::schema::NEEDS_LEFT;

/// The state that a job's log ends with.
const LOGGED: &str = "(SELECT to_state FROM events e WHERE e.job = jobs.id ORDER BY e.id DESC LIMIT 1)";

/// Needs of or on a job that does not exist.
const LOOSE: &str = "(job NOT IN (SELECT id FROM jobs) OR needs NOT IN (SELECT id FROM jobs))";

/// Jobs that are not what they are derived from.
pub(super) fn problems(c: &Connection) -> rusqlite::Result<Vec<Problem>> {
    let mut out = Vec::new();
    let mut say = |label: String, what: String, repairable: bool| {
        out.push(Problem { subject: format!("job {label}"), what, repairable });
    };
    let wrong: Vec<(String, String, Option<String>)> = c
        .prepare(&format!(
            "SELECT label, state, {LOGGED} AS logged FROM jobs WHERE logged IS NOT state ORDER BY id"
        ))?
        .query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (label, state, logged) in wrong {
        let known = logged.is_some();
        let logged = logged.unwrap_or("nothing".into());
        say(label, format!("is {state}, but its log ends with {logged}"), known);
    }
    let miscounted: Vec<(String, i64, i64)> = c
        .prepare(&format!(
            "SELECT label, deps_left, {NEEDS_LEFT} AS counted FROM jobs
             WHERE state IN ('queued','retry_wait') AND deps_left <> counted ORDER BY id"
        ))?
        .query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (label, stored, counted) in miscounted {
        say(label, format!("waits for {stored} jobs by its row, for {counted} by its needs"), true);
    }
    let loose: Vec<(String, i64, i64)> = c
        .prepare(&format!(
            "SELECT COALESCE((SELECT label FROM jobs WHERE id = n.job), CAST(n.job AS TEXT)), n.job, n.needs FROM job_needs n
             WHERE {LOOSE} ORDER BY n.job, n.needs"
        ))?
        .query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (label, job, needs) in loose {
        say(label, format!("job {job} needs job {needs}; one of them does not exist"), true);
    }
    let empty: Vec<String> = c
        .prepare(
            "SELECT label FROM jobs j WHERE state = 'succeeded' AND adapter <> ''
             AND NOT EXISTS (SELECT 1 FROM adapters a WHERE a.id = j.adapter) ORDER BY id",
        )?
        .query_map([], |r| r.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for label in empty {
        say(label, "succeeded, but its adapter is not in the catalogue".into(), true);
    }
    Ok(out)
}

/// Derives them anew; returns how many jobs and how many needs that changed.
pub(super) fn mend(t: &Transaction<'_>) -> rusqlite::Result<(usize, usize)> {
    let needs = t.execute(&format!("DELETE FROM job_needs WHERE {LOOSE}"), [])?;
    // The log has the change already, and it may be one that no job makes: neither is the triggers' affair. A lease without
    // its holder is taken back by whoever reaps next.
    t.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    let states = t.execute(
        &format!(
            "UPDATE jobs SET state = {LOGGED},
               lease_owner = CASE WHEN {LOGGED} IN ('leased','running') THEN lease_owner END,
               lease_until_ms = CASE WHEN {LOGGED} IN ('leased','running') THEN lease_until_ms END
             WHERE {LOGGED} IS NOT state AND {LOGGED} IS NOT NULL"
        ),
        [],
    );
    t.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true)?;
    let counts = t.execute(
        &format!("UPDATE jobs SET deps_left = {NEEDS_LEFT} WHERE state IN ('queued','retry_wait') AND deps_left <> {NEEDS_LEFT}"),
        [],
    )?;
    let adapters = t.execute(
        "UPDATE jobs SET adapter = COALESCE((SELECT a.id FROM adapters a WHERE a.spec_hash = jobs.spec_hash), '')
         WHERE state = 'succeeded' AND adapter <> '' AND adapter NOT IN (SELECT id FROM adapters)",
        [],
    )?;
    Ok((states? + counts + adapters, needs))
}
