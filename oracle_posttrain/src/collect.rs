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
    /// Deviation of the noise that training adds to standardised vectors.
    pub noise: f32,
}

impl Collector {
    /// Layers a little past the middle and at nine tenths of the depth (17 and 27 of 30), the last 6 positions averaged over
    /// 4 of 16 neutral prompts, differences, strength 4, noise 0.3. An oracle without pretraining learned to read the first
    /// best; at the second a diff and a system prompt about the same thing point the same way, so that what pretraining
    /// teaches can carry over. Chosen on adapters that no reader is tested on, one run each (LOG.md).
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
            layers: vec![depth * 4 / 7, depth * 9 / 10],
            prompts: prompts.map(str::to_owned).to_vec(),
            drawn: 4,
            asked: 8,
            last: 6,
            kind: ActivationKind::Diff,
            coefficient: 4.0,
            noise: 0.3,
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

    /// What each of `diffs` shows, in its order, at the first `prompts` prompts.
    ///
    /// # Errors
    /// If the layer does not exist or a diff does not fit the model.
    pub fn collect(&self, base: &BaseModel, diffs: &[&Adapter], prompts: usize) -> Result<Vec<Shown>> {
        let turns = self.turns(base)?;
        let turns = &turns[..prompts.min(turns.len())];
        let clean = self.read_rows(base, &[], turns.iter().map(|t| Row::plain(t.clone())).collect())?;
        if self.kind == ActivationKind::Orig {
            return Ok(vec![clean.into_iter().enumerate().collect(); diffs.len()]);
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
        Ok(found.chunks(turns.len()).map(|c| c.iter().cloned().enumerate().collect()).collect())
    }

    /// What a model without any diff shows at the first `prompts` prompts: no difference, or the clean model.
    ///
    /// # Errors
    /// As [`Collector::collect`].
    pub fn without_diff(&self, base: &BaseModel, prompts: usize) -> Result<Shown> {
        let turns = self.turns(base)?.into_iter().take(prompts);
        let mut clean = self.read_rows(base, &[], turns.map(Row::plain).collect())?;
        if self.kind == ActivationKind::Diff {
            clean.iter_mut().flatten().for_each(|v| v.fill(0.0));
        }
        Ok(clean.into_iter().enumerate().collect())
    }

    /// For each system prompt, what it makes of the user turns with these indices, minus what they are without it. A
    /// stand-in for a diff that needs no LoRA.
    ///
    /// # Errors
    /// As [`Collector::collect`].
    pub fn collect_system(&self, base: &BaseModel, systems: &[(String, Vec<usize>)]) -> Result<Vec<Shown>> {
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
                let told = prompts.iter().zip(found.by_ref()).map(|(&p, mut vectors)| {
                    if self.kind == ActivationKind::Diff {
                        subtract(&mut vectors, &clean[p]);
                    }
                    (p, vectors)
                });
                told.collect()
            })
            .collect())
    }

    /// All that decides what the diff with these weights shows at all prompts, for a cache. How many prompts are drawn or
    /// asked, and what is added to the vectors later, is no part of it.
    pub fn identity(&self, base: &BaseModel, weights: &str) -> serde_json::Value {
        serde_json::json!({"schema": "activations/1", "base": base.digest(), "weights": weights, "kind": self.kind,
            "layers": self.layers, "prompts": self.prompts, "last": self.last})
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
        };
        let vector = |p: usize, i: usize| vec![p as f32, i as f32, -0.5];
        let shown: Shown = (0..3).map(|p| (p, (0..4).map(|i| vector(p, i)).collect())).collect();
        let bytes = Collector::to_bytes(&shown);
        assert_eq!(collector.from_bytes(&bytes, 3), Some(shown));
        assert_eq!(collector.from_bytes(&bytes, 4), None);
        assert_eq!(collector.from_bytes(&bytes[..bytes.len() - 1], 3), None);
    }
}
