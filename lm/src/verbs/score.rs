//! The verb `score`: total log-probability of many candidate completions of each prompt.
//!
//! Each distinct prompt is computed once, its cache shared by all its candidates; candidates of many prompts are packed
//! together; equal requests are computed once.

use crate::batch::{Batch, Row, distinct};
use crate::decoder::Model;
use crate::decoder::chunk::{Chunk, split};
use crate::decoder::head::{Label, Target, exp_sum};
use crate::engine::{Caches, Engine};
use crate::{Adapter, Error, Result};

/// Prompts that one thread holds the caches of at once.
const PROMPTS: usize = 16;
/// Candidate tokens computed together.
const CANDIDATE_TOKENS: usize = 512;

/// A prompt and its candidate completions.
#[derive(Debug, Clone)]
pub struct ScoreRequest {
    /// The prompt, with its adapters and injections.
    pub prompt: Row,
    /// Completions, as tokens (include the end-of-turn token where a complete reply is meant).
    pub candidates: Vec<Vec<u32>>,
}

impl<E: Engine> Model<E> {
    pub(super) fn run_score(
        &self,
        adapters: &[&Adapter],
        requests: &[ScoreRequest],
    ) -> Result<Vec<Vec<f64>>> {
        let batch =
            Batch { adapters: adapters.to_vec(), rows: requests.iter().map(|r| r.prompt.clone()).collect() };
        batch.validate(&self.architecture)?;
        for (i, request) in requests.iter().enumerate() {
            for (c, candidate) in request.candidates.iter().enumerate() {
                let too_long = request.prompt.tokens.len() + candidate.len() > self.architecture.context;
                if candidate.is_empty()
                    || too_long
                    || candidate.iter().any(|&t| t as usize >= self.architecture.vocab_size)
                {
                    return Err(Error::Request(format!(
                        "request {i}: candidate {c} is empty, too long or not of this vocabulary"
                    )));
                }
            }
        }
        let (rows, of_request) = distinct(requests, |r| (r.prompt.identity(), r.candidates.clone()));
        let pieces = split(&rows, |_| 1, PROMPTS, self.engine.parallel());
        let scores = self.engine.each(&pieces, |piece| self.score_piece(&batch, requests, piece));
        let scores: Vec<Vec<f64>> = scores.into_iter().flatten().collect();
        Ok(of_request.into_iter().map(|i| scores[i].clone()).collect())
    }

    fn score_piece(&self, batch: &Batch<'_>, requests: &[ScoreRequest], rows: &[usize]) -> Vec<Vec<f64>> {
        let (prompt_of, prompts) = self.compute_prompts(batch, rows);
        let mut scores: Vec<Vec<f64>> = Vec::with_capacity(rows.len());
        // The first token of every candidate is read off the prompt's own last logits.
        for (i, &r) in rows.iter().enumerate() {
            let logits = &prompts[prompt_of[i]].logits;
            let (max, sum) = exp_sum(logits);
            let lse = max as f64 + (sum as f64).ln();
            scores.push(requests[r].candidates.iter().map(|c| logits[c[0] as usize] as f64 - lse).collect());
        }
        // The rest of the longer ones follows in packed rows: (row, candidate).
        let longer: Vec<(usize, usize)> = rows
            .iter()
            .enumerate()
            .flat_map(|(i, &r)| {
                let candidates = requests[r].candidates.iter().enumerate();
                candidates.filter(|(_, c)| c.len() > 1).map(move |(c, _)| (i, c))
            })
            .collect();
        let tail = Batch {
            adapters: batch.adapters.clone(),
            rows: longer
                .iter()
                .map(|&(i, c)| {
                    let request = &requests[rows[i]];
                    Row::with_adapters(request.candidates[c].clone(), request.prompt.adapters.clone())
                })
                .collect(),
        };
        let all: Vec<usize> = (0..longer.len()).collect();
        for piece in split(&all, |t| tail.rows[t].tokens.len() - 1, CANDIDATE_TOKENS, 1) {
            let owner = |t: usize| prompt_of[longer[t].0];
            let chunk = Chunk::new(&tail, &piece, 1, |t| self.engine.cached(&prompts[owner(t)].cache));
            let plan = self.plan(chunk);
            let chunk = self.engine.chunk(&plan);
            let caches = piece.iter().map(|&t| &prompts[owner(t)].cache).collect();
            let hidden = self.whole_pass(&plan, &mut Caches::Shared(caches));
            let mut labels = Vec::new();
            let mut owners = Vec::new();
            for place in &chunk.places {
                for p in 0..place.len() {
                    let target = Target::Token(tail.rows[place.row].tokens[p + 1]);
                    labels.push(Label { at: place.token(p), target, weight: 1.0 });
                    owners.push(longer[place.row]);
                }
            }
            let (losses, _) = self.head_loss(&hidden, chunk.len(), &labels, false);
            for ((i, c), loss) in owners.into_iter().zip(losses) {
                scores[i][c] -= loss;
            }
        }
        scores
    }
}
