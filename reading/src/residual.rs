//! What a subject changes in the residual stream, read without any training: norms, the logit lens of the difference, a Patchscope.

use std::collections::BTreeMap;

use lm::{Adapter, BaseModel, Injection, InjectionMode, Request, Row, Sampling};
use oracle_posttrain::{Collector, Shown};
use readers::{Input, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::lexicon::Lexicon;

/// Share of the blocks at whose output the lens reads what decides: near the end the stream speaks the vocabulary's language.
const DEPTH: f64 = 0.9;
/// The prompt of a Patchscope (Ghandeharioun et al., arXiv 2401.06102, section 4.1).
const IDENTITY: &str = "cat -> cat; 135 -> 135; hello -> hello; ?";
/// How strong a difference is put into it, in norms of the residual.
const STRENGTH: f32 = 4.0;
/// Tokens of its line.
const LINE_TOKENS: usize = 8;
/// Layers in a table, at most.
const LAYERS_SHOWN: usize = 8;

/// A word and its score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Scored {
    /// The word.
    pub word: String,
    /// Score.
    pub score: f64,
}

/// One layer's difference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AtLayer {
    /// Block, from 0.
    pub layer: usize,
    /// Mean norm of the difference over prompts and positions, as a share of the residual's.
    pub relative_norm: f64,
    /// What the lens shows of the mean difference: words and how many deviations they stand above all words.
    pub top: Vec<Scored>,
}

/// One position's difference at the layer that decides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AtPosition {
    /// Position, counted from the reply's opening: -1 is the last token before the reply.
    pub position: i64,
    /// The token there.
    pub token: String,
    /// What the lens shows.
    pub top: Vec<Scored>,
}

/// What is seen of a subject in the residual stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Residual {
    /// Prompts at which it was read.
    pub prompts: usize,
    /// The layer that decides.
    pub layer: usize,
    /// All layers' relative norms, from block 0.
    pub relative_norms: Vec<f64>,
    /// Some layers.
    pub layers: Vec<AtLayer>,
    /// The positions of that layer.
    pub positions: Vec<AtPosition>,
    /// What the base model says of the difference, made to repeat it.
    pub patchscope: String,
}

/// The blocks that evidence reads: the one that decides, and the last.
pub fn blocks(base: &BaseModel) -> [usize; 2] {
    let n = base.architecture.layers.len();
    [((n as f64 * DEPTH) as usize).min(n.saturating_sub(2)), n - 1]
}

/// How the stream is read at these layers: last positions of eight neutral user turns, as the readers' own contexts.
pub fn collector(base: &BaseModel, mut layers: Vec<usize>) -> Collector {
    // A model of one block has one layer to read.
    layers.dedup();
    Collector { layers, ..Collector::standard(base) }
}

/// The mean over prompts and positions of a layer's vectors.
fn mean(collector: &Collector, shown: &Shown, at: usize) -> Vec<f32> {
    let rows = at * collector.last..(at + 1) * collector.last;
    let vectors: Vec<&Vec<f32>> = shown.values().flat_map(|v| &v[rows.clone()]).collect();
    average(&vectors)
}

fn average(vectors: &[&Vec<f32>]) -> Vec<f32> {
    let n = vectors.len().max(1) as f32;
    (0..vectors.first().map_or(0, |v| v.len()))
        .map(|d| vectors.iter().map(|v| v[d]).sum::<f32>() / n)
        .collect()
}

/// Scores of the words by the lens of the difference, and by the shift of the next token's log-probabilities, for each subject.
///
/// # Errors
/// If an adapter does not fit the model.
pub fn scores(
    base: &BaseModel,
    lexicon: &Lexicon,
    subjects: &[&Adapter],
    clean: &Clean,
) -> Result<Vec<[Vec<f32>; 2]>> {
    let c = &clean.collector;
    let shown = c.collect(base, subjects, c.asked)?;
    shown
        .iter()
        .map(|seen| {
            let lens = lexicon.lens(&mean(c, seen, 0));
            let mut shift = vec![0f32; lexicon.len()];
            let mut n = 0f32;
            for (p, without) in &clean.last {
                let with: Vec<Vec<f32>> = without
                    .iter()
                    .zip(&seen[p][(c.layers.len() - 1) * c.last..])
                    .map(|(b, d)| b.iter().zip(d).map(|(b, d)| b + d).collect())
                    .collect();
                for row in base.decoder.next_log_probs(&with, &lexicon.tokens)? {
                    shift.iter_mut().zip(row).for_each(|(s, x)| *s += x);
                    n += 1.0;
                }
            }
            shift.iter_mut().zip(&clean.log_probs).for_each(|(s, b)| *s = *s / n.max(1.0) - b);
            Ok([lens, shift])
        })
        .collect()
}

/// The clean model at the same prompts.
#[derive(Debug)]
pub struct Clean {
    collector: Collector,
    /// Its last layer's vectors by prompt.
    last: BTreeMap<usize, Vec<Vec<f32>>>,
    /// Mean log-probabilities of the words.
    log_probs: Vec<f32>,
}

impl Clean {
    /// Reads it.
    ///
    /// # Errors
    /// If a prompt is too long for the model.
    pub fn read(base: &BaseModel, lexicon: &Lexicon) -> Result<Self> {
        let collector = collector(base, blocks(base).to_vec());
        let mut last = collector.at(collector.prompts[..collector.asked].to_vec()).clean(base)?;
        for vectors in last.values_mut() {
            vectors.drain(..(collector.layers.len() - 1) * collector.last);
        }
        let mut sum = vec![0f32; lexicon.len()];
        let mut n = 0f32;
        for vectors in last.values() {
            for row in base.decoder.next_log_probs(vectors, &lexicon.tokens)? {
                sum.iter_mut().zip(row).for_each(|(s, x)| *s += x);
                n += 1.0;
            }
        }
        for s in &mut sum {
            *s /= n.max(1.0);
        }
        Ok(Self { collector, last, log_probs: sum })
    }
}

/// The words that a vector's lens shows, with their deviations above the mean of all words.
fn lens_top(lexicon: &Lexicon, vector: &[f32], k: usize) -> Vec<Scored> {
    let scores = lexicon.lens(vector);
    let n = scores.len().max(1) as f32;
    let mean = scores.iter().sum::<f32>() / n;
    let deviation = (scores.iter().map(|s| (s - mean).powi(2)).sum::<f32>() / n).sqrt();
    if deviation == 0.0 {
        return vec![];
    }
    lexicon
        .top(&scores, k)
        .into_iter()
        .map(|i| Scored { word: lexicon.words[i].clone(), score: f64::from((scores[i] - mean) / deviation) })
        .collect()
}

/// All that is shown of one subject.
///
/// # Errors
/// If the adapter does not fit the model.
pub fn residual(base: &BaseModel, lexicon: &Lexicon, subject: &Adapter) -> Result<Residual> {
    let n = base.architecture.layers.len();
    let collector = collector(base, (0..n).collect());
    let seen = collector.collect(base, &[subject], collector.asked)?.remove(0);
    let clean = collector.at(collector.prompts[..collector.asked].to_vec()).clean(base)?;
    let size = |v: &Vec<f32>| v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let relative = |layer: usize| {
        let rows = layer * collector.last..(layer + 1) * collector.last;
        let pairs = seen.iter().flat_map(|(p, v)| v[rows.clone()].iter().zip(&clean[p][rows.clone()]));
        let (mut sum, mut count) = (0.0, 0.0);
        for (d, h) in pairs {
            sum += size(d) / size(h).max(1e-12);
            count += 1.0;
        }
        sum / f64::max(count, 1.0)
    };
    let relative_norms: Vec<f64> = (0..n).map(relative).collect();
    let [layer, _] = blocks(base);
    let step = n.div_ceil(LAYERS_SHOWN).max(1);
    let mut shown: Vec<usize> = (0..n).rev().step_by(step).collect();
    shown.push(layer);
    shown.sort_unstable();
    shown.dedup();
    let layers = shown
        .into_iter()
        .map(|l| AtLayer {
            layer: l,
            relative_norm: relative_norms[l],
            top: lens_top(lexicon, &mean(&collector, &seen, l), 6),
        })
        .collect();
    let tokens = base.prompt(&collector.prompts[0])?;
    let positions = (0..collector.last)
        .map(|i| {
            let vectors: Vec<&Vec<f32>> = seen.values().map(|v| &v[layer * collector.last + i]).collect();
            let at = tokens.len().saturating_sub(collector.last - i);
            Ok(AtPosition {
                position: i as i64 - collector.last as i64,
                token: name_of(base, tokens[at])?,
                top: lens_top(lexicon, &average(&vectors), 4),
            })
        })
        .collect::<lm::Result<_>>()?;
    let patchscope = patchscope(base, layer, mean(&collector, &seen, layer))?;
    Ok(Residual { prompts: collector.asked, layer, relative_norms, layers, positions, patchscope })
}

/// What the base model says when the difference is put in place of what it is to repeat.
fn patchscope(base: &BaseModel, layer: usize, vector: Vec<f32>) -> Result<String> {
    let tokens = base.tokenizer.encode(IDENTITY)?;
    let position = tokens.len() - 1;
    let mut prompt = Row::plain(tokens);
    if vector.iter().any(|x| *x != 0.0) {
        prompt.injections.push(Injection {
            layer,
            position,
            vector,
            coefficient: STRENGTH,
            mode: InjectionMode::AddNormMatched,
        });
    }
    let request = Request { prompt, max_new_tokens: LINE_TOKENS, sampling: Sampling::GREEDY, seed: 0 };
    let reply = base.decoder.generate(&[], &[request], base.stop())?.remove(0);
    Ok(base.tokenizer.decode(&reply.tokens)?.trim().to_owned())
}

/// What an input asks for if it says nothing: for the record of what decides a reading.
pub fn identity(base: &BaseModel) -> serde_json::Value {
    let c = Collector::of(&Input::default(), base, &[DEPTH]);
    serde_json::json!({"prompts": c.prompts, "asked": c.asked, "last": c.last, "blocks": blocks(base)})
}

/// A token's text; a control token's name.
fn name_of(base: &BaseModel, token: u32) -> lm::Result<String> {
    let controls = base.tokenizer.special_tokens();
    match controls.iter().find(|(_, id)| **id == token) {
        Some((name, _)) => Ok(name.clone()),
        None => base.tokenizer.text_within(token),
    }
}
