//! `reader add|list|show|export`: DIT adapters and activation oracles, trained here or by others.

mod add;
mod export;
mod list;
mod published;
mod show;

use std::path::PathBuf;

use clap::Subcommand;
use oracle_posttrain::Collector;
use registry::{AdapterRecord, Role, Store};

pub(super) use published::{Published, ReaderKind, Ways, label_of};

use crate::context::Context;
use crate::error::{CommandError, Kind, Result};

#[derive(Debug, Subcommand)]
pub(crate) enum ReaderCommand {
    /// Take in a reader that was trained elsewhere, checked: an oracle with its ao_config.json, or a DIT adapter
    Add(add::AddArgs),
    /// List the readers of the store
    #[command(visible_alias = "ls")]
    List,
    /// Say what a reader is, how it looks and how it was trained
    Show {
        /// Id, alias or name
        reader: String,
    },
    /// Write a reader as a PEFT folder, with its ao_config.json or dit_config.json
    Export {
        /// Id, alias or name
        reader: String,
        /// Folder to write
        dir: PathBuf,
        /// Replace the folder if it exists and holds an adapter
        #[arg(long)]
        force: bool,
    },
    /// Readers are removed as adapters are
    #[command(hide = true)]
    Rm {
        /// Names
        readers: Vec<String>,
    },
}

pub(crate) fn run(context: &Context<'_>, command: &ReaderCommand) -> Result {
    match command {
        ReaderCommand::Add(args) => add::run(context, args),
        ReaderCommand::List => list::run(context),
        ReaderCommand::Show { reader } => show::run(context, reader),
        ReaderCommand::Export { reader, dir, force } => export::run(context, reader, dir, *force),
        ReaderCommand::Rm { readers } => Err(CommandError::new(
            Kind::Usage,
            "a reader is removed as an adapter is, and comes back from the trash as one",
        )
        .hint(format!("lorafab adapter rm {}", readers.join(" ")))),
    }
}

/// The reader of that name.
fn find(store: &Store, name: &str) -> Result<AdapterRecord> {
    let record = store
        .adapter(name)
        .map_err(|e| CommandError::from(e).hint("list readers with: lorafab reader list"))?;
    if record.role == Role::WeightDiff {
        return Err(CommandError::new(Kind::Usage, format!("{} is no reader", record.behaviour))
            .hint("list readers with: lorafab reader list"));
    }
    Ok(record)
}

/// How a reader's role is called.
fn kind(record: &AdapterRecord) -> &'static str {
    match record.role {
        Role::DitAdapter => "DIT adapter",
        Role::Oracle => "oracle",
        Role::WeightDiff => "adapter",
    }
}

/// How an oracle looks, if its record says.
fn collector(record: &AdapterRecord) -> Option<Collector> {
    serde_json::from_value(record.spec["collector"].clone()).ok()
}
