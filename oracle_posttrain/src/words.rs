//! Whole words among a vocabulary's tokens, and the words that a lens shows.

use std::collections::BTreeSet;

use lm::{BaseModel, Result};
use recipes::stem;

/// Tokens that are a whole word behind a space (three letters or more, all of them), with the word; without those that name any
/// of `withheld` in either number.
///
/// # Errors
/// If a token cannot be decoded.
pub fn word_tokens(base: &BaseModel, withheld: &[String]) -> Result<Vec<(u32, String)>> {
    let withheld = stems(withheld);
    let mut out = Vec::new();
    for id in 0..base.architecture.vocab_size as u32 {
        let text = base.tokenizer.text_within(id)?;
        let Some(word) = text.strip_prefix(' ') else { continue };
        let plain = word.chars().count() >= 3 && word.chars().all(|c| c.is_ascii_lowercase());
        if plain && !withheld.contains(&stem(word)) {
            out.push((id, word.to_owned()));
        }
    }
    Ok(out)
}

/// Stems of all words of some phrases.
pub(crate) fn stems(phrases: &[String]) -> BTreeSet<String> {
    phrases.iter().flat_map(|w| w.split_whitespace()).map(stem).collect()
}

/// The `k` whole words that a vector points to most, by the logit lens.
///
/// # Errors
/// If the vector is not one of this model's residual stream.
pub fn lens_words(
    base: &BaseModel,
    vector: &[f32],
    words: &[(u32, String)],
    k: usize,
) -> Result<Vec<String>> {
    let ids: Vec<u32> = words.iter().map(|(id, _)| *id).collect();
    let scores = base.decoder.lens_logits(&[vector.to_vec()], &ids)?.remove(0);
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_unstable_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
    Ok(order.into_iter().take(k).map(|i| words[i].1.clone()).collect())
}
