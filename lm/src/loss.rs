//! The verb `loss_and_grads`: completion-only cross-entropy, or KL to the frozen base, with gradients for the trainable
//! adapters only.
//!
//! Rows of different trainable adapters never share a chunk, so an adapter trained among others equals the same adapter
//! trained alone, bit for bit.

use std::collections::BTreeMap;
use std::sync::Arc;

use rayon::prelude::*;

use crate::batch::{Batch, Row};
use crate::decoder::chunk::{Chunk, split};
use crate::decoder::head::{Label, Target};
use crate::decoder::layer::{NoKeyValues, Tape};
use crate::decoder::lora::Grads;
use crate::footprint::TRAIN_TOKENS;
use crate::forward::FORWARD_TOKENS;
use crate::kernels::elementwise::add;
use crate::{Adapter, Decoder, Error, Result};

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

/// Result of [`Decoder::loss_and_grads`].
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

impl Decoder {
    /// [`Decoder::loss_and_grads_cut`] in halves.
    pub fn loss_and_grads(
        &self,
        adapters: &[&Adapter],
        rows: &[TrainRow],
        trainable: &[usize],
    ) -> Result<LossAndGrads> {
        self.loss_and_grads_cut(adapters, rows, trainable, Cut::Halves)
    }

    /// Weighted loss of the rows and its gradients with respect to the adapters listed in `trainable` (indices into
    /// `adapters`). No gradient of a frozen weight, and none of another adapter, is formed.
    ///
    /// # Errors
    /// If a row is malformed or has no label position.
    pub fn loss_and_grads_cut(
        &self,
        adapters: &[&Adapter],
        rows: &[TrainRow],
        trainable: &[usize],
        cut: Cut,
    ) -> Result<LossAndGrads> {
        let batch = Batch { adapters: adapters.to_vec(), rows: rows.iter().map(|r| r.row.clone()).collect() };
        batch.validate(self.config())?;
        let d = self.config().hidden_size;
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
        let results: Vec<(Vec<(usize, f64)>, Grads)> =
            pieces.par_iter().map(|(key, piece)| self.train_piece(&batch, rows, piece, key)).collect();
        let mut out = LossAndGrads { row_losses: vec![0.0; rows.len()], grads: BTreeMap::new() };
        for (losses, grads) in results {
            for (row, loss) in losses {
                out.row_losses[row] = loss;
            }
            for (adapter, grad) in grads.of {
                match out.grads.entry(adapter) {
                    std::collections::btree_map::Entry::Vacant(slot) => {
                        slot.insert(grad);
                    }
                    std::collections::btree_map::Entry::Occupied(mut slot) => add(&grad, slot.get_mut()),
                }
            }
        }
        Ok(out)
    }

    /// The frozen model's own distributions at the label positions of `rows` (adapters and injections are ignored).
    pub fn teachers(&self, rows: &[(Vec<u32>, usize)]) -> Result<Vec<Teacher>> {
        let batch =
            Batch { adapters: vec![], rows: rows.iter().map(|(t, _)| Row::plain(t.clone())).collect() };
        batch.validate(self.config())?;
        if let Some(i) = rows.iter().position(|(t, start)| *start == 0 || *start >= t.len()) {
            return Err(Error::Request(format!("teacher row {i} has no completion")));
        }
        let all: Vec<usize> = (0..rows.len()).collect();
        let pieces = split(&all, |r| rows[r].0.len() - 1, FORWARD_TOKENS, rayon::current_num_threads());
        let d = self.config().hidden_size;
        let teachers: Vec<Vec<Teacher>> = pieces
            .par_iter()
            .map(|piece| {
                let chunk = Chunk::sharing(&batch, piece, 1, |_| usize::MAX);
                let mut hidden = chunk.embed(self);
                for layer in 0..self.layers.len() {
                    self.layer_forward(layer, &chunk, &mut hidden, &mut NoKeyValues, None);
                }
                let of_row: BTreeMap<usize, Teacher> = chunk
                    .places
                    .iter()
                    .map(|place| {
                        let positions: Vec<usize> =
                            (rows[place.row].1 - 1..place.len()).map(|p| place.token(p)).collect();
                        let normed = self.final_normed(&hidden, &positions);
                        debug_assert_eq!(normed.len(), positions.len() * d);
                        (place.row, Teacher(Arc::new(normed)))
                    })
                    .collect();
                of_row.into_values().collect()
            })
            .collect();
        Ok(teachers.into_iter().flatten().collect())
    }

    fn train_piece(
        &self,
        batch: &Batch<'_>,
        rows: &[TrainRow],
        piece: &[usize],
        trainable: &[usize],
    ) -> (Vec<(usize, f64)>, Grads) {
        let d = self.config().hidden_size;
        // The last token predicts nothing, so it is not computed. Prompts that rows have in common are computed once;
        // their gradient is the sum over the rows.
        let chunk = Chunk::sharing(batch, piece, 1, |r| rows[r].completion_start);
        let mut hidden = chunk.embed(self);
        let mut tapes: Vec<Tape> = Vec::new();
        for layer in 0..self.layers.len() {
            let mut tape = Tape::default();
            let keep = (!trainable.is_empty()).then_some(&mut tape);
            self.layer_forward(layer, &chunk, &mut hidden, &mut NoKeyValues, keep);
            tapes.push(tape);
        }
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
        let (losses, d_hidden) = self.head_loss(&hidden, &labels, !trainable.is_empty());
        let mut row_losses: Vec<(usize, f64)> = chunk.places.iter().map(|p| (p.row, 0.0)).collect();
        for (owner, loss) in owners.iter().zip(losses) {
            let slot = row_losses
                .iter_mut()
                .find(|(row, _)| row == owner)
                .expect("invariant: owners come from places");
            slot.1 += loss;
        }
        let mut grads = Grads {
            of: trainable.iter().map(|&a| (a, vec![0f32; batch.adapters[a].params.len()])).collect(),
        };
        if let Some(mut d_hidden) = d_hidden {
            for (layer, tape) in tapes.into_iter().enumerate().rev() {
                self.layer_backward(layer, &chunk, tape, &mut d_hidden, &mut grads);
            }
        }
        (row_losses, grads)
    }
}
