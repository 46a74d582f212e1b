//! A comparison as jobs: the readers' training and the comparison itself go through the same queue as the adapters, and wait for
//! what they need. Whatever is interrupted goes on where it was.

use std::sync::atomic::AtomicBool;

use ::compare::readers::Session;
use factory::queue::{Needs, NewJob};
use factory::{Craft, Failed, Job, Queue, State, SubmitOptions};
use lm::{BaseModel, Outline};
use oracle_posttrain::Collector;
use recipes::Behaviour;
use registry::Store;
use serde::{Deserialize, Serialize};

use super::readers::Chosen;
use super::{compare, readers};
use crate::context::{Context, now_ms};
use crate::error::{CommandError, Kind, Result};

/// One kind of work of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Work {
    Dit,
    Collect,
    OraclePretrained,
    OracleScratch,
    OraclePosttrained,
    Compare,
}

impl Work {
    const ALL: [Self; 6] = [
        Self::Dit,
        Self::Collect,
        Self::OraclePretrained,
        Self::OracleScratch,
        Self::OraclePosttrained,
        Self::Compare,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Dit => "dit",
            Self::Collect => "collect",
            Self::OraclePretrained => "oracle-pretrained",
            Self::OracleScratch => "oracle-scratch",
            Self::OraclePosttrained => "oracle-posttrained",
            Self::Compare => "compare",
        }
    }
}

/// A job's specification. Its hash is the job's identity.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    schema: String,
    work: Work,
    base: String,
    trainer_version: u32,
    /// The adapters that readers are trained and tested on, by specification; none: all that the store has when it runs.
    adapters: Vec<String>,
    /// Jobs whose readers this work takes, by specification.
    readers: Vec<String>,
    seed: u64,
    smoke: bool,
    /// Name of the run that a comparison is filed as.
    run: Option<String>,
}

const SCHEMA: &str = "reader-job/1";

/// What a comparison is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan<'a> {
    pub(crate) run: &'a str,
    pub(crate) smoke: bool,
    pub(crate) seed: u64,
}

/// Queues the readers and the comparison of these adapters; returns the comparison's specification hash and how many jobs are
/// new.
pub(crate) fn submit(
    store: &mut Store,
    base: &Outline,
    behaviours: &[Behaviour],
    plan: Plan<'_>,
) -> Result<(String, usize)> {
    let digest = base.digest();
    let adapters = factory::specs(behaviours, &digest)?.iter().map(factory::AdapterSpec::hash).collect();
    let jobs = jobs(&digest, adapters, plan, &SubmitOptions::default());
    let compare = jobs.last().map(|j| j.spec_hash.clone()).unwrap_or_default();
    let done = Queue::new(store).submit(&jobs, now_ms())?;
    Ok((compare, done.new))
}

/// The jobs of a comparison of the adapters with these specifications, the comparison last.
pub(crate) fn jobs(
    digest: &str,
    mut adapters: Vec<String>,
    plan: Plan<'_>,
    options: &SubmitOptions,
) -> Vec<NewJob> {
    let mut seen = std::collections::BTreeSet::new();
    adapters.retain(|a| seen.insert(a.clone()));
    let mut jobs: Vec<NewJob> = Vec::new();
    for work in Work::ALL {
        let of = |wanted: &[Work]| -> Vec<String> {
            let named = |j: &&NewJob| wanted.iter().any(|w| w.name() == j.kind);
            jobs.iter().filter(named).map(|j| j.spec_hash.clone()).collect()
        };
        let readers = match work {
            Work::OraclePosttrained => of(&[Work::OraclePretrained]),
            Work::Compare => {
                of(&[Work::Dit, Work::OraclePretrained, Work::OracleScratch, Work::OraclePosttrained])
            }
            _ => Vec::new(),
        };
        // Readers that find activations collected collect none; whether they were is no part of what they are.
        let collected = match work {
            Work::OracleScratch | Work::OraclePosttrained => of(&[Work::Collect]),
            _ => Vec::new(),
        };
        let spec = Spec {
            schema: SCHEMA.into(),
            work,
            base: digest.to_owned(),
            trainer_version: factory::spec::TRAINER_VERSION,
            adapters: adapters.clone(),
            readers: readers.clone(),
            seed: plan.seed,
            smoke: plan.smoke,
            run: (work == Work::Compare).then(|| plan.run.to_owned()),
        };
        let value = serde_json::to_value(&spec).expect("invariant: plain data");
        let spec_hash = registry::spec_hash(&value);
        // An adapter that could not be made is left out; a reader that could not be trained is not.
        let mut waits: Vec<Needs> = options.needs.clone();
        waits.extend(adapters.iter().map(|a| Needs { spec_hash: a.clone(), only_ok: false }));
        waits.extend(readers.into_iter().chain(collected).map(|r| Needs { spec_hash: r, only_ok: true }));
        jobs.push(NewJob {
            spec: value,
            kind: work.name().into(),
            label: format!("{}/{}", work.name(), plan.run),
            family: work.name().into(),
            tags: std::iter::once("reader".to_owned()).chain(options.tags.iter().cloned()).collect(),
            base: digest.to_owned(),
            pack_key: spec_hash.clone(),
            priority: options.priority,
            max_attempts: options.max_attempts,
            needs: waits,
            spec_hash,
        });
    }
    jobs
}

/// The job of a specification.
pub(crate) fn job(store: &mut Store, spec_hash: &str) -> Result<Job> {
    Ok(Queue::new(store).find(spec_hash)?)
}

/// One kind of a comparison's work, as the factory's workers do it.
pub(crate) struct Reading<'a> {
    context: &'a Context<'a>,
    work: Work,
}

/// All kinds.
pub(crate) fn crafts<'a>(context: &'a Context<'a>) -> Vec<Reading<'a>> {
    Work::ALL.into_iter().map(|work| Reading { context, work }).collect()
}

impl Craft for Reading<'_> {
    fn kind(&self) -> &str {
        self.work.name()
    }

    fn work(
        &self,
        store: &mut Store,
        base: &BaseModel,
        job: &Job,
        stop: &AtomicBool,
        _say: &mut dyn FnMut(String),
    ) -> factory::Result<Option<String>, Failed> {
        self.done(store, base, job, stop).map_err(Failed::from)
    }
}

impl Reading<'_> {
    fn done(
        &self,
        store: &mut Store,
        base: &BaseModel,
        job: &Job,
        stop: &AtomicBool,
    ) -> Result<Option<String>> {
        let unreadable = |e: serde_json::Error| {
            CommandError::new(
                Kind::Usage,
                format!("job {}: its specification cannot be read: {e}", job.label),
            )
        };
        let spec: Spec = serde_json::from_value(job.spec.clone()).map_err(unreadable)?;
        let (context, seed, smoke) = (self.context, spec.seed, spec.smoke);
        let known = spec.schema == SCHEMA && spec.trainer_version == factory::spec::TRAINER_VERSION;
        if !known || spec.work != self.work {
            return Err(CommandError::new(
                Kind::Usage,
                format!("job {} was queued by another version of lorafab", job.label),
            ));
        }
        // A worker that lost its lease files nothing: the queue is asked in the transaction that files.
        let session = Session { stop, file: &|store, new| Ok(Queue::new(store).file(job, new)?) };
        let mut found = Vec::new();
        for hash in &spec.readers {
            let made = Queue::new(store).find(hash)?.adapter.unwrap_or_default();
            found.push(compare::from_record(store, base, &made)?);
        }
        if self.work == Work::OraclePretrained {
            let reader = readers::pretrain(context, store, base, None, smoke, None, seed, session)?;
            return Ok(Some(reader.record.id));
        }
        let behaviours: Vec<Behaviour> = spec
            .adapters
            .iter()
            .map(|hash| -> Result<Behaviour> {
                let job = Queue::new(store).find(hash)?;
                serde_json::from_value(job.spec["behaviour"].clone()).map_err(unreadable)
            })
            .collect::<Result<_>>()?;
        let chosen = Chosen { behaviours, specs: spec.adapters.clone() };
        let s = readers::supervision(store, base, &[], Some(&chosen), smoke, seed)?;
        let reader = match self.work {
            Work::Collect => {
                let collector = Collector::standard(base);
                context.say(&format!("collecting activations at {} prompts", collector.prompts.len()));
                s.activations(store, &collector)?;
                return Ok(None);
            }
            Work::Dit => {
                context.say(&readers::describe(&s));
                readers::train_dit(context, store, &s, smoke, None, seed, session)?
            }
            Work::OracleScratch => readers::posttrain(context, store, &s, None, smoke, None, seed, session)?,
            Work::OraclePosttrained => {
                readers::posttrain(context, store, &s, found.first(), smoke, None, seed, session)?
            }
            Work::OraclePretrained | Work::Compare => {
                let run = spec.run.as_deref().unwrap_or("compare");
                compare::score(
                    context,
                    store,
                    &s,
                    &found.iter().collect::<Vec<_>>(),
                    run,
                    smoke,
                    seed,
                    stop,
                )?;
                return Ok(None);
            }
        };
        Ok(Some(reader.record.id))
    }
}

/// What became of a comparison's job, as an error if it did not succeed.
pub(crate) fn succeeded(job: &Job) -> Result {
    match job.state {
        State::Succeeded => Ok(()),
        State::Dead => Err(CommandError::new(
            Kind::Negative,
            format!("{} failed: {}", job.label, job.error.as_deref().unwrap_or("no reason is known")),
        )
        .hint("see its history with: lorafab factory logs; try again with: lorafab factory retry")),
        state => Err(CommandError::new(Kind::Negative, format!("{} is {}", job.label, state.name()))
            .hint("go on with: lorafab factory run")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use factory::queue::Claim;
    use lm::Precision;
    use registry::Filter;

    use super::*;
    use crate::args::Global;

    #[test]
    fn a_reader_whose_lease_is_lost_is_not_filed_and_the_next_holder_files_it() {
        let folder = tempfile::tempdir().unwrap();
        let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lm/tests/golden/tiny");
        let global = Global {
            store: Some(folder.path().join("store")),
            model: tiny.display().to_string(),
            precision: "f32".into(),
            simd: "best".into(),
            json: false,
            offline: true,
            quiet: true,
        };
        let context = Context { global: &global };
        let base = BaseModel::load(&tiny, Precision::F32).unwrap();
        let mut store = context.store().unwrap();
        submit(&mut store, &base, &[], Plan { run: "r", smoke: true, seed: 1 }).unwrap();
        let claim = |store: &mut Store, now_ms: i64| {
            let kinds = ["oracle-pretrained"];
            let claim =
                Claim { base: &base.digest(), kinds: &kinds, owner: "w", most: 1, now_ms, lease_ms: 10 };
            let job = Queue::new(store).claim(claim).unwrap().remove(0);
            Queue::new(store).start(&job, now_ms).unwrap();
            job
        };
        let stale = claim(&mut store, 0);
        assert_eq!(Queue::new(&mut store).reap(11, |_| false).unwrap(), 1);
        let crafts = crafts(&context);
        let craft = crafts.iter().find(|c| c.kind() == stale.kind).unwrap();
        let stop = AtomicBool::new(false);
        let failed = craft.work(&mut store, &base, &stale, &stop, &mut |_| {}).unwrap_err();
        assert!(failed.reason.contains("lease") && !failed.interrupted, "{failed:?}");
        assert!(store.adapters(&Filter::all()).unwrap().is_empty());
        assert_eq!(store.rebuild_from_receipts().unwrap(), 0, "a refused reader left a receipt");
        let fresh = claim(&mut store, 1_000_000);
        let made = craft.work(&mut store, &base, &fresh, &stop, &mut |_| {}).unwrap().unwrap();
        Queue::new(&mut store).finish(&fresh, Some(&made), "", 1_000_001).unwrap();
        assert_eq!(store.adapters(&Filter::all()).unwrap()[0].id, made);
    }
}
