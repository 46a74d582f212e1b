//! A control that can fail: whether an arm's answers fit the adapters better than after a shuffle of the labels.
//!
//! With one adapter for a label, the plain mutual information of the confusion matrix is the entropy of the answers,
//! whoever they are about, and no permutation of labels changes it. So the bits are those of the symmetric channel with the
//! matrix's share on the diagonal (Wolpaw et al. 2000): log2 K + P log2 P + (1 - P) log2((1 - P) / (K - 1)), 0 at or below
//! chance.

use std::collections::{BTreeMap, BTreeSet};

use rand::seq::SliceRandom;

use crate::bootstrap::stream;
use crate::measures::{Read, Section};
use crate::scores::Kind;

/// Shuffles of the labels.
pub const PERMUTATIONS: usize = 1_000;

/// What the control found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Permuted {
    /// Bits about the label.
    pub bits: f64,
    /// Mean of the same over permutations.
    pub permuted_bits: f64,
    /// (1 + permutations with as many bits or more) / (1 + permutations).
    pub p: f64,
    /// Adapters.
    pub n: usize,
    /// Labels: columns of the matrix.
    pub labels: usize,
}

/// Bits of the symmetric channel of `k` labels with `share` right.
pub fn channel_bits(share: f64, k: usize) -> f64 {
    let n = k as f64;
    if k < 2 || share <= 1.0 / n {
        return 0.0;
    }
    let term = |p: f64, over: f64| if p > 0.0 { p * (p / over).log2() } else { 0.0 };
    (n.log2() + term(share, 1.0) + term(1.0 - share, n - 1.0)).max(0.0)
}

/// The control on a confusion matrix: `answers[i][k]` is the share of adapter i's answers that are label k, `truth[i]` its
/// own label.
pub fn permute(answers: &[Vec<f64>], truth: &[usize], labels: usize, purpose: &str) -> Permuted {
    let n = truth.len();
    let bits = |truth: &[usize]| {
        let right: f64 = answers.iter().zip(truth).map(|(row, k)| row[*k]).sum();
        channel_bits(right / n as f64, labels)
    };
    let found = bits(truth);
    let mut rng = stream(purpose);
    let mut shuffled = truth.to_vec();
    let (mut total, mut as_many) = (0.0, 0);
    for _ in 0..PERMUTATIONS {
        shuffled.shuffle(&mut rng);
        let b = bits(&shuffled);
        total += b;
        as_many += usize::from(b >= found - 1e-12);
    }
    Permuted {
        bits: found,
        permuted_bits: total / PERMUTATIONS as f64,
        p: (1 + as_many) as f64 / (1 + PERMUTATIONS) as f64,
        n,
        labels,
    }
}

/// The control for one arm (its reads of all seeds) in one section: among the labels of the section's adapters, by
/// corrected scores, ties shared, seeds averaged.
pub fn control(reads: &[&Read], section: &Section) -> Option<Permuted> {
    let of = |read: &'_ Read| {
        read.readings
            .iter()
            .filter(|r| r.kind == Kind::Positive && Section::of(r) == *section && read.label_at(r).is_some())
            .cloned()
            .collect::<Vec<_>>()
    };
    let all: Vec<(&Read, Vec<_>)> = reads.iter().map(|read| (*read, of(read))).collect();
    let labels: Vec<String> = all
        .iter()
        .flat_map(|(_, rs)| rs.iter().map(|r| r.label.clone()))
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    if labels.len() < 2 {
        return None;
    }
    // adapter -> (truth, answers by seed)
    let mut rows: BTreeMap<String, (usize, Vec<f64>, f64)> = BTreeMap::new();
    for (read, readings) in &all {
        let set = &read.candidates[&section.family];
        let places: Vec<Option<usize>> = labels.iter().map(|l| set.iter().position(|c| c == l)).collect();
        for r in readings {
            let scores: Vec<f64> =
                places.iter().map(|p| p.map_or(f64::NEG_INFINITY, |p| r.values[p])).collect();
            let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let ties = scores.iter().filter(|s| **s == most).count() as f64;
            let truth = labels.iter().position(|l| *l == r.label)?;
            let row = rows.entry(r.adapter.clone()).or_insert_with(|| (truth, vec![0.0; labels.len()], 0.0));
            for (slot, s) in row.1.iter_mut().zip(&scores) {
                *slot += f64::from(u8::from(*s == most)) / ties;
            }
            row.2 += 1.0;
        }
    }
    let truth: Vec<usize> = rows.values().map(|r| r.0).collect();
    let answers: Vec<Vec<f64>> = rows.values().map(|r| r.1.iter().map(|v| v / r.2).collect()).collect();
    let purpose = format!(
        "permutation|{}|{}|{}|{}",
        reads.first()?.arm,
        section.family,
        section.split,
        section.context
    );
    Some(permute(&answers, &truth, labels.len(), &purpose))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measures::read;
    use crate::scores::tests::{item, scores};

    #[test]
    fn bits_match_hand_computed_cases() {
        assert!((channel_bits(1.0, 8) - 3.0).abs() < 1e-12);
        assert_eq!(channel_bits(0.125, 8), 0.0);
        assert_eq!(channel_bits(0.0, 8), 0.0);
        // K = 4, P = 1/2: 2 - 1/2 + 1/2 log2(1/6).
        assert!((channel_bits(0.5, 4) - (2.0 - 0.5 - 0.5 * 6f64.log2())).abs() < 1e-12);
        assert!((channel_bits(0.9, 2) - 0.531).abs() < 1e-3);
    }

    fn identity(n: usize, shift: usize) -> Vec<Vec<f64>> {
        (0..n).map(|i| (0..n).map(|k| f64::from(u8::from(k == (i + shift) % n))).collect()).collect()
    }

    #[test]
    fn the_control_fails_where_answers_are_right_about_nobody() {
        let truth: Vec<usize> = (0..12).collect();
        let right = permute(&identity(12, 0), &truth, 12, "x");
        assert!((right.bits - 12f64.log2()).abs() < 1e-12);
        assert!(right.permuted_bits < 0.3 && right.p < 0.002, "{right:?}");
        // As many different answers, each about another adapter: the plain mutual information would be log2 12 as well.
        let wrong = permute(&identity(12, 1), &truth, 12, "x");
        assert_eq!((wrong.bits, wrong.p), (0.0, 1.0));
        assert_eq!(right, permute(&identity(12, 0), &truth, 12, "x"));
    }

    #[test]
    fn p_is_small_as_often_as_it_says() {
        use rand::Rng;
        let mut rng = stream("guessing");
        let truth: Vec<usize> = (0..24).collect();
        let small = (0..100)
            .filter(|trial| {
                let answers: Vec<Vec<f64>> = (0..24)
                    .map(|_| {
                        let said = rng.random_range(0..24usize);
                        (0..24).map(|k| f64::from(u8::from(k == said))).collect()
                    })
                    .collect();
                permute(&answers, &truth, 24, &trial.to_string()).p < 0.05
            })
            .count();
        assert!(small <= 10, "{small} of 100 guessers");
    }

    #[test]
    fn an_arm_is_judged_among_the_labels_of_the_section() {
        // "nothing" is ahead everywhere, but is no label of an adapter.
        let items = vec![
            item("x/cats", "test_value", "cats", [2.0, 0.0, 0.0, 9.0]),
            item("x/dogs", "test_value", "dogs", [0.0, 2.0, 0.0, 9.0]),
            item("x/tea", "test_value", "tea", [0.0, 0.0, 0.0, 9.0]),
        ];
        let read = read(&scores("dit", true, 1, items));
        let section =
            Section { family: "topic".into(), split: "test_value".into(), context: "neutral".into() };
        let found = control(&[&read], &section).unwrap();
        assert_eq!((found.n, found.labels), (3, 3));
        assert!((found.bits - channel_bits((2.0 + 1.0 / 3.0) / 3.0, 3)).abs() < 1e-12);
    }
}
