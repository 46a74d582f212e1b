//! The verb `loss_and_grads`: completion-only cross-entropy, or KL to the frozen base, with gradients for the trainable
//! adapters only.
//!
//! Rows of different trainable adapters never share a chunk, so an adapter trained among others equals the same adapter
//! trained alone, bit for bit.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use super::forward::FORWARD_TOKENS;
use crate::batch::{Batch, Row};
use crate::decoder::Model;
use crate::decoder::chunk::{Chunk, split};
use crate::decoder::head::{Label, Target};
use crate::engine::{Caches, Engine};
use crate::footprint::TRAIN_TOKENS;
use crate::{Adapter, Error, Result};

/// The base model's distributions at a row's label positions, held as final hidden states (a few hundred numbers a
/// position instead of a vocabulary of them); the loss multiplies them out again.
#[derive(Debug, Clone, PartialEq)]
pub struct Teacher(Arc<Vec<f32>>);

/// What a row's label positions are trained towards.
#[derive(Debug, Clone)]
pub enum Objective {
    /// Cross-entropy on the row's own next tokens.
    CrossEntropy,
    /// `KL(base || adapted)` over the whole vocabulary.
    KlToBase(Teacher),
}

/// One training row. Its label positions are those that predict `tokens[completion_start..]`.
#[derive(Debug, Clone)]
pub struct TrainRow {
    /// Tokens, adapters, injections.
    pub row: Row,
    /// Index of the first completion token; at least 1.
    pub completion_start: usize,
    /// Loss of the label positions.
    pub objective: Objective,
    /// Factor of every label position's loss in the total. `1 / (label tokens of the adapter in the step)` gives a mean.
    pub weight: f32,
}

impl TrainRow {
    /// Number of label positions.
    pub fn label_tokens(&self) -> usize {
        self.row.tokens.len() - self.completion_start
    }
}

/// Result of [`crate::Verbs::loss_and_grads`].
#[derive(Debug, Clone, Default)]
pub struct LossAndGrads {
    /// For each row, the sum of its label positions' losses in nats (unweighted).
    pub row_losses: Vec<f64>,
    /// Gradient of the weighted total for each trainable adapter, as long as its `params`. Adapters without a row in the
    /// batch have no entry.
    pub grads: BTreeMap<usize, Vec<f32>>,
}

/// Into how many pieces an adapter's rows of one step are cut; threads work on pieces. Another cut sums gradients in
/// another order, so this is part of a result's identity and never follows from the machine or from the other adapters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// At least two pieces, so that two threads can train one adapter.
    Halves,
    /// One piece (more only where activations would take too much memory). For batches of many adapters: prompts that rows
    /// share are computed once, and products are taller.
    Whole,
}

/// What a chunk gives: its rows' losses, and gradients by adapter.
type Piece = (Vec<(usize, f64)>, Vec<(usize, Vec<f32>)>);

impl<E: Engine> Model<E> {
    pub(super) fn run_training(
        &self,
        adapters: &[&Adapter],
        rows: &[TrainRow],
        trainable: &[usize],
        cut: Cut,
    ) -> Result<LossAndGrads> {
        let batch = Batch { adapters: adapters.to_vec(), rows: rows.iter().map(|r| r.row.clone()).collect() };
        batch.validate(&self.architecture)?;
        let d = self.hidden_size();
        for (i, row) in rows.iter().enumerate() {
            if row.completion_start == 0 || row.completion_start >= row.row.tokens.len() {
                return Err(Error::Request(format!("training row {i} has no completion to predict")));
            }
            if let Objective::KlToBase(Teacher(hidden)) = &row.objective
                && hidden.len() != row.label_tokens() * d
            {
                return Err(Error::Request(format!(
                    "training row {i} has a teacher for another number of labels"
                )));
            }
        }
        // Rows that train the same adapters are cut into chunks by themselves.
        let mut groups: BTreeMap<Vec<usize>, Vec<usize>> = BTreeMap::new();
        for (i, row) in rows.iter().enumerate() {
            let key = row.row.adapters.iter().copied().filter(|a| trainable.contains(a)).collect();
            groups.entry(key).or_default().push(i);
        }
        let pieces: Vec<(&Vec<usize>, Vec<usize>)> = groups
            .iter()
            .flat_map(|(key, members)| {
                let limit = if key.is_empty() { FORWARD_TOKENS } else { TRAIN_TOKENS };
                // Rows with the same prompt come together, so that a cut parts as few of them as it can.
                let mut members = members.clone();
                members.sort_by_key(|&r| rows[r].row.tokens[..rows[r].completion_start].to_vec());
                let at_least = if cut == Cut::Halves { 2 } else { 1 };
                split(&members, |r| rows[r].row.tokens.len() - 1, limit, at_least)
                    .into_iter()
                    .map(move |piece| (key, piece))
            })
            .collect();
        let results = self.engine.each(&pieces, |(key, piece)| self.train_piece(&batch, rows, piece, key));
        let mut out = LossAndGrads { row_losses: vec![0.0; rows.len()], grads: BTreeMap::new() };
        for (losses, grads) in results {
            for (row, loss) in losses {
                out.row_losses[row] = loss;
            }
            for (adapter, grad) in grads {
                match out.grads.entry(adapter) {
                    Entry::Vacant(slot) => {
                        slot.insert(grad);
                    }
                    Entry::Occupied(mut slot) => {
                        slot.get_mut().iter_mut().zip(&grad).for_each(|(sum, g)| *sum += g);
                    }
                }
            }
        }
        Ok(out)
    }

    pub(super) fn run_teachers(&self, rows: &[(Vec<u32>, usize)]) -> Result<Vec<Teacher>> {
        let batch =
            Batch { adapters: vec![], rows: rows.iter().map(|(t, _)| Row::plain(t.clone())).collect() };
        batch.validate(&self.architecture)?;
        if let Some(i) = rows.iter().position(|(t, start)| *start == 0 || *start >= t.len()) {
            return Err(Error::Request(format!("teacher row {i} has no completion")));
        }
        let all: Vec<usize> = (0..rows.len()).collect();
        let pieces = split(&all, |r| rows[r].0.len() - 1, FORWARD_TOKENS, self.engine.parallel());
        let teachers = self.engine.each(&pieces, |piece| {
            let plan = self.plan(Chunk::sharing(&batch, piece, 1, |_| usize::MAX));
            let hidden = self.whole_pass(&plan, &mut Caches::None);
            let of_row: BTreeMap<usize, Teacher> = self
                .engine
                .chunk(&plan)
                .places
                .iter()
                .map(|place| {
                    let positions: Vec<usize> =
                        (rows[place.row].1 - 1..place.len()).map(|p| place.token(p)).collect();
                    let normed = self.final_normed(&hidden, &positions);
                    (place.row, Teacher(Arc::new(self.engine.read(&normed).into_owned())))
                })
                .collect();
            of_row.into_values().collect::<Vec<_>>()
        });
        Ok(teachers.into_iter().flatten().collect())
    }

    fn train_piece(
        &self,
        batch: &Batch<'_>,
        rows: &[TrainRow],
        piece: &[usize],
        trainable: &[usize],
    ) -> Piece {
        let d = self.hidden_size();
        // The last token predicts nothing, so it is not computed. Prompts that rows have in common are computed once;
        // their gradient is the sum over the rows.
        let plan = self.plan(Chunk::sharing(batch, piece, 1, |r| rows[r].completion_start));
        let chunk = self.engine.chunk(&plan);
        let mut tapes = Vec::new();
        let keep = (!trainable.is_empty()).then_some(&mut tapes);
        let hidden = self.pass(&plan, self.layers.len(), &mut Caches::None, keep, |_, _| {});
        let mut labels = Vec::new();
        let mut owners = Vec::new();
        for place in &chunk.places {
            let row = &rows[place.row];
            for (i, p) in (row.completion_start - 1..place.len()).enumerate() {
                let target = match &row.objective {
                    Objective::CrossEntropy => Target::Token(row.row.tokens[p + 1]),
                    Objective::KlToBase(Teacher(h)) => Target::Teacher(&h[i * d..(i + 1) * d]),
                };
                labels.push(Label { at: place.token(p), target, weight: row.weight });
                owners.push(place.row);
            }
        }
        let (losses, d_hidden) = self.head_loss(&hidden, chunk.len(), &labels, !trainable.is_empty());
        let mut row_losses: Vec<(usize, f64)> = chunk.places.iter().map(|p| (p.row, 0.0)).collect();
        for (owner, loss) in owners.iter().zip(losses) {
            let slot = row_losses
                .iter_mut()
                .find(|(row, _)| row == owner)
                .expect("invariant: owners come from places");
            slot.1 += loss;
        }
        let mut grads = self.engine.grads(&plan, trainable);
        if let Some(d_hidden) = d_hidden {
            self.pass_back(&plan, tapes, d_hidden, &mut grads);
        }
        (row_losses, self.engine.read_grads(grads))
    }
}
