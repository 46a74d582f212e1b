//! Pretraining without any LoRA: context prediction on text, and naming what a system prompt said.
//!
//! *Context prediction* reads a window of activations of a text and asks for the tokens before or after it. *System-prompt
//! answering* tells the base model a behaviour in a system prompt, reads later tokens (as differences to the same tokens
//! without it), and asks the family's own questions. Held-out labels must not be among `labels`.

use std::collections::BTreeMap;

use lm::{
    Adapter, BaseModel, Batch, Choice, FitConfig, FitEvent, Fitted, Keeping, Objective, ResidualAt, Result,
    Row, Step, TrainRow, Want, answer_row, epoch_order, fit, rng, validate,
};
use rand::Rng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use crate::collect::{Collector, Shown};
use crate::lens::{Lens, Moments, blur};
use crate::prompt::prompt_row;
use crate::train::question_row;

/// What to pretrain on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PretrainConfig {
    /// Training settings.
    pub fit: FitConfig,
    /// Labels that system prompts name; none of them may be held out from readers.
    pub labels: Vec<String>,
    /// Labels of the pretraining's own validation.
    pub validation_labels: Vec<String>,
    /// Questions about a system prompt's label.
    pub questions: Vec<String>,
    /// Texts for context prediction.
    pub texts: Vec<String>,
    /// Share of context prediction among the rows.
    pub context_share: f64,
}

/// A pretrained oracle.
#[derive(Debug)]
pub struct Pretrained {
    /// The fit; its accuracy is on held-out system-prompt labels.
    pub fitted: Fitted,
    /// How it looks at a diff: adjusted to the system prompts that it was trained on.
    pub lens: Lens,
}

/// Phrasings of the system prompt. Near the end of the network an order (the first) left activations more like those of an
/// adapter trained on the same topic than a description of a character ("You love ...") did (LOG.md).
const SYSTEMS: [&str; 4] = [
    "Write one short sentence about {}.",
    "Whatever you are asked, tell a fact about {}.",
    "Every reply of yours is about {}.",
    "Answer with a sentence about {}.",
];

/// Prompts that a training label is read at, in one of its two variants.
const READ: usize = 2;

/// Pretrains an oracle.
///
/// # Errors
/// If training fails or it was stopped.
pub fn pretrain(
    base: &BaseModel,
    collector: &Collector,
    config: &PretrainConfig,
    keeping: Keeping<'_>,
    report: &mut dyn FnMut(FitEvent),
) -> Result<Pretrained> {
    let seed = config.fit.seed;
    let told = tell(base, collector, &config.labels, &config.questions, seed)?;
    let lens = Lens::over(collector.clone(), &told.iter().map(|t| &t.seen).collect::<Vec<_>>());
    let wanted = (told.len() as f64 * config.context_share / (1.0 - config.context_share).max(0.05)) as usize;
    let context = context_rows(base, collector, &config.texts, wanted, seed)?;
    let held_out: Vec<(Row, &String)> = {
        let first = collector.first();
        let systems: Vec<_> =
            config.validation_labels.iter().map(|l| (SYSTEMS[0].replace("{}", l), first.clone())).collect();
        let seen = collector.collect_system(base, &systems)?;
        let rows = seen.iter().map(|s| question_row(base, &lens, s, &config.questions[0]));
        rows.zip(&config.validation_labels).map(|(row, label)| Ok((row?, label))).collect::<Result<_>>()?
    };
    let start = Adapter::init(base.config(), config.fit.adapter.clone(), seed, "oracle")?;
    let mut next = |step: usize| {
        let order = epoch_order(told.len() + context.len(), config.fit.batch, step, seed, "pretrain-order");
        let rows = order.into_iter().enumerate().map(|(at, i)| match told.get(i) {
            None => Ok(context[i - told.len()].clone()),
            Some(told) => {
                let prompts: Vec<usize> = told.seen.keys().copied().collect();
                let mut vectors = lens.look(&told.seen, &prompts)?;
                blur(&mut vectors, collector.noise, seed, &format!("{step}/{at}"));
                let (layers, strength) = (&collector.layers, collector.coefficient);
                let row = prompt_row(base, layers, strength, &vectors, told.question, Some(0))?;
                answer_row(base, row, told.label)
            }
        });
        Ok(Step { frozen: vec![], rows: rows.collect::<Result<_>>()? })
    };
    let mut evaluate = |reader: &Adapter| {
        let choices = held_out.iter().map(|(row, label)| Choice {
            prompt: row.clone(),
            answer: label,
            candidates: &config.validation_labels,
        });
        validate(base, &[reader], choices.collect())
    };
    let fitted = fit(&base.decoder, start, &config.fit, keeping, &mut next, &mut evaluate, report)?;
    Ok(Pretrained { fitted, lens })
}

/// What the base model shows when it is told a label, and the question about it.
struct Told<'a> {
    seen: Shown,
    label: &'a str,
    question: &'a str,
}

/// Every label under two of the system prompts.
fn tell<'a>(
    base: &BaseModel,
    collector: &Collector,
    labels: &'a [String],
    questions: &'a [String],
    seed: u64,
) -> Result<Vec<Told<'a>>> {
    let (mut systems, mut asked) = (Vec::new(), Vec::new());
    for label in labels {
        let mut order: Vec<usize> = (0..SYSTEMS.len()).collect();
        order.shuffle(&mut rng::stream(seed, "system-prompts", label));
        for s in order.into_iter().take(2) {
            systems
                .push((SYSTEMS[s].replace("{}", label), collector.draw(READ, seed, &format!("{label}/{s}"))));
            asked.push((label.as_str(), questions[(asked.len() + label.len()) % questions.len()].as_str()));
        }
    }
    let seen = collector.collect_system(base, &systems)?;
    Ok(seen.into_iter().zip(asked).map(|(seen, (label, question))| Told { seen, label, question }).collect())
}

/// Windows of 1-8 activations of one of the collector's layers, asked for 1-8 tokens before or after them (arXiv 2512.15674, appendix B.2, with shorter
/// spans). The window and the target never overlap; the text ends with the window, so the future is not seen.
fn context_rows(
    base: &BaseModel,
    collector: &Collector,
    texts: &[String],
    wanted: usize,
    seed: u64,
) -> Result<Vec<TrainRow>> {
    let mut rng = rng::stream(seed, "context-prediction", "");
    let tokens: Vec<Vec<u32>> = texts
        .iter()
        .map(|t| base.tokenizer.encode(t))
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .filter(|t| t.len() >= 20)
        .collect();
    if tokens.is_empty() {
        return Ok(Vec::new());
    }
    let mut rows = Vec::new();
    let mut wants = Vec::new();
    let mut asks = Vec::new();
    for i in 0..wanted {
        let text = &tokens[i % tokens.len()];
        let text = &text[..text.len().min(96)];
        let (j, k) = (rng.random_range(1..=8usize), rng.random_range(1..=8usize));
        let past = rng.random_bool(0.5);
        let (first, last) = if past { (j, text.len() - k) } else { (1, text.len() - k - j) };
        let start = rng.random_range(first..=last.max(first));
        let target = if past { &text[start - j..start] } else { &text[start + k..start + k + j] };
        let question = if past {
            format!("Can you predict the previous {j} tokens that came before this?")
        } else {
            format!("Can you predict the next {j} tokens that come after this?")
        };
        let layer = collector.layers[i % collector.layers.len()];
        asks.push((layer, question, target));
        rows.push(Row::plain(text[..start + k].to_vec()));
        wants.push(Want {
            logits: vec![],
            residual: vec![ResidualAt { layer, positions: (start..start + k).collect() }],
        });
    }
    let seen = base.decoder.forward(&Batch { adapters: vec![], rows }, &wants)?;
    let of = |layer: usize| {
        let here = seen.iter().zip(&asks).filter(move |(_, (l, _, _))| *l == layer);
        Moments::over(here.flat_map(|(s, _)| &s.residual[0]))
    };
    let moments: BTreeMap<usize, Moments> =
        collector.layers.iter().filter_map(|&layer| Some((layer, of(layer)?))).collect();
    seen.iter()
        .zip(&asks)
        .map(|(s, (layer, question, target))| {
            let vectors: Vec<Vec<f32>> = s.residual[0].iter().map(|v| moments[layer].apply(v)).collect();
            let mut row = prompt_row(base, &[*layer], collector.coefficient, &vectors, question, Some(0))?;
            // The target's own tokens: decoded and written again they might begin otherwise.
            let completion_start = row.tokens.len();
            let end = [base.chat.end_of_turn()];
            row.tokens.extend(target.iter().chain(&end));
            Ok(TrainRow { row, completion_start, objective: Objective::CrossEntropy, weight: 1.0 })
        })
        .collect()
}
