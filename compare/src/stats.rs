//! Intervals.

use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

/// Draws of a bootstrap.
const DRAWS: usize = 10_000;

/// What a metric's values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Shares: between 0 and 1 for every unit.
    Share,
    /// Unbounded, such as nats.
    Open,
}

/// Mean and 95% interval over units (adapters): percentile bootstrap with a fixed stream. Near 0 and 1 and with few units
/// the bootstrap of a share is too narrow (all units alike would even be certain), so a share's interval is at least
/// Wilson's of as many hits out of as many units.
pub fn mean_interval(units: &[f64], scale: Scale, stream: &str) -> (f64, f64, f64) {
    let (mean, low, high) = bootstrap(units, stream);
    if scale == Scale::Open {
        return (mean, low, high);
    }
    let n = units.len() as f64;
    let (least, most) = wilson(mean * n, n);
    (mean, low.min(least), high.max(most))
}

/// As [`mean_interval`] for differences between arms on the same units. A difference of shares is at least as uncertain as
/// the adjusted Wald interval for matched pairs (Agresti and Min 2005: half an observation in each of the four cells).
pub fn difference_interval(units: &[f64], scale: Scale, stream: &str) -> (f64, f64, f64) {
    let (mean, low, high) = bootstrap(units, stream);
    if scale == Scale::Open {
        return (mean, low, high);
    }
    let n = units.len() as f64 + 2.0;
    let centre = units.iter().sum::<f64>() / n;
    let squares = units.iter().map(|d| d * d).sum::<f64>() + 1.0;
    let half = 1.959_964 * ((squares / n - centre * centre) / n).max(0.0).sqrt();
    (mean, low.min(centre - half).max(-1.0), high.max(centre + half).min(1.0))
}

/// Mean, and the 2.5% and 97.5% points of resampled means.
fn bootstrap(units: &[f64], stream: &str) -> (f64, f64, f64) {
    let n = units.len();
    let mean = units.iter().sum::<f64>() / n as f64;
    let mut rng = ChaCha8Rng::from_seed(*blake3::hash(stream.as_bytes()).as_bytes());
    let mut means: Vec<f64> =
        (0..DRAWS).map(|_| (0..n).map(|_| units[rng.random_range(0..n)]).sum::<f64>() / n as f64).collect();
    means.sort_unstable_by(f64::total_cmp);
    (mean, means[DRAWS * 25 / 1000], means[DRAWS * 975 / 1000 - 1])
}

/// Wilson's 95% interval of `hits` out of `n`.
pub fn wilson(hits: f64, n: f64) -> (f64, f64) {
    let z = 1.959_964;
    let p = hits / n;
    let denominator = 1.0 + z * z / n;
    let centre = (p + z * z / (2.0 * n)) / denominator;
    let half = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt() / denominator;
    ((centre - half).max(0.0), (centre + half).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilson_matches_known_values() {
        let (low, high) = wilson(78.0, 100.0);
        assert!((low - 0.689).abs() < 1e-3 && (high - 0.850).abs() < 1e-3);
        let (low, high) = wilson(0.0, 10.0);
        assert!(low.abs() < 1e-12 && (high - 0.2775).abs() < 1e-3);
    }

    #[test]
    fn agreement_is_not_certainty() {
        let (_, low, high) = mean_interval(&[0.5, 0.5], Scale::Share, "x");
        assert!(low < 0.2 && high > 0.8);
        for d in [-1.0, 0.0, 1.0] {
            let (value, low, high) = difference_interval(&[d; 5], Scale::Share, "x");
            assert!(value == d && low <= d && high >= d && high - low > 0.3, "{low} {high}");
        }
        let (all, almost) = (vec![1.0; 32], [vec![1.0; 31], vec![0.5]].concat());
        let lowest = |units: &[f64]| mean_interval(units, Scale::Share, "x").1;
        assert!(lowest(&almost) < lowest(&all), "a worse result has no better bound");
        // Nats have no bounds: units alike stay alike.
        assert_eq!(mean_interval(&[0.5; 3], Scale::Open, "x"), (0.5, 0.5, 0.5));
    }

    #[test]
    fn the_interval_covers_the_truth_about_as_often_as_it_says() {
        let mut rng = ChaCha8Rng::from_seed([7; 32]);
        for (n, p) in [(60, 0.6), (32, 0.97), (8, 0.8), (5, 0.5)] {
            let mut covered = 0;
            for trial in 0..200 {
                let units: Vec<f64> = (0..n).map(|_| f64::from(u8::from(rng.random_bool(p)))).collect();
                let (_, low, high) = mean_interval(&units, Scale::Share, &trial.to_string());
                covered += usize::from(low <= p && p <= high);
            }
            assert!(covered >= 180, "{n} units of {p}: {covered} of 200");
        }
        for (n, p, q) in [(32, 0.9, 0.95), (8, 0.5, 0.9)] {
            let mut covered = 0;
            for trial in 0..200 {
                let mut draw = |p| f64::from(u8::from(rng.random_bool(p)));
                let units: Vec<f64> = (0..n).map(|_| draw(p) - draw(q)).collect();
                let (_, low, high) = difference_interval(&units, Scale::Share, &trial.to_string());
                covered += usize::from(low <= p - q && p - q <= high);
            }
            assert!(covered >= 180, "{n} pairs of {p} and {q}: {covered} of 200");
        }
        let twice = || mean_interval(&[0.0, 1.0, 1.0], Scale::Share, "x");
        assert_eq!(twice(), twice());
    }
}
