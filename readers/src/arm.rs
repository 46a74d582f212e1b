//! An arm as data: method x reader x what it is shown x how it is trained x seeds (`arms/1`). Defaults are spelled here, once,
//! and `lorafab compare arms --show` prints arms with them filled in.

use std::collections::{BTreeMap, BTreeSet};

use lm::{AdapterConfig, FitConfig, Outline};
use recipes::Context;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Wrong;

/// One arm of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    /// Its name in reports: unique in a file.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Which method reads (`lorafab compare arms` lists them).
    pub method: String,
    /// Which reader, for methods that have one: `scratch`, `pretrained`, `posttrained`, the id or name of one in the
    /// catalogue, or a folder with a published one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reader: Option<String>,
    /// What it is shown.
    #[serde(default)]
    pub input: Input,
    /// Where gated subjects are asked: with their trigger absent, near or present. Others are asked as they are.
    #[serde(default = "neutral")]
    pub contexts: Vec<Context>,
    /// Families that it is asked about; none: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asks: Vec<String>,
    /// How it is trained on the adapter set.
    #[serde(default)]
    pub train: Train,
    /// How it is pretrained without any adapter.
    #[serde(default)]
    pub pretrain: Pretrain,
    /// Reader seeds; none: as many as the comparison says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seeds: Vec<u64>,
}

fn neutral() -> Vec<Context> {
    vec![Context::Neutral]
}

/// What an arm is shown of a subject.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Input {
    /// Which activations.
    pub kind: InputKind,
    /// Decoder blocks whose outputs are read; empty: by `depths`.
    pub layers: Vec<usize>,
    /// The same as shares of the model's blocks; empty: the method's own.
    pub depths: Vec<f64>,
    /// Which positions of a context.
    pub positions: Positions,
    /// The contexts: user turns, or plain texts where positions are the first ones; empty: the standard ones.
    pub prompts: Vec<String>,
    /// How many of them, the first ones, a subject is read at when it is asked.
    pub asked: usize,
    /// How many, drawn anew at every step, a training question sees the mean of.
    pub drawn: usize,
    /// Whether a vector's size counts.
    pub scaling: Scaling,
    /// Strength of an injection, in norms of the residual it is added to.
    pub strength: f32,
    /// Deviation of the noise that training adds, in units of the scaled vectors' entries.
    pub noise: f32,
    /// How many tokens of a lens are shown as text (method `lens-text`).
    pub tokens: usize,
    /// Factor of a diff on which a DIT adapter is stacked.
    pub diff_scale: f32,
}

impl Default for Input {
    fn default() -> Self {
        Self {
            kind: InputKind::Difference,
            layers: vec![],
            depths: vec![],
            positions: Positions::Last(6),
            prompts: vec![],
            asked: 8,
            drawn: 4,
            scaling: Scaling::Whitened,
            strength: 4.0,
            noise: 0.3,
            tokens: 10,
            diff_scale: 1.0,
        }
    }
}

/// Which activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum InputKind {
    /// Adapter on minus adapter off, on the same tokens.
    Difference,
    /// Adapter on.
    Adapted,
    /// Adapter off: a control that can know nothing.
    Base,
}

/// Positions of a context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Positions {
    /// The last ones of a user turn, the reply's opening included.
    Last(usize),
    /// The first ones of a plain text (Minder et al., arXiv 2510.13900).
    First(usize),
}

impl Positions {
    /// How many.
    pub fn count(self) -> usize {
        let (Self::Last(n) | Self::First(n)) = self;
        n
    }
}

/// How vectors are scaled before they are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Scaling {
    /// Divided by one constant a layer, the mean norm over the training diffs: faint stays faint.
    Raw,
    /// As `raw`, after the final norm's weight: in a late layer such a vector is a mix of rows of the unembedding, which in models with
    /// tied embeddings are what an oracle's own input is made of.
    Unembed,
    /// Direction only, as published oracles take it (arXiv 2512.15674).
    Unit,
    /// Every dimension standardised over the training diffs, direction only.
    Whitened,
}

/// How a reader is trained on the adapter set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Train {
    /// Steps, at most; validation adapters choose which is kept.
    pub steps: usize,
    /// If given, instead of `steps`: as many as fit into this many TFLOP, collection and pretraining counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tflop: Option<f64>,
    /// Peak learning rate of AdamW.
    pub learning_rate: f64,
    /// Rank of the reader's LoRA; alpha is twice that.
    pub rank: usize,
    /// Rows of a step.
    pub batch: usize,
    /// Steps of linear warm-up.
    pub warmup_steps: usize,
    /// Evaluate every so many steps.
    pub evaluate_every: usize,
    /// Stop after so many evaluations without a better one.
    pub patience: usize,
    /// Whose labels.
    pub labels: Labels,
    /// Contexts in which gated training subjects are shown, row by row in turn.
    pub contexts: Vec<Context>,
    /// Vectors are scaled by a factor drawn between these two for every row (1 to 1: as they are).
    pub vector_scale: (f32, f32),
    /// Weight of rows whose answer is "nothing".
    pub negative_weight: f32,
    /// Families that are left out: no adapter of theirs trains the reader, decides when it stops or takes part in a choice, and none
    /// of their questions is asked meanwhile. Their test adapters are asked about as before.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub without: BTreeSet<String>,
    /// At most so many training adapters of a family, by its name, those that failed their gate among them; of families that are not
    /// named, all.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub at_most: BTreeMap<String, usize>,
}

impl Default for Train {
    fn default() -> Self {
        Self {
            steps: 48,
            tflop: None,
            learning_rate: 1e-3,
            rank: 8,
            batch: 16,
            warmup_steps: 12,
            evaluate_every: 24,
            patience: 3,
            labels: Labels::True,
            contexts: neutral(),
            vector_scale: (1.0, 1.0),
            negative_weight: 1.0,
            without: BTreeSet::new(),
            at_most: BTreeMap::new(),
        }
    }
}

impl Train {
    /// The same with its steps cut to what is left of its TFLOP, if it has any, at so many FLOPs a step.
    pub fn within(&self, spent: f64, flops_a_step: f64) -> Self {
        let steps = self.tflop.map_or(self.steps, |t| ((t * 1e12 - spent) / flops_a_step).max(1.0) as usize);
        let evaluate_every = if self.tflop.is_some() {
            steps.div_ceil(12).max(self.evaluate_every)
        } else {
            self.evaluate_every
        };
        Self { steps, evaluate_every, ..self.clone() }
    }

    /// The settings of a fit.
    pub fn fit(&self, seed: u64) -> FitConfig {
        FitConfig {
            adapter: AdapterConfig::all_linear(self.rank, 2.0 * self.rank as f32),
            learning_rate: self.learning_rate,
            warmup_steps: self.warmup_steps,
            max_steps: self.steps,
            batch: self.batch,
            evaluate_every: self.evaluate_every,
            patience: self.patience,
            ..FitConfig::reader(self.steps, seed)
        }
    }
}

/// Whose labels a reader is trained with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Labels {
    /// The adapters' own.
    True,
    /// Each family's, dealt out anew: what the format of the answers alone gives.
    Permuted,
}

/// How an oracle is pretrained: shares of four kinds of rows, none of which needs an adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Pretrain {
    /// Steps.
    pub steps: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Evaluate every so many steps.
    pub evaluate_every: usize,
    /// Predict the tokens before or after a window of activations (arXiv 2512.15674, appendix B.2).
    pub context: f64,
    /// Name what a system prompt is about, from the difference that it makes.
    pub system: f64,
    /// Yes or no: does the text that a vector was read from have a property?
    pub properties: f64,
    /// Name the word that a vector points to in the unembedding.
    pub unembed: f64,
    /// Texts for context prediction; empty: replies sampled from the base model.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub texts: Vec<String>,
}

impl Default for Pretrain {
    fn default() -> Self {
        Self {
            steps: 160,
            learning_rate: 1e-3,
            evaluate_every: 80,
            context: 0.15,
            system: 0.85,
            properties: 0.0,
            unembed: 0.0,
            texts: vec![],
        }
    }
}

/// Which reader an arm names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which<'a> {
    /// Trained on the adapter set from a fresh LoRA.
    Scratch,
    /// Pretrained only.
    Pretrained,
    /// Pretrained, then trained on the adapter set.
    Posttrained,
    /// One that exists: an id or name of the catalogue.
    Known(&'a str),
}

impl Arm {
    /// An arm of a method with everything else as by default.
    pub fn of(method: &str) -> Self {
        Self {
            name: method.to_owned(),
            method: method.to_owned(),
            reader: None,
            input: Input::default(),
            contexts: neutral(),
            asks: vec![],
            train: Train::default(),
            pretrain: Pretrain::default(),
            seeds: vec![],
        }
    }

    /// Which reader it names; from scratch if none.
    pub fn which(&self) -> Which<'_> {
        match self.reader.as_deref() {
            None | Some("scratch") => Which::Scratch,
            Some("pretrained") => Which::Pretrained,
            Some("posttrained") => Which::Posttrained,
            Some(name) => Which::Known(name),
        }
    }

    /// Checks what needs no method: numbers within their ranges, layers within the model. The place is the field.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn check(&self, outline: &Outline) -> Result<(), Wrong> {
        let blocks = outline.architecture.layers.len();
        for (i, &layer) in self.input.layers.iter().enumerate() {
            if layer >= blocks {
                let what = format!("{layer} is beyond the model, which has blocks 0 to {}", blocks - 1);
                return Err(Wrong::at(format!("input.layers[{i}]"), what));
            }
        }
        for (i, depth) in self.input.depths.iter().enumerate() {
            if !(0.0..1.0).contains(depth) {
                return Err(Wrong::at(format!("input.depths[{i}]"), format!("{depth} is not in 0..1")));
            }
        }
        let mut seen = self.input.layers.clone();
        seen.sort_unstable();
        if seen.windows(2).any(|w| w[0] == w[1]) {
            return Err(Wrong::at("input.layers", "names a block twice"));
        }
        if !self.input.layers.is_empty() && !self.input.depths.is_empty() {
            return Err(Wrong::at("input.depths", "is given beside input.layers; give one of them"));
        }
        let (input, train, pre) = (&self.input, &self.train, &self.pretrain);
        let whole = |place: &str, value: usize, low: usize, high: usize| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            Err(Wrong::at(place, format!("{value} is not in {low}..={high}")))
        };
        let share = |place: &str, value: f64, high: f64| {
            if value.is_finite() && (0.0..=high).contains(&value) {
                return Ok(());
            }
            Err(Wrong::at(place, format!("{value} is not in 0..={high}")))
        };
        whole("input.positions", input.positions.count(), 1, 64)?;
        whole("input.asked", input.asked, 1, 64)?;
        whole("input.drawn", input.drawn, 1, 64)?;
        whole("input.tokens", input.tokens, 1, 100)?;
        share("input.strength", f64::from(input.strength), 1000.0)?;
        share("input.noise", f64::from(input.noise), 100.0)?;
        share("input.diff_scale", f64::from(input.diff_scale), 100.0)?;
        whole("train.steps", train.steps, 1, 1_000_000)?;
        whole("train.rank", train.rank, 1, outline.architecture.hidden_size.min(256))?;
        whole("train.batch", train.batch, 1, 4096)?;
        whole("train.evaluate_every", train.evaluate_every, 1, 1_000_000)?;
        whole("train.patience", train.patience, 1, 1_000_000)?;
        if let (Which::Known(name), Some(family)) = (self.which(), train.without.first()) {
            let what = format!(
                "{family:?}: the reader {name:?} is there already, trained on what it was trained on"
            );
            return Err(Wrong::at("train.without", what));
        }
        if !(train.negative_weight > 0.0 && train.negative_weight <= 100.0) {
            let what = format!("{} is not above 0 and at most 100", train.negative_weight);
            return Err(Wrong::at("train.negative_weight", what));
        }
        if matches!(input.positions, Positions::First(_)) {
            // A trigger and a system prompt come after what is read, or are not there at all.
            if self.contexts.iter().chain(&train.contexts).any(|c| *c != Context::Neutral) {
                return Err(Wrong::at(
                    "contexts",
                    "first positions come before any trigger: only neutral is seen",
                ));
            }
            if matches!(self.which(), Which::Pretrained | Which::Posttrained) && pre.context < 1.0 {
                return Err(Wrong::at(
                    "pretrain",
                    "at first positions only context prediction can be pretrained",
                ));
            }
        }
        for (place, rate) in
            [("train.learning_rate", train.learning_rate), ("pretrain.learning_rate", pre.learning_rate)]
        {
            if !(rate > 0.0 && rate <= 1.0) {
                return Err(Wrong::at(place, format!("{rate} is not above 0 and at most 1")));
            }
        }
        if let Some(tflop) = train.tflop
            && !(tflop > 0.0 && tflop <= 1e6)
        {
            return Err(Wrong::at("train.tflop", format!("{tflop} is not above 0 and at most 1e6")));
        }
        let (low, high) = train.vector_scale;
        if !(low > 0.0 && low <= high && high <= 100.0) {
            return Err(Wrong::at("train.vector_scale", format!("[{low}, {high}] is no range above 0")));
        }
        whole("pretrain.steps", pre.steps, 1, 1_000_000)?;
        whole("pretrain.evaluate_every", pre.evaluate_every, 1, 1_000_000)?;
        for (place, value) in [
            ("pretrain.context", pre.context),
            ("pretrain.system", pre.system),
            ("pretrain.properties", pre.properties),
            ("pretrain.unembed", pre.unembed),
        ] {
            share(place, value, 1.0)?;
        }
        let sum = pre.context + pre.system + pre.properties + pre.unembed;
        if (sum - 1.0).abs() > 1e-6 {
            return Err(Wrong::at("pretrain", format!("its shares sum to {sum}, not to 1")));
        }
        for (place, contexts) in [("contexts", &self.contexts), ("train.contexts", &train.contexts)] {
            if contexts.is_empty() {
                return Err(Wrong::at(place, "is empty"));
            }
        }
        Ok(())
    }

    /// What decides how its reader comes out, and nothing else: no name, no seeds, not where it is asked.
    pub fn made_by(&self) -> Self {
        Self { name: String::new(), contexts: neutral(), asks: vec![], seeds: vec![], ..self.clone() }
    }

    /// What decides how it answers under one reader: as [`Arm::made_by`], and what it is asked, and where.
    pub fn asked_by(&self) -> Self {
        Self { name: String::new(), seeds: vec![], ..self.clone() }
    }
}
