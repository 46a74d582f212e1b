//! What an open answer is chosen from: the whole words of the vocabulary, and the known values of families, each by its first token.

use std::collections::{BTreeMap, BTreeSet};

use lm::{BaseModel, Result};
use oracle_posttrain::words::word_tokens;
use rayon::prelude::*;
use recipes::{Recipe, stem};

/// The words, and what reads them off a residual stream.
#[derive(Debug)]
pub struct Lexicon {
    /// First token of each.
    pub tokens: Vec<u32>,
    /// How each is written.
    pub words: Vec<String>,
    /// Known values that begin with the token, where the token alone is no whole word or more than one begins so.
    values: BTreeMap<usize, Vec<String>>,
    /// `g * W_U` of each, `hidden_size` values after `hidden_size` values.
    rows: Vec<f32>,
    width: usize,
}

impl Lexicon {
    /// The words of a base model and the values of these recipes.
    ///
    /// # Errors
    /// If a token cannot be decoded, or a value cannot be tokenised.
    pub fn new(base: &BaseModel, recipes: &[Recipe]) -> Result<Self> {
        let mut known: BTreeMap<u32, String> = word_tokens(base, &[])?.into_iter().collect();
        let whole: BTreeSet<u32> = known.keys().copied().collect();
        let mut values: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
        for value in recipes.iter().flat_map(Recipe::values_of_family) {
            let Some(&first) = base.tokenizer.encode(&format!(" {value}"))?.first() else { continue };
            values.entry(first).or_default().insert(value);
        }
        for (token, of) in &values {
            if !whole.contains(token) {
                known.insert(*token, of.iter().cloned().collect::<Vec<_>>().join(" / "));
            }
        }
        let tokens: Vec<u32> = known.keys().copied().collect();
        let words: Vec<String> = known.into_values().collect();
        let values = tokens
            .iter()
            .enumerate()
            .filter_map(|(i, t)| Some((i, values.get(t)?.iter().cloned().collect::<Vec<_>>())))
            .collect();
        let norm = base.decoder.final_norm_weight();
        let rows = base
            .decoder
            .unembedding(&tokens)?
            .iter()
            .flat_map(|row| row.iter().zip(&*norm).map(|(x, g)| x * g))
            .collect();
        Ok(Self { tokens, words, values, rows, width: base.architecture.hidden_size })
    }

    /// How many words.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Known values that begin with the token at this place.
    pub fn values(&self, place: usize) -> &[String] {
        self.values.get(&place).map_or(&[], Vec::as_slice)
    }

    /// The logit lens of a vector of the residual stream: for each word, `W_U (g * v)`.
    pub fn lens(&self, vector: &[f32]) -> Vec<f32> {
        let dot = |row: &[f32]| row.iter().zip(vector).map(|(a, b)| a * b).sum();
        self.rows.par_chunks_exact(self.width).map(dot).collect()
    }

    /// Log-probabilities of the words' tokens from a row of logits over the vocabulary.
    pub fn log_probs(&self, logits: &[f32]) -> Vec<f32> {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|x| f64::from(x - max).exp()).sum();
        let lse = max + sum.ln() as f32;
        self.tokens.iter().map(|&t| logits[t as usize] - lse).collect()
    }

    /// The places of the `k` words with the highest scores; of words that differ in number only, the higher.
    pub fn top(&self, scores: &[f32], k: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_unstable_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
        let mut seen = BTreeSet::new();
        order.retain(|&i| seen.len() < 4 * k && seen.insert(stem(&self.words[i])));
        order.truncate(k);
        order
    }

    /// What decides the words.
    pub fn digest(&self) -> String {
        registry::spec_hash(&serde_json::json!({"tokens": self.tokens, "words": self.words}))
    }
}
