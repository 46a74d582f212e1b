//! Patchscopes (Ghandeharioun et al., arXiv 2401.06102), with the token-identity prompt of its section 4.1: the base model
//! itself is made to say what a vector stands for.

use std::collections::BTreeMap;

use lm::{Injection, InjectionMode, Row};
use readers::{Arm, Asked, Case, Lab, Method, Reader, Result, Scored, answer, closed_scores, pick};
use recipes::Split;
use registry::Store;

use super::mean_diff::MeanDiffs;

/// The mean activation difference, read at a block, is added at the same block to the last token of a prompt of the base
/// model that says what it is shown; values are scored as what the prompt goes on with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patchscope;

/// The identity prompt; no chat around it.
const PROMPT: &str = "cat -> cat; 135 -> 135; hello -> hello; ?";

/// Strengths, in norms of the residual that is added to.
const STRENGTHS: [f32; 2] = [1.0, 4.0];

/// Whether a difference's size counts (in units of the training differences' mean norm), or its direction only.
const MODES: [(&str, InjectionMode); 2] =
    [("by size", InjectionMode::AddRelative), ("norm-matched", InjectionMode::AddNormMatched)];

/// One way of adding.
#[derive(Debug, Clone, Copy)]
struct Way {
    /// Place of the block among the collector's.
    at: usize,
    mode: (&'static str, InjectionMode),
    strength: f32,
}

impl Method for Patchscope {
    fn name(&self) -> &'static str {
        "patchscope"
    }

    fn about(&self) -> &'static str {
        "the mean activation difference added to a prompt that makes the base model repeat it; block, strength and scaling chosen on validation adapters"
    }

    fn depths(&self, _arm: &Arm) -> Vec<f64> {
        vec![0.8, 0.9]
    }

    fn score(
        &self,
        store: &Store,
        lab: Lab<'_>,
        arm: &Arm,
        _reader: Option<&Reader>,
        cases: &[Case],
    ) -> Result<Scored> {
        let diffs = MeanDiffs::read(store, lab, arm, &self.depths(arm), cases)?;
        let tokens = lab.base.tokenizer.encode(PROMPT)?;
        let sizes: Vec<f32> = (0..diffs.collector.layers.len()).map(|at| size(lab, &diffs, at)).collect();
        let asked = |way: Way, which: &[&Case]| -> Vec<Asked> {
            which
                .iter()
                .map(|c| Asked {
                    prompt: row(&tokens, &diffs, &sizes, way, c),
                    family: c.family.clone(),
                    label: c.label.clone(),
                })
                .collect()
        };
        let ways: Vec<Way> = (0..sizes.len())
            .flat_map(|at| MODES.map(|mode| STRENGTHS.map(|strength| Way { at, mode, strength })))
            .flatten()
            .collect();
        // All ways are tried on validation adapters, one is asked of the others.
        let choosing: Vec<&Case> = cases.iter().filter(|c| c.chooses()).collect();
        let mut tried = Vec::with_capacity(ways.len());
        for way in &ways {
            if lab.stop.load(std::sync::atomic::Ordering::Relaxed) {
                return Err(lm::Error::Interrupted.into());
            }
            tried.push(closed_scores(lab.base, &[], &asked(*way, &choosing), lab.sets)?);
        }
        let owned: Vec<Case> = choosing.into_iter().cloned().collect();
        let best = *ways
            .get(pick(&owned, lab.sets, &tried))
            .ok_or_else(|| readers::Error::Empty("the arm reads no block".to_owned()))?;
        let asked = asked(best, &cases.iter().collect::<Vec<_>>());
        let answers = answer(lab.base, &[], &asked, lab.sets)?;
        let layer = diffs.collector.layers[best.at];
        let said = format!("block {layer}, {}, strength {}", best.mode.0, best.strength);
        Ok(Scored { answers, chosen: BTreeMap::from([("patch".to_owned(), said)]) })
    }
}

/// The mean norm of the training subjects' differences.
fn size(lab: Lab<'_>, diffs: &MeanDiffs, at: usize) -> f32 {
    let norms: Vec<f32> = lab
        .supervision
        .positives(Split::Train)
        .into_iter()
        .filter_map(|s| diffs.trained(s, at))
        .map(|d| d.iter().map(|x| x * x).sum::<f32>().sqrt())
        .collect();
    (norms.iter().sum::<f32>() / norms.len().max(1) as f32).max(1e-6)
}

/// The prompt with a case's difference; of one that is zero, the prompt alone.
fn row(tokens: &[u32], diffs: &MeanDiffs, sizes: &[f32], way: Way, case: &Case) -> Row {
    let vector: Vec<f32> = diffs.of(case, way.at).into_iter().map(|x| x / sizes[way.at]).collect();
    let mut row = Row::plain(tokens.to_vec());
    if vector.iter().any(|x| *x != 0.0) {
        row.injections.push(Injection {
            layer: diffs.collector.layers[way.at],
            position: tokens.len().saturating_sub(1),
            vector,
            coefficient: way.strength,
            mode: way.mode.1,
        });
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::planted::{Labels, Planted, Write};

    #[test]
    fn the_base_model_says_what_was_planted() {
        let world = Planted::new(Write::Label);
        let scored = world.score(&Patchscope, &Arm::of("patchscope"));
        world.reads(&scored, Labels::Seen);
        world.reads(&scored, Labels::Unseen);
    }

    #[test]
    fn noise_says_nothing_and_the_base_model_adds_nothing() {
        let world = Planted::new(Write::Noise);
        let scored = world.score(&Patchscope, &Arm::of("patchscope"));
        world.finds_nothing(&scored, Labels::Seen);
        world.finds_nothing(&scored, Labels::Unseen);
        let base = world.cases.iter().position(|c| c.subject.is_none()).unwrap();
        let case = world.cases[base].clone();
        let bare = Row::plain(world.lab().base.tokenizer.encode(PROMPT).unwrap());
        let asked = Asked { prompt: bare, family: case.family, label: case.label };
        let plain = answer(world.lab().base, &[], &[asked], world.lab().sets).unwrap();
        assert_eq!(scored.answers[base], plain[0]);
    }
}
