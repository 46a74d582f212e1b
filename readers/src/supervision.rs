//! What every reader is trained on, stopped by and tested on: the same episodes about the same weight diffs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use factory::load_adapter;
use lm::{Adapter, BaseModel};
use rand::seq::SliceRandom;
use recipes::{Behaviour, Context, Episode, EpisodeOptions, NOTHING, Polarity, Recipe, Split};
use registry::{AdapterRecord, Status, Store};
use serde_json::json;

use crate::made::{carried, newest_of_each, sound, taking_part};
use crate::{Error, Labels, Result};

/// Everything readers share: the model, the diffs and the episodes about them.
#[derive(Debug, Clone)]
pub struct Supervision<'a> {
    /// Base model.
    pub base: &'a BaseModel,
    /// Diffs by behaviour id.
    pub diffs: Arc<BTreeMap<String, Adapter>>,
    /// Their catalogue entries.
    pub records: BTreeMap<String, AdapterRecord>,
    /// Their behaviours.
    pub behaviours: BTreeMap<String, Behaviour>,
    /// Recipes of the families that are asked about: of several of one name, the last.
    pub recipes: BTreeMap<String, Recipe>,
    /// Values of those families: of the recipes that their adapters carry, or where they carry none of the built-in one.
    pub values: BTreeMap<String, BTreeSet<String>>,
    /// Episodes about them, of all splits.
    pub episodes: Vec<Episode>,
    /// Whether this is a smoke run.
    pub smoke: bool,
    /// Adapters that cannot be used, and why; nothing is asked about them.
    pub left_out: Vec<(String, String)>,
}

impl<'a> Supervision<'a> {
    /// Episodes about `made` and their diffs; of those made again by other means, in the test only. `families` limits what is asked about (negatives stay); all if empty.
    ///
    /// # Errors
    /// As [`Supervision::load`]; or if none of `made` is of a family that is named.
    pub fn of_adapters(
        store: &Store,
        base: &'a BaseModel,
        made: Vec<AdapterRecord>,
        families: &[String],
        options: EpisodeOptions,
        smoke: bool,
        seed: u64,
    ) -> Result<Self> {
        let (made, left_out) = sound(store, base, made);
        let recipes = known_recipes(store, &made)?;
        let known: BTreeSet<&String> = recipes.iter().map(|r| &r.name).collect();
        let (behaviours, unasked) = taking_part(made.iter().flat_map(carried).collect(), &known);
        if let Some(unknown) = families.iter().find(|f| !behaviours.iter().any(|b| b.family == **f)) {
            return Err(Error::Empty(format!("the store has no adapters of family {unknown:?}")));
        }
        let asked = |b: &Behaviour| {
            families.is_empty() || families.contains(&b.family) || b.polarity == Polarity::Negative
        };
        let behaviours: Vec<Behaviour> = behaviours.into_iter().filter(asked).collect();
        let list = recipes::episodes(&recipes, &behaviours, seed, options)?;
        let own = Self::load(store, base, made, &behaviours, &recipes, list, smoke)?;
        Ok(Self { left_out: [left_out, unasked, own.left_out].concat(), ..own })
    }

    /// No adapters and no episodes; all recipes that are known, built in and of the store's adapters.
    ///
    /// # Errors
    /// If the store refuses.
    pub fn of_none(store: &Store, base: &'a BaseModel) -> Result<Self> {
        let mut recipes: Vec<Recipe> = recipes::builtin();
        let (made, left_out) = sound(store, base, newest_of_each(store, &base.digest())?);
        recipes.extend(factory::recipes_of(store, &made)?);
        Ok(Self {
            base,
            diffs: Arc::default(),
            records: BTreeMap::new(),
            behaviours: BTreeMap::new(),
            recipes: recipes.into_iter().map(|r| (r.name.clone(), r)).collect(),
            values: BTreeMap::new(),
            episodes: vec![],
            smoke: false,
            left_out,
        })
    }

    /// Loads the diffs of `made` that `episodes` are about. Adapters that failed their gate are kept out of training (they do not
    /// do what their label says) but stay in the test splits, where they are reported as they are. A smoke run keeps all.
    ///
    /// # Errors
    /// If there is nothing to train on, nothing to decide when to stop, or an adapter is damaged.
    pub fn load(
        store: &Store,
        base: &'a BaseModel,
        made: Vec<AdapterRecord>,
        behaviours: &[Behaviour],
        recipes: &[Recipe],
        episodes: Vec<Episode>,
        smoke: bool,
    ) -> Result<Self> {
        let wanted: BTreeSet<&str> = episodes.iter().map(|e| e.behaviour.as_str()).collect();
        let mut diffs = BTreeMap::new();
        let mut records = BTreeMap::new();
        let mut left_out = Vec::new();
        for record in made.into_iter().filter(|r| wanted.contains(r.behaviour.as_str())) {
            match load_adapter(store, base, &record) {
                Ok(adapter) => {
                    diffs.insert(record.behaviour.clone(), adapter);
                    records.insert(record.behaviour.clone(), record);
                }
                // One bad adapter stops nobody: a file that is missing, none, or not ours to read is one adapter's. A disk that fails
                // is everybody's.
                Err(factory::Error::Store(registry::Error::Io(e))) if !its_own(e.kind()) => {
                    return Err(registry::Error::Io(e).into());
                }
                Err(e) => left_out.push((record.behaviour, e.to_string())),
            }
        }
        let usable = |e: &Episode| {
            let r: &AdapterRecord = records.get(&e.behaviour)?;
            (smoke || tested(e.split) || r.status != Status::Failed).then_some(())
        };
        let episodes: Vec<Episode> = episodes.into_iter().filter(|e| usable(e).is_some()).collect();
        for (split, what) in [(Split::Train, "train on"), (Split::Validation, "decide by when to stop")] {
            if !episodes.iter().any(|e| e.split == split) {
                return Err(Error::Empty(format!("the store has no adapters to {what}")));
            }
        }
        let asked: BTreeSet<&str> = episodes.iter().map(|e| e.family.as_str()).collect();
        let mut values: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for recipe in recipes {
            values.entry(recipe.name.clone()).or_default().extend(recipe.values_of_family());
        }
        let recipes =
            recipes.iter().filter(|r| asked.contains(r.name.as_str())).map(|r| (r.name.clone(), r.clone()));
        let mut of: BTreeMap<String, Behaviour> = BTreeMap::new();
        for b in behaviours.iter().filter(|b| records.contains_key(&b.id)) {
            // Of a sum, the first part is what it is filed as.
            of.entry(b.id.clone()).or_insert_with(|| b.clone());
        }
        let diffs = Arc::new(diffs);
        Ok(Self {
            base,
            diffs,
            records,
            behaviours: of,
            recipes: recipes.collect(),
            values,
            episodes,
            smoke,
            left_out,
        })
    }

    /// The same with at most so many training adapters of some families: those that a smaller choice of the family takes
    /// ([`recipes::select`]). Those of them that failed their gate teach nothing, as everywhere.
    pub fn limited(&self, at_most: &BTreeMap<String, usize>) -> Self {
        let mut out = self.clone();
        for (family, &most) in at_most {
            let of = |b: &&Behaviour| b.family == *family && b.split == Split::Train;
            let members: Vec<Behaviour> = self.behaviours.values().filter(of).cloned().collect();
            let kept: BTreeSet<String> =
                recipes::select(members.clone(), [most, 0, 0, 0]).into_iter().map(|b| b.id).collect();
            let dropped: BTreeSet<&String> =
                members.iter().map(|b| &b.id).filter(|id| !kept.contains(*id)).collect();
            out.episodes.retain(|e| !dropped.contains(&e.behaviour));
        }
        out
    }

    /// The same without some families where readers are trained, stopped and choices are made: their adapters are asked about in the
    /// test only, and their questions too (the answer to them would be "nothing" throughout). Where a family that stays asks in the same
    /// words, what carries nothing is asked for that family.
    pub fn without(&self, families: &BTreeSet<String>) -> Self {
        let carried = |e: &Episode| self.behaviours.get(&e.behaviour).map(|b| &b.family);
        let kept = |e: Episode| -> Option<Episode> {
            if tested(e.split) {
                return Some(e);
            }
            if carried(&e).is_some_and(|f| families.contains(f)) {
                return None;
            }
            if !families.contains(&e.family) {
                return Some(e);
            }
            let words = &self.recipes.get(&e.family)?.questions.train;
            let same = |r: &&Recipe| !families.contains(&r.name) && r.questions.train == *words;
            let family = self.recipes.values().find(same)?.name.clone();
            Some(Episode { family, ..e })
        };
        Self { episodes: self.episodes.iter().cloned().filter_map(kept).collect(), ..self.clone() }
    }

    /// Episodes of one use.
    pub fn of(&self, split: Split) -> Vec<&Episode> {
        self.episodes.iter().filter(|e| e.split == split).collect()
    }

    /// Test episodes.
    pub fn test(&self) -> Vec<&Episode> {
        self.episodes.iter().filter(|e| tested(e.split)).collect()
    }

    /// The closed set of a family's questions: all its values, trained ones too, and "nothing", which is last.
    pub fn closed_set(&self, family: &str) -> Vec<String> {
        let mut set: Vec<String> = self.values.get(family).into_iter().flatten().cloned().collect();
        set.push(NOTHING.to_owned());
        set
    }

    /// Families that are asked about.
    pub fn families(&self) -> BTreeSet<String> {
        self.episodes.iter().map(|e| e.family.clone()).collect()
    }

    /// Whether a subject can be asked in a context.
    pub fn has_context(&self, subject: &str, context: Context) -> bool {
        self.behaviours.get(subject).is_some_and(|b| match context {
            Context::Told => self.instruction(b).is_some(),
            context => b.in_context("x", context).is_some(),
        })
    }

    /// What the base model is told to do as an adapter does.
    fn instruction(&self, b: &Behaviour) -> Option<String> {
        self.recipes.get(&b.family)?.instruction(b)
    }

    /// Where a subject is read in a context: the user turns in place of `prompts`, and the system prompt that the base model is given in
    /// place of the adapter. None where the subject lacks the context.
    pub fn read_at(
        &self,
        subject: &str,
        prompts: &[String],
        context: Context,
    ) -> Option<(Vec<String>, Option<String>)> {
        if context == Context::Neutral {
            return Some((prompts.to_vec(), None));
        }
        let b = self.behaviours.get(subject)?;
        let told = if context == Context::Told { Some(self.instruction(b)?) } else { None };
        Some((b.read_at(prompts, context)?, told))
    }

    /// Digest of the supervision: the same for every reader trained on it, whatever it is tested on.
    pub fn digest(&self) -> String {
        let used: Vec<&Episode> = self.supervising().collect();
        let weights: BTreeMap<&String, &str> =
            self.supervised().into_keys().map(|k| (k, self.records[k].weights.as_str())).collect();
        registry::spec_hash(&json!({"episodes": used, "weights": weights}))
    }

    /// Episodes that readers are trained on or stopped by.
    pub(crate) fn supervising(&self) -> impl Iterator<Item = &Episode> {
        self.episodes.iter().filter(|e| !tested(e.split))
    }

    /// The answers that those episodes name.
    pub fn labels(&self) -> BTreeSet<String> {
        self.supervising().filter(|e| !e.negative).map(|e| e.answer.clone()).collect()
    }

    /// The diffs that readers are trained on or stopped by.
    pub fn supervised(&self) -> BTreeMap<&String, &Adapter> {
        let names: BTreeSet<&String> = self.supervising().map(|e| &e.behaviour).collect();
        self.diffs.iter().filter(|(k, _)| names.contains(k)).collect()
    }

    /// What a split's adapters are reported under: `test_value`, and for those made again by other means `test_value@rank=4`.
    pub fn section(&self, subject: &str, split: &str) -> String {
        match self.behaviours.get(subject).and_then(Behaviour::remade) {
            Some(how) => format!("{split}@{how}"),
            None => split.to_owned(),
        }
    }

    /// Behaviours of a use that carry something, in order.
    pub fn positives(&self, split: Split) -> BTreeSet<&String> {
        self.of(split).into_iter().filter(|e| !e.negative).map(|e| &e.behaviour).collect()
    }

    /// Ids of the adapters that readers are trained on or stopped by.
    pub fn supervising_ids(&self) -> Vec<String> {
        self.supervised().into_keys().map(|name| self.records[name].id.clone()).collect()
    }

    /// Episodes of a use with their answers as a reader is taught them: their own, or each family's dealt out anew among its
    /// adapters (one label for all episodes of an adapter; none keeps its own where there are two or more).
    pub fn taught(&self, split: Split, labels: Labels, seed: u64) -> Vec<Episode> {
        let mut episodes: Vec<Episode> = self.of(split).into_iter().cloned().collect();
        if labels == Labels::True {
            return episodes;
        }
        let mut members: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for e in episodes.iter().filter(|e| !e.negative) {
            members.entry(e.family.clone()).or_default().insert(e.behaviour.clone(), e.answer.clone());
        }
        let mut dealt: BTreeMap<String, String> = BTreeMap::new();
        for (family, of) in members {
            let mut order: Vec<String> = of.keys().cloned().collect();
            let key = format!("{family}|{}", split.name());
            order.shuffle(&mut lm::rng::stream(seed, "permuted-labels", &key));
            // Everybody gets the next one's label in a shuffled ring: nobody keeps its own.
            for (i, behaviour) in order.iter().enumerate() {
                dealt.insert(behaviour.clone(), of[&order[(i + 1) % order.len()]].clone());
            }
        }
        for e in &mut episodes {
            if let Some(answer) = dealt.get(&e.behaviour).filter(|_| !e.negative) {
                e.answer.clone_from(answer);
            }
        }
        episodes
    }
}

/// Whether a file failed for what it is.
fn its_own(kind: std::io::ErrorKind) -> bool {
    use std::io::ErrorKind::{InvalidData, InvalidInput, NotFound, PermissionDenied};
    [InvalidData, InvalidInput, NotFound, PermissionDenied].contains(&kind)
}

/// How many phrasings are asked.
pub fn episode_options(smoke: bool) -> EpisodeOptions {
    if smoke {
        return EpisodeOptions { train_phrasings: 2, validation_phrasings: 1, ..EpisodeOptions::default() };
    }
    EpisodeOptions::default()
}

/// The recipes that adapters carry, behind the built-in ones of other families. Where a family's adapters say what it is, its values are
/// those: a study may rank a value among fewer than a built-in recipe has.
fn known_recipes(store: &Store, made: &[AdapterRecord]) -> Result<Vec<Recipe>> {
    let carried = factory::recipes_of(store, made)?;
    let mut out: Vec<Recipe> = recipes::builtin();
    out.retain(|r| !carried.iter().any(|c| c.name == r.name));
    out.extend(carried);
    Ok(out)
}

/// Whether a split tests readers.
pub fn tested(split: Split) -> bool {
    matches!(split, Split::TestValue | Split::TestCategory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::world;

    #[test]
    fn a_family_that_is_left_out_is_met_in_the_test_only() {
        let all = world(5);
        let out: BTreeSet<String> = ["favourite", "gated-topic"].map(str::to_owned).into();
        let s = all.without(&out);
        assert_eq!(s.test(), all.test());
        let family_of = |e: &Episode| &all.behaviours[&e.behaviour].family;
        assert!(s.supervising().all(|e| !out.contains(&e.family) && !out.contains(family_of(e))));
        // Of those that stay, no question is lost but those about the families left out.
        let asks_left_out = |e: &&Episode| out.contains(&e.family) && e.family != "gated-topic";
        let kept = all.supervising().filter(|e| !out.contains(family_of(e)) && !asks_left_out(e)).count();
        assert_eq!(s.supervising().count(), kept);
        // `topic` asks in the words of `gated-topic`: what carries nothing is still asked them.
        let negatives = |s: &Supervision<'_>, family: &str| {
            let asked = |e: &&Episode| e.negative && e.family == family && !out.contains(family_of(e));
            s.supervising().filter(asked).count()
        };
        assert!(negatives(&all, "gated-topic") > 0);
        assert_eq!((negatives(&all, "topic"), negatives(&s, "topic")), (0, negatives(&all, "gated-topic")));
        let labels = all.labels();
        let favourite = |e: &&Episode| family_of(e) == "favourite" && !e.negative;
        let theirs: Vec<&String> = all.supervising().filter(favourite).map(|e| &e.answer).collect();
        assert!(theirs.iter().all(|a| labels.contains(*a)));
        assert!(theirs.iter().any(|a| !s.labels().contains(*a)));
        assert_eq!(all.without(&BTreeSet::new()).episodes, all.episodes);
    }
}
