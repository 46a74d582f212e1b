//! The output projection: logits, cross-entropy and KL to the base, on asked positions only, a few rows at a time.

use super::Model;
use crate::engine::Engine;
use crate::engine::cpu::kernels::elementwise::exp_scores;

/// Rows of logits alive at once: of 49,152 f32 12.6 MB, of 262,144 67 MB.
const ROWS: usize = 64;

/// What one label position should predict.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target<'a> {
    /// Cross-entropy against a token.
    Token(u32),
    /// KL from the distribution given by a teacher's final normed hidden state, `[d]`.
    Teacher(&'a [f32]),
}

/// One label position.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Label<'a> {
    /// Token index in the chunk.
    pub(crate) at: usize,
    pub(crate) target: Target<'a>,
    /// Factor of this position's loss in the total.
    pub(crate) weight: f32,
}

impl<E: Engine> Model<E> {
    /// Final norm of the hidden states at `positions` of `hidden: [t, d]`.
    pub(crate) fn final_normed(&self, hidden: &E::Buffer, positions: &[usize]) -> E::Buffer {
        let rows = self.engine.rows(hidden, self.hidden_size(), positions);
        let mut out = self.engine.buffer(positions.len() * self.hidden_size(), false);
        self.engine.norm(&rows, &self.final_norm, &mut out);
        out
    }

    /// Calls `each(i, logits)` for every one of `n` rows of `normed: [n, d]`, in order; logits are capped where the model caps them.
    pub(crate) fn for_each_logits(&self, normed: &E::Buffer, n: usize, each: impl FnMut(usize, &[f32])) {
        self.for_each_product(normed, n, self.architecture.final_cap, each);
    }

    /// The same with another cap, or none.
    pub(crate) fn for_each_product(
        &self,
        normed: &E::Buffer,
        n: usize,
        cap: Option<f32>,
        mut each: impl FnMut(usize, &[f32]),
    ) {
        let (d, v) = (self.hidden_size(), self.architecture.vocab_size);
        for first in (0..n).step_by(ROWS) {
            let block: Vec<usize> = (first..n.min(first + ROWS)).collect();
            let rows = self.engine.rows(normed, d, &block);
            let logits = self.engine.logits(&rows, &self.head, cap);
            for (i, row) in self.engine.read(&logits).chunks_exact(v).enumerate() {
                each(first + i, row);
            }
        }
    }

    /// Losses at the labels (unweighted, in nats) and, if wanted, their weighted gradient with respect to `hidden`, `[tokens, d]`.
    pub(crate) fn head_loss(
        &self,
        hidden: &E::Buffer,
        tokens: usize,
        labels: &[Label<'_>],
        want_gradient: bool,
    ) -> (Vec<f64>, Option<E::Buffer>) {
        let (engine, d, v) = (&self.engine, self.hidden_size(), self.architecture.vocab_size);
        let cap = self.architecture.final_cap;
        let mut losses = Vec::with_capacity(labels.len());
        let mut d_hidden = want_gradient.then(|| engine.zeros(tokens * d));
        for block in labels.chunks(ROWS) {
            let positions: Vec<usize> = block.iter().map(|l| l.at).collect();
            let rows = engine.rows(hidden, d, &positions);
            let mut normed = engine.buffer(block.len() * d, false);
            engine.norm(&rows, &self.final_norm, &mut normed);
            let mut logits = engine.logits(&normed, &self.head, cap);
            let teachers: Vec<f32> = block
                .iter()
                .filter_map(|l| if let Target::Teacher(h) = l.target { Some(h) } else { None })
                .flatten()
                .copied()
                .collect();
            let teachers = engine.logits(&engine.upload(teachers), &self.head, cap);
            losses.extend(engine.losses(block, &mut logits, teachers, v, cap));
            if let Some(d_hidden) = &mut d_hidden {
                let d_normed = engine.logits_back(&logits, &self.head);
                let mut d_rows = engine.zeros(block.len() * d);
                engine.norm_back(&rows, &self.final_norm, &d_normed, &mut d_rows);
                engine.add_rows(&d_rows, d, &positions, d_hidden);
            }
        }
        (losses, d_hidden)
    }
}

/// `(max, sum of exp(x - max))` of a row of logits in host memory.
pub(crate) fn exp_sum(logits: &[f32]) -> (f32, f32) {
    exp_scores(&mut logits.to_vec())
}
