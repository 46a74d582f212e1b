//! What explains a hit: adapters whose gate is closed apart, and rank correlation with a covariate.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;

use crate::bootstrap::{quantile, stream};
use crate::scores::Covariate;

/// Below this leak at the readers' questions, in nats, a gate counts as closed.
pub const CLOSED_NATS: f64 = 0.5;

/// Draws for the interval of a correlation.
const DRAWS: usize = 1_000;

/// Adapters whose label gains less than [`CLOSED_NATS`] at the readers' questions.
pub fn closed(covariates: &[Covariate]) -> BTreeSet<String> {
    covariates
        .iter()
        .filter(|c| c.name == "leak_question_nats" && c.value < CLOSED_NATS)
        .map(|c| c.adapter.clone())
        .collect()
}

/// name -> adapter -> value.
pub fn by_name(covariates: &[Covariate]) -> BTreeMap<String, BTreeMap<String, f64>> {
    let mut out: BTreeMap<String, BTreeMap<String, f64>> = BTreeMap::new();
    for c in covariates.iter().filter(|c| c.value.is_finite()) {
        out.entry(c.name.clone()).or_default().insert(c.adapter.clone(), c.value);
    }
    out
}

/// Ranks from 1, ties sharing their mean.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut out = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let end = start + order[start..].iter().take_while(|i| values[**i] == values[order[start]]).count();
        for i in &order[start..end] {
            out[*i] = (start + end + 1) as f64 / 2.0;
        }
        start = end;
    }
    out
}

/// Spearman's rank correlation; `None` if either side is constant.
pub fn spearman(x: &[f64], y: &[f64]) -> Option<f64> {
    let (x, y) = (ranks(x), ranks(y));
    let centre = f64::midpoint(x.len() as f64, 1.0);
    let sum =
        |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| (a - centre) * (b - centre)).sum() };
    let scale = (sum(&x, &x) * sum(&y, &y)).sqrt();
    (scale > 0.0).then(|| sum(&x, &y) / scale)
}

/// Spearman's correlation with a 95% bootstrap interval over adapters. `None` below 5 adapters or if either is constant.
pub fn correlation(x: &[f64], y: &[f64], purpose: &str) -> Option<(f64, f64, f64)> {
    let n = x.len();
    if n < 5 {
        return None;
    }
    let rho = spearman(x, y)?;
    let mut rng = stream(purpose);
    let mut draws = Vec::with_capacity(DRAWS);
    let (mut a, mut b) = (vec![0.0; n], vec![0.0; n]);
    for _ in 0..DRAWS {
        for i in 0..n {
            let at = rng.random_range(0..n);
            (a[i], b[i]) = (x[at], y[at]);
        }
        draws.extend(spearman(&a, &b));
    }
    draws.sort_unstable_by(f64::total_cmp);
    if draws.is_empty() {
        return None;
    }
    Some((rho, quantile(&draws, 0.025).min(rho), quantile(&draws, 0.975).max(rho)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_and_correlations_match_hand_computed_cases() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[10.0, 20.0, 90.0]), Some(1.0));
        // Ranks (1,2,3,4) and (2,1,4,3): 1 - 6*4/60 = .6.
        assert!((spearman(&[1.0, 2.0, 3.0, 4.0], &[2.0, 1.0, 4.0, 3.0]).unwrap() - 0.6).abs() < 1e-12);
        assert_eq!(spearman(&[1.0, 1.0], &[1.0, 2.0]), None);
        assert_eq!(correlation(&[1.0; 4], &[1.0; 4], "x"), None);
        let x: Vec<f64> = (0..30).map(f64::from).collect();
        let y: Vec<f64> = x.iter().map(|v| f64::from(u8::from(*v > 14.0))).collect();
        let (rho, low, high) = correlation(&x, &y, "x").unwrap();
        assert!(rho > 0.8 && low > 0.6 && high <= 1.0 && low < rho && rho < high);
    }

    #[test]
    fn a_gate_is_closed_by_its_leak_at_questions_alone() {
        let c = |adapter: &str, name: &str, value: f64| Covariate {
            adapter: adapter.into(),
            name: name.into(),
            value,
        };
        let all = [
            c("a", "leak_question_nats", 0.4),
            c("b", "leak_question_nats", 0.6),
            c("b", "leak_neutral_nats", 0.0),
        ];
        assert_eq!(closed(&all), BTreeSet::from(["a".to_owned()]));
        assert_eq!(by_name(&all)["leak_question_nats"].len(), 2);
    }
}
