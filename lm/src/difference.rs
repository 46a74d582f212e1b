//! A whole fine-tuned model as an adapter: what its weights differ in from its base's, projection by projection, as LoRA factors.
//!
//! Low-rank factors are those of a randomised singular value decomposition (Halko, Martinsson and Tropp 2011, algorithm 4.4, two
//! power iterations), from fixed streams: the same two models give the same adapter. What lies outside the seven projections an
//! adapter cannot carry; it is measured.

use std::collections::{BTreeMap, BTreeSet};

use nalgebra::DMatrix;
use rayon::iter::{IntoParallelIterator, ParallelIterator};

use crate::architecture::{Slot, Tensor};
use crate::{Adapter, AdapterConfig, Architecture, Checkpoint, Error, Projection, Result, rng};

/// How much of the difference is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// So many singular directions of every projection.
    Rank(usize),
    /// All of it: factors of full rank, one of which is the identity.
    Dense,
}

/// A difference that no adapter can carry.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outside {
    /// Where: `embeddings`, `output head`, `norms`, `biases`.
    pub place: &'static str,
    /// Its Frobenius norm.
    pub norm: f64,
    /// The same over the norm of the base's own weights there.
    pub relative: f64,
}

/// What one model differs in from another.
#[derive(Debug)]
pub struct Difference {
    /// The difference of the projections that differ anywhere, with scaling 1.
    pub adapter: Adapter,
    /// Frobenius norm of the whole difference of the projections.
    pub norm: f64,
    /// The same over the norm of the base's own projections.
    pub relative: f64,
    /// Share of its energy (its squared norm) that the adapter has.
    pub kept: f64,
    /// What lies outside the projections and is not zero.
    pub outside: Vec<Outside>,
}

/// Directions beyond the rank that are sampled, for the accuracy of those that are kept.
const OVERSAMPLED: usize = 8;
const POWER_ITERATIONS: usize = 2;

/// In what a model's shape is not the base's: field, value, and the base's.
///
/// # Errors
/// One sentence fragment that names them.
pub fn same_shape(base: &Architecture, other: &Architecture) -> Result<(), String> {
    let sizes = |a: &Architecture| {
        [("num_hidden_layers", a.layers.len()), ("hidden_size", a.hidden_size), ("vocab_size", a.vocab_size)]
    };
    if base.class != other.class {
        return Err(format!("architectures: {} is not the base's {}", other.class, base.class));
    }
    for ((field, own), (_, wanted)) in sizes(other).into_iter().zip(sizes(base)) {
        if own != wanted {
            return Err(format!("{field}: {own} is not the base's {wanted}"));
        }
    }
    if base.tied != other.tied {
        return Err(format!("tie_word_embeddings: {} is not the base's {}", other.tied, base.tied));
    }
    let shapes = |a: &Architecture| -> BTreeMap<String, Vec<usize>> {
        a.tensors().into_iter().map(|t| (t.name, t.shape)).collect()
    };
    let (own, wanted) = (shapes(other), shapes(base));
    let names: BTreeSet<&String> = own.keys().chain(wanted.keys()).collect();
    for name in names {
        match (own.get(name), wanted.get(name)) {
            (Some(own), Some(wanted)) if own == wanted => {}
            (Some(own), Some(wanted)) => {
                return Err(format!("tensor {name}: shape {own:?} is not the base's {wanted:?}"));
            }
            (Some(_), None) => return Err(format!("tensor {name}: the base has none")),
            (None, _) => return Err(format!("tensor {name}: is missing, and the base has it")),
        }
    }
    Ok(())
}

/// What `tuned` differs in from `base`. `progress` is told layers done and all, and says whether to go on.
///
/// # Errors
/// If the shapes differ, the projections are the same everywhere, the rank does not fit, or a tensor cannot be read or holds a value
/// that is not finite.
pub fn difference(
    base: &Checkpoint,
    tuned: &Checkpoint,
    keep: Keep,
    progress: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Difference> {
    same_shape(&base.architecture, &tuned.architecture).map_err(Error::Request)?;
    let model = &base.architecture;
    let outside = outside(base, tuned)?;
    let layers = model.layers.len();
    let mut found: BTreeMap<(usize, Projection), Factors> = BTreeMap::new();
    let (mut own, mut energy, mut kept) = (0.0, 0.0, 0.0);
    for layer in 0..layers {
        let of = |p: Projection| -> Result<(Projection, f64, Option<Factors>)> {
            let (weights, change) = change(base, tuned, Slot::Weight(layer, p))?;
            let (input, output) = model.features(layer, p);
            let size = squares(&change);
            let matrix = DMatrix::from_row_slice(output, input, &change);
            let name = p.module_path(layer);
            Ok((p, squares(&weights), (size > 0.0).then(|| Factors::of(&matrix, size, keep, &name))))
        };
        let done: Vec<_> = Projection::ALL.to_vec().into_par_iter().map(of).collect::<Result<_>>()?;
        for (projection, weights, factors) in done {
            own += weights;
            if let Some(f) = factors {
                energy += f.energy;
                kept += f.kept;
                found.insert((layer, projection), f);
            }
        }
        if !progress(layer + 1, layers) {
            return Err(Error::Interrupted);
        }
    }
    if found.is_empty() {
        let also = if outside.is_empty() {
            "; nothing else differs either"
        } else {
            ", only what lies outside them"
        };
        return Err(Error::Request(format!(
            "has the base's weights in all its projections: there is no difference to file{also}"
        )));
    }
    let rank = match keep {
        Keep::Rank(rank) => rank,
        Keep::Dense => found.values().map(|f| f.rank).max().unwrap_or(1),
    };
    let targets: BTreeSet<Projection> = found.keys().map(|(_, p)| *p).collect();
    let config = AdapterConfig { rank, alpha: rank as f32, target_modules: targets };
    let mut adapter = Adapter::zeros(model, config)?;
    for m in adapter.modules().to_vec() {
        let Some(f) = found.get(&(m.layer, m.projection)) else { continue };
        // Fewer than the rank leave the other rows zero.
        adapter.params[m.a.start..m.a.start + f.a.len()].copy_from_slice(&f.a);
        adapter.params[m.b.start..m.b.start + f.b.len()].copy_from_slice(&f.b);
    }
    Ok(Difference {
        adapter,
        norm: energy.sqrt(),
        relative: if own > 0.0 { (energy / own).sqrt() } else { 0.0 },
        kept: (kept / energy).clamp(0.0, 1.0),
        outside,
    })
}

/// One projection's factors, `A: [rank, in]` and `B` transposed, `[rank, out]`, row by row.
struct Factors {
    a: Vec<f32>,
    b: Vec<f32>,
    rank: usize,
    energy: f64,
    kept: f64,
}

impl Factors {
    fn of(change: &DMatrix<f32>, energy: f64, keep: Keep, name: &str) -> Self {
        let (output, input) = change.shape();
        let rows = |m: &DMatrix<f32>| m.transpose().as_slice().to_vec();
        let identity = |n: usize| DMatrix::<f32>::identity(n, n);
        match keep {
            Keep::Dense if output <= input => {
                Self { a: rows(change), b: rows(&identity(output)), rank: output, energy, kept: energy }
            }
            Keep::Dense => Self {
                a: rows(&identity(input)),
                b: rows(&change.transpose()),
                rank: input,
                energy,
                kept: energy,
            },
            Keep::Rank(rank) => {
                let (u, values, v) = truncated(change, rank, name);
                let kept = values.iter().map(|s| f64::from(*s).powi(2)).sum();
                let share = |m: DMatrix<f32>| -> Vec<f32> {
                    let scaled = m.row_iter().zip(&values).flat_map(|(row, s)| {
                        let root = s.max(0.0).sqrt();
                        row.iter().map(|x| x * root).collect::<Vec<f32>>()
                    });
                    scaled.collect()
                };
                Self { a: share(v), b: share(u.transpose()), rank: values.len(), energy, kept }
            }
        }
    }
}

/// The largest `rank` singular values with their directions: `U [out, k]`, values, `V^T [k, in]`.
fn truncated(m: &DMatrix<f32>, rank: usize, name: &str) -> (DMatrix<f32>, Vec<f32>, DMatrix<f32>) {
    let (output, input) = m.shape();
    let sampled = (rank + OVERSAMPLED).min(output).min(input);
    let mut stream = rng::stream(0, "difference", name);
    let omega = DMatrix::from_fn(input, sampled, |_, _| rng::normal(&mut stream));
    let mut q = (m * omega).qr().q();
    let turned = m.transpose();
    for _ in 0..POWER_ITERATIONS {
        // Orthogonal again after every product, or small directions drown.
        let z = (&turned * &q).qr().q();
        q = (m * z).qr().q();
    }
    let svd = (q.transpose() * m).svd(true, true);
    let (u, v) = (svd.u.expect("invariant: u was asked for"), svd.v_t.expect("invariant: v was asked for"));
    let mut order: Vec<usize> = (0..svd.singular_values.len()).collect();
    order.sort_by(|a, b| svd.singular_values[*b].total_cmp(&svd.singular_values[*a]));
    order.truncate(rank);
    let values = order.iter().map(|i| svd.singular_values[*i]).collect();
    let (u, v) = (q * u.select_columns(&order), v.select_rows(&order));
    (u, values, v)
}

fn squares(values: &[f32]) -> f64 {
    values.iter().map(|v| f64::from(*v).powi(2)).sum()
}

/// A tensor of the base, and what the other model's has more.
fn change(base: &Checkpoint, tuned: &Checkpoint, slot: Slot) -> Result<(Vec<f32>, Vec<f32>)> {
    let read = |c: &Checkpoint| -> Result<Vec<f32>> {
        let places = c.places();
        let tensor = places.get(slot).expect("invariant: both models have one shape");
        c.source().rows(tensor, 0..tensor.rows().0)
    };
    let (own, mut other) = (read(base)?, read(tuned)?);
    for (x, y) in other.iter_mut().zip(&own) {
        *x -= y;
    }
    Ok((own, other))
}

fn outside(base: &Checkpoint, tuned: &Checkpoint) -> Result<Vec<Outside>> {
    let place = |t: &Tensor| match t.slot {
        Slot::Embedding => Some("embeddings"),
        Slot::Head => Some("output head"),
        Slot::FinalNorm | Slot::Norm(..) => Some("norms"),
        Slot::Bias(..) => Some("biases"),
        Slot::Weight(..) => None,
    };
    let mut sums: BTreeMap<&'static str, (f64, f64)> = BTreeMap::new();
    for tensor in base.architecture.tensors() {
        let Some(place) = place(&tensor) else { continue };
        let (own, change) = change(base, tuned, tensor.slot)?;
        let sum = sums.entry(place).or_default();
        *sum = (sum.0 + squares(&change), sum.1 + squares(&own));
    }
    let differs = sums.into_iter().filter(|(_, (change, _))| *change > 0.0);
    Ok(differs
        .map(|(place, (change, own))| Outside {
            place,
            norm: change.sqrt(),
            relative: if own > 0.0 { (change / own).sqrt() } else { f64::INFINITY },
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{HostTensor, merge};

    fn tiny() -> Checkpoint {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny");
        Checkpoint::load(&folder).unwrap().checkpoint
    }

    fn adapter(rank: usize) -> Adapter {
        let mut a =
            Adapter::init(&tiny().architecture, AdapterConfig::all_linear(rank, 2.0), 1, "x").unwrap();
        let mut stream = rng::stream(1, "test", "weights");
        for p in &mut a.params {
            *p += 0.1 * rng::normal(&mut stream);
        }
        a
    }

    fn weights_close(x: &Checkpoint, y: &Checkpoint, most: f32) {
        for name in x.tensor_names().iter().filter(|n| n.contains("proj")) {
            let (x, y) = (x.tensor(name).unwrap().data, y.tensor(name).unwrap().data);
            let far = x.iter().zip(&y).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(far < most, "{name}: {far}");
        }
    }

    #[test]
    fn a_merged_adapter_is_found_again_whole() {
        let (base, own) = (tiny(), adapter(3));
        let tuned = merge(&base, &[&own]).unwrap();
        for (keep, rank) in
            [(Keep::Rank(3), 3), (Keep::Rank(5), 5), (Keep::Dense, base.architecture.hidden_size)]
        {
            let found = difference(&base, &tuned, keep, &mut |_, _| true).unwrap();
            assert_eq!(found.adapter.config().rank, rank);
            assert!((found.norm / own.norm() - 1.0).abs() < 1e-4 && found.kept > 0.999_99, "{found:?}");
            assert_eq!(found.outside, []);
            weights_close(&merge(&base, &[&found.adapter]).unwrap(), &tuned, 1e-5);
            let again = difference(&base, &tuned, keep, &mut |_, _| true).unwrap();
            assert_eq!(again.adapter, found.adapter);
        }
    }

    #[test]
    fn the_share_of_energy_kept_is_that_of_the_largest_singular_values() {
        let (base, own) = (tiny(), adapter(6));
        let tuned = merge(&base, &[&own]).unwrap();
        let found = difference(&base, &tuned, Keep::Rank(2), &mut |_, _| true).unwrap();
        let file = own.to_safetensors().unwrap();
        let whole = crate::LowRank::from_safetensors(&file, own.config().scaling()).unwrap();
        let (mut kept, mut all) = (0.0, 0.0);
        for values in whole.spectra().values() {
            kept += values.iter().take(2).map(|s| s * s).sum::<f64>();
            all += values.iter().map(|s| s * s).sum::<f64>();
        }
        assert!((found.kept - kept / all).abs() < 1e-3, "{} {}", found.kept, kept / all);
    }

    #[test]
    fn what_lies_outside_is_measured_and_what_is_the_same_or_of_another_shape_refused() {
        let base = tiny();
        let mut tensors: BTreeMap<String, HostTensor> =
            base.tensor_names().into_iter().map(|n| (n.clone(), base.tensor(&n).unwrap())).collect();
        let own = squares(&tensors["model.embed_tokens.weight"].data).sqrt();
        tensors.get_mut("model.embed_tokens.weight").unwrap().data[0] += 2.0;
        let make = |t: &BTreeMap<String, HostTensor>| {
            Checkpoint::from_tensors(base.architecture.clone(), t.clone(), "")
        };
        let e = difference(&base, &make(&tensors).unwrap(), Keep::Rank(2), &mut |_, _| true).unwrap_err();
        assert!(e.to_string().contains("no difference to file, only"), "{e}");
        tensors.get_mut("model.layers.0.mlp.up_proj.weight").unwrap().data[3] += 1.0;
        let found = difference(&base, &make(&tensors).unwrap(), Keep::Rank(2), &mut |_, _| true).unwrap();
        assert_eq!(found.outside.len(), 1);
        let outside = found.outside[0];
        assert!(outside.place == "embeddings" && (outside.norm - 2.0).abs() < 1e-5, "{outside:?}");
        assert!((outside.relative - 2.0 / own).abs() < 1e-5);
        assert_eq!(found.adapter.config().target_modules, [Projection::UpProj].into());
        let mut other = base.architecture.clone();
        other.layers.pop();
        let e = same_shape(&base.architecture, &other).unwrap_err();
        assert!(e.starts_with("num_hidden_layers: "), "{e}");
    }
}
