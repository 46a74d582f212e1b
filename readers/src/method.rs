//! The trait that every way of reading implements: one file a method.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use lm::{BaseModel, FitEvent, Outline};
use registry::Store;

use crate::{Answer, Arm, Case, ClosedSet, Reader, Result, Session, Supervision, Wrong};

/// What a method works with.
#[derive(Clone, Copy)]
pub struct Lab<'a> {
    /// Base model.
    pub base: &'a BaseModel,
    /// The adapters and the episodes about them.
    pub supervision: &'a Supervision<'a>,
    /// Closed sets by family.
    pub sets: &'a BTreeMap<String, ClosedSet>,
    /// Seed of everything drawn that is not a reader's.
    pub seed: u64,
    /// Set from outside to stop.
    pub stop: &'a AtomicBool,
}

impl std::fmt::Debug for Lab<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lab").field("seed", &self.seed).finish_non_exhaustive()
    }
}

/// A fit that a reader needs, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Without any adapter.
    Pretrain,
    /// On the adapter set.
    Train,
}

impl Stage {
    /// The name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pretrain => "pretrain",
            Self::Train => "train",
        }
    }
}

/// The answers to cases, in their order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scored {
    /// One for each case.
    pub answers: Vec<Answer>,
    /// What validation chose, by what was to be chosen.
    pub chosen: BTreeMap<String, String>,
}

/// A reader to be made.
#[derive(Debug, Clone, Copy)]
pub struct Making<'a> {
    /// Whose.
    pub arm: &'a Arm,
    /// Seed of its training.
    pub seed: u64,
    /// Which of its fits.
    pub stage: Stage,
    /// What the stage before made.
    pub before: Option<&'a Reader>,
    /// When it is given up, and who files it.
    pub session: Session<'a>,
}

/// A way of reading.
pub trait Method: Sync + std::fmt::Debug {
    /// Its name in arms.
    fn name(&self) -> &'static str;

    /// One line for people.
    fn about(&self) -> &'static str;

    /// Whether adapters train it. What a method chooses on validation adapters is no training.
    fn trained(&self) -> bool {
        false
    }

    /// Whether it can answer about a family only by labels of adapters of that family: such a method has nothing to say of one that is
    /// left out ([`crate::Train::without`]).
    fn needs_labels(&self) -> bool {
        false
    }

    /// Shares of the model's blocks whose outputs an arm reads if it does not say; none: the method reads no activations.
    fn depths(&self, _arm: &Arm) -> Vec<f64> {
        vec![]
    }

    /// Checks an arm before any weight is loaded; the place is the field.
    ///
    /// # Errors
    /// What the method cannot do.
    fn check(&self, arm: &Arm, _outline: &Outline) -> Result<(), Wrong> {
        match &arm.reader {
            None => Ok(()),
            Some(reader) => {
                Err(Wrong::at("reader", format!("{reader:?}: the method {} has no readers", self.name())))
            }
        }
    }

    /// The fits that its reader needs.
    fn stages(&self, _arm: &Arm) -> Vec<Stage> {
        vec![]
    }

    /// Makes (or finds) the reader of a stage.
    ///
    /// # Errors
    /// If training fails, is stopped, or the lease is lost.
    fn fit(
        &self,
        _store: &mut Store,
        _lab: Lab<'_>,
        _making: Making<'_>,
        _report: &mut dyn FnMut(FitEvent),
    ) -> Result<Reader> {
        Err(crate::Error::Empty(format!("{} has nothing to fit", self.name())))
    }

    /// Answers the cases. What is to be chosen is chosen on those that [`Case::chooses`].
    ///
    /// # Errors
    /// If the model or the store refuses, or it was stopped.
    fn score(
        &self,
        store: &Store,
        lab: Lab<'_>,
        arm: &Arm,
        reader: Option<&Reader>,
        cases: &[Case],
    ) -> Result<Scored>;
}

/// The first of the variants that is right most often on validation cases, by their top candidate: the mean of its shares among
/// cases that carry something and among those whose answer is "nothing". Ties of scores are shared. `scores[variant][case]`.
pub fn pick(cases: &[Case], sets: &BTreeMap<String, ClosedSet>, scores: &[Vec<Vec<f32>>]) -> usize {
    let hits = |of: &Vec<Vec<f32>>| -> f64 {
        let mut sides = [(0.0, 0.0); 2];
        for (c, s) in cases.iter().zip(of).filter(|(c, s)| c.chooses() && !s.is_empty()) {
            let label = sets.get(&c.family).and_then(|set| set.names.iter().position(|n| *n == c.label));
            let side = &mut sides[usize::from(c.negative())];
            side.0 += label.map_or(0.0, |l| top(s, l));
            side.1 += 1.0;
        }
        sides.iter().filter(|(_, n)| *n > 0.0).map(|(sum, n)| sum / n).sum()
    };
    let all: Vec<f64> = scores.iter().map(hits).collect();
    let best = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    all.iter().position(|h| *h >= best).unwrap_or(0)
}

/// Whether the label is the top candidate; ties share.
fn top(scores: &[f32], label: usize) -> f64 {
    let own = scores[label];
    if scores.iter().any(|s| *s > own) {
        return 0.0;
    }
    1.0 / scores.iter().filter(|s| **s == own).count() as f64
}
