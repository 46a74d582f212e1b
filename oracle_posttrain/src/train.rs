//! What an oracle's question looks like, in training and when it is asked.

use std::collections::BTreeMap;

use lm::{Adapter, BaseModel, Error, Request, Row, Sampling};
use readers::{Lesson, Pupil, Result};

use crate::collect::{Activations, Shown};
use crate::lens::Lens;
use crate::prompt::prompt_row;
use crate::shown::key;
use crate::words::lens_words;

/// The oracle's prompt about `seen`, for any use but training.
///
/// # Errors
/// If the lens's first prompts were not collected.
pub fn question_row(base: &BaseModel, lens: &Lens, seen: &Shown, question: &str) -> lm::Result<Row> {
    let vectors = lens.look(seen, &lens.collector.first())?;
    prompt_row(base, &lens.collector.layers, &lens.collector, &vectors, question, Some(0))
}

/// How an oracle sees its subjects.
#[derive(Debug)]
pub(crate) enum View<'a> {
    /// Vectors, injected.
    Vectors {
        /// How they are scaled.
        lens: &'a Lens,
    },
    /// The contexts as text, and nothing of the subject: what the question alone gives.
    Contexts(String),
    /// The words that a logit lens shows of the mean vector, as text.
    Words {
        /// Where it is read.
        lens: &'a Lens,
        /// Whole words of the vocabulary.
        words: &'a [(u32, String)],
        /// How many are shown.
        count: usize,
    },
}

impl View<'_> {
    /// A question about one subject; `draw` keys a training row's draws.
    pub(crate) fn prompt(
        &self,
        base: &BaseModel,
        seen: Option<&Shown>,
        question: &str,
        draw: Option<(u64, String)>,
        scale: f32,
    ) -> lm::Result<Row> {
        let missing = || Error::Request("no activations of a subject for its question".into());
        match self {
            View::Vectors { lens } => {
                let seen = seen.ok_or_else(missing)?;
                let mut vectors = match draw {
                    Some((seed, key)) => lens.glimpse(seen, seed, &key)?,
                    None => lens.look(seen, &lens.collector.first())?,
                };
                if scale != 1.0 {
                    vectors.iter_mut().flatten().for_each(|x| *x *= scale);
                }
                prompt_row(base, &lens.collector.layers, &lens.collector, &vectors, question, Some(0))
            }
            View::Contexts(text) => {
                Ok(Row::with_adapters(base.prompt(&format!("{text}\n{question}"))?, vec![0]))
            }
            View::Words { lens, words, count } => {
                let seen = seen.ok_or_else(missing)?;
                let c = &lens.collector;
                let prompts = match draw {
                    Some((seed, key)) => c.draw(c.drawn, seed, &key),
                    None => c.first(),
                };
                let text = words_of(base, lens, seen, &prompts, words, *count)?;
                Ok(Row::with_adapters(base.prompt(&format!("Words: {}\n{question}", fence::turns::one(&text)))?, vec![0]))
            }
        }
    }
}

/// The words that a lens shows of a subject at these prompts: of the mean over prompts and positions at the last layer read.
fn words_of(
    base: &BaseModel,
    lens: &Lens,
    seen: &Shown,
    prompts: &[usize],
    words: &[(u32, String)],
    count: usize,
) -> lm::Result<String> {
    let c = &lens.collector;
    let all: Vec<&Vec<f32>> = prompts
        .iter()
        .filter_map(|p| seen.get(p))
        .flat_map(|v| &v[(c.layers.len() - 1) * c.last..])
        .collect();
    let n = all.len().max(1) as f32;
    let mean: Vec<f32> =
        (0..base.architecture.hidden_size).map(|d| all.iter().map(|v| v[d]).sum::<f32>() / n).collect();
    Ok(lens_words(base, &mean, words, count)?.join(", "))
}

/// An oracle in training, shown these activations (by [`crate::key`]) through this lens.
pub fn pupil<'a>(
    base: &'a BaseModel,
    lens: &'a Lens,
    activations: &'a Activations,
    seed: u64,
) -> impl Pupil + 'a {
    Oracle { base, view: View::Vectors { lens }, activations, seed }
}

/// An oracle in training.
#[derive(Debug)]
pub(crate) struct Oracle<'a> {
    pub(crate) base: &'a BaseModel,
    pub(crate) view: View<'a>,
    pub(crate) activations: &'a Activations,
    pub(crate) seed: u64,
}

impl Pupil for Oracle<'_> {
    fn frozen(&self) -> Vec<&Adapter> {
        vec![]
    }

    fn prompt(&self, lesson: Lesson<'_>) -> Result<Row> {
        let e = lesson.episode;
        let seen = self.activations.get(&key(&e.behaviour, lesson.context));
        let draw = lesson.draw.map(|(step, at)| (self.seed, format!("{step}/{at}")));
        Ok(self.view.prompt(self.base, seen, &e.question, draw, lesson.scale)?)
    }
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
) -> lm::Result<String> {
    let seen = lens.collector.collect(base, &[diff], lens.collector.asked)?.remove(0);
    let prompt = question_row(base, lens, &seen, question)?;
    let request = Request { prompt, max_new_tokens, sampling: Sampling::GREEDY, seed: 0 };
    let stop = base.stop();
    let replies = base.decoder.generate(&[reader], &[request], stop)?;
    Ok(base.tokenizer.decode(&replies[0].tokens)?.trim().to_owned())
}

/// Nothing is shown: what base activations, or no diff at all, look like at the prompts that questions ask at.
pub(crate) fn nothing(base: &BaseModel, lens: &Lens) -> lm::Result<Shown> {
    lens.collector.without_diff(base, lens.collector.asked)
}

/// Files of an oracle that say how it looks, beside its weights.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;
