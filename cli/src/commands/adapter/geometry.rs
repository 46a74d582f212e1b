//! `adapter diff|similar`: weight differences compared as what they do.

use std::collections::BTreeMap;

use lm::LowRank;
use registry::{AdapterRecord, Filter, Listing, Store};
use serde_json::json;

use super::list::check_keys;
use crate::context::Context;
use crate::error::{CommandError, Kind, Result};
use crate::output::{count, print, print_json, table};

fn load(store: &Store, record: &AdapterRecord) -> Result<LowRank> {
    Ok(LowRank::from_safetensors(&store.weights(record)?, record.peft.lora_alpha / record.peft.r as f32)?)
}

/// Leaves of a specification by their path.
fn leaves(value: &serde_json::Value, path: &str, out: &mut BTreeMap<String, String>) {
    let join = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value {
        serde_json::Value::Object(map) => map.iter().for_each(|(k, v)| leaves(v, &join(k), out)),
        serde_json::Value::Array(list) if list.iter().any(|v| v.is_object() || v.is_array()) => {
            list.iter().enumerate().for_each(|(i, v)| leaves(v, &join(&i.to_string()), out));
        }
        other => drop(out.insert(path.to_owned(), other.to_string())),
    }
}

pub(super) fn diff(context: &Context<'_>, a: &str, b: &str) -> Result {
    let store = context.existing_store()?;
    let records = [store.adapter(a)?, store.adapter(b)?];
    let [x, y] = [load(&store, &records[0])?, load(&store, &records[1])?];
    let mut specs = [BTreeMap::new(), BTreeMap::new()];
    for (spec, record) in specs.iter_mut().zip(&records) {
        leaves(&record.spec, "", spec);
    }
    let keys: std::collections::BTreeSet<&String> = specs.iter().flat_map(|s| s.keys()).collect();
    let differing: Vec<(&String, Option<&String>, Option<&String>)> =
        keys.into_iter().map(|k| (k, specs[0].get(k), specs[1].get(k))).filter(|(_, a, b)| a != b).collect();
    let relations = x.relations(&y);
    let (spectra_x, spectra_y) = (x.spectra(), y.spectra());
    if context.global.json {
        let modules: Vec<_> = relations
            .iter()
            .map(|r| json!({"relation": r, "singular_values": [&spectra_x[r.module.as_str()], &spectra_y[r.module.as_str()]]}))
            .collect();
        let fields: Vec<_> = differing.iter().map(|(k, a, b)| json!({"field": k, "a": a, "b": b})).collect();
        return print_json(
            &json!({"schema": "adapter-diff/1", "a": records[0].id, "b": records[1].id, "norms": [x.norm(), y.norm()],
            "cosine": x.cosine(&y), "differing_fields": fields, "modules": modules}),
        );
    }
    let short = |v: Option<&String>| v.map_or("–".to_owned(), |v| v.chars().take(48).collect());
    let rows: Vec<Vec<String>> =
        differing.iter().take(40).map(|(k, a, b)| vec![(*k).clone(), short(*a), short(*b)]).collect();
    print(&format!("a  {}  {}", records[0].id, records[0].behaviour))?;
    print(&format!("b  {}  {}", records[1].id, records[1].behaviour))?;
    print(&format!(
        "\nnorm {:.3} and {:.3}, cosine {:.3}, {} of specification differ",
        x.norm(),
        y.norm(),
        x.cosine(&y),
        count(differing.len(), "field")
    ))?;
    if !rows.is_empty() {
        print(&format!("\n{}", table(&["field", "a", "b"], &rows)))?;
    }
    // Modules of one kind together: layers are many.
    let mut kinds: BTreeMap<&str, Vec<&lm::geometry::ModuleRelation>> = BTreeMap::new();
    for r in &relations {
        kinds.entry(r.module.rsplit('.').next().unwrap_or_default()).or_default().push(r);
    }
    let mean = |v: &mut dyn Iterator<Item = f64>| {
        let values: Vec<f64> = v.collect();
        values.iter().sum::<f64>() / values.len().max(1) as f64
    };
    let rows: Vec<Vec<String>> = kinds
        .iter()
        .map(|(kind, list)| {
            let top = |s: &BTreeMap<&str, Vec<f64>>| {
                mean(&mut list.iter().filter_map(|r| s[r.module.as_str()].first().copied()))
            };
            vec![
                (*kind).to_owned(),
                list.len().to_string(),
                format!("{:.3}", mean(&mut list.iter().map(|r| r.norms[0]))),
                format!("{:.3}", mean(&mut list.iter().map(|r| r.norms[1]))),
                format!("{:.3}", top(&spectra_x)),
                format!("{:.3}", top(&spectra_y)),
                format!("{:.3}", mean(&mut list.iter().map(|r| r.cosine))),
                format!("{:.3}", mean(&mut list.iter().filter_map(|r| r.write_angles.first().copied()))),
                format!("{:.3}", mean(&mut list.iter().filter_map(|r| r.read_angles.first().copied()))),
            ]
        })
        .collect();
    let head = [
        "means over layers",
        ">n",
        ">norm a",
        ">norm b",
        ">sigma1 a",
        ">sigma1 b",
        ">cosine",
        ">write cos",
        ">read cos",
    ];
    print(&format!("\n{}", table(&head, &rows)))?;
    context.say("write cos, read cos: cosine of the smallest principal angle between the spaces written to (B) and read from (A); every layer with --json");
    Ok(())
}

/// How many times the wanted number of candidates the fingerprints choose before the exact cosines rank them.
const CANDIDATES: usize = 5;

pub(super) fn similar(context: &Context<'_>, name: &str, conditions: &[String], limit: usize) -> Result {
    let store = context.existing_store()?;
    let record = store.adapter(name)?;
    let mut filter = Filter::all();
    for condition in conditions {
        filter = filter.and(condition)?;
    }
    check_keys(&store, &filter, std::iter::empty(), None)?;
    let others: Vec<AdapterRecord> =
        store.list(&filter, &Listing::default())?.into_iter().filter(|r| r.id != record.id).collect();
    let own = fingerprint(&store, &record)?;
    let mut near: Vec<(f32, &AdapterRecord)> =
        others.iter().map(|r| Ok((cosine(&own, &fingerprint(&store, r)?), r))).collect::<Result<Vec<_>>>()?;
    near.sort_by(|a, b| b.0.abs().total_cmp(&a.0.abs()).then_with(|| a.1.id.cmp(&b.1.id)));
    near.truncate(limit * CANDIDATES);
    let diff = load(&store, &record)?;
    if diff.norm() == 0.0 {
        return Err(CommandError::new(
            Kind::Negative,
            format!("{name} changes nothing, so nothing is like it"),
        ));
    }
    let mut exact: Vec<(f64, &AdapterRecord)> =
        near.into_iter().map(|(_, r)| Ok((diff.cosine(&load(&store, r)?), r))).collect::<Result<Vec<_>>>()?;
    exact.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.id.cmp(&b.1.id)));
    exact.truncate(limit);
    if context.global.json {
        let items: Vec<_> =
            exact.iter().map(|(c, r)| json!({"id": r.id, "behaviour": r.behaviour, "cosine": c})).collect();
        return print_json(&json!({"schema": "adapter-similar/1", "id": record.id, "similar": items}));
    }
    let rows: Vec<Vec<String>> = exact
        .iter()
        .map(|(c, r)| {
            vec![
                registry::commit::short(&r.id).to_owned(),
                r.behaviour.clone(),
                r.category.clone(),
                format!("{c:.3}"),
            ]
        })
        .collect();
    print(&table(&["id", "behaviour", "category", ">cosine"], &rows))
}

/// An adapter's fingerprint, remembered by its weights and scale.
fn fingerprint(store: &Store, record: &AdapterRecord) -> Result<Vec<f32>> {
    let key = format!("fingerprint/1/{}/{}/{}", record.weights, record.peft.lora_alpha, record.peft.r);
    if let Some(bytes) = store.cache_get(&key)? {
        return Ok(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect());
    }
    let made = load(store, record)?.fingerprint();
    store.cache_put(&key, &made.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())?;
    Ok(made)
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if norms > 0.0 { dot(a, b) / norms } else { 0.0 }
}
