//! The known adapters whose weight differences point the same way.

use lm::{Adapter, LowRank};
use readers::{Error, Result};
use registry::{AdapterRecord, Digest, Filter, Store};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A known adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Neighbour {
    /// Its behaviour.
    pub behaviour: String,
    /// Its id.
    pub id: String,
    /// Cosine of the two differences.
    pub cosine: f64,
}

/// What adapters of the store that were drawn at random reach: what a cosine is by chance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Strangers {
    /// How many.
    pub count: usize,
    /// The largest cosine among them.
    pub most: f64,
}

/// Most strangers that are looked at.
const STRANGERS: usize = 50;
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
    let known = known(store, base, weights)?;
    let mut near = Vec::with_capacity(known.len());
    for record in &known {
        near.push((
            cosine(&print, &fingerprint(store, &record.weights, record.peft.lora_alpha, record.peft.r)?),
            record,
        ));
    }
    near.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.id.cmp(&b.1.id)));
    near.truncate(CANDIDATES);
    let mut exact: Vec<Neighbour> = near
        .into_iter()
        .map(|(_, r)| {
            let cosine = difference.cosine(&of_record(store, r)?);
            Ok(Neighbour { behaviour: r.behaviour.clone(), id: r.id.clone(), cosine })
        })
        .collect::<Result<_>>()?;
    exact.sort_by(|a, b| b.cosine.total_cmp(&a.cosine).then_with(|| a.id.cmp(&b.id)));
    exact.truncate(k);
    Ok(exact)
}

/// What chance gives: adapters of a base model that are not among the nearest, in an order that a digest draws, the same ones each time. None without any, or for one
/// that changes nothing.
///
/// # Errors
/// As [`nearest`].
pub fn strangers(
    store: &Store,
    base: &[String],
    own: &Adapter,
    weights: &Digest,
    near: &[Neighbour],
) -> Result<Option<Strangers>> {
    let difference = low_rank(&own.to_safetensors()?, own.config().scaling())?;
    let mut known = known(store, base, Some(weights))?;
    known.retain(|r| near.iter().all(|n| n.id != r.id));
    known.sort_by_cached_key(|r| Digest::of(format!("{weights}{}", r.id).as_bytes()));
    known.truncate(STRANGERS);
    let mut most = None;
    for record in known.iter().filter(|_| difference.norm() > 0.0) {
        let cosine = difference.cosine(&of_record(store, record)?);
        most = Some(most.map_or(cosine, |m: f64| m.max(cosine)));
    }
    Ok(most.map(|most| Strangers { count: known.len(), most }))
}

/// The adapters of a base model, but for some weights, newest first.
fn known(store: &Store, base: &[String], weights: Option<&Digest>) -> Result<Vec<AdapterRecord>> {
    let mut known: Vec<AdapterRecord> = store.adapters(&Filter::all().equals("role", "weight_diff"))?;
    known.retain(|r| r.lineage.get("base").is_some_and(|b| base.contains(b)) && Some(&r.weights) != weights);
    known.sort_by(|a, b| b.created_at.cmp(&a.created_at));
    known.truncate(MOST);
    Ok(known)
}

fn of_record(store: &Store, record: &AdapterRecord) -> Result<LowRank> {
    low_rank(&store.weights(record)?, record.peft.lora_alpha / record.peft.r as f32)
}

fn low_rank(bytes: &[u8], scale: f32) -> Result<LowRank> {
    LowRank::from_safetensors(bytes, scale).map_err(Error::from)
}

/// The fingerprint of an adapter of the store, remembered by its weights and scale.
///
/// # Errors
/// If the store refuses or the adapter is damaged.
pub fn fingerprint(store: &Store, weights: &Digest, alpha: f32, rank: usize) -> Result<Vec<f32>> {
    let key = format!("fingerprint/3/{weights}/{alpha}/{rank}");
    if let Some(bytes) = store.cache_get(&key)? {
        return Ok(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect());
    }
    let made = low_rank(&store.get_blob(weights)?, alpha / rank as f32)?.fingerprint();
    store.cache_put(&key, &made.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())?;
    Ok(made)
}

/// Cosine of two fingerprints; 0 if one of them is 0.
pub fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if norms > 0.0 { dot(a, b) / norms } else { 0.0 }
}
