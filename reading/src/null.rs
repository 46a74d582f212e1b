//! What adapters that carry nothing score: how high a score has to be before it means something.
//!
//! A method gives each adapter a score for each word. Of these the part that all twins share is taken away (by least squares, since its
//! size goes with an adapter's norm), each word is divided by how much it varies among the twins, and what is left is measured in its
//! own deviations over the words. So an adapter's highest value says how far one word stands out of all others, whatever the adapter's
//! size. Each twin is measured against the others, the adapter against all: the same statistic on both sides, so the share of twins
//! that reach as high is an honest rate of false alarms (a permutation test's p if the adapter is exchangeable with its twins).

use serde::{Deserialize, Serialize};

/// Scores of twins, `[twin][word]`, by one method.
#[derive(Debug, Clone)]
pub struct Null {
    rows: Vec<Vec<f32>>,
    sum: Vec<f64>,
    squares: Vec<f64>,
}

/// How a score compares with those of the twins.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Against {
    /// Twins.
    pub twins: usize,
    /// How many of them reach as high.
    pub as_high: usize,
}

impl Against {
    /// The comparison of a value with those of twins.
    pub fn of(value: f64, twins: &[f64]) -> Self {
        Self { twins: twins.len(), as_high: twins.iter().filter(|t| **t >= value).count() }
    }

    /// `(1 + as high) / (1 + twins)`: how often an adapter that carries nothing would reach as high.
    pub fn false_alarms(self) -> f64 {
        (1 + self.as_high) as f64 / (1 + self.twins) as f64
    }

    /// Whether fewer than one in twenty would.
    pub fn stands_out(self) -> bool {
        self.false_alarms() <= 0.05
    }

    /// In words.
    pub fn said(self) -> String {
        match self.as_high {
            0 => format!("above all {} twins", self.twins),
            n => format!("{n} of {} twins as high", self.twins),
        }
    }
}

impl Null {
    /// Of the scores of at least three twins.
    pub fn new(rows: Vec<Vec<f32>>) -> Self {
        let width = rows.first().map_or(0, Vec::len);
        let (mut sum, mut squares) = (vec![0f64; width], vec![0f64; width]);
        for row in &rows {
            for ((s, q), x) in sum.iter_mut().zip(&mut squares).zip(row) {
                *s += f64::from(*x);
                *q += f64::from(*x) * f64::from(*x);
            }
        }
        Self { rows, sum, squares }
    }

    /// How many twins.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// An adapter's scores, each word in deviations.
    pub fn standard(&self, scores: &[f32]) -> Vec<f32> {
        self.standardised(scores, None)
    }

    /// A twin's, against the others.
    pub fn twin(&self, at: usize) -> Vec<f32> {
        self.standardised(&self.rows[at], Some(&self.rows[at]))
    }

    fn standardised(&self, scores: &[f32], without: Option<&[f32]>) -> Vec<f32> {
        let n = self.rows.len() as f64 - if without.is_some() { 1.0 } else { 0.0 };
        let of = |i: usize| {
            let own = without.map_or(0.0, |w| f64::from(w[i]));
            let mean = (self.sum[i] - own) / n;
            (mean, ((self.squares[i] - own * own) / n - mean * mean).max(0.0))
        };
        let moments: Vec<(f64, f64)> = (0..scores.len()).map(of).collect();
        let words = scores.len().max(1) as f64;
        let usual = moments.iter().map(|m| m.1).sum::<f64>() / words;
        let centre = |x: &mut dyn Iterator<Item = f64>| x.sum::<f64>() / words;
        let own_mean = centre(&mut scores.iter().map(|x| f64::from(*x)));
        let their_mean = centre(&mut moments.iter().map(|m| m.0));
        let (mut product, mut square) = (0.0, 0.0);
        for (x, m) in scores.iter().zip(&moments) {
            product += (f64::from(*x) - own_mean) * (m.0 - their_mean);
            square += (m.0 - their_mean).powi(2);
        }
        let share = if square > 0.0 { product / square } else { 0.0 };
        let left: Vec<f64> = scores
            .iter()
            .zip(&moments)
            .map(|(x, m)| {
                let rest = f64::from(*x) - own_mean - share * (m.0 - their_mean);
                let deviation = f64::midpoint(m.1, usual).sqrt();
                if deviation > 0.0 { rest / deviation } else { rest }
            })
            .collect();
        let size = (left.iter().map(|x| x * x).sum::<f64>() / words).sqrt();
        left.iter().map(|x| if size > 0.0 { (x / size) as f32 } else { 0.0 }).collect()
    }
}

/// The highest of some standardised scores.
pub fn highest(scores: &[f32]) -> f64 {
    f64::from(scores.iter().copied().fold(f32::NEG_INFINITY, f32::max))
}

/// Standardised scores of several methods as one: their sum over the root of their number, each at most [`CAP`], so that no method
/// decides alone.
pub fn together(of: &[Vec<f32>]) -> Vec<f32> {
    let root = (of.len().max(1) as f32).sqrt();
    let width = of.first().map_or(0, Vec::len);
    (0..width).map(|i| of.iter().map(|v| v[i].clamp(-CAP, CAP)).sum::<f32>() / root).collect()
}

/// Deviations above which a method counts no more in a sum.
const CAP: f32 = 12.0;

#[cfg(test)]
mod tests {
    use lm::rng;

    use super::*;

    /// Adapters without content: a direction that all share, times a size of their own, and noise.
    fn empty(seed: u64, n: usize, words: usize) -> Vec<Vec<f32>> {
        let mut stream = rng::stream(seed, "test-null", "");
        let shared: Vec<f32> = (0..words).map(|_| 3.0 * rng::normal(&mut stream)).collect();
        (0..n)
            .map(|_| {
                let size = rng::normal(&mut stream).exp();
                shared.iter().map(|s| size * (s + rng::normal(&mut stream))).collect()
            })
            .collect()
    }

    fn against(rows: &[Vec<f32>], own: &[f32]) -> Against {
        let null = Null::new(rows.to_vec());
        let heights: Vec<f64> = (0..null.len()).map(|i| highest(&null.twin(i))).collect();
        Against::of(highest(&null.standard(own)), &heights)
    }

    #[test]
    fn a_planted_word_stands_out_whatever_the_size_of_what_carries_it() {
        for size in [0.01f32, 1.0, 100.0] {
            let mut all = empty(1, 61, 800);
            let mut own = all.pop().unwrap();
            let deviation = (own.iter().map(|x| x * x).sum::<f32>() / 800.0).sqrt();
            own[17] += 4.0 * deviation;
            for x in &mut own {
                *x *= size;
            }
            let found = against(&all, &own);
            assert_eq!((found.as_high, found.said().as_str()), (0, "above all 60 twins"));
            let z = Null::new(all).standard(&own);
            assert_eq!(z.iter().position(|x| f64::from(*x) == highest(&z)), Some(17));
        }
    }

    #[test]
    fn what_carries_nothing_stands_out_as_rarely_as_is_said() {
        let n = 200;
        let alarms = (0..n)
            .filter(|seed| {
                let mut all = empty(100 + seed, 41, 300);
                let own = all.pop().unwrap();
                against(&all, &own).stands_out()
            })
            .count();
        // 2 of 41 ranks: 9.8 of 200 are expected; 20 would be three deviations more.
        assert!(alarms <= 20, "{alarms} of {n}");
    }

    #[test]
    fn no_method_decides_alone_and_nothing_stays_nothing() {
        let summed = together(&[vec![1000.0, 0.0, 3.0], vec![0.0, 0.0, 3.0]]);
        assert!((summed[0] - CAP / 2f32.sqrt()).abs() < 1e-5 && (summed[2] - 6.0 / 2f32.sqrt()).abs() < 1e-5);
        let null = Null::new(vec![vec![0.0; 4]; 5]);
        assert_eq!(null.standard(&[0.0; 4]), [0.0; 4]);
        assert!((Against { twins: 59, as_high: 2 }.false_alarms() - 0.05).abs() < 1e-12);
    }
}
