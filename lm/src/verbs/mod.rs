//! What can be asked of a decoder, whatever computes it.

pub mod forward;
pub mod generate;
pub mod sampler;
pub mod score;
pub mod training;

use std::borrow::Cow;
use std::fmt::Debug;
use std::ops::Deref;

use crate::decoder::Model;
use crate::engine::Engine;
use crate::engine::cpu::Cpu;
use crate::{
    Adapter, Architecture, Batch, Checkpoint, Cut, LossAndGrads, Precision, Reply, Request, Result,
    ScoreRequest, Seen, Stop, Teacher, TrainRow, Want, Watched,
};

/// What a decoder does. Each verb takes rows of any length, each with its own list of active adapters and injections.
pub trait Verbs: Debug + Send + Sync {
    /// What the decoder is.
    fn architecture(&self) -> &Architecture;

    /// Precision of the frozen weights and of the products against them.
    fn precision(&self) -> Precision;

    /// Digest of the weight files this decoder was made from.
    fn digest(&self) -> &str;

    /// Weight of the final norm as it is used, `[hidden_size]`.
    fn final_norm_weight(&self) -> Cow<'_, [f32]>;

    /// Runs the batch without gradient and returns, row by row, what was asked for.
    ///
    /// # Errors
    /// If a row, an adapter index, a layer or a position does not exist.
    fn forward(&self, batch: &Batch<'_>, wants: &[Want]) -> Result<Vec<Seen>>;

    /// The `k` most likely next tokens that each vector stands for if it is taken for the last layer's output (the logit
    /// lens), with their logits, highest first; of equals the lower id first. Vectors have `hidden_size` values.
    ///
    /// # Errors
    /// If a vector has another length or is not finite.
    fn unembed_topk(&self, vectors: &[Vec<f32>], k: usize) -> Result<Vec<Vec<(u32, f32)>>>;

    /// What each vector of `hidden_size` adds to the logits of `tokens`, if it is taken for a part of the last layer's output:
    /// `W_U (g * v)` with the final norm's weight `g` and without the norm's division, which is the same for all tokens, nor a cap of
    /// the logits. Linear in the vector, so that a faint difference is not blown up.
    ///
    /// # Errors
    /// If a vector has another length or is not finite, or a token is outside the vocabulary.
    fn lens_logits(&self, vectors: &[Vec<f32>], tokens: &[u32]) -> Result<Vec<Vec<f32>>>;

    /// Log-probabilities of `tokens` if each vector of `hidden_size` is the last layer's output.
    ///
    /// # Errors
    /// If a vector has another length, or a token is outside the vocabulary.
    fn next_log_probs(&self, vectors: &[Vec<f32>], tokens: &[u32]) -> Result<Vec<Vec<f32>>>;

    /// Rows of the unembedding matrix, `hidden_size` values for each token.
    ///
    /// # Errors
    /// If a token is outside the vocabulary.
    fn unembedding(&self, tokens: &[u32]) -> Result<Vec<Vec<f32>>>;

    /// Generates a reply for every request; `stop` says what ends one: tokens, or what [`crate::Outline::stop`] gives. Of every token
    /// that was picked (the stop token too) it tells how likely each of `watched` was in its place, before temperature and filters.
    ///
    /// # Errors
    /// If a prompt is malformed or would run past the model's context, or a watched token is outside the vocabulary.
    fn generate_watched(
        &self,
        adapters: &[&Adapter],
        requests: &[Request],
        stop: &Stop<'_>,
        watched: &[u32],
    ) -> Result<Vec<Watched>>;

    /// One reply, as [`Decoder::generate`] gives it; `tell` is shown its tokens so far after each one. A line that ends the reply
    /// takes back tokens that were shown.
    ///
    /// # Errors
    /// As [`Verbs::generate_watched`].
    fn generate_telling(
        &self,
        adapters: &[&Adapter],
        request: &Request,
        stop: &Stop<'_>,
        tell: &mut dyn FnMut(&[u32]),
    ) -> Result<Reply>;

    /// Total log-probability in nats of each candidate after its prompt, in the order given.
    ///
    /// # Errors
    /// If a prompt or a candidate is empty or malformed.
    fn score(&self, adapters: &[&Adapter], requests: &[ScoreRequest]) -> Result<Vec<Vec<f64>>>;

    /// Weighted loss of the rows and its gradients with respect to the adapters listed in `trainable` (indices into
    /// `adapters`). No gradient of a frozen weight, and none of another adapter, is formed.
    ///
    /// # Errors
    /// If a row is malformed or has no label position.
    fn loss_and_grads_cut(
        &self,
        adapters: &[&Adapter],
        rows: &[TrainRow],
        trainable: &[usize],
        cut: Cut,
    ) -> Result<LossAndGrads>;

    /// [`Verbs::loss_and_grads_cut`] in halves.
    ///
    /// # Errors
    /// As there.
    fn loss_and_grads(
        &self,
        adapters: &[&Adapter],
        rows: &[TrainRow],
        trainable: &[usize],
    ) -> Result<LossAndGrads> {
        self.loss_and_grads_cut(adapters, rows, trainable, Cut::Halves)
    }

    /// The frozen model's own distributions at the label positions of `rows`, each its tokens and the index of its first completion
    /// token (adapters and injections are ignored).
    ///
    /// # Errors
    /// If a row is malformed or has no completion.
    fn teachers(&self, rows: &[(Vec<u32>, usize)]) -> Result<Vec<Teacher>>;
}

/// A decoder with frozen weights on some engine, ready to compute.
#[derive(Debug)]
pub struct Decoder {
    verbs: Box<dyn Verbs>,
}

impl Deref for Decoder {
    type Target = dyn Verbs;

    fn deref(&self) -> &Self::Target {
        &*self.verbs
    }
}

impl Decoder {
    /// Packs a checkpoint's weights for the processor.
    ///
    /// # Errors
    /// If a tensor cannot be read or holds a value that is not finite, or the files change meanwhile.
    pub fn new(checkpoint: &Checkpoint, precision: Precision) -> Result<Self> {
        Ok(Self { verbs: Box::new(Model::new(checkpoint, Cpu { precision })?) })
    }

    /// [`Verbs::generate_watched`] without a watch.
    ///
    /// # Errors
    /// As there.
    pub fn generate<'s>(
        &self,
        adapters: &[&Adapter],
        requests: &[Request],
        stop: impl Into<Stop<'s>>,
    ) -> Result<Vec<Reply>> {
        let replies = self.generate_watching(adapters, requests, stop, &[])?;
        Ok(replies.into_iter().map(|w| w.reply).collect())
    }

    /// [`Verbs::generate_watched`].
    ///
    /// # Errors
    /// As there.
    pub fn generate_watching<'s>(
        &self,
        adapters: &[&Adapter],
        requests: &[Request],
        stop: impl Into<Stop<'s>>,
        watched: &[u32],
    ) -> Result<Vec<Watched>> {
        self.verbs.generate_watched(adapters, requests, &stop.into(), watched)
    }
}

impl<E: Engine> Verbs for Model<E> {
    fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    fn precision(&self) -> Precision {
        self.engine.precision()
    }

    fn digest(&self) -> &str {
        &self.digest
    }

    fn final_norm_weight(&self) -> Cow<'_, [f32]> {
        self.engine.vector_values(&self.final_norm.weight)
    }

    fn forward(&self, batch: &Batch<'_>, wants: &[Want]) -> Result<Vec<Seen>> {
        self.run_forward(batch, wants)
    }

    fn unembed_topk(&self, vectors: &[Vec<f32>], k: usize) -> Result<Vec<Vec<(u32, f32)>>> {
        self.run_unembed_topk(vectors, k)
    }

    fn lens_logits(&self, vectors: &[Vec<f32>], tokens: &[u32]) -> Result<Vec<Vec<f32>>> {
        self.run_lens_logits(vectors, tokens)
    }

    fn next_log_probs(&self, vectors: &[Vec<f32>], tokens: &[u32]) -> Result<Vec<Vec<f32>>> {
        self.run_next_log_probs(vectors, tokens)
    }

    fn unembedding(&self, tokens: &[u32]) -> Result<Vec<Vec<f32>>> {
        self.run_unembedding(tokens)
    }

    fn generate_watched(
        &self,
        adapters: &[&Adapter],
        requests: &[Request],
        stop: &Stop<'_>,
        watched: &[u32],
    ) -> Result<Vec<Watched>> {
        self.run_generate(adapters, requests, stop, watched)
    }

    fn generate_telling(
        &self,
        adapters: &[&Adapter],
        request: &Request,
        stop: &Stop<'_>,
        tell: &mut dyn FnMut(&[u32]),
    ) -> Result<Reply> {
        self.run_generate_telling(adapters, request, stop, tell)
    }

    fn score(&self, adapters: &[&Adapter], requests: &[ScoreRequest]) -> Result<Vec<Vec<f64>>> {
        self.run_score(adapters, requests)
    }

    fn loss_and_grads_cut(
        &self,
        adapters: &[&Adapter],
        rows: &[TrainRow],
        trainable: &[usize],
        cut: Cut,
    ) -> Result<LossAndGrads> {
        self.run_training(adapters, rows, trainable, cut)
    }

    fn teachers(&self, rows: &[(Vec<u32>, usize)]) -> Result<Vec<Teacher>> {
        self.run_teachers(rows)
    }
}
