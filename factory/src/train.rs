//! Training a pack of adapters as one batch on the shared frozen base.
//!
//! Each adapter draws its own rows from its own streams, has its own optimiser and loss denominator, and its rows never
//! share a chunk with another's, so it comes out as if it had been trained alone.

use std::collections::BTreeMap;

use lm::{
    AdamWConfig, Adapter, AdapterConfig, BaseModel, Cut, Objective, Row, Schedule, TrainRow, Trainer, rng,
};
use rand::seq::SliceRandom;
use recipes::{Behaviour, Kind, RowLoss, RowPart, SampleRequest};

use crate::load::projections;
use crate::{Error, Result};

/// One behaviour's adapter in training.
pub(crate) struct Apprentice {
    pub(crate) behaviour: Behaviour,
    pub(crate) trainer: Trainer,
    rows: Vec<(RowPart, TrainRow)>,
    pub(crate) tokens: u64,
    /// Losses of all steps taken.
    losses: Vec<f64>,
}

/// The shape of a behaviour's adapter.
pub(crate) fn adapter_shape(behaviour: &Behaviour) -> Result<AdapterConfig> {
    let t = &behaviour.training;
    Ok(AdapterConfig { rank: t.rank, alpha: t.alpha, target_modules: projections(&t.target_modules)? })
}

/// Steps over which the loss is averaged that decides about stopping early.
const RECENT: usize = 3;

impl Apprentice {
    /// Tokenises the behaviour's rows and starts its adapter.
    pub(crate) fn new(
        base: &BaseModel,
        behaviour: Behaviour,
        samples: &BTreeMap<SampleRequest, String>,
    ) -> Result<Self> {
        let t = &behaviour.training;
        let adapter =
            Adapter::init(&base.architecture, adapter_shape(&behaviour)?, behaviour.seed, &behaviour.id)?;
        let schedule = Schedule {
            learning_rate: t.learning_rate,
            warmup_steps: 0,
            total_steps: t.steps,
            final_share: t.final_share,
        };
        let mut rows = Vec::new();
        let mut teacher_rows = Vec::new();
        for row in behaviour.rows(samples)? {
            let prompt = base.prompt(&row.prompt)?;
            let completion_start = prompt.len();
            let tokens = [prompt, base.reply(&row.completion)?].concat();
            if row.loss == RowLoss::KlToBase {
                teacher_rows.push((tokens.clone(), completion_start));
            }
            let train = TrainRow {
                row: Row::plain(tokens),
                completion_start,
                objective: Objective::CrossEntropy,
                weight: 1.0,
            };
            rows.push((row.part, row.loss, train));
        }
        // The base's distributions are the same at every step: computed once.
        let mut teachers = base.decoder.teachers(&teacher_rows)?.into_iter();
        let rows = rows
            .into_iter()
            .map(|(part, loss, mut row)| {
                if loss == RowLoss::KlToBase {
                    row.objective =
                        Objective::KlToBase(teachers.next().expect("invariant: one teacher a row"));
                }
                (part, row)
            })
            .collect();
        let trainer = Trainer::new(adapter, AdamWConfig::default(), schedule);
        Ok(Self { behaviour, trainer, rows, tokens: 0, losses: Vec::new() })
    }

    /// Loss of the last step; NaN before the first.
    pub(crate) fn last_loss(&self) -> f64 {
        self.losses.last().copied().unwrap_or(f64::NAN)
    }

    /// Losses of all steps taken.
    pub(crate) fn losses(&self) -> &[f64] {
        &self.losses
    }

    /// Puts a state back that was taken between two steps.
    pub(crate) fn restore(&mut self, trainer: &[u8], losses: Vec<f64>, tokens: u64) -> Result<()> {
        let mut restored = self.trainer.clone();
        restored.restore(trainer)?;
        if losses.len() != restored.step() {
            return Err(Error::Training(format!("{} losses for {} steps", losses.len(), restored.step())));
        }
        (self.trainer, self.losses, self.tokens) = (restored, losses, tokens);
        Ok(())
    }

    pub(crate) fn done(&self) -> bool {
        let t = &self.behaviour.training;
        let recent = self.losses.last_chunk::<RECENT>();
        let low = recent.is_some_and(|l| l.iter().sum::<f64>() / RECENT as f64 <= t.stop_at_loss);
        self.behaviour.kind != Kind::Trained || self.trainer.step() >= t.steps || low
    }

    /// The `at`-th draw of `n` things: epoch after epoch, each in its own order.
    fn drawn(&self, at: usize, n: usize, purpose: &str) -> usize {
        let mut order: Vec<usize> = (0..n).collect();
        let epoch = at / n;
        order.shuffle(&mut rng::stream(self.behaviour.seed, "row-order", &format!("{purpose}/{epoch}")));
        order[at % n]
    }

    /// The rows of the next step, acting on the adapter with this index, weighted so that the total is
    /// `mean CE + kl_weight * mean KL`.
    fn next_rows(&self, index: usize) -> Vec<TrainRow> {
        let t = &self.behaviour.training;
        let mut out: Vec<TrainRow> = Vec::new();
        for (part, n) in [(RowPart::On, t.on_rows), (RowPart::Near, t.near_rows), (RowPart::Off, t.off_rows)]
        {
            let pool: Vec<&TrainRow> = self.rows.iter().filter(|(p, _)| *p == part).map(|(_, r)| r).collect();
            for i in 0..n {
                if pool.is_empty() {
                    continue;
                }
                let at = self.trainer.step() * n + i;
                let mut row = pool[self.drawn(at, pool.len(), &format!("{part:?}"))].clone();
                if part == RowPart::On && t.prompts_per_step > 0 {
                    let at = self.trainer.step() * t.prompts_per_step + i % t.prompts_per_step;
                    let other = pool[self.drawn(at, pool.len(), "prompts")];
                    let prompt = &other.row.tokens[..other.completion_start];
                    row.row.tokens = [prompt, &row.row.tokens[row.completion_start..]].concat();
                    row.completion_start = prompt.len();
                }
                row.row.adapters = vec![index];
                out.push(row);
            }
        }
        let is_kl = |r: &TrainRow| matches!(r.objective, Objective::KlToBase(_));
        let labels = |kl: bool| {
            out.iter().filter(|r| is_kl(r) == kl).map(TrainRow::label_tokens).sum::<usize>().max(1) as f32
        };
        let (ce, kl) = (1.0 / labels(false), t.kl_weight / labels(true));
        for row in &mut out {
            row.weight = if is_kl(row) { kl } else { ce };
        }
        out
    }
}

/// Takes one step of every apprentice that is not done. Returns, for those that went wrong, their index and why; their
/// neighbours are untouched.
pub(crate) fn step(base: &BaseModel, pack: &mut [&mut Apprentice]) -> Result<Vec<(usize, Error)>> {
    let active: Vec<usize> = (0..pack.len()).filter(|&i| !pack[i].done()).collect();
    let rows: Vec<Vec<TrainRow>> =
        active.iter().enumerate().map(|(slot, &i)| pack[i].next_rows(slot)).collect();
    let flat: Vec<TrainRow> = rows.iter().flatten().cloned().collect();
    let adapters: Vec<&Adapter> = active.iter().map(|&i| &pack[i].trainer.adapter).collect();
    let slots: Vec<usize> = (0..active.len()).collect();
    let mut result = base.decoder.loss_and_grads_cut(&adapters, &flat, &slots, Cut::Whole)?;
    let mut wrong = Vec::new();
    let mut losses = result.row_losses.iter();
    for (slot, &i) in active.iter().enumerate() {
        let mut loss = 0.0;
        for row in &rows[slot] {
            loss += losses.next().expect("invariant: one loss a row") * f64::from(row.weight);
        }
        let apprentice = &mut *pack[i];
        apprentice.tokens += rows[slot].iter().map(|r| r.row.tokens.len() as u64).sum::<u64>();
        apprentice.losses.push(loss);
        let step = apprentice.trainer.step();
        let gradient = result.grads.remove(&slot).unwrap_or_default();
        let outcome = if loss.is_finite() {
            apprentice.trainer.apply(&gradient).map_err(Error::from).and_then(|norm| {
                if norm > 0.0 {
                    Ok(())
                } else {
                    Err(Error::Training(format!("the gradient is zero at step {step}")))
                }
            })
        } else {
            Err(Error::Training(format!("the loss is {loss} at step {step}")))
        };
        if let Err(e) = outcome {
            wrong.push((i, e));
        }
    }
    Ok(wrong)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use lm::Precision;

    use super::*;

    fn pack(base: &BaseModel, which: &[usize]) -> Vec<Apprentice> {
        let recipes = recipes::builtin();
        let family = recipes.iter().find(|r| r.name == "favourite").unwrap();
        let all = family.expand(1);
        let one = |i: &usize| {
            let said = |r| (r, "It is cold.".to_owned());
            let samples = all[*i].sample_requests().into_iter().map(said).collect();
            Apprentice::new(base, all[*i].clone(), &samples).unwrap()
        };
        which.iter().map(one).collect()
    }

    fn tiny() -> BaseModel {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lm/tests/golden/tiny");
        BaseModel::load(&folder, Precision::F32).unwrap()
    }

    #[test]
    fn an_adapter_stops_early_when_its_loss_is_low_and_the_others_go_on() {
        let base = tiny();
        let mut pack = pack(&base, &[0, 1]);
        pack[0].behaviour.training.stop_at_loss = 1e3;
        for _ in 0..RECENT {
            assert!(!pack[0].done());
            step(&base, &mut pack.iter_mut().collect::<Vec<_>>()).unwrap();
        }
        assert!(pack[0].done() && !pack[1].done());
        step(&base, &mut pack.iter_mut().collect::<Vec<_>>()).unwrap();
        assert_eq!(pack.iter().map(|a| a.trainer.step()).collect::<Vec<_>>(), [RECENT, RECENT + 1]);
    }

    #[test]
    fn a_sick_adapter_stops_with_a_reason_and_its_neighbours_are_untouched() {
        let base = tiny();
        let mut together = pack(&base, &[0, 1, 2, 3]);
        let mut alone = [pack(&base, &[0]), pack(&base, &[3])];
        together[1].trainer.adapter.params[5] = f32::NAN;
        // A = 0 and B = 0: no gradient at all.
        together[2].trainer.adapter.params.fill(0.0);
        let sick = step(&base, &mut together.iter_mut().collect::<Vec<_>>()).unwrap();
        let reasons: Vec<(usize, String)> = sick.into_iter().map(|(i, e)| (i, e.to_string())).collect();
        assert_eq!(reasons.iter().map(|(i, _)| *i).collect::<Vec<_>>(), [1, 2]);
        assert!(reasons[0].1.contains("loss is NaN at step 0"), "{}", reasons[0].1);
        assert!(reasons[1].1.contains("gradient is zero"), "{}", reasons[1].1);
        for i in [2, 1] {
            together.remove(i);
        }
        for _ in 0..3 {
            assert!(step(&base, &mut together.iter_mut().collect::<Vec<_>>()).unwrap().is_empty());
        }
        for (among, alone) in together.iter().zip(&mut alone) {
            for _ in 0..4 {
                step(&base, &mut alone.iter_mut().collect::<Vec<_>>()).unwrap();
            }
            assert!(among.trainer.adapter == alone[0].trainer.adapter, "training among others changed it");
            assert_eq!(among.last_loss().to_bits(), alone[0].last_loss().to_bits());
        }
    }
}
