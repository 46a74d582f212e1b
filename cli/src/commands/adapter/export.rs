//! `adapter export`: one adapter for other programs.

use std::collections::BTreeMap;
use std::path::Path;

use exchange::IfExists;
use lm::{Adapter, Checkpoint, ExportDtype, SHARD_BYTES};
use serde_json::json;

use crate::context::Context;
use crate::error::{CommandError, Kind, Result};
use crate::output::{print, print_json, print_result};
use crate::progress::beside;

pub(super) fn peft(context: &Context<'_>, adapter: &str, dir: &Path, force: bool) -> Result {
    let store = context.existing_store()?;
    let record = store.adapter(adapter)?;
    exchange::peft::export(&store, &record, dir, if force { IfExists::Replace } else { IfExists::Fail })?;
    let base = &record.peft.base_model;
    if Path::new(base).is_absolute() {
        context.say(&format!(
            "note: its base is {base}, which only this machine has{}; for others put the model's name on the Hub into adapter_config.json",
            if Path::new(base).is_file() { ", and which PEFT cannot load by itself (a GGUF file)" } else { "" }
        ));
    }
    print_result(context.global.json, "adapter-export/1", "folder", &dir.display().to_string())
}

pub(super) fn merged(context: &Context<'_>, adapter: &str, dir: &Path, dtype: &str) -> Result {
    let store = context.existing_store()?;
    let record = store.adapter(adapter)?;
    // Said before a model is loaded.
    if dir.exists() {
        return Err(CommandError::new(Kind::Usage, format!("{} already exists", dir.display()))
            .hint("name another folder: a merged model replaces none"));
    }
    let source = context.model_path()?;
    // The plain weights alone: nothing is packed for work.
    context.check_memory(&source, lm::Outline::exporting_bytes)?;
    context.say(&format!("loading {}", source.display()));
    let loaded = Checkpoint::load_with(&source, context.template()?.as_deref())?;
    if record.lineage.get("base").is_none_or(|b| loaded.precision_of(b).is_none()) {
        return Err(CommandError::new(
            Kind::Usage,
            format!("{} was made for another base model", record.behaviour),
        )
        .hint("pass the --model that it was made with"));
    }
    let config = factory::load::adapter_config(&record.peft)?;
    let own = Adapter::from_safetensors(&loaded.checkpoint.architecture, config, &store.weights(&record)?)?;
    let dtype = if dtype == "f32" { ExportDtype::F32 } else { ExportDtype::Bf16 };
    let base = context.model_name(&source);
    let card = json!({"schema": "merged/1", "adapter": record, "torch_dtype": dtype.torch_name(),
        "base": {"name": base.name, "revision": base.revision, "weights_blake3": loaded.checkpoint.digest}});
    let readme = exchange::peft::merged_card(&record, &base.name);
    let extra = [("lorafab.json", format!("{card:#}\n")), (exchange::peft::CARD, readme)];
    let extra = BTreeMap::from(extra.map(|(name, text)| (name.to_owned(), text.into_bytes())));
    let done = beside(context.global.quiet, "writing the merged model", || {
        lm::export(&source, &loaded, &[&own], dtype, SHARD_BYTES, &extra, dir)
    })?;
    let types: Vec<&str> = done.dequantised_from.iter().map(String::as_str).collect();
    if !types.is_empty() {
        context.say(&format!(
            "warning: {} holds {} weights, which were dequantised: this is not the model as its makers published it",
            loaded.name,
            types.join(" and ")
        ));
    }
    context.say("prompt it as it was trained: its own chat template, with an empty system message");
    if context.global.json {
        return print_json(
            &json!({"schema": "adapter-merged/1", "folder": dir.display().to_string(), "torch_dtype": dtype.torch_name(),
            "weights_blake3": done.digest, "dequantised_from": types}),
        );
    }
    print(&dir.display().to_string())
}
