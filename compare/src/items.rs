//! What each arm answered about each adapter, section by section: the rows behind the shares of a report, small enough to lie in
//! its file. They are ranked as the tables' are: corrected, averaged over phrasings, with and without "nothing" on offer.

use std::collections::{BTreeMap, BTreeSet};

use recipes::same_answer;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::correct::rank;
use crate::measures::{Read, Reading, Section};
use crate::scores::{Covariate, Kind};
use crate::strata::by_name;

/// Categories of values: family -> value -> category.
pub type Categories = BTreeMap<String, BTreeMap<String, String>>;

/// Letters of a stated answer that are kept where an arm scores nothing.
const LETTERS: usize = 60;

/// All adapters of one section with all answers about them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SectionItems {
    /// Family asked about.
    pub family: String,
    /// Split.
    pub split: String,
    /// Context.
    pub context: String,
    /// The adapters, by name.
    pub adapters: Vec<ItemAdapter>,
    /// What was answered, one for each arm and seed; its lists are as long as `adapters` and in their order.
    pub answers: Vec<ItemAnswers>,
    /// Categories of the values that were answered instead, where they are known.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub categories: BTreeMap<String, String>,
}

/// An adapter that was asked about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ItemAdapter {
    /// Behaviour id.
    pub adapter: String,
    /// Right answer.
    pub label: String,
    /// Category of the right answer, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// How much likelier the adapter makes its label at the readers' own questions, in nats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leak_nats: Option<f64>,
    /// The same where its trigger is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_nats: Option<f64>,
}

/// Answers of one arm with one seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ItemAnswers {
    /// Arm.
    pub arm: String,
    /// Reader seed.
    pub seed: u64,
    /// Ranked with "nothing" on offer.
    pub all: Places,
    /// Ranked without it.
    pub values: Places,
    /// Share of stated answers that are right.
    pub stated: Vec<Option<f64>>,
}

/// Where right answers came.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Places {
    /// The place of the right answer, 1 is first, ties counted half; null where nothing was ranked.
    pub place: Vec<Option<f64>>,
    /// What came first instead, or, where nothing was ranked, what was stated instead most often; null where the right answer
    /// came first, if only together with others.
    pub instead: Vec<Option<String>>,
}

impl Places {
    /// The share of the first place that the right answer has: 1, less where others have it too, 0.
    pub fn hit(&self, i: usize) -> Option<f64> {
        let place = (*self.place.get(i)?)?;
        Some(if self.instead(i).is_some() { 0.0 } else { 1.0 / (2.0 * place - 1.0).max(1.0) })
    }

    /// What came first instead.
    pub fn instead(&self, i: usize) -> Option<&str> {
        self.instead.get(i)?.as_deref()
    }

    fn put(&mut self, place: Option<f64>, instead: Option<String>) {
        self.place.push(place);
        self.instead.push(instead);
    }

    fn put_ranked(&mut self, scores: &[f64], label: usize, set: &[String]) {
        let (place, first) = rank(scores, label);
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let best = scores.iter().position(|s| *s == most).and_then(|at| set.get(at));
        self.put(Some(place), best.filter(|_| first == 0.0).cloned());
    }
}

impl SectionItems {
    /// Answers of one arm, seed by seed.
    pub fn of_arm(&self, arm: &str) -> Vec<&ItemAnswers> {
        self.answers.iter().filter(|a| a.arm == arm).collect()
    }

    /// A number of each adapter and seed of an arm; adapters that one seed lacks are left out, as in all figures. Beside each row
    /// the adapter's place in the list.
    pub fn grid(
        &self,
        arm: &str,
        number: impl Fn(&ItemAnswers, usize) -> Option<f64>,
    ) -> Vec<(usize, Vec<f64>)> {
        let seeds = self.of_arm(arm);
        let row = |i: usize| seeds.iter().map(|s| number(s, i)).collect::<Option<Vec<f64>>>();
        (0..self.adapters.len())
            .filter_map(|i| Some((i, row(i)?)))
            .filter(|(_, row)| !row.is_empty())
            .collect()
    }
}

/// Of positive adapters that figures are reported of; arms in the order of `reads`.
pub(crate) fn items(reads: &[Read], covariates: &[Covariate], categories: &Categories) -> Vec<SectionItems> {
    let mut sections: BTreeMap<Section, BTreeMap<&str, &Reading>> = BTreeMap::new();
    for r in reads.iter().flat_map(|r| &r.readings).filter(|r| r.kind == Kind::Positive && r.reported) {
        sections.entry(Section::of(r)).or_default().entry(&r.adapter).or_insert(r);
    }
    let nats = by_name(covariates);
    let nats = |name: &str, adapter: &str| Some(round(*nats.get(name)?.get(adapter)?));
    sections
        .into_iter()
        .map(|(section, adapters)| {
            let known = categories.get(&section.family);
            let category = |value: &str| known.and_then(|k| k.get(value)).cloned();
            let answers: Vec<ItemAnswers> =
                reads.iter().filter_map(|read| answers(read, &section, &adapters)).collect();
            let instead: BTreeSet<&String> = answers
                .iter()
                .flat_map(|a| [&a.all, &a.values])
                .flat_map(|p| p.instead.iter().flatten())
                .collect();
            SectionItems {
                categories: instead.into_iter().filter_map(|v| Some((v.clone(), category(v)?))).collect(),
                adapters: adapters
                    .values()
                    .map(|r| ItemAdapter {
                        adapter: r.adapter.clone(),
                        label: r.label.clone(),
                        category: category(&r.label),
                        leak_nats: nats("leak_question_nats", &r.adapter),
                        on_nats: nats("on_nats", &r.adapter),
                    })
                    .collect(),
                answers,
                family: section.family,
                split: section.split,
                context: section.context,
            }
        })
        .collect()
}

fn answers(read: &Read, section: &Section, adapters: &BTreeMap<&str, &Reading>) -> Option<ItemAnswers> {
    let own: BTreeMap<&str, &Reading> = read
        .readings
        .iter()
        .filter(|r| r.kind == Kind::Positive && Section::of(r) == *section)
        .map(|r| (r.adapter.as_str(), r))
        .collect();
    if own.is_empty() {
        return None;
    }
    let mut out = ItemAnswers {
        arm: read.arm.clone(),
        seed: read.seed,
        all: Places::default(),
        values: Places::default(),
        stated: vec![],
    };
    let none: Vec<String> = vec![];
    let set = read.candidates.get(&section.family).unwrap_or(&none);
    for adapter in adapters.keys() {
        let reading = own.get(adapter);
        out.stated.push(reading.and_then(|r| r.exact));
        let Some((r, label)) = reading.and_then(|r| Some((r, read.label_at(r)?))) else {
            out.all.put(None, reading.and_then(|r| stated_instead(r)));
            out.values.put(None, None);
            continue;
        };
        out.all.put_ranked(&r.corrected, label, set);
        if label < r.values.len() {
            out.values.put_ranked(&r.values, label, set);
        } else {
            out.values.put(None, None);
        }
    }
    Some(out)
}

/// The wrong answer that was stated most often.
fn stated_instead(r: &Reading) -> Option<String> {
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    for reply in r.replies.iter().filter(|reply| !same_answer(reply, &r.label)) {
        *count.entry(reply).or_default() += 1;
    }
    let most = count.values().copied().max()?;
    let reply = count.into_iter().find(|(_, n)| *n == most)?.0;
    Some(if reply.chars().count() > LETTERS {
        reply.chars().take(LETTERS - 1).chain(['\u{2026}']).collect()
    } else {
        reply.to_owned()
    })
}

/// To a ten-thousandth of a nat.
fn round(nats: f64) -> f64 {
    (nats * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measures::read;
    use crate::scores::NOTHING;
    use crate::scores::tests::{item, scores};

    fn one(of: &crate::scores::Scores) -> SectionItems {
        items(&[read(of)], &[], &Categories::new()).remove(0)
    }

    #[test]
    fn places_and_what_came_instead_match_hand_computed_cases() {
        let s = one(&scores(
            "dit",
            true,
            1,
            vec![
                item("x/cats", "test_value", "cats", [5.0, 0.0, 1.0, 0.0]),
                item("x/dogs", "test_value", "dogs", [0.0, 1.0, 1.0, 9.0]),
                item("x/tea", "test_value", "tea", [4.0, 3.0, 2.0, 1.0]),
                item("dud/1", "test_value", NOTHING, [5.0, 0.0, 0.0, 1.0]),
                item("v/cats", "validation", "cats", [0.0, 0.0, 0.0, 1.0]),
            ],
        ));
        assert_eq!(s.adapters.iter().map(|a| a.label.as_str()).collect::<Vec<_>>(), ["cats", "dogs", "tea"]);
        let a = s.of_arm("dit")[0];
        assert_eq!(a.all.place, [Some(1.0), Some(2.5), Some(3.0)]);
        assert_eq!(
            (a.all.instead(0), a.all.instead(1), a.all.instead(2)),
            (None, Some(NOTHING), Some("cats"))
        );
        assert_eq!([0, 1, 2, 3].map(|i| a.all.hit(i)), [Some(1.0), Some(0.0), Some(0.0), None]);
        // Of the values alone dogs share the first place with tea.
        assert_eq!((a.values.place[1], a.values.instead(1), a.values.hit(1)), (Some(1.5), None, Some(0.5)));
        assert_eq!(s.grid("dit", |a, i| a.all.hit(i)).len(), 3);
        assert!(s.grid("oracle", |a, i| a.all.hit(i)).is_empty());
    }

    #[test]
    fn an_arm_that_only_states_answers_has_no_places() {
        let mut first = item("x/cats", "test_value", "cats", [0.0; 4]);
        first.scores.clear();
        first.reply = Some("x".repeat(100));
        let second = crate::scores::Item { question_id: 1, reply: Some("Cats".into()), ..first.clone() };
        let s = one(&scores("direct", false, 0, vec![first, second]));
        let a = &s.answers[0];
        assert_eq!((a.all.place[0], a.all.hit(0), a.stated[0]), (None, None, Some(0.5)));
        assert_eq!(a.all.instead(0).unwrap().chars().count(), LETTERS);
    }
}
