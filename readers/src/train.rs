//! Training a reader on the adapter set: the same episodes in the same order for every method, which differ only in the row
//! that they make of an episode.

use lm::{
    Adapter, BaseModel, Choice, FitConfig, FitEvent, Fitted, Keeping, Row, Step, TrainRow, answer_row,
    epoch_order, fit, rng, validate,
};
use rand::Rng;
use recipes::{Context, Episode, NOTHING, Split};

use crate::{Result, Supervision, Train};

/// One training or validation row to be made.
#[derive(Debug, Clone, Copy)]
pub struct Lesson<'a> {
    /// The episode.
    pub episode: &'a Episode,
    /// In which context its subject is shown.
    pub context: Context,
    /// Step and row, which key all draws of a training row; none for validation, where nothing is drawn.
    pub draw: Option<(usize, usize)>,
    /// Factor of what is shown.
    pub scale: f32,
}

/// What a method makes of an episode.
pub trait Pupil {
    /// The frozen adapters that rows refer to; index 1 is the first of them, 0 the reader.
    fn frozen(&self) -> Vec<&Adapter>;

    /// The prompt.
    ///
    /// # Errors
    /// If the subject is unknown.
    fn prompt(&self, lesson: Lesson<'_>) -> Result<Row>;
}

/// Estimated FLOPs of one training step of a reader: 4 N a token of the average row.
///
/// # Errors
/// If a row cannot be made.
pub fn flops_a_step(s: &Supervision<'_>, pupil: &dyn Pupil, settings: &Train) -> Result<f64> {
    let taught = s.of(Split::Train);
    let some: Vec<&&Episode> = taught.iter().step_by(taught.len().div_ceil(64).max(1)).collect();
    let mut tokens = 0;
    for (i, episode) in some.iter().enumerate() {
        let context = context_of(s, episode, settings, i);
        let row = pupil.prompt(Lesson { episode, context, draw: None, scale: 1.0 })?;
        tokens += answer_row(s.base, row, &episode.answer)?.row.tokens.len();
    }
    let layers = s.base.architecture.layers.len();
    Ok(2.0 * s.base.architecture.layer_flops(layers) * tokens as f64 / some.len().max(1) as f64
        * settings.batch as f64)
}

/// Trains a reader from `start`; validation adapters decide which step is kept.
///
/// # Errors
/// If a row cannot be made, training fails, or it was stopped.
pub fn train(
    s: &Supervision<'_>,
    pupil: &dyn Pupil,
    start: Adapter,
    settings: &Train,
    config: &FitConfig,
    keeping: Keeping<'_>,
    report: &mut dyn FnMut(FitEvent),
) -> Result<Fitted> {
    let base: &BaseModel = s.base;
    let taught = s.taught(Split::Train, settings.labels, config.seed);
    let checked = s.taught(Split::Validation, settings.labels, config.seed);
    let frozen = pupil.frozen();
    let adapt = |e: crate::Error| match e {
        crate::Error::Model(e) => e,
        other => lm::Error::Request(other.to_string()),
    };
    let mut next = |step: usize| {
        let order = epoch_order(taught.len(), config.batch, step, config.seed, "reader-order");
        let rows = order.into_iter().enumerate().map(|(at, i)| {
            let episode = &taught[i];
            let lesson = Lesson {
                episode,
                context: context_of(s, episode, settings, step * config.batch + at),
                draw: Some((step, at)),
                scale: scale(settings, config.seed, step, at),
            };
            let mut row = answer_row(base, pupil.prompt(lesson).map_err(adapt)?, &episode.answer)?;
            if episode.answer == NOTHING {
                row.weight = settings.negative_weight;
            }
            Ok(row)
        });
        Ok(Step { frozen: frozen.clone(), rows: rows.collect::<lm::Result<Vec<TrainRow>>>()? })
    };
    let asked: Vec<(Row, &Episode)> = checked
        .iter()
        .enumerate()
        .map(|(i, episode)| {
            let context = context_of(s, episode, settings, i);
            Ok((pupil.prompt(Lesson { episode, context, draw: None, scale: 1.0 })?, episode))
        })
        .collect::<Result<_>>()?;
    let mut evaluate = |reader: &Adapter| {
        let adapters: Vec<&Adapter> = std::iter::once(reader).chain(frozen.iter().copied()).collect();
        let choices = asked
            .iter()
            .map(|(prompt, e)| Choice {
                prompt: prompt.clone(),
                answer: &e.answer,
                candidates: &e.candidates,
            })
            .collect();
        validate(base, &adapters, choices)
    };
    Ok(fit(&base.decoder, start, config, keeping, &mut next, &mut evaluate, report)?)
}

/// The contexts in turn, of those that the subject has.
fn context_of(s: &Supervision<'_>, episode: &Episode, settings: &Train, at: usize) -> Context {
    let has: Vec<Context> =
        settings.contexts.iter().copied().filter(|c| s.has_context(&episode.behaviour, *c)).collect();
    if has.is_empty() { Context::Neutral } else { has[at % has.len()] }
}

fn scale(settings: &Train, seed: u64, step: usize, at: usize) -> f32 {
    let (low, high) = settings.vector_scale;
    if low >= high {
        return low;
    }
    rng::stream(seed, "vector-scale", &format!("{step}/{at}")).random_range(low..high)
}
