//! Episodes: one supervised question about one weight diff. Every reader is trained and tested on the same list.

use std::collections::{BTreeMap, BTreeSet};

use rand::seq::SliceRandom;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::behaviour::{Behaviour, Polarity, Split};
use crate::recipe::Recipe;
use crate::{Error, Result, rng};

/// What readers answer about a diff that carries no behaviour.
pub const NOTHING: &str = "nothing";

/// One supervised question about one weight diff.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Episode {
    /// Behaviour id of the diff.
    pub behaviour: String,
    /// Family whose question is asked.
    pub family: String,
    /// The question.
    pub question: String,
    /// Index of the phrasing, counting held-out ones after the others.
    pub question_id: usize,
    /// Whether no reader is trained on this phrasing.
    pub held_out_question: bool,
    /// The true answer; [`NOTHING`] for a negative.
    pub answer: String,
    /// Closed set that contains the answer of a positive diff; empty for negatives.
    pub candidates: Vec<String>,
    /// Use of the diff.
    pub split: Split,
    /// Whether the right answer is [`NOTHING`]: the diff carries nothing, or nothing of the kind that is asked about.
    pub negative: bool,
}

/// How many phrasings to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpisodeOptions {
    /// Phrasings for each training diff.
    pub train_phrasings: usize,
    /// Phrasings of each family's question for a training diff that carries nothing: few, or readers learn to say that there is
    /// nothing wherever a diff is faint.
    pub negative_phrasings: usize,
    /// Seen phrasings for each validation diff: the fewer the diffs, the more the choice of a step needs them.
    pub validation_phrasings: usize,
    /// Seen phrasings for each test diff.
    pub test_phrasings: usize,
    /// Held-out phrasings for each test diff.
    pub held_out_phrasings: usize,
    /// Least size of a closed candidate set, where the family has so many values.
    pub min_candidates: usize,
}

impl Default for EpisodeOptions {
    fn default() -> Self {
        Self {
            train_phrasings: 8,
            negative_phrasings: 2,
            validation_phrasings: 2,
            test_phrasings: 0,
            held_out_phrasings: 2,
            min_candidates: 32,
        }
    }
}

/// Episodes for `behaviours`. Which phrasings a diff is asked is drawn from the stream `(seed, "phrasings", "id|family")`: no
/// wording is the one that all of a split are asked. Diffs that readers are trained on or stopped by are asked one question of other families each
/// ([`foreign`]), of which they carry nothing. Negatives are asked up to [`SETS`] sets
/// of questions of the positive families, once each, those in their own recipe's words among them.
///
/// A family's candidates are, for test splits, the values of both test splits among `behaviours` together, and for the
/// other splits the values of that split. Sets smaller than `min_candidates` are filled up from the recipe's vocabulary in
/// an order decided by hash, values of the same use first; validation never with values held out for the test.
///
/// A behaviour's recipe is the one with its digest among `recipes`; failing that (it was reworded since) the last one of
/// its family's name.
///
/// # Errors
/// If a positive behaviour has no recipe among `recipes`.
pub fn episodes(
    recipes: &[Recipe],
    behaviours: &[Behaviour],
    seed: u64,
    options: EpisodeOptions,
) -> Result<Vec<Episode>> {
    let by_name: BTreeMap<&str, &Recipe> = recipes.iter().map(|r| (r.name.as_str(), r)).collect();
    let by_digest: BTreeMap<String, &Recipe> = recipes.iter().map(|r| (r.digest(), r)).collect();
    let recipe_of = |b: &Behaviour| -> Result<&Recipe> {
        by_digest
            .get(&b.recipe_digest)
            .or_else(|| by_name.get(b.family.as_str()))
            .copied()
            .ok_or_else(|| Error::UnknownRecipe { behaviour: b.id.clone() })
    };
    let mut families: BTreeMap<&str, &Recipe> = BTreeMap::new();
    for b in behaviours.iter().filter(|b| b.polarity == Polarity::Positive) {
        families.insert(&b.family, recipe_of(b)?);
    }
    let in_order: Vec<&Recipe> = families.values().copied().collect();
    let mut out = Vec::new();
    for behaviour in behaviours {
        if behaviour.polarity == Polarity::Positive {
            let recipe = recipe_of(behaviour)?;
            let candidates = candidates(recipe, behaviours, behaviour, options.min_candidates);
            ask(&mut out, recipe, behaviour, &behaviour.value, &candidates, seed, options);
            // Another family's question: there is nothing of that kind. Of test diffs a comparison asks it itself. Were every family's
            // asked, a reader of many families would be told "nothing" more often than anything.
            let few = EpisodeOptions {
                train_phrasings: 1,
                validation_phrasings: 1,
                test_phrasings: 0,
                held_out_phrasings: 0,
                ..options
            };
            let drawn: BTreeSet<&Vec<String>> =
                foreign(&behaviour.id, recipe, &in_order).into_iter().map(|r| &r.questions.train).collect();
            let mut asked = BTreeSet::new();
            let words = |r: &&&Recipe| drawn.contains(&r.questions.train);
            for other in in_order.iter().filter(words).filter(|r| asked.insert(&r.questions.train)) {
                ask(&mut out, other, behaviour, NOTHING, &[], seed, few);
            }
        } else {
            let options = EpisodeOptions { train_phrasings: options.negative_phrasings, ..options };
            let own = recipe_of(behaviour).ok();
            for recipe in asked_of_negatives(&behaviour.id, own, &in_order) {
                ask(&mut out, recipe, behaviour, NOTHING, &[], seed, options);
            }
        }
    }
    Ok(out)
}

/// Sets of questions that a diff that carries nothing is asked.
const SETS: usize = 4;

/// One family of each set of questions that a negative is asked: the set in its own recipe's words, where some family asks so, and others
/// drawn by hash, [`SETS`] in all. Families that share their questions ask them once: nothing tells such rows apart. Were a negative
/// asked everything, readers of many families would be told "nothing" more often than anything.
fn asked_of_negatives<'a>(id: &str, own: Option<&Recipe>, in_order: &[&'a Recipe]) -> Vec<&'a Recipe> {
    let mut seen = BTreeSet::new();
    let mut sets: Vec<&Recipe> =
        in_order.iter().copied().filter(|r| seen.insert(&r.questions.train)).collect();
    if sets.len() > SETS {
        let others = |r: &Recipe| own.is_none_or(|own| own.questions.train != r.questions.train);
        sets.sort_by_key(|r| (others(r), rng::number("negative-sets", &format!("{id}|{}", r.name))));
        sets.truncate(SETS);
        sets.sort_by(|a, b| a.name.cmp(&b.name));
    }
    sets
}

/// Families beside its own whose questions a subject is asked.
pub const FOREIGN: usize = 2;

/// Of `families`, in their order, the [`FOREIGN`] whose questions are put to a subject of another family, of those that ask in other
/// words than `own`: drawn by hash of subject and family, with different words where there are any. Over many subjects each family has
/// its turn; with up to three families in all nothing is left out.
pub fn foreign<'a>(subject: &str, own: &Recipe, families: &[&'a Recipe]) -> Vec<&'a Recipe> {
    let mut order: Vec<&Recipe> = families
        .iter()
        .copied()
        .filter(|r| r.name != own.name && r.questions.train != own.questions.train)
        .collect();
    order.sort_by_cached_key(|r| rng::number("foreign", &format!("{subject}|{}", r.name)));
    let mut words = BTreeSet::new();
    let (first, again): (Vec<&Recipe>, Vec<&Recipe>) =
        order.into_iter().partition(|r| words.insert(&r.questions.train));
    let drawn: BTreeSet<&str> = first.iter().chain(&again).take(FOREIGN).map(|r| r.name.as_str()).collect();
    families.iter().copied().filter(|r| drawn.contains(r.name.as_str())).collect()
}

fn ask(
    out: &mut Vec<Episode>,
    recipe: &Recipe,
    behaviour: &Behaviour,
    answer: &str,
    candidates: &[String],
    seed: u64,
    options: EpisodeOptions,
) {
    let family = &recipe.name;
    let questions = &recipe.questions;
    let mut seen: Vec<usize> = (0..questions.train.len()).collect();
    let mut held_out: Vec<usize> = (0..questions.held_out.len()).collect();
    let mut stream = rng::stream(seed, "phrasings", &format!("{}|{family}", behaviour.id));
    seen.shuffle(&mut stream);
    held_out.shuffle(&mut stream);
    seen.truncate(match behaviour.split {
        Split::Train => options.train_phrasings,
        Split::Validation => options.validation_phrasings,
        Split::TestValue | Split::TestCategory => options.test_phrasings,
    });
    let test = matches!(behaviour.split, Split::TestValue | Split::TestCategory);
    held_out.truncate(if test { options.held_out_phrasings } else { 0 });
    let all = seen
        .into_iter()
        .map(|i| (i, &questions.train[i], false))
        .chain(held_out.into_iter().map(|i| (questions.train.len() + i, &questions.held_out[i], true)));
    for (question_id, question, held_out_question) in all {
        out.push(Episode {
            behaviour: behaviour.id.clone(),
            family: family.clone(),
            question: recipe.asked(question, answer, &behaviour.id),
            question_id,
            held_out_question,
            answer: answer.to_owned(),
            candidates: candidates.to_vec(),
            split: behaviour.split,
            negative: answer == NOTHING,
        });
    }
}

fn candidates(recipe: &Recipe, behaviours: &[Behaviour], of: &Behaviour, least: usize) -> Vec<String> {
    let test = |s: Split| matches!(s, Split::TestValue | Split::TestCategory);
    let mut set: BTreeSet<String> = behaviours
        .iter()
        .filter(|b| b.family == of.family && (b.split == of.split || (test(b.split) && test(of.split))))
        .map(|b| b.value.clone())
        .collect();
    // Values of the same use first: a reader's habit of naming trained labels must not decide the others. Nothing that is
    // tested on may take part in choosing when a reader stops.
    let same_use = |s: Split| s == of.split || (test(s) && test(of.split));
    let mut others: Vec<(bool, String)> = recipe
        .values()
        .into_iter()
        .map(|(value, category, _)| (recipe.split_of(&value, &category), value))
        .filter(|(split, _)| test(of.split) || !test(*split))
        .map(|(split, value)| (!same_use(split), value))
        .collect();
    others.sort_by_key(|(trained, v)| (*trained, rng::number("candidate-filler", v)));
    for (_, value) in others {
        if set.len() >= least {
            break;
        }
        set.insert(value);
    }
    set.into_iter().collect()
}
