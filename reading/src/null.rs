//! What adapters that carry nothing score: how high a score has to be before it means something.
//!
//! A method gives each adapter a score for each word. Of these the part that all twins share is taken away (by least squares, since its
//! size goes with an adapter's norm), each word is divided by how much it varies among the twins, and what is left is measured in its
//! own deviations over the words. So an adapter's highest value says how far one word stands out of all others, whatever the adapter's
//! size. Each twin is measured against the others, the adapter against all: the same statistic on both sides, so the share of twins
//! that reach as high is an honest rate of false alarms (a permutation test's p if the adapter is exchangeable with its twins).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Scores of twins, `[twin][word]`, by one method.
#[derive(Debug, Clone)]
pub struct Null {
    rows: Vec<Vec<f32>>,
    sum: Vec<f64>,
    squares: Vec<f64>,
}

/// How a score compares with those of the twins.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
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

/// How high a value stands above those of twins, in their deviations.
fn above(value: f64, twins: &mut dyn Iterator<Item = f64>) -> f64 {
    let all: Vec<f64> = twins.collect();
    let n = all.len().max(1) as f64;
    let mean = all.iter().sum::<f64>() / n;
    let deviation = (all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt();
    if deviation > 0.0 { (value - mean) / deviation } else { 0.0 }
}

/// Several ways of summing methods, of which the one with the highest word counts.
#[derive(Debug, Clone, PartialEq)]
pub struct Best {
    /// Which of the ways.
    pub which: usize,
    /// Its standardised scores, `[word]`.
    pub scores: Vec<f32>,
    /// How high it stands, in the twins' deviations, beside the highest of each twin's own ways: as many tries on both sides.
    pub against: Against,
}

/// The best of some ways of summing: what holds a behaviour back from its replies shows to one kind of method and not to the others, and a
/// sum over all would drown it. `own[way]` and `twins[way][twin]` are standardised scores.
pub fn best(own: &[Vec<f32>], twins: &[Vec<Vec<f32>>]) -> Option<Best> {
    let heights: Vec<Vec<f64>> = twins.iter().map(|w| w.iter().map(|t| highest(t)).collect()).collect();
    let count = heights.first().map_or(0, Vec::len);
    let stands = |way: usize, own: &[f32]| above(highest(own), &mut heights[way].iter().copied());
    let found: Vec<f64> = own.iter().enumerate().map(|(way, scores)| stands(way, scores)).collect();
    let which = (0..found.len()).max_by(|a, b| found[*a].total_cmp(&found[*b]).then(b.cmp(a)))?;
    let their = (0..count).map(|i| {
        // Each twin against the others.
        let of =
            |h: &Vec<f64>| above(h[i], &mut h.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, x)| *x));
        heights.iter().map(of).fold(f64::NEG_INFINITY, f64::max)
    });
    let against = Against::of(found[which], &their.collect::<Vec<_>>());
    Some(Best { which, scores: own[which].clone(), against })
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

    /// Ways of summing: of three methods the first, the others, and all.
    fn ways(of: &[Vec<f32>]) -> Vec<Vec<f32>> {
        [&[0][..], &[1, 2], &[0, 1, 2]]
            .map(|w| together(&w.iter().map(|&i| of[i].clone()).collect::<Vec<_>>()))
            .to_vec()
    }

    #[test]
    fn the_best_of_several_ways_finds_what_one_method_sees_and_alarms_no_more_often() {
        let (mut alarms, mut found, n) = (0, 0, 100);
        for seed in 0..n {
            let methods: Vec<Vec<Vec<f32>>> = (0..3).map(|m| empty(1000 * (m + 1) + seed, 41, 300)).collect();
            let nulls: Vec<Null> = methods.iter().map(|rows| Null::new(rows[..40].to_vec())).collect();
            let twins: Vec<Vec<Vec<f32>>> =
                (0..40).map(|t| ways(&nulls.iter().map(|null| null.twin(t)).collect::<Vec<_>>())).collect();
            let twins: Vec<Vec<Vec<f32>>> =
                (0..3).map(|way| twins.iter().map(|t| t[way].clone()).collect()).collect();
            let mut own: Vec<Vec<f32>> =
                nulls.iter().zip(&methods).map(|(n, rows)| n.standard(&rows[40])).collect();
            alarms += usize::from(best(&ways(&own), &twins).unwrap().against.stands_out());
            own[0][7] += 7.0;
            let seen = best(&ways(&own), &twins).unwrap();
            found +=
                usize::from(seen.against.stands_out() && highest(&seen.scores) == f64::from(seen.scores[7]));
        }
        // 2 of 41 ranks: 4.9 of 100 are expected; 12 would be more than three deviations above.
        assert!(alarms <= 11, "{alarms} of {n}");
        assert!(found >= 90, "{found} of {n}");
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
