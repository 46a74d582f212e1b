//! LoRA adapters: `delta_w = (alpha / rank) B A` on any of the seven projections of every layer.
//!
//! All of an adapter's numbers live in one flat f32 buffer, module after module, so that its gradient, its optimiser
//! state and its checkpoint are buffers of the same length. Within a module: `A: [rank, in]`, then `B` transposed,
//! `[rank, out]` (files hold `B: [out, rank]`, as PEFT does).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Architecture, Error, Result, rng};

/// The linear maps of a decoder layer that an adapter can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the field's")]
pub enum Projection {
    QProj,
    KProj,
    VProj,
    OProj,
    GateProj,
    UpProj,
    DownProj,
}

impl Projection {
    /// All seven, in the order of a layer's computation.
    pub const ALL: [Self; 7] =
        [Self::QProj, Self::KProj, Self::VProj, Self::OProj, Self::GateProj, Self::UpProj, Self::DownProj];

    /// PEFT's `target_modules` name.
    pub fn name(self) -> &'static str {
        match self {
            Self::QProj => "q_proj",
            Self::KProj => "k_proj",
            Self::VProj => "v_proj",
            Self::OProj => "o_proj",
            Self::GateProj => "gate_proj",
            Self::UpProj => "up_proj",
            Self::DownProj => "down_proj",
        }
    }

    /// The projection of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.name() == name)
    }

    /// The Hugging Face module path inside the model, e.g. `model.layers.3.self_attn.q_proj`.
    pub fn module_path(self, layer: usize) -> String {
        let block = match self {
            Self::QProj | Self::KProj | Self::VProj | Self::OProj => "self_attn",
            Self::GateProj | Self::UpProj | Self::DownProj => "mlp",
        };
        format!("model.layers.{layer}.{block}.{}", self.name())
    }
}

/// What decides an adapter's shape and scale.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterConfig {
    /// Rank of every module's update.
    pub rank: usize,
    /// Numerator of the scaling `alpha / rank`.
    pub alpha: f32,
    /// Projections acted on, in every layer.
    pub target_modules: BTreeSet<Projection>,
}

impl AdapterConfig {
    /// All seven projections.
    pub fn all_linear(rank: usize, alpha: f32) -> Self {
        Self { rank, alpha, target_modules: Projection::ALL.into_iter().collect() }
    }

    /// `alpha / rank`.
    pub fn scaling(&self) -> f32 {
        self.alpha / self.rank as f32
    }
}

/// Where one module's factors lie in the flat buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Layer index.
    pub layer: usize,
    /// Which projection.
    pub projection: Projection,
    /// Input features.
    pub input: usize,
    /// Output features.
    pub output: usize,
    /// `A: [rank, input]`.
    pub a: Range<usize>,
    /// `B` transposed, `[rank, output]`.
    pub b: Range<usize>,
}

/// One LoRA adapter in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    config: AdapterConfig,
    modules: Vec<Module>,
    /// `modules` index by `layer * 7 + projection`.
    index: Vec<Option<usize>>,
    /// All factors, module after module.
    pub params: Vec<f32>,
}

impl Adapter {
    /// An adapter whose every number is zero.
    ///
    /// # Errors
    /// If the rank is zero or above the smallest projection, the scale is not finite, or there is no target.
    pub fn zeros(model: &Architecture, config: AdapterConfig) -> Result<Self> {
        if config.rank == 0 || config.rank > model.hidden_size {
            return Err(Error::Request(format!(
                "adapter rank {} is not in 1..={}",
                config.rank, model.hidden_size
            )));
        }
        if !config.alpha.is_finite() || config.target_modules.is_empty() {
            return Err(Error::Request(
                "an adapter needs a finite alpha and at least one target module".into(),
            ));
        }
        let mut modules = Vec::new();
        let mut index = vec![None; model.layers.len() * 7];
        let mut at = 0;
        for layer in 0..model.layers.len() {
            for &projection in &config.target_modules {
                let (input, output) = model.features(layer, projection);
                let a = at..at + config.rank * input;
                let b = a.end..a.end + config.rank * output;
                at = b.end;
                index[layer * 7 + projection as usize] = Some(modules.len());
                modules.push(Module { layer, projection, input, output, a, b });
            }
        }
        Ok(Self { config, modules, index, params: vec![0.0; at] })
    }

    /// A fresh adapter for training: `A ~ N(0, 1 / in)`, `B = 0`, so that it starts as the identity.
    pub fn init(model: &Architecture, config: AdapterConfig, seed: u64, id: &str) -> Result<Self> {
        let mut adapter = Self::zeros(model, config)?;
        let mut rng = rng::stream(seed, "lora-init", id);
        for module in &adapter.modules {
            let std = 1.0 / (module.input as f32).sqrt();
            for value in &mut adapter.params[module.a.clone()] {
                *value = std * rng::normal(&mut rng);
            }
        }
        Ok(adapter)
    }

    /// A Gaussian adapter of the same shape whose every module's `||B A||` (Frobenius) equals this adapter's.
    pub fn norm_matched_random(&self, seed: u64, id: &str) -> Self {
        let mut out = self.clone();
        let mut rng = rng::stream(seed, "norm-matched-random", id);
        for value in &mut out.params {
            *value = rng::normal(&mut rng);
        }
        for module in &self.modules {
            let ratio = (self.delta_norm(module) / out.delta_norm(module)).sqrt() as f32;
            for value in &mut out.params[module.a.start..module.b.end] {
                *value *= ratio;
            }
        }
        out
    }

    /// The adapter that changes the model by the sum of what these change it by: their factors one below the other (its rank is the sum
    /// of theirs), each one's scale taken into its `B`, so that its own is 1. Where only some of them act, the others' rows are zero.
    ///
    /// # Errors
    /// If there is none of them, one is not of this model's shape, or the ranks together are above the smallest projection.
    pub fn sum(model: &Architecture, of: &[&Self]) -> Result<Self> {
        let rank = of.iter().map(|a| a.config.rank).sum();
        let target_modules = of.iter().flat_map(|a| a.config.target_modules.iter().copied()).collect();
        let mut out = Self::zeros(model, AdapterConfig { rank, alpha: rank as f32, target_modules })?;
        let mut done = 0;
        for adapter in of {
            let (rank, scale) = (adapter.config.rank, adapter.config.scaling());
            for from in &adapter.modules {
                let to = out
                    .module(from.layer, from.projection)
                    .filter(|to| to.input == from.input && to.output == from.output);
                let Some(to) = to.cloned() else {
                    let name = format!("{}.lora_A.weight", from.projection.module_path(from.layer));
                    return Err(Error::Tensor { name, what: "is of another model's shape".into() });
                };
                let (a, b) = (to.a.start + done * to.input, to.b.start + done * to.output);
                out.params[a..a + rank * to.input].copy_from_slice(&adapter.params[from.a.clone()]);
                let columns = out.params[b..b + rank * to.output].iter_mut();
                columns.zip(&adapter.params[from.b.clone()]).for_each(|(to, x)| *to = scale * x);
            }
            done += rank;
        }
        Ok(out)
    }

    /// Frobenius norm of one module's unscaled `B A`, from the two Gram matrices.
    fn delta_norm(&self, module: &Module) -> f64 {
        let rank = self.config.rank;
        let gram = |range: &Range<usize>| -> Vec<f64> {
            let data = &self.params[range.clone()];
            let width = data.len() / rank;
            let row = |i: usize| &data[i * width..(i + 1) * width];
            (0..rank * rank)
                .map(|ij| row(ij / rank).iter().zip(row(ij % rank)).map(|(x, y)| *x as f64 * *y as f64).sum())
                .collect()
        };
        gram(&module.a).iter().zip(gram(&module.b)).map(|(x, y)| x * y).sum::<f64>().max(0.0).sqrt()
    }

    /// Frobenius norm of the whole scaled update, over all modules.
    pub fn norm(&self) -> f64 {
        let sum: f64 = self.modules.iter().map(|m| self.delta_norm(m).powi(2)).sum();
        self.config.scaling() as f64 * sum.sqrt()
    }

    /// The same adapter, its change multiplied by `factor`.
    pub fn scaled(&self, factor: f32) -> Self {
        let mut out = self.clone();
        out.config.alpha *= factor;
        out
    }

    /// Shape and scale.
    pub fn config(&self) -> &AdapterConfig {
        &self.config
    }

    /// Every module in buffer order.
    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// The module at a place, if the adapter acts there.
    pub fn module(&self, layer: usize, projection: Projection) -> Option<&Module> {
        self.index.get(layer * 7 + projection as usize).copied().flatten().map(|i| &self.modules[i])
    }

    /// Every tensor as files hold it: name `{module path}.lora_A|B.weight`, shape, values (`B` as `[out, rank]`).
    pub fn tensors(&self) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
        let rank = self.config.rank;
        let mut out = BTreeMap::new();
        for m in &self.modules {
            let path = m.projection.module_path(m.layer);
            out.insert(
                format!("{path}.lora_A.weight"),
                (vec![rank, m.input], self.params[m.a.clone()].to_vec()),
            );
            let b = transpose(&self.params[m.b.clone()], rank, m.output);
            out.insert(format!("{path}.lora_B.weight"), (vec![m.output, rank], b));
        }
        out
    }

    /// Fills an adapter from tensors named as in [`Adapter::tensors`].
    ///
    /// # Errors
    /// If a tensor is missing, left over, of another shape, or not finite.
    pub fn from_tensors(
        model: &Architecture,
        config: AdapterConfig,
        mut tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    ) -> Result<Self> {
        let mut adapter = Self::zeros(model, config)?;
        let rank = adapter.config.rank;
        for m in adapter.modules.clone() {
            let path = m.projection.module_path(m.layer);
            let mut take = |factor: &str, shape: [usize; 2]| -> Result<Vec<f32>> {
                let name = format!("{path}.lora_{factor}.weight");
                let (found, data) = tensors.remove(&name).ok_or_else(|| Error::Tensor {
                    name: name.clone(),
                    what: "is missing from the adapter".into(),
                })?;
                if found != shape || data.len() != shape[0] * shape[1] {
                    return Err(Error::Tensor {
                        name,
                        what: format!("has shape {found:?}, expected {shape:?}"),
                    });
                }
                if data.iter().any(|v| !v.is_finite()) {
                    return Err(Error::Tensor { name, what: "holds a value that is not finite".into() });
                }
                Ok(data)
            };
            let (a, b) = (take("A", [rank, m.input])?, take("B", [m.output, rank])?);
            adapter.params[m.a.clone()].copy_from_slice(&a);
            adapter.params[m.b.clone()].copy_from_slice(&transpose(&b, m.output, rank));
        }
        if let Some(name) = tensors.keys().next() {
            return Err(Error::Tensor { name: name.clone(), what: "belongs to no target module".into() });
        }
        Ok(adapter)
    }
}

fn transpose(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..rows * columns).map(|i| x[i % rows * columns + i / rows]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> Architecture {
        let config = serde_json::json!({
            "architectures": ["LlamaForCausalLM"], "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 10, "max_position_embeddings": 64,
        });
        Architecture::from_json(std::path::Path::new("config.json"), &config).unwrap()
    }

    #[test]
    fn tensors_round_trip_and_bad_ones_are_refused() {
        let config = AdapterConfig {
            rank: 2,
            alpha: 3.0,
            target_modules: [Projection::QProj, Projection::DownProj].into(),
        };
        let adapter = Adapter::init(&tiny(), config.clone(), 1, "x").unwrap().norm_matched_random(1, "y");
        let mut full = adapter.clone();
        for (i, v) in full.params.iter_mut().enumerate() {
            *v = i as f32;
        }
        assert_eq!(Adapter::from_tensors(&tiny(), config.clone(), full.tensors()).unwrap(), full);
        let mut missing = full.tensors();
        missing.pop_first();
        assert!(
            Adapter::from_tensors(&tiny(), config.clone(), missing)
                .unwrap_err()
                .to_string()
                .contains("missing")
        );
        let mut extra = full.tensors();
        extra.insert("model.layers.9.mlp.up_proj.lora_A.weight".into(), (vec![1], vec![0.0]));
        assert!(
            Adapter::from_tensors(&tiny(), config.clone(), extra)
                .unwrap_err()
                .to_string()
                .contains("no target")
        );
        let mut nan = full.tensors();
        nan.values_mut().next().unwrap().1[0] = f32::NAN;
        assert!(Adapter::from_tensors(&tiny(), config, nan).unwrap_err().to_string().contains("not finite"));
    }

    #[test]
    fn a_random_twin_has_the_same_norm_in_every_module() {
        let mut adapter = Adapter::init(&tiny(), AdapterConfig::all_linear(3, 1.0), 7, "x").unwrap();
        for (i, v) in adapter.params.iter_mut().enumerate() {
            *v += (i as f32).sin();
        }
        let twin = adapter.norm_matched_random(7, "twin");
        assert_ne!(twin.params, adapter.params);
        for m in adapter.modules() {
            assert!((adapter.delta_norm(m) / twin.delta_norm(m) - 1.0).abs() < 1e-5);
        }
        assert!((adapter.norm() / twin.norm() - 1.0).abs() < 1e-5);
    }
}
