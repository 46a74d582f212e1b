//! The one program that takes finished adapters into the catalogue.

use std::path::Path;

use registry::Store;
use serde::Serialize;

use super::manifest::Manifest;
use super::parcel::{Found, forget_failure, get, get_failure, look};
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
    /// Jobs without a result: given back to the queue if the array has ended, else still the cluster's.
    pub missing: usize,
    /// Folders that were not whole, and why.
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
        let job = Queue::new(store).job(task.job)?;
        if job.spec_hash != task.spec_hash {
            return Err(Error::Manifest {
                path: shared.join("manifests").join(&manifest.id),
                what: format!("is of another store: job {} there is {}", task.job, job.label),
            });
        }
        // Committed under this lease, or by another worker since the lease was lost.
        if job.state == State::Succeeded {
            out.known += 1;
            continue;
        }
        let held = job.token == task.token && !job.state.ended();
        match look(shared, &task.spec_hash) {
            Found::Done => match get(shared, &task.spec_hash) {
                Ok(adapter) => {
                    if held {
                        if job.state == State::Leased {
                            Queue::new(store).start(&job, now_ms)?;
                        }
                        Queue::new(store).commit(&job, adapter, now_ms)?;
                    } else {
                        // The lease went to another: the adapter is as good, and whoever has the job finds it.
                        store.commit_adapter(adapter)?;
                    }
                    out.committed += 1;
                }
                Err(e) => {
                    out.damaged.push(format!("{}: {e}", task.label));
                    if held && ended {
                        Queue::new(store).release(std::slice::from_ref(&job), now_ms)?;
                    }
                }
            },
            Found::Failed => {
                let reason = get_failure(shared, &task.spec_hash)?;
                if held {
                    Queue::new(store).fail(&job, Failure::Permanent, &reason, now_ms)?;
                }
                forget_failure(shared, &task.spec_hash)?;
                out.failed += 1;
            }
            Found::Missing => {
                out.missing += 1;
                if held && ended {
                    Queue::new(store).release(std::slice::from_ref(&job), now_ms)?;
                }
            }
        }
    }
    Ok(out)
}
