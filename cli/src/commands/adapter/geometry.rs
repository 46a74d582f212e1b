//! `adapter diff|similar`: weight differences compared as what they do.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lm::LowRank;
use reading::neighbours::cosine;
use registry::{AdapterRecord, Digest, Filter, Listing, Store};
use serde_json::json;

use super::list::check_keys;
use crate::context::Context;
use crate::error::{CommandError, Kind, Result};
use crate::output::{count, print, print_json, table};
use crate::progress::StatusLine;

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
    print(&format!("a  {}  {}", records[0].id, records[0].behaviour))?;
    print(&format!("b  {}  {}", records[1].id, records[1].behaviour))?;
    print(&format!("\nnorm {:.3} and {:.3}, cosine {:.3}", x.norm(), y.norm(), x.cosine(&y)))?;
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
        "modules",
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
    context.say("means over layers; write cos, read cos: cosine of the smallest principal angle between the spaces written to (B) and read from (A); every layer with --json");
    if differing.is_empty() {
        return print("\nthe specifications are the same");
    }
    let cell = |v: Option<&String>| v.cloned().unwrap_or("–".to_owned());
    let rows: Vec<Vec<String>> =
        differing.iter().take(FIELDS).map(|(k, a, b)| vec![(*k).clone(), cell(*a), cell(*b)]).collect();
    print(&format!(
        "\n{} of the specification differ:\n{}",
        count(differing.len(), "field"),
        table(&["field", "a", "b"], &rows)
    ))?;
    if differing.len() > FIELDS {
        context.say(&format!("and {} more, all with --json", differing.len() - FIELDS));
    }
    Ok(())
}

/// Differing fields of specifications that are shown.
const FIELDS: usize = 40;

/// Bytes of weights that are read for exact cosines. Where there are more, fingerprints choose: their error is about .016, and adapters
/// that have nothing in common have cosines of .005, so that the hundred that fit into this keep what is alike among ten thousand.
const EXACT_BYTES: u64 = 150_000_000;
/// What is done within this needs no line about it.
const AT_ONCE: Duration = Duration::from_secs(1);
/// Others of the same shape that say what a cosine is by chance.
const STRANGERS: usize = 50;

/// What is needed of an adapter to compare it, without its record.
#[derive(Debug, Clone)]
struct Known {
    id: String,
    behaviour: String,
    category: String,
    /// Rank, modules and base model.
    shape: [String; 3],
    alpha: String,
    weights: Digest,
    bytes: u64,
}

impl Known {
    const FIELDS: [&str; 9] =
        ["id", "behaviour", "category", "rank", "modules", "base", "alpha", "weights", "bytes"];

    fn of(row: &BTreeMap<String, String>) -> Option<Self> {
        let text = |key: &str| row.get(key).cloned();
        Some(Self {
            id: text("id")?,
            behaviour: text("behaviour")?,
            category: text("category").unwrap_or_default(),
            shape: [text("rank")?, text("modules")?, text("base")?],
            alpha: text("alpha")?,
            weights: Digest::try_from(text("weights")?).ok()?,
            bytes: text("bytes")?.parse().ok()?,
        })
    }

    fn load(&self, store: &Store) -> Result<LowRank> {
        let number = |text: &str| text.parse::<f32>().unwrap_or(1.0);
        let scale = number(&self.alpha) / number(&self.shape[0]);
        Ok(LowRank::from_safetensors(&store.get_blob(&self.weights)?, scale)?)
    }

    /// Its fingerprint, remembered by its weights and scale.
    fn fingerprint(&self, store: &Store) -> Result<Vec<f32>> {
        let (alpha, rank) = (self.alpha.parse().unwrap_or(1.0), self.shape[0].parse().unwrap_or(1));
        Ok(reading::fingerprint(store, &self.weights, alpha, rank)?)
    }
}

/// What chance gives: the cosines of others of the same shape, in order.
fn chance(store: &Store, own: &Known, diff: &LowRank) -> Result<Vec<f64>> {
    let filter = Filter::all()
        .equals("rank", &own.shape[0])
        .equals("modules", &own.shape[1])
        .equals("base", &own.shape[2]);
    let same = store.page(&filter, &Listing::default(), &["id"])?.rows;
    let mut ids: Vec<&str> =
        same.iter().filter_map(|r| r.get("id")).map(String::as_str).filter(|id| *id != own.id).collect();
    // The same ones each time: the first of an order that a digest draws.
    ids.sort_by_cached_key(|id| Digest::of(format!("{}{id}", own.id).as_bytes()));
    ids.truncate(STRANGERS);
    let mut out = Vec::new();
    for id in ids {
        let page = store.page(&Filter::all().equals("id", id), &Listing::default(), &Known::FIELDS)?;
        if let Some(other) = page.rows.first().and_then(Known::of) {
            out.push(diff.cosine(&other.load(store)?));
        }
    }
    out.sort_by(f64::total_cmp);
    Ok(out)
}

pub(super) fn similar(context: &Context<'_>, name: &str, conditions: &[String], limit: usize) -> Result {
    let store = context.existing_store()?;
    let record = store.adapter(name)?;
    // Readers change a model too, but carry no behaviour; they are compared where a condition asks for it.
    let mut filter = Filter::all();
    if !conditions.iter().any(|c| c.contains("role")) {
        filter = filter.equals("role", &record.field("role").unwrap_or_default());
    }
    for condition in conditions {
        filter = filter.and(condition)?;
    }
    check_keys(&store, &filter, std::iter::empty(), None)?;
    let diff = load(&store, &record)?;
    if diff.norm() == 0.0 {
        return Err(CommandError::new(
            Kind::Negative,
            format!("{name} changes nothing, so nothing is like it"),
        ));
    }
    let found = store.page(&filter, &Listing::default(), &Known::FIELDS)?;
    let others: Vec<Known> = found.rows.iter().filter_map(Known::of).filter(|k| k.id != record.id).collect();
    let own: BTreeMap<String, String> =
        Known::FIELDS.iter().filter_map(|key| Some(((*key).to_owned(), record.field(key)?))).collect();
    let own = Known::of(&own).expect("invariant: every record has these fields");
    let begin = Instant::now();
    let mut status = StatusLine::new(context.global.quiet);
    let mut near: Vec<(f32, &Known)> = others.iter().map(|other| (0.0, other)).collect();
    if others.iter().map(|k| k.bytes).sum::<u64>() > EXACT_BYTES {
        let print_of = own.fingerprint(&store)?;
        for (i, (about, other)) in near.iter_mut().enumerate() {
            if begin.elapsed() > AT_ONCE {
                status.show(|| {
                    format!("fingerprints: {i} of {}; they are kept for the next time", others.len())
                });
            }
            *about = cosine(&print_of, &other.fingerprint(&store)?).abs();
        }
        near.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.id.cmp(&b.1.id)));
    }
    let mut bytes = 0;
    let mut exact: Vec<(f64, &Known)> = Vec::new();
    for (_, other) in near {
        bytes += other.bytes;
        if bytes > EXACT_BYTES && exact.len() >= 2 * limit {
            break;
        }
        if begin.elapsed() > AT_ONCE {
            status.show(|| format!("exact cosines: {}", exact.len()));
        }
        exact.push((diff.cosine(&other.load(&store)?), other));
    }
    status.clear();
    exact.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.id.cmp(&b.1.id)));
    exact.truncate(limit);
    let strangers = chance(&store, &own, &diff)?;
    let (most, median) = (strangers.last().copied(), strangers.get(strangers.len() / 2).copied());
    if context.global.json {
        let items: Vec<_> = exact
            .iter()
            .map(|(c, k)| json!({"id": k.id, "behaviour": k.behaviour, "category": k.category, "cosine": c}))
            .collect();
        return print_json(&json!({"schema": "adapter-similar/1", "id": record.id, "similar": items,
            "chance": {"n": strangers.len(), "most": most, "median": median}}));
    }
    let rows: Vec<Vec<String>> = exact
        .iter()
        .map(|(c, k)| {
            let above = strangers.iter().filter(|s| *s < c).count();
            vec![
                registry::commit::short(&k.id).to_owned(),
                k.behaviour.clone(),
                k.category.clone(),
                format!("{c:.4}"),
                if strangers.is_empty() { "–".to_owned() } else { format!("{above}/{}", strangers.len()) },
            ]
        })
        .collect();
    print(&table(&["id", "behaviour", "category", ">cosine", ">above"], &rows))?;
    let (Some(most), Some(median)) = (most, median) else {
        context.say("there is no other adapter of its shape to say what a cosine is by chance");
        return Ok(());
    };
    print(&format!(
        "\n{} of the same shape, drawn at random, reach at most {most:.4} (median {median:.4}); above: of these, how many are further away",
        count(strangers.len(), "other adapter")
    ))
}
