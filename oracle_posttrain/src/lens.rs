//! From collected activations to the vectors that a question is given: scaled, averaged over prompts.
//!
//! *Raw*: divided by one constant a layer, the mean norm over the training subjects, so that a faint difference stays faint
//! and its size tells something. *Whitened*: diffs of one recipe share most of their direction (they all make the model talk in short sentences), and a few
//! dimensions of a residual stream are far larger than the others. Injection keeps a vector's direction only, so what
//! tells diffs apart would be a small part of it; every dimension is centred and divided by its deviation over
//! the *training* subjects, at each prompt and position. Where those are mostly of one strong kind, a faint diff of another
//! kind comes to look like no diff at all (LOG.md, 2026-11-28). No label is used in either.

use std::collections::BTreeMap;

use lm::{BaseModel, Error, InjectionMode, Result, rng};
use readers::Scaling;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::collect::{Collector, Shown};
use crate::intervention::{
    Generate, Inject, Input, Mean, Model, Over, Positions, Sample, Scale, Spec, Step, Stored, Sub, mean,
};

/// Mean and deviation of each dimension over a population of vectors.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    mean: Vec<f32>,
    deviation: Vec<f32>,
}

impl Moments {
    /// Over vectors of one length; `None` of no vectors.
    pub fn over<'a>(vectors: impl Iterator<Item = &'a Vec<f32>> + Clone) -> Option<Self> {
        let width = vectors.clone().next()?.len();
        let (mut sum, mut squares, mut n) = (vec![0f64; width], vec![0f64; width], 0f64);
        for v in vectors {
            n += 1.0;
            for ((s, q), x) in sum.iter_mut().zip(&mut squares).zip(v) {
                *s += f64::from(*x);
                *q += f64::from(*x) * f64::from(*x);
            }
        }
        let deviation = sum.iter().zip(&squares).map(|(s, q)| {
            let variance = (q / n - (s / n) * (s / n)).max(0.0);
            // A dimension that never changes carries nothing; it must not divide by nothing either.
            (variance.sqrt() as f32).max(1e-6)
        });
        Some(Self { deviation: deviation.collect(), mean: sum.iter().map(|s| (s / n) as f32).collect() })
    }

    /// No mean, and one deviation for all dimensions: the mean norm of the vectors, of their products with `gain` if there is one
    /// (which then divides the deviation). `None` of no vectors.
    pub fn size<'a>(
        vectors: impl Iterator<Item = &'a Vec<f32>> + Clone,
        gain: Option<&[f32]>,
    ) -> Option<Self> {
        let width = vectors.clone().next()?.len();
        let factor = |i: usize| gain.map_or(1.0, |g| g[i]);
        let (mut sum, mut n) = (0f64, 0f64);
        for v in vectors {
            sum += v.iter().enumerate().map(|(i, x)| f64::from(x * factor(i)).powi(2)).sum::<f64>().sqrt();
            n += 1.0;
        }
        let norm = ((sum / n) as f32).max(1e-6);
        // A weight of nothing hides its dimension.
        let deviation = (0..width).map(|i| if factor(i) == 0.0 { f32::MAX } else { norm / factor(i) });
        Some(Self { mean: vec![0.0; width], deviation: deviation.collect() })
    }

    /// Over vectors of one length, as a scaling asks for.
    pub fn of<'a>(
        base: &BaseModel,
        vectors: impl Iterator<Item = &'a Vec<f32>> + Clone,
        scaling: Scaling,
    ) -> Option<Self> {
        match scaling {
            Scaling::Whitened => Self::over(vectors),
            Scaling::Raw | Scaling::Unit => Self::size(vectors, None),
            Scaling::Unembed => Self::size(vectors, Some(&base.decoder.final_norm_weight())),
        }
    }

    /// Standardises a vector.
    pub fn apply(&self, vector: &[f32]) -> Vec<f32> {
        vector.iter().zip(&self.mean).zip(&self.deviation).map(|((x, m), d)| (x - m) / d).collect()
    }
}

/// A collector with the moments of what it showed of the training subjects: all that is needed to look at a new one.
#[derive(Debug, Clone, PartialEq)]
pub struct Lens {
    /// Where vectors are read.
    pub collector: Collector,
    /// By prompt, of each of its `layers x last` vectors; none where only their directions count ([`Lens::unit`]).
    moments: BTreeMap<usize, Vec<Moments>>,
}

/// A vector's direction; of no vector, nothing.
fn direction(vector: &[f32]) -> Vec<f32> {
    let norm = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let scale = if norm > 0.0 { 1.0 / norm } else { 0.0 };
    vector.iter().map(|x| (f64::from(*x) * scale) as f32).collect()
}

/// File of a reader that holds its lens's moments.
pub const MOMENTS_FILE: &str = "activation_moments.safetensors";

impl Lens {
    /// Adjusted to a population. A prompt at which none of it was read takes the moments of all prompts together.
    pub fn over(base: &BaseModel, collector: Collector, population: &[&Shown]) -> Self {
        if collector.scaling != Scaling::Whitened {
            // One constant a layer, whatever the prompt and the position.
            let of = |layer: usize| {
                let rows = layer * collector.last..(layer + 1) * collector.last;
                let vectors = population.iter().flat_map(|s| s.values()).flat_map(move |v| &v[rows.clone()]);
                Moments::of(base, vectors, collector.scaling)
            };
            let layers: Option<Vec<Moments>> = (0..collector.layers.len()).map(of).collect();
            let each = layers.map(|layers| {
                layers.into_iter().flat_map(|m| std::iter::repeat_n(m, collector.last)).collect::<Vec<_>>()
            });
            let moments = each.map(|each| (0..collector.prompts.len()).map(|p| (p, each.clone())).collect());
            return Self { moments: moments.unwrap_or_default(), collector };
        }
        let moments = (0..collector.prompts.len())
            .filter_map(|p| {
                let here: Vec<_> = population.iter().filter_map(|seen| seen.get(&p)).collect();
                let here =
                    if here.is_empty() { population.iter().flat_map(|s| s.values()).collect() } else { here };
                let of = |i: usize| Moments::over(here.iter().map(move |vectors| &vectors[i]));
                Some((p, (0..collector.width()).map(of).collect::<Option<Vec<_>>>()?))
            })
            .collect();
        Self { collector, moments }
    }

    /// One that needs no population: of each vector its direction, as published oracles take it.
    ///
    /// # Errors
    /// If the collector scales in another way.
    pub fn unit(collector: Collector) -> Result<Self> {
        if collector.scaling != Scaling::Unit {
            return Err(Error::Request("the sizes that its vectors are scaled by are not known".into()));
        }
        Ok(Self { collector, moments: BTreeMap::new() })
    }

    /// Whether it is one made by [`Lens::unit`].
    fn is_unit(&self) -> bool {
        self.moments.is_empty() && self.collector.scaling == Scaling::Unit
    }

    /// The same sizes under another collector, which reads as many vectors.
    pub fn with(self, collector: Collector) -> Self {
        Self { collector, ..self }
    }

    /// The vectors that a question about `seen` at these prompts is given: standardised, then averaged over the prompts;
    /// `layers x last` of `hidden_size`.
    ///
    /// # Errors
    /// If one of the prompts was not collected, or the population was empty.
    pub fn look(&self, seen: &Shown, prompts: &[usize]) -> Result<Vec<Vec<f32>>> {
        let here = prompts
            .iter()
            .map(|p| {
                if let (Some(vectors), true) = (seen.get(p), self.is_unit()) {
                    return Ok(vectors.iter().map(|v| direction(v)).collect());
                }
                let (Some(vectors), Some(moments)) = (seen.get(p), self.moments.get(p)) else {
                    return Err(Error::Request(format!("no activations at prompt {p}")));
                };
                Ok(vectors.iter().zip(moments).map(|(v, m)| m.apply(v)).collect())
            })
            .collect::<Result<Vec<Vec<Vec<f32>>>>>()?;
        Ok(mean(&here.iter().map(Vec::as_slice).collect::<Vec<_>>()))
    }

    /// The whole of a question about an adapter as one intervention: what [`crate::ask`] does, step by step. `moments` is the
    /// digest of the file that [`Lens::to_safetensors`] made, `reader` the oracle. Without moments vectors go in as they were read,
    /// which is the same for a lens of directions that asks at one prompt.
    pub fn spec(
        &self,
        adapter: &str,
        reader: &str,
        moments: Option<&str>,
        question: &str,
        max: usize,
    ) -> Spec {
        let c = &self.collector;
        let prompts = c.first();
        let mut spec = c.spec(&prompts, Some(adapter), "");
        let seen = std::mem::take(&mut spec.out);
        let mut standard: Vec<Vec<String>> = vec![Vec::new(); c.layers.len()];
        for (i, source) in seen.iter().enumerate() {
            let (p, l) = (prompts[i / c.layers.len()], i % c.layers.len());
            let layer = c.layers[l];
            let Some(moments) = moments else {
                standard[l].push(source.clone());
                continue;
            };
            let [mean, deviation, centred, z] =
                ["mean", "deviation", "centred", "standard"].map(|what| format!("{what}.{p}.{layer}"));
            for (what, id) in [("mean", &mean), ("deviation", &deviation)] {
                let rows = Some((l * c.last, (l + 1) * c.last));
                let stored = Stored { blob: moments.to_owned(), tensor: format!("{what}.{p}"), rows };
                spec.vectors.insert(id.clone(), stored);
            }
            spec.steps.push(Step::Sub(Sub { id: centred.clone(), a: source.clone(), b: mean }));
            spec.steps.push(Step::Scale(Scale {
                id: z.clone(),
                a: centred,
                coef: 1.0,
                per: Some(deviation),
            }));
            standard[l].push(z);
        }
        for (layer, of) in c.layers.iter().zip(standard) {
            spec.steps.push(Step::Mean(Mean { id: format!("seen.{layer}"), of, over: Over::Ids }));
        }
        let input = Input::Question {
            layers: c.layers.clone(),
            slots: c.last,
            text: question.to_owned(),
            form: c.form.clone(),
        };
        spec.inputs.insert("question".into(), input);
        let inject = |&layer: &usize| Inject {
            layer: c.form.layer,
            pos: Positions::SlotsOf(layer),
            src: format!("seen.{layer}"),
            mode: mode(c.scaling),
            coef: f64::from(c.coefficient),
        };
        spec.steps.push(Step::Generate(Generate {
            id: "answer".into(),
            model: Model { adapters: vec![reader.to_owned()] },
            input: "question".into(),
            inject: c.layers.iter().map(inject).collect(),
            sample: Sample { t: 0.0, k: 0, p: 1.0, max, seed: 0 },
        }));
        spec
    }

    /// The same for a training question: at a draw of prompts, with noise.
    ///
    /// # Errors
    /// As [`Lens::look`].
    pub fn glimpse(&self, seen: &Shown, seed: u64, key: &str) -> Result<Vec<Vec<f32>>> {
        let mut vectors = self.look(seen, &self.collector.draw(self.collector.drawn, seed, key))?;
        self.blur(&mut vectors, seed, key);
        Ok(vectors)
    }

    /// The moments, as a safetensors file.
    ///
    /// # Errors
    /// If they do not fit one.
    pub fn to_safetensors(&self) -> Result<Vec<u8>> {
        let bytes = |rows: &[Moments], of: fn(&Moments) -> &Vec<f32>| -> Vec<u8> {
            rows.iter().flat_map(|m| of(m).iter().flat_map(|x| x.to_le_bytes())).collect()
        };
        let mut tensors = BTreeMap::new();
        for (p, rows) in &self.moments {
            let shape = vec![rows.len(), rows.first().map_or(0, |m| m.mean.len())];
            tensors.insert(format!("mean.{p}"), (shape.clone(), bytes(rows, |m| &m.mean)));
            tensors.insert(format!("deviation.{p}"), (shape, bytes(rows, |m| &m.deviation)));
        }
        let views = tensors
            .iter()
            .map(|(name, (shape, data))| Ok((name, TensorView::new(Dtype::F32, shape.clone(), data)?)))
            .collect::<std::result::Result<Vec<_>, safetensors::SafeTensorError>>()
            .map_err(|e| damaged(&e.to_string()))?;
        safetensors::serialize(views, None).map_err(|e| damaged(&e.to_string()))
    }

    /// A lens from its collector and its file.
    ///
    /// # Errors
    /// If the file is damaged, or does not fit the collector and a model of this width.
    pub fn from_safetensors(collector: Collector, hidden_size: usize, file: &[u8]) -> Result<Self> {
        let file = SafeTensors::deserialize(file).map_err(|e| damaged(&e.to_string()))?;
        let rows = |name: String| -> Result<Vec<Vec<f32>>> {
            let tensor = file.tensor(&name).map_err(|e| damaged(&e.to_string()))?;
            if tensor.dtype() != Dtype::F32 || tensor.shape() != [collector.width(), hidden_size] {
                return Err(damaged(&format!("{name} is {:?} {:?}", tensor.dtype(), tensor.shape())));
            }
            let (values, _) = tensor.data().as_chunks::<4>();
            let values: Vec<f32> = values.iter().map(|b| f32::from_le_bytes(*b)).collect();
            if values.iter().any(|v| !v.is_finite()) {
                return Err(damaged(&format!("{name} holds a value that is not finite")));
            }
            Ok(values.chunks(hidden_size).map(<[f32]>::to_vec).collect())
        };
        let mut moments = BTreeMap::new();
        for p in 0..collector.prompts.len() {
            if !file.names().contains(&format!("mean.{p}").as_str()) {
                continue;
            }
            let (means, deviations) = (rows(format!("mean.{p}"))?, rows(format!("deviation.{p}"))?);
            if deviations.iter().flatten().any(|d| *d == 0.0 || !d.is_finite()) {
                return Err(damaged(&format!("deviation.{p} holds a value that cannot divide")));
            }
            let pair = |(mean, deviation)| Moments { mean, deviation };
            moments.insert(p, means.into_iter().zip(deviations).map(pair).collect());
        }
        Ok(Self { collector, moments })
    }
}

fn damaged(what: &str) -> Error {
    Error::Tensor { name: MOMENTS_FILE.into(), what: what.to_owned() }
}

/// How vectors of a scaling are injected.
pub(crate) fn mode(scaling: Scaling) -> InjectionMode {
    match scaling {
        Scaling::Whitened | Scaling::Unit => InjectionMode::AddNormMatched,
        Scaling::Raw | Scaling::Unembed => InjectionMode::AddRelative,
    }
}

impl Lens {
    /// Adds the collector's noise.
    pub(crate) fn blur(&self, vectors: &mut [Vec<f32>], seed: u64, key: &str) {
        if self.collector.noise > 0.0 {
            let mut stream = rng::stream(seed, "collect-noise", key);
            for v in vectors.iter_mut() {
                // Whitened entries have a deviation of 1; raw vectors a norm of about 1.
                let unit = match self.collector.scaling {
                    Scaling::Whitened => 1.0,
                    Scaling::Raw | Scaling::Unembed | Scaling::Unit => 1.0 / (v.len() as f32).sqrt(),
                };
                for x in v.iter_mut() {
                    *x += self.collector.noise * unit * rng::normal(&mut stream);
                }
            }
        }
    }
}
