//! Making the adapters of one pack: rows, training as one batch, gate. Knows no queue and no store, so that a worker on a
//! laptop and one on a cluster do the same.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lm::{Adapter, BaseModel};
use recipes::{Kind, SampleRequest};
use registry::{NewAdapter, Role};
use serde_json::json;

use crate::checkpoint;
use crate::gate::{Floors, GATE_FILE, GateResult, gate};
use crate::load::peft_config;
use crate::queue::Failure;
use crate::redraw::redrawn;
use crate::spec::{AdapterSpec, RECIPE_FILE, TRAINER_VERSION};
use crate::train::{Apprentice, step};
use crate::{Error, Result};

/// The file of an adapter that holds the losses of its training (`training/1`; a reader's `training.json` has another form).
pub const CURVE_FILE: &str = "curve.json";

/// The tag of adapters that are members of a sweep: what was set for them.
pub const SWEEP: &str = "sweep";

/// What became of one member of a pack.
#[derive(Debug)]
pub enum Outcome {
    /// It is ready to be committed.
    Made(Box<NewAdapter>, GateResult),
    /// It went wrong; the others did not.
    Failed(Failure, Error),
    /// It was dropped by the watcher.
    Dropped,
    /// The pack was stopped; its state is on disk if there was any.
    Stopped,
}

/// Where a pack stands after a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// Members that are still in training or done with it, as indices of the specifications given.
    pub members: Vec<usize>,
    /// Steps of the member that has taken most.
    pub step: usize,
    /// Most steps of any member.
    pub steps: usize,
    /// Mean of their last losses.
    pub loss: f64,
    /// Training tokens a second since training began; sampling rows is not counted.
    pub tokens_per_sec: f64,
}

/// What to do after a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Watch {
    /// Go on, without these members.
    Without(Vec<usize>),
    /// Stop; unfinished members leave a checkpoint.
    Stop,
}

/// What packs are made with.
#[derive(Debug)]
pub struct Workshop<'a> {
    base: &'a BaseModel,
    /// Folder of checkpoints.
    checkpoints: PathBuf,
    floors: Floors,
}

/// A process that dies loses at most so much training (and one step).
const CHECKPOINT_EVERY: Duration = Duration::from_mins(1);

struct Member {
    index: usize,
    spec_hash: String,
    apprentice: Apprentice,
}

impl<'a> Workshop<'a> {
    /// A workshop that keeps the state of unfinished adapters in `checkpoints`.
    pub fn new(base: &'a BaseModel, checkpoints: &Path) -> Self {
        Self { base, checkpoints: checkpoints.into(), floors: Floors::default() }
    }

    /// Makes the adapters of `specs` as one batch; the outcomes are in their order. An adapter comes out the same, bit for bit,
    /// whatever the others are and however often it was stopped. `reference` gives the adapter that a random or
    /// redrawn one is made from; `recipe` a recipe's file by its digest; `watch` is asked after every step. `sampled_in` is what
    /// `samples` took: it is a part of what the adapters cost.
    ///
    /// # Errors
    /// Only for what is no single member's fault.
    pub fn make(
        &mut self,
        specs: &[AdapterSpec],
        samples: &BTreeMap<SampleRequest, String>,
        sampled_in: Duration,
        reference: &dyn Fn(&AdapterSpec) -> Result<Adapter>,
        recipe: &dyn Fn(&str) -> Result<Option<Vec<u8>>>,
        watch: &mut dyn FnMut(&Progress) -> Result<Watch>,
    ) -> Result<Vec<Outcome>> {
        let begin = Instant::now();
        let mut kept = begin;
        let mut outcomes: Vec<Option<Outcome>> = specs.iter().map(|_| None).collect();
        let mut members = Vec::new();
        for (index, spec) in specs.iter().enumerate() {
            match self.member(index, spec, samples, reference) {
                Ok(member) => members.push(member),
                Err(e) => {
                    let again = matches!(e, Error::Store(_) | Error::NoReference(_));
                    let class = if again { Failure::Retryable } else { Failure::Permanent };
                    outcomes[index] = Some(Outcome::Failed(class, e));
                }
            }
        }
        let resumed: u64 = members.iter().map(|m| m.apprentice.tokens).sum();
        while members.iter().any(|m| !m.apprentice.done()) {
            let mut pack: Vec<&mut Apprentice> = members.iter_mut().map(|m| &mut m.apprentice).collect();
            for (at, error) in step(self.base, &mut pack)?.into_iter().rev() {
                let member = members.remove(at);
                checkpoint::forget(&self.checkpoints, &member.spec_hash)?;
                outcomes[member.index] = Some(Outcome::Failed(Failure::Permanent, error));
            }
            let tokens: u64 = members.iter().map(|m| m.apprentice.tokens).sum::<u64>()
                - resumed.min(members.iter().map(|m| m.apprentice.tokens).sum());
            let progress = Progress {
                members: members.iter().map(|m| m.index).collect(),
                step: members.iter().map(|m| m.apprentice.trainer.step()).max().unwrap_or_default(),
                steps: members
                    .iter()
                    .map(|m| m.apprentice.behaviour.training.steps)
                    .max()
                    .unwrap_or_default(),
                loss: members.iter().map(|m| m.apprentice.last_loss()).sum::<f64>()
                    / members.len().max(1) as f64,
                tokens_per_sec: tokens as f64 / begin.elapsed().as_secs_f64(),
            };
            if kept.elapsed() >= CHECKPOINT_EVERY {
                kept = Instant::now();
                for m in members.iter().filter(|m| !m.apprentice.done()) {
                    checkpoint::write(&self.checkpoints, &m.spec_hash, &m.apprentice)?;
                }
            }
            match watch(&progress)? {
                Watch::Without(dropped) => {
                    for index in dropped {
                        members.retain(|m| m.index != index);
                        outcomes[index] = Some(Outcome::Dropped);
                    }
                }
                Watch::Stop => {
                    for m in members {
                        checkpoint::write(&self.checkpoints, &m.spec_hash, &m.apprentice)?;
                        outcomes[m.index] = Some(Outcome::Stopped);
                    }
                    return Ok(outcomes.into_iter().map(|o| o.unwrap_or(Outcome::Stopped)).collect());
                }
            }
        }
        let subjects: Vec<_> =
            members.iter().map(|m| (&m.apprentice.behaviour, &m.apprentice.trainer.adapter)).collect();
        let trained = begin.elapsed();
        let gates = gate(self.base, &subjects, &mut self.floors)?;
        let share = |d: Duration| d.as_secs_f64() / members.len().max(1) as f64;
        let cost = Cost {
            rows: share(sampled_in),
            training: share(trained),
            gate: share(begin.elapsed().saturating_sub(trained)),
        };
        for (member, gate) in members.iter().zip(gates) {
            let mut adapter = new_adapter(self.base, &member.apprentice, &specs[member.index], &gate, cost)?;
            if let Some(file) = recipe(&member.apprentice.behaviour.recipe_digest)? {
                adapter.extra_files.insert(RECIPE_FILE.into(), file);
            }
            outcomes[member.index] = Some(Outcome::Made(Box::new(adapter), gate));
        }
        Ok(outcomes.into_iter().map(|o| o.expect("invariant: every member has ended")).collect())
    }

    /// Removes what an adapter that is safe elsewhere left behind.
    ///
    /// # Errors
    /// If the file cannot be removed.
    pub fn forget(&self, spec_hash: &str) -> Result<()> {
        checkpoint::forget(&self.checkpoints, spec_hash)
    }

    fn member(
        &self,
        index: usize,
        spec: &AdapterSpec,
        samples: &BTreeMap<SampleRequest, String>,
        reference: &dyn Fn(&AdapterSpec) -> Result<Adapter>,
    ) -> Result<Member> {
        let mut apprentice = Apprentice::new(self.base, spec.behaviour.clone(), samples)?;
        if spec.behaviour.kind == Kind::Random {
            // A Gaussian adapter with the module norms of the reference.
            apprentice.trainer.adapter =
                reference(spec)?.norm_matched_random(spec.behaviour.seed, &spec.behaviour.id);
        }
        if let Some(factor) = spec.behaviour.redrawn_factor() {
            apprentice.trainer.adapter = redrawn(&reference(spec)?, &spec.behaviour, factor);
        }
        let spec_hash = spec.hash();
        checkpoint::read(&self.checkpoints, &spec_hash, &mut apprentice)?;
        Ok(Member { index, spec_hash, apprentice })
    }
}

/// Seconds of an adapter, its share of the pack's, by phase.
#[derive(Debug, Clone, Copy)]
struct Cost {
    rows: f64,
    training: f64,
    gate: f64,
}

fn new_adapter(
    base: &BaseModel,
    apprentice: &Apprentice,
    spec: &AdapterSpec,
    gate: &GateResult,
    cost: Cost,
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
    if !b.variant.is_empty() {
        // What sets it apart from the others of its value, as a whole and one by one.
        tags.insert(SWEEP.into(), b.id.split_once('@').map_or_else(String::new, |(_, mark)| mark.to_owned()));
        tags.extend(b.variant.clone());
    }
    if let Some(factor) = b.redrawn_factor() {
        tags.insert("redrawn_factor".into(), format!("{factor:?}"));
    }
    let mut metrics = gate.metrics();
    metrics.extend([
        ("norm".to_owned(), adapter.norm()),
        ("steps".to_owned(), apprentice.trainer.step() as f64),
        ("tokens".to_owned(), apprentice.tokens as f64),
        ("seconds".to_owned(), cost.rows + cost.training + cost.gate),
        ("rows_seconds".to_owned(), cost.rows),
        ("gate_seconds".to_owned(), cost.gate),
    ]);
    if apprentice.last_loss().is_finite() {
        metrics.insert("final_loss".into(), apprentice.last_loss());
    }
    let spec_hash = spec.hash();
    let text = |value: &serde_json::Value| serde_json::to_vec(value).expect("invariant: plain data");
    // What was seen while it was made. Neither clock nor neighbours are in it: the same work gives the same files.
    let mut extra_files = BTreeMap::new();
    if !gate.items.is_empty() {
        extra_files.insert(GATE_FILE.to_owned(), text(&gate.document(b)));
    }
    if !apprentice.losses().is_empty() {
        let points =
            apprentice.losses().iter().zip(1..).map(|(loss, step)| json!({"step": step, "loss": loss}));
        let curve = json!({"schema": "training/1", "steps": b.training.steps, "learning_rate": b.training.learning_rate,
            "points": points.collect::<Vec<_>>()});
        extra_files.insert(CURVE_FILE.to_owned(), text(&curve));
    }
    Ok(NewAdapter {
        spec: serde_json::to_value(spec).map_err(|source| Error::Spec { job: b.id.clone(), source })?,
        spec_hash,
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
        extra_files,
    })
}
