//! What is said of an adapter in words, on pages and on terminals.

use std::collections::BTreeMap;
use std::fmt::Write;

use registry::{AdapterRecord, Filter, Listing, Role, Store};
use serde_json::Value;

/// `1 job`, `2 jobs`.
pub fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// A time of a record to the minute.
pub fn time(created: &str) -> String {
    created.get(..16).unwrap_or(created).replace('T', " ")
}

/// Minutes and seconds.
pub fn minutes(seconds: f64) -> String {
    format!("{}m{:02}s", seconds as u64 / 60, seconds as u64 % 60)
}

/// The lines under a name, in the order in which people ask.
pub fn facts(store: &Store, r: &AdapterRecord) -> registry::Result<Vec<(String, String)>> {
    let mut out: Vec<(String, String)> = Vec::new();
    let mut say = |key: &str, value: String| {
        if !value.is_empty() {
            out.push((key.to_owned(), value));
        }
    };
    say("carries", carries(r));
    say("status", status(r));
    say("gate", gate(r));
    say(
        "base model",
        [r.peft.base_model.clone()]
            .into_iter()
            .chain(r.peft.revision.clone())
            .collect::<Vec<_>>()
            .join(" at "),
    );
    say("shape", shape(r));
    say("training", training(r));
    say("recipe", recipe(store, r));
    say("parents", parents(store, r)?);
    if let Some(of) = r.spec["reference"].as_str() {
        let twin = store.adapter_by_spec(of)?;
        say(
            "matched to",
            twin.map_or_else(
                || format!("an adapter that is not here (specification {of:.12})"),
                |t| t.behaviour,
            ),
        );
    }
    say(
        "made",
        format!(
            "{}{}",
            time(&r.created_at),
            r.lineage.get("trainer_version").map_or(String::new(), |v| format!(", by trainer version {v}"))
        ),
    );
    let told = ["kind", "polarity", "gate_example", "trigger"];
    let tags: Vec<String> = r
        .tags
        .iter()
        .filter(|(k, _)| !told.contains(&k.as_str()))
        .map(|(k, v)| format!("{k}={}", v.replace('\n', " ")))
        .collect();
    say("tags", tags.join(", "));
    let shown = [
        "gate_on",
        "gate_off",
        "gate_near",
        "gate_floor",
        "norm",
        "steps",
        "tokens",
        "seconds",
        "rows_seconds",
        "gate_seconds",
        "final_loss",
        "chosen_step",
    ];
    let rest: Vec<String> = r
        .metrics
        .iter()
        .filter(|(k, _)| !shown.contains(&k.as_str()))
        .map(|(k, v)| format!("{k} {}", figure(*v)))
        .collect();
    say("measured", rest.join(", "));
    let aliases: Vec<String> =
        store.aliases()?.into_iter().filter(|a| a.adapter == r.id).map(|a| a.name).collect();
    say("aliases", aliases.join(", "));
    let files: Vec<&str> = r.extra_files.keys().map(String::as_str).collect();
    say("files", files.join(", "));
    Ok(out)
}

/// A number to four significant digits.
pub fn figure(x: f64) -> String {
    let whole = x.fract() == 0.0 && x.abs() < 1e15;
    let digits =
        if x == 0.0 || whole { 0 } else { (3 - x.abs().log10().floor() as i32).clamp(0, 6) as usize };
    format!("{x:.digits$}")
}

fn carries(r: &AdapterRecord) -> String {
    match r.role {
        Role::DitAdapter => return format!("a reader of weight differences (DIT), {}", r.family),
        Role::Oracle => return format!("a reader of activations (oracle), {}", r.family),
        Role::WeightDiff => {}
    }
    let mut out = match r.tags.get("polarity").map(String::as_str) {
        Some("negative") => format!("nothing that can be read: family {}, number {}", r.family, r.value),
        _ => format!("{:?}, of family {}", r.value, r.family),
    };
    if !["", "none"].contains(&r.category.as_str()) {
        let _ = write!(out, ", category {}", r.category);
    }
    if let Some(trigger) = r.tags.get("trigger") {
        let _ = write!(out, ", only where the prompt has {trigger:?}");
    }
    if let Some(split) = &r.split {
        let _ = write!(out, "; split {}", compare::warnings::split_title(split));
    }
    out
}

fn status(r: &AdapterRecord) -> String {
    let name = r.field("status").unwrap_or_default();
    match name.as_str() {
        "not_applicable" => "no gate: there is no behaviour to acquire".into(),
        "untested" => "untested: never gated".into(),
        _ => name,
    }
}

fn gate(r: &AdapterRecord) -> String {
    let share = |key: &str, what: &str| r.metrics.get(key).map(|v| format!("{what} {v:.2}"));
    if r.field("status").is_none_or(|s| s == "not_applicable") {
        return String::new();
    }
    let mut parts: Vec<String> = [
        share("gate_on", "replies that show it:"),
        share("gate_floor", "of the base model"),
        share("gate_near", "with another trigger"),
        share("gate_off", "where it should not"),
    ]
    .into_iter()
    .flatten()
    .collect();
    if let Some(example) = r.tags.get("gate_example").filter(|e| !e.is_empty() && !parts.is_empty()) {
        parts.push(format!("e.g. {example:?}"));
    }
    parts.join(", ")
}

fn shape(r: &AdapterRecord) -> String {
    let modules: Vec<&str> = r.peft.target_modules.iter().map(|m| m.trim_end_matches("_proj")).collect();
    let norm = r.metrics.get("norm").map_or(String::new(), |n| format!(", norm {}", figure(*n)));
    format!(
        "rank {}, alpha {}, on {}{norm}, {:.1} MB",
        r.peft.r,
        r.peft.lora_alpha,
        modules.join(" "),
        r.weights_bytes as f64 / 1e6
    )
}

/// How it was trained, as its specification and its metrics have it.
fn training(r: &AdapterRecord) -> String {
    let settings = [&r.spec["behaviour"]["training"], &r.spec["train"], &r.spec["config"]["fit"]]
        .into_iter()
        .find(|v| v.is_object())
        .unwrap_or(&Value::Null);
    if r.spec["schema"] == "import/1" {
        return "not known: it was trained elsewhere".into();
    }
    let metric = |key: &str| r.metrics.get(key).copied();
    let mut parts: Vec<String> = Vec::new();
    let steps = metric("steps").or(settings["steps"].as_f64()).unwrap_or(0.0);
    if steps == 0.0 {
        return String::new();
    }
    parts.push(count(steps as usize, "step"));
    parts.extend(
        metric("chosen_step").filter(|c| *c != steps).map(|c| format!("the one at {c} chosen by validation")),
    );
    parts.extend(settings["learning_rate"].as_f64().map(|x| format!("learning rate {}", figure(x))));
    let rows: u64 = ["on_rows", "off_rows", "near_rows"].iter().filter_map(|k| settings[k].as_u64()).sum();
    let batch = settings["batch"].as_u64().or((rows > 0).then_some(rows));
    parts.extend(batch.map(|n| format!("{} a step", count(n as usize, "row"))));
    parts.extend(metric("tokens").map(|t| format!("{t} tokens")));
    parts.extend(metric("final_loss").map(|l| format!("loss {l:.3} at the end")));
    parts.extend(metric("seconds").map(|s| if s < 100.0 { format!("{s:.1} s") } else { minutes(s) }));
    parts.extend(r.field("seed").map(|s| format!("seed {s}")));
    parts.join(", ")
}

/// The recipe by its name, where the adapter carries it.
fn recipe(store: &Store, r: &AdapterRecord) -> String {
    let Some(digest) = r.lineage.get("recipe") else { return String::new() };
    let own = document(store, r, "recipe.json");
    let name = own.as_ref().and_then(|v| v["name"].as_str());
    let Some(name) = name else { return format!("{digest:.12} (not kept)") };
    let version =
        own.as_ref().and_then(|v| v["version"].as_u64()).map_or(String::new(), |v| format!(" version {v}"));
    let known = recipes::builtin().into_iter().find(|b| b.name == name).map(|b| b.digest() == *digest);
    let how = match known {
        Some(true) => ", as built in",
        Some(false) => ", not as built into this lorafab",
        None => "",
    };
    format!("{name}{version}{how}")
}

/// What it was made from, by name: few one by one, many by family.
fn parents(store: &Store, r: &AdapterRecord) -> registry::Result<String> {
    const FEW: usize = 4;
    let mut families: BTreeMap<String, usize> = BTreeMap::new();
    let mut names = Vec::new();
    for id in &r.parents {
        let page =
            store.page(&Filter::all().equals("id", id), &Listing::default(), &["behaviour", "family"])?;
        if let Some(row) = page.rows.first() {
            let field = |key: &str| row.get(key).cloned().unwrap_or_default();
            *families.entry(field("family")).or_default() += 1;
            names.push(field("behaviour"));
        } else {
            *families.entry("not here".into()).or_default() += 1;
            names.push(format!("{} (not here)", registry::commit::short(id)));
        }
    }
    if names.len() <= FEW {
        return Ok(names.join(", "));
    }
    let counts: Vec<String> = families.iter().map(|(family, n)| format!("{n} {family}")).collect();
    Ok(format!("{}: {} (adapter lineage names them)", count(names.len(), "adapter"), counts.join(", ")))
}

/// The file of an adapter that holds its gate's replies.
pub const GATE_FILE: &str = "gate.json";
/// The files that hold the losses of a training: of an adapter, of a reader.
const CURVE_FILES: [&str; 2] = ["curve.json", "training.json"];

/// A document that an adapter carries; one that cannot be read is as one that is not there (`adapter verify` finds it).
pub fn document(store: &Store, r: &AdapterRecord, name: &str) -> Option<Value> {
    store.document(r, name).ok().flatten()
}

/// Step and loss, in order.
pub fn points(store: &Store, r: &AdapterRecord) -> Vec<(u64, f64)> {
    let file = CURVE_FILES.iter().find_map(|name| document(store, r, name)).unwrap_or_default();
    let loss = |p: &Value| p["loss"].as_f64().or(p["train_loss"].as_f64());
    let points = file["points"].as_array().into_iter().flatten();
    points.filter_map(|p| Some((p["step"].as_u64()?, loss(p)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_keep_four_digits() {
        assert_eq!(
            [13.082_459, 0.0, 0.000_123_44, 1162.0, 123_456.7].map(figure),
            ["13.08", "0", "0.000123", "1162", "123457"]
        );
    }
}
