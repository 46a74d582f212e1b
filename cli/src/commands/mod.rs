//! One file for each noun.

mod adapter;
pub(crate) mod ask;
pub(crate) mod chat;
mod compare;
mod completions;
mod dit;
mod doctor;
pub(crate) mod factory;
mod gates;
pub(crate) mod hub;
mod intervention;
pub(crate) mod names;
mod oracle;
mod quickstart;
pub(crate) mod read;
pub(crate) mod reader;
mod readers;
mod recipe;
mod registry;
mod rows;
mod runs;
pub(crate) mod serve;
mod settings;
mod study;
mod subject;
mod tune;

pub(crate) use adapter::ImportArgs;
pub(crate) use adapter::ListArgs;
pub(crate) use completions::CompletionsArgs;
pub(crate) use factory::GateArgs;
pub(crate) use gates::GatesArgs;
pub(crate) use recipe::NewRecipe;
pub(crate) use rows::RowsArgs;
pub(crate) use runs::ItemsArgs;
pub(crate) use study::StudyCommand;

use crate::args::{Cli, Command};
use crate::context::Context;
use crate::error::Result;

pub(crate) fn dispatch(cli: &Cli) -> Result {
    let context = Context { global: &cli.global };
    context.choose_simd()?;
    match &cli.command {
        Command::Recipe(command) => recipe::run(&context, command),
        Command::Factory(command) => factory::run(&context, command),
        Command::Adapter(command) => adapter::run(&context, command),
        Command::Registry(command) => registry::run(&context, command),
        Command::Hub(command) => hub::run(&context, command),
        Command::Quickstart(args) => quickstart::run(&context, args),
        Command::Chat(args) => chat::run(&context, args),
        Command::Reader(command) => reader::run(&context, command),
        Command::Dit(command) => dit::run(&context, command),
        Command::Oracle(command) => oracle::run(&context, command),
        Command::Intervention(command) => intervention::run(&context, command),
        Command::Compare(command) => compare::run(&context, command),
        Command::Study(command) => study::run(&context, command),
        Command::Ask(args) => ask::run(&context, args),
        Command::Read(args) => read::run(&context, args),
        Command::Serve(args) => serve::run(&context, args),
        Command::Doctor => doctor::run(&context),
        Command::Completions(args) => completions::run(&context, args),
    }
}
