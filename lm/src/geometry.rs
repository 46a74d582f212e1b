//! Comparing weight differences as what they do, `scale * B A`, never as their factors: `(B G, G^-1 A)` is the same difference for
//! every invertible G, and everything here is the same for both.

use std::collections::BTreeMap;

use nalgebra::{DMatrix, DVector};
use rand::RngCore;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::adapter::Module;
use crate::{Adapter, Error, Result, rng};

/// A module's factors: `a: [r, in]`, `b: [out, r]`, in f64.
#[derive(Debug, Clone)]
struct Factors {
    a: DMatrix<f64>,
    b: DMatrix<f64>,
}

/// An adapter's low-rank differences by module, read from a PEFT file without its base model.
#[derive(Debug, Clone)]
pub struct LowRank {
    scale: f64,
    modules: BTreeMap<String, Factors>,
}

/// How the differences of two adapters lie to each other in one module.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct ModuleRelation {
    /// Module path.
    pub module: String,
    /// Frobenius norms of the two differences.
    pub norms: [f64; 2],
    /// Cosine of the two differences as vectors of all their entries; 0 if one of them is 0.
    pub cosine: f64,
    /// Cosines of the principal angles between the spaces that they write to (columns of B), largest first.
    pub write_angles: Vec<f64>,
    /// The same between the spaces that they read from (rows of A).
    pub read_angles: Vec<f64>,
}

/// Buckets of one side of a fingerprint.
const SIDE: usize = 64;
/// Entries of a fingerprint.
pub const FINGERPRINT: usize = SIDE * SIDE;

impl LowRank {
    /// Reads `adapter_model.safetensors` with PEFT's names.
    ///
    /// # Errors
    /// If the bytes are damaged, or a factor is missing, no f32 matrix, or does not fit its partner.
    pub fn from_safetensors(bytes: &[u8], scale: f32) -> Result<Self> {
        let damaged = |e: String| Error::Request(format!("the adapter file is damaged: {e}"));
        let file = SafeTensors::deserialize(bytes).map_err(|e| damaged(e.to_string()))?;
        let mut found: BTreeMap<String, [Option<DMatrix<f64>>; 2]> = BTreeMap::new();
        for (name, view) in file.tensors() {
            let (module, which) = match name.rsplit_once(".lora_") {
                Some((module, "A.weight")) => (module, 0),
                Some((module, "B.weight")) => (module, 1),
                _ => return Err(Error::Tensor { name, what: "is no factor of a LoRA".into() }),
            };
            let (&[rows, columns], Dtype::F32) = (view.shape(), view.dtype()) else {
                return Err(Error::Tensor { name, what: "is not an f32 matrix".into() });
            };
            let values = view.data().as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b)));
            found.entry(module.to_owned()).or_default()[which] =
                Some(DMatrix::from_row_iterator(rows, columns, values));
        }
        let modules = found
            .into_iter()
            .map(|(name, factors)| match factors {
                [Some(a), Some(b)] if a.nrows() == b.ncols() => Ok((name, Factors { a, b })),
                _ => Err(Error::Tensor { name, what: "lacks a factor, or its factors do not fit".into() }),
            })
            .collect::<Result<_>>()?;
        Ok(Self { scale: f64::from(scale), modules })
    }

    /// Modules in order.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        self.modules.keys().map(String::as_str)
    }

    /// Singular values of each module's `scale * B A`, largest first.
    pub fn spectra(&self) -> BTreeMap<&str, Vec<f64>> {
        self.modules
            .iter()
            .map(|(name, f)| {
                // B A = Q_b (R_b R_a^T) Q_a^T: the small matrix in the middle has the same singular values.
                let middle = f.b.clone().qr().r() * f.a.transpose().qr().r().transpose();
                let mut values: Vec<f64> =
                    middle.singular_values().iter().map(|s| s * self.scale.abs()).collect();
                values.sort_by(|x, y| y.total_cmp(x));
                (name.as_str(), values)
            })
            .collect()
    }

    /// Frobenius norm of everything.
    pub fn norm(&self) -> f64 {
        self.dot(self).max(0.0).sqrt()
    }

    /// Inner product of the two differences over the modules that both have and whose sizes agree.
    pub fn dot(&self, other: &Self) -> f64 {
        self.shared(other).map(|(_, x, y)| dot(x, y)).sum::<f64>() * self.scale * other.scale
    }

    /// Cosine of the two differences; 0 if one of them is 0.
    pub fn cosine(&self, other: &Self) -> f64 {
        ratio(self.dot(other), self.norm() * other.norm())
    }

    fn shared<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (&'a str, &'a Factors, &'a Factors)> {
        self.modules.iter().filter_map(|(name, x)| {
            let y = other.modules.get(name)?;
            (x.a.ncols() == y.a.ncols() && x.b.nrows() == y.b.nrows()).then_some((name.as_str(), x, y))
        })
    }

    /// The relation in every module that both have.
    pub fn relations(&self, other: &Self) -> Vec<ModuleRelation> {
        self.shared(other)
            .map(|(module, x, y)| {
                let norms = [dot(x, x), dot(y, y)].map(|d| d.max(0.0).sqrt());
                ModuleRelation {
                    module: module.to_owned(),
                    cosine: ratio(dot(x, y) * (self.scale * other.scale).signum(), norms[0] * norms[1]),
                    norms: [norms[0] * self.scale.abs(), norms[1] * other.scale.abs()],
                    write_angles: angles(&x.b, &y.b),
                    read_angles: angles(&x.a.transpose(), &y.a.transpose()),
                }
            })
            .collect()
    }

    /// [`FINGERPRINT`] numbers whose inner products approximate those of the differences themselves, within about `1 / SIDE` of the
    /// product of the norms: in every module, rows and columns of `scale * B A` are added up with random signs into [`SIDE`] buckets each
    /// (a count sketch on either side; Charikar, Chen and Farach-Colton 2002), and the modules' sketches are added. It is computed from
    /// the factors, in a pass over them.
    pub fn fingerprint(&self) -> Vec<f32> {
        let mut out = DMatrix::<f64>::zeros(SIDE, SIDE);
        for (name, f) in &self.modules {
            let mut stream = rng::stream(0, "fingerprint", name);
            let mut left = DMatrix::<f64>::zeros(SIDE, f.b.ncols());
            let mut right = DMatrix::<f64>::zeros(f.a.nrows(), SIDE);
            let mut draw = || {
                let n = stream.next_u32() as usize;
                (n % SIDE, if n & (1 << 31) == 0 { 1.0 } else { -1.0 })
            };
            for i in 0..f.b.nrows() {
                let (bucket, sign) = draw();
                for k in 0..f.b.ncols() {
                    left[(bucket, k)] += sign * f.b[(i, k)];
                }
            }
            for j in 0..f.a.ncols() {
                let (bucket, sign) = draw();
                for k in 0..f.a.nrows() {
                    right[(k, bucket)] += sign * f.a[(k, j)];
                }
            }
            out += left * right;
        }
        out.iter().map(|v| (v * self.scale) as f32).collect()
    }
}

/// At most `most` top left singular vectors of a module's `s B A` with their values, largest first, exactly, from its factors: with `B = Q R` and `A^T = P S`, those of
/// `R S^T` turned by `Q`.
pub fn directions(adapter: &Adapter, module: &Module, most: usize) -> Vec<(f64, DVector<f64>)> {
    let rank = adapter.config().rank;
    let factor = |params: &[f32], length: usize| {
        DMatrix::from_iterator(length, rank, params.iter().map(|x| f64::from(*x)))
    };
    let b = factor(&adapter.params[module.b.clone()], module.output);
    let a = factor(&adapter.params[module.a.clone()], module.input);
    if b.norm() == 0.0 || a.norm() == 0.0 {
        return vec![];
    }
    let (left, right) = (b.qr(), a.qr());
    let middle = (left.r() * right.r().transpose()).svd(true, false);
    let Some(turned) = middle.u.map(|u| left.q() * u) else { return vec![] };
    let scale = f64::from(adapter.config().scaling()).abs();
    let mut found: Vec<(f64, DVector<f64>)> = middle
        .singular_values
        .iter()
        .zip(turned.column_iter())
        .map(|(sigma, u)| (sigma * scale, u.into_owned()))
        .collect();
    found.sort_by(|x, y| y.0.total_cmp(&x.0));
    let largest = found.first().map_or(0.0, |f| f.0);
    found.retain(|f| f.0 > 1e-6 * largest);
    found.truncate(most);
    found
}

/// Tensors as a safetensors file in f32: shapes and entries by name.
///
/// # Errors
/// If a shape does not hold its entries.
pub fn to_safetensors(tensors: &BTreeMap<String, (Vec<usize>, Vec<f32>)>) -> Result<Vec<u8>> {
    let bytes: Vec<(&String, &Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, (shape, data))| (name, shape, data.iter().flat_map(|v| v.to_le_bytes()).collect()))
        .collect();
    let fail = |e: safetensors::SafeTensorError| Error::Request(format!("writing tensors: {e}"));
    let views = bytes
        .iter()
        .map(|(name, shape, data)| {
            Ok((name, TensorView::new(Dtype::F32, (*shape).clone(), data).map_err(fail)?))
        })
        .collect::<Result<Vec<_>>>()?;
    safetensors::serialize(views, None).map_err(fail)
}

fn ratio(a: f64, b: f64) -> f64 {
    if b > 0.0 { (a / b).clamp(-1.0, 1.0) } else { 0.0 }
}

/// `<B1 A1, B2 A2> = sum of (B1^T B2) * (A1 A2^T)`, entry by entry.
fn dot(x: &Factors, y: &Factors) -> f64 {
    (x.b.transpose() * &y.b).component_mul(&(&x.a * y.a.transpose())).sum()
}

/// Cosines of the principal angles between two column spaces (Golub and Van Loan, Matrix Computations, 6.4.3).
fn angles(x: &DMatrix<f64>, y: &DMatrix<f64>) -> Vec<f64> {
    let basis = |m: &DMatrix<f64>| {
        let svd = m.clone().svd(true, false);
        let largest = svd.singular_values.max();
        let kept: Vec<_> = svd
            .u
            .expect("invariant: u was asked for")
            .column_iter()
            .zip(svd.singular_values.iter())
            .filter(|(_, s)| **s > largest * 1e-9 && largest > 0.0)
            .map(|(c, _)| c.into_owned())
            .collect();
        (!kept.is_empty()).then(|| DMatrix::from_columns(&kept))
    };
    let (Some(x), Some(y)) = (basis(x), basis(y)) else { return Vec::new() };
    let mut cosines: Vec<f64> =
        (x.transpose() * y).singular_values().iter().map(|c| c.clamp(0.0, 1.0)).collect();
    cosines.sort_by(|a, b| b.total_cmp(a));
    cosines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(a: &[f32], b: &[f32], r: usize, input: usize, output: usize) -> Vec<u8> {
        let bytes = |v: &[f32]| -> Vec<u8> { v.iter().flat_map(|x| x.to_le_bytes()).collect() };
        let (a, b) = (bytes(a), bytes(b));
        let views = [
            ("m.q_proj.lora_A.weight", TensorView::new(Dtype::F32, vec![r, input], &a).unwrap()),
            ("m.q_proj.lora_B.weight", TensorView::new(Dtype::F32, vec![output, r], &b).unwrap()),
        ];
        safetensors::serialize(views, None).unwrap()
    }

    fn random(seed: u64, r: usize) -> (Vec<f32>, Vec<f32>) {
        let mut stream = rng::stream(seed, "test", "");
        let mut draw = |n: usize| (0..n).map(|_| rng::normal(&mut stream)).collect::<Vec<f32>>();
        (draw(r * 7), draw(5 * r))
    }

    fn close(x: f64, y: f64, tolerance: f64) {
        assert!((x - y).abs() < tolerance, "{x} {y}");
    }

    #[test]
    fn numbers_agree_with_the_dense_difference_and_do_not_depend_on_the_factors() {
        let (a, b) = random(1, 2);
        let x = LowRank::from_safetensors(&file(&a, &b, 2, 7, 5), 0.5).unwrap();
        let dense = DMatrix::from_row_slice(5, 2, &b).cast::<f64>()
            * DMatrix::from_row_slice(2, 7, &a).cast::<f64>()
            * 0.5;
        let mut expected: Vec<f64> = dense.singular_values().iter().copied().collect();
        expected.sort_by(|p, q| q.total_cmp(p));
        let spectrum = &x.spectra()["m.q_proj"];
        for (s, e) in spectrum.iter().zip(&expected) {
            close(*s, *e, 1e-9);
        }
        close(x.norm(), dense.norm(), 1e-9);
        // The gauge G = [[2, 1], [0, 1]]: B G and G^-1 A.
        let g = DMatrix::from_row_slice(2, 2, &[2.0f32, 1.0, 0.0, 1.0]);
        let b2 = DMatrix::from_row_slice(5, 2, &b) * &g;
        let a2 = g.try_inverse().unwrap() * DMatrix::from_row_slice(2, 7, &a);
        let rows = |m: &DMatrix<f32>| m.transpose().as_slice().to_vec();
        let y = LowRank::from_safetensors(&file(&rows(&a2), &rows(&b2), 2, 7, 5), 0.5).unwrap();
        close(x.cosine(&y), 1.0, 1e-6);
        let relation = &x.relations(&y)[0];
        for c in relation.write_angles.iter().chain(&relation.read_angles) {
            close(*c, 1.0, 1e-6);
        }
        for (p, q) in x.fingerprint().iter().zip(y.fingerprint()) {
            close(f64::from(*p), f64::from(q), 1e-4);
        }
    }

    #[test]
    fn fingerprints_of_large_modules_are_near_the_exact_cosines_and_those_of_strangers_near_0() {
        let (input, output) = (300, 200);
        let make = |seed: u64, share: f32| {
            let mut modules = BTreeMap::new();
            for m in 0..8 {
                let draw = |seed: u64, n: usize| -> Vec<f32> {
                    let mut stream = rng::stream(seed, "test", &m.to_string());
                    (0..n).map(|_| rng::normal(&mut stream)).collect()
                };
                let mix = |n: usize| -> Vec<f32> {
                    draw(1, n).iter().zip(draw(seed, n)).map(|(a, b)| a * (1.0 - share) + b * share).collect()
                };
                modules.insert(format!("m{m}.lora_A.weight"), (vec![2, input], mix(2 * input)));
                modules.insert(format!("m{m}.lora_B.weight"), (vec![output, 2], mix(output * 2)));
            }
            LowRank::from_safetensors(&to_safetensors(&modules).unwrap(), 1.0).unwrap()
        };
        let cosine = |p: &[f32], q: &[f32]| {
            let d = |p: &[f32], q: &[f32]| p.iter().zip(q).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            d(p, q) / (d(p, p) * d(q, q)).sqrt()
        };
        let x = make(2, 0.0);
        for (seed, share) in [(3, 0.2), (4, 0.5), (5, 1.0), (6, 1.0), (7, 1.0)] {
            let y = make(seed, share);
            // Three standard deviations, and some for the sides' own noise.
            close(cosine(&x.fingerprint(), &y.fingerprint()), x.cosine(&y), 4.0 / SIDE as f64);
        }
    }

    #[test]
    fn fingerprints_keep_cosines_and_zero_has_no_direction() {
        let make = |seed, share: f32| {
            let ((a, b), (c, _)) = (random(1, 1), random(seed, 1));
            let mixed: Vec<f32> = a.iter().zip(&c).map(|(a, c)| a * (1.0 - share) + c * share).collect();
            LowRank::from_safetensors(&file(&mixed, &b, 1, 7, 5), 1.0).unwrap()
        };
        let x = make(2, 0.0);
        let cosine = |p: &[f32], q: &[f32]| {
            let d = |p: &[f32], q: &[f32]| p.iter().zip(q).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            d(p, q) / (d(p, p) * d(q, q)).sqrt()
        };
        for share in [0.0, 0.3, 0.6, 1.0] {
            let y = make(5, share);
            close(cosine(&x.fingerprint(), &y.fingerprint()), x.cosine(&y), 0.2);
        }
        let zero = LowRank::from_safetensors(&file(&[0.0; 7], &[0.0; 5], 1, 7, 5), 1.0).unwrap();
        assert_eq!((zero.cosine(&x), zero.norm()), (0.0, 0.0));
        assert!(x.relations(&zero)[0].write_angles.is_empty());
    }
}
