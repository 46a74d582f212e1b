//! What is measured, item by item, and what a comparison holds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arm {
    /// The fine-tuned model itself, asked directly, without any reader.
    Direct,
    /// The base model, which knows nothing of the diff.
    Prior,
    /// The DIT adapter.
    Dit,
    /// The oracle after pretraining only.
    OraclePretrained,
    /// The pretrained oracle after post-training.
    OraclePosttrained,
    /// The oracle post-trained from a fresh adapter.
    OracleScratch,
}

impl Arm {
    /// All arms, in the order of reports.
    pub const ALL: [Self; 6] = [
        Self::Prior,
        Self::Direct,
        Self::OraclePretrained,
        Self::OracleScratch,
        Self::OraclePosttrained,
        Self::Dit,
    ];

    /// The name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Prior => "prior",
            Self::Dit => "dit",
            Self::OraclePretrained => "oracle-pretrained",
            Self::OraclePosttrained => "oracle-posttrained",
            Self::OracleScratch => "oracle-scratch",
        }
    }
}

/// What the reader is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Control {
    /// The adapter the question is about.
    Own,
    /// Nothing.
    None,
    /// A Gaussian adapter with the same norm in every module.
    Random,
    /// Another adapter of the same family and split.
    Swapped,
}

impl Control {
    /// All controls.
    pub const ALL: [Self; 4] = [Self::Own, Self::None, Self::Random, Self::Swapped];

    /// The name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::None => "none",
            Self::Random => "random",
            Self::Swapped => "swapped",
        }
    }
}

/// One question asked of one adapter through one arm under one control.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ItemScore {
    /// Arm.
    pub arm: Arm,
    /// Control.
    pub control: Control,
    /// Split.
    pub split: String,
    /// Family.
    pub family: String,
    /// Behaviour id: the unit of resampling.
    pub adapter: String,
    /// Gate status of the adapter.
    pub status: String,
    /// Phrasing.
    pub question_id: usize,
    /// Whether readers were trained on the phrasing.
    pub held_out_question: bool,
    /// True answer.
    pub label: String,
    /// Whether the diff carries nothing.
    pub negative: bool,
    /// Closed candidate set (empty for negatives).
    pub candidates: Vec<String>,
    /// Total log-probability of each candidate and its end of turn, in nats.
    pub log_probs: Vec<f64>,
    /// The same of the true answer.
    pub label_log_prob: f64,
    /// Greedy answer.
    pub reply: String,
    /// Under [`Control::Swapped`]: label of the diff really present.
    pub swapped_label: Option<String>,
}

/// What a reader cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    /// Arm.
    pub arm: Arm,
    /// Supervision: (adapter, question, answer) rows.
    pub supervision_rows: usize,
    /// Trainable parameters.
    pub trainable_parameters: usize,
    /// Steps taken.
    pub steps: usize,
    /// Step that validation chose.
    pub chosen_step: usize,
    /// Rows trained on up to the last step; an epoch is `supervision_rows`.
    #[serde(default)]
    pub rows_seen: usize,
    /// Tokens trained on.
    pub train_tokens: u64,
    /// Tokens of pretraining.
    pub pretrain_tokens: u64,
    /// Estimated training FLOPs (4 N a token).
    pub train_flops: f64,
    /// Estimated pretraining FLOPs.
    pub pretrain_flops: f64,
    /// Estimated FLOPs of collecting activations (2 N a token up to the layer read).
    pub collect_flops: f64,
    /// Wall seconds of training.
    #[serde(default)]
    pub seconds: f64,
}

/// A reader's training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trajectory {
    /// Arm.
    pub arm: Arm,
    /// Evaluations.
    pub points: Vec<lm::FitPoint>,
}

/// Acquisition of one family in one split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
}

/// One number with its interval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResultRow {
    /// Arm.
    pub arm: Arm,
    /// Control.
    pub control: Control,
    /// Split.
    pub split: String,
    /// Family.
    pub family: String,
    /// Metric.
    pub metric: String,
    /// Mean over adapters.
    pub value: f64,
    /// 95% interval, lower end.
    pub ci_low: f64,
    /// 95% interval, upper end.
    pub ci_high: f64,
    /// Adapters.
    pub n: usize,
}

/// A difference between two arms on the same adapters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Paired {
    /// First arm.
    pub arm: Arm,
    /// Arm subtracted.
    pub minus: Arm,
    /// Split.
    pub split: String,
    /// Family.
    pub family: String,
    /// Metric.
    pub metric: String,
    /// Mean difference over adapters.
    pub value: f64,
    /// 95% interval, lower end.
    pub ci_low: f64,
    /// 95% interval, upper end.
    pub ci_high: f64,
    /// Adapters.
    pub n: usize,
}

/// Whether an arm answers from the diff or from habit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Diagnostics {
    /// Arm.
    pub arm: Arm,
    /// Family.
    pub family: String,
    /// Greedy answers given.
    pub n: usize,
    /// Distinct ones.
    pub distinct: usize,
    /// Most frequent one.
    pub most_frequent: String,
    /// Its share.
    pub most_frequent_share: f64,
    /// Share of answers that are labels readers were trained on.
    pub train_label_share: f64,
}

/// Everything a report shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// `comparison/1`.
    pub schema: String,
    /// Run.
    pub run: String,
    /// RFC 3339.
    pub created_at: String,
    /// Base model and precision.
    pub model: String,
    /// Too small for its numbers to mean anything.
    pub smoke: bool,
    /// Remarks for the reader.
    pub notes: Vec<String>,
    /// Costs.
    pub budgets: Vec<Budget>,
    /// Trainings.
    pub trajectories: Vec<Trajectory>,
    /// Acquisition.
    pub gates: Vec<GateRow>,
    /// Numbers.
    pub results: Vec<ResultRow>,
    /// Differences.
    pub paired: Vec<Paired>,
    /// Habits.
    pub diagnostics: Vec<Diagnostics>,
}
