//! Post-training: the oracle learns to answer the episodes from injected activations.

use lm::{
    Adapter, BaseModel, Choice, Error, FitConfig, FitPoint, Fitted, Keeping, Request, Result, Row, Sampling,
    Step, TrainRow, answer_row, epoch_order, fit, validate,
};
use recipes::Episode;

use crate::collect::{Activations, Collector};
use crate::prompt::prompt_row;

/// The prompt of an episode, reading the vectors filed under its behaviour at these of the collector's prompts.
pub fn episode_row(
    base: &BaseModel,
    collector: &Collector,
    vectors: &Activations,
    episode: &Episode,
    prompts: &[usize],
) -> Result<Row> {
    let vectors = vectors
        .get(&episode.behaviour)
        .ok_or_else(|| Error::Request(format!("no activations of {} for its episode", episode.behaviour)))?;
    let vectors = collector.of(vectors, prompts);
    prompt_row(base, &collector.layers, collector.coefficient, &vectors, &episode.question, Some(0))
}

/// Trains an oracle on `train`, from `start` (a pretrained oracle) or from a fresh adapter; `validation` decides which
/// step is kept. `vectors` hold all the collector's prompts of every training diff, of which each step reads a new draw,
/// and at least the first ones of every validation diff.
///
/// # Errors
/// If an episode has no activations, training fails, or it was stopped.
pub fn posttrain(
    base: &BaseModel,
    collector: &Collector,
    vectors: &Activations,
    start: Option<Adapter>,
    train: &[&Episode],
    validation: &[&Episode],
    config: &FitConfig,
    keeping: Keeping<'_>,
    report: &mut dyn FnMut(usize, f64, Option<FitPoint>),
) -> Result<Fitted> {
    let start = match start {
        Some(adapter) => adapter,
        None => Adapter::init(base.config(), config.adapter.clone(), config.seed, "oracle")?,
    };
    let mut next = |step: usize| {
        let order = epoch_order(train.len(), config.batch, step, config.seed, "reader-order");
        let rows = order
            .into_iter()
            .enumerate()
            .map(|(at, i)| {
                let prompts = collector.draw(config.seed, &format!("{step}/{at}"));
                answer_row(base, episode_row(base, collector, vectors, train[i], &prompts)?, &train[i].answer)
            })
            .collect::<Result<Vec<TrainRow>>>()?;
        Ok(Step { frozen: vec![], rows })
    };
    let mut evaluate = |reader: &Adapter| {
        let choices = validation
            .iter()
            .map(|e| {
                Ok(Choice {
                    prompt: episode_row(base, collector, vectors, e, &collector.first())?,
                    answer: &e.answer,
                    candidates: &e.candidates,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        validate(base, &[reader], choices)
    };
    fit(&base.decoder, start, config, keeping, &mut next, &mut evaluate, report)
}

/// Asks one question about one diff's activations; greedy.
pub fn ask(
    base: &BaseModel,
    collector: &Collector,
    diff: &Adapter,
    reader: &Adapter,
    question: &str,
    max_new_tokens: usize,
) -> Result<String> {
    let vectors = collector.collect(base, &[diff], collector.read)?.remove(0);
    let vectors = collector.of(&vectors, &collector.first());
    let prompt = prompt_row(base, &collector.layers, collector.coefficient, &vectors, question, Some(0))?;
    let request = Request { prompt, max_new_tokens, sampling: Sampling::GREEDY, seed: 0 };
    let mut stop = base.config().eos_token_ids.clone();
    stop.push(base.chat.end_of_turn());
    let replies = base.decoder.generate(&[reader], &[request], &stop)?;
    base.tokenizer.decode(&replies[0].tokens)
}
