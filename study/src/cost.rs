//! What a study will cost: adapters at measured rates where some of their family are made, everything else by its FLOPs at the machine's
//! rate.

use std::collections::{BTreeMap, BTreeSet};

use compare::jobs::pretrained_by;
use compare::method;
use factory::static_cost;
use lm::Outline;
use readers::{Arm, Stage};
use recipes::{EpisodeOptions, FOREIGN, Kind, Polarity, Split};
use registry::{Filter, Store};
use serde::Serialize;

use crate::Result;
use crate::resolve::Resolved;

/// Adapters of one family.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FamilyCost {
    /// Family.
    pub family: String,
    /// Adapters.
    pub adapters: usize,
    /// Seconds of one.
    pub seconds_each: f64,
    /// Adapters of the family that this was measured on; with none it is the most that one can cost.
    pub measured_on: usize,
}

/// An arm with all its seeds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ArmCost {
    /// Arm.
    pub arm: String,
    /// Reader seeds, at least 1.
    pub seeds: usize,
    /// TFLOP of training one reader, pretraining included.
    pub train_tflop: f64,
    /// TFLOP of asking it everything.
    pub score_tflop: f64,
}

/// What a study will cost.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// `study-plan/1`.
    pub schema: String,
    /// Jobs of the queue.
    pub jobs: usize,
    /// Adapters by family.
    pub families: Vec<FamilyCost>,
    /// Arms.
    pub arms: Vec<ArmCost>,
    /// Questions that every arm is asked.
    pub questions: usize,
    /// FLOPs a second: what readers were trained at in the store, else the rate of the machine's products.
    pub flops_a_second: f64,
    /// Hours of the adapters.
    pub adapter_hours: f64,
    /// Hours of readers and their answers.
    pub reader_hours: f64,
}

impl Plan {
    /// Hours in all.
    pub fn hours(&self) -> f64 {
        self.adapter_hours + self.reader_hours
    }
}

/// Training adapters of a family whose answers are a prior.
const PRIORS: usize = 12;
/// Tokens around a question for an oracle, beside its vectors.
const AROUND: usize = 24;
/// Contexts in which activations are collected, and tokens of one.
const CONTEXTS: usize = 16;
const CONTEXT_TOKENS: usize = 20;

/// Plans a study at `flops_a_second`; `jobs` are those of its queue.
///
/// # Errors
/// If the store refuses, or a text cannot be tokenised.
pub fn plan(
    resolved: &Resolved,
    outline: &Outline,
    store: Option<&Store>,
    flops_a_second: f64,
    jobs: usize,
) -> Result<Plan> {
    let mut families = Vec::new();
    for recipe in &resolved.recipes {
        let own: Vec<_> = resolved.behaviours.iter().filter(|b| b.family == recipe.name).collect();
        let measured = store.map_or(Ok(vec![]), |s| measured(s, &recipe.name, &outline.digest()))?;
        let seconds_each = match (measured.len(), own.first()) {
            (0, Some(b)) if b.kind == Kind::Trained => static_cost(outline, b)?.flops / flops_a_second,
            (0, _) => 0.0,
            (n, _) => measured.iter().sum::<f64>() / n as f64,
        };
        families.push(FamilyCost {
            family: recipe.name.clone(),
            adapters: own.len(),
            seconds_each,
            measured_on: measured.len(),
        });
    }
    let asked = Asked::of(resolved, outline)?;
    let layers = outline.architecture.layers.len();
    let forward = outline.architecture.layer_flops(layers);
    let mut arms = Vec::new();
    let mut reader_flops = 0.0;
    let mut known = BTreeSet::new();
    for arm in resolved.study.arms().arms {
        let Some(method) = method::find(&arm.method) else { continue };
        let depths = method.depths(&arm).len().max(arm.input.layers.len());
        let around = if depths == 0 { 0 } else { AROUND + depths * arm.input.positions.count() };
        let cost = reader_cost(&arm, &method.stages(&arm), asked.question + around as f64, forward, &asked);
        let score = asked.flops(&arm, forward, around as f64);
        let seeds = arm.seeds.len().max(1) as f64;
        // A pretrained reader and activations are made once for all arms that go on from them.
        let once = [
            (cost.pretraining * seeds, format!("{:?}", pretrained_by(&arm))),
            (cost.collecting, "activations".to_owned()),
        ];
        reader_flops += seeds * (cost.training + score);
        reader_flops += once
            .into_iter()
            .filter(|(f, what)| *f > 0.0 && known.insert(what.clone()))
            .map(|(f, _)| f)
            .sum::<f64>();
        arms.push(ArmCost {
            arm: arm.name.clone(),
            seeds: arm.seeds.len().max(1),
            train_tflop: cost.all() / 1e12,
            score_tflop: score / 1e12,
        });
    }
    let adapter_seconds: f64 = families.iter().map(|f| f.adapters as f64 * f.seconds_each).sum();
    Ok(Plan {
        schema: "study-plan/1".into(),
        jobs,
        families,
        arms,
        questions: asked.cases,
        flops_a_second,
        adapter_hours: adapter_seconds / 3600.0,
        reader_hours: reader_flops / flops_a_second / 3600.0,
    })
}

/// Seconds of the finished adapters of a family.
fn measured(store: &Store, family: &str, base: &str) -> Result<Vec<f64>> {
    let made = store.adapters(&Filter::all().equals("role", "weight_diff").equals("family", family))?;
    let here = made.into_iter().filter(|r| r.lineage.get("base").is_some_and(|b| *b == base));
    Ok(here.filter_map(|r| r.metrics.get("seconds").copied()).collect())
}

/// FLOPs of one reader of an arm.
#[derive(Debug, Clone, Copy, Default)]
struct ReaderCost {
    pretraining: f64,
    collecting: f64,
    training: f64,
}

impl ReaderCost {
    fn all(self) -> f64 {
        self.pretraining + self.collecting + self.training
    }
}

/// Four FLOPs a weight and token; with a budget, training takes what pretraining and collecting left of it.
fn reader_cost(arm: &Arm, stages: &[Stage], tokens: f64, forward: f64, asked: &Asked) -> ReaderCost {
    if stages.is_empty() {
        return ReaderCost::default();
    }
    let step = 2.0 * forward * tokens * arm.train.batch as f64;
    let of = |stage: Stage, steps: usize| if stages.contains(&stage) { steps as f64 * step } else { 0.0 };
    let pretraining = of(Stage::Pretrain, arm.pretrain.steps);
    let collecting = if arm.method == "dit" { 0.0 } else { asked.collecting * forward };
    let training = match arm.train.tflop.filter(|_| stages.contains(&Stage::Train)) {
        Some(tflop) => (tflop * 1e12 - pretraining - collecting).max(0.0),
        None => of(Stage::Train, arm.train.steps),
    };
    ReaderCost { pretraining, collecting, training }
}

/// What all arms are asked.
struct Asked {
    cases: usize,
    /// Mean tokens of a question as a prompt.
    question: f64,
    /// Tokens of all candidates of a question, on average.
    candidates: f64,
    /// Tokens that activations are collected on.
    collecting: f64,
    /// Families with values.
    families: usize,
}

impl Asked {
    fn of(resolved: &Resolved, outline: &Outline) -> Result<Self> {
        let mut sets: BTreeMap<&str, f64> = BTreeMap::new();
        let (mut tokens, mut n) = (0.0, 0.0);
        for recipe in resolved.recipes.iter().filter(|r| r.polarity == Polarity::Positive) {
            let mut set = 0;
            for value in recipe.values_of_family() {
                set += outline.tokenizer.encode(&value).map_err(factory::Error::from)?.len() + 1;
            }
            sets.insert(&recipe.name, set as f64);
            for question in recipe.all_asked() {
                tokens += outline.prompt(&question).map_err(factory::Error::from)?.len() as f64;
                n += 1.0;
            }
        }
        let of = |split: Split| resolved.behaviours.iter().filter(|b| b.split == split).count();
        let (test, validation) = (of(Split::TestValue), of(Split::Validation));
        let priors = sets.len() * PRIORS.min(of(Split::Train));
        let phrasings = EpisodeOptions::default();
        let cases = test * (phrasings.held_out_phrasings + FOREIGN.min(sets.len().saturating_sub(1)))
            + validation * phrasings.validation_phrasings
            + priors;
        Ok(Self {
            cases,
            question: if n > 0.0 { tokens / n } else { 0.0 },
            candidates: sets.values().sum::<f64>() / sets.len().max(1) as f64,
            families: sets.len(),
            collecting: (resolved.behaviours.len() * CONTEXTS * CONTEXT_TOKENS * 2) as f64,
        })
    }

    /// The prompt once, each candidate behind it, in every context; of an arm that is asked about some families, their share.
    fn flops(&self, arm: &Arm, forward: f64, around: f64) -> f64 {
        let share = match arm.asks.len() {
            0 => 1.0,
            n => (n as f64 / self.families.max(1) as f64).min(1.0),
        };
        let cases = self.cases as f64 * share * arm.contexts.len().max(1) as f64;
        cases * (self.question + around + self.candidates) * forward
    }
}
