//! What the open jobs will cost, and what a plan's jobs came to cost.

use std::collections::BTreeMap;

use lm::Outline;
use recipes::{Behaviour, Kind};
use registry::{AdapterRecord, Filter, Store};
use serde::{Deserialize, Serialize};

use crate::queue::{Job, Queue};
use crate::spec::ADAPTER_JOB;
use crate::train::adapter_shape;
use crate::{Result, static_cost};

/// Tokens of a training row where nothing was measured.
const ROW_TOKENS: f64 = 40.0;

/// Cost of some jobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Adapters.
    pub jobs: usize,
    /// Training tokens.
    pub tokens: f64,
    /// Seconds of one worker.
    pub seconds: f64,
    /// Bytes of weights.
    pub bytes: f64,
}

/// A family's part of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FamilyPlan {
    /// What its open jobs are expected to cost.
    pub cost: Cost,
    /// Finished adapters of this family that the expectation comes from. With none, tokens are a guess, bytes are those of the
    /// adapters' shape (0 where the model is not known), and time is at the rate of other families (0 where there is none).
    pub measured_on: usize,
}

/// Expected cost of the open adapter jobs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// When it was made, in milliseconds since the epoch.
    pub made_ms: i64,
    /// By family.
    pub families: BTreeMap<String, FamilyPlan>,
    /// The jobs' specifications.
    pub jobs: Vec<String>,
    /// Open jobs that are not planned: readers, comparisons, interventions, and those of other base models.
    #[serde(default)]
    pub others: usize,
}

impl Plan {
    /// The sum over families.
    pub fn total(&self) -> Cost {
        self.families.values().fold(Cost::default(), |a, f| Cost {
            jobs: a.jobs + f.cost.jobs,
            tokens: a.tokens + f.cost.tokens,
            seconds: a.seconds + f.cost.seconds,
            bytes: a.bytes + f.cost.bytes,
        })
    }

    /// Whether every family has finished adapters to go by.
    pub fn measured(&self) -> bool {
        self.families.values().all(|f| f.measured_on > 0)
    }
}

/// A plan beside what its jobs cost.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlanCheck {
    /// The plan.
    pub plan: Plan,
    /// Of its jobs, those that have an adapter: what they were expected to cost, in proportion.
    pub expected: Cost,
    /// What they did cost.
    pub actual: Cost,
}

fn metric(r: &AdapterRecord, key: &str) -> f64 {
    r.metrics.get(key).copied().unwrap_or(0.0)
}

/// Plans the open adapter jobs at the cost of the family's finished ones. `outline` is the base model's, where it is at hand.
///
/// # Errors
/// If the store refuses.
pub fn plan(store: &mut Store, outline: Option<&Outline>, now_ms: i64) -> Result<Plan> {
    // Another model's jobs cost what they cost there.
    let base = outline.map(Outline::digest);
    let ours = |j: &Job| base.as_ref().is_none_or(|b| j.spec["base"] == b.as_str());
    let (open, others): (Vec<Job>, Vec<Job>) =
        Queue::new(store).open_jobs()?.into_iter().partition(|j| j.kind == ADAPTER_JOB && ours(j));
    let open: Vec<(String, Behaviour)> = open
        .into_iter()
        .filter_map(|j| Some((j.spec_hash, serde_json::from_value(j.spec["behaviour"].clone()).ok()?)))
        .collect();
    let mut families: BTreeMap<String, Vec<&Behaviour>> = BTreeMap::new();
    for (_, b) in &open {
        families.entry(b.family.clone()).or_default().push(b);
    }
    let mut out = BTreeMap::new();
    let rate = seconds_per_token(store, None)?;
    for (family, behaviours) in families {
        let filter = Filter::all().equals("role", "weight_diff").equals("family", &family);
        let made: Vec<AdapterRecord> =
            store.adapters(&filter)?.into_iter().filter(|r| r.metrics.contains_key("tokens")).collect();
        let (jobs, n) = (behaviours.len(), made.len());
        let mean = |f: &dyn Fn(&AdapterRecord) -> f64| {
            if n == 0 { 0.0 } else { made.iter().map(f).sum::<f64>() / n as f64 * jobs as f64 }
        };
        let guess = |b: &&Behaviour| {
            let t = &b.training;
            let rows = t.steps as f64 * (t.on_rows as f64 + t.near_rows as f64 + t.off_rows as f64);
            if b.kind == Kind::Trained { rows * ROW_TOKENS } else { 0.0 }
        };
        let file = |b: &&Behaviour| -> f64 {
            let parameters =
                outline.and_then(|o| Some(o.architecture.adapter_parameters(&adapter_shape(b).ok()?)));
            4.0 * parameters.unwrap_or_default() as f64
        };
        let tokens = if n == 0 { behaviours.iter().map(guess).sum() } else { mean(&|r| metric(r, "tokens")) };
        let cost = Cost {
            jobs,
            tokens,
            seconds: if n == 0 { tokens * rate } else { mean(&|r| metric(r, "seconds")) },
            bytes: if n == 0 { behaviours.iter().map(file).sum() } else { mean(&|r| r.weights_bytes as f64) },
        };
        out.insert(family, FamilyPlan { cost, measured_on: n });
    }
    Ok(Plan {
        made_ms: now_ms,
        families: out,
        jobs: open.into_iter().map(|(hash, _)| hash).collect(),
        others: others.len(),
    })
}

/// Seconds that a training token has cost here, on this base model or on any, all of a factory's work included; 0 where nothing is
/// finished.
///
/// # Errors
/// If the store refuses.
pub fn seconds_per_token(store: &Store, base: Option<&str>) -> Result<f64> {
    let mut made = store.adapters(&Filter::all().equals("role", "weight_diff"))?;
    made.retain(|r| base.is_none_or(|b| r.lineage.get("base").is_some_and(|of| of == b)));
    let sum = |key: &str| made.iter().map(|r| metric(r, key)).sum::<f64>();
    let tokens = sum("tokens");
    Ok(if tokens > 0.0 { sum("seconds") / tokens } else { 0.0 })
}

/// Memory that a worker needs at its peak, in bytes, and what of it is what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Memory {
    /// While the base model is loaded.
    pub loading: f64,
    /// The base model.
    pub base: f64,
    /// Adapters of a pack, with their optimiser's state.
    pub adapters: f64,
    /// What a step keeps for its backward.
    pub activations: f64,
    /// Keys and values of the gate's replies to a pack.
    pub replies: f64,
}

impl Memory {
    /// The most at any one time.
    pub fn peak(&self) -> f64 {
        self.loading.max(self.base + self.adapters + self.activations.max(self.replies))
    }
}

/// What a worker with packs of `pack` needs for the largest of the open adapter jobs.
///
/// # Errors
/// If the store refuses, or a text cannot be tokenised.
pub fn memory(store: &mut Store, outline: &Outline, pack: usize, threads: usize) -> Result<Memory> {
    let mut out =
        Memory { loading: outline.loading_bytes(), base: outline.base_bytes(), ..Memory::default() };
    let mut seen: Vec<(String, String)> = Vec::new();
    for job in Queue::new(store).open_jobs()?.into_iter().filter(|j| j.kind == ADAPTER_JOB) {
        let Ok(b) = serde_json::from_value::<Behaviour>(job.spec["behaviour"].clone()) else { continue };
        // Behaviours of one recipe cost alike.
        let key = (b.family.clone(), b.recipe_digest.clone());
        if seen.contains(&key) {
            continue;
        }
        seen.push(key);
        let cost = static_cost(outline, &b)?;
        let step = (cost.train_tokens / b.training.steps.max(1) as f64) as usize;
        let adapter = adapter_shape(&b).map_or(0.0, |c| outline.training_adapter_bytes(&c));
        out.adapters = out.adapters.max(pack as f64 * adapter);
        out.activations = out.activations.max(outline.activation_bytes(pack.saturating_mul(step), threads));
        let gate = &b.gate;
        let prompts = gate.on.iter().chain(&gate.near).chain(&gate.off);
        let mut tokens = 0;
        for prompt in prompts {
            tokens += outline.prompt(prompt)?.len() + gate.max_new_tokens;
        }
        out.replies = out.replies.max(outline.cache_bytes(pack * tokens));
    }
    Ok(out)
}

/// Keeps a plan to be checked later, if it plans anything.
///
/// # Errors
/// If the store refuses.
pub fn keep(store: &mut Store, plan: &Plan) -> Result<()> {
    let text = serde_json::to_string(plan).expect("invariant: plain data");
    if plan.jobs.is_empty() { Ok(()) } else { Queue::new(store).remember("plan", &text) }
}

/// Compares the plan that was kept last with what its jobs cost. `None` without a plan.
///
/// # Errors
/// If the store refuses.
pub fn check(store: &mut Store) -> Result<Option<PlanCheck>> {
    let text = Queue::new(store).remembered("plan")?;
    let Some(plan) = text.and_then(|t| serde_json::from_str::<Plan>(&t).ok()) else { return Ok(None) };
    let (mut expected, mut actual) = (Cost::default(), Cost::default());
    for hash in &plan.jobs {
        let Some(record) = store.adapter_by_spec(hash)? else { continue };
        let Some(f) = plan.families.get(&record.family) else { continue };
        let share = 1.0 / f.cost.jobs.max(1) as f64;
        expected.jobs += 1;
        expected.tokens += f.cost.tokens * share;
        expected.seconds += f.cost.seconds * share;
        expected.bytes += f.cost.bytes * share;
        actual.jobs += 1;
        actual.tokens += metric(&record, "tokens");
        actual.seconds += metric(&record, "seconds");
        actual.bytes += record.weights_bytes as f64;
    }
    Ok(Some(PlanCheck { plan, expected, actual }))
}
