//! What a factory job is: the whole recipe of one adapter's bytes.

use std::collections::BTreeSet;

use lm::Outline;
use recipes::{Behaviour, Kind, Polarity, Recipe, Split};
use registry::{AdapterRecord, Filter, Store};
use serde::{Deserialize, Serialize};

use crate::queue::{Needs, NewJob, Queue, Submitted};
use crate::{Error, Result};

/// Raise it when the same specification would give other bytes.
pub const TRAINER_VERSION: u32 = 6;

/// Everything that decides an adapter's bytes. Its canonical JSON is hashed into the job's identity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterSpec {
    /// `adapter-spec/1`.
    pub schema: String,
    /// The behaviour, self-contained.
    pub behaviour: Behaviour,
    /// [`BaseModel::digest`].
    pub base: String,
    /// [`TRAINER_VERSION`].
    pub trainer_version: u32,
    /// For a random adapter, spec hash of the trained adapter whose norms it takes; for a redrawn one, of the adapter one of
    /// whose factors it keeps.
    pub reference: Option<String>,
}

impl AdapterSpec {
    /// The specification of a behaviour's adapter on a base model.
    pub fn new(behaviour: Behaviour, base_digest: String) -> Self {
        Self {
            schema: "adapter-spec/1".into(),
            behaviour,
            base: base_digest,
            trainer_version: TRAINER_VERSION,
            reference: None,
        }
    }

    /// The job's identity. The recipe's own digest is left out: rows, gate and settings are all in the behaviour, so a
    /// reworded question or comment in the recipe does not make another adapter.
    pub fn hash(&self) -> String {
        let mut spec = self.clone();
        spec.behaviour.recipe_digest = String::new();
        registry::spec_hash(&serde_json::to_value(&spec).expect("invariant: plain data"))
    }
}

/// The kind of job that makes a behaviour's adapter.
pub const ADAPTER_JOB: &str = "adapter";

/// The file of an adapter that holds the recipe it came from, as canonical JSON: what readers are asked about it, and what
/// else it could have been, stay known wherever the adapter goes.
pub const RECIPE_FILE: &str = "recipe.json";

/// Where a submitted recipe waits for its adapters.
pub(crate) fn recipe_key(digest: &str) -> String {
    format!("recipe/{digest}")
}

/// The recipes that these adapters carry, without repeats.
///
/// # Errors
/// If a file is damaged or holds no recipe.
pub fn recipes_of(store: &Store, records: &[AdapterRecord]) -> Result<Vec<Recipe>> {
    let files: BTreeSet<_> = records.iter().filter_map(|r| r.extra_files.get(RECIPE_FILE)).collect();
    files
        .into_iter()
        .map(|digest| Ok(Recipe::from_canonical(RECIPE_FILE, &store.get_blob(digest)?)?))
        .collect()
}

/// How jobs are submitted.
#[derive(Debug, Clone)]
pub struct SubmitOptions {
    /// Higher first.
    pub priority: i64,
    /// Attempts before a job is dead.
    pub max_attempts: i64,
    /// Further tags, for limits.
    pub tags: Vec<String>,
    /// Jobs that all of these wait for.
    pub needs: Vec<Needs>,
    /// Most FLOPs that one adapter may cost ([`crate::static_cost`]).
    pub max_flops: f64,
}

impl Default for SubmitOptions {
    /// A PFLOP for an adapter: some 40 minutes of two cores, a thousand times what the built-in recipes need.
    fn default() -> Self {
        Self { priority: 0, max_attempts: 8, tags: Vec::new(), needs: Vec::new(), max_flops: 1e15 }
    }
}

/// Submits the behaviours of these recipes as jobs. Random and redrawn adapters are given their references among the trained positives of
/// the same submission, or if it has none of the store, by hash, and need them.
///
/// # Errors
/// If random or redrawn adapters are asked for and there is no trained positive to be made from, or an adapter could cost more than the cap; nothing is
/// queued then.
pub fn submit(
    store: &mut Store,
    base: &Outline,
    recipes: &[Recipe],
    behaviours: &[Behaviour],
    options: &SubmitOptions,
    now_ms: i64,
) -> Result<Submitted> {
    hold_to_cap(base, behaviours, options.max_flops)?;
    remember(store, recipes)?;
    let stored = references_in(store, &base.digest(), behaviours)?;
    let jobs = jobs(behaviours, &base.digest(), &stored, options)?;
    Queue::new(store).submit(&jobs, now_ms)
}

/// Refuses behaviours of which one could cost more than `max_flops`.
///
/// # Errors
/// [`Error::TooCostly`].
pub fn hold_to_cap(base: &Outline, behaviours: &[Behaviour], max_flops: f64) -> Result<()> {
    behaviours.iter().try_for_each(|b| crate::cost::within(base, b, max_flops))
}

/// Keeps recipes for the adapters that will carry them.
///
/// # Errors
/// If the store refuses.
pub fn remember(store: &Store, recipes: &[Recipe]) -> Result<()> {
    for recipe in recipes {
        let json = serde_json::to_vec(recipe).expect("invariant: plain data");
        store.cache_put(&recipe_key(&recipe.digest()), &json)?;
    }
    Ok(())
}

/// An adapter that others can be made from: its split, and its specification's hash.
pub type Reference = (Split, String);

fn can_be_made_from(b: &Behaviour) -> bool {
    b.kind == Kind::Trained && b.polarity == Polarity::Positive
}

/// The store's adapters that random and redrawn ones among `behaviours` can be made from; none is looked for where the submission
/// itself has some.
///
/// # Errors
/// If the store refuses.
pub fn references_in(store: &Store, base_digest: &str, behaviours: &[Behaviour]) -> Result<Vec<Reference>> {
    let made_from_others = |b: &Behaviour| matches!(b.kind, Kind::Random | Kind::Redrawn);
    if !behaviours.iter().any(made_from_others) || behaviours.iter().any(can_be_made_from) {
        return Ok(Vec::new());
    }
    let made = store.adapters(&Filter::all().equals("role", "weight_diff"))?;
    let of = |record: AdapterRecord| -> Option<Reference> {
        // Of the factory's own making, and no member of a sweep: a twin has the family's shape.
        let spec: AdapterSpec = serde_json::from_value(record.spec).ok()?;
        let fits = spec.base == base_digest && spec.behaviour.variant.is_empty();
        (fits && can_be_made_from(&spec.behaviour)).then_some((spec.behaviour.split, record.spec_hash))
    };
    Ok(made.into_iter().filter_map(of).collect())
}

/// The jobs of these behaviours, what others need first. `stored` are references for where the behaviours hold none.
///
/// # Errors
/// If random or redrawn adapters are asked for and there is no trained positive to be made from.
pub fn jobs(
    behaviours: &[Behaviour],
    base_digest: &str,
    stored: &[Reference],
    options: &SubmitOptions,
) -> Result<Vec<NewJob>> {
    let specs = specs(behaviours, base_digest, stored)?;
    let mut jobs: Vec<NewJob> = specs
        .iter()
        .map(|spec| NewJob {
            spec_hash: spec.hash(),
            spec: serde_json::to_value(spec).expect("invariant: plain data"),
            kind: ADAPTER_JOB.into(),
            label: spec.behaviour.id.clone(),
            family: spec.behaviour.family.clone(),
            tags: options.tags.clone(),
            base: spec.base.clone(),
            pack_key: format!("{}|{:?}|{}", spec.base, spec.behaviour.kind, spec.behaviour.training.steps),
            priority: options.priority,
            max_attempts: options.max_attempts,
            needs: spec
                .reference
                .iter()
                .map(|r| Needs { spec_hash: r.clone(), only_ok: true })
                .chain(options.needs.iter().cloned())
                .collect(),
        })
        .collect();
    jobs.sort_by_key(|j| j.needs.len());
    Ok(jobs)
}

/// The specifications of a set of behaviours, in their order. `stored` are references for where they hold none.
///
/// # Errors
/// If random or redrawn adapters are asked for and there is no trained positive to be made from.
pub fn specs(behaviours: &[Behaviour], base_digest: &str, stored: &[Reference]) -> Result<Vec<AdapterSpec>> {
    let make = |b: &Behaviour| AdapterSpec::new(b.clone(), base_digest.to_owned());
    let own: Vec<Reference> =
        behaviours.iter().filter(|b| can_be_made_from(b)).map(|b| (b.split, make(b).hash())).collect();
    let references = if own.is_empty() { stored } else { &own };
    behaviours
        .iter()
        .map(|b| {
            let mut spec = make(b);
            if matches!(b.kind, Kind::Random | Kind::Redrawn) {
                // Of a redrawn one half is the reference's own: it may not be in training while the other is in the test.
                let fits = |split: Split| b.kind == Kind::Random || split == b.split;
                let references: Vec<&String> =
                    references.iter().filter(|(split, _)| fits(*split)).map(|(_, hash)| hash).collect();
                if references.is_empty() {
                    let of = if b.kind == Kind::Random {
                        String::new()
                    } else {
                        format!(" of the split {}", b.split.name())
                    };
                    return Err(Error::NoReference(format!(
                        "{} needs a trained adapter{of} to be made from, in the same submission or in the store",
                        b.id
                    )));
                }
                // Whichever hashes highest with this adapter: another submission with the same winner makes the same job.
                let score =
                    |r: &String| blake3::hash(format!("{}|{r}", b.id).as_bytes()).to_hex().to_string();
                spec.reference = references.into_iter().max_by_key(|r| score(r)).cloned();
            }
            Ok(spec)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(name: &str, counts: [usize; 4]) -> Vec<Behaviour> {
        let recipe = recipes::builtin().into_iter().find(|r| r.name == name).unwrap();
        recipes::select(recipe.expand(1), counts)
    }

    #[test]
    fn a_redrawn_adapter_is_made_from_one_of_its_own_split() {
        let all = [some("topic", [6, 3, 4, 2]), some("redrawn", [9, 3, 6, 0]), some("random", [2, 0, 0, 0])]
            .concat();
        let made = specs(&all, "base", &[]).unwrap();
        let split_of = |hash: &str| made.iter().find(|s| s.hash() == hash).map(|s| s.behaviour.split);
        let of_kind = |kind: Kind| made.iter().filter(move |s| s.behaviour.kind == kind);
        assert_eq!(of_kind(Kind::Redrawn).count(), 18);
        for spec in of_kind(Kind::Redrawn) {
            assert_eq!(split_of(spec.reference.as_deref().unwrap()), Some(spec.behaviour.split));
        }
        assert!(of_kind(Kind::Random).all(|s| s.reference.is_some()));
        assert!(of_kind(Kind::Trained).all(|s| s.reference.is_none()));
        let without = [some("topic", [6, 0, 0, 0]), some("redrawn", [0, 0, 1, 0])].concat();
        let error = specs(&without, "base", &[]).unwrap_err().to_string();
        assert!(error.contains("of the split test_value"), "{error}");
        // Of the store's only where the submission has none.
        let stored = [(Split::TestValue, "h".to_owned())];
        let alone = specs(&some("redrawn", [0, 0, 1, 0]), "base", &stored).unwrap();
        assert_eq!(alone[0].reference.as_deref(), Some("h"));
        assert!(specs(&some("random", [1, 0, 0, 0]), "base", &[]).is_err());
        assert_eq!(specs(&all, "base", &stored).unwrap(), made);
    }
}
