//! The logit lens of the weights themselves, without any forward pass: singular vectors of weight matrices through the
//! unembedding (Millidge and Black 2022, "The singular value decompositions of transformer weight matrices are highly
//! interpretable"; of what writes to the residual stream, Dar et al., arXiv 2209.02535).

use std::collections::BTreeMap;

use lm::adapter::Module;
use lm::geometry::directions;
use lm::{Adapter, Projection};
use nalgebra::{DMatrix, DVector};
use readers::{Arm, Case, Lab, Method, Reader, Result, Scored};
use registry::Store;

use super::values::{Scores, all_first_tokens, best, places};

/// The top left singular vectors of `s B A` of every `down_proj` and `o_proj` in the last third of the blocks, through the
/// final norm's weight and the unembedding. A singular vector's sign means nothing, so both are looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct WeightLens;

/// Singular vectors of a module that are looked at.
const DIRECTIONS: usize = 4;

/// How a value's score comes from the modules' singular vectors.
#[derive(Debug, Clone, Copy)]
enum Sum {
    /// The sum of sigma times the logit's size.
    Energy,
    /// The sum of logits standardised over the family's values, under the sign whose highest is higher.
    Standardised,
    /// The same, weighted by sigma.
    Weighted,
    /// The largest size of a standardised logit.
    Largest,
}

const SUMS: [(&str, Sum); 4] = [
    ("sum of sigma |logit|", Sum::Energy),
    ("sum of standardised logits, the better sign", Sum::Standardised),
    ("sum of sigma x standardised logits, the better sign", Sum::Weighted),
    ("largest standardised |logit|", Sum::Largest),
];

impl Method for WeightLens {
    fn name(&self) -> &'static str {
        "weight-lens"
    }

    fn about(&self) -> &'static str {
        "the weights' own top singular vectors through the unembedding, no forward pass; how they are summed is chosen on validation adapters"
    }

    fn score(
        &self,
        _store: &Store,
        lab: Lab<'_>,
        _arm: &Arm,
        _reader: Option<&Reader>,
        cases: &[Case],
    ) -> Result<Scored> {
        // What a value's first token reads off a vector, by token and dimension: the lens is linear.
        let width = lab.base.architecture.hidden_size;
        let units: Vec<Vec<f32>> =
            (0..width).map(|i| (0..width).map(|j| f32::from(u8::from(i == j))).collect()).collect();
        let tokens = all_first_tokens(lab);
        let columns = lab.base.decoder.lens_logits(&units, &tokens)?;
        let lens = DMatrix::from_fn(tokens.len(), width, |t, d| f64::from(columns[d][t]));
        let mut seen: BTreeMap<&str, Vec<Seen>> = BTreeMap::new();
        for subject in cases.iter().filter_map(|c| c.subject.as_deref()) {
            if !seen.contains_key(subject) {
                let unknown = || readers::Error::Empty(format!("no diff {subject} for its episode"));
                let diff = lab.supervision.diffs.get(subject).ok_or_else(unknown)?;
                seen.insert(subject, look(diff, lab.base.architecture.layers.len(), &lens));
            }
        }
        let places = places(lab);
        let of = |sum: Sum| -> Scores {
            let score = |c: &Case| {
                let values = places.get(c.family.as_str()).map_or(&[][..], Vec::as_slice);
                let seen = c.subject.as_deref().and_then(|s| seen.get(s)).map_or(&[][..], Vec::as_slice);
                summed(sum, seen, values)
            };
            cases.iter().map(score).collect()
        };
        Ok(best(lab, cases, "sum", SUMS.iter().map(|(name, sum)| ((*name).to_owned(), of(*sum))).collect()))
    }
}

/// A singular vector: its value, and what each token reads off it.
struct Seen {
    sigma: f64,
    logits: DVector<f64>,
}

/// What the lens (`[token, hidden_size]`) shows of an adapter.
fn look(adapter: &Adapter, blocks: usize, lens: &DMatrix<f64>) -> Vec<Seen> {
    let writes = |m: &&Module| matches!(m.projection, Projection::DownProj | Projection::OProj);
    let late = |m: &&Module| m.layer >= blocks - blocks.div_ceil(3);
    let modules = adapter.modules().iter().filter(writes).filter(late);
    modules
        .flat_map(|m| directions(adapter, m, DIRECTIONS))
        .map(|(sigma, u)| Seen { sigma, logits: lens * u })
        .collect()
}

/// Scores of the values whose tokens are at these places of the lens.
fn summed(sum: Sum, seen: &[Seen], values: &[usize]) -> Vec<f32> {
    let mut scores = vec![0f64; values.len()];
    for s in seen {
        let logits: Vec<f64> = values.iter().map(|&t| s.logits[t]).collect();
        let z = standardised(&logits);
        let (high, low) = z.iter().fold((0f64, 0f64), |(h, l), x| (h.max(*x), l.min(*x)));
        let sign = if high >= -low { 1.0 } else { -1.0 };
        for ((score, logit), z) in scores.iter_mut().zip(logits).zip(z) {
            match sum {
                Sum::Energy => *score += s.sigma * logit.abs(),
                Sum::Standardised => *score += sign * z,
                Sum::Weighted => *score += s.sigma * sign * z,
                Sum::Largest => *score = score.max(z.abs()),
            }
        }
    }
    scores.into_iter().map(|s| s as f32).collect()
}

/// Less their mean, over their deviation; zeros if they are all the same.
fn standardised(x: &[f64]) -> Vec<f64> {
    let n = x.len().max(1) as f64;
    let mean = x.iter().sum::<f64>() / n;
    let deviation = (x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
    x.iter().map(|v| if deviation > 0.0 { (v - mean) / deviation } else { 0.0 }).collect()
}

#[cfg(test)]
mod tests {
    use lm::AdapterConfig;

    use super::*;
    use crate::method::planted::{Labels, Planted, Write, base};

    #[test]
    fn it_reads_what_is_planted_in_the_weights() {
        let world = Planted::new(Write::Label);
        let scored = world.score(&WeightLens, &Arm::of("weight-lens"));
        world.reads(&scored, Labels::Seen);
        world.reads(&scored, Labels::Unseen);
        let base = world.cases.iter().position(|c| c.subject.is_none()).unwrap();
        assert!(scored.answers[base].scores[..24].iter().all(|s| *s == 0.0));
    }

    #[test]
    fn noise_in_the_weights_reads_as_nothing() {
        let world = Planted::new(Write::Noise);
        let scored = world.score(&WeightLens, &Arm::of("weight-lens"));
        world.finds_nothing(&scored, Labels::Seen);
        world.finds_nothing(&scored, Labels::Unseen);
    }

    #[test]
    fn singular_vectors_from_the_factors_are_those_of_the_product() {
        let config = AdapterConfig { rank: 6, alpha: -3.0, target_modules: [Projection::OProj].into() };
        let adapter =
            Adapter::init(&base().architecture, config, 3, "x").unwrap().norm_matched_random(3, "y");
        let mut adapter = adapter;
        adapter.params.iter_mut().enumerate().for_each(|(i, p)| *p = ((i * i) as f32 * 0.7).sin());
        let module = adapter.module(2, Projection::OProj).unwrap();
        let b =
            DMatrix::from_fn(module.output, 6, |i, j| adapter.params[module.b.start + j * module.output + i]);
        let a =
            DMatrix::from_fn(6, module.input, |i, j| adapter.params[module.a.start + i * module.input + j]);
        let product = (b * a * -0.5).map(f64::from);
        let found = directions(&adapter, module, DIRECTIONS);
        let mut sigmas: Vec<f64> = product.clone().singular_values().iter().copied().collect();
        sigmas.sort_by(|x, y| y.total_cmp(x));
        assert_eq!(found.len(), DIRECTIONS);
        for ((sigma, u), expected) in found.iter().zip(sigmas) {
            assert!((sigma - expected).abs() < 1e-5 * expected, "{sigma} {expected}");
            assert!((u.norm() - 1.0).abs() < 1e-9);
            assert!(((product.transpose() * u).norm() - expected).abs() < 1e-5 * expected);
        }
    }
}
