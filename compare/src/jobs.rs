//! A comparison as jobs: collect, pretrain and train (each reader once, whatever arms share it), score (each arm and seed),
//! report. A job's identity is what decides its result, so another arm adds its own jobs and none else is done again.

use std::collections::{BTreeMap, BTreeSet};

use factory::SubmitOptions;
use factory::queue::{Needs, NewJob};
use lm::Outline;
use oracle_posttrain::Collector;
use readers::{Arm, Stage};
use serde::{Deserialize, Serialize};

use crate::arms::Arms;
use crate::comparison::Primary;
use crate::method;

/// One kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// Activations of all subjects.
    Collect,
    /// A reader's stage.
    Fit,
    /// An arm's answers under one seed.
    Score,
    /// The report.
    Report,
}

impl Work {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Collect, Self::Fit, Self::Score, Self::Report];

    /// The kind of job.
    pub fn name(self) -> &'static str {
        match self {
            Self::Collect => "collect",
            Self::Fit => "fit",
            Self::Score => "score",
            Self::Report => "report",
        }
    }
}

/// A job's specification. Its hash is the job's identity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobSpec {
    /// `comparison-job/5`.
    pub schema: String,
    /// What is done.
    pub work: Work,
    /// Digest of the base model.
    pub base: String,
    /// Version of the trainer.
    pub trainer_version: u32,
    /// The adapters that readers are trained and tested on, by specification.
    pub adapters: Vec<String>,
    /// Master seed.
    pub seed: u64,
    /// A few steps for every reader.
    pub smoke: bool,
    /// What is collected.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub collect: Vec<Reads>,
    /// Whose reader is fitted or whose answers are scored, without its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arm: Option<Arm>,
    /// Seed of the reader.
    #[serde(default)]
    pub reader_seed: u64,
    /// Which stage of a fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// The job whose reader this goes on from, or asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reader: Option<String>,
    /// What is reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Reported>,
}

/// A collector and the contexts of its arms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reads {
    /// Where vectors are read.
    pub collector: Collector,
    /// Contexts beyond the neutral one in which subjects are asked.
    pub contexts: Vec<recipes::Context>,
    /// Contexts beyond the neutral one in which readers are trained.
    pub taught: Vec<recipes::Context>,
}

/// What a report puts together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reported {
    /// Name of the run.
    pub run: String,
    /// The declared contrast.
    pub primary: Option<Primary>,
    /// Name of an arm, and the jobs of its scores.
    pub arms: Vec<(String, Vec<String>)>,
}

/// Raise it when a job of the same specification would come out otherwise: a method answers in another way, a standard text or a
/// closed set changes.
pub(crate) const SCHEMA: &str = "comparison-job/5";

/// What a comparison is about.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// Name of the run.
    pub run: &'a str,
    /// A smoke run.
    pub smoke: bool,
    /// Master seed.
    pub seed: u64,
    /// Whether the adapters are all in the catalogue; else their jobs are waited for.
    pub made: bool,
}

/// The jobs of a comparison of the adapters with these specifications, what others need first and the report last.
pub fn jobs(
    outline: &Outline,
    mut adapters: Vec<String>,
    arms: &Arms,
    plan: Plan<'_>,
    options: &SubmitOptions,
) -> Vec<NewJob> {
    adapters.sort();
    adapters.dedup();
    let spec = |work: Work| JobSpec {
        schema: SCHEMA.into(),
        work,
        base: outline.digest(),
        trainer_version: factory::spec::TRAINER_VERSION,
        adapters: adapters.clone(),
        seed: plan.seed,
        smoke: plan.smoke,
        collect: vec![],
        arm: None,
        reader_seed: 0,
        stage: None,
        reader: None,
        report: None,
    };
    let mut list = List { jobs: vec![], options, base: outline.digest(), run: plan.run, wait: !plan.made };
    let collect = reads(outline, arms);
    let collected = (!collect.is_empty()).then(|| {
        list.add(&JobSpec { collect, ..spec(Work::Collect) }, format!("collect/{}", plan.run), &adapters, &[])
    });
    let mut reported = Vec::new();
    for arm in &arms.arms {
        let Some(method) = method::find(&arm.method) else { continue };
        let seeds = if arm.seeds.is_empty() { vec![0] } else { arm.seeds.clone() };
        let mut scores = Vec::new();
        for seed in seeds {
            let mut reader: Option<String> = None;
            for stage in method.stages(arm) {
                let made_by = match stage {
                    Stage::Pretrain => pretrained_by(arm),
                    Stage::Train => arm.made_by(),
                };
                let of = JobSpec {
                    arm: Some(made_by),
                    reader_seed: seed,
                    stage: Some(stage.name().into()),
                    reader: reader.clone(),
                    ..spec(Work::Fit)
                };
                let label = format!("fit/{}/{}/{seed}", arm.name, stage.name());
                let after: Vec<String> = reader.iter().chain(&collected).cloned().collect();
                reader = Some(list.add(&of, label, &adapters, &after));
            }
            let of = JobSpec {
                arm: Some(arm.asked_by()),
                reader_seed: seed,
                reader: reader.clone(),
                ..spec(Work::Score)
            };
            let after: Vec<String> = reader.iter().chain(&collected).cloned().collect();
            scores.push(list.add(&of, format!("score/{}/{seed}", arm.name), &adapters, &after));
        }
        reported.push((arm.name.clone(), scores));
    }
    let after: Vec<String> = reported.iter().flat_map(|(_, s)| s.clone()).collect();
    let report = Reported { run: plan.run.to_owned(), primary: arms.primary.clone(), arms: reported };
    let of = JobSpec { report: Some(report), ..spec(Work::Report) };
    list.add(&of, format!("report/{}", plan.run), &adapters, &after);
    list.jobs
}

/// What of an arm decides how its reader is pretrained: arms with the same share one. Pretraining does not know what comes after it.
pub fn pretrained_by(arm: &Arm) -> Arm {
    Arm {
        train: readers::Train {
            labels: readers::Labels::True,
            without: BTreeSet::new(),
            at_most: BTreeMap::new(),
            ..arm.train.clone()
        },
        reader: Some("pretrained".into()),
        ..arm.made_by()
    }
}

/// Everything that the arms read, each set of contexts once with all its layers.
fn reads(outline: &Outline, arms: &Arms) -> Vec<Reads> {
    let mut known: BTreeMap<String, Reads> = BTreeMap::new();
    for arm in &arms.arms {
        let Some(method) = method::find(&arm.method) else { continue };
        let depths = method.depths(arm);
        if depths.is_empty() {
            continue;
        }
        let mut collector = Collector::of(&arm.input, outline, &depths);
        let layers = std::mem::take(&mut collector.layers);
        // What is done with the vectors later does not matter here.
        let plain =
            Collector { coefficient: 0.0, noise: 0.0, drawn: 0, scaling: readers::Scaling::Raw, ..collector };
        let key = serde_json::to_string(&plain).expect("invariant: plain data");
        let entry = known.entry(key).or_insert(Reads { collector: plain, contexts: vec![], taught: vec![] });
        entry.collector.layers.extend(layers);
        entry.contexts.extend(&arm.contexts);
        if !method.stages(arm).is_empty() {
            entry.taught.extend(&arm.train.contexts);
        }
    }
    let mut out: Vec<Reads> = known.into_values().collect();
    for reads in &mut out {
        reads.collector.layers.sort_unstable();
        reads.collector.layers.dedup();
        for contexts in [&mut reads.contexts, &mut reads.taught] {
            contexts.retain(|c| *c != recipes::Context::Neutral);
            contexts.sort_unstable();
            contexts.dedup();
        }
    }
    out
}

struct List<'a> {
    jobs: Vec<NewJob>,
    options: &'a SubmitOptions,
    base: String,
    run: &'a str,
    wait: bool,
}

impl List<'_> {
    /// Adds a job, once; returns its specification's hash.
    fn add(&mut self, spec: &JobSpec, label: String, adapters: &[String], after: &[String]) -> String {
        let value = serde_json::to_value(spec).expect("invariant: plain data");
        let spec_hash = registry::spec_hash(&value);
        if self.jobs.iter().any(|j| j.spec_hash == spec_hash) {
            return spec_hash;
        }
        // An adapter that could not be made is left out; a reader that could not be trained is not.
        let mut needs: Vec<Needs> = self.options.needs.clone();
        needs.extend(
            adapters.iter().filter(|_| self.wait).map(|a| Needs { spec_hash: a.clone(), only_ok: false }),
        );
        needs.extend(after.iter().map(|r| Needs { spec_hash: r.clone(), only_ok: true }));
        let kind = spec.work.name();
        self.jobs.push(NewJob {
            spec: value,
            kind: kind.into(),
            label,
            family: kind.into(),
            tags: ["comparison".to_owned(), format!("run:{}", self.run)]
                .into_iter()
                .chain(self.options.tags.iter().cloned())
                .collect(),
            base: self.base.clone(),
            pack_key: spec_hash.clone(),
            priority: self.options.priority,
            max_attempts: self.options.max_attempts,
            needs,
            spec_hash: spec_hash.clone(),
        });
        spec_hash
    }
}
