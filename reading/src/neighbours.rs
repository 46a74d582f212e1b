//! The known adapters whose weight differences point the same way.

use lm::{Adapter, LowRank};
use readers::{Error, Result};
use registry::{AdapterRecord, Digest, Filter, Store};
use serde::{Deserialize, Serialize};

/// A known adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Neighbour {
    /// Its behaviour.
    pub behaviour: String,
    /// Its id.
    pub id: String,
    /// Cosine of the two differences.
    pub cosine: f64,
}

/// Adapters ranked exactly after fingerprints chose them.
const CANDIDATES: usize = 24;
/// Most adapters that are looked at, newest first.
const MOST: usize = 20_000;

/// The nearest of the adapters of a base model, itself left out (by its weights).
///
/// # Errors
/// If the store refuses or an adapter is damaged.
pub fn nearest(
    store: &Store,
    base: &[String],
    own: &Adapter,
    weights: Option<&Digest>,
    k: usize,
) -> Result<Vec<Neighbour>> {
    let difference = low_rank(&own.to_safetensors()?, own.config().scaling())?;
    if difference.norm() == 0.0 {
        return Ok(vec![]);
    }
    let print = difference.fingerprint();
    let mut known: Vec<AdapterRecord> = store.adapters(&Filter::all().equals("role", "weight_diff"))?;
    known.retain(|r| r.lineage.get("base").is_some_and(|b| base.contains(b)) && Some(&r.weights) != weights);
    known.sort_by(|a, b| b.created_at.cmp(&a.created_at));
    known.truncate(MOST);
    let mut near = Vec::with_capacity(known.len());
    for record in &known {
        near.push((cosine(&print, &fingerprint(store, record)?), record));
    }
    near.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.id.cmp(&b.1.id)));
    near.truncate(CANDIDATES);
    let mut exact: Vec<Neighbour> = near
        .into_iter()
        .map(|(_, r)| {
            let other = low_rank(&store.weights(r)?, r.peft.lora_alpha / r.peft.r as f32)?;
            Ok(Neighbour {
                behaviour: r.behaviour.clone(),
                id: r.id.clone(),
                cosine: difference.cosine(&other),
            })
        })
        .collect::<Result<_>>()?;
    exact.sort_by(|a, b| b.cosine.total_cmp(&a.cosine).then_with(|| a.id.cmp(&b.id)));
    exact.truncate(k);
    Ok(exact)
}

fn low_rank(bytes: &[u8], scale: f32) -> Result<LowRank> {
    LowRank::from_safetensors(bytes, scale).map_err(Error::from)
}

/// An adapter's fingerprint, remembered by its weights and scale.
///
/// # Errors
/// If the store refuses or the adapter is damaged.
pub fn fingerprint(store: &Store, record: &AdapterRecord) -> Result<Vec<f32>> {
    let key = format!("fingerprint/3/{}/{}/{}", record.weights, record.peft.lora_alpha, record.peft.r);
    if let Some(bytes) = store.cache_get(&key)? {
        return Ok(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect());
    }
    let made =
        low_rank(&store.weights(record)?, record.peft.lora_alpha / record.peft.r as f32)?.fingerprint();
    store.cache_put(&key, &made.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())?;
    Ok(made)
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if norms > 0.0 { dot(a, b) / norms } else { 0.0 }
}
