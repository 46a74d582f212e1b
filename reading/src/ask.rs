//! One question to all readers: each answers by name, with alternatives, held against twins that were asked the same.

use std::cell::RefCell;
use std::sync::atomic::AtomicBool;

use lm::Adapter;
use readers::Result;
use registry::Store;
use serde::{Deserialize, Serialize};

use crate::evidence::{Method, nulls, scores};
use crate::null::{Against, highest};
use crate::panel::Question;
use crate::reading::{Answers, Ranked, Room, Subject, TOP, Tell};
use crate::twins::{self, Shape, twins};

/// Longest greedy answer, in tokens.
const ANSWER_TOKENS: usize = 32;

/// What readers answer to a question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// The question.
    pub question: String,
    /// One for each reader.
    pub answers: Vec<OfReader>,
}

/// What one reader answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OfReader {
    /// Its greedy answer; may be empty.
    pub said: String,
    /// Whether it was trained on this very question.
    pub trained_on: bool,
    /// Whether it is of a smoke run, and its answers mean nothing.
    pub smoke: bool,
    /// The rest: which reader, alternatives, and how they compare with the twins'.
    #[serde(flatten)]
    pub answers: Answers,
}

impl Room<'_> {
    /// Asks all readers (or those of these names) about one adapter.
    ///
    /// # Errors
    /// If the adapter does not fit the model, the store refuses, or it was stopped.
    pub fn ask(
        &self,
        store: &Store,
        subject: &Subject,
        question: &str,
        only: &[String],
        stop: &AtomicBool,
        tell: Tell<'_>,
    ) -> Result<Asked> {
        let asked = Question { families: vec!["asked".into()], phrasings: vec![question.to_owned()] };
        let panel: Vec<_> = self
            .panel()
            .iter()
            .filter(|p| only.is_empty() || only.iter().any(|id| id == p.identity()))
            .collect();
        let methods: Vec<Method<'_>> = panel.iter().map(|p| Method::Reader(p, &asked)).collect();
        let bench = self.bench();
        let adapter = &subject.adapter;
        let own = scores(&bench, &methods, &[adapter], stop, &mut |_| ())?;
        // Nothing is above the twins of what changes nothing.
        let null = match Shape::of(adapter) {
            None => None,
            Some(shape) => {
                let tell = RefCell::new(tell);
                let identity = twins::identity(self.base, &self.negatives, &shape);
                let mut make = || -> Result<Vec<Adapter>> {
                    let made = twins(store, self.base, &self.negatives, &shape, stop, &mut |done, n| {
                        (tell.borrow_mut())("training twins that carry nothing", done, n);
                    })?;
                    Ok(made.into_iter().map(|t| t.adapter).collect())
                };
                Some(nulls(store, &bench, &methods, &identity, &mut make, stop, &mut |done, n| {
                    (tell.borrow_mut())("asking the twins", done, n);
                })?)
            }
        };
        let mut answers = Vec::new();
        for (i, (panelist, own)) in panel.iter().zip(own).enumerate() {
            let raw = &own[0];
            let (standard, against) = match null.as_ref().and_then(|n| n.get(i)) {
                Some(null) => {
                    let standard = null.standard(raw);
                    let heights: Vec<f64> = (0..null.len()).map(|t| highest(&null.twin(t))).collect();
                    let against = Against::of(highest(&standard), &heights);
                    (standard, against)
                }
                None => (raw.clone(), Against { twins: 0, as_high: 0 }),
            };
            let said = panelist.answers(self.base, adapter, &asked.phrasings, ANSWER_TOKENS)?.remove(0);
            let trained_on = self.questions[self.place_of(panelist)]
                .iter()
                .any(|q| q.phrasings.iter().any(|p| p == question));
            answers.push(OfReader {
                said,
                trained_on,
                smoke: panelist.reader.record.tags.contains_key(readers::reader::SMOKE),
                answers: Answers {
                    reader: panelist.name().to_owned(),
                    kind: panelist.kind().to_owned(),
                    families: vec![],
                    question: question.to_owned(),
                    phrasings: 1,
                    votes: vec![],
                    ranked: self
                        .lexicon
                        .top(&standard, TOP)
                        .into_iter()
                        .map(|w| Ranked {
                            answer: self.label(w),
                            score: f64::from(standard[w]),
                            mean_log_prob: f64::from(raw[w]),
                        })
                        .collect(),
                    against,
                },
            });
        }
        Ok(Asked { question: question.to_owned(), answers })
    }

    fn place_of(&self, panelist: &crate::panel::Panelist) -> usize {
        self.panel().iter().position(|p| p.identity() == panelist.identity()).unwrap_or(0)
    }
}

impl Asked {
    /// For a terminal of 80 columns.
    pub fn to_terminal(&self) -> String {
        let mut out = crate::text::wrapped(&self.question, "", 2);
        for a in &self.answers {
            let said =
                if a.said.is_empty() { "(an empty answer)".to_owned() } else { format!("{:?}", a.said) };
            let twins = if a.answers.against.twins == 0 {
                "no twins: the adapter changes nothing".to_owned()
            } else {
                format!(
                    "{:?} first, {}",
                    a.answers.ranked.first().map_or("", |r| r.answer.as_str()),
                    a.answers.against.said()
                )
            };
            out += &crate::text::wrapped(&said, &format!("  {}: ", a.answers.reader), 4);
            let also: Vec<String> = a
                .answers
                .ranked
                .iter()
                .take(4)
                .map(|r| format!("{} {:.1} (log p {:.1})", r.answer, r.score, r.mean_log_prob))
                .collect();
            out += &crate::text::wrapped(
                &format!("{twins}; in deviations above all words: {}", also.join(", ")),
                "    ",
                6,
            );
            if a.smoke {
                out += "    of a smoke run: its answers mean nothing\n";
            }
            if !a.trained_on {
                out += "    not a question that it was trained on\n";
            }
        }
        out
    }
}
