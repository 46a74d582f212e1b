//! Ridge regression from the mean activation difference to the label's row of the unembedding (Hoerl and Kennard 1970; in
//! its kernel form, Saunders et al. 1998): the linear reader in closed form, which can name labels that it never saw.

use std::collections::{BTreeMap, BTreeSet};

use nalgebra::{Cholesky, DMatrix};
use readers::{Arm, Case, Lab, Method, Reader, Result, Scored};
use recipes::Split;
use registry::Store;

use super::mean_diff::MeanDiffs;
use super::values::{Scores, all_first_tokens, best, places};

/// Trained on all families' training subjects that carry something, at once; scores are the values' mean-centred rows times
/// the prediction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ridge;

/// Strengths of the penalty, in units of the kernel's mean diagonal.
const PENALTIES: [f64; 5] = [1e-2, 1e-1, 1.0, 1e1, 1e2];

impl Method for Ridge {
    fn name(&self) -> &'static str {
        "ridge"
    }

    fn about(&self) -> &'static str {
        "ridge regression from the mean activation difference to the label's unembedding row; layer and penalty chosen on validation adapters"
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
        let rows = Rows::of(lab)?;
        let mut variants = Vec::new();
        for (at, layer) in diffs.collector.layers.iter().enumerate() {
            for (penalty, scores) in PENALTIES.iter().zip(fit(lab, &diffs, at, &rows, cases)?) {
                variants.push((format!("block {layer}, penalty {penalty}"), scores));
            }
        }
        Ok(best(lab, cases, "ridge", variants))
    }
}

/// Rows of the unembedding of all values' first tokens, their mean taken off: `[token, hidden_size]`.
struct Rows {
    tokens: Vec<u32>,
    rows: DMatrix<f64>,
}

impl Rows {
    fn of(lab: Lab<'_>) -> Result<Self> {
        let tokens = all_first_tokens(lab);
        let found = lab.base.decoder.unembedding(&tokens)?;
        let mut rows =
            DMatrix::from_fn(tokens.len(), lab.base.architecture.hidden_size, |t, d| f64::from(found[t][d]));
        if !tokens.is_empty() {
            let mean = rows.row_mean();
            rows.row_iter_mut().for_each(|mut row| row -= &mean);
        }
        Ok(Self { tokens, rows })
    }

    fn place(&self, token: u32) -> Option<usize> {
        self.tokens.binary_search(&token).ok()
    }
}

/// Scores of all cases under each of [`PENALTIES`].
fn fit(lab: Lab<'_>, diffs: &MeanDiffs, at: usize, rows: &Rows, cases: &[Case]) -> Result<Vec<Scores>> {
    let mut known: Vec<(&Vec<f32>, usize)> = Vec::new();
    for subject in lab.supervision.positives(Split::Train) {
        let Some(record) = lab.supervision.records.get(subject) else { continue };
        let Some(set) = lab.sets.get(&record.family) else { continue };
        let token = set.names.iter().position(|n| *n == record.value).map(|i| set.tokens[i][0]);
        if let (Some(d), Some(row)) = (diffs.trained(subject, at), token.and_then(|t| rows.place(t))) {
            known.push((d, row));
        }
    }
    let matrix = |of: &[&Vec<f32>]| {
        DMatrix::from_fn(of.len(), lab.base.architecture.hidden_size, |i, d| f64::from(of[i][d]))
    };
    // Each subject in each context once, whatever it is asked.
    let asked: Vec<_> = cases.iter().map(|c| (c.subject.as_deref(), c.context)).collect();
    let distinct: BTreeSet<_> = asked.iter().copied().collect();
    let row_of: BTreeMap<_, usize> = distinct.iter().enumerate().map(|(i, k)| (*k, i)).collect();
    let mut shown: Vec<Vec<f32>> = vec![vec![]; distinct.len()];
    for (case, key) in cases.iter().zip(&asked) {
        let own = &mut shown[row_of[key]];
        if own.is_empty() {
            *own = diffs.of(case, at);
        }
    }
    let train = matrix(&known.iter().map(|(d, _)| *d).collect::<Vec<_>>());
    let targets = DMatrix::from_fn(known.len(), rows.rows.ncols(), |i, d| rows.rows[(known[i].1, d)]);
    let kernel = &train * train.transpose();
    let across = matrix(&shown.iter().collect::<Vec<_>>()) * train.transpose();
    let places = places(lab);
    let unit = kernel.trace() / known.len().max(1) as f64;
    PENALTIES
        .iter()
        .map(|penalty| {
            let dual = solve(&kernel, penalty * unit, &targets)?;
            let scores = &across * dual * rows.rows.transpose();
            let of = |(case, key): (&Case, _)| -> Vec<f32> {
                let values = places.get(case.family.as_str()).map_or(&[][..], Vec::as_slice);
                values.iter().map(|&t| scores[(row_of[key], t)] as f32).collect()
            };
            Ok(cases.iter().zip(&asked).map(of).collect())
        })
        .collect()
}

/// `(K + penalty I)^-1 Y`.
fn solve(kernel: &DMatrix<f64>, penalty: f64, targets: &DMatrix<f64>) -> Result<DMatrix<f64>> {
    let n = kernel.nrows();
    let ridge = kernel + DMatrix::identity(n, n) * penalty;
    let refused =
        || readers::Error::Empty("the training adapters show no difference to regress on".to_owned());
    Ok(Cholesky::new(ridge).ok_or_else(refused)?.solve(targets))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::planted::{Labels, Planted, Write};

    #[test]
    fn it_names_planted_labels_seen_and_unseen() {
        let world = Planted::new(Write::Label);
        let scored = world.score(&Ridge, &Arm::of("ridge"));
        world.reads(&scored, Labels::Seen);
        // Of 32 dimensions the 13 labels that it saw span 13: of another label it predicts a part, which says less.
        let ahead = world.ahead(&scored, Labels::Unseen);
        assert!(ahead.iter().sum::<usize>() < 4 * ahead.len(), "{ahead:?}");
        let base = world.cases.iter().position(|c| c.subject.is_none()).unwrap();
        assert!(scored.answers[base].scores[..24].iter().all(|s| *s == 0.0));
    }

    #[test]
    fn noise_teaches_nothing() {
        let world = Planted::new(Write::Noise);
        let scored = world.score(&Ridge, &Arm::of("ridge"));
        world.finds_nothing(&scored, Labels::Seen);
        world.finds_nothing(&scored, Labels::Unseen);
    }

    #[test]
    fn the_kernel_form_is_the_primal_one() {
        let x = DMatrix::from_fn(3, 5, |i, j| ((i * 5 + j) as f64).sin());
        let y = DMatrix::from_fn(3, 2, |i, j| ((i * 2 + j) as f64).cos());
        let dual = solve(&(&x * x.transpose()), 0.3, &y).unwrap();
        let primal = (x.transpose() * &x + DMatrix::identity(5, 5) * 0.3).try_inverse().unwrap();
        assert!((x.transpose() * dual - primal * x.transpose() * y).norm() < 1e-9);
    }
}
