//! `reader show`.

use std::fmt::Write;

use oracle_posttrain::{ActivationKind, AoConfig, Collector};
use readers::{Budget, Scaling};
use registry::query::RUN;
use registry::{AdapterRecord, Role, Store};
use serde_json::{Value, json};

use super::{collector, find, kind};
use crate::context::Context;
use crate::error::Result;
use crate::output::{count, print, print_json};

pub(super) fn run(context: &Context<'_>, name: &str) -> Result {
    let store = context.existing_store()?;
    let record = find(&store, name)?;
    let looks = collector(&record);
    let training = training(&store, &record)?;
    let runs = runs(&store, &record)?;
    if context.global.json {
        return print_json(
            &json!({"schema": "reader/2", "reader": record, "collector": looks, "training": training, "runs": runs}),
        );
    }
    let mut rows = vec![("reader", record.behaviour.clone()), ("id", record.id.clone())];
    rows.push(("is", what(&record)));
    rows.push(("for", record.peft.base_model.clone()));
    if let Some(c) = &looks {
        rows.push(("reads", reads(c)));
        rows.extend(asked(c));
    }
    if let Some(others) = other_layers(&store, &record, looks.as_ref())? {
        rows.push(("can also read", others));
    }
    if record.role == Role::DitAdapter {
        let scale = record.spec["diff_scale"].as_f64().filter(|s| *s != 1.0);
        let at = scale.map_or_else(String::new, |s| format!(", its difference multiplied by {s}"));
        rows.push(("asked", format!("as the fine-tuned model itself{at}")));
    }
    rows.extend(trained(&store, &record, training.as_ref()).map(|t| ("trained", t)));
    rows.extend(best(&record).map(|b| ("validation", b)));
    if record.tags.contains_key(readers::reader::SMOKE) {
        rows.push(("note", "made by a smoke run: what it says means nothing".into()));
    }
    if let Some(change) = record.metrics.get("logit_change") {
        rows.push(("changes", format!("a logit by up to {change:.3} on one prompt")));
    }
    if !runs.is_empty() {
        rows.push(("used in", runs.join(", ")));
    }
    rows.push(("created", record.created_at.clone()));
    let width = rows.iter().map(|(k, _)| k.len()).max().unwrap_or(0);
    let line = |(k, v): &(&str, String)| format!("{k:width$}  {}", fence::shown(v));
    print(&rows.iter().map(line).collect::<Vec<_>>().join("\n"))
}

/// What it is, in words.
fn what(record: &AdapterRecord) -> String {
    let how = match record.family.as_str() {
        "oracle-pretrained" => ", pretrained without any adapter",
        "oracle-posttrained" => ", pretrained and then trained on adapters",
        "oracle-scratch" | "dit" => ", trained on adapters",
        f if f.ends_with("-imported") => ", made elsewhere",
        f if f.ends_with("-permuted") => ", trained on labels that were dealt out anew (a control)",
        _ => "",
    };
    let modules = record.peft.target_modules.len();
    format!(
        "{} ({}){how}; rank {}, {}",
        kind(record),
        record.family,
        record.peft.r,
        count(modules, "projection")
    )
}

/// Which vectors it is given.
fn reads(c: &Collector) -> String {
    let kind = match c.kind {
        ActivationKind::Diff => "the difference that the adapter makes",
        ActivationKind::Lora => "the adapted model",
        ActivationKind::Orig => "the base model (a control)",
    };
    let end = if c.from_start { "first" } else { "last" };
    let scaled = match c.scaling {
        Scaling::Whitened => "each dimension standardised over the training adapters",
        Scaling::Raw => "divided by their mean size",
        Scaling::Unembed => "divided by their mean size after the final norm's weight",
        Scaling::Unit => "direction only",
    };
    let mut text = format!("{kind} at {} of {}", layers("layer", &c.layers), count(c.asked, "prompt"));
    let _ = write!(text, ", the {end} {}; {scaled}", count(c.last, "position"));
    text
}

/// How its prompt looks.
fn asked(c: &Collector) -> [(&'static str, String); 2] {
    let system = if c.form.no_system { "no system message" } else { "an empty system message" };
    let place = format!(
        "at {:?} tokens, output of layer {}, {} times the residual's norm",
        c.form.placeholder, c.form.layer, c.coefficient
    );
    [("injected", place), ("prompt", format!("{}; {system}", c.form.template.published()))]
}

fn layers(noun: &str, layers: &[usize]) -> String {
    let list: Vec<String> = layers.iter().map(usize::to_string).collect();
    format!("{noun}{} {}", if layers.len() == 1 { "" } else { "s" }, list.join(", "))
}

/// Layers that a published oracle was trained on and does not read here.
fn other_layers(store: &Store, record: &AdapterRecord, looks: Option<&Collector>) -> Result<Option<String>> {
    let (Some(looks), Some(digest)) = (looks, record.extra_files.get(oracle_posttrain::published::AO_CONFIG))
    else {
        return Ok(None);
    };
    let others: Vec<String> = AoConfig::layers_of(&store.get_blob(digest)?)
        .into_iter()
        .filter(|l| *l != looks.layers)
        .map(|l| layers("layer", &l))
        .collect();
    let hint = "(reader add --layers, under another name)";
    Ok((!others.is_empty()).then(|| format!("{} {hint}", others.join(" or "))))
}

/// The training that it carries.
fn training(store: &Store, record: &AdapterRecord) -> Result<Option<Value>> {
    let Some(digest) = record.extra_files.get(readers::reader::TRAINING_FILE) else { return Ok(None) };
    Ok(serde_json::from_slice(&store.get_blob(digest)?).ok())
}

fn trained(store: &Store, record: &AdapterRecord, training: Option<&Value>) -> Option<String> {
    let training = training?;
    let budget: Budget = serde_json::from_value(training["budget"].clone()).ok()?;
    let labels = training["labels"].as_array().map_or(0, Vec::len);
    // An oracle that goes on from another names it among its parents.
    let is_reader = |id: &String| store.adapter(id).is_ok_and(|r| r.role != Role::WeightDiff);
    let adapters = record.parents.iter().filter(|p| !is_reader(p)).count();
    let seconds = record.metrics.get("seconds").copied().unwrap_or_default();
    let mut text = format!("{} (the best at {})", count(budget.steps, "step"), budget.chosen_step);
    if budget.supervision_rows > 0 {
        let _ = write!(text, " on {}", count(budget.supervision_rows, "question"));
    }
    // One from another store does not know its adapters here.
    if budget.supervision_rows > 0 && adapters > 0 {
        let _ = write!(text, " about {}", count(adapters, "adapter"));
    }
    if labels > 0 {
        let _ = write!(text, "; it has seen {}, which cannot test it", count(labels, "label"));
    }
    if seconds > 0.0 {
        let _ = write!(text, "; {seconds:.0} s");
    }
    Some(text)
}

fn best(record: &AdapterRecord) -> Option<String> {
    let top1 = record.metrics.get("validation_top1")?;
    let mrr = record.metrics.get("validation_mrr").map_or_else(String::new, |m| format!(", MRR {m:.2}"));
    Some(format!("top-1 {top1:.2}{mrr}"))
}

/// Runs in which it read.
fn runs(store: &Store, record: &AdapterRecord) -> Result<Vec<String>> {
    let (_, down) = store.lineage(&record.id)?;
    let mut runs: Vec<String> =
        down.iter().filter_map(|e| Some(e.child.strip_prefix(RUN)?.to_owned())).collect();
    runs.sort();
    runs.dedup();
    Ok(runs)
}
