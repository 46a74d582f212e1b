//! The `lorafab` binary: the only place that prints, reads the environment, or knows exit codes.

mod args;
mod commands;
mod context;
mod error;
mod hint;
mod memory;
mod output;
mod places;
mod progress;
mod trial;

use clap::Parser;

fn main() -> std::process::ExitCode {
    if let Some(code) = trial::child(std::env::args_os()) {
        return code;
    }
    let cli = match args::Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) if e.use_stderr() && std::env::args().any(|a| a == "--json") => {
            let text = e.to_string();
            let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
            return error::report(&error::CommandError::new(error::Kind::Usage, message), None);
        }
        // What was typed is in it.
        Err(e) if e.use_stderr() => {
            output::tell(e.to_string().trim_end());
            return std::process::ExitCode::from(2);
        }
        Err(e) => e.exit(),
    };
    match commands::dispatch(&cli) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => error::report(&error, Some(&cli.global)),
    }
}
