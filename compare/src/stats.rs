//! Intervals.

use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

/// Draws of a bootstrap.
const DRAWS: usize = 10_000;

/// Mean and 95% interval over units (adapters): percentile bootstrap with a fixed stream. Where all units agree the
/// bootstrap would claim certainty; a share then gets Wilson's interval of as many hits out of as many units.
pub fn mean_interval(units: &[f64], stream: &str) -> (f64, f64, f64) {
    let n = units.len();
    let mean = units.iter().sum::<f64>() / n as f64;
    if units.iter().all(|u| *u == units[0]) {
        let is_share = (0.0..=1.0).contains(&units[0]);
        let (low, high) = if is_share { wilson(units[0] * n as f64, n as f64) } else { (mean, mean) };
        return (mean, low, high);
    }
    let mut rng = ChaCha8Rng::from_seed(*blake3::hash(stream.as_bytes()).as_bytes());
    let mut means: Vec<f64> =
        (0..DRAWS).map(|_| (0..n).map(|_| units[rng.random_range(0..n)]).sum::<f64>() / n as f64).collect();
    means.sort_unstable_by(f64::total_cmp);
    (mean, means[DRAWS * 25 / 1000], means[DRAWS * 975 / 1000 - 1])
}

/// As [`mean_interval`] for differences between arms. Where all units differ by the same, the interval is what as many
/// agreeing shares leave open, on the side or sides where there is room.
pub fn difference_interval(units: &[f64], stream: &str) -> (f64, f64, f64) {
    let first = units[0];
    if units.iter().all(|u| *u == first) && (-1.0..=1.0).contains(&first) {
        let (_, open) = wilson(0.0, units.len() as f64);
        return (first, (first - open).max(-1.0), (first + open).min(1.0));
    }
    mean_interval(units, stream)
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
        let (_, low, high) = mean_interval(&[0.5, 0.5], "x");
        assert!(low < 0.2 && high > 0.8);
        for d in [-1.0, 0.0, 1.0] {
            let (value, low, high) = difference_interval(&[d; 5], "x");
            assert!(value == d && low <= d && high >= d && high - low > 0.3, "{low} {high}");
        }
    }

    #[test]
    fn the_interval_covers_the_truth_about_as_often_as_it_says() {
        let mut rng = ChaCha8Rng::from_seed([7; 32]);
        let mut covered = 0;
        for trial in 0..100 {
            let units: Vec<f64> = (0..60).map(|_| f64::from(u8::from(rng.random_bool(0.6)))).collect();
            let (_, low, high) = mean_interval(&units, &trial.to_string());
            covered += usize::from(low <= 0.6 && 0.6 <= high);
        }
        assert!((86..=100).contains(&covered), "{covered}");
        assert_eq!(mean_interval(&[0.0, 1.0, 1.0], "x"), mean_interval(&[0.0, 1.0, 1.0], "x"));
    }
}
