//! The one program that takes finished adapters into the catalogue.

use std::path::Path;

use registry::Store;
use serde::Serialize;

use super::manifest::{Manifest, Task};
use super::parcel::{Found, forget_failure, get, get_failure, look, set_aside};
use crate::queue::{Failure, Queue, State};
use crate::{Error, Result};

/// What an ingestion found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Ingested {
    /// Adapters taken in.
    pub committed: usize,
    /// Adapters that the catalogue had.
    pub known: usize,
    /// Jobs that failed for good.
    pub failed: usize,
    /// Jobs without a result.
    pub missing: usize,
    /// Of these, given back to the queue now.
    pub released: usize,
    /// Tasks whose result could not be taken in, and why.
    pub damaged: Vec<String>,
}

/// Takes in what a manifest's workers have finished. With `ended`, what is missing goes back to the queue. Running it again changes
/// nothing.
///
/// # Errors
/// If the store refuses.
pub fn ingest(
    store: &mut Store,
    shared: &Path,
    manifest: &Manifest,
    ended: bool,
    now_ms: i64,
) -> Result<Ingested> {
    let mut out = Ingested::default();
    for task in manifest.tasks() {
        // One task's trouble keeps no other out.
        if let Err(e) = one(store, shared, task, ended, now_ms, &mut out) {
            out.damaged.push(format!("{}: {e}", task.label));
        }
    }
    Ok(out)
}

fn one(
    store: &mut Store,
    shared: &Path,
    task: &Task,
    ended: bool,
    now_ms: i64,
    out: &mut Ingested,
) -> Result<()> {
    // By specification: row numbers change when a catalogue is lost.
    let job = Queue::new(store).by_spec(&task.spec_hash)?;
    if store.adapter_by_spec(&task.spec_hash)?.is_some()
        && job.as_ref().is_none_or(|j| j.state == State::Succeeded)
    {
        out.known += 1;
        return Ok(());
    }
    let held = job.filter(|j| j.id == task.job && j.token == task.token && !j.state.ended());
    match look(shared, &task.spec_hash) {
        Found::Done => {
            let adapter = match get(shared, &task.spec_hash) {
                Ok(adapter) => adapter,
                Err(e) => {
                    // Out of the way, so that it is made again.
                    set_aside(shared, &task.spec_hash, now_ms)?;
                    if let Some(job) = held.filter(|_| ended) {
                        Queue::new(store).release(std::slice::from_ref(&job), now_ms)?;
                    }
                    out.missing += 1;
                    return Err(e);
                }
            };
            let committed = match &held {
                Some(job) => {
                    let mut queue = Queue::new(store);
                    let started = if job.state == State::Leased { queue.start(job, now_ms) } else { Ok(()) };
                    match started.and_then(|()| queue.commit(job, adapter.clone(), now_ms)) {
                        // Cancelled meanwhile: what is made is kept all the same.
                        Err(Error::LeaseLost(_)) => {
                            queue.cancelled(job, now_ms)?;
                            false
                        }
                        other => other.map(|_| true)?,
                    }
                }
                None => false,
            };
            if !committed {
                // The lease went to another, or the queue was lost: the adapter is as good, and whoever has the job finds it.
                store.commit_adapter(adapter)?;
            }
            out.committed += 1;
        }
        Found::Failed => {
            let reason = get_failure(shared, &task.spec_hash)?;
            if let Some(job) = held {
                Queue::new(store).fail(&job, Failure::Permanent, &reason, now_ms)?;
            }
            forget_failure(shared, &task.spec_hash)?;
            out.failed += 1;
        }
        Found::Missing => {
            out.missing += 1;
            if let Some(job) = held.filter(|_| ended) {
                Queue::new(store).release(std::slice::from_ref(&job), now_ms)?;
                out.released += 1;
            }
        }
    }
    Ok(())
}
