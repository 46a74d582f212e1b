//! The verb `generate`: batched decoding with a KV cache, greedy or with the counter-based seeded sampler.
//!
//! Rows with the same prompt, adapters and injections share one prompt pass; prompts of the same adapters that begin alike and are
//! computed together share that beginning. Injections act in the prompt pass only.

use std::collections::BTreeMap;

use super::sampler::{self, Sampling};
use crate::batch::{Batch, Row, distinct};
use crate::decoder::Model;
use crate::decoder::chunk::{Chunk, split};
use crate::decoder::head::exp_sum;
use crate::engine::{Caches, Engine};
use crate::{Adapter, Error, Result, Tokenizer};

/// Rows decoded together by one thread.
const DECODE_ROWS: usize = 64;
/// Prompt tokens computed together by one thread.
const PROMPT_TOKENS: usize = 512;

/// One reply wanted.
#[derive(Debug, Clone)]
pub struct Request {
    /// The prompt, with its adapters and injections.
    pub prompt: Row,
    /// Most tokens to generate.
    pub max_new_tokens: usize,
    /// How tokens are picked.
    pub sampling: Sampling,
    /// Seed of this reply's draws (unused when greedy).
    pub seed: u64,
}

/// One reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Generated tokens, without the stop token.
    pub tokens: Vec<u32>,
    /// The token that ended the reply: a stop token, or the last of a line's beginning that does; `None` if it ran to `max_new_tokens`.
    pub stopped_by: Option<u32>,
}

/// A reply, and how likely the watched tokens were.
#[derive(Debug, Clone, PartialEq)]
pub struct Watched {
    /// The reply.
    pub reply: Reply,
    /// For every token that was picked, the stop token too: log-probabilities of the watched tokens in its place. Empty if none
    /// is watched.
    pub log_probs: Vec<Vec<f32>>,
}

/// What ends a reply: one of some tokens, or a line that begins so, whatever its tokens are.
#[derive(Debug, Clone, Default)]
pub struct Stop<'a> {
    /// The tokens; a reply is without the one that ended it.
    pub tokens: Vec<u32>,
    /// What begins the line, and how tokens are read; a reply is without the tokens of the line, and of the line's break unless that is
    /// in one with what stands before it.
    pub line: Option<(&'a Tokenizer, &'static str)>,
}

impl<T: AsRef<[u32]> + ?Sized> From<&T> for Stop<'_> {
    fn from(tokens: &T) -> Self {
        Self { tokens: tokens.as_ref().to_vec(), line: None }
    }
}

impl Stop<'_> {
    /// Most tokens that the beginning of a line and its break can have.
    const LINE_TOKENS: usize = 16;

    /// How many of a reply's tokens stand before a line that ends it, which its last token completes.
    fn line_at(&self, tokens: &[u32]) -> Option<usize> {
        let (tokenizer, line) = self.line?;
        let from = tokens.len().saturating_sub(Self::LINE_TOKENS);
        let text = |to: usize| tokenizer.decode(&tokens[from..to]).unwrap_or_default();
        let tail = text(tokens.len());
        let at = if from == 0 && tail.trim_start().starts_with(line) {
            0
        } else {
            tail.find(&format!("\n{line}"))?
        };
        (from..=tokens.len()).find(|&to| text(to).len() >= at)
    }
}

/// A prompt that has been computed: its cache and the logits after its last token.
pub(crate) struct Computed<E: Engine> {
    pub(crate) cache: E::Cache,
    pub(crate) logits: Vec<f32>,
}

impl<E: Engine> Model<E> {
    pub(super) fn run_generate(
        &self,
        adapters: &[&Adapter],
        requests: &[Request],
        stop: &Stop<'_>,
        watched: &[u32],
    ) -> Result<Vec<Watched>> {
        if let Some(t) = watched.iter().find(|&&t| t as usize >= self.architecture.vocab_size) {
            return Err(Error::Request(format!("token {t} is outside the vocabulary")));
        }
        let batch =
            Batch { adapters: adapters.to_vec(), rows: requests.iter().map(|r| r.prompt.clone()).collect() };
        batch.validate(&self.architecture)?;
        let limit = self.architecture.context;
        if let Some(i) =
            requests.iter().position(|r| r.prompt.tokens.len().saturating_add(r.max_new_tokens) > limit)
        {
            return Err(Error::Request(format!(
                "request {i} would run past the model's context of {limit} tokens"
            )));
        }
        let (rows, of_request) = distinct(requests, |r| {
            let s = &r.sampling;
            let greedy = s.temperature == 0.0;
            let sampling = (s.temperature.to_bits(), s.top_k, s.top_p.to_bits(), r.seed);
            (r.prompt.identity(), r.max_new_tokens, (!greedy).then_some(sampling))
        });
        let pieces = split(&rows, |_| 1, DECODE_ROWS, self.engine.parallel());
        let replies = self
            .engine
            .each(&pieces, |piece| self.generate_piece(&batch, requests, piece, stop, watched, &mut |_| ()));
        let replies: Vec<Watched> = replies.into_iter().flatten().collect();
        Ok(of_request.into_iter().map(|i| replies[i].clone()).collect())
    }

    pub(super) fn run_generate_telling(
        &self,
        adapters: &[&Adapter],
        request: &Request,
        stop: &Stop<'_>,
        tell: &mut dyn FnMut(&[u32]),
    ) -> Result<Reply> {
        let batch = Batch { adapters: adapters.to_vec(), rows: vec![request.prompt.clone()] };
        batch.validate(&self.architecture)?;
        let limit = self.architecture.context;
        if request.prompt.tokens.len().saturating_add(request.max_new_tokens) > limit {
            return Err(Error::Request(format!("it would run past the model's context of {limit} tokens")));
        }
        let requests = std::slice::from_ref(request);
        let reply = self.generate_piece(&batch, requests, &[0], stop, &[], tell).remove(0).reply;
        Ok(reply)
    }

    /// Computes the prompts of `rows`, each distinct one once. Returns, for each row, the index of its prompt.
    pub(crate) fn compute_prompts(
        &self,
        batch: &Batch<'_>,
        rows: &[usize],
    ) -> (Vec<usize>, Vec<Computed<E>>) {
        let mut known = BTreeMap::new();
        let mut first = Vec::new();
        let of_row: Vec<usize> = rows
            .iter()
            .map(|&r| {
                *known.entry(batch.rows[r].identity()).or_insert_with(|| {
                    first.push(r);
                    first.len() - 1
                })
            })
            .collect();
        let mut computed = Vec::with_capacity(first.len());
        for piece in split(&first, |r| batch.rows[r].tokens.len(), PROMPT_TOKENS, 1) {
            // What prompts of the same adapters have in common at their beginnings is computed once.
            let plan = self.plan(Chunk::sharing(batch, &piece, 0, |_| usize::MAX));
            let chunk = self.engine.chunk(&plan);
            let mut spans: Vec<E::Cache> =
                chunk.spans.iter().map(|_| self.engine.cache(self.layers.len())).collect();
            let hidden = self.whole_pass(&plan, &mut Caches::Growing(spans.iter_mut().collect()));
            let last: Vec<usize> = chunk.places.iter().map(|p| p.token(p.len() - 1)).collect();
            let mut prompts: BTreeMap<usize, Computed<E>> = BTreeMap::new();
            self.for_each_logits(&self.final_normed(&hidden, &last), last.len(), |i, logits| {
                let place = &chunk.places[i];
                let cache = self.engine.joined(chunk.spans_of(place).map(|span| &spans[span]));
                prompts.insert(place.row, Computed { cache, logits: logits.to_vec() });
            });
            let in_order = piece.iter().map(|r| prompts.remove(r));
            computed.extend(in_order.map(|p| p.expect("invariant: every row has a place")));
        }
        (of_row, computed)
    }

    fn generate_piece(
        &self,
        batch: &Batch<'_>,
        requests: &[Request],
        rows: &[usize],
        stop: &Stop<'_>,
        watched: &[u32],
        tell: &mut dyn FnMut(&[u32]),
    ) -> Vec<Watched> {
        let (prompt_of, prompts) = self.compute_prompts(batch, rows);
        let mut replies: Vec<Watched> = rows
            .iter()
            .map(|_| Watched { reply: Reply { tokens: vec![], stopped_by: None }, log_probs: vec![] })
            .collect();
        let mut caches: Vec<E::Cache> = prompt_of.iter().map(|&p| prompts[p].cache.clone()).collect();
        let mut active: Vec<usize> = Vec::new();
        // Takes the next token of row i; true while the row goes on.
        let mut take = |i: usize, logits: &[f32], position: usize, out: &mut Watched| {
            let request = &requests[rows[i]];
            if request.max_new_tokens == 0 {
                return false;
            }
            if !watched.is_empty() {
                let (max, sum) = exp_sum(logits);
                let lse = max + sum.ln();
                out.log_probs.push(watched.iter().map(|&t| logits[t as usize] - lse).collect());
            }
            let reply = &mut out.reply;
            let token = sampler::pick(logits, &request.sampling, request.seed, position as u32);
            if stop.tokens.contains(&token) {
                reply.stopped_by = Some(token);
                return false;
            }
            reply.tokens.push(token);
            if let Some(before) = stop.line_at(&reply.tokens) {
                reply.tokens.truncate(before);
                reply.stopped_by = Some(token);
                out.log_probs.truncate(before + 1);
                return false;
            }
            tell(&reply.tokens);
            reply.tokens.len() < request.max_new_tokens
        };
        for (i, &p) in prompt_of.iter().enumerate() {
            if take(i, &prompts[p].logits, self.engine.cached(&prompts[p].cache), &mut replies[i]) {
                active.push(i);
            }
        }
        drop(prompts);
        while !active.is_empty() {
            // One new token a row: a batch of single-token rows under the same adapters.
            let step = Batch {
                adapters: batch.adapters.clone(),
                rows: active
                    .iter()
                    .map(|&i| {
                        let last =
                            *replies[i].reply.tokens.last().expect("invariant: an active row has a token");
                        Row::with_adapters(vec![last], batch.rows[rows[i]].adapters.clone())
                    })
                    .collect(),
            };
            let order: Vec<usize> = (0..active.len()).collect();
            let positions: Vec<usize> = active.iter().map(|&i| self.engine.cached(&caches[i])).collect();
            let plan = self.plan(Chunk::new(&step, &order, 0, |n| positions[n]));
            let growing = caches.iter_mut().enumerate().filter(|(i, _)| active.contains(i)).map(|(_, c)| c);
            let hidden = self.whole_pass(&plan, &mut Caches::Growing(growing.collect()));
            let normed = self.final_normed(&hidden, &order);
            let mut going = Vec::with_capacity(active.len());
            self.for_each_logits(&normed, order.len(), |n, logits| {
                let i = active[n];
                if take(i, logits, positions[n] + 1, &mut replies[i]) {
                    going.push(i);
                }
            });
            active = going;
        }
        replies
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BaseModel, Precision};

    #[test]
    fn a_line_is_found_as_soon_as_it_begins_and_only_at_its_beginning() {
        let tiny = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny");
        let (tokenizer, _) = crate::language(&tiny, None).unwrap();
        let stop = Stop { tokens: vec![], line: Some((&tokenizer, "User:")) };
        for (said, before) in [
            ("Sure. It is\nso.\nUser: and then", Some("Sure. It is\nso.")),
            ("User: and", Some("")),
            ("\n\nUser: and", Some("")),
            ("A User: and\nUser and\nuser:", None),
            (
                "\u{1f41d}\u{1f41d}\u{1f41d}\u{1f41d}\u{1f41d}\u{1f41d}\nUser:",
                Some("\u{1f41d}\u{1f41d}\u{1f41d}\u{1f41d}\u{1f41d}\u{1f41d}"),
            ),
        ] {
            let tokens = tokenizer.encode(said).unwrap();
            let found = (1..=tokens.len()).find_map(|n| Some((n, stop.line_at(&tokens[..n])?)));
            let kept = found.map(|(_, keep)| tokenizer.decode(&tokens[..keep]).unwrap());
            assert_eq!(kept.as_deref().map(str::trim_end), before, "{said:?}");
            if let Some((n, _)) = found {
                assert!(tokenizer.decode(&tokens[..n]).unwrap().ends_with("User:"), "{said:?}");
            }
        }
    }

    #[test]
    fn watched_tokens_are_as_likely_as_the_next_logits_say() {
        let tiny = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny");
        let base = BaseModel::load(&tiny, Precision::F32).unwrap();
        let request = |seed| Request {
            prompt: Row::plain(vec![5, 9, 200]),
            max_new_tokens: 6,
            sampling: Sampling { temperature: 0.9, top_k: 50, top_p: 1.0 },
            seed,
        };
        let requests: Vec<Request> = (0..4).map(request).collect();
        let plain = base.decoder.generate(&[], &requests, &[17]).unwrap();
        let watched = base.decoder.generate_watching(&[], &requests, &[17], &[3, 300]).unwrap();
        for (request, plain) in requests.iter().zip(&plain) {
            // Told as they come, one after the other.
            let mut told: Vec<Vec<u32>> = vec![];
            let stop = Stop::from(&[17]);
            let mut tell = |tokens: &[u32]| told.push(tokens.to_vec());
            let reply = base.decoder.generate_telling(&[], request, &stop, &mut tell).unwrap();
            assert_eq!(&reply, plain);
            assert_eq!(told.len(), plain.tokens.len());
            assert!(told.iter().enumerate().all(|(i, t)| *t == plain.tokens[..=i]));
        }
        for (w, plain) in watched.iter().zip(plain) {
            assert_eq!(w.reply, plain);
            assert_eq!(w.log_probs.len(), plain.tokens.len() + usize::from(plain.stopped_by.is_some()));
            let mut tokens = vec![5, 9, 200];
            for (i, log_probs) in w.log_probs.iter().enumerate() {
                let candidates = vec![vec![3], vec![300]];
                let request = crate::ScoreRequest { prompt: Row::plain(tokens.clone()), candidates };
                let scores = base.decoder.score(&[], &[request]).unwrap();
                for (found, wanted) in log_probs.iter().zip(&scores[0]) {
                    assert!((f64::from(*found) - wanted).abs() < 1e-4, "{found} {wanted}");
                }
                tokens.extend(w.reply.tokens.get(i));
            }
        }
        assert!(base.decoder.generate_watching(&[], &requests, &[], &[320]).is_err());
    }
}
