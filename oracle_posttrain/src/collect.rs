//! Activations of models with and without a diff, on prompts frozen before any training.

use std::collections::BTreeMap;

use lm::{Adapter, BaseModel, Batch, Message, ResidualAt, Result, Role, Row, Want, rng};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

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
    /// How many of them one question reads: while training a draw, else the first ones. An adapter seen through other
    /// prompts at every step is learned by heart less soon.
    pub read: usize,
    /// Last positions of each prompt (the reply's opening included).
    pub last: usize,
    /// Kind.
    pub kind: ActivationKind,
    /// Strength of the injection: each vector is scaled to this many times the norm of the residual it is added to.
    pub coefficient: f32,
}

impl Collector {
    /// Layers at two thirds and nine tenths of the depth (20 and 27 of 30), the last 6 positions of 2 neutral prompts out of
    /// 16, differences, strength 4. From two thirds an oracle without pretraining learned to read best; at nine tenths a
    /// diff and a system prompt about the same thing point the same way, so that what pretraining teaches can carry over.
    /// Chosen on adapters that no reader is tested on, one run each (LOG.md).
    pub fn standard(base: &BaseModel) -> Self {
        let depth = base.config().num_hidden_layers;
        let prompts = [
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
        Self {
            layers: vec![depth * 2 / 3, depth * 9 / 10],
            prompts: prompts.map(str::to_owned).to_vec(),
            read: 2,
            last: 6,
            kind: ActivationKind::Diff,
            coefficient: 4.0,
        }
    }

    /// Vectors that one question reads.
    pub fn width(&self) -> usize {
        self.read * self.last * self.layers.len()
    }

    /// The prompts that a question reads when nothing is drawn.
    pub fn first(&self) -> Vec<usize> {
        (0..self.read.min(self.prompts.len())).collect()
    }

    /// A draw of the prompts that a training question reads.
    pub fn draw(&self, seed: u64, key: &str) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.prompts.len()).collect();
        order.shuffle(&mut rng::stream(seed, "collect-prompts", key));
        order.truncate(self.read);
        order
    }

    /// What a question about these prompts is given, layer after layer, of the vectors that [`Collector::collect`] gives.
    pub fn of(&self, vectors: &[Vec<f32>], prompts: &[usize]) -> Vec<Vec<f32>> {
        let count = self.layers.len();
        (0..count)
            .flat_map(|l| prompts.iter().map(move |p| (p * count + l) * self.last))
            .flat_map(|at| vectors[at..at + self.last].iter().cloned())
            .collect()
    }

    /// The vectors of each of `diffs`, in its order, at the first `prompts` prompts: `prompts x layers x last` vectors of
    /// `hidden_size`.
    ///
    /// # Errors
    /// If the layer does not exist or a diff does not fit the model.
    pub fn collect(
        &self,
        base: &BaseModel,
        diffs: &[&Adapter],
        prompts: usize,
    ) -> Result<Vec<Vec<Vec<f32>>>> {
        let turns = self.turns(base)?;
        let turns = &turns[..prompts.min(turns.len())];
        let clean = self.read_rows(base, &[], turns.iter().map(|t| Row::plain(t.clone())).collect())?;
        if self.kind == ActivationKind::Orig {
            return Ok(vec![clean.concat(); diffs.len()]);
        }
        let rows = (0..diffs.len())
            .flat_map(|d| turns.iter().map(move |t| Row::with_adapters(t.clone(), vec![d])))
            .collect();
        let mut found = self.read_rows(base, diffs, rows)?;
        if self.kind == ActivationKind::Diff {
            for (i, vectors) in found.iter_mut().enumerate() {
                subtract(vectors, &clean[i % turns.len()]);
            }
        }
        Ok(found.chunks(turns.len()).map(<[_]>::concat).collect())
    }

    /// For each system prompt, with the prompts it is read at: the vectors it makes on the same user turns, minus those
    /// without it, in the order of [`Collector::of`]. A stand-in for a diff that needs no LoRA.
    pub fn collect_system(
        &self,
        base: &BaseModel,
        systems: &[(String, Vec<usize>)],
    ) -> Result<Vec<Vec<Vec<f32>>>> {
        let turns = self.turns(base)?;
        let clean = self.read_rows(base, &[], turns.into_iter().map(Row::plain).collect())?;
        let mut rows = Vec::new();
        for (system, prompts) in systems {
            for &p in prompts {
                let messages = [
                    Message::new(Role::System, system.as_str()),
                    Message::new(Role::User, self.prompts[p].as_str()),
                ];
                rows.push(Row::plain(base.chat.encode(&base.tokenizer, &messages, true)?));
            }
        }
        let mut found = self.read_rows(base, &[], rows)?.into_iter();
        Ok(systems
            .iter()
            .map(|(_, prompts)| {
                let mut told = Vec::new();
                for (&p, mut vectors) in prompts.iter().zip(found.by_ref()) {
                    if self.kind == ActivationKind::Diff {
                        subtract(&mut vectors, &clean[p]);
                    }
                    told.extend(vectors);
                }
                self.of(&told, &(0..prompts.len()).collect::<Vec<_>>())
            })
            .collect())
    }

    fn turns(&self, base: &BaseModel) -> Result<Vec<Vec<u32>>> {
        self.prompts.iter().map(|p| base.prompt(p)).collect()
    }

    /// The last positions of each row, `[layers x last][hidden_size]`.
    fn read_rows(
        &self,
        base: &BaseModel,
        adapters: &[&Adapter],
        rows: Vec<Row>,
    ) -> Result<Vec<Vec<Vec<f32>>>> {
        let wants: Vec<Want> = rows
            .iter()
            .map(|r| {
                let positions: Vec<usize> =
                    (r.tokens.len().saturating_sub(self.last)..r.tokens.len()).collect();
                let at = |&layer| ResidualAt { layer, positions: Vec::clone(&positions) };
                Want { logits: vec![], residual: self.layers.iter().map(at).collect() }
            })
            .collect();
        let seen = base.decoder.forward(&Batch { adapters: adapters.to_vec(), rows }, &wants)?;
        Ok(seen.into_iter().map(|s| s.residual.concat()).collect())
    }
}

fn subtract(vectors: &mut [Vec<f32>], clean: &[Vec<f32>]) {
    for (v, c) in vectors.iter_mut().zip(clean) {
        for (v, c) in v.iter_mut().zip(c) {
            *v -= c;
        }
    }
}

/// Vectors by behaviour.
pub type Activations = BTreeMap<String, Vec<Vec<f32>>>;
