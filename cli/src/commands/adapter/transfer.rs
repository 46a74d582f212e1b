//! `adapter bundle|dataset`, and `import` of a bundle: adapters for elsewhere, and from there as they were.

use std::path::Path;

use exchange::IfExists;
use exchange::bundle::{Bundle, export};
use registry::{AdapterRecord, Filter, Store};
use serde_json::json;

use super::list::check_keys;
use super::sound::looked_at;
use crate::context::Context;
use crate::error::{CommandError, Kind, Result};
use crate::output::{count, print, print_json, print_result};
use crate::progress::beside;

pub(super) fn unbundle(context: &Context<'_>, file: &Path) -> Result {
    // Refused before there is a store.
    let done = beside(context.global.quiet, "checking and taking in", || -> Result<_> {
        Ok(Bundle::read(file, &looked_at)?.take_in(&mut context.store()?)?)
    })?;
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
    beside(context.global.quiet, "writing the bundle", || export(&store, &records, file, if_exists))?;
    context.say(&count(records.len(), "adapter"));
    print_result(context.global.json, "adapter-bundle/1", "file", &file.display().to_string())
}

pub(super) fn dataset(context: &Context<'_>, dir: &Path, conditions: &[String]) -> Result {
    let store = context.existing_store()?;
    let records = chosen(&store, conditions)?;
    let files = beside(context.global.quiet, "writing the data set", || {
        exchange::dataset::export(&store, &records, dir)
    })?;
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
