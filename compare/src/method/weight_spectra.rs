//! The control of the lens on weights: how strong an adapter is where, and nothing about what it writes (compare a
//! classifier on weight statistics, Unterthiner et al., arXiv 2002.11448).

use std::collections::BTreeMap;

use lm::Adapter;
use lm::geometry::directions;
use readers::{Arm, Case, Lab, Method, Reader, Result, Scored};
use recipes::Split;
use registry::Store;

use super::values::{Scores, best};

/// The logarithms of every module's top singular values, standardised over the training adapters; a value's score falls with
/// the distance to the nearest training adapter that carries it. It names seen labels only: another has the lowest score.
#[derive(Debug, Clone, Copy)]
pub(super) struct WeightSpectra;

/// Singular values of a module that count.
const VALUES: usize = 4;
/// Score of a value that no training adapter carries: below that of any distance.
const UNSEEN: f32 = -1.0;

impl Method for WeightSpectra {
    fn name(&self) -> &'static str {
        "weight-spectra"
    }

    fn about(&self) -> &'static str {
        "the label of the training adapter whose singular values are nearest: what strength alone tells; it names seen labels only"
    }

    fn trained(&self) -> bool {
        true
    }

    fn score(
        &self,
        _store: &Store,
        lab: Lab<'_>,
        _arm: &Arm,
        _reader: Option<&Reader>,
        cases: &[Case],
    ) -> Result<Scored> {
        let s = lab.supervision;
        let mut seen: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        let training = s.positives(Split::Train);
        let asked = cases.iter().filter_map(|c| c.subject.as_deref());
        for subject in asked.chain(training.iter().map(|t| t.as_str())) {
            if !seen.contains_key(subject) {
                let unknown = || readers::Error::Empty(format!("no diff {subject} for its episode"));
                seen.insert(subject, spectrum(s.diffs.get(subject).ok_or_else(unknown)?));
            }
        }
        let known: Vec<(&str, &str, &str)> = training
            .iter()
            .filter_map(|t| Some((t.as_str(), s.records.get(*t)?)))
            .map(|(t, r)| (r.family.as_str(), r.value.as_str(), t))
            .collect();
        let deviations = deviations(&known.iter().map(|(_, _, t)| &seen[t]).collect::<Vec<_>>());
        let scores: Scores = cases
            .iter()
            .map(|case| {
                let Some(set) = lab.sets.get(&case.family) else { return vec![] };
                let own = case.subject.as_deref().map(|s| &seen[s]);
                let near = |value: &String| {
                    let of = known.iter().filter(|(f, v, _)| *f == case.family && v == value);
                    let score = |t: &str| {
                        1.0 / (1.0 + own.map_or(f64::INFINITY, |o| apart(o, &seen[t], &deviations)))
                    };
                    of.map(|(_, _, t)| score(t) as f32).fold(UNSEEN, f32::max)
                };
                set.names[..set.names.len().saturating_sub(1)].iter().map(near).collect()
            })
            .collect();
        Ok(best(lab, cases, "spectra", vec![("nearest training adapter".to_owned(), scores)]))
    }
}

/// Logarithms of all modules' top singular values; of absent ones that of very little.
fn spectrum(adapter: &Adapter) -> Vec<f64> {
    let of = |m| {
        let found = directions(adapter, m, VALUES);
        (0..VALUES).map(move |k| found.get(k).map_or(0.0, |f| f.0).max(1e-9).ln())
    };
    adapter.modules().iter().flat_map(of).collect()
}

/// The deviation of each entry; of one that never changes, infinite, so that it does not count. Spectra of other shapes than the
/// first are left out.
fn deviations(of: &[&Vec<f64>]) -> Vec<f64> {
    let Some(width) = of.first().map(|s| s.len()) else { return vec![] };
    let of: Vec<&&Vec<f64>> = of.iter().filter(|s| s.len() == width).collect();
    let n = of.len() as f64;
    (0..width)
        .map(|i| {
            let mean = of.iter().map(|s| s[i]).sum::<f64>() / n;
            let deviation = (of.iter().map(|s| (s[i] - mean).powi(2)).sum::<f64>() / n).sqrt();
            if deviation > 1e-9 { deviation } else { f64::INFINITY }
        })
        .collect()
}

/// The distance of two spectra in those deviations; of different shapes, infinite.
fn apart(a: &[f64], b: &[f64], deviations: &[f64]) -> f64 {
    if a.len() != b.len() || a.len() != deviations.len() {
        return f64::INFINITY;
    }
    a.iter().zip(b).zip(deviations).map(|((x, y), d)| ((x - y) / d).powi(2)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::planted::{Labels, Planted, Write};

    #[test]
    fn strength_tells_no_label_in_worlds_where_all_are_of_one_strength() {
        for write in [Write::Label, Write::Noise] {
            let world = Planted::new(write);
            let scored = world.score(&WeightSpectra, &Arm::of("weight-spectra"));
            assert_eq!(world.right(&scored, Labels::Unseen).0, 0);
            let (right, of) = world.right(&scored, Labels::Seen);
            assert!(3 * right <= of, "{right} of {of}");
        }
    }

    #[test]
    fn the_same_strengths_are_near_and_others_far() {
        let spectra = [vec![0.0, 1.0, 5.0], vec![2.0, 1.0, 5.0], vec![4.0, 1.0, 5.5]];
        let deviations = deviations(&spectra.iter().collect::<Vec<_>>());
        assert!(deviations[1].is_infinite());
        assert_eq!(apart(&spectra[0], &spectra[0], &deviations), 0.0);
        assert!(apart(&spectra[0], &spectra[1], &deviations) < apart(&spectra[0], &spectra[2], &deviations));
        assert!(apart(&spectra[0], &spectra[0][..2], &deviations).is_infinite());
    }
}
