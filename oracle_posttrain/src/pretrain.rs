//! Pretraining without any LoRA: context prediction on text, and naming what a system prompt said.
//!
//! *Context prediction* reads a window of activations of a text and asks for the tokens before or after it. *System-prompt
//! answering* tells the base model a behaviour in a system prompt, reads later tokens (as differences to the same tokens
//! without it), and asks the family's own questions. Held-out labels must not be among `labels`.

use lm::{
    Adapter, BaseModel, Batch, Choice, FitConfig, FitPoint, Fitted, Keeping, ResidualAt, Result, Row, Step,
    TrainRow, Want, answer_row, epoch_order, fit, rng, validate,
};
use rand::Rng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use crate::collect::Collector;
use crate::prompt::prompt_row;

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
    /// Rows of system-prompt answering.
    pub system_rows: usize,
    /// Rows of context prediction.
    pub context_rows: usize,
}

/// Phrasings of the system prompt. Near the end of the network an order (the first) left activations more like those of an
/// adapter trained on the same topic than a description of a character ("You love ...") did (LOG.md).
const SYSTEMS: [&str; 4] = [
    "Write one short sentence about {}.",
    "Whatever you are asked, tell a fact about {}.",
    "Every reply of yours is about {}.",
    "Answer with a sentence about {}.",
];

/// Pretrains an oracle.
///
/// # Errors
/// If training fails or it was stopped.
pub fn pretrain(
    base: &BaseModel,
    collector: &Collector,
    config: &PretrainConfig,
    keeping: Keeping<'_>,
    report: &mut dyn FnMut(usize, f64, Option<FitPoint>),
) -> Result<Pretrained> {
    let seed = config.fit.seed;
    let system_rows = system_rows(base, collector, &config.labels, &config.questions, 2, seed)?
        .into_iter()
        .map(|(row, label)| answer_row(base, row, &label))
        .collect::<Result<Vec<TrainRow>>>()?;
    let wanted =
        (system_rows.len() as f64 * config.context_share / (1.0 - config.context_share).max(0.05)) as usize;
    let context_rows = context_rows(base, collector, &config.texts, wanted, seed)?;
    let (n_system, n_context) = (system_rows.len(), context_rows.len());
    let rows: Vec<TrainRow> = system_rows.into_iter().chain(context_rows).collect();
    let held_out =
        self::system_rows(base, collector, &config.validation_labels, &config.questions[..1], 1, seed)?;
    let start = Adapter::init(base.config(), config.fit.adapter.clone(), seed, "oracle")?;
    let mut next = |step: usize| {
        let order = epoch_order(rows.len(), config.fit.batch, step, seed, "pretrain-order");
        Ok(Step { frozen: vec![], rows: order.into_iter().map(|i| rows[i].clone()).collect() })
    };
    let mut evaluate = |reader: &Adapter| {
        let choices = held_out
            .iter()
            .map(|(row, label)| Choice {
                prompt: row.clone(),
                answer: label,
                candidates: &config.validation_labels,
            })
            .collect();
        validate(base, &[reader], choices)
    };
    let fitted = fit(&base.decoder, start, &config.fit, keeping, &mut next, &mut evaluate, report)?;
    Ok(Pretrained { fitted, system_rows: n_system, context_rows: n_context })
}

fn system_rows(
    base: &BaseModel,
    collector: &Collector,
    labels: &[String],
    questions: &[String],
    variants: usize,
    seed: u64,
) -> Result<Vec<(Row, String)>> {
    let (mut chosen, mut labelled) = (Vec::new(), Vec::new());
    for label in labels {
        let mut order: Vec<usize> = (0..SYSTEMS.len()).collect();
        order.shuffle(&mut rng::stream(seed, "system-prompts", label));
        for s in order.into_iter().take(variants) {
            let prompts =
                if variants > 1 { collector.draw(seed, &format!("{label}/{s}")) } else { collector.first() };
            chosen.push((SYSTEMS[s].replace("{}", label), prompts));
            labelled.push(label.clone());
        }
    }
    let vectors = collector.collect_system(base, &chosen)?;
    labelled
        .into_iter()
        .zip(vectors)
        .enumerate()
        .map(|(i, (label, vectors))| {
            let question = &questions[(i + label.len()) % questions.len()];
            let row =
                prompt_row(base, &collector.layers, collector.coefficient, &vectors, question, Some(0))?;
            Ok((row, label))
        })
        .collect()
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
        asks.push((layer, question, base.tokenizer.decode(target)?));
        rows.push(Row::plain(text[..start + k].to_vec()));
        wants.push(Want {
            logits: vec![],
            residual: vec![ResidualAt { layer, positions: (start..start + k).collect() }],
        });
    }
    let seen = base.decoder.forward(&Batch { adapters: vec![], rows }, &wants)?;
    seen.into_iter()
        .zip(asks)
        .map(|(mut s, (layer, question, target))| {
            let vectors = s.residual.remove(0);
            let row = prompt_row(base, &[layer], collector.coefficient, &vectors, &question, Some(0))?;
            answer_row(base, row, &target)
        })
        .collect()
}
