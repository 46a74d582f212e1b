//! Whether an adapter from elsewhere works on the base model in use.

use exchange::ImportShape;
use exchange::peft::Imported;
use lm::{Adapter, BaseModel, Batch, LowRank, Outline, Projection, Row, Want};
use registry::AdapterRecord;

/// Norm of a whole difference above which it is taken for damage: a hundred times that of any adapter made here.
const ABSURD_NORM: f64 = 1e5;

/// What an imported adapter must fit.
pub(in crate::commands) fn shape(base: &Outline) -> ImportShape {
    ImportShape {
        base_model: base.name.clone(),
        revision: base.revision.clone(),
        layers: base.architecture.layers.len(),
        projections: Projection::ALL
            .iter()
            .map(|p| (p.name().to_owned(), base.architecture.features(0, *p)))
            .collect(),
    }
}

/// The on/off check: by how much the logits after one prompt differ with the adapter. An adapter that holds numbers and changes
/// nothing was not applied, whatever its file says.
pub(in crate::commands) fn effect(base: &BaseModel, imported: &Imported) -> std::result::Result<f64, String> {
    let norm = weigh(&imported.weights, imported.peft.lora_alpha / imported.peft.r as f32)?;
    let config = factory::load::adapter_config(&imported.peft).map_err(|e| e.to_string())?;
    let adapter = Adapter::from_safetensors(&base.architecture, config, &imported.weights)
        .map_err(|e| e.to_string())?;
    let prompt = base.prompt("Tell me something.").map_err(|e| e.to_string())?;
    let last = prompt.len() - 1;
    let rows = vec![Row::plain(prompt.clone()), Row::with_adapters(prompt, vec![0])];
    let want = Want { logits: vec![last], residual: vec![] };
    let seen = base
        .decoder
        .forward(&Batch { adapters: vec![&adapter], rows }, &[want.clone(), want])
        .map_err(|e| e.to_string())?;
    let change = seen[0].logits[0]
        .iter()
        .zip(&seen[1].logits[0])
        .map(|(off, on)| f64::from((off - on).abs()))
        .fold(0.0, |a: f64, b| if b.is_nan() { f64::NAN } else { a.max(b) });
    if !change.is_finite() {
        return Err("with the adapter the model's logits are no numbers".into());
    }
    if norm > 0.0 && change == 0.0 {
        return Err(
            "its weights are not zero, yet the model's logits are the same with and without it".into()
        );
    }
    Ok(change)
}

/// Norm of a weights file's difference, if it is one that an adapter can have.
pub(super) fn weigh(weights: &[u8], scale: f32) -> std::result::Result<f64, String> {
    let norm = LowRank::from_safetensors(weights, scale).map_err(|e| e.to_string())?.norm();
    if norm.is_finite() && norm < ABSURD_NORM {
        Ok(norm)
    } else {
        Err(format!("the norm of its weight difference is {norm:.3e}, which no working adapter has"))
    }
}

/// Whether an adapter from elsewhere, whose weights are what its record says, is a working one, and its recipe one that a user could
/// have written.
pub(crate) fn looked_at(
    record: &AdapterRecord,
    files: exchange::bundle::Files<'_>,
) -> std::result::Result<(), String> {
    let get = |name: &str| files(name).map_err(|e| e.to_string());
    let weights = &get("adapter_model.safetensors")?.ok_or("has no weights")?;
    weigh(weights, record.peft.lora_alpha / record.peft.r as f32)?;
    match get(::factory::spec::RECIPE_FILE)? {
        None => Ok(()),
        Some(recipe) => recipes::Recipe::from_canonical(::factory::spec::RECIPE_FILE, &recipe)
            .map(drop)
            .map_err(|e| e.to_string()),
    }
}
