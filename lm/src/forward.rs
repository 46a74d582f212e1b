//! The verb `forward`: logits at asked positions and residual-stream activations at asked layers, in one pass that stops
//! at the deepest layer anybody asked for.

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::batch::Batch;
use crate::decoder::chunk::{Chunk, split};
use crate::decoder::layer::NoKeyValues;
use crate::kernels::elementwise::exp_scores;
use crate::{Decoder, Error, Result};

/// Tokens that one thread computes together in passes without gradient.
pub(crate) const FORWARD_TOKENS: usize = 512;

/// Activations wanted from one layer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResidualAt {
    /// Decoder layer (0-based) whose output, the residual stream after the layer, is read.
    pub layer: usize,
    /// Token positions in the row.
    pub positions: Vec<usize>,
}

/// What is wanted from one row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Want {
    /// Positions whose next-token logits are wanted.
    pub logits: Vec<usize>,
    /// Residual-stream activations.
    pub residual: Vec<ResidualAt>,
}

/// What one row gave.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen {
    /// For each asked position, `vocab_size` logits.
    pub logits: Vec<Vec<f32>>,
    /// For each asked layer, for each asked position, `hidden_size` values.
    pub residual: Vec<Vec<Vec<f32>>>,
}

impl Decoder {
    /// Runs the batch without gradient and returns, row by row, what was asked for.
    ///
    /// # Errors
    /// If a row, an adapter index, a layer or a position does not exist.
    pub fn forward(&self, batch: &Batch<'_>, wants: &[Want]) -> Result<Vec<Seen>> {
        batch.validate(self.config())?;
        if wants.len() != batch.rows.len() {
            return Err(Error::Request(format!("{} rows but {} wants", batch.rows.len(), wants.len())));
        }
        for (i, (row, want)) in batch.rows.iter().zip(wants).enumerate() {
            let positions = want.logits.iter().chain(want.residual.iter().flat_map(|r| &r.positions));
            if let Some(p) = positions.into_iter().find(|&&p| p >= row.tokens.len()) {
                return Err(Error::Request(format!(
                    "row {i} is asked at position {p} of {}",
                    row.tokens.len()
                )));
            }
            if let Some(r) = want.residual.iter().find(|r| r.layer >= self.config().num_hidden_layers) {
                return Err(Error::Request(format!(
                    "row {i} is asked at layer {}, the model has {}",
                    r.layer,
                    self.config().num_hidden_layers
                )));
            }
        }
        let rows: Vec<usize> = (0..batch.rows.len()).collect();
        let pieces =
            split(&rows, |r| batch.rows[r].tokens.len(), FORWARD_TOKENS, rayon::current_num_threads());
        let seen: Vec<Vec<Seen>> =
            pieces.par_iter().map(|piece| self.forward_piece(batch, wants, piece)).collect();
        Ok(seen.into_iter().flatten().collect())
    }

    /// The `k` most likely next tokens that each vector stands for if it is taken for the last layer's output (the logit
    /// lens), with their logits, highest first; of equals the lower id first. Vectors have `hidden_size` values.
    ///
    /// # Errors
    /// If a vector has another length or is not finite.
    pub fn unembed_topk(&self, vectors: &[Vec<f32>], k: usize) -> Result<Vec<Vec<(u32, f32)>>> {
        let d = self.config().hidden_size;
        if vectors.iter().any(|v| v.len() != d || v.iter().any(|x| !x.is_finite())) {
            return Err(Error::Request(format!("a vector to unembed is not {d} finite values")));
        }
        let hidden = vectors.concat();
        let positions: Vec<usize> = (0..vectors.len()).collect();
        let mut out = Vec::with_capacity(vectors.len());
        self.for_each_logits(&self.final_normed(&hidden, &positions), |_, logits| {
            let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
            let higher =
                |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
            ids.sort_unstable_by(higher);
            out.push(ids.into_iter().take(k).map(|i| (i, logits[i as usize])).collect());
        });
        Ok(out)
    }

    /// What each vector of `hidden_size` adds to the logits of `tokens`, if it is taken for a part of the last layer's output:
    /// `W_U (g * v)` with the final norm's weight `g` and without the norm's division, which is the same for all tokens. Linear
    /// in the vector, so that a faint difference is not blown up.
    ///
    /// # Errors
    /// If a vector has another length or is not finite, or a token is outside the vocabulary.
    pub fn lens_logits(&self, vectors: &[Vec<f32>], tokens: &[u32]) -> Result<Vec<Vec<f32>>> {
        let d = self.config().hidden_size;
        if vectors.iter().any(|v| v.len() != d || v.iter().any(|x| !x.is_finite())) {
            return Err(Error::Request(format!("a vector to unembed is not {d} finite values")));
        }
        if let Some(t) = tokens.iter().find(|&&t| t as usize >= self.config().vocab_size) {
            return Err(Error::Request(format!("token {t} is outside the vocabulary")));
        }
        let scaled: Vec<f32> =
            vectors.iter().flat_map(|v| v.iter().zip(&self.final_norm).map(|(x, g)| x * g)).collect();
        if self.config().tie_word_embeddings {
            // These rows are at hand unrounded, and few: half precision would swap close neighbours.
            let dot = |v: &[f32], t: u32| -> f32 {
                let row = &self.embedding[t as usize * d..][..d];
                v.iter().zip(row).map(|(a, b)| f64::from(a * b)).sum::<f64>() as f32
            };
            return Ok(scaled.chunks_exact(d).map(|v| tokens.iter().map(|&t| dot(v, t)).collect()).collect());
        }
        let mut out = Vec::with_capacity(vectors.len());
        self.for_each_logits(&scaled, |_, logits| {
            out.push(tokens.iter().map(|&t| logits[t as usize]).collect());
        });
        Ok(out)
    }

    /// Log-probabilities of `tokens` if each vector of `hidden_size` is the last layer's output.
    ///
    /// # Errors
    /// If a vector has another length, or a token is outside the vocabulary.
    pub fn next_log_probs(&self, vectors: &[Vec<f32>], tokens: &[u32]) -> Result<Vec<Vec<f32>>> {
        let d = self.config().hidden_size;
        if vectors.iter().any(|v| v.len() != d) {
            return Err(Error::Request(format!("a vector to unembed is not {d} values")));
        }
        if let Some(t) = tokens.iter().find(|&&t| t as usize >= self.config().vocab_size) {
            return Err(Error::Request(format!("token {t} is outside the vocabulary")));
        }
        let positions: Vec<usize> = (0..vectors.len()).collect();
        let mut out = Vec::with_capacity(vectors.len());
        self.for_each_logits(&self.final_normed(&vectors.concat(), &positions), |_, logits| {
            let asked: Vec<f32> = tokens.iter().map(|&t| logits[t as usize]).collect();
            let (max, sum) = exp_scores(logits);
            let lse = max + sum.ln();
            out.push(asked.into_iter().map(|x| x - lse).collect());
        });
        Ok(out)
    }

    /// Rows of the unembedding matrix, `hidden_size` values for each token.
    ///
    /// # Errors
    /// If a token is outside the vocabulary.
    pub fn unembedding(&self, tokens: &[u32]) -> Result<Vec<Vec<f32>>> {
        let d = self.config().hidden_size;
        if let Some(t) = tokens.iter().find(|&&t| t as usize >= self.config().vocab_size) {
            return Err(Error::Request(format!("token {t} is outside the vocabulary")));
        }
        if self.config().tie_word_embeddings {
            return Ok(tokens.iter().map(|&t| self.embedding[t as usize * d..][..d].to_vec()).collect());
        }
        // Logits of the unit vectors: the matrix is packed for products, not for reading.
        let mut units = vec![0f32; d * d];
        units.iter_mut().step_by(d + 1).for_each(|x| *x = 1.0);
        let mut out = vec![vec![0f32; d]; tokens.len()];
        self.for_each_logits(&units, |i, logits| {
            for (row, &t) in out.iter_mut().zip(tokens) {
                row[i] = logits[t as usize];
            }
        });
        Ok(out)
    }

    fn forward_piece(&self, batch: &Batch<'_>, wants: &[Want], rows: &[usize]) -> Vec<Seen> {
        let d = self.config().hidden_size;
        let chunk = Chunk::sharing(batch, rows, 0, |_| usize::MAX);
        let needs_head = rows.iter().any(|&r| !wants[r].logits.is_empty());
        let deepest = if needs_head {
            self.layers.len()
        } else {
            rows.iter().flat_map(|&r| &wants[r].residual).map(|a| a.layer + 1).max().unwrap_or(0)
        };
        let mut out: BTreeMap<usize, Seen> = rows
            .iter()
            .map(|&r| (r, Seen { logits: vec![], residual: vec![vec![]; wants[r].residual.len()] }))
            .collect();
        let mut hidden = chunk.embed(self);
        for layer in 0..deepest {
            self.layer_forward(layer, &chunk, &mut hidden, &mut NoKeyValues, None);
            for place in &chunk.places {
                let Some(seen) = out.get_mut(&place.row) else { continue };
                for (at, kept) in wants[place.row].residual.iter().zip(&mut seen.residual) {
                    if at.layer == layer {
                        kept.extend(at.positions.iter().map(|&p| hidden[place.token(p) * d..][..d].to_vec()));
                    }
                }
            }
        }
        if needs_head {
            let asked: Vec<(usize, usize)> = chunk
                .places
                .iter()
                .flat_map(|place| wants[place.row].logits.iter().map(|&p| (place.row, place.token(p))))
                .collect();
            let positions: Vec<usize> = asked.iter().map(|&(_, p)| p).collect();
            let normed = self.final_normed(&hidden, &positions);
            self.for_each_logits(&normed, |i, logits| {
                if let Some(seen) = out.get_mut(&asked[i].0) {
                    seen.logits.push(logits.to_vec());
                }
            });
        }
        out.into_values().collect()
    }
}
