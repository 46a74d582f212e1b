//! From a spec to a plan: ids, positions, shapes, limits, cost. No weight is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use lm::{Message, Outline, Role, Sampling};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::SpecError;
use super::plan::{Cap, Cost, Plan, Planned, Put, Read};
use super::spec::{Collect, Inject, Input, Model, Over, Positions, Spec, Step};
use crate::prompt::placeholders;

/// Most steps of a spec.
const MOST_STEPS: usize = 4096;
/// Most `collect`s and most `inject`s of a step.
const MOST_PARTS: usize = 256;
/// Most inputs, and most stored vectors.
const MOST_NAMES: usize = 4096;
/// Largest magnitude of a coefficient.
const MOST_COEF: f64 = 1e4;
/// Highest temperature.
const MOST_TEMPERATURE: f64 = 10.0;
/// Longest reply, in tokens.
const MOST_NEW_TOKENS: usize = 1024;
/// Most tokens of a logit lens.
const MOST_TOP: usize = 1000;

/// What a spec is checked against.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// The base model.
    pub outline: &'a Outline,
    /// Adapters of this base model that the registry has.
    pub adapters: &'a BTreeSet<String>,
    /// Stored vectors that a spec names: how many there are, by their id in the spec.
    pub vectors: &'a BTreeMap<String, usize>,
    /// What it may cost.
    pub cap: Cap,
}

type Result<T, E = SpecError> = std::result::Result<T, E>;

fn refuse<T>(field: impl Into<String>, what: impl Into<String>) -> Result<T> {
    Err(SpecError::new(field, what))
}

/// An input as tokens, and where its placeholders are.
struct Tokens {
    tokens: Vec<u32>,
    /// By the layer that they stand for, in the order of the prompt.
    slots: Vec<(usize, Vec<usize>)>,
}

/// What an id stands for.
#[derive(Clone, Copy)]
enum Value {
    /// This many vectors of `hidden_size`.
    Vectors(usize),
    /// A `forward` step itself, whose vectors have ids of their own.
    Pass,
    /// Tokens or text.
    Words,
}

struct Checker<'a> {
    around: Surroundings<'a>,
    inputs: BTreeMap<&'a str, Tokens>,
    used: BTreeSet<&'a str>,
    values: BTreeMap<&'a str, Value>,
    cost: Cost,
}

/// Checks a spec and works out its cost.
///
/// # Errors
/// The first thing that is wrong, with its field's path.
pub fn check(spec: &Spec, around: Surroundings<'_>) -> Result<Plan> {
    if spec.v != 1 {
        return refuse("v", format!("is {}; version 1 is read", spec.v));
    }
    if spec.steps.is_empty() || spec.steps.len() > MOST_STEPS {
        return refuse("steps", format!("has {} steps; 1 to {MOST_STEPS} are allowed", spec.steps.len()));
    }
    for (what, n) in [("inputs", spec.inputs.len()), ("vectors", spec.vectors.len()), ("out", spec.out.len())]
    {
        if n > MOST_NAMES {
            return refuse(what, format!("has {n} entries; {MOST_NAMES} are allowed"));
        }
    }
    let mut inputs = BTreeMap::new();
    for (name, input) in &spec.inputs {
        let at = format!("inputs.{name}");
        well_named(name, &at)?;
        inputs.insert(name.as_str(), tokens(input, around.outline, &at)?);
    }
    let mut c =
        Checker { around, inputs, used: BTreeSet::new(), values: BTreeMap::new(), cost: Cost::default() };
    for id in spec.vectors.keys() {
        let at = format!("vectors.{id}");
        let Some(&n) = around.vectors.get(id) else {
            return refuse(at, "is no tensor of a file in the registry");
        };
        c.name(id, &at, Value::Vectors(n))?;
        c.charge(&at, 0, 0.0, n, 0.0)?;
    }
    let mut steps = Vec::with_capacity(spec.steps.len());
    for (i, step) in spec.steps.iter().enumerate() {
        steps.push(c.step(step, &format!("steps[{i}]"))?);
    }
    for (i, id) in spec.out.iter().enumerate() {
        c.vectors(id, &format!("out[{i}]"))?;
    }
    if let Some(name) = spec.inputs.keys().find(|n| !c.used.contains(n.as_str())) {
        return refuse(format!("inputs.{name}"), "is used by no step");
    }
    let cost = c.cost;
    let canonical = canonical(spec, around.outline);
    Ok(Plan {
        digest: digest(&canonical, &c, around.outline),
        spec: canonical,
        steps,
        vectors: spec.vectors.keys().cloned().collect(),
        out: spec.out.clone(),
        cost,
    })
}

fn well_named(id: &str, at: &str) -> Result<()> {
    let good = !id.is_empty()
        && id.len() <= 64
        && id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
    if good { Ok(()) } else { refuse(at, format!("{id:?} is no name: 1 to 64 letters, digits, _ . -")) }
}

fn tokens(input: &Input, outline: &Outline, at: &str) -> Result<Tokens> {
    let model = &outline.architecture;
    let failed = |e: lm::Error| SpecError::new(at, e.to_string());
    let found = match input {
        Input::Chat { system, user } => {
            let messages =
                [Message::new(Role::System, system.as_str()), Message::new(Role::User, user.as_str())];
            let tokens = outline.chat.encode(&outline.tokenizer, &messages, true).map_err(failed)?;
            Tokens { tokens, slots: vec![] }
        }
        Input::Question { layers, slots, text, form } => {
            if let Some(layer) = layers.iter().find(|l| **l >= model.layers.len()) {
                let blocks = model.layers.len();
                return refuse(format!("{at}.question.layers"), format!("names block {layer} of {blocks}"));
            }
            let room = model.context;
            if layers.is_empty() || *slots == 0 || layers.len().checked_mul(*slots).is_none_or(|n| n > room) {
                return refuse(format!("{at}.question"), "needs a layer and a slot, and room for all slots");
            }
            if let Some(layer) = layers.iter().enumerate().find(|(i, l)| layers[..*i].contains(l)) {
                return refuse(format!("{at}.question.layers"), format!("names block {} twice", layer.1));
            }
            let (tokens, at) = placeholders(outline, form, layers, *slots, text).map_err(failed)?;
            let slots = layers.iter().copied().zip(at.chunks(*slots).map(<[usize]>::to_vec)).collect();
            Tokens { tokens, slots }
        }
        Input::Text(text) => {
            Tokens { tokens: outline.tokenizer.encode_alone(text).map_err(failed)?, slots: vec![] }
        }
        Input::Tokens(tokens) => Tokens { tokens: tokens.clone(), slots: vec![] },
    };
    if found.tokens.is_empty() || found.tokens.len() > model.context {
        let most = model.context;
        return refuse(at, format!("has {} tokens; 1 to {most} are allowed", found.tokens.len()));
    }
    if let Some(t) = found.tokens.iter().find(|t| **t as usize >= model.vocab_size) {
        return refuse(at, format!("token {t} is outside the vocabulary of {}", model.vocab_size));
    }
    Ok(found)
}

impl<'a> Checker<'a> {
    /// Gives an id its meaning; every id has one.
    fn name(&mut self, id: &'a str, at: &str, value: Value) -> Result<()> {
        well_named(id, at)?;
        if self.values.insert(id, value).is_some() {
            return refuse(at, format!("the id {id:?} is taken"));
        }
        Ok(())
    }

    /// Adds to the cost; what passes the cap is refused before anything is allocated for it. A cap that is no number lets
    /// nothing pass.
    fn charge(
        &mut self,
        at: &str,
        tokens: usize,
        flops: f64,
        vectors: usize,
        other_bytes: f64,
    ) -> Result<()> {
        self.cost.tokens = self.cost.tokens.saturating_add(tokens);
        self.cost.flops += flops;
        self.cost.bytes +=
            vectors as f64 * (self.around.outline.architecture.hidden_size * 4) as f64 + other_bytes;
        let cap = self.around.cap;
        for (what, cost, cap) in
            [("FLOPs", self.cost.flops, cap.flops), ("bytes", self.cost.bytes, cap.bytes)]
        {
            let within = cost <= cap;
            if !within {
                let what =
                    format!("with this the spec costs {cost:.2e} {what}, more than the cap of {cap:.2e}");
                return Err(SpecError { costly: true, ..SpecError::new(at, what) });
            }
        }
        Ok(())
    }

    fn vectors(&self, id: &str, at: &str) -> Result<usize> {
        match self.values.get(id) {
            Some(Value::Vectors(n)) => Ok(*n),
            Some(Value::Pass) => refuse(at, format!("{id:?} is a forward step; name one of its collects")),
            Some(Value::Words) => refuse(at, format!("{id:?} is tokens or text, not vectors")),
            None => refuse(at, format!("no earlier step has the id {id:?}")),
        }
    }

    fn input(&mut self, name: &'a str, at: &str) -> Result<Vec<u32>> {
        self.used.insert(name);
        let found = self.inputs.get(name).map(|input| input.tokens.clone());
        found.ok_or_else(|| SpecError::new(format!("{at}.input"), format!("there is no input {name:?}")))
    }

    fn adapters(&self, model: &Model, at: &str) -> Result<Vec<String>> {
        for (i, id) in model.adapters.iter().enumerate() {
            let at = format!("{at}.model.adapters[{i}]");
            if !self.around.adapters.contains(id) {
                return refuse(at, format!("{id:?} is no adapter of this base model in the registry"));
            }
            if model.adapters[..i].contains(id) {
                return refuse(at, format!("{id:?} is named twice"));
            }
        }
        Ok(model.adapters.clone())
    }

    /// FLOPs of one operation on every value of so many vectors.
    fn elementwise(&self, vectors: usize) -> f64 {
        (vectors * self.around.outline.architecture.hidden_size) as f64
    }

    fn layer(&self, layer: usize, at: &str) -> Result<usize> {
        let blocks = self.around.outline.architecture.layers.len();
        if layer < blocks {
            Ok(layer)
        } else {
            refuse(at, format!("is {layer}; the model has blocks 0 to {}", blocks - 1))
        }
    }

    fn read(&mut self, collect: &'a Collect, input: &str, at: &str) -> Result<Read> {
        let blocks = self.around.outline.architecture.layers.len();
        let layer = match (collect.layer, collect.depth) {
            (Some(layer), None) => self.layer(layer, &format!("{at}.layer"))?,
            (None, Some(depth)) if (0.0..1.0).contains(&depth) => (blocks as f64 * depth) as usize,
            (None, Some(depth)) => {
                return refuse(format!("{at}.depth"), format!("is {depth}; from 0 up to below 1 is allowed"));
            }
            _ => return refuse(at, "needs a layer or a depth, and not both"),
        };
        let at = format!("{at}.pos");
        let n = count(&collect.pos, &self.inputs[input]);
        self.charge(&at, 0, 0.0, n, 0.0)?;
        Ok(Read {
            id: collect.id.clone(),
            layer,
            positions: positions(&collect.pos, &self.inputs[input], &at)?,
        })
    }

    fn put(&mut self, inject: &'a Inject, input: &str, at: &str) -> Result<Put> {
        let layer = self.layer(inject.layer, &format!("{at}.layer"))?;
        // Its vectors are copied to where they act, and once more to tell rows apart.
        let n = count(&inject.pos, &self.inputs[input]);
        self.charge(&format!("{at}.pos"), 0, 0.0, 2 * n, 0.0)?;
        let positions = positions(&inject.pos, &self.inputs[input], &format!("{at}.pos"))?;
        let n = self.vectors(&inject.src, &format!("{at}.src"))?;
        if n != positions.len() {
            let what = format!("has {n} vectors for {} positions", positions.len());
            return refuse(format!("{at}.src"), what);
        }
        let coef = coefficient(inject.coef, &format!("{at}.coef"))?;
        Ok(Put { layer, positions, src: inject.src.clone(), mode: inject.mode, coef })
    }

    fn puts(&mut self, inject: &'a [Inject], input: &str, at: &str) -> Result<Vec<Put>> {
        few(inject.len(), &format!("{at}.inject"))?;
        inject.iter().enumerate().map(|(i, j)| self.put(j, input, &format!("{at}.inject[{i}]"))).collect()
    }

    fn step(&mut self, step: &'a Step, at: &str) -> Result<Planned> {
        let outline = self.around.outline;
        let id_at = format!("{at}.id");
        match step {
            Step::Forward(s) => {
                let adapters = self.adapters(&s.model, at)?;
                if s.collect.is_empty() {
                    return refuse(format!("{at}.collect"), "is empty: nothing would be read");
                }
                few(s.collect.len(), &format!("{at}.collect"))?;
                let tokens = self.input(&s.input, at)?;
                let inject = self.puts(&s.inject, &s.input, at)?;
                let mut collect = Vec::with_capacity(s.collect.len());
                for (i, c) in s.collect.iter().enumerate() {
                    collect.push(self.read(c, &s.input, &format!("{at}.collect[{i}]"))?);
                }
                self.name(&s.id, &id_at, Value::Pass)?;
                for (i, (c, read)) in s.collect.iter().zip(&collect).enumerate() {
                    let at = format!("{at}.collect[{i}].id");
                    self.name(&c.id, &at, Value::Vectors(read.positions.len()))?;
                }
                let deepest = collect.iter().map(|c| c.layer + 1).max().unwrap_or_default();
                if let Some(i) = inject.iter().position(|j| j.layer >= deepest) {
                    let what = format!(
                        "is {}, below which nothing is collected: it would do nothing",
                        inject[i].layer
                    );
                    return refuse(format!("{at}.inject[{i}].layer"), what);
                }
                self.charge(
                    at,
                    tokens.len(),
                    outline.architecture.pass_flops(tokens.len(), deepest),
                    0,
                    0.0,
                )?;
                Ok(Planned::Forward { tokens, adapters, collect, inject })
            }
            Step::Sub(s) => {
                let (a, b) =
                    (self.vectors(&s.a, &format!("{at}.a"))?, self.vectors(&s.b, &format!("{at}.b"))?);
                if a != b {
                    return refuse(format!("{at}.b"), format!("has {b} vectors, {:?} has {a}", s.a));
                }
                self.name(&s.id, &id_at, Value::Vectors(a))?;
                self.charge(at, 0, self.elementwise(a), a, 0.0)?;
                Ok(Planned::Sub { id: s.id.clone(), a: s.a.clone(), b: s.b.clone() })
            }
            Step::Mean(s) => {
                let field = format!("{at}.of");
                let counts: Vec<usize> =
                    s.of.iter()
                        .enumerate()
                        .map(|(i, id)| self.vectors(id, &format!("{field}[{i}]")))
                        .collect::<Result<_>>()?;
                match (s.over, &counts[..]) {
                    (Over::Positions, [_]) => {
                        self.name(&s.id, &id_at, Value::Vectors(1))?;
                        self.charge(at, 0, self.elementwise(counts[0]), 1, 0.0)?;
                        Ok(Planned::MeanOfPositions { id: s.id.clone(), of: s.of[0].clone() })
                    }
                    (Over::Positions, _) => refuse(field, "must be one id to average over its positions"),
                    (Over::Ids, []) => refuse(field, "is empty"),
                    (Over::Ids, [n, rest @ ..]) => {
                        if rest.iter().any(|m| m != n) {
                            return refuse(field, format!("have different numbers of vectors: {counts:?}"));
                        }
                        self.name(&s.id, &id_at, Value::Vectors(*n))?;
                        self.charge(at, 0, self.elementwise(counts.len() * n), *n, 0.0)?;
                        Ok(Planned::MeanOfIds { id: s.id.clone(), of: s.of.clone() })
                    }
                }
            }
            Step::Scale(s) => {
                let n = self.vectors(&s.a, &format!("{at}.a"))?;
                if let Some(per) = &s.per {
                    let m = self.vectors(per, &format!("{at}.per"))?;
                    if m != n {
                        return refuse(format!("{at}.per"), format!("has {m} vectors, {:?} has {n}", s.a));
                    }
                }
                let coef = coefficient(s.coef, &format!("{at}.coef"))?;
                self.name(&s.id, &id_at, Value::Vectors(n))?;
                self.charge(at, 0, self.elementwise(2 * n), n, 0.0)?;
                Ok(Planned::Scale { id: s.id.clone(), a: s.a.clone(), coef, per: s.per.clone() })
            }
            Step::UnembedTopk(s) => {
                let n = self.vectors(&s.a, &format!("{at}.a"))?;
                if s.k == 0 || s.k > MOST_TOP.min(outline.architecture.vocab_size) {
                    let most = MOST_TOP.min(outline.architecture.vocab_size);
                    return refuse(format!("{at}.k"), format!("is {}; 1 to {most} are allowed", s.k));
                }
                self.name(&s.id, &id_at, Value::Words)?;
                // A token with its logit, and as text.
                self.charge(at, 0, n as f64 * outline.architecture.head_flops(), 0, (n * s.k * 64) as f64)?;
                Ok(Planned::Unembed { id: s.id.clone(), a: s.a.clone(), k: s.k })
            }
            Step::Generate(s) => {
                let adapters = self.adapters(&s.model, at)?;
                let tokens = self.input(&s.input, at)?;
                let inject = self.puts(&s.inject, &s.input, at)?;
                let sample = &s.sample;
                let at = format!("{at}.sample");
                if !(0.0..=MOST_TEMPERATURE).contains(&sample.t) {
                    return refuse(
                        format!("{at}.t"),
                        format!("is {}; 0 to {MOST_TEMPERATURE} is allowed", sample.t),
                    );
                }
                if !(sample.p > 0.0 && sample.p <= 1.0) {
                    return refuse(
                        format!("{at}.p"),
                        format!("is {}; above 0, up to 1 is allowed", sample.p),
                    );
                }
                if sample.k as usize > outline.architecture.vocab_size {
                    return refuse(format!("{at}.k"), format!("is {}, more than the vocabulary", sample.k));
                }
                let room = outline.architecture.context - tokens.len();
                if sample.max == 0 || sample.max > MOST_NEW_TOKENS.min(room) {
                    let most = MOST_NEW_TOKENS.min(room);
                    return refuse(
                        format!("{at}.max"),
                        format!("is {}; 1 to {most} are allowed here", sample.max),
                    );
                }
                self.name(&s.id, &id_at, Value::Words)?;
                let n = tokens.len() + sample.max;
                let flops = outline.architecture.pass_flops(n, outline.architecture.layers.len())
                    + sample.max as f64 * outline.architecture.head_flops();
                // Keys and values, of the prompt twice: replies grow copies of it.
                self.charge(&at, n, flops, 0, outline.cache_bytes(n + tokens.len()))?;
                Ok(Planned::Generate {
                    id: s.id.clone(),
                    tokens,
                    adapters,
                    inject,
                    sampling: Sampling { temperature: sample.t, top_k: sample.k, top_p: sample.p },
                    max: sample.max,
                    seed: sample.seed,
                })
            }
        }
    }
}

fn few(n: usize, at: &str) -> Result<()> {
    if n > MOST_PARTS { refuse(at, format!("has {n} entries; {MOST_PARTS} are allowed")) } else { Ok(()) }
}

/// How many positions [`positions`] would name at most.
fn count(pos: &Positions, input: &Tokens) -> usize {
    match pos {
        Positions::At(list) => list.len(),
        Positions::Last(n) => *n.min(&input.tokens.len()),
        _ => input.tokens.len(),
    }
}

fn coefficient(coef: f64, at: &str) -> Result<f32> {
    if coef.is_finite() && coef.abs() <= MOST_COEF {
        Ok(coef as f32)
    } else {
        refuse(at, format!("is {coef}; at most {MOST_COEF} in magnitude is allowed"))
    }
}

fn positions(pos: &Positions, input: &Tokens, at: &str) -> Result<Vec<usize>> {
    let len = input.tokens.len();
    let found: Vec<usize> = match pos {
        Positions::All => (0..len).collect(),
        Positions::Slots if input.slots.is_empty() => {
            return refuse(at, "the input is no question: it has no slots");
        }
        Positions::Slots => input.slots.iter().flat_map(|(_, slots)| slots.clone()).collect(),
        Positions::SlotsOf(layer) => match input.slots.iter().find(|(l, _)| l == layer) {
            Some((_, slots)) => slots.clone(),
            None => return refuse(at, format!("the input has no slots for layer {layer}")),
        },
        Positions::Last(n) if *n <= len => (len - n..len).collect(),
        Positions::Last(n) => return refuse(at, format!("asks for the last {n} of {len} tokens")),
        Positions::Range(a, b) if a < b && *b <= len => (*a..*b).collect(),
        Positions::Range(a, b) => return refuse(at, format!("asks for {a} up to {b} of {len} tokens")),
        Positions::At(list) => {
            if list.windows(2).any(|w| w[0] >= w[1]) || list.last().is_some_and(|p| *p >= len) {
                return refuse(at, format!("must rise and stay below {len}"));
            }
            list.clone()
        }
    };
    if found.is_empty() { refuse(at, "names no token") } else { Ok(found) }
}

/// The spec with depths as layers; other defaults are filled in when it is read.
fn canonical(spec: &Spec, outline: &Outline) -> Spec {
    let mut spec = spec.clone();
    let collects =
        spec.steps.iter_mut().filter_map(|s| if let Step::Forward(f) = s { Some(f) } else { None });
    for collect in collects.flat_map(|f| &mut f.collect) {
        let blocks = outline.architecture.layers.len() as f64;
        collect.layer = collect.layer.or(collect.depth.map(|d| (blocks * d) as usize));
        collect.depth = None;
    }
    spec
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

fn digest(spec: &Spec, c: &Checker<'_>, outline: &Outline) -> String {
    let inputs: BTreeMap<&str, serde_json::Value> = c
        .inputs
        .iter()
        .map(|(name, input)| {
            let bytes: Vec<u8> = input.tokens.iter().flat_map(|t| t.to_le_bytes()).collect();
            (*name, json!({"sha256": hex(&Sha256::digest(&bytes)), "slots": input.slots}))
        })
        .collect();
    let whole = json!({"v": spec.v, "inputs": inputs, "vectors": spec.vectors, "steps": spec.steps, "out": spec.out,
        "base": outline.digest()});
    let mut hasher = Sha256::new();
    hasher.update(b"spec-v1\0");
    hasher.update(registry::canonical_json(&whole).as_bytes());
    hex(&hasher.finalize())
}
