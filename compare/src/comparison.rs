//! What a comparison holds: plain data, from which every report is printed. Items stay in their own files.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::correct::Choice;
use crate::items::{Categories, SectionItems};
use crate::scores::Budget;

/// What a comparison cannot know from its items.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Meta {
    /// Run.
    pub run: String,
    /// RFC 3339.
    pub created_at: String,
    /// Base model and precision.
    pub model: String,
    /// Too small for its numbers to mean anything.
    pub smoke: bool,
    /// Remarks for people.
    pub notes: Vec<String>,
    /// The one contrast declared beforehand.
    pub primary: Option<Primary>,
    /// Arms in the order of reports; others follow by name.
    pub arms: Vec<String>,
    /// Categories of values.
    #[serde(default)]
    pub categories: Categories,
}

/// In place of a family: every family that both arms were asked about in this split and context, each counting alike.
pub const ALL_FAMILIES: &str = "all";

/// A contrast declared before any test adapter was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Primary {
    /// Arm.
    pub arm: String,
    /// Arm subtracted.
    pub minus: String,
    /// Family, or [`ALL_FAMILIES`] for the mean over families.
    pub family: String,
    /// Split.
    pub split: String,
    /// Context.
    pub context: String,
    /// Metric.
    pub metric: String,
}

/// An arm and all its seeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ArmRow {
    /// Arm.
    pub arm: String,
    /// Method.
    pub method: String,
    /// Whether it is trained on adapters.
    pub trained: bool,
    /// Whether it was trained on permuted labels.
    pub permuted: bool,
    /// What it is shown.
    pub input: String,
    /// Reader seeds.
    pub seeds: Vec<u64>,
    /// What validation chose, by seed where seeds differ.
    pub chosen: BTreeMap<String, String>,
}

/// One number with its interval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ResultRow {
    /// Arm.
    pub arm: String,
    /// Reader seeds.
    pub seeds: Vec<u64>,
    /// Context.
    pub context: String,
    /// Family.
    pub family: String,
    /// Split.
    pub split: String,
    /// Metric.
    pub metric: String,
    /// Mean over adapters and seeds.
    pub value: f64,
    /// 95% interval, lower end.
    pub ci_low: f64,
    /// 95% interval, upper end.
    pub ci_high: f64,
    /// Adapters.
    pub n: usize,
    /// Mean over adapters for each seed.
    pub by_seed: Vec<f64>,
}

/// One number about subjects that carry nothing that was asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NegativeRow {
    /// Arm.
    pub arm: String,
    /// Family asked about.
    pub asked: String,
    /// What the subjects carry: dud, zero, foreign, all negatives, ...
    pub carries: String,
    /// Context.
    pub context: String,
    /// `false_positive_rate` or `nothing_top1`.
    pub metric: String,
    /// Mean over subjects and seeds.
    pub value: f64,
    /// 95% interval, lower end.
    pub ci_low: f64,
    /// 95% interval, upper end.
    pub ci_high: f64,
    /// Subjects.
    pub n: usize,
    /// Mean for each seed.
    pub by_seed: Vec<f64>,
}

/// A difference between two arms on the same adapters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PairedRow {
    /// Arm.
    pub arm: String,
    /// Arm subtracted.
    pub minus: String,
    /// Family.
    pub family: String,
    /// Split.
    pub split: String,
    /// Context.
    pub context: String,
    /// Metric.
    pub metric: String,
    /// Mean difference over adapters and seeds.
    pub value: f64,
    /// 95% interval, lower end.
    pub ci_low: f64,
    /// 95% interval, upper end.
    pub ci_high: f64,
    /// Adapters.
    pub n: usize,
    /// Two-sided p of no difference.
    pub p: Option<f64>,
    /// The same after Holm over all exploratory contrasts; absent for the primary one.
    pub p_holm: Option<f64>,
    /// better, worse, equal or no verdict.
    pub verdict: String,
    /// Whether it was declared beforehand.
    pub primary: bool,
    /// Whether the arm subtracted is the best one without training (chosen on validation).
    pub minus_best: bool,
}

/// How well a score tells positives from negatives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AurocRow {
    /// Arm, or `norm only`.
    pub arm: String,
    /// Family asked about.
    pub family: String,
    /// Split of the positives.
    pub split: String,
    /// Context.
    pub context: String,
    /// What the negatives carry.
    pub against: String,
    /// AUROC, ties half.
    pub value: f64,
    /// 95% interval, lower end.
    pub ci_low: f64,
    /// 95% interval, upper end.
    pub ci_high: f64,
    /// Positives.
    pub positives: usize,
    /// Negatives.
    pub negatives: usize,
}

/// An arm against shuffles of the labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PermutationRow {
    /// Arm.
    pub arm: String,
    /// Family.
    pub family: String,
    /// Split.
    pub split: String,
    /// Context.
    pub context: String,
    /// Bits about the label, among the section's labels.
    pub bits: f64,
    /// Mean of the same over shuffles.
    pub permuted_bits: f64,
    /// p of as many bits by shuffling.
    pub p: f64,
    /// Adapters.
    pub n: usize,
    /// Labels.
    pub labels: usize,
}

/// An arm that others are measured against, and how it was chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Best {
    /// Arm.
    pub arm: String,
    /// `validation`, or `test` where nothing was asked of validation adapters (which can only favour it).
    pub chosen_on: String,
    /// Top-1 on validation adapters.
    pub validation_top1: Option<f64>,
    /// Top-1 on test adapters.
    pub test_top1: Option<f64>,
}

/// What may be said of one arm in one section.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ArmVerdict {
    /// Trained arm.
    pub arm: String,
    /// Whether it is above the best control, interval above 0.
    pub reads: bool,
    /// Against the best arm without training: better, worse, equal or no verdict.
    pub verdict: String,
}

/// What may be said of one section.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Verdict {
    /// Family.
    pub family: String,
    /// Split.
    pub split: String,
    /// Context.
    pub context: String,
    /// Best arm without training.
    pub best_untrained: Option<Best>,
    /// Best of direct, blackbox, logit-lens, weight-lens and the permuted-label reader: what "reads" is judged against.
    pub control: Option<Best>,
    /// Trained arms.
    pub arms: Vec<ArmVerdict>,
    /// The same in words.
    pub sentence: String,
}

/// What an arm says when no adapter is on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BaseRow {
    /// Arm.
    pub arm: String,
    /// Seed.
    pub seed: u64,
    /// Family asked about.
    pub family: String,
    /// Context.
    pub context: String,
    /// Most frequent answer.
    pub says: String,
    /// Its share.
    pub share: f64,
    /// Answers.
    pub n: usize,
}

/// Rank correlation of top-1 with a property of the adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CorrelationRow {
    /// Arm.
    pub arm: String,
    /// Family.
    pub family: String,
    /// Split.
    pub split: String,
    /// Context.
    pub context: String,
    /// Property.
    pub covariate: String,
    /// Spearman's correlation over adapters.
    pub rho: f64,
    /// 95% interval, lower end.
    pub ci_low: f64,
    /// 95% interval, upper end.
    pub ci_high: f64,
    /// Adapters.
    pub n: usize,
}

/// A property of the adapters of one section, summed up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CovariateRow {
    /// Property.
    pub name: String,
    /// Family.
    pub family: String,
    /// Split.
    pub split: String,
    /// Adapters.
    pub n: usize,
    /// Mean.
    pub mean: f64,
    /// Least.
    pub min: f64,
    /// Most.
    pub max: f64,
}

/// Acquisition of one family in one split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GateRow {
    /// Family.
    pub family: String,
    /// Split.
    pub split: String,
    /// Adapters.
    pub n: usize,
    /// Mean share of replies with the behaviour, with the adapter.
    pub on: f64,
    /// Without it.
    pub floor: f64,
    /// With another trigger word.
    pub near: Option<f64>,
    /// Without trigger, or on unrelated prompts.
    pub off: Option<f64>,
    /// Adapters by status.
    pub statuses: BTreeMap<String, usize>,
    /// Mean leak of the label in nats, by set of prompts: neutral, question, ...
    #[serde(default)]
    pub leak_nats: BTreeMap<String, f64>,
}

/// Cost of one arm with one seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BudgetRow {
    /// Arm.
    pub arm: String,
    /// Seed.
    pub seed: u64,
    /// What arms of the same footing have in common: `equal FLOPs`, `equal rows`.
    pub footing: Option<String>,
    /// Cost.
    #[serde(flatten)]
    pub budget: Budget,
}

/// Training of one arm with one seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrajectoryRow {
    /// Arm.
    pub arm: String,
    /// Seed.
    pub seed: u64,
    /// Evaluations on validation adapters.
    pub points: Vec<lm::FitPoint>,
}

/// Everything a report shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Comparison {
    /// `comparison/2`.
    #[schemars(extend("const" = Self::SCHEMA))]
    pub schema: String,
    /// Run.
    pub run: String,
    /// RFC 3339.
    pub created_at: String,
    /// Base model and precision.
    pub model: String,
    /// Too small for its numbers to mean anything.
    pub smoke: bool,
    /// What decides how far the numbers go; printed first.
    pub warnings: Vec<String>,
    /// Remarks; printed last.
    pub notes: Vec<String>,
    /// What was declared beforehand.
    pub primary: Option<Primary>,
    /// Arms, in the order of reports.
    pub arms: Vec<ArmRow>,
    /// Numbers of positive adapters.
    pub results: Vec<ResultRow>,
    /// Numbers of negatives.
    pub negatives: Vec<NegativeRow>,
    /// Differences.
    pub paired: Vec<PairedRow>,
    /// Detection.
    pub auroc: Vec<AurocRow>,
    /// Shuffled labels.
    pub permutations: Vec<PermutationRow>,
    /// What may be said.
    pub verdicts: Vec<Verdict>,
    /// Without any adapter.
    pub base: Vec<BaseRow>,
    /// What goes with a hit.
    pub correlations: Vec<CorrelationRow>,
    /// Priors subtracted.
    pub priors: Vec<Choice>,
    /// Costs.
    pub budgets: Vec<BudgetRow>,
    /// Trainings.
    pub trajectories: Vec<TrajectoryRow>,
    /// Acquisition.
    pub gates: Vec<GateRow>,
    /// Properties of adapters.
    pub covariates: Vec<CovariateRow>,
    /// What each arm answered about each adapter; none in files of earlier builds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<SectionItems>,
}

/// Why a file is no comparison.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Not JSON, or not of the shape that its schema says.
    #[error("not a comparison: {0}")]
    Json(#[from] serde_json::Error),
    /// Neither of the schemas known.
    #[error("a comparison of schema {0:?}, where this build reads comparison/1 and comparison/2")]
    Schema(String),
}

impl Comparison {
    /// Schema of this version.
    pub const SCHEMA: &'static str = "comparison/2";

    /// What was answered about each adapter of a section.
    pub fn items_of(&self, v: &Verdict) -> Option<&SectionItems> {
        self.items.iter().find(|s| s.family == v.family && s.split == v.split && s.context == v.context)
    }

    /// A result by its place.
    pub fn result(
        &self,
        arm: &str,
        family: &str,
        split: &str,
        context: &str,
        metric: &str,
    ) -> Option<&ResultRow> {
        self.results.iter().find(|r| {
            r.arm == arm
                && r.metric == metric
                && r.family == family
                && r.split == split
                && r.context == context
        })
    }
}

/// Reads a comparison of this or of the first schema.
pub fn read(json: &str) -> Result<Comparison, ReadError> {
    #[derive(Deserialize)]
    struct Schema {
        #[serde(default)]
        schema: String,
    }
    match serde_json::from_str::<Schema>(json)?.schema.as_str() {
        Comparison::SCHEMA => Ok(serde_json::from_str(json)?),
        "comparison/1" => Ok(crate::old::convert(json)?),
        other => Err(ReadError::Schema(other.to_owned())),
    }
}
