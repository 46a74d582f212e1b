//! DIT adapters (Diff Interpretation Tuning, arXiv 2510.05092): one LoRA that, stacked on a fine-tuned model, makes the
//! model describe its own weight difference.
//!
//! `L(A) = mean CE(M + delta_i + A; question -> answer)`, loss on the answer's tokens only. The base and every diff are
//! frozen. The question never contains the answer (see `recipes`), so nothing but the diff can tell it.

#![warn(missing_docs)]

use std::collections::BTreeMap;

use lm::{
    Adapter, BaseModel, Choice, FitConfig, FitEvent, Fitted, Keeping, Request, Result, Row, Sampling, Step,
    TrainRow, answer_row, epoch_order, fit, validate,
};
use recipes::Episode;

/// A question to a model that carries a diff (index into the batch's adapters, if any) and the DIT adapter.
pub fn prompt_row(
    base: &BaseModel,
    question: &str,
    diff: Option<usize>,
    reader: Option<usize>,
) -> Result<Row> {
    Ok(Row::with_adapters(base.prompt(question)?, diff.into_iter().chain(reader).collect()))
}

/// Trains a DIT adapter on `train`; `validation` decides which step is kept.
///
/// # Errors
/// If an episode's diff is not among `diffs`, training fails, or it was stopped.
pub fn train(
    base: &BaseModel,
    diffs: &BTreeMap<String, Adapter>,
    train: &[&Episode],
    validation: &[&Episode],
    config: &FitConfig,
    keeping: Keeping<'_>,
    report: &mut dyn FnMut(FitEvent),
) -> Result<Fitted> {
    let names: Vec<&String> = diffs.keys().collect();
    let frozen: Vec<&Adapter> = diffs.values().collect();
    let index = |e: &Episode| -> Result<usize> {
        names
            .binary_search(&&e.behaviour)
            .map(|i| i + 1)
            .map_err(|_| lm::Error::Request(format!("no diff {} for its episode", e.behaviour)))
    };
    let rows = train
        .iter()
        .map(|e| {
            let row = prompt_row(base, &e.question, Some(index(e)?), Some(0))?;
            answer_row(base, row, &e.answer)
        })
        .collect::<Result<Vec<TrainRow>>>()?;
    let start = Adapter::init(base.config(), config.adapter.clone(), config.seed, "dit")?;
    let mut next = |step: usize| {
        let order = epoch_order(rows.len(), config.batch, step, config.seed, "reader-order");
        Ok(Step { frozen: frozen.clone(), rows: order.into_iter().map(|i| rows[i].clone()).collect() })
    };
    let mut evaluate = |reader: &Adapter| {
        let adapters: Vec<&Adapter> = std::iter::once(reader).chain(frozen.iter().copied()).collect();
        let choices = validation
            .iter()
            .map(|e| {
                let prompt = prompt_row(base, &e.question, Some(index(e)?), Some(0))?;
                Ok(Choice { prompt, answer: &e.answer, candidates: &e.candidates })
            })
            .collect::<Result<Vec<_>>>()?;
        validate(base, &adapters, choices)
    };
    fit(&base.decoder, start, config, keeping, &mut next, &mut evaluate, report)
}

/// Asks one diff one question; greedy.
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
    let stop = base.stop_tokens();
    let replies = base.decoder.generate(&adapters, &[request], &stop)?;
    Ok(base.tokenizer.decode(&replies[0].tokens)?.trim().to_owned())
}
