//! A question to a model that carries a diff and a DIT adapter.

use lm::{Adapter, BaseModel, Request, Result, Row, Sampling};

/// A question to a model that carries a diff (index into the batch's adapters, if any) and the DIT adapter.
///
/// # Errors
/// If the question cannot be tokenised.
pub fn prompt_row(
    base: &BaseModel,
    question: &str,
    diff: Option<usize>,
    reader: Option<usize>,
) -> Result<Row> {
    Ok(Row::with_adapters(base.prompt(question)?, diff.into_iter().chain(reader).collect()))
}

/// Asks one diff one question; greedy.
///
/// # Errors
/// If an adapter does not fit the model.
pub fn ask(
    base: &BaseModel,
    diff: Option<&Adapter>,
    reader: &Adapter,
    question: &str,
    max_new_tokens: usize,
) -> Result<String> {
    let adapters: Vec<&Adapter> = std::iter::once(reader).chain(diff).collect();
    let prompt = prompt_row(base, question, diff.map(|_| 1), Some(0))?;
    let request = Request { prompt, max_new_tokens, sampling: Sampling::GREEDY, seed: 0 };
    let stop = base.stop();
    let replies = base.decoder.generate(&adapters, &[request], stop)?;
    Ok(base.tokenizer.decode(&replies[0].tokens)?.trim().to_owned())
}
