//! The `lorafab` binary: the only place that prints, reads the environment, or knows exit codes.

mod args;
mod commands;
mod context;
mod error;
mod output;

use clap::Parser;

fn main() -> std::process::ExitCode {
    let cli = args::Cli::parse();
    let json = cli.global.json;
    match commands::dispatch(&cli) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => error::report(&error, json),
    }
}
