//! Activations of adapters, remembered by the store: each adapter, prompt set and layer is computed once, whoever asks.

use std::collections::BTreeMap;

use lm::{Adapter, BaseModel, Error};
use readers::{Lab, Result, Supervision};
use recipes::{Context, Split};
use registry::Store;
use serde_json::json;

use crate::collect::{Activations, Collector, Shown};

/// A subject in a context, at the prompts that it is read at.
struct Wanted<'a> {
    key: String,
    id: &'a str,
    diff: &'a Adapter,
    /// Given to the base model in place of the adapter.
    system: Option<String>,
    collector: Collector,
}

/// Adapters computed together.
const TOGETHER: usize = 32;

/// The name under which a subject's activations in a context are found.
pub fn key(subject: &str, context: Context) -> String {
    format!("{}|{subject}", context.name())
}

/// Activations of these subjects, each in its context: training subjects at all prompts of the collector, others at those that
/// questions ask at. What the store remembers is not computed again; a new layer costs that layer only.
///
/// # Errors
/// If a subject or its context is unknown, the model or the store refuses, or it was stopped.
pub fn shown(
    store: &Store,
    lab: Lab<'_>,
    collector: &Collector,
    subjects: &[(&str, Context)],
) -> Result<Activations> {
    let s = lab.supervision;
    let mut known = Activations::new();
    let mut missing: Vec<(Wanted<'_>, Vec<usize>)> = Vec::new();
    for &(subject, context) in subjects {
        let name = key(subject, context);
        if known.contains_key(&name) || missing.iter().any(|(w, _)| w.key == name) {
            continue;
        }
        let wanted = wanted(s, collector, subject, context)?;
        let absent: Vec<usize> =
            collector.layers.iter().copied().filter(|l| !remembered(store, lab.base, &wanted, *l)).collect();
        if absent.is_empty() {
            known.insert(name, read(store, lab.base, &wanted)?);
        } else {
            missing.push((wanted, absent));
        }
    }
    // Those that lack the same layers are computed together.
    missing.sort_by(|a, b| (&a.1, &a.0.collector.prompts).cmp(&(&b.1, &b.0.collector.prompts)));
    for group in
        missing.chunk_by(|a, b| a.1 == b.1 && a.0.collector.prompts.len() == b.0.collector.prompts.len())
    {
        for part in group.chunks(TOGETHER) {
            if lab.stop.load(std::sync::atomic::Ordering::Relaxed) {
                return Err(Error::Interrupted.into());
            }
            compute(store, lab.base, part)?;
        }
    }
    for (wanted, _) in &missing {
        known.insert(wanted.key.clone(), read(store, lab.base, wanted)?);
    }
    Ok(known)
}

fn wanted<'a>(
    s: &'a Supervision<'_>,
    collector: &Collector,
    subject: &'a str,
    context: Context,
) -> Result<Wanted<'a>> {
    let unknown = || readers::Error::Empty(format!("no adapter {subject} for its episode"));
    let record = s.records.get(subject).ok_or_else(unknown)?;
    let diff = s.diffs.get(subject).ok_or_else(unknown)?;
    let training = record.split.as_deref() == Some(Split::Train.name());
    let many = if training { collector.prompts.len() } else { collector.asked };
    let read = s.read_at(subject, &collector.prompts[..many], context);
    let (prompts, system) = read.ok_or_else(|| {
        readers::Error::Empty(format!("{subject} cannot be asked in context {}", context.name()))
    })?;
    Ok(Wanted { key: key(subject, context), id: &record.id, diff, system, collector: collector.at(prompts) })
}

fn cache_key(base: &BaseModel, wanted: &Wanted<'_>, layer: usize) -> String {
    let c = &wanted.collector;
    let mut decides = json!({"v": 2, "base": base.digest(), "adapter": wanted.id, "prompts": c.prompts, "last": c.last,
        "from_start": c.from_start, "kind": c.kind, "layer": layer});
    if let Some(system) = &wanted.system {
        (decides["adapter"], decides["system"]) = (json!(""), json!(system));
    }
    format!("activations/{}", registry::spec_hash(&decides))
}

fn one_layer(wanted: &Wanted<'_>, layer: usize) -> Collector {
    Collector { layers: vec![layer], ..wanted.collector.clone() }
}

fn layer_of(store: &Store, base: &BaseModel, wanted: &Wanted<'_>, layer: usize) -> Result<Option<Shown>> {
    let bytes = store.cache_get(&cache_key(base, wanted, layer))?;
    Ok(bytes.and_then(|b| one_layer(wanted, layer).from_bytes(&b, base.architecture.hidden_size)))
}

fn remembered(store: &Store, base: &BaseModel, wanted: &Wanted<'_>, layer: usize) -> bool {
    layer_of(store, base, wanted, layer).is_ok_and(|found| found.is_some())
}

/// All layers of the collector, as one.
fn read(store: &Store, base: &BaseModel, wanted: &Wanted<'_>) -> Result<Shown> {
    let mut out: Shown = (0..wanted.collector.prompts.len()).map(|p| (p, vec![])).collect();
    for &layer in &wanted.collector.layers {
        let found = layer_of(store, base, wanted, layer)?
            .ok_or_else(|| Error::Request(format!("activations of {} were lost", wanted.key)))?;
        for (p, vectors) in found {
            out.entry(p).or_default().extend(vectors);
        }
    }
    Ok(out)
}

/// Computes a group that lacks the same layers, and remembers each layer by itself.
fn compute(store: &Store, base: &BaseModel, part: &[(Wanted<'_>, Vec<usize>)]) -> Result<()> {
    let mut plans = Vec::new();
    let mut adapters: BTreeMap<String, &Adapter> = BTreeMap::new();
    for (wanted, absent) in part {
        let collector = Collector { layers: absent.clone(), ..wanted.collector.clone() };
        plans.push(match &wanted.system {
            Some(system) => collector.plan_told(base, system)?,
            None => collector.plan(base, wanted.id)?,
        });
        adapters.insert(wanted.id.to_owned(), wanted.diff);
    }
    let collector = Collector { layers: part[0].1.clone(), ..part[0].0.collector.clone() };
    let found = collector.run(base, &plans, &adapters)?;
    for ((wanted, absent), seen) in part.iter().zip(found) {
        for (i, &layer) in absent.iter().enumerate() {
            let rows = i * collector.last..(i + 1) * collector.last;
            let one: Shown = seen.iter().map(|(p, v)| (*p, v[rows.clone()].to_vec())).collect();
            store.cache_put(&cache_key(base, wanted, layer), &Collector::to_bytes(&one))?;
        }
    }
    Ok(())
}

/// Estimated FLOPs of collecting what readers of this supervision are trained on: 2 N a token up to the deepest layer read, with
/// and without the diff.
pub(crate) fn collect_flops(s: &Supervision<'_>, collector: &Collector) -> f64 {
    let tokens: usize = collector.prompts.iter().filter_map(|p| s.base.prompt(p).ok()).map(|t| t.len()).sum();
    let deepest = collector.layers.iter().max().copied().unwrap_or_default();
    s.base.architecture.layer_flops(deepest + 1) * (tokens * (s.supervised().len() + 1)) as f64
}
