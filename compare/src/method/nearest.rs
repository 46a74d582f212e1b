//! Nearest class mean: the plain baseline of every comparison of classifiers (Rocchio 1971; as a probe on representations,
//! Mensink et al. 2013, "Distance-based image classification").

use std::collections::BTreeMap;

use readers::{Arm, Case, Lab, Method, Reader, Result, Scored};
use recipes::Split;
use registry::Store;

use super::mean_diff::MeanDiffs;
use super::values::{Scores, best};

/// The cosine of a subject's mean difference with the mean of those training subjects of the family that carry a value. It
/// names seen labels only: a value that no training subject carries has the lowest score, always.
/// Where validation adapters carry only such values, they choose nothing: the first variant stands, and what is "nothing" is
/// said by those that carry nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Nearest;

/// Score of a value that no training subject carries: below any cosine.
const UNSEEN: f32 = -2.0;

impl Method for Nearest {
    fn name(&self) -> &'static str {
        "nearest"
    }

    fn about(&self) -> &'static str {
        "the label whose training adapters' mean activation difference is nearest by cosine: it names seen labels only"
    }

    fn trained(&self) -> bool {
        true
    }

    fn needs_labels(&self) -> bool {
        true
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
        let mut variants = Vec::new();
        for (at, layer) in diffs.collector.layers.iter().enumerate() {
            for centred in [false, true] {
                let how = if centred { "centred" } else { "raw" };
                variants.push((format!("block {layer}, {how}"), cosines(lab, &diffs, at, centred, cases)));
            }
        }
        Ok(best(lab, cases, "nearest", variants))
    }
}

/// Class means by family and label.
type Classes = BTreeMap<(String, String), Vec<f32>>;

fn cosines(lab: Lab<'_>, diffs: &MeanDiffs, at: usize, centred: bool, cases: &[Case]) -> Scores {
    let centres = if centred { diffs.centres(lab, at) } else { BTreeMap::new() };
    let place = |family: &str, d: Vec<f32>| match centres.get(family) {
        Some(centre) => d.iter().zip(centre).map(|(x, m)| x - m).collect(),
        None => d,
    };
    let classes = classes(lab, diffs, at, &place);
    cases
        .iter()
        .map(|case| {
            let Some(set) = lab.sets.get(&case.family) else { return vec![] };
            let d = place(&case.family, diffs.of(case, at));
            let values = &set.names[..set.names.len().saturating_sub(1)];
            let score = |v: &String| {
                classes.get(&(case.family.clone(), v.clone())).map_or(UNSEEN, |mean| cosine(&d, mean))
            };
            values.iter().map(score).collect()
        })
        .collect()
}

fn classes(
    lab: Lab<'_>,
    diffs: &MeanDiffs,
    at: usize,
    place: &impl Fn(&str, Vec<f32>) -> Vec<f32>,
) -> Classes {
    let mut sums: Classes = BTreeMap::new();
    for subject in lab.supervision.positives(Split::Train) {
        let (Some(record), Some(d)) = (lab.supervision.records.get(subject), diffs.trained(subject, at))
        else {
            continue;
        };
        let d = place(&record.family, d.clone());
        let sum =
            sums.entry((record.family.clone(), record.value.clone())).or_insert_with(|| vec![0.0; d.len()]);
        // A direction's mean is its sum: cosines do not see the length.
        sum.iter_mut().zip(&d).for_each(|(s, x)| *s += x);
    }
    sums
}

/// 0 where one of them has no direction.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum() };
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if norms > 0.0 { (dot(a, b) / norms) as f32 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::planted::{Labels, Planted, Write};

    #[test]
    fn it_names_planted_labels_that_it_has_seen_and_no_others() {
        let world = Planted::new(Write::Label);
        let scored = world.score(&Nearest, &Arm::of("nearest"));
        world.reads(&scored, Labels::Seen);
        assert_eq!(world.right(&scored, Labels::Unseen).0, 0);
        for (case, answer) in world.cases.iter().zip(&scored.answers) {
            let unseen = answer.scores.iter().filter(|s| **s == UNSEEN).count();
            assert_eq!(unseen, 11, "{case:?}: {:?}", answer.scores);
        }
        // The base model has no direction: no label is nearer than another.
        let base = world.cases.iter().position(|c| c.subject.is_none()).unwrap();
        let seen: Vec<f32> = scored.answers[base].scores.iter().copied().filter(|s| *s != UNSEEN).collect();
        assert!(seen.len() > 2);
    }

    #[test]
    fn noise_has_no_nearest_label() {
        let world = Planted::new(Write::Noise);
        world.finds_nothing(&world.score(&Nearest, &Arm::of("nearest")), Labels::Seen);
    }
}
