//! AdamW over one adapter's flat buffer, with warm-up and decay, clipping by global norm, and exact save and resume.
//!
//! The update is PyTorch's `torch.optim.AdamW` (decoupled decay, bias correction); state is f32 and belongs to one
//! adapter only, so adapters trained together do not influence each other.

use std::collections::BTreeMap;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use crate::{Adapter, Error, Result};

/// Learning rate over steps: linear warm-up to the peak, then linear decay to `final_share` of it at `total_steps`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Steps of linear warm-up (0: none).
    pub warmup_steps: usize,
    /// Step at which the decay ends.
    pub total_steps: usize,
    /// Share of the peak that is left at the end; 1 keeps the rate constant.
    pub final_share: f64,
}

impl Schedule {
    /// Rate of the step with this 0-based index.
    pub fn at(&self, step: usize) -> f64 {
        if step < self.warmup_steps {
            return self.learning_rate * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let span = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let done = ((step - self.warmup_steps) as f64 / span).min(1.0);
        self.learning_rate * (1.0 - (1.0 - self.final_share) * done)
    }
}

/// AdamW's settings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Global gradient norm above which the gradient is scaled down; infinite for none.
    pub max_grad_norm: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, max_grad_norm: f64::MAX }
    }
}

/// An adapter in training: parameters, moments, step count.
#[derive(Debug, Clone)]
pub struct Trainer {
    /// The adapter being trained.
    pub adapter: Adapter,
    config: AdamWConfig,
    schedule: Schedule,
    m: Vec<f32>,
    v: Vec<f32>,
    step: usize,
}

/// Version of the checkpoint layout.
const FORMAT: &str = "lorafab-trainer/1";

impl Trainer {
    /// Starts training an adapter.
    pub fn new(adapter: Adapter, config: AdamWConfig, schedule: Schedule) -> Self {
        let n = adapter.params.len();
        Self { adapter, config, schedule, m: vec![0.0; n], v: vec![0.0; n], step: 0 }
    }

    /// Optimiser steps taken.
    pub fn step(&self) -> usize {
        self.step
    }

    /// Takes one step and returns the gradient's norm before clipping.
    ///
    /// # Errors
    /// If the gradient has another length or is not finite; nothing is changed then.
    pub fn apply(&mut self, gradient: &[f32]) -> Result<f64> {
        if gradient.len() != self.adapter.params.len() {
            return Err(Error::Request(format!(
                "gradient has {} values, the adapter {}",
                gradient.len(),
                self.adapter.params.len()
            )));
        }
        let norm = gradient.iter().map(|g| (*g as f64).powi(2)).sum::<f64>().sqrt();
        if !norm.is_finite() {
            return Err(Error::Request(format!("the gradient is not finite at step {}", self.step)));
        }
        let clip = (self.config.max_grad_norm / (norm + 1e-6)).min(1.0) as f32;
        let rate = self.schedule.at(self.step);
        self.step += 1;
        let AdamWConfig { beta1, beta2, eps, weight_decay, .. } = self.config;
        let correction1 = 1.0 - beta1.powi(self.step as i32);
        let correction2 = (1.0 - beta2.powi(self.step as i32)).sqrt();
        let keep = (1.0 - rate * weight_decay) as f32;
        let size = (rate / correction1) as f32;
        let (b1, b2, eps, root) = (beta1 as f32, beta2 as f32, eps as f32, correction2 as f32);
        for (((p, g), m), v) in self.adapter.params.iter_mut().zip(gradient).zip(&mut self.m).zip(&mut self.v)
        {
            let g = g * clip;
            *m = b1 * *m + (1.0 - b1) * g;
            *v = b2 * *v + (1.0 - b2) * g * g;
            *p = *p * keep - size * *m / (v.sqrt() / root + eps);
        }
        Ok(norm)
    }

    /// Everything needed to go on bit for bit: a safetensors file with parameters, moments and the step.
    pub fn save(&self) -> Result<Vec<u8>> {
        let bytes = |x: &[f32]| x.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let step = (self.step as u64).to_le_bytes();
        let buffers: Vec<(&str, Dtype, Vec<u8>, usize)> = vec![
            ("m", Dtype::F32, bytes(&self.m), self.m.len()),
            ("params", Dtype::F32, bytes(&self.adapter.params), self.m.len()),
            ("step", Dtype::U64, step.to_vec(), 1),
            ("v", Dtype::F32, bytes(&self.v), self.v.len()),
        ];
        let mut views = Vec::new();
        for (name, dtype, data, len) in &buffers {
            views.push((*name, TensorView::new(*dtype, vec![*len], data).map_err(trainer_error)?));
        }
        let metadata = [("format".to_owned(), FORMAT.to_owned())].into();
        safetensors::serialize(views, Some(metadata)).map_err(trainer_error)
    }

    /// Restores the state of [`Trainer::save`] into a trainer made with the same shape and settings.
    ///
    /// # Errors
    /// If the bytes are not such a state or belong to an adapter of another size.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<()> {
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(trainer_error)?;
        if header.metadata().as_ref().and_then(|m| m.get("format")).map(String::as_str) != Some(FORMAT) {
            return Err(Error::Request(format!("the training checkpoint is not of format {FORMAT}")));
        }
        let file = SafeTensors::deserialize(bytes).map_err(trainer_error)?;
        let mut read: BTreeMap<&str, Vec<f32>> = BTreeMap::new();
        for name in ["params", "m", "v"] {
            let tensor = file.tensor(name).map_err(trainer_error)?;
            let (values, _) = tensor.data().as_chunks::<4>();
            let values: Vec<f32> = values.iter().map(|b| f32::from_le_bytes(*b)).collect();
            if tensor.dtype() != Dtype::F32 || values.len() != self.m.len() {
                return Err(Error::Tensor {
                    name: name.into(),
                    what: "belongs to an adapter of another size".into(),
                });
            }
            read.insert(name, values);
        }
        let step = file.tensor("step").map_err(trainer_error)?;
        let step: [u8; 8] = step
            .data()
            .try_into()
            .map_err(|_| Error::Tensor { name: "step".into(), what: "is not one 64-bit number".into() })?;
        let mut take = |name| read.remove(name).expect("invariant: read above");
        self.adapter.params = take("params");
        self.m = take("m");
        self.v = take("v");
        self.step = u64::from_le_bytes(step) as usize;
        Ok(())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn trainer_error(e: safetensors::SafeTensorError) -> Error {
    Error::Request(format!("training checkpoint: {e}"))
}
