//! What the open jobs will cost, and what a plan's jobs came to cost.

use std::collections::BTreeMap;

use recipes::{Behaviour, Kind};
use registry::{AdapterRecord, Filter, Store};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::queue::Queue;
use crate::spec::ADAPTER_JOB;

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
    /// Finished adapters that the expectation comes from; with none it is a guess, and time and bytes are unknown (0).
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

/// Plans the open adapter jobs at the cost of the family's finished ones.
///
/// # Errors
/// If the store refuses.
pub fn plan(store: &mut Store, now_ms: i64) -> Result<Plan> {
    let open: Vec<(String, Behaviour)> = Queue::new(store)
        .open_jobs()?
        .into_iter()
        .filter(|j| j.kind == ADAPTER_JOB)
        .filter_map(|j| Some((j.spec_hash, serde_json::from_value(j.spec["behaviour"].clone()).ok()?)))
        .collect();
    let mut families: BTreeMap<String, Vec<&Behaviour>> = BTreeMap::new();
    for (_, b) in &open {
        families.entry(b.family.clone()).or_default().push(b);
    }
    let mut out = BTreeMap::new();
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
            let rows = t.steps * (t.on_rows + t.near_rows + t.off_rows);
            if b.kind == Kind::Trained { rows as f64 * ROW_TOKENS } else { 0.0 }
        };
        let cost = Cost {
            jobs,
            tokens: if n == 0 { behaviours.iter().map(guess).sum() } else { mean(&|r| metric(r, "tokens")) },
            seconds: mean(&|r| metric(r, "seconds")),
            bytes: mean(&|r| r.weights_bytes as f64),
        };
        out.insert(family, FamilyPlan { cost, measured_on: n });
    }
    Ok(Plan { made_ms: now_ms, families: out, jobs: open.into_iter().map(|(hash, _)| hash).collect() })
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
