//! Finding the training settings of a recipe on another base model: a learning rate and a number of steps belong to the model that
//! they were found on.
//!
//! A grid of settings ([`grid`]) is tried on a few behaviours of the validation split, never on one that readers are tested on. All
//! adapters of a setting are trained as packs on the shared frozen base and pass the same gate as a factory's; they live in memory
//! only, and none reaches the catalogue. Every behaviour has one seed, from a named stream, in all settings: settings differ by what
//! they say and by nothing else. What a setting came to is remembered in the store by what decides it, so that a search that was
//! stopped goes on where it was. The choice ([`rule`]) looks at no clock.

mod damage;
pub mod grid;
pub mod rule;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use lm::{BaseModel, Outline, rng};
use rand::RngCore;
use recipes::settings::{ForRecipe, Found, SETTINGS_SCHEMA, Tried};
use recipes::{Behaviour, Recipe, SampleRequest, Settings, Split, Training};
use registry::{Status, Store};

pub(crate) use self::damage::Undisturbed;
pub use self::grid::{Axes, Setting, around, coarse};
pub use self::rule::{Figures, Trial, choose, promising};
use crate::gate::{Floors, GateResult, gate};
use crate::samples::sample;
use crate::settings::{is_tunable, on_model};
use crate::train::{Apprentice, step};
use crate::{AdapterSpec, Error, Result, StaticCost, static_cost};

/// Settings of a coarse grid.
const MOST_SETTINGS: usize = 200;

/// How a search is made.
#[derive(Debug, Clone)]
pub struct Options {
    /// Behaviours that every setting is tried on.
    pub behaviours: usize,
    /// Master seed.
    pub seed: u64,
    /// Adapters trained in one batch.
    pub pack: usize,
    /// What replaces the default grid.
    pub axes: Axes,
    /// Whether the search goes on around the best of the coarse grid.
    pub around: bool,
    /// Most FLOPs that one adapter may cost.
    pub max_flops: f64,
    /// Recipes that get the same settings: negatives that are to be told from this family by what they carry, not by how they were
    /// trained.
    pub also: Vec<Recipe>,
}

/// A search: what will be tried on what.
#[derive(Debug, Clone)]
pub struct Search {
    /// The recipe, with its own settings.
    pub recipe: Recipe,
    /// The behaviours, of the validation split.
    pub behaviours: Vec<Behaviour>,
    /// The coarse grid.
    pub coarse: Vec<Setting>,
    own: Training,
    pack: usize,
    around: bool,
    seed: u64,
    max_flops: f64,
    also: Vec<Recipe>,
}

/// Where a search stands.
#[derive(Debug)]
pub enum Event<'a> {
    /// A step of a setting's training.
    Step {
        /// What is tried.
        setting: &'a Setting,
        /// Which of the settings it is, from 1.
        number: usize,
        /// How many there are, as far as is known.
        of: usize,
        /// Steps taken.
        step: usize,
        /// Mean loss of the pack.
        loss: f64,
        /// Training tokens a second since the search began.
        tokens_per_sec: f64,
        /// Seconds to the end, at the rate so far.
        seconds_left: f64,
    },
    /// A setting is through.
    Tried {
        /// The setting and what came of it.
        trial: &'a Trial,
        /// Which of the settings it is, from 1.
        number: usize,
        /// How many there are, as far as is known.
        of: usize,
        /// Whether that was known from an earlier search.
        known: bool,
    },
}

/// What a search found.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// All settings that were tried, in order.
    pub trials: Vec<Trial>,
    /// The one that is chosen; none if no behaviour learned anything.
    pub chosen: Option<usize>,
    /// Whether it was stopped before its end.
    pub stopped: bool,
}

impl Search {
    /// A search for a recipe's settings on a model. Of the model only its outline is looked at.
    ///
    /// # Errors
    /// If the recipe carries nothing to learn or has no behaviour of the validation split, or a setting is out of range or could
    /// cost more than the cap.
    pub fn new(outline: &Outline, recipe: &Recipe, options: &Options) -> Result<Self> {
        let wrong = |what: String| Err(Error::Untunable { recipe: recipe.name.clone(), what });
        let Some(own) = recipe.training.clone().filter(|_| is_tunable(recipe)) else {
            return wrong(
                "its adapters carry no behaviour, so no setting of theirs is better than another; tune the family that they are compared with, and give them the same (recipe tune FAMILY --also)".into(),
            );
        };
        let mut behaviours = recipes::select(recipe.expand(options.seed), [0, options.behaviours, 0, 0]);
        if behaviours.is_empty() {
            return wrong("no value of it is of the validation split; raise splits.validation".into());
        }
        debug_assert!(behaviours.iter().all(|b| b.split == Split::Validation));
        for b in &mut behaviours {
            b.seed = rng::stream(options.seed, "recipe-tune", &b.id).next_u64();
        }
        let mut names = BTreeSet::from([&recipe.name]);
        if let Some(twice) = options.also.iter().find(|r| !names.insert(&r.name)) {
            return wrong(format!("{:?} is given twice", twice.name));
        }
        let coarse = coarse(&own, &options.axes);
        if coarse.len() > MOST_SETTINGS {
            return wrong(format!("{} settings are more than {MOST_SETTINGS}", coarse.len()));
        }
        let search = Self {
            recipe: recipe.clone(),
            behaviours,
            coarse,
            own,
            pack: options.pack.max(1),
            around: options.around,
            seed: options.seed,
            max_flops: options.max_flops,
            also: options.also.clone(),
        };
        search.coarse.iter().try_for_each(|setting| search.check(outline, setting))?;
        Ok(search)
    }

    /// Refuses a setting that is out of range or could cost more than the cap.
    fn check(&self, outline: &Outline, setting: &Setting) -> Result<()> {
        let settings = self.settings(outline, setting, None);
        for recipe in std::iter::once(&self.recipe).chain(&self.also) {
            settings.put_into("the grid", recipe)?;
        }
        crate::hold_to_cap(outline, &self.with(setting), self.max_flops)
    }

    /// How many settings are tried at most after the coarse ones.
    pub fn further(&self) -> usize {
        if self.around { 6 } else { 0 }
    }

    /// What an adapter of this setting costs at most: the mean over the behaviours.
    ///
    /// # Errors
    /// If a text cannot be tokenised.
    pub fn cost(&self, outline: &Outline, setting: &Setting) -> Result<StaticCost> {
        let mut sum = StaticCost::default();
        for b in self.with(setting) {
            let one = static_cost(outline, &b)?;
            sum.train_tokens += one.train_tokens;
            sum.reply_tokens += one.reply_tokens;
            sum.flops += one.flops;
        }
        let n = self.behaviours.len() as f64;
        Ok(StaticCost {
            train_tokens: sum.train_tokens / n,
            reply_tokens: sum.reply_tokens / n,
            flops: sum.flops / n,
        })
    }

    /// Tries all settings. `watch` hears of every step; the search ends early when `stop` is set, and what was tried by then is
    /// remembered in the store.
    ///
    /// # Errors
    /// If the model or the store refuses. A training that goes wrong is no error: its setting is not learned.
    pub fn run(
        &self,
        store: &Store,
        base: &BaseModel,
        stop: &AtomicBool,
        watch: &mut dyn FnMut(&Event<'_>),
    ) -> Result<Outcome> {
        let mut bench = Bench::new(self, store, base)?;
        let mut out = Outcome { trials: Vec::new(), chosen: None, stopped: false };
        let mut left = self.coarse.clone();
        let mut coarse_only = true;
        loop {
            for (i, setting) in left.iter().enumerate() {
                let ahead = if coarse_only { self.further() } else { 0 };
                let place = Place { number: out.trials.len() + 1, left: &left[i + 1..], ahead };
                let Some(trial) = bench.tried(setting, place, stop, watch)? else {
                    out.stopped = true;
                    return Ok(out);
                };
                out.trials.push(trial);
            }
            let Some(centre) = promising(&out.trials).filter(|_| coarse_only && self.around) else { break };
            coarse_only = false;
            let known: Vec<Setting> = out.trials.iter().map(|t| t.setting).collect();
            let most_rows = self.recipe.rows.as_ref().map_or(usize::MAX, |r| r.count);
            left = around(known[centre], &self.own, most_rows, &known);
            left.retain(|setting| self.check(base, setting).is_ok());
        }
        out.chosen = choose(&out.trials);
        Ok(out)
    }

    /// The settings file of what a search found; none if nothing was learned.
    pub fn file(&self, outline: &Outline, outcome: &Outcome, when: &str, lorafab: &str) -> Option<Settings> {
        let chosen = &outcome.trials[outcome.chosen?];
        let tried = |t: &Trial| Tried {
            setting: t.setting.overrides(),
            learned: t.figures.learned,
            gate: thousandths(t.figures.gate),
            leak: t.figures.leak.map(thousandths),
            leak_nats: t.figures.leak_nats.map(thousandths),
            damage: t.figures.damage.map(thousandths),
            tokens: thousandths(t.figures.tokens),
            seconds: thousandths(t.figures.seconds),
        };
        let found = Found {
            when: when.to_owned(),
            lorafab: lorafab.to_owned(),
            precision: outline.precision.name().to_owned(),
            seed: self.seed,
            behaviours: self.behaviours.len(),
            tried: outcome.trials.iter().map(tried).collect(),
        };
        Some(self.settings(outline, &chosen.setting, Some(found)))
    }

    fn settings(&self, outline: &Outline, setting: &Setting, found: Option<Found>) -> Settings {
        let of = |recipe: &Recipe, found| ForRecipe {
            name: recipe.name.clone(),
            version: recipe.version,
            training: setting.overrides(),
            found,
        };
        let first = of(&self.recipe, found);
        let recipes = std::iter::once(first).chain(self.also.iter().map(|r| of(r, None))).collect();
        Settings { schema: SETTINGS_SCHEMA.into(), model: on_model(outline), recipes }
    }

    /// The behaviours, to be trained with a setting.
    fn with(&self, setting: &Setting) -> Vec<Behaviour> {
        let mut behaviours = self.behaviours.clone();
        for b in &mut behaviours {
            setting.overrides().put_into(&mut b.training);
        }
        behaviours
    }
}

fn thousandths(x: f64) -> f64 {
    (x * 1e3).round() / 1e3
}

/// Where a setting stands in its search.
#[derive(Clone, Copy)]
struct Place<'a> {
    number: usize,
    /// Those that come after it.
    left: &'a [Setting],
    /// How many more may come after those.
    ahead: usize,
}

impl Place<'_> {
    fn of(&self) -> usize {
        self.number + self.left.len() + self.ahead
    }
}

/// What settings are tried with.
struct Bench<'a> {
    search: &'a Search,
    store: &'a Store,
    base: &'a BaseModel,
    samples: BTreeMap<SampleRequest, String>,
    floors: Floors,
    undisturbed: Undisturbed,
    begin: Instant,
    /// Training tokens so far.
    tokens: u64,
    /// Rows trained on so far, all adapters together: what is left is reckoned in them.
    rows: f64,
}

impl<'a> Bench<'a> {
    fn new(search: &'a Search, store: &'a Store, base: &'a BaseModel) -> Result<Self> {
        let begin = Instant::now();
        let wanted: BTreeSet<SampleRequest> =
            search.behaviours.iter().flat_map(Behaviour::sample_requests).collect();
        let samples = sample(Some(store), base, &wanted)?;
        let (floors, undisturbed) = (Floors::default(), Undisturbed::default());
        Ok(Self { search, store, base, samples, floors, undisturbed, begin, tokens: 0, rows: 0.0 })
    }

    /// Tries one setting, or finds what came of it before. None if it was stopped.
    fn tried(
        &mut self,
        setting: &Setting,
        place: Place<'_>,
        stop: &AtomicBool,
        watch: &mut dyn FnMut(&Event<'_>),
    ) -> Result<Option<Trial>> {
        let behaviours = self.search.with(setting);
        let digest = self.base.digest();
        let specs: Vec<String> =
            behaviours.iter().map(|b| AdapterSpec::new(b.clone(), digest.clone()).hash()).collect();
        let key = registry::spec_hash(&serde_json::json!({"schema": "tune-trial/1", "adapters": specs}));
        let key = format!("tune/{key}");
        let before = self.store.cache_get(&key)?;
        let before = before.and_then(|bytes| serde_json::from_slice::<Figures>(&bytes).ok());
        let known = before.is_some();
        let figures = match before {
            Some(figures) => figures,
            None => match self.figures(setting, &behaviours, place, stop, watch)? {
                Some(figures) => figures,
                None => return Ok(None),
            },
        };
        if !known {
            self.store.cache_put(&key, &serde_json::to_vec(&figures).expect("invariant: plain data"))?;
        }
        let trial = Trial { setting: *setting, figures };
        watch(&Event::Tried { trial: &trial, number: place.number, of: place.of(), known });
        Ok(Some(trial))
    }

    fn figures(
        &mut self,
        setting: &Setting,
        behaviours: &[Behaviour],
        place: Place<'_>,
        stop: &AtomicBool,
        watch: &mut dyn FnMut(&Event<'_>),
    ) -> Result<Option<Figures>> {
        let (begin, before) = (Instant::now(), self.tokens);
        let mut tally = Tally::default();
        let work = |s: &Setting| (s.steps * s.rows() * behaviours.len()) as f64;
        // Those that nobody knows yet are taken for as long as this one.
        let later = place.left.iter().map(work).sum::<f64>() + place.ahead as f64 * work(setting);
        let done = self.rows;
        for pack in behaviours.chunks(self.search.pack) {
            let mut members = pack
                .iter()
                .map(|b| Apprentice::new(self.base, b.clone(), &self.samples))
                .collect::<Result<Vec<_>>>()?;
            let mut seen = 0u64;
            while members.iter().any(|m| !m.done()) {
                if stop.load(Ordering::Relaxed) {
                    return Ok(None);
                }
                let mut active: Vec<&mut Apprentice> = members.iter_mut().collect();
                for (at, _) in step(self.base, &mut active)?.into_iter().rev() {
                    seen -= members.remove(at).tokens;
                    tally.broken += 1;
                }
                let tokens: u64 = members.iter().map(|m| m.tokens).sum();
                self.tokens += tokens.saturating_sub(seen);
                seen = tokens;
                self.rows += (members.len() * setting.rows()) as f64;
                let taken = members.iter().map(|m| m.trainer.step()).max().unwrap_or_default();
                let elapsed = self.begin.elapsed().as_secs_f64();
                let left = later + (work(setting) - (self.rows - done)).max(0.0);
                watch(&Event::Step {
                    setting,
                    number: place.number,
                    of: place.of(),
                    step: taken,
                    loss: members.iter().map(Apprentice::last_loss).sum::<f64>()
                        / members.len().max(1) as f64,
                    tokens_per_sec: self.tokens as f64 / elapsed.max(1e-9),
                    seconds_left: elapsed / self.rows.max(1.0) * left,
                });
            }
            let subjects: Vec<_> = members.iter().map(|m| (&m.behaviour, &m.trainer.adapter)).collect();
            let gates = gate(self.base, &subjects, &mut self.floors)?;
            let damage = self.undisturbed.damage(self.base, &subjects)?;
            for (gate, damage) in gates.iter().zip(damage) {
                tally.add(gate, damage);
            }
        }
        // What stopped early has done its work.
        self.rows = done + work(setting);
        let n = behaviours.len() as f64;
        Ok(Some(Figures {
            tokens: (self.tokens - before) as f64 / n,
            seconds: begin.elapsed().as_secs_f64() / n,
            ..tally.figures()
        }))
    }
}

/// Sums over a setting's behaviours.
#[derive(Default)]
struct Tally {
    gated: usize,
    broken: usize,
    learned: usize,
    on: f64,
    floor: f64,
    leak: Mean,
    leak_nats: Mean,
    damage: Mean,
}

#[derive(Default)]
struct Mean {
    sum: f64,
    n: usize,
}

impl Mean {
    fn add(&mut self, x: Option<f64>) {
        if let Some(x) = x {
            self.sum += x;
            self.n += 1;
        }
    }

    fn value(&self) -> Option<f64> {
        (self.n > 0).then(|| self.sum / self.n as f64)
    }
}

impl Tally {
    fn add(&mut self, gate: &GateResult, damage: Option<f64>) {
        let largest = |of: &[Option<f64>]| of.iter().copied().flatten().reduce(f64::max);
        let nats = gate.nats.map(|n| [n.neutral, n.questions, n.factual]).unwrap_or_default();
        // Outputs that are no numbers show nothing, whatever the gate made of them.
        if nats.iter().chain([&damage]).flatten().any(|x| !x.is_finite()) {
            self.broken += 1;
            return;
        }
        self.gated += 1;
        self.learned += usize::from(gate.status == Status::Learned);
        self.on += gate.on;
        self.floor += gate.floor;
        self.leak.add(largest(&[gate.near, gate.off]));
        self.leak_nats.add(largest(&nats));
        self.damage.add(damage);
    }

    fn figures(&self) -> Figures {
        let n = (self.gated + self.broken).max(1) as f64;
        Figures {
            behaviours: self.gated + self.broken,
            learned: self.learned,
            broken: self.broken,
            gate: self.on / n,
            floor: self.floor / self.gated.max(1) as f64,
            leak: self.leak.value(),
            leak_nats: self.leak_nats.value(),
            damage: self.damage.value(),
            ..Figures::default()
        }
    }
}
