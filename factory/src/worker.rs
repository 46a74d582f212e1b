//! The worker loop: claim a pack, make it, commit it; until the queue is empty or somebody says stop.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lm::BaseModel;
use recipes::SampleRequest;
use registry::Store;

use crate::gate::GateResult;
use crate::keeper::{Keeper, LEASE_MS};
use crate::load::load_adapter;
use crate::pack::{Outcome, Progress, Watch, Workshop};
use crate::queue::{Beat, Claim, Failure, Job, Queue};
use crate::samples::sample;
use crate::spec::{ADAPTER_JOB, AdapterSpec, TRAINER_VERSION, recipe_key};
use crate::{Error, Result};

/// How to run.
#[derive(Clone, Copy)]
pub struct RunOptions<'a> {
    /// Adapters trained in one batch.
    pub pack: usize,
    /// Name of this worker; `host/pid` lets a later run see that it died.
    pub owner: &'a str,
    /// Set from outside to stop after the current step.
    pub stop: &'a AtomicBool,
    /// Set from outside to end after the pack in hand: nothing more is claimed.
    pub enough: &'a AtomicBool,
    /// Milliseconds since the epoch.
    pub clock: fn() -> i64,
    /// Whether the owner of a lease is certainly gone.
    pub gone: fn(&str) -> bool,
    /// Other kinds of work that this process can do.
    pub crafts: &'a [&'a dyn Craft],
    /// End when nothing is ready, instead of waiting for other workers' jobs.
    pub drain: bool,
}

impl std::fmt::Debug for RunOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunOptions")
            .field("pack", &self.pack)
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}

/// A kind of work other than making adapters of behaviours: one job at a time.
pub trait Craft: Sync {
    /// The kind of job that it does.
    fn kind(&self) -> &str;

    /// Does a job; returns the id of the adapter made, if the work makes one. `stop` is set when the work is to end early
    /// (then the error is [`lm::Error::Interrupted`], and what was done is kept for the next attempt); `say` shows progress.
    ///
    /// # Errors
    /// As the work fails; whether it is worth trying again is [`Failed::failure`].
    fn work(
        &self,
        store: &mut Store,
        base: &BaseModel,
        job: &Job,
        stop: &AtomicBool,
        say: &mut dyn FnMut(String),
    ) -> Result<Option<String>, Failed>;
}

/// Why a craft's job failed.
#[derive(Debug)]
pub struct Failed {
    /// Whether it was interrupted and goes on later.
    pub interrupted: bool,
    /// Worth trying again?
    pub failure: Failure,
    /// One sentence.
    pub reason: String,
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
    /// Another job ended well.
    Finished {
        /// Label.
        label: String,
        /// Jobs ended in this run.
        done: usize,
        /// Jobs still open.
        open: usize,
    },
    /// A craft says something.
    Said(String),
    /// A job failed.
    Failed {
        /// Behaviour.
        label: String,
        /// Why.
        reason: String,
    },
    /// Nothing is ready: other workers have the jobs, or they wait.
    Waiting {
        /// Jobs still open.
        open: usize,
        /// Whether the queue is paused.
        paused: bool,
    },
}

/// What a run did.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct RunSummary {
    /// Adapters committed.
    pub committed: usize,
    /// Other jobs ended well.
    pub finished: usize,
    /// Jobs that failed.
    pub failed: usize,
    /// Training tokens.
    pub tokens: u64,
    /// Wall seconds.
    pub seconds: f64,
    /// Whether somebody said stop.
    pub stopped: bool,
    /// Open jobs that were left alone: they are for another base model, or of a kind that this worker does not do.
    pub for_others: usize,
    /// Whether it ended because the queue is paused.
    pub paused: bool,
}

impl RunSummary {
    fn done(&self) -> usize {
        self.committed + self.finished + self.failed
    }
}

/// Longest pause between two looks at a queue in which nothing is ready.
const IDLE: Duration = Duration::from_millis(500);

/// Works until no job is open (with [`RunOptions::drain`]: none is ready).
///
/// # Errors
/// Only for what is no single job's fault (store, model); a job's own failure is recorded and the run goes on.
pub fn run(
    store: &mut Store,
    base: &BaseModel,
    options: RunOptions<'_>,
    report: &mut dyn FnMut(Event),
) -> Result<RunSummary> {
    let keeper = Keeper::new(options.owner, (options.clock)());
    let root = store.root().to_owned();
    let workshop = Workshop::new(base, &root.join("staging"));
    let mut worker = Worker {
        store,
        base,
        digest: base.digest(),
        options,
        keeper: &keeper,
        workshop,
        summary: RunSummary::default(),
        report,
    };
    keeper.beside(&root, options.stop, options.clock, options.gone, || worker.run())?
}

struct Worker<'a> {
    store: &'a mut Store,
    base: &'a BaseModel,
    digest: String,
    options: RunOptions<'a>,
    keeper: &'a Keeper,
    workshop: Workshop<'a>,
    summary: RunSummary,
    report: &'a mut dyn FnMut(Event),
}

impl Worker<'_> {
    fn now(&self) -> i64 {
        (self.options.clock)()
    }

    fn queue(&mut self) -> Queue<'_> {
        Queue::new(self.store)
    }

    fn stopped(&self) -> bool {
        self.options.stop.load(Ordering::Relaxed)
    }

    fn run(&mut self) -> Result<RunSummary> {
        let begin = Instant::now();
        let crafts = self.options.crafts;
        let kinds: Vec<&str> = std::iter::once(ADAPTER_JOB).chain(crafts.iter().map(|c| c.kind())).collect();
        let (digest, owner) = (self.digest.clone(), self.options.owner);
        let mut told = None;
        while !self.stopped() && !self.options.enough.load(Ordering::Relaxed) {
            let (now_ms, gone) = (self.now(), self.options.gone);
            self.queue().reap(now_ms, gone)?;
            let claim = Claim {
                base: &digest,
                kinds: &kinds,
                owner,
                most: self.options.pack,
                now_ms,
                lease_ms: LEASE_MS,
            };
            let jobs = self.queue().claim(claim)?;
            let (open, others) = self.queue().open(&digest, &kinds)?;
            self.summary.for_others = others;
            if jobs.is_empty() {
                let paused = self.queue().paused()?;
                if open == 0 || self.options.drain || paused {
                    self.summary.paused = paused && open > 0;
                    break;
                }
                // Somebody else's work, or a retry that is not due yet.
                if told != Some(open) {
                    told = Some(open);
                    self.keeper.say("waiting".into(), 0.0, self.summary.done());
                    (self.report)(Event::Waiting { open, paused });
                }
                std::thread::sleep(IDLE);
                continue;
            }
            told = None;
            self.keeper.hold(&jobs);
            self.keeper.halt.store(self.stopped(), Ordering::Relaxed);
            (self.report)(Event::Claimed { jobs: jobs.iter().map(|j| j.label.clone()).collect(), open });
            let craft = crafts.iter().find(|c| c.kind() == jobs[0].kind);
            let done = match craft {
                None => self.pack(&jobs),
                Some(craft) => jobs.iter().try_for_each(|job| self.craft(*craft, job)),
            };
            self.keeper.hold(&[]);
            if let Err(e) = done {
                // Not these jobs' fault: they go back, and cost no attempt.
                let now_ms = self.now();
                let _ = self.queue().release(&jobs, now_ms);
                return Err(e);
            }
        }
        self.summary.stopped = self.stopped();
        self.summary.seconds = begin.elapsed().as_secs_f64();
        Ok(self.summary)
    }

    /// Starts a job. `false` if it was cancelled or taken since the claim.
    fn start(&mut self, job: &Job) -> Result<bool> {
        let now_ms = self.now();
        match self.queue().start(job, now_ms) {
            Ok(()) => Ok(true),
            Err(Error::LeaseLost(_)) => {
                self.queue().cancelled(job, now_ms)?;
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }

    fn craft(&mut self, craft: &dyn Craft, job: &Job) -> Result<()> {
        if !self.start(job)? {
            return Ok(());
        }
        let (keeper, report, done) = (self.keeper, &mut *self.report, self.summary.done());
        keeper.say(job.label.clone(), 0.0, done);
        let mut say = |line: String| {
            keeper.say(line.clone(), 0.0, done);
            report(Event::Said(line));
        };
        let result = craft.work(self.store, self.base, job, &keeper.halt, &mut say);
        let now_ms = self.now();
        match result {
            Ok(adapter) => match self.queue().finish(job, adapter.as_deref(), "", now_ms) {
                Ok(()) => {
                    self.summary.finished += 1;
                    let open = self.queue().open_jobs()?.len();
                    (self.report)(Event::Finished {
                        label: job.label.clone(),
                        done: self.summary.done(),
                        open,
                    });
                }
                Err(Error::LeaseLost(_)) => self.lost(job),
                Err(e) => return Err(e),
            },
            Err(failed) if failed.interrupted => self.end_early(job)?,
            Err(failed) => self.give_up(job, failed.failure, &failed.reason)?,
        }
        Ok(())
    }

    /// A job whose work stopped before its end: cancelled, lost, or to go on later.
    fn end_early(&mut self, job: &Job) -> Result<()> {
        let now_ms = self.now();
        match self.keeper.beat(job) {
            Beat::CancelRequested => {
                if self.queue().cancelled(job, now_ms)? {
                    let label = job.label.clone();
                    (self.report)(Event::Failed { label, reason: "cancelled".into() });
                }
            }
            Beat::Lost => self.lost(job),
            Beat::Held => self.queue().release(std::slice::from_ref(job), now_ms)?,
        }
        Ok(())
    }

    fn lost(&mut self, job: &Job) {
        let reason = "its lease was lost; another worker has it".into();
        (self.report)(Event::Failed { label: job.label.clone(), reason });
    }

    fn give_up(&mut self, job: &Job, failure: Failure, reason: &str) -> Result<()> {
        let now_ms = self.now();
        if self.queue().fail(job, failure, reason, now_ms)? {
            self.summary.failed += 1;
        }
        self.keeper.let_go(job);
        (self.report)(Event::Failed { label: job.label.clone(), reason: reason.into() });
        Ok(())
    }

    fn pack(&mut self, jobs: &[Job]) -> Result<()> {
        let mut ready: Vec<(Job, AdapterSpec)> = Vec::new();
        for job in jobs {
            if !self.start(job)? {
                self.keeper.let_go(job);
                continue;
            }
            // An earlier attempt may have been killed between the receipt and the row.
            if let Some(id) = self.store.adopt(&job.spec_hash)? {
                let now_ms = self.now();
                match self.queue().finish(job, Some(&id), "its adapter was there already", now_ms) {
                    Ok(()) => self.summary.committed += 1,
                    Err(Error::LeaseLost(_)) => self.lost(job),
                    Err(e) => return Err(e),
                }
                continue;
            }
            match read_spec(job, &self.digest) {
                Ok(spec) => ready.push((job.clone(), spec)),
                Err(e) => self.give_up(job, Failure::Permanent, &e.to_string())?,
            }
        }
        let Some((first, _)) = ready.first() else { return Ok(()) };
        let name = if ready.len() == 1 {
            first.label.clone()
        } else {
            format!("{} and {} more", first.label, ready.len() - 1)
        };
        self.keeper.say(format!("{name}: sampling rows"), 0.0, self.summary.done());
        let wanted: BTreeSet<_> = ready.iter().flat_map(|(_, s)| s.behaviour.sample_requests()).collect();
        let begin = Instant::now();
        let samples = sample(Some(self.store), self.base, &wanted)?;
        let outcomes = self.make(&name, &ready, &samples, begin.elapsed())?;
        let now_ms = self.now();
        for ((job, spec), outcome) in ready.iter().zip(outcomes) {
            match outcome {
                Outcome::Made(adapter, gate) => self.commit(job, spec, *adapter, gate)?,
                Outcome::Failed(failure, error) => self.give_up(job, failure, &error.to_string())?,
                Outcome::Dropped => self.end_early(job)?,
                Outcome::Stopped => self.queue().release(std::slice::from_ref(job), now_ms)?,
            }
        }
        Ok(())
    }

    fn make(
        &mut self,
        name: &str,
        ready: &[(Job, AdapterSpec)],
        samples: &BTreeMap<SampleRequest, String>,
        sampled_in: Duration,
    ) -> Result<Vec<Outcome>> {
        let specs: Vec<AdapterSpec> = ready.iter().map(|(_, s)| s.clone()).collect();
        let (store, base, keeper, stop) = (&*self.store, self.base, self.keeper, self.options.stop);
        let (report, done) = (&mut *self.report, self.summary.done());
        let reference = |spec: &AdapterSpec| {
            let hash = spec.reference.as_deref().unwrap_or_default();
            let record = store.adapter_by_spec(hash)?.ok_or_else(|| {
                Error::NoReference(format!(
                    "{} waits for the adapter that it is made from",
                    spec.behaviour.id
                ))
            })?;
            load_adapter(store, base, &record)
        };
        let recipe = |digest: &str| Ok(store.cache_get(&recipe_key(digest))?);
        self.workshop.make(&specs, samples, sampled_in, &reference, &recipe, &mut |p: &Progress| {
            if stop.load(Ordering::Relaxed) {
                return Ok(Watch::Stop);
            }
            keeper.say(format!("{name}: step {}/{}", p.step, p.steps), p.tokens_per_sec, done);
            report(Event::Step {
                step: p.step,
                steps: p.steps,
                loss: p.loss,
                tokens_per_sec: p.tokens_per_sec,
            });
            // Cancelled, or taken by another worker: drop it, the others go on.
            let gone = |i: &&usize| keeper.beat(&ready[**i].0) != Beat::Held;
            Ok(Watch::Without(p.members.iter().filter(gone).copied().collect()))
        })
    }

    fn commit(
        &mut self,
        job: &Job,
        spec: &AdapterSpec,
        adapter: registry::NewAdapter,
        gate: GateResult,
    ) -> Result<()> {
        let now_ms = self.now();
        let metric = |key: &str| adapter.metrics.get(key).copied().unwrap_or(f64::NAN);
        let (tokens, steps, loss) = (metric("tokens"), metric("steps"), metric("final_loss"));
        match self.queue().commit(job, adapter, now_ms) {
            Ok(_) => {
                self.workshop.forget(&spec.hash())?;
                let line = format!(
                    "{steps:.0} steps, {tokens:.0} tokens, loss {loss:.3}; gate on {:.2}, floor {:.2}: {:?}",
                    gate.on, gate.floor, gate.status
                );
                self.queue().note(&[(job.id, line)], now_ms)?;
                self.summary.committed += 1;
                self.summary.tokens += tokens as u64;
                let digest = self.digest.clone();
                let (open, _) = self.queue().open(&digest, &[ADAPTER_JOB])?;
                let done = self.summary.done();
                (self.report)(Event::Committed { label: job.label.clone(), gate, done, open });
                Ok(())
            }
            Err(Error::LeaseLost(_)) => {
                self.lost(job);
                Ok(())
            }
            // No room for the bytes, a file that cannot be written: the work is kept nowhere, the job is tried again.
            Err(e @ Error::Store(registry::Error::Full(_) | registry::Error::Io(_))) => {
                let _ = self.give_up(job, Failure::Retryable, &e.to_string());
                Err(e)
            }
            Err(e) => Err(e),
        }
    }
}

fn read_spec(job: &Job, base_digest: &str) -> Result<AdapterSpec> {
    let spec: AdapterSpec = serde_json::from_value(job.spec.clone())
        .map_err(|source| Error::Spec { job: job.label.clone(), source })?;
    spec.behaviour.check().map_err(|what| Error::Absurd { job: job.label.clone(), what })?;
    if spec.base != base_digest {
        return Err(Error::OtherBase {
            job: job.label.clone(),
            expected: spec.base,
            found: base_digest.to_owned(),
        });
    }
    if spec.trainer_version != TRAINER_VERSION {
        return Err(Error::OtherTrainer {
            job: job.label.clone(),
            expected: spec.trainer_version,
            found: TRAINER_VERSION,
        });
    }
    Ok(spec)
}
