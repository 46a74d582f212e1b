//! Intervals over adapters and reader seeds, p values, and what they allow to be said.

use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use statrs::distribution::{ContinuousCDF, StudentsT};

/// Draws of a bootstrap.
const DRAWS: usize = 4_000;

/// 97.5% and 95% points of the normal distribution.
const Z95: f64 = 1.959_964;
const Z90: f64 = 1.644_854;

/// What a metric's values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Shares: between 0 and 1 for every adapter.
    Share,
    /// Unbounded, such as nats.
    Open,
}

/// A mean and its 95% interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Mean over adapters and seeds.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// A mean difference, its intervals and its two-sided p.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// Mean over adapters and seeds.
    pub value: f64,
    /// 95% interval, lower end.
    pub low: f64,
    /// 95% interval, upper end.
    pub high: f64,
    /// 90% interval, lower end: what two one-sided tests at .05 look at.
    pub low90: f64,
    /// 90% interval, upper end.
    pub high90: f64,
    /// Two-sided p of no difference.
    pub p: f64,
}

/// The deterministic stream of a purpose.
pub(crate) fn stream(purpose: &str) -> ChaCha8Rng {
    ChaCha8Rng::from_seed(*blake3::hash(purpose.as_bytes()).as_bytes())
}

/// Mean and 95% interval of `values` (adapters x seeds; every row as long). Adapters and seeds are resampled independently
/// (the pigeonhole bootstrap, Owen 2007), so that the interval speaks of other adapters and of readers trained again. With
/// few seeds that understates their spread by (s - 1) / s, so seeds' deviations are widened by as much; with one seed
/// their spread is unknown and left out. A share's interval is at least Wilson's of as many hits out of as many adapters,
/// for near 0 and 1 and with few adapters a bootstrap is too narrow.
pub fn two_way(values: &[Vec<f64>], scale: Scale, purpose: &str) -> Interval {
    let (value, draws) = resample(&[values], purpose);
    let (low, high) = (quantile(&draws, 0.025), quantile(&draws, 0.975));
    if scale == Scale::Open {
        return Interval { value, low, high };
    }
    at_least_wilson(value, (low, high), values.len() as f64)
}

/// As [`two_way`] for the mean over families of each family's share. Families weigh the same, so together they are as sure as F² / sum of 1/n
/// adapters.
pub fn macro_share(families: &[&[Vec<f64>]], purpose: &str) -> Interval {
    let (value, draws) = resample(families, purpose);
    let n = (families.len() as f64).powi(2) / families.iter().map(|f| 1.0 / f.len() as f64).sum::<f64>();
    at_least_wilson(value, (quantile(&draws, 0.025), quantile(&draws, 0.975)), n)
}

fn at_least_wilson(value: f64, (low, high): (f64, f64), n: f64) -> Interval {
    let (least, most) = wilson(value * n, n);
    Interval { value, low: low.min(least).max(0.0), high: high.max(most).min(1.0) }
}

/// As [`two_way`] for differences between two arms on the same adapters. A difference of shares is at least as uncertain
/// as the adjusted Wald interval for matched pairs (Agresti and Min 2005: half an observation in each of the four cells),
/// and its p at least that test's.
pub fn two_way_difference(values: &[Vec<f64>], scale: Scale, purpose: &str) -> Difference {
    macro_difference(&[values], scale, purpose)
}

/// As [`two_way_difference`] for the mean over families of each family's mean: adapters are resampled within their family
/// (families are fixed: the interval speaks of these families only), seeds for all families together.
pub fn macro_difference(families: &[&[Vec<f64>]], scale: Scale, purpose: &str) -> Difference {
    let (value, draws) = resample(families, purpose);
    let count = |test: fn(&f64) -> bool| 1 + draws.iter().filter(|d| test(d)).count();
    let side = count(|d| *d <= 0.0).min(count(|d| *d >= 0.0));
    let mut out = Difference {
        value,
        low: quantile(&draws, 0.025),
        high: quantile(&draws, 0.975),
        low90: quantile(&draws, 0.05),
        high90: quantile(&draws, 0.95),
        p: two_sided(value, side, &draws),
    };
    if scale == Scale::Share {
        let adjusted: Vec<(f64, f64)> = families.iter().map(|f| adjusted_wald(f)).collect();
        let k = families.len() as f64;
        let centre = adjusted.iter().map(|a| a.0).sum::<f64>() / k;
        let error = adjusted.iter().map(|a| a.1).sum::<f64>().sqrt() / k;
        out.low = out.low.min(centre - Z95 * error).max(-1.0);
        out.high = out.high.max(centre + Z95 * error).min(1.0);
        out.low90 = out.low90.min(centre - Z90 * error).max(-1.0);
        out.high90 = out.high90.max(centre + Z90 * error).min(1.0);
        out.p = out.p.max(2.0 * upper_tail(centre.abs() / error));
    }
    out
}

/// As [`two_way_difference`] where a row is the mean of a whole family or group, one of those that another study would draw anew. Such rows are
/// few, and a bootstrap of few rows is too narrow (of ten by nearly a fifth): intervals and p are at least those of Student's t over rows.
pub fn few_rows_difference(rows: &[Vec<f64>], scale: Scale, purpose: &str) -> Difference {
    let mut out = two_way_difference(rows, scale, purpose);
    let (n, of_rows) = (rows.len() as f64, rows.iter().map(|r| mean(r)).collect::<Vec<_>>());
    let centre = mean(&of_rows);
    let error = (of_rows.iter().map(|m| (m - centre).powi(2)).sum::<f64>() / (n - 1.0) / n).sqrt();
    let Ok(student) = StudentsT::new(centre, error, n - 1.0) else { return out };
    let end = |q: f64| student.inverse_cdf(q);
    (out.low, out.high) = (out.low.min(end(0.025)), out.high.max(end(0.975)));
    (out.low90, out.high90) = (out.low90.min(end(0.05)), out.high90.max(end(0.95)));
    out.p = out.p.max(2.0 * student.cdf(0.0).min(student.sf(0.0)));
    if scale == Scale::Share {
        (out.low, out.high) = (out.low.max(-1.0), out.high.min(1.0));
        (out.low90, out.high90) = (out.low90.max(-1.0), out.high90.min(1.0));
    }
    out
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Two-sided p of no difference: twice the share of draws on the far side (`side`, of draws plus one). Where hardly any are
/// there, counting them would make p a matter of how many were drawn, and Holm over many contrasts could find nothing; the
/// normal tail at the draws' standard deviation is taken instead.
fn two_sided(value: f64, side: usize, draws: &[f64]) -> f64 {
    let counted = (2.0 * side as f64 / (draws.len() + 1) as f64).min(1.0);
    let centre = mean(draws);
    let spread = mean(&draws.iter().map(|d| (d - centre) * (d - centre)).collect::<Vec<_>>()).sqrt();
    if side > 10 || spread == 0.0 { counted } else { counted.min(2.0 * upper_tail(value.abs() / spread)) }
}

/// Centre and squared standard error of differences of shares with half an observation in each cell.
fn adjusted_wald(values: &[Vec<f64>]) -> (f64, f64) {
    let units: Vec<f64> = values.iter().map(|row| mean(row)).collect();
    let n = units.len() as f64 + 2.0;
    let centre = units.iter().sum::<f64>() / n;
    let squares = units.iter().map(|d| d * d).sum::<f64>() + 1.0;
    (centre, ((squares / n - centre * centre) / n).max(0.0))
}

/// The mean over families of their means, and resampled ones in order.
fn resample(families: &[&[Vec<f64>]], purpose: &str) -> (f64, Vec<f64>) {
    let seeds = families[0][0].len();
    let k = families.len() as f64;
    let columns: Vec<f64> = (0..seeds)
        .map(|s| {
            families.iter().map(|f| f.iter().map(|row| row[s]).sum::<f64>() / f.len() as f64).sum::<f64>() / k
        })
        .collect();
    let centre = mean(&columns);
    let widen = if seeds > 1 { (seeds as f64 / (seeds - 1) as f64).sqrt() - 1.0 } else { 0.0 };
    let mut rng = stream(purpose);
    let mut weights = vec![0.0; seeds];
    let mut draws: Vec<f64> = (0..DRAWS)
        .map(|_| {
            weights.fill(0.0);
            for _ in 0..seeds {
                weights[if seeds == 1 { 0 } else { rng.random_range(0..seeds) }] += 1.0 / seeds as f64;
            }
            let shift: f64 = columns.iter().zip(&weights).map(|(c, w)| (c - centre) * widen * w).sum();
            let mut total = 0.0;
            for family in families {
                let n = family.len();
                let sum: f64 = (0..n)
                    .map(|_| {
                        let row = &family[rng.random_range(0..n)];
                        row.iter().zip(&weights).map(|(v, w)| v * w).sum::<f64>()
                    })
                    .sum();
                total += sum / n as f64;
            }
            total / k + shift
        })
        .collect();
    draws.sort_unstable_by(f64::total_cmp);
    (centre, draws)
}

/// Quantile of sorted draws.
pub(crate) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let last = sorted.len() - 1;
    sorted[((q * sorted.len() as f64 - 0.5).round().max(0.0) as usize).min(last)]
}

/// Wilson's 95% interval of `hits` out of `n`.
pub fn wilson(hits: f64, n: f64) -> (f64, f64) {
    let p = hits / n;
    let denominator = 1.0 + Z95 * Z95 / n;
    let centre = (p + Z95 * Z95 / (2.0 * n)) / denominator;
    let half = Z95 * (p * (1.0 - p) / n + Z95 * Z95 / (4.0 * n * n)).max(0.0).sqrt() / denominator;
    ((centre - half).max(0.0), (centre + half).min(1.0))
}

/// P(Z > z) for z >= 0 (Abramowitz and Stegun 26.2.17, error below 1e-7).
fn upper_tail(z: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * z);
    let series = t
        * (0.319_381_530
            + t * (-0.356_563_782 + t * (1.781_477_937 + t * (-1.821_255_978 + t * 1.330_274_429))));
    ((-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt() * series).clamp(0.0, 0.5)
}

/// Holm's step-down adjustment of p values, in the order given.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*a].total_cmp(&p[*b]));
    let mut out = vec![0.0; p.len()];
    let mut most = 0f64;
    for (i, at) in order.into_iter().enumerate() {
        most = most.max((p[at] * (p.len() - i) as f64).min(1.0));
        out[at] = most;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        let (low, high) = wilson(78.0, 100.0);
        assert!((low - 0.689).abs() < 1e-3 && (high - 0.850).abs() < 1e-3);
        assert!((upper_tail(1.959_964) - 0.025).abs() < 1e-6 && (upper_tail(0.0) - 0.5).abs() < 1e-6);
        let adjusted = holm(&[0.01, 0.04, 0.03, 0.005]);
        for (got, expected) in adjusted.iter().zip([0.03, 0.06, 0.06, 0.02]) {
            assert!((got - expected).abs() < 1e-12, "{adjusted:?}");
        }
        assert!(holm(&[]).is_empty());
    }

    #[test]
    fn agreement_is_not_certainty() {
        let one = |v: f64, n: usize| vec![vec![v; 3]; n];
        let i = two_way(&one(0.5, 2), Scale::Share, "x");
        assert!(i.low < 0.2 && i.high > 0.8);
        for d in [-1.0, 0.0, 1.0] {
            let i = two_way_difference(&one(d, 5), Scale::Share, "x");
            assert!(i.value == d && i.low <= d && i.high >= d && i.high - i.low > 0.3, "{i:?}");
        }
        let i = two_way_difference(&one(0.0, 40), Scale::Share, "x");
        assert_eq!(i.p, 1.0);
        // By hand for 12 differences of 1: centre 12/14, squares 13/14, error sqrt((.9286 - .7347) / 14) = .1177.
        let i = two_way_difference(&one(1.0, 12), Scale::Share, "x");
        assert!((i.low - (12.0 / 14.0 - 1.96 * 0.1177)).abs() < 1e-3 && i.p < 1e-3, "{i:?}");
        let nats = two_way(&one(0.5, 3), Scale::Open, "x");
        assert_eq!((nats.value, nats.low, nats.high), (0.5, 0.5, 0.5));
    }

    #[test]
    fn few_rows_are_as_unsure_as_student_says() {
        // By hand: error .10770, t of 4 degrees 2.77645 (95%) and 2.13185 (90%); p by the closed form of that distribution at t = 2.22834.
        let rows: Vec<Vec<f64>> = [0.1, 0.3, 0.5, -0.1, 0.4].iter().map(|v| vec![*v]).collect();
        let d = few_rows_difference(&rows, Scale::Open, "x");
        let known = [
            (d.value, 0.24),
            (d.low, -0.05903),
            (d.high, 0.53903),
            (d.low90, 0.01039),
            (d.high90, 0.46961),
            (d.p, 0.08978),
        ];
        assert!(known.iter().all(|(got, wanted)| (got - wanted).abs() < 2e-5), "{d:?}");
        let narrow = two_way_difference(&rows, Scale::Open, "x");
        assert!(narrow.low > d.low && narrow.p < d.p, "{narrow:?}");
        // Rows that are all alike have no spread; what a share's interval is at least stays.
        let alike = vec![vec![0.5]; 4];
        assert_eq!(
            few_rows_difference(&alike, Scale::Share, "x"),
            two_way_difference(&alike, Scale::Share, "x")
        );
    }

    #[test]
    fn families_count_alike_whatever_their_size() {
        let (small, large) = (vec![vec![1.0, 0.5]; 4], vec![vec![0.0, 0.0]; 40]);
        let d = macro_difference(&[&small, &large], Scale::Open, "x");
        assert!((d.value - 0.375).abs() < 1e-12, "{d:?}");
        // Adapters are alike, so only the two seeds vary: .5 and .25, widened by the square root of 2 about their mean.
        let far = 0.125 * 2f64.sqrt();
        assert!((d.low - (0.375 - far)).abs() < 1e-9 && (d.high - (0.375 + far)).abs() < 1e-9, "{d:?}");
        let one = macro_difference(&[&small], Scale::Share, "x");
        assert_eq!(one, two_way_difference(&small, Scale::Share, "x"));
    }

    #[test]
    fn p_is_not_bounded_by_the_number_of_draws() {
        let clear: Vec<Vec<f64>> = (0..64).map(|i| vec![if i < 8 { 0.0 } else { 1.0 }]).collect();
        let d = two_way_difference(&clear, Scale::Share, "x");
        assert!(d.p < 1e-8 && d.p > 0.0, "{d:?}");
        // With 8 of 12 for and 4 against the count decides: a sign test would say .39.
        let unclear: Vec<Vec<f64>> = (0..12).map(|i| vec![if i < 8 { 1.0 } else { -1.0 }]).collect();
        let d = two_way_difference(&unclear, Scale::Share, "x");
        assert!((0.15..0.4).contains(&d.p), "{d:?}");
    }

    fn hits(rng: &mut ChaCha8Rng, n: usize, shares: &[f64]) -> Vec<Vec<f64>> {
        (0..n).map(|_| shares.iter().map(|p| f64::from(u8::from(rng.random_bool(*p)))).collect()).collect()
    }

    #[test]
    fn the_interval_covers_the_truth_about_as_often_as_it_says() {
        let mut rng = stream("coverage");
        for (n, p) in [(60, 0.6), (32, 0.97), (8, 0.8)] {
            let covered = (0..120)
                .filter(|trial| {
                    let i = two_way(&hits(&mut rng, n, &[p]), Scale::Share, &trial.to_string());
                    i.low <= p && p <= i.high
                })
                .count();
            assert!(covered >= 108, "{n} adapters of {p}: {covered} of 120");
        }
        for (n, p, q) in [(32, 0.9, 0.95), (8, 0.5, 0.9)] {
            let covered = (0..120)
                .filter(|trial| {
                    let pairs: Vec<Vec<f64>> =
                        hits(&mut rng, n, &[p, q]).iter().map(|r| vec![r[0] - r[1]]).collect();
                    let i = two_way_difference(&pairs, Scale::Share, &trial.to_string());
                    i.low <= p - q && p - q <= i.high
                })
                .count();
            assert!(covered >= 108, "{n} pairs of {p} and {q}: {covered} of 120");
        }
        let twice = || two_way(&[vec![0.0, 1.0], vec![1.0, 1.0]], Scale::Share, "x");
        assert_eq!(twice(), twice());
    }

    #[test]
    fn seeds_that_differ_widen_the_interval_enough() {
        let mut rng = stream("seed effect");
        // Readers of three seeds whose own share is .5 plus or minus .05 (standard deviation .041, as measured), on the
        // same adapters.
        let mut covered = 0;
        let mut ignoring = 0;
        for trial in 0..150 {
            let shares: Vec<f64> =
                (0..3).map(|_| 0.5 + [-0.05, 0.0, 0.05][rng.random_range(0..3usize)]).collect();
            let values = hits(&mut rng, 200, &shares);
            let i = two_way(&values, Scale::Open, &trial.to_string());
            covered += usize::from(i.low <= 0.5 && 0.5 <= i.high);
            let flat: Vec<Vec<f64>> = values.iter().map(|r| vec![mean(r)]).collect();
            let i = two_way(&flat, Scale::Open, &trial.to_string());
            ignoring += usize::from(i.low <= 0.5 && 0.5 <= i.high);
        }
        assert!(covered >= 135, "{covered} of 150");
        assert!(ignoring < covered, "without seeds: {ignoring} of 150, with: {covered}");
    }

    #[test]
    fn p_is_small_as_often_as_it_says() {
        let mut rng = stream("p values");
        let small = (0..200)
            .filter(|trial| {
                let pairs: Vec<Vec<f64>> =
                    hits(&mut rng, 40, &[0.6, 0.6]).iter().map(|r| vec![r[0] - r[1]]).collect();
                two_way_difference(&pairs, Scale::Share, &trial.to_string()).p < 0.05
            })
            .count();
        assert!(small <= 18, "{small} of 200 under no difference");
    }
}
