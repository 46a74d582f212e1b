//! `adapter import|bundle`: adapters from elsewhere, and for elsewhere.

use std::collections::BTreeMap;
use std::path::Path;

use exchange::bundle::{Bundle, export};
use exchange::peft::Imported;
use exchange::{IfExists, ImportShape};
use lm::{Adapter, BaseModel, Batch, LowRank, Outline, Projection, Row, Want};
use registry::{AdapterRecord, Filter, NewAdapter, Role, Status, Store};
use serde_json::json;

use super::list::check_keys;
use crate::context::Context;
use crate::error::{CommandError, Kind, Result};
use crate::output::{count, print, print_json, print_result};

/// Norm of a whole difference above which it is taken for damage: a hundred times that of any adapter made here.
const ABSURD_NORM: f64 = 1e5;

pub(super) fn import(context: &Context<'_>, path: &Path, name: Option<&str>) -> Result {
    if !path.exists() {
        return Err(CommandError::new(Kind::Usage, format!("{} does not exist", path.display())));
    }
    if path.extension().is_some_and(|e| e == "pt") {
        return import_pickled(context, path, name);
    }
    if path.is_file() {
        return unbundle(context, path);
    }
    let base = context.base()?;
    let imported = exchange::peft::import(path, &shape(&base))?;
    let label = name.map_or_else(
        || path.file_name().map_or_else(|| "imported".into(), |n| n.to_string_lossy().into_owned()),
        str::to_owned,
    );
    let effect = effect(&base, &imported)
        .map_err(|what| CommandError::new(Kind::Usage, format!("{}: {what}", path.display())))?;
    // What it was called where it comes from, so that it can be found again.
    let mut tags = BTreeMap::from([("source".to_owned(), imported.source.to_string())]);
    tags.extend(imported.base.clone().map(|b| ("source_base".to_owned(), b)));
    tags.extend(imported.revision.clone().map(|r| ("source_revision".to_owned(), r)));
    let named = imported.base.as_deref().filter(|b| !base.is_called(b));
    let dated = imported.revision.as_deref().filter(|r| !base.is_at(r));
    let warning = (named.is_some() || dated.is_some()).then(|| {
        let at = imported.revision.as_ref().map_or_else(String::new, |r| format!(" at {r:?}"));
        let own = base.revision.as_ref().map_or_else(String::new, |r| format!(" at {r:?}"));
        format!(
            "{} says that it is for {:?}{at}; it is filed as one for {}{own}. If that is another model, what it does here means nothing.",
            path.display(),
            imported.base.as_deref().unwrap_or("a model"),
            base.name
        )
    });
    if let Some(warning) = &warning {
        context.say(&format!("warning: {warning}"));
    }
    let new = new_adapter(&base, imported, &label, effect, tags)?;
    let record = context.store()?.commit_adapter(new)?;
    context.say(&format!("largest change of a logit on one prompt: {effect:.3}"));
    if context.global.json {
        return print_json(&json!({"schema": "adapter-import/1", "id": record.id, "warning": warning}));
    }
    print(&record.id)
}

/// An imported adapter on its way into the catalogue.
fn new_adapter(
    base: &BaseModel,
    imported: Imported,
    label: &str,
    effect: f64,
    tags: BTreeMap<String, String>,
) -> Result<NewAdapter> {
    if label.is_empty() || label.len() > 100 || label.chars().any(char::is_control) {
        return Err(
            CommandError::new(Kind::Usage, format!("{label:?} is not a usable name")).hint("pass --name")
        );
    }
    let spec = json!({"schema": "import/1", "name": label, "base": base.digest(), "weights": registry::Digest::of(&imported.weights).as_str()});
    Ok(NewAdapter {
        spec_hash: registry::spec_hash(&spec),
        spec,
        role: Role::WeightDiff,
        behaviour: format!("imported/{label}"),
        family: "imported".into(),
        value: label.into(),
        category: "imported".into(),
        split: None,
        status: Status::Untested,
        tags,
        metrics: BTreeMap::from([("logit_change".to_owned(), effect)]),
        peft: imported.peft,
        weights: imported.weights,
        parents: Vec::new(),
        lineage: BTreeMap::from([("base".to_owned(), base.digest())]),
        extra_files: BTreeMap::new(),
    })
}

/// Diffs or a DIT adapter as Diff Interpretation Tuning published them. All are checked before the first is filed.
fn import_pickled(context: &Context<'_>, path: &Path, name: Option<&str>) -> Result {
    let stem = path.file_stem().map_or_else(|| "pickled".into(), |s| s.to_string_lossy().into_owned());
    let name = name.unwrap_or(&stem);
    crate::trial::tried(crate::trial::What::Pickle, path, None)?;
    let diffs = lm::pickled::read(path)?;
    let base = context.base()?;
    let shape = shape(&base);
    let source = registry::Digest::of(&fence::read(path, u64::MAX)?).to_string();
    let mut new = Vec::new();
    for (i, diff) in diffs.iter().enumerate() {
        let wrong =
            |what: String| CommandError::new(Kind::Usage, format!("{}: element {i}: {what}", path.display()));
        let (config, weights) = as_peft(diff, &shape).map_err(wrong)?;
        let imported = exchange::peft::read(path, config.to_string().as_bytes(), path, &weights, &shape)?;
        let effect = effect(&base, &imported).map_err(wrong)?;
        let mut tags = BTreeMap::from([("source".to_owned(), source.clone())]);
        tags.extend(diff.topic.clone().map(|t| ("topic".to_owned(), t)));
        tags.extend(diff.trigger.clone().map(|t| ("trigger".to_owned(), t)));
        if let Some(bad) = tags.values().find(|t| t.len() > 1000 || t.chars().any(char::is_control)) {
            return Err(wrong(format!(
                "holds an unusable text: {:?}",
                bad.chars().take(40).collect::<String>()
            )));
        }
        let label = if diffs.len() == 1 { name.to_owned() } else { format!("{name}-{i:03}") };
        new.push(new_adapter(&base, imported, &label, effect, tags)?);
    }
    let mut store = context.store()?;
    let ids = new.into_iter().map(|n| Ok(store.commit_adapter(n)?.id)).collect::<Result<Vec<String>>>()?;
    if context.global.json {
        return print_json(&json!({"schema": "adapter-import/2", "ids": ids}));
    }
    print(&ids.join("\n"))
}

/// The two factors of every module as PEFT names and turns them; scaling is 1 / rank. Diffs hold `A [r, out], B [in, r]`, DIT
/// adapters `A [out, r], B [r, in]`: the base model's shapes say which.
pub(in crate::commands) fn as_peft(
    diff: &lm::pickled::PickledDiff,
    shape: &ImportShape,
) -> std::result::Result<(serde_json::Value, Vec<u8>), String> {
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)> = BTreeMap::new();
    let (mut ranks, mut largest) = (serde_json::Map::new(), 1);
    for (module, [a, b]) in &diff.modules {
        let projection = module.rsplit('.').next().unwrap_or_default();
        let Some(&(input, output)) = shape.projections.get(projection) else {
            return Err(format!("module {module:?} is none of the model's projections"));
        };
        let turned = |m: &lm::pickled::Matrix| -> Vec<f32> {
            (0..m.columns).flat_map(|c| (0..m.rows).map(move |r| m.data[r * m.columns + c])).collect()
        };
        let (r, down, up) = if a.columns == output && b.rows == input && a.rows == b.columns {
            (a.rows, turned(b), turned(a))
        } else if a.rows == output && b.columns == input && a.columns == b.rows {
            (a.columns, b.data.clone(), a.data.clone())
        } else {
            return Err(format!(
                "module {module:?}: factors [{}, {}] and [{}, {}] do not make a difference of [{output}, {input}]",
                a.rows, a.columns, b.rows, b.columns
            ));
        };
        largest = largest.max(r);
        ranks.insert(module.replace('.', r"\."), r.into());
        tensors.insert(format!("{module}.lora_A.weight"), (vec![r, input], down));
        tensors.insert(format!("{module}.lora_B.weight"), (vec![output, r], up));
    }
    let targets: Vec<&String> = diff.modules.keys().collect();
    let config = json!({"peft_type": "LORA", "r": largest, "lora_alpha": 1, "target_modules": targets, "rank_pattern": ranks});
    Ok((config, lm::geometry::to_safetensors(&tensors).map_err(|e| e.to_string())?))
}

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
fn weigh(weights: &[u8], scale: f32) -> std::result::Result<f64, String> {
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

fn unbundle(context: &Context<'_>, file: &Path) -> Result {
    // Refused before there is a store.
    let done = Bundle::read(file, &looked_at)?.take_in(&mut context.store()?)?;
    if context.global.json {
        return print_json(
            &json!({"schema": "adapter-unbundle/1", "added": done.added, "known": done.known}),
        );
    }
    print(&format!("{} added, {} known", count(done.added.len(), "adapter"), done.known.len()))
}

pub(super) fn bundle(context: &Context<'_>, file: &Path, conditions: &[String], force: bool) -> Result {
    let store = context.existing_store()?;
    let records = chosen(&store, conditions)?;
    let if_exists = if force { IfExists::Replace } else { IfExists::Fail };
    export(&store, &records, file, if_exists)?;
    context.say(&count(records.len(), "adapter"));
    print_result(context.global.json, "adapter-bundle/1", "file", &file.display().to_string())
}

pub(super) fn dataset(context: &Context<'_>, dir: &Path, conditions: &[String]) -> Result {
    let store = context.existing_store()?;
    let records = chosen(&store, conditions)?;
    let files = exchange::dataset::export(&store, &records, dir)?;
    context.say(&format!("{} in {}", count(records.len(), "adapter"), count(files, "file")));
    if files > exchange::dataset::HUB_FILES {
        context.say("warning: that is more files than a repository on the Hub should hold; export it in parts with --where");
    }
    print_result(context.global.json, "adapter-dataset/1", "folder", &dir.display().to_string())
}

/// The adapters that pass the conditions; none is an error.
pub(crate) fn chosen(store: &Store, conditions: &[String]) -> Result<Vec<AdapterRecord>> {
    let mut filter = Filter::all();
    for condition in conditions {
        filter = filter.and(condition)?;
    }
    check_keys(store, &filter, std::iter::empty(), None)?;
    let records = store.adapters(&filter)?;
    if records.is_empty() {
        return Err(CommandError::new(Kind::NotFound, "no adapter passes the conditions")
            .hint("see which do with: lorafab adapter list --where ..."));
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both orientations give the differences that their authors' code applies: `(B A)^T / r` and `A B / r`.
    #[test]
    fn published_files_become_peft_adapters_of_the_same_difference() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lm/tests/golden/pickled");
        let shape = ImportShape {
            base_model: "m".into(),
            revision: None,
            layers: 1,
            projections: BTreeMap::from([("q_proj".to_owned(), (4, 3))]),
        };
        let module = "model.layers.0.self_attn.q_proj";
        for (file, diffs) in [("weight-diff-000.pt", true), ("dit-adapter.pt", false)] {
            for diff in lm::pickled::read(&golden.join(file)).unwrap() {
                let [a, b] = &diff.modules[module];
                let r = if diffs { a.rows } else { a.columns };
                let expected = |o: usize, i: usize| -> f64 {
                    let term = |k: usize| {
                        let (x, y) = if diffs {
                            (b.data[i * b.columns + k], a.data[k * a.columns + o])
                        } else {
                            (a.data[o * a.columns + k], b.data[k * b.columns + i])
                        };
                        f64::from(x) * f64::from(y)
                    };
                    (0..r).map(term).sum::<f64>() / r as f64
                };
                let (config, weights) = as_peft(&diff, &shape).unwrap();
                let path = Path::new("x");
                let imported =
                    exchange::peft::read(path, config.to_string().as_bytes(), path, &weights, &shape)
                        .unwrap();
                assert_eq!(imported.peft.r, r);
                let norm = weigh(&imported.weights, imported.peft.lora_alpha / r as f32).unwrap();
                let squares: f64 = (0..3).flat_map(|o| (0..4).map(move |i| expected(o, i).powi(2))).sum();
                assert!((norm - squares.sqrt()).abs() < 1e-5, "{norm} {}", squares.sqrt());
                // Entry by entry, through the inner product with single entries.
                let own = LowRank::from_safetensors(&imported.weights, imported.peft.lora_alpha / r as f32)
                    .unwrap();
                for (o, i) in (0..3).flat_map(|o| (0..4).map(move |i| (o, i))) {
                    let one = |n: usize, at: usize| (0..n).map(|j| if j == at { 1.0 } else { 0.0 }).collect();
                    let probe = BTreeMap::from([
                        (format!("base_model.model.{module}.lora_A.weight"), (vec![1, 4], one(4, i))),
                        (format!("base_model.model.{module}.lora_B.weight"), (vec![3, 1], one(3, o))),
                    ]);
                    let probe =
                        LowRank::from_safetensors(&lm::geometry::to_safetensors(&probe).unwrap(), 1.0)
                            .unwrap();
                    assert!((own.dot(&probe) - expected(o, i)).abs() < 1e-5, "{file} {o} {i}");
                }
            }
        }
        let other = ImportShape { projections: BTreeMap::from([("q_proj".to_owned(), (5, 3))]), ..shape };
        let diff = &lm::pickled::read(&golden.join("dit-adapter.pt")).unwrap()[0];
        assert!(as_peft(diff, &other).unwrap_err().contains("do not make a difference of [3, 5]"));
    }
}
