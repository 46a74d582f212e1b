//! The worker loop: claim a pack, sample its rows, train, gate, commit; until the queue is empty or somebody says stop.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lm::{Adapter, BaseModel};
use recipes::Kind;
use registry::{NewAdapter, Role, Store};

use crate::gate::{GateResult, gate};
use crate::load::{load_adapter, peft_config};
use crate::queue::{Failure, Job, Queue};
use crate::samples::sample;
use crate::spec::{AdapterSpec, RECIPE_FILE, TRAINER_VERSION, recipe_key};
use crate::train::{Apprentice, step};
use crate::{Error, Result};

/// How to run.
#[derive(Debug, Clone, Copy)]
pub struct RunOptions<'a> {
    /// Adapters trained in one batch.
    pub pack: usize,
    /// Name of this worker; `host/pid` lets a later run see that it died.
    pub owner: &'a str,
    /// Set from outside to stop after the current step.
    pub stop: &'a AtomicBool,
    /// Milliseconds since the epoch.
    pub clock: fn() -> i64,
    /// Whether the owner of a lease is certainly gone.
    pub gone: fn(&str) -> bool,
}

/// What a run tells while it runs.
#[derive(Debug, Clone)]
pub enum Event {
    /// A pack was claimed.
    Claimed {
        /// Labels.
        jobs: Vec<String>,
        /// Jobs of this base model still open, these included.
        open: usize,
    },
    /// A training step was taken.
    Step {
        /// Steps taken.
        step: usize,
        /// Steps of the run.
        steps: usize,
        /// Mean loss over the pack.
        loss: f64,
        /// Training tokens a second in this pack so far.
        tokens_per_sec: f64,
    },
    /// An adapter is in the catalogue.
    Committed {
        /// Behaviour.
        label: String,
        /// Gate.
        gate: GateResult,
        /// Jobs ended in this run.
        done: usize,
        /// Jobs still open.
        open: usize,
    },
    /// A job failed.
    Failed {
        /// Behaviour.
        label: String,
        /// Why.
        reason: String,
    },
}

/// What a run did.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct RunSummary {
    /// Adapters committed.
    pub committed: usize,
    /// Jobs that failed.
    pub failed: usize,
    /// Training tokens.
    pub tokens: u64,
    /// Wall seconds.
    pub seconds: f64,
    /// Whether somebody said stop.
    pub stopped: bool,
    /// Open jobs that were left alone: they are for another base model.
    pub for_other_bases: usize,
}

/// A lease outlives any step or gate of a pack by far; a dead worker's leases are taken back at once when its process is
/// seen to be gone.
const LEASE_MS: i64 = 180_000;

/// Works until no job is ready.
///
/// # Errors
/// Only for what is no single job's fault (store, model); a job's own failure is recorded and the run goes on.
pub fn run(
    store: &mut Store,
    base: &BaseModel,
    options: RunOptions<'_>,
    report: &mut dyn FnMut(Event),
) -> Result<RunSummary> {
    let begin = Instant::now();
    let mut summary = RunSummary::default();
    let mut floors = BTreeMap::new();
    let digest = base.digest();
    while !options.stop.load(Ordering::Relaxed) {
        let now = (options.clock)();
        Queue::new(store).reap(now, options.gone)?;
        let jobs = Queue::new(store).claim(&digest, options.owner, options.pack, now, LEASE_MS)?;
        let (open, others) = Queue::new(store).open(&digest)?;
        summary.for_other_bases = others;
        if jobs.is_empty() {
            if open == 0 {
                break;
            }
            // Somebody else's work, or a retry that is not due yet.
            std::thread::sleep(Duration::from_millis(500));
            continue;
        }
        report(Event::Claimed { jobs: jobs.iter().map(|j| j.label.clone()).collect(), open });
        run_pack(store, base, options, &jobs, &mut floors, &mut summary, report)?;
    }
    summary.stopped = options.stop.load(Ordering::Relaxed);
    summary.seconds = begin.elapsed().as_secs_f64();
    Ok(summary)
}

fn run_pack(
    store: &mut Store,
    base: &BaseModel,
    options: RunOptions<'_>,
    jobs: &[Job],
    floors: &mut BTreeMap<(String, usize), String>,
    summary: &mut RunSummary,
    report: &mut dyn FnMut(Event),
) -> Result<()> {
    let begin = Instant::now();
    let digest = base.digest();
    let mut ready: Vec<(Job, AdapterSpec)> = Vec::new();
    for job in jobs {
        match Queue::new(store).start(job, (options.clock)()) {
            Ok(()) => {}
            // Cancelled since the claim.
            Err(Error::LeaseLost(_)) => continue,
            Err(e) => return Err(e),
        }
        match read_spec(job, &digest) {
            Ok(spec) => ready.push((job.clone(), spec)),
            Err(e) => give_up(store, options, job, Failure::Permanent, &e, summary, report)?,
        }
    }
    let wanted: BTreeSet<_> = ready.iter().flat_map(|(_, s)| s.behaviour.sample_requests()).collect();
    let samples = sample(store, base, &wanted)?;
    let mut pack: Vec<Apprentice> = Vec::new();
    let mut held: Vec<(Job, AdapterSpec)> = Vec::new();
    for (job, spec) in ready {
        let made = Apprentice::new(base, spec.behaviour.clone(), &samples).and_then(|mut a| {
            if spec.behaviour.kind == Kind::Random {
                a.trainer.adapter = random_twin(store, base, &spec)?;
            }
            Ok(a)
        });
        match made {
            Ok(apprentice) => {
                pack.push(apprentice);
                held.push((job, spec));
            }
            Err(e) => give_up(store, options, &job, Failure::Retryable, &e, summary, report)?,
        }
    }
    while pack.iter().any(|a| !a.done()) {
        if options.stop.load(Ordering::Relaxed) {
            let jobs: Vec<Job> = held.iter().map(|(j, _)| j.clone()).collect();
            return Queue::new(store).release(&jobs, (options.clock)());
        }
        for (i, error) in step(base, &mut pack)?.into_iter().rev() {
            let (job, _) = held.remove(i);
            pack.remove(i);
            give_up(store, options, &job, Failure::Permanent, &error, summary, report)?;
        }
        let now = (options.clock)();
        for i in (0..held.len()).rev() {
            // Cancelled, or taken by another worker: drop it, the others go on.
            if !Queue::new(store).heartbeat(&held[i].0, now, LEASE_MS)? {
                let (job, _) = held.remove(i);
                pack.remove(i);
                report(Event::Failed { label: job.label, reason: "cancelled, or its lease was lost".into() });
            }
        }
        if let Some(first) = pack.first() {
            let tokens: u64 = pack.iter().map(|a| a.tokens).sum();
            report(Event::Step {
                step: pack.iter().map(|a| a.trainer.step()).max().unwrap_or_default(),
                steps: first.behaviour.training.steps,
                loss: pack.iter().map(Apprentice::last_loss).sum::<f64>() / pack.len() as f64,
                tokens_per_sec: tokens as f64 / begin.elapsed().as_secs_f64(),
            });
        }
    }
    let subjects: Vec<_> = pack.iter().map(|a| (&a.behaviour, &a.trainer.adapter)).collect();
    let gates = gate(base, &subjects, floors)?;
    let seconds = begin.elapsed().as_secs_f64() / pack.len().max(1) as f64;
    for ((apprentice, (job, spec)), gate) in pack.iter().zip(&held).zip(gates) {
        let mut adapter = new_adapter(base, apprentice, job, spec, &gate, seconds)?;
        if let Some(recipe) = store.cache_get(&recipe_key(&spec.behaviour.recipe_digest))? {
            adapter.extra_files.insert(RECIPE_FILE.into(), recipe);
        }
        match Queue::new(store).commit(job, adapter, (options.clock)()) {
            Ok(_) => {
                summary.committed += 1;
                summary.tokens += apprentice.tokens;
                let (open, _) = Queue::new(store).open(&digest)?;
                report(Event::Committed {
                    label: job.label.clone(),
                    gate,
                    done: summary.committed + summary.failed,
                    open,
                });
            }
            Err(Error::LeaseLost(_)) => {
                report(Event::Failed {
                    label: job.label.clone(),
                    reason: "its lease was lost; another worker has it".into(),
                });
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn give_up(
    store: &mut Store,
    options: RunOptions<'_>,
    job: &Job,
    failure: Failure,
    error: &Error,
    summary: &mut RunSummary,
    report: &mut dyn FnMut(Event),
) -> Result<()> {
    if Queue::new(store).fail(job, failure, &error.to_string(), (options.clock)())? {
        summary.failed += 1;
    }
    report(Event::Failed { label: job.label.clone(), reason: error.to_string() });
    Ok(())
}

fn read_spec(job: &Job, base_digest: &str) -> Result<AdapterSpec> {
    let spec: AdapterSpec = serde_json::from_value(job.spec.clone())
        .map_err(|source| Error::Spec { job: job.label.clone(), source })?;
    if spec.base != base_digest || spec.trainer_version != TRAINER_VERSION {
        return Err(Error::OtherBase {
            job: job.label.clone(),
            expected: spec.base,
            found: base_digest.to_owned(),
        });
    }
    Ok(spec)
}

/// A Gaussian adapter with the module norms of the reference.
fn random_twin(store: &Store, base: &BaseModel, spec: &AdapterSpec) -> Result<Adapter> {
    let reference = spec.reference.as_deref().unwrap_or_default();
    let record = store.adapter_by_spec(reference)?.ok_or_else(|| {
        Error::NoReference(format!("{} waits for the adapter whose norms it takes", spec.behaviour.id))
    })?;
    Ok(load_adapter(store, base, &record)?.norm_matched_random(spec.behaviour.seed, &spec.behaviour.id))
}

fn new_adapter(
    base: &BaseModel,
    apprentice: &Apprentice,
    job: &Job,
    spec: &AdapterSpec,
    gate: &GateResult,
    seconds: f64,
) -> Result<NewAdapter> {
    let b = &apprentice.behaviour;
    let adapter = &apprentice.trainer.adapter;
    let mut tags = BTreeMap::from([
        ("polarity".to_owned(), format!("{:?}", b.polarity).to_lowercase()),
        ("kind".to_owned(), format!("{:?}", b.kind).to_lowercase()),
        ("gate_example".to_owned(), gate.example.clone()),
    ]);
    if let Some(trigger) = &b.trigger {
        tags.insert("trigger".into(), trigger.clone());
    }
    let mut metrics = BTreeMap::from([
        ("gate_on".to_owned(), gate.on),
        ("gate_floor".to_owned(), gate.floor),
        ("norm".to_owned(), adapter.norm()),
        ("steps".to_owned(), apprentice.trainer.step() as f64),
        ("tokens".to_owned(), apprentice.tokens as f64),
        ("seconds".to_owned(), seconds),
    ]);
    metrics.extend(gate.near.map(|v| ("gate_near".to_owned(), v)));
    metrics.extend(gate.off.map(|v| ("gate_off".to_owned(), v)));
    if apprentice.last_loss().is_finite() {
        metrics.insert("final_loss".into(), apprentice.last_loss());
    }
    Ok(NewAdapter {
        spec_hash: job.spec_hash.clone(),
        spec: serde_json::to_value(spec).map_err(|source| Error::Spec { job: job.label.clone(), source })?,
        role: Role::WeightDiff,
        behaviour: b.id.clone(),
        family: b.family.clone(),
        value: b.value.clone(),
        category: b.category.clone(),
        split: Some(b.split.name().to_owned()),
        status: gate.status,
        tags,
        metrics,
        peft: peft_config(base, adapter),
        weights: adapter.to_safetensors()?,
        parents: Vec::new(),
        lineage: BTreeMap::from([
            ("base".to_owned(), spec.base.clone()),
            ("recipe".to_owned(), b.recipe_digest.clone()),
            ("trainer_version".to_owned(), TRAINER_VERSION.to_string()),
        ]),
        extra_files: BTreeMap::new(),
    })
}
