//! The verb `forward`: logits at asked positions and residual-stream activations at asked layers, in one pass that stops
//! at the deepest layer anybody asked for.

use std::collections::BTreeMap;

use crate::batch::Batch;
use crate::decoder::Model;
use crate::decoder::chunk::{Chunk, split};
use crate::decoder::head::exp_sum;
use crate::engine::{Caches, Engine};
use crate::{Error, Result};

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

impl<E: Engine> Model<E> {
    pub(super) fn run_forward(&self, batch: &Batch<'_>, wants: &[Want]) -> Result<Vec<Seen>> {
        batch.validate(&self.architecture)?;
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
            if let Some(r) = want.residual.iter().find(|r| r.layer >= self.layers.len()) {
                return Err(Error::Request(format!(
                    "row {i} is asked at layer {}, the model has {}",
                    r.layer,
                    self.layers.len()
                )));
            }
        }
        let rows: Vec<usize> = (0..batch.rows.len()).collect();
        let pieces = split(&rows, |r| batch.rows[r].tokens.len(), FORWARD_TOKENS, self.engine.parallel());
        let seen = self.engine.each(&pieces, |piece| self.forward_piece(batch, wants, piece));
        Ok(seen.into_iter().flatten().collect())
    }

    /// Checks vectors that stand for a residual stream, and tokens.
    fn check_vectors(&self, vectors: &[Vec<f32>], tokens: &[u32]) -> Result<()> {
        let d = self.hidden_size();
        if vectors.iter().any(|v| v.len() != d || v.iter().any(|x| !x.is_finite())) {
            return Err(Error::Request(format!("a vector to unembed is not {d} finite values")));
        }
        match tokens.iter().find(|&&t| t as usize >= self.architecture.vocab_size) {
            Some(t) => Err(Error::Request(format!("token {t} is outside the vocabulary"))),
            None => Ok(()),
        }
    }

    /// Calls `each(i, logits)` for every vector, taken for the last layer's output.
    fn for_each_lens(&self, vectors: &[Vec<f32>], each: impl FnMut(usize, &[f32])) {
        let hidden = self.engine.upload(vectors.concat());
        let positions: Vec<usize> = (0..vectors.len()).collect();
        self.for_each_logits(&self.final_normed(&hidden, &positions), vectors.len(), each);
    }

    pub(super) fn run_unembed_topk(&self, vectors: &[Vec<f32>], k: usize) -> Result<Vec<Vec<(u32, f32)>>> {
        self.check_vectors(vectors, &[])?;
        let mut out = Vec::with_capacity(vectors.len());
        self.for_each_lens(vectors, |_, logits| {
            let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
            let higher =
                |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
            ids.sort_unstable_by(higher);
            out.push(ids.into_iter().take(k).map(|i| (i, logits[i as usize])).collect());
        });
        Ok(out)
    }

    pub(super) fn run_lens_logits(&self, vectors: &[Vec<f32>], tokens: &[u32]) -> Result<Vec<Vec<f32>>> {
        self.check_vectors(vectors, tokens)?;
        let (engine, d) = (&self.engine, self.hidden_size());
        let norm = engine.vector_values(&self.final_norm.weight);
        let scaled: Vec<f32> =
            vectors.iter().flat_map(|v| v.iter().zip(&*norm).map(|(x, g)| x * g)).collect();
        if self.architecture.tied {
            // These rows are at hand unrounded, and few: half precision would swap close neighbours.
            let rows = engine.table_rows(&self.embedding, tokens);
            let dot = |v: &[f32], row: &[f32]| -> f32 {
                v.iter().zip(row).map(|(a, b)| f64::from(a * b)).sum::<f64>() as f32
            };
            let of = |v: &[f32]| rows.chunks_exact(d).map(|row| dot(v, row)).collect();
            return Ok(scaled.chunks_exact(d).map(of).collect());
        }
        let mut out = Vec::with_capacity(vectors.len());
        let scaled = self.engine.upload(scaled);
        self.for_each_product(&scaled, vectors.len(), None, |_, logits| {
            out.push(tokens.iter().map(|&t| logits[t as usize]).collect());
        });
        Ok(out)
    }

    pub(super) fn run_next_log_probs(&self, vectors: &[Vec<f32>], tokens: &[u32]) -> Result<Vec<Vec<f32>>> {
        self.check_vectors(vectors, tokens)?;
        let mut out = Vec::with_capacity(vectors.len());
        self.for_each_lens(vectors, |_, logits| {
            let (max, sum) = exp_sum(logits);
            let lse = max + sum.ln();
            out.push(tokens.iter().map(|&t| logits[t as usize] - lse).collect());
        });
        Ok(out)
    }

    pub(super) fn run_unembedding(&self, tokens: &[u32]) -> Result<Vec<Vec<f32>>> {
        self.check_vectors(&[], tokens)?;
        let d = self.hidden_size();
        if self.architecture.tied {
            let rows = self.engine.table_rows(&self.embedding, tokens);
            return Ok(rows.chunks_exact(d).map(<[f32]>::to_vec).collect());
        }
        // Logits of the unit vectors: the matrix is packed for products, not for reading.
        let mut units = vec![0f32; d * d];
        units.iter_mut().step_by(d + 1).for_each(|x| *x = 1.0);
        let mut out = vec![vec![0f32; d]; tokens.len()];
        let units = self.engine.upload(units);
        self.for_each_product(&units, d, None, |i, logits| {
            for (row, &t) in out.iter_mut().zip(tokens) {
                row[i] = logits[t as usize];
            }
        });
        Ok(out)
    }

    fn forward_piece(&self, batch: &Batch<'_>, wants: &[Want], rows: &[usize]) -> Vec<Seen> {
        let d = self.hidden_size();
        let plan = self.plan(Chunk::sharing(batch, rows, 0, |_| usize::MAX));
        let chunk = self.engine.chunk(&plan);
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
        let hidden = self.pass(&plan, deepest, &mut Caches::None, None, |layer, hidden| {
            for place in &chunk.places {
                let Some(seen) = out.get_mut(&place.row) else { continue };
                for (at, kept) in wants[place.row].residual.iter().zip(&mut seen.residual) {
                    if at.layer == layer {
                        let tokens: Vec<usize> = at.positions.iter().map(|&p| place.token(p)).collect();
                        let rows = self.engine.rows(hidden, d, &tokens);
                        kept.extend(self.engine.read(&rows).chunks_exact(d).map(<[f32]>::to_vec));
                    }
                }
            }
        });
        if needs_head {
            let asked: Vec<(usize, usize)> = chunk
                .places
                .iter()
                .flat_map(|place| wants[place.row].logits.iter().map(|&p| (place.row, place.token(p))))
                .collect();
            let positions: Vec<usize> = asked.iter().map(|&(_, p)| p).collect();
            let normed = self.final_normed(&hidden, &positions);
            self.for_each_logits(&normed, positions.len(), |i, logits| {
                if let Some(seen) = out.get_mut(&asked[i].0) {
                    seen.logits.push(logits.to_vec());
                }
            });
        }
        out.into_values().collect()
    }
}
