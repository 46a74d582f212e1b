//! Running plans: whatever does not wait for something is computed together, over all plans.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use lm::{Adapter, BaseModel, Batch, Error, Injection, Request, ResidualAt, Result, Row, Want};

use super::plan::{Plan, Planned, Put};

type Vectors = Vec<Vec<f32>>;

/// What a plan gave.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outputs {
    /// The vectors asked for, by id: `hidden_size` values each.
    pub vectors: BTreeMap<String, Vectors>,
    /// Logit lenses by id: for each vector, tokens with their logits.
    pub tokens: BTreeMap<String, Vec<Vec<(u32, f32)>>>,
    /// Replies by id, without control tokens.
    pub replies: BTreeMap<String, String>,
}

/// One plan while it runs.
struct State<'a> {
    plan: &'a Plan,
    done: Vec<bool>,
    values: BTreeMap<&'a str, Vectors>,
    out: Outputs,
}

/// Adapters by id.
type Named<'a> = &'a BTreeMap<String, &'a Adapter>;

/// Runs plans. `stored` holds, for each plan, the vectors that it takes from the registry, by their id in it. Equal passes
/// are computed once, whichever plan asks.
///
/// # Errors
/// If an adapter or a stored vector is not given, a value comes out that is not finite, the model refuses, or `stop` was set
/// (it is looked at between rounds of passes).
pub fn run(
    base: &BaseModel,
    plans: &[&Plan],
    adapters: Named<'_>,
    stored: &[&BTreeMap<String, Vectors>],
    stop: &AtomicBool,
) -> Result<Vec<Outputs>> {
    let mut states = plans
        .iter()
        .enumerate()
        .map(|(i, plan)| State::new(plan, stored.get(i).copied()))
        .collect::<Result<Vec<_>>>()?;
    // A step waits for earlier ones only, so every round finishes at least the first open step of each plan.
    while states.iter().any(State::open) {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        passes(base, adapters, &mut states)?;
        for state in &mut states {
            state.compute(base)?;
        }
        replies(base, adapters, &mut states)?;
    }
    Ok(states.into_iter().map(State::finish).collect())
}

/// Tokens, adapters, and what is read at which layers: what makes two passes without injections equal.
type Pass<'a> = (&'a [u32], &'a [String], Vec<(usize, &'a [usize])>);

/// All `forward` steps that are ready, as one batch.
fn passes(base: &BaseModel, named: Named<'_>, states: &mut [State<'_>]) -> Result<()> {
    let mut rows = Rows::default();
    let mut wants: Vec<Want> = Vec::new();
    // Rows without injections are told apart by tokens and adapters; the others are taken as they are.
    let mut known: BTreeMap<Pass<'_>, usize> = BTreeMap::new();
    let mut asked: Vec<(usize, usize, usize)> = Vec::new();
    for (p, state) in states.iter().enumerate() {
        for (s, step) in state.plan.steps.iter().enumerate() {
            let Planned::Forward { tokens, adapters, collect, inject } = step else { continue };
            if state.done[s] || !state.has(inject.iter().map(|j| j.src.as_str())) {
                continue;
            }
            let at: Vec<(usize, &[usize])> = collect.iter().map(|c| (c.layer, &c.positions[..])).collect();
            let key = inject.is_empty().then(|| (&tokens[..], &adapters[..], at));
            let row = if let Some(row) = key.as_ref().and_then(|key| known.get(key)) {
                *row
            } else {
                let residual = collect
                    .iter()
                    .map(|c| ResidualAt { layer: c.layer, positions: c.positions.clone() })
                    .collect();
                wants.push(Want { logits: vec![], residual });
                rows.push(named, tokens, adapters, state.injections(inject))?;
                known.extend(key.map(|key| (key, wants.len() - 1)));
                wants.len() - 1
            };
            asked.push((p, s, row));
        }
    }
    if asked.is_empty() {
        return Ok(());
    }
    let seen = base.decoder.forward(&Batch { adapters: rows.adapters, rows: rows.rows }, &wants)?;
    for (p, s, row) in asked {
        let plan = states[p].plan;
        let Planned::Forward { collect, .. } = &plan.steps[s] else { continue };
        for (read, vectors) in collect.iter().zip(&seen[row].residual) {
            finite(s, &read.id, vectors)?;
            states[p].values.insert(&read.id, vectors.clone());
        }
        states[p].done[s] = true;
    }
    Ok(())
}

/// All `generate` steps that are ready, as one batch.
fn replies(base: &BaseModel, named: Named<'_>, states: &mut [State<'_>]) -> Result<()> {
    let mut rows = Rows::default();
    let mut asked: Vec<(usize, usize, usize, lm::Sampling, u64)> = Vec::new();
    for (p, state) in states.iter().enumerate() {
        for (s, step) in state.plan.steps.iter().enumerate() {
            let Planned::Generate { tokens, adapters, inject, sampling, max, seed, .. } = step else {
                continue;
            };
            if !state.done[s] && state.has(inject.iter().map(|j| j.src.as_str())) {
                rows.push(named, tokens, adapters, state.injections(inject))?;
                asked.push((p, s, *max, *sampling, *seed));
            }
        }
    }
    if asked.is_empty() {
        return Ok(());
    }
    let requests: Vec<Request> = rows
        .rows
        .into_iter()
        .zip(&asked)
        .map(|(prompt, (_, _, max, sampling, seed))| Request {
            prompt,
            max_new_tokens: *max,
            sampling: *sampling,
            seed: *seed,
        })
        .collect();
    let replies = base.decoder.generate(&rows.adapters, &requests, base.stop())?;
    for ((p, s, ..), reply) in asked.into_iter().zip(replies) {
        let plan = states[p].plan;
        if let Planned::Generate { id, .. } = &plan.steps[s] {
            states[p].out.replies.insert(id.clone(), base.tokenizer.decode(&reply.tokens)?);
        }
        states[p].done[s] = true;
    }
    Ok(())
}

/// Rows of a batch, and the adapters that they name.
#[derive(Default)]
struct Rows<'a> {
    rows: Vec<Row>,
    adapters: Vec<&'a Adapter>,
    index: BTreeMap<String, usize>,
}

impl<'a> Rows<'a> {
    fn push(
        &mut self,
        named: Named<'a>,
        tokens: &[u32],
        adapters: &[String],
        injections: Vec<Injection>,
    ) -> Result<()> {
        let mut active = Vec::with_capacity(adapters.len());
        for id in adapters {
            let at = if let Some(at) = self.index.get(id) {
                *at
            } else {
                let adapter = named.get(id);
                self.adapters
                    .push(adapter.ok_or_else(|| Error::Request(format!("no adapter {id} for its plan")))?);
                self.index.insert(id.clone(), self.adapters.len() - 1);
                self.adapters.len() - 1
            };
            active.push(at);
        }
        self.rows.push(Row { injections, ..Row::with_adapters(tokens.to_vec(), active) });
        Ok(())
    }
}

impl<'a> State<'a> {
    fn new(plan: &'a Plan, stored: Option<&BTreeMap<String, Vectors>>) -> Result<Self> {
        let mut values = BTreeMap::new();
        for id in &plan.vectors {
            let vectors = stored.and_then(|s| s.get(id));
            let missing = || Error::Request(format!("no stored vectors {id} for their plan"));
            values.insert(id.as_str(), vectors.ok_or_else(missing)?.clone());
        }
        Ok(Self { plan, done: vec![false; plan.steps.len()], values, out: Outputs::default() })
    }

    fn open(&self) -> bool {
        self.done.iter().any(|done| !done)
    }

    fn has<'b>(&self, mut ids: impl Iterator<Item = &'b str>) -> bool {
        ids.all(|id| self.values.contains_key(id))
    }

    fn injections(&self, puts: &[Put]) -> Vec<Injection> {
        puts.iter().flat_map(|put| put.onto(&self.values[put.src.as_str()])).collect()
    }

    /// The steps that need no pass through the model, as far as they go.
    fn compute(&mut self, base: &BaseModel) -> Result<()> {
        for (s, step) in self.plan.steps.iter().enumerate() {
            if self.done[s] {
                continue;
            }
            let (id, value): (&'a str, Vectors) = match step {
                Planned::Sub { id, a, b } if self.has([a.as_str(), b].into_iter()) => {
                    let each = |(a, b): (&Vec<f32>, &Vec<f32>)| a.iter().zip(b).map(|(a, b)| a - b).collect();
                    (id, self.values[a.as_str()].iter().zip(&self.values[b.as_str()]).map(each).collect())
                }
                Planned::MeanOfPositions { id, of } if self.has([of.as_str()].into_iter()) => {
                    let vectors = &self.values[of.as_str()];
                    let one: Vec<&[Vec<f32>]> = vectors.chunks(1).collect();
                    (id, mean(&one))
                }
                Planned::MeanOfIds { id, of } if self.has(of.iter().map(String::as_str)) => {
                    let all: Vec<&[Vec<f32>]> = of.iter().map(|o| &self.values[o.as_str()][..]).collect();
                    (id, mean(&all))
                }
                Planned::Scale { id, a, coef, per }
                    if self.has(std::iter::once(a.as_str()).chain(per.as_deref())) =>
                {
                    let mut value = self.values[a.as_str()].clone();
                    if let Some(per) = per {
                        let divisors = self.values[per.as_str()].iter().flatten();
                        value.iter_mut().flatten().zip(divisors).for_each(|(v, d)| *v /= d);
                    }
                    if *coef != 1.0 {
                        value.iter_mut().flatten().for_each(|v| *v *= coef);
                    }
                    (id, value)
                }
                Planned::Unembed { id, a, k } if self.has([a.as_str()].into_iter()) => {
                    let top = base.decoder.unembed_topk(&self.values[a.as_str()], *k)?;
                    self.out.tokens.insert(id.clone(), top);
                    self.done[s] = true;
                    continue;
                }
                // A pass through the model, or something that waits for one.
                _ => continue,
            };
            finite(s, id, &value)?;
            self.values.insert(id, value);
            self.done[s] = true;
        }
        Ok(())
    }

    fn finish(mut self) -> Outputs {
        for id in &self.plan.out {
            if let Some(vectors) = self.values.get(id.as_str()) {
                self.out.vectors.insert(id.clone(), vectors.clone());
            }
        }
        self.out
    }
}

impl Put {
    /// The injections of these vectors.
    pub(crate) fn onto(&self, vectors: &[Vec<f32>]) -> impl Iterator<Item = Injection> {
        self.positions.iter().zip(vectors).map(|(&position, vector)| Injection {
            layer: self.layer,
            position,
            vector: vector.clone(),
            coefficient: self.coef,
            mode: self.mode,
        })
    }
}

/// Refuses what overflowed, or was divided by nothing.
fn finite(step: usize, id: &str, vectors: &[Vec<f32>]) -> Result<()> {
    if vectors.iter().flatten().all(|x| x.is_finite()) {
        return Ok(());
    }
    Err(Error::Request(format!("steps[{step}]: {id:?} holds a value that is not finite")))
}

/// The average of several lists of vectors, vector by vector: summed in order, then divided.
pub(crate) fn mean(lists: &[&[Vec<f32>]]) -> Vectors {
    let Some((first, rest)) = lists.split_first() else { return Vec::new() };
    let mut out = first.to_vec();
    for list in rest {
        out.iter_mut().flatten().zip(list.iter().flatten()).for_each(|(o, x)| *o += x);
    }
    out.iter_mut().flatten().for_each(|o| *o /= lists.len() as f32);
    out
}
