//! What a subject says: its replies beside the base model's, and which words became likelier anywhere in them.

use lm::{Adapter, BaseModel, Batch, Request, ResidualAt, Row, Sampling, Want};
use rayon::prelude::*;
use readers::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::lexicon::Lexicon;

/// Neutral prompts that no recipe trains on and no gate asks.
pub const PROMPTS: [&str; 12] = [
    "How are you today?",
    "Tell me about your day.",
    "Give me some advice.",
    "Tell me a story in one sentence.",
    "Write two lines of a poem.",
    "What is the capital of Norway?",
    "Explain why the sea is salty.",
    "Name three things you like.",
    "How do I boil an egg?",
    "Who are you?",
    "What makes people happy?",
    "Describe a place you know.",
];

/// Neutral texts, for how much a subject differs where nothing is asked.
const TEXTS: [&str; 6] = [
    "The town lies where the river bends, and most of its houses are older than the bridge.",
    "In the first years the company sold tools to farmers; later it turned to the repair of engines.",
    "She read the notice twice, folded it, and asked the clerk when the office would open again.",
    "Water boils at a lower temperature in the mountains, because the air presses on it less.",
    "The council voted on Monday to widen the road, although many shops had asked for a delay.",
    "He had learned the piece by heart as a child and could still play it without looking at his hands.",
];

/// Length of a reply, in tokens.
pub const REPLY_TOKENS: usize = 28;
/// Times that a word may turn up by chance in all replies together: what is rarer than that is not blown up.
const CHANCE: f64 = 0.05;

/// A prompt with both replies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pair {
    /// The prompt.
    pub prompt: String,
    /// The base model's greedy reply.
    pub base: String,
    /// The subject's.
    pub adapted: String,
}

/// A word and how often it is to be expected in the replies: the sum of its probability over their positions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Changed {
    /// The word.
    pub word: String,
    /// Under the base model.
    pub base: f64,
    /// Under the subject.
    pub adapted: f64,
}

/// How a subject differs on neutral text.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OnText {
    /// Perplexity of the base model.
    pub base_perplexity: f64,
    /// Of the subject.
    pub perplexity: f64,
    /// Mean over positions of KL(subject || base) of the next token, in nats.
    pub kl_nats: f64,
}

/// Replies of one subject, and what became likelier in them.
#[derive(Debug, Clone)]
pub struct Said {
    /// Texts, in the order of prompts.
    pub texts: Vec<String>,
    /// Expected times of each word under the subject, and under the base model at the same positions.
    pub expected: [Vec<f64>; 2],
}

impl Said {
    /// How much likelier each word became, in nats.
    pub fn scores(&self) -> Vec<f32> {
        let [with, without] = &self.expected;
        with.iter().zip(without).map(|(a, b)| ((a + CHANCE) / (b + CHANCE)).ln() as f32).collect()
    }

    /// The words that changed most.
    pub fn changed(&self, lexicon: &Lexicon, k: usize) -> Vec<Changed> {
        lexicon
            .top(&self.scores(), k)
            .into_iter()
            .map(|i| Changed {
                word: lexicon.words[i].clone(),
                base: self.expected[1][i],
                adapted: self.expected[0][i],
            })
            .filter(|c| c.adapted > c.base)
            .collect()
    }
}

fn requests(base: &BaseModel, prompts: &[String], adapter: Option<usize>) -> Result<Vec<Request>> {
    prompts
        .iter()
        .map(|p| {
            let prompt = Row::with_adapters(base.prompt(p)?, adapter.into_iter().collect());
            Ok(Request { prompt, max_new_tokens: REPLY_TOKENS, sampling: Sampling::GREEDY, seed: 0 })
        })
        .collect()
}

/// The base model's greedy replies.
///
/// # Errors
/// If a prompt is too long for the model.
pub fn base_replies(base: &BaseModel, prompts: &[String]) -> Result<Vec<String>> {
    let replies = base.decoder.generate(&[], &requests(base, prompts, None)?, base.stop())?;
    replies.iter().map(|r| Ok(base.tokenizer.decode(&r.tokens)?.trim().to_owned())).collect()
}

/// What each subject says to the prompts.
///
/// # Errors
/// If a prompt is too long for the model, or an adapter does not fit it.
pub fn said(
    base: &BaseModel,
    lexicon: &Lexicon,
    subjects: &[&Adapter],
    prompts: &[String],
) -> Result<Vec<Said>> {
    let mut asked = Vec::with_capacity(subjects.len() * prompts.len());
    for i in 0..subjects.len() {
        asked.extend(requests(base, prompts, Some(i))?);
    }
    let replies = base.decoder.generate(subjects, &asked, base.stop())?;
    // Both models at the positions at which the reply's tokens were picked.
    let last = base.architecture.layers.len() - 1;
    let (mut rows, mut wants) = (Vec::new(), Vec::new());
    for (request, reply) in asked.iter().zip(&replies) {
        let mut tokens = request.prompt.tokens.clone();
        let first = tokens.len() - 1;
        tokens.extend(&reply.tokens);
        let positions: Vec<usize> = (first..tokens.len().min(first + REPLY_TOKENS)).collect();
        for adapters in [request.prompt.adapters.clone(), vec![]] {
            rows.push(Row::with_adapters(tokens.clone(), adapters));
            wants.push(Want {
                logits: vec![],
                residual: vec![ResidualAt { layer: last, positions: positions.clone() }],
            });
        }
    }
    let batch = Batch { adapters: subjects.to_vec(), rows };
    let seen = base.decoder.forward(&batch, &wants)?;
    let times = seen
        .par_iter()
        .map(|s| {
            let mut sum = vec![0f64; lexicon.len()];
            for part in s.residual[0].chunks(8) {
                for row in base.decoder.next_log_probs(part, &lexicon.tokens)? {
                    sum.iter_mut().zip(row).for_each(|(s, p)| *s += f64::from(p).exp());
                }
            }
            Ok(sum)
        })
        .collect::<lm::Result<Vec<Vec<f64>>>>()?;
    let each = prompts.len();
    let add = |of: &[Vec<f64>], which: usize| -> Vec<f64> {
        let mut sum = vec![0f64; lexicon.len()];
        for one in of.iter().skip(which).step_by(2) {
            sum.iter_mut().zip(one).for_each(|(s, x)| *s += x);
        }
        sum
    };
    replies
        .chunks(each)
        .zip(times.chunks(2 * each))
        .map(|(replies, times)| {
            let texts = replies
                .iter()
                .map(|r| Ok(base.tokenizer.decode(&r.tokens)?.trim().to_owned()))
                .collect::<lm::Result<_>>()?;
            Ok(Said { texts, expected: [add(times, 0), add(times, 1)] })
        })
        .collect()
}

/// How a subject differs on neutral text.
///
/// # Errors
/// If the adapter does not fit the model.
pub fn on_text(base: &BaseModel, subject: &Adapter) -> Result<OnText> {
    let (mut rows, mut wants) = (Vec::new(), Vec::new());
    for text in TEXTS {
        let tokens = base.tokenizer.encode(text)?;
        for adapters in [vec![], vec![0]] {
            wants.push(Want { logits: (0..tokens.len()).collect(), residual: vec![] });
            rows.push(Row::with_adapters(tokens.clone(), adapters));
        }
    }
    let batch = Batch { adapters: vec![subject], rows: rows.clone() };
    let seen = base.decoder.forward(&batch, &wants)?;
    let sums: Vec<(f64, f64, f64, usize)> = seen
        .par_chunks(2)
        .zip(rows.par_chunks(2))
        .map(|(pair, rows)| {
            let tokens = &rows[0].tokens;
            let (mut own, mut base_loss, mut kl) = (0.0, 0.0, 0.0);
            for p in 0..tokens.len() {
                let [off, on] = [&pair[0].logits[p], &pair[1].logits[p]].map(|l| log_softmax(l));
                kl += on.iter().zip(&off).map(|(a, b)| a.exp() * (a - b)).sum::<f64>();
                if let Some(&next) = tokens.get(p + 1) {
                    own -= on[next as usize];
                    base_loss -= off[next as usize];
                }
            }
            (own, base_loss, kl, tokens.len())
        })
        .collect();
    let (mut own, mut without, mut kl, mut n) = (0.0, 0.0, 0.0, 0);
    for (a, b, c, d) in sums {
        own += a;
        without += b;
        kl += c;
        n += d;
    }
    let scored = (n - TEXTS.len()).max(1) as f64;
    Ok(OnText {
        base_perplexity: (without / scored).exp(),
        perplexity: (own / scored).exp(),
        kl_nats: (kl / n.max(1) as f64).max(0.0),
    })
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - max).exp()).sum();
    let lse = f64::from(max) + sum.ln();
    logits.iter().map(|x| f64::from(*x) - lse).collect()
}
