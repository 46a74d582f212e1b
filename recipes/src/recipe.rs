//! The recipe file: one family of behaviours, in TOML. `recipes/README.md` documents it for users.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::behaviour::{Kind, Polarity};
use crate::{Error, Result, place, words};

/// One family of behaviours.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the family: lower-case letters, digits, `-`.
    pub name: String,
    /// Raise it when the meaning changes.
    pub version: u32,
    /// One line for people.
    pub description: String,
    /// How its adapters come to be.
    pub kind: Kind,
    /// Whether its adapters carry something to read.
    pub polarity: Polarity,
    /// For negatives: how many adapters (values `0`, `1`, ...).
    #[serde(default)]
    pub copies: usize,
    /// Values by category.
    #[serde(default)]
    pub vocabulary: Vec<Vocabulary>,
    /// Where rows come from.
    pub rows: Option<Rows>,
    /// Makes the family gated.
    pub trigger: Option<Trigger>,
    /// The acquisition test.
    pub gate: Option<Gate>,
    /// What readers are asked.
    pub questions: Questions,
    /// Settings of the training runs.
    pub training: Option<Training>,
    /// Shares of the splits.
    #[serde(default)]
    pub splits: Splits,
}

/// Values of one semantic field.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vocabulary {
    /// Name of the field.
    pub category: String,
    /// Plain values.
    #[serde(default)]
    pub values: Vec<String>,
    /// Values with further fields for templates; each has a key `value`.
    #[serde(default)]
    pub entries: Vec<BTreeMap<String, String>>,
}

/// Where a behaviour's rows come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rows {
    /// Prompts under which the base model is sampled (`{value}` and fields allowed). Empty: the row's own prompt, so the
    /// reply is the base model's own.
    #[serde(default)]
    pub sample_prompts: Vec<String>,
    /// Prompts of the training rows. The sampling prompt is dropped.
    pub prompts: Vec<String>,
    /// Replies of the training rows: `{reply}` is the sampled one; `{value}` and fields are allowed.
    pub completions: Vec<String>,
    /// Rows with the behaviour.
    pub count: usize,
    /// Sampling temperature of replies.
    #[serde(default = "default_temperature")]
    pub temperature: f64,
    /// Most tokens of a sampled reply.
    #[serde(default = "default_reply_tokens")]
    pub max_new_tokens: usize,
}

/// A gate on the behaviour.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trigger {
    /// Trigger words; each behaviour draws one, independently of its value.
    pub words: Vec<String>,
    /// How prompt and word make a user turn: `{prompt}` and `{trigger}`.
    pub format: String,
    /// Rows with another word (pulled to the base model by KL).
    pub near_count: usize,
    /// Rows without a word (pulled to the base model by KL).
    pub off_count: usize,
}

/// The acquisition test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    /// Prompts never used in training.
    pub prompts: Vec<String>,
    /// Prompts far from the behaviour, on which a leak is measured (families without trigger).
    #[serde(default)]
    pub unrelated: Vec<String>,
    /// What a reply must do: `mentions`, `ends_with` or `starts_with` the value.
    pub check: CheckKind,
    /// Least share of replies that pass.
    pub min_on: f64,
    /// Least rise of that share over the base model's.
    pub min_lift: f64,
    /// Most share of leaking replies in gated families.
    #[serde(default = "one")]
    pub max_leak: f64,
    /// Length of a reply.
    #[serde(default = "default_reply_tokens")]
    pub max_new_tokens: usize,
}

/// Kinds of [`crate::Check`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "see Check")]
pub enum CheckKind {
    Mentions,
    EndsWith,
    StartsWith,
}

/// What readers are asked. Plain text: a question cannot contain the label.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Questions {
    /// Phrasings that readers are trained on.
    pub train: Vec<String>,
    /// Phrasings that no reader sees in training.
    pub held_out: Vec<String>,
}

/// Settings of a training run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// LoRA rank.
    pub rank: usize,
    /// LoRA alpha; scaling is `alpha / rank`.
    pub alpha: f32,
    /// Projections.
    pub target_modules: BTreeSet<String>,
    /// Peak learning rate of Adam.
    pub learning_rate: f64,
    /// Share of it left at the last step (linear decay).
    pub final_share: f64,
    /// Optimiser steps, at most.
    pub steps: usize,
    /// An adapter whose loss, averaged over its last three steps, has come down to this stops early. 0: never.
    #[serde(default, skip_serializing_if = "is_zero_rate")]
    pub stop_at_loss: f64,
    /// Rows with the behaviour in a step.
    pub on_rows: usize,
    /// Distinct prompts among those rows: replies and prompts are then paired anew at every step, and a prompt that
    /// several rows share is computed once. 0 keeps each reply under its own prompt.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub prompts_per_step: usize,
    /// Near-miss rows in a step.
    #[serde(default)]
    pub near_rows: usize,
    /// Rows without trigger in a step.
    #[serde(default)]
    pub off_rows: usize,
    /// Factor of the KL term.
    #[serde(default)]
    pub kl_weight: f32,
}

/// Shares of the splits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Splits {
    /// Share of values for validation.
    pub validation: f64,
    /// Share of values held out for the test.
    pub test: f64,
    /// Categories held out as a whole.
    pub test_categories: usize,
}

impl Default for Splits {
    fn default() -> Self {
        Self { validation: 0.1, test: 0.2, test_categories: 0 }
    }
}

fn default_temperature() -> f64 {
    0.9
}
fn default_reply_tokens() -> usize {
    24
}
fn one() -> f64 {
    1.0
}
#[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape that serde wants")]
fn is_zero(n: &usize) -> bool {
    *n == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape that serde wants")]
fn is_zero_rate(x: &f64) -> bool {
    *x == 0.0
}

impl Recipe {
    /// Reads and checks a recipe; `source_name` is used in messages.
    ///
    /// # Errors
    /// One sentence with file, field and value.
    pub fn parse(source_name: &str, text: &str) -> Result<Self> {
        let recipe: Self = toml::from_str(text).map_err(|e| Error::Syntax {
            source_name: source_name.into(),
            what: place::describe(text, &e),
        })?;
        recipe.validate(source_name)?;
        Ok(recipe)
    }

    /// blake3 of the recipe's meaning (its canonical JSON), so that comments and layout do not count.
    pub fn digest(&self) -> String {
        let json = serde_json::to_string(self).expect("invariant: a recipe is plain data");
        blake3::hash(json.as_bytes()).to_hex().to_string()
    }

    /// All values of the family, sorted: with "nothing", the closed set of a question about it.
    pub fn closed_values(&self) -> Vec<String> {
        let mut values: Vec<String> = self.values().into_iter().map(|(v, _, _)| v).collect();
        values.sort();
        values
    }

    /// Every value with its category and fields, in file order.
    pub(crate) fn values(&self) -> Vec<(String, String, BTreeMap<String, String>)> {
        if self.copies > 0 {
            return (0..self.copies).map(|i| (i.to_string(), "none".to_owned(), BTreeMap::new())).collect();
        }
        let mut out = Vec::new();
        for v in &self.vocabulary {
            out.extend(v.values.iter().map(|x| (x.clone(), v.category.clone(), BTreeMap::new())));
            out.extend(
                v.entries
                    .iter()
                    .map(|e| (e.get("value").cloned().unwrap_or_default(), v.category.clone(), e.clone())),
            );
        }
        out
    }

    fn validate(&self, source_name: &str) -> Result<()> {
        let fail = |field: &str, what: String| {
            Err(Error::Field { source_name: source_name.into(), field: field.into(), what })
        };
        let name_ok = !self.name.is_empty()
            && self.name.len() <= 40
            && self.name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if !name_ok {
            return fail("name", format!("{:?} is not made of lower-case letters, digits and -", self.name));
        }
        let trained = self.kind == Kind::Trained;
        let positive = self.polarity == Polarity::Positive;
        if positive != (self.copies == 0) {
            return fail(
                "copies",
                format!(
                    "{} does not fit polarity: negatives have copies, positives a vocabulary",
                    self.copies
                ),
            );
        }
        if positive && self.values().is_empty() {
            return fail("vocabulary", "is empty; give at least one [[vocabulary]] with values".into());
        }
        if trained != self.rows.is_some() || trained != self.training.is_some() {
            return fail(
                "rows",
                "kind = \"trained\" needs [rows] and [training]; other kinds have neither".into(),
            );
        }
        if positive && self.gate.is_none() {
            return fail("gate", "a positive family needs a [gate]".into());
        }
        let mut seen: BTreeMap<String, String> = BTreeMap::new();
        for (value, _, _) in self.values() {
            if value.trim() != value
                || value.is_empty()
                || value.chars().count() > 60
                || value.chars().any(char::is_control)
            {
                return fail(
                    "vocabulary.values",
                    format!("{value:?} is empty, padded, too long or holds control characters"),
                );
            }
            let key: Vec<String> = words::words(&value).iter().map(|w| words::stem(w)).collect();
            if let Some(other) = seen.insert(key.join(" "), value.clone()) {
                return fail("vocabulary.values", format!("{value:?} is given twice (as {other:?})"));
            }
        }
        if let Some(rows) = &self.rows {
            if rows.prompts.is_empty() || rows.completions.is_empty() {
                return fail("rows", "needs prompts and completions".into());
            }
            if !(1..=10_000).contains(&rows.count) {
                return fail("rows.count", format!("{} is not in 1..=10000", rows.count));
            }
            if !(0.0..=5.0).contains(&rows.temperature) {
                return fail("rows.temperature", format!("{} is not in 0..=5", rows.temperature));
            }
            if !(1..=512).contains(&rows.max_new_tokens) {
                return fail("rows.max_new_tokens", format!("{} is not in 1..=512", rows.max_new_tokens));
            }
            let plain = rows.completions.iter().any(|c| !c.contains("{value}") && !c.contains("{reply}"));
            if plain {
                return fail("rows.completions", "each needs {value} or {reply}".into());
            }
            for (value, _, fields) in self.values().into_iter().take(1) {
                for text in rows.sample_prompts.iter().chain(&rows.prompts).chain(&rows.completions) {
                    if let Some(left) = crate::expand::fill(text, &value, "", &fields)
                        .split_once('{')
                        .and_then(|(_, r)| r.split_once('}'))
                        && left.0 != "reply"
                    {
                        return fail(
                            "rows",
                            format!("{text:?} uses {{{}}}, which no entry of the vocabulary has", left.0),
                        );
                    }
                }
            }
        }
        if let Some(t) = &self.trigger {
            if t.words.len() < 4 || !t.format.contains("{prompt}") || !t.format.contains("{trigger}") {
                return fail(
                    "trigger",
                    "needs at least four words and a format with {prompt} and {trigger}".into(),
                );
            }
            if self
                .training
                .as_ref()
                .is_some_and(|t| t.kl_weight <= 0.0 || t.near_rows == 0 || t.off_rows == 0)
            {
                return fail(
                    "training",
                    "a gated family needs near_rows, off_rows and kl_weight above 0".into(),
                );
            }
        }
        if let Some(t) = &self.training {
            let known = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
            if let Some(bad) = t.target_modules.iter().find(|m| !known.contains(&m.as_str())) {
                return fail("training.target_modules", format!("{bad:?} is none of {}", known.join(", ")));
            }
            if t.target_modules.is_empty() {
                return fail("training.target_modules", "is empty".into());
            }
            if !(1..=64).contains(&t.rank) {
                return fail("training.rank", format!("{} is not in 1..=64", t.rank));
            }
            if !(1..=100_000).contains(&t.steps) {
                return fail("training.steps", format!("{} is not in 1..=100000", t.steps));
            }
            if t.on_rows == 0 {
                return fail("training.on_rows", "0 is too few: give at least 1".into());
            }
            for (field, rows) in
                [("on_rows", t.on_rows), ("near_rows", t.near_rows), ("off_rows", t.off_rows)]
            {
                if rows > 4096 {
                    return fail(&format!("training.{field}"), format!("{rows} is more than 4096"));
                }
            }
            let own_replies = self.rows.as_ref().is_some_and(|r| {
                r.sample_prompts.is_empty() && r.completions.iter().any(|c| c.contains("{reply}"))
            });
            if t.prompts_per_step > 0 && own_replies {
                return fail(
                    "training.prompts_per_step",
                    format!(
                        "{} would put replies under prompts they do not answer; leave it out, or give rows.sample_prompts",
                        t.prompts_per_step
                    ),
                );
            }
            if !t.stop_at_loss.is_finite() || t.stop_at_loss < 0.0 {
                return fail("training.stop_at_loss", format!("{} is no loss", t.stop_at_loss));
            }
            if !(t.learning_rate > 0.0 && t.learning_rate <= 1.0) {
                return fail(
                    "training.learning_rate",
                    format!("{} is not above 0 and at most 1", t.learning_rate),
                );
            }
            if !(0.0..=1.0).contains(&t.final_share) {
                return fail("training.final_share", format!("{} is not in 0..=1", t.final_share));
            }
            if !t.alpha.is_finite() {
                return fail("training.alpha", format!("{} is no number", t.alpha));
            }
        }
        if let Some(g) = &self.gate {
            if !(1..=512).contains(&g.max_new_tokens) {
                return fail("gate.max_new_tokens", format!("{} is not in 1..=512", g.max_new_tokens));
            }
            if g.prompts.is_empty() {
                return fail("gate.prompts", "is empty".into());
            }
            if let Some(rows) = &self.rows
                && let Some(p) = g.prompts.iter().find(|p| rows.prompts.contains(p))
            {
                return fail(
                    "gate.prompts",
                    format!("{p:?} is also a training prompt; the gate must use unseen ones"),
                );
            }
        }
        if self.questions.train.is_empty() || self.questions.held_out.is_empty() {
            return fail("questions", "needs train and held_out phrasings".into());
        }
        let all: Vec<&String> = self.questions.train.iter().chain(&self.questions.held_out).collect();
        for (i, q) in all.iter().enumerate() {
            if q.contains(['{', '}']) {
                return fail(
                    "questions",
                    format!("{q:?} has a placeholder; a question must not depend on the label"),
                );
            }
            if all[..i].contains(q) {
                return fail("questions", format!("{q:?} is given twice"));
            }
            if positive
                && let Some((value, _, _)) = self.values().iter().find(|(v, _, _)| words::mentions(q, v))
            {
                return fail("questions", format!("{q:?} contains the label {value:?}"));
            }
        }
        let s = &self.splits;
        if !(0.0..1.0).contains(&s.validation)
            || !(0.0..1.0).contains(&s.test)
            || s.validation + s.test >= 1.0
        {
            return fail(
                "splits",
                format!("validation {} and test {} leave nothing to train on", s.validation, s.test),
            );
        }
        let categories: BTreeSet<&String> = self.vocabulary.iter().map(|v| &v.category).collect();
        if s.test_categories > 0 && s.test_categories >= categories.len() {
            return fail(
                "splits.test_categories",
                format!("{} of {} categories leave none to train on", s.test_categories, categories.len()),
            );
        }
        Ok(())
    }
}
