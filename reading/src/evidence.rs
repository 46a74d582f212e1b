//! The methods whose scores decide a verdict: for each of them a score of every word, of a subject and of its twins.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use lm::{Adapter, BaseModel};
use readers::Result;
use registry::Store;
use serde_json::{Value, json};

use crate::lexicon::Lexicon;
use crate::null::Null;
use crate::panel::{Panelist, Question};
use crate::replies::{self, PROMPTS};
use crate::residual::{self, Clean};
use crate::weights;

/// One method.
#[derive(Debug, Clone, Copy)]
pub enum Method<'a> {
    /// Which words became likelier in the replies to neutral prompts.
    Replies,
    /// The logit lens of the mean difference of the residual stream.
    Lens,
    /// The shift of the next token's log-probabilities at the openings of replies.
    Shift,
    /// The lens of the weights themselves.
    Weights,
    /// A trained reader, asked a question in eight phrasings.
    Reader(&'a Panelist, &'a Question),
}

/// What methods work with.
#[derive(Debug)]
pub struct Bench<'a> {
    /// Base model.
    pub base: &'a BaseModel,
    /// Words.
    pub lexicon: &'a Lexicon,
    /// The clean model's stream.
    pub clean: &'a Clean,
}

/// Subjects computed together.
const TOGETHER: usize = 6;

impl Method<'_> {
    /// Its name.
    pub fn name(&self) -> String {
        match self {
            Self::Replies => "replies".into(),
            Self::Lens => "logit lens".into(),
            Self::Shift => "next token".into(),
            Self::Weights => "weight lens".into(),
            Self::Reader(p, q) => format!("{} {} on {}", p.kind(), p.name(), q.families.join(", ")),
        }
    }

    /// A short name for tables.
    pub fn short(&self) -> String {
        match self {
            Self::Reader(p, q) => format!("{} ({})", p.reader.record.family, q.families[0]),
            other => other.name(),
        }
    }

    /// Whether adapters trained it.
    pub fn trained(&self) -> bool {
        matches!(self, Self::Reader(..))
    }

    /// What decides its scores, the subject aside.
    pub fn identity(&self, bench: &Bench<'_>) -> Value {
        let of = match self {
            Self::Replies => json!({"prompts": PROMPTS, "tokens": replies::REPLY_TOKENS}),
            Self::Lens | Self::Shift => residual::identity(bench.base),
            Self::Weights => json!(4),
            Self::Reader(p, q) => json!({"reader": p.identity(), "questions": q.phrasings}),
        };
        let name = match self {
            Self::Reader(..) => "reader".to_owned(),
            other => other.name(),
        };
        json!({"v": 1, "method": name, "of": of, "base": bench.base.digest(), "words": bench.lexicon.digest()})
    }
}

/// Scores of these methods for some subjects: `[method][subject][word]`.
///
/// # Errors
/// If an adapter does not fit the model, or it was stopped.
pub fn scores(
    bench: &Bench<'_>,
    methods: &[Method<'_>],
    subjects: &[&Adapter],
    stop: &AtomicBool,
    tell: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<Vec<f32>>>> {
    let mut out: Vec<Vec<Vec<f32>>> = methods.iter().map(|_| Vec::new()).collect();
    let layers = bench.base.architecture.layers.len();
    for part in subjects.chunks(TOGETHER) {
        if stop.load(Ordering::Relaxed) {
            return Err(lm::Error::Interrupted.into());
        }
        let wants_stream = methods.iter().any(|m| matches!(m, Method::Lens | Method::Shift));
        let stream = if wants_stream {
            residual::scores(bench.base, bench.lexicon, part, bench.clean)?
        } else {
            vec![]
        };
        for (method, found) in methods.iter().zip(&mut out) {
            match method {
                Method::Replies => {
                    let prompts = PROMPTS.map(str::to_owned);
                    let said = replies::said(bench.base, bench.lexicon, part, &prompts)?;
                    found.extend(said.iter().map(replies::Said::scores));
                }
                Method::Lens => found.extend(stream.iter().map(|[lens, _]| lens.clone())),
                Method::Shift => found.extend(stream.iter().map(|[_, shift]| shift.clone())),
                Method::Weights => {
                    found.extend(part.iter().map(|a| weights::scores(a, layers, bench.lexicon)));
                }
                Method::Reader(p, q) => {
                    found.extend(p.scores(bench.base, bench.lexicon, part, &q.phrasings)?);
                }
            }
        }
        tell(out.first().map_or(0, Vec::len));
    }
    Ok(out)
}

/// What twins score by each method: kept in the store by what decides it, so that another reader costs its own scores only. `twins` makes
/// (or finds) the twins when something is missing.
///
/// # Errors
/// If twins cannot be made, the model or the store refuses, or it was stopped.
pub fn nulls(
    store: &Store,
    bench: &Bench<'_>,
    methods: &[Method<'_>],
    identity: &str,
    twins: &mut dyn FnMut() -> Result<Vec<Adapter>>,
    stop: &AtomicBool,
    tell: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Null>> {
    let key = |m: &Method<'_>| {
        let decides = json!({"twins": identity, "method": m.identity(bench)});
        format!("null/{}", registry::spec_hash(&decides))
    };
    let mut known: BTreeMap<usize, Null> = BTreeMap::new();
    let mut missing: Vec<usize> = Vec::new();
    for (i, method) in methods.iter().enumerate() {
        let found = store.cache_get(&key(method))?.and_then(|b| unpacked(&b, bench.lexicon.len()));
        match found {
            Some(null) => drop(known.insert(i, null)),
            None => missing.push(i),
        }
    }
    if !missing.is_empty() {
        let made = twins()?;
        let subjects: Vec<&Adapter> = made.iter().collect();
        let asked: Vec<Method<'_>> = missing.iter().map(|&i| methods[i]).collect();
        let found = scores(bench, &asked, &subjects, stop, &mut |done| tell(done, subjects.len()))?;
        for (&i, rows) in missing.iter().zip(found) {
            store.cache_put(&key(&methods[i]), &packed(&rows))?;
            known.insert(i, Null::new(rows));
        }
    }
    Ok(known.into_values().collect())
}

fn packed(rows: &[Vec<f32>]) -> Vec<u8> {
    rows.iter().flatten().flat_map(|x| x.to_le_bytes()).collect()
}

fn unpacked(bytes: &[u8], width: usize) -> Option<Null> {
    let (values, rest) = bytes.as_chunks::<4>();
    let values: Vec<f32> = values.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let whole = rest.is_empty() && width > 0 && !values.is_empty() && values.len().is_multiple_of(width);
    whole.then(|| Null::new(values.chunks(width).map(<[f32]>::to_vec).collect()))
}
