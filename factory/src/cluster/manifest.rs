//! Planning: which jobs go to the cluster, in which shards.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use registry::{Digest, PeftConfig, Store, write_atomic};
use serde::{Deserialize, Serialize};

use crate::queue::{Claim, Job, Queue};
use crate::spec::{ADAPTER_JOB, AdapterSpec, recipe_key};
use crate::{Error, Result};

/// One job in a manifest.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Row of the queue.
    pub job: i64,
    /// Token under which the ingester commits.
    pub token: i64,
    /// For people.
    pub label: String,
    /// Identity.
    pub spec_hash: String,
    /// The work.
    pub spec: AdapterSpec,
}

/// An adapter that a task needs, as a file among the inputs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    pub(super) peft: PeftConfig,
    pub(super) weights: Digest,
}

/// What is to be made, by whom.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// `manifest/1`.
    pub schema: String,
    /// Digest of the rest.
    pub id: String,
    /// Digest of the base model.
    pub base: String,
    /// Tasks of each shard.
    pub shards: Vec<Vec<Task>>,
    /// Recipe files, as they are, by their digest.
    pub(super) recipes: BTreeMap<String, String>,
    /// Adapters that tasks need, by specification.
    pub(super) inputs: BTreeMap<String, Input>,
}

/// How to plan.
#[derive(Debug, Clone, Copy)]
pub struct PlanOptions<'a> {
    /// Digest of the base model whose jobs are planned.
    pub base: &'a str,
    /// Jobs of a shard.
    pub per_shard: usize,
    /// At most so many jobs.
    pub most: usize,
    /// For how long the jobs are the cluster's.
    pub lease_ms: i64,
    /// Now.
    pub now_ms: i64,
}

impl Manifest {
    /// Reads a manifest and checks that it is what its name says.
    ///
    /// # Errors
    /// If there is none, it is damaged, or of another version.
    pub fn read(shared: &Path, id: &str) -> Result<Self> {
        let path = Self::path(shared, id)?;
        let text = fence::read_text(&path, fence::open::TABLE).map_err(registry::Error::from)?;
        let bad = |what: String| Error::Manifest { path: path.clone(), what };
        let manifest: Self = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
        if manifest.schema != SCHEMA || manifest.id != id || manifest.digest() != id {
            return Err(bad("is not the manifest that its name says".into()));
        }
        if let Some(task) = manifest.shards.iter().flatten().find(|t| t.spec.hash() != t.spec_hash) {
            let label: String = task.label.chars().take(60).collect();
            return Err(bad(format!("its task {label:?} is not the one that its hash says")));
        }
        Ok(manifest)
    }

    fn path(shared: &Path, id: &str) -> Result<PathBuf> {
        if id.is_empty() || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(registry::Error::BadName(id.into()).into());
        }
        Ok(shared.join("manifests").join(id).join("manifest.json"))
    }

    /// All tasks.
    pub fn tasks(&self) -> impl Iterator<Item = &Task> {
        self.shards.iter().flatten()
    }

    fn digest(&self) -> String {
        let mut anonymous = self.clone();
        anonymous.id = String::new();
        let value = serde_json::to_value(&anonymous).expect("invariant: plain data");
        registry::spec_hash(&value)[..16].to_owned()
    }
}

const SCHEMA: &str = "manifest/1";

/// Leases what is ready to the cluster and writes the manifest of it; `None` if nothing is. Jobs that need others which have not
/// ended stay in the queue for the next plan.
///
/// # Errors
/// If the store or the shared folder refuses.
pub fn plan(store: &mut Store, shared: &Path, options: PlanOptions<'_>) -> Result<Option<Manifest>> {
    let owner = format!("cluster:{}", jobs_owner(options.now_ms));
    let mut packs: Vec<Vec<Job>> = Vec::new();
    let planned =
        lease(store, &owner, options, &mut packs).and_then(|()| write(store, shared, options.base, &packs));
    let jobs = packs.concat();
    if matches!(planned, Ok(Some(_))) {
        // A planner that died before this line has given its jobs back within minutes.
        let pairs: Vec<(i64, i64)> = jobs.iter().map(|j| (j.id, j.token)).collect();
        Queue::new(store).heartbeat(&pairs, options.now_ms, options.lease_ms)?;
    } else {
        // Nothing was handed over: nothing stays leased.
        Queue::new(store).release(&jobs, options.now_ms)?;
    }
    planned
}

/// How long a plan may take to be written.
const PLANNING_MS: i64 = 600_000;

fn lease(store: &mut Store, owner: &str, options: PlanOptions<'_>, packs: &mut Vec<Vec<Job>>) -> Result<()> {
    let mut left = options.most;
    while left > 0 {
        let claim = Claim {
            base: options.base,
            kinds: &[ADAPTER_JOB],
            owner,
            most: left.min(options.per_shard.max(1)),
            now_ms: options.now_ms,
            lease_ms: PLANNING_MS,
        };
        let jobs = Queue::new(store).claim(claim)?;
        if jobs.is_empty() {
            break;
        }
        left -= jobs.len();
        packs.push(jobs);
    }
    Ok(())
}

/// Part of an owner's name that tells two plans of one store apart.
fn jobs_owner(now_ms: i64) -> String {
    format!("{now_ms:x}-{:x}", std::process::id())
}

fn write(store: &mut Store, shared: &Path, base: &str, packs: &[Vec<Job>]) -> Result<Option<Manifest>> {
    let mut manifest = Manifest {
        schema: SCHEMA.into(),
        id: String::new(),
        base: base.into(),
        shards: Vec::new(),
        recipes: BTreeMap::new(),
        inputs: BTreeMap::new(),
    };
    for pack in packs {
        let mut shard = Vec::new();
        for job in pack {
            let spec: AdapterSpec = serde_json::from_value(job.spec.clone())
                .map_err(|source| Error::Spec { job: job.label.clone(), source })?;
            let digest = &spec.behaviour.recipe_digest;
            if let Some(recipe) = store.cache_get(&recipe_key(digest))? {
                // The adapter carries these very bytes: they are part of its identity.
                let text = String::from_utf8_lossy(&recipe).into_owned();
                manifest.recipes.insert(digest.clone(), text);
            }
            if let Some(needed) = &spec.reference {
                let record = store.adapter_by_spec(needed)?.ok_or_else(|| {
                    Error::NoReference(format!("{} waits for the adapter that it is made from", job.label))
                })?;
                let path = shared.join("inputs").join(record.weights.as_str());
                if !path.exists() {
                    write_atomic(&path, &store.weights(&record)?)?;
                }
                manifest.inputs.insert(needed.clone(), Input { peft: record.peft, weights: record.weights });
            }
            shard.push(Task {
                job: job.id,
                token: job.token,
                label: job.label.clone(),
                spec_hash: job.spec_hash.clone(),
                spec,
            });
        }
        manifest.shards.push(shard);
    }
    if manifest.shards.is_empty() {
        return Ok(None);
    }
    manifest.id = manifest.digest();
    let text = serde_json::to_string(&manifest).expect("invariant: plain data");
    write_atomic(&Manifest::path(shared, &manifest.id)?, text.as_bytes())?;
    Ok(Some(manifest))
}

/// Gives the jobs of a manifest back to the queue that the cluster still has. Returns how many.
///
/// # Errors
/// If the store refuses.
pub fn release(store: &mut Store, manifest: &Manifest, now_ms: i64) -> Result<usize> {
    let mut queue = Queue::new(store);
    let mut held = Vec::new();
    for task in manifest.tasks() {
        let job = queue.job(task.job)?;
        if job.token == task.token && !job.state.ended() {
            held.push(job);
        }
    }
    queue.release(&held, now_ms)?;
    Ok(held.len())
}
