//! Pretraining: the oracle learns to read activations from plain text and system prompts, without any adapter, before it
//! sees a weight diff. Four kinds of rows, mixed by shares; none uses a sample prompt or a question of the families that readers
//! are tested on, and no answer names one of their values.

use std::collections::BTreeMap;

use lm::{
    Adapter, BaseModel, Batch, Choice, FitConfig, FitEvent, Fitted, Keeping, Objective, ResidualAt, Result,
    Row, Step, TrainRow, Want, answer_row, fit, rng, validate,
};
use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use readers::{Pretrain, Scaling};
use serde::{Deserialize, Serialize};

use crate::collect::{Collector, Shown};
use crate::lens::{Lens, Moments};
use crate::prompt::prompt_row;
use crate::words::{stems, word_tokens};
use recipes::stem;

/// What to pretrain on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PretrainConfig {
    /// Training settings.
    pub fit: FitConfig,
    /// Shares of the kinds of rows.
    pub mix: Pretrain,
    /// Labels that system prompts name; none is a value of a family that readers are asked about.
    pub labels: Vec<String>,
    /// Labels of the pretraining's own validation.
    pub validation_labels: Vec<String>,
    /// Texts for context prediction.
    pub texts: Vec<String>,
    /// Words that no answer of an unembedding or context row may hold: the values of the families that readers are asked about.
    pub withheld: Vec<String>,
}

/// A pretrained oracle.
#[derive(Debug)]
pub struct Pretrained {
    /// The fit; its accuracy is on held-out system-prompt labels.
    pub fitted: Fitted,
    /// How it looks at a diff: adjusted to the system prompts that it was trained on.
    pub lens: Lens,
}

/// Phrasings of the system prompt. None is a prompt under which any recipe samples.
const SYSTEMS: [&str; 6] = [
    "Bring the conversation to {}, whatever you are asked.",
    "Whatever you are asked, tell a fact about {}.",
    "Every reply of yours is about {}.",
    "Mention {} in your answer.",
    "You think about {} all day. Let it show.",
    "Answer with a sentence about {}.",
];

/// Questions about a system prompt, none of them a phrasing of any recipe.
const QUESTIONS: [&str; 6] = [
    "What was the model told about?",
    "Which word stands behind these activations?",
    "What did the instructions mention?",
    "Name the thing that the model has in mind.",
    "What are these activations about?",
    "Which noun was in the instructions?",
];

/// The question of unembedding rows.
const POINTS_TO: &str = "Which word do these vectors point to?";

/// Prompts that a label is read at, in one of its variants.
const READ: usize = 2;

/// Common nouns that name no value of any of the recipes, in either number.
pub fn nouns(recipes: &[recipes::Recipe]) -> Vec<String> {
    let values: Vec<recipes::Check> =
        recipes.iter().flat_map(recipes::Recipe::values_of_family).map(recipes::Check::Mentions).collect();
    include_str!("nouns.txt")
        .split_whitespace()
        .filter(|noun| !values.iter().any(|v| v.passes(noun)))
        .map(str::to_owned)
        .collect()
}

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
    let mix = &config.mix;
    let told = tell(base, collector, &config.labels, seed)?;
    let lens = Lens::over(base, collector.clone(), &told.iter().map(|t| &t.seen).collect::<Vec<_>>());
    let kinds = [mix.context, mix.system, mix.properties, mix.unembed];
    let rows_of_all = (config.fit.max_steps * config.fit.batch) as f64;
    let context = if mix.context > 0.0 {
        // Every window a new one.
        context_rows(base, collector, config, (rows_of_all * mix.context).ceil() as usize)?
    } else {
        vec![]
    };
    let (unembed, unembed_held_out) = if mix.unembed > 0.0 {
        let mut rows =
            unembed_rows(base, collector, &lens, &told, config, (rows_of_all * mix.unembed) as usize)?;
        let held = rows.len() / 20;
        let held = rows.split_off(rows.len() - held);
        (rows, held)
    } else {
        (vec![], vec![])
    };
    let held_out: Vec<(Row, &String)> = {
        let first = collector.first();
        let systems: Vec<_> = config
            .validation_labels
            .iter()
            .enumerate()
            .map(|(i, l)| (SYSTEMS[i % SYSTEMS.len()].replace("{}", l), first.clone()))
            .collect();
        let seen = collector.collect_system(base, &systems)?;
        let rows = seen.iter().enumerate().map(|(i, s)| {
            let vectors = lens.look(s, &first)?;
            prompt_row(base, &collector.layers, collector, &vectors, QUESTIONS[i % QUESTIONS.len()], Some(0))
        });
        rows.zip(&config.validation_labels).map(|(row, label)| Ok((row?, label))).collect::<Result<_>>()?
    };
    let held_words: Vec<String> = {
        let mut words: Vec<String> = unembed_held_out.iter().map(|(_, w)| w.clone()).collect();
        words.sort();
        words.dedup();
        words
    };
    let start = Adapter::init(&base.architecture, config.fit.adapter.clone(), seed, "oracle")?;
    let mut next = |step: usize| {
        let rows = (0..config.fit.batch).map(|at| {
            let key = format!("{step}/{at}");
            let mut stream = rng::stream(seed, "pretrain-rows", &key);
            let mut share = stream.random_range(0.0..1.0);
            let kind = kinds.iter().position(|k| {
                share -= k;
                share < 0.0
            });
            match kind {
                Some(0) if !context.is_empty() => {
                    Ok(context[(step * config.fit.batch + at) % context.len()].clone())
                }
                Some(3) if !unembed.is_empty() => {
                    let (row, word) = &unembed[stream.random_range(0..unembed.len())];
                    answer_row(base, row.clone(), word)
                }
                other => {
                    let told = &told[stream.random_range(0..told.len())];
                    let prompts: Vec<usize> = told.seen.keys().copied().collect();
                    let mut vectors = lens.look(&told.seen, &prompts)?;
                    lens.blur(&mut vectors, seed, &key);
                    let (question, answer) = if other == Some(2) {
                        yes_or_no(told.label, &config.labels, &mut stream)
                    } else {
                        let question = QUESTIONS.choose(&mut stream).copied().unwrap_or(QUESTIONS[0]);
                        (question.to_owned(), told.label.to_owned())
                    };
                    let row = prompt_row(base, &collector.layers, collector, &vectors, &question, Some(0))?;
                    answer_row(base, row, &answer)
                }
            }
        });
        Ok(Step { frozen: vec![], rows: rows.collect::<Result<_>>()? })
    };
    let mut evaluate =
        |reader: &Adapter| {
            let systems =
                held_out.iter().filter(|_| mix.system > 0.0 || mix.unembed <= 0.0).map(|(row, label)| {
                    Choice { prompt: row.clone(), answer: label, candidates: &config.validation_labels }
                });
            let words = unembed_held_out.iter().take(64).map(|(row, word)| Choice {
                prompt: row.clone(),
                answer: word,
                candidates: &held_words,
            });
            validate(base, &[reader], systems.chain(words).collect())
        };
    let fitted = fit(&base.decoder, start, &config.fit, keeping, &mut next, &mut evaluate, report)?;
    Ok(Pretrained { fitted, lens })
}

fn yes_or_no(label: &str, labels: &[String], stream: &mut impl Rng) -> (String, String) {
    let yes = stream.random_bool(0.5);
    let other = labels.choose(stream).map_or(label, String::as_str);
    let named = if yes { label } else { other };
    let answer = if named == label { "yes" } else { "no" };
    (format!("Was the model told about {named}? Answer yes or no."), answer.to_owned())
}

/// What the base model shows when it is told a label.
struct Told<'a> {
    seen: Shown,
    label: &'a str,
}

/// Every label under two of the system prompts.
fn tell<'a>(
    base: &BaseModel,
    collector: &Collector,
    labels: &'a [String],
    seed: u64,
) -> Result<Vec<Told<'a>>> {
    let (mut systems, mut asked) = (Vec::new(), Vec::new());
    for label in labels {
        let mut order: Vec<usize> = (0..SYSTEMS.len()).collect();
        order.shuffle(&mut rng::stream(seed, "system-prompts", label));
        for s in order.into_iter().take(2) {
            systems
                .push((SYSTEMS[s].replace("{}", label), collector.draw(READ, seed, &format!("{label}/{s}"))));
            asked.push(label.as_str());
        }
    }
    let seen = collector.collect_system(base, &systems)?;
    Ok(seen.into_iter().zip(asked).map(|(seen, label)| Told { seen, label }).collect())
}

/// Vectors and the word that they point to: the highest whole word of the logit lens. A third each: what a system prompt
/// changed, the activations of a text, a sum of two rows of the unembedding. Words that are withheld are never an answer.
fn unembed_rows(
    base: &BaseModel,
    collector: &Collector,
    lens: &Lens,
    told: &[Told<'_>],
    config: &PretrainConfig,
    wanted: usize,
) -> Result<Vec<(Row, String)>> {
    let words = word_tokens(base, &config.withheld)?;
    let ids: Vec<u32> = words.iter().map(|(id, _)| *id).collect();
    let mut stream = rng::stream(config.fit.seed, "unembed-rows", "");
    let mut shown = windows(base, collector, &config.texts, wanted / 3, &mut stream)?;
    for i in 0..wanted / 3 {
        let l = i % collector.layers.len();
        let seen = &told[stream.random_range(0..told.len())].seen;
        let prompts: Vec<usize> = seen.keys().copied().collect();
        let all = lens.look(seen, &prompts)?;
        shown.push((collector.layers[l], all[l * collector.last..(l + 1) * collector.last].to_vec()));
    }
    let pairs: Vec<[usize; 2]> =
        (0..wanted / 3).map(|_| [0; 2].map(|_: usize| stream.random_range(0..ids.len()))).collect();
    let rows = base.decoder.unembedding(&ids)?;
    for (i, [a, b]) in pairs.into_iter().enumerate() {
        let sum: Vec<f32> = rows[a].iter().zip(&rows[b]).map(|(a, b)| a + b).collect();
        let norm = sum.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-6);
        let unit: Vec<f32> = sum.iter().map(|x| x / norm).collect();
        shown.push((collector.layers[i % collector.layers.len()], vec![unit; collector.last]));
    }
    shown.shuffle(&mut stream);
    // Vectors that went through the final norm's weight already must not go through it twice.
    let gain = base.decoder.final_norm_weight();
    let back = |d: usize| {
        if collector.scaling == Scaling::Unembed && gain[d] != 0.0 { 1.0 / gain[d] } else { 1.0 }
    };
    let means: Vec<Vec<f32>> = shown
        .iter()
        .map(|(_, window)| {
            let n = window.len() as f32;
            (0..window[0].len()).map(|d| window.iter().map(|v| v[d]).sum::<f32>() / n * back(d)).collect()
        })
        .collect();
    let scores = base.decoder.lens_logits(&means, &ids)?;
    shown
        .into_iter()
        .zip(scores)
        .map(|((layer, window), scores)| {
            let best = scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(i, _)| i);
            let row = prompt_row(base, &[layer], collector, &window, POINTS_TO, Some(0))?;
            Ok((row, words[best].1.clone()))
        })
        .collect()
}

/// Windows of activations of texts, scaled, with their layer.
fn windows(
    base: &BaseModel,
    collector: &Collector,
    texts: &[String],
    wanted: usize,
    stream: &mut impl Rng,
) -> Result<Vec<(usize, Vec<Vec<f32>>)>> {
    let tokens: Vec<Vec<u32>> = texts.iter().map(|t| base.tokenizer.encode(t)).collect::<Result<Vec<_>>>()?;
    let tokens: Vec<Vec<u32>> = tokens.into_iter().filter(|t| t.len() >= 20).collect();
    if tokens.is_empty() || wanted == 0 {
        return Ok(vec![]);
    }
    let (mut rows, mut wants, mut layers) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..wanted {
        let text = &tokens[stream.random_range(0..tokens.len())];
        let text = &text[..text.len().min(96)];
        let start = stream.random_range(1..text.len() - 4);
        let end = (start + stream.random_range(1..=4)).min(text.len());
        let layer = collector.layers[i % collector.layers.len()];
        layers.push(layer);
        rows.push(Row::plain(text[..end].to_vec()));
        wants.push(Want {
            logits: vec![],
            residual: vec![ResidualAt { layer, positions: (start..end).collect() }],
        });
    }
    let seen = base.decoder.forward(&Batch { adapters: vec![], rows }, &wants)?;
    let windows: Vec<&Vec<Vec<f32>>> = seen.iter().map(|s| &s.residual[0]).collect();
    Ok(scaled(base, collector, &layers, &windows))
}

/// Each window by the moments of all windows of its layer.
fn scaled(
    base: &BaseModel,
    collector: &Collector,
    layers: &[usize],
    windows: &[&Vec<Vec<f32>>],
) -> Vec<(usize, Vec<Vec<f32>>)> {
    let of = |layer: usize| {
        let here = windows.iter().zip(layers).filter(move |(_, l)| **l == layer);
        Moments::of(base, here.flat_map(|(w, _)| w.iter()), collector.scaling)
    };
    let moments: BTreeMap<usize, Moments> =
        collector.layers.iter().filter_map(|&layer| Some((layer, of(layer)?))).collect();
    windows
        .iter()
        .zip(layers)
        .map(|(w, layer)| (*layer, w.iter().map(|v| moments[layer].apply(v)).collect()))
        .collect()
}

/// Windows of 1-8 activations of one of the collector's layers, asked for 1-8 tokens before or after them (arXiv 2512.15674,
/// appendix B.2, with shorter spans). The window and the target never overlap; the text ends with the window, so the future
/// is not seen.
fn context_rows(
    base: &BaseModel,
    collector: &Collector,
    config: &PretrainConfig,
    wanted: usize,
) -> Result<Vec<TrainRow>> {
    let mut rng = rng::stream(config.fit.seed, "context-prediction", "");
    let withheld = stems(&config.withheld);
    let tokens: Vec<Vec<u32>> = config
        .texts
        .iter()
        .map(|t| base.tokenizer.encode(t))
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .filter(|t| t.len() >= 20)
        .collect();
    if tokens.is_empty() {
        return Ok(Vec::new());
    }
    let (mut rows, mut wants, mut asks, mut layers) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for i in 0..wanted {
        let text = &tokens[i % tokens.len()];
        let text = &text[..text.len().min(96)];
        let (j, k) = (rng.random_range(1..=8usize), rng.random_range(1..=8usize));
        let past = rng.random_bool(0.5);
        let (first, last) = if past { (j, text.len() - k) } else { (1, text.len() - k - j) };
        let start = rng.random_range(first..=last.max(first));
        let target = if past { &text[start - j..start] } else { &text[start + k..start + k + j] };
        // No answer names a value that readers are tested on.
        let named = base.tokenizer.decode(target)?;
        if named.split(|c: char| !c.is_alphabetic()).any(|w| withheld.contains(&stem(w))) {
            continue;
        }
        let question = if past {
            format!("Can you predict the previous {j} tokens that came before this?")
        } else {
            format!("Can you predict the next {j} tokens that come after this?")
        };
        let layer = collector.layers[i % collector.layers.len()];
        layers.push(layer);
        asks.push((question, target));
        rows.push(Row::plain(text[..start + k].to_vec()));
        wants.push(Want {
            logits: vec![],
            residual: vec![ResidualAt { layer, positions: (start..start + k).collect() }],
        });
    }
    let seen = base.decoder.forward(&Batch { adapters: vec![], rows }, &wants)?;
    let windows: Vec<&Vec<Vec<f32>>> = seen.iter().map(|s| &s.residual[0]).collect();
    scaled(base, collector, &layers, &windows)
        .into_iter()
        .zip(&asks)
        .map(|((layer, vectors), (question, target))| {
            let mut row = prompt_row(base, &[layer], collector, &vectors, question, Some(0))?;
            // The target's own tokens: decoded and written again they might begin otherwise.
            let completion_start = row.tokens.len();
            let end = [base.chat.end_of_turn()];
            row.tokens.extend(target.iter().chain(&end));
            Ok(TrainRow { row, completion_start, objective: Objective::CrossEntropy, weight: 1.0 })
        })
        .collect()
}
