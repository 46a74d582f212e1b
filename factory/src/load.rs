//! Between the registry's bytes and the model's adapters.

use std::collections::BTreeSet;

use lm::{Adapter, AdapterConfig, BaseModel, Projection};
use registry::{AdapterRecord, PeftConfig, Store};

use crate::Result;

/// Reads an adapter from the store.
///
/// # Errors
/// If its bytes are damaged or do not fit the base model.
pub fn load_adapter(store: &Store, base: &BaseModel, record: &AdapterRecord) -> Result<Adapter> {
    let config = adapter_config(&record.peft)?;
    Ok(Adapter::from_safetensors(&base.architecture, config, &store.weights(record)?)?)
}

/// The shape and scale of a PEFT configuration.
pub fn adapter_config(peft: &PeftConfig) -> Result<AdapterConfig> {
    Ok(AdapterConfig {
        rank: peft.r,
        alpha: peft.lora_alpha,
        target_modules: projections(&peft.target_modules)?,
    })
}

/// Projections by name.
pub(crate) fn projections(names: &BTreeSet<String>) -> Result<BTreeSet<Projection>> {
    names
        .iter()
        .map(|n| {
            Projection::from_name(n)
                .ok_or_else(|| lm::Error::Request(format!("{n:?} is not a projection")).into())
        })
        .collect()
}

/// The PEFT configuration of an adapter.
pub fn peft_config(base: &BaseModel, adapter: &Adapter) -> PeftConfig {
    let config = adapter.config();
    PeftConfig {
        base_model: base.name.clone(),
        revision: base.revision.clone(),
        r: config.rank,
        lora_alpha: config.alpha,
        target_modules: config.target_modules.iter().map(|p| p.name().to_owned()).collect(),
        nested: base.architecture.is_nested(),
    }
}
