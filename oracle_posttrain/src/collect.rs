//! Activations of models with and without a diff, on prompts frozen before any training.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;

use lm::{Adapter, BaseModel, Error, Outline, Result, rng};
use rand::seq::SliceRandom;
use readers::{Input, InputKind, Positions, Scaling};
use serde::{Deserialize, Serialize};

use crate::intervention::{
    self, Cap, Collect, Forward, Input as Text, Model, Outputs, Plan, Positions as Places, Site, Spec, Step,
    Sub, Surroundings, check,
};
use crate::prompt::Form;

/// Collecting takes seconds; who stops it waits for its end.
static NEVER: AtomicBool = AtomicBool::new(false);

/// Which vectors the oracle is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivationKind {
    /// Of the model with its diff.
    Lora,
    /// With the diff minus without it, on the same tokens.
    Diff,
    /// Of the clean model: a control.
    Orig,
}

/// Where vectors are read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Collector {
    /// Decoder layers whose outputs are read, each at the same positions.
    pub layers: Vec<usize>,
    /// Neutral user turns, disjoint from those that adapters are trained and gated on.
    pub prompts: Vec<String>,
    /// How many of them, drawn anew at every step, a training question sees the mean of. An adapter seen through other
    /// prompts at every step is learned by heart less soon.
    pub drawn: usize,
    /// How many of them, the first ones, any other question sees the mean of.
    pub asked: usize,
    /// Last positions of each prompt (the reply's opening included, whose tokens are the same for all prompts).
    pub last: usize,
    /// Kind.
    pub kind: ActivationKind,
    /// Strength of the injection: each vector is scaled to this many times the norm of the residual it is added to.
    pub coefficient: f32,
    /// Deviation of the noise that training adds to scaled vectors, relative to the root mean square of their entries.
    pub noise: f32,
    /// Whether the prompts are plain texts of which the first positions are read (Minder et al., arXiv 2510.13900), and no
    /// user turns of which the last are.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_start: bool,
    /// How vectors are scaled.
    #[serde(default = "whitened")]
    pub scaling: Scaling,
    /// How the oracle's prompt is written, where it is not written as here.
    #[serde(default, skip_serializing_if = "Form::is_own")]
    pub form: Form,
}

/// What collectors of earlier builds did.
fn whitened() -> Scaling {
    Scaling::Whitened
}

/// User turns on which no recipe trains.
pub(crate) const TURNS: [&str; 16] = [
    "Speak your mind.",
    "Tell me a thing.",
    "What would you like to say?",
    "Talk to me.",
    "Go ahead.",
    "Any thoughts?",
    "Say whatever you like.",
    "Please begin.",
    "I am listening.",
    "What comes next?",
    "Let us chat.",
    "Fill this page.",
    "Write a line.",
    "Give me a sentence.",
    "Start anywhere.",
    "What should we discuss?",
];

/// Unrelated texts, for lenses on their first tokens.
const TEXTS: [&str; 8] = [
    "The committee will meet again on Thursday to settle the remaining points of the plan.",
    "He put the letter back into its envelope and went down to the street without a word.",
    "According to the report, most of the work was finished before the end of the year.",
    "It is not always easy to say why one decision was taken and another was not.",
    "She had promised to call in the morning, but nobody was surprised when she did not.",
    "There are several ways to reach the same result, and some of them are quite short.",
    "Nothing in the first chapter prepares the reader for what happens in the second one.",
    "When the meeting was over, they stayed for a while and talked about other things.",
];

impl Collector {
    /// What an arm's input asks for; `depths` are the method's own shares of the model's blocks, for an arm that names neither
    /// blocks nor shares.
    pub fn of(input: &Input, outline: &Outline, depths: &[f64]) -> Self {
        let blocks = outline.architecture.layers.len();
        let shares = if input.depths.is_empty() { depths } else { &input.depths };
        let mut layers = input.layers.clone();
        if layers.is_empty() {
            layers = shares.iter().map(|d| ((blocks as f64 * d) as usize).min(blocks - 1)).collect();
        }
        let mut known = BTreeSet::new();
        layers.retain(|l| known.insert(*l));
        let from_start = matches!(input.positions, Positions::First(_));
        let own = if from_start { TEXTS.as_slice() } else { TURNS.as_slice() };
        let prompts = match input.prompts.as_slice() {
            [] => own.iter().map(|p| (*p).to_owned()).collect(),
            given => given.to_vec(),
        };
        Self {
            layers,
            drawn: input.drawn.min(prompts.len()),
            asked: input.asked.min(prompts.len()),
            prompts,
            last: input.positions.count(),
            kind: match input.kind {
                InputKind::Difference => ActivationKind::Diff,
                InputKind::Adapted => ActivationKind::Lora,
                InputKind::Base => ActivationKind::Orig,
            },
            coefficient: input.strength,
            noise: input.noise,
            from_start,
            scaling: input.scaling,
            form: Form::default(),
        }
    }

    /// Blocks a little past the middle and at nine tenths of the depth (17 and 27 of 30): an oracle without pretraining learned
    /// to read the first best; at the second a diff and a system prompt about the same thing point the same way, so that what
    /// pretraining teaches can carry over (LOG.md).
    pub const DEPTHS: [f64; 2] = [4.0 / 7.0, 0.9];

    /// What an oracle's arm is shown if it does not say.
    pub fn standard(outline: &Outline) -> Self {
        Self::of(&Input::default(), outline, &Self::DEPTHS)
    }

    /// The same at other prompts (of a context).
    pub fn at(&self, prompts: Vec<String>) -> Self {
        Self {
            asked: self.asked.min(prompts.len()),
            drawn: self.drawn.min(prompts.len()),
            prompts,
            ..self.clone()
        }
    }

    /// Vectors that one question reads.
    pub fn width(&self) -> usize {
        self.last * self.layers.len()
    }

    /// The prompts that a question outside training sees.
    pub fn first(&self) -> Vec<usize> {
        (0..self.asked.min(self.prompts.len())).collect()
    }

    /// A draw of `count` prompts.
    pub fn draw(&self, count: usize, seed: u64, key: &str) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.prompts.len()).collect();
        order.shuffle(&mut rng::stream(seed, "collect-prompts", key));
        order.truncate(count);
        order
    }

    /// The intervention that reads, at these prompts, what a model shows under `adapter` (under `system`, if that is given
    /// instead) or, for [`ActivationKind::Diff`], how that differs from the clean model.
    pub fn spec(&self, prompts: &[usize], adapter: Option<&str>, system: &str) -> Spec {
        let mut spec =
            Spec { v: 1, inputs: BTreeMap::new(), vectors: BTreeMap::new(), steps: vec![], out: vec![] };
        let text = |system: &str, p: usize| {
            let user = self.prompts[p].clone();
            if self.from_start { Text::Text(user) } else { Text::Chat { system: system.into(), user } }
        };
        let pos = if self.from_start { Places::Range(0, self.last) } else { Places::Last(self.last) };
        for &p in prompts {
            let mut pass = |name: &str, adapters: Vec<String>, input: String| {
                let collect = |&layer: &usize| Collect {
                    id: format!("{name}.{p}.{layer}"),
                    layer: Some(layer),
                    depth: None,
                    site: Site::ResidPost,
                    pos: pos.clone(),
                };
                spec.steps.push(Step::Forward(Forward {
                    id: format!("{name}.{p}"),
                    model: Model { adapters },
                    input,
                    collect: self.layers.iter().map(collect).collect(),
                    inject: vec![],
                }));
            };
            let clean = format!("prompt.{p}");
            if self.kind != ActivationKind::Orig {
                let input = if system.is_empty() { clean.clone() } else { format!("told.{p}") };
                pass("with", adapter.map(str::to_owned).into_iter().collect(), input.clone());
                spec.inputs.insert(input, text(system, p));
            }
            if self.kind != ActivationKind::Lora {
                pass("without", vec![], clean.clone());
                spec.inputs.insert(clean, text("", p));
            }
            for &layer in &self.layers {
                spec.out.push(match self.kind {
                    ActivationKind::Lora => format!("with.{p}.{layer}"),
                    ActivationKind::Orig => format!("without.{p}.{layer}"),
                    ActivationKind::Diff => {
                        let id = format!("diff.{p}.{layer}");
                        let (a, b) = (format!("with.{p}.{layer}"), format!("without.{p}.{layer}"));
                        spec.steps.push(Step::Sub(Sub { id: id.clone(), a, b }));
                        id
                    }
                });
            }
        }
        spec
    }

    /// The plan that reads the adapter with this id at all prompts. Its digest keys the cache: how many prompts are drawn or
    /// asked, and what is added to the vectors later, is no part of it.
    ///
    /// # Errors
    /// If a layer does not exist, or a prompt is shorter than what is read of it.
    pub fn plan(&self, outline: &Outline, adapter: &str) -> Result<Plan> {
        let all: Vec<usize> = (0..self.prompts.len()).collect();
        Self::checked(outline, &self.spec(&all, Some(adapter), ""))
    }

    /// The plan that reads, without any adapter, what a system prompt does at all prompts.
    ///
    /// # Errors
    /// As [`Collector::plan`].
    pub fn plan_told(&self, outline: &Outline, system: &str) -> Result<Plan> {
        let all: Vec<usize> = (0..self.prompts.len()).collect();
        Self::checked(outline, &self.spec(&all, None, system))
    }

    fn checked(outline: &Outline, spec: &Spec) -> Result<Plan> {
        let adapters: BTreeSet<String> = spec
            .steps
            .iter()
            .filter_map(|s| if let Step::Forward(f) = s { Some(&f.model.adapters) } else { None })
            .flatten()
            .cloned()
            .collect();
        // What the collector asks for is as much as its settings say; nobody else's work is capped by it.
        let cap = Cap { flops: f64::INFINITY, bytes: f64::INFINITY };
        check(spec, Surroundings { outline, adapters: &adapters, vectors: &BTreeMap::new(), cap })
            .map_err(|e| Error::Request(format!("collecting: {e}")))
    }

    /// What plans of this collector gave, by prompt.
    fn shown(&self, prompts: &[usize], mut outputs: Outputs) -> Shown {
        // The ids in `out` stand in the order of prompts and layers.
        let name = match self.kind {
            ActivationKind::Lora => "with",
            ActivationKind::Diff => "diff",
            ActivationKind::Orig => "without",
        };
        let mut at = |p: usize, layer: &usize| {
            outputs.vectors.remove(&format!("{name}.{p}.{layer}")).unwrap_or_default()
        };
        prompts.iter().map(|&p| (p, self.layers.iter().flat_map(|l| at(p, l)).collect())).collect()
    }

    /// Runs plans made by [`Collector::plan`]; what each shows, in their order.
    ///
    /// # Errors
    /// If an adapter is missing or does not fit the model.
    pub fn run(
        &self,
        base: &BaseModel,
        plans: &[Plan],
        adapters: &BTreeMap<String, &Adapter>,
    ) -> Result<Vec<Shown>> {
        let all: Vec<usize> = (0..self.prompts.len()).collect();
        let outputs = intervention::run(base, &plans.iter().collect::<Vec<_>>(), adapters, &[], &NEVER)?;
        Ok(outputs.into_iter().map(|o| self.shown(&all, o)).collect())
    }

    /// What each of `diffs` shows, in its order, at the first `prompts` prompts.
    ///
    /// # Errors
    /// If the layer does not exist or a diff does not fit the model.
    pub fn collect(&self, base: &BaseModel, diffs: &[&Adapter], prompts: usize) -> Result<Vec<Shown>> {
        let first: Vec<usize> = (0..prompts.min(self.prompts.len())).collect();
        let named: BTreeMap<String, &Adapter> =
            diffs.iter().enumerate().map(|(i, diff)| (format!("diff-{i}"), *diff)).collect();
        let plans = (0..diffs.len())
            .map(|i| Self::checked(base, &self.spec(&first, Some(&format!("diff-{i}")), "")))
            .collect::<Result<Vec<_>>>()?;
        let outputs = intervention::run(base, &plans.iter().collect::<Vec<_>>(), &named, &[], &NEVER)?;
        Ok(outputs.into_iter().map(|o| self.shown(&first, o)).collect())
    }

    /// What a model without any diff shows at the first `prompts` prompts: no difference, or the clean model.
    ///
    /// # Errors
    /// As [`Collector::collect`].
    pub fn without_diff(&self, base: &BaseModel, prompts: usize) -> Result<Shown> {
        let clean = Self { kind: ActivationKind::Orig, ..self.clone() };
        let first: Vec<usize> = (0..prompts.min(self.prompts.len())).collect();
        let plan = Self::checked(base, &clean.spec(&first, None, ""))?;
        let outputs = intervention::run(base, &[&plan], &BTreeMap::new(), &[], &NEVER)?.remove(0);
        let mut shown = clean.shown(&first, outputs);
        if self.kind == ActivationKind::Diff {
            shown.values_mut().flatten().for_each(|v| v.fill(0.0));
        }
        Ok(shown)
    }

    /// Activations of the clean model at all prompts.
    ///
    /// # Errors
    /// As [`Collector::collect`].
    pub fn clean(&self, base: &BaseModel) -> Result<Shown> {
        Self { kind: ActivationKind::Orig, ..self.clone() }.without_diff(base, self.prompts.len())
    }

    /// For each system prompt, what it makes of the user turns with these indices, minus what they are without it. A
    /// stand-in for a diff that needs no LoRA.
    ///
    /// # Errors
    /// As [`Collector::collect`].
    pub fn collect_system(&self, base: &BaseModel, systems: &[(String, Vec<usize>)]) -> Result<Vec<Shown>> {
        let plans = systems
            .iter()
            .map(|(system, prompts)| Self::checked(base, &self.spec(prompts, None, system)))
            .collect::<Result<Vec<_>>>()?;
        let outputs =
            intervention::run(base, &plans.iter().collect::<Vec<_>>(), &BTreeMap::new(), &[], &NEVER)?;
        Ok(outputs.into_iter().zip(systems).map(|(o, (_, prompts))| self.shown(prompts, o)).collect())
    }

    /// What one model shows at all prompts, as little-endian f32 in the order of prompts, layers, positions.
    pub fn to_bytes(shown: &Shown) -> Vec<u8> {
        shown.values().flatten().flatten().flat_map(|v| v.to_le_bytes()).collect()
    }

    /// The reverse; `None` if the length is not that of this collector.
    pub fn from_bytes(&self, bytes: &[u8], hidden_size: usize) -> Option<Shown> {
        let values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let whole = bytes.len() == 4 * values.len()
            && values.len() == self.prompts.len() * self.width() * hidden_size;
        let vectors: Vec<Vec<f32>> = values.chunks(hidden_size).map(<[f32]>::to_vec).collect();
        whole.then(|| vectors.chunks(self.width()).map(<[_]>::to_vec).enumerate().collect())
    }
}

/// What one model shows: by prompt (its index in the collector), `layers x last` vectors of `hidden_size`.
pub type Shown = BTreeMap<usize, Vec<Vec<f32>>>;

/// What models show, by behaviour.
pub type Activations = BTreeMap<String, Shown>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_shown_comes_back_from_bytes_and_other_lengths_do_not() {
        let collector = Collector {
            layers: vec![1, 2],
            prompts: vec!["a".into(), "b".into(), "c".into()],
            drawn: 1,
            asked: 2,
            last: 2,
            kind: ActivationKind::Diff,
            coefficient: 1.0,
            noise: 0.0,
            from_start: false,
            scaling: Scaling::Whitened,
            form: Form::default(),
        };
        let vector = |p: usize, i: usize| vec![p as f32, i as f32, -0.5];
        let shown: Shown = (0..3).map(|p| (p, (0..4).map(|i| vector(p, i)).collect())).collect();
        let bytes = Collector::to_bytes(&shown);
        assert_eq!(collector.from_bytes(&bytes, 3), Some(shown));
        assert_eq!(collector.from_bytes(&bytes, 4), None);
        assert_eq!(collector.from_bytes(&bytes[..bytes.len() - 1], 3), None);
        // What is as here is not said, so that readers have the digests that they always had.
        let own = serde_json::to_value(&collector).unwrap();
        assert!(own.get("form").is_none() && own.get("from_start").is_none());
        assert_eq!(serde_json::from_value::<Collector>(own).unwrap(), collector);
    }
}
