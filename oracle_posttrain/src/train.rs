//! Post-training: the oracle learns to answer the episodes from injected activations.

use lm::{
    Adapter, BaseModel, Choice, Error, FitConfig, FitEvent, Fitted, Keeping, Request, Result, Row, Sampling,
    Step, TrainRow, answer_row, epoch_order, fit, validate,
};
use recipes::Episode;

use crate::collect::{Activations, Shown};
use crate::lens::Lens;
use crate::prompt::prompt_row;

fn seen_of<'a>(activations: &'a Activations, episode: &Episode) -> Result<&'a Shown> {
    activations
        .get(&episode.behaviour)
        .ok_or_else(|| Error::Request(format!("no activations of {} for its episode", episode.behaviour)))
}

/// The oracle's prompt about `seen`, for any use but training.
///
/// # Errors
/// If the lens's first prompts were not collected.
pub fn question_row(base: &BaseModel, lens: &Lens, seen: &Shown, question: &str) -> Result<Row> {
    let vectors = lens.look(seen, &lens.collector.first())?;
    let c = &lens.collector;
    prompt_row(base, &c.layers, c.coefficient, &vectors, question, Some(0))
}

/// Trains an oracle on `train`, from `start` (a pretrained oracle) or from a fresh adapter; `validation` decides which
/// step is kept. `activations` hold all the collector's prompts of every training diff, of which each step sees a new
/// draw, and at least the first ones of every validation diff.
///
/// # Errors
/// If an episode has no activations, training fails, or it was stopped.
pub fn posttrain(
    base: &BaseModel,
    lens: &Lens,
    activations: &Activations,
    start: Option<Adapter>,
    train: &[&Episode],
    validation: &[&Episode],
    config: &FitConfig,
    keeping: Keeping<'_>,
    report: &mut dyn FnMut(FitEvent),
) -> Result<Fitted> {
    let start = match start {
        Some(adapter) => adapter,
        None => Adapter::init(base.config(), config.adapter.clone(), config.seed, "oracle")?,
    };
    let c = &lens.collector;
    let mut next = |step: usize| {
        let order = epoch_order(train.len(), config.batch, step, config.seed, "reader-order");
        let rows = order.into_iter().enumerate().map(|(at, i)| {
            let episode = train[i];
            let seen = seen_of(activations, episode)?;
            let vectors = lens.glimpse(seen, config.seed, &format!("{step}/{at}"))?;
            let row = prompt_row(base, &c.layers, c.coefficient, &vectors, &episode.question, Some(0))?;
            answer_row(base, row, &episode.answer)
        });
        Ok(Step { frozen: vec![], rows: rows.collect::<Result<Vec<TrainRow>>>()? })
    };
    let choices: Vec<Choice<'_>> = validation
        .iter()
        .map(|e| {
            Ok(Choice {
                prompt: question_row(base, lens, seen_of(activations, e)?, &e.question)?,
                answer: &e.answer,
                candidates: &e.candidates,
            })
        })
        .collect::<Result<_>>()?;
    let mut evaluate = |reader: &Adapter| validate(base, &[reader], choices.clone());
    fit(&base.decoder, start, config, keeping, &mut next, &mut evaluate, report)
}

/// Asks one question about one diff's activations; greedy.
///
/// # Errors
/// If the diff does not fit the model.
pub fn ask(
    base: &BaseModel,
    lens: &Lens,
    diff: &Adapter,
    reader: &Adapter,
    question: &str,
    max_new_tokens: usize,
) -> Result<String> {
    let seen = lens.collector.collect(base, &[diff], lens.collector.asked)?.remove(0);
    let prompt = question_row(base, lens, &seen, question)?;
    let request = Request { prompt, max_new_tokens, sampling: Sampling::GREEDY, seed: 0 };
    let stop = base.stop_tokens();
    let replies = base.decoder.generate(&[reader], &[request], &stop)?;
    Ok(base.tokenizer.decode(&replies[0].tokens)?.trim().to_owned())
}
