//! What a subject's weights say without any forward pass: norms, spectra, effective ranks, and their own lens.

use std::collections::BTreeMap;

use lm::geometry::directions;
use lm::{Adapter, Projection};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::lexicon::Lexicon;
use crate::residual::Scored;

/// Singular vectors of a module that the lens looks at.
const DIRECTIONS: usize = 4;

/// A projection over all layers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OfProjection {
    /// PEFT's name.
    pub projection: String,
    /// Layers that have it.
    pub layers: usize,
    /// Frobenius norm over all of them.
    pub norm: f64,
    /// Largest singular values, over all layers.
    pub top_singular_values: Vec<f64>,
    /// Mean over layers of the effective rank: the exponential of the entropy of the shares of energy (Roy and Vetterli 2007).
    pub effective_rank: f64,
}

/// All weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Weights {
    /// Frobenius norm of the whole difference.
    pub norm: f64,
    /// Rank.
    pub rank: usize,
    /// Parameters.
    pub parameters: usize,
    /// By projection, in the order of a layer's computation.
    pub projections: Vec<OfProjection>,
    /// Share of the energy in each third of the layers, from the first.
    pub thirds: [f64; 3],
    /// Words that the singular vectors of late output projections point to, with their deviations above the mean.
    pub lens: Vec<Scored>,
}

/// Looks at an adapter.
pub fn weights(adapter: &Adapter, layers: usize, lexicon: &Lexicon) -> Weights {
    let rank = adapter.config().rank;
    let mut by: BTreeMap<usize, (Vec<f64>, f64, f64, usize)> = BTreeMap::new();
    let mut thirds = [0f64; 3];
    for module in adapter.modules() {
        let values: Vec<f64> = directions(adapter, module, rank).into_iter().map(|(s, _)| s).collect();
        let energy: f64 = values.iter().map(|s| s * s).sum();
        let entropy: f64 =
            values.iter().map(|s| s * s / energy.max(1e-300)).filter(|p| *p > 0.0).map(|p| -p * p.ln()).sum();
        let entry = by.entry(module.projection as usize).or_default();
        entry.0.extend(&values);
        entry.1 += energy;
        entry.2 += if energy > 0.0 { entropy.exp() } else { 0.0 };
        entry.3 += 1;
        thirds[(3 * module.layer / layers.max(1)).min(2)] += energy;
    }
    let whole: f64 = thirds.iter().sum();
    for third in &mut thirds {
        *third /= whole.max(1e-300);
    }
    let projections = by
        .into_iter()
        .map(|(p, (mut values, energy, ranks, layers))| {
            values.sort_by(|a, b| b.total_cmp(a));
            values.truncate(3);
            OfProjection {
                projection: Projection::ALL[p].name().to_owned(),
                layers,
                norm: energy.sqrt(),
                top_singular_values: values,
                effective_rank: ranks / layers.max(1) as f64,
            }
        })
        .collect();
    let scores = scores(adapter, layers, lexicon);
    let top = lexicon.top(&scores, 8);
    let lens = top
        .into_iter()
        .filter(|i| scores[*i] > 0.0)
        .map(|i| Scored { word: lexicon.words[i].clone(), score: f64::from(scores[i]) })
        .collect();
    Weights { norm: adapter.norm(), rank, parameters: adapter.params.len(), projections, thirds, lens }
}

/// Scores of the words by the weights' own lens: top left singular vectors of what writes to the residual stream in the last third of
/// the blocks, each under the sign whose highest word is higher, standardised over the words and weighted by its singular value.
pub fn scores(adapter: &Adapter, layers: usize, lexicon: &Lexicon) -> Vec<f32> {
    let mut sum = vec![0f32; lexicon.len()];
    let mut weight = 0f32;
    let writes = |p: Projection| matches!(p, Projection::DownProj | Projection::OProj);
    for module in adapter.modules() {
        if !writes(module.projection) || module.layer < layers - layers.div_ceil(3) {
            continue;
        }
        for (sigma, u) in directions(adapter, module, DIRECTIONS) {
            let vector: Vec<f32> = u.iter().map(|x| *x as f32).collect();
            let scores = lexicon.lens(&vector);
            let n = scores.len().max(1) as f32;
            let mean = scores.iter().sum::<f32>() / n;
            let deviation = (scores.iter().map(|s| (s - mean).powi(2)).sum::<f32>() / n).sqrt().max(1e-12);
            let (high, low) = scores.iter().fold((f32::MIN, f32::MAX), |(h, l), s| (h.max(*s), l.min(*s)));
            let sign = if high - mean >= mean - low { 1.0 } else { -1.0 };
            let share = sigma as f32;
            weight += share * share;
            sum.iter_mut().zip(&scores).for_each(|(t, s)| *t += share * sign * (s - mean) / deviation);
        }
    }
    let norm = weight.sqrt().max(1e-12);
    for s in &mut sum {
        *s /= norm;
    }
    sum
}
