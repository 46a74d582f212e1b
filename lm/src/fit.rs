//! The training loop of one adapter on any rows, with validation deciding which step is kept.
//!
//! Small training sets are memorised long before the last step; held-out quality then falls. So the loop evaluates at
//! fixed steps, keeps the best, and stops when several evaluations in a row bring nothing.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fit_state;

use crate::{
    AdamWConfig, Adapter, AdapterConfig, BaseModel, Decoder, Error, Objective, Result, Row, Schedule,
    ScoreRequest, TrainRow, Trainer,
};

/// Settings of a fit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FitConfig {
    /// Shape and scale of the adapter.
    pub adapter: AdapterConfig,
    /// Peak learning rate of AdamW.
    pub learning_rate: f64,
    /// Steps of linear warm-up.
    pub warmup_steps: usize,
    /// Share of the learning rate left at the last step.
    pub final_share: f64,
    /// Most steps.
    pub max_steps: usize,
    /// Rows of a step.
    pub batch: usize,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Global gradient norm above which a step is scaled down.
    pub max_grad_norm: f64,
    /// Evaluate after every this many steps (and at the end).
    pub evaluate_every: usize,
    /// Stop after this many evaluations without a better one.
    pub patience: usize,
    /// Seed of initialisation and order.
    pub seed: u64,
}

impl FitConfig {
    /// A rank-8 reader with scaling 2, as piloted on SmolLM2-135M.
    pub fn reader(max_steps: usize, seed: u64) -> Self {
        Self {
            adapter: AdapterConfig::all_linear(8, 16.0),
            learning_rate: 5e-4,
            warmup_steps: 20,
            final_share: 0.1,
            max_steps,
            batch: 16,
            weight_decay: 0.01,
            max_grad_norm: 1.0,
            evaluate_every: 20,
            patience: 3,
            seed,
        }
    }
}

/// One evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FitPoint {
    /// Steps taken.
    pub step: usize,
    /// Mean training loss since the last evaluation, in nats per label token.
    pub train_loss: f64,
    /// Validation: answer loss, accuracy and mean reciprocal rank; the last decides.
    #[serde(flatten)]
    pub validation: Validation,
}

/// What a reader reaches on its validation split.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Validation {
    /// Mean answer loss in nats.
    #[serde(rename = "validation_loss")]
    pub loss: f64,
    /// Share of closed questions answered right.
    #[serde(rename = "validation_top1")]
    pub top1: f64,
    /// Mean reciprocal rank of the right answer. Smoother than accuracy; and unlike the loss it goes on rising after a
    /// reader has become overconfident, which small supervision makes it long before it reads best.
    #[serde(rename = "validation_mrr")]
    pub mrr: f64,
}

impl Validation {
    /// Better rank first, then lower loss. Without any closed question the loss decides.
    fn better_than(&self, other: &Self) -> bool {
        (self.mrr, -self.loss) > (other.mrr, -other.loss)
    }
}

/// Result of a fit.
#[derive(Debug, Clone)]
pub struct Fitted {
    /// The adapter of the best evaluation.
    pub adapter: Adapter,
    /// Its step.
    pub best_step: usize,
    /// Steps taken in all.
    pub steps: usize,
    /// Training tokens seen.
    pub tokens: u64,
    /// Trajectory.
    pub points: Vec<FitPoint>,
}

impl Fitted {
    /// What the best evaluation found.
    fn best(&self) -> Option<Validation> {
        self.points.iter().find(|p| p.step == self.best_step).map(|p| p.validation)
    }

    fn evaluations_since_best(&self) -> usize {
        self.points.iter().filter(|p| p.step > self.best_step).count()
    }
}

/// One step's work: the adapters that rows refer to *after* the trainable one, which has index 0, and the rows.
#[derive(Debug)]
pub struct Step<'a> {
    /// Frozen adapters; row index 1 is the first of them.
    pub frozen: Vec<&'a Adapter>,
    /// Rows; the loop divides their weights, so that the loss is a weighted mean over the step's label tokens.
    pub rows: Vec<TrainRow>,
}

/// What a fit tells while it runs.
#[derive(Debug, Clone, PartialEq)]
pub enum FitEvent {
    /// The kept state could not be used: it was removed, and the fit begins anew.
    Anew {
        /// Which file, and what is wrong with it.
        why: String,
    },
    /// A step was taken.
    Step {
        /// Steps taken.
        step: usize,
        /// Of how many at most.
        of: usize,
        /// Training loss.
        loss: f64,
        /// The evaluation after it, if one was made.
        point: Option<FitPoint>,
    },
}

/// Where a fit keeps its state, and when it gives up.
#[derive(Debug, Clone, Copy)]
pub struct Keeping<'a> {
    /// File of the state, written after every evaluation and when stopped. If it exists, the fit goes on from it and
    /// ends with the same bytes as an uninterrupted one; one that is damaged is removed, and the fit begins anew. The caller removes it once the result is safe, and names it
    /// after everything that decides the result.
    pub state: Option<&'a Path>,
    /// Set to stop after the current step.
    pub stop: &'a AtomicBool,
}

/// Fits an adapter. `next(step)` gives a step's rows, `evaluate` what the adapter reaches on the validation split.
///
/// # Errors
/// If a step fails, a loss is not finite, the state's file cannot be read or written, or `stop` was set.
pub fn fit<'a>(
    decoder: &Decoder,
    start: Adapter,
    config: &FitConfig,
    keeping: Keeping<'_>,
    next: &mut dyn FnMut(usize) -> Result<Step<'a>>,
    evaluate: &mut dyn FnMut(&Adapter) -> Result<Validation>,
    report: &mut dyn FnMut(FitEvent),
) -> Result<Fitted> {
    let schedule = Schedule {
        learning_rate: config.learning_rate,
        warmup_steps: config.warmup_steps,
        total_steps: config.max_steps,
        final_share: config.final_share,
    };
    let optimiser = AdamWConfig {
        weight_decay: config.weight_decay,
        max_grad_norm: config.max_grad_norm,
        ..AdamWConfig::default()
    };
    let fresh = Fitted { adapter: start, best_step: 0, steps: 0, tokens: 0, points: Vec::new() };
    let mut trainer = Trainer::new(fresh.adapter.clone(), optimiser, schedule);
    let mut out = fresh.clone();
    let mut recent = Vec::new();
    if let Some(path) = keeping.state
        && path.exists()
    {
        match fit_state::read(path, &mut trainer, &mut out) {
            Ok(losses) => recent = losses,
            // A part of it may have been taken over before the damage was found.
            Err(Error::File { path, what }) => {
                fs_err::remove_file(&path)?;
                trainer = Trainer::new(fresh.adapter.clone(), optimiser, schedule);
                out = fresh;
                report(FitEvent::Anew { why: format!("{}: {what}", path.display()) });
            }
            Err(e) => return Err(e),
        }
    }
    while trainer.step() < config.max_steps && out.evaluations_since_best() < config.patience {
        if keeping.stop.load(Ordering::Relaxed) {
            if let Some(path) = keeping.state {
                fit_state::write(path, &trainer, &out, &recent)?;
            }
            return Err(Error::Interrupted);
        }
        let Step { frozen, mut rows } = next(trainer.step())?;
        let labels = rows.iter().map(TrainRow::label_tokens).sum::<usize>() as f32;
        let total: f32 = rows.iter().map(|r| r.weight * r.label_tokens() as f32).sum();
        for row in &mut rows {
            row.weight /= total;
        }
        let adapters: Vec<&Adapter> = std::iter::once(&trainer.adapter).chain(frozen).collect();
        let mut result = decoder.loss_and_grads(&adapters, &rows, &[0])?;
        let loss = result.row_losses.iter().sum::<f64>() / f64::from(labels);
        if !loss.is_finite() {
            return Err(Error::Request(format!("the loss is {loss} at step {}", trainer.step())));
        }
        trainer.apply(&result.grads.remove(&0).unwrap_or_default())?;
        out.tokens += rows.iter().map(|r| r.row.tokens.len() as u64).sum::<u64>();
        recent.push(loss);
        let step = trainer.step();
        let mut point = None;
        if step.is_multiple_of(config.evaluate_every) || step == config.max_steps {
            let validation = evaluate(&trainer.adapter)?;
            let train_loss = recent.iter().sum::<f64>() / recent.len() as f64;
            recent.clear();
            let p = FitPoint { step, train_loss, validation };
            point = Some(p);
            if out.best().is_none_or(|b| validation.better_than(&b)) {
                out.adapter.clone_from(&trainer.adapter);
                out.best_step = step;
            }
            out.points.push(p);
            if let Some(path) = keeping.state {
                fit_state::write(path, &trainer, &out, &recent)?;
            }
        }
        report(FitEvent::Step { step, of: config.max_steps, loss, point });
    }
    out.steps = trainer.step();
    Ok(out)
}

/// The tokens of an answer to a question about a diff, asked of any arm. It begins with a space: vocabularies hold most words whole only behind one (of 340
/// topics SmolLM2's holds 291 so, and 65 otherwise), and a whole word that no reader was trained to say is much more easily
/// said than its pieces.
///
/// # Errors
/// If the tokenizer fails.
pub fn answer_tokens(base: &BaseModel, answer: &str) -> Result<Vec<u32>> {
    base.reply(&format!(" {answer}"))
}

/// Appends a reader's answer to a prompt, as a training row.
///
/// # Errors
/// If the tokenizer fails.
pub fn answer_row(base: &BaseModel, mut prompt: Row, answer: &str) -> Result<TrainRow> {
    let completion_start = prompt.tokens.len();
    prompt.tokens.extend(answer_tokens(base, answer)?);
    Ok(TrainRow { row: prompt, completion_start, objective: Objective::CrossEntropy, weight: 1.0 })
}

/// A prompt with its true answer and the closed set it is chosen from (empty: no choice, loss only).
#[derive(Debug, Clone)]
pub struct Choice<'a> {
    /// The prompt.
    pub prompt: Row,
    /// The true answer.
    pub answer: &'a str,
    /// Candidates; may or may not contain the answer.
    pub candidates: &'a [String],
}

/// Answer loss over all choices; accuracy and mean reciprocal rank over those with candidates. An answer tied with others
/// counts as the last of them.
pub fn validate(base: &BaseModel, adapters: &[&Adapter], choices: Vec<Choice<'_>>) -> Result<Validation> {
    let closed: Vec<bool> = choices.iter().map(|c| !c.candidates.is_empty()).collect();
    let requests = choices
        .into_iter()
        .map(|c| {
            let others = c.candidates.iter().map(String::as_str).filter(|t| *t != c.answer);
            let candidates = std::iter::once(c.answer)
                .chain(others)
                .map(|t| answer_tokens(base, t))
                .collect::<Result<_>>()?;
            Ok(ScoreRequest { prompt: c.prompt, candidates })
        })
        .collect::<Result<Vec<_>>>()?;
    let scores = base.decoder.score(adapters, &requests)?;
    let loss = scores.iter().map(|s| -s[0]).sum::<f64>() / scores.len().max(1) as f64;
    let ranks: Vec<usize> = scores
        .iter()
        .zip(&closed)
        .filter(|(_, closed)| **closed)
        .map(|(s, _)| s.iter().filter(|c| **c >= s[0]).count())
        .collect();
    let mean =
        |of: &dyn Fn(usize) -> f64| ranks.iter().map(|&r| of(r)).sum::<f64>() / ranks.len().max(1) as f64;
    Ok(Validation { loss, top1: mean(&|r| f64::from(u8::from(r == 1))), mrr: mean(&|r| 1.0 / r as f64) })
}

/// Row indices of step `step`: epoch after epoch, each shuffled by its own stream.
pub fn epoch_order(n: usize, batch: usize, step: usize, seed: u64, purpose: &str) -> Vec<usize> {
    use rand::seq::SliceRandom;
    let mut shuffled: Option<(usize, Vec<usize>)> = None;
    (step * batch..(step + 1) * batch)
        .map(|at| {
            let epoch = at / n;
            if shuffled.as_ref().is_none_or(|(e, _)| *e != epoch) {
                let mut order: Vec<usize> = (0..n).collect();
                order.shuffle(&mut crate::rng::stream(seed, purpose, &epoch.to_string()));
                shuffled = Some((epoch, order));
            }
            shuffled.as_ref().map_or(0, |(_, order)| order[at % n])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_visits_every_row_once() {
        let seen: Vec<usize> = (0..10).flat_map(|s| epoch_order(12, 6, s, 1, "t")).collect();
        for epoch in seen.chunks(12) {
            let mut sorted = epoch.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..12).collect::<Vec<_>>());
        }
        assert_ne!(seen[..12], seen[12..24]);
    }
}
