//! An intervention as a job: queued once by what it computes, its outputs filed as a run.

use std::sync::atomic::AtomicBool;

use factory::queue::{Needs, NewJob};
use factory::{Craft, Failed, Job, SubmitOptions};
use lm::{BaseModel, Outline};
use oracle_posttrain::intervention::{Cap, Spec};
use registry::{Store, write_atomic};
use serde_json::json;

use super::{ToCome, prepare, to_json, to_safetensors};
use crate::error::{CommandError, Kind, Result};

const KIND: &str = "intervention";
const SCHEMA: &str = "intervention-job/1";

/// The job of a spec, checked against the store as it is and against its cap.
pub(crate) fn job(
    store: &Store,
    outline: &Outline,
    spec: Spec,
    cap: Cap,
    to_come: &ToCome,
    label: &str,
    options: &SubmitOptions,
) -> Result<NewJob> {
    let ready = prepare(Ok(store), outline, spec, cap, to_come)?;
    // It waits for the adapters that it names, whether or not it was told to.
    let mut needs = options.needs.clone();
    for hash in ready.specs_to_come() {
        if !needs.iter().any(|n: &Needs| n.only_ok && n.spec_hash == hash) {
            needs.push(Needs { spec_hash: hash.to_owned(), only_ok: true });
        }
    }
    let base = outline.digest();
    let value = json!({"schema": SCHEMA, "base": base, "trainer_version": ::factory::spec::TRAINER_VERSION,
        "intervention": ready.plan.spec()});
    let spec_hash = registry::spec_hash(&value);
    Ok(NewJob {
        spec: value,
        kind: KIND.into(),
        label: format!("{KIND}/{label}"),
        family: KIND.into(),
        tags: options.tags.clone(),
        base,
        pack_key: spec_hash.clone(),
        priority: options.priority,
        max_attempts: options.max_attempts,
        needs,
        spec_hash,
    })
}

/// Runs such jobs.
pub(crate) struct Intervening;

impl Craft for Intervening {
    fn kind(&self) -> &str {
        KIND
    }

    fn work(
        &self,
        store: &mut Store,
        base: &BaseModel,
        job: &Job,
        stop: &AtomicBool,
        say: &mut dyn FnMut(String),
    ) -> factory::Result<Option<String>, Failed> {
        let folder = done(store, base, job, stop)?;
        say(format!("{}: {folder}", job.label));
        Ok(None)
    }
}

/// Files `intervention.json`, `vectors.safetensors` and, last, `outputs.json`; returns the folder.
fn done(store: &Store, base: &BaseModel, job: &Job, stop: &AtomicBool) -> Result<String> {
    let wrong = |what: String| CommandError::new(Kind::Usage, format!("job {}: {what}", job.label));
    if job.spec["schema"] != SCHEMA || job.spec["trainer_version"] != ::factory::spec::TRAINER_VERSION {
        return Err(wrong("it was queued by another version of lorafab".into()));
    }
    let spec = Spec::from_value(job.spec["intervention"].clone()).map_err(|e| wrong(e.to_string()))?;
    // It was held to its cap when it was queued.
    let cap = Cap { flops: f64::INFINITY, bytes: f64::INFINITY };
    let ready = prepare(Ok(store), base, spec, cap, &ToCome::new())?;
    let plan = &ready.plan;
    let folder = store.run_dir(&format!("{KIND}-{}", &plan.digest()[..16]))?;
    let outputs = ready.run(Ok(store), base, stop)?;
    let text = |value: &serde_json::Value| serde_json::to_vec_pretty(value).expect("invariant: plain data");
    write_atomic(&folder.join("intervention.json"), &text(&job.spec["intervention"]))?;
    if !outputs.vectors.is_empty() {
        write_atomic(&folder.join("vectors.safetensors"), &to_safetensors(&outputs)?)?;
    }
    write_atomic(&folder.join("outputs.json"), &text(&to_json(base, &ready, &outputs)?))?;
    Ok(folder.display().to_string())
}
