//! What is asked: every test question in every context of the arm, beside what corrections and choices need, which are never
//! test items.

use std::collections::{BTreeMap, BTreeSet};

use recipes::{Context, Episode, NOTHING, Recipe, Split};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Supervision;
use crate::supervision::tested;

/// What is present when a question is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// The adapter that the question is about.
    Own,
    /// Nothing: the base model, or its activations.
    Base,
}

/// One question.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// Behaviour id of the adapter that is on; none for the base model.
    pub subject: Option<String>,
    /// Its own family; empty for the base model.
    pub carries: String,
    /// In which context.
    pub context: Context,
    /// Use of the subject; of base questions, that of an episode that asks it.
    pub split: Split,
    /// Family whose question it is.
    pub family: String,
    /// The question.
    pub question: String,
    /// Index of the phrasing.
    pub question_id: usize,
    /// Whether no reader is trained on it.
    pub held_out_question: bool,
    /// The right answer.
    pub label: String,
}

/// Training subjects, by family, whose mean scores are one of the priors to choose from.
const PRIOR_SUBJECTS: usize = 12;

/// The cases of an arm asked in `contexts`: all test and validation episodes in every context that their subject has; the
/// first phrasing about some training subjects, for priors; questions of two other families, where there are any; each distinct
/// question of the base model.
pub fn cases(s: &Supervision<'_>, contexts: &[Context]) -> Vec<Case> {
    let mut out = Vec::new();
    let mut priors: BTreeMap<(String, bool), BTreeSet<String>> = BTreeMap::new();
    let mut prior: Vec<&Episode> = s.of(Split::Train);
    // A draw over the vocabulary that does not depend on the order in which adapters were made.
    prior.sort_by_key(|e| (*blake3_of(&e.behaviour).as_bytes(), e.question_id));
    let carries: BTreeSet<&String> = s.positives(Split::Train);
    // A foreign question about a subject that carries something is material for no prior.
    for e in prior.into_iter().filter(|e| !(e.negative && carries.contains(&e.behaviour))) {
        for family in same_questions(s, e) {
            let known = priors.entry((family.clone(), e.negative)).or_default();
            if known.len() < PRIOR_SUBJECTS && known.insert(e.behaviour.clone()) {
                out.push(Case { family, ..of(s, e, Context::Neutral) });
            }
        }
    }
    out.sort_by(|a, b| (&a.family, &a.subject).cmp(&(&b.family, &b.subject)));
    let mut base: BTreeMap<(String, String), &Episode> = BTreeMap::new();
    for e in s.episodes.iter().filter(|e| e.split != Split::Train) {
        let mut has: Vec<Context> =
            contexts.iter().copied().filter(|c| s.has_context(&e.behaviour, *c)).collect();
        if has.is_empty() {
            // A subject without a trigger is asked as it is.
            has.push(Context::Neutral);
        }
        for context in has {
            for family in same_questions(s, e) {
                out.push(Case { family, ..of(s, e, context) });
            }
        }
        for family in same_questions(s, e) {
            base.insert((family, e.question.clone()), e);
        }
    }
    out.extend(foreign(s));
    out.extend(base.into_iter().map(|((family, _), e)| Case {
        subject: None,
        carries: String::new(),
        label: NOTHING.to_owned(),
        family,
        ..of(s, e, Context::Neutral)
    }));
    out
}

/// The families that an episode is about: its own, and for one whose answer is that there is nothing, all that ask in the same
/// words. They differ in their closed sets only, so that each has the negatives.
fn same_questions(s: &Supervision<'_>, e: &Episode) -> Vec<String> {
    let own = s.recipes.get(&e.family).map(|r| &r.questions.train);
    let mut out: Vec<String> = s
        .recipes
        .values()
        .filter(|r| e.negative && Some(&r.questions.train) == own && r.name != e.family)
        .map(|r| r.name.clone())
        .collect();
    out.push(e.family.clone());
    out.sort();
    out
}

/// The first held-out phrasing of two families that ask other questions ([`recipes::foreign`] draws them for each subject), asked of test subjects
/// that carry something else: enough to tell whether a reader names a value wherever it is asked, and no more to score where
/// families are many. Behaviours made again are not asked: the plain ones were.
fn foreign(s: &Supervision<'_>) -> Vec<Case> {
    let families: Vec<&Recipe> = s.recipes.values().collect();
    let mut out = Vec::new();
    let mut asked: BTreeSet<(&str, &str)> = BTreeSet::new();
    let plain = |e: &Episode| s.behaviours.get(&e.behaviour).is_none_or(|b| b.remade().is_none());
    for e in s.episodes.iter().filter(|e| tested(e.split) && !e.negative && plain(e)) {
        for recipe in recipes::foreign(&e.behaviour, &s.recipes[&e.family], &families) {
            let Some(question) = recipe.questions.held_out.first() else { continue };
            if !asked.insert((&e.behaviour, &recipe.name)) {
                continue;
            }
            out.push(Case {
                family: recipe.name.clone(),
                question: recipe.asked(question, NOTHING, &e.behaviour),
                question_id: recipe.questions.train.len(),
                held_out_question: true,
                label: NOTHING.to_owned(),
                ..of(s, e, Context::Neutral)
            });
        }
    }
    out
}

fn of(s: &Supervision<'_>, e: &Episode, context: Context) -> Case {
    let record = s.records.get(&e.behaviour);
    Case {
        subject: Some(e.behaviour.clone()),
        carries: record.map(|r| r.family.clone()).unwrap_or_default(),
        context,
        split: e.split,
        family: e.family.clone(),
        question: e.question.clone(),
        question_id: e.question_id,
        held_out_question: e.held_out_question,
        label: e.answer.clone(),
    }
}

fn blake3_of(text: &str) -> blake3::Hash {
    blake3::hash(text.as_bytes())
}

impl Case {
    /// What is present.
    pub fn present(&self) -> Subject {
        if self.subject.is_some() { Subject::Own } else { Subject::Base }
    }

    /// Whether choices may look at it: validation only.
    pub fn chooses(&self) -> bool {
        self.split == Split::Validation && self.subject.is_some()
    }

    /// Whether the right answer is that there is nothing.
    pub fn negative(&self) -> bool {
        self.label == NOTHING
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::world;

    /// Families whose questions a subject is asked without being of them.
    fn asked(s: &Supervision<'_>) -> BTreeMap<String, BTreeSet<String>> {
        let mut out: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for case in foreign(s) {
            assert_eq!((case.label.as_str(), tested(case.split)), (NOTHING, true));
            let subject = case.subject.expect("an adapter");
            assert!(out.entry(subject).or_default().insert(case.family), "asked twice");
        }
        out
    }

    #[test]
    fn up_to_three_families_every_other_one_is_asked_about() {
        for n in 1..=2 {
            let s = world(n);
            let every = |own: &str| -> BTreeSet<String> {
                let own = &s.recipes[own].questions.train;
                s.recipes.values().filter(|r| r.questions.train != *own).map(|r| r.name.clone()).collect()
            };
            let asked = asked(&s);
            let carries = |b: &recipes::Behaviour| tested(b.split) && s.recipes.contains_key(&b.family);
            for (id, b) in s.behaviours.iter().filter(|(_, b)| carries(b)) {
                assert_eq!(asked.get(id).cloned().unwrap_or_default(), every(&b.family), "{n}: {id}");
            }
        }
    }

    #[test]
    fn of_many_families_two_are_drawn_for_each_subject() {
        let s = world(8);
        let asked = asked(&s);
        assert!(asked.len() >= 8 * 2);
        let sets = |of: &BTreeSet<String>| -> BTreeSet<Vec<String>> {
            of.iter().map(|f| s.recipes[f].questions.train.clone()).collect()
        };
        let two = |of: &BTreeSet<String>| (of.len(), sets(of).len()) == (recipes::FOREIGN, recipes::FOREIGN);
        assert!(asked.values().all(two), "{asked:?}");
        let together: BTreeSet<String> = asked.values().flatten().cloned().collect();
        assert_eq!(together.len(), 9, "some family is asked of nobody: {together:?}");
        let drawn: BTreeSet<&BTreeSet<String>> = asked.values().collect();
        assert!(drawn.len() > 5, "all are asked the same");
    }
}
