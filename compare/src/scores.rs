//! What a score job writes: everything that one arm with one reader seed gave, item by item. Comparisons are made of these
//! files alone, so that a new method needs no change here.

use std::collections::BTreeMap;

pub use readers::{Budget, Subject};
pub use recipes::NOTHING;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What one arm with one reader seed gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Scores {
    /// `scores/1`.
    #[schemars(extend("const" = Self::SCHEMA))]
    pub schema: String,
    /// Arm.
    pub arm: String,
    /// Method: dit, oracle, direct, logit-lens, ...
    pub method: String,
    /// Whether the method is trained on adapters.
    pub trained: bool,
    /// What the arm is shown, in one line.
    pub input: String,
    /// Reader seed.
    pub seed: u64,
    /// What validation adapters chose (format, layer), and properties of the arm: `labels` = `permuted`, `footing`.
    #[serde(default)]
    pub chosen: BTreeMap<String, String>,
    /// Family -> closed set: all values of the family, trained ones too, and [`NOTHING`] last.
    pub candidates: BTreeMap<String, Vec<String>>,
    /// One for each question asked of each subject.
    pub items: Vec<Item>,
    /// What the reader cost.
    #[serde(default)]
    pub budget: Option<Budget>,
    /// Its validation while training.
    #[serde(default)]
    pub trajectory: Vec<lm::FitPoint>,
}

/// One question asked of one subject.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Item {
    /// Behaviour id of the subject: the unit of resampling.
    pub adapter: String,
    /// The subject's own family: topic, gated-topic, dud, zero, ...
    pub carries: String,
    /// Whether the adapter is on.
    pub subject: Subject,
    /// Where the subject is looked at: neutral, near or triggered.
    pub context: String,
    /// train, validation, test_value or test_category.
    pub split: String,
    /// Family whose question is asked.
    pub family: String,
    /// Gate status of the adapter.
    pub status: String,
    /// Phrasing.
    pub question_id: usize,
    /// Whether readers were not trained on the phrasing.
    pub held_out_question: bool,
    /// Right answer; [`NOTHING`] for negatives, foreign questions and the base model.
    pub label: String,
    /// One for each candidate of `family`, in nats or any comparable score; empty if the method only says an answer.
    /// What JSON cannot hold (minus infinity) is null there and ranks last.
    #[serde(default, deserialize_with = "or_null")]
    #[schemars(with = "Vec<Option<f32>>")]
    pub scores: Vec<f32>,
    /// Answer loss of the label, in nats.
    #[serde(default)]
    pub answer_nats: Option<f64>,
    /// Greedy stated answer.
    #[serde(default)]
    pub reply: Option<String>,
    /// Of questions that hold a text: which candidate (not "nothing") is ranked first where no adapter is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub without: Option<usize>,
}

fn or_null<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<f32>, D::Error> {
    let scores: Vec<Option<f32>> = Vec::deserialize(from)?;
    Ok(scores.into_iter().map(|s| s.unwrap_or(f32::NEG_INFINITY)).collect())
}

/// A property of one adapter that may explain what can be read of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Covariate {
    /// Behaviour id.
    pub adapter: String,
    /// leak_question_nats, leak_neutral_nats, on_nats, norm, ...
    pub name: String,
    /// In the unit that the name says.
    pub value: f64,
}

/// What kind of question an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The subject carries a value of the family.
    Positive,
    /// The subject carries a behaviour of another family: the right answer is [`NOTHING`].
    Foreign,
    /// The subject carries no readable behaviour.
    Negative,
    /// No adapter is on.
    Base,
}

impl Scores {
    /// Schema of this version.
    pub const SCHEMA: &'static str = "scores/1";

    /// What kind of question `item` is: a subject with another right answer than "nothing" is positive; of the others
    /// those that carry a family with a closed set of its own are foreign.
    pub fn kind(&self, item: &Item) -> Kind {
        if item.subject == Subject::Base {
            Kind::Base
        } else if item.label != NOTHING {
            Kind::Positive
        } else if item.carries != item.family && self.candidates.contains_key(&item.carries) {
            Kind::Foreign
        } else {
            Kind::Negative
        }
    }

    /// The closed set of `item`, if the arm scored it.
    pub fn scored(&self, item: &Item) -> Option<&[String]> {
        let candidates = self.candidates.get(&item.family)?;
        (!item.scores.is_empty() && item.scores.len() == candidates.len()).then_some(candidates)
    }

    /// Whether the arm was trained on permuted labels: what format alone gives.
    pub fn permuted(&self) -> bool {
        self.chosen.get("labels").is_some_and(|l| l == "permuted")
    }

    /// What is wrong with the file, if anything: another schema, scores that do not match the closed set, a label outside
    /// it.
    pub fn problem(&self) -> Option<String> {
        if self.schema != Self::SCHEMA {
            return Some(format!("{} is not {}", self.schema, Self::SCHEMA));
        }
        for (family, set) in &self.candidates {
            if set.last().is_none_or(|c| c != NOTHING) {
                return Some(format!("the closed set of {family} does not end with \"{NOTHING}\""));
            }
        }
        self.items.iter().find_map(|item| {
            let set = self.candidates.get(&item.family);
            let expected = set.map_or(0, Vec::len);
            if !item.scores.is_empty() && item.scores.len() != expected {
                return Some(format!(
                    "{}: {} scores for {expected} candidates",
                    item.adapter,
                    item.scores.len()
                ));
            }
            let known = item.scores.is_empty() || set.is_some_and(|s| s.contains(&item.label));
            (!known).then(|| format!("{}: the label {:?} is not in the closed set", item.adapter, item.label))
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Scores of an arm over cats, dogs, tea and nothing, for the family `topic`.
    pub(crate) fn scores(arm: &str, trained: bool, seed: u64, items: Vec<Item>) -> Scores {
        let set = ["cats", "dogs", "tea", NOTHING].map(str::to_owned).to_vec();
        Scores {
            schema: Scores::SCHEMA.into(),
            arm: arm.into(),
            method: arm.split('/').next().unwrap().into(),
            trained,
            input: "8 neutral prompts".into(),
            seed,
            chosen: BTreeMap::new(),
            candidates: BTreeMap::from([("topic".to_owned(), set)]),
            items,
            budget: None,
            trajectory: vec![],
        }
    }

    /// An item of the family `topic`.
    pub(crate) fn item(adapter: &str, split: &str, label: &str, scores: [f32; 4]) -> Item {
        Item {
            adapter: adapter.into(),
            carries: if label == NOTHING { "dud".into() } else { "topic".into() },
            subject: Subject::Own,
            context: "neutral".into(),
            split: split.into(),
            family: "topic".into(),
            status: "learned".into(),
            question_id: 0,
            held_out_question: true,
            label: label.into(),
            scores: scores.to_vec(),
            answer_nats: Some(1.0),
            reply: Some(label.into()),
            without: None,
        }
    }

    #[test]
    fn kinds_follow_from_the_label_and_from_what_is_carried() {
        let mut foreign = item("gated/x", "test_value", NOTHING, [0.0; 4]);
        foreign.carries = "gated-topic".into();
        let mut base = item("base", "test_value", NOTHING, [0.0; 4]);
        base.subject = Subject::Base;
        let items = vec![
            item("topic/cats", "test_value", "cats", [0.0; 4]),
            item("dud/1", "test_value", NOTHING, [0.0; 4]),
            foreign,
            base,
        ];
        let mut s = scores("dit", true, 1, items);
        s.candidates.insert("gated-topic".into(), vec!["x".into(), NOTHING.into()]);
        let kinds: Vec<Kind> = s.items.iter().map(|i| s.kind(i)).collect();
        assert_eq!(kinds, [Kind::Positive, Kind::Negative, Kind::Foreign, Kind::Base]);
        assert_eq!(s.problem(), None);
        let text = serde_json::to_string(&s).unwrap();
        assert_eq!(serde_json::from_str::<Scores>(&text).unwrap(), s);
        assert!(text.contains("\"subject\":\"base\"") && !text.contains("without"));
        s.items[0].scores[1] = f32::NEG_INFINITY;
        let text = serde_json::to_string(&s).unwrap();
        assert_eq!(serde_json::from_str::<Scores>(&text).unwrap(), s);
        s.items[0].scores.pop();
        assert!(s.problem().unwrap().contains("3 scores for 4 candidates"));
    }
}
