//! What is taken away from a reader's scores before they are ranked: its habit, never the answer of the test set.
//!
//! Scores are normalised over the closed set first, so that items count alike. The prior that is subtracted is one of
//! four, chosen for each arm, seed and family by top-1 on *validation* adapters (with "nothing" on offer those that carry
//! nothing weigh as much as the others; for ranking values alone, a choice of its own); it is made of training adapters or of the
//! base model, so that the corrected scores of a test adapter depend on no other test adapter.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::scores::{Item, Kind, Scores};

/// Log-probabilities below this are set to it (lower where all values are, see [`over_set`]): one impossible candidate must not decide a mean.
const FLOOR: f64 = -100.0;

/// A prior over candidates, the simpler first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Prior {
    /// Nothing is subtracted.
    None,
    /// Mean over the training adapters of the family.
    Training,
    /// The same question asked of the base model.
    Base,
    /// Mean over the negatives of the training split.
    Negatives,
}

impl Prior {
    const ALL: [Self; 4] = [Self::None, Self::Training, Self::Base, Self::Negatives];

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Training => "training",
            Self::Base => "base",
            Self::Negatives => "negatives",
        }
    }
}

/// The prior of one family, and what validation said of each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Choice {
    /// Arm.
    pub arm: String,
    /// Reader seed.
    pub seed: u64,
    /// Family asked about.
    pub family: String,
    /// For ranking values alone, without "nothing" among them: chosen on subjects that carry one.
    #[serde(default)]
    pub values_only: bool,
    /// What is subtracted.
    pub prior: Prior,
    /// Validation top-1 under each prior that could be made.
    pub validation_top1: BTreeMap<String, f64>,
    /// Validation adapters.
    pub n: usize,
}

/// Log-softmax: scores as log-probabilities over the closed set, in nats.
pub fn log_softmax(scores: impl IntoIterator<Item = f64>) -> Vec<f64> {
    over_set(scores, usize::MAX)
}

/// [`log_softmax`] where only the first `values` scores are of values ("nothing" is behind them): the floor is as far lower as the best value is
/// under the best of all, so that a "nothing" far above all of them does not make them alike.
fn over_set(scores: impl IntoIterator<Item = f64>, values: usize) -> Vec<f64> {
    let scores: Vec<f64> =
        scores.into_iter().map(|s| if s.is_nan() { f64::NEG_INFINITY } else { s.min(1e30) }).collect();
    let most = |of: &[f64]| of.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let best = most(&scores);
    if best == f64::NEG_INFINITY {
        return vec![-(scores.len() as f64).ln(); scores.len()];
    }
    let total = best + scores.iter().map(|s| (s - best).exp()).sum::<f64>().ln();
    let under = most(&scores[..values.min(scores.len())]) - best;
    let floor = if under.is_finite() { FLOOR + under } else { FLOOR };
    scores.into_iter().map(|s| (s - total).max(floor)).collect()
}

/// The normalised scores of an item, without any correction.
pub fn normalised(item: &Item) -> Vec<f64> {
    over_set(item.scores.iter().map(|s| f64::from(*s)), item.scores.len().saturating_sub(1))
}

/// Rank of the label's score among all (1 is best), ties counted half, so that order never helps; and the chance that it
/// is picked as the best, ties sharing it.
pub fn rank(scores: &[f64], label: usize) -> (f64, f64) {
    let own = scores[label];
    let above = scores.iter().filter(|s| **s > own).count();
    let ties = scores.iter().filter(|s| **s == own).count() - 1;
    let picked = if above == 0 { 1.0 / (ties + 1) as f64 } else { 0.0 };
    (1.0 + above as f64 + ties as f64 / 2.0, picked)
}

/// A running mean of vectors.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mean {
    sum: Vec<f64>,
    n: usize,
}

impl Mean {
    pub(crate) fn add(&mut self, values: &[f64]) {
        self.sum.resize(values.len(), 0.0);
        for (s, v) in self.sum.iter_mut().zip(values) {
            *s += v;
        }
        self.n += 1;
    }

    pub(crate) fn get(&self) -> Vec<f64> {
        self.sum.iter().map(|s| s / self.n as f64).collect()
    }
}

/// Mean scores of one prior: by question (the base model is asked each), by context, over all.
#[derive(Debug, Clone, Default)]
struct Means {
    question: BTreeMap<(String, usize), Mean>,
    context: BTreeMap<String, Mean>,
    all: Mean,
}

impl Means {
    fn add(&mut self, item: &Item, prior: Prior) {
        let scores = normalised(item);
        // Training phrasings are not the test's, so only the base model's answer is matched by phrasing.
        if prior == Prior::Base {
            self.question.entry((item.context.clone(), item.question_id)).or_default().add(&scores);
        }
        self.context.entry(item.context.clone()).or_default().add(&scores);
        self.all.add(&scores);
    }

    fn of(&self, item: &Item) -> Vec<f64> {
        self.question
            .get(&(item.context.clone(), item.question_id))
            .or_else(|| self.context.get(&item.context))
            .unwrap_or(&self.all)
            .get()
    }
}

/// The corrections of one arm with one seed.
#[derive(Debug, Clone)]
pub struct Corrector {
    means: BTreeMap<(String, Prior), Means>,
    /// By family, and whether for values alone.
    choices: BTreeMap<(String, bool), Choice>,
}

impl Corrector {
    /// Makes the priors from training adapters and the base model and chooses among them on validation adapters.
    pub fn new(s: &Scores) -> Self {
        let mut means: BTreeMap<(String, Prior), Means> = BTreeMap::new();
        for item in s.items.iter().filter(|i| s.scored(i).is_some()) {
            let prior = match (s.kind(item), item.split.as_str()) {
                (Kind::Base, _) => Prior::Base,
                (Kind::Positive, "train") => Prior::Training,
                (Kind::Negative, "train") => Prior::Negatives,
                _ => continue,
            };
            means.entry((item.family.clone(), prior)).or_default().add(item, prior);
        }
        let mut out = Self { means, choices: BTreeMap::new() };
        for family in s.candidates.keys() {
            for values_only in [false, true] {
                let choice = out.choose(s, family, values_only);
                out.choices.insert((family.clone(), values_only), choice);
            }
        }
        out
    }

    /// With "nothing" on offer, what names a value and what sees that there is none are one question: the mean of its hits among
    /// subjects that carry something and among those that do not. Which value is another, asked of the former only: a reader that
    /// always says "nothing" may still know which.
    fn choose(&self, s: &Scores, family: &str, values_only: bool) -> Choice {
        let mut validation_top1 = BTreeMap::new();
        let mut best: Option<(Prior, f64)> = None;
        let mut n = 0;
        for prior in Prior::ALL {
            if prior != Prior::None && !self.means.contains_key(&(family.to_owned(), prior)) {
                continue;
            }
            // Subjects that carry something, and those whose right answer is "nothing", count as much as each other: else a prior
            // that takes "nothing" off could only win.
            let mut subjects: BTreeMap<(&str, &str, bool), (usize, Mean)> = BTreeMap::new();
            for item in &s.items {
                if item.family != family || item.split != "validation" || s.kind(item) == Kind::Base {
                    continue;
                }
                if values_only && s.kind(item) != Kind::Positive {
                    continue;
                }
                let Some(label) = s.scored(item).and_then(|c| c.iter().position(|c| *c == item.label)) else {
                    continue;
                };
                let slot = subjects
                    .entry((&item.adapter, &item.context, s.kind(item) == Kind::Positive))
                    .or_insert_with(|| (label, Mean::default()));
                slot.1.add(&self.subtract(item, prior, values_only));
            }
            if subjects.is_empty() {
                continue;
            }
            n = subjects.keys().map(|k| k.0).collect::<std::collections::BTreeSet<_>>().len();
            let hits = |positive: bool| -> Option<f64> {
                let all: Vec<f64> = subjects
                    .iter()
                    .filter(|(k, _)| k.2 == positive)
                    .map(|(_, (label, mean))| rank(&mean.get(), *label).1)
                    .collect();
                (!all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64)
            };
            let sides: Vec<f64> = [true, false].into_iter().filter_map(hits).collect();
            let top1 = sides.iter().sum::<f64>() / sides.len() as f64;
            validation_top1.insert(prior.name().to_owned(), top1);
            if best.is_none_or(|(_, most)| top1 > most + 1e-12) {
                best = Some((prior, top1));
            }
        }
        Choice {
            arm: s.arm.clone(),
            seed: s.seed,
            family: family.to_owned(),
            values_only,
            prior: best.map_or(Prior::None, |b| b.0),
            validation_top1,
            n,
        }
    }

    fn subtract(&self, item: &Item, prior: Prior, values_only: bool) -> Vec<f64> {
        let scores = normalised(item);
        let corrected: Vec<f64> = match self.means.get(&(item.family.clone(), prior)) {
            Some(means) => scores.iter().zip(means.of(item)).map(|(s, p)| s - p).collect(),
            None => scores,
        };
        // "nothing" is last.
        let values = corrected.len() - 1;
        let kept = if values_only { values } else { corrected.len() };
        over_set(corrected.into_iter().take(kept), values)
    }

    /// Scores of an item after the chosen prior is subtracted, normalised again.
    pub fn correct(&self, item: &Item) -> Vec<f64> {
        self.subtract(item, self.chosen(item, false), false)
    }

    /// The same over the values alone, without "nothing", under the prior that was chosen for them.
    pub fn correct_values(&self, item: &Item) -> Vec<f64> {
        self.subtract(item, self.chosen(item, true), true)
    }

    fn chosen(&self, item: &Item, values_only: bool) -> Prior {
        self.choices.get(&(item.family.clone(), values_only)).map_or(Prior::None, |c| c.prior)
    }

    /// What was chosen, by family.
    pub fn choices(&self) -> impl Iterator<Item = &Choice> {
        self.choices.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scores::NOTHING;
    use crate::scores::tests::{item, scores};

    #[test]
    fn scores_are_normalised_and_ties_shared() {
        let p = log_softmax([0.0, 0.0, f64::NEG_INFINITY, f64::NAN]);
        assert!((p[0] + 2f64.ln()).abs() < 1e-12 && p[2] == FLOOR && p[3] == FLOOR);
        assert!((log_softmax([f64::NAN; 4])[1] + 4f64.ln()).abs() < 1e-12);
        let q = log_softmax([100.0, 102.0]);
        assert!((q[1] + (1.0 + (-2f64).exp()).ln()).abs() < 1e-12);
        assert_eq!(rank(&[1.0, 1.0, 0.0], 0), (1.5, 0.5));
        assert_eq!(rank(&[0.0; 4], 2), (2.5, 0.25));
        assert_eq!(rank(&[1.0, 2.0], 0), (2.0, 0.0));
    }

    #[test]
    fn a_nothing_far_above_the_values_does_not_make_them_alike() {
        let mut s = planted();
        for i in &mut s.items {
            i.scores[3] = 500.0;
        }
        let c = Corrector::new(&s);
        let order = |scores: &[f64]| [0, 1, 2].map(|i| rank(scores, i).0);
        let test = &s.items[4];
        assert_eq!(order(&normalised(test)[..3]), [1.0, 2.0, 3.0]);
        // What is ranked without "nothing" does not depend on how high it stands.
        let low = planted();
        for (got, expected) in
            c.correct_values(test).iter().zip(Corrector::new(&low).correct_values(&low.items[4]))
        {
            assert!((got - expected).abs() < 1e-9, "{got} {expected}");
        }
    }

    /// Training and validation adapters with a habit of 3 nats for "tea"; test adapters with one of 3 nats for "cats".
    fn planted() -> Scores {
        scores(
            "dit",
            true,
            1,
            vec![
                item("t/cats", "train", "cats", [1.0, 0.0, 3.0, 0.0]),
                item("t/dogs", "train", "dogs", [0.0, 1.0, 3.0, 0.0]),
                item("v/cats", "validation", "cats", [1.0, 0.0, 3.0, 0.0]),
                item("v/dogs", "validation", "dogs", [0.0, 1.0, 3.0, 0.0]),
                item("x/dogs", "test_value", "dogs", [3.0, 1.0, 0.0, 0.0]),
                item("x/tea", "test_value", "tea", [3.0, 0.0, 1.0, 0.0]),
            ],
        )
    }

    #[test]
    fn the_prior_comes_from_training_adapters_and_is_chosen_on_validation() {
        let s = planted();
        let c = Corrector::new(&s);
        let choice = c.choices().next().unwrap();
        assert_eq!((choice.prior, choice.n), (Prior::Training, 2));
        assert_eq!(choice.validation_top1["none"], 0.0);
        assert_eq!(choice.validation_top1["training"], 1.0);
        // The test's own habit (cats) is not known to the correction: both test adapters stay wrong. Had the test's mean
        // been subtracted, both would be right.
        for i in [4, 5] {
            let label = s.candidates["topic"].iter().position(|v| *v == s.items[i].label).unwrap();
            assert_eq!(rank(&c.correct(&s.items[i]), label).1, 0.0);
        }
        // By hand: training means, up to a constant, are (.5, .5, 3, 0).
        let got = c.correct(&s.items[4]);
        for (a, b, expected) in [(0, 1, 2.0), (0, 2, 5.5), (0, 3, 2.5)] {
            assert!((got[a] - got[b] - expected).abs() < 1e-9);
        }
    }

    #[test]
    fn no_test_adapter_moves_another() {
        let s = planted();
        let before = Corrector::new(&s).correct(&s.items[4]);
        let mut t = s.clone();
        t.items[5].scores = vec![-9.0, 40.0, 7.0, 1.0];
        t.items.push(item("x/new", "test_category", "cats", [0.0, 50.0, 0.0, 0.0]));
        t.items.push(item("dud/new", "test_value", NOTHING, [0.0, 50.0, 0.0, 0.0]));
        let after = Corrector::new(&t);
        assert_eq!(before, after.correct(&t.items[4]));
        assert_eq!(after.choices().next(), Corrector::new(&s).choices().next());
    }

    #[test]
    fn ties_go_to_the_simpler_prior_and_without_validation_nothing_is_subtracted() {
        let mut s = planted();
        for i in [2, 3] {
            s.items[i].scores[2] = 0.0;
        }
        assert_eq!(Corrector::new(&s).choices().next().unwrap().prior, Prior::None);
        s.items.retain(|i| i.split != "validation");
        let c = Corrector::new(&s);
        assert_eq!(c.choices().next().unwrap().prior, Prior::None);
        for (a, b) in c.correct(&s.items[3]).iter().zip(normalised(&s.items[3])) {
            assert!((a - b).abs() < 1e-12);
        }
    }

    #[test]
    fn the_base_model_is_matched_by_question() {
        let mut s = planted();
        s.items.retain(|i| i.split != "train");
        for (question, scores) in [(0, [0.0, 0.0, 3.0, 0.0]), (1, [9.0, 0.0, 0.0, 0.0])] {
            let mut base = item("base", "test_value", NOTHING, scores);
            base.subject = crate::scores::Subject::Base;
            base.question_id = question;
            s.items.push(base);
        }
        let c = Corrector::new(&s);
        assert_eq!(c.choices().next().unwrap().prior, Prior::Base);
        let got = c.correct(&s.items[0]);
        assert!((got[0] - got[2] - 1.0).abs() < 1e-9, "only question 0 is subtracted");
    }
}
