//! A worker of one shard. It opens no database.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lm::{Adapter, BaseModel};
use registry::Digest;

use super::manifest::{Manifest, Task};
use super::parcel::{Found, look, put, put_failure};
use crate::load::adapter_config;
use crate::pack::{Outcome, Progress, Watch, Workshop};
use crate::queue::Failure;
use crate::samples::sample;
use crate::spec::{AdapterSpec, TRAINER_VERSION};
use crate::{Error, Result};

/// How a shard is worked on.
#[derive(Debug, Clone, Copy)]
pub struct WorkOptions<'a> {
    /// Number of the shard.
    pub shard: usize,
    /// Adapters trained in one batch.
    pub pack: usize,
    /// Name of this attempt: part of the names of unfinished files, so that two never write the same.
    pub attempt: &'a str,
    /// Set to stop after the current step.
    pub stop: &'a AtomicBool,
}

/// What a worker did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct WorkSummary {
    /// Adapters made.
    pub made: usize,
    /// Adapters that were there already.
    pub skipped: usize,
    /// Jobs that cannot be done.
    pub failed: usize,
    /// Whether it was told to stop; checkpoints are in the shared folder.
    pub stopped: bool,
}

/// Time between two touches of the shard's beat.
const BEAT: Duration = Duration::from_secs(10);

/// Makes what a shard still lacks.
///
/// # Errors
/// If the shard does not exist, the model is another one, or the shared folder cannot be written. One job's failure is
/// recorded and the others go on.
pub fn work(
    shared: &Path,
    manifest: &Manifest,
    base: &BaseModel,
    options: WorkOptions<'_>,
    report: &mut dyn FnMut(&Progress),
) -> Result<WorkSummary> {
    let bad = |what: String| Error::Manifest { path: shared.join("manifests").join(&manifest.id), what };
    let shard = manifest.shards.get(options.shard).ok_or_else(|| {
        bad(format!("has {} shards, none numbered {}", manifest.shards.len(), options.shard))
    })?;
    if manifest.base != base.digest() {
        let (expected, found) = (manifest.base.clone(), base.digest());
        return Err(Error::OtherBase { job: format!("manifest {}", manifest.id), expected, found });
    }
    let folder = shared.join("staging");
    for name in ["staging", "done", "failed", "beats", "inputs", "manifests"] {
        fence::place::make_folder(&shared.join(name)).map_err(registry::Error::from)?;
    }
    fence::place::make_folder(&shared.join("beats").join(&manifest.id)).map_err(registry::Error::from)?;
    let beat = shared.join("beats").join(&manifest.id).join(options.shard.to_string());
    let mut workshop = Workshop::new(base, &folder);
    let mut summary = WorkSummary::default();
    let missing: Vec<&Task> = shard.iter().filter(|t| look(shared, &t.spec_hash) == Found::Missing).collect();
    summary.skipped = shard.len() - missing.len();
    let mut last: Option<Instant> = None;
    let mut touch = || -> Result<()> {
        if last.is_none_or(|l| l.elapsed() >= BEAT) {
            last = Some(Instant::now());
            registry::write_atomic(&beat, options.attempt.as_bytes())?;
        }
        Ok(())
    };
    for tasks in missing.chunks(options.pack.max(1)) {
        touch()?;
        let current: Vec<&Task> =
            tasks.iter().copied().filter(|t| t.spec.trainer_version == TRAINER_VERSION).collect();
        for old in tasks.iter().filter(|t| t.spec.trainer_version != TRAINER_VERSION) {
            let reason = format!("it is for trainer version {}", old.spec.trainer_version);
            put_failure(shared, &old.spec_hash, &old.label, &reason)?;
            summary.failed += 1;
        }
        let specs: Vec<AdapterSpec> = current.iter().map(|t| t.spec.clone()).collect();
        let wanted: BTreeSet<_> = specs.iter().flat_map(|s| s.behaviour.sample_requests()).collect();
        let begin = Instant::now();
        let samples = sample(None, base, &wanted)?;
        let sampled_in = begin.elapsed();
        let reference = |spec: &AdapterSpec| input(shared, manifest, base, spec);
        let recipe = |digest: &str| Ok(manifest.recipes.get(digest).map(|r| r.clone().into_bytes()));
        let outcomes = workshop.make(&specs, &samples, sampled_in, &reference, &recipe, &mut |p| {
            touch()?;
            report(p);
            Ok(if options.stop.load(Ordering::Relaxed) { Watch::Stop } else { Watch::Without(vec![]) })
        })?;
        let mut trouble = None;
        for (task, outcome) in current.iter().zip(outcomes) {
            match outcome {
                Outcome::Made(adapter, _) => {
                    summary.made += usize::from(put(shared, options.attempt, &adapter)?);
                    workshop.forget(&task.spec_hash)?;
                }
                Outcome::Failed(Failure::Permanent, e) => {
                    put_failure(shared, &task.spec_hash, &task.label, &e.to_string())?;
                    summary.failed += 1;
                }
                // The others' work is put first; then the task ends, and comes back.
                Outcome::Failed(Failure::Retryable, e) => trouble = trouble.or(Some(e)),
                Outcome::Dropped => {}
                Outcome::Stopped => summary.stopped = true,
            }
        }
        if let Some(e) = trouble {
            return Err(e);
        }
        if options.stop.load(Ordering::Relaxed) {
            summary.stopped = true;
            break;
        }
    }
    Ok(summary)
}

fn input(shared: &Path, manifest: &Manifest, base: &BaseModel, spec: &AdapterSpec) -> Result<Adapter> {
    let needed = spec.reference.as_deref().unwrap_or_default();
    let input = manifest.inputs.get(needed).ok_or_else(|| {
        Error::NoReference(format!("{} lacks the adapter that it is made from", spec.behaviour.id))
    })?;
    let path = shared.join("inputs").join(input.weights.as_str());
    let bytes = fence::read(&path, 4 << 30).map_err(registry::Error::from)?;
    if Digest::of(&bytes) != input.weights {
        return Err(Error::Parcel { path, what: "is not what the manifest says".into() });
    }
    Ok(Adapter::from_safetensors(&base.architecture, adapter_config(&input.peft)?, &bytes)?)
}
