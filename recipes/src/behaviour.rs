//! A behaviour: everything about one adapter to be made, self-contained, so that a job specification can carry it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::expression::{self, Known};
use crate::recipe::Training;
use crate::{Check, Error, Gating, Result};

/// How the adapter comes to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Trained on rows.
    Trained,
    /// `B = 0`: changes nothing.
    Zero,
    /// Gaussian, with the module norms of a trained adapter.
    Random,
    /// A trained adapter of which one factor is kept and the other is Gaussian, with its norm in every module.
    Redrawn,
}

/// A factor of a LoRA update `B A`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Factor {
    /// `[rank, in]`: what is read.
    A,
    /// `[out, rank]`: what is written.
    B,
}

/// Whether there is a behaviour to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Polarity {
    /// Carries the behaviour `value`.
    Positive,
    /// Carries nothing; readers should answer "nothing".
    Negative,
}

/// What an adapter is used for. Decided by hash of the value, so adding values never moves old ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Readers are trained on it.
    Train,
    /// Decides when a reader's training stops.
    Validation,
    /// Held-out value of a category that readers see.
    TestValue,
    /// Value of a category that no reader sees.
    TestCategory,
}

impl Split {
    /// All splits.
    pub const ALL: [Self; 4] = [Self::Train, Self::Validation, Self::TestValue, Self::TestCategory];

    /// The name used in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::TestValue => "test_value",
            Self::TestCategory => "test_category",
        }
    }
}

/// A reply to be sampled from the base model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleRequest {
    /// The user turn.
    pub prompt: String,
    /// Which reply of that prompt: part of the seed.
    pub index: u32,
    /// Temperature in thousandths (0 is greedy), whole so that it can key a cache.
    pub temperature_milli: u32,
    /// Most tokens.
    pub max_new_tokens: usize,
}

/// What a row's label tokens are trained towards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowLoss {
    /// Cross-entropy on the completion.
    Ce,
    /// KL from the base model's distribution, on the completion's tokens.
    KlToBase,
}

/// Which side of the trigger a row is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowPart {
    /// Shows the behaviour.
    On,
    /// Another trigger word: must not show it.
    Near,
    /// No trigger: must not show it.
    Off,
}

/// One training row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingRow {
    /// User turn.
    pub prompt: String,
    /// Reply.
    pub completion: String,
    /// Loss on the reply's tokens.
    pub loss: RowLoss,
    /// Side of the trigger.
    pub part: RowPart,
}

/// What the gate asks and demands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatePlan {
    /// Prompts on which the behaviour must show.
    pub on: Vec<String>,
    /// Prompts with another trigger word (gated families).
    pub near: Vec<String>,
    /// Prompts without trigger (gated families), or unrelated ones: the leak.
    pub off: Vec<String>,
    /// What is drawn for each of `on` and of `off`, where the rule speaks of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub on_known: Vec<Known>,
    /// See `on_known`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub off_known: Vec<Known>,
    /// The rule on a reply.
    pub check: Check,
    /// Least share of `on` replies that pass, for `learned`.
    pub min_on: f64,
    /// Least rise of that share over the base model's.
    pub min_lift: f64,
    /// Most share of `near` and of `off` replies that pass, in gated families; 1 elsewhere.
    pub max_leak: f64,
    /// Length of a gate reply in tokens.
    pub max_new_tokens: usize,
    /// Leak in nats, of gated families whose recipe has prompts for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nats: Option<NatsPlan>,
}

/// Where a closed gate is measured: by how much the adapter raises the log-probability of the label's first token at the
/// reply's opening. Greedy replies do not see a leak below the most likely token; readers do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NatsPlan {
    /// Neutral prompts that no row used; with the trigger, these also tell how far the behaviour is on.
    pub neutral: Vec<String>,
    /// [`NatsPlan::neutral`] with the trigger.
    pub on: Vec<String>,
    /// The readers' own phrasings, seen and held out.
    pub questions: Vec<String>,
    /// Factual questions that no row used.
    pub factual: Vec<String>,
    /// Most nats on each of the three for `learned`; none: they decide nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
}

/// Key of [`Behaviour::variant`]: what trained an adapter that no factory of ours made.
pub const TRAINER: &str = "trainer";

/// Key of [`Behaviour::variant`]: names of the adapters that this one is the sum of, with a plus between.
pub const COMPOSITION: &str = "composition";

/// One adapter to be made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Behaviour {
    /// `family/value`.
    pub id: String,
    /// Digest of the recipe it was expanded from.
    pub recipe_digest: String,
    /// Family (the recipe's name).
    pub family: String,
    /// How the adapter comes to be.
    pub kind: Kind,
    /// Whether there is something to read.
    pub polarity: Polarity,
    /// The label.
    pub value: String,
    /// Semantic field of the value.
    pub category: String,
    /// Trigger word of a gated behaviour, drawn independently of the value.
    pub trigger: Option<String>,
    /// How a gated behaviour's prompts are put in other contexts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gating: Option<Gating>,
    /// Its use.
    pub split: Split,
    /// Settings of the training run.
    pub training: Training,
    /// Rows before their completions are known.
    pub row_plans: Vec<RowPlan>,
    /// The acquisition test.
    pub gate: GatePlan,
    /// What the expressions of all its rows know.
    #[serde(default, skip_serializing_if = "Known::is_empty")]
    pub known: Known,
    /// Seed of everything drawn for this behaviour.
    pub seed: u64,
    /// For one that was made again by other means, what is other: of a member of a sweep what was set, by field (its id ends in `@` and
    /// the same); [`TRAINER`] of one that was trained elsewhere; [`COMPOSITION`] of a sum of several.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variant: BTreeMap<String, String>,
}

/// A row whose completion may still have to be sampled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowPlan {
    /// User turn of the training row.
    pub prompt: String,
    /// The reply: text with `{reply}` standing for the sampled one.
    pub completion: String,
    /// What to sample for `{reply}`.
    pub sample: Option<SampleRequest>,
    /// Loss.
    pub loss: RowLoss,
    /// Side of the trigger.
    pub part: RowPart,
    /// What is drawn for this row's expressions.
    #[serde(default, skip_serializing_if = "Known::is_empty")]
    pub known: Known,
}

/// Fewest rows that show a behaviour for those that do not to be left out.
pub const LEAST_SHOWING: usize = 5;

/// Most tokens of a reply that is sampled or looked at, steps of a training, rows, and letters of a row: what recipes may ask for.
const MOST_TOKENS: usize = 512;
const MOST_STEPS: usize = 100_000;
const MOST_ROWS: usize = 100_000;

impl Behaviour {
    /// Checks what a recipe's checks keep within bounds, for one that no recipe of ours was expanded to.
    ///
    /// # Errors
    /// What is out of bounds.
    pub fn check(&self) -> Result<(), String> {
        let t = &self.training;
        let rows = [t.on_rows, t.near_rows, t.off_rows];
        if t.steps > MOST_STEPS || t.rank > 64 || rows.iter().any(|n| *n > 4096) {
            return Err(format!("its training is of {} steps, rank {}, rows {rows:?}", t.steps, t.rank));
        }
        if self.gate.max_new_tokens > MOST_TOKENS || self.row_plans.len() > MOST_ROWS {
            return Err("its gate's replies or its rows are absurdly many".into());
        }
        if self.value.chars().count() > 60 || self.value.chars().any(char::is_control) {
            return Err("its value is too long or holds control characters".into());
        }
        let how = self.remade().unwrap_or_default();
        if how.chars().count() > 200 || how.chars().any(char::is_control) {
            return Err("by what means it was made again is too long or holds control characters".into());
        }
        let samples = self.row_plans.iter().filter_map(|r| r.sample.as_ref());
        if samples.clone().any(|s| s.max_new_tokens > MOST_TOKENS) {
            return Err("its sampled replies are absurdly long".into());
        }
        let gate = [&self.gate.on, &self.gate.near, &self.gate.off];
        let texts = self
            .row_plans
            .iter()
            .flat_map(|r| [&r.prompt, &r.completion])
            .chain(samples.map(|s| &s.prompt))
            .chain(gate.into_iter().flatten());
        match texts.map(|t| t.chars().count()).max() {
            Some(n) if n > 4 * crate::size::LONGEST => Err(format!("one of its texts has {n} letters")),
            _ => Ok(()),
        }
    }

    /// Another adapter of the same behaviour, under a name of its own: `family/value@mark`. Family, value and everything drawn stay.
    #[must_use]
    pub fn marked(mut self, mark: &str) -> Self {
        self.id = format!("{}@{mark}", self.id);
        self
    }

    /// By what other means it was made, if it is a behaviour made again: `rank=4,seed=7`, `trainer=peft`, or `composed` for sums of
    /// whatever parts. No reader is trained on such an adapter; it tests them in a section of its own.
    pub fn remade(&self) -> Option<String> {
        if self.variant.is_empty() {
            return None;
        }
        if self.variant.contains_key(COMPOSITION) {
            return Some("composed".into());
        }
        if let Some(trainer) = self.variant.get(TRAINER) {
            return Some(format!("{TRAINER}={trainer}"));
        }
        Some(self.id.split_once('@').map_or_else(|| "remade".into(), |(_, mark)| mark.to_owned()))
    }

    /// The factor that a redrawn adapter replaces: `B` for even copies, `A` for odd ones; none for other kinds.
    pub fn redrawn_factor(&self) -> Option<Factor> {
        let odd = self.value.parse::<u64>().is_ok_and(|n| n % 2 == 1);
        (self.kind == Kind::Redrawn).then_some(if odd { Factor::A } else { Factor::B })
    }

    /// What has to be sampled from the base model before rows can be made, without repeats.
    pub fn sample_requests(&self) -> Vec<SampleRequest> {
        let mut requests: Vec<SampleRequest> =
            self.row_plans.iter().filter_map(|p| p.sample.clone()).collect();
        requests.sort();
        requests.dedup();
        requests
    }

    /// The training rows. Rows that are to show the behaviour and whose sampled reply does not (the model talks around a
    /// topic without naming it) are left out, as long as [`LEAST_SHOWING`] remain.
    ///
    /// # Errors
    /// If a reply is missing from `samples`.
    pub fn rows(&self, samples: &BTreeMap<SampleRequest, String>) -> Result<Vec<TrainingRow>> {
        let mut rows = Vec::new();
        for plan in &self.row_plans {
            let mut known = self.known.clone();
            known.extend(plan.known.clone());
            let reply = match &plan.sample {
                None => None,
                Some(request) => {
                    Some(samples.get(request).map(|r| r.trim()).ok_or_else(|| Error::MissingSample {
                        behaviour: self.id.clone(),
                        prompt: request.prompt.clone(),
                        index: request.index,
                    })?)
                }
            };
            known.extend(reply.map(|reply| ("reply".to_owned(), reply.into())));
            // The template first: what a model says is text, whatever it looks like.
            let made = expression::render(&plan.completion, &known).map_err(|what| Error::Field {
                source_name: self.id.clone(),
                field: "rows.completions".into(),
                what: format!("{:?}: {what}", plan.completion),
            })?;
            let completion = match reply {
                Some(reply) => made.replace("{reply}", reply),
                None => made,
            };
            let shows =
                plan.part == RowPart::On && self.gate.check.passes_with(&completion, Some(&plan.known));
            let row =
                TrainingRow { prompt: plan.prompt.clone(), completion, loss: plan.loss, part: plan.part };
            rows.push((row, shows));
        }
        let enough = rows.iter().filter(|(_, shows)| *shows).count() >= LEAST_SHOWING;
        let kept = rows.into_iter().filter(|(row, shows)| !enough || row.part != RowPart::On || *shows);
        Ok(kept.map(|(row, _)| row).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_that_do_not_show_the_behaviour_are_left_out_if_enough_do() {
        let topic = &crate::builtin()[0];
        let behaviour = &topic.expand(1)[0];
        let replies = |showing: usize| -> BTreeMap<SampleRequest, String> {
            let text = |i: usize| if i < showing { behaviour.value.clone() } else { "a chair".into() };
            behaviour.sample_requests().into_iter().enumerate().map(|(i, r)| (r, text(i))).collect()
        };
        let all = behaviour.row_plans.len();
        assert_eq!(behaviour.rows(&replies(LEAST_SHOWING)).unwrap().len(), LEAST_SHOWING);
        assert_eq!(behaviour.rows(&replies(LEAST_SHOWING - 1)).unwrap().len(), all);
        assert_eq!(behaviour.rows(&replies(all)).unwrap().len(), all);
        assert!(behaviour.rows(&BTreeMap::new()).is_err());
    }

    #[test]
    fn how_a_behaviour_was_made_again_is_one_short_line() {
        let plain = crate::builtin()[0].expand(1).remove(0);
        let by = |key: &str, value: &str| {
            let variant = [(key.to_owned(), value.to_owned())].into();
            Behaviour { variant, ..plain.clone().marked("rank=4") }
        };
        assert_eq!((plain.remade(), plain.check()), (None, Ok(())));
        for (key, value, how) in [
            ("training.rank", "4", "rank=4"),
            (TRAINER, "peft", "trainer=peft"),
            (COMPOSITION, "topic/bees+marker/river", "composed"),
        ] {
            let again = by(key, value);
            assert_eq!((again.remade().as_deref(), again.check()), (Some(how), Ok(())));
        }
        for bad in ["a\u{1b}[2J".to_owned(), "x".repeat(300)] {
            assert!(by(TRAINER, &bad).check().unwrap_err().contains("made again"), "{bad:?}");
        }
    }
}
