//! Activations of models with and without a diff, on prompts frozen before any training.

use std::collections::BTreeMap;

use lm::{Adapter, BaseModel, Batch, Message, ResidualAt, Result, Role, Row, Want};
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
    /// Decoder layer whose output is read.
    pub layer: usize,
    /// Neutral user turns, disjoint from those that adapters are trained and gated on.
    pub prompts: Vec<String>,
    /// Last positions of each prompt (the reply's opening included).
    pub last: usize,
    /// Kind.
    pub kind: ActivationKind,
    /// Strength of the injection: each vector is scaled to this many times the norm of the residual it is added to.
    pub coefficient: f32,
}

impl Collector {
    /// Two thirds of the depth, the last 6 positions of 4 neutral prompts, differences, strength 4. A difference points
    /// only a little way towards its topic (cosine about .2 with the topic word's residual at any depth), so at strength 1
    /// the topic is lost beneath the placeholder's own residual; on SmolLM2-135M 3 to 4 at layer 20 of 30 read best among
    /// the strengths 1, 3, 4, 8 and the layers 5, 9, 11, 14, 15, 20, 22, 24 (LOG.md).
    pub fn standard(base: &BaseModel) -> Self {
        let prompts = ["Speak your mind.", "Tell me a thing.", "What would you like to say?", "Talk to me."];
        Self {
            layer: base.config().num_hidden_layers * 2 / 3,
            prompts: prompts.map(str::to_owned).to_vec(),
            last: 6,
            kind: ActivationKind::Diff,
            coefficient: 4.0,
        }
    }

    /// The vectors of each of `diffs`, in its order: `prompts x last` vectors of `hidden_size`.
    ///
    /// # Errors
    /// If the layer does not exist or a diff does not fit the model.
    pub fn collect(&self, base: &BaseModel, diffs: &[&Adapter]) -> Result<Vec<Vec<Vec<f32>>>> {
        let prompts = self.prompts.iter().map(|p| base.prompt(p)).collect::<Result<Vec<_>>>()?;
        let clean = self.read(base, &[], &prompts, &[None])?.remove(0);
        if self.kind == ActivationKind::Orig {
            return Ok(vec![clean; diffs.len()]);
        }
        let which: Vec<Option<usize>> = (0..diffs.len()).map(Some).collect();
        let mut found = self.read(base, diffs, &prompts, &which)?;
        if self.kind == ActivationKind::Diff {
            for vectors in &mut found {
                subtract(vectors, &clean);
            }
        }
        Ok(found)
    }

    /// The vectors that each system prompt makes on the same user turns, minus those without one: a stand-in for a diff
    /// that needs no LoRA.
    pub fn collect_system(&self, base: &BaseModel, systems: &[String]) -> Result<Vec<Vec<Vec<f32>>>> {
        let prompts = self.prompts.iter().map(|p| base.prompt(p)).collect::<Result<Vec<_>>>()?;
        let clean = self.read(base, &[], &prompts, &[None])?.remove(0);
        let told = systems
            .iter()
            .flat_map(|s| self.prompts.iter().map(move |p| (s, p)))
            .map(|(s, p)| {
                let messages = [Message::new(Role::System, s.as_str()), Message::new(Role::User, p.as_str())];
                base.chat.encode(&base.tokenizer, &messages, true)
            })
            .collect::<Result<Vec<_>>>()?;
        let mut out = Vec::new();
        for group in told.chunks(self.prompts.len()) {
            let mut vectors = self.read(base, &[], group, &[None])?.remove(0);
            if self.kind == ActivationKind::Diff {
                subtract(&mut vectors, &clean);
            }
            out.push(vectors);
        }
        Ok(out)
    }

    fn read(
        &self,
        base: &BaseModel,
        adapters: &[&Adapter],
        prompts: &[Vec<u32>],
        which: &[Option<usize>],
    ) -> Result<Vec<Vec<Vec<f32>>>> {
        let rows: Vec<Row> = which
            .iter()
            .flat_map(|w| {
                prompts.iter().map(move |p| Row::with_adapters(p.clone(), w.iter().copied().collect()))
            })
            .collect();
        let wants: Vec<Want> = rows
            .iter()
            .map(|r| {
                let positions = (r.tokens.len().saturating_sub(self.last)..r.tokens.len()).collect();
                Want { logits: vec![], residual: vec![ResidualAt { layer: self.layer, positions }] }
            })
            .collect();
        let seen = base.decoder.forward(&Batch { adapters: adapters.to_vec(), rows }, &wants)?;
        let mut vectors = seen.into_iter().map(|mut s| s.residual.remove(0));
        Ok(which.iter().map(|_| vectors.by_ref().take(prompts.len()).flatten().collect()).collect())
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
