//! The output projection: logits, cross-entropy and KL to the base, on asked positions only, a few rows at a time.

use super::Decoder;
use crate::kernels::elementwise::{exp_scores, rms_norm, rms_norm_backward, scale};

/// Rows of logits alive at once: 64 x 49,152 f32 are 12.6 MB.
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

impl Decoder {
    /// Final norm of the hidden states at `positions` of `hidden: [t, d]`.
    pub(crate) fn final_normed(&self, hidden: &[f32], positions: &[usize]) -> Vec<f32> {
        let d = self.config().hidden_size;
        let rows: Vec<f32> =
            positions.iter().flat_map(|&p| hidden[p * d..(p + 1) * d].iter().copied()).collect();
        let mut out = vec![0f32; rows.len()];
        rms_norm(&rows, &self.final_norm, self.eps(), &mut out);
        out
    }

    /// Calls `each(i, logits)` for every row of `normed: [n, d]`, in order.
    pub(crate) fn for_each_logits(&self, normed: &[f32], mut each: impl FnMut(usize, &mut [f32])) {
        let (d, v) = (self.config().hidden_size, self.config().vocab_size);
        for (block, rows) in normed.chunks(ROWS * d).enumerate() {
            let mut logits = vec![0f32; rows.len() / d * v];
            self.head.forward.product(rows, &mut logits, false);
            for (i, row) in logits.chunks_exact_mut(v).enumerate() {
                each(block * ROWS + i, row);
            }
        }
    }

    /// Losses at the labels (unweighted, in nats) and, if wanted, their weighted gradient with respect to `hidden`.
    pub(crate) fn head_loss(
        &self,
        hidden: &[f32],
        labels: &[Label<'_>],
        want_gradient: bool,
    ) -> (Vec<f64>, Option<Vec<f32>>) {
        let (d, v) = (self.config().hidden_size, self.config().vocab_size);
        let mut losses = Vec::with_capacity(labels.len());
        let mut d_hidden = want_gradient.then(|| vec![0f32; hidden.len()]);
        for block in labels.chunks(ROWS) {
            let positions: Vec<usize> = block.iter().map(|l| l.at).collect();
            let normed = self.final_normed(hidden, &positions);
            let mut logits = vec![0f32; block.len() * v];
            self.head.forward.product(&normed, &mut logits, false);
            let teachers: Vec<f32> = block
                .iter()
                .filter_map(|l| if let Target::Teacher(h) = l.target { Some(h) } else { None })
                .flatten()
                .copied()
                .collect();
            let mut teacher_logits = vec![0f32; teachers.len() / d * v];
            self.head.forward.product(&teachers, &mut teacher_logits, false);
            let mut teacher_rows = teacher_logits.chunks_exact_mut(v);
            for (label, logits) in block.iter().zip(logits.chunks_exact_mut(v)) {
                match label.target {
                    Target::Token(token) => {
                        let own = logits[token as usize];
                        let (max, sum) = exp_scores(logits);
                        losses.push(max as f64 + (sum as f64).ln() - own as f64);
                        scale(label.weight / sum, logits);
                        logits[token as usize] -= label.weight;
                    }
                    Target::Teacher(_) => {
                        let teacher = teacher_rows.next().expect("invariant: one row for each teacher label");
                        losses.push(kl_and_gradient(teacher, logits, label.weight));
                    }
                }
            }
            if let Some(d_hidden) = &mut d_hidden {
                let mut d_normed = vec![0f32; block.len() * d];
                self.head.backward.product(&logits, &mut d_normed, false);
                for (i, &p) in positions.iter().enumerate() {
                    rms_norm_backward(
                        &hidden[p * d..(p + 1) * d],
                        &self.final_norm,
                        self.eps(),
                        &d_normed[i * d..(i + 1) * d],
                        &mut d_hidden[p * d..(p + 1) * d],
                    );
                }
            }
        }
        (losses, d_hidden)
    }
}

/// `KL(teacher || student)` in nats from two rows of logits; overwrites the student's with `weight * (p_s - p_t)`.
fn kl_and_gradient(teacher: &mut [f32], student: &mut [f32], weight: f32) -> f64 {
    // sum p_t (log p_t - log p_s) = sum p_t (z_t - z_s) - lse_t + lse_s
    let gap: Vec<f32> = teacher.iter().zip(student.iter()).map(|(t, s)| t - s).collect();
    let (t_max, t_sum) = exp_scores(teacher);
    let (s_max, s_sum) = exp_scores(student);
    let mut cross = 0f64;
    for (e, gap) in teacher.iter().zip(&gap) {
        cross += (*e * *gap) as f64;
    }
    let (t_inverse, s_inverse) = (1.0 / t_sum, 1.0 / s_sum);
    for (s, t) in student.iter_mut().zip(teacher.iter()) {
        *s = weight * (*s * s_inverse - *t * t_inverse);
    }
    let lse = |max: f32, sum: f32| max as f64 + (sum as f64).ln();
    cross / t_sum as f64 - lse(t_max, t_sum) + lse(s_max, s_sum)
}
