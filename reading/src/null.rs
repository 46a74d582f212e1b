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
