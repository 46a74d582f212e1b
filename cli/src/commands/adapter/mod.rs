//! `adapter list|show|diff|similar|lineage|tag|alias|rm|restore|export|compose|import|verify`.

mod compose;
mod export;
mod geometry;
mod import;
mod list;
mod manage;
mod pickled;
mod show;
mod sound;
mod transfer;
mod whole;

pub(crate) use import::ImportArgs;
pub(crate) use list::ListArgs;
pub(super) use pickled::as_peft;
pub(super) use sound::{effect, looked_at, shape};
pub(super) use transfer::chosen;

use registry::Filter;
use serde_json::json;

use crate::args::AdapterCommand;
use crate::context::Context;
use crate::error::{CommandError, Kind, Result};
use crate::output::{count, print, print_json};
use crate::progress::Bar;

pub(crate) fn run(context: &Context<'_>, command: &AdapterCommand) -> Result {
    match command {
        AdapterCommand::List(args) => list::run(context, args),
        AdapterCommand::Show { adapter } => show::run(context, adapter),
        AdapterCommand::Diff { a, b } => geometry::diff(context, a, b),
        AdapterCommand::Similar { adapter, conditions, limit } => {
            geometry::similar(context, adapter, conditions, *limit)
        }
        AdapterCommand::Lineage { adapter } => manage::lineage(context, adapter),
        AdapterCommand::Tag { adapter, tags } => manage::tag(context, adapter, tags),
        AdapterCommand::Alias { name, adapter, remove } => {
            manage::alias(context, name.as_deref(), adapter.as_deref(), *remove)
        }
        AdapterCommand::Rm { adapters, dry_run } => manage::rm(context, adapters, *dry_run),
        AdapterCommand::Restore { adapter } => manage::restore(context, adapter),
        AdapterCommand::Export { adapter, dir, merged: true, dtype, .. } => {
            export::merged(context, adapter, dir, dtype)
        }
        AdapterCommand::Export { adapter, dir, force, .. } => export::peft(context, adapter, dir, *force),
        AdapterCommand::Bundle { file, conditions, force } => {
            transfer::bundle(context, file, conditions, *force)
        }
        AdapterCommand::Dataset { dir, conditions } => transfer::dataset(context, dir, conditions),
        AdapterCommand::Compose { first, second, name } => {
            compose::run(context, [first, second], name.as_deref())
        }
        AdapterCommand::Import(args) => import::run(context, args),
        AdapterCommand::Verify { adapter } => {
            let store = context.existing_store()?;
            let filter = match adapter {
                Some(id) => Filter::all().equals("id", &store.adapter(id)?.id),
                None => Filter::all(),
            };
            let mut bar = Bar::new(context.global.quiet, "hashing adapters");
            let outcomes = store.verify(&filter, &mut |done, all| bar.show(done, all))?;
            drop(bar);
            let bad: Vec<_> = outcomes.iter().filter(|o| o.problem.is_some()).collect();
            if context.global.json {
                print_json(&json!({"schema": "adapter-verify/1", "outcomes": outcomes}))?;
            } else {
                print(&format!("{} checked, {} damaged", count(outcomes.len(), "adapter"), bad.len()))?;
            }
            match bad.first() {
                None => Ok(()),
                Some(first) => Err(CommandError::new(
                    Kind::Negative,
                    format!("{}: {}", first.behaviour, first.problem.as_deref().unwrap_or_default()),
                )),
            }
        }
    }
}
