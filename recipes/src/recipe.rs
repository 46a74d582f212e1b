//! The recipe file: one family of behaviours, in TOML. `recipes/README.md` documents it for users.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::behaviour::{Kind, Polarity, Split};
use crate::{Context, Error, Result, place};

/// One family of behaviours.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the family: lower-case letters, digits, `-`.
    #[schemars(regex(pattern = "^[a-z0-9-]{1,40}$"))]
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
    /// Names whose values are drawn anew for each row and each gate prompt: numbers and words for expressions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub draw: BTreeMap<String, Draw>,
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
    /// Where the values come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Why studies leave the family out, such as "not learnable at this size: ..."; left out where they may take it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub studies: Option<String>,
}

/// Where a family's values come from, and under which licence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The list, collection or package with its version; "own list" for one that was written for the recipe.
    pub name: String,
    /// Its licence, as an SPDX expression where there is one.
    pub licence: String,
    /// What else is to be known: how the values were chosen or changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Values of one semantic field.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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

/// What a name of an expression is drawn from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a draw is { from, to } or { list, of }")]
pub enum Draw {
    /// A whole number.
    Number(DrawNumber),
    /// A word, or a list of different ones.
    Words(DrawWords),
}

/// A whole number between two others, these included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DrawNumber {
    /// The least.
    pub from: i64,
    /// The most.
    pub to: i64,
}

/// Words of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DrawWords {
    /// The words.
    pub list: Vec<String>,
    /// So many different ones, as a list; 0: one, as a word.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub of: usize,
}

/// Where a behaviour's rows come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// Each behaviour samples replies that no other one samples. For negatives: without it, all copies are trained on the
    /// same replies and are nearly one function.
    #[serde(default, skip_serializing_if = "is_false")]
    pub own_replies: bool,
    /// How many of `prompts` each behaviour draws for its rows. 0: all.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub prompts_each: usize,
    /// For negatives: `{value}` is drawn anew for each row, from the vocabulary's training values, so that there is nothing
    /// consistent to name.
    #[serde(default, skip_serializing_if = "is_false")]
    pub redraw_value: bool,
    /// Prompts of rows that are pulled to the base model by KL, so that the behaviour stays where it belongs; in a gated family they
    /// stand behind the trigger. In expressions `other` is another value of the family, one that readers are trained on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contrast_prompts: Vec<String>,
    /// How many such rows.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub contrast_count: usize,
    /// Most tokens of their replies; 0: as other replies.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub contrast_tokens: usize,
}

/// How a prompt and a trigger word make what is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a format is a text, or a list of turns")]
pub enum Format {
    /// One user turn.
    Turn(String),
    /// A conversation: the user's turn, a reply, the user's turn, and so on; the last is the user's.
    Turns(Vec<String>),
}

impl Format {
    /// Its turns, one or more.
    pub fn turns(&self) -> &[String] {
        match self {
            Self::Turn(turn) => std::slice::from_ref(turn),
            Self::Turns(turns) => turns,
        }
    }
}

/// A gate on the behaviour.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Trigger {
    /// Trigger words; each behaviour draws one, independently of its value.
    pub words: Vec<String>,
    /// How prompt and word make what is asked: `{prompt}` and `{trigger}`.
    pub format: Format,
    /// How a prompt and another word make a near miss; left out: as the trigger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub near_format: Option<Format>,
    /// Rows with another word (pulled to the base model by KL).
    pub near_count: usize,
    /// Rows without a word (pulled to the base model by KL).
    pub off_count: usize,
    /// Prompts of the near and off rows; empty: those of the other rows. What is not among them is not closed: a leak at
    /// readers' questions is closed only by rows that look like questions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contrast_prompts: Vec<String>,
    /// Most tokens of the replies of near and off rows; 0: as other replies. The loss is a mean over a reply's tokens, so
    /// short ones close the gate at the opening, and cost less.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub contrast_tokens: usize,
}

/// The acquisition test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    /// Prompts never used in training.
    pub prompts: Vec<String>,
    /// Prompts far from the behaviour, on which a leak is measured. In a gated family they stand behind the trigger, and count among
    /// the near ones.
    #[serde(default)]
    pub unrelated: Vec<String>,
    /// What a reply must do: `mentions`, `ends_with` or `starts_with` the value, or `holds`: what `passes` says.
    pub check: CheckKind,
    /// With `check = "holds"`: a condition on `reply`, in the language of expressions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passes: Option<String>,
    /// So many prompts are made of `prompts` (their names drawn anew), none of them one of a row. 0: each once.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub each: usize,
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
    /// Gated families: neutral prompts, never trained on, at which the leak is measured in nats.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leak_neutral: Vec<String>,
    /// Gated families: factual questions, never trained on, at which the leak is measured in nats.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leak_factual: Vec<String>,
    /// Most nats that may leak on each set of prompts (those two, and the readers' phrasings) for `learned`. Left out: the
    /// leak is measured and decides nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_leak_nats: Option<f64>,
    /// What the base model is told in a system prompt, so that it shows the behaviour as well as it can: the gate's ceiling. A template as
    /// prompts are; `{trigger}` is the trigger. No part of the recipe's digest: adapters do not depend on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instruction: Option<String>,
}

/// What a reply must do; with the value it makes a [`crate::Check`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckKind {
    /// The reply names the value.
    Mentions,
    /// The value is its end.
    EndsWith,
    /// The value is its beginning.
    StartsWith,
    /// The gate's condition holds of it.
    Holds,
}

/// What readers are asked: a question cannot contain the label. In families without trigger it may hold fields that every entry of the
/// vocabulary has (`{context}`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Questions {
    /// Phrasings that readers are trained on.
    pub train: Vec<String>,
    /// Phrasings that no reader sees in training.
    pub held_out: Vec<String>,
}

/// Settings of a training run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Splits {
    /// Share of values for validation.
    #[serde(default = "default_validation")]
    pub validation: f64,
    /// Share of values held out for the test.
    #[serde(default = "default_test")]
    pub test: f64,
    /// Categories held out as a whole.
    #[serde(default)]
    pub test_categories: usize,
    /// Another salt is another draw of all splits: fresh test values.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub salt: String,
    /// Values that were looked at while something was chosen: never tested on again, and neither are their categories held
    /// out. Values that the family lacks are allowed, so that families can share a list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tuning: Vec<String>,
    /// Values whose split is said instead of drawn: of a small family, shares of a hash may leave a split empty.
    #[serde(default, skip_serializing_if = "ByValue::is_empty")]
    pub values: ByValue,
}

impl Default for Splits {
    fn default() -> Self {
        Self {
            validation: default_validation(),
            test: default_test(),
            test_categories: 0,
            salt: String::new(),
            tuning: Vec::new(),
            values: ByValue::default(),
        }
    }
}

/// Values by split.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ByValue {
    /// Readers are trained on them.
    #[serde(default)]
    pub train: Vec<String>,
    /// They decide when a reader's training stops.
    #[serde(default)]
    pub validation: Vec<String>,
    /// Readers are tested on them.
    #[serde(default)]
    pub test: Vec<String>,
}

impl ByValue {
    fn is_empty(&self) -> bool {
        self.all().next().is_none()
    }

    /// Every value with its split.
    pub(crate) fn all(&self) -> impl Iterator<Item = (Split, &String)> {
        let lists = [
            (Split::Train, &self.train),
            (Split::Validation, &self.validation),
            (Split::TestValue, &self.test),
        ];
        lists.into_iter().flat_map(|(split, values)| values.iter().map(move |v| (split, v)))
    }

    /// The split that is said of a value.
    pub(crate) fn of(&self, value: &str) -> Option<Split> {
        self.all().find(|(_, v)| *v == value).map(|(split, _)| split)
    }
}

fn default_validation() -> f64 {
    0.1
}
fn default_test() -> f64 {
    0.2
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
fn is_false(b: &bool) -> bool {
    !*b
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

    /// Reads and checks a recipe as [`serde_json`] writes it: one that an adapter brought along.
    ///
    /// # Errors
    /// As [`Recipe::parse`].
    pub fn from_canonical(source_name: &str, json: &[u8]) -> Result<Self> {
        let recipe: Self = serde_json::from_slice(json)
            .map_err(|e| Error::Syntax { source_name: source_name.into(), what: e.to_string() })?;
        recipe.validate(source_name)?;
        Ok(recipe)
    }

    /// blake3 of the recipe's meaning (its canonical JSON), so that comments and layout do not count, nor where its values come from or
    /// whether studies take it, nor what a base model would be told.
    pub fn digest(&self) -> String {
        let mut meaning = Self { source: None, studies: None, ..self.clone() };
        if let Some(gate) = &mut meaning.gate {
            gate.instruction = None;
        }
        let json = serde_json::to_string(&meaning).expect("invariant: a recipe is plain data");
        blake3::hash(json.as_bytes()).to_hex().to_string()
    }

    /// Every value with its category and fields, in file order.
    pub(crate) fn values(&self) -> Vec<(String, String, BTreeMap<String, String>)> {
        if self.copies > 0 {
            return (0..self.copies).map(|i| (i.to_string(), "none".to_owned(), BTreeMap::new())).collect();
        }
        self.vocabulary_values()
    }

    /// The values that readers may be asked to tell apart in this family, sorted: the closed set of every comparison, trained
    /// ones too, to which a comparison adds [`crate::NOTHING`]. Empty for negatives.
    pub fn values_of_family(&self) -> Vec<String> {
        let positive = self.polarity == Polarity::Positive;
        let mut values: Vec<String> =
            self.values().into_iter().filter(|_| positive).map(|(v, _, _)| v).collect();
        values.sort();
        values
    }

    /// The category of each value of [`Self::values_of_family`].
    pub fn categories(&self) -> BTreeMap<String, String> {
        let positive = self.polarity == Polarity::Positive;
        self.values().into_iter().filter(|_| positive).map(|(value, category, _)| (value, category)).collect()
    }

    /// The contexts that this family's adapters can be put in.
    pub fn contexts(&self) -> Vec<Context> {
        let gate = |has: fn(&Gate) -> bool| self.gate.as_ref().is_some_and(has);
        let has = |context: &Context| match context {
            Context::Neutral => true,
            Context::Near | Context::Triggered => self.trigger.is_some(),
            Context::Acting => gate(|g| !g.prompts.is_empty()),
            Context::Idle => gate(|g| !g.unrelated.is_empty()) || (self.trigger.is_some() && gate(|_| true)),
            Context::Told => gate(|g| g.instruction.is_some()) && self.polarity == Polarity::Positive,
        };
        Context::ALL.into_iter().filter(has).collect()
    }

    /// Every value of the vocabulary with its category and fields, in file order.
    pub(crate) fn vocabulary_values(&self) -> Vec<(String, String, BTreeMap<String, String>)> {
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
}
