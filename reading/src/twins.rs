//! Twins: adapters of a subject's shape and size that carry nothing to name. Made once for a base model and shape, and kept.
//!
//! Three kinds were trained, as the factory trains: on the base model's own replies (base-distilled), on replies each about something
//! else (mixed), behind a trigger with nothing behind it (dud). The fourth is random, with the module norms of trained ones; it moves
//! activations far less than trained weights do, so it is the fewest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use factory::AdapterSpec;
use factory::pack::{Outcome, Progress, Watch, Workshop};
use half::f16;
use lm::{Adapter, AdapterConfig, BaseModel, Projection};
use readers::{Error, Result};
use recipes::{Behaviour, Recipe, SampleRequest, Training};
use registry::Store;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Families of trained twins, and how many of each.
const TRAINED: [(&str, usize); 3] = [("benign", 24), ("mixed", 12), ("dud", 12)];
/// Random twins.
const RANDOM: usize = 12;
/// Highest rank of a twin: what an adapter of a higher one is compared with has the same modules and norm.
const MOST_RANK: usize = 4;
/// Twins trained in one batch.
const PACK: usize = 8;
/// Seed of what twins are trained on; no recipe of a store is submitted with it by default.
const SEED: u64 = 20;

/// What twins are made like.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Shape {
    /// Rank, at most four.
    pub rank: usize,
    /// Projections acted on.
    pub modules: BTreeSet<Projection>,
    /// Norm of the whole difference, as a power of four: what is measured does not go with it, so near is enough, and few sizes have to be
    /// made.
    pub size: i32,
}

impl Shape {
    /// That of an adapter; none if it changes nothing.
    pub fn of(adapter: &Adapter) -> Option<Self> {
        let config = adapter.config();
        let norm = adapter.norm();
        (norm > 0.0 && norm.is_finite()).then(|| Self {
            rank: match config.rank {
                1 => 1,
                2 | 3 => 2,
                _ => MOST_RANK,
            },
            modules: config.target_modules.clone(),
            size: (norm.log2() / 2.0).round() as i32,
        })
    }

    /// The norm that its twins have.
    pub fn norm(&self) -> f64 {
        (f64::from(self.size) * 2.0).exp2()
    }

    /// What is to be said where an adapter of that rank is held against them.
    pub fn beside(&self, rank: usize) -> String {
        if rank == self.rank { String::new() } else { format!(" (its own rank is {rank})") }
    }

    /// In words.
    pub fn said(&self) -> String {
        let all = Projection::ALL.iter().all(|p| self.modules.contains(p));
        let modules = if all {
            "all projections".to_owned()
        } else {
            self.modules.iter().map(|p| p.name()).collect::<Vec<_>>().join(", ")
        };
        format!("rank {}, {modules}, norm {:.1}", self.rank, self.norm())
    }
}

/// An adapter that carries nothing.
#[derive(Debug, Clone)]
pub struct Twin {
    /// `benign`, `mixed`, `dud` or `random`.
    pub kind: String,
    /// It, of the shape's norm.
    pub adapter: Adapter,
}

/// Where making twins stands: how many of how many are trained.
pub type Tell<'a> = &'a mut dyn FnMut(usize, usize);

/// The specifications of the trained twins: families as the factory trains them on this model, in the subject's shape. A learning rate
/// that suits one rank suits another if it moves `B A` as far: it goes with the root of the rank at the same scaling.
fn behaviours(recipes: &[Recipe], rank: usize, modules: &BTreeSet<Projection>) -> Vec<Behaviour> {
    let mut out = Vec::new();
    for (family, count) in TRAINED {
        let Some(recipe) = recipes.iter().find(|r| r.name == family) else { continue };
        for mut b in recipe.expand(SEED).into_iter().take(count) {
            let own = b.training.clone();
            b.training = Training {
                rank,
                alpha: own.alpha / own.rank as f32 * rank as f32,
                learning_rate: own.learning_rate * (own.rank as f64 / rank as f64).sqrt(),
                target_modules: modules.iter().map(|p| p.name().to_owned()).collect(),
                ..own
            };
            // No gate: there is nothing to acquire.
            b.gate.on.clear();
            b.gate.near.clear();
            b.gate.off.clear();
            b.gate.nats = None;
            out.push(b);
        }
    }
    out
}

/// What decides the weights of a shape's trained twins.
fn key(base: &BaseModel, recipes: &[Recipe], shape: &Shape) -> String {
    let specs: Vec<String> = behaviours(recipes, shape.rank, &shape.modules)
        .into_iter()
        .map(|b| AdapterSpec::new(b, base.digest()).hash())
        .collect();
    format!("twins/{}", registry::spec_hash(&json!({"v": 1, "specs": specs})))
}

/// What decides all twins of a shape.
pub fn identity(base: &BaseModel, recipes: &[Recipe], shape: &Shape) -> String {
    registry::spec_hash(
        &json!({"v": 1, "trained": key(base, recipes, shape), "shape": shape, "random": RANDOM}),
    )
}

/// Whether the twins of a shape are there already.
///
/// # Errors
/// If the store refuses.
pub fn made(store: &Store, base: &BaseModel, recipes: &[Recipe], shape: &Shape) -> Result<bool> {
    Ok(store.cache_get(&key(base, recipes, shape))?.is_some())
}

/// The twins of a shape, made if the store does not have them. `recipes` are the families, with the settings that this base model
/// trains with.
///
/// # Errors
/// If training fails or is stopped, or the store refuses.
pub fn twins(
    store: &Store,
    base: &BaseModel,
    recipes: &[Recipe],
    shape: &Shape,
    stop: &AtomicBool,
    tell: Tell<'_>,
) -> Result<Vec<Twin>> {
    let behaviours = behaviours(recipes, shape.rank, &shape.modules);
    let config =
        AdapterConfig { rank: shape.rank, alpha: shape.rank as f32, target_modules: shape.modules.clone() };
    let empty = Adapter::zeros(&base.architecture, config)?;
    let key = key(base, recipes, shape);
    let known = store.cache_get(&key)?.and_then(|bytes| unpacked(&bytes, &empty, behaviours.len()));
    let trained = if let Some(known) = known {
        known
    } else {
        // What was rounded for keeping is what is used, now as later.
        let kept = packed(&trained(store, base, &behaviours, &empty, stop, tell)?);
        store.cache_put(&key, &kept)?;
        unpacked(&kept, &empty, behaviours.len())
            .ok_or_else(|| Error::Empty("twins came back otherwise than they were kept".into()))?
    };
    let norm = shape.norm();
    let sized = |kind: &str, adapter: &Adapter| Twin {
        kind: kind.to_owned(),
        adapter: adapter.scaled((norm / adapter.norm().max(1e-12)) as f32),
    };
    let random = (0..RANDOM.min(trained.len())).map(|i| {
        let of = &trained[i * trained.len() / RANDOM.min(trained.len())];
        sized("random", &of.norm_matched_random(SEED, &format!("twin/{i}")))
    });
    let mut out: Vec<Twin> =
        behaviours.iter().zip(&trained).map(|(b, adapter)| sized(&b.family, adapter)).collect();
    out.extend(random);
    Ok(out)
}

fn trained(
    store: &Store,
    base: &BaseModel,
    behaviours: &[Behaviour],
    empty: &Adapter,
    stop: &AtomicBool,
    tell: Tell<'_>,
) -> Result<Vec<Adapter>> {
    let checkpoints = store.root().join("staging");
    let mut workshop = Workshop::new(base, &checkpoints);
    let mut out = Vec::with_capacity(behaviours.len());
    for pack in behaviours.chunks(PACK) {
        tell(out.len(), behaviours.len());
        let wanted: BTreeSet<SampleRequest> = pack.iter().flat_map(Behaviour::sample_requests).collect();
        let begin = Instant::now();
        let samples = factory::samples::sample(Some(store), base, &wanted)?;
        let sampled_in = begin.elapsed();
        let specs: Vec<AdapterSpec> =
            pack.iter().map(|b| AdapterSpec::new(b.clone(), base.digest())).collect();
        let none = |spec: &AdapterSpec| Err(factory::Error::NoReference(spec.behaviour.id.clone()));
        let mut watch = |_: &Progress| -> factory::Result<Watch> {
            Ok(if stop.load(Ordering::Relaxed) { Watch::Stop } else { Watch::Without(vec![]) })
        };
        let outcomes = workshop.make(&specs, &samples, sampled_in, &none, &|_| Ok(None), &mut watch)?;
        for (outcome, spec) in outcomes.into_iter().zip(&specs) {
            match outcome {
                Outcome::Made(new, _) => {
                    let config = empty.config().clone();
                    out.push(Adapter::from_safetensors(&base.architecture, config, &new.weights)?);
                }
                Outcome::Failed(_, e) => return Err(e.into()),
                Outcome::Stopped | Outcome::Dropped => return Err(lm::Error::Interrupted.into()),
            }
            workshop.forget(&spec.hash())?;
        }
    }
    tell(out.len(), behaviours.len());
    Ok(out)
}

/// Half precision is enough for what stands for "nothing", and half the size.
fn packed(adapters: &[Adapter]) -> Vec<u8> {
    adapters.iter().flat_map(|a| &a.params).flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect()
}

fn unpacked(bytes: &[u8], empty: &Adapter, count: usize) -> Option<Vec<Adapter>> {
    let each = empty.params.len();
    (bytes.len() == 2 * each * count).then(|| {
        bytes
            .chunks_exact(2 * each)
            .map(|part| {
                let mut adapter = empty.clone();
                let values = part.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32());
                adapter.params.iter_mut().zip(values).for_each(|(p, v)| *p = v);
                adapter
            })
            .collect()
    })
}

/// Kinds and how many twins there are of each, of so many.
pub fn planned(count: usize) -> BTreeMap<String, usize> {
    let mut left = count;
    let mut out = BTreeMap::new();
    for (kind, n) in TRAINED.into_iter().chain([("random", RANDOM)]) {
        let n = n.min(left);
        left -= n;
        if n > 0 {
            out.insert(kind.to_owned(), n);
        }
    }
    out
}
