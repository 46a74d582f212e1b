//! Adapters as safetensors bytes with PEFT's tensor names.

use std::collections::BTreeMap;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::{Adapter, AdapterConfig, Architecture, Error, Result};

const PREFIX: &str = "base_model.model.";

impl Adapter {
    /// `adapter_model.safetensors`, f32, tensors in name order: the same adapter gives the same bytes.
    pub fn to_safetensors(&self) -> Result<Vec<u8>> {
        let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = self
            .tensors()
            .into_iter()
            .map(|(name, (shape, data))| {
                (format!("{PREFIX}{name}"), shape, data.iter().flat_map(|v| v.to_le_bytes()).collect())
            })
            .collect();
        let fail = |e: safetensors::SafeTensorError| Error::Request(format!("writing an adapter: {e}"));
        let mut views = Vec::new();
        for (name, shape, data) in &tensors {
            views.push((name, TensorView::new(Dtype::F32, shape.clone(), data).map_err(fail)?));
        }
        safetensors::serialize(views, None).map_err(fail)
    }

    /// Reads what [`Adapter::to_safetensors`] wrote.
    ///
    /// # Errors
    /// If the bytes are damaged, or a tensor is missing, left over, of another shape or not finite.
    pub fn from_safetensors(model: &Architecture, config: AdapterConfig, bytes: &[u8]) -> Result<Self> {
        let file = SafeTensors::deserialize(bytes)
            .map_err(|e| Error::Request(format!("the adapter file is damaged: {e}")))?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.tensors() {
            let Some(short) = name.strip_prefix(PREFIX).filter(|_| view.dtype() == Dtype::F32) else {
                return Err(Error::Tensor { name, what: "is not an f32 tensor of a PEFT adapter".into() });
            };
            let data = view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            tensors.insert(short.to_owned(), (view.shape().to_vec(), data));
        }
        Self::from_tensors(model, config, tensors)
    }
}
